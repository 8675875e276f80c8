//! I11: who has no good key learns nothing about devices, and every try costs the server one check.

mod world;

use drawbridge_admission::{
    Actor, BindingRequest, ClientCredential, ExchangeRequest, NewEnrolment, NotProven, Peer, Permission,
    Refusal, RegisterRequest, TokenRequest,
};
use drawbridge_identity::NoncePurpose;
use drawbridge_jose::{base64url_encode, sha256};
use drawbridge_names::{PrincipalName, RegistryName};
use drawbridge_registry::EnrolmentNames;
use drawbridge_testkit::TestDevice;
use serde_json::json;
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
async fn i11_unknown_wrong_key_and_blocked_are_one_answer_and_one_check_at_introspection_and_revocation() {
    let (world, tries) = strangers().await;
    let known = TestDevice::new("other");
    world.register(&known, false).await;
    for token in [world.token(&known, None).await, "dbo_nothing".to_owned()] {
        for (case, stranger) in &tries {
            for revoke in [false, true] {
                let before = world.checks();
                let assertion = stranger.assertion(ISSUER, world.now_s()).sign();
                let credential = ClientCredential::Assertion(&assertion);
                let request =
                    TokenRequest { credential, client_id: None, token: &token, peer: Peer::default() };
                let found = match revoke {
                    false => world.admission.introspect(&world.registry, request).await.map(drop),
                    true => world.admission.revoke_token(&world.registry, request).await,
                };
                is_the_one_answer(&found.expect_err(case));
                assert_eq!(world.checks() - before, 1, "{case}, revoke {revoke}");
            }
        }
    }
}

#[tokio::test]
async fn i11_unknown_wrong_key_and_blocked_are_one_answer_and_one_check_at_token_exchange() {
    let (world, tries) = strangers().await;
    let other = world.device("other").await;
    let token = world.token(&other, None).await;
    for (case, stranger) in tries {
        for actor_token in [None, Some(token.as_str())] {
            let before = world.checks();
            let assertion = stranger.assertion(ISSUER, world.now_s()).sign();
            let request = ExchangeRequest {
                credential: ClientCredential::Assertion(&assertion),
                client_id: None,
                subject_token: &token,
                actor_token,
                device: Some("other"),
                audience: None,
                resource: None,
                scope: None,
                binding: BindingRequest::default(),
                peer: Peer::default(),
            };
            is_the_one_answer(&world.admission.exchange(&world.registry, request).await.expect_err(case));
            assert_eq!(world.checks() - before, 1, "{case}");
        }
    }
}

#[tokio::test]
async fn i11_unknown_wrong_key_and_blocked_are_one_answer_and_one_check_at_key_removal() {
    let (world, tries) = strangers().await;
    for (case, stranger) in tries {
        for kid in [stranger.kid(), TestDevice::new("another").kid()] {
            let before = world.checks();
            let removal = stranger.removal(ISSUER, world.now_s(), &kid).sign();
            let found = world.admission.remove_own_key(&world.registry, &removal, None, Peer::default());
            is_the_one_answer(&found.await.expect_err(case));
            assert_eq!(world.checks() - before, 1, "{case}");
        }
    }
}

#[tokio::test]
async fn i11_unknown_wrong_key_and_blocked_are_one_answer_and_one_check_on_the_iot_idp_paths() {
    let (world, tries) = strangers().await;
    for (case, stranger) in tries {
        let before = world.checks();
        is_the_one_answer(&world.legacy_login(&stranger.legacy_login().sign()).await.expect_err(case));
        assert_eq!(world.checks() - before, 1, "{case}");
    }
    // A renewal names nobody: what is no token of ours costs nothing, whatever it looks like.
    let before = world.checks();
    let opaque = format!("dbo_{}", "A".repeat(49));
    for token in [opaque.as_str(), "dbo_", "eyJhbGciOiJFUzI1NiJ9.e30.AAAA"] {
        let found =
            world.admission.renew(&world.registry, token, Some("backend"), None, Peer::default()).await;
        is_the_one_answer(&found.map(drop).expect_err(token));
    }
    assert_eq!(world.checks(), before);
}

/// With a good enrolment token, but without the key: a name that is free, one that is taken, a blocked one.
#[tokio::test]
async fn i11_a_registration_without_the_key_learns_no_names_and_costs_one_check() {
    let (world, tries) = strangers().await;
    let ids = tries.iter().map(|(_, stranger)| stranger.name.to_string()).collect();
    let new = NewEnrolment { count: Some(9), ..NewEnrolment::of(EnrolmentNames::Ids(ids)) };
    let made = world.admission.create_enrolment(&world.registry, new, &Actor::Admin).await.expect("made");
    for (case, stranger) in &tries {
        let thief = TestDevice::new(case);
        let before = world.checks();
        let found = register(&world, &made.1, stranger, &thief).await;
        assert_eq!(found.expect_err(case).code(), "DB-1023", "{case}");
        assert_eq!(world.checks() - before, 1, "{case}");

        // With a token that is nobody's nothing is checked at all.
        let before = world.checks();
        let nobody_s = format!("dbe_{}", "A".repeat(49));
        is_the_one_answer(&register(&world, &nobody_s, stranger, stranger).await.expect_err(case));
        assert_eq!(world.checks(), before, "{case}");

        // Nor with a registration access token that is nobody's.
        let nobody_s = format!("dbr_{}", "A".repeat(49));
        let (registry, peer) = (&world.registry, Peer::default());
        let found = world.admission.registration(registry, &stranger.name, &nobody_s, peer).await;
        is_the_one_answer(&found.map(drop).expect_err(case));
        assert_eq!(world.checks(), before, "{case}");
    }
}

/// Asks for the registration of `device` with its key, proven by the key of `signer`.
async fn register(
    world: &World,
    token: &str,
    device: &TestDevice,
    signer: &TestDevice,
) -> Result<(), Refusal> {
    let registry: &RegistryName = &world.registry;
    let nonce = world.admission.challenge(registry, NoncePurpose::Enrolment).expect("a nonce").nonce;
    let claims = json!({
        "aud": ISSUER, "sub": device.name.as_str(), "nonce": nonce,
        "eth": base64url_encode(&sha256(token.as_bytes())),
    });
    let proof = signer.draft(Some("enrolment-proof+jwt"), claims).sign();
    let jwk = device.public_key().to_jwk_json();
    let request = RegisterRequest {
        permission: Permission::Token(token),
        name: Some(device.name.as_str()),
        keys: &[&jwk],
        proofs: &[&proof],
        peer: Peer::default(),
    };
    world.admission.register(registry, request).await.map(drop)
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
