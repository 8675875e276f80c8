//! The life of a key: registered, changed, replaced, removed, revoked, used; and what it has opened.

mod world;

use std::sync::Arc;

use drawbridge_admission::{
    Actor, Admission, AdmissionConfig, AdmissionError, KeyRemoved, NewDevice, NewKey, Peer, Refusal,
    SessionsEnd,
};
use drawbridge_jose::{CertificateKey, PublicKey, SigningKey};
use drawbridge_names::{KeyId, PrincipalName};
use drawbridge_registry::{Key, KeyChange, KeyState, Store as _};
use drawbridge_testkit::{FlakyStore, SeededRandom, TestDevice, sealer};
use serde_json::json;
use world::{BRIDGE, ISSUER, World};

const DAY_S: u64 = 86_400;
const ADMIN: &Actor = &Actor::Admin;

fn dated(key: &PublicKey, not_before_s: Option<u64>, expires_s: Option<u64>) -> NewKey {
    NewKey { not_before_s, expires_s, ..key.clone().into() }
}

async fn key(world: &World, device: &TestDevice, kid: &KeyId) -> Key {
    let known = world.store.known(&world.registry, &device.name).await.expect("read").expect("there");
    known.keys.into_iter().find(|key| key.kid == *kid).expect("a key of it")
}

async fn state(world: &World, device: &TestDevice) -> KeyState {
    key(world, device, &device.kid()).await.state
}

async fn remove(world: &World, jwt: &str, named: Option<&KeyId>) -> Result<KeyRemoved, Refusal> {
    world.admission.remove_own_key(&world.registry, jwt, named, Peer::default()).await
}

/// Which keys' sessions were told to end.
fn ended(world: &World) -> Vec<KeyId> {
    let events = world.watcher.take().into_iter();
    events
        .filter_map(|event| match event {
            SessionsEnd::Key { kid, .. } => Some(kid),
            _ => None,
        })
        .collect()
}

#[tokio::test]
async fn a_key_is_good_from_its_first_second_to_the_one_before_its_end() {
    let world = World::new().await;
    let (device, second) = (world.device("sensor").await, TestDevice::new("sensor"));
    let (from_s, end_s) = (world.now_s() + 100, world.now_s() + 200);
    let new = dated(second.public_key(), Some(from_s), Some(end_s));
    let (key, is_new) =
        world.admission.register_key(&world.registry, &device.name, new, ADMIN).await.expect("registered");
    assert_eq!((key.not_before_s, key.expires_s, is_new), (Some(from_s), Some(end_s), true));
    for (at_s, good) in [(0, false), (99, false), (100, true), (199, true), (200, false)] {
        world.clock.jump_to(from_s - 100 + at_s);
        let found = world.login(&second.assertion(ISSUER, world.now_s()).sign()).await;
        assert_eq!(found.is_ok(), good, "+{at_s} s: {found:?}");
        if let Err(refusal) = found {
            assert_eq!(refusal.word(), "not-proven");
        }
    }
}

#[tokio::test]
async fn dates_that_no_key_can_have_are_refused() {
    let world = World::new().await;
    let device = world.device("sensor").await;
    let now_s = world.now_s();
    for (not_before_s, expires_s) in [
        (None, Some(now_s)),
        (None, Some(0)),
        (Some(now_s + 10), Some(now_s + 10)),
        (Some(now_s + 20), Some(now_s + 10)),
    ] {
        let new = TestDevice::new("sensor");
        let found = world
            .admission
            .register_key(
                &world.registry,
                &device.name,
                dated(new.public_key(), not_before_s, expires_s),
                ADMIN,
            )
            .await;
        assert!(
            matches!(found, Err(AdmissionError::KeyDates(_))),
            "{not_before_s:?} {expires_s:?}: {found:?}"
        );
        let change = KeyChange { label: None, not_before_s: Some(not_before_s), expires_s: Some(expires_s) };
        let found =
            world.admission.change_key(&world.registry, &device.name, &device.kid(), change, ADMIN).await;
        assert!(matches!(found, Err(AdmissionError::KeyDates(_))), "{found:?}");
    }
}

