//! CONNECT and CONNACK, DISCONNECT, keep alive, and who is let in as whom.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::bytes::{
    ASSIGNED_CLIENT_ID, AUTHENTICATION_DATA, AUTHENTICATION_METHOD, Connect, DISCONNECT, MAXIMUM_PACKET_SIZE,
    MAXIMUM_QOS, PINGREQ, PROBLEM_INFORMATION, Publish, REASON_STRING, RECEIVE_MAXIMUM, RESPONSE_INFORMATION,
    RESPONSE_INFORMATION_ASKED, RETAIN_AVAILABLE, SERVER_KEEP_ALIVE, SESSION_EXPIRY,
    SUBSCRIPTION_IDENTIFIERS_AVAILABLE, Said, TOPIC_ALIAS_MAXIMUM, USER_PROPERTY, Version,
    WILDCARD_AVAILABLE, Will, ack, ack_with, connect_head, field, p16, p32, packet, pstr, section, subscribe,
    unsubscribe, user,
};
use crate::client::Client;
use crate::world::{Case, Via, every, every_apart, every_v5, every_v311, name};

/// CONNECT with any protocol name, level and flags, and any payload.
fn raw(protocol: &str, level: u8, flags: u8, rest: &[u8]) -> Vec<u8> {
    packet(0x10, &[&field(protocol)[..], &[level, flags], &[0, 60], rest].concat())
}

#[test]
fn a_connect_that_breaks_the_format_is_closed_and_not_let_in() {
    every(|world, case| {
        let v = case.version;
        let none = section(v, &[]);
        let level = if case.is_v5() { 5 } else { 4 };
        let id = field(name("c"));
        let with = |flags: u8, payload: &[&[u8]]| {
            raw("MQTT", level, flags, &[&none[..], &payload.concat()].concat())
        };
        let will = [&none[..], &field("t"), &field("m")].concat();
        let long = |bytes: &[u8]| [&id[..], bytes].concat();
        let mut broken: Vec<(&str, Vec<u8>)> = vec![
            ("the reserved flag", with(0x03, &[&id])),
            ("a reserved bit in the first byte", [&[0x11][..], &with(0x02, &[&id])[1..]].concat()),
            ("no client identifier", with(0x02, &[])),
            ("will QoS 3", with(0x1e, &[&id, &will])),
            ("will QoS 1 without a will", with(0x0a, &[&id])),
            ("will retain without a will", with(0x22, &[&id])),
            ("a will announced and absent", with(0x06, &[&id])),
            ("a will without its message", with(0x06, &[&id, &none, &field("t")])),
            ("a will not announced", with(0x02, &[&id, &will])),
            ("a user name announced and absent", with(0x82, &[&id])),
            ("a user name not announced", with(0x02, &[&id, &field("u")])),
            ("a password announced and absent", with(0xc2, &[&id, &field("u")])),
            ("a password not announced", with(0x82, &[&id, &field("u"), &field("p")])),
            ("a client identifier of ill-formed UTF-8", with(0x02, &[&field(b"c\xff")])),
            ("a client identifier with U+0000", with(0x02, &[&field(b"c\x00")])),
            ("a will topic of ill-formed UTF-8", with(0x06, &[&id, &none, &field(b"t\xff"), &field("m")])),
            ("a will topic with a wildcard", with(0x06, &[&id, &none, &field("t/#"), &field("m")])),
            ("a user name of ill-formed UTF-8", with(0x82, &[&id, &field(b"u\xff")])),
            ("another order: the client identifier last", with(0x86, &[&field("t"), &field("m"), &id[..1]])),
            ("a byte behind the last field", with(0x02, &[&long(b"x")])),
        ];
        if case.is_v5() {
            let ask = |properties: &[u8]| raw("MQTT", 5, 0x02, &[&section(v, properties)[..], &id].concat());
            broken.extend([
                ("session expiry twice", ask(&[p32(SESSION_EXPIRY, 1), p32(SESSION_EXPIRY, 1)].concat())),
                ("receive maximum 0", ask(&p16(RECEIVE_MAXIMUM, 0))),
                ("maximum packet size 0", ask(&p32(MAXIMUM_PACKET_SIZE, 0))),
                ("request response information 2", ask(&[RESPONSE_INFORMATION_ASKED, 2])),
                ("request problem information 2", ask(&[PROBLEM_INFORMATION, 2])),
                ("authentication data without a method", ask(&pstr(AUTHENTICATION_DATA, "x"))),
                ("a property of PUBLISH", ask(&[0x23, 0, 1])),
                ("a will property outside of the will", ask(&p32(0x18, 1))),
            ]);
        } else {
            broken.push(("a password without a user name", with(0x42, &[&id, &field("p")])));
        }
        for (why, bytes) in broken {
            let mut client = Client::silent(world, case);
            client.send(&bytes);
            client.try_send(&PINGREQ);
            match client.next() {
                None => println!("{case:?}: {why}: closed"),
                // 3.1.1 forbids a CONNACK here; 5.0 allows one that refuses.
                Some(Said::ConnAck { flags: 0, code, .. }) if case.is_v5() && code >= 0x80 => {
                    println!("{case:?}: {why}: {code:#04x}");
                    client.is_closed();
                }
                other => panic!("{case:?}: {why}: {other:?}"),
            }
        }
    });
}

