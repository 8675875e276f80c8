//! The log: one stored copy per message, and a cursor per session that is behind.
//!
//! A message enters the log only when some session that wants it at QoS 1 cannot take it now (its
//! window or its write buffer is full, or it is already behind). All such sessions read the same
//! entry later. What every subscriber could take at once never comes here.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::message::Message;

/// Storage of messages in the order of their arrival, numbered from 1 without gaps.
///
/// The memory form below serves one shard. The embedded and the clustered log take its place.
pub trait Log {
    /// Appends messages and returns the number of the first; when it returns, they are stored.
    fn append_batch(&mut self, batch: &[Arc<Message>]) -> u64;

    /// The number that the next message will get.
    fn tail(&self) -> u64;

    /// The number of the oldest message kept.
    fn first(&self) -> u64;

    /// The first message at or after `seq` that `wanted` accepts.
    fn read_from(&self, wanted: &mut dyn FnMut(u64, &Message) -> bool, seq: u64) -> Read;

    /// Replaces the small record `key` if its revision is still `seen` (0: it does not exist), and
    /// returns the new revision. Session records and owner epochs stand on this.
    ///
    /// # Errors
    /// [`Conflict`] with the revision found.
    fn compare_and_set(&mut self, key: &str, seen: u64, value: &[u8]) -> Result<u64, Conflict>;

    /// Forgets every message before `seq`: no cursor needs it any more.
    fn trim(&mut self, seq: u64);

    /// Number of messages held.
    fn len(&self) -> usize;

    /// Whether no message is held.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes held: payloads, topics, properties and their bookkeeping.
    fn bytes(&self) -> usize;
}

/// What a cursor finds.
#[derive(Debug, Clone, PartialEq)]
pub enum Read {
    /// The next message and its number.
    Found(u64, Arc<Message>),
    /// Nothing more: the cursor is at the tail.
    End,
    /// The cursor points before the first message kept: messages were lost to it.
    FallenOff {
        /// Number of the first message kept.
        first: u64,
    },
}

/// Somebody else was first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conflict {
    /// The revision that stands.
    pub found: u64,
}

/// The log in memory, bounded in bytes: what is pushed out is lost to the sessions behind it.
#[derive(Debug)]
pub struct MemoryLog {
    entries: VecDeque<Arc<Message>>,
    first: u64,
    bytes: usize,
    bytes_max: usize,
    records: HashMap<String, (u64, Vec<u8>)>,
}

impl MemoryLog {
    /// An empty log that keeps at most `bytes_max` bytes, but always the newest message.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self { entries: VecDeque::new(), first: 1, bytes: 0, bytes_max, records: HashMap::new() }
    }

    fn pop(&mut self) {
        if let Some(entry) = self.entries.pop_front() {
            self.bytes -= entry.bytes();
            self.first += 1;
        }
    }
}

impl Log for MemoryLog {
    fn append_batch(&mut self, batch: &[Arc<Message>]) -> u64 {
        let seq = self.tail();
        for message in batch {
            self.bytes += message.bytes();
            self.entries.push_back(Arc::clone(message));
        }
        while self.bytes > self.bytes_max && self.entries.len() > 1 {
            self.pop();
        }
        seq
    }

    fn tail(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    fn first(&self) -> u64 {
        self.first
    }

    fn read_from(&self, wanted: &mut dyn FnMut(u64, &Message) -> bool, seq: u64) -> Read {
        if seq < self.first {
            return Read::FallenOff { first: self.first };
        }
        let skip = usize::try_from(seq - self.first).unwrap_or(usize::MAX).min(self.entries.len());
        for (seq, entry) in (seq..).zip(self.entries.range(skip..)) {
            if wanted(seq, entry) {
                return Read::Found(seq, Arc::clone(entry));
            }
        }
        Read::End
    }

    fn compare_and_set(&mut self, key: &str, seen: u64, value: &[u8]) -> Result<u64, Conflict> {
        let found = self.records.get(key).map_or(0, |(revision, _)| *revision);
        if found != seen {
            return Err(Conflict { found });
        }
        self.records.insert(key.to_owned(), (seen + 1, value.to_vec()));
        Ok(seen + 1)
    }

    fn trim(&mut self, seq: u64) {
        while self.first < seq && !self.entries.is_empty() {
            self.pop();
        }
        if self.entries.is_empty() && self.entries.capacity() > 1_024 {
            self.entries = VecDeque::new();
        }
    }

    fn len(&self) -> usize {
        self.entries.len()
    }

    fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "messages carry an instant; no test depends on it")]
    use super::*;

    fn message(payload: usize) -> Arc<Message> {
        Arc::new(Message::for_tests("a/b", vec![7; payload], std::time::Instant::now()))
    }

    #[test]
    fn cursors_read_the_same_copy_in_order() {
        let mut log = MemoryLog::new(1 << 20);
        assert_eq!(log.append_batch(&[message(1), message(2)]), 1);
        assert_eq!(log.append_batch(&[message(3)]), 3);
        assert_eq!(log.tail(), 4);
        let Read::Found(seq, entry) = log.read_from(&mut |_, m| m.payload.len() > 1, 1) else {
            panic!("the second message is there")
        };
        assert_eq!((seq, entry.payload.len()), (2, 2));
        assert_eq!(Arc::strong_count(&entry), 2, "the log and this cursor");
        assert_eq!(log.read_from(&mut |_, _| true, 4), Read::End);
        log.trim(3);
        assert_eq!(log.read_from(&mut |_, _| true, 2), Read::FallenOff { first: 3 });
        log.trim(4);
        assert_eq!((log.len(), log.bytes(), log.tail()), (0, 0, 4));
    }

    #[test]
    fn the_log_never_holds_more_than_its_bytes() {
        let mut log = MemoryLog::new(10_000);
        for _ in 0..100 {
            log.append_batch(&[message(1_000)]);
            assert!(log.bytes() <= 10_000);
        }
        assert!(log.len() < 10 && log.tail() == 101);
        log.append_batch(&[message(50_000)]);
        assert_eq!(log.len(), 1, "the newest message stays even when it alone is too large");
    }

    #[test]
    fn a_record_is_replaced_only_by_who_saw_its_last_revision() {
        let mut log = MemoryLog::new(1);
        assert_eq!(log.compare_and_set("owner", 0, b"a"), Ok(1));
        assert_eq!(log.compare_and_set("owner", 0, b"b"), Err(Conflict { found: 1 }));
        assert_eq!(log.compare_and_set("owner", 1, b"b"), Ok(2));
    }
}
