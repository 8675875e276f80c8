//! Tokens of both forms: what they are good for, how long, who may ask about them, who ends them.

mod world;

use std::sync::Arc;

use drawbridge_admission::{
    Actor, Admission, AdmissionConfig, Audience, ClientCredential, Peer, Refusal, RegistryChange,
    SessionsEnd, TokenRequest,
};
use drawbridge_names::{PolicyName, PrincipalName};
use drawbridge_registry::{PrincipalSettings, RegistrySettings, Role, TokenFormat};
use drawbridge_testkit::{SeededRandom, TestDevice, sealer};
use serde_json::{Value, json};
use world::{API, BRIDGE, ISSUER, World, name_of, open};

const FORMATS: [TokenFormat; 2] = [TokenFormat::Jwt, TokenFormat::Opaque];

async fn use_format(world: &World, format: TokenFormat) {
    let settings = RegistrySettings { token_format: format, ..RegistrySettings::default() };
    let change = RegistryChange { settings: Some(settings), ..RegistryChange::default() };
    world.admission.change_registry(&world.registry, change, &Actor::Admin).await.expect("changed");
}

fn name(text: &str) -> PrincipalName {
    PrincipalName::parse(text).expect("a name")
}

async fn bearer(world: &World, token: &str, audience: Audience) -> Result<String, Refusal> {
    let caller = world.admission.bearer(Some(&world.registry), token, audience, Peer::default()).await?;
    Ok(name_of(&caller).to_owned())
}

async fn introspect(world: &World, caller: &TestDevice, token: &str) -> Value {
    let assertion = caller.assertion(ISSUER, world.now_s()).sign();
    let credential = ClientCredential::Assertion(&assertion);
    let request = TokenRequest { credential, client_id: None, token, peer: Peer::default() };
    world.admission.introspect(&world.registry, request).await.expect("answered").body
}

async fn revoke(world: &World, caller: &TestDevice, token: &str) {
    let assertion = caller.assertion(ISSUER, world.now_s()).sign();
    let credential = ClientCredential::Assertion(&assertion);
    let request = TokenRequest { credential, client_id: None, token, peer: Peer::default() };
    world.admission.revoke_token(&world.registry, request).await.expect("answered");
}

async fn backend(world: &World, of: &str, roles: &[Role]) -> TestDevice {
    let application = TestDevice::new(of);
    world.application(of, &application, "").await;
    let settings =
        PrincipalSettings { roles: roles.iter().copied().collect(), ..PrincipalSettings::default() };
    let set = world.admission.set_settings(&world.registry, &name(of), settings, None, &Actor::Admin).await;
    set.expect("roles");
    application
}

fn inactive() -> Value {
    json!({ "active": false })
}

