//! A device replaces its own key, and nobody else does.

mod world;

use std::sync::Arc;

use drawbridge_admission::{
    Actor, Admission, AdmissionConfig, KeyUpdated, NewDevice, NewRegistry, Peer, Refusal, SessionsEnd,
};
use drawbridge_jose::{Algorithm, PublicKey, sha256};
use drawbridge_names::{PrincipalName, RegistryName};
use drawbridge_registry::memory::MemoryStore;
use drawbridge_registry::{KeyState, Store as _};
use drawbridge_testkit::{FakeClock, SeededRandom, TestDevice, sealer};
use serde_json::{Value, json};
use world::{BRIDGE, ISSUER, LONG_S, World};

const DAY_S: u64 = 86_400;

async fn update(world: &World, update: &str, pop: &str) -> Result<KeyUpdated, Refusal> {
    world.admission.update_key(&world.registry, update, pop, true, Peer::default()).await
}

async fn legacy_update(world: &World, update: &str, pop: &str) -> Result<KeyUpdated, Refusal> {
    world.admission.legacy_update_key(&world.registry, update, pop, Peer::default()).await
}

async fn states(world: &World, device: &TestDevice) -> Vec<KeyState> {
    let known = world.store.known(&world.registry, &device.name).await.expect("read").expect("there");
    known.keys.iter().map(|key| key.state).collect()
}

#[tokio::test]
async fn a_device_replaces_its_key_and_the_old_one_ends_with_the_first_login_by_the_new() {
    let world = World::new().await;
    let (old, new) = (world.device("sensor").await, TestDevice::new("sensor"));
    let jwt = old.update(ISSUER, world.now_s(), new.public_key()).sign();
    let updated = update(&world, &jwt, &new.pop(ISSUER, &jwt).sign()).await.expect("updated");
    let wanted =
        KeyUpdated { kid: new.kid(), previous: Some((old.kid(), world.now_s() + DAY_S)), changed: true };
    assert_eq!(updated, wanted);
    let by_old = world.connect("sensor", &old.connect_jwt(BRIDGE, world.now_s()).sign()).await;
    assert!(by_old.is_ok(), "a key in grace may log in");
    assert_eq!(world.watcher.take(), []);

    let assertion = new.assertion(ISSUER, world.now_s()).sign();
    world.login(&assertion).await.expect("by the new key");
    assert_eq!(states(&world, &old).await, [KeyState::Retired, KeyState::Active]);
    let Ok(session) = by_old else { unreachable!("checked above") };
    let ended = SessionsEnd::Key { registry: world.registry.clone(), uid: session.uid, kid: old.kid() };
    assert_eq!(world.watcher.take(), [ended]);
    let refusal = world.login(&old.assertion(ISSUER, world.now_s()).sign()).await.expect_err("retired");
    assert_eq!(refusal.word(), "not-proven");
}

#[tokio::test]
async fn the_first_connection_by_the_new_key_ends_the_grace_and_is_good_itself() {
    let world = World::new().await;
    let (old, new) = (world.device("sensor").await, TestDevice::new("sensor"));
    let jwt = old.update(ISSUER, world.now_s(), new.public_key()).sign();
    update(&world, &jwt, &new.pop(ISSUER, &jwt).sign()).await.expect("updated");
    let session = world.connect("sensor", &new.connect_jwt(BRIDGE, world.now_s()).sign()).await.expect("in");
    assert!(world.admission.still_good(&session));
    assert_eq!(states(&world, &old).await, [KeyState::Retired, KeyState::Active]);
}

#[tokio::test]
async fn a_key_in_grace_ends_by_its_time_and_no_session_or_token_of_it_is_longer() {
    let world = World::new().await;
    let (old, new) = (world.device("sensor").await, TestDevice::new("sensor"));
    let jwt = old.update(ISSUER, world.now_s(), new.public_key()).sign();
    let end_s = world.now_s() + DAY_S;
    update(&world, &jwt, &new.pop(ISSUER, &jwt).sign()).await.expect("updated");
    world.clock.advance_s(DAY_S - 10);
    let session = world.connect("sensor", &old.connect_jwt(BRIDGE, world.now_s()).sign()).await.expect("in");
    assert_eq!(session.ends_ms, Some(end_s * 1000));
    let token = world.login(&old.assertion(ISSUER, world.now_s()).sign()).await.expect("in");
    assert_eq!(token.expires_in_s, 10);
    world.clock.advance_s(10);
    let refusal = world.login(&old.assertion(ISSUER, world.now_s()).sign()).await.expect_err("over");
    assert_eq!(refusal.word(), "not-proven");
}

