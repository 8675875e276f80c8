//! Beginnings and ends of sessions: take-over, wills, keep-alive, revocation, limits of the protocol.

mod support;

use std::time::Duration;

use drawbridge_broker::{Admitted, Close, Ended, EndedWhy, Ticket, TicketEnd};
use drawbridge_mqtt::codec::{Packet, Publish, PublishProperties, Qos, ReasonCode};
use drawbridge_names::{MqttClientId, RegistryName, TopicName, Uid};
use support::{Got, Net, V5, V311, app, connect, device, encode, goodbye, kid, rights, will};

const QOS0: Qos = Qos::AtMostOnce;
const QOS1: Qos = Qos::AtLeastOnce;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn named(id: &str, admitted: Admitted) -> Admitted {
    Admitted { client_id: MqttClientId::parse(id).expect("a client id"), ..admitted }
}

#[test]
fn a_newer_session_of_a_device_takes_the_older_over_on_the_same_shard_and_on_another() {
    for shards in [1, 2] {
        for version in [V311, V5] {
            let mut net = Net::new(shards);
            let old = net.join(0, version, device(7, "lamp"));
            net.subscribe(old, "devices/lamp/commands/#", QOS1);
            let new = net.join(shards - 1, version, named("lamp:2", device(7, "lamp")));
            assert_eq!(net.clients[old].closed, Some(Close::AfterFlush { linger: false }));
            let got = net.got(old);
            if version == V5 {
                assert!(
                    matches!(got[..], [Got::Disconnect { reason: ReasonCode::SessionTakenOver, .. }]),
                    "{got:?}"
                );
            } else {
                assert!(got.is_empty());
            }
            assert_eq!(net.clients[new].closed, None);
            assert_eq!(net.reported("DB-2036"), 1);
            let registry = RegistryName::default_registry();
            assert_eq!(net.directory.find(&registry, Uid(7)), Some((shards - 1, net.clients[new].conn)));
            // Its subscriptions are its own.
            let subscriptions: usize = net.shards.iter().map(|shard| shard.stats().subscriptions).sum();
            assert_eq!(subscriptions, 0);
            let conn = net.clients[new].conn;
            assert_eq!(net.shards[shards - 1].owner_epoch(conn), Some(2), "the fence moved on");
        }
    }
}

#[test]
fn an_application_may_have_many_sessions_and_the_same_client_id_replaces() {
    let mut net = Net::new(2);
    let one = net.join(0, V5, named("one", app(1)));
    let two = net.join(1, V5, named("two", app(1)));
    assert_eq!((net.clients[one].closed, net.clients[two].closed), (None, None));
    net.join(1, V5, named("one", app(1)));
    assert!(net.clients[one].closed.is_some());
    assert_eq!(net.clients[two].closed, None);
}

#[test]
fn two_clients_with_one_identity_are_slowed_down_and_it_is_an_alarm() {
    for (version, refusal) in
        [(V311, ReasonCode::ServerUnavailable), (V5, ReasonCode::ConnectionRateExceeded)]
    {
        let mut net = Net::new(1);
        for _ in 0..6 {
            net.join(0, version, device(7, "lamp"));
            net.pass(ms(100));
        }
        let seventh = net.connect(0, version, device(7, "lamp"));
        let got = net.got(seventh);
        assert!(matches!(&got[..], [Got::ConnAck { reason, .. }] if *reason == refusal), "{got:?}");
        assert_eq!((net.reported("DB-2037"), net.stats().sessions), (1, 1));
        assert_eq!(net.clients[5].closed, None, "the one inside stays");
        net.pass(ms(10_000));
        net.join(0, version, device(7, "lamp"));
    }
}

