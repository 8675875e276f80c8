//! Rights that speak of more than the topic: QoS, size, retained messages, wills, rates.

mod support;

use std::time::Duration;

use drawbridge_broker::Admitted;
use drawbridge_mqtt::codec::{PublishProperties, Qos, ReasonCode, Will};
use support::{Got, Net, V5, V311, app, compiled, connect, will};

const QOS0: Qos = Qos::AtMostOnce;
const QOS1: Qos = Qos::AtLeastOnce;
const QOS2: Qos = Qos::ExactlyOnce;

fn under(uid: u64, policy: &str) -> Admitted {
    Admitted { rights: compiled(policy, &format!("app-{uid}")), ..app(uid) }
}

fn answers(net: &mut Net, client: usize) -> Vec<ReasonCode> {
    let got = net.got(client).into_iter();
    got.filter_map(|got| match got {
        Got::PubAck { reason, .. } | Got::PubRec(_, reason) | Got::Disconnect { reason, .. } => Some(reason),
        _ => None,
    })
    .collect()
}

const BOUNDED: &str = "[limits]\npayload_bytes_max = 8\n\
                       [[allow]]\npublish = ['a/#']\nqos_max = 1\nretain = false\nwill = false\nsubscribe = ['a/#']\n";

#[test]
fn a_message_beyond_a_ceiling_is_refused_each_time_also_on_a_topic_that_is_known() {
    let mut net = Net::new(1);
    let reader = net.join(0, V5, app(1));
    net.subscribe(reader, "#", QOS0);
    let speaker = net.join(0, V5, under(2, BOUNDED));
    for round in 0..3 {
        for (payload, qos, retain, expected) in [
            (&b"12345678"[..], QOS1, false, ReasonCode::Success),
            (b"123456789", QOS1, false, ReasonCode::NotAuthorized),
            (b"1", QOS2, false, ReasonCode::NotAuthorized),
            (b"1", QOS1, true, ReasonCode::NotAuthorized),
            (b"1", QOS1, false, ReasonCode::Success),
        ] {
            net.publish_with(speaker, "a/b", payload, qos, retain, PublishProperties::default());
            assert_eq!(answers(&mut net, speaker), [expected], "round {round}: {payload:?} {qos:?} {retain}");
        }
    }
    assert_eq!(net.payloads(reader).len(), 6, "what was allowed and nothing else");
    assert_eq!(net.reported("DB-2038"), 9);
    // At QoS 0 there is no answer but the end.
    net.publish(speaker, "a/b", b"123456789", QOS0);
    assert_eq!(answers(&mut net, speaker), [ReasonCode::NotAuthorized]);
    let old = net.join(0, V311, under(3, BOUNDED));
    net.publish(old, "a/b", b"123456789", QOS1);
    assert!(net.clients[old].closed.is_some(), "3.1.1 has no other way to say it");
}

#[test]
fn a_will_beyond_a_ceiling_is_refused_with_its_connect() {
    for (policy, retain, allowed) in [
        (BOUNDED, false, false),
        ("[[allow]]\npublish = ['a/#']\nretain = false\n", false, true),
        ("[[allow]]\npublish = ['a/#']\nretain = false\n", true, false),
        ("[[allow]]\npublish = ['a/#']\n[[deny]]\npublish = ['#']\nwill = true\n", false, false),
    ] {
        let mut net = Net::new(1);
        let client = net.open(0, V5);
        let mut packet = connect(V5, "client-2");
        packet.will = Some(Will { retain, ..will("a/gone", b"x") });
        net.send(client, &packet.into());
        net.answer(client, Ok(under(2, policy)));
        let got = net.got(client);
        let Some(Got::ConnAck { reason, .. }) = got.first() else { panic!("{got:?}") };
        let expected = if allowed { ReasonCode::Success } else { ReasonCode::NotAuthorized };
        assert_eq!(*reason, expected, "{policy} {retain}");
    }
}

