//! Random rights, random questions: the crate against an oracle that is slow and plain, written from what
//! docs/policy.md says of the rules, and that shares no code with the crate. 20,000 questions each time, one
//! million in the long form.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use drawbridge_names::{PolicyName, PrincipalName, RegistryName, TopicFilter, TopicName};
use drawbridge_policy::{
    Connection, ConnectionFacts, Grant, IssuerClaims, Policy, Protocol, PublishFacts, Rights, Tls, Variables,
};

const DOCUMENT_QUESTIONS: usize = 40;

/// SplitMix64: a seed gives the same run everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).expect("small")
    }

    fn of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())].clone()
    }

    /// Once in so many times.
    fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    fn maybe<T>(&mut self, times: usize, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.once_in(times).then(|| make(self))
    }
}

/// A rule as it is meant, before it is written down.
#[derive(Debug, Clone, Default)]
struct Rule {
    allow: bool,
    publish: Vec<String>,
    subscribe: Vec<String>,
    receive: Vec<String>,
    qos_max: Option<u8>,
    payload_bytes_max: Option<usize>,
    retain: Option<bool>,
    will: Option<bool>,
    when: Option<Asks>,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Asks {
    protocol: Vec<Protocol>,
    tls: Vec<Tls>,
    port: Vec<u16>,
}

#[derive(Debug, Clone, Default)]
struct World {
    rules: Vec<Rule>,
    when: Option<Asks>,
    limits: Rule,
    grant: Option<Vec<(String, bool, bool)>>,
    site: Option<String>,
    tenant: Option<String>,
    facts: ConnectionFacts<'static>,
}

#[derive(Debug, Clone)]
enum Question {
    Publish(String, PublishFacts),
    Subscribe(String, u8),
    Receive(String),
}

// What is asked, and what is written: levels that meet each other often.

const LITERALS: &[&str] = &["a", "b", "ab", "", "lamp", "hall", "acme", "$x"];

fn topic(random: &mut Random) -> String {
    loop {
        let mut levels: Vec<&str> = (0..=random.below(4)).map(|_| random.of(LITERALS)).collect();
        if random.once_in(12) {
            levels[0] = random.of(&["$x", "$SYS", "$share", "$drawbridge"]);
        }
        let text = levels.join("/");
        if !text.is_empty() {
            return text;
        }
    }
}

/// A filter, of a policy with variables in it.
fn filter(random: &mut Random, of_policy: bool) -> String {
    loop {
        let mut levels: Vec<String> = (0..=random.below(3))
            .map(|_| match random.below(10) {
                0..=1 => "+".to_owned(),
                2 if of_policy => {
                    random.of(&["${device}", "${attr.site}", "${token.tenant}", "x${device}"]).to_owned()
                }
                _ => random.of(LITERALS).to_owned(),
            })
            .collect();
        if random.once_in(12) {
            levels[0] = random.of(&["$x", "$SYS"]).to_owned();
        }
        if random.once_in(3) {
            levels.push("#".to_owned());
        }
        let text = if random.once_in(15) { "#".to_owned() } else { levels.join("/") };
        // `/#` also means the empty topic, which nobody can publish to: the one filter of which the subset test
        // says less than a look at all topics would.
        if !text.is_empty() && text != "/#" {
            return text;
        }
    }
}

fn filters(random: &mut Random, most: usize) -> Vec<String> {
    (0..random.below(most + 1)).map(|_| filter(random, true)).collect()
}

fn asks(random: &mut Random) -> Asks {
    let mut asks = Asks::default();
    while asks == Asks::default() {
        if random.once_in(2) {
            asks.protocol = (0..=random.below(2)).map(|_| random.of(Protocol::ALL)).collect();
        }
        if random.once_in(2) {
            asks.tls = (0..=random.below(2)).map(|_| random.of(Tls::ALL)).collect();
        }
        if random.once_in(4) {
            asks.port = vec![random.of(&[1883, 8883])];
        }
    }
    asks
}

fn rule(random: &mut Random, plain: bool) -> Rule {
    let mut rule = Rule { allow: !random.once_in(4), ..Rule::default() };
    rule.publish = filters(random, 4);
    rule.subscribe = filters(random, 4);
    if plain {
        return rule;
    }
    rule.when = random.maybe(4, asks);
    if rule.allow {
        rule.qos_max = random.maybe(3, |random| random.of(&[0, 1, 2]));
        rule.payload_bytes_max = random.maybe(4, |random| random.of(&[0, 10, 100]));
    }
    rule.retain = random.maybe(4, |random| random.once_in(2));
    rule.will = random.maybe(5, |random| random.once_in(2));
    if !rule.allow && (rule.retain.is_some() || rule.will.is_some()) {
        rule.subscribe.clear(); // speaks of what is published
    } else if !rule.allow {
        rule.receive = filters(random, 2);
    }
    rule
}

fn world(random: &mut Random) -> World {
    let plain = random.once_in(3);
    let mut world = World {
        rules: (0..=random.below(8)).map(|_| rule(random, plain)).collect(),
        site: random.maybe(2, |_| "hall".to_owned()),
        tenant: random.maybe(2, |_| "acme".to_owned()),
        ..World::default()
    };
    world.grant = random.maybe(4, |random| {
        let flags = [(true, false), (false, true), (true, true)];
        (0..random.below(5))
            .map(|_| (filter(random, false), random.of(&flags)))
            .map(|(f, (p, s))| (f, p, s))
            .collect()
    });
    if !plain {
        world.when = random.maybe(8, asks);
        world.limits.qos_max = random.maybe(6, |random| random.of(&[0, 1]));
        world.limits.payload_bytes_max = random.maybe(6, |random| random.of(&[0, 50]));
        world.limits.retain = random.maybe(8, |_| false);
        world.limits.will = random.maybe(8, |_| false);
    }
    world.facts.protocol = random.maybe(2, |random| random.of(Protocol::ALL));
    world.facts.tls = random.maybe(2, |random| random.of(Tls::ALL));
    world.facts.port = random.maybe(2, |random| random.of(&[1883, 8883]));
    world
}

fn message(random: &mut Random) -> PublishFacts {
    PublishFacts {
        qos: random.of(&[0, 1, 2]),
        retain: random.once_in(3),
        will: random.once_in(5),
        payload_bytes: random.of(&[0, 1, 10, 11, 50, 51, 100, 101, 5_000]),
    }
}

fn question(random: &mut Random) -> Question {
    match random.below(3) {
        0 => Question::Publish(topic(random), message(random)),
        1 => Question::Receive(topic(random)),
        _ => {
            let asked = filter(random, false);
            let asked = if random.once_in(5) { format!("$share/group/{asked}") } else { asked };
            Question::Subscribe(asked, random.of(&[0, 1, 2]))
        }
    }
}

// The world as a document.

fn list<T>(values: &[T], quote: impl Fn(&T) -> String) -> String {
    format!("[{}]", values.iter().map(quote).collect::<Vec<_>>().join(", "))
}

fn write_asks(asks: &Asks) -> String {
    let mut keys = Vec::new();
    if !asks.protocol.is_empty() {
        keys.push(format!("protocol = {}", list(&asks.protocol, |word| format!("'{word}'"))));
    }
    if !asks.tls.is_empty() {
        keys.push(format!("tls = {}", list(&asks.tls, |word| format!("'{word}'"))));
    }
    if !asks.port.is_empty() {
        keys.push(format!("port = {}", list(&asks.port, ToString::to_string)));
    }
    keys.join(", ")
}

fn write_terms(toml: &mut String, rule: &Rule) {
    let terms = [
        ("qos_max", rule.qos_max.map(|qos| qos.to_string())),
        ("payload_bytes_max", rule.payload_bytes_max.map(|bytes| bytes.to_string())),
        ("retain", rule.retain.map(|flag| flag.to_string())),
        ("will", rule.will.map(|flag| flag.to_string())),
    ];
    for (key, value) in terms {
        if let Some(value) = value {
            writeln!(toml, "{key} = {value}").expect("a string");
        }
    }
}

impl World {
    fn toml(&self) -> String {
        let mut toml = String::new();
        if let Some(when) = &self.when {
            writeln!(toml, "when = {{ {} }}", write_asks(when)).expect("a string");
        }
        toml.push_str("[limits]\n");
        write_terms(&mut toml, &self.limits);
        for rule in &self.rules {
            writeln!(toml, "[[{}]]", if rule.allow { "allow" } else { "deny" }).expect("a string");
            for (key, patterns) in
                [("publish", &rule.publish), ("subscribe", &rule.subscribe), ("receive", &rule.receive)]
            {
                // Nobody can be allowed to publish to the server's topics, and saying so is a fault.
                let patterns: Vec<&String> =
                    patterns.iter().filter(|p| !self.is_faulty(rule, key, p)).collect();
                if key == "publish" || !patterns.is_empty() {
                    writeln!(toml, "{key} = {}", list(&patterns, |pattern| format!("'{pattern}'")))
                        .expect("a string");
                }
            }
            write_terms(&mut toml, rule);
            if let Some(when) = &rule.when {
                writeln!(toml, "when = {{ {} }}", write_asks(when)).expect("a string");
            }
        }
        toml
    }

