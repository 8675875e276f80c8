//! What a token request costs beside the sum of its primitives in the same run, and what a registry of
//! 1,000,000 devices does to logins, memory and the time of a start.
//!
//! `cargo bench -p drawbridge --bench tokens`: the cost of a token
//! `cargo bench -p drawbridge --bench tokens -- devices [N] [postgres]`: a registry of N devices (1,000,000)
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

#[expect(dead_code, reason = "shared with the tests of the store, which use all of it")]
#[path = "../../registry-postgres/tests/postgres/cluster.rs"]
mod cluster;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use drawbridge_device::{ClientAssertion, DeviceIdentity, random_id};
use drawbridge_jose::{Algorithm, Header, Jws, ParseOptions, SigningKey, sign_compact};
use drawbridge_names::{KeyId, PolicyName, PrincipalKind, PrincipalName, RegistryName, Uid};
use drawbridge_registry::{
    AddPrincipal, AuditEntry, JtiMark, JtiOutcome, Key, KeyState, Principal, RegistryRecord, Store,
};
use drawbridge_registry_postgres::PostgresStore;
use drawbridge_registry_sqlite::SqliteStore;
use harness::{Core, now_s};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::json;

/// Devices that log in when the cost of a token is measured.
const DEVICES: usize = 4_000;
/// Keep-alive connections.
const CONNECTIONS: usize = 16;
/// Tokens of a round.
const TOKENS: usize = 8_000;
const ROUNDS: usize = 5;
/// Of a large registry so many devices have real keys and log in.
const REAL: usize = 5_000;
const BATCH: usize = 1_000;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => cost_of_a_token(),
        ["devices", rest @ ..] => {
            let count = rest.iter().find_map(|word| word.parse().ok()).unwrap_or(1_000_000);
            if rest.contains(&"postgres") {
                let cluster = cluster::Cluster::new(&[]);
                println!("{}", cluster.version());
                large_registry(count, Some(&cluster.database()));
            } else {
                large_registry(count, None);
            }
        }
        other => panic!("{other:?} is no scenario; wanted nothing, or `devices [N] [postgres]`"),
    }
}

/// A server that says as much as it does by default, and not all that a test wants to know: what it says costs.
fn serving(args: &[&str]) -> Core {
    let mut core = Core::prepared(args);
    core.environment.push(("RUST_LOG", "info".into()));
    core.run_again();
    core
}

fn cost_of_a_token() {
    let core = serving(&[]);
    let model = core.device("model");
    let devices = register(&core, &model);
    println!(
        "{TOKENS} token requests, {CONNECTIONS} keep-alive TLS 1.3 connections, {ROUNDS} rounds; CPU us of the \
         server process each"
    );
    let (mut ours, mut bare, mut rates) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let requests: Vec<Vec<u8>> = (0..TOKENS).map(|n| request(&devices[n % DEVICES])).collect();
        let connections = (0..CONNECTIONS).map(|_| KeepAlive::open(&model)).collect::<Vec<_>>();
        let (cpu_before, begun) = (Cpu::of(core.pid()), Instant::now());
        std::thread::scope(|scope| {
            for (connection, mine) in connections.into_iter().zip(requests.chunks(TOKENS / CONNECTIONS)) {
                scope.spawn(move || {
                    let mut connection = connection;
                    for request in mine {
                        connection.ask(request);
                    }
                });
            }
        });
        let seconds = begun.elapsed().as_secs_f64();
        let each = Cpu::of(core.pid()).since(cpu_before);
        let (verify_us, sign_us) = primitives(&devices[0]);
        let jti = stored_jti(&devices);
        let crypto_us = verify_us + sign_us;
        println!(
            "round {round}: {:.0} us + {:.0} in the disk's calls; verify {verify_us:.0} + sign {sign_us:.0} + \
             stored jti {:.0} + {:.0}; ratio {:.2}, with the disk's calls {:.2}; {:.0} tokens/s in all",
            each.work_us,
            each.disk_us,
            jti.work_us,
            jti.disk_us,
            each.work_us / (crypto_us + jti.work_us),
            (each.work_us + each.disk_us) / (crypto_us + jti.work_us + jti.disk_us),
            TOKENS as f64 / seconds
        );
        if round > 0 {
            ours.push(each.work_us);
            bare.push(crypto_us + jti.work_us);
            rates.push(1e6 / (each.work_us + each.disk_us));
        }
    }
    let (ours, bare) = (median(&mut ours), median(&mut bare));
    println!(
        "medians: {:.0} tokens/s a core; without the disk's calls {ours:.0} us a token, the primitives {bare:.0} us: \
         ratio {:.2} (budget 1.5)",
        median(&mut rates),
        ours / bare
    );
}

