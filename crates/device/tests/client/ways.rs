//! Each way in, as its bytes arrive.

use std::sync::{Arc, Mutex};

use drawbridge_device::{
    ACE_EXPORTER_LABEL, AceProof, Algorithm, ClientCertificate, ClientOptions, DeviceClient, Event, Host,
    KeyLogin, ProtocolVersion, PublicKey, ServerKey, SigningKey, SymmetricKey, Tls, Token, TokenSource, Way,
    create_key,
};
use drawbridge_jose::{Jws, ParseOptions, Verify, base64url_decode, base64url_encode, sha256};
use drawbridge_mqtt::codec::{Auth, ConnAck, ConnAckProperties, Packet, ReasonCode};

use crate::broker::{Broker, PATIENCE, Peer};

pub(crate) fn key() -> Arc<SigningKey> {
    Arc::new(create_key(Algorithm::EdDsa).expect("a key"))
}

pub(crate) fn login(key: &Arc<SigningKey>) -> KeyLogin {
    KeyLogin {
        device: "lamp".to_owned(),
        issuer: "https://core.example".to_owned(),
        bridge_audience: "https://core.example/mqtt".to_owned(),
        key: Arc::clone(key) as _,
        api: None,
        folder: None,
    }
}

/// Tokens `token-1`, `token-2` ... that live so long.
pub(crate) fn numbered(life_ms: u64, bound: bool) -> TokenSource {
    let count = Mutex::new(0);
    TokenSource::From(Arc::new(move || {
        let mut count = count.lock().expect("not poisoned");
        *count += 1;
        let life = Some(std::time::Duration::from_millis(life_ms));
        Ok(Token { life, bound, ..Token::new(format!("token-{count}")) })
    }))
}

/// What one CONNECT presented.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Seen {
    user_name: Option<String>,
    password: Option<Vec<u8>>,
    method: Option<String>,
    data: Option<Vec<u8>>,
    exported: [u8; 32],
    binding: [u8; 32],
    certificate: Option<Vec<u8>>,
    answer: Option<Vec<u8>>,
}

fn look(peer: &mut Peer) -> Seen {
    let mut seen = peer
        .hear(|packet| match packet {
            Packet::Connect(connect) => Seen {
                user_name: connect.username.map(str::to_owned),
                password: connect.password.map(<[u8]>::to_vec),
                method: connect.properties.authentication_method.map(str::to_owned),
                data: connect.properties.authentication_data.map(<[u8]>::to_vec),
                ..Seen::default()
            },
            other => panic!("{other:?}"),
        })
        .expect("CONNECT");
    seen.exported = peer.export(ACE_EXPORTER_LABEL, b"");
    seen.binding = peer.export(b"EXPORTER-Channel-Binding", b"");
    seen.certificate = peer.certificate();
    seen
}

/// Connects once as `set` says; answers what the broker saw.
fn presented(set: impl Fn(&mut ClientOptions)) -> Seen {
    let broker = Broker::start(false, |_, peer, reports| {
        let mut seen = look(peer);
        if seen.method.as_deref() == Some("ace") && seen.data.as_deref() == Some(b"\0\x07token-1") {
            peer.say(&Packet::Auth(Auth {
                reason: ReasonCode::ContinueAuthentication,
                method: Some("ace"),
                data: Some(b"serverno"),
                reason_string: None,
                user_properties: Default::default(),
            }));
            seen.answer = peer
                .hear(|packet| match packet {
                    Packet::Auth(auth) => auth.data.map(<[u8]>::to_vec),
                    other => panic!("{other:?}"),
                })
                .expect("AUTH");
        }
        let properties =
            ConnAckProperties { authentication_method: seen.method.as_deref(), ..Default::default() };
        peer.say(&Packet::ConnAck(ConnAck {
            session_present: false,
            reason: ReasonCode::Success,
            properties,
        }));
        let _ = reports.send(seen);
        while peer.hear(|_| ()).is_some() {}
    });
    let mut options = broker.options(false);
    set(&mut options);
    let client = DeviceClient::start(options).expect("starts");
    assert!(client.wait_connected(PATIENCE));
    broker.report()
}

#[test]
fn a_device_jwt_is_the_password_and_can_be_bound_to_its_connection() {
    let key = key();
    for version in [ProtocolVersion::V311, ProtocolVersion::V5] {
        for bound in [false, true] {
            let seen = presented(|options| {
                options.version = version;
                options.login = Some(login(&key));
                options.tokens = TokenSource::DeviceJwt { life_s: 600, bound };
            });
            let jwt = seen.password.clone().expect("a password");
            let jws = Jws::parse(&jwt, &ParseOptions::default()).expect("a JWT");
            let claims = jws.verify(key.public_key()).expect("signed").claims().expect("claims");
            assert_eq!(claims.text("sub"), Ok(Some("lamp")));
            assert_eq!(claims.text("aud"), Ok(Some("https://core.example/mqtt")));
            let binding = base64url_encode(&seen.binding);
            assert_eq!(claims.text("cb"), Ok(bound.then_some(binding.as_str())));
            // [MQTT-3.1.2-22] of 3.1.1: no password without a user name.
            assert_eq!(seen.user_name.is_some(), version == ProtocolVersion::V311);
            assert_eq!((seen.method, seen.data), (None, None));
        }
    }
}

