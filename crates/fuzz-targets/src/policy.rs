//! Policy documents and grants.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use drawbridge_names::{PolicyName, RegistryName, TopicFilter, TopicName};
use drawbridge_policy::{
    Grant, PAIRS_MAX, Policy, PolicyError, Rights, SCOPE_BYTES_MAX, SOURCE_BYTES_MAX, TOKEN_LIFE_S_MAX,
    Variables,
};

use crate::world::WORLD;
use crate::{Outcome, judge_code};

/// Topics and filters that decisions are asked about.
const TOPICS: &[&str] = &[
    "devices/sensor-17/events/hot",
    "devices/sensor-18/events",
    "a",
    "a/b",
    "$SYS/x",
    "$drawbridge/x",
    "$share/g/a",
    "$other/x",
];
const FILTERS: &[&str] =
    &["devices/sensor-17/#", "devices/+/events", "#", "+/a", "a/b", "$SYS/#", "$drawbridge/#"];

fn refused(error: &PolicyError) -> Outcome {
    judge_code(error.code());
    assert!(!error.word().is_empty());
    let text = error.to_string();
    assert!(!text.is_empty() && !text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
    Outcome::refused(format!(
        "{} {}",
        error.code(),
        text.chars().filter(char::is_ascii_alphabetic).take(24).collect::<String>()
    ))
}

/// What no rights may say, whoever wrote them.
fn judge_rights(rights: &Rights) {
    for topic in TOPICS
        .iter()
        .filter(|topic| ["$SYS", "$share", "$drawbridge"].iter().any(|own| topic.starts_with(own)))
    {
        let decision = rights.may_publish(TopicName::parse(topic).expect("a topic"));
        assert!(!decision.allowed, "nobody publishes to {topic}");
        judge_code(decision.code().expect("a refusal has a code"));
    }
}

/// Rights made narrower allow nothing new.
fn judge_narrower(wide: &Rights, narrow: &Rights) {
    for topic in TOPICS.iter().map(|topic| TopicName::parse(topic).expect("a topic")) {
        assert!(!narrow.may_publish(topic).allowed || wide.may_publish(topic).allowed, "{topic:?}");
        assert!(!narrow.may_receive(topic).allowed || wide.may_receive(topic).allowed, "{topic:?}");
    }
    for filter in FILTERS.iter().map(|filter| TopicFilter::parse(filter).expect("a filter")) {
        assert!(!narrow.may_subscribe(&filter).allowed || wide.may_subscribe(&filter).allowed, "{filter:?}");
    }
}

fn compile(policy: &Policy) -> Result<Rights, PolicyError> {
    let attributes: BTreeMap<_, _> = [("site".to_owned(), "north".to_owned())].into();
    policy.compile(&Variables {
        device: &WORLD.name,
        registry: &RegistryName::default_registry(),
        attributes: &attributes,
    })
}

pub(crate) mod policy_document {
    use super::*;

    pub(crate) fn run(data: &[u8]) -> Outcome {
        let Ok(text) = std::str::from_utf8(data) else { return Outcome::refused("no text") };
        let name = PolicyName::parse("pumps").expect("a name");
        let policy = match Policy::parse(&name, text) {
            Ok(policy) => policy,
            Err(error) => return refused(&error),
        };
        assert!(text.len() <= SOURCE_BYTES_MAX);
        assert_eq!((policy.source(), policy.name()), (text, &name));
        let again = Policy::parse(&name, policy.source()).expect("it was faultless");
        let token = policy.token();
        assert_eq!(token, again.token());
        assert!(token.life_s.is_none_or(|life_s| (1..=TOKEN_LIFE_S_MAX).contains(&life_s)));
        assert!(token.alias_scopes.len() <= 64);
        for word in &token.alias_scopes {
            // A word of a scope (RFC 6749 section 3.3), which stands alone in a list of words.
            assert!((1..=64).contains(&word.len()) && word.bytes().all(|b| b.is_ascii_graphic()), "{word:?}");
            assert!(!word.contains(['"', '\\']), "{word:?}");
        }
        let (rights, again) = match (compile(&policy), compile(&again)) {
            (Ok(rights), Ok(again)) => (rights, again),
            (Err(error), Err(_)) => return refused(&error),
            other => panic!("one document, two answers: {other:?}"),
        };
        judge_rights(&rights);
        judge_narrower(&rights, &again);
        judge_narrower(&rights, &Rights::none());
        let grant = Grant::parse_json(r##"[["devices/sensor-17/#",["pub"]],["a/#",["pub","sub"]]]"##)
            .expect("a grant");
        let narrow = rights.narrowed(&grant);
        judge_rights(&narrow);
        judge_narrower(&rights, &narrow);
        if text.trim().is_empty() || !text.contains("allow") {
            judge_narrower(&Rights::none(), &rights);
        }
        // Denying everything as well leaves nothing.
        let denied = format!(
            "{text}\n[[deny]]\npublish = [\"#\", \"$other/#\"]\nsubscribe = [\"#\", \"$other/#\", \"$SYS/#\", \"$drawbridge/#\"]\n"
        );
        if let Ok(denied) = Policy::parse(&name, &denied)
            && let Ok(denied) = compile(&denied)
        {
            judge_narrower(&Rights::none(), &denied);
        }
        Outcome::accepted()
    }

    pub(crate) fn seeds() -> Vec<Vec<u8>> {
        let template = Policy::device_template();
        [
            template.source(),
            "",
            "# nothing\n",
            "[[allow]]\npublish = [\"#\"]\nsubscribe = [\"#\", \"$SYS/#\"]\n[[deny]]\npublish = [\"devices/+/events/debug/#\"]\n",
            "[[allow]]\npublish = [\"sites/${attr.site}/${device}/#\"]\n",
            "[[allow]]\nsubscribe = [\"r/${registry}/+\"]\n[[allow]]\npublish = [\"a\", \"a/b\"]\n",
            "[[deny]]\nsubscribe = ['''a/#''']\n",
            "[token]\nlife_s = 600\nformat = \"opaque\"\nrenewals_max = 3\nalias_scopes = [\"temp\", \"tenant.demo\"]\n[[allow]]\npublish = [\"a\"]\n",
            "[token]\nlife_s = 600\nformat = \"opaque\"\nrenewals_max = 3\nalias_scopes = [\"temp\", \"tenant.demo\"]\n[[allow]]\npublish = [\"a\"]\n",
        ]
        .map(|text| text.as_bytes().to_vec())
        .to_vec()
    }
}

pub(crate) mod grant {
    use super::*;

    /// The first byte: even for a scope, odd for JSON.
    pub(crate) fn run(data: &[u8]) -> Outcome {
        let Some((&form, rest)) = data.split_first() else { return Outcome::refused("empty") };
        let Ok(text) = std::str::from_utf8(rest) else { return Outcome::refused("no text") };
        let read = if form % 2 == 0 { Grant::parse_scope(text) } else { Grant::parse_json(text) };
        let grant = match read {
            Ok(grant) => grant,
            Err(error) => return refused(&error),
        };
        assert!(text.len() <= SCOPE_BYTES_MAX && grant.pairs().len() <= PAIRS_MAX);
        if form % 2 == 0 {
            let json = URL_SAFE_NO_PAD.decode(text).expect("it was read");
            assert_eq!(URL_SAFE_NO_PAD.encode(json), text, "one grant, one scope");
        }
        for pair in grant.pairs() {
            assert!(pair.publish() || pair.subscribe());
            assert_eq!(TopicFilter::parse(pair.filter().as_str()).as_ref(), Ok(pair.filter()));
        }
        let written = grant.to_json();
        if written.len() <= SCOPE_BYTES_MAX {
            assert_eq!(Grant::parse_json(&written).expect("our own JSON").to_json(), written);
        }
        let scope = grant.to_scope();
        if scope.len() <= SCOPE_BYTES_MAX {
            assert_eq!(Grant::parse_scope(&scope).expect("our own scope").to_scope(), scope);
        }
        // Under a policy that allows all it still allows no more than its pairs.
        let name = PolicyName::parse("all").expect("a name");
        let all =
            Policy::parse(&name, "[[allow]]\npublish = [\"#\"]\nsubscribe = [\"#\"]\n").expect("a policy");
        let all = compile(&all).expect("no variables");
        let narrow = all.narrowed(&grant);
        judge_rights(&narrow);
        judge_narrower(&all, &narrow);
        for topic in TOPICS.iter().map(|topic| TopicName::parse(topic).expect("a topic")) {
            let said = |which: fn(&drawbridge_policy::GrantPair) -> bool| {
                grant.pairs().iter().any(|pair| which(pair) && pair.filter().matches(topic))
            };
            assert!(!narrow.may_publish(topic).allowed || said(|pair| pair.publish()));
            assert!(!narrow.may_receive(topic).allowed || said(|pair| pair.subscribe()));
        }
        Outcome::accepted()
    }

    pub(crate) fn seeds() -> Vec<Vec<u8>> {
        let mut seeds = Vec::new();
        for json in [
            r##"[["devices/sensor-17/#",["pub","sub"]]]"##,
            r##"[["a/b",["pub"]],["a/+",["sub"]],["#",["pub","sub"]]]"##,
            "[]",
            r##"[ ["a", ["sub","pub"]] ]"##,
        ] {
            seeds.push([&[1][..], json.as_bytes()].concat());
            seeds.push([&[0][..], URL_SAFE_NO_PAD.encode(json).as_bytes()].concat());
        }
        seeds
    }
}
