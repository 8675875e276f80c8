//! The table of all ways in: each in both versions of TLS and of MQTT, with a good credential and with each fault, over
//! real sockets, against what `ways-expected.tsv` says. That file is written by hand, from what the standards and the
//! documents of this project say; a cell without a row fails, and so does a row without a cell.

mod credentials;
mod table;

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use drawbridge_admission::Way;
use drawbridge_jose::{Algorithm, SigningKey};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, ResolvesClientCert, Resumption};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme, StreamOwned,
};
use serde_json::{Value, json};

use crate::bytes::{
    AUTHENTICATION_DATA, AUTHENTICATION_METHOD, Connect, DISCONNECT, PINGREQ, Publish, Said, Version, field,
    packet, pstr, variable,
};
use crate::client::{Client, Transport};
use crate::harness::{Core, now_s, wait_for};
use crate::plain;
use crate::pop::{Held, Owner, random};
use crate::wire::Wire;

use credentials::{BRIEF_TOKEN_S, Door, Ready, Says, Shows, jwk, named, raw, ready, self_signed, token_for};
use table::{By, Case, Cell, Outcome, Row, Tls, expected, matched};

/// RFC 9431 section 2.2.4.2.1.
const EXPORTER: &[u8] = b"EXPORTER-ACE-MQTT-Sign-Challenge";
/// How long the server may think.
const PATIENCE: Duration = Duration::from_secs(20);
/// So long a connection lasts at least, as it ends, so that the log has each: it takes 50 refusals of admission in a second,
/// and 20 lines of a shard, of which a session has two.
fn pace(code: Option<u8>) -> Duration {
    Duration::from_millis(match code {
        Some(0) => 110,
        Some(_) => 30,
        None => 60,
    })
}

const SETTINGS: &str = r#"
[listener.every]
address = "127.0.0.1:0"
ways = ["password", "device-jwt", "access-token", "certificate", "ace", "ace-user-name", "token-method"]
tls12_client_certificates = true
[listener.raw]
address = "127.0.0.1:0"
raw_keys = true
[listener.kept]
address = "127.0.0.1:0"
ways = ["authz-info", "ace"]
tls12_client_certificates = true
[listener.keptraw]
address = "127.0.0.1:0"
ways = ["authz-info"]
raw_keys = true
[listener.secrets]
address = "127.0.0.1:0"
ways = ["password"]
"#;

/// A server with all doors, and one that lets anonymous clients in.
struct World {
    core: Core,
    open: Core,
    wire: Wire,
    admin: String,
    issuer: String,
    /// Of the further listeners.
    addresses: Vec<(Door, String)>,
    /// A device that no case is about.
    neighbour: String,
    /// In the form of an opaque token, and none.
    unknown_token: String,
}

impl World {
    fn start() -> Self {
        let place = tempfile::tempdir().expect("a folder");
        let file = place.path().join("settings.toml");
        fs::write(&file, SETTINGS).expect("written");
        let core = Core::start_with(&["--config", &file.to_string_lossy(), "--insecure-mqtt-port", "0"]);
        let open = Core::start_with(&plain::ARGS);
        plain::guest(&open);
        let wire = Wire::of(&core);
        let token = fs::read_to_string(core.data().join("admin-token")).expect("the credential");
        let admin = format!("Bearer {}", token.trim());
        let issuer = wire.get("/.well-known/oauth-authorization-server", &[]).text_of("issuer");
        let addresses = [
            (Door::Every, "every"),
            (Door::Raw, "raw"),
            (Door::Kept, "kept"),
            (Door::KeptRaw, "keptraw"),
            (Door::Passwords, "secrets"),
        ];
        let addresses = addresses.map(|(door, name)| (door, listener(&core, name))).to_vec();
        let neighbour = "neighbour".to_owned();
        let mut world =
            Self { core, open, wire, admin, issuer, addresses, neighbour, unknown_token: String::new() };
        let brief = format!("life_s = {BRIEF_TOKEN_S}");
        for (name, token) in [
            ("opaque", "format = \"opaque\""),
            ("brief", &brief),
            ("brief-opaque", &format!("{brief}\nformat = \"opaque\"")),
        ] {
            let text = format!("[[allow]]\npublish = [\"devices/${{device}}/#\"]\n[token]\n{token}\n");
            let file = world.core.place().join(format!("{name}.toml"));
            fs::write(&file, text).expect("written");
            world.core.cli_ok(&["policy", "set", name, &file.to_string_lossy()]);
        }
        world.device("neighbour", "device");
        // Of a device that is gone with all its tokens.
        let gone = world.device("gone", "opaque");
        world.unknown_token = token_for(&world, &gone, "mqtt");
        world.ask("DELETE", "/v1/devices/gone", None);
        world
    }

