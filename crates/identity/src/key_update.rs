//! A device replaces its own key: a JWT by the old key that carries the new one, and a proof by the
//! new key that its owner has it.

use drawbridge_jose::{PublicKey, base64url_decode, base64url_encode, ecdsa_der_to_raw, sha256};
use drawbridge_names::PrincipalName;

use crate::assertion::{Asserted, AssertionRules, judge};
use crate::clock::{Dates, checked_nonce};
use crate::keys::{Candidate, Checker};
use crate::presented::{Presented, Wanted};
use crate::refusal::Refusal;
use crate::rules::{self, Now};

const UPDATE: &str = "key update";
const POP: &str = "proof of possession";
const UPDATE_WANTED: Wanted = Wanted { kind: UPDATE, types: &["key-update+jwt"], plain: false };
const POP_WANTED: Wanted = Wanted { kind: POP, types: &["key-pop+jwt"], plain: false };

/// Longest legacy proof of possession, in characters: an RSA signature in base64 and some room.
const LEGACY_POP_CHARS_MAX: usize = 1024;

/// A key update that was read but not yet proven.
pub struct KeyUpdate<'a>(Presented<'a>);

/// A good key update; the proof of possession is still to be judged.
pub struct KeyUpdated {
    /// Who signed, and the `jti` to use up.
    pub asserted: Asserted,
    /// The new key.
    pub new_key: PublicKey,
    /// How the dates of the proof of possession are judged.
    pub dates: Dates,
}

impl<'a> KeyUpdate<'a> {
    /// Reads a key update; nothing is believed yet.
    ///
    /// # Errors
    /// [`Refusal`] when it is no strict JWS of `typ` `key-update+jwt`.
    pub fn parse(jwt: &'a str, token_bytes_max: usize) -> Result<Self, Refusal> {
        Presented::parse(jwt.as_bytes(), token_bytes_max, &UPDATE_WANTED).map(Self)
    }

    /// Whose it claims to be.
    #[must_use]
    pub fn claimed(&self) -> Option<PrincipalName> {
        self.0.claimed()
    }

    /// Judges signature and claims (those of a client assertion, and `cnf.jwk`), and reads the new key.
    ///
    /// # Errors
    /// [`Refusal`]; [`Refusal::NewKey`] never repeats key material.
    pub fn verify(
        &self,
        candidate: Option<&Candidate<'_>>,
        rules: &AssertionRules<'_>,
        now_s: u64,
        checker: &Checker,
    ) -> Result<KeyUpdated, Refusal> {
        let proven = self.0.prove(candidate, now_s, checker)?;
        rules::has_none_of(&proven.claims, &["public_key", "scope", "htm", "upd"], UPDATE)?;
        let (asserted, dates) = judge(&proven, rules, now_s, UPDATE, self.0.bytes())?;
        let wrong = |found: String| Refusal::Kind { found, wanted: UPDATE };
        let cnf = proven.claims.object("cnf").map_err(|error| wrong(error.to_string()))?;
        let cnf = cnf.ok_or_else(|| wrong("`cnf` is missing".into()))?;
        if cnf.names().any(|name| name != "jwk") {
            return Err(wrong("`cnf` names a key in more than one way, wanted `jwk` alone".into()));
        }
        let jwk = cnf.object_json("jwk").ok_or_else(|| wrong("`cnf.jwk` is missing".into()))?;
        Ok(KeyUpdated { asserted, new_key: crate::new_key::from_jwk(&jwk)?, dates })
    }
}

