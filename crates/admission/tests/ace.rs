//! RFC 9431 at admission: which token with which proof over which connection lets whom in, and what renews it.

mod world;

use std::sync::Arc;

use aws_lc_rs::hmac;
use drawbridge_admission::{
    AceLogin, Actor, Admission, AdmissionConfig, Challenged, ConnectRequest, LimitsConfig, LoginRequest,
    NewCredential, Peer, PeerProof, Refusal, SessionRenewal, TlsFacts, TlsVersion, Verdict, Way, Ways,
};
use drawbridge_identity::ace::{RequestedKey, user_name_of_token};
use drawbridge_jose::{Algorithm, Sign as _};
use drawbridge_names::MqttClientId;
use drawbridge_registry::PrincipalSettings;
use drawbridge_testkit::{SeededRandom, TestDevice, sealer};
use world::{API, ISSUER, World, cheap_passwords, request};

const EXPORTER: [u8; 32] = [3; 32];

fn facts() -> TlsFacts {
    TlsFacts {
        version: TlsVersion::V13,
        resumed: false,
        peer: None,
        ace_exporter: Some(EXPORTER),
        channel_binding: Some([4; 32]),
        refresh_exporter: Some([5; 32]),
    }
}

/// Makes a proof over bytes.
type Prove = Box<dyn Fn(&[u8]) -> Vec<u8>>;

/// A token and what proves its key.
struct Held {
    token: Vec<u8>,
    prove: Prove,
}

impl Held {
    /// Form 1.
    fn proven(&self, over: &[u8]) -> Vec<u8> {
        [self.asking(), (self.prove)(over)].concat()
    }

    /// Form 2.
    fn asking(&self) -> Vec<u8> {
        [&u16::try_from(self.token.len()).expect("short").to_be_bytes()[..], &self.token].concat()
    }
}

async fn ask(
    admission: &Admission,
    world: &World,
    device: &TestDevice,
    ace: AceLogin<'_>,
) -> Result<Held, Refusal> {
    let assertion = device.assertion(ISSUER, world.now_s()).sign();
    let login = LoginRequest::with_assertion(&assertion, Peer::default());
    let granted = admission.ace_login(&world.registry, login, ace).await?;
    let token = granted.cwt.unwrap_or_else(|| granted.grant.access_token.into_bytes());
    let prove: Prove = match granted.symmetric {
        Some(key) => {
            let key = hmac::Key::new(hmac::HMAC_SHA256, key.bytes());
            Box::new(move |over| hmac::sign(&key, over).as_ref().to_vec())
        }
        None => {
            let key = device.key.to_pkcs8_der();
            let key = drawbridge_jose::SigningKey::from_pkcs8_der(&key).expect("a key");
            Box::new(move |over| key.sign(over).expect("it signs"))
        }
    };
    Ok(Held { token, prove })
}

/// Bound to the device's own key, or to one of the server's.
async fn held(world: &World, device: &TestDevice, own: bool, cwt: bool) -> Held {
    let kid = RequestedKey::KeyId(device.kid());
    let ace = AceLogin { requested_key: own.then_some(&kid), cnonce: None, cwt };
    ask(&world.admission, world, device, ace).await.expect("a token")
}

fn by_method<'a>(
    client_id: &'a MqttClientId,
    data: Option<&'a [u8]>,
    tls: &'a TlsFacts,
) -> ConnectRequest<'a> {
    ConnectRequest { username: None, method: Some("ace"), data, tls: Some(tls), ..request(client_id, None) }
}

fn word(verdict: Result<Verdict, Refusal>) -> &'static str {
    match verdict {
        Ok(Verdict::Connected(connected)) => {
            assert!(connected.proven, "with a proof");
            "connected"
        }
        Ok(Verdict::Challenge(nonce)) => {
            assert_eq!(nonce.len(), 8);
            "challenge"
        }
        Ok(Verdict::AuthzInfo { .. }) => "may-publish-a-token",
        Err(refusal) => refusal.word(),
    }
}