#[tokio::test]
async fn an_update_whose_answer_was_lost_can_be_repeated_and_changes_nothing() {
    let world = World::new().await;
    let (old, new) = (world.device("sensor").await, TestDevice::new("sensor"));
    let jwt = old.update(ISSUER, world.now_s(), new.public_key()).sign();
    let pop = new.pop(ISSUER, &jwt).sign();
    assert!(update(&world, &jwt, &pop).await.expect("first").changed);
    let previous = Some((old.kid(), world.now_s() + DAY_S));

    let same = update(&world, &jwt, &pop).await.expect("the same bytes");
    assert_eq!(same, KeyUpdated { kid: new.kid(), previous: previous.clone(), changed: false });
    let again = old.update(ISSUER, world.now_s(), new.public_key()).sign();
    let again = update(&world, &again, &new.pop(ISSUER, &again).sign()).await.expect("by the key in grace");
    assert_eq!(again, KeyUpdated { kid: new.kid(), previous, changed: false });
    let by_new = new.update(ISSUER, world.now_s(), new.public_key()).sign();
    let by_new = update(&world, &by_new, &new.pop(ISSUER, &by_new).sign()).await.expect("by the new key");
    assert_eq!(by_new, KeyUpdated { kid: new.kid(), previous: None, changed: false });
    assert_eq!(states(&world, &old).await, [KeyState::Grace, KeyState::Active]);
}

#[tokio::test]
async fn a_key_in_grace_starts_no_other_update() {
    let world = World::new().await;
    let (old, new) = (world.device("sensor").await, TestDevice::new("sensor"));
    let earlier = TestDevice::new("sensor");
    let added =
        world.admission.add_key(&world.registry, &old.name, earlier.public_key(), None, &Actor::Admin);
    assert!(added.await.expect("added").1);
    world.clock.advance_s(10);
    let jwt = old.update(ISSUER, world.now_s(), new.public_key()).sign();
    update(&world, &jwt, &new.pop(ISSUER, &jwt).sign()).await.expect("updated");
    let third = TestDevice::new("sensor");
    let jwt = old.update(ISSUER, world.now_s(), third.public_key()).sign();
    let refusal = update(&world, &jwt, &third.pop(ISSUER, &jwt).sign()).await.expect_err("in grace");
    assert_eq!(refusal, Refusal::KeyInGrace);
    let jwt = old.update(ISSUER, world.now_s(), earlier.public_key()).sign();
    let refusal = update(&world, &jwt, &earlier.pop(ISSUER, &jwt).sign()).await.expect_err("in grace");
    assert_eq!(refusal, Refusal::KeyInGrace, "registered, but not what replaced it");
}

#[tokio::test]
async fn i7_a_jti_of_a_login_is_no_jti_for_an_update_and_the_other_way_round() {
    let world = World::new().await;
    let (old, new) = (world.device("sensor").await, TestDevice::new("sensor"));
    let jti = json!("0123456789abcdef");
    world.login(&old.assertion(ISSUER, world.now_s()).with("jti", jti.clone()).sign()).await.expect("in");
    let jwt = old.update(ISSUER, world.now_s(), new.public_key()).with("jti", jti).sign();
    let refusal = update(&world, &jwt, &new.pop(ISSUER, &jwt).sign()).await.expect_err("used");
    assert_eq!(refusal, Refusal::Replay);

    let jwt =
        old.update(ISSUER, world.now_s(), new.public_key()).with("jti", json!("fedcba9876543210")).sign();
    update(&world, &jwt, &new.pop(ISSUER, &jwt).sign()).await.expect("updated");
    let login = old.assertion(ISSUER, world.now_s()).with("jti", json!("fedcba9876543210")).sign();
    assert_eq!(world.login(&login).await.expect_err("used"), Refusal::Replay);
}

