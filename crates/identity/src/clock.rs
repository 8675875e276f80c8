//! Devices without a trusted clock: what shows that a JWT is new when its dates do not.

use drawbridge_jose::Claims;

use crate::nonce::{NONCE_LIFE_S, NoncePurpose, Nonces};
use crate::refusal::Refusal;

/// So far may the dates of a device with a coarse clock be off, in seconds.
const DAY_S: u64 = 86_400;

/// How far a device's clock is to be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceClock {
    /// It has none: dates prove nothing and may be left out, a server nonce is required.
    None,
    /// It is within a day: a server nonce is required as well.
    Coarse,
    /// It is within the registry's skew.
    #[default]
    Good,
}

/// How the dates of a JWT are judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dates {
    /// Within the registry's skew: they alone show that the JWT is new.
    Skew,
    /// Within a day: a nonce shows that it is new.
    Day,
    /// A nonce shows that it is new; they only have to be dates.
    Any,
}

impl Dates {
    pub(crate) fn tolerance_s(self, skew_s: u64) -> u64 {
        match self {
            Self::Skew => skew_s,
            Self::Day | Self::Any => skew_s.max(DAY_S),
        }
    }
}

/// What shows that a JWT is new.
pub(crate) struct Freshness {
    pub(crate) dates: Dates,
    /// When its nonce was made, by the server's clock.
    pub(crate) made_s: Option<u64>,
    /// The end of its nonce: from this second on nobody takes it any more.
    pub(crate) until_s: Option<u64>,
}

impl Freshness {
    /// A nonce that is sent must be good, whoever sends it; without a good clock one must be sent.
    pub(crate) fn judge(
        claims: &Claims,
        clock: DeviceClock,
        nonces: Option<&Nonces>,
        now_s: u64,
    ) -> Result<Self, Refusal> {
        let Some(age_s) = checked_nonce(claims, nonces, now_s)? else {
            return match clock {
                DeviceClock::Good => Ok(Self { dates: Dates::Skew, made_s: None, until_s: None }),
                DeviceClock::None | DeviceClock::Coarse => Err(Refusal::NonceWanted),
            };
        };
        let dates = if clock == DeviceClock::Coarse { Dates::Day } else { Dates::Any };
        let made_s = now_s.saturating_sub(age_s);
        Ok(Self { dates, made_s: Some(made_s), until_s: Some(made_s + NONCE_LIFE_S + 1) })
    }
}

/// The age of the nonce in a JWT, in seconds; `None`: it has none.
pub(crate) fn checked_nonce(
    claims: &Claims,
    nonces: Option<&Nonces>,
    now_s: u64,
) -> Result<Option<u64>, Refusal> {
    if !claims.contains("nonce") {
        return Ok(None);
    }
    let nonce = claims.text("nonce").ok().flatten().ok_or(Refusal::NonceStale)?;
    nonces.ok_or(Refusal::NonceStale)?.check(NoncePurpose::Assertion, nonce, now_s).map(Some)
}
