//! Sessions that outlive their connections.

use std::time::Duration;

use crate::bytes::{
    Connect, DISCONNECT, MESSAGE_EXPIRY, Publish, RECEIVE_MAXIMUM, SESSION_EXPIRY, Said, Version, ack,
    ack_with, p16, p32, packet, section, unsubscribe,
};
use crate::client::Client;
use crate::world::{Case, Via, World, every, every_apart, every_v5, name};

/// Long enough for every test.
const KEPT_S: u32 = 600;

fn kept(case: Case, id: &str) -> Connect {
    Connect::kept(id, case.version, KEPT_S)
}

/// A session with one subscription, its client gone.
fn away(world: &World, case: Case, id: &str, filter: &str, qos: u8) {
    let (mut client, present) = Client::join(world, case, &kept(case, id));
    assert!(!present);
    client.subscribe(filter, qos);
    client.leave();
}

/// Takes a session up again.
fn back(world: &World, case: Case, id: &str) -> Client {
    let (client, present) = Client::join(world, case, &kept(case, id));
    assert!(present, "the session of {id} is kept");
    client
}

/// Ends a session for good.
fn forget(world: &World, case: Case, id: &str) {
    let (client, present) = Client::join(world, case, &Connect::clean(id));
    assert!(!present, "a clean start finds nothing");
    client.leave();
}

#[test]
fn a_session_that_is_kept_is_present_at_the_next_connect_and_one_that_is_not_is_not() {
    every(|world, case| {
        let id = name("c");
        let (first, present) = Client::join(world, case, &kept(case, &id));
        assert!(!present, "there was none");
        first.leave();
        back(world, case, &id).vanish();
        // However the connection ended.
        back(world, case, &id).leave();
        forget(world, case, &id);
        let (_, present) = Client::join(world, case, &kept(case, &id));
        assert!(!present, "a clean session left nothing behind");
    });
}

#[test]
fn without_an_expiry_a_session_ends_with_its_connection() {
    every_v5(|world, case| {
        for properties in [vec![], p32(SESSION_EXPIRY, 0)] {
            let (id, topic) = (name("c"), name("t"));
            let connect = Connect { clean: false, properties, ..Connect::clean(&id) };
            let (mut client, _) = Client::join(world, case, &connect);
            client.subscribe(&topic, 1);
            client.leave();
            let (mut client, present) = Client::join(world, case, &connect);
            assert!(!present);
            Client::new(world, case).publish(&Publish::new(&topic, "x").qos(1, 0));
            assert_eq!(client.ping(), [], "its subscriptions are gone");
        }
    });
}

#[test]
fn subscriptions_and_messages_of_a_session_wait_for_its_client_in_order() {
    every(|world, case| {
        let (id, topic) = (name("c"), name("t"));
        away(world, case, &id, &topic, 2);
        let mut sender = Client::new(world, case);
        for n in 0..20_u8 {
            sender.publish(&Publish::new(&topic, n.to_string()).qos(1 + n % 2, 0));
        }
        let mut client = back(world, case, &id);
        for n in 0..20_u8 {
            let message = client.taken();
            assert_eq!(
                (message.text(), message.qos, message.dup),
                (n.to_string().as_str(), 1 + n % 2, false)
            );
        }
        sender.publish(&Publish::new(&topic, "live").qos(1, 0));
        assert_eq!(client.taken().text(), "live");
        client.leave();
        // What was acknowledged does not come again.
        assert_eq!(back(world, case, &id).ping(), []);
    });
}

#[test]
fn qos_0_is_not_kept_for_who_is_away() {
    every(|world, case| {
        let (id, topic) = (name("c"), name("t"));
        away(world, case, &id, &topic, 2);
        let mut sender = Client::new(world, case);
        sender.publish(&Publish::new(&topic, "passing"));
        sender.publish(&Publish::new(&topic, "kept").qos(1, 0));
        let mut client = back(world, case, &id);
        assert_eq!(client.taken().text(), "kept");
        assert_eq!(client.ping(), []);
    });
}