#[test]
fn another_protocol_name_or_version_is_refused_and_closed() {
    every(|world, case| {
        let rest = [section(case.version, &[]), field(name("c"))].concat();
        let level = if case.is_v5() { 5 } else { 4 };
        for protocol in ["MQTt", "mqtt", "MQTTX", "", "MQIsdp"] {
            let mut client = Client::silent(world, case);
            client.send(&raw(protocol, level, 0x02, &rest));
            match client.next() {
                None => {}
                Some(Said::ConnAck { flags: 0, code: 1 | 0x84, .. }) => client.is_closed(),
                other => panic!("{protocol:?}: {other:?}"),
            }
        }
    });
    // A later version is told in the form of 5.0, an earlier one in that of 3.1.1.
    every_v5(|world, case| {
        for level in [6, 7, 0x85, 255] {
            let mut client = Client::silent(world, case);
            client.send(&raw("MQTT", level, 0x02, &[&[0][..], &field("c")].concat()));
            match client.next() {
                Some(Said::ConnAck { flags: 0, code: 0x84, .. }) => client.is_closed(),
                other => panic!("level {level}: {other:?}"),
            }
        }
    });
    every_v311(|world, case| {
        for level in [0, 1, 2, 3] {
            let mut client = Client::silent(world, case);
            client.send(&raw("MQTT", level, 0x02, &field("c")));
            match client.next() {
                Some(Said::ConnAck { flags: 0, code: 1, .. }) => client.is_closed(),
                other => panic!("level {level}: {other:?}"),
            }
        }
    });
}

#[test]
fn the_first_packet_of_the_server_is_its_only_connack() {
    every(|world, case| {
        let v = case.version;
        let topic = name("t");
        let mut client = Client::silent(world, case);
        // All at once, so that answers to the rest could come first if they were allowed to.
        let connect = Connect::clean(&name("c")).encode(v, world.credential(case.via));
        let all = [
            connect,
            subscribe(v, 1, &[], &[(&topic, 0)]),
            Publish::new(&topic, "x").qos(1, 2).encode(v),
            PINGREQ.to_vec(),
        ];
        client.send(&all.concat());
        match client.next() {
            Some(Said::ConnAck { flags: 0, code: 0, .. }) => {}
            other => panic!("{other:?}"),
        }
        // SUBACK, PUBACK, PINGRESP and the message itself, in whatever order.
        let seen: Vec<Said> = (0..4).map(|_| client.next().expect("an answer")).collect();
        assert!(!seen.iter().any(|said| matches!(said, Said::ConnAck { .. })), "{seen:?}");
        assert!(seen.iter().any(|said| matches!(said, Said::SubAck { id: 1, .. })), "{seen:?}");
        assert!(
            seen.iter().any(|said| matches!(said, Said::Ack { first_byte: 0x40, id: 2, .. })),
            "{seen:?}"
        );
    });
}

