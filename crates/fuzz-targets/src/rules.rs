//! What a good token is, written down a second time: without our parsers, over what another reader of JSON
//! finds in it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use drawbridge_identity::{Dates, DeviceClock, NoncePurpose};
use drawbridge_jose::{Algorithm, PublicKey, Sign as _, SigningKey, base64url_encode};
use drawbridge_names::KeyId;
use serde_json::{Map, Value, json};

use crate::edits::{NONCE_AGES, good_keys};
use crate::world::{
    CONNECT_LIFE_S_MAX, DEVICE, EXPORTER, ISSUER, LIFE_S_MAX, NOT_BEFORE_S, NOW_S, SKEW_S, WORLD,
};

/// The rules of a header that every kind shares; `jwk` is for the kind to judge.
pub(crate) fn plain_header(header: &Map<String, Value>, key: &SigningKey) -> bool {
    let alg = header.get("alg").and_then(Value::as_str);
    let is_alg = alg == Some(key.algorithm().name())
        || (alg == Some("Ed25519") && key.algorithm() == Algorithm::EdDsa);
    let is_text = |name: &str| header.get(name).is_none_or(Value::is_string);
    let is_scalar = |name: &str| header.get(name).is_none_or(|value| !value.is_object() && !value.is_array());
    is_alg && is_text("typ") && is_text("kid") && is_scalar("x") && !header.contains_key("crit")
}

/// `kid` names, where it names a key of the device at all, one of this algorithm.
pub(crate) fn kid_fits(header: &Map<String, Value>) -> bool {
    let kid = header.get("kid").and_then(Value::as_str).unwrap_or_default();
    let alg = header.get("alg").and_then(Value::as_str).and_then(Algorithm::from_header);
    WORLD.keys.iter().all(|key| {
        let label = if key.algorithm() == Algorithm::Es256 { "factory" } else { "no label" };
        (key.public_key().thumbprint() != kid && label != kid) || Some(key.algorithm()) == alg
    })
}

pub(crate) fn typ_is(header: &Map<String, Value>, wanted: &[&str], absent: bool) -> bool {
    let Some(typ) = header.get("typ") else { return absent };
    let typ = typ.as_str().unwrap_or_default().to_ascii_lowercase();
    wanted.contains(&typ.strip_prefix("application/").unwrap_or(&typ))
}

/// `Err` for anything but seconds.
pub(crate) fn seconds(claims: &Map<String, Value>, name: &str) -> Result<Option<u64>, ()> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let number = value.as_f64().ok_or(())?;
    if !(0.0..9_007_199_254_740_992.0).contains(&number) { Err(()) } else { Ok(Some(number as u64)) }
}

/// `exp`, where there is one, is not past, `iat` and `nbf` are not ahead, and `iat` is after the revocation.
pub(crate) fn times_fit(claims: &Map<String, Value>, skew_s: u64, revocation: bool) -> bool {
    let not_ahead = |name| seconds(claims, name).is_ok_and(|at| at.is_none_or(|at_s| at_s <= NOW_S + skew_s));
    let after =
        seconds(claims, "iat").is_ok_and(|iat| !revocation || iat.is_none_or(|iat_s| iat_s > NOT_BEFORE_S));
    let exp = seconds(claims, "exp").is_ok_and(|exp| exp.is_none_or(|exp_s| NOW_S < exp_s + skew_s));
    not_ahead("iat") && not_ahead("nbf") && after && exp
}

pub(crate) fn aud_is(claims: &Map<String, Value>, wanted: &str) -> bool {
    claims.get("aud").is_some_and(|aud| *aud == json!(wanted) || *aud == json!([wanted]))
}

pub(crate) fn jti_fits(claims: &Map<String, Value>) -> bool {
    let jti = claims.get("jti").and_then(Value::as_str).unwrap_or_default();
    (16..=128).contains(&jti.len()) && jti.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}

pub(crate) fn is_device(claims: &Map<String, Value>, name: &str, absent: bool) -> bool {
    claims.get(name).map_or(absent, |found| found == DEVICE)
}

pub(crate) fn has_none(claims: &Map<String, Value>, names: &[&str]) -> bool {
    names.iter().all(|name| !claims.contains_key(*name))
}

/// How old the nonce of a JWT may show it to be; `Err` for one that is none.
pub(crate) fn nonce_of(claims: &Map<String, Value>, purpose: NoncePurpose) -> Result<Option<u64>, ()> {
    let Some(nonce) = claims.get("nonce") else { return Ok(None) };
    NONCE_AGES.into_iter().find(|age_s| *nonce == WORLD.nonce(purpose, *age_s)).map(Some).ok_or(())
}

pub(crate) const DAY_S: u64 = 86_400;

