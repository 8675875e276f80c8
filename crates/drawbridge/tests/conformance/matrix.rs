//! Every packet type in every state of a connection: what comes of it.

use std::net::Shutdown;

use crate::bytes::{
    AUTHENTICATION_METHOD, Connect, DISCONNECT, PINGREQ, Publish, Said, Version, ack, packet, pstr, section,
    subscribe, unsubscribe,
};
use crate::client::Client;
use crate::world::{Case, World, every, name};

/// What comes of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    /// The first byte of the answer.
    Answered(u8),
    /// No answer, and the connection is as it was.
    Nothing,
    /// The server closes without a word.
    Closed,
    /// In 5.0 DISCONNECT with a code of an error, then the server closes; 3.1.1 just closes.
    Ended,
    /// CONNACK that refuses, then the server closes.
    Refused,
}
use Outcome::{Answered, Closed, Ended, Nothing, Refused};

/// Packets of all sixteen types, well formed, of either direction; and what comes of each on an open
/// connection.
fn packets(world: &World, case: Case) -> Vec<(&'static str, Vec<u8>, Outcome)> {
    let v = case.version;
    let topic = name("t");
    let v5 = case.is_v5();
    let method = section(Version::V5, &pstr(AUTHENTICATION_METHOD, "m"));
    let acknowledged = |first_byte| if v5 { packet(first_byte, &[0, 9, 0]) } else { ack(first_byte, 9) };
    let mut all = vec![
        ("type 0", vec![0x00, 0], Ended),
        ("CONNECT", Connect::clean(&name("c")).encode(v, world.credential(case.via)), Ended),
        ("CONNACK", packet(0x20, &[&[0, 0][..], &section(v, &[])].concat()), Ended),
        ("PUBLISH, QoS 0", Publish::new(&topic, "x").encode(v), Nothing),
        ("PUBLISH, QoS 0, retained", Publish::new(&topic, "x").retain().encode(v), Nothing),
        ("PUBLISH, QoS 1", Publish::new(&topic, "x").qos(1, 9).encode(v), Answered(0x40)),
        ("PUBLISH, QoS 1, DUP", Publish::new(&topic, "x").qos(1, 9).dup().encode(v), Answered(0x40)),
        ("PUBLISH, QoS 2", Publish::new(&topic, "x").qos(2, 9).encode(v), Answered(0x50)),
        ("PUBLISH, QoS 2, DUP", Publish::new(&topic, "x").qos(2, 9).dup().encode(v), Answered(0x50)),
        ("PUBLISH, QoS 3", Publish::new(&topic, "x").qos(3, 9).encode(v), Ended),
        // Of identifiers that nobody uses.
        ("PUBACK", acknowledged(0x40), Nothing),
        ("PUBREC", acknowledged(0x50), Answered(0x62)),
        ("PUBREL", acknowledged(0x62), Answered(0x70)),
        ("PUBCOMP", acknowledged(0x70), Nothing),
        ("SUBSCRIBE", subscribe(v, 9, &[], &[(&topic, 0)]), Answered(0x90)),
        ("SUBACK", packet(0x90, &[&[0, 9][..], &section(v, &[]), &[0]].concat()), Ended),
        ("UNSUBSCRIBE", unsubscribe(v, 9, &[&topic]), Answered(0xb0)),
        (
            "UNSUBACK",
            packet(0xb0, &[&[0, 9][..], &section(v, &[]), &vec![0; usize::from(v5)]].concat()),
            Ended,
        ),
        ("PINGREQ", PINGREQ.to_vec(), Answered(0xd0)),
        ("PINGRESP", vec![0xd0, 0], Ended),
        ("DISCONNECT", DISCONNECT.to_vec(), Closed),
    ];
    if v5 {
        all.extend([
            ("DISCONNECT with will", vec![0xe0, 1, 4], Closed),
            ("AUTH", vec![0xf0, 0], Ended),
            ("AUTH, continue", packet(0xf0, &[&[0x18][..], &method].concat()), Ended),
            ("AUTH, again", packet(0xf0, &[&[0x19][..], &method].concat()), Ended),
        ]);
    } else {
        all.push(("type 15", vec![0xf0, 0], Ended));
    }
    all
}

fn comes_of(client: &mut Client, outcome: Outcome) -> Result<(), String> {
    let said = client.next();
    let held = match (&said, outcome) {
        (Some(Said::Ack { first_byte, .. }), Answered(wanted)) => *first_byte == wanted,
        (Some(Said::SubAck { .. }), Answered(0x90)) | (Some(Said::UnsubAck { .. }), Answered(0xb0)) => true,
        (Some(Said::PingResp), Answered(0xd0) | Nothing) => true,
        (Some(Said::Disconnect { code, .. }), Ended) => *code >= 0x80 && client.next().is_none(),
        (Some(Said::ConnAck { flags: 0, code, .. }), Refused) => *code > 0 && client.next().is_none(),
        (None, Closed) => true,
        (None, Ended) => client.version == Version::V311,
        _ => false,
    };
    if held { Ok(()) } else { Err(format!("{said:?} for {outcome:?}")) }
}

