//! The paths at work: a device's own, the operator's, an application's.

use std::time::Duration;

use drawbridge_control::{DeliveryOutcome, Publisher};
use drawbridge_testkit::TestDevice;
use serde_json::{Value, json};

use crate::world::{Ask, ISSUER, World, login_form};

const API: &str = "https://id.example/v1";

fn jwk(device: &TestDevice) -> Value {
    serde_json::from_str(&device.public_key().to_jwk_json()).expect("a JWK")
}

#[tokio::test]
async fn a_device_logs_in_reads_its_record_and_replaces_its_key() {
    let world = World::new().await;
    let lamp = world.device("lamp").await;
    let bridge = world.token(&lamp, None, "").await;
    let api = world.token(&lamp, Some(API), "").await;
    for token in [&bridge, &api] {
        let own = world.send(Ask::get("/v1/self").bearer(token)).await;
        assert_eq!(own.status, 200, "{}", own.text);
        assert_eq!(
            (own.json()["name"].as_str(), own.json()["kind"].as_str()),
            (Some("lamp"), Some("device"))
        );
        assert!(own.json()["uid"].is_string());
    }
    assert_eq!(world.send(Ask::get("/v1/self")).await.status, 401);
    let other = world.send(Ask::get("/v1/devices").bearer(&bridge)).await;
    assert_eq!((other.status, other.word().as_str()), (401, "other-service"));
    let other = world.send(Ask::get("/v1/devices").bearer(&api)).await;
    assert_eq!((other.status, other.word().as_str()), (403, "operator-only"));

    let next = TestDevice::new("lamp");
    let update = lamp.update(ISSUER, world.clock.now_s(), next.public_key()).sign();
    let pop = next.pop(ISSUER, &update).sign();
    let body = json!({ "update": update, "pop": pop, "retire": "old" });
    let done = world.send(Ask::post("/v1/self/keys").json(&body)).await;
    assert_eq!(done.status, 201, "{}", done.text);
    let answer = done.json();
    assert_eq!(answer["kid"], next.kid().as_str());
    assert_eq!(answer["previous"]["kid"], lamp.kid().as_str());
    assert_eq!(answer["previous"]["expires"], "2026-11-23T10:03:20Z");
    let again = world.send(Ask::post("/v1/self/keys").json(&body)).await;
    assert_eq!(
        (again.status, again.json()["kid"].as_str()),
        (200, Some(next.kid().as_str())),
        "a lost answer"
    );

    let token = world.token(&next, None, "").await;
    let keys = world.send(Ask::get("/v1/self/keys").bearer(&token)).await.json();
    assert_eq!(keys["items"].as_array().expect("items").len(), 2);
    let old = lamp.assertion(ISSUER, world.clock.now_s()).sign();
    let refused = world.send(Ask::post("/oauth/token").form(&login_form(&old))).await;
    assert_eq!(refused.status, 401, "the first login with the new key ends the grace of the old one");
}

#[tokio::test]
async fn the_iot_idp_aliases_serve_legacy_devices_in_all_their_spellings() {
    let world = World::new().await;
    let old = world.legacy_device("test.device.01").await;
    world.application("backend", None).await;
    let post = |jwt: &str| Ask::post("/as/token").header("Authorization", jwt);
    let bare = world.send(post(&old.legacy_login().sign()).form("client_id=backend")).await;
    assert_eq!(bare.status, 200, "{}", bare.text);
    assert_eq!(bare.json()["token_type"], "bearer");
    assert!(bare.json()["access_token"].is_string() && bare.json()["expires_in"] == 3600);
    let json =
        post(&format!("Bearer {}", old.legacy_login().sign())).json(&json!({ "client_id": "backend" }));
    assert_eq!(world.send(json).await.status, 200);

    let next = TestDevice::new("test.device.01");
    let update = old.legacy_update(next.public_key()).sign();
    let pop = next.legacy_pop(&update);
    let ask = Ask::post("/device/update/pubkey").header("authorization", &update);
    let done = world.send(ask.json(&json!({ "pop": pop }))).await;
    assert_eq!(
        (done.status, done.json()),
        (200, json!({ "Success": "Public key updated" })),
        "{}",
        done.text
    );
    let login = world.send(post(&next.legacy_login().sign()).form("client_id=backend")).await;
    assert_eq!(login.status, 200);
}

