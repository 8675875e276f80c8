//! DISCONNECT: the last packet.
//!
//! Source: MQTT 5.0 and 3.1.1, section 3.14.

use super::properties::{Block, Property, PropertySet, PropertyWriter};
use super::wire::{put_packet, put_section};
use super::{
    DecodeError, EncodeError, PacketType, PropertyId, ProtocolVersion, Reader, ReasonCode, Side,
    UserProperties, judge_reason, read_reason,
};

const DISCONNECT_PROPERTIES: PropertySet = PropertySet::of(&[
    PropertyId::SessionExpiryInterval,
    PropertyId::ReasonString,
    PropertyId::UserProperty,
    PropertyId::ServerReference,
]);

/// The sender is about to close the connection. In 3.1.1 only a client says so, without a reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Disconnect<'a> {
    /// Why; [`ReasonCode::NORMAL_DISCONNECTION`] forgets the will.
    pub reason: ReasonCode,
    /// New session expiry interval, in seconds; from a client only.
    pub session_expiry_s: Option<u32>,
    /// Words for people.
    pub reason_string: Option<&'a str>,
    /// User properties.
    pub user_properties: UserProperties<'a>,
    /// Another server to go to.
    pub server_reference: Option<&'a str>,
}

impl<'a> Disconnect<'a> {
    /// One with a reason and nothing more to say.
    #[must_use]
    pub fn of(reason: ReasonCode) -> Self {
        Self {
            reason,
            session_expiry_s: None,
            reason_string: None,
            user_properties: UserProperties::default(),
            server_reference: None,
        }
    }

    pub(super) fn decode(
        mut body: Reader<'a>,
        version: ProtocolVersion,
        side: Side,
    ) -> Result<Self, DecodeError> {
        let mut found = Self::of(ReasonCode::NORMAL_DISCONNECTION);
        if version == ProtocolVersion::V5 && !body.is_empty() {
            found.reason = read_reason(&mut body)?;
            // The property length may be left out together with what it counts.
            if !body.is_empty() {
                found.decode_properties(&mut body, side)?;
            }
        }
        body.finish()?;
        let packet = PacketType::Disconnect;
        if side == Side::FromServer && found.reason == ReasonCode::DisconnectWithWill {
            return Err(DecodeError::ReasonCodeMisplaced { packet, found: found.reason.byte() });
        }
        Ok(found)
    }

    fn decode_properties(&mut self, body: &mut Reader<'a>, side: Side) -> Result<(), DecodeError> {
        let block = Block::read(body, DISCONNECT_PROPERTIES, |property| match property {
            Property::SessionExpiry(value) => self.session_expiry_s = Some(value),
            Property::ReasonString(value) => self.reason_string = Some(value),
            Property::ServerReference(value) => self.server_reference = Some(value),
            _ => {} // user properties; `DISCONNECT_PROPERTIES` lets nothing else pass
        })?;
        self.user_properties = block.user_properties();
        // [MQTT-3.14.2-2] (5.0)
        if side == Side::FromServer && self.session_expiry_s.is_some() {
            return Err(DecodeError::PropertyWrongDirection {
                packet: PacketType::Disconnect,
                property: PropertyId::SessionExpiryInterval,
                side,
            });
        }
        Ok(())
    }

    pub(super) fn encode(&self, version: ProtocolVersion, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        judge_reason(PacketType::Disconnect, self.reason)?;
        let plain = *self == Self::of(self.reason);
        put_packet(out, PacketType::Disconnect.first_byte(), |out| {
            if version == ProtocolVersion::V311 || (plain && self.reason == ReasonCode::NORMAL_DISCONNECTION)
            {
                return Ok(());
            }
            out.push(self.reason.byte());
            if plain {
                return Ok(());
            }
            put_section(out, |out| {
                let mut writer = PropertyWriter(out);
                writer.u32(PropertyId::SessionExpiryInterval, self.session_expiry_s);
                writer.string(PropertyId::ReasonString, self.reason_string)?;
                writer.user(self.user_properties)?;
                writer.string(PropertyId::ServerReference, self.server_reference)
            })
        })
    }
}
