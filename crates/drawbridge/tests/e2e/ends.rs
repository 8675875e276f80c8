//! What ends a right ends the session that stands on it, on every transport, though its client is silent; and nobody
//! else's.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant, SystemTime};

use drawbridge_device::{ClientAssertion, DeviceIdentity, TokenRequest, random_id};
use drawbridge_jose::{Algorithm, SigningKey};
use serde_json::{Value, json};

use crate::bytes::{
    AUTHENTICATION_DATA, AUTHENTICATION_METHOD, Connect, PINGREQ, Publish, Said, Version, ack, pstr,
};
use crate::client::Client;
use crate::harness::{Core, connect_jwt, jwt, now_s};
use crate::refresh::access_token;
use crate::renewal::short_lived;
use crate::roads::{Road, Shown};
use crate::wire::Wire;
use crate::world::{Via, World};

/// It is to take 1 s; these tests run on machines that are busy.
const WITHIN: Duration = Duration::from_secs(3);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Expired,
    Blocked,
    KeyRemoved,
    TokenRevoked,
    DeviceRevoked,
    /// Its subscription is not allowed any more, and it does not listen to what it is told.
    PolicyChanged,
    /// Its operator wants more of its connections than this one has.
    SettingsChanged,
}
use End::{Blocked, DeviceRevoked, Expired, KeyRemoved, PolicyChanged, SettingsChanged, TokenRevoked};

/// By its owner, as RFC 7009 has it.
pub(crate) fn revoke(core: &Core, identity: &DeviceIdentity, token: &str) {
    let (device, issuer, jti) = (&identity.device, &identity.issuer, random_id());
    let assertion = ClientAssertion { device, issuer, now_s: now_s(), jti: &jti };
    let assertion = assertion.sign(&identity.key).expect("signs");
    let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
    let form = [("client_assertion_type", kind), ("client_assertion", &assertion), ("token", token)];
    let answer = Wire::of(core).form("/oauth/revoke", &[], &form);
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// When a JWT of [`short_lived`] is over: 60 s of skew after its `exp`.
fn over(jwt: &str) -> SystemTime {
    let claims = jwt.split('.').nth(1).expect("a JWT");
    let claims = drawbridge_jose::base64url_decode(claims).expect("base64url");
    let claims: Value = serde_json::from_slice(&claims).expect("JSON");
    SystemTime::UNIX_EPOCH + Duration::from_secs(claims["exp"].as_u64().expect("a time") + 60)
}

fn bring_about(core: &Core, end: End, identity: &DeviceIdentity, token: &str) {
    let name = &identity.device;
    match end {
        Expired => {}
        Blocked => drop(core.cli_ok(&["device", "block", name])),
        KeyRemoved => drop(core.cli_ok(&["key", "revoke", name, identity.public_key().thumbprint()])),
        TokenRevoked => revoke(core, identity, token),
        DeviceRevoked => drop(core.cli_ok(&["device", "revoke", name])),
        SettingsChanged => drop(core.cli_ok(&["device", "set", name, "--bound-connections", "true"])),
        PolicyChanged => {
            let file = core.place().join(format!("{name}-less.toml"));
            std::fs::write(&file, "[[allow]]\nsubscribe = [\"other\"]\n").expect("written");
            core.cli_ok(&["policy", "set", name, &file.to_string_lossy()]);
        }
    }
}

#[test]
fn i5_i6_whatever_ends_a_right_ends_its_silent_session_on_every_transport() {
    let world = World::start(&[]);
    let mut bystander = Client::observer(&world);
    bystander.subscribe("still/here", 0);
    std::thread::scope(|scope| {
        for via in [Via::Tls, Via::WebSocket] {
            for version in [Version::V311, Version::V5] {
                let world = &world;
                scope.spawn(move || every_end(world, via, version));
            }
        }
    });
    assert_eq!(bystander.ping(), [], "the others feel nothing");
}

fn every_end(world: &World, via: Via, version: Version) {
    let core = world.core();
    for (end, code) in [
        (Expired, 0x87),
        (Blocked, 0x87),
        (KeyRemoved, 0x87),
        (TokenRevoked, 0x87),
        (DeviceRevoked, 0x87),
        (PolicyChanged, 0x98),
        (SettingsChanged, 0x98),
    ] {
        let name = format!("{via:?}-{version:?}-{end:?}").to_lowercase();
        let identity = match end {
            PolicyChanged => core.application(&name, "[[allow]]\nsubscribe = [\"mine/#\"]\n"),
            _ => core.device(&name),
        };
        let token = match end {
            Expired => short_lived(&identity),
            TokenRevoked => access_token(core, &identity),
            _ => connect_jwt(&identity, now_s(), 3_600),
        };
        let mut client = Client::over(world.transport(via), version);
        // Keep-alive 0: nobody asks it for a sign of life.
        let connect = Connect::clean(&name).keep_alive(0);
        client.send(&connect.encode(version, Some(("", token.as_bytes()))));
        assert!(matches!(client.next(), Some(Said::ConnAck { code: 0, .. })), "{name}");
        if end == PolicyChanged {
            client.subscribe("mine/a", 0);
        }
        bring_about(core, end, &identity, &token);
        let done = Instant::now();
        client.ended_with(code);
        if end == Expired {
            // Two clocks: one that is set, and one that only goes on.
            let early = over(&token) - Duration::from_millis(50);
            let late = SystemTime::now().duration_since(early).expect("not before its time");
            assert!(late < WITHIN, "{name}: {late:?} after its end");
        } else {
            assert!(done.elapsed() < WITHIN, "{name}: {:?} after the order", done.elapsed());
        }
    }
}

/// How a session came to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Entered {
    Jwt,
    Token,
    Method,
    Certificate,
    Password,
}

