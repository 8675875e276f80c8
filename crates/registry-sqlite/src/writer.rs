//! The one thread that writes: it commits the changes that wait together, then answers them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use drawbridge_registry::StoreError;
use rusqlite::Connection;
use tokio::sync::oneshot;

use crate::fault::{Fault, stopped};
use crate::file::checkpoint;
use crate::jti;
use crate::queue::{Queue, Serving};

/// Callers that may wait for the writer; more wait for room.
const WAITING_MAX: usize = 1024;

/// Changes in one commit: few enough that the first of them does not wait long for the last.
const GROUP_MAX: usize = 256;

/// What the writer has done since the store was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counters {
    /// Changes asked for, refused ones included.
    pub changes: u64,
    /// Commits they were grouped into.
    pub commits: u64,
}

/// What a group's changes work on.
pub(crate) struct Turn<'c> {
    pub(crate) conn: &'c Connection,
    /// `jti` remembered in this group.
    pub(crate) marks: u64,
    /// The latest time that a caller gave with one.
    pub(crate) now_s: u64,
}

/// The writer's end that callers hold.
pub(crate) struct Writer {
    queue: Queue<Box<dyn Change>>,
    changes: AtomicU64,
    commits: AtomicU64,
}

impl Writer {
    pub(crate) fn new() -> Arc<Self> {
        let queue = Queue::new(WAITING_MAX);
        Arc::new(Self { queue, changes: AtomicU64::new(0), commits: AtomicU64::new(0) })
    }

    /// Has the work done and committed.
    pub(crate) async fn change<T, W>(&self, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FnOnce(&mut Turn<'_>) -> Result<T, Fault> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        self.queue.push(Box::new(Call { work: Some(work), outcome: None, reply })).await?;
        answer.await.map_err(|_| stopped())?
    }

    pub(crate) fn counters(&self) -> Counters {
        Counters {
            changes: self.changes.load(Ordering::Relaxed),
            commits: self.commits.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn close(&self) {
        self.queue.close();
    }

    /// Serves the queue until it is closed and empty.
    pub(crate) fn run(&self, conn: &Connection) {
        let serving = Serving(&self.queue);
        let mut group: Vec<Box<dyn Change>> = Vec::new();
        while serving.0.take(GROUP_MAX, &mut group) {
            self.changes.fetch_add(group.len() as u64, Ordering::Relaxed);
            let committed = commit_group(conn, &mut group);
            match &committed {
                Ok(()) => {
                    self.commits.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => {
                    tracing::error!(%error, changes = group.len(), "a commit of the registry failed")
                }
            }
            for change in group.drain(..) {
                change.answer(&committed);
            }
        }
        checkpoint(conn);
    }
}

/// A caller's work, with its outcome between the moment it ran and the moment it is on disk.
trait Change: Send {
    /// `false`: nothing of it may stay.
    fn run(&mut self, turn: &mut Turn<'_>) -> bool;
    fn answer(self: Box<Self>, committed: &Result<(), StoreError>);
}

struct Call<W, T> {
    work: Option<W>,
    outcome: Option<Result<T, Fault>>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<W, T> Change for Call<W, T>
where
    T: Send,
    W: FnOnce(&mut Turn<'_>) -> Result<T, Fault> + Send,
{
    fn run(&mut self, turn: &mut Turn<'_>) -> bool {
        let work = self.work.take().expect("a change is run once");
        self.outcome.insert(work(turn)).is_ok()
    }

    fn answer(self: Box<Self>, committed: &Result<(), StoreError>) {
        let answer = match (self.outcome, committed) {
            (Some(Err(fault)), _) => Err(fault.into()),
            (_, Err(error)) => Err(error.clone()),
            (Some(Ok(answer)), Ok(())) => Ok(answer),
            (None, Ok(())) => unreachable!("a group is committed after all its changes ran"),
        };
        // A caller that went away has left it open what it wanted.
        drop(self.reply.send(answer));
    }
}

/// One transaction for all. A change that fails is taken back alone; if the transaction itself fails,
/// nothing of any change has happened.
fn commit_group(conn: &Connection, group: &mut [Box<dyn Change>]) -> Result<(), StoreError> {
    run_group(conn, group).map_err(|fault| {
        if !conn.is_autocommit()
            && let Err(error) = execute(conn, "ROLLBACK")
        {
            tracing::error!(%error, "a failed commit of the registry could not be taken back");
        }
        fault.into()
    })
}

fn run_group(conn: &Connection, group: &mut [Box<dyn Change>]) -> Result<(), Fault> {
    execute(conn, "BEGIN IMMEDIATE")?;
    let mut turn = Turn { conn, marks: 0, now_s: 0 };
    for change in group {
        execute(conn, "SAVEPOINT change")?;
        if !change.run(&mut turn) {
            // A full disk and the like make SQLite take back the whole transaction at once.
            if conn.is_autocommit() {
                let why = "another change of the same commit met an error of the disk";
                return Err(StoreError::Unavailable(why.into()).into());
            }
            execute(conn, "ROLLBACK TO change")?;
        }
        execute(conn, "RELEASE change")?;
    }
    if turn.marks > 0 {
        jti::sweep(&turn)?;
    }
    execute(conn, "COMMIT")?;
    Ok(())
}

fn execute(conn: &Connection, sql: &str) -> rusqlite::Result<()> {
    conn.prepare_cached(sql)?.execute([]).map(drop)
}
