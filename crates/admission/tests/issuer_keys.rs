//! The issuer's keys: published before they sign, believed until their tokens end, dead at once when stolen.

mod world;

use std::collections::BTreeSet;
use std::sync::Arc;

use drawbridge_admission::{
    Actor, Admission, AdmissionConfig, AdmissionError, AesSeal, Audience, IssuerKeyState, NewRegistry, Peer,
    Refusal, RegistryChange, Rotation, SessionsEnd,
};
use drawbridge_jose::{Jws, ParseOptions, PublicKey};
use drawbridge_names::RegistryName;
use drawbridge_registry::{IssuerAlgorithm, RegistrySettings, Store as _};
use drawbridge_testkit::{SeededRandom, sealer};
use proptest::prelude::*;
use serde_json::Value;
use world::{BRIDGE, ISSUER, World, open};

const DAY_S: u64 = 86_400;

async fn bearer(world: &World, token: &str) -> Result<(), Refusal> {
    world.admission.bearer(None, token, Audience::Bridge, Peer::default()).await.map(drop)
}

fn kid_of(token: &str) -> String {
    let jws = Jws::parse(token.as_bytes(), &ParseOptions::default()).expect("a JWS");
    jws.kid().expect("a kid").to_owned()
}

fn published(world: &World) -> BTreeSet<String> {
    let jwks: Value =
        serde_json::from_str(&world.admission.jwks_json(&world.registry).expect("keys")).expect("JSON");
    let keys = jwks["keys"].as_array().expect("a list");
    keys.iter().map(|key| key["kid"].as_str().expect("a kid").to_owned()).collect()
}

fn states(world: &World) -> Vec<IssuerKeyState> {
    let keys = world.admission.issuer_keys(&world.registry).expect("keys");
    keys.into_iter().map(|key| key.state).collect()
}

async fn maintain(world: &World) {
    world.admission.maintain_issuer_keys().await.expect("maintained");
}

async fn rotate(world: &World, rotation: Rotation) {
    world.admission.rotate_issuer_key(&world.registry, &Actor::Admin, rotation).await.expect("rotated");
}

#[tokio::test]
async fn the_next_key_is_published_a_day_before_it_signs_and_the_old_one_until_its_tokens_end() {
    let world = World::new().await;
    let device = world.device("sensor").await;
    maintain(&world).await;
    let first = kid_of(&world.token(&device, None).await);
    world.clock.advance_s(89 * DAY_S - 1);
    maintain(&world).await;
    assert_eq!(states(&world), [IssuerKeyState::Current]);
    world.clock.advance_s(1);
    maintain(&world).await;
    assert_eq!(states(&world), [IssuerKeyState::Current, IssuerKeyState::Next]);
    assert_eq!(kid_of(&world.token(&device, None).await), first, "published, not used");
    world.clock.advance_s(DAY_S);
    let last_of_first = world.token(&device, None).await;
    maintain(&world).await;
    assert_eq!(states(&world), [IssuerKeyState::Current, IssuerKeyState::Old]);
    assert_ne!(kid_of(&world.token(&device, None).await), first);
    world.clock.advance_s(3_599);
    maintain(&world).await;
    bearer(&world, &last_of_first).await.expect("good until its end");
    world.clock.advance_s(1);
    assert!(matches!(bearer(&world, &last_of_first).await, Err(Refusal::Time { .. })));
    world.clock.advance_s(DAY_S);
    maintain(&world).await;
    assert_eq!(states(&world), [IssuerKeyState::Current]);
    assert!(!published(&world).contains(&first));
}

#[tokio::test]
async fn a_planned_rotation_takes_the_lead_and_is_not_hurried_by_asking_again() {
    let world = World::new().await;
    let device = world.device("sensor").await;
    rotate(&world, Rotation::Planned).await;
    let before = published(&world);
    world.clock.advance_s(DAY_S - 1);
    rotate(&world, Rotation::Planned).await;
    maintain(&world).await;
    assert_eq!(published(&world), before, "the same next key");
    assert_eq!(states(&world), [IssuerKeyState::Current, IssuerKeyState::Next]);
    world.clock.advance_s(1);
    maintain(&world).await;
    let kid = kid_of(&world.token(&device, None).await);
    assert!(before.contains(&kid));
    assert_eq!(states(&world), [IssuerKeyState::Current, IssuerKeyState::Old]);
}

