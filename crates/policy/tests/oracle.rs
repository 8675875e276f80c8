//! The decisions against a slow, plain oracle that shares no code with the crate: it matches level
//! by level and judges a subscription by trying every topic of a small world.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use drawbridge_names::{PolicyName, PrincipalName, RegistryName, TopicFilter, TopicName};
use drawbridge_policy::{Effect, Grant, Policy, Rights, Variables};
use proptest::prelude::*;

/// Words of topics. `z` stands in no filter, `lamp` is the device.
const WORDS: [&str; 7] = ["a", "ab", "lamp", "", "z", "$x", "$SYS"];

/// Every topic of up to four levels: one level more than any filter has.
static WORLD: LazyLock<Vec<String>> = LazyLock::new(|| {
    let mut longest: Vec<String> = WORDS.iter().map(|w| (*w).to_owned()).collect();
    let mut all = longest.clone();
    for _ in 0..3 {
        longest = longest.iter().flat_map(|t| WORDS.iter().map(move |w| format!("{t}/{w}"))).collect();
        all.extend(longest.iter().cloned());
    }
    all.retain(|topic| !topic.is_empty());
    all
});

fn oracle_matches(filter: &str, topic: &str) -> bool {
    fn levels(filter: &[&str], topic: &[&str]) -> bool {
        match (filter, topic) {
            (["#"], _) | ([], []) => true,
            (["+", filter @ ..], [_, topic @ ..]) => levels(filter, topic),
            ([f, filter @ ..], [t, topic @ ..]) if f == t => levels(filter, topic),
            _ => false,
        }
    }
    if topic.as_bytes()[0] == b'$' && matches!(filter.as_bytes()[0], b'+' | b'#') {
        return false;
    }
    let (f, t): (Vec<&str>, Vec<&str>) = (filter.split('/').collect(), topic.split('/').collect());
    levels(&f, &t)
}

fn oracle_covers(wide: &str, narrow: &str) -> bool {
    WORLD.iter().all(|topic| !oracle_matches(narrow, topic) || oracle_matches(wide, topic))
}

#[derive(Debug, Clone)]
struct World {
    allow_publish: Vec<String>,
    deny_publish: Vec<String>,
    allow_subscribe: Vec<String>,
    deny_subscribe: Vec<String>,
    grant: Option<Vec<(String, bool, bool)>>,
}

impl World {
    fn rights(&self) -> Rights {
        let list = |patterns: &[String]| serde_json::to_string(patterns).expect("strings");
        // TOML's basic strings and JSON's agree on what stands in these patterns.
        let toml = format!(
            "[[deny]]\npublish = {}\n[[allow]]\npublish = {}\nsubscribe = {}\n[[deny]]\nsubscribe = {}\n",
            list(&self.deny_publish),
            list(&self.allow_publish),
            list(&self.allow_subscribe),
            list(&self.deny_subscribe),
        );
        let rights = Policy::parse(&PolicyName::parse("p").expect("a name"), &toml)
            .expect("generated without faults")
            .compile(&Variables {
                device: &PrincipalName::parse("lamp").expect("a name"),
                registry: &RegistryName::default_registry(),
                attributes: &BTreeMap::new(),
            })
            .expect("only the device's name is put in");
        match &self.grant {
            None => rights,
            Some(pairs) => {
                let pairs: Vec<_> = pairs
                    .iter()
                    .map(|(filter, publish, _)| (filter, if *publish { vec!["pub"] } else { vec!["sub"] }))
                    .collect();
                let json = serde_json::to_string(&pairs).expect("strings");
                rights.narrowed(&Grant::parse_json(&json).expect("generated well-formed"))
            }
        }
    }

    fn granted(&self, publish: bool, speaks: impl Fn(&str) -> bool) -> bool {
        self.grant.as_ref().is_none_or(|pairs| pairs.iter().any(|(f, p, _)| *p == publish && speaks(f)))
    }

    fn oracle_publish(&self, topic: &str) -> bool {
        let says = |patterns: &[String]| patterns.iter().any(|p| oracle_matches(&put_in(p), topic));
        let first = topic.split('/').next().expect("split gives one");
        !["$SYS", "$share", "$drawbridge"].contains(&first)
            && says(&self.allow_publish)
            && !says(&self.deny_publish)
            && self.granted(true, |f| oracle_matches(f, topic))
    }

    fn oracle_receive(&self, topic: &str) -> bool {
        let says = |patterns: &[String]| patterns.iter().any(|p| oracle_matches(&put_in(p), topic));
        says(&self.allow_subscribe)
            && !says(&self.deny_subscribe)
            && self.granted(false, |f| oracle_matches(f, topic))
    }

    fn oracle_subscribe(&self, filter: &str) -> bool {
        let says = |patterns: &[String]| patterns.iter().any(|p| oracle_covers(&put_in(p), filter));
        says(&self.allow_subscribe)
            && !says(&self.deny_subscribe)
            && self.granted(false, |f| oracle_covers(f, filter))
    }
}

fn put_in(pattern: &str) -> String {
    pattern.replace("${device}", "lamp")
}

fn filter(words: &'static [&'static str]) -> impl Strategy<Value = String> {
    (proptest::collection::vec(proptest::sample::select(words), 1..=3), any::<bool>())
        .prop_map(|(levels, below)| {
            let text = levels.join("/");
            // A `#` may only stand last; `/#` also means the empty topic, which does not exist, so
            // the world cannot tell it from `/+/#` (see `covers` in drawbridge-names).
            if below && levels.len() < 3 { format!("{text}/#") } else { text }
        })
        .prop_filter("a filter that exists and that the small world can judge", |text| {
            text != "/#" && TopicFilter::parse(text).is_ok()
        })
}