#[test]
fn every_packet_type_on_an_open_connection_has_its_outcome() {
    every(|world, case| {
        let mut faults = Vec::new();
        for (what, bytes, outcome) in packets(world, case) {
            let mut client = Client::new(world, case);
            client.send(&bytes);
            if outcome == Nothing {
                client.send(&PINGREQ);
            }
            faults.extend(comes_of(&mut client, outcome).err().map(|fault| format!("{what}: {fault}")));
        }
        assert!(faults.is_empty(), "{case:?}: {faults:#?}");
    });
}

#[test]
fn every_packet_type_before_connect_closes_the_socket_and_connect_does_not() {
    every(|world, case| {
        for (what, bytes, _) in packets(world, case) {
            let mut client = Client::silent(world, case);
            client.send(&bytes);
            if what == "CONNECT" {
                assert!(matches!(client.next(), Some(Said::ConnAck { code: 0, .. })));
                continue;
            }
            // Not even its first byte is answered.
            if let Err(fault) = comes_of(&mut client, Closed) {
                panic!("{case:?}: {what}: {fault}");
            }
            let mut client = Client::silent(world, case);
            client.send(&bytes[..1]);
            assert!(comes_of(&mut client, Closed).is_ok(), "{case:?}: the first byte of {what}");
        }
    });
}

#[test]
fn every_packet_type_behind_a_connect_that_is_judged_waits_for_the_answer() {
    every(|world, case| {
        for (what, bytes, outcome) in packets(world, case) {
            let connect = Connect::clean(&name("c"));
            // Admitted: as on an open connection, CONNACK first.
            let mut client = Client::silent(world, case);
            let mut all = connect.encode(case.version, world.credential(case.via));
            all.extend_from_slice(&bytes);
            if outcome == Nothing {
                all.extend_from_slice(&PINGREQ);
            }
            client.send(&all);
            assert!(matches!(client.next(), Some(Said::ConnAck { code: 0, .. })), "{what}");
            if let Err(fault) = comes_of(&mut client, outcome) {
                panic!("{case:?}: {what} behind CONNECT: {fault}");
            }
            // Refused: nothing but the CONNACK, whatever it was.
            let mut client = Client::silent(world, case);
            let mut all = connect.encode(case.version, Some(("nobody", b"no password")));
            all.extend_from_slice(&bytes);
            client.send(&all);
            if let Err(fault) = comes_of(&mut client, Refused) {
                panic!("{case:?}: {what} behind a CONNECT that is refused: {fault}");
            }
        }
    });
}

#[test]
fn every_packet_type_behind_disconnect_is_not_worked_on() {
    every(|world, case| {
        for (what, bytes, _) in packets(world, case) {
            let mut client = Client::new(world, case);
            client.send(&[&DISCONNECT[..], &bytes, &PINGREQ].concat());
            if let Err(fault) = comes_of(&mut client, Closed) {
                panic!("{case:?}: {what} behind DISCONNECT: {fault}");
            }
        }
    });
}

#[test]
fn every_packet_type_cut_off_at_each_byte_is_waited_for_and_then_forgotten() {
    every(|world, case| {
        for (what, bytes, outcome) in packets(world, case) {
            if outcome == Ended {
                continue; // judged by its first bytes
            }
            for at in 1..bytes.len() {
                let mut client = Client::new(world, case);
                client.send(&bytes[..at]);
                client.shut(Shutdown::Write);
                // Nothing is made of a part: the server sees the end, and closes.
                if let Err(fault) = comes_of(&mut client, Closed) {
                    panic!("{case:?}: {at} bytes of {what}: {fault}");
                }
            }
            let mut client = Client::new(world, case);
            for byte in &bytes {
                client.send(&[*byte]);
            }
            if outcome == Nothing {
                client.send(&PINGREQ);
            }
            assert!(comes_of(&mut client, outcome).is_ok(), "{case:?}: {what} byte by byte");
        }
    });
}

#[test]
fn a_connect_in_parts_is_waited_for() {
    every(|world, case| {
        let bytes = Connect::clean(&name("c")).encode(case.version, world.credential(case.via));
        let mut client = Client::silent(world, case);
        for part in bytes.chunks(7) {
            client.send(part);
        }
        assert!(matches!(client.next(), Some(Said::ConnAck { code: 0, .. })));
    });
}
