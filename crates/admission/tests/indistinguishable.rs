//! I11: who has no good key learns nothing about devices, and every try costs the server one check.

mod world;

use drawbridge_admission::{Actor, NotProven, Peer, Refusal};
use drawbridge_names::PrincipalName;
use drawbridge_testkit::TestDevice;
use world::{BRIDGE, ISSUER, World};

/// Three tries by a stranger: a device that is not there, one that is, one that is blocked.
async fn strangers() -> (World, Vec<(&'static str, TestDevice)>) {
    let world = World::new().await;
    world.device("known").await;
    world.device("blocked").await;
    let blocked = PrincipalName::parse("blocked").expect("a name");
    world.admission.block(&world.registry, &blocked, None, &Actor::Admin).await.expect("blocked");
    let tries = ["unknown", "known", "blocked"].map(|name| (name, TestDevice::new(name)));
    (world, tries.into())
}

fn is_the_one_answer(refusal: &Refusal) {
    assert!(matches!(refusal, Refusal::NotProven(_)), "{refusal:?}");
    assert_eq!((refusal.code(), refusal.word(), refusal.for_owner()), ("DB-1007", "not-proven", None));
}

#[tokio::test]
async fn i11_unknown_wrong_key_and_blocked_are_one_answer_and_one_check_at_the_token_endpoint() {
    let (world, tries) = strangers().await;
    for (case, stranger) in tries {
        for kid in [None, Some(stranger.public_key().thumbprint()), Some(case)] {
            let before = world.checks();
            let jwt = stranger.assertion(ISSUER, world.now_s()).kid(kid).sign();
            is_the_one_answer(&world.login(&jwt).await.expect_err(case));
            assert_eq!(world.checks() - before, 1, "{case}, kid {kid:?}");
        }
    }
}

#[tokio::test]
async fn i11_unknown_wrong_key_and_blocked_are_one_answer_and_one_check_at_connect() {
    let (world, tries) = strangers().await;
    for (case, stranger) in tries {
        for draft in [
            stranger.connect_jwt(BRIDGE, world.now_s()),
            stranger.connect_jwt(BRIDGE, world.now_s()).without("sub"),
        ] {
            let before = world.checks();
            is_the_one_answer(&world.connect(case, &draft.sign()).await.expect_err(case));
            assert_eq!(world.checks() - before, 1, "{case}");
        }
    }
}

#[tokio::test]
async fn i11_unknown_wrong_key_and_blocked_are_one_answer_and_one_check_at_key_update() {
    let (world, tries) = strangers().await;
    let new = TestDevice::new("new");
    for (case, stranger) in tries {
        let before = world.checks();
        let update = stranger.update(ISSUER, world.now_s(), new.public_key()).sign();
        let pop = new.pop(ISSUER, &update).sign();
        let found = world.admission.update_key(&world.registry, &update, &pop, true, Peer::default()).await;
        is_the_one_answer(&found.expect_err(case));
        assert_eq!(world.checks() - before, 1, "{case}");

        let before = world.checks();
        let update = stranger.legacy_update(new.public_key()).sign();
        let pop = new.legacy_pop(&update);
        let found = world.admission.legacy_update_key(&world.registry, &update, &pop, Peer::default()).await;
        is_the_one_answer(&found.expect_err(case));
        assert_eq!(world.checks() - before, 1, "{case}, legacy");
    }
}

#[tokio::test]
async fn a_device_with_several_keys_costs_at_most_five_checks() {
    let world = World::new().await;
    let device = world.device("sensor").await;
    for _ in 0..4 {
        let key = TestDevice::new("sensor");
        let added =
            world.admission.add_key(&world.registry, &device.name, key.public_key(), None, &Actor::Admin);
        assert!(added.await.expect("added").1);
    }
    let stranger = TestDevice::new("sensor");
    let before = world.checks();
    let jwt = stranger.assertion(ISSUER, world.now_s()).kid(None).sign();
    is_the_one_answer(&world.login(&jwt).await.expect_err("a stranger"));
    assert_eq!(world.checks() - before, 5);
    let before = world.checks();
    let jwt = stranger.assertion(ISSUER, world.now_s()).kid(Some(device.kid().as_str())).sign();
    is_the_one_answer(&world.login(&jwt).await.expect_err("a stranger"));
    assert_eq!(world.checks() - before, 1, "`kid` names one key");
}

#[tokio::test]
async fn with_its_own_key_a_blocked_device_is_told_that_it_is_blocked() {
    let world = World::new().await;
    let device = world.device("sensor").await;
    let (registry, name) = (&world.registry, &device.name);
    world.admission.block(registry, name, None, &Actor::Admin).await.expect("blocked");
    let login = world.login(&device.assertion(ISSUER, world.now_s()).sign()).await.expect_err("blocked");
    let connect = world.connect("sensor", &device.connect_jwt(BRIDGE, world.now_s()).sign()).await;
    for refusal in [login, connect.expect_err("blocked")] {
        assert_eq!(refusal, Refusal::Blocked);
        assert!(refusal.for_owner().expect("told").contains("blocked"));
    }
    world.admission.unblock(registry, name, None, &Actor::Admin).await.expect("unblocked");
    world.login(&device.assertion(ISSUER, world.now_s()).sign()).await.expect("in again");
}

#[tokio::test]
async fn the_log_tells_apart_what_the_peer_must_not() {
    let (world, tries) = strangers().await;
    let mut reasons = Vec::new();
    for (case, stranger) in tries {
        let jwt = stranger.assertion(ISSUER, world.now_s()).sign();
        reasons.push(world.login(&jwt).await.expect_err(case));
    }
    assert_eq!(
        reasons,
        [
            Refusal::NotProven(NotProven::UnknownPrincipal),
            Refusal::NotProven(NotProven::Signature),
            Refusal::NotProven(NotProven::Signature),
        ]
    );
    assert_eq!(reasons.iter().map(Refusal::reason).collect::<Vec<_>>(), ["key", "sig", "sig"]);
    assert_eq!(world.admission.stats().refused.get("not-proven"), Some(&3));
}
