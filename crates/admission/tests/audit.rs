//! The audit's own rows: a summary of logins a minute, a signed checkpoint after what is new.

mod world;

use std::sync::Arc;

use drawbridge_admission::{
    Actor, Admission, CHECKPOINT_ACTION, CHECKPOINT_TYP, NewDevice, NewRegistry, SUMMARY_ACTION,
};
use drawbridge_identity::NotProven;
use drawbridge_jose::{Jws, ParseOptions, PublicKey, base64url_encode};
use drawbridge_names::{PrincipalName, RegistryName};
use drawbridge_registry::{AuditRow, Store as _};
use drawbridge_testkit::{FakeClock, FlakyStore, SeededRandom, TestDevice, sealer};
use serde_json::{Value, json};
use world::{BRIDGE, ISSUER, World};

async fn rows(world: &World) -> Vec<AuditRow> {
    world.store.audit_rows(&world.registry, "alone", 1, 10_000).await.expect("rows")
}

async fn count(world: &World, action: &str) -> usize {
    rows(world).await.iter().filter(|row| row.entry.action == action).count()
}

/// Time goes on as the server lets it: a look each second.
async fn pass(world: &World, seconds: u64) {
    for _ in 0..seconds {
        world.clock.advance_s(1);
        world.admission.maintain().await;
    }
}

#[tokio::test]
async fn a_checkpoint_names_the_newest_row_and_is_signed_by_the_issuer() {
    let world = World::new().await;
    world.device("lamp").await;
    world.admission.maintain().await;
    let all = rows(&world).await;
    let (last, before) = (&all[all.len() - 1], &all[all.len() - 2]);
    assert_eq!(last.entry.action, CHECKPOINT_ACTION);
    let detail: Value = serde_json::from_str(&last.entry.detail).expect("JSON");
    let jws = detail["jws"].as_str().expect("a JWS");
    let token = Jws::parse(jws.as_bytes(), &ParseOptions::default()).expect("a JWS");
    assert_eq!(token.typ(), Some(CHECKPOINT_TYP));
    let jwks: Value =
        serde_json::from_str(&world.admission.jwks_json(&world.registry).expect("keys")).expect("JSON");
    let key =
        jwks["keys"].as_array().expect("keys").iter().find(|key| key["kid"] == token.kid().expect("a kid"));
    let key = PublicKey::from_jwk(key.expect("published").to_string().as_bytes()).expect("a key");
    let body: Value = serde_json::from_slice(token.verify(&key).expect("signed").payload()).expect("JSON");
    assert_eq!((&body["iss"], &body["registry"]), (&json!(ISSUER), &json!("default")));
    let head = json!([{ "writer": "alone", "seq": before.seq, "hash": base64url_encode(&before.hash) }]);
    assert_eq!(body["heads"], head);
}

#[tokio::test]
async fn checkpoints_come_a_minute_after_news_after_a_thousand_rows_and_never_without_news() {
    let world = World::new().await;
    pass(&world, 10).await;
    assert_eq!(count(&world, CHECKPOINT_ACTION).await, 1, "of the registry itself");
    pass(&world, 300).await;
    assert_eq!(count(&world, CHECKPOINT_ACTION).await, 1, "nothing is new");
    world.device("lamp").await;
    pass(&world, 10).await;
    assert_eq!(count(&world, CHECKPOINT_ACTION).await, 2, "the last one is more than a minute old");
    world.device("pump").await;
    pass(&world, 40).await;
    assert_eq!(count(&world, CHECKPOINT_ACTION).await, 2, "once a minute");
    pass(&world, 30).await;
    assert_eq!(count(&world, CHECKPOINT_ACTION).await, 3);
    let lamp = PrincipalName::parse("lamp").expect("a name");
    for _ in 0..1_000 {
        let changed = world.admission.unblock(&world.registry, &lamp, None, &Actor::Admin).await;
        changed.expect("a row of audit each");
    }
    pass(&world, 6).await;
    assert_eq!(count(&world, CHECKPOINT_ACTION).await, 4, "a thousand rows do not wait for the minute");
    world.device("fan").await;
    world.admission.settle().await;
    assert_eq!(count(&world, CHECKPOINT_ACTION).await, 5, "at the end all is signed");
    let again = world::open(&world.store, &world.clock, 2).await;
    again.maintain().await;
    again.settle().await;
    assert_eq!(count(&world, CHECKPOINT_ACTION).await, 5, "a restart without news writes none");
}

#[tokio::test]
async fn the_server_signs_no_past_that_is_another_than_the_one_it_has_signed_before() {
    let (store, clock) = (Arc::new(FlakyStore::default()), Arc::new(FakeClock::default()));
    let random = Arc::new(SeededRandom::new(1));
    let admission =
        Admission::open(store.clone(), clock.clone(), random, sealer(), world::cheap_passwords()).await;
    let (admission, registry) = (admission.expect("opened"), RegistryName::default_registry());
    let new = NewRegistry::named(registry.clone(), Some(ISSUER.to_owned()));
    admission.create_registry(new, &Actor::Admin).await.expect("made");
    admission.settle().await;
    let signed = async || {
        let rows = store.audit_rows(&registry, "alone", 1, 100).await.expect("rows");
        rows.iter().filter(|row| row.entry.action == CHECKPOINT_ACTION).count()
    };
    assert_eq!(signed().await, 1);
    for (rewritten, wanted) in [(true, 1), (false, 2)] {
        store.rewrite_audit(rewritten);
        let device = TestDevice::new(if rewritten { "lamp" } else { "pump" });
        let new = NewDevice::with_key(device.name.clone(), device.public_key().clone());
        admission.add_device(&registry, new, &Actor::Admin).await.expect("the change itself is made");
        clock.advance_s(120);
        admission.maintain().await;
        admission.settle().await;
        assert_eq!(signed().await, wanted, "written anew: {rewritten}");
    }
}

#[tokio::test]
async fn logins_are_one_row_a_minute_whatever_their_number() {
    let world = World::new().await;
    let (lamp, pump) = (world.device("lamp").await, world.device("pump").await);
    let before = rows(&world).await.len();
    for _ in 0..20 {
        world.login(&lamp.assertion(ISSUER, world.now_s()).sign()).await.expect("in");
    }
    world.login(&pump.assertion(ISSUER, world.now_s()).sign()).await.expect("in");
    world.connect("lamp", &lamp.connect_jwt(BRIDGE, world.now_s()).sign()).await.expect("in");
    let forged = TestDevice::new("lamp").assertion(ISSUER, world.now_s()).sign();
    for _ in 0..3 {
        let refused = world.login(&forged).await.expect_err("forged");
        assert_eq!(refused, drawbridge_admission::Refusal::NotProven(NotProven::Signature));
    }
    assert_eq!(rows(&world).await.len(), before, "no login writes a row");
    pass(&world, 61).await;
    let all = rows(&world).await;
    let summaries: Vec<&AuditRow> = all.iter().filter(|row| row.entry.action == SUMMARY_ACTION).collect();
    assert_eq!(summaries.len(), 1);
    let detail: Value = serde_json::from_str(&summaries[0].entry.detail).expect("JSON");
    assert_eq!(detail["admitted"], json!({ "connect": { "device": 1 }, "login": { "device": 21 } }));
    assert_eq!((&detail["refused"], &detail["principals"]), (&json!({ "sig": 3 }), &json!(2)));
    pass(&world, 120).await;
    assert_eq!(count(&world, SUMMARY_ACTION).await, 1, "a quiet minute has no row");
}