#[test]
fn keep_alive_is_one_and_a_half_times_and_any_packet_proves_life() {
    for version in [V311, V5] {
        let mut net = Net::new(1);
        let client = net.connect_with(0, version, app(1), |packet| packet.keep_alive_s = 10);
        net.expect_welcome(client);
        for _ in 0..5 {
            net.pass(ms(14_000));
            net.send(client, &Packet::PingReq);
            assert_eq!(net.got(client), [Got::Pong]);
        }
        net.pass(ms(14_990));
        assert_eq!(net.clients[client].closed, None);
        net.pass(ms(110));
        assert_eq!(net.clients[client].closed, Some(Close::AfterFlush { linger: false }));
        let got = net.got(client);
        if version == V5 {
            assert!(
                matches!(got[..], [Got::Disconnect { reason: ReasonCode::KeepAliveTimeout, .. }]),
                "{got:?}"
            );
        }
        assert_eq!(net.reported("DB-2033"), 1);
    }
}

#[test]
fn a_longer_keep_alive_than_allowed_is_lowered_where_the_client_can_be_told() {
    let mut net = Net::with(1, |config| config.keep_alive_s_max = 100);
    for (asked, told) in [(0, Some(100)), (101, Some(100)), (100, None)] {
        let client = net.connect_with(0, V5, app(1), |packet| packet.keep_alive_s = asked);
        let got = net.got(client);
        assert!(matches!(&got[..], [Got::ConnAck { keep_alive_s, .. }] if *keep_alive_s == told), "{got:?}");
    }
    let old = net.connect_with(0, V311, app(2), |packet| packet.keep_alive_s = 200);
    net.pass(ms(200_000));
    assert_eq!(net.clients[old].closed, None, "3.1.1 has no word for it: its own holds");
}

/// How a session with a will may end, and whether the will is then published.
fn end_by(how: &str, version: drawbridge_mqtt::codec::ProtocolVersion) -> (Net, Vec<String>) {
    let mut net = Net::new(2);
    let listener = net.join(1, V5, app(1));
    net.subscribe(listener, "wills/#", QOS1);
    let mut admitted = Admitted { rights: rights(&["wills/#"], &["#"]), sessions_max: 1, ..app(2) };
    admitted.ends = Some(net.now + ms(100_000));
    admitted.kid = Some(kid('A'));
    let again = admitted.clone();
    let client = net.connect_with(0, version, admitted, |packet| {
        packet.keep_alive_s = 20;
        packet.will = Some(will("wills/two", b"gone"));
    });
    net.expect_welcome(client);
    let registry = RegistryName::default_registry();
    let principal = |why| Ended::Principal { registry: registry.clone(), uid: Uid(2), why };
    let end = |net: &mut Net, ended: &Ended| {
        for shard in [0, 1] {
            net.run(shard, |shard, now, fx| shard.end_sessions(now, ended, fx));
        }
    };
    match how {
        "goodbye" => net.send(client, &goodbye(ReasonCode::NORMAL_DISCONNECTION)),
        "goodbye with will" => net.send(client, &goodbye(ReasonCode::DisconnectWithWill)),
        "hang up" => net.hang_up(client),
        "protocol error" => net.send_bytes(client, &[0xf0, 0]),
        "keep-alive" => net.pass(ms(31_000)),
        "expiry" => {
            for _ in 0..10 {
                net.pass(ms(10_000));
                net.send(client, &Packet::PingReq);
            }
            net.pass(ms(200));
        }
        "takeover" => {
            net.join(1, version, again);
        }
        "operator" => end(&mut net, &principal(EndedWhy::Operator)),
        "revoked" => end(&mut net, &principal(EndedWhy::Revoked)),
        "blocked" => end(&mut net, &principal(EndedWhy::Blocked)),
        "deleted" => end(&mut net, &principal(EndedWhy::Deleted)),
        "key removed" => {
            end(&mut net, &Ended::Key { registry: registry.clone(), uid: Uid(2), kid: kid('A') })
        }
        other => panic!("{other}"),
    }
    assert!(net.clients[client].closed.is_some() || how == "hang up", "{how}");
    let heard = net.payloads(listener);
    (net, heard)
}

