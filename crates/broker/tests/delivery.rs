//! What reaches whom: retained messages, options of subscriptions, expiry, the log and its cursors,
//! orders; and invariant I4 on every path.

mod support;

use std::sync::Arc;
use std::time::Duration;

use drawbridge_broker::{
    Admitted, Close, ControlKind, Ended, EndedWhy, Order, OrderOutcome, PING_TOPIC, Publisher, What,
};
use drawbridge_mqtt::codec::{
    Packet, PublishProperties, Qos, ReasonCode, RetainHandling, SubscribeEntry, UserProperties,
};
use drawbridge_names::{PrincipalKind, RegistryName, TopicName, Uid};
use support::{Got, Net, V5, V311, app, command, compiled, device, goodbye, retained_as, rights, will};

const QOS0: Qos = Qos::AtMostOnce;
const QOS1: Qos = Qos::AtLeastOnce;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[test]
fn a_retained_message_is_told_to_new_subscribers_on_every_shard_and_an_empty_one_clears_it() {
    let mut net = Net::new(2);
    let publisher = net.join(0, V5, app(1));
    net.retain(publisher, "a/b", b"1");
    net.retain(publisher, "a/c", b"2");
    net.retain(publisher, "a/b", b"3");
    for shard in [0, 1] {
        for version in [V311, V5] {
            let reader = net.join(shard, version, app(10));
            let got = net.subscribe(reader, "a/#", QOS1);
            let messages: Vec<_> =
                got.iter().filter_map(|g| if let Got::Message(m) = g { Some(m) } else { None }).collect();
            assert!(matches!(got[0], Got::SubAck(_)), "SUBACK first");
            assert_eq!(messages.len(), 2);
            assert!(messages.iter().all(|m| m.retain && m.qos == 0), "published at QoS 0, and kept");
            assert_eq!(messages.iter().map(|m| &m.payload[..]).collect::<Vec<_>>(), [b"3", b"2"]);
        }
    }
    net.retain(publisher, "a/b", b"");
    for shard in [0, 1] {
        let reader = net.join(shard, V5, app(20));
        let got = net.subscribe(reader, "a/#", QOS1);
        assert_eq!(got.len(), 2, "SUBACK and a/c: {got:?}");
        assert_eq!(net.shards[shard].stats().retained, 1);
    }
}

#[test]
fn retain_handling_and_retain_as_published_are_obeyed() {
    let mut net = Net::new(1);
    let publisher = net.join(0, V5, app(1));
    net.retain(publisher, "a", b"1");
    let reader = net.join(0, V5, app(2));
    let mut told = |handling| {
        let got = net.subscribe_as(reader, retained_as("a", handling), None);
        got.len() - 1
    };
    assert_eq!(told(RetainHandling::DoNotSend), 0);
    assert_eq!(told(RetainHandling::SendIfNew), 0, "it exists already");
    assert_eq!(told(RetainHandling::SendAtSubscribe), 1);
    assert_eq!(told(RetainHandling::SendAtSubscribe), 1, "each time");
    net.unsubscribe(reader, "a");
    assert_eq!(net.subscribe_as(reader, retained_as("a", RetainHandling::SendIfNew), None).len(), 2);
    // Live: the flag is 0, unless the subscription keeps it as published.
    net.retain(publisher, "a", b"2");
    assert!(!net.messages(reader)[0].retain);
    let entry = SubscribeEntry { retain_as_published: true, ..SubscribeEntry::of("a", QOS1) };
    net.subscribe_as(reader, entry, None);
    net.retain(publisher, "a", b"3");
    net.publish(publisher, "a", b"4", QOS0);
    let flags: Vec<bool> = net.messages(reader).iter().map(|m| m.retain).collect();
    assert_eq!(flags, [true, false]);
}

#[test]
fn overlapping_subscriptions_give_one_copy_with_the_highest_qos_and_every_identifier() {
    let mut net = Net::new(1);
    let publisher = net.join(0, V5, app(1));
    let reader = net.join(0, V5, app(2));
    for (filter, qos, id) in [("a/#", QOS0, Some(7)), ("a/+", QOS1, Some(8)), ("a/b", QOS0, None)] {
        net.subscribe_as(reader, SubscribeEntry::of(filter, qos), id);
    }
    net.publish(publisher, "a/b", b"x", QOS1);
    let got = net.messages(reader);
    assert_eq!((got.len(), got[0].qos), (1, 1));
    let mut ids = got[0].subscriptions.clone();
    ids.sort_unstable();
    assert_eq!(ids, [7, 8]);
}

