//! `POST /v1/self/sessions:refresh`: a token that comes over HTTPS gives an open MQTT session its new right, and re-arms
//! the timer of its end.

use std::time::{Duration, Instant};

use drawbridge_device::{Binding, DeviceIdentity, DpopProof, TokenRequest, random_id};
use drawbridge_jose::{Algorithm, SigningKey};
use serde_json::{Value, json};

use crate::bytes::{Connect, Publish, Said, Version};
use crate::client::Client;
use crate::harness::{Core, connect_jwt, now_s};
use crate::renewal::{LATE, LIFE, nobody_kept, short_lived};
use crate::roads::{Road, Shown};
use crate::wire::{Answer, Wire};
use crate::world::{Via, World};

const PATH: &str = "/v1/self/sessions:refresh";
/// The same.
const SHORT_PATH: &str = "/session/refresh";

/// What a token is to be.
#[derive(Clone, Copy, Default)]
struct Wanted<'a> {
    /// For the API instead of the bridge.
    for_api: bool,
    dpop: Option<&'a SigningKey>,
}

fn token_of(core: &Core, identity: &DeviceIdentity, wanted: Wanted<'_>) -> String {
    let api = format!("{}/v1", identity.issuer);
    let request = TokenRequest {
        device: &identity.device,
        issuer: &identity.issuer,
        resource: wanted.for_api.then_some(&*api),
        scope: None,
        bind_to: wanted.dpop.map(|key| Binding::Dpop(key)),
    };
    core.api().access_token(&request, &identity.key).expect("a token").access_token
}

/// A token of the bridge for whoever has it.
pub(crate) fn access_token(core: &Core, identity: &DeviceIdentity) -> String {
    token_of(core, identity, Wanted::default())
}

/// A token that is bound to the certificate of the login.
fn bound_to(wire: &Wire, identity: &DeviceIdentity) -> String {
    let form = [("grant_type", "client_credentials"), ("client_id", &identity.device)];
    let answer = wire.form("/oauth/token", &[], &form);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.text_of("access_token")
}

pub(crate) fn refresh(wire: &Wire, token: &str) -> Answer {
    refresh_at(PATH, wire, token)
}

fn refresh_at(path: &str, wire: &Wire, token: &str) -> Answer {
    wire.send("POST", path, &[("authorization", &format!("Bearer {token}"))], b"")
}

/// With a proof by `key` for what is named; the server's nonce is brought when it asks for one.
struct Proof<'a> {
    key: &'a SigningKey,
    path: &'a str,
    jti: &'a str,
    of_token: &'a str,
}

impl Proof<'_> {
    fn refresh(&self, wire: &Wire, identity: &DeviceIdentity, token: &str) -> Answer {
        let url = format!("{}{}", identity.issuer, self.path);
        let ask = |nonce: Option<&str>, jti: &str| {
            let (now_s, token_of) = (now_s(), Some(self.of_token));
            let proof = DpopProof { method: "POST", url: &url, now_s, jti, nonce, token: token_of };
            let proof = proof.sign(self.key, self.key.public_key()).expect("signs");
            let headers = [("authorization", &*format!("DPoP {token}")), ("dpop", &*proof)];
            wire.send("POST", PATH, &headers, b"")
        };
        let first = ask(None, &random_id());
        match first.header("dpop-nonce") {
            Some(nonce) if first.text_of("code") == "DB-1046" => ask(Some(&nonce), self.jti),
            _ => ask(None, self.jti),
        }
    }
}

fn renewed(answer: &Answer) -> u64 {
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["renewed"].as_u64().expect("a number")
}

fn join(world: &World, via: Via, version: Version, id: &str, password: &str) -> Client {
    let mut client = Client::over(world.transport(via), version);
    client.send(&Connect::clean(id).keep_alive(0).encode(version, Some(("unused", password.as_bytes()))));
    assert!(matches!(client.next(), Some(Said::ConnAck { code: 0, .. })), "{id}");
    client
}

