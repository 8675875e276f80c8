//! I1, I2, I5 and I6 of the design, in wall time.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use drawbridge_admission::Actor;
use serde_json::json;

use crate::client::{Client, End, Level, PINGREQ, connect, publish, subscribe, tcp};
use crate::rig::{jwt, now_s, registry, rig, wait_until};

/// A machine that is busy with other tests may be slower than the promise; so much is let pass.
const BOUND: Duration = Duration::from_secs(3);

#[test]
fn i1_twenty_kilobytes_before_an_admitted_connect_close_the_socket() {
    let rig = rig(|_| {});
    let mut client = Client::plain(rig.plain, Level::V311);
    // A CONNECT whose length says 20 KiB.
    let packet = connect(Level::V311, &"x".repeat(20 * 1024), None, None, 0);
    let _ = client.wire.write_all(&packet);
    let (packets, _) = client.until_end();
    assert!(packets.iter().all(|(_, body)| body.get(1) != Some(&0)), "not admitted: {packets:?}");
    wait_until("the connection is gone", || rig.handle.stats().connections == 0);
    assert_eq!(rig.handle.stats().unauthenticated, 0);
}

#[test]
fn i1_a_tls_handshake_larger_than_allowed_closes_the_socket() {
    let rig = rig(|config| config.handshake_bytes_max = 4096);
    let mut stream = tcp(rig.tls);
    // A ClientHello of 65,535 bytes in records of 1 KiB: each is in order, the whole is too large.
    let mut hello = vec![1, 0, 0xff, 0xff];
    hello.resize(65_535 + 4, 0);
    for piece in hello.chunks(1024) {
        let length = u16::try_from(piece.len()).expect("small").to_be_bytes();
        let record = [&[22, 3, 1, length[0], length[1]], piece].concat();
        if stream.write_all(&record).is_err() {
            break;
        }
    }
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    wait_until("it is counted", || rig.refused("tls-handshake-too-large") == 1);
    wait_until("the connection is gone", || rig.handle.stats().connections == 0);
}

#[test]
fn i1_a_client_that_dawdles_in_the_handshake_or_before_connect_is_closed_at_the_timeout() {
    let timeout = Duration::from_millis(700);
    let rig = rig(|config| config.connect_timeout = timeout);
    let began = Instant::now();
    let mut in_handshake = tcp(rig.tls);
    in_handshake.write_all(&[22, 3, 1]).expect("written");
    let mut before_connect = tcp(rig.plain);
    let mut half_connect = tcp(rig.plain);
    half_connect.write_all(&[0x10, 40, 0, 4, b'M']).expect("written");
    for stream in [&mut in_handshake, &mut before_connect, &mut half_connect] {
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert!(rest.is_empty(), "no answer, closed silently: {rest:?}");
    }
    let took = began.elapsed();
    assert!(took >= timeout && took < timeout + BOUND, "closed after {took:?}");
    assert_eq!(rig.refused("mqtt-connect-timeout"), 3);
}

#[test]
fn i1_beyond_the_cap_connections_wait_unaccepted_and_come_in_when_one_leaves() {
    let rig = rig(|config| config.unauthenticated_max = 3);
    let mut idle: Vec<_> = (0..3).map(|_| tcp(rig.plain)).collect();
    wait_until("three are in", || rig.handle.stats().accepted == 3);
    // The kernel completes the TCP handshake; nobody accepts.
    let mut waiting = Client::plain(rig.plain, Level::V311);
    waiting.send(&connect(Level::V311, "patient", None, None, 0));
    std::thread::sleep(Duration::from_millis(300));
    let stats = rig.handle.stats();
    assert_eq!((stats.accepted, stats.unauthenticated), (3, 3), "the fourth is not accepted");
    // The other listener has places of its own.
    let lamp = rig.device("lamp");
    rig.enter(&lamp, Level::V311);
    drop(idle.pop());
    assert_eq!(waiting.packet().expect("CONNACK"), (0x20, vec![0, 0]));
    // Who is admitted makes room, too: the next one gets in though the three others stay.
    let next = tcp(rig.plain);
    wait_until("the next is in", || rig.handle.stats().accepted == 6);
    let fifth = Client::plain(rig.plain, Level::V311);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(rig.handle.stats().unauthenticated, 3);
    drop((fifth, next, idle));
    wait_until("all unauthenticated are gone", || rig.handle.stats().unauthenticated == 0);
}

