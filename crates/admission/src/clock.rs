//! Time and randomness, as arguments.

use std::time::Instant;

/// What time it is. The edge reads the machine's clocks, tests set their own.
pub trait Clock: Send + Sync {
    /// Milliseconds since 1970-01-01 UTC.
    fn now_ms(&self) -> u64;
    /// A clock that only runs forward, for deadlines.
    fn instant(&self) -> Instant;
}

/// Where random bytes come from. At the edge this is the operating system's generator; nothing else
/// is good enough for secrets.
pub trait Random: Send + Sync {
    /// Fills `bytes` with random ones.
    fn fill(&self, bytes: &mut [u8]);
}

/// 128 random bits as 22 characters of base64url: the form of every id made here.
pub(crate) fn random_id(random: &dyn Random) -> String {
    let mut bytes = [0; 16];
    random.fill(&mut bytes);
    drawbridge_jose::base64url_encode(&bytes)
}
