//! Rights of other brokers, taken over: what comes out, what is left out, and what is refused.

use std::collections::BTreeMap;

use drawbridge_names::{PolicyName, PrincipalName, RegistryName, TopicFilter, TopicName};
use drawbridge_policy::{ImportedPolicy, Policy, PolicyError, PublishFacts, Rights, Variables};

fn rights(toml: &str) -> Rights {
    let policy = Policy::parse(&PolicyName::parse("p").expect("a name"), toml).expect(toml);
    let attributes: BTreeMap<String, String> = [("site".to_owned(), "hall".to_owned())].into();
    let (device, registry) =
        (PrincipalName::parse("lamp").expect("a name"), RegistryName::default_registry());
    policy
        .compile(&Variables { device: &device, registry: &registry, attributes: &attributes })
        .expect("compiles")
}

fn may(rights: &Rights, action: &str, text: &str) -> bool {
    let topic = || TopicName::parse(text).expect(text);
    match action {
        "pub" => rights.may_publish(topic()).allowed,
        "retain" => {
            let facts = PublishFacts { retain: true, ..PublishFacts::default() };
            rights.may_publish_with(topic(), &facts).allowed
        }
        "recv" => rights.may_receive(topic()).allowed,
        _ => rights.may_subscribe(&TopicFilter::parse(text).expect(text)).allowed,
    }
}

