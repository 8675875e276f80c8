//! The thread that keeps house: it knows what stands, writes it down, drops what is too old or too much, and gives
//! back the space of what nobody needs. Commits do not wait for it, unless it is far behind.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use drawbridge_broker::storage::{MessageId, Record};

use crate::Shared;
use crate::checkpoint;
use crate::error::DAMAGED;
use crate::frame::{checkpoint_name, segment_name};
use crate::health::Health;
use crate::mirror::{Mirror, Place};
use crate::recovery::{Recovery, read_message};
use crate::writer::{Group, Move, Written};

/// Groups that are durable and not yet known to the keeper.
#[derive(Default)]
pub(crate) struct Backlog {
    pub(crate) groups: VecDeque<Group>,
    pub(crate) bytes: u64,
    /// Copies that it waits for are among them.
    pub(crate) moved: bool,
    pub(crate) closing: bool,
}

/// It is woken when it is so many bytes behind; for less it wakes by itself, so that a lone commit costs one thread
/// less.
pub(crate) const WAKE_BYTES: u64 = 1 << 20;

/// How often it looks for something to do when nothing happens.
const TICK: Duration = Duration::from_secs(1);
/// How often it looks for what is too old.
const AGE_EVERY: Duration = Duration::from_secs(10);
/// A segment nobody needs is removed with the next checkpoint, which is not later than this.
const REMOVE_WITHIN: Duration = Duration::from_secs(60);
/// A segment is given back by copying what is left in it when that is less than 1 byte in so many.
const MOSTLY_DEAD: u64 = 4;
/// When opening read so many times the bytes of a checkpoint's due, the next opening shall read less.
const READ_MAX: u64 = 4;
/// As much is read to be copied at a time.
const MOVE_BYTES: usize = 1 << 20;

pub(crate) struct Keeper {
    shared: Arc<Shared>,
    health: Arc<Health>,
    mirror: Mirror,
    /// Bytes of the last checkpoint, and of the groups since.
    checkpoint_bytes: u64,
    log_bytes: u64,
    checkpointed: Instant,
    aged: Instant,
    ticked: Instant,
    /// A checkpoint that failed is not tried again before this.
    not_before: Option<Instant>,
    /// What is to be copied forward, last first, and how many of the copies are not durable yet.
    moves: Vec<(MessageId, Place)>,
    moving: usize,
    /// Another segment may be worth copying from.
    look: bool,
}

impl Keeper {
    pub(crate) fn new(shared: Arc<Shared>, health: Arc<Health>, recovery: Recovery) -> Self {
        let now = (shared.clock)();
        let Recovery { mirror, checkpoint_bytes, mut log_bytes, read_bytes, .. } = recovery;
        if read_bytes > READ_MAX * shared.config.checkpoint_bytes {
            // A server that is killed again and again begins a segment each time, and may never have the time or the
            // bytes that lead to a checkpoint: it is due now.
            log_bytes = log_bytes.max(shared.config.checkpoint_bytes).max(checkpoint_bytes);
        }
        let keeper = Self {
            shared,
            health,
            mirror,
            checkpoint_bytes,
            log_bytes,
            checkpointed: now,
            aged: now,
            ticked: now,
            not_before: None,
            moves: Vec::new(),
            moving: 0,
            look: false,
        };
        keeper.count();
        keeper
    }

    /// Until the log is closed and all groups are known, or it is broken.
    pub(crate) fn run(mut self) {
        loop {
            let (groups, closing) = self.take();
            if self.health.is_broken() {
                // What stands is in the groups; a checkpoint is not worth a doubt.
                return;
            }
            let idle = groups.is_empty();
            for group in groups {
                self.apply(group);
            }
            let now = (self.shared.clock)();
            if closing && idle {
                if self.log_bytes > 0 && !self.shared.counters.stalled.load(Relaxed) {
                    self.checkpoint(now);
                }
                return;
            }
            self.keep_house(now);
        }
    }

    fn take(&self) -> (VecDeque<Group>, bool) {
        let mut backlog = self.shared.backlog.lock();
        if backlog.bytes < self.shared.keeper_wakes_at()
            && !backlog.moved
            && !backlog.closing
            && !self.health.is_broken()
        {
            backlog = self.shared.backlog.wait(backlog, Some(TICK));
        }
        (backlog.bytes, backlog.moved) = (0, false);
        let taken = (std::mem::take(&mut backlog.groups), backlog.closing);
        drop(backlog);
        self.shared.backlog.wake_all();
        taken
    }

