//! A message on its way out: its two forms of topic, its properties, and the writing of it into the
//! buffer of one client.

use std::borrow::Cow;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Instant;

use drawbridge_mqtt::codec::{
    Delivery, PacketId, ProtocolVersion, PublishProperties, PublishTemplate, Qos, SubscriptionIdentifiers,
    WillProperties, encode_publish,
};
use drawbridge_names::TopicName;
use drawbridge_policy::PublishFacts;

use super::flow::Kept;
use super::{Conn, Shard};
use crate::effect::{ConnId, Effect};
use crate::message::{Message, Publisher, expiry_s};

/// The topic or filter within, of one on the wire.
pub(super) fn inner_topic(wire: &str, leading_slash: bool) -> &str {
    if leading_slash && wire.starts_with("/devices/") { &wire[1..] } else { wire }
}

/// As [`inner_topic`], of a filter, also behind `$share/GROUP/`.
pub(super) fn inner_filter(wire: &str, leading_slash: bool) -> Cow<'_, str> {
    if leading_slash
        && let Some(rest) = wire.strip_prefix("$share/")
        && let Some((group, filter)) = rest.split_once('/')
    {
        return Cow::Owned(format!("$share/{group}/{}", inner_topic(filter, true)));
    }
    Cow::Borrowed(inner_topic(wire, leading_slash))
}

/// The topic on the wire, of one within.
fn outer_topic(inner: &str, leading_slash: bool) -> Cow<'_, str> {
    if leading_slash && inner.starts_with("devices/") {
        Cow::Owned(format!("/{inner}"))
    } else {
        Cow::Borrowed(inner)
    }
}

/// A message that is being published: borrowed from where it came in, stored at most once.
pub(super) struct Publication<'a> {
    pub(super) registry: usize,
    pub(super) topic: TopicName<'a>,
    pub(super) payload: &'a [u8],
    pub(super) qos: Qos,
    pub(super) retain: bool,
    pub(super) expires: Option<Instant>,
    /// Without alias and expiry.
    pub(super) properties: PublishProperties<'a>,
    pub(super) publisher: Publisher,
    /// The session it came from, for No Local.
    pub(super) from: Option<u32>,
    /// The stored copy, once something needs one.
    pub(super) stored: Option<Arc<Message>>,
    /// The same, where it waits for somebody in this shard.
    pub(super) kept: Option<Arc<Kept>>,
    /// The payload where it is shared already.
    pub(super) payload_shared: Option<&'a Arc<[u8]>>,
}

impl<'a> Publication<'a> {
    /// As rights judge it; `will`: it is one.
    pub(super) fn facts(&self, will: bool) -> PublishFacts {
        PublishFacts { qos: self.qos.bits(), retain: self.retain, will, payload_bytes: self.payload.len() }
    }

    /// A message that was published before, or elsewhere. `topic`: its own.
    pub(super) fn of(registry: usize, topic: TopicName<'a>, message: &'a Arc<Message>) -> Self {
        Self {
            registry,
            topic,
            payload: &message.payload,
            qos: message.qos,
            retain: message.retain,
            expires: message.expires,
            properties: unstored(&message.properties),
            publisher: message.publisher,
            from: None,
            stored: Some(Arc::clone(message)),
            kept: None,
            payload_shared: Some(&message.payload),
        }
    }
}

/// Properties as a stored message keeps them: an encoded block, nothing when there are none.
pub(super) fn stored(properties: &PublishProperties<'_>) -> Box<[u8]> {
    let mut block = Vec::new();
    if !properties.is_empty() {
        let written = properties.encode_block(&mut block);
        debug_assert!(written.is_ok(), "what was decoded can be encoded: {written:?}");
    }
    block.into()
}

/// Reads what [`stored`] wrote.
pub(super) fn unstored(block: &[u8]) -> PublishProperties<'_> {
    if block.is_empty() {
        return PublishProperties::default();
    }
    PublishProperties::decode_block(block).expect("`stored` wrote the block")
}

pub(super) fn will_properties(will: &WillProperties<'_>) -> Box<[u8]> {
    stored(&PublishProperties {
        payload_format_utf8: will.payload_format_utf8,
        response_topic: will.response_topic,
        correlation_data: will.correlation_data,
        user_properties: will.user_properties,
        content_type: will.content_type,
        ..PublishProperties::default()
    })
}

/// One message as one client gets it.
#[derive(Clone, Copy)]
pub(super) struct Outgoing<'a> {
    pub(super) topic: &'a str,
    pub(super) payload: &'a [u8],
    /// With the expiry that is left.
    pub(super) properties: PublishProperties<'a>,
    pub(super) qos: Qos,
    pub(super) retain: bool,
    /// Subscription identifiers; those of 0 are none.
    pub(super) identifiers: (u32, &'a [u32]),
}

impl<'a> Outgoing<'a> {
    pub(super) fn of_stored(message: &'a Message, now: Instant) -> Self {
        let mut properties = unstored(&message.properties);
        properties.message_expiry_s = expiry_s(message.expires, now);
        Self {
            topic: &message.topic,
            payload: &message.payload,
            properties,
            qos: message.qos,
            retain: message.retain,
            identifiers: (0, &[]),
        }
    }
}

/// What became of a message for one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Offered {
    /// In its output buffer.
    Written,
    /// Its buffer is full.
    Full,
    /// It can never take it: larger than its Maximum Packet Size [MQTT-3.1.2-25] (5.0).
    TooLarge,
}

