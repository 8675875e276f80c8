//! Wills.

use std::time::{Duration, Instant};

use crate::bytes::{
    CONTENT_TYPE, CORRELATION_DATA, Connect, MESSAGE_EXPIRY, PAYLOAD_FORMAT, Publish, RESPONSE_TOPIC,
    SESSION_EXPIRY, USER_PROPERTY, Version, WILL_DELAY, Will, p32, packet, pstr, user,
};
use crate::client::Client;
use crate::world::{Case, World, every, every_v5, name};

/// A client that looks on, and a topic for wills that it reads.
fn watch(world: &World) -> (Client, String) {
    let topic = name("will");
    let mut observer = Client::observer(world);
    observer.subscribe(&topic, 1);
    (observer, topic)
}

fn will(topic: &str) -> Will {
    Will { topic: topic.to_owned(), payload: b"will".to_vec(), qos: 1, ..Will::default() }
}

fn with_will(world: &World, case: Case, will: Will) -> Client {
    Client::join(world, case, &Connect::clean(&name("c")).will(will)).0
}

/// Whether the observer has heard of a will by the time that a later message of its own has come.
fn none_came(world: &World, case: Case, observer: &mut Client) {
    // A connection that ends now says so after all that was said before.
    for _ in 0..4 {
        let end = name("end");
        observer.subscribe(&end, 1);
        let mut last = with_will(world, case, will(&end));
        last.send(&[0x36, 0]);
        last.ended();
        assert_eq!(observer.until(&end), []);
    }
}

#[test]
fn a_will_is_published_when_the_connection_ends_without_a_goodbye() {
    every(|world, case| {
        let (mut observer, topic) = watch(world);
        // The socket is closed; the server closes for a fault; a newer connection takes the place.
        with_will(world, case, will(&topic)).vanish();
        assert_eq!(observer.taken().text(), "will");
        let mut faulty = with_will(world, case, will(&topic));
        faulty.send(&[0x36, 0]);
        faulty.ended();
        let message = observer.taken();
        assert_eq!((message.text(), message.qos, message.retain), ("will", 1, false));
        // Once: it is gone with that.
        none_came(world, case, &mut observer);
    });
}

#[test]
fn a_will_is_forgotten_at_a_normal_disconnect() {
    every(|world, case| {
        let (mut observer, topic) = watch(world);
        with_will(world, case, will(&topic)).leave();
        if case.is_v5() {
            let mut client = with_will(world, case, will(&topic));
            client.send(&packet(0xe0, &[0, 0]));
            client.is_closed();
        }
        none_came(world, case, &mut observer);
    });
}

#[test]
fn a_client_may_disconnect_with_its_will() {
    every_v5(|world, case| {
        let (mut observer, topic) = watch(world);
        for code in [0x04, 0x80, 0x81] {
            let mut client = with_will(world, case, will(&topic));
            client.send(&packet(0xe0, &[code]));
            client.is_closed();
            assert_eq!(observer.taken().text(), "will", "{code:#04x}");
        }
    });
}

#[test]
fn without_a_will_none_is_published() {
    every(|world, case| {
        let (mut observer, topic) = watch(world);
        Client::new(world, case).vanish();
        // Nor that of an earlier connection with the same name.
        let id = name("c");
        let (first, _) = Client::join(world, case, &Connect::clean(&id).will(will(&topic)));
        first.leave();
        let (second, _) = Client::join(world, case, &Connect::clean(&id));
        second.vanish();
        none_came(world, case, &mut observer);
    });
}

#[test]
fn a_will_is_retained_if_it_says_so_and_only_then() {
    every(|world, case| {
        for retain in [false, true] {
            let (mut observer, topic) = watch(world);
            with_will(world, case, Will { retain, ..will(&topic) }).vanish();
            assert_eq!(observer.taken().text(), "will");
            Client::new(world, case).settle(world, case);
            let mut late = Client::new(world, case);
            late.subscribe(&topic, 1);
            let kept = late.ping();
            assert_eq!(kept.len(), usize::from(retain));
            assert!(kept.iter().all(|message| message.retain && message.text() == "will"));
        }
    });
}

#[test]
fn a_will_has_the_qos_it_says() {
    every(|world, case| {
        for qos in [0, 1] {
            let (mut observer, topic) = watch(world);
            with_will(world, case, Will { qos, ..will(&topic) }).vanish();
            assert_eq!(observer.taken().qos, qos);
        }
    });
}

