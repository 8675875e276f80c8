//! Our codec against `rmqtt-codec`: each packet that one writes, the other reads, to the same fields.
//!
//! Where the oracle is narrower than the standard the packet is left out and counted:
//! - a CONNECT without client identifier and without clean start: it refuses what the connection
//!   answers with a return code;
//! - an empty topic filter in 3.1.1: likewise;
//! - a message expiry interval of 0: it refuses what the standard allows;
//! - an absent value and its default: it does not tell them apart, so neither does the comparison.

mod generate;

use std::num::{NonZeroU16, NonZeroU32};

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use drawbridge_mqtt::codec::{
    self, Ack, ConnAck, Connect, Disconnect, Frame, Packet, ProtocolVersion, Publish, ReasonCode, Side,
    UserProperties, Will,
};
use rmqtt_codec::types::{Protocol, QoS};
use rmqtt_codec::{types, v3, v5};
use tokio_util::codec::{Decoder, Encoder};

const PACKETS: u64 = 6_000;

#[derive(Debug, PartialEq)]
enum Theirs {
    V3(v3::Packet),
    V5(v5::Packet),
}

#[test]
fn rmqtt_codec_reads_what_we_write_and_writes_what_we_read() {
    let (mut compared, mut left_out) = (0, 0);
    let mut kinds = std::collections::HashMap::new();
    for seed in 0..PACKETS {
        let (packet, version, side) = generate::packet(seed);
        let Some(expected) = theirs(&packet, version) else {
            left_out += 1;
            continue;
        };
        let mut ours = Vec::new();
        packet.encode(version, &mut ours).expect("a legal packet");
        assert_eq!(read_by_them(&ours, version), expected, "seed {seed}: what we wrote of {packet:?}");

        let written = write_by_them(&packet, version);
        let told = if matches!(packet, Packet::Connect(_)) { None } else { Some(version) };
        let read = read_by_us(&written, told, side);
        assert_eq!(theirs(&read, version), Some(expected), "seed {seed}: what they wrote of {packet:?}");
        *kinds.entry((packet.packet_type(), version)).or_insert(0) += 1;
        compared += 1;
    }
    println!("{compared} packets compared, {left_out} left out");
    assert!(compared >= 5_000, "{compared} compared, {left_out} left out");
    assert_eq!(kinds.len(), 15 + 14, "every kind in both versions: {kinds:?}");
    assert!(kinds.values().all(|&count| count >= 30), "{kinds:?}");
}

fn read_by_us(input: &[u8], version: Option<ProtocolVersion>, side: Side) -> Packet<'_> {
    match codec::decode(input, version, usize::MAX, side) {
        Ok(Frame::Complete { packet, bytes }) if bytes == input.len() => packet,
        other => panic!("{other:?} of {input:02x?}"),
    }
}

fn read_by_them(input: &[u8], version: ProtocolVersion) -> Theirs {
    let mut input = BytesMut::from(input);
    let read = match version {
        ProtocolVersion::V311 => {
            let read = v3::Codec::new(0).decode(&mut input).expect("legal").expect("whole");
            Theirs::V3(read.0)
        }
        ProtocolVersion::V5 => {
            let read = v5::Codec::new(0, 0).decode(&mut input).expect("legal").expect("whole");
            Theirs::V5(read.0)
        }
    };
    assert!(input.is_empty());
    read
}

fn write_by_them(packet: &Packet<'_>, version: ProtocolVersion) -> BytesMut {
    let mut out = BytesMut::new();
    match theirs(packet, version).expect("not left out") {
        Theirs::V3(packet) => v3::Codec::new(0).encode(packet, &mut out).expect("legal"),
        Theirs::V5(packet) => v5::Codec::new(0, 0).encode(packet, &mut out).expect("legal"),
    }
    out
}

/// Our packet in their words, or `None` when they cannot say it.
fn theirs(packet: &Packet<'_>, version: ProtocolVersion) -> Option<Theirs> {
    let names_all = match packet {
        Packet::Subscribe(subscribe) => subscribe.entries.iter().all(|entry| !entry.filter.is_empty()),
        Packet::Unsubscribe(unsubscribe) => unsubscribe.filters.iter().all(|filter| !filter.is_empty()),
        _ => true,
    };
    if !names_all && version == ProtocolVersion::V311 {
        return None;
    }
    match version {
        ProtocolVersion::V311 => in_v3(packet).map(Theirs::V3),
        ProtocolVersion::V5 => in_v5(packet).map(Theirs::V5),
    }
}

