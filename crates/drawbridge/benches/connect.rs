//! What a TLS 1.3 + JWT connect costs the server process, and what an idle TLS connection holds, beside
//! Mosquitto (TLS + password) and the bare primitives in the same run. Prints ratios.
//!
//! `cargo bench -p drawbridge --bench connect` (needs `mosquitto` and `mosquitto_passwd`)
#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a benchmark"
)]

#[expect(dead_code, reason = "shared with the end-to-end tests, which use all of it")]
#[path = "../tests/e2e/harness.rs"]
mod harness;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use drawbridge_device::{ApiClient, DeviceIdentity};
use drawbridge_jose::{Algorithm, Jws, ParseOptions, SigningKey};
use drawbridge_mqtt::codec::{
    self, Connect, Frame, Packet, PacketId, ProtocolVersion, Qos, ReasonCode, Side, Subscribe,
    SubscribeEntry, UserProperties,
};
use harness::{Core, connect_jwt, now_s, wait_for};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;

/// Connections of each measurement.
const CONNECTIONS: usize = 2_000;
/// So many at a time.
const AT_A_TIME: usize = 16;
/// Interleaved rounds of the connect measurement.
const ROUNDS: usize = 5;

fn main() {
    harness::version_of("mosquitto", "-h");
    let core = serving(&[]);
    let devices = register(&core);
    let peer = Mosquitto::start(&core);
    println!(
        "\n{CONNECTIONS} connects, {AT_A_TIME} at a time, {ROUNDS} interleaved rounds; CPU ms of the server process each"
    );
    for (group, hybrid) in [("X25519", false), ("X25519MLKEM768 where both have it", true)] {
        let config = client_config(&devices[0].ca_pem, hybrid);
        let (mut ours, mut theirs, mut bare) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..=ROUNDS {
            let ways: Vec<_> = devices.iter().map(by_jwt).collect();
            let (cpu_ours, open) = connect_all(core.pid(), &config, &ways);
            drop(open);
            wait_for("end of the sessions", Duration::from_secs(30), || {
                (open_files(core.pid()) < 64).then_some(())
            });
            let ways: Vec<_> = devices.iter().map(|device| peer.way(&device.device)).collect();
            let (cpu_theirs, open) = connect_all(peer.child.id(), &config, &ways);
            drop(open);
            wait_for("end of theirs", Duration::from_secs(30), || {
                (open_files(peer.child.id()) < 64).then_some(())
            });
            let (handshake, verify) = primitives(&core, &devices[0], &config);
            println!(
                "{group}, round {round}: drawbridge {cpu_ours:.3}, mosquitto {cpu_theirs:.3}, bare handshake {handshake:.3} + verify {verify:.3}"
            );
            if round == 0 {
                println!("  (the first connects, nothing cached: not counted below)");
                continue;
            }
            ours.push(cpu_ours);
            theirs.push(cpu_theirs);
            bare.push(handshake + verify);
        }
        let (ours, theirs, bare) = (median(&mut ours), median(&mut theirs), median(&mut bare));
        println!(
            "{group}: medians: drawbridge TLS 1.3 + JWT {ours:.3}, mosquitto TLS 1.3 + password {theirs:.3}: ratio {:.2} (budget 0.45)",
            ours / theirs
        );
        println!("{group}: bare handshake + verify {bare:.3}: ratio {:.2} (budget 1.25)", ours / bare);
    }
    drop((core, peer));
    idle();
}

/// A server that says as much as it does by default, and not all that a test wants to know: what it says costs.
fn serving(args: &[&str]) -> Core {
    let mut core = Core::prepared(args);
    core.environment.push(("RUST_LOG", "info".into()));
    core.run_again();
    core
}

/// Memory: fresh servers, so that nothing of other rounds is counted or reused.
fn idle() {
    println!("\n{CONNECTIONS} idle TLS 1.3 connections with one subscription each; RSS bytes per connection");
    let core = serving(&[]);
    let devices = register(&core);
    let config = client_config(&devices[0].ca_pem, false);
    let ours = idle_bytes(core.pid(), &config, &devices.iter().map(by_jwt).collect::<Vec<_>>(), |way| {
        format!("devices/{}/commands/#", way.client_id)
    });
    // The same sessions by one application: without what the server knows of each device.
    let core = serving(&[]);
    let app = core.application("bench", "[[allow]]\nsubscribe = [\"devices/#\"]\n");
    let ids: Vec<String> = (0..CONNECTIONS).map(|n| format!("client-{n:05}")).collect();
    let ways: Vec<_> = ids.iter().map(|id| Way { client_id: id, ..by_jwt(&app) }).collect();
    let one = idle_bytes(core.pid(), &config_of(&app), &ways, |way| {
        format!("devices/{}/commands/#", way.client_id)
    });
    let peer = Mosquitto::start(&core);
    let ways: Vec<_> = ids.iter().map(|id| peer.way(id)).collect();
    let theirs = idle_bytes(peer.child.id(), &config_of(&app), &ways, |way| {
        format!("devices/{}/commands/#", way.client_id)
    });
    println!("drawbridge, a device each: {ours} (budget 12288), of one application: {one}");
    println!("mosquitto: {theirs}; ratio {:.2}", ours as f64 / theirs as f64);
}

