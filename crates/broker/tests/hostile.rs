//! Clients that behave badly, on purpose or not, and orders of events that are rare: nobody else
//! waits, nothing grows, nobody hears what is not for them.

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use drawbridge_broker::{Admitted, Ended, EndedWhy, Order, Publisher, Ticket, TicketEnd};
use drawbridge_mqtt::codec::{
    Connect, Packet, PublishProperties, Qos, ReasonCode, Subscribe, SubscribeEntry, UserProperties,
};
use drawbridge_names::{MqttClientId, PrincipalKind, RegistryName, Uid};
use drawbridge_policy::Grant;
use support::{Got, Net, V5, V311, app, device, kid, rights, will};

const QOS0: Qos = Qos::AtMostOnce;
const QOS1: Qos = Qos::AtLeastOnce;

fn ended(uid: u64, why: EndedWhy) -> Ended {
    Ended::Principal { registry: RegistryName::default_registry(), uid: Uid(uid), why }
}

fn end_on(net: &mut Net, shards: &[usize], ended: &Ended) {
    for &shard in shards {
        net.run(shard, |shard, now, fx| shard.end_sessions(now, ended, fx));
    }
}

fn named(id: &str, admitted: Admitted) -> Admitted {
    Admitted { client_id: MqttClientId::parse(id).expect("a client id"), ..admitted }
}

fn subscribe_to(net: &mut Net, client: usize, filters: &[String]) {
    for some in filters.chunks(5_000) {
        let packet_id = net.next_id(client);
        let subscribe = Subscribe {
            packet_id,
            subscription_identifier: None,
            user_properties: UserProperties::default(),
            entries: some.iter().map(|filter| SubscribeEntry::of(filter, QOS1)).collect(),
        };
        net.send(client, &Packet::Subscribe(subscribe));
    }
}

/// `true` when `work` takes less than `s` seconds: generous for a slow machine, and a hundredth of what
/// it takes when each looks at all others.
fn within(s: u64, work: impl FnOnce()) -> bool {
    #![expect(clippy::disallowed_methods, reason = "how long it takes is what is tested")]
    let began = Instant::now();
    work();
    began.elapsed() < Duration::from_secs(s)
}

#[test]
fn a_flood_of_control_publishes_is_listened_to_only_as_fast_as_the_edge_answers() {
    for (version, qos) in [(V311, QOS0), (V311, QOS1), (V5, QOS0), (V5, QOS1)] {
        let mut net = Net::new(1);
        let lamp = net.join(0, version, device(3, "lamp"));
        for n in 0..40 {
            net.publish(lamp, "devices/lamp/state", format!("{n}").as_bytes(), qos);
        }
        let conn = net.clients[lamp].conn;
        assert_eq!(net.controls.len(), 16, "{version:?} {qos:?}");
        assert!(net.shards[0].is_held(conn));
        let mut said = Vec::new();
        while !net.controls.is_empty() {
            let (shard, conn, ack, publish) = net.controls.remove(0);
            said.push(String::from_utf8(publish.payload).expect("text"));
            let ack = ack.expect("it came from a client");
            net.run(shard, |shard, now, fx| shard.control_done(now, conn, ack, Ok(()), fx));
        }
        let expected: Vec<String> = (0..40).map(|n| n.to_string()).collect();
        assert_eq!(said, expected, "none is lost, and they keep their order");
        assert!(!net.shards[0].is_held(conn) && net.stats().buffer_bytes < 1 << 16);
        assert_eq!(net.got(lamp).len(), if qos == QOS1 { 40 } else { 0 });
    }
}

#[test]
fn fifty_thousand_subscriptions_with_retained_messages_stop_nobody() {
    let mut net = Net::with(1, |config| config.packet_bytes_max = 1 << 20);
    let publisher = net.join(0, V5, app(1));
    for n in 0..2_000 {
        net.retain(publisher, &format!("a/{n}/b"), b"x");
    }
    let client = net.join(0, V5, app(2));
    // Its window is full: all that it asks for from now on waits.
    net.clients[client].stalled = true;
    let filters: Vec<String> = (0..50_000).map(|n| format!("+/{n}/#")).collect();
    assert!(within(30, || subscribe_to(&mut net, client, &filters)));
    assert!(within(30, || subscribe_to(&mut net, client, &filters)), "and once more");
    assert!(within(30, || net.hang_up(client)));
    assert_eq!(net.stats().subscriptions, 0);
}

