//! The one place of this library that reads a clock and draws random numbers: it runs on the device,
//! so it is the edge.
#![expect(clippy::disallowed_methods, reason = "the client library is the edge of its device")]

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Time and randomness of a device. The library asks for both here and nowhere else, so that a test, or a device with
/// a clock of its own, can give them.
pub trait Environment: Send + Sync {
    /// Seconds since 1970-01-01 UTC; any number when the device does not know.
    fn now_s(&self) -> u64;

    /// A time that never goes back, since any moment.
    fn elapsed(&self) -> Duration;

    /// Fills `bytes` with numbers nobody can guess.
    fn random(&self, bytes: &mut [u8]);
}

/// The clocks and the randomness of the operating system.
#[derive(Debug, Clone, Copy, Default)]
pub struct Host;

impl Environment for Host {
    fn now_s(&self) -> u64 {
        now_s()
    }

    fn elapsed(&self) -> Duration {
        static BEGAN: OnceLock<Instant> = OnceLock::new();
        instant().duration_since(*BEGAN.get_or_init(instant))
    }

    fn random(&self, bytes: &mut [u8]) {
        aws_lc_rs::rand::fill(bytes).expect("the operating system gives random bytes");
    }
}

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
    Host.random(&mut bytes);
    drawbridge_jose::base64url_encode(&bytes)
}

pub(crate) fn instant() -> Instant {
    Instant::now()
}
