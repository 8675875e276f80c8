//! PUBLISH in both directions: QoS 0 and 1, properties, aliases, flow control, order, topics.

use std::time::Duration;

use crate::bytes::{
    CONTENT_TYPE, CORRELATION_DATA, Connect, MAXIMUM_PACKET_SIZE, MESSAGE_EXPIRY, Message, PAYLOAD_FORMAT,
    PINGREQ, Publish, RECEIVE_MAXIMUM, RESPONSE_TOPIC, SUBSCRIPTION_IDENTIFIER, Said, TOPIC_ALIAS,
    TOPIC_ALIAS_MAXIMUM, USER_PROPERTY, ack, ack_with, p16, p32, pstr, user,
};
use crate::client::Client;
use crate::world::{Case, World, every, every_v5, name};

#[test]
fn qos_0_comes_once_without_an_identifier_and_is_not_answered() {
    every(|world, case| {
        let topic = name("t");
        let (mut sender, mut reader) = (Client::new(world, case), Client::new(world, case));
        reader.subscribe(&topic, 1);
        sender.send(&Publish::new(&topic, "x").encode(case.version));
        let message = reader.message();
        assert_eq!((message.qos, message.dup, message.retain, message.id), (0, false, false, 0));
        sender.send(&PINGREQ);
        assert_eq!(sender.next(), Some(Said::PingResp), "no answer to QoS 0");
        assert_eq!(reader.ping(), []);
    });
}

#[test]
fn qos_1_is_answered_with_its_own_identifier_and_each_publish_is_a_new_one() {
    every(|world, case| {
        let topic = name("t");
        let (mut sender, mut reader) = (Client::new(world, case), Client::new(world, case));
        reader.subscribe(&topic, 1);
        for (id, text) in [(1, "a"), (0xffff, "b"), (7, "c")] {
            sender.send(&Publish::new(&topic, text).qos(1, id).encode(case.version));
            sender.acked(0x40, id, 0);
            assert_eq!(reader.taken().text(), text);
        }
        // The same identifier after its PUBACK is a new message, whatever DUP says; and what the sender calls
        // a duplicate is none to the reader.
        for dup in [false, true] {
            let mut again = Publish::new(&topic, "again").qos(1, 7);
            again.dup = dup;
            sender.send(&again.encode(case.version));
            sender.acked(0x40, 7, 0);
            let message = reader.taken();
            assert_eq!((message.text(), message.qos, message.dup), ("again", 1, false));
        }
    });
}

#[test]
fn a_publish_to_nobody_is_acknowledged_all_the_same() {
    every(|world, case| {
        let mut sender = Client::new(world, case);
        sender.publish(&Publish::new(&name("nobody"), "x").qos(1, 0));
    });
}

#[test]
fn identifiers_of_the_server_are_not_0_and_not_in_use() {
    every(|world, case| {
        let topic = name("t");
        let (mut sender, mut reader) = (Client::new(world, case), Client::new(world, case));
        reader.subscribe(&topic, 1);
        for n in 0..40 {
            sender.publish(&Publish::new(&topic, n.to_string()).qos(1, 0));
        }
        let mut ids: Vec<u16> = (0..40).map(|_| reader.message().id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 40, "none is 0 (the client looks) and none is used twice before its PUBACK");
    });
}

#[test]
fn a_message_is_delivered_at_the_lower_of_its_qos_and_the_one_granted() {
    every(|world, case| {
        for published in [0, 1] {
            for granted in [0, 1] {
                let topic = name("t");
                let (mut sender, mut reader) = (Client::new(world, case), Client::new(world, case));
                reader.subscribe(&topic, granted);
                sender.publish(&Publish::new(&topic, "x").qos(published, 0));
                assert_eq!(reader.taken().qos, published.min(granted), "{published} {granted}");
                // Not twice in two classes.
                assert_eq!(reader.ping(), []);
            }
        }
    });
}