#[test]
fn user_name_and_password_methods_of_one_round_and_nothing_at_all() {
    let seen = presented(|options| {
        options.way = Way::Password { user_name: "lamp".into(), password: b"correct horse".to_vec() };
    });
    assert_eq!(
        (seen.user_name.as_deref(), seen.password.as_deref()),
        (Some("lamp"), Some(&b"correct horse"[..]))
    );
    for method in ["OAUTH2-JWT", "CUSTOM-JWT"] {
        let seen = presented(|options| {
            options.way = Way::Method(method.to_owned());
            options.tokens = numbered(600_000, false);
        });
        assert_eq!((seen.method.as_deref(), seen.data.as_deref()), (Some(method), Some(&b"token-1"[..])));
        assert_eq!((seen.user_name, seen.password), (None, None));
    }
    let seen = presented(|options| options.way = Way::Certificate);
    assert_eq!((seen.user_name, seen.password, seen.data, seen.certificate), (None, None, None, None));
}

#[test]
fn ace_proves_its_key_by_the_exporter_by_challenge_and_in_3_1_1() {
    let key = key();
    for only_1_2 in [false, true] {
        let ace = |version, proof| {
            presented(|options| {
                let tls = options.endpoint.tls.as_mut().expect("TLS");
                tls.only_1_2 = only_1_2;
                options.version = version;
                options.way = Way::Ace(proof);
                options.login = Some(login(&key));
                options.tokens = numbered(600_000, true);
            })
        };
        let seen = ace(ProtocolVersion::V5, AceProof::Exporter);
        let data = seen.data.expect("data");
        assert_eq!((seen.method.as_deref(), &data[..9]), (Some("ace"), &b"\0\x07token-1"[..]));
        key.public_key().verify(&seen.exported, &data[9..]).expect("the proof is of this connection");
        assert_eq!((seen.user_name, seen.password), (None, None));

        let seen = ace(ProtocolVersion::V5, AceProof::Challenge);
        let answer = seen.answer.expect("an answer to the challenge");
        let input = [b"serverno", &answer[..8]].concat();
        key.public_key().verify(&input, &answer[8..]).expect("both nonces are signed");

        let seen = ace(ProtocolVersion::V311, AceProof::Exporter);
        let name = seen.user_name.expect("a user name");
        let token = base64url_decode(name.strip_prefix("ace").expect("ace")).expect("base64url");
        assert_eq!(token, b"token-1");
        key.public_key().verify(&seen.exported, &seen.password.expect("a password")).expect("the proof");
    }
}

#[test]
fn ace_proves_a_symmetric_key_of_the_token_by_hmac() {
    let secret: Vec<u8> = (0..32).collect();
    let mac = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &secret);
    let is_over =
        |input: &[u8], pop: &[u8]| aws_lc_rs::hmac::verify(&mac, input, pop).expect("a MAC over it");
    let key = SymmetricKey::new(secret.clone()).expect("long enough");
    // No key of the device is needed.
    let ace = |version, proof| {
        let key = key.clone();
        presented(move |options| {
            let key = key.clone();
            options.version = version;
            options.way = Way::Ace(proof);
            options.tokens = TokenSource::From(Arc::new(move || {
                Ok(Token { bound: true, proof_key: Some(key.clone()), ..Token::new("token-1") })
            }));
        })
    };
    let seen = ace(ProtocolVersion::V5, AceProof::Exporter);
    let data = seen.data.expect("data");
    assert_eq!(data.len(), 9 + 32);
    is_over(&seen.exported, &data[9..]);
    let answer = ace(ProtocolVersion::V5, AceProof::Challenge).answer.expect("an answer to the challenge");
    is_over(&[b"serverno", &answer[..8]].concat(), &answer[8..]);
    let seen = ace(ProtocolVersion::V311, AceProof::Exporter);
    is_over(&seen.exported, &seen.password.expect("a password"));
}

