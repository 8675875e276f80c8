//! Each rule that one packet alone can break, broken once. Bytes are written as hex.

use drawbridge_mqtt::codec::{
    DecodeError, Frame, Packet, PacketType, PropertyId, ProtocolVersion, ReasonCode, Side, decode,
};

const V311: Option<ProtocolVersion> = Some(ProtocolVersion::V311);
const V5: Option<ProtocolVersion> = Some(ProtocolVersion::V5);
const MAX: usize = 65_536;

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).expect("digits"), 16).expect("hex"))
        .collect()
}

/// A packet with its remaining length put in; `body` is shorter than 128 bytes.
fn packet(first_byte: u8, body: &str) -> Vec<u8> {
    let body = bytes(body);
    let length = u8::try_from(body.len()).expect("a short packet");
    assert!(length < 128);
    [&[first_byte, length], &body[..]].concat()
}

fn refused_from(input: &[u8], version: Option<ProtocolVersion>, side: Side) -> DecodeError {
    match decode(input, version, MAX, side) {
        Err(fault) => {
            assert!(fault.code().starts_with("DB-20") && fault.reason_code().is_error());
            assert!(fault.statement().contains("MQTT"), "{fault}");
            fault
        }
        Ok(frame) => panic!("accepted {input:02x?} as {frame:?}"),
    }
}

fn refused(input: &[u8], version: Option<ProtocolVersion>) -> DecodeError {
    refused_from(input, version, Side::FromClient)
}

fn refused_in_both(input: &[u8]) -> DecodeError {
    let fault = refused(input, V311);
    assert_eq!(refused(input, V5), fault);
    fault
}

fn accepted_from(input: &[u8], version: Option<ProtocolVersion>, side: Side) -> Packet<'_> {
    match decode(input, version, MAX, side) {
        Ok(Frame::Complete { packet, bytes }) => {
            assert_eq!(bytes, input.len());
            packet
        }
        other => panic!("{input:02x?}: {other:?}"),
    }
}

fn accepted(input: &[u8], version: Option<ProtocolVersion>) -> Packet<'_> {
    accepted_from(input, version, Side::FromClient)
}

/// "MQTT", level 4 or 5, flags, keep alive 60.
fn connect(level: u8, flags: u8, rest: &str) -> Vec<u8> {
    packet(0x10, &format!("0004 4d515454 {level:02x} {flags:02x} 003c {rest}"))
}

// ---- fixed header

#[test]
fn reserved_flags_are_refused_in_every_packet_type_but_publish() {
    for (kind, side) in [(1_u8, Side::FromClient), (2, Side::FromServer)]
        .into_iter()
        .chain((4..=7).map(|kind| (kind, Side::FromClient)))
        .chain([8, 10, 12, 14, 15].map(|kind| (kind, Side::FromClient)))
        .chain([9, 11, 13].map(|kind| (kind, Side::FromServer)))
    {
        let wanted = if [6, 8, 10].contains(&kind) { 2 } else { 0 };
        for flags in (0..16).filter(|&flags| flags != wanted) {
            let version = if kind == 1 { None } else { V5 };
            let fault = refused_from(&[kind << 4 | flags], version, side);
            let packet = PacketType::ALL[usize::from(kind) - 1];
            assert_eq!(fault, DecodeError::ReservedFlags { packet, found: flags, wanted });
            assert_eq!(fault.reason_code(), ReasonCode::MalformedPacket);
        }
    }
}

#[test]
fn remaining_length_over_four_bytes_is_refused() {
    let fault = refused_in_both(&bytes("30 ffffffff 01"));
    assert_eq!(fault, DecodeError::LengthOverlong { packet: PacketType::Publish, field: "remaining length" });
    assert_eq!(refused_in_both(&bytes("30 80808080")), fault);
}

#[test]
fn remaining_length_longer_than_needed_is_refused() {
    let fault = refused_in_both(&bytes("c0 8000"));
    assert!(matches!(fault, DecodeError::LengthNotMinimal { found_bytes: 2, .. }));
    assert!(matches!(
        refused_in_both(&bytes("30 85808000 00 01 61 62")),
        DecodeError::LengthNotMinimal { found_bytes: 4, .. }
    ));
}

#[test]
fn property_length_longer_than_needed_is_refused() {
    let fault = refused(&packet(0x30, "0001 61 8000"), V5);
    assert!(matches!(fault, DecodeError::LengthNotMinimal { field: "property length", .. }));
}

