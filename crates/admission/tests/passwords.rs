//! Passwords and generated secrets, at the token endpoint and in CONNECT.

mod world;

use drawbridge_admission::{
    Actor, AdmissionError, ClientCredential, Connected, EndReason, LoginRequest, NewApplication, NotProven,
    Peer, Refusal, SessionsEnd, TokenGrant,
};
use drawbridge_names::{MqttClientId, PrincipalName};
use drawbridge_registry::PrincipalSettings;
use drawbridge_testkit::TestDevice;
use world::{World, request};

const PASSWORD: &str = "correct horse battery";

fn name(text: &str) -> PrincipalName {
    PrincipalName::parse(text).expect(text)
}

async fn set(world: &World, principal: &str, password: &str) {
    try_set(world, principal, password).await.expect("set");
}

async fn try_set(world: &World, principal: &str, password: &str) -> Result<(), AdmissionError> {
    let principal = name(principal);
    let set =
        world.admission.set_password(&world.registry, &principal, Some(password), None, &Actor::Admin).await;
    set.map(drop)
}

async fn make_secret(world: &World, principal: &str) -> String {
    let principal = name(principal);
    let made = world.admission.make_secret(&world.registry, &principal, None, &Actor::Admin).await;
    made.expect("made").1.to_string()
}

async fn login(world: &World, client_id: &str, secret: &str) -> Result<TokenGrant, Refusal> {
    let credential = ClientCredential::Secret { client_id, secret };
    let request = LoginRequest { credential, ..LoginRequest::with_assertion("", Peer::default()) };
    world.admission.login(&world.registry, request).await
}

async fn connect(world: &World, username: Option<&str>, password: &[u8]) -> Result<Connected, Refusal> {
    let client_id = MqttClientId::parse("").expect("empty");
    let request = drawbridge_admission::ConnectRequest { username, ..request(&client_id, Some(password)) };
    world::connected(world.admission.connect(request).await)
}

fn password_checks(world: &World) -> u64 {
    world.admission.stats().password_checks
}

/// `known` with a password, `keyed` with a key alone, `secret` with a generated secret, `blocked`.
async fn world() -> World {
    let world = World::new().await;
    for device in ["known", "keyed", "secret", "blocked"] {
        world.device(device).await;
    }
    set(&world, "known", PASSWORD).await;
    set(&world, "blocked", PASSWORD).await;
    make_secret(&world, "secret").await;
    world.admission.block(&world.registry, &name("blocked"), None, &Actor::Admin).await.expect("blocked");
    world
}

#[tokio::test]
async fn i11_who_has_no_right_password_gets_one_answer_for_one_argon2_whoever_is_named() {
    let world = world().await;
    for case in ["unknown", "known", "keyed", "secret", "blocked", "no name#"] {
        let before = (password_checks(&world), world.checks());
        let refusals = [
            login(&world, case, "a wrong password").await.map(drop).expect_err(case),
            connect(&world, Some(case), b"a wrong password").await.map(drop).expect_err(case),
        ];
        for refusal in refusals {
            assert!(matches!(refusal, Refusal::NotProven(_)), "{case}: {refusal:?}");
            assert_eq!((refusal.code(), refusal.for_owner()), ("DB-1007", None), "{case}");
        }
        assert_eq!((password_checks(&world), world.checks()), (before.0 + 2, before.1), "{case}");
    }
    let before = password_checks(&world);
    let refusal = connect(&world, None, b"a wrong password").await.map(drop).expect_err("no user name");
    assert_eq!(refusal, Refusal::NotProven(NotProven::PasswordOfNobody));
    assert_eq!(password_checks(&world), before + 1, "without a user name");
    let refusal = connect(&world, Some("known"), b"\xff\xfe").await.map(drop).expect_err("no text");
    assert_eq!(refusal, Refusal::NotProven(NotProven::Password));
    assert_eq!(password_checks(&world), before + 2, "bytes that are no text");
}

