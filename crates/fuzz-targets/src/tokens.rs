//! Every kind of JWT, through the code that judges it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use drawbridge_identity::{
    AccessToken, ClientAssertion, ConnectJwt, Dates, DeviceClock, DpopRules, EnrolmentRules, KeyRemove,
    KeyUpdate, LegacyLogin, LegacyUpdate, NoncePurpose, Refusal, SoftwareStatement, verify_dpop,
    verify_enrolment_proof, verify_legacy_pop, verify_pop,
};
use drawbridge_jose::{Algorithm, PublicKey, Sign as _, SigningKey, base64url_encode, sha256};
use serde_json::{Map, Value, json};

use crate::world::{
    BRIDGE, CONNECT_LIFE_S_MAX, CONNECT_RULES, DEVICE, ISSUER, LIFE_S_MAX, NOT_BEFORE_S, NOW_S, PROJECT,
    SKEW_S, TOKEN_BYTES_MAX, WORLD, signed,
};
use crate::{Outcome, judge_code, judge_text};

/// A token in the making.
#[derive(Clone)]
struct Draft {
    header: Map<String, Value>,
    claims: Map<String, Value>,
}

impl Draft {
    fn new(typ: Option<&str>, claims: Value) -> Self {
        let mut header = Map::new();
        if let Some(typ) = typ {
            header.insert("typ".into(), typ.into());
        }
        let Value::Object(claims) = claims else { unreachable!("claims are an object") };
        Self { header, claims }
    }

    fn header(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.header.insert(name.into(), value.into());
        self
    }
}

type Judge = fn(&str, DeviceClock) -> Result<(), Refusal>;
type Good = fn(&Map<String, Value>, &Map<String, Value>, DeviceClock) -> bool;

/// What a target is made of.
struct Kind {
    draft: Draft,
    /// Keys that may sign, the right ones first; a stranger's comes last.
    keys: Vec<&'static SigningKey>,
    /// The code under test.
    judge: Judge,
    /// Whether a token of this header and these claims, rightly signed, is good: written without our parsers.
    good: Good,
    /// Whether padding is tolerated.
    padded: bool,
    /// Whether a refusal may be told to the peer before this token itself was proven (a proof inside a proven request).
    inner: bool,
    /// Whether the right key is the one in the header.
    embedded: bool,
    token_bytes_max: usize,
}

impl Kind {
    fn of_device(draft: Draft, judge: Judge, good: Good) -> Self {
        let keys = WORLD.keys.iter().collect();
        Self {
            draft,
            keys,
            judge,
            good,
            padded: false,
            inner: false,
            embedded: false,
            token_bytes_max: TOKEN_BYTES_MAX,
        }
    }

    /// Bytes to a token: `mode` (and above it how far the device's clock is trusted), `key`, then what the mode
    /// says.
    fn run(&self, data: &[u8]) -> Outcome {
        let (Some(&mode), Some(&key)) = (data.first(), data.get(1)) else { return Outcome::refused("empty") };
        let rest = &data[2..];
        let clock = [DeviceClock::Good, DeviceClock::Coarse, DeviceClock::None, DeviceClock::Good]
            [usize::from(mode / 3) % 4];
        let keys = self.keys.len();
        let key = self.keys.get(usize::from(key) % (keys + 1)).copied();
        let key = key.unwrap_or(&WORLD.stranger);
        let (token, edited) = match mode % 3 {
            0 => match std::str::from_utf8(rest) {
                Ok(text) => (text.to_owned(), None),
                Err(_) => return Outcome::refused("no text"),
            },
            1 => {
                let cut = rest.iter().position(|byte| *byte == 0).unwrap_or(rest.len());
                (signed(&rest[..cut], rest.get(cut + 1..).unwrap_or_default(), key), None)
            }
            _ => {
                let draft = edit(&self.started(key), key, rest);
                let text = |map: &Map<String, Value>| Value::Object(map.clone()).to_string();
                (signed(text(&draft.header).as_bytes(), text(&draft.claims).as_bytes(), key), Some(draft))
            }
        };
        let by_right_key = self.is_signed(&token);
        let found = (self.judge)(&token, clock);
        if let Err(refusal) = &found {
            judge_refusal(refusal, &token);
            assert!(
                self.inner || by_right_key || !refusal.is_proven(),
                "told before it was proven: {refusal}"
            );
        }
        if found.is_ok() {
            assert!(by_right_key, "accepted without a good signature");
            assert!(token.len() <= self.token_bytes_max);
            let parts: Vec<&str> = token.split('.').collect();
            let [header, claims] = [parts[0], parts[1]].map(|part| {
                let bytes = URL_SAFE_NO_PAD.decode(part.trim_end_matches('=')).expect("it was read");
                let value: Value = serde_json::from_slice(&bytes).expect("strict JSON is JSON");
                value.as_object().expect("an object").clone()
            });
            assert!((self.good)(&header, &claims, clock), "accepted: {header:?} {claims:?}");
        }
        if let Some(draft) = edited {
            let fits = token.len() <= self.token_bytes_max
                && Value::Object(draft.header.clone()).to_string().len() <= 1024
                && !holds_nul(&draft.header)
                && !holds_nul(&draft.claims);
            let wanted = by_right_key
                && fits
                && plain_header(&draft.header, key)
                && (self.good)(&draft.header, &draft.claims, clock);
            assert_eq!(
                found.is_ok(),
                wanted,
                "{clock:?} {:?} for {:?} {:?}",
                found.err(),
                draft.header,
                draft.claims
            );
        }
        match found {
            Ok(()) => Outcome::accepted(),
            Err(refusal) => Outcome::refused(format!("{} {}", refusal.code(), refusal.reason())),
        }
    }

