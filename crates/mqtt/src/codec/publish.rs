//! PUBLISH: a message, the packet whose cost counts.
//!
//! Decoding a PUBLISH without properties looks at its flags, the topic, the identifier, and slices the
//! payload; it allocates nothing, with properties neither.
//!
//! Source: MQTT 5.0 and 3.1.1, section 3.3.

use std::fmt;
use std::num::NonZeroU16;

use drawbridge_names::TopicName;

use super::properties::{Block, Property, PropertySet, PropertyWriter};
use super::wire::{put_binary, put_section, put_u16, put_variable, variable_bytes};
use super::{
    DecodeError, EncodeError, Hidden, PacketId, PacketType, PropertyId, ProtocolVersion, Qos, Reader, Side,
    SubscriptionIdentifiers, UserProperties, hidden,
};

const RETAIN: u8 = 0x01;
const QOS: u8 = 0x06;
const QOS_SHIFT: u8 = 1;
const DUP: u8 = 0x08;

const PUBLISH_PROPERTIES: PropertySet = PropertySet::of(&[
    PropertyId::PayloadFormatIndicator,
    PropertyId::MessageExpiryInterval,
    PropertyId::TopicAlias,
    PropertyId::ResponseTopic,
    PropertyId::CorrelationData,
    PropertyId::UserProperty,
    PropertyId::SubscriptionIdentifier,
    PropertyId::ContentType,
]);

/// A message on its way. `Debug` shows the length of its payload.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Publish<'a> {
    /// Sent before, perhaps; never at QoS 0.
    pub dup: bool,
    /// QoS of this hop.
    pub qos: Qos,
    /// To be kept (from a client), or kept before (from a server).
    pub retain: bool,
    /// Where it goes; `None` only in 5.0 when the topic alias alone says it.
    pub topic: Option<TopicName<'a>>,
    /// Present exactly at QoS 1 and 2.
    pub packet_id: Option<PacketId>,
    /// Properties; 5.0 only.
    pub properties: PublishProperties<'a>,
    /// The message.
    pub payload: &'a [u8],
}

/// Properties of PUBLISH.
///
/// Source: MQTT 5.0 section 3.3.2.3.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct PublishProperties<'a> {
    /// Whether the payload is said to be UTF-8; it is not checked here.
    pub payload_format_utf8: Option<bool>,
    /// What is left of the message's life, in seconds.
    pub message_expiry_s: Option<u32>,
    /// A number for the topic, on this connection and in this direction.
    pub topic_alias: Option<NonZeroU16>,
    /// Where to answer.
    pub response_topic: Option<TopicName<'a>>,
    /// What the answer should repeat.
    pub correlation_data: Option<&'a [u8]>,
    /// User properties; a server forwards them in their order.
    pub user_properties: UserProperties<'a>,
    /// For which subscriptions it is delivered; from a server only.
    pub subscription_identifiers: SubscriptionIdentifiers<'a>,
    /// What the payload is.
    pub content_type: Option<&'a str>,
}

/// Judges the flags of a PUBLISH from its first byte.
#[inline]
pub(super) fn judge_flags(first_byte: u8) -> Result<(), DecodeError> {
    match (first_byte & QOS) >> QOS_SHIFT {
        3 => Err(DecodeError::QosThree),
        0 if first_byte & DUP != 0 => Err(DecodeError::DupAtQosZero),
        _ => Ok(()),
    }
}

fn first_byte(dup: bool, qos: Qos, retain: bool) -> u8 {
    PacketType::Publish.first_byte()
        | if dup { DUP } else { 0 }
        | qos.bits() << QOS_SHIFT
        | if retain { RETAIN } else { 0 }
}

