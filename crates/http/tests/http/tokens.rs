//! Introspection, revocation, exchange, renewal and issuer keys, as seen on the wire.

use drawbridge_admission::Actor;
use drawbridge_registry::{PrincipalSettings, Role};
use drawbridge_testkit::TestDevice;
use serde_json::{Value, json};

use crate::world::{Answer, Ask, ISSUER, World, login_form, name, registry};

const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";

fn assertion_form(world: &World, of: &TestDevice) -> String {
    let assertion = of.assertion(ISSUER, world.clock.now_s()).sign();
    login_form(&assertion).replacen("grant_type=client_credentials&", "", 1)
}

async fn ask(world: &World, path: &str, caller: &TestDevice, rest: &str) -> Answer {
    let form = format!("{}&{rest}", assertion_form(world, caller));
    world.send(Ask::post(path).form(&form)).await
}

async fn settings(world: &World, of: &str, settings: PrincipalSettings) {
    let set = world.admission.set_settings(&registry(), &name(of), settings, None, &Actor::Admin).await;
    set.map(drop).expect(of);
}

async fn reader(world: &World) -> TestDevice {
    let reader = world.application("reader", None).await;
    let roles = [Role::Introspect].into();
    settings(world, "reader", PrincipalSettings { roles, ..PrincipalSettings::default() }).await;
    reader
}

#[tokio::test]
async fn a_token_is_introspected_as_json_or_as_a_jwt_and_revoked() {
    let world = World::new().await;
    let (lamp, other) = (world.device("lamp").await, world.device("other").await);
    let reader = reader(&world).await;
    let token = world.token(&lamp, None, "").await;
    let told = ask(&world, "/oauth/introspect", &reader, &format!("token={token}&token_type_hint=x")).await;
    assert_eq!((told.status, told.header("cache-control")), (200, Some("no-store")));
    let body = told.json();
    for (member, expected) in [
        ("active", json!(true)),
        ("sub", json!("lamp")),
        ("client_id", json!("lamp")),
        ("iss", json!(ISSUER)),
        ("aud", json!("https://id.example/mqtt")),
        ("token_type", json!("Bearer")),
    ] {
        assert_eq!(body[member], expected, "{member}");
    }
    assert!(body["exp"].is_u64() && body["iat"].is_u64() && body["jti"].is_string(), "{body}");
    for inner in ["uid", "epoch", "akid", "alias"] {
        assert!(body.get(inner).is_none(), "{inner} is ours alone: {body}");
    }

    let form = format!("{}&token={token}", assertion_form(&world, &reader));
    let accept = "text/html;q=0.1, application/token-introspection+jwt";
    let jwt = world.send(Ask::post("/oauth/introspect").header("Accept", accept).form(&form)).await;
    assert_eq!(jwt.header("content-type"), Some("application/token-introspection+jwt"));
    assert_eq!(jwt.text.split('.').count(), 3);

    assert_eq!(ask(&world, "/oauth/introspect", &other, &format!("token={token}")).await.json(), inactive());
    assert_eq!(ask(&world, "/oauth/introspect", &reader, "token=nonsense").await.json(), inactive());
    assert_eq!(ask(&world, "/oauth/revoke", &other, &format!("token={token}")).await.status, 200);
    assert_eq!(ask(&world, "/oauth/revoke", &lamp, "token=nonsense").await.status, 200);
    let still = ask(&world, "/oauth/introspect", &reader, &format!("token={token}")).await;
    assert_eq!(still.json()["active"], json!(true));
    let form = format!("token={token}&token_type_hint=refresh_token");
    let gone = ask(&world, "/oauth/revoke", &lamp, &form).await;
    assert_eq!((gone.status, gone.text.as_str()), (200, ""));
    let dead = ask(&world, "/oauth/introspect", &reader, &format!("token={token}")).await;
    assert_eq!(dead.json(), inactive());
    let refused = world.send(Ask::get("/v1/self").bearer(&token)).await;
    assert_eq!((refused.status, refused.word().as_str()), (401, "token-gone"));
}

fn inactive() -> Value {
    json!({ "active": false })
}

