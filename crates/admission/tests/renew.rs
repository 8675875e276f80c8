//! Renewal on the IoT IdP path: the next token without a key, within a chain that ends.

mod world;

use drawbridge_admission::{
    Actor, Audience, ClientCredential, Peer, Refusal, SessionsEnd, TokenGrant, TokenRequest,
};
use drawbridge_names::PolicyName;
use drawbridge_registry::{PrincipalSettings, Role};
use drawbridge_testkit::TestDevice;
use serde_json::json;
use world::{ISSUER, World};

const POLICY: &str = "[token]\nrenewals_max = 3\nalias_scopes = [\"tenant.demo\", \"temp\"]\n\
    [[allow]]\npublish = [\"devices/${device}/state\"]\n";

async fn furnished() -> (World, TestDevice, TestDevice) {
    let world = World::new().await;
    set_policy(&world, POLICY).await;
    let device = world.legacy_device("test.device.01").await;
    let backend = TestDevice::new("backend");
    world.application("backend", &backend, "").await;
    (world, device, backend)
}

async fn set_policy(world: &World, text: &str) {
    let policy = PolicyName::parse("device").expect("a name");
    world.admission.set_policy(&world.registry, &policy, text, &Actor::Admin).await.expect("set");
}

async fn login(world: &World, device: &TestDevice, scope: Option<&str>) -> Result<TokenGrant, Refusal> {
    let jwt = device.legacy_login().sign();
    world.admission.legacy_login(&world.registry, &jwt, Some("backend"), scope, Peer::default()).await
}

async fn renew(world: &World, token: &str) -> Result<TokenGrant, Refusal> {
    world.admission.renew(&world.registry, token, Some("backend"), None, Peer::default()).await
}

async fn bearer(world: &World, token: &str) -> Result<(), Refusal> {
    let registry = Some(&world.registry);
    world.admission.bearer(registry, token, Audience::Bridge, Peer::default()).await.map(drop)
}

#[tokio::test]
async fn a_chain_keeps_its_scope_and_ends_with_its_count() {
    let (world, device, _) = furnished().await;
    let words = "tenant.demo refresh.token temp";
    let mut grant = login(&world, &device, Some(words)).await.expect("in");
    assert!(grant.access_token.starts_with("dbo_"), "opaque, whatever the registry says");
    for _ in 0..3 {
        assert_eq!(grant.alias_words.as_deref(), Some(words));
        bearer(&world, &grant.access_token).await.expect("good");
        let next = renew(&world, &grant.access_token).await.expect("renewed");
        assert_ne!(next.access_token, grant.access_token);
        grant = next;
    }
    let spent = renew(&world, &grant.access_token).await.map(drop);
    assert!(matches!(spent, Err(Refusal::Renewal(_))), "{spent:?}");
    bearer(&world, &grant.access_token).await.expect("it lives on to its end");
}

#[tokio::test]
async fn a_chain_ends_a_day_after_its_login() {
    let (world, device, _) = furnished().await;
    set_policy(&world, "[token]\nlife_s = 43200\n").await;
    let first = login(&world, &device, Some("refresh.token")).await.expect("in");
    world.clock.advance_s(43_000);
    let second = renew(&world, &first.access_token).await.expect("renewed");
    assert_eq!(second.expires_in_s, 43_200);
    world.clock.advance_s(43_000);
    let third = renew(&world, &second.access_token).await.expect("renewed");
    assert_eq!(third.expires_in_s, 400, "the rest of the day");
    world.clock.advance_s(399);
    let fourth = renew(&world, &third.access_token).await.expect("renewed");
    assert_eq!(fourth.expires_in_s, 1);
    world.clock.advance_s(1);
    for token in [&first, &second, &third, &fourth] {
        let over = renew(&world, &token.access_token).await.map(drop).expect_err("over");
        assert_eq!(over.word(), "not-proven");
    }
}

#[tokio::test]
async fn the_old_token_is_good_for_30_s_so_a_lost_answer_can_be_asked_for_again() {
    let (world, device, _) = furnished().await;
    let first = login(&world, &device, Some("refresh.token")).await.expect("in").access_token;
    let lost = renew(&world, &first).await.expect("renewed, and the answer lost").access_token;
    world.clock.advance_s(29);
    bearer(&world, &first).await.expect("still good");
    let second = renew(&world, &first).await.expect("asked again").access_token;
    bearer(&world, &lost).await.expect_err("nobody has used it");
    bearer(&world, &second).await.expect("good");

    let (world, device, _) = furnished().await;
    let first = login(&world, &device, Some("refresh.token")).await.expect("in").access_token;
    renew(&world, &first).await.expect("renewed");
    world.clock.advance_s(30);
    assert_eq!(bearer(&world, &first).await.expect_err("over").word(), "not-proven");
}