impl<'a> Publish<'a> {
    #[inline(always)]
    pub(super) fn decode(
        first_byte: u8,
        mut body: Reader<'a>,
        version: ProtocolVersion,
        side: Side,
    ) -> Result<Self, DecodeError> {
        let qos = Qos::from_bits((first_byte & QOS) >> QOS_SHIFT).ok_or(DecodeError::QosThree)?;
        let field = "topic name";
        let topic = body.topic(field)?;
        let packet_id = if qos == Qos::AtMostOnce { None } else { Some(body.packet_id()?) };
        let properties = match version {
            ProtocolVersion::V5 => PublishProperties::decode(&mut body, side)?,
            ProtocolVersion::V311 => PublishProperties::default(),
        };
        if topic.is_none() && properties.topic_alias.is_none() {
            let alias_would_do = version == ProtocolVersion::V5;
            return Err(DecodeError::TopicMissing { packet: PacketType::Publish, field, alias_would_do });
        }
        Ok(Self {
            dup: first_byte & DUP != 0,
            qos,
            retain: first_byte & RETAIN != 0,
            topic,
            packet_id,
            properties,
            payload: body.rest(),
        })
    }

    pub(super) fn encode(&self, version: ProtocolVersion, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        encode_publish(
            version,
            self.dup,
            self.qos,
            self.retain,
            self.topic.map_or("", TopicName::as_str),
            self.packet_id,
            &self.properties,
            self.payload,
            out,
        )
    }
}

impl<'a> PublishProperties<'a> {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.payload_format_utf8.is_none()
            && self.message_expiry_s.is_none()
            && self.topic_alias.is_none()
            && self.response_topic.is_none()
            && self.correlation_data.is_none()
            && self.user_properties.is_empty()
            && self.subscription_identifiers.is_empty()
            && self.content_type.is_none()
    }

    /// Appends them as one block with its length: the form in which a stored message keeps them.
    ///
    /// # Errors
    /// [`EncodeError`]; `out` is then as it was.
    pub fn encode_block(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        put_section(out, |out| {
            let mut writer = PropertyWriter(out);
            writer.bool(PropertyId::PayloadFormatIndicator, self.payload_format_utf8);
            writer.u32(PropertyId::MessageExpiryInterval, self.message_expiry_s);
            writer.u16(PropertyId::TopicAlias, self.topic_alias.map(NonZeroU16::get));
            writer.string(PropertyId::ResponseTopic, self.response_topic.map(TopicName::as_str))?;
            writer.binary(PropertyId::CorrelationData, self.correlation_data)?;
            writer.user(self.user_properties)?;
            writer.subscription_identifiers(self.subscription_identifiers)?;
            writer.string(PropertyId::ContentType, self.content_type)
        })
    }

    /// Reads what [`Self::encode_block`] wrote, and nothing more.
    ///
    /// # Errors
    /// [`DecodeError`] as for a PUBLISH from a server.
    pub fn decode_block(block: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(block, PacketType::Publish);
        let found = Self::decode(&mut reader, Side::FromServer)?;
        reader.finish()?;
        Ok(found)
    }

    #[inline(always)]
    fn decode(body: &mut Reader<'a>, side: Side) -> Result<Self, DecodeError> {
        if body.rest().first() == Some(&0) {
            body.u8("property length")?;
            return Ok(Self::default());
        }
        Self::decode_some(body, side)
    }

    #[inline(never)]
    fn decode_some(body: &mut Reader<'a>, side: Side) -> Result<Self, DecodeError> {
        let mut found = Self::default();
        let block = Block::read(body, PUBLISH_PROPERTIES, |property| match property {
            Property::PayloadFormatUtf8(value) => found.payload_format_utf8 = Some(value),
            Property::MessageExpiry(value) => found.message_expiry_s = Some(value),
            Property::TopicAlias(value) => found.topic_alias = Some(value),
            Property::ResponseTopic(value) => found.response_topic = Some(value),
            Property::CorrelationData(value) => found.correlation_data = Some(value),
            Property::ContentType(value) => found.content_type = Some(value),
            _ => {} // those that may repeat; `PUBLISH_PROPERTIES` lets nothing else pass
        })?;
        found.user_properties = block.user_properties();
        found.subscription_identifiers = block.subscription_identifiers();
        // [MQTT-3.3.4-6] (5.0)
        if side == Side::FromClient && !found.subscription_identifiers.is_empty() {
            return Err(DecodeError::PropertyWrongDirection {
                packet: PacketType::Publish,
                property: PropertyId::SubscriptionIdentifier,
                side,
            });
        }
        Ok(found)
    }
}