#[test]
fn a_token_over_https_moves_the_end_of_an_open_session_of_either_version_there_and_back() {
    let mut world = World::start(&[]);
    let mut tokens = Vec::new();
    let mut open = Vec::new();
    for via in [Via::Tls, Via::WebSocket] {
        for version in [Version::V311, Version::V5] {
            let identity = world.core().device(&format!("{via:?}-{version:?}").to_lowercase());
            let jwt = short_lived(&identity);
            let mut client = join(&world, via, version, &identity.device, &jwt);
            client.subscribe(&format!("devices/{}/commands/#", identity.device), 1);
            let token = access_token(world.core(), &identity);
            let answer = refresh(&Wire::of(world.core()), &token);
            assert_eq!(renewed(&answer), 1, "{answer:?}");
            let session = &answer.json()["sessions"][0];
            assert_eq!(session["client_id"], json!(identity.device));
            assert_eq!((&session["removed"], &session["will_dropped"]), (&json!([]), &json!(false)));
            tokens.extend([jwt, token]);
            open.push((identity, client));
        }
    }
    // The JWTs are over, and the sessions go on.
    std::thread::sleep(LIFE + Duration::from_secs(1));
    let mut backend = Client::observer(&world);
    for (identity, client) in &mut open {
        assert_eq!(client.ping(), [], "{}", identity.device);
        let topic = format!("devices/{}/commands/x", identity.device);
        backend.publish(&Publish::new(&topic, "still there").qos(1, 0));
        assert_eq!(client.taken().text(), "still there", "its subscription has no gap");
    }
    // A token of 3 s, opaque this time, ends what would have lasted an hour.
    let brief = ["registry", "set", "default", "--token-format", "opaque", "--token-life-s", "3"];
    world.core().cli_ok(&brief);
    let mut ends = Vec::new();
    for (identity, _) in &open {
        let began = Instant::now();
        let token = access_token(world.core(), identity);
        assert!(!token.contains('.'), "an opaque token");
        assert_eq!(renewed(&refresh_at(SHORT_PATH, &Wire::of(world.core()), &token)), 1);
        tokens.push(token);
        ends.push(began);
    }
    for ((identity, client), began) in open.iter_mut().zip(ends) {
        client.ended_with(0x87);
        let lived = began.elapsed();
        let right = Duration::from_secs(1)..LIFE + LATE;
        assert!(right.contains(&lived), "{}: {lived:?}", identity.device);
    }
    nobody_kept(world.core(), &tokens);
    world.core_mut().stop();
    nobody_kept(world.core(), &tokens);
}

/// What came, and what must be answered: the status and the code.
type Row = (&'static str, u16, &'static str, Box<dyn Fn(&Scene<'_>) -> Answer>);

/// A session of `lamp` is open; nobody else may renew it, nor anybody with less than a good token.
struct Scene<'a> {
    world: &'a World,
    lamp: DeviceIdentity,
    other: DeviceIdentity,
    abroad: DeviceIdentity,
    lamp_shown: Shown,
    other_shown: Shown,
    dpop: SigningKey,
    another_key: SigningKey,
    /// Bound to `dpop`.
    bound: String,
}

impl Scene<'_> {
    fn core(&self) -> &Core {
        self.world.core()
    }

    fn wire(&self) -> Wire {
        Wire::of(self.core())
    }

    fn proof<'a>(&'a self, jti: &'a str) -> Proof<'a> {
        Proof { key: &self.dpop, path: PATH, jti, of_token: &self.bound }
    }

    fn named(&self, token: &str, client_id: &str) -> Answer {
        let bearer = format!("Bearer {token}");
        self.wire().post(PATH, &[("authorization", &bearer)], &json!({ "client_id": client_id }))
    }
}

