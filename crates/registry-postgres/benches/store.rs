//! What a login asks of the registry: a durable `jti`, and a lookup among many devices.
//!
//! `cargo bench -p drawbridge-registry-postgres [-- DEVICES]` (default 100,000), against a PostgreSQL server
//! that it makes in a temporary folder (`fsync` on, 1 GB of buffers). Beside the store's figures stand those
//! of bare statements in the same run: absolute figures drift with the disk, the ratio counts.
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark prints, and stops at the first fault"
)]

#[path = "../tests/postgres/cluster.rs"]
#[allow(dead_code, reason = "a benchmark neither kills the server nor reads its log")]
mod cluster;

use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::{Cluster, open};
use drawbridge_names::{KeyId, PrincipalKind, PrincipalName, RegistryName, Uid};
use drawbridge_registry::{
    AddPrincipal, AuditEntry, JtiMark, JtiOutcome, Key, KeyRotation, KeyState, Principal, RegistryRecord,
    RotateKey, Store,
};
use drawbridge_registry_postgres::PostgresStore;

const NOW_S: u64 = 1_700_000_000;

/// Devices registered in one step.
const BATCH: u64 = 1000;

fn main() {
    let devices = std::env::args().skip(1).find_map(|word| word.parse().ok()).unwrap_or(100_000);
    let cluster = Cluster::new(&[
        "shared_buffers=1GB",
        "max_wal_size=4GB",
        "max_connections=200",
        "log_min_duration_statement=40",
    ]);
    let url = cluster.database();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(run(&cluster, &url, devices));
}

async fn run(cluster: &Cluster, url: &str, devices: u64) {
    println!("{}", cluster.version());
    let started = Instant::now();
    fill(&open(url).await, devices).await;
    println!("{devices} devices registered in {:.1} s", started.elapsed().as_secs_f64());
    let database = cluster::database_of(url);
    println!("{}", cluster.sql(database, "SELECT pg_size_pretty(pg_database_size(current_database()))"));
    cluster.sql(database, "VACUUM ANALYZE");

    let started = Instant::now();
    let store = Arc::new(open(url).await);
    println!("opened in {:.1} ms", started.elapsed().as_secs_f64() * 1000.0);

    let (bare, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let sql = "SELECT * FROM drawbridge.principal p
               JOIN drawbridge.principal_key k ON k.registry = p.registry AND k.uid = p.uid
               WHERE p.registry = 'default' AND p.name = $1";
    let query = bare.prepare(sql).await.unwrap();
    let mut times = Vec::new();
    for number in 0..20_000 {
        let name = format!("d{:07}", pick(number, devices));
        let started = Instant::now();
        let row = bare.query_one(&query, &[&name]).await.unwrap();
        times.push(started.elapsed());
        assert_eq!(row.get::<_, Vec<u8>>("spki_der").len(), 91);
    }
    report("lookup, bare statement", times);
    report("lookup, store, 1 caller", lookups(&store, 20_000, 0, devices).await);
    let callers: Vec<_> = (0..16)
        .map(|caller| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { lookups(&store, 2000, caller * 2000, devices).await })
        })
        .collect();
    let (started, mut times) = (Instant::now(), Vec::new());
    for caller in callers {
        times.extend(caller.await.unwrap());
    }
    let rate = times.len() as f64 / started.elapsed().as_secs_f64();
    report(&format!("lookup, store, 16 callers, {rate:.0}/s"), times);

    let insert = "INSERT INTO drawbridge.timed_jti (registry, uid, jti_digest, token_digest, kid, until_s)
                  VALUES ('default', 0, $1, $1, '', 1)";
    let insert = bare.prepare(insert).await.unwrap();
    let mut times = Vec::new();
    for number in 0..1000u64 {
        let digest = [number.to_be_bytes(), [0; 8]].concat();
        let started = Instant::now();
        bare.execute(&insert, &[&digest]).await.unwrap();
        times.push(started.elapsed());
    }
    let rate = 1000.0 / times.iter().sum::<Duration>().as_secs_f64();
    report(&format!("jti, bare INSERT, {rate:.0}/s"), times);
    for (callers, each) in [(1, 1000), (100, 200)] {
        let started = Instant::now();
        let times = remember(&store, callers, each, devices).await;
        let rate = times.len() as f64 / started.elapsed().as_secs_f64();
        report(&format!("jti, {callers} callers, {rate:.0}/s"), times);
    }
    let mut times = Vec::new();
    for number in 0..300 {
        let device = pick(number, devices);
        let rotation = KeyRotation {
            old: kid(device),
            new: key(devices + 1 + number),
            old_expires_s: Some(NOW_S + 3600),
            mark: mark(device, 1 << 40),
            active_max: 5,
        };
        let started = Instant::now();
        let answer = store.rotate_key(&registry(), Uid(device), rotation, NOW_S, entry()).await.unwrap();
        times.push(started.elapsed());
        assert_eq!(answer, RotateKey::Rotated);
    }
    report("key update, 1 caller", times);
}

