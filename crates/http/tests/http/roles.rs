//! Who may call what: every route of the router by every kind of caller.

use std::collections::BTreeSet;
use std::sync::Arc;

use drawbridge_admission::{Actor, AdmissionConfig, NewApplication, NewRegistry};
use drawbridge_http::HttpConfig;
use drawbridge_registry::memory::MemoryStore;
use drawbridge_registry::{PrincipalSettings, Role};
use drawbridge_testkit::TestDevice;
use serde_json::{Value, json};

use crate::world::{Answer, Ask, ISSUER, World, login_form, name, registry};

const API: &str = "https://id.example/v1";

/// What a route takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Takes {
    /// No operator role: it is public, or judges credentials of its own in the body.
    Nothing,
    /// A token of the principal itself.
    Own,
    /// A token of anybody whose policy allows it.
    Policy,
    Viewer,
    Operator,
    Admin,
    /// The admin credential itself.
    Root,
}
use Takes::{Nothing, Own, Policy, Root};

/// Every route, in the order of the router.
const ROUTES: &[(&str, &str, Takes)] = &[
    ("GET", "/.well-known/oauth-authorization-server", Nothing),
    ("GET", "/.well-known/openid-configuration", Nothing),
    ("GET", "/oauth/jwks", Nothing),
    ("GET", "/openapi.json", Nothing),
    ("POST", "/oauth/challenge", Nothing),
    ("POST", "/oauth/token", Nothing),
    ("POST", "/oauth/introspect", Nothing),
    ("POST", "/oauth/revoke", Nothing),
    ("POST", "/as/token", Nothing),
    ("POST", "/as/renew/token", Nothing),
    ("POST", "/idp/introspect", Nothing),
    ("POST", "/device/update/pubkey", Nothing),
    ("GET", "/v1/self", Own),
    ("GET", "/v1/self/keys", Own),
    ("POST", "/v1/self/keys", Nothing),
    ("POST", "/v1/self/keys:remove", Nothing),
    ("DELETE", "/v1/self/keys/{kid}", Nothing),
    ("POST", "/v1/self/sessions:refresh", Own),
    ("POST", "/session/refresh", Own),
    ("POST", "/v1/time", Nothing),
    ("GET", "/mqtt", Nothing),
    ("GET", "/health", Nothing),
    ("GET", "/healthz", Nothing),
    ("POST", "/v1/devices/{id}/commands", Policy),
    ("GET", "/v1/devices/{id}/config", Policy),
    ("PUT", "/v1/devices/{id}/config", Policy),
    ("GET", "/v1/devices/{id}/state", Policy),
    ("POST", "/oauth/register", Nothing),
    ("GET", "/oauth/register/{id}", Nothing),
    ("PUT", "/oauth/register/{id}", Nothing),
    ("DELETE", "/oauth/register/{id}", Nothing),
    ("POST", "/v1/devices:import", Takes::Operator),
    ("POST", "/v1/devices/{id}/approve", Takes::Operator),
    ("POST", "/v1/devices/{id}/reject", Takes::Operator),
    ("POST", "/v1/devices/{id}/undo-enrolment", Takes::Operator),
    ("GET", "/v1/devices/{id}/gateways", Takes::Viewer),
    ("GET", "/v1/enrolments", Takes::Viewer),
    ("POST", "/v1/enrolments", Takes::Operator),
    ("GET", "/v1/enrolments/{id}", Takes::Viewer),
    ("DELETE", "/v1/enrolments/{id}", Takes::Operator),
    ("GET", "/v1/enrolments/{id}/devices", Takes::Viewer),
    ("POST", "/v1/enrolments/{id}/approve", Takes::Operator),
    ("GET", "/v1/gateways/{id}/devices", Takes::Viewer),
    ("PUT", "/v1/gateways/{id}/devices/{device}", Takes::Operator),
    ("DELETE", "/v1/gateways/{id}/devices/{device}", Takes::Operator),
    ("GET", "/v1/cas", Takes::Viewer),
    ("POST", "/v1/cas", Takes::Admin),
    ("DELETE", "/v1/cas/{fingerprint}", Takes::Admin),
    ("GET", "/v1/devices", Takes::Viewer),
    ("POST", "/v1/devices", Takes::Operator),
    ("GET", "/v1/devices/{id}", Takes::Viewer),
    ("PUT", "/v1/devices/{id}", Takes::Operator),
    ("PATCH", "/v1/devices/{id}", Takes::Operator),
    ("DELETE", "/v1/devices/{id}", Takes::Operator),
    ("POST", "/v1/devices/{id}/block", Takes::Operator),
    ("POST", "/v1/devices/{id}/unblock", Takes::Operator),
    ("POST", "/v1/devices/{id}/revoke", Takes::Operator),
    ("PUT", "/v1/devices/{id}/password", Takes::Operator),
    ("DELETE", "/v1/devices/{id}/password", Takes::Operator),
    ("POST", "/v1/devices/{id}/secret", Takes::Operator),
    ("DELETE", "/v1/devices/{id}/secret", Takes::Operator),
    ("GET", "/v1/devices/{id}/keys", Takes::Viewer),
    ("POST", "/v1/devices/{id}/keys", Takes::Operator),
    ("PATCH", "/v1/devices/{id}/keys/{kid}", Takes::Operator),
    ("DELETE", "/v1/devices/{id}/keys/{kid}", Takes::Operator),
    ("POST", "/v1/devices/{id}/keys/{kid}/revoke", Takes::Operator),
    ("GET", "/v1/applications", Takes::Viewer),
    ("POST", "/v1/applications", Takes::Admin),
    ("GET", "/v1/applications/{id}", Takes::Viewer),
    ("PUT", "/v1/applications/{id}", Takes::Admin),
    ("PATCH", "/v1/applications/{id}", Takes::Admin),
    ("DELETE", "/v1/applications/{id}", Takes::Admin),
    ("POST", "/v1/applications/{id}/block", Takes::Admin),
    ("POST", "/v1/applications/{id}/unblock", Takes::Admin),
    ("POST", "/v1/applications/{id}/revoke", Takes::Admin),
    ("PUT", "/v1/applications/{id}/password", Takes::Admin),
    ("DELETE", "/v1/applications/{id}/password", Takes::Admin),
    ("POST", "/v1/applications/{id}/secret", Takes::Admin),
    ("DELETE", "/v1/applications/{id}/secret", Takes::Admin),
    ("GET", "/v1/applications/{id}/keys", Takes::Viewer),
    ("POST", "/v1/applications/{id}/keys", Takes::Admin),
    ("PATCH", "/v1/applications/{id}/keys/{kid}", Takes::Admin),
    ("DELETE", "/v1/applications/{id}/keys/{kid}", Takes::Admin),
    ("POST", "/v1/applications/{id}/keys/{kid}/revoke", Takes::Admin),
    ("GET", "/v1/policies", Takes::Viewer),
    ("GET", "/v1/policies/{id}", Takes::Viewer),
    ("PUT", "/v1/policies/{id}", Takes::Admin),
    // Of a device; of an application it takes an admin.
    ("PUT", "/v1/principals/{id}/policy", Takes::Operator),
    ("GET", "/v1/can", Takes::Viewer),
    ("POST", "/v1/admin-token:rotate", Root),
    ("GET", "/metrics", Takes::Viewer),
    ("GET", "/v1/audit", Takes::Viewer),
    ("GET", "/v1/audit:heads", Takes::Viewer),
    ("GET", "/v1/audit:export", Takes::Viewer),
    ("GET", "/v1/registries/{name}", Takes::Viewer),
    ("PATCH", "/v1/registries/{name}", Takes::Admin),
    ("GET", "/v1/registries/{name}/issuer-keys", Takes::Viewer),
    ("POST", "/v1/registries/{name}/issuer-keys", Takes::Admin),
    ("GET", "/v1/registries", Root),
    ("POST", "/v1/registries", Root),
];

