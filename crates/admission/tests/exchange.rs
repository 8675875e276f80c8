//! A gateway acts for the devices that are linked to it: for no other, for no more, for no longer.

mod world;

use drawbridge_admission::{
    Actor, Audience, BindingRequest, ClientCredential, ExchangeRequest, Peer, Refusal, RegistryChange,
    SessionsEnd, TokenGrant, TokenRequest,
};
use drawbridge_jose::base64url_encode;
use drawbridge_names::{PrincipalName, TopicName};
use drawbridge_registry::{PrincipalSettings, RegistrySettings, TokenFormat};
use drawbridge_testkit::TestDevice;
use serde_json::json;
use world::{API, BRIDGE, ISSUER, World};

const FORMATS: [TokenFormat; 2] = [TokenFormat::Jwt, TokenFormat::Opaque];

struct House {
    world: World,
    gateway: TestDevice,
    lamp: TestDevice,
    stranger: TestDevice,
}

fn name(text: &str) -> PrincipalName {
    PrincipalName::parse(text).expect("a name")
}

impl House {
    async fn new(format: TokenFormat) -> Self {
        let world = World::new().await;
        let settings = RegistrySettings { token_format: format, ..RegistrySettings::default() };
        let change = RegistryChange { settings: Some(settings), ..RegistryChange::default() };
        world.admission.change_registry(&world.registry, change, &Actor::Admin).await.expect("changed");
        let gateway = world.device("gw-3").await;
        let (lamp, stranger) = (world.device("lamp").await, world.device("stranger").await);
        let house = Self { world, gateway, lamp, stranger };
        house.be_gateway("gw-3", true).await;
        house.link("gw-3", "lamp", true).await;
        house
    }

    async fn be_gateway(&self, of: &str, gateway: bool) {
        let settings = PrincipalSettings { gateway, ..PrincipalSettings::default() };
        let world = &self.world;
        let set =
            world.admission.set_settings(&world.registry, &name(of), settings, None, &Actor::Admin).await;
        set.map(drop).expect("set");
    }

    async fn link(&self, gateway: &str, device: &str, on: bool) {
        let (admission, registry) = (&self.world.admission, &self.world.registry);
        let (gateway, device) = (name(gateway), name(device));
        let changed = match on {
            true => admission.link(registry, &gateway, &device, &Actor::Admin).await,
            false => admission.unlink(registry, &gateway, &device, &Actor::Admin).await,
        };
        assert!(changed.expect("done"));
    }

    async fn ask(&self, client: &TestDevice, asked: Asked<'_>) -> Result<TokenGrant, Refusal> {
        let assertion = client.assertion(ISSUER, self.world.now_s()).sign();
        let request = ExchangeRequest {
            credential: ClientCredential::Assertion(&assertion),
            client_id: None,
            subject_token: asked.subject,
            actor_token: asked.actor,
            device: asked.device,
            audience: asked.audience,
            resource: asked.resource,
            scope: asked.scope,
            binding: BindingRequest::default(),
            peer: Peer::default(),
        };
        self.world.admission.exchange(&self.world.registry, request).await
    }

    async fn for_device(&self, device: &str) -> Result<TokenGrant, Refusal> {
        let own = self.world.token(&self.gateway, None).await;
        self.ask(&self.gateway, Asked { device: Some(device), ..Asked::of(&own) }).await
    }

    async fn bearer(&self, token: &str) -> Result<(), Refusal> {
        let world = &self.world;
        let bearer = world.admission.bearer(None, token, Audience::Bridge, Peer::default());
        bearer.await.map(drop)
    }
}

/// What an exchange asks for.
#[derive(Clone, Copy)]
struct Asked<'a> {
    subject: &'a str,
    actor: Option<&'a str>,
    device: Option<&'a str>,
    audience: Option<&'a str>,
    resource: Option<&'a str>,
    scope: Option<&'a str>,
}

impl<'a> Asked<'a> {
    fn of(subject: &'a str) -> Self {
        Self { subject, actor: None, device: None, audience: None, resource: None, scope: None }
    }

    fn by(subject: &'a str, actor: &'a str) -> Self {
        Self { actor: Some(actor), ..Self::of(subject) }
    }
}

