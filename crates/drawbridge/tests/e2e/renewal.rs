//! A session is renewed while it goes on: by AUTH, by a publish, over HTTPS, in both versions; nothing is lost, doubled or cut,
//! and nobody but the server sees the token.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use drawbridge_device::{DeviceIdentity, TokenRequest};
use drawbridge_jose::base64url_encode;
use serde_json::{Value, json};

use crate::bytes::{
    AUTHENTICATION_DATA, AUTHENTICATION_METHOD, Connect, Message, Publish, Said, USER_PROPERTY, Version,
    Will, ack, packet, pstr, section, subscribe, user,
};
use crate::client::Client;
use crate::harness::{Core, jwt, now_s, run_python};
use crate::refresh::{access_token, refresh};
use crate::wire::Wire;
use crate::world::{Case, Via, World};

const RESULT: &str = "$drawbridge/auth/result";
const NONCE: &str = "$drawbridge/auth/nonce";
const AUTH: &str = "$drawbridge/auth";
const METHOD: &str = "OAUTH2-JWT";
/// How long each token is good (up to 1 s less, since its end is a whole second), and when the next one comes.
pub(crate) const LIFE: Duration = Duration::from_secs(5);
const EVERY: Duration = Duration::from_millis(1_400);
/// The default of a registry: a JWT is good for so long after its `exp`.
const SKEW_S: u64 = 60;
/// How late an end may be in these tests, on a machine that is busy.
pub(crate) const LATE: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    Auth,
    Publish,
    /// By an access token, which comes over HTTPS.
    Https,
}

/// Who is renewed, and every token that it ever used.
struct Renewed<'a> {
    client: Client,
    core: &'a Core,
    wire: Wire,
    identity: &'a DeviceIdentity,
    way: Way,
    tokens: Vec<String>,
    renewals: usize,
    next_id: u16,
    acknowledged: BTreeSet<u16>,
    messages: Vec<Message>,
    /// How long the server says that the right lasts, after each renewal.
    told_s: Vec<u64>,
}

/// A JWT that opens the door for [`LIFE`] and no longer.
pub(crate) fn short_lived(identity: &DeviceIdentity) -> String {
    let now_s = now_s();
    let claims = json!({
        "sub": identity.device,
        "aud": identity.bridge_audience,
        "iat": now_s - 2 * SKEW_S,
        "exp": now_s + LIFE.as_secs() - SKEW_S,
        // Each is another text.
        "x": drawbridge_device::random_id(),
    });
    jwt(Some("JWT"), &claims, &identity.key)
}

fn auth_again(token: &str) -> Vec<u8> {
    let properties = [pstr(AUTHENTICATION_METHOD, METHOD), pstr(AUTHENTICATION_DATA, token)].concat();
    packet(0xf0, &[&[0x19][..], &section(Version::V5, &properties)].concat())
}

impl<'a> Renewed<'a> {
    fn join(world: &'a World, identity: &'a DeviceIdentity, version: Version, way: Way) -> Self {
        let core = world.core();
        let token = short_lived(identity);
        let mut client = Client::over(world.transport(Via::Tls), version);
        // A session that is kept, so that all there is of it is stored.
        let connect = Connect::kept(&identity.device, version, 3_600);
        client.send(&match way {
            Way::Auth => connect
                .with(pstr(AUTHENTICATION_METHOD, METHOD))
                .with(pstr(AUTHENTICATION_DATA, &token))
                .encode(version, None),
            Way::Publish | Way::Https => connect.encode(version, Some(("unused", token.as_bytes()))),
        });
        assert!(matches!(client.next(), Some(Said::ConnAck { code: 0, .. })), "{version:?} {way:?}");
        let mut renewed = Self {
            client,
            core,
            wire: Wire::of(core),
            identity,
            way,
            tokens: vec![token],
            renewals: 0,
            next_id: 100,
            acknowledged: BTreeSet::new(),
            messages: Vec::new(),
            told_s: Vec::new(),
        };
        if way == Way::Publish {
            renewed.client.subscribe(RESULT, 1);
        }
        renewed
    }

    fn fresh_id(&mut self) -> u16 {
        self.next_id += 1;
        self.next_id
    }

    fn publish(&mut self, topic: &str, payload: &str) -> u16 {
        let id = self.fresh_id();
        self.client.send(&Publish::new(topic, payload).qos(1, id).encode(self.client.version));
        id
    }