#[tokio::test]
async fn i8_every_proof_of_possession_that_is_not_by_the_new_key_for_this_update_is_refused() {
    let world = World::new().await;
    let (old, new) = (world.device("sensor").await, TestDevice::new("sensor"));
    let jwt = old.update(ISSUER, world.now_s(), new.public_key()).sign();
    let other = old.update(ISSUER, world.now_s(), new.public_key()).sign();
    let good = || new.pop(ISSUER, &jwt);
    let cases = [
        ("missing", String::new()),
        ("by the old key", old.pop(ISSUER, &jwt).sign()),
        ("by the old key, without naming it", old.pop(ISSUER, &jwt).jwk(None).sign()),
        ("by the old key, naming the new", good().sign_by(&old.key)),
        ("for another update", new.pop(ISSUER, &other).sign()),
        ("of another type", good().typ(Some("JWT")).sign()),
        ("of no type", good().typ(None).sign()),
        ("naming another key", good().jwk(Some(old.public_key())).sign()),
        ("with the kid of another key", good().kid(Some(old.kid().as_str())).sign()),
        ("for another audience", new.pop(BRIDGE, &jwt).sign()),
        ("without upd", good().without("upd").sign()),
        ("without jti", good().without("jti").sign()),
        ("without aud", good().without("aud").sign()),
        ("with sub", good().with("sub", json!("sensor")).sign()),
        ("with scope", good().with("scope", json!("x")).sign()),
        ("with exp past", good().with("exp", json!(world.now_s() - LONG_S)).sign()),
        ("the update itself", jwt.clone()),
        ("no JWT", "pop".to_owned()),
    ];
    for (case, pop) in &cases {
        let refusal = update(&world, &jwt, pop).await.expect_err(case);
        assert_eq!(refusal.word(), "invalid-pop", "{case}: {refusal}");
    }
    println!("{} cases of proofs", cases.len());
    assert!(update(&world, &jwt, &good().sign()).await.expect("nothing was used up").changed);
}

#[tokio::test]
async fn every_new_key_that_cannot_be_one_is_refused_without_repeating_it() {
    let world = World::new().await;
    let (old, new) = (world.device("sensor").await, TestDevice::new("sensor"));
    let jwk: Value = serde_json::from_str(&new.public_key().to_jwk_json()).expect("JSON");
    let with = |name: &str, value: Value| {
        let mut changed = jwk.clone();
        changed[name] = value;
        json!({ "jwk": changed })
    };
    let secret = "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LTEyMzQ";
    let cases = [
        ("a private key", with("d", json!(secret)), "invalid-key"),
        ("a symmetric key", json!({ "jwk": { "kty": "oct", "k": secret } }), "invalid-key"),
        (
            "a point off the curve",
            with("y", json!("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")),
            "invalid-key",
        ),
        ("an unknown curve", with("crv", json!("secp256k1")), "invalid-key"),
        ("for encryption", with("use", json!("enc")), "invalid-key"),
        ("no object", json!({ "jwk": "x" }), "invalid-key"),
        ("larger than 2 KiB", with("x5t", json!("x".repeat(2100))), "invalid-key"),
        ("a key by address", json!({ "jku": "https://127.0.0.1/" }), "token-kind"),
        ("a key and more", json!({ "jwk": jwk, "kid": "x" }), "token-kind"),
        ("nothing", json!({}), "token-kind"),
        ("not even an object", json!("x"), "token-kind"),
    ];
    for (case, cnf, word) in &cases {
        let jwt = old.update(ISSUER, world.now_s(), new.public_key()).with("cnf", cnf.clone()).sign();
        let refusal = update(&world, &jwt, &new.pop(ISSUER, &jwt).sign()).await.expect_err(case);
        assert_eq!(refusal.word(), *word, "{case}: {refusal}");
        assert!(!refusal.to_string().contains(secret), "{case} repeats the key");
    }
    println!("{} cases of new keys", cases.len());
}