#[test]
fn a_packet_larger_than_allowed_is_refused_from_its_header_alone() {
    let header = bytes("30 ffff03"); // 65,535 + 4 bytes
    let fault = decode(&header, V5, 65_538, Side::FromClient).unwrap_err();
    let too_large = |max_bytes| DecodeError::PacketTooLarge {
        packet: PacketType::Publish,
        found_bytes: 65_539,
        max_bytes,
    };
    assert_eq!(fault, too_large(65_538));
    assert_eq!(fault.reason_code(), ReasonCode::PacketTooLarge);
    assert_eq!(
        decode(&header, V5, 65_539, Side::FromClient),
        Ok(Frame::Incomplete { bytes_total: Some(65_539) })
    );
}

#[test]
fn a_first_packet_other_than_connect_is_refused_by_its_first_byte() {
    for kind in (0..16_u8).filter(|&kind| kind != 1) {
        let fault = refused(&[kind << 4], None);
        assert_eq!(fault, DecodeError::FirstPacketNotConnect { found_type: kind });
    }
}

#[test]
fn a_second_connect_is_refused() {
    assert_eq!(refused_in_both(&[0x10]), DecodeError::ConnectRepeated);
}

#[test]
fn packet_types_that_do_not_exist_are_refused() {
    assert_eq!(refused_in_both(&[0x00]), DecodeError::PacketTypeReserved { found_type: 0 });
    assert_eq!(refused(&[0xf0], V311), DecodeError::PacketTypeReserved { found_type: 15 });
}

#[test]
fn packets_of_the_other_direction_are_refused() {
    for first_byte in [0x20, 0x90, 0xb0, 0xd0] {
        assert!(matches!(refused_in_both(&[first_byte]), DecodeError::WrongDirection { .. }));
    }
    for first_byte in [0x10, 0x82, 0xa2, 0xc0] {
        let fault = refused_from(&[first_byte], V5, Side::FromServer);
        assert!(matches!(fault, DecodeError::WrongDirection { side: Side::FromServer, .. }));
    }
    let fault = refused_from(&bytes("e000"), V311, Side::FromServer);
    assert!(matches!(fault, DecodeError::WrongDirection { packet: PacketType::Disconnect, .. }));
    assert!(matches!(accepted_from(&bytes("e000"), V5, Side::FromServer), Packet::Disconnect(_)));
}

// ---- lengths inside

#[test]
fn bytes_after_the_last_field_are_refused_in_every_packet_that_ends() {
    let trailing = |found_bytes: usize, fault: DecodeError| match fault {
        DecodeError::TrailingBytes { found_bytes: found, .. } => assert_eq!(found, found_bytes),
        other => panic!("{other:?}"),
    };
    trailing(1, refused(&connect(4, 2, "0000 ff"), None));
    trailing(2, refused(&connect(5, 2, "00 0000 ffff"), None));
    trailing(1, refused_from(&bytes("20 03 00 00 00"), V311, Side::FromServer));
    trailing(1, refused_from(&bytes("20 04 00 00 00 00"), V5, Side::FromServer));
    for first_byte in [0x40, 0x50, 0x62, 0x70] {
        trailing(1, refused(&packet(first_byte, "0001 00"), V311));
        trailing(1, refused(&packet(first_byte, "0001 00 00 00"), V5));
    }
    trailing(1, refused_from(&packet(0xb0, "0001 00"), V311, Side::FromServer));
    trailing(1, refused_in_both(&packet(0xc0, "00")));
    trailing(1, refused_from(&packet(0xd0, "00"), V5, Side::FromServer));
    trailing(1, refused(&packet(0xe0, "00"), V311));
    trailing(3, refused(&packet(0xe0, "00 00 000000"), V5));
    trailing(1, refused(&packet(0xf0, "00 00 00"), V5));
}

#[test]
fn lists_that_end_within_an_entry_are_refused() {
    for (first_byte, body) in
        [(0x82, "0001 0001 61"), (0x82, "0001 0001 61 00 00"), (0xa2, "0001 0001 61 00")]
    {
        let fault = refused(&packet(first_byte, body), V311);
        assert!(matches!(fault, DecodeError::Truncated { .. }), "{fault:?}");
    }
}

