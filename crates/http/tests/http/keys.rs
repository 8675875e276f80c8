//! Keys and clocks as they are seen on the wire.

use drawbridge_admission::Actor;
use drawbridge_jose::{Jws, ParseOptions, PublicKey};
use drawbridge_registry::{ClockTrust, PrincipalSettings};
use drawbridge_testkit::TestDevice;
use serde_json::{Value, json};

use crate::world::{Answer, Ask, ISSUER, World, login_form, name, registry};

fn jwk(device: &TestDevice) -> Value {
    serde_json::from_str(&device.public_key().to_jwk_json()).expect("a JWK")
}

async fn trust(world: &World, device: &str, clock: ClockTrust) {
    let settings = PrincipalSettings { clock: Some(clock), ..PrincipalSettings::default() };
    let set = world.admission.set_settings(&registry(), &name(device), settings, None, &Actor::Admin).await;
    set.expect("set");
}

async fn login(world: &World, jwt: &str) -> Answer {
    world.send(Ask::post("/oauth/token").form(&login_form(jwt))).await
}

#[tokio::test]
async fn a_challenge_is_made_for_whoever_asks_and_kept_by_nobody() {
    let world = World::new().await;
    let forms = [
        Ask::post("/oauth/challenge"),
        Ask::post("/oauth/challenge").form("purpose=assertion"),
        Ask::post("/oauth/challenge").form("purpose=&unknown=x"),
        Ask::post("/oauth/challenge").json(&json!({})),
        Ask::post("/oauth/challenge").json(&json!({ "purpose": "enrolment" })),
        Ask::post("/oauth/challenge").form("purpose=dpop"),
    ];
    let mut nonces = std::collections::BTreeSet::new();
    for (at, ask) in forms.into_iter().enumerate() {
        let answer = world.send(ask).await;
        assert_eq!(answer.status, 200, "{at}: {}", answer.text);
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        let json = answer.json();
        assert_eq!(
            (json["server_time"].as_u64(), json["expires_in"].as_u64()),
            (Some(world.clock.now_s()), Some(60))
        );
        let nonce = json["nonce"].as_str().expect("a nonce").to_owned();
        assert_eq!(answer.header("dpop-nonce"), (at == 5).then_some(nonce.as_str()), "{at}");
        assert!(nonces.insert(nonce), "each is new");
    }
    for (ask, says) in [
        (Ask::post("/oauth/challenge").form("purpose=login"), "purpose"),
        (Ask::post("/oauth/challenge").form("purpose=dpop&purpose=dpop"), "twice"),
        (Ask::post("/oauth/challenge").body("text/plain", "purpose=dpop"), "Content-Type"),
        (Ask::post("/oauth/challenge").json(&json!({ "purpose": 7 })), "wrong type"),
    ] {
        let answer = world.send(ask).await;
        assert_eq!((answer.status, answer.word().as_str()), (400, "invalid_request"), "{}", answer.text);
        assert!(answer.text.contains(says), "{}", answer.text);
    }
    assert_eq!(world.send(Ask::get("/oauth/challenge")).await.status, 405);
}

