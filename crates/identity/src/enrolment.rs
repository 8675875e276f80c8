//! A device registers itself: who may (the names of an enrolment), and the proof that it has the keys it
//! brings.

use drawbridge_jose::{PublicKey, base64url_encode};
use drawbridge_names::PrincipalName;

use crate::keys::Checker;
use crate::nonce::{NoncePurpose, Nonces};
use crate::presented::{Presented, Wanted};
use crate::refusal::Refusal;
use crate::rules::{self, Now};

const KIND: &str = "proof of an enrolment";
const WANTED: Wanted = Wanted { kind: KIND, types: &["enrolment-proof+jwt"], plain: false };

/// Most keys that a device may bring, and so most proofs.
pub const ENROLMENT_KEYS_MAX: usize = 5;

/// What the proof of an enrolment is judged by.
#[derive(Debug, Clone, Copy)]
pub struct EnrolmentRules<'a> {
    /// The issuer identifier of the registry: the only `aud` accepted.
    pub issuer: &'a str,
    /// The name that the device asks for: the only `sub` accepted.
    pub device: &'a PrincipalName,
    /// SHA-256 of the enrolment token, or of the software statement, that came with the proof.
    pub authority: &'a [u8; 32],
    /// How far the device's clock may be off, in seconds; of use only if it sends `iat`, `nbf` or `exp`.
    pub skew_s: u64,
    /// Judges the nonce, which makes the proof fresh without a clock.
    pub nonces: &'a Nonces,
}

/// Judges the proof of one key: a JWT by that very key over the nonce of the server, the name asked for,
/// the issuer, and the hash of what permits the enrolment. The key came with the request (I8): nothing else
/// vouches for it, and nothing else is claimed but that the sender has its private half.
///
/// # Errors
/// [`Refusal::NonceWanted`] and [`Refusal::NonceStale`] if all else is good: a new nonce mends it;
/// [`Refusal::Pop`] for everything else.
pub fn verify_enrolment_proof(
    proof: &str,
    token_bytes_max: usize,
    key: &PublicKey,
    rules: &EnrolmentRules<'_>,
    now_s: u64,
    checker: &Checker,
) -> Result<(), Refusal> {
    let judge = || -> Result<Option<String>, Refusal> {
        let presented = Presented::parse_with_jwk(proof.as_bytes(), token_bytes_max, &WANTED)?;
        presented.names_only(key)?;
        let claims = &presented.prove_by(key, checker)?;
        rules::has_none_of(
            claims,
            &["scope", "cnf", "public_key", "htm", "htu", "ath", "upd", "client_id", "software_id"],
            KIND,
        )?;
        rules::audience_is(claims, rules.issuer)?;
        rules::names_owner(claims, "sub", rules.device.as_str(), true, KIND)?;
        rules::names_owner(claims, "iss", rules.device.as_str(), false, KIND)?;
        let eth = rules::text(claims, "eth", KIND)?;
        if eth != Some(base64url_encode(rules.authority).as_str()) {
            let found = match eth {
                Some(_) => {
                    "`eth` is not the SHA-256 of the enrolment token or software statement sent with it"
                }
                None => "`eth` is missing; wanted base64url of the SHA-256 of the enrolment token",
            };
            return Err(Refusal::Kind { found: found.into(), wanted: KIND });
        }
        let now = Now { now_s, skew_s: rules.skew_s };
        if let Some(exp_s) = now.date(claims, "exp")? {
            now.not_past(exp_s)?;
        }
        now.not_future(claims, "iat")?;
        now.not_future(claims, "nbf")?;
        Ok(rules::text(claims, "nonce", KIND)?.map(str::to_owned))
    };
    let nonce = judge().map_err(|refusal| Refusal::Pop(refusal.to_string()))?;
    let nonce = nonce.ok_or(Refusal::NonceWanted)?;
    rules.nonces.check(NoncePurpose::Enrolment, &nonce, now_s).map(|_| ())
}