fn text(text: &str) -> ByteString {
    ByteString::from(text)
}

fn words(found: Option<&str>) -> Option<ByteString> {
    found.map(text)
}

fn data(found: Option<&[u8]>) -> Option<Bytes> {
    found.map(Bytes::copy_from_slice)
}

fn users(pairs: UserProperties<'_>) -> v5::UserProperties {
    pairs.iter().map(|(name, value)| (text(name), text(value))).collect()
}

fn qos(qos: codec::Qos) -> QoS {
    QoS::try_from(qos.bits()).expect("0 to 2")
}

fn id(id: codec::PacketId) -> NonZeroU16 {
    NonZeroU16::new(id.get()).expect("not 0")
}

/// `Err` when they cannot say it: 0.
fn expiry(found: Option<u32>) -> Result<Option<NonZeroU32>, ()> {
    found.map(|found| NonZeroU32::new(found).ok_or(())).transpose()
}

fn reason<T: TryFrom<u8>>(code: ReasonCode) -> T {
    T::try_from(code.byte()).unwrap_or_else(|_| panic!("the oracle does not know {code}"))
}

fn says_who(connect: &Connect<'_>) -> bool {
    connect.clean_start || !connect.client_id.is_empty()
}

fn in_v3(packet: &Packet<'_>) -> Option<v3::Packet> {
    Some(match packet {
        Packet::Connect(connect) if says_who(connect) => v3::Packet::from(v3::Connect {
            protocol: Protocol(types::MQTT_LEVEL_311),
            clean_session: connect.clean_start,
            keep_alive: connect.keep_alive_s,
            last_will: connect.will.map(|will| v3::LastWill {
                qos: qos(will.qos),
                retain: will.retain,
                topic: text(will.topic.as_str()),
                message: Bytes::copy_from_slice(will.payload),
            }),
            client_id: text(connect.client_id),
            username: words(connect.username),
            password: data(connect.password),
            cert: None,
        }),
        Packet::Connect(_) | Packet::Auth(_) => return None,
        Packet::ConnAck(connack) => v3::Packet::ConnectAck(v3::ConnectAck {
            return_code: v3::ConnectAckReason::try_from(connack.reason.connack_return_code_v311()?).ok()?,
            session_present: connack.session_present,
        }),
        Packet::Publish(publish) => {
            v3::Packet::Publish(Box::new(types::Publish { properties: None, ..in_types(publish).ok()? }))
        }
        Packet::PubAck(ack) => v3::Packet::PublishAck { packet_id: id(ack.packet_id) },
        Packet::PubRec(ack) => v3::Packet::PublishReceived { packet_id: id(ack.packet_id) },
        Packet::PubRel(ack) => v3::Packet::PublishRelease { packet_id: id(ack.packet_id) },
        Packet::PubComp(ack) => v3::Packet::PublishComplete { packet_id: id(ack.packet_id) },
        Packet::Subscribe(subscribe) => v3::Packet::Subscribe {
            packet_id: id(subscribe.packet_id),
            topic_filters: subscribe
                .entries
                .iter()
                .map(|entry| (text(entry.filter), qos(entry.qos)))
                .collect(),
        },
        Packet::SubAck(suback) => v3::Packet::SubscribeAck {
            packet_id: id(suback.packet_id),
            status: suback
                .codes
                .iter()
                .map(|code| match QoS::try_from(code.byte()) {
                    Ok(qos) => v3::SubscribeReturnCode::Success(qos),
                    Err(_) => v3::SubscribeReturnCode::Failure,
                })
                .collect(),
        },
        Packet::Unsubscribe(unsubscribe) => v3::Packet::Unsubscribe {
            packet_id: id(unsubscribe.packet_id),
            topic_filters: unsubscribe.filters.iter().map(|filter| text(filter)).collect(),
        },
        Packet::UnsubAck(unsuback) => v3::Packet::UnsubscribeAck { packet_id: id(unsuback.packet_id) },
        Packet::PingReq => v3::Packet::PingRequest,
        Packet::PingResp => v3::Packet::PingResponse,
        Packet::Disconnect(_) => v3::Packet::Disconnect,
    })
}