#[test]
fn no_local_keeps_a_message_from_its_own_publisher_only() {
    let mut net = Net::new(1);
    let both = net.join(0, V5, app(1));
    let other = net.join(0, V5, app(2));
    for client in [both, other] {
        let entry = SubscribeEntry { no_local: true, ..SubscribeEntry::of("a", QOS1) };
        net.subscribe_as(client, entry, None);
    }
    net.publish(both, "a", b"x", QOS0);
    assert!(net.messages(both).is_empty());
    assert_eq!(net.messages(other).len(), 1);
}

#[test]
fn properties_are_forwarded_in_their_order_and_the_expiry_counts_down() {
    let mut net = Net::with(1, |config| config.inflight_max = 1);
    let publisher = net.join(0, V5, app(1));
    let reader = net.join(0, V5, app(2));
    let old_reader = net.join(0, V311, app(3));
    for client in [reader, old_reader] {
        net.subscribe(client, "a", QOS1);
    }
    let user = [("k", "1"), ("j", "2"), ("k", "3")];
    let properties = PublishProperties {
        message_expiry_s: Some(10),
        content_type: Some("text/plain"),
        user_properties: UserProperties::of(&user),
        ..PublishProperties::default()
    };
    for payload in [b"1", b"2", b"3"] {
        net.publish_with(publisher, "a", payload, QOS1, true, properties);
    }
    let owned: Vec<_> = user.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let got = net.messages(reader);
    assert_eq!((got.len(), got[0].expiry_s), (1, Some(10)));
    assert_eq!((&got[0].user, got[0].content_type.as_deref()), (&owned, Some("text/plain")));
    // The second waited 4 s in the log, the third expires there.
    net.pass(ms(3_500));
    net.acknowledge(reader, 1);
    let got = net.messages(reader);
    assert_eq!((got.len(), got[0].expiry_s), (1, Some(7)));
    assert_eq!((&got[0].user, got[0].content_type.as_deref()), (&owned, Some("text/plain")));
    net.pass(ms(7_000));
    net.acknowledge(reader, 2);
    assert!(net.messages(reader).is_empty());
    assert_eq!(net.stats().expired, 1);
    let late = net.join(0, V5, app(4));
    assert_eq!(net.subscribe(late, "a", QOS1).len(), 1, "the retained one has expired too");
    assert_eq!(net.payloads(old_reader), ["1"]);
}

#[test]
fn a_full_window_waits_at_the_cursor_and_goes_on_in_order() {
    let mut net = Net::new(1);
    let publisher = net.join(0, V5, app(1));
    let reader = net.connect_with(0, V5, app(2), |packet| {
        packet.properties.receive_maximum = std::num::NonZeroU16::new(3);
    });
    net.expect_welcome(reader);
    net.subscribe(reader, "a", QOS1);
    for n in 0..10 {
        net.publish(publisher, "a", format!("{n}").as_bytes(), QOS1);
    }
    // QoS 0 does not wait for a window, nor behind those that do.
    net.publish(publisher, "a", b"fast", QOS0);
    assert_eq!(net.payloads(reader), ["0", "1", "2", "fast"]);
    assert_eq!((net.stats().waiting, net.stats().sessions_behind), (7, 1));
    let mut next = 3;
    for id in 1..=10 {
        net.acknowledge(reader, id);
        let got = net.messages(reader);
        if next < 10 {
            assert_eq!((got.len(), got[0].payload.clone()), (1, format!("{next}").into_bytes()));
            next += 1;
        } else {
            assert!(got.is_empty());
        }
    }
    assert_eq!((net.stats().waiting, net.stats().waiting_bytes, net.stats().sessions_behind), (0, 0, 0));
    net.publish(publisher, "a", b"live", QOS1);
    assert_eq!(net.payloads(reader), ["live"]);
}

#[test]
fn a_subscription_made_while_behind_means_no_message_from_before_it_with_few_filters_or_many() {
    for filters in [0, 100] {
        let mut net = Net::with(1, |config| config.inflight_max = 1);
        let publisher = net.join(0, V5, app(1));
        let (reader, other) = (net.join(0, V5, app(2)), net.join(0, V5, app(3)));
        for n in 0..filters {
            net.subscribe(reader, &format!("unused/{n}/+"), QOS1);
        }
        for client in [reader, other] {
            net.subscribe(client, "a", QOS1);
        }
        net.subscribe(other, "b/+", QOS1);
        for (topic, payload) in [("a", "1"), ("a", "2"), ("b/x", "before"), ("a", "3")] {
            net.publish(publisher, topic, payload.as_bytes(), QOS1);
        }
        net.subscribe(reader, "b/+", QOS1);
        net.publish(publisher, "b/x", b"after", QOS1);
        let mut heard = [Vec::new(), Vec::new()];
        for (client, heard) in [reader, other].into_iter().zip(&mut heard) {
            // What was in flight came with the answers to SUBSCRIBE, hence from the second on.
            for id in 1..=5 {
                net.acknowledge(client, id);
                heard.extend(net.payloads(client));
            }
        }
        let [reader_heard, other_heard] = heard;
        assert!(reader_heard.ends_with(&["2".into(), "3".into(), "after".into()]), "{reader_heard:?}");
        assert!(!reader_heard.contains(&"before".to_owned()), "{filters} filters: {reader_heard:?}");
        assert!(
            other_heard.ends_with(&["2".into(), "before".into(), "3".into(), "after".into()]),
            "{other_heard:?}"
        );
    }
}

