//! The main job through `mqtt` and `broker` with a fake clock and no runtime in the process:
//! CONNECT, SUBSCRIBE, PUBLISH, refusal, expiry.

mod support;

use std::time::Duration;

use drawbridge_broker::{Close, Effect, Refused, RefusedReason, What};
use drawbridge_mqtt::codec::{
    Packet, Publish, PublishProperties, Qos, ReasonCode, Subscribe, SubscribeEntry,
};
use drawbridge_names::TopicName;
use support::{Got, Message, Net, V5, V311, app, connect, device, encode, rights};

const QOS0: Qos = Qos::AtMostOnce;
const QOS1: Qos = Qos::AtLeastOnce;

fn seconds(s: u64) -> Duration {
    Duration::from_secs(s)
}

#[test]
fn a_device_publishes_and_an_application_hears_it_in_every_pair_of_versions() {
    for from in [V311, V5] {
        for to in [V311, V5] {
            let mut net = Net::new(1);
            let app = net.join(0, to, app(1));
            let lamp = net.join(0, from, device(2, "lamp"));
            assert_eq!(
                net.subscribe(app, "devices/+/events/#", QOS1),
                [Got::SubAck(vec![ReasonCode::GrantedQos1])]
            );
            net.publish(lamp, "devices/lamp/events/warm", b"21", QOS0);
            let id = net.publish(lamp, "devices/lamp/events/warm", b"22", QOS1).expect("QoS 1").get();
            assert_eq!(net.got(lamp), [Got::PubAck { id, reason: ReasonCode::Success, text: None }]);
            let got = net.messages(app);
            assert_eq!(got.len(), 2);
            assert_eq!(
                got[0],
                Message {
                    topic: "devices/lamp/events/warm".into(),
                    payload: b"21".to_vec(),
                    ..Message::default()
                }
            );
            assert_eq!((got[1].qos, got[1].id, &got[1].payload[..]), (1, Some(1), &b"22"[..]));
            net.acknowledge(app, 1);
        }
    }
}

#[test]
fn five_packets_queued_behind_connect_are_worked_on_after_the_answer_and_in_order() {
    for version in [V311, V5] {
        let mut net = Net::new(1);
        let client = net.open(0, version);
        let mut bytes = encode(version, &connect(version, "app-1").into());
        let subscribe = Subscribe {
            packet_id: net.next_id(client),
            subscription_identifier: None,
            user_properties: Default::default(),
            entries: vec![SubscribeEntry::of("a/#", QOS0)],
        };
        bytes.extend(encode(version, &Packet::Subscribe(subscribe)));
        for n in 0..4_u8 {
            let publish = Publish {
                dup: false,
                qos: QOS1,
                retain: false,
                topic: Some(TopicName::parse("a/b").expect("a topic")),
                packet_id: Some(net.next_id(client)),
                properties: PublishProperties::default(),
                payload: &[b'0' + n],
            };
            bytes.extend(encode(version, &Packet::Publish(publish)));
        }
        // In pieces that fall anywhere, and all before the answer.
        for piece in bytes.chunks(7) {
            net.send_bytes(client, piece);
        }
        assert_eq!(net.asked.len(), 1);
        assert!(net.got(client).is_empty(), "nothing is said before the answer");
        net.answer(client, Ok(app(1)));
        let got = net.got(client);
        assert!(matches!(got[0], Got::ConnAck { reason: ReasonCode::Success, .. }), "{got:?}");
        assert_eq!(got[1], Got::SubAck(vec![ReasonCode::Success]));
        let acks: Vec<u16> = got
            .iter()
            .filter_map(|g| if let Got::PubAck { id, .. } = g { Some(*id) } else { None })
            .collect();
        assert_eq!(acks, [2, 3, 4, 5]);
        let heard =
            got.iter().filter_map(|g| if let Got::Message(m) = g { Some(m.payload[0]) } else { None });
        assert_eq!(heard.collect::<Vec<_>>(), b"0123");
    }
}

