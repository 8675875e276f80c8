//! How long to wait before the next connection: exponential back-off with full jitter, and what the server's reason
//! codes ask for. No clock and no randomness of its own.

use core::time::Duration;

/// What a reason means for the next attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advice {
    /// The link broke, or nobody said why: back off from the shortest time.
    Retry,
    /// The server has too much to do, or goes down and comes back: leave it alone for a while first.
    Wait,
    /// The server says for how long it wants to be left alone (`Retry-After`).
    WaitFor(Duration),
    /// The credential was not taken: once with a new one at once, then slowly.
    MintAnew,
    /// Nothing that changes by itself soon: a block, another client under our name, a wrong setting.
    Slow,
}

impl Advice {
    /// What a reason code of CONNACK or DISCONNECT means. In 3.1.1 the return codes stand for those of MQTT 5
    /// (section 3.2.2.3, table 3.1).
    ///
    /// Source: MQTT 5.0 sections 3.2.2.2 and 3.14.2.1.
    #[must_use]
    pub fn for_reason(code: u8) -> Self {
        match code {
            // Server unavailable, busy, shutting down, rate too high, quota, administrative action, connection rate.
            0x88 | 0x89 | 0x8B | 0x96 | 0x97 | 0x98 | 0x9F => Self::Wait,
            // Bad user name or password, not authorized.
            0x86 | 0x87 => Self::MintAnew,
            // Version, client id, banned, method, taken over, what our packets may be, another server.
            0x84 | 0x85 | 0x8A | 0x8C | 0x8E | 0x90 | 0x95 | 0x99 | 0x9A | 0x9B | 0x9C | 0x9D => Self::Slow,
            _ => Self::Retry,
        }
    }
}

/// The bounds of waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackoffOptions {
    /// Most after the first failure; it doubles with each further one. Default 1 s.
    pub base: Duration,
    /// Most in all. Default 2 min.
    pub cap: Duration,
    /// Least where the server asks to be left alone. Default 5 s.
    pub wait_min: Duration,
    /// Least where only a human can mend it. Default 1 min.
    pub slow_min: Duration,
    /// A connection that lived so long was a good one, and the count begins anew. Default 1 min.
    pub good_after: Duration,
}

impl Default for BackoffOptions {
    fn default() -> Self {
        Self {
            base: Duration::from_secs(1),
            cap: Duration::from_secs(120),
            wait_min: Duration::from_secs(5),
            slow_min: Duration::from_secs(60),
            good_after: Duration::from_secs(60),
        }
    }
}

/// Counts failures.
#[derive(Debug, Clone)]
pub struct Backoff {
    options: BackoffOptions,
    failures: u32,
    minted_anew: bool,
}

impl Backoff {
    /// Nothing has failed yet.
    #[must_use]
    pub fn new(options: BackoffOptions) -> Self {
        Self { options, failures: 0, minted_anew: false }
    }

    /// A connection ended that had been let in, after so long.
    pub fn was_open(&mut self, lived: Duration) {
        if lived >= self.options.good_after {
            self.failures = 0;
            self.minted_anew = false;
        }
    }

    /// How long to wait now; `random` is any number, each as likely.
    ///
    /// The wait is a random time between 0 and `base` x 2^failures (at most `cap`), on top of the least time that the
    /// advice asks for: devices that lost the same server do not come back together. The random part is never shorter than
    /// the least time: those that were all told to wait 5 s do not come back in the same second behind it.
    pub fn next(&mut self, advice: Advice, random: u64) -> Duration {
        let BackoffOptions { base, cap, wait_min, slow_min, .. } = self.options;
        let least = match advice {
            Advice::Retry => Duration::ZERO,
            Advice::Wait => wait_min,
            Advice::WaitFor(told) => wait_min.max(told),
            Advice::MintAnew if !self.minted_anew => {
                self.minted_anew = true;
                Duration::ZERO
            }
            Advice::MintAnew | Advice::Slow => slow_min,
        };
        let window = base.saturating_mul(2u32.saturating_pow(self.failures.min(31))).min(cap);
        let most = window.max(least.min(cap));
        self.failures = self.failures.saturating_add(1);
        least + share(most, random)
    }
}

