//! Who may publish and subscribe where, as a table of cases.

use std::collections::BTreeMap;

use drawbridge_names::{PolicyName, PrincipalName, RegistryName, TopicFilter, TopicName};
use drawbridge_policy::{Decision, Grant, Policy, PolicyError, Rights, Variables};

fn compile(toml: &str, attributes: &[(&str, &str)]) -> Result<Rights, PolicyError> {
    let attributes: BTreeMap<String, String> =
        attributes.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Policy::parse(&PolicyName::parse("p").expect("a name"), toml)?.compile(&Variables {
        device: &PrincipalName::parse("lamp").expect("a name"),
        registry: &RegistryName::default_registry(),
        attributes: &attributes,
    })
}

fn rights(toml: &str) -> Rights {
    compile(toml, &[("site", "hall")]).expect(toml)
}

fn grant(json: &str) -> Grant {
    Grant::parse_json(json).expect(json)
}

fn ask<'r>(rights: &'r Rights, action: &str, text: &str) -> Decision<'r> {
    match action {
        "pub" => rights.may_publish(TopicName::parse(text).expect(text)),
        "recv" => rights.may_receive(TopicName::parse(text).expect(text)),
        "sub" => rights.may_subscribe(&TopicFilter::parse(text).expect(text)),
        other => panic!("{other}"),
    }
}

/// (policy, action, topic or filter, allowed, who decided)
type Row<'a> = (&'a str, &'a str, &'a str, bool, &'a str);

const EVERYTHING: &str = "[[allow]]\npublish = ['#']\nsubscribe = ['#']";
const DEVICE: &str = r#"
[[allow]]
publish   = ["devices/${device}/events/#", "devices/${device}/state"]
subscribe = ["devices/${device}/commands/#", "devices/${device}/config"]
[[deny]]
publish   = ["devices/${device}/events/debug/#"]
"#;
const DENY_FIRST: &str = r#"
[[deny]]
publish   = ["plant/+/valve"]
subscribe = ["plant/secret/#", "$SYS/broker/#"]
[[allow]]
publish   = ["plant/#"]
subscribe = ["plant/#", "$SYS/#"]
"#;
const SITE: &str =
    "[[allow]]\npublish = ['${registry}/${attr.site}/+/x', '$own/#', '+/y']\nsubscribe = ['a/+', 'b']";

