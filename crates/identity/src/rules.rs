//! Claim rules that several kinds of JWT share. All run after the signature was found good.

use drawbridge_jose::{Claims, sha256};

use crate::clock::Dates;
use crate::refusal::{Refusal, shortened};

/// Longest and shortest `jti`, in characters.
const JTI_CHARS_MIN: usize = 16;
const JTI_CHARS_MAX: usize = 128;

/// A well-formed `jti`, as it is remembered: the first 16 bytes of its SHA-256, byte-exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JtiDigest(pub [u8; 16]);

/// The first 16 bytes of the SHA-256 of a whole JWT: tells a repeated message from a reused `jti`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenDigest(pub [u8; 16]);

impl TokenDigest {
    /// The digest of a JWT in its compact form.
    #[must_use]
    pub fn of(jwt: &[u8]) -> Self {
        Self(first_half(jwt))
    }
}

fn first_half(bytes: &[u8]) -> [u8; 16] {
    let digest = sha256(bytes);
    let mut half = [0; 16];
    half.copy_from_slice(&digest[..16]);
    half
}

/// The server's time and what is allowed around it; makes the texts that carry the server's time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    pub(crate) now_s: u64,
    pub(crate) skew_s: u64,
}

/// Dates behind this one (February 2106) are no seconds: somebody sent milliseconds, or has no clock at all.
const DATE_S_MAX: u64 = u32::MAX as u64;

impl Now {
    /// The tolerance that goes with how the dates of a JWT are judged.
    pub(crate) fn with(self, dates: Dates) -> Self {
        Self { skew_s: dates.tolerance_s(self.skew_s), ..self }
    }

    pub(crate) fn refuse(self, found: String) -> Refusal {
        Refusal::Time { found, server_time_s: self.now_s }
    }

    /// A NumericDate, or nothing; anything else is refused.
    pub(crate) fn date(self, claims: &Claims, name: &'static str) -> Result<Option<u64>, Refusal> {
        claims.numeric_date_s(name).map_err(|error| self.refuse(error.to_string()))
    }

    /// `exp`, which must be there and not past: `now < exp + skew`.
    pub(crate) fn expiry(self, claims: &Claims) -> Result<u64, Refusal> {
        let exp_s = self.date(claims, "exp")?.ok_or_else(|| {
            self.refuse("`exp` is missing; wanted the second, since 1970 UTC, at which the JWT ends".into())
        })?;
        self.not_past(exp_s)?;
        Ok(exp_s)
    }

    /// A date that is not compared with the time: it only has to be one.
    pub(crate) fn possible(self, claims: &Claims, name: &'static str) -> Result<Option<u64>, Refusal> {
        let date = self.date(claims, name)?;
        match date {
            Some(at_s) if at_s > DATE_S_MAX => Err(self.refuse(format!(
                "`{name}` is {at_s}, which is no date in seconds since 1970 UTC; leave it out"
            ))),
            date => Ok(date),
        }
    }

    pub(crate) fn not_past(self, exp_s: u64) -> Result<(), Refusal> {
        if self.now_s < exp_s.saturating_add(self.skew_s) {
            return Ok(());
        }
        Err(self.refuse(format!(
            "`exp` is {} s in the past; sign a new JWT, or set the clock right",
            self.now_s.saturating_sub(exp_s)
        )))
    }

    /// `iat`, when there: at least `now - skew`, equality included.
    pub(crate) fn not_long_ago(self, at_s: Option<u64>, name: &'static str) -> Result<(), Refusal> {
        let past_s = self.now_s.saturating_sub(at_s.unwrap_or(self.now_s));
        if past_s <= self.skew_s {
            return Ok(());
        }
        Err(self.refuse(format!(
            "`{name}` is {past_s} s in the past, at most {} s is allowed; set the clock right",
            self.skew_s
        )))
    }

    /// `iat` or `nbf`, when there: at most `now + skew`, equality included.
    pub(crate) fn not_future(self, claims: &Claims, name: &'static str) -> Result<Option<u64>, Refusal> {
        let Some(at_s) = self.date(claims, name)? else { return Ok(None) };
        if at_s > self.now_s.saturating_add(self.skew_s) {
            return Err(self.refuse(format!(
                "`{name}` is {} s in the future, at most {} s is allowed; set the clock right",
                at_s - self.now_s,
                self.skew_s
            )));
        }
        Ok(Some(at_s))
    }
}

/// `aud` is exactly `wanted`: one string, or an array of that one string.
///
/// Source: RFC 10070 (the audience of a client assertion), RFC 7519 section 4.1.3.
pub(crate) fn audience_is(claims: &Claims, wanted: &str) -> Result<(), Refusal> {
    let refuse = |found: String| Refusal::Audience { found, wanted: format!("`{wanted}`") };
    match claims.audience().map_err(|error| refuse(error.found.to_owned()))?.as_deref() {
        None => Err(refuse("missing".into())),
        Some([one]) if *one == wanted => Ok(()),
        Some([one]) => Err(refuse(format!("`{}`", shortened(one)))),
        Some(several) => Err(refuse(format!("an array of {}", several.len()))),
    }
}

