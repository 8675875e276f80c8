//! A session gets a new right while it is open: by AUTH of MQTT 5, by a publish in any version, by a change of its
//! policy. `docs/mqtt.md` says what happens to what it has lost.

mod support;

use std::time::Duration;

use drawbridge_broker::{
    AUTH_NONCE_TOPIC, AUTH_RESULT_TOPIC, AUTH_TOPIC, Admitted, Asked, Close, Ended, Refused, RefusedReason,
    RenewBy,
};
use drawbridge_mqtt::codec::{Auth, Packet, Qos, ReasonCode, UserProperties};
use drawbridge_names::{RegistryName, Uid};
use serde_json::{Value, json};
use support::{Got, Net, V5, V311, app, connect, goodbye, rights, will};

const QOS1: Qos = Qos::AtLeastOnce;

fn seconds(s: u64) -> Duration {
    Duration::from_secs(s)
}

fn auth(reason: ReasonCode, data: &[u8]) -> Packet<'_> {
    let user_properties = UserProperties::default();
    Packet::Auth(Auth { reason, method: Some("ace"), data: Some(data), reason_string: None, user_properties })
}

/// `app(uid)` until so many seconds from now.
fn until(net: &Net, uid: u64, s: u64) -> Admitted {
    Admitted { ends: Some(net.now + seconds(s)), ..app(uid) }
}

fn refused() -> Refused {
    Refused { reason: RefusedReason::NotAuthorized, for_owner: None, server_time_s: None, hint: None }
}

/// A client of MQTT 5 that was let in by the method `ace`, for 10 s.
fn by_method(net: &mut Net) -> usize {
    let admitted = until(net, 1, 10);
    let client = net.connect_with(0, V5, admitted, |packet| {
        (packet.username, packet.password) = (None, None);
        packet.properties.authentication_method = Some("ace");
    });
    net.expect_welcome(client);
    client
}

/// The one message on `$drawbridge/auth/result`.
fn result(net: &mut Net, client: usize) -> Value {
    let told = net.messages(client);
    let told: Vec<_> = told.iter().filter(|message| message.topic == AUTH_RESULT_TOPIC).collect();
    let [told] = told[..] else { panic!("{told:?}") };
    assert_eq!((told.qos, told.retain), (0, false));
    serde_json::from_slice(&told.payload).expect("JSON")
}

#[test]
fn before_connack_a_client_answers_challenges_and_may_say_nothing_else() {
    let mut net = Net::new(1);
    let begin = |net: &mut Net| {
        let client = net.open(0, V5);
        let mut packet = connect(V5, "client-1");
        (packet.username, packet.password) = (None, None);
        packet.properties.authentication_method = Some("ace");
        packet.properties.authentication_data = Some(b"token");
        net.send(client, &packet.into());
        let (_, conn, request) = net.asked.pop().expect("asked");
        assert_eq!(request.method.as_deref(), Some("ace"));
        assert_eq!(request.data.as_ref().map(|data| &data[..]), Some(&b"token"[..]));
        net.run(0, |shard, now, fx| {
            shard.challenge(now, conn, Asked::Connect(request), b"nonce".to_vec(), fx)
        });
        let got = net.got(client);
        assert!(
            matches!(&got[..], [Got::Auth { reason: ReasonCode::ContinueAuthentication, method, data, .. }]
                if method.as_deref() == Some("ace") && data.as_deref() == Some(b"nonce")),
            "{got:?}"
        );
        client
    };
    let client = begin(&mut net);
    net.send(client, &auth(ReasonCode::ContinueAuthentication, b"proof"));
    let challenged =
        net.asked.last().and_then(|(_, _, request)| request.challenged.as_ref()).expect("asked again");
    assert_eq!((&challenged.challenge[..], &challenged.answer[..]), (&b"nonce"[..], &b"proof"[..]));
    net.answer(client, Ok(app(1)));
    net.expect_welcome(client);
    // Whoever says something else instead is told that this is no protocol, and is gone.
    for other in [Packet::PingReq, auth(ReasonCode::ReAuthenticate, b"proof")] {
        let client = begin(&mut net);
        net.send(client, &other);
        let got = net.got(client);
        assert!(matches!(got[..], [Got::ConnAck { reason: ReasonCode::ProtocolError, .. }]), "{got:?}");
        assert!(net.clients[client].closed.is_some() && net.asked.is_empty());
    }
    let client = begin(&mut net);
    net.send(client, &goodbye(ReasonCode::NORMAL_DISCONNECTION));
    assert_eq!(net.clients[client].closed, Some(Close::AfterFlush { linger: false }));
    assert!(net.got(client).is_empty());
}

