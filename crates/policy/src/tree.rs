//! The patterns of one side of a policy as a tree of their bytes, so that a topic is read once, however
//! many rules there are.
//!
//! Patterns with the same beginning share it: a node has the bytes that lead to it, a child for each
//! byte that may follow, and one child for `+`, which skips a level. Where a pattern ends, its node
//! keeps the lowest number of those that end there. `a/#` ends at `a`.

use drawbridge_names::TopicName;

use crate::pattern::Pattern;

/// No pattern, no node: there are fewer of both.
const NO_PATTERN: u16 = u16::MAX;
const NO_NODE: u32 = u32::MAX;

/// So many branches are kept in mind while another one is followed.
const WAITING_MAX: usize = 8;

#[derive(Debug)]
pub(crate) struct Tree {
    /// The first is the root; the children of a node stand together.
    nodes: Box<[Node]>,
    /// For each node the first byte of its label, for the search among siblings.
    first_bytes: Box<[u8]>,
    /// The rest of all labels, one behind the other.
    labels: Box<[u8]>,
    /// The first pattern that is `#` or `+/#`: every topic that does not begin with `$`.
    all: u16,
}

#[derive(Debug, Clone, Copy)]
struct Node {
    /// Where its label is, without its first byte.
    label: u32,
    label_bytes: u16,
    children: u16,
    first_child: u32,
    plus: u32,
    /// The first pattern that is exactly the way to here.
    here: u16,
    /// The first pattern that is the way to here and all below it.
    below: u16,
}

/// What a topic meets.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Met {
    /// The number of the first pattern that speaks of it, if any does.
    First(Option<u16>),
    /// Too many branches; ask the patterns one by one.
    TooMany,
}

impl Tree {
    /// Of at most 65,534 patterns; the number of a pattern is its place.
    pub(crate) fn of<'a>(patterns: impl Iterator<Item = &'a Pattern>) -> Self {
        let mut sketch = Sketch { nodes: vec![Sketched::default()], all: NO_PATTERN };
        for (number, pattern) in (0..NO_PATTERN).zip(patterns) {
            sketch.put(pattern.filter().as_str(), number);
        }
        sketch.finish()
    }

    #[inline]
    pub(crate) fn first(&self, topic: TopicName<'_>) -> Met {
        let topic = topic.as_str().as_bytes();
        let hidden = topic.first() == Some(&b'$');
        let mut best = if hidden { NO_PATTERN } else { self.all };
        let mut waiting = [(0_u32, 0_usize); WAITING_MAX];
        let mut waits = 0;
        let (mut at, mut done) = (0_u32, 0_usize);
        loop {
            let node = &self.nodes[at as usize];
            let rest = &topic[done..];
            let child = match rest.first() {
                None => {
                    best = best.min(node.here).min(node.below);
                    None
                }
                Some(&byte) => {
                    if byte == b'/' {
                        best = best.min(node.below);
                    }
                    self.child(node, byte, rest)
                }
            };
            // [MQTT-4.7.2-1]: what begins with a wildcard does not speak of `$`-topics.
            if node.plus != NO_NODE && !(hidden && at == 0) {
                let level = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
                if child.is_none() {
                    (at, done) = (node.plus, done + level);
                    continue;
                }
                let Some(free) = waiting.get_mut(waits) else { return Met::TooMany };
                *free = (node.plus, done + level);
                waits += 1;
            }
            if let Some((child, bytes)) = child {
                (at, done) = (child, done + bytes);
            } else if waits > 0 {
                waits -= 1;
                (at, done) = waiting[waits];
            } else {
                return Met::First((best != NO_PATTERN).then_some(best));
            }
        }
    }

    /// The child that `rest` leads to, and how many of its bytes do.
    #[inline]
    fn child(&self, node: &Node, byte: u8, rest: &[u8]) -> Option<(u32, usize)> {
        let first = node.first_child as usize;
        let among = &self.first_bytes[first..first + usize::from(node.children)];
        let at = first + among.iter().position(|known| *known == byte)?;
        let child = &self.nodes[at];
        let bytes = usize::from(child.label_bytes);
        if bytes > 0 {
            let label = &self.labels[child.label as usize..child.label as usize + bytes];
            if !rest[1..].starts_with(label) {
                return None;
            }
        }
        Some((at as u32, 1 + bytes))
    }
}

/// The tree while it grows.
struct Sketch<'a> {
    nodes: Vec<Sketched<'a>>,
    all: u16,
}

struct Sketched<'a> {
    label: &'a [u8],
    children: Vec<u32>,
    plus: u32,
    here: u16,
    below: u16,
}

impl Default for Sketched<'_> {
    fn default() -> Self {
        Self { label: &[], children: Vec::new(), plus: NO_NODE, here: NO_PATTERN, below: NO_PATTERN }
    }
}

impl<'a> Sketch<'a> {
    fn put(&mut self, filter: &'a str, number: u16) {
        if filter == "#" || filter == "+/#" {
            self.all = self.all.min(number);
            return;
        }
        let (way, below) = match filter.strip_suffix("/#") {
            Some(stem) => (stem, true),
            None => (filter, false),
        };
        let mut node = 0;
        // In a filter `+` is always a whole level, so it stands for nothing else.
        for (i, literal) in way.split('+').enumerate() {
            if i > 0 {
                node = self.plus(node);
            }
            node = self.walk(node, literal.as_bytes());
        }
        let node = &mut self.nodes[node as usize];
        let end = if below { &mut node.below } else { &mut node.here };
        *end = number.min(*end);
    }

