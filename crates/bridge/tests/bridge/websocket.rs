//! MQTT over WebSocket, from the upgrade on: with a client that writes its frames by hand. (The upgrade itself is
//! HTTP's, and tested there.)

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use drawbridge_admission::Actor;
use drawbridge_names::{PolicyName, PrincipalName};
use drawbridge_testkit::TestDevice;
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, ServerConnection, StreamOwned};

use crate::client::{Client, End, Level, PINGREQ, Wire, connect, publish};
use crate::framed::{Framed, frame};
use crate::rig::{Rig, jwt, registry, rig, wait_until};

fn name(text: &str) -> PrincipalName {
    PrincipalName::parse(text).expect("a name")
}

/// A connection that the bridge got right behind the upgrade. `early`: read by HTTP already.
fn open(rig: &Rig, level: Level, early: &[u8]) -> Client {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
    client.set_nodelay(true).expect("nodelay");
    client.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    let (mut server, peer) = listener.accept().expect("accepted");
    let name = ServerName::try_from("localhost").expect("a name");
    let session = ClientConnection::new(rig.tls13(), name).expect("a client");
    let mut stream = StreamOwned::new(session, client);
    let config = Arc::clone(&rig.server_tls);
    let handshake = std::thread::spawn(move || {
        let mut session = ServerConnection::new(config).expect("a server");
        while session.is_handshaking() {
            session.complete_io(&mut server).expect("a handshake");
        }
        (server, session)
    });
    stream.conn.complete_io(&mut stream.sock).expect("a handshake");
    let (server, session) = handshake.join().expect("a handshake");
    server.set_nonblocking(true).expect("non-blocking");
    let place = rig.handle.reserve_web_socket(peer).expect("a place");
    place.enter(server, session, early.to_vec(), None);
    let framed = Framed::new(stream);
    Client { wire: Wire::WebSocket(Box::new(framed)), level }
}

fn framed(client: &mut Client) -> &mut Framed {
    let Wire::WebSocket(framed) = &mut client.wire else { unreachable!("it is a WebSocket") };
    framed
}

/// A device that may everything, in over WebSocket.
fn enter(rig: &Rig, name: &str, level: Level) -> Client {
    let lamp = everything(rig, name);
    open(rig, level, &[]).enter(name, Some("unused"), Some(&jwt(&lamp).sign()))
}

fn everything(rig: &Rig, name: &str) -> TestDevice {
    let lamp = rig.device(name);
    let policy = Some(PolicyName::parse("everything").expect("a name"));
    let registry = registry();
    let attached = rig.admission.attach_policy(&registry, &lamp.name, policy, &Actor::Admin);
    rig.runtime.block_on(attached).expect("attached");
    lamp
}

#[test]
fn a_device_gets_in_over_websocket_in_both_versions_and_speaks_with_other_transports() {
    let rig = rig(|_| {});
    for level in [Level::V311, Level::V5] {
        let mut client = enter(&rig, &format!("lamp-{level:?}"), level);
        client.subscribe("down", 1);
        let mut other = rig.guest("other", level);
        other.subscribe("up", 1);
        // Every way to write a length, and more than one TLS record.
        for length in [0, 1, 100, 200, 70_000, 200_000] {
            let payload = vec![b'x'; length];
            other.send(&publish(level, "down", 1, &payload));
            assert_eq!(other.packet().expect("PUBACK").0, 0x40);
            assert_eq!(client.message(), ("down".to_owned(), payload.clone()));
            client.send(&publish(level, "up", 1, &payload));
            assert_eq!(client.packet().expect("PUBACK").0, 0x40);
            assert_eq!(other.message(), ("up".to_owned(), payload));
        }
        let stats = rig.handle.stats();
        assert_eq!((stats.unauthenticated, stats.sessions, stats.connections), (0, 2, 2));
        drop((client, other));
        wait_until("all places are free", || rig.handle.stats().connections == 0);
    }
}

#[test]
fn packets_and_frames_need_not_end_together() {
    let rig = rig(|_| {});
    let lamp = everything(&rig, "lamp");
    let connect = connect(Level::V311, "lamp", Some("unused"), Some(&jwt(&lamp).sign()), 0);
    // HTTP had read the beginning already.
    let (early, rest) = connect.split_at(20);
    let mut client = open(&rig, Level::V311, &frame(0x02, early));
    for piece in rest.chunks(33) {
        framed(&mut client).frame(0x00, piece);
    }
    framed(&mut client).frame(0x80, &[]);
    assert_eq!(client.packet().expect("CONNACK"), (0x20, vec![0, 0]));
    client.subscribe("t", 0);
    // Many packets in one frame, of which the last goes on in the next; a ping between.
    let packets = publish(Level::V311, "t", 0, b"abc").repeat(100);
    let (one, two) = packets.split_at(packets.len() - 3);
    framed(&mut client).frame(0x02, one);
    framed(&mut client).frame(0x89, b"still there?");
    framed(&mut client).frame(0x80, two);
    for _ in 0..100 {
        assert_eq!(client.message(), ("t".to_owned(), b"abc".to_vec()));
    }
    client.send(&PINGREQ);
    assert_eq!(client.packet().expect("PINGRESP").0, 0xd0);
    assert_eq!(framed(&mut client).pongs, [b"still there?".to_vec()]);
}

