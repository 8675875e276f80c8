//! Who has subscribed to what, per registry: an exact map, and a trie for filters with wildcards.
//!
//! The trie is an arena: nodes are numbers, level texts are interned once, and an edge is a pair of
//! numbers. So a message looks each of its levels up once, no depth of topic can exhaust the stack,
//! and a filter costs a few nodes of 16 bytes and an edge for each name, not a map of its own. Most nodes
//! are only on the way, so the subscribers stand beside them.
//!
//! What clients name is found by the standard library's keyed hash, which nobody outside can aim at; our
//! own numbers by a quicker one, seeded anew in each process.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap};
use std::hash::{Hash, Hasher};

use drawbridge_mqtt::codec::Qos;
use drawbridge_names::{TopicFilter, TopicName};

/// A filter may have this many levels. The standard sets no bound; without one, a single
/// SUBSCRIBE of 64 KiB could make 32,000 nodes.
pub(crate) const LEVELS_MAX: usize = 128;

/// One subscription as the route to it: where, and what changes on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Subscriber {
    /// Slot of the session in its shard.
    pub(crate) slot: u32,
    /// Subscription identifier, 0 for none (MQTT 5.0 3.8.2.1.2 forbids 0 on the wire).
    pub(crate) identifier: u32,
    /// The granted QoS.
    pub(crate) qos: Qos,
    /// MQTT 5.0 3.8.3.1: not to the client that published.
    pub(crate) no_local: bool,
    /// MQTT 5.0 3.8.3.1: keep the RETAIN flag as published.
    pub(crate) retain_as_published: bool,
}

/// So many subscribers of one filter are a list; more are a tree by slot, so that a fleet that
/// subscribes to one topic, and leaves it, does not search through itself.
const LISTED_MAX: usize = 64;

/// The subscribers of one filter: mostly one, and then no more than its own 12 bytes.
#[derive(Debug, Default)]
#[expect(clippy::box_collection, reason = "a list within would double what each filter costs")]
enum Subscribers {
    #[default]
    None,
    One(Subscriber),
    Many(Box<Vec<Subscriber>>),
    Crowd(Box<BTreeMap<u32, Subscriber>>),
}

impl Subscribers {
    fn each(&self, meet: impl FnMut(&Subscriber)) {
        match self {
            Self::None => {}
            Self::One(one) => std::iter::once(one).for_each(meet),
            Self::Many(many) => many.iter().for_each(meet),
            Self::Crowd(crowd) => crowd.values().for_each(meet),
        }
    }

    /// `false` when it replaced an older subscription of the same slot.
    fn put(&mut self, new: Subscriber) -> bool {
        match self {
            Self::None => *self = Self::One(new),
            Self::One(old) if old.slot == new.slot => {
                *old = new;
                return false;
            }
            Self::One(old) => *self = Self::Many(Box::new(vec![*old, new])),
            Self::Many(many) => {
                if let Some(old) = many.iter_mut().find(|s| s.slot == new.slot) {
                    *old = new;
                    return false;
                }
                if many.len() < LISTED_MAX {
                    many.push(new);
                } else {
                    let all = many.drain(..).chain([new]).map(|s| (s.slot, s));
                    *self = Self::Crowd(Box::new(all.collect()));
                }
            }
            Self::Crowd(crowd) => return crowd.insert(new.slot, new).is_none(),
        }
        true
    }

    fn take(&mut self, slot: u32) -> bool {
        match self {
            Self::One(one) if one.slot == slot => *self = Self::None,
            Self::None | Self::One(_) => return false,
            Self::Many(many) => {
                let Some(at) = many.iter().position(|s| s.slot == slot) else { return false };
                many.swap_remove(at);
                if let [one] = many.as_slice() {
                    *self = Self::One(*one);
                }
            }
            Self::Crowd(crowd) => {
                let removed = crowd.remove(&slot).is_some();
                if crowd.is_empty() {
                    *self = Self::None;
                }
                return removed;
            }
        }
        true
    }

    fn is_empty(&self) -> bool {
        matches!(self, Self::None)
    }
}

#[derive(Debug, Default)]
struct Node {
    /// Where the subscribers of the filter stand that ends here; 0 for none.
    here: u32,
    /// Where those of the filter stand that ends in `#` below here; 0 for none.
    below: u32,
    /// The child for `+`; 0 (the root) for none.
    plus: u32,
    /// Number of named children.
    edges: u32,
}