#[test]
fn a_field_that_runs_past_the_end_of_its_packet_or_section_is_refused() {
    assert!(matches!(
        refused_in_both(&packet(0x30, "0005 61")),
        DecodeError::Truncated { field: "topic name", .. }
    ));
    assert!(matches!(refused_in_both(&packet(0x30, "00")), DecodeError::Truncated { .. }));
    assert!(matches!(refused_in_both(&packet(0x32, "0001 61 00")), DecodeError::Truncated { .. }));
    // The user property would end in the payload.
    let fault = refused(&packet(0x30, "0001 61 05 26 0001 61 0001 62 63"), V5);
    assert!(matches!(fault, DecodeError::Truncated { field: "user property", .. }));
    let fault = refused(&packet(0x30, "0001 61 7f"), V5);
    assert!(matches!(fault, DecodeError::Truncated { field: "properties", .. }));
}

// ---- strings

#[test]
fn ill_formed_utf8_is_refused_wherever_a_string_stands() {
    // Overlong, surrogate, beyond U+10FFFF, cut off.
    for text in ["c080", "eda080", "f4908080", "e282", "ff"] {
        let length = text.len() / 2;
        let string = format!("{length:04x} {text}");
        for fault in [
            refused(&connect(4, 2, &string), None),
            refused(&connect(4, 0x82, &format!("0000 {string}")), None),
            refused(&connect(4, 0x06, &format!("0000 {string} 0000")), None),
            refused_in_both(&packet(0x30, &string)),
            refused(&packet(0x82, &format!("0001 {string} 00")), V311),
            refused(&packet(0xa2, &format!("0001 {string}")), V311),
            refused(&packet(0x40, &format!("0001 00 {:02x} 1f {string}", length + 3)), V5),
        ] {
            assert!(matches!(fault, DecodeError::StringIllFormed { .. }), "{fault:?}");
        }
    }
}

#[test]
fn nul_in_a_string_is_refused() {
    for fault in [
        refused(&connect(4, 2, "0003 610062"), None),
        refused(&connect(4, 0x82, "0000 0001 00"), None),
        refused_in_both(&packet(0x30, "0003 610062")),
        refused(&packet(0x82, "0001 0001 00 00"), V311),
    ] {
        assert!(matches!(fault, DecodeError::StringNul { .. }), "{fault:?}");
    }
}

#[test]
fn control_characters_in_a_string_are_refused() {
    for text in ["0001 01", "0001 1f", "0001 0a", "0001 7f", "0002 c280", "0002 c29f"] {
        for fault in [
            refused(&connect(4, 2, text), None),
            refused_in_both(&packet(0x30, text)),
            refused(&packet(0xa2, &format!("0001 {text}")), V311),
        ] {
            assert!(matches!(fault, DecodeError::StringControl { .. }), "{fault:?}");
        }
    }
    accepted(&connect(4, 2, "0002 c2a0"), None);
}

#[test]
fn a_byte_order_mark_is_kept() {
    let input = connect(4, 2, "0004 efbbbf61");
    let Packet::Connect(connect) = accepted(&input, None) else { panic!("a CONNECT") };
    assert_eq!(connect.client_id, "\u{feff}a");
}

// ---- CONNECT

#[test]
fn other_protocol_names_and_versions_are_refused_as_unsupported() {
    let fault = refused(&packet(0x10, "0004 4d515458 04 02 003c 0000"), None);
    assert_eq!(fault, DecodeError::ProtocolName);
    assert_eq!(refused(&packet(0x10, "0004 6d717474 04 02 003c 0000"), None), fault);
    for level in [0_u8, 3, 6, 0x84, 255] {
        let fault = refused(&connect(level, 2, "0000"), None);
        assert_eq!(fault, DecodeError::UnsupportedVersion { found: level });
        assert_eq!(fault.reason_code(), ReasonCode::UnsupportedProtocolVersion);
    }
}

#[test]
fn mqtt_3_1_is_an_unsupported_version() {
    let fault = refused(&packet(0x10, "0006 4d5149736470 03 02 003c 0001 61"), None);
    assert_eq!(fault, DecodeError::UnsupportedVersion { found: 3 });
    assert_eq!(fault.reason_code().connack_return_code_v311(), Some(1));
}

#[test]
fn the_reserved_connect_flag_is_refused() {
    assert_eq!(refused(&connect(4, 0x03, "0000"), None), DecodeError::ConnectFlagReserved);
    assert_eq!(refused(&connect(5, 0x03, "00 0000"), None), DecodeError::ConnectFlagReserved);
}

#[test]
fn will_qos_or_retain_without_a_will_is_refused() {
    for level in [4, 5] {
        for flags in [0x0a, 0x12, 0x1a, 0x22] {
            assert_eq!(refused(&connect(level, flags, "00 0000"), None), DecodeError::WillFlagsWithoutWill);
        }
    }
}

