//! Sessions that outlive their connections, and the process: what is stored, when it is told, what comes
//! back.

mod support;

use std::time::Duration;

use drawbridge_broker::storage::Record;
use drawbridge_broker::{Ended, EndedWhy};
use drawbridge_mqtt::codec::{Ack, Packet, PacketId, Publish, Qos, ReasonCode, SubscribeEntry};
use drawbridge_names::{RegistryName, TopicName, Uid};
use support::*;

const QOS0: Qos = Qos::AtMostOnce;
const QOS1: Qos = Qos::AtLeastOnce;
const QOS2: Qos = Qos::ExactlyOnce;

fn id(n: u16) -> PacketId {
    PacketId::new(n).expect("not 0")
}

/// Tells the publisher's PUBACKs, PUBRECs and the like apart from messages.
fn answers(net: &mut Net, client: usize) -> Vec<Got> {
    net.got(client).into_iter().filter(|got| !matches!(got, Got::Message(_))).collect()
}

/// Publishes at QoS 2 and goes through the exchange.
fn publish_twice_acknowledged(net: &mut Net, client: usize, topic: &str, payload: &[u8]) {
    let packet_id = net.publish(client, topic, payload, QOS2).expect("QoS 2");
    assert_eq!(answers(net, client), [Got::PubRec(packet_id.get(), ReasonCode::Success)]);
    net.send(client, &Packet::PubRel(Ack::success(packet_id)));
    assert_eq!(answers(net, client), [Got::PubComp(packet_id.get(), ReasonCode::Success)]);
}

#[test]
fn a_session_that_is_away_gets_what_it_missed_in_order_on_any_shard() {
    for shards in [1, 3] {
        for version in [V311, V5] {
            for back_on in 0..shards {
                let mut net = Net::durable(shards);
                let (reader, present) = net.rejoin(0, version, app(1), 3_600);
                assert!(!present);
                net.subscribe(reader, "a/#", QOS2);
                net.hang_up(reader);
                let speaker = net.join(shards - 1, version, app(2));
                for n in 0..10 {
                    let qos = if n % 2 == 0 { QOS1 } else { QOS2 };
                    if qos == QOS1 {
                        net.publish(speaker, "a/b", n.to_string().as_bytes(), qos);
                        assert!(matches!(answers(&mut net, speaker)[..], [Got::PubAck { .. }]));
                    } else {
                        publish_twice_acknowledged(&mut net, speaker, "a/b", n.to_string().as_bytes());
                    }
                }
                net.publish(speaker, "a/b", b"QoS 0 is not kept", QOS0);
                let (reader, present) = net.rejoin(back_on, version, app(1), 3_600);
                assert!(present);
                let got = net.messages(reader);
                let payloads: Vec<_> = got.iter().map(|m| String::from_utf8_lossy(&m.payload)).collect();
                assert_eq!(
                    payloads,
                    ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"],
                    "{shards} {version:?}"
                );
                assert!(got.iter().all(|message| !message.dup), "none was sent before");
            }
        }
    }
}

#[test]
fn i12_nothing_is_acknowledged_before_it_is_stored() {
    for shards in [1, 2] {
        let mut net = Net::durable(shards);
        let (reader, _) = net.rejoin(0, V5, app(1), 3_600);
        net.subscribe(reader, "a", QOS1);
        net.hang_up(reader);
        let (speaker, _) = net.rejoin(shards - 1, V5, app(2), 3_600);
        net.disk.slow = true;
        let one = net.publish(speaker, "a", b"1", QOS1).expect("an id");
        let two = net.publish(speaker, "a", b"2", QOS2).expect("an id");
        let nobody = net.publish(speaker, "nobody/listens", b"3", QOS1).expect("an id");
        assert!(answers(&mut net, speaker).is_empty(), "not even that of the third, which must be the third");
        net.commit();
        let ack = |id: PacketId| Got::PubAck { id: id.get(), reason: ReasonCode::Success, text: None };
        let expected = [ack(one), Got::PubRec(two.get(), ReasonCode::Success), ack(nobody)];
        assert_eq!(answers(&mut net, speaker), expected);
        net.send(speaker, &Packet::PubRel(Ack::success(two)));
        assert!(answers(&mut net, speaker).is_empty(), "the release could be forgotten");
        net.commit();
        assert_eq!(answers(&mut net, speaker), [Got::PubComp(two.get(), ReasonCode::Success)]);
        // A subscription is told when it is stored.
        let packet = drawbridge_mqtt::codec::Subscribe {
            packet_id: id(99),
            subscription_identifier: None,
            user_properties: Default::default(),
            entries: vec![SubscribeEntry::of("x", QOS1)],
        };
        net.send(speaker, &Packet::Subscribe(packet));
        assert!(answers(&mut net, speaker).is_empty());
        net.commit();
        assert_eq!(answers(&mut net, speaker), [Got::SubAck(vec![ReasonCode::GrantedQos1])]);
    }
}

#[test]
fn i12_what_was_acknowledged_survives_the_process_and_comes_in_order() {
    for shards in [1, 2] {
        let mut net = Net::durable(shards);
        let (reader, _) = net.rejoin(0, V5, app(1), 3_600);
        net.subscribe_as(reader, SubscribeEntry::of("a/#", QOS2), Some(7));
        net.hang_up(reader);
        let speaker = net.join(shards - 1, V5, app(2));
        for n in 0..5 {
            net.publish(speaker, "a/b", n.to_string().as_bytes(), QOS1);
        }
        net.publish_with(speaker, "a/kept", b"word", QOS1, true, Default::default());
        assert_eq!(answers(&mut net, speaker).len(), 6);
        net.restart();
        let (reader, present) = net.rejoin(0, V5, app(1), 3_600);
        assert!(present);
        let got = net.messages(reader);
        let payloads: Vec<_> = got.iter().map(|m| String::from_utf8_lossy(&m.payload)).collect();
        assert_eq!(payloads, ["0", "1", "2", "3", "4", "word"]);
        assert!(got.iter().all(|message| message.subscriptions == [7]));
        for message in got {
            net.acknowledge(reader, message.id.expect("QoS 1"));
        }
        // The subscription is there, and the retained message.
        let speaker = net.join(0, V5, app(2));
        net.publish(speaker, "a/b", b"after", QOS1);
        assert_eq!(net.payloads(reader), ["after"]);
        net.got(speaker);
        assert_eq!(net.subscribe(speaker, "a/kept", QOS0).len(), 2, "SUBACK and the retained message");
        // Nothing that was acknowledged by the reader comes again.
        net.restart();
        let (reader, _) = net.rejoin(0, V5, app(1), 3_600);
        assert_eq!(net.payloads(reader), ["after"], "it was never acknowledged");
    }
}