fn aws(statements: &str) -> Result<ImportedPolicy, PolicyError> {
    let connect = r#"{"Effect":"Allow","Action":"iot:Connect","Resource":"arn:aws:iot:eu-west-1:1:client/${iot:Connection.Thing.ThingName}"}"#;
    ImportedPolicy::of_aws(&format!(r#"{{"Version":"2012-10-17","Statement":[{connect},{statements}]}}"#))
}

fn arn(what: &str) -> String {
    format!("arn:aws:iot:eu-west-1:123456789012:{what}")
}

fn statement(effect: &str, action: &str, resource: &str) -> String {
    format!(r#"{{"Effect":"{effect}","Action":"{action}","Resource":"{}"}}"#, arn(resource))
}

#[test]
fn an_aws_policy_allows_here_what_it_allows_there() {
    let statements = [
        statement("Allow", "iot:Publish", "topic/devices/${iot:Connection.Thing.ThingName}/*"),
        statement("Allow", "iot:RetainPublish", "topic/devices/${iot:ClientId}/state/*"),
        statement("Allow", "iot:Subscribe", "topicfilter/sites/${iot:Connection.Thing.Attributes[site]}/*"),
        statement("Allow", "iot:Receive", "topic/sites/${iot:Connection.Thing.Attributes[site]}/*"),
        statement("Allow", "iot:Subscribe", "topicfilter/all/+/news"),
        statement("Allow", "iot:Receive", "topic/all/*"),
        statement("Deny", "iot:Publish", "topic/devices/${iot:ClientId}/secret/*"),
        statement("Deny", "iot:Receive", "topic/all/x/*"),
    ];
    let imported = aws(&statements.join(",")).expect("all of it can be said");
    assert_eq!(imported.dropped, Vec::<String>::new(), "{}", imported.toml);
    let rights = rights(&imported.toml);
    for (action, text, allowed) in [
        ("pub", "devices/lamp/a", true),
        ("pub", "devices/lamp/a/b", true),
        ("pub", "devices/lamp/", true),
        ("pub", "devices/lamp", false), // `topic/devices/lamp/*` is below it
        ("pub", "devices/other/a", false),
        ("pub", "devices/lamp/secret/x", false),
        ("pub", "devices/lamp/secret", true),
        ("retain", "devices/lamp/a", false),
        ("retain", "devices/lamp/state/a", true),
        ("retain", "devices/lamp/state", false),
        ("sub", "sites/hall/#", true),
        ("sub", "sites/hall/+/a", true),
        ("sub", "sites/#", false),
        ("recv", "sites/hall/a", true),
        ("recv", "sites/hall", false), // nothing allows to receive it
        ("sub", "all/+/news", true),
        ("sub", "all/#", false),
        ("recv", "all/y/news", true),
        ("recv", "all/x/news", false),
    ] {
        assert_eq!(may(&rights, action, text), allowed, "{action} {text}\n{}", imported.toml);
    }
}

#[test]
fn what_cannot_be_said_of_an_allow_is_left_out_and_of_a_deny_refuses_all() {
    for (action, resource, why) in [
        ("iot:Publish", "topic/a*", "behind the last `/`"),
        ("iot:Publish", "topic/a/*/b", "`a/+/b`"),
        ("iot:Publish", "topic/a?", "`?`"),
        ("iot:Publish", "topic/${iot:Connection.Thing.ThingTypeName}/x", "attribute"),
        ("iot:Publish", "topic/a/+/b", "stand for themselves"),
        ("iot:Pub*", "topic/a", "one by one"),
    ] {
        let allowed = aws(&statement("Allow", action, resource)).expect(resource);
        assert_eq!(allowed.dropped.len(), 1, "{resource}: {:?}", allowed.dropped);
        assert!(allowed.dropped[0].contains(why), "{resource}: {}", allowed.dropped[0]);
        assert!(allowed.toml.contains("left out"), "{}", allowed.toml);
        for text in ["a", "ab", "a/x/b", "a/b"] {
            assert!(!may(&rights(&allowed.toml), "pub", text), "{resource} {text}");
        }
        let denied = aws(&statement("Deny", action, resource)).expect_err(resource);
        assert_eq!((denied.code(), denied.word()), ("DB-3021", "policy-import"));
        assert!(denied.to_string().contains(why), "{resource}: {denied}");
    }
    // There is nothing of the kind here, so nothing is denied.
    let shadow = aws(&statement("Deny", "iot:UpdateThingShadow", "thing/x")).expect("nothing to deny");
    assert_eq!(shadow.dropped.len(), 1);
    let reserved =
        aws(&statement("Allow", "iot:Publish", "topic/$aws/things/x/shadow/update")).expect("left out");
    assert!(reserved.dropped[0].contains('$'), "{:?}", reserved.dropped);

    let condition = r#"{"Effect":"Allow","Action":"iot:Publish","Resource":"*","Condition":{"Bool":{"iot:Connection.Thing.IsAttached":["true"]}}}"#;
    assert!(may(&rights(&aws(condition).expect("it always holds").toml), "pub", "a/b"));
    let condition = condition.replace("IsAttached\":[\"true\"]", "IsAttached\":[\"false\"]");
    assert!(!may(&rights(&aws(&condition).expect("left out").toml), "pub", "a/b"));
    assert!(aws(&condition.replace("Allow", "Deny")).is_err());

    for bad in ["", "{}", "[]", "{\"Statement\":[1]}", "{\"Statement\":[{\"Effect\":\"Maybe\"}]}"] {
        assert!(matches!(ImportedPolicy::of_aws(bad), Err(PolicyError::Import { .. })), "{bad}");
    }
    let no_connect = format!(r#"{{"Statement":{}}}"#, statement("Allow", "iot:Publish", "topic/a"));
    let refused = ImportedPolicy::of_aws(&no_connect).expect_err("nobody comes in").to_string();
    assert!(refused.contains("iot:Connect"), "{refused}");
}

#[test]
fn a_subscription_of_aws_hands_out_what_may_be_received_and_no_more() {
    let both = |subscribe: &str, receive: &str| {
        let statements =
            [statement("Allow", "iot:Subscribe", subscribe), statement("Allow", "iot:Receive", receive)];
        aws(&statements.join(",")).expect(subscribe)
    };
    // Wider than what may be received: only that part may be subscribed to, and it is said.
    let imported = both("topicfilter/*", "topic/a/*");
    let wide = rights(&imported.toml);
    assert!(
        !may(&wide, "sub", "#") && may(&wide, "sub", "a/+/#") && !may(&wide, "recv", "b"),
        "{}",
        imported.toml
    );
    assert_eq!(imported.notes.len(), 1);
    // Neither lies within the other.
    let imported = both("topicfilter/a/+/c", "topic/a/b/*");
    assert_eq!(imported.dropped.len(), 1, "{}", imported.toml);
    assert!(!may(&rights(&imported.toml), "sub", "a/b/c"));
    // Nothing may be received.
    let imported = aws(&statement("Allow", "iot:Subscribe", "topicfilter/a")).expect("left out");
    assert!(imported.dropped[0].contains("iot:Receive"), "{:?}", imported.dropped);
    // The topic above may be received after all, by another statement.
    let statements = [
        statement("Allow", "iot:Subscribe", "topicfilter/a/*"),
        statement("Allow", "iot:Receive", "topic/a/*"),
        statement("Allow", "iot:Receive", "topic/a"),
    ];
    let imported = aws(&statements.join(",")).expect("said");
    assert!(may(&rights(&imported.toml), "recv", "a") && may(&rights(&imported.toml), "recv", "a/b"));
}

#[test]
fn client_ids_of_iot_connect_become_a_condition_of_the_document() {
    let policy = |resource: &str| {
        let connect = statement("Allow", "iot:Connect", resource);
        let publish = statement("Allow", "iot:Publish", "topic/a");
        ImportedPolicy::of_aws(&format!(r#"{{"Statement":[{connect},{publish}]}}"#))
    };
    let bound = policy("client/pump-*").expect("said");
    assert!(bound.toml.contains("client_id = [\"pump-*\"]"), "{}", bound.toml);
    assert!(!may(&rights(&bound.toml), "pub", "a"), "of an unknown connection nothing");
    for free in ["client/*", "client/${iot:ClientId}"] {
        assert!(may(&rights(&policy(free).expect("said").toml), "pub", "a"), "{free}");
    }
    assert!(policy("client/${iot:ClientId}-x").is_err());
}

const ACL: &str = "\
# everybody without a name
topic read public/#

user alice
topic write a/b c
topic readwrite a/#
topic deny a/secret/#
topic read $SYS/#
topic $SYS/own

pattern write devices/%u/#
pattern read devices/%c/in

user bob
topic deny devices/bob/x
";

#[test]
fn an_acl_file_of_mosquitto_becomes_a_policy_for_each_user_and_one_for_all_others() {
    let imported = ImportedPolicy::of_mosquitto(ACL).expect("well-formed");
    let users: Vec<Option<&str>> = imported.iter().map(|policy| policy.user.as_deref()).collect();
    assert_eq!(users, [Some("alice"), Some("bob"), None]);
    let [alice, bob, others] = [0, 1, 2].map(|at| rights(&imported[at].toml));
    for (whose, action, text, allowed) in [
        (&alice, "pub", "a/x", true),
        (&alice, "pub", "a/b c", true),
        (&alice, "sub", "a/+", true),
        (&alice, "pub", "a/secret/x", false),
        (&alice, "recv", "a/secret", false),
        (&alice, "sub", "$SYS/broker", true),
        (&alice, "pub", "$SYS/own", false),
        (&alice, "pub", "devices/lamp/t", true),
        (&alice, "sub", "devices/lamp/in", true),
        (&alice, "sub", "public/#", false),
        (&bob, "pub", "a/x", false),
        (&bob, "pub", "devices/lamp/t", true),
        (&bob, "pub", "devices/bob/x", false),
        (&others, "pub", "devices/lamp/t", true),
        (&others, "pub", "devices/other/t", false),
        (&others, "sub", "public/#", false),
    ] {
        assert_eq!(may(whose, action, text), allowed, "{action} {text}");
    }
    assert!(imported[0].dropped.iter().any(|left| left.starts_with("line 2:")), "{:?}", imported[0].dropped);
    assert!(imported[0].dropped.iter().any(|left| left.contains("$SYS/own")), "{:?}", imported[0].dropped);
    assert!(imported[2].notes.iter().any(|note| note.contains("%c")), "{:?}", imported[2].notes);
}

#[test]
fn a_line_of_an_acl_file_that_cannot_be_said_is_left_out_or_refuses_all() {
    let left_out = ImportedPolicy::of_mosquitto("user a\ntopic write x/${attr.y}\ntopic read a/#/b\n");
    let left_out = left_out.expect("allows only");
    assert_eq!(left_out[0].dropped.len(), 2, "{:?}", left_out[0].dropped);
    for bad in [
        "topic deny ${x}",
        "pattern deny a/#/b",
        "topic",
        "user",
        "allow x",
        "topic reed x",
        "user a\n topic x",
    ] {
        let acl = format!("user a\n{bad}\n");
        let refused = ImportedPolicy::of_mosquitto(&acl);
        assert!(matches!(refused, Err(PolicyError::Import { .. })), "{bad}: {refused:?}");
    }
    let empty = ImportedPolicy::of_mosquitto("# nothing\n").expect("one for everybody");
    assert!(!may(&rights(&empty[0].toml), "pub", "a"));
}
