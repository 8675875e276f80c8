//! Records to check with, and a picture of all that a store shows.

use std::collections::BTreeMap;

use drawbridge_names::{Epoch, KeyId, PolicyName, PrincipalKind, PrincipalName, RegistryName, Uid};

use crate::{
    AddPrincipal, AddRegistry, AuditEntry, AuditRow, Ca, ConfigVersion, Enrolment, EnrolmentNames, JtiMark,
    KeptToken, Key, KeyRotation, KeyState, Known, PolicyRecord, Principal, RegistryRecord, StateReport,
    Store,
};

/// 2023-11-14, the present of every check.
pub(super) const NOW_S: u64 = 1_700_000_000;

pub(super) fn registry_name(text: &str) -> RegistryName {
    RegistryName::parse(text).expect("checks use valid registry names")
}

pub(super) fn name(text: &str) -> PrincipalName {
    PrincipalName::parse(text).expect("checks use valid names")
}

pub(super) fn policy_name(text: &str) -> PolicyName {
    PolicyName::parse(text).expect("checks use valid policy names")
}

pub(super) fn registry_record(text: &str) -> RegistryRecord {
    RegistryRecord {
        name: registry_name(text),
        issuer: format!("https://host.example/r/{text}"),
        bridge_audience: format!("https://host.example/r/{text}/mqtt"),
        clock_skew_s: 60,
        token_life_s: 3600,
        google: None,
        settings: Default::default(),
        created_s: NOW_S,
    }
}

pub(super) fn entry(action: &str) -> AuditEntry {
    AuditEntry {
        at_ms: NOW_S * 1000,
        actor: "admin".into(),
        action: action.into(),
        subject: "lamp".into(),
        detail: r#"{"why":"a check"}"#.into(),
    }
}

pub(super) fn kid(number: u32) -> KeyId {
    KeyId::parse(&format!("{number:043}")).expect("43 digits are a key id")
}

pub(super) fn key(number: u32) -> Key {
    Key {
        kid: kid(number),
        spki_der: number.to_be_bytes().repeat(20),
        algorithm: "ES256".into(),
        label: None,
        state: KeyState::Active,
        not_before_s: None,
        expires_s: None,
        added_s: NOW_S,
        last_used_s: None,
        certificate_der: None,
    }
}

pub(super) fn principal(registry: &RegistryName, text: &str, uid: u64) -> Principal {
    Principal {
        registry: registry.clone(),
        uid: Uid(uid),
        name: name(text),
        kind: PrincipalKind::Device,
        blocked: false,
        pending: false,
        epoch: Epoch(0),
        not_before_s: 0,
        legacy_assertions: false,
        policy: None,
        attributes: BTreeMap::new(),
        password: None,
        settings: Default::default(),
        enrolment: None,
        registration: None,
        created_s: NOW_S,
        revision: 1,
    }
}

/// A mark with an end.
pub(super) fn timed(jti: u8, signer: u32, until_s: u64) -> JtiMark {
    JtiMark {
        jti_digest: [jti; 16],
        token_digest: [jti ^ 0xff; 16],
        kid: kid(signer),
        until_s: Some(until_s),
        live_max: 1000,
    }
}

/// A mark for the life of its key.
pub(super) fn lasting(jti: u8, signer: u32) -> JtiMark {
    JtiMark { until_s: None, ..timed(jti, signer, 0) }
}

/// `old` is replaced by `new` with an hour of grace.
pub(super) fn rotation(old: u32, new: u32, jti: u8) -> KeyRotation {
    KeyRotation {
        old: kid(old),
        new: key(new),
        old_expires_s: Some(NOW_S + 3600),
        mark: lasting(jti, old),
        active_max: 5,
    }
}

/// The first token of a family of its own; both have this number.
pub(super) fn kept_token(number: u8, uid: Uid) -> KeptToken {
    KeptToken {
        digest: [number; 32],
        uid,
        family: [number; 16],
        generation: 0,
        claims: "{}".into(),
        expires_s: NOW_S + 3600,
        used: false,
        renewed: false,
    }
}