#[test]
fn i1_the_excess_of_one_address_is_closed_at_accept_where_nobody_may_wait() {
    let rig = rig(|config| {
        config.unauthenticated_per_address_max = 2;
        config.address_queue_max = 0;
    });
    let within = [tcp(rig.plain), tcp(rig.plain)];
    wait_until("two are in", || rig.handle.stats().unauthenticated == 2);
    let mut excess = Client::plain(rig.plain, Level::V311);
    assert!(excess.packet().is_err(), "closed");
    assert_eq!(rig.refused("address-full"), 1);
    assert_eq!(rig.handle.stats().unauthenticated, 2);
    drop(within);
    wait_until("they are gone", || rig.handle.stats().unauthenticated == 0);
    rig.guest("later", Level::V311);
}

#[test]
fn i1_the_excess_of_one_address_waits_unread_until_one_of_it_is_through() {
    let rig = rig(|config| {
        config.unauthenticated_per_address_max = 2;
        config.address_queue_max = 2;
    });
    let within = [tcp(rig.plain), tcp(rig.plain)];
    wait_until("two are in", || rig.handle.stats().unauthenticated == 2);
    let mut patient = [Level::V311, Level::V5].map(|level| Client::plain(rig.plain, level));
    for client in &mut patient {
        client.send(&connect(client.level, &format!("patient-{}", client.level as u8), None, None, 0));
    }
    wait_until("they were accepted", || rig.handle.stats().accepted == 4);
    // And put aside, which is the next thing that the shard does: else another shard may take the excess first.
    let _ = rig.shards();
    assert_eq!(rig.handle.stats().unauthenticated, 2, "they have no place at the gate");
    let mut excess = Client::plain(rig.plain, Level::V311);
    assert!(excess.packet().is_err(), "closed");
    assert_eq!(rig.refused("address-full"), 1);
    assert_eq!(rig.handle.stats().sessions, 0);
    drop(within);
    for client in &mut patient {
        assert_eq!(client.packet().expect("CONNACK").0, 0x20, "{:?}", client.level);
    }
    drop(patient);
    wait_until("all are gone", || rig.handle.stats().connections == 0);
    // Their places are free again: as many may wait as before.
    let within = [tcp(rig.plain), tcp(rig.plain)];
    wait_until("two are in", || rig.handle.stats().unauthenticated == 2);
    let late = [tcp(rig.plain), tcp(rig.plain)];
    wait_until("two wait", || rig.handle.stats().connections == 4);
    drop((within, late));
    wait_until("all are gone", || rig.handle.stats().connections == 0);
}

#[test]
fn i2_any_other_first_packet_closes_the_socket_without_an_answer() {
    let rig = rig(|_| {});
    let others: [&[u8]; 4] = [&PINGREQ, b"GET / HTTP/1.1\r\n\r\n", &[0x30, 3, 0, 1, b'a'], &[0x20, 2, 0, 0]];
    for first in others {
        let mut client = Client::plain(rig.plain, Level::V311);
        client.send(first);
        let (packets, _) = client.until_end();
        assert_eq!(packets, [], "{first:?}");
    }
    wait_until("all are gone", || rig.handle.stats().connections == 0);
    let mut client = Client::plain(rig.plain, Level::V311);
    client.send(&subscribe(Level::V311, 1, "#", 0));
    assert_eq!(client.until_end().0, []);
}

#[test]
fn i5_a_silent_session_is_closed_when_its_token_ends() {
    let rig = rig(|_| {});
    let lamp = rig.device("lamp");
    for level in [Level::V311, Level::V5] {
        let ends_s = now_s() + 2;
        let short = jwt(&lamp).with("exp", json!(ends_s)).sign();
        // Keep-alive 0, and not a byte after CONNECT.
        let mut client =
            Client::tls(rig.tls, level, &rig.tls13()).enter("lamp", Some("unused"), Some(&short));
        let (packets, end) = client.until_end();
        let late_s = now_s().checked_sub(ends_s).expect("not before its time");
        assert!(late_s <= BOUND.as_secs(), "closed {late_s} s after the end");
        assert_eq!(end, End::Orderly);
        match level {
            Level::V311 => assert_eq!(packets, []),
            Level::V5 => assert_eq!(packets.first().map(|(kind, body)| (*kind, body[0])), Some((0xe0, 0x87))),
        }
    }
    assert_eq!(rig.refused("mqtt-session-expired"), 2);
}

