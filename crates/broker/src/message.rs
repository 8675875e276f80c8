//! A message as it is stored and as it crosses from one shard to another.

use std::sync::Arc;
use std::time::{Duration, Instant};

use drawbridge_mqtt::codec::Qos;
use drawbridge_names::{RegistryName, Uid};

use crate::storage::MessageId;

/// One message. The queues, the retained store and the other shards hold this same copy by `Arc`.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Its number in the storage, if there is one.
    pub id: Option<MessageId>,
    /// The registry it belongs to; no other ever sees it.
    pub registry: RegistryName,
    /// Where it goes, in the form without a leading slash. Always a valid topic name.
    pub topic: Box<str>,
    /// Who published it.
    pub publisher: Publisher,
    /// When it arrived, by the monotonic clock.
    pub received: Instant,
    /// When it arrived, in ms since 1970-01-01 UTC; 0 when the shard was not told the wall clock.
    pub received_ms: u64,
    /// When it loses its meaning (Message Expiry Interval, MQTT 5.0 3.3.2.3.3).
    pub expires: Option<Instant>,
    /// The QoS it was published with.
    pub qos: Qos,
    /// The RETAIN flag it was published with.
    pub retain: bool,
    /// The MQTT 5 properties that are forwarded unaltered, encoded, in their order.
    pub properties: Box<[u8]>,
    /// The payload.
    pub payload: Arc<[u8]>,
    /// The shard it entered by and its number there: where there is no storage, it decides between two retained
    /// messages that shards hear of in different order.
    pub origin: (usize, u64),
}

/// Who speaks in a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Publisher {
    /// The principal.
    pub uid: Uid,
    /// The policy epoch under which it was allowed to.
    pub policy_epoch: u64,
}

impl Publisher {
    /// Stands for the server itself, in messages that it sends on nobody's behalf. Principals have random numbers.
    pub const SERVER: Uid = Uid(0);
}

impl Message {
    /// What it costs to keep, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.payload.len() + self.topic.len() + self.properties.len()
    }

    /// Seconds left, rounded up; `None` when it never expires, `Some(0)` when it has expired.
    #[must_use]
    pub fn expiry_s(&self, now: Instant) -> Option<u32> {
        expiry_s(self.expires, now)
    }

    /// Tells which of two messages is the later word: the same answer on every shard, and in the storage.
    pub(crate) fn arrival(&self) -> Arrival {
        (self.id, self.received, self.origin)
    }
}

/// See [`Message::arrival`].
pub(crate) type Arrival = (Option<MessageId>, Instant, (usize, u64));

pub(crate) fn expiry_s(expires: Option<Instant>, now: Instant) -> Option<u32> {
    expires.map(|expires| {
        let left = expires.saturating_duration_since(now);
        u32::try_from((left + Duration::from_nanos(999_999_999)).as_secs()).unwrap_or(u32::MAX)
    })
}

#[cfg(test)]
impl Message {
    pub(crate) fn for_tests(topic: &str, payload: Vec<u8>, received: Instant) -> Self {
        Self {
            id: Some(MessageId(1)),
            registry: RegistryName::default_registry(),
            topic: topic.into(),
            publisher: Publisher { uid: Uid(1), policy_epoch: 0 },
            received,
            received_ms: 0,
            expires: None,
            qos: Qos::AtLeastOnce,
            retain: true,
            properties: Box::default(),
            payload: payload.into(),
            origin: (0, 0),
        }
    }
}