/// A self-signed certificate over this key.
fn certificate(key: &SigningKey, not_after: (i32, u8, u8)) -> CertificateKey {
    let der = key.to_pkcs8_der();
    let pair = rcgen::KeyPair::try_from(der.as_slice()).expect("a key");
    let mut params = rcgen::CertificateParams::new(Vec::new()).expect("no names");
    params.not_before = rcgen::date_time_ymd(2026, 1, 1);
    params.not_after = rcgen::date_time_ymd(not_after.0, not_after.1, not_after.2);
    let certificate = params.self_signed(&pair).expect("signed");
    CertificateKey::from_pem(&certificate.pem()).expect("a certificate")
}

#[tokio::test]
async fn a_certificate_registers_its_key_until_its_own_end() {
    let world = World::new().await;
    let (device, second) = (world.device("sensor").await, TestDevice::new("sensor"));
    let certified = certificate(&second.key, (2027, 1, 1));
    let end_s = 1_798_761_600; // 2027-01-01T00:00:00Z
    assert_eq!((&certified.key, certified.not_after_s), (second.public_key(), end_s));
    let der = certified.der.clone();
    let register = |new: NewKey| world.admission.register_key(&world.registry, &device.name, new, ADMIN);
    let (key, _) = register(certified.into()).await.expect("registered");
    assert_eq!((key.kid, key.expires_s, key.certificate_der), (second.kid(), Some(end_s), Some(der)));
    world.login(&second.assertion(ISSUER, world.now_s()).sign()).await.expect("its key logs in");

    let past = certificate(&TestDevice::new("x").key, (2026, 2, 1));
    assert!(matches!(register(past.clone().into()).await, Err(AdmissionError::KeyDates(_))));
    register(NewKey { expires_s: None, ..past.into() }).await.expect("told otherwise");
    let endless = NewKey::from(certificate(&TestDevice::new("x").key, (9999, 12, 31)));
    assert_eq!(
        endless.expires_s.map(|end_s| end_s / DAY_S),
        Some(253_402_300_799 / DAY_S),
        "midnight is an end"
    );
}

/// Everything through which a public key comes in, and a key that is another's.
#[tokio::test]
async fn a_key_of_one_is_refused_for_another_at_every_door_also_when_it_is_retired() {
    for retired in [false, true] {
        let world = World::new().await;
        let (owner, thief) = (world.legacy_device("owner").await, world.legacy_device("thief").await);
        let taken = TestDevice::new("thief");
        let (registry, admission) = (&world.registry, &world.admission);
        admission.add_key(registry, &owner.name, taken.public_key(), None, ADMIN).await.expect("added");
        if retired {
            admission.remove_key(registry, &owner.name, &taken.kid(), false, ADMIN).await.expect("retired");
        }
        let in_use = |found: Result<(), AdmissionError>, door: &str| {
            assert!(
                matches!(&found, Err(AdmissionError::KeyInUse(kid)) if *kid == taken.kid()),
                "{door}: {found:?}"
            );
        };
        let public = taken.public_key().clone();
        let added = admission.add_key(registry, &thief.name, &public, None, ADMIN).await;
        in_use(added.map(|_| ()), "add");
        let certified = certificate(&taken.key, (2030, 1, 1));
        let added = admission.register_key(registry, &thief.name, certified.clone().into(), ADMIN).await;
        in_use(added.map(|_| ()), "add by certificate");
        let replaced = admission
            .replace_key(registry, &thief.name, &thief.kid(), public.clone().into(), None, ADMIN)
            .await;
        in_use(replaced.map(|_| ()), "replace");
        let name = PrincipalName::parse("third").expect("a name");
        let new = NewDevice::with_key(name.clone(), public.clone());
        in_use(admission.add_device(registry, new, ADMIN).await.map(|_| ()), "a new device");
        let new = drawbridge_admission::NewApplication {
            name: name.clone(),
            keys: vec![certified.into()],
            policy: None,
        };
        in_use(admission.add_application(registry, new, ADMIN).await.map(|_| ()), "a new application");
        assert_eq!(admission.show(registry, &name).await.expect("read"), None);

        let update = thief.update(ISSUER, world.now_s(), &public).sign();
        let pop = taken.pop(ISSUER, &update).sign();
        let found = admission.update_key(registry, &update, &pop, true, Peer::default()).await;
        assert_eq!(found.expect_err("update"), Refusal::KeyInUse);
        let update = thief.legacy_update(&public).sign();
        let pop = taken.legacy_pop(&update);
        let found = admission.legacy_update_key(registry, &update, &pop, Peer::default()).await;
        assert_eq!(found.expect_err("legacy update"), Refusal::KeyInUse);
        assert_eq!(state(&world, &thief).await, KeyState::Active, "nothing was replaced");

        if retired {
            // Nor does its own owner get it back.
            let added = admission.add_key(registry, &owner.name, &public, None, ADMIN).await;
            in_use(added.map(|_| ()), "its owner");
        }
    }
}

