//! What is encoded is decoded as it was, and no bytes bring the decoder out of step.

mod generate;

use drawbridge_mqtt::codec::{
    DecodeError, Delivery, Frame, Packet, PacketId, ProtocolVersion, Publish, PublishProperties,
    PublishTemplate, Qos, Side, SubscriptionIdentifiers, decode, packet_type,
};
use proptest::prelude::*;

const MAX: usize = 268_435_460;

/// The version to tell the decoder: none before CONNECT.
fn told(packet: &Packet<'_>, version: ProtocolVersion) -> Option<ProtocolVersion> {
    if matches!(packet, Packet::Connect(_)) { None } else { Some(version) }
}

fn encoded(packet: &Packet<'_>, version: ProtocolVersion) -> Vec<u8> {
    let mut bytes = Vec::new();
    packet.encode(version, &mut bytes).expect("a legal packet");
    bytes
}

/// Whatever is accepted must be stable: encoded again, it decodes to the same packet.
fn assert_stable(input: &[u8], version: Option<ProtocolVersion>, side: Side) -> Result<(), DecodeError> {
    let Frame::Complete { packet, bytes } = decode(input, version, MAX, side)? else { return Ok(()) };
    assert!(bytes <= input.len());
    let again = encoded(&packet, version.unwrap_or(ProtocolVersion::V5));
    assert_eq!(decode(&again, version, MAX, side), Ok(Frame::Complete { packet, bytes: again.len() }));
    Ok(())
}

fn any_side() -> impl Strategy<Value = Side> {
    prop_oneof![Just(Side::FromClient), Just(Side::FromServer)]
}

fn any_version() -> impl Strategy<Value = Option<ProtocolVersion>> {
    prop_oneof![Just(None), Just(Some(ProtocolVersion::V311)), Just(Some(ProtocolVersion::V5))]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_packet_survives_encoding_and_decoding_in_both_versions(seed: u64) {
        let (packet, version, side) = generate::packet(seed);
        let mut bytes = encoded(&packet, version);
        let length = bytes.len();
        bytes.extend_from_slice(&[0xff; 9]); // what follows is not looked at
        prop_assert_eq!(
            decode(&bytes, told(&packet, version), MAX, side),
            Ok(Frame::Complete { packet, bytes: length })
        );
    }

    #[test]
    fn arbitrary_bytes_never_panic_and_what_is_accepted_is_stable(
        input in proptest::collection::vec(any::<u8>(), 0..200),
        version in any_version(),
        side in any_side(),
    ) {
        let _ = assert_stable(&input, version, side);
    }

    #[test]
    fn packets_with_a_few_bytes_changed_never_panic_and_what_is_accepted_is_stable(
        seed: u64,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let (packet, version, side) = generate::packet(seed);
        let mut bytes = encoded(&packet, version);
        for (at, byte) in changes {
            let at = at.index(bytes.len().min(120));
            bytes[at] = byte;
        }
        let _ = assert_stable(&bytes, told(&packet, version), side);
    }

    #[test]
    fn a_packet_whose_length_lies_is_refused_or_read_within_that_length(seed: u64, delta in -6_isize..=6) {
        let (packet, version, side) = generate::packet(seed);
        let bytes = encoded(&packet, version);
        let header = 1 + bytes[1..].iter().take_while(|&&byte| byte & 0x80 != 0).count() + 1;
        let mut body = bytes[header..].to_vec();
        let Some(length) = body.len().checked_add_signed(delta) else { return Ok(()) };
        body.resize(length, 0);
        let mut changed = vec![bytes[0]];
        let mut rest = length;
        loop {
            let low = (rest % 128) as u8;
            rest /= 128;
            changed.push(if rest > 0 { low | 0x80 } else { low });
            if rest == 0 {
                break;
            }
        }
        changed.extend_from_slice(&body);
        let whole = changed.len();
        match decode(&changed, told(&packet, version), MAX, side) {
            Ok(Frame::Complete { bytes, .. }) => prop_assert_eq!(bytes, whole),
            Ok(Frame::Incomplete { .. }) => prop_assert!(false, "the packet is whole"),
            Err(_) => {}
        }
        let _ = assert_stable(&changed, told(&packet, version), side);
    }
}

#[test]
fn every_truncation_of_every_packet_is_incomplete() {
    let mut packets = 0;
    for seed in 0..600 {
        let (packet, version, side) = generate::packet(seed);
        let bytes = encoded(&packet, version);
        if bytes.len() > 2_000 {
            continue;
        }
        packets += 1;
        let header = 1 + bytes[1..].iter().take_while(|&&byte| byte & 0x80 != 0).count() + 1;
        for length in 0..bytes.len() {
            let known = (length >= header).then_some(bytes.len());
            assert_eq!(
                decode(&bytes[..length], told(&packet, version), MAX, side),
                Ok(Frame::Incomplete { bytes_total: known }),
                "{length} bytes of {packet:?}"
            );
        }
    }
    assert!(packets > 300, "only {packets}");
}

#[test]
fn the_generator_makes_every_kind_of_packet_in_both_versions() {
    let mut seen = std::collections::HashSet::new();
    for seed in 0..3_000 {
        let (packet, version, _) = generate::packet(seed);
        let bytes = encoded(&packet, version);
        assert_eq!(packet_type(bytes[0]), Some(packet.packet_type()));
        seen.insert((packet.packet_type(), version));
    }
    assert_eq!(seen.len(), 15 + 14, "15 kinds in 5.0, 14 in 3.1.1");
}