    /// The draft with what depends on the key.
    fn started(&self, key: &SigningKey) -> Draft {
        let draft = self.draft.clone();
        if self.embedded { draft.header("jwk", jwk(key)) } else { draft }
    }

    /// Whether one of the right keys signed, found out with the primitives alone.
    fn is_signed(&self, token: &str) -> bool {
        let parts: Vec<&str> = token.split('.').collect();
        let [header, payload, signature] = parts.as_slice() else { return false };
        let trimmed = if self.padded { signature.trim_end_matches('=') } else { signature };
        let Ok(signature) = URL_SAFE_NO_PAD.decode(trimmed) else { return false };
        let message = &token.as_bytes()[..header.len() + 1 + payload.len()];
        if self.embedded {
            return embedded_key(header).is_some_and(|key| verifies(&key, message, &signature));
        }
        self.keys.iter().any(|key| verifies(key.public_key(), message, &signature))
    }

    fn seeds(&self) -> Vec<Vec<u8>> {
        let mut seeds = Vec::new();
        for (at, key) in (0_u8..).zip(&self.keys) {
            let draft = edit(&self.started(key), key, &[]);
            let [header, claims] = [draft.header, draft.claims].map(|map| Value::Object(map).to_string());
            let token = signed(header.as_bytes(), claims.as_bytes(), key);
            seeds.push([&[0, at][..], token.as_bytes()].concat());
            seeds.push([&[1, at][..], header.as_bytes(), &[0], claims.as_bytes()].concat());
        }
        // Edits: none, and a few seconds and audiences that are right or almost.
        seeds.push(vec![2, 0]);
        seeds.push(vec![2, 1]);
        for (at, name) in (0_u8..).zip(NAMES) {
            if ["exp", "iat", "nbf"].contains(name) {
                seeds.extend([14, 18, 22, 24, 30].map(|value| vec![2, 0, at, value]));
            }
        }
        seeds.push(vec![2, 0, 2, 49]);
        seeds.push(vec![2, 0, 4, 22, 5, 22]);
        seeds
    }
}

/// The key in the header of a token, as another reader of JSON finds it.
fn embedded_key(header: &str) -> Option<PublicKey> {
    let header = URL_SAFE_NO_PAD.decode(header).ok()?;
    let header: Value = serde_json::from_slice(&header).ok()?;
    PublicKey::from_jwk(header.get("jwk")?.to_string().as_bytes()).ok()
}

/// The signature under the primitives of the library below, without anything of ours but the key's bytes.
fn verifies(key: &PublicKey, message: &[u8], signature: &[u8]) -> bool {
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, UnparsedPublicKey, VerificationAlgorithm,
    };
    let (primitive, bytes): (&'static dyn VerificationAlgorithm, usize) = match key.algorithm() {
        Algorithm::Es256 => (&ECDSA_P256_SHA256_FIXED, 65),
        Algorithm::Es384 => (&ECDSA_P384_SHA384_FIXED, 97),
        Algorithm::EdDsa => (&ED25519, 32),
        // No key of the world is RSA; one that a proof brings is asked itself.
        Algorithm::Rs256 | Algorithm::Ps256 => {
            return drawbridge_jose::Verify::verify(key, message, signature).is_ok();
        }
    };
    let spki = key.spki_der();
    UnparsedPublicKey::new(primitive, &spki[spki.len() - bytes..]).verify(message, signature).is_ok()
}

fn judge_refusal(refusal: &Refusal, token: &str) {
    judge_code(refusal.code());
    assert!(!refusal.word().is_empty() && !refusal.reason().is_empty());
    judge_text(&refusal.to_string(), token.as_bytes());
    // A fault of a DPoP proof says nothing of anybody, so it may be told.
    let harmless = matches!(refusal, Refusal::Dpop(_) | Refusal::DpopNonce | Refusal::Binding(_));
    assert_eq!(refusal.for_owner().is_some(), refusal.is_proven() || harmless);
    if let Some(text) = refusal.for_owner() {
        assert!(text.chars().all(|c| matches!(c, ' '..='~') && c != '"' && c != '\\'), "{text}");
    }
    assert!(!refusal.to_string().contains(SECRET), "a private key is repeated");
}

/// Members that edits reach; those of the header begin with `^`.
const NAMES: &[&str] = &[
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
];

/// Stands in private keys that are offered as new keys.
const SECRET: &str = "c2VjcmV0LW9mLXRoZS1kZXZpY2U";

/// Values that edits put there; `None` takes the member away.
fn values() -> Vec<Option<Value>> {
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
    values
}

fn jwk(key: &SigningKey) -> Value {
    serde_json::from_str(&key.public_key().to_jwk_json()).expect("a JWK is JSON")
}

fn good_keys() -> [Value; 4] {
    [jwk(&WORLD.new_key), jwk(&WORLD.stranger), jwk(&WORLD.keys[0]), jwk(&WORLD.keys[2])]
}