#[tokio::test]
async fn who_does_not_prove_itself_is_told_nothing_of_tokens() {
    let world = World::new().await;
    let lamp = world.device("lamp").await;
    let token = world.token(&lamp, None, "").await;
    for path in ["/oauth/introspect", "/oauth/revoke"] {
        let nobody = world.send(Ask::post(path).form(&format!("token={token}"))).await;
        assert_eq!((nobody.status, nobody.word().as_str()), (401, "invalid_client"), "{path}");
        let wrong = TestDevice::new("lamp");
        let answer = ask(&world, path, &wrong, &format!("token={token}")).await;
        assert_eq!((answer.status, answer.word().as_str()), (401, "invalid_client"), "{path}");
        let bearer = world.send(Ask::post(path).bearer(&token).form(&format!("token={token}"))).await;
        assert_eq!(bearer.status, 401, "{path}: a token is no client authentication");
        let basic = Ask::post(path).header("Authorization", "Basic bGFtcDp3cm9uZw==");
        let answer = world.send(basic.form(&format!("token={token}"))).await;
        assert_eq!(answer.status, 401, "{path}");
        assert!(answer.header("www-authenticate").is_some(), "{path}");
        let missing = ask(&world, path, &lamp, "x=y").await;
        assert_eq!((missing.status, missing.word().as_str()), (400, "invalid_request"), "{path}");
        let twice = ask(&world, path, &lamp, &format!("token={token}&token=x")).await;
        assert_eq!(twice.status, 400, "{path}");
        let json = Ask::post(path).json(&json!({ "token": token }));
        assert_eq!(world.send(json).await.status, 400, "{path}");
    }
    assert_eq!(
        world.send(Ask::get("/v1/self").bearer(&token)).await.status,
        200,
        "nothing has happened to it"
    );
}

#[tokio::test]
async fn a_gateway_exchanges_its_token_for_one_of_its_device() {
    let world = World::new().await;
    let (gateway, lamp) = (world.device("gw-3").await, world.device("sensor-17").await);
    settings(&world, "gw-3", PrincipalSettings { gateway: true, ..PrincipalSettings::default() }).await;
    let own = world.token(&gateway, None, "").await;
    let of_lamp = world.token(&lamp, None, "").await;
    let type_of = |what: &str| format!("{what}_type={ACCESS_TOKEN}");
    let by_link =
        format!("grant_type={EXCHANGE}&subject_token={own}&{}&device=sensor-17", type_of("subject_token"));
    let by_token = format!(
        "grant_type={EXCHANGE}&subject_token={of_lamp}&{}&actor_token={own}&{}&audience=sensor-17",
        type_of("subject_token"),
        type_of("actor_token")
    );
    for form in [&by_link, &by_token] {
        let refused = ask(&world, "/oauth/token", &gateway, form).await;
        assert_eq!((refused.status, refused.word().as_str()), (400, "invalid_target"));
        let text = refused.json()["error_description"].to_string();
        assert!(text.contains("gw-3' is not linked to 'sensor-17") || text.contains("not linked"), "{text}");
    }
    let (gw, sensor) = (name("gw-3"), name("sensor-17"));
    world.admission.link(&registry(), &gw, &sensor, &Actor::Admin).await.expect("linked");
    for form in [&by_link, &by_token] {
        let granted = ask(&world, "/oauth/token", &gateway, form).await;
        assert_eq!(granted.status, 200, "{}", granted.text);
        let body = granted.json();
        assert_eq!(
            (&body["token_type"], &body["issued_token_type"]),
            (&json!("Bearer"), &json!(ACCESS_TOKEN))
        );
        let token = body["access_token"].as_str().expect("a token").to_owned();
        let told = ask(&world, "/oauth/introspect", &gateway, &format!("token={token}")).await.json();
        assert_eq!((&told["sub"], &told["act"]), (&json!("sensor-17"), &json!({ "sub": "gw-3" })));
        let own_record = world.send(Ask::get("/v1/self").bearer(&token)).await;
        assert_eq!((own_record.status, own_record.word().as_str()), (403, "not-linked"));
    }
    for (change, with, error) in [
        (type_of("subject_token"), "x=y".to_owned(), "invalid_request"),
        (type_of("subject_token"), "subject_token_type=x".to_owned(), "invalid_request"),
        (type_of("actor_token"), "x=y".to_owned(), "invalid_request"),
        (type_of("actor_token"), "actor_token_type=x".to_owned(), "invalid_request"),
        (format!("actor_token={own}"), "x=y".to_owned(), "invalid_request"),
        (format!("actor_token={own}"), "actor_token=x".to_owned(), "invalid_request"),
        (format!("subject_token={of_lamp}"), "subject_token=x".to_owned(), "invalid_request"),
        (format!("subject_token={of_lamp}"), "x=y".to_owned(), "invalid_request"),
        ("audience=sensor-17".to_owned(), "audience=x".to_owned(), "invalid_target"),
        ("audience=sensor-17".to_owned(), "resource=https://id.example/v1".to_owned(), "invalid_target"),
        (
            "audience=sensor-17".to_owned(),
            "requested_token_type=urn:ietf:params:oauth:token-type:jwt".to_owned(),
            "invalid_request",
        ),
        (
            EXCHANGE.to_owned(),
            "urn:ietf:params:oauth:grant-type:saml2-bearer".to_owned(),
            "unsupported_grant_type",
        ),
    ] {
        assert!(by_token.contains(&change), "{change}");
        let refused = ask(&world, "/oauth/token", &gateway, &by_token.replace(&change, &with)).await;
        assert_eq!((refused.status, refused.word().as_str()), (400, error), "{change} -> {with}");
    }
}