#[test]
fn a_stalled_reader_loses_only_qos_0_and_catches_up_in_order() {
    let mut net = Net::with(1, |config| config.write_buffer_bytes_max = 4_000);
    let publisher = net.join(0, V5, app(1));
    let reader = net.join(0, V311, app(2));
    net.subscribe(reader, "a", QOS1);
    net.clients[reader].stalled = true;
    let payload = [b'x'; 500];
    for n in 0..50_u8 {
        let mut payload = payload;
        payload[0] = n;
        net.publish(publisher, "a", &payload, QOS1);
        net.publish(publisher, "a", &payload, QOS0);
    }
    let stats = net.stats();
    assert!(stats.buffer_bytes < 9_000, "{stats:?}");
    assert!(stats.dropped_qos0 >= 40 && stats.waiting >= 40, "{stats:?}");
    net.unstall(reader);
    let mut seen = Vec::new();
    for message in net.messages(reader) {
        if message.qos == 1 {
            seen.push(message.payload[0]);
        }
    }
    assert_eq!(seen, (0..50).collect::<Vec<u8>>());
    assert_eq!(net.stats().waiting, 0);
}

#[test]
fn a_session_that_falls_off_the_log_is_closed_with_0x97_and_reported() {
    let mut net = Net::with(1, |config| {
        config.waiting_bytes_max = 10_000;
        config.inflight_max = 1;
    });
    let publisher = net.join(0, V5, app(1));
    let slow = net.join(0, V5, app(2));
    let quick = net.join(0, V5, app(3));
    for client in [slow, quick] {
        net.subscribe(client, "a", QOS1);
    }
    let mut id = 1;
    for n in 0..30 {
        net.publish(publisher, "a", &[n; 1_000], QOS1);
        assert!(net.stats().waiting_bytes <= 10_000);
        if let [message] = &net.messages(quick)[..] {
            assert_eq!(message.payload[0], n);
            net.acknowledge(quick, id);
            id += 1;
        } else {
            panic!("the quick one is never behind");
        }
    }
    let got = net.got(slow);
    assert!(matches!(got.last(), Some(Got::Disconnect { reason: ReasonCode::QuotaExceeded, .. })), "{got:?}");
    assert_eq!((net.reported("DB-2041"), net.clients[quick].closed), (1, None));
    assert_eq!((net.stats().sessions_behind, net.stats().waiting), (0, 0));
}

#[test]
fn retained_messages_beyond_window_and_buffer_come_later_and_all_of_them() {
    let mut net = Net::with(1, |config| config.write_buffer_bytes_max = 2_000);
    let publisher = net.join(0, V5, app(1));
    for n in 0..100 {
        let qos = if n % 2 == 0 { QOS0 } else { QOS1 };
        net.publish_with(
            publisher,
            &format!("a/{n:03}"),
            &[b'x'; 100],
            qos,
            true,
            PublishProperties::default(),
        );
    }
    let reader = net.connect_with(0, V5, app(2), |packet| {
        packet.properties.receive_maximum = std::num::NonZeroU16::new(5);
    });
    net.expect_welcome(reader);
    let mut got = net.subscribe(reader, "a/#", QOS1);
    net.publish(publisher, "a/live", b"1", QOS1);
    let mut topics = Vec::new();
    while !got.is_empty() {
        for got in std::mem::take(&mut got) {
            let Got::Message(message) = got else { continue };
            topics.push(message.topic);
            if let Some(id) = message.id {
                net.acknowledge(reader, id);
            }
        }
        got = net.got(reader);
    }
    let mut expected: Vec<String> = (0..100).map(|n| format!("a/{n:03}")).collect();
    expected.push("a/live".to_owned());
    assert_eq!(topics, expected, "retained by topic, then what came meanwhile");
}

