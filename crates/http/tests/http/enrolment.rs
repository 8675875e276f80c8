//! Devices that register themselves: the operator's side, the device's side, and every refusal.

use std::sync::Arc;

use drawbridge_admission::{Actor, AdmissionConfig, REGISTRATION_TOKEN_PREFIX};
use drawbridge_http::HttpConfig;
use drawbridge_jose::{Algorithm, base64url_encode, sha256};
use drawbridge_registry::{PrincipalSettings, Role};
use drawbridge_registry_sqlite::SqliteStore;
use drawbridge_testkit::TestDevice;
use serde_json::{Value, json};

use crate::world::{Answer, Ask, ISSUER, World, login_form, name, registry};

impl World {
    /// An enrolment and its token.
    async fn enrolment(&self, body: Value) -> (String, String) {
        let made = self.admin(Ask::post("/v1/enrolments").json(&body)).await;
        assert_eq!(made.status, 201, "{}", made.text);
        let text = |member: &str| made.json()[member].as_str().expect("a text").to_owned();
        (text("id"), text("token"))
    }

    async fn nonce(&self) -> String {
        let answer = self.send(Ask::post("/oauth/challenge").form("purpose=enrolment")).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json()["nonce"].as_str().expect("a nonce").to_owned()
    }

    /// The body with which a device asks to be registered.
    async fn application_of(&self, device: &TestDevice, authority: &str) -> Value {
        let proof = proof(device, authority, &self.nonce().await);
        json!({ "client_id_hint": device.name.as_str(), "jwks": { "keys": [jwk(device)] }, "proof": proof })
    }

    async fn enrol(&self, device: &TestDevice, token: &str) -> Answer {
        let body = self.application_of(device, token).await;
        self.send(Ask::post("/oauth/register").bearer(token).json(&body)).await
    }

    async fn login(&self, device: &TestDevice) -> Answer {
        let assertion = device.assertion(ISSUER, self.clock.now_s()).sign();
        self.send(Ask::post("/oauth/token").form(&login_form(&assertion))).await
    }

    async fn manufacturer(&self, of: &str) -> TestDevice {
        let maker = self.application(of, None).await;
        let settings = PrincipalSettings { roles: [Role::Manufacturer].into(), ..Default::default() };
        self.admission.set_settings(&registry(), &name(of), settings, None, &Actor::Admin).await.expect(of);
        maker
    }
}

fn jwk(device: &TestDevice) -> Value {
    serde_json::from_str(&device.public_key().to_jwk_json()).expect("a JWK")
}

fn proof_claims(device: &TestDevice, authority: &str, nonce: &str) -> Value {
    json!({
        "aud": ISSUER, "sub": device.name.as_str(), "nonce": nonce,
        "eth": base64url_encode(&sha256(authority.as_bytes())),
    })
}

fn proof(device: &TestDevice, authority: &str, nonce: &str) -> String {
    device.draft(Some("enrolment-proof+jwt"), proof_claims(device, authority, nonce)).sign()
}

