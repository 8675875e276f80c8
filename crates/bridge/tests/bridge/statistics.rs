//! `$SYS` and the numbers, over real sockets and two shards.

use std::time::Duration;

use drawbridge_admission::Actor;
use drawbridge_names::PolicyName;

use crate::client::{Level, publish};
use crate::rig::{Rig, registry, rig};

fn rig_whose_guests_name_sys(every: Duration) -> Rig {
    let rig = rig(|config| {
        config.shards = 2;
        config.statistics_interval = every;
    });
    let policy = PolicyName::parse("everything").expect("a name");
    let source = "[[allow]]\npublish = [\"#\"]\nsubscribe = [\"#\", \"$SYS/#\"]\n";
    let registry = registry();
    let set = rig.admission.set_policy(&registry, &policy, source, &Actor::Admin);
    rig.runtime.block_on(set).expect("a policy");
    rig
}

#[test]
fn who_names_sys_hears_the_sum_of_all_shards_again_and_again_and_who_does_not_hears_nothing() {
    let rig = rig_whose_guests_name_sys(Duration::from_millis(100));
    let mut wide = rig.guest("wide", Level::V311);
    wide.subscribe("#", 0);
    let mut readers: Vec<_> = (0..4)
        .map(|n| rig.guest(&format!("reader-{n}"), if n % 2 == 0 { Level::V311 } else { Level::V5 }))
        .collect();
    for reader in &mut readers {
        reader.subscribe("$SYS/broker/clients/connected", 1);
    }
    for reader in &mut readers {
        // What it hears first may be older than the last of them.
        let heard = (0..1_000).map(|_| reader.message()).find(|(_, count)| count == b"5");
        assert_eq!(heard.map(|(topic, _)| topic).as_deref(), Some("$SYS/broker/clients/connected"));
    }
    let mut speaker = rig.guest("speaker", Level::V311);
    speaker.send(&publish(Level::V311, "a", 1, b"x"));
    assert_eq!(speaker.packet().expect("PUBACK").0, 0x40);
    assert_eq!(wide.message(), ("a".to_owned(), b"x".to_vec()), "and nothing before it");
    // MQTT 3.1.1 has no other word for a publish that is denied.
    speaker.send(&publish(Level::V311, "$SYS/broker/clients/connected", 2, b"999"));
    let _ = speaker.until_end();
    assert_eq!(rig.refused("mqtt-publish-denied"), 1);
    for reader in &mut readers {
        assert_ne!(reader.message().1, b"999");
    }
}

#[test]
fn the_numbers_that_are_waited_for_are_those_of_now() {
    let rig = rig(|config| config.shards = 2);
    let mut guests: Vec<_> = (0..6).map(|n| rig.guest(&format!("guest-{n}"), Level::V5)).collect();
    for guest in &mut guests {
        guest.subscribe("a", 1);
    }
    guests[0].send(&publish(Level::V5, "a", 1, b"x"));
    for guest in &mut guests[1..] {
        assert_eq!(guest.message().1, b"x");
    }
    let stats = rig.runtime.block_on(rig.handle.stats_now());
    let sum = |of: fn(&drawbridge_broker::Stats) -> u64| stats.shards.iter().map(of).sum::<u64>();
    assert_eq!(sum(|shard| shard.sessions as u64), 6);
    assert_eq!(sum(|shard| shard.subscriptions as u64), 6);
    assert_eq!((sum(|shard| shard.received_by_qos[1]), sum(|shard| shard.received)), (1, 1));
    assert_eq!((stats.logins, stats.handshakes_waiting), (0, 0));
    assert!(stats.logins_max > 0);
}