#[test]
fn a_session_that_is_renewed_outlives_its_first_right_and_ends_with_its_last() {
    let mut net = Net::new(1);
    let client = by_method(&mut net);
    net.subscribe(client, "a", QOS1);
    for _ in 0..5 {
        net.pass(seconds(6));
        net.send(client, &auth(ReasonCode::ReAuthenticate, b"new token"));
        let request = net.renewal(client);
        assert!(
            matches!(&request.by, RenewBy::Method { method, data, .. } if method == "ace" && &data[..] == b"new token")
        );
        // What comes meanwhile is worked on under the old right.
        net.publish(client, "a", b"meanwhile", QOS1);
        let admitted = until(&net, 1, 10);
        net.renewed(client, Ok(admitted));
        let got = net.got(client);
        let renewed = got.iter().filter(|got| {
            matches!(got, Got::Auth { reason: ReasonCode::Success, user, .. }
            if user == &[("db-expires-in".to_owned(), "10".to_owned())])
        });
        assert_eq!(renewed.count(), 1, "{got:?}");
        let id = got.iter().find_map(|got| match got {
            Got::Message(message) => message.id,
            _ => None,
        });
        net.acknowledge(client, id.expect("its own message"));
        assert_eq!(net.clients[client].closed, None);
    }
    net.pass(seconds(11));
    let got = net.got(client);
    assert!(matches!(got[..], [Got::Disconnect { reason: ReasonCode::NotAuthorized, .. }]), "{got:?}");
    assert_eq!(net.reported("DB-2034"), 1);
}

#[test]
fn a_session_is_renewed_until_its_connection_is_too_old_and_never_beyond() {
    let mut net = Net::new(1);
    let (renewed, other) = (by_method(&mut net), until(&net, 2, 100));
    let other = net.join(0, V5, other);
    let closes = Some(net.now + seconds(15));
    for pass in [6, 6] {
        net.pass(seconds(pass));
        net.send(renewed, &auth(ReasonCode::ReAuthenticate, b"new token"));
        let admitted = Admitted { closes, ..until(&net, 1, 10) };
        net.renewed(renewed, Ok(admitted));
        let left = (15_u64 - net.now.duration_since(net.base).as_secs()).min(10).to_string();
        let got = net.got(renewed);
        assert!(
            matches!(&got[..], [Got::Auth { reason: ReasonCode::Success, user, .. }]
                if *user == [("db-expires-in".to_owned(), left.clone())]),
            "{left}: {got:?}"
        );
    }
    net.pass(seconds(4));
    let got = net.got(renewed);
    assert!(matches!(got[..], [Got::Disconnect { reason: ReasonCode::NotAuthorized, .. }]), "{got:?}");
    assert_eq!((net.reported("DB-2049"), net.reported("DB-2034")), (1, 0));
    // A renewal that comes too late for that is none.
    net.publish(other, AUTH_TOPIC, b"new token", QOS1);
    let late = Admitted { closes: Some(net.now), ..until(&net, 2, 1_000) };
    net.renewed(other, Ok(late));
    let got = net.got(other);
    assert!(matches!(got[..], [Got::PubAck { reason: ReasonCode::NotAuthorized, .. }]), "{got:?}");
    assert_eq!(net.clients[other].closed, None, "it has its old right until that ends");
    // On the next connection it is asked anew.
    let again = net.join(0, V5, until(&net, 1, 100));
    net.pass(seconds(50));
    assert_eq!(net.clients[again].closed, None);
}