    fn renew(&mut self) {
        let token = match self.way {
            Way::Auth | Way::Publish => short_lived(self.identity),
            Way::Https => access_token(self.core, self.identity),
        };
        match self.way {
            Way::Auth => self.client.send(&auth_again(&token)),
            Way::Publish => drop(self.publish(AUTH, &token)),
            Way::Https => {
                let answer = refresh(&self.wire, &token).json();
                assert_eq!((&answer["renewed"], &answer["sessions"][0]["removed"]), (&json!(1), &json!([])));
                self.told_s.push(LIFE.as_secs());
                self.renewals += 1;
            }
        }
        self.tokens.push(token);
    }

    /// Takes what comes within `limit`; `false` once the server has closed.
    fn listen(&mut self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.client.next_within(left) {
                Err(()) => return true,
                Ok(None | Some(Said::Disconnect { .. })) => return false,
                Ok(Some(said)) => self.take(said),
            }
        }
    }

    fn take(&mut self, said: Said) {
        match said {
            Said::Publish(message) if message.topic == RESULT => {
                let result: Value = serde_json::from_slice(&message.payload).expect("JSON");
                assert_eq!((&result["ok"], &result["removed"]), (&json!(true), &json!([])), "{result}");
                self.told_s.push(result["expires_in"].as_u64().expect("seconds"));
                self.renewals += 1;
            }
            Said::Publish(message) => {
                assert!(!message.dup, "nothing comes twice: {message:?}");
                self.client.send(&ack(0x40, message.id));
                self.messages.push(message);
            }
            Said::Auth { code: 0, properties } => {
                let left =
                    properties.text(USER_PROPERTY).and_then(|text| text.strip_prefix("db-expires-in="));
                self.told_s.push(left.and_then(|text| text.parse().ok()).expect("seconds"));
                self.renewals += 1;
            }
            Said::Ack { first_byte: 0x40, id, code, .. } => {
                assert!(code < 0x80, "PUBACK {code:#04x}");
                assert!(self.acknowledged.insert(id), "one PUBACK for each");
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Every file below, whatever it is.
fn files_below(folder: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { files_below(&path, found) } else { found.push(path) }
    }
}

/// What stands in the log (all that can be said is said) and in every file of the data folder: place and text.
fn kept(core: &Core) -> Vec<(String, String)> {
    let mut files = Vec::new();
    files_below(&core.data(), &mut files);
    let log = ("the log".to_owned(), core.log());
    let kept = files.iter().map(|path| {
        let bytes = fs::read(path).unwrap_or_default();
        // Segments end with what is reserved.
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        (path.display().to_string(), String::from_utf8_lossy(&bytes[..used]).into_owned())
    });
    std::iter::once(log).chain(kept).collect()
}

/// Neither a token nor its signature stands in what the server logs or stores.
pub(crate) fn nobody_kept(core: &Core, tokens: &[String]) {
    let kept = kept(core);
    assert!(kept.len() > 5, "the store and the messages are there");
    for (place, text) in &kept {
        for token in tokens {
            // Of a JWT its signature; an opaque one is all secret.
            let secret = token.rsplit('.').next().expect("a part");
            let needle = &secret[..secret.len().min(40)];
            assert!(!text.contains(needle), "a token stands in {place}");
        }
    }
}

/// A publisher at 100 messages a second and a subscriber, both renewed every [`EVERY`] while each token is good for
/// [`LIFE`]; then they stop, and are cut.
fn publish_through(world: &World, version: Version, way: Way, renewals: usize) -> Vec<String> {
    let name = format!("{version:?}-{way:?}").to_lowercase();
    let core = world.core();
    let publisher = core.device(&format!("p-{name}"));
    let reader = core.application(&format!("r-{name}"), "[[allow]]\nsubscribe = [\"devices/#\"]\n");
    let topic = format!("devices/{}/events/n", publisher.device);
    let mut publisher = Renewed::join(world, &publisher, version, way);
    let mut reader = Renewed::join(world, &reader, version, way);
    reader.client.subscribe(&topic, 1);
    let (began, mut sent) = (Instant::now(), Vec::new());
    let mut renew_at = began + EVERY / 2;
    let mut last = began;
    while publisher.tokens.len() <= renewals {
        let at = Instant::now();
        if at >= renew_at {
            publisher.renew();
            reader.renew();
            last = Instant::now();
            renew_at += EVERY;
        }
        // 100 messages a second, and no fewer when a turn takes long.
        let due = usize::try_from(began.elapsed().as_millis() / 10).expect("few");
        while sent.len() <= due {
            sent.push(publisher.publish(&topic, &sent.len().to_string()));
        }
        assert!(publisher.listen(Duration::from_millis(5)), "the publisher was cut");
        assert!(reader.listen(Duration::from_millis(1)), "the reader was cut");
    }
    for who in [&mut publisher, &mut reader] {
        assert!(who.listen(Duration::from_millis(700)), "cut");
        assert_eq!(who.renewals, renewals);
        // Re-armed each time, not only told so: the first token is long gone.
        assert!(who.told_s.iter().all(|left_s| (1..=LIFE.as_secs()).contains(left_s)), "{:?}", who.told_s);
        assert!(began.elapsed() > 2 * LIFE);
    }
    for id in &sent {
        assert!(publisher.acknowledged.contains(id), "PUBACK {id}");
    }
    let numbers: Vec<usize> = reader.messages.iter().map(|m| m.text().parse().expect("a number")).collect();
    assert_eq!(numbers, (0..sent.len()).collect::<Vec<_>>(), "each once, in order, without a gap");
    println!("{version:?} {way:?}: {renewals} renewals of each, {} messages", sent.len());
    // Without a further token it is over, and no sooner than the last one says.
    for who in [&mut publisher, &mut reader] {
        assert!(!who.listen(LIFE + LATE), "nobody stays without a right");
        assert!(last.elapsed() >= LIFE - Duration::from_secs(1), "the last token was good for longer");
    }
    let tokens = [publisher.tokens, reader.tokens].concat();
    assert_eq!(tokens.iter().collect::<BTreeSet<_>>().len(), 2 * (renewals + 1));
    tokens
}

fn every_way(renewals: usize) {
    let mut world = World::start(&[]);
    // Of access tokens, which those who renew over HTTPS bring.
    let life_s = LIFE.as_secs().to_string();
    world.core().cli_ok(&["registry", "set", "default", "--token-life-s", &life_s]);
    // Whoever listens to everything hears of no token, and for whoever is away none is stored.
    let away = Connect::kept("away", Version::V5, 3_600);
    let case = Case { version: Version::V5, via: Via::Plain };
    let (mut client, _) = Client::join(&world, case, &away);
    client.subscribe("#", 1);
    client.vanish();
    let name = crate::world::name("spy");
    let (mut spy, _) = Client::join(&world, case, &Connect::clean(&name).keep_alive(0));
    spy.subscribe("#", 0);
    for filter in ["$drawbridge/#", AUTH, RESULT, NONCE] {
        spy.try_subscribe(filter, 0);
    }
    let ways = [
        (Version::V311, Way::Publish),
        (Version::V5, Way::Publish),
        (Version::V5, Way::Auth),
        (Version::V311, Way::Https),
        (Version::V5, Way::Https),
    ];
    let tokens = std::thread::scope(|scope| {
        let world = &world;
        let runs =
            ways.map(|(version, way)| scope.spawn(move || publish_through(world, version, way, renewals)));
        runs.into_iter().flat_map(|run| run.join().expect("it passes")).collect::<Vec<String>>()
    });
    let heard = spy.ping();
    assert!(!heard.is_empty(), "it listens");
    let (mut client, present) = Client::join(&world, case, &away);
    assert!(present);
    let stored = client.all_of(&mut spy);
    assert!(stored.len() > 1_000, "what was published waited for it: {}", stored.len());
    // Of the nonces only its own, which its subscription brings.
    for message in heard.iter().filter(|message| message.topic != NONCE).chain(&stored) {
        assert!(!message.topic.starts_with('$'), "{message:?}");
        assert!(message.text().parse::<usize>().is_ok(), "{message:?}");
    }
    nobody_kept(world.core(), &tokens);
    // The search finds what is there: names in the log and the registry, topics in the messages.
    for (what, place) in
        [("p-v5-auth", "the log"), ("p-v5-auth", "registry"), ("p-v5-auth/events/n", "messages")]
    {
        let is_found = kept(world.core()).iter().any(|(at, text)| at.contains(place) && text.contains(what));
        assert!(is_found, "{what} in {place}");
    }
    world.core_mut().stop();
    nobody_kept(world.core(), &tokens);
}

/// EMQX up to 6 armed the timer of the end at CONNECT alone, so that a client which had authenticated anew was cut
/// at the end of its first token (emqx/emqx#18618).
#[test]
fn a_client_that_is_renewed_is_not_cut_at_its_first_end_and_loses_and_doubles_nothing() {
    every_way(8);
}

#[test]
#[ignore = "long: 50 renewals"]
fn soak_a_client_that_is_renewed_50_times_loses_and_doubles_nothing() {
    every_way(50);
}

/// The same by a client that no one here wrote.
fn by_paho(renewals: &str, life_s: &str) {
    let core = Core::start();
    let lamp = core.device("lamp");
    let viewer = core.application("viewer", "[[allow]]\nsubscribe = [\"devices/#\"]\n");
    let (host, port) = core.endpoints.mqtts.rsplit_once(':').expect("host and port");
    let folder =
        |identity: &DeviceIdentity| core.identity_folder(&identity.device).to_string_lossy().into_owned();
    let ca = core.data().join("ca.pem").to_string_lossy().into_owned();
    for version in ["3.1.1", "5"] {
        let args = [host, port, &ca, version, &folder(&lamp), &folder(&viewer), renewals, life_s];
        let said = run_python("paho_renewal.py", &args);
        assert!(said.contains("cut after its end"), "{said}");
    }
}

#[test]
fn stock_paho_renews_over_the_topic_keeps_its_port_and_is_cut_without_it() {
    by_paho("5", "5");
}

#[test]
#[ignore = "long: 50 renewals"]
fn soak_stock_paho_renews_50_times_over_the_topic() {
    by_paho("50", "3");
}

/// An access token of the identity with this grant.
fn granted(core: &Core, identity: &DeviceIdentity, grant: &Value) -> String {
    let scope = base64url_encode(grant.to_string().as_bytes());
    let request = TokenRequest {
        device: &identity.device,
        issuer: &identity.issuer,
        resource: None,
        scope: Some(&scope),
        bind_to: None,
    };
    core.api().access_token(&request, &identity.key).expect("a token").access_token
}

/// Table 2.4 of the protocol notes, over real sockets: what becomes of a session whose new token is for less.
#[test]
fn a_token_for_less_cuts_what_it_does_not_cover_and_leaves_the_rest_alone() {
    let mut world = World::start(&[]);
    // Not even the most talkative log has a token in it.
    world.core_mut().stop();
    world.core_mut().environment.push(("RUST_LOG", "trace".into()));
    world.core_mut().run_again();
    let core = world.core();
    let mut guest = Client::observer(&world);
    for (version, way) in [
        (Version::V5, Way::Auth),
        (Version::V5, Way::Publish),
        (Version::V311, Way::Publish),
        (Version::V5, Way::Https),
        (Version::V311, Way::Https),
    ] {
        let name = format!("s-{version:?}-{way:?}").to_lowercase();
        let identity = core.application(&name, "[[allow]]\npublish = [\"#\"]\nsubscribe = [\"#\"]\n");
        let at = |rest: &str| format!("{name}/{rest}");
        let all = json!([[at("#"), ["pub", "sub"]]]);
        let less = json!([[at("kept/#"), ["pub", "sub"]]]);
        let (first, second) = (granted(core, &identity, &all), granted(core, &identity, &less));
        let will = Will { topic: at("gone"), payload: b"will".to_vec(), ..Will::default() };
        let connect = Connect::clean(&name).will(will);
        let mut client = Client::over(world.transport(Via::Tls), version);
        client.send(&match way {
            Way::Auth => connect
                .with(pstr(AUTHENTICATION_METHOD, METHOD))
                .with(pstr(AUTHENTICATION_DATA, &first))
                .encode(version, None),
            Way::Publish | Way::Https => {
                connect.with(user("db-expires-in", "")).encode(version, Some(("", first.as_bytes())))
            }
        });
        let Some(Said::ConnAck { code: 0, properties, .. }) = client.next() else { panic!("not let in") };
        if version == Version::V5 {
            let told = properties.text(USER_PROPERTY).expect("how long the right lasts");
            let left_s: u64 = told.strip_prefix("db-expires-in=").and_then(|s| s.parse().ok()).expect(told);
            assert!((3_500..=3_600).contains(&left_s), "{left_s}");
        }
        if way == Way::Publish {
            client.subscribe(RESULT, 1);
        }
        client.subscribe(&at("kept/a"), 1);
        client.subscribe(&at("cut/#"), 1);
        let mut watcher = Client::observer(&world);
        watcher.subscribe(&at("#"), 1);
        // A message of QoS 2 is taken, and its end is still to come.
        client.send(&Publish::new(&at("cut/two"), "two").qos(2, 77).encode(version));
        client.pubrec(77);
        assert_eq!(client.taken().text(), "two");
        // One to the client is on its way: it came, and is not answered yet.
        guest.publish(&Publish::new(&at("cut/x"), "on its way").qos(1, 0));
        let under_way = client.message();
        assert_eq!(under_way.text(), "on its way");

        let told: BTreeSet<String> = match way {
            Way::Auth => {
                client.send(&auth_again(&second));
                match client.answer() {
                    Some(Said::Auth { code: 0, properties }) => properties
                        .all(USER_PROPERTY)
                        .map(|text| String::from_utf8(text.to_vec()).expect("text"))
                        .filter(|text| !text.starts_with("db-expires-in="))
                        .collect(),
                    other => panic!("{other:?}"),
                }
            }
            Way::Publish => {
                client.publish(&Publish::new(AUTH, &second).qos(1, 0));
                let result = client.message();
                assert_eq!(result.topic, RESULT);
                let result: Value = serde_json::from_slice(&result.payload).expect("JSON");
                let removed = result["removed"].as_array().expect("a list").iter();
                let removed = removed.map(|filter| format!("db-unsub={}", filter.as_str().expect("text")));
                removed.chain(result["will"].as_str().map(|what| format!("db-will={what}"))).collect()
            }
            Way::Https => {
                let answer = refresh(&Wire::of(core), &second).json();
                let session = &answer["sessions"][0];
                assert_eq!(
                    (&answer["renewed"], &session["client_id"]),
                    (&json!(1), &json!(name)),
                    "{answer}"
                );
                let removed = session["removed"].as_array().expect("a list").iter();
                let removed = removed.map(|filter| format!("db-unsub={}", filter.as_str().expect("text")));
                let will = (session["will_dropped"] == json!(true)).then(|| "db-will=dropped".to_owned());
                removed.chain(will).collect()
            }
        };
        let wanted = [format!("db-unsub={}", at("cut/#")), "db-will=dropped".to_owned()];
        assert_eq!(told, BTreeSet::from(wanted));
        // What was under way comes to its end.
        client.send(&ack(0x40, under_way.id));
        client.send(&ack(0x62, 77));
        client.acked(0x70, 77, 0);
        // What is cut is cut, what is covered goes on.
        guest.publish(&Publish::new(&at("cut/x"), "no more").qos(1, 0));
        guest.publish(&Publish::new(&at("kept/a"), "still").qos(1, 0));
        assert_eq!(client.taken().text(), "still");
        client.publish(&Publish::new(&at("kept/b"), "allowed").qos(1, 0));
        client.send(&subscribe(version, 90, &[], &[(&at("cut/#"), 1)]));
        let refused = if version == Version::V5 { 0x87 } else { 0x80 };
        assert!(matches!(client.answer(), Some(Said::SubAck { codes, .. }) if codes == [refused]));
        // It may not publish there any more: its last word, in 3.1.1 the end.
        client.send(&Publish::new(&at("cut/y"), "forbidden").qos(1, 91).encode(version));
        if version == Version::V5 {
            client.acked(0x40, 91, 0x87);
            client.vanish();
        } else {
            client.ended();
        }
        // The will is not spoken, and nothing forbidden was passed on.
        guest.publish(&Publish::new(&at("end"), "").qos(1, 0));
        let mut seen: Vec<String> =
            watcher.until(&at("end")).iter().map(|message| message.text().to_owned()).collect();
        // Of two publishers: there is no order between them.
        seen.sort();
        assert_eq!(seen, ["allowed", "no more", "on its way", "still", "two"].map(str::to_owned));
        nobody_kept(core, &[first, second]);
    }
    assert!(core.log().contains(" TRACE "), "it is talkative");
}