fn in_types(publish: &Publish<'_>) -> Result<types::Publish, ()> {
    let properties = &publish.properties;
    Ok(types::Publish {
        dup: publish.dup,
        retain: publish.retain,
        qos: qos(publish.qos),
        topic: text(publish.topic.map_or("", |topic| topic.as_str())),
        packet_id: publish.packet_id.map(id),
        payload: Bytes::copy_from_slice(publish.payload),
        properties: Some(v5::PublishProperties {
            topic_alias: properties.topic_alias,
            correlation_data: data(properties.correlation_data),
            message_expiry_interval: expiry(properties.message_expiry_s)?,
            content_type: words(properties.content_type),
            user_properties: users(properties.user_properties),
            is_utf8_payload: properties.payload_format_utf8.unwrap_or(false),
            response_topic: properties.response_topic.map(|topic| text(topic.as_str())),
            subscription_ids: properties.subscription_identifiers.iter().collect(),
        }),
    })
}

fn in_v5(packet: &Packet<'_>) -> Option<v5::Packet> {
    Some(match packet {
        Packet::Connect(connect) => v5::Packet::from(connect_in_v5(connect)?),
        Packet::ConnAck(connack) => v5::Packet::from(connack_in_v5(connack)),
        Packet::Publish(publish) => v5::Packet::from(in_types(publish).ok()?),
        Packet::PubAck(ack) => v5::Packet::PublishAck(ack_in_v5(ack)),
        Packet::PubRec(ack) => v5::Packet::PublishReceived(ack_in_v5(ack)),
        Packet::PubRel(ack) => v5::Packet::PublishRelease(release_in_v5(ack)),
        Packet::PubComp(ack) => v5::Packet::PublishComplete(release_in_v5(ack)),
        Packet::Subscribe(subscribe) => v5::Packet::Subscribe(v5::Subscribe {
            packet_id: id(subscribe.packet_id),
            id: subscribe.subscription_identifier,
            user_properties: users(subscribe.user_properties),
            topic_filters: subscribe
                .entries
                .iter()
                .map(|entry| {
                    let options = v5::SubscriptionOptions {
                        qos: qos(entry.qos),
                        no_local: entry.no_local,
                        retain_as_published: entry.retain_as_published,
                        retain_handling: v5::RetainHandling::try_from(entry.retain_handling as u8)
                            .expect("0 to 2"),
                    };
                    (text(entry.filter), options)
                })
                .collect(),
        }),
        Packet::SubAck(suback) => v5::Packet::SubscribeAck(v5::SubscribeAck {
            packet_id: id(suback.packet_id),
            properties: users(suback.user_properties),
            reason_string: words(suback.reason_string),
            status: suback.codes.iter().map(|&code| reason(code)).collect(),
        }),
        Packet::Unsubscribe(unsubscribe) => v5::Packet::Unsubscribe(v5::Unsubscribe {
            packet_id: id(unsubscribe.packet_id),
            user_properties: users(unsubscribe.user_properties),
            topic_filters: unsubscribe.filters.iter().map(|filter| text(filter)).collect(),
        }),
        Packet::UnsubAck(unsuback) => v5::Packet::UnsubscribeAck(v5::UnsubscribeAck {
            packet_id: id(unsuback.packet_id),
            properties: users(unsuback.user_properties),
            reason_string: words(unsuback.reason_string),
            status: unsuback.codes.iter().map(|&code| reason(code)).collect(),
        }),
        Packet::PingReq => v5::Packet::PingRequest,
        Packet::PingResp => v5::Packet::PingResponse,
        Packet::Disconnect(disconnect) => v5::Packet::Disconnect(disconnect_in_v5(disconnect)),
        Packet::Auth(auth) => v5::Packet::Auth(v5::Auth {
            reason_code: reason(auth.reason),
            auth_method: words(auth.method),
            auth_data: data(auth.data),
            reason_string: words(auth.reason_string),
            user_properties: users(auth.user_properties),
        }),
    })
}

