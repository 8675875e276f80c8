//! DESIGN 5.16: ways around the limits that lead nowhere.

mod world;

use std::net::IpAddr;
use std::sync::Arc;

use drawbridge_admission::{
    Actor, Admission, AdmissionConfig, Audience, ClientCertificate, ClientCredential, ConnectRequest,
    LimitsConfig, LoginRequest, NewDevice, NewRegistry, Peer, Refusal,
};
use drawbridge_names::{MqttClientId, RegistryName};
use drawbridge_registry::memory::MemoryStore;
use drawbridge_testkit::{FakeClock, SeededRandom, TestDevice, sealer};
use world::{ISSUER, cheap_passwords, request};

async fn limited(change: impl FnOnce(&mut LimitsConfig)) -> (Admission, Arc<FakeClock>, TestDevice) {
    let clock = Arc::new(FakeClock::default());
    let mut settings = AdmissionConfig { ..cheap_passwords() };
    settings.limits.exempt.clear();
    change(&mut settings.limits);
    let (store, random) = (Arc::new(MemoryStore::new()), Arc::new(SeededRandom::new(1)));
    let admission = Admission::open(store, clock.clone(), random, sealer(), settings).await.expect("opened");
    let registry = RegistryName::default_registry();
    let new = NewRegistry::named(registry.clone(), Some(ISSUER.to_owned()));
    admission.create_registry(new, &Actor::Admin).await.expect("made");
    let device = TestDevice::new("lamp");
    let new = NewDevice::with_key(device.name.clone(), device.public_key().clone());
    admission.add_device(&registry, new, &Actor::Admin).await.expect("added");
    (admission, clock, device)
}

fn from(text: &str) -> Peer {
    Peer::from(text.parse::<IpAddr>().expect(text))
}

async fn login(admission: &Admission, jwt: &str, from: Peer) -> Result<String, Refusal> {
    let request = LoginRequest::with_assertion(jwt, from);
    let grant = admission.login(&RegistryName::default_registry(), request).await;
    grant.map(|grant| grant.access_token)
}

#[tokio::test]
async fn a_credential_that_is_dead_opens_no_way_around_the_limits() {
    let (admission, clock, lamp) = limited(|limits| limits.address_burst = 10).await;
    let registry = RegistryName::default_registry();
    let used = lamp.assertion(ISSUER, clock.now_s()).sign();
    let token = login(&admission, &used, from("198.51.100.1")).await.expect("in");
    for dead in ["used", "ended", "revoked token"] {
        // Somebody has found it in a log.
        let thief = from(&format!("192.0.2.{}", dead.len()));
        match dead {
            "ended" => clock.advance_s(1_000),
            "revoked token" => {
                let revoked = admission.revoke(&registry, &lamp.name, "found", None, &Actor::Admin).await;
                revoked.map(drop).expect("revoked");
            }
            _ => {}
        }
        let mut last = String::new();
        for _ in 0..11 {
            let refused = match dead {
                "revoked token" => admission.bearer(None, &token, Audience::SelfRead, thief).await.map(drop),
                _ => login(&admission, &used, thief).await.map(drop),
            };
            last = refused.expect_err(dead).word().to_owned();
        }
        assert_eq!(last, "rate-limited", "{dead}");
    }
    let jwt = lamp.assertion(ISSUER, clock.now_s() + 1).sign();
    login(&admission, &jwt, from("198.51.100.1")).await.expect("the device itself is not concerned");
}

#[tokio::test]
async fn one_address_that_guesses_passwords_leaves_the_queue_to_others() {
    let (admission, clock, lamp) = limited(|limits| limits.address_burst = 100).await;
    let registry = RegistryName::default_registry();
    let set = admission.set_password(&registry, &lamp.name, Some("correct horse"), None, &Actor::Admin).await;
    set.map(drop).expect("set");
    let client_id = MqttClientId::parse("").expect("empty");
    let connect = async |name: &'static str, password: &'static [u8], peer: Peer| {
        let request = ConnectRequest { username: Some(name), peer, ..request(&client_id, Some(password)) };
        admission.connect(request).await.map(drop)
    };
    let guesser = from("192.0.2.66");
    let before = admission.stats().password_checks;
    for _ in 0..10 {
        for name in ["nobody", "lamp"] {
            for _ in 0..50 {
                connect(name, b"a wrong one", guesser).await.expect_err("wrong");
            }
        }
    }
    assert_eq!(admission.stats().password_checks - before, 5, "100 at once are 5 passwords");
    clock.advance_s(1);
    for _ in 0..50 {
        connect("nobody", b"a wrong one", guesser).await.expect_err("wrong");
    }
    assert_eq!(admission.stats().password_checks - before, 10, "100 in a second are 5 passwords");
    connect("lamp", b"correct horse", from("198.51.100.1")).await.expect("the device, from elsewhere");
    clock.advance_s(1);
    connect("lamp", b"correct horse", guesser).await.expect("and from there, once its address has waited");
}

#[tokio::test]
async fn a_certificate_of_nobody_costs_as_much_as_a_wrong_password() {
    let (admission, _, _) = limited(|limits| limits.address_burst = 100).await;
    let registry = RegistryName::default_registry();
    let certificate = ClientCertificate { chain_der: vec![vec![0x30, 0x03, 0x02, 0x01, 0x01]] };
    let credential = ClientCredential::Certificate { client_id: "lamp", certificate: &certificate };
    let mut judged = 0;
    for _ in 0..20 {
        let request = LoginRequest { credential, ..LoginRequest::with_assertion("", from("192.0.2.66")) };
        let refused = admission.login(&registry, request).await.expect_err("of nobody");
        judged += u32::from(refused.word() == "not-proven");
    }
    assert_eq!(judged, 5);
}