#[tokio::test]
async fn a_resource_is_an_absolute_uri_without_fragment_and_sent_once() {
    let world = World::new().await;
    let lamp = world.device("lamp").await;
    for (resource, status, error) in [
        ("resource=https://id.example/mqtt", 200, ""),
        ("resource=https://id.example/v1", 200, ""),
        ("resource=", 200, ""),
        ("resource=https://id.example/other", 400, "invalid_target"),
        ("resource=https://id.example/mqtt%23x", 400, "invalid_target"),
        ("resource=/mqtt", 400, "invalid_target"),
        ("resource=mqtt", 400, "invalid_target"),
        ("resource=https://id.example/mqtt&resource=https://id.example/v1", 400, "invalid_request"),
    ] {
        let form = format!("grant_type=client_credentials&{resource}");
        let answer = ask(&world, "/oauth/token", &lamp, &form).await;
        let word = if status == 200 { String::new() } else { answer.word() };
        assert_eq!((answer.status, word.as_str()), (status, error), "{resource}");
    }
}

#[tokio::test]
async fn the_paths_of_the_iot_idp_give_renew_and_explain_opaque_tokens() {
    let world = World::new().await;
    let device = world.legacy_device("test.device.01").await;
    let policy = drawbridge_names::PolicyName::parse("device").expect("a name");
    let text = "[token]\nalias_scopes = [\"tenant.demo\", \"temp\"]\n";
    world.admission.set_policy(&registry(), &policy, text, &Actor::Admin).await.expect("set");
    reader(&world).await;
    let secret = world.admission.make_secret(&registry(), &name("reader"), None, &Actor::Admin).await;
    let (_, secret) = secret.expect("a secret");
    let words = "tenant.demo refresh.token temp";

    // As the pages of the IoT IdP show it: no `Bearer`, a form or JSON.
    let login = Ask::post("/as/token")
        .header("Authorization", &device.legacy_login().sign())
        .json(&json!({ "client_id": "reader", "scope": words }));
    let granted = world.send(login).await;
    assert_eq!(granted.status, 200, "{}", granted.text);
    let body = granted.json();
    assert_eq!(body.as_object().map(serde_json::Map::len), Some(4), "the four fields: {body}");
    assert_eq!((&body["token_type"], &body["expires_in"]), (&json!("bearer"), &json!(3_600)));
    assert_eq!(body["scope"], json!(words));
    let mut token = body["access_token"].as_str().expect("a token").to_owned();
    assert!(token.starts_with("dbo_"), "opaque");

    for header in ["Authorization", "Authorisation"] {
        let renew = Ask::post("/as/renew/token").header(header, &token).form("client_id=reader");
        let renewed = world.send(renew).await;
        assert_eq!(renewed.status, 200, "{header}: {}", renewed.text);
        assert_eq!(renewed.json()["scope"], json!(words));
        token = renewed.json()["access_token"].as_str().expect("a token").to_owned();
    }
    let basic = base64_of(&format!("reader:{}", *secret));
    let introspect = |token: &str| {
        Ask::post("/idp/introspect")
            .header("Authorization", &format!("Basic {basic}"))
            .form(&format!("token={token}"))
    };
    let told = world.send(introspect(&token)).await.json();
    let expected = json!({
        "active": true, "sub": "test.device.01", "scope": words, "iss": ISSUER,
        "exp": world.clock.now_s() + 3_600,
    });
    assert_eq!(told, expected);
    assert_eq!(world.send(introspect("dbo_nonsense")).await.json(), inactive());

    for (ask, status) in [
        (Ask::post("/idp/introspect").form(&format!("token={token}")), 401),
        (Ask::post("/idp/introspect").form(&format!("token={token}&client_id=reader&client_secret=x")), 401),
        (Ask::post("/idp/introspect").bearer(&token).form(&format!("token={token}")), 401),
        (Ask::post("/as/renew/token").form("client_id=reader"), 401),
        (Ask::post("/as/renew/token").header("Authorization", &token).form(""), 400),
        (Ask::post("/as/renew/token").header("Authorization", &token).form("client_id=nobody"), 403),
        (Ask::post("/as/renew/token").header("Authorization", "dbo_x").form("client_id=reader"), 401),
    ] {
        let answer = world.send(ask.clone()).await;
        assert_eq!(answer.status, status, "{ask:?}: {}", answer.text);
        assert!(answer.json()["error"]["code"].is_u64(), "the envelope of the IoT IdP: {}", answer.text);
        assert!(!answer.text.contains(&token));
    }
}