#[test]
fn a_refused_connect_says_so_once_and_nothing_behind_it_is_done() {
    every(|world, case| {
        let v = case.version;
        let (topic, watched) = (name("t"), name("w"));
        let mut observer = Client::observer(world);
        observer.subscribe(&topic, 0);
        observer.subscribe(&watched, 0);
        let will = Will { topic: topic.clone(), payload: b"will".to_vec(), ..Will::default() };
        let connect = Connect { clean: false, ..Connect::clean(&name("c")) }.will(will);
        let mut client = Client::silent(world, case);
        // A credential that is good nowhere, on any way.
        let all = [
            connect.encode(v, Some(("nobody", b"no password"))),
            Publish::new(&topic, "smuggled").qos(1, 1).encode(v),
            Publish::new(&topic, "smuggled").encode(v),
        ];
        client.send(&all.concat());
        match client.next() {
            Some(Said::ConnAck { flags, code, properties }) => {
                assert_eq!(flags, 0, "no session is present");
                if case.is_v5() {
                    assert!(code >= 0x80, "{code:#04x}");
                    assert!(!properties.has(ASSIGNED_CLIENT_ID));
                } else {
                    assert!((1..=5).contains(&code), "{code}");
                }
            }
            other => panic!("{other:?}"),
        }
        // No DISCONNECT behind a CONNACK that refuses, and no other packet.
        client.is_closed();
        observer.publish(&Publish::new(&watched, "end"));
        assert_eq!(observer.until(&watched), [], "nothing of it was done");
    });
}

#[test]
fn every_client_id_of_23_letters_and_digits_is_taken() {
    every(|world, case| {
        let letters = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
        // Names of one letter of this run's own: the others run at the same time.
        let own = usize::from(case.is_v5()) + 2 * usize::from(case.via != Via::Plain);
        for (at, length) in [(0, 18), (20, 18), (39, 18), (own, 1), (61 - own, 1)] {
            let part = &letters[at..at + length];
            // 23 in all.
            let id = if length == 1 { part.to_owned() } else { format!("{part}{:0>5}", name("")) };
            let (_, flags, code, properties) = Client::ask(world, case, &Connect::clean(&id));
            assert_eq!((flags, code), (0, 0), "{id}: {properties:?}");
        }
    });
}

#[test]
fn an_empty_client_id_is_given_one_that_nobody_has() {
    every(|world, case| {
        let mut given = BTreeSet::new();
        let mut open = Vec::new();
        for _ in 0..3 {
            let (client, flags, code, properties) = Client::ask(world, case, &Connect::clean(""));
            assert_eq!((flags, code), (0, 0));
            // Each is a session of its own: the others stay.
            open.push(client);
            if case.is_v5() {
                let id = properties.text(ASSIGNED_CLIENT_ID).expect("5.0 is told").to_owned();
                assert!(!id.is_empty() && given.insert(id));
            }
        }
        for client in &mut open {
            assert_eq!(client.ping(), []);
        }
        // One that the client brought is not told to it.
        let (_, _, _, properties) = Client::ask(world, case, &Connect::clean(&name("c")));
        assert!(!properties.has(ASSIGNED_CLIENT_ID));
    });
    every_v311(|world, case| {
        let kept = Connect::kept("", case.version, 0);
        let (mut client, flags, code, _) = Client::ask(world, case, &kept);
        assert_eq!((flags, code), (0, 2), "an empty name cannot be kept");
        client.is_closed();
    });
}

#[test]
fn a_device_that_brings_the_client_id_of_another_is_told_so_and_closed() {
    every(|world, case| {
        if case.via == Via::Plain {
            return; // who it is stands in a JWT, which needs TLS
        }
        let (own, foreign) = (name("device"), name("device"));
        let jwt = world.device(&own);
        for (id, code) in [
            (foreign.clone(), 0x85),
            (format!("{foreign}:1"), 0x85),
            (format!("{own}1"), 0x85),
            (own.clone(), 0),
            (format!("{own}:1"), 0),
        ] {
            let mut client = Client::silent(world, case);
            client.send(&Connect::clean(&id).encode(case.version, Some(("unused", jwt.as_bytes()))));
            let wanted = if case.is_v5() || code == 0 { code } else { 2 };
            let said = client.next();
            assert!(
                matches!(said, Some(Said::ConnAck { flags: 0, code, .. }) if code == wanted),
                "{id}: {said:?}"
            );
            if wanted > 0 {
                client.is_closed();
            }
        }
    });
}

