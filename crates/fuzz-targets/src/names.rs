//! Topic filters, topic names, and the names of everybody.

use drawbridge_identity::{NONCE_LIFE_S, NoncePurpose};
use drawbridge_names::{
    KeyId, MqttClientId, PolicyName, PrincipalName, RegistryName, TopicFilter, TopicName,
};

use crate::world::{NOW_S, WORLD};
use crate::{Outcome, judge_text};

pub(crate) mod topic_filter {
    use super::*;

    /// Three lines: a filter, another one, a topic.
    pub(crate) fn run(data: &[u8]) -> Outcome {
        let Ok(text) = std::str::from_utf8(data) else { return Outcome::refused("no text") };
        let mut lines = text.splitn(3, '\n');
        let [one, other, topic] = [(); 3].map(|()| lines.next().unwrap_or_default());
        let parsed = [one, other].map(|text| {
            let parsed = TopicFilter::parse(text);
            assert_eq!(parsed.is_ok(), is_filter(text), "{text:?}");
            if let Err(error) = &parsed {
                judge_text(&error.to_string(), b"");
            }
            parsed
        });
        let named = TopicName::parse(topic);
        assert_eq!(named.is_ok(), is_filter(topic) && !topic.contains(['+', '#']), "{topic:?}");
        let [Ok(one), Ok(other)] = parsed else { return Outcome::refused("no filter") };
        assert!(one.covers(&one) && other.covers(&other));
        let Ok(named) = named else { return Outcome::refused("no topic") };
        for filter in [&one, &other] {
            assert_eq!(filter.matches(named), matches(filter.as_str(), topic), "{filter:?} {topic:?}");
            assert_eq!(TopicFilter::parse(filter.as_str()).as_ref(), Ok(filter));
        }
        if one.covers(&other) && other.matches(named) {
            assert!(one.matches(named), "{one:?} covers {other:?}, which matches {topic:?}");
        }
        // A topic is a filter that matches itself alone.
        let exact = TopicFilter::parse(topic).expect("a topic is a filter");
        assert!(exact.matches(named));
        assert_eq!(one.covers(&exact), one.matches(named), "{one:?} {topic:?}");
        Outcome(format!("accepted {} {}", one.matches(named), one.covers(&other)))
    }

    fn is_filter(text: &str) -> bool {
        let levels: Vec<&str> = text.split('/').collect();
        let last = levels.len() - 1;
        !text.is_empty()
            && text.len() <= 65_535
            && !text.chars().any(char::is_control)
            && levels.iter().enumerate().all(|(at, level)| match *level {
                "+" => true,
                "#" => at == last,
                level => !level.contains(['+', '#']),
            })
    }

    fn matches(filter: &str, topic: &str) -> bool {
        fn levels(filter: &[&str], topic: &[&str]) -> bool {
            match (filter, topic) {
                (["#"], _) | ([], []) => true,
                (["+", filter @ ..], [_, topic @ ..]) => levels(filter, topic),
                ([f, filter @ ..], [t, topic @ ..]) if f == t => levels(filter, topic),
                _ => false,
            }
        }
        if topic.starts_with('$') && filter.starts_with(['+', '#']) {
            return false;
        }
        let [f, t] = [filter, topic].map(|text| text.split('/').collect::<Vec<_>>());
        levels(&f, &t)
    }

    pub(crate) fn seeds() -> Vec<Vec<u8>> {
        [
            "devices/+/events/#\ndevices/lamp/events/hot\ndevices/lamp/events/hot",
            "#\n+/+\na/b",
            "a/#\na\na",
            "$SYS/#\n#\n$SYS/x",
            "+\n/+\n/a",
            "a//b\na/+/b\na//b",
            "é/+\né/ü\né/ü",
        ]
        .map(|text| text.as_bytes().to_vec())
        .to_vec()
    }
}

pub(crate) mod id_pattern {
    use super::*;

    /// Two lines: the pattern, the name.
    pub(crate) fn run(data: &[u8]) -> Outcome {
        let Ok(text) = std::str::from_utf8(data) else { return Outcome::refused("no text") };
        let (pattern, name) = text.split_once('\n').unwrap_or((text, ""));
        let fits = drawbridge_identity::pattern_fits(pattern, name);
        assert_eq!(fits, naive(pattern.as_bytes(), name.as_bytes()), "{pattern:?} {name:?}");
        Outcome(if fits { "accepted" } else { "refused" }.to_owned())
    }

