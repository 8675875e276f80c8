//! Shared subscriptions: one member gets each message, on any number of shards.

mod support;

use drawbridge_mqtt::codec::{Ack, Packet, PacketId, Qos, ReasonCode};
use support::*;

const QOS0: Qos = Qos::AtMostOnce;
const QOS1: Qos = Qos::AtLeastOnce;
const QOS2: Qos = Qos::ExactlyOnce;

#[test]
fn members_take_turns_on_one_shard_and_on_several() {
    for shards in [1, 2, 3] {
        for (qos, durable) in [(QOS0, false), (QOS1, false), (QOS1, true), (QOS2, true)] {
            let mut net = if durable { Net::durable(shards) } else { Net::new(shards) };
            let members: Vec<usize> = (0..4)
                .map(|n| {
                    let shard = usize::try_from(n).expect("small") % shards;
                    let member = net.join(shard, V5, app(n));
                    assert!(matches!(net.subscribe(member, "$share/g/a/+", qos)[..], [Got::SubAck(_)]));
                    member
                })
                .collect();
            let outsider = net.join(shards - 1, V5, app(50));
            net.subscribe(outsider, "a/#", qos);
            let speaker = net.join(0, V5, app(99));
            for n in 0..12_u8 {
                net.publish(speaker, "a/b", &[n], qos);
            }
            assert_eq!(net.messages(outsider).len(), 12, "who does not share gets all");
            let mut got = Vec::new();
            for member in &members {
                let messages = net.messages(*member);
                assert_eq!(messages.len(), 3, "{shards} {qos:?}: each has its turn");
                got.extend(messages.into_iter().map(|message| message.payload[0]));
            }
            got.sort_unstable();
            assert_eq!(got, (0..12).collect::<Vec<u8>>(), "each message once");
        }
    }
}

#[test]
fn who_is_connected_comes_before_who_is_away_and_who_is_away_before_nobody() {
    for shards in [1, 2] {
        let mut net = Net::durable(shards);
        let (away, _) = net.rejoin(0, V5, app(1), 3_600);
        net.subscribe(away, "$share/g/a", QOS1);
        let present = net.join(shards - 1, V5, app(2));
        net.subscribe(present, "$share/g/a", QOS1);
        net.hang_up(away);
        let speaker = net.join(0, V5, app(3));
        for n in 0..4_u8 {
            net.publish(speaker, "a", &[n], QOS1);
        }
        assert_eq!(net.messages(present).len(), 4);
        net.hang_up(present);
        net.publish(speaker, "a", b"kept", QOS1);
        net.publish(speaker, "a", b"lost at QoS 0", QOS0);
        net.restart();
        let (back, present) = net.rejoin(0, V5, app(1), 3_600);
        assert!(present);
        let got = net.payloads(back);
        assert!(got.iter().any(|payload| payload == "kept") && got.last().is_some_and(|last| last == "kept"));
        // The subscription of the group is there after the restart.
        let speaker = net.join(0, V5, app(3));
        net.publish(speaker, "a", b"after", QOS1);
        assert_eq!(net.payloads(back), ["after"]);
    }
}

#[test]
fn what_a_member_had_not_answered_goes_to_another_when_it_is_gone_for_good() {
    for shards in [1, 2] {
        let mut net = Net::durable(shards);
        let first = net.join(0, V5, app(1));
        net.subscribe(first, "$share/g/a", QOS2);
        let speaker = net.join(0, V5, app(3));
        for n in 0..4_u8 {
            net.publish(speaker, "a", &[n], QOS1);
        }
        net.publish(speaker, "a", b"exactly once", QOS2);
        let got = net.messages(first);
        assert_eq!(got.len(), 5);
        net.acknowledge(first, got[0].id.expect("QoS 1"));
        let second = net.join(shards - 1, V5, app(2));
        net.subscribe(second, "$share/g/a", QOS2);
        net.hang_up(first);
        let mut payloads: Vec<Vec<u8>> = net.messages(second).into_iter().map(|m| m.payload).collect();
        payloads.sort();
        assert_eq!(payloads, [[1], [2], [3]], "not the answered one, and not what was sent at QoS 2");
    }
}

#[test]
fn what_waits_for_a_member_that_is_away_ends_with_it_and_is_counted() {
    for restarts in [false, true] {
        let mut net = Net::durable(1);
        let (member, _) = net.rejoin(0, V5, app(1), 60);
        net.subscribe(member, "$share/g/a", Qos::AtLeastOnce);
        net.hang_up(member);
        let speaker = net.join(0, V5, app(2));
        net.publish(speaker, "a", b"1", Qos::AtLeastOnce);
        if restarts {
            net.restart();
        }
        let other = net.join(0, V5, app(3));
        net.subscribe(other, "$share/g/a", Qos::AtLeastOnce);
        net.pass(std::time::Duration::from_secs(70));
        assert_eq!((net.payloads(other).len(), net.stats().discarded), (0, 1), "{restarts}");
    }
}

