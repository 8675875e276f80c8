//! Threads that read, each with a connection of its own that cannot write.
//!
//! A read does not run on the caller's thread: a page that is not in memory would stop a whole
//! executor for the time of a disk access.

use drawbridge_registry::StoreError;
use rusqlite::Connection;
use tokio::sync::oneshot;

use crate::fault::{Fault, stopped};
use crate::queue::{Queue, Serving};

/// Callers that may wait for a lane; more wait for room.
const WAITING_MAX: usize = 1024;

/// One or more threads that serve one queue of reads.
pub(crate) struct Lane {
    queue: Queue<Box<dyn FnOnce(&Connection) + Send>>,
}

impl Lane {
    pub(crate) fn new() -> Self {
        Self { queue: Queue::new(WAITING_MAX) }
    }

    /// Has the question answered. Each statement sees one state of the store; work that needs several
    /// statements to agree must ask them as one.
    pub(crate) async fn read<T, W>(&self, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job = move |conn: &Connection| {
            // A caller that went away needs no answer.
            drop(reply.send(work(conn).map_err(StoreError::from)));
        };
        self.queue.push(Box::new(job)).await?;
        answer.await.map_err(|_| stopped())?
    }

    pub(crate) fn close(&self) {
        self.queue.close();
    }

    /// Serves the queue until it is closed and empty.
    pub(crate) fn run(&self, conn: &Connection) {
        let serving = Serving(&self.queue);
        let mut next: Vec<Box<dyn FnOnce(&Connection) + Send>> = Vec::new();
        while serving.0.take(1, &mut next) {
            for job in next.drain(..) {
                job(conn);
            }
        }
    }
}