fn config_of(identity: &DeviceIdentity) -> Arc<rustls::ClientConfig> {
    client_config(&identity.ca_pem, false)
}

fn idle_bytes(
    pid: u32,
    config: &Arc<rustls::ClientConfig>,
    ways: &[Way<'_>],
    filter: impl Fn(&Way<'_>) -> String,
) -> u64 {
    // A few first: what is made once is not charged to a connection.
    drop(connect_all(pid, config, &ways[..AT_A_TIME]));
    std::thread::sleep(Duration::from_secs(1));
    let before = resident_bytes(pid);
    let (_, mut open) = connect_all(pid, config, ways);
    for (open, way) in open.iter_mut().zip(ways) {
        open.subscribe(&filter(way));
    }
    std::thread::sleep(Duration::from_secs(1));
    resident_bytes(pid).saturating_sub(before) / open.len() as u64
}

/// Registers the devices, each with a key of its own, through the API.
fn register(core: &Core) -> Vec<DeviceIdentity> {
    let model = core.device("model");
    let api = ApiClient::new(&format!("https://{}", core.endpoints.https), &model.ca_pem).unwrap();
    let admin = fs::read_to_string(core.data().join("admin-token")).unwrap();
    (0..CONNECTIONS)
        .map(|n| {
            let key = SigningKey::generate(Algorithm::Es256).unwrap();
            let name = format!("device-{n:05}");
            let jwk: serde_json::Value = serde_json::from_str(&key.public_key().to_jwk_json()).unwrap();
            let body = json!({ "name": name, "keys": [{ "jwk": jwk }] }).to_string();
            let body = ("application/json", body.as_bytes());
            let answer = api.send("POST", "/v1/devices", Some(admin.trim()), Some(body)).unwrap();
            assert_eq!(answer.status, 201, "{}", answer.text);
            DeviceIdentity {
                registry: model.registry.clone(),
                device: name,
                issuer: model.issuer.clone(),
                bridge_audience: model.bridge_audience.clone(),
                mqtts: model.mqtts.clone(),
                https: model.https.clone(),
                ca_pem: model.ca_pem.clone(),
                key,
            }
        })
        .collect()
}

/// What a connection takes: where to, and the CONNECT.
struct Way<'a> {
    address: &'a str,
    client_id: &'a str,
    username: &'a str,
    password: String,
}

fn by_jwt(device: &DeviceIdentity) -> Way<'_> {
    let password = connect_jwt(device, now_s(), 3600);
    Way { address: &device.mqtts, client_id: &device.device, username: "unused", password }
}

/// An open connection of the load: TLS 1.3 with X25519, as a small device offers it.
struct Open {
    tls: rustls::StreamOwned<rustls::ClientConnection, TcpStream>,
    received: Vec<u8>,
}

impl Open {
    fn new(config: &Arc<rustls::ClientConfig>, way: &Way<'_>) -> Self {
        let name = "localhost".try_into().unwrap();
        let session = rustls::ClientConnection::new(Arc::clone(config), name).unwrap();
        let socket = TcpStream::connect(way.address).unwrap();
        socket.set_nodelay(true).unwrap();
        let mut open = Self { tls: rustls::StreamOwned::new(session, socket), received: Vec::new() };
        open.send(&Packet::from(Connect {
            version: ProtocolVersion::V311,
            clean_start: true,
            keep_alive_s: 0,
            client_id: way.client_id,
            username: Some(way.username),
            password: Some(way.password.as_bytes()),
            will: None,
            properties: Default::default(),
        }));
        open.take(|packet| assert!(matches!(packet, Packet::ConnAck(c) if c.reason == ReasonCode::Success)));
        open
    }

    fn subscribe(&mut self, filter: &str) {
        self.send(&Packet::Subscribe(Subscribe {
            packet_id: PacketId::new(1).unwrap(),
            subscription_identifier: None,
            user_properties: UserProperties::default(),
            entries: vec![SubscribeEntry::of(filter, Qos::AtLeastOnce)],
        }));
        self.take(|packet| assert!(matches!(packet, Packet::SubAck(_))));
    }

    fn send(&mut self, packet: &Packet<'_>) {
        let mut bytes = Vec::new();
        packet.encode(ProtocolVersion::V311, &mut bytes).unwrap();
        self.tls.write_all(&bytes).unwrap();
    }

