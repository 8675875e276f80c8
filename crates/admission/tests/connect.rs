//! MQTT CONNECT: which JWTs open a session, whose it is, and when it ends.

mod world;

use std::time::Duration;

use drawbridge_admission::{
    Actor, Clock as _, ConnectRequest, Connected, LoginRequest, NewApplication, NewRegistry, Peer, Refusal,
    Ways,
};
use drawbridge_jose::base64url_encode;
use drawbridge_names::{MqttClientId, PrincipalName, RegistryName, TopicFilter, TopicName};
use drawbridge_registry::GoogleNames;
use drawbridge_testkit::{Draft, TestDevice};
use serde_json::json;
use world::{API, BRIDGE, ISSUER, World, request};

type Change = for<'d> fn(Draft<'d>, u64) -> Draft<'d>;

const CASES: &[(&str, Change, Result<(), &str>)] = &[
    ("as it should be", |d, _| d, Ok(())),
    ("typ absent", |d, _| d.typ(None), Ok(())),
    ("aud an array of one", |d, _| d.with("aud", json!([BRIDGE])), Ok(())),
    ("exp a day after iat", |d, now| d.with("exp", json!(now + 86_400)), Ok(())),
    ("iat a little ahead", |d, now| d.with("iat", json!(now + 60)), Ok(())),
    ("exp a little past", |d, now| d.with("iat", json!(now - 100)).with("exp", json!(now - 59)), Ok(())),
    ("no iat but a jti", |d, _| d.without("iat").with("jti", json!("0123456789abcdef")), Ok(())),
    ("iss the device", |d, _| d.with("iss", json!("sensor")), Ok(())),
    ("neither iat nor jti", |d, _| d.without("iat"), Err("time")),
    ("no iat and a short jti", |d, _| d.without("iat").with("jti", json!("x")), Err("jti")),
    ("typ of an assertion", |d, _| d.typ(Some("client-authentication+jwt")), Err("token-type")),
    ("aud the issuer", |d, _| d.with("aud", json!(ISSUER)), Err("audience")),
    ("aud the API", |d, _| d.with("aud", json!(API)), Err("audience")),
    ("aud some project", |d, _| d.with("aud", json!("my-project")), Err("audience")),
    ("aud two values", |d, _| d.with("aud", json!([BRIDGE, ISSUER])), Err("audience")),
    ("aud absent", |d, _| d.without("aud"), Err("audience")),
    ("exp absent", |d, _| d.without("exp"), Err("time")),
    (
        "exp past by the skew",
        |d, now| d.with("iat", json!(now - 100)).with("exp", json!(now - 60)),
        Err("time"),
    ),
    ("exp more than a day after iat", |d, now| d.with("exp", json!(now + 86_461)), Err("time")),
    ("exp before iat", |d, now| d.with("iat", json!(now + 30)).with("exp", json!(now + 20)), Err("time")),
    ("iat beyond the skew", |d, now| d.with("iat", json!(now + 61)), Err("time")),
    ("nbf beyond the skew", |d, now| d.with("nbf", json!(now + 61)), Err("time")),
    ("exp far ahead without iat", |d, now| d.without("iat").with("exp", json!(now + 90_000)), Err("time")),
    ("iss another", |d, _| d.with("iss", json!("other")), Err("subject")),
    ("sub another", |d, _| d.with("sub", json!("other")), Err("not-proven")),
    ("sub no name", |d, _| d.with("sub", json!("a/b")), Err("not-proven")),
    ("cnf in it", |d, _| d.with("cnf", json!({})), Err("token-kind")),
    ("public_key in it", |d, _| d.with("public_key", json!("x")), Err("token-kind")),
];

#[tokio::test]
async fn every_claim_of_a_connect_jwt_is_judged() {
    for (case, change, wanted) in CASES {
        let world = World::new().await;
        let device = world.device("sensor").await;
        let draft = change(device.connect_jwt(BRIDGE, world.now_s()), world.now_s());
        let found = world.connect("sensor", &draft.sign()).await;
        assert_eq!(found.as_ref().map(|_| ()).map_err(Refusal::word), *wanted, "{case}: {found:?}");
    }
    println!("{} cases of claims", CASES.len());
}