/// A part of `most` as `random` says: 0 is none of it, the greatest number nearly all.
#[must_use]
pub(crate) fn share(most: Duration, random: u64) -> Duration {
    // 53 bits, which a float of 64 bits holds exactly.
    most.mul_f64((random >> 11) as f64 / (1u64 << 53) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_doubles_up_to_the_cap_and_all_of_it_is_used() {
        let mut most = Backoff::new(BackoffOptions::default());
        let mut least = most.clone();
        for seconds in [1, 2, 4, 8, 16, 32, 64, 120, 120] {
            let waited = most.next(Advice::Retry, u64::MAX);
            assert!(waited <= Duration::from_secs(seconds), "{waited:?} after {seconds}");
            assert!(waited > Duration::from_millis(seconds * 999), "{waited:?} after {seconds}");
            assert_eq!(least.next(Advice::Retry, 0), Duration::ZERO);
        }
        most.was_open(Duration::from_secs(59));
        assert!(most.next(Advice::Retry, u64::MAX) > Duration::from_secs(119), "it did not live long");
        most.was_open(Duration::from_secs(60));
        assert!(most.next(Advice::Retry, u64::MAX) <= Duration::from_secs(1));
        for _ in 0..100 {
            assert!(most.next(Advice::Retry, u64::MAX) <= Duration::from_secs(120));
        }
    }

    #[test]
    fn a_refused_credential_is_minted_anew_once_and_then_slowly() {
        let mut backoff = Backoff::new(BackoffOptions::default());
        assert!(backoff.next(Advice::MintAnew, u64::MAX) <= Duration::from_secs(1));
        for _ in 0..3 {
            assert!(backoff.next(Advice::MintAnew, 0) >= Duration::from_secs(60));
        }
        backoff.was_open(Duration::from_secs(3600));
        assert!(backoff.next(Advice::MintAnew, 0) < Duration::from_secs(1));
    }

    #[test]
    fn reason_codes_ask_for_what_they_mean() {
        let table: [(Advice, &[u8]); 4] = [
            (Advice::Retry, &[0x80, 0x81, 0x82, 0x83, 0x8D, 0xA0]),
            (Advice::Wait, &[0x88, 0x89, 0x8B, 0x96, 0x97, 0x98, 0x9F]),
            (Advice::MintAnew, &[0x86, 0x87]),
            (Advice::Slow, &[0x84, 0x85, 0x8A, 0x8C, 0x8E, 0x9C, 0x9D]),
        ];
        for (advice, codes) in table {
            for &code in codes {
                assert_eq!(Advice::for_reason(code), advice, "{code:#x}");
            }
        }
        let mut backoff = Backoff::new(BackoffOptions::default());
        assert!(backoff.next(Advice::Wait, 0) >= Duration::from_secs(5));
        assert!(backoff.next(Advice::Slow, 0) >= Duration::from_secs(60));
    }

    #[test]
    fn a_fleet_that_is_told_to_wait_comes_back_spread_over_as_long_again() {
        for (advice, least_s) in
            [(Advice::Wait, 5), (Advice::WaitFor(Duration::from_secs(30)), 30), (Advice::Slow, 60)]
        {
            let fresh = Backoff::new(BackoffOptions::default());
            let least = Duration::from_secs(least_s);
            assert_eq!(fresh.clone().next(advice, 0), least, "{advice:?}");
            assert!(fresh.clone().next(advice, u64::MAX) > least * 199 / 100, "{advice:?}");
            assert!(fresh.clone().next(advice, u64::MAX) <= least * 2, "{advice:?}");
        }
        // A server that names a short time is left alone for the least that such a server is.
        let told = Advice::WaitFor(Duration::from_secs(1));
        assert_eq!(Backoff::new(BackoffOptions::default()).next(told, 0), Duration::from_secs(5));
        let day = Advice::WaitFor(Duration::from_secs(86_400));
        let waited = Backoff::new(BackoffOptions::default()).next(day, u64::MAX);
        assert!(waited <= Duration::from_secs(86_400 + 120), "the jitter is bounded: {waited:?}");
    }
}