#[test]
fn will_qos_3_is_refused() {
    for level in [4, 5] {
        assert_eq!(refused(&connect(level, 0x1e, "0000"), None), DecodeError::WillQosThree);
    }
}

#[test]
fn a_password_without_a_user_name_is_refused_in_3_1_1_and_taken_in_5() {
    assert_eq!(refused(&connect(4, 0x42, "0000 0001 70"), None), DecodeError::PasswordWithoutUserName);
    let input = connect(5, 0x42, "00 0000 0001 70");
    let Packet::Connect(connect) = accepted(&input, None) else { panic!("a CONNECT") };
    assert_eq!((connect.username, connect.password), (None, Some(&b"p"[..])));
}

#[test]
fn a_will_topic_that_is_empty_or_has_wildcards_is_refused() {
    let fault = refused(&connect(4, 0x06, "0000 0000 0000"), None);
    assert!(matches!(fault, DecodeError::TopicMissing { packet: PacketType::Connect, .. }));
    let fault = refused(&connect(4, 0x06, "0000 0003 612f23 0000"), None);
    assert!(matches!(fault, DecodeError::TopicWildcard { field: "will topic", found: '#', at: 2, .. }));
}

#[test]
fn connect_without_a_field_its_flags_announce_is_refused() {
    for (flags, rest) in [(0x06, "0000"), (0x82, "0000"), (0xc2, "0000 0000")] {
        assert!(matches!(refused(&connect(4, flags, rest), None), DecodeError::Truncated { .. }));
    }
}

// ---- CONNACK

#[test]
fn connack_with_reserved_flags_unknown_codes_or_a_session_on_refusal_is_refused() {
    let fault = |hex, version| refused_from(&bytes(hex), version, Side::FromServer);
    assert_eq!(fault("2002 0200", V311), DecodeError::ConnAckFlags { found: 2 });
    assert_eq!(fault("2003 fe0000", V5), DecodeError::ConnAckFlags { found: 0xfe });
    assert!(matches!(fault("2002 0006", V311), DecodeError::ReasonCodeMisplaced { found: 6, .. }));
    assert!(matches!(fault("2003 008e00", V5), DecodeError::ReasonCodeMisplaced { found: 0x8e, .. }));
    assert_eq!(fault("2002 0105", V311), DecodeError::SessionPresentOnRefusal);
    assert_eq!(fault("2003 018700", V5), DecodeError::SessionPresentOnRefusal);
    assert!(matches!(fault("2002 0000", V5), DecodeError::Truncated { .. }));
}

// ---- PUBLISH and its acknowledgements

#[test]
fn qos_3_is_refused_by_the_first_byte() {
    for first_byte in [0x36, 0x37, 0x3e, 0x3f] {
        assert_eq!(refused_in_both(&[first_byte]), DecodeError::QosThree);
    }
}

#[test]
fn dup_at_qos_0_is_refused_by_the_first_byte() {
    for first_byte in [0x38, 0x39] {
        assert_eq!(refused_in_both(&[first_byte]), DecodeError::DupAtQosZero);
    }
}

#[test]
fn packet_identifier_0_is_refused_everywhere() {
    for (first_byte, body) in [
        (0x32, "0001 61 0000 00"),
        (0x34, "0001 61 0000 00"),
        (0x40, "0000"),
        (0x50, "0000"),
        (0x62, "0000"),
        (0x70, "0000"),
        (0x82, "0000 00 0001 61 00"),
        (0xa2, "0000 00 0001 61"),
    ] {
        let fault = refused_in_both(&packet(first_byte, body));
        assert!(matches!(fault, DecodeError::PacketIdZero { .. }), "{fault:?}");
    }
    for (first_byte, body) in [(0x90, "0000 00 00"), (0xb0, "0000 00 00")] {
        let fault = refused_from(&packet(first_byte, body), V5, Side::FromServer);
        assert!(matches!(fault, DecodeError::PacketIdZero { .. }), "{fault:?}");
    }
}

#[test]
fn wildcards_in_a_publish_topic_are_refused() {
    for topic in ["0001 23", "0001 2b", "0003 612f2b", "0003 61232f"] {
        let fault = refused_in_both(&packet(0x30, &format!("{topic} 00")));
        assert!(matches!(fault, DecodeError::TopicWildcard { field: "topic name", .. }), "{fault:?}");
    }
}