/// An application with roles.
async fn staff(world: &World, of: &str, roles: &[Role]) -> TestDevice {
    let application = world.application(of, None).await;
    give(world, of, roles).await;
    application
}

async fn give(world: &World, of: &str, roles: &[Role]) {
    let settings = PrincipalSettings { roles: roles.iter().copied().collect(), ..Default::default() };
    world.admission.set_settings(&registry(), &name(of), settings, None, &Actor::Admin).await.expect(of);
}

/// The refusals that have to do with who calls.
fn refused_for_the_caller(answer: &Answer) -> bool {
    answer.status == 401
        || (answer.status == 403
            && ["operator-only", "role", "credential-only"].contains(&answer.word().as_str()))
}

#[tokio::test]
async fn every_route_is_open_to_those_it_is_for_and_to_nobody_else() {
    let world = World::new().await;
    let lamp = world.device("lamp").await;
    let mut callers =
        vec![("nobody", None, Nothing), ("device", Some(world.token(&lamp, Some(API), "").await), Policy)];
    for (of, role, reaches) in [
        ("plain", None, Policy),
        ("asks", Some(Role::Introspect), Policy),
        ("makes", Some(Role::Manufacturer), Policy),
        ("views", Some(Role::Viewer), Takes::Viewer),
        ("operates", Some(Role::Operator), Takes::Operator),
        ("rules", Some(Role::Admin), Takes::Admin),
    ] {
        let application = staff(&world, of, &role.into_iter().collect::<Vec<_>>()).await;
        callers.push((of, Some(world.token(&application, Some(API), "").await), reaches));
    }
    callers.push(("elsewhere", Some(admin_of_another_registry(&world).await), Nothing));
    callers.push(("dba_", Some(world.admin.clone()), Root));

    for (method, route, takes) in ROUTES {
        if [Nothing, Own, Policy].contains(takes) {
            continue;
        }
        for (who, token, reaches) in &callers {
            // It would end the very credential that the rest is tried with: a test of its own.
            if route.ends_with(":rotate") && *who == "dba_" {
                continue;
            }
            // Of a name that is not there, that the one who may does no harm; but for the policy.
            let id = if route.starts_with("/v1/principals") { "lamp" } else { "ghost" };
            let path = route.replace("{id}", id).replace("{kid}", lamp.kid().as_str());
            let mut ask = Ask::new(method, &path);
            if let Some(token) = token {
                ask = ask.bearer(token);
            }
            let answer = world.send(ask).await;
            let refused = refused_for_the_caller(&answer);
            assert_eq!(refused, reaches < takes, "{who} {method} {path}: {} {}", answer.status, answer.text);
            let known = !["nobody", "elsewhere"].contains(who);
            assert!(!refused || (answer.status == 403) == known, "{who} {method} {path}: {}", answer.status);
            assert!(answer.status < 500, "{who} {method} {path}: {}", answer.text);
        }
    }
    for (method, route, takes) in ROUTES.iter().filter(|(_, _, takes)| [Own, Policy].contains(takes)) {
        let ask = || Ask::new(method, &route.replace("{id}", "lamp"));
        let nobody = world.send(ask()).await;
        assert_eq!(nobody.status, 401, "{method} {route}");
        let elsewhere =
            world.send(ask().bearer(callers[callers.len() - 2].1.as_deref().expect("a token"))).await;
        assert_eq!(elsewhere.status, 401, "{method} {route}");
        if *takes == Own {
            assert_eq!(world.admin(ask()).await.status, 401, "the admin credential is no principal: {route}");
        }
    }
}

