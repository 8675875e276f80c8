//! What an observer sees of our own traffic: lengths and directions of TLS records, taken by a relay that reads their
//! headers. `docs/traffic-analysis.md` says what that gives away; its figures are held true here.
//!
//! `scripts/traffic` writes `study/traffic/records.tsv` and the table of the document anew.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use drawbridge_device::{
    AceProof, ClientCertificate, ClientOptions, ConnectJwt, DeviceClient, DeviceIdentity, Host,
    ProtocolVersion, TokenSource, Way,
};
use drawbridge_jose::{Algorithm, SigningKey};
use serde_json::{Value, json};

use crate::harness::{Core, connect_with, now_s, repository, wait_for};

const PATIENCE: Duration = Duration::from_secs(30);
const PAD_TO: u16 = 1024;
const SETTINGS: &str = r#"
[listener.every]
address = "127.0.0.1:0"
ways = ["password", "device-jwt", "access-token", "certificate", "ace", "ace-user-name", "token-method"]
tls12_client_certificates = true
"#;
/// What a record adds to the bytes in it: header, content type and tag in 1.3; header, nonce and tag in 1.2 with GCM.
const OVERHEAD: [(Tls, usize); 2] = [(Tls::V13, 5 + 1 + 16), (Tls::V12, 5 + 8 + 16)];
const MARKS: [&str; 2] = ["<!-- records: written by scripts/traffic -->", "<!-- records: end -->"];

const CHANGE_CIPHER_SPEC: u8 = 20;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Tls {
    V12,
    V13,
}

/// Content type and length, header included, of each record; what the client sent, and what the server sent.
type Records = [Vec<(u8, usize)>; 2];

/// Forwards one connection and writes down its records. Answers its own address.
fn relay(to: &str) -> (String, Arc<Mutex<Records>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let seen = Arc::new(Mutex::new(Records::default()));
    let (to, kept) = (to.to_owned(), Arc::clone(&seen));
    std::thread::spawn(move || {
        let (client, _) = listener.accept().expect("a client");
        let server = TcpStream::connect(to).expect("the server");
        for socket in [&client, &server] {
            socket.set_nodelay(true).expect("set");
            socket.set_read_timeout(Some(2 * PATIENCE)).expect("set");
        }
        let pass = |from: &TcpStream, to: &TcpStream, side: usize| {
            let (mut from, mut to) = (from.try_clone().expect("cloned"), to.try_clone().expect("cloned"));
            let seen = Arc::clone(&kept);
            std::thread::spawn(move || {
                let (mut rest, mut chunk) = (Vec::new(), [0; 16 << 10]);
                while let Ok(n @ 1..) = from.read(&mut chunk) {
                    rest.extend_from_slice(&chunk[..n]);
                    while let [kind, _, _, high, low, ..] = rest[..] {
                        let length = 5 + usize::from(u16::from_be_bytes([high, low]));
                        if rest.len() < length {
                            break;
                        }
                        seen.lock().expect("not poisoned")[side].push((kind, length));
                        rest.drain(..length);
                    }
                    if to.write_all(&chunk[..n]).is_err() {
                        break;
                    }
                }
                let _ = to.shutdown(Shutdown::Write); // it may be gone by now
            });
        };
        pass(&client, &server, 0);
        pass(&server, &client, 1);
    });
    (address, seen)
}

/// Records with bytes of MQTT in them, those of the client and those of the server. In TLS 1.3 the end of the handshake
/// looks the same: the first of the client, the first and the ticket of the server.
fn of_mqtt(records: &Records, tls: Tls) -> [Vec<usize>; 2] {
    let handshake = if tls == Tls::V13 { [1, 2] } else { [0, 0] };
    [0, 1].map(|side| {
        let data = records[side].iter().filter(|(kind, _)| *kind == APPLICATION_DATA);
        data.skip(handshake[side]).map(|(_, length)| *length).collect()
    })
}

/// What the client sent before CONNECT, in bytes.
fn handshake_bytes(records: &Records, tls: Tls) -> usize {
    let data = usize::from(tls == Tls::V13);
    let of = |kinds: [u8; 2]| {
        records[0].iter().filter(move |(kind, _)| kinds.contains(kind)).map(|(_, length)| length)
    };
    // What is clear, without the alert at the end; then what TLS 1.3 hides.
    of([CHANGE_CIPHER_SPEC, HANDSHAKE]).chain(of([APPLICATION_DATA; 2]).take(data)).sum()
}

/// A line of the table: what an observer sees of one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    way: String,
    version: &'static str,
    tls: Tls,
    padded: bool,
    /// Bytes of the client's handshake; not the same each time.
    handshake: usize,
    connect: usize,
    connack: usize,
}