#[tokio::test]
async fn both_ways_to_name_the_device_give_a_token_of_the_device_by_the_gateway() {
    for format in FORMATS {
        let house = House::new(format).await;
        let world = &house.world;
        let of_lamp = world.token(&house.lamp, None).await;
        let of_gateway = world.token(&house.gateway, None).await;
        let grants = [
            house.for_device("lamp").await.expect("by link"),
            house.ask(&house.gateway, Asked::by(&of_lamp, &of_gateway)).await.expect("by token"),
        ];
        for grant in grants {
            assert_eq!(grant.name.as_str(), "lamp");
            assert_eq!(grant.audience, BRIDGE);
            house.bearer(&grant.access_token).await.expect("good");
            let session = world.connect("lamp", &grant.access_token).await.expect("in");
            assert_eq!(session.name.as_str(), "lamp");
            let topic = |text| TopicName::parse(text).expect("a topic");
            assert!(session.rights.may_publish(topic("devices/lamp/events/on")).allowed);
            assert!(!session.rights.may_publish(topic("devices/gw-3/events/on")).allowed);
            // The record and its keys are the device's own.
            for audience in [Audience::SelfRead, Audience::Api] {
                let read = world.admission.bearer(None, &grant.access_token, audience, Peer::default()).await;
                assert!(read.is_err(), "{audience:?}");
            }
            for asker in [&house.gateway, &house.lamp] {
                let assertion = asker.assertion(ISSUER, world.now_s()).sign();
                let request = TokenRequest {
                    credential: ClientCredential::Assertion(&assertion),
                    client_id: None,
                    token: &grant.access_token,
                    peer: Peer::default(),
                };
                let told = world.admission.introspect(&world.registry, request).await.expect("told").body;
                assert_eq!((&told["sub"], &told["client_id"]), (&json!("lamp"), &json!("gw-3")));
                assert_eq!(told["act"], json!({ "sub": "gw-3" }));
            }
        }
    }
}

#[tokio::test]
async fn what_does_not_fit_is_refused() {
    let house = House::new(TokenFormat::Jwt).await;
    let world = &house.world;
    let of_lamp = world.token(&house.lamp, None).await;
    let of_gateway = world.token(&house.gateway, None).await;
    let of_stranger = world.token(&house.stranger, None).await;
    let for_api = world.token(&house.lamp, Some(API)).await;
    let acted = house.for_device("lamp").await.expect("linked").access_token;
    let words = |result: Result<TokenGrant, Refusal>| result.map(drop).expect_err("refused").word();

    assert_eq!(words(house.for_device("stranger").await), "not-linked");
    assert_eq!(words(house.for_device("nobody").await), "not-linked", "as one that is not linked");
    assert_eq!(words(house.for_device("gw-3").await), "not-linked", "itself");
    type Row<'a> = (&'a str, &'a TestDevice, &'a str, Option<&'a str>, &'a str);
    let rows: [Row<'_>; 11] = [
        ("the device's token without an actor", &house.gateway, &of_lamp, None, "exchange"),
        ("its own token without a device", &house.gateway, &of_gateway, None, "exchange"),
        ("of an unlinked device", &house.gateway, &of_stranger, Some(&of_gateway), "not-linked"),
        ("the actor is another", &house.gateway, &of_lamp, Some(&of_stranger), "exchange"),
        ("the client is not the actor", &house.lamp, &of_lamp, Some(&of_gateway), "not-linked"),
        ("the client is a stranger", &house.stranger, &of_lamp, Some(&of_gateway), "not-linked"),
        ("an exchanged subject", &house.gateway, &acted, Some(&of_gateway), "exchange"),
        ("an exchanged actor", &house.gateway, &of_lamp, Some(&acted), "exchange"),
        ("for the API", &house.gateway, &for_api, Some(&of_gateway), "exchange"),
        ("no token", &house.gateway, "x", Some(&of_gateway), "exchange"),
        ("no actor token", &house.gateway, &of_lamp, Some("dbo_x"), "exchange"),
    ];
    for (what, client, subject, actor, expected) in rows {
        let asked = Asked { actor, ..Asked::of(subject) };
        assert_eq!(words(house.ask(client, asked).await), expected, "{what}");
    }
    for (device, audience, resource, expected) in [
        (Some("stranger"), None, None, Err("exchange")),
        (Some("lamp"), None, None, Ok(())),
        (None, Some("lamp"), None, Ok(())),
        (None, Some(BRIDGE), None, Ok(())),
        (None, None, Some(BRIDGE), Ok(())),
        (None, Some("lamp"), Some(BRIDGE), Ok(())),
        (None, Some("stranger"), None, Err("target")),
        (None, Some("lamp"), Some(API), Err("target")),
        (None, None, Some(API), Err("target")),
        (None, Some(BRIDGE), Some(API), Err("target")),
    ] {
        let asked = Asked { device, audience, resource, ..Asked::by(&of_lamp, &of_gateway) };
        let found = house.ask(&house.gateway, asked).await.map(drop);
        assert_eq!(found.map_err(|refusal| refusal.word()), expected, "{device:?} {audience:?} {resource:?}");
    }
    house.be_gateway("gw-3", false).await;
    assert_eq!(words(house.for_device("lamp").await), "not-linked", "no gateway any more");
}

