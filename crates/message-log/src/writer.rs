//! The thread that writes: all that waits becomes one group with one fsync.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use drawbridge_broker::storage::{Batch, MessageId, Record, StorageListener};

use crate::Shared;
use crate::disk::DiskFile;
use crate::frame::{self, GROUP_HEAD, MESSAGE, MOVED, RECORD, SEGMENT};
use crate::health::{Health, Step};
use crate::recovery::received_s;

/// What waits to be written.
#[derive(Default)]
pub(crate) struct Waiting {
    batches: VecDeque<(usize, Batch)>,
    /// Somebody waits for one of them.
    urgent: bool,
    /// When the first of those that nobody waits for came.
    since: Option<Instant>,
    moves: VecDeque<Move>,
    pub(crate) closing: bool,
}

/// A message to be copied forward.
pub(crate) struct Move {
    pub(crate) id: MessageId,
    pub(crate) received_s: u32,
    pub(crate) record: Vec<u8>,
}

/// A group that is durable, for the keeper.
pub(crate) struct Group {
    pub(crate) number: u64,
    pub(crate) segment: u64,
    /// Length of the segment after it.
    pub(crate) end: u64,
    /// Its own bytes.
    pub(crate) bytes: u64,
    pub(crate) batches: Vec<(usize, Batch)>,
    /// Where the messages of the batches are, in their order.
    pub(crate) places: Vec<Written>,
    pub(crate) moved: Vec<(MessageId, Written)>,
}

/// A message in a segment.
pub(crate) struct Written {
    /// Where its checksum begins; while the group is not written, from the beginning of the group.
    pub(crate) offset: u32,
    /// Bytes of its record.
    pub(crate) bytes: u32,
    pub(crate) received_s: u32,
}

/// At most so many bytes are copied forward in one group: commits do not wait for more.
const MOVED_BYTES_MAX: usize = 1 << 20;

impl Waiting {
    /// Takes a batch. Whether the writer is to be woken.
    pub(crate) fn push(&mut self, shard: usize, batch: Batch, now: impl FnOnce() -> Instant) -> bool {
        let wake = if batch.urgent {
            !std::mem::replace(&mut self.urgent, true)
        } else if self.since.is_none() {
            self.since = Some(now());
            true
        } else {
            false
        };
        self.batches.push_back((shard, batch));
        wake
    }

    pub(crate) fn push_moves(&mut self, moves: Vec<Move>) {
        self.moves.extend(moves);
    }
}

pub(crate) struct Writer {
    shared: Arc<Shared>,
    health: Arc<Health>,
    listener: Arc<dyn StorageListener>,
    /// Number of the next group.
    next: u64,
    open: Option<Open>,
    buffer: Vec<u8>,
}

/// The segment that is written to.
struct Open {
    first: u64,
    salt: u64,
    file: Box<dyn DiskFile>,
    /// Its length, all of it durable.
    end: u64,
}

impl Writer {
    pub(crate) fn new(
        shared: Arc<Shared>,
        health: Arc<Health>,
        listener: Arc<dyn StorageListener>,
        next: u64,
    ) -> Self {
        Self { shared, health, listener, next, open: None, buffer: Vec::new() }
    }

    /// Until the log is closed and nothing waits, or it is broken.
    pub(crate) fn run(mut self) {
        while let Some(mut group) = self.take() {
            if !self.store(&mut group) {
                return;
            }
            self.tell(&group);
            self.shared.to_keeper(group, &self.health);
        }
    }

    /// Waits for what is to be written and encodes it. `None` when the log is closed and there is nothing,
    /// or it is broken.
    fn take(&mut self) -> Option<Group> {
        let config = &self.shared.config;
        let mut waiting = self.shared.waiting.lock();
        loop {
            if self.health.is_broken() {
                return None;
            }
            let patience = waiting.since.map(|since| {
                config.patience.saturating_sub((self.shared.clock)().saturating_duration_since(since))
            });
            if waiting.urgent
                || !waiting.moves.is_empty()
                || waiting.closing
                || patience.is_some_and(|left| left.is_zero())
            {
                break;
            }
            waiting = self.shared.waiting.wait(waiting, patience);
        }
        if waiting.batches.is_empty() && waiting.moves.is_empty() {
            return None;
        }
        let mut group = Group {
            number: self.next,
            segment: 0,
            end: 0,
            bytes: 0,
            batches: Vec::new(),
            places: Vec::new(),
            moved: Vec::new(),
        };
        let mut bytes = 0;
        while bytes < config.group_bytes_max {
            let Some((shard, batch)) = waiting.batches.pop_front() else { break };
            bytes += batch.records.iter().map(Record::bytes).sum::<usize>();
            group.batches.push((shard, batch));
        }
        let mut moves = Vec::new();
        let mut bytes = 0;
        while bytes < MOVED_BYTES_MAX {
            let Some(moved) = waiting.moves.pop_front() else { break };
            bytes += moved.record.len();
            moves.push(moved);
        }
        // What is left, if anything, is written next and at once.
        waiting.urgent = !waiting.batches.is_empty();
        waiting.since = None;
        self.shared.counters.waiting.store((group.batches.len() + waiting.batches.len()) as u64, Relaxed);
        drop(waiting);
        self.encode(&mut group, moves);
        Some(group)
    }