impl Line {
    fn tsv(&self) -> String {
        let tls = if self.tls == Tls::V12 { "1.2" } else { "1.3" };
        let Self { way, version, padded, handshake, connect, connack, .. } = self;
        format!("{way}\t{version}\t{tls}\t{padded}\t{handshake}\t{connect}\t{connack}")
    }
}

const HEAD: &str = "way\tmqtt\ttls\tpadded\tclient_handshake\tconnect\tconnack";

struct World {
    core: Core,
    every: String,
}

impl World {
    fn start() -> Self {
        let place = tempfile::tempdir().expect("a folder");
        let file = place.path().join("settings.toml");
        fs::write(&file, SETTINGS).expect("written");
        // The issuer stands in tokens: their length is not to depend on a port.
        let words = ["--issuer", "https://core.example", "--config", &file.to_string_lossy()];
        let core = Core::start_with(&words);
        let every = wait_for("the address of the listener", PATIENCE, || {
            let log = core.log();
            let mut words = log.lines().map(str::split_whitespace).find_map(|mut words| {
                (words.next() == Some("listener") && words.next() == Some("every")).then_some(words)
            })?;
            words.next().map(str::to_owned)
        });
        drop(core.device("lamp"));
        core.admin("PUT", "/v1/devices/lamp/password", Some(&json!({ "password": "twenty-letters-here!" })));
        Self { core, every }
    }

    /// `lamp`, or a device with a name as long and a key of this algorithm.
    fn identity(&self, key: Option<(&str, &SigningKey)>) -> DeviceIdentity {
        let folder = self.core.identity_folder("lamp");
        let mut identity = DeviceIdentity::load(&folder).expect("an identity");
        if let Some((name, key)) = key {
            name.clone_into(&mut identity.device);
            identity.key = SigningKey::from_pkcs8_pem(&key.to_pkcs8_pem()).expect("the same key");
        }
        identity
    }

    fn register(&self, name: &str, algorithm: Algorithm) -> SigningKey {
        let key = SigningKey::generate(algorithm).expect("a key");
        let jwk: Value = serde_json::from_str(&key.public_key().to_jwk_json()).expect("JSON");
        self.core.admin("POST", "/v1/devices", Some(&json!({ "name": name, "keys": [{ "jwk": jwk }] })));
        key
    }

    /// Connects, lets `meanwhile` see what is recorded, and goes.
    fn capture(
        &self,
        mut options: ClientOptions,
        tls: Tls,
        meanwhile: impl FnOnce(&Mutex<Records>),
    ) -> Records {
        let (address, seen) = relay(&self.every);
        options.endpoint.server = address;
        options.endpoint.tls.as_mut().expect("TLS").only_1_2 = tls == Tls::V12;
        let client = DeviceClient::start(options).expect("starts");
        client.connected(PATIENCE).expect("admitted");
        meanwhile(&seen);
        let _ = client.stop(PATIENCE);
        let seen = seen.lock().expect("not poisoned");
        seen.clone()
    }

    fn line(&self, row: &Row<'_>, tls: Tls, padded: bool) -> Line {
        let mut options = ClientOptions::of(self.identity(row.key)).expect("options");
        (options.version, options.way, options.tokens) = (row.version, row.way.clone(), row.tokens.clone());
        options.keep_alive_s = 0;
        options.pad_to = if padded { PAD_TO } else { 0 };
        if matches!(row.way, Way::Certificate) {
            let key = options.login.as_ref().expect("`of` gives one").key.clone();
            let shown = ClientCertificate::self_signed("lamp", key, &Host).expect("made");
            options.endpoint.tls.as_mut().expect("TLS").certificate = Some(shown);
        }
        let records = self.capture(options, tls, |_| {});
        let [client, server] = of_mqtt(&records, tls);
        Line {
            way: row.name.to_owned(),
            version: if row.version == ProtocolVersion::V5 { "5" } else { "3.1.1" },
            tls,
            padded,
            handshake: handshake_bytes(&records, tls),
            connect: client[0],
            // After the challenge of `ace` it is the second that the server says.
            connack: server[usize::from(matches!(row.way, Way::Ace(AceProof::Challenge)))],
        }
    }
}

struct Row<'a> {
    name: &'a str,
    version: ProtocolVersion,
    way: Way,
    tokens: TokenSource,
    key: Option<(&'a str, &'a SigningKey)>,
}