#[tokio::test]
async fn scope_and_life_never_widen() {
    let house = House::new(TokenFormat::Jwt).await;
    let world = &house.world;
    let grant = |pairs: serde_json::Value| base64url_encode(pairs.to_string().as_bytes());
    let events = grant(json!([["devices/lamp/events/#", ["pub"]]]));
    let door = grant(json!([["devices/lamp/events/door", ["pub"]]]));
    let state = grant(json!([["devices/lamp/state", ["pub"]]]));
    let foreign = grant(json!([["devices/gw-3/state", ["pub"]]]));
    let of_gateway = world.token(&house.gateway, None).await;
    let assertion = house.lamp.assertion(ISSUER, world.now_s()).sign();
    let narrow = world.login_for(&assertion, Some(&events), None).await.expect("in").access_token;
    for (asked, expected) in [
        (None, Ok(Some(events.clone()))),
        (Some(&events), Ok(Some(events.clone()))),
        (Some(&door), Ok(Some(door.clone()))),
        (Some(&state), Err("scope")),
        (Some(&foreign), Err("scope")),
    ] {
        let request = Asked { scope: asked.map(String::as_str), ..Asked::by(&narrow, &of_gateway) };
        let found = house.ask(&house.gateway, request).await;
        assert_eq!(found.map(|found| found.scope).map_err(|refusal| refusal.word()), expected, "{asked:?}");
    }

    // The tokens it was made from end earlier than a new one would.
    world.clock.advance_s(3_000);
    let of_lamp = world.token(&house.lamp, None).await;
    let late = house.ask(&house.gateway, Asked::by(&of_lamp, &of_gateway)).await.expect("in time");
    assert_eq!(late.expires_in_s, 600, "as long as the actor's");
    let new = world.token(&house.gateway, None).await;
    let late = house.ask(&house.gateway, Asked::by(&narrow, &new)).await.expect("in time");
    assert_eq!(late.expires_in_s, 600, "as long as the subject's");
}

#[tokio::test]
async fn whatever_happens_to_gateway_device_or_link_ends_what_the_gateway_opened() {
    for format in FORMATS {
        for death in
            ["block", "revoke", "delete", "unlink", "no gateway", "key", "device revoked", "device blocked"]
        {
            let house = House::new(format).await;
            let world = &house.world;
            let grant = house.for_device("lamp").await.expect("linked");
            let token = grant.access_token;
            let session = world.connect("lamp", &token).await.expect("in");
            let own = world.connect("lamp", &house.lamp.connect_jwt(BRIDGE, world.now_s()).sign()).await;
            let own = own.expect("in");
            world.watcher.take();
            let (registry, admin, gw, lamp) = (&world.registry, &Actor::Admin, name("gw-3"), name("lamp"));
            let admission = &world.admission;
            match death {
                "block" => admission.block(registry, &gw, None, admin).await.map(drop).expect("done"),
                "revoke" => admission.revoke(registry, &gw, "", None, admin).await.map(drop).expect("done"),
                "delete" => admission.delete(registry, &gw, admin).await.expect("done"),
                "unlink" => house.link("gw-3", "lamp", false).await,
                "no gateway" => house.be_gateway("gw-3", false).await,
                "key" => {
                    let kid = house.gateway.kid();
                    admission.remove_key(registry, &gw, &kid, true, admin).await.expect("done");
                }
                "device revoked" => {
                    admission.revoke(registry, &lamp, "", None, admin).await.map(drop).expect("done");
                }
                _ => admission.block(registry, &lamp, None, admin).await.map(drop).expect("done"),
            }
            let of_device = death.starts_with("device");
            house.bearer(&token).await.expect_err(death);
            assert!(!admission.still_good(&session), "{format:?} {death}");
            if !of_device && death != "unlink" && death != "no gateway" {
                assert!(admission.still_good(&own), "{death}: the device's own session stands");
            }
            let gateway_uid = session.token.as_ref().and_then(|token| token.gateway).expect("acts");
            let ends = |event: &SessionsEnd| match event {
                SessionsEnd::Gateway { gateway, .. } => *gateway == gateway_uid,
                SessionsEnd::Link { gateway, device, .. } => {
                    *gateway == gateway_uid && *device == session.uid
                }
                SessionsEnd::Principal { uid, .. } => of_device && *uid == session.uid,
                _ => false,
            };
            let events = world.watcher.take();
            assert!(events.iter().any(ends), "{format:?} {death}: {events:?}");
        }
    }
}

#[tokio::test]
async fn the_assertion_of_a_gateway_is_used_up_and_counts_for_the_gateway() {
    let house = House::new(TokenFormat::Jwt).await;
    let world = &house.world;
    let own = world.token(&house.gateway, None).await;
    let assertion = house.gateway.assertion(ISSUER, world.now_s()).sign();
    let request = ExchangeRequest {
        credential: ClientCredential::Assertion(&assertion),
        client_id: Some("gw-3"),
        subject_token: &own,
        actor_token: None,
        device: Some("lamp"),
        audience: None,
        resource: None,
        scope: None,
        binding: BindingRequest::default(),
        peer: Peer::default(),
    };
    world.admission.exchange(&world.registry, request).await.expect("the first time");
    let again = world.admission.exchange(&world.registry, request).await.map(drop);
    assert_eq!(again, Err(Refusal::Replay));
    assert_eq!(world.login(&assertion).await.map(drop), Err(Refusal::Replay));
}