#[tokio::test]
async fn a_token_that_comes_after_its_successor_was_used_ends_the_whole_chain() {
    for thief in ["presents", "renews", "connects", "asks"] {
        let (world, device, backend) = furnished().await;
        let roles = [Role::Introspect].into();
        let settings = PrincipalSettings { roles, ..PrincipalSettings::default() };
        let set = world.admission.set_settings(&world.registry, &backend.name, settings, None, &Actor::Admin);
        set.await.map(drop).expect("set");
        let first = login(&world, &device, Some("refresh.token")).await.expect("in").access_token;
        let second = renew(&world, &first).await.expect("renewed").access_token;
        let session = world.connect("test.device.01", &second).await.expect("used");
        world.watcher.take();
        match thief {
            "presents" => assert_eq!(bearer(&world, &first).await, Err(Refusal::TokenGone)),
            "renews" => assert_eq!(renew(&world, &first).await.map(drop), Err(Refusal::TokenGone)),
            "connects" => {
                let refused = world.connect("test.device.01", &first).await.map(drop);
                assert_eq!(refused, Err(Refusal::TokenGone));
            }
            _ => {
                let assertion = backend.assertion(ISSUER, world.now_s()).sign();
                let credential = ClientCredential::Assertion(&assertion);
                let request =
                    TokenRequest { credential, client_id: None, token: &first, peer: Peer::default() };
                let told = world.admission.introspect(&world.registry, request).await.expect("told").body;
                assert_eq!(told, json!({ "active": false }));
            }
        }
        assert_eq!(bearer(&world, &second).await.expect_err("ended with it").word(), "not-proven");
        let ends = |event: &SessionsEnd| {
            matches!(event, SessionsEnd::Token { uid, token, .. }
                if *uid == session.uid && Some(*token) == session.token.as_ref().map(|mark| mark.token))
        };
        assert!(world.watcher.take().iter().any(ends), "{thief}");
        assert!(!world.admission.still_good(&session), "{thief}");
    }
}

#[tokio::test]
async fn each_renewal_asks_again_who_it_is_and_what_it_may() {
    for (change, word) in [
        ("block", "blocked"),
        ("revoke", "revoked"),
        ("remove the key", "key-gone"),
        ("no legacy", "legacy-not-allowed"),
        ("no renewal", "renewal"),
        ("no word", "scope"),
        ("block the application", "client"),
    ] {
        let (world, device, backend) = furnished().await;
        let token = login(&world, &device, Some("refresh.token temp")).await.expect("in").access_token;
        let (admission, registry, of, admin) =
            (&world.admission, &world.registry, &device.name, &Actor::Admin);
        match change {
            "block" => admission.block(registry, of, None, admin).await.map(drop).expect("done"),
            "revoke" => admission.revoke(registry, of, "", None, admin).await.map(drop).expect("done"),
            "remove the key" => {
                admission.remove_key(registry, of, &device.kid(), true, admin).await.expect("done");
            }
            "no legacy" => {
                let set = admission.set_legacy_assertions(registry, of, false, None, admin).await;
                set.map(drop).expect("done");
            }
            "no renewal" => set_policy(&world, &POLICY.replace("= 3", "= 0")).await,
            "no word" => set_policy(&world, &POLICY.replace(", \"temp\"", "")).await,
            _ => admission.block(registry, &backend.name, None, admin).await.map(drop).expect("done"),
        }
        let refusal = renew(&world, &token).await.map(drop).expect_err(change);
        assert_eq!(refusal.word(), word, "{change}: {refusal}");
    }
}

#[tokio::test]
async fn only_words_of_the_policy_one_grant_and_the_right_to_renew_may_be_asked_for() {
    let (world, device, _) = furnished().await;
    let grant = drawbridge_jose::base64url_encode(b"[[\"devices/test.device.01/state\",[\"pub\"]]]");
    let wide = drawbridge_jose::base64url_encode(b"[[\"#\",[\"pub\"]]]");
    for (scope, expected) in [
        (None, Ok("")),
        (Some(""), Ok("")),
        (Some("temp"), Ok("temp")),
        (Some("temp temp  refresh.token"), Ok("temp refresh.token")),
        (Some(grant.as_str()), Ok(grant.as_str())),
        (Some("tenant.other"), Err("scope")),
        (Some("temp admin"), Err("scope")),
        (Some("self:read"), Err("scope")),
        (Some(wide.as_str()), Err("scope")),
    ] {
        let found = login(&world, &device, scope).await;
        let found = found.map(|grant| grant.alias_words.expect("always told"));
        assert_eq!(found.as_deref().map_err(|refusal| refusal.word()), expected, "{scope:?}");
    }
    let narrow = login(&world, &device, Some(&format!("refresh.token {grant}"))).await.expect("in");
    assert_eq!(narrow.scope.as_deref(), Some(grant.as_str()));
    let renewed = renew(&world, &narrow.access_token).await.expect("renewed");
    assert_eq!((renewed.scope, renewed.alias_words), (narrow.scope, narrow.alias_words));
}