impl Node {
    fn is_bare(&self) -> bool {
        self.here == 0 && self.below == 0 && self.plus == 0 && self.edges == 0
    }
}

/// The lists of subscribers, by number; 0 is none.
#[derive(Debug)]
struct Lists {
    /// The first is never used.
    all: Vec<Subscribers>,
    free: Vec<u32>,
}

impl Lists {
    /// Adds to the list that `at` says, which is made where missing; `false` when it replaced.
    fn put(&mut self, at: &mut u32, new: Subscriber) -> bool {
        if *at == 0 {
            *at = self.free.pop().unwrap_or_else(|| {
                self.all.push(Subscribers::None);
                u32::try_from(self.all.len() - 1).expect("a shard has fewer than 2^32 filters")
            });
        }
        self.all[*at as usize].put(new)
    }

    /// Takes out of the list that `at` says; an empty one goes.
    fn take(&mut self, at: &mut u32, slot: u32) -> bool {
        let list = &mut self.all[*at as usize];
        let taken = list.take(slot);
        if taken && list.is_empty() {
            self.free.push(*at);
            *at = 0;
        }
        taken
    }

    #[inline]
    fn each(&self, at: u32, meet: impl FnMut(&Subscriber)) {
        if at != 0 {
            self.all[at as usize].each(meet);
        }
    }
}

/// The text of a level. Most are short and need no memory of their own.
#[derive(Debug)]
enum LevelText {
    Short { length: u8, bytes: [u8; SHORT_MAX] },
    Long(Box<[u8]>),
}

const SHORT_MAX: usize = 22;

impl LevelText {
    fn new(text: &str) -> Self {
        let mut bytes = [0; SHORT_MAX];
        match (u8::try_from(text.len()), bytes.get_mut(..text.len())) {
            (Ok(length), Some(room)) => {
                room.copy_from_slice(text.as_bytes());
                Self::Short { length, bytes }
            }
            _ => Self::Long(text.as_bytes().into()),
        }
    }
}

impl Borrow<[u8]> for LevelText {
    fn borrow(&self) -> &[u8] {
        match self {
            Self::Short { length, bytes } => &bytes[..usize::from(*length)],
            Self::Long(bytes) => bytes,
        }
    }
}

impl PartialEq for LevelText {
    fn eq(&self, other: &Self) -> bool {
        Borrow::<[u8]>::borrow(self) == Borrow::<[u8]>::borrow(other)
    }
}

impl Eq for LevelText {}

impl Hash for LevelText {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Borrow::<[u8]>::borrow(self).hash(state);
    }
}

#[derive(Debug)]
struct Level {
    id: u32,
    uses: u32,
}

const ROOT: u32 = 0;

/// The filters of one registry in one shard.
#[derive(Debug)]
pub(crate) struct Routes {
    exact: HashMap<Box<str>, Subscribers>,
    nodes: Vec<Node>,
    free_nodes: Vec<u32>,
    lists: Lists,
    /// By parent and level.
    edges: HashMap<(u32, u32), u32, foldhash::fast::RandomState>,
    levels: HashMap<LevelText, Level>,
    next_level: u32,
    free_levels: Vec<u32>,
    len: usize,
    generation: u64,
    /// Reused by `each`: the interned levels of the topic, and what is still to be walked.
    topic: Vec<Option<u32>>,
    walk: Vec<(u32, u32)>,
}

impl Routes {
    pub(crate) fn new() -> Self {
        Self {
            exact: HashMap::new(),
            nodes: vec![Node::default()],
            free_nodes: Vec::new(),
            lists: Lists { all: vec![Subscribers::None], free: Vec::new() },
            edges: HashMap::default(),
            levels: HashMap::new(),
            next_level: 0,
            free_levels: Vec::new(),
            len: 0,
            generation: 0,
            topic: Vec::new(),
            walk: Vec::new(),
        }
    }

