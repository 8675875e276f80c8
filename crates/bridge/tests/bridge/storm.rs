//! Many who come at once, and those who are in already.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use drawbridge_bridge::raise_open_files;
use rustls::ClientConnection;
use rustls::pki_types::ServerName;

use crate::client::{Client, Level, PINGREQ, connect, tcp};
use crate::rig::{jwt, rig, wait_until};

#[test]
fn who_is_in_is_served_between_the_pieces_of_500_handshakes() {
    let _ = raise_open_files();
    let rig = rig(|config| {
        config.shards = 1;
        config.handshake_time_per_turn = Duration::ZERO;
    });
    let mut guest = rig.guest("guest", Level::V311);
    let (address, config) = (rig.tls, rig.tls13());
    let storm = std::thread::spawn(move || {
        let name = ServerName::try_from("localhost").expect("a name");
        let come = |_| {
            let mut session = ClientConnection::new(Arc::clone(&config), name.clone()).expect("a client");
            let mut stream = tcp(address);
            session.write_tls(&mut stream).expect("a ClientHello");
            (session, stream)
        };
        let mut all: Vec<(ClientConnection, TcpStream)> = (0..500).map(come).collect();
        for (session, stream) in &mut all {
            while session.is_handshaking() {
                session.complete_io(stream).expect("a handshake");
            }
        }
        all
    });
    let mut answered = 0;
    while rig.handle.stats().handshakes < 500 {
        guest.send(&PINGREQ);
        assert_eq!(guest.packet().expect("PINGRESP").0, 0xd0);
        answered += 1;
    }
    let all = storm.join().expect("500 handshakes");
    assert_eq!(all.len(), 500);
    assert_eq!(rig.handle.stats().handshakes_per_turn_max, 1, "one piece, then everybody else");
    assert!(answered >= 50, "{answered} answers in the meantime");
}

#[test]
fn a_login_beyond_those_that_are_judged_is_refused_unread_and_nobody_else_is_let_near() {
    let rig = rig(|config| {
        config.shards = 1;
        config.logins_max = 1;
    });
    let mut clients = [Level::V5, Level::V311, Level::V5].map(|level| Client::plain(rig.plain, level));
    wait_until("three are in", || rig.handle.stats().accepted == 3);
    // The only thread on which logins are judged is busy.
    let (go_on, wait) = std::sync::mpsc::channel::<()>();
    let (is_held, held) = std::sync::mpsc::channel();
    rig.runtime.spawn(async move {
        is_held.send(()).expect("somebody waits");
        let _ = wait.recv_timeout(Duration::from_secs(20));
    });
    held.recv().expect("it is busy");
    let [first, second, third] = &mut clients;
    first.send(&connect(Level::V5, "first", None, None, 0));
    // Its CONNECT is taken in before the next comes.
    std::thread::sleep(Duration::from_millis(200));
    for (client, answer) in [(second, [0, 3]), (third, [0, 0x89])] {
        client.send(&connect(client.level, "more", None, None, 0));
        let (kind, body) = client.packet().expect("CONNACK");
        assert_eq!((kind, [body[0], body[1]]), (0x20, answer), "{:?}", client.level);
    }
    assert_eq!(rig.refused("logins-full"), 2);
    let mut late = Client::plain(rig.plain, Level::V311);
    late.send(&connect(Level::V311, "late", None, None, 0));
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(rig.handle.stats().accepted, 3, "who comes now waits in the kernel");
    go_on.send(()).expect("it waits");
    for client in [first, &mut late] {
        assert_eq!(client.packet().expect("CONNACK").1[1], 0);
    }
}

#[test]
fn a_handshake_in_small_pieces_and_one_that_is_given_up_hold_nobody_up() {
    let rig = rig(|config| {
        config.shards = 1;
        config.handshakes_waiting_max = 1;
    });
    let name = || ServerName::try_from("localhost").expect("a name");
    for _ in 0..20 {
        let mut session = ClientConnection::new(rig.tls13(), name()).expect("a client");
        let mut hello = Vec::new();
        session.write_tls(&mut hello).expect("a ClientHello");
        let mut given_up = tcp(rig.tls);
        given_up.write_all(&hello[..hello.len() / 2]).expect("written");
        drop(given_up);
        let mut slow = tcp(rig.tls);
        for piece in hello.chunks(500) {
            slow.write_all(piece).expect("written");
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut answer = [0; 1];
        slow.read_exact(&mut answer).expect("an answer");
        assert_eq!(answer, [22], "a handshake goes on");
    }
    let lamp = rig.device("lamp");
    let client = Client::tls(rig.tls, Level::V5, &rig.tls13());
    client.enter("lamp", Some("unused"), Some(&jwt(&lamp).sign()));
    wait_until("they are gone", || rig.handle.stats().connections == 0);
}
