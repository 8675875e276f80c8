//! Tokens in the making: a good draft, and the edits that bytes make of it.

use base64::Engine as _;
use drawbridge_identity::NoncePurpose;
use drawbridge_jose::{Sign as _, SigningKey, base64url_encode, sha256};
use serde_json::{Map, Value, json};

use crate::world::{BRIDGE, DEVICE, EXPORTER, ISSUER, NOW_S, PROJECT, WORLD};

/// A token in the making.
#[derive(Clone)]
pub(crate) struct Draft {
    pub(crate) header: Map<String, Value>,
    pub(crate) claims: Map<String, Value>,
}

impl Draft {
    pub(crate) fn new(typ: Option<&str>, claims: Value) -> Self {
        let mut header = Map::new();
        if let Some(typ) = typ {
            header.insert("typ".into(), typ.into());
        }
        let Value::Object(claims) = claims else { unreachable!("claims are an object") };
        Self { header, claims }
    }

    pub(crate) fn header(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.header.insert(name.into(), value.into());
        self
    }
}

/// Members that edits reach; those of the header begin with `^`.
pub(crate) const NAMES: &[&str] = &[
    "iss",
    "sub",
    "aud",
    "exp",
    "nbf",
    "iat",
    "jti",
    "cnf",
    "public_key",
    "scope",
    "htm",
    "htu",
    "upd",
    "nonce",
    "ath",
    "^typ",
    "^kid",
    "^alg",
    "^crit",
    "^jwk",
    "^x",
    "act",
    "uid",
    "epoch",
    "akid",
    "client_id",
    "cb",
    "cnonce",
    "alias",
];

/// Stands in private keys that are offered as new keys.
pub(crate) const SECRET: &str = "c2VjcmV0LW9mLXRoZS1kZXZpY2U";

/// Values that edits put there; `None` takes the member away.
pub(crate) static VALUES: std::sync::LazyLock<Vec<Option<Value>>> = std::sync::LazyLock::new(values);