#[test]
fn a_newer_connection_of_the_same_client_id_ends_the_older() {
    every_apart(|world, case| {
        let id = name("c");
        let (mut older, _) = Client::join(world, case, &Connect::clean(&id));
        let (mut newer, present) = Client::join(world, case, &Connect::clean(&id));
        assert!(!present);
        older.ended_with(0x8e);
        assert_eq!(newer.ping(), []);
    });
}

#[test]
fn a_silent_client_is_closed_after_one_and_a_half_keep_alives_and_its_will_is_published() {
    every(|world, case| {
        let topic = name("t");
        let mut observer = Client::observer(world);
        observer.subscribe(&topic, 0);
        let will = Will { topic: topic.clone(), payload: b"silent".to_vec(), ..Will::default() };
        let connect = Connect::clean(&name("c")).keep_alive(2).will(will);
        let (mut client, _, code, properties) = Client::ask(world, case, &connect);
        assert_eq!(code, 0);
        // Without a word about it the client's own holds.
        assert!(!properties.has(SERVER_KEEP_ALIVE));
        // Any packet proves life: together longer than one and a half keep alives.
        for packet in [&PINGREQ[..], &Publish::new(&name("u"), "x").encode(case.version)] {
            std::thread::sleep(Duration::from_millis(1_600));
            client.send(packet);
        }
        assert_eq!(client.next(), Some(Said::PingResp));
        let silent_since = Instant::now();
        client.ended_with(0x8d);
        assert!(silent_since.elapsed() > Duration::from_millis(2_000), "not within the keep alive itself");
        assert_eq!(observer.message().text(), "silent");
    });
}

#[test]
fn a_keep_alive_of_0_is_none() {
    every(|world, case| {
        let (mut client, _) = Client::join(world, case, &Connect::clean(&name("c")).keep_alive(0));
        std::thread::sleep(Duration::from_millis(2_500));
        assert_eq!(client.ping(), []);
    });
}

#[test]
fn every_pingreq_is_answered() {
    every(|world, case| {
        let mut client = Client::new(world, case);
        client.send(&[PINGREQ, PINGREQ, PINGREQ].concat());
        for _ in 0..3 {
            assert_eq!(client.next(), Some(Said::PingResp));
        }
    });
}

#[test]
fn after_disconnect_the_server_closes_and_works_on_nothing_more() {
    every(|world, case| {
        let (topic, end) = (name("t"), name("e"));
        let mut observer = Client::observer(world);
        observer.subscribe(&topic, 0);
        observer.subscribe(&end, 0);
        let mut client = Client::new(world, case);
        let late = Publish::new(&topic, "late").encode(case.version);
        client.send(&[&DISCONNECT[..], &late, &PINGREQ].concat());
        client.is_closed();
        observer.publish(&Publish::new(&end, ""));
        assert_eq!(observer.until(&end), []);
    });
}

#[test]
fn a_disconnect_that_breaks_a_rule_is_told_so() {
    every_v5(|world, case| {
        for (body, code) in [
            (vec![0x03, 0], None),                                          // no code at all
            ([&[0, 5][..], &p32(SESSION_EXPIRY, 9)].concat(), Some(0x82)), // an expiry that CONNECT did not ask for
            ([&[0, 3][..], &p16(RECEIVE_MAXIMUM, 9)].concat(), Some(0x81)), // a property of another packet
        ] {
            let mut client = Client::new(world, case);
            client.send(&packet(0xe0, &body));
            let found = client.ended();
            assert!(code.is_none() || found == code, "{body:02x?}: {found:02x?}");
        }
    });
    every_v311(|world, case| {
        let mut client = Client::new(world, case);
        client.send(&[0xe0, 1, 0]);
        client.is_closed();
    });
}

