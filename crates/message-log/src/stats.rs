//! What the log counts.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Upper bounds of the classes of [`LogStats::syncs`], in microseconds; the last class has none.
pub const SYNC_BOUNDS_US: [u64; 11] =
    [250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000];

/// Counters since the log was opened, and what stands now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Groups that were made durable.
    pub groups: u64,
    /// Batches in them.
    pub batches: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes written in groups.
    pub written_bytes: u64,
    /// How many groups took how long to be written and synced: one class for each bound of [`SYNC_BOUNDS_US`] and
    /// one for all above.
    pub syncs: [u64; SYNC_BOUNDS_US.len() + 1],
    /// The time that took, summed up, in microseconds.
    pub sync_us: u64,
    /// The longest, in microseconds.
    pub sync_us_max: u64,
    /// Writes that failed.
    pub failed_writes: u64,
    /// Whether nothing can be stored now.
    pub stalled: bool,
    /// Batches that wait to be stored.
    pub waiting: u64,
    /// Bytes of the segments.
    pub segment_bytes: u64,
    /// How many segments there are.
    pub segments: u64,
    /// Bytes of messages that somebody needs.
    pub live_bytes: u64,
    /// Messages that somebody needs.
    pub messages: u64,
    /// Stored sessions.
    pub sessions: u64,
    /// Checkpoints that were written.
    pub checkpoints: u64,
    /// Bytes of the last one.
    pub checkpoint_bytes: u64,
    /// Messages that were copied forward.
    pub moved: u64,
    /// Messages that were dropped because of their age.
    pub dropped_age: u64,
    /// Messages that were dropped because there were too many bytes, of whoever was owed most.
    pub dropped_bytes: u64,
    /// Messages that were read back.
    pub fetched: u64,
    /// Messages that were damaged when they were read back.
    pub damaged: u64,
}

/// The same, counted by several threads.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) groups: AtomicU64,
    pub(crate) batches: AtomicU64,
    pub(crate) records: AtomicU64,
    pub(crate) written_bytes: AtomicU64,
    syncs: [AtomicU64; SYNC_BOUNDS_US.len() + 1],
    sync_us: AtomicU64,
    sync_us_max: AtomicU64,
    pub(crate) failed_writes: AtomicU64,
    pub(crate) stalled: AtomicBool,
    pub(crate) waiting: AtomicU64,
    pub(crate) segment_bytes: AtomicU64,
    pub(crate) segments: AtomicU64,
    pub(crate) live_bytes: AtomicU64,
    pub(crate) messages: AtomicU64,
    pub(crate) sessions: AtomicU64,
    pub(crate) checkpoints: AtomicU64,
    pub(crate) checkpoint_bytes: AtomicU64,
    pub(crate) moved: AtomicU64,
    pub(crate) dropped_age: AtomicU64,
    pub(crate) dropped_bytes: AtomicU64,
    pub(crate) fetched: AtomicU64,
    pub(crate) damaged: AtomicU64,
}

impl Counters {
    pub(crate) fn synced(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let class = SYNC_BOUNDS_US.partition_point(|bound| *bound < us);
        self.syncs[class].fetch_add(1, Relaxed);
        self.sync_us.fetch_add(us, Relaxed);
        self.sync_us_max.fetch_max(us, Relaxed);
    }

    pub(crate) fn read(&self) -> LogStats {
        LogStats {
            groups: self.groups.load(Relaxed),
            batches: self.batches.load(Relaxed),
            records: self.records.load(Relaxed),
            written_bytes: self.written_bytes.load(Relaxed),
            syncs: std::array::from_fn(|class| self.syncs[class].load(Relaxed)),
            sync_us: self.sync_us.load(Relaxed),
            sync_us_max: self.sync_us_max.load(Relaxed),
            failed_writes: self.failed_writes.load(Relaxed),
            stalled: self.stalled.load(Relaxed),
            waiting: self.waiting.load(Relaxed),
            segment_bytes: self.segment_bytes.load(Relaxed),
            segments: self.segments.load(Relaxed),
            live_bytes: self.live_bytes.load(Relaxed),
            messages: self.messages.load(Relaxed),
            sessions: self.sessions.load(Relaxed),
            checkpoints: self.checkpoints.load(Relaxed),
            checkpoint_bytes: self.checkpoint_bytes.load(Relaxed),
            moved: self.moved.load(Relaxed),
            dropped_age: self.dropped_age.load(Relaxed),
            dropped_bytes: self.dropped_bytes.load(Relaxed),
            fetched: self.fetched.load(Relaxed),
            damaged: self.damaged.load(Relaxed),
        }
    }
}
