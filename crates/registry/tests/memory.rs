//! The memory store keeps the promises of every store.

use std::collections::BTreeMap;
use std::sync::Barrier;

use drawbridge_names::{Epoch, KeyId, PrincipalKind, PrincipalName, RegistryName, Uid};
use drawbridge_registry::conformance::{self, promises};
use drawbridge_registry::memory::MemoryStore;
use drawbridge_registry::{AuditEntry, JtiMark, JtiOutcome, Key, KeyState, Principal, RegistryRecord, Store};

#[tokio::test]
async fn the_memory_store_keeps_every_promise() {
    let kept =
        conformance::run(async |_| MemoryStore::new(), |promise| println!("memory: {}", promise.name)).await;
    assert_eq!(kept, promises().len());
    assert!(kept >= 85, "only {kept} promises");
}

#[test]
fn promises_have_names_of_their_own() {
    let mut names: Vec<&str> = promises().iter().map(|promise| promise.name).collect();
    names.sort_unstable();
    let all = names.len();
    names.dedup();
    assert_eq!(names.len(), all);
}

/// The suite races within one task, where this store answers at once; here are real threads.
#[test]
fn of_eight_threads_racing_for_one_jti_exactly_one_is_fresh() {
    let store = MemoryStore::new();
    let registry = RegistryName::default_registry();
    let kid = KeyId::parse(&"k".repeat(43)).expect("a key id");
    block_on(make_lamp(&store, &registry, &kid));
    for round in 0..100 {
        let start = Barrier::new(8);
        let fresh = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..8)
                .map(|racer| {
                    let mark = JtiMark {
                        jti_digest: [round; 16],
                        token_digest: [racer; 16],
                        kid: kid.clone(),
                        until_s: Some(100),
                        live_max: 1000,
                    };
                    let (start, store, registry) = (&start, &store, &registry);
                    scope.spawn(move || {
                        start.wait();
                        block_on(store.remember_jti(registry, Uid(1), mark, 1)).expect("remember_jti")
                    })
                })
                .collect();
            let outcomes = racers.into_iter().map(|racer| racer.join().expect("no panic"));
            outcomes.filter(|outcome| *outcome == JtiOutcome::Fresh).count()
        });
        assert_eq!(fresh, 1, "round {round}");
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
}

async fn make_lamp(store: &MemoryStore, registry: &RegistryName, kid: &KeyId) {
    let entry = AuditEntry {
        at_ms: 1,
        actor: "admin".into(),
        action: "device.add".into(),
        subject: "lamp".into(),
        detail: "{}".into(),
    };
    let record = RegistryRecord {
        name: registry.clone(),
        issuer: "https://host.example".into(),
        bridge_audience: "https://host.example/mqtt".into(),
        clock_skew_s: 60,
        token_life_s: 3600,
        google: None,
        settings: Default::default(),
        created_s: 1,
    };
    store.add_registry(record, entry.clone()).await.expect("add_registry");
    let lamp = Principal {
        registry: registry.clone(),
        uid: Uid(1),
        name: PrincipalName::parse("lamp").expect("a name"),
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
        created_s: 1,
        revision: 1,
    };
    let key = Key {
        kid: kid.clone(),
        spki_der: vec![1],
        algorithm: "ES256".into(),
        label: None,
        state: KeyState::Active,
        not_before_s: None,
        expires_s: None,
        added_s: 1,
        last_used_s: None,
        certificate_der: None,
    };
    store.add_principal(lamp, vec![key], entry).await.expect("add_principal");
}