    fn is_faulty(&self, rule: &Rule, key: &str, pattern: &str) -> bool {
        rule.allow && key == "publish" && pattern.split('/').next() == Some("$SYS")
    }

    /// `None`: refused as a whole.
    fn rights(&self) -> Option<Rights> {
        let toml = self.toml();
        let policy = Policy::parse(&PolicyName::parse("p").expect("a name"), &toml);
        let policy = policy.unwrap_or_else(|error| panic!("{error}\n{toml}"));
        let (device, registry) =
            (PrincipalName::parse("lamp").expect("a name"), RegistryName::default_registry());
        let attributes: BTreeMap<String, String> =
            self.site.iter().map(|site| ("site".to_owned(), site.clone())).collect();
        let claims = self
            .tenant
            .as_ref()
            .map(|tenant| IssuerClaims::of_access_token([("tenant".to_owned(), tenant.clone())]));
        let variables = Variables { device: &device, registry: &registry, attributes: &attributes };
        let connection = Connection { facts: self.facts, token: claims.as_ref(), ..Connection::default() };
        let rights = policy.compile_for(&variables, &connection).ok()?;
        let Some(pairs) = &self.grant else { return Some(rights) };
        let pairs: Vec<_> = pairs
            .iter()
            .map(|(filter, publish, subscribe)| {
                let words = [publish.then_some("pub"), subscribe.then_some("sub")];
                (filter, words.into_iter().flatten().collect::<Vec<_>>())
            })
            .collect();
        let grant = Grant::parse_json(&serde_json::to_string(&pairs).expect("strings")).expect("well-formed");
        Some(rights.narrowed(&grant))
    }
}

// The oracle: what the rules say, in the order of the text.

/// MQTT 5.0 section 4.7.
fn matches(filter: &str, topic: &str) -> bool {
    fn levels(filter: &[&str], topic: &[&str]) -> bool {
        match (filter, topic) {
            (["#"], _) | ([], []) => true,
            (["+", filter @ ..], [_, topic @ ..]) => levels(filter, topic),
            ([f, filter @ ..], [t, topic @ ..]) => f == t && levels(filter, topic),
            _ => false,
        }
    }
    if topic.starts_with('$') && (filter.starts_with('+') || filter.starts_with('#')) {
        return false;
    }
    levels(&filter.split('/').collect::<Vec<_>>(), &topic.split('/').collect::<Vec<_>>())
}

/// Topics that a filter means: each wildcard by all that could make a difference.
fn examples(filter: &str) -> Vec<String> {
    // `fresh` stands in no filter.
    const LEVELS: &[&str] = &["fresh", "a", "b", "ab", "", "lamp", "hall", "acme", "xlamp", "$x", "$SYS"];
    let mut all: Vec<Vec<String>> = vec![Vec::new()];
    for level in filter.split('/') {
        let endings: Vec<Vec<&str>> = match level {
            "+" => LEVELS.iter().map(|level| vec![*level]).collect(),
            "#" => {
                let mut endings = vec![vec![]];
                endings.extend(LEVELS.iter().map(|level| vec![*level]));
                for first in ["fresh", "", "a"] {
                    endings.extend(["fresh", "", "a"].iter().map(|second| vec![first, *second]));
                    endings.push(vec![first, "fresh", "fresh", "fresh"]);
                }
                endings
            }
            literal => vec![vec![literal]],
        };
        all = all
            .iter()
            .flat_map(|topic| {
                endings.iter().map(move |ending| {
                    topic.iter().cloned().chain(ending.iter().map(|level| (*level).to_owned())).collect()
                })
            })
            .collect();
    }
    let topics = all.into_iter().map(|levels| levels.join("/"));
    topics.filter(|topic| !topic.is_empty() && matches(filter, topic)).collect()
}

/// `None`: it is not known.
fn holds(asks: &Asks, facts: &ConnectionFacts<'_>) -> Option<bool> {
    let mut unknown = false;
    let mut all = true;
    let mut one = |asked: bool, found: Option<bool>| match found {
        _ if !asked => {}
        Some(found) => all &= found,
        None => unknown = true,
    };
    one(!asks.protocol.is_empty(), facts.protocol.map(|found| asks.protocol.contains(&found)));
    one(!asks.tls.is_empty(), facts.tls.map(|found| asks.tls.contains(&found)));
    one(!asks.port.is_empty(), facts.port.map(|found| asks.port.contains(&found)));
    if !all {
        return Some(false);
    }
    if unknown { None } else { Some(true) }
}

struct Oracle<'w> {
    world: &'w World,
    /// Nothing is allowed: a deny has a variable without a value, or it is another connection.
    nothing: bool,
    /// The rules that speak over this connection, values put in.
    rules: Vec<Rule>,
}