#[test]
fn every_split_of_the_bytes_gives_the_same_conversation() {
    let mut bytes = encode(V5, &connect(V5, "client-1").into());
    let publish = Publish {
        dup: false,
        qos: QOS1,
        retain: false,
        topic: Some(TopicName::parse("a/b").expect("a topic")),
        packet_id: drawbridge_mqtt::codec::PacketId::new(7),
        properties: PublishProperties::default(),
        payload: b"hello",
    };
    bytes.extend(encode(V5, &Packet::Publish(publish)));
    bytes.extend(encode(V5, &Packet::PingReq));
    for at in 0..=bytes.len() {
        let mut net = Net::new(1);
        let client = net.open(0, V5);
        net.send_bytes(client, &bytes[..at]);
        if !net.asked.is_empty() {
            net.answer(client, Ok(app(1)));
        }
        net.send_bytes(client, &bytes[at..]);
        if !net.asked.is_empty() {
            net.answer(client, Ok(app(1)));
        }
        let got = net.got(client);
        assert!(matches!(got[0], Got::ConnAck { reason: ReasonCode::Success, .. }), "split at {at}");
        assert_eq!(got[1..], [Got::PubAck { id: 7, reason: ReasonCode::Success, text: None }, Got::Pong]);
        assert_eq!(net.stats().buffer_bytes, 0, "an idle connection holds no buffers");
    }
}

#[test]
fn a_refusal_is_orderly_in_both_versions_and_tells_why_only_to_the_owner() {
    let table = [
        (RefusedReason::NotAuthorized, ReasonCode::NotAuthorized, 5),
        (RefusedReason::BadCredentials, ReasonCode::BadUserNameOrPassword, 4),
        (RefusedReason::ClientIdRefused, ReasonCode::ClientIdentifierNotValid, 2),
        (RefusedReason::ServerBusy, ReasonCode::ServerBusy, 3),
        (RefusedReason::Unavailable, ReasonCode::ServerUnavailable, 3),
        (RefusedReason::Banned, ReasonCode::Banned, 5),
        (RefusedReason::QuotaExceeded, ReasonCode::QuotaExceeded, 3),
        (RefusedReason::TooManyConnects, ReasonCode::ConnectionRateExceeded, 3),
    ];
    for (reason, code, return_code) in table {
        for for_owner in [None, Some("the token has expired".to_owned())] {
            let mut net = Net::new(1);
            let client = net.open(0, V5);
            net.send(client, &connect(V5, "lamp").into());
            let server_time_s = Some(1_795_301_000);
            net.answer(
                client,
                Err(Refused { reason, for_owner: for_owner.clone(), server_time_s, hint: None }),
            );
            let tells_time = net.clients[client].inbox.windows(7).any(|bytes| bytes == b"db-time");
            assert_eq!(tells_time, for_owner.is_some(), "beside a reason string alone");
            let expected = Got::ConnAck {
                session_present: false,
                reason: code,
                text: for_owner,
                session_expiry_s: None,
                keep_alive_s: None,
            };
            assert_eq!(net.got(client), [expected]);
            assert_eq!(net.clients[client].closed, Some(Close::AfterFlush { linger: true }));
        }
        let mut net = Net::new(1);
        let client = net.open(0, V311);
        net.send(client, &connect(V311, "lamp").into());
        let for_owner = Some("why".to_owned());
        net.answer(
            client,
            Err(Refused { reason, for_owner, server_time_s: Some(1_795_301_000), hint: None }),
        );
        assert_eq!(net.clients[client].inbox, [0x20, 2, 0, return_code], "{reason:?}");
        assert_eq!(net.reported("DB-2032"), 1);
        assert_eq!(net.stats().connections, 0);
    }
}

#[test]
fn a_client_that_wants_no_problem_information_gets_no_reason_string() {
    let mut net = Net::new(1);
    let client = net.open(0, V5);
    let mut packet = connect(V5, "lamp");
    packet.properties.request_problem_information = false;
    net.send(client, &packet.into());
    let for_owner = Some("the token has expired".to_owned());
    net.answer(
        client,
        Err(Refused { reason: RefusedReason::NotAuthorized, for_owner, server_time_s: Some(1), hint: None }),
    );
    assert!(!net.clients[client].inbox.windows(7).any(|bytes| bytes == b"db-time"));
    assert!(matches!(&net.got(client)[..], [Got::ConnAck { text: None, .. }]));
}

