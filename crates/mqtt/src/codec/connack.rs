//! CONNACK: whether a client is let in.
//!
//! Source: MQTT 5.0 and 3.1.1, section 3.2.

use std::fmt;
use std::num::{NonZeroU16, NonZeroU32};

use super::properties::{Block, Property, PropertySet, PropertyWriter};
use super::wire::{put_packet, put_section};
use super::{
    DecodeError, EncodeError, PacketType, PropertyId, ProtocolVersion, Qos, Reader, ReasonCode,
    UserProperties, hidden, judge_reason, read_reason,
};

const SESSION_PRESENT: u8 = 0x01;

const CONNACK_PROPERTIES: PropertySet = PropertySet::of(&[
    PropertyId::SessionExpiryInterval,
    PropertyId::ReceiveMaximum,
    PropertyId::MaximumQos,
    PropertyId::RetainAvailable,
    PropertyId::MaximumPacketSize,
    PropertyId::AssignedClientIdentifier,
    PropertyId::TopicAliasMaximum,
    PropertyId::ReasonString,
    PropertyId::UserProperty,
    PropertyId::WildcardSubscriptionAvailable,
    PropertyId::SubscriptionIdentifiersAvailable,
    PropertyId::SharedSubscriptionAvailable,
    PropertyId::ServerKeepAlive,
    PropertyId::ResponseInformation,
    PropertyId::ServerReference,
    PropertyId::AuthenticationMethod,
    PropertyId::AuthenticationData,
]);

/// The answer to CONNECT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConnAck<'a> {
    /// Whether the server kept a session of this client; never with a refusal.
    pub session_present: bool,
    /// [`ReasonCode::Success`], or why not. In 3.1.1 the nearest of its six return codes is sent.
    pub reason: ReasonCode,
    /// Properties; not sent in 3.1.1.
    pub properties: ConnAckProperties<'a>,
}

/// Properties of CONNACK.
///
/// Source: MQTT 5.0 section 3.2.2.3.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct ConnAckProperties<'a> {
    /// Session expiry interval in force, in seconds; absent = as the client asked.
    pub session_expiry_s: Option<u32>,
    /// QoS 1 and 2 messages that the server takes at once; absent = 65535.
    pub receive_maximum: Option<NonZeroU16>,
    /// Highest QoS that the server takes: 0 or 1; absent = 2.
    pub maximum_qos: Option<Qos>,
    /// Whether the server keeps retained messages; absent = yes.
    pub retain_available: Option<bool>,
    /// Largest packet that the server takes, in bytes; absent = any.
    pub maximum_packet_size: Option<NonZeroU32>,
    /// The client identifier that the server chose.
    pub assigned_client_id: Option<&'a str>,
    /// Greatest topic alias that the server takes; absent = 0 = none.
    pub topic_alias_maximum: Option<u16>,
    /// Words for people.
    pub reason_string: Option<&'a str>,
    /// User properties.
    pub user_properties: UserProperties<'a>,
    /// Whether filters may have wildcards; absent = yes.
    pub wildcard_subscription_available: Option<bool>,
    /// Whether subscriptions may have identifiers; absent = yes.
    pub subscription_identifiers_available: Option<bool>,
    /// Whether subscriptions may be shared; absent = yes.
    pub shared_subscription_available: Option<bool>,
    /// Keep alive in force, in seconds; absent = as the client said.
    pub server_keep_alive_s: Option<u16>,
    /// From what to make response topics.
    pub response_information: Option<&'a str>,
    /// Another server to go to.
    pub server_reference: Option<&'a str>,
    /// Method of extended authentication.
    pub authentication_method: Option<&'a str>,
    /// Data of extended authentication; only together with a method.
    pub authentication_data: Option<&'a [u8]>,
}

impl<'a> ConnAck<'a> {
    pub(super) fn decode(mut body: Reader<'a>, version: ProtocolVersion) -> Result<Self, DecodeError> {
        let flags = body.u8("connect acknowledge flags")?;
        if flags & !SESSION_PRESENT != 0 {
            return Err(DecodeError::ConnAckFlags { found: flags });
        }
        let session_present = flags & SESSION_PRESENT != 0;
        let (reason, properties) = match version {
            ProtocolVersion::V311 => {
                let found = body.u8("return code")?;
                let reason = ReasonCode::from_connack_return_code_v311(found)
                    .ok_or(DecodeError::ReasonCodeMisplaced { packet: PacketType::ConnAck, found })?;
                (reason, ConnAckProperties::default())
            }
            ProtocolVersion::V5 => (read_reason(&mut body)?, ConnAckProperties::decode(&mut body)?),
        };
        body.finish()?;
        if session_present && reason.is_error() {
            return Err(DecodeError::SessionPresentOnRefusal);
        }
        Ok(Self { session_present, reason, properties })
    }

    pub(super) fn encode(&self, version: ProtocolVersion, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        judge_reason(PacketType::ConnAck, self.reason)?;
        if self.session_present && self.reason.is_error() {
            return Err(EncodeError::SessionPresentOnRefusal);
        }
        put_packet(out, PacketType::ConnAck.first_byte(), |out| {
            out.push(u8::from(self.session_present));
            match version {
                ProtocolVersion::V311 => {
                    out.push(self.reason.connack_return_code_v311().ok_or(
                        EncodeError::ReasonCodeMisplaced { packet: PacketType::ConnAck, found: self.reason },
                    )?);
                    Ok(())
                }
                ProtocolVersion::V5 => {
                    out.push(self.reason.byte());
                    self.properties.encode(out)
                }
            }
        })
    }
}