#[tokio::test]
async fn both_forms_are_good_for_the_same_and_die_of_the_same() {
    type Death = &'static str;
    let deaths: [(Death, &str, &str); 6] = [
        ("block", "blocked", "blocked"),
        ("revoke all", "revoked", "revoked"),
        ("remove the key", "key-gone", "key-gone"),
        ("delete", "key-gone", "not-proven"),
        ("revoke the token", "token-gone", "not-proven"),
        ("time", "time", "not-proven"),
    ];
    for format in FORMATS {
        for (death, of_jwt, of_opaque) in deaths {
            let world = World::new().await;
            use_format(&world, format).await;
            let device = world.device("sensor").await;
            let second = TestDevice::new("sensor");
            let added = world
                .admission
                .add_key(&world.registry, &device.name, second.public_key(), None, &Actor::Admin)
                .await;
            added.expect("a second key");
            let token = world.token(&device, None).await;
            let for_api = world.token(&device, Some(API)).await;
            assert_eq!(token.starts_with("dbo_"), format == TokenFormat::Opaque);

            // What it is good for, whatever its form.
            assert_eq!(bearer(&world, &token, Audience::Bridge).await.as_deref(), Ok("sensor"));
            assert_eq!(bearer(&world, &token, Audience::SelfRead).await.as_deref(), Ok("sensor"));
            assert_eq!(bearer(&world, &token, Audience::Api).await, Err(Refusal::OtherService));
            assert_eq!(bearer(&world, &for_api, Audience::Api).await.as_deref(), Ok("sensor"));
            assert_eq!(bearer(&world, &for_api, Audience::Bridge).await, Err(Refusal::OtherService));
            assert_eq!(world.connect("sensor", &for_api).await.map(drop), Err(Refusal::OtherService));
            let session = world.connect("sensor", &token).await.expect("in");
            assert_eq!(session.ends_ms, Some((world.now_s() + 3_600) * 1_000));
            let told = introspect(&world, &device, &token).await;
            assert_eq!((&told["active"], &told["sub"]), (&json!(true), &json!("sensor")));
            assert_eq!((&told["aud"], &told["token_type"]), (&json!(BRIDGE), &json!("Bearer")));
            assert_eq!((&told["client_id"], &told["iss"]), (&json!("sensor"), &json!(ISSUER)));
            assert_eq!(told["exp"].as_u64(), Some(world.now_s() + 3_600));

            let (registry, admin) = (&world.registry, &Actor::Admin);
            match death {
                "block" => {
                    world.admission.block(registry, &device.name, None, admin).await.map(drop).expect("done");
                }
                "revoke all" => {
                    let done = world.admission.revoke(registry, &device.name, "lost", None, admin).await;
                    done.map(drop).expect("done");
                }
                "remove the key" => {
                    let done =
                        world.admission.remove_key(registry, &device.name, &device.kid(), false, admin).await;
                    done.expect("done");
                }
                "delete" => {
                    world.admission.delete(registry, &device.name, admin).await.expect("done");
                }
                "revoke the token" => revoke(&world, &device, &token).await,
                _ => world.clock.advance_s(3_600),
            }
            let word = if format == TokenFormat::Jwt { of_jwt } else { of_opaque };
            for audience in [Audience::Bridge, Audience::SelfRead] {
                let refusal = bearer(&world, &token, audience).await.expect_err(death);
                assert_eq!(refusal.word(), word, "{format:?} {death}");
            }
            let refusal = world.connect("sensor", &token).await.map(drop).expect_err(death);
            assert_eq!(refusal.word(), word, "{format:?} {death} at connect");
            if death != "time" {
                assert!(!world.admission.still_good(&session), "{format:?} {death}");
            }
            let asker = backend(&world, "platform", &[Role::Introspect]).await;
            assert_eq!(introspect(&world, &asker, &token).await, inactive(), "{format:?} {death}");
        }
    }
}

#[tokio::test]
async fn a_policy_has_the_last_word_on_form_and_life() {
    let world = World::new().await;
    let device = world.device("sensor").await;
    let policy = PolicyName::parse("device").expect("a name");
    let set = async |text: &str| {
        world.admission.set_policy(&world.registry, &policy, text, &Actor::Admin).await.expect("set");
    };
    for (registry, text, opaque, life_s) in [
        (TokenFormat::Jwt, "", false, 3_600),
        (TokenFormat::Opaque, "", true, 3_600),
        (TokenFormat::Jwt, "[token]\nformat = \"opaque\"\nlife_s = 60\n", true, 60),
        (TokenFormat::Opaque, "[token]\nformat = \"at+jwt\"\nlife_s = 86400\n", false, 86_400),
    ] {
        use_format(&world, registry).await;
        set(text).await;
        let assertion = device.assertion(ISSUER, world.now_s()).sign();
        let grant = world.login(&assertion).await.expect("in");
        assert_eq!(grant.access_token.starts_with("dbo_"), opaque, "{text}");
        assert_eq!(grant.expires_in_s, life_s, "{text}");
        assert_eq!(grant.audience, BRIDGE);
    }
}