    /// A request of the operator, which must succeed.
    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let body = body.map(Value::to_string).unwrap_or_default();
        let mut headers = vec![("authorization", self.admin.as_str())];
        if !body.is_empty() {
            headers.push(("content-type", "application/json"));
        }
        let answer = self.wire.send(method, path, &headers, body.as_bytes());
        assert!((200..300).contains(&answer.status), "{method} {path}: {answer:?}");
        answer.json()
    }

    /// Registers a device with a key of its own.
    fn device(&self, name: &str, policy: &str) -> Owner {
        let key = Arc::new(SigningKey::generate(Algorithm::Es256).expect("a key"));
        self.device_with(name, &json!({ "jwk": jwk(&key) }), policy);
        Owner { name: name.to_owned(), key, issuer: self.issuer.clone() }
    }

    fn device_with(&self, name: &str, key: &Value, policy: &str) {
        let body = json!({ "name": name, "keys": [key], "policy": policy });
        self.ask("POST", "/v1/devices", Some(&body));
    }

    fn core_of(&self, by: By) -> &Core {
        if by == By::AnonymousAsked { &self.open } else { &self.core }
    }

    fn address(&self, cell: &Cell, door: Door) -> &str {
        let core = self.core_of(cell.by);
        match door {
            _ if cell.case == Case::Plaintext => core.endpoints.mqtt.as_ref().expect("a plain listener"),
            Door::Standard => &core.endpoints.mqtts,
            door => self.address_of(door),
        }
    }

    fn address_of(&self, door: Door) -> &str {
        &self.addresses.iter().find(|(other, _)| *other == door).expect("all are there").1
    }

    /// Publishes a token to `authz-info`, without any credential (RFC 9431 appendix A); whether it was taken.
    fn publish_token(&self, token: &[u8]) -> bool {
        let config = config(&self.core, Door::Kept, Tls::V13, &Shows::Nothing, Resumption::disabled());
        let socket = TcpStream::connect(self.address_of(Door::Kept)).expect("the server accepts");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let stream = shake(&config, socket).expect("a handshake");
        let mut client = Client::over(Transport::Tls(Box::new(stream)), Version::V5);
        client.send(&Connect::clean("").encode(Version::V5, None));
        match client.next() {
            Some(Said::ConnAck { code: 0, .. }) => {}
            other => panic!("{other:?} for CONNACK"),
        }
        client.send(&Publish::new("authz-info", token).qos(1, 1).encode(Version::V5));
        match client.next() {
            Some(Said::Ack { first_byte: 0x40, code, .. }) => code == 0,
            other => panic!("{other:?} for PUBACK"),
        }
    }
}

/// The address of a further listener, as it is announced at the start.
fn listener(core: &Core, name: &str) -> String {
    wait_for("the address of a listener", PATIENCE, || {
        let log = core.log();
        let mut words = log.lines().map(|line| line.split_whitespace()).find_map(|mut words| {
            (words.next() == Some("listener") && words.next() == Some(name)).then_some(words)
        })?;
        words.next().map(str::to_owned)
    })
}