#[test]
fn a_message_at_qos_2_is_published_once_however_often_the_server_dies() {
    for shards in [1, 2] {
        let mut net = Net::durable(shards);
        let (reader, _) = net.rejoin(0, V5, app(1), 3_600);
        net.subscribe(reader, "a", QOS1);
        net.hang_up(reader);
        let (speaker, _) = net.rejoin(shards - 1, V5, app(2), 3_600);
        let publish = |dup| {
            let topic = Some(TopicName::parse("a").expect("a topic"));
            let packet_id = Some(id(5));
            let properties = Default::default();
            Packet::Publish(Publish {
                dup,
                qos: QOS2,
                retain: false,
                topic,
                packet_id,
                properties,
                payload: b"x",
            })
        };
        net.send(speaker, &publish(false));
        assert_eq!(answers(&mut net, speaker), [Got::PubRec(5, ReasonCode::Success)]);
        net.restart();
        let (speaker, present) = net.rejoin(0, V5, app(2), 3_600);
        assert!(present);
        net.send(speaker, &publish(true));
        assert_eq!(answers(&mut net, speaker), [Got::PubRec(5, ReasonCode::Success)]);
        net.send(speaker, &Packet::PubRel(Ack::success(id(5))));
        assert_eq!(answers(&mut net, speaker), [Got::PubComp(5, ReasonCode::Success)]);
        net.restart();
        let (speaker, _) = net.rejoin(0, V5, app(2), 3_600);
        net.send(speaker, &Packet::PubRel(Ack::success(id(5))));
        assert_eq!(answers(&mut net, speaker), [Got::PubComp(5, ReasonCode::PacketIdentifierNotFound)]);
        // The identifier means another message now.
        net.send(speaker, &publish(false));
        assert_eq!(answers(&mut net, speaker), [Got::PubRec(5, ReasonCode::Success)]);
        let (reader, _) = net.rejoin(0, V5, app(1), 3_600);
        assert_eq!(net.payloads(reader), ["x", "x"], "two messages, not three");
    }
}

#[test]
fn a_message_at_qos_2_is_delivered_under_one_identifier_until_it_is_complete() {
    let mut net = Net::durable(1);
    let (reader, _) = net.rejoin(0, V5, app(1), 3_600);
    net.subscribe(reader, "a", QOS2);
    let speaker = net.join(0, V5, app(2));
    net.disk.slow = true;
    net.publish(speaker, "a", b"x", QOS2);
    assert!(net.messages(reader).is_empty(), "its identifier is not stored yet");
    net.commit();
    let first = net.messages(reader);
    let packet_id = first[0].id.expect("QoS 2");
    assert!(!first[0].dup);
    net.disk.slow = false;
    net.restart();
    let (reader, _) = net.rejoin(0, V5, app(1), 3_600);
    let again = net.messages(reader);
    assert_eq!((again[0].id, again[0].dup), (Some(packet_id), true));
    net.disk.slow = true;
    net.send(reader, &Packet::PubRec(Ack::success(id(packet_id))));
    assert!(answers(&mut net, reader).is_empty(), "PUBREL waits until PUBREC is stored");
    net.commit();
    assert_eq!(answers(&mut net, reader), [Got::PubRel(packet_id, ReasonCode::Success)]);
    net.disk.slow = false;
    net.restart();
    let (reader, _) = net.rejoin(0, V5, app(1), 3_600);
    assert_eq!(net.got(reader), [Got::PubRel(packet_id, ReasonCode::Success)], "never the message again");
    net.send(reader, &Packet::PubComp(Ack::success(id(packet_id))));
    net.restart();
    let (reader, _) = net.rejoin(0, V5, app(1), 3_600);
    assert!(net.got(reader).is_empty());
}

#[test]
fn clean_start_forgets_the_old_session_before_it_is_told_so() {
    for shards in [1, 2] {
        let mut net = Net::durable(shards);
        let (reader, _) = net.rejoin(0, V5, app(1), 3_600);
        net.subscribe(reader, "a", QOS1);
        net.hang_up(reader);
        net.disk.slow = true;
        let reader = net.connect(shards - 1, V5, app(1));
        assert!(net.got(reader).is_empty(), "the old session could still come back");
        net.commit();
        assert!(matches!(net.got(reader)[..], [Got::ConnAck { session_present: false, .. }]));
        net.disk.slow = false;
        net.hang_up(reader);
        assert!(net.disk.image().sessions.is_empty());
        let (_, present) = net.rejoin(0, V5, app(1), 3_600);
        assert!(!present);
    }
}

#[test]
fn a_session_ends_when_its_expiry_has_passed_and_not_before() {
    let mut net = Net::durable(1);
    let (reader, _) = net.rejoin(0, V5, app(1), 60);
    net.subscribe(reader, "a", QOS1);
    net.pass(Duration::from_secs(600));
    net.hang_up(reader);
    net.pass(Duration::from_secs(59));
    let (reader, present) = net.rejoin(0, V5, app(1), 60);
    assert!(present, "its time begins when its connection ends");
    net.hang_up(reader);
    net.pass(Duration::from_secs(61));
    assert_eq!((net.stats().sessions_stored, net.stats().subscriptions), (0, 0));
    assert!(net.disk.image().sessions.is_empty());
    let (reader, present) = net.rejoin(0, V5, app(1), 60);
    assert!(!present);
    // Also when the server was not there in between, and when it was while it was connected.
    net.hang_up(reader);
    net.now += Duration::from_secs(30);
    net.restart();
    net.now += Duration::from_secs(31);
    net.pass(Duration::from_millis(100));
    assert!(!net.rejoin(0, V5, app(1), 60).1);
}

#[test]
fn disconnect_may_change_the_expiry_of_the_session() {
    let mut net = Net::durable(1);
    let (reader, _) = net.rejoin(0, V5, app(1), 60);
    net.subscribe(reader, "a", QOS1);
    let mut goodbye = drawbridge_mqtt::codec::Disconnect::of(ReasonCode::NORMAL_DISCONNECTION);
    goodbye.session_expiry_s = Some(0);
    net.send(reader, &Packet::Disconnect(goodbye));
    assert_eq!(net.stats().sessions_stored, 0);
    assert!(!net.rejoin(0, V5, app(1), 60).1);
}

#[test]
fn the_longest_expiry_is_told_where_it_is_shorter_than_asked_for() {
    let mut net = Net::with(1, |config| {
        config.durable = true;
        config.session_expiry_s_max = 100;
    });
    for (asked, told) in [(u32::MAX, Some(100)), (100, None), (99, None), (0, None)] {
        let client =
            net.connect_with(0, V5, app(1), |packet| packet.properties.session_expiry_s = Some(asked));
        let got = net.take_first(client);
        assert!(
            matches!(got, Some(Got::ConnAck { session_expiry_s, .. }) if session_expiry_s == told),
            "{got:?}"
        );
    }
}

#[test]
fn a_deleted_owner_leaves_no_session_and_a_blocked_one_gets_nothing() {
    for (why, kept) in [(EndedWhy::Deleted, false), (EndedWhy::Blocked, true), (EndedWhy::Revoked, true)] {
        for connected in [false, true] {
            let mut net = Net::durable(1);
            let (reader, _) = net.rejoin(0, V5, app(1), 3_600);
            net.subscribe(reader, "a", QOS1);
            if !connected {
                net.hang_up(reader);
            }
            let ended = Ended::Principal { registry: RegistryName::default_registry(), uid: Uid(1), why };
            net.run(0, |shard, now, fx| shard.end_sessions(now, &ended, fx));
            assert_eq!(net.stats().sessions_stored, usize::from(kept), "{why:?} {connected}");
            assert_eq!(net.disk.image().sessions.len(), usize::from(kept));
        }
    }
}