#[test]
fn a_template_writes_what_encode_would_write() {
    let mut template = PublishTemplate::default();
    let mut compared = 0;
    for seed in 0..4_000 {
        let (packet, version, side) = generate::packet(seed);
        let Packet::Publish(publish) = packet else { continue };
        let Some(topic) = publish.topic else { continue };
        let acknowledged = publish.qos != Qos::AtMostOnce;
        template
            .refill(version, acknowledged, topic.as_str(), &publish.properties, publish.payload)
            .expect("a legal packet");
        let delivery = Delivery {
            dup: publish.dup,
            qos: publish.qos,
            retain: publish.retain,
            packet_id: publish.packet_id,
        };
        let mut whole = vec![9];
        template.write(delivery, &mut whole).expect("the same class of QoS");
        assert_eq!(whole[1..], encoded(&packet, version), "{publish:?} {side}");
        let mut parts = Vec::new();
        template.write_head(delivery, &mut parts).expect("the same class of QoS");
        assert_eq!(template.payload(), publish.payload);
        parts.extend_from_slice(template.payload());
        assert_eq!(parts, whole[1..]);
        let at = template.packet_id_at();
        assert_eq!(
            at.map(|at| &whole[1 + at..3 + at]),
            publish.packet_id.map(|id| id.get().to_be_bytes()).as_ref().map(|id| &id[..])
        );
        compared += 1;
    }
    assert!(compared > 500, "only {compared}");
}

#[test]
fn a_template_refuses_a_delivery_of_the_other_class_of_qos() {
    let template = |acknowledged| {
        PublishTemplate::new(ProtocolVersion::V5, acknowledged, "a/b", &PublishProperties::default(), b"x")
            .expect("a legal packet")
    };
    let at = |qos, packet_id| Delivery { dup: false, qos, retain: false, packet_id };
    let id = PacketId::new(7);
    let mut out = Vec::new();
    for (acknowledged, delivery) in [
        (true, at(Qos::AtMostOnce, None)),
        (true, at(Qos::AtMostOnce, id)),
        (true, at(Qos::AtLeastOnce, None)),
        (false, at(Qos::AtLeastOnce, id)),
        (false, at(Qos::AtLeastOnce, None)),
        (false, at(Qos::AtMostOnce, id)),
        (false, Delivery { dup: true, ..at(Qos::AtMostOnce, None) }),
    ] {
        assert!(template(acknowledged).write(delivery, &mut out).is_err(), "{acknowledged} {delivery:?}");
    }
    assert!(PublishTemplate::default().write(at(Qos::AtMostOnce, None), &mut out).is_err());
    assert_eq!(out, []);
}

#[test]
fn a_stored_block_of_properties_survives() {
    let mut compared = 0;
    for seed in 0..4_000 {
        let (Packet::Publish(Publish { properties, .. }), ..) = generate::packet(seed) else { continue };
        let kept = PublishProperties {
            topic_alias: None,
            subscription_identifiers: SubscriptionIdentifiers::default(),
            ..properties
        };
        let mut block = Vec::new();
        kept.encode_block(&mut block).expect("legal properties");
        assert_eq!(PublishProperties::decode_block(&block), Ok(kept));
        block.push(0);
        assert!(PublishProperties::decode_block(&block).is_err());
        compared += 1;
    }
    assert!(compared > 500, "only {compared}");
}

#[test]
fn a_packet_that_cannot_be_encoded_leaves_the_output_as_it_was() {
    let long = "x".repeat(65_536);
    let bad = Packet::Unsubscribe(drawbridge_mqtt::codec::Unsubscribe {
        packet_id: PacketId::new(1).expect("not 0"),
        user_properties: Default::default(),
        filters: vec!["fine", &long],
    });
    let mut out = vec![1, 2, 3];
    assert!(bad.encode(ProtocolVersion::V5, &mut out).is_err());
    assert_eq!(out, [1, 2, 3]);
}

#[test]
fn nothing_secret_is_in_debug() {
    use drawbridge_mqtt::codec::{Auth, Connect, ConnectProperties, ReasonCode, UserProperties};
    let pairs = [("name", "hush-value")];
    let properties = ConnectProperties {
        authentication_method: Some("m"),
        authentication_data: Some(b"hush-data"),
        user_properties: UserProperties::of(&pairs),
        ..ConnectProperties::default()
    };
    let connect = Connect {
        version: ProtocolVersion::V5,
        clean_start: true,
        keep_alive_s: 0,
        client_id: "c",
        username: Some("hush-user"),
        password: Some(b"hush-password"),
        will: None,
        properties,
    };
    let auth = Auth {
        reason: ReasonCode::Success,
        method: Some("m"),
        data: Some(b"hush-data"),
        reason_string: None,
        user_properties: UserProperties::of(&pairs),
    };
    let shown = format!("{connect:?} {auth:?}");
    assert!(!shown.contains("hush"), "{shown}");
    // A byte string would be shown as numbers.
    assert!(!shown.contains("104, 117"), "{shown}");
}