/// A token for the API of another registry, whose owner is an admin there.
async fn admin_of_another_registry(world: &World) -> String {
    let plant = drawbridge_names::RegistryName::parse("plant").expect("a name");
    let new = NewRegistry::named(plant.clone(), Some("https://id.example/r/plant".to_owned()));
    world.admission.create_registry(new, &Actor::Admin).await.expect("a registry");
    let boss = TestDevice::new("boss");
    let new = NewApplication {
        name: boss.name.clone(),
        keys: vec![boss.public_key().clone().into()],
        policy: None,
    };
    world.admission.add_application(&plant, new, &Actor::Admin).await.expect("an application");
    let settings = PrincipalSettings { roles: BTreeSet::from([Role::Admin]), ..Default::default() };
    world.admission.set_settings(&plant, &boss.name, settings, None, &Actor::Admin).await.expect("a role");
    let assertion = boss.assertion("https://id.example/r/plant", world.clock.now_s()).sign();
    let form = format!("{}&resource=https://id.example/r/plant/v1", login_form(&assertion));
    let answer = world.send(Ask::post("/r/plant/oauth/token").form(&form)).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let token = answer.json()["access_token"].as_str().expect("a token").to_owned();
    let there = world.send(Ask::get("/r/plant/v1/applications").bearer(&token)).await;
    assert_eq!(there.status, 200, "at home it is an admin: {}", there.text);
    token
}