#[test]
fn a_will_is_published_however_the_session_ends_except_by_a_goodbye_or_when_its_owner_is_not_believed() {
    for version in [V311, V5] {
        for how in ["hang up", "protocol error", "keep-alive", "expiry", "takeover", "operator"] {
            assert_eq!(end_by(how, version).1, ["gone"], "{how}");
        }
        for how in ["goodbye", "blocked", "deleted", "revoked", "key removed"] {
            let (net, heard) = end_by(how, version);
            assert!(heard.is_empty(), "{how}");
            assert_eq!(net.reported("DB-2040"), usize::from(how != "goodbye"), "{how}");
        }
    }
    assert_eq!(end_by("goodbye with will", V5).1, ["gone"]);
}

#[test]
fn a_will_that_may_not_be_published_refuses_the_connect() {
    for (version, refusal) in [(V311, ReasonCode::NotAuthorized), (V5, ReasonCode::NotAuthorized)] {
        let mut net = Net::new(1);
        let client = net.connect_with(0, version, device(2, "lamp"), |packet| {
            packet.will = Some(will("devices/x/events", b""))
        });
        let got = net.got(client);
        assert!(matches!(&got[..], [Got::ConnAck { reason, .. }] if *reason == refusal), "{got:?}");
        assert_eq!((net.stats().sessions, net.reported("DB-2040")), (0, 1));
        assert_eq!(net.directory.find(&RegistryName::default_registry(), Uid(2)), None);
    }
}

#[test]
fn a_delayed_will_waits_and_is_dropped_when_its_session_is_back() {
    for back_on in [0, 1] {
        for comes_back in [false, true] {
            let mut net = Net::durable(2);
            let listener = net.join(0, V5, app(1));
            net.subscribe(listener, "wills/#", QOS1);
            let client = net.connect_with(0, V5, app(2), |packet| {
                let mut will = will("wills/two", b"gone");
                will.properties.delay_s = Some(30);
                packet.will = Some(will);
                packet.properties.session_expiry_s = Some(3_600);
            });
            net.hang_up(client);
            net.pass(ms(29_000));
            assert!(net.messages(listener).is_empty());
            if comes_back {
                assert!(net.rejoin(back_on, V5, app(2), 3_600).1, "its session waited");
            }
            net.pass(ms(1_200));
            assert_eq!(net.messages(listener).len(), usize::from(!comes_back));
        }
    }
}

#[test]
fn i6_block_revoke_and_removal_of_the_key_end_the_sessions_concerned_and_no_others() {
    let registry = RegistryName::default_registry();
    let ticket = |uid: Option<u64>, end| Ended::Ticket { registry: registry.clone(), uid: uid.map(Uid), end };
    let table = [
        (
            Ended::Principal { registry: registry.clone(), uid: Uid(2), why: EndedWhy::Blocked },
            vec![0, 1],
            ReasonCode::NotAuthorized,
        ),
        (
            Ended::Principal { registry: registry.clone(), uid: Uid(2), why: EndedWhy::Operator },
            vec![0, 1],
            ReasonCode::AdministrativeAction,
        ),
        (
            Ended::Key { registry: registry.clone(), uid: Uid(2), kid: kid('B') },
            vec![1],
            ReasonCode::NotAuthorized,
        ),
        (
            Ended::Policy { registry: registry.clone(), uid: Uid(2), rights: None },
            vec![0, 1],
            ReasonCode::AdministrativeAction,
        ),
        (
            Ended::Principal {
                registry: RegistryName::parse("other").expect("a name"),
                uid: Uid(2),
                why: EndedWhy::Blocked,
            },
            vec![],
            ReasonCode::NotAuthorized,
        ),
        (ticket(Some(2), TicketEnd::Token([b'A'; 16])), vec![0], ReasonCode::NotAuthorized),
        (ticket(Some(2), TicketEnd::Token([b'C'; 16])), vec![], ReasonCode::NotAuthorized),
        (ticket(None, TicketEnd::IssuerKey(kid('A'))), vec![0, 2], ReasonCode::NotAuthorized),
        (ticket(None, TicketEnd::Gateway(Uid(9))), vec![1], ReasonCode::NotAuthorized),
        (Ended::All, vec![0, 1, 2], ReasonCode::ServerShuttingDown),
    ];
    for (ended, gone, expected) in table {
        let mut net = Net::new(2);
        for (shard, uid, id, key) in [(0, 2, "a", 'A'), (1, 2, "b", 'B'), (1, 3, "c", 'A')] {
            let ticket = Some(Box::new(Ticket {
                token: [key as u8; 16],
                issuer_kid: Some(kid(key)),
                gateway: (key == 'B').then_some(Uid(9)),
            }));
            let admitted = Admitted { kid: Some(kid(key)), ticket, ..named(id, app(uid)) };
            let client = net.join(shard, V5, admitted);
            net.subscribe(client, "x", QOS1);
        }
        for shard in [0, 1] {
            net.run(shard, |shard, now, fx| shard.end_sessions(now, &ended, fx));
        }
        for client in 0..3 {
            let got = net.got(client);
            if gone.contains(&client) {
                assert!(
                    matches!(&got[..], [Got::Disconnect { reason, .. }] if *reason == expected),
                    "{ended:?}: {got:?}"
                );
            } else {
                assert_eq!((got.len(), net.clients[client].closed), (0, None), "{ended:?}");
            }
        }
        let left: usize = net.shards.iter().map(|shard| shard.stats().subscriptions).sum();
        assert_eq!(left, 3 - gone.len());
    }
}