impl<'w> Oracle<'w> {
    fn new(world: &'w World) -> Self {
        let mut nothing = world.when.as_ref().is_some_and(|asks| holds(asks, &world.facts) != Some(true));
        let put_in = |pattern: &String| -> Option<String> {
            let mut text = pattern.replace("${device}", "lamp");
            for (name, value) in [("${attr.site}", &world.site), ("${token.tenant}", &world.tenant)] {
                if text.contains(name) {
                    text = text.replace(name, value.as_ref()?);
                }
            }
            Some(text)
        };
        let mut rules = Vec::new();
        for rule in &world.rules {
            let speaks =
                rule.when.as_ref().is_none_or(|asks| holds(asks, &world.facts).unwrap_or(!rule.allow));
            if !speaks {
                continue;
            }
            let mut spoken = rule.clone();
            for list in [&mut spoken.publish, &mut spoken.subscribe, &mut spoken.receive] {
                let filled: Vec<Option<String>> = list.iter().map(put_in).collect();
                nothing |= !rule.allow && filled.contains(&None);
                *list = filled.into_iter().flatten().collect();
            }
            rules.push(spoken);
        }
        Self { world, nothing, rules }
    }

    fn fits(rule: &Rule, message: &PublishFacts) -> bool {
        rule.retain.is_none_or(|retain| retain == message.retain)
            && rule.will.is_none_or(|will| will == message.will)
            && rule.qos_max.is_none_or(|max| message.qos <= max)
            && rule.payload_bytes_max.is_none_or(|max| message.payload_bytes <= max)
    }