#[test]
fn an_empty_topic_without_an_alias_is_refused_and_with_one_taken() {
    let missing = |alias_would_do| DecodeError::TopicMissing {
        packet: PacketType::Publish,
        field: "topic name",
        alias_would_do,
    };
    assert_eq!(refused(&packet(0x30, "0000"), V311), missing(false));
    assert_eq!(refused(&packet(0x30, "0000 00"), V5), missing(true));
    let input = packet(0x30, "0000 03 23 0007 70");
    let Packet::Publish(publish) = accepted(&input, V5) else { panic!("a PUBLISH") };
    assert_eq!(publish.topic, None);
    assert_eq!(publish.properties.topic_alias.map(std::num::NonZeroU16::get), Some(7));
    assert_eq!(publish.payload, b"p");
}

#[test]
fn a_response_topic_that_is_empty_or_has_wildcards_is_refused() {
    let fault = refused(&packet(0x30, "0001 61 06 08 0003 612f23"), V5);
    assert!(matches!(fault, DecodeError::TopicWildcard { field: "response topic", .. }));
    assert_eq!(fault.statement(), "[MQTT-3.3.2-14] (5.0)");
    let fault = refused(&packet(0x30, "0001 61 03 08 0000"), V5);
    assert!(matches!(fault, DecodeError::TopicMissing { field: "response topic", .. }));
    let fault = refused(&connect(5, 0x06, "00 0000 04 08 0001 2b 0001 61 0000"), None);
    assert!(matches!(fault, DecodeError::TopicWildcard { field: "response topic", .. }));
}

#[test]
fn acknowledgements_with_a_reason_code_of_another_packet_are_refused() {
    for (first_byte, body) in
        [(0x40, "0001 92"), (0x50, "0001 01"), (0x62, "0001 10"), (0x70, "0001 80"), (0x40, "0001 ff")]
    {
        let fault = refused(&packet(first_byte, body), V5);
        assert!(matches!(fault, DecodeError::ReasonCodeMisplaced { .. }), "{fault:?}");
    }
}

// ---- properties

#[test]
fn properties_that_do_not_exist_are_refused() {
    for id in [0x00, 0x04, 0x0a, 0x14, 0x1b, 0x20, 0x2b, 0x7f, 0x80, 0xff] {
        let fault = refused(&packet(0x30, &format!("0001 61 02 {id:02x} 00")), V5);
        assert_eq!(fault, DecodeError::PropertyUnknown { packet: PacketType::Publish, found: id });
    }
}

/// Every property with a legal value.
const PROPERTIES: [(u8, &str); 27] = [
    (0x01, "01"),
    (0x02, "00000001"),
    (0x03, "0001 61"),
    (0x08, "0001 61"),
    (0x09, "0001 61"),
    (0x0b, "01"),
    (0x11, "00000001"),
    (0x12, "0001 61"),
    (0x13, "0001"),
    (0x15, "0001 61"),
    (0x16, "0001 61"),
    (0x17, "01"),
    (0x18, "00000001"),
    (0x19, "01"),
    (0x1a, "0001 61"),
    (0x1c, "0001 61"),
    (0x1f, "0001 61"),
    (0x21, "0001"),
    (0x22, "0001"),
    (0x23, "0001"),
    (0x24, "01"),
    (0x25, "01"),
    (0x26, "0001 61 0001 61"),
    (0x27, "00000001"),
    (0x28, "01"),
    (0x29, "01"),
    (0x2a, "01"),
];

/// A packet with one block of properties: its name, how to put a block in, who may send it, and which
/// properties table 2-4 of MQTT 5.0 allows there.
struct Place {
    name: &'static str,
    put: fn(&str) -> Vec<u8>,
    version: Option<ProtocolVersion>,
    side: Side,
    allowed: &'static [u8],
}

fn block(properties: &str) -> String {
    format!("{:02x} {properties}", bytes(properties).len())
}