#[test]
fn a_token_for_another_server_is_not_presented_at_connect_nor_at_a_renewal() {
    let broker = Broker::start(false, |_, peer, reports| {
        let _ = reports.send(peer.admit(false));
        while peer.hear(|_| ()).is_some() {}
    });
    let own = ServerKey::from_json(
        &serde_json::json!({ "x5t#S256": base64url_encode(&sha256(&broker.certificate)) }),
    );
    let own = own.expect("read");
    let other = ServerKey::Key(key().public_key().clone());
    let start = |servers: [ServerKey; 2]| {
        let mut options = broker.options(false);
        let count = Mutex::new(0);
        options.tokens = TokenSource::From(Arc::new(move || {
            let mut count = count.lock().expect("not poisoned");
            *count += 1;
            let server_key = Some(servers[usize::from(*count > 1)].clone());
            Ok(Token { server_key, ..Token::new("token") })
        }));
        let client = DeviceClient::start(options).expect("starts");
        let events = client.events();
        (client, events)
    };
    let next = |events: &std::sync::mpsc::Receiver<Event>| loop {
        match events.recv_timeout(PATIENCE).expect("an event") {
            Event::Connected { .. } => {}
            other => break other,
        }
    };
    let refused = |events: &std::sync::mpsc::Receiver<Event>| match next(events) {
        Event::Disconnected { why, retry_in, .. } => {
            assert!(
                why.contains("rs_cnf") && why.contains(key_of(&broker.certificate).thumbprint()),
                "{why}"
            );
            assert!(retry_in >= std::time::Duration::from_secs(60), "a human has to mend it");
        }
        other => panic!("{other:?}"),
    };
    let (client, events) = start([other.clone(), other.clone()]);
    refused(&events);
    assert!(!broker.report(), "nothing was sent but the handshake");
    drop(client);
    let (client, events) = start([own, other]);
    assert!(broker.report(), "the server is the one of the token");
    assert!(client.wait_connected(PATIENCE));
    // Not so soon that it looks like a server that ends each credential at once.
    std::thread::sleep(std::time::Duration::from_millis(100));
    client.renew();
    refused(&events);
    assert!(!broker.report(), "the new connection found the same server, and told it nothing");
}

fn key_of(certificate: &[u8]) -> PublicKey {
    PublicKey::from_certificate_der(certificate).expect("a key")
}

#[test]
fn a_self_signed_certificate_of_the_key_is_shown_in_both_versions_of_tls() {
    for algorithm in [Algorithm::Es256, Algorithm::EdDsa] {
        let key = Arc::new(create_key(algorithm).expect("a key"));
        for only_1_2 in [false, true] {
            let shown = ClientCertificate::self_signed("lamp", key.clone(), &Host).expect("made");
            let seen = presented(|options| {
                let tls = options.endpoint.tls.as_mut().expect("TLS");
                tls.only_1_2 = only_1_2;
                tls.certificate = Some(shown.clone());
                options.way = Way::Certificate;
            });
            let certificate = seen.certificate.expect("it was asked for");
            assert_eq!(&PublicKey::from_certificate_der(&certificate).expect("a key"), key.public_key());
        }
    }
}

#[test]
fn a_server_is_known_by_its_root_or_by_its_key_and_no_other_is_spoken_to() {
    let broker = Broker::<()>::start(false, |_, peer, _| {
        peer.admit(false);
        while peer.hear(|_| ()).is_some() {}
    });
    let connects = |tls: Tls| {
        let mut options = broker.options(false);
        options.endpoint.tls = Some(tls);
        options.way = Way::Certificate;
        let client = DeviceClient::start(options).expect("starts");
        let events = client.events();
        match events.recv_timeout(PATIENCE) {
            Ok(Event::Connected { .. }) => true,
            Ok(Event::Disconnected { why, .. }) => {
                assert!(why.contains("TLS"), "{why}");
                false
            }
            other => panic!("{other:?}"),
        }
    };
    let stranger = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("made");
    assert!(connects(Tls::with_roots(&broker.ca_pem)));
    assert!(connects(Tls::with_pin(broker.pin)));
    assert!(!connects(Tls::with_roots(stranger.cert.pem())));
    assert!(!connects(Tls::with_pin([7; 32])));
}

#[test]
fn a_client_that_comes_back_resumes_tls_but_not_where_the_exporter_is_its_proof() {
    let kinds = |way: Way| {
        let broker = Broker::start(false, |_, peer, reports| {
            peer.admit(false);
            let _ = reports.send(peer.is_resumed()); // and the connection ends
        });
        let key = key();
        let mut options = broker.options(false);
        (options.way, options.login, options.tokens) = (way, Some(login(&key)), numbered(600_000, true));
        let _client = DeviceClient::start(options).expect("starts");
        [broker.report(), broker.report(), broker.report()]
    };
    assert_eq!(kinds(Way::Token), [false, true, true]);
    assert_eq!(kinds(Way::Ace(AceProof::Challenge)), [false, true, true]);
    assert_eq!(kinds(Way::Ace(AceProof::Exporter)), [false; 3]);
}