/// What was seen of a connection.
struct Seen {
    outcome: Result<Outcome, String>,
    /// Of CONNACK.
    code: Option<u8>,
    /// Ours.
    port: u16,
    /// Whether TLS was.
    resumed: bool,
}

/// A connection as the cell has it. `config`: what the client has of earlier connections, if it had some.
fn attempt(world: &World, cell: &Cell, ready: &Ready, config: Option<&Arc<ClientConfig>>) -> Seen {
    let socket = TcpStream::connect(world.address(cell, ready.door)).expect("the server accepts");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    socket.set_write_timeout(Some(PATIENCE)).expect("a timeout");
    let port = socket.local_addr().expect("bound").port();
    if cell.case == Case::Plaintext {
        // There is nothing to prove a key over.
        let (outcome, code) = converse(Client::over(Transport::Plain(socket), cell.mqtt), ready, &[0; 32]);
        return Seen { outcome, code, port, resumed: false };
    }
    let fresh =
        || self::config(world.core_of(cell.by), ready.door, cell.tls, &ready.shows, Resumption::disabled());
    let config = config.map_or_else(fresh, Arc::clone);
    let Ok(stream) = shake(&config, socket) else {
        return Seen { outcome: Ok(Outcome::Handshake), code: None, port, resumed: false };
    };
    let exporter = stream.conn.export_keying_material([0; 32], EXPORTER, Some(b"")).expect("an exporter");
    let resumed = stream.conn.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
    let client = Client::over(Transport::Tls(Box::new(stream)), cell.mqtt);
    let (outcome, code) = converse(client, ready, &exporter);
    Seen { outcome, code, port, resumed }
}

/// From CONNECT to the end of the connection.
fn converse(mut client: Client, ready: &Ready, exporter: &[u8; 32]) -> (Result<Outcome, String>, Option<u8>) {
    client.try_send(&connect(ready, client.version, exporter));
    let mut said = client.next_within(PATIENCE);
    if let (Ok(Some(Said::Auth { code: 0x18, properties })), Says::Challenge(held)) = (&said, &ready.says) {
        let theirs = properties.first(AUTHENTICATION_DATA).expect("a nonce").to_vec();
        client.try_send(&answer(&theirs, held));
        said = client.next_within(PATIENCE);
    }
    match said {
        Ok(Some(Said::ConnAck { code: 0, .. })) => {
            client.try_send(&PINGREQ);
            match client.next_within(PATIENCE) {
                Ok(Some(Said::PingResp)) => {}
                other => return (Err(format!("{other:?} for PINGRESP")), Some(0)),
            }
            client.try_send(&DISCONNECT);
            while let Ok(Some(_)) = client.next_within(PATIENCE) {}
            (Ok(Outcome::Accepted), Some(0))
        }
        // MQTT-3.2.2-5 (3.1.1), MQTT-3.2.2-7 (5.0): the connection is closed then.
        Ok(Some(Said::ConnAck { code, .. })) => match client.next_within(PATIENCE) {
            Ok(None) => (Ok(Outcome::Refused), Some(code)),
            other => (Err(format!("{other:?} behind CONNACK {code:#04x}")), Some(code)),
        },
        other => (Err(format!("{other:?} for CONNACK")), None),
    }
}