#[tokio::test]
async fn an_operator_replaces_a_key_with_a_grace_or_at_once() {
    let config_grace = u64::from(AdmissionConfig::default().key_grace_s);
    for (grace_s, lasts_s) in [(None, config_grace), (Some(600), 600), (Some(0), 0)] {
        let world = World::new().await;
        let (old, new) = (world.device("sensor").await, TestDevice::new("sensor"));
        let session =
            world.connect("sensor", &old.connect_jwt(BRIDGE, world.now_s()).sign()).await.expect("in");
        let old_kid = old.kid();
        let replace = || {
            let new = new.public_key().clone().into();
            world.admission.replace_key(&world.registry, &old.name, &old_kid, new, grace_s, ADMIN)
        };
        let replaced = replace().await.expect("replaced");
        let end_s = world.now_s() + lasts_s;
        assert_eq!((replaced.key.kid, replaced.old_expires_s, replaced.changed), (new.kid(), end_s, true));
        let by_old = world.login(&old.assertion(ISSUER, world.now_s()).sign()).await;
        assert_eq!(by_old.is_ok(), lasts_s > 0, "{grace_s:?}");
        assert_eq!(ended(&world), if lasts_s == 0 { vec![old.kid()] } else { vec![] });
        assert!(!world.admission.still_good(&session), "its owner has changed");
        let again = replace().await.expect("again");
        assert_eq!((again.changed, again.old_expires_s), (false, end_s));
        world.login(&new.assertion(ISSUER, world.now_s()).sign()).await.expect("the new one");
        assert_eq!(
            state(&world, &old).await,
            KeyState::Retired,
            "the first login with the new one ends the grace"
        );
    }
}

#[tokio::test]
async fn a_replacement_that_cannot_be_is_refused_and_changes_nothing() {
    let world = World::new().await;
    let (old, new) = (world.device("sensor").await, TestDevice::new("sensor"));
    let replace = |kid: KeyId, grace_s| {
        let new = new.public_key().clone().into();
        let (admission, registry, name) = (&world.admission, &world.registry, &old.name);
        async move { admission.replace_key(registry, name, &kid, new, grace_s, ADMIN).await }
    };
    let too_long = replace(old.kid(), Some(86_401)).await;
    assert!(matches!(too_long, Err(AdmissionError::KeyDates(_))), "{too_long:?}");
    let unknown = replace(TestDevice::new("x").kid(), None).await;
    assert!(matches!(unknown, Err(AdmissionError::NoKey(_))), "{unknown:?}");
    assert_eq!(state(&world, &old).await, KeyState::Active);
    let itself = world
        .admission
        .replace_key(&world.registry, &old.name, &old.kid(), old.public_key().clone().into(), Some(0), ADMIN)
        .await;
    assert!(matches!(itself, Err(AdmissionError::KeyInUse(_))), "{itself:?}");
    assert_eq!(state(&world, &old).await, KeyState::Active);
}

