//! The device's own JWT in the password of an MQTT CONNECT, as Google Cloud IoT Core had it.

use drawbridge_names::{KeyId, PrincipalName};

use crate::clock::DeviceClock;
use crate::keys::{Candidate, Checker};
use crate::presented::{Presented, Wanted};
use crate::refusal::{Refusal, shortened};
use crate::rules::{self, JtiDigest, Now, TokenDigest};

const KIND: &str = "JWT for CONNECT";
const WANTED: Wanted = Wanted { kind: KIND, types: &[], plain: true };

/// A CONNECT JWT that was read but not yet proven.
pub struct ConnectJwt<'a>(Presented<'a>);

/// What a CONNECT JWT is judged by.
#[derive(Debug, Clone, Copy)]
pub struct ConnectRules<'a> {
    /// The bridge's audience, which every device may use.
    pub bridge_audience: &'a str,
    /// The Google project of the registry: `Some` only when the client id is a Google path that names
    /// this registry.
    pub project: Option<&'a str>,
    /// How far the device's clock may be off, in seconds.
    pub skew_s: u64,
    /// Longest `exp - iat`, in seconds, before the skew is added. 86,400 by default.
    pub life_s_max: u64,
    /// How far a clock is to be trusted, unless the candidate says.
    pub clock: DeviceClock,
}

/// A good CONNECT JWT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectProof {
    /// The key that signed.
    pub kid: KeyId,
    /// The session ends at this second: `exp` + skew.
    pub ends_s: u64,
    /// A JWT without `iat` is good once: this `jti` must be used up first.
    pub once: Option<OneTime>,
}

/// A `jti` to be used up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OneTime {
    /// The `jti`.
    pub jti: JtiDigest,
    /// The digest of the whole JWT.
    pub token: TokenDigest,
    /// Remember it until this second.
    pub until_s: u64,
}

impl<'a> ConnectJwt<'a> {
    /// Reads a CONNECT JWT; nothing is believed yet. Padding `=` at the end of a segment is tolerated
    /// here and nowhere else: Google's C SDK writes it.
    ///
    /// # Errors
    /// [`Refusal`] when it is no strict JWS or names a `typ` other than `JWT`.
    pub fn parse(jwt: &'a [u8], token_bytes_max: usize) -> Result<Self, Refusal> {
        Presented::parse_padded(jwt, token_bytes_max, &WANTED).map(Self)
    }

    /// `sub`, if there is one: then it names the device. Google's JWTs have none.
    ///
    /// # Errors
    /// `Err` when there is a `sub` that can be nobody's.
    pub fn subject(&self) -> Result<Option<PrincipalName>, Refusal> {
        self.0.subject()
    }

    /// The audiences, unverified: which registry is meant.
    #[must_use]
    pub fn audiences(&self) -> Vec<String> {
        self.0.audiences()
    }

    /// Judges signature and claims.
    ///
    /// # Errors
    /// [`Refusal`]; whatever is found before the signature is good is [`Refusal::NotProven`].
    /// [`Refusal::ClockNotTrusted`]: a CONNECT has no room for a nonce, so dates would be all there is.
    pub fn verify(
        &self,
        candidate: Option<&Candidate<'_>>,
        rules: &ConnectRules<'_>,
        now_s: u64,
        checker: &Checker,
    ) -> Result<ConnectProof, Refusal> {
        let proven = self.0.prove(candidate, now_s, checker)?;
        let (claims, owner) = (&proven.claims, proven.candidate.name.as_str());
        rules::has_none_of(claims, &["cnf", "public_key", "htm", "upd"], KIND)?;
        rules::names_owner(claims, "sub", owner, false, KIND)?;
        rules::names_owner(claims, "iss", owner, false, KIND)?;
        judge_audience(claims, rules)?;
        if proven.candidate.clock.unwrap_or(rules.clock) != DeviceClock::Good {
            return Err(Refusal::ClockNotTrusted);
        }
        let now = Now { now_s, skew_s: rules.skew_s };
        let exp_s = now.expiry(claims)?;
        let iat_s = now.not_future(claims, "iat")?;
        now.not_future(claims, "nbf")?;
        let life_s_max = rules.life_s_max.saturating_add(rules.skew_s);
        let born_s = iat_s.unwrap_or(now_s);
        if iat_s.is_some_and(|iat_s| exp_s <= iat_s) {
            return Err(now.refuse("`exp` is not after `iat`".into()));
        }
        if exp_s.saturating_sub(born_s) > life_s_max {
            return Err(now.refuse(format!(
                "`exp` is {} s after `iat`, at most {life_s_max} s is allowed; sign a shorter one",
                exp_s - born_s
            )));
        }
        rules::after_revocation(iat_s, proven.candidate.not_before_s)?;
        let ends_s = exp_s.saturating_add(rules.skew_s);
        let once = match iat_s {
            Some(_) => None,
            // Without `iat` nothing says when it was signed; what makes it fresh is that it is used once.
            None if !claims.contains("jti") => {
                return Err(now.refuse("`iat` is missing; wanted `iat`, or a `jti` that is used once".into()));
            }
            None => Some(OneTime {
                jti: rules::jti(claims)?,
                token: TokenDigest::of(self.0.bytes()),
                until_s: ends_s,
            }),
        };
        Ok(ConnectProof { kid: proven.key.kid.clone(), ends_s, once })
    }
}

fn judge_audience(claims: &drawbridge_jose::Claims, rules: &ConnectRules<'_>) -> Result<(), Refusal> {
    let by_bridge = rules::audience_is(claims, rules.bridge_audience);
    let Some(project) = rules.project else { return by_bridge };
    if by_bridge.is_ok() || rules::audience_is(claims, project).is_ok() {
        return Ok(());
    }
    by_bridge.map_err(|refusal| match refusal {
        Refusal::Audience { found, wanted } => {
            Refusal::Audience { found, wanted: format!("`{}` or {wanted}", shortened(project)) }
        }
        other => other,
    })
}
