//! Every kind of bad input that these endpoints can meet, in each dialect that can meet it: one named case each.

use std::sync::Arc;

use drawbridge_admission::{Actor, AdmissionConfig};
use drawbridge_http::HttpConfig;
use drawbridge_jose::{Algorithm, SigningKey, base64url_decode, base64url_encode, sha256};
use drawbridge_testkit::{FakeClock, FlakyStore, TestDevice};
use serde_json::{Value, json};

use crate::world::{Answer, Ask, ISSUER, World, login_form, name, registry};

struct Case {
    name: String,
    ask: Ask,
    status: u16,
    /// OAuth's `error`, the word of a problem, or the reason phrase of an alias.
    word: &'static str,
    /// Must stand somewhere in the body, or in the header named before `: `.
    says: &'static str,
}

#[derive(Default)]
struct Table(Vec<Case>);

impl Table {
    fn add(&mut self, name: &str, ask: Ask, status: u16, word: &'static str, says: &'static str) {
        self.0.push(Case { name: name.to_owned(), ask, status, word, says });
    }

    /// A bad JWT at the token endpoint.
    fn oauth(&mut self, name: &str, jwt: &str, word: &'static str, says: &'static str) {
        let status = if word == "invalid_client" { 401 } else { 400 };
        self.add(&format!("oauth: {name}"), token(jwt, ""), status, word, says);
    }

    /// A bad JWT at the alias.
    fn alias(&mut self, name: &str, jwt: &str, status: u16) {
        let word = match status {
            400 => "Bad Request",
            401 => "Unauthorized",
            429 => "Too Many Requests",
            500 => "Internal Server Error",
            _ => "Forbidden",
        };
        self.add(&format!("alias: {name}"), alias(jwt, "client_id=backend"), status, word, "");
    }

    fn problem(&mut self, name: &str, ask: Ask, status: u16, word: &'static str) {
        self.add(name, ask, status, word, "");
    }
}

impl Table {
    /// Asks every case, as the operator where its name says so.
    async fn ask_all(&self, world: &World) -> Vec<Answer> {
        let (mut answers, mut faults) = (Vec::new(), Vec::new());
        for case in &self.0 {
            let answer = if case.name.starts_with("operator: ") {
                world.admin(case.ask.clone()).await
            } else {
                world.send(case.ask.clone()).await
            };
            faults.extend(holds(case, &answer).err());
            answers.push(answer);
        }
        assert!(faults.is_empty(), "{}", faults.join("\n"));
        answers
    }
}

fn token(jwt: &str, more: &str) -> Ask {
    Ask::post("/oauth/token").form(&format!("{}{more}", login_form(jwt)))
}

fn alias(jwt: &str, form: &str) -> Ask {
    Ask::post("/as/token").header("Authorization", jwt).form(form)
}

fn alias_update(jwt: &str, pop: &str) -> Ask {
    Ask::post("/device/update/pubkey").header("Authorization", jwt).json(&json!({ "pop": pop }))
}

fn update(update: &str, pop: &str) -> Ask {
    Ask::post("/v1/self/keys").json(&json!({ "update": update, "pop": pop, "retire": "keep" }))
}

/// The JWT with another signature.
fn resigned(jwt: &str, signature: &[u8]) -> String {
    let (input, _) = jwt.rsplit_once('.').expect("a JWT");
    format!("{input}.{}", base64url_encode(signature))
}

/// The signature of a JWT as ASN.1 DER.
fn der(jwt: &str) -> Vec<u8> {
    let (_, signature) = jwt.rsplit_once('.').expect("a JWT");
    let raw = base64url_decode(signature).expect("base64url");
    let mut body = Vec::new();
    for half in raw.chunks(raw.len() / 2) {
        body.extend([2, 33, 0]);
        body.extend(half);
    }
    let mut whole = vec![0x30, u8::try_from(body.len()).expect("short")];
    whole.extend(body);
    whole
}

const NOW: u64 = FakeClock::START_S;