#[test]
fn a_clean_start_discards_the_session_and_all_that_waits() {
    every(|world, case| {
        let (id, topic) = (name("c"), name("t"));
        away(world, case, &id, &topic, 1);
        let mut sender = Client::new(world, case);
        sender.publish(&Publish::new(&topic, "x").qos(1, 0));
        let (mut client, present) = Client::join(world, case, &Connect { clean: true, ..kept(case, &id) });
        assert!(!present);
        sender.publish(&Publish::new(&topic, "y").qos(1, 0));
        assert_eq!(client.ping(), [], "neither the messages nor the subscription");
    });
}

#[test]
fn what_was_not_acknowledged_comes_again_with_dup_its_identifier_and_its_order() {
    every(|world, case| {
        let (id, topic) = (name("c"), name("t"));
        let (mut client, _) = Client::join(world, case, &kept(case, &id));
        client.subscribe(&topic, 2);
        let mut sender = Client::new(world, case);
        for n in 0..6_u8 {
            sender.publish(&Publish::new(&topic, n.to_string()).qos(1 + n % 2, 0));
        }
        let first: Vec<_> = (0..6).map(|_| client.message()).collect();
        assert!(first.iter().all(|message| !message.dup));
        // One of each is brought to its end; one QoS 2 is left at PUBREL.
        client.send(&ack(0x40, first[0].id));
        client.send(&ack(0x50, first[1].id));
        client.acked(0x62, first[1].id, 0);
        client.send(&ack(0x70, first[1].id));
        client.send(&ack(0x50, first[3].id));
        client.acked(0x62, first[3].id, 0);
        assert_eq!(client.ping(), []);
        client.vanish();
        let mut client = back(world, case, &id);
        let mut again = Vec::new();
        let mut released = 0;
        while again.len() + released < 4 {
            match client.next() {
                Some(Said::Publish(message)) => again.push(message),
                Some(Said::Ack { first_byte: 0x62, id, code: 0, .. }) => {
                    assert_eq!(id, first[3].id, "PUBREL again, and not PUBLISH");
                    released += 1;
                }
                other => panic!("{other:?}"),
            }
        }
        for (message, before) in again.iter().zip([&first[2], &first[4], &first[5]]) {
            assert!(message.dup, "{message:?}");
            assert_eq!((message.id, message.text(), message.qos), (before.id, before.text(), before.qos));
        }
        client.send(&ack(0x70, first[3].id));
        client.send(&ack(0x40, first[2].id));
        client.send(&ack(0x40, first[4].id));
        client.send(&ack(0x50, first[5].id));
        client.acked(0x62, first[5].id, 0);
        client.send(&ack(0x70, first[5].id));
        assert_eq!(client.ping(), []);
        client.leave();
        assert_eq!(back(world, case, &id).ping(), []);
    });
}

#[test]
fn a_message_refused_by_puback_or_pubrec_does_not_come_again() {
    every_v5(|world, case| {
        let (id, topic) = (name("c"), name("t"));
        away(world, case, &id, &topic, 2);
        let mut sender = Client::new(world, case);
        sender.publish(&Publish::new(&topic, "one").qos(1, 0));
        sender.publish(&Publish::new(&topic, "two").qos(2, 0));
        let mut client = back(world, case, &id);
        for first_byte in [0x40, 0x50] {
            let message = client.message();
            client.send(&ack_with(first_byte, message.id, 0x83));
        }
        assert_eq!(client.ping(), []);
        client.vanish();
        assert_eq!(back(world, case, &id).ping(), []);
    });
}

#[test]
fn what_the_client_had_sent_at_qos_2_is_remembered_by_the_session() {
    every(|world, case| {
        let (id, topic) = (name("c"), name("t"));
        let mut reader = Client::new(world, case);
        reader.subscribe(&topic, 1);
        let (mut client, _) = Client::join(world, case, &kept(case, &id));
        let publish = Publish::new(&topic, "once").qos(2, 7);
        client.send(&publish.encode(case.version));
        client.pubrec(7);
        client.vanish();
        let mut client = back(world, case, &id);
        client.send(&publish.clone().dup().encode(case.version));
        client.pubrec(7);
        client.send(&ack(0x62, 7));
        client.acked(0x70, 7, 0);
        assert_eq!(reader.taken().text(), "once");
        assert_eq!(reader.ping(), [], "though it was sent twice");
    });
}

