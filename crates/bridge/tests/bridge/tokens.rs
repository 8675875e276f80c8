//! I6 for access tokens: when one dies before its time, the session that it has opened dies with it.

use std::time::{Duration, Instant};

use drawbridge_admission::{
    Actor, BindingRequest, ClientCredential, ExchangeRequest, LoginRequest, Peer, Presentation,
    RefreshedSession, Refusal, RegistryChange, Rotation, TokenRequest,
};
use drawbridge_names::MqttClientId;
use drawbridge_registry::{PrincipalSettings, RegistrySettings, TokenFormat};
use drawbridge_testkit::TestDevice;

use crate::client::{Client, End, Level, PINGREQ};
use crate::rig::{ISSUER, Rig, now_s, registry, rig};

/// A machine that is busy with other tests may be slower than the promise; so much is let pass.
const BOUND: Duration = Duration::from_secs(3);

impl Rig {
    fn use_format(&self, token_format: TokenFormat) {
        let settings = RegistrySettings { token_format, ..RegistrySettings::default() };
        let change = RegistryChange { settings: Some(settings), ..RegistryChange::default() };
        let registry = registry();
        let changed = self.admission.change_registry(&registry, change, &Actor::Admin);
        self.runtime.block_on(changed).expect("changed");
    }

    fn token(&self, device: &TestDevice) -> String {
        let assertion = device.assertion(ISSUER, now_s()).sign();
        let registry = registry();
        let login =
            self.admission.login(&registry, LoginRequest::with_assertion(&assertion, Peer::default()));
        self.runtime.block_on(login).expect("logged in").access_token
    }

    fn revoke(&self, device: &TestDevice, token: &str) {
        let assertion = device.assertion(ISSUER, now_s()).sign();
        let credential = ClientCredential::Assertion(&assertion);
        let request = TokenRequest { credential, client_id: None, token, peer: Peer::default() };
        let registry = registry();
        self.runtime.block_on(self.admission.revoke_token(&registry, request)).expect("answered");
    }

    fn exchange(&self, gateway: &TestDevice, device: &str) -> String {
        let own = self.token(gateway);
        let assertion = gateway.assertion(ISSUER, now_s()).sign();
        let request = ExchangeRequest {
            credential: ClientCredential::Assertion(&assertion),
            client_id: None,
            subject_token: &own,
            actor_token: None,
            device: Some(device),
            audience: None,
            resource: None,
            scope: None,
            binding: BindingRequest::default(),
            peer: Peer::default(),
        };
        let registry = registry();
        self.runtime.block_on(self.admission.exchange(&registry, request)).expect("linked").access_token
    }

    fn enter_by(&self, client_id: &str, token: &str) -> Client {
        Client::tls(self.tls, Level::V5, &self.tls13()).enter(client_id, None, Some(token))
    }
}

/// Out with 0x87, and the token lets nobody in again; `bystander` stays.
fn ends(rig: &Rig, what: &str, mut client: Client, client_id: &str, token: &str, bystander: &mut Client) {
    let began = Instant::now();
    let (packets, end) = client.until_end();
    assert!(began.elapsed() < BOUND, "{what}: out after {:?}", began.elapsed());
    assert_eq!(end, End::Orderly, "{what}");
    assert_eq!(packets.first().map(|(kind, body)| (*kind, body[0])), Some((0xe0, 0x87)), "{what}");
    let mut again = Client::tls(rig.tls, Level::V5, &rig.tls13());
    assert_eq!(again.connect(client_id, None, Some(token)).get(1), Some(&0x87), "{what}");
    bystander.send(&PINGREQ);
    assert_eq!(bystander.packet().expect("PINGRESP"), (0xd0, Vec::new()), "{what}");
}