#[tokio::test]
async fn a_fleet_enrols_waits_is_approved_and_logs_in() {
    let world = World::new().await;
    let body = json!({ "count": 2, "id_pattern": "pump-*", "label": "hall 3" });
    let (id, token) = world.enrolment(body).await;
    assert!(token.starts_with("dbe_") && token.len() == 53, "{token}");
    let shown = world.admin(Ask::get(&format!("/v1/enrolments/{id}"))).await;
    assert!(!shown.text.contains(&token), "the token is shown once");
    assert_eq!(
        (shown.json()["state"].as_str(), shown.json()["expires"].as_str()),
        (Some("open"), Some("2026-11-23T10:03:20Z"))
    );

    let pump = TestDevice::new("pump-1");
    let done = world.enrol(&pump, &token).await;
    assert_eq!(done.status, 201, "{}", done.text);
    assert_eq!(done.header("cache-control"), Some("no-store"));
    let answer = done.json();
    assert_eq!(answer["client_id"], "pump-1");
    assert_eq!(answer["status"], "pending");
    assert_eq!(answer["token_endpoint_auth_method"], "private_key_jwt");
    assert_eq!(answer["registration_client_uri"], "https://id.example/oauth/register/pump-1");
    assert_eq!(answer["jwks"]["keys"][0]["x"], jwk(&pump)["x"]);
    let waits = world.login(&pump).await;
    assert_eq!((waits.status, waits.word().as_str()), (400, "unauthorized_client"), "{}", waits.text);
    assert_eq!(waits.json()["code"], "DB-1039");

    // The answer was lost: the same device asks again and costs no claim.
    let again = world.enrol(&pump, &token).await;
    assert_eq!((again.status, again.json()["client_id"].as_str()), (200, Some("pump-1")));
    assert_ne!(again.json()["registration_access_token"], answer["registration_access_token"]);
    let record = world.admin(Ask::get("/v1/devices/pump-1")).await.json();
    assert_eq!((&record["pending"], &record["enrolment"]), (&json!(true), &json!(id)));
    let waiting = world.admin(Ask::get("/v1/enrolments/-/devices?pending=true")).await.json();
    assert_eq!((waiting["items"][0]["name"].as_str(), waiting["items"][1].as_str()), (Some("pump-1"), None));

    let approved = world.admin(Ask::post("/v1/devices/pump-1/approve")).await;
    assert_eq!((approved.status, approved.json()["state"].as_str()), (200, Some("active")));
    assert_eq!(world.login(&pump).await.status, 200);
    let next = TestDevice::new("pump-2");
    assert_eq!(world.enrol(&next, &token).await.status, 201);
    let all = world.admin(Ask::post(&format!("/v1/enrolments/{id}/approve"))).await;
    assert_eq!(all.json(), json!({ "approved": 1, "more": false }));
    assert_eq!(world.login(&next).await.status, 200);

    let third = world.enrol(&TestDevice::new("pump-3"), &token).await;
    assert_eq!((third.status, third.word().as_str()), (401, "invalid_token"), "{}", third.text);
    assert_eq!(
        world.enrol(&pump, &token).await.status,
        200,
        "used up, and yet the same device may ask again"
    );

    // One command takes the claim back, and with it all that the device had.
    let api = world.token(&next, None, "").await;
    let undone = world.admin(Ask::post("/v1/devices/pump-2/undo-enrolment")).await;
    assert_eq!(undone.status, 204, "{}", undone.text);
    assert_eq!(world.send(Ask::get("/v1/self").bearer(&api)).await.status, 401);
    assert_eq!(world.login(&next).await.status, 401);
    assert_eq!(world.enrol(&TestDevice::new("pump-3"), &token).await.status, 201, "the claim is free again");

    let ended = world.admin(Ask::new("DELETE", &format!("/v1/enrolments/{id}"))).await;
    assert_eq!(ended.status, 204);
    let over = world.enrol(&pump, &token).await;
    assert_eq!((over.status, over.json()["code"].as_str()), (401, Some("DB-1060")), "{}", over.text);
    let rows = world.admin(Ask::get("/v1/audit?limit=50")).await;
    for action in ["enrolment.create", "device.enrol", "device.approve", "enrolment.undo", "enrolment.end"] {
        assert!(rows.text.contains(action), "no {action} in the audit");
    }
    assert!(!rows.text.contains("dbe_") && !rows.text.contains("dbr_"), "no token in the audit");
}

#[tokio::test]
async fn listed_ids_and_keys_are_admitted_at_once_and_no_others() {
    let world = World::new().await;
    let (_, token) = world.enrolment(json!({ "ids": ["a", "b"] })).await;
    let a = TestDevice::with_algorithm("a", Algorithm::EdDsa);
    assert_eq!(world.enrol(&a, &token).await.json()["status"], "active");
    assert_eq!(world.login(&a).await.status, 200);
    let other = world.enrol(&TestDevice::new("c"), &token).await;
    assert_eq!((other.status, other.word().as_str()), (400, "invalid_client_metadata"), "{}", other.text);

    let listed = TestDevice::new("any-name");
    let body = json!({ "key_thumbprints": [listed.public_key().thumbprint()] });
    let (_, token) = world.enrolment(body).await;
    let stranger = world.enrol(&TestDevice::new("any-name"), &token).await;
    assert_eq!(
        (stranger.status, stranger.json()["code"].as_str()),
        (400, Some("DB-1037")),
        "{}",
        stranger.text
    );
    assert_eq!(world.enrol(&listed, &token).await.json()["status"], "active");
}