#[test]
fn what_is_not_acknowledged_is_not_sent_again_on_the_same_connection() {
    every(|world, case| {
        let topic = name("t");
        let mut reader = Client::new(world, case);
        reader.subscribe(&topic, 1);
        Client::new(world, case).publish(&Publish::new(&topic, "x").qos(1, 0));
        assert_eq!(reader.message().text(), "x");
        std::thread::sleep(Duration::from_millis(1_500));
        assert_eq!(reader.ping(), [], "only a connection that is new sends it again");
    });
}

#[test]
fn properties_of_a_publish_arrive_unaltered_and_user_properties_in_their_order() {
    every_v5(|world, case| {
        let topic = name("t");
        let (mut sender, mut reader) = (Client::new(world, case), Client::new(world, case));
        reader.subscribe(&topic, 1);
        let pairs = [("b", "1"), ("a", "2"), ("b", "1"), ("", ""), ("\u{e4}", "\u{1f600}"), ("a", "0")];
        let mut publish = Publish::new(&topic, "x")
            .with(vec![PAYLOAD_FORMAT, 1])
            .with(pstr(CONTENT_TYPE, "text/\u{e4}"))
            .with(pstr(RESPONSE_TOPIC, "answers/here \u{e4}"))
            .with(pstr(CORRELATION_DATA, b"\x00\x01\xff"));
        for (key, value) in pairs {
            publish = publish.with(user(key, value));
        }
        for qos in [0, 1] {
            sender.publish(&publish.clone().qos(qos, 0));
            let Message { properties, .. } = reader.taken();
            assert_eq!(properties.number(PAYLOAD_FORMAT), Some(1));
            assert_eq!(properties.text(CONTENT_TYPE), Some("text/\u{e4}"));
            assert_eq!(properties.text(RESPONSE_TOPIC), Some("answers/here \u{e4}"));
            assert_eq!(properties.first(CORRELATION_DATA), Some(&b"\x00\x01\xff"[..]));
            let got: Vec<String> = properties
                .all(USER_PROPERTY)
                .map(|pair| String::from_utf8_lossy(pair).into_owned())
                .collect();
            let sent: Vec<String> = pairs.iter().map(|(key, value)| format!("{key}={value}")).collect();
            assert_eq!(got, sent);
            assert!(
                !properties.has(MESSAGE_EXPIRY) && !properties.has(SUBSCRIPTION_IDENTIFIER),
                "{properties:?}"
            );
        }
        // 0 is said, or left out: both mean unspecified bytes. What was not there is not made up.
        sender.publish(&Publish::new(&topic, "x"));
        assert_eq!(reader.taken().properties, Default::default());
    });
}

#[test]
fn a_message_crosses_between_the_versions() {
    every(|world, case| {
        let topic = name("t");
        let other = Case {
            version: if case.is_v5() { crate::bytes::Version::V311 } else { crate::bytes::Version::V5 },
            ..case
        };
        let (mut sender, mut reader) = (Client::new(world, case), Client::new(world, other));
        reader.subscribe(&topic, 1);
        let publish = Publish::new(&topic, "x").with(user("a", "b")).qos(1, 0);
        sender.publish(&publish);
        let message = reader.taken();
        assert_eq!((message.text(), message.qos), ("x", 1));
    });
}

#[test]
fn topic_aliases_of_a_client_hold_for_its_connection_alone() {
    every_v5(|world, case| {
        let (one, two) = (name("t"), name("t"));
        let mut reader = Client::new(world, case);
        reader.subscribe(&one, 0);
        reader.subscribe(&two, 0);
        let (mut sender, _, _, properties) = Client::ask(world, case, &Connect::clean(&name("c")));
        let maximum = properties.number(TOPIC_ALIAS_MAXIMUM).expect("aliases are served");
        let maximum = u16::try_from(maximum).expect("16 bits");
        // Every alias up to the maximum is taken, the topic beside it or not; and set anew.
        for alias in 1..=maximum {
            sender.publish(&Publish::new(&one, "first").with(p16(TOPIC_ALIAS, alias)));
            sender.publish(&Publish::new("", "by alias").with(p16(TOPIC_ALIAS, alias)));
            sender.publish(&Publish::new(&two, "moved").with(p16(TOPIC_ALIAS, alias)));
            sender.publish(&Publish::new("", "by alias").with(p16(TOPIC_ALIAS, alias)));
            for topic in [&one, &one, &two, &two] {
                let message = reader.message();
                assert_eq!(&message.topic, topic);
                assert!(!message.properties.has(TOPIC_ALIAS), "an alias of the sender is not forwarded");
            }
        }
        // Another connection knows none of them.
        let mut stranger = Client::new(world, case);
        stranger.send(&Publish::new("", "x").with(p16(TOPIC_ALIAS, 1)).encode(case.version));
        stranger.ended();
        let above = p16(TOPIC_ALIAS, maximum + 1);
        sender.send(&Publish::new(&one, "x").with(above).encode(case.version));
        sender.ended_with(0x94);
    });
}