/// Whatever way it came in: the credential that it stands on is taken away, or its owner blocked, or its policy.
#[test]
fn i6_a_session_ends_with_its_credential_whichever_way_it_came_in() {
    let mut world = World::start(&[]);
    // Passwords have to be asked for.
    let settings = world.core().place().join("settings.toml");
    let ways = "[listener.mqtts]\nways = [\"password\", \"device-jwt\", \"access-token\", \"token-method\", \"certificate\"]\n";
    std::fs::write(&settings, ways).expect("written");
    world.core_mut().stop();
    world.core_mut().also(&["--config", &settings.to_string_lossy()]);
    world.core_mut().run_again();
    let world = &world;
    std::thread::scope(|scope| {
        for version in [Version::V311, Version::V5] {
            scope.spawn(move || every_credential(world.core(), version));
        }
    });
}

fn every_credential(core: &Core, version: Version) {
    for entered in [Entered::Jwt, Entered::Token, Entered::Method, Entered::Certificate, Entered::Password] {
        if entered == Entered::Method && version == Version::V311 {
            continue;
        }
        for end in [Blocked, KeyRemoved, TokenRevoked, DeviceRevoked, PolicyChanged] {
            // There is a token to revoke in two cases only.
            if end == TokenRevoked && !matches!(entered, Entered::Token | Entered::Method) {
                continue;
            }
            let name = format!("{entered:?}-{version:?}-{end:?}").to_lowercase();
            let identity = core.application(&name, "[[allow]]\nsubscribe = [\"mine/#\"]\n");
            let shown = (entered == Entered::Certificate).then(|| Shown::by(core, &identity));
            let road = Road { shown: shown.as_ref(), ..Road::default() };
            let mut client = Client::over(road.open(core, &core.endpoints.mqtts), version);
            let connect = Connect::clean(&name).keep_alive(0);
            let token = match entered {
                Entered::Certificate => String::new(),
                Entered::Password => {
                    let said = core.cli_ok(&["app", "secret", &name]);
                    said.lines().next().expect("a line").to_owned()
                }
                Entered::Jwt => connect_jwt(&identity, now_s(), 3_600),
                Entered::Token | Entered::Method => access_token(core, &identity),
            };
            let connect = match entered {
                Entered::Certificate => connect.encode(version, None),
                Entered::Method => connect
                    .with(pstr(AUTHENTICATION_METHOD, "OAUTH2-JWT"))
                    .with(pstr(AUTHENTICATION_DATA, &token))
                    .encode(version, None),
                _ => connect.encode(version, Some((&name, token.as_bytes()))),
            };
            client.send(&connect);
            let said = client.next();
            assert!(matches!(said, Some(Said::ConnAck { code: 0, .. })), "{name}: {said:?}\n{}", core.log());
            client.subscribe("mine/a", 0);
            match end {
                KeyRemoved if entered == Entered::Password => {
                    core.cli_ok(&["app", "secret", &name]);
                }
                KeyRemoved => {
                    core.cli_ok(&["key", "revoke", &name, identity.public_key().thumbprint()]);
                }
                Blocked | DeviceRevoked => {
                    let what = if end == Blocked { "block" } else { "revoke" };
                    core.admin("POST", &format!("/v1/applications/{name}/{what}"), Some(&json!({})));
                }
                _ => bring_about(core, end, &identity, &token),
            }
            let done = Instant::now();
            client.ended_with(if end == PolicyChanged { 0x98 } else { 0x87 });
            assert!(done.elapsed() < WITHIN, "{name}: {:?} after the order", done.elapsed());
        }
    }
}

