//! What no packet may look like: sent on an open connection, it ends that connection.

use crate::bytes::{
    CORRELATION_DATA, Connect, DISCONNECT, PINGREQ, Publish, RESPONSE_TOPIC, Said, Version, ack, field,
    packet, pstr, section, subscribe, unsubscribe,
};
use crate::client::Client;
use crate::world::{Case, World, every, name};

/// A way to break a rule, the bytes that do, and the code of DISCONNECT where the standard fixes one.
type Broken = (&'static str, Vec<u8>, Option<u8>);

const MALFORMED: Option<u8> = Some(0x81);
const PROTOCOL_ERROR: Option<u8> = Some(0x82);

fn each_ends_its_connection(world: &World, case: Case, broken: &[Broken]) {
    for (why, bytes, code) in broken {
        let mut client = Client::new(world, case);
        client.send(bytes);
        // What follows is not worked on: a PINGRESP would be seen.
        client.try_send(&PINGREQ);
        let found = client.ended();
        assert!(code.is_none() || found.is_none() || found == *code, "{why}: {found:#04x?} for {code:#04x?}");
        println!("{case:?}: {why}: {found:#04x?}");
    }
}

/// PUBLISH at QoS 0, put together by hand.
fn publish(version: Version, first_byte: u8, topic: &[u8], id: Option<u16>, properties: &[u8]) -> Vec<u8> {
    let id = id.map(|id| id.to_be_bytes().to_vec()).unwrap_or_default();
    packet(first_byte, &[field(topic), id, section(version, properties), b"x".to_vec()].concat())
}

#[test]
fn reserved_flag_bits_end_the_connection() {
    every(|world, case| {
        let v = case.version;
        let mut broken = Vec::new();
        let packets: [(&'static str, Vec<u8>); 8] = [
            ("PUBACK", ack(0x40, 1)),
            ("PUBREC", ack(0x50, 1)),
            ("PUBREL", ack(0x62, 1)),
            ("PUBCOMP", ack(0x70, 1)),
            ("SUBSCRIBE", subscribe(v, 1, &[], &[("a", 0)])),
            ("UNSUBSCRIBE", unsubscribe(v, 1, &["a"])),
            ("PINGREQ", PINGREQ.to_vec()),
            ("DISCONNECT", DISCONNECT.to_vec()),
        ];
        for (kind, good) in packets {
            for flags in (0..16).filter(|flags| *flags != good[0] & 0x0f) {
                let mut bytes = good.clone();
                bytes[0] = good[0] & 0xf0 | flags;
                broken.push((kind, bytes, MALFORMED));
            }
        }
        if case.is_v5() {
            broken.extend((1..16).map(|flags| ("AUTH", vec![0xf0 | flags, 0], MALFORMED)));
        }
        each_ends_its_connection(world, case, &broken);
    });
}

#[test]
fn ill_formed_strings_end_the_connection() {
    every(|world, case| {
        let v = case.version;
        let texts: [(&'static str, &[u8]); 7] = [
            ("a lone continuation byte", b"a\x80"),
            ("an overlong form", b"a\xc0\xaf"),
            ("a surrogate", b"a\xed\xa0\x80"),
            ("a surrogate pair", b"a\xed\xa0\x80\xed\xb0\x80"),
            ("above U+10FFFF", b"a\xf4\x90\x80\x80"),
            ("a character cut off", b"a\xe2\x82"),
            ("U+0000", b"a\x00b"),
        ];
        let mut broken = Vec::new();
        for (why, text) in texts {
            let entry = [&1_u16.to_be_bytes()[..], &section(v, &[]), &field(text)].concat();
            broken.push((why, publish(v, 0x30, text, None, &[]), MALFORMED));
            broken.push((why, packet(0x82, &[&entry[..], &[0]].concat()), MALFORMED));
            broken.push((why, packet(0xa2, &entry), MALFORMED));
            if case.is_v5() {
                for id in [0x03, RESPONSE_TOPIC] {
                    broken.push((why, publish(v, 0x30, b"a", None, &pstr(id, text)), MALFORMED));
                }
                for (key, value) in [(text, &b"v"[..]), (b"k", text)] {
                    let pair = [&[0x26][..], &field(key), &field(value)].concat();
                    broken.push((why, publish(v, 0x30, b"a", None, &pair), MALFORMED));
                }
            }
        }
        each_ends_its_connection(world, case, &broken);
        // Binary data may hold anything.
        if case.is_v5() {
            let topic = name("t");
            let mut client = Client::new(world, case);
            client.subscribe(&topic, 0);
            client.publish(&Publish::new(&topic, b"\x00\xff").with(pstr(CORRELATION_DATA, b"\x00\xff")));
            let message = client.message();
            assert_eq!(message.payload, b"\x00\xff");
            assert_eq!(message.properties.first(CORRELATION_DATA), Some(&b"\x00\xff"[..]));
        }
    });
}

#[test]
fn a_byte_order_mark_is_a_character_of_a_topic() {
    every(|world, case| {
        let topic = name("t");
        let marked = format!("\u{feff}{topic}");
        let mut client = Client::new(world, case);
        client.subscribe(&marked, 0);
        client.publish(&Publish::new(&topic, "without"));
        client.publish(&Publish::new(&marked, "with"));
        let message = client.message();
        assert_eq!((message.topic.as_str(), message.text()), (marked.as_str(), "with"));
    });
}

#[test]
fn lengths_of_too_many_bytes_end_the_connection() {
    every(|world, case| {
        let mut broken: Vec<Broken> = vec![
            ("a remaining length of five bytes", vec![0x30, 0x80, 0x80, 0x80, 0x80, 0x01], MALFORMED),
            ("a remaining length that never ends", vec![0x30, 0xff, 0xff, 0xff, 0xff], MALFORMED),
        ];
        if case.is_v5() {
            let not_minimal = [&field("a")[..], &[0x80, 0x00], b"x"].concat();
            broken.push(("a property length that is not minimal", packet(0x30, &not_minimal), MALFORMED));
            let five = [&field("a")[..], &[0x80, 0x80, 0x80, 0x80, 0x01], b"x"].concat();
            broken.push(("a property length of five bytes", packet(0x30, &five), MALFORMED));
        }
        each_ends_its_connection(world, case, &broken);
    });
}

#[test]
fn a_publish_that_breaks_a_rule_ends_the_connection() {
    every(|world, case| {
        let v = case.version;
        let mut broken: Vec<Broken> = vec![
            ("QoS 3", publish(v, 0x36, b"a", Some(1), &[]), MALFORMED),
            ("DUP at QoS 0", publish(v, 0x38, b"a", None, &[]), PROTOCOL_ERROR),
            ("+ in the topic", publish(v, 0x30, b"a/+", None, &[]), None),
            ("# in the topic", publish(v, 0x30, b"a/#", None, &[]), None),
            ("+ within a level", publish(v, 0x30, b"a+b", None, &[]), None),
            ("identifier 0 at QoS 1", publish(v, 0x32, b"a", Some(0), &[]), PROTOCOL_ERROR),
            ("identifier 0 at QoS 2", publish(v, 0x34, b"a", Some(0), &[]), PROTOCOL_ERROR),
            ("no topic", publish(v, 0x30, b"", None, &[]), PROTOCOL_ERROR),
            ("a topic that is longer than its packet", packet(0x30, &[0, 9, b'a']), MALFORMED),
            ("no room for the identifier", packet(0x32, &field("a")), MALFORMED),
        ];
        if case.is_v5() {
            let with = |properties: &[u8]| publish(v, 0x30, b"a", None, properties);
            broken.extend([
                ("topic alias 0", with(&[0x23, 0, 0]), Some(0x94)),
                (
                    "no topic, and an alias that was not defined",
                    publish(v, 0x30, b"", None, &[0x23, 0, 7]),
                    None,
                ),
                ("an alias above the maximum", with(&[0x23, 0xff, 0xff]), Some(0x94)),
                ("a subscription identifier", with(&[0x0b, 1]), PROTOCOL_ERROR),
                ("a wildcard in the response topic", with(&pstr(RESPONSE_TOPIC, "a/#")), None),
                ("a payload format of 2", with(&[0x01, 2]), None),
                ("a content type twice", with(&[pstr(0x03, "a"), pstr(0x03, "a")].concat()), PROTOCOL_ERROR),
                ("a property that does not exist", with(&[0x7f, 0]), MALFORMED),
                ("a property of CONNECT", with(&[0x11, 0, 0, 0, 1]), MALFORMED),
            ]);
        }
        each_ends_its_connection(world, case, &broken);
    });
}

#[test]
fn a_subscribe_that_breaks_a_rule_ends_the_connection() {
    every(|world, case| {
        let v = case.version;
        let with = |options| subscribe(v, 1, &[], &[("a", options)]);
        let mut broken = vec![
            ("no filter", subscribe(v, 1, &[], &[]), PROTOCOL_ERROR),
            ("identifier 0", subscribe(v, 0, &[], &[("a", 0)]), PROTOCOL_ERROR),
            ("QoS 3", with(3), None),
            ("a reserved bit", with(0x40), MALFORMED),
            ("the other reserved bit", with(0x80), MALFORMED),
            ("no options", packet(0x82, &[&[0, 1][..], &section(v, &[]), &field("a")].concat()), MALFORMED),
        ];
        if case.is_v5() {
            broken.extend([
                ("retain handling 3", with(0x30), PROTOCOL_ERROR),
                (
                    "No Local on a shared subscription",
                    subscribe(v, 1, &[], &[("$share/g/a", 4)]),
                    PROTOCOL_ERROR,
                ),
                ("subscription identifier 0", subscribe(v, 1, &[0x0b, 0], &[("a", 0)]), PROTOCOL_ERROR),
                (
                    "two subscription identifiers",
                    subscribe(v, 1, &[0x0b, 1, 0x0b, 2], &[("a", 0)]),
                    PROTOCOL_ERROR,
                ),
            ]);
        } else {
            // What 5.0 has made options of is reserved here.
            broken.extend([4, 8, 0x10, 0x20].map(|bit| ("a reserved bit of 3.1.1", with(bit), MALFORMED)));
        }
        each_ends_its_connection(world, case, &broken);
    });
}

#[test]
fn an_unsubscribe_that_breaks_a_rule_ends_the_connection() {
    every(|world, case| {
        let v = case.version;
        each_ends_its_connection(
            world,
            case,
            &[
                ("no filter", unsubscribe(v, 1, &[]), PROTOCOL_ERROR),
                ("identifier 0", unsubscribe(v, 0, &["a"]), PROTOCOL_ERROR),
            ],
        );
    });
}

#[test]
fn a_second_connect_ends_the_connection() {
    every(|world, case| {
        let second = Connect::clean(&name("c")).encode(case.version, world.credential(case.via));
        each_ends_its_connection(world, case, &[("a second CONNECT", second, PROTOCOL_ERROR)]);
    });
}

#[test]
fn a_first_packet_other_than_connect_is_closed_without_an_answer() {
    every(|world, case| {
        let v = case.version;
        let mut firsts: Vec<Vec<u8>> =
            (0..16_u8).filter(|kind| *kind != 1).map(|kind| vec![kind << 4, 0]).collect();
        firsts.extend([
            Publish::new("a", "x").encode(v),
            subscribe(v, 1, &[], &[("a", 0)]),
            PINGREQ.to_vec(),
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        ]);
        for first in firsts {
            let mut client = Client::silent(world, case);
            client.send(&first);
            client.is_closed();
        }
    });
}

#[test]
fn a_packet_too_large_for_the_server_ends_the_connection_by_its_header() {
    every(|world, case| {
        let mut client = Client::new(world, case);
        // The greatest packet that can be said, without its body.
        client.send(&[0x30, 0xff, 0xff, 0xff, 0x7f]);
        client.ended_with(0x95);
    });
}

#[test]
fn a_fault_of_one_client_is_not_felt_by_another() {
    every(|world, case| {
        let topic = name("t");
        let mut good = Client::new(world, case);
        good.subscribe(&topic, 0);
        let mut bad = Client::new(world, case);
        bad.send(&[0x36, 0]);
        bad.ended();
        good.publish(&Publish::new(&topic, "here"));
        assert_eq!(good.message().text(), "here");
        good.send(&PINGREQ);
        assert_eq!(good.next(), Some(Said::PingResp));
    });
}
