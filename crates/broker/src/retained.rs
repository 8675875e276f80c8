//! Retained messages of one registry: the last word on each topic (MQTT 3.3.1.3).
//!
//! Every shard holds all retained messages (by the same `Arc`), hence a subscription is answered
//! without asking another shard. Two shards may hear of two messages for one topic in different
//! order: the newer by number wins everywhere, and a cleared topic leaves a mark for a while so that
//! an older message that comes late does not revive it.
//!
//! The store is one ordered map. In its keys the level separator is NUL, the least of all characters
//! (no topic has one), so that a topic stands right before everything below it, and a filter walks
//! the levels by jumps from one key to the next that could match: `+/b` never looks at what lies
//! below `a/c`.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

use drawbridge_names::TopicFilter;

use crate::message::{Arrival, Message};

/// How long the mark of a cleared topic is kept: far longer than a batch takes between shards.
const MARK_KEPT: Duration = Duration::from_secs(30);
/// What all marks may hold; beyond it the oldest goes early.
const MARKS_BYTES_MAX: usize = 1 << 20;
/// Expired messages freed at one touch: more than one touch can add.
const SWEPT_AT_A_TOUCH: usize = 64;
/// Key, place in the map, and the entry of its expiry.
const ENTRY_BYTES: usize = 96;

#[derive(Debug)]
pub(crate) struct Retained {
    by_key: BTreeMap<Box<str>, Arc<Message>>,
    /// Those that expire, the first to do so first.
    by_expiry: BTreeMap<(Instant, (usize, u64)), Arc<Message>>,
    bytes: usize,
    /// `None` where there is only one shard: its own order is the order.
    marks: Option<Marks>,
}

/// Topics that were cleared not long ago, and by which message.
#[derive(Debug, Default)]
struct Marks {
    by_key: HashMap<Box<str>, Arrival>,
    oldest_first: VecDeque<(Instant, Box<str>)>,
    bytes: usize,
}

/// How far a subscriber has walked: a slow one holds a topic, not a list of messages.
#[derive(Debug, Clone, Default)]
pub(crate) struct Walk {
    /// The key from which to look on; `None` before the first step.
    from: Option<String>,
}

/// What a walk finds.
#[derive(Debug)]
pub(crate) enum Next {
    Found(Arc<Message>),
    End,
    /// The steps are used up; the walk can go on later.
    Tired,
}

/// What a key is to a filter.
enum Judged {
    Match,
    /// No key before this one matches.
    Jump(String),
    /// No key matches any more.
    Past,
}

impl Retained {
    /// An empty store. `shards`: how many keep the same messages.
    pub(crate) fn new(shards: usize) -> Self {
        Self {
            by_key: BTreeMap::new(),
            by_expiry: BTreeMap::new(),
            bytes: 0,
            marks: (shards > 1).then(Marks::default),
        }
    }

    /// Number of topics that have a retained message.
    pub(crate) fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether there is a message on the topic.
    pub(crate) fn has(&self, topic: &str) -> bool {
        self.by_key.contains_key(&*key_of(topic))
    }

    /// Bytes held by them.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether `message` can be kept within `bytes_max`. An empty one, which clears, always can.
    pub(crate) fn has_room_for(&mut self, message: &Message, bytes_max: usize, now: Instant) -> bool {
        if message.payload.is_empty() {
            return true;
        }
        let old = self.by_key.get(&*key_of(&message.topic)).map_or(0, |old| cost(old));
        let fits = |bytes: usize| bytes - old + cost(message) <= bytes_max;
        if !fits(self.bytes) {
            // Each message is swept once in its life: this is no walk over the store.
            self.sweep(now, usize::MAX);
            let old = self.by_key.get(&*key_of(&message.topic)).map_or(0, |old| cost(old));
            return self.bytes - old + cost(message) <= bytes_max;
        }
        true
    }

