//! DESIGN 5.16: who is charged for what, at every door.

mod world;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use drawbridge_admission::{
    Actor, Admission, AdmissionConfig, Audience, BindingRequest, Caller, ClientCredential, ExchangeRequest,
    LimitsConfig, LoginRequest, NewApplication, NewDevice, NewRegistry, Peer, Refusal, TokenRequest,
};
use drawbridge_names::{MqttClientId, RegistryName};
use drawbridge_registry::memory::MemoryStore;
use drawbridge_registry::{PrincipalSettings, Role};
use drawbridge_testkit::{FakeClock, SeededRandom, TestDevice, sealer};
use world::{BRIDGE, ISSUER, request};

const PASSWORD: &str = "correct horse battery";

struct Limited {
    admission: Admission,
    clock: Arc<FakeClock>,
    registry: RegistryName,
}

impl Limited {
    async fn new(change: impl FnOnce(&mut LimitsConfig)) -> Self {
        let clock = Arc::new(FakeClock::default());
        let mut settings = AdmissionConfig::default();
        settings.limits.exempt.clear();
        change(&mut settings.limits);
        let random = Arc::new(SeededRandom::new(1));
        let store = Arc::new(MemoryStore::new());
        let admission =
            Admission::open(store, clock.clone(), random, sealer(), settings).await.expect("opened");
        let registry = RegistryName::default_registry();
        let new = NewRegistry::named(registry.clone(), Some(ISSUER.to_owned()));
        admission.create_registry(new, &Actor::Admin).await.expect("made");
        Self { admission, clock, registry }
    }

    async fn device(&self, name: &str) -> TestDevice {
        let device = TestDevice::new(name);
        let new = NewDevice::with_key(device.name.clone(), device.public_key().clone());
        self.admission.add_device(&self.registry, new, &Actor::Admin).await.expect(name);
        device
    }

    async fn login(&self, device: &TestDevice, from: Peer) -> Result<String, Refusal> {
        let jwt = device.assertion(ISSUER, self.clock.now_s()).sign();
        let request = LoginRequest::with_assertion(&jwt, from);
        self.admission.login(&self.registry, request).await.map(|grant| grant.access_token.to_string())
    }
}

fn from(text: &str) -> Peer {
    Peer::from(text.parse::<IpAddr>().expect(text))
}

#[tokio::test]
async fn a_prober_spends_what_is_its_addresses_and_never_locks_a_device_out() {
    let limited = Limited::new(|limits| limits.address_burst = 20).await;
    let (lamp, forger) = (limited.device("lamp").await, TestDevice::new("lamp"));
    let prober = from("192.0.2.66");
    for _ in 0..20 {
        let refused = limited.login(&forger, prober).await.expect_err("a forged key");
        assert_eq!(refused.word(), "not-proven");
    }
    let checks = limited.admission.stats().signature_checks;
    for _ in 0..100 {
        let refused = limited.login(&forger, prober).await.expect_err("a forged key");
        assert_eq!(refused, Refusal::RateLimited { retry_after_s: 1 });
    }
    assert_eq!(
        limited.admission.stats().signature_checks,
        checks,
        "what is limited costs no signature check"
    );
    limited.login(&lamp, from("192.0.2.1")).await.expect("the device itself, from elsewhere");
    limited.clock.advance(Duration::from_secs(1));
    limited.login(&lamp, prober).await.expect("and from there, once its address has waited");
}

#[tokio::test]
async fn who_proves_who_he_is_is_not_charged_to_the_address_a_fleet_behind_one_line_gets_in() {
    let limited = Limited::new(|limits| limits.address_burst = 5).await;
    for number in 0..50 {
        let device = limited.device(&format!("lamp-{number}")).await;
        limited.login(&device, from("198.51.100.7")).await.expect("in");
    }
}

