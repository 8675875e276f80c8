//! A bounded queue from async callers to threads. Whoever comes when it is full waits; closing it
//! wakes everyone, and what is in it by then is still done.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use drawbridge_registry::StoreError;
use tokio::sync::Semaphore;

use crate::fault::stopped;

pub(crate) struct Queue<J> {
    waiting: Mutex<Waiting<J>>,
    arrived: Condvar,
    room: Semaphore,
}

struct Waiting<J> {
    jobs: VecDeque<J>,
    closed: bool,
}

impl<J> Queue<J> {
    pub(crate) fn new(jobs_max: usize) -> Self {
        Self {
            waiting: Mutex::new(Waiting { jobs: VecDeque::new(), closed: false }),
            arrived: Condvar::new(),
            room: Semaphore::new(jobs_max),
        }
    }

    /// Hands a job to the threads, once there is room.
    pub(crate) async fn push(&self, job: J) -> Result<(), StoreError> {
        let room = self.room.acquire().await.map_err(|_| stopped())?;
        let mut waiting = self.lock();
        if waiting.closed {
            return Err(stopped());
        }
        room.forget(); // `take` gives it back
        waiting.jobs.push_back(job);
        drop(waiting);
        self.arrived.notify_one();
        Ok(())
    }

    /// Waits for jobs and moves up to `jobs_max` of them to `batch`. `false`: closed, and all done.
    pub(crate) fn take(&self, jobs_max: usize, batch: &mut Vec<J>) -> bool {
        let mut waiting = self.lock();
        while waiting.jobs.is_empty() {
            if waiting.closed {
                return false;
            }
            waiting = self.arrived.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        let taken = waiting.jobs.len().min(jobs_max);
        batch.extend(waiting.jobs.drain(..taken));
        drop(waiting);
        self.room.add_permits(taken);
        true
    }

    /// Takes no more jobs.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.room.close();
        self.arrived.notify_all();
    }

    // No code that could panic runs under this lock, so a poisoned one is whole.
    fn lock(&self) -> MutexGuard<'_, Waiting<J>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Held by a thread that serves a queue. Should the thread panic, nobody waits for it in vain: the
/// queue closes, and dropping the jobs in it tells their callers.
pub(crate) struct Serving<'q, J>(pub(crate) &'q Queue<J>);

impl<J> Drop for Serving<'_, J> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.close();
            let jobs = std::mem::take(&mut self.0.lock().jobs);
            drop(jobs);
        }
    }
}
