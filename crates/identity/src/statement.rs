//! Software statements: a manufacturer says which devices may register themselves.
//!
//! Source: RFC 7591 section 2.3.

use drawbridge_jose::base64url_decode;
use drawbridge_names::{KeyId, PrincipalName};

use crate::keys::{Candidate, Checker};
use crate::presented::{Presented, Wanted};
use crate::refusal::{Refusal, shortened};
use crate::rules::{self, Now};

const KIND: &str = "software statement";
const WANTED: Wanted = Wanted { kind: KIND, types: &["software-statement+jwt"], plain: false };

/// Longest `software_id`, in characters.
const SOFTWARE_ID_CHARS_MAX: usize = 128;

/// A software statement that was read but not yet proven.
pub struct SoftwareStatement<'a>(Presented<'a>);

/// What a good statement says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stated {
    /// The manufacturer's key that signed.
    pub kid: KeyId,
    /// What runs on the devices; 1 to 128 printable ASCII characters.
    pub software_id: String,
    /// Whom it speaks of.
    pub devices: StatedDevices,
    /// Good until this second.
    pub exp_s: u64,
}

/// Whom a software statement speaks of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StatedDevices {
    /// One device, known by name and key: `client_id` and `cnf.jkt`.
    One {
        /// Its name.
        name: PrincipalName,
        /// The RFC 7638 thumbprint of the key it must bring.
        kid: KeyId,
    },
    /// One device, known by name alone: `client_id`.
    Named(PrincipalName),
    /// Devices whose name fits: `id_pattern`, with `*` for any characters.
    Pattern(String),
}

impl<'a> SoftwareStatement<'a> {
    /// Reads a software statement; nothing is believed yet.
    ///
    /// # Errors
    /// [`Refusal`] when it is no strict JWS of `typ` `software-statement+jwt`.
    pub fn parse(jwt: &'a str, token_bytes_max: usize) -> Result<Self, Refusal> {
        Presented::parse(jwt.as_bytes(), token_bytes_max, &WANTED).map(Self)
    }

    /// The manufacturer it claims to be from: `iss`.
    #[must_use]
    pub fn claimed(&self) -> Option<PrincipalName> {
        self.0.unverified_text("iss").and_then(|text| PrincipalName::parse(text).ok())
    }

    /// Judges signature and claims. `candidate`: the manufacturer of [`Self::claimed`], if there is one;
    /// whether it may sign statements the caller judges.
    ///
    /// # Errors
    /// [`Refusal`]; whatever is found before the signature is good is [`Refusal::NotProven`].
    pub fn verify(
        &self,
        candidate: Option<&Candidate<'_>>,
        issuer: &str,
        skew_s: u64,
        now_s: u64,
        checker: &Checker,
    ) -> Result<Stated, Refusal> {
        let proven = self.0.prove(candidate, now_s, checker)?;
        let claims = &proven.claims;
        let wrong = |found: String| Refusal::Kind { found, wanted: KIND };
        rules::has_none_of(
            claims,
            &["scope", "public_key", "htm", "nonce", "eth", "upd", "redirect_uris", "jwks_uri"],
            KIND,
        )?;
        rules::names_owner(claims, "iss", proven.candidate.name.as_str(), true, KIND)?;
        rules::audience_is(claims, issuer)?;
        let now = Now { now_s, skew_s };
        let exp_s = now.expiry(claims)?;
        let iat_s = now.not_future(claims, "iat")?;
        now.not_future(claims, "nbf")?;
        let iat_s =
            iat_s.ok_or_else(|| now.refuse("`iat` is missing; wanted the second of its signature".into()))?;
        rules::after_revocation(Some(iat_s), proven.candidate.not_before_s)?;
        let software_id = rules::text(claims, "software_id", KIND)?
            .filter(|id| {
                (1..=SOFTWARE_ID_CHARS_MAX).contains(&id.len()) && id.chars().all(|c| matches!(c, ' '..='~'))
            })
            .ok_or_else(|| {
                wrong("`software_id` is missing, or not 1 to 128 printable ASCII characters".into())
            })?;
        let name = rules::text(claims, "client_id", KIND)?
            .map(|text| PrincipalName::parse(text).map_err(|error| wrong(format!("`client_id`: {error}"))))
            .transpose()?;
        let pattern = rules::text(claims, "id_pattern", KIND)?;
        let cnf = claims.object("cnf").map_err(|error| wrong(error.to_string()))?;
        let kid = match &cnf {
            None => None,
            Some(cnf) => {
                if cnf.names().any(|name| name != "jkt") {
                    return Err(wrong("`cnf` names a key in another way than by `jkt`".into()));
                }
                let jkt = rules::text(cnf, "jkt", KIND)?.and_then(thumbprint);
                Some(jkt.ok_or_else(|| wrong("`cnf.jkt` is no RFC 7638 thumbprint".into()))?)
            }
        };
        let devices = match (name, pattern, kid) {
            (Some(name), None, Some(kid)) => StatedDevices::One { name, kid },
            (Some(name), None, None) => StatedDevices::Named(name),
            (None, Some(pattern), None) => StatedDevices::Pattern(judged(pattern)?),
            (None, None, Some(_)) => return Err(wrong("`cnf` is there without `client_id`".into())),
            (None, None, None) => {
                return Err(wrong("it speaks of no device; wanted `client_id` or `id_pattern`".into()));
            }
            (_, Some(_), _) => {
                return Err(wrong(
                    "`id_pattern` stands beside `client_id` or `cnf`; wanted one of them".into(),
                ));
            }
        };
        Ok(Stated { kid: proven.key.kid.clone(), software_id: software_id.to_owned(), devices, exp_s })
    }
}