#[test]
fn i5_a_silent_subscriber_without_keep_alive_is_closed_at_its_end_and_hears_nothing_after() {
    for version in [V311, V5] {
        let mut net = Net::new(1);
        let publisher = net.join(0, V311, app(1));
        let mut admitted = device(2, "lamp");
        admitted.ends = Some(net.now + seconds(60));
        let lamp = net.join(0, version, admitted);
        net.subscribe(lamp, "devices/lamp/commands/#", QOS1);
        net.pass(Duration::from_millis(59_900));
        assert_eq!(net.clients[lamp].closed, None);
        // At the very end, before any timer fires: nothing is forwarded any more. (A command topic
        // would go to the edge; the configuration of the device is what it may hear as well.)
        net.now = net.base + seconds(60);
        let order = support::command(&net, 1, 2, "devices/lamp/commands");
        net.order(0, order);
        assert!(net.messages(lamp).is_empty());
        net.pass(Duration::from_millis(100));
        assert_eq!(net.clients[lamp].closed, Some(Close::AfterFlush { linger: false }));
        let got = net.got(lamp);
        if version == V5 {
            assert!(
                matches!(&got[..], [Got::Disconnect { reason: ReasonCode::NotAuthorized, text: Some(_) }]),
                "{got:?}"
            );
        } else {
            assert!(got.is_empty());
        }
        assert_eq!(net.reported("DB-2034"), 1);
        assert_eq!(net.stats().sessions, 1);
        assert_eq!(net.clients[publisher].closed, None);
    }
}

#[test]
fn i5_a_packet_at_the_end_of_the_right_is_not_obeyed_even_before_the_timer() {
    let mut net = Net::new(1);
    let listener = net.join(0, V5, app(1));
    net.subscribe(listener, "#", QOS0);
    let mut admitted = device(2, "lamp");
    admitted.ends = Some(net.now + seconds(60));
    let lamp = net.join(0, V5, admitted);
    net.now = net.base + seconds(60);
    net.publish(lamp, "devices/lamp/events/x", b"late", QOS1);
    assert!(net.messages(listener).is_empty());
    assert!(matches!(net.got(lamp)[..], [Got::Disconnect { reason: ReasonCode::NotAuthorized, .. }]));
}

#[test]
fn i5_an_answer_that_comes_after_the_end_of_the_right_opens_nothing() {
    let mut net = Net::new(1);
    let client = net.open(0, V5);
    net.send(client, &connect(V5, "client-1").into());
    let mut admitted = app(1);
    admitted.ends = Some(net.now + seconds(1));
    net.pass(seconds(2));
    net.answer(client, Ok(admitted));
    assert!(matches!(net.got(client)[..], [Got::ConnAck { reason: ReasonCode::NotAuthorized, .. }]));
    assert_eq!(net.stats().sessions, 0);
}

#[test]
fn i2_a_packet_other_than_connect_first_closes_the_socket_without_any_answer() {
    let first_bytes = (0..=255_u8).filter(|byte| byte >> 4 != 1);
    for byte in first_bytes {
        let mut net = Net::new(1);
        let client = net.open(0, V5);
        net.send_bytes(client, &[byte]);
        assert_eq!(net.clients[client].closed, Some(Close::Silent), "{byte:#04x}");
        assert!(net.clients[client].inbox.is_empty());
        assert_eq!(net.reported("DB-2003"), 1);
    }
}

#[test]
fn a_broken_connect_is_closed_without_an_answer_and_a_wrong_version_is_told() {
    let mut net = Net::new(1);
    let broken = net.open(0, V311);
    net.send_bytes(broken, &[0x10, 2, 0, 0]);
    assert_eq!(net.clients[broken].closed, Some(Close::Silent));
    let level_3 = net.open(0, V311);
    net.send_bytes(level_3, &[0x10, 14, 0, 6, b'M', b'Q', b'I', b's', b'd', b'p', 3, 2, 0, 0, 0, 0]);
    assert_eq!(net.clients[level_3].inbox, [0x20, 2, 0, 1]);
    let level_6 = net.open(0, V5);
    net.send_bytes(level_6, &[0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 6, 2, 0, 0, 0, 0, 0]);
    let got = net.got(level_6);
    assert!(
        matches!(got[..], [Got::ConnAck { reason: ReasonCode::UnsupportedProtocolVersion, .. }]),
        "{got:?}"
    );
    assert!(net.asked.is_empty());
}