#[test]
fn a_topic_alias_stands_for_its_topic_on_its_connection_only() {
    let mut net = Net::with(1, |config| config.topic_alias_maximum = 2);
    let listener = net.join(0, V5, app(1));
    net.subscribe(listener, "#", QOS0);
    let publish = |net: &mut Net, client: usize, topic: Option<&str>, alias: u16| {
        let properties = PublishProperties {
            topic_alias: std::num::NonZeroU16::new(alias),
            ..PublishProperties::default()
        };
        let topic = topic.map(|topic| TopicName::parse(topic).expect("a topic"));
        let packet = Publish {
            dup: false,
            qos: QOS0,
            retain: false,
            topic,
            packet_id: None,
            properties,
            payload: b"x",
        };
        net.send(client, &Packet::Publish(packet));
    };
    let one = net.join(0, V5, app(2));
    publish(&mut net, one, Some("a"), 1);
    publish(&mut net, one, Some("b"), 2);
    publish(&mut net, one, None, 1);
    publish(&mut net, one, Some("c"), 1);
    publish(&mut net, one, None, 1);
    assert_eq!(net.topics(listener), ["a", "b", "a", "c", "c"]);
    let other = net.join(0, V5, app(3));
    publish(&mut net, other, None, 1);
    assert!(matches!(net.got(other)[..], [Got::Disconnect { reason: ReasonCode::ProtocolError, .. }]));
    publish(&mut net, one, Some("d"), 3);
    assert!(matches!(net.got(one)[..], [Got::Disconnect { reason: ReasonCode::TopicAliasInvalid, .. }]));
    assert_eq!(net.reported("DB-2022"), 2);
}

#[test]
fn more_publishes_than_the_receive_maximum_end_the_connection() {
    let mut net = Net::with(1, |config| config.receive_maximum = 2);
    let client = net.join(0, V5, app(1));
    // Control publishes are answered by the edge, so they stay open until it does.
    for _ in 0..2 {
        net.publish(client, "devices/lamp/commands", b"x", QOS1);
    }
    assert_eq!(net.clients[client].closed, None);
    let (shard, conn, ack, _) = net.controls.remove(0);
    net.run(shard, |shard, now, fx| shard.control_done(now, conn, ack.expect("QoS 1"), Ok(()), fx));
    net.publish(client, "devices/lamp/commands", b"x", QOS1);
    assert_eq!(net.clients[client].closed, None);
    net.publish(client, "devices/lamp/commands", b"x", QOS1);
    let got = net.got(client);
    assert!(
        matches!(got.last(), Some(Got::Disconnect { reason: ReasonCode::ReceiveMaximumExceeded, .. })),
        "{got:?}"
    );
}

