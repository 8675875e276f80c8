//! One timer wheel per shard: CONNECT deadlines, keep-alive, session ends, will delays, orders.
//!
//! A hashed wheel: an entry lies in the slot of its tick modulo the number of slots, and entries of
//! a later round stay there until their round comes. Nothing is ever cancelled: an owner whose
//! deadline moved out lets the entry fire, sees that it is early, and arms itself again ("lazy
//! re-arm"), so a packet that proves a client alive costs the wheel nothing.
//!
//! An entry fires never before its deadline and at most one tick (50 ms) after it.

use std::time::{Duration, Instant};

const TICK: Duration = Duration::from_millis(50);
const TICK_NS: u128 = TICK.as_nanos();
/// One round is 102.4 s, so that the usual keep-alive of 60 s passes its slot once.
const SLOTS: usize = 2_048;
const WORDS: usize = SLOTS / 64;

pub(crate) struct Wheel<K> {
    /// Instant of tick 0; set by the first use, because the wheel has no clock.
    base: Option<Instant>,
    /// The next tick to be looked at.
    tick: u64,
    slots: Vec<Vec<(u64, K)>>,
    /// One bit per slot that holds something.
    occupied: [u64; WORDS],
    len: usize,
}

impl<K> Wheel<K> {
    pub(crate) fn new() -> Self {
        Self {
            base: None,
            tick: 0,
            slots: std::iter::repeat_with(Vec::new).take(SLOTS).collect(),
            occupied: [0; WORDS],
            len: 0,
        }
    }

    /// Number of entries.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Lets `key` fire at `at`, or at the next tick when `at` has passed.
    pub(crate) fn insert(&mut self, now: Instant, at: Instant, key: K) {
        let base = *self.base.get_or_insert(now);
        let tick = ticks(at.saturating_duration_since(base), true).max(self.tick);
        let slot = slot_of(tick);
        self.slots[slot].push((tick, key));
        self.occupied[slot / 64] |= 1 << (slot % 64);
        self.len += 1;
    }

    /// Moves what is due at `now` into `due`, earliest slot first.
    pub(crate) fn expire(&mut self, now: Instant, due: &mut Vec<K>) {
        let base = *self.base.get_or_insert(now);
        let last = ticks(now.saturating_duration_since(base), false);
        if last < self.tick {
            return;
        }
        let span = (last - self.tick + 1).min(SLOTS as u64);
        if self.len > 0 {
            for step in 0..span {
                self.expire_slot(slot_of(self.tick + step), last, due);
            }
        }
        self.tick = last + 1;
    }

    fn expire_slot(&mut self, slot: usize, last: u64, due: &mut Vec<K>) {
        if self.occupied[slot / 64] & (1 << (slot % 64)) == 0 {
            return;
        }
        let entries = &mut self.slots[slot];
        let mut i = 0;
        while i < entries.len() {
            if entries[i].0 <= last {
                due.push(entries.swap_remove(i).1);
                self.len -= 1;
            } else {
                i += 1;
            }
        }
        if entries.is_empty() {
            self.occupied[slot / 64] &= !(1 << (slot % 64));
            if entries.capacity() > 64 {
                *entries = Vec::new();
            }
        }
    }

    /// When the wheel wants to be asked again. May be early (an entry of a later round), never late.
    pub(crate) fn next(&self) -> Option<Instant> {
        let base = self.base?;
        if self.len == 0 {
            return None;
        }
        let start = slot_of(self.tick);
        let ahead = (0..=WORDS).find_map(|step| {
            let word = (start / 64 + step) % WORDS;
            let mut bits = self.occupied[word];
            if step == 0 {
                bits &= u64::MAX << (start % 64);
            }
            let bit = bits.trailing_zeros() as usize;
            (bit < 64).then(|| (word * 64 + bit + SLOTS - start) % SLOTS)
        })?;
        let tick = self.tick + ahead as u64;
        Some(base + Duration::from_nanos(u64::try_from(TICK_NS).unwrap_or(u64::MAX).saturating_mul(tick)))
    }
}

fn slot_of(tick: u64) -> usize {
    usize::try_from(tick % SLOTS as u64).expect("the remainder is below SLOTS")
}

fn ticks(span: Duration, up: bool) -> u64 {
    let ns = span.as_nanos();
    let ticks = if up { ns.div_ceil(TICK_NS) } else { ns / TICK_NS };
    u64::try_from(ticks).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "one base instant; all later ones are sums")]
    use super::*;

    #[test]
    fn every_entry_fires_once_never_early_and_within_100_ms() {
        let base = Instant::now();
        let mut wheel = Wheel::new();
        wheel.expire(base, &mut Vec::new());
        // Spread over three rounds, with several entries per slot.
        let mut waiting: Vec<Instant> = Vec::new();
        for n in 0..5_000_u64 {
            let at = base + Duration::from_millis(n * 61 + (n % 7) * 13);
            wheel.insert(base, at, waiting.len());
            waiting.push(at);
        }
        let mut fired = vec![false; waiting.len()];
        let mut due = Vec::new();
        let mut turns = 0;
        while let Some(now) = wheel.next() {
            wheel.expire(now, &mut due);
            for n in due.drain(..) {
                assert!(!fired[n], "{n} fired twice");
                assert!(now >= waiting[n], "{n} fired early");
                assert!(now - waiting[n] <= Duration::from_millis(100), "{n} fired late");
                fired[n] = true;
            }
            turns += 1;
            assert!(turns < 50_000, "the wheel does not come to rest");
        }
        assert!(fired.iter().all(|&f| f));
    }

    #[test]
    fn a_long_sleep_loses_nothing() {
        let base = Instant::now();
        let mut wheel = Wheel::new();
        for n in 0..1_000_u32 {
            wheel.insert(base, base + Duration::from_secs(u64::from(n)), n);
        }
        let mut due = Vec::new();
        wheel.expire(base + Duration::from_secs(500), &mut due);
        assert_eq!(due.len(), 501);
        wheel.expire(base + Duration::from_secs(5_000), &mut due);
        assert_eq!(due.len(), 1_000);
        assert_eq!(wheel.next(), None);
    }
}