#[tokio::test]
async fn a_device_that_logs_in_too_often_is_told_so_and_its_connection_too() {
    let limited = Limited::new(|limits| limits.principal_burst = 10).await;
    let (lamp, other) = (limited.device("lamp").await, limited.device("other").await);
    let here = from("192.0.2.1");
    for _ in 0..9 {
        limited.login(&lamp, here).await.expect("within the burst");
    }
    let client_id = MqttClientId::parse("lamp").expect("an id");
    let connect = async || {
        let jwt = lamp.connect_jwt(BRIDGE, limited.clock.now_s()).sign();
        let request =
            drawbridge_admission::ConnectRequest { peer: here, ..request(&client_id, Some(jwt.as_bytes())) };
        limited.admission.connect(request).await.map(drop)
    };
    connect().await.expect("the tenth");
    for refused in [connect().await, limited.login(&lamp, here).await.map(drop)] {
        let refused = refused.expect_err("the eleventh");
        assert_eq!(refused, Refusal::TooOften { retry_after_s: 1 });
        assert!(refused.for_owner().expect("it has proven who it is").contains("too often"));
    }
    limited.login(&other, here).await.expect("another device is not concerned");
    limited.clock.advance(Duration::from_millis(200));
    limited.login(&lamp, here).await.expect("5 in a second come back");
}

#[tokio::test]
async fn every_door_charges_the_address_for_what_is_not_proven() {
    let limited = Limited::new(|limits| limits.address_burst = 1).await;
    limited.device("lamp").await;
    let (forger, new) = (TestDevice::new("lamp"), TestDevice::new("lamp"));
    let (admission, registry) = (&limited.admission, &limited.registry);
    let now_s = limited.clock.now_s();
    let client_id = MqttClientId::parse("lamp").expect("an id");
    let doors = ["login", "legacy-login", "connect", "bearer", "admin", "update", "legacy-update"];
    for (number, door) in doors.into_iter().enumerate() {
        let peer = from(&format!("192.0.2.{number}"));
        for attempt in 0..3 {
            let refused = match door {
                "login" => limited.login(&forger, peer).await.map(drop),
                "legacy-login" => {
                    let jwt = forger.legacy_login().sign();
                    admission.legacy_login(registry, &jwt, None, None, peer).await.map(drop)
                }
                "connect" => {
                    let jwt = forger.connect_jwt(BRIDGE, now_s).sign();
                    let request = request(&client_id, Some(jwt.as_bytes()));
                    let request = drawbridge_admission::ConnectRequest { peer, ..request };
                    admission.connect(request).await.map(drop)
                }
                "bearer" => {
                    let jwt = forger.assertion(ISSUER, now_s).sign();
                    admission.bearer(Some(registry), &jwt, Audience::Api, peer).await.map(drop)
                }
                "admin" => {
                    let guess = format!("dba_{}", "A".repeat(49));
                    admission.bearer(Some(registry), &guess, Audience::Api, peer).await.map(drop)
                }
                "update" => {
                    let update = forger.update(ISSUER, now_s, new.public_key()).sign();
                    let pop = new.pop(ISSUER, &update).sign();
                    admission.update_key(registry, &update, &pop, true, peer).await.map(drop)
                }
                _ => {
                    let update = forger.legacy_update(new.public_key()).sign();
                    let pop = new.legacy_pop(&update);
                    admission.legacy_update_key(registry, &update, &pop, peer).await.map(drop)
                }
            };
            let word = refused.expect_err(door).word();
            assert_eq!(word == "rate-limited", attempt > 0, "{door}, attempt {attempt}: {word}");
        }
    }
}

