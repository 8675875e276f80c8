//! What rules ask beyond the topic: of the message, of the connection, of certificates and tokens. And the
//! tests that stand in a document.

use std::collections::BTreeMap;

use drawbridge_names::{PolicyName, PrincipalName, RegistryName, TopicFilter, TopicName};
use drawbridge_policy::{
    Connection, ConnectionFacts, Grant, IssuerClaims, Limits, Method, Policy, PolicyError, Protocol,
    PublishFacts, Rates, Rights, SubjectField, Tls, Variables, VerifiedCertificate,
};

fn policy(toml: &str) -> Policy {
    Policy::parse(&PolicyName::parse("p").expect("a name"), toml).expect(toml)
}

fn attributes() -> BTreeMap<String, String> {
    [("site".to_owned(), "hall".to_owned())].into()
}

fn with_variables<T>(then: impl FnOnce(&Variables<'_>) -> T) -> T {
    then(&Variables {
        device: &PrincipalName::parse("lamp").expect("a name"),
        registry: &RegistryName::default_registry(),
        attributes: &attributes(),
    })
}

fn over(toml: &str, connection: &Connection<'_>) -> Result<Rights, PolicyError> {
    with_variables(|variables| policy(toml).compile_for(variables, connection))
}

fn rights(toml: &str) -> Rights {
    over(toml, &Connection::default()).expect(toml)
}

fn topic(text: &str) -> TopicName<'_> {
    TopicName::parse(text).expect(text)
}

fn filter(text: &str) -> TopicFilter {
    TopicFilter::parse(text).expect(text)
}

const PLAIN: PublishFacts = PublishFacts { qos: 0, retain: false, will: false, payload_bytes: 0 };

#[test]
fn a_ceiling_bounds_what_its_own_rule_gives_and_no_more() {
    let rights = rights(
        r##"
[[allow]]
publish = ["a/#"]
qos_max = 0
[[allow]]
publish = ["a/b"]
qos_max = 2
retain = false
payload_bytes_max = 100
[[allow]]
publish = ["a/c", "#"]
will = true
[[deny]]
publish = ["a/#"]
retain = true
will = true
"##,
    );
    let qos = |qos| PublishFacts { qos, ..PLAIN };
    let table = [
        ("a/x", PLAIN, Ok("allow[0].publish[0]")),
        ("a/x", qos(1), Err("DB-3015")),
        ("a/x", PublishFacts { retain: true, payload_bytes: 9_999_999, ..PLAIN }, Ok("allow[0].publish[0]")),
        ("a/b", PublishFacts { payload_bytes: 100, ..qos(2) }, Ok("allow[1].publish[0]")),
        ("a/b", PublishFacts { payload_bytes: 101, ..qos(0) }, Ok("allow[0].publish[0]")),
        ("a/b", PublishFacts { payload_bytes: 101, ..qos(1) }, Err("DB-3015")),
        ("a/b", PublishFacts { retain: true, ..qos(1) }, Err("DB-3015")),
        ("a/b", PublishFacts { will: true, ..qos(2) }, Ok("allow[1].publish[0]")),
        ("a/c", PublishFacts { will: true, ..qos(2) }, Ok("allow[2].publish[0]")),
        ("a/c", PublishFacts { will: true, retain: true, ..PLAIN }, Err("DB-3010")),
        ("b", PublishFacts { will: true, retain: true, ..qos(2) }, Ok("allow[2].publish[1]")),
        ("b", PLAIN, Err("DB-3017")),
        ("$x", PLAIN, Err("DB-3010")),
        ("$SYS/x", PLAIN, Err("DB-3013")),
    ];
    assert!(rights.has_ceilings());
    for (text, facts, expected) in table {
        let decision = rights.may_publish_with(topic(text), &facts);
        match expected {
            Ok(by) => {
                assert!(decision.allowed && decision.to_string().contains(by), "{text} {facts:?}: {decision}")
            }
            Err(code) => assert_eq!(decision.code(), Some(code), "{text} {facts:?}: {decision}"),
        }
        assert_eq!(rights.publish_limits(topic(text)).admits(&facts), decision.allowed, "{text} {facts:?}");
    }
    assert!(rights.may_publish(topic("b")).allowed, "some message may be published there");
    assert_eq!(rights.publish_limits(topic("$x")), Limits::NOTHING);
    let refused = rights.may_publish_with(topic("a/x"), &qos(1)).to_string();
    assert_eq!(refused, "policy `p` allows it by allow[0].publish[0] `a/#` with QoS 0 at most");
}