#[test]
fn a_walk_that_finds_nothing_in_a_large_store_is_done_in_parts_and_finds_what_is_there() {
    let mut net = Net::new(1);
    let publisher = net.join(0, V5, app(1));
    for n in 0..10_000 {
        net.retain(publisher, &format!("a/{n}/b"), b"x");
    }
    net.retain(publisher, "a/9999/c", b"found");
    let client = net.join(0, V5, app(2));
    let got = net.subscribe(client, "a/+/c", QOS0);
    assert_eq!(got.len(), 1, "the SUBACK alone: others have their turn first");
    net.pass(Duration::from_secs(2));
    assert_eq!(net.payloads(client), ["found"]);
}

#[test]
fn a_slow_reader_with_fifty_thousand_filters_reads_a_long_log_without_stopping_the_shard() {
    let mut net = Net::with(1, |config| config.inflight_max = 1);
    let publisher = net.join(0, V5, app(1));
    let slow = net.join(0, V5, app(2));
    let filters: Vec<String> = (0..50_000).map(|n| format!("mine/+/{n}")).collect();
    subscribe_to(&mut net, slow, &filters);
    net.subscribe(slow, "go", QOS1);
    let other = net.join(0, V5, app(3));
    net.subscribe(other, "noise", QOS1);
    net.publish(publisher, "go", b"1", QOS1);
    net.publish(publisher, "go", b"2", QOS1);
    // The other one does not acknowledge either, so the log fills with what is nothing to the first.
    for _ in 0..20_000 {
        net.publish(publisher, "noise", b"x", QOS0);
    }
    for n in 0..20_000_u32 {
        let packet_id = Some(drawbridge_mqtt::codec::PacketId::new(1 + (n % 60_000) as u16).expect("not 0"));
        let topic = drawbridge_names::TopicName::parse("noise").ok();
        let properties = PublishProperties::default();
        let publish = drawbridge_mqtt::codec::Publish {
            dup: false,
            qos: QOS1,
            retain: false,
            topic,
            packet_id,
            properties,
            payload: b"x",
        };
        net.send(publisher, &Packet::Publish(publish));
    }
    // A new filter each time: no shortcut by age.
    net.subscribe(slow, "mine/late", QOS1);
    net.publish(publisher, "go", b"3", QOS1);
    assert!(net.stats().waiting > 10_000);
    let mut heard = Vec::new();
    assert!(within(30, || {
        for id in 1..=3 {
            net.acknowledge(slow, id);
            net.pass(Duration::from_secs(5));
            heard.extend(net.payloads(slow));
        }
    }));
    assert_eq!(heard, ["2", "3"], "the first it had at once");
}

#[test]
fn who_falls_off_the_log_is_told_once_however_much_follows_at_once() {
    let mut net = Net::with(1, |config| {
        config.inflight_max = 1;
        config.waiting_bytes_max = 2_000;
    });
    let slow = net.join(0, V5, app(1));
    net.subscribe(slow, "#", QOS1);
    let publisher = net.join(0, V5, app(2));
    let mut bytes = Vec::new();
    for _ in 0..100 {
        let publish = drawbridge_mqtt::codec::Publish {
            dup: false,
            qos: QOS1,
            retain: false,
            topic: drawbridge_names::TopicName::parse("a").ok(),
            packet_id: Some(net.next_id(publisher)),
            properties: PublishProperties::default(),
            payload: &[0; 100],
        };
        bytes.extend(support::encode(V5, &Packet::Publish(publish)));
    }
    net.send_bytes(publisher, &bytes);
    assert!(net.clients[slow].closed.is_some());
    assert_eq!((net.reported("DB-2041"), net.stats().sessions_behind, net.stats().waiting), (1, 0, 0));
}