#[test]
fn a_second_step_is_asked_of_a_renewal_and_what_comes_out_of_turn_ends_it() {
    let mut net = Net::new(1);
    let client = by_method(&mut net);
    net.send(client, &auth(ReasonCode::ReAuthenticate, b"new token"));
    let request = net.renewal(client);
    let conn = net.clients[client].conn;
    net.run(0, |shard, now, fx| shard.challenge(now, conn, Asked::Renew(request), b"nonce".to_vec(), fx));
    assert!(matches!(&net.got(client)[..], [Got::Auth { reason: ReasonCode::ContinueAuthentication, .. }]));
    net.send(client, &auth(ReasonCode::ContinueAuthentication, b"proof"));
    let request = net.renewal(client);
    assert!(
        matches!(&request.by, RenewBy::Method { challenged: Some(challenged), .. } if &challenged.answer[..] == b"proof")
    );
    // Another one before the end of this one.
    net.send(client, &auth(ReasonCode::ReAuthenticate, b"more"));
    let got = net.got(client);
    assert!(matches!(got[..], [Got::Disconnect { reason: ReasonCode::ProtocolError, .. }]), "{got:?}");
    // An answer that nobody asked for.
    let client = by_method(&mut net);
    net.send(client, &auth(ReasonCode::ContinueAuthentication, b"proof"));
    assert!(matches!(net.got(client)[..], [Got::Disconnect { reason: ReasonCode::ProtocolError, .. }]));
    // Without a method there is no AUTH.
    let client = net.join(0, V5, app(1));
    net.send(client, &auth(ReasonCode::ReAuthenticate, b"token"));
    assert!(matches!(net.got(client)[..], [Got::Disconnect { reason: ReasonCode::ProtocolError, .. }]));
}

#[test]
fn a_renewal_by_auth_that_fails_ends_the_session_and_one_by_a_publish_does_not() {
    let mut net = Net::new(1);
    let client = by_method(&mut net);
    net.send(client, &auth(ReasonCode::ReAuthenticate, b"bad token"));
    net.renewal(client);
    net.renewed(client, Err(refused()));
    let got = net.got(client);
    assert!(matches!(got[..], [Got::Disconnect { reason: ReasonCode::NotAuthorized, .. }]), "{got:?}");
    for (version, reason) in [(V5, ReasonCode::NotAuthorized), (V311, ReasonCode::Success)] {
        let admitted = until(&net, 2, 10);
        let client = net.join(0, version, admitted);
        net.subscribe(client, AUTH_RESULT_TOPIC, QOS1);
        let id = net.publish(client, AUTH_TOPIC, b"bad token", QOS1).expect("QoS 1").get();
        net.renewal(client);
        // Another principal's is no better than none.
        let other = until(&net, 3, 100);
        net.renewed(client, Ok(other));
        let got = net.got(client);
        assert!(
            got.iter()
                .any(|got| matches!(got, Got::PubAck { id: i, reason: r, .. } if (*i, *r) == (id, reason))),
            "{got:?}"
        );
        assert!(got.iter().any(|got| matches!(got, Got::Message(message)
            if message.payload == json!({"ok": false, "error": "not-authorized"}).to_string().as_bytes())));
        assert_eq!(net.clients[client].closed, None);
        net.pass(seconds(11));
        assert!(net.clients[client].closed.is_some(), "the right it had has ended");
    }
}

#[test]
fn a_token_that_is_published_renews_a_session_of_any_version_and_nobody_else_hears_it() {
    for version in [V311, V5] {
        let mut net = Net::new(1);
        let spy = net.join(0, V5, app(9));
        for filter in ["#", "$drawbridge/#", AUTH_TOPIC, AUTH_RESULT_TOPIC] {
            net.subscribe(spy, filter, QOS1);
        }
        let admitted = until(&net, 1, 10);
        let client = net.join(0, version, admitted);
        assert_eq!(
            net.subscribe(client, AUTH_RESULT_TOPIC, QOS1),
            [Got::SubAck(vec![ReasonCode::GrantedQos1])]
        );
        net.subscribe(client, AUTH_NONCE_TOPIC, QOS1);
        let before = net.stats().received;
        for _ in 0..5 {
            net.pass(seconds(6));
            net.got(client);
            let id = net.publish(client, AUTH_TOPIC, b"new token", QOS1).expect("QoS 1").get();
            assert!(!net.got(client).iter().any(|got| matches!(got, Got::PubAck { .. })), "not judged yet");
            let request = net.renewal(client);
            assert!(matches!(&request.by, RenewBy::Publish(payload) if &payload[..] == b"new token"));
            assert!(!format!("{request:?}").contains("new token"));
            let admitted = until(&net, 1, 10);
            net.renewed(client, Ok(admitted));
            let got = net.got(client);
            let acks = got.iter().filter(
                |got| matches!(got, Got::PubAck { id: i, reason: ReasonCode::Success, .. } if *i == id),
            );
            assert_eq!(acks.count(), 1, "{got:?}");
            let told: Vec<&support::Message> = got
                .iter()
                .filter_map(|got| match got {
                    Got::Message(message) => Some(message),
                    _ => None,
                })
                .collect();
            let [told, nonce] = told[..] else { panic!("{told:?}") };
            let said: Value = serde_json::from_slice(&told.payload).expect("JSON");
            assert_eq!(
                (&said["ok"], &said["expires_in"], &said["removed"]),
                (&json!(true), &json!(10), &json!([]))
            );
            assert_eq!(
                (&nonce.topic[..], &nonce.payload[..]),
                (AUTH_NONCE_TOPIC, &b"a-nonce"[..]),
                "a new one each time"
            );
        }
        assert_eq!(net.stats().received, before, "a token counts as no message");
        assert!(net.messages(spy).is_empty());
    }
}