#[tokio::test]
async fn i11_a_wrong_generated_secret_costs_no_argon2_whoever_is_named() {
    let world = world().await;
    let wrong = make_secret(&world, "keyed").await;
    make_secret(&world, "keyed").await;
    let before = (password_checks(&world), world.checks());
    for case in ["unknown", "known", "keyed", "secret", "blocked"] {
        for refusal in [
            login(&world, case, &wrong).await.map(drop).expect_err(case),
            connect(&world, Some(case), wrong.as_bytes()).await.map(drop).expect_err(case),
        ] {
            assert_eq!((refusal.code(), refusal.for_owner()), ("DB-1007", None), "{case}");
        }
    }
    assert_eq!((password_checks(&world), world.checks()), before);
}

#[tokio::test]
async fn a_right_password_logs_in_everywhere_and_is_told_the_truth() {
    let world = world().await;
    let grant = login(&world, "known", PASSWORD).await.expect("logged in");
    assert_eq!((grant.kid, grant.name), (None, name("known")));
    let connected = connect(&world, Some("known"), PASSWORD.as_bytes()).await.expect("connected");
    assert_eq!((connected.name, connected.kid, connected.ends_ms), (name("known"), None, None));
    for found in [
        login(&world, "blocked", PASSWORD).await.map(drop),
        connect(&world, Some("blocked"), PASSWORD.as_bytes()).await.map(drop),
    ] {
        assert_eq!(found, Err(Refusal::Blocked));
    }
}

#[tokio::test]
async fn a_password_over_a_plain_connection_is_not_looked_at() {
    let world = world().await;
    let client_id = MqttClientId::parse("").expect("empty");
    let mut request = request(&client_id, Some(PASSWORD.as_bytes()));
    (request.username, request.confidential) = (Some("known"), false);
    let before = password_checks(&world);
    assert_eq!(world.admission.connect(request).await.map(drop), Err(Refusal::NotConfidential));
    assert_eq!(password_checks(&world), before);
}

#[tokio::test]
async fn a_right_password_is_remembered_until_its_time_or_the_next_password() {
    let world = world().await;
    let before = password_checks(&world);
    for _ in 0..3 {
        login(&world, "known", PASSWORD).await.expect("logged in");
        connect(&world, Some("known"), PASSWORD.as_bytes()).await.expect("connected");
    }
    assert_eq!(password_checks(&world), before + 1, "one argon2 for six");
    login(&world, "known", "another password").await.map(drop).expect_err("wrong");
    assert_eq!(password_checks(&world), before + 2, "a wrong one is not remembered");

    world.clock.advance_s(300);
    login(&world, "known", PASSWORD).await.expect("logged in");
    assert_eq!(password_checks(&world), before + 3, "it has an end");

    set(&world, "known", "another password").await;
    assert!(login(&world, "known", PASSWORD).await.is_err(), "the old one is dead at once");
    login(&world, "known", "another password").await.expect("logged in");
    set(&world, "known", PASSWORD).await;
    let before = password_checks(&world);
    login(&world, "known", PASSWORD).await.expect("logged in");
    assert_eq!(password_checks(&world), before + 1, "the same again has another salt");
}

#[tokio::test]
async fn a_new_password_or_secret_ends_the_tokens_and_sessions_of_the_one_before() {
    let world = World::new().await;
    let device = world.device("lamp").await;
    let uid = world.admission.show(&world.registry, &device.name).await.expect("asked").expect("there");
    let uid = uid.principal.uid;
    let mut credential = make_secret(&world, "lamp").await;
    for step in 0..3 {
        let token = login(&world, "lamp", &credential).await.expect("logged in").access_token;
        let session = connect(&world, Some("lamp"), credential.as_bytes()).await.expect("connected");
        assert!(world.admission.still_good(&session));
        world.connect("lamp", &token).await.expect("the token is good");
        world.watcher.take();
        let old = credential.clone();
        credential = match step {
            0 => make_secret(&world, "lamp").await,
            1 => {
                set(&world, "lamp", PASSWORD).await;
                PASSWORD.to_owned()
            }
            _ => {
                let gone =
                    world.admission.set_password(&world.registry, &device.name, None, None, &Actor::Admin);
                gone.await.expect("taken away");
                String::new()
            }
        };
        assert_eq!(world.connect("lamp", &token).await.map(drop), Err(Refusal::Revoked), "step {step}");
        assert!(!world.admission.still_good(&session), "step {step}");
        let ended = SessionsEnd::Principal { registry: world.registry.clone(), uid, why: EndReason::Revoked };
        assert_eq!(world.watcher.take(), [ended], "step {step}");
        assert!(login(&world, "lamp", &old).await.is_err(), "step {step}");
    }
    assert!(connect(&world, Some("lamp"), PASSWORD.as_bytes()).await.is_err());
}

