//! Time, randomness and events that a test holds in its hands.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use drawbridge_admission::{AesSeal, Clock, Random, Seal, SessionsEnd, Watcher};

/// A clock that stands still until it is told to go.
#[derive(Debug)]
pub struct FakeClock {
    now_ms: AtomicU64,
    elapsed_ms: AtomicU64,
    start: Instant,
}

impl FakeClock {
    /// The second at which tests begin unless they say otherwise: 2026-11-22 10:03:20 UTC.
    pub const START_S: u64 = 1_795_341_800;

    /// A clock that shows this second, since 1970-01-01 UTC.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "an `Instant` can only be made from the machine's clock")]
    pub fn at(now_s: u64) -> Self {
        Self { now_ms: AtomicU64::new(now_s * 1000), elapsed_ms: AtomicU64::new(0), start: Instant::now() }
    }

    /// What it shows, in seconds since 1970-01-01 UTC.
    #[must_use]
    pub fn now_s(&self) -> u64 {
        self.now_ms.load(Ordering::SeqCst) / 1000
    }

    /// Time passes: both clocks go on.
    pub fn advance(&self, time: Duration) {
        let ms = u64::try_from(time.as_millis()).expect("tests do not wait for ages");
        self.elapsed_ms.fetch_add(ms, Ordering::SeqCst);
        self.now_ms.fetch_add(ms, Ordering::SeqCst);
    }

    /// Seconds pass.
    pub fn advance_s(&self, seconds: u64) {
        self.advance(Duration::from_secs(seconds));
    }

    /// Somebody sets the wall clock; the clock that only runs forward does not notice.
    pub fn jump_to(&self, now_s: u64) {
        self.now_ms.store(now_s * 1000, Ordering::SeqCst);
    }
}

impl Default for FakeClock {
    fn default() -> Self {
        Self::at(Self::START_S)
    }
}

impl Clock for FakeClock {
    fn now_ms(&self) -> u64 {
        self.now_ms.load(Ordering::SeqCst)
    }

    fn instant(&self) -> Instant {
        self.start + Duration::from_millis(self.elapsed_ms.load(Ordering::SeqCst))
    }
}

/// A sealer with a key that everybody knows.
#[must_use]
pub fn sealer() -> Arc<dyn Seal> {
    Arc::new(AesSeal::new([0x5e; 32]))
}

/// Random bytes that are the same for the same seed (SplitMix64).
#[derive(Debug)]
pub struct SeededRandom(AtomicU64);

impl SeededRandom {
    /// A generator; print the seed when a test fails.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    /// The next number.
    pub fn next(&self) -> u64 {
        const STEP: u64 = 0x9E37_79B9_7F4A_7C15;
        let mut z = self.0.fetch_add(STEP, Ordering::SeqCst).wrapping_add(STEP);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

impl Random for SeededRandom {
    fn fill(&self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
    }
}

/// Writes down every end of sessions it is told of.
#[derive(Debug, Default)]
pub struct RecordingWatcher(Mutex<Vec<SessionsEnd>>);

impl RecordingWatcher {
    /// What it was told since the last time.
    pub fn take(&self) -> Vec<SessionsEnd> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Watcher for RecordingWatcher {
    fn ended(&self, event: &SessionsEnd) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(event.clone());
    }
}
