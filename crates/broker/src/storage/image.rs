//! What stands, after all records up to some point.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use drawbridge_mqtt::codec::{PacketId, Qos};
use drawbridge_names::{RegistryName, TopicFilter};

use super::{Destination, MessageId, Record, SessionId, StoredSession, Terms};

/// Sessions with what they are owed, and the retained messages, without any payload.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Image {
    /// By number.
    pub sessions: BTreeMap<SessionId, SessionImage>,
    /// The message that is the last word on each topic, by registry.
    pub retained: HashMap<RegistryName, BTreeMap<Box<str>, MessageId>>,
    /// For every message that is owed or retained, how many times. A message that is not here is needed by
    /// nobody.
    pub references: BTreeMap<MessageId, u32>,
    cleared: Cleared,
    /// The highest number of a session so far.
    pub session_max: u64,
    /// The highest number of a message so far.
    pub message_max: u64,
    /// The highest owner epoch so far.
    pub owner_epoch_max: u64,
}

/// Topics that were cleared not long ago, by the number of the message that did. Two shards can store the word and the
/// clear of one topic in the wrong order; they are a moment apart then.
#[derive(Debug, Clone, Default, PartialEq)]
struct Cleared {
    by_topic: HashMap<RegistryName, BTreeMap<Box<str>, MessageId>>,
    oldest_first: BTreeSet<(MessageId, RegistryName, Box<str>)>,
    bytes: usize,
}

/// What all of them may hold; beyond it the oldest goes.
const CLEARED_BYTES_MAX: usize = 4 << 20;
const CLEARED_BYTES: usize = 128;

impl Cleared {
    fn find(&self, registry: &RegistryName, topic: &str) -> Option<MessageId> {
        self.by_topic.get(registry)?.get(topic).copied()
    }

    fn put(&mut self, id: MessageId, registry: &RegistryName, topic: &str) {
        self.remove(registry, topic);
        self.by_topic.entry(registry.clone()).or_default().insert(topic.into(), id);
        self.oldest_first.insert((id, registry.clone(), topic.into()));
        self.bytes += CLEARED_BYTES + 2 * topic.len();
        while self.bytes > CLEARED_BYTES_MAX
            && let Some((_, registry, topic)) = self.oldest_first.first().cloned()
        {
            self.remove(&registry, &topic);
        }
    }

    fn remove(&mut self, registry: &RegistryName, topic: &str) {
        let Some(topics) = self.by_topic.get_mut(registry) else { return };
        let Some(id) = topics.remove(topic) else { return };
        if topics.is_empty() {
            self.by_topic.remove(registry);
        }
        self.oldest_first.remove(&(id, registry.clone(), topic.into()));
        self.bytes -= CLEARED_BYTES + 2 * topic.len();
    }
}

/// One stored session.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionImage {
    /// What it says of itself.
    pub session: StoredSession,
    /// Its subscriptions.
    pub subscriptions: BTreeMap<Box<str>, Terms>,
    /// What it is owed, in the order of arrival.
    pub pending: BTreeMap<MessageId, Pending>,
    /// Identifiers that it published under at QoS 2 and has not released.
    pub inbound: BTreeSet<u16>,
}

/// A message that a session is owed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// 1 or 2.
    pub qos: Qos,
    /// The RETAIN flag it gets.
    pub retain: bool,
    /// Subscription identifiers.
    pub identifiers: Box<[u32]>,
    /// The identifier under which it was sent, if it was.
    pub packet_id: Option<PacketId>,
    /// PUBREC came: only PUBREL is owed.
    pub received: bool,
}

impl SessionImage {
    /// The message is kept no more. Of one at QoS 2 that was sent, the client may have it: the exchange goes on, so
    /// that its identifier does not come to mean another message before the client has let go of it.
    pub fn forget(&mut self, id: MessageId) {
        match self.pending.get_mut(&id) {
            Some(pending) if pending.qos == Qos::ExactlyOnce && pending.packet_id.is_some() => {
                pending.received = true;
            }
            _ => {
                self.pending.remove(&id);
            }
        }
    }

    /// The filters with their terms. All parse: they were filters when they were stored.
    pub fn filters(&self) -> impl Iterator<Item = (TopicFilter, Terms)> + '_ {
        self.subscriptions
            .iter()
            .filter_map(|(filter, terms)| Some((TopicFilter::parse(filter).ok()?, *terms)))
    }
}