#[tokio::test]
async fn a_key_of_another_device_or_a_retired_one_is_refused() {
    let world = World::new().await;
    let (device, neighbour) = (world.device("sensor").await, world.device("neighbour").await);
    let jwt = device.update(ISSUER, world.now_s(), neighbour.public_key()).sign();
    let refusal = update(&world, &jwt, &neighbour.pop(ISSUER, &jwt).sign()).await.expect_err("in use");
    assert_eq!(refusal, Refusal::KeyInUse);

    let retired = TestDevice::new("sensor");
    let (admission, registry, actor) = (&world.admission, &world.registry, Actor::Admin);
    admission.add_key(registry, &device.name, retired.public_key(), None, &actor).await.expect("added");
    admission.remove_key(registry, &device.name, &retired.kid(), false, &actor).await.expect("removed");
    let jwt = device.update(ISSUER, world.now_s(), retired.public_key()).sign();
    let refusal = update(&world, &jwt, &retired.pop(ISSUER, &jwt).sign()).await.expect_err("retired");
    assert_eq!(refusal, Refusal::KeyInUse);
}

#[tokio::test]
async fn without_retiring_the_old_key_at_most_five_are_active() {
    let world = World::new().await;
    let device = world.device("sensor").await;
    for wanted in [true, true, true, true, false] {
        let new = TestDevice::new("sensor");
        let jwt = device.update(ISSUER, world.now_s(), new.public_key()).sign();
        let pop = new.pop(ISSUER, &jwt).sign();
        let found = world.admission.update_key(&world.registry, &jwt, &pop, false, Peer::default()).await;
        match found {
            Ok(updated) => assert!(wanted && updated.previous.is_none()),
            Err(refusal) => {
                assert!(!wanted, "{refusal}");
                assert_eq!(refusal, Refusal::TooManyKeys { active_max: 5 });
            }
        }
    }
}

#[tokio::test]
async fn the_legacy_update_takes_its_proof_in_every_form_that_real_devices_send() {
    for algorithm in [Algorithm::Es256, Algorithm::Es384, Algorithm::EdDsa] {
        for form in ["standard", "url-safe", "unpadded", "double hash"] {
            let world = World::new().await;
            let old = world.legacy_device("sensor").await;
            let new = TestDevice::with_algorithm("sensor", algorithm);
            let jwt = old.legacy_update(new.public_key()).sign();
            let pop = new.legacy_pop(&jwt);
            let pop = match form {
                "url-safe" => pop.replace('+', "-").replace('/', "_"),
                "unpadded" => pop.trim_end_matches('=').to_owned(),
                "double hash" => new.legacy_pop_over(&sha256(jwt.as_bytes())),
                _ => pop,
            };
            let updated = legacy_update(&world, &jwt, &pop).await;
            assert!(updated.as_ref().is_ok_and(|updated| updated.changed), "{algorithm} {form}: {updated:?}");
            let same = legacy_update(&world, &jwt, &pop).await.expect("the same bytes once more");
            assert!(!same.changed);
        }
    }
}

#[tokio::test]
async fn every_other_legacy_proof_is_refused() {
    let world = World::new().await;
    let (old, new) = (world.legacy_device("sensor").await, TestDevice::new("sensor"));
    let jwt = old.legacy_update(new.public_key()).sign();
    let other = old.legacy_update(new.public_key()).sign();
    let raw = jwt.rsplit('.').next().expect("a signature").to_owned();
    for (case, pop) in [
        ("missing", String::new()),
        ("by the old key", old.legacy_pop(&jwt)),
        ("for another update", new.legacy_pop(&other)),
        ("with Bearer in front", new.legacy_pop_over(format!("Bearer {jwt}").as_bytes())),
        ("raw r and s", raw),
        ("no base64", "!!!!".to_owned()),
        ("padded too much", format!("{}====", new.legacy_pop(&jwt))),
        ("very long", "A".repeat(5000)),
    ] {
        let refusal = legacy_update(&world, &jwt, &pop).await.expect_err(case);
        assert_eq!(refusal.word(), "invalid-pop", "{case}: {refusal}");
    }
}