#[tokio::test]
async fn a_stolen_key_is_dead_at_once_with_its_tokens_and_their_sessions() {
    let world = World::new().await;
    let device = world.device("sensor").await;
    rotate(&world, Rotation::Planned).await;
    let token = world.token(&device, None).await;
    let session = world.connect("sensor", &token).await.expect("in");
    assert!(world.admission.still_good(&session));
    let own_jwt =
        world.connect("sensor", &device.connect_jwt(BRIDGE, world.now_s()).sign()).await.expect("in");
    world.watcher.take();
    rotate(&world, Rotation::Now { drop_old: true }).await;
    let kid = session.token.as_ref().and_then(|token| token.issuer_kid.clone()).expect("a kid");
    let ended = SessionsEnd::IssuerKey { registry: world.registry.clone(), kid };
    assert!(world.watcher.take().contains(&ended));
    assert!(!world.admission.still_good(&session), "a login in flight does not slip through");
    assert!(world.admission.still_good(&own_jwt), "what the device signed itself stands");
    assert_eq!(bearer(&world, &token).await.expect_err("dead").word(), "not-proven");
    assert_eq!(states(&world), [IssuerKeyState::Current], "the next one was stolen with it");
    bearer(&world, &world.token(&device, None).await).await.expect("the new key signs at once");
    let rows = world.store.audit_tail(&world.registry, None, 1).await.expect("rows");
    assert_eq!(rows[0].entry.action, "issuer-key.add");
    assert!(rows[0].entry.detail.contains("\"dropped\"") && rows[0].entry.detail.contains("\"jwk\""));
}

#[tokio::test]
async fn a_new_key_at_once_may_leave_the_old_tokens_alone() {
    let world = World::new().await;
    let device = world.device("sensor").await;
    let token = world.token(&device, None).await;
    rotate(&world, Rotation::Now { drop_old: false }).await;
    bearer(&world, &token).await.expect("good until its end");
    assert_eq!(world.watcher.take(), []);
}

#[tokio::test]
async fn the_audit_has_the_public_half_of_every_key_that_ever_signed() {
    let world = World::new().await;
    let device = world.device("sensor").await;
    let mut signed = BTreeSet::new();
    for _ in 0..3 {
        maintain(&world).await;
        signed.insert(kid_of(&world.token(&device, None).await));
        rotate(&world, Rotation::Planned).await;
        world.clock.advance_s(DAY_S);
        maintain(&world).await;
        rotate(&world, Rotation::Now { drop_old: true }).await;
    }
    signed.insert(kid_of(&world.token(&device, None).await));
    let rows = world.store.audit_tail(&world.registry, None, 100).await.expect("rows");
    let mut told = BTreeSet::new();
    for row in rows.iter().filter(|row| row.entry.action == "issuer-key.add") {
        let detail: Value = serde_json::from_str(&row.entry.detail).expect("JSON");
        let key = PublicKey::from_jwk(detail["jwk"].to_string().as_bytes()).expect("a key");
        assert_eq!(detail["kid"].as_str(), Some(key.thumbprint()));
        told.insert(key.thumbprint().to_owned());
    }
    assert!(signed.is_subset(&told), "{signed:?} {told:?}");
}

#[tokio::test]
async fn a_registry_signs_with_the_algorithm_it_was_given_and_changes_it_by_a_rotation() {
    let world = World::new().await;
    let device = world.device("sensor").await;
    maintain(&world).await;
    let mut expected = "ES256";
    for algorithm in [IssuerAlgorithm::EdDsa, IssuerAlgorithm::Rs256] {
        let settings = RegistrySettings { issuer_algorithm: algorithm, ..RegistrySettings::default() };
        let change = RegistryChange { settings: Some(settings), ..RegistryChange::default() };
        world.admission.change_registry(&world.registry, change, &Actor::Admin).await.expect("changed");
        maintain(&world).await;
        let alg = |token: &str| {
            let keys = world.admission.issuer_keys(&world.registry).expect("keys");
            let key = keys.into_iter().find(|key| key.kid.as_str() == kid_of(token)).expect("published");
            serde_json::from_str::<Value>(&key.jwk).expect("JSON")["alg"].as_str().map(str::to_owned)
        };
        assert_eq!(alg(&world.token(&device, None).await).as_deref(), Some(expected), "not before its time");
        world.clock.advance_s(DAY_S);
        maintain(&world).await;
        expected = if algorithm == IssuerAlgorithm::EdDsa { "EdDSA" } else { "RS256" };
        let token = world.token(&device, None).await;
        assert_eq!(alg(&token).as_deref(), Some(expected));
        bearer(&world, &token).await.expect("good");
    }
}