#[tokio::test]
async fn an_enrolment_that_names_nobody_or_everybody_by_mistake_is_not_made() {
    let world = World::new().await;
    let past = "2026-11-22T10:03:20Z";
    let table = [
        (json!({}), 400, "bad-request"),
        (json!({ "ids": ["a"], "id_pattern": "b*" }), 400, "bad-request"),
        (json!({ "ids": ["a"], "unknown": 1 }), 400, "bad-request"),
        (json!({ "id_pattern": "*" }), 422, "enrolment-invalid"),
        (json!({ "id_pattern": "" }), 422, "enrolment-invalid"),
        (json!({ "id_pattern": "pump/*" }), 422, "enrolment-invalid"),
        (json!({ "ids": [] }), 422, "enrolment-invalid"),
        (json!({ "ids": ["a", "a"] }), 422, "enrolment-invalid"),
        (json!({ "ids": ["a+b"] }), 422, "enrolment-invalid"),
        (json!({ "key_thumbprints": ["x"] }), 422, "enrolment-invalid"),
        (json!({ "id_pattern": "a*", "count": 0 }), 422, "enrolment-invalid"),
        (json!({ "id_pattern": "a*", "expires": past }), 422, "enrolment-invalid"),
        (json!({ "id_pattern": "a*", "expires": "2028-01-01T00:00:00Z" }), 422, "enrolment-invalid"),
        (json!({ "id_pattern": "a*", "expires": "tomorrow" }), 400, "bad-request"),
        (json!({ "id_pattern": "a*", "label": "" }), 422, "enrolment-invalid"),
        (json!({ "id_pattern": "a*", "policy": "nosuch" }), 422, "policy-not-found"),
    ];
    for (body, status, word) in table {
        let refused = world.admin(Ask::post("/v1/enrolments").json(&body)).await;
        assert_eq!((refused.status, refused.word().as_str()), (status, word), "{body}: {}", refused.text);
    }
    let (_, token) = world.enrolment(json!({ "id_pattern": "*", "any": true })).await;
    assert_eq!(world.enrol(&TestDevice::new("whatever"), &token).await.status, 201);
    for (method, path) in [
        ("GET", "/v1/enrolments/nosuch"),
        ("DELETE", "/v1/enrolments/nosuch"),
        ("POST", "/v1/enrolments/nosuch/approve"),
        ("GET", "/v1/enrolments/nosuch/devices"),
    ] {
        let missing = world.admin(Ask::new(method, path)).await;
        assert_eq!(
            (missing.status, missing.word().as_str()),
            (404, "enrolment-not-found"),
            "{method} {path}"
        );
    }
    world.device("lamp").await;
    for (path, status, word) in [
        ("/v1/devices/ghost/approve", 404, "principal-not-found"),
        ("/v1/devices/lamp/reject", 409, "enrolment-state"),
        ("/v1/devices/lamp/undo-enrolment", 409, "enrolment-state"),
    ] {
        let refused = world.admin(Ask::post(path)).await;
        assert_eq!((refused.status, refused.word().as_str()), (status, word), "{path}: {}", refused.text);
    }
}