#[test]
fn section_limits_bounds_every_message_whichever_rule_allows_it() {
    let toml = "[limits]\nqos_max = 1\nretain = false\nwill = true\npayload_bytes_max = 10\nmessages_per_s = 5\nbytes_per_s = 0x10\n\
                [[allow]]\npublish = ['#']\nsubscribe = ['#']\n";
    let rights = rights(toml);
    assert_eq!(rights.rates(), Rates { messages_per_s: Some(5), bytes_per_s: Some(16) });
    let table = [
        (PublishFacts { qos: 1, payload_bytes: 10, ..PLAIN }, None),
        (PublishFacts { will: true, ..PLAIN }, None),
        (PublishFacts { qos: 2, ..PLAIN }, Some("DB-3015")),
        (PublishFacts { retain: true, ..PLAIN }, Some("DB-3016")),
        (PublishFacts { payload_bytes: 11, ..PLAIN }, Some("DB-3018")),
    ];
    for (facts, code) in table {
        let decision = rights.may_publish_with(topic("a"), &facts);
        assert_eq!(decision.code(), code, "{facts:?}: {decision}");
        assert_eq!(rights.publish_limits(topic("a")).admits(&facts), code.is_none(), "{facts:?}");
    }
    let (decision, granted) = rights.may_subscribe_with(&filter("a/#"), 2);
    assert!(decision.allowed);
    assert_eq!(granted, 1);
    // Together with the rules they can leave nothing.
    let nothing =
        over("[limits]\nretain = false\n[[allow]]\npublish = ['a']\nretain = true\n", &Connection::default());
    let nothing = nothing.expect("compiles");
    assert!(!nothing.may_publish(topic("a")).allowed && nothing.publish_limits(topic("a")).is_nothing());
    let nothing = "[[allow]]\npublish=['a']\n[[deny]]\npublish=['a']\nretain=true\n[[deny]]\npublish=['#']\nretain=false\n";
    let nothing = over(nothing, &Connection::default()).expect("compiles");
    assert_eq!(nothing.may_publish(topic("a")).code(), Some("DB-3010"));
    // Rates alone cost a message nothing.
    let fast = over("[limits]\nmessages_per_s = 5\n[[allow]]\npublish = ['#']\n", &Connection::default());
    assert!(!fast.expect("compiles").has_ceilings());
}

#[test]
fn a_subscription_gets_the_highest_qos_that_a_rule_covering_it_gives() {
    let rights = rights(
        "[[allow]]\nsubscribe = ['a/#']\nqos_max = 0\n[[allow]]\nsubscribe = ['a/b/#']\nqos_max = 1\n\
         [[allow]]\nsubscribe = ['a/b/c']\n[[deny]]\nsubscribe = ['a/secret']\nreceive = ['a/+/hidden']\n",
    );
    for (text, asked, granted) in [
        ("a/#", 2, Some(0)),
        ("a/x", 0, Some(0)),
        ("a/b/+", 2, Some(1)),
        ("a/b/c", 2, Some(2)),
        ("a/b/c", 1, Some(1)),
        ("$share/g/a/b/+", 2, Some(1)),
        ("a/secret", 2, None),
        ("b", 2, None),
    ] {
        let (decision, found) = rights.may_subscribe_with(&filter(text), asked);
        assert_eq!(decision.allowed.then_some(found), granted, "{text}: {decision}");
        assert_eq!(rights.may_subscribe(&filter(text)).allowed, granted.is_some(), "{text}");
    }
    // What is denied as `receive` may be subscribed to and is withheld.
    assert!(rights.may_subscribe(&filter("a/x/hidden")).allowed);
    let withheld = rights.may_receive(topic("a/x/hidden"));
    assert_eq!((withheld.allowed, withheld.code()), (false, Some("DB-3012")));
    assert!(withheld.to_string().contains("deny[0].receive[0]"), "{withheld}");
    assert!(rights.may_receive(topic("a/x")).allowed && !rights.may_receive(topic("a/secret")).allowed);
}

fn connected(protocol: Protocol, tls: Tls, method: Method) -> Connection<'static> {
    let facts = ConnectionFacts {
        protocol: Some(protocol),
        websocket: Some(false),
        port: Some(8883),
        address: Some([10, 0, 0, 1].into()),
        tls: Some(tls),
        method: Some(method),
        client_id: Some("lamp"),
    };
    Connection { facts, ..Connection::default() }
}