    fn apply(&mut self, group: Group) {
        let place = |written: &Written| Place {
            segment: group.segment,
            offset: written.offset,
            bytes: written.bytes,
            received_s: written.received_s,
        };
        let segment = self.mirror.segments.entry(group.segment).or_default();
        (segment.last, segment.bytes) = (group.number, group.end);
        let mut places = group.places.iter().map(place);
        for record in group.batches.iter().flat_map(|(_, batch)| &batch.records) {
            let place = if matches!(record, Record::Message { .. }) { places.next() } else { None };
            self.mirror.apply(record, place);
        }
        for (id, written) in &group.moved {
            self.mirror.moved(*id, place(written));
        }
        self.moving = self.moving.saturating_sub(group.moved.len());
        self.shared.counters.moved.fetch_add(group.moved.len() as u64, Relaxed);
        self.mirror.next = group.number + 1;
        self.log_bytes += group.bytes;
        let mut recent = self.shared.recent.lock();
        for record in group.batches.iter().flat_map(|(_, batch)| &batch.records) {
            if let Record::Message { id, .. } = record {
                recent.remove(id);
            }
        }
    }

    fn keep_house(&mut self, now: Instant) {
        let due = self.shared.config.checkpoint_bytes.max(self.checkpoint_bytes);
        let waits = self.not_before.is_some_and(|at| now < at);
        if self.log_bytes >= due && !waits {
            self.checkpoint(now);
        }
        self.choose_moves();
        self.send_moves();
        if now.saturating_duration_since(self.ticked) < TICK {
            return;
        }
        self.ticked = now;
        if now.saturating_duration_since(self.aged) >= AGE_EVERY {
            self.aged = now;
            self.drop_old(now);
        }
        self.drop_too_much();
        self.look = true;
        let too_much = self.mirror.bytes() > self.shared.config.bytes_max;
        let long_ago = now.saturating_duration_since(self.checkpointed) >= REMOVE_WITHIN;
        let removable = self.mirror.closed().any(|(_, segment)| segment.live == 0);
        if removable && (too_much || long_ago) && !waits {
            self.checkpoint(now);
        }
        self.count();
    }

    /// Writes down what stands, then removes what is not needed beside it.
    fn checkpoint(&mut self, now: Instant) {
        let disk = &*self.shared.disk;
        match checkpoint::write(disk, &self.mirror, self.shared.time, crate::salt()) {
            Ok(bytes) => self.checkpoint_bytes = bytes,
            Err(error) => {
                // Nothing is lost: the groups are there. But nothing is given back either.
                tracing::warn!(%error, "no checkpoint of the message log could be written; it is tried again");
                self.not_before = Some(now + self.shared.config.retry);
                return;
            }
        }
        (self.checkpointed, self.log_bytes, self.not_before) = (now, 0, None);
        self.shared.counters.checkpoints.fetch_add(1, Relaxed);
        let names = disk.list().unwrap_or_default();
        let old = |name: &&String| {
            crate::frame::number_of(name, "checkpoint").is_some_and(|number| number < self.mirror.next)
        };
        let dead: Vec<u64> =
            self.mirror.closed().filter(|(_, segment)| segment.live == 0).map(|(first, _)| first).collect();
        for name in names.iter().filter(old) {
            debug_assert_ne!(*name, checkpoint_name(self.mirror.next));
            let _ = disk.remove(name);
        }
        for first in dead {
            match disk.remove(&segment_name(first)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {}
                _ => drop(self.mirror.segments.remove(&first)),
            }
        }
        self.count();
    }

    /// Drops what nobody came for in time.
    fn drop_old(&mut self, now: Instant) {
        let age_s = self.shared.config.age_max.as_secs();
        let limit_s = (self.shared.time.to_ms(now) / 1000).saturating_sub(age_s);
        let old: HashSet<MessageId> = {
            let places = self.mirror.places.lock();
            let old = places.iter().take_while(|(_, place)| u64::from(place.received_s) < limit_s);
            old.map(|(id, _)| *id).collect()
        };
        let dropped = self.forget_but_retained(old);
        self.shared.counters.dropped_age.fetch_add(dropped, Relaxed);
    }

