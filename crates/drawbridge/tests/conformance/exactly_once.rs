//! QoS 2, both ways.

use crate::bytes::{
    Connect, MAXIMUM_PACKET_SIZE, PINGREQ, Publish, RECEIVE_MAXIMUM, Said, Version, Will, ack, ack_with, p16,
    p32, subscribe, unsubscribe,
};
use crate::client::Client;
use crate::world::{Case, Via, World, every, every_v5, name};

#[test]
fn qos_2_is_granted_and_a_message_comes_once_by_the_whole_handshake() {
    every(|world, case| {
        let topic = name("t");
        let (mut sender, mut reader) = (Client::new(world, case), Client::new(world, case));
        reader.subscribe(&topic, 2);
        for id in [1, 0xffff] {
            sender.send(&Publish::new(&topic, "x").qos(2, id).encode(case.version));
            sender.pubrec(id);
            sender.send(&ack(0x62, id));
            sender.acked(0x70, id, 0);
            let message = reader.message();
            assert_eq!((message.qos, message.dup, message.text()), (2, false, "x"));
            reader.send(&ack(0x50, message.id));
            reader.acked(0x62, message.id, 0);
            reader.send(&ack(0x70, message.id));
            assert_eq!(reader.ping(), []);
        }
    });
}

#[test]
fn a_publish_said_again_before_pubrel_is_answered_again_and_delivered_once() {
    every(|world, case| {
        let topic = name("t");
        let (mut sender, mut reader) = (Client::new(world, case), Client::new(world, case));
        reader.subscribe(&topic, 1);
        let publish = Publish::new(&topic, "once").qos(2, 7);
        sender.send(&publish.encode(case.version));
        sender.pubrec(7);
        for _ in 0..3 {
            sender.send(&publish.clone().dup().encode(case.version));
            sender.pubrec(7);
        }
        sender.send(&ack(0x62, 7));
        sender.acked(0x70, 7, 0);
        // After PUBCOMP the identifier is free, and DUP makes no difference.
        sender.send(&Publish::new(&topic, "new").qos(2, 7).dup().encode(case.version));
        sender.pubrec(7);
        sender.send(&ack(0x62, 7));
        sender.acked(0x70, 7, 0);
        assert_eq!(reader.taken().text(), "once");
        assert_eq!(reader.taken().text(), "new");
        assert_eq!(reader.ping(), []);
    });
}

#[test]
fn a_pubrel_is_always_answered() {
    every(|world, case| {
        let mut client = Client::new(world, case);
        // For an identifier that is not in use: 5.0 says so.
        client.send(&ack(0x62, 9));
        client.acked(0x70, 9, if case.is_v5() { 0x92 } else { 0 });
        // Twice for one that was.
        client.publish(&Publish::new(&name("t"), "x").qos(2, 0));
        let id = client.fresh_id() - 1;
        client.send(&ack(0x62, id));
        client.acked(0x70, id, if case.is_v5() { 0x92 } else { 0 });
        assert_eq!(client.ping(), []);
    });
}

#[test]
fn a_pubrec_for_nothing_is_answered_with_pubrel() {
    every(|world, case| {
        let mut client = Client::new(world, case);
        client.send(&ack(0x50, 9));
        client.acked(0x62, 9, if case.is_v5() { 0x92 } else { 0 });
        client.send(&ack(0x70, 9));
        assert_eq!(client.ping(), [], "a PUBCOMP for nothing changes nothing");
    });
}

#[test]
fn a_publish_that_is_refused_by_pubrec_ends_there_and_its_identifier_is_free() {
    every_v5(|world, case| {
        let mut sender = Client::new(world, case);
        sender.send(&Publish::new("$other/t", "x").qos(2, 5).encode(case.version));
        sender.acked(0x50, 5, 0x87);
        let topic = name("t");
        let mut reader = Client::new(world, case);
        reader.subscribe(&topic, 2);
        sender.send(&Publish::new(&topic, "x").qos(2, 5).encode(case.version));
        sender.pubrec(5);
        sender.send(&ack(0x62, 5));
        sender.acked(0x70, 5, 0);
        // And the other way: a reader that refuses is sent no PUBREL, and the message not again.
        let message = reader.message();
        reader.send(&ack_with(0x50, message.id, 0x83));
        assert_eq!(reader.ping(), []);
    });
}