#[test]
fn i1_input_before_authentication_is_bounded_held_packets_included() {
    // A CONNECT that announces too much is refused at its header.
    let mut net = Net::new(1);
    let client = net.open(0, V5);
    net.send_bytes(client, &[0x10, 0xff, 0xff, 0x03]);
    assert_eq!(net.clients[client].closed, Some(Close::Silent));
    // What is held while CONNECT is judged counts as well, however it is cut.
    for piece in [1, 100, 4_000] {
        let mut net = Net::new(1);
        let client = net.open(0, V5);
        let mut bytes = encode(V5, &connect(V5, "client-1").into());
        let ping = encode(V5, &Packet::PingReq);
        while bytes.len() + ping.len() <= 16 << 10 {
            bytes.extend(&ping);
        }
        for piece in bytes.chunks(piece) {
            net.send_bytes(client, piece);
        }
        assert_eq!(net.clients[client].closed, None, "all of 16 KiB is taken");
        assert!(net.stats().buffer_bytes <= 2 * (16 << 10));
        net.send_bytes(client, &[0; 2]);
        assert_eq!(net.clients[client].closed, Some(Close::Silent));
        assert!(net.clients[client].inbox.is_empty());
        assert_eq!((net.stats().connections, net.reported("DB-2031")), (0, 1));
    }
}

#[test]
fn i1_a_connection_that_is_not_admitted_in_time_is_closed_silently() {
    for connects in [false, true] {
        let mut net = Net::new(1);
        let client = net.open(0, V5);
        if connects {
            net.send(client, &connect(V5, "client-1").into());
        } else {
            net.send_bytes(client, &[0x10]);
        }
        net.pass(Duration::from_millis(9_990));
        assert_eq!(net.clients[client].closed, None);
        net.pass(Duration::from_millis(110));
        assert_eq!(net.clients[client].closed, Some(Close::Silent));
        assert_eq!(net.reported("DB-2030"), 1);
        if connects {
            net.answer(client, Ok(app(1)));
            assert_eq!(net.stats().sessions, 0, "the answer comes too late");
        }
    }
}

#[test]
fn a_denied_publish_is_puback_0x87_or_the_end_of_the_connection_and_reaches_nobody() {
    let denied = "devices/other/events/x";
    // MQTT 5, QoS 1: told, and the connection lives.
    let mut net = Net::new(1);
    let listener = net.join(0, V5, app(1));
    net.subscribe(listener, "#", QOS0);
    let lamp = net.join(0, V5, device(2, "lamp"));
    let id = net.publish(lamp, denied, b"x", QOS1).expect("QoS 1").get();
    let got = net.got(lamp);
    let [Got::PubAck { id: found, reason: ReasonCode::NotAuthorized, text: Some(text) }] = &got[..] else {
        panic!("{got:?}")
    };
    assert_eq!(*found, id);
    assert!(text.contains(denied), "{text}");
    // MQTT 5, QoS 0: there is no answer but DISCONNECT.
    net.publish(lamp, denied, b"x", QOS0);
    assert!(matches!(net.got(lamp)[..], [Got::Disconnect { reason: ReasonCode::NotAuthorized, .. }]));
    // 3.1.1: closed.
    for qos in [QOS0, QOS1] {
        let lamp = net.join(0, V311, device(3, "other-lamp"));
        net.publish(lamp, denied, b"x", qos);
        assert!(net.got(lamp).is_empty());
        assert_eq!(net.clients[lamp].closed, Some(Close::AfterFlush { linger: false }));
    }
    assert!(net.messages(listener).is_empty());
    assert_eq!(net.reported("DB-2038"), 4);
    assert!(net.whats().iter().all(|what| match what {
        What::PublishDenied { topic, rule } => topic == denied && !rule.is_empty(),
        _ => true,
    }));
}

#[test]
fn a_denied_subscription_is_said_in_suback_and_the_others_of_the_packet_hold() {
    for (version, denied) in [(V311, ReasonCode::UnspecifiedError), (V5, ReasonCode::NotAuthorized)] {
        let mut net = Net::new(1);
        let lamp = net.join(0, version, device(2, "lamp"));
        let entries =
            ["devices/lamp/config", "#", "devices/other/config", "a/#/b", "$share/g/devices/lamp/config"];
        let subscribe = Subscribe {
            packet_id: net.next_id(lamp),
            subscription_identifier: None,
            user_properties: Default::default(),
            entries: entries.iter().map(|filter| SubscribeEntry::of(filter, Qos::ExactlyOnce)).collect(),
        };
        net.send(lamp, &Packet::Subscribe(subscribe));
        let got = net.got(lamp);
        let [Got::SubAck(codes)] = &got[..] else { panic!("{got:?}") };
        assert_eq!(codes[..3], [ReasonCode::GrantedQos2, denied, denied]);
        let invalid = if version == V5 { ReasonCode::TopicFilterInvalid } else { denied };
        assert_eq!(codes[3..], [invalid, ReasonCode::GrantedQos2]);
        assert_eq!((net.reported("DB-2039"), net.stats().subscriptions), (2, 2));
    }
}