async fn sensor(world: &World, algorithm: Algorithm) -> TestDevice {
    let device = TestDevice::with_algorithm("sensor", algorithm);
    world.register(&device, false).await;
    device
}

#[tokio::test]
async fn a_proof_over_the_connection_or_over_both_nonces_lets_in() {
    for algorithm in [Algorithm::EdDsa, Algorithm::Es256] {
        let world = World::new().await;
        let device = sensor(&world, algorithm).await;
        let client_id = MqttClientId::parse("sensor").expect("a client id");
        for (own, cwt) in [(true, false), (true, true), (false, false), (false, true)] {
            let held = held(&world, &device, own, cwt).await;
            let (tls, proven, asking) = (facts(), held.proven(&EXPORTER), held.asking());
            let connect = |request| world.admission.connect(request);
            let case = format!("{algorithm} own {own} CWT {cwt}");
            assert_eq!(
                word(connect(by_method(&client_id, Some(&proven), &tls)).await),
                "connected",
                "{case}"
            );

            let asked = connect(by_method(&client_id, Some(&asking), &tls)).await.expect("asked");
            let Verdict::Challenge(challenge) = asked else { panic!("{case}: no challenge") };
            let ours = [9; 8];
            let answer = [&ours[..], &(held.prove)(&[&challenge[..], &ours].concat())].concat();
            let challenged = Some(Challenged { challenge: &challenge, answer: &answer });
            let again = ConnectRequest { challenged, ..by_method(&client_id, Some(&asking), &tls) };
            assert_eq!(word(connect(again).await), "connected", "{case}");
            let other = [&[7; 8], &challenge[1..], &[0][..]].concat();
            let challenged = Some(Challenged { challenge: &other[..8], answer: &answer });
            let again = ConnectRequest { challenged, ..by_method(&client_id, Some(&asking), &tls) };
            assert_eq!(word(connect(again).await), "ace-proof", "{case}");

            let (name, pop) = (user_name_of_token(&held.token), (held.prove)(&EXPORTER));
            let old = ConnectRequest {
                username: Some(&name),
                version: 4,
                tls: Some(&tls),
                ..request(&client_id, Some(&pop))
            };
            assert_eq!(word(connect(old).await), "connected", "{case}");
        }
    }
}

