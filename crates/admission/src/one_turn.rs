//! A lock that is held while something is awaited. Nothing here knows which runtime awaits it.

use std::future::poll_fn;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

/// One has the turn, the others wait.
#[derive(Default)]
pub(crate) struct OneTurn(Mutex<State>);

#[derive(Default)]
struct State {
    taken: bool,
    waiting: Vec<Waker>,
}

/// Gives the turn back when dropped.
pub(crate) struct Turn<'a>(&'a OneTurn);

impl OneTurn {
    /// The turn, unless somebody has it.
    pub(crate) fn take(&self) -> Option<Turn<'_>> {
        let mut state = self.state();
        // Lazily: one made and dropped here would give back the turn of another.
        (!std::mem::replace(&mut state.taken, true)).then(|| Turn(self))
    }

    /// The turn, once it is free.
    pub(crate) async fn wait(&self) -> Turn<'_> {
        poll_fn(|context| {
            let mut state = self.state();
            if !std::mem::replace(&mut state.taken, true) {
                return Poll::Ready(Turn(self));
            }
            if !state.waiting.iter().any(|waker| waker.will_wake(context.waker())) {
                state.waiting.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await
    }

    // No code that could panic runs under this lock, so a poisoned one is whole.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.taken = false;
        // All: one that was given up meanwhile would not pass it on.
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn one_at_a_time_has_the_turn_and_everybody_gets_it() {
        let turn = Arc::new(OneTurn::default());
        let (inside, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let tasks: Vec<_> = (0..50)
            .map(|_| {
                let (turn, inside, done) = (Arc::clone(&turn), Arc::clone(&inside), Arc::clone(&done));
                tokio::spawn(async move {
                    let _turn = turn.wait().await;
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                    tokio::task::yield_now().await;
                    inside.fetch_sub(1, Ordering::SeqCst);
                    done.fetch_add(1, Ordering::SeqCst);
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("no panic");
        }
        assert_eq!(done.load(Ordering::SeqCst), 50);
        let held = turn.take().expect("free");
        assert!(turn.take().is_none());
        drop(held);
        assert!(turn.take().is_some());
    }

    #[tokio::test]
    async fn one_that_gave_up_waiting_keeps_nobody_from_the_turn() {
        let turn = OneTurn::default();
        let held = turn.take().expect("free");
        {
            let mut waiting = std::pin::pin!(turn.wait());
            assert!(futures_poll(waiting.as_mut()).is_none());
        }
        drop(held);
        drop(turn.wait().await);
    }

    fn futures_poll<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
        match future.poll(&mut std::task::Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        }
    }
}