#[test]
fn i3_no_rights_allow_nothing() {
    let mut net = Net::new(1);
    let mut admitted = app(1);
    admitted.rights = std::sync::Arc::new(drawbridge_policy::Rights::none());
    let client = net.join(0, V5, admitted);
    assert_eq!(net.subscribe(client, "a", QOS0), [Got::SubAck(vec![ReasonCode::NotAuthorized])]);
    net.publish(client, "a", b"x", QOS1);
    assert!(matches!(net.got(client)[..], [Got::PubAck { reason: ReasonCode::NotAuthorized, .. }]));
}

#[test]
fn two_registries_with_the_same_device_and_topic_never_mix() {
    let mut net = Net::new(2);
    let of = |registry: &str, mut admitted: drawbridge_broker::Admitted| {
        admitted.registry = drawbridge_names::RegistryName::parse(registry).expect("a name");
        admitted
    };
    let mut listeners = Vec::new();
    for registry in ["one", "two"] {
        let listener = net.join(0, V5, of(registry, app(1)));
        net.subscribe(listener, "#", QOS1);
        listeners.push(listener);
    }
    // The same uid, name and client id in both: neither takes the other over, on one shard or two.
    let one = net.join(0, V5, of("one", device(7, "lamp")));
    let two = net.join(1, V5, of("two", device(7, "lamp")));
    for (client, text) in [(one, "from one"), (two, "from two")] {
        net.publish(client, "devices/lamp/events/x", text.as_bytes(), QOS1);
        net.retain(client, "devices/lamp/state", text.as_bytes());
    }
    assert!(net.clients.iter().all(|client| client.closed.is_none()));
    for (listener, text) in listeners.into_iter().zip(["from one", "from two"]) {
        assert_eq!(net.payloads(listener), [text, text]);
    }
    for (registry, text) in [("one", "from one"), ("two", "from two")] {
        for shard in [0, 1] {
            let late = net.join(shard, V5, of(registry, app(50 + shard as u64)));
            net.subscribe(late, "none", QOS0);
            let packet = net.next_id(late);
            let subscribe = Subscribe {
                packet_id: packet,
                subscription_identifier: None,
                user_properties: Default::default(),
                entries: vec![SubscribeEntry::of("devices/#", QOS0)],
            };
            net.send(late, &Packet::Subscribe(subscribe));
            assert_eq!(net.payloads(late), [text], "retained, shard {shard}");
        }
    }
}

#[test]
fn a_client_id_never_reaches_the_session_of_another_principal() {
    let mut net = Net::new(1);
    let mut thief = app(1);
    let owner = app(2);
    thief.client_id = owner.client_id.clone();
    let owner = net.join(0, V5, owner);
    net.subscribe(owner, "a", QOS1);
    let thief = net.join(0, V5, thief);
    assert_eq!(net.clients[owner].closed, None, "not taken over");
    net.publish(thief, "a", b"x", QOS0);
    assert!(net.messages(thief).is_empty());
    assert_eq!(net.payloads(owner), ["x"]);
}

#[test]
fn what_is_not_served_yet_is_refused_in_words() {
    let mut net = Net::new(1);
    // Without a storage no session outlives its connection.
    let client = net.connect_with(0, V5, app(1), |packet| packet.properties.session_expiry_s = Some(3_600));
    let got = net.got(client);
    assert!(matches!(got[..], [Got::ConnAck { session_expiry_s: Some(0), .. }]), "{got:?}");
    assert!(net.asked.is_empty());
}

#[test]
fn a_stale_connection_id_is_never_taken_for_a_newer_connection() {
    let mut net = Net::new(1);
    let first = net.join(0, V5, app(1));
    let stale = net.clients[first].conn;
    net.hang_up(first);
    let second = net.join(0, V5, app(2));
    let conn = net.clients[second].conn;
    assert_eq!((conn.slot(), conn == stale), (stale.slot(), false));
    let mut fx = Vec::new();
    let now = net.now;
    net.shards[0].receive(now, stale, &encode(V5, &Packet::PingReq), &mut fx);
    net.shards[0].answer(now, stale, Ok(app(3)), &mut fx);
    net.shards[0].hung_up(now, stale, &mut fx);
    net.shards[0].drained(now, stale, &mut fx);
    assert!(fx.is_empty(), "{fx:?}");
    assert!(net.shards[0].output(stale).is_none());
    assert_eq!(net.stats().sessions, 1);
}