#[test]
fn the_server_uses_no_alias_that_the_client_did_not_allow() {
    every_v5(|world, case| {
        for maximum in [None, Some(0_u16), Some(1), Some(2)] {
            let prefix = name("t");
            let mut connect = Connect::clean(&name("c"));
            if let Some(maximum) = maximum {
                connect = connect.with(p16(TOPIC_ALIAS_MAXIMUM, maximum));
            }
            let (mut reader, _) = Client::join(world, case, &connect);
            reader.subscribe(&format!("{prefix}/#"), 1);
            let mut sender = Client::new(world, case);
            let mut known: Vec<(u32, String)> = Vec::new();
            for round in 0..3 {
                for level in ["a", "b", "c"] {
                    let topic = format!("{prefix}/{level}");
                    sender.publish(&Publish::new(&topic, round.to_string()).qos(u8::from(round > 0), 0));
                    let message = reader.taken();
                    let alias = message.properties.number(TOPIC_ALIAS);
                    let alias = alias.inspect(|alias| {
                        assert!(
                            (1..=u32::from(maximum.unwrap_or(0))).contains(alias),
                            "{alias} of {maximum:?}"
                        );
                    });
                    let found = if message.topic.is_empty() {
                        let alias = alias.expect("an alias or a topic");
                        known.iter().rfind(|(a, _)| *a == alias).expect("one that was defined").1.clone()
                    } else {
                        known.extend(alias.map(|alias| (alias, message.topic.clone())));
                        message.topic
                    };
                    assert_eq!(found, topic);
                }
            }
        }
    });
}

#[test]
fn no_more_than_the_receive_maximum_is_under_way_and_other_packets_pass() {
    every(|world, case| {
        let topic = name("t");
        let maximum = 3_u16;
        let connect = Connect::clean(&name("c")).with(p16(RECEIVE_MAXIMUM, maximum));
        let (mut reader, _) = Client::join(world, case, &connect);
        reader.subscribe(&topic, 1);
        let mut sender = Client::new(world, case);
        for n in 0..8 {
            sender.publish(&Publish::new(&topic, n.to_string()).qos(1, 0));
        }
        let end = if case.is_v5() { maximum } else { 8 }; // 3.1.1 has no word for it
        let mut open: Vec<Message> = (0..end).map(|_| reader.message()).collect();
        // A window that is full keeps back nothing but PUBLISH.
        assert_eq!(reader.ping(), []);
        reader.subscribe(&name("u"), 0);
        for n in 0..8 {
            let message = open.remove(0);
            assert_eq!(message.text(), n.to_string(), "and in order");
            // A PUBACK that refuses makes room as well, and the message does not come back.
            if case.is_v5() && n % 2 == 1 {
                reader.send(&ack_with(0x40, message.id, 0x83));
            } else {
                reader.send(&ack(0x40, message.id));
            }
            if n + end < 8 {
                open.push(reader.message());
                assert_eq!(reader.ping(), [], "one for one");
            }
        }
        assert_eq!(reader.ping(), []);
    });
}