#[test]
fn a_will_may_be_empty_and_of_any_bytes() {
    every(|world, case| {
        for payload in [&b""[..], b"\x00\xff\xed\xa0\x80"] {
            let (mut observer, topic) = watch(world);
            with_will(world, case, Will { payload: payload.to_vec(), ..will(&topic) }).vanish();
            assert_eq!(observer.taken().payload, payload);
        }
    });
}

#[test]
fn the_properties_of_a_will_are_published_with_it_in_their_order() {
    every_v5(|world, case| {
        let (mut observer, topic) = watch(world);
        let properties = [
            vec![PAYLOAD_FORMAT, 1],
            p32(MESSAGE_EXPIRY, 100),
            pstr(CONTENT_TYPE, "text/plain"),
            pstr(RESPONSE_TOPIC, "answers"),
            pstr(CORRELATION_DATA, b"\x00\x01"),
            user("b", "1"),
            user("a", "2"),
            user("b", "0"),
        ];
        with_will(world, case, Will { properties: properties.concat(), ..will(&topic) }).vanish();
        let found = observer.taken().properties;
        assert_eq!(found.number(PAYLOAD_FORMAT), Some(1));
        assert!(found.number(MESSAGE_EXPIRY).is_some_and(|left| (90..=100).contains(&left)));
        assert_eq!(found.text(CONTENT_TYPE), Some("text/plain"));
        assert_eq!(found.text(RESPONSE_TOPIC), Some("answers"));
        assert_eq!(found.first(CORRELATION_DATA), Some(&b"\x00\x01"[..]));
        assert_eq!(found.all(USER_PROPERTY).collect::<Vec<_>>(), [&b"b=1"[..], b"a=2", b"b=0"]);
        assert!(!found.has(WILL_DELAY));
    });
}

#[test]
fn a_will_waits_for_its_delay_or_the_end_of_the_session_whichever_is_first() {
    every_v5(|world, case| {
        // (delay, session expiry, at least ms, at most ms)
        for (delay_s, expiry_s, least, most) in [
            (0, 0, 0, 1_500),
            (0, 60, 0, 1_500),
            (60, 0, 0, 1_500),
            (2, 60, 1_800, 6_000),
            (60, 2, 1_800, 6_000),
        ] {
            let (mut observer, topic) = watch(world);
            let will = Will { properties: p32(WILL_DELAY, delay_s), ..will(&topic) };
            let connect = Connect::clean(&name("c")).with(p32(SESSION_EXPIRY, expiry_s)).will(will);
            let (client, _) = Client::join(world, case, &connect);
            let gone = Instant::now();
            client.vanish();
            assert_eq!(observer.taken().text(), "will");
            let after = gone.elapsed();
            let range = Duration::from_millis(least)..Duration::from_millis(most);
            assert!(range.contains(&after), "delay {delay_s}, expiry {expiry_s}: {after:?}");
        }
    });
}

#[test]
fn a_delayed_will_is_not_published_when_its_session_is_back_in_time() {
    every_v5(|world, case| {
        let (mut observer, topic) = watch(world);
        let id = name("c");
        let will = Will { properties: p32(WILL_DELAY, 2), ..will(&topic) };
        let connect = Connect::kept(&id, Version::V5, 60).will(will);
        let (client, _) = Client::join(world, case, &connect);
        client.vanish();
        std::thread::sleep(Duration::from_millis(300));
        let back = Connect::kept(&id, Version::V5, 60);
        let (client, _) = Client::join(world, case, &back);
        std::thread::sleep(Duration::from_millis(2_500));
        none_came(world, case, &mut observer);
        drop(client);
    });
}

#[test]
fn a_will_is_a_message_like_any_other_to_its_subscribers() {
    every(|world, case| {
        // The right of its owner is asked; one that may not be published refuses the CONNECT.
        let connect = Connect::clean(&name("c")).will(will("$other/t"));
        let (mut client, flags, code, _) = Client::ask(world, case, &connect);
        assert_eq!((flags, code), (0, if case.is_v5() { 0x87 } else { 5 }));
        client.is_closed();
        // And it comes in its place among what the client said before.
        let (mut observer, topic) = watch(world);
        let mut client = with_will(world, case, will(&topic));
        client.publish(&Publish::new(&topic, "before").qos(1, 0));
        client.vanish();
        assert_eq!(observer.taken().text(), "before");
        assert_eq!(observer.taken().text(), "will");
    });
}