#[tokio::test]
async fn every_fault_of_a_registration_has_its_answer_and_registers_nobody() {
    let world = World::new().await;
    world.device("pump-taken").await;
    world.application("pump-app", None).await;
    let (_, token) = world.enrolment(json!({ "id_pattern": "pump-*", "count": 100 })).await;
    let (_, other_token) = world.enrolment(json!({ "id_pattern": "pump-*" })).await;
    let (_, short) =
        world.enrolment(json!({ "id_pattern": "pump-*", "expires": "2026-11-22T10:03:50Z" })).await;
    let device = TestDevice::new("pump-1");
    let stranger = TestDevice::new("pump-1");
    let nonce = world.nonce().await;
    let good = world.application_of(&device, &token).await;
    let with = |changes: &[(&str, Value)]| {
        let mut body = good.clone();
        for (name, value) in changes {
            match value {
                Value::Null => drop(body.as_object_mut().expect("an object").remove(*name)),
                value => body[*name] = value.clone(),
            }
        }
        body
    };
    let proof_with = |name: &str, value: Value| {
        let draft = device.draft(Some("enrolment-proof+jwt"), proof_claims(&device, &token, &nonce));
        if value.is_null() { draft.without(name).sign() } else { draft.with(name, value).sign() }
    };
    let hint = |text: &str| with(&[("client_id_hint", json!(text))]);
    let proof_is = |proof: String| with(&[("proof", json!(proof))]);
    let mut private = jwk(&device);
    private["d"] = json!("c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3I");
    let metadata = "invalid_client_metadata";
    /// What is wrong, the Bearer token, the body; status, `error` and `code` of the answer.
    type Row<'a> = (&'a str, Option<&'a str>, Value, u16, &'a str, &'a str);
    let table: Vec<Row<'_>> = vec![
        ("no token", None, good.clone(), 401, "invalid_token", "DB-1001"),
        ("no enrolment token", Some("dba_x"), good.clone(), 401, "invalid_token", "DB-1007"),
        ("a token nobody made", Some("dbe_unknown"), good.clone(), 401, "invalid_token", "DB-1007"),
        ("the admin credential", Some(&world.admin), good.clone(), 401, "invalid_token", "DB-1007"),
        ("the proof is for another token", Some(&other_token), good.clone(), 400, metadata, "DB-1023"),
        ("no name", Some(&token), with(&[("client_id_hint", json!(null))]), 400, metadata, "DB-1037"),
        ("no possible name", Some(&token), hint("pump/1"), 400, metadata, "DB-1037"),
        ("another name than in the proof", Some(&token), hint("pump-2"), 400, metadata, "DB-1023"),
        ("no keys", Some(&token), with(&[("jwks", json!(null))]), 400, metadata, "DB-1022"),
        ("empty keys", Some(&token), with(&[("jwks", json!({ "keys": [] }))]), 400, metadata, "DB-1022"),
        (
            "too many keys",
            Some(&token),
            with(&[("jwks", json!({ "keys": vec![jwk(&device); 6] }))]),
            400,
            metadata,
            "DB-1022",
        ),
        (
            "the same key twice",
            Some(&token),
            with(&[("jwks", json!({ "keys": [jwk(&device), jwk(&device)] }))]),
            400,
            metadata,
            "DB-1022",
        ),
        (
            "a private key",
            Some(&token),
            with(&[("jwks", json!({ "keys": [private] }))]),
            400,
            metadata,
            "DB-1022",
        ),
        (
            "a secret key",
            Some(&token),
            with(&[("jwks", json!({ "keys": [{ "kty": "oct", "k": "c2VjcmV0LXNlY3JldA" }] }))]),
            400,
            metadata,
            "DB-1022",
        ),
        (
            "a key that is not the proof's",
            Some(&token),
            with(&[("jwks", json!({ "keys": [jwk(&stranger)] }))]),
            400,
            metadata,
            "DB-1023",
        ),
        ("no proof", Some(&token), with(&[("proof", json!(null))]), 400, metadata, "DB-1023"),
        (
            "two proofs for one key",
            Some(&token),
            with(&[("proof", json!(null)), ("proofs", json!([good["proof"], good["proof"]]))]),
            400,
            metadata,
            "DB-1023",
        ),
        (
            "proof and proofs",
            Some(&token),
            with(&[("proofs", json!([good["proof"]]))]),
            400,
            metadata,
            "DB-4226",
        ),
        (
            "another issuer",
            Some(&token),
            proof_is(proof_with("aud", json!("https://x"))),
            400,
            metadata,
            "DB-1023",
        ),
        ("no token hash", Some(&token), proof_is(proof_with("eth", json!(null))), 400, metadata, "DB-1023"),
        ("no nonce", Some(&token), proof_is(proof_with("nonce", json!(null))), 400, metadata, "DB-1032"),
        (
            "a made-up nonce",
            Some(&token),
            proof_is(proof_with("nonce", json!("x"))),
            400,
            metadata,
            "DB-1033",
        ),
        (
            "a client assertion",
            Some(&token),
            proof_is(device.assertion(ISSUER, world.clock.now_s()).sign()),
            400,
            metadata,
            "DB-1023",
        ),
        (
            "jwks_uri",
            Some(&token),
            with(&[("jwks_uri", json!("https://127.0.0.1/"))]),
            400,
            metadata,
            "DB-4226",
        ),
        (
            "redirect_uris",
            Some(&token),
            with(&[("redirect_uris", json!(["https://x/"]))]),
            400,
            "invalid_redirect_uri",
            "DB-4226",
        ),
        (
            "token and statement",
            Some(&token),
            with(&[("software_statement", json!("a.b.c"))]),
            400,
            "invalid_request",
            "DB-4206",
        ),
        ("wrong types", Some(&token), with(&[("proof", json!(7))]), 400, "invalid_request", "DB-4206"),
    ];
    for (what, bearer, body, status, error, code) in table {
        let mut ask = Ask::post("/oauth/register");
        if let Some(bearer) = bearer {
            ask = ask.bearer(bearer);
        }
        let refused = world.send(ask.json(&body)).await;
        let found = (refused.status, refused.word(), refused.json()["code"].clone());
        assert_eq!(found, (status, error.to_owned(), json!(code)), "{what}: {}", refused.text);
        assert!(!refused.text.contains("c2VjcmV0"), "{what}: a private key is not repeated");
        assert_eq!(refused.header("www-authenticate").is_some(), status == 401, "{what}");
        let nonce = refused.json()["nonce"].is_string();
        assert_eq!(nonce, ["DB-1032", "DB-1033"].contains(&code), "{what}: {}", refused.text);
    }
    assert_eq!(world.admin(Ask::get("/v1/devices/pump-1")).await.status, 404, "nobody was registered");

    for taken in ["pump-taken", "pump-app"] {
        let refused = world.enrol(&TestDevice::new(taken), &token).await;
        assert_eq!((refused.status, refused.word().as_str()), (409, metadata), "{}", refused.text);
        assert_eq!(refused.json()["code"], "DB-1062");
    }
    assert_eq!(world.enrol(&device, &token).await.status, 201);
    let other_key = world.enrol(&stranger, &token).await;
    assert_eq!((other_key.status, other_key.json()["code"].as_str()), (409, Some("DB-1062")));
    let mut twin = TestDevice::new("pump-9");
    twin.key =
        drawbridge_jose::SigningKey::from_pkcs8_pem(&device.key.to_pkcs8_pem()).expect("the key again");
    let same_key = world.enrol(&twin, &token).await;
    assert_eq!(
        (same_key.status, same_key.json()["code"].as_str()),
        (409, Some("DB-1024")),
        "{}",
        same_key.text
    );
    let foreign = world.enrol(&device, &other_token).await;
    assert_eq!(foreign.status, 409, "it came by another enrolment");

    world.admin(Ask::post("/v1/devices/pump-1/block")).await;
    let blocked = world.enrol(&device, &token).await;
    assert_eq!((blocked.status, blocked.word().as_str()), (403, "unauthorized_client"), "{}", blocked.text);
    world.clock.advance_s(31);
    let late = world.enrol(&TestDevice::new("pump-7"), &short).await;
    assert_eq!((late.status, late.json()["code"].as_str()), (401, Some("DB-1060")), "{}", late.text);
    let stale = world.application_of(&TestDevice::new("pump-8"), &token).await;
    world.clock.advance_s(61);
    let stale = world.send(Ask::post("/oauth/register").bearer(&token).json(&stale)).await;
    assert_eq!((stale.status, stale.json()["code"].as_str()), (400, Some("DB-1033")), "{}", stale.text);
    assert!(stale.json()["nonce"].is_string(), "it is told a fresh one");
}