/// One encoding per (version, class of QoS, form of topic) of the message being routed.
#[derive(Default)]
pub(super) struct Templates {
    made: [PublishTemplate; 8],
    filled: u8,
}

const TOPIC_BYTES_MAX: usize = 65_535;
/// A template larger than this is not kept for the next message.
const TEMPLATE_BYTES_KEPT: usize = 64 << 10;

impl Templates {
    /// The next message is another one.
    pub(super) fn clear(&mut self) {
        for (n, template) in self.made.iter_mut().enumerate() {
            if self.filled & (1 << n) != 0 && template.bytes().len() > TEMPLATE_BYTES_KEPT {
                *template = PublishTemplate::default();
            }
        }
        self.filled = 0;
    }

    fn of(
        &mut self,
        version: ProtocolVersion,
        leading_slash: bool,
        message: &Outgoing<'_>,
    ) -> &PublishTemplate {
        let acknowledged = message.qos != Qos::AtMostOnce;
        let n = usize::from(version == ProtocolVersion::V5)
            | usize::from(acknowledged) << 1
            | usize::from(leading_slash) << 2;
        if self.filled & (1 << n) == 0 {
            let topic = outer_topic(message.topic, leading_slash);
            let made =
                self.made[n].refill(version, acknowledged, &topic, &message.properties, message.payload);
            debug_assert!(made.is_ok(), "what was decoded can be encoded: {made:?}");
            self.filled |= 1 << n;
        }
        &self.made[n]
    }
}

impl Shard {
    /// Writes a message into the buffer of a client, if there is room. `packet`: its identifier, at QoS 1 and
    /// 2, and whether it was sent before. `shared`: others get the same one, so encode it once.
    pub(super) fn offer(
        &mut self,
        conn: ConnId,
        message: &Outgoing<'_>,
        packet: Option<(PacketId, bool)>,
        shared: bool,
        fx: &mut Vec<Effect>,
    ) -> Offered {
        let bytes_max = self.config.write_buffer_bytes_max;
        let place = &mut self.places[conn.slot() as usize];
        let Some(state) = place.conn.as_deref_mut() else { return Offered::TooLarge };
        // [MQTT-4.7.3-3]: with the slash that a Google client is told it may be one byte too long.
        let session = state.session.and_then(|slot| self.sessions.get(slot as usize));
        let maps = session.is_some_and(|session| session.leading_slash);
        let registry = session.map(|session| session.registry);
        let tally = registry.and_then(|registry| self.registries.get_mut(registry)).map(|of| &mut of.tally);
        if maps && message.topic.len() == TOPIC_BYTES_MAX && message.topic.starts_with("devices/") {
            self.counters.too_large += 1;
            tally.into_iter().for_each(|tally| tally.dropped += 1);
            return Offered::TooLarge;
        }
        let size = message.payload.len() + message.topic.len() + 16;
        if !state.output.is_empty() && state.output.len() + size > bytes_max {
            return Offered::Full;
        }
        state.lend_buffer(&mut self.pool);
        let start = state.output.len();
        let new_alias = state.put(message, maps, packet, shared.then_some(&mut self.templates));
        let written = state.output.len() - start;
        if written == 0 || written > state.protocol.client_packet_bytes_max() {
            state.output.truncate(start);
            if new_alias {
                state.protocol.take_alias_back();
            }
            self.counters.too_large += 1;
            tally.into_iter().for_each(|tally| tally.dropped += 1);
            return Offered::TooLarge;
        }
        if let Some(tally) = tally {
            tally.delivered[usize::from(message.qos.bits())] += 1;
        }
        self.ask_to_write(conn, fx);
        Offered::Written
    }
}

impl Conn {
    /// `true` when it defined a new topic alias.
    fn put(
        &mut self,
        message: &Outgoing<'_>,
        leading_slash: bool,
        packet: Option<(PacketId, bool)>,
        templates: Option<&mut Templates>,
    ) -> bool {
        let version = self.protocol.version();
        let Outgoing { qos, retain, identifiers: (one, more), .. } = *message;
        let (packet_id, dup) = packet.map_or((None, false), |(packet_id, dup)| (Some(packet_id), dup));
        let numbered = version == ProtocolVersion::V5 && one != 0;
        let aliased = self.protocol.takes_aliases();
        let mut new_alias = false;
        let written = match templates {
            Some(templates) if !numbered && !aliased => {
                let delivery = Delivery { dup, qos, retain, packet_id };
                templates.of(version, leading_slash, message).write(delivery, &mut self.output)
            }
            _ => {
                let mut properties = message.properties;
                let mut list = Vec::new();
                if numbered {
                    list.extend(std::iter::once(&one).chain(more).copied().filter_map(NonZeroU32::new));
                    properties.subscription_identifiers = SubscriptionIdentifiers::of(&list);
                }
                let mut topic = outer_topic(message.topic, leading_slash);
                if let Some((alias, is_new)) = self.protocol.alias(&topic).filter(|_| aliased) {
                    properties.topic_alias = Some(alias);
                    new_alias = is_new;
                    if !is_new {
                        topic = Cow::Borrowed("");
                    }
                }
                let (out, payload) = (&mut self.output, message.payload);
                encode_publish(version, dup, qos, retain, &topic, packet_id, &properties, payload, out)
            }
        };
        debug_assert!(written.is_ok(), "what was decoded can be encoded: {written:?}");
        new_alias
    }
}
