//! SUBACK and UNSUBACK: the answers to SUBSCRIBE and UNSUBSCRIBE, one code per entry.
//!
//! Source: MQTT 5.0 and 3.1.1, sections 3.9 and 3.11.

use super::ack::{put_ack_properties, read_ack_properties};
use super::wire::{put_packet, put_u16};
use super::{
    DecodeError, EncodeError, PacketId, PacketType, ProtocolVersion, Reader, ReasonCode, UserProperties,
    judge_reason, read_reason,
};

/// The answer to SUBSCRIBE.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SubAck<'a> {
    /// Which request.
    pub packet_id: PacketId,
    /// One per entry of the request, in its order: the granted QoS or a refusal. In 3.1.1 each refusal
    /// is sent as 0x80.
    pub codes: Vec<ReasonCode>,
    /// Words for people; 5.0 only.
    pub reason_string: Option<&'a str>,
    /// User properties; 5.0 only.
    pub user_properties: UserProperties<'a>,
}

/// The answer to UNSUBSCRIBE.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnsubAck<'a> {
    /// Which request.
    pub packet_id: PacketId,
    /// One per entry of the request, in its order; 3.1.1 has none.
    pub codes: Vec<ReasonCode>,
    /// Words for people; 5.0 only.
    pub reason_string: Option<&'a str>,
    /// User properties; 5.0 only.
    pub user_properties: UserProperties<'a>,
}

impl<'a> SubAck<'a> {
    pub(super) fn decode(mut body: Reader<'a>, version: ProtocolVersion) -> Result<Self, DecodeError> {
        let packet_id = body.packet_id()?;
        let (mut reason_string, mut user_properties) = (None, UserProperties::default());
        if version == ProtocolVersion::V5 {
            (reason_string, user_properties) = read_ack_properties(&mut body)?;
        }
        let mut codes = Vec::with_capacity(body.rest().len());
        while !body.is_empty() {
            let code = read_reason(&mut body)?;
            // [MQTT-3.9.3-2] (3.1.1): 0x00, 0x01, 0x02 and 0x80 only.
            if version == ProtocolVersion::V311 && code.suback_return_code_v311() != code.byte() {
                return Err(DecodeError::ReasonCodeMisplaced {
                    packet: PacketType::SubAck,
                    found: code.byte(),
                });
            }
            codes.push(code);
        }
        if codes.is_empty() {
            return Err(DecodeError::EmptyList { packet: PacketType::SubAck });
        }
        Ok(Self { packet_id, codes, reason_string, user_properties })
    }

    pub(super) fn encode(&self, version: ProtocolVersion, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if self.codes.is_empty() {
            return Err(EncodeError::EmptyList { packet: PacketType::SubAck });
        }
        put_packet(out, PacketType::SubAck.first_byte(), |out| {
            put_u16(out, self.packet_id.get());
            if version == ProtocolVersion::V5 {
                put_ack_properties(out, self.reason_string, self.user_properties)?;
            }
            for &code in &self.codes {
                judge_reason(PacketType::SubAck, code)?;
                out.push(match version {
                    ProtocolVersion::V311 => code.suback_return_code_v311(),
                    ProtocolVersion::V5 => code.byte(),
                });
            }
            Ok(())
        })
    }
}

impl<'a> UnsubAck<'a> {
    pub(super) fn decode(mut body: Reader<'a>, version: ProtocolVersion) -> Result<Self, DecodeError> {
        let packet_id = body.packet_id()?;
        let (mut reason_string, mut user_properties, mut codes) =
            (None, UserProperties::default(), Vec::new());
        if version == ProtocolVersion::V5 {
            (reason_string, user_properties) = read_ack_properties(&mut body)?;
            codes.reserve_exact(body.rest().len());
            while !body.is_empty() {
                codes.push(read_reason(&mut body)?);
            }
            if codes.is_empty() {
                return Err(DecodeError::EmptyList { packet: PacketType::UnsubAck });
            }
        }
        body.finish()?;
        Ok(Self { packet_id, codes, reason_string, user_properties })
    }

    pub(super) fn encode(&self, version: ProtocolVersion, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if self.codes.is_empty() && version == ProtocolVersion::V5 {
            return Err(EncodeError::EmptyList { packet: PacketType::UnsubAck });
        }
        put_packet(out, PacketType::UnsubAck.first_byte(), |out| {
            put_u16(out, self.packet_id.get());
            if version == ProtocolVersion::V311 {
                return Ok(());
            }
            put_ack_properties(out, self.reason_string, self.user_properties)?;
            for &code in &self.codes {
                judge_reason(PacketType::UnsubAck, code)?;
                out.push(code.byte());
            }
            Ok(())
        })
    }
}
