//! The IoT IdP JWTs without `aud` and `exp`. They are served on their alias paths only, and only for
//! devices that an operator has marked: a weakness, kept for firmware that cannot change.

use drawbridge_jose::PublicKey;
use drawbridge_names::PrincipalName;

use crate::assertion::{Asserted, AssertionRules};
use crate::keys::{Candidate, Checker, Proven};
use crate::presented::{Presented, Wanted};
use crate::refusal::Refusal;
use crate::rules::{self, Now, TokenDigest};

const LOGIN: &str = "legacy login";
const UPDATE: &str = "legacy key update";
const LOGIN_WANTED: Wanted = Wanted { kind: LOGIN, types: &["JWT"], plain: false };
const UPDATE_WANTED: Wanted = Wanted { kind: UPDATE, types: &["JWT"], plain: false };

/// With an `exp` further ahead than this the `jti` is kept for the life of the key, as without one.
const REMEMBERED_S_MAX: u64 = 86_400;

/// A legacy authentication JWT, read but not yet proven.
pub struct LegacyLogin<'a>(Presented<'a>);

/// A legacy update-public-key JWT, read but not yet proven.
pub struct LegacyUpdate<'a>(Presented<'a>);

/// A good legacy update; the proof of possession is still to be judged.
pub struct LegacyUpdated {
    /// Who signed, and the `jti` to use up.
    pub asserted: Asserted,
    /// The new key.
    pub new_key: PublicKey,
}

impl<'a> LegacyLogin<'a> {
    /// Reads a legacy login; nothing is believed yet.
    ///
    /// # Errors
    /// [`Refusal`] when it is no strict JWS of `typ` `JWT`.
    pub fn parse(jwt: &'a str, token_bytes_max: usize) -> Result<Self, Refusal> {
        Presented::parse(jwt.as_bytes(), token_bytes_max, &LOGIN_WANTED).map(Self)
    }

    /// Whose it claims to be: `sub`.
    #[must_use]
    pub fn claimed(&self) -> Option<PrincipalName> {
        self.0.subject().ok().flatten()
    }

    /// Judges signature and claims.
    ///
    /// # Errors
    /// [`Refusal`]; [`Refusal::LegacyNotAllowed`] for a device that is not marked.
    pub fn verify(
        &self,
        candidate: Option<&Candidate<'_>>,
        rules: &AssertionRules<'_>,
        now_s: u64,
        checker: &Checker,
    ) -> Result<Asserted, Refusal> {
        let proven = self.0.prove(candidate, now_s, checker)?;
        rules::has_none_of(&proven.claims, &["public_key", "cnf", "upd", "htm"], LOGIN)?;
        judge(&proven, rules, now_s, LOGIN, &self.0)
    }
}

impl<'a> LegacyUpdate<'a> {
    /// Reads a legacy update; nothing is believed yet.
    ///
    /// # Errors
    /// [`Refusal`] when it is no strict JWS of `typ` `JWT`.
    pub fn parse(jwt: &'a str, token_bytes_max: usize) -> Result<Self, Refusal> {
        Presented::parse(jwt.as_bytes(), token_bytes_max, &UPDATE_WANTED).map(Self)
    }

    /// Whose it claims to be: `sub`.
    #[must_use]
    pub fn claimed(&self) -> Option<PrincipalName> {
        self.0.subject().ok().flatten()
    }

    /// Judges signature and claims, and reads the new key.
    ///
    /// # Errors
    /// [`Refusal`]; [`Refusal::NewKey`] never repeats key material.
    pub fn verify(
        &self,
        candidate: Option<&Candidate<'_>>,
        rules: &AssertionRules<'_>,
        now_s: u64,
        checker: &Checker,
    ) -> Result<LegacyUpdated, Refusal> {
        let proven = self.0.prove(candidate, now_s, checker)?;
        rules::has_none_of(&proven.claims, &["cnf", "upd", "htm"], UPDATE)?;
        if !proven.claims.contains("public_key") {
            return Err(Refusal::Kind { found: "`public_key` is missing".into(), wanted: UPDATE });
        }
        let asserted = judge(&proven, rules, now_s, UPDATE, &self.0)?;
        let pem = proven.claims.text("public_key").map_err(|error| Refusal::NewKey(error.to_string()))?;
        let new_key = crate::new_key::from_text(pem.unwrap_or_default())?;
        Ok(LegacyUpdated { asserted, new_key })
    }
}

fn judge(
    proven: &Proven<'_>,
    rules: &AssertionRules<'_>,
    now_s: u64,
    kind: &'static str,
    presented: &Presented<'_>,
) -> Result<Asserted, Refusal> {
    let (claims, candidate) = (&proven.claims, proven.candidate);
    if !candidate.legacy_assertions {
        return Err(Refusal::LegacyNotAllowed);
    }
    let owner = candidate.name.as_str();
    rules::names_owner(claims, "sub", owner, true, kind)?;
    if presented.kid() != Some(owner) {
        return Err(Refusal::Subject(format!("`kid` is not the device id `{owner}`")));
    }
    // Optional here, but checked whenever sent: a JWT made for something else does not pass.
    rules::names_owner(claims, "iss", owner, false, kind)?;
    if claims.contains("aud") {
        rules::audience_is(claims, rules.issuer)?;
    }
    let now = Now { now_s, skew_s: rules.skew_s };
    let exp_s = now.date(claims, "exp")?;
    if let Some(exp_s) = exp_s {
        now.not_past(exp_s)?;
    }
    let iat_s = now.not_future(claims, "iat")?;
    now.not_future(claims, "nbf")?;
    let jti = rules::jti(claims)?;
    rules::after_revocation(iat_s, candidate.not_before_s)?;
    let until_s = exp_s
        .map(|exp_s| exp_s.saturating_add(rules.skew_s))
        .filter(|until_s| until_s.saturating_sub(now_s) <= REMEMBERED_S_MAX);
    let token = TokenDigest::of(presented.bytes());
    Ok(Asserted { kid: proven.key.kid.clone(), jti, token, until_s })
}