#[test]
fn a_session_whose_owner_was_deleted_while_the_server_was_away_is_forgotten() {
    let mut net = Net::durable(2);
    let (reader, _) = net.rejoin(0, V5, app(1), 3_600);
    net.subscribe(reader, "a", QOS1);
    net.rejoin(1, V5, app(2), 3_600);
    net.deleted = vec![Uid(1)];
    net.restart();
    net.pass(Duration::from_millis(100));
    let owners: Vec<Uid> = net.disk.image().sessions.values().map(|session| session.session.uid).collect();
    assert_eq!(owners, [Uid(2)]);
}

#[test]
fn a_clock_that_goes_back_between_two_starts_leaves_the_last_word_to_who_speaks_last() {
    for shards in [1, 2] {
        let mut net = Net::durable(shards);
        let speaker = net.join(0, V5, app(2));
        net.pass(Duration::from_secs(100));
        net.publish_with(speaker, "kept", b"old", QOS1, true, Default::default());
        net.now -= Duration::from_secs(40);
        net.restart();
        let speaker = net.join(0, V5, app(2));
        net.publish_with(speaker, "kept", b"new", QOS1, true, Default::default());
        for shard in 0..shards {
            let reader = net.join(shard, V5, app(3 + shard as u64));
            net.subscribe(reader, "other", QOS0);
            let got = net.subscribe(reader, "kept", QOS0);
            assert!(matches!(&got[..], [_, Got::Message(message)] if message.payload == b"new"), "{got:?}");
        }
    }
}

#[test]
fn a_session_that_begins_anew_in_the_place_of_a_connected_one_has_one_home() {
    let mut net = Net::durable(2);
    let (first, _) = net.rejoin(0, V5, app(1), 3_600);
    net.subscribe(first, "a", QOS1);
    net.disk.slow = true;
    let second = net.connect_with(0, V5, app(1), |packet| packet.properties.session_expiry_s = Some(3_600));
    assert!(net.got(second).is_empty(), "the old session could still come back");
    net.commit();
    net.expect_welcome(second);
    net.disk.slow = false;
    let (third, present) = net.rejoin(1, V5, app(1), 3_600);
    assert!(present);
    assert_eq!(net.clients[third].shard, 0);
    assert_eq!(net.disk.image().sessions.len(), 1);
}

#[test]
fn retained_messages_wait_for_those_before_them_that_wait_to_be_stored() {
    let mut net = Net::durable(1);
    let speaker = net.join(0, V5, app(2));
    for (topic, qos) in [("a/1", QOS2), ("a/2", QOS1), ("a/3", QOS2), ("a/4", QOS1)] {
        net.publish_with(speaker, topic, topic.as_bytes(), qos, true, Default::default());
    }
    let (reader, _) = net.rejoin(0, V5, app(1), 3_600);
    net.disk.slow = true;
    net.subscribe(reader, "a/+", QOS2);
    let mut seen = Vec::new();
    for _ in 0..6 {
        net.commit();
        for message in net.messages(reader) {
            assert!(!message.dup);
            seen.push(String::from_utf8(message.payload).expect("text"));
        }
    }
    assert_eq!(seen, ["a/1", "a/2", "a/3", "a/4"]);
}

#[test]
fn a_message_that_is_kept_no_more_leaves_its_identifier_only_when_the_client_has_let_go_of_it() {
    let mut net = Net::durable(1);
    let (reader, _) = net.rejoin(0, V5, app(1), 3_600);
    net.subscribe(reader, "a", QOS2);
    let speaker = net.join(0, V5, app(2));
    net.publish(speaker, "a", b"x", QOS2);
    let first = net.messages(reader)[0].id.expect("QoS 2");
    net.hang_up(reader);
    net.disk.lost = net.disk.image().references.keys().copied().collect();
    let (reader, _) = net.rejoin(0, V5, app(1), 3_600);
    assert_eq!(net.got(reader), [Got::PubRel(first, ReasonCode::Success)]);
    net.send(reader, &Packet::PubComp(Ack::success(id(first))));
    assert!(net.disk.image().references.is_empty());
}

#[test]
fn i4_a_new_policy_gives_no_voice_back_to_who_is_blocked() {
    let mut net = Net::durable(2);
    let speaker = net.join(0, V5, app(2));
    net.retain(speaker, "kept", b"x");
    let registry = RegistryName::default_registry;
    let blocked = Ended::Principal { registry: registry(), uid: Uid(2), why: EndedWhy::Blocked };
    let changed = Ended::Policy { registry: registry(), uid: Uid(2), rights: Some(rights(&["#"], &["#"])) };
    for ended in [blocked, changed] {
        for shard in 0..2 {
            net.run(shard, |shard, now, fx| shard.end_sessions(now, &ended, fx));
        }
    }
    for shard in 0..2 {
        let reader = net.join(shard, V5, app(3 + shard as u64));
        assert_eq!(net.subscribe(reader, "kept", QOS0).len(), 1, "SUBACK and nothing else");
    }
}

#[test]
fn a_retained_message_at_qos_2_keeps_its_identifier_though_its_topic_was_cleared() {
    let mut net = Net::durable(1);
    let speaker = net.join(0, V5, app(2));
    net.publish_with(speaker, "kept", b"x", QOS2, true, Default::default());
    let (reader, _) = net.rejoin(0, V5, app(1), 3_600);
    net.subscribe(reader, "+", QOS2);
    // It is owed twice now, in two exchanges.
    net.subscribe(reader, "kept", QOS2);
    net.retain(speaker, "kept", b"");
    net.restart();
    let (reader, _) = net.rejoin(0, V5, app(1), 3_600);
    let again: Vec<_> = net.messages(reader).iter().map(|m| (m.id, m.dup, m.payload.clone())).collect();
    assert_eq!(again, [(Some(1), true, b"x".to_vec()), (Some(2), true, b"x".to_vec())]);
    net.send(reader, &Packet::PubRec(Ack::success(id(1))));
    net.send(reader, &Packet::PubComp(Ack::success(id(1))));
    net.restart();
    let (reader, _) = net.rejoin(0, V5, app(1), 3_600);
    assert_eq!(net.messages(reader).iter().map(|m| m.id).collect::<Vec<_>>(), [Some(2)]);
}

#[test]
fn a_message_that_may_not_be_sent_again_leaves_its_identifier_only_when_the_client_has_let_go_of_it() {
    let mut net = Net::durable(1);
    let (reader, _) = net.rejoin(0, V5, app(1), 3_600);
    net.subscribe(reader, "a", QOS2);
    let speaker = net.join(0, V5, app(2));
    net.publish(speaker, "a", b"x", QOS2);
    let first = net.messages(reader)[0].id.expect("QoS 2");
    net.hang_up(reader);
    let narrow = drawbridge_broker::Admitted { rights: rights(&[], &["b"]), ..app(1) };
    let (reader, _) = net.rejoin(0, V5, narrow, 3_600);
    assert_eq!(net.got(reader), [Got::PubRel(first, ReasonCode::Success)]);
    net.send(reader, &Packet::PubComp(Ack::success(id(first))));
    assert!(net.disk.image().references.is_empty());
}