/// For devices of any name; its token's digest begins with its id.
pub(super) fn enrolment(id: &str) -> Enrolment {
    let mut token_digest = [0xee; 32];
    token_digest[..id.len()].copy_from_slice(id.as_bytes());
    Enrolment {
        id: id.to_owned(),
        token_digest,
        label: None,
        names: EnrolmentNames::Pattern("*".into()),
        claims_max: 1000,
        claims: 0,
        policy: None,
        auto: false,
        expires_s: NOW_S + 86_400,
        ended: false,
        created_s: NOW_S,
    }
}

pub(super) async fn make_registry(store: &dyn Store, text: &str) -> RegistryName {
    let added = store.add_registry(registry_record(text), entry("registry.add")).await;
    assert_eq!(added.expect("add_registry"), AddRegistry::Added);
    registry_name(text)
}

/// A device with keys of these numbers.
pub(super) async fn make_device(
    store: &dyn Store,
    registry: &RegistryName,
    text: &str,
    uid: u64,
    keys: &[u32],
) -> Uid {
    let keys = keys.iter().map(|number| key(*number)).collect();
    let added = store.add_principal(principal(registry, text, uid), keys, entry("device.add")).await;
    assert_eq!(added.expect("add_principal"), AddPrincipal::Added);
    Uid(uid)
}

/// The registry `default` with the device `lamp`, number 1, that has key 1.
pub(super) async fn make_lamp(store: &dyn Store) -> (RegistryName, Uid) {
    let registry = make_registry(store, "default").await;
    let lamp = make_device(store, &registry, "lamp", 1, &[1]).await;
    (registry, lamp)
}

pub(super) async fn known(store: &dyn Store, registry: &RegistryName, uid: Uid) -> Known {
    store.known_by_uid(registry, uid).await.expect("known_by_uid").expect("the principal is there")
}

pub(super) async fn audit(store: &dyn Store, registry: &RegistryName) -> Vec<AuditRow> {
    let mut rows = store.audit_tail(registry, None, usize::MAX).await.expect("audit_tail");
    rows.reverse();
    rows
}

/// All that a store shows of its registries, save secrets, marks and tokens: what must be the same before and
/// after a refusal.
#[derive(Debug, PartialEq)]
pub(super) struct Picture {
    registries: Vec<RegistryRecord>,
    contents: Vec<Contents>,
}

#[derive(Debug, PartialEq)]
struct Contents {
    principals: Vec<Known>,
    states: Vec<Vec<StateReport>>,
    configs: Vec<(PrincipalName, Uid, ConfigVersion)>,
    policies: Vec<PolicyRecord>,
    enrolments: Vec<Enrolment>,
    gateways: Vec<Vec<PrincipalName>>,
    cas: Vec<Ca>,
    revoked: Vec<([u8; 16], u64)>,
    audit: Vec<AuditRow>,
}

pub(super) async fn picture(store: &dyn Store) -> Picture {
    let registries = store.registries().await.expect("registries");
    let mut contents = Vec::new();
    for record in &registries {
        let registry = &record.name;
        let principals = store.principals(registry, None, None, usize::MAX).await.expect("principals");
        let (mut states, mut gateways) = (Vec::new(), Vec::new());
        for known in &principals {
            gateways.push(store.gateways_of(registry, known.principal.uid).await.expect("gateways_of"));
            states.push(store.states(registry, known.principal.uid).await.expect("states"));
        }
        contents.push(Contents {
            principals,
            states,
            configs: store.configs(registry, None, usize::MAX).await.expect("configs"),
            policies: store.policies(registry).await.expect("policies"),
            enrolments: store.enrolments(registry).await.expect("enrolments"),
            gateways,
            cas: store.cas(registry).await.expect("cas"),
            revoked: store.revoked_jtis(registry, 0).await.expect("revoked_jtis"),
            audit: audit(store, registry).await,
        });
    }
    Picture { registries, contents }
}
