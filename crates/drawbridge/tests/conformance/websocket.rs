//! MQTT over WebSocket (section 6 of both standards): what only frames can break.

use std::collections::BTreeSet;

use crate::bytes::{Connect, PINGREQ, Publish, Said, subscribe};
use crate::client::{Client, Transport};
use crate::frames::{WebSocket, header, upgrade};
use crate::world::{Case, Via, World, every, name};

/// Runs a test in both versions over WebSocket.
fn every_web(test: impl Fn(&World, Case) + Sync) {
    every(|world, case| {
        if case.via == Via::WebSocket {
            test(world, case);
        }
    });
}

#[test]
fn a_text_frame_ends_the_connection() {
    every_web(|world, case| {
        // Text, and opcodes that are reserved.
        for first_byte in [0x81, 0x83, 0x8b] {
            let mut client = Client::new(world, case);
            client.web_socket().write_frame(first_byte, &PINGREQ).expect("sent");
            while client.next().is_some_and(|said| matches!(said, Said::Disconnect { .. })) {}
            let mut before = Client::silent(world, case);
            before.web_socket().write_frame(first_byte, &PINGREQ).expect("sent");
            before.is_closed();
        }
    });
}

#[test]
fn packets_need_not_be_aligned_with_frames() {
    every_web(|world, case| {
        let topic = name("t");
        let connect = Connect::clean(&name("c")).encode(case.version, world.credential(case.via));
        let all = [
            connect,
            subscribe(case.version, 1, &[], &[(&topic, 1)]),
            Publish::new(&topic, "x".repeat(300)).qos(1, 2).encode(case.version),
            PINGREQ.to_vec(),
        ]
        .concat();
        for size in [1, 7, 126, all.len()] {
            let mut client = Client::silent(world, case);
            let web = client.web_socket();
            for part in all.chunks(size) {
                web.write_frame(0x82, part).expect("sent");
            }
            assert!(matches!(client.next(), Some(Said::ConnAck { code: 0, .. })), "frames of {size}");
            // The PUBACK may come behind the PINGRESP.
            let mut left = BTreeSet::from([0x40, 0x90, 0xd0]);
            while !left.is_empty() {
                let first_byte = match client.answer() {
                    Some(Said::SubAck { id: 1, .. }) => 0x90,
                    Some(Said::Ack { first_byte, id: 2, .. }) => first_byte,
                    Some(Said::PingResp) => 0xd0,
                    other => panic!("{other:?}, and {left:02x?} to come"),
                };
                assert!(left.remove(&first_byte), "frames of {size}: {first_byte:#04x} twice");
            }
            assert_eq!(client.message().payload.len(), 300);
        }
        // One message in fragments, a ping between them, and empty frames.
        let mut client = Client::new(world, case);
        let web = client.web_socket();
        for (first_byte, part) in
            [(0x82, &b""[..]), (0x02, b"\xc0"), (0x89, b"?"), (0x00, b""), (0x80, b"\x00")]
        {
            web.write_frame(first_byte, part).expect("sent");
        }
        assert_eq!(client.next(), Some(Said::PingResp));
    });
}

#[test]
fn who_does_not_offer_mqtt_is_not_upgraded() {
    every_web(|world, _| {
        for lines in [&[][..], &["Sec-WebSocket-Protocol: chat"], &["Sec-WebSocket-Protocol: MQTT"]] {
            let (answer, _) = upgrade(&mut world.https(), lines);
            assert!(answer.starts_with("HTTP/1.1 4"), "{lines:?}: {answer}");
        }
    });
}

#[test]
fn the_subprotocol_that_is_chosen_is_mqtt() {
    every_web(|world, case| {
        for line in ["mqtt", "mqttv3.1, mqtt", "chat, mqtt , superchat"] {
            let mut stream = world.https();
            let (answer, frames) = upgrade(&mut stream, &[&format!("Sec-WebSocket-Protocol: {line}")]);
            assert!(answer.starts_with("HTTP/1.1 101 "), "{line}: {answer}");
            assert_eq!(header(&answer, "sec-websocket-protocol"), Some("mqtt"), "{line}");
            let web = WebSocket::behind(stream, frames);
            let mut client = Client::over(Transport::WebSocket(Box::new(web)), case.version);
            client.send(&Connect::clean(&name("c")).encode(case.version, world.credential(case.via)));
            assert!(matches!(client.next(), Some(Said::ConnAck { code: 0, .. })));
        }
    });
}

#[test]
fn cve_2026_25627_a_packet_that_says_to_be_longer_than_its_frame_waits_for_the_next() {
    every_web(|world, case| {
        let topic = name("t");
        let mut client = Client::new(world, case);
        client.subscribe(&topic, 1);
        let publish = Publish::new(&topic, "y".repeat(5_000)).qos(1, 9).encode(case.version);
        let mut seed = 0x2026_2562_u32;
        println!("seed {seed:#x}");
        for _ in 0..20 {
            let mut rest = &publish[..];
            while !rest.is_empty() {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let (part, behind) = rest.split_at((1 + (seed >> 20) as usize % 900).min(rest.len()));
                client.web_socket().write_frame(0x82, part).expect("sent");
                rest = behind;
            }
            client.acked(0x40, 9, 0);
            assert_eq!(client.taken().payload.len(), 5_000);
        }
        // One that never goes on is not worked on, and its frame takes nothing with it.
        client.web_socket().write_frame(0x82, &publish[..100]).expect("sent");
        client.shut(std::net::Shutdown::Write);
        client.is_closed();
    });
}