#[test]
fn a_queue_keeps_what_came_first_and_counts_what_it_missed() {
    let mut net = Net::with(1, |config| {
        config.durable = true;
        config.queue_messages_max = 5;
    });
    let (reader, _) = net.rejoin(0, V5, app(1), 3_600);
    net.subscribe(reader, "a", QOS1);
    net.hang_up(reader);
    let speaker = net.join(0, V5, app(2));
    for n in 0..8 {
        net.publish(speaker, "a", n.to_string().as_bytes(), QOS1);
    }
    assert_eq!((net.stats().queued, net.stats().queue_full, net.stats().waiting), (5, 3, 0));
    let (reader, _) = net.rejoin(0, V5, app(1), 3_600);
    assert_eq!(net.payloads(reader), ["0", "1", "2", "3", "4"]);
}

#[test]
fn messages_that_the_storage_keeps_no_more_are_passed_over_and_counted() {
    let mut net = Net::durable(1);
    let (reader, _) = net.rejoin(0, V5, app(1), 3_600);
    net.subscribe(reader, "a", QOS2);
    net.hang_up(reader);
    let speaker = net.join(0, V5, app(2));
    for n in 0..200 {
        net.publish(speaker, "a", n.to_string().as_bytes(), QOS1);
    }
    let messages = net.disk.records().filter_map(|record| match record {
        Record::Message { id, .. } => Some(*id),
        _ => None,
    });
    net.disk.lost = messages.step_by(2).collect();
    let (reader, _) = net.rejoin(0, V5, app(1), 3_600);
    let mut got = Vec::new();
    loop {
        let messages = net.messages(reader);
        if messages.is_empty() {
            break;
        }
        for message in messages {
            got.push(String::from_utf8(message.payload).expect("text"));
            net.acknowledge(reader, message.id.expect("QoS 1"));
        }
    }
    let expected: Vec<String> = (0..200).filter(|n| n % 2 == 1).map(|n: u32| n.to_string()).collect();
    assert_eq!(got, expected);
    assert_eq!((net.stats().forgotten, net.stats().queued), (100, 0));
}

#[test]
fn the_window_holds_also_for_what_is_sent_again() {
    let mut net = Net::durable(1);
    let (reader, _) = net.rejoin(0, V5, app(1), 3_600);
    net.subscribe(reader, "a", QOS1);
    let speaker = net.join(0, V5, app(2));
    for n in 0..6 {
        net.publish(speaker, "a", n.to_string().as_bytes(), QOS1);
    }
    assert_eq!(net.messages(reader).len(), 6);
    net.hang_up(reader);
    let reader = net.connect_with(0, V5, app(1), |packet| {
        packet.clean_start = false;
        packet.properties.session_expiry_s = Some(3_600);
        packet.properties.receive_maximum = std::num::NonZeroU16::new(2);
    });
    let mut seen = Vec::new();
    for _ in 0..6 {
        let messages = net.messages(reader);
        assert!(messages.len() <= 2 && messages.iter().all(|message| message.dup));
        for message in messages {
            net.acknowledge(reader, message.id.expect("QoS 1"));
            seen.push(String::from_utf8(message.payload).expect("text"));
        }
    }
    assert_eq!(seen, ["0", "1", "2", "3", "4", "5"]);
}

#[test]
fn a_will_of_a_stored_session_speaks_after_a_restart_when_its_time_has_come() {
    for delay_s in [0, 30] {
        let mut net = Net::durable(1);
        let client = net.connect_with(0, V5, app(2), |packet| {
            let mut will = will("wills/two", b"gone");
            will.properties.delay_s = Some(delay_s);
            packet.will = Some(will);
            packet.properties.session_expiry_s = Some(3_600);
        });
        net.expect_welcome(client);
        net.restart();
        let listener = net.join(0, V5, app(1));
        net.subscribe(listener, "wills/#", QOS1);
        net.pass(Duration::from_secs(29));
        assert_eq!(net.messages(listener).len(), 0, "at once, before anybody listened, or not yet");
        net.pass(Duration::from_secs(2));
        assert_eq!(net.messages(listener).len(), usize::from(delay_s > 0));
        net.restart();
        let listener = net.join(0, V5, app(1));
        net.subscribe(listener, "wills/#", QOS1);
        net.pass(Duration::from_secs(60));
        assert!(net.messages(listener).is_empty(), "once");
    }
}

#[test]
fn two_shards_never_serve_one_stored_session_at_once() {
    let mut net = Net::durable(2);
    let (first, _) = net.rejoin(0, V5, app(1), 3_600);
    net.subscribe(first, "a", QOS1);
    let (second, present) = net.rejoin(1, V5, app(1), 3_600);
    assert!(present);
    let got = net.got(first);
    assert!(matches!(got[..], [Got::Disconnect { reason: ReasonCode::SessionTakenOver, .. }]), "{got:?}");
    assert_eq!(net.clients[second].shard, 0, "the connection came to its session");
    let speaker = net.join(1, V5, app(2));
    net.publish(speaker, "a", b"x", QOS1);
    assert_eq!(net.payloads(second), ["x"]);
    // A clean one elsewhere ends it.
    let third = net.join(1, V5, app(1));
    assert!(matches!(net.got(second)[..], [Got::Disconnect { reason: ReasonCode::SessionTakenOver, .. }]));
    net.publish(speaker, "a", b"y", QOS1);
    assert!(net.messages(third).is_empty());
    assert!(net.disk.image().sessions.is_empty());
}

#[test]
fn what_is_done_is_never_written_before_what_it_is_done_with() {
    let mut net = Net::durable(2);
    let (reader, _) = net.rejoin(0, V5, app(1), 3_600);
    net.subscribe(reader, "a", QOS1);
    let speaker = net.join(1, V5, app(2));
    net.disk.slow = true;
    net.publish(speaker, "a", b"x", QOS1);
    let message = &net.messages(reader)[0];
    net.acknowledge(reader, message.id.expect("QoS 1"));
    net.commit();
    net.commit();
    let image = net.disk.image();
    assert!(image.references.is_empty(), "{:?}", image.references);
    net.disk.slow = false;
    net.restart();
    let (reader, _) = net.rejoin(0, V5, app(1), 3_600);
    assert!(net.messages(reader).is_empty());
}

#[test]
fn a_client_with_too_many_unanswered_publishes_is_listened_to_again_when_they_are_answered() {
    let mut net = Net::durable(1);
    let (reader, _) = net.rejoin(0, V311, app(1), 3_600);
    net.subscribe(reader, "a", QOS1);
    net.hang_up(reader);
    let speaker = net.join(0, V311, app(2));
    net.disk.slow = true;
    for n in 0..1_500_u32 {
        net.publish(speaker, "a", &n.to_be_bytes(), QOS1);
    }
    let conn = net.clients[speaker].conn;
    assert!(net.shards[0].is_held(conn));
    assert!(answers(&mut net, speaker).is_empty());
    net.commit();
    net.commit();
    assert!(!net.shards[0].is_held(conn));
    assert_eq!(answers(&mut net, speaker).len(), 1_500);
}