#[test]
fn who_leaves_a_group_gets_nothing_more_and_an_empty_group_is_forgotten() {
    for shards in [1, 2] {
        let mut net = Net::new(shards);
        let one = net.join(0, V5, app(1));
        let two = net.join(shards - 1, V5, app(2));
        for member in [one, two] {
            net.subscribe(member, "$share/g/a", QOS1);
        }
        net.unsubscribe(one, "$share/g/a");
        let speaker = net.join(0, V5, app(3));
        for _ in 0..3 {
            net.publish(speaker, "a", b"x", QOS1);
        }
        assert_eq!((net.messages(one).len(), net.messages(two).len()), (0, 3));
        net.hang_up(two);
        let left: usize = net.shards.iter().map(|shard| shard.stats().subscriptions).sum();
        assert_eq!(left, 0);
    }
}

#[test]
fn cve_jx8g_a_group_is_no_way_around_a_right() {
    let mut net = Net::new(1);
    let lamp = net.join(0, V5, device(2, "lamp"));
    let codes = |net: &mut Net, filter: &str| net.subscribe(lamp, filter, QOS1);
    assert_eq!(codes(&mut net, "$share/g/#"), [Got::SubAck(vec![ReasonCode::NotAuthorized])]);
    assert_eq!(
        codes(&mut net, "$share/g/devices/other/config"),
        [Got::SubAck(vec![ReasonCode::NotAuthorized])]
    );
    assert_eq!(codes(&mut net, "$share/g/devices/lamp/config"), [Got::SubAck(vec![ReasonCode::GrantedQos1])]);
    for malformed in ["$share/g", "$share//a", "$share/g+/a", "$share", "$share/g/"] {
        let got = codes(&mut net, malformed);
        assert!(
            matches!(&got[..], [Got::SubAck(codes)] if codes[0].is_error())
                || matches!(got[..], [Got::Disconnect { .. }]),
            "{malformed}: {got:?}"
        );
    }
}

#[test]
fn a_retained_message_is_not_told_to_a_group() {
    let mut net = Net::new(1);
    let speaker = net.join(0, V5, app(1));
    net.retain(speaker, "a", b"kept");
    let member = net.join(0, V5, app(2));
    assert_eq!(net.subscribe(member, "$share/g/a", QOS1).len(), 1, "SUBACK alone");
}

#[test]
fn a_member_that_may_not_have_a_message_is_passed_over() {
    for shards in [1, 2, 3] {
        for (place, other) in [(0, shards - 1), (shards - 1, 0)] {
            let mut net = Net::durable(shards);
            let mut narrow = app(1);
            let policy = "[[allow]]\nsubscribe = [\"a/#\"]\n[[deny]]\nsubscribe = [\"a/secret\"]\n";
            narrow.rights = compiled(policy, "x");
            let (narrow, _) = net.rejoin(place, V5, narrow, 60);
            let (wide, _) = net.rejoin(other, V5, app(2), 60);
            for member in [narrow, wide] {
                let got = net.subscribe(member, "$share/g/a/#", QOS1);
                assert_eq!(got, [Got::SubAck(vec![ReasonCode::GrantedQos1])]);
            }
            let speaker = net.join(0, V5, app(3));
            for _ in 0..4 {
                net.publish(speaker, "a/secret", b"x", QOS1);
            }
            let got = net.messages(wide);
            assert_eq!((net.messages(narrow).len(), got.len()), (0, 4), "{shards} {place}");
            got.iter().for_each(|message| net.acknowledge(wide, message.id.expect("QoS 1")));
            assert!(net.disk.image().references.is_empty(), "nobody is owed anything");
        }
    }
}

#[test]
fn a_member_answers_at_qos_2_through_its_group() {
    let mut net = Net::durable(1);
    let (member, _) = net.rejoin(0, V5, app(1), 3_600);
    net.subscribe(member, "$share/g/a", QOS2);
    let speaker = net.join(0, V5, app(2));
    net.publish(speaker, "a", b"x", QOS2);
    let id = net.messages(member)[0].id.and_then(PacketId::new).expect("QoS 2");
    net.send(member, &Packet::PubRec(Ack::success(id)));
    assert_eq!(net.got(member), [Got::PubRel(id.get(), ReasonCode::Success)]);
    net.send(member, &Packet::PubComp(Ack::success(id)));
    assert!(net.disk.image().references.is_empty());
}