fn connect_in_v5(connect: &Connect<'_>) -> Option<v5::Connect> {
    if !says_who(connect) {
        return None;
    }
    let properties = &connect.properties;
    Some(v5::Connect {
        clean_start: connect.clean_start,
        keep_alive: connect.keep_alive_s,
        session_expiry_interval_secs: properties.session_expiry_s.unwrap_or(0),
        auth_method: words(properties.authentication_method),
        auth_data: data(properties.authentication_data),
        request_problem_info: properties.request_problem_information,
        request_response_info: properties.request_response_information,
        receive_max: properties.receive_maximum,
        topic_alias_max: properties.topic_alias_maximum.unwrap_or(0),
        user_properties: users(properties.user_properties),
        max_packet_size: properties.maximum_packet_size,
        last_will: match &connect.will {
            None => None,
            Some(will) => Some(will_in_v5(will)?),
        },
        client_id: text(connect.client_id),
        username: words(connect.username),
        password: data(connect.password),
        cert: None,
    })
}

fn will_in_v5(will: &Will<'_>) -> Option<v5::LastWill> {
    Some(v5::LastWill {
        qos: qos(will.qos),
        retain: will.retain,
        topic: text(will.topic.as_str()),
        message: Bytes::copy_from_slice(will.payload),
        will_delay_interval_sec: will.properties.delay_s,
        correlation_data: data(will.properties.correlation_data),
        message_expiry_interval: expiry(will.properties.message_expiry_s).ok()?,
        content_type: words(will.properties.content_type),
        user_properties: users(will.properties.user_properties),
        is_utf8_payload: will.properties.payload_format_utf8,
        response_topic: will.properties.response_topic.map(|topic| text(topic.as_str())),
    })
}

fn connack_in_v5(connack: &ConnAck<'_>) -> v5::ConnectAck {
    let properties = &connack.properties;
    v5::ConnectAck {
        session_present: connack.session_present,
        reason_code: reason(connack.reason),
        session_expiry_interval_secs: properties.session_expiry_s,
        receive_max: properties.receive_maximum.unwrap_or(NonZeroU16::MAX),
        max_qos: properties.maximum_qos.map_or(QoS::ExactlyOnce, qos),
        max_packet_size: properties.maximum_packet_size.map(NonZeroU32::get),
        assigned_client_id: words(properties.assigned_client_id),
        topic_alias_max: properties.topic_alias_maximum.unwrap_or(0),
        retain_available: properties.retain_available.unwrap_or(true),
        wildcard_subscription_available: properties.wildcard_subscription_available.unwrap_or(true),
        subscription_identifiers_available: properties.subscription_identifiers_available.unwrap_or(true),
        shared_subscription_available: properties.shared_subscription_available.unwrap_or(true),
        server_keepalive_sec: properties.server_keep_alive_s,
        response_info: words(properties.response_information),
        server_reference: words(properties.server_reference),
        auth_method: words(properties.authentication_method),
        auth_data: data(properties.authentication_data),
        reason_string: words(properties.reason_string),
        user_properties: users(properties.user_properties),
    }
}

fn ack_in_v5(ack: &Ack<'_>) -> v5::PublishAck {
    v5::PublishAck {
        packet_id: id(ack.packet_id),
        reason_code: reason(ack.reason),
        properties: users(ack.user_properties),
        reason_string: words(ack.reason_string),
    }
}

fn release_in_v5(ack: &Ack<'_>) -> v5::PublishAck2 {
    v5::PublishAck2 {
        packet_id: id(ack.packet_id),
        reason_code: reason(ack.reason),
        properties: users(ack.user_properties),
        reason_string: words(ack.reason_string),
    }
}

fn disconnect_in_v5(disconnect: &Disconnect<'_>) -> v5::Disconnect {
    v5::Disconnect {
        reason_code: reason(disconnect.reason),
        session_expiry_interval_secs: disconnect.session_expiry_s,
        server_reference: words(disconnect.server_reference),
        reason_string: words(disconnect.reason_string),
        user_properties: users(disconnect.user_properties),
    }
}