/// A publish as a client writes it.
fn publish_bytes(version: drawbridge_mqtt::codec::ProtocolVersion, publish: Publish<'_>) -> Vec<u8> {
    encode(version, &Packet::Publish(publish))
}

fn a_publish<'a>(topic: &'a str, payload: &'a [u8], qos: Qos, packet_id: Option<u16>) -> Publish<'a> {
    Publish {
        dup: false,
        qos,
        retain: false,
        topic: Some(TopicName::parse(topic).expect("a topic")),
        packet_id: packet_id.map(id),
        properties: Default::default(),
        payload,
    }
}

#[test]
fn the_last_word_on_a_topic_is_the_last_also_where_an_earlier_one_is_stored_later() {
    for (last, expected) in [(&b"v2"[..], vec!["v2".to_owned()]), (b"", Vec::new())] {
        let mut net = Net::durable(2);
        // The other shard is asked to whom there the first message is owed; the second asks nobody.
        let (reader, _) = net.rejoin(1, V5, app(1), 3_600);
        net.subscribe(reader, "elsewhere", QOS1);
        let speaker = net.join(0, V5, app(2));
        let first = Publish { retain: true, ..a_publish("t", b"v1", QOS1, Some(1)) };
        let second = Publish { retain: true, ..a_publish("t", last, QOS0, None) };
        net.send_bytes(speaker, &[publish_bytes(V5, first), publish_bytes(V5, second)].concat());
        net.restart();
        let reader = net.join(0, V5, app(3));
        net.subscribe_as(reader, SubscribeEntry::of("t", QOS0), None);
        let image = net.disk.image();
        let topics: usize = image.retained.values().map(|topics| topics.len()).sum();
        assert_eq!(topics, expected.len(), "{image:?}");
        let reader = net.join(0, V5, app(4));
        let got = net.subscribe_as(reader, SubscribeEntry::of("t", QOS0), None);
        let got = got.into_iter().filter_map(|got| match got {
            Got::Message(message) => Some(String::from_utf8_lossy(&message.payload).into_owned()),
            _ => None,
        });
        assert_eq!(got.collect::<Vec<_>>(), expected);
    }
}

#[test]
fn i12_that_a_topic_was_cleared_is_acknowledged_when_it_is_stored() {
    for (shards, asks) in [(1, false), (2, false), (2, true)] {
        let mut net = Net::durable(shards);
        if asks {
            let (reader, _) = net.rejoin(1, V5, app(1), 3_600);
            net.subscribe(reader, "elsewhere", QOS1);
        }
        let speaker = net.join(0, V5, app(2));
        net.retain(speaker, "t", b"word");
        net.disk.slow = true;
        let packet_id = net.publish_with(speaker, "t", b"", QOS1, true, Default::default()).expect("an id");
        assert!(answers(&mut net, speaker).is_empty(), "the word could still come back");
        net.commit();
        let ack = Got::PubAck { id: packet_id.get(), reason: ReasonCode::Success, text: None };
        assert_eq!(answers(&mut net, speaker), [ack]);
        let order = command(&net, 1, 2, "t");
        net.order(0, drawbridge_broker::Order { to: None, retain: true, ..order.clone() });
        net.commit();
        net.orders_done.clear();
        net.order(0, drawbridge_broker::Order { id: 2, to: None, retain: true, payload: [].into(), ..order });
        assert_eq!(net.orders_done, [], "{shards} {asks}");
        net.commit();
        assert_eq!(net.orders_done, [(2, drawbridge_broker::OrderOutcome::Stored)], "{shards} {asks}");
    }
}

#[test]
fn the_identifier_of_a_refused_control_message_is_free_again_also_after_a_restart() {
    let mut net = Net::durable(1);
    let (speaker, _) = net.rejoin(0, V5, app(1), 3_600);
    let state = || publish_bytes(V5, a_publish("devices/lamp/state", b"on", QOS2, Some(7)));
    net.send_bytes(speaker, &state());
    let (shard, conn, ack, _) = net.controls.pop().expect("control is asked");
    let refused = Err(ReasonCode::NotAuthorized);
    net.run(shard, |shard, now, fx| shard.control_done(now, conn, ack.expect("QoS 2"), refused, fx));
    assert_eq!(answers(&mut net, speaker), [Got::PubRec(7, ReasonCode::NotAuthorized)]);
    net.restart();
    let (speaker, _) = net.rejoin(0, V5, app(1), 3_600);
    net.send_bytes(speaker, &state());
    assert_eq!(net.controls.len(), 1, "another message, not the one that was refused");
}

#[test]
fn a_command_at_qos_2_that_control_has_not_recorded_is_asked_for_again_after_a_crash() {
    for recorded in [false, true] {
        let mut net = Net::durable(1);
        let (speaker, _) = net.rejoin(0, V5, app(1), 3_600);
        let say = || publish_bytes(V5, a_publish("devices/lamp/commands", b"on", QOS2, Some(7)));
        net.send_bytes(speaker, &say());
        if recorded {
            control_says(&mut net, Ok(()));
            assert_eq!(answers(&mut net, speaker), [Got::PubRec(7, ReasonCode::Success)]);
        }
        net.controls.clear();
        net.restart();
        let (speaker, _) = net.rejoin(0, V5, app(1), 3_600);
        net.send_bytes(speaker, &say());
        assert_eq!(net.controls.len(), usize::from(!recorded), "once, and not lost");
    }
}

/// What control is asked next is refused or not.
fn control_says(net: &mut Net, outcome: Result<(), ReasonCode>) {
    let (shard, conn, ack, _) = net.controls.pop().expect("control is asked");
    net.run(shard, |shard, now, fx| shard.control_done(now, conn, ack.expect("QoS 2"), outcome, fx));
}

#[test]
fn what_control_says_of_a_message_at_qos_2_is_not_lost_with_the_connection() {
    for outcome in [Ok(()), Err(ReasonCode::NotAuthorized)] {
        let told = [Got::PubRec(7, outcome.err().unwrap_or(ReasonCode::Success))];
        let state = publish_bytes(V5, a_publish("devices/lamp/state", b"on", QOS2, Some(7)));
        for comes_back_first in [false, true] {
            let mut net = Net::durable(1);
            let (speaker, _) = net.rejoin(0, V5, app(1), 3_600);
            net.send_bytes(speaker, &state);
            net.hang_up(speaker);
            if comes_back_first {
                let (speaker, _) = net.rejoin(0, V5, app(1), 3_600);
                net.send_bytes(speaker, &state);
                assert_eq!(answers(&mut net, speaker), [], "control has not said yet");
                control_says(&mut net, outcome);
                assert_eq!(answers(&mut net, speaker), told);
            } else {
                control_says(&mut net, outcome);
                let (speaker, _) = net.rejoin(0, V5, app(1), 3_600);
                net.send_bytes(speaker, &state);
                // What it refused it is asked again; what it has taken it has.
                assert_eq!(net.controls.len(), usize::from(outcome.is_err()));
                if outcome.is_err() {
                    control_says(&mut net, outcome);
                }
                assert_eq!(answers(&mut net, speaker), told);
            }
            assert!(net.controls.is_empty(), "{outcome:?} {comes_back_first}");
        }
    }
}