/// Judges a `key-pop+jwt`: by the new key, for exactly this update. The new key comes from the update,
/// which was verified before; a key in the header of the proof is only compared with it (I8). `dates`: what
/// the update was judged by ([`KeyUpdated::dates`]); it made the proof new, so its own dates are optional.
///
/// # Errors
/// [`Refusal::Pop`], whatever is wrong with it.
pub fn verify_pop(
    pop: &str,
    update: &str,
    new_key: &PublicKey,
    rules: &AssertionRules<'_>,
    dates: Dates,
    now_s: u64,
    checker: &Checker,
) -> Result<(), Refusal> {
    let judge = || -> Result<(), Refusal> {
        let presented = Presented::parse_with_jwk(pop.as_bytes(), update.len().max(4096), &POP_WANTED)?;
        presented.names_only(new_key)?;
        let claims = &presented.prove_by(new_key, checker)?;
        rules::has_none_of(claims, &["sub", "scope", "cnf", "public_key", "htm"], POP)?;
        rules::audience_is(claims, rules.issuer)?;
        rules::jti(claims)?;
        checked_nonce(claims, rules.nonces, now_s)?;
        let now = Now { now_s, skew_s: rules.skew_s }.with(dates);
        if dates == Dates::Any {
            for name in ["exp", "iat", "nbf"] {
                now.possible(claims, name)?;
            }
        } else {
            if let Some(exp_s) = now.date(claims, "exp")? {
                now.not_past(exp_s)?;
            }
            now.not_future(claims, "iat")?;
            now.not_future(claims, "nbf")?;
        }
        let upd = rules::text(claims, "upd", POP)?;
        if upd != Some(base64url_encode(&sha256(update.as_bytes())).as_str()) {
            let found =
                if upd.is_some() { "`upd` is not the hash of this key update" } else { "`upd` is missing" };
            return Err(Refusal::Kind { found: found.into(), wanted: POP });
        }
        Ok(())
    };
    judge().map_err(|refusal| Refusal::Pop(refusal.to_string()))
}

/// What a legacy proof of possession was made over; for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LegacyPopForm {
    /// The JWT: hashed once, by the signature itself.
    Single,
    /// The SHA-256 of the JWT: hashed twice.
    Double,
}

/// Judges a legacy proof of possession: base64 of a signature by the new key over the update JWT,
/// ECDSA in DER. Standard or URL-safe alphabet, padded or not; made over the JWT or over its SHA-256:
/// both bind the same JWT to the same key.
///
/// # Errors
/// [`Refusal::Pop`], whatever is wrong with it.
pub fn verify_legacy_pop(
    pop: &str,
    update: &str,
    new_key: &PublicKey,
    checker: &Checker,
) -> Result<LegacyPopForm, Refusal> {
    use drawbridge_jose::Verify as _;
    let refuse = |found: &str| Refusal::Pop(found.to_owned());
    if pop.is_empty() {
        return Err(refuse("it is missing"));
    }
    if pop.len() > LEGACY_POP_CHARS_MAX {
        return Err(refuse("it is too long"));
    }
    let padding = pop.bytes().rev().take_while(|byte| *byte == b'=').count();
    if padding > 2 || (padding > 0 && !pop.len().is_multiple_of(4)) {
        return Err(refuse("its base64 is padded wrongly"));
    }
    let url_safe: String = pop[..pop.len() - padding]
        .chars()
        .map(|c| match c {
            '+' => '-',
            '/' => '_',
            other => other,
        })
        .collect();
    let signature = base64url_decode(&url_safe).map_err(|_| refuse("it is not base64"))?;
    let algorithm = new_key.algorithm();
    let is_ecdsa = matches!(algorithm, drawbridge_jose::Algorithm::Es256 | drawbridge_jose::Algorithm::Es384);
    let signature = if is_ecdsa {
        ecdsa_der_to_raw(&signature, algorithm)
            .map_err(|_| refuse("it is not a DER-encoded ECDSA signature"))?
    } else {
        signature
    };
    checker.count();
    if new_key.verify(update.as_bytes(), &signature).is_ok() {
        return Ok(LegacyPopForm::Single);
    }
    checker.count();
    if new_key.verify(&sha256(update.as_bytes()), &signature).is_ok() {
        return Ok(LegacyPopForm::Double);
    }
    Err(refuse("it is not a signature by the new key over this JWT"))
}