#[tokio::test]
async fn the_published_pair_logs_in_once_and_updates_nothing_without_its_proof() {
    let golden: Value =
        serde_json::from_str(include_str!("../../identity/tests/vectors/golden.json")).expect("JSON");
    let text = |name: &str| golden[name].as_str().expect("a text").to_owned();
    let world = World::new().await;
    world.application("backend", &TestDevice::new("backend"), "").await;
    let key = PublicKey::from_jwk(golden["registered_key"].to_string().as_bytes()).expect("a key");
    let name = PrincipalName::parse("test.device.01").expect("a name");
    let mut device = drawbridge_admission::NewDevice::with_key(name, key);
    device.legacy_assertions = true;
    world.admission.add_device(&world.registry, device, &Actor::Admin).await.expect("registered");

    let granted = world.legacy_login(&text("login_jwt")).await.expect("logs in");
    assert_eq!((granted.name.as_str(), granted.expires_in_s), ("test.device.01", 3600));
    assert_eq!(world.legacy_login(&text("login_jwt")).await.expect_err("replayed"), Refusal::Replay);
    world.clock.advance_s(400 * DAY_S);
    let refusal = world.legacy_login(&text("login_jwt")).await.expect_err("a year later");
    assert_eq!(refusal, Refusal::Replay, "without `exp` it is remembered for the life of the key");

    let update = text("update_jwt");
    assert_eq!(world.legacy_login(&update).await.expect_err("an update").word(), "token-kind");
    for pop in ["", "MEUCIQ", &text("login_jwt")] {
        assert_eq!(legacy_update(&world, &update, pop).await.expect_err("no proof").word(), "invalid-pop");
    }
}

#[tokio::test]
async fn i7_another_update_with_a_used_jti_is_refused_even_when_its_key_is_registered() {
    let world = World::new().await;
    let (old, new) = (world.device("sensor").await, TestDevice::new("sensor"));
    let keep_old = async |jwt: &str| {
        let pop = new.pop(ISSUER, jwt).sign();
        world.admission.update_key(&world.registry, jwt, &pop, false, Peer::default()).await
    };
    let draft = old.update(ISSUER, world.now_s(), new.public_key());
    assert!(keep_old(&draft.sign()).await.expect("updated").changed);
    let other = draft.with("note", json!("not the same bytes")).sign();
    assert_eq!(keep_old(&other).await.expect_err("used"), Refusal::Replay);
    let fresh = old.update(ISSUER, world.now_s(), new.public_key()).sign();
    assert!(!keep_old(&fresh).await.expect("a new jti").changed);
    assert_eq!(keep_old(&fresh).await.map(|updated| updated.changed), Ok(false), "the same bytes again");
}

#[tokio::test]
async fn a_blocked_device_updates_no_key() {
    let world = World::new().await;
    let (old, new) = (world.legacy_device("sensor").await, TestDevice::new("sensor"));
    world.admission.block(&world.registry, &old.name, None, &Actor::Admin).await.expect("blocked");
    let jwt = old.update(ISSUER, world.now_s(), new.public_key()).sign();
    let refusal = update(&world, &jwt, &new.pop(ISSUER, &jwt).sign()).await.expect_err("blocked");
    assert_eq!(refusal, Refusal::Blocked);
    let jwt = old.legacy_update(new.public_key()).sign();
    let refusal = legacy_update(&world, &jwt, &new.legacy_pop(&jwt)).await.expect_err("blocked");
    assert_eq!(refusal, Refusal::Blocked);
    assert_eq!(states(&world, &old).await, [KeyState::Active]);
}

/// Takes the device's right to publish away at the moment at which the grace of its old key ends.
struct Meddler {
    admission: drawbridge_admission::Admission,
    registry: drawbridge_names::RegistryName,
}

impl drawbridge_admission::Watcher for Meddler {
    fn ended(&self, event: &SessionsEnd) {
        if !matches!(event, SessionsEnd::Key { .. }) {
            return;
        }
        let policy = drawbridge_names::PolicyName::parse("device").expect("a policy name");
        let mut set = std::pin::pin!(self.admission.set_policy(&self.registry, &policy, "", &Actor::Admin));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let done = std::future::Future::poll(set.as_mut(), &mut context);
        assert!(matches!(done, std::task::Poll::Ready(Ok(_))), "the memory store answers at once");
    }
}