#[test]
fn a_message_that_comes_again_does_not_wait_for_what_another_session_in_its_place_had_asked() {
    let mut net = Net::durable(2);
    let (reader, _) = net.rejoin(1, V5, app(1), 3_600);
    net.subscribe(reader, "a", QOS2);
    let once = publish_bytes(V5, a_publish("a", b"1", QOS2, Some(7)));
    // The other shard never hears of the question of the first.
    let first = net.join(0, V5, app(2));
    let conn = net.clients[first].conn;
    net.shards[0].receive(net.now, conn, &once, &mut Vec::new());
    net.hang_up(first);
    let (second, _) = net.rejoin(0, V5, app(3), 3_600);
    net.send_bytes(second, &once);
    net.hang_up(second);
    let (second, _) = net.rejoin(0, V5, app(3), 3_600);
    net.send_bytes(second, &once);
    assert_eq!(answers(&mut net, second), [Got::PubRec(7, ReasonCode::Success)]);
}

#[test]
fn a_release_that_comes_before_its_answer_is_not_undone_by_a_restart() {
    let mut net = Net::durable(2);
    let (reader, _) = net.rejoin(1, V5, app(1), 3_600);
    net.subscribe(reader, "a", QOS1);
    let (speaker, _) = net.rejoin(0, V5, app(2), 3_600);
    // The other shard is still to say to whom there the message is owed.
    let one = publish_bytes(V5, a_publish("a", b"1", QOS2, Some(7)));
    let release = encode(V5, &Packet::PubRel(Ack::success(id(7))));
    net.send_bytes(speaker, &[one, release].concat());
    let expected = [Got::PubRec(7, ReasonCode::Success), Got::PubComp(7, ReasonCode::Success)];
    assert_eq!(answers(&mut net, speaker), expected);
    net.restart();
    let (speaker, _) = net.rejoin(0, V5, app(2), 3_600);
    net.send_bytes(speaker, &publish_bytes(V5, a_publish("a", b"2", QOS2, Some(7))));
    let (reader, _) = net.rejoin(1, V5, app(1), 3_600);
    assert_eq!(net.payloads(reader), ["1", "2"]);
}

#[test]
fn a_message_at_qos_2_that_is_repeated_before_its_answer_holds_up_no_later_answer() {
    for version in [V311, V5] {
        let mut net = Net::durable(2);
        let (reader, _) = net.rejoin(1, V5, app(1), 3_600);
        net.subscribe(reader, "a", QOS2);
        let speaker = net.join(0, version, app(2));
        let one = publish_bytes(version, a_publish("a", b"1", QOS2, Some(1)));
        let again = publish_bytes(version, Publish { dup: true, ..a_publish("a", b"1", QOS2, Some(1)) });
        let next = publish_bytes(version, a_publish("a", b"2", QOS1, Some(2)));
        net.send_bytes(speaker, &[one, again, next].concat());
        let got = answers(&mut net, speaker);
        assert_eq!(got.first(), Some(&Got::PubRec(1, ReasonCode::Success)));
        assert_eq!(got.last(), Some(&Got::PubAck { id: 2, reason: ReasonCode::Success, text: None }));
    }
}

#[test]
fn no_local_keeps_a_will_from_the_session_that_left_it() {
    for restarts in [false, true] {
        for delay_s in [0, 10] {
            let mut net = Net::durable(1);
            let (reader, _) = net.rejoin(0, V5, app(1), 3_600);
            net.subscribe(reader, "w/#", QOS1);
            let client = net.connect_with(0, V5, app(2), |connect| {
                connect.properties.session_expiry_s = Some(3_600);
                let mut last = will("w/client", b"gone");
                last.properties.delay_s = Some(delay_s);
                connect.will = Some(last);
            });
            net.expect_welcome(client);
            let not_own = SubscribeEntry { no_local: true, ..SubscribeEntry::of("w/+", QOS1) };
            net.subscribe_as(client, not_own, None);
            if restarts {
                net.restart();
            } else {
                net.hang_up(client);
            }
            net.pass(Duration::from_secs(11));
            let (client, _) = net.rejoin(0, V5, app(2), 3_600);
            let reader = if restarts { net.rejoin(0, V5, app(1), 3_600).0 } else { reader };
            assert_eq!(net.payloads(reader), ["gone"], "{restarts} {delay_s}");
            assert!(net.messages(client).is_empty(), "{restarts} {delay_s}");
            // Without No Local it hears what it says itself.
            net.subscribe(client, "w/+", QOS1);
            net.publish(client, "w/client", b"back", QOS0);
            assert_eq!(net.payloads(client), ["back"]);
        }
    }
}

#[test]
fn that_a_session_is_back_is_stored_at_once_if_it_had_not_much_time_left() {
    for (away_s, urgent) in [(100, false), (1_700, false), (1_900, true), (3_500, true)] {
        let mut net = Net::durable(1);
        let (reader, _) = net.rejoin(0, V5, app(1), 3_600);
        net.hang_up(reader);
        net.pass(Duration::from_secs(away_s));
        let (_, present) = net.rejoin(0, V5, app(1), 3_600);
        assert!(present);
        let (_, batch) = net.disk.batches.last().expect("it is stored that it is back");
        assert_eq!(batch.urgent, urgent, "away for {away_s} s");
    }
}

#[test]
fn a_client_that_comes_and_goes_leaves_one_timer_behind() {
    let mut net = Net::durable(1);
    for _ in 0..50 {
        let (reader, _) = net.rejoin(0, V5, app(1), 86_400);
        net.hang_up(reader);
        net.now += Duration::from_millis(200);
    }
    // Each of them is looked at, and finds the session away.
    net.pass(Duration::from_secs(250));
    assert!(net.stats().timers <= 2, "{} timers for one session", net.stats().timers);
    net.pass(Duration::from_secs(86_400));
    assert_eq!((net.stats().timers, net.stats().sessions_stored), (0, 0));
}

#[test]
fn what_is_held_back_until_it_is_stored_is_not_given_out_whoever_asks() {
    let mut net = Net::durable(1);
    let (reader, _) = net.rejoin(0, V5, app(1), 3_600);
    net.hang_up(reader);
    net.disk.slow = true;
    let reader = net.connect(0, V5, app(1));
    let conn = net.clients[reader].conn;
    let output = net.shards[0].output(conn).map(|output| output.len());
    assert!(output.unwrap_or_default() == 0, "a driver may ask for other reasons than `Effect::Write`");
    assert!(net.shards[0].is_held(conn), "its answers would pile up");
    net.commit();
    assert!(!net.shards[0].is_held(conn));
    assert!(matches!(net.got(reader)[..], [Got::ConnAck { session_present: false, .. }]));
}