#[tokio::test]
async fn what_a_key_has_opened_ends_with_the_end_that_the_key_is_given_later() {
    // By a replacement by the device, by one by the operator, and by a nearer end.
    for (how, lasts_s) in [("device", DAY_S), ("operator", 600), ("change", 300)] {
        let world = World::new().await;
        let (old, new) = (world.device("sensor").await, TestDevice::new("sensor"));
        world.connect("sensor", &old.connect_jwt(BRIDGE, world.now_s()).sign()).await.expect("in");
        let (registry, admission) = (&world.registry, &world.admission);
        match how {
            "device" => {
                let update = old.update(ISSUER, world.now_s(), new.public_key()).sign();
                let pop = new.pop(ISSUER, &update).sign();
                admission.update_key(registry, &update, &pop, true, Peer::default()).await.expect("updated");
            }
            "operator" => {
                let new = new.public_key().clone().into();
                let grace_s = Some(600);
                admission
                    .replace_key(registry, &old.name, &old.kid(), new, grace_s, ADMIN)
                    .await
                    .expect("replaced");
            }
            _ => {
                let change = KeyChange { expires_s: Some(Some(world.now_s() + 300)), ..KeyChange::default() };
                admission.change_key(registry, &old.name, &old.kid(), change, ADMIN).await.expect("changed");
            }
        }
        world.clock.advance_s(lasts_s - 1);
        admission.maintain_keys().await;
        assert_eq!(ended(&world), [], "{how}: a second too early");
        world.clock.advance_s(1);
        admission.maintain_keys().await;
        assert_eq!(ended(&world), [old.kid()], "{how}");
        admission.maintain_keys().await;
        assert_eq!(ended(&world), [], "{how}: once");
    }
}

#[tokio::test]
async fn a_key_whose_end_was_put_off_keeps_its_sessions_until_the_later_end() {
    let world = World::new().await;
    let device = world.device("sensor").await;
    let end = |expires_s: Option<u64>| {
        let change = KeyChange { expires_s: Some(expires_s), ..KeyChange::default() };
        let (admission, registry, name, kid) =
            (&world.admission, &world.registry, &device.name, device.kid());
        async move { admission.change_key(registry, name, &kid, change, ADMIN).await.expect("changed") }
    };
    let start_s = world.now_s();
    end(Some(start_s + 100)).await;
    end(Some(start_s + 500)).await;
    world.clock.advance_s(100);
    world.admission.maintain_keys().await;
    assert_eq!(ended(&world), []);
    end(None).await;
    world.clock.advance_s(400);
    world.admission.maintain_keys().await;
    assert_eq!(ended(&world), [], "it has no end any more");
}

#[tokio::test]
async fn a_change_leaves_what_it_does_not_name_and_a_grace_is_never_made_longer() {
    let world = World::new().await;
    let (old, new) = (world.device("sensor").await, TestDevice::new("sensor"));
    let change = |kid: KeyId, change: KeyChange| {
        let (admission, registry, name) = (&world.admission, &world.registry, &old.name);
        async move { admission.change_key(registry, name, &kid, change, ADMIN).await }
    };
    let far_s = world.now_s() + 90 * DAY_S;
    let label = |text: &str| KeyChange { label: Some(Some(text.into())), ..KeyChange::default() };
    let until = |end_s: Option<u64>| KeyChange { expires_s: Some(end_s), ..KeyChange::default() };
    change(old.kid(), until(Some(far_s))).await.expect("an end");
    let key = change(old.kid(), label("factory")).await.expect("a label");
    assert_eq!((key.label.as_deref(), key.expires_s), (Some("factory"), Some(far_s)));
    assert!(matches!(change(old.kid(), label("")).await, Err(AdmissionError::Label)));
    let unknown = change(new.kid(), label("x")).await;
    assert!(matches!(unknown, Err(AdmissionError::NoKey(_))), "{unknown:?}");

    let update = old.update(ISSUER, world.now_s(), new.public_key()).sign();
    let pop = new.pop(ISSUER, &update).sign();
    world.admission.update_key(&world.registry, &update, &pop, true, Peer::default()).await.expect("updated");
    let grace_end_s = world.now_s() + DAY_S;
    for longer in [None, Some(grace_end_s + 1)] {
        let found = change(old.kid(), until(longer)).await;
        assert!(matches!(found, Err(AdmissionError::KeyDates(_))), "{longer:?}: {found:?}");
    }
    change(old.kid(), until(Some(grace_end_s - 10))).await.expect("shorter");

    world.login(&new.assertion(ISSUER, world.now_s()).sign()).await.expect("ends the grace");
    let retired = change(old.kid(), label("again")).await;
    assert!(matches!(retired, Err(AdmissionError::NoKey(_))), "{retired:?}");
}

