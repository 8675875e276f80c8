//! The device's own JWT in the password of an MQTT CONNECT, as Google Cloud IoT Core had it.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use drawbridge_jose::{Claims, base64url_decode};
use drawbridge_names::{KeyId, PrincipalName};

use crate::clock::{Dates, DeviceClock, checked_nonce};
use crate::keys::{Candidate, Checker};
use crate::nonce::{NONCE_LIFE_S, Nonces};
use crate::presented::{Presented, Wanted};
use crate::refusal::{Refusal, shortened};
use crate::rules::{self, JtiDigest, Now, TokenDigest};

const KIND: &str = "JWT for CONNECT";
const WANTED: Wanted = Wanted { kind: KIND, types: &[], plain: true };
/// A connection is at most so old when its CONNECT is judged, in seconds, and what is bound to it no older.
const CONNECT_TIME_S: u64 = 10;

/// A CONNECT JWT that was read but not yet proven.
pub struct ConnectJwt<'a>(Presented<'a>);

/// What a CONNECT JWT is judged by.
#[derive(Clone, Copy)]
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
    /// The nonces that a JWT may carry; without them every one that is sent is refused.
    pub nonces: Option<&'a Nonces>,
    /// The exporter of the connection (RFC 9266), if TLS has one: what the claim `cb` must be.
    pub channel_binding: Option<&'a [u8; 32]>,
    /// Whether a session that is open is to be renewed. `cb` is the same as at CONNECT then: it shows whose
    /// connection it is, and no longer that the JWT is new.
    pub renews: bool,
}

impl std::fmt::Debug for ConnectRules<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConnectRules").field("clock", &self.clock).finish_non_exhaustive()
    }
}

/// A good CONNECT JWT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectProof {
    /// The key that signed.
    pub kid: KeyId,
    /// The session ends at this second: `exp` + skew; of a device without a trusted clock so long from now as the
    /// JWT lives by its own dates.
    pub ends_s: u64,
    /// What only a nonce, or nothing, shows to be new is good once: this `jti` must be used up first.
    pub once: Option<OneTime>,
    /// Whether it was signed for this very connection (`cb`).
    pub bound: bool,
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
    /// [`Refusal::ClockNotTrusted`]: it has neither a nonce nor (at CONNECT) a channel binding, so dates would be
    /// all there is. [`Refusal::Binding`]: it was signed for another connection.
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
        let bound = is_bound(claims, rules)?;
        let nonce_made_s =
            checked_nonce(claims, rules.nonces, now_s)?.map(|age_s| now_s.saturating_sub(age_s));
        let made_s = match nonce_made_s {
            None if bound && !rules.renews => Some(now_s.saturating_sub(CONNECT_TIME_S)),
            made_s => made_s,
        };
        let clock = proven.candidate.clock.unwrap_or(rules.clock);
        if clock != DeviceClock::Good && made_s.is_none() {
            return Err(Refusal::ClockNotTrusted);
        }
        let now = Now { now_s, skew_s: rules.skew_s };
        let (ends_s, iat_s) = judge_dates(claims, rules, now, clock)?;
        // Of a device with a good clock its own word; else what the server knows.
        let signed_s = if clock == DeviceClock::Good { iat_s.or(made_s) } else { made_s };
        rules::after_revocation(signed_s, proven.candidate.not_before_s)?;
        let used_until_s = match (bound, nonce_made_s, iat_s) {
            // Another connection has another `cb`: whoever has taken it can do nothing with it.
            (true, ..) if made_s.is_some() || iat_s.is_some() => None,
            (_, _, Some(_)) if clock == DeviceClock::Good => None,
            (_, Some(made_s), _) => Some(made_s + NONCE_LIFE_S + 1),
            // Nothing says when it was signed; what makes it fresh is that it is used once.
            (_, None, _) if !claims.contains("jti") => {
                return Err(now.refuse("`iat` is missing; wanted `iat`, or a `jti` that is used once".into()));
            }
            (_, None, _) => Some(ends_s),
        };
        let once = match used_until_s {
            None => None,
            Some(until_s) => {
                Some(OneTime { jti: rules::jti(claims)?, token: TokenDigest::of(self.0.bytes()), until_s })
            }
        };
        Ok(ConnectProof { kid: proven.key.kid.clone(), ends_s, once, bound })
    }
}

/// Whether it carries the exporter of the connection that it came over.
///
/// Source: RFC 9266; that it stands in a claim is our own.
fn is_bound(claims: &Claims, rules: &ConnectRules<'_>) -> Result<bool, Refusal> {
    let Some(found) = rules::text(claims, "cb", KIND)? else { return Ok(false) };
    let Some(wanted) = rules.channel_binding else {
        return Err(Refusal::Binding("`cb` needs TLS that ends at this server".to_owned()));
    };
    match base64url_decode(found) {
        Ok(found) if verify_slices_are_equal(&found, wanted).is_ok() => Ok(true),
        _ => Err(Refusal::Binding(
            "`cb` is not of this TLS connection; export it anew for each (RFC 9266), 32 bytes as base64url"
                .to_owned(),
        )),
    }
}

/// When the session ends, and when the JWT was signed by its own word.
fn judge_dates(
    claims: &Claims,
    rules: &ConnectRules<'_>,
    now: Now,
    clock: DeviceClock,
) -> Result<(u64, Option<u64>), Refusal> {
    if clock == DeviceClock::None {
        let (exp_s, iat_s) = (now.possible(claims, "exp")?, now.possible(claims, "iat")?);
        now.possible(claims, "nbf")?;
        let life_s = exp_s.zip(iat_s).and_then(|(exp_s, iat_s)| exp_s.checked_sub(iat_s));
        let life_s = life_s.filter(|life_s| *life_s > 0).unwrap_or(rules.life_s_max);
        return Ok((now.now_s.saturating_add(life_s.min(rules.life_s_max)), iat_s));
    }
    let judged = if clock == DeviceClock::Coarse { now.with(Dates::Day) } else { now };
    let exp_s = judged.expiry(claims)?;
    let iat_s = judged.not_future(claims, "iat")?;
    judged.not_future(claims, "nbf")?;
    if iat_s.is_some_and(|iat_s| exp_s <= iat_s) {
        return Err(now.refuse("`exp` is not after `iat`".into()));
    }
    let life_s_max = rules.life_s_max.saturating_add(judged.skew_s);
    let life_s = exp_s.saturating_sub(iat_s.unwrap_or(now.now_s));
    if life_s > life_s_max {
        return Err(now.refuse(format!(
            "`exp` is {life_s} s after `iat`, at most {life_s_max} s is allowed; sign a shorter one"
        )));
    }
    if clock == DeviceClock::Good {
        return Ok((exp_s.saturating_add(rules.skew_s), iat_s));
    }
    judged.not_long_ago(iat_s, "iat")?;
    // Its clock may be a day off: how long the JWT lives is more than when.
    let life_s = if iat_s.is_some() { life_s } else { rules.life_s_max };
    Ok((now.now_s.saturating_add(life_s.min(rules.life_s_max)), iat_s))
}

fn judge_audience(claims: &Claims, rules: &ConnectRules<'_>) -> Result<(), Refusal> {
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