#[test]
fn messages_cross_to_the_shards_that_listen_and_to_no_others() {
    let mut net = Net::new(3);
    let publisher = net.join(0, V5, app(1));
    net.publish(publisher, "a", b"1", QOS0);
    assert_eq!(net.crossings, 0, "nobody listens");
    let reader = net.join(2, V311, app(2));
    net.subscribe(reader, "a", QOS1);
    net.publish(publisher, "a", b"2", QOS1);
    net.publish(publisher, "b", b"3", QOS0);
    assert_eq!(net.crossings, 2, "to shard 2 only");
    assert_eq!(net.payloads(reader), ["2"]);
    net.unsubscribe(reader, "a");
    net.publish(publisher, "a", b"4", QOS0);
    assert_eq!(net.crossings, 2);
    net.subscribe(reader, "a", QOS1);
    net.hang_up(reader);
    net.publish(publisher, "a", b"5", QOS0);
    assert_eq!(net.crossings, 2, "its subscriptions went with it");
    net.retain(publisher, "a", b"6");
    assert_eq!(net.crossings, 4, "retained messages go everywhere");
}

#[test]
fn a_message_larger_than_the_client_takes_is_left_out_and_the_next_one_is_not() {
    let mut net = Net::new(1);
    let publisher = net.join(0, V5, app(1));
    let reader = net.connect_with(0, V5, app(2), |packet| {
        packet.properties.maximum_packet_size = std::num::NonZeroU32::new(200);
        packet.properties.receive_maximum = std::num::NonZeroU16::new(1);
    });
    net.expect_welcome(reader);
    net.subscribe(reader, "a", QOS1);
    net.publish(publisher, "a", &[0; 300], QOS1);
    net.publish(publisher, "a", b"small", QOS1);
    assert_eq!(net.payloads(reader), ["small"], "the window was not used up");
    assert_eq!(net.stats().too_large_for_client, 1);
}

#[test]
fn control_topics_go_to_the_edge_and_state_goes_to_subscribers_as_well() {
    let mut net = Net::new(1);
    let listener = net.join(0, V5, app(1));
    net.subscribe(listener, "devices/#", QOS1);
    let operator = net.join(0, V5, app(2));
    let lamp = net.join(0, V311, device(3, "lamp"));
    let id = net.publish(operator, "devices/lamp/commands/blink", b"3", QOS1).expect("QoS 1").get();
    net.publish(operator, "devices/lamp/config", b"{}", QOS0);
    assert!(net.messages(listener).is_empty(), "they come back as orders");
    let state_id = net.publish(lamp, "devices/lamp/state", b"on", QOS1).expect("QoS 1").get();
    assert_eq!(net.payloads(listener), ["on"]);
    assert_eq!((net.got(operator).len(), net.got(lamp).len()), (0, 0), "the edge has not answered");
    let controls = std::mem::take(&mut net.controls);
    let kinds: Vec<_> =
        controls.iter().map(|(_, _, ack, publish)| (ack.is_some(), publish.kind.clone())).collect();
    let blink = ControlKind::Command { subfolder: Some("blink".to_owned()) };
    assert_eq!(kinds, [(true, blink), (true, ControlKind::Config), (true, ControlKind::State)]);
    assert_eq!(controls[0].3.publisher_kind, PrincipalKind::Application);
    assert_eq!(controls[2].3.publisher_kind, PrincipalKind::Device);
    assert_eq!(controls[0].3.device.as_str(), "lamp");
    assert_eq!(controls[0].3.publisher.0, Uid(2));
    for (shard, conn, ack, _) in controls {
        if let Some(ack) = ack {
            net.run(shard, |shard, now, fx| shard.control_done(now, conn, ack, Ok(()), fx));
        }
    }
    assert_eq!(net.got(operator), [Got::PubAck { id, reason: ReasonCode::Success, text: None }]);
    assert_eq!(net.got(lamp), [Got::PubAck { id: state_id, reason: ReasonCode::Success, text: None }]);
}

#[test]
fn a_control_publish_that_the_edge_refuses_is_said_in_5_and_closes_3_1_1() {
    for version in [V311, V5] {
        let mut net = Net::new(1);
        let operator = net.join(0, version, app(2));
        net.publish(operator, "devices/lamp/commands", b"3", QOS1);
        let (shard, conn, ack, _) = net.controls.remove(0);
        let ack = ack.expect("QoS 1");
        let refusal = Err(ReasonCode::QuotaExceeded);
        net.run(shard, |shard, now, fx| shard.control_done(now, conn, ack, refusal, fx));
        let got = net.got(operator);
        if version == V5 {
            assert!(matches!(got[..], [Got::PubAck { reason: ReasonCode::QuotaExceeded, .. }]), "{got:?}");
        } else {
            assert_eq!(net.clients[operator].closed, Some(Close::AfterFlush { linger: false }));
            assert_eq!(net.reported("DB-2044"), 1);
        }
    }
}

