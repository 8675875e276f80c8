//! What a login asks of the registry: a durable `jti`, and a lookup among many devices.
//!
//! `cargo bench -p drawbridge-registry-sqlite [-- DEVICES]` (default 100,000). Beside the store's
//! figures stand those of bare SQLite in the same run: absolute figures drift with the disk, the
//! ratio counts. `-- replay` tells what 100,000 remembered `jti` hold, and nothing else.
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark prints, and stops at the first fault"
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use drawbridge_names::{Epoch, KeyId, PrincipalKind, PrincipalName, RegistryName, Uid};
use drawbridge_registry::memory::MemoryStore;
use drawbridge_registry::{AuditEntry, JtiMark, JtiOutcome, Key, KeyState, Principal, RegistryRecord, Store};
use drawbridge_registry_sqlite::SqliteStore;

const NOW_S: u64 = 1_700_000_000;

fn main() {
    if std::env::args().any(|word| word == "replay") {
        return replay();
    }
    let devices = std::env::args().skip(1).find_map(|word| word.parse().ok()).unwrap_or(100_000);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("registry.db");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let started = Instant::now();
    let store = Arc::new(SqliteStore::open(&path).unwrap());
    runtime.block_on(fill(&store, devices));
    println!("{devices} devices registered in {:.1} s", started.elapsed().as_secs_f64());
    store.close();

    let started = Instant::now();
    let store = Arc::new(SqliteStore::open(&path).unwrap());
    println!("opened in {:.1} ms", started.elapsed().as_secs_f64() * 1000.0);

    let bare = rusqlite::Connection::open(&path).unwrap();
    let mut query = bare
        .prepare(
            "SELECT * FROM principal p JOIN principal_key k ON k.registry = p.registry AND k.uid = p.uid
             WHERE p.registry = 'default' AND p.name = ?1",
        )
        .unwrap();
    let bare_times = times(20_000, |number| {
        let name = format!("d{:07}", pick(number, devices));
        query.query_row([name], |row| row.get::<_, Vec<u8>>("spki_der")).unwrap();
    });
    report("lookup, bare SQLite", &bare_times);
    for (what, certified) in [("bare keys", false), ("certificates", true)] {
        let store_times = runtime.block_on(async {
            let mut all = Vec::new();
            for number in 0..20_000 {
                let device = pick(number, devices);
                let device = device - device % 10 + if certified { 0 } else { 1 };
                let name = PrincipalName::parse(&format!("d{:07}", device.clamp(1, devices))).unwrap();
                let started = Instant::now();
                let known = store.known(&registry(), &name).await.unwrap();
                all.push(started.elapsed());
                assert_eq!(known.unwrap().keys.len(), 1);
            }
            all
        });
        report(&format!("lookup, store, 1 caller, {what}"), &store_times);
    }

    for callers in [1, 100] {
        let (before, started) = (store.counters(), Instant::now());
        runtime.block_on(remember(&store, callers, if callers == 1 { 500 } else { 200 }));
        let (after, seconds) = (store.counters(), started.elapsed().as_secs_f64());
        let (jti, commits) = (after.changes - before.changes, after.commits - before.commits);
        println!(
            "jti, {callers} callers: {:.0}/s, {:.1} a commit, {:.2} ms a commit",
            jti as f64 / seconds,
            jti as f64 / commits as f64,
            seconds * 1000.0 / commits as f64
        );
    }
}

