//! What a policy asks of messages and of connections, over real sockets: each row says what is allowed, the wire says it in
//! both versions of MQTT, and `drawbridge can` says the same.

use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use drawbridge_jose::Algorithm;
use rustls::version::{TLS12, TLS13};
use serde_json::{Value, json};

use crate::ace::{Link, config, connect_4, form};
use crate::authz_info::with_raw_key;
use crate::bytes::{
    AUTHENTICATION_DATA, AUTHENTICATION_METHOD, Connect, PINGREQ, Publish, Said, Version, Will, ack, pstr,
    subscribe,
};
use crate::client::{Client, Transport};
use crate::harness::{Core, connect_jwt, now_s, wait_for};
use crate::pop::Owner;
use crate::refresh::access_token;
use crate::roads::{Road, Shown};
use crate::wire::Wire;
use crate::world::{Via, World};

const VERSIONS: [Version; 2] = [Version::V311, Version::V5];
const RESULT: &str = "$drawbridge/auth/result";
/// A change is to reach open sessions within 1 s; these tests run on machines that are busy.
const WITHIN: Duration = Duration::from_secs(3);

/// What `drawbridge can` says.
fn can(core: &Core, words: &[&str]) -> (bool, String) {
    let output = core.cli(&[&["can"], words].concat());
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    match output.status.code() {
        Some(0) => (true, said),
        Some(3) => (false, said),
        other => panic!("can {words:?}: {other:?} {output:?}"),
    }
}

const CEILINGS: &str = r#"
[limits]
payload_bytes_max = 1000
[[allow]]
publish = ["q0/#"]
subscribe = ["q0/#"]
qos_max = 0
[[allow]]
publish = ["q1/#"]
subscribe = ["q1/#", "any/shared/#"]
qos_max = 1
[[allow]]
publish = ["small/#"]
payload_bytes_max = 10
[[allow]]
publish = ["live/#"]
retain = false
[[allow]]
publish = ["kept/#"]
retain = true
[[allow]]
publish = ["last/#"]
will = true
[[allow]]
publish = ["now/#"]
will = false
[[allow]]
publish = ["any/#"]
subscribe = ["any/mine/#"]
[[deny]]
publish = ["any/secret/#"]
[[deny]]
publish = ["any/fleeting/#"]
retain = true
[[deny]]
subscribe = ["any/mine/not/#"]
"#;