#[test]
fn an_order_is_done_when_the_device_has_acknowledged_or_it_is_said_why_not() {
    let mut net = Net::with(1, |config| config.inflight_max = 1);
    let topic = "devices/lamp/commands";
    let done = |net: &mut Net| net.orders_done.drain(..).collect::<Vec<_>>();
    // Not connected, and nobody else hears of it.
    let spy = net.join(0, V5, app(9));
    net.subscribe(spy, "devices/+/commands/#", QOS0);
    let order = command(&net, 1, 2, topic);
    net.order(0, order);
    assert_eq!(done(&mut net), [(1, OrderOutcome::NotConnected)]);
    // Connected, not subscribed.
    let lamp = net.join(0, V311, device(2, "lamp"));
    let order = command(&net, 2, 2, topic);
    net.order(0, order);
    assert_eq!(done(&mut net), [(2, OrderOutcome::NotSubscribed)]);
    assert!(net.messages(spy).is_empty());
    // Acknowledged.
    net.subscribe(lamp, "devices/lamp/commands/#", QOS1);
    let order = command(&net, 3, 2, topic);
    net.order(0, order);
    assert!(done(&mut net).is_empty());
    assert_eq!((net.messages(lamp).len(), net.messages(spy).len()), (1, 1));
    // A second one waits in the log until the window opens, then for its own PUBACK.
    let order = command(&net, 4, 2, topic);
    net.order(0, order);
    assert!(net.messages(lamp).is_empty());
    net.acknowledge(lamp, 1);
    assert_eq!(done(&mut net), [(3, OrderOutcome::Acknowledged)]);
    assert_eq!(net.messages(lamp).len(), 1);
    net.acknowledge(lamp, 2);
    assert_eq!(done(&mut net), [(4, OrderOutcome::Acknowledged)]);
    // Not in time.
    let order = command(&net, 5, 2, topic);
    net.order(0, order);
    net.pass(ms(9_990));
    assert!(done(&mut net).is_empty());
    net.pass(ms(110));
    assert_eq!(done(&mut net), [(5, OrderOutcome::TimedOut)]);
    // An order that waits is of QoS 1, whatever it says.
    net.acknowledge(lamp, 3);
    net.messages(lamp);
    let order = Order { qos: QOS0, ..command(&net, 6, 2, topic) };
    net.order(0, order);
    let sent = net.messages(lamp);
    assert_eq!((sent.len(), sent[0].qos), (1, 1));
    net.acknowledge(lamp, 4);
    assert_eq!(done(&mut net), [(6, OrderOutcome::Acknowledged)]);
    // Gone before it answered.
    let order = command(&net, 7, 2, topic);
    net.order(0, order);
    net.hang_up(lamp);
    assert_eq!(done(&mut net), [(7, OrderOutcome::NotConnected)]);
}

#[test]
fn a_command_is_never_sent_at_qos_0_and_nobody_else_hears_of_it_then() {
    for version in [V311, V5] {
        let mut net = Net::new(1);
        let topic = "devices/lamp/commands";
        let spy = net.join(0, V5, app(9));
        net.subscribe(spy, "devices/#", QOS1);
        let lamp = net.join(0, version, device(2, "lamp"));
        net.subscribe(lamp, "devices/lamp/commands/#", QOS0);
        let order = command(&net, 1, 2, topic);
        net.order(0, order);
        assert_eq!(net.orders_done, [(1, OrderOutcome::NotSubscribed)]);
        assert!(net.messages(lamp).is_empty() && net.messages(spy).is_empty());
        // One subscription of QoS 1 among those that match is enough.
        net.subscribe(lamp, topic, QOS1);
        let order = command(&net, 2, 2, topic);
        net.order(0, order);
        let sent = net.messages(lamp);
        assert_eq!((sent.len(), sent[0].qos, net.messages(spy).len()), (1, 1, 1));
        let id = sent[0].id.expect("QoS 1");
        net.acknowledge(lamp, id);
        assert_eq!(net.orders_done[1..], [(2, OrderOutcome::Acknowledged)]);
    }
}

#[test]
fn a_config_reaches_a_subscription_of_qos_0_without_being_called_acknowledged() {
    let mut net = Net::new(1);
    let lamp = net.join(0, V311, device(2, "lamp"));
    net.subscribe(lamp, "devices/lamp/config", QOS0);
    let order = Order { retain: true, ..command(&net, 1, 2, "devices/lamp/config") };
    net.order(0, order);
    assert_eq!(net.orders_done, [(1, OrderOutcome::NotSubscribed)]);
    assert_eq!(net.payloads(lamp), ["on"]);
}

