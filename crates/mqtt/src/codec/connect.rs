//! CONNECT: the first packet of a client.
//!
//! Source: MQTT 5.0 and 3.1.1, section 3.1.

use std::fmt;
use std::num::{NonZeroU16, NonZeroU32};

use drawbridge_names::TopicName;

use super::properties::{Block, Property, PropertySet, PropertyWriter};
use super::wire::{put_binary, put_packet, put_section, put_string, put_u16};
use super::{
    DecodeError, EncodeError, Hidden, PacketType, PropertyId, ProtocolVersion, Qos, Reader, UserProperties,
    hidden,
};

const RESERVED: u8 = 0x01;
const CLEAN_START: u8 = 0x02;
const WILL: u8 = 0x04;
const WILL_QOS: u8 = 0x18;
const WILL_QOS_SHIFT: u8 = 3;
const WILL_RETAIN: u8 = 0x20;
const PASSWORD: u8 = 0x40;
const USER_NAME: u8 = 0x80;

const CONNECT_PROPERTIES: PropertySet = PropertySet::of(&[
    PropertyId::SessionExpiryInterval,
    PropertyId::ReceiveMaximum,
    PropertyId::MaximumPacketSize,
    PropertyId::TopicAliasMaximum,
    PropertyId::RequestResponseInformation,
    PropertyId::RequestProblemInformation,
    PropertyId::UserProperty,
    PropertyId::AuthenticationMethod,
    PropertyId::AuthenticationData,
]);

const WILL_PROPERTIES: PropertySet = PropertySet::of(&[
    PropertyId::WillDelayInterval,
    PropertyId::PayloadFormatIndicator,
    PropertyId::MessageExpiryInterval,
    PropertyId::ContentType,
    PropertyId::ResponseTopic,
    PropertyId::CorrelationData,
    PropertyId::UserProperty,
]);

/// A client asks to be let in. `Debug` hides user name, password and authentication data: each of
/// them may be a credential.
#[derive(Clone, PartialEq, Eq)]
pub struct Connect<'a> {
    /// Version that the client speaks.
    pub version: ProtocolVersion,
    /// 3.1.1 calls it clean session: forget what was.
    pub clean_start: bool,
    /// Keep alive, in seconds; 0 = none. Source: section 3.1.2.10.
    pub keep_alive_s: u16,
    /// Client identifier as sent; may be empty, and is judged by the connection.
    pub client_id: &'a str,
    /// User name.
    pub username: Option<&'a str>,
    /// Password.
    pub password: Option<&'a [u8]>,
    /// Message to publish when the client is lost.
    pub will: Option<Will<'a>>,
    /// Properties; as by default in 3.1.1.
    pub properties: ConnectProperties<'a>,
}

/// Properties of CONNECT.
///
/// Source: MQTT 5.0 section 3.1.2.11.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ConnectProperties<'a> {
    /// Session expiry interval, in seconds; absent = 0, 0xFFFFFFFF = never.
    pub session_expiry_s: Option<u32>,
    /// QoS 1 and 2 messages that the client takes at once; absent = 65535.
    pub receive_maximum: Option<NonZeroU16>,
    /// Largest packet that the client takes, in bytes; absent = any.
    pub maximum_packet_size: Option<NonZeroU32>,
    /// Greatest topic alias that the client takes; absent = 0 = none.
    pub topic_alias_maximum: Option<u16>,
    /// Whether the client wants response information; false by default.
    pub request_response_information: bool,
    /// Whether the client wants reason strings and user properties everywhere; true by default.
    pub request_problem_information: bool,
    /// User properties.
    pub user_properties: UserProperties<'a>,
    /// Method of extended authentication.
    pub authentication_method: Option<&'a str>,
    /// Data of extended authentication; only together with a method.
    pub authentication_data: Option<&'a [u8]>,
}