#[tokio::test]
async fn an_operator_adds_lists_changes_and_deletes_devices() {
    let world = World::new().await;
    let lamp = TestDevice::new("lamp");
    let body = json!({ "name": "lamp", "keys": [{ "jwk": jwk(&lamp), "label": "factory" }], "attributes": { "site": "a" } });
    let added = world.admin(Ask::post("/v1/devices").json(&body)).await;
    assert_eq!((added.status, added.header("location")), (201, Some("https://id.example/v1/devices/lamp")));
    let record = added.json();
    assert_eq!(
        (record["policy"].as_str(), record["assertion_profile"].as_str()),
        (Some("device"), Some("standard"))
    );
    assert_eq!(record["keys"][0]["kid"], lamp.kid().as_str());
    assert_eq!(record["keys"][0]["label"], "factory");
    assert_eq!(record["attributes"]["site"], "a");

    let pump = TestDevice::new("pump");
    let put =
        Ask::new("PUT", "/v1/devices/pump").json(&json!({ "keys": [{ "pem": pump.public_key().to_pem() }] }));
    assert_eq!(world.admin(put.clone()).await.status, 201);
    let again = world.admin(put).await;
    assert_eq!(again.status, 200, "the same again changes nothing");
    let tag = again.header("etag").expect("an ETag").to_owned();
    let put = Ask::new("PUT", "/v1/devices/pump").header("If-Match", &tag);
    let put = put.json(&json!({ "assertion_profile": "legacy", "attributes": { "site": "b" } }));
    let changed = world.admin(put).await;
    assert_eq!(changed.json()["assertion_profile"], "legacy", "{}", changed.text);
    assert_eq!(changed.json()["attributes"]["site"], "b");
    assert_ne!(changed.header("etag"), Some(tag.as_str()));
    let fresh = Ask::new("PUT", "/v1/devices/pump").header("If-None-Match", "*").json(&json!({}));
    assert_eq!(world.admin(fresh).await.status, 412);

    let mut names = Vec::new();
    let mut path = "/v1/devices?limit=1".to_owned();
    loop {
        let page = world.admin(Ask::get(&path)).await.json();
        names.extend(page["items"].as_array().expect("items").iter().map(|item| item["name"].clone()));
        match page["next_cursor"].as_str() {
            Some(cursor) => path = format!("/v1/devices?limit=1&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!(names, ["lamp", "pump"]);

    for (verb, blocked, epoch) in [("block", true, 0), ("unblock", false, 0), ("revoke", false, 1)] {
        let answer = world.admin(Ask::post(&format!("/v1/devices/lamp/{verb}")).json(&json!({}))).await;
        let json = answer.json();
        assert_eq!(
            (answer.status, &json["blocked"], &json["epoch"]),
            (200, &json!(blocked), &json!(epoch)),
            "{verb}"
        );
    }
    assert_eq!(world.admin(Ask::new("DELETE", "/v1/devices/lamp")).await.status, 204);
    assert_eq!(world.admin(Ask::get("/v1/devices/lamp")).await.status, 404);
    let sent =
        world.bridge.sent.lock().expect("not poisoned").pop().expect("the retained config is taken away");
    assert_eq!((sent.topic.as_str(), sent.payload.len(), sent.retain), ("devices/lamp/config", 0, true));
}

#[tokio::test]
async fn keys_are_added_in_every_form_and_retired_by_their_thumbprint() {
    let world = World::new().await;
    let lamp = world.device("lamp").await;
    let pair = rcgen::KeyPair::generate().expect("a key");
    let certificate = rcgen::CertificateParams::new(vec!["lamp".into()]).expect("a name").self_signed(&pair);
    let (second, third) = (TestDevice::new("x"), TestDevice::new("y"));
    let one_line: String = third.public_key().to_pem().lines().collect();
    for body in [
        json!({ "jwk": jwk(&second), "label": "second" }),
        json!({ "pem": one_line }),
        json!({ "certificate": certificate.expect("a certificate").pem() }),
    ] {
        let added = world.admin(Ask::post("/v1/devices/lamp/keys").json(&body)).await;
        assert_eq!((added.status, added.json()["state"].as_str()), (201, Some("active")), "{}", added.text);
        assert_eq!(world.admin(Ask::post("/v1/devices/lamp/keys").json(&body)).await.status, 200);
    }
    let path = format!("/v1/devices/lamp/keys/{}", lamp.kid());
    assert_eq!(world.admin(Ask::new("DELETE", &path)).await.status, 204);
    let again = world.admin(Ask::new("DELETE", &path)).await;
    assert_eq!((again.status, again.word().as_str()), (404, "key-not-found"));
    let keys = world.admin(Ask::get("/v1/devices/lamp/keys")).await.json();
    let states: Vec<_> = keys["items"].as_array().expect("items").iter().map(|key| &key["state"]).collect();
    assert_eq!(states, ["retired", "active", "active", "active"]);
    let none = world
        .admin(Ask::post("/v1/devices/lamp/keys").json(&json!({ "jwk": jwk(&second), "pem": "x" })))
        .await;
    assert_eq!((none.status, none.word().as_str()), (400, "bad-request"));
}

#[tokio::test]
async fn a_command_answers_what_became_of_it() {
    let world = World::new().await;
    world.device("lamp").await;
    let send = |body: Value| Ask::post("/v1/devices/lamp/commands").json(&body);
    let body = json!({ "payload": "b24=", "subfolder": "light", "wait_s": 3 });
    let done = world.admin(send(body)).await;
    assert_eq!(done.status, 200, "{}", done.text);
    assert_eq!(done.json(), json!({ "delivered": "acknowledged", "topic": "devices/lamp/commands/light" }));
    let order = world.bridge.sent.lock().expect("not poisoned").pop().expect("sent");
    assert_eq!((&*order.payload, order.wait, order.qos), (&b"on"[..], Duration::from_secs(3), 1));
    assert!(order.to_device && !order.retain);
    assert_eq!(order.publisher, Publisher::Server);
    let table = [
        (DeliveryOutcome::NotConnected, 409, "not-connected"),
        (DeliveryOutcome::NotSubscribed, 409, "not-subscribed"),
        (DeliveryOutcome::Withheld, 409, "delivery-withheld"),
        (DeliveryOutcome::Rejected { reason: 0x87 }, 409, "rejected-by-device"),
        (DeliveryOutcome::TimedOut, 504, "timed-out"),
        (DeliveryOutcome::Unavailable, 503, "bridge-unavailable"),
    ];
    for (outcome, status, word) in table {
        world.answer(outcome);
        let answer = world.admin(send(json!({ "text": "on" }))).await;
        assert_eq!((answer.status, answer.word().as_str()), (status, word), "{outcome:?}");
        if let DeliveryOutcome::Rejected { reason } = outcome {
            assert_eq!(answer.json()["reason"], reason);
            assert!(answer.text.contains("0x87"), "{}", answer.text);
        }
    }
    let long = world.admin(send(json!({ "text": "on", "wait_s": 61 }))).await;
    assert_eq!((long.status, long.word().as_str()), (400, "bad-request"));
    let ghost = world.admin(Ask::post("/v1/devices/ghost/commands").json(&json!({ "text": "on" }))).await;
    assert_eq!((ghost.status, ghost.word().as_str()), (404, "no-such-device"));
}

#[tokio::test]
async fn an_application_controls_what_its_policy_and_its_token_allow() {
    let world = World::new().await;
    world.device("lamp").await;
    world.device("pump").await;
    let policy = "[[allow]]\npublish = [\"devices/lamp/commands/#\", \"devices/lamp/config\"]\nsubscribe = [\"devices/lamp/config\"]\n";
    let backend = world.application("backend", Some(policy)).await;
    let token = world.token(&backend, Some(API), "").await;
    let command = |device: &str, token: &str| {
        Ask::post(&format!("/v1/devices/{device}/commands")).bearer(token).json(&json!({ "text": "on" }))
    };
    assert_eq!(world.send(command("lamp", &token)).await.status, 200);
    let refused = world.send(command("pump", &token)).await;
    assert_eq!((refused.status, refused.word().as_str()), (403, "publish-not-allowed"));
    assert!(
        refused.json()["rule"].as_str().expect("the deciding rule").contains("backend"),
        "{}",
        refused.text
    );

    let config = Ask::new("PUT", "/v1/devices/lamp/config").bearer(&token).json(&json!({ "text": "blue" }));
    let set = world.send(config).await;
    assert_eq!((set.status, set.json()), (200, json!({ "version": 1, "delivered": "acknowledged" })));
    let read = world.send(Ask::get("/v1/devices/lamp/config").bearer(&token)).await.json();
    assert_eq!((read["version"].as_u64(), read["payload"].as_str()), (Some(1), Some("Ymx1ZQ==")));
    assert!(read["acknowledged"].is_string());
    let state = world.send(Ask::get("/v1/devices/lamp/state").bearer(&token)).await;
    assert_eq!((state.status, state.word().as_str()), (403, "delivery-withheld"));

    let narrow = world.token(&backend, Some(API), "config:read").await;
    assert_eq!(world.send(Ask::get("/v1/devices/lamp/config").bearer(&narrow)).await.status, 200);
    let refused = world.send(command("lamp", &narrow)).await;
    assert_eq!((refused.status, refused.word().as_str()), (403, "scope"));
    let bridge = world.token(&backend, None, "").await;
    assert_eq!(
        world.send(command("lamp", &bridge)).await.status,
        401,
        "a token for the bridge is none for /v1"
    );
}

#[tokio::test]
async fn a_config_is_set_only_over_the_version_that_was_seen() {
    let world = World::new().await;
    world.device("lamp").await;
    let put = |body: Value| Ask::new("PUT", "/v1/devices/lamp/config").json(&body);
    let first = world.admin(put(json!({ "text": "a", "version": 0 }))).await;
    assert_eq!((first.status, first.header("etag")), (200, Some("\"1\"")));
    world.answer(DeliveryOutcome::NotConnected);
    let second = world.admin(put(json!({ "text": "b" })).header("If-Match", "\"1\"")).await;
    assert_eq!(second.json(), json!({ "version": 2, "delivered": "stored" }));
    let stale = world.admin(put(json!({ "text": "c" })).header("If-Match", "\"1\"")).await;
    assert_eq!(
        (stale.status, stale.word().as_str(), &stale.json()["version"]),
        (412, "stale-version", &json!(2))
    );
    let states = world.admin(Ask::get("/v1/devices/lamp/state")).await;
    assert_eq!((states.status, states.json()), (200, json!({ "items": [] })));
}

#[tokio::test]
async fn policies_are_set_shown_attached_and_explained() {
    let world = World::new().await;
    world.application("backend", None).await;
    let source = "[[allow]]\nsubscribe = [\"devices/+/events/#\"]\n";
    let set = world.admin(Ask::new("PUT", "/v1/policies/readers").body("text/toml", source)).await;
    assert_eq!((set.status, set.json()), (201, json!({ "name": "readers", "revision": 1 })));
    let put = Ask::new("PUT", "/v1/policies/readers").json(&json!({ "source": source }));
    assert_eq!(world.admin(put).await.status, 200);
    let shown = world.admin(Ask::get("/v1/policies/readers")).await;
    assert_eq!((shown.json()["source"].as_str(), shown.header("etag")), (Some(source), Some("\"2\"")));
    let shown = world.admin(Ask::get("/v1/policies/readers").header("Accept", "text/toml")).await;
    assert_eq!(shown.text, source);
    let names = world.admin(Ask::get("/v1/policies")).await.json();
    let names: Vec<_> = names["items"].as_array().expect("items").iter().map(|item| &item["name"]).collect();
    assert_eq!(names, ["device", "readers"]);
    assert_eq!(world.admin(Ask::get("/v1/policies/ghost")).await.status, 404);

    let attach =
        |policy: Value| Ask::new("PUT", "/v1/principals/backend/policy").json(&json!({ "policy": policy }));
    assert_eq!(world.admin(attach(json!("ghost"))).await.word(), "policy-not-found");
    assert_eq!(world.admin(attach(json!("readers"))).await.json()["policy"], "readers");
    let can = |topic: &str| Ask::get(&format!("/v1/can?principal=backend&action=subscribe&topic={topic}"));
    let yes = world.admin(can("devices%2Flamp%2Fevents%2F%23")).await.json();
    assert_eq!((yes["allowed"].as_bool(), yes["policy"].as_str()), (Some(true), Some("readers")), "{yes}");
    let no = world.admin(can("%23")).await.json();
    assert_eq!((no["allowed"].as_bool(), no["code"].as_str()), (Some(false), Some("DB-3011")), "{no}");
    assert_eq!(world.admin(attach(Value::Null)).await.json()["policy"], Value::Null);
    let nobody = Ask::new("PUT", "/v1/principals/ghost/policy").json(&json!({ "policy": "readers" }));
    assert_eq!(world.admin(nobody).await.status, 404);
}

#[tokio::test]
async fn a_policy_is_asked_about_one_message_over_one_connection_and_its_tests_have_to_pass() {
    let world = World::new().await;
    let set = |source: &str| Ask::new("PUT", "/v1/policies/pumps").json(&json!({ "source": source }));
    let rules = "[[allow]]\npublish = ['devices/${device}/#']\nqos_max = 1\nretain = false\n\
                 [[allow]]\nsubscribe = ['a/#', '${attr.site}/#']\nqos_max = 0\nwhen = { tls = ['1.3'] }\n";
    let failing = format!("{rules}[[test]]\nprincipal = 'pump'\npublish = 'a'\nexpect = 'allow'\n");
    let refused = world.admin(set(&failing)).await;
    assert_eq!((refused.status, refused.word().as_str()), (422, "policy-tests-failed"), "{}", refused.text);
    let fault = refused.json()["faults"][0].as_str().expect("a fault").to_owned();
    assert!(fault.contains("line 9: test[0]") && fault.contains("wanted: allow"), "{fault}");
    assert_eq!(world.admin(Ask::get("/v1/policies/pumps")).await.status, 404, "nothing has changed");
    let passing = format!("{rules}[[test]]\nprincipal = 'pump'\npublish = 'a'\nexpect = 'deny'\n");
    assert_eq!(world.admin(set(&passing)).await.status, 201);

    let key = TestDevice::new("pump");
    let body = json!({ "name": "pump", "keys": [{ "jwk": jwk(&key) }], "policy": "pumps" });
    assert_eq!(world.admin(Ask::post("/v1/devices").json(&body)).await.status, 201);
    let can = |more: &str| Ask::get(&format!("/v1/can?principal=pump&{more}"));
    for (asked, allowed, code) in [
        ("action=publish&topic=devices%2Fpump%2Fx", true, None),
        ("action=publish&topic=devices%2Fpump%2Fx&qos=1", true, None),
        ("action=publish&topic=devices%2Fpump%2Fx&qos=2", false, Some("DB-3015")),
        ("action=publish&topic=devices%2Fpump%2Fx&retain=true", false, Some("DB-3016")),
        ("action=publish&topic=devices%2Fpump%2Fx&retain=false&payload_bytes=100", true, None),
        ("action=subscribe&topic=a%2Fb", true, None),
        ("action=subscribe&topic=a%2Fb&tls=1.3", true, None),
        ("action=subscribe&topic=a%2Fb&tls=1.2", false, Some("DB-3011")),
        ("action=subscribe&topic=a%2Fb&protocol=mqtt5", false, Some("DB-3011")),
    ] {
        let answer = world.admin(can(asked)).await.json();
        assert_eq!(answer["allowed"], allowed, "{asked}: {answer}");
        assert_eq!(answer["code"].as_str(), code, "{asked}: {answer}");
    }
    let answer = world.admin(can("action=subscribe&topic=a%2Fb&qos=2")).await.json();
    assert_eq!(
        (&answer["granted_qos"], &answer["rule"]["when"]),
        (&json!(0), &json!("tls is 1.3")),
        "{answer}"
    );
    let left_out = answer["left_out"][0].as_str().expect("left out").to_owned();
    assert!(left_out.contains("allow[1].subscribe[1]") && left_out.contains("${attr.site}"), "{left_out}");
    for bad in ["qos=3", "retain=yes", "protocol=mqtt4", "port=0", "address=here", "tls=1.1", "method=x"] {
        let refused = world.admin(can(&format!("action=publish&topic=a&{bad}"))).await;
        assert_eq!(refused.status, 400, "{bad}: {}", refused.text);
    }
}

#[tokio::test]
async fn applications_have_paths_like_devices_and_the_audit_tells_what_was_done() {
    let world = World::new().await;
    let key = TestDevice::new("backend");
    let body = json!({ "name": "backend", "keys": [{ "jwk": jwk(&key) }], "policy": null });
    assert_eq!(world.admin(Ask::post("/v1/applications").json(&body)).await.status, 201);
    let shown = world.admin(Ask::get("/v1/applications/backend")).await.json();
    assert_eq!((shown["kind"].as_str(), &shown["policy"]), (Some("application"), &Value::Null));
    assert_eq!(world.admin(Ask::get("/v1/devices")).await.json()["items"], json!([]));
    assert_eq!(world.admin(Ask::new("DELETE", "/v1/devices/backend")).await.status, 404);
    let strange = json!({ "name": "b2", "attributes": { "x": "y" } });
    assert_eq!(world.admin(Ask::post("/v1/applications").json(&strange)).await.status, 400);
    assert_eq!(world.admin(Ask::new("DELETE", "/v1/applications/backend")).await.status, 204);

    let page = world.admin(Ask::get("/v1/audit?limit=2")).await.json();
    let items = page["items"].as_array().expect("items");
    let actions: Vec<_> =
        items.iter().map(|item| (&item["actor"], &item["action"], &item["subject"])).collect();
    let admin = json!("admin");
    assert_eq!(
        actions,
        [
            (&admin, &json!("principal.delete"), &json!("backend")),
            (&admin, &json!("app.add"), &json!("backend")),
        ]
    );
    assert!(items[0]["at"].as_str().expect("a time").ends_with('Z'));
    let before = page["next_before"].as_u64().expect("there is more");
    let older = world.admin(Ask::get(&format!("/v1/audit?limit=1&before={before}"))).await.json();
    assert!(older["items"][0]["seq"].as_u64().expect("a number") < before);
}

/// I14, at this edge: nothing of the operator's is there without a credential, or with a wrong one.
#[tokio::test]
async fn i14_no_path_of_the_operator_answers_without_the_credential() {
    let world = World::new().await;
    let lamp = world.device("lamp").await;
    let api = world.token(&lamp, Some(API), "").await;
    let paths = [
        ("GET", "/v1/devices"),
        ("POST", "/v1/devices"),
        ("GET", "/v1/devices/lamp"),
        ("PUT", "/v1/devices/lamp"),
        ("DELETE", "/v1/devices/lamp"),
        ("GET", "/v1/devices/lamp/keys"),
        ("POST", "/v1/devices/lamp/keys"),
        ("DELETE", "/v1/devices/lamp/keys/x"),
        ("POST", "/v1/devices/lamp/block"),
        ("POST", "/v1/devices/lamp/unblock"),
        ("POST", "/v1/devices/lamp/revoke"),
        ("GET", "/v1/applications"),
        ("POST", "/v1/applications"),
        ("DELETE", "/v1/applications/lamp"),
        ("GET", "/v1/policies"),
        ("GET", "/v1/policies/device"),
        ("PUT", "/v1/policies/device"),
        ("PUT", "/v1/principals/lamp/policy"),
        ("GET", "/v1/can?principal=lamp&action=publish&topic=x"),
        ("GET", "/v1/audit"),
        ("GET", "/v1/registries"),
        ("POST", "/v1/registries"),
    ];
    for (method, path) in paths {
        let none = world.send(Ask::new(method, path)).await;
        assert_eq!(
            (none.status, none.header("www-authenticate")),
            (401, Some("Bearer realm=\"drawbridge\"")),
            "{path}"
        );
        for wrong in ["dba_", "admin", "x.y.z"] {
            assert_eq!(
                world.send(Ask::new(method, path).bearer(wrong)).await.status,
                401,
                "{method} {path} {wrong}"
            );
        }
        let device = world.send(Ask::new(method, path).bearer(&api)).await;
        let word = if path == "/v1/registries" { "credential-only" } else { "operator-only" };
        assert_eq!((device.status, device.word().as_str()), (403, word), "{method} {path}");
    }
    let (method, path) = ("POST", "/oauth/token");
    let ask = Ask::new(method, path).form("grant_type=client_credentials").bearer(&world.admin);
    assert_eq!(world.send(ask).await.status, 401, "the admin credential is good on /v1 only");
    assert_eq!(world.send(Ask::get("/v1/self").bearer(&world.admin)).await.status, 401);
}

#[tokio::test]
async fn a_token_for_other_words_does_not_read_the_own_record() {
    let world = World::new().await;
    let lamp = world.device("lamp").await;
    let bare = world.token(&lamp, Some(API), "commands:send").await;
    let named = world.token(&lamp, Some(API), "self:read%20commands:send").await;
    for path in ["/v1/self", "/v1/self/keys"] {
        let refused = world.send(Ask::get(path).bearer(&bare)).await;
        assert_eq!((refused.status, refused.word().as_str()), (403, "scope"), "{path}: {}", refused.text);
        assert_eq!(world.send(Ask::get(path).bearer(&named)).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn only_the_very_etag_of_a_record_matches() {
    let world = World::new().await;
    world.device("lamp").await;
    let tag = world.admin(Ask::get("/v1/devices/lamp")).await.header("etag").expect("an ETag").to_owned();
    assert_eq!(tag, "\"1\"");
    let block = || Ask::post("/v1/devices/lamp/block");
    for (first, second) in
        [("\"01\"", None), ("\"+1\"", None), ("\"1\"", Some("\"9\"")), ("*", Some("\"9\""))]
    {
        let mut ask = block().header("If-Match", first);
        if let Some(second) = second {
            ask = ask.header("If-Match", second);
        }
        let refused = world.admin(ask).await;
        assert_eq!(
            (refused.status, refused.word().as_str()),
            (412, "precondition-failed"),
            "{first} {second:?}"
        );
    }
    assert_eq!(world.admin(block().header("If-Match", &tag)).await.status, 200);
}

#[tokio::test]
async fn a_body_that_names_a_member_twice_is_refused_at_any_depth() {
    let world = World::new().await;
    let lamp = world.device("lamp").await;
    let key = jwk(&TestDevice::new("x")).to_string();
    let twice = key.replacen('{', "{\"kty\":\"EC\",", 1);
    for (method, path, body) in [
        ("POST", "/v1/devices", r#"{"name":"a","name":"b"}"#.to_owned()),
        ("POST", "/v1/devices", r#"{"name":"a","attributes":{"x":"1","x":"2"}}"#.to_owned()),
        ("PUT", "/v1/devices/lamp", r#"{"attributes":{"x":"1","\u0078":"2"}}"#.to_owned()),
        ("POST", "/v1/devices", format!(r#"{{"name":"a","keys":[{{"jwk":{twice}}}]}}"#)),
        ("POST", "/v1/devices/lamp/keys", format!(r#"{{"jwk":{twice}}}"#)),
        ("POST", "/v1/devices/lamp/keys", format!(r#"{{"jwk":{key},"jwk":{key}}}"#)),
        ("PUT", "/v1/policies/p", r#"{"source":"","source":""}"#.to_owned()),
        ("POST", "/v1/devices/lamp/revoke", r#"{"reason":"a","reason":"b"}"#.to_owned()),
    ] {
        let answer = world.admin(Ask::new(method, path).body("application/json", body.clone())).await;
        assert_eq!(answer.status, 400, "{path} {body}: {}", answer.text);
    }
    let known =
        world.admission.show(&crate::world::registry(), &lamp.name).await.expect("read").expect("there");
    assert_eq!(known.principal.revision, 1, "nothing has changed");
}

#[tokio::test]
async fn the_location_of_a_new_device_leads_to_it_whatever_its_name() {
    let world = World::new().await;
    for name in ["lamp", "a%20b", "a%2Fb", "100%", "x~_.-"] {
        let made = world.admin(Ask::post("/v1/devices").json(&json!({ "name": name }))).await;
        assert_eq!(made.status, 201, "{name}: {}", made.text);
        let location = made.header("location").expect("a location");
        let path = location.strip_prefix(ISSUER).expect("below the issuer");
        let found = world.admin(Ask::get(path)).await;
        assert_eq!((found.status, found.json()["name"].as_str()), (200, Some(name)), "{location}");
    }
}

#[tokio::test]
async fn ways_and_the_registration_by_certificates_are_set_shown_and_judged() {
    let world = World::new().await;
    world.device("lamp").await;
    let patch = async |path: &str, body: Value| world.admin(Ask::new("PATCH", path).json(&body)).await;
    let (registry, lamp) = ("/v1/registries/default", "/v1/devices/lamp");
    let shown = world.admin(Ask::get(registry)).await.json();
    assert_eq!((&shown["ways"], &shown["certificate_registration"]), (&Value::Null, &Value::Null));

    let rule = json!({ "names": "pump-*", "auto": true });
    let body = json!({ "ways": ["device-jwt", "certificate"], "certificate_registration": rule });
    let changed = patch(registry, body).await;
    assert_eq!(changed.status, 200, "{}", changed.text);
    let whole = json!({
        "names": "pump-*", "cas": [], "auto": true, "policy": null, "pending_max": 1_000, "hourly_max": 1_000,
    });
    // What is left out stays.
    let shown = patch(registry, json!({ "token_life_s": 600 })).await.json();
    assert_eq!(shown["ways"], json!(["certificate", "device-jwt"]));
    assert_eq!(shown["certificate_registration"], whole);
    let shown = patch(lamp, json!({ "ways": ["certificate"] })).await.json();
    assert_eq!(shown["ways"], json!(["certificate"]));
    assert_eq!(patch(lamp, json!({ "bound_tokens": true })).await.json()["ways"], json!(["certificate"]));
    assert_eq!(patch(lamp, json!({ "ways": null })).await.json()["ways"], Value::Null);

    for (path, body) in [
        (registry, json!({ "ways": ["telepathy"] })),
        (lamp, json!({ "ways": ["telepathy"] })),
        (registry, json!({ "certificate_registration": { "names": "" } })),
        (registry, json!({ "certificate_registration": { "cas": ["CAFE"] } })),
        (registry, json!({ "certificate_registration": { "pending_max": 0 } })),
    ] {
        let refused = patch(path, body.clone()).await;
        assert_eq!((refused.status / 100, refused.word().as_str()), (4, "registry-setting"), "{body}");
    }
    let refused = patch(registry, json!({ "certificate_registration": { "policy": "nowhere" } })).await;
    assert_eq!(refused.status / 100, 4, "{}", refused.text);
    let refused = patch(registry, json!({ "certificate_registration": { "all": true } })).await;
    assert_eq!(refused.status, 400, "{}", refused.text);
    let shown = patch(registry, json!({ "ways": null, "certificate_registration": null })).await.json();
    assert_eq!((&shown["ways"], &shown["certificate_registration"]), (&Value::Null, &Value::Null));
}