#[test]
fn a_command_that_its_device_may_not_receive_is_said_to_be_withheld_and_goes_to_nobody() {
    let mut net = Net::new(1);
    let spy = net.join(0, V5, app(9));
    net.subscribe(spy, "devices/#", QOS1);
    let source = "[[allow]]\nsubscribe = [\"#\"]\n[[deny]]\nsubscribe = [\"devices/lamp/commands\"]\n";
    let narrow = drawbridge_broker::Admitted { rights: compiled(source, "app-2"), ..app(2) };
    let lamp = net.join(0, V5, narrow);
    net.subscribe(lamp, "#", QOS1);
    let order = command(&net, 1, 2, "devices/lamp/commands");
    net.order(0, order);
    assert_eq!(net.orders_done, [(1, OrderOutcome::Withheld)]);
    assert!(net.messages(lamp).is_empty() && net.messages(spy).is_empty());
    let order = command(&net, 2, 2, "a/b");
    net.order(0, order);
    assert_eq!(net.messages(lamp).len(), 1);
}

#[test]
fn a_retained_order_is_kept_for_a_device_that_is_not_there() {
    let mut net = Net::new(2);
    let order = Order { retain: true, ..command(&net, 1, 2, "devices/lamp/config") };
    net.order(0, order);
    assert_eq!(net.orders_done, [(1, OrderOutcome::NotConnected)]);
    let lamp = net.join(1, V311, device(2, "lamp"));
    let got = net.subscribe(lamp, "devices/lamp/config", QOS1);
    assert!(matches!(&got[1], Got::Message(m) if m.retain && m.qos == 1 && m.payload == b"on"), "{got:?}");
    // To nobody in particular.
    let order = Order { retain: true, to: None, ..command(&net, 2, 2, "devices/lamp/config") };
    net.order(1, order);
    assert_eq!(net.orders_done[1], (2, OrderOutcome::Stored));
    assert_eq!(net.messages(lamp).len(), 1);
}

#[test]
fn a_device_that_rejects_a_command_is_not_taken_for_one_that_obeyed() {
    let mut net = Net::new(1);
    let lamp = net.join(0, V5, device(2, "lamp"));
    net.subscribe(lamp, "devices/lamp/commands/#", QOS1);
    let order = command(&net, 1, 2, "devices/lamp/commands");
    net.order(0, order);
    let id = net.messages(lamp)[0].id.expect("QoS 1");
    let packet_id = drawbridge_mqtt::codec::PacketId::new(id).expect("not 0");
    let ack = drawbridge_mqtt::codec::Ack::of(packet_id, ReasonCode::ImplementationSpecificError);
    net.send(lamp, &drawbridge_mqtt::codec::Packet::PubAck(ack));
    assert_eq!(net.orders_done, [(1, OrderOutcome::Rejected(ReasonCode::ImplementationSpecificError))]);
}

/// The paths by which a message can reach a session.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Path {
    Live,
    Crossed,
    Retained,
    Queued,
    Will,
    CrossedWill,
    Order,
}

const PATHS: [Path; 7] =
    [Path::Live, Path::Crossed, Path::Retained, Path::Queued, Path::Will, Path::CrossedWill, Path::Order];

/// Sends one message on `topic` by `path` to a reader of `a/#` with the rights `reader`; returns
/// the topics that reached it. The publisher has the rights `publisher`.
fn by_path(
    path: Path,
    topic: &'static str,
    publisher: &Arc<drawbridge_policy::Rights>,
    reader: &Arc<drawbridge_policy::Rights>,
) -> (Net, Vec<String>) {
    let crosses = matches!(path, Path::Crossed | Path::CrossedWill);
    let mut net = Net::with(2, |config| config.inflight_max = 1);
    let reader = drawbridge_broker::Admitted { rights: Arc::clone(reader), ..app(1) };
    let speaker = drawbridge_broker::Admitted { rights: Arc::clone(publisher), ..app(2) };
    let open = drawbridge_broker::Admitted { rights: rights(&["#"], &["#"]), ..app(3) };
    let shard = usize::from(crosses);
    match path {
        Path::Retained => {
            let speaker = net.join(0, V5, speaker);
            net.publish_with(speaker, topic, b"x", QOS1, true, PublishProperties::default());
            let reader = net.join(0, V5, reader);
            let got = net.subscribe(reader, "a/#", QOS1);
            let topics =
                got.into_iter().filter_map(|g| if let Got::Message(m) = g { Some(m.topic) } else { None });
            (net, topics.collect())
        }
        Path::Live | Path::Crossed | Path::Queued => {
            let reader = net.join(0, V5, reader);
            net.subscribe(reader, "a/#", QOS1);
            let filler = net.join(0, V5, open);
            let speaker = net.join(shard, V5, speaker);
            if path == Path::Queued {
                net.publish(filler, "a/filler", b"x", QOS1);
                assert_eq!(net.topics(reader), ["a/filler"], "the window is full now");
            }
            net.publish(speaker, topic, b"x", QOS1);
            if path == Path::Queued {
                assert!(net.messages(reader).is_empty());
                net.acknowledge(reader, 1);
            }
            let topics = net.topics(reader);
            (net, topics)
        }
        Path::Will | Path::CrossedWill => {
            let reader = net.join(0, V5, reader);
            net.subscribe(reader, "a/#", QOS1);
            let speaker =
                net.connect_with(shard, V5, speaker, |packet| packet.will = Some(will(topic, b"x")));
            if net.clients[speaker].closed.is_none() {
                net.hang_up(speaker);
            }
            let topics = net.topics(reader);
            (net, topics)
        }
        Path::Order => {
            let reader = net.join(0, V5, reader);
            net.subscribe(reader, "a/#", QOS1);
            let order = Order {
                id: 1,
                registry: RegistryName::default_registry(),
                topic: topic.to_owned(),
                payload: Arc::from(&b"x"[..]),
                qos: QOS1,
                retain: false,
                to: None,
                deadline: net.now,
                publisher: Publisher { uid: Uid(2), policy_epoch: 0 },
                rights: Some(Arc::clone(publisher)),
            };
            net.order(0, order);
            let topics = net.topics(reader);
            (net, topics)
        }
    }
}