#[test]
fn while_nothing_can_be_stored_nobody_fills_the_memory() {
    let mut net = Net::with(1, |config| (config.durable, config.queue_bytes_max) = (true, 64 << 20));
    let (reader, _) = net.rejoin(0, V5, app(1), 3_600);
    net.subscribe(reader, "a", QOS1);
    net.hang_up(reader);
    let (other, _) = net.rejoin(0, V5, app(3), 3_600);
    let speaker = net.join(0, V5, app(2));
    net.disk.slow = true;
    net.run(0, |shard, now, fx| shard.stalled(now, true, fx));
    static PAYLOAD: [u8; 200 << 10] = [0; 200 << 10];
    let payload = &PAYLOAD;
    for n in 0..200 {
        net.publish(speaker, "a", payload, QOS1);
        assert!(n < 199 || net.reported("DB-2045") > 0, "nothing was refused");
    }
    let batches = net.disk.batches.len();
    let orders_done = net.orders_done.len();
    // Publishes over HTTP.
    let order =
        drawbridge_broker::Order { to: None, payload: payload.as_slice().into(), ..command(&net, 1, 2, "a") };
    net.order(0, order);
    assert_eq!(net.orders_done.len(), orders_done + 1, "it is told at once");
    // Subscriptions of those whose sessions are stored.
    net.subscribe(other, "b", QOS1);
    // Connections that must be stored, with their wills; those of others go on.
    let with_will = net.connect_with(0, V5, app(4), |connect| {
        connect.properties.session_expiry_s = Some(60);
        connect.will = Some(will("w", &PAYLOAD[..8_000]));
    });
    let got = net.got(with_will);
    assert!(matches!(got[..], [Got::ConnAck { reason: ReasonCode::QuotaExceeded, .. }]), "{got:?}");
    // Wills that would have to be stored.
    let with_will =
        net.connect_with(0, V5, app(5), |connect| connect.will = Some(will("a", &PAYLOAD[..8_000])));
    net.expect_welcome(with_will);
    net.hang_up(with_will);
    assert_eq!(net.disk.batches.len(), batches, "something more is to be stored");
    net.run(0, |shard, now, fx| shard.stalled(now, false, fx));
    net.commit();
    assert_eq!(net.got(other), [Got::SubAck(vec![ReasonCode::QuotaExceeded])]);
    net.disk.slow = false;
    assert_eq!(net.subscribe(other, "c", QOS1), [Got::SubAck(vec![ReasonCode::GrantedQos1])]);
}

/// What waits to be stored, about.
fn unsaved_bytes(net: &Net) -> usize {
    let records = net.disk.batches.iter().skip(net.disk.stored).flat_map(|(_, batch)| &batch.records);
    let messages = records.filter_map(|record| match record {
        Record::Message { message, .. } => Some(message.payload.len()),
        _ => None,
    });
    messages.sum()
}

#[test]
fn a_storage_that_is_slow_or_hangs_and_says_nothing_is_waited_for_and_does_not_fill_the_memory() {
    for version in [V311, V5] {
        let settle = |config: &mut drawbridge_broker::ShardConfig| {
            (config.durable, config.queue_bytes_max) = (true, 1 << 30);
        };
        let mut net = Net::with(1, settle);
        let (reader, _) = net.rejoin(0, V5, app(1), 3_600);
        net.subscribe(reader, "a", QOS1);
        net.hang_up(reader);
        let bystander = net.join(0, version, app(2));
        let held = |net: &mut Net, client: usize| {
            let conn = net.clients[client].conn;
            net.shards[0].is_held(conn)
        };
        net.disk.slow = true;
        let payload = vec![0; 200 << 10];
        let speaker = net.connect_with(0, version, app(3), |connect| connect.keep_alive_s = 10);
        net.expect_welcome(speaker);
        let mut sent = 0;
        while !held(&mut net, speaker) {
            net.publish(speaker, "a", &payload, QOS1);
            sent += 1;
            assert!(unsaved_bytes(&net) < 70 << 20, "it is listened to however much waits");
        }
        assert!(unsaved_bytes(&net) > 60 << 20, "a disk that is only slow is given its time");
        assert!(!held(&mut net, bystander), "it waits for nothing");
        // What was read already is kept, and its silence is not its fault.
        net.publish(speaker, "a", &payload, QOS1);
        net.pass(Duration::from_secs(60));
        // Whoever comes is listened to until it waits, and nobody at last.
        let mut speakers = vec![(speaker, sent + 1)];
        while !held(&mut net, bystander) {
            let uid = 10 + speakers.len() as u64;
            let speaker = net.join(0, version, app(uid));
            net.publish(speaker, "a", &payload, QOS1);
            net.publish(speaker, "a", &payload, QOS1);
            speakers.push((speaker, 2));
            assert!(unsaved_bytes(&net) < 130 << 20, "nobody is held back");
        }
        assert_eq!(net.reported("DB-2045"), 0, "nothing was refused");
        // It has caught up: all are heard, and answered.
        net.commit();
        net.commit();
        assert!(!held(&mut net, bystander));
        for (speaker, sent) in speakers {
            assert!(!held(&mut net, speaker));
            assert_eq!((answers(&mut net, speaker).len(), net.clients[speaker].closed), (sent, None));
        }
    }
}

#[test]
fn who_is_held_back_for_a_slow_storage_is_told_once_that_says_that_it_stalls() {
    let mut net = Net::with(1, |config| (config.durable, config.queue_bytes_max) = (true, 1 << 30));
    let (reader, _) = net.rejoin(0, V5, app(1), 3_600);
    net.subscribe(reader, "a", QOS1);
    net.hang_up(reader);
    let speaker = net.join(0, V5, app(2));
    let conn = net.clients[speaker].conn;
    net.disk.slow = true;
    while !net.shards[0].is_held(conn) {
        net.publish(speaker, "a", &vec![0; 200 << 10], QOS1);
    }
    net.publish(speaker, "a", b"one more", QOS1);
    assert_eq!(net.reported("DB-2045"), 0);
    net.run(0, |shard, now, fx| shard.stalled(now, true, fx));
    assert_eq!((net.reported("DB-2045"), net.shards[0].is_held(conn)), (1, false));
}

#[test]
fn many_sessions_that_come_back_at_once_do_not_fill_the_memory_with_what_is_read_for_them() {
    const MAX: usize = 1 << 20;
    let settle = |config: &mut drawbridge_broker::ShardConfig| {
        (config.durable, config.waiting_bytes_max) = (true, MAX);
        config.write_buffer_bytes_max = 1 << 10;
    };
    let mut net = Net::with(1, settle);
    for uid in 1..=20 {
        let (reader, _) = net.rejoin(0, V5, app(uid), 3_600);
        net.subscribe(reader, "a", QOS1);
        net.hang_up(reader);
    }
    let speaker = net.join(0, V5, app(99));
    for _ in 0..16 {
        net.publish(speaker, "a", &vec![0; 64 << 10], QOS1);
    }
    net.restart();
    for uid in 1..=20 {
        let reader = net.open(0, V5);
        net.clients[reader].stalled = true;
        let admitted = app(uid);
        let mut packet = connect(V5, admitted.client_id.as_str());
        packet.clean_start = false;
        packet.properties.session_expiry_s = Some(3_600);
        net.send(reader, &packet.into());
        net.answer(reader, Ok(admitted));
    }
    let bytes = net.stats().waiting_bytes;
    assert!(bytes <= 3 * MAX, "{bytes} bytes wait in memory");
    for reader in 0..net.clients.len() {
        net.unstall(reader);
        while let Some(got) = net.take_first(reader) {
            if let Got::Message(message) = got {
                net.acknowledge(reader, message.id.expect("QoS 1"));
            }
        }
    }
    assert_eq!(net.stats().queued, 0, "all got theirs");
}

