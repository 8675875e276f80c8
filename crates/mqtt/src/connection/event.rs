//! What a client says, once its packets are judged.

use std::sync::Arc;

use drawbridge_names::TopicName;

#[cfg(doc)]
use super::Connection;
use super::Fault;
use crate::codec::{Connect, PacketId, PublishProperties, Qos, ReasonCode, Subscribe, Unsubscribe};

/// What the start of the input is.
#[derive(Debug)]
pub enum Step<'a> {
    /// A packet has begun and is not complete. Keep the bytes, and offer them with those that follow.
    NeedMore,
    /// CONNECT is being judged. Keep the bytes, and offer them after [`Connection::admit`].
    Hold,
    /// A packet.
    Took {
        /// Its length: where the next one begins.
        bytes: usize,
        /// What it says.
        event: Event<'a>,
    },
    /// The connection must end: see [`Connection::fail`].
    Failed(Fault),
}

/// What a client says.
#[derive(Debug)]
pub enum Event<'a> {
    /// It wants in. Answer by [`Connection::admit`] or [`Connection::refuse`].
    Connect(Box<Connect<'a>>),
    /// AUTH, by the method of CONNECT: the answer to [`Connection::challenge`], or the beginning of a
    /// re-authentication. Answer by [`Connection::challenge`], before the client is let in by
    /// [`Connection::admit`] or [`Connection::refuse`], later by [`Connection::renewed`] or
    /// [`Connection::disconnect`].
    Auth {
        /// Whether it begins a re-authentication.
        begins: bool,
        /// Authentication Data.
        data: Option<&'a [u8]>,
    },
    /// It publishes. At QoS 1 answer by [`Connection::publish_answer`], at QoS 2 by
    /// [`Connection::received_answer`].
    Publish(Inbound<'a>),
    /// PUBACK: it has taken a message that was sent at QoS 1.
    Acknowledged {
        /// Which message.
        packet_id: PacketId,
        /// What it says of it; always success in 3.1.1.
        reason: ReasonCode,
    },
    /// PUBREC: it has a message that was sent at QoS 2. Answer by [`Connection::release`].
    Received {
        /// Which message.
        packet_id: PacketId,
        /// What it says of it; always success in 3.1.1. An error ends the exchange.
        reason: ReasonCode,
    },
    /// PUBREL: it will not send this message again. Answer by [`Connection::complete_answer`].
    Released {
        /// Which message of its own.
        packet_id: PacketId,
    },
    /// PUBCOMP: the exchange at QoS 2 is over.
    Completed {
        /// Which message.
        packet_id: PacketId,
    },
    /// It subscribes. Answer by [`Connection::subscribe_answer`].
    Subscribe(Subscribe<'a>),
    /// It unsubscribes. Answer by [`Connection::unsubscribe_answer`].
    Unsubscribe(Unsubscribe<'a>),
    /// It is alive. Answer by [`Connection::ping_answer`].
    Ping,
    /// It goes, in an orderly way.
    Disconnect {
        /// Whether it wants its will published all the same (MQTT 5.0, reason 0x04 or an error).
        with_will: bool,
        /// How long its session is kept from now on, in seconds, where it says so anew.
        session_expiry_s: Option<u32>,
    },
}

/// A publish of the client, its topic alias resolved.
#[derive(Debug)]
pub struct Inbound<'a> {
    /// Where it goes.
    pub topic: InboundTopic<'a>,
    /// What it says.
    pub payload: &'a [u8],
    /// 0, 1 or 2.
    pub qos: Qos,
    /// Whether it is to be kept.
    pub retain: bool,
    /// Present exactly at QoS 1 and 2.
    pub packet_id: Option<PacketId>,
    /// The life of the message, in seconds.
    pub message_expiry_s: Option<u32>,
    /// The properties that are forwarded: without alias and expiry.
    pub properties: PublishProperties<'a>,
}

/// A topic name from the packet itself, or from the alias that stands for it.
#[derive(Debug, Clone)]
pub enum InboundTopic<'a> {
    /// From the packet.
    Said(TopicName<'a>),
    /// By alias.
    Alias(Arc<str>),
}

impl InboundTopic<'_> {
    /// The topic name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Said(topic) => topic.as_str(),
            Self::Alias(topic) => topic,
        }
    }
}