/// Verify of an assertion and sign of an access token, in us.
fn primitives(device: &DeviceIdentity) -> (f64, f64) {
    let jwt = assertion(device);
    let jws = Jws::parse(jwt.as_bytes(), &ParseOptions::default()).unwrap();
    let mut verifies: Vec<f64> =
        (0..500).map(|_| us(|| drop(jws.verify(device.public_key()).unwrap()))).collect();
    let claims = json!({
        "iss": device.issuer, "sub": device.device, "client_id": device.device, "aud": device.bridge_audience,
        "iat": now_s(), "exp": now_s() + 3600, "jti": random_id(), "uid": "1234567890123456789", "epoch": 0,
        "akid": device.public_key().thumbprint(),
    })
    .to_string();
    let header = Header { typ: Some("at+jwt"), kid: Some(device.public_key().thumbprint()), jwk: None };
    let mut signs: Vec<f64> = (0..500)
        .map(|_| us(|| drop(sign_compact(&header, claims.as_bytes(), &device.key).unwrap())))
        .collect();
    (median(&mut verifies), median(&mut signs))
}

/// CPU of this process for one `jti` stored in SQLite, as many at a time as there are connections.
fn stored_jti(devices: &[DeviceIdentity]) -> Cpu {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let store = Arc::new(SqliteStore::open(&folder.path().join("registry.sqlite")).unwrap());
    runtime.block_on(async {
        store.add_registry(record(), audit()).await.unwrap();
        let batch = devices.iter().enumerate().map(|(n, device)| {
            entry(
                &device.device,
                n as u64 + 1,
                device.public_key().spki_der().to_vec(),
                device.public_key().thumbprint(),
            )
        });
        store.import_principals(&RegistryName::default_registry(), batch.collect(), audit()).await.unwrap();
        let before = Cpu::of(std::process::id());
        let tasks: Vec<_> = (0..CONNECTIONS)
            .map(|task| {
                let (store, kids) = (Arc::clone(&store), kids(devices));
                tokio::spawn(async move {
                    for n in 0..TOKENS / CONNECTIONS {
                        let number = task * (TOKENS / CONNECTIONS) + n;
                        let mut digest = [0; 16];
                        digest[..8].copy_from_slice(
                            &(number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes(),
                        );
                        let mark = JtiMark {
                            jti_digest: digest,
                            token_digest: digest,
                            kid: kids[number % DEVICES].clone(),
                            until_s: Some(now_s() + 300),
                            live_max: 1_000,
                        };
                        let uid = Uid((number % DEVICES) as u64 + 1);
                        let registry = RegistryName::default_registry();
                        let outcome = store.remember_jti(&registry, uid, mark, now_s()).await.unwrap();
                        assert_eq!(outcome, JtiOutcome::Fresh);
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        Cpu::of(std::process::id()).since(before)
    })
}

fn kids(devices: &[DeviceIdentity]) -> Vec<KeyId> {
    devices.iter().map(|device| KeyId::parse(device.public_key().thumbprint()).unwrap()).collect()
}

/// A registry of `count` devices: how long a start takes, what memory it holds, how long logins take.
fn large_registry(count: usize, url: Option<&str>) {
    let store_words: Vec<&str> = url.map(|url| vec!["--store", url]).unwrap_or_default();
    let mut core = serving(&store_words);
    let model = core.device("model");
    core.stop();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    println!("{}", if url.is_some() { "PostgreSQL" } else { "SQLite" });
    let devices = runtime.block_on(async {
        match url {
            None => {
                let store = SqliteStore::open(&core.data().join("registry.sqlite")).unwrap();
                let devices = fill(&store, count, &model).await;
                store.close();
                let store = SqliteStore::open(&core.data().join("registry.sqlite")).unwrap();
                lookups(&store, count).await;
                devices
            }
            Some(url) => {
                let store = PostgresStore::open(url, "bench").await.unwrap();
                let devices = fill(&store, count, &model).await;
                lookups(&store, count).await;
                store.close();
                devices
            }
        }
    });
    let begun = Instant::now();
    core.run_again();
    let start_ms = begun.elapsed().as_secs_f64() * 1e3;
    std::thread::sleep(Duration::from_secs(1));
    println!(
        "start until the listeners accept: {start_ms:.0} ms (budget 300); RSS {:.1} MB",
        core.resident_bytes() as f64 / 1e6
    );
    let https = core.endpoints.https.clone();
    let devices: Vec<_> =
        devices.into_iter().map(|device| DeviceIdentity { https: https.clone(), ..device }).collect();
    for (what, callers) in [("one at a time, nothing cached", 1), ("16 at a time", CONNECTIONS)] {
        let share = &devices[if callers == 1 { 0..REAL / 2 } else { REAL / 2..REAL }];
        let mut times: Vec<f64> = std::thread::scope(|scope| {
            let threads: Vec<_> = share
                .chunks(share.len().div_ceil(callers))
                .map(|mine| {
                    scope.spawn(move || {
                        let mut connection = KeepAlive::open(&mine[0]);
                        let requests: Vec<_> = mine.iter().map(request).collect();
                        requests
                            .iter()
                            .map(|request| us(|| connection.ask(request)) / 1e3)
                            .collect::<Vec<_>>()
                    })
                })
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        times.sort_by(f64::total_cmp);
        println!(
            "login, {what}: p50 {:.2} ms, p99 {:.2} ms; RSS {:.1} MB",
            times[times.len() / 2],
            times[times.len() * 99 / 100],
            core.resident_bytes() as f64 / 1e6
        );
    }
}

/// Looks up single devices, one after the other, in no order.
async fn lookups(store: &dyn Store, count: usize) {
    let registry = RegistryName::default_registry();
    let mut times = Vec::new();
    for n in 0..20_000_u64 {
        let number = usize::try_from(n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20).unwrap() % count;
        let name = PrincipalName::parse(&format!("fleet-{number:08}")).unwrap();
        let begun = Instant::now();
        let known = store.known(&registry, &name).await.unwrap();
        times.push(begun.elapsed().as_secs_f64() * 1e3);
        assert_eq!(known.unwrap().keys.len(), 1);
    }
    times.sort_by(f64::total_cmp);
    println!("lookup: p50 {:.3} ms, p99 {:.3} ms", times[times.len() / 2], times[times.len() * 99 / 100]);
}

/// Fills a store; answers the devices that have real keys, in random order.
async fn fill(store: &dyn Store, count: usize, model: &DeviceIdentity) -> Vec<DeviceIdentity> {
    let registry = RegistryName::default_registry();
    let every = (count / REAL).max(1);
    let begun = Instant::now();
    let mut real = Vec::new();
    let mut batch = Vec::with_capacity(BATCH);
    for n in 0..count {
        let name = format!("fleet-{n:08}");
        let uid = (n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        if n % every == 0 && real.len() < REAL {
            let key = SigningKey::generate(Algorithm::Es256).unwrap();
            batch.push(entry(
                &name,
                uid,
                key.public_key().spki_der().to_vec(),
                key.public_key().thumbprint(),
            ));
            real.push(identity(model, name, key));
        } else {
            let spki = uid.to_be_bytes().repeat(12)[..91].to_vec();
            batch.push(entry(&name, uid, spki, &format!("{n:043}")));
        }
        if batch.len() == BATCH || n + 1 == count {
            let answers =
                store.import_principals(&registry, std::mem::take(&mut batch), audit()).await.unwrap();
            assert!(answers.iter().all(|answer| *answer == AddPrincipal::Added));
        }
    }
    assert!(real.len() >= REAL.min(count), "so many log in");
    println!("{count} devices registered in {:.0} s", begun.elapsed().as_secs_f64());
    // Neighbours in name would share pages.
    for n in (1..real.len()).rev() {
        let other = usize::try_from((n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33).unwrap() % (n + 1);
        real.swap(n, other);
    }
    real
}

fn entry(name: &str, uid: u64, spki_der: Vec<u8>, kid: &str) -> (Principal, Vec<Key>) {
    let name = PrincipalName::parse(name).unwrap();
    let registry = RegistryName::default_registry();
    let principal = Principal {
        policy: Some(PolicyName::parse("device").unwrap()),
        ..Principal::new(registry, Uid(uid), name, PrincipalKind::Device, now_s())
    };
    let key = Key {
        kid: KeyId::parse(kid).unwrap(),
        spki_der,
        algorithm: "ES256".to_owned(),
        label: None,
        state: KeyState::Active,
        not_before_s: None,
        expires_s: None,
        added_s: now_s(),
        last_used_s: None,
        certificate_der: None,
    };
    (principal, vec![key])
}

fn record() -> RegistryRecord {
    RegistryRecord {
        name: RegistryName::default_registry(),
        issuer: "https://core.example".to_owned(),
        bridge_audience: "https://core.example/mqtt".to_owned(),
        clock_skew_s: 60,
        token_life_s: 3_600,
        google: None,
        settings: Default::default(),
        created_s: now_s(),
    }
}

fn audit() -> AuditEntry {
    AuditEntry {
        at_ms: now_s() * 1000,
        actor: "admin".to_owned(),
        action: "device.import".to_owned(),
        subject: "bench".to_owned(),
        detail: "{}".to_owned(),
    }
}

fn identity(model: &DeviceIdentity, device: String, key: SigningKey) -> DeviceIdentity {
    DeviceIdentity {
        registry: model.registry.clone(),
        device,
        issuer: model.issuer.clone(),
        bridge_audience: model.bridge_audience.clone(),
        mqtts: model.mqtts.clone(),
        https: model.https.clone(),
        ca_pem: model.ca_pem.clone(),
        key,
    }
}

fn register(core: &Core, model: &DeviceIdentity) -> Vec<DeviceIdentity> {
    let mut lines = String::new();
    let devices: Vec<_> = (0..DEVICES)
        .map(|n| {
            let key = SigningKey::generate(Algorithm::Es256).unwrap();
            let name = format!("device-{n:05}");
            let jwk: serde_json::Value = serde_json::from_str(&key.public_key().to_jwk_json()).unwrap();
            lines.push_str(&json!({ "id": name, "keys": [{ "jwk": jwk }] }).to_string());
            lines.push('\n');
            identity(model, name, key)
        })
        .collect();
    let file = core.place().join("devices.ndjson");
    fs::write(&file, lines).unwrap();
    core.cli_ok(&["device", "import", &file.to_string_lossy()]);
    devices
}

fn assertion(device: &DeviceIdentity) -> String {
    let jti = random_id();
    ClientAssertion { device: &device.device, issuer: &device.issuer, now_s: now_s(), jti: &jti }
        .sign(&device.key)
        .unwrap()
}

/// A whole token request.
fn request(device: &DeviceIdentity) -> Vec<u8> {
    let form = format!(
        "grant_type=client_credentials&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer&client_assertion={}",
        assertion(device)
    );
    format!(
        "POST /oauth/token HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n\
         Content-Length: {}\r\n\r\n{form}",
        form.len()
    )
    .into_bytes()
}

/// An HTTP/1.1 connection that stays open.
struct KeepAlive {
    tls: rustls::StreamOwned<rustls::ClientConnection, TcpStream>,
    received: Vec<u8>,
}

impl KeepAlive {
    fn open(device: &DeviceIdentity) -> Self {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(device.ca_pem.as_bytes()).unwrap()).unwrap();
        let config = rustls::ClientConfig::builder_with_provider(Arc::new(
            rustls::crypto::aws_lc_rs::default_provider(),
        ))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
        let name = "localhost".try_into().unwrap();
        let session = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let socket = TcpStream::connect(&device.https).unwrap();
        socket.set_nodelay(true).unwrap();
        Self { tls: rustls::StreamOwned::new(session, socket), received: Vec::new() }
    }

    /// Sends a request and waits for the answer, which must be 200.
    fn ask(&mut self, request: &[u8]) {
        self.tls.write_all(request).unwrap();
        loop {
            if let Some(head) = self.received.windows(4).position(|window| window == b"\r\n\r\n") {
                let text = String::from_utf8_lossy(&self.received[..head]).to_ascii_lowercase();
                assert!(text.starts_with("http/1.1 200"), "{}", String::from_utf8_lossy(&self.received));
                let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
                let end = head + 4 + length.trim().parse::<usize>().unwrap();
                if self.received.len() >= end {
                    self.received.drain(..end);
                    return;
                }
            }
            let mut chunk = [0; 4096];
            let n = self.tls.read(&mut chunk).unwrap();
            assert!(n > 0, "closed");
            self.received.extend_from_slice(&chunk[..n]);
        }
    }
}

fn us(work: impl FnOnce()) -> f64 {
    let begun = Instant::now();
    work();
    begun.elapsed().as_secs_f64() * 1e6
}

/// CPU time of a process; what the writer of the store spends in the kernel (writing and flushing the file)
/// stands apart.
#[derive(Clone, Copy)]
struct Cpu {
    work_us: f64,
    disk_us: f64,
}

impl Cpu {
    fn of(pid: u32) -> Self {
        let mut cpu = Self { work_us: 0.0, disk_us: 0.0 };
        for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
            // A thread that has just ended is not counted.
            let Ok(stat) = fs::read_to_string(task.unwrap().path().join("stat")) else { continue };
            let (name, rest) = stat.rsplit_once(')').unwrap();
            let fields: Vec<&str> = rest.split_whitespace().collect();
            // Linux counts 100 ticks a second for user space.
            let ticks = |field: usize| fields[field].parse::<f64>().unwrap() * 1e4;
            cpu.work_us += ticks(11);
            let kernel = if name.contains("registry-writer") { &mut cpu.disk_us } else { &mut cpu.work_us };
            *kernel += ticks(12);
        }
        cpu
    }

    /// Of one token of a round that began at `before`.
    fn since(self, before: Self) -> Self {
        let each = |now: f64, before: f64| (now - before) / TOKENS as f64;
        Self { work_us: each(self.work_us, before.work_us), disk_us: each(self.disk_us, before.disk_us) }
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