const CONDITIONAL: &str = r#"
[[allow]]
publish = ["a", "${device}/a"]
when = { protocol = ["mqtt5"] }
[[allow]]
publish = ["b", "${device}/b"]
[[deny]]
publish = ["b", "${device}/b"]
when = { tls = ["none", "1.2"] }
"#;

#[test]
fn a_rule_with_a_condition_speaks_over_the_connections_that_meet_it() {
    let five = over(CONDITIONAL, &connected(Protocol::Mqtt5, Tls::V13, Method::Jwt)).expect("compiles");
    let three = over(CONDITIONAL, &connected(Protocol::Mqtt3, Tls::V12, Method::Jwt)).expect("compiles");
    let unknown = rights(CONDITIONAL);
    let anywhere =
        with_variables(|variables| policy(CONDITIONAL).compile_anywhere(variables)).expect("compiles");
    for (text, expected) in [
        ("a", [true, false, false, true]),
        ("lamp/a", [true, false, false, true]),
        ("b", [true, false, false, true]),
        ("lamp/b", [true, false, false, true]),
        ("c", [false; 4]),
    ] {
        let found =
            [&five, &three, &unknown, &anywhere].map(|rights| rights.may_publish(topic(text)).allowed);
        assert_eq!(found, expected, "{text}: over 5, over 3.1.1, unknown, anywhere");
    }
    assert!(policy(CONDITIONAL).asks_for_connection());
    assert!(!policy("[[allow]]\npublish = ['${attr.x}']").asks_for_connection());
    let decision = five.may_publish(topic("lamp/a")).to_string();
    assert_eq!(
        decision,
        "policy `p` allows it by allow[0].publish[1] `${device}/a`, here `lamp/a` where protocol is mqtt5"
    );
}

