//! Topic filters: what a subscription asks for and what a rule covers (MQTT 4.7, RFC 9431 3.3).

use std::fmt;
use std::sync::Arc;

use crate::TopicName;

/// Why a text is no topic filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TopicFilterError {
    /// [MQTT-4.7.3-1] (both versions): at least one character.
    #[error("the topic filter is empty; wanted at least one character")]
    Empty,
    /// [MQTT-4.7.1-1] (5.0; 4.7.1-2 in 3.1.1): `#` stands alone in the last level.
    #[error("the topic filter has `#` at byte {at}; it must be a whole level and the last one")]
    MisplacedHash {
        /// Byte offset.
        at: usize,
    },
    /// [MQTT-4.7.1-2] (5.0; 4.7.1-3 in 3.1.1): `+` stands alone in its level.
    #[error("the topic filter has `+` at byte {at}; it must be a whole level")]
    MisplacedPlus {
        /// Byte offset.
        at: usize,
    },
    /// [MQTT-4.7.3-2] (both versions), and other control characters as in topic names.
    #[error("the topic filter has the control character {found:?} at byte {at}; remove it")]
    Control {
        /// The character.
        found: char,
        /// Byte offset.
        at: usize,
    },
    /// [MQTT-4.7.3-3] (both versions).
    #[error("the topic filter has {found_bytes} bytes, at most 65535 are allowed; shorten it")]
    TooLong {
        /// Length found, in bytes.
        found_bytes: usize,
    },
}

/// A topic filter. `plant/+/temp` and `plant/#` exist, `plant/#/temp` cannot be built.
///
/// `$share/group/filter` is not taken apart here: whoever serves shared subscriptions splits it
/// first and parses the inner filter.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicFilter(Arc<str>);

impl TopicFilter {
    /// Takes a text as a topic filter.
    ///
    /// # Errors
    /// [`TopicFilterError`] with the place of the fault.
    ///
    /// Source: MQTT 5.0 and 3.1.1, sections 4.7.1 and 4.7.3.
    pub fn parse(text: &str) -> Result<Self, TopicFilterError> {
        if text.is_empty() {
            return Err(TopicFilterError::Empty);
        }
        if text.len() > 65_535 {
            return Err(TopicFilterError::TooLong { found_bytes: text.len() });
        }
        if let Some((at, found)) = text.char_indices().find(|(_, c)| c.is_control()) {
            return Err(TopicFilterError::Control { found, at });
        }
        let mut at = 0;
        for level in text.split('/') {
            let end = at + level.len();
            if let Some(i) = level.find('#')
                && (level.len() > 1 || end != text.len())
            {
                return Err(TopicFilterError::MisplacedHash { at: at + i });
            }
            if let Some(i) = level.find('+')
                && level.len() > 1
            {
                return Err(TopicFilterError::MisplacedPlus { at: at + i });
            }
            at = end + 1;
        }
        Ok(Self(text.into()))
    }

    /// The filter as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its levels, split at `/`; a level may be empty, `+` or (last) `#`.
    pub fn levels(&self) -> std::str::Split<'_, char> {
        self.0.split('/')
    }

    /// Whether it has a `+` or `#` level.
    #[must_use]
    pub fn has_wildcard(&self) -> bool {
        self.levels().any(|level| level == "+" || level == "#")
    }

    /// Whether it begins with a wildcard level; such a filter never speaks of `$`-topics.
    #[must_use]
    pub fn begins_with_wildcard(&self) -> bool {
        matches!(self.levels().next(), Some("+" | "#"))
    }

    /// Whether a message published to `topic` is meant by this filter.
    ///
    /// Source: MQTT 5.0 and 3.1.1, sections 4.7.1.2 (`#` also means the parent level), 4.7.1.3 and
    /// [MQTT-4.7.2-1] (`$`-topics).
    #[must_use]
    pub fn matches(&self, topic: TopicName<'_>) -> bool {
        if topic.is_dollar() && self.begins_with_wildcard() {
            return false;
        }
        let mut names = topic.levels();
        for level in self.levels() {
            match (level, names.next()) {
                ("#", _) => return true,
                ("+", Some(_)) => {}
                (wanted, Some(found)) if wanted == found => {}
                _ => return false,
            }
        }
        names.next().is_none()
    }

    /// Whether every topic that `other` matches is matched by this filter too: the subset test that
    /// decides whether a subscription stays within a grant.
    ///
    /// Source: RFC 9431 section 3.3 (a requested filter must be equal to or a subset of a granted
    /// one), MQTT 4.7.2 for `$`-topics.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        if other.0.starts_with('$') && self.begins_with_wildcard() {
            return false;
        }
        if &*self.0 == "+/#" {
            return true; // every topic has a first level: `+/#` says the same as `#`
        }
        let mut asked = other.levels();
        let mut granted = self.levels();
        loop {
            match (granted.next(), asked.next()) {
                // Also the parent level: `a/#` matches `a`, so it covers `a`.
                (Some("#"), _) | (None, None) => return true,
                (Some("+"), Some(level)) if level != "#" => {}
                (Some(wanted), Some(found)) if wanted == found => {}
                _ => return false,
            }
        }
    }
}