#[test]
fn i4_every_delivery_path_asks_may_deliver() {
    let all = rights(&["#"], &["#"]);
    let narrow = compiled("[[allow]]\nsubscribe = [\"a/#\"]\n[[deny]]\nsubscribe = [\"a/secret\"]\n", "test");
    for path in PATHS {
        let (_, topics) = by_path(path, "a/open", &all, &narrow);
        assert_eq!(topics, ["a/open"], "{path:?}");
        let (net, topics) = by_path(path, "a/secret", &all, &narrow);
        assert!(topics.is_empty(), "{path:?}: {topics:?}");
        let withheld: u64 = net.shards.iter().map(|shard| shard.stats().withheld).sum();
        assert_eq!(withheld, 1, "{path:?}");
    }
}

#[test]
fn i4_every_publishing_path_asks_may_publish() {
    let all = rights(&["#"], &["#"]);
    let narrow = compiled("[[allow]]\npublish = [\"a/#\"]\n[[deny]]\npublish = [\"a/secret\"]\n", "test");
    for path in PATHS {
        let (_, topics) = by_path(path, "a/open", &narrow, &all);
        assert_eq!(topics, ["a/open"], "{path:?}");
        let (net, topics) = by_path(path, "a/secret", &narrow, &all);
        assert!(topics.is_empty(), "{path:?}: {topics:?}");
        let denied = net.reported("DB-2038") + net.reported("DB-2040") + net.orders_done.len();
        assert_eq!(denied, 1, "{path:?}");
    }
}

#[test]
fn i4_what_a_blocked_or_re_judged_publisher_left_behind_is_not_delivered_on_any_path() {
    let registry = RegistryName::default_registry();
    let uid = Uid(2);
    let blocked = Ended::Principal { registry: registry.clone(), uid, why: EndedWhy::Blocked };
    let deleted = Ended::Principal { registry: registry.clone(), uid, why: EndedWhy::Deleted };
    let judged = Ended::Policy { registry: registry.clone(), uid, rights: Some(rights(&["b"], &[])) };
    let unjudged = Ended::Policy { registry: registry.clone(), uid, rights: None };
    let revoked = Ended::Principal { registry, uid, why: EndedWhy::Revoked };
    for (ended, silenced) in
        [(blocked, true), (deleted, true), (judged, true), (unjudged, true), (revoked, false)]
    {
        let mut net = Net::with(2, |config| config.inflight_max = 1);
        let reader = net.join(0, V5, app(1));
        net.subscribe(reader, "a/#", QOS1);
        let filler = net.join(0, V5, app(3));
        net.publish(filler, "a/filler", b"x", QOS1);
        let speaker = net.connect_with(0, V5, app(2), |packet| packet.will = Some(will("a/will", b"x")));
        net.publish_with(speaker, "a/queued", b"x", QOS1, true, PublishProperties::default());
        assert_eq!(net.topics(reader), ["a/filler"]);
        for shard in [0, 1] {
            net.run(shard, |shard, now, fx| shard.end_sessions(now, &ended, fx));
        }
        assert!(matches!(net.got(speaker).last(), Some(Got::Disconnect { .. })));
        net.acknowledge(reader, 1);
        let (mut heard, mut id) = (Vec::new(), 2);
        loop {
            let topics = net.topics(reader);
            if topics.is_empty() {
                break;
            }
            heard.extend(topics);
            net.acknowledge(reader, id);
            id += 1;
        }
        // A revocation takes the will, which had not been said, and leaves what had been.
        let expected: &[&str] = if silenced { &[] } else { &["a/queued"] };
        assert_eq!(heard, expected, "{ended:?}");
        for shard in [0, 1] {
            let late = net.join(shard, V5, app(10 + shard as u64));
            let told = net.subscribe(late, "a/queued", QOS1).len() - 1;
            assert_eq!(told, usize::from(!silenced), "{ended:?}");
        }
        // Admitted again with its rights, it is heard again, on every shard.
        net.join(0, V5, app(2));
        for shard in [0, 1] {
            let late = net.join(shard, V5, app(20 + shard as u64));
            let told = net.subscribe(late, "a/queued", QOS1).len() - 1;
            assert_eq!(told, 1, "{ended:?} on shard {shard}");
        }
    }
}

