//! SUBSCRIBE: a client asks for messages.
//!
//! Source: MQTT 5.0 and 3.1.1, section 3.8.

use std::num::NonZeroU32;

use super::properties::{Block, Property, PropertySet, PropertyWriter};
use super::wire::{put_packet, put_section, put_string, put_u16};
use super::{
    DecodeError, EncodeError, PacketId, PacketType, PropertyId, ProtocolVersion, Qos, Reader, UserProperties,
};

const SUBSCRIBE_PROPERTIES: PropertySet =
    PropertySet::of(&[PropertyId::SubscriptionIdentifier, PropertyId::UserProperty]);

const QOS: u8 = 0x03;
const NO_LOCAL: u8 = 0x04;
const RETAIN_AS_PUBLISHED: u8 = 0x08;
const RETAIN_HANDLING: u8 = 0x30;
const RETAIN_HANDLING_SHIFT: u8 = 4;
const RESERVED_V5: u8 = 0xc0;

/// A request for messages.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Subscribe<'a> {
    /// Which request.
    pub packet_id: PacketId,
    /// What deliveries for it should carry; 5.0 only, at most 268,435,455.
    pub subscription_identifier: Option<NonZeroU32>,
    /// User properties; 5.0 only.
    pub user_properties: UserProperties<'a>,
    /// What is asked for, in order; never empty.
    pub entries: Vec<SubscribeEntry<'a>>,
}

/// One subscription asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SubscribeEntry<'a> {
    /// The text of the filter: UTF-8 without control characters, but perhaps no valid filter; the
    /// answer to that is a return code in SUBACK.
    pub filter: &'a str,
    /// Highest QoS of delivery.
    pub qos: Qos,
    /// Whether the client's own messages are left out; 5.0 only.
    pub no_local: bool,
    /// Whether forwarded messages keep their retain flag; 5.0 only.
    pub retain_as_published: bool,
    /// When retained messages are sent; 5.0 only, at subscribe in 3.1.1.
    pub retain_handling: RetainHandling,
}

/// When retained messages are sent.
///
/// Source: MQTT 5.0 section 3.8.3.1.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum RetainHandling {
    /// At each subscribe.
    #[default]
    SendAtSubscribe = 0,
    /// At a subscribe that makes a new subscription.
    SendIfNew = 1,
    /// Never.
    DoNotSend = 2,
}

impl<'a> SubscribeEntry<'a> {
    /// One with a filter and a QoS, all else by default.
    #[must_use]
    pub fn of(filter: &'a str, qos: Qos) -> Self {
        Self {
            filter,
            qos,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::default(),
        }
    }

    fn decode(body: &mut Reader<'a>, version: ProtocolVersion) -> Result<Self, DecodeError> {
        let filter = body.string("topic filter")?;
        let found = body.u8("subscription options")?;
        let reserved = match version {
            ProtocolVersion::V311 => !QOS,
            ProtocolVersion::V5 => RESERVED_V5,
        };
        if found & reserved != 0 {
            return Err(DecodeError::SubscriptionOptionsReserved { found });
        }
        let no_local = found & NO_LOCAL != 0;
        if no_local && is_shared(filter) {
            return Err(DecodeError::NoLocalOnShared);
        }
        Ok(Self {
            filter,
            qos: Qos::from_bits(found & QOS).ok_or(DecodeError::SubscriptionQosThree)?,
            no_local,
            retain_as_published: found & RETAIN_AS_PUBLISHED != 0,
            retain_handling: match (found & RETAIN_HANDLING) >> RETAIN_HANDLING_SHIFT {
                0 => RetainHandling::SendAtSubscribe,
                1 => RetainHandling::SendIfNew,
                2 => RetainHandling::DoNotSend,
                _ => return Err(DecodeError::RetainHandlingThree),
            },
        })
    }

    fn options(&self, version: ProtocolVersion) -> u8 {
        let mut options = self.qos.bits();
        if version == ProtocolVersion::V5 {
            if self.no_local {
                options |= NO_LOCAL;
            }
            if self.retain_as_published {
                options |= RETAIN_AS_PUBLISHED;
            }
            options |= (self.retain_handling as u8) << RETAIN_HANDLING_SHIFT;
        }
        options
    }
}

/// Source: MQTT 5.0 section 4.8.2.
fn is_shared(filter: &str) -> bool {
    filter.starts_with("$share/")
}

impl<'a> Subscribe<'a> {
    pub(super) fn decode(mut body: Reader<'a>, version: ProtocolVersion) -> Result<Self, DecodeError> {
        let packet_id = body.packet_id()?;
        let mut subscription_identifier = None;
        let mut user_properties = UserProperties::default();
        if version == ProtocolVersion::V5 {
            let block = Block::read(&mut body, SUBSCRIBE_PROPERTIES, |property| {
                if let Property::SubscriptionIdentifier(value) = property {
                    subscription_identifier = Some(value);
                }
            })?;
            user_properties = block.user_properties();
        }
        let mut entries = Vec::new();
        while !body.is_empty() {
            entries.push(SubscribeEntry::decode(&mut body, version)?);
        }
        if entries.is_empty() {
            return Err(DecodeError::EmptyList { packet: PacketType::Subscribe });
        }
        Ok(Self { packet_id, subscription_identifier, user_properties, entries })
    }

    pub(super) fn encode(&self, version: ProtocolVersion, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if self.entries.is_empty() {
            return Err(EncodeError::EmptyList { packet: PacketType::Subscribe });
        }
        put_packet(out, PacketType::Subscribe.first_byte(), |out| {
            put_u16(out, self.packet_id.get());
            if version == ProtocolVersion::V5 {
                put_section(out, |out| {
                    let mut writer = PropertyWriter(out);
                    if let Some(id) = self.subscription_identifier {
                        writer.variable(PropertyId::SubscriptionIdentifier, id)?;
                    }
                    writer.user(self.user_properties)
                })?;
            }
            for entry in &self.entries {
                if version == ProtocolVersion::V5 && entry.no_local && is_shared(entry.filter) {
                    return Err(EncodeError::NoLocalOnShared);
                }
                put_string(out, "topic filter", entry.filter)?;
                out.push(entry.options(version));
            }
            Ok(())
        })
    }
}