#[test]
fn a_token_is_published_at_qos_1_not_retained_and_not_too_often() {
    let mut net = Net::new(1);
    for (version, qos, retain) in [
        (V5, Qos::AtMostOnce, false),
        (V5, Qos::ExactlyOnce, false),
        (V311, Qos::AtMostOnce, false),
        (V5, QOS1, true),
    ] {
        let client = net.join(0, version, app(1));
        match retain {
            true => net.retain(client, AUTH_TOPIC, b"token"),
            false => drop(net.publish(client, AUTH_TOPIC, b"token", qos)),
        }
        assert!(net.renewals.is_empty());
    }
    assert_eq!(net.reported("DB-2038"), 4);
    let client = net.join(0, V5, app(2));
    net.subscribe(client, AUTH_RESULT_TOPIC, QOS1);
    net.publish(client, AUTH_TOPIC, b"one", QOS1);
    net.publish(client, AUTH_TOPIC, b"two", QOS1);
    assert_eq!(result(&mut net, client), json!({"ok": false, "error": "too-often"}));
    net.renewal(client);
    net.renewed(client, Ok(app(2)));
    net.got(client);
    net.publish(client, AUTH_TOPIC, b"three", QOS1);
    assert_eq!(result(&mut net, client)["ok"], json!(false));
    net.pass(seconds(1));
    net.publish(client, AUTH_TOPIC, b"four", QOS1);
    net.renewal(client);
}

#[test]
fn fewer_rights_cut_what_they_do_not_cover_and_the_client_is_told_which() {
    let mut net = Net::new(1);
    let client = by_method(&mut net);
    let speaker = net.join(0, V5, app(2));
    for filter in ["kept/#", "gone/+", "$share/g/gone/x", AUTH_RESULT_TOPIC] {
        net.subscribe(client, filter, QOS1);
    }
    net.send(client, &auth(ReasonCode::ReAuthenticate, b"narrow"));
    net.renewal(client);
    let narrow = Admitted { rights: rights(&[], &["kept/#"]), ..until(&net, 1, 10) };
    net.renewed(client, Ok(narrow));
    let got = net.got(client);
    let told = got.iter().find_map(|got| match got {
        Got::Auth { user, .. } => Some(user.clone()),
        _ => None,
    });
    let mut cut: Vec<String> = told
        .expect("AUTH")
        .into_iter()
        .filter(|(name, _)| name == "db-unsub")
        .map(|(_, filter)| filter)
        .collect();
    cut.sort();
    assert_eq!(cut, ["$share/g/gone/x", "gone/+"]);
    net.publish(speaker, "kept/a", b"1", QOS1);
    net.publish(speaker, "gone/x", b"2", QOS1);
    assert_eq!(net.topics(client), ["kept/a"]);
    assert_eq!(net.unsubscribe(client, "gone/+"), [Got::UnsubAck(vec![ReasonCode::NoSubscriptionExisted])]);
    // What it publishes is judged by the new rights from the next packet on.
    let id = net.publish(client, "kept/a", b"3", QOS1).expect("QoS 1").get();
    let got = net.got(client);
    assert!(
        matches!(&got[..], [Got::PubAck { id: i, reason: ReasonCode::NotAuthorized, .. }] if *i == id),
        "{got:?}"
    );
}