/// Appends a PUBLISH to `out`. `topic` is trusted to be a topic name, or empty when a topic alias
/// stands for it; `properties` are left out in 3.1.1.
///
/// # Errors
/// [`EncodeError`]; `out` is then as it was.
#[expect(clippy::too_many_arguments, reason = "the fields of a packet, without a packet to fill first")]
pub fn encode_publish(
    version: ProtocolVersion,
    dup: bool,
    qos: Qos,
    retain: bool,
    topic: &str,
    packet_id: Option<PacketId>,
    properties: &PublishProperties<'_>,
    payload: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    if qos == Qos::AtMostOnce && packet_id.is_some() {
        return Err(EncodeError::PacketIdAtQosZero);
    }
    if qos != Qos::AtMostOnce && packet_id.is_none() {
        return Err(EncodeError::PacketIdMissing);
    }
    if qos == Qos::AtMostOnce && dup {
        return Err(EncodeError::DupAtQosZero);
    }
    if topic.is_empty() && (version == ProtocolVersion::V311 || properties.topic_alias.is_none()) {
        return Err(EncodeError::TopicMissing);
    }
    let start = out.len();
    let written =
        put_publish(version, first_byte(dup, qos, retain), topic, packet_id, properties, payload, out);
    if written.is_err() {
        out.truncate(start);
    }
    written
}

fn put_publish(
    version: ProtocolVersion,
    first_byte: u8,
    topic: &str,
    packet_id: Option<PacketId>,
    properties: &PublishProperties<'_>,
    payload: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let bytes_but_properties = 2 + topic.len() + if packet_id.is_some() { 2 } else { 0 } + payload.len();
    if version == ProtocolVersion::V311 || properties.is_empty() {
        let property_length = usize::from(version == ProtocolVersion::V5);
        out.reserve(5 + bytes_but_properties + property_length);
        out.push(first_byte);
        put_variable(out, bytes_but_properties + property_length)?;
        put_variable_header(topic, packet_id, out)?;
        if version == ProtocolVersion::V5 {
            out.push(0);
        }
    } else {
        // The length of the properties is known once they are written: write the head, then put the
        // remaining length in front of it. The payload is written once, after that.
        out.push(first_byte);
        let length_at = out.len();
        put_variable_header(topic, packet_id, out)?;
        properties.encode_block(out)?;
        let (length, count) = variable_bytes(out.len() - length_at + payload.len())?;
        out.splice(length_at..length_at, length[..count].iter().copied());
    }
    out.extend_from_slice(payload);
    Ok(())
}

fn put_variable_header(
    topic: &str,
    packet_id: Option<PacketId>,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    put_binary(out, "topic name", topic.as_bytes())?;
    if let Some(packet_id) = packet_id {
        put_u16(out, packet_id.get());
    }
    Ok(())
}

/// A message encoded once for all subscribers of one version and one class of QoS (0, or 1 and 2):
/// only the flags and the packet identifier differ between them.
#[derive(Clone, Default)]
pub struct PublishTemplate {
    bytes: Vec<u8>,
    packet_id_at: Option<usize>,
    payload_at: usize,
}

impl PublishTemplate {
    /// Encodes the message; `acknowledged` = for QoS 1 and 2. `properties` are those common to all:
    /// a subscriber with subscription identifiers or a topic alias needs a packet of its own.
    ///
    /// # Errors
    /// [`EncodeError`] as [`encode_publish`].
    pub fn new(
        version: ProtocolVersion,
        acknowledged: bool,
        topic: &str,
        properties: &PublishProperties<'_>,
        payload: &[u8],
    ) -> Result<Self, EncodeError> {
        let mut template = Self::default();
        template.refill(version, acknowledged, topic, properties, payload)?;
        Ok(template)
    }