const PLACES: &[Place] = &[
    Place {
        name: "CONNECT",
        put: |p| connect(5, 2, &format!("{} 0000", block(p))),
        version: None,
        side: Side::FromClient,
        allowed: &[0x11, 0x15, 0x16, 0x17, 0x19, 0x21, 0x22, 0x26, 0x27],
    },
    Place {
        name: "will",
        put: |p| connect(5, 6, &format!("00 0000 {} 0001 61 0000", block(p))),
        version: None,
        side: Side::FromClient,
        allowed: &[0x01, 0x02, 0x03, 0x08, 0x09, 0x18, 0x26],
    },
    Place {
        name: "CONNACK",
        put: |p| packet(0x20, &format!("00 00 {}", block(p))),
        version: V5,
        side: Side::FromServer,
        allowed: &[
            0x11, 0x12, 0x13, 0x15, 0x16, 0x1a, 0x1c, 0x1f, 0x21, 0x22, 0x24, 0x25, 0x26, 0x27, 0x28, 0x29,
            0x2a,
        ],
    },
    Place {
        name: "PUBLISH",
        put: |p| packet(0x30, &format!("0001 61 {}", block(p))),
        version: V5,
        side: Side::FromServer,
        allowed: &[0x01, 0x02, 0x03, 0x08, 0x09, 0x0b, 0x23, 0x26],
    },
    Place {
        name: "PUBACK",
        put: |p| packet(0x40, &format!("0001 00 {}", block(p))),
        version: V5,
        side: Side::FromClient,
        allowed: &[0x1f, 0x26],
    },
    Place {
        name: "PUBREC",
        put: |p| packet(0x50, &format!("0001 00 {}", block(p))),
        version: V5,
        side: Side::FromClient,
        allowed: &[0x1f, 0x26],
    },
    Place {
        name: "PUBREL",
        put: |p| packet(0x62, &format!("0001 00 {}", block(p))),
        version: V5,
        side: Side::FromClient,
        allowed: &[0x1f, 0x26],
    },
    Place {
        name: "PUBCOMP",
        put: |p| packet(0x70, &format!("0001 00 {}", block(p))),
        version: V5,
        side: Side::FromClient,
        allowed: &[0x1f, 0x26],
    },
    Place {
        name: "SUBSCRIBE",
        put: |p| packet(0x82, &format!("0001 {} 0001 61 00", block(p))),
        version: V5,
        side: Side::FromClient,
        allowed: &[0x0b, 0x26],
    },
    Place {
        name: "SUBACK",
        put: |p| packet(0x90, &format!("0001 {} 00", block(p))),
        version: V5,
        side: Side::FromServer,
        allowed: &[0x1f, 0x26],
    },
    Place {
        name: "UNSUBSCRIBE",
        put: |p| packet(0xa2, &format!("0001 {} 0001 61", block(p))),
        version: V5,
        side: Side::FromClient,
        allowed: &[0x26],
    },
    Place {
        name: "UNSUBACK",
        put: |p| packet(0xb0, &format!("0001 {} 00", block(p))),
        version: V5,
        side: Side::FromServer,
        allowed: &[0x1f, 0x26],
    },
    Place {
        name: "DISCONNECT",
        put: |p| packet(0xe0, &format!("00 {}", block(p))),
        version: V5,
        side: Side::FromClient,
        allowed: &[0x11, 0x1c, 0x1f, 0x26],
    },
    Place {
        name: "AUTH",
        put: |p| packet(0xf0, &format!("18 {}", block(p))),
        version: V5,
        side: Side::FromClient,
        allowed: &[0x15, 0x16, 0x1f, 0x26],
    },
];

/// The properties that must accompany this one: a method for data, and in AUTH always a method.
fn companion(place: &Place, id: u8) -> &'static str {
    if id != 0x15 && (id == 0x16 || place.name == "AUTH") { "15 0001 61" } else { "" }
}

#[test]
fn each_property_is_taken_where_table_2_4_allows_it_and_refused_elsewhere() {
    let (mut taken, mut turned_away) = (0, 0);
    for place in PLACES {
        for (id, value) in PROPERTIES {
            if place.allowed.contains(&id) {
                let input = (place.put)(&format!("{} {id:02x} {value}", companion(place, id)));
                accepted_from(&input, place.version, place.side);
                taken += 1;
            } else {
                let input = (place.put)(&format!("{id:02x} {value}"));
                let fault = refused_from(&input, place.version, place.side);
                assert!(matches!(fault, DecodeError::PropertyMisplaced { .. }), "{} {fault:?}", place.name);
                turned_away += 1;
            }
        }
    }
    assert_eq!((taken, taken + turned_away), (64, 14 * 27));
}

#[test]
fn a_property_twice_is_refused_but_for_those_that_may_repeat() {
    for place in PLACES {
        for (id, value) in PROPERTIES.iter().filter(|(id, _)| place.allowed.contains(id)) {
            let input = (place.put)(&format!("{} {id:02x} {value} {id:02x} {value}", companion(place, *id)));
            if *id == 0x26 || (*id == 0x0b && place.name == "PUBLISH") {
                accepted_from(&input, place.version, place.side);
            } else {
                let fault = refused_from(&input, place.version, place.side);
                assert!(matches!(fault, DecodeError::PropertyRepeated { .. }), "{} {fault:?}", place.name);
            }
        }
    }
}