fn requests(table: &mut Table, lamp: &TestDevice) {
    let good = || lamp.assertion(ISSUER, NOW).sign();
    let post = || Ask::post("/oauth/token");
    table.add("oauth: a JSON body", post().json(&json!({})), 400, "invalid_request", "form");
    table.add("oauth: no body", post(), 400, "invalid_request", "form");
    table.add("oauth: no grant_type", post().form("scope=x"), 400, "invalid_request", "grant_type");
    table.add("oauth: repeated", token(&good(), "&scope=a&scope=b"), 400, "invalid_request", "twice");
    table.add(
        "oauth: repeated, one empty",
        token(&good(), "&scope=&scope="),
        400,
        "invalid_request",
        "twice",
    );
    table.add("oauth: not UTF-8", post().form("grant_type=%ff"), 400, "invalid_request", "UTF-8");
    let in_url = Ask::post("/oauth/token?scope=x").form(&login_form(&good()));
    table.add("oauth: in the URL", in_url, 400, "invalid_request", "URL");
    let long = post().form(&format!("grant_type={}", "x".repeat(17_000)));
    table.add("oauth: body too long", long, 413, "invalid_request", "16384");
    let grants = ["password", "authorization_code", "urn:ietf:params:oauth:grant-type:device_code", "x"];
    for grant in grants {
        let ask = post().form(&format!("grant_type={grant}"));
        table.add(&format!("oauth: grant {grant}"), ask, 400, "unsupported_grant_type", "client_credentials");
    }
    let ask = post().form("grant_type=client_credentials");
    table.add("oauth: no credentials", ask, 401, "invalid_client", "www-authenticate: Bearer");
    let ask = post().form(&format!("{}&client_assertion=", "grant_type=client_credentials"));
    table.add("oauth: an empty assertion", ask, 401, "invalid_client", "www-authenticate: Bearer");
    let basic = token(&good(), "").header("Authorization", "Basic eDp5");
    table.add("oauth: two methods, Basic", basic, 400, "invalid_request", "more than one");
    let secret = token(&good(), "&client_secret=x");
    table.add("oauth: two methods, secret", secret, 400, "invalid_request", "more than one");
    let ask = post().form("grant_type=client_credentials").header("Authorization", "Basic eDp5");
    table.add("oauth: Basic alone", ask, 401, "invalid_client", "www-authenticate: Basic");
    let untyped = format!("grant_type=client_credentials&client_assertion={}", good());
    table.add("oauth: no assertion type", post().form(&untyped), 400, "invalid_request", "assertion_type");
    let ask = post().form(&format!("{untyped}&client_assertion_type=x"));
    table.add("oauth: unknown assertion type", ask, 400, "invalid_request", "assertion_type");
    let ask = token(&"x".repeat(4097), "");
    table.add("oauth: JWT too long", ask, 400, "invalid_request", "4096");
    table.add(
        "oauth: other client_id",
        token(&good(), "&client_id=pump"),
        401,
        "invalid_client",
        "client_id",
    );

    let ask = Ask::post("/as/token").header("Authorization", "x").body("text/plain", "client_id=backend");
    table.add("alias: neither form nor JSON", ask, 400, "Bad Request", "Content-Type");
    let ask = alias("x", "client_id=backend&client_id=backend");
    table.add("alias: repeated", ask, 400, "Bad Request", "twice");
    let ask = Ask::post("/as/token").header("Authorization", "x").json(&json!({ "client_id": 1 }));
    table.add("alias: JSON of another type", ask, 400, "Bad Request", "wrong type");
    let ask = alias("x", &"x".repeat(17_000));
    table.add("alias: body too long", ask, 413, "Payload Too Large", "16384");
    let ask = Ask::post("/as/token").form("client_id=backend");
    table.add("alias: no credentials", ask, 401, "Unauthorized", "www-authenticate: Bearer");
    let ask = alias("x", "client_id=backend&client_secret=x");
    table.add("alias: two methods", ask, 400, "Bad Request", "more than one");
    table.add("alias: no client_id", alias("x", ""), 400, "Bad Request", "client_id");
}