    /// As [`Self::new`], into the memory of a template no longer needed. After an error the template
    /// is empty.
    ///
    /// # Errors
    /// [`EncodeError`] as [`encode_publish`].
    pub fn refill(
        &mut self,
        version: ProtocolVersion,
        acknowledged: bool,
        topic: &str,
        properties: &PublishProperties<'_>,
        payload: &[u8],
    ) -> Result<(), EncodeError> {
        self.bytes.clear();
        self.packet_id_at = None;
        self.payload_at = 0;
        let (qos, id) =
            if acknowledged { (Qos::AtLeastOnce, PacketId::new(1)) } else { (Qos::AtMostOnce, None) };
        encode_publish(version, false, qos, false, topic, id, properties, payload, &mut self.bytes)?;
        if acknowledged {
            let header_bytes = 1 + self.bytes[1..].iter().take_while(|&&byte| byte & 0x80 != 0).count() + 1;
            self.packet_id_at = Some(header_bytes + 2 + topic.len());
        }
        self.payload_at = self.bytes.len() - payload.len();
        Ok(())
    }

    /// Appends the packet for one subscriber to `out`.
    ///
    /// # Errors
    /// [`EncodeError`] when `delivery` is of the other class of QoS than the template.
    #[inline]
    pub fn write(&self, delivery: Delivery, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.write_part(delivery, self.bytes.len(), out)
    }

    /// Appends what precedes the payload, for one subscriber; [`Self::payload`] follows, shared.
    ///
    /// # Errors
    /// [`EncodeError`] when `delivery` is of the other class of QoS than the template.
    #[inline]
    pub fn write_head(&self, delivery: Delivery, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.write_part(delivery, self.payload_at, out)
    }

    /// The payload as encoded.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.bytes[self.payload_at..]
    }

    /// The whole packet, at QoS 0 or (acknowledged) at QoS 1 with identifier 1.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Where in [`Self::bytes`] the two bytes of the packet identifier are.
    #[must_use]
    pub fn packet_id_at(&self) -> Option<usize> {
        self.packet_id_at
    }

    #[inline]
    fn write_part(&self, delivery: Delivery, bytes: usize, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let Delivery { dup, qos, retain, packet_id } = delivery;
        if self.bytes.is_empty() {
            return Err(EncodeError::TopicMissing);
        }
        if dup && qos == Qos::AtMostOnce {
            return Err(EncodeError::DupAtQosZero);
        }
        let patch = match (self.packet_id_at, packet_id) {
            (Some(at), Some(id)) if qos != Qos::AtMostOnce => Some((at, id)),
            (None, None) if qos == Qos::AtMostOnce => None,
            (_, None) => return Err(EncodeError::PacketIdMissing),
            (_, Some(_)) => return Err(EncodeError::PacketIdAtQosZero),
        };
        let start = out.len();
        out.extend_from_slice(&self.bytes[..bytes]);
        out[start] = first_byte(dup, qos, retain);
        if let Some((at, id)) = patch {
            out[start + at..start + at + 2].copy_from_slice(&id.get().to_be_bytes());
        }
        Ok(())
    }
}

/// What differs between the deliveries of one message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Delivery {
    /// Sent before, perhaps; never at QoS 0.
    pub dup: bool,
    /// QoS of this delivery.
    pub qos: Qos,
    /// Whether it is marked as retained.
    pub retain: bool,
    /// Present exactly at QoS 1 and 2.
    pub packet_id: Option<PacketId>,
}

impl fmt::Debug for PublishTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublishTemplate")
            .field("bytes", &Hidden(self.bytes.len()))
            .field("packet_id_at", &self.packet_id_at)
            .field("payload_at", &self.payload_at)
            .finish()
    }
}

impl fmt::Debug for Publish<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publish")
            .field("dup", &self.dup)
            .field("qos", &self.qos)
            .field("retain", &self.retain)
            .field("topic", &self.topic)
            .field("packet_id", &self.packet_id)
            .field("properties", &self.properties)
            .field("payload", &Hidden(self.payload.len()))
            .finish()
    }
}

impl fmt::Debug for PublishProperties<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublishProperties")
            .field("payload_format_utf8", &self.payload_format_utf8)
            .field("message_expiry_s", &self.message_expiry_s)
            .field("topic_alias", &self.topic_alias)
            .field("response_topic", &self.response_topic)
            .field("correlation_data", &hidden(self.correlation_data))
            .field("user_properties", &self.user_properties)
            .field("subscription_identifiers", &self.subscription_identifiers)
            .field("content_type", &self.content_type)
            .finish()
    }
}
