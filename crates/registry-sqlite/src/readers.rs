//! Reads: lookups on the caller's thread, lists on a thread of their own. Both have connections that
//! cannot write, and see what was committed when they begin.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use drawbridge_registry::StoreError;
use rusqlite::Connection;
use tokio::sync::oneshot;

use crate::fault::{Fault, stopped};
use crate::file::open_reader;
use crate::queue::{Queue, Serving};

/// Callers that may look something up at the same moment; one more waits for the 10 us of another.
const LOOKUPS_MAX: usize = 4;

/// Callers that may wait for the lists' thread; more wait for room.
const WAITING_MAX: usize = 1024;

/// Connections for what a login needs: single records, found by an index.
///
/// A lookup runs where it is called. It takes about 10 us; to hand it to another thread and be woken
/// again takes ten times as long (measured in `benches/store.rs`). It never waits for a writer (WAL)
/// nor for a list, only for a page that is not in memory.
pub(crate) struct Lookups {
    /// `None` once closed.
    connections: Vec<Mutex<Option<Connection>>>,
    next: AtomicUsize,
}

impl Lookups {
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let open = |_| open_reader(path).map(|conn| Mutex::new(Some(conn)));
        let connections = (0..LOOKUPS_MAX).map(open).collect::<Result<_, _>>()?;
        Ok(Self { connections, next: AtomicUsize::new(0) })
    }

    /// Answers a question. Each statement sees one state of the store; a question for which several
    /// statements must agree has to be one statement.
    pub(crate) fn read<T>(
        &self,
        question: impl FnOnce(&Connection) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        let guard = self.free_one();
        let conn = guard.as_ref().ok_or_else(stopped)?;
        question(conn).map_err(StoreError::from)
    }

    fn free_one(&self) -> MutexGuard<'_, Option<Connection>> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.connections.len();
        let (before, from) = self.connections.split_at(turn);
        let free = from.iter().chain(before).find_map(|connection| connection.try_lock().ok());
        // A reader that panicked has changed nothing: its connection is as good as before.
        free.unwrap_or_else(|| self.connections[turn].lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn close(&self) {
        for connection in &self.connections {
            connection.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
    }
}

type Question = Box<dyn FnOnce(&Connection) + Send>;

/// The queue of the thread that answers what may take long: pages and the audit.
pub(crate) struct Lists {
    queue: Queue<Question>,
}

impl Lists {
    pub(crate) fn new() -> Self {
        Self { queue: Queue::new(WAITING_MAX) }
    }

    /// Has a question answered. Each statement sees one state of the store.
    pub(crate) async fn read<T, Q>(&self, question: Q) -> Result<T, StoreError>
    where
        T: Send + 'static,
        Q: FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let question = move |conn: &Connection| {
            // A caller that went away needs no answer.
            drop(reply.send(question(conn).map_err(StoreError::from)));
        };
        self.queue.push(Box::new(question)).await?;
        answer.await.map_err(|_| stopped())?
    }

    pub(crate) fn close(&self) {
        self.queue.close();
    }

    /// Serves the queue until it is closed and empty.
    pub(crate) fn run(&self, conn: &Connection) {
        let serving = Serving(&self.queue);
        let mut next: Vec<Question> = Vec::new();
        while serving.0.take(1, &mut next) {
            for question in next.drain(..) {
                question(conn);
            }
        }
    }
}
