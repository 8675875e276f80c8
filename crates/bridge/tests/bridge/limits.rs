//! What is bounded, and how it all ends.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use drawbridge_admission::Ways;
use drawbridge_bridge::{Bridge, BridgeConfig, Listener, ListenerKind};

use crate::client::{Client, End, Level, PINGREQ, publish, tcp};
use crate::rig::{RealClock, rig, wait_until};

#[test]
fn connections_beyond_the_ceiling_are_closed_and_those_within_live_on() {
    let rig = rig(|config| config.connections_max = Some(3));
    let mut kept: Vec<Client> = (0..3).map(|n| rig.guest(&format!("kept-{n}"), Level::V311)).collect();
    let mut refused = tcp(rig.plain);
    let mut nothing = Vec::new();
    let _ = refused.read_to_end(&mut nothing);
    assert!(nothing.is_empty(), "closed without a word: {nothing:?}");
    let stats = rig.handle.stats();
    assert_eq!((stats.connections, stats.connections_max, stats.unauthenticated), (3, 3, 0));
    assert_eq!(rig.refused("connections-full"), 1);
    for client in &mut kept {
        client.send(&PINGREQ);
        assert_eq!(client.packet().expect("PINGRESP"), (0xd0, Vec::new()));
    }
    drop(kept);
    wait_until("all are gone", || rig.handle.stats().connections == 0);
    rig.guest("later", Level::V311);
}

#[test]
fn a_subscriber_that_never_reads_costs_bounded_memory_and_nobody_else_waits() {
    let rig = rig(|config| {
        config.shards = 1;
        config.shard.waiting_bytes_max = 4 << 20;
    });
    let mut stuck = rig.guest("stuck", Level::V311);
    stuck.subscribe("flood", 1);
    let mut speaker = rig.guest("speaker", Level::V311);
    let mut reader = rig.guest("reader", Level::V311);
    reader.subscribe("flood", 1);
    let payload = vec![b'x'; 16 * 1024];
    // 64 MiB, far more than the kernel's buffers and the log together.
    for n in 0..4096_u16 {
        speaker.send(&publish(Level::V311, "flood", n + 1, &payload));
        assert_eq!(speaker.packet().expect("PUBACK").0, 0x40);
        assert_eq!(reader.message().1.len(), payload.len());
    }
    let shard = rig.shards()[0];
    assert_eq!(shard.received, 4096);
    assert!(shard.buffer_bytes < 1 << 20, "{} bytes of buffers", shard.buffer_bytes);
    assert!(shard.waiting_bytes <= 5 << 20, "{} bytes that wait", shard.waiting_bytes);
}

#[test]
fn the_end_of_a_client_that_sent_much_at_the_last_is_not_overlooked() {
    let rig = rig(|config| config.shards = 1);
    for _ in 0..5 {
        let guest = rig.guest("guest", Level::V311);
        let crate::client::Wire::Plain(mut stream) = guest.wire else { unreachable!("it is plain") };
        let reader = stream.try_clone().expect("a second handle");
        let answers = std::thread::spawn(move || std::io::copy(&mut { reader }, &mut std::io::sink()));
        // More than is read in one turn, and right behind it the end.
        stream.write_all(&PINGREQ.repeat(400_000)).expect("written");
        stream.shutdown(std::net::Shutdown::Write).expect("finished");
        // How many answers there are, and whether a reset cuts them, does not matter.
        let _ = answers.join().expect("no panic");
        wait_until("the session is gone", || rig.handle.stats().sessions == 0);
    }
}

#[test]
fn a_client_that_asks_and_never_reads_the_answers_is_read_no_further() {
    let rig = rig(|config| config.shards = 1);
    let stuck = rig.guest("stuck", Level::V311);
    let crate::client::Wire::Plain(mut stream) = stuck.wire else { unreachable!("it is plain") };
    stream.set_nonblocking(true).expect("non-blocking");
    let pings: Vec<u8> = PINGREQ.repeat(8192);
    let began = Instant::now();
    let (mut held_back, mut sent, mut shard) = (0, 0, rig.shards()[0]);
    // Until the kernel's buffers are full in both directions, and stay so however often the shard has had its turn.
    while held_back < 20 {
        assert!(began.elapsed() < Duration::from_secs(60), "it is never held back");
        // A packet that was written in part is written to its end.
        match stream.write(&pings[sent % 2..]) {
            Ok(written) => (sent, held_back) = (sent + written, 0),
            Err(_) => {
                shard = rig.shards()[0];
                held_back = if shard.buffer_bytes > 0 { held_back + 1 } else { 0 };
            }
        }
    }
    assert!(shard.buffer_bytes > 0 && shard.buffer_bytes < 2 << 20, "{shard:?}",);
    // It reads after all: then it is served on.
    stream.set_nonblocking(false).expect("blocking");
    let mut answers = vec![0; 1 << 20];
    stream.read_exact(&mut answers).expect("PINGRESPs");
    assert!(answers.chunks(2).all(|answer| answer == [0xd0, 0]));
}

#[test]
fn at_shutdown_clients_of_version_5_are_told_and_the_port_is_free() {
    let mut rig = rig(|_| {});
    let lamp = rig.device("lamp");
    let mut clients =
        vec![rig.enter(&lamp, Level::V5), rig.guest("one", Level::V5), rig.guest("two", Level::V5)];
    let mut old = rig.guest("old", Level::V311);
    let silent = tcp(rig.plain);
    let began = Instant::now();
    rig.bridge.take().expect("running").shutdown(Duration::from_secs(5));
    assert!(began.elapsed() < Duration::from_secs(5), "nobody is left to wait for");
    for client in &mut clients {
        let (packets, end) = client.until_end();
        assert_eq!(packets.first().map(|(kind, body)| (*kind, body[0])), Some((0xe0, 0x8b)));
        assert_eq!(end, End::Orderly);
    }
    assert_eq!(old.until_end(), (Vec::new(), End::Orderly));
    drop(silent);
    assert!(std::net::TcpStream::connect(rig.plain).is_err(), "nobody listens");
    assert_eq!(rig.handle.stats().connections, 0);
}

#[test]
fn a_plain_listener_beyond_loopback_is_refused_at_start() {
    let rig = rig(|_| {});
    let socket = TcpListener::bind("0.0.0.0:0").expect("a port");
    let kind = ListenerKind::Plain { anonymous_as: None };
    let config = BridgeConfig {
        listeners: vec![Listener { socket, kind, registry: None, ways: Ways::ALL }],
        ..BridgeConfig::default()
    };
    let clock = std::sync::Arc::new(RealClock);
    let error = Bridge::start(config, rig.admission.clone(), clock, rig.runtime.handle().clone())
        .expect_err("refused");
    assert_eq!((error.code(), error.word()), ("DB-2060", "plain-beyond-loopback"));
}