#[tokio::test]
async fn what_was_not_given_for_renewal_is_not_renewed() {
    let (world, device, _) = furnished().await;
    let plain = login(&world, &device, Some("temp")).await.expect("in").access_token;
    let refused = renew(&world, &plain).await.map(drop);
    assert!(matches!(refused, Err(Refusal::Renewal(_))), "{refused:?}");
    let good = login(&world, &device, Some("refresh.token")).await.expect("in").access_token;
    let other = TestDevice::new("other");
    world.application("other", &other, "").await;
    for (token, client_id, word) in [
        ("", Some("backend"), "no-credential"),
        ("x", Some("backend"), "not-proven"),
        (device.legacy_login().sign().as_str(), Some("backend"), "not-proven"),
        (good.as_str(), Some("other"), "client"),
        (good.as_str(), Some("nobody"), "client"),
        (good.as_str(), None, "client"),
    ] {
        let renewed = world.admission.renew(&world.registry, token, client_id, None, Peer::default()).await;
        assert_eq!(renewed.map(drop).expect_err("refused").word(), word, "{client_id:?}");
    }
    // A token of the standard endpoint is no token of this path.
    let settings = drawbridge_registry::RegistrySettings {
        token_format: drawbridge_registry::TokenFormat::Opaque,
        ..Default::default()
    };
    let change = drawbridge_admission::RegistryChange { settings: Some(settings), ..Default::default() };
    world.admission.change_registry(&world.registry, change, &Actor::Admin).await.expect("changed");
    let standard = world.token(&device, None).await;
    let refused = renew(&world, &standard).await.map(drop);
    assert!(matches!(refused, Err(Refusal::Renewal(_))), "{refused:?}");
}

#[tokio::test]
async fn a_renewal_may_say_its_scope_again_and_no_other() {
    let (world, device, _) = furnished().await;
    let words = "tenant.demo refresh.token";
    let token = login(&world, &device, Some(words)).await.expect("in").access_token;
    let ask = async |scope: &str| {
        let peer = Peer::default();
        world.admission.renew(&world.registry, &token, Some("backend"), Some(scope), peer).await
    };
    for other in ["", "refresh.token", "tenant.demo", "tenant.demo refresh.token temp"] {
        let refused = ask(other).await.map(drop);
        assert!(matches!(refused, Err(Refusal::Renewal(_))), "{other:?}: {refused:?}");
    }
    let renewed = ask(" refresh.token  tenant.demo").await.expect("the same, in another order");
    assert_eq!(renewed.alias_words.as_deref(), Some(words));
}

#[tokio::test]
async fn a_token_that_comes_long_after_it_was_renewed_ends_the_chain_too() {
    for twice in [false, true] {
        let (world, device, backend) = furnished().await;
        let stolen = login(&world, &device, Some("refresh.token")).await.expect("in");
        // The thief renews it, and goes on.
        let mut thief = renew(&world, &stolen.access_token).await.expect("renewed");
        bearer(&world, &thief.access_token).await.expect("good");
        if twice {
            thief = renew(&world, &thief.access_token).await.expect("renewed");
        }
        world.clock.advance_s(600);
        bearer(&world, &thief.access_token).await.expect("good");
        // Who asks about the old one is not who holds it: nothing happens.
        let assertion = backend.assertion(ISSUER, world.now_s()).sign();
        let credential = ClientCredential::Assertion(&assertion);
        let token = &stolen.access_token;
        let question = TokenRequest { credential, client_id: None, token, peer: Peer::default() };
        let told = world.admission.introspect(&world.registry, question).await.expect("told");
        assert_eq!(told.body, json!({ "active": false }));
        bearer(&world, &thief.access_token).await.expect("still good");
        // The device comes with what it has.
        world.watcher.take();
        let refused = match twice {
            true => renew(&world, &stolen.access_token).await.map(drop),
            false => bearer(&world, &stolen.access_token).await,
        };
        assert_eq!(refused, Err(Refusal::TokenGone), "twice: {twice}");
        assert!(bearer(&world, &thief.access_token).await.is_err(), "the thief is out, twice: {twice}");
        let ended = world.watcher.take();
        assert!(ended.iter().any(|end| matches!(end, SessionsEnd::Token { .. })), "{ended:?}");
        login(&world, &device, None).await.expect("the device logs in with its key");
    }
}