pub(crate) fn values() -> Vec<Option<Value>> {
    let mut values =
        vec![None, Some(Value::Null), Some(true.into()), Some(json!([])), Some(json!({})), Some("".into())];
    let texts = [
        DEVICE,
        "Sensor-17",
        "sensor-18",
        ISSUER,
        BRIDGE,
        PROJECT,
        "https://core.example/",
        "https://core.example/oauth/token",
    ];
    values.extend(texts.map(|text| Some(text.into())));
    // From 14 on: seconds around the edges; from 39 on odd ones, from 49 on audiences.
    let seconds = [
        -1001, -1000, -999, -61, -60, -59, -1, 0, 8, 59, 60, 61, 299, 300, 301, 359, 360, 361, 3600, 86_399,
        86_400, 86_401, 86_459, 86_460, 86_461,
    ];
    values.extend(seconds.map(|ahead_s: i64| Some((NOW_S as i64 + ahead_s).into())));
    values.extend([
        Some(0.into()),
        Some((-1).into()),
        Some((NOW_S as f64 + 60.5).into()),
        Some((NOW_S as f64 - 60.5).into()),
        Some(((1_u64 << 53) - 1).into()),
        Some((1_u64 << 53).into()),
        Some(1e300.into()),
        Some(u64::MAX.into()),
        Some(NOW_S.to_string().into()),
        Some(json!([NOW_S])),
        Some(json!([ISSUER])),
        Some(json!([ISSUER, ISSUER])),
        Some(json!([ISSUER, "https://other.example"])),
        Some(json!([BRIDGE])),
        Some(json!([PROJECT])),
        Some(json!([7])),
        Some("0123456789abcde".into()),
        Some("0123456789abcdef".into()),
        Some("0123456789abcdeg".into()),
        Some("x".repeat(128).into()),
        Some("x".repeat(129).into()),
        Some("0123456789abcdeé".into()),
        Some("0123456789abcdef\u{0}".into()),
        Some("0123456789abcdef\n".into()),
        Some("x".repeat(2100).into()),
        Some("x".repeat(5000).into()),
    ]);
    let types = [
        "JWT",
        "jwt",
        "application/jwt",
        "Application/Client-Authentication+JWT",
        "client-authentication+jwt",
        "key-update+jwt",
        "key-pop+jwt",
        "application/key-pop+jwt",
        "at+jwt",
        "application/at+jwt",
        "dpop+jwt",
        "text/jwt",
    ];
    values.extend(types.map(|text| Some(text.into())));
    values.extend(
        ["none", "ES256", "ES384", "EdDSA", "Ed25519", "HS256", "factory"].map(|text| Some(text.into())),
    );
    let keys = [&WORLD.keys[0], &WORLD.keys[1], &WORLD.keys[2], &WORLD.new_key, &WORLD.stranger]
        .map(SigningKey::public_key);
    values.extend(keys.map(|key| Some(key.thumbprint().into())));
    values.extend(good_keys().into_iter().map(Some));
    let mut private = jwk(&WORLD.new_key);
    private["d"] = SECRET.into();
    let mut off_curve = jwk(&WORLD.new_key);
    off_curve["x"] = off_curve["y"].clone();
    let mut encryption = jwk(&WORLD.new_key);
    encryption["use"] = "enc".into();
    let oct = json!({ "kty": "oct", "k": SECRET });
    for key in [private, off_curve, encryption, oct] {
        values.push(Some(key.clone()));
        values.push(Some(json!({ "jwk": key })));
    }
    values.extend(good_keys().into_iter().map(|key| Some(json!({ "jwk": key }))));
    values.push(Some(json!({ "jwk": jwk(&WORLD.new_key), "jkt": "x" })));
    values.push(Some(json!({ "jkt": WORLD.new_key.public_key().thumbprint() })));
    let new_key = WORLD.new_key.public_key();
    let one_line: String = new_key.to_pem().split('\n').collect();
    values.push(Some(one_line.into()));
    values.push(Some(new_key.to_pem().into()));
    values.push(Some(new_key.to_pem().replace("PUBLIC", "PRIVATE").into()));
    values.push(Some(new_key.to_pem().repeat(2).into()));
    values.push(Some(base64::engine::general_purpose::STANDARD.encode(new_key.spki_der()).into()));
    values.push(Some(base64url_encode(&sha256(UPDATE.as_bytes())).into()));
    values.push(Some(base64url_encode(&sha256(b"another update")).into()));
    for purpose in [NoncePurpose::Assertion, NoncePurpose::Enrolment, NoncePurpose::Dpop] {
        values
            .extend(NONCE_AGES.into_iter().chain([61]).map(|age_s| Some(WORLD.nonce(purpose, age_s).into())));
    }
    values.push(Some(base64url_encode(&AUTHORITY).into()));
    values.extend(["pump-*", "*", "**", "*-7", "a/*", "pump-7"].map(|text| Some(text.into())));
    values.extend(
        ["key-remove+jwt", "enrolment-proof+jwt", "software-statement+jwt"].map(|text| Some(text.into())),
    );
    values.extend(["POST", "GET", URL].map(|text| Some(text.into())));
    let urls = [
        "HTTPS://Core.Example:443/oauth/token",
        "https://core.example/oauth/%74oken",
        "https://core.example/oauth%2Ftoken",
        "https://core.example/oauth/token?x",
        "https://core.example/oauth/token#x",
        "https://core.example/oauth/token/",
        "http://core.example/oauth/token",
        "https://core.example@attacker.example/oauth/token",
        "https://core.example:8443/oauth/token",
        "https://attacker.example/oauth/token",
    ];
    values.extend(urls.map(|url| Some(url.into())));
    values.push(Some(base64url_encode(&sha256(ACCESS_TOKEN.as_bytes())).into()));
    values.extend(channel_bindings().map(Some));
    values.extend(confirmations().map(Some));
    let thumbprint = WORLD.keys[0].public_key().thumbprint();
    let actor = json!({ "sub": "gateway-1", "uid": "9", "epoch": 0, "akid": thumbprint });
    values.extend(with_one_wrong(&actor, &[("akid", json!("no key id")), ("uid", json!(9))]).map(Some));
    let alias = json!({ "words": "iotcontrol:read", "login": NOW_S - 9 });
    values.extend(with_one_wrong(&alias, &[("words", Value::Null), ("login", json!("9"))]).map(Some));
    values
}

