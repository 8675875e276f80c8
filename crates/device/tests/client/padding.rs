//! What an observer of the lengths and times of a client can tell, when it pads.

use std::time::Duration;

use drawbridge_device::{
    AceProof, ClientOptions, DeviceClient, DeviceError, ProtocolVersion, SigningKey, Token, TokenSource, Way,
};
use drawbridge_mqtt::codec::Packet;

use crate::broker::{Broker, PATIENCE};
use crate::ways::{key, login};

fn bytes(packet: &Packet<'_>, version: ProtocolVersion) -> usize {
    let mut bytes = Vec::new();
    packet.encode(version, &mut bytes).expect("it was decoded");
    bytes.len()
}

/// Length of CONNECT, and what it says in its user name.
fn connect(set: impl Fn(&mut ClientOptions)) -> (usize, Option<String>) {
    let broker = Broker::start(false, |_, peer, reports| {
        let seen = peer.hear(|packet| match &packet {
            Packet::Connect(connect) => {
                (bytes(&packet, connect.version), connect.username.map(str::to_owned))
            }
            other => panic!("{other:?}"),
        });
        peer.welcome(false);
        let _ = reports.send(seen.expect("CONNECT"));
        while peer.hear(|_| ()).is_some() {}
    });
    let mut options = broker.options(false);
    set(&mut options);
    let client = DeviceClient::start(options).expect("starts");
    client.connected(PATIENCE).expect("admitted");
    broker.report()
}

#[test]
fn connect_has_one_length_by_every_way_in() {
    let key = key();
    let jwt = TokenSource::DeviceJwt { life_s: 600, bound: false };
    let opaque = TokenSource::From(std::sync::Arc::new(|| Ok(Token::of_text("dbo_opaque", 0))));
    let password = Way::Password { user_name: "lamp".into(), password: b"a long password".to_vec() };
    let rows = [
        (ProtocolVersion::V311, Way::Token, jwt.clone()),
        (ProtocolVersion::V311, Way::Token, opaque.clone()),
        (ProtocolVersion::V311, Way::Certificate, jwt.clone()),
        (ProtocolVersion::V5, Way::Token, jwt.clone()),
        (ProtocolVersion::V5, Way::Token, opaque.clone()),
        (ProtocolVersion::V5, Way::Certificate, jwt.clone()),
        (ProtocolVersion::V5, password, jwt.clone()),
        (ProtocolVersion::V5, Way::Method("OAUTH2-JWT".to_owned()), jwt),
        (ProtocolVersion::V5, Way::Ace(AceProof::Exporter), opaque),
    ];
    let mut plain = std::collections::BTreeSet::new();
    for (version, way, tokens) in rows {
        for pad_to in [0, 1024] {
            let (length, user_name) = connect(|options| {
                options.login = Some(login(&key));
                (options.version, options.way, options.tokens) = (version, way.clone(), tokens.clone());
                options.pad_to = pad_to;
            });
            if pad_to == 0 {
                plain.insert(length);
            } else {
                assert_eq!(length, 1024, "{version:?}, {way:?}");
                let user_name = user_name.unwrap_or_default();
                assert_eq!(user_name.ends_with(' '), version == ProtocolVersion::V311, "{way:?}");
            }
        }
    }
    assert!(plain.len() >= 8, "else there is nothing to hide: {plain:?}");
}

#[test]
fn where_there_is_no_room_nothing_is_sent() {
    let broker = Broker::start(false, |_, peer, reports| {
        if peer.hear(|_| ()).is_some() {
            let _ = reports.send(());
        }
    });
    let password = Way::Password { user_name: "lamp".into(), password: b"a long password".to_vec() };
    let mut options = broker.options(false);
    (options.version, options.way, options.pad_to) = (ProtocolVersion::V311, password, 1024);
    let client = DeviceClient::start(options).expect("starts");
    let refused = client.connected(PATIENCE).expect_err("no room");
    assert!(matches!(&refused, DeviceError::Protocol(why) if why.contains("pad_to")), "{refused}");
    drop(client);
    assert!(broker.reports.try_recv().is_err(), "no CONNECT went out");
}

#[test]
fn pings_have_random_lengths_and_times_and_a_silent_server_is_asked_in_the_end() {
    let broker = Broker::start(false, |_, peer, reports| {
        peer.admit(false);
        loop {
            let heard = peer.hear(|packet| match &packet {
                Packet::Publish(publish) => {
                    let topic = publish.topic.expect("a topic");
                    assert_eq!((topic.as_str(), publish.packet_id), ("$drawbridge/ping", None));
                    Some(publish.payload.len())
                }
                Packet::PingReq => None,
                other => panic!("{other:?}"),
            });
            let Some(heard) = heard else { return };
            if heard.is_none() {
                peer.say(&Packet::PingResp);
            }
            let _ = reports.send(heard);
        }
    });
    let mut options = broker.options(false);
    (options.keep_alive_s, options.way, options.pad_to) = (1, Way::Certificate, 256);
    let client = DeviceClient::start(options).expect("starts");
    client.connected(PATIENCE).expect("admitted");
    let pings: Vec<_> = (0..8).map(|_| broker.report()).collect();
    let lengths: Vec<usize> = pings.iter().filter_map(|ping| *ping).collect();
    assert_eq!(pings.iter().map(Option::is_none).collect::<Vec<_>>(), [false, false, false, true].repeat(2));
    assert!(lengths.iter().all(|length| *length < 256), "{lengths:?}");
    assert!(lengths.iter().any(|length| *length != lengths[0]), "six times the same by chance: {lengths:?}");
    let _ = client.stop(Duration::from_secs(1));
}

#[test]
fn a_jwt_can_carry_its_own_padding() {
    let key = SigningKey::generate(drawbridge_device::Algorithm::EdDsa).expect("a key");
    let jwt =
        drawbridge_device::ConnectJwt { device: "lamp", bridge_audience: "a", now_s: 1_000, life_s: 60 };
    let plain = jwt.sign(&key).expect("signs");
    for pad_bytes in [0, 30, 300] {
        let padded = jwt.sign_padded(pad_bytes, None, &key).expect("signs");
        // `,"pad":""` and what is between, in base64url.
        let more = (9 + pad_bytes) * 4 / 3;
        let found = padded.len() - plain.len();
        assert!(found.abs_diff(more) <= 2, "{pad_bytes}: {found} more");
    }
}
