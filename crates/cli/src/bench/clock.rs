//! The one place of the generator that reads a clock.
#![expect(clippy::disallowed_methods, reason = "a load generator measures real time")]

use std::time::{Duration, Instant};

/// Time since the generator began.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock(Instant);

impl Clock {
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }

    /// Nanoseconds since the start: what stands in payloads.
    pub(super) fn ns(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_nanos()).expect("no run takes 500 years")
    }
}

pub(super) fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
