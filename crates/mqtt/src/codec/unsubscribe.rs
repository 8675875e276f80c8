//! UNSUBSCRIBE: a client wants no more of it.
//!
//! Source: MQTT 5.0 and 3.1.1, section 3.10.

use super::properties::{Block, PropertySet, PropertyWriter};
use super::wire::{put_packet, put_section, put_string, put_u16};
use super::{
    DecodeError, EncodeError, PacketId, PacketType, PropertyId, ProtocolVersion, Reader, UserProperties,
};

const UNSUBSCRIBE_PROPERTIES: PropertySet = PropertySet::of(&[PropertyId::UserProperty]);

/// A request to end subscriptions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unsubscribe<'a> {
    /// Which request.
    pub packet_id: PacketId,
    /// User properties; 5.0 only.
    pub user_properties: UserProperties<'a>,
    /// The texts of the filters, in order; never empty. As in SUBSCRIBE each may be no valid filter.
    pub filters: Vec<&'a str>,
}

impl<'a> Unsubscribe<'a> {
    pub(super) fn decode(mut body: Reader<'a>, version: ProtocolVersion) -> Result<Self, DecodeError> {
        let packet_id = body.packet_id()?;
        let user_properties = match version {
            ProtocolVersion::V5 => Block::read(&mut body, UNSUBSCRIBE_PROPERTIES, |_| {})?.user_properties(),
            ProtocolVersion::V311 => UserProperties::default(),
        };
        let mut filters = Vec::new();
        while !body.is_empty() {
            filters.push(body.string("topic filter")?);
        }
        if filters.is_empty() {
            return Err(DecodeError::EmptyList { packet: PacketType::Unsubscribe });
        }
        Ok(Self { packet_id, user_properties, filters })
    }

    pub(super) fn encode(&self, version: ProtocolVersion, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if self.filters.is_empty() {
            return Err(EncodeError::EmptyList { packet: PacketType::Unsubscribe });
        }
        put_packet(out, PacketType::Unsubscribe.first_byte(), |out| {
            put_u16(out, self.packet_id.get());
            if version == ProtocolVersion::V5 {
                put_section(out, |out| PropertyWriter(out).user(self.user_properties))?;
            }
            for filter in &self.filters {
                put_string(out, "topic filter", filter)?;
            }
            Ok(())
        })
    }
}