/// A pattern that begins with something: a manufacturer speaks of its own devices, never of all, and `*-*`
/// is nearly all.
fn judged(pattern: &str) -> Result<String, Refusal> {
    match judge_pattern(pattern) {
        Ok(_) if pattern.starts_with('*') => {
            let found = "`id_pattern` begins with `*`; name a prefix, such as `pump-*`".into();
            Err(Refusal::Kind { found, wanted: KIND })
        }
        Ok(_) => Ok(pattern.to_owned()),
        Err(found) => Err(Refusal::Kind { found: format!("`id_pattern` {found}"), wanted: KIND }),
    }
}

/// A text as the RFC 7638 thumbprint of a key: the base64url of 32 bytes.
#[must_use]
pub fn thumbprint(text: &str) -> Option<KeyId> {
    let is_digest = text.len() == 43 && base64url_decode(text).is_ok_and(|bytes| bytes.len() == 32);
    KeyId::parse(text).ok().filter(|_| is_digest)
}

/// Judges a pattern of names; answers whether it fits every name.
///
/// # Errors
/// What is wrong with it, to follow the word for the pattern: it is empty, too long, or could fit no name.
pub fn judge_pattern(pattern: &str) -> Result<bool, String> {
    if pattern.is_empty() {
        return Err("is empty; wanted a name with `*` for any characters, such as `pump-*`".into());
    }
    if pattern.len() > PrincipalName::BYTES_MAX {
        return Err(format!("has {} bytes, at most {} are allowed", pattern.len(), PrincipalName::BYTES_MAX));
    }
    if pattern.bytes().all(|byte| byte == b'*') {
        return Ok(true);
    }
    // What stands for itself must be able to stand in a name: a `*` at the start may take what it needs.
    let sample = pattern.replace('*', "a");
    PrincipalName::parse(&sample)
        .map(|_| false)
        .map_err(|error| format!("`{}` fits no name: {error}", shortened(pattern)))
}

#[cfg(test)]
mod tests {
    use drawbridge_jose::{Algorithm, Header, SigningKey, sign_compact};
    use serde_json::{Value, json};

    use super::*;
    use crate::{KeyRing, RingKey};

    const NOW_S: u64 = 1_795_301_000;
    const ISSUER: &str = "https://core.example";