/// The message that is published when a client is lost. `Debug` shows the length of its payload.
///
/// Source: MQTT 5.0 and 3.1.1, section 3.1.2.5.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Will<'a> {
    /// Where it goes.
    pub topic: TopicName<'a>,
    /// What it says.
    pub payload: &'a [u8],
    /// QoS of its publication.
    pub qos: Qos,
    /// Whether it is kept as retained message.
    pub retain: bool,
    /// Properties; absent in 3.1.1.
    pub properties: WillProperties<'a>,
}

/// Properties of a will.
///
/// Source: MQTT 5.0 section 3.1.3.2.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct WillProperties<'a> {
    /// Will delay interval, in seconds; absent = 0.
    pub delay_s: Option<u32>,
    /// Whether the payload is said to be UTF-8.
    pub payload_format_utf8: Option<bool>,
    /// Life of the message, in seconds.
    pub message_expiry_s: Option<u32>,
    /// What the payload is.
    pub content_type: Option<&'a str>,
    /// Where to answer.
    pub response_topic: Option<TopicName<'a>>,
    /// What the answer should repeat.
    pub correlation_data: Option<&'a [u8]>,
    /// User properties.
    pub user_properties: UserProperties<'a>,
}

impl<'a> Connect<'a> {
    pub(super) fn decode(mut body: Reader<'a>) -> Result<Self, DecodeError> {
        let version = decode_version(&mut body)?;
        let flags = body.u8("connect flags")?;
        judge_flags(flags, version)?;
        let keep_alive_s = body.u16("keep alive")?;
        let properties = match version {
            ProtocolVersion::V5 => ConnectProperties::decode(&mut body)?,
            ProtocolVersion::V311 => ConnectProperties::default(),
        };
        let client_id = body.string("client identifier")?;
        let will = if flags & WILL == 0 { None } else { Some(Will::decode(flags, &mut body, version)?) };
        let username = if flags & USER_NAME == 0 { None } else { Some(body.string("user name")?) };
        let password = if flags & PASSWORD == 0 { None } else { Some(body.binary("password")?) };
        body.finish()?;
        Ok(Self {
            version,
            clean_start: flags & CLEAN_START != 0,
            keep_alive_s,
            client_id,
            username,
            password,
            will,
            properties,
        })
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if self.version == ProtocolVersion::V311 && self.password.is_some() && self.username.is_none() {
            return Err(EncodeError::PasswordWithoutUserName);
        }
        put_packet(out, PacketType::Connect.first_byte(), |out| {
            put_string(out, "protocol name", "MQTT")?;
            out.push(match self.version {
                ProtocolVersion::V311 => 4,
                ProtocolVersion::V5 => 5,
            });
            out.push(self.flags());
            put_u16(out, self.keep_alive_s);
            if self.version == ProtocolVersion::V5 {
                self.properties.encode(out)?;
            }
            put_string(out, "client identifier", self.client_id)?;
            if let Some(will) = &self.will {
                if self.version == ProtocolVersion::V5 {
                    will.properties.encode(out)?;
                }
                put_string(out, "will topic", will.topic.as_str())?;
                put_binary(out, "will payload", will.payload)?;
            }
            if let Some(username) = self.username {
                put_string(out, "user name", username)?;
            }
            if let Some(password) = self.password {
                put_binary(out, "password", password)?;
            }
            Ok(())
        })
    }

    fn flags(&self) -> u8 {
        let mut flags = 0;
        if self.clean_start {
            flags |= CLEAN_START;
        }
        if let Some(will) = &self.will {
            flags |= WILL | will.qos.bits() << WILL_QOS_SHIFT;
            if will.retain {
                flags |= WILL_RETAIN;
            }
        }
        if self.password.is_some() {
            flags |= PASSWORD;
        }
        if self.username.is_some() {
            flags |= USER_NAME;
        }
        flags
    }
}