#[test]
fn i6_a_blocked_device_is_out_within_a_second_and_does_not_come_back() {
    let rig = rig(|_| {});
    let lamp = rig.device("lamp");
    let other = rig.device("other");
    let mut client = rig.enter(&lamp, Level::V5);
    let mut bystander = rig.enter(&other, Level::V5);
    let began = Instant::now();
    let registry = registry();
    let blocked = rig.admission.block(&registry, &lamp.name, None, &Actor::Admin);
    rig.runtime.block_on(blocked).expect("blocked");
    let (packets, end) = client.until_end();
    assert!(began.elapsed() < BOUND, "out after {:?}", began.elapsed());
    assert_eq!(end, End::Orderly);
    assert_eq!(packets.first().map(|(kind, body)| (*kind, body[0])), Some((0xe0, 0x87)));
    let mut again = Client::tls(rig.tls, Level::V5, &rig.tls13());
    assert_eq!(again.connect("lamp", None, Some(&jwt(&lamp).sign())).get(1), Some(&0x87));
    bystander.send(&PINGREQ);
    assert_eq!(bystander.packet().expect("PINGRESP"), (0xd0, Vec::new()));
}

#[test]
fn i6_a_blocked_client_that_reads_nothing_is_out_within_a_second_too() {
    let rig = rig(|config| config.shards = 1);
    let mut stuck = rig.guest("stuck", Level::V5);
    stuck.subscribe("flood", 0);
    let mut speaker = rig.guest("speaker", Level::V5);
    let payload = vec![b'x'; 64 * 1024];
    for n in 0..256_u16 {
        speaker.send(&publish(Level::V5, "flood", n + 1, &payload));
        assert_eq!(speaker.packet().expect("PUBACK").0, 0x40);
    }
    assert!(rig.shards()[0].buffer_bytes > 0, "its output waits");
    let guest = drawbridge_names::PrincipalName::parse("guest").expect("a name");
    let registry = registry();
    let began = Instant::now();
    rig.runtime.block_on(rig.admission.block(&registry, &guest, None, &Actor::Admin)).expect("blocked");
    wait_until("both are out", || rig.handle.stats().connections == 0);
    // Half a second, and what a busy machine adds; the linger of a refusal is two.
    assert!(began.elapsed() < Duration::from_millis(1_800), "out after {:?}", began.elapsed());
}

#[test]
fn i6_a_changed_policy_ends_its_sessions_and_the_next_one_has_the_new_rights() {
    let rig = rig(|_| {});
    let mut before = rig.guest("before", Level::V5);
    before.subscribe("free/#", 0);
    let policy = drawbridge_names::PolicyName::parse("everything").expect("a name");
    let less = "[[allow]]\npublish = [\"free/#\"]\nsubscribe = [\"free/#\"]\n";
    let registry = registry();
    let set = rig.admission.set_policy(&registry, &policy, less, &Actor::Admin);
    rig.runtime.block_on(set).expect("set");
    let (packets, _) = before.until_end();
    assert_eq!(packets.first().map(|(kind, body)| (*kind, body[0])), Some((0xe0, 0x98)));
    // On whichever shard they land, they hear each other under the new rights.
    let mut all: Vec<Client> = (0..6).map(|n| rig.guest(&format!("after-{n}"), Level::V311)).collect();
    for client in &mut all {
        client.subscribe("free/#", 0);
    }
    all[0].send(&crate::client::publish(Level::V311, "free/word", 0, b"heard"));
    for client in &mut all {
        assert_eq!(client.message().1, b"heard");
    }
    all[1].send(&subscribe(Level::V311, 3, "other/#", 0));
    assert_eq!(all[1].packet().expect("SUBACK"), (0x90, vec![0, 3, 0x80]));
}