#[test]
fn a_client_that_cannot_be_told_what_is_cut_is_closed() {
    let mut net = Net::new(1);
    let speaker = net.join(0, V5, app(2));
    let narrow = |net: &Net| Admitted { rights: rights(&["kept/#"], &["kept/#"]), ..until(net, 1, 10) };
    for (version, listens, subscribes, stays) in [
        (V311, false, "gone/#", false),
        (V5, false, "gone/#", false),
        (V311, true, "gone/#", true),
        (V5, true, "gone/#", true),
        (V311, false, "kept/#", true),
    ] {
        for by_policy in [false, true] {
            let admitted = until(&net, 1, 10);
            let client = net.join(0, version, admitted);
            net.subscribe(client, subscribes, QOS1);
            if listens {
                net.subscribe(client, AUTH_RESULT_TOPIC, QOS1);
            }
            if by_policy {
                let rights = Some(narrow(&net).rights);
                let changed =
                    Ended::Policy { registry: RegistryName::default_registry(), uid: Uid(1), rights };
                net.run(0, |shard, now, fx| shard.end_sessions(now, &changed, fx));
            } else {
                net.publish(client, AUTH_TOPIC, b"narrow", QOS1);
                net.renewal(client);
                let narrow = narrow(&net);
                net.renewed(client, Ok(narrow));
            }
            let case = format!("{version:?} {listens} {subscribes} {by_policy}");
            assert_eq!(net.clients[client].closed.is_none(), stays, "{case}");
            if listens {
                assert_eq!(result(&mut net, client)["removed"], json!(["gone/#"]), "{case}");
            }
            net.got(client);
            net.publish(speaker, "gone/x", b"x", QOS1);
            net.publish(speaker, "kept/x", b"x", QOS1);
            let heard: &[&str] = if stays && subscribes == "kept/#" { &["kept/x"] } else { &[] };
            assert_eq!(net.topics(client), heard, "{case}");
            net.hang_up(client);
        }
    }
}

#[test]
fn a_will_that_may_not_speak_any_more_is_dropped_and_the_client_is_told() {
    let mut net = Net::new(1);
    let hearer = net.join(0, V5, app(2));
    net.subscribe(hearer, "last/#", QOS1);
    for (allowed, heard) in [(&["last/#"], 1), (&["other"], 0)] {
        let admitted = until(&net, 1, 10);
        let client =
            net.connect_with(0, V5, admitted, |packet| packet.will = Some(will("last/word", b"bye")));
        net.expect_welcome(client);
        net.subscribe(client, AUTH_RESULT_TOPIC, QOS1);
        net.publish(client, AUTH_TOPIC, b"token", QOS1);
        net.renewal(client);
        let admitted = Admitted { rights: rights(allowed, &["#"]), ..until(&net, 1, 10) };
        net.renewed(client, Ok(admitted));
        let told = result(&mut net, client);
        assert_eq!(told.get("will"), (heard == 0).then_some(&json!("dropped")));
        net.hang_up(client);
        assert_eq!(net.messages(hearer).len(), heard);
    }
}

#[test]
fn what_waits_for_a_session_and_is_no_longer_its_to_have_goes_at_once() {
    let mut net = Net::with(1, |config| config.inflight_max = 1);
    let client = by_method(&mut net);
    let speaker = net.join(0, V5, app(2));
    net.subscribe(client, "kept/#", QOS1);
    net.subscribe(client, "gone/#", QOS1);
    for n in 0..10 {
        net.publish(speaker, if n % 2 == 0 { "kept/x" } else { "gone/x" }, b"x", QOS1);
    }
    assert_eq!(net.messages(client).len(), 1, "the window is 1");
    assert_eq!(net.stats().queued, 9);
    net.send(client, &auth(ReasonCode::ReAuthenticate, b"narrow"));
    net.renewal(client);
    let narrow = Admitted { rights: rights(&[], &["kept/#"]), ..until(&net, 1, 10) };
    net.renewed(client, Ok(narrow));
    assert_eq!(net.stats().queued, 4);
    net.got(client);
    let mut heard = Vec::new();
    for id in 1..=5 {
        net.acknowledge(client, id);
        heard.extend(net.topics(client));
    }
    assert_eq!(heard, ["kept/x"; 4]);
}