impl Image {
    /// What stands after one more record. A record about a session or message that is not there (any more)
    /// changes nothing.
    pub fn apply(&mut self, record: &Record) {
        match record {
            Record::Session(stored) => self.put_session(stored),
            Record::SessionGone { session } => {
                if let Some(gone) = self.sessions.remove(session) {
                    gone.pending.keys().for_each(|id| self.drop_reference(*id));
                }
            }
            Record::Subscribed { session, filter, terms } => {
                if let Some(session) = self.sessions.get_mut(session) {
                    session.subscriptions.insert(filter.as_str().into(), *terms);
                }
            }
            Record::Unsubscribed { session, filter } => {
                if let Some(session) = self.sessions.get_mut(session) {
                    session.subscriptions.remove(filter.as_str());
                }
            }
            Record::Message { id, message, to, retained } => {
                self.message_max = self.message_max.max(id.0);
                for destination in to {
                    self.owe(*id, destination);
                }
                let cleared = self.cleared.find(&message.registry, &message.topic);
                if *retained && cleared.is_none_or(|cleared| cleared < *id) {
                    self.cleared.remove(&message.registry, &message.topic);
                    let topics = self.retained.entry(message.registry.clone()).or_default();
                    // One that came later may have been stored earlier: it waited for fewer.
                    if topics.get(&message.topic).is_none_or(|known| known < id) {
                        let old = topics.insert(message.topic.clone(), *id);
                        *self.references.entry(*id).or_default() += 1;
                        if let Some(old) = old {
                            self.drop_reference(old);
                        }
                    }
                }
            }
            Record::Owed { message, destination } => {
                // Of a message that is gone nobody is owed anything.
                if self.references.contains_key(message) {
                    self.owe(*message, destination);
                }
            }
            Record::RetainedCleared { id, registry, topic } => self.clear(*id, registry, topic),
            Record::Sending { session, message, packet_id } => {
                if let Some(pending) = self.pending(*session, *message) {
                    pending.packet_id = Some(*packet_id);
                }
            }
            Record::Received { session, message } => {
                if let Some(pending) = self.pending(*session, *message) {
                    pending.received = true;
                }
            }
            Record::Done { session, message } => {
                let session = self.sessions.get_mut(session);
                if session.is_some_and(|session| session.pending.remove(message).is_some()) {
                    self.drop_reference(*message);
                }
            }
            Record::Inbound { session, packet_id } => {
                if let Some(session) = self.sessions.get_mut(session) {
                    session.inbound.insert(packet_id.get());
                }
            }
            Record::Released { session, packet_id } => {
                if let Some(session) = self.sessions.get_mut(session) {
                    session.inbound.remove(&packet_id.get());
                }
            }
        }
    }

    fn clear(&mut self, id: MessageId, registry: &RegistryName, topic: &str) {
        self.message_max = self.message_max.max(id.0);
        let topics = self.retained.get_mut(registry);
        let known = topics.as_ref().and_then(|topics| topics.get(topic)).copied();
        let newer = known.into_iter().chain(self.cleared.find(registry, topic)).max();
        if newer.is_some_and(|newer| newer >= id) {
            return;
        }
        if let (Some(topics), Some(old)) = (topics, known) {
            topics.remove(topic);
            self.drop_reference(old);
        }
        self.cleared.put(id, registry, topic);
    }

    /// The topics that were cleared not long ago, with the number of the message that did; oldest first. A
    /// [`Record::RetainedCleared`] of each must be in what an image is made anew from.
    pub fn cleared(&self) -> impl Iterator<Item = (MessageId, &RegistryName, &str)> + '_ {
        self.cleared.oldest_first.iter().map(|(id, registry, topic)| (*id, registry, &**topic))
    }

    fn owe(&mut self, id: MessageId, destination: &Destination) {
        let Some(session) = self.sessions.get_mut(&destination.session) else { return };
        let pending = Pending {
            qos: destination.qos,
            retain: destination.retain,
            identifiers: destination.identifiers.clone(),
            packet_id: None,
            received: false,
        };
        if session.pending.insert(id, pending).is_none() {
            *self.references.entry(id).or_default() += 1;
        }
    }

    fn put_session(&mut self, stored: &StoredSession) {
        self.session_max = self.session_max.max(stored.id.0);
        self.owner_epoch_max = self.owner_epoch_max.max(stored.owner_epoch);
        if let Some(known) = self.sessions.get_mut(&stored.id) {
            known.session = stored.clone();
            return;
        }
        let session = SessionImage {
            session: stored.clone(),
            subscriptions: BTreeMap::new(),
            pending: BTreeMap::new(),
            inbound: BTreeSet::new(),
        };
        self.sessions.insert(stored.id, session);
    }

    fn pending(&mut self, session: SessionId, message: MessageId) -> Option<&mut Pending> {
        self.sessions.get_mut(&session)?.pending.get_mut(&message)
    }

    fn drop_reference(&mut self, id: MessageId) {
        if let Some(count) = self.references.get_mut(&id) {
            *count -= 1;
            if *count == 0 {
                self.references.remove(&id);
            }
        }
    }

    /// A message could not be found any more (it was older than the storage keeps): nobody is owed it.
    pub fn forget(&mut self, id: MessageId) {
        if self.references.remove(&id).is_none() {
            return;
        }
        for session in self.sessions.values_mut() {
            session.forget(id);
        }
        for topics in self.retained.values_mut() {
            topics.retain(|_, retained| *retained != id);
        }
    }
}