#[test]
fn a_full_retained_store_says_so_and_still_delivers() {
    let mut net = Net::with(1, |config| config.retained_bytes_max = 2_000);
    let reader = net.join(0, V5, app(1));
    net.subscribe(reader, "#", QOS0);
    let publisher = net.join(0, V5, app(2));
    for n in 0..10 {
        net.retain(publisher, &format!("a/{n}"), &[b'x'; 400]);
    }
    assert_eq!(net.messages(reader).len(), 10);
    assert!(net.stats().retained_bytes <= 2_000);
    assert_eq!(net.stats().retained + net.reported("DB-2043"), 10);
    assert!(net.reported("DB-2043") > 0);
    net.retain(publisher, "a/0", b"");
    assert_eq!(net.stats().retained + net.reported("DB-2043"), 9, "clearing is always allowed");
}

#[test]
fn a_client_that_goes_with_disconnect_is_reported_as_gone_by_itself() {
    let mut net = Net::new(1);
    let client = net.join(0, V5, app(1));
    net.send(client, &goodbye(ReasonCode::NORMAL_DISCONNECTION));
    assert_eq!(net.whats().last(), Some(&&What::Disconnected { by_client: true }));
    assert!(TopicName::parse("a").is_ok() && net.got(client).is_empty());
}

#[test]
fn a_ping_of_any_length_keeps_a_client_alive_that_may_publish_nothing_and_reaches_nobody() {
    let mut net = Net::durable(1);
    let all = Admitted { rights: rights(&["#"], &["#", "$SYS/#"]), ..app(1) };
    let reader = net.join(0, V5, all);
    net.subscribe(reader, "#", QOS1);
    let (stored, before) = (net.disk.records().count(), net.stats());
    for version in [V311, V5] {
        let nobody = Admitted { rights: rights(&["elsewhere"], &["elsewhere"]), ..app(2) };
        let client = net.connect_with(0, version, nobody, |connect| connect.keep_alive_s = 10);
        net.expect_welcome(client);
        for length in [0, 1, 250, 1_024] {
            net.pass(Duration::from_secs(9));
            net.publish(client, PING_TOPIC, &vec![b'0'; length], QOS0);
            assert_eq!(net.got(client), [], "nothing answers, and it is open");
        }
        net.send(client, &Packet::PingReq);
        assert_eq!(net.got(client), [Got::Pong]);
        net.send(client, &goodbye(ReasonCode::NORMAL_DISCONNECTION));
    }
    assert_eq!(net.messages(reader), []);
    assert_eq!(net.disk.records().count(), stored, "nothing is stored");
    assert_eq!(net.stats().received_by_qos, before.received_by_qos, "nor counted");
    assert!(!net.whats().iter().any(|what| matches!(what, What::PublishDenied { .. })));
}

#[test]
fn a_ping_that_is_more_than_a_ping_is_refused() {
    let rows = [(QOS0, true, 1), (QOS1, false, 1), (Qos::ExactlyOnce, false, 1), (QOS0, false, 1_025)];
    for (qos, retain, length) in rows {
        let mut net = Net::new(1);
        let client = net.join(0, V5, app(1));
        let payload = vec![b'0'; length];
        net.publish_with(client, PING_TOPIC, &payload, qos, retain, PublishProperties::default());
        let refused = |got: &Got| match got {
            Got::PubAck { reason, .. } | Got::PubRec(_, reason) | Got::Disconnect { reason, .. } => {
                *reason == ReasonCode::NotAuthorized
            }
            _ => false,
        };
        let got = net.got(client);
        assert!(got.iter().any(refused), "{got:?}");
        assert_eq!(net.reported("DB-2038"), 1);
        // Nobody can ask for it either: there is nothing to hear.
        let reader = net.join(0, V5, app(2));
        let answer = net.subscribe(reader, PING_TOPIC, QOS1);
        assert!(matches!(&answer[..], [Got::SubAck(codes)] if codes[..] == [ReasonCode::NotAuthorized]));
    }
}