#[tokio::test]
async fn every_other_proof_is_refused_by_its_word() {
    let world = World::new().await;
    let device = sensor(&world, Algorithm::EdDsa).await;
    let stranger = TestDevice::with_algorithm("sensor", Algorithm::EdDsa);
    let held = held(&world, &device, true, false).await;
    let bearer = world.token(&device, None).await.into_bytes();
    let for_api = world.token(&device, Some(API)).await.into_bytes();
    let (proven, asking) = (held.proven(&EXPORTER), held.asking());
    let form = |token: &[u8], pop: &[u8]| {
        [&u16::try_from(token.len()).expect("short").to_be_bytes()[..], token, pop].concat()
    };
    let by_stranger = form(&held.token, &stranger.key.sign(&EXPORTER).expect("it signs"));
    let over_other = held.proven(&[8; 32]);
    let long = [&proven[..], &[0]].concat();
    let resumed = TlsFacts { resumed: true, ..facts() };
    let blind = TlsFacts { ace_exporter: None, ..facts() };
    let device_jwt = device.connect_jwt(world::BRIDGE, world.now_s()).sign().into_bytes();
    let (bearer, for_api) = (form(&bearer, &[1; 64]), form(&for_api, &[1; 64]));
    let (jwt, nonsense) = (form(&device_jwt, &[1; 64]), form(b"nonsense", &[1; 64]));
    let mut changed = proven.clone();
    changed[40] ^= 1;
    let tls = facts();
    let closed = Ways::ALL.without(Way::Ace);
    let sensor = MqttClientId::parse("sensor").expect("a client id");
    let other = MqttClientId::parse("other").expect("a client id");
    for (case, request, wanted) in [
        ("by another key", by_method(&sensor, Some(&by_stranger), &tls), "ace-proof"),
        ("over another value", by_method(&sensor, Some(&over_other), &tls), "ace-proof"),
        ("on a resumed session", by_method(&sensor, Some(&proven), &resumed), "ace-exporter"),
        ("without an exporter", by_method(&sensor, Some(&proven), &blind), "ace-exporter"),
        ("with a byte too many", by_method(&sensor, Some(&long), &tls), "ace-data"),
        ("a plain token", by_method(&sensor, Some(&bearer), &tls), "ace-key"),
        ("a token for the API", by_method(&sensor, Some(&for_api), &tls), "other-service"),
        ("a device's own JWT", by_method(&sensor, Some(&jwt), &tls), "token-type"),
        ("no token", by_method(&sensor, Some(&nonsense), &tls), "ace-format"),
        ("nothing, and nothing kept", by_method(&sensor, None, &tls), "ace-no-token"),
        ("another device's client id", by_method(&other, Some(&proven), &tls), "client-id"),
        (
            "closed here",
            ConnectRequest { ways: closed, ..by_method(&sensor, Some(&proven), &tls) },
            "way-closed",
        ),
        (
            "in the clear",
            ConnectRequest { confidential: false, ..by_method(&sensor, Some(&proven), &tls) },
            "not-confidential",
        ),
        (
            "with a user name",
            ConnectRequest { username: Some("x"), ..by_method(&sensor, Some(&proven), &tls) },
            "malformed",
        ),
        (
            "without our TLS",
            ConnectRequest { tls: None, ..by_method(&sensor, Some(&proven), &tls) },
            "ace-exporter",
        ),
        (
            "an answer nobody has asked for",
            ConnectRequest {
                challenged: Some(Challenged { challenge: &[1; 8], answer: &[1; 40] }),
                ..by_method(&sensor, Some(&proven), &tls)
            },
            "ace-data",
        ),
        (
            "a short answer",
            ConnectRequest {
                challenged: Some(Challenged { challenge: &[1; 8], answer: &[1; 39] }),
                ..by_method(&sensor, Some(&asking), &tls)
            },
            "ace-data",
        ),
    ] {
        assert_eq!(word(world.admission.connect(request).await), wanted, "{case}");
    }
    let found = word(world.admission.connect(by_method(&sensor, Some(&changed), &tls)).await);
    assert!(
        ["not-proven", "jws-format", "header", "token-type"].contains(&found),
        "a changed token: {found}"
    );
    // What every one of them tells its peer is one thing, or of the request alone.
    world
        .admission
        .revoke(&world.registry, &device.name, "stolen", None, &Actor::Admin)
        .await
        .expect("revoked");
    assert_eq!(word(world.admission.connect(by_method(&sensor, Some(&asking), &tls)).await), "revoked");
    world.clock.advance_s(3_600);
    assert_eq!(word(world.admission.connect(by_method(&sensor, Some(&proven), &tls)).await), "time");
}