#[test]
fn row_29_a_remaining_length_beyond_its_frame_reads_nothing_that_was_not_sent() {
    let rig = rig(|_| {});
    let mut client = enter(&rig, "lamp", Level::V311);
    client.subscribe("t", 0);
    // A PUBLISH that says 100 bytes in a frame that has 10: the rest may come in other frames, and nothing
    // else is taken for it.
    let packet = publish(Level::V311, "t", 0, &[b'y'; 97]);
    framed(&mut client).frame(0x82, &packet[..10]);
    std::thread::sleep(Duration::from_millis(100));
    framed(&mut client).frame(0x82, &packet[10..]);
    assert_eq!(client.message(), ("t".to_owned(), vec![b'y'; 97]));
    // A length that nothing may have is refused, however small the frame is.
    framed(&mut client).frame(0x82, &[0x30, 0xff, 0xff, 0xff, 0x7f]);
    assert_eq!(client.until_end(), (Vec::new(), End::Orderly));
    assert_eq!(rig.refused("mqtt-packet-too-large"), 1);
}

#[test]
fn a_broken_framing_is_answered_with_its_close_code_and_costs_the_session() {
    let rig = rig(|_| {});
    let mut long = frame(0x82, &[]);
    long.splice(1..2, [0xff, 0, 0, 0, 0, 0x40, 0, 0, 0]);
    let broken: [(&str, Vec<u8>, u16); 4] = [
        ("not masked", vec![0x82, 1, 0xc0], 1002),
        ("text", frame(0x81, b"x"), 1003),
        ("compressed", frame(0xc2, b"x"), 1002),
        ("1 GiB", long, 1009),
    ];
    for (n, (what, bytes, code)) in broken.into_iter().enumerate() {
        let mut client = enter(&rig, &format!("lamp-{n}"), Level::V5);
        let stream = &mut framed(&mut client).stream;
        stream.write_all(&bytes).and_then(|()| stream.flush()).expect("written");
        assert_eq!(client.until_end(), (Vec::new(), End::Orderly), "{what}");
        assert_eq!(framed(&mut client).closed, Some(code), "{what}");
        drop(client);
        wait_until(what, || rig.handle.stats().sessions == 0);
    }
    assert_eq!((rig.refused("websocket-malformed"), rig.refused("websocket-too-long")), (3, 1));
}

#[test]
fn a_client_that_closes_in_order_is_answered_and_its_session_ends_without_a_word() {
    let rig = rig(|_| {});
    for body in [&[][..], &[0x03, 0xe9]] {
        let mut client = enter(&rig, "lamp", Level::V5);
        framed(&mut client).frame(0x88, body);
        assert_eq!(client.until_end(), (Vec::new(), End::Orderly));
        assert_eq!(framed(&mut client).closed, Some(if body.is_empty() { 1000 } else { 1001 }));
        wait_until("the session is gone", || rig.handle.stats().connections == 0);
        rig.runtime
            .block_on(rig.admission.delete(&registry(), &name("lamp"), &Actor::Admin))
            .expect("deleted");
    }
}

#[test]
fn i1_what_comes_over_websocket_before_authentication_is_bounded_in_bytes_number_and_time() {
    let rig = rig(|config| {
        config.connect_timeout = Duration::from_millis(700);
        config.unauthenticated_max = 3;
    });
    // Frames that carry no MQTT count as well, and so does one that is too long by itself.
    let pings: Vec<u8> = frame(0x89, &[0; 125]).repeat(130);
    for bytes in [pings, frame(0x82, &vec![0x10; 16_385])[..14].to_vec()] {
        let mut client = open(&rig, Level::V311, &[]);
        let stream = &mut framed(&mut client).stream;
        stream.write_all(&bytes).and_then(|()| stream.flush()).expect("written");
        assert_eq!(client.until_end().0, Vec::new());
        assert_eq!(framed(&mut client).closed, Some(1009));
    }
    assert_eq!(rig.refused("websocket-too-long"), 2);
    wait_until("they are gone", || rig.handle.stats().connections == 0);
    let began = Instant::now();
    let mut idle: Vec<Client> = (0..3).map(|_| open(&rig, Level::V311, &[0x82])).collect();
    let peer = "127.0.0.1:1".parse().expect("an address");
    let full = rig.handle.reserve_web_socket(peer).expect_err("three are in");
    assert_eq!(full, ("DB-2076", "listener-full"));
    for client in &mut idle {
        assert_eq!(client.until_end().0, Vec::new(), "no answer");
    }
    assert!(began.elapsed() >= Duration::from_millis(700));
    wait_until("they are gone", || rig.handle.stats().unauthenticated == 0);
    drop(rig.handle.reserve_web_socket(peer).expect("a place"));
    let stats = rig.handle.stats();
    assert_eq!((stats.connections, stats.unauthenticated), (0, 0), "a place that was not used is free again");
}