#[test]
fn delivery_is_at_the_lower_qos_with_2_as_well() {
    every(|world, case| {
        for published in 0..=2 {
            for granted in 0..=2 {
                let topic = name("t");
                let (mut sender, mut reader) = (Client::new(world, case), Client::new(world, case));
                reader.subscribe(&topic, granted);
                sender.publish(&Publish::new(&topic, "x").qos(published, 0));
                assert_eq!(reader.taken().qos, published.min(granted), "{published} {granted}");
                assert_eq!(reader.ping(), []);
            }
        }
    });
}

#[test]
fn qos_2_counts_against_the_receive_maximum_until_pubcomp() {
    every_v5(|world, case| {
        let topic = name("t");
        let connect = Connect::clean(&name("c")).with(p16(RECEIVE_MAXIMUM, 2));
        let (mut reader, _) = Client::join(world, case, &connect);
        reader.subscribe(&topic, 2);
        let mut sender = Client::new(world, case);
        for n in 0..4 {
            sender.publish(&Publish::new(&topic, n.to_string()).qos(2, 0));
        }
        let (first, second) = (reader.message(), reader.message());
        assert_eq!((first.text(), second.text()), ("0", "1"));
        assert_eq!(reader.ping(), []);
        // PUBREC opens nothing, PUBCOMP does; a PUBREC that refuses does at once.
        reader.send(&ack(0x50, first.id));
        reader.acked(0x62, first.id, 0);
        assert_eq!(reader.ping(), []);
        reader.send(&ack(0x70, first.id));
        assert_eq!(reader.message().text(), "2");
        reader.send(&ack_with(0x50, second.id, 0x80));
        assert_eq!(reader.message().text(), "3");
    });
}

#[test]
fn pubrecs_and_pubrels_come_in_order() {
    every(|world, case| {
        let topic = name("t");
        let (mut sender, mut reader) = (Client::new(world, case), Client::new(world, case));
        reader.subscribe(&topic, 2);
        let ids = [9, 3, 0xfff0, 1];
        let all: Vec<u8> = ids
            .iter()
            .flat_map(|id| Publish::new(&topic, id.to_string()).qos(2, *id).encode(case.version))
            .collect();
        sender.send(&all);
        for id in ids {
            sender.pubrec(id);
        }
        sender.send(&ids.map(|id| ack(0x62, id)).concat());
        for id in ids {
            sender.acked(0x70, id, 0);
        }
        let messages: Vec<_> = ids.iter().map(|_| reader.message()).collect();
        let order: Vec<&str> = messages.iter().map(|message| message.text()).collect();
        assert_eq!(order, ids.map(|id| id.to_string()));
        // PUBREL in the order of the PUBRECs.
        let answers: Vec<u8> = messages.iter().rev().flat_map(|message| ack(0x50, message.id)).collect();
        reader.send(&answers);
        for message in messages.iter().rev() {
            reader.acked(0x62, message.id, 0);
        }
    });
}

#[test]
fn what_was_sent_at_qos_2_before_an_unsubscribe_is_brought_to_its_end() {
    every(|world, case| {
        let topic = name("t");
        let mut reader = Client::new(world, case);
        reader.subscribe(&topic, 2);
        Client::new(world, case).publish(&Publish::new(&topic, "x").qos(2, 0));
        let message = reader.message();
        reader.send(&unsubscribe(case.version, 0x101, &[&topic]));
        assert!(matches!(reader.next(), Some(Said::UnsubAck { .. })));
        reader.send(&ack(0x50, message.id));
        reader.acked(0x62, message.id, 0);
        reader.send(&ack(0x70, message.id));
        assert_eq!(reader.ping(), []);
    });
}

#[test]
fn a_will_and_a_retained_message_may_be_of_qos_2() {
    every(|world, case| {
        let topic = name("t");
        let mut reader = Client::new(world, case);
        reader.subscribe(&topic, 2);
        let will =
            Will { topic: topic.clone(), payload: b"will".to_vec(), qos: 2, retain: true, ..Will::default() };
        Client::join(world, case, &Connect::clean(&name("c")).will(will)).0.vanish();
        assert_eq!(reader.taken().qos, 2);
        Client::new(world, case).settle(world, case);
        let mut late = Client::new(world, case);
        late.subscribe(&topic, 2);
        let message = late.taken();
        assert_eq!((message.qos, message.retain, message.text()), (2, true, "will"));
    });
}