#[tokio::test]
async fn a_key_that_is_to_begin_later_ends_what_it_has_opened() {
    let world = World::new().await;
    let device = world.device("sensor").await;
    let token = world.token(&device, None).await;
    let change = KeyChange { not_before_s: Some(Some(world.now_s() + 60)), ..KeyChange::default() };
    world
        .admission
        .change_key(&world.registry, &device.name, &device.kid(), change, ADMIN)
        .await
        .expect("changed");
    assert_eq!(ended(&world), [device.kid()]);
    assert_eq!(world.connect("sensor", &token).await.expect_err("its token").word(), "key-gone");
}

#[tokio::test]
async fn a_compromised_key_takes_everything_with_it_also_the_last_one() {
    let world = World::new().await;
    let (device, other) = (world.device("sensor").await, TestDevice::new("sensor"));
    let (registry, admission) = (&world.registry, &world.admission);
    admission.add_key(registry, &device.name, other.public_key(), None, ADMIN).await.expect("added");
    let by_other =
        world.login(&other.assertion(ISSUER, world.now_s()).sign()).await.expect("in").access_token;
    world.watcher.take();
    let revoke = |kid: KeyId| async move {
        admission
            .revoke_key(
                registry,
                &PrincipalName::parse("sensor").expect("a name"),
                &kid,
                "compromised",
                ADMIN,
            )
            .await
    };
    let revoked = revoke(device.kid()).await.expect("revoked");
    assert_eq!((revoked.epoch.0, revoked.not_before_s), (1, world.now_s()));
    let events = world.watcher.take();
    assert!(
        matches!(&events[..], [SessionsEnd::Key { kid, .. }, SessionsEnd::Principal { .. }] if *kid == device.kid()),
        "{events:?}"
    );
    assert_eq!(state(&world, &device).await, KeyState::Retired);
    assert_eq!(world.connect("sensor", &by_other).await.expect_err("of the old epoch"), Refusal::Revoked);
    world.clock.advance_s(1);
    let by_stolen = world.login(&device.assertion(ISSUER, world.now_s()).sign()).await;
    assert_eq!(by_stolen.expect_err("retired").word(), "not-proven");
    world.login(&other.assertion(ISSUER, world.now_s()).sign()).await.expect("the other key goes on");

    let again = revoke(device.kid()).await.expect("again, after an answer that was lost");
    assert_eq!(again.epoch.0, 2);
    revoke(other.kid()).await.expect("the last one as well");
    assert_eq!(state(&world, &device).await, KeyState::Retired);
    let unknown = revoke(TestDevice::new("x").kid()).await;
    assert!(matches!(unknown, Err(AdmissionError::NoKey(_))), "{unknown:?}");
    let audit = world.store.audit_tail(registry, None, 10).await.expect("read");
    let row = audit.iter().find(|row| row.entry.action == "key.revoke").expect("a row");
    assert!(
        row.entry.detail.contains("compromised") && row.entry.detail.contains(other.kid().as_str()),
        "{row:?}"
    );
}

