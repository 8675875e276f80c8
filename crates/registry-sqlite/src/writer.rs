//! The one thread that writes: it commits the changes that wait together, then answers them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use drawbridge_registry::StoreError;
use rusqlite::Connection;
use tokio::sync::oneshot;

use crate::fault::{Fault, stopped};
use crate::file::checkpoint;
use crate::queue::{Queue, Serving};
use crate::{jti, tokens};

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
    /// `jti` and tokens kept in this group.
    pub(crate) kept: u64,
    /// The latest time that a caller gave with one.
    pub(crate) now_s: u64,
}

/// What is over and taken away with a commit, of each sort: twice as much as was kept, so that it never
/// piles up, and at least so much.
pub(crate) const SWEEP_MIN: u64 = 16;

impl Turn<'_> {
    /// Notes that something with an end was kept at this time.
    pub(crate) fn count_kept(&mut self, now_s: u64) {
        self.kept += 1;
        self.now_s = self.now_s.max(now_s);
    }

    /// How many rows of one sort may be swept: few enough that no commit is long.
    pub(crate) fn sweep_max(&self) -> u64 {
        2 * self.kept + SWEEP_MIN
    }
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
    let mut turn = Turn { conn, kept: 0, now_s: 0 };
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
    if turn.kept > 0 {
        jti::sweep(&turn)?;
        tokens::sweep(&turn)?;
    }
    execute(conn, "COMMIT")?;
    Ok(())
}

fn execute(conn: &Connection, sql: &str) -> rusqlite::Result<()> {
    conn.prepare_cached(sql)?.execute([]).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::open_writer;

    /// Runs changes as one group and answers what each caller got.
    fn answers(conn: &Connection, statements: &[&str]) -> Vec<Result<(), StoreError>> {
        let mut group: Vec<Box<dyn Change>> = Vec::new();
        let mut callers = Vec::new();
        for sql in statements {
            let sql = (*sql).to_owned();
            let (reply, answer) = oneshot::channel();
            let work = move |turn: &mut Turn<'_>| -> Result<(), Fault> { Ok(turn.conn.execute_batch(&sql)?) };
            group.push(Box::new(Call { work: Some(work), outcome: None, reply }));
            callers.push(answer);
        }
        let committed = commit_group(conn, &mut group);
        group.into_iter().for_each(|change| change.answer(&committed));
        callers.into_iter().map(|mut answer| answer.try_recv().expect("everyone is answered")).collect()
    }

    fn registries(conn: &Connection) -> i64 {
        conn.query_row("SELECT COUNT(*) FROM registry", [], |row| row.get(0)).expect("a count")
    }

    const SMALL: &str = "INSERT INTO registry VALUES (hex(randomblob(8)), '', '', 0, 0, NULL, NULL, '{}', 0)";
    const HUGE: &str =
        "INSERT INTO registry VALUES ('huge', hex(zeroblob(9000000)), '', 0, 0, NULL, NULL, '{}', 0)";
    const WRONG: &str = "INSERT INTO registry VALUES ('half', '', '', 0, 0, NULL, NULL, '{}', 0);
                         INSERT INTO registry VALUES ('half', '', '', 0, 0, NULL, NULL, '{}', 0)";

    #[test]
    fn a_change_that_fails_is_taken_back_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let conn = open_writer(&folder.path().join("registry.db")).expect("the file opens");
        let got = answers(&conn, &[SMALL, WRONG, SMALL]);
        assert!(matches!(got[..], [Ok(()), Err(StoreError::Corrupt(_)), Ok(())]), "{got:?}");
        assert_eq!(registries(&conn), 2, "the first half of the wrong one is gone, too");
    }

    #[test]
    fn a_full_disk_is_told_to_all_and_nothing_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let conn = open_writer(&folder.path().join("registry.db")).expect("the file opens");
        answers(&conn, &[SMALL]).into_iter().for_each(|answer| answer.expect("there is room"));
        conn.query_row("PRAGMA max_page_count = 100", [], |_| Ok(())).expect("a small disk");
        let got = answers(&conn, &[SMALL, HUGE, SMALL]);
        for (at, answer) in got.iter().enumerate() {
            let unavailable = matches!(answer, Err(StoreError::Unavailable(_)));
            // SQLite may take back one statement or the whole transaction; in both cases nobody whose
            // change is not there is told that it is.
            assert!(unavailable || (at != 1 && answer.is_ok()), "{at}: {answer:?}");
        }
        let told = got.iter().filter(|answer| answer.is_ok()).count();
        assert_eq!(registries(&conn), 1 + i64::try_from(told).expect("small"));
        conn.query_row("PRAGMA max_page_count = 1000000", [], |_| Ok(())).expect("a large disk");
        answers(&conn, &[SMALL]).into_iter().for_each(|answer| answer.expect("there is room again"));
    }

    #[test]
    fn when_the_commit_cannot_begin_all_are_told_and_the_next_one_works() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("registry.db");
        let conn = open_writer(&path).expect("the file opens");
        conn.busy_timeout(std::time::Duration::ZERO).expect("set");
        let other = Connection::open(&path).expect("a second connection");
        other.execute_batch("BEGIN IMMEDIATE").expect("the file is free");
        let got = answers(&conn, &[SMALL, SMALL]);
        assert!(got.iter().all(|answer| matches!(answer, Err(StoreError::Unavailable(_)))), "{got:?}");
        other.execute_batch("ROLLBACK").expect("the file is let go");
        answers(&conn, &[SMALL]).into_iter().for_each(|answer| answer.expect("the file is free"));
        assert_eq!(registries(&conn), 1);
    }

    #[test]
    fn when_the_transaction_is_gone_in_the_middle_all_are_told_and_nothing_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let conn = open_writer(&folder.path().join("registry.db")).expect("the file opens");
        // As SQLite does by itself after some errors of the disk.
        let gone = "ROLLBACK; SELECT no_such_function()";
        let got = answers(&conn, &[SMALL, gone, SMALL]);
        assert!(got.iter().all(Result::is_err), "{got:?}");
        assert!(matches!(got[0], Err(StoreError::Unavailable(_))), "{got:?}");
        assert_eq!(registries(&conn), 0);
        answers(&conn, &[SMALL]).into_iter().for_each(|answer| answer.expect("it goes on"));
    }
}