#[test]
fn properties_are_taken_in_any_order() {
    for place in PLACES {
        let all: Vec<String> = PROPERTIES
            .iter()
            .filter(|(id, _)| place.allowed.contains(id))
            .map(|(id, value)| format!("{id:02x} {value}"))
            .collect();
        let forwards = (place.put)(&all.concat());
        let backwards = (place.put)(&all.iter().rev().cloned().collect::<String>());
        assert_eq!(
            accepted_from(&forwards, place.version, place.side),
            accepted_from(&backwards, place.version, place.side),
            "{}",
            place.name
        );
    }
}

#[test]
fn a_boolean_property_other_than_0_or_1_is_refused() {
    for place in PLACES {
        for id in [0x01, 0x17, 0x19, 0x24, 0x25, 0x28, 0x29, 0x2a] {
            if place.allowed.contains(&id) {
                let fault = refused_from(&(place.put)(&format!("{id:02x} 02")), place.version, place.side);
                assert!(
                    matches!(fault, DecodeError::PropertyValue { found: 2, wanted: "0 or 1", .. }),
                    "{} {fault:?}",
                    place.name
                );
                assert_eq!(fault.reason_code(), ReasonCode::ProtocolError);
            }
        }
    }
}

#[test]
fn receive_maximum_0_is_refused() {
    let fault = refused(&connect(5, 2, "03 21 0000 0000"), None);
    assert!(matches!(fault, DecodeError::PropertyValue { property: PropertyId::ReceiveMaximum, .. }));
}

#[test]
fn maximum_packet_size_0_is_refused() {
    let fault = refused(&connect(5, 2, "05 27 00000000 0000"), None);
    assert!(matches!(fault, DecodeError::PropertyValue { property: PropertyId::MaximumPacketSize, .. }));
}

#[test]
fn topic_alias_0_is_refused_as_an_invalid_alias() {
    let fault = refused(&packet(0x30, "0001 61 03 23 0000"), V5);
    assert!(matches!(fault, DecodeError::PropertyValue { property: PropertyId::TopicAlias, .. }));
    assert_eq!(fault.reason_code(), ReasonCode::TopicAliasInvalid);
}

#[test]
fn subscription_identifier_0_is_refused() {
    let zero = |fault| {
        matches!(fault, DecodeError::PropertyValue { property: PropertyId::SubscriptionIdentifier, .. })
    };
    assert!(zero(refused(&packet(0x82, "0001 02 0b 00 0001 61 00"), V5)));
    assert!(zero(refused_from(&packet(0x30, "0001 61 02 0b 00"), V5, Side::FromServer)));
}

#[test]
fn a_subscription_identifier_in_a_publish_from_a_client_is_refused() {
    let input = packet(0x30, "0001 61 02 0b 01");
    let fault = refused(&input, V5);
    assert!(matches!(fault, DecodeError::PropertyWrongDirection { .. }));
    assert_eq!(fault.statement(), "[MQTT-3.3.4-6] (5.0)");
    accepted_from(&input, V5, Side::FromServer);
}

#[test]
fn a_session_expiry_in_a_disconnect_from_a_server_is_refused() {
    let input = packet(0xe0, "00 05 11 00000001");
    let fault = refused_from(&input, V5, Side::FromServer);
    assert!(matches!(fault, DecodeError::PropertyWrongDirection { .. }));
    accepted(&input, V5);
}

#[test]
fn authentication_data_without_a_method_is_refused() {
    let fault = refused(&connect(5, 2, "04 16 0001 61 0000"), None);
    assert_eq!(fault, DecodeError::AuthenticationDataWithoutMethod { packet: PacketType::Connect });
    let fault = refused_from(&packet(0x20, "00 00 04 16 0001 61"), V5, Side::FromServer);
    assert_eq!(fault, DecodeError::AuthenticationDataWithoutMethod { packet: PacketType::ConnAck });
    for body in ["18 00", "19 00", "00 04 16 0001 61", "00 04 1f 0001 61"] {
        assert_eq!(refused(&packet(0xf0, body), V5), DecodeError::AuthenticationMethodMissing);
    }
}

#[test]
fn a_bare_auth_is_a_success_without_properties() {
    for body in ["", "00 00"] {
        let input = packet(0xf0, body);
        let Packet::Auth(auth) = accepted(&input, V5) else { panic!("an AUTH") };
        assert_eq!((auth.reason, auth.method), (ReasonCode::Success, None));
    }
}

