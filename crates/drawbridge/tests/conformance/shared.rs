//! Shared subscriptions (5.0; 3.1.1 has the same filters here).

use std::time::Duration;

use crate::bytes::{
    Connect, Message, Publish, RECEIVE_MAXIMUM, SHARED_AVAILABLE, SUBSCRIPTION_IDENTIFIER, Said, Version,
    ack_with, p16, unsubscribe,
};
use crate::client::Client;
use crate::world::{Case, Via, World, every, every_v5, name};

/// Members of one group over `topic`, one after the other.
fn members(world: &World, case: Case, topic: &str, qos: &[u8]) -> Vec<Client> {
    let filter = format!("$share/{}/{topic}", name("g"));
    let join = |qos: &u8| {
        let mut client = Client::new(world, case);
        client.subscribe(&filter, *qos);
        client
    };
    qos.iter().map(join).collect()
}

/// What each member has got of all that `sender` has published, acknowledged.
fn gathered(members: &mut [Client], sender: &mut Client) -> Vec<Vec<Message>> {
    members.iter_mut().map(|member| member.all_of(sender)).collect()
}

/// The member that the next message comes to, and the message, not acknowledged.
fn whose(members: &mut [Client]) -> (usize, Message) {
    crate::harness::wait_for("message for a member", Duration::from_secs(5), || {
        members.iter_mut().enumerate().find_map(|(at, member)| Some((at, member.ping().pop()?)))
    })
}

#[test]
fn each_message_goes_to_one_member_of_each_group_and_to_every_other_subscriber() {
    every(|world, case| {
        let topic = name("t");
        let mut one = members(world, case, &topic, &[1, 1, 1]);
        let mut two = members(world, case, &topic, &[1, 1]);
        let mut alone = Client::new(world, case);
        alone.subscribe(&topic, 1);
        let mut sender = Client::new(world, case);
        for n in 0..30 {
            sender.publish(&Publish::new(&topic, n.to_string()).qos(1, 0));
        }
        for n in 0..30 {
            assert_eq!(alone.taken().text(), n.to_string());
        }
        for group in [&mut one, &mut two] {
            let found = gathered(group, &mut sender);
            let mut all: Vec<u32> =
                found.iter().flatten().map(|m| m.text().parse().expect("a number")).collect();
            all.sort_unstable();
            assert_eq!(all, (0..30).collect::<Vec<_>>(), "each once");
            assert!(found.iter().all(|member| !member.is_empty()), "all members have work");
        }
    });
}

#[test]
fn a_shared_filter_that_is_malformed_is_refused() {
    every(|world, case| {
        let mut client = Client::new(world, case);
        let wanted = if case.is_v5() { 0x8f } else { 0x80 };
        for filter in [
            "$share/",
            "$share//a",
            "$share/g",
            "$share/g/",
            "$share/g+/a",
            "$share/#/a",
            "$share/+/a",
            "$share/g/a/#/b",
        ] {
            assert_eq!(client.try_subscribe(filter, 0), wanted, "{filter}");
        }
        // The right to the inner filter is asked.
        assert_eq!(client.try_subscribe("$share/g/$other/x", 0), if case.is_v5() { 0x87 } else { 0x80 });
    });
}

#[test]
fn the_qos_granted_to_the_member_is_respected() {
    every(|world, case| {
        for granted in 0..=2 {
            let topic = name("t");
            let mut group = members(world, case, &topic, &[granted]);
            Client::new(world, case).publish(&Publish::new(&topic, "x").qos(2, 0));
            assert_eq!(group[0].taken().qos, granted);
        }
    });
}

#[test]
fn a_shared_subscription_is_told_no_retained_messages() {
    every(|world, case| {
        let topic = name("t");
        Client::new(world, case).publish(&Publish::new(&topic, "kept").qos(1, 0).retain());
        let mut group = members(world, case, &topic, &[1]);
        assert_eq!(group[0].ping(), []);
    });
}

#[test]
fn a_group_of_one_works_on_after_the_others_have_left_or_unsubscribed() {
    every(|world, case| {
        let topic = name("t");
        let filter = format!("$share/{}/{topic}", name("g"));
        let mut group: Vec<Client> = (0..3).map(|_| Client::new(world, case)).collect();
        for member in &mut group {
            member.subscribe(&filter, 1);
        }
        group.remove(0).leave();
        group[0].send(&unsubscribe(case.version, 0x101, &[&filter]));
        assert!(matches!(group[0].next(), Some(Said::UnsubAck { .. })));
        let mut sender = Client::new(world, case);
        for n in 0..5 {
            sender.publish(&Publish::new(&topic, n.to_string()).qos(1, 0));
            assert_eq!(group[1].taken().text(), n.to_string());
        }
        assert_eq!(group[0].ping(), []);
    });
}

#[test]
fn a_refusal_by_the_member_discards_the_message_for_the_whole_group() {
    every_v5(|world, case| {
        for (qos, first_byte) in [(1, 0x40), (2, 0x50)] {
            let topic = name("t");
            let mut group = members(world, case, &topic, &[2, 2]);
            let mut sender = Client::new(world, case);
            sender.publish(&Publish::new(&topic, "x").qos(qos, 0));
            let (at, message) = whose(&mut group);
            group[at].send(&ack_with(first_byte, message.id, 0x83));
            assert_eq!(gathered(&mut group, &mut sender), [vec![], vec![]]);
        }
    });
}

