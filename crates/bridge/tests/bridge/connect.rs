//! Getting in, speaking across shards, being turned away in an orderly way.

use drawbridge_testkit::TestDevice;

use crate::client::{Client, End, Level, connect, publish, subscribe};
use crate::rig::{jwt, rig, wait_until};

#[test]
fn a_device_with_its_own_jwt_gets_in_over_tls_12_and_13_in_both_versions_of_mqtt() {
    let rig = rig(|_| {});
    let lamp = rig.device("lamp");
    let mut clients = Vec::new();
    for config in [rig.tls12(), rig.tls13()] {
        for level in [Level::V311, Level::V5] {
            let client = Client::tls(rig.tls, level, &config);
            let mut client = client.enter("lamp", Some("unused"), Some(&jwt(&lamp).sign()));
            client.subscribe("devices/lamp/commands/#", 1);
            clients.push(client);
        }
    }
    wait_until("a device has one session, the newest", || rig.handle.stats().sessions == 1);
    let (packets, _) = clients[1].until_end();
    assert_eq!(packets.first().map(|(kind, body)| (*kind, body[0])), Some((0xe0, 0x8e)), "taken over");
}

#[test]
fn a_message_reaches_subscribers_on_every_shard() {
    let rig = rig(|_| {});
    let pump = rig.device("pump");
    let mut listeners: Vec<Client> = Vec::new();
    wait_until("both shards have a subscriber", || {
        let mut listener = rig.guest(&format!("listener-{}", listeners.len()), Level::V5);
        listener.subscribe("devices/+/events/#", 1);
        listeners.push(listener);
        rig.shards().iter().all(|shard| shard.sessions > 0)
    });
    let mut pump = rig.enter(&pump, Level::V311);
    pump.send(&publish(Level::V311, "devices/pump/events/level", 9, b"42"));
    assert_eq!(pump.packet().expect("PUBACK"), (0x40, vec![0, 9]));
    for listener in &mut listeners {
        assert_eq!(listener.message(), ("devices/pump/events/level".to_owned(), b"42".to_vec()));
    }
}

#[test]
fn subscribes_written_before_connack_are_held_and_replayed() {
    let rig = rig(|_| {});
    let lamp = rig.device("lamp");
    let mut client = Client::tls(rig.tls, Level::V311, &rig.tls13());
    let mut packets = connect(Level::V311, "lamp", Some(""), Some(&jwt(&lamp).sign()), 60);
    packets.extend(subscribe(Level::V311, 1, "devices/lamp/config", 1));
    packets.extend(subscribe(Level::V311, 2, "devices/lamp/commands/#", 1));
    client.send(&packets);
    assert_eq!(client.packet().expect("CONNACK"), (0x20, vec![0, 0]));
    assert_eq!(client.packet().expect("SUBACK"), (0x90, vec![0, 1, 1]));
    assert_eq!(client.packet().expect("SUBACK"), (0x90, vec![0, 2, 1]));
}

#[test]
fn a_refused_client_reads_code_5_and_then_close_notify_though_it_had_written_on() {
    let rig = rig(|_| {});
    rig.device("lamp");
    let forger = TestDevice::new("lamp");
    for config in [rig.tls12(), rig.tls13()] {
        let mut client = Client::tls(rig.tls, Level::V311, &config);
        client.send(&connect(Level::V311, "lamp", Some("unused"), Some(&jwt(&forger).sign()), 60));
        for id in 1..=50 {
            client.send(&subscribe(Level::V311, id, "devices/lamp/commands/#", 1));
        }
        let (packets, end) = client.until_end();
        assert_eq!(packets, [(0x20, vec![0, 5])]);
        assert_eq!(end, End::Orderly, "close_notify, not a reset");
    }
    assert_eq!(rig.refused("not-proven"), 2);
}

#[test]
fn a_version_5_client_is_told_why_only_after_a_good_signature() {
    let rig = rig(|_| {});
    let lamp = rig.device("lamp");
    let forger = TestDevice::new("lamp");
    let mut answers = Vec::new();
    for password in [jwt(&forger).sign(), jwt(&lamp).with("aud", "https://elsewhere.test".into()).sign()] {
        let mut client = Client::tls(rig.tls, Level::V5, &rig.tls13());
        let connack = client.connect("lamp", None, Some(&password));
        assert_eq!(connack.get(1), Some(&0x87), "Not authorized: {connack:?}");
        assert_eq!(client.until_end(), (Vec::new(), End::Orderly));
        answers.push(String::from_utf8_lossy(&connack).into_owned());
    }
    assert!(!answers[0].contains("aud") && answers[1].contains("aud"), "{answers:?}");
}

#[test]
fn a_credential_on_the_plain_listener_is_refused() {
    let rig = rig(|_| {});
    let lamp = rig.device("lamp");
    let mut client = Client::plain(rig.plain, Level::V311);
    assert_eq!(client.connect("lamp", Some("unused"), Some(&jwt(&lamp).sign())), [0, 5]);
    assert_eq!(rig.refused("not-confidential"), 1);
}

#[test]
fn a_plain_client_on_the_tls_port_and_a_wrong_alpn_are_turned_away_and_counted() {
    let rig = rig(|_| {});
    let mut lost = Client::plain(rig.tls, Level::V311);
    lost.send(&connect(Level::V311, "lamp", None, None, 0));
    wait_until("the garbage is counted", || rig.refused("tls-failed") == 1);
    let mut config = (*rig.tls13()).clone();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let mut web = Client::tls(rig.tls, Level::V311, &config.into());
    let hello = connect(Level::V311, "lamp", None, None, 0);
    assert!(std::io::Write::write_all(&mut web.wire, &hello).is_err() || web.packet().is_err());
    wait_until("the wrong ALPN is counted", || rig.refused("tls-failed") == 2);
    let lamp = rig.device("lamp");
    let mut config = (*rig.tls13()).clone();
    config.alpn_protocols = vec![b"mqtt".to_vec()];
    Client::tls(rig.tls, Level::V311, &config.into()).enter("lamp", Some("unused"), Some(&jwt(&lamp).sign()));
}

#[test]
fn nothing_is_resumed() {
    let rig = rig(|_| {});
    let lamp = rig.device("lamp");
    for config in [rig.tls12(), rig.tls13()] {
        for _ in 0..2 {
            let client = Client::tls(rig.tls, Level::V311, &config);
            let client = client.enter("lamp", Some("unused"), Some(&jwt(&lamp).sign()));
            let crate::client::Wire::Tls(wire) = &client.wire else { unreachable!("it is TLS") };
            assert_eq!(wire.conn.handshake_kind(), Some(rustls::HandshakeKind::Full));
            if wire.conn.protocol_version() == Some(rustls::ProtocolVersion::TLSv1_3) {
                let group = wire.conn.negotiated_key_exchange_group().map(|group| group.name());
                assert_eq!(group, Some(rustls::NamedGroup::X25519MLKEM768));
            }
        }
    }
}