#[tokio::test]
async fn a_password_that_could_be_taken_for_something_else_cannot_be_set() {
    let world = World::new().await;
    world.device("lamp").await;
    let jwt = TestDevice::new("x").connect_jwt("x", 1).sign();
    for bad in
        ["short", &jwt, "e30.xxxxx.xxxxx", "dbo_xxxxxxxx", "dbs_xxxxxxxx", "dba_xxxxxxxx", "line\nend.."]
    {
        let refused = try_set(&world, "lamp", bad).await.expect_err(bad);
        assert!(matches!(refused, AdmissionError::Password(_)), "{bad}: {refused:?}");
        assert!(!refused.to_string().contains(bad), "{refused}");
    }
    let known = world.admission.show(&world.registry, &name("lamp")).await.expect("asked").expect("there");
    assert_eq!((known.principal.password, known.principal.epoch.0), (None, 0), "nothing has changed");
}

#[tokio::test]
async fn a_password_is_no_secret_of_an_application_that_must_have_bound_tokens() {
    let world = World::new().await;
    let new = NewApplication { name: name("backend"), keys: Vec::new(), policy: None };
    world.admission.add_application(&world.registry, new, &Actor::Admin).await.expect("registered");
    let secret = make_secret(&world, "backend").await;
    login(&world, "backend", &secret).await.expect("logged in");
    let settings = PrincipalSettings { bound_tokens: true, ..PrincipalSettings::default() };
    world
        .admission
        .set_settings(&world.registry, &name("backend"), settings, None, &Actor::Admin)
        .await
        .expect("set");
    let refusal = login(&world, "backend", &secret).await.expect_err("unbound");
    assert!(matches!(refusal, Refusal::Binding(_)), "{refusal:?}");
    assert!(refusal.for_owner().expect("told").contains("DPoP"));
}

#[tokio::test]
async fn no_way_leads_to_a_token_without_binding_where_the_operator_wants_it_bound() {
    let world = World::new().await;
    let device = world.legacy_device("old").await;
    world.application("backend", &TestDevice::new("backend"), "").await;
    let settings = PrincipalSettings { bound_tokens: true, ..PrincipalSettings::default() };
    let set = |name: PrincipalName| {
        let settings = settings.clone();
        async {
            world.admission.set_settings(&world.registry, &{ name }, settings, None, &Actor::Admin).await
        }
    };
    world.legacy_login(&device.legacy_login().sign()).await.expect("not yet");
    set(device.name.clone()).await.expect("set");
    let by_alias = world.legacy_login(&device.legacy_login().sign()).await;
    let by_key = world.login(&device.assertion(world::ISSUER, world.now_s()).sign()).await;
    for refused in [by_alias, by_key] {
        assert!(matches!(refused.map(drop), Err(Refusal::Binding(_))));
    }
}

#[tokio::test]
async fn the_audit_names_the_change_and_never_the_secret() {
    let world = World::new().await;
    world.device("lamp").await;
    set(&world, "lamp", PASSWORD).await;
    let secret = make_secret(&world, "lamp").await;
    let rows = world.admission.store().audit_tail(&world.registry, None, 10).await.expect("read");
    let actions: Vec<&str> = rows.iter().map(|row| row.entry.action.as_str()).collect();
    assert!(actions.contains(&"principal.password") && actions.contains(&"principal.secret"), "{actions:?}");
    for row in rows {
        let text = format!("{row:?}");
        assert!(!text.contains(PASSWORD) && !text.contains(&secret[4..20]), "{text}");
    }
}