#[tokio::test]
async fn a_registry_takes_no_life_beyond_a_day_and_no_skew_beyond_an_hour() {
    let world = World::new().await;
    for (clock_skew_s, token_life_s) in [(None, Some(0)), (None, Some(86_401)), (Some(3_601), None)] {
        let change = RegistryChange { clock_skew_s, token_life_s, settings: None };
        let error = world.admission.change_registry(&world.registry, change, &Actor::Admin).await;
        assert_eq!(error.expect_err("out of bounds").code(), "DB-4026");
    }
    let change = RegistryChange { clock_skew_s: Some(600), token_life_s: Some(900), settings: None };
    world.admission.change_registry(&world.registry, change, &Actor::Admin).await.expect("changed");
    let again = open(&world.store, &world.clock, 5).await.registry(&world.registry).expect("there");
    assert_eq!((again.clock_skew_s, again.token_life_s), (600, 900));
}

#[tokio::test]
async fn a_principal_has_so_many_opaque_tokens_and_no_more() {
    let world = World::new().await;
    let random = Arc::new(SeededRandom::new(12));
    let config = AdmissionConfig { opaque_tokens_max: 2, ..AdmissionConfig::default() };
    let (store, clock) = (world.store.clone(), world.clock.clone());
    let admission = Admission::open(store, clock, random, sealer(), config).await.expect("opened");
    let world = World { admission, ..world };
    use_format(&world, TokenFormat::Opaque).await;
    let device = world.device("sensor").await;
    let first = world.token(&device, None).await;
    world.token(&device, None).await;
    let third = world.login(&device.assertion(ISSUER, world.now_s()).sign()).await;
    assert_eq!(third.expect_err("full"), Refusal::TokensFull { live_max: 2 });
    revoke(&world, &device, &first).await;
    world.token(&device, None).await;
}

#[tokio::test]
async fn a_text_that_was_never_a_token_is_nobodys() {
    let world = World::new().await;
    use_format(&world, TokenFormat::Opaque).await;
    let device = world.device("sensor").await;
    let token = world.token(&device, None).await;
    let mut other = token.clone();
    other.replace_range(10..11, if &token[10..11] == "A" { "B" } else { "A" });
    for text in ["dbo_", "dbo_x", other.as_str(), &token[..token.len() - 1], &format!("{token} ")] {
        let refusal = bearer(&world, text, Audience::Bridge).await.expect_err(text);
        assert_eq!(refusal.word(), "not-proven", "{text}");
        assert_eq!(world.connect("sensor", text).await.map(drop).expect_err(text).word(), "not-proven");
    }
}

#[tokio::test]
async fn a_token_is_told_to_its_owner_and_to_who_has_the_role_and_to_nobody_else() {
    for format in FORMATS {
        let world = World::new().await;
        use_format(&world, format).await;
        let (device, other) = (world.device("sensor").await, world.device("other").await);
        let token = world.token(&device, None).await;
        let (reader, plain) =
            (backend(&world, "reader", &[Role::Introspect]).await, backend(&world, "plain", &[]).await);
        let manager = backend(&world, "manager", &[Role::Admin]).await;
        for (caller, may) in
            [(&device, true), (&reader, true), (&other, false), (&plain, false), (&manager, false)]
        {
            let answer = introspect(&world, caller, &token).await;
            assert_eq!(answer["active"], json!(may), "{format:?} {}", caller.name);
            assert!(may || answer == inactive(), "nothing else is told: {answer}");
        }
        for text in ["", "x", "dbo_x", "a.b.c", &reader.assertion(ISSUER, world.now_s()).sign()] {
            assert_eq!(introspect(&world, &reader, text).await, inactive(), "{text}");
        }
        let blocked = world.admission.block(&world.registry, &reader.name, None, &Actor::Admin).await;
        blocked.map(drop).expect("done");
        let assertion = reader.assertion(ISSUER, world.now_s()).sign();
        let credential = ClientCredential::Assertion(&assertion);
        let request = TokenRequest { credential, client_id: None, token: &token, peer: Peer::default() };
        let refused = world.admission.introspect(&world.registry, request).await;
        assert_eq!(refused.expect_err("a blocked caller"), Refusal::Blocked);
    }
}