const TABLE: &[Row<'_>] = &[
    // The device template with a deny.
    (DEVICE, "pub", "devices/lamp/events", true, "allow[0].publish[0]"),
    (DEVICE, "pub", "devices/lamp/events/a/b", true, "allow[0].publish[0]"),
    (DEVICE, "pub", "devices/lamp/state", true, "allow[0].publish[1]"),
    (DEVICE, "pub", "devices/lamp/state/x", false, "no rule"),
    (DEVICE, "pub", "devices/lamp/eventsx", false, "no rule"),
    (DEVICE, "pub", "devices/lamp2/events/a", false, "no rule"),
    (DEVICE, "pub", "devices/LAMP/events/a", false, "no rule"),
    (DEVICE, "pub", "/devices/lamp/events/a", false, "no rule"),
    (DEVICE, "pub", "devices/lamp/commands/x", false, "no rule"),
    (DEVICE, "pub", "devices/lamp/events/debug", false, "deny[0].publish[0]"),
    (DEVICE, "pub", "devices/lamp/events/debug/x", false, "deny[0].publish[0]"),
    (DEVICE, "pub", "devices/lamp/events/debugging", true, "allow[0].publish[0]"),
    (DEVICE, "sub", "devices/lamp/commands/#", true, "allow[0].subscribe[0]"),
    (DEVICE, "sub", "devices/lamp/commands", true, "allow[0].subscribe[0]"),
    (DEVICE, "sub", "devices/lamp/commands/+", true, "allow[0].subscribe[0]"),
    (DEVICE, "sub", "devices/lamp/config", true, "allow[0].subscribe[1]"),
    (DEVICE, "sub", "devices/lamp/config/#", false, "no rule"),
    (DEVICE, "sub", "devices/+/config", false, "no rule"),
    (DEVICE, "sub", "devices/lamp/#", false, "no rule"),
    (DEVICE, "sub", "devices/lamp/events/#", false, "no rule"),
    (DEVICE, "sub", "#", false, "no rule"),
    (DEVICE, "sub", "+/+/+", false, "no rule"),
    (DEVICE, "recv", "devices/lamp/commands/on", true, "allow[0].subscribe[0]"),
    (DEVICE, "recv", "devices/other/commands/on", false, "no rule"),
    // Deny wins, wherever it stands; a wider subscription is granted and the rest withheld.
    (DENY_FIRST, "pub", "plant/hall/valve", false, "deny[0].publish[0]"),
    (DENY_FIRST, "pub", "plant/hall/valve/x", true, "allow[0].publish[0]"),
    (DENY_FIRST, "pub", "plant", true, "allow[0].publish[0]"),
    (DENY_FIRST, "sub", "plant/#", true, "allow[0].subscribe[0]"),
    (DENY_FIRST, "sub", "plant/+/a", true, "allow[0].subscribe[0]"),
    (DENY_FIRST, "sub", "plant/secret/#", false, "deny[0].subscribe[0]"),
    (DENY_FIRST, "sub", "plant/secret", false, "deny[0].subscribe[0]"),
    (DENY_FIRST, "sub", "plant/secret/+/a", false, "deny[0].subscribe[0]"),
    (DENY_FIRST, "recv", "plant/secret/a", false, "deny[0].subscribe[0]"),
    (DENY_FIRST, "recv", "plant/secret", false, "deny[0].subscribe[0]"),
    (DENY_FIRST, "recv", "plant/secrets", true, "allow[0].subscribe[0]"),
    // `$` must be named.
    (EVERYTHING, "pub", "a/b", true, "allow[0].publish[0]"),
    (EVERYTHING, "pub", "/", true, "allow[0].publish[0]"),
    (EVERYTHING, "pub", "$own/x", false, "no rule"),
    (EVERYTHING, "sub", "#", true, "allow[0].subscribe[0]"),
    (EVERYTHING, "sub", "+/+", true, "allow[0].subscribe[0]"),
    (EVERYTHING, "sub", "$SYS/#", false, "no rule"),
    (EVERYTHING, "recv", "$SYS/broker/load", false, "no rule"),
    (EVERYTHING, "recv", "a", true, "allow[0].subscribe[0]"),
    (DENY_FIRST, "sub", "$SYS/#", true, "allow[0].subscribe[1]"),
    (DENY_FIRST, "sub", "$SYS/broker/load", false, "deny[0].subscribe[1]"),
    (DENY_FIRST, "recv", "$SYS/broker/load", false, "deny[0].subscribe[1]"),
    (DENY_FIRST, "recv", "$SYS/clients", true, "allow[0].subscribe[1]"),
    (SITE, "pub", "$own/x", true, "allow[0].publish[1]"),
    (SITE, "pub", "$other/y", false, "no rule"),
    (SITE, "pub", "other/y", true, "allow[0].publish[2]"),
    // What belongs to the server.
    (EVERYTHING, "pub", "$SYS/x", false, "belong to the server"),
    (EVERYTHING, "pub", "$SYS", false, "belong to the server"),
    (EVERYTHING, "pub", "$share/g/a", false, "belong to the server"),
    (EVERYTHING, "pub", "$drawbridge/auth", false, "belong to the server"),
    // Variables.
    (SITE, "pub", "default/hall/7/x", true, "allow[0].publish[0]"),
    (SITE, "pub", "default/yard/7/x", false, "no rule"),
    (SITE, "pub", "default/hall//x", true, "allow[0].publish[0]"),
    (SITE, "pub", "default/hall/x", false, "no rule"),
    // One pattern must cover the whole.
    (SITE, "sub", "a/+", true, "allow[0].subscribe[0]"),
    (SITE, "sub", "a/#", false, "no rule"),
    (SITE, "sub", "+", false, "no rule"),
    // Shared subscriptions: the inner filter counts.
    (SITE, "sub", "$share/g/a/b", true, "allow[0].subscribe[0]"),
    (SITE, "sub", "$share/g/a/#", false, "no rule"),
    (EVERYTHING, "sub", "$share/g/#", true, "allow[0].subscribe[0]"),
    (EVERYTHING, "sub", "$share/g/$SYS/#", false, "no rule"),
    (EVERYTHING, "sub", "$share", false, "not a shared subscription"),
    (EVERYTHING, "sub", "$share/g", false, "not a shared subscription"),
    (EVERYTHING, "sub", "$share/g/", false, "not a shared subscription"),
    (EVERYTHING, "sub", "$share//a", false, "not a shared subscription"),
    (EVERYTHING, "sub", "$share/+/a", false, "not a shared subscription"),
    (EVERYTHING, "sub", "$share/#", false, "not a shared subscription"),
    (EVERYTHING, "sub", "$share/g/$share/h/a", false, "not a shared subscription"),
    (EVERYTHING, "sub", "$shared/g/a", false, "no rule"),
    (DENY_FIRST, "sub", "$share/g/plant/secret/#", false, "deny[0].subscribe[0]"),
];