/// Whether a CONNECT of this row has room for padding: see `ClientOptions::pad_to`.
fn has_room(row: &Row<'_>) -> bool {
    row.version == ProtocolVersion::V5 || matches!(row.way, Way::Token | Way::Certificate)
}

#[test]
fn what_an_observer_sees_of_connect_is_what_the_document_says() {
    let world = World::start();
    let (ed_dsa, rs256) =
        (world.register("edds", Algorithm::EdDsa), world.register("rs25", Algorithm::Rs256));
    let jwt = || TokenSource::DeviceJwt { life_s: 3600, bound: false };
    let bound = TokenSource::DeviceJwt { life_s: 3600, bound: true };
    let access = || TokenSource::AccessToken { scope: None, bound: false };
    let ace = || TokenSource::AceToken { scope: None };
    let password = || Way::Password { user_name: "lamp".into(), password: b"twenty-letters-here!".to_vec() };
    let (old, new) = (ProtocolVersion::V311, ProtocolVersion::V5);
    let row = |name, version, way, tokens, key| Row { name, version, way, tokens, key };
    let rows = [
        row("certificate", old, Way::Certificate, jwt(), None),
        row("password of 20 bytes", old, password(), jwt(), None),
        row("device JWT, ES256", old, Way::Token, jwt(), None),
        row("device JWT, EdDSA", old, Way::Token, jwt(), Some(("edds", &ed_dsa))),
        row("device JWT, RS256", old, Way::Token, jwt(), Some(("rs25", &rs256))),
        row("device JWT, ES256, `cb`", old, Way::Token, bound, None),
        row("access token", old, Way::Token, access(), None),
        row("`ace` in the user name", old, Way::Ace(AceProof::Exporter), ace(), None),
        row("certificate", new, Way::Certificate, jwt(), None),
        row("password of 20 bytes", new, password(), jwt(), None),
        row("device JWT, ES256", new, Way::Token, jwt(), None),
        row("`OAUTH2-JWT`, ES256", new, Way::Method("OAUTH2-JWT".to_owned()), jwt(), None),
        row("access token", new, Way::Token, access(), None),
        row("`ace`, exporter", new, Way::Ace(AceProof::Exporter), ace(), None),
        row("`ace`, challenge", new, Way::Ace(AceProof::Challenge), ace(), None),
    ];
    let mut lines = Vec::new();
    for row in &rows {
        for padded in [false, true] {
            if padded && !has_room(row) {
                continue;
            }
            let both = OVERHEAD.map(|(tls, overhead)| (world.line(row, tls, padded), overhead));
            let inside =
                both.each_ref().map(|(line, overhead)| (line.connect - overhead, line.connack - overhead));
            assert_eq!(inside[0], inside[1], "both versions of TLS carry the same bytes: {both:?}");
            let (connect, connack) = inside[0];
            if padded {
                assert_eq!(connect, usize::from(PAD_TO), "{both:?}");
                assert_eq!(connack, if row.version == new { 256 } else { 4 }, "{both:?}");
            } else {
                assert!(connect < 1000 && connect % 256 != 0 && connack < 128, "{both:?}");
            }
            lines.extend(both.map(|(line, _)| line));
        }
    }
    compare(&lines);
}

/// With what is kept in the repository, or writes that anew.
fn compare(lines: &[Line]) {
    let file = repository().join("study/traffic/records.tsv");
    let document = repository().join("docs/traffic-analysis.md");
    let text = fs::read_to_string(&document).expect("the document");
    let [begin, end] = MARKS.map(|mark| text.find(mark).expect("the document has the marks"));
    let written = text[begin + MARKS[0].len()..end].trim();
    if std::env::var_os("DRAWBRIDGE_WRITE_TRAFFIC").is_some() {
        let rows: Vec<String> = lines.iter().map(Line::tsv).collect();
        fs::write(&file, format!("{HEAD}\n{}\n", rows.join("\n"))).expect("written");
        let text = format!("{}\n\n{}\n{}", &text[..begin + MARKS[0].len()], table(lines), &text[end..]);
        fs::write(&document, text).expect("written");
        return;
    }
    let kept = fs::read_to_string(&file).expect("study/traffic/records.tsv; `scripts/traffic` makes it");
    let kept: Vec<Vec<&str>> = kept.lines().skip(1).map(|line| line.split('\t').collect()).collect();
    assert_eq!(kept.len(), lines.len(), "rows; `scripts/traffic` writes the file anew");
    let mut as_kept = Vec::new();
    for (line, kept) in lines.iter().zip(kept) {
        let found = line.tsv();
        let found: Vec<&str> = found.split('\t').collect();
        assert_eq!(found[..4], kept[..4], "`scripts/traffic` writes the file anew");
        let of_kept = |at: usize| kept[at].parse::<usize>().expect("a number");
        // Signatures of ECDSA in DER have no fixed length, and a number of the registry stands in tokens of the issuer.
        let may_differ = |at: usize| match at {
            4 => 24,
            _ if line.padded => 0,
            _ if line.way == "access token" || line.way.contains("ace") => 12,
            _ => 0,
        };
        for at in 4..7 {
            let found: usize = found[at].parse().expect("a number");
            let off = found.abs_diff(of_kept(at));
            assert!(off <= may_differ(at), "{line:?}: {found} instead of {}; is it meant?", of_kept(at));
        }
        as_kept.push(Line {
            handshake: of_kept(4),
            connect: of_kept(5),
            connack: of_kept(6),
            ..line.clone()
        });
    }
    assert_eq!(written, table(&as_kept).trim(), "the document has another table than the file it is made of");
}

