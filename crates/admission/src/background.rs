//! Long work on a thread of its own, so that nobody beside it waits; without a runtime.

use std::future::{Future, poll_fn};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

struct Place<T> {
    value: Option<T>,
    is_over: bool,
    waiting: Option<Waker>,
}

fn lock<T>(place: &Mutex<Place<T>>) -> MutexGuard<'_, Place<T>> {
    place.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Wakes whoever waits, also when the work has panicked.
struct Worker<T>(Arc<Mutex<Place<T>>>);

impl<T> Drop for Worker<T> {
    fn drop(&mut self) {
        let waiting = {
            let mut place = lock(&self.0);
            place.is_over = true;
            place.waiting.take()
        };
        if let Some(waker) = waiting {
            waker.wake();
        }
    }
}

/// Begins the work now. `None`: there was no thread for it, or it panicked.
pub(crate) fn run<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = Option<T>> + Send {
    let place = Arc::new(Mutex::new(Place { value: None, is_over: false, waiting: None }));
    let worker = Worker(Arc::clone(&place));
    // Where no thread can be made the worker is dropped with the closure, which tells it.
    let _ = std::thread::Builder::new().name("background".to_owned()).spawn(move || {
        let value = work();
        lock(&worker.0).value = Some(value);
    });
    poll_fn(move |context| {
        let mut place = lock(&place);
        if place.is_over {
            return Poll::Ready(place.value.take());
        }
        place.waiting = Some(context.waker().clone());
        Poll::Pending
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_answer_comes_whether_it_is_waited_for_before_or_after_and_a_panic_is_none() {
        let (begin, begun) = std::sync::mpsc::channel::<()>();
        let slow = run(move || begun.recv().map(|()| 7));
        let quick = run(|| 5);
        let (slow, quick) = tokio::join!(slow, async {
            let quick = quick.await;
            begin.send(()).expect("it waits");
            quick
        });
        assert_eq!((slow, quick), (Some(Ok(7)), Some(5)));
        let panicked: Option<()> = run(|| panic!("on purpose")).await;
        assert_eq!(panicked, None);
    }
}