#[tokio::test]
async fn a_device_brings_several_keys_each_with_its_proof() {
    let world = World::new().await;
    let (_, token) = world.enrolment(json!({ "ids": ["meter"] })).await;
    let keys = [Algorithm::Es256, Algorithm::EdDsa, Algorithm::Es384]
        .map(|algorithm| TestDevice::with_algorithm("meter", algorithm));
    let nonce = world.nonce().await;
    let proofs: Vec<String> = keys.iter().map(|key| proof(key, &token, &nonce)).collect();
    let body = json!({
        "client_id_hint": "meter", "jwks": { "keys": keys.iter().map(jwk).collect::<Vec<_>>() },
        "proofs": proofs,
    });
    let mut swapped = body.clone();
    swapped["proofs"] = json!([proofs[1], proofs[0], proofs[2]]);
    let refused = world.send(Ask::post("/oauth/register").bearer(&token).json(&swapped)).await;
    assert_eq!((refused.status, refused.json()["code"].as_str()), (400, Some("DB-1023")), "{}", refused.text);
    let done = world.send(Ask::post("/oauth/register").bearer(&token).json(&body)).await;
    assert_eq!(done.status, 201, "{}", done.text);
    for key in &keys {
        assert_eq!(world.login(key).await.status, 200);
    }
}

