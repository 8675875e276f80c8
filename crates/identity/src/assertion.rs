//! The client assertion: a device or application proves at the token endpoint who it is.

use drawbridge_names::{KeyId, PrincipalName};

use crate::clock::{Dates, DeviceClock, Freshness};
use crate::keys::{Candidate, Checker};
use crate::nonce::Nonces;
use crate::presented::{Presented, Wanted};
use crate::refusal::Refusal;
use crate::rules::{self, JtiDigest, Now, TokenDigest};

const KIND: &str = "client assertion";
const WANTED: Wanted = Wanted { kind: KIND, types: &["client-authentication+jwt"], plain: true };

/// A client assertion that was read but not yet proven.
pub struct ClientAssertion<'a>(Presented<'a>);

/// What a client assertion (and a key update) is judged by.
#[derive(Debug, Clone, Copy)]
pub struct AssertionRules<'a> {
    /// The issuer identifier of the registry: the only `aud` accepted.
    pub issuer: &'a str,
    /// How far the device's clock may be off, in seconds.
    pub skew_s: u64,
    /// How far ahead `exp` may be, in seconds, before the skew is added. 300 by default.
    pub life_s_max: u64,
    /// How far a clock is to be trusted, unless the candidate says.
    pub clock: DeviceClock,
    /// The nonces that a JWT may carry; without them every one that is sent is refused.
    pub nonces: Option<&'a Nonces>,
}

/// A good assertion whose `jti` is still to be used up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asserted {
    /// The key that signed.
    pub kid: KeyId,
    /// Its `jti`.
    pub jti: JtiDigest,
    /// The digest of the whole JWT.
    pub token: TokenDigest,
    /// Remember the `jti` until this second; `None`: for the life of the key.
    pub until_s: Option<u64>,
}

impl<'a> ClientAssertion<'a> {
    /// Reads a client assertion; nothing is believed yet.
    ///
    /// # Errors
    /// [`Refusal`] when it is no strict JWS or names another `typ`.
    pub fn parse(jwt: &'a str, token_bytes_max: usize) -> Result<Self, Refusal> {
        Presented::parse(jwt.as_bytes(), token_bytes_max, &WANTED).map(Self)
    }

    /// Whose it claims to be; `None` when it claims to be nobody possible.
    #[must_use]
    pub fn claimed(&self) -> Option<PrincipalName> {
        self.0.claimed()
    }

    /// Judges signature and claims. `candidate`: the principal of [`Self::claimed`], if there is one.
    ///
    /// # Errors
    /// [`Refusal`]; whatever is found before the signature is good is [`Refusal::NotProven`].
    ///
    /// Source: RFC 7523 section 3, RFC 10070.
    pub fn verify(
        &self,
        candidate: Option<&Candidate<'_>>,
        rules: &AssertionRules<'_>,
        now_s: u64,
        checker: &Checker,
    ) -> Result<Asserted, Refusal> {
        let proven = self.0.prove(candidate, now_s, checker)?;
        rules::has_none_of(&proven.claims, &["cnf", "public_key", "scope", "htm"], KIND)?;
        judge(&proven, rules, now_s, KIND, self.0.bytes()).map(|(asserted, _)| asserted)
    }
}

/// The rules that a client assertion, a key update and a key removal share.
pub(crate) fn judge(
    proven: &crate::keys::Proven<'_>,
    rules: &AssertionRules<'_>,
    now_s: u64,
    kind: &'static str,
    jwt: &[u8],
) -> Result<(Asserted, Dates), Refusal> {
    let (claims, candidate) = (&proven.claims, proven.candidate);
    rules::names_owner(claims, "sub", candidate.name.as_str(), true, kind)?;
    rules::names_owner(claims, "iss", candidate.name.as_str(), true, kind)?;
    rules::audience_is(claims, rules.issuer)?;
    let clock = candidate.clock.unwrap_or(rules.clock);
    let freshness = Freshness::judge(claims, clock, rules.nonces, now_s)?;
    let now = Now { now_s, skew_s: rules.skew_s };
    let (iat_s, until_s) = match freshness.dates {
        Dates::Any => {
            judge_unclocked(claims, rules, now, clock)?;
            (None, None)
        }
        dates => {
            let now = now.with(dates);
            let exp_s = now.expiry(claims)?;
            let ahead_s = exp_s.saturating_sub(now_s);
            let ahead_s_max = rules.life_s_max.saturating_add(now.skew_s);
            if ahead_s > ahead_s_max {
                return Err(now.refuse(format!(
                    "`exp` is {ahead_s} s ahead, at most {ahead_s_max} s is allowed; sign a shorter one, or \
                     raise `admission.assertion_life_s_max`"
                )));
            }
            let iat_s = now.not_future(claims, "iat")?;
            now.not_future(claims, "nbf")?;
            if dates == Dates::Day {
                now.not_long_ago(iat_s, "iat")?;
            }
            (iat_s, Some(exp_s.saturating_add(now.skew_s)))
        }
    };
    let jti = rules::jti(claims)?;
    // Signed after the nonce was made, whatever the device's clock says.
    rules::after_revocation(freshness.made_s.or(iat_s), candidate.not_before_s)?;
    let until_s = freshness.until_s.or(until_s);
    let (kid, token) = (proven.key.kid.clone(), TokenDigest::of(jwt));
    Ok((Asserted { kid, jti, token, until_s }, freshness.dates))
}

/// The dates of a JWT that a nonce has proven to be new: they are not compared with the time.
fn judge_unclocked(
    claims: &drawbridge_jose::Claims,
    rules: &AssertionRules<'_>,
    now: Now,
    clock: DeviceClock,
) -> Result<(), Refusal> {
    let exp_s = now.possible(claims, "exp")?;
    let iat_s = now.possible(claims, "iat")?;
    now.possible(claims, "nbf")?;
    if clock == DeviceClock::None {
        return Ok(());
    }
    // RFC 7523 section 3 wants `exp`, and who has a clock can write one that fits its own `iat`.
    let Some(exp_s) = exp_s else {
        return Err(
            now.refuse("`exp` is missing; wanted the second, since 1970 UTC, at which the JWT ends".into())
        );
    };
    let life_s_max = rules.life_s_max.saturating_add(rules.skew_s);
    match iat_s {
        Some(iat_s) if exp_s <= iat_s => Err(now.refuse("`exp` is not after `iat`".into())),
        Some(iat_s) if exp_s - iat_s > life_s_max => Err(now.refuse(format!(
            "`exp` is {} s after `iat`, at most {life_s_max} s is allowed; sign a shorter one",
            exp_s - iat_s
        ))),
        _ => Ok(()),
    }
}
