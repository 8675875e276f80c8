//! The attacks that a token service is tried with, one row one attack, over real HTTPS and MQTT against a real server.
//!
//! A row sends what the attacker would send, and asserts status, error word and code of the answer. When all are
//! done, the records of the devices are what they were, and each of them still logs in.

use std::net::TcpListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use aws_lc_rs::hmac;
use drawbridge_device::{MqttClient, MqttOptions};
use drawbridge_jose::{Algorithm, Sign as _, base64url_encode};
use drawbridge_mqtt::codec::ProtocolVersion;
use drawbridge_testkit::TestDevice;
use serde_json::{Value, json};

use crate::harness::{Core, DRAWBRIDGE, now_s, wait_for};
use crate::wire::{Answer, Wire};

/// What an attack is known by, and how it is done.
type Row = (&'static str, fn(&Scene));
/// What becomes of a signature, and of a whole token.
type Coat = fn(&[u8]) -> Vec<u8>;
type Edit = fn(&str) -> String;

const ATTACKS: &[Row] = &[
    ("alg none and case variants", alg_none),
    ("RS/ES to HS confusion (CVE-2015-9235, CVE-2024-33663, CVE-2024-37568)", hmac_confusion),
    ("kid injection (SQL, path, NUL, 64 KiB, array)", kid_injection),
    ("jku/x5u/jwks_uri SSRF, also by a name of loopback", addresses_of_keys),
    ("embedded jwk (CVE-2018-0114)", embedded_jwk),
    ("unknown, empty, duplicate crit, b64 (CVE-2025-59420, CVE-2026-32597)", critical_members),
    ("duplicate members", duplicate_members),
    ("polyglot compact and JSON serialization (CVE-2022-39227)", polyglots),
    ("JWE where a JWS is expected (CVE-2023-51774)", encrypted),
    ("p2c flood (CVE-2023-52428, CVE-2022-36083)", iterations),
    ("zip bomb (CVE-2024-28102, CVE-2024-28176)", compressed),
    ("invalid curve on ECDH-ES", off_the_curve),
    ("psychic signature (CVE-2022-21449)", psychic_signature),
    ("r or s >= n", out_of_range_signature),
    ("thousand-dot token (CVE-2025-27144, CVE-2025-30204)", thousand_dots),
    ("mistyped claims (CVE-2026-25537)", mistyped_claims),
    ("deep JSON", deep_json),
    ("huge number in exp (1e400, NaN text, negative)", huge_numbers),
    ("UTF-16 and BOM", other_encodings),
    ("unpaired surrogate and NUL in sub", broken_text),
    ("token text malleability", malleable_text),
    ("aud as token URL, as array of 2, with trailing slash", near_audiences),
    ("Host-header audience", host_header),
    ("jti race", jti_race),
    ("jti reuse across devices (must be allowed)", jti_of_two_devices),
    ("replay after restart", replay_after_restart),
    ("replay at the edge of exp + skew", replay_at_the_edge),
    ("update JWT used as login", update_as_login),
    ("PoP for another JWT", pop_for_another),
    ("PoP by the old key", pop_by_the_old_key),
    ("key already registered elsewhere", key_of_another),
    ("private key in public_key", private_key_sent),
    ("gateway exchanging for an unlinked device", unlinked_gateway),
    ("scope widening in exchange or renew", wider_scope),
    ("introspection by an outsider", outsider_introspects),
    ("DPoP-bound token as Bearer", bound_as_bearer),
    ("user_code guessing", user_codes),
    ("PKCE downgrade", pkce_downgrade),
    ("device id equal to a user id", shared_names),
];

/// The list of the wire contract, in its order; the CVE numbers stand in the table.
const LIST: &[&str] = &[
    "alg none and case variants",
    "RS/ES to HS confusion",
    "kid injection",
    "jku/x5u/jwks_uri SSRF",
    "embedded jwk",
    "unknown, empty, duplicate crit, b64",
    "duplicate members",
    "polyglot compact and JSON serialization",
    "JWE where a JWS is expected",
    "p2c flood",
    "zip bomb",
    "invalid curve on ECDH-ES",
    "psychic signature",
    "r or s >= n",
    "thousand-dot token",
    "mistyped claims",
    "deep JSON",
    "huge number in exp",
    "UTF-16 and BOM",
    "unpaired surrogate and NUL in sub",
    "token text malleability",
    "aud as token URL, as array of 2, with trailing slash",
    "Host-header audience",
    "jti race",
    "jti reuse across devices",
    "replay after restart",
    "replay at the edge of exp + skew",
    "update JWT used as login",
    "PoP for another JWT",
    "PoP by the old key",
    "key already registered elsewhere",
    "private key in public_key",
    "gateway exchanging for an unlinked device",
    "scope widening in exchange or renew",
    "introspection by an outsider",
    "DPoP-bound token as Bearer",
    "user_code guessing",
    "PKCE downgrade",
    "device id equal to a user id",
];

#[test]
fn every_attack_of_the_list_has_a_row_in_its_place() {
    assert_eq!(ATTACKS.len(), LIST.len());
    for ((row, _), item) in ATTACKS.iter().zip(LIST) {
        assert!(row.starts_with(item), "{row}: wanted {item}");
    }
}

#[test]
fn no_attack_of_the_list_gets_in_or_changes_anything() {
    let scene = Scene::set();
    // What the attacks change something of: as it is, it gets in.
    let honest = |claims: &Value| raw(HEADER.as_bytes(), claims.to_string().as_bytes(), &scene.lamp);
    assert_eq!(scene.login(&honest(&scene.assertion_claims())).status, 200);
    scene.connect("lamp", honest(&scene.connect_claims()).as_bytes()).expect("admitted");
    let before = scene.records();
    let mut failed = Vec::new();
    for (name, attack) in ATTACKS {
        if catch_unwind(AssertUnwindSafe(|| attack(&scene))).is_err() {
            failed.push(*name);
        }
        if scene.records() != before {
            failed.push(*name);
            eprintln!("{name}: the records were changed");
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
    for device in [&scene.lamp, &scene.door, &scene.press] {
        let answer = scene.login(&device.assertion(&scene.issuer, now_s()).sign());
        assert_eq!(answer.status, 200, "{}: {}", device.name.as_str(), answer.text);
    }
    let honest = scene.lamp.connect_jwt(&scene.bridge_audience, now_s()).sign();
    scene.connect("lamp", honest.as_bytes()).expect("an honest device is still admitted");
}

/// A server with principals whose keys the attacks know, or not.
struct Scene {
    core: Core,
    wire: Wire,
    issuer: String,
    bridge_audience: String,
    /// ES256; what most attacks want to be.
    lamp: TestDevice,
    /// Ed25519.
    door: TestDevice,
    /// RS256.
    press: TestDevice,
    /// May send IoT IdP JWTs.
    old: TestDevice,
    /// A gateway that is linked to `lamp`.
    gateway: TestDevice,
    /// Nobody that the server knows.
    mallory: TestDevice,
}

const FORM: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const P256_ORDER: &str = "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551";

impl Scene {
    fn set() -> Self {
        let core = Core::start();
        let wire = Wire::of(&core);
        let metadata = wire.get("/.well-known/oauth-authorization-server", &[]).json();
        let text = |member: &str| metadata[member].as_str().expect("a URL").to_owned();
        let (issuer, bridge_audience) = (text("issuer"), text("bridge_audience"));
        let scene = Self {
            core,
            wire,
            issuer,
            bridge_audience,
            lamp: TestDevice::new("lamp"),
            door: TestDevice::with_algorithm("door", Algorithm::EdDsa),
            press: TestDevice::with_algorithm("press", Algorithm::Rs256),
            old: TestDevice::new("old"),
            gateway: TestDevice::new("gw"),
            mallory: TestDevice::new("mallory"),
        };
        for device in [&scene.lamp, &scene.door, &scene.press, &scene.gateway] {
            scene.register(device, &[]);
        }
        scene.register(&scene.old, &["--legacy-assertions"]);
        scene.core.admin("PATCH", "/v1/devices/gw", Some(&json!({ "gateway": true })));
        scene.core.cli_ok(&["gateway", "link", "gw", "lamp"]);
        scene.core.application("backend", "[[allow]]\nsubscribe = [\"devices/#\"]\n");
        let policy = scene.core.place().join("old.toml");
        let text =
            "[[allow]]\npublish = [\"devices/${device}/#\"]\n[token]\nalias_scopes = [\"tenant.demo\"]\n";
        std::fs::write(&policy, text).expect("write");
        scene.core.cli_ok(&["policy", "set", "old", "old.toml"]);
        scene.core.admin("PATCH", "/v1/devices/old", Some(&json!({ "policy": "old" })));
        scene
    }

    fn register(&self, device: &TestDevice, more: &[&str]) {
        let file = self.core.place().join(format!("{}.pem", device.name.as_str()));
        std::fs::write(&file, device.public_key().to_pem()).expect("write");
        let file = file.to_string_lossy();
        self.core.cli_ok(&[&["device", "add", device.name.as_str(), "--key", &file], more].concat());
    }

    /// What the registry knows of the devices, but for when they were last seen.
    fn records(&self) -> Vec<Value> {
        let known = [&self.lamp, &self.door, &self.press, &self.old, &self.gateway];
        let mut records: Vec<Value> = known
            .iter()
            .map(|device| self.core.admin("GET", &format!("/v1/devices/{}", device.name.as_str()), None))
            .collect();
        for record in &mut records {
            for key in record["keys"].as_array_mut().into_iter().flatten() {
                key.as_object_mut().expect("a key").remove("last_used");
            }
        }
        records
    }

    /// Presents something as a client assertion.
    fn login(&self, assertion: &str) -> Answer {
        let grant = ("grant_type", "client_credentials");
        let form = [grant, ("client_assertion_type", FORM), ("client_assertion", assertion)];
        self.wire.form("/oauth/token", &[], &form)
    }

    /// A token of a device, for `resource`.
    fn token(&self, device: &TestDevice, more: &[(&str, &str)]) -> String {
        let assertion = device.assertion(&self.issuer, now_s()).sign();
        let form = [
            &[("grant_type", "client_credentials"), ("client_assertion_type", FORM)][..],
            &[("client_assertion", &*assertion)],
            more,
        ]
        .concat();
        let answer = self.wire.form("/oauth/token", &[], &form);
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.text_of("access_token")
    }

    fn connect(&self, name: &str, password: &[u8]) -> Result<MqttClient, drawbridge_device::DeviceError> {
        MqttClient::connect(&MqttOptions {
            server: self.core.endpoints.mqtts.clone(),
            ca_pem: std::fs::read_to_string(self.core.data().join("ca.pem")).expect("the root"),
            version: ProtocolVersion::V5,
            client_id: name.to_owned(),
            username: None,
            password: password.to_vec(),
            keep_alive_s: 60,
        })
    }

    /// As a client assertion it is 401 `invalid_client` with one of these codes, and nothing is issued.
    fn refused(&self, what: &str, assertion: &str, codes: &[&str]) {
        let answer = self.login(assertion);
        let found = (answer.status, answer.text_of("error"), answer.text_of("code"));
        let fits = found.0 == 401 && found.1 == "invalid_client" && codes.contains(&&*found.2);
        assert!(fits, "{what}: {found:?}; wanted {codes:?}\n{}", answer.text);
        assert!(answer.json().get("access_token").is_none(), "{what}: {}", answer.text);
    }

    /// The same, and as the password of a CONNECT it opens nothing. `make` gets the claims of an honest JWT of `lamp`.
    fn forged(&self, what: &str, codes: &[&str], make: impl Fn(&Value) -> String) {
        self.refused(what, &make(&self.assertion_claims()), codes);
        let password = make(&self.connect_claims());
        assert!(self.connect("lamp", password.as_bytes()).is_err(), "{what}: MQTT let it in");
    }

    fn assertion_claims(&self) -> Value {
        let now_s = now_s();
        let jti = drawbridge_device::random_id();
        json!({ "iss": "lamp", "sub": "lamp", "aud": self.issuer, "iat": now_s, "exp": now_s + 120, "jti": jti })
    }

    fn connect_claims(&self) -> Value {
        let now_s = now_s();
        json!({ "sub": "lamp", "aud": self.bridge_audience, "iat": now_s, "exp": now_s + 120 })
    }

    /// An assertion of `lamp`, well signed, with these claims as they are written.
    fn claims_refused(&self, what: &str, claims: &str, codes: &[&str]) {
        self.refused(what, &raw(HEADER.as_bytes(), claims.as_bytes(), &self.lamp), codes);
    }

    /// The text of the claims, one of them replaced by raw JSON.
    fn claims_with(&self, name: &str, json_text: &str) -> String {
        let mut claims = self.assertion_claims();
        claims[name] = json!("@@");
        claims.to_string().replace("\"@@\"", json_text)
    }
}

const HEADER: &str = r#"{"alg":"ES256","typ":"JWT"}"#;

/// A compact JWS of these bytes, signed by a device.
fn raw(header: &[u8], claims: &[u8], device: &TestDevice) -> String {
    signed_by(header, claims, |input| device.key.sign(input).expect("signs"))
}

fn signed_by(header: &[u8], claims: &[u8], sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let input = format!("{}.{}", base64url_encode(header), base64url_encode(claims));
    let signature = base64url_encode(&sign(input.as_bytes()));
    format!("{input}.{signature}")
}

/// With these members in the header beside `alg`.
fn with_header(device: &TestDevice, members: &str, claims: &Value) -> String {
    raw(format!(r#"{{"alg":"ES256",{members}}}"#).as_bytes(), claims.to_string().as_bytes(), device)
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex")).collect()
}

fn alg_none(scene: &Scene) {
    for alg in
        ["none", "None", "NONE", "nOnE", "", "es256", "Es256", "ES256 ", "ES256\\u0000", "ES256K", "ES512"]
    {
        let header = format!(r#"{{"alg":"{alg}","typ":"JWT"}}"#);
        for signed in [false, true] {
            let what = format!("alg {alg:?}, signed: {signed}");
            scene.forged(&what, &["DB-1003", "DB-1004"], |claims| {
                let token = raw(header.as_bytes(), claims.to_string().as_bytes(), &scene.lamp);
                let end = if signed { token.len() } else { token.rfind('.').expect("a dot") + 1 };
                token[..end].to_owned()
            });
        }
    }
    for header in
        [r#"{"typ":"JWT"}"#, r#"{"alg":null}"#, r#"{"alg":["ES256"]}"#, r#"{"alg":7}"#, "[]", "null", ""]
    {
        scene.forged(header, &["DB-1003", "DB-1004"], |claims| {
            raw(header.as_bytes(), claims.to_string().as_bytes(), &scene.lamp)
        });
    }
}

fn hmac_confusion(scene: &Scene) {
    for device in [&scene.lamp, &scene.press] {
        let (key, name) = (device.public_key(), device.name.as_str());
        let pem = key.to_pem();
        let secrets = [
            pem.clone().into_bytes(),
            pem.trim_end().as_bytes().to_vec(),
            key.spki_der().to_vec(),
            key.to_jwk_json().into_bytes(),
            key.thumbprint().as_bytes().to_vec(),
        ];
        for secret in &secrets {
            for (alg, kind) in
                [("HS256", hmac::HMAC_SHA256), ("HS384", hmac::HMAC_SHA384), ("HS512", hmac::HMAC_SHA512)]
            {
                let header = format!(r#"{{"alg":"{alg}","typ":"JWT","kid":"{}"}}"#, key.thumbprint());
                let key = hmac::Key::new(kind, secret);
                let mut claims = scene.assertion_claims();
                (claims["iss"], claims["sub"]) = (json!(name), json!(name));
                let token = signed_by(header.as_bytes(), claims.to_string().as_bytes(), |input| {
                    hmac::sign(&key, input).as_ref().to_vec()
                });
                scene.refused(&format!("{name} {alg}"), &token, &["DB-1004"]);
            }
        }
    }
    // Nor does the header choose among real algorithms: the key has one.
    for alg in ["RS256", "PS256", "ES384", "EdDSA"] {
        let header = format!(r#"{{"alg":"{alg}","typ":"JWT"}}"#);
        scene.forged(alg, &["DB-1003", "DB-1007"], |claims| {
            raw(header.as_bytes(), claims.to_string().as_bytes(), &scene.lamp)
        });
    }
}

fn kid_injection(scene: &Scene) {
    let texts = [
        r#""' OR '1'='1""#,
        r#""x' UNION SELECT 'AAAA'; --""#,
        r#""../../../../../../dev/null""#,
        r#""/etc/passwd""#,
        r#""lamp\u0000""#,
        r#""$(id)""#,
        r#""http://127.0.0.1/key""#,
        r#""""#,
        r#"["lamp"]"#,
        r#"{"lamp":1}"#,
        "7",
        "null",
        "true",
    ];
    let codes = ["DB-1003", "DB-1005", "DB-1007"];
    for kid in texts {
        // By a key that nobody knows, and by the empty secret that a `kid` of /dev/null stands for elsewhere.
        scene.forged(kid, &codes, |claims| with_header(&scene.mallory, &format!("\"kid\":{kid}"), claims));
        let header = format!(r#"{{"alg":"HS256","kid":{kid}}}"#);
        let empty = hmac::Key::new(hmac::HMAC_SHA256, b"");
        scene.forged(kid, &["DB-1003", "DB-1004", "DB-1005"], |claims| {
            signed_by(header.as_bytes(), claims.to_string().as_bytes(), |i| {
                hmac::sign(&empty, i).as_ref().to_vec()
            })
        });
    }
    // The body of a request is not read that far.
    let long = format!("\"kid\":\"{}\"", "A".repeat(65_536));
    let answer = scene.login(&with_header(&scene.lamp, &long, &scene.assertion_claims()));
    assert_eq!((answer.status, &*answer.text_of("code")), (413, "DB-4203"), "{}", answer.text);
    let long = format!("\"kid\":\"{}\"", "A".repeat(2_048));
    scene.refused("2 KiB", &with_header(&scene.mallory, &long, &scene.assertion_claims()), &codes);
}

fn addresses_of_keys(scene: &Scene) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.set_nonblocking(true).expect("a socket");
    let port = listener.local_addr().expect("an address").port();
    let key: Value = serde_json::from_str(&scene.mallory.public_key().to_jwk_json()).expect("a JWK");
    let addresses: Vec<String> =
        ["127.0.0.1", "localhost", "localhost.", "127.1", "2130706433", "[::ffff:127.0.0.1]"]
            .iter()
            .flat_map(|host| ["http", "https"].map(|scheme| format!("{scheme}://{host}:{port}/jwks.json")))
            .collect();
    for url in &addresses {
        for member in ["jku", "x5u", "jwks_uri"] {
            // `jwks_uri` means nothing in a header; a key that nobody knows it is all the same.
            scene.forged(&format!("{member} {url}"), &["DB-1005", "DB-1007"], |claims| {
                with_header(&scene.mallory, &format!("\"{member}\":\"{url}\""), claims)
            });
        }
    }
    // Nor is a registered key good beside one of them, or beside a certificate.
    for members in ["\"jku\":\"https://localhost/\"", "\"x5u\":\"https://localhost/\"", "\"x5c\":[\"AAAA\"]"]
    {
        scene.forged(members, &["DB-1005"], |claims| with_header(&scene.lamp, members, claims));
    }
    scene.core.cli_ok(&["enrol", "create", "--pattern", "ssrf-*", "--out", "ssrf.token"]);
    let token = std::fs::read_to_string(scene.core.place().join("ssrf.token")).expect("a token");
    let bearer = format!("Bearer {}", token.trim());
    for url in &addresses {
        for body in [
            json!({ "client_id_hint": "ssrf-1", "jwks_uri": url }),
            json!({ "client_id_hint": "ssrf-1", "jwks_uri": url, "jwks": { "keys": [key] } }),
        ] {
            let answer = scene.wire.post("/oauth/register", &[("authorization", &bearer)], &body);
            assert_eq!(
                (answer.status, &*answer.text_of("error")),
                (400, "invalid_client_metadata"),
                "{body}"
            );
        }
    }
    assert_eq!(
        scene.core.cli(&["device", "show", "ssrf-1"]).status.code(),
        Some(4),
        "nothing was registered"
    );
    std::thread::sleep(Duration::from_millis(300));
    assert!(listener.accept().is_err(), "the server followed an address");
}

fn embedded_jwk(scene: &Scene) {
    let own = scene.mallory.public_key();
    for members in [
        format!("\"jwk\":{}", own.to_jwk_json()),
        format!("\"jwk\":{},\"kid\":\"{}\"", own.to_jwk_json(), scene.lamp.public_key().thumbprint()),
        format!("\"typ\":\"dpop+jwt\",\"jwk\":{}", own.to_jwk_json()),
    ] {
        let codes = ["DB-1005", "DB-1006"];
        scene.forged(&members, &codes, |claims| with_header(&scene.mallory, &members, claims));
    }
    let members = format!("\"jwk\":{}", scene.lamp.public_key().to_jwk_json());
    scene.forged("the registered key itself", &["DB-1005"], |c| with_header(&scene.lamp, &members, c));
    let members = format!("\"kid\":\"{}\"", own.thumbprint());
    scene.forged("its thumbprint", &["DB-1007"], |claims| with_header(&scene.mallory, &members, claims));
}

fn critical_members(scene: &Scene) {
    for members in [
        r#""crit":[]"#,
        r#""crit":["exp"],"exp":4000000000"#,
        r#""crit":["exp"]"#,
        r#""crit":["alg"]"#,
        r#""crit":["b64"],"b64":true"#,
        r#""crit":["b64"],"b64":false"#,
        r#""crit":["b64","b64"],"b64":true"#,
        r#""crit":["b64"],"crit":["exp"],"b64":true"#,
        r#""crit":"b64""#,
        r#""crit":null"#,
        r#""crit":{}"#,
        r#""crit":["http://example.com/UNDEFINED"],"http://example.com/UNDEFINED":true"#,
        r#""b64":false"#,
        r#""b64":true"#,
    ] {
        scene.forged(members, &["DB-1003", "DB-1005"], |claims| with_header(&scene.lamp, members, claims));
    }
    // RFC 7797: the payload as it is.
    scene.forged("an unencoded payload", &["DB-1003", "DB-1005"], |claims| {
        let header = base64url_encode(br#"{"alg":"ES256","b64":false,"crit":["b64"]}"#);
        let input = format!("{header}.{claims}");
        let signature = base64url_encode(&scene.lamp.key.sign(input.as_bytes()).expect("signs"));
        format!("{input}.{signature}")
    });
}

fn duplicate_members(scene: &Scene) {
    for header in [
        r#"{"alg":"none","alg":"ES256"}"#,
        r#"{"alg":"ES256","alg":"ES256"}"#,
        r#"{"alg":"ES256","\u0061lg":"ES256"}"#,
        r#"{"alg":"ES256","typ":"JWT","typ":"at+jwt"}"#,
        r#"{"alg":"ES256","kid":"a","kid":"b"}"#,
    ] {
        scene.forged(header, &["DB-1003"], |claims| {
            raw(header.as_bytes(), claims.to_string().as_bytes(), &scene.lamp)
        });
    }
    for member in [
        r#""sub":"door""#,
        r#""sub":"lamp""#,
        r#""s\u0075b":"door""#,
        r#""aud":"x""#,
        r#""exp":4000000000"#,
        r#""jti":"0123456789abcdef""#,
    ] {
        scene.forged(member, &["DB-1003"], |claims| {
            // The claims of CONNECT have no `jti` that could stand there twice.
            let claims = claims.to_string();
            let twice = format!("{},{member},{member}}}", &claims[..claims.len() - 1]);
            raw(HEADER.as_bytes(), twice.as_bytes(), &scene.lamp)
        });
    }
    let nested = r#"{"iss":"lamp","x":{"a":1,"a":2}}"#;
    scene.claims_refused("inside a member", nested, &["DB-1003"]);
}

fn polyglots(scene: &Scene) {
    scene.forged("flattened", &["DB-1003"], |claims| {
        let token = raw(HEADER.as_bytes(), claims.to_string().as_bytes(), &scene.lamp);
        let parts: Vec<&str> = token.split('.').collect();
        json!({ "protected": parts[0], "payload": parts[1], "signature": parts[2] }).to_string()
    });
    scene.forged("general", &["DB-1003"], |claims| {
        let token = raw(HEADER.as_bytes(), claims.to_string().as_bytes(), &scene.lamp);
        let parts: Vec<&str> = token.split('.').collect();
        let signatures = json!([{ "protected": parts[0], "signature": parts[2] }]);
        json!({ "payload": parts[1], "signatures": signatures }).to_string()
    });
    // Read by its dots it says one thing, read as JSON another.
    scene.forged("both at once", &["DB-1003"], |claims| {
        let good = raw(HEADER.as_bytes(), claims.to_string().as_bytes(), &scene.mallory);
        let parts: Vec<&str> = good.split('.').collect();
        let forged = base64url_encode(claims.to_string().as_bytes());
        format!(
            r#"{{"  {}.{forged}.":"","protected":"{}", "payload":"{}","signature":"{}"}}"#,
            parts[0], parts[0], parts[1], parts[2]
        )
    });
}

/// A compact JWE with this header; what it encrypts is of no matter.
fn jwe(header: &str, ciphertext: &[u8]) -> String {
    let parts = [header.as_bytes(), &[7; 40], &[7; 12], ciphertext, &[7; 16]];
    parts.map(base64url_encode).join(".")
}

fn encrypted(scene: &Scene) {
    for alg in ["dir", "RSA-OAEP", "RSA1_5", "ECDH-ES", "ECDH-ES+A128KW", "A128KW", "ES256"] {
        let header = format!(r#"{{"alg":"{alg}","enc":"A128GCM","typ":"JWT","cty":"JWT"}}"#);
        scene.forged(alg, &["DB-1003"], |claims| jwe(&header, claims.to_string().as_bytes()));
        let header = header.as_bytes();
        let codes = ["DB-1003", "DB-1004", "DB-1005"];
        scene.forged(alg, &codes, |claims| raw(header, claims.to_string().as_bytes(), &scene.lamp));
    }
}

fn iterations(scene: &Scene) {
    for alg in ["PBES2-HS256+A128KW", "PBES2-HS384+A192KW", "PBES2-HS512+A256KW"] {
        let header =
            format!(r#"{{"alg":"{alg}","enc":"A128GCM","p2c":2147483647,"p2s":"AAAAAAAAAAAAAAAAAAAAAA"}}"#);
        scene.forged(alg, &["DB-1003"], |claims| jwe(&header, claims.to_string().as_bytes()));
        scene.forged(alg, &["DB-1004", "DB-1005"], |c| {
            raw(header.as_bytes(), c.to_string().as_bytes(), &scene.lamp)
        });
    }
}

fn compressed(scene: &Scene) {
    // DEFLATE of 2 KiB that would become half a megabyte of zeros: one block with the fixed code, 258 bytes at a time.
    let mut bomb = vec![0x63];
    bomb.extend([0x18; 2_000]);
    let header = r#"{"alg":"dir","enc":"A128GCM","zip":"DEF"}"#;
    scene.forged("a JWE", &["DB-1003"], |_| jwe(header, &bomb));
    // A JWS has no `zip`: its bytes are taken as they are, and are no JSON.
    scene.forged("a JWS", &["DB-1003", "DB-1005"], |claims| {
        let text = claims.to_string();
        let length = u16::try_from(text.len()).expect("short");
        let stored =
            [&[1], &length.to_le_bytes()[..], &(!length).to_le_bytes()[..], text.as_bytes()].concat();
        raw(br#"{"alg":"ES256","zip":"DEF"}"#, &stored, &scene.lamp)
    });
    let answer = scene.wire.send(
        "POST",
        "/oauth/token",
        &[("content-type", "application/x-www-form-urlencoded"), ("content-encoding", "deflate")],
        &bomb,
    );
    assert!((400..500).contains(&answer.status), "{}", answer.text);
}

fn off_the_curve(scene: &Scene) {
    // x of a point of P-256 with another y, the point 0, and a curve that is not ours.
    let jwk: Value = serde_json::from_str(&scene.mallory.public_key().to_jwk_json()).expect("a JWK");
    let (zero, one) = (base64url_encode(&[0; 32]), base64url_encode(&[[0; 31].as_slice(), &[1]].concat()));
    let wrong = [
        json!({ "kty": "EC", "crv": "P-256", "x": jwk["x"], "y": jwk["x"] }),
        json!({ "kty": "EC", "crv": "P-256", "x": zero, "y": zero }),
        json!({ "kty": "EC", "crv": "P-256", "x": one, "y": one }),
        json!({ "kty": "EC", "crv": "secp256k1", "x": jwk["x"], "y": jwk["y"] }),
        json!({ "kty": "EC", "crv": "P-256", "x": "AQ", "y": "AQ" }),
    ];
    for epk in &wrong {
        let header = json!({ "alg": "ECDH-ES", "enc": "A128GCM", "epk": epk }).to_string();
        scene.forged("as `epk`", &["DB-1003"], |claims| jwe(&header, claims.to_string().as_bytes()));
        // Where keys are taken from a peer: a registration, a key update, a DPoP proof.
        let token = std::fs::read_to_string(scene.core.data().join("admin-token")).expect("the credential");
        let admin = format!("Bearer {}", token.trim());
        let body = json!({ "keys": [{ "jwk": epk }] }).to_string();
        let headers = [("authorization", &*admin), ("content-type", "application/json")];
        let answer = scene.wire.send("PUT", "/v1/devices/curve", &headers, body.as_bytes());
        assert_eq!((answer.status, &*answer.text_of("code")), (400, "DB-1022"), "{epk}: {}", answer.text);
        let update = scene.lamp.update(&scene.issuer, now_s(), scene.mallory.public_key());
        let update = update.with("cnf", json!({ "jwk": epk })).sign();
        let pop = scene.mallory.pop(&scene.issuer, &update).sign();
        let body = json!({ "update": update, "pop": pop, "retire": "old" });
        let answer = scene.wire.post("/v1/self/keys", &[], &body);
        assert_eq!((answer.status, &*answer.text_of("code")), (400, "DB-1022"), "{epk}: {}", answer.text);
        let header = json!({ "alg": "ES256", "typ": "dpop+jwt", "jwk": epk }).to_string();
        let url = format!("{}/oauth/token", scene.issuer);
        let proof = scene.mallory.dpop("POST", &url, now_s()).sign_raw(&header);
        let assertion = scene.lamp.assertion(&scene.issuer, now_s()).sign();
        let form = [
            ("grant_type", "client_credentials"),
            ("client_assertion_type", FORM),
            ("client_assertion", &*assertion),
        ];
        let answer = scene.wire.form("/oauth/token", &[("dpop", &proof)], &form);
        assert_eq!(
            (answer.status, &*answer.text_of("error")),
            (400, "invalid_dpop_proof"),
            "{}",
            answer.text
        );
    }
    assert_eq!(scene.core.cli(&["device", "show", "curve"]).status.code(), Some(4), "nothing was registered");
}

/// The honest claims of `lamp` under a signature of the attacker's choice.
fn with_signature(scene: &Scene, what: &str, signature: &[u8]) {
    scene.forged(what, &["DB-1003", "DB-1007"], |claims| {
        signed_by(HEADER.as_bytes(), claims.to_string().as_bytes(), |_| signature.to_vec())
    });
}

fn psychic_signature(scene: &Scene) {
    with_signature(scene, "r = s = 0", &[0; 64]);
    with_signature(scene, "the same as DER", &hex("3006020100020100"));
    with_signature(scene, "none", &[]);
    let mut ones = [0; 64];
    (ones[31], ones[63]) = (1, 1);
    with_signature(scene, "r = s = 1", &ones);
    with_signature(scene, "r = 0", &[[0; 32], [1; 32]].concat());
    with_signature(scene, "s = 0", &[[1; 32], [0; 32]].concat());
    let zero = |claims: &Value| {
        let header = br#"{"alg":"EdDSA","typ":"JWT"}"#;
        let mut claims = claims.clone();
        (claims["iss"], claims["sub"]) = (json!("door"), json!("door"));
        signed_by(header, claims.to_string().as_bytes(), |_| vec![0; 64])
    };
    scene.refused("Ed25519, zeros", &zero(&scene.assertion_claims()), &["DB-1003", "DB-1007"]);
}

fn out_of_range_signature(scene: &Scene) {
    let order = hex(P256_ORDER);
    with_signature(scene, "r = s = n", &[&order[..], &order].concat());
    with_signature(scene, "r = n", &[&order[..], &[1; 32]].concat());
    with_signature(scene, "s = n", &[&[1; 32], &order[..]].concat());
    with_signature(scene, "all ones", &[0xff; 64]);
    // A good signature in another coat: DER, a zero in front of each half, a byte at the end.
    let coats: [(&str, Coat); 4] = [
        ("33 bytes each", |raw| [&[0], &raw[..32], &[0], &raw[32..]].concat()),
        ("65 bytes", |raw| [raw, &[0]].concat()),
        ("63 bytes", |raw| raw[..63].to_vec()),
        ("twice", |raw| [raw, raw].concat()),
    ];
    for (what, coat) in coats {
        scene.forged(what, &["DB-1003", "DB-1007"], |claims| {
            signed_by(HEADER.as_bytes(), claims.to_string().as_bytes(), |input| {
                coat(&scene.lamp.key.sign(input).expect("signs"))
            })
        });
    }
}

fn thousand_dots(scene: &Scene) {
    let codes = ["DB-1003"];
    scene.forged("dots alone", &codes, |_| ".".repeat(1_000));
    scene.forged("dots behind", &codes, |claims| {
        raw(HEADER.as_bytes(), claims.to_string().as_bytes(), &scene.lamp) + &".".repeat(1_000)
    });
    scene.forged("dots before", &codes, |claims| {
        ".".repeat(1_000) + &raw(HEADER.as_bytes(), claims.to_string().as_bytes(), &scene.lamp)
    });
    for token in ["", ".", "..", "a.b", "a.b.c", "a.b.c.d", "a.b.c.d.e"] {
        let answer = scene.login(token);
        let wanted: &[u16] = if token.is_empty() { &[400, 401] } else { &[401] };
        assert!(wanted.contains(&answer.status), "{token:?}: {}", answer.text);
    }
    let many = ".".repeat(60_000);
    let answer = scene.login(&many);
    assert!([401, 413].contains(&answer.status), "{}", answer.text);
    let answer = scene.wire.get("/v1/self", &[("authorization", &format!("Bearer {}", &many[..3_000]))]);
    assert_eq!(answer.status, 401, "{}", answer.text);
}

fn mistyped_claims(scene: &Scene) {
    let soon = now_s() + 100;
    let text = format!("\"{soon}\"");
    let list = format!("[{soon}]");
    let codes = ["DB-1003", "DB-1007", "DB-1008", "DB-1009", "DB-1010", "DB-1011", "DB-1012"];
    for (name, values) in [
        ("exp", &[&*text, "true", "null", &*list, "{}", "\"\""][..]),
        ("nbf", &["\"0\"", "true", "null", "[0]", "{}"]),
        ("iat", &["\"0\"", "true", "null", "[0]", "{}"]),
        ("sub", &["7", "null", "[\"lamp\"]", "{\"lamp\":1}", "true"]),
        ("iss", &["7", "null", "[\"lamp\"]", "{}", "false"]),
        ("aud", &["7", "null", "{}", "[]", "[7]", "[null]", "[[\"x\"]]", "true"]),
        ("jti", &["1234567890123456", "null", "[\"0123456789abcdef\"]", "{}", "\"\"", "\"short\""]),
    ] {
        for value in values {
            scene.claims_refused(&format!("{name}: {value}"), &scene.claims_with(name, value), &codes);
        }
    }
    for claims in ["[]", "null", "7", "\"lamp\"", "{", "", "{}", "{\"sub\":\"lamp\"} {}"] {
        scene.claims_refused(claims, claims, &codes);
    }
}

fn deep_json(scene: &Scene) {
    for depth in [3, 100, 1_000] {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let inner = if open == "[" { "" } else { "1" };
            let deep = format!("{}{inner}{}", open.repeat(depth), close.repeat(depth));
            let token = with_header(&scene.lamp, &format!("\"x\":{deep}"), &scene.assertion_claims());
            let answer = scene.login(&token);
            // The longest are refused for their length.
            let fits = [400, 401].contains(&answer.status) && answer.json().get("access_token").is_none();
            assert!(fits, "header, {depth}: {}", answer.text);
            if depth > 3 {
                let token = raw(HEADER.as_bytes(), scene.claims_with("x", &deep).as_bytes(), &scene.lamp);
                let answer = scene.login(&token);
                let fits = [400, 401].contains(&answer.status) && answer.json().get("access_token").is_none();
                assert!(fits, "claims, {depth}: {}", answer.text);
            }
            // The same where JSON is the body.
            let answer = scene.wire.send(
                "POST",
                "/v1/self/keys",
                &[("content-type", "application/json")],
                deep.as_bytes(),
            );
            assert_eq!(answer.status, 400, "{}", answer.text);
        }
    }
}

fn huge_numbers(scene: &Scene) {
    for name in ["exp", "nbf", "iat"] {
        for number in [
            "1e400",
            "-1e400",
            "1e308",
            "NaN",
            "Infinity",
            "-Infinity",
            "\"NaN\"",
            "18446744073709551616",
            "99999999999999999999",
            "0x7fffffff",
            "1_000",
            "+1",
        ] {
            let codes = ["DB-1003", "DB-1011"];
            scene.claims_refused(&format!("{name}: {number}"), &scene.claims_with(name, number), &codes);
        }
    }
    for number in ["-1", "0", "-0", "1e-400", "9223372036854775807", "4102444800"] {
        scene.claims_refused(number, &scene.claims_with("exp", number), &["DB-1003", "DB-1011"]);
    }
}

fn other_encodings(scene: &Scene) {
    let utf16 = |text: &str, big: bool| -> Vec<u8> {
        let mark = std::iter::once(0xfeff).chain(text.encode_utf16());
        mark.flat_map(|unit: u16| if big { unit.to_be_bytes() } else { unit.to_le_bytes() }).collect()
    };
    let bom = |text: &str| [b"\xef\xbb\xbf", text.as_bytes()].concat();
    scene.forged("BOM in the header", &["DB-1003"], |c| {
        raw(&bom(HEADER), c.to_string().as_bytes(), &scene.lamp)
    });
    scene.forged("BOM in the claims", &["DB-1003"], |c| {
        raw(HEADER.as_bytes(), &bom(&c.to_string()), &scene.lamp)
    });
    for big in [false, true] {
        scene.forged("UTF-16 header", &["DB-1003"], |c| {
            raw(&utf16(HEADER, big), c.to_string().as_bytes(), &scene.lamp)
        });
        scene.forged("UTF-16 claims", &["DB-1003"], |c| {
            raw(HEADER.as_bytes(), &utf16(&c.to_string(), big), &scene.lamp)
        });
    }
    scene.forged("Latin-1", &["DB-1003"], |claims| {
        raw(HEADER.as_bytes(), &[claims.to_string().as_bytes(), b"\xe9"].concat(), &scene.lamp)
    });
    let token = raw(HEADER.as_bytes(), scene.assertion_claims().to_string().as_bytes(), &scene.lamp);
    let form = ("content-type", "application/x-www-form-urlencoded");
    let text = format!("grant_type=client_credentials&client_assertion_type={FORM}&client_assertion={token}");
    for body in [utf16(&text, false), bom(&text)] {
        let answer = scene.wire.send("POST", "/oauth/token", &[form], &body);
        assert_eq!((answer.status, &*answer.text_of("error")), (400, "invalid_request"), "{}", answer.text);
    }
    // It was not used up by them, so it is a good one.
    assert_eq!(scene.login(&token).status, 200);
}

fn broken_text(scene: &Scene) {
    let codes = ["DB-1003", "DB-1007", "DB-1009"];
    for text in [
        r#""lamp\ud800""#,
        r#""\udfff""#,
        r#""lamp\u0000""#,
        r#""lamp\u0000door""#,
        r#""LAMP""#,
        r#"" lamp""#,
        r#""l\u0430mp""#,
        r#""lamp\u200b""#,
        r#""lamp/../door""#,
    ] {
        for name in ["sub", "iss"] {
            scene.claims_refused(&format!("{name}: {text}"), &scene.claims_with(name, text), &codes);
        }
        let claims = scene.claims_with("sub", text).replacen("\"lamp\"", text, 2);
        scene.claims_refused(&format!("both: {text}"), &claims, &codes);
        let connect = scene.connect_claims().to_string().replace("\"lamp\"", text);
        let token = raw(HEADER.as_bytes(), connect.as_bytes(), &scene.lamp);
        assert!(scene.connect("lamp", token.as_bytes()).is_err(), "{text}");
    }
}

fn malleable_text(scene: &Scene) {
    let codes = ["DB-1003"];
    let edits: [(&str, Edit); 8] = [
        ("padding", |token| format!("{token}==")),
        ("a line end", |token| format!("{token}\n")),
        ("a space before", |token| format!(" {token}")),
        ("a space inside", |token| token.replacen('.', ". ", 1)),
        ("a plus", |token| format!("{}+", &token[..token.len() - 1])),
        ("a percent", |token| format!("{token}%3D")),
        ("Bearer", |token| format!("Bearer {token}")),
        ("other last bits", |token| {
            let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
            let at = alphabet.find(&token[token.len() - 1..]).expect("base64url");
            format!("{}{}", &token[..token.len() - 1], &alphabet[at + 1..at + 2])
        }),
    ];
    for (what, edit) in edits {
        let good = raw(HEADER.as_bytes(), scene.assertion_claims().to_string().as_bytes(), &scene.lamp);
        scene.refused(what, &edit(&good), &codes);
        assert_eq!(
            scene.login(&good).status,
            200,
            "{what}: as it was signed it is good, and was not used up"
        );
        // The other way round: used as it is, it is not new under another text.
        scene.refused(what, &edit(&good), &codes);
    }
    let good = raw(HEADER.as_bytes(), scene.assertion_claims().to_string().as_bytes(), &scene.lamp);
    for text in [format!("{good}\0"), format!("\0{good}"), format!("{good}\r\nx")] {
        let answer = scene.login(&text);
        assert!([400, 401].contains(&answer.status), "{}", answer.text);
    }
    // Who has (r, s) has (r, n - s), and both are good signatures: the `jti` is what tells them apart.
    let claims = scene.assertion_claims().to_string();
    let good = raw(HEADER.as_bytes(), claims.as_bytes(), &scene.lamp);
    assert_eq!(scene.login(&good).status, 200);
    let (input, signature) = good.rsplit_once('.').expect("a signature");
    let mut signature = drawbridge_jose::base64url_decode(signature).expect("base64url");
    let mut borrow = 0;
    for (byte, order) in signature[32..].iter_mut().zip(hex(P256_ORDER)).rev() {
        let difference = i16::from(order) - i16::from(*byte) - borrow;
        borrow = i16::from(difference < 0);
        *byte = u8::try_from(difference + 256 * borrow).expect("a byte");
    }
    let twin = format!("{input}.{}", base64url_encode(&signature));
    assert_ne!(twin, good);
    scene.refused("the twin signature", &twin, &["DB-1013"]);
}

fn near_audiences(scene: &Scene) {
    let issuer = &scene.issuer;
    let token_url = format!("{issuer}/oauth/token");
    let near = [
        json!(token_url),
        json!(format!("{issuer}/")),
        json!([issuer, token_url]),
        json!([issuer, issuer]),
        json!([token_url, issuer]),
        json!(issuer.replace("https", "HTTPS")),
        json!(issuer.replace("https", "http")),
        json!(issuer.replace("localhost", "LOCALHOST")),
        json!(format!("{issuer}#x")),
        json!(format!("{issuer}?x")),
        json!(scene.bridge_audience),
        json!(format!("{issuer}/v1")),
        json!(""),
        json!("lamp"),
    ];
    for aud in near {
        let mut claims = scene.assertion_claims();
        claims["aud"] = aud;
        scene.claims_refused(&claims["aud"].to_string(), &claims.to_string(), &["DB-1010"]);
    }
    let mut claims = scene.assertion_claims();
    claims.as_object_mut().expect("an object").remove("aud");
    scene.claims_refused("without", &claims.to_string(), &["DB-1010"]);
    claims["aud"] = json!([issuer]);
    let one = raw(HEADER.as_bytes(), claims.to_string().as_bytes(), &scene.lamp);
    assert_eq!(scene.login(&one).status, 200, "an array of the issuer alone is taken");
}

fn host_header(scene: &Scene) {
    let mut claims = scene.assertion_claims();
    claims["aud"] = json!("https://evil.example");
    let hosts = [
        ("host", "evil.example"),
        ("x-forwarded-host", "evil.example"),
        ("forwarded", "host=evil.example;proto=https"),
    ];
    for header in hosts {
        let assertion = raw(HEADER.as_bytes(), claims.to_string().as_bytes(), &scene.lamp);
        let form = [
            ("grant_type", "client_credentials"),
            ("client_assertion_type", FORM),
            ("client_assertion", &*assertion),
        ];
        let answer = scene.wire.form("/oauth/token", &[header], &form);
        assert_eq!(
            (answer.status, &*answer.text_of("code")),
            (401, "DB-1010"),
            "{header:?}: {}",
            answer.text
        );
        for path in ["/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"] {
            let answer = scene.wire.get(path, &[header]);
            assert!(
                answer.text_of("issuer") == scene.issuer && !answer.text.contains("evil"),
                "{}",
                answer.text
            );
        }
    }
}

fn jti_race(scene: &Scene) {
    for _ in 0..8 {
        let assertion = scene.lamp.assertion(&scene.issuer, now_s()).sign();
        let answers: Vec<Answer> = std::thread::scope(|scope| {
            let tries: Vec<_> = (0..8).map(|_| scope.spawn(|| scene.login(&assertion))).collect();
            tries.into_iter().map(|one| one.join().expect("an answer")).collect()
        });
        let (won, lost): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 200);
        assert_eq!(won.len(), 1, "{answers:?}");
        assert!(lost.iter().all(|a| (a.status, &*a.text_of("code")) == (401, "DB-1013")), "{lost:?}");
    }
    // A second node on this folder does not start; two on one PostgreSQL race in that store's own tests.
    let second = std::process::Command::new(DRAWBRIDGE)
        .args([
            "--data",
            &scene.core.data().to_string_lossy(),
            "serve",
            "--mqtts-port",
            "0",
            "--https-port",
            "0",
        ])
        .stdin(std::process::Stdio::null())
        .output()
        .expect("it ends");
    assert!(!second.status.success(), "{second:?}");
}

fn jti_of_two_devices(scene: &Scene) {
    let jti = json!(drawbridge_device::random_id());
    for device in [&scene.lamp, &scene.door, &scene.press] {
        let assertion = device.assertion(&scene.issuer, now_s()).with("jti", jti.clone()).sign();
        assert_eq!(scene.login(&assertion).status, 200, "{}", device.name.as_str());
        let again = device.assertion(&scene.issuer, now_s()).with("jti", jti.clone()).sign();
        scene.refused("the same device", &again, &["DB-1013"]);
    }
}

fn replay_after_restart(_: &Scene) {
    let mut scene = Scene::set();
    let assertion = scene.lamp.assertion(&scene.issuer, now_s()).sign();
    let used_in_mqtt = scene.lamp.connect_jwt(&scene.bridge_audience, now_s()).without("iat");
    let used_in_mqtt = used_in_mqtt.with("jti", json!(drawbridge_device::random_id())).sign();
    assert_eq!(scene.login(&assertion).status, 200);
    scene.connect("lamp", used_in_mqtt.as_bytes()).expect("good once");
    for kill in [true, false] {
        if kill {
            scene.core.kill()
        } else {
            scene.core.stop()
        }
        scene.core.run_again();
        scene.wire = Wire::of(&scene.core);
        scene.refused("after a restart", &assertion, &["DB-1013"]);
        assert!(scene.connect("lamp", used_in_mqtt.as_bytes()).is_err(), "after a restart");
    }
}

fn replay_at_the_edge(scene: &Scene) {
    scene.core.cli_ok(&["registry", "add", "edge"]);
    scene.core.cli_ok(&["registry", "set", "edge", "--clock-skew-s", "1"]);
    let file = scene.core.place().join("lamp.pem");
    scene.core.cli_ok(&["--registry", "edge", "device", "add", "lamp", "--key", &file.to_string_lossy()]);
    let issuer = scene.wire.get("/r/edge/.well-known/openid-configuration", &[]).text_of("issuer");
    let exp_s = now_s() + 2;
    let assertion = scene.lamp.assertion(&issuer, now_s()).with("exp", json!(exp_s)).sign();
    let form = [
        ("grant_type", "client_credentials"),
        ("client_assertion_type", FORM),
        ("client_assertion", &*assertion),
    ];
    let send = || scene.wire.form("/r/edge/oauth/token", &[], &form);
    assert_eq!(send().status, 200);
    let mut codes = Vec::new();
    while now_s() < exp_s + 4 {
        let answer = send();
        assert_eq!(answer.status, 401, "at exp + {}: {}", now_s() - exp_s, answer.text);
        codes.push(answer.text_of("code"));
        std::thread::sleep(Duration::from_millis(20));
    }
    codes.dedup();
    assert_eq!(codes, ["DB-1013", "DB-1011"], "used, until it is too old");
}

fn keys(scene: &Scene, update: &str, pop: &str, status: u16, code: &str) {
    let body = json!({ "update": update, "pop": pop, "retire": "old" });
    let answer = scene.wire.post("/v1/self/keys", &[], &body);
    assert_eq!((answer.status, &*answer.text_of("code")), (status, code), "{}", answer.text);
}

fn legacy(scene: &Scene, path: &str, jwt: &str, form: &[(&str, &str)]) -> Answer {
    scene.wire.form(path, &[("authorization", jwt)], form)
}

fn update_as_login(scene: &Scene) {
    let update = || scene.lamp.update(&scene.issuer, now_s(), scene.mallory.public_key());
    scene.refused("as it is", &update().sign(), &["DB-1006"]);
    scene.refused("without its type", &update().typ(None).sign(), &["DB-1008"]);
    scene.refused("as an assertion", &update().typ(Some("client-authentication+jwt")).sign(), &["DB-1008"]);
    let for_mqtt = update().with("aud", json!(scene.bridge_audience));
    for typ in [Some("key-update+jwt"), Some("JWT"), None] {
        let token = for_mqtt.clone().typ(typ).sign();
        assert!(scene.connect("lamp", token.as_bytes()).is_err(), "{typ:?}");
    }
    let login = [("client_id", "backend")];
    let update = scene.old.legacy_update(scene.mallory.public_key()).sign();
    let answer = legacy(scene, "/as/token", &update, &login);
    assert!([401, 403].contains(&answer.status), "{}", answer.text);
    // And a login is no update.
    let assertion = scene.lamp.assertion(&scene.issuer, now_s()).sign();
    let pop = scene.mallory.pop(&scene.issuer, &assertion).sign();
    let body = json!({ "update": assertion, "pop": pop, "retire": "old" });
    let answer = scene.wire.post("/v1/self/keys", &[], &body);
    assert_eq!((answer.status, &*answer.text_of("code")), (401, "DB-1006"), "{}", answer.text);
    let login = scene.old.legacy_login().sign();
    let pop = scene.mallory.legacy_pop(&login);
    let answer = legacy(scene, "/device/update/pubkey", &login, &[("pop", &pop)]);
    assert!([401, 403].contains(&answer.status), "{}", answer.text);
}

fn pop_for_another(scene: &Scene) {
    let update = || scene.lamp.update(&scene.issuer, now_s(), scene.mallory.public_key()).sign();
    let (one, other) = (update(), update());
    keys(scene, &one, &scene.mallory.pop(&scene.issuer, &other).sign(), 400, "DB-1023");
    keys(scene, &one, &scene.mallory.pop("https://evil.example", &one).sign(), 400, "DB-1023");
    let one = scene.old.legacy_update(scene.mallory.public_key()).sign();
    let other = scene.old.legacy_update(scene.mallory.public_key()).sign();
    let pop = scene.mallory.legacy_pop(&other);
    assert_eq!(legacy(scene, "/device/update/pubkey", &one, &[("pop", &pop)]).status, 403);
}

fn pop_by_the_old_key(scene: &Scene) {
    let update = scene.lamp.update(&scene.issuer, now_s(), scene.mallory.public_key()).sign();
    keys(scene, &update, &scene.lamp.pop(&scene.issuer, &update).sign(), 400, "DB-1023");
    // Its header names the new key, the old one signed.
    let draft = scene.mallory.pop(&scene.issuer, &update);
    keys(scene, &update, &draft.sign_by(&scene.lamp.key), 400, "DB-1023");
    let update = scene.old.legacy_update(scene.mallory.public_key()).sign();
    let pop = scene.old.legacy_pop(&update);
    assert_eq!(legacy(scene, "/device/update/pubkey", &update, &[("pop", &pop)]).status, 403);
}

fn key_of_another(scene: &Scene) {
    let update = scene.lamp.update(&scene.issuer, now_s(), scene.door.public_key()).sign();
    keys(scene, &update, &scene.door.pop(&scene.issuer, &update).sign(), 409, "DB-1024");
    let update = scene.old.legacy_update(scene.door.public_key()).sign();
    let pop = scene.door.legacy_pop(&update);
    assert_eq!(legacy(scene, "/device/update/pubkey", &update, &[("pop", &pop)]).status, 403);
    let file = scene.core.place().join("door.pem");
    let file = file.to_string_lossy();
    for words in [vec!["device", "add", "thief", "--key", &file], vec!["key", "add", "lamp", &file]] {
        assert_eq!(scene.core.cli(&words).status.code(), Some(6), "{words:?}");
    }
    assert_eq!(scene.core.cli(&["device", "show", "thief"]).status.code(), Some(4), "nothing was registered");
}

fn private_key_sent(scene: &Scene) {
    let pem = scene.mallory.key.to_pkcs8_pem();
    let inner: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    let secret = base64url_encode(&[0x5a; 32]);
    let mut jwk: Value = serde_json::from_str(&scene.mallory.public_key().to_jwk_json()).expect("a JWK");
    jwk["d"] = json!(secret);
    let quiet = |answer: &Answer| {
        assert!(!answer.text.contains(&inner[..40]) && !answer.text.contains(&secret), "it is repeated");
    };
    let update = scene.lamp.update(&scene.issuer, now_s(), scene.mallory.public_key());
    let update = update.with("cnf", json!({ "jwk": jwk })).sign();
    let pop = scene.mallory.pop(&scene.issuer, &update).sign();
    let answer =
        scene.wire.post("/v1/self/keys", &[], &json!({ "update": update, "pop": pop, "retire": "old" }));
    assert_eq!((answer.status, &*answer.text_of("code")), (400, "DB-1022"), "{}", answer.text);
    quiet(&answer);
    let update = scene.old.legacy_update(scene.mallory.public_key()).with("public_key", json!(&*pem)).sign();
    let pop = scene.mallory.legacy_pop(&update);
    let answer = legacy(scene, "/device/update/pubkey", &update, &[("pop", &pop)]);
    assert_eq!(answer.status, 400, "{}", answer.text);
    quiet(&answer);
    let token = std::fs::read_to_string(scene.core.data().join("admin-token")).expect("the credential");
    let bearer = format!("Bearer {}", token.trim());
    for key in [json!({ "jwk": jwk }), json!({ "pem": &*pem })] {
        let body = json!({ "keys": [key] }).to_string();
        let headers = [("authorization", &*bearer), ("content-type", "application/json")];
        let answer = scene.wire.send("PUT", "/v1/devices/naked", &headers, body.as_bytes());
        assert_eq!((answer.status, &*answer.text_of("code")), (400, "DB-1022"), "{}", answer.text);
        quiet(&answer);
    }
    let log = scene.core.log();
    assert!(!log.contains(&inner[..40]) && !log.contains(&secret), "the log repeats it");
}

/// A token exchange of the gateway.
fn exchange(scene: &Scene, by: &TestDevice, subject: &str, more: &[(&str, &str)]) -> Answer {
    let assertion = by.assertion(&scene.issuer, now_s()).sign();
    let form = [
        &[("grant_type", EXCHANGE), ("client_assertion_type", FORM), ("client_assertion", &*assertion)],
        &[("subject_token", subject), ("subject_token_type", ACCESS_TOKEN)][..],
        more,
    ]
    .concat();
    scene.wire.form("/oauth/token", &[], &form)
}

fn unlinked_gateway(scene: &Scene) {
    let told = |answer: &Answer| (answer.status, answer.text_of("error"), answer.text_of("code"));
    let own = scene.token(&scene.gateway, &[]);
    let answer = exchange(scene, &scene.gateway, &own, &[("device", "door")]);
    assert_eq!(told(&answer), (400, "invalid_target".into(), "DB-1044".into()), "{}", answer.text);
    let answer = exchange(scene, &scene.gateway, &own, &[("device", "nobody")]);
    assert_eq!(told(&answer), (400, "invalid_target".into(), "DB-1044".into()), "{}", answer.text);
    let theirs = scene.token(&scene.door, &[]);
    let actor = [("actor_token", &*own), ("actor_token_type", ACCESS_TOKEN)];
    let answer = exchange(scene, &scene.gateway, &theirs, &actor);
    assert_eq!(told(&answer), (400, "invalid_target".into(), "DB-1044".into()), "{}", answer.text);
    // Who is no gateway acts for nobody, itself included.
    let answer = exchange(scene, &scene.door, &theirs, &[("device", "lamp")]);
    assert!(answer.status == 400 && answer.json().get("access_token").is_none(), "{}", answer.text);
    // And a stolen token of the gateway is of no use to another client.
    let answer = exchange(scene, &scene.door, &own, &[("device", "lamp")]);
    assert!(answer.status == 400 && answer.json().get("access_token").is_none(), "{}", answer.text);
    let good = exchange(scene, &scene.gateway, &own, &[("device", "lamp")]);
    assert_eq!(good.status, 200, "{}", good.text);
    // Not further: what came out of an exchange does not go in again.
    let again = exchange(scene, &scene.gateway, &good.text_of("access_token"), &[("device", "lamp")]);
    assert!(again.status == 400 && again.json().get("access_token").is_none(), "{}", again.text);
}

fn wider_scope(scene: &Scene) {
    let grant = |text: &str| base64url_encode(text.as_bytes());
    let narrow = grant(r#"[["devices/lamp/state",["pub"]]]"#);
    let own = scene.token(&scene.lamp, &[("scope", &narrow)]);
    let actor = scene.token(&scene.gateway, &[]);
    let both = [("actor_token", &*actor), ("actor_token_type", ACCESS_TOKEN)];
    for wide in [
        r#"[["devices/lamp/#",["pub"]]]"#,
        r#"[["devices/lamp/state",["pub","sub"]]]"#,
        r##"[["#",["pub","sub"]]]"##,
    ] {
        let scope = grant(wide);
        let answer = exchange(scene, &scene.gateway, &own, &[&both[..], &[("scope", &*scope)]].concat());
        assert_eq!(
            (answer.status, &*answer.text_of("error")),
            (400, "invalid_scope"),
            "{wide}: {}",
            answer.text
        );
    }
    let same = exchange(scene, &scene.gateway, &own, &both);
    assert_eq!((same.status, same.text_of("scope")), (200, narrow), "without `scope`: what the token has");
    // For another service it is not exchanged at all.
    let api = format!("{}/v1", scene.issuer);
    let answer = exchange(scene, &scene.gateway, &own, &[&both[..], &[("resource", &*api)]].concat());
    assert_eq!(answer.status, 400, "{}", answer.text);

    let first = scene.old.legacy_login().sign();
    let words = [("client_id", "backend"), ("scope", "refresh.token")];
    let answer = legacy(scene, "/as/token", &first, &words);
    assert_eq!(answer.status, 200, "{}", answer.text);
    let token = answer.text_of("access_token");
    let wider = [("client_id", "backend"), ("scope", "refresh.token tenant.demo")];
    let answer = legacy(scene, "/as/renew/token", &token, &wider);
    assert_eq!(answer.status, 403, "{}", answer.text);
    let answer = legacy(scene, "/as/renew/token", &token, &words);
    assert_eq!((answer.status, &*answer.text_of("scope")), (200, "refresh.token"), "{}", answer.text);
}

fn outsider_introspects(scene: &Scene) {
    let token = scene.token(&scene.lamp, &[]);
    let nobody = scene.wire.form("/oauth/introspect", &[], &[("token", &token)]);
    assert_eq!((nobody.status, &*nobody.text_of("error")), (401, "invalid_client"), "{}", nobody.text);
    let ask = |by: &TestDevice, token: &str| {
        let assertion = by.assertion(&scene.issuer, now_s()).sign();
        let form = [("token", token), ("client_assertion_type", FORM), ("client_assertion", &*assertion)];
        scene.wire.form("/oauth/introspect", &[], &form)
    };
    let owner = ask(&scene.lamp, &token);
    assert_eq!(owner.json()["active"], true, "{}", owner.text);
    let (other, none) = (ask(&scene.door, &token), ask(&scene.door, "dbo_nonsense"));
    assert_eq!((other.status, other.json()), (200, json!({ "active": false })));
    assert_eq!(
        (none.status, none.json()),
        (200, json!({ "active": false })),
        "as of a token that is unknown"
    );
    let stranger = ask(&scene.mallory, &token);
    assert_eq!((stranger.status, &*stranger.text_of("code")), (401, "DB-1007"), "{}", stranger.text);
    // With nothing but the token itself, or the name of another, nobody is told anything.
    let bearer = format!("Bearer {token}");
    let answer = scene.wire.form("/oauth/introspect", &[("authorization", &bearer)], &[("token", &token)]);
    assert!([400, 401].contains(&answer.status) && answer.json().get("active").is_none(), "{}", answer.text);
    let answer = scene.wire.form("/idp/introspect", &[], &[("token", &token)]);
    assert_eq!(answer.status, 401, "{}", answer.text);
}

fn bound_as_bearer(scene: &Scene) {
    let url = format!("{}/oauth/token", scene.issuer);
    let assertion = || scene.lamp.assertion(&scene.issuer, now_s()).sign();
    let login = |proof: &str, assertion: &str, resource: &str| {
        let form = [
            ("grant_type", "client_credentials"),
            ("client_assertion_type", FORM),
            ("client_assertion", assertion),
            ("resource", resource),
        ];
        scene.wire.form("/oauth/token", &[("dpop", proof)], &form)
    };
    for resource in [format!("{}/v1", scene.issuer), scene.bridge_audience.clone()] {
        let first = login(&scene.mallory.dpop("POST", &url, now_s()).sign(), &assertion(), &resource);
        assert_eq!((first.status, &*first.text_of("error")), (400, "use_dpop_nonce"), "{}", first.text);
        let nonce = json!(first.header("dpop-nonce").expect("a nonce"));
        let proof = scene.mallory.dpop("POST", &url, now_s()).with("nonce", nonce).sign();
        let answer = login(&proof, &assertion(), &resource);
        assert_eq!((answer.status, &*answer.text_of("token_type")), (200, "DPoP"), "{}", answer.text);
        let token = answer.text_of("access_token");
        for scheme in ["Bearer", "bearer", "DPoP", ""] {
            let header = format!("{scheme} {token}");
            let answer = scene.wire.get("/v1/self", &[("authorization", header.trim())]);
            let wanted = if scheme.is_empty() { 400 } else { 401 };
            assert_eq!(answer.status, wanted, "{scheme}: {}", answer.text);
        }
        let answer = scene.wire.get("/v1/self", &[("authorization", &format!("Bearer {token}"))]);
        assert_eq!(answer.text_of("code"), "DB-1035", "{}", answer.text);
        assert!(scene.connect("lamp", token.as_bytes()).is_err(), "MQTT cannot see the proof");
        // A proof is for one request.
        let answer = login(&proof, &assertion(), &resource);
        assert_eq!(
            (answer.status, &*answer.text_of("error")),
            (400, "invalid_dpop_proof"),
            "{}",
            answer.text
        );
    }
}

/// No user code is given out, so none can be guessed: the device grant (RFC 8628) is of a later version.
fn user_codes(scene: &Scene) {
    let answer = scene.wire.form("/oauth/device_authorization", &[], &[("client_id", "lamp")]);
    assert_eq!((answer.status, &*answer.text_of("code")), (404, "DB-4201"), "{}", answer.text);
    let grant = "urn:ietf:params:oauth:grant-type:device_code";
    let assertion = scene.lamp.assertion(&scene.issuer, now_s()).sign();
    let form = [
        ("grant_type", grant),
        ("device_code", "BCDF-GHJK"),
        ("client_assertion_type", FORM),
        ("client_assertion", &*assertion),
    ];
    let answer = scene.wire.form("/oauth/token", &[], &form);
    assert_eq!(
        (answer.status, &*answer.text_of("error")),
        (400, "unsupported_grant_type"),
        "{}",
        answer.text
    );
    assert_eq!(scene.login(&assertion).status, 200, "it was not used up");
}

/// No code is given out, with or without PKCE: the authorization endpoint is of a later version.
fn pkce_downgrade(scene: &Scene) {
    for query in
        ["", "&code_challenge=x&code_challenge_method=plain", "&code_challenge=x&code_challenge_method=S256"]
    {
        let path = format!(
            "/oauth/authorize?response_type=code&client_id=backend&redirect_uri=https://app.example/cb{query}"
        );
        let answer = scene.wire.get(&path, &[]);
        assert_eq!((answer.status, answer.header("location")), (404, None), "{}", answer.text);
    }
    for grant in [
        "authorization_code",
        "refresh_token",
        "password",
        "implicit",
        "client_credentials ",
        "CLIENT_CREDENTIALS",
    ] {
        let assertion = scene.lamp.assertion(&scene.issuer, now_s()).sign();
        let form = [
            ("grant_type", grant),
            ("code", "x"),
            ("client_assertion_type", FORM),
            ("client_assertion", &*assertion),
        ];
        let answer = scene.wire.form("/oauth/token", &[], &form);
        assert_eq!(
            (answer.status, &*answer.text_of("error")),
            (400, "unsupported_grant_type"),
            "{grant}: {}",
            answer.text
        );
    }
}

/// There are no users yet. Devices and applications share one space of names, so `sub` names one of them.
fn shared_names(scene: &Scene) {
    assert_eq!(scene.core.cli(&["app", "add", "lamp", "--out", "ids/lamp"]).status.code(), Some(6));
    assert_eq!(scene.core.cli(&["device", "add", "backend", "--out", "ids/backend2"]).status.code(), Some(6));
    scene.core.cli_ok(&["enrol", "create", "--id", "backend", "--id", "door", "--out", "names.token"]);
    let token = std::fs::read_to_string(scene.core.place().join("names.token")).expect("a token");
    for name in ["backend", "door"] {
        let refused = scene.core.api().enrol(name, token.trim(), &scene.mallory.key).expect_err("taken");
        assert!(refused.to_string().contains("409"), "{refused}");
    }
    let token = scene.token(&scene.lamp, &[("resource", &format!("{}/v1", scene.issuer))]);
    let answer = scene.wire.get("/v1/applications/lamp", &[("authorization", &format!("Bearer {token}"))]);
    assert_eq!(answer.status, 403, "{}", answer.text);
}

/// Sends what `make` signs for this second, until an answer came within it.
fn within_one_second(scene: &Scene, make: impl Fn(u64) -> String) -> Answer {
    wait_for("an answer within one second", Duration::from_secs(30), || {
        let at_s = now_s();
        let answer = scene.login(&make(at_s));
        (now_s() == at_s).then_some(answer)
    })
}

#[test]
fn the_numbers_that_conformance_suites_agree_on_hold_to_the_second() {
    let scene = Scene::set();
    // Seconds from now; what is accepted. The skew is 60 s, and an assertion lives 300 s at most.
    for (claim, offset_s, accepted) in [
        ("nbf", 8, true),
        ("nbf", 60, true),
        ("nbf", 61, false),
        ("nbf", 3_600, false),
        ("iat", 8, true),
        ("iat", 60, true),
        ("iat", 61, false),
        ("exp", -59, true),
        ("exp", -60, false),
        ("exp", -300, false),
        ("exp", 360, true),
        ("exp", 361, false),
    ] {
        let answer = within_one_second(&scene, |at_s| {
            let value = at_s.checked_add_signed(offset_s).expect("after 1970");
            let mut draft = scene.lamp.assertion(&scene.issuer, at_s).with(claim, json!(value));
            if claim == "exp" && offset_s < 0 {
                draft = draft.with("iat", json!(value - 60));
            }
            draft.sign()
        });
        let found = (answer.status, answer.text_of("code"));
        let wanted = if accepted { (200, String::new()) } else { (401, "DB-1011".to_owned()) };
        assert_eq!(found, wanted, "{claim} {offset_s:+} s: {}", answer.text);
    }
    for (claim, value) in [("sub", Value::Null), ("iss", json!("door")), ("sub", json!("door"))] {
        let draft = scene.lamp.assertion(&scene.issuer, now_s());
        let draft = if value.is_null() { draft.without(claim) } else { draft.with(claim, value.clone()) };
        scene.refused(&format!("{claim} {value}"), &draft.sign(), &["DB-1007", "DB-1009"]);
    }
    let by_rs256 = scene.lamp.assertion(&scene.issuer, now_s()).sign_by(&scene.press.key);
    scene.refused("another algorithm than the key's", &by_rs256, &["DB-1007"]);
    // A server that has just started asks for its nonce, and then `iat` may be what it is (the first 2 min are
    // longer than a test may take; without a nonce, 10 s either way are in the tests of `identity`).
    let url = format!("{}/oauth/token", scene.issuer);
    let mut nonce = String::new();
    for (offset_s, accepted) in [(0, false), (-10, true), (10, true), (0, true)] {
        let assertion = scene.lamp.assertion(&scene.issuer, now_s()).sign();
        let iat_s = now_s().checked_add_signed(offset_s).expect("after 1970");
        let proof = scene.mallory.dpop("POST", &url, iat_s).with("nonce", json!(nonce)).sign();
        let form = [
            ("grant_type", "client_credentials"),
            ("client_assertion_type", FORM),
            ("client_assertion", &*assertion),
        ];
        let answer = scene.wire.form("/oauth/token", &[("dpop", &proof)], &form);
        assert_eq!(answer.status == 200, accepted, "iat {offset_s:+} s: {}", answer.text);
        nonce = answer.header("dpop-nonce").unwrap_or(nonce);
    }
}