#[test]
fn a_subscription_gets_no_more_than_the_qos_that_its_rule_gives() {
    let mut net = Net::new(1);
    let speaker = net.join(0, V5, app(1));
    let reader = net.join(
        0,
        V5,
        under(
            2,
            "[[allow]]\nsubscribe = ['a/#']\nqos_max = 1\n[[allow]]\nsubscribe = ['b/#']\nqos_max = 0\n",
        ),
    );
    assert_eq!(net.subscribe(reader, "a/x", QOS2), [Got::SubAck(vec![ReasonCode::GrantedQos1])]);
    assert_eq!(net.subscribe(reader, "$share/g/b/x", QOS1), [Got::SubAck(vec![ReasonCode::GRANTED_QOS_0])]);
    assert_eq!(net.subscribe(reader, "c", QOS0), [Got::SubAck(vec![ReasonCode::NotAuthorized])]);
    net.publish(speaker, "a/x", b"1", QOS2);
    net.publish(speaker, "b/x", b"2", QOS1);
    let got: Vec<u8> = net.messages(reader).iter().map(|message| message.qos).collect();
    assert_eq!(got, [1, 0]);
}

#[test]
fn who_publishes_faster_than_its_policy_says_is_held_back_and_loses_nothing() {
    const POLICY: &str = "[limits]\nmessages_per_s = 10\n[[allow]]\npublish = ['#']\n";
    let mut net = Net::new(1);
    let reader = net.join(0, V5, app(1));
    net.subscribe(reader, "#", QOS0);
    let free = net.join(0, V5, app(3));
    let speaker = net.join(0, V5, under(2, POLICY));
    for n in 0..40 {
        net.publish(speaker, "a", n.to_string().as_bytes(), QOS0);
        net.publish(free, "b", b"", QOS0);
    }
    let of = |net: &mut Net, topic: &str| net.topics(reader).iter().filter(|found| *found == topic).count();
    // A second's worth at once, and one that shows that it is too many; nobody else is held back.
    let first = net.topics(reader);
    let heard = first.iter().filter(|topic| *topic == "a").count();
    assert!((10..=11).contains(&heard), "{heard}");
    assert_eq!(first.len() - heard, 40);
    let mut all = heard;
    for second in 1..=3 {
        net.pass(Duration::from_secs(1));
        let heard = of(&mut net, "a");
        assert!((9..=11).contains(&heard), "{heard} in second {second}");
        all += heard;
    }
    assert_eq!(all, 40);
    assert!(net.clients[speaker].closed.is_none());
}

#[test]
fn bytes_are_counted_too_and_one_message_of_more_than_a_minute_is_refused() {
    let mut net = Net::new(1);
    let reader = net.join(0, V5, app(1));
    net.subscribe(reader, "#", QOS0);
    let speaker = net.join(0, V5, under(2, "[limits]\nbytes_per_s = 100\n[[allow]]\npublish = ['#']\n"));
    for n in 0..4 {
        net.publish(speaker, "a", format!("{n}{}", "x".repeat(98)).as_bytes(), QOS0);
    }
    let mut heard = net.payloads(reader).len();
    assert_eq!(heard, 2);
    net.pass(Duration::from_secs(2));
    heard += net.payloads(reader).len();
    assert_eq!(heard, 4);
    net.pass(Duration::from_secs(60));
    net.publish(speaker, "a", "x".repeat(6_001).as_bytes(), QOS1);
    assert_eq!(answers(&mut net, speaker), [ReasonCode::QuotaExceeded]);
}

#[test]
fn ceilings_of_a_new_policy_hold_for_the_next_message_of_an_open_session() {
    let mut net = Net::new(1);
    let speaker = net.join(0, V5, under(2, "[[allow]]\npublish = ['a']\n"));
    net.publish(speaker, "a", b"123456789", QOS1);
    assert_eq!(answers(&mut net, speaker), [ReasonCode::Success]);
    let which = drawbridge_broker::Ended::Policy {
        registry: app(2).registry,
        uid: app(2).uid,
        rights: Some(compiled("[[allow]]\npublish = ['a']\npayload_bytes_max = 8\n", "app-2")),
    };
    net.run(0, |shard, now, fx| shard.end_sessions(now, &which, fx));
    net.publish(speaker, "a", b"123456789", QOS1);
    assert_eq!(answers(&mut net, speaker), [ReasonCode::NotAuthorized]);
    net.publish(speaker, "a", b"12345678", QOS1);
    assert_eq!(answers(&mut net, speaker), [ReasonCode::Success]);
}