    /// Number of subscriptions.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Another number after each change. While it stays, a topic meets the same subscriptions.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Adds or replaces the subscription of `new.slot` to `filter`; `true` when it is new.
    pub(crate) fn insert(&mut self, filter: &TopicFilter, new: Subscriber) -> bool {
        self.generation += 1;
        let added = if filter.has_wildcard() {
            let (node, below) = self.place(filter);
            let node = &mut self.nodes[node as usize];
            self.lists.put(if below { &mut node.below } else { &mut node.here }, new)
        } else if let Some(subscribers) = self.exact.get_mut(filter.as_str()) {
            subscribers.put(new)
        } else {
            self.exact.insert(filter.as_str().into(), Subscribers::One(new));
            true
        };
        self.len += usize::from(added);
        added
    }

    /// The node that belongs to a wildcard filter, and whether all below it is meant; the path to it is
    /// made where missing.
    fn place(&mut self, filter: &TopicFilter) -> (u32, bool) {
        let mut node = ROOT;
        for level in filter.levels() {
            node = match level {
                "#" => return (node, true),
                "+" => match self.nodes[node as usize].plus {
                    0 => {
                        let child = self.new_node();
                        self.nodes[node as usize].plus = child;
                        child
                    }
                    child => child,
                },
                name => self.child(node, name),
            };
        }
        (node, false)
    }

    fn child(&mut self, parent: u32, name: &str) -> u32 {
        let known = self.levels.get(name.as_bytes()).map(|level| level.id);
        if let Some(child) = known.and_then(|level| self.edges.get(&(parent, level))) {
            return *child;
        }
        let level = if let Some(level) = self.levels.get_mut(name.as_bytes()) {
            level.uses += 1;
            level.id
        } else {
            let id = self.free_levels.pop().unwrap_or_else(|| {
                self.next_level += 1;
                self.next_level
            });
            self.levels.insert(LevelText::new(name), Level { id, uses: 1 });
            id
        };
        let child = self.new_node();
        self.edges.insert((parent, level), child);
        self.nodes[parent as usize].edges += 1;
        child
    }

    fn new_node(&mut self) -> u32 {
        self.free_nodes.pop().unwrap_or_else(|| {
            self.nodes.push(Node::default());
            u32::try_from(self.nodes.len() - 1).expect("a shard has fewer than 2^32 filter levels")
        })
    }

    /// Removes the subscription of `slot` to `filter`; `false` when there was none.
    pub(crate) fn remove(&mut self, filter: &TopicFilter, slot: u32) -> bool {
        self.generation += 1;
        let removed = if filter.has_wildcard() {
            self.remove_wildcard(filter, slot)
        } else {
            let Some(subscribers) = self.exact.get_mut(filter.as_str()) else { return false };
            let removed = subscribers.take(slot);
            if subscribers.is_empty() {
                self.exact.remove(filter.as_str());
            }
            removed
        };
        self.len -= usize::from(removed);
        removed
    }

    fn remove_wildcard(&mut self, filter: &TopicFilter, slot: u32) -> bool {
        let mut path: Vec<(u32, &str)> = Vec::new();
        let mut node = ROOT;
        let mut below = false;
        for level in filter.levels() {
            let child = match level {
                "#" => {
                    below = true;
                    break;
                }
                "+" => Some(self.nodes[node as usize].plus).filter(|&child| child != 0),
                name => {
                    let level = self.levels.get(name.as_bytes());
                    level.and_then(|level| self.edges.get(&(node, level.id)).copied())
                }
            };
            let Some(child) = child else { return false };
            path.push((node, level));
            node = child;
        }
        let end = &mut self.nodes[node as usize];
        let removed = self.lists.take(if below { &mut end.below } else { &mut end.here }, slot);
        // A node that leads nowhere any more goes back, and then perhaps its parent.
        while let Some((parent, level)) = path.pop() {
            if !self.nodes[node as usize].is_bare() {
                break;
            }
            self.nodes[node as usize] = Node::default();
            self.free_nodes.push(node);
            if level == "+" {
                self.nodes[parent as usize].plus = 0;
            } else {
                self.cut(parent, level);
            }
            node = parent;
        }
        removed
    }

    fn cut(&mut self, parent: u32, name: &str) {
        let Some(level) = self.levels.get_mut(name.as_bytes()) else { return };
        let id = level.id;
        level.uses -= 1;
        if level.uses == 0 {
            self.levels.remove(name.as_bytes());
            self.free_levels.push(id);
        }
        self.edges.remove(&(parent, id));
        self.nodes[parent as usize].edges -= 1;
    }