/// The routes as the source of the router has them: `.route("PATH", get(..).post(..))`, and `at("..")`
/// below both collections of principals.
pub(crate) fn routes_of_the_source() -> BTreeSet<(String, String)> {
    let mut found = BTreeSet::new();
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for file in std::fs::read_dir(folder).expect("the sources") {
        let text = std::fs::read_to_string(file.expect("an entry").path()).unwrap_or_default();
        for call in text.split(".route(").skip(1) {
            let end = call.find("\n        .").or_else(|| call.find("\n}")).unwrap_or(call.len());
            let call = &call[..end];
            let path = call.split('"').nth(1).expect("a path").to_owned();
            let collections: &[&str] = if call.trim_start().starts_with("&at(") {
                &["/v1/devices", "/v1/applications"]
            } else {
                &[""]
            };
            let mut methods = 0;
            for method in ["get", "post", "put", "patch", "delete"] {
                if [" ", ".", "("].iter().any(|before| call.contains(&format!("{before}{method}("))) {
                    methods += 1;
                    for collection in collections {
                        found.insert((method.to_uppercase(), format!("{collection}{path}")));
                    }
                }
            }
            assert!(methods > 0, "a route without a method that this test knows: {call}");
        }
    }
    found
}

#[test]
fn no_route_is_missing_in_the_table_above() {
    let source = routes_of_the_source();
    let table: BTreeSet<_> = ROUTES.iter().map(|(m, p, _)| ((*m).to_owned(), (*p).to_owned())).collect();
    let missing: Vec<_> = source.difference(&table).collect();
    let gone: Vec<_> = table.difference(&source).collect();
    assert!(missing.is_empty() && gone.is_empty(), "give ROUTES {missing:?}, take out {gone:?}");
    assert_eq!(table.len(), ROUTES.len(), "a route twice");
}

#[tokio::test]
async fn an_operator_cannot_become_more_than_it_is() {
    let world = World::new().await;
    world.device("lamp").await;
    let app = staff(&world, "ops", &[Role::Operator, Role::Viewer]).await;
    staff(&world, "boss", &[Role::Admin]).await;
    let token = world.token(&app, Some(API), "").await;
    let jwk: Value = serde_json::from_str(&app.public_key().to_jwk_json()).expect("a JWK");
    let attempts = [
        ("PUT", "/v1/principals/ops/policy", json!({ "policy": "device" })),
        ("PUT", "/v1/principals/boss/policy", json!({ "policy": "device" })),
        ("PUT", "/v1/applications/ops", json!({ "policy": "device" })),
        ("PATCH", "/v1/applications/ops", json!({ "roles": ["admin"] })),
        ("PUT", "/v1/applications/new", json!({ "keys": [{ "jwk": jwk }] })),
        ("POST", "/v1/applications", json!({ "name": "new" })),
        ("POST", "/v1/applications/boss/keys", json!({ "jwk": jwk })),
        ("POST", "/v1/applications/ops/keys", json!({ "jwk": jwk })),
        ("DELETE", "/v1/applications/boss", json!({})),
        ("POST", "/v1/applications/boss/block", json!({})),
        ("POST", "/v1/applications/boss/revoke", json!({})),
        ("PUT", "/v1/policies/device", json!({ "source": "" })),
    ];
    for (method, path, body) in attempts {
        let answer = world.send(Ask::new(method, path).bearer(&token).json(&body)).await;
        assert_eq!(
            (answer.status, answer.word().as_str()),
            (403, "role"),
            "{method} {path}: {}",
            answer.text
        );
    }
    // By the path of the other collection an application is not there.
    let other = world.send(Ask::post("/v1/devices/boss/block").bearer(&token)).await;
    assert_eq!((other.status, other.word().as_str()), (404, "not-found"));
    let done = world.send(Ask::post("/v1/devices/lamp/block").bearer(&token)).await;
    assert_eq!(done.status, 200, "{}", done.text);
    let rows = world.admin(Ask::get("/v1/audit?limit=1")).await.json();
    assert_eq!(rows["items"][0]["actor"], "app:ops", "the audit names who did it");
}