    /// By a table of all beginnings of both.
    fn naive(pattern: &[u8], name: &[u8]) -> bool {
        let mut fits = vec![false; name.len() + 1];
        fits[0] = true;
        for wanted in pattern {
            let mut next = vec![false; name.len() + 1];
            for at in 0..=name.len() {
                next[at] = match wanted {
                    b'*' => fits[at] || (at > 0 && next[at - 1]),
                    byte => at > 0 && fits[at - 1] && name[at - 1] == *byte,
                };
            }
            fits = next;
        }
        fits[name.len()]
    }

    pub(crate) fn seeds() -> Vec<Vec<u8>> {
        ["pump-*\npump-0042", "*-a\nb-a-a", "a*b*c\naXXbYYc", "**\n", "lamp\nlamp"]
            .map(|text| text.as_bytes().to_vec())
            .to_vec()
    }
}

pub(crate) mod nonce {
    use super::*;

    pub(crate) fn run(data: &[u8]) -> Outcome {
        let Ok(text) = std::str::from_utf8(data) else { return Outcome::refused("no text") };
        let purposes = [NoncePurpose::Assertion, NoncePurpose::Dpop, NoncePurpose::Enrolment];
        let good: Vec<_> = purposes
            .into_iter()
            .filter_map(|purpose| Some((purpose, WORLD.nonces.check(purpose, text, NOW_S).ok()?)))
            .collect();
        assert!(good.len() <= 1, "a nonce has one purpose");
        let Some((purpose, age_s)) = good.first() else { return Outcome::refused("stale") };
        assert!(*age_s <= NONCE_LIFE_S);
        // Only what was minted passes: made again of its own time and random bytes it is the same text.
        let bytes = drawbridge_jose::base64url_decode(text).expect("it was read");
        let random = bytes[5..13].try_into().expect("8 bytes");
        assert_eq!(WORLD.nonces.mint(*purpose, NOW_S - age_s, random), text);
        Outcome(format!("accepted {purpose:?}"))
    }

    pub(crate) fn seeds() -> Vec<Vec<u8>> {
        let purposes = [NoncePurpose::Assertion, NoncePurpose::Dpop, NoncePurpose::Enrolment];
        let ages = [0, 30, 60, 61];
        purposes
            .iter()
            .flat_map(|purpose| ages.map(|age_s| WORLD.nonce(*purpose, age_s).into_bytes()))
            .collect()
    }
}

pub(crate) mod name {
    use super::*;

    pub(crate) fn run(data: &[u8]) -> Outcome {
        let Ok(text) = std::str::from_utf8(data) else { return Outcome::refused("no text") };
        let mut taken = String::new();
        macro_rules! each {
            ($($name:ident)*) => {$(
                match $name::parse(text) {
                    Ok(name) => {
                        assert_eq!(name.as_str(), text, "a name is taken as it is");
                        assert!(text.len() <= $name::BYTES_MAX);
                        assert!(!text.is_empty() && !text.contains(['+', '#', '/', '\0', ' ', '\\', '"', '$']));
                        assert!(text.chars().all(|c| c.is_ascii_graphic()), "{text:?}");
                        taken.push_str(&stringify!($name)[..2]);
                    }
                    Err(error) => judge_text(&error.to_string(), b""),
                }
            )*};
        }
        each!(PrincipalName RegistryName PolicyName KeyId);
        match MqttClientId::parse(text) {
            Ok(id) => assert_eq!(id.as_str(), text),
            Err(error) => judge_text(&error.to_string(), b""),
        }
        if taken.is_empty() { Outcome::refused("by all") } else { Outcome(format!("accepted {taken}")) }
    }

    pub(crate) fn seeds() -> Vec<Vec<u8>> {
        [
            "sensor-17",
            "test.device.01",
            "default",
            "pumps",
            "2OQ-jZZz7VA7F78y0ZVoRlk8tXnwQdjTxNztKmQBDdU",
            "a",
            "A_b~c.d-e",
            "goog123",
        ]
        .map(|text| text.as_bytes().to_vec())
        .to_vec()
    }
}