    /// Calls `meet` for every subscription that `topic` belongs to; a connection with several
    /// matching filters is met several times.
    pub(crate) fn each(&mut self, topic: TopicName<'_>, mut meet: impl FnMut(&Subscriber)) {
        if let Some(subscribers) = self.exact.get(topic.as_str()) {
            subscribers.each(&mut meet);
        }
        let root = &self.nodes[ROOT as usize];
        if root.is_bare() {
            return;
        }
        // No filter is longer than LEVELS_MAX, so deeper levels of a topic can only meet a `#`.
        self.topic.clear();
        let levels = topic.as_str().as_bytes().split(|byte| *byte == b'/').take(LEVELS_MAX + 1);
        self.topic.extend(levels.map(|level| self.levels.get(level).map(|level| level.id)));
        let hidden = topic.is_dollar();
        self.walk.push((ROOT, 0));
        while let Some((at, depth)) = self.walk.pop() {
            let node = &self.nodes[at as usize];
            // [MQTT-4.7.2-1]: a filter that begins with a wildcard does not speak of `$`-topics.
            let wild = !(hidden && depth == 0);
            if wild {
                self.lists.each(node.below, &mut meet);
            }
            let Some(&level) = self.topic.get(depth as usize) else {
                self.lists.each(node.here, &mut meet);
                continue;
            };
            if wild && node.plus != 0 {
                self.walk.push((node.plus, depth + 1));
            }
            if node.edges > 0
                && let Some(&child) = level.and_then(|level| self.edges.get(&(at, level)))
            {
                self.walk.push((child, depth + 1));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn subscriber(slot: u32) -> Subscriber {
        Subscriber { slot, identifier: 0, qos: Qos::AtMostOnce, no_local: false, retain_as_published: false }
    }

    fn met(routes: &mut Routes, topic: &str) -> Vec<u32> {
        let mut met = Vec::new();
        routes.each(TopicName::parse(topic).expect(topic), |s| met.push(s.slot));
        met.sort_unstable();
        met
    }

    fn level(wild: bool) -> BoxedStrategy<String> {
        let plain = prop::sample::select(vec!["", "a", "b", "c", "$x"]).prop_map(str::to_owned);
        if wild { prop_oneof![3 => plain, 2 => Just("+".to_owned())].boxed() } else { plain.boxed() }
    }

    fn topic() -> impl Strategy<Value = String> {
        prop::collection::vec(level(false), 1..5)
            .prop_map(|levels| levels.join("/"))
            .prop_filter("not empty", |topic| !topic.is_empty())
    }

    fn filter() -> impl Strategy<Value = String> {
        (prop::collection::vec(level(true), 0..5), any::<bool>())
            .prop_map(|(mut levels, hash)| {
                if hash {
                    levels.push("#".to_owned());
                }
                levels.join("/")
            })
            .prop_filter("not empty", |filter| !filter.is_empty())
    }

    proptest! {
        #[test]
        fn the_tree_says_what_brute_force_says(
            steps in prop::collection::vec((filter(), 0_u32..4, any::<bool>()), 1..40),
            topics in prop::collection::vec(topic(), 1..10),
        ) {
            let mut routes = Routes::new();
            let mut brute: Vec<(TopicFilter, u32)> = Vec::new();
            for (text, slot, add) in steps {
                let filter = TopicFilter::parse(&text).expect("built from whole levels");
                let known = brute.iter().position(|(f, s)| *f == filter && *s == slot);
                if add {
                    prop_assert_eq!(routes.insert(&filter, subscriber(slot)), known.is_none());
                    if known.is_none() {
                        brute.push((filter, slot));
                    }
                } else {
                    prop_assert_eq!(routes.remove(&filter, slot), known.is_some());
                    if let Some(at) = known {
                        brute.remove(at);
                    }
                }
                prop_assert_eq!(routes.len(), brute.len());
            }
            for topic in &topics {
                let name = TopicName::parse(topic).expect("built from plain levels");
                let mut expected: Vec<u32> =
                    brute.iter().filter(|(f, _)| f.matches(name)).map(|(_, s)| *s).collect();
                expected.sort_unstable();
                prop_assert_eq!(met(&mut routes, topic), expected, "{}", topic);
            }
            for (filter, slot) in brute {
                prop_assert!(routes.remove(&filter, slot));
            }
            prop_assert!(routes.exact.is_empty() && routes.edges.is_empty() && routes.levels.is_empty());
            prop_assert_eq!(routes.free_nodes.len() + 1, routes.nodes.len());
            prop_assert_eq!(routes.lists.free.len() + 1, routes.lists.all.len());
        }
    }

    #[test]
    fn each_change_makes_another_generation() {
        let mut routes = Routes::new();
        let mut before = routes.generation();
        for text in ["a/b", "a/+", "a/#"] {
            let filter = TopicFilter::parse(text).expect(text);
            let other_qos = Subscriber { qos: Qos::ExactlyOnce, ..subscriber(1) };
            routes.insert(&filter, subscriber(1));
            let added = routes.generation();
            routes.insert(&filter, other_qos);
            let replaced = routes.generation();
            assert_eq!(met(&mut routes, "a/b"), [1]);
            assert_eq!(routes.generation(), replaced, "only asked");
            routes.remove(&filter, 1);
            let all = [before, added, replaced, routes.generation()];
            assert!(all.windows(2).all(|two| two[0] < two[1]), "{text}: {all:?}");
            before = routes.generation();
        }
    }

    #[test]
    fn a_topic_of_sixty_thousand_levels_is_routed_like_any_other() {
        let mut routes = Routes::new();
        routes.insert(&TopicFilter::parse("#").expect("#"), subscriber(1));
        routes.insert(&TopicFilter::parse("+/+/#").expect("+/+/#"), subscriber(2));
        routes.insert(&TopicFilter::parse("+/+").expect("+/+"), subscriber(3));
        assert_eq!(met(&mut routes, &"/".repeat(60_000)), [1, 2]);
    }

    #[test]
    fn levels_of_every_length_are_told_apart() {
        let mut routes = Routes::new();
        let name = |length: usize| "n".repeat(length);
        for slot in 0..60 {
            let filter = format!("{}/+", name(slot as usize));
            routes.insert(&TopicFilter::parse(&filter).expect(&filter), subscriber(slot));
        }
        for slot in 0..60 {
            assert_eq!(met(&mut routes, &format!("{}/x", name(slot as usize))), [slot]);
        }
        assert!(met(&mut routes, &format!("{}m/x", name(3))).is_empty());
    }

    #[test]
    fn a_hundred_thousand_filters_take_less_than_150_bytes_each() {
        const COUNT: u32 = 100_000;
        let mut routes = Routes::new();
        for n in 0..COUNT {
            let filter = format!("bench/{n}/in/+");
            routes.insert(&TopicFilter::parse(&filter).expect(&filter), subscriber(n));
        }
        let count = COUNT as usize;
        // The root and `bench`; for each filter its number, `in` and `+`, of which two are named.
        assert_eq!((routes.nodes.len(), routes.edges.len()), (2 + 3 * count, 1 + 2 * count));
        assert_eq!((routes.levels.len(), routes.lists.all.len()), (count + 2, 1 + count));
        // A table of the standard library is filled to 7/8 and has a byte beside each entry.
        let table = |capacity: usize, entry: usize| capacity * 8 / 7 * (entry + 1);
        let bytes = routes.nodes.len() * size_of::<Node>()
            + routes.lists.all.len() * size_of::<Subscribers>()
            + table(routes.edges.capacity(), size_of::<((u32, u32), u32)>())
            + table(routes.levels.capacity(), size_of::<(LevelText, Level)>());
        assert!(bytes <= 150 * count, "{} bytes a filter", bytes / count);
        assert_eq!(met(&mut routes, "bench/4711/in/x"), [4711]);
    }

    #[test]
    fn a_fleet_subscribes_to_one_topic_and_leaves_it_without_a_trace() {
        let mut routes = Routes::new();
        let filters = ["news/all", "news/+"].map(|text| TopicFilter::parse(text).expect(text));
        for count in [64, 65, 100_000] {
            for filter in &filters {
                for slot in 0..count {
                    assert!(routes.insert(filter, subscriber(slot)));
                }
                assert!(!routes.insert(filter, subscriber(7)), "known");
            }
            assert_eq!(met(&mut routes, "news/all").len(), 2 * count as usize);
            for filter in &filters {
                assert!((0..count).all(|slot| routes.remove(filter, slot)));
                assert!(!routes.remove(filter, 7), "gone");
            }
            assert!(routes.exact.is_empty() && routes.edges.is_empty() && routes.len() == 0);
        }
    }
}