#[tokio::test]
async fn a_role_taken_away_is_gone_with_the_next_request_and_no_token_carries_more_than_its_words() {
    let world = World::new().await;
    let app = staff(&world, "ops", &[Role::Admin]).await;
    let all = world.token(&app, Some(API), "").await;
    let reads = world.token(&app, Some(API), "registry:read").await;
    let operates = world.token(&app, Some(API), "registry:operate").await;
    let own = world.token(&app, Some(API), "self:read").await;
    let status = async |token: &str, ask: Ask| world.send(ask.bearer(token)).await.status;
    let block = || Ask::post("/v1/devices/ghost/block");
    let policy = || Ask::new("PUT", "/v1/policies/p").body("text/toml", "");
    let table =
        [(&all, [200, 404, 201]), (&operates, [200, 404, 403]), (&reads, [200, 403, 403]), (&own, [403; 3])];
    for (token, expected) in table {
        let found = [
            status(token, Ask::get("/v1/devices")).await,
            status(token, block()).await,
            status(token, policy()).await,
        ];
        assert_eq!(found, expected);
    }
    give(&world, "ops", &[Role::Viewer]).await;
    assert_eq!([status(&all, Ask::get("/v1/devices")).await, status(&all, block()).await], [200, 403]);
    give(&world, "ops", &[]).await;
    assert_eq!(status(&all, Ask::get("/v1/devices")).await, 403);

    let assertion = app.assertion(ISSUER, world.clock.now_s()).sign();
    let form = format!("{}&resource={API}&scope=registry:read", login_form(&assertion));
    let refused = world.send(Ask::post("/oauth/token").form(&form)).await;
    assert_eq!((refused.status, refused.word().as_str()), (400, "invalid_scope"), "{}", refused.text);

    let settings = PrincipalSettings { roles: BTreeSet::from([Role::Viewer]), ..Default::default() };
    world.device("lamp").await;
    let refused =
        world.admission.set_settings(&registry(), &name("lamp"), settings, None, &Actor::Admin).await;
    assert_eq!(refused.map(drop).map_err(|error| error.word()), Err("device-role"));
}

#[tokio::test]
async fn an_admin_sets_what_a_principal_is_and_a_device_gets_no_role() {
    let world = World::new().await;
    let jwk: Value = serde_json::from_str(&TestDevice::new("x").public_key().to_jwk_json()).expect("a JWK");
    let body = json!({ "name": "desk", "keys": [{ "jwk": jwk }], "roles": ["viewer"], "bound_tokens": true });
    let made = world.admin(Ask::post("/v1/applications").json(&body)).await;
    assert_eq!((made.status, &made.json()["roles"]), (201, &json!(["viewer"])), "{}", made.text);
    let patch = async |path: &str, body: Value| world.admin(Ask::new("PATCH", path).json(&body)).await;
    let subject = json!({ "san_dns": "desk.example" });
    let body = json!({ "roles": ["operator", "introspect"], "certificate_subject": subject });
    let changed = patch("/v1/applications/desk", body).await.json();
    assert_eq!(changed["roles"], json!(["operator", "introspect"]));
    assert_eq!((&changed["certificate_subject"], &changed["bound_tokens"]), (&subject, &json!(true)));
    let cleared = patch("/v1/applications/desk", json!({ "certificate_subject": null, "roles": [] })).await;
    assert_eq!(
        (&cleared.json()["certificate_subject"], &cleared.json()["roles"]),
        (&Value::Null, &json!([]))
    );

    world.device("lamp").await;
    let lamp = patch("/v1/devices/lamp", json!({ "clock": "none", "gateway": true })).await.json();
    assert_eq!((&lamp["clock"], &lamp["gateway"]), (&json!("none"), &json!(true)));
    let refused = patch("/v1/devices/lamp", json!({ "roles": ["viewer"] })).await;
    assert_eq!((refused.status, refused.word().as_str()), (422, "device-role"), "{}", refused.text);
    let refused =
        world.admin(Ask::post("/v1/devices").json(&json!({ "name": "pump", "roles": ["viewer"] }))).await;
    assert_eq!((refused.status, refused.word().as_str()), (422, "device-role"));
    assert_eq!(patch("/v1/devices/ghost", json!({})).await.status, 404);
    assert_eq!(patch("/v1/applications/desk", json!({ "roles": ["root"] })).await.status, 400);
}