impl fmt::Display for TopicFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TopicFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl std::str::FromStr for TopicFilter {
    type Err = TopicFilterError;
    fn from_str(text: &str) -> Result<Self, TopicFilterError> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(text: &str) -> TopicFilter {
        TopicFilter::parse(text).expect(text)
    }

    #[test]
    fn misplaced_wildcards_cannot_be_built() {
        for bad in ["", "a/#/b", "a#", "#a", "a/b#", "a+", "+a/b", "a/+b/c", "##", "++", "a\0b", "a/\n"] {
            assert!(TopicFilter::parse(bad).is_err(), "{bad:?}");
        }
        for good in ["#", "+", "/", "a/#", "+/+/#", "a//b", "/+", "$SYS/#", "a b/+"] {
            assert!(TopicFilter::parse(good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn matching_follows_the_examples_of_the_specification() {
        let table = [
            ("sport/tennis/player1/#", "sport/tennis/player1", true),
            ("sport/tennis/player1/#", "sport/tennis/player1/ranking", true),
            ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true),
            ("sport/tennis/player1/#", "sport/tennis/player2", false),
            ("sport/#", "sport", true),
            ("#", "a/b", true),
            ("sport/tennis/+", "sport/tennis/player1", true),
            ("sport/tennis/+", "sport/tennis/player1/ranking", false),
            ("sport/+", "sport", false),
            ("sport/+", "sport/", true),
            ("+/+", "/finance", true),
            ("/+", "/finance", true),
            ("+", "/finance", false),
            ("#", "$SYS/x", false),
            ("+/monitor/Clients", "$SYS/monitor/Clients", false),
            ("$SYS/#", "$SYS/", true),
            ("$SYS/monitor/+", "$SYS/monitor/Clients", true),
            ("a/b", "a/b", true),
            ("a/b", "A/b", false),
            ("a/b", "a/b/", false),
        ];
        for (f, t, expected) in table {
            assert_eq!(filter(f).matches(TopicName::parse(t).expect(t)), expected, "{f} against {t}");
        }
    }

    #[test]
    fn covering_is_the_subset_of_rfc_9431() {
        let table = [
            ("a/#", "a/b/#", true),
            ("a/#", "a", true),
            ("a/#", "a/#", true),
            ("a/#", "#", false),
            ("a/+", "a/b", true),
            ("a/+", "a/+", true),
            ("a/+", "a/#", false),
            ("a/b", "a/+", false),
            ("plant/+/temp", "plant/#", false),
            ("#", "a/+/#", true),
            ("#", "$SYS/#", false),
            ("+/x", "$SYS/x", false),
            ("$SYS/#", "$SYS/a", true),
            ("+/#", "#", true),
            ("+/+/#", "+/#", false),
            ("+/#", "a", true),
            ("a/+/#", "a/#", false),
        ];
        for (granted, asked, expected) in table {
            assert_eq!(filter(granted).covers(&filter(asked)), expected, "{granted} covers {asked}");
        }
    }

    /// All texts of up to `depth` levels over `alphabet`.
    fn texts(alphabet: &[&str], depth: usize) -> Vec<String> {
        let mut all: Vec<String> = Vec::new();
        let mut longest: Vec<String> = alphabet.iter().map(|level| (*level).to_owned()).collect();
        for _ in 0..depth {
            all.extend(longest.iter().cloned());
            longest = longest.iter().flat_map(|p| alphabet.iter().map(move |l| format!("{p}/{l}"))).collect();
        }
        all
    }

    #[test]
    fn covering_agrees_with_brute_force_over_every_small_filter_and_topic() {
        let filters: Vec<TopicFilter> =
            texts(&["a", "$b", "", "+", "#"], 3).iter().filter_map(|t| TopicFilter::parse(t).ok()).collect();
        // One level deeper than the filters and with a word that no filter names: enough to tell any
        // two of them apart.
        let topics = texts(&["a", "$b", "", "other"], 4);
        let topics: Vec<TopicName<'_>> = topics.iter().filter_map(|t| TopicName::parse(t).ok()).collect();
        let matched: Vec<Vec<bool>> =
            filters.iter().map(|f| topics.iter().map(|t| f.matches(*t)).collect()).collect();
        let mut pairs = 0;
        for (granted, in_granted) in filters.iter().zip(&matched) {
            for (asked, in_asked) in filters.iter().zip(&matched) {
                let subset = in_asked.iter().zip(in_granted).all(|(asked, granted)| !asked || *granted);
                // `/#` as text also means the parent level, the empty topic, which cannot exist; so
                // `/+/#` is refused it although no topic could tell the two apart. Never the reverse.
                if asked.as_str() != "/#" {
                    assert_eq!(granted.covers(asked), subset, "{granted} covers {asked}");
                }
                assert!(subset || !granted.covers(asked), "{granted} covers {asked}");
                pairs += 1;
            }
        }
        assert!(pairs > 10_000, "only {pairs} pairs");
    }
}