    fn granted(&self, publish: bool, speaks: impl Fn(&str) -> bool) -> bool {
        let Some(pairs) = &self.world.grant else { return true };
        pairs.iter().any(|(filter, p, s)| (if publish { *p } else { *s }) && speaks(filter))
    }

    fn publish(&self, topic: &str, message: &PublishFacts) -> bool {
        let first = topic.split('/').next().expect("one level at least");
        let says = |allow: bool| {
            self.rules.iter().any(|rule| {
                rule.allow == allow
                    && Self::fits(rule, message)
                    && rule.publish.iter().any(|f| matches(f, topic))
            })
        };
        !self.nothing
            && !["$SYS", "$share", "$drawbridge"].contains(&first)
            && Self::fits(&self.world.limits, message)
            && says(true)
            && !says(false)
            && self.granted(true, |filter| matches(filter, topic))
    }

    fn receive(&self, topic: &str) -> bool {
        let speaks = |patterns: &[String]| patterns.iter().any(|filter| matches(filter, topic));
        !self.nothing
            && self.rules.iter().any(|rule| rule.allow && speaks(&rule.subscribe))
            && !self
                .rules
                .iter()
                .any(|rule| !rule.allow && (speaks(&rule.subscribe) || speaks(&rule.receive)))
            && self.granted(false, |filter| matches(filter, topic))
    }