#[test]
fn a_new_policy_is_judged_over_the_connection_that_a_session_has() {
    let old = over(CONDITIONAL, &connected(Protocol::Mqtt3, Tls::V13, Method::Jwt)).expect("compiles");
    let of_token = old.narrowed(&Grant::parse_json(r#"[["a",["pub"]],["c",["pub"]]]"#).expect("a grant"));
    let new = "[[allow]]\npublish = ['a', '${device}/a']\nwhen = { protocol = ['mqtt3'] }\n\
               [[allow]]\npublish = ['c']\nwhen = { protocol = ['mqtt5'] }\n";
    let anywhere = with_variables(|variables| policy(new).compile_anywhere(variables)).expect("compiles");
    let may = |rights: &Rights, text| rights.may_publish(topic(text)).allowed;
    let [here, of_token] = [anywhere.succeeding(&old), anywhere.succeeding(&of_token)];
    assert_eq!(["a", "lamp/a", "c"].map(|text| may(&anywhere, text)), [true; 3]);
    assert_eq!(["a", "lamp/a", "c"].map(|text| may(&here, text)), [true, true, false]);
    assert_eq!(["a", "lamp/a", "c"].map(|text| may(&of_token, text)), [true, false, false]);
    // An earlier policy that asked nothing of its connections has not kept what they were.
    let unasked = over("[[allow]]\npublish = ['#']\n", &connected(Protocol::Mqtt3, Tls::V13, Method::Jwt));
    let unknown = anywhere.succeeding(&unasked.expect("compiles"));
    assert_eq!(["a", "lamp/a", "c"].map(|text| may(&unknown, text)), [false; 3]);
    // What a session leaves behind is judged over any connection, whatever its token said.
    assert_eq!(["a", "lamp/a", "b"].map(|text| may(&of_token.without_grants(), text)), [true, true, false]);
}

#[test]
fn a_condition_of_the_document_opens_or_shuts_all_of_it() {
    let toml = "[when]\nmethod = ['certificate']\n[[allow]]\npublish = ['#']\nsubscribe = ['#']\n";
    let open = over(toml, &connected(Protocol::Mqtt5, Tls::V13, Method::Certificate)).expect("compiles");
    assert!(open.unmet().is_none() && open.may_publish(topic("a")).allowed);
    let shut = over(toml, &connected(Protocol::Mqtt5, Tls::V13, Method::Password)).expect("compiles");
    assert_eq!(shut.unmet().expect("shut").to_string(), "method is certificate");
    for rights in [shut, rights(toml)] {
        for decision in [
            rights.may_publish(topic("a")),
            rights.may_receive(topic("a")),
            rights.may_subscribe(&filter("a")),
            rights.may_publish_with(topic("a"), &PLAIN),
        ] {
            assert_eq!(decision.code(), Some("DB-3019"), "{decision}");
            assert!(decision.to_string().contains("method is certificate"), "{decision}");
        }
        assert!(rights.publish_limits(topic("a")).is_nothing());
        let grant = Grant::parse_json(r##"[["#",["pub"]]]"##).expect("a grant");
        assert!(rights.allows_grant(&grant).is_err());
    }
}

#[test]
fn a_certificate_and_a_token_fill_variables_only_where_they_are_verified() {
    let toml = "[[allow]]\npublish = ['${cert.ou}/#', '${token.tenant}/x', '${attr.site}/y', 'free']\n";
    let certificate =
        VerifiedCertificate::of_verified_chain([(SubjectField::OrganizationalUnit, "plant".to_owned())]);
    let claims = IssuerClaims::of_access_token([("tenant".to_owned(), "acme".to_owned())]);
    let may = |connection: &Connection<'_>, text: &str| {
        over(toml, connection).expect("an allow without a value is left out").may_publish(topic(text)).allowed
    };
    let with_certificate = Connection { certificate: Some(&certificate), ..Connection::default() };
    let with_token = Connection { token: Some(&claims), ..Connection::default() };
    for (connection, expected) in [
        (Connection::default(), [false, false, true, true]),
        (with_certificate, [true, false, true, true]),
        (with_token, [false, true, true, true]),
    ] {
        let found = ["plant/1", "acme/x", "hall/y", "free"].map(|text| may(&connection, text));
        assert_eq!(found, expected, "{connection:?}");
    }
    let left_out = with_variables(|variables| policy(toml).left_out(variables, &with_token));
    assert_eq!(left_out.len(), 1);
    assert!(left_out[0].to_string().contains("`${cert.ou}` has no value"), "{}", left_out[0]);

    // Leaving out a deny would widen the policy, so all of it is refused.
    let deny = "[[allow]]\npublish = ['#']\n[[deny]]\npublish = ['${token.tenant}/#']\n";
    assert!(matches!(over(deny, &Connection::default()), Err(PolicyError::Variable { .. })));
    let denied = over(deny, &with_token).expect("compiles");
    assert!(!denied.may_publish(topic("acme/x")).allowed && denied.may_publish(topic("other/x")).allowed);

    // What a value brings along never becomes a wildcard or a level.
    for bad in ["+", "#", "a/b", "$SYS", ""] {
        let claims = IssuerClaims::of_access_token([("tenant".to_owned(), bad.to_owned())]);
        let connection = Connection { token: Some(&claims), ..Connection::default() };
        assert!(over(deny, &connection).is_err(), "{bad:?}");
        let allowed = over(toml, &connection).expect("left out");
        assert!(
            !allowed.may_publish(topic("a/b/x")).allowed && !allowed.may_publish(topic("acme/x")).allowed
        );
    }
}

#[test]
fn a_rule_that_asks_for_what_cannot_be_is_a_fault() {
    for (bad, place) in [
        ("[[allow]]\nreceive = ['a']", "allow[0].receive"),
        ("[[deny]]\npublish = ['a']\nqos_max = 1", "deny[0].qos_max"),
        ("[[deny]]\npublish = ['a']\npayload_bytes_max = 1", "deny[0].payload_bytes_max"),
        ("[[allow]]\nsubscribe = ['a']\nretain = true", "allow[0]"),
        ("[[deny]]\npublish = ['a']\nsubscribe = ['a']\nretain = true", "deny[0]"),
        ("[[allow]]\nqos_max = 1", "allow[0]"),
        ("[[allow]]\npublish = ['a']\nqos_max = 3", "allow[0].qos_max"),
        ("[[allow]]\npublish = ['a']\nretain = 1", "allow[0].retain"),
        ("[[allow]]\npublish = ['a']\nwhen = {}", "allow[0].when"),
        ("[[allow]]\npublish = ['a']\nwhen = { port = ['x'] }", "allow[0].when.port[0]"),
        ("[when]\n", "when"),
        ("[limits]\nspeed = 1", "limits"),
        ("[limits]\nmessages_per_s = 0", "limits.messages_per_s"),
        ("[limits]\npayload_bytes_max = 268435456", "limits.payload_bytes_max"),
        ("[[test]]\nprincipal = 'a'\npublish = 'b'", "test[0]"),
        ("[[test]]\nprincipal = 'a'\nexpect = 'allow'", "test[0]"),
        ("[[test]]\nprincipal = 'a/b'\npublish = 'b'\nexpect = 'allow'", "test[0].principal"),
        ("[[test]]\nprincipal = 'a'\npublish = 'b/#'\nexpect = 'allow'", "test[0].publish"),
        ("[[test]]\nprincipal = 'a'\npublish = 'b'\nexpect = 'maybe'", "test[0].expect"),
        ("[[test]]\nprincipal = 'a'\npublish = 'b'\nexpect = 'deny'\ncolour = 1", "test[0].colour"),
        ("[[test]]\nprincipal = 'a'\npublish = 'b'\nexpect = 'deny'\ngranted_qos = 1", "test[0]"),
        ("[[test]]\nprincipal = 'a'\nsubscribe = 'b'\nexpect = 'deny'\nretain = true", "test[0]"),
        ("[test]\nprincipal = 'a'", "test"),
    ] {
        match Policy::parse(&PolicyName::parse("p").expect("a name"), bad) {
            Err(PolicyError::Document { faults, .. }) => {
                assert_eq!(faults.len(), 1, "{bad}: {faults:#?}");
                assert_eq!(faults[0].place, place, "{bad}: {}", faults[0]);
                assert!(faults[0].line > 0 && !faults[0].text.is_empty(), "{bad}: {}", faults[0]);
            }
            other => panic!("{bad}: {other:?}"),
        }
    }
    let many: String =
        (1..=33).map(|n| format!("[[allow]]\npublish = ['a']\nwhen = {{ port = [{n}] }}\n")).collect();
    assert!(Policy::parse(&PolicyName::parse("p").expect("a name"), &many).is_err());
}

#[test]
fn the_tests_of_a_document_pass_or_are_told_with_what_was_found_and_wanted() {
    let rules = r#"
[[allow]]
publish = ["devices/${device}/#"]
qos_max = 1
[[allow]]
subscribe = ["sites/${attr.site}/#"]
qos_max = 1
[[allow]]
publish = ["${cert.ou}/a", "${token.tenant}/a"]
when = { tls = ["1.3"], client_id = ["pump-*"] }
"#;
    let good = format!(
        r#"{rules}
[[test]]
name = "its own"
principal = "pump-7"
publish = "devices/pump-7/events"
qos = 1
expect = "allow"
by = "allow[0].publish[0]"
[[test]]
principal = "pump-7"
publish = "devices/pump-7/events"
qos = 2
expect = "deny"
by = "allow[0]"
[[test]]
principal = "pump-7"
publish = "devices/pump-8/events"
expect = "deny"
[[test]]
principal = "pump-7"
attributes = {{ site = "hall" }}
subscribe = "sites/hall/+"
qos = 2
expect = "allow"
granted_qos = 1
[[test]]
principal = "pump-7"
attributes = {{ site = "hall" }}
receive = "sites/yard/x"
expect = "deny"
[[test]]
principal = "pump-7"
certificate = {{ ou = "plant" }}
token = {{ tenant = "acme" }}
connection = {{ protocol = "mqtt5", websocket = true, port = 8883, address = "::1", tls = "1.3", method = "certificate", client_id = "pump-7:b" }}
publish = "acme/a"
retain = true
payload_bytes = 5
expect = "allow"
"#
    );
    let parsed = policy(&good);
    assert_eq!((parsed.tests(), parsed.run_tests()), (6, Ok(())));

    let bad = format!(
        "{rules}[[test]]\nname = 'a lamp'\nprincipal = 'lamp'\npublish = 'devices/pump-7/events'\nexpect = 'allow'\n\
         [[test]]\nprincipal = 'lamp'\npublish = 'devices/lamp/events'\nexpect = 'allow'\nby = 'allow[1]'\n\
         [[test]]\nprincipal = 'lamp'\npublish = 'devices/lamp/events'\nexpect = 'allow'\n"
    );
    let error = policy(&bad).run_tests().expect_err("two fail");
    assert_eq!((error.code(), error.word()), ("DB-3020", "policy-tests-failed"));
    let PolicyError::Tests { faults, .. } = &error else { panic!("{error:?}") };
    let shown: Vec<(usize, &str)> = faults.iter().map(|fault| (fault.line, fault.place.as_str())).collect();
    assert_eq!(shown, [(11, "test[0]"), (16, "test[1]")]);
    assert_eq!(
        faults[0].text,
        "\"a lamp\": found: `lamp` may not publish `devices/pump-7/events`: no rule of policy `p` allows this \
         publish; wanted: allow; mend the rules, or the test if it is wrong"
    );
    assert!(faults[1].text.contains("wanted: allow by allow[1];"), "{}", faults[1]);
}