    /// Takes the message as the last word on its topic, unless it knows a newer one. An empty
    /// payload clears the topic [MQTT-3.3.1-6] (3.1.1: 3.3.1-10).
    pub(crate) fn put(&mut self, message: Arc<Message>, now: Instant) {
        self.sweep(now, SWEPT_AT_A_TOUCH);
        let key = key_of(&message.topic);
        if let Some(marks) = &mut self.marks {
            marks.sweep(now);
            if marks.by_key.get(&*key).is_some_and(|mark| *mark > message.arrival()) {
                return;
            }
        }
        if self.by_key.get(&*key).is_some_and(|old| old.arrival() > message.arrival()) {
            return;
        }
        self.remove(&key);
        if message.payload.is_empty() {
            if let Some(marks) = &mut self.marks {
                marks.put(key, message.arrival());
            }
            return;
        }
        self.bytes += cost(&message);
        if let Some(expires) = message.expires {
            self.by_expiry.insert((expires, message.origin), Arc::clone(&message));
        }
        self.by_key.insert(key, message);
    }

    fn remove(&mut self, key: &str) {
        if let Some(old) = self.by_key.remove(key) {
            self.bytes -= cost(&old);
            if let Some(expires) = old.expires {
                self.by_expiry.remove(&(expires, old.origin));
            }
        }
    }

    /// Forgets what has expired, `most` messages at the most.
    pub(crate) fn sweep(&mut self, now: Instant, most: usize) {
        for _ in 0..most {
            let Some(entry) = self.by_expiry.first_entry().filter(|entry| entry.key().0 <= now) else {
                return;
            };
            let message = entry.remove();
            self.remove(&key_of(&message.topic));
        }
    }

    /// As [`Self::sweep`], a bounded part of it, because somebody looks.
    pub(crate) fn touch(&mut self, now: Instant) {
        self.sweep(now, SWEPT_AT_A_TOUCH);
    }

    /// The next message of a walk that `filter` means and that has not expired at `now`. Each key
    /// looked at costs one of `steps`.
    pub(crate) fn next(
        &self,
        filter: &TopicFilter,
        walk: &mut Walk,
        now: Instant,
        steps: &mut usize,
    ) -> Next {
        let hides_dollar = filter.begins_with_wildcard();
        let from = walk.from.get_or_insert_with(|| literal_part(filter.as_str()));
        loop {
            if *steps == 0 {
                return Next::Tired;
            }
            *steps -= 1;
            let Some((key, message)) =
                self.by_key.range::<str, _>((Bound::Included(from.as_str()), Bound::Unbounded)).next()
            else {
                return Next::End;
            };
            let judged = if hides_dollar && key.starts_with('$') {
                // [MQTT-4.7.2-1]; `%` follows `$`.
                Judged::Jump("%".to_owned())
            } else {
                judge(filter.as_str(), key)
            };
            match judged {
                Judged::Match => {
                    from.clear();
                    from.push_str(key);
                    from.push('\0'); // the least text that is greater than `key`
                    if message.expires.is_none_or(|expires| expires > now) {
                        return Next::Found(Arc::clone(message));
                    }
                }
                Judged::Jump(to) => *from = to,
                Judged::Past => return Next::End,
            }
        }
    }
}

impl Marks {
    fn put(&mut self, key: Box<str>, arrival: Arrival) {
        self.bytes += cost_of_mark(&key);
        self.oldest_first.push_back((arrival.1, key.clone()));
        self.by_key.insert(key, arrival);
        while self.bytes > MARKS_BYTES_MAX {
            self.pop();
        }
    }

    fn sweep(&mut self, now: Instant) {
        while self.oldest_first.front().is_some_and(|(at, _)| *at + MARK_KEPT <= now) {
            self.pop();
        }
    }

    fn pop(&mut self) {
        let Some((at, key)) = self.oldest_first.pop_front() else { return };
        self.bytes -= cost_of_mark(&key);
        // A topic that was cleared again has a later mark, which stays.
        if self.by_key.get(&key).is_some_and(|mark| mark.1 <= at) {
            self.by_key.remove(&key);
        }
    }
}

fn cost(message: &Message) -> usize {
    message.bytes() + message.topic.len() + ENTRY_BYTES
}

fn cost_of_mark(key: &str) -> usize {
    2 * key.len() + ENTRY_BYTES
}

fn key_of(topic: &str) -> Box<str> {
    topic.replace('/', "\0").into()
}

/// `a/b/+/c` -> `a/b`; `a/#` -> `a`, which it also means.
fn literal_part(filter: &str) -> String {
    let end = filter.find(['+', '#']).unwrap_or(filter.len());
    let part = &filter[..end];
    let part = if end < filter.len() { part.strip_suffix('/').unwrap_or(part) } else { part };
    part.replace('/', "\0")
}

