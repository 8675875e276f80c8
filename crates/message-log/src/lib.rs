//! The broker's storage on one machine: append-only segments, one fsync for a group, checkpoints of what stands.
//!
//! ```text
//! shards --batches--> writer: one group, one fsync --committed--> shards
//!                       `--groups--> keeper: what stands; checkpoints, retention, space
//! shards --fetch--> readers: messages back from the segments --fetched--> shards
//! ```
//!
//! All are threads, three of them readers, and one more watches the writer. Whoever submits or fetches waits for none of them. While nothing is written the next batch
//! is flushed at once; while an fsync runs, batches gather and become the next group.
//!
//! | room | what is in it |
//! |---|---|
//! | `frame` | the bytes of a segment |
//! | `writer` | groups, commits, what happens when a write fails |
//! | `mirror` | what stands, and where each message is |
//! | `keeper` | checkpoints, retention, copying forward |
//! | `checkpoint` | the bytes of a checkpoint |
//! | `recovery` | opening |
//! | `reader` | messages back |
//! | `health` | what hinders the log, who is told, threads that panic or hang |
//! | `disk` | the few calls that all this needs, on a real disk and on one with faults |

mod checkpoint;
mod config;
mod disk;
mod error;
mod frame;
mod health;
mod keeper;
mod mirror;
mod reader;
mod recovery;
mod stats;
mod writer;

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use drawbridge_broker::Message;
use drawbridge_broker::storage::{
    Batch, Image, MessageId, Record, SessionId, Storage, StorageListener, TimeBase,
};

pub use config::LogConfig;
pub use disk::{Disk, DiskFile, Fault, FaultyDisk, RealDisk};
pub use error::LogError;
use health::{Health, Step};
use keeper::{Backlog, Keeper};
use reader::{READERS, Reader, Request, Requests};
use recovery::Recovery;
pub use stats::{LogStats, SYNC_BOUNDS_US};
use writer::{Group, Waiting, Writer};

/// The monotonic clock.
pub type Clock = Arc<dyn Fn() -> Instant + Send + Sync>;

/// The storage of a broker. Dropped or closed, it stores what waits and ends its threads.
pub struct MessageLog {
    shared: Arc<Shared>,
    threads: Mutex<Option<Threads>>,
}

/// A log that was opened and does not work yet.
pub struct Opened {
    /// What stands.
    pub image: Image,
    /// The retained messages.
    pub retained: Vec<(MessageId, Arc<Message>)>,
    /// To be started.
    pub log: Recovered,
}

/// The log itself, before it knows whom to tell.
pub struct Recovered {
    shared: Arc<Shared>,
    recovery: Recovery,
}

struct Threads {
    writer: JoinHandle<()>,
    keeper: JoinHandle<()>,
    readers: Vec<JoinHandle<()>>,
    watch: JoinHandle<()>,
}

/// What the threads have in common.
struct Shared {
    disk: Arc<dyn Disk>,
    config: LogConfig,
    time: TimeBase,
    clock: Clock,
    counters: stats::Counters,
    waiting: Gate<Waiting>,
    backlog: Gate<Backlog>,
    requests: Gate<Requests>,
    /// Whether there is nothing to be watched any more.
    watched: Gate<bool>,
    /// Messages that were submitted and have no place yet.
    recent: Locked<HashMap<MessageId, Arc<Message>>>,
}

impl MessageLog {
    /// Reads what is on the disk: the last checkpoint and what came after. Blocks for as long as that takes.
    ///
    /// # Errors
    /// [`LogError`]; nothing was changed then.
    pub fn open(
        disk: Arc<dyn Disk>,
        config: LogConfig,
        time: TimeBase,
        clock: Clock,
    ) -> Result<Opened, LogError> {
        config.check()?;
        let mut recovery = recovery::recover(&*disk, time, salt())?;
        let retained = std::mem::take(&mut recovery.retained);
        let image = recovery.mirror.image.clone();
        let shared = Shared {
            disk,
            config,
            time,
            clock,
            counters: stats::Counters::default(),
            waiting: Gate::default(),
            backlog: Gate::default(),
            requests: Gate::default(),
            watched: Gate::default(),
            recent: Locked::default(),
        };
        Ok(Opened { image, retained, log: Recovered { shared: Arc::new(shared), recovery } })
    }

    /// Counters, for metrics.
    #[must_use]
    pub fn stats(&self) -> LogStats {
        self.shared.counters.read()
    }

    /// Stores what waits, if the disk lets it, writes down what stands, and ends the threads. What is submitted
    /// afterwards is never stored.
    pub fn close(&self) {
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(threads) = threads else { return };
        self.shared.waiting.lock().closing = true;
        self.shared.waiting.wake_all();
        // A thread that panicked has said so; the others end all the same.
        let _ = threads.writer.join();
        self.shared.backlog.lock().closing = true;
        self.shared.backlog.wake_all();
        let _ = threads.keeper.join();
        self.shared.requests.lock().closing = true;
        self.shared.requests.wake_all();
        for reader in threads.readers {
            let _ = reader.join();
        }
        *self.shared.watched.lock() = true;
        self.shared.watched.wake_all();
        let _ = threads.watch.join();
    }
}

