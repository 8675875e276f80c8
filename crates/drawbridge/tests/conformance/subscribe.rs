//! SUBSCRIBE and UNSUBSCRIBE: answers, options, replacement, overlaps.

use crate::bytes::{
    Connect, Message, Publish, RECEIVE_MAXIMUM, SUBSCRIPTION_IDENTIFIER, Said, ack, p16, subscribe,
    unsubscribe,
};
use crate::client::Client;
use crate::world::{Case, World, every, every_v5, name};

/// Bits of the options of a subscription (5.0).
const NO_LOCAL: u8 = 0x04;
const AS_PUBLISHED: u8 = 0x08;
const RETAIN_IF_NEW: u8 = 0x10;
const RETAIN_NEVER: u8 = 0x20;

/// What is retained on `topic`, put there by another client.
fn retain(world: &World, case: Case, topic: &str, text: &str) {
    let mut sender = Client::new(world, case);
    sender.publish(&Publish::new(topic, text).qos(1, 0).retain());
    sender.settle(world, case);
}

fn texts(messages: &[Message]) -> Vec<&str> {
    messages.iter().map(Message::text).collect()
}

#[test]
fn suback_has_the_identifier_and_one_code_for_each_filter_in_their_order() {
    every(|world, case| {
        let mut client = Client::new(world, case);
        let refused = if case.is_v5() { [0x8f, 0x87] } else { [0x80, 0x80] };
        let entries = [
            ("a/b", 1),
            ("a/#/b", 1),
            ("a/+", 0),
            ("$other/x", 1),
            ("a/b+", 0),
            ("#a", 0),
            ("", 0),
            ("/", 1),
        ];
        client.send(&subscribe(case.version, 0xfffe, &[], &entries));
        match client.next() {
            Some(Said::SubAck { id, codes, .. }) => {
                assert_eq!(id, 0xfffe);
                let [malformed, denied] = refused;
                assert_eq!(codes, [1, malformed, 0, denied, malformed, malformed, malformed, 1]);
            }
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn several_filters_in_one_subscribe_are_as_good_as_one_each() {
    every(|world, case| {
        let (one, two) = (name("t"), name("t"));
        let mut client = Client::new(world, case);
        // The last of the same filter counts, as if they had come one after the other.
        client.send(&subscribe(case.version, 1, &[], &[(&one, 0), (&two, 1), (&one, 1)]));
        match client.next() {
            Some(Said::SubAck { id: 1, codes, .. }) => assert_eq!(codes, [0, 1, 1]),
            other => panic!("{other:?}"),
        }
        for topic in [&one, &two] {
            client.publish(&Publish::new(topic, "x").qos(1, 0));
            assert_eq!(client.taken().qos, 1, "{topic}");
        }
        assert_eq!(client.ping(), [], "once each");
        client.send(&unsubscribe(case.version, 2, &[&one, &two, "never"]));
        match client.next() {
            Some(Said::UnsubAck { id: 2, codes, .. }) if case.is_v5() => assert_eq!(codes, [0, 0, 0x11]),
            Some(Said::UnsubAck { id: 2, codes, .. }) => assert!(codes.is_empty()),
            other => panic!("{other:?}"),
        }
        client.publish(&Publish::new(&one, "x"));
        client.publish(&Publish::new(&two, "x"));
        assert_eq!(client.ping(), []);
    });
}

#[test]
fn a_filter_said_again_replaces_its_subscription_and_retained_messages_come_again() {
    every(|world, case| {
        let topic = name("t");
        retain(world, case, &topic, "kept");
        let mut client = Client::new(world, case);
        for qos in [0, 1, 0] {
            client.subscribe(&topic, qos);
            let message = client.taken();
            assert_eq!((message.text(), message.retain, message.qos), ("kept", true, qos));
            client.publish(&Publish::new(&topic, "live").qos(1, 0));
            let message = client.taken();
            assert_eq!((message.text(), message.retain, message.qos), ("live", false, qos));
            assert_eq!(client.ping(), [], "one subscription, not two");
        }
        // A message under way while the subscription is replaced is not lost.
        let mut sender = Client::new(world, case);
        client.subscribe(&topic, 1);
        assert_eq!(client.taken().text(), "kept");
        for n in 0..50 {
            sender.publish(&Publish::new(&topic, n.to_string()).qos(1, 0));
            let id = client.fresh_id();
            client.send(&subscribe(case.version, id, &[], &[(&topic, 1)]));
        }
        let mut live = Vec::new();
        while live.len() < 50 {
            let message = match client.next() {
                Some(Said::Publish(message)) => message,
                Some(Said::SubAck { .. }) => continue,
                other => panic!("{other:?}"),
            };
            client.send(&ack(0x40, message.id));
            if !message.retain {
                live.push(message.text().to_owned());
            }
        }
        assert_eq!(live, (0..50).map(|n| n.to_string()).collect::<Vec<_>>());
    });
}

#[test]
fn retain_handling_says_when_retained_messages_come() {
    every_v5(|world, case| {
        let topic = name("t");
        retain(world, case, &topic, "kept");
        // (handling, what comes at the first subscribe, at the second)
        for (handling, first, second) in [(0, 1, 1), (RETAIN_IF_NEW, 1, 0), (RETAIN_NEVER, 0, 0)] {
            let mut client = Client::new(world, case);
            for wanted in [first, second] {
                client.subscribe(&topic, 1 | handling);
                let found = client.ping();
                assert_eq!(found.len(), wanted, "{handling:#04x}: {found:?}");
                for message in found {
                    assert!(message.retain);
                    client.send(&ack(0x40, message.id));
                }
            }
            // Ended and made anew it is new again.
            client.send(&unsubscribe(case.version, 0x100, &[&topic]));
            assert!(matches!(client.next(), Some(Said::UnsubAck { .. })));
            client.subscribe(&topic, 1 | handling);
            assert_eq!(client.ping().len(), first, "{handling:#04x} made anew");
        }
    });
}

#[test]
fn retain_as_published_keeps_the_flag_and_its_absence_clears_it() {
    every_v5(|world, case| {
        for (options, kept) in [(0, false), (AS_PUBLISHED, true)] {
            let topic = name("t");
            let mut client = Client::new(world, case);
            client.subscribe(&topic, 1 | options);
            for retain in [false, true] {
                let mut publish = Publish::new(&topic, "x").qos(1, 0);
                publish.retain = retain;
                client.publish(&publish);
                assert_eq!(client.taken().retain, retain && kept, "{options:#04x} {retain}");
            }
        }
    });
}

#[test]
fn no_local_keeps_a_message_from_the_client_that_sent_it_and_from_no_other() {
    every_v5(|world, case| {
        let topic = name("t");
        let (mut own, mut other) = (Client::new(world, case), Client::new(world, case));
        own.subscribe(&topic, 1 | NO_LOCAL);
        other.subscribe(&topic, 1 | NO_LOCAL);
        own.publish(&Publish::new(&topic, "mine").qos(1, 0));
        assert_eq!(other.taken().text(), "mine");
        other.publish(&Publish::new(&topic, "theirs").qos(1, 0));
        assert_eq!(own.taken().text(), "theirs");
        assert_eq!(own.ping(), []);
        // Without the option one hears oneself.
        own.subscribe(&topic, 1);
        own.publish(&Publish::new(&topic, "echo").qos(1, 0));
        assert_eq!(own.taken().text(), "echo");
    });
}

#[test]
fn overlapping_subscriptions_give_one_copy_at_the_highest_qos_with_every_identifier() {
    every(|world, case| {
        let p = name("p");
        let topic = format!("{p}/a");
        let mut client = Client::new(world, case);
        let filters = [
            (topic.clone(), 0, 1_u8),
            (format!("{p}/+"), 1, 2),
            (format!("{p}/#"), 0, 3),
            (format!("{p}/a/#"), 0, 0),
        ];
        for (filter, qos, identifier) in &filters {
            let property = if *identifier > 0 && case.is_v5() {
                vec![SUBSCRIPTION_IDENTIFIER, *identifier]
            } else {
                vec![]
            };
            assert_eq!(client.try_subscribe_with(filter, *qos, &property), *qos);
        }
        for published in [0, 1] {
            client.publish(&Publish::new(&topic, "x").qos(published, 0));
            let message = client.taken();
            assert_eq!(message.qos, published.min(1), "the maximum of all that match");
            if case.is_v5() {
                assert_eq!(message.properties.numbers(SUBSCRIPTION_IDENTIFIER), [1, 2, 3]);
            }
            assert_eq!(client.ping(), [], "one copy");
        }
    });
}

#[test]
fn a_subscription_identifier_comes_with_retained_messages_and_goes_with_its_replacement() {
    every_v5(|world, case| {
        let topic = name("t");
        retain(world, case, &topic, "kept");
        let mut client = Client::new(world, case);
        let greatest = [&[SUBSCRIPTION_IDENTIFIER][..], &[0xff, 0xff, 0xff, 0x7f]].concat();
        for (property, wanted) in
            [(vec![SUBSCRIPTION_IDENTIFIER, 5], vec![5]), (greatest, vec![268_435_455]), (vec![], vec![])]
        {
            assert_eq!(client.try_subscribe_with(&topic, 1, &property), 1);
            assert_eq!(client.taken().properties.numbers(SUBSCRIPTION_IDENTIFIER), wanted, "retained");
            client.publish(&Publish::new(&topic, "live").qos(1, 0));
            assert_eq!(client.taken().properties.numbers(SUBSCRIPTION_IDENTIFIER), wanted, "live");
        }
    });
}

#[test]
fn unsubscribe_ends_exactly_the_filter_it_says_and_is_answered_always() {
    every(|world, case| {
        let p = name("p");
        let (plus, hash, topic) = (format!("{p}/+"), format!("{p}/#"), format!("{p}/a"));
        let mut client = Client::new(world, case);
        client.subscribe(&plus, 1);
        client.subscribe(&hash, 1);
        // Filters that match, but are not those: compared character by character.
        for filter in [&topic, &format!("{p}/+/"), &plus.to_uppercase(), "#", "+/+"] {
            client.send(&unsubscribe(case.version, 0x101, &[filter]));
            match client.next() {
                Some(Said::UnsubAck { id: 0x101, codes, .. }) => {
                    assert_eq!(codes, if case.is_v5() { vec![0x11] } else { vec![] }, "{filter}");
                }
                other => panic!("{other:?}"),
            }
        }
        client.publish(&Publish::new(&topic, "both"));
        assert_eq!(client.message().text(), "both");
        for (filter, left) in [(&plus, 1), (&hash, 0)] {
            client.send(&unsubscribe(case.version, 0x102, &[filter]));
            match client.next() {
                Some(Said::UnsubAck { id: 0x102, codes, .. }) => {
                    assert_eq!(codes, if case.is_v5() { vec![0] } else { vec![] });
                }
                other => panic!("{other:?}"),
            }
            client.publish(&Publish::new(&topic, "x"));
            assert_eq!(texts(&client.ping()).len(), left, "after {filter}");
        }
    });
}

#[test]
fn what_was_sent_before_an_unsubscribe_is_brought_to_its_end() {
    every(|world, case| {
        let topic = name("t");
        let connect = Connect::clean(&name("c")).with(p16(RECEIVE_MAXIMUM, 5));
        let (mut client, _) = Client::join(world, case, &connect);
        client.subscribe(&topic, 1);
        let mut sender = Client::new(world, case);
        sender.publish(&Publish::new(&topic, "under way").qos(1, 0));
        let message = client.message();
        client.send(&unsubscribe(case.version, 0x101, &[&topic]));
        assert!(matches!(client.next(), Some(Said::UnsubAck { .. })));
        sender.publish(&Publish::new(&topic, "later").qos(1, 0));
        // The PUBACK of it is still taken, and nothing new comes.
        client.send(&ack(0x40, message.id));
        assert_eq!(client.ping(), []);
    });
}

#[test]
fn a_client_hears_of_what_its_filters_mean_and_of_nothing_else() {
    every(|world, case| {
        let (mine, theirs) = (name("t"), name("t"));
        let (mut one, mut two) = (Client::new(world, case), Client::new(world, case));
        one.subscribe(&mine, 1);
        two.subscribe(&theirs, 1);
        let mut sender = Client::new(world, case);
        sender.publish(&Publish::new(&theirs, "theirs").qos(1, 0));
        sender.publish(&Publish::new(&mine, "mine").qos(1, 0));
        assert_eq!(one.taken().topic, mine);
        assert_eq!(two.taken().topic, theirs);
        assert_eq!((one.ping(), two.ping()), (vec![], vec![]));
    });
}
