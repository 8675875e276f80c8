//! The one place of this library that reads a clock and draws random numbers: it runs on the device,
//! so it is the edge.
#![expect(clippy::disallowed_methods, reason = "the client library is the edge of its device")]

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Seconds since 1970-01-01 UTC by the device's clock; 0 when the clock stands before that.
#[must_use]
pub fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// 128 random bits as 22 characters of base64url: good for a `jti`.
///
/// # Panics
/// When the operating system has no randomness to give; nothing secure can be done then.
#[must_use]
pub fn random_id() -> String {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).expect("the operating system gives random bytes");
    drawbridge_jose::base64url_encode(&bytes)
}

pub(crate) fn instant() -> Instant {
    Instant::now()
}
