//! Retained messages.

use std::time::Duration;

use crate::bytes::{MESSAGE_EXPIRY, Message, Publish, USER_PROPERTY, p32, user};
use crate::client::Client;
use crate::world::{Case, World, every, every_v5, name};

/// What a new subscriber is told of `filter`, after all that `sender` has published.
fn kept(world: &World, case: Case, sender: &mut Client, filter: &str) -> Vec<Message> {
    sender.settle(world, case);
    told(world, case, filter)
}

/// What a new subscriber is told of `filter`.
fn told(world: &World, case: Case, filter: &str) -> Vec<Message> {
    let mut client = Client::new(world, case);
    client.subscribe(filter, 1);
    client.ping()
}

#[test]
fn the_last_retained_message_of_a_topic_is_told_to_new_subscribers_with_its_flag_and_qos() {
    every(|world, case| {
        for qos in [0, 1] {
            let topic = name("t");
            let mut sender = Client::new(world, case);
            for text in ["old", "new"] {
                sender.publish(&Publish::new(&topic, text).qos(qos, 0).retain());
            }
            let found = kept(world, case, &mut sender, &topic);
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!(
                (found[0].text(), found[0].retain, found[0].qos, found[0].dup),
                ("new", true, qos, false)
            );
        }
    });
}

#[test]
fn every_topic_that_matches_has_its_own_retained_message() {
    every(|world, case| {
        let p = name("p");
        let mut sender = Client::new(world, case);
        for level in ["a", "b", "b/c", "d"] {
            sender.publish(&Publish::new(&format!("{p}/{level}"), level).qos(1, 0).retain());
        }
        for (filter, wanted) in
            [("+", vec!["a", "b", "d"]), ("#", vec!["a", "b", "b/c", "d"]), ("b/#", vec!["b", "b/c"])]
        {
            let found = kept(world, case, &mut sender, &format!("{p}/{filter}"));
            let mut levels: Vec<&str> = found.iter().map(Message::text).collect();
            levels.sort_unstable();
            assert_eq!(levels, wanted, "{filter}");
        }
    });
}

#[test]
fn a_message_that_comes_live_has_no_retain_flag() {
    every(|world, case| {
        let topic = name("t");
        let mut client = Client::new(world, case);
        client.subscribe(&topic, 1);
        client.publish(&Publish::new(&topic, "live").qos(1, 0).retain());
        assert!(!client.taken().retain);
    });
}

#[test]
fn an_empty_retained_message_clears_its_topic_and_is_delivered_like_any_other() {
    every(|world, case| {
        let topic = name("t");
        let mut client = Client::new(world, case);
        client.publish(&Publish::new(&topic, "kept").qos(1, 0).retain());
        client.subscribe(&topic, 1);
        assert_eq!(client.taken().text(), "kept");
        client.publish(&Publish::new(&topic, "").qos(1, 0).retain());
        let message = client.taken();
        assert_eq!((message.text(), message.retain), ("", false), "live subscribers get it");
        assert_eq!(kept(world, case, &mut client, &topic), [], "and new ones get nothing");
    });
}

#[test]
fn a_message_without_the_flag_neither_is_kept_nor_replaces_nor_clears() {
    every(|world, case| {
        let topic = name("t");
        let mut sender = Client::new(world, case);
        sender.publish(&Publish::new(&topic, "passing").qos(1, 0));
        assert_eq!(kept(world, case, &mut sender, &topic), []);
        sender.publish(&Publish::new(&topic, "kept").qos(1, 0).retain());
        for text in ["passing", ""] {
            sender.publish(&Publish::new(&topic, text).qos(1, 0));
            let found = kept(world, case, &mut sender, &topic);
            assert_eq!(found.iter().map(Message::text).collect::<Vec<_>>(), ["kept"]);
        }
    });
}

#[test]
fn a_retained_message_outlives_the_session_that_sent_it() {
    every(|world, case| {
        for polite in [true, false] {
            let topic = name("t");
            let mut sender = Client::new(world, case);
            sender.publish(&Publish::new(&topic, "kept").qos(1, 0).retain());
            sender.settle(world, case);
            if polite {
                sender.leave()
            } else {
                sender.vanish()
            }
            let found = told(world, case, &topic);
            assert_eq!((found.len(), found[0].text()), (1, "kept"));
        }
    });
}

#[test]
fn a_retained_message_keeps_its_properties_and_its_expiry_counts_down_to_its_end() {
    every_v5(|world, case| {
        let (topic, brief) = (name("t"), name("t"));
        let mut sender = Client::new(world, case);
        let publish = Publish::new(&topic, "x").with(user("b", "1")).with(user("a", "2")).qos(1, 0).retain();
        sender.publish(&publish.with(p32(MESSAGE_EXPIRY, 100)));
        sender.publish(&Publish::new(&brief, "x").with(p32(MESSAGE_EXPIRY, 1)).qos(1, 0).retain());
        std::thread::sleep(Duration::from_millis(2_200));
        let found = kept(world, case, &mut sender, &topic);
        let pairs: Vec<&[u8]> = found[0].properties.all(USER_PROPERTY).collect();
        assert_eq!(pairs, [&b"b=1"[..], b"a=2"]);
        let left = found[0].properties.number(MESSAGE_EXPIRY).expect("what is left of it");
        assert!((50..=98).contains(&left), "{left}: less the 2 s that it has waited");
        assert_eq!(kept(world, case, &mut sender, &brief), [], "what has expired is not delivered");
    });
}