#[tokio::test]
async fn a_session_is_renewed_by_the_challenge_alone_and_in_311_by_a_proof_behind_the_token() {
    let world = World::new().await;
    let device = sensor(&world, Algorithm::EdDsa).await;
    let (first, next) = (held(&world, &device, true, false).await, held(&world, &device, false, true).await);
    let (tls, client_id) = (facts(), MqttClientId::parse("sensor").expect("a client id"));
    let proven = first.proven(&EXPORTER);
    let opened = world.admission.connect(by_method(&client_id, Some(&proven), &tls)).await.expect("in");
    let opened = opened.into_connected().expect("in");
    let renewal = |credential| SessionRenewal {
        registry: &world.registry,
        uid: opened.uid,
        client_id: &client_id,
        proven: true,
        token: opened.token.as_ref().map(|mark| mark.token),
        version: 5,
        credential,
        confidential: true,
        tls: Some(&tls),
        ways: Ways::ALL,
        peer: Peer::default(),
    };
    let (asking, over) = (next.asking(), next.proven(&EXPORTER));
    let renew = |data, challenged| {
        world.admission.renew_session(renewal(NewCredential::Method { method: "ace", data, challenged }))
    };
    // RFC 9431 section 4: the exporter value would be that of the first proof.
    assert_eq!(word(renew(&over[..], None).await), "ace-exporter");
    assert_eq!(word(renew(&[], None).await), "ace-no-token");
    assert_eq!(word(renew(&asking[..], None).await), "challenge");
    let (challenge, ours) = ([6; 8], [9; 8]);
    let answer = [&ours[..], &(next.prove)(&[challenge, ours].concat())].concat();
    let challenged = Some(Challenged { challenge: &challenge, answer: &answer });
    assert_eq!(word(renew(&asking[..], challenged).await), "connected");
    let wrong = Some(Challenged { challenge: &[5; 8], answer: &answer });
    assert_eq!(word(renew(&asking[..], wrong).await), "ace-proof");
    // The token in force renews nothing.
    let same = first.asking();
    let answer = [&ours[..], &(first.prove)(&[challenge, ours].concat())].concat();
    let challenged = Some(Challenged { challenge: &challenge, answer: &answer });
    assert_eq!(word(renew(&same[..], challenged).await), "renewal");

    // On the topic: the token, a line end, the proof for that token alone.
    let next = held(&world, &device, false, false).await;
    let over = [&b"db-refresh-1\0"[..], &[5; 32]].concat();
    let line =
        |proof: &[u8]| [&next.token[..], b"\n", drawbridge_jose::base64url_encode(proof).as_bytes()].concat();
    let (good, bad) = (line(&(next.prove)(&over)), line(&(next.prove)(&[5; 32])));
    for (case, payload, wanted) in [
        ("with its proof", &good[..], "connected"),
        ("with another proof", &bad[..], "ace-proof"),
        ("without one", &next.token[..], "token-binding"),
    ] {
        let found = world.admission.renew_session(renewal(NewCredential::Token(payload))).await;
        assert_eq!(word(found), wanted, "{case}");
    }
}