#[test]
fn i6_a_revoked_token_ends_its_session_whatever_its_form() {
    let rig = rig(|_| {});
    let (lamp, other) = (rig.device("lamp"), rig.device("other"));
    for format in [TokenFormat::Jwt, TokenFormat::Opaque] {
        rig.use_format(format);
        let (token, of_other) = (rig.token(&lamp), rig.token(&other));
        let client = rig.enter_by("lamp", &token);
        let mut bystander = rig.enter_by("other", &of_other);
        rig.revoke(&other, &token);
        rig.revoke(&lamp, &token);
        ends(&rig, &format!("{format:?}"), client, "lamp", &token, &mut bystander);
    }
}

#[test]
fn i6_a_stolen_issuer_key_ends_the_sessions_that_its_tokens_opened_and_no_others() {
    let rig = rig(|_| {});
    let (lamp, other) = (rig.device("lamp"), rig.device("other"));
    let token = rig.token(&lamp);
    let client = rig.enter_by("lamp", &token);
    let mut bystander = rig.enter(&other, Level::V5);
    let registry = registry();
    let rotated = rig.admission.rotate_issuer_key(&registry, &Actor::Admin, Rotation::Now { drop_old: true });
    rig.runtime.block_on(rotated).expect("rotated");
    ends(&rig, "stolen", client, "lamp", &token, &mut bystander);
    rig.enter_by("lamp", &rig.token(&lamp));
}

#[test]
fn i6_what_a_gateway_opened_for_a_device_ends_with_the_gateway_or_the_link() {
    for what in ["block", "unlink", "its own token revoked"] {
        let rig = rig(|_| {});
        let (gateway, lamp, other) = (rig.device("gw"), rig.device("lamp"), rig.device("other"));
        let (registry, admin) = (registry(), &Actor::Admin);
        let settings = PrincipalSettings { gateway: true, ..PrincipalSettings::default() };
        let set = rig.admission.set_settings(&registry, &gateway.name, settings, None, admin);
        rig.runtime.block_on(set).expect("a gateway");
        for device in [&lamp, &other] {
            let link = rig.admission.link(&registry, &gateway.name, &device.name, admin);
            assert!(rig.runtime.block_on(link).expect("linked"));
        }
        let token = rig.exchange(&gateway, "lamp");
        let client = rig.enter_by("lamp", &token);
        let mut bystander = rig.enter(&other, Level::V5);
        match what {
            "block" => {
                let block = rig.admission.block(&registry, &gateway.name, None, admin);
                rig.runtime.block_on(block).expect("blocked");
            }
            "unlink" => {
                let unlink = rig.admission.unlink(&registry, &gateway.name, &lamp.name, admin);
                assert!(rig.runtime.block_on(unlink).expect("unlinked"));
            }
            _ => rig.revoke(&gateway, &token),
        }
        ends(&rig, what, client, "lamp", &token, &mut bystander);
    }
}

impl Rig {
    /// What `POST /v1/self/sessions:refresh` asks.
    fn refresh(&self, token: &str, client_id: Option<&str>) -> Result<Vec<RefreshedSession>, Refusal> {
        let client_id = client_id.map(|id| MqttClientId::parse(id).expect("a client id"));
        let (registry, presentation) = (registry(), Presentation::default());
        let refresh = self.admission.refresh_sessions(
            &registry,
            token,
            &presentation,
            client_id.as_ref(),
            Peer::default(),
        );
        self.runtime.block_on(refresh)
    }

    fn scoped(&self, device: &TestDevice, scope: &str) -> String {
        let assertion = device.assertion(ISSUER, now_s()).sign();
        let login =
            LoginRequest { scope: Some(scope), ..LoginRequest::with_assertion(&assertion, Peer::default()) };
        let registry = registry();
        self.runtime.block_on(self.admission.login(&registry, login)).expect("logged in").access_token
    }
}

