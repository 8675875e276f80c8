//! Retained messages of one registry: the last word on each topic (MQTT 3.3.1.3).
//!
//! Kept ordered by topic, so that a filter reads only the topics that begin with its literal part.
//! Every shard holds all retained messages (by the same `Arc`), hence a subscription is answered
//! without asking another shard. Two shards may hear of two messages for one topic in different
//! order: the newer by arrival wins everywhere, and a cleared topic leaves a mark for a while so that
//! an older message that comes late does not revive it.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

use drawbridge_names::{TopicFilter, TopicName};

use crate::message::Message;

/// How long the mark of a cleared topic is kept: far longer than a batch takes between shards.
const MARK_KEPT: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub(crate) struct Retained {
    /// A message with an empty payload is the mark of a cleared topic.
    by_topic: BTreeMap<Box<str>, Arc<Message>>,
    marks: VecDeque<(Instant, Box<str>)>,
    len: usize,
    bytes: usize,
}

impl Retained {
    /// Number of topics that have a retained message.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes that `topic` holds now.
    pub(crate) fn bytes_of(&self, topic: &str) -> usize {
        self.by_topic.get(topic).map_or(0, |message| message.bytes())
    }

    /// Takes the message as the last word on its topic, unless it knows a newer one. An empty
    /// payload clears the topic [MQTT-3.3.1-6] (3.1.1: 3.3.1-10).
    pub(crate) fn put(&mut self, message: Arc<Message>) {
        self.sweep(message.received);
        if let Some(old) = self.by_topic.get(&message.topic) {
            if old.is_newer_than(&message) {
                return;
            }
            self.len -= usize::from(!old.payload.is_empty());
            self.bytes -= old.bytes();
        }
        if message.payload.is_empty() {
            self.marks.push_back((message.received + MARK_KEPT, message.topic.clone()));
        } else {
            self.len += 1;
        }
        self.bytes += message.bytes();
        self.by_topic.insert(message.topic.clone(), message);
    }

    fn sweep(&mut self, now: Instant) {
        while let Some((at, topic)) = self.marks.front()
            && *at <= now
        {
            if self.by_topic.get(topic).is_some_and(|m| m.payload.is_empty() && m.received + MARK_KEPT <= now)
            {
                self.bytes -= self.bytes_of(topic);
                self.by_topic.remove(topic);
            }
            self.marks.pop_front();
        }
    }

    /// The first retained message after the topic `after` (from the beginning without) that `filter`
    /// means and that has not expired at `now`. A subscriber walks on from topic to topic, so that a
    /// slow one holds a topic, not a list of messages.
    pub(crate) fn next(
        &self,
        filter: &TopicFilter,
        after: Option<&str>,
        now: Instant,
    ) -> Option<&Arc<Message>> {
        let wanted = |message: &&Arc<Message>| {
            !message.payload.is_empty()
                && message.expires.is_none_or(|expires| expires > now)
                && TopicName::parse(&message.topic).is_ok_and(|topic| filter.matches(topic))
        };
        // `a/b/+/c` -> `a/b/`; `a/#` also means `a` itself, which stands before `a/`.
        let Some(at) = filter.as_str().find(['+', '#']) else {
            return self.by_topic.get(filter.as_str()).filter(|_| after.is_none()).filter(wanted);
        };
        let prefix = &filter.as_str()[..at];
        if after.is_none()
            && let Some(parent) = prefix.strip_suffix('/')
            && let Some(message) = self.by_topic.get(parent).filter(wanted)
        {
            return Some(message);
        }
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        self.by_topic
            .range::<str, _>((start, Bound::Unbounded))
            .take_while(|(topic, _)| topic.starts_with(prefix))
            .map(|(_, message)| message)
            .find(wanted)
    }

    /// Forgets what has expired.
    pub(crate) fn purge(&mut self, now: Instant) {
        let (len, bytes) = (&mut self.len, &mut self.bytes);
        self.by_topic.retain(|_, message| {
            let keep = message.payload.is_empty() || message.expires.is_none_or(|expires| expires > now);
            if !keep {
                *len -= 1;
                *bytes -= message.bytes();
            }
            keep
        });
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "one base instant; all others are sums")]
    use super::*;

    fn put(store: &mut Retained, topic: &str, payload: &str, at: Instant) {
        store.put(Arc::new(Message::for_tests(topic, payload.into(), at)));
    }

    fn all<'a>(store: &'a Retained, filter: &str, now: Instant) -> Vec<&'a Message> {
        let filter = TopicFilter::parse(filter).expect(filter);
        let mut found: Vec<&Message> = Vec::new();
        while let Some(next) = store.next(&filter, found.last().map(|m| &*m.topic), now) {
            assert!(found.len() < 100, "the walk comes to an end");
            found.push(next);
        }
        found
    }

    fn topics(store: &Retained, filter: &str, now: Instant) -> Vec<String> {
        all(store, filter, now).iter().map(|m| m.topic.to_string()).collect()
    }

    #[test]
    fn a_filter_finds_exactly_the_topics_it_matches() {
        let now = Instant::now();
        let mut store = Retained::default();
        let known = ["a", "a/", "a/b", "a/b/c", "a/bc", "a-b", "ab", "b/b", "/x", "$SYS/a", "a/b/c/d"];
        for topic in known {
            put(&mut store, topic, "1", now);
        }
        for text in
            ["#", "a/#", "+/b", "a/b/#", "a/+/c", "a/b", "/#", "$SYS/#", "+", "+/#", "a/+", "nothing/#"]
        {
            let filter = TopicFilter::parse(text).expect(text);
            let mut expected: Vec<_> = known
                .iter()
                .filter(|t| filter.matches(TopicName::parse(t).expect(t)))
                .map(|t| (*t).to_owned())
                .collect();
            expected.sort();
            let mut found = topics(&store, text, now);
            found.sort();
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn an_older_message_that_comes_late_neither_replaces_nor_revives() {
        let t0 = Instant::now();
        let at = |ms| t0 + Duration::from_millis(ms);
        let mut store = Retained::default();
        put(&mut store, "a", "new", at(20));
        put(&mut store, "a", "old", at(10));
        assert_eq!(&*all(&store, "a", at(30))[0].payload, b"new");
        put(&mut store, "a", "", at(40));
        put(&mut store, "a", "late", at(39));
        assert_eq!((store.len(), all(&store, "a", at(50)).len()), (0, 0));
        put(&mut store, "b", "1", at(60_000));
        assert_eq!(store.by_topic.len(), 1, "the mark of `a` is gone");
        put(&mut store, "b", "", at(60_001));
        put(&mut store, "c", "", at(120_000));
        put(&mut store, "c", "2", at(120_001));
        assert_eq!((store.len(), store.by_topic.len()), (1, 1));
    }

    #[test]
    fn an_expired_message_is_not_found_and_not_kept() {
        let now = Instant::now();
        let mut store = Retained::default();
        let mut message = Message::for_tests("a", b"1".to_vec(), now);
        message.expires = Some(now + Duration::from_secs(5));
        store.put(Arc::new(message));
        assert_eq!(topics(&store, "#", now + Duration::from_secs(4)), ["a"]);
        assert!(topics(&store, "#", now + Duration::from_secs(5)).is_empty());
        store.purge(now + Duration::from_secs(5));
        assert_eq!((store.len(), store.bytes()), (0, 0));
    }
}
