//! The token endpoint in the words of RFC 9200, over real TLS. What the forms are to the byte, `identity` tests
//! against another implementation; here it is what the server grants and refuses.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use coset::CborSerializable as _;
use coset::cbor::Value as Cbor;
use drawbridge_admission::{Actor, RegistryChange};
use drawbridge_identity::ace::{Cwt, scope_to_cbor, symmetric_key_to_cose};
use drawbridge_jose::{Algorithm, PublicKey, SigningKey};
use drawbridge_registry::{RegistrySettings, TokenFormat};
use drawbridge_testkit::TestDevice;
use serde_json::{Value, json};

use crate::world::{Answer, Ask, ISSUER, World, registry};

const TOKEN_URL: &str = "https://id.example/oauth/token";
const ACE_JSON: &str = "application/ace+json";
const ACE_CBOR: &str = "application/ace+cbor";
/// Longer than a proof of an earlier process could be good.
const SETTLED_S: u64 = 200;
const KIND: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// A request with an assertion, and these members.
fn asked(world: &World, device: &TestDevice, more: Value) -> Value {
    let assertion = device.assertion(ISSUER, world.clock.now_s()).sign();
    let mut body = json!({ "client_assertion_type": KIND, "client_assertion": assertion });
    let members = body.as_object_mut().expect("an object");
    members.extend(more.as_object().expect("an object").clone());
    body
}

fn post(body: &Value) -> Ask {
    Ask::post("/oauth/token").body(ACE_JSON, body.to_string())
}

async fn ask(world: &World, device: &TestDevice, more: Value) -> Answer {
    world.send(post(&asked(world, device, more))).await
}

fn jwk(key: &PublicKey) -> Value {
    serde_json::from_str(&key.to_jwk_json()).expect("JSON")
}

fn claims(token: &str) -> Value {
    let body = token.split('.').nth(1).expect("a JWT");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(body).expect("base64url")).expect("JSON")
}

fn granted(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.header("content-type"), Some(ACE_JSON));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let body = answer.json();
    assert_eq!(body["token_type"], "PoP", "{body}");
    body
}

fn refused(answer: &Answer, error: &str, code: &str) {
    assert_eq!(answer.json()["error"], error, "{}", answer.text);
    assert_eq!(answer.json()["code"], code, "{}", answer.text);
    assert_eq!(answer.header("content-type"), Some(ACE_JSON));
    assert_eq!(answer.status, if error == "invalid_client" { 401 } else { 400 }, "{}", answer.text);
}