fn decode_version(body: &mut Reader<'_>) -> Result<ProtocolVersion, DecodeError> {
    let name = body.binary("protocol name")?;
    match name {
        b"MQTT" => match body.u8("protocol level")? {
            4 => Ok(ProtocolVersion::V311),
            5 => Ok(ProtocolVersion::V5),
            found => Err(DecodeError::UnsupportedVersion { found }),
        },
        // MQTT 3.1, which had another name.
        b"MQIsdp" => Err(DecodeError::UnsupportedVersion { found: body.u8("protocol level")? }),
        _ => Err(DecodeError::ProtocolName),
    }
}

fn judge_flags(flags: u8, version: ProtocolVersion) -> Result<(), DecodeError> {
    if flags & RESERVED != 0 {
        return Err(DecodeError::ConnectFlagReserved);
    }
    if flags & WILL == 0 && flags & (WILL_QOS | WILL_RETAIN) != 0 {
        return Err(DecodeError::WillFlagsWithoutWill);
    }
    if flags & WILL_QOS == WILL_QOS {
        return Err(DecodeError::WillQosThree);
    }
    if version == ProtocolVersion::V311 && flags & PASSWORD != 0 && flags & USER_NAME == 0 {
        return Err(DecodeError::PasswordWithoutUserName);
    }
    Ok(())
}

impl<'a> ConnectProperties<'a> {
    fn decode(body: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let mut found = Self::default();
        let block = Block::read(body, CONNECT_PROPERTIES, |property| match property {
            Property::SessionExpiry(value) => found.session_expiry_s = Some(value),
            Property::ReceiveMaximum(value) => found.receive_maximum = Some(value),
            Property::MaximumPacketSize(value) => found.maximum_packet_size = Some(value),
            Property::TopicAliasMaximum(value) => found.topic_alias_maximum = Some(value),
            Property::RequestResponseInformation(value) => found.request_response_information = value,
            Property::RequestProblemInformation(value) => found.request_problem_information = value,
            Property::AuthenticationMethod(value) => found.authentication_method = Some(value),
            Property::AuthenticationData(value) => found.authentication_data = Some(value),
            _ => {} // user properties; `CONNECT_PROPERTIES` lets nothing else pass
        })?;
        found.user_properties = block.user_properties();
        if found.authentication_data.is_some() && found.authentication_method.is_none() {
            return Err(DecodeError::AuthenticationDataWithoutMethod { packet: PacketType::Connect });
        }
        Ok(found)
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if self.authentication_data.is_some() && self.authentication_method.is_none() {
            return Err(EncodeError::AuthenticationDataWithoutMethod { packet: PacketType::Connect });
        }
        put_section(out, |out| {
            let mut writer = PropertyWriter(out);
            writer.u32(PropertyId::SessionExpiryInterval, self.session_expiry_s);
            writer.u16(PropertyId::ReceiveMaximum, self.receive_maximum.map(NonZeroU16::get));
            writer.u32(PropertyId::MaximumPacketSize, self.maximum_packet_size.map(NonZeroU32::get));
            writer.u16(PropertyId::TopicAliasMaximum, self.topic_alias_maximum);
            let response = self.request_response_information.then_some(true);
            writer.bool(PropertyId::RequestResponseInformation, response);
            let problem = (!self.request_problem_information).then_some(false);
            writer.bool(PropertyId::RequestProblemInformation, problem);
            writer.user(self.user_properties)?;
            writer.string(PropertyId::AuthenticationMethod, self.authentication_method)?;
            writer.binary(PropertyId::AuthenticationData, self.authentication_data)
        })
    }
}

impl Default for ConnectProperties<'_> {
    fn default() -> Self {
        Self {
            session_expiry_s: None,
            receive_maximum: None,
            maximum_packet_size: None,
            topic_alias_maximum: None,
            request_response_information: false,
            request_problem_information: true,
            user_properties: UserProperties::default(),
            authentication_method: None,
            authentication_data: None,
        }
    }
}