#[tokio::test]
async fn a_session_has_the_rights_of_its_policy_and_ends_at_exp_plus_skew() {
    let world = World::new().await;
    let device = world.device("sensor").await;
    let session =
        world.connect("sensor", &device.connect_jwt(BRIDGE, world.now_s()).sign()).await.expect("in");
    assert_eq!(session.ends_ms, Some((world.now_s() + 3600 + 60) * 1000));
    assert_eq!(session.ends, Some(world.clock.instant() + Duration::from_secs(3660)));
    assert_eq!((session.sessions_max, session.leading_slash), (Some(1), false));
    assert_eq!(session.kid, Some(device.kid()));
    let topic = |text| TopicName::parse(text).expect("a topic");
    assert!(session.rights.may_publish(topic("devices/sensor/events/heat")).allowed);
    assert!(!session.rights.may_publish(topic("devices/other/events/heat")).allowed);
}

#[tokio::test]
async fn a_jump_of_the_wall_clock_moves_no_deadline() {
    let world = World::new().await;
    let device = world.device("sensor").await;
    let session =
        world.connect("sensor", &device.connect_jwt(BRIDGE, world.now_s()).sign()).await.expect("in");
    world.clock.jump_to(world.now_s() + 100_000);
    assert!(session.ends.expect("it has an end") > world.clock.instant());
}

#[tokio::test]
async fn padding_as_a_c_sdk_writes_it_is_tolerated_at_connect_alone() {
    let world = World::new().await;
    let device = world.device("sensor").await;
    let padded = |jwt: String| format!("{jwt}==");
    world
        .connect("sensor", &padded(device.connect_jwt(BRIDGE, world.now_s()).sign()))
        .await
        .expect("tolerated");
    let refusal =
        world.login(&padded(device.assertion(ISSUER, world.now_s()).sign())).await.expect_err("padded");
    assert_eq!(refusal.word(), "jws-format");
    let token = world.token(&device, None).await;
    assert_eq!(world.connect("sensor", &padded(token)).await.expect_err("padded").word(), "jws-format");
}

#[tokio::test]
async fn i7_a_connect_jwt_without_iat_opens_one_session_and_one_with_iat_many() {
    let world = World::new().await;
    let device = world.device("sensor").await;
    let many = device.connect_jwt(BRIDGE, world.now_s()).sign();
    for _ in 0..3 {
        world.connect("sensor", &many).await.expect("in");
    }
    let once = device
        .connect_jwt(BRIDGE, world.now_s())
        .without("iat")
        .with("jti", json!("0123456789abcdef"))
        .sign();
    // A client id that is not its own is judged before the `jti` is used up.
    assert_eq!(world.connect("other", &once).await.expect_err("not its own").word(), "client-id");
    world.connect("sensor", &once).await.expect("in");
    assert_eq!(world.connect("sensor", &once).await.expect_err("used"), Refusal::Replay);
}

#[tokio::test]
async fn a_device_is_taken_from_the_client_id_only_when_there_is_no_sub() {
    let world = World::new().await;
    let (sensor, lamp) = (world.device("sensor").await, world.device("lamp").await);
    let no_sub = sensor.connect_jwt(BRIDGE, world.now_s()).without("sub").sign();
    for client_id in ["sensor", "sensor:2"] {
        assert_eq!(world.connect(client_id, &no_sub).await.expect("in").name.as_str(), "sensor");
    }
    assert_eq!(world.connect("lamp", &no_sub).await.expect_err("not its key").word(), "not-proven");
    assert_eq!(world.connect("", &no_sub).await.expect_err("nobody").word(), "not-proven");
    let lamp_jwt = lamp.connect_jwt(BRIDGE, world.now_s()).sign();
    assert_eq!(world.connect("sensor", &lamp_jwt).await.expect_err("not its id").word(), "client-id");
    let assigned = world.connect("", &lamp_jwt).await.expect("in");
    assert!(assigned.assigned_client_id && assigned.client_id.as_str().starts_with("lamp:"));
}

