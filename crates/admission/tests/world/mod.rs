//! A server's admission with a memory store, a fake clock and one registry; shared by the tests here.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part of it")]

use std::sync::Arc;

use drawbridge_admission::{
    Actor, Admission, AdmissionConfig, Caller, ConnectRequest, Connected, LoginRequest, NewApplication,
    NewDevice, NewRegistry, Peer, Refusal, TokenGrant, Verdict, Ways,
};
use drawbridge_names::{MqttClientId, PolicyName, PrincipalName, RegistryName};
use drawbridge_registry::memory::MemoryStore;
use drawbridge_testkit::{FakeClock, RecordingWatcher, SeededRandom, TestDevice, sealer};

pub const ISSUER: &str = "https://core.example";
pub const BRIDGE: &str = "https://core.example/mqtt";
pub const API: &str = "https://core.example/v1";
/// A thousand seconds before now, for JWTs that are too old whatever the skew.
pub const LONG_S: u64 = 1_000;

pub struct World {
    pub store: Arc<MemoryStore>,
    pub clock: Arc<FakeClock>,
    pub admission: Admission,
    pub watcher: Arc<RecordingWatcher>,
    pub registry: RegistryName,
}

impl World {
    pub async fn new() -> Self {
        let store = Arc::new(MemoryStore::new());
        let clock = Arc::new(FakeClock::default());
        let admission = open(&store, &clock, 1).await;
        let registry = RegistryName::default_registry();
        let new = NewRegistry::named(registry.clone(), Some(ISSUER.to_owned()));
        let (_, made) = admission.create_registry(new, &Actor::Admin).await.expect("made");
        assert!(made);
        let watcher = Arc::new(RecordingWatcher::default());
        admission.watch(watcher.clone());
        Self { store, clock, admission, watcher, registry }
    }

    pub fn now_s(&self) -> u64 {
        self.clock.now_s()
    }

    pub async fn device(&self, name: &str) -> TestDevice {
        let device = TestDevice::new(name);
        self.register(&device, false).await;
        device
    }

    pub async fn legacy_device(&self, name: &str) -> TestDevice {
        let device = TestDevice::new(name);
        self.register(&device, true).await;
        device
    }

    pub async fn register(&self, device: &TestDevice, legacy_assertions: bool) {
        self.register_in(&self.registry, device, legacy_assertions).await;
    }

    pub async fn register_in(&self, registry: &RegistryName, device: &TestDevice, legacy_assertions: bool) {
        let new = NewDevice {
            legacy_assertions,
            ..NewDevice::with_key(device.name.clone(), device.public_key().clone())
        };
        self.admission.add_device(registry, new, &Actor::Admin).await.expect("registered");
    }

    pub async fn application(&self, name: &str, keys: &TestDevice, policy: &str) {
        let policy_name = PolicyName::parse(name).expect("a policy name");
        self.admission.set_policy(&self.registry, &policy_name, policy, &Actor::Admin).await.expect("set");
        let new = NewApplication {
            name: PrincipalName::parse(name).expect("a name"),
            keys: vec![keys.public_key().clone().into()],
            policy: Some(policy_name),
        };
        self.admission.add_application(&self.registry, new, &Actor::Admin).await.expect("registered");
    }

    pub async fn login(&self, assertion: &str) -> Result<TokenGrant, Refusal> {
        self.login_for(assertion, None, None).await
    }

    pub async fn login_for(
        &self,
        assertion: &str,
        scope: Option<&str>,
        resource: Option<&str>,
    ) -> Result<TokenGrant, Refusal> {
        let request =
            LoginRequest { scope, resource, ..LoginRequest::with_assertion(assertion, Peer::default()) };
        self.admission.login(&self.registry, request).await
    }

    pub async fn legacy_login(&self, jwt: &str) -> Result<TokenGrant, Refusal> {
        self.admission.legacy_login(&self.registry, jwt, Some("backend"), None, Peer::default()).await
    }

    pub async fn connect(&self, client_id: &str, password: &str) -> Result<Connected, Refusal> {
        let client_id = MqttClientId::parse(client_id).expect("a client id");
        connected(self.admission.connect(request(&client_id, Some(password.as_bytes()))).await)
    }

    /// An access token for the bridge, or for the API.
    pub async fn token(&self, device: &TestDevice, resource: Option<&str>) -> String {
        let assertion = device.assertion(ISSUER, self.now_s()).sign();
        self.login_for(&assertion, None, resource).await.expect("logged in").access_token
    }

    pub fn checks(&self) -> u64 {
        self.admission.stats().signature_checks
    }
}

pub async fn open(store: &Arc<MemoryStore>, clock: &Arc<FakeClock>, seed: u64) -> Admission {
    let random = Arc::new(SeededRandom::new(seed));
    Admission::open(store.clone(), clock.clone(), random, sealer(), cheap_passwords()).await.expect("opened")
}

/// The usual settings, but for passwords whose checks cost nothing.
pub fn cheap_passwords() -> AdmissionConfig {
    AdmissionConfig { password_memory_kib: 8, password_passes: 1, ..AdmissionConfig::default() }
}

pub fn request<'a>(client_id: &'a MqttClientId, password: Option<&'a [u8]>) -> ConnectRequest<'a> {
    ConnectRequest {
        listener_registry: None,
        client_id,
        username: Some("unused"),
        password,
        confidential: true,
        anonymous_as: None,
        peer: Peer::default(),
        version: 5,
        method: None,
        data: None,
        challenged: None,
        tls: None,
        ways: Ways::ALL,
    }
}

/// Whoever is let in at once.
pub fn connected(verdict: Result<Verdict, Refusal>) -> Result<Connected, Refusal> {
    verdict.map(|verdict| verdict.into_connected().expect("nothing is asked first"))
}

pub fn name_of(caller: &Caller) -> &str {
    match caller {
        Caller::Admin => "admin",
        Caller::Principal(authorized) => authorized.name.as_str(),
    }
}