#[test]
fn a_newer_connection_takes_the_session_over_with_all_that_is_in_it() {
    every_apart(|world, case| {
        let (id, topic) = (name("c"), name("t"));
        let (mut older, _) = Client::join(world, case, &kept(case, &id));
        older.subscribe(&topic, 1);
        let mut sender = Client::new(world, case);
        sender.publish(&Publish::new(&topic, "x").qos(1, 0));
        let before = older.message();
        let mut newer = back(world, case, &id);
        older.ended_with(0x8e);
        let message = newer.taken();
        assert_eq!((message.text(), message.id, message.dup), ("x", before.id, true));
        sender.publish(&Publish::new(&topic, "y").qos(1, 0));
        assert_eq!(newer.taken().text(), "y");
    });
}

#[test]
fn a_session_is_found_by_its_client_id_alone_from_either_version() {
    every(|world, case| {
        let (id, topic) = (name("c"), name("t"));
        away(world, case, &id, &topic, 1);
        let other = Case { version: if case.is_v5() { Version::V311 } else { Version::V5 }, ..case };
        Client::new(world, case).publish(&Publish::new(&topic, "x").qos(1, 0));
        let (_, present) = Client::join(world, case, &kept(case, &name("c")));
        assert!(!present, "another name is another session");
        let mut client = back(world, other, &id);
        assert_eq!(client.taken().text(), "x");
    });
}

#[test]
fn a_session_ends_when_its_expiry_has_passed_and_not_while_it_is_connected() {
    every_v5(|world, case| {
        let (id, topic) = (name("c"), name("t"));
        let brief = Connect::kept(&id, Version::V5, 1);
        let (mut client, _) = Client::join(world, case, &brief);
        client.subscribe(&topic, 1);
        std::thread::sleep(Duration::from_millis(2_500));
        Client::new(world, case).publish(&Publish::new(&topic, "x").qos(1, 0));
        assert_eq!(client.taken().text(), "x", "it does not end while it is connected");
        client.leave();
        std::thread::sleep(Duration::from_millis(2_500));
        let (_, present) = Client::join(world, case, &brief);
        assert!(!present, "the expiry has passed");
    });
}

#[test]
fn disconnect_may_change_the_expiry_of_the_session() {
    every_v5(|world, case| {
        // (at CONNECT, at DISCONNECT, whether it is there at once)
        for (asked, last, is_kept) in
            [(600, Some(0), false), (600, None, true), (2, Some(600), true), (600, Some(u32::MAX), true)]
        {
            let id = name("c");
            let (mut client, _) = Client::join(world, case, &Connect::kept(&id, Version::V5, asked));
            let properties = last.map(|last| p32(SESSION_EXPIRY, last)).unwrap_or_default();
            client.send(&packet(0xe0, &[&[0][..], &section(Version::V5, &properties)].concat()));
            client.is_closed();
            std::thread::sleep(Duration::from_millis(if asked == 2 { 3_200 } else { 0 }));
            let (_, present) = Client::join(world, case, &Connect::kept(&id, Version::V5, 600));
            assert_eq!(present, is_kept, "{asked} {last:?}");
        }
    });
}

#[test]
fn the_expiry_that_the_server_gives_is_said_when_it_is_not_the_one_asked_for() {
    every_v5(|world, case| {
        for asked in [0, 1, 600, u32::MAX] {
            let (client, _, code, properties) =
                Client::ask(world, case, &Connect::kept(&name("c"), Version::V5, asked));
            assert_eq!(code, 0);
            let given = properties.number(SESSION_EXPIRY).unwrap_or(asked);
            assert!(given <= asked && (given > 0) == (asked > 0), "{asked}: {given}");
            drop(client);
        }
    });
}

#[test]
fn a_message_that_expires_while_its_session_is_away_is_not_delivered_and_another_has_less_left() {
    every_v5(|world, case| {
        let (id, topic) = (name("c"), name("t"));
        away(world, case, &id, &topic, 1);
        let mut sender = Client::new(world, case);
        sender.publish(&Publish::new(&topic, "brief").with(p32(MESSAGE_EXPIRY, 1)).qos(1, 0));
        sender.publish(&Publish::new(&topic, "long").with(p32(MESSAGE_EXPIRY, 100)).qos(1, 0));
        std::thread::sleep(Duration::from_millis(2_200));
        let mut client = back(world, case, &id);
        let message = client.taken();
        assert_eq!(message.text(), "long");
        let left = message.properties.number(MESSAGE_EXPIRY).expect("what is left of it");
        assert!((50..=98).contains(&left), "{left}: less the 2 s that it has waited");
    });
}

