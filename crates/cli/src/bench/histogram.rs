//! Times by their frequency: each is kept within 1.6 %, whatever its size, in a table of fixed size.

/// Sub-steps of each doubling.
const STEPS: usize = 64;
const STEPS_LOG2: u32 = 6;

/// Times in nanoseconds.
#[derive(Debug, Clone)]
pub(super) struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; STEPS * 60], total: 0, max: 0 }
    }
}

impl Histogram {
    pub(super) fn add(&mut self, ns: u64) {
        self.counts[index(ns)] += 1;
        self.total += 1;
        self.max = self.max.max(ns);
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }

    pub(super) fn max_us(&self) -> f64 {
        self.max as f64 / 1e3
    }

    /// The time that a share of all (0 to 1) did not exceed, in microseconds; 0 when there is none.
    pub(super) fn at_us(&self, share: f64) -> f64 {
        if self.total == 0 {
            return 0.0;
        }
        let wanted = (share * self.total as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (at, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return upper(at).min(self.max) as f64 / 1e3;
            }
        }
        self.max_us()
    }

    /// How many were longer than this many nanoseconds, within the precision of the table.
    pub(super) fn above(&self, ns: u64) -> u64 {
        self.counts[index(ns) + 1..].iter().sum()
    }
}

/// Values below 128 have a place each; above, 64 places for each doubling.
fn index(ns: u64) -> usize {
    let shift = (64 - ns.leading_zeros()).saturating_sub(STEPS_LOG2 + 1);
    let within = usize::try_from(ns >> shift).expect("7 bits");
    usize::try_from(shift).expect("at most 57") * STEPS + within
}

/// The largest value of a place.
fn upper(at: usize) -> u64 {
    let shift = (at / STEPS).saturating_sub(1);
    let within = at - shift * STEPS;
    ((within as u64 + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_is_kept_within_two_percent() {
        for ns in [0, 1, 63, 64, 127, 128, 129, 1_000, 65_535, 1_000_000, 123_456_789, u64::MAX / 3] {
            let kept = upper(index(ns));
            assert!(kept >= ns, "{ns} {kept}");
            assert!((kept - ns) as f64 <= ns as f64 * 0.016, "{ns} {kept}");
        }
        for at in 0..STEPS * 40 {
            assert_eq!(index(upper(at)), at);
        }
    }

    #[test]
    fn quantiles_are_those_of_the_sorted_list() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.at_us(0.5), 0.0);
        for us in 1..=1_000_u64 {
            histogram.add(us * 1_000);
        }
        for (share, wanted) in [(0.5, 500.0), (0.99, 990.0), (0.999, 999.0), (1.0, 1_000.0)] {
            let found = histogram.at_us(share);
            assert!((found - wanted).abs() <= wanted * 0.017, "{share}: {found}, wanted {wanted}");
        }
        assert_eq!((histogram.total(), histogram.max_us()), (1_000, 1_000.0));
        assert_eq!(histogram.above(0), 1_000);
        assert!((histogram.above(900_000) as i64 - 100).abs() <= 15);
    }
}
