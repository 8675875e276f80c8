//! How one kind of JWT is fed and judged: bytes become a token in one of three modes.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use drawbridge_identity::{DeviceClock, Refusal};
use drawbridge_jose::{Algorithm, PublicKey, SigningKey};
use serde_json::{Map, Value};

use crate::edits::{Draft, NAMES, SECRET, edit, holds_nul, jwk};
use crate::rules::plain_header;
use crate::world::{TOKEN_BYTES_MAX, WORLD, signed};
use crate::{Outcome, judge_code, judge_text};

pub(crate) type Judge = fn(&str, DeviceClock) -> Result<(), Refusal>;
pub(crate) type Good = fn(&Map<String, Value>, &Map<String, Value>, DeviceClock) -> bool;

/// What a target is made of.
pub(crate) struct Kind {
    pub(crate) draft: Draft,
    /// Keys that may sign, the right ones first; a stranger's comes last.
    pub(crate) keys: Vec<&'static SigningKey>,
    /// The code under test.
    pub(crate) judge: Judge,
    /// Whether a token of this header and these claims, rightly signed, is good: written without our parsers.
    pub(crate) good: Good,
    /// Whether padding is tolerated.
    pub(crate) padded: bool,
    /// Whether a refusal may be told to the peer before this token itself was proven (a proof inside a proven request).
    pub(crate) inner: bool,
    /// Whether the right key is the one in the header.
    pub(crate) embedded: bool,
    pub(crate) token_bytes_max: usize,
}

impl Kind {
    pub(crate) fn of_device(draft: Draft, judge: Judge, good: Good) -> Self {
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
    pub(crate) fn run(&self, data: &[u8]) -> Outcome {
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
    pub(crate) fn started(&self, key: &SigningKey) -> Draft {
        let draft = self.draft.clone();
        if self.embedded { draft.header("jwk", jwk(key)) } else { draft }
    }

    /// Whether one of the right keys signed, found out with the primitives alone.
    pub(crate) fn is_signed(&self, token: &str) -> bool {
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

    pub(crate) fn seeds(&self) -> Vec<Vec<u8>> {
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
pub(crate) fn embedded_key(header: &str) -> Option<PublicKey> {
    let header = URL_SAFE_NO_PAD.decode(header).ok()?;
    let header: Value = serde_json::from_slice(&header).ok()?;
    PublicKey::from_jwk(header.get("jwk")?.to_string().as_bytes()).ok()
}

/// The signature under the primitives of the library below, without anything of ours but the key's bytes.
pub(crate) fn verifies(key: &PublicKey, message: &[u8], signature: &[u8]) -> bool {
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

pub(crate) fn judge_refusal(refusal: &Refusal, token: &str) {
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