impl<'a> ConnAckProperties<'a> {
    fn decode(body: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let mut found = Self::default();
        let block = Block::read(body, CONNACK_PROPERTIES, |property| match property {
            Property::SessionExpiry(value) => found.session_expiry_s = Some(value),
            Property::ReceiveMaximum(value) => found.receive_maximum = Some(value),
            Property::MaximumQos(value) => found.maximum_qos = Some(value),
            Property::RetainAvailable(value) => found.retain_available = Some(value),
            Property::MaximumPacketSize(value) => found.maximum_packet_size = Some(value),
            Property::AssignedClientId(value) => found.assigned_client_id = Some(value),
            Property::TopicAliasMaximum(value) => found.topic_alias_maximum = Some(value),
            Property::ReasonString(value) => found.reason_string = Some(value),
            Property::WildcardSubscriptionAvailable(value) => {
                found.wildcard_subscription_available = Some(value);
            }
            Property::SubscriptionIdentifiersAvailable(value) => {
                found.subscription_identifiers_available = Some(value);
            }
            Property::SharedSubscriptionAvailable(value) => found.shared_subscription_available = Some(value),
            Property::ServerKeepAlive(value) => found.server_keep_alive_s = Some(value),
            Property::ResponseInformation(value) => found.response_information = Some(value),
            Property::ServerReference(value) => found.server_reference = Some(value),
            Property::AuthenticationMethod(value) => found.authentication_method = Some(value),
            Property::AuthenticationData(value) => found.authentication_data = Some(value),
            _ => {} // user properties; `CONNACK_PROPERTIES` lets nothing else pass
        })?;
        found.user_properties = block.user_properties();
        if found.authentication_data.is_some() && found.authentication_method.is_none() {
            return Err(DecodeError::AuthenticationDataWithoutMethod { packet: PacketType::ConnAck });
        }
        Ok(found)
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if self.authentication_data.is_some() && self.authentication_method.is_none() {
            return Err(EncodeError::AuthenticationDataWithoutMethod { packet: PacketType::ConnAck });
        }
        let maximum_qos = match self.maximum_qos {
            None => None,
            Some(Qos::AtMostOnce) => Some(false),
            Some(Qos::AtLeastOnce) => Some(true),
            Some(Qos::ExactlyOnce) => return Err(EncodeError::MaximumQosTwo),
        };
        put_section(out, |out| {
            let mut writer = PropertyWriter(out);
            writer.u32(PropertyId::SessionExpiryInterval, self.session_expiry_s);
            writer.u16(PropertyId::ReceiveMaximum, self.receive_maximum.map(NonZeroU16::get));
            writer.bool(PropertyId::MaximumQos, maximum_qos);
            writer.bool(PropertyId::RetainAvailable, self.retain_available);
            writer.u32(PropertyId::MaximumPacketSize, self.maximum_packet_size.map(NonZeroU32::get));
            writer.string(PropertyId::AssignedClientIdentifier, self.assigned_client_id)?;
            writer.u16(PropertyId::TopicAliasMaximum, self.topic_alias_maximum);
            writer.string(PropertyId::ReasonString, self.reason_string)?;
            writer.user(self.user_properties)?;
            writer.bool(PropertyId::WildcardSubscriptionAvailable, self.wildcard_subscription_available);
            writer
                .bool(PropertyId::SubscriptionIdentifiersAvailable, self.subscription_identifiers_available);
            writer.bool(PropertyId::SharedSubscriptionAvailable, self.shared_subscription_available);
            writer.u16(PropertyId::ServerKeepAlive, self.server_keep_alive_s);
            writer.string(PropertyId::ResponseInformation, self.response_information)?;
            writer.string(PropertyId::ServerReference, self.server_reference)?;
            writer.string(PropertyId::AuthenticationMethod, self.authentication_method)?;
            writer.binary(PropertyId::AuthenticationData, self.authentication_data)
        })
    }
}

impl fmt::Debug for ConnAckProperties<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnAckProperties")
            .field("session_expiry_s", &self.session_expiry_s)
            .field("receive_maximum", &self.receive_maximum)
            .field("maximum_qos", &self.maximum_qos)
            .field("retain_available", &self.retain_available)
            .field("maximum_packet_size", &self.maximum_packet_size)
            .field("assigned_client_id", &self.assigned_client_id)
            .field("topic_alias_maximum", &self.topic_alias_maximum)
            .field("reason_string", &self.reason_string)
            .field("user_properties", &self.user_properties)
            .field("wildcard_subscription_available", &self.wildcard_subscription_available)
            .field("subscription_identifiers_available", &self.subscription_identifiers_available)
            .field("shared_subscription_available", &self.shared_subscription_available)
            .field("server_keep_alive_s", &self.server_keep_alive_s)
            .field("response_information", &self.response_information)
            .field("server_reference", &self.server_reference)
            .field("authentication_method", &self.authentication_method)
            .field("authentication_data", &hidden(self.authentication_data))
            .finish()
    }
}