/// Over HTTPS there is no session: the next request is refused.
#[test]
fn i6_a_token_over_https_ends_with_the_right_that_it_stands_on() {
    let core = Core::start();
    let wire = Wire::of(&core);
    for end in [Blocked, KeyRemoved, TokenRevoked, DeviceRevoked] {
        let name = format!("https-{end:?}").to_lowercase();
        let identity = core.device(&name);
        let api = format!("{}/v1", identity.issuer);
        let request = TokenRequest {
            device: &identity.device,
            issuer: &identity.issuer,
            resource: Some(&api),
            scope: None,
            bind_to: None,
        };
        let token = core.api().access_token(&request, &identity.key).expect("a token").access_token;
        let bearer = format!("Bearer {token}");
        let ask = || wire.get("/v1/self", &[("authorization", &bearer)]);
        assert_eq!(ask().status, 200, "{name}");
        bring_about(&core, end, &identity, &token);
        let answer = ask();
        // Who is blocked has proven who it is, and is told.
        assert_eq!(answer.status, if end == Blocked { 403 } else { 401 }, "{name}: {answer:?}");
    }
}

/// The numbers of `/metrics`, all labels together.
fn numbers(core: &Core) -> BTreeMap<String, u64> {
    let token = std::fs::read_to_string(core.data().join("admin-token")).expect("the credential");
    let bearer = format!("Bearer {}", token.trim());
    let text = Wire::of(core).get("/metrics", &[("authorization", &bearer)]).text;
    let mut found = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').expect("a number");
        let name = match name.split_once('{') {
            // Who is connected, and who is away, are two numbers.
            Some((number, _)) if number != "drawbridge_sessions" => number,
            _ => name,
        };
        // Seconds have a fraction; nobody asks for them here.
        *found.entry(name.to_owned()).or_default() += value.parse::<u64>().unwrap_or(0);
    }
    found
}

/// A device of the fleet and its connection.
struct Member {
    name: String,
    client: Client,
}

const FLEET: &str = "[[allow]]\npublish = [\"fleet/${device}\"]\nsubscribe = [\"fleet/all\"]\n";
const ALL: &str = "fleet/all";
/// So many at once do a handshake.
const HANDS: usize = 8;