#[test]
fn connack_says_what_the_server_serves_and_holds_its_bits_at_0() {
    every_v5(|world, case| {
        let (_, flags, code, properties) = Client::ask(world, case, &Connect::clean(&name("c")));
        assert_eq!((flags, code), (0, 0));
        // What is absent is served.
        for (property, name) in [
            (RETAIN_AVAILABLE, "retained messages"),
            (WILDCARD_AVAILABLE, "wildcards"),
            (SUBSCRIPTION_IDENTIFIERS_AVAILABLE, "subscription identifiers"),
        ] {
            assert_ne!(properties.number(property), Some(0), "{name} are served");
        }
        assert!(properties.number(RECEIVE_MAXIMUM).is_none_or(|maximum| maximum > 0));
        assert!(properties.number(MAXIMUM_PACKET_SIZE).is_none_or(|bytes| bytes > 65_535));
        assert!(properties.number(MAXIMUM_QOS).is_none_or(|qos| qos < 2), "2 is said by absence");
        assert!(properties.number(TOPIC_ALIAS_MAXIMUM).is_some());
        assert!(!properties.has(AUTHENTICATION_METHOD), "none was asked for");
    });
    every_v311(|world, case| {
        let mut client = Client::silent(world, case);
        client.send(&Connect::clean(&name("c")).encode(case.version, world.credential(case.via)));
        assert_eq!(client.next(), Some(Said::ConnAck { flags: 0, code: 0, properties: Default::default() }));
    });
}

#[test]
fn no_response_information_is_returned_to_who_did_not_ask() {
    every_v5(|world, case| {
        for asked in [None, Some(0), Some(1)] {
            let mut connect = Connect::clean(&name("c"));
            if let Some(asked) = asked {
                connect = connect.with(vec![RESPONSE_INFORMATION_ASKED, asked]);
            }
            let (_, _, code, properties) = Client::ask(world, case, &connect);
            assert_eq!(code, 0);
            assert!(asked == Some(1) || !properties.has(RESPONSE_INFORMATION), "{asked:?}");
        }
    });
}

#[test]
fn who_wants_no_problem_information_gets_neither_reason_strings_nor_user_properties() {
    every_v5(|world, case| {
        for wanted in [0, 1] {
            let connect = Connect::clean(&name("c")).with(vec![PROBLEM_INFORMATION, wanted]);
            let (mut client, _) = Client::join(world, case, &connect);
            // A PUBACK that refuses (no right to this topic), a SUBACK and an UNSUBACK that do.
            client.send(&Publish::new("$other/t", "x").qos(1, 1).encode(case.version));
            client.send(&subscribe(case.version, 2, &[], &[("$other/t", 0), ("a/#/b", 0)]));
            client.send(&unsubscribe(case.version, 3, &["never"]));
            let mut strings = 0;
            for _ in 0..3 {
                let (code, properties) = match client.next() {
                    Some(Said::Ack { first_byte: 0x40, id: 1, code, properties }) => (code, properties),
                    Some(Said::SubAck { id: 2, codes, properties }) => (codes[0], properties),
                    Some(Said::UnsubAck { id: 3, properties, .. }) => (0x80, properties),
                    other => panic!("{other:?}"),
                };
                assert!(code >= 0x80);
                let told = properties.has(REASON_STRING) || properties.has(USER_PROPERTY);
                strings += usize::from(told);
                assert!(wanted == 1 || !told, "{properties:?}");
            }
            assert!(wanted == 0 || strings > 0, "who wants it is told something");
        }
    });
}