#[test]
fn a_token_that_comes_over_https_renews_the_open_session_and_cuts_what_it_does_not_cover() {
    let rig = rig(|_| {});
    let (lamp, other) = (rig.device("lamp"), rig.device("other"));
    assert_eq!(rig.refresh(&rig.token(&lamp), None), Ok(Vec::new()), "nothing is open");
    // It ends in 3 s, and would be cut then.
    let ends_s = now_s() + 3;
    let short = crate::rig::jwt(&lamp).with("exp", serde_json::json!(ends_s)).sign();
    let mut client = Client::tls(rig.tls, Level::V311, &rig.tls13()).enter("lamp", Some(""), Some(&short));
    let mut bystander = rig.enter(&other, Level::V311);
    client.subscribe("devices/lamp/commands/#", 0);
    client.subscribe("devices/lamp/config", 0);
    assert_eq!(
        rig.refresh(&rig.token(&other), Some("lamp")),
        Ok(Vec::new()),
        "none of its own has this name"
    );
    // base64url of `[["devices/lamp/config",["sub"]]]`.
    let token = rig.scoped(&lamp, "W1siZGV2aWNlcy9sYW1wL2NvbmZpZyIsWyJzdWIiXV1d");
    let renewed = rig.refresh(&token, Some("lamp")).expect("renewed");
    let [session] = &renewed[..] else { panic!("{renewed:?}") };
    assert_eq!(session.client_id.as_str(), "lamp");
    let removed: Vec<&str> = session.refreshed.removed.iter().map(|filter| filter.as_str()).collect();
    assert_eq!(removed, ["devices/lamp/commands/#"]);
    assert!(session.ends_ms.expect("an end") / 1_000 > ends_s + 3_000);
    // The same again is none, and another is too soon.
    assert_eq!(rig.refresh(&token, None).expect_err("in force already").word(), "renewal");
    assert_eq!(rig.refresh(&rig.token(&lamp), None).expect_err("too soon").word(), "renewal");
    while now_s() <= ends_s + 1 {
        std::thread::sleep(Duration::from_millis(100));
    }
    for client in [&mut client, &mut bystander] {
        client.send(&PINGREQ);
        assert_eq!(client.packet().expect("PINGRESP"), (0xd0, Vec::new()));
    }
    // It is the session's token now: its end is the session's.
    rig.revoke(&lamp, &token);
    let (_, end) = client.until_end();
    assert_eq!(end, End::Orderly);
    assert_eq!(rig.refused("mqtt-session-expired"), 0);
}

/// One of many is revoked: counters, not clocks, say that nothing was done about the others.
fn one_of(devices: usize) {
    let rig = rig(|_| {});
    let names: Vec<String> = (0..devices).map(|number| format!("d-{number}")).collect();
    let known: Vec<TestDevice> = names.iter().map(|name| rig.device(name)).collect();
    let mut clients: Vec<Client> = known.iter().map(|device| rig.enter(device, Level::V5)).collect();
    let before = rig.runtime.block_on(rig.handle.stats_now());
    assert_eq!(before.sessions, devices);
    let checks = rig.admission.stats().signature_checks;
    let one = devices / 2;
    let registry = registry();
    let revoked = rig.admission.revoke(&registry, &known[one].name, "test", None, &Actor::Admin);
    rig.runtime.block_on(revoked).expect("revoked");
    let (packets, _) = clients.remove(one).until_end();
    assert_eq!(packets.first().map(|(kind, body)| (*kind, body[0])), Some((0xe0, 0x87)));
    crate::rig::wait_until("it is gone", || rig.handle.stats().connections == devices - 1);
    let after = rig.runtime.block_on(rig.handle.stats_now());
    assert_eq!((after.sessions, after.accepted), (devices - 1, before.accepted));
    let ended: u64 = after.refused.values().sum::<u64>() - before.refused.values().sum::<u64>();
    assert_eq!(ended, 1, "{:?}", after.refused);
    assert_eq!(rig.admission.stats().signature_checks, checks, "nobody was judged anew");
    for client in &mut clients {
        client.send(&PINGREQ);
        // Not a byte came before that they did not ask for.
        assert_eq!(client.packet().expect("PINGRESP"), (0xd0, Vec::new()));
    }
}

#[test]
fn one_of_1_000_devices_is_revoked_and_the_others_feel_nothing() {
    one_of(1_000);
}

#[test]
#[ignore = "long: 10,000 devices"]
fn soak_one_of_10_000_devices_is_revoked_and_the_others_feel_nothing() {
    one_of(10_000);
}