fn patterns(words: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
    proptest::collection::vec(prop_oneof![8 => filter(words), 1 => Just("#".to_owned())], 0..9)
}

const OPEN: &[&str] = &["a", "ab", "${device}", "", "+", "+", "$x"];
const WITH_SYS: &[&str] = &["a", "ab", "${device}", "", "+", "+", "$x", "$SYS"];
const PLAIN: &[&str] = &["a", "ab", "lamp", "", "+", "+", "$x", "$SYS"];

fn worlds() -> impl Strategy<Value = World> {
    let grant =
        proptest::option::of(proptest::collection::vec((filter(PLAIN), any::<bool>(), Just(true)), 0..5));
    (patterns(OPEN), patterns(WITH_SYS), patterns(WITH_SYS), patterns(WITH_SYS), grant).prop_map(
        |(allow_publish, deny_publish, allow_subscribe, deny_subscribe, grant)| World {
            allow_publish,
            deny_publish,
            allow_subscribe,
            deny_subscribe,
            grant,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn publishing_and_receiving_agree_with_the_oracle_on_every_topic_of_the_world(world in worlds()) {
        let rights = world.rights();
        for text in WORLD.iter() {
            let topic = TopicName::parse(text).expect("the world has no wildcards");
            let (publish, receive) = (rights.may_publish(topic), rights.may_receive(topic));
            prop_assert_eq!(publish.allowed, world.oracle_publish(text), "publish {}: {}", text, publish);
            prop_assert_eq!(receive.allowed, world.oracle_receive(text), "receive {}: {}", text, receive);
        }
    }

    #[test]
    fn the_rule_that_decides_is_the_first_deny_or_else_the_first_allow_that_speaks(world in worlds()) {
        let world = World { grant: None, ..world };
        let rights = world.rights();
        for text in WORLD.iter().filter(|text| !text.starts_with("$SYS")) {
            let topic = TopicName::parse(text).expect("the world has no wildcards");
            let asked = [
                (rights.may_publish(topic), &world.deny_publish, &world.allow_publish),
                (rights.may_receive(topic), &world.deny_subscribe, &world.allow_subscribe),
            ];
            for (decision, deny, allow) in asked {
                let speaks = |p: &String| oracle_matches(&put_in(p), text);
                let first = |patterns: &[String]| patterns.iter().position(speaks);
                let wanted = match (first(deny), first(allow)) {
                    (Some(at), _) => Some((Effect::Deny, at, &deny[at])),
                    (None, Some(at)) => Some((Effect::Allow, at, &allow[at])),
                    (None, None) => None,
                };
                let found = decision.rule();
                let found = found.as_ref().map(|r| (r.effect, usize::from(r.pattern_index), r.written));
                prop_assert_eq!(found, wanted.map(|(e, at, p)| (e, at, p.as_str())), "{}: {}", text, decision);
            }
        }
    }

    #[test]
    fn subscribing_agrees_with_the_oracle(world in worlds(), asked in proptest::collection::vec(filter(PLAIN), 1..8)) {
        let rights = world.rights();
        for text in &asked {
            for text in [text.clone(), format!("$share/group/{text}")] {
                let decision = rights.may_subscribe(&TopicFilter::parse(&text).expect("generated"));
                let inner = text.strip_prefix("$share/group/").unwrap_or(&text);
                prop_assert_eq!(decision.allowed, world.oracle_subscribe(inner), "subscribe {}: {}", text, decision);
            }
        }
    }

    #[test]
    fn whatever_arrives_under_a_granted_subscription_was_allowed_or_is_withheld(world in worlds(), asked in filter(PLAIN)) {
        let rights = world.rights();
        if rights.may_subscribe(&TopicFilter::parse(&asked).expect("generated")).allowed {
            for text in WORLD.iter().filter(|text| oracle_matches(&asked, text)) {
                let received = rights.may_receive(TopicName::parse(text).expect("the world")).allowed;
                let denied = world.deny_subscribe.iter().any(|p| oracle_matches(&put_in(p), text));
                prop_assert_eq!(received, !denied, "{} under {}", text, asked);
            }
        }
    }

    #[test]
    fn a_grant_that_is_allowed_never_reaches_beyond_the_policy(world in worlds(), pairs in proptest::collection::vec((filter(PLAIN), any::<bool>()), 1..4)) {
        let rights = world.rights();
        let shown: Vec<_> = pairs.iter().map(|(f, publish)| (f, [if *publish { "pub" } else { "sub" }])).collect();
        let grant = Grant::parse_json(&serde_json::to_string(&shown).expect("strings")).expect("well-formed");
        let expected = pairs.iter().all(|(f, publish)| {
            let says = |patterns: &[String]| patterns.iter().any(|p| oracle_covers(&put_in(p), f));
            let (allow, deny) = if *publish {
                (&world.allow_publish, &world.deny_publish)
            } else {
                (&world.allow_subscribe, &world.deny_subscribe)
            };
            let reserved = *publish && f.split('/').next() == Some("$SYS");
            !reserved && says(allow) && !says(deny) && world.granted(*publish, |g| oracle_covers(g, f))
        });
        prop_assert_eq!(rights.allows_grant(&grant).is_ok(), expected, "{}", grant);
    }

    #[test]
    fn no_text_makes_the_parsers_panic(toml in ".{0,200}", scope in "[A-Za-z0-9_=-]{0,60}", json in r#"[\[\]",a-z/#+$\\{}0-9 ]{0,60}"#) {
        let _ = Policy::parse(&PolicyName::parse("p").expect("a name"), &toml);
        let _ = Grant::parse_scope(&scope);
        if let Ok(grant) = Grant::parse_json(&json) {
            prop_assert_eq!(Grant::parse_scope(&grant.to_scope()).expect("what we wrote"), grant);
        }
    }
}