#[tokio::test]
async fn i6_a_policy_changed_while_a_connection_ends_a_grace_is_the_policy_of_its_session() {
    let world = World::new().await;
    let (old, new) = (world.device("sensor").await, TestDevice::new("sensor"));
    let jwt = old.update(ISSUER, world.now_s(), new.public_key()).sign();
    update(&world, &jwt, &new.pop(ISSUER, &jwt).sign()).await.expect("updated");
    let meddler = Meddler { admission: world.admission.clone(), registry: world.registry.clone() };
    world.admission.watch(std::sync::Arc::new(meddler));
    let session = world.connect("sensor", &new.connect_jwt(BRIDGE, world.now_s()).sign()).await;
    assert!(!world.watcher.take().is_empty(), "the grace ended");
    let topic = drawbridge_names::TopicName::parse("devices/sensor/state").expect("a topic");
    // Refused, told to come again, or admitted with what it may now: never with what it might.
    if let Ok(session) = session {
        let may = session.rights.may_publish(topic).allowed;
        assert!(!may || !world.admission.still_good(&session), "rights of a policy that is gone");
    }
}

#[tokio::test]
async fn a_connection_by_a_token_ends_no_grace_since_the_login_that_gave_it_has() {
    let world = World::new().await;
    let (old, new) = (world.device("sensor").await, TestDevice::new("sensor"));
    let token = world.login(&old.assertion(ISSUER, world.now_s()).sign()).await.expect("in").access_token;
    let jwt = old.update(ISSUER, world.now_s(), new.public_key()).sign();
    update(&world, &jwt, &new.pop(ISSUER, &jwt).sign()).await.expect("updated");
    world.connect("sensor", &token).await.expect("by a token of the key in grace");
    assert_eq!(states(&world, &old).await, [KeyState::Grace, KeyState::Active]);
    world.login(&new.assertion(ISSUER, world.now_s()).sign()).await.expect("by the new key");
    assert_eq!(states(&world, &old).await, [KeyState::Retired, KeyState::Active]);
    assert_eq!(world.connect("sensor", &token).await.expect_err("its key is gone").word(), "key-gone");
}

#[tokio::test]
async fn a_device_cannot_make_its_record_grow_without_end() {
    let config = AdmissionConfig { keys_kept_max: 9, ..world::cheap_passwords() };
    let (store, clock) = (Arc::new(MemoryStore::new()), Arc::new(FakeClock::default()));
    let random = Arc::new(SeededRandom::new(1));
    let admission = Admission::open(store, clock.clone(), random, sealer(), config).await.expect("opened");
    let registry = RegistryName::default_registry();
    let new = NewRegistry::named(registry.clone(), Some(ISSUER.to_owned()));
    admission.create_registry(new, &Actor::Admin).await.expect("made");
    let mut key = TestDevice::new("sensor");
    let new = NewDevice::with_key(key.name.clone(), key.public_key().clone());
    admission.add_device(&registry, new, &Actor::Admin).await.expect("added");
    // Replaced five times without a login: five in grace, and no sixth.
    for number in 0..6 {
        let next = TestDevice::new("sensor");
        let jwt = key.update(ISSUER, clock.now_s(), next.public_key()).sign();
        let pop = next.pop(ISSUER, &jwt).sign();
        let updated = admission.update_key(&registry, &jwt, &pop, true, Peer::default()).await;
        match number {
            5 => assert_eq!(updated, Err(Refusal::TooManyKeys { active_max: 5 })),
            _ => {
                updated.expect("replaced");
                key = next;
            }
        }
    }
    // A day later there is room again, until as many were registered as ever may be.
    clock.advance_s(DAY_S + 1);
    for number in 6..12 {
        let next = TestDevice::new("sensor");
        let jwt = key.update(ISSUER, clock.now_s(), next.public_key()).sign();
        let pop = next.pop(ISSUER, &jwt).sign();
        let updated = admission.update_key(&registry, &jwt, &pop, true, Peer::default()).await;
        if number >= 9 {
            assert_eq!(updated, Err(Refusal::KeysSpent { kept_max: 9 }));
            continue;
        }
        updated.expect("replaced");
        let again = admission.update_key(&registry, &jwt, &pop, true, Peer::default()).await;
        assert!(!again.expect("the same once more").changed);
        key = next;
    }
}