#[tokio::test]
async fn an_access_token_opens_a_session_with_its_narrower_rights() {
    let world = World::new().await;
    let device = world.device("sensor").await;
    let scope = base64url_encode(br#"[["devices/sensor/state",["pub"]]]"#);
    let assertion = device.assertion(ISSUER, world.now_s()).sign();
    let token = world.login_for(&assertion, Some(&scope), None).await.expect("in").access_token;
    let session = world.connect("sensor", &token).await.expect("in");
    let topic = |text| TopicName::parse(text).expect("a topic");
    assert!(session.rights.may_publish(topic("devices/sensor/state")).allowed);
    assert!(!session.rights.may_publish(topic("devices/sensor/events/heat")).allowed);
    assert_eq!(session.ends_ms, Some((world.now_s() + 3600) * 1000), "our own tokens have no skew");
    world.clock.advance_s(3600);
    assert_eq!(world.connect("sensor", &token).await.expect_err("over").word(), "time");
    let api = world.token(&device, Some(API)).await;
    assert_eq!(world.connect("sensor", &api).await.expect_err("for the API"), Refusal::OtherService);
}

#[tokio::test]
async fn i14_no_credential_is_taken_without_confidentiality_and_nobody_gets_in_without_one() {
    let world = World::new().await;
    let device = world.device("sensor").await;
    let id = MqttClientId::parse("sensor").expect("a client id");
    let jwt = device.connect_jwt(BRIDGE, world.now_s()).sign();
    let backend = PrincipalName::parse("backend").expect("a name");
    let judge = async |change: &dyn Fn(&mut ConnectRequest<'_>)| -> Result<Connected, Refusal> {
        let mut request = request(&id, Some(jwt.as_bytes()));
        change(&mut request);
        let mut request = ConnectRequest { anonymous_as: None, ..request };
        let bare = request.username.is_none() && request.password.is_none();
        if bare {
            request.anonymous_as = Some(&backend);
        }
        world::connected(world.admission.connect(request).await)
    };
    let before = world.checks();
    assert_eq!(judge(&|r| r.confidential = false).await.expect_err("plain"), Refusal::NotConfidential);
    assert_eq!(judge(&|r| r.password = None).await.expect_err("a name alone"), Refusal::NoCredential);
    let anonymous =
        |r: &mut ConnectRequest<'_>| (r.username, r.password, r.confidential) = (None, None, false);
    assert_eq!(judge(&anonymous).await.expect_err("no such application yet"), Refusal::NoCredential);
    assert_eq!(world.checks(), before);

    let new = NewApplication { name: backend.clone(), keys: vec![], policy: None };
    world.admission.add_application(&world.registry, new, &Actor::Admin).await.expect("registered");
    let session = judge(&anonymous).await.expect("in as the application");
    assert_eq!((session.name.as_str(), session.ends, session.sessions_max), ("backend", None, None));
    assert!(
        !session.rights.may_publish(TopicName::parse("t").expect("a topic")).allowed,
        "no policy, no rights"
    );
    world.admission.block(&world.registry, &backend, None, &Actor::Admin).await.expect("blocked");
    assert_eq!(judge(&anonymous).await.expect_err("blocked"), Refusal::NoCredential);
    let id = MqttClientId::parse("x").expect("a client id");
    // As a listener is without a word: where `authz-info` is open, such a client may publish a token.
    let nobody = ConnectRequest { username: None, ways: Ways::default(), ..request(&id, None) };
    assert_eq!(world.admission.connect(nobody).await.expect_err("switched off"), Refusal::NoCredential);
}

async fn google(world: &World, name: &str, project: &str) -> RegistryName {
    let registry = RegistryName::parse(name).expect("a registry name");
    let google = GoogleNames { project: project.into(), location: "europe-west1".into() };
    let new = NewRegistry {
        google: Some(google),
        clock_skew_s: Some(600),
        ..NewRegistry::named(registry.clone(), None)
    };
    world.admission.create_registry(new, &Actor::Admin).await.expect("made");
    registry
}

#[tokio::test]
async fn a_project_audience_counts_only_with_a_path_that_names_its_registry() {
    let world = World::new().await;
    let plant = google(&world, "plant", "my-project").await;
    google(&world, "office", "other-project").await;
    let device = TestDevice::new("sensor");
    world.register_in(&plant, &device, false).await;
    let path = "projects/my-project/locations/europe-west1/registries/plant/devices/sensor";
    // As Google's own samples sign it: no `sub`, no `jti`, no `kid`.
    let jwt = device.connect_jwt("my-project", world.now_s()).without("sub").sign();
    let session = world.connect(path, &jwt).await.expect("in");
    assert_eq!((session.registry.as_str(), session.name.as_str()), ("plant", "sensor"));
    assert!(session.leading_slash);
    assert_eq!(session.client_id.as_str(), path);
    assert_eq!(session.ends_ms, Some((world.now_s() + 3600 + 600) * 1000));

    for (case, client_id) in [
        ("another project", path.replace("my-project", "other-project")),
        ("another location", path.replace("europe-west1", "us-central1")),
        ("another registry", path.replace("plant", "office")),
        ("a registry that is not", path.replace("plant", "nowhere")),
        ("another device", path.replace("devices/sensor", "devices/lamp")),
        ("a plain id", "sensor".to_owned()),
    ] {
        let refusal = world.connect(&client_id, &jwt).await.expect_err(case);
        assert!(matches!(refusal.word(), "not-proven" | "audience"), "{case}: {refusal}");
    }
    world.register(&device, false).await;
    let token = world.token(&device, None).await;
    let refusal = world.connect(path, &token).await.expect_err("a token of `default`, a path of `plant`");
    assert_eq!(refusal.word(), "not-proven");
    let elsewhere = device.connect_jwt("other-project", world.now_s()).without("sub").sign();
    let refusal = world.connect(&path.replace("my-project", "other-project"), &elsewhere).await;
    refusal.expect_err("path and audience agree, but the registry stands for another project");
    let bridge = device.connect_jwt("https://core.example/r/plant/mqtt", world.now_s()).sign();
    for client_id in [path, "sensor"] {
        let session = world.connect(client_id, &bridge).await.expect("the bridge audience is good for both");
        assert_eq!((session.registry.as_str(), session.leading_slash), ("plant", client_id == path));
    }
}

#[tokio::test]
async fn no_credential_of_one_registry_is_good_in_another() {
    let world = World::new().await;
    let plant = RegistryName::parse("plant").expect("a registry name");
    let new = NewRegistry::named(plant.clone(), None);
    world.admission.create_registry(new, &Actor::Admin).await.expect("made");
    // The same name and the same key in both.
    let device = world.device("sensor").await;
    world.register_in(&plant, &device, false).await;
    let (here, there) = (world.registry.clone(), "https://core.example/r/plant");
    let admission = &world.admission;
    let login = async |registry: &RegistryName, assertion: &str| {
        let (client_id, scope, resource, peer) = (None, None, None, Peer::default());
        let request = drawbridge_admission::LoginRequest {
            client_id,
            scope,
            resource,
            ..LoginRequest::with_assertion(assertion, peer)
        };
        admission.login(registry, request).await
    };
    let assertion = device.assertion(ISSUER, world.now_s()).sign();
    assert_eq!(login(&plant, &assertion).await.expect_err("foreign").word(), "audience");
    let token = login(&here, &assertion).await.expect("at home").access_token;
    let audience = drawbridge_admission::Audience::Bridge;
    let foreign = admission.bearer(Some(&plant), &token, audience, Peer::default()).await;
    assert_eq!(foreign.expect_err("foreign").word(), "not-proven");
    admission.bearer(Some(&here), &token, audience, Peer::default()).await.expect("at home");

    // A jti is remembered per registry and principal.
    let jti = json!("0123456789abcdef");
    let one = device.assertion(ISSUER, world.now_s()).with("jti", jti.clone()).sign();
    let two = device.assertion(there, world.now_s()).with("jti", jti).sign();
    login(&here, &one).await.expect("in");
    login(&plant, &two).await.expect("in");

    let jwt = device.connect_jwt("https://core.example/r/plant/mqtt", world.now_s()).sign();
    let session = world.connect("sensor", &jwt).await.expect("in");
    assert_eq!(session.registry, plant, "the audience names the registry");
    let session = world.connect("sensor", &token).await.expect("in");
    assert_eq!(session.registry, here, "the issuer names the registry");
    let update = device.update(ISSUER, world.now_s(), TestDevice::new("x").public_key()).sign();
    let found = admission.update_key(&plant, &update, "", true, Peer::default()).await;
    assert_eq!(found.expect_err("foreign").word(), "audience");
}

#[tokio::test]
async fn no_audience_may_stand_for_two_things() {
    let world = World::new().await;
    google(&world, "plant", "my-project").await;
    let below = NewRegistry::named(
        RegistryName::parse("below").expect("a name"),
        Some("https://core.example/r/v1".to_owned()),
    );
    world.admission.create_registry(below, &Actor::Admin).await.expect("made");
    let named = |name: &str| NewRegistry::named(RegistryName::parse(name).expect("a name"), None);
    let with_project = |project: &str| GoogleNames { project: project.into(), location: "l".into() };
    for (case, new) in [
        ("the bridge of another", NewRegistry { bridge_audience: Some(BRIDGE.into()), ..named("x") }),
        ("the issuer of another", NewRegistry { bridge_audience: Some(ISSUER.into()), ..named("x") }),
        ("the API of another", NewRegistry { bridge_audience: Some(API.into()), ..named("x") }),
        (
            "its own issuer",
            NewRegistry { bridge_audience: Some("https://core.example/r/x".into()), ..named("x") },
        ),
        ("a project that is an issuer", NewRegistry { google: Some(with_project(ISSUER)), ..named("x") }),
        ("a project that is a bridge", NewRegistry { google: Some(with_project(BRIDGE)), ..named("x") }),
        (
            "a bridge that is a project",
            NewRegistry { bridge_audience: Some("my-project".into()), ..named("x") },
        ),
        ("the issuer of another as its own", NewRegistry { issuer: Some(ISSUER.into()), ..named("x") }),
        ("a bridge as its issuer", NewRegistry { issuer: Some(BRIDGE.into()), ..named("x") }),
        ("the API of another as its issuer", NewRegistry { issuer: Some(API.into()), ..named("x") }),
        (
            "the issuer of another as its API",
            NewRegistry { issuer: Some("https://core.example/r".into()), ..named("x") },
        ),
    ] {
        let error = world.admission.create_registry(new, &Actor::Admin).await.expect_err(case);
        assert_eq!(error.word(), "audience-taken", "{case}: {error}");
    }
    world.admission.create_registry(named("x"), &Actor::Admin).await.expect("with the usual values");
}

/// A cloud of robots was once open to each single owner's token, because who had a token might name any topic.
#[tokio::test]
async fn of_a_thousand_topics_of_other_devices_a_device_may_use_none() {
    let world = World::new().await;
    let lamp = world.device("lamp").await;
    let connected = world.connect("lamp", &lamp.connect_jwt(BRIDGE, world.now_s()).sign()).await.expect("in");
    assert!(
        connected.rights.may_publish(TopicName::parse("devices/lamp/state").expect("a topic")).allowed,
        "its own it may"
    );
    for number in 0..200 {
        // Also names that begin, or end, as its own does.
        let other = match number % 4 {
            0 => format!("pump-{number}"),
            1 => format!("lamp-{number}"),
            2 => format!("lamp{number}"),
            _ => format!("{number}lamp"),
        };
        for below in ["state", "events/x", "commands", "commands/run", "config"] {
            let text = format!("devices/{other}/{below}");
            assert!(
                !connected.rights.may_publish(TopicName::parse(&text).expect("a topic")).allowed,
                "publish {text}"
            );
            let filter = TopicFilter::parse(&text).expect("a filter");
            assert!(!connected.rights.may_subscribe(&filter).allowed, "subscribe {text}");
        }
    }
    for text in ["#", "devices/#", "devices/+/state", "+/+/commands/#", "devices/+/#"] {
        let filter = TopicFilter::parse(text).expect("a filter");
        assert!(!connected.rights.may_subscribe(&filter).allowed, "subscribe {text}");
    }
}