/// A client with what it shows in TLS, which knows its server.
fn config(core: &Core, door: Door, tls: Tls, shows: &Shows, resumption: Resumption) -> Arc<ClientConfig> {
    static VERSIONS: [&[&rustls::SupportedProtocolVersion]; 2] =
        [&[&rustls::version::TLS12], &[&rustls::version::TLS13]];
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(VERSIONS[usize::from(tls == Tls::V13)])
        .expect("a version");
    let builder = if [Door::Raw, Door::KeptRaw].contains(&door) {
        let pin =
            SubjectPublicKeyInfoDer::from_pem_file(core.data().join("raw-key.pub.pem")).expect("the key");
        let pinned = Pinned(pin.to_vec(), provider.signature_verification_algorithms);
        builder.dangerous().with_custom_certificate_verifier(Arc::new(pinned))
    } else {
        let ca = CertificateDer::from_pem_file(core.data().join("ca.pem")).expect("the root");
        let mut roots = RootCertStore::empty();
        roots.add(ca).expect("a root");
        builder.with_root_certificates(roots)
    };
    let certified = |shown: &[Vec<u8>], key: &[u8]| {
        let key = PrivateKeyDer::try_from(key.to_vec()).expect("PKCS#8");
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).expect("a key");
        Arc::new(CertifiedKey::new(shown.iter().map(|der| CertificateDer::from(der.clone())).collect(), key))
    };
    let mut config = match shows {
        Shows::Nothing => builder.with_no_client_auth(),
        // Nobody asks here whether the two fit.
        Shows::Certificate(chain, key) => {
            builder.with_client_cert_resolver(Arc::new(Shown(certified(chain, key))))
        }
        Shows::RawKey(spki, key) => {
            let certified = certified(std::slice::from_ref(spki), key);
            builder.with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(certified)))
        }
    };
    config.resumption = resumption;
    Arc::new(config)
}