/// Whether a name fits a pattern: `*` stands for any characters, also none, everything else for itself.
#[must_use]
pub fn pattern_fits(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut p, mut n) = (0, 0);
    // Where the last `*` was, and how much of the name it has taken so far.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, n));
            p += 1;
        } else if pattern.get(p) == Some(&name[n]) {
            p += 1;
            n += 1;
        } else if let Some((at, taken)) = star {
            star = Some((at, taken + 1));
            p = at + 1;
            n = taken + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use drawbridge_jose::{Algorithm, Header, SigningKey, sha256, sign_compact};
    use serde_json::{Value, json};

    use super::*;

    const NOW_S: u64 = 1_795_301_000;
    const ISSUER: &str = "https://core.example";

    #[test]
    fn a_pattern_stands_for_whole_names_and_its_star_for_any_characters() {
        for (pattern, name, fits) in [
            ("pump-*", "pump-0042", true),
            ("pump-*", "pump-", true),
            ("pump-*", "pump", false),
            ("pump-*", "xpump-1", false),
            ("*", "anything", true),
            ("*-a", "b-a-a", true),
            ("*-a", "b-a-b", false),
            ("a*b*c", "aXXbYYc", true),
            ("a*b*c", "abc", true),
            ("a*b*c", "acb", false),
            ("lamp", "lamp", true),
            ("lamp", "Lamp", false),
            ("lamp", "lamp2", false),
            ("", "x", false),
            ("**", "x", true),
            ("a.c", "abc", false),
        ] {
            assert_eq!(pattern_fits(pattern, name), fits, "{pattern} {name}");
        }
        // A pattern of many stars takes no more time than its length times the name's.
        assert!(!pattern_fits(&"*a".repeat(100), &"b".repeat(255)));
    }

    #[test]
    fn a_proof_binds_key_name_issuer_token_and_nonce_and_no_other_jwt_is_one() {
        let nonces = Nonces::new(&[7; 32]);
        let nonce = nonces.mint(NoncePurpose::Enrolment, NOW_S, [1; 8]);
        let key = SigningKey::generate(Algorithm::Es256).expect("a key");
        let other = SigningKey::generate(Algorithm::Es256).expect("a key");
        let device = PrincipalName::parse("pump-1").expect("a name");
        let authority = sha256(b"dbe_token");
        let good = json!({
            "aud": ISSUER, "sub": "pump-1", "nonce": nonce, "eth": base64url_encode(&authority),
        });
        let with = |name: &str, value: Value| {
            let mut claims = good.clone();
            match value {
                Value::Null => drop(claims.as_object_mut().expect("an object").remove(name)),
                value => claims[name] = value,
            }
            claims
        };
        let judge = |claims: &Value, typ: &str, by: &SigningKey, embedded: Option<&PublicKey>| {
            let header = Header { typ: Some(typ), kid: None, jwk: embedded };
            let proof = sign_compact(&header, claims.to_string().as_bytes(), by).expect("signs");
            let rules = EnrolmentRules {
                issuer: ISSUER,
                device: &device,
                authority: &authority,
                skew_s: 60,
                nonces: &nonces,
            };
            verify_enrolment_proof(&proof, 4096, key.public_key(), &rules, NOW_S, &Checker::new())
        };
        const TYP: &str = "enrolment-proof+jwt";
        assert_eq!(judge(&good, TYP, &key, None), Ok(()));
        assert_eq!(judge(&good, TYP, &key, Some(key.public_key())), Ok(()));
        let dated = with("iat", json!(NOW_S));
        assert_eq!(judge(&dated, TYP, &key, None), Ok(()));
        let pop = |outcome: Result<(), Refusal>, what: &str| {
            assert!(matches!(outcome, Err(Refusal::Pop(_))), "{what}: {outcome:?}");
        };
        pop(judge(&good, TYP, &other, None), "another key");
        pop(judge(&good, TYP, &key, Some(other.public_key())), "another key in the header");
        for typ in ["JWT", "client-authentication+jwt", "key-pop+jwt", "dpop+jwt"] {
            pop(judge(&good, typ, &key, None), typ);
        }
        for (name, value) in [
            ("aud", json!(null)),
            ("aud", json!("https://core.example/mqtt")),
            ("aud", json!([ISSUER, "x"])),
            ("sub", json!(null)),
            ("sub", json!("pump-2")),
            ("iss", json!("pump-2")),
            ("eth", json!(null)),
            ("eth", json!(base64url_encode(&sha256(b"dbe_other")))),
            ("nonce", json!(7)),
            ("exp", json!(NOW_S - 61)),
            ("iat", json!(NOW_S + 61)),
            ("exp", json!("soon")),
            ("scope", json!("x")),
            ("cnf", json!({})),
            ("htm", json!("POST")),
            ("upd", json!("x")),
            ("public_key", json!("x")),
        ] {
            pop(judge(&with(name, value.clone()), TYP, &key, None), &format!("{name} {value}"));
        }
        assert_eq!(judge(&with("nonce", Value::Null), TYP, &key, None), Err(Refusal::NonceWanted));
        let old = nonces.mint(NoncePurpose::Enrolment, NOW_S - 61, [1; 8]);
        let foreign = nonces.mint(NoncePurpose::Dpop, NOW_S, [1; 8]);
        for nonce in [old, foreign, "x".to_owned()] {
            assert_eq!(judge(&with("nonce", json!(nonce)), TYP, &key, None), Err(Refusal::NonceStale));
        }
    }
}
