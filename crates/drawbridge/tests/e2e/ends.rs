//! What ends a right ends the session that stands on it, on every transport, though its client is silent.

use drawbridge_device::{ClientAssertion, DeviceIdentity, TokenRequest, random_id};
use serde_json::json;

use crate::bytes::{Connect, Said, Version};
use crate::client::Client;
use crate::harness::{Core, connect_jwt, now_s};
use crate::renewal::short_lived;
use crate::wire::Wire;
use crate::world::{Via, World};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Expired,
    Blocked,
    KeyRemoved,
    TokenRevoked,
    DeviceRevoked,
    /// Its subscription is not allowed any more, and it does not listen to what it is told.
    PolicyChanged,
    /// Its operator wants more of its connections than this one has.
    SettingsChanged,
}
use End::{Blocked, DeviceRevoked, Expired, KeyRemoved, PolicyChanged, SettingsChanged, TokenRevoked};

fn access_token(core: &Core, identity: &DeviceIdentity) -> String {
    let request = TokenRequest {
        device: &identity.device,
        issuer: &identity.issuer,
        resource: None,
        scope: None,
        bind_to: None,
    };
    core.api().access_token(&request, &identity.key).expect("a token").access_token
}

/// By its owner, as RFC 7009 has it.
pub(crate) fn revoke(core: &Core, identity: &DeviceIdentity, token: &str) {
    let (device, issuer, jti) = (&identity.device, &identity.issuer, random_id());
    let assertion = ClientAssertion { device, issuer, now_s: now_s(), jti: &jti };
    let assertion = assertion.sign(&identity.key).expect("signs");
    let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
    let form = [("client_assertion_type", kind), ("client_assertion", &assertion), ("token", token)];
    let answer = Wire::of(core).form("/oauth/revoke", &[], &form);
    assert_eq!(answer.status, 200, "{answer:?}");
}

fn bring_about(core: &Core, end: End, identity: &DeviceIdentity, token: &str) {
    let name = &identity.device;
    match end {
        Expired => {}
        Blocked => drop(core.cli_ok(&["device", "block", name])),
        KeyRemoved => drop(core.cli_ok(&["key", "revoke", name, identity.public_key().thumbprint()])),
        TokenRevoked => revoke(core, identity, token),
        DeviceRevoked => drop(core.cli_ok(&["device", "revoke", name])),
        SettingsChanged => drop(core.cli_ok(&["device", "set", name, "--bound-connections", "true"])),
        PolicyChanged => {
            let file = core.place().join("less.toml");
            std::fs::write(&file, "[[allow]]\nsubscribe = [\"other\"]\n").expect("written");
            core.cli_ok(&["policy", "set", name, &file.to_string_lossy()]);
        }
    }
}

#[test]
fn i5_i6_whatever_ends_a_right_ends_its_silent_session_on_every_transport() {
    let world = World::start(&[]);
    let core = world.core();
    let mut bystander = Client::observer(&world);
    bystander.subscribe("still/here", 0);
    for via in [Via::Tls, Via::WebSocket] {
        for version in [Version::V311, Version::V5] {
            for (end, code) in [
                (Expired, 0x87),
                (Blocked, 0x87),
                (KeyRemoved, 0x87),
                (TokenRevoked, 0x87),
                (DeviceRevoked, 0x87),
                (PolicyChanged, 0x98),
                (SettingsChanged, 0x98),
            ] {
                let name = format!("{via:?}-{version:?}-{end:?}").to_lowercase();
                let identity = match end {
                    PolicyChanged => core.application(&name, "[[allow]]\nsubscribe = [\"mine/#\"]\n"),
                    _ => core.device(&name),
                };
                let token = match end {
                    Expired => short_lived(&identity),
                    TokenRevoked => access_token(core, &identity),
                    _ => connect_jwt(&identity, now_s(), 3_600),
                };
                let mut client = Client::over(world.transport(via), version);
                // Keep-alive 0: nobody asks it for a sign of life.
                let connect = Connect::clean(&name).keep_alive(0);
                client.send(&connect.encode(version, Some(("", token.as_bytes()))));
                assert!(matches!(client.next(), Some(Said::ConnAck { code: 0, .. })), "{name}");
                if end == PolicyChanged {
                    client.subscribe("mine/a", 0);
                }
                bring_about(core, end, &identity, &token);
                client.ended_with(code);
            }
        }
    }
    assert_eq!(bystander.ping(), [], "the others feel nothing");
}

#[test]
fn i6_a_client_of_the_listener_without_tls_ends_with_the_application_it_stands_for() {
    let world = World::start(&[]);
    for version in [Version::V311, Version::V5] {
        let mut client = Client::over(world.transport(Via::Plain), version);
        client.send(&Connect::clean(&format!("plain-{version:?}")).keep_alive(0).encode(version, None));
        assert!(matches!(client.next(), Some(Said::ConnAck { code: 0, .. })));
        let at = |what: &str| {
            world.core().admin("POST", &format!("/v1/applications/guest/{what}"), Some(&json!({})))
        };
        at("block");
        client.ended_with(0x87);
        at("unblock");
    }
}
