//! What came between two things that belong together: found by the simulation once, and played here step by step.

mod support;

use std::time::Duration;

use drawbridge_broker::{Admitted, Crossing, Ended, What};
use drawbridge_mqtt::codec::{Ack, Packet, PacketId, Publish, PublishProperties, Qos, ReasonCode};
use drawbridge_names::{RegistryName, TopicName, Uid};
use support::*;

const QOS0: Qos = Qos::AtMostOnce;
const QOS1: Qos = Qos::AtLeastOnce;
const QOS2: Qos = Qos::ExactlyOnce;

fn second(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[test]
fn of_two_policies_in_a_row_the_second_is_the_last_word_on_every_shard() {
    let mut net = Net::new(2);
    net.late_links = true;
    let speaker = net.join(0, V5, app(1));
    net.subscribe(speaker, "s", QOS0);
    net.retain(speaker, "a", b"kept");
    net.cross();
    let policy = |publish: &[&str]| {
        let registry = RegistryName::default_registry();
        Ended::Policy { registry, uid: Uid(1), rights: Some(rights(publish, &[])) }
    };
    // The first takes its subscription: nothing of the principal is open on shard 0 when the second comes.
    for policy in [policy(&["a"]), policy(&["b"])] {
        for shard in 0..2 {
            net.run(shard, |shard, now, fx| shard.end_sessions(now, &policy, fx));
        }
    }
    assert!(net.clients[speaker].closed.is_some());
    // What shard 0 has said about the first comes to shard 1 only now.
    assert!(!net.links.is_empty());
    net.cross();
    let reader = net.join(1, V5, app(2));
    assert!(matches!(net.subscribe(reader, "a", QOS0)[..], [Got::SubAck(_)]), "it may not say that any more");
}

#[test]
fn a_kept_session_loses_nothing_between_the_end_of_its_right_and_the_moment_in_which_it_is_told() {
    for shards in [1, 2] {
        for filter in ["a", "$share/g/a"] {
            let mut net = Net::durable(shards);
            let ends = Some(net.now + second(60));
            let (reader, _) = net.rejoin(0, V5, Admitted { ends, ..app(1) }, 3_600);
            net.subscribe(reader, filter, QOS1);
            let speaker = net.join(shards - 1, V5, app(2));
            // Its right has ended, and no timer has gone off yet.
            net.now += second(60);
            net.publish(speaker, "a", b"late", QOS1);
            assert_eq!(net.payloads(reader), [""; 0], "{shards} {filter}: it has no right to it now");
            net.pass(second(1));
            assert!(net.clients[reader].closed.is_some());
            let (reader, present) = net.rejoin(0, V5, app(1), 3_600);
            assert!(present);
            assert_eq!(net.payloads(reader), ["late"], "{shards} {filter}");
        }
    }
}

#[test]
fn what_waits_behind_a_slow_reader_stays_when_the_right_of_its_kept_session_has_ended() {
    let mut net = Net::with(1, |config| (config.durable, config.write_buffer_bytes_max) = (true, 100));
    let ends = Some(net.now + second(60));
    let (reader, _) = net.rejoin(0, V5, Admitted { ends, ..app(1) }, 3_600);
    net.subscribe(reader, "a", QOS1);
    net.clients[reader].stalled = true;
    let speaker = net.join(0, V5, app(2));
    for n in 0..5_u8 {
        net.publish(speaker, "a", &[n; 100], QOS1);
    }
    net.now += second(60);
    // There is room for what waits, to which it has no right any more; and no timer has gone off yet.
    net.unstall(reader);
    assert!(net.messages(reader).len() < 5);
    net.pass(second(1));
    assert!(net.clients[reader].closed.is_some());
    let (reader, _) = net.rejoin(0, V5, app(1), 3_600);
    let got: Vec<u8> = net.messages(reader).iter().map(|message| message.payload[0]).collect();
    assert_eq!(got, [0, 1, 2, 3, 4]);
}

#[test]
fn the_release_of_a_message_that_is_withheld_is_stored_before_it_is_sent() {
    let mut net = Net::durable(1);
    let (reader, _) = net.rejoin(0, V5, app(1), 3_600);
    net.subscribe(reader, "a", QOS2);
    let speaker = net.join(0, V5, app(2));
    net.publish(speaker, "a", b"x", QOS2);
    let id = net.messages(reader)[0].id.expect("QoS 2");
    net.hang_up(reader);
    net.disk.slow = true;
    // It comes back without the right to have it again.
    let (reader, present) = net.rejoin(0, V5, Admitted { rights: rights(&["#"], &[]), ..app(1) }, 3_600);
    assert!(present);
    assert_eq!(net.got(reader), [], "the process may end now, and the message would be sent anew");
    net.commit();
    assert_eq!(net.got(reader), [Got::PubRel(id, ReasonCode::Success)]);
    net.send(reader, &Packet::PubComp(Ack::success(PacketId::new(id).expect("not 0"))));
    // Its end was not stored, but the release was: a client that has let go of it does not get it anew.
    net.restart();
    let (reader, present) = net.rejoin(0, V5, app(1), 3_600);
    assert!(present);
    assert_eq!(net.got(reader), [Got::PubRel(id, ReasonCode::Success)]);
}

#[test]
fn a_member_that_joins_while_a_message_is_on_its_way_hears_that_it_is_stored() {
    // Whatever shard is the home of a group, the speaker and the member are on others for some of these.
    for group in 0..12 {
        let mut net = Net::durable(3);
        let share = format!("$share/g{group}/a");
        for shard in 1..3 {
            let listener = net.join(shard, V5, app(10 + shard as u64));
            net.subscribe(listener, "a", QOS0);
        }
        let speaker = net.join(0, V5, app(2));
        let (member, _) = net.rejoin(2, V5, app(1), 3_600);
        net.late_links = true;
        // When it is said, nobody is known whom it is owed to: nobody is asked.
        net.publish(speaker, "a", b"x", QOS2);
        let said = std::mem::take(&mut net.links);
        net.subscribe(member, &share, QOS2);
        net.cross();
        net.links = said;
        net.cross();
        let got = net.messages(member);
        let early = got.is_empty() && net.disk.image().references.is_empty();
        assert!(early || got.len() == 1, "{share}: it waits for ever to hear that its message is stored");
        for shard in &net.shards {
            assert_eq!(shard.stats().foreign, 0, "{share}");
        }
    }
}

#[test]
fn that_a_message_is_stored_may_be_heard_before_the_message_comes() {
    for group in 0..12 {
        let mut net = Net::durable(3);
        let share = format!("$share/g{group}/a");
        let (member, _) = net.rejoin(2, V5, app(1), 3_600);
        net.subscribe(member, &share, QOS2);
        let speaker = net.join(0, V5, app(2));
        net.late_links = true;
        net.publish(speaker, "a", b"x", QOS2);
        // The home of the group is slow to one shard, the others are not.
        let mut given = std::collections::VecDeque::new();
        while let Some(link) = net.links.pop_front() {
            if matches!(link.2, Crossing::Given(_)) {
                given.push_back(link);
            } else {
                let (_, to, crossing) = link;
                net.run(to, |shard, now, fx| shard.crossings(now, vec![crossing], fx));
            }
        }
        net.links = given;
        net.cross();
        assert_eq!(
            net.messages(member).len(),
            1,
            "{share}: it waits for ever to hear that its message is stored"
        );
        for shard in &net.shards {
            assert_eq!(shard.stats().foreign, 0, "{share}");
        }
    }
}

#[test]
fn who_has_left_a_group_gets_nothing_that_its_home_had_on_the_way_to_it() {
    // The home of some of these is the shard of the speaker.
    for group in 0..8 {
        let mut net = Net::durable(2);
        let share = format!("$share/g{group}/a");
        let (member, _) = net.rejoin(1, V5, app(1), 3_600);
        net.subscribe(member, &share, QOS1);
        let speaker = net.join(0, V5, app(2));
        net.late_links = true;
        net.publish(speaker, "a", b"x", QOS1);
        let got = net.unsubscribe(member, &share);
        assert_eq!(got, [Got::UnsubAck(vec![ReasonCode::Success])]);
        let (other, _) = net.rejoin(1, V5, app(3), 3_600);
        net.subscribe(other, &share, QOS1);
        net.cross();
        assert_eq!(net.messages(member), [], "{share}");
        net.messages(other).iter().for_each(|message| net.acknowledge(other, message.id.expect("QoS 1")));
        net.cross();
        assert!(net.disk.image().references.is_empty(), "{share}: nobody is owed anything");
        assert!(net.got(speaker).iter().any(|got| matches!(got, Got::PubAck { .. })), "{share}");
    }
}

#[test]
fn whoever_gets_the_place_of_a_member_that_ended_gets_nothing_that_was_meant_for_that() {
    let mut net = Net::new(1);
    let old = net.join(0, V5, app(1));
    net.subscribe(old, "$share/g/a", QOS1);
    // The successor speaks before it has been let in: it is heard in the call that ends the old session, and
    // the group has not heard of that yet.
    let new = net.open(0, V5);
    let id = app(1).client_id;
    let mut bytes = encode(V5, &connect(V5, id.as_str()).into());
    let publish = Publish {
        dup: false,
        qos: QOS1,
        retain: false,
        topic: TopicName::parse("a").ok(),
        packet_id: PacketId::new(1),
        properties: PublishProperties::default(),
        payload: b"x",
    };
    bytes.extend(encode(V5, &Packet::Publish(publish)));
    net.send_bytes(new, &bytes);
    net.answer(new, Ok(app(1)));
    assert!(net.clients[old].closed.is_some());
    assert!(net.whats().iter().any(|what| matches!(what, What::TakenOver)));
    let got = net.got(new);
    assert!(matches!(got[..], [Got::ConnAck { session_present: false, .. }, Got::PubAck { .. }]), "{got:?}");
}