#[test]
fn what_the_protocol_forbids_ends_the_connection_with_its_reason() {
    let table: [(&[u8], ReasonCode); 6] = [
        (&encode(V5, &connect(V5, "x").into()), ReasonCode::ProtocolError),
        (&[0xf0, 0], ReasonCode::ProtocolError),
        (&[0x20, 3, 0, 0, 0], ReasonCode::ProtocolError),
        (&[0x30, 0xff, 0xff, 0xff, 0x7f], ReasonCode::PacketTooLarge),
        (&[0x62, 2, 0, 0], ReasonCode::ProtocolError),
        (&[0xc1, 0], ReasonCode::MalformedPacket),
    ];
    for (bytes, expected) in table {
        let mut net = Net::new(1);
        let client = net.join(0, V5, app(1));
        net.send_bytes(client, bytes);
        let got = net.got(client);
        assert!(
            matches!(&got[..], [Got::Disconnect { reason, .. }] if *reason == expected),
            "{bytes:02x?}: {got:?}"
        );
        assert_eq!(net.stats().connections, 0);
        // What follows in the same read is not looked at.
        let client = net.join(0, V311, app(1));
        let mut more = vec![0x62, 2, 0, 0];
        more.extend(encode(V311, &Packet::PingReq));
        net.send_bytes(client, &more);
        assert!(net.got(client).is_empty());
    }
}

#[test]
fn a_puback_for_nothing_is_harmless() {
    let mut net = Net::new(1);
    let client = net.join(0, V5, app(1));
    net.acknowledge(client, 9);
    assert_eq!(net.clients[client].closed, None);
}

#[test]
fn packet_identifiers_go_round_without_meeting_one_in_flight() {
    let mut net = Net::new(1);
    let publisher = net.join(0, V311, app(1));
    let reader = net.join(0, V311, app(2));
    net.subscribe(reader, "a", QOS1);
    let packet = |payload: &'static [u8]| {
        encode(
            V311,
            &Packet::Publish(Publish {
                dup: false,
                qos: QOS1,
                retain: false,
                topic: Some(TopicName::parse("a").expect("a topic")),
                packet_id: drawbridge_mqtt::codec::PacketId::new(1),
                properties: PublishProperties::default(),
                payload,
            }),
        )
    };
    // The first one is never acknowledged; 70,000 pass it by.
    net.send_bytes(publisher, &packet(b"stuck"));
    assert_eq!(net.messages(reader)[0].id, Some(1));
    let bytes = packet(b"x");
    let mut last = 1;
    for _ in 0..70_000 {
        net.send_bytes(publisher, &bytes);
        let got = net.messages(reader);
        let id = got[0].id.expect("QoS 1");
        assert!(got.len() == 1 && id != 1 && id != last, "{id} after {last}");
        net.acknowledge(reader, id);
        last = id;
        net.clients[publisher].inbox.clear();
    }
}

#[test]
fn a_session_has_a_limit_of_subscriptions() {
    let mut net = Net::with(1, |config| config.subscriptions_max = 2);
    let client = net.join(0, V5, app(1));
    for (filter, code) in [
        ("a", ReasonCode::Success),
        ("b/+", ReasonCode::Success),
        ("c", ReasonCode::QuotaExceeded),
        ("a", ReasonCode::Success),
    ] {
        assert_eq!(net.subscribe(client, filter, QOS0), [Got::SubAck(vec![code])], "{filter}");
    }
    let deep = "+/".repeat(200) + "#";
    assert_eq!(net.subscribe(client, &deep, QOS0), [Got::SubAck(vec![ReasonCode::TopicFilterInvalid])]);
    assert_eq!(net.unsubscribe(client, "a"), [Got::UnsubAck(vec![ReasonCode::Success])]);
    assert_eq!(net.unsubscribe(client, "a"), [Got::UnsubAck(vec![ReasonCode::NoSubscriptionExisted])]);
    assert_eq!(net.subscribe(client, "c", QOS0), [Got::SubAck(vec![ReasonCode::Success])]);
}