#[tokio::test]
async fn a_device_removes_its_own_keys_but_the_last() {
    let world = World::new().await;
    let (first, second) = (world.device("sensor").await, TestDevice::new("sensor"));
    world
        .admission
        .add_key(&world.registry, &first.name, second.public_key(), None, ADMIN)
        .await
        .expect("added");
    world.watcher.take();
    let jwt = first.removal(ISSUER, world.now_s(), &second.kid()).sign();
    let removed = remove(&world, &jwt, Some(&second.kid())).await.expect("removed");
    assert_eq!(removed, KeyRemoved { kid: second.kid(), changed: true });
    assert_eq!(ended(&world), [second.kid()]);
    assert_eq!(remove(&world, &jwt, None).await.expect_err("the same JWT"), Refusal::Replay);
    let again = first.removal(ISSUER, world.now_s(), &second.kid()).sign();
    let again = remove(&world, &again, None).await.expect("its answer was lost");
    assert_eq!(again, KeyRemoved { kid: second.kid(), changed: false });
    let itself = first.removal(ISSUER, world.now_s(), &first.kid()).sign();
    assert_eq!(remove(&world, &itself, None).await.expect_err("the last"), Refusal::LastKey);

    let third = TestDevice::new("sensor");
    world
        .admission
        .add_key(&world.registry, &first.name, third.public_key(), None, ADMIN)
        .await
        .expect("added");
    let itself = first.removal(ISSUER, world.now_s(), &first.kid()).sign();
    assert!(remove(&world, &itself, None).await.expect("it has a successor").changed);
    world.login(&third.assertion(ISSUER, world.now_s()).sign()).await.expect("the one that is left");
}

#[tokio::test]
async fn a_removal_that_is_not_quite_one_is_refused() {
    let world = World::new().await;
    let (first, second) = (world.device("sensor").await, TestDevice::new("sensor"));
    let other = world.device("other").await;
    world
        .admission
        .add_key(&world.registry, &first.name, second.public_key(), None, ADMIN)
        .await
        .expect("added");
    let now_s = world.now_s();
    let good = || first.removal(ISSUER, now_s, &second.kid());
    let cases = [
        ("nothing", String::new(), None, "no-credential"),
        ("a client assertion", good().typ(Some("client-authentication+jwt")).sign(), None, "token-type"),
        ("no type", good().typ(None).sign(), None, "token-type"),
        ("type JWT", good().typ(Some("JWT")).sign(), None, "token-type"),
        ("a key update", good().typ(Some("key-update+jwt")).sign(), None, "token-type"),
        ("without kid", good().without("kid").sign(), None, "token-kind"),
        ("kid a number", good().with("kid", json!(7)).sign(), None, "token-kind"),
        ("kid no thumbprint", good().with("kid", json!("factory")).sign(), None, "token-kind"),
        ("with cnf", good().with("cnf", json!({})).sign(), None, "token-kind"),
        ("with upd", good().with("upd", json!("x")).sign(), None, "token-kind"),
        ("aud the bridge", good().with("aud", json!(BRIDGE)).sign(), None, "audience"),
        ("without exp", good().without("exp").sign(), None, "time"),
        ("without jti", good().without("jti").sign(), None, "jti"),
        ("by a stranger", good().sign_by(&TestDevice::new("x").key), None, "not-proven"),
        ("by another device", good().kid(None).sign_by(&other.key), None, "not-proven"),
        ("of another path", good().sign(), Some(first.kid()), "token-kind"),
        ("of a key of another", first.removal(ISSUER, now_s, &other.kid()).sign(), None, "key-not-found"),
        (
            "of an unknown key",
            first.removal(ISSUER, now_s, &TestDevice::new("x").kid()).sign(),
            None,
            "key-not-found",
        ),
    ];
    for (case, jwt, named, wanted) in cases {
        let found = remove(&world, &jwt, named.as_ref()).await.expect_err(case);
        assert_eq!(found.word(), wanted, "{case}: {found}");
    }
    assert_eq!(key(&world, &first, &second.kid()).await.state, KeyState::Active);
    // It is no JWT of another kind either.
    let jwt = good().sign();
    assert_eq!(world.login(&jwt).await.expect_err("no login").word(), "token-type");
    assert_eq!(world.connect("sensor", &jwt).await.expect_err("no connection").word(), "token-type");
    let updated = world.admission.update_key(&world.registry, &jwt, "x", true, Peer::default()).await;
    assert_eq!(updated.expect_err("no update").word(), "token-type");
    remove(&world, &jwt, Some(&second.kid())).await.expect("it was good all the time");
}