#[tokio::test]
async fn an_assertion_that_asked_about_a_token_is_used_up() {
    let world = World::new().await;
    let device = world.device("sensor").await;
    let token = world.token(&device, None).await;
    let assertion = device.assertion(ISSUER, world.now_s()).sign();
    let credential = ClientCredential::Assertion(&assertion);
    let request = TokenRequest { credential, client_id: None, token: &token, peer: Peer::default() };
    world.admission.introspect(&world.registry, request).await.expect("the first time");
    let again = world.admission.introspect(&world.registry, request).await;
    assert_eq!(again.expect_err("used"), Refusal::Replay);
    assert_eq!(world.admission.revoke_token(&world.registry, request).await, Err(Refusal::Replay));
    assert_eq!(world.login(&assertion).await.map(drop), Err(Refusal::Replay));
}

#[tokio::test]
async fn the_signed_answer_is_for_the_caller_and_of_its_own_kind() {
    let world = World::new().await;
    let device = world.device("sensor").await;
    let token = world.token(&device, None).await;
    let assertion = device.assertion(ISSUER, world.now_s()).sign();
    let credential = ClientCredential::Assertion(&assertion);
    let request = TokenRequest { credential, client_id: None, token: &token, peer: Peer::default() };
    let jwt = world.admission.introspection_jwt(&world.registry, request).await.expect("signed");
    let jws = drawbridge_jose::Jws::parse(jwt.as_bytes(), &Default::default()).expect("a JWS");
    assert_eq!(jws.typ(), Some("token-introspection+jwt"));
    let keys = world.admission.issuer_keys(&world.registry).expect("keys");
    let key = drawbridge_jose::PublicKey::from_jwk(keys[0].jwk.as_bytes()).expect("a key");
    let verified = jws.verify(&key).expect("signed by the issuer");
    let body: Value = serde_json::from_slice(verified.payload()).expect("JSON");
    assert_eq!((&body["iss"], &body["aud"]), (&json!(ISSUER), &json!("sensor")));
    assert_eq!(body["token_introspection"]["active"], json!(true));
    assert!(
        body.get("sub").is_none() && body.get("exp").is_none(),
        "RFC 9701 section 5: it is no access token"
    );
    assert_eq!(bearer(&world, &jwt, Audience::Bridge).await.expect_err("another kind").word(), "token-type");
}

#[tokio::test]
async fn only_the_owner_of_a_token_ends_it_and_its_sessions_and_it_stays_dead() {
    for format in FORMATS {
        let world = World::new().await;
        use_format(&world, format).await;
        let (device, other) = (world.device("sensor").await, world.device("other").await);
        let reader = backend(&world, "reader", &[Role::Introspect, Role::Admin]).await;
        let (token, second) = (world.token(&device, None).await, world.token(&device, None).await);
        let session = world.connect("sensor", &token).await.expect("in");
        world.watcher.take();
        for stranger in [&other, &reader] {
            revoke(&world, stranger, &token).await;
        }
        revoke(&world, &device, "dbo_nonsense").await;
        bearer(&world, &token, Audience::Bridge).await.expect("as before");
        assert_eq!(world.watcher.take(), []);
        revoke(&world, &device, &token).await;
        let mark = session.token.as_ref().expect("opened by a token").token;
        let ended = SessionsEnd::Token { registry: world.registry.clone(), uid: session.uid, token: mark };
        assert_eq!(world.watcher.take(), [ended]);
        assert!(!world.admission.still_good(&session));
        bearer(&world, &second, Audience::Bridge).await.expect("another token of the same device");
        let world = World { admission: open(&world.store, &world.clock, 8).await, ..world };
        bearer(&world, &token, Audience::Bridge).await.expect_err("also after a restart");
        bearer(&world, &second, Audience::Bridge).await.expect("also after a restart");
        revoke(&world, &device, &token).await;

        // Another server of the same store learns of it within a minute.
        let other = World { admission: open(&world.store, &world.clock, 9).await, ..world };
        let server = open(&other.store, &other.clock, 10).await;
        let refused = async |token: &str| {
            server.bearer(Some(&other.registry), token, Audience::Bridge, Peer::default()).await.is_err()
        };
        assert!(!refused(&second).await);
        revoke(&other, &device, &second).await;
        other.clock.advance_s(60);
        server.maintain_issuer_keys().await.expect("maintained");
        assert!(refused(&second).await, "{format:?}");
    }
}
