//! A client that has not logged in publishes a token to `authz-info`, and can do nothing else (RFC 9431 appendix A).

mod support;

use std::time::Duration;

use drawbridge_broker::{AUTHZ_INFO_TOPIC, Close};
use drawbridge_mqtt::codec::{Ack, Packet, PacketId, ProtocolVersion, Qos, ReasonCode};
use support::{Got, Net, V5, V311, app, connect, goodbye, will};

const ALL: [Qos; 3] = [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce];

/// Connects without a session.
fn nobody(net: &mut Net, version: ProtocolVersion) -> usize {
    let client = net.open(0, version);
    let mut packet = connect(version, "anything");
    (packet.username, packet.password) = (None, None);
    net.send(client, &packet.into());
    let_in(net, client);
    net.expect_welcome(client);
    client
}

fn let_in(net: &mut Net, client: usize) {
    let conn = net.clients[client].conn;
    net.asked.retain(|(_, asked, _)| *asked != conn);
    net.run(0, |shard, now, fx| shard.answer_for_token(now, conn, None, fx));
}

fn judged(net: &mut Net, client: usize, outcome: Result<(), ReasonCode>) -> Vec<u8> {
    let conn = net.clients[client].conn;
    let at = net.tokens.iter().position(|(_, of, _)| *of == conn).expect("a token was published");
    let (.., token) = net.tokens.remove(at);
    net.run(0, |shard, now, fx| shard.token_judged(now, conn, outcome, fx));
    token
}

#[test]
fn a_token_is_answered_in_the_words_of_its_version_and_quality_of_service() {
    let mut net = Net::with(1, |config| config.takes_authz_info = true);
    // Whoever may hear everything hears nothing of it.
    let listener = net.join(0, V5, app(1));
    net.subscribe(listener, "#", Qos::AtLeastOnce);
    for version in [V311, V5] {
        for qos in ALL {
            for outcome in [Ok(()), Err(ReasonCode::NotAuthorized), Err(ReasonCode::PayloadFormatInvalid)] {
                let client = nobody(&mut net, version);
                let id = net.publish(client, AUTHZ_INFO_TOPIC, b"a token", qos).map(PacketId::get);
                assert_eq!(net.got(client), [], "not before it is judged");
                assert_eq!(judged(&mut net, client, outcome), b"a token");
                let told = outcome.err().filter(|_| version == V5);
                let code = told.unwrap_or(ReasonCode::Success);
                let wanted = match (qos, id) {
                    (Qos::AtLeastOnce, Some(id)) => vec![Got::PubAck { id, reason: code, text: None }],
                    (Qos::ExactlyOnce, Some(id)) => vec![Got::PubRec(id, code)],
                    _ => Vec::from_iter(told.map(|reason| Got::Disconnect { reason, text: None })),
                };
                let case = format!("{version:?} {qos:?} {outcome:?}");
                assert_eq!(net.got(client), wanted, "{case}");
                let ends = qos == Qos::AtMostOnce && told.is_some();
                assert_eq!(net.clients[client].closed.is_some(), ends, "{case}");
                if let (Qos::ExactlyOnce, Some(id), None) = (qos, id, told) {
                    let id = PacketId::new(id).expect("an identifier");
                    for known in [true, false] {
                        let release = Ack::of(id, ReasonCode::Success);
                        net.send(client, &Packet::PubRel(release));
                        let code = match known || version == V311 {
                            true => ReasonCode::Success,
                            false => ReasonCode::PacketIdentifierNotFound,
                        };
                        assert_eq!(net.got(client), [Got::PubComp(id.get(), code)], "{case}");
                    }
                }
                if !ends {
                    net.send(client, &goodbye(ReasonCode::NORMAL_DISCONNECTION));
                    assert_eq!(net.clients[client].closed, Some(Close::AfterFlush { linger: false }));
                }
            }
        }
    }
    assert_eq!(net.got(listener), []);
    let stats = net.stats();
    assert_eq!((stats.received, stats.retained, stats.sessions), (0, 0, 1), "not counted, not kept");
}

