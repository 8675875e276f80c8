//! A topic filter with the quick way to ask it: most rules are exact topics or prefixes.

use drawbridge_names::{TopicFilter, TopicName};

/// A filter ready to be asked many times.
#[derive(Debug, Clone)]
pub(crate) struct Pattern {
    filter: TopicFilter,
    shape: Shape,
}

#[derive(Debug, Clone, Copy)]
enum Shape {
    /// `#` or `+/#`: every topic that does not begin with `$`.
    All,
    /// No wildcard.
    Exact,
    /// `stem/#`; bytes of the stem. Means the stem itself and all below it.
    Below { stem_bytes: u32 },
    /// Has a `+`; bytes before the first one, and of what must stand behind its level.
    Levels { literal_bytes: u32, chunk_bytes: u32 },
}

impl Pattern {
    pub(crate) fn new(filter: TopicFilter) -> Self {
        let text = filter.as_str();
        // A filter has at most 65,535 bytes, so its offsets fit.
        let shape = if text == "#" || text == "+/#" {
            Shape::All
        } else if let Some(first_plus) = text.find('+') {
            let behind = &text[first_plus + 1..];
            // `a/+/#` also means `a/b`, so a `/` before `#` is no part of what must be there.
            let behind = behind.strip_suffix("/#").unwrap_or(behind);
            let chunk_bytes = behind.find('+').unwrap_or(behind.len()) as u32;
            Shape::Levels { literal_bytes: first_plus as u32, chunk_bytes }
        } else if let Some(stem) = text.strip_suffix("/#") {
            Shape::Below { stem_bytes: stem.len() as u32 }
        } else {
            Shape::Exact
        };
        Self { filter, shape }
    }

    pub(crate) fn filter(&self) -> &TopicFilter {
        &self.filter
    }

    /// Says the same as [`TopicFilter::matches`]; `tests/oracle.rs` holds it to that.
    /// `scan` is shared by all patterns asked about one topic.
    #[inline]
    pub(crate) fn matches(&self, topic: TopicName<'_>, scan: &mut Scan) -> bool {
        let (pattern, topic) = (self.filter.as_str().as_bytes(), topic.as_str().as_bytes());
        match self.shape {
            Shape::All => topic.first() != Some(&b'$'),
            Shape::Exact => pattern.last() == topic.last() && pattern == topic,
            Shape::Below { stem_bytes } => below(&pattern[..stem_bytes as usize], topic),
            Shape::Levels { literal_bytes, chunk_bytes } => {
                let (literal, wild) = pattern.split_at(literal_bytes as usize);
                // An empty literal is a pattern that begins with `+`: never a `$`-topic.
                if !begins_with(topic, literal) || (literal.is_empty() && topic.first() == Some(&b'$')) {
                    return false;
                }
                // The `+` patterns of one policy mostly differ here, so most are told apart here.
                let rest = &topic[literal.len()..];
                let chunk = &wild[1..1 + chunk_bytes as usize];
                begins_with(&topic[scan.level_end(topic, literal.len())..], chunk) && levels_match(wild, rest)
            }
        }
    }

    /// Says the same as [`TopicFilter::covers`]: every topic of `asked` is one of this pattern.
    pub(crate) fn covers(&self, asked: &TopicFilter) -> bool {
        let (pattern, text) = (self.filter.as_str(), asked.as_str());
        match self.shape {
            Shape::All => !text.starts_with('$'),
            Shape::Exact => pattern == text,
            Shape::Below { stem_bytes } => below(&pattern.as_bytes()[..stem_bytes as usize], text.as_bytes()),
            Shape::Levels { literal_bytes, .. } => {
                text.starts_with(&pattern[..literal_bytes as usize]) && self.filter.covers(asked)
            }
        }
    }
}

/// Where the level ends that begins at some offset of a topic. The `+` of one policy mostly stand at the
/// same place, so the last answer is kept.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// Beginning and end of the level that was looked for last.
    last: Option<(usize, usize)>,
}