/// `devices` are connected over TLS, in both versions, and hear one topic. One is revoked while messages come. The
/// others hear every message once and in order, and the server's numbers say that nobody else was touched.
fn one_of(devices: usize) {
    // A connection of each is a file here.
    let files = rlimit::increase_nofile_limit(u64::MAX).expect("a limit");
    assert!(files > devices as u64 + 200, "{files} files may be open; raise it (`ulimit -n`)");
    let world = World::start(&[]);
    let core = world.core();
    let policy = core.place().join("fleet.toml");
    std::fs::write(&policy, FLEET).expect("written");
    core.cli_ok(&["policy", "set", "fleet", &policy.to_string_lossy()]);
    let keys: Vec<SigningKey> =
        (0..devices).map(|_| SigningKey::generate(Algorithm::EdDsa).expect("a key")).collect();
    let mut lines = String::new();
    for (number, key) in keys.iter().enumerate() {
        let jwk: Value = serde_json::from_str(&key.public_key().to_jwk_json()).expect("JSON");
        let line = json!({ "id": format!("d-{number}"), "policy": "fleet", "keys": [{ "jwk": jwk }] });
        writeln!(lines, "{line}").expect("text");
    }
    let file = core.place().join("fleet.ndjson");
    std::fs::write(&file, lines).expect("written");
    core.cli_ok(&["device", "import", &file.to_string_lossy()]);
    let audience = core.device("model").bridge_audience;

    let enter = |number: usize| {
        let name = format!("d-{number}");
        let version = if number.is_multiple_of(2) { Version::V5 } else { Version::V311 };
        let now_s = now_s();
        let claims = json!({ "sub": name, "aud": audience, "iat": now_s, "exp": now_s + 7_200 });
        let token = jwt(Some("JWT"), &claims, &keys[number]);
        let mut client = Client::over(world.transport(Via::Tls), version);
        let connect = Connect::clean(&name).keep_alive(0);
        client.send(&connect.encode(version, Some(("unused", token.as_bytes()))));
        assert!(matches!(client.next(), Some(Said::ConnAck { code: 0, .. })), "{name}");
        client.subscribe(ALL, 1);
        Member { name, client }
    };
    let mut fleet: Vec<Member> = std::thread::scope(|scope| {
        let enter = &enter;
        let hands = (0..HANDS)
            .map(|hand| scope.spawn(move || (hand..devices).step_by(HANDS).map(enter).collect::<Vec<_>>()));
        // All are at work before the first is waited for.
        let hands: Vec<_> = hands.collect();
        hands.into_iter().flat_map(|hand| hand.join().expect("all were let in")).collect()
    });
    let mut backend = Client::observer(&world);
    let before = numbers(core);
    assert_eq!(before["drawbridge_sessions{state=\"connected\"}"], devices as u64 + 1);

    let unlucky = fleet.swap_remove(devices / 2);
    let mut sent = 0_u32;
    let mut say = |backend: &mut Client, count: u32| {
        for _ in 0..count {
            backend.publish(&Publish::new(ALL, sent.to_string()).qos(1, 0));
            sent += 1;
        }
    };
    say(&mut backend, 4);
    let (done, seen) = std::thread::scope(|scope| {
        let name = &unlucky.name;
        let order = scope.spawn(|| {
            core.cli_ok(&["device", "revoke", name]);
            Instant::now()
        });
        let mut client = unlucky.client;
        let end = scope.spawn(move || {
            let mut heard = 0;
            loop {
                match client.next_within(Duration::from_secs(60)) {
                    Ok(Some(Said::Publish(message))) => {
                        assert_eq!(message.text(), heard.to_string());
                        heard += 1;
                        client.try_send(&ack(0x40, message.id));
                    }
                    Ok(Some(Said::Disconnect { code, .. })) => assert_eq!(code, 0x87),
                    Ok(None) => return (Instant::now(), heard),
                    other => panic!("{other:?}"),
                }
            }
        });
        while !order.is_finished() {
            say(&mut backend, 1);
            std::thread::sleep(Duration::from_millis(20));
        }
        (order.join().expect("revoked"), end.join().expect("it ended"))
    });
    say(&mut backend, 4);
    let (ended, heard) = seen;
    assert!(ended.saturating_duration_since(done) < WITHIN, "{:?}", ended.saturating_duration_since(done));
    assert!(heard < sent, "it did not hear all of it");

    // Whoever was accepted, cut, refused or given up would stand here.
    for member in &mut fleet {
        for number in 0..sent {
            let message = member.client.taken();
            assert_eq!((message.text(), message.dup), (&*number.to_string(), false), "{}", member.name);
        }
        member.client.send(&PINGREQ);
        assert!(matches!(member.client.next(), Some(Said::PingResp)), "{}: not a byte more", member.name);
    }
    let after = numbers(core);
    let of = |numbers: &BTreeMap<String, u64>, name: &str| numbers.get(name).copied().unwrap_or(0);
    let more = |name: &str| of(&after, name) - of(&before, name);
    assert_eq!(after["drawbridge_sessions{state=\"connected\"}"], devices as u64);
    assert_eq!(after["drawbridge_connections"], devices as u64);
    for same in [
        "drawbridge_connections_accepted_total",
        "drawbridge_tls_handshakes_total",
        "drawbridge_messages_dropped_total",
    ] {
        assert_eq!(more(same), 0, "{same}");
    }
    assert_eq!(more("drawbridge_refusals_total"), 1, "one session was ended");
    assert_eq!(more("drawbridge_messages_received_total"), u64::from(sent));
    let others = (devices as u64 - 1) * u64::from(sent);
    assert_eq!(more("drawbridge_messages_sent_total"), others + u64::from(heard));
    println!("{devices} devices, one revoked, {sent} messages to each of the others, none missed or doubled");
}

#[test]
fn one_of_1_000_devices_is_revoked_over_the_wire_and_the_others_feel_nothing() {
    one_of(1_000);
}

#[test]
#[ignore = "long: 10,000 devices"]
fn soak_one_of_10_000_devices_is_revoked_over_the_wire_and_the_others_feel_nothing() {
    one_of(10_000);
}

#[test]
fn i6_a_client_of_the_listener_without_tls_ends_with_the_application_it_stands_for() {
    let world = World::start(&[]);
    for version in [Version::V311, Version::V5] {
        let mut client = Client::over(world.transport(Via::Plain), version);
        client.send(&Connect::clean(&format!("plain-{version:?}")).keep_alive(0).encode(version, None));
        assert!(matches!(client.next(), Some(Said::ConnAck { code: 0, .. })));
        let at = |what: &str| {
            world.core().admin("POST", &format!("/v1/applications/guest/{what}"), Some(&json!({})))
        };
        at("block");
        client.ended_with(0x87);
        at("unblock");
    }
}