/// Base64 with padding, as Basic wants it.
fn base64_of(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

#[tokio::test]
async fn a_registry_is_changed_and_its_issuer_key_rotated_by_its_admins() {
    let world = World::new().await;
    let lamp = world.device("lamp").await;
    let path = "/v1/registries/default";
    let shown = world.admin(Ask::get(path)).await;
    assert_eq!((shown.status, &shown.json()["token_format"]), (200, &json!("at+jwt")));
    let changed = world
        .admin(Ask::new("PATCH", path).json(&json!({ "token_format": "opaque", "token_life_s": 60 })))
        .await;
    assert_eq!(changed.status, 200, "{}", changed.text);
    assert_eq!(
        (&changed.json()["token_format"], &changed.json()["clock"]),
        (&json!("opaque"), &json!("good"))
    );
    assert!(world.token(&lamp, None, "").await.starts_with("dbo_"));
    for (body, status) in [
        (json!({ "token_life_s": 0 }), 422),
        (json!({ "token_format": "jwt" }), 400),
        (json!({ "issuer": "https://evil.example" }), 400),
    ] {
        assert_eq!(world.admin(Ask::new("PATCH", path).json(&body)).await.status, status, "{body}");
    }
    world.admin(Ask::new("PATCH", path).json(&json!({ "token_format": "at+jwt" }))).await;
    let token = world.token(&lamp, None, "").await;

    let keys = format!("{path}/issuer-keys");
    let states = |answer: &Answer| -> Vec<String> {
        let items = answer.json()["items"].as_array().cloned().unwrap_or_default();
        items.iter().map(|item| item["state"].as_str().unwrap_or_default().to_owned()).collect()
    };
    let planned = world.admin(Ask::post(&keys).json(&json!({ "when": "planned" }))).await;
    assert_eq!((planned.status, states(&planned)), (200, vec!["current".into(), "next".into()]));
    assert!(!planned.text.contains("\"d\""), "nothing private");
    assert_eq!(world.send(Ask::get("/oauth/jwks")).await.json()["keys"].as_array().map(Vec::len), Some(2));
    assert_eq!(world.send(Ask::get("/v1/self").bearer(&token)).await.status, 200);
    let now = world.admin(Ask::post(&keys).json(&json!({ "when": "now" }))).await;
    assert_eq!((now.status, states(&now)), (200, vec!["current".into()]));
    assert_eq!(world.send(Ask::get("/v1/self").bearer(&token)).await.status, 401, "signed by the stolen key");
    assert_eq!(world.admin(Ask::post(&keys).json(&json!({ "when": "soon" }))).await.status, 400);
    let elsewhere = world.admin(Ask::get("/v1/registries/plant/issuer-keys")).await;
    assert_eq!(elsewhere.status, 404, "another registry has its own paths");
}