#[test]
fn who_has_not_logged_in_can_do_nothing_but_publish_a_token() {
    for version in [V311, V5] {
        for act in ["publish", "subscribe", "below", "auth"] {
            let mut net = Net::new(1);
            let client = nobody(&mut net, version);
            match act {
                "publish" => drop(net.publish(client, "devices/lamp/events", b"x", Qos::AtLeastOnce)),
                "below" => drop(net.publish(client, "authz-info/x", b"x", Qos::AtMostOnce)),
                "subscribe" => drop(net.subscribe(client, AUTHZ_INFO_TOPIC, Qos::AtMostOnce)),
                _ => drop(net.publish(client, "$drawbridge/auth", b"x", Qos::AtLeastOnce)),
            }
            let _ = net.got(client);
            assert_eq!(net.clients[client].closed, Some(Close::AfterFlush { linger: true }), "{act}");
            assert_eq!(net.reported("DB-2048"), 1, "{act}");
            assert!(net.tokens.is_empty() && net.renewals.is_empty(), "{act}");
            assert_eq!((net.stats().sessions, net.stats().subscriptions), (0, 0), "{act}");
        }
        // A will would speak for nobody.
        let mut net = Net::new(1);
        let client = net.open(0, version);
        let mut packet = connect(version, "x");
        packet.will = Some(will("a", b"gone"));
        net.send(client, &packet.into());
        let_in(&mut net, client);
        let got = net.got(client);
        assert!(matches!(got[..], [Got::ConnAck { reason: ReasonCode::NotAuthorized, .. }]), "{got:?}");
        // And who stays is closed by the time that everybody has who has not logged in.
        let client = nobody(&mut net, version);
        net.pass(Duration::from_secs(11));
        assert_eq!(net.clients[client].closed, Some(Close::Silent));
    }
}

#[test]
fn one_token_is_judged_at_a_time_and_their_bytes_are_bounded() {
    let mut net = Net::new(1);
    let client = nobody(&mut net, V5);
    for payload in [b"one", b"two"] {
        net.publish(client, AUTHZ_INFO_TOPIC, payload, Qos::AtLeastOnce);
    }
    assert_eq!(net.tokens.len(), 1, "the second waits");
    assert_eq!(judged(&mut net, client, Ok(())), b"one");
    assert_eq!(judged(&mut net, client, Ok(())), b"two");
    net.publish(client, AUTHZ_INFO_TOPIC, &vec![0; 17 << 10], Qos::AtLeastOnce);
    assert_eq!(net.clients[client].closed, Some(Close::Silent));
    assert_eq!(net.reported("DB-2031"), 1);
}

#[test]
fn a_session_publishes_no_token_where_others_do_and_the_topic_is_its_own_where_nobody_does() {
    for takes in [false, true] {
        let mut net = Net::with(1, move |config| config.takes_authz_info = takes);
        let (client, other) = (net.join(0, V5, app(1)), net.join(0, V5, app(2)));
        net.subscribe(other, "#", Qos::AtMostOnce);
        net.publish(client, AUTHZ_INFO_TOPIC, b"a token", Qos::AtLeastOnce);
        let got = net.got(client);
        let [Got::PubAck { reason, .. }] = &got[..] else { panic!("{got:?}") };
        assert_eq!(*reason == ReasonCode::NotAuthorized, takes);
        assert_eq!(net.topics(other).len(), usize::from(!takes));
    }
}

#[test]
fn whatever_a_client_says_that_has_not_logged_in_it_leaves_nothing_behind() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut net = Net::with(1, |config| config.takes_authz_info = true);
    let listener = net.join(0, V5, app(1));
    net.subscribe(listener, "#", Qos::AtLeastOnce);
    let mut judged_in_all = 0;
    for round in 0..500 {
        let version = if round % 2 == 0 { V311 } else { V5 };
        let client = nobody(&mut net, version);
        for _ in 0..12 {
            if net.clients[client].closed.is_some() {
                break;
            }
            let conn = net.clients[client].conn;
            match random(8) {
                0..=2 => {
                    let qos = ALL[usize::try_from(random(3)).expect("small")];
                    net.publish(client, AUTHZ_INFO_TOPIC, b"a token", qos);
                }
                3 | 4 if net.tokens.iter().any(|(_, of, _)| *of == conn) => {
                    let outcomes =
                        [Ok(()), Err(ReasonCode::NotAuthorized), Err(ReasonCode::PayloadFormatInvalid)];
                    judged(&mut net, client, outcomes[usize::try_from(random(3)).expect("small")]);
                    judged_in_all += 1;
                }
                5 => {
                    let id = PacketId::new(u16::try_from(random(4) + 1).expect("small")).expect("not 0");
                    net.send(client, &Packet::PubRel(Ack::of(id, ReasonCode::Success)));
                }
                6 => net.send(client, &Packet::PingReq),
                7 if random(4) == 0 => {
                    let bytes: Vec<u8> =
                        (0..random(30)).map(|_| u8::try_from(random(256)).expect("a byte")).collect();
                    net.send_bytes(client, &bytes);
                }
                _ => net.pass(Duration::from_millis(random(900))),
            }
            let _ = net.got(client);
        }
        // What was under judgement is answered to nobody.
        net.hang_up(client);
        let conn = net.clients[client].conn;
        net.run(0, |shard, now, fx| shard.token_judged(now, conn, Ok(()), fx));
    }
    assert!(judged_in_all > 500, "{judged_in_all}");
    assert_eq!(net.got(listener), []);
    let stats = net.stats();
    assert_eq!((stats.connections, stats.sessions, stats.subscriptions), (1, 1, 1));
    assert_eq!((stats.received, stats.retained, stats.delayed_wills), (0, 0, 0));
}