/// Shows one chain to whoever asks.
#[derive(Debug)]
struct Shown(Arc<CertifiedKey>);

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Trusts one raw public key.
#[derive(Debug)]
struct Pinned(Vec<u8>, WebPkiSupportedAlgorithms);

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if shown.as_ref() == self.0 {
            return Ok(ServerCertVerified::assertion());
        }
        Err(rustls::Error::General("another key".to_owned()))
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("raw public keys are of TLS 1.3".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let spki = SubjectPublicKeyInfoDer::from(shown.as_ref());
        verify_tls13_signature_with_raw_key(message, &spki, signature, &self.1)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.1.supported_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

type Stream = StreamOwned<ClientConnection, TcpStream>;

fn shake(config: &Arc<ClientConfig>, mut socket: TcpStream) -> std::io::Result<Stream> {
    let name = ServerName::try_from("localhost").expect("a name");
    let mut connection = ClientConnection::new(Arc::clone(config), name).map_err(std::io::Error::other)?;
    while connection.is_handshaking() {
        connection.complete_io(&mut socket)?;
    }
    Ok(StreamOwned::new(connection, socket))
}

fn connect(ready: &Ready, version: Version, exporter: &[u8; 32]) -> Vec<u8> {
    let connect = Connect::clean(&ready.client_id);
    let method = |name: &str, data: Option<&[u8]>| {
        let data = data.map(|data| pstr(AUTHENTICATION_DATA, data)).unwrap_or_default();
        connect.clone().with([pstr(AUTHENTICATION_METHOD, name), data].concat()).encode(version, None)
    };
    match &ready.says {
        Says::Nothing => connect.encode(version, None),
        Says::Password(user, password) => connect.encode(version, Some((user, password))),
        Says::Exporter(held) => method("ace", Some(&[field(&held.token), held.pop.prove(exporter)].concat())),
        Says::Challenge(held) => method("ace", Some(&field(&held.token))),
        Says::Stored => method("ace", None),
        Says::UserName(held) => {
            let user = format!("ace{}", URL_SAFE_NO_PAD.encode(&held.token));
            connect.encode(version, Some((&user, &held.pop.prove(exporter))))
        }
        Says::Method(name, data) => method(name, Some(data)),
    }
}

/// AUTH with the answer to the broker's nonce (RFC 9431 section 2.2.4.2.2).
fn answer(theirs: &[u8], held: &Held) -> Vec<u8> {
    let ours = random::<8>();
    let pop = held.pop.prove(&[theirs, &ours].concat());
    let data = [&ours[..], &pop].concat();
    let properties = [pstr(AUTHENTICATION_METHOD, "ace"), pstr(AUTHENTICATION_DATA, data)].concat();
    packet(0xf0, &[&[0x18][..], &variable(properties.len()), &properties].concat())
}

/// What a server logs from now on.
struct Log {
    path: PathBuf,
    from: u64,
}

impl Log {
    fn of(core: &Core) -> Self {
        let path = core.place().join("server.log");
        let from = fs::metadata(&path).expect("a log").len();
        Self { path, from }
    }

    fn text(&self) -> String {
        let mut file = fs::File::open(&self.path).expect("a log");
        file.seek(SeekFrom::Start(self.from)).expect("found");
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).expect("read");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until it says of this connection what the row does; else all that it has said.
    fn has(&self, cell: &Cell, row: &Row, port: u16) -> Result<(), String> {
        let Some((code, reason)) = &row.log else { return Ok(()) };
        let peer = format!("peer=127.0.0.1:{port}");
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let text = self.text();
            // Whole lines: the last one may still be on its way.
            let lines: Vec<&str> = text.rsplit_once('\n').map_or("", |(whole, _)| whole).lines().collect();
            let any = |words: &[&str]| lines.iter().any(|line| words.iter().all(|word| line.contains(word)));
            let coded = format!("code=\"{code}\"");
            let found = match row.outcome {
                Outcome::Accepted => {
                    let mqtt = if cell.mqtt == Version::V5 { "MQTT 5.0" } else { "MQTT 3.1.1" };
                    any(&["connected by", mqtt, &peer])
                }
                // Admission says why and knows no port, the bridge knows it and says no more than the code.
                Outcome::Refused => {
                    let by_reason = any(&["refused: ", &coded, &format!("reason=\"{reason}\"")]);
                    by_reason && any(&["not admitted", &coded, &peer])
                }
                _ => any(&["refused: ", &coded, &format!("word=\"{reason}\""), &peer]),
            };
            if found {
                return Ok(());
            }
            if Instant::now() > deadline {
                let told = lines.iter().filter(|line| line.contains("code=") || line.contains(&peer));
                return Err(told.map(|line| format!("\n      {line}")).collect());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// What is not as the row says, if something is not.
fn judge(world: &World, cell: &Cell, row: &Row, ready: &Ready) -> Option<String> {
    judge_with(world, cell, row, ready, None).1
}

/// The same with a client that may resume TLS; whether it did.
fn judge_with(
    world: &World,
    cell: &Cell,
    row: &Row,
    ready: &Ready,
    config: Option<&Arc<ClientConfig>>,
) -> (bool, Option<String>) {
    let (began, log) = (Instant::now(), Log::of(world.core_of(cell.by)));
    let seen = attempt(world, cell, ready, config);
    let as_wanted = seen.outcome == Ok(row.outcome) && seen.code == row.code(cell.mqtt);
    let logged = log.has(cell, row, seen.port);
    std::thread::sleep(pace(seen.code).saturating_sub(began.elapsed()));
    if as_wanted && logged.is_ok() {
        return (seen.resumed, None);
    }
    let log =
        logged.err().map(|told| format!("\n    log, instead of {:?}:{told}", row.log)).unwrap_or_default();
    let code = |code: Option<u8>| code.map_or_else(|| "no CONNACK".to_owned(), |code| format!("{code:#04x}"));
    let fault = format!(
        "{cell} (line {})\n    wanted {:?}, {}; found {:?}, {}{log}",
        row.line,
        row.outcome,
        code(row.code(cell.mqtt)),
        seen.outcome,
        code(seen.code)
    );
    (seen.resumed, Some(fault))
}

#[test]
fn every_way_in_ends_as_the_table_says_by_code_and_by_log() {
    for way in Way::ALL {
        assert!(By::ALL.iter().any(|(.., of)| *of == way.as_str()), "{way} is not in the table");
    }
    let rows = expected().unwrap_or_else(|faults| panic!("no rows:\n{}", faults.join("\n")));
    let cells = matched(&rows).unwrap_or_else(|faults| panic!("not the product:\n{}", faults.join("\n")));
    let began = Instant::now();
    let world = World::start();
    let mut clients: Vec<(By, Case, Ready)> = Vec::new();
    for (cell, _) in cells.iter().filter(|(_, row)| row.outcome != Outcome::NotApplicable) {
        if !clients.iter().any(|(by, case, _)| (*by, *case) == (cell.by, cell.case)) {
            clients.push((cell.by, cell.case, ready(&world, cell)));
        }
    }
    // What was logged until here is another second's.
    std::thread::sleep(Duration::from_millis(1_100));
    println!("{} clients are ready after {:?}", clients.len(), began.elapsed());
    let client = |cell: &Cell| clients.iter().find(|(by, case, _)| (*by, *case) == (cell.by, cell.case));
    let mut run: Vec<(&Cell, &Row, &Ready)> =
        cells.iter().filter_map(|(cell, row)| Some((cell, *row, &client(cell)?.2))).collect();
    // What must be over first comes last.
    run.sort_by_key(|(.., ready)| ready.over_s);
    let mut faults = Vec::new();
    let mut done = 0;
    for (cell, row, ready) in run.into_iter().filter(|(_, row, _)| row.outcome != Outcome::NotApplicable) {
        wait_for("the end of what is to be over", Duration::from_secs(60), || {
            (ready.over_s == 0 || now_s() > ready.over_s + 1).then_some(())
        });
        faults.extend(judge(&world, cell, row, ready));
        done += 1;
    }
    println!("{} cells, {done} of them connections, after {:?}", cells.len(), began.elapsed());
    assert!(
        faults.is_empty(),
        "{} of {done} are not as the table says:\n{}",
        faults.len(),
        faults.join("\n")
    );
}

/// A ticket carries what the client has shown, never a verdict (decision 0034). TLS 1.2 has no tickets here.
#[test]
fn what_was_shown_in_tls_is_judged_again_when_tls_is_resumed() {
    let rows = expected().unwrap_or_else(|faults| panic!("no rows:\n{}", faults.join("\n")));
    let cells = matched(&rows).unwrap_or_else(|faults| panic!("not the product:\n{}", faults.join("\n")));
    let row = |cell: &Cell| cells.iter().find(|(other, _)| other == cell).expect("every cell has one").1;
    let world = World::start();
    let mut faults = Vec::new();
    // What happens to the device, or to what it has shown, once it has connected.
    let shown = [
        By::CertificateSelfSigned,
        By::CertificateRegistered,
        By::CertificateOfCa,
        By::CertificateUnasked,
        By::RawKey,
    ];
    let ends = [Case::Expired, Case::Blocked, Case::Revoked];
    let mut clients = Vec::new();
    for (by, end) in shown.into_iter().flat_map(|by| ends.map(|end| (by, end))) {
        let case = if end == Case::Expired { end } else { Case::Good };
        let at = |mqtt, case| Cell { by, tls: Tls::V13, mqtt, case };
        let name = format!("{}.resumed.{}", by.word(), end.word());
        let ready = named(&world, &at(Version::V5, case), &name);
        let config =
            config(&world.core, ready.door, Tls::V13, &ready.shows, Resumption::in_memory_sessions(8));
        for (mqtt, wanted) in [(Version::V5, false), (Version::V311, true), (Version::V5, true)] {
            let cell = at(mqtt, Case::Good);
            let (resumed, fault) = judge_with(&world, &cell, row(&cell), &ready, Some(&config));
            assert_eq!(resumed, wanted, "{name}");
            faults.extend(fault);
        }
        clients.push((name, end, ready, config, [at(Version::V311, end), at(Version::V5, end)]));
    }
    for (name, end, ready, ..) in &clients {
        match end {
            Case::Blocked => drop(world.ask("POST", &format!("/v1/devices/{name}/block"), None)),
            Case::Revoked if name.starts_with(By::CertificateOfCa.word()) => {}
            Case::Revoked => {
                let keys = world.ask("GET", &format!("/v1/devices/{name}/keys"), None);
                let kid = keys["items"][0]["kid"].as_str().expect("one key");
                world.ask("POST", &format!("/v1/devices/{name}/keys/{kid}/revoke"), None);
            }
            _ => wait_for("the end of a key", Duration::from_secs(60), || {
                (now_s() > ready.over_s + 1).then_some(())
            }),
        }
    }
    // The CAs go last: whoever is blocked, or over, has still one that vouches for it.
    let of_ca = |name: &str, end| end == Case::Revoked && name.starts_with(By::CertificateOfCa.word());
    let (last, first): (Vec<_>, Vec<_>) = clients.into_iter().partition(|(name, end, ..)| of_ca(name, *end));
    let mut refused = |name: &str, ready: &Ready, config: &Arc<ClientConfig>, cells: &[Cell; 2]| {
        for cell in cells {
            let (resumed, fault) = judge_with(&world, cell, row(cell), ready, Some(config));
            assert!(resumed, "{name}: TLS comes out of the ticket");
            faults.extend(fault);
        }
    };
    for (name, _, ready, config, cells) in &first {
        refused(name, ready, config, cells);
    }
    for ca in world.ask("GET", "/v1/cas", None)["items"].as_array().expect("a list") {
        world.ask("DELETE", &format!("/v1/cas/{}", ca["fingerprint"].as_str().expect("a text")), None);
    }
    for (name, _, ready, config, cells) in &last {
        refused(name, ready, config, cells);
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Certificates and public keys are no secrets: what counts is the signature in the handshake.
#[test]
fn a_certificate_or_raw_key_without_its_private_key_ends_in_the_handshake() {
    let world = World::start();
    let lamp = world.device("lamp", "device");
    let thief = SigningKey::generate(Algorithm::Es256).expect("a key").to_pkcs8_der().to_vec();
    let with = |shows: Shows| match shows {
        Shows::Certificate(chain, _) => Shows::Certificate(chain, thief.clone()),
        Shows::RawKey(spki, _) => Shows::RawKey(spki, thief.clone()),
        Shows::Nothing => Shows::Nothing,
    };
    let certificate = (By::CertificateSelfSigned, Door::Every, self_signed("lamp", &lamp.key));
    let key = (By::RawKey, Door::Raw, raw(&lamp.key));
    for (by, door, shows) in [certificate, key] {
        for tls in [Tls::V12, Tls::V13] {
            for (shows, is_own) in [(shows.clone(), true), (with(shows.clone()), false)] {
                let cell = Cell { by, tls, mqtt: Version::V5, case: Case::Good };
                let log = Log::of(&world.core);
                let seen = attempt(&world, &cell, &Ready::new("lamp", shows, Says::Nothing, door), None);
                let case = format!("{cell}, its own: {is_own}: {:?}", seen.outcome);
                if is_own && (by, tls) != (By::RawKey, Tls::V12) {
                    assert_eq!((seen.outcome, seen.code), (Ok(Outcome::Accepted), Some(0)), "{case}");
                    continue;
                }
                // In TLS 1.3 the client is done before the server has looked.
                assert!(seen.code.is_none() && seen.outcome != Ok(Outcome::Accepted), "{case}");
                let peer = format!("peer=127.0.0.1:{}", seen.port);
                wait_for("DB-2070 in the log", Duration::from_secs(10), || {
                    let text = log.text();
                    text.lines().any(|line| line.contains("DB-2070") && line.contains(&peer)).then_some(())
                });
            }
        }
    }
}
