//! What stands, and where on the disk each message is that somebody still needs.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use drawbridge_broker::storage::{Image, MessageId, Record, SessionId};

use crate::frame::{SUM, segment_name};

/// Where the record of a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// Number of the first group of its segment.
    pub(crate) segment: u64,
    /// Where its checksum begins in the segment; the record follows.
    pub(crate) offset: u32,
    /// Bytes of the record.
    pub(crate) bytes: u32,
    /// When the message arrived, in seconds since 1970-01-01 UTC.
    pub(crate) received_s: u32,
}

impl Place {
    /// What it keeps from being given back, in bytes.
    pub(crate) fn cost(&self) -> u64 {
        u64::from(self.bytes) + 5 + SUM as u64
    }

    /// Where it ends in its segment.
    pub(crate) fn end(&self) -> u64 {
        u64::from(self.offset) + SUM as u64 + u64::from(self.bytes)
    }

    pub(crate) fn file(&self) -> String {
        segment_name(self.segment)
    }
}

/// The places of all messages that somebody needs. Shared with the reader.
#[derive(Debug, Clone, Default)]
pub(crate) struct Places(Arc<Mutex<BTreeMap<MessageId, Place>>>);

impl Places {
    pub(crate) fn lock(&self) -> MutexGuard<'_, BTreeMap<MessageId, Place>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A segment as far as it is known to be durable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Number of its last group.
    pub(crate) last: u64,
    /// Its length.
    pub(crate) bytes: u64,
    /// Bytes of messages that somebody needs.
    pub(crate) live_bytes: u64,
    /// How many.
    pub(crate) live: u64,
}

/// What stands after the groups before `next`.
#[derive(Debug, Default)]
pub(crate) struct Mirror {
    pub(crate) image: Image,
    pub(crate) places: Places,
    /// By the number of the first group.
    pub(crate) segments: BTreeMap<u64, Segment>,
    pub(crate) next: u64,
}

impl Mirror {
    /// One more record. `place`: where it is, if it is a message.
    pub(crate) fn apply(&mut self, record: &Record, place: Option<Place>) {
        let mut perhaps_free = Vec::new();
        match record {
            Record::Done { message, .. } => perhaps_free.push(*message),
            Record::SessionGone { session } => {
                let gone = self.image.sessions.get(session);
                perhaps_free.extend(gone.into_iter().flat_map(|gone| gone.pending.keys().copied()));
            }
            Record::Message { message, retained: true, .. } => {
                let topics = self.image.retained.get(&message.registry);
                perhaps_free.extend(topics.and_then(|topics| topics.get(&message.topic)));
            }
            Record::RetainedCleared { registry, topic } => {
                perhaps_free.extend(self.image.retained.get(registry).and_then(|topics| topics.get(topic)));
            }
            _ => {}
        }
        self.image.apply(record);
        let places = self.places.clone();
        let mut places = places.lock();
        if let (Record::Message { id, .. }, Some(place)) = (record, place) {
            self.put(&mut places, *id, place);
        }
        for id in perhaps_free {
            if !self.image.references.contains_key(&id) {
                self.free(&mut places, id);
            }
        }
    }

    /// A message was copied to another place. Whoever does not need it any more leaves it there.
    pub(crate) fn moved(&mut self, id: MessageId, place: Place) {
        let places = self.places.clone();
        self.put(&mut places.lock(), id, place);
    }

    /// A message is at this place, which is in a segment that is known.
    pub(crate) fn put(&mut self, places: &mut BTreeMap<MessageId, Place>, id: MessageId, place: Place) {
        if !self.image.references.contains_key(&id) {
            return;
        }
        self.free(places, id);
        let segment = self.segments.entry(place.segment).or_default();
        segment.live += 1;
        segment.live_bytes += place.cost();
        places.insert(id, place);
    }

    fn free(&mut self, places: &mut BTreeMap<MessageId, Place>, id: MessageId) {
        let Some(place) = places.remove(&id) else { return };
        if let Some(segment) = self.segments.get_mut(&place.segment) {
            segment.live = segment.live.saturating_sub(1);
            segment.live_bytes = segment.live_bytes.saturating_sub(place.cost());
        }
    }

    /// Nobody is owed these any more. As [`Image::forget`], for many at once.
    pub(crate) fn forget(&mut self, ids: &HashSet<MessageId>) {
        let (Some(first), Some(last)) = (ids.iter().min().copied(), ids.iter().max().copied()) else {
            return;
        };
        for session in self.image.sessions.values_mut() {
            let theirs: Vec<MessageId> = session
                .pending
                .range(first..=last)
                .map(|(id, _)| *id)
                .filter(|id| ids.contains(id))
                .collect();
            for id in theirs {
                session.forget(id);
            }
        }
        for topics in self.image.retained.values_mut() {
            topics.retain(|_, id| !ids.contains(id));
        }
        let places = self.places.clone();
        let mut places = places.lock();
        for id in ids {
            self.image.references.remove(id);
            self.free(&mut places, *id);
        }
    }

    /// What is owed or retained and has no place.
    pub(crate) fn without_place(&self) -> HashSet<MessageId> {
        let places = self.places.lock();
        self.image.references.keys().filter(|id| !places.contains_key(id)).copied().collect()
    }

    /// The messages that are the last word on a topic.
    pub(crate) fn retained(&self) -> HashSet<MessageId> {
        self.image.retained.values().flat_map(|topics| topics.values().copied()).collect()
    }

    /// Bytes of all segments.
    pub(crate) fn bytes(&self) -> u64 {
        self.segments.values().map(|segment| segment.bytes).sum()
    }

    /// Bytes of all messages that somebody needs.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.segments.values().map(|segment| segment.live_bytes).sum()
    }

    /// The segments that nothing will be appended to, oldest first.
    pub(crate) fn closed(&self) -> impl Iterator<Item = (u64, Segment)> + '_ {
        let open = self.segments.keys().next_back().copied();
        self.segments.iter().filter(move |(first, _)| Some(**first) != open).map(|(first, s)| (*first, *s))
    }
}

/// Adds what a session is owed, as read from a checkpoint.
pub(crate) fn owe(
    image: &mut Image,
    session: SessionId,
    id: MessageId,
    pending: drawbridge_broker::storage::Pending,
) -> bool {
    let Some(session) = image.sessions.get_mut(&session) else { return false };
    let new = session.pending.insert(id, pending).is_none();
    if new {
        *image.references.entry(id).or_default() += 1;
    }
    new
}