fn judge(filter: &str, key: &str) -> Judged {
    let mut names = key.split('\0');
    // Where the level of `key` begins; where the one ends that the last `+` took.
    let (mut at, mut taken) = (0, None);
    let past = |taken: Option<usize>| match taken {
        // U+0001 is greater than the separator and less than all that a level can hold.
        Some(end) => Judged::Jump(format!("{}\u{1}", &key[..end])),
        None => Judged::Past,
    };
    for level in filter.split('/') {
        if level == "#" {
            return Judged::Match;
        }
        let Some(name) = names.next() else {
            let next = if level == "+" { "" } else { level };
            return Judged::Jump(format!("{key}\0{next}"));
        };
        let end = at + name.len();
        if level == "+" {
            taken = Some(end);
        } else if name < level {
            return Judged::Jump(format!("{}{level}", &key[..at]));
        } else if name > level {
            return past(taken);
        }
        at = end + 1;
    }
    if names.next().is_none() { Judged::Match } else { past(taken) }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "one base instant; all others are sums")]
    use super::*;
    use drawbridge_names::TopicName;
    use proptest::prelude::*;

    fn put(store: &mut Retained, topic: &str, payload: &str, at: Instant) {
        store.put(Arc::new(Message::for_tests(topic, payload.into(), at)), at);
    }

    fn all(store: &Retained, filter: &str, now: Instant) -> (Vec<Arc<Message>>, usize) {
        let filter = TopicFilter::parse(filter).expect(filter);
        let (mut walk, mut found, mut steps) = (Walk::default(), Vec::new(), usize::MAX);
        while let Next::Found(next) = store.next(&filter, &mut walk, now, &mut steps) {
            assert!(found.len() < 1_000, "the walk comes to an end");
            found.push(next);
        }
        (found, usize::MAX - steps)
    }

    fn topics(store: &Retained, filter: &str, now: Instant) -> Vec<String> {
        let mut topics: Vec<String> = all(store, filter, now).0.iter().map(|m| m.topic.to_string()).collect();
        topics.sort();
        topics
    }

    fn brute(known: &[String], filter: &str) -> Vec<String> {
        let filter = TopicFilter::parse(filter).expect(filter);
        let matches = |topic: &&String| filter.matches(TopicName::parse(topic).expect("a topic"));
        let mut expected: Vec<String> = known.iter().filter(matches).cloned().collect();
        expected.sort();
        expected.dedup();
        expected
    }

    #[test]
    fn a_filter_finds_exactly_the_topics_it_matches() {
        let now = Instant::now();
        let mut store = Retained::new(1);
        let known = ["a", "a/", "a/b", "a/b/c", "a/bc", "a-b", "ab", "b/b", "/x", "$SYS/a", "a/b/c/d"];
        for topic in known {
            put(&mut store, topic, "1", now);
        }
        let known = known.map(str::to_owned);
        for filter in
            ["#", "a/#", "+/b", "a/b/#", "a/+/c", "a/b", "/#", "$SYS/#", "+", "+/#", "a/+", "nothing/#"]
        {
            assert_eq!(topics(&store, filter, now), brute(&known, filter), "{filter}");
        }
    }

    fn level(wild: bool) -> BoxedStrategy<String> {
        let plain = prop::sample::select(vec!["", "a", "b", "a-", "$x", "aa", "é"]).prop_map(str::to_owned);
        if wild { prop_oneof![2 => plain, 2 => Just("+".to_owned())].boxed() } else { plain.boxed() }
    }

    fn joined(wild: bool, hash: bool) -> impl Strategy<Value = String> {
        (prop::collection::vec(level(wild), 1..5), any::<bool>())
            .prop_map(move |(mut levels, ends_in_hash)| {
                if hash && ends_in_hash {
                    levels.push("#".to_owned());
                }
                levels.join("/")
            })
            .prop_filter("not empty", |text| !text.is_empty())
    }

    proptest! {
        #[test]
        fn a_walk_by_jumps_finds_what_brute_force_finds_each_once(
            known in prop::collection::vec(joined(false, false), 0..40),
            filters in prop::collection::vec(joined(true, true), 1..10),
            pause in 1_usize..4,
        ) {
            let now = Instant::now();
            let mut store = Retained::new(1);
            for topic in &known {
                put(&mut store, topic, "1", now);
            }
            for text in &filters {
                let filter = TopicFilter::parse(text).expect("built from whole levels");
                let (mut walk, mut found) = (Walk::default(), Vec::new());
                loop {
                    // Resting every few steps changes nothing.
                    match store.next(&filter, &mut walk, now, &mut pause.clone()) {
                        Next::Found(message) => found.push(message.topic.to_string()),
                        Next::Tired => {}
                        Next::End => break,
                    }
                }
                found.sort();
                prop_assert_eq!(found, brute(&known, text), "{}", text);
            }
        }
    }

    #[test]
    fn a_filter_that_begins_with_a_wildcard_does_not_look_at_the_whole_store() {
        let now = Instant::now();
        let mut store = Retained::new(1);
        for device in 0..10 {
            for n in 0..1_000 {
                put(&mut store, &format!("devices/{device}/events/{n}"), "1", now);
            }
            put(&mut store, &format!("devices/{device}/state"), "1", now);
        }
        let (found, steps) = all(&store, "+/+/state", now);
        assert_eq!(found.len(), 10);
        assert!(steps < 100, "{steps} steps for 10 of 10,010 topics");
    }

    #[test]
    fn an_older_message_that_comes_late_neither_replaces_nor_revives() {
        let t0 = Instant::now();
        let at = |ms| t0 + Duration::from_millis(ms);
        let mut store = Retained::new(2);
        put(&mut store, "a", "new", at(20));
        put(&mut store, "a", "old", at(10));
        assert_eq!(&*all(&store, "a", at(30)).0[0].payload, b"new");
        put(&mut store, "a", "", at(40));
        put(&mut store, "a", "late", at(39));
        assert_eq!((store.len(), all(&store, "a", at(50)).0.len()), (0, 0));
        let marks = |store: &Retained| store.marks.as_ref().expect("two shards").by_key.len();
        put(&mut store, "b", "1", at(60_000));
        assert_eq!(marks(&store), 0, "the mark of `a` is gone");
        put(&mut store, "b", "", at(60_001));
        put(&mut store, "c", "", at(120_000));
        put(&mut store, "c", "2", at(120_001));
        assert_eq!((store.len(), marks(&store)), (1, 1));
    }

    #[test]
    fn a_flood_of_cleared_topics_holds_bounded_memory_and_takes_no_room_from_messages() {
        let now = Instant::now();
        let mut store = Retained::new(2);
        for n in 0..10_000 {
            put(&mut store, &format!("{n}/{}", "x".repeat(1_000)), "", now);
        }
        let marks = store.marks.as_ref().expect("two shards");
        assert!(marks.bytes <= MARKS_BYTES_MAX && marks.by_key.len() == marks.oldest_first.len());
        assert_eq!((store.len(), store.bytes()), (0, 0));
    }

    #[test]
    fn an_expired_message_is_not_found_and_is_freed_when_somebody_looks() {
        let now = Instant::now();
        let expiring = |topic: &str, s: u64| {
            let mut message = Message::for_tests(topic, b"1".to_vec(), now);
            message.expires = Some(now + Duration::from_secs(s));
            message.origin = (0, s);
            Arc::new(message)
        };
        let mut store = Retained::new(1);
        store.put(expiring("a", 5), now);
        store.put(expiring("b", 500), now);
        assert_eq!(topics(&store, "#", now + Duration::from_secs(4)), ["a", "b"]);
        assert_eq!(topics(&store, "#", now + Duration::from_secs(5)), ["b"]);
        store.touch(now + Duration::from_secs(5));
        assert_eq!((store.len(), store.by_expiry.len()), (1, 1));
        // What is replaced leaves nothing behind.
        for n in 0..100 {
            store.put(expiring("b", 500 + n), now);
        }
        assert_eq!((store.len(), store.by_expiry.len()), (1, 1));
        store.touch(now + Duration::from_secs(600));
        assert_eq!((store.len(), store.by_expiry.len(), store.bytes()), (0, 0, 0));
    }
}
