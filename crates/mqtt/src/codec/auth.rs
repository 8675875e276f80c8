//! AUTH: extended authentication, at connect and later.
//!
//! Source: MQTT 5.0 section 3.15.

use std::fmt;

use super::properties::{Block, Property, PropertySet, PropertyWriter};
use super::wire::{put_packet, put_section};
use super::{
    DecodeError, EncodeError, PacketType, PropertyId, ProtocolVersion, Reader, ReasonCode, Side,
    UserProperties, hidden, judge_reason, read_reason,
};

const AUTH_PROPERTIES: PropertySet = PropertySet::of(&[
    PropertyId::AuthenticationMethod,
    PropertyId::AuthenticationData,
    PropertyId::ReasonString,
    PropertyId::UserProperty,
]);

/// A step of extended authentication. `Debug` hides the data.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Auth<'a> {
    /// Success, continue, or (from a client) re-authenticate.
    pub reason: ReasonCode,
    /// The method, the same as in CONNECT. Absent only where the standard lets everything be left
    /// out: success without any property.
    pub method: Option<&'a str>,
    /// What the method has to say.
    pub data: Option<&'a [u8]>,
    /// Words for people.
    pub reason_string: Option<&'a str>,
    /// User properties.
    pub user_properties: UserProperties<'a>,
}

impl<'a> Auth<'a> {
    pub(super) fn decode(mut body: Reader<'a>, side: Side) -> Result<Self, DecodeError> {
        let mut found = Self {
            reason: ReasonCode::Success,
            method: None,
            data: None,
            reason_string: None,
            user_properties: UserProperties::default(),
        };
        if body.is_empty() {
            return Ok(found);
        }
        found.reason = read_reason(&mut body)?;
        let block = Block::read(&mut body, AUTH_PROPERTIES, |property| match property {
            Property::AuthenticationMethod(value) => found.method = Some(value),
            Property::AuthenticationData(value) => found.data = Some(value),
            Property::ReasonString(value) => found.reason_string = Some(value),
            _ => {} // user properties; `AUTH_PROPERTIES` lets nothing else pass
        })?;
        found.user_properties = block.user_properties();
        body.finish()?;
        let packet = PacketType::Auth;
        if side == Side::FromServer && found.reason == ReasonCode::ReAuthenticate {
            return Err(DecodeError::ReasonCodeMisplaced { packet, found: found.reason.byte() });
        }
        // By the letter a success without properties may leave out all, and so may say so at length.
        if found.method.is_none() && !(found.reason == ReasonCode::Success && block.is_empty()) {
            return Err(DecodeError::AuthenticationMethodMissing);
        }
        Ok(found)
    }

    pub(super) fn encode(&self, version: ProtocolVersion, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if version == ProtocolVersion::V311 {
            return Err(EncodeError::NotInVersion { packet: PacketType::Auth });
        }
        judge_reason(PacketType::Auth, self.reason)?;
        let empty = self.data.is_none() && self.reason_string.is_none() && self.user_properties.is_empty();
        let bare = self.method.is_none() && self.reason == ReasonCode::Success && empty;
        if self.method.is_none() && !bare {
            return Err(EncodeError::AuthenticationMethodMissing);
        }
        put_packet(out, PacketType::Auth.first_byte(), |out| {
            if bare {
                return Ok(());
            }
            out.push(self.reason.byte());
            put_section(out, |out| {
                let mut writer = PropertyWriter(out);
                writer.string(PropertyId::AuthenticationMethod, self.method)?;
                writer.binary(PropertyId::AuthenticationData, self.data)?;
                writer.string(PropertyId::ReasonString, self.reason_string)?;
                writer.user(self.user_properties)
            })
        })
    }
}

impl fmt::Debug for Auth<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth")
            .field("reason", &self.reason)
            .field("method", &self.method)
            .field("data", &hidden(self.data))
            .field("reason_string", &self.reason_string)
            .field("user_properties", &self.user_properties)
            .finish()
    }
}