fn rows() -> Vec<Row> {
    let row = |what, status, code, run: Box<dyn Fn(&Scene<'_>) -> Answer>| (what, status, code, run);
    vec![
        row("no credential", 401, "DB-1001", Box::new(|s| s.wire().send("POST", PATH, &[], b""))),
        row("nonsense", 401, "DB-1003", Box::new(|s| refresh(&s.wire(), "nonsense"))),
        row(
            "a JWT of the device itself",
            401,
            "DB-1006",
            Box::new(|s| refresh(&s.wire(), &connect_jwt(&s.lamp, now_s(), 600))),
        ),
        row(
            "the admin credential",
            401,
            "DB-1007",
            Box::new(|s| {
                let token = std::fs::read_to_string(s.core().data().join("admin-token")).expect("there");
                refresh(&s.wire(), token.trim())
            }),
        ),
        row(
            "a token for the API",
            401,
            "DB-1030",
            Box::new(|s| {
                refresh(
                    &s.wire(),
                    &token_of(s.core(), &s.lamp, Wanted { for_api: true, ..Wanted::default() }),
                )
            }),
        ),
        row(
            "a token that is over",
            401,
            "DB-1011",
            Box::new(|s| {
                s.core().cli_ok(&["registry", "set", "default", "--token-life-s", "1"]);
                let token = access_token(s.core(), &s.lamp);
                s.core().cli_ok(&["registry", "set", "default", "--token-life-s", "3600"]);
                std::thread::sleep(Duration::from_secs(2));
                refresh(&s.wire(), &token)
            }),
        ),
        row(
            "a token that was revoked",
            401,
            "DB-1042",
            Box::new(|s| {
                let token = access_token(s.core(), &s.lamp);
                crate::ends::revoke(s.core(), &s.lamp, &token);
                refresh(&s.wire(), &token)
            }),
        ),
        row("a token of another registry", 401, "DB-1007", Box::new(|s| refresh(&s.wire(), &abroad(s)))),
        row(
            "a token at another registry",
            401,
            "DB-1007",
            Box::new(|s| {
                let bearer = format!("Bearer {}", access_token(s.core(), &s.lamp));
                s.wire().send("POST", &format!("/r/plant{PATH}"), &[("authorization", &bearer)], b"")
            }),
        ),
        row("bound to a key, as Bearer", 401, "DB-1035", Box::new(|s| refresh(&s.wire(), &s.bound))),
        row(
            "bound to a key, without a proof",
            401,
            "DB-1034",
            Box::new(|s| {
                s.wire().send("POST", PATH, &[("authorization", &format!("DPoP {}", s.bound))], b"")
            }),
        ),
        row(
            "a proof by another key",
            401,
            "DB-1035",
            Box::new(|s| {
                let jti = random_id();
                Proof { key: &s.another_key, ..s.proof(&jti) }.refresh(&s.wire(), &s.lamp, &s.bound)
            }),
        ),
        row(
            "a proof for another path",
            401,
            "DB-1034",
            Box::new(|s| {
                let jti = random_id();
                Proof { path: "/v1/self", ..s.proof(&jti) }.refresh(&s.wire(), &s.lamp, &s.bound)
            }),
        ),
        row(
            "a proof for another token",
            401,
            "DB-1034",
            Box::new(|s| {
                let jti = random_id();
                Proof { of_token: "another", ..s.proof(&jti) }.refresh(&s.wire(), &s.lamp, &s.bound)
            }),
        ),
        row(
            "bound to no key, as DPoP",
            401,
            "DB-1035",
            Box::new(|s| {
                let (jti, token) = (random_id(), access_token(s.core(), &s.lamp));
                Proof { of_token: &token, ..s.proof(&jti) }.refresh(&s.wire(), &s.lamp, &token)
            }),
        ),
        row(
            "bound to a certificate, without it",
            401,
            "DB-1035",
            Box::new(|s| {
                refresh(&s.wire(), &bound_to(&Wire::showing(s.core(), Some(&s.lamp_shown)), &s.lamp))
            }),
        ),
        row(
            "bound to a certificate, over another",
            401,
            "DB-1035",
            Box::new(|s| {
                let token = bound_to(&Wire::showing(s.core(), Some(&s.lamp_shown)), &s.lamp);
                refresh(&Wire::showing(s.core(), Some(&s.other_shown)), &token)
            }),
        ),
        row(
            "a body of another kind",
            415,
            "DB-4205",
            Box::new(|s| {
                let bearer = format!("Bearer {}", access_token(s.core(), &s.lamp));
                let headers = [("authorization", &*bearer), ("content-type", "text/plain")];
                s.wire().send("POST", PATH, &headers, b"lamp")
            }),
        ),
        row(
            "a member that nobody knows",
            400,
            "DB-4206",
            Box::new(|s| {
                let bearer = format!("Bearer {}", access_token(s.core(), &s.lamp));
                s.wire().post(PATH, &[("authorization", &bearer)], &json!({ "device": "lamp" }))
            }),
        ),
        // A good token of another device renews what is that device's, and it has nothing open.
        row(
            "another device's",
            200,
            "0",
            Box::new(|s| refresh(&s.wire(), &access_token(s.core(), &s.other))),
        ),
        row(
            "another device's, which names the session",
            200,
            "0",
            Box::new(|s| s.named(&access_token(s.core(), &s.other), "lamp")),
        ),
        row(
            "a session that is not there",
            200,
            "0",
            Box::new(|s| s.named(&access_token(s.core(), &s.lamp), "lamp:2")),
        ),
    ]
}

fn abroad(scene: &Scene<'_>) -> String {
    let request = TokenRequest {
        device: &scene.abroad.device,
        issuer: &scene.abroad.issuer,
        resource: None,
        scope: None,
        bind_to: None,
    };
    let ca = std::fs::read_to_string(scene.core().data().join("ca.pem")).expect("the root");
    let base = format!("https://{}/r/plant", scene.core().endpoints.https);
    let api = drawbridge_device::ApiClient::new(&base, &ca).expect("a client");
    api.access_token(&request, &scene.abroad.key).expect("a token").access_token
}

#[test]
fn nobody_renews_a_session_with_less_than_its_owners_own_token_and_the_proof_that_this_is_bound_to() {
    let world = World::start(&[]);
    let core = world.core();
    core.cli_ok(&["registry", "add", "plant"]);
    core.cli_ok(&["--registry", "plant", "device", "add", "lamp", "--out", "abroad"]);
    let (lamp, other) = (core.device("lamp"), core.device("other"));
    let dpop = SigningKey::generate(Algorithm::Es256).expect("a key");
    let scene = Scene {
        world: &world,
        abroad: DeviceIdentity::load(&core.place().join("abroad")).expect("written"),
        lamp_shown: Shown::by(core, &lamp),
        other_shown: Shown::by(core, &other),
        bound: token_of(core, &lamp, Wanted { dpop: Some(&dpop), ..Wanted::default() }),
        another_key: SigningKey::generate(Algorithm::Es256).expect("a key"),
        dpop,
        lamp,
        other,
    };
    let jwt = connect_jwt(&scene.lamp, now_s(), 600);
    let mut client = join(&world, Via::Tls, Version::V311, "lamp", &jwt);
    let mut wrong = Vec::new();
    for (what, status, code, run) in rows() {
        let answer = run(&scene);
        let found =
            if answer.status == 200 { answer.json()["renewed"].to_string() } else { answer.text_of("code") };
        if (answer.status, &*found) != (status, code) {
            wrong.push(format!("{what}: {status} {code} expected, {answer:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(client.ping(), [], "its session has not noticed");
    let said = core.log();
    assert!(!said.lines().any(|line| line.contains("renewed")), "none of these renewed anything");

    // With its proof the token is good, once; after that the session is one that was proven.
    let (wire, jti) = (scene.wire(), random_id());
    let again = || scene.proof(&jti).refresh(&wire, &scene.lamp, &scene.bound);
    assert_eq!(renewed(&again()), 1);
    let refused = |answer: &Answer, status: u16, code: &str, why: &str| {
        assert_eq!((answer.status, &*answer.text_of("code")), (status, code), "{why}: {answer:?}");
    };
    refused(&again(), 401, "DB-1034", "the same proof");
    // More than 1 s passes between any two renewals of a session.
    let pause = || std::thread::sleep(Duration::from_millis(1_100));
    pause();
    let fresh = scene.proof(&random_id()).refresh(&wire, &scene.lamp, &scene.bound);
    refused(&fresh, 403, "DB-1043", "the token is in force already");
    let unbound = refresh(&wire, &access_token(core, &scene.lamp));
    assert!(unbound.status == 401 || unbound.status == 403, "no wider proof: {unbound:?}");
    pause();
    let showing = Wire::showing(core, Some(&scene.lamp_shown));
    assert_eq!(renewed(&refresh(&showing, &bound_to(&showing, &scene.lamp))), 1, "bound to a certificate");
    refused(&refresh(&showing, &bound_to(&showing, &scene.lamp)), 403, "DB-1043", "a moment ago");
    assert_eq!(client.ping(), []);
    // It is judged again each time: a blocked device renews nothing.
    let late = access_token(core, &scene.lamp);
    core.cli_ok(&["device", "block", "lamp"]);
    let blocked = refresh(&wire, &late);
    assert!(blocked.status == 401 || blocked.status == 403, "{blocked:?}");
    client.ended();
}

#[test]
fn a_session_opened_by_a_certificate_is_renewed_by_a_token_bound_to_one_and_by_no_other() {
    let core = Core::start();
    let lamp = core.device("lamp");
    let shown = Shown::by(&core, &lamp);
    for version in [Version::V311, Version::V5] {
        let road = Road { shown: Some(&shown), ..Road::default() };
        let mut client = Client::over(road.open(&core, &core.endpoints.mqtts), version);
        client.send(&Connect::clean("lamp").encode(version, None));
        assert!(matches!(client.next(), Some(Said::ConnAck { code: 0, .. })), "{version:?}\n{}", core.log());
        let unbound = refresh(&Wire::of(&core), &access_token(&core, &lamp));
        assert!(unbound.status == 401 || unbound.status == 403, "{unbound:?}");
        std::thread::sleep(Duration::from_millis(1_100));
        let wire = Wire::showing(&core, Some(&shown));
        let answer = refresh(&wire, &bound_to(&wire, &lamp));
        assert_eq!(renewed(&answer), 1, "{version:?} {answer:?}");
        let expires = answer.json()["sessions"][0]["expires"].clone();
        assert_ne!(expires, Value::Null, "the right of a token has an end");
        client.leave();
    }
}
