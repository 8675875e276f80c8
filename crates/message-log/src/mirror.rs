//! What stands, and where on the disk each message is that somebody still needs.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use drawbridge_broker::storage::{Image, MessageId, Pending, Record, SessionId};
use drawbridge_names::Uid;

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

/// How often the level of what one may be owed is lowered before nobody has a share any more.
const LEVELS: u32 = 6;

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
    /// Bytes that each session is owed, a message whole for each. Nobody asks before space gets scarce: counted
    /// when they first do, kept true from then on.
    owed: Option<HashMap<SessionId, u64>>,
}

impl Mirror {
    /// One more record. `place`: where it is, if it is a message.
    pub(crate) fn apply(&mut self, record: &Record, place: Option<Place>) {
        self.note_owed(record, place);
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
            Record::RetainedCleared { registry, topic, .. } => {
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
        let places = self.places.clone();
        let mut places = places.lock();
        for (number, session) in &mut self.image.sessions {
            let theirs: Vec<MessageId> = session
                .pending
                .range(first..=last)
                .map(|(id, _)| *id)
                .filter(|id| ids.contains(id))
                .collect();
            for id in &theirs {
                session.forget(*id);
            }
            if let Some(owed) = self.owed.as_mut().and_then(|owed| owed.get_mut(number)) {
                let cost: u64 = theirs.iter().filter_map(|id| places.get(id)).map(Place::cost).sum();
                *owed = owed.saturating_sub(cost);
            }
        }
        for topics in self.image.retained.values_mut() {
            topics.retain(|_, id| !ids.contains(id));
        }
        for id in ids {
            self.image.references.remove(id);
            self.free(&mut places, *id);
        }
    }

    /// Chooses messages of `excess` bytes to drop: of the principals that are owed most, from those of their sessions
    /// that are owed most, the oldest first. A principal that is owed less than the level to which those above it
    /// have to come down loses nothing; so a message is chosen only if all sessions that wait for it are above. Only
    /// when that does not give enough, since what the greedy wait for others wait for too, the level is lowered.
    /// Retained messages are never chosen. For each message the sessions.
    pub(crate) fn too_much(&mut self, excess: u64) -> BTreeMap<MessageId, Vec<SessionId>> {
        let mut owed = self.owed().clone();
        let mut owners: HashMap<Uid, Vec<SessionId>> = HashMap::new();
        for (id, session) in &self.image.sessions {
            owners.entry(session.session.uid).or_default().push(*id);
        }
        let (mut chosen, mut freed, mut level) = (BTreeMap::new(), 0, u64::MAX);
        for left in (0..LEVELS).rev() {
            let sum =
                |sessions: &[SessionId]| sessions.iter().map(|id| owed.get(id).copied().unwrap_or(0)).sum();
            let sums: Vec<u64> = owners.values().map(|sessions| sum(sessions)).collect();
            level = if left == 0 { 0 } else { self::level(sums, excess - freed).min(level / 2) };
            let mut floors = HashMap::new();
            for sessions in owners.values() {
                let above = sum(sessions).saturating_sub(level);
                if above > 0 {
                    let theirs: Vec<u64> = sessions.iter().filter_map(|id| owed.get(id).copied()).collect();
                    let floor = self::level(theirs, above);
                    floors.extend(sessions.iter().map(|id| (*id, floor)));
                }
            }
            self.choose(excess, &mut freed, &floors, &mut owed, &mut chosen);
            if freed >= excess || level == 0 {
                break;
            }
        }
        chosen
    }

    /// The oldest messages that nobody waits for but sessions that are owed more than their floor.
    fn choose(
        &self,
        excess: u64,
        freed: &mut u64,
        floors: &HashMap<SessionId, u64>,
        owed: &mut HashMap<SessionId, u64>,
        chosen: &mut BTreeMap<MessageId, Vec<SessionId>>,
    ) {
        let mut queues: Vec<_> = floors
            .iter()
            .filter_map(|(id, floor)| Some((*id, *floor, self.image.sessions.get(id)?.pending.keys())))
            .collect();
        let mut next: BinaryHeap<_> = queues
            .iter_mut()
            .enumerate()
            .filter_map(|(at, (_, _, queue))| Some(Reverse((*queue.next()?, at))))
            .collect();
        let mut waiting = Vec::new();
        while let Some(Reverse((id, at))) = next.pop() {
            waiting.push(at);
            if let Some(following) = queues[at].2.next() {
                next.push(Reverse((*following, at)));
            }
            if next.peek().is_some_and(|Reverse((other, _))| *other == id) {
                continue;
            }
            let all = self.image.references.get(&id).is_some_and(|count| *count as usize == waiting.len());
            let above = |at: &usize| owed.get(&queues[*at].0).is_some_and(|owed| *owed > queues[*at].1);
            if all && waiting.iter().all(above) && !chosen.contains_key(&id) {
                let cost = self.places.lock().get(&id).map_or(0, Place::cost);
                let sessions: Vec<SessionId> = waiting.iter().map(|at| queues[*at].0).collect();
                for session in &sessions {
                    owed.entry(*session).and_modify(|owed| *owed = owed.saturating_sub(cost));
                }
                chosen.insert(id, sessions);
                *freed += cost;
                if *freed >= excess {
                    return;
                }
            }
            waiting.clear();
        }
    }

    /// These messages are kept no more, for nobody: no other session waits for them, and none is retained.
    pub(crate) fn forget_of(&mut self, chosen: &BTreeMap<MessageId, Vec<SessionId>>) {
        let places = self.places.clone();
        let mut places = places.lock();
        for (id, sessions) in chosen {
            let cost = places.get(id).map_or(0, Place::cost);
            for session in sessions {
                if let Some(session) = self.image.sessions.get_mut(session) {
                    session.forget(*id);
                }
                self.owes_less(*session, cost);
            }
            self.image.references.remove(id);
            self.free(&mut places, *id);
        }
    }

    /// Bytes that each session is owed.
    fn owed(&mut self) -> &HashMap<SessionId, u64> {
        if self.owed.is_none() {
            self.owed = Some(self.count_owed());
        }
        self.owed.get_or_insert_default()
    }

    fn count_owed(&self) -> HashMap<SessionId, u64> {
        let places = self.places.lock();
        let bytes = |pending: &BTreeMap<MessageId, Pending>| {
            pending.keys().filter_map(|id| places.get(id)).map(Place::cost).sum::<u64>()
        };
        let sessions = self.image.sessions.iter().map(|(id, session)| (*id, bytes(&session.pending)));
        sessions.filter(|(_, bytes)| *bytes > 0).collect()
    }

    /// What a record changes in what sessions are owed. It is not applied yet.
    fn note_owed(&mut self, record: &Record, place: Option<Place>) {
        if self.owed.is_none() {
            return;
        }
        let cost = |id: &MessageId| self.places.lock().get(id).map_or(0, Place::cost);
        let waits = |session: &SessionId, id: &MessageId| {
            self.image.sessions.get(session).map(|session| session.pending.contains_key(id))
        };
        match record {
            Record::Message { id, to, .. } => {
                let cost = place.map_or(0, |place| place.cost());
                let to: HashSet<SessionId> = to.iter().map(|to| to.session).collect();
                let new: Vec<_> = to.into_iter().filter(|to| waits(to, id) == Some(false)).collect();
                new.into_iter().for_each(|session| self.owes_more(session, cost));
            }
            Record::Owed { message, destination } => {
                let new = self.image.references.contains_key(message)
                    && waits(&destination.session, message) == Some(false);
                let cost = cost(message);
                if new {
                    self.owes_more(destination.session, cost);
                }
            }
            Record::Done { session, message } if waits(session, message) == Some(true) => {
                let cost = cost(message);
                self.owes_less(*session, cost);
            }
            Record::SessionGone { session } => {
                self.owed.as_mut().and_then(|owed| owed.remove(session));
            }
            _ => {}
        }
    }

    fn owes_more(&mut self, session: SessionId, cost: u64) {
        if let Some(owed) = &mut self.owed {
            *owed.entry(session).or_default() += cost;
        }
    }

    fn owes_less(&mut self, session: SessionId, cost: u64) {
        if let Some(bytes) = self.owed.as_mut().and_then(|owed| owed.get_mut(&session)) {
            *bytes = bytes.saturating_sub(cost);
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

/// The level down to which all that are above it have to come, so that `excess` goes; 0 if there is not so much.
fn level(mut amounts: Vec<u64>, excess: u64) -> u64 {
    amounts.sort_unstable_by_key(|amount| Reverse(*amount));
    let mut above: u64 = 0;
    for (at, amount) in amounts.iter().enumerate() {
        above += amount;
        let count = at as u64 + 1;
        let following = amounts.get(at + 1).copied().unwrap_or(0);
        if above.saturating_sub(following * count) >= excess {
            return above.saturating_sub(excess) / count;
        }
    }
    0
}

/// Adds what a session is owed, as read from a checkpoint.
pub(crate) fn owe(image: &mut Image, session: SessionId, id: MessageId, pending: Pending) -> bool {
    let Some(session) = image.sessions.get_mut(&session) else { return false };
    let new = session.pending.insert(id, pending).is_none();
    if new {
        *image.references.entry(id).or_default() += 1;
    }
    new
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use drawbridge_broker::storage::{Destination, StoredSession, TimeBase};
    use drawbridge_broker::{Message, Publisher};
    use drawbridge_mqtt::codec::Qos;
    use drawbridge_names::{MqttClientId, PrincipalKind, PrincipalName, RegistryName};

    use super::*;

    fn session(number: u64, uid: u64) -> Record {
        Record::Session(Box::new(StoredSession {
            id: SessionId(number),
            registry: RegistryName::default_registry(),
            uid: Uid(uid),
            name: PrincipalName::parse("lamp").unwrap(),
            kind: PrincipalKind::Device,
            client_id: MqttClientId::parse("lamp").unwrap(),
            owner_epoch: 1,
            kid: None,
            leading_slash: false,
            expiry_s: 3600,
            ended_ms: 0,
            rights_end_ms: 0,
            will: None,
        }))
    }

    fn destination(session: u64) -> Destination {
        let qos = if session.is_multiple_of(2) { Qos::AtLeastOnce } else { Qos::ExactlyOnce };
        Destination { session: SessionId(session), qos, retain: false, identifiers: Box::default() }
    }

    /// Puts a message of `bytes` in all.
    fn put(mirror: &mut Mirror, id: u64, to: &[u64], retained: bool, bytes: u64) {
        #[expect(
            clippy::disallowed_methods,
            reason = "an instant cannot be made otherwise; which is all the same"
        )]
        let time = TimeBase { instant: Instant::now(), unix_ms: 0 };
        let message = Message {
            id: Some(MessageId(id)),
            registry: RegistryName::default_registry(),
            topic: "plant".into(),
            publisher: Publisher { uid: Uid(1), policy_epoch: 0 },
            received: time.instant,
            received_ms: 0,
            expires: None,
            qos: Qos::AtLeastOnce,
            retain: retained,
            properties: Box::default(),
            payload: Arc::from([]),
            origin: (0, 0),
        };
        let to = to.iter().map(|to| destination(*to)).collect();
        let record = Record::Message { id: MessageId(id), message: Arc::new(message), to, retained };
        let bytes = u32::try_from(bytes - 5 - SUM as u64).unwrap();
        mirror.apply(&record, Some(Place { segment: 1, offset: 0, bytes, received_s: 0 }));
    }

    /// What was noted is what is counted anew.
    fn is_true(mirror: &Mirror) {
        let owed = mirror.owed.clone().unwrap_or_default();
        let owed: HashMap<_, _> = owed.into_iter().filter(|(_, bytes)| *bytes > 0).collect();
        assert_eq!(owed, mirror.count_owed());
    }

    fn chosen(mirror: &mut Mirror, excess: u64) -> Vec<u64> {
        let chosen = mirror.too_much(excess);
        mirror.forget_of(&chosen);
        is_true(mirror);
        chosen.into_keys().map(|id| id.0).collect()
    }

    #[test]
    fn who_is_owed_most_loses_down_to_the_level_of_the_others_and_they_lose_nothing() {
        // Session 1 is owed 1..=8, 2 and 3 are owed one each, all of 100 B.
        let mut mirror = Mirror::default();
        (1..=3).for_each(|n| mirror.apply(&session(n, n), None));
        put(&mut mirror, 1, &[2], false, 100);
        (2..=9).for_each(|id| put(&mut mirror, id, &[1], false, 100));
        put(&mut mirror, 10, &[3], false, 100);
        assert_eq!(chosen(&mut mirror, 300), [2, 3, 4]);
        assert_eq!(chosen(&mut mirror, 350), [5, 6, 7, 8]);
        // All have the same now: it goes by age.
        assert_eq!(chosen(&mut mirror, 100), [1]);
        assert_eq!(chosen(&mut mirror, 10_000), [9, 10]);
        assert_eq!(mirror.live_bytes(), 0);
        assert!(chosen(&mut mirror, 1).is_empty());
    }

    #[test]
    fn a_principal_with_many_sessions_has_the_share_of_one() {
        let mut mirror = Mirror::default();
        (1..=10).for_each(|n| mirror.apply(&session(n, 1), None));
        mirror.apply(&session(11, 2), None);
        put(&mut mirror, 1, &[11], false, 300);
        (1..=10).for_each(|n| put(&mut mirror, 1 + n, &[n], false, 100));
        put(&mut mirror, 12, &[10], false, 100);
        // Of its sessions first the one that is owed most.
        assert_eq!(chosen(&mut mirror, 100), [11]);
        assert_eq!(chosen(&mut mirror, 700), [2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(chosen(&mut mirror, 100), [1]);
    }

    #[test]
    fn a_message_goes_only_when_all_who_wait_for_it_are_above_their_share() {
        let mut mirror = Mirror::default();
        (1..=3).for_each(|n| mirror.apply(&session(n, n), None));
        put(&mut mirror, 1, &[1, 2], false, 100);
        (2..=6).for_each(|id| put(&mut mirror, id, &[1, 3], false, 100));
        put(&mut mirror, 7, &[1], true, 100);
        put(&mut mirror, 8, &[1], false, 100);
        // To take 1 from session 1 would give no space; 7 is retained. So it is 8 and what 3 waits for as well.
        assert_eq!(chosen(&mut mirror, 200), [2, 8]);
        assert_eq!(chosen(&mut mirror, 100), [3]);
        // What all are above of is not enough: the level is lowered, to nothing at last.
        assert_eq!(chosen(&mut mirror, 10_000), [1, 4, 5, 6]);
        assert_eq!(mirror.live_bytes(), 100);
    }

    #[test]
    fn what_is_owed_is_known_whatever_happens() {
        let mut mirror = Mirror::default();
        (1..=4).for_each(|n| mirror.apply(&session(n, n), None));
        put(&mut mirror, 1, &[1, 2], true, 50);
        mirror.owed();
        put(&mut mirror, 2, &[1, 2, 2, 9], false, 60);
        is_true(&mirror);
        for to in [3, 3, 9] {
            mirror.apply(&Record::Owed { message: MessageId(1), destination: destination(to) }, None);
            mirror.apply(&Record::Owed { message: MessageId(7), destination: destination(to) }, None);
            is_true(&mirror);
        }
        for _ in 0..2 {
            mirror.apply(&Record::Done { session: SessionId(1), message: MessageId(2) }, None);
            is_true(&mirror);
        }
        mirror
            .moved(MessageId(2), Place { segment: 2, offset: 9, bytes: 60 - 5 - SUM as u32, received_s: 0 });
        put(&mut mirror, 3, &[3, 4], true, 70);
        is_true(&mirror);
        mirror.forget(&HashSet::from([MessageId(1), MessageId(7)]));
        is_true(&mirror);
        mirror.apply(&Record::SessionGone { session: SessionId(3) }, None);
        is_true(&mirror);
        mirror.forget(&HashSet::from([MessageId(2), MessageId(3)]));
        is_true(&mirror);
        assert!(mirror.count_owed().is_empty());
    }
}