#[tokio::test]
async fn a_device_without_a_clock_logs_in_with_the_nonce_of_its_first_refusal() {
    let world = World::new().await;
    let lamp = world.device("lamp").await;
    trust(&world, "lamp", ClockTrust::None).await;
    // It has been on for 7 s and believes it is 1970.
    let draft = || lamp.assertion(ISSUER, 7);
    let refused = login(&world, &draft().sign()).await;
    assert_eq!((refused.status, refused.word().as_str()), (401, "invalid_client"), "{}", refused.text);
    let json = refused.json();
    assert_eq!(
        (json["code"].as_str(), json["server_time"].as_u64()),
        (Some("DB-1032"), Some(world.clock.now_s()))
    );
    assert!(refused.header("date").is_some());
    let nonce = json["nonce"].as_str().expect("a nonce").to_owned();
    let admitted = login(&world, &draft().with("nonce", json!(nonce)).sign()).await;
    assert_eq!(admitted.status, 200, "{}", admitted.text);
    world.clock.advance_s(61);
    let stale = login(&world, &draft().with("nonce", json!(nonce)).sign()).await;
    assert_eq!((stale.status, stale.json()["code"].as_str()), (401, Some("DB-1033")));
    let next = stale.json()["nonce"].as_str().expect("another").to_owned();
    assert_ne!(next, nonce);
    assert_eq!(login(&world, &draft().with("nonce", json!(next)).sign()).await.status, 200);
    // Without a good signature nobody gets to know that a nonce was wanted.
    let stranger = login(&world, &draft().sign_by(&TestDevice::new("lamp").key)).await.json();
    assert_eq!(
        (stranger["code"].as_str(), &stranger["nonce"], &stranger["server_time"]),
        (Some("DB-1007"), &Value::Null, &Value::Null)
    );
}

#[tokio::test]
async fn whoever_is_refused_for_the_time_is_told_it_and_helped_in_one_more_try() {
    let world = World::new().await;
    let lamp = world.device("lamp").await;
    let slow = login(&world, &lamp.assertion(ISSUER, 7).sign()).await.json();
    assert_eq!(
        (slow["code"].as_str(), slow["server_time"].as_u64()),
        (Some("DB-1011"), Some(world.clock.now_s()))
    );
    let nonce = slow["nonce"].as_str().expect("a nonce");
    assert_eq!(
        login(&world, &lamp.assertion(ISSUER, 7).with("nonce", json!(nonce)).sign()).await.status,
        200
    );
    let by_time = slow["server_time"].as_u64().expect("seconds");
    assert_eq!(login(&world, &lamp.assertion(ISSUER, by_time).sign()).await.status, 200);

    // The same in the other dialect, and for what is wrong in a proof of possession.
    let next = TestDevice::new("lamp");
    let update = lamp.update(ISSUER, 7, next.public_key()).sign();
    let pop = next.pop(ISSUER, &update).sign();
    let refused = world.send(Ask::post("/v1/self/keys").json(&json!({ "update": update, "pop": pop }))).await;
    assert_eq!((refused.status, refused.word().as_str()), (401, "time"), "{}", refused.text);
    let nonce = refused.json()["nonce"].as_str().expect("a nonce").to_owned();
    assert!(refused.json()["server_time"].is_u64());
    let update = lamp.update(ISSUER, 7, next.public_key()).with("nonce", json!(nonce)).sign();
    let old_pop = next.pop(ISSUER, &update).with("nonce", json!("stale")).sign();
    let refused =
        world.send(Ask::post("/v1/self/keys").json(&json!({ "update": update, "pop": old_pop }))).await;
    assert_eq!(
        (refused.word().as_str(), refused.json()["server_time"].as_u64()),
        ("invalid-pop", Some(world.clock.now_s()))
    );
    let pop = next.pop(ISSUER, &update).sign();
    let done = world.send(Ask::post("/v1/self/keys").json(&json!({ "update": update, "pop": pop }))).await;
    assert_eq!(done.status, 201, "{}", done.text);

    world.admin(Ask::post("/v1/devices/lamp/revoke").json(&json!({ "reason": "test" }))).await;
    let revoked = login(&world, &next.assertion(ISSUER, world.clock.now_s()).sign()).await.json();
    assert_eq!(
        (revoked["code"].as_str(), revoked["server_time"].as_u64()),
        (Some("DB-1016"), Some(world.clock.now_s()))
    );
}