#[test]
fn each_row_of_the_table_is_decided_by_the_rule_it_names() {
    for (toml, action, text, allowed, who) in TABLE {
        let rights = rights(toml);
        let decision = ask(&rights, action, text);
        assert_eq!(decision.allowed, *allowed, "{action} {text}: {decision}\n{toml}");
        assert!(decision.to_string().contains(who), "{action} {text}: {decision}, wanted {who}\n{toml}");
        assert_eq!(decision.code().is_none(), *allowed, "{action} {text}");
    }
}

#[test]
fn the_order_of_rules_does_not_matter() {
    let turned = r#"
[[allow]]
subscribe = ["$SYS/#", "plant/#"]
publish   = ["plant/#"]
[[deny]]
subscribe = ["$SYS/broker/#", "plant/secret/#"]
[[deny]]
publish   = ["plant/+/valve"]
"#;
    let (a, b) = (rights(DENY_FIRST), rights(turned));
    for (toml, action, text, ..) in TABLE.iter().filter(|row| row.0 == DENY_FIRST) {
        assert_eq!(ask(&a, action, text).allowed, ask(&b, action, text).allowed, "{action} {text}\n{toml}");
    }
}

#[test]
fn i3_an_empty_or_broken_policy_allows_nothing() {
    let broken = compile("[[allow]]\npublish = ['#', 'a/#/b']\nsubscribe = ['#']", &[]);
    assert!(matches!(broken, Err(PolicyError::Document { .. })), "{broken:?}");
    let no_value = compile("[[allow]]\npublish = ['#']\n[[deny]]\npublish = ['a/${attr.site}']", &[]);
    assert!(matches!(no_value, Err(PolicyError::Variable { .. })), "{no_value:?}");
    let bad_value =
        compile("[[allow]]\nsubscribe = ['#']\n[[deny]]\nsubscribe = ['a/${attr.site}']", &[("site", "#")]);
    assert!(matches!(bad_value, Err(PolicyError::Variable { .. })), "{bad_value:?}");

    let nothing = [
        Rights::none(),
        rights(""),
        rights("# only a comment"),
        rights("[[allow]]\npublish = []\nsubscribe = []"),
        rights("[[deny]]\npublish = ['x']"),
        rights(EVERYTHING).narrowed(&grant("[]")),
        broken.unwrap_or(Rights::none()),
        no_value.unwrap_or(Rights::none()),
        bad_value.unwrap_or(Rights::none()),
    ];
    for rights in &nothing {
        for text in ["a", "a/b", "/", "devices/lamp/state", "$SYS/x", "$own"] {
            for action in ["pub", "sub", "recv"] {
                let decision = ask(rights, action, text);
                assert!(!decision.allowed, "{action} {text}: {decision}");
                assert!(decision.code().is_some() && !decision.to_string().is_empty());
            }
        }
        assert!(!ask(rights, "sub", "#").allowed && !ask(rights, "sub", "$share/g/#").allowed);
        assert!(rights.allows_grant(&grant(r#"[["a",["pub"]]]"#)).is_err());
    }
}

#[test]
fn a_grant_narrows_and_never_widens() {
    let device = rights(DEVICE);
    let narrowed = device.narrowed(&grant(
        r#"[["devices/lamp/events/a/#",["pub"]],["devices/+/state",["sub"]],["devices/lamp/commands/+",["sub"]],["other/#",["pub","sub"]],["devices/lamp/events/debug/#",["pub"]]]"#,
    ));
    let table = [
        ("pub", "devices/lamp/events/a/b", true),
        ("pub", "devices/lamp/events/b", false), // policy yes, grant no
        ("pub", "devices/lamp/state", false),    // the grant has `sub` only
        ("pub", "other/x", false),               // grant yes, policy no
        ("pub", "devices/lamp/events/debug/a", false), // grant yes, denied
        ("sub", "devices/lamp/commands/+", true),
        ("sub", "devices/lamp/commands/x", true),
        ("sub", "devices/lamp/commands/#", false),
        ("sub", "devices/lamp/state", false),
        ("recv", "devices/lamp/commands/x", true),
        ("recv", "devices/lamp/commands/x/y", false),
        ("recv", "devices/lamp/config", false),
    ];
    for (action, text, expected) in table {
        let decision = ask(&narrowed, action, text);
        assert_eq!(decision.allowed, expected, "{action} {text}: {decision}");
        assert_eq!(decision.grant_pair().is_some(), expected, "{action} {text}");
    }
    // Twice: both must agree; and the rights it came from are as before.
    let twice = narrowed.narrowed(&grant(r#"[["devices/lamp/events/a/x",["pub"]]]"#));
    assert!(ask(&twice, "pub", "devices/lamp/events/a/x").allowed);
    assert!(!ask(&twice, "pub", "devices/lamp/events/a/b").allowed);
    assert!(
        !ask(&twice.narrowed(&grant(r##"[["#",["pub","sub"]]]"##)), "sub", "devices/lamp/config").allowed
    );
    assert!(ask(&device, "pub", "devices/lamp/state").allowed);
}

#[test]
fn a_subscription_needs_one_single_pair_that_covers_it() {
    let rights = rights(EVERYTHING).narrowed(&grant(r#"[["a",["sub"]],["a/+/#",["sub"]],["b/#",["pub"]]]"#));
    assert!(ask(&rights, "sub", "a").allowed);
    assert!(ask(&rights, "sub", "a/x/#").allowed);
    assert!(!ask(&rights, "sub", "a/#").allowed, "both halves together cover it, no single one does");
    assert!(!ask(&rights, "sub", "b/#").allowed);
}

#[test]
fn a_requested_pair_outside_the_policy_is_invalid_scope_and_named() {
    let device = rights(DEVICE);
    for good in [
        r#"[["devices/lamp/events/#",["pub"]],["devices/lamp/commands/#",["sub"]]]"#,
        r#"[["devices/lamp/events/+/x",["pub"]]]"#,
        "[]",
    ] {
        assert_eq!(device.allows_grant(&grant(good)), Ok(()), "{good}");
    }
    for (bad, named) in [
        (r#"[["devices/lamp/state",["pub"]],["devices/lamp/#",["pub"]]]"#, r#"["devices/lamp/#",["pub"]]"#),
        (r#"[["devices/lamp/state",["pub","sub"]]]"#, r#"["devices/lamp/state",["sub"]]"#),
        (r#"[["devices/lamp/events/debug/x",["pub"]]]"#, "deny[0].publish[0]"),
        (r##"[["#",["sub"]]]"##, r##"["#",["sub"]]"##),
        (r#"[["$SYS/x",["pub"]]]"#, "$SYS"),
    ] {
        let error = device.allows_grant(&grant(bad)).expect_err(bad);
        assert_eq!((error.code(), error.word()), ("DB-3004", "invalid-scope"));
        assert!(error.to_string().contains(named), "{error}");
    }
    // A token cannot be used to ask for more than it has itself.
    let narrowed = device.narrowed(&grant(r#"[["devices/lamp/events/a",["pub"]]]"#));
    assert!(narrowed.allows_grant(&grant(r#"[["devices/lamp/events/a",["pub"]]]"#)).is_ok());
    assert!(narrowed.allows_grant(&grant(r#"[["devices/lamp/state",["pub"]]]"#)).is_err());
}

#[test]
fn a_decision_tells_people_and_machines_which_rule_it_was() {
    let rights = rights(DEVICE);
    let topic = "devices/lamp/events/debug/x";
    let decision = ask(&rights, "pub", topic);
    let explanation = decision.explain(topic);
    assert_eq!(
        explanation.to_string(),
        "may not publish `devices/lamp/events/debug/x`: policy `p` denies it by deny[0].publish[0] \
         `devices/${device}/events/debug/#`, here `devices/lamp/events/debug/#`"
    );
    assert_eq!(
        serde_json::to_value(explanation).expect("JSON"),
        serde_json::json!({
            "allowed": false, "action": "publish", "topic": topic, "policy": "p",
            "rule": {
                "policy": "p", "effect": "deny", "index": 0, "action": "publish", "pattern_index": 0,
                "written": "devices/${device}/events/debug/#", "compiled": "devices/lamp/events/debug/#",
                "when": null
            },
            "grant_pair": null, "code": "DB-3010", "word": "publish-not-allowed",
            "reason": decision.to_string(),
        })
    );
    let narrowed = rights.narrowed(&grant(r#"[["devices/lamp/state",["pub"]]]"#));
    let allowed =
        serde_json::to_value(ask(&narrowed, "pub", "devices/lamp/state").explain("devices/lamp/state"));
    let allowed = allowed.expect("JSON");
    assert_eq!(allowed["allowed"], true);
    assert_eq!(allowed["code"], serde_json::Value::Null);
    assert_eq!(allowed["grant_pair"], serde_json::json!(["devices/lamp/state", ["pub"]]));
    assert_eq!(ask(&rights, "sub", "x").to_string(), "no rule of policy `p` allows this subscribe");
    assert_eq!(
        ask(&narrowed, "recv", "devices/lamp/config").to_string(),
        "the token's scope does not grant this receive"
    );
}

#[test]
fn the_default_device_policy_lets_a_device_speak_only_for_itself() {
    let rights = Policy::device_template()
        .compile(&Variables {
            device: &PrincipalName::parse("thermo").expect("a name"),
            registry: &RegistryName::default_registry(),
            attributes: &BTreeMap::new(),
        })
        .expect("the template has no attributes");
    assert!(ask(&rights, "pub", "devices/thermo/events/t").allowed);
    assert!(ask(&rights, "pub", "devices/thermo/state").allowed);
    assert!(ask(&rights, "sub", "devices/thermo/commands/#").allowed);
    assert!(ask(&rights, "sub", "devices/thermo/config").allowed);
    assert!(!ask(&rights, "pub", "devices/lamp/commands").allowed);
    assert!(!ask(&rights, "sub", "devices/lamp/state").allowed);
    assert_eq!(rights.policy().map(PolicyName::as_str), Some("device"));
}

#[test]
fn rights_are_the_same_only_as_their_own_clones() {
    let one = rights(DEVICE);
    let narrow = one.narrowed(&grant(r#"[["devices/lamp/state",["pub"]]]"#));
    assert!(one.same(&one.clone()) && narrow.same(&narrow.clone()) && one.same(&narrow.without_grants()));
    assert!(Rights::none().same(&Rights::none()));
    for other in [rights(DEVICE), narrow.clone(), Rights::none()] {
        assert!(!one.same(&other) && !other.same(&one));
    }
    assert!(!narrow.same(&one.narrowed(&grant(r#"[["devices/lamp/state",["pub"]]]"#))));
}

#[test]
fn shared_patterns_and_those_of_a_principal_decide_together_in_their_written_order() {
    // More branches at one topic than are followed at a time, few and many with a variable among them.
    for own in [1, 40] {
        let pattern = |n: usize| match (n < own, n % 21) {
            (true, n) => format!("{}+/{}${{device}}", "a/".repeat(n), "a/".repeat(20 - n)),
            (false, n) => format!("{}+/{}lamp", "a/".repeat(n), "a/".repeat(20 - n)),
        };
        let list = |range: std::ops::Range<usize>| format!("{:?}", range.map(pattern).collect::<Vec<_>>());
        let (allow, deny) = (list(0..40), list(12..14));
        let rights = rights(&format!("[[allow]]\npublish = {allow}\n[[deny]]\npublish = {deny}\n"));
        let everywhere = format!("{}lamp", "a/".repeat(21));
        let decision = ask(&rights, "pub", &everywhere);
        assert!(decision.to_string().contains("deny[0].publish[0]"), "{own}: {decision}");
        for n in [0, 5, 11, 20] {
            let topic = format!("{}b/{}lamp", "a/".repeat(n), "a/".repeat(20 - n));
            let decision = ask(&rights, "pub", &topic);
            assert!(decision.to_string().contains(&format!("allow[0].publish[{n}]")), "{own}: {decision}");
        }
    }
}