/// The right one first; then that of another connection, more and fewer bytes, padding, another alphabet.
fn channel_bindings() -> [Value; 6] {
    let right = base64url_encode(&EXPORTER);
    [
        right.as_str().into(),
        base64url_encode(&[13; 32]).into(),
        base64url_encode(&[12; 33]).into(),
        base64url_encode(&[12; 31]).into(),
        format!("{right}=").into(),
        json!([right]),
    ]
}

/// What `cnf` of an access token may name, and almost.
fn confirmations() -> [Value; 16] {
    let thumbprint = WORLD.new_key.public_key().thumbprint();
    let jwe = "eyJhbGciOiJkaXIiLCJlbmMiOiJBMjU2R0NNIn0..AAAA.AAAA.AAAAAAAAAAAAAAAAAAAAAA";
    [
        json!({ "x5t#S256": thumbprint }),
        json!({ "kid": thumbprint }),
        json!({ "jwe": jwe }),
        json!({ "cose": "AQID" }),
        json!({ "jkt": "x" }),
        json!({ "jkt": [thumbprint] }),
        json!({ "jkt": thumbprint[1..] }),
        json!({ "x5t#S256": format!("{thumbprint}=") }),
        json!({ "kid": "no key id" }),
        json!({ "kid": Value::Null }),
        json!({ "jwe": { "jwe": jwe } }),
        json!({ "cose": "A" }),
        json!({ "jwk": thumbprint }),
        json!({ "jku": "https://attacker.example" }),
        json!({ "kid": thumbprint, "x": 7 }),
        json!({ "jkt": thumbprint, "x5t#S256": thumbprint }),
    ]
}

/// The object, and the same with each of these members in place of its own.
fn with_one_wrong<const N: usize>(right: &Value, wrong: &[(&str, Value); N]) -> impl Iterator<Item = Value> {
    let changed = wrong.clone().map(|(name, value)| {
        let mut changed = right.clone();
        changed[name] = value;
        changed
    });
    std::iter::once(right.clone()).chain(changed)
}

pub(crate) fn jwk(key: &SigningKey) -> Value {
    serde_json::from_str(&key.public_key().to_jwk_json()).expect("a JWK is JSON")
}

pub(crate) fn good_keys() -> [Value; 4] {
    [&WORLD.new_key, &WORLD.stranger, &WORLD.keys[0], &WORLD.keys[2]].map(jwk)
}

/// Pairs of bytes: which member, which value. `alg` is that of the key unless an edit says otherwise.
pub(crate) fn edit(draft: &Draft, key: &SigningKey, program: &[u8]) -> Draft {
    let mut draft = draft.clone().header("alg", key.algorithm().name());
    for pair in program.chunks_exact(2).take(8) {
        let name = NAMES[usize::from(pair[0]) % NAMES.len()];
        let value = &VALUES[usize::from(pair[1]) % VALUES.len()];
        let (map, name) = match name.strip_prefix('^') {
            Some(name) => (&mut draft.header, name),
            None => (&mut draft.claims, name),
        };
        match value {
            Some(value) => drop(map.insert(name.to_owned(), value.clone())),
            None => drop(map.remove(name)),
        }
    }
    draft
}

pub(crate) fn holds_nul(members: &Map<String, Value>) -> bool {
    fn any(value: &Value) -> bool {
        match value {
            Value::String(text) => text.contains('\0'),
            Value::Array(list) => list.iter().any(any),
            Value::Object(members) => members.values().any(any),
            _ => false,
        }
    }
    members.values().any(any)
}

/// The update that proofs of possession are for; only its bytes matter.
pub(crate) const UPDATE: &str = "eyJhbGciOiJFZERTQSIsInR5cCI6ImtleS11cGRhdGUrand0In0.e30.AA";

/// Stands for the enrolment token.
pub(crate) const AUTHORITY: [u8; 32] = [11; 32];

pub(crate) const URL: &str = "https://core.example/oauth/token";
pub(crate) const ACCESS_TOKEN: &str = "dbo_an-access-token";

/// Ages of the good nonces among the values, in seconds.
pub(crate) const NONCE_AGES: [u64; 3] = [0, 30, 60];
