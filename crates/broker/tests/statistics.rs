//! `$SYS`: who hears the numbers of a registry, and who does not.

mod support;

use std::sync::Arc;
use std::time::Duration;

use drawbridge_broker::storage::Record;
use drawbridge_broker::{Admitted, Figures, RegistryStats};
use drawbridge_mqtt::codec::{Qos, ReasonCode, RetainHandling, SubscribeEntry};
use drawbridge_names::RegistryName;
use support::*;

const QOS0: Qos = Qos::AtMostOnce;
const QOS1: Qos = Qos::AtLeastOnce;
const TOPICS: usize = 16;

/// An application whose policy names `$SYS`.
fn reader(uid: u64) -> Admitted {
    Admitted { rights: rights(&["#"], &["#", "$SYS/#"]), ..app(uid) }
}

fn default() -> RegistryName {
    RegistryName::default_registry()
}

/// What a driver does: asks every shard, adds up, tells every shard. Whether anybody heard it.
fn round(net: &mut Net, registry: &RegistryName) -> bool {
    let mut sum = RegistryStats::default();
    for shard in &net.shards {
        let all = shard.registry_stats();
        all.into_iter().filter(|(name, _)| name == registry).for_each(|(_, stats)| sum += stats);
    }
    let figures = Arc::new(Figures::of(&sum, "1.2.3", Duration::from_secs(61)));
    let mut is_heard = false;
    for shard in 0..net.shards.len() {
        net.run(shard, |shard, now, fx| is_heard |= shard.tell_statistics(now, registry, &figures, fx));
    }
    is_heard
}

fn said(messages: &[Message], topic: &str) -> String {
    let found: Vec<_> = messages.iter().filter(|message| message.topic == topic).collect();
    assert_eq!(found.len(), 1, "{topic} once: {messages:?}");
    String::from_utf8(found[0].payload.clone()).expect("text")
}

#[test]
fn a_wide_subscription_hears_nothing_and_one_that_names_sys_hears_all_in_both_versions() {
    for shards in [1, 2] {
        let mut net = Net::new(shards);
        let wide = net.join(0, V5, reader(1));
        net.subscribe(wide, "#", QOS1);
        net.subscribe(wide, "+/broker/#", QOS1);
        let denied = net.join(0, V5, app(2));
        let refused = net.subscribe(denied, "$SYS/#", QOS1);
        assert!(matches!(&refused[..], [Got::SubAck(codes)] if codes[..] == [ReasonCode::NotAuthorized]));
        assert!(!round(&mut net, &default()), "nobody listens");
        for (n, version) in [V311, V5].into_iter().enumerate() {
            let reader = net.join(shards - 1, version, reader(10 + n as u64));
            net.subscribe(reader, "$SYS/#", QOS1);
            net.got(reader);
            let speaker = net.join(0, V5, app(20 + n as u64));
            net.publish(speaker, "a", b"x", QOS0);
            assert!(round(&mut net, &default()));
            let heard = net.messages(reader);
            assert_eq!(heard.len(), TOPICS, "{heard:?}");
            assert!(heard.iter().all(|m| m.qos == 0 && !m.retain), "{heard:?}");
            assert_eq!(said(&heard, "$SYS/broker/version"), "drawbridge 1.2.3");
            assert_eq!(said(&heard, "$SYS/broker/uptime"), "61 seconds");
            let connected = 4 + 2 * n;
            assert_eq!(said(&heard, "$SYS/broker/clients/connected"), connected.to_string());
            assert_eq!(said(&heard, "$SYS/broker/messages/received"), (n + 1).to_string());
        }
        let topics = net.topics(wide);
        assert_eq!(topics, ["a", "a"], "shards {shards}");
        assert_eq!(net.messages(denied), []);
    }
}

#[test]
fn who_subscribes_hears_what_is_known_at_once_if_its_policy_allows_it() {
    let mut net = Net::new(1);
    let first = net.join(0, V5, reader(1));
    net.subscribe(first, "$SYS/broker/uptime", QOS0);
    assert!(net.shards[0].take_statistics_wanted() && !net.shards[0].take_statistics_wanted());
    round(&mut net, &default());
    assert_eq!(net.payloads(first), ["61 seconds"]);

    let second = net.join(0, V311, reader(2));
    let got = net.subscribe(second, "$SYS/broker/+", QOS1);
    let told = got.iter().filter_map(|got| match got {
        Got::Message(message) => Some((message.topic.as_str(), message.retain, message.qos)),
        _ => None,
    });
    let told: Vec<_> = told.collect();
    assert_eq!(told, [("$SYS/broker/version", true, 0), ("$SYS/broker/uptime", true, 0)], "{got:?}");
    assert!(net.shards[0].take_statistics_wanted());

    let denying = "[[allow]]\nsubscribe = [\"$SYS/#\"]\n[[deny]]\nsubscribe = [\"$SYS/broker/version\"]\n";
    let third = net.join(0, V5, Admitted { rights: compiled(denying, "test"), ..app(3) });
    let told: Vec<_> = net.subscribe(third, "$SYS/broker/+", QOS1);
    assert!(matches!(&told[..], [_, _]), "the SUBACK, and one of two: {told:?}");
    let fourth = net.join(0, V5, reader(4));
    let never = SubscribeEntry {
        retain_handling: RetainHandling::DoNotSend,
        ..SubscribeEntry::of("$SYS/broker/+", QOS1)
    };
    assert!(matches!(&net.subscribe_as(fourth, never, None)[..], [Got::SubAck(_)]));
}