#[tokio::test]
async fn a_key_in_grace_removes_nothing_and_a_blocked_device_neither() {
    let world = World::new().await;
    let (old, new) = (world.device("sensor").await, TestDevice::new("sensor"));
    let update = old.update(ISSUER, world.now_s(), new.public_key()).sign();
    let pop = new.pop(ISSUER, &update).sign();
    world.admission.update_key(&world.registry, &update, &pop, true, Peer::default()).await.expect("updated");
    let by_old = old.removal(ISSUER, world.now_s(), &new.kid()).sign();
    assert_eq!(remove(&world, &by_old, None).await.expect_err("in grace"), Refusal::KeyInGrace);
    let last = new.removal(ISSUER, world.now_s(), &new.kid()).sign();
    assert_eq!(
        remove(&world, &last, None).await.expect_err("a key in grace does not count"),
        Refusal::LastKey
    );
    let of_old = new.removal(ISSUER, world.now_s(), &old.kid()).sign();
    world.admission.block(&world.registry, &old.name, None, ADMIN).await.expect("blocked");
    assert_eq!(remove(&world, &of_old, None).await.expect_err("blocked"), Refusal::Blocked);
    world.admission.unblock(&world.registry, &old.name, None, ADMIN).await.expect("unblocked");
    assert!(remove(&world, &of_old, None).await.expect("the compromised key goes without grace").changed);
    assert_eq!(state(&world, &old).await, KeyState::Retired);
}

#[tokio::test]
async fn a_key_that_cannot_be_used_now_is_no_reason_to_remove_the_one_that_can() {
    let world = World::new().await;
    let (device, later) = (world.device("sensor").await, TestDevice::new("sensor"));
    let new = dated(later.public_key(), Some(world.now_s() + 1000), None);
    world.admission.register_key(&world.registry, &device.name, new, ADMIN).await.expect("registered");
    let jwt = device.removal(ISSUER, world.now_s(), &device.kid()).sign();
    assert_eq!(remove(&world, &jwt, None).await.expect_err("stranded"), Refusal::LastKey);
}

#[tokio::test]
async fn the_last_use_of_a_key_is_seen_at_once_and_stored_later() {
    let world = World::new().await;
    let (device, unused) = (world.device("sensor").await, TestDevice::new("sensor"));
    let (registry, admission) = (&world.registry, &world.admission);
    admission.add_key(registry, &device.name, unused.public_key(), None, ADMIN).await.expect("added");
    let seen = || async {
        let known = admission.show(registry, &device.name).await.expect("read").expect("there");
        let of = |kid: KeyId| known.keys.iter().find(|key| key.kid == kid).expect("there").last_used_s;
        (of(device.kid()), of(unused.kid()))
    };
    assert_eq!(seen().await, (None, None));
    let minute = |at_s: u64| Some(at_s / 60 * 60);
    let first_s = world.now_s();
    world.login(&device.assertion(ISSUER, first_s).sign()).await.expect("in");
    assert_eq!(seen().await, (minute(first_s), None));
    assert_eq!(key(&world, &device, &device.kid()).await.last_used_s, None, "not stored yet");
    admission.maintain_last_used().await;
    assert_eq!(key(&world, &device, &device.kid()).await.last_used_s, minute(first_s));
    assert_eq!(seen().await, (minute(first_s), None));
    world.clock.advance_s(3600);
    world.connect("sensor", &device.connect_jwt(BRIDGE, world.now_s()).sign()).await.expect("in");
    assert_eq!(seen().await, (minute(first_s + 3600), None), "the newer of the two");
    let refused = world.login(&device.assertion(ISSUER, world.now_s()).sign_by(&unused.key)).await;
    assert!(refused.is_err() && seen().await.1.is_none(), "only who is proven has used a key");
}