/// As the document has it: a line for each way and version of MQTT.
fn table(lines: &[Line]) -> String {
    let mut text = String::from(
        "| way in | MQTT | CONNECT | record in TLS 1.3 / 1.2 | CONNACK record, 1.3 / 1.2 | client's handshake, 1.3 / 1.2 | padded: CONNECT | CONNACK |\n\
         |---|---|---:|---:|---:|---:|---:|---:|\n",
    );
    let mut order = Vec::new();
    let mut found = BTreeMap::<_, BTreeMap<_, &Line>>::new();
    for line in lines {
        let key = (line.way.as_str(), line.version);
        if !order.contains(&key) {
            order.push(key);
        }
        found.entry(key).or_default().insert((line.padded, line.tls), line);
    }
    for key in order {
        let of = |padded, tls| found[&key].get(&(padded, tls)).copied();
        let (Some(new), Some(older)) = (of(false, Tls::V13), of(false, Tls::V12)) else { continue };
        let padded = match (of(true, Tls::V13), of(true, Tls::V12)) {
            (Some(new), Some(older)) => {
                format!("{} / {} | {} / {}", new.connect, older.connect, new.connack, older.connack)
            }
            _ => "no room | -".to_owned(),
        };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} / {} | {} / {} | {} / {} | {padded} |",
            key.0,
            key.1,
            new.connect - 22,
            new.connect,
            older.connect,
            new.connack,
            older.connack,
            new.handshake,
            older.handshake,
        );
    }
    text
}

#[test]
fn pingreq_is_24_bytes_in_tls_1_3_and_31_in_1_2_and_padded_pings_look_like_messages() {
    let world = World::start();
    for (tls, overhead) in OVERHEAD {
        let options = |pad_to| {
            let mut options = ClientOptions::of(world.identity(None)).expect("options");
            (options.keep_alive_s, options.pad_to) = (1, pad_to);
            // A method renews by AUTH: no subscription stands between CONNECT and the pings.
            options.way = Way::Method("OAUTH2-JWT".to_owned());
            options
        };
        let pings = |count: usize| {
            move |seen: &Mutex<Records>| {
                wait_for("pings", PATIENCE, || {
                    let [client, _] = of_mqtt(&seen.lock().expect("not poisoned"), tls);
                    (client.len() > count).then_some(())
                });
            }
        };
        let [client, server] = of_mqtt(&world.capture(options(0), tls, pings(2)), tls);
        let wanted = if tls == Tls::V13 { 24 } else { 31 };
        assert_eq!(client[1..3], [wanted; 2], "{tls:?}: PINGREQ {client:?}");
        assert_eq!(server[1], wanted, "{tls:?}: PINGRESP {server:?}");
        let [client, server] = of_mqtt(&world.capture(options(PAD_TO), tls, pings(3)), tls);
        let (least, most) = (21 + overhead, 277 + overhead);
        assert!(client[1..4].iter().all(|ping| (least..=most).contains(ping)), "{tls:?}: {client:?}");
        assert_eq!(server.len(), 1, "{tls:?}: nothing answers them: {server:?}");
    }
}

#[test]
fn a_jwt_that_carries_its_own_padding_opens_a_session() {
    let core = Core::start();
    let lamp = core.device("lamp");
    let jwt = ConnectJwt {
        device: &lamp.device,
        bridge_audience: &lamp.bridge_audience,
        now_s: now_s(),
        life_s: 600,
    };
    for pad_bytes in [0, 100, 2_000] {
        let padded = jwt.sign_padded(pad_bytes, None, &lamp.key).expect("signs");
        assert!(padded.len() > pad_bytes);
        drop(connect_with(&lamp, &padded).expect("admitted"));
    }
}