/// What the entries of the replay store hold: of 1,000 devices 100 each. Resident memory of the process, since SQLite
/// does not allocate by Rust's allocator, and the bytes of the files.
fn replay() {
    const ENTRIES: u64 = 100_000;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    // The store in memory comes first: what it holds is measured in a fresh process.
    let store = Arc::new(MemoryStore::new());
    runtime.block_on(fill(&store, 1_000));
    let before = resident_bytes();
    runtime.block_on(remember(&store, 1_000, ENTRIES / 1_000));
    let memory = resident_bytes().saturating_sub(before);
    println!("{ENTRIES} remembered jti, the store in memory: {memory} bytes, {} each", memory / ENTRIES);
    std::mem::forget(store); // what it gave back would be used by the next
    let files = || -> u64 {
        let files = std::fs::read_dir(folder.path()).unwrap().flatten();
        files.map(|file| file.metadata().unwrap().len()).sum()
    };
    let store = Arc::new(SqliteStore::open(&folder.path().join("registry.db")).unwrap());
    runtime.block_on(fill(&store, 1_000));
    let (memory, bytes) = (resident_bytes(), files());
    runtime.block_on(remember(&store, 1_000, ENTRIES / 1_000));
    let (memory, open_bytes) = (resident_bytes().saturating_sub(memory), files().saturating_sub(bytes));
    store.close();
    drop(store);
    let closed_bytes = files().saturating_sub(bytes);
    println!("{ENTRIES} remembered jti, SQLite: {memory} bytes of memory, {} each", memory / ENTRIES);
    println!(
        "  its files: {open_bytes} bytes more while open, {closed_bytes} once closed, {} each",
        closed_bytes / ENTRIES
    );
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// Each caller remembers so many `jti`, one after the other.
async fn remember<S: Store + Send + Sync + 'static>(store: &Arc<S>, callers: u64, each: u64) {
    let callers: Vec<_> = (1..=callers)
        .map(|uid| {
            let store = Arc::clone(store);
            tokio::spawn(async move {
                for number in 0..each {
                    let mut jti_digest = [0; 16];
                    jti_digest[..8]
                        .copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
                    jti_digest[8] = u8::from(each == 200);
                    let mark = JtiMark {
                        jti_digest,
                        token_digest: jti_digest,
                        kid: kid(uid),
                        until_s: Some(NOW_S + 300),
                        live_max: 1000,
                    };
                    let outcome = store.remember_jti(&registry(), Uid(uid), mark, NOW_S).await.unwrap();
                    assert_eq!(outcome, JtiOutcome::Fresh);
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
}

async fn fill<S: Store + Send + Sync + 'static>(store: &Arc<S>, devices: u64) {
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
    let callers: Vec<_> = (0..200)
        .map(|caller| {
            let store = Arc::clone(store);
            tokio::spawn(async move {
                for number in (1 + caller..=devices).step_by(200) {
                    store.add_principal(device(number), vec![key(number)], entry()).await.unwrap();
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
}

/// A device far from the last one.
fn pick(number: u64, devices: u64) -> u64 {
    1 + number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % devices
}

fn times(count: u64, mut run: impl FnMut(u64)) -> Vec<Duration> {
    let time = |number| {
        let started = Instant::now();
        run(number);
        started.elapsed()
    };
    (0..count).map(time).collect()
}

fn report(what: &str, times: &[Duration]) {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let at = |share: f64| sorted[(share * sorted.len() as f64) as usize].as_secs_f64() * 1e6;
    println!("{what}: p50 {:.1} us, p99 {:.1} us", at(0.5), at(0.99));
}

fn registry() -> RegistryName {
    RegistryName::default_registry()
}

fn kid(number: u64) -> KeyId {
    KeyId::parse(&format!("{number:043}")).unwrap()
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
        // Every tenth device was registered by a certificate of the usual size.
        certificate_der: number.is_multiple_of(10).then(|| vec![7; 700]),
    }
}

fn device(number: u64) -> Principal {
    Principal {
        registry: registry(),
        uid: Uid(number),
        name: PrincipalName::parse(&format!("d{number:07}")).unwrap(),
        kind: PrincipalKind::Device,
        blocked: false,
        pending: false,
        epoch: Epoch(0),
        not_before_s: 0,
        legacy_assertions: false,
        policy: None,
        attributes: BTreeMap::new(),
        password: None,
        settings: Default::default(),
        enrolment: None,
        registration: None,
        created_s: NOW_S,
        revision: 1,
    }
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