#[test]
fn a_qos_2_message_that_was_begun_is_finished_with_its_member_alone() {
    every_v5(|world, case| {
        let topic = name("t");
        let filter = format!("$share/{}/{topic}", name("g"));
        let kept = Connect::kept(&name("c"), Version::V5, 600);
        let (mut first, _) = Client::join(world, case, &kept);
        first.subscribe(&filter, 2);
        let mut sender = Client::new(world, case);
        sender.publish(&Publish::new(&topic, "x").qos(2, 0));
        let before = first.message();
        let mut second = Client::new(world, case);
        second.subscribe(&filter, 2);
        first.vanish();
        assert_eq!(second.ping(), [], "not while the session of the first lives");
        let (mut first, present) = Client::join(world, case, &kept);
        assert!(present);
        let message = first.taken();
        assert_eq!((message.id, message.dup, message.text()), (before.id, true, "x"));
        // A session that ends before it is back takes its message with it.
        sender.publish(&Publish::new(&topic, "y").qos(2, 0));
        let mut group = [first, second];
        let (at, message) = whose(&mut group);
        let [first, mut second] = group;
        assert_eq!(message.text(), "y");
        if at == 0 {
            first.vanish();
            let (gone, present) = Client::join(world, case, &Connect { clean: true, ..kept });
            assert!(!present);
            drop(gone);
            assert_eq!(second.all_of(&mut sender), []);
        }
    });
}

#[test]
fn a_group_passes_by_a_member_whose_window_is_full() {
    every_v5(|world, case| {
        let topic = name("t");
        let filter = format!("$share/{}/{topic}", name("g"));
        let narrow = Connect::clean(&name("c")).with(p16(RECEIVE_MAXIMUM, 1));
        let (mut slow, _) = Client::join(world, case, &narrow);
        slow.subscribe(&filter, 1);
        let mut quick = Client::new(world, case);
        quick.subscribe(&filter, 1);
        let mut sender = Client::new(world, case);
        for n in 0..10 {
            sender.publish(&Publish::new(&topic, n.to_string()).qos(1, 0));
        }
        assert!(!quick.all_of(&mut sender).is_empty());
        assert!(slow.ping().len() <= 1, "its Receive Maximum holds");
    });
}

#[test]
fn a_shared_subscription_beside_a_plain_one_is_another_subscription() {
    every_v5(|world, case| {
        let topic = name("t");
        let filter = format!("$share/{}/{topic}", name("g"));
        let mut client = Client::new(world, case);
        assert_eq!(client.try_subscribe_with(&topic, 1, &[SUBSCRIPTION_IDENTIFIER, 1]), 1);
        assert_eq!(client.try_subscribe_with(&filter, 1, &[SUBSCRIPTION_IDENTIFIER, 2]), 1);
        client.publish(&Publish::new(&topic, "x").qos(1, 0));
        let mut identifiers: Vec<u32> =
            (0..2).flat_map(|_| client.taken().properties.numbers(SUBSCRIPTION_IDENTIFIER)).collect();
        identifiers.sort_unstable();
        assert_eq!(identifiers, [1, 2], "both have it");
        // Unsubscribing says the whole filter.
        client.send(&unsubscribe(case.version, 0x101, &[&topic]));
        assert!(matches!(client.next(), Some(Said::UnsubAck { .. })));
        client.publish(&Publish::new(&topic, "y").qos(1, 0));
        assert_eq!(client.taken().properties.numbers(SUBSCRIPTION_IDENTIFIER), [2]);
    });
}

#[test]
fn connack_says_that_sharing_is_served() {
    every_v5(|world, case| {
        let (_, _, code, properties) = Client::ask(world, case, &Connect::clean(&name("c")));
        assert_eq!(code, 0);
        assert_ne!(properties.number(SHARED_AVAILABLE), Some(0));
    });
}

#[test]
fn ghsa_jx8g_9g95_6322_a_shared_subscription_passes_the_same_deny_as_a_plain_one() {
    every(|world, case| {
        if case.via != Via::Tls {
            return; // who it is stands in a JWT, which needs TLS; once is enough
        }
        let (topic, group) = (name("t"), name("g"));
        let policy =
            format!("[[allow]]\nsubscribe = [\"#\"]\n[[deny]]\nsubscribe = [\"{topic}/secret/#\"]\n");
        let jwt = world.application(&name("app"), &policy);
        let (mut member, _) = Client::join_as(world, case, &jwt, &Connect::clean(&name("c")));
        assert!(member.try_subscribe(&format!("$share/{group}/{topic}/secret/a"), 1) >= 0x80);
        member.subscribe(&format!("$share/{group}/{topic}/#"), 1);
        let mut sender = Client::new(world, case);
        sender.publish(&Publish::new(&format!("{topic}/secret/a"), "denied").qos(1, 0));
        sender.publish(&Publish::new(&format!("{topic}/open"), "open").qos(1, 0));
        assert_eq!(member.taken().text(), "open");
        assert_eq!(member.ping(), []);
    });
}