#[test]
fn i2_any_other_first_packet_over_websocket_closes_it_without_an_answer() {
    let rig = rig(|_| {});
    let mut client = open(&rig, Level::V311, &[]);
    client.send(&PINGREQ);
    let (packets, _) = client.until_end();
    assert!(packets.is_empty() && framed(&mut client).closed.is_none(), "{packets:?}");
}

#[test]
fn i6_a_blocked_device_is_out_over_websocket_too_and_is_told() {
    let rig = rig(|_| {});
    let mut client = enter(&rig, "lamp", Level::V5);
    let began = Instant::now();
    rig.runtime
        .block_on(rig.admission.block(&registry(), &name("lamp"), None, &Actor::Admin))
        .expect("blocked");
    let (packets, end) = client.until_end();
    assert!(began.elapsed() < Duration::from_secs(3), "out after {:?}", began.elapsed());
    assert_eq!((packets.len(), packets[0].0, end), (1, 0xe0, End::Orderly));
    assert_eq!(framed(&mut client).closed, Some(1000));
}

#[test]
fn a_take_over_works_across_transports() {
    let rig = rig(|_| {});
    let lamp = everything(&rig, "lamp");
    let token = jwt(&lamp).sign();
    let mut first = open(&rig, Level::V5, &[]).enter("lamp", Some("unused"), Some(&token));
    let mut second = rig.enter(&lamp, Level::V5);
    let taken = |client: &mut Client| client.until_end().0.first().map(|(kind, body)| (*kind, body[0]));
    assert_eq!(taken(&mut first), Some((0xe0, 0x8e)));
    let _third = open(&rig, Level::V5, &[]).enter("lamp", Some("unused"), Some(&jwt(&lamp).sign()));
    assert_eq!(taken(&mut second), Some((0xe0, 0x8e)));
}

#[test]
fn a_subscriber_over_websocket_that_reads_late_gets_whole_frames_and_its_pong() {
    let rig = rig(|config| config.shards = 1);
    let mut slow = enter(&rig, "slow", Level::V311);
    slow.subscribe("flood", 1);
    let mut speaker = rig.guest("speaker", Level::V311);
    let payload: Vec<u8> = (0..60_000_u32).map(|n| n as u8).collect();
    // Far more than the buffers of the kernel.
    let count = 200_u16;
    for n in 0..count {
        speaker.send(&publish(Level::V311, "flood", n + 1, &payload));
        assert_eq!(speaker.packet().expect("PUBACK").0, 0x40);
    }
    framed(&mut slow).frame(0x89, b"1");
    framed(&mut slow).frame(0x89, b"2");
    for n in 0..count {
        assert_eq!(slow.message().1, payload, "message {n}");
    }
    slow.send(&PINGREQ);
    assert_eq!(slow.packet().expect("PINGRESP").0, 0xd0);
    assert!(framed(&mut slow).pongs.ends_with(&[b"2".to_vec()]), "{:?}", framed(&mut slow).pongs);
}

#[test]
fn at_shutdown_a_client_over_websocket_is_told_and_its_connection_closed() {
    let mut rig = rig(|_| {});
    let mut client = enter(&rig, "lamp", Level::V5);
    let stranger = open(&rig, Level::V5, &[]);
    rig.bridge.take().expect("running").shutdown(Duration::from_secs(5));
    let (packets, end) = client.until_end();
    assert_eq!(packets.first().map(|(kind, body)| (*kind, body[0])), Some((0xe0, 0x8b)));
    assert_eq!((framed(&mut client).closed, end), (Some(1000), End::Orderly));
    drop(stranger);
    let late = rig.handle.reserve_web_socket("127.0.0.1:1".parse().expect("an address")).expect("a place");
    drop(late);
    assert_eq!(rig.handle.stats().connections, 0);
}