#[tokio::test]
async fn a_registration_is_shown_and_ended_by_its_token_and_changes_nothing() {
    let world = World::new().await;
    let lamp = world.device("lamp").await;
    let (_, token) = world.enrolment(json!({ "ids": ["pump", "hose"], "policy": "device" })).await;
    let pump = TestDevice::new("pump");
    let first = world.enrol(&pump, &token).await.json();
    let secret = first["registration_access_token"].as_str().expect("a token").to_owned();
    assert!(secret.starts_with(REGISTRATION_TOKEN_PREFIX) && secret.len() == 53);
    let at = "/oauth/register/pump";
    let shown = world.send(Ask::get(at).bearer(&secret)).await;
    assert_eq!((shown.status, shown.json()), (200, first.clone()), "the same as at first");

    let unknown = [
        (at, format!("{secret}x")),
        ("/oauth/register/lamp", secret.clone()),
        ("/oauth/register/ghost", secret.clone()),
        (at, token.clone()),
        (at, world.admin.clone()),
    ];
    for (path, bearer) in &unknown {
        for method in ["GET", "PUT", "DELETE"] {
            let ask = Ask::new(method, path).bearer(bearer).json(&json!({ "client_id": "pump" }));
            let refused = world.send(ask).await;
            assert_eq!((refused.status, refused.word().as_str()), (401, "invalid_token"), "{method} {path}");
            assert_eq!(refused.json()["error_description"], "the credential is not accepted");
        }
    }
    assert_eq!(world.send(Ask::get(at)).await.status, 401);

    let put = |body: Value| world.send(Ask::new("PUT", at).bearer(&secret).json(&body));
    let same = put(json!({
        "client_id": "pump", "jwks": { "keys": [jwk(&pump)] }, "client_name": "x", "scope": "everything",
        "policy": "admin", "attributes": { "site": "x" },
    }));
    let same = same.await;
    assert_eq!((same.status, same.json()), (200, first), "{}", same.text);
    let known = world.admin(Ask::get("/v1/devices/pump")).await.json();
    assert_eq!((&known["attributes"], &known["policy"]), (&json!({}), &json!("device")));
    for (body, wanted) in [
        (json!({}), "client_id"),
        (json!({ "client_id": "lamp" }), "client_id"),
        (json!({ "client_id": "pump", "jwks": { "keys": [jwk(&lamp)] } }), "/v1/self/keys"),
        (json!({ "client_id": "pump", "jwks": { "keys": [] } }), "/v1/self/keys"),
        (json!({ "client_id": "pump", "jwks_uri": "https://x" }), "jwks_uri"),
        (json!({ "client_id": "pump", "registration_access_token": "x" }), "leave"),
        (json!({ "client_id": "pump", "software_statement": "x" }), "leave"),
    ] {
        let refused = put(body.clone()).await;
        assert_eq!((refused.status, refused.word().as_str()), (400, "invalid_client_metadata"), "{body}");
        assert!(refused.text.contains(wanted), "{body}: {}", refused.text);
    }

    let again = world.enrol(&pump, &token).await;
    assert_eq!(again.status, 200);
    assert_eq!(world.send(Ask::get(at).bearer(&secret)).await.status, 401, "an earlier token is dead");
    let secret = again.json()["registration_access_token"].as_str().expect("a token").to_owned();
    world.admin(Ask::post("/v1/devices/pump/block")).await;
    for method in ["GET", "DELETE"] {
        let refused = world.send(Ask::new(method, at).bearer(&secret)).await;
        assert_eq!((refused.status, refused.word().as_str()), (403, "unauthorized_client"), "{method}");
    }
    world.admin(Ask::post("/v1/devices/pump/unblock")).await;
    let gone = world.send(Ask::new("DELETE", at).bearer(&secret)).await;
    assert_eq!((gone.status, gone.text.as_str()), (204, ""));
    assert_eq!(world.send(Ask::get(at).bearer(&secret)).await.status, 401);
    assert_eq!(world.login(&pump).await.status, 401);
    let back = world.enrol(&pump, &token).await;
    assert_eq!(back.status, 409, "its key is barred: {}", back.text);
}