#[test]
fn filters_of_one_session_take_bounded_room() {
    let mut net = Net::with(1, |config| config.subscription_bytes_max = 100_000);
    let client = net.join(0, V5, app(1));
    let long = "x".repeat(60_000);
    let code = |got: Vec<Got>| match &got[..] {
        [Got::SubAck(codes)] => codes[0],
        other => panic!("{other:?}"),
    };
    assert_eq!(code(net.subscribe(client, &format!("{long}/a"), QOS1)), ReasonCode::GrantedQos1);
    assert_eq!(code(net.subscribe(client, &format!("{long}/b"), QOS1)), ReasonCode::QuotaExceeded);
    assert_eq!(code(net.subscribe(client, &"/+".repeat(60), QOS1)), ReasonCode::GrantedQos1);
    assert_eq!(code(net.subscribe(client, &format!("{long}/a"), QOS1)), ReasonCode::GrantedQos1, "the same");
    net.unsubscribe(client, &format!("{long}/a"));
    assert_eq!(code(net.subscribe(client, &format!("{long}/b"), QOS1)), ReasonCode::GrantedQos1);
}

/// A client of MQTT 5 with a will that waits `delay_s`, and that then goes without a word.
fn leave_a_will(net: &mut Net, id: &str, admitted: Admitted, topic: &'static str, delay_s: u32) {
    let admitted = named(id, admitted);
    let asked = |packet: &mut Connect<'_>| {
        packet.properties.session_expiry_s = Some(u32::MAX);
        packet.will = Some(will(topic, b"gone"));
        if let Some(will) = &mut packet.will {
            will.properties.delay_s = Some(delay_s);
        }
    };
    let client = net.connect_with(0, V5, admitted, asked);
    net.expect_welcome(client);
    net.hang_up(client);
}

#[test]
fn a_client_that_comes_and_goes_leaves_neither_timers_nor_wills_behind() {
    let mut net = Net::new(1);
    for n in 0..300_u32 {
        let lamp = Admitted { ends: Some(net.now + Duration::from_secs(86_400)), ..device(7, "lamp") };
        leave_a_will(&mut net, &format!("lamp:{n}"), lamp, "devices/lamp/events/gone", u32::MAX);
        net.pass(Duration::from_secs(1));
    }
    let stats = net.stats();
    assert!(stats.delayed_wills <= 8, "{} wills wait", stats.delayed_wills);
    net.pass(Duration::from_secs(200));
    assert!(net.stats().timers <= 8, "{} timers are left", net.stats().timers);
    net.pass(Duration::from_secs(86_400));
    assert_eq!((net.stats().delayed_wills, net.stats().timers), (0, 0), "a day is the longest");
}

#[test]
fn a_session_whose_orders_time_out_gathers_no_timers() {
    let mut net = Net::new(1);
    let lamp = Admitted { ends: Some(net.now + Duration::from_secs(86_400)), ..device(7, "lamp") };
    let lamp = net.join(0, V5, lamp);
    net.subscribe(lamp, "devices/lamp/commands/#", QOS1);
    for n in 0..500 {
        net.order(0, support::command(&net, n, 7, "devices/lamp/commands"));
        net.pass(Duration::from_secs(11));
    }
    assert_eq!(net.orders_done.len(), 500);
    assert!(net.stats().timers < 30, "{} timers", net.stats().timers);
    assert_eq!(net.clients[lamp].closed, None);
    net.pass(Duration::from_secs(86_400));
    assert!(net.clients[lamp].closed.is_some(), "and still ends when its right does");
}

