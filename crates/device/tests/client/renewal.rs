//! A credential is renewed in time, over the open connection, and the next connection waits as it should.

use std::sync::mpsc::Sender;
use std::time::Duration;

use drawbridge_device::{
    AceProof, Advice, DeviceClient, Event, ProtocolVersion, Qos, REFRESH_EXPORTER_LABEL, Sign, SigningKey,
    TokenSource, Way, refresh_context,
};
use drawbridge_jose::{Verify, base64url_decode};
use drawbridge_mqtt::codec::{Auth, Packet, PacketId, Publish, ReasonCode};
use drawbridge_names::TopicName;

use crate::broker::{Broker, PATIENCE, Peer};
use crate::ways::{key, login, numbered};

const LIFE_MS: u64 = 400;

fn auth(peer: &mut Peer, method: &str, reason: ReasonCode, data: Option<&[u8]>) {
    let user_properties = Default::default();
    peer.say(&Packet::Auth(Auth {
        reason,
        method: Some(method),
        data,
        reason_string: None,
        user_properties,
    }));
}

/// The reason and data of the next AUTH; `None` when the client is gone.
fn next_auth(peer: &mut Peer) -> Option<(ReasonCode, Vec<u8>)> {
    peer.until(|packet| match packet {
        Packet::Auth(auth) => Some((auth.reason, auth.data.unwrap_or_default().to_vec())),
        _ => None,
    })
}