    fn encode(&mut self, group: &mut Group, moves: Vec<Move>) {
        let (out, time) = (&mut self.buffer, self.shared.time);
        out.clear();
        out.resize(GROUP_HEAD, 0);
        for record in group.batches.iter().flat_map(|(_, batch)| &batch.records) {
            let kind = if matches!(record, Record::Message { .. }) { MESSAGE } else { RECORD };
            let at = frame::begin_entry(out, kind);
            record.encode(time, out);
            frame::end_entry(out, kind, at);
            if let Record::Message { message, .. } = record {
                group.places.push(written(at, out.len(), received_s(message, time)));
            }
        }
        for moved in moves {
            let at = frame::begin_entry(out, MOVED);
            out.extend_from_slice(&moved.record);
            frame::end_entry(out, MOVED, at);
            group.moved.push((moved.id, written(at, out.len(), moved.received_s)));
        }
        group.bytes = out.len() as u64;
    }

    /// Makes the group durable, however often it has to be tried. `false`: the log is closed or broken,
    /// and it is not.
    fn store(&mut self, group: &mut Group) -> bool {
        loop {
            let began = (self.shared.clock)();
            self.health.begin(Step::Write);
            match self.write(group) {
                Ok(()) => {
                    let took = (self.shared.clock)().saturating_duration_since(began);
                    self.shared.counters.synced(took);
                    self.health.wrote(Ok(()));
                    return true;
                }
                Err(error) => {
                    self.shared.counters.failed_writes.fetch_add(1, Relaxed);
                    self.health.wrote(Err(&error));
                }
            }
            let waiting = self.shared.waiting.lock();
            if waiting.closing || self.health.is_broken() {
                return false;
            }
            // Whoever submits meanwhile wakes it too early, once; that does no harm.
            drop(self.shared.waiting.wait(waiting, Some(self.shared.config.retry)));
        }
    }

    /// Tries once. After an error the segment is given up: what was written of the group is cut off if that can
    /// be done, and ignored at the next opening if not; the group becomes the first of another segment. It is never
    /// synced again in the same file: after a `sync` that failed, the next one may succeed without having written
    /// anything.
    fn write(&mut self, group: &mut Group) -> io::Result<()> {
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.begin_segment()?,
        };
        frame::seal_group(&mut self.buffer, group.number, open.salt);
        if let Err(error) = open.file.append(&self.buffer).and_then(|()| open.file.sync()) {
            let given_up = open.file.truncate(open.end);
            if open.first == group.number {
                let _ = given_up.and_then(|()| self.shared.disk.remove(&frame::segment_name(open.first)));
            }
            return Err(error);
        }
        let at = u32::try_from(open.end).map_err(io::Error::other)?;
        for place in group.places.iter_mut().chain(group.moved.iter_mut().map(|(_, place)| place)) {
            place.offset += at;
        }
        open.end += self.buffer.len() as u64;
        (group.segment, group.end) = (open.first, open.end);
        self.next += 1;
        if open.end < self.shared.config.segment_bytes {
            self.open = Some(open);
        } else {
            // The zeros behind it take no space, only room in listings.
            let _ = open.file.truncate(open.end);
        }
        Ok(())
    }

    fn begin_segment(&self) -> io::Result<Open> {
        let (disk, salt) = (&self.shared.disk, crate::salt());
        let name = frame::segment_name(self.next);
        let header = frame::header(SEGMENT, self.next, salt);
        let mut file = disk.create(&name)?;
        // Before anything is behind it: so a bad header is damage, whenever there is more than zeros.
        let begun = file
            .reserve(self.shared.config.segment_bytes)
            .and_then(|()| file.append(&header))
            .and_then(|()| file.sync())
            .and_then(|()| disk.sync_folder());
        if let Err(error) = begun {
            let _ = disk.remove(&name);
            return Err(error);
        }
        Ok(Open { first: self.next, salt, file, end: header.len() as u64 })
    }

    /// Tells every shard its highest number.
    fn tell(&self, group: &Group) {
        let counters = &self.shared.counters;
        counters.groups.fetch_add(1, Relaxed);
        counters.batches.fetch_add(group.batches.len() as u64, Relaxed);
        counters.written_bytes.fetch_add(group.bytes, Relaxed);
        let records: usize = group.batches.iter().map(|(_, batch)| batch.records.len()).sum();
        counters.records.fetch_add(records as u64, Relaxed);
        let mut highest: Vec<(usize, u64)> = Vec::new();
        for (shard, batch) in &group.batches {
            match highest.iter_mut().find(|(known, _)| known == shard) {
                Some((_, number)) => *number = batch.number,
                None => highest.push((*shard, batch.number)),
            }
        }
        highest.into_iter().for_each(|(shard, number)| self.listener.committed(shard, number));
    }
}

/// A record between `at` and `end`, its checksum before it.
fn written(at: usize, end: usize, received_s: u32) -> Written {
    // A group is far below 4 GiB, and so is a segment.
    let u32 = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    Written { offset: u32(at - frame::SUM), bytes: u32(end - at), received_s }
}