impl Scan {
    #[inline]
    fn level_end(&mut self, topic: &[u8], begin: usize) -> usize {
        match self.last {
            Some((known, end)) if known == begin => end,
            _ => {
                let end = topic.len() - after_level(&topic[begin..]).len();
                self.last = Some((begin, end));
                end
            }
        }
    }
}

/// Whether `text` begins with `start`. Patterns of one policy share their beginning and differ at
/// the end, so the last byte is looked at first.
#[inline]
fn begins_with(text: &[u8], start: &[u8]) -> bool {
    match start.last() {
        None => true,
        last => text.get(start.len() - 1) == last && text.starts_with(start),
    }
}

/// Whether `text` is `stem` or begins with `stem/`.
#[inline]
fn below(stem: &[u8], text: &[u8]) -> bool {
    begins_with(text, stem) && matches!(text.get(stem.len()), None | Some(b'/'))
}

/// What follows the first level of `text`: nothing, or something that begins with `/`.
#[inline]
fn after_level(text: &[u8]) -> &[u8] {
    &text[text.iter().position(|byte| *byte == b'/').unwrap_or(text.len())..]
}

/// Whether `topic` is meant by `pattern`, both at the beginning of a level, `pattern` at a `+`.
fn levels_match(mut pattern: &[u8], mut topic: &[u8]) -> bool {
    loop {
        // Step over the `+` and over the one level it stands for.
        pattern = &pattern[1..];
        topic = after_level(topic);
        let Some(next_plus) = pattern.iter().position(|byte| *byte == b'+') else {
            return match pattern.strip_suffix(b"/#") {
                Some(stem) => below(stem, topic),
                None => pattern == topic,
            };
        };
        let Some(rest) = topic.strip_prefix(&pattern[..next_plus]) else { return false };
        (pattern, topic) = (&pattern[next_plus..], rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All texts of up to `depth` levels over `alphabet`.
    fn texts(alphabet: &[&str], depth: usize) -> Vec<String> {
        let mut all: Vec<String> = alphabet.iter().map(|level| (*level).to_owned()).collect();
        let mut longest = all.clone();
        for _ in 1..depth {
            longest = longest.iter().flat_map(|p| alphabet.iter().map(move |l| format!("{p}/{l}"))).collect();
            all.extend(longest.iter().cloned());
        }
        all
    }

    #[test]
    fn the_quick_way_says_the_same_as_the_filter_for_every_small_filter_and_topic() {
        let filters: Vec<TopicFilter> = texts(&["a", "ab", "$b", "", "+", "#"], 3)
            .iter()
            .filter_map(|t| TopicFilter::parse(t).ok())
            .collect();
        let topics = texts(&["a", "ab", "$b", "", "c"], 4);
        let mut asked = 0;
        for filter in &filters {
            let pattern = Pattern::new(filter.clone());
            for text in &topics {
                let Ok(topic) = TopicName::parse(text) else { continue };
                let found = pattern.matches(topic, &mut Scan::default());
                assert_eq!(found, filter.matches(topic), "{filter} against {topic}");
                asked += 1;
            }
            for other in &filters {
                assert_eq!(pattern.covers(other), filter.covers(other), "{filter} covers {other}");
            }
        }
        assert!(asked > 50_000, "only {asked} pairs");
    }

    #[test]
    fn patterns_asked_one_after_the_other_about_one_topic_do_not_mislead_each_other() {
        let filters = texts(&["a", "ab", "+", "#"], 4);
        let patterns: Vec<Pattern> =
            filters.iter().filter_map(|text| TopicFilter::parse(text).ok()).map(Pattern::new).collect();
        for text in texts(&["a", "ab", "c"], 4) {
            let topic = TopicName::parse(&text).expect("a topic");
            let mut scan = Scan::default();
            for pattern in patterns.iter().chain(patterns.iter().rev()) {
                let filter = pattern.filter();
                assert_eq!(
                    pattern.matches(topic, &mut scan),
                    filter.matches(topic),
                    "{filter} against {topic}"
                );
            }
        }
    }
}