fn renewals(client: &DeviceClient, count: usize) {
    let events = client.events();
    let mut renewed = 0;
    while renewed < count {
        match events.recv_timeout(PATIENCE).expect("an event") {
            Event::Renewed { .. } => renewed += 1,
            Event::Connected { .. } => assert_eq!(renewed, 0, "it connected anew"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_method_is_renewed_by_auth_with_a_new_token_each_time() {
    let broker = Broker::start(true, |number, peer, reports: &Sender<Vec<u8>>| {
        assert_eq!(number, 0, "one connection");
        peer.admit(false);
        while let Some((reason, data)) = next_auth(peer) {
            assert_eq!(reason, ReasonCode::ReAuthenticate);
            let _ = reports.send(data);
            auth(peer, "OAUTH2-JWT", ReasonCode::Success, None);
        }
    });
    let mut options = broker.options(true);
    options.way = Way::Method("OAUTH2-JWT".to_owned());
    options.tokens = numbered(LIFE_MS, false);
    let client = DeviceClient::start(options).expect("starts");
    renewals(&client, 5);
    for number in 2..7 {
        assert_eq!(broker.report(), format!("token-{number}").into_bytes());
    }
}

#[test]
fn ace_renews_by_challenge_never_by_the_exporter() {
    let key = key();
    let public = key.public_key().clone();
    let broker = Broker::start(false, move |number, peer, _: &Sender<()>| {
        assert_eq!(number, 0, "one connection");
        peer.admit(false);
        for renewal in 2.. {
            let Some((reason, data)) = next_auth(peer) else { return };
            let token = format!("token-{renewal}");
            assert_eq!(reason, ReasonCode::ReAuthenticate);
            assert_eq!(
                data,
                [&[0, token.len() as u8], token.as_bytes()].concat(),
                "the token and nothing behind it"
            );
            auth(peer, "ace", ReasonCode::ContinueAuthentication, Some(b"nonce-08"));
            let Some((reason, answer)) = next_auth(peer) else { return };
            assert_eq!(reason, ReasonCode::ContinueAuthentication);
            public.verify(&[b"nonce-08", &answer[..8]].concat(), &answer[8..]).expect("proven");
            auth(peer, "ace", ReasonCode::Success, None);
        }
    });
    let mut options = broker.options(false);
    options.way = Way::Ace(AceProof::Exporter);
    options.login = Some(login(&key));
    options.tokens = numbered(LIFE_MS, true);
    renewals(&DeviceClient::start(options).expect("starts"), 3);
}

/// Takes what is published to `$drawbridge/auth`, and answers it. The third renewal is refused once.
fn renew_by_topic(peer: &mut Peer, check: impl Fn(&Peer, &[u8])) {
    let mut count = 0;
    loop {
        let heard = peer.until(|packet| match packet {
            Packet::Publish(publish) => {
                assert_eq!(publish.topic.map(TopicName::as_str), Some("$drawbridge/auth"));
                assert_eq!((publish.qos, publish.retain), (Qos::AtLeastOnce, false));
                Some((publish.packet_id.expect("QoS 1"), publish.payload.to_vec()))
            }
            Packet::PubAck(_) => None,
            _ => None,
        });
        let Some((id, payload)) = heard else { return };
        count += 1;
        check(peer, &payload);
        peer.puback(id);
        let result = if count == 3 {
            r#"{"ok":false,"error":"rate"}"#.to_owned()
        } else {
            r#"{"ok":true,"removed":["old/#"]}"#.to_owned()
        };
        peer.say(&Packet::Publish(Publish {
            dup: false,
            qos: Qos::AtLeastOnce,
            retain: false,
            topic: Some(TopicName::parse("$drawbridge/auth/result").expect("a topic")),
            packet_id: PacketId::new(7),
            properties: Default::default(),
            payload: result.as_bytes(),
        }));
    }
}

#[test]
fn any_version_renews_by_a_topic_and_a_refusal_is_tried_again() {
    for version in [ProtocolVersion::V311, ProtocolVersion::V5] {
        let broker = Broker::start(true, |number, peer, _: &Sender<()>| {
            assert_eq!(number, 0, "one connection");
            peer.admit(false);
            renew_by_topic(peer, |_, payload| {
                assert!(payload.starts_with(b"token-") && !payload.contains(&b'\n'))
            });
        });
        let mut options = broker.options(true);
        options.version = version;
        options.tokens = numbered(LIFE_MS, false);
        let client = DeviceClient::start(options).expect("starts");
        let events = client.events();
        let (mut renewed, mut failed) = (0, 0);
        while renewed < 4 {
            match events.recv_timeout(PATIENCE).expect("an event") {
                Event::Renewed { removed, .. } => {
                    assert_eq!(removed, ["old/#"]);
                    renewed += 1;
                }
                Event::RenewalFailed { why } => {
                    assert_eq!(why, "rate");
                    failed += 1;
                }
                Event::Connected { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(failed, 1);
    }
}

#[test]
fn a_bound_token_is_renewed_with_a_proof_of_its_key_over_this_connection() {
    let key = key();
    let public = key.public_key().clone();
    let broker = Broker::start(false, move |number, peer, _: &Sender<()>| {
        assert_eq!(number, 0, "one connection");
        peer.admit(false);
        let public = public.clone();
        renew_by_topic(peer, |peer, payload| {
            let text = std::str::from_utf8(payload).expect("text");
            let (token, proof) = text.split_once('\n').expect("a second line");
            let mut input = b"db-refresh-1\0".to_vec();
            input.extend(peer.export(REFRESH_EXPORTER_LABEL, &refresh_context(token.as_bytes())));
            public.verify(&input, &base64url_decode(proof).expect("base64url")).expect("proven");
        });
    });
    let mut options = broker.options(false);
    options.login = Some(login(&key));
    options.tokens = numbered(LIFE_MS, true);
    renewals(&DeviceClient::start(options).expect("starts"), 2);
}

#[test]
fn a_server_that_renews_nothing_gets_a_new_connection_before_the_end_and_no_message_is_lost() {
    let broker = Broker::start(true, |number, peer, reports: &Sender<(usize, Vec<u8>)>| {
        let password = peer.hear(|packet| match packet {
            Packet::Connect(connect) => connect.password.expect("a token").to_vec(),
            other => panic!("{other:?}"),
        });
        let Some(password) = password else { return };
        peer.welcome(number > 0);
        let _ = reports.send((number, password));
        loop {
            let Some(subscribe) = peer.hear(|packet| match packet {
                Packet::Subscribe(subscribe) => Some(subscribe.packet_id),
                _ => None,
            }) else {
                return;
            };
            if let Some(id) = subscribe {
                peer.suback(id, ReasonCode::NotAuthorized);
            }
        }
    });
    let mut options = broker.options(true);
    options.tokens = numbered(LIFE_MS, false);
    let client = DeviceClient::start(options).expect("starts");
    let events = client.events();
    for number in 0..3 {
        assert_eq!(broker.report(), (number, format!("token-{}", number + 1).into_bytes()));
    }
    for event in events.try_iter() {
        assert!(matches!(event, Event::Connected { .. }), "{event:?}");
    }
}

/// The waits after each of these answers to CONNECT, with all of the jitter taken out of the bounds.
fn waits(reason: ReasonCode, count: usize) -> Vec<Duration> {
    let broker = Broker::start(true, move |_, peer, _: &Sender<()>| {
        if peer.hear(|_| ()).is_some() {
            peer.refuse(reason);
        }
    });
    let mut options = broker.options(true);
    options.tokens = numbered(60_000, false);
    options.backoff.wait_min = Duration::from_millis(50);
    options.backoff.slow_min = Duration::from_millis(300);
    let client = DeviceClient::start(options).expect("starts");
    let events = client.events();
    let mut waits = Vec::new();
    while waits.len() < count {
        match events.recv_timeout(PATIENCE).expect("an event") {
            Event::Disconnected { code, retry_in, .. } => {
                assert_eq!(code, Some(reason.byte()));
                waits.push(retry_in);
            }
            other => panic!("{other:?}"),
        }
    }
    waits
}

#[test]
fn a_client_that_is_refused_waits_as_the_reason_asks() {
    for reason in [ReasonCode::QuotaExceeded, ReasonCode::ConnectionRateExceeded, ReasonCode::ServerBusy] {
        assert_eq!(Advice::for_reason(reason.byte()), Advice::Wait);
        assert!(waits(reason, 3).iter().all(|wait| *wait >= Duration::from_millis(50)));
    }
    let refused = waits(ReasonCode::NotAuthorized, 3);
    assert!(refused[0] <= Duration::from_millis(20), "a new token at once: {refused:?}");
    assert!(refused[1..].iter().all(|wait| *wait >= Duration::from_millis(300)), "then slowly: {refused:?}");
    assert!(waits(ReasonCode::Banned, 2).iter().all(|wait| *wait >= Duration::from_millis(300)));
}

#[test]
fn a_key_in_a_secure_element_signs_for_all_of_it() {
    struct Element(drawbridge_device::SigningKey);
    impl Sign for Element {
        fn algorithm(&self) -> drawbridge_device::Algorithm {
            self.0.algorithm()
        }
        fn sign(&self, message: &[u8]) -> Result<Vec<u8>, drawbridge_device::SignError> {
            self.0.sign(message)
        }
    }
    impl drawbridge_device::DeviceKey for Element {
        fn public_key(&self) -> &drawbridge_device::PublicKey {
            self.0.public_key()
        }
    }
    let key = drawbridge_device::create_key(drawbridge_device::Algorithm::Es256).expect("a key");
    let public = key.public_key().clone();
    let broker = Broker::start(true, move |_, peer, reports: &Sender<bool>| {
        let good = peer.hear(|packet| match packet {
            Packet::Connect(connect) => {
                let jwt = connect.password.expect("a JWT");
                let jws = drawbridge_jose::Jws::parse(jwt, &Default::default()).expect("a JWT");
                jws.verify(&public).is_ok()
            }
            other => panic!("{other:?}"),
        });
        let _ = reports.send(good == Some(true));
    });
    let mut options = broker.options(true);
    let mut login = login(&crate::ways::key());
    login.key = std::sync::Arc::new(Element(key));
    options.login = Some(login);
    let _client = DeviceClient::start(options).expect("starts");
    assert!(broker.report());
}

/// Claims of a JWT by this key.
fn claims(jwt: &[u8], key: &SigningKey) -> drawbridge_jose::Claims {
    let jws = drawbridge_jose::Jws::parse(jwt, &Default::default()).expect("a JWT");
    jws.verify(key.public_key()).expect("signed").claims().expect("claims")
}

/// A JWT of ours that came, and over which filters the client has asked for a nonce before.
pub(crate) type Brought = (Vec<u8>, usize);

/// Gives a nonce for each subscription, and says how each renewal went; `granted`: there are nonces. Reports the JWTs.
pub(crate) fn give_nonces(
    peer: &mut Peer,
    granted: bool,
    reports: &Sender<Brought>,
    results: &mut dyn FnMut() -> String,
) {
    enum Heard {
        Subscribe(PacketId, bool),
        Jwt(Option<PacketId>, Vec<u8>),
        Other,
    }
    let say = |peer: &mut Peer, topic: &str, payload: &str| {
        peer.say(&Packet::Publish(Publish {
            dup: false,
            qos: Qos::AtMostOnce,
            retain: false,
            topic: Some(TopicName::parse(topic).expect("a topic")),
            packet_id: None,
            properties: Default::default(),
            payload: payload.as_bytes(),
        }));
    };
    let mut nonces = 0;
    loop {
        let heard = peer.hear(|packet| match packet {
            Packet::Subscribe(it) => {
                Heard::Subscribe(it.packet_id, it.entries[0].filter == "$drawbridge/auth/nonce")
            }
            Packet::Publish(it) => Heard::Jwt(it.packet_id, it.payload.to_vec()),
            Packet::Auth(it) => Heard::Jwt(None, it.data.unwrap_or_default().to_vec()),
            _ => Heard::Other,
        });
        match heard {
            None => return,
            Some(Heard::Subscribe(id, of_nonces)) => {
                let code =
                    if of_nonces && !granted { ReasonCode::NotAuthorized } else { ReasonCode::GrantedQos1 };
                peer.suback(id, code);
                nonces += usize::from(of_nonces);
                if of_nonces && granted {
                    say(peer, "$drawbridge/auth/nonce", &format!("nonce-{nonces}"));
                }
            }
            Some(Heard::Jwt(id, jwt)) => {
                let _ = reports.send((jwt, nonces));
                match id {
                    // What became of it comes before the PUBACK, as the server has it.
                    Some(id) => {
                        say(peer, "$drawbridge/auth/result", &results());
                        peer.puback(id);
                    }
                    None => auth(peer, "OAUTH2-JWT", ReasonCode::Success, None),
                }
            }
            Some(Heard::Other) => {}
        }
    }
}

#[test]
fn a_jwt_of_ours_carries_the_nonce_that_was_asked_for_when_it_was_time() {
    let (old, new) = (ProtocolVersion::V311, ProtocolVersion::V5);
    let method = Way::Method("OAUTH2-JWT".to_owned());
    for (version, way, bound) in [(old, Way::Token, true), (new, Way::Token, false), (new, method, true)] {
        let key = key();
        let broker = Broker::start(false, |number, peer, reports: &Sender<Brought>| {
            assert_eq!(number, 0, "one connection");
            peer.admit(false);
            let _ = reports.send((peer.export(b"EXPORTER-Channel-Binding", b"").to_vec(), 0));
            give_nonces(peer, true, reports, &mut || r#"{"ok":true}"#.to_owned());
        });
        let mut options = broker.options(false);
        (options.version, options.way, options.login) = (version, way, Some(login(&key)));
        options.tokens = TokenSource::DeviceJwt { life_s: 3, bound };
        let client = DeviceClient::start(options).expect("starts");
        renewals(&client, 2);
        let binding = drawbridge_jose::base64url_encode(&broker.report().0);
        let mut used = std::collections::HashSet::new();
        for renewal in 1..3 {
            let (jwt, nonces) = broker.report();
            assert_eq!(nonces, renewal, "it asks when it is time, and not for the next one before");
            let claims = claims(&jwt, &key);
            assert_eq!(claims.text("nonce"), Ok(Some(format!("nonce-{renewal}").as_str())));
            assert_eq!(claims.text("cb"), Ok(bound.then_some(binding.as_str())));
            assert!(used.insert(claims.text("jti").expect("a text").expect("there").to_owned()), "used once");
        }
    }
}

#[test]
fn a_server_without_nonces_gets_a_jwt_without_one() {
    let key = key();
    let broker = Broker::start(true, |number, peer, reports: &Sender<Brought>| {
        assert_eq!(number, 0, "one connection");
        peer.admit(false);
        give_nonces(peer, false, reports, &mut || r#"{"ok":true}"#.to_owned());
    });
    let mut options = broker.options(true);
    options.login = Some(login(&key));
    options.tokens = TokenSource::DeviceJwt { life_s: 3, bound: false };
    let client = DeviceClient::start(options).expect("starts");
    renewals(&client, 1);
    assert_eq!(claims(&broker.report().0, &key).text("nonce"), Ok(None));
}

/// A clock at 1970.
struct Unset;

impl drawbridge_device::Environment for Unset {
    fn now_s(&self) -> u64 {
        17
    }
    fn elapsed(&self) -> Duration {
        drawbridge_device::Host.elapsed()
    }
    fn random(&self, bytes: &mut [u8]) {
        drawbridge_device::Host.random(bytes);
    }
}

#[test]
fn a_renewal_that_is_refused_for_the_time_is_tried_again_at_once_with_the_time_of_the_server() {
    const SERVER_S: u64 = 1_800_000_000;
    let key = key();
    let broker = Broker::start(true, |number, peer, reports: &Sender<Brought>| {
        assert_eq!(number, 0, "one connection");
        peer.admit(false);
        let mut first = true;
        give_nonces(peer, true, reports, &mut || match std::mem::take(&mut first) {
            true => format!(r#"{{"ok":false,"error":"not-authorized","time":{SERVER_S}}}"#),
            false => r#"{"ok":true}"#.to_owned(),
        });
    });
    let mut options = broker.options(true);
    options.environment = std::sync::Arc::new(Unset);
    options.login = Some(login(&key));
    options.tokens = TokenSource::DeviceJwt { life_s: 600, bound: false };
    let client = DeviceClient::start(options).expect("starts");
    assert!(client.wait_connected(PATIENCE));
    let events = client.events();
    client.renew();
    let told = |event| matches!(event, Event::RenewalFailed { why } if why == "not-authorized");
    assert!(told(events.recv_timeout(PATIENCE).expect("an event")));
    let renewed = events.recv_timeout(PATIENCE).expect("an event");
    assert!(matches!(renewed, Event::Renewed { .. }), "{renewed:?}");
    let issued = |jwt: &[u8]| claims(jwt, &key).numeric_date_s("iat").expect("a number").expect("there");
    assert_eq!(issued(&broker.report().0), 17);
    assert_eq!(issued(&broker.report().0), SERVER_S);
}

#[test]
fn a_server_that_ends_each_credential_at_once_is_not_hammered_for_it() {
    let broker = Broker::start(true, |_, peer, _: &Sender<()>| {
        if peer.hear(|_| ()).is_some() {
            let user_properties = [("db-expires-in", "0")];
            let properties = drawbridge_mqtt::codec::ConnAckProperties {
                user_properties: drawbridge_mqtt::codec::UserProperties::of(&user_properties),
                ..Default::default()
            };
            peer.say(&Packet::ConnAck(drawbridge_mqtt::codec::ConnAck {
                session_present: false,
                reason: ReasonCode::Success,
                properties,
            }));
            while let Some(subscribe) = peer.hear(|packet| match packet {
                Packet::Subscribe(subscribe) => Some(subscribe.packet_id),
                _ => None,
            }) {
                if let Some(id) = subscribe {
                    peer.suback(id, ReasonCode::NotAuthorized);
                }
            }
        }
    });
    let mut options = broker.options(true);
    options.tokens = numbered(60_000, false);
    options.backoff.base = Duration::from_secs(60);
    let client = DeviceClient::start(options).expect("starts");
    let events = client.events();
    let told = loop {
        match events.recv_timeout(PATIENCE).expect("an event") {
            Event::Disconnected { why, .. } => break why,
            Event::Connected { .. } | Event::RenewalFailed { .. } => {}
            other => panic!("{other:?}"),
        }
    };
    assert!(told.contains("as soon as"), "{told}");
}

#[test]
fn a_rotation_that_was_cut_off_ends_with_the_key_that_the_server_takes() {
    use drawbridge_device::{DeviceIdentity, create_key, store_key};
    for (case, server_has_the_new_one) in [("answer lost", true), ("never sent", false)] {
        let keys = [(); 2].map(|()| create_key(drawbridge_device::Algorithm::EdDsa).expect("a key"));
        let [old, new] = &keys;
        let taken = if server_has_the_new_one { new } else { old }.public_key().clone();
        let broker = Broker::start(true, move |_, peer, _: &Sender<()>| {
            let good = peer.hear(|packet| match packet {
                Packet::Connect(connect) => {
                    let jwt = connect.password.expect("a JWT").to_vec();
                    let jws = drawbridge_jose::Jws::parse(&jwt, &Default::default()).expect("a JWT");
                    jws.verify(&taken).is_ok()
                }
                other => panic!("{other:?}"),
            });
            match good {
                Some(true) => {
                    peer.welcome(false);
                    while peer.hear(|_| ()).is_some() {}
                }
                Some(false) => peer.refuse(ReasonCode::NotAuthorized),
                None => {}
            }
        });
        let place = tempfile::tempdir().expect("a folder");
        let folder = place.path().join("lamp");
        let identity = DeviceIdentity {
            registry: "default".to_owned(),
            device: "lamp".to_owned(),
            issuer: "https://core.example".to_owned(),
            bridge_audience: "https://core.example/mqtt".to_owned(),
            mqtts: broker.server.clone(),
            https: "localhost:1".to_owned(),
            ca_pem: broker.ca_pem.clone(),
            key: drawbridge_device::SigningKey::from_pkcs8_pem(&old.to_pkcs8_pem()).expect("a key"),
        };
        identity.store(&folder).expect("stored");
        store_key(&folder.join("next-key.pem"), new).expect("stored");
        let mut options = drawbridge_device::ClientOptions::load(&folder).expect("loads");
        options.endpoint.tls = None;
        options.backoff.base = Duration::from_millis(20);
        let client = DeviceClient::start(options).expect("starts");
        assert!(client.wait_connected(PATIENCE), "{case}");
        let left = drawbridge_device::load_key(&folder.join("key.pem")).expect("a key");
        assert_eq!(left.public_key() == new.public_key(), server_has_the_new_one, "{case}");
        // A key that the server was never told waits for the next rotation.
        assert_eq!(folder.join("next-key.pem").exists(), !server_has_the_new_one, "{case}");
    }
}

#[test]
fn a_client_that_is_dropped_ends_its_thread_connected_or_waiting_to_connect() {
    let broker = Broker::start(true, |number, peer, _: &Sender<()>| {
        if number == 0 {
            peer.admit(false);
            while peer.hear(|_| ()).is_some() {}
        } else if peer.hear(|_| ()).is_some() {
            peer.refuse(ReasonCode::Banned); // a minute and more to wait
        }
    });
    for connected in [true, false] {
        let environment = std::sync::Arc::new(Unset);
        let mut options = broker.options(true);
        options.way = Way::Certificate;
        options.environment = environment.clone();
        let client = DeviceClient::start(options).expect("starts");
        assert_eq!(client.connected(PATIENCE).is_ok(), connected);
        drop(client);
        // The thread has held it.
        let now = || drawbridge_device::Environment::elapsed(&drawbridge_device::Host);
        let deadline = now() + PATIENCE;
        while std::sync::Arc::strong_count(&environment) > 1 {
            assert!(now() < deadline, "the thread goes on; connected: {connected}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