async fn lookups(store: &PostgresStore, count: u64, first: u64, devices: u64) -> Vec<Duration> {
    let mut times = Vec::new();
    for number in first..first + count {
        let name = PrincipalName::parse(&format!("d{:07}", pick(number, devices))).unwrap();
        let started = Instant::now();
        let known = store.known(&registry(), &name).await.unwrap();
        times.push(started.elapsed());
        assert_eq!(known.unwrap().keys.len(), 1);
    }
    times
}

async fn remember(store: &Arc<PostgresStore>, callers: u64, each: u64, devices: u64) -> Vec<Duration> {
    let callers: Vec<_> = (0..callers)
        .map(|caller| {
            let store = Arc::clone(store);
            tokio::spawn(async move {
                let mut times = Vec::new();
                for number in 0..each {
                    let device = pick(caller * each + number, devices);
                    let mark = mark(device, (callers << 32) + (caller << 20) + number);
                    let started = Instant::now();
                    let outcome = store.remember_jti(&registry(), Uid(device), mark, NOW_S).await.unwrap();
                    times.push(started.elapsed());
                    assert_eq!(outcome, JtiOutcome::Fresh);
                }
                times
            })
        })
        .collect();
    let mut times = Vec::new();
    for caller in callers {
        times.extend(caller.await.unwrap());
    }
    times
}

async fn fill(store: &PostgresStore, devices: u64) {
    let record = RegistryRecord {
        name: registry(),
        issuer: "https://host.example".into(),
        bridge_audience: "https://host.example/mqtt".into(),
        clock_skew_s: 60,
        token_life_s: 3600,
        google: None,
        settings: Default::default(),
        created_s: NOW_S,
    };
    store.add_registry(record, entry()).await.unwrap();
    for first in (1..=devices).step_by(BATCH as usize) {
        let numbers = first..=(first + BATCH - 1).min(devices);
        let batch: Vec<(Principal, Vec<Key>)> =
            numbers.map(|number| (device(number), vec![key(number)])).collect();
        let answers = store.import_principals(&registry(), batch, entry()).await.unwrap();
        assert!(answers.iter().all(|answer| *answer == AddPrincipal::Added));
    }
}

/// A device far from the last one.
fn pick(number: u64, devices: u64) -> u64 {
    1 + number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % devices
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |share: f64| times[(share * times.len() as f64) as usize].as_secs_f64() * 1e6;
    println!("{what}: p50 {:.0} us, p99 {:.0} us", at(0.5), at(0.99));
}

fn registry() -> RegistryName {
    RegistryName::default_registry()
}

fn kid(number: u64) -> KeyId {
    KeyId::parse(&format!("{number:043}")).unwrap()
}

fn mark(device: u64, number: u64) -> JtiMark {
    let mut jti_digest = [0; 16];
    jti_digest[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    jti_digest[8..].copy_from_slice(&number.to_be_bytes());
    let until_s = Some(NOW_S + 300);
    JtiMark { jti_digest, token_digest: jti_digest, kid: kid(device), until_s, live_max: 1000 }
}

fn key(number: u64) -> Key {
    Key {
        kid: kid(number),
        spki_der: vec![7; 91],
        algorithm: "ES256".into(),
        label: None,
        state: KeyState::Active,
        not_before_s: None,
        expires_s: None,
        added_s: NOW_S,
        last_used_s: None,
        certificate_der: None,
    }
}

fn device(number: u64) -> Principal {
    let name = PrincipalName::parse(&format!("d{number:07}")).unwrap();
    Principal::new(registry(), Uid(number), name, PrincipalKind::Device, NOW_S)
}

fn entry() -> AuditEntry {
    AuditEntry {
        at_ms: NOW_S * 1000,
        actor: "admin".into(),
        action: "device.add".into(),
        subject: "lamp".into(),
        detail: "{}".into(),
    }
}