#[test]
fn an_identifier_may_serve_each_direction_at_once() {
    every(|world, case| {
        let topic = name("t");
        let mut client = Client::new(world, case);
        client.send(&subscribe(case.version, 1, &[], &[(&topic, 2)]));
        assert!(matches!(client.next(), Some(Said::SubAck { id: 1, .. })));
        // Identifier 1 of the client, and very likely 1 of the server.
        client.send(&Publish::new(&topic, "x").qos(2, 1).encode(case.version));
        client.pubrec(1);
        let message = client.message();
        client.send(&ack(0x50, message.id));
        client.acked(0x62, message.id, 0);
        client.send(&ack(0x62, 1));
        client.acked(0x70, 1, 0);
        client.send(&ack(0x70, message.id));
        client.send(&PINGREQ);
        assert_eq!(client.next(), Some(Said::PingResp));
    });
}

#[test]
fn connack_does_not_limit_the_qos() {
    every_v5(|world, case| {
        let (_, _, code, properties) = Client::ask(world, case, &Connect::clean(&name("c")));
        assert_eq!((code, case.version), (0, Version::V5));
        assert!(!properties.has(crate::bytes::MAXIMUM_QOS), "QoS 2 is said by leaving it out");
    });
}

#[test]
fn a_client_that_exceeds_the_receive_maximum_of_the_server_is_disconnected() {
    every_v5(|world, case| {
        let (mut client, _, _, properties) = Client::ask(world, case, &Connect::clean(&name("c")));
        let maximum = properties.number(RECEIVE_MAXIMUM).unwrap_or(65_535);
        // QoS 2 without PUBREL stays open, however fast the server is.
        let topic = name("t");
        let id = |id| u16::try_from(id).expect("a Receive Maximum of less than 65,535");
        let all = (1..=maximum + 1).flat_map(|n| Publish::new(&topic, "").qos(2, id(n)).encode(case.version));
        client.send(&all.collect::<Vec<u8>>());
        let mut answered = 0;
        loop {
            match client.next() {
                Some(Said::Ack { first_byte: 0x50, .. }) => answered += 1,
                Some(Said::Disconnect { code, .. }) => {
                    assert_eq!(code, 0x93);
                    break;
                }
                other => panic!("{other:?} after {answered}"),
            }
        }
        assert!(answered <= maximum, "{answered}");
        client.is_closed();
    });
}

#[test]
fn acknowledgements_of_qos_2_never_exceed_the_clients_maximum_packet_size() {
    every_v5(|world, case| {
        // Large enough for CONNACK and for any packet without its reason string.
        let bytes_max = 60;
        let connect = Connect::clean(&name("c")).with(p32(MAXIMUM_PACKET_SIZE, bytes_max));
        let (mut client, _) = Client::join(world, case, &connect);
        let long = format!("$other/{}", "x".repeat(200));
        client.send(&Publish::new(&long, "x").qos(2, 1).encode(case.version)); // PUBREC 0x87
        client.send(&ack(0x62, 7)); // PUBCOMP 0x92
        client.send(&ack(0x50, 7)); // PUBREL 0x92
        for first_byte in [0x50, 0x70, 0x62] {
            match client.next_sized() {
                Some((Said::Ack { first_byte: found, .. }, bytes)) => {
                    assert_eq!(found, first_byte);
                    assert!(bytes <= usize::try_from(bytes_max).expect("small"), "{found:#04x}: {bytes}");
                }
                other => panic!("{other:?}"),
            }
        }
    });
}

#[test]
fn cve_2023_28366_identifiers_repeated_without_end_take_no_memory() {
    let world = World::start(&[]);
    for version in [Version::V311, Version::V5] {
        let case = Case { version, via: Via::Plain };
        let mut client = Client::new(&world, case);
        let payload = vec![0; 20_000];
        let mut round = |rounds: u16| {
            for n in 0..rounds {
                let id = 1 + n % 10;
                let publish = Publish::new("t", &payload).qos(2, id).dup();
                client.send(&publish.encode(version));
                client.pubrec(id);
            }
        };
        // In 5.0 each counts against the Receive Maximum, and no PUBCOMP gives it back.
        let (first, then) = if version == Version::V5 { (100, 800) } else { (500, 3_000) };
        round(first);
        let before = world.core().resident_bytes();
        round(then);
        let grown = world.core().resident_bytes().saturating_sub(before);
        assert!(grown < 8 << 20, "{grown} bytes after {then} packets that were ten messages");
    }
}
