//! The cost of one decision with 20 rules: `cargo bench -p drawbridge-policy`. Budget: 200 ns.
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
#![expect(clippy::unwrap_used, reason = "a benchmark stops at the first surprise")]
#![expect(clippy::print_stdout, reason = "a benchmark prints")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Instant;

use drawbridge_names::{PolicyName, PrincipalName, RegistryName, TopicFilter, TopicName};
use drawbridge_policy::{Grant, Policy, PublishFacts, Rights, Variables};

const ROUNDS: u32 = 7;
const CALLS: u32 = 200_000;

fn rights(pattern_of: impl Fn(usize) -> String) -> Rights {
    let quoted = |range: std::ops::Range<usize>| {
        range.map(|i| format!("\"{}\"", pattern_of(i))).collect::<Vec<_>>().join(",")
    };
    let toml = format!(
        "[[allow]]\npublish = [{0}]\nsubscribe = [{0}]\n[[deny]]\npublish = [{1}]\nsubscribe = [{1}]\n",
        quoted(0..15),
        quoted(15..20)
    );
    compiled(&toml)
}

fn compiled(toml: &str) -> Rights {
    Policy::parse(&PolicyName::parse("bench").unwrap(), toml)
        .unwrap()
        .compile(&Variables {
            device: &PrincipalName::parse("pump-0042").unwrap(),
            registry: &RegistryName::default_registry(),
            attributes: &BTreeMap::new(),
        })
        .unwrap()
}

/// A device under a policy that speaks of a plant too: 37 publish patterns, 19 subscribe patterns.
fn device_rights() -> Rights {
    let mut toml: String = (0..18)
        .map(|n| {
            format!(
                "[[allow]]\npublish = [\"plant/hall-{n}/+/state\", \"site/{n}/#\"]\nsubscribe = [\"plant/hall-{n}/#\"]\n"
            )
        })
        .collect();
    toml.push_str(
        "[[allow]]\npublish = [\"devices/${device}/#\"]\nsubscribe = [\"devices/${device}/#\"]\n[[deny]]\npublish = [\"site/+/secret\"]\n",
    );
    compiled(&toml)
}

/// Best of some rounds, in nanoseconds a call; the best is the least disturbed.
fn measure(name: &str, mut call: impl FnMut() -> bool) {
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for _ in 0..CALLS {
            black_box(call());
        }
        best = best.min(start.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS));
    }
    println!("{name:<58} {best:>7.1} ns");
}

fn main() {
    let topic = |text: &'static str| TopicName::parse(text).unwrap();
    println!("decision with 20 rules (15 allow, 5 deny), the last allow rule speaks");

    let exact = rights(|i| format!("devices/${{device}}/state/{i}"));
    let hit = topic("devices/pump-0042/state/14");
    measure("exact topics: may_publish", || exact.may_publish(black_box(hit)).allowed);

    let below = rights(|i| format!("devices/${{device}}/events/{i}/#"));
    let hit = topic("devices/pump-0042/events/14/temperature");
    measure("prefixes: may_publish", || below.may_publish(black_box(hit)).allowed);
    measure("prefixes: may_receive", || below.may_receive(black_box(hit)).allowed);
    let asked = TopicFilter::parse("devices/pump-0042/events/14/+").unwrap();
    measure("prefixes: may_subscribe", || below.may_subscribe(black_box(&asked)).allowed);
    let narrowed = below.narrowed(&Grant::parse_json(r#"[["devices/pump-0042/events/#",["pub"]]]"#).unwrap());
    measure("prefixes, narrowed by a grant: may_publish", || narrowed.may_publish(black_box(hit)).allowed);

    let mixed = device_rights();
    let hit = topic("devices/pump-0042/events");
    measure("19 rules of others, then its own: may_publish", || mixed.may_publish(black_box(hit)).allowed);
    measure("19 rules of others, then its own: may_receive", || mixed.may_receive(black_box(hit)).allowed);

    let levels = rights(|i| format!("devices/+/events/{i}/+/#"));
    let hit = topic("devices/pump-0042/events/14/temperature");
    measure("`+` in the middle: may_publish", || levels.may_publish(black_box(hit)).allowed);

    // Ceilings: asked anew, and as the broker remembers them for a topic that a publisher uses again.
    let bounded: String = (0..20)
        .map(|n| format!("[[allow]]\npublish = [\"devices/${{device}}/events/{n}/#\"]\nqos_max = 1\npayload_bytes_max = 512\nretain = false\n"))
        .collect();
    let bounded = compiled(&bounded);
    let hit = topic("devices/pump-0042/events/19/temperature");
    let message = PublishFacts { qos: 1, payload_bytes: 64, ..PublishFacts::default() };
    measure("20 rules with ceilings: may_publish_with", || {
        bounded.may_publish_with(black_box(hit), black_box(&message)).allowed
    });
    let limits = bounded.publish_limits(hit);
    measure("20 rules with ceilings, cached: Limits::admits", || {
        black_box(&limits).admits(black_box(&message))
    });

    let miss = topic("plant/hall/7/temperature");
    measure("prefixes, no rule speaks: may_publish", || below.may_publish(black_box(miss)).allowed);
}
