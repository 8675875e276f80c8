//! PUBACK, PUBREC, PUBREL and PUBCOMP: one shape.
//!
//! Source: MQTT 5.0 and 3.1.1, sections 3.4 to 3.7.

use super::properties::{Block, Property, PropertySet, PropertyWriter};
use super::wire::{put_packet, put_section, put_u16};
use super::{
    DecodeError, EncodeError, PacketId, PacketType, PropertyId, ProtocolVersion, Reader, ReasonCode,
    UserProperties, judge_reason, read_reason,
};

/// What PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK and UNSUBACK may carry.
pub(super) const ACK_PROPERTIES: PropertySet =
    PropertySet::of(&[PropertyId::ReasonString, PropertyId::UserProperty]);

/// A step in the delivery of a message at QoS 1 or 2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ack<'a> {
    /// Which message.
    pub packet_id: PacketId,
    /// How it went; in 3.1.1 always [`ReasonCode::Success`], and not sent.
    pub reason: ReasonCode,
    /// Words for people; 5.0 only.
    pub reason_string: Option<&'a str>,
    /// User properties; 5.0 only.
    pub user_properties: UserProperties<'a>,
}

impl<'a> Ack<'a> {
    /// The plain one: success, nothing more to say.
    #[must_use]
    pub fn success(packet_id: PacketId) -> Self {
        Self::of(packet_id, ReasonCode::Success)
    }

    /// One with a reason code and nothing more to say.
    #[must_use]
    pub fn of(packet_id: PacketId, reason: ReasonCode) -> Self {
        Self { packet_id, reason, reason_string: None, user_properties: UserProperties::default() }
    }

    #[inline]
    pub(super) fn decode(mut body: Reader<'a>, version: ProtocolVersion) -> Result<Self, DecodeError> {
        let mut found = Self::success(body.packet_id()?);
        if version == ProtocolVersion::V5 && !body.is_empty() {
            found.reason = read_reason(&mut body)?;
            // The property length may be left out together with what it counts.
            if !body.is_empty() {
                (found.reason_string, found.user_properties) = read_ack_properties(&mut body)?;
            }
        }
        body.finish()?;
        Ok(found)
    }

    pub(super) fn encode(
        &self,
        packet: PacketType,
        version: ProtocolVersion,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        judge_reason(packet, self.reason)?;
        let plain = self.reason_string.is_none() && self.user_properties.is_empty();
        put_packet(out, packet.first_byte(), |out| {
            put_u16(out, self.packet_id.get());
            if version == ProtocolVersion::V311 || (plain && self.reason == ReasonCode::Success) {
                return Ok(());
            }
            out.push(self.reason.byte());
            if plain {
                return Ok(());
            }
            put_ack_properties(out, self.reason_string, self.user_properties)
        })
    }
}

pub(super) fn read_ack_properties<'a>(
    body: &mut Reader<'a>,
) -> Result<(Option<&'a str>, UserProperties<'a>), DecodeError> {
    let mut reason_string = None;
    let block = Block::read(body, ACK_PROPERTIES, |property| {
        if let Property::ReasonString(value) = property {
            reason_string = Some(value);
        }
    })?;
    Ok((reason_string, block.user_properties()))
}

pub(super) fn put_ack_properties(
    out: &mut Vec<u8>,
    reason_string: Option<&str>,
    user_properties: UserProperties<'_>,
) -> Result<(), EncodeError> {
    put_section(out, |out| {
        let mut writer = PropertyWriter(out);
        writer.string(PropertyId::ReasonString, reason_string)?;
        writer.user(user_properties)
    })
}