/// A message: topic, QoS, retained, length of its payload.
type Message = (&'static str, u8, bool, usize);

const PUBLISHES: &[(Message, bool)] = &[
    (("q0/a", 0, false, 1), true),
    (("q0/a", 1, false, 1), false),
    (("q0/a", 2, false, 1), false),
    (("q0/a", 0, true, 1000), true),
    (("q1/a", 1, false, 1), true),
    (("q1/a", 2, false, 1), false),
    (("small/a", 0, false, 10), true),
    (("small/a", 0, false, 11), false),
    (("small/a", 1, false, 11), false),
    (("small/a", 2, true, 10), true),
    (("live/a", 1, false, 5), true),
    (("live/a", 1, true, 5), false),
    (("live/a", 0, true, 5), false),
    (("kept/a", 2, true, 5), true),
    (("kept/a", 2, false, 5), false),
    (("last/a", 1, false, 5), false),
    (("now/a", 1, false, 5), true),
    (("any/a", 2, true, 1000), true),
    (("any/a", 0, false, 1001), false),
    (("any/a", 2, false, 1001), false),
    (("any/secret/a", 1, false, 5), false),
    (("any/fleeting/a", 1, false, 5), true),
    (("any/fleeting/a", 1, true, 5), false),
    (("elsewhere", 0, false, 5), false),
    (("$SYS/a", 1, false, 5), false),
];

const WILLS: &[(Message, bool)] = &[
    (("last/a", 1, false, 5), true),
    (("last/a", 2, true, 1000), true),
    (("last/a", 1, false, 1001), false),
    (("now/a", 0, false, 5), false),
    (("any/a", 2, true, 5), true),
    (("any/secret/a", 0, false, 5), false),
    (("q0/a", 0, false, 5), true),
    (("q0/a", 1, false, 5), false),
    (("small/a", 1, false, 11), false),
    (("kept/a", 1, true, 5), true),
    (("kept/a", 1, false, 5), false),
    (("elsewhere", 0, false, 5), false),
];

/// A filter, the QoS asked for, and what is granted.
const SUBSCRIPTIONS: &[(&str, u8, Option<u8>)] = &[
    ("q0/#", 2, Some(0)),
    ("q0/#", 0, Some(0)),
    ("q1/+", 2, Some(1)),
    ("q1/+", 0, Some(0)),
    ("any/shared/a", 1, Some(1)),
    ("any/mine/#", 2, Some(2)),
    ("any/mine/not/#", 0, None),
    ("any/#", 0, None),
    ("#", 0, None),
    ("q1/#", 1, Some(1)),
    ("$share/g/q1/#", 2, Some(1)),
    ("small/a", 0, None),
];

/// Text of this length that no other row sends.
fn payload(row: usize, bytes: usize) -> String {
    let digit = char::from_u32(u32::try_from(row).expect("few") + 0x41).expect("a letter");
    std::iter::repeat_n(digit, bytes).collect()
}

/// `can` for a message.
fn can_publish(core: &Core, who: &str, (topic, qos, retain, bytes): Message, will: bool) -> (bool, String) {
    let (qos, bytes) = (qos.to_string(), bytes.to_string());
    let mut words = vec![who, "publish", topic, "--qos", &qos, "--payload-bytes", &bytes];
    words.extend(retain.then_some("--retain"));
    words.extend(will.then_some("--will"));
    can(core, &words)
}

/// Whether a publish was taken. What is refused is told by its code, or ends the connection, and by nothing else.
fn is_taken(client: &mut Client, publish: &Publish) -> bool {
    let (version, qos) = (client.version, publish.qos);
    client.send(&publish.encode(version));
    if qos == 0 {
        // It may find the connection closed already.
        client.try_send(&PINGREQ);
    }
    match client.answer() {
        Some(Said::PingResp) if qos == 0 => true,
        Some(Said::Ack { first_byte, code, id, .. }) => {
            assert_eq!((first_byte, id), (if qos == 1 { 0x40 } else { 0x50 }, publish.id));
            if code >= 0x80 {
                assert_eq!((version, code), (Version::V5, 0x87));
            } else if qos == 2 {
                client.send(&ack(0x62, id));
                client.acked(0x70, id, 0);
            }
            // Either way the session goes on.
            client.ping();
            code < 0x80
        }
        Some(Said::Disconnect { code, .. }) => {
            assert_eq!((version, qos, code), (Version::V5, 0, 0x87));
            client.is_closed();
            false
        }
        None => {
            assert_eq!(version, Version::V311, "the last word of MQTT 5 is DISCONNECT");
            false
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn ceilings_of_qos_size_retain_and_will_hold_on_the_wire_and_can_says_the_same() {
    let world = World::start(&[]);
    let core = world.core();
    let speaker = core.application("speaker", CEILINGS);
    let jwt = connect_jwt(&speaker, now_s(), 3_600);
    let join = |version: Version, id: &str, will: Option<Will>| {
        let mut client = Client::over(world.transport(Via::Tls), version);
        let connect = Connect { will, ..Connect::clean(id) };
        client.send(&connect.encode(version, Some(("", jwt.as_bytes()))));
        match client.next() {
            Some(Said::ConnAck { code: 0, .. }) => Some(client),
            Some(Said::ConnAck { code, .. }) => {
                assert_eq!(code, if version == Version::V5 { 0x87 } else { 5 });
                client.is_closed();
                None
            }
            other => panic!("{other:?} for CONNACK"),
        }
    };
    for version in VERSIONS {
        let mut listener = Client::observer(&world);
        listener.subscribe("#", 2);
        let mut spoken = BTreeSet::new();
        for (row, &(message, allowed)) in PUBLISHES.iter().enumerate() {
            let (topic, qos, retain, bytes) = message;
            let case = format!("{version:?} {message:?}");
            let mut client = join(version, &format!("p{row}"), None).expect("let in");
            let text = payload(row, bytes);
            let publish = Publish { retain, ..Publish::new(topic, &text).qos(qos, 7) };
            assert_eq!(is_taken(&mut client, &publish), allowed, "{case}");
            assert_eq!(can_publish(core, "speaker", message, false).0, allowed, "can: {case}");
            if allowed {
                spoken.insert((topic.to_owned(), text));
            }
        }
        for (row, &(message, allowed)) in WILLS.iter().enumerate() {
            let (topic, qos, retain, bytes) = message;
            let case = format!("{version:?} will {message:?}");
            let text = payload(row + PUBLISHES.len(), bytes);
            let will = Will {
                topic: topic.to_owned(),
                payload: text.clone().into_bytes(),
                qos,
                retain,
                ..Will::default()
            };
            let client = join(version, &format!("w{row}"), Some(will));
            assert_eq!(client.is_some(), allowed, "{case}");
            assert_eq!(can_publish(core, "speaker", message, true).0, allowed, "can: {case}");
            if let Some(client) = client {
                client.vanish();
                spoken.insert((topic.to_owned(), text));
            }
        }
        let mut client = join(version, "s", None).expect("let in");
        for &(filter, asked, granted) in SUBSCRIPTIONS {
            let refused = if version == Version::V5 { 0x87 } else { 0x80 };
            let case = format!("{version:?} {filter} {asked}");
            assert_eq!(client.try_subscribe(filter, asked), granted.unwrap_or(refused), "{case}");
            let words = ["speaker", "subscribe", filter, "--qos", &asked.to_string()];
            let (may, said) = can(core, &words);
            assert_eq!(may, granted.is_some(), "can: {case}");
            let less = granted.filter(|granted| *granted < asked);
            let told = less.is_none_or(|granted| said.contains(&format!("with QoS {granted}, not {asked}")));
            assert!(told, "can: {case}: {said}");
        }
        // All that was allowed comes, and nothing else.
        let mut heard = BTreeSet::new();
        wait_for("all that was allowed", Duration::from_secs(20), || {
            heard.extend(listener.ping().into_iter().map(|m| (m.topic.clone(), m.text().to_owned())));
            (heard.len() >= spoken.len()).then_some(())
        });
        let mut guest = Client::observer(&world);
        let rest = listener.all_of(&mut guest);
        heard.extend(rest.into_iter().map(|m| (m.topic.clone(), m.text().to_owned())));
        assert_eq!(heard, spoken, "{version:?}");
    }
}

const RATES: &str = "[limits]\nmessages_per_s = 5\nbytes_per_s = 1000\n[[allow]]\npublish = [\"#\"]\n";

/// Who is too fast is slowed down and loses nothing; what would take more than a minute is refused.
#[test]
fn rates_slow_a_client_down_lose_nothing_and_refuse_what_they_could_never_let_through() {
    let world = World::start(&[]);
    let speaker = world.core().application("speaker", RATES);
    let jwt = connect_jwt(&speaker, now_s(), 3_600);
    std::thread::scope(|scope| {
        for version in VERSIONS {
            let (world, jwt) = (&world, &jwt);
            scope.spawn(move || {
                let join = |what: &str| {
                    let mut client = Client::over(world.transport(Via::Tls), version);
                    let id = format!("{version:?}-{what}");
                    client.send(&Connect::clean(&id).encode(version, Some(("", jwt.as_bytes()))));
                    assert!(matches!(client.next(), Some(Said::ConnAck { code: 0, .. })));
                    client
                };
                // 5 come at once, then 5 in a second; 1,000 bytes likewise.
                for (what, count, bytes) in [("many", 16_u16, 1), ("long", 4, 990)] {
                    let mut client = join(what);
                    let began = Instant::now();
                    for id in 1..=count {
                        client.send(&Publish::new("a", payload(0, bytes)).qos(1, id).encode(version));
                    }
                    for id in 1..=count {
                        assert!(
                            matches!(client.answer(), Some(Said::Ack { first_byte: 0x40, id: found, code: 0 | 0x10, .. }) if found == id),
                            "{version:?} {what} {id}"
                        );
                    }
                    // A slower machine is only later.
                    assert!(began.elapsed() >= Duration::from_millis(1_500), "{version:?} {what}: {:?}", began.elapsed());
                }
                let mut client = join("never");
                let huge = Publish::new("a", payload(0, 60_100)).qos(1, 9);
                client.send(&huge.encode(version));
                if version == Version::V5 {
                    client.acked(0x40, 9, 0x97);
                    client.ping();
                } else {
                    client.ended();
                }
            });
        }
    });
}

/// `MQTTS`, `HTTPS`: ports. Each topic is one condition.
const CONDITIONS: &str = r#"
[[allow]]
subscribe = ["always"]
publish = ["always"]
[[allow]]
subscribe = ["five"]
when = { protocol = ["mqtt5"] }
[[allow]]
subscribe = ["three"]
when = { protocol = ["mqtt3"] }
[[allow]]
subscribe = ["web"]
when = { protocol = ["ws"] }
[[allow]]
subscribe = ["http"]
when = { protocol = ["http"] }
[[allow]]
subscribe = ["near"]
when = { address = ["127.0.0.1"] }
[[allow]]
subscribe = ["far"]
when = { address = ["127.0.0.2/31"] }
[[allow]]
subscribe = ["loop"]
when = { address = ["127.0.0.0/8", "::1"] }
[[allow]]
subscribe = ["port"]
when = { port = [MQTTS] }
[[allow]]
subscribe = ["https"]
when = { port = [HTTPS] }
[[allow]]
subscribe = ["v13"]
when = { tls = ["1.3"] }
[[allow]]
subscribe = ["v12"]
when = { tls = ["1.2"] }
[[allow]]
subscribe = ["clear"]
when = { tls = ["none"] }
[[allow]]
subscribe = ["password"]
when = { method = ["password"] }
[[allow]]
subscribe = ["jwt"]
when = { method = ["jwt"] }
[[allow]]
subscribe = ["token"]
when = { method = ["token"] }
[[allow]]
subscribe = ["certificate"]
when = { method = ["certificate"] }
[[allow]]
subscribe = ["raw-key"]
when = { method = ["raw-key"] }
[[allow]]
subscribe = ["ace"]
when = { method = ["ace"] }
[[allow]]
subscribe = ["anonymous"]
when = { method = ["anonymous"] }
[[allow]]
subscribe = ["id"]
when = { client_id = ["*:one"] }
[[allow]]
subscribe = ["all-of-them"]
when = { protocol = ["mqtt3", "mqtt5"], tls = ["1.3"], method = ["jwt", "token"], address = ["127.0.0.1"] }
[[deny]]
subscribe = ["always/not-in-1.2"]
when = { tls = ["1.2", "none"] }
[[allow]]
subscribe = ["always/#"]
"#;

const TOPICS: [&str; 23] = [
    "always",
    "five",
    "three",
    "web",
    "http",
    "near",
    "far",
    "loop",
    "port",
    "https",
    "v13",
    "v12",
    "clear",
    "password",
    "jwt",
    "token",
    "certificate",
    "raw-key",
    "ace",
    "anonymous",
    "id",
    "all-of-them",
    "always/not-in-1.2",
];

/// How somebody comes in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Entry {
    Jwt,
    JwtIn12,
    JwtFromAfar,
    JwtOverWeb,
    JwtByAnotherId,
    Token,
    Method,
    Certificate,
    Password,
    RawKey,
    Ace,
    Anonymous,
}

/// What holds beside `always`, and `five` or `three`; by hand. And what `can` is told: TLS, method.
const ENTRIES: &[(Entry, &str, &str, &[&str])] = &[
    (
        Entry::Jwt,
        "1.3",
        "jwt",
        &["near", "loop", "port", "v13", "jwt", "id", "all-of-them", "always/not-in-1.2"],
    ),
    (Entry::JwtIn12, "1.2", "jwt", &["near", "loop", "port", "v12", "jwt", "id"]),
    (Entry::JwtFromAfar, "1.3", "jwt", &["far", "loop", "port", "v13", "jwt", "id", "always/not-in-1.2"]),
    (
        Entry::JwtOverWeb,
        "1.3",
        "jwt",
        &["web", "near", "loop", "https", "v13", "jwt", "id", "all-of-them", "always/not-in-1.2"],
    ),
    (
        Entry::JwtByAnotherId,
        "1.3",
        "jwt",
        &["near", "loop", "port", "v13", "jwt", "all-of-them", "always/not-in-1.2"],
    ),
    (
        Entry::Token,
        "1.3",
        "token",
        &["near", "loop", "port", "v13", "token", "id", "all-of-them", "always/not-in-1.2"],
    ),
    (
        Entry::Method,
        "1.3",
        "token",
        &["near", "loop", "port", "v13", "token", "id", "all-of-them", "always/not-in-1.2"],
    ),
    (
        Entry::Certificate,
        "1.3",
        "certificate",
        &["near", "loop", "port", "v13", "certificate", "id", "always/not-in-1.2"],
    ),
    (
        Entry::Password,
        "1.3",
        "password",
        &["near", "loop", "port", "v13", "password", "id", "always/not-in-1.2"],
    ),
    (Entry::RawKey, "1.3", "raw-key", &["near", "loop", "v13", "raw-key", "id", "always/not-in-1.2"]),
    (Entry::Ace, "1.3", "ace", &["near", "loop", "port", "v13", "ace", "id", "always/not-in-1.2"]),
    (Entry::Anonymous, "none", "anonymous", &["near", "loop", "clear", "anonymous", "id"]),
];

/// A server where every way in is open, a listener with raw keys among them.
fn open_to_all() -> (World, String) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let raw = listener.local_addr().expect("bound").to_string();
    drop(listener);
    let mut world = World::start(&[]);
    let settings = world.core().place().join("settings.toml");
    let text = format!(
        "[listener.mqtts]\nways = [\"password\", \"device-jwt\", \"access-token\", \"token-method\", \"certificate\", \
         \"ace\", \"ace-user-name\"]\n[listener.raw]\naddress = \"{raw}\"\nraw_keys = true\nways = [\"raw-key\"]\n"
    );
    fs::write(&settings, text).expect("written");
    world.core_mut().stop();
    world.core_mut().also(&["--config", &settings.to_string_lossy()]);
    world.core_mut().run_again();
    (world, raw)
}

fn port_of(address: &str) -> &str {
    address.rsplit_once(':').expect("host and port").1
}

/// Comes in; the name of the principal, its client id, the port it came to.
fn enter(
    world: &World,
    raw: &str,
    policy: &str,
    entry: Entry,
    version: Version,
) -> (Client, String, String, String) {
    let core = world.core();
    let mqtts = &core.endpoints.mqtts;
    let name = match entry {
        Entry::Anonymous => "guest".to_owned(),
        _ => format!("{entry:?}-{version:?}").to_lowercase(),
    };
    let id = if entry == Entry::JwtByAnotherId { format!("{name}:two") } else { format!("{name}:one") };
    let connect = Connect::clean(&id);
    let by = |password: &str| connect.encode(version, Some((&name, password.as_bytes())));
    let mut address = mqtts.clone();
    let (transport, packet) = match entry {
        Entry::Anonymous => {
            address = core.endpoints.mqtt.clone().expect("a plain listener");
            let file = core.place().join("guest.toml");
            fs::write(&file, policy).expect("written");
            core.cli_ok(&["policy", "set", "guest", &file.to_string_lossy()]);
            (world.transport(Via::Plain), connect.encode(version, None))
        }
        Entry::Ace => {
            let file = core.place().join(format!("{name}.toml"));
            fs::write(&file, policy).expect("written");
            core.cli_ok(&["policy", "set", &name, &file.to_string_lossy()]);
            let owner = Owner::with_policy(core, &name, Algorithm::EdDsa, &name);
            let held = owner.token(core, true, true, json!({}));
            let link = Link::open(core, &config(core, &TLS13));
            let pop = held.pop.prove(&link.exporter());
            let packet = match version {
                Version::V5 => connect
                    .with(pstr(AUTHENTICATION_METHOD, "ace"))
                    .with(pstr(AUTHENTICATION_DATA, form(&held.token, &pop)))
                    .encode(version, None),
                Version::V311 => {
                    let user_name = format!("ace{}", URL_SAFE_NO_PAD.encode(&held.token));
                    connect_4(&id, &user_name, &pop, None)
                }
            };
            (Transport::Tls(Box::new(link.stream)), packet)
        }
        _ => {
            let identity = core.application(&name, policy);
            let jwt = connect_jwt(&identity, now_s(), 600);
            let road = Road::default();
            match entry {
                Entry::Jwt | Entry::JwtByAnotherId => (road.open(core, mqtts), by(&jwt)),
                Entry::JwtIn12 => (Road { tls: &TLS12, ..road }.open(core, mqtts), by(&jwt)),
                Entry::JwtFromAfar => {
                    (Road { from: Ipv4Addr::new(127, 0, 0, 2), ..road }.open(core, mqtts), by(&jwt))
                }
                Entry::JwtOverWeb => {
                    address.clone_from(&core.endpoints.https);
                    (Road { websocket: true, ..road }.open(core, &address), by(&jwt))
                }
                Entry::Token => (road.open(core, mqtts), by(&access_token(core, &identity))),
                Entry::Method => {
                    let packet = connect
                        .with(pstr(AUTHENTICATION_METHOD, "OAUTH2-JWT"))
                        .with(pstr(AUTHENTICATION_DATA, access_token(core, &identity)))
                        .encode(version, None);
                    (road.open(core, mqtts), packet)
                }
                Entry::Certificate => {
                    let shown = Shown::by(core, &identity);
                    let road = Road { shown: Some(&shown), ..road };
                    (road.open(core, mqtts), connect.encode(version, None))
                }
                Entry::Password => {
                    let said = core.cli_ok(&["app", "secret", &name]);
                    (road.open(core, mqtts), by(said.lines().next().expect("a line")))
                }
                Entry::RawKey => {
                    raw.clone_into(&mut address);
                    let link = Link::open_at(raw, &with_raw_key(core, &identity.key));
                    (Transport::Tls(Box::new(link.stream)), connect.encode(version, None))
                }
                Entry::Ace | Entry::Anonymous => unreachable!("above"),
            }
        }
    };
    let mut client = Client::over(transport, version);
    client.send(&packet);
    let said = client.next();
    assert!(
        matches!(said, Some(Said::ConnAck { code: 0, .. })),
        "{entry:?} {version:?}: {said:?}\n{}",
        core.log()
    );
    (client, name, id, port_of(&address).to_owned())
}

#[test]
fn conditions_of_protocol_port_address_tls_method_and_client_id_hold_on_the_wire_and_can_says_the_same() {
    let (world, raw) = open_to_all();
    let endpoints = &world.core().endpoints;
    let policy =
        CONDITIONS.replace("MQTTS", port_of(&endpoints.mqtts)).replace("HTTPS", port_of(&endpoints.https));
    std::thread::scope(|scope| {
        for version in VERSIONS {
            let (world, raw, policy) = (&world, &raw, &policy);
            scope.spawn(move || {
                for &(entry, tls, method, holds) in ENTRIES {
                    // An Authentication Method is MQTT 5.
                    if (entry, version) != (Entry::Method, Version::V311) {
                        meets(world, raw, policy, version, (entry, tls, method, holds));
                    }
                }
            });
        }
    });
}

fn meets(world: &World, raw: &str, policy: &str, version: Version, row: (Entry, &str, &str, &[&str])) {
    let (entry, tls, method, holds) = row;
    let core = world.core();
    let (mut client, name, id, port) = enter(world, raw, policy, entry, version);
    let (protocol, of_version) = if version == Version::V5 { ("mqtt5", "five") } else { ("mqtt3", "three") };
    let wanted: BTreeSet<&str> = holds.iter().copied().chain(["always", of_version]).collect();
    let entries = TOPICS.map(|topic| (topic, 0));
    client.send(&subscribe(version, 3, &[], &entries));
    let Some(Said::SubAck { codes, .. }) = client.answer() else { panic!("no SUBACK") };
    let refused = if version == Version::V5 { 0x87 } else { 0x80 };
    assert!(codes.iter().all(|code| [0, refused].contains(code)), "{codes:?}");
    let granted: BTreeSet<&str> =
        TOPICS.iter().zip(&codes).filter(|(_, code)| **code == 0).map(|(topic, _)| *topic).collect();
    assert_eq!(granted, wanted, "{entry:?} {version:?}");
    let from = if entry == Entry::JwtFromAfar { "127.0.0.2" } else { "127.0.0.1" };
    // The whole table by what the command line asks, and some of it by the command line itself, which takes longer.
    let (wire, token) = (Wire::of(core), fs::read_to_string(core.data().join("admin-token")).expect("there"));
    let bearer = format!("Bearer {}", token.trim());
    let over =
        format!("protocol={protocol}&port={port}&address={from}&tls={tls}&method={method}&client_id={id}");
    let web = entry == Entry::JwtOverWeb;
    for topic in TOPICS {
        let path = format!("/v1/can?principal={name}&action=subscribe&topic={topic}&{over}&websocket={web}");
        let answer = wire.get(&path, &[("authorization", &bearer)]);
        assert_eq!(answer.json()["allowed"], json!(wanted.contains(topic)), "{path}: {answer:?}");
    }
    for topic in [of_version, "far", "web", method] {
        let mut words = vec![&*name, "subscribe", topic, "--protocol", protocol, "--port", &port];
        words.extend(["--address", from, "--tls", tls, "--method", method, "--client-id", &id]);
        words.extend(web.then_some("--websocket"));
        let (may, said) = can(core, &words);
        assert_eq!(may, wanted.contains(topic), "can {words:?}: {said}");
    }
}

const BEFORE: &str = r##"
[[allow]]
publish = ["#"]
subscribe = ["#"]
when = { protocol = ["mqtt3", "mqtt5"] }
"##;
const AFTER: &str = r#"
[[allow]]
publish = ["always"]
subscribe = ["always"]
qos_max = 1
payload_bytes_max = 5
retain = false
[[allow]]
publish = ["far"]
subscribe = ["far"]
when = { address = ["127.0.0.2"] }
[[allow]]
publish = ["modern"]
subscribe = ["modern"]
when = { tls = ["1.3"] }
"#;

/// The connection that a session has is judged anew, and its next message by the new ceilings.
#[test]
fn a_policy_that_changes_reaches_open_sessions_by_the_connections_that_they_have() {
    let world = World::start(&[]);
    let core = world.core();
    let road = Road::default();
    let far = Road { from: Ipv4Addr::new(127, 0, 0, 2), ..road };
    let old = Road { tls: &TLS12, ..road };
    // What each loses of its subscriptions, and whether its will on `far` may still speak.
    let rows: [(&str, Road<'_>, &[&str], bool); 3] =
        [("near", road, &["far"], false), ("far", far, &[], true), ("old", old, &["far", "modern"], false)];
    for version in VERSIONS {
        let name = format!("fleet-{version:?}").to_lowercase();
        let identity = core.application(&name, BEFORE);
        let jwt = connect_jwt(&identity, now_s(), 3_600);
        let mut sessions: Vec<_> = rows
            .iter()
            .map(|(what, road, lost, speaks)| {
                let mut client = Client::over(road.open(core, &core.endpoints.mqtts), version);
                let will = Will { topic: "far".to_owned(), payload: b"will".to_vec(), ..Will::default() };
                let connect = Connect::clean(&format!("{name}:{what}")).will(will);
                client.send(&connect.encode(version, Some(("", jwt.as_bytes()))));
                assert!(matches!(client.next(), Some(Said::ConnAck { code: 0, .. })));
                for filter in [RESULT, "always", "far", "modern"] {
                    client.subscribe(filter, 1);
                }
                let message = Publish::new("elsewhere", "before it").qos(1, 7);
                assert!(is_taken(&mut client, &message), "{what}");
                (*what, client, *lost, *speaks)
            })
            .collect();
        // Does not listen to the result, and would lose something.
        let mut deaf = Client::over(road.open(core, &core.endpoints.mqtts), version);
        deaf.send(&Connect::clean(&format!("{name}:deaf")).encode(version, Some(("", jwt.as_bytes()))));
        assert!(matches!(deaf.next(), Some(Said::ConnAck { code: 0, .. })));
        deaf.subscribe("far", 1);

        let file = core.place().join("after.toml");
        fs::write(&file, AFTER).expect("written");
        core.cli_ok(&["policy", "set", &name, &file.to_string_lossy()]);
        let done = Instant::now();
        deaf.ended_with(0x98);
        for (what, client, lost, speaks) in &mut sessions {
            let case = format!("{version:?} {what}");
            if !lost.is_empty() || !*speaks {
                let told = client.message();
                assert_eq!(told.topic, RESULT, "{case}");
                let told: Value = serde_json::from_slice(&told.payload).expect("JSON");
                let removed: BTreeSet<&str> =
                    told["removed"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
                assert_eq!(removed, lost.iter().copied().collect(), "{case}: {told}");
                assert_eq!(told["will"] == json!("dropped"), !*speaks, "{case}: {told}");
            }
            assert!(done.elapsed() < WITHIN, "{case}: {:?}", done.elapsed());
        }
        // One last publish of each: what is refused ends a session of 3.1.1.
        for (message, allowed) in [
            (("always", 1, false, 5), true),
            (("always", 1, false, 6), false),
            (("always", 2, false, 5), false),
            (("always", 0, true, 5), false),
            (("elsewhere", 1, false, 5), false),
        ] {
            let (topic, qos, retain, bytes) = message;
            let mut client = Client::over(road.open(core, &core.endpoints.mqtts), version);
            client.send(&Connect::clean(&format!("{name}:last")).encode(version, Some(("", jwt.as_bytes()))));
            assert!(matches!(client.next(), Some(Said::ConnAck { code: 0, .. })));
            let publish = Publish { retain, ..Publish::new(topic, payload(0, bytes)).qos(qos, 9) };
            assert_eq!(is_taken(&mut client, &publish), allowed, "{version:?} {message:?}");
            assert_eq!(can_publish(core, &name, message, false).0, allowed, "can: {message:?}");
        }
        let mut guest = Client::observer(&world);
        for (what, client, lost, _) in &mut sessions {
            // Of those above the one that was allowed has come too; they are taken off.
            for topic in ["far", "modern", "always"] {
                guest.publish(&Publish::new(topic, *what).qos(1, 0));
            }
            let mut heard = BTreeSet::new();
            loop {
                let message = client.taken();
                if message.text() != *what {
                    continue;
                }
                heard.insert(message.topic.clone());
                if message.topic == "always" {
                    break;
                }
            }
            let covered: BTreeSet<String> = ["always", "far", "modern"]
                .iter()
                .filter(|t| !lost.contains(t))
                .map(|t| (*t).to_owned())
                .collect();
            assert_eq!(heard, covered, "{version:?} {what}");
            let publish = Publish::new("far", "speaks").qos(1, 11);
            assert_eq!(is_taken(client, &publish), *what == "far", "{version:?} {what}");
        }
    }
}