    /// The QoS that is granted.
    fn subscribe(&self, asked: &str, qos: u8) -> Option<u8> {
        let inner = asked.strip_prefix("$share/group/").unwrap_or(asked);
        let examples = examples(inner);
        assert!(!examples.is_empty(), "{inner}");
        let covers = |filter: &str| examples.iter().all(|topic| matches(filter, topic));
        let covering = |rule: &&Rule| rule.subscribe.iter().any(|filter| covers(filter));
        let denied = self.rules.iter().filter(|rule| !rule.allow).any(|rule| covering(&rule));
        if self.nothing || denied || !self.granted(false, covers) {
            return None;
        }
        let allowing = self.rules.iter().filter(|rule| rule.allow).filter(covering);
        let highest = allowing.map(|rule| rule.qos_max.unwrap_or(2)).max()?;
        Some(qos.min(highest).min(self.world.limits.qos_max.unwrap_or(2)))
    }
}

/// Asks so many questions; answers how many of them were allowed.
fn ask(seed: u64, questions: usize) -> usize {
    let mut random = Random(seed);
    let (mut asked, mut allowed) = (0, 0);
    while asked < questions {
        let world = world(&mut random);
        let rights = world.rights().unwrap_or(Rights::none());
        let oracle = Oracle::new(&world);
        for _ in 0..DOCUMENT_QUESTIONS {
            let question = question(&mut random);
            let (found, wanted, why) = match &question {
                Question::Publish(text, message) => {
                    let topic = TopicName::parse(text).expect("a topic");
                    let decision = rights.may_publish_with(topic, message);
                    let limits = rights.publish_limits(topic);
                    assert_eq!(
                        limits.admits(message),
                        decision.allowed,
                        "seed {seed}: {question:?}\n{}",
                        world.toml()
                    );
                    assert_eq!(
                        rights.may_publish(topic).allowed,
                        !limits.is_nothing(),
                        "seed {seed}: {question:?}\n{}",
                        world.toml()
                    );
                    let wanted = oracle.publish(text, message);
                    (decision.allowed.then_some(0), wanted.then_some(0), decision.to_string())
                }
                Question::Receive(text) => {
                    let decision = rights.may_receive(TopicName::parse(text).expect("a topic"));
                    (decision.allowed.then_some(0), oracle.receive(text).then_some(0), decision.to_string())
                }
                Question::Subscribe(text, qos) => {
                    let filter = TopicFilter::parse(text).expect("a filter");
                    let (decision, granted) = rights.may_subscribe_with(&filter, *qos);
                    (decision.allowed.then_some(granted), oracle.subscribe(text, *qos), decision.to_string())
                }
            };
            assert_eq!(
                found,
                wanted,
                "seed {seed}, question {asked}: {question:?} over {:?}\n{why}\ngrant {:?}, site {:?}, tenant {:?}\n{}",
                world.facts,
                world.grant,
                world.site,
                world.tenant,
                world.toml()
            );
            asked += 1;
            allowed += usize::from(wanted.is_some());
        }
    }
    allowed
}

#[test]
fn twenty_thousand_random_questions_are_answered_as_the_oracle_answers_them() {
    let allowed = ask(1, 20_000);
    // If nearly all were refused, nothing would be compared.
    assert!((2_000..18_000).contains(&allowed), "{allowed} of 20,000 allowed");
}

#[test]
#[ignore = "takes long: cargo xtask soak"]
fn soak_one_million_random_questions_are_answered_as_the_oracle_answers_them() {
    let allowed: usize = (100..120).map(|seed| ask(seed, 50_000)).sum();
    assert!((100_000..900_000).contains(&allowed), "{allowed} of 1,000,000 allowed");
}

#[test]
fn the_oracle_knows_what_a_filter_means() {
    assert!(matches("a/#", "a") && matches("+/b", "/b") && !matches("#", "$x") && !matches("a", "a/"));
    assert!(examples("a/+").contains(&"a/fresh".to_owned()) && examples("a/#").contains(&"a".to_owned()));
    assert!(examples("+").iter().all(|topic| !topic.starts_with('$')));
}