#[test]
fn a_publish_that_is_too_large_for_the_client_is_left_out_as_if_sent() {
    every_v5(|world, case| {
        let topic = name("t");
        let connect =
            Connect::clean(&name("c")).with(p32(MAXIMUM_PACKET_SIZE, 100)).with(p16(RECEIVE_MAXIMUM, 2));
        let (mut reader, _) = Client::join(world, case, &connect);
        reader.subscribe(&topic, 1);
        let mut sender = Client::new(world, case);
        // More than the window: what is left out takes no place in it.
        for _ in 0..5 {
            sender.publish(&Publish::new(&topic, "x".repeat(100)).qos(1, 0));
            sender.publish(&Publish::new(&topic, "x".repeat(100)));
        }
        // As large as it may be, to the byte: fixed header 2, topic, identifier 2, property length 1.
        let rest = 100 - 2 - 2 - topic.len() - 2 - 1;
        sender.publish(&Publish::new(&topic, "y".repeat(rest)).qos(1, 0));
        sender.publish(&Publish::new(&topic, "y".repeat(rest + 1)).qos(1, 0));
        sender.publish(&Publish::new(&topic, "end").qos(1, 0));
        assert_eq!(reader.taken().text(), "y".repeat(rest));
        assert_eq!(reader.taken().text(), "end");
    });
}

#[test]
fn messages_of_one_sender_arrive_in_their_order() {
    every(|world, case| {
        for qos in [0, 1] {
            let topic = name("t");
            let (mut sender, mut reader) = (Client::new(world, case), Client::new(world, case));
            reader.subscribe(&topic, qos);
            let all: Vec<u8> = (0..200_u16)
                .flat_map(|n| Publish::new(&topic, n.to_string()).qos(qos, n + 1).encode(case.version))
                .collect();
            sender.send(&all);
            for n in 0..200 {
                assert_eq!(reader.taken().text(), n.to_string());
            }
        }
    });
}

#[test]
fn pubacks_come_in_the_order_of_the_publishes() {
    every(|world, case| {
        let topic = name("t");
        let mut sender = Client::new(world, case);
        let ids = [9, 3, 0xfff0, 1, 5];
        let all: Vec<u8> =
            ids.iter().flat_map(|id| Publish::new(&topic, "x").qos(1, *id).encode(case.version)).collect();
        sender.send(&all);
        for id in ids {
            match sender.next() {
                Some(Said::Ack { first_byte: 0x40, id: found, .. }) => assert_eq!(found, id),
                other => panic!("{other:?}"),
            }
        }
    });
}

#[test]
fn a_publish_that_is_not_allowed_is_refused_in_words_or_by_closing_and_reaches_nobody() {
    every(|world, case| {
        let mut sender = Client::new(world, case);
        sender.send(&Publish::new("$other/t", "x").qos(1, 5).encode(case.version));
        if case.is_v5() {
            sender.acked(0x40, 5, 0x87);
            // The identifier is free again, and the connection goes on.
            sender.send(&Publish::new(&name("t"), "x").qos(1, 5).encode(case.version));
            match sender.answer() {
                Some(Said::Ack { first_byte: 0x40, id: 5, code: 0 | 0x10, .. }) => {}
                other => panic!("{other:?}"),
            }
            sender.send(&Publish::new("$other/t", "x").encode(case.version));
            sender.ended_with(0x87);
        } else {
            sender.is_closed();
        }
    });
}

/// Which of `topics` a reader of `filter` hears of, as published by another client.
fn heard(world: &World, case: Case, filter: &str, topics: &[String]) -> Vec<String> {
    let end = name("end");
    let mut reader = Client::new(world, case);
    reader.subscribe(filter, 0);
    reader.subscribe(&end, 0);
    let mut sender = Client::new(world, case);
    for topic in topics {
        sender.publish(&Publish::new(topic, "x"));
    }
    sender.publish(&Publish::new(&end, "x"));
    reader.until(&end).into_iter().map(|message| message.topic).collect()
}