#[tokio::test]
async fn keys_outlive_a_restart_and_another_server_of_the_store_follows() {
    let world = World::new().await;
    let device = world.device("sensor").await;
    let other = open(&world.store, &world.clock, 9).await;
    rotate(&world, Rotation::Now { drop_old: true }).await;
    let token = world.token(&device, None).await;
    let restarted = open(&world.store, &world.clock, 10).await;
    restarted.bearer(None, &token, Audience::Bridge, Peer::default()).await.expect("as before");
    let stale = other.bearer(None, &token, Audience::Bridge, Peer::default()).await;
    assert_eq!(stale.expect_err("not known yet").word(), "not-proven");
    other.maintain_issuer_keys().await.expect("maintained");
    other.bearer(None, &token, Audience::Bridge, Peer::default()).await.expect("known now");
}

#[tokio::test]
async fn a_store_sealed_by_another_key_does_not_open_and_nothing_in_it_changes() {
    let world = World::new().await;
    let before = world.store.secret(&world.registry, "issuer-keys").await.expect("read").expect("there");
    let open = async |seal: AesSeal| {
        let random = Arc::new(SeededRandom::new(3));
        let config = AdmissionConfig::default();
        Admission::open(world.store.clone(), world.clock.clone(), random, Arc::new(seal), config).await
    };
    let error = open(AesSeal::new([1; 32])).await.expect_err("the wrong key");
    assert!(matches!(error, AdmissionError::OtherSealKey { .. }), "{error}");
    assert_eq!((error.code(), error.word()), ("DB-4025", "seal-key"));
    let after = world.store.secret(&world.registry, "issuer-keys").await.expect("read").expect("there");
    assert_eq!(after, before);

    // From one key to the next: start with both, seal anew, forget the first.
    let both = open(AesSeal::with_previous([1; 32], Some([0x5e; 32]))).await.expect("both");
    assert_eq!(both.reseal(&Actor::Admin).await.expect("resealed"), 3);
    assert_eq!(both.reseal(&Actor::Admin).await.expect("resealed"), 0);
    open(AesSeal::new([1; 32])).await.expect("the new key alone");
    let random = Arc::new(SeededRandom::new(4));
    let old = Admission::open(
        world.store.clone(),
        world.clock.clone(),
        random,
        sealer(),
        AdmissionConfig::default(),
    );
    assert!(old.await.is_err(), "the old key opens nothing any more");
}

#[tokio::test]
async fn nothing_that_is_kept_shows_a_private_key() {
    let world = World::new().await;
    for name in ["issuer-keys", "nonce-key"] {
        let kept = world.store.secret(&world.registry, name).await.expect("read").expect("there");
        // The object identifier of EC keys stands in every PKCS#8 file of one.
        let ec = [0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
        assert!(!kept.windows(ec.len()).any(|part| part == ec), "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// A verifier that keeps the key set for as long as it may never meets a key that it does not know, and
    /// every token is good until its end, whenever keys change and however seldom the server looks after them.
    #[test]
    fn a_verifier_that_keeps_the_key_set_knows_every_key(
        steps in prop::collection::vec((1_u64..20 * 3_600, any::<bool>(), 0_u8..10), 1..60),
        life_days in 2_u32..6,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let base = World::new().await;
            let config = AdmissionConfig {
                issuer_key_life_s: life_days * 86_400,
                ..AdmissionConfig::default()
            };
            let random = Arc::new(SeededRandom::new(77));
            let (store, clock) = (base.store.clone(), base.clock.clone());
            let admission = Admission::open(store, clock, random, sealer(), config).await.expect("opened");
            let new = NewRegistry::named(RegistryName::default_registry(), Some(ISSUER.to_owned()));
            admission.create_registry(new, &Actor::Admin).await.expect("there");
            let world = World { admission, ..base };
            let device = world.device("sensor").await;
            let age_s = world.admission.jwks_age_s_max();
            let (mut known, mut known_s) = (published(&world), world.now_s());
            let mut live: Vec<(String, u64)> = Vec::new();
            for (wait_s, looks_after, what) in steps {
                world.clock.advance_s(wait_s);
                if looks_after {
                    maintain(&world).await;
                }
                if what == 0 {
                    rotate(&world, Rotation::Planned).await;
                }
                if world.now_s() - known_s > age_s {
                    (known, known_s) = (published(&world), world.now_s());
                }
                let token = world.token(&device, None).await;
                assert!(known.contains(&kid_of(&token)), "an unknown key {} s after the set", world.now_s() - known_s);
                live.push((token, world.now_s() + 3_600));
                live.retain(|(_, ends_s)| world.now_s() < *ends_s);
                for (token, _) in &live {
                    bearer(&world, token).await.expect("good until its end");
                }
            }
        });
    }
}