pub(crate) fn assertion_fits(claims: &Map<String, Value>, clock: DeviceClock) -> bool {
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

/// Nonce, channel binding, dates and `jti` of a JWT for CONNECT, or of one that renews an open session.
pub(crate) fn connect_is_fresh(claims: &Map<String, Value>, clock: DeviceClock, renews: bool) -> bool {
    let Ok(nonce) = nonce_of(claims, NoncePurpose::Assertion) else { return false };
    let bound = claims.contains_key("cb");
    if bound && claims["cb"] != base64url_encode(&EXPORTER) {
        return false;
    }
    // A session that is open has had its binding for long: it shows nothing new.
    let shown = nonce.is_some() || (bound && !renews);
    let (Ok(exp), Ok(iat)) = (seconds(claims, "exp"), seconds(claims, "iat")) else { return false };
    let lives = |skew_s| {
        exp.is_some_and(|exp_s| {
            exp_s.saturating_sub(iat.unwrap_or(NOW_S)) <= CONNECT_LIFE_S_MAX + skew_s
                && iat.is_none_or(|iat_s| iat_s < exp_s)
        })
    };
    let dates = match clock {
        DeviceClock::Good => lives(SKEW_S) && times_fit(claims, SKEW_S, true),
        DeviceClock::Coarse => {
            let recent = iat.is_none_or(|iat_s| iat_s + DAY_S >= NOW_S);
            shown && lives(DAY_S) && times_fit(claims, DAY_S, false) && recent
        }
        DeviceClock::None => shown && are_dates(claims),
    };
    let dated = clock == DeviceClock::Good && iat.is_some();
    // On its own connection it is worth as much the second time, if anything tells when it was signed.
    let once = !dated && !(bound && (shown || iat.is_some()));
    dates && (!once || jti_fits(claims))
}

/// `cnf` of an access token: one member, known, and of its form.
pub(crate) fn is_confirmation(cnf: &Value) -> bool {
    let Some(members) = cnf.as_object().filter(|members| members.len() == 1) else { return false };
    members.iter().all(|(name, value)| {
        let text = value.as_str();
        let bytes = text.and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
        match name.as_str() {
            "jkt" | "x5t#S256" => bytes.is_some_and(|bytes| bytes.len() == 32),
            "jwk" => is_public_key(value),
            "kid" => text.is_some_and(|kid| KeyId::parse(kid).is_ok()),
            "jwe" => text.is_some(),
            "cose" => bytes.is_some(),
            _ => false,
        }
    })
}

/// Dates that are not compared with the time.
pub(crate) fn are_dates(claims: &Map<String, Value>) -> bool {
    let is_date =
        |name| seconds(claims, name).is_ok_and(|at| at.is_none_or(|at_s| at_s <= u64::from(u32::MAX)));
    is_date("exp") && is_date("iat") && is_date("nbf")
}

/// Of the keys that edits put there it is known; others are asked without what is not known to matter.
pub(crate) fn is_good_key(key: &Value) -> bool {
    is_public_key(key) && (good_keys().contains(key) || key.to_string().len() <= 2048)
}

fn is_public_key(key: &Value) -> bool {
    let is_public = key.get("d").is_none() && key.get("k").is_none();
    good_keys().contains(key) || (is_public && PublicKey::from_jwk(key.to_string().as_bytes()).is_ok())
}

pub(crate) fn dates_of(clock: DeviceClock) -> Dates {
    match clock {
        DeviceClock::Good => Dates::Skew,
        DeviceClock::Coarse => Dates::Day,
        DeviceClock::None => Dates::Any,
    }
}

/// The key and its `kid` in the header, where there are any, are the new key.
pub(crate) fn is_of_new_key(header: &Map<String, Value>) -> bool {
    let thumbprint = WORLD.new_key.public_key().thumbprint();
    let same = |key: &Value| {
        PublicKey::from_jwk(key.to_string().as_bytes()).is_ok_and(|key| key.thumbprint() == thumbprint)
    };
    header.get("jwk").is_none_or(same) && header.get("kid").is_none_or(|kid| kid == thumbprint)
}

/// Whether a text is another spelling of [`URL`].
pub(crate) fn is_url(text: &str) -> bool {
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

pub(crate) fn legacy_fits(header: &Map<String, Value>, claims: &Map<String, Value>) -> bool {
    typ_is(header, &["jwt"], false)
        && header.get("kid").is_some_and(|kid| kid == DEVICE)
        && !header.contains_key("jwk")
        && is_device(claims, "sub", false)
        && is_device(claims, "iss", true)
        && (!claims.contains_key("aud") || aud_is(claims, ISSUER))
        && times_fit(claims, SKEW_S, true)
        && jti_fits(claims)
}