#[test]
fn nobody_publishes_there_and_nothing_of_it_is_kept() {
    let mut net = Net::durable(1);
    let (away, _) = net.rejoin(0, V5, reader(1), 3_600);
    net.subscribe(away, "$SYS/#", QOS1);
    net.hang_up(away);
    let before = net.disk.batches.len();
    assert!(round(&mut net, &default()), "it has subscribed");
    let mut records = net.disk.batches[before..].iter().flat_map(|(_, batch)| &batch.records);
    assert!(!records.any(|record| matches!(record, Record::Message { .. })));
    let stats = net.stats();
    assert_eq!((stats.retained, stats.queued, stats.waiting), (0, 0, 0));
    let (back, present) = net.rejoin(0, V5, reader(1), 3_600);
    assert!(present);
    assert_eq!(net.messages(back), [], "nothing has waited");

    let all = Admitted { rights: rights(&["#", "+/#"], &["#"]), ..app(2) };
    let speaker = net.join(0, V5, all);
    for topic in ["$SYS", "$SYS/broker/version", "$SYS/x"] {
        net.publish(speaker, topic, b"lie", QOS1);
        let got = net.got(speaker);
        assert!(matches!(&got[..], [Got::PubAck { reason: ReasonCode::NotAuthorized, .. }]), "{got:?}");
    }
    assert_eq!(net.messages(back), []);
}

#[test]
fn one_registry_hears_nothing_of_another() {
    let plant = RegistryName::parse("plant").expect("a name");
    for shards in [1, 2] {
        let mut net = Net::new(shards);
        let here = net.join(0, V5, reader(1));
        net.subscribe(here, "$SYS/#", QOS1);
        let there = net.join(shards - 1, V5, Admitted { registry: plant.clone(), ..reader(2) });
        net.subscribe(there, "$SYS/#", QOS1);
        for n in 0..3 {
            let speaker = net.join(0, V5, app(10 + n));
            net.publish(speaker, "a", b"x", QOS0);
        }
        assert!(round(&mut net, &default()));
        assert_eq!((net.messages(here).len(), net.messages(there).len()), (TOPICS, 0));
        assert!(round(&mut net, &plant));
        assert_eq!(net.messages(here), []);
        let heard = net.messages(there);
        assert_eq!(said(&heard, "$SYS/broker/clients/connected"), "1", "of 5");
        assert_eq!(said(&heard, "$SYS/broker/messages/received"), "0", "of 3");
    }
}

#[test]
fn a_shared_subscription_gives_each_number_to_one_member_and_who_leaves_ends_it() {
    for shards in [1, 2] {
        let mut net = Net::new(shards);
        let members: Vec<_> = (0..2).map(|n| net.join(n % shards, V5, reader(1 + n as u64))).collect();
        for member in &members {
            net.subscribe(*member, "$share/g/$SYS/#", QOS1);
        }
        let mut wanted = false;
        net.shards.iter_mut().for_each(|shard| wanted |= shard.take_statistics_wanted());
        assert!(wanted);
        assert!(round(&mut net, &default()));
        let counts: Vec<_> = members.iter().map(|member| net.messages(*member).len()).collect();
        assert_eq!(counts.iter().sum::<usize>(), TOPICS, "{counts:?}");
        for member in &members {
            net.unsubscribe(*member, "$share/g/$SYS/#");
        }
        assert!(!round(&mut net, &default()));
    }
}

#[test]
fn what_waited_for_a_session_that_ends_counts_as_dropped_and_what_a_group_takes_over_does_not() {
    let mut net = Net::durable(1);
    let (away, _) = net.rejoin(0, V5, app(1), 60);
    for filter in ["a", "$share/g/b"] {
        net.subscribe(away, filter, QOS1);
    }
    net.hang_up(away);
    // Takes one at a time.
    let member = net.connect_with(0, V5, app(3), |connect| {
        connect.properties.receive_maximum = std::num::NonZeroU16::new(1)
    });
    net.expect_welcome(member);
    net.subscribe(member, "$share/g/c", QOS1);
    let speaker = net.join(0, V5, app(2));
    for (topic, count) in [("a", 3), ("b", 2), ("c", 4)] {
        for n in 0..count {
            net.publish(speaker, topic, &[n], QOS1);
        }
    }
    assert_eq!((net.stats().queued, net.stats().discarded), (8, 0));
    let other = net.join(0, V5, app(4));
    net.subscribe(other, "$share/g/c", QOS1);
    net.hang_up(member);
    assert_eq!((net.messages(other).len(), net.stats().discarded), (4, 0), "the group takes them over");
    net.pass(Duration::from_secs(61));
    let stats = net.stats();
    // Of the session that was away nothing was in memory any more.
    assert_eq!((stats.sessions_expired, stats.queued, stats.discarded), (1, 0, 5));
    assert_eq!(stats.received_by_qos, [0, 9, 0]);
    let (_, of_default) = net.shards[0].registry_stats().swap_remove(0);
    assert_eq!((of_default.dropped, of_default.received), (5, 9));
}
