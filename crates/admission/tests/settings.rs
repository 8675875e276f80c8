//! What an operator sets of a principal counts for what it has already, too.

mod world;

use drawbridge_admission::{
    Actor, Audience, ClientCredential, EndReason, Peer, Refusal, SessionsEnd, TokenRequest,
};
use drawbridge_registry::{CertificateSubject, PrincipalSettings, Store as _};
use drawbridge_testkit::TestDevice;
use world::{ISSUER, World};

async fn set(world: &World, device: &TestDevice, settings: PrincipalSettings) {
    let set = world.admission.set_settings(&world.registry, &device.name, settings, None, &Actor::Admin);
    set.await.map(drop).expect("set");
}

async fn is_active(world: &World, device: &TestDevice, token: &str) -> bool {
    let assertion = device.assertion(ISSUER, world.now_s()).sign();
    let credential = ClientCredential::Assertion(&assertion);
    let question = TokenRequest { credential, client_id: None, token, peer: Peer::default() };
    world.admission.introspect(&world.registry, question).await.expect("told").body["active"] == true
}

#[tokio::test]
async fn a_token_that_is_bound_to_nothing_dies_when_its_principal_is_to_have_bound_ones_only() {
    let world = World::new().await;
    let lamp = world.device("lamp").await;
    let token = world.token(&lamp, None).await;
    let bearer =
        async |audience| world.admission.bearer(None, &token, audience, Peer::default()).await.map(drop);
    bearer(Audience::Bridge).await.expect("good so far");
    assert!(is_active(&world, &lamp, &token).await);
    world.connect("lamp", &token).await.expect("good so far");
    world.watcher.take();

    set(&world, &lamp, PrincipalSettings { bound_tokens: true, ..PrincipalSettings::default() }).await;
    for found in [
        bearer(Audience::Bridge).await,
        bearer(Audience::SelfRead).await,
        world.connect("lamp", &token).await.map(drop),
    ] {
        assert!(matches!(found, Err(Refusal::Binding(_))), "{found:?}");
    }
    assert!(!is_active(&world, &lamp, &token).await);
    let ended = world.watcher.take();
    assert!(ended.iter().any(|end| matches!(end, SessionsEnd::Principal { .. })), "{ended:?}");
}

#[tokio::test]
async fn when_another_certificate_counts_all_that_the_one_before_has_opened_is_dead() {
    let world = World::new().await;
    let lamp = world.device("lamp").await;
    let of = |name: &str| PrincipalSettings {
        certificate_subject: Some(CertificateSubject::SanDns(name.to_owned())),
        ..PrincipalSettings::default()
    };
    let token = world.token(&lamp, None).await;
    let bearer = async || world.admission.bearer(None, &token, Audience::Bridge, Peer::default()).await;
    set(&world, &lamp, of("lamp.example")).await;
    bearer().await.map(drop).expect("there was none before");
    set(&world, &lamp, PrincipalSettings { gateway: true, ..of("lamp.example") }).await;
    bearer().await.map(drop).expect("it is the same one");
    world.watcher.take();
    set(&world, &lamp, of("new.example")).await;
    assert_eq!(bearer().await.map(drop), Err(Refusal::Revoked));
    let ended = world.watcher.take();
    let revoked = |end: &SessionsEnd| matches!(end, SessionsEnd::Principal { why: EndReason::Revoked, .. });
    assert!(ended.iter().any(revoked), "{ended:?}");
    let known = world.store.known(&world.registry, &lamp.name).await.expect("a store").expect("there");
    assert_eq!(known.principal.epoch.0, 1);
}