#[tokio::test]
async fn a_token_of_authz_info_waits_for_the_key_that_tls_proves() {
    let world = World::new().await;
    let device = sensor(&world, Algorithm::EdDsa).await;
    let (own, symmetric) =
        (held(&world, &device, true, true).await, held(&world, &device, false, true).await);
    let client_id = MqttClientId::parse("sensor").expect("a client id");
    let with = |peer| TlsFacts { peer: Some(peer), ..facts() };
    let key = with(PeerProof::RawKey(device.public_key().spki_der().to_vec()));
    let (nobody, stranger) = (facts(), TestDevice::with_algorithm("sensor", Algorithm::EdDsa));
    let other = with(PeerProof::RawKey(stranger.public_key().spki_der().to_vec()));
    let publish = |payload: Vec<u8>| {
        let admission = world.admission.clone();
        async move { admission.authz_info(None, &payload, Peer::default()).await }
    };
    let connect = |tls| world.admission.connect(by_method(&client_id, None, tls));
    assert_eq!(word(connect(&key).await), "ace-no-token", "nothing was published");

    let unreadable = publish(b"nonsense".to_vec()).await.expect_err("no token");
    assert!(unreadable.is_unreadable(), "0x99: {unreadable}");
    let mut forged = own.token.clone();
    *forged.last_mut().expect("bytes") ^= 1;
    let bad = publish(forged).await.expect_err("a bad token");
    assert!(!bad.is_unreadable(), "0x87: {bad}");
    assert_eq!(publish(symmetric.token).await.expect_err("no PSK").word(), "ace-key");
    assert_eq!(word(connect(&key).await), "ace-no-token", "nothing of that was kept");

    publish(own.token.clone()).await.expect("kept");
    assert_eq!(word(connect(&key).await), "connected");
    assert_eq!(word(connect(&other).await), "ace-no-token", "another key");
    assert_eq!(word(connect(&nobody).await), "ace-no-token", "no key at all");
    // Without any method: the handshake says all, where `authz-info` is open.
    let plain = ConnectRequest { username: None, tls: Some(&key), ..request(&client_id, None) };
    assert_eq!(word(world.admission.connect(plain).await), "connected");
    let by_token_alone = ConnectRequest { ways: Ways::NONE.with(Way::AuthzInfo), ..plain };
    assert_eq!(word(world.admission.connect(by_token_alone).await), "connected");
    // The token's way closed: by method it is as if nothing were kept.
    let by_ace_alone =
        ConnectRequest { ways: Ways::NONE.with(Way::Ace), ..by_method(&client_id, None, &key) };
    assert_eq!(word(world.admission.connect(by_ace_alone).await), "ace-no-token");
    // A registered key is a way in of its own.
    let closed = ConnectRequest { ways: Ways::ALL.without(Way::AuthzInfo).without(Way::RawKey), ..plain };
    assert_eq!(word(world.admission.connect(closed).await), "way-closed");
    // A principal's ways are judged by the token's way too, however it is presented.
    for (ways, by_handshake, by_ace) in [
        (&["authz-info"][..], "connected", "way-closed"),
        (&["ace", "authz-info"], "connected", "connected"),
        (&["ace", "raw-key"], "way-closed", "way-closed"),
    ] {
        let ways = Some(ways.iter().map(|way| (*way).to_owned()).collect());
        let settings = PrincipalSettings { ways, ..Default::default() };
        let set = world.admission.set_settings(&world.registry, &device.name, settings, None, &Actor::Admin);
        set.await.expect("set");
        assert_eq!(word(world.admission.connect(plain).await), by_handshake);
        assert_eq!(word(connect(&key).await), by_ace);
    }
    // Kept is not believed: it is judged again.
    world.admission.block(&world.registry, &device.name, None, &Actor::Admin).await.expect("blocked");
    assert_eq!(word(connect(&key).await), "blocked");
}

#[tokio::test]
async fn who_brings_nothing_over_tls_may_publish_a_token_where_that_is_open_and_its_address_pays_for_each() {
    let world = World::new().await;
    let device = sensor(&world, Algorithm::EdDsa).await;
    let held = held(&world, &device, true, true).await;
    let id = MqttClientId::parse("").expect("a client id");
    let key = TlsFacts { peer: Some(PeerProof::RawKey(device.public_key().spki_der().to_vec())), ..facts() };
    let nothing = facts();
    let open = ConnectRequest { username: None, tls: Some(&nothing), ..request(&id, None) };
    let application = drawbridge_names::PrincipalName::parse("app").expect("a name");
    for (case, asked, wanted) in [
        ("open", open, "may-publish-a-token"),
        ("closed", ConnectRequest { ways: Ways::ALL.without(Way::AuthzInfo), ..open }, "no-credential"),
        ("without TLS", ConnectRequest { confidential: false, tls: None, ..open }, "no-credential"),
        ("with a name", ConnectRequest { username: Some("sensor"), ..open }, "no-credential"),
        ("with a password", ConnectRequest { password: Some(b"wrong"), ..open }, "not-proven"),
        ("with a method", ConnectRequest { method: Some("ace"), ..open }, "ace-no-token"),
        ("with a key", ConnectRequest { tls: Some(&key), client_id: &id, ..open }, "connected"),
        ("as an application", ConnectRequest { anonymous_as: Some(&application), ..open }, "no-credential"),
    ] {
        assert_eq!(word(world.admission.connect(asked).await), wanted, "{case}");
    }
    // Neither a CONNECT without anything nor a token, however good, makes an address known.
    let limits =
        LimitsConfig { address_burst: 3, address_per_s: 1, exempt: Vec::new(), ..Default::default() };
    let settings = AdmissionConfig { limits, ..cheap_passwords() };
    let random = Arc::new(SeededRandom::new(11));
    let limited = Admission::open(world.store.clone(), world.clock.clone(), random, sealer(), settings);
    let limited = limited.await.expect("opened");
    let address = "192.0.2.1".parse::<std::net::IpAddr>().expect("an address");
    let mut words = Vec::new();
    for _ in 0..5 {
        let kept = limited.authz_info(None, &held.token, Peer::from(address)).await;
        words.push(kept.map_or_else(|refusal| refusal.word(), |()| "kept"));
    }
    assert_eq!(words[3..], ["rate-limited", "rate-limited"], "{words:?}");
    let peer = Peer::from("192.0.2.2".parse::<std::net::IpAddr>().expect("an address"));
    let mut let_in = 0;
    while word(limited.connect(ConnectRequest { peer, ..open }).await) == "may-publish-a-token" {
        let_in += 1;
    }
    assert_eq!(let_in, 30, "ten for each signature check that an address may fail");
}

