//! The log of a shard's sessions and refusals: each at `info` with its address while they are few, a summary when
//! they are many. A flood of strangers fills counters, not disks.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines written in full in each [`SPAN`], over all words.
const LINES_MAX: u32 = 20;
const SPAN: Duration = Duration::from_secs(1);

/// Counts of refusals by word, since the start.
#[derive(Debug, Default)]
pub(crate) struct Counts(Mutex<BTreeMap<&'static str, u64>>);

impl Counts {
    fn add(&self, word: &'static str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(word).or_default() += 1;
    }

    pub(crate) fn add_to(&self, sum: &mut BTreeMap<&'static str, u64>) {
        for (word, count) in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            *sum.entry(word).or_default() += count;
        }
    }
}

/// Writes what happened on one shard, within bounds.
#[derive(Debug)]
pub(crate) struct Journal {
    counts: Arc<Counts>,
    span_began: Option<Instant>,
    lines: u32,
    /// Seen in this span: at most one line each for conditions (a full listener), and the number of
    /// lines left out.
    conditions: Vec<&'static str>,
    left_out: BTreeMap<&'static str, u64>,
}

impl Journal {
    pub(crate) fn new(counts: Arc<Counts>) -> Self {
        Self { counts, span_began: None, lines: 0, conditions: Vec::new(), left_out: BTreeMap::new() }
    }

    /// A connection was refused. `detail` must hold no secret.
    pub(crate) fn refused(
        &mut self,
        now: Instant,
        code: &'static str,
        word: &'static str,
        peer: SocketAddr,
        detail: &dyn fmt::Display,
    ) {
        self.counts.add(word);
        self.tick(now);
        self.lines += 1;
        if self.lines > LINES_MAX {
            *self.left_out.entry(word).or_default() += 1;
            return;
        }
        tracing::info!(code, word, %peer, "refused: {detail}");
    }

    /// A session began or ended in order.
    pub(crate) fn noted(
        &mut self,
        now: Instant,
        word: &'static str,
        peer: SocketAddr,
        detail: &dyn fmt::Display,
    ) {
        self.tick(now);
        self.lines += 1;
        if self.lines > LINES_MAX {
            *self.left_out.entry(word).or_default() += 1;
            return;
        }
        tracing::info!(%peer, "{detail}");
    }

    /// Something was refused that others have logged.
    pub(crate) fn counted(&self, word: &'static str) {
        self.counts.add(word);
    }

    /// A condition of the server that refuses many: logged once in each span.
    pub(crate) fn condition(
        &mut self,
        now: Instant,
        code: &'static str,
        word: &'static str,
        detail: &dyn fmt::Display,
    ) {
        self.counts.add(word);
        self.tick(now);
        if !self.conditions.contains(&word) {
            self.conditions.push(word);
            tracing::warn!(code, word, "{detail}");
        }
    }

    /// Closes a span that is over, with a summary of what was left out.
    pub(crate) fn tick(&mut self, now: Instant) {
        let over = self.span_began.is_none_or(|began| now.saturating_duration_since(began) >= SPAN);
        if !over {
            return;
        }
        for (word, count) in std::mem::take(&mut self.left_out) {
            tracing::info!(word, count, "more of the same, not logged one by one");
        }
        self.conditions.clear();
        self.lines = 0;
        self.span_began = Some(now);
    }

    /// When a summary is due.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        if self.left_out.is_empty() { None } else { self.span_began.map(|began| began + SPAN) }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "one base instant; all others are sums")]
    use super::*;

    #[test]
    fn a_flood_of_refusals_is_counted_whole_and_logged_in_part() {
        let counts = Arc::new(Counts::default());
        let mut journal = Journal::new(Arc::clone(&counts));
        let (now, peer) = (Instant::now(), SocketAddr::from(([192, 0, 2, 1], 1)));
        for _ in 0..1000 {
            journal.refused(now, "DB-2070", "tls-failed", peer, &"x");
        }
        assert_eq!(journal.left_out.get("tls-failed"), Some(&(1000 - u64::from(LINES_MAX))));
        assert_eq!(journal.next_timeout(), Some(now + SPAN));
        journal.tick(now + SPAN);
        assert_eq!(journal.next_timeout(), None);
        let mut sum = BTreeMap::new();
        counts.add_to(&mut sum);
        assert_eq!(sum, BTreeMap::from([("tls-failed", 1000)]));
    }
}