    #[test]
    fn a_statement_speaks_of_one_device_or_of_a_pattern_and_of_nothing_else() {
        let key = SigningKey::generate(Algorithm::Es256).expect("a key");
        let maker = PrincipalName::parse("acme").expect("a name");
        let ring = KeyRing::new(vec![RingKey {
            kid: KeyId::parse(key.public_key().thumbprint()).expect("a thumbprint"),
            public: key.public_key().clone(),
            label: None,
            in_grace: false,
            not_before_s: None,
            expires_s: None,
        }]);
        let candidate = Candidate {
            name: &maker,
            ring: &ring,
            not_before_s: NOW_S - 500,
            legacy_assertions: false,
            clock: None,
        };
        let judge = |claims: &Value, typ: &str| {
            let header = Header { typ: Some(typ), kid: None, jwk: None };
            let jwt = sign_compact(&header, claims.to_string().as_bytes(), &key).expect("signs");
            let statement = SoftwareStatement::parse(&jwt, 4096)?;
            assert_eq!(statement.claimed().as_ref().map(PrincipalName::as_str), claims["iss"].as_str());
            statement.verify(Some(&candidate), ISSUER, 60, NOW_S, &Checker::new())
        };
        const TYP: &str = "software-statement+jwt";
        let jkt = key.public_key().thumbprint().to_owned();
        let good = json!({
            "iss": "acme", "aud": ISSUER, "iat": NOW_S - 100, "exp": NOW_S + 1000, "software_id": "pump 3.1",
            "id_pattern": "pump-*",
        });
        let changed = |changes: &[(&str, Value)]| {
            let mut claims = good.clone();
            for (name, value) in changes {
                match value {
                    Value::Null => drop(claims.as_object_mut().expect("an object").remove(*name)),
                    value => claims[*name] = value.clone(),
                }
            }
            claims
        };
        let stated = judge(&good, TYP).expect("good");
        assert_eq!(stated.devices, StatedDevices::Pattern("pump-*".into()));
        assert_eq!((stated.software_id.as_str(), stated.exp_s), ("pump 3.1", NOW_S + 1000));
        let named = changed(&[("id_pattern", json!(null)), ("client_id", json!("pump-1"))]);
        assert!(matches!(judge(&named, TYP).expect("good").devices, StatedDevices::Named(_)));
        let one = changed(&[
            ("id_pattern", json!(null)),
            ("client_id", json!("pump-1")),
            ("cnf", json!({ "jkt": jkt })),
        ]);
        assert!(matches!(judge(&one, TYP).expect("good").devices, StatedDevices::One { .. }));

        assert!(matches!(judge(&good, "JWT"), Err(Refusal::Type { .. })));
        assert!(matches!(judge(&good, "client-authentication+jwt"), Err(Refusal::Type { .. })));
        let faults: [&[(&str, Value)]; 22] = [
            &[("id_pattern", json!(null))],
            &[("id_pattern", json!("*"))],
            &[("id_pattern", json!("*-*"))],
            &[("id_pattern", json!("*-pump"))],
            &[("id_pattern", json!(""))],
            &[("id_pattern", json!("a/b*"))],
            &[("client_id", json!("pump-1"))],
            &[("id_pattern", json!(null)), ("cnf", json!({ "jkt": jkt }))],
            &[("cnf", json!({ "jkt": jkt }))],
            &[("id_pattern", json!(null)), ("client_id", json!("p")), ("cnf", json!({ "jkt": "x" }))],
            &[("id_pattern", json!(null)), ("client_id", json!("p")), ("cnf", json!({ "jwk": {} }))],
            &[("id_pattern", json!(null)), ("client_id", json!("a b"))],
            &[("software_id", json!(null))],
            &[("software_id", json!(""))],
            &[("aud", json!(null))],
            &[("aud", json!("https://other.example"))],
            &[("exp", json!(null))],
            &[("exp", json!(NOW_S - 60))],
            &[("iat", json!(null))],
            &[("iat", json!(NOW_S + 61))],
            &[("iat", json!(NOW_S - 500))],
            &[("nonce", json!("x"))],
        ];
        for fault in faults {
            assert!(judge(&changed(fault), TYP).is_err(), "{fault:?}");
        }
    }

    #[test]
    fn a_pattern_must_be_able_to_fit_a_name() {
        for (pattern, all) in [("pump-*", false), ("*-x", false), ("*", true), ("***", true), ("a", false)] {
            assert_eq!(judge_pattern(pattern), Ok(all), "{pattern}");
        }
        for bad in ["", "a/b", "a+", "-*", "a b*", "ä*", &"a".repeat(256)] {
            assert!(judge_pattern(bad).is_err(), "{bad}");
        }
    }
}