/// A text claim; a claim of another type makes it a JWT of no known kind.
pub(crate) fn text<'c>(
    claims: &'c Claims,
    name: &'static str,
    kind: &'static str,
) -> Result<Option<&'c str>, Refusal> {
    claims.text(name).map_err(|error| Refusal::Kind { found: error.to_string(), wanted: kind })
}

/// None of the claims that make a JWT one of another kind.
pub(crate) fn has_none_of(claims: &Claims, names: &[&str], kind: &'static str) -> Result<(), Refusal> {
    match names.iter().find(|name| claims.contains(name)) {
        Some(name) => Err(Refusal::Kind { found: format!("it has `{name}`"), wanted: kind }),
        None => Ok(()),
    }
}

/// The claim is there and is `owner`.
pub(crate) fn names_owner(
    claims: &Claims,
    name: &'static str,
    owner: &str,
    required: bool,
    kind: &'static str,
) -> Result<(), Refusal> {
    match text(claims, name, kind)? {
        Some(found) if found == owner => Ok(()),
        Some(found) => Err(Refusal::Subject(format!("`{name}` is `{}`, not `{owner}`", shortened(found)))),
        None if required => Err(Refusal::Subject(format!("`{name}` is missing, wanted `{owner}`"))),
        None => Ok(()),
    }
}

/// `jti`: 16 to 128 printable ASCII characters, compared byte for byte.
pub(crate) fn jti(claims: &Claims) -> Result<JtiDigest, Refusal> {
    let found = claims.text("jti").map_err(|error| Refusal::Jti(format!("is {}", error.found)))?;
    let found = found.ok_or_else(|| Refusal::Jti("is missing".into()))?;
    if let Some(odd) = found.chars().find(|c| !matches!(c, ' '..='~')) {
        return Err(Refusal::Jti(format!("holds {odd:?}")));
    }
    if !(JTI_CHARS_MIN..=JTI_CHARS_MAX).contains(&found.len()) {
        return Err(Refusal::Jti(format!("has {} characters", found.len())));
    }
    Ok(JtiDigest(first_half(found.as_bytes())))
}

/// A JWT signed at or before the second of a revocation is dead. Without `iat` the caller has made
/// sure of freshness by a one-time `jti`.
pub(crate) fn after_revocation(iat_s: Option<u64>, not_before_s: u64) -> Result<(), Refusal> {
    match iat_s {
        Some(iat_s) if not_before_s > 0 && iat_s <= not_before_s => Err(Refusal::Revoked),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Now = Now { now_s: 1_795_301_000, skew_s: 60 };

    fn claims(json: &str) -> Claims {
        Claims::from_json(json.as_bytes()).expect("strict JSON")
    }

    #[test]
    fn nbf_up_to_the_skew_ahead_passes_and_beyond_it_fails() {
        for (ahead, good) in [(0, true), (8, true), (60, true), (61, false), (3600, false)] {
            let found = NOW.not_future(&claims(&format!("{{\"nbf\":{}}}", NOW.now_s + ahead)), "nbf");
            assert_eq!(found.is_ok(), good, "+{ahead} s");
        }
    }

    #[test]
    fn exp_is_good_until_just_before_exp_plus_skew() {
        assert!(NOW.not_past(NOW.now_s - 59).is_ok());
        assert!(NOW.not_past(NOW.now_s - 60).is_err());
        assert!(NOW.not_past(u64::MAX).is_ok());
    }

    #[test]
    fn an_audience_is_one_string_or_an_array_of_one() {
        let wanted = "https://core.example";
        for (json, good) in [
            (r#"{"aud":"https://core.example"}"#, true),
            (r#"{"aud":["https://core.example"]}"#, true),
            (r#"{"aud":["https://core.example","https://core.example"]}"#, false),
            (r#"{"aud":["https://core.example","x"]}"#, false),
            (r#"{"aud":[]}"#, false),
            (r#"{"aud":"https://core.example/"}"#, false),
            (r#"{"aud":"https://core.example/oauth/token"}"#, false),
            (r#"{"aud":7}"#, false),
            (r#"{"aud":null}"#, false),
            ("{}", false),
        ] {
            assert_eq!(audience_is(&claims(json), wanted).is_ok(), good, "{json}");
        }
    }

    #[test]
    fn a_jti_has_16_to_128_printable_ascii_characters() {
        let of = |text: &str| jti(&claims(&format!("{{\"jti\":{text}}}")));
        assert!(of("\"0123456789abcdef\"").is_ok());
        assert!(of(&format!("\"{}\"", "x".repeat(128))).is_ok());
        for bad in
            ["\"0123456789abcde\"", "\"0123456789abcdeä\"", "\"0123456789abcdef\\n\"", "7", "null", "[]"]
        {
            assert!(of(bad).is_err(), "{bad}");
        }
        assert!(of(&format!("\"{}\"", "x".repeat(129))).is_err());
        assert_ne!(of("\"A123456789abcdef\""), of("\"a123456789abcdef\""), "compared byte for byte");
    }
}