#[test]
fn an_expiry_stops_nothing_that_is_under_way() {
    every_v5(|world, case| {
        let (id, topic) = (name("c"), name("t"));
        away(world, case, &id, &topic, 2);
        let mut client = back(world, case, &id);
        let mut sender = Client::new(world, case);
        for qos in [1, 2] {
            sender.publish(&Publish::new(&topic, qos.to_string()).with(p32(MESSAGE_EXPIRY, 1)).qos(qos, 0));
        }
        let first = [client.message(), client.message()];
        std::thread::sleep(Duration::from_millis(2_200));
        client.vanish();
        let mut client = back(world, case, &id);
        // What was sent once is sent again though its time is over, and brought to its end.
        for before in &first {
            let message = client.taken();
            assert_eq!((message.id, message.dup, message.text()), (before.id, true, before.text()));
        }
        assert_eq!(client.ping(), []);
    });
}

#[test]
fn an_unsubscribe_is_part_of_the_session() {
    every(|world, case| {
        let (id, topic) = (name("c"), name("t"));
        away(world, case, &id, &topic, 1);
        let mut client = back(world, case, &id);
        client.send(&unsubscribe(case.version, 1, &[&topic]));
        assert!(matches!(client.next(), Some(Said::UnsubAck { .. })));
        client.leave();
        Client::new(world, case).publish(&Publish::new(&topic, "x").qos(1, 0));
        assert_eq!(back(world, case, &id).ping(), []);
    });
}

#[test]
fn retained_messages_are_told_at_subscribe_and_not_when_a_session_is_back() {
    every(|world, case| {
        let (id, topic) = (name("c"), name("t"));
        let mut sender = Client::new(world, case);
        sender.publish(&Publish::new(&topic, "kept").qos(1, 0).retain());
        sender.settle(world, case);
        let (mut client, _) = Client::join(world, case, &kept(case, &id));
        client.subscribe(&topic, 1);
        assert!(client.taken().retain);
        client.leave();
        assert_eq!(back(world, case, &id).ping(), []);
        // And they are no part of it: it ends, they stay.
        forget(world, case, &id);
        let mut late = Client::new(world, case);
        late.subscribe(&topic, 1);
        assert_eq!(late.taken().text(), "kept");
    });
}

#[test]
fn the_window_of_the_new_connection_holds_for_what_comes_again() {
    every_v5(|world, case| {
        let (id, topic) = (name("c"), name("t"));
        away(world, case, &id, &topic, 1);
        let mut sender = Client::new(world, case);
        for n in 0..5 {
            sender.publish(&Publish::new(&topic, n.to_string()).qos(1, 0));
        }
        let (mut client, present) = Client::join(world, case, &kept(case, &id).with(p16(RECEIVE_MAXIMUM, 2)));
        assert!(present);
        let found = client.ping();
        let texts: Vec<_> = found.iter().map(|message| message.text().to_owned()).collect();
        assert!(texts.len() <= 2, "{texts:?}");
        for message in found {
            client.send(&ack(0x40, message.id));
        }
        for n in texts.len()..5 {
            assert_eq!(client.taken().text(), n.to_string());
        }
    });
}

#[test]
fn an_empty_client_id_is_a_session_that_nobody_finds_again() {
    every_v5(|world, case| {
        let connect = kept(case, "");
        let (mut first, present) = Client::join(world, case, &connect);
        assert!(!present);
        first.send(&DISCONNECT);
        let (_, present) = Client::join(world, case, &connect);
        assert!(!present);
    });
}

#[test]
fn ghsa_7qmq_8cc4_hxwg_what_waits_for_a_session_passes_the_same_deny_as_what_is_live() {
    every(|world, case| {
        if case.via != Via::Tls {
            return; // who it is stands in a JWT, which needs TLS; once is enough
        }
        let (id, topic) = (name("c"), name("t"));
        let policy =
            format!("[[allow]]\nsubscribe = [\"#\"]\n[[deny]]\nsubscribe = [\"{topic}/secret/#\"]\n");
        let jwt = world.application(&name("app"), &policy);
        let (mut reader, _) = Client::join_as(world, case, &jwt, &kept(case, &id));
        reader.subscribe(&format!("{topic}/#"), 2);
        reader.leave();
        let mut sender = Client::new(world, case);
        for qos in [1, 2] {
            sender.publish(&Publish::new(&format!("{topic}/secret/a"), "denied").qos(qos, 0));
            sender.publish(&Publish::new(&format!("{topic}/open"), "open").qos(qos, 0));
        }
        let (mut reader, present) = Client::join_as(world, case, &jwt, &kept(case, &id));
        assert!(present);
        for _ in 0..2 {
            assert_eq!(reader.taken().text(), "open");
        }
        assert_eq!(reader.ping(), []);
    });
}