#[tokio::test]
async fn a_rejected_device_loses_its_name_and_its_key_for_ever() {
    let world = World::new().await;
    let (_, token) = world.enrolment(json!({ "id_pattern": "pump-*", "count": 5 })).await;
    let impostor = TestDevice::new("pump-1");
    assert_eq!(world.enrol(&impostor, &token).await.status, 201);
    assert_eq!(world.admin(Ask::post("/v1/devices/pump-1/reject")).await.status, 204);
    let back = world.enrol(&impostor, &token).await;
    assert_eq!((back.status, back.json()["code"].as_str()), (409, Some("DB-1024")), "{}", back.text);
    assert_eq!(world.enrol(&TestDevice::new("pump-1"), &token).await.status, 201, "the name is free");
}

#[tokio::test]
async fn a_manufacturer_vouches_for_devices() {
    let world = World::new().await;
    let maker = world.manufacturer("acme").await;
    let now_s = world.clock.now_s();
    let statement = |claims: Value| {
        let mut all = json!({
            "iss": "acme", "aud": ISSUER, "iat": now_s, "exp": now_s + 100_000, "software_id": "pump 3",
        });
        for (name, value) in claims.as_object().expect("an object") {
            all[name] = value.clone();
        }
        maker.draft(Some("software-statement+jwt"), all)
    };
    let ask = async |device: &TestDevice, statement: &str| {
        let mut body = world.application_of(device, statement).await;
        body["software_statement"] = json!(statement);
        world.send(Ask::post("/oauth/register").json(&body)).await
    };
    // One device and its key: admitted at once, by the name that the statement gives.
    let one = TestDevice::new("pump-1");
    let text = statement(json!({ "client_id": "pump-1", "cnf": { "jkt": one.kid().as_str() } })).sign();
    let done = ask(&one, &text).await;
    assert_eq!((done.status, done.json()["status"].as_str()), (201, Some("active")), "{}", done.text);
    assert_eq!(world.login(&one).await.status, 200);
    assert_eq!(ask(&one, &text).await.status, 200, "the same again");
    let thief = TestDevice::new("pump-1");
    let stolen = ask(&thief, &text).await;
    assert_eq!(
        (stolen.status, stolen.word().as_str()),
        (400, "unapproved_software_statement"),
        "{}",
        stolen.text
    );
    let mut renamed = world.application_of(&TestDevice::new("pump-1"), &text).await;
    renamed["client_id_hint"] = json!("other");
    renamed["software_statement"] = json!(text);
    let renamed = world.send(Ask::post("/oauth/register").json(&renamed)).await;
    assert_eq!(
        renamed.word(),
        "unapproved_software_statement",
        "the statement's name wins: {}",
        renamed.text
    );

    // A pattern: they wait, are counted, listed, ended.
    let text = statement(json!({ "id_pattern": "hose-*" })).sign();
    let hose = TestDevice::new("hose-1");
    let waits = ask(&hose, &text).await;
    assert_eq!((waits.status, waits.json()["status"].as_str()), (201, Some("pending")), "{}", waits.text);
    assert_eq!(ask(&TestDevice::new("hose-2"), &text).await.status, 201);
    let foreign = ask(&TestDevice::new("pump-2"), &text).await;
    assert_eq!((foreign.status, foreign.json()["code"].as_str()), (400, Some("DB-1037")), "{}", foreign.text);
    let listed = world.admin(Ask::get("/v1/enrolments")).await.json();
    let entry = &listed["items"][0];
    assert_eq!(
        (&entry["claims"], &entry["count"], &entry["label"]),
        (&json!(2), &json!(1000), &json!("statement of acme: pump 3"))
    );
    let id = entry["id"].as_str().expect("an id").to_owned();
    assert_eq!(world.admin(Ask::post(&format!("/v1/enrolments/{id}/approve"))).await.json()["approved"], 2);
    assert_eq!(world.login(&hose).await.status, 200);
    world.admin(Ask::new("DELETE", &format!("/v1/enrolments/{id}"))).await;
    let over = ask(&TestDevice::new("hose-3"), &text).await;
    assert_eq!((over.status, over.word().as_str()), (400, "unapproved_software_statement"), "{}", over.text);

    // The policy of its devices, if it has one.
    let own = drawbridge_names::PolicyName::parse("acme.devices").expect("a name");
    world
        .admission
        .set_policy(&registry(), &own, "[[allow]]\npublish = [\"x\"]\n", &Actor::Admin)
        .await
        .expect("set");
    let text = statement(json!({ "client_id": "pump-5" })).sign();
    assert_eq!(ask(&TestDevice::new("pump-5"), &text).await.status, 201);
    assert_eq!(world.admin(Ask::get("/v1/devices/pump-5")).await.json()["policy"], "acme.devices");

    // Faults. What comes before a good signature is one answer.
    let invalid = "invalid_software_statement";
    let device = TestDevice::new("hose-9");
    world.application("plain", None).await;
    let pattern = json!({ "id_pattern": "hose-*" });
    let table = [
        ("not a JWT", "x".to_owned(), invalid),
        ("another type", statement(pattern.clone()).typ(Some("JWT")).sign(), invalid),
        ("another signer", statement(pattern.clone()).sign_by(&device.key), invalid),
        ("unknown issuer", statement(json!({ "iss": "ghost", "id_pattern": "hose-*" })).sign(), invalid),
        ("no audience", statement(pattern.clone()).without("aud").sign(), invalid),
        ("another audience", statement(pattern.clone()).with("aud", json!("https://x")).sign(), invalid),
        ("expired", statement(pattern.clone()).with("exp", json!(now_s - 61)).sign(), invalid),
        ("no devices", statement(json!({})).sign(), invalid),
        ("all devices", statement(json!({ "id_pattern": "*" })).sign(), invalid),
    ];
    for (what, text, error) in table {
        let refused = ask(&device, &text).await;
        assert_eq!((refused.status, refused.word().as_str()), (400, error), "{what}: {}", refused.text);
    }
    for roles in [vec![], vec![Role::Admin]] {
        let settings = PrincipalSettings { roles: roles.into_iter().collect(), ..Default::default() };
        world
            .admission
            .set_settings(&registry(), &name("acme"), settings, None, &Actor::Admin)
            .await
            .expect("set");
        let refused = ask(&device, &statement(pattern.clone()).sign()).await;
        assert_eq!(refused.word(), "unapproved_software_statement", "{}", refused.text);
    }
}