#[test]
fn a_reason_string_or_user_property_never_exceeds_the_clients_maximum_packet_size() {
    every_v5(|world, case| {
        for bytes_max in [20_u32, 30, 60] {
            let connect = Connect::clean(&name("c")).with(p32(MAXIMUM_PACKET_SIZE, bytes_max));
            let mut client = Client::silent(world, case);
            client.send(&connect.encode(case.version, Some(("nobody", b"no password"))));
            // A refusal: it fits, whatever it would have liked to say.
            let Some(Said::ConnAck { code, properties, .. }) = client.next() else { panic!("no CONNACK") };
            let bytes: usize = properties.0.iter().map(|(_, value)| value.len() + 3).sum();
            assert!(
                code >= 0x80 && bytes + 5 <= usize::try_from(bytes_max).expect("small"),
                "{properties:?}"
            );
        }
        // PUBACK, SUBACK, UNSUBACK and DISCONNECT of an open connection.
        for bytes_max in [60_u32, 61, 62] {
            let connect = Connect::clean(&name("c")).with(p32(MAXIMUM_PACKET_SIZE, bytes_max));
            let mut client = Client::silent(world, case);
            client.send(&connect.encode(case.version, world.credential(case.via)));
            match client.next_sized() {
                Some((Said::ConnAck { code: 0, .. }, bytes)) => assert!(bytes <= 60, "{bytes}"),
                other => panic!("{other:?}"),
            }
            let long = format!("$other/{}", "x".repeat(200));
            client.send(&Publish::new(&long, "x").qos(1, 1).encode(case.version));
            client.send(&subscribe(case.version, 2, &[], &[(&long, 0)]));
            client.send(&unsubscribe(case.version, 3, &[&long]));
            client.send(&Publish::new(&long, "x").encode(case.version));
            for _ in 0..4 {
                let (said, bytes) = client.next_sized().expect("an answer");
                assert!(bytes <= usize::try_from(bytes_max).expect("small"), "{bytes}: {said:?}");
            }
            client.is_closed();
        }
    });
}

#[test]
fn an_authentication_method_that_is_not_served_is_refused() {
    every_v5(|world, case| {
        let connect = Connect::clean(&name("c")).with(pstr(AUTHENTICATION_METHOD, "SCRAM-SHA-1"));
        let (mut client, flags, code, _) = Client::ask(world, case, &connect);
        assert_eq!((flags, code), (0, 0x8c));
        client.is_closed();
    });
}

#[test]
fn auth_from_a_client_that_named_no_method_ends_the_connection() {
    every_v5(|world, case| {
        let with_method = [&[0x18][..], &section(Version::V5, &pstr(AUTHENTICATION_METHOD, "m"))].concat();
        let again = [&[0x19][..], &section(Version::V5, &pstr(AUTHENTICATION_METHOD, "m"))].concat();
        for body in [vec![], with_method, again] {
            let mut client = Client::new(world, case);
            client.send(&packet(0xf0, &body));
            let code = client.ended().expect("5.0");
            assert!([0x81, 0x82].contains(&code), "{code:#04x}");
        }
    });
}

#[test]
fn acknowledgements_for_nothing_and_their_reason_codes_are_judged() {
    every_v5(|world, case| {
        // A reason code that the packet does not have.
        for (first, code) in [(0x40, 0x92), (0x50, 0x92), (0x62, 0x10), (0x70, 0x10), (0x40, 0x04)] {
            let mut client = Client::new(world, case);
            client.send(&ack_with(first, 1, code));
            client.ended();
        }
    });
    every(|world, case| {
        let mut client = Client::new(world, case);
        client.send(&ack(0x40, 7));
        assert_eq!(client.ping(), [], "a PUBACK for nothing changes nothing");
    });
}

#[test]
fn user_properties_of_connect_and_disconnect_are_taken() {
    every_v5(|world, case| {
        let connect = Connect::clean(&name("c")).with(user("a", "1")).with(user("a", "2"));
        let (mut client, _) = Client::join(world, case, &connect);
        let body =
            [&[0x04][..], &section(Version::V5, &[user("a", "1"), pstr(REASON_STRING, "bye")].concat())];
        client.send(&packet(0xe0, &body.concat()));
        client.is_closed();
    });
}

#[test]
fn both_versions_are_served_on_every_way() {
    for via in Via::ALL {
        for version in [Version::V311, Version::V5] {
            let world = crate::world::World::shared();
            let mut client = Client::new(&world, Case { version, via });
            assert_eq!(client.ping(), []);
            client.leave();
        }
    }
}

#[test]
fn the_head_of_connect_is_what_the_standard_shows() {
    // The client of these tests itself: figure 3-6 of 5.0 and 3.1.1 with other flags.
    assert_eq!(connect_head(Version::V311, 2, 10, &[]), b"\x00\x04MQTT\x04\x02\x00\x0a");
    assert_eq!(
        connect_head(Version::V5, 2, 10, &p32(SESSION_EXPIRY, 10)),
        b"\x00\x04MQTT\x05\x02\x00\x0a\x05\x11\x00\x00\x00\x0a"
    );
}