#[tokio::test]
async fn the_signed_time_is_verified_with_the_published_keys_alone() {
    let world = World::new().await;
    let nonce = "c2Vuc29yLTE3LW5vbmNl";
    let answer = world.send(Ask::post("/v1/time").json(&json!({ "nonce": nonce }))).await;
    assert_eq!((answer.status, answer.header("cache-control")), (200, Some("no-store")), "{}", answer.text);
    assert_eq!(answer.json()["now"], "2026-11-22T10:03:20.000Z");
    let metadata = world.send(Ask::get("/.well-known/oauth-authorization-server")).await.json();
    assert_eq!(metadata["time_endpoint"], "https://id.example/v1/time");
    assert_eq!(metadata["challenge_endpoint"], "https://id.example/oauth/challenge");
    let keys = world.send(Ask::get("/oauth/jwks")).await.json();
    let jwt = answer.json()["time"].as_str().expect("a JWT").to_owned();
    let jws = Jws::parse(jwt.as_bytes(), &ParseOptions::default()).expect("strict");
    let key = keys["keys"].as_array().expect("keys").iter().find(|key| key["kid"].as_str() == jws.kid());
    let key = PublicKey::from_jwk(key.expect("it is published").to_string().as_bytes()).expect("a JWK");
    let claims = jws.verify(&key).expect("signed by it").claims().expect("claims");
    assert_eq!((claims.text("nonce"), claims.text("iss")), (Ok(Some(nonce)), Ok(Some(ISSUER))));
    for bad in [
        json!({}),
        json!({ "nonce": "short" }),
        json!({ "nonce": 7 }),
        json!({ "nonce": "0123456789abcde=" }),
        json!({ "nonce": "x".repeat(65) }),
        json!({ "nonce": nonce, "more": 1 }),
    ] {
        let answer = world.send(Ask::post("/v1/time").json(&bad)).await;
        assert_eq!((answer.status, answer.word().as_str()), (400, "bad-request"), "{bad}");
    }
}

#[tokio::test]
async fn a_key_shows_its_dates_its_last_use_and_what_it_is_now() {
    let world = World::new().await;
    let (lamp, later, soon) = (world.device("lamp").await, TestDevice::new("x"), TestDevice::new("y"));
    let keys = "/v1/devices/lamp/keys";
    let add = |body: Value| Ask::post(keys).json(&body);
    let added = world.admin(add(json!({ "jwk": jwk(&later), "not_before": "2026-11-23T00:00:00Z" }))).await;
    assert_eq!((added.status, added.json()["state"].as_str()), (201, Some("not_yet")), "{}", added.text);
    let body = json!({ "jwk": jwk(&soon), "expires": "2026-11-25T11:03:20+01:00", "label": "short" });
    let added = world.admin(add(body)).await.json();
    assert_eq!(
        (added["expires"].as_str(), added["expires_in_days"].as_u64()),
        (Some("2026-11-25T10:03:20Z"), Some(3))
    );
    assert_eq!((&added["last_used"], &added["certificate"]), (&Value::Null, &Value::Null));
    world.token(&lamp, None, "").await;
    let shown = world.admin(Ask::get("/v1/devices/lamp")).await.json();
    assert_eq!(shown["keys"][0]["last_used"], "2026-11-22T10:03:00Z");
    let warnings = shown["warnings"].as_array().expect("warnings");
    assert_eq!(warnings.len(), 1, "{shown}");
    assert_eq!(
        (warnings[0]["word"].as_str(), warnings[0]["kid"].as_str()),
        (Some("key-expires-soon"), Some(soon.kid().as_str()))
    );
    world.clock.advance_s(4 * 86_400);
    let items = world.admin(Ask::get(keys)).await.json();
    let states: Vec<_> =
        items["items"].as_array().expect("items").iter().map(|key| key["state"].clone()).collect();
    assert_eq!(states, ["active", "active", "expired"]);

    for (body, status, word) in [
        (json!({ "jwk": jwk(&lamp), "expires": "tomorrow" }), 400, "bad-request"),
        (json!({ "jwk": jwk(&TestDevice::new("z")), "expires": "2020-01-01T00:00:00Z" }), 422, "key-dates"),
        (json!({ "jwk": jwk(&TestDevice::new("z")), "grace_s": 5 }), 400, "bad-request"),
        (json!({ "jwk": jwk(&TestDevice::new("z")), "expires_at": null }), 400, "bad-request"),
    ] {
        let refused = world.admin(add(body.clone())).await;
        assert_eq!((refused.status, refused.word().as_str()), (status, word), "{body}: {}", refused.text);
    }
    let body = json!({ "name": "door", "keys": [{ "jwk": jwk(&TestDevice::new("z")), "replaces": lamp.kid().as_str() }] });
    let refused = world.admin(Ask::post("/v1/devices").json(&body)).await;
    assert_eq!((refused.status, refused.word().as_str()), (400, "bad-request"));
}