#[test]
fn a_will_held_back_is_not_spoken_when_its_owner_is_not_believed_any_more() {
    let registry = RegistryName::default_registry();
    let key = Ended::Key { registry: registry.clone(), uid: Uid(2), kid: kid('A') };
    let policy = Ended::Policy { registry, uid: Uid(2), rights: Some(rights(&["other"], &[])) };
    let all =
        [ended(2, EndedWhy::Revoked), ended(2, EndedWhy::Blocked), ended(2, EndedWhy::Deleted), key, policy];
    let of_ticket = |uid, end| Ended::Ticket { registry: RegistryName::default_registry(), uid, end };
    let tickets = [
        of_ticket(Some(Uid(2)), TicketEnd::Token([1; 16])),
        of_ticket(None, TicketEnd::IssuerKey(kid('I'))),
        of_ticket(None, TicketEnd::Gateway(Uid(7))),
    ];
    let ticket = Ticket { token: [1; 16], issuer_kid: Some(kid('I')), gateway: Some(Uid(7)) };
    for ended in all.into_iter().chain(tickets) {
        // A will may be a command: then nobody hears of it but the edge.
        for topic in ["wills/two", "devices/lamp/commands"] {
            let mut net = Net::durable(2);
            let listener = net.join(1, V5, app(1));
            net.subscribe(listener, "#", QOS1);
            let ticket = Some(Box::new(ticket.clone()));
            let owner = Admitted { kid: Some(kid('A')), ticket, ..app(2) };
            leave_a_will(&mut net, "a", owner, topic, 30);
            end_on(&mut net, &[0, 1], &ended);
            net.pass(Duration::from_secs(31));
            assert!(net.messages(listener).is_empty() && net.controls.is_empty(), "{ended:?} {topic}");
            assert_eq!(net.reported("DB-2040"), 1, "{ended:?} {topic}");
        }
    }
}

#[test]
fn a_will_that_is_a_command_is_audited_as_what_its_owner_is() {
    let mut net = Net::new(1);
    leave_a_will(&mut net, "a", app(2), "devices/lamp/commands", 5);
    net.pass(Duration::from_secs(6));
    assert_eq!(net.controls[0].3.publisher_kind, PrincipalKind::Application);
    assert_eq!(net.controls[0].2, None, "nobody waits for the answer");
}

/// Publishes `a/kept` retained as principal 2 on shard 0.
fn leave_a_word(net: &mut Net) {
    let speaker = net.join(0, V5, app(2));
    net.retain(speaker, "a/kept", b"x");
    net.hang_up(speaker);
}

fn hears(net: &mut Net, shard: usize) -> bool {
    let n = net.clients.len() as u64;
    let late = net.join(shard, V5, app(100 + n));
    net.subscribe(late, "a/kept", QOS0).len() > 1
}

#[test]
fn i6_a_block_that_races_an_admission_silences_on_every_shard() {
    let mut net = Net::new(3);
    leave_a_word(&mut net);
    let blocked = ended(2, EndedWhy::Blocked);
    end_on(&mut net, &[0, 1, 2], &blocked);
    // Unblocked, and blocked again while it connects: shard 1 hears of the block before shard 0, whose
    // word that it is back then overtakes.
    end_on(&mut net, &[1], &blocked);
    let back = net.join(0, V5, app(2));
    end_on(&mut net, &[0, 2], &blocked);
    assert!(net.clients[back].closed.is_some());
    for shard in 0..3 {
        assert!(!hears(&mut net, shard), "shard {shard}");
    }
}