    /// Drops when messages that are still owed leave no room: at 7/10 of the bytes allowed, down to 13/20, from
    /// whoever is owed most. What is left above is for what nobody needs and was not yet given back.
    fn drop_too_much(&mut self) {
        let (live, bytes_max) = (self.mirror.live_bytes(), self.shared.config.bytes_max);
        if live <= bytes_max / 10 * 7 {
            return;
        }
        let chosen = self.mirror.too_much(live - bytes_max / 20 * 13);
        self.mirror.forget_of(&chosen);
        self.shared.counters.dropped_bytes.fetch_add(chosen.len() as u64, Relaxed);
    }

    fn forget_but_retained(&mut self, mut ids: HashSet<MessageId>) -> u64 {
        if ids.is_empty() {
            return 0;
        }
        let retained = self.mirror.retained();
        ids.retain(|id| !retained.contains(id));
        self.mirror.forget(&ids);
        ids.len() as u64
    }

    /// Chooses the segment that gives back most for what has to be copied.
    fn choose_moves(&mut self) {
        let busy = self.moving > 0 || !self.moves.is_empty() || self.shared.counters.stalled.load(Relaxed);
        if busy || !std::mem::take(&mut self.look) {
            return;
        }
        // Segments that nobody needs go with the next checkpoint.
        let removable: u64 =
            self.mirror.closed().filter(|(_, s)| s.live == 0).map(|(_, segment)| segment.bytes).sum();
        let scarce = self.mirror.bytes() - removable > self.shared.config.bytes_max / 10 * 9;
        let candidates = self.mirror.closed().filter(|(_, segment)| segment.live > 0);
        let emptiest = candidates.min_by_key(|(_, segment)| segment.live_bytes * 1000 / segment.bytes.max(1));
        let Some((first, segment)) = emptiest else { return };
        let mostly_dead = segment.live_bytes * MOSTLY_DEAD <= segment.bytes;
        let worth_it = segment.live_bytes / 9 * 10 <= segment.bytes;
        if mostly_dead || scarce && worth_it {
            let places = self.mirror.places.lock();
            self.moves.extend(
                places.iter().filter(|(_, place)| place.segment == first).map(|(id, place)| (*id, *place)),
            );
            self.moves.reverse();
            self.look = true;
        }
    }

    /// Hands the writer the next few messages to copy, when it is through with those before.
    fn send_moves(&mut self) {
        if self.moving > 0 || self.moves.is_empty() || self.shared.counters.stalled.load(Relaxed) {
            return;
        }
        let (mut records, mut bytes) = (Vec::new(), 0);
        while let Some((id, place)) = self.moves.pop() {
            if self.mirror.places.lock().get(&id) != Some(&place) {
                continue;
            }
            let read = self.shared.disk.open(&place.file());
            match read.and_then(|file| read_message(&*file, place, id, self.shared.time)) {
                Ok(Some((_, record))) => {
                    bytes += record.len();
                    records.push(Move { id, received_s: place.received_s, record });
                }
                Ok(None) => {
                    self.shared.counters.damaged.fetch_add(1, Relaxed);
                    tracing::error!(
                        code = DAMAGED,
                        file = place.file(),
                        offset = place.offset,
                        "a stored message is damaged and dropped"
                    );
                    self.mirror.forget(&HashSet::from([id]));
                }
                Err(error) => {
                    tracing::warn!(%error, file = place.file(), "a segment cannot be read; it is tried again");
                    self.moves.clear();
                    break;
                }
            }
            if bytes >= MOVE_BYTES {
                break;
            }
        }
        self.moving = records.len();
        if self.moving > 0 {
            self.shared.waiting.lock().push_moves(records);
            self.shared.waiting.wake_all();
        }
    }

    fn count(&self) {
        let (counters, mirror) = (&self.shared.counters, &self.mirror);
        counters.segment_bytes.store(mirror.bytes(), Relaxed);
        counters.segments.store(mirror.segments.len() as u64, Relaxed);
        counters.live_bytes.store(mirror.live_bytes(), Relaxed);
        counters.messages.store(mirror.places.lock().len() as u64, Relaxed);
        counters.sessions.store(mirror.image.sessions.len() as u64, Relaxed);
        counters.checkpoint_bytes.store(self.checkpoint_bytes, Relaxed);
    }
}