#[test]
fn filters_match_by_the_examples_of_the_standard() {
    every(|world, case| {
        // (filter, topics that match, topics that do not), below a prefix of each row: on another shard the messages
        // of one row may still be under way when the next one subscribes.
        let table: [(&str, &[&str], &[&str]); 12] = [
            (
                "sport/tennis/player1/#",
                &[
                    "sport/tennis/player1",
                    "sport/tennis/player1/ranking",
                    "sport/tennis/player1/score/wimbledon",
                ],
                &["sport/tennis/player10", "sport/tennis"],
            ),
            ("sport/#", &["sport", "sport/", "sport/a/b"], &["sports"]),
            (
                "sport/tennis/+",
                &["sport/tennis/player1", "sport/tennis/"],
                &["sport/tennis/player1/ranking", "sport/tennis"],
            ),
            ("sport/+", &["sport/", "sport/a"], &["sport", "sport/a/b"]),
            ("+/+", &["/finance", "a/b", "/"], &["finance", "a/b/c"]),
            ("/+", &["/finance", "/"], &["finance", "a/finance"]),
            ("+/tennis/#", &["a/tennis", "/tennis/b"], &["tennis", "a/b/tennis"]),
            ("a//b", &["a//b"], &["a/b", "a///b"]),
            ("ACCOUNTS", &["ACCOUNTS"], &["Accounts", "accounts"]),
            ("Accounts payable", &["Accounts payable"], &["Accounts%20payable", "Accountspayable"]),
            ("a/b", &["a/b"], &["/a/b", "a/b/", "a/b ", "a/./b"]),
            ("caf\u{e9}", &["caf\u{e9}"], &["cafe\u{301}", "CAF\u{c9}"]),
        ];
        for (filter, matching, others) in table {
            let p = name("p");
            let topics: Vec<String> = matching.iter().chain(others).map(|t| format!("{p}/{t}")).collect();
            let found = heard(world, case, &format!("{p}/{filter}"), &topics);
            assert_eq!(found, topics[..matching.len()], "{filter}");
        }
    });
}

#[test]
fn a_filter_that_begins_with_a_wildcard_never_means_a_topic_that_begins_with_a_dollar() {
    every(|world, case| {
        let t = name("t");
        let topics = [format!("$lab/{t}"), format!("lab/{t}")];
        for filter in [format!("+/{t}"), "#".to_owned(), format!("+/{t}/#")] {
            let found = heard(world, case, &filter, &topics);
            assert!(found.contains(&topics[1]) && !found.contains(&topics[0]), "{filter}: {found:?}");
        }
        for filter in [format!("$lab/{t}"), "$lab/+/#".to_owned()] {
            let found = heard(world, case, &filter, &topics);
            assert!(found.contains(&topics[0]) && !found.contains(&topics[1]), "{filter}: {found:?}");
        }
    });
}

#[test]
fn topics_are_neither_normalised_nor_shortened() {
    every(|world, case| {
        let p = name("p");
        let mut client = Client::new(world, case);
        client.subscribe(&format!("{p}/#"), 0);
        let odd = [
            "/",
            "//",
            "a/",
            " ",
            "a b",
            ".",
            "..",
            "*",
            ">",
            "%41",
            "\u{1f600}",
            "\u{feff}",
            "$SYS",
            "a\\b",
        ];
        for level in odd {
            let topic = format!("{p}/{level}");
            client.publish(&Publish::new(&topic, level));
            let message = client.message();
            assert_eq!((message.topic.as_str(), message.text()), (topic.as_str(), level));
        }
        // As long as a filter or topic can be said.
        let long = format!("{p}/{}", "x".repeat(65_535 - p.len() - 1));
        client.publish(&Publish::new(&long, "long"));
        assert_eq!(client.message().topic, long);
    });
}

#[test]
fn an_empty_payload_and_a_large_one_arrive() {
    every(|world, case| {
        let topic = name("t");
        let mut client = Client::new(world, case);
        client.subscribe(&topic, 1);
        for bytes in [0, 1, 127, 128, 16_383, 16_384, 200_000] {
            client.publish(&Publish::new(&topic, vec![0xa5; bytes]).qos(1, 0));
            assert_eq!(client.taken().payload, vec![0xa5; bytes]);
        }
    });
}