/// What is found before any key is looked at. `old` is the device of the aliases.
fn formats(table: &mut Table, lamp: &TestDevice, old: &TestDevice) {
    let assertion = || lamp.assertion(ISSUER, NOW);
    let good = assertion().sign();
    let login = old.legacy_login();
    let good_login = login.sign();
    let five = |jwt: &str| format!("{jwt}.x.x");
    let segments = |jwt: &str| jwt.split('.').map(str::to_owned).collect::<Vec<_>>();
    let broken = |jwt: &str| {
        let parts = segments(jwt);
        vec![
            ("no JWS", "abc".to_owned()),
            ("two segments", format!("{}.{}", parts[0], parts[1])),
            ("five segments", five(jwt)),
            ("a thousand dots", ".".repeat(1000)),
            ("bad base64", format!("{}.!{}.{}", parts[0], parts[1], parts[2])),
            ("padding", format!("{jwt}==")),
            ("bad JSON header", format!("{}.{}.{}", base64url_encode(b"{"), parts[1], parts[2])),
            ("array header", format!("{}.{}.{}", base64url_encode(b"[]"), parts[1], parts[2])),
            ("bad JSON body", format!("{}.{}.{}", parts[0], base64url_encode(b"{"), parts[2])),
            (
                "duplicate member",
                format!(
                    "{}.{}.{}",
                    base64url_encode(br#"{"alg":"ES256","alg":"ES256"}"#),
                    parts[1],
                    parts[2]
                ),
            ),
        ]
    };
    for (name, jwt) in broken(&good) {
        table.oauth(name, &jwt, "invalid_client", "the credential is not accepted");
    }
    for (name, jwt) in broken(&good_login) {
        table.alias(name, &jwt, 400);
    }
    table.oauth("white space", &format!("%20{good}"), "invalid_client", "the credential is not accepted");
    for alg in ["none", "None", "nOnE", "es256", "HS256", "HS512", "ES256K", "RSA1_5", ""] {
        let header = format!(r#"{{"alg":"{alg}"}}"#);
        let name = format!("alg {alg:?}");
        table.oauth(
            &name,
            &assertion().sign_raw(&header),
            "invalid_client",
            "the credential is not accepted",
        );
        table.alias(&name, &login.sign_raw(&header), 403);
    }
    let members = [
        r#""crit":[]"#,
        r#""crit":["exp"]"#,
        r#""b64":false"#,
        r#""jwk":{}"#,
        r#""jku":"https://evil.example""#,
        r#""x5u":"https://evil.example""#,
        r#""x5c":[]"#,
    ];
    for member in members {
        let header = format!(r#"{{"alg":"ES256",{member}}}"#);
        table.oauth(
            member,
            &assertion().sign_raw(&header),
            "invalid_client",
            "the credential is not accepted",
        );
        table.alias(member, &login.sign_raw(&header), 403);
    }
}

/// What is wrong with the kind, the signature and the claims.
fn tokens(table: &mut Table, lamp: &TestDevice, old: &TestDevice) {
    let assertion = || lamp.assertion(ISSUER, NOW);
    let next = TestDevice::new("lamp");
    for typ in ["at+jwt", "key-pop+jwt", "dpop+jwt", "x"] {
        let name = format!("typ {typ}");
        let says = "the credential is not accepted";
        table.oauth(&name, &assertion().typ(Some(typ)).sign(), "invalid_client", says);
        table.alias(&name, &old.legacy_login().typ(Some(typ)).sign(), 403);
    }
    let an_update = lamp.update(ISSUER, NOW, next.public_key()).sign();
    table.oauth("an update JWT at the token endpoint", &an_update, "invalid_client", "");
    table.alias("an update JWT at the token endpoint", &old.legacy_update(next.public_key()).sign(), 403);
    let login = old.legacy_login().sign();
    table.add(
        "alias: a login JWT at the update",
        alias_update(&login, &next.legacy_pop(&login)),
        403,
        "Forbidden",
        "",
    );
    let login = assertion().sign();
    table.problem(
        "v1: a login JWT at the update",
        update(&login, &next.pop(ISSUER, &login).sign()),
        401,
        "token-type",
    );

    let stranger = TestDevice::new("stranger");
    let pretender = TestDevice::new("lamp");
    let good = assertion().sign();
    let unproven = [
        ("unknown device", stranger.assertion(ISSUER, NOW).sign()),
        ("another's key", pretender.assertion(ISSUER, NOW).kid(None).sign()),
        ("another's kid", pretender.assertion(ISSUER, NOW).sign()),
        ("unknown kid", assertion().kid(Some("factory")).sign_by(&pretender.key)),
        ("r = s = 0", resigned(&good, &[0; 64])),
        ("r = s = n", resigned(&good, &[0xff; 64])),
        ("DER", resigned(&good, &der(&good))),
        ("no signature", resigned(&good, &[])),
    ];
    for (name, jwt) in unproven {
        table.oauth(name, &jwt, "invalid_client", "the credential is not accepted");
    }
    table.alias("unknown device", &stranger.legacy_login().sign(), 401);
    table.alias("another's key", &TestDevice::new("old").legacy_login().sign(), 401);
    table.alias("no legacy device", &lamp.legacy_login().sign(), 403);

    let wrong = |name: &str, value: Value| assertion().with(name, value).sign();
    let aud = |value: Value| assertion().with("aud", value).sign();
    for (name, jwt) in [
        ("aud absent", assertion().without("aud").sign()),
        ("aud is the token URL", aud(json!(format!("{ISSUER}/oauth/token")))),
        ("aud with a slash", aud(json!(format!("{ISSUER}/")))),
        ("two aud", aud(json!([ISSUER, "x"]))),
        ("aud is the Host", aud(json!("https://evil.example"))),
        ("aud is the bridge", aud(json!(format!("{ISSUER}/mqtt")))),
    ] {
        table.oauth(name, &jwt, "invalid_client", ISSUER);
    }
    table.oauth("iss is not sub", &wrong("iss", json!("pump")), "invalid_client", "");
    let times = [
        ("no exp", assertion().without("exp").sign()),
        ("exp past", wrong("exp", json!(NOW - 61))),
        ("exp too far", wrong("exp", json!(NOW + 361))),
        ("exp a text", wrong("exp", json!("soon"))),
        ("exp null", wrong("exp", Value::Null)),
        ("exp negative", wrong("exp", json!(-1))),
        ("iat ahead", wrong("iat", json!(NOW + 61))),
        ("nbf ahead", wrong("nbf", json!(NOW + 61))),
        ("nbf a text", wrong("nbf", json!("later"))),
    ];
    for (name, jwt) in times {
        table.oauth(name, &jwt, "invalid_client", "\"server_time\":1795341800");
    }
    for (name, jti) in [
        ("short", "x".repeat(15)),
        ("long", "x".repeat(129)),
        ("control", format!("\u{1}{}", "x".repeat(16))),
    ] {
        let name = format!("jti {name}");
        table.oauth(&name, &wrong("jti", json!(jti)), "invalid_client", "jti");
        table.alias(&name, &old.legacy_login().with("jti", json!(jti)).sign(), 400);
    }
    table.oauth("no jti", &assertion().without("jti").sign(), "invalid_client", "jti");
    table.alias("no jti", &old.legacy_login().without("jti").sign(), 400);

    let scope = base64url_encode(br##"[["#",["sub"]]]"##);
    let ask = token(&assertion().sign(), &format!("&scope={scope}"));
    table.add("oauth: scope outside the policy", ask, 400, "invalid_scope", "outside");
    let ask = token(&assertion().sign(), "&scope=telemetry:write");
    table.add("oauth: scope of another form", ask, 400, "invalid_scope", "AIF");
    let ask = token(&assertion().sign(), &format!("&resource={ISSUER}/v1&scope=root"));
    table.add("oauth: no word of the API", ask, 400, "invalid_scope", "root");
    let ask = token(&assertion().sign(), "&resource=https://evil.example");
    table.add("oauth: unknown resource", ask, 400, "invalid_target", "/mqtt");
    let ask = alias(&old.legacy_login().sign(), &format!("client_id=backend&scope={scope}"));
    table.add("alias: scope outside the policy", ask, 403, "Forbidden", "outside");
    let ask = alias(&old.legacy_login().sign(), "client_id=old");
    table.add("alias: client_id is a device", ask, 403, "Forbidden", "client_id");
}

/// Whom the server knows and will not have.
fn blocked(table: &mut Table, blocked: &TestDevice, old_blocked: &TestDevice) {
    let good = blocked.assertion(ISSUER, NOW).sign();
    table.oauth("blocked, good signature", &good, "unauthorized_client", "blocked");
    table.oauth(
        "blocked, bad signature",
        &resigned(&good, &[1; 64]),
        "invalid_client",
        "the credential is not accepted",
    );
    table.alias("blocked", &old_blocked.legacy_login().sign(), 403);
}

/// While the store does not answer nobody is let in, and nobody learns why. `lamp` and `old` may be in
/// memory already: then it is the `jti` that cannot be remembered.
fn store_down(table: &mut Table, lamp: &TestDevice, old: &TestDevice) {
    let next = TestDevice::new("lamp");
    let unavailable = "temporarily_unavailable";
    let ghost = TestDevice::new("ghost");
    for (name, device) in [("in memory", lamp), ("not in memory", &ghost)] {
        let name = format!("oauth: store down, {name}");
        let ask = token(&device.assertion(ISSUER, NOW).sign(), "");
        table.add(&name, ask.clone(), 503, unavailable, "try again soon");
        table.add(&name, ask, 503, unavailable, "retry-after: 1");
    }
    table.alias("store down", &old.legacy_login().sign(), 500);
    let jwt = old.legacy_update(next.public_key()).sign();
    let ask = alias_update(&jwt, &next.legacy_pop(&jwt));
    table.add("alias: store down at the update", ask, 500, "Internal Server Error", "try again soon");
    let jwt = lamp.update(ISSUER, NOW, next.public_key()).sign();
    let ask = update(&jwt, &next.pop(ISSUER, &jwt).sign());
    table.add("v1: store down at the update", ask, 503, "temporarily-unavailable", "retry-after: 1");
    for (name, ask) in [
        ("listing", Ask::get("/v1/devices")),
        ("block", Ask::post("/v1/devices/lamp/block")),
        ("command", Ask::post("/v1/devices/lamp/commands").json(&json!({ "text": "on" }))),
        ("config", Ask::new("PUT", "/v1/devices/lamp/config").json(&json!({ "text": "on" }))),
    ] {
        // The admin credential stands in the store too.
        let name = format!("operator: store down, {name}");
        table.add(&name, ask, 503, "temporarily-unavailable", "retry-after: 1");
    }
}

/// Keys that cannot be registered, proofs that prove nothing.
fn new_keys(table: &mut Table, lamp: &TestDevice, old: &TestDevice, pump: &TestDevice) {
    let next = TestDevice::new("lamp");
    let jwk = |key: &drawbridge_jose::PublicKey| -> Value {
        serde_json::from_str(&key.to_jwk_json()).expect("a JWK")
    };
    let good = jwk(next.public_key());
    let with = |member: &str, value: Value| {
        let mut jwk = good.clone();
        jwk[member] = value;
        jwk
    };
    let bad_keys = [
        ("a private key", with("d", json!("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"))),
        ("a bad curve", with("crv", json!("P-521"))),
        ("off the curve", with("x", json!("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE"))),
        ("a short coordinate", with("x", json!("AA"))),
        ("a secret", json!({ "kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQ" })),
        ("a short RSA key", json!({ "kty": "RSA", "e": "AQAB", "n": base64url_encode(&[0xc5; 128]) })),
    ];
    for (name, key) in bad_keys {
        let jwt =
            lamp.assertion(ISSUER, NOW).typ(Some("key-update+jwt")).with("cnf", json!({ "jwk": key })).sign();
        table.problem(
            &format!("v1: {name} in an update"),
            update(&jwt, &next.pop(ISSUER, &jwt).sign()),
            400,
            "invalid-key",
        );
        let ask = Ask::post("/v1/devices/lamp/keys").json(&json!({ "jwk": key }));
        table.problem(&format!("operator: {name}"), ask, 400, "invalid-key");
    }
    let pems = [
        ("a private PEM", next.key.to_pkcs8_pem().to_string()),
        ("no PEM", "x".to_owned()),
        ("two PEM", format!("{0}{0}", next.public_key().to_pem())),
    ];
    for (name, pem) in pems {
        let jwt = old.legacy_login().with("public_key", json!(pem)).sign();
        table.add(
            &format!("alias: {name}"),
            alias_update(&jwt, &next.legacy_pop(&jwt)),
            400,
            "Bad Request",
            "",
        );
        let ask = Ask::post("/v1/devices/lamp/keys").json(&json!({ "pem": pem }));
        table.problem(&format!("operator: {name}"), ask, 400, "invalid-key");
    }

    let an_update = || lamp.update(ISSUER, NOW, next.public_key()).sign();
    let jwt = an_update();
    table.problem("v1: no PoP", update(&jwt, ""), 400, "invalid-pop");
    table.problem("v1: PoP by the old key", update(&jwt, &lamp.pop(ISSUER, &jwt).sign()), 400, "invalid-pop");
    table.problem(
        "v1: PoP for another JWT",
        update(&jwt, &next.pop(ISSUER, &an_update()).sign()),
        400,
        "invalid-pop",
    );
    let jwt = old.legacy_update(next.public_key()).sign();
    table.add("alias: no PoP", alias_update(&jwt, ""), 403, "Forbidden", "");
    table.add("alias: PoP by the old key", alias_update(&jwt, &old.legacy_pop(&jwt)), 403, "Forbidden", "");
    let other = old.legacy_update(next.public_key()).sign();
    table.add(
        "alias: PoP for another JWT",
        alias_update(&jwt, &next.legacy_pop(&other)),
        403,
        "Forbidden",
        "",
    );

    let jwt = lamp.update(ISSUER, NOW, pump.public_key()).sign();
    table.problem("v1: another's key", update(&jwt, &pump.pop(ISSUER, &jwt).sign()), 409, "key-in-use");
    let jwt = old.legacy_update(pump.public_key()).sign();
    table.add("alias: another's key", alias_update(&jwt, &pump.legacy_pop(&jwt)), 403, "Forbidden", "");
    let ask = Ask::post("/v1/devices/lamp/keys").json(&json!({ "jwk": jwk(pump.public_key()) }));
    table.problem("operator: another's key", ask, 409, "key-in-use");
    let key = TestDevice::new("x");
    let ask = Ask::post("/v1/devices/full/keys").json(&json!({ "jwk": jwk(key.public_key()) }));
    table.problem("operator: too many keys", ask, 409, "too-many-keys");
    let last = format!("/v1/devices/pump/keys/{}", pump.kid());
    table.problem("operator: the last key", Ask::new("DELETE", &last), 409, "last-key");
}

fn operator(table: &mut Table) {
    let get = Ask::get;
    table.problem("operator: unknown device", get("/v1/devices/ghost"), 404, "not-found");
    table.problem("operator: an application is no device", get("/v1/devices/backend"), 404, "not-found");
    table.problem("operator: bad id", get("/v1/devices/-x"), 422, "bad-name");
    table.problem("operator: bad id, encoded", get("/v1/devices/a%2Fb"), 422, "bad-name");
    table.problem("operator: id not UTF-8", get("/v1/devices/%ff"), 400, "bad-request");
    let stale = |method: &str, path: &str| Ask::new(method, path).header("If-Match", "\"99\"");
    table.problem("operator: stale block", stale("POST", "/v1/devices/lamp/block"), 412, "stale");
    table.problem("operator: stale delete", stale("DELETE", "/v1/devices/lamp"), 412, "stale");
    let put = stale("PUT", "/v1/devices/lamp").json(&json!({ "policy": "device" }));
    table.problem("operator: stale put", put, 412, "stale");
    let put = stale("PUT", "/v1/devices/lamp/config").json(&json!({ "text": "x" }));
    table.problem("operator: stale config", put, 412, "stale-version");
    let ask = Ask::post("/v1/devices").json(&json!({ "name": "lamp" }));
    table.problem("operator: name taken", ask, 409, "name-taken");
    let ask = Ask::post("/v1/devices").json(&json!({ "name": "backend" }));
    table.problem("operator: name of an application", ask, 409, "name-taken");
    let ask = Ask::post("/v1/devices").json(&json!({ "name": "x", "polcy": "device" }));
    table.problem("operator: unknown member", ask, 400, "bad-request");
    let ask = Ask::post("/v1/devices").json(&json!({ "name": "x", "policy": "ghost" }));
    table.problem("operator: unknown policy", ask, 422, "policy-not-found");
    let ask = Ask::post("/v1/devices").form("name=x");
    table.problem("operator: a form", ask, 415, "media-type");
    let ask =
        Ask::new("PUT", "/v1/policies/p").body("text/toml", "[[alow]]\n[[deny]]\npublish = [\"a/#/b\"]");
    table.add("operator: a faulty policy", ask, 422, "policy-invalid", "faults");
    let limit = get("/v1/devices?limit=0");
    table.problem("operator: limit 0", limit, 400, "bad-request");
    table.problem("operator: a foreign cursor", get("/v1/devices?cursor=x"), 400, "bad-request");
    let can = get("/v1/can?principal=lamp&action=fly&topic=x");
    table.problem("operator: unknown action", can, 400, "bad-request");
    let can = get("/v1/can?principal=lamp&action=publish&topic=%23");
    table.problem("operator: no topic", can, 422, "topic-invalid");
    let ask = Ask::post("/v1/devices/lamp/commands").json(&json!({ "text": "x", "subfolder": "a/#" }));
    table.problem("operator: bad subfolder", ask, 422, "bad-subfolder");
    let ask = Ask::post("/v1/devices/lamp/commands").json(&json!({ "text": "x", "payload": "eA==" }));
    table.problem("operator: two payloads", ask, 400, "bad-request");
    let ask = Ask::post("/v1/devices/lamp/commands").json(&json!({ "text": "x".repeat(65_537) }));
    table.problem("operator: long payload", ask, 413, "payload-too-long");
    table.problem("operator: no config yet", get("/v1/devices/lamp/config"), 404, "not-found");
    let ask = Ask::post("/v1/registries").json(&json!({ "name": "default" }));
    table.problem("operator: registry exists", ask, 409, "registry-exists");
}

fn holds(case: &Case, answer: &Answer) -> Result<(), String> {
    let said = match case.says.split_once(": ").filter(|(header, _)| answer.header(header).is_some()) {
        Some((header, begin)) => answer.header(header).is_some_and(|value| value.starts_with(begin)),
        None => answer.text.contains(case.says),
    };
    let kind = answer.header("content-type").unwrap_or_default();
    let is_problem = answer.json()["type"].is_string();
    let right_kind = kind == if is_problem { "application/problem+json" } else { "application/json" };
    let always = ["date", "request-id", "cache-control"].iter().all(|header| answer.header(header).is_some());
    if answer.status == case.status && answer.word() == case.word && said && right_kind && always {
        return Ok(());
    }
    Err(format!("{}: wanted {} {} {:?}, got {answer:?}", case.name, case.status, case.word, case.says))
}

#[tokio::test]
async fn every_row_of_the_error_table_that_is_served_answers_as_the_table_says() {
    let world = World::new().await;
    let (lamp, pump) = (world.device("lamp").await, world.device("pump").await);
    let (old, old_blocked) = (world.legacy_device("old").await, world.legacy_device("old-blocked").await);
    let barred = world.device("barred").await;
    world.application("backend", None).await;
    for name_of in ["barred", "old-blocked"] {
        world.admission.block(&registry(), &name(name_of), None, &Actor::Admin).await.expect(name_of);
    }
    let full = world.device("full").await;
    for _ in 0..4 {
        let key = SigningKey::generate(Algorithm::Es256).expect("a key");
        let (registry, key) = (registry(), key.public_key());
        world.admission.add_key(&registry, &full.name, key, None, &Actor::Admin).await.expect("up to five");
    }
    let mut table = Table::default();
    requests(&mut table, &lamp);
    formats(&mut table, &lamp, &old);
    tokens(&mut table, &lamp, &old);
    blocked(&mut table, &barred, &old_blocked);
    new_keys(&mut table, &lamp, &old, &pump);
    operator(&mut table);

    println!("error table: {} cases", table.ask_all(&world).await.len());
    assert!(table.0.len() > 150, "the table has shrunk to {}", table.0.len());
}

#[tokio::test]
async fn a_caller_who_is_in_memory_is_told_as_well_that_the_store_does_not_answer() {
    let store = Arc::new(FlakyStore::default());
    let world = World::with(store.clone(), HttpConfig::default(), AdmissionConfig::default()).await;
    world.device("lamp").await;
    let policy = "[[allow]]\npublish = [\"devices/lamp/commands\"]\n";
    let backend = world.application("backend", Some(policy)).await;
    let bearer = world.token(&backend, Some(&format!("{ISSUER}/v1")), "").await;
    let command = || Ask::post("/v1/devices/lamp/commands").bearer(&bearer).json(&json!({ "text": "on" }));
    assert_eq!(world.send(command()).await.status, 200);
    let mut table = Table::default();
    table.add("v1: store down behind a token", command(), 503, "store-unavailable", "retry-after: 1");
    store.set_down(true);
    table.ask_all(&world).await;
}

#[tokio::test]
async fn while_the_store_is_down_every_dialect_refuses_in_its_own_words_and_tells_no_inner_parts() {
    let store = Arc::new(FlakyStore::default());
    let world = World::with(store.clone(), HttpConfig::default(), AdmissionConfig::default()).await;
    let (lamp, old) = (world.device("lamp").await, world.legacy_device("old").await);
    world.application("backend", None).await;
    assert_eq!(world.send(token(&lamp.assertion(ISSUER, NOW).sign(), "")).await.status, 200);
    let mut table = Table::default();
    store_down(&mut table, &lamp, &old);
    store.set_down(true);
    for answer in table.ask_all(&world).await {
        assert!(!answer.text.contains("the test has taken it down"), "{}", answer.text);
    }
    store.set_down(false);
    assert_eq!(world.send(token(&lamp.assertion(ISSUER, NOW).sign(), "")).await.status, 200);
    assert_eq!(world.send(alias(&old.legacy_login().sign(), "client_id=backend")).await.status, 200);
}

#[tokio::test]
async fn who_logs_in_more_often_than_its_jti_can_be_remembered_must_wait_or_take_a_new_key() {
    let settings = AdmissionConfig { jti_live_max: 2, legacy_jti_max: 2, ..AdmissionConfig::default() };
    let world = World::with(Arc::new(FlakyStore::default()), HttpConfig::default(), settings).await;
    let (lamp, old) = (world.device("lamp").await, world.legacy_device("old").await);
    let pump = world.legacy_device("pump").await;
    world.application("backend", None).await;
    let login = |jwt: &str| alias(jwt, "client_id=backend");
    let short = || old.legacy_login().with("exp", json!(NOW + 60)).sign();
    for _ in 0..2 {
        assert_eq!(world.send(token(&lamp.assertion(ISSUER, NOW).sign(), "")).await.status, 200);
        assert_eq!(world.send(login(&short())).await.status, 200);
        assert_eq!(world.send(login(&pump.legacy_login().sign())).await.status, 200);
    }
    let mut table = Table::default();
    let full = || token(&lamp.assertion(ISSUER, NOW).sign(), "");
    table.add("oauth: as many jti as are remembered", full(), 429, "rate_limited", "retry-after: 60");
    table.add("oauth: what is to be done", full(), 429, "rate_limited", "wait until some have expired");
    let full = || login(&short());
    table.add("alias: as many jti as are remembered", full(), 429, "Too Many Requests", "retry-after: 60");
    // Without `exp` they are remembered for the life of the key: waiting does not help.
    let ask = login(&pump.legacy_login().sign());
    table.add("alias: as many jti as a key has", ask, 403, "Forbidden", "update the key");
    for answer in table.ask_all(&world).await {
        assert_eq!(answer.header("retry-after").is_some(), answer.status == 429, "{}", answer.text);
    }
    world.clock.advance(std::time::Duration::from_secs(600));
    let later = lamp.assertion(ISSUER, NOW + 600).sign();
    assert_eq!(world.send(token(&later, "")).await.status, 200, "those that have expired are forgotten");
}

#[tokio::test]
async fn an_assertion_is_good_once_and_its_replay_is_told_to_its_owner() {
    let world = World::new().await;
    let (lamp, old) = (world.device("lamp").await, world.legacy_device("old").await);
    world.application("backend", None).await;
    let jwt = lamp.assertion(ISSUER, NOW).sign();
    assert_eq!(world.send(token(&jwt, "")).await.status, 200);
    let again = world.send(token(&jwt, "")).await;
    assert_eq!((again.status, again.word().as_str()), (401, "invalid_client"));
    assert!(again.text.contains("already used"), "{}", again.text);

    let jwt = old.legacy_login().sign();
    assert_eq!(world.send(alias(&jwt, "client_id=backend")).await.status, 200);
    let again = world.send(alias(&format!("Bearer {jwt}"), "client_id=backend")).await;
    assert_eq!((again.status, again.word().as_str()), (403, "Forbidden"));
}

/// I11, at this edge: the answers are equal byte for byte.
#[tokio::test]
async fn i11_unknown_device_wrong_key_and_blocked_device_are_one_answer_without_a_good_signature() {
    let world = World::new().await;
    world.device("lamp").await;
    world.device("barred").await;
    world.admission.block(&registry(), &name("barred"), None, &Actor::Admin).await.expect("blocked");
    let mut bodies = Vec::new();
    for claimed in ["lamp", "barred", "ghost"] {
        let jwt = TestDevice::new(claimed).assertion(ISSUER, NOW).sign();
        let before = world.admission.stats();
        let answer = world.send(token(&jwt, "")).await;
        let checks = world.admission.stats().signature_checks - before.signature_checks;
        bodies.push((answer.status, answer.text, checks));
    }
    assert_eq!(bodies[0].0, 401);
    assert_eq!(bodies[0].2, 1, "one signature check");
    assert_eq!(bodies[0], bodies[1]);
    assert_eq!(bodies[0], bodies[2]);
}

#[tokio::test]
async fn no_answer_repeats_a_private_key_or_a_token() {
    let world = World::new().await;
    world.device("lamp").await;
    let secret = TestDevice::new("x").key.to_pkcs8_pem().to_string();
    let marker: String = secret.lines().nth(1).expect("base64").to_owned();
    for body in [
        json!({ "pem": secret }),
        json!({ "jwk": secret }),
        json!({ "certificate": secret }),
        json!({ "key": secret }),
    ] {
        let answer = world.admin(Ask::post("/v1/devices/lamp/keys").json(&body)).await;
        assert_eq!(answer.status, 400, "{}", answer.text);
        assert!(!answer.text.contains(&marker), "{}", answer.text);
    }
    for body in [
        json!({ "name": "x", "assertion_profile": marker }),
        json!({ "name": "x", marker.clone(): 1 }),
        json!({ "name": "x", "keys": marker }),
        json!({ "name": "x", "attributes": { "a": [marker.clone()] } }),
        json!({ "name": { marker.clone(): 1 } }),
    ] {
        let answer = world.admin(Ask::post("/v1/devices").json(&body)).await;
        assert_eq!(answer.status, 400, "{}", answer.text);
        assert!(!answer.text.contains(&marker), "{}", answer.text);
    }
    for form in [format!("{marker}={marker}&{marker}=x"), format!("{marker}&{marker}")] {
        let answer = world.send(Ask::post("/oauth/token").form(&form)).await;
        assert_eq!(answer.status, 400, "{}", answer.text);
        assert!(!answer.text.contains(&marker[..20]), "{}", answer.text);
    }
    let bad = format!("dba_{}", base64url_encode(&sha256(b"x")));
    let answer = world.send(Ask::get("/v1/devices").bearer(&bad)).await;
    assert_eq!((answer.status, answer.word().as_str()), (401, "not-proven"));
    assert!(!answer.text.contains(&bad));
}