    fn plus(&mut self, node: u32) -> u32 {
        if self.nodes[node as usize].plus == NO_NODE {
            self.nodes[node as usize].plus = self.add(Sketched::default());
        }
        self.nodes[node as usize].plus
    }

    /// The node that `literal` leads to, made where missing.
    fn walk(&mut self, mut node: u32, mut literal: &'a [u8]) -> u32 {
        while let Some(byte) = literal.first() {
            let known = self.nodes[node as usize]
                .children
                .iter()
                .copied()
                .find(|child| self.nodes[*child as usize].label.first() == Some(byte));
            let Some(child) = known else {
                let child = self.add(Sketched { label: literal, ..Sketched::default() });
                self.nodes[node as usize].children.push(child);
                return child;
            };
            let label = self.nodes[child as usize].label;
            let shared = label.iter().zip(literal).take_while(|(a, b)| a == b).count();
            if shared < label.len() {
                self.split(child, shared);
            }
            (node, literal) = (child, &literal[shared..]);
        }
        node
    }

    /// Ends a node after the first `bytes` of its label; what it was goes below.
    fn split(&mut self, node: u32, bytes: usize) {
        let whole = &mut self.nodes[node as usize];
        let (label, rest) = whole.label.split_at(bytes);
        let lower = Sketched { label: rest, ..std::mem::take(whole) };
        let lower = self.add(lower);
        self.nodes[node as usize] = Sketched { label, children: vec![lower], ..Sketched::default() };
    }

    fn add(&mut self, node: Sketched<'a>) -> u32 {
        self.nodes.push(node);
        // A document has at most 64 KiB, and each node a byte or a `+` of it, its values included.
        u32::try_from(self.nodes.len() - 1).expect("fewer nodes than bytes in a policy")
    }

    fn finish(self) -> Tree {
        let mut order = vec![0_u32];
        let mut nodes = Vec::with_capacity(self.nodes.len());
        let (mut first_bytes, mut labels) = (Vec::with_capacity(self.nodes.len()), Vec::new());
        while let Some(sketched) = order.get(nodes.len()).map(|at| &self.nodes[*at as usize]) {
            let first_child = order.len() as u32;
            order.extend(&sketched.children);
            let plus = match sketched.plus {
                NO_NODE => NO_NODE,
                plus => {
                    order.push(plus);
                    order.len() as u32 - 1
                }
            };
            let (first, rest) = sketched.label.split_first().map_or((0, &[][..]), |(b, rest)| (*b, rest));
            first_bytes.push(first);
            nodes.push(Node {
                label: labels.len() as u32,
                // A filter has at most 65,535 bytes, a node at most 256 children.
                label_bytes: rest.len() as u16,
                children: sketched.children.len() as u16,
                first_child,
                plus,
                here: sketched.here,
                below: sketched.below,
            });
            labels.extend_from_slice(rest);
        }
        Tree { nodes: nodes.into(), first_bytes: first_bytes.into(), labels: labels.into(), all: self.all }
    }
}

#[cfg(test)]
mod tests {
    use drawbridge_names::TopicFilter;

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

    fn patterns(texts: &[String]) -> Vec<Pattern> {
        texts.iter().filter_map(|text| TopicFilter::parse(text).ok()).map(Pattern::new).collect()
    }

    fn judge(patterns: &[&Pattern], topics: &[String]) -> usize {
        let tree = Tree::of(patterns.iter().copied());
        let mut found = 0;
        for text in topics {
            let Ok(topic) = TopicName::parse(text) else { continue };
            let wanted = patterns.iter().position(|pattern| pattern.filter().matches(topic));
            let shown = || patterns.iter().map(|p| p.filter().as_str()).collect::<Vec<_>>();
            let wanted = wanted.map(|at| u16::try_from(at).expect("few"));
            assert_eq!(tree.first(topic), Met::First(wanted), "{topic} of {:?}", shown());
            found += usize::from(wanted.is_some());
        }
        found
    }

    #[test]
    fn alone_or_together_the_first_pattern_that_matches_is_found() {
        let patterns = patterns(&texts(&["a", "ab", "$b", "", "+", "#"], 3));
        let topics = texts(&["a", "ab", "$b", "", "c"], 4);
        for pattern in &patterns {
            judge(&[pattern], &topics);
        }
        // Every n-th pattern, from each place, forwards and backwards.
        let mut found = 0;
        for every in [2, 3, 5, 7, 11, 23, 47] {
            for from in 0..every {
                let mut some: Vec<&Pattern> = patterns.iter().skip(from).step_by(every).collect();
                found += judge(&some, &topics);
                some.reverse();
                found += judge(&some, &topics);
            }
        }
        assert!(found > 10_000, "only {found} found");
    }

    #[test]
    fn no_depth_of_a_pattern_and_no_number_of_branches_is_too_much() {
        let deep = patterns(&["+/".repeat(30_000) + "x", "a/".repeat(30_000) + "#"]);
        let tree = Tree::of(deep.iter());
        let topic = "a/".repeat(30_000) + "x";
        let met = tree.first(TopicName::parse(&topic).expect("a topic"));
        assert!(matches!(met, Met::TooMany | Met::First(Some(0))), "{met:?}");

        let branches: Vec<String> =
            (0..20).map(|n| format!("{}+/{}end", "a/".repeat(n), "a/".repeat(20 - n))).collect();
        let branches = patterns(&branches);
        let topic = "a/".repeat(21) + "end";
        let met = Tree::of(branches.iter()).first(TopicName::parse(&topic).expect("a topic"));
        assert_eq!(met, Met::TooMany);
    }
}
