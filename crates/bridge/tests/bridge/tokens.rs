//! I6 for access tokens: when one dies before its time, the session that it has opened dies with it.

use std::time::{Duration, Instant};

use drawbridge_admission::{
    Actor, BindingRequest, ClientCredential, ExchangeRequest, LoginRequest, Peer, RegistryChange, Rotation,
    TokenRequest,
};
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