    fn take(&mut self, judge: impl FnOnce(Packet<'_>)) {
        loop {
            let frame =
                codec::decode(&self.received, Some(ProtocolVersion::V311), 4096, Side::FromServer).unwrap();
            if let Frame::Complete { packet, bytes } = frame {
                judge(packet);
                self.received.drain(..bytes);
                return;
            }
            let mut chunk = [0; 256];
            let n = self.tls.read(&mut chunk).unwrap();
            assert!(n > 0, "closed");
            self.received.extend_from_slice(&chunk[..n]);
        }
    }
}

/// A client that trusts the server's root and offers these groups.
fn client_config(ca_pem: &str, hybrid: bool) -> Arc<rustls::ClientConfig> {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    if !hybrid {
        provider.kx_groups = vec![rustls::crypto::aws_lc_rs::kx_group::X25519];
    }
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).unwrap()).unwrap();
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    Arc::new(config)
}

/// Opens all connections; answers CPU milliseconds of the process each, and the open connections.
fn connect_all(pid: u32, config: &Arc<rustls::ClientConfig>, ways: &[Way<'_>]) -> (f64, Vec<Open>) {
    let before = cpu_ms(pid);
    let open = std::thread::scope(|scope| {
        let share = ways.len().div_ceil(AT_A_TIME);
        let threads: Vec<_> = ways
            .chunks(share)
            .map(|mine| {
                scope.spawn(move || mine.iter().map(|way| Open::new(config, way)).collect::<Vec<_>>())
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    ((cpu_ms(pid) - before) / ways.len() as f64, open)
}

/// User and system time of a process, in milliseconds, from its scheduler statistics.
fn cpu_ms(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    ticks * 10.0 // Linux counts 100 ticks a second for user space
}

fn resident_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// Open files of a process: falls when sessions end.
fn open_files(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// A handshake in memory (server side only) and a verify, in milliseconds: what no server can save.
fn primitives(core: &Core, device: &DeviceIdentity, client: &Arc<rustls::ClientConfig>) -> (f64, f64) {
    let pem = |name: &str| fs::read(core.data().join(name)).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(&pem("server.pem")).unwrap()],
            PrivateKeyDer::from_pem_slice(&pem("server-key.pem")).unwrap(),
        )
        .unwrap();
    server.send_tls13_tickets = 0;
    let server = Arc::new(server);
    let mut handshakes: Vec<f64> = (0..300).map(|_| handshake(&server, client)).collect();
    let jwt = connect_jwt(device, now_s(), 3600);
    let jws = Jws::parse(jwt.as_bytes(), &ParseOptions::default()).unwrap();
    let mut verifies: Vec<f64> = (0..1000)
        .map(|_| {
            let begun = Instant::now();
            jws.verify(device.public_key()).unwrap();
            begun.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    (median(&mut handshakes), median(&mut verifies))
}

fn handshake(server: &Arc<rustls::ServerConfig>, client: &Arc<rustls::ClientConfig>) -> f64 {
    let mut server = rustls::ServerConnection::new(Arc::clone(server)).unwrap();
    let name = "localhost".try_into().unwrap();
    let mut client = rustls::ClientConnection::new(Arc::clone(client), name).unwrap();
    let mut spent = Duration::ZERO;
    let mut wire = Vec::new();
    while server.is_handshaking() || client.is_handshaking() {
        wire.clear();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let begun = Instant::now();
        let mut bytes = wire.as_slice();
        while !bytes.is_empty() {
            server.read_tls(&mut bytes).unwrap();
            server.process_new_packets().unwrap();
        }
        let mut back = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut back).unwrap();
        }
        spent += begun.elapsed();
        let mut bytes = back.as_slice();
        while !bytes.is_empty() {
            client.read_tls(&mut bytes).unwrap();
            client.process_new_packets().unwrap();
        }
    }
    spent.as_secs_f64() * 1e3
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Mosquitto with the same certificate, TLS and one password for all.
struct Mosquitto {
    child: Child,
    address: String,
    _place: tempfile::TempDir,
}

impl Mosquitto {
    fn start(core: &Core) -> Self {
        let place = tempfile::tempdir().unwrap();
        let file = |name: &str| place.path().join(name);
        for name in ["ca.pem", "server.pem", "server-key.pem"] {
            fs::copy(core.data().join(name), file(name)).unwrap();
        }
        let passwords = file("passwords");
        let made = Command::new("mosquitto_passwd")
            .arg("-b")
            .arg("-c")
            .arg(&passwords)
            .args(["bench", "a-long-password"])
            .status();
        assert!(made.unwrap().success());
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let shown = |path: &Path| path.to_string_lossy().into_owned();
        let text = format!(
            "user root\nlistener {port} 127.0.0.1\nset_tcp_nodelay true\nallow_anonymous false\npassword_file {}\ncertfile {}\nkeyfile {}\nlog_type none\n",
            shown(&passwords),
            shown(&file("server.pem")),
            shown(&file("server-key.pem")),
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
        let address = format!("127.0.0.1:{port}");
        wait_for("mosquitto", Duration::from_secs(10), || TcpStream::connect(&address).ok());
        Self { child, address, _place: place }
    }

    fn way<'a>(&'a self, client_id: &'a str) -> Way<'a> {
        Way { address: &self.address, client_id, username: "bench", password: "a-long-password".to_owned() }
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