#[test]
fn after_a_change_of_policy_a_narrow_token_speaks_for_its_own_session_only() {
    let mut net = Net::new(2);
    let everything = rights(&["#"], &["#"]);
    leave_a_word(&mut net);
    let registry = RegistryName::default_registry();
    let changed = Ended::Policy { registry, uid: Uid(2), rights: None };
    end_on(&mut net, &[0, 1], &changed);
    assert!(!hears(&mut net, 0) && !hears(&mut net, 1), "its new rights are not known yet");
    let grant = Grant::parse_json(r#"[["b/#",["pub"]]]"#).expect("a grant");
    let narrow = Admitted { rights: Arc::new(everything.narrowed(&grant)), ..named("narrow", app(2)) };
    net.join(0, V5, narrow);
    for shard in [0, 1] {
        assert!(hears(&mut net, shard), "its policy allows what it had said; shard {shard}");
    }
}

#[test]
fn a_principal_that_speaks_through_the_edge_is_believed_as_the_edge_found_it() {
    let mut net = Net::new(2);
    let reader = net.join(1, V5, app(1));
    net.subscribe(reader, "a/#", QOS1);
    end_on(&mut net, &[0, 1], &ended(2, EndedWhy::Blocked));
    let order = |net: &Net, rights| Order {
        to: None,
        publisher: Publisher { uid: Uid(2), policy_epoch: 0 },
        rights,
        ..support::command(net, 1, 0, "a/b")
    };
    let said = order(&net, Some(rights(&["a/#"], &[])));
    net.order(0, said);
    assert_eq!(net.topics(reader), ["a/b"], "unblocked, it never connects but publishes over HTTP");
}

#[test]
fn a_topic_that_begins_with_a_slash_does_not_pass_for_one_of_a_google_client() {
    let mut net = Net::new(1);
    let google = Admitted { leading_slash: true, ..app(1) };
    let google = net.join(0, V311, google);
    let native = net.join(0, V311, app(2));
    for client in [google, native] {
        net.subscribe(client, "#", QOS0);
    }
    let speaker = net.join(0, V311, app(3));
    net.publish(speaker, "/devices/lamp/events", b"forged", QOS0);
    net.publish(speaker, "devices/lamp/events", b"true", QOS0);
    assert_eq!(net.payloads(google), ["true"]);
    assert_eq!(net.payloads(native), ["forged", "true"]);
}

#[test]
fn a_topic_of_the_greatest_length_is_left_out_where_a_slash_would_make_it_longer() {
    let mut net = Net::new(1);
    let google = net.join(0, V5, Admitted { leading_slash: true, ..app(1) });
    let other = net.join(0, V5, app(2));
    for client in [google, other] {
        net.subscribe(client, "#", QOS1);
    }
    let speaker = net.join(0, V5, app(3));
    let topic = format!("devices/{}", "x".repeat(65_535 - 8));
    net.publish(speaker, &topic, b"1", QOS1);
    net.publish(speaker, "b", b"2", QOS1);
    assert_eq!(
        (net.payloads(google), net.payloads(other)),
        (vec!["2".to_owned()], vec!["1".to_owned(), "2".to_owned()])
    );
}

#[test]
fn what_the_store_has_no_room_for_is_retained_on_no_shard() {
    let mut net = Net::with(2, |config| config.retained_bytes_max = 1_000);
    let listener = net.join(1, V5, app(1));
    net.subscribe(listener, "#", QOS0);
    let publisher = net.join(0, V5, app(2));
    net.retain(publisher, "a", &[b'x'; 2_000]);
    assert_eq!(net.topics(listener), ["a"]);
    let kept: Vec<usize> = net.shards.iter().map(|shard| shard.stats().retained).collect();
    assert_eq!((kept, net.reported("DB-2043")), (vec![0, 0], 1));
}

#[test]
fn a_full_retained_store_costs_no_walk_for_each_message_that_does_not_fit() {
    let mut net = Net::with(1, |config| config.retained_bytes_max = 8 << 20);
    let publisher = net.join(0, V5, app(1));
    for n in 0..50_000 {
        net.retain(publisher, &format!("a/{n}"), b"x");
    }
    let full = net.stats().retained;
    assert!(full < 50_000);
    assert!(within(20, || {
        for n in 0..20_000 {
            net.retain(publisher, &format!("b/{n}"), b"x");
        }
    }));
    assert_eq!(net.stats().retained, full);
}

#[test]
fn to_end_one_session_is_not_to_look_at_all() {
    let mut net = Net::new(1);
    for n in 0..20_000 {
        let id = format!("c{n}");
        let client = net.shards[0].open(net.now, net.now + Duration::from_secs(10));
        let mut fx = Vec::new();
        let bytes = support::encode(V5, &support::connect(V5, &id).into());
        net.shards[0].receive(net.now, client, &bytes, &mut fx);
        net.shards[0].answer(net.now, client, Ok(named(&id, app(n))), &mut fx);
    }
    assert_eq!(net.stats().sessions, 20_000);
    assert!(within(10, || {
        for n in 0..20_000 {
            let mut fx = Vec::new();
            net.shards[0].end_sessions(net.now, &ended(n, EndedWhy::Revoked), &mut fx);
            assert!(fx.len() >= 2, "it was found");
        }
    }));
    assert_eq!(net.stats().sessions, 0);
}