#[test]
fn a_session_that_ended_in_the_future_as_a_wrong_clock_had_it_ends_in_time_all_the_same() {
    let mut net = Net::durable(1);
    let (reader, _) = net.rejoin(0, V5, app(1), 60);
    net.hang_up(reader);
    for (_, batch) in &mut net.disk.batches {
        for record in &mut batch.records {
            if let Record::Session(session) = record
                && session.ended_ms > 0
            {
                session.ended_ms += 10 * 365 * 86_400_000;
            }
        }
    }
    net.restart();
    net.pass(Duration::from_secs(61));
    assert_eq!(net.stats().sessions_stored, 0, "ten years more than it was to be kept");
}

#[test]
fn where_no_session_is_kept_no_socket_moves() {
    let mut net = Net::with(2, |config| (config.durable, config.session_expiry_s_max) = (true, 0));
    let (client, _) = net.rejoin(0, V5, app(1), 3_600);
    net.hang_up(client);
    let (client, present) = net.rejoin(1, V5, app(1), 3_600);
    assert_eq!((net.clients[client].shard, present), (1, false), "nothing is remembered of the first");
}

#[test]
fn a_long_queue_gets_what_comes_from_another_shard_in_order() {
    for back in [false, true] {
        let mut net = Net::durable(2);
        let (reader, _) = net.rejoin(1, V5, app(1), 3_600);
        net.subscribe(reader, "a", QOS2);
        net.hang_up(reader);
        let speaker = net.join(0, V5, app(2));
        for n in 0..3_000_u16 {
            net.publish(speaker, "a", n.to_string().as_bytes(), QOS1);
        }
        if back {
            net.restart();
        }
        let (reader, present) = net.rejoin(0, V5, app(1), 3_600);
        assert!(present);
        let expected: Vec<String> = (0..3_000).map(|n: u16| n.to_string()).collect();
        assert_eq!(net.payloads(reader), expected);
    }
}

#[test]
fn messages_that_went_out_before_they_were_stored_come_back_in_their_order() {
    let mut net = Net::durable(2);
    let (reader, _) = net.rejoin(0, V5, app(1), 3_600);
    net.subscribe(reader, "a", QOS1);
    // Then another shard is asked, and what it has goes out before its record is written.
    let (other, _) = net.rejoin(1, V5, app(3), 3_600);
    net.subscribe(other, "b", QOS1);
    let speaker = net.join(1, V5, app(2));
    net.hang_up(reader);
    let reader = net.connect_with(0, V5, app(1), |packet| {
        packet.clean_start = false;
        packet.properties.session_expiry_s = Some(3_600);
        packet.properties.receive_maximum = std::num::NonZeroU16::new(2);
    });
    net.take_first(reader);
    net.disk.slow = true;
    for n in ["0", "1", "2"] {
        net.publish(speaker, "a", n.as_bytes(), QOS1);
    }
    let first = net.messages(reader);
    assert_eq!(first.len(), 2);
    net.commit();
    net.acknowledge(reader, first[0].id.expect("QoS 1"));
    assert_eq!(net.payloads(reader), ["2"], "its record was written, so its identifier is noted");
    net.commit();
    net.disk.slow = false;
    net.restart();
    let (reader, _) = net.rejoin(0, V5, app(1), 3_600);
    assert_eq!(net.payloads(reader), ["1", "2"]);
}

#[test]
fn one_principal_keeps_so_many_sessions_and_their_filters_so_much_room() {
    for (sessions_max, kept_max) in [(1, 16), (100, 20)] {
        let mut net = Net::with(1, |config| {
            config.durable = true;
            config.kept_sessions_max = 20;
            config.kept_subscription_bytes_max = 2_200;
        });
        let admitted = |n: usize| {
            let client_id = drawbridge_names::MqttClientId::parse(&format!("c{n}")).expect("a client id");
            drawbridge_broker::Admitted { client_id, sessions_max, ..app(1) }
        };
        for n in 0..25 {
            net.pass(Duration::from_secs(11));
            let (client, present) = net.rejoin(0, V5, admitted(n), 3_600);
            assert!(!present);
            // Each costs 97 bytes.
            net.subscribe(client, "a", QOS1);
            net.hang_up(client);
        }
        assert_eq!(net.stats().sessions_stored, kept_max, "the oldest went for the newest");
        net.restart();
        net.pass(Duration::from_secs(11));
        assert_eq!(net.stats().sessions_stored, kept_max);
        let (client, present) = net.rejoin(0, V5, admitted(24), 3_600);
        assert!(present);
        let codes: Vec<Vec<Got>> = ["b", "c", "d", "e", "f", "g", "h"]
            .iter()
            .map(|filter| net.subscribe(client, filter, QOS1))
            .collect();
        let refused = |got: &&Vec<Got>| **got == [Got::SubAck(vec![ReasonCode::QuotaExceeded])];
        let (fits, expected) = (2_200 / 97 - kept_max, 7_usize);
        assert_eq!(codes.iter().filter(refused).count(), expected.saturating_sub(fits), "{codes:?}");
    }
}

#[test]
fn i4_what_a_publisher_said_before_the_start_is_withheld_once_it_is_learned_that_it_is_gone() {
    for (standing, heard) in [(None, 0), (Some(rights(&["other"], &[])), 0), (Some(rights(&["a"], &[])), 1)] {
        let mut net = Net::durable(1);
        let (reader, _) = net.rejoin(0, V5, app(1), 3_600);
        net.subscribe(reader, "a", QOS1);
        net.hang_up(reader);
        let speaker = net.join(0, V5, app(2));
        net.publish(speaker, "a", b"x", QOS1);
        net.restart();
        let registry = RegistryName::default_registry();
        net.shards[0].learn_standing(&registry, Uid(2), standing);
        // What has been heard since is newer.
        net.shards[0].learn_standing(&registry, Uid(2), Some(rights(&["#"], &[])));
        let (reader, _) = net.rejoin(0, V5, app(1), 3_600);
        assert_eq!(net.messages(reader).len(), heard);
    }
}

#[test]
fn a_message_at_qos_2_that_is_kept_no_more_leaves_its_exchange_to_its_end_after_a_restart() {
    let mut net = Net::durable(1);
    let (reader, _) = net.rejoin(0, V5, app(1), 3_600);
    net.subscribe(reader, "a", QOS2);
    let speaker = net.join(0, V5, app(2));
    net.publish(speaker, "a", b"x", QOS2);
    let packet_id = net.messages(reader)[0].id.expect("QoS 2");
    let mut image = net.disk.image();
    let (message, _) =
        image.references.first_key_value().map(|(id, count)| (*id, *count)).expect("it is owed");
    image.forget(message);
    let session = image.sessions.values().next().expect("one session");
    let pending = session.pending.get(&message).expect("the exchange goes on");
    assert_eq!((pending.packet_id, pending.received), (Some(id(packet_id)), true));
}