#[test]
fn cve_2026_8741_a_qos_2_handshake_broken_off_anywhere_delivers_once() {
    every(|world, case| {
        let (writer, id, topic) = (name("w"), name("c"), name("t"));
        away(world, case, &id, &topic, 2);
        let (mut sender, _) = Client::join(world, case, &kept(case, &writer));
        for n in 0..12_u16 {
            let publish = Publish::new(&topic, n.to_string()).qos(2, n + 1);
            sender.send(&publish.encode(case.version));
            // Broken off before PUBREC is read, after it, after PUBREL, or not at all.
            if n % 4 > 0 {
                sender.pubrec(n + 1);
            }
            if n % 4 > 1 {
                sender.send(&ack(0x62, n + 1));
            }
            if n % 4 == 3 {
                sender.acked(0x70, n + 1, 0);
                continue;
            }
            sender.vanish();
            sender = back(world, case, &writer);
            if n % 4 < 2 {
                sender.send(&publish.dup().encode(case.version));
                sender.pubrec(n + 1);
            }
            sender.send(&ack(0x62, n + 1));
            match sender.answer() {
                // 0x92: the first PUBREL had come.
                Some(Said::Ack { first_byte: 0x70, id, code: 0 | 0x92, .. }) => assert_eq!(id, n + 1),
                other => panic!("{other:?}"),
            }
        }
        // And the reader breaks off as well.
        let mut got = Vec::new();
        while got.len() < 12 {
            let mut reader = back(world, case, &id);
            let message = loop {
                match reader.next() {
                    Some(Said::Publish(message)) => break message,
                    Some(Said::Ack { first_byte: 0x62, id, .. }) => reader.send(&ack(0x70, id)),
                    other => panic!("{other:?}"),
                }
            };
            if got.len() % 2 == 1 && !message.dup {
                reader.vanish(); // without PUBREC: it comes again
                continue;
            }
            got.push(message.text().to_owned());
            reader.send(&ack(0x50, message.id));
            loop {
                match reader.next() {
                    Some(Said::Ack { first_byte: 0x62, id, .. }) if id == message.id => break,
                    Some(Said::Ack { first_byte: 0x62, id, .. }) => reader.send(&ack(0x70, id)),
                    Some(Said::Publish(_)) => {}
                    other => panic!("{other:?}"),
                }
            }
            reader.vanish(); // without PUBCOMP: PUBREL comes again, and not the message
        }
        assert_eq!(got, (0..12).map(|n| n.to_string()).collect::<Vec<_>>());
    });
}

#[test]
fn a_session_and_what_was_acknowledged_outlive_the_server() {
    for version in [Version::V311, Version::V5] {
        for polite in [true, false] {
            let mut world = World::start(&[]);
            let case = Case { version, via: Via::Plain };
            let (id, topic) = (name("c"), name("t"));
            away(&world, case, &id, &topic, 2);
            let mut sender = Client::new(&world, case);
            for qos in [1, 2] {
                sender.publish(&Publish::new(&topic, qos.to_string()).qos(qos, 0));
            }
            sender.publish(&Publish::new(&topic, "kept").qos(1, 0).retain());
            drop(sender);
            if polite {
                world.core_mut().stop()
            } else {
                world.core_mut().kill()
            }
            world.core_mut().run_again();
            let mut reader = back(&world, case, &id);
            for text in ["1", "2", "kept"] {
                assert_eq!(reader.taken().text(), text, "polite: {polite}");
            }
            assert_eq!(reader.ping(), []);
            let mut late = Client::new(&world, case);
            late.subscribe(&topic, 1);
            assert_eq!(late.taken().text(), "kept");
        }
    }
}
