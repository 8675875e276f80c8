//! What one connection costs the server by each way in, beside the primitives it cannot do without and beside Mosquitto,
//! all in one interleaved run: CPU milliseconds of the server process, kernel included.
//!
//! `cargo bench -p drawbridge --bench ways [-- quick] [-- write]` (needs `mosquitto` and `mosquitto_passwd`). `quick`:
//! few connections, one round. `write`: puts the table into `docs/performance.md`. `rows=TEXT`: only rows with it in their
//! name, and no table; for a profile.
#![expect(clippy::disallowed_methods, clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark")]
#![expect(clippy::print_stderr, reason = "the harness shows the log of a server when something fails")]

#[expect(dead_code, reason = "shared with the end-to-end tests, which use all of it")]
#[path = "../tests/e2e/harness.rs"]
mod harness;

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use drawbridge_device::{
    ACE_EXPORTER_LABEL, ApiClient, Binding, TokenRequest, ace_answer, ace_prove, ace_token, ace_user_name,
};
use drawbridge_identity::{PasswordCost, PasswordVerifier};
use drawbridge_jose::{Algorithm, Jws, ParseOptions, Sign, SigningKey};
use drawbridge_mqtt::codec::{
    self, Auth, Connect, ConnectProperties, Frame, Packet, ProtocolVersion, ReasonCode, Side, UserProperties,
};
use harness::{Core, jwt, now_s, wait_for};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature_with_raw_key};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, HandshakeKind, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use serde_json::{Value, json};

/// Connections that are open at once while they are made.
const AT_A_TIME: usize = 16;
/// Tells the table in the document.
const MARKS: [&str; 2] =
    ["<!-- ways: written by cargo bench -p drawbridge --bench ways -- write -->", "<!-- ways: end -->"];
const PASSWORD: &str = "correct horse battery staple";

const SETTINGS: &str = r#"
[listener.every]
address = "127.0.0.1:0"
ways = ["password", "device-jwt", "access-token", "certificate", "ace", "ace-user-name", "token-method"]
tls12_client_certificates = true
[listener.raw]
address = "127.0.0.1:0"
raw_keys = true
"#;
/// The same, and every password is checked each time.
const FORGETFUL: &str = "\n[admission]\npassword_cache_s = 0\n";

/// How large the run is.
struct Size {
    connections: usize,
    rsa: usize,
    passwords: usize,
    rounds: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tls {
    V12,
    V13,
}

/// What the client shows and says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Login {
    /// The handshake, and nothing more.
    Nothing,
    Password,
    Jwt,
    AccessToken,
    Method,
    AceExporter,
    AceChallenge,
    AceUserName,
    CertificateOfCa,
    CertificateOfKey,
    RawKey,
}

/// Whom it goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum To {
    Every,
    Raw,
    Forgetful,
    Mosquitto,
    MosquittoMutual,
}

/// Which devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    Es256,
    EdDsa,
    Rs256,
    Few,
}

struct Row {
    name: &'static str,
    to: To,
    tls: Tls,
    login: Login,
    of: Of,
    resumed: bool,
    /// TLS of each device; its tickets stay from round to round.
    configs: Vec<Arc<ClientConfig>>,
    to_connack: Vec<f64>,
    to_close: Vec<f64>,
}

