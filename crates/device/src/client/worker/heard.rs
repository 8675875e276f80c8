//! What a packet of the server says.

use drawbridge_mqtt::codec::{Ack, Packet, PacketId, ProtocolVersion, ReasonCode};

use super::super::Incoming;
use super::super::renewal::Renewed;
use crate::connect::{LIFE_PROPERTY, number};

/// What a packet of the server says.
pub(super) enum Heard {
    Message { message: Incoming, id: Option<PacketId> },
    PubAck { id: PacketId, code: u8, why: String },
    PubRec { id: PacketId, code: u8, why: String },
    PubRel(PacketId),
    PubComp(PacketId),
    SubAck { id: PacketId, code: u8, why: String },
    UnsubAck(PacketId),
    Auth { code: ReasonCode, data: Vec<u8>, renewed: Renewed },
    Bye { code: u8, why: String },
    Pong,
    Other,
}

pub(super) fn hear(packet: Packet<'_>, version: ProtocolVersion) -> Heard {
    let why = |code: ReasonCode, said: Option<&str>| said.unwrap_or(code.text()).to_owned();
    let ack = |ack: &Ack<'_>| (ack.packet_id, ack.reason.byte(), why(ack.reason, ack.reason_string));
    match packet {
        Packet::Publish(publish) => {
            let properties = &publish.properties;
            let message = Incoming {
                topic: publish.topic.map(|topic| topic.as_str().to_owned()).unwrap_or_default(),
                payload: publish.payload.to_vec(),
                qos: publish.qos,
                retain: publish.retain,
                response_topic: properties.response_topic.map(|topic| topic.as_str().to_owned()),
                correlation_data: properties.correlation_data.map(<[u8]>::to_vec),
                content_type: properties.content_type.map(str::to_owned),
                user_properties: properties
                    .user_properties
                    .iter()
                    .map(|(name, value)| (name.to_owned(), value.to_owned()))
                    .collect(),
                receipt: None,
            };
            Heard::Message { message, id: publish.packet_id }
        }
        Packet::PubAck(it) => {
            let (id, code, why) = ack(&it);
            Heard::PubAck { id, code, why }
        }
        Packet::PubRec(it) => {
            let (id, code, why) = ack(&it);
            Heard::PubRec { id, code, why }
        }
        Packet::PubComp(it) => Heard::PubComp(it.packet_id),
        Packet::PubRel(it) => Heard::PubRel(it.packet_id),
        Packet::SubAck(it) => {
            let code = it.codes.first().copied().unwrap_or(ReasonCode::UnspecifiedError);
            let why = if version == ProtocolVersion::V311 && code.is_error() {
                "the server refuses it".to_owned()
            } else {
                why(code, it.reason_string)
            };
            Heard::SubAck { id: it.packet_id, code: code.byte(), why }
        }
        Packet::UnsubAck(it) => Heard::UnsubAck(it.packet_id),
        Packet::Auth(it) => Heard::Auth {
            code: it.reason,
            data: it.data.unwrap_or_default().to_vec(),
            renewed: Renewed {
                life_s: number(&it.user_properties, LIFE_PROPERTY),
                removed: it
                    .user_properties
                    .iter()
                    .filter(|(name, _)| *name == "db-unsub")
                    .map(|(_, filter)| filter.to_owned())
                    .collect(),
            },
        },
        Packet::Disconnect(it) => {
            Heard::Bye { code: it.reason.byte(), why: why(it.reason, it.reason_string) }
        }
        Packet::PingResp => Heard::Pong,
        _ => Heard::Other,
    }
}