impl<'a> Will<'a> {
    fn decode(flags: u8, body: &mut Reader<'a>, version: ProtocolVersion) -> Result<Self, DecodeError> {
        let properties = match version {
            ProtocolVersion::V5 => WillProperties::decode(body)?,
            ProtocolVersion::V311 => WillProperties::default(),
        };
        let field = "will topic";
        let topic = body.topic(field)?.ok_or(DecodeError::TopicMissing {
            packet: PacketType::Connect,
            field,
            alias_would_do: false,
        })?;
        Ok(Self {
            topic,
            payload: body.binary("will payload")?,
            qos: Qos::from_bits((flags & WILL_QOS) >> WILL_QOS_SHIFT).ok_or(DecodeError::WillQosThree)?,
            retain: flags & WILL_RETAIN != 0,
            properties,
        })
    }
}

impl<'a> WillProperties<'a> {
    fn decode(body: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let mut found = Self::default();
        let block = Block::read(body, WILL_PROPERTIES, |property| match property {
            Property::WillDelay(value) => found.delay_s = Some(value),
            Property::PayloadFormatUtf8(value) => found.payload_format_utf8 = Some(value),
            Property::MessageExpiry(value) => found.message_expiry_s = Some(value),
            Property::ContentType(value) => found.content_type = Some(value),
            Property::ResponseTopic(value) => found.response_topic = Some(value),
            Property::CorrelationData(value) => found.correlation_data = Some(value),
            _ => {} // user properties; `WILL_PROPERTIES` lets nothing else pass
        })?;
        found.user_properties = block.user_properties();
        Ok(found)
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        put_section(out, |out| {
            let mut writer = PropertyWriter(out);
            writer.u32(PropertyId::WillDelayInterval, self.delay_s);
            writer.bool(PropertyId::PayloadFormatIndicator, self.payload_format_utf8);
            writer.u32(PropertyId::MessageExpiryInterval, self.message_expiry_s);
            writer.string(PropertyId::ContentType, self.content_type)?;
            writer.string(PropertyId::ResponseTopic, self.response_topic.map(TopicName::as_str))?;
            writer.binary(PropertyId::CorrelationData, self.correlation_data)?;
            writer.user(self.user_properties)
        })
    }
}

impl fmt::Debug for Connect<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connect")
            .field("version", &self.version)
            .field("clean_start", &self.clean_start)
            .field("keep_alive_s", &self.keep_alive_s)
            .field("client_id", &self.client_id)
            .field("username", &hidden(self.username.map(str::as_bytes)))
            .field("password", &hidden(self.password))
            .field("will", &self.will)
            .field("properties", &self.properties)
            .finish()
    }
}

impl fmt::Debug for ConnectProperties<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectProperties")
            .field("session_expiry_s", &self.session_expiry_s)
            .field("receive_maximum", &self.receive_maximum)
            .field("maximum_packet_size", &self.maximum_packet_size)
            .field("topic_alias_maximum", &self.topic_alias_maximum)
            .field("request_response_information", &self.request_response_information)
            .field("request_problem_information", &self.request_problem_information)
            .field("user_properties", &self.user_properties)
            .field("authentication_method", &self.authentication_method)
            .field("authentication_data", &hidden(self.authentication_data))
            .finish()
    }
}

impl fmt::Debug for Will<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Will")
            .field("topic", &self.topic)
            .field("payload", &Hidden(self.payload.len()))
            .field("qos", &self.qos)
            .field("retain", &self.retain)
            .field("properties", &self.properties)
            .finish()
    }
}

impl fmt::Debug for WillProperties<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WillProperties")
            .field("delay_s", &self.delay_s)
            .field("payload_format_utf8", &self.payload_format_utf8)
            .field("message_expiry_s", &self.message_expiry_s)
            .field("content_type", &self.content_type)
            .field("response_topic", &self.response_topic)
            .field("correlation_data", &hidden(self.correlation_data))
            .field("user_properties", &self.user_properties)
            .finish()
    }
}