/// The numbers are of all registries, so the staff of one of them may not read them; but for `default`, whose
/// registry the server is.
#[tokio::test]
async fn the_numbers_of_the_server_are_for_staff_of_the_default_registry_only() {
    let world = World::new().await;
    let foreign = admin_of_another_registry(&world).await;
    let app = staff(&world, "monitor", &[Role::Viewer]).await;
    let token = world.token(&app, Some(API), "registry:read").await;
    let page = world.send(Ask::get("/metrics").bearer(&token)).await;
    assert_eq!((page.status, page.text.lines().last()), (200, Some("up 1")), "{}", page.text);
    assert_eq!(page.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert_eq!(page.header("cache-control"), Some("no-store"));
    for (path, token, status) in [
        ("/metrics", None, 401),
        ("/metrics", Some(&foreign), 401),
        ("/r/plant/metrics", Some(&foreign), 404),
        ("/r/plant/metrics", Some(&world.admin), 404),
        ("/r/plant/metrics", Some(&token), 401),
        ("/metrics", Some(&world.admin), 200),
    ] {
        let ask = Ask::get(path);
        let ask = if let Some(token) = token { ask.bearer(token) } else { ask };
        let answer = world.send(ask).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.text);
    }
}

/// I14: there is one admin credential, made at random; a new one ends the old.
#[tokio::test]
async fn the_admin_credential_is_replaced_by_its_holder() {
    let world = World::new().await;
    let new = world.admin(Ask::post("/v1/admin-token:rotate")).await;
    assert_eq!((new.status, new.header("cache-control")), (200, Some("no-store")), "{}", new.text);
    let token = new.json()["admin_token"].as_str().expect("a credential").to_owned();
    assert!(token.starts_with("dba_") && token != world.admin);
    assert_eq!(world.admin(Ask::get("/v1/devices")).await.status, 401, "the old one is dead");
    let rows = world.send(Ask::get("/v1/audit?limit=1").bearer(&token)).await;
    assert_eq!((rows.status, &rows.json()["items"][0]["action"]), (200, &json!("admin.rotate")));
}

#[tokio::test]
async fn who_guesses_too_often_is_told_in_each_dialect_when_to_come_again() {
    let mut settings = AdmissionConfig::default();
    settings.limits.exempt.clear();
    settings.limits.address_burst = 2;
    let world = World::with(Arc::new(MemoryStore::new()), HttpConfig::default(), settings).await;
    let form = login_form(&TestDevice::new("lamp").assertion(ISSUER, world.clock.now_s()).sign());
    let guess = format!("dba_{}", "A".repeat(49));
    for _ in 0..2 {
        assert_eq!(world.send(Ask::post("/oauth/token").form(&form)).await.status, 401);
    }
    for (ask, word) in [
        (Ask::post("/oauth/token").form(&form), "rate_limited"),
        (Ask::get("/v1/devices").bearer(&guess), "rate-limited"),
        (Ask::post("/as/token").header("Authorization", &guess).form("client_id=x"), "Too Many Requests"),
    ] {
        let answer = world.send(ask).await;
        assert_eq!((answer.status, answer.word().as_str()), (429, word), "{}", answer.text);
        assert_eq!(answer.header("retry-after"), Some("1"), "{}", answer.text);
    }
}