struct Device {
    name: String,
    key: SigningKey,
    audience: String,
    access_token: String,
    ace_token: String,
    /// Chain and key of the bench's CA.
    of_ca: Option<(CertificateDer<'static>, Vec<u8>)>,
    of_key: Option<CertificateDer<'static>>,
}

fn main() {
    let words: Vec<String> = std::env::args().collect();
    let is = |word: &str| words.iter().any(|found| found == word);
    let size = match is("quick") {
        true => Size { connections: 48, rsa: 8, passwords: 8, rounds: 1 },
        false => Size { connections: 320, rsa: 64, passwords: 24, rounds: 7 },
    };
    let mosquitto = harness::version_of("mosquitto", "-h");
    let authority = Authority::new();
    let (core, sets) = serve(SETTINGS, &size, &authority);
    let few = Size { connections: size.passwords, rsa: 0, ..size };
    let (forgetful, few_sets) = serve(&format!("{SETTINGS}{FORGETFUL}"), &few, &authority);
    let peer = Mosquitto::start(&core, &authority);
    let ca_pem = fs::read_to_string(core.data().join("ca.pem")).unwrap();
    let other_ca_pem = fs::read_to_string(forgetful.data().join("ca.pem")).unwrap();
    let doors = Doors {
        every: listener(&core, "every"),
        raw: listener(&core, "raw"),
        forgetful: listener(&forgetful, "every"),
        mosquitto: [peer.address.clone(), peer.mutual.clone()],
    };
    let devices = |of: Of| match of {
        Of::Es256 => &sets[0],
        Of::EdDsa => &sets[1],
        Of::Rs256 => &sets[2],
        Of::Few => &few_sets[0],
    };
    let mut rows = rows();
    let part = words.iter().find_map(|word| word.strip_prefix("rows="));
    rows.retain(|row| part.is_none_or(|part| row.name.contains(part)));
    for row in &mut rows {
        let roots = if row.to == To::Forgetful { &other_ca_pem } else { &ca_pem };
        row.configs = devices(row.of).iter().map(|device| config(row, roots, device)).collect();
    }
    let begun = Instant::now();
    for round in 0..=size.rounds {
        for row in &mut rows {
            let pid = match row.to {
                To::Every | To::Raw => core.pid(),
                To::Forgetful => forgetful.pid(),
                To::Mosquitto | To::MosquittoMutual => peer.child.id(),
            };
            let (to_connack, to_close) = measure(pid, row, doors.address(row.to), devices(row.of), round > 0);
            if round > 0 || size.rounds == 1 {
                row.to_connack.push(to_connack);
                row.to_close.push(to_close);
            }
        }
        println!("round {round} of {}: {} s so far", size.rounds, begun.elapsed().as_secs());
    }
    if part.is_some() {
        for row in &mut rows {
            let (connack, close) = (median(&mut row.to_connack), median(&mut row.to_close));
            println!("{}, {:?}: {connack:.3} ms to CONNACK, {close:.3} ms with its end", row.name, row.tls);
        }
        return;
    }
    let text = table(&mut rows, &primitives(&sets), &mosquitto, &size);
    println!("\n{text}");
    if is("write") {
        write(&text);
    }
}

/// Every row. The first of each version of TLS is the handshake alone.
fn rows() -> Vec<Row> {
    let row = |name, to, tls, login, of, resumed| Row {
        name,
        to,
        tls,
        login,
        of,
        resumed,
        configs: Vec::new(),
        to_connack: Vec::new(),
        to_close: Vec::new(),
    };
    let mut rows = Vec::new();
    for tls in [Tls::V13, Tls::V12] {
        let ways = [
            (HANDSHAKE, To::Every, Login::Nothing, Of::Es256, false),
            (ES256, To::Every, Login::Jwt, Of::Es256, false),
            ("device JWT, EdDSA", To::Every, Login::Jwt, Of::EdDsa, false),
            ("device JWT, RS256", To::Every, Login::Jwt, Of::Rs256, false),
            ("device JWT by `OAUTH2-JWT`", To::Every, Login::Method, Of::Es256, false),
            ("access token (JWT of the issuer)", To::Every, Login::AccessToken, Of::Es256, false),
            ("`ace`, exporter proof", To::Every, Login::AceExporter, Of::Es256, false),
            ("`ace`, challenge", To::Every, Login::AceChallenge, Of::Es256, false),
            ("`ace` in the user name (3.1.1)", To::Every, Login::AceUserName, Of::Es256, false),
            ("certificate of a CA", To::Every, Login::CertificateOfCa, Of::Es256, false),
            ("certificate of a registered key", To::Every, Login::CertificateOfKey, Of::Es256, false),
            ("password, remembered", To::Every, Login::Password, Of::Es256, false),
            ("password, argon2id each time", To::Forgetful, Login::Password, Of::Few, false),
            (MOSQUITTO, To::Mosquitto, Login::Password, Of::Es256, false),
            (MOSQUITTO_MUTUAL, To::MosquittoMutual, Login::CertificateOfCa, Of::Es256, false),
            ("Mosquitto, TLS handshake alone", To::Mosquitto, Login::Nothing, Of::Es256, false),
        ];
        rows.extend(ways.map(|(name, to, login, of, resumed)| row(name, to, tls, login, of, resumed)));
    }
    let only_13 = [
        ("raw public key", To::Raw, Login::RawKey, false),
        ("resumed: device JWT, ES256", To::Every, Login::Jwt, true),
        ("resumed: certificate of a registered key", To::Every, Login::CertificateOfKey, true),
    ];
    rows.extend(only_13.map(|(name, to, login, resumed)| row(name, to, Tls::V13, login, Of::Es256, resumed)));
    rows
}

const HANDSHAKE: &str = "TLS handshake alone";
const ES256: &str = "device JWT, ES256";
const MOSQUITTO: &str = "Mosquitto, password";
const MOSQUITTO_MUTUAL: &str = "Mosquitto, certificate of a CA";

struct Doors {
    every: String,
    raw: String,
    forgetful: String,
    mosquitto: [String; 2],
}

impl Doors {
    fn address(&self, to: To) -> &str {
        match to {
            To::Every => &self.every,
            To::Raw => &self.raw,
            To::Forgetful => &self.forgetful,
            To::Mosquitto => &self.mosquitto[0],
            To::MosquittoMutual => &self.mosquitto[1],
        }
    }
}

/// A server with these settings, and its devices: by ES256, EdDSA, RS256.
fn serve(settings: &str, size: &Size, authority: &Authority) -> (Core, [Vec<Device>; 3]) {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("settings.toml");
    fs::write(&file, settings).unwrap();
    let mut core = Core::prepared(&["--config", &file.to_string_lossy()]);
    core.environment.push(("RUST_LOG", "info".into())); // as it is without that variable
    core.run_again();
    let pem = core.place().join("plant.pem");
    fs::write(&pem, &authority.pem).unwrap();
    core.cli_ok(&["ca", "add", &pem.to_string_lossy()]);
    let api = core.api();
    let admin = fs::read_to_string(core.data().join("admin-token")).unwrap();
    let issuer = core.admin("GET", "/.well-known/oauth-authorization-server", None)["issuer"].clone();
    let issuer = issuer.as_str().unwrap();
    let ed = size.connections.min(size.rsa * 5);
    let sets = [(Algorithm::Es256, size.connections), (Algorithm::EdDsa, ed), (Algorithm::Rs256, size.rsa)];
    let mut sets = sets.map(|(algorithm, count)| {
        let keys = std::thread::scope(|scope| {
            let make = |count: usize| {
                scope.spawn(move || {
                    (0..count).map(|_| SigningKey::generate(algorithm).unwrap()).collect::<Vec<_>>()
                })
            };
            let threads = [make(count / 2), make(count - count / 2)];
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        let named = keys.into_iter().enumerate();
        named
            .map(|(n, key)| {
                register(&api, admin.trim(), issuer, &format!("{algorithm:?}-{n:05}"), key, authority)
            })
            .collect::<Vec<_>>()
    });
    std::thread::sleep(Duration::from_secs(2)); // tokens of the second of a password count as older
    for device in &mut sets[0] {
        let token = |bind_to| {
            let request = TokenRequest { device: &device.name, issuer, resource: None, scope: None, bind_to };
            api.access_token(&request, &device.key).unwrap().access_token
        };
        (device.access_token, device.ace_token) = (token(None), token(Some(Binding::Ace(&device.key))));
    }
    (core, sets)
}

fn register(
    api: &ApiClient,
    admin: &str,
    issuer: &str,
    name: &str,
    key: SigningKey,
    authority: &Authority,
) -> Device {
    let send = |method: &str, path: &str, body: Value| {
        let body = body.to_string();
        let answer =
            api.send(method, path, Some(admin), Some(("application/json", body.as_bytes()))).unwrap();
        assert!((200..300).contains(&answer.status), "{method} {path}: {}", answer.text);
    };
    let jwk: Value = serde_json::from_str(&key.public_key().to_jwk_json()).unwrap();
    send("POST", "/v1/devices", json!({ "name": name, "keys": [{ "jwk": jwk }] }));
    let is_es256 = key.algorithm() == Algorithm::Es256;
    if is_es256 {
        // Ends what was issued before.
        send("PUT", &format!("/v1/devices/{name}/password"), json!({ "password": PASSWORD }));
    }
    Device {
        name: name.to_owned(),
        audience: format!("{issuer}/mqtt"),
        access_token: String::new(),
        ace_token: String::new(),
        of_ca: is_es256.then(|| authority.leaf(name)),
        of_key: is_es256.then(|| {
            let pair = KeyPair::try_from(key.to_pkcs8_der().to_vec()).unwrap();
            subject(name).self_signed(&pair).unwrap().der().clone()
        }),
        key,
    }
}

/// The address of a further listener, as it is announced at the start.
fn listener(core: &Core, name: &str) -> String {
    wait_for("the address of a listener", Duration::from_secs(20), || {
        let log = core.log();
        let mut words = log.lines().map(str::split_whitespace).find_map(|mut words| {
            (words.next() == Some("listener") && words.next() == Some(name)).then_some(words)
        })?;
        words.next().map(str::to_owned)
    })
}

// --- what is measured ------------------------------------------------------------------------------

/// Opens a connection for each device, then closes them all. CPU milliseconds of the process for each: when all have
/// their CONNACK, and when all are gone.
fn measure(pid: u32, row: &Row, address: &str, devices: &[Device], judges: bool) -> (f64, f64) {
    let idle = open_files(pid);
    let before = Cpu::of(pid);
    let share = devices.len().div_ceil(AT_A_TIME);
    let open: Vec<Open> = std::thread::scope(|scope| {
        let threads: Vec<_> = devices
            .chunks(share)
            .zip(row.configs.chunks(share))
            .map(|(devices, configs)| {
                scope.spawn(move || {
                    let each = devices.iter().zip(configs);
                    each.map(|(device, config)| Open::new(row, address, device, config)).collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    if row.login == Login::Nothing {
        // Nothing is answered: the server may not have read the last of it.
        std::thread::sleep(Duration::from_millis(100));
    }
    if judges {
        let resumed =
            open.iter().filter(|open| open.tls.conn.handshake_kind() == Some(HandshakeKind::Resumed));
        let wanted = if row.resumed { open.len() } else { 0 };
        assert_eq!(resumed.count(), wanted, "{}: so many were resumed", row.name);
    }
    let connected = Cpu::of(pid);
    let count = open.len() as f64;
    drop(open);
    wait_for("the end of the connections", Duration::from_secs(60), || {
        (open_files(pid) <= idle).then_some(())
    });
    std::thread::sleep(Duration::from_millis(50));
    let argon2 = row.to == To::Forgetful;
    let spent = |now: &Cpu| now.since(&before, argon2) / count;
    (spent(&connected), spent(&Cpu::of(pid)))
}

/// An open connection of the load.
struct Open {
    tls: rustls::StreamOwned<ClientConnection, TcpStream>,
    received: Vec<u8>,
    version: ProtocolVersion,
}

impl Open {
    fn new(row: &Row, address: &str, device: &Device, config: &Arc<ClientConfig>) -> Self {
        let session = ClientConnection::new(Arc::clone(config), "localhost".try_into().unwrap()).unwrap();
        let socket = TcpStream::connect(address).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut tls = rustls::StreamOwned::new(session, socket);
        while tls.conn.is_handshaking() {
            tls.conn.complete_io(&mut tls.sock).unwrap_or_else(|e| panic!("{}: {e}", row.name));
        }
        let methods = [Login::Method, Login::AceExporter, Login::AceChallenge];
        let version = if methods.contains(&row.login) { ProtocolVersion::V5 } else { ProtocolVersion::V311 };
        let mut open = Self { tls, received: Vec::new(), version };
        if row.login != Login::Nothing {
            open.log_in(row, device);
        }
        open
    }

    fn exported(&self) -> [u8; 32] {
        self.tls.conn.export_keying_material([0; 32], ACE_EXPORTER_LABEL, Some(b"")).unwrap()
    }

    fn log_in(&mut self, row: &Row, device: &Device) {
        let (mut username, mut password) = (None, None);
        let (mut method, mut data) = (None, None);
        let token = device.ace_token.as_bytes();
        match row.login {
            Login::Nothing | Login::CertificateOfCa | Login::CertificateOfKey | Login::RawKey => {}
            Login::Password => {
                let name = if row.to == To::Mosquitto { "bench" } else { device.name.as_str() };
                (username, password) = (Some(name.to_owned()), Some(PASSWORD.as_bytes().to_vec()));
            }
            Login::Jwt => (username, password) = (Some("unused".to_owned()), Some(device.jwt().into_bytes())),
            Login::AccessToken => {
                let token = device.access_token.as_bytes().to_vec();
                (username, password) = (Some("unused".to_owned()), Some(token));
            }
            Login::Method => (method, data) = (Some("OAUTH2-JWT"), Some(device.jwt().into_bytes())),
            Login::AceExporter => {
                let mut said = ace_token(token).unwrap();
                ace_prove(&mut said, &self.exported(), &device.key).unwrap();
                (method, data) = (Some("ace"), Some(said));
            }
            Login::AceChallenge => (method, data) = (Some("ace"), Some(ace_token(token).unwrap())),
            Login::AceUserName => {
                let proof = device.key.sign(&self.exported()).unwrap();
                (username, password) = (Some(ace_user_name(token)), Some(proof));
            }
        }
        self.send(&Packet::from(Connect {
            version: self.version,
            clean_start: true,
            keep_alive_s: 0,
            client_id: &device.name,
            username: username.as_deref(),
            password: password.as_deref(),
            will: None,
            properties: ConnectProperties {
                authentication_method: method,
                authentication_data: data.as_deref(),
                ..ConnectProperties::default()
            },
        }));
        if row.login == Login::AceChallenge {
            let challenge = self.take(|packet| match packet {
                Packet::Auth(auth) => auth.data.unwrap().to_vec(),
                other => panic!("{}: {other:?}", row.name),
            });
            let answer = ace_answer(challenge.as_slice().try_into().unwrap(), &[7; 8], &device.key).unwrap();
            self.send(&Packet::Auth(Auth {
                reason: ReasonCode::ContinueAuthentication,
                method: Some("ace"),
                data: Some(&answer),
                reason_string: None,
                user_properties: UserProperties::default(),
            }));
        }
        self.take(|packet| match packet {
            Packet::ConnAck(connack) if connack.reason == ReasonCode::Success => {}
            other => panic!("{} of {}: {other:?}", row.name, device.name),
        });
    }

    fn send(&mut self, packet: &Packet<'_>) {
        let mut bytes = Vec::new();
        packet.encode(self.version, &mut bytes).unwrap();
        self.tls.write_all(&bytes).unwrap();
    }

    fn take<T>(&mut self, judge: impl FnOnce(Packet<'_>) -> T) -> T {
        loop {
            let frame = codec::decode(&self.received, Some(self.version), 4096, Side::FromServer).unwrap();
            if let Frame::Complete { packet, bytes } = frame {
                let judged = judge(packet);
                self.received.drain(..bytes);
                return judged;
            }
            let mut chunk = [0; 512];
            let n = self.tls.read(&mut chunk).unwrap();
            assert!(n > 0, "closed");
            self.received.extend_from_slice(&chunk[..n]);
        }
    }
}

impl Device {
    fn jwt(&self) -> String {
        let now_s = now_s();
        let claims = json!({ "sub": self.name, "aud": self.audience, "iat": now_s, "exp": now_s + 3600 });
        jwt(Some("JWT"), &claims, &self.key)
    }
}

/// CPU time of a process, user and system, at one moment.
struct Cpu {
    /// Of each thread, in nanoseconds.
    threads: HashMap<OsString, u64>,
    /// Of the whole, ended threads included, in milliseconds; Linux counts in 10.
    coarse_ms: f64,
}

impl Cpu {
    fn of(pid: u32) -> Self {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
        let threads = threads.filter_map(|thread| {
            let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
            Some((thread.file_name(), text.split_whitespace().next()?.parse().ok()?))
        });
        let threads = threads.collect();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Self { threads, coarse_ms: ticks as f64 * 10.0 }
    }

    /// Milliseconds since then. Argon2 runs on threads that come and go: there the coarse clock is the right one.
    fn since(&self, then: &Self, argon2: bool) -> f64 {
        if argon2 {
            return self.coarse_ms - then.coarse_ms;
        }
        let spent = self.threads.iter().map(|(id, ns)| ns - then.threads.get(id).copied().unwrap_or(0));
        spent.sum::<u64>() as f64 / 1e6
    }
}

fn open_files(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// One ES256, EdDSA and RS256 check, and one argon2id as a password is checked by, in milliseconds.
fn primitives(sets: &[Vec<Device>; 3]) -> [f64; 4] {
    let verify = |devices: &Vec<Device>| {
        let Some(device) = devices.first() else { return f64::NAN };
        let jwt = device.jwt();
        let jws = Jws::parse(jwt.as_bytes(), &ParseOptions::default()).unwrap();
        timed(500, || drop(jws.verify(device.key.public_key()).unwrap()))
    };
    let kept = PasswordVerifier::of(PASSWORD, [7; 16], PasswordCost::DEFAULT);
    let argon2id = timed(9, || assert!(kept.fits(PASSWORD.as_bytes())));
    [verify(&sets[0]), verify(&sets[1]), verify(&sets[2]), argon2id]
}

fn timed(times: usize, mut work: impl FnMut()) -> f64 {
    let mut spent: Vec<f64> = (0..times)
        .map(|_| {
            let begun = Instant::now();
            work();
            begun.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    median(&mut spent)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

// --- what comes of it ------------------------------------------------------------------------------

fn table(rows: &mut [Row], primitives: &[f64; 4], mosquitto: &str, size: &Size) -> String {
    let found: Vec<(&str, Tls, f64, f64)> = rows
        .iter_mut()
        .map(|row| (row.name, row.tls, median(&mut row.to_connack), median(&mut row.to_close)))
        .collect();
    let find = |name: &str, tls: Tls| found.iter().find(|row| (row.0, row.1) == (name, tls));
    let close = |name: &str, tls: Tls| find(name, tls).unwrap().3;
    let [es256, ed_dsa, rs256, argon2id] = *primitives;
    let load = fs::read_to_string("/proc/loadavg").unwrap();
    let mut text = format!(
        "{} connections a row ({} by RS256, {} by argon2id), {AT_A_TIME} at a time, {} interleaved rounds, medians; {mosquitto}; load average at the end {}. \
         Primitives alone: ES256 check {es256:.3} ms, EdDSA {ed_dsa:.3} ms, RS256 {rs256:.3} ms, argon2id {argon2id:.1} ms.\n\n\
         | CPU ms of the server for each connection | TLS 1.3: to CONNACK | with its end | TLS 1.2: to CONNACK | with its end | of Mosquitto's password, 1.3 |\n|---|---:|---:|---:|---:|---:|\n",
        size.connections,
        size.rsa,
        size.passwords,
        size.rounds,
        load.split_whitespace().next().unwrap(),
    );
    let base = close(MOSQUITTO, Tls::V13);
    for row in found.iter().filter(|row| row.1 == Tls::V13) {
        let (name, _, connack, closed) = *row;
        let older = find(name, Tls::V12)
            .map_or_else(|| "- | -".to_owned(), |older| format!("{:.3} | {:.3}", older.2, older.3));
        text += &format!("| {name} | {connack:.3} | {closed:.3} | {older} | {:.2} |\n", closed / base);
    }
    let least = close(HANDSHAKE, Tls::V13) + es256;
    let ours = close(ES256, Tls::V13);
    let mutual = close("certificate of a CA", Tls::V13) / close(MOSQUITTO_MUTUAL, Tls::V13);
    text += &format!(
        "\n| TLS 1.3 | ratio | budget |\n|---|---:|---:|\n\
         | device JWT, ES256 / (handshake over a socket + one check: {least:.3} ms) | **{:.2}** | 1.25 |\n\
         | device JWT, ES256 / Mosquitto's password | **{:.2}** | 0.45 |\n\
         | certificate of a CA / Mosquitto's | **{mutual:.2}** | 0.45 |\n",
        ours / least,
        ours / base,
    );
    text
}

fn write(text: &str) {
    let path = harness::repository().join("docs/performance.md");
    let document = fs::read_to_string(&path).unwrap();
    let [begin, end] = MARKS.map(|mark| document.find(mark).expect("the document has the marks"));
    let document = format!("{}\n\n{text}\n{}", &document[..begin + MARKS[0].len()], &document[end..]);
    fs::write(&path, document).unwrap();
    println!("written to {}", path.display());
}

// --- TLS of the clients ----------------------------------------------------------------------------

/// A client that trusts these roots and offers X25519, as a small device does.
fn config(row: &Row, roots_pem: &str, device: &Device) -> Arc<ClientConfig> {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
    if row.tls == Tls::V12 {
        // There the groups say which certificates are understood, too; the key exchange is by the first.
        provider.kx_groups.push(aws_lc_rs::kx_group::SECP256R1);
    }
    let provider = Arc::new(provider);
    let version = match row.tls {
        Tls::V12 => &rustls::version::TLS12,
        Tls::V13 => &rustls::version::TLS13,
    };
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[version])
        .unwrap();
    let builder = match row.login {
        Login::RawKey => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyRawKey(Arc::clone(&provider))))
        }
        _ => {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(roots_pem.as_bytes()).unwrap()).unwrap();
            builder.with_root_certificates(roots)
        }
    };
    let pkcs8 = |der: &[u8]| PrivateKeyDer::from(PrivatePkcs8KeyDer::from(der.to_vec()));
    let mut config = match row.login {
        Login::CertificateOfCa => {
            let (leaf, key) = device.of_ca.as_ref().unwrap();
            builder.with_client_auth_cert(vec![leaf.clone()], pkcs8(key)).unwrap()
        }
        Login::CertificateOfKey => {
            let leaf = device.of_key.clone().unwrap();
            builder.with_client_auth_cert(vec![leaf], pkcs8(&device.key.to_pkcs8_der())).unwrap()
        }
        Login::RawKey => {
            let key = provider.key_provider.load_private_key(pkcs8(&device.key.to_pkcs8_der())).unwrap();
            let public = CertificateDer::from(key.public_key().unwrap().to_vec());
            let shown = Arc::new(CertifiedKey::new(vec![public], key));
            builder.with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(shown)))
        }
        _ => builder.with_no_client_auth(),
    };
    config.resumption = if row.resumed { Resumption::in_memory_sessions(4) } else { Resumption::disabled() };
    Arc::new(config)
}

/// Believes every raw key of a server.
#[derive(Debug)]
struct AnyRawKey(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyRawKey {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("raw keys are of TLS 1.3".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let key = SubjectPublicKeyInfoDer::from(key.as_ref());
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature_with_raw_key(message, &key, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

fn subject(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// A CA that both servers know.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = subject("bench");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    fn leaf(&self, name: &str) -> (CertificateDer<'static>, Vec<u8>) {
        let key = KeyPair::generate().unwrap();
        let mut params = subject(name);
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        (params.signed_by(&key, &self.issuer).unwrap().der().clone(), key.serialize_der())
    }
}

/// Mosquitto with the same certificate: one listener with a password for all, one that wants certificates of the CA.
struct Mosquitto {
    child: Child,
    address: String,
    mutual: String,
    _place: tempfile::TempDir,
}

impl Mosquitto {
    fn start(core: &Core, authority: &Authority) -> Self {
        let place = tempfile::tempdir().unwrap();
        let file = |name: &str| place.path().join(name);
        for name in ["server.pem", "server-key.pem"] {
            fs::copy(core.data().join(name), file(name)).unwrap();
        }
        fs::write(file("plant.pem"), &authority.pem).unwrap();
        let passwords = file("passwords");
        let made = Command::new("mosquitto_passwd")
            .args(["-b", "-c", &passwords.to_string_lossy(), "bench", PASSWORD])
            .status();
        assert!(made.unwrap().success());
        let port = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (plain, mutual) = (port(), port());
        let shown = |path: &Path| path.to_string_lossy().into_owned();
        let server =
            format!("certfile {}\nkeyfile {}\n", shown(&file("server.pem")), shown(&file("server-key.pem")));
        let text = format!(
            "user root\nset_tcp_nodelay true\nper_listener_settings true\nlog_type none\n\
             listener {plain} 127.0.0.1\nallow_anonymous false\npassword_file {}\n{server}\
             listener {mutual} 127.0.0.1\nrequire_certificate true\nuse_identity_as_username true\ncafile {}\n{server}",
            shown(&passwords),
            shown(&file("plant.pem")),
        );
        fs::write(file("mosquitto.conf"), text).unwrap();
        let child = Command::new("mosquitto")
            .arg("-c")
            .arg(file("mosquitto.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let [address, mutual] = [plain, mutual].map(|port| format!("127.0.0.1:{port}"));
        for address in [&address, &mutual] {
            wait_for("mosquitto", Duration::from_secs(10), || TcpStream::connect(address).ok());
        }
        std::thread::sleep(Duration::from_millis(300)); // what asked whether it is there is gone
        Self { child, address, mutual, _place: place }
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