#[tokio::test]
async fn a_certificate_is_kept_beside_its_key_and_its_end_is_the_keys() {
    let world = World::new().await;
    world.device("lamp").await;
    let pair = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::new(vec!["lamp".into()]).expect("a name");
    params.not_after = rcgen::date_time_ymd(2027, 1, 1);
    let pem = params.self_signed(&pair).expect("a certificate").pem();
    let added =
        world.admin(Ask::post("/v1/devices/lamp/keys").json(&json!({ "certificate": pem }))).await.json();
    assert_eq!(added["expires"], "2027-01-01T00:00:00Z");
    assert_eq!(added["certificate"]["x5t#S256"].as_str().map(str::len), Some(43));
    let bare =
        world.admin(Ask::post("/v1/devices/lamp/keys").json(&json!({ "pem": pair.public_key_pem() }))).await;
    assert_eq!((bare.status, bare.json()["kid"].as_str()), (200, added["kid"].as_str()), "the same key");
    world.device("door").await;
    let other =
        world.admin(Ask::post("/v1/devices/door/keys").json(&json!({ "pem": pair.public_key_pem() }))).await;
    assert_eq!((other.status, other.word().as_str()), (409, "key-in-use"));

    let endless = rcgen::KeyPair::generate().expect("a key");
    let pem = params.self_signed(&endless).expect("a certificate").pem();
    let body = json!({ "certificate": pem, "expires": null });
    let added = world.admin(Ask::post("/v1/devices/lamp/keys").json(&body)).await.json();
    assert_eq!(added["expires"], Value::Null, "told otherwise");
}

#[tokio::test]
async fn an_operator_replaces_changes_and_revokes_keys() {
    let world = World::new().await;
    let (lamp, next) = (world.device("lamp").await, TestDevice::new("lamp"));
    let body = json!({ "jwk": jwk(&next), "replaces": lamp.kid().as_str(), "grace_s": 600 });
    let replaced = world.admin(Ask::post("/v1/devices/lamp/keys").json(&body)).await;
    assert_eq!(replaced.status, 201, "{}", replaced.text);
    assert_eq!(
        replaced.json()["previous"],
        json!({ "kid": lamp.kid().as_str(), "expires": "2026-11-22T10:13:20Z" })
    );
    assert_eq!(world.admin(Ask::post("/v1/devices/lamp/keys").json(&body)).await.status, 200, "once more");

    let path = format!("/v1/devices/lamp/keys/{}", next.kid());
    let change = |body: Value| Ask::new("PATCH", &path).json(&body);
    let revision = world.admin(Ask::get("/v1/devices/lamp")).await;
    let etag = revision.header("etag").expect("an ETag").to_owned();
    let changed = world
        .admin(
            change(json!({ "label": "second", "expires": "2027-01-01T00:00:00Z" })).header("If-Match", &etag),
        )
        .await;
    assert_eq!((changed.status, changed.json()["label"].as_str()), (200, Some("second")), "{}", changed.text);
    let stale = world.admin(change(json!({ "label": null })).header("If-Match", &etag)).await;
    assert_eq!(stale.status, 412);
    let cleared = world.admin(change(json!({ "label": null, "expires": null }))).await.json();
    assert_eq!((&cleared["label"], &cleared["expires"]), (&Value::Null, &Value::Null));
    for (body, status, word) in [
        (json!({}), 400, "bad-request"),
        (json!({ "state": "active" }), 400, "bad-request"),
        (json!({ "expires": "2020-01-01T00:00:00Z" }), 422, "key-dates"),
        (json!({ "label": "" }), 422, "key-label"),
    ] {
        let refused = world.admin(change(body.clone())).await;
        assert_eq!((refused.status, refused.word().as_str()), (status, word), "{body}");
    }

    let token = world.token(&next, None, "").await;
    let revoke = Ask::post(&format!("{path}/revoke"));
    let revoked = world.admin(revoke.clone().json(&json!({ "reason": "compromised" }))).await;
    assert_eq!(revoked.status, 200, "{}", revoked.text);
    assert_eq!(revoked.json(), json!({ "kid": next.kid().as_str(), "state": "retired", "epoch": 1 }));
    assert_eq!(world.send(Ask::get("/v1/self").bearer(&token)).await.status, 401);
    assert_eq!(world.admin(revoke).await.json()["epoch"], 2, "also without a reason, and once more");
    let unknown = format!("/v1/devices/lamp/keys/{}/revoke", TestDevice::new("z").kid());
    let unknown = world.admin(Ask::post(&unknown)).await;
    assert_eq!((unknown.status, unknown.word().as_str()), (404, "key-not-found"));
    let shown = world.admin(Ask::get("/v1/devices/lamp")).await.json();
    assert_eq!(shown["warnings"][0]["word"], "no-usable-key");
}