impl Recovered {
    /// Starts the threads. The listener hears of all that is submitted from now on.
    ///
    /// `broken` is called, once, when one of the threads has panicked: a fault of ours. The log says so (DB-5016), is
    /// stalled for ever and stores nothing more; what was acknowledged stands, and whoever opens it next finds it. Whoever
    /// started it should end the process: `broken` is called on a thread of the log, must not block, and must not
    /// call [`MessageLog::close`].
    ///
    /// # Errors
    /// [`LogError::Unreadable`] when there can be no more threads.
    pub fn start(
        self,
        listener: Arc<dyn StorageListener>,
        broken: impl FnOnce() + Send + 'static,
    ) -> Result<MessageLog, LogError> {
        let Self { shared, recovery } = self;
        let next = recovery.mirror.next;
        let health = Arc::new(Health::new(Arc::clone(&shared), Arc::clone(&listener), Box::new(broken)));
        let mut readers = Vec::with_capacity(READERS.len());
        for name in READERS {
            let places = recovery.mirror.places.clone();
            let reader = Reader::new(Arc::clone(&shared), places, Arc::clone(&listener));
            readers.push(spawn(name, &health, move || reader.run())?);
        }
        let writer = Writer::new(Arc::clone(&shared), Arc::clone(&health), listener, next);
        let keeper = Keeper::new(Arc::clone(&shared), Arc::clone(&health), recovery);
        let watch = Arc::clone(&health);
        let threads = Threads {
            writer: spawn("messages-writer", &health, move || writer.run())?,
            keeper: spawn("messages-keeper", &health, move || keeper.run())?,
            readers,
            watch: spawn("messages-watch", &health, move || watch.watch())?,
        };
        Ok(MessageLog { shared, threads: Mutex::new(Some(threads)) })
    }
}

fn spawn(
    name: &'static str,
    health: &Arc<Health>,
    run: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, LogError> {
    let health = Arc::clone(health);
    let thread = std::thread::Builder::new().name(name.to_owned());
    thread.spawn(move || health.guard(name, run)).map_err(|source| LogError::Unreadable {
        file: format!("the thread {name}"),
        action: "started",
        source,
    })
}

impl Storage for MessageLog {
    fn submit(&self, shard: usize, batch: Batch) {
        let messages = batch.records.iter().filter_map(|record| match record {
            Record::Message { id, message, .. } => Some((*id, Arc::clone(message))),
            _ => None,
        });
        self.shared.recent.lock().extend(messages);
        let wake = self.shared.waiting.lock().push(shard, batch, || (self.shared.clock)());
        self.shared.counters.waiting.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if wake {
            self.shared.waiting.wake_all();
        }
    }

    fn fetch(&self, shard: usize, session: SessionId, messages: Vec<MessageId>) {
        self.shared.requests.lock().asked.push_back(Request { shard, session, messages });
        self.shared.requests.wake_one();
    }
}

impl Drop for MessageLog {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    /// So that everybody sees that the log is broken.
    fn wake_all(&self) {
        // Whoever has looked and does not wait yet holds the lock: it must not miss the bell.
        drop(self.waiting.lock());
        self.waiting.wake_all();
        drop(self.backlog.lock());
        self.backlog.wake_all();
        drop(self.watched.lock());
        self.watched.wake_all();
    }

    fn keeper_wakes_at(&self) -> u64 {
        keeper::WAKE_BYTES.min(self.config.checkpoint_bytes / 4).min(self.config.backlog_bytes_max)
    }

    /// Waits while the keeper is too far behind; `health` says so if that takes too long.
    fn to_keeper(&self, group: Group, health: &Health) {
        let mut backlog = self.backlog.lock();
        if backlog.bytes > self.config.backlog_bytes_max {
            health.begin(Step::Keeper);
            while backlog.bytes > self.config.backlog_bytes_max && !backlog.closing && !health.is_broken() {
                backlog = self.backlog.wait(backlog, None);
            }
            health.end();
        }
        backlog.bytes += group.bytes;
        backlog.moved |= !group.moved.is_empty();
        backlog.groups.push_back(group);
        let wake = backlog.bytes >= self.keeper_wakes_at() || backlog.moved;
        drop(backlog);
        if wake {
            self.backlog.wake_all();
        }
    }
}

/// A lock whose holder cannot leave it half done: all are held for a few statements that do not panic.
#[derive(Default)]
struct Locked<T>(Mutex<T>);

impl<T> Locked<T> {
    fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A lock, and a bell for those who wait for a change behind it.
#[derive(Default)]
struct Gate<T> {
    inside: Mutex<T>,
    bell: Condvar,
}

impl<T> Gate<T> {
    fn lock(&self) -> MutexGuard<'_, T> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until it is woken, by chance too, or for as long.
    fn wait<'a>(&self, held: MutexGuard<'a, T>, for_long: Option<Duration>) -> MutexGuard<'a, T> {
        match for_long {
            Some(long) => self.bell.wait_timeout(held, long).unwrap_or_else(PoisonError::into_inner).0,
            None => self.bell.wait(held).unwrap_or_else(PoisonError::into_inner),
        }
    }

    fn wake_all(&self) {
        self.bell.notify_all();
    }

    /// Where whoever waits does the same, and looks after a piece of work whether there is more.
    fn wake_one(&self) {
        self.bell.notify_one();
    }
}

/// What no sender of messages can guess; see `frame`. No secret: it only has to be unknown before it is written.
fn salt() -> u64 {
    RandomState::new().build_hasher().finish()
}