#[tokio::test]
async fn two_devices_race_for_the_last_claim_and_one_gets_it() {
    let folder = tempfile::tempdir().expect("a folder");
    for round in 0..10 {
        let store = SqliteStore::open(&folder.path().join(format!("{round}.sqlite"))).expect("opens");
        let world = World::with(Arc::new(store), HttpConfig::default(), AdmissionConfig::default()).await;
        let (id, token) = world.enrolment(json!({ "id_pattern": "pump-*", "count": 2 })).await;
        let devices: Vec<TestDevice> = (0..6).map(|n| TestDevice::new(&format!("pump-{n}"))).collect();
        let race = devices.iter().map(|device| world.enrol(device, &token));
        let answers = join_all(race).await;
        let made = answers.iter().filter(|answer| answer.status == 201).count();
        let late = answers.iter().filter(|answer| answer.status == 401).count();
        assert_eq!((made, late), (2, 4), "{answers:?}");
        let shown = world.admin(Ask::get(&format!("/v1/enrolments/{id}"))).await.json();
        assert_eq!((&shown["claims"], &shown["state"]), (&json!(2), &json!("used")));
    }
}

/// Runs futures side by side.
async fn join_all<T>(futures: impl IntoIterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut waiting: Vec<_> = futures.into_iter().map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(move |context| {
        let mut ready = true;
        for (future, answer) in &mut waiting {
            if answer.is_none() {
                match future.as_mut().poll(context) {
                    std::task::Poll::Ready(value) => *answer = Some(value),
                    std::task::Poll::Pending => ready = false,
                }
            }
        }
        if !ready {
            return std::task::Poll::Pending;
        }
        std::task::Poll::Ready(waiting.iter_mut().map(|(_, answer)| answer.take().expect("ready")).collect())
    })
    .await
}