#[test]
fn whoever_asks_is_told_in_connack_how_long_the_right_lasts() {
    let mut net = Net::new(1);
    for asks in [true, false] {
        let client = net.open(0, V5);
        let mut packet = connect(V5, "client-1");
        let pairs = [("db-expires-in", "")];
        if asks {
            packet.properties.user_properties = UserProperties::of(&pairs);
        }
        net.send(client, &packet.into());
        let admitted = until(&net, 1, 42);
        net.answer(client, Ok(admitted));
        let text = String::from_utf8_lossy(&net.clients[client].inbox).into_owned();
        assert_eq!(text.contains("db-expires-in") && text.contains("42"), asks, "{text:?}");
        net.expect_welcome(client);
        net.hang_up(client);
    }
}

#[test]
fn a_right_that_comes_from_outside_renews_the_session_and_what_is_lost_is_told_there() {
    let mut net = Net::new(1);
    let ticket = |number: u8| {
        Some(Box::new(drawbridge_broker::Ticket { token: [number; 16], issuer_kid: None, gateway: None }))
    };
    let opened = Admitted { ticket: ticket(1), ..until(&net, 1, 10) };
    let client = net.join(0, V311, opened);
    let conn = net.clients[client].conn;
    for filter in ["kept", "cut"] {
        net.subscribe(client, filter, QOS1);
    }
    let refresh = |net: &mut Net, admitted: Admitted| {
        let mut outcome = None;
        net.run(0, |shard, now, fx| outcome = Some(shard.refresh(now, conn, admitted, fx)));
        outcome.expect("answered")
    };
    let fewer =
        |net: &Net| Admitted { ticket: ticket(2), rights: rights(&[], &["kept"]), ..until(net, 1, 100) };
    // Another's, the one in force, one that has ended: nothing changes.
    let other = until(&net, 2, 100);
    assert!(refresh(&mut net, other).is_err());
    let same = Admitted { ticket: ticket(1), ..until(&net, 1, 100) };
    assert!(refresh(&mut net, same).is_err());
    let ended = Admitted { ticket: ticket(2), ..until(&net, 1, 0) };
    assert!(refresh(&mut net, ended).is_err());
    let late = Admitted { closes: Some(net.now), ..fewer(&net) };
    assert!(refresh(&mut net, late).expect_err("its handshake is too old").contains("TLS handshake"));
    let good = fewer(&net);
    let told = refresh(&mut net, good).expect("renewed");
    let removed: Vec<&str> = told.removed.iter().map(|filter| filter.as_str()).collect();
    assert_eq!((removed, told.will_dropped), (vec!["cut"], false));
    // At once again is too soon.
    let again = Admitted { ticket: ticket(3), ..fewer(&net) };
    assert!(refresh(&mut net, again.clone()).is_err());
    net.pass(seconds(50));
    assert_eq!(net.clients[client].closed, None, "it outlived its first right, and nobody had to be told");
    net.pass(seconds(51));
    assert!(net.clients[client].closed.is_some());
    assert!(refresh(&mut net, again).is_err(), "it has ended");
}

#[test]
fn what_a_gateway_opened_or_a_proof_is_not_renewed_from_outside_by_less() {
    let mut net = Net::new(1);
    for (gateway, proven) in [(Some(Uid(9)), false), (None, true)] {
        let ticket = Some(Box::new(drawbridge_broker::Ticket { token: [1; 16], issuer_kid: None, gateway }));
        let opened = Admitted { ticket, proven, ..until(&net, 1, 10) };
        let client = net.join(0, V5, opened);
        let conn = net.clients[client].conn;
        let ticket =
            Some(Box::new(drawbridge_broker::Ticket { token: [2; 16], issuer_kid: None, gateway: None }));
        let weaker = Admitted { ticket, ..until(&net, 1, 100) };
        let mut outcome = None;
        net.run(0, |shard, now, fx| outcome = Some(shard.refresh(now, conn, weaker, fx)));
        assert!(outcome.expect("answered").is_err());
        net.pass(seconds(11));
        assert!(net.clients[client].closed.is_some(), "it ends when it was to end");
    }
}