#[test]
fn write_is_said_once_until_the_output_is_drained() {
    let mut net = Net::new(1);
    let client = net.join(0, V5, app(1));
    let conn = net.clients[client].conn;
    let ping = encode(V5, &Packet::PingReq);
    let mut fx = Vec::new();
    let now = net.now;
    for _ in 0..3 {
        net.shards[0].receive(now, conn, &ping, &mut fx);
    }
    assert!(matches!(fx[..], [Effect::Write { .. }]), "{fx:?}");
    net.shards[0].output(conn).expect("open").clear();
    net.shards[0].drained(now, conn, &mut fx);
    net.shards[0].receive(now, conn, &ping, &mut fx);
    assert!(matches!(fx[..], [Effect::Write { .. }, Effect::Write { .. }]), "{fx:?}");
}

#[test]
fn a_google_client_speaks_with_a_leading_slash_and_the_others_do_not() {
    let mut net = Net::new(1);
    let app_client = net.join(0, V5, app(1));
    net.subscribe(app_client, "devices/+/events/#", QOS1);
    let mut admitted = device(2, "lamp");
    admitted.leading_slash = true;
    let lamp = net.join(0, V311, admitted);
    let granted = [Got::SubAck(vec![ReasonCode::GrantedQos1])];
    assert_eq!(net.subscribe(lamp, "/devices/lamp/commands/#", QOS1), granted);
    net.publish(lamp, "/devices/lamp/events/x", b"1", QOS1);
    assert_eq!(net.topics(app_client), ["devices/lamp/events/x"]);
    let order = support::command(&net, 1, 2, "devices/lamp/commands/blink");
    net.order(0, order);
    assert_eq!(net.topics(lamp), ["/devices/lamp/commands/blink"]);
    let _ = net.unsubscribe(lamp, "/devices/lamp/commands/#");
    assert_eq!(net.stats().subscriptions, 1);
    // Without the mapping the slash is just another topic, which the policy does not name.
    let plain = net.join(0, V5, device(3, "other"));
    net.publish(plain, "/devices/other/events/x", b"1", QOS1);
    assert!(matches!(net.got(plain)[..], [Got::PubAck { reason: ReasonCode::NotAuthorized, .. }]));
}

#[test]
fn rights_narrowed_by_a_filter_hold_for_topics_behind_wildcards() {
    // A subscription that is wider than what may be received: the rest is withheld at delivery.
    let mut net = Net::new(1);
    let publisher = net.join(0, V5, app(1));
    let mut admitted = app(2);
    admitted.rights = support::compiled(
        "[[allow]]\nsubscribe = [\"a/#\"]\n[[deny]]\nsubscribe = [\"a/secret/#\"]\n",
        "test",
    );
    let reader = net.join(0, V5, admitted);
    assert_eq!(net.subscribe(reader, "a/#", QOS1), [Got::SubAck(vec![ReasonCode::GrantedQos1])]);
    net.publish(publisher, "a/open", b"1", QOS1);
    net.publish(publisher, "a/secret/x", b"2", QOS1);
    assert_eq!(net.topics(reader), ["a/open"]);
    assert_eq!(net.stats().withheld, 1);
    assert!(rights(&["#"], &[]).may_publish(TopicName::parse("a").expect("a")).allowed);
}

#[test]
fn an_empty_client_id_without_clean_session_is_refused_in_3_1_1() {
    // [MQTT-3.1.3-8] (3.1.1); in 5.0 the client is told the name it was given.
    for (version, clean, expected) in [
        (V311, false, ReasonCode::ClientIdentifierNotValid),
        (V311, true, ReasonCode::Success),
        (V5, false, ReasonCode::Success),
    ] {
        let mut net = Net::new(1);
        let assigned = drawbridge_broker::Admitted { assigned_client_id: true, ..app(1) };
        let client = net.connect_with(0, version, assigned, |packet| {
            packet.client_id = "";
            packet.clean_start = clean;
        });
        let got = net.got(client);
        assert!(matches!(&got[..], [Got::ConnAck { reason, .. }] if *reason == expected), "{got:?}");
    }
}