/// Pairs of bytes: which member, which value. `alg` is that of the key unless an edit says otherwise.
fn edit(draft: &Draft, key: &SigningKey, program: &[u8]) -> Draft {
    let mut draft = draft.clone().header("alg", key.algorithm().name());
    let values = if program.is_empty() { Vec::new() } else { values() };
    for pair in program.chunks_exact(2).take(8) {
        let name = NAMES[usize::from(pair[0]) % NAMES.len()];
        let value = &values[usize::from(pair[1]) % values.len()];
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

fn holds_nul(members: &Map<String, Value>) -> bool {
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

/// The rules of a header that every kind shares; `jwk` is for the kind to judge.
fn plain_header(header: &Map<String, Value>, key: &SigningKey) -> bool {
    let alg = header.get("alg").and_then(Value::as_str);
    let is_alg = alg == Some(key.algorithm().name())
        || (alg == Some("Ed25519") && key.algorithm() == Algorithm::EdDsa);
    let is_text = |name: &str| header.get(name).is_none_or(Value::is_string);
    let is_scalar = |name: &str| header.get(name).is_none_or(|value| !value.is_object() && !value.is_array());
    is_alg && is_text("typ") && is_text("kid") && is_scalar("x") && !header.contains_key("crit")
}

/// `kid` names, where it names a key of the device at all, one of this algorithm.
fn kid_fits(header: &Map<String, Value>) -> bool {
    let kid = header.get("kid").and_then(Value::as_str).unwrap_or_default();
    let alg = header.get("alg").and_then(Value::as_str).and_then(Algorithm::from_header);
    WORLD.keys.iter().all(|key| {
        let label = if key.algorithm() == Algorithm::Es256 { "factory" } else { "no label" };
        (key.public_key().thumbprint() != kid && label != kid) || Some(key.algorithm()) == alg
    })
}

fn typ_is(header: &Map<String, Value>, wanted: &[&str], absent: bool) -> bool {
    let Some(typ) = header.get("typ") else { return absent };
    let typ = typ.as_str().unwrap_or_default().to_ascii_lowercase();
    wanted.contains(&typ.strip_prefix("application/").unwrap_or(&typ))
}

/// `Err` for anything but seconds.
fn seconds(claims: &Map<String, Value>, name: &str) -> Result<Option<u64>, ()> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let number = value.as_f64().ok_or(())?;
    if !(0.0..9_007_199_254_740_992.0).contains(&number) { Err(()) } else { Ok(Some(number as u64)) }
}

/// `exp`, where there is one, is not past, `iat` and `nbf` are not ahead, and `iat` is after the revocation.
fn times_fit(claims: &Map<String, Value>, skew_s: u64, revocation: bool) -> bool {
    let not_ahead = |name| seconds(claims, name).is_ok_and(|at| at.is_none_or(|at_s| at_s <= NOW_S + skew_s));
    let after =
        seconds(claims, "iat").is_ok_and(|iat| !revocation || iat.is_none_or(|iat_s| iat_s > NOT_BEFORE_S));
    let exp = seconds(claims, "exp").is_ok_and(|exp| exp.is_none_or(|exp_s| NOW_S < exp_s + skew_s));
    not_ahead("iat") && not_ahead("nbf") && after && exp
}

fn aud_is(claims: &Map<String, Value>, wanted: &str) -> bool {
    claims.get("aud").is_some_and(|aud| *aud == json!(wanted) || *aud == json!([wanted]))
}

fn jti_fits(claims: &Map<String, Value>) -> bool {
    let jti = claims.get("jti").and_then(Value::as_str).unwrap_or_default();
    (16..=128).contains(&jti.len()) && jti.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}

fn is_device(claims: &Map<String, Value>, name: &str, absent: bool) -> bool {
    claims.get(name).map_or(absent, |found| found == DEVICE)
}

fn has_none(claims: &Map<String, Value>, names: &[&str]) -> bool {
    names.iter().all(|name| !claims.contains_key(*name))
}

/// How old the nonce of a JWT may show it to be; `Err` for one that is none.
fn nonce_of(claims: &Map<String, Value>, purpose: NoncePurpose) -> Result<Option<u64>, ()> {
    let Some(nonce) = claims.get("nonce") else { return Ok(None) };
    NONCE_AGES.into_iter().find(|age_s| *nonce == WORLD.nonce(purpose, *age_s)).map(Some).ok_or(())
}

/// Ages of the good nonces among the values, in seconds.
const NONCE_AGES: [u64; 3] = [0, 30, 60];
const DAY_S: u64 = 86_400;

fn assertion_fits(claims: &Map<String, Value>, clock: DeviceClock) -> bool {
    let owner = is_device(claims, "iss", false) && is_device(claims, "sub", false);
    if !owner || !aud_is(claims, ISSUER) || !jti_fits(claims) {
        return false;
    }
    let Ok(nonce) = nonce_of(claims, NoncePurpose::Assertion) else { return false };
    let ahead_s = seconds(claims, "exp").ok().flatten().map(|exp_s| exp_s.saturating_sub(NOW_S));
    let lives = |skew_s| ahead_s.is_some_and(|ahead_s| ahead_s <= LIFE_S_MAX + skew_s);
    match (nonce, clock) {
        (None, DeviceClock::Good) => lives(SKEW_S) && times_fit(claims, SKEW_S, true),
        (None, DeviceClock::Coarse | DeviceClock::None) => false,
        (Some(_), DeviceClock::Coarse) => {
            let recent =
                seconds(claims, "iat").is_ok_and(|iat| iat.is_none_or(|iat_s| iat_s + DAY_S >= NOW_S));
            lives(DAY_S) && times_fit(claims, DAY_S, false) && recent
        }
        (Some(_), DeviceClock::None) => are_dates(claims),
        (Some(_), DeviceClock::Good) => {
            let at = |name: &str| seconds(claims, name).ok().flatten();
            let fits = |exp_s: u64, iat_s: u64| exp_s > iat_s && exp_s - iat_s <= LIFE_S_MAX + SKEW_S;
            are_dates(claims)
                && at("exp").is_some_and(|exp_s| at("iat").is_none_or(|iat_s| fits(exp_s, iat_s)))
        }
    }
}

/// Dates that are not compared with the time.
fn are_dates(claims: &Map<String, Value>) -> bool {
    let is_date =
        |name| seconds(claims, name).is_ok_and(|at| at.is_none_or(|at_s| at_s <= u64::from(u32::MAX)));
    is_date("exp") && is_date("iat") && is_date("nbf")
}

fn assertion_claims() -> Value {
    json!({
        "iss": DEVICE, "sub": DEVICE, "aud": ISSUER, "iat": NOW_S, "exp": NOW_S + 120, "jti": "0123456789abcdef",
    })
}

macro_rules! kind {
    ($name:ident, $make:expr) => {
        pub(crate) mod $name {
            use super::*;

            pub(super) static KIND: std::sync::LazyLock<Kind> = std::sync::LazyLock::new(|| $make);

            pub(crate) fn run(data: &[u8]) -> Outcome {
                KIND.run(data)
            }

            pub(crate) fn seeds() -> Vec<Vec<u8>> {
                KIND.seeds()
            }
        }
    };
}

kind!(
    client_assertion,
    Kind::of_device(
        Draft::new(Some("client-authentication+jwt"), assertion_claims()),
        |token, clock| {
            let jwt = ClientAssertion::parse(token, TOKEN_BYTES_MAX)?;
            let candidate = WORLD.candidate(clock);
            let known = jwt.claimed().is_some_and(|name| name == WORLD.name).then_some(&candidate);
            let asserted = jwt.verify(known, &WORLD.rules(), NOW_S, &WORLD.checker)?;
            let until_s = asserted.until_s.expect("a client assertion ends");
            assert!(until_s > NOW_S && until_s <= NOW_S + LIFE_S_MAX + 2 * SKEW_S);
            Ok(())
        },
        |header, claims, clock| {
            typ_is(header, &["client-authentication+jwt", "jwt"], true)
                && kid_fits(header)
                && !header.contains_key("jwk")
                && has_none(claims, &["cnf", "public_key", "scope", "htm"])
                && assertion_fits(claims, clock)
        },
    )
);

kind!(
    key_update,
    Kind::of_device(
        {
            let mut claims = assertion_claims();
            claims["cnf"] = json!({ "jwk": jwk(&WORLD.new_key) });
            Draft::new(Some("key-update+jwt"), claims)
        },
        |token, clock| {
            let jwt = KeyUpdate::parse(token, TOKEN_BYTES_MAX)?;
            let candidate = WORLD.candidate(clock);
            let known = jwt.claimed().is_some_and(|name| name == WORLD.name).then_some(&candidate);
            jwt.verify(known, &WORLD.rules(), NOW_S, &WORLD.checker).map(drop)
        },
        |header, claims, clock| {
            let new_key = claims.get("cnf").and_then(Value::as_object).filter(|cnf| cnf.len() == 1);
            let new_key = new_key.and_then(|cnf| cnf.get("jwk"));
            typ_is(header, &["key-update+jwt"], false)
                && kid_fits(header)
                && !header.contains_key("jwk")
                && has_none(claims, &["public_key", "scope", "htm", "upd"])
                && assertion_fits(claims, clock)
                && new_key.is_some_and(is_good_key)
        },
    )
);

/// Of the keys that edits put there it is known; others are asked without what is not known to matter.
fn is_good_key(key: &Value) -> bool {
    good_keys().contains(key)
        || (key.get("d").is_none()
            && key.get("k").is_none()
            && key.to_string().len() <= 2048
            && PublicKey::from_jwk(key.to_string().as_bytes()).is_ok())
}

/// The update that proofs of possession are for; only its bytes matter.
const UPDATE: &str = "eyJhbGciOiJFZERTQSIsInR5cCI6ImtleS11cGRhdGUrand0In0.e30.AA";

fn dates_of(clock: DeviceClock) -> Dates {
    match clock {
        DeviceClock::Good => Dates::Skew,
        DeviceClock::Coarse => Dates::Day,
        DeviceClock::None => Dates::Any,
    }
}

/// The key and its `kid` in the header, where there are any, are the new key.
fn is_of_new_key(header: &Map<String, Value>) -> bool {
    let thumbprint = WORLD.new_key.public_key().thumbprint();
    let same = |key: &Value| {
        PublicKey::from_jwk(key.to_string().as_bytes()).is_ok_and(|key| key.thumbprint() == thumbprint)
    };
    header.get("jwk").is_none_or(same) && header.get("kid").is_none_or(|kid| kid == thumbprint)
}

kind!(key_pop, {
    let claims = json!({ "aud": ISSUER, "jti": "0123456789abcdef", "upd": base64url_encode(&sha256(UPDATE.as_bytes())) });
    let mut kind = Kind::of_device(
        Draft::new(Some("key-pop+jwt"), claims).header("jwk", jwk(&WORLD.new_key)),
        |token, clock| {
            let (key, rules) = (WORLD.new_key.public_key(), WORLD.rules());
            verify_pop(token, UPDATE, key, &rules, dates_of(clock), NOW_S, &WORLD.checker)
        },
        |header, claims, clock| {
            let dates = match dates_of(clock) {
                Dates::Skew => times_fit(claims, SKEW_S, false),
                Dates::Day => times_fit(claims, DAY_S, false),
                Dates::Any => are_dates(claims),
            };
            typ_is(header, &["key-pop+jwt"], false)
                && is_of_new_key(header)
                && has_none(claims, &["sub", "scope", "cnf", "public_key", "htm"])
                && aud_is(claims, ISSUER)
                && jti_fits(claims)
                && nonce_of(claims, NoncePurpose::Assertion).is_ok()
                && dates
                && claims.get("upd").is_some_and(|upd| *upd == base64url_encode(&sha256(UPDATE.as_bytes())))
        },
    );
    kind.keys = vec![&WORLD.new_key];
    kind.inner = true;
    kind
});

kind!(
    key_remove,
    Kind::of_device(
        {
            let mut claims = assertion_claims();
            claims["kid"] = WORLD.keys[2].public_key().thumbprint().into();
            Draft::new(Some("key-remove+jwt"), claims)
        },
        |token, clock| {
            let jwt = KeyRemove::parse(token, TOKEN_BYTES_MAX)?;
            let candidate = WORLD.candidate(clock);
            let known = jwt.claimed().is_some_and(|name| name == WORLD.name).then_some(&candidate);
            jwt.verify(known, &WORLD.rules(), NOW_S, &WORLD.checker).map(drop)
        },
        |header, claims, clock| {
            let kid = claims.get("kid").and_then(Value::as_str);
            typ_is(header, &["key-remove+jwt"], false)
                && kid_fits(header)
                && !header.contains_key("jwk")
                && has_none(claims, &["cnf", "public_key", "scope", "htm", "upd"])
                && assertion_fits(claims, clock)
                && kid.is_some_and(|kid| drawbridge_names::KeyId::parse(kid).is_ok())
        },
    )
);

/// Stands for the enrolment token.
const AUTHORITY: [u8; 32] = [11; 32];

kind!(enrolment_proof, {
    let claims = json!({
        "aud": ISSUER, "sub": DEVICE, "nonce": WORLD.nonce(NoncePurpose::Enrolment, 30), "eth": base64url_encode(&AUTHORITY),
    });
    let mut kind = Kind::of_device(
        Draft::new(Some("enrolment-proof+jwt"), claims).header("jwk", jwk(&WORLD.new_key)),
        |token, _| {
            let rules = EnrolmentRules {
                issuer: ISSUER,
                device: &WORLD.name,
                authority: &AUTHORITY,
                skew_s: SKEW_S,
                nonces: &WORLD.nonces,
            };
            let key = WORLD.new_key.public_key();
            verify_enrolment_proof(token, TOKEN_BYTES_MAX, key, &rules, NOW_S, &WORLD.checker)
        },
        |header, claims, _| {
            typ_is(header, &["enrolment-proof+jwt"], false)
                && is_of_new_key(header)
                && has_none(
                    claims,
                    &["scope", "cnf", "public_key", "htm", "htu", "ath", "upd", "client_id", "software_id"],
                )
                && aud_is(claims, ISSUER)
                && is_device(claims, "sub", false)
                && is_device(claims, "iss", true)
                && claims.get("eth").is_some_and(|eth| *eth == base64url_encode(&AUTHORITY))
                && times_fit(claims, SKEW_S, false)
                && matches!(nonce_of(claims, NoncePurpose::Enrolment), Ok(Some(_)))
        },
    );
    kind.keys = vec![&WORLD.new_key];
    kind.inner = true;
    kind
});

const URL: &str = "https://core.example/oauth/token";
const ACCESS_TOKEN: &str = "dbo_an-access-token";

/// The request of the proof: at the token endpoint, there with a nonce wanted, or with an access token.
fn dpop_request(clock: DeviceClock) -> (bool, Option<&'static str>) {
    match clock {
        DeviceClock::Good => (false, None),
        DeviceClock::Coarse => (true, None),
        DeviceClock::None => (false, Some(ACCESS_TOKEN)),
    }
}

kind!(dpop_proof, {
    let claims = json!({ "htm": "POST", "htu": URL, "iat": NOW_S, "jti": "0123456789abcdef" });
    let mut kind = Kind::of_device(
        Draft::new(Some("dpop+jwt"), claims),
        |token, clock| {
            let (nonce_wanted, access_token) = dpop_request(clock);
            let rules = DpopRules {
                method: "POST",
                url: URL,
                access_token,
                skew_s: SKEW_S,
                nonces: &WORLD.nonces,
                nonce_wanted,
                token_bytes_max: TOKEN_BYTES_MAX,
            };
            let proven = verify_dpop(token, &rules, NOW_S, &WORLD.checker)?;
            let key =
                embedded_key(token.split('.').next().unwrap_or_default()).expect("it was verified with it");
            assert_eq!(proven.thumbprint, key.thumbprint());
            assert!(proven.until_s > NOW_S && proven.until_s <= NOW_S + 2 * SKEW_S + 1);
            Ok(())
        },
        |header, claims, clock| {
            let (nonce_wanted, access_token) = dpop_request(clock);
            let key = header.get("jwk").and_then(|key| PublicKey::from_jwk(key.to_string().as_bytes()).ok());
            let kid = header.get("kid").and_then(Value::as_str);
            let iat = seconds(claims, "iat").ok().flatten();
            let ath = access_token.map(|token| base64url_encode(&sha256(token.as_bytes())));
            let fresh = match nonce_of(claims, NoncePurpose::Dpop) {
                Err(()) => false,
                Ok(None) => {
                    let recent = iat.is_some_and(|iat_s| iat_s + SKEW_S >= NOW_S);
                    !nonce_wanted && recent && times_fit(claims, SKEW_S, false)
                }
                Ok(Some(_)) => true,
            };
            typ_is(header, &["dpop+jwt"], false)
                && key.is_some_and(|key| kid.is_none_or(|kid| kid == key.thumbprint()))
                && has_none(claims, &["sub", "aud", "cnf", "scope"])
                && claims.get("htm").is_some_and(|htm| htm == "POST")
                && claims.get("htu").and_then(Value::as_str).is_some_and(is_url)
                && jti_fits(claims)
                && iat.is_some()
                && claims.get("ath").map(|ath| ath.as_str().unwrap_or_default()) == ath.as_deref()
                && fresh
        },
    );
    kind.embedded = true;
    kind
});

/// Whether a text is another spelling of [`URL`].
fn is_url(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else { return false };
    let at = rest.find('/').unwrap_or(rest.len());
    let (host, path) = (rest[..at].to_ascii_lowercase(), &rest[at..]);
    // No escape is left that could stand for one of the slashes.
    let mut plain = String::new();
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        let escaped = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        match byte {
            b'%' => match (escaped(bytes.next()), escaped(bytes.next())) {
                (Some(high), Some(low)) => plain.push(char::from((high * 16 + low) as u8)),
                _ => return false,
            },
            byte => plain.push(char::from(byte)),
        }
    }
    scheme.eq_ignore_ascii_case("https")
        && ["core.example", "core.example:443", "core.example:"].contains(&host.as_str())
        && plain == "/oauth/token"
        && path.matches('/').count() == 2
}

kind!(
    software_statement,
    Kind::of_device(
        {
            let claims = json!({
                "iss": DEVICE, "aud": ISSUER, "iat": NOW_S - 100, "exp": NOW_S + 1000, "software_id": "pump 3.1",
                "id_pattern": "pump-*",
            });
            Draft::new(Some("software-statement+jwt"), claims)
        },
        |token, clock| {
            let jwt = SoftwareStatement::parse(token, TOKEN_BYTES_MAX)?;
            let maker = WORLD.candidate(clock);
            let known = jwt.claimed().is_some_and(|name| name == WORLD.name).then_some(&maker);
            jwt.verify(known, ISSUER, SKEW_S, NOW_S, &WORLD.checker).map(drop)
        },
        |header, claims, _| {
            let text = |name: &str| claims.get(name).map(|value| value.as_str().unwrap_or_default());
            let is_name = |name: &str| drawbridge_names::PrincipalName::parse(name).is_ok();
            let devices = match (text("client_id"), text("id_pattern"), claims.get("cnf")) {
                (Some(name), None, None) => is_name(name),
                (Some(name), None, Some(cnf)) => {
                    let jkt = cnf.get("jkt").and_then(Value::as_str).unwrap_or_default();
                    let digest = URL_SAFE_NO_PAD.decode(jkt).unwrap_or_default();
                    let alone = cnf.as_object().is_some_and(|cnf| cnf.len() == 1);
                    is_name(name)
                        && alone
                        && digest.len() == 32
                        && drawbridge_names::KeyId::parse(jkt).is_ok()
                }
                (None, Some(pattern), None) => {
                    pattern.len() <= drawbridge_names::PrincipalName::BYTES_MAX
                        && pattern.bytes().any(|byte| byte != b'*')
                        && is_name(&pattern.replace('*', "a"))
                }
                _ => false,
            };
            typ_is(header, &["software-statement+jwt"], false)
                && kid_fits(header)
                && !header.contains_key("jwk")
                && has_none(
                    claims,
                    &["scope", "public_key", "htm", "nonce", "eth", "upd", "redirect_uris", "jwks_uri"],
                )
                && is_device(claims, "iss", false)
                && aud_is(claims, ISSUER)
                && claims.contains_key("exp")
                && claims.contains_key("iat")
                && times_fit(claims, SKEW_S, true)
                && text("software_id").is_some_and(|id| {
                    (1..=128).contains(&id.len()) && id.bytes().all(|byte| (b' '..=b'~').contains(&byte))
                })
                && devices
        },
    )
);

kind!(
    legacy_login,
    Kind::of_device(
        Draft::new(Some("JWT"), json!({ "sub": DEVICE, "jti": "0123456789ABCDEF" })).header("kid", DEVICE),
        |token, clock| {
            let jwt = LegacyLogin::parse(token, TOKEN_BYTES_MAX)?;
            let candidate = WORLD.candidate(clock);
            let known = jwt.claimed().is_some_and(|name| name == WORLD.name).then_some(&candidate);
            jwt.verify(known, &WORLD.rules(), NOW_S, &WORLD.checker).map(drop)
        },
        |header, claims, _| legacy_fits(header, claims)
            && has_none(claims, &["public_key", "cnf", "upd", "htm"]),
    )
);

kind!(
    legacy_update,
    Kind::of_device(
        {
            let pem: String = WORLD.new_key.public_key().to_pem().split('\n').collect();
            let claims = json!({ "sub": DEVICE, "public_key": pem, "jti": "0123456789ABCDEF" });
            Draft::new(Some("JWT"), claims).header("kid", DEVICE)
        },
        |token, clock| {
            let jwt = LegacyUpdate::parse(token, TOKEN_BYTES_MAX)?;
            let candidate = WORLD.candidate(clock);
            let known = jwt.claimed().is_some_and(|name| name == WORLD.name).then_some(&candidate);
            jwt.verify(known, &WORLD.rules(), NOW_S, &WORLD.checker).map(drop)
        },
        |header, claims, _| {
            let key = claims.get("public_key").and_then(Value::as_str).filter(|text| text.len() <= 2048);
            legacy_fits(header, claims)
                && has_none(claims, &["cnf", "upd", "htm"])
                && key.is_some_and(|text| {
                    PublicKey::from_spki_pem(text).or_else(|_| PublicKey::from_bare_base64(text)).is_ok()
                })
        },
    )
);

fn legacy_fits(header: &Map<String, Value>, claims: &Map<String, Value>) -> bool {
    typ_is(header, &["jwt"], false)
        && header.get("kid").is_some_and(|kid| kid == DEVICE)
        && !header.contains_key("jwk")
        && is_device(claims, "sub", false)
        && is_device(claims, "iss", true)
        && (!claims.contains_key("aud") || aud_is(claims, ISSUER))
        && times_fit(claims, SKEW_S, true)
        && jti_fits(claims)
}

kind!(connect_jwt, {
    let claims = json!({ "sub": DEVICE, "aud": BRIDGE, "iat": NOW_S, "exp": NOW_S + 3600 });
    let mut kind = Kind::of_device(
        Draft::new(Some("JWT"), claims),
        |token, clock| {
            let jwt = ConnectJwt::parse(token.as_bytes(), TOKEN_BYTES_MAX)?;
            // The name comes from the client id; a `sub`, where there is one, must not be another's.
            let known = jwt.subject()?.is_none_or(|name| name == WORLD.name);
            let candidate = WORLD.candidate(clock);
            let proof = jwt.verify(known.then_some(&candidate), &CONNECT_RULES, NOW_S, &WORLD.checker)?;
            assert!(proof.ends_s > NOW_S && proof.ends_s <= NOW_S + CONNECT_LIFE_S_MAX + 3 * SKEW_S);
            Ok(())
        },
        |header, claims, clock| {
            let (Ok(exp), Ok(iat)) = (seconds(claims, "exp"), seconds(claims, "iat")) else { return false };
            let Some(exp_s) = exp else { return false };
            let lives = exp_s.saturating_sub(iat.unwrap_or(NOW_S)) <= CONNECT_LIFE_S_MAX + SKEW_S;
            typ_is(header, &["jwt"], true)
                && clock == DeviceClock::Good
                && kid_fits(header)
                && !header.contains_key("jwk")
                && has_none(claims, &["cnf", "public_key", "htm", "upd"])
                && is_device(claims, "sub", true)
                && is_device(claims, "iss", true)
                && (aud_is(claims, BRIDGE) || aud_is(claims, PROJECT))
                && times_fit(claims, SKEW_S, true)
                && lives
                && iat.is_none_or(|iat_s| exp_s > iat_s)
                && (iat.is_some() || jti_fits(claims))
        },
    );
    kind.padded = true;
    kind
});

kind!(access_token, {
    let claims = json!({
        "iss": ISSUER, "sub": DEVICE, "client_id": DEVICE, "aud": BRIDGE, "iat": NOW_S, "exp": NOW_S + 3600,
        "jti": "0123456789abcdef", "uid": "7", "epoch": 1, "akid": WORLD.keys[0].public_key().thumbprint(),
    });
    let mut kind = Kind::of_device(
        Draft::new(Some("at+jwt"), claims).header("kid", WORLD.issuer.kid()),
        |token, _| {
            let keys = [WORLD.issuer.public_key()];
            let jwt = AccessToken::parse(token.as_bytes(), 8192)?;
            let claims = jwt.verify(ISSUER, &keys, NOW_S, &WORLD.checker)?;
            // What was accepted can be issued again and means the same.
            let again = WORLD.issuer.issue(&claims).expect("the key signs");
            let again = AccessToken::parse(again.as_bytes(), 16_384).expect("our own token");
            assert_eq!(again.verify(ISSUER, &keys, NOW_S, &WORLD.checker).as_ref(), Ok(&claims));
            Ok(())
        },
        |header, claims, _| {
            let number = |of: &Map<String, Value>, name: &str| seconds(of, name).ok().flatten();
            let is_text = |name: &str, absent: bool| claims.get(name).map_or(absent, Value::is_string);
            let names_principal = |of: &Map<String, Value>| {
                let text = |name: &str| of.get(name).and_then(Value::as_str);
                text("uid").is_some_and(|uid| uid.parse::<u64>().is_ok())
                    && text("sub").is_some_and(|sub| drawbridge_names::PrincipalName::parse(sub).is_ok())
                    && number(of, "epoch").is_some()
            };
            let akid = claims.get("akid").map(|akid| akid.as_str().unwrap_or_default());
            let bound = claims.get("cnf").is_none_or(|cnf| {
                let is_text = |name: &str| cnf.get(name).is_some_and(Value::is_string);
                let others = |name: &str| cnf.get(name).is_none();
                (is_text("jkt") && others("x5t#S256")) || (is_text("x5t#S256") && others("jkt"))
            });
            typ_is(header, &["at+jwt"], false)
                && header.get("kid").is_some_and(|kid| kid == WORLD.issuer.kid())
                && !header.contains_key("jwk")
                && claims.get("iss").is_some_and(|iss| iss == ISSUER)
                && number(claims, "exp").is_some_and(|exp_s| NOW_S < exp_s)
                && number(claims, "iat").is_some()
                && names_principal(claims)
                && akid.is_none_or(|akid| drawbridge_names::KeyId::parse(akid).is_ok())
                && ["client_id", "aud", "jti"].into_iter().all(|name| is_text(name, false))
                && is_text("scope", true)
                && bound
                && claims.get("act").is_none_or(|act| act.as_object().is_some_and(names_principal))
        },
    );
    kind.keys = vec![&WORLD.issuer_signing];
    kind.token_bytes_max = 8192;
    kind
});

pub(crate) mod legacy_pop {
    use super::*;
    use crate::jose::ecdsa_der;

    pub(crate) fn run(data: &[u8]) -> Outcome {
        let Ok(text) = std::str::from_utf8(data) else { return Outcome::refused("no text") };
        let key = WORLD.new_key.public_key();
        match verify_legacy_pop(text, UPDATE, key, &WORLD.checker) {
            Ok(form) => {
                let url_safe = text.trim_end_matches('=').replace('+', "-").replace('/', "_");
                let der = URL_SAFE_NO_PAD.decode(url_safe).expect("it was read");
                let point = &key.spki_der()[key.spki_der().len() - 65..];
                let primitive = &aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1;
                let theirs = aws_lc_rs::signature::UnparsedPublicKey::new(primitive, point);
                let hash = sha256(UPDATE.as_bytes());
                assert!(theirs.verify(UPDATE.as_bytes(), &der).is_ok() || theirs.verify(&hash, &der).is_ok());
                Outcome(format!("accepted {form:?}"))
            }
            Err(refusal) => {
                assert!(matches!(refusal, Refusal::Pop(_)));
                judge_refusal(&refusal, text);
                Outcome::refused(refusal)
            }
        }
    }

    pub(crate) fn seeds() -> Vec<Vec<u8>> {
        let hash = sha256(UPDATE.as_bytes());
        let mut seeds = Vec::new();
        for message in [UPDATE.as_bytes(), &hash] {
            let der = ecdsa_der::sign(&WORLD.new_key, message);
            seeds.push(URL_SAFE_NO_PAD.encode(&der).into_bytes());
            seeds.push(base64::engine::general_purpose::STANDARD.encode(&der).into_bytes());
            let raw = WORLD.new_key.sign(message).expect("the key signs");
            seeds.push(URL_SAFE_NO_PAD.encode(raw).into_bytes());
        }
        seeds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds() -> [(&'static str, &'static Kind); 11] {
        [
            ("DPoP proof", &dpop_proof::KIND),
            ("client assertion", &client_assertion::KIND),
            ("key update", &key_update::KIND),
            ("key removal", &key_remove::KIND),
            ("proof of possession", &key_pop::KIND),
            ("proof of an enrolment", &enrolment_proof::KIND),
            ("software statement", &software_statement::KIND),
            ("legacy login", &legacy_login::KIND),
            ("legacy update", &legacy_update::KIND),
            ("JWT for CONNECT", &connect_jwt::KIND),
            ("access token", &access_token::KIND),
        ]
    }

    fn token(kind: &Kind, key: &SigningKey, change: impl FnOnce(&mut Draft)) -> String {
        let mut draft = edit(&kind.started(key), key, &[]);
        change(&mut draft);
        let [header, claims] = [draft.header, draft.claims].map(|map| Value::Object(map).to_string());
        signed(header.as_bytes(), claims.as_bytes(), key)
    }

    fn judged(kind: &Kind, token: &str) -> Result<(), Refusal> {
        (kind.judge)(token, DeviceClock::Good)
    }

    /// CVE-2023-51774 and RFC 8725 section 2.8: one JWT in the place of another.
    #[test]
    fn no_jwt_passes_as_two_kinds() {
        let mut refused = 0;
        for (name, kind) in kinds() {
            let good = token(kind, kind.keys[0], |_| {});
            assert_eq!(judged(kind, &good), Ok(()), "{name}");
            for (other_name, other) in kinds().into_iter().filter(|(other, _)| *other != name) {
                assert!(judged(other, &good).is_err(), "a {name} passes as {other_name}");
                // Nor when the right key of the other place signs it.
                let by_its_key = token(kind, other.keys[0], |_| {});
                assert!(judged(other, &by_its_key).is_err(), "a {name} by its key passes as {other_name}");
                refused += 2;
            }
        }
        assert_eq!(refused, 220);
    }

    /// CVE-2019-7644, CVE-2024-53861: names and issuers compared by a part of them; CVE-2020-26160: `aud` of the wrong
    /// type skips its check.
    #[test]
    fn names_issuers_and_audiences_are_compared_whole_and_must_be_there() {
        let wrong = |right: &str| {
            vec![
                None,
                Some(Value::Null),
                Some(json!([])),
                Some(json!({ "0": right })),
                Some(json!(7)),
                Some("".into()),
                Some(right[1..].into()),
                Some(right[..right.len() - 1].into()),
                Some(format!("{right}x").into()),
                Some(format!("{right}/").into()),
                Some(format!("{right}.attacker.example").into()),
                Some(format!(" {right}").into()),
                Some(right.to_uppercase().into()),
                Some(json!([right, "x"])),
                Some(json!([right, right])),
                Some(json!([[right]])),
            ]
        };
        let rows: [(&str, &Kind, &str, &str); 9] = [
            ("client assertion", &client_assertion::KIND, "aud", ISSUER),
            ("client assertion", &client_assertion::KIND, "iss", DEVICE),
            ("client assertion", &client_assertion::KIND, "sub", DEVICE),
            ("key update", &key_update::KIND, "aud", ISSUER),
            ("proof of possession", &key_pop::KIND, "aud", ISSUER),
            ("software statement", &software_statement::KIND, "aud", ISSUER),
            ("legacy login", &legacy_login::KIND, "sub", DEVICE),
            ("JWT for CONNECT", &connect_jwt::KIND, "aud", BRIDGE),
            ("access token", &access_token::KIND, "iss", ISSUER),
        ];
        for (name, kind, claim, right) in rows {
            for value in wrong(right) {
                let jwt = token(kind, kind.keys[0], |draft| match value.clone() {
                    Some(value) => drop(draft.claims.insert(claim.into(), value)),
                    None => drop(draft.claims.remove(claim)),
                });
                assert!(judged(kind, &jwt).is_err(), "{name}: `{claim}` is {value:?}");
            }
        }
    }

    /// CVE-2025-65945 and all of its kind: what stands in a token only selects among the keys of the principal it
    /// claims to be from.
    #[test]
    fn nothing_in_a_token_brings_a_key_of_somebody_else() {
        let stranger = &WORLD.stranger;
        let kid = stranger.public_key().thumbprint();
        type Change = fn(&mut Draft);
        let changes: [(&str, Change); 6] = [
            ("nothing changed", |_| {}),
            ("kid of the stranger", |draft| {
                drop(draft.header.insert("kid".into(), WORLD.stranger.public_key().thumbprint().into()));
            }),
            ("kid of a key of the device", |draft| {
                drop(draft.header.insert("kid".into(), WORLD.keys[0].public_key().thumbprint().into()));
            }),
            ("jwk of the stranger", |draft| drop(draft.header.insert("jwk".into(), jwk(&WORLD.stranger)))),
            ("jku", |draft| drop(draft.header.insert("jku".into(), "https://attacker.example".into()))),
            ("cnf of the stranger", |draft| {
                drop(draft.claims.insert("cnf".into(), json!({ "jwk": jwk(&WORLD.stranger) })));
            }),
        ];
        // A DPoP proof says nothing but that its sender has the key in it, whosever it is.
        for (name, kind) in kinds().into_iter().filter(|(_, kind)| !kind.embedded) {
            for (what, change) in changes {
                let refusal = judged(kind, &token(kind, stranger, change)).expect_err(what);
                assert!(kind.inner || !refusal.is_proven(), "{name}, {what}: {refusal}");
                assert!(!refusal.to_string().contains(kid), "{name}, {what}: {refusal}");
            }
        }
    }
}
