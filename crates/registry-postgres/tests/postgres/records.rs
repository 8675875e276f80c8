//! Records that the tests of this store write.
#![allow(dead_code, reason = "the records are those of the other stores' tests")]

use std::collections::BTreeMap;

use drawbridge_names::{Epoch, KeyId, PrincipalKind, PrincipalName, RegistryName, Uid};
use drawbridge_registry::{
    AddPrincipal, AuditEntry, Enrolment, EnrolmentNames, JtiMark, KeptToken, Key, KeyState, Principal,
    RegistryRecord, Store,
};

pub(crate) const NOW_S: u64 = 1_700_000_000;

pub(crate) fn registry() -> RegistryName {
    RegistryName::default_registry()
}

pub(crate) fn name(text: &str) -> PrincipalName {
    PrincipalName::parse(text).expect("a name")
}

pub(crate) fn kid(number: u64) -> KeyId {
    KeyId::parse(&format!("{number:043}")).expect("a key id")
}

pub(crate) fn entry(action: &str) -> AuditEntry {
    AuditEntry {
        at_ms: NOW_S * 1000,
        actor: "admin".into(),
        action: action.into(),
        subject: "lamp".into(),
        detail: "{}".into(),
    }
}

pub(crate) fn key(number: u64) -> Key {
    Key {
        kid: kid(number),
        spki_der: vec![7; 91],
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

pub(crate) fn device(text: &str, uid: u64) -> Principal {
    Principal {
        registry: registry(),
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

/// The `number`th `jti` of the device with key 1.
pub(crate) fn mark(number: u64) -> JtiMark {
    let mut jti_digest = [0; 16];
    jti_digest[..8].copy_from_slice(&number.to_be_bytes());
    JtiMark { jti_digest, token_digest: jti_digest, kid: kid(1), until_s: None, live_max: usize::MAX }
}

/// The `number`th token of principal 1, the first of its family.
pub(crate) fn token(number: u64) -> KeptToken {
    let (mut digest, mut family) = ([0; 32], [0; 16]);
    digest[..8].copy_from_slice(&number.to_be_bytes());
    family[..8].copy_from_slice(&number.to_be_bytes());
    KeptToken {
        digest,
        uid: Uid(1),
        family,
        generation: 0,
        claims: r#"{"scope":"temp"}"#.into(),
        expires_s: NOW_S + 3600,
        used: false,
        renewed: false,
    }
}

/// For 1,000 devices of any name.
pub(crate) fn enrolment(id: &str) -> Enrolment {
    Enrolment {
        id: id.into(),
        token_digest: [7; 32],
        label: None,
        names: EnrolmentNames::Pattern("*".into()),
        claims_max: 1000,
        claims: 0,
        policy: None,
        auto: false,
        expires_s: NOW_S + 3600,
        ended: false,
        created_s: NOW_S,
    }
}

/// The registry `default`.
pub(crate) async fn make_registry(store: &dyn Store) {
    let record = RegistryRecord {
        name: registry(),
        issuer: "https://host.example".into(),
        bridge_audience: "https://host.example/mqtt".into(),
        clock_skew_s: 60,
        token_life_s: 3600,
        google: None,
        settings: Default::default(),
        created_s: NOW_S,
    };
    store.add_registry(record, entry("registry.add")).await.expect("add_registry");
}

/// The registry `default` with the device `lamp`, number 1, key 1.
pub(crate) async fn make_lamp(store: &dyn Store) {
    make_registry(store).await;
    let added = store.add_principal(device("lamp", 1), vec![key(1)], entry("device.add")).await;
    assert_eq!(added.expect("add_principal"), AddPrincipal::Added);
}

/// Devices `d00000`, `d00001`, ... from number 1 on, each with the key of its number.
pub(crate) async fn make_devices(store: &dyn Store, count: u64) {
    make_registry(store).await;
    let mut waiting = Vec::new();
    for number in 1..=count {
        let adding = store.add_principal(
            device(&format!("d{number:05}"), number),
            vec![key(number)],
            entry("device.add"),
        );
        waiting.push(adding);
        if waiting.len() == 500 || number == count {
            for answer in side_by_side(std::mem::take(&mut waiting)).await {
                assert_eq!(answer.expect("add_principal"), AddPrincipal::Added);
            }
        }
    }
}

/// Starts all futures in order, then waits for their answers.
pub(crate) async fn side_by_side<F: Future + Unpin>(mut futures: Vec<F>) -> Vec<F::Output> {
    let mut answers: Vec<Option<F::Output>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, answer) in futures.iter_mut().zip(&mut answers) {
            if answer.is_none()
                && let std::task::Poll::Ready(ready) = std::pin::Pin::new(future).poll(context)
            {
                *answer = Some(ready);
            }
        }
        if answers.iter().all(Option::is_some) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    answers.into_iter().flatten().collect()
}