#[test]
fn auth_and_disconnect_reason_codes_of_the_other_side_are_refused() {
    let from_client_only = [packet(0xf0, "19 04 15 0001 61"), packet(0xe0, "04")];
    for input in from_client_only {
        accepted(&input, V5);
        let fault = refused_from(&input, V5, Side::FromServer);
        assert!(matches!(fault, DecodeError::ReasonCodeMisplaced { .. }));
    }
    assert!(matches!(refused(&packet(0xe0, "01"), V5), DecodeError::ReasonCodeMisplaced { found: 1, .. }));
}

// ---- SUBSCRIBE, UNSUBSCRIBE and their answers

#[test]
fn an_empty_subscribe_or_unsubscribe_is_refused() {
    for (version, body) in [(V311, "0001"), (V5, "0001 00")] {
        for (first_byte, packet_type) in [(0x82, PacketType::Subscribe), (0xa2, PacketType::Unsubscribe)] {
            let fault = refused(&packet(first_byte, body), version);
            assert_eq!(fault, DecodeError::EmptyList { packet: packet_type });
        }
    }
}

#[test]
fn reserved_bits_of_subscription_options_are_refused() {
    for bit in 2..8 {
        let options = 1_u8 << bit;
        let fault = refused(&packet(0x82, &format!("0001 0001 61 {options:02x}")), V311);
        assert_eq!(fault, DecodeError::SubscriptionOptionsReserved { found: options });
    }
    for options in [0x40_u8, 0x80] {
        let fault = refused(&packet(0x82, &format!("0001 00 0001 61 {options:02x}")), V5);
        assert_eq!(fault, DecodeError::SubscriptionOptionsReserved { found: options });
    }
}

#[test]
fn subscription_qos_3_is_refused() {
    assert_eq!(refused(&packet(0x82, "0001 0001 61 03"), V311), DecodeError::SubscriptionQosThree);
    assert_eq!(refused(&packet(0x82, "0001 00 0001 61 03"), V5), DecodeError::SubscriptionQosThree);
}

#[test]
fn retain_handling_3_is_refused() {
    assert_eq!(refused(&packet(0x82, "0001 00 0001 61 30"), V5), DecodeError::RetainHandlingThree);
}

#[test]
fn no_local_on_a_shared_subscription_is_refused() {
    // "$share/g/a"
    let shared = "000a 2473686172652f672f61";
    assert_eq!(refused(&packet(0x82, &format!("0001 00 {shared} 04")), V5), DecodeError::NoLocalOnShared);
    accepted(&packet(0x82, &format!("0001 00 {shared} 00")), V5);
}

#[test]
fn a_text_that_is_no_filter_is_left_to_the_answer() {
    for filter in ["0000", "0002 6123", "0004 612f232f", "0002 2b61"] {
        let input = packet(0x82, &format!("0001 {filter} 00"));
        let Packet::Subscribe(subscribe) = accepted(&input, V311) else { panic!("a SUBSCRIBE") };
        assert_eq!(subscribe.entries.len(), 1);
        accepted(&packet(0xa2, &format!("0001 {filter}")), V311);
    }
}

#[test]
fn suback_codes_are_those_of_the_version() {
    let input = packet(0x90, "0001 00 01 02 80");
    let Packet::SubAck(suback) = accepted_from(&input, V311, Side::FromServer) else { panic!("a SUBACK") };
    assert_eq!(
        suback.codes,
        [
            ReasonCode::GRANTED_QOS_0,
            ReasonCode::GrantedQos1,
            ReasonCode::GrantedQos2,
            ReasonCode::UnspecifiedError
        ]
    );
    for code in ["03", "81", "87", "8f", "ff"] {
        let fault = refused_from(&packet(0x90, &format!("0001 {code}")), V311, Side::FromServer);
        assert!(matches!(fault, DecodeError::ReasonCodeMisplaced { .. }), "{fault:?}");
    }
    for code in ["03", "11", "81", "8e"] {
        let fault = refused_from(&packet(0x90, &format!("0001 00 {code}")), V5, Side::FromServer);
        assert!(matches!(fault, DecodeError::ReasonCodeMisplaced { .. }), "{fault:?}");
    }
    for (first_byte, body, version) in [(0x90, "0001", V311), (0x90, "0001 00", V5), (0xb0, "0001 00", V5)] {
        let fault = refused_from(&packet(first_byte, body), version, Side::FromServer);
        assert!(matches!(fault, DecodeError::EmptyList { .. }), "{fault:?}");
    }
}