#[tokio::test]
async fn whoever_proves_himself_is_charged_at_every_door_but_an_application_whose_task_is_to_ask() {
    let limited = Limited::new(|limits| limits.principal_burst = 3).await;
    let here = from("192.0.2.1");
    let (admission, registry) = (&limited.admission, &limited.registry);
    let platform = limited.device("platform").await;
    admission.delete(registry, &platform.name, &Actor::Admin).await.expect("an application instead");
    let platform = TestDevice::new("platform");
    let new = NewApplication {
        name: platform.name.clone(),
        keys: vec![platform.public_key().clone().into()],
        policy: None,
    };
    admission.add_application(registry, new, &Actor::Admin).await.expect("registered");
    let roles = PrincipalSettings { roles: [Role::Introspect].into(), ..PrincipalSettings::default() };
    admission.set_settings(registry, &platform.name, roles, None, &Actor::Admin).await.expect("set");

    for door in
        ["introspect", "revoke", "exchange", "key-update", "key-remove", "password", "introspect by role"]
    {
        // Each with a device, and so a budget, of its own.
        let lamp = limited.device(&format!("lamp-{}", door.replace(' ', "-"))).await;
        let token = limited.login(&lamp, here).await.expect("in, the first of three");
        if door == "password" {
            let set = admission.set_password(registry, &lamp.name, Some(PASSWORD), None, &Actor::Admin).await;
            set.map(drop).expect("set");
        }
        for attempt in 2..8 {
            let now_s = limited.clock.now_s();
            let by_role = door == "introspect by role";
            let asker = if by_role { &platform } else { &lamp };
            let assertion = asker.assertion(ISSUER, now_s).sign();
            let credential = ClientCredential::Assertion(&assertion);
            let question = TokenRequest { credential, client_id: None, token: &token, peer: here };
            let found = match door {
                "introspect" | "introspect by role" => {
                    admission.introspect(registry, question).await.map(drop)
                }
                "revoke" => admission.revoke_token(registry, question).await,
                "exchange" => {
                    let request = ExchangeRequest {
                        credential,
                        client_id: None,
                        subject_token: &token,
                        actor_token: None,
                        device: Some("other"),
                        audience: None,
                        resource: None,
                        scope: None,
                        binding: BindingRequest::default(),
                        peer: here,
                    };
                    admission.exchange(registry, request).await.map(drop)
                }
                "key-update" => {
                    let update = lamp.update(ISSUER, now_s, lamp.public_key()).sign();
                    let pop = lamp.pop(ISSUER, &update).sign();
                    admission.update_key(registry, &update, &pop, true, here).await.map(drop)
                }
                "key-remove" => {
                    let removal = lamp.removal(ISSUER, now_s, &lamp.kid()).sign();
                    admission.remove_own_key(registry, &removal, None, here).await.map(drop)
                }
                _ => {
                    let client_id = MqttClientId::parse("").expect("empty");
                    let request = drawbridge_admission::ConnectRequest {
                        username: Some(lamp.name.as_str()),
                        peer: here,
                        ..request(&client_id, Some(PASSWORD.as_bytes()))
                    };
                    admission.connect(request).await.map(drop)
                }
            };
            let too_often = matches!(found, Err(Refusal::TooOften { .. }));
            assert_eq!(too_often, attempt > 3 && !by_role, "{door}, attempt {attempt}: {found:?}");
        }
    }
}

#[tokio::test]
async fn a_good_token_is_never_charged() {
    let limited = Limited::new(|limits| {
        limits.address_burst = 2;
        limits.principal_burst = 2;
    })
    .await;
    let lamp = limited.device("lamp").await;
    let here = from("192.0.2.1");
    let token = limited.login(&lamp, here).await.expect("in");
    for _ in 0..100 {
        let caller = limited.admission.bearer(None, &token, Audience::SelfRead, here).await.expect("in");
        assert!(matches!(caller, Caller::Principal(_)));
    }
}

#[tokio::test]
async fn loopback_is_exempt_unless_the_settings_say_otherwise() {
    let clock = Arc::new(FakeClock::default());
    let random = Arc::new(SeededRandom::new(1));
    let store = Arc::new(MemoryStore::new());
    let settings = AdmissionConfig::default();
    let admission = Admission::open(store, clock, random, sealer(), settings).await.expect("opened");
    let forged = format!("dba_{}", "A".repeat(49));
    for _ in 0..2_000 {
        let refused = admission.bearer(None, &forged, Audience::SelfRead, from("127.0.0.1")).await;
        assert_eq!(refused.expect_err("forged").word(), "not-proven");
    }
}