#[tokio::test]
async fn who_must_bring_a_cnonce_finds_it_in_the_hint() {
    let world = World::new().await;
    let device = sensor(&world, Algorithm::EdDsa).await;
    assert_eq!(world.admission.as_hint(None), None, "off unless it is switched on");
    let settings = AdmissionConfig { ace_as: "issuer".to_owned(), ace_cnonce: true, ..cheap_passwords() };
    let random = Arc::new(SeededRandom::new(9));
    let strict = Admission::open(world.store.clone(), world.clock.clone(), random, sealer(), settings);
    let strict = strict.await.expect("opened");
    let hint = strict.as_hint(None).expect("a hint");
    let hint: serde_json::Value = serde_json::from_str(&hint).expect("JSON");
    assert_eq!(
        (&hint["AS"], &hint["audience"]),
        (&format!("{ISSUER}/oauth/token").into(), &world::BRIDGE.into())
    );
    let nonce = hint["cnonce"].as_str().expect("a nonce").to_owned();
    let (tls, client_id) = (facts(), MqttClientId::parse("sensor").expect("a client id"));
    let kid = RequestedKey::KeyId(device.kid());
    for (cnonce, late_s, wanted) in [
        (None, 0, "ace-cnonce"),
        (Some("AAAA"), 0, "ace-cnonce"),
        (Some(nonce.as_str()), 0, "connected"),
        (Some(nonce.as_str()), 60, "connected"),
        (Some(nonce.as_str()), 1, "ace-cnonce"),
    ] {
        world.clock.advance_s(late_s);
        for cwt in [false, true] {
            let ace = AceLogin { requested_key: Some(&kid), cnonce, cwt };
            let held = ask(&strict, &world, &device, ace).await.expect("a token");
            let data = held.proven(&EXPORTER);
            let found = word(strict.connect(by_method(&client_id, Some(&data), &tls)).await);
            assert_eq!(found, wanted, "{cnonce:?} after {late_s} s more");
        }
    }
}

#[tokio::test]
async fn a_resumed_session_proves_over_the_connection_only_where_that_is_asked_for() {
    let world = World::new().await;
    let device = sensor(&world, Algorithm::EdDsa).await;
    let settings = AdmissionConfig { ace_exporter_when_resumed: true, ..cheap_passwords() };
    let random = Arc::new(SeededRandom::new(9));
    let lenient = Admission::open(world.store.clone(), world.clock.clone(), random, sealer(), settings);
    let lenient = lenient.await.expect("opened");
    let held = held(&world, &device, true, false).await;
    let (tls, data) = (TlsFacts { resumed: true, ..facts() }, held.proven(&EXPORTER));
    let client_id = MqttClientId::parse("sensor").expect("a client id");
    assert_eq!(word(lenient.connect(by_method(&client_id, Some(&data), &tls)).await), "connected");
    assert_eq!(word(world.admission.connect(by_method(&client_id, Some(&data), &tls)).await), "ace-exporter");
}
