//! Work that costs much memory and time, in turns: so many pieces run at once, each on a thread of its own,
//! so many wait, and for more there is no room. Nothing here knows which runtime awaits it.

use std::collections::VecDeque;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// Why a piece of work was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotDone {
    /// As many wait as may.
    Full,
    /// It panicked, or the system gives no thread.
    Broken,
}

/// Cheap to clone: all clones are one.
#[derive(Clone)]
pub(crate) struct Turns {
    queue: Arc<Mutex<Queue>>,
    at_once: usize,
    waiting_max: usize,
}

#[derive(Default)]
struct Queue {
    running: usize,
    waiting: VecDeque<(u64, Work)>,
    next: u64,
}

type Work = Box<dyn FnOnce() + Send>;

/// A piece of work that runs or waits. Dropped, it waits no more; what runs already runs to its end, and
/// keeps its place until then.
struct Turn<T> {
    turns: Turns,
    number: u64,
    done: Arc<Mutex<Done<T>>>,
}

struct Done<T> {
    answer: Option<Result<T, NotDone>>,
    waker: Option<Waker>,
}

impl Turns {
    pub(crate) fn new(at_once: usize, waiting_max: usize) -> Self {
        Self { queue: Arc::default(), at_once: at_once.max(1), waiting_max }
    }

    /// Does a piece of work when its turn comes.
    pub(crate) async fn take<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NotDone> {
        let done = Arc::new(Mutex::new(Done { answer: None, waker: None }));
        let answers = Arc::clone(&done);
        let work: Work = Box::new(move || {
            let answer = catch_unwind(AssertUnwindSafe(work)).map_err(|_| NotDone::Broken);
            let waker = {
                let mut done = locked(&answers);
                done.answer = Some(answer);
                done.waker.take()
            };
            if let Some(waker) = waker {
                waker.wake();
            }
        });
        let number = self.begin(work)?;
        Turn { turns: self.clone(), number, done }.await
    }

    /// Starts it or lets it wait; answers its number.
    fn begin(&self, work: Work) -> Result<u64, NotDone> {
        let number = {
            let mut queue = locked(&self.queue);
            let number = queue.next;
            if queue.running >= self.at_once {
                if queue.waiting.len() >= self.waiting_max {
                    return Err(NotDone::Full);
                }
                queue.next += 1;
                queue.waiting.push_back((number, work));
                return Ok(number);
            }
            queue.next += 1;
            queue.running += 1;
            number
        };
        let turns = self.clone();
        let thread = std::thread::Builder::new().name("password".to_owned());
        if thread.spawn(move || turns.work_on(work)).is_err() {
            locked(&self.queue).running -= 1;
            return Err(NotDone::Broken);
        }
        Ok(number)
    }

    /// One piece, then those that wait, until none does.
    fn work_on(&self, mut work: Work) {
        loop {
            work();
            let mut queue = locked(&self.queue);
            match queue.waiting.pop_front() {
                Some((_, next)) => work = next,
                None => {
                    queue.running -= 1;
                    return;
                }
            }
        }
    }

    #[cfg(test)]
    fn counts(&self) -> (usize, usize) {
        let queue = locked(&self.queue);
        (queue.running, queue.waiting.len())
    }
}

impl<T> Future for Turn<T> {
    type Output = Result<T, NotDone>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut done = locked(&self.done);
        match done.answer.take() {
            Some(answer) => Poll::Ready(answer),
            None => {
                done.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl<T> Drop for Turn<T> {
    fn drop(&mut self) {
        let number = self.number;
        let left = {
            let mut queue = locked(&self.turns.queue);
            let at = queue.waiting.iter().position(|(waiting, _)| *waiting == number);
            at.and_then(|at| queue.waiting.remove(at))
        };
        // Outside of the lock: it holds what its caller gave it.
        drop(left);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn so_many_run_so_many_wait_and_for_more_there_is_no_room() {
        let turns = Turns::new(2, 3);
        let (open, gate) = mpsc::channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let start = || {
            let (turns, gate) = (turns.clone(), Arc::clone(&gate));
            let (running, most) = (Arc::clone(&running), Arc::clone(&most));
            tokio::spawn(async move {
                let work = move || {
                    most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    gate.lock().expect("not poisoned").recv().expect("opened");
                    running.fetch_sub(1, Ordering::SeqCst);
                };
                turns.take(work).await
            })
        };
        let admitted: Vec<_> = (0..5).map(|_| start()).collect();
        while turns.counts() != (2, 3) {
            tokio::task::yield_now().await;
        }
        for _ in 0..10 {
            assert_eq!(turns.take(|| ()).await, Err(NotDone::Full));
        }
        for _ in 0..5 {
            open.send(()).expect("somebody waits");
        }
        for work in admitted {
            work.await.expect("no panic").expect("its turn came");
        }
        assert!(most.load(Ordering::SeqCst) <= 2, "never more at once");
        assert_eq!(turns.take(|| 7).await, Ok(7), "and there is room again");
        while turns.counts() != (0, 0) {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn who_goes_away_waits_no_more_and_what_runs_keeps_its_place_until_it_is_done() {
        let turns = Turns::new(1, 1);
        let (open, gate) = mpsc::channel::<()>();
        let (began, beginning) = tokio::sync::oneshot::channel();
        let first = turns.clone();
        let first = tokio::spawn(async move {
            let work = move || {
                began.send(()).expect("awaited");
                gate.recv().expect("opened");
            };
            first.take(work).await
        });
        beginning.await.expect("it runs");
        first.abort();
        assert!(first.await.is_err());
        let second = turns.clone();
        let second = tokio::spawn(async move { second.take(|| ()).await });
        while turns.counts() != (1, 1) {
            tokio::task::yield_now().await;
        }
        assert_eq!(turns.take(|| ()).await, Err(NotDone::Full), "the first still has its memory");
        second.abort();
        assert!(second.await.is_err());
        assert_eq!(turns.counts(), (1, 0), "the seat is free");
        open.send(()).expect("it still works");
        assert_eq!(turns.take(|| 7).await, Ok(7));
    }

    #[tokio::test]
    async fn a_panic_is_told_and_takes_no_place() {
        let turns = Turns::new(1, 1);
        for _ in 0..3 {
            assert_eq!(turns.take(|| panic!("on purpose")).await, Err::<(), _>(NotDone::Broken));
        }
        assert_eq!(turns.take(|| 7).await, Ok(7));
    }
}
