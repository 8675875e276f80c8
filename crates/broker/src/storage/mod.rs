//! What outlives a process: stored sessions, their messages, the retained messages; as records that a
//! shard gives out and an [`Image`] that recovery gives back.
//!
//! ```text
//! Shard --Batch--> storage (appends, one fsync for a group) --number of the batch--> Shard::committed
//! Shard --Effect::Fetch--> storage --messages--> Shard::fetched
//! storage, at its opening --Image--> Shard::restore
//! ```
//!
//! What every storage keeps to:
//! - the batches of a shard are stored in the order of their numbers, and [`crate::Shard::committed`] is told
//!   a number only when that batch and all before it survive a power cut;
//! - **a batch is stored as a whole or not at all**;
//! - a batch that cannot be stored (a full disk) is kept and tried again: never skipped, never acknowledged;
//! - what recovery gives back is [`Image::apply`] over a prefix of what was appended, which holds every
//!   batch whose number was told.

mod codec;
mod image;

use std::sync::Arc;

use drawbridge_mqtt::codec::{PacketId, Qos};
use drawbridge_names::{KeyId, MqttClientId, PrincipalKind, PrincipalName, RegistryName, TopicFilter, Uid};

use crate::message::Message;
pub use codec::{RecordError, TimeBase};
pub use image::{Image, Pending, SessionImage};

/// Where batches go and messages come back from. Its methods return at once; what becomes of a call is told
/// to the [`StorageListener`] it was opened with.
pub trait Storage: Send + Sync {
    /// Takes a batch of a shard.
    fn submit(&self, shard: usize, batch: Batch);

    /// Reads messages for a session of a shard, in the order asked for.
    fn fetch(&self, shard: usize, session: SessionId, messages: Vec<MessageId>);
}

/// What hears of a [`Storage`]. Called on a thread of the storage; must not block.
pub trait StorageListener: Send + Sync {
    /// The batch with this number, and all before it of this shard, survive a power cut.
    fn committed(&self, shard: usize, number: u64);

    /// The answer to [`Storage::fetch`]: for every message asked for, the message, or `None` when it is
    /// kept no more.
    fn fetched(&self, shard: usize, session: SessionId, messages: Vec<(MessageId, Option<Arc<Message>>)>);

    /// Batches can not be stored for now (`true`), or again (`false`): a full disk, most of all.
    fn stalled(&self, stalled: bool);
}

/// Number of a stored session: given once, never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u64);

/// Number of a stored message: grows in the order in which messages arrived, on all shards together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(pub u64);

/// What a shard wants stored, all of it or nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Its number within the shard: 1, 2, 3 ... without gaps.
    pub number: u64,
    /// In their order.
    pub records: Vec<Record>,
    /// Whether anybody waits for it; if not, it need not be made durable at once.
    pub urgent: bool,
}

/// One thing to remember.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    /// A session that outlives its connection began, or what it says of itself changed.
    Session(Box<StoredSession>),
    /// A session ended for good, with all that belongs to it.
    SessionGone {
        /// The session.
        session: SessionId,
    },
    /// A subscription of a stored session, new or in place of the one with the same filter.
    Subscribed {
        /// The session.
        session: SessionId,
        /// With `$share/GROUP/` in front where it is shared.
        filter: TopicFilter,
        /// On what terms.
        terms: Terms,
    },
    /// The session no longer has this subscription.
    Unsubscribed {
        /// The session.
        session: SessionId,
        /// The filter.
        filter: TopicFilter,
    },
    /// A message, once, and whom it is owed to.
    Message {
        /// Its number.
        id: MessageId,
        /// The message.
        message: Arc<Message>,
        /// The stored sessions that are to get it. May be empty for a retained message.
        to: Vec<Destination>,
        /// Whether it is the last word on its topic from now on.
        retained: bool,
    },
    /// One more session is owed a message that is retained.
    Owed {
        /// The message.
        message: MessageId,
        /// The session, and on what terms.
        destination: Destination,
    },
    /// The last word on a topic was taken back.
    RetainedCleared {
        /// The number of the message that did: one with a lower number that is stored later does not revive the topic.
        id: MessageId,
        /// The registry.
        registry: RegistryName,
        /// The topic.
        topic: Box<str>,
    },
    /// A session is sent the message under this packet identifier. At QoS 2 the packet goes out only after
    /// this is stored.
    Sending {
        /// The session.
        session: SessionId,
        /// The message.
        message: MessageId,
        /// Under which identifier.
        packet_id: PacketId,
    },
    /// The session has sent PUBREC for the message: from now on it is owed a PUBREL, no more the message.
    Received {
        /// The session.
        session: SessionId,
        /// The message.
        message: MessageId,
    },
    /// The session is owed nothing more of the message: PUBACK, PUBCOMP, or it was dropped.
    Done {
        /// The session.
        session: SessionId,
        /// The message.
        message: MessageId,
    },
    /// The session published at QoS 2 under this identifier: the same identifier is the same message until
    /// [`Record::Released`].
    Inbound {
        /// The session.
        session: SessionId,
        /// The identifier.
        packet_id: PacketId,
    },
    /// PUBREL came for the identifier.
    Released {
        /// The session.
        session: SessionId,
        /// The identifier.
        packet_id: PacketId,
    },
}

/// A stored session, without its subscriptions and messages.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredSession {
    /// Its number.
    pub id: SessionId,
    /// Its registry.
    pub registry: RegistryName,
    /// Whose it is.
    pub uid: Uid,
    /// The name of the principal.
    pub name: PrincipalName,
    /// Device or application.
    pub kind: PrincipalKind,
    /// The MQTT client id: with registry and uid the key of a session.
    pub client_id: MqttClientId,
    /// The fence: grows with each connection of the session.
    pub owner_epoch: u64,
    /// The key that opened it last.
    pub kid: Option<KeyId>,
    /// `/devices/...` on the wire is `devices/...` within.
    pub leading_slash: bool,
    /// How long it outlives its connection, in seconds.
    pub expiry_s: u32,
    /// When its connection ended, in ms since 1970-01-01 UTC; 0 while it is connected.
    pub ended_ms: u64,
    /// When the right of its last connection ended or will end, in ms since 1970-01-01 UTC; 0 for never.
    pub rights_end_ms: u64,
    /// What it leaves to say, if its connection ends without a word.
    pub will: Option<StoredWill>,
}

/// A will as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredWill {
    /// Without leading slash where the session maps it.
    pub topic: Box<str>,
    /// The payload.
    pub payload: Arc<[u8]>,
    /// Its QoS.
    pub qos: Qos,
    /// Whether it is retained.
    pub retain: bool,
    /// Message Expiry Interval, in seconds from when it is spoken.
    pub expiry_s: Option<u32>,
    /// The MQTT 5 properties that are forwarded unaltered, encoded.
    pub properties: Box<[u8]>,
    /// Will Delay Interval, in ms.
    pub delay_ms: u64,
    /// The policy epoch of the rights under which it was accepted.
    pub policy_epoch: u64,
}

/// On what terms a session subscribed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// The granted QoS.
    pub qos: Qos,
    /// MQTT 5.0 3.8.3.1.
    pub no_local: bool,
    /// MQTT 5.0 3.8.3.1.
    pub retain_as_published: bool,
    /// Subscription identifier, 0 for none.
    pub identifier: u32,
}

/// A stored session that is owed a message, and on what terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// The session.
    pub session: SessionId,
    /// 1 or 2.
    pub qos: Qos,
    /// The RETAIN flag it gets.
    pub retain: bool,
    /// The identifiers of the subscriptions that matched.
    pub identifiers: Box<[u32]>,
}