#[tokio::test]
async fn a_device_removes_a_key_by_a_signed_jwt_and_by_nothing_else() {
    let world = World::new().await;
    let (lamp, spare, third) = (world.device("lamp").await, TestDevice::new("x"), TestDevice::new("y"));
    for key in [&spare, &third] {
        world.admin(Ask::post("/v1/devices/lamp/keys").json(&json!({ "jwk": jwk(key) }))).await;
    }
    let token = world.token(&lamp, None, "").await;
    let now_s = world.clock.now_s();
    let path = |kid: &str| format!("/v1/self/keys/{kid}");
    let by_token = world.send(Ask::new("DELETE", &path(spare.kid().as_str())).bearer(&token)).await;
    assert_eq!(by_token.status, 415, "a token changes nothing: {}", by_token.text);
    let jwt = lamp.removal(ISSUER, now_s, &spare.kid()).sign();
    let other =
        world.send(Ask::new("DELETE", &path(third.kid().as_str())).json(&json!({ "remove": jwt }))).await;
    assert_eq!((other.status, other.word().as_str()), (401, "token-kind"), "{}", other.text);
    let removed =
        world.send(Ask::new("DELETE", &path(spare.kid().as_str())).json(&json!({ "remove": jwt }))).await;
    assert_eq!(
        (removed.status, removed.json()["status"].as_str()),
        (200, Some("retired")),
        "{}",
        removed.text
    );
    let jwt = lamp.removal(ISSUER, now_s, &third.kid()).sign();
    let removed = world.send(Ask::post("/v1/self/keys:remove").json(&json!({ "remove": jwt }))).await;
    assert_eq!((removed.status, removed.json()["changed"].as_bool()), (200, Some(true)), "{}", removed.text);
    let again = lamp.removal(ISSUER, now_s, &third.kid()).sign();
    let again = world.send(Ask::post("/v1/self/keys:remove").json(&json!({ "remove": again }))).await;
    assert_eq!((again.status, again.json()["changed"].as_bool()), (200, Some(false)));
    for (draft, status, word) in [
        (lamp.removal(ISSUER, now_s, &lamp.kid()), 409, "last-key"),
        (lamp.removal(ISSUER, now_s, &TestDevice::new("z").kid()), 404, "key-not-found"),
        (lamp.removal("https://other.example", now_s, &lamp.kid()), 401, "audience"),
    ] {
        let refused =
            world.send(Ask::post("/v1/self/keys:remove").json(&json!({ "remove": draft.sign() }))).await;
        assert_eq!((refused.status, refused.word().as_str()), (status, word), "{}", refused.text);
    }
}
