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
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use drawbridge_device::{ApiClient, DeviceIdentity, MqttClient, MqttOptions};
use drawbridge_jose::{Algorithm, Jws, ParseOptions, SigningKey};
use harness::{Core, connect_jwt, now_s, wait_for};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;

/// Connections of each measurement.
const CONNECTIONS: usize = 2_000;
/// So many at a time.
const AT_A_TIME: usize = 16;
/// Interleaved rounds of the connect measurement.
const ROUNDS: usize = 3;

fn main() {
    harness::version_of("mosquitto", "-h");
    let core = Core::start();
    let devices = register(&core);
    let peer = Mosquitto::start(&core);
    println!(
        "\n{CONNECTIONS} connects, {AT_A_TIME} at a time, {ROUNDS} interleaved rounds; CPU ms of the server process each"
    );
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    for round in 1..=ROUNDS {
        let jwts: Vec<_> = devices.iter().map(options_of).collect();
        let (cpu_ours, _open) = connect_all(core.pid(), &jwts);
        drop(_open);
        wait_for("the sessions to end", Duration::from_secs(30), || {
            (established(core.pid()) < 64).then_some(())
        });
        let passwords: Vec<_> = devices.iter().map(|device| peer.options(&device.device)).collect();
        let (cpu_theirs, _open) = connect_all(peer.child.id(), &passwords);
        println!(
            "round {round}: drawbridge TLS + JWT {cpu_ours:.3}   mosquitto TLS + password {cpu_theirs:.3}   ratio {:.2}",
            cpu_ours / cpu_theirs
        );
        ours.push(cpu_ours);
        theirs.push(cpu_theirs);
    }
    let (ours, theirs) = (median(&mut ours), median(&mut theirs));
    let (handshake, verify) = primitives(&core, &devices[0]);
    println!(
        "median: drawbridge {ours:.3} ms, mosquitto {theirs:.3} ms, ratio {:.2} (budget 0.45)",
        ours / theirs
    );
    println!(
        "bare handshake {handshake:.3} ms + bare verify {verify:.3} ms = {:.3} ms, ratio {:.2}",
        handshake + verify,
        ours / (handshake + verify)
    );

    // Memory: a fresh server, so that nothing of the rounds above is counted or reused.
    drop(peer);
    let core = Core::start();
    let devices = register(&core);
    // One connect per thread first: what is made once is not charged to a connection.
    let warm: Vec<_> = devices.iter().take(AT_A_TIME).map(options_of).collect();
    drop(connect_all(core.pid(), &warm));
    std::thread::sleep(Duration::from_secs(2));
    let before = core.resident_bytes();
    let options: Vec<_> = devices.iter().map(options_of).collect();
    let (_, mut open) = connect_all(core.pid(), &options);
    for (client, device) in open.iter_mut().zip(&devices) {
        client.subscribe(&format!("devices/{}/commands/#", device.device)).unwrap();
    }
    std::thread::sleep(Duration::from_secs(2));
    let held = core.resident_bytes().saturating_sub(before);
    println!(
        "\n{CONNECTIONS} idle TLS 1.3 connections with one subscription each: {} bytes RSS per connection (budget 12288)",
        held as usize / open.len()
    );
    drop(open);

    let peer = Mosquitto::start(&core);
    let passwords: Vec<_> = devices.iter().map(|device| peer.options(&device.device)).collect();
    drop(connect_all(peer.child.id(), &passwords[..AT_A_TIME]));
    std::thread::sleep(Duration::from_secs(1));
    let before = resident_bytes(peer.child.id());
    let (_, mut open) = connect_all(peer.child.id(), &passwords);
    for (client, device) in open.iter_mut().zip(&devices) {
        client.subscribe(&format!("devices/{}/commands/#", device.device)).unwrap();
    }
    std::thread::sleep(Duration::from_secs(1));
    let theirs = resident_bytes(peer.child.id()).saturating_sub(before) as usize / open.len();
    println!("mosquitto: {theirs} bytes, ratio {:.2}", held as f64 / open.len() as f64 / theirs as f64);
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

fn options_of(device: &DeviceIdentity) -> MqttOptions {
    let mut options = device.mqtt_options().unwrap();
    options.keep_alive_s = 0;
    options
}

/// Opens all connections; answers CPU milliseconds of the process each, and the open connections.
fn connect_all(pid: u32, options: &[MqttOptions]) -> (f64, Vec<MqttClient>) {
    let before = cpu_ms(pid);
    let open = std::thread::scope(|scope| {
        let share = options.len().div_ceil(AT_A_TIME);
        let threads: Vec<_> = options
            .chunks(share)
            .map(|mine| {
                scope.spawn(move || mine.iter().map(|o| MqttClient::connect(o).unwrap()).collect::<Vec<_>>())
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    ((cpu_ms(pid) - before) / options.len() as f64, open)
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
fn established(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// A handshake in memory (server side only) and a verify, in milliseconds: what no server can save.
fn primitives(core: &Core, device: &DeviceIdentity) -> (f64, f64) {
    let pem = |name: &str| fs::read(core.data().join(name)).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(&pem("server.pem")).unwrap()],
            PrivateKeyDer::from_pem_slice(&pem("server-key.pem")).unwrap(),
        )
        .unwrap();
    server.send_tls13_tickets = 0;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&pem("ca.pem")).unwrap()).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let (server, client) = (Arc::new(server), Arc::new(client));
    let mut handshakes: Vec<f64> = (0..300).map(|_| handshake(&server, &client)).collect();
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
    ca_pem: String,
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
        wait_for("mosquitto", Duration::from_secs(10), || std::net::TcpStream::connect(&address).ok());
        let ca_pem = fs::read_to_string(file("ca.pem")).unwrap();
        Self { child, address, ca_pem, _place: place }
    }

    fn options(&self, client_id: &str) -> MqttOptions {
        MqttOptions {
            server: self.address.clone(),
            ca_pem: self.ca_pem.clone(),
            version: drawbridge_device::ProtocolVersion::V5,
            client_id: client_id.to_owned(),
            username: Some("bench".to_owned()),
            password: b"a-long-password".to_vec(),
            keep_alive_s: 0,
        }
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