#[tokio::test]
async fn a_token_is_bound_to_the_key_that_was_asked_for_by_value_or_by_its_kid() {
    let world = World::new().await;
    world.clock.advance_s(SETTLED_S);
    let lamp = world.device("lamp").await;
    let broker = SigningKey::generate(Algorithm::Es256).expect("a key");
    world.admission.set_broker_key(Some(broker.public_key().clone()));
    let scope = URL_SAFE_NO_PAD.encode(r#"[["devices/lamp/events/#",["pub"]]]"#);

    let wanted = json!({ "req_cnf": { "jwk": jwk(lamp.public_key()) }, "ace_profile": "", "scope": scope,
        "audience": format!("{ISSUER}/mqtt"), "cnonce": "BQY", "grant_type": "client_credentials" });
    let body = granted(&ask(&world, &lamp, wanted).await);
    assert_eq!((&body["ace_profile"], &body["scope"]), (&json!("mqtt_tls"), &json!(scope)));
    assert_eq!(body["rs_cnf"], json!({ "jwk": jwk(broker.public_key()) }));
    assert!(body.get("cnf").is_none());
    let found = claims(body["access_token"].as_str().expect("a token"));
    assert_eq!(found["cnf"], json!({ "jwk": jwk(lamp.public_key()) }));
    assert_eq!((&found["scope"], &found["cnonce"]), (&json!(scope), &json!("BQY")));
    assert_eq!((&found["aud"], &found["sub"]), (&json!(format!("{ISSUER}/mqtt")), &json!("lamp")));

    let body = granted(&ask(&world, &lamp, json!({ "req_cnf": { "kid": lamp.kid().as_str() } })).await);
    assert!(body.get("ace_profile").is_none(), "nobody asked");
    let found = claims(body["access_token"].as_str().expect("a token"));
    assert_eq!(found["cnf"], json!({ "kid": lamp.kid().as_str() }));

    // A key of its own for MQTT, which it proves by DPoP.
    let fresh = TestDevice::with_algorithm("lamp", Algorithm::EdDsa);
    let proof = fresh.dpop("POST", TOKEN_URL, world.clock.now_s()).sign();
    let body = asked(&world, &lamp, json!({ "req_cnf": { "jwk": jwk(fresh.public_key()) } }));
    let body = granted(&world.send(post(&body).header("DPoP", &proof)).await);
    let found = claims(body["access_token"].as_str().expect("a token"));
    assert_eq!(found["cnf"], json!({ "jwk": jwk(fresh.public_key()) }));
}

#[tokio::test]
async fn a_key_that_nobody_has_proven_or_that_cannot_prove_is_refused() {
    let world = World::new().await;
    world.clock.advance_s(SETTLED_S);
    let lamp = world.device("lamp").await;
    let door = world.device("door").await;
    let stranger = TestDevice::with_algorithm("lamp", Algorithm::EdDsa);
    let p384 = TestDevice::with_algorithm("lamp", Algorithm::Es384);
    let proof = |of: &TestDevice| of.dpop("POST", TOKEN_URL, world.clock.now_s()).sign();
    let x = URL_SAFE_NO_PAD.encode([7; 32]);
    for (case, req_cnf, dpop) in [
        ("a stranger's", Some(json!({ "jwk": jwk(stranger.public_key()) })), None),
        ("another device's", Some(json!({ "jwk": jwk(door.public_key()) })), None),
        ("another device's kid", Some(json!({ "kid": door.kid().as_str() })), None),
        ("a kid of nobody", Some(json!({ "kid": stranger.kid().as_str() })), None),
        ("no thumbprint", Some(json!({ "kid": "factory key" })), None),
        ("proven by another key", Some(json!({ "jwk": jwk(stranger.public_key()) })), Some(proof(&door))),
        (
            "registered, and a proof by another",
            Some(json!({ "kid": lamp.kid().as_str() })),
            Some(proof(&door)),
        ),
        ("a proof, and no key", None, Some(proof(&stranger))),
        ("P-384, proven", Some(json!({ "jwk": jwk(p384.public_key()) })), Some(proof(&p384))),
        ("symmetric, chosen by the client", Some(json!({ "jwk": { "kty": "oct", "k": x } })), None),
        ("a private one", Some(json!({ "jwk": { "kty": "OKP", "crv": "Ed25519", "x": x, "d": x } })), None),
        ("X25519", Some(json!({ "jwk": { "kty": "OKP", "crv": "X25519", "x": x } })), None),
        ("two", Some(json!({ "jwk": jwk(lamp.public_key()), "kid": lamp.kid().as_str() })), None),
        ("an encrypted one", Some(json!({ "jwe": "a..b.c.d" })), None),
        ("none", Some(json!({})), None),
    ] {
        let more = req_cnf.map_or(json!({}), |cnf| json!({ "req_cnf": cnf }));
        let mut request = post(&asked(&world, &lamp, more));
        if let Some(proof) = dpop {
            request = request.header("DPoP", &proof);
        }
        let answer = world.send(request).await;
        assert_eq!(answer.json()["error"], "unsupported_pop_key", "{case}: {}", answer.text);
        assert_eq!((answer.status, &answer.json()["code"]), (400, &json!("DB-1069")), "{case}");
        assert!(!answer.text.contains(&x), "{case}: a key is repeated");
    }
}

#[tokio::test]
async fn without_a_key_the_server_makes_a_symmetric_one_and_tells_it_once() {
    let world = World::new().await;
    let lamp = world.device("lamp").await;
    world.admission.set_broker_key(Some(lamp.public_key().clone()));
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..3 {
        let body = granted(&ask(&world, &lamp, json!({})).await);
        let key = &body["cnf"]["jwk"];
        assert_eq!((&key["kty"], &key["alg"]), (&json!("oct"), &json!("HS256")));
        let k = key["k"].as_str().expect("a text");
        assert_eq!(URL_SAFE_NO_PAD.decode(k).expect("base64url").len(), 32);
        assert!(seen.insert(k.to_owned()), "each token has a key of its own");
        // RFC 9201 section 3.2: not beside a symmetric key.
        assert!(body.get("rs_cnf").is_none());
        let token = body["access_token"].as_str().expect("a token");
        let found = claims(token);
        let jwe = found["cnf"]["jwe"].as_str().expect("RFC 9431 section 2.1: encrypted");
        let head = URL_SAFE_NO_PAD.decode(jwe.split('.').next().expect("a header")).expect("base64url");
        assert_eq!(head, br#"{"alg":"dir","enc":"A256GCM"}"#);
        assert_eq!(jwe.split('.').count(), 5);
        assert!(!token.contains(k) && !found.to_string().contains(k), "the key stands there in the clear");
    }
}

fn map(answer: &Answer) -> Vec<(Cbor, Cbor)> {
    assert_eq!(answer.header("content-type"), Some(ACE_CBOR), "{}", answer.text);
    let value = Cbor::from_slice(&answer.body).unwrap_or_else(|error| panic!("{error}: {}", answer.text));
    value.into_map().expect("a map")
}

fn member(map: &[(Cbor, Cbor)], label: i64) -> Option<&Cbor> {
    map.iter().find(|(key, _)| *key == Cbor::from(label)).map(|(_, value)| value)
}

/// A request in CBOR with an assertion, and these members.
fn asked_in_cbor(world: &World, device: &TestDevice, more: Vec<(Cbor, Cbor)>) -> Ask {
    let assertion = device.assertion(ISSUER, world.clock.now_s()).sign();
    let mut members =
        vec![("client_assertion_type".into(), KIND.into()), ("client_assertion".into(), assertion.into())];
    members.extend(more);
    Ask::post("/oauth/token").body(ACE_CBOR, Cbor::Map(members).to_vec().expect("CBOR"))
}

#[tokio::test]
async fn in_cbor_the_answer_has_numbers_and_the_token_is_a_cwt() {
    let world = World::new().await;
    let lamp = world.device("lamp").await;
    let issuer =
        PublicKey::from_jwk(world.admission.issuer_keys(&registry()).expect("a registry")[0].jwk.as_bytes())
            .expect("a key");
    let scope = URL_SAFE_NO_PAD.encode(r#"[["devices/lamp/events/#",["pub"]]]"#);
    let aif = scope_to_cbor(&scope).expect("a scope");
    let kid = URL_SAFE_NO_PAD.decode(lamp.kid().as_str()).expect("base64url");
    let more = vec![
        (33.into(), 2.into()),
        (4.into(), Cbor::Map(vec![(3.into(), Cbor::Bytes(kid))])),
        (9.into(), Cbor::Bytes(aif.clone())),
        (38.into(), Cbor::Null),
    ];
    let answer = world.send(asked_in_cbor(&world, &lamp, more)).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let body = map(&answer);
    assert_eq!((member(&body, 34), member(&body, 38)), (Some(&2.into()), Some(&3.into())));
    assert_eq!(member(&body, 9), Some(&Cbor::Bytes(aif)));
    let token = member(&body, 1).and_then(|token| token.as_bytes()).expect("bytes");
    let verify = |token: &[u8]| {
        let cwt = Cwt::parse(token, 4096).expect("a CWT");
        let checker = drawbridge_identity::Checker::new();
        cwt.verify(ISSUER, &[&issuer], world.clock.now_s(), &checker).expect("by the issuer").to_json()
    };
    let claims = verify(token);
    assert_eq!((&claims["sub"], &claims["scope"]), (&json!("lamp"), &json!(scope)));
    assert_eq!(claims["cnf"], json!({ "kid": lamp.kid().as_str() }));
    assert!(token.len() < 400, "a CWT is short: {} bytes", token.len());

    // The form of the answer decides, and a symmetric key comes as COSE_Key.
    let request = post(&asked(&world, &lamp, json!({}))).header("Accept", ACE_CBOR);
    let body = map(&world.send(request).await);
    let key = member(&body, 8).and_then(|cnf| member(cnf.as_map()?, 1)).expect("a key").clone();
    let k = member(key.as_map().expect("a map"), -1).and_then(|k| k.as_bytes()).expect("bytes").clone();
    assert_eq!(key.to_vec().expect("CBOR"), symmetric_key_to_cose(&k.clone().try_into().expect("32 bytes")));
    let token = member(&body, 1).and_then(|token| token.as_bytes()).expect("bytes");
    assert!(verify(token)["cnf"].get("cose").is_some());
    assert!(!token.windows(32).any(|window| window == k), "the key stands there in the clear");
    let request = asked_in_cbor(&world, &lamp, vec![]).header("Accept", ACE_JSON);
    assert_eq!(claims_of(&world.send(request).await)["sub"], "lamp");
}

fn claims_of(answer: &Answer) -> Value {
    claims(granted(answer)["access_token"].as_str().expect("a token"))
}

#[tokio::test]
async fn errors_in_cbor_are_the_numbers_of_rfc_9200() {
    let world = World::new().await;
    let lamp = world.device("lamp").await;
    let aif = |text: &str| Cbor::Bytes(scope_to_cbor(&URL_SAFE_NO_PAD.encode(text)).expect("a scope"));
    let of_lamp = |more| asked_in_cbor(&world, &lamp, more);
    let plain = |bytes: &[u8]| Ask::post("/oauth/token").body(ACE_CBOR, bytes);
    let other_key = Cbor::Map(vec![(3.into(), Cbor::Bytes(vec![1; 32]))]);
    for (case, request, number, code, status) in [
        ("not CBOR", plain(b"grant_type=x"), 1, "DB-1067", 400),
        ("nobody", plain(&[0xa0]), 2, "DB-1001", 401),
        ("no such grant", of_lamp(vec![(33.into(), 3.into())]), 5, "DB-4216", 400),
        (
            "a scope beyond the policy",
            of_lamp(vec![(9.into(), aif(r#"[["other",["pub"]]]"#))]),
            6,
            "DB-1019",
            400,
        ),
        ("a key of nobody", of_lamp(vec![(4.into(), other_key)]), 7, "DB-1069", 400),
        ("another profile", of_lamp(vec![(38.into(), 1.into())]), 8, "DB-1073", 400),
        ("the profile as text", of_lamp(vec![(38.into(), "mqtt_tls".into())]), 1, "DB-1067", 400),
        ("another service", of_lamp(vec![(5.into(), format!("{ISSUER}/v1").into())]), 1, "DB-1020", 400),
        ("a number that is not known", of_lamp(vec![(99.into(), 1.into())]), 1, "DB-1067", 400),
        (
            "a number twice",
            of_lamp(vec![(39.into(), Cbor::Bytes(vec![1])), (39.into(), Cbor::Bytes(vec![2]))]),
            1,
            "DB-1067",
            400,
        ),
    ] {
        let answer = world.send(request).await;
        let body = map(&answer);
        assert_eq!(member(&body, 30), Some(&number.into()), "{case}: {body:?}");
        let found = body.iter().find(|(key, _)| key.as_text() == Some("code")).map(|(_, value)| value);
        assert_eq!(found, Some(&code.into()), "{case}: {body:?}");
        assert!(member(&body, 31).is_some_and(|text| text.is_text()), "{case}");
        assert_eq!(answer.status, status, "{case}");
    }
}

#[tokio::test]
async fn requests_in_json_are_refused_in_the_words_of_rfc_6749() {
    let world = World::new().await;
    let lamp = world.device("lamp").await;
    let bad = |text: &str| Ask::post("/oauth/token").body(ACE_JSON, text);
    refused(&world.send(bad("{}")).await, "invalid_client", "DB-1001");
    for text in [
        "",
        "[]",
        "{",
        "grant_type=client_credentials",
        r#"{"scope":"W10","scope":"W10"}"#,
        r#"{"scope":[]}"#,
        "{\"cnonce\":\"=\"}",
    ] {
        refused(&world.send(bad(text)).await, "invalid_request", "DB-1067");
    }
    for (more, error, code) in [
        (json!({ "grant_type": "password" }), "unsupported_grant_type", "DB-4216"),
        (json!({ "ace_profile": "coap_dtls" }), "incompatible_ace_profiles", "DB-1073"),
        (json!({ "audience": format!("{ISSUER}/v1") }), "invalid_target", "DB-1020"),
        (
            json!({ "resource": format!("{ISSUER}/v1"), "audience": format!("{ISSUER}/mqtt") }),
            "invalid_request",
            "DB-4206",
        ),
        (json!({ "scope": URL_SAFE_NO_PAD.encode(r##"[["#",["sub"]]]"##) }), "invalid_scope", "DB-1019"),
        (json!({ "scope": "telemetry:write" }), "invalid_scope", "DB-1019"),
        (json!({ "client_id": "door" }), "invalid_client", "DB-1021"),
    ] {
        refused(&ask(&world, &lamp, more).await, error, code);
    }
}

#[tokio::test]
async fn a_token_for_mqtt_opens_nothing_over_http_and_introspection_tells_its_key() {
    let world = World::new().await;
    let lamp = world.device("lamp").await;
    for more in [json!({ "req_cnf": { "kid": lamp.kid().as_str() } }), json!({})] {
        let body = granted(&ask(&world, &lamp, more).await);
        let token = body["access_token"].as_str().expect("a token");
        for scheme in ["Bearer", "DPoP"] {
            let answer =
                world.send(Ask::get("/v1/self").header("Authorization", &format!("{scheme} {token}"))).await;
            assert_eq!((answer.status, answer.word().as_str()), (401, "token-binding"), "{}", answer.text);
        }
        let assertion = lamp.assertion(ISSUER, world.clock.now_s()).sign();
        let form = format!(
            "token={token}&client_assertion_type={}&client_assertion={assertion}",
            KIND.replace(':', "%3A")
        );
        let told = world.send(Ask::post("/oauth/introspect").form(&form)).await.json();
        assert_eq!((&told["active"], &told["token_type"]), (&json!(true), &json!("PoP")), "{told}");
        assert_eq!(told["cnf"], claims(token)["cnf"]);
    }
}

#[tokio::test]
async fn a_form_is_answered_as_ever_whatever_it_accepts() {
    let world = World::new().await;
    let lamp = world.device("lamp").await;
    let assertion = lamp.assertion(ISSUER, world.clock.now_s()).sign();
    let request =
        Ask::post("/oauth/token").form(&crate::world::login_form(&assertion)).header("Accept", ACE_CBOR);
    let answer = world.send(request).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    assert_eq!(answer.json()["token_type"], "Bearer");
}

#[tokio::test]
async fn where_tokens_are_opaque_these_are_too() {
    let world = World::new().await;
    let lamp = world.device("lamp").await;
    let settings = RegistrySettings { token_format: TokenFormat::Opaque, ..RegistrySettings::default() };
    let change = RegistryChange { settings: Some(settings), ..RegistryChange::default() };
    world.admission.change_registry(&registry(), change, &Actor::Admin).await.expect("changed");
    let body = granted(&ask(&world, &lamp, json!({ "req_cnf": { "kid": lamp.kid().as_str() } })).await);
    assert!(body["access_token"].as_str().is_some_and(|token| token.starts_with("dbo_")), "{body}");
    let body = map(&world.send(asked_in_cbor(&world, &lamp, vec![])).await);
    let token = member(&body, 1).and_then(|token| token.as_bytes()).expect("bytes");
    assert!(token.starts_with(b"dbo_"));
}