#[tokio::test]
async fn a_last_use_that_cannot_be_stored_is_stored_the_next_time() {
    let world = World::new().await;
    let store = Arc::new(FlakyStore::default());
    let random = Arc::new(SeededRandom::new(3));
    let opened =
        Admission::open(store.clone(), world.clock.clone(), random, sealer(), AdmissionConfig::default());
    let admission = opened.await.expect("opened");
    let new = drawbridge_admission::NewRegistry::named(world.registry.clone(), Some(ISSUER.to_owned()));
    admission.create_registry(new, ADMIN).await.expect("made");
    let world = World { admission, ..world };
    let device = world.device("sensor").await;
    world.login(&device.assertion(ISSUER, world.now_s()).sign()).await.expect("in");
    store.set_down(true);
    world.admission.maintain_last_used().await;
    store.set_down(false);
    world.admission.maintain_last_used().await;
    let known = store.known(&world.registry, &device.name).await.expect("read").expect("there");
    assert_eq!(known.keys[0].last_used_s, Some(world.now_s() / 60 * 60));
}

#[tokio::test]
async fn half_of_the_jti_without_end_is_a_warning_and_all_of_them_the_end_of_the_key() {
    let world = World::new().await;
    let settings = AdmissionConfig { legacy_jti_max: 4, ..AdmissionConfig::default() };
    let (store, random) = (world.store.clone(), Arc::new(SeededRandom::new(5)));
    let opened = Admission::open(store, world.clock.clone(), random, sealer(), settings).await;
    let world = World { admission: opened.expect("opened"), ..world };
    let device = world.legacy_device("sensor").await;
    world.application("backend", &TestDevice::new("backend"), "").await;
    let warned = || async {
        let known = world.admission.show(&world.registry, &device.name).await.expect("read").expect("there");
        let warnings = world.admission.key_warnings(&known).await.expect("read");
        warnings.into_iter().map(|warning| (warning.word, warning.kid)).collect::<Vec<_>>()
    };
    let weakness = ("legacy-assertions", None);
    let of_key = |word| vec![weakness.clone(), (word, Some(device.kid()))];
    for (logins, wanted) in [
        (1, vec![weakness.clone()]),
        (2, of_key("jti-half-used")),
        (3, of_key("jti-half-used")),
        (4, of_key("jti-exhausted")),
    ] {
        world.legacy_login(&device.legacy_login().sign()).await.expect("in");
        assert_eq!(warned().await, wanted, "{logins}");
    }
    let refusal = world.legacy_login(&device.legacy_login().sign()).await.expect_err("the fifth");
    assert_eq!((refusal.word(), refusal.for_owner().is_some()), ("key-exhausted", true));
    let new = TestDevice::new("sensor");
    let update = device.legacy_update(new.public_key()).sign();
    let pop = new.legacy_pop(&update);
    world
        .admission
        .legacy_update_key(&world.registry, &update, &pop, Peer::default())
        .await
        .expect("the way out");
    world.legacy_login(&new.legacy_login().sign()).await.expect("the new key begins anew");
    assert_eq!(warned().await, [weakness]);
}

#[tokio::test]
async fn a_key_near_its_end_and_a_principal_without_a_usable_key_are_warned_of() {
    let world = World::new().await;
    let device = world.device("sensor").await;
    let warned = || async {
        let known = world.admission.show(&world.registry, &device.name).await.expect("read").expect("there");
        let warnings = world.admission.key_warnings(&known).await.expect("read");
        warnings.into_iter().map(|warning| warning.word).collect::<Vec<_>>()
    };
    let end_s = world.now_s() + 31 * DAY_S;
    let change = KeyChange { expires_s: Some(Some(end_s)), ..KeyChange::default() };
    world
        .admission
        .change_key(&world.registry, &device.name, &device.kid(), change, ADMIN)
        .await
        .expect("changed");
    assert_eq!(warned().await, Vec::<&str>::new());
    world.clock.advance_s(2 * DAY_S);
    assert_eq!(warned().await, ["key-expires-soon"]);
    world.clock.advance_s(29 * DAY_S);
    assert_eq!(warned().await, ["no-usable-key"]);
}
