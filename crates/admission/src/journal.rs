//! The log of decisions: each with its circumstances while they are few, a summary when they are many. A
//! flood of strangers fills counters, not disks.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines written in full in each [`SPAN`], over all words.
const LINES_MAX: u32 = 50;
const SPAN: Duration = Duration::from_secs(1);

/// Says which lines are still to be written. There is no timer behind it: the summary of a second comes
/// with the first line after that second.
#[derive(Debug)]
pub struct Journal {
    /// Whose lines these are, for the summary.
    of: &'static str,
    span: Mutex<Span>,
}

#[derive(Debug, Default)]
struct Span {
    began: Option<Instant>,
    lines: u32,
    left_out: BTreeMap<&'static str, u64>,
}

impl Journal {
    /// A journal in which nothing was written yet.
    #[must_use]
    pub fn new(of: &'static str) -> Self {
        Self { of, span: Mutex::default() }
    }

    /// Whether a line about `word` is to be written now: 50 in a second are. The others are counted, and
    /// the counts written in one line when the second is over.
    #[must_use]
    pub fn takes(&self, now: Instant, word: &'static str) -> bool {
        let (takes, summary) = self.judge(now, word);
        if let Some(summary) = summary {
            tracing::info!("{}, not logged one by one:{summary}", self.of);
        }
        takes
    }

    fn judge(&self, now: Instant, word: &'static str) -> (bool, Option<String>) {
        let mut span = self.span.lock().unwrap_or_else(PoisonError::into_inner);
        let is_over = span.began.is_none_or(|began| now.saturating_duration_since(began) >= SPAN);
        let mut summary = None;
        if is_over {
            let Span { left_out, .. } =
                std::mem::replace(&mut *span, Span { began: Some(now), ..Span::default() });
            summary = (!left_out.is_empty()).then(|| text(&left_out));
        }
        if span.lines < LINES_MAX {
            span.lines += 1;
            return (true, summary);
        }
        *span.left_out.entry(word).or_default() += 1;
        (false, summary)
    }
}

fn text(left_out: &BTreeMap<&'static str, u64>) -> String {
    left_out.iter().fold(String::new(), |mut text, (word, count)| {
        let comma = if text.is_empty() { "" } else { "," };
        write!(text, "{comma} {word} {count}").expect("a String takes all text");
        text
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "one base instant; all others are sums")]
    use super::*;

    #[test]
    fn a_flood_is_fifty_lines_a_second_and_one_summary_by_word() {
        let (journal, start) = (Journal::new("refusals"), Instant::now());
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut written = 0;
        for ms in 0..1000 {
            let word = if ms % 10 == 0 { "jti-reused" } else { "not-proven" };
            let (takes, summary) = journal.judge(at(ms), word);
            assert_eq!(summary, None, "{ms}");
            written += u32::from(takes);
        }
        assert_eq!(written, LINES_MAX);
        // The first 50 were 5 and 45.
        let (takes, summary) = journal.judge(at(1000), "time");
        assert!(takes);
        assert_eq!(summary.as_deref(), Some(" jti-reused 95, not-proven 855"));
        assert_eq!(journal.judge(at(5000), "time"), (true, None), "once");
    }
}
