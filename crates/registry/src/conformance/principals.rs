//! Principals: registering, reading, changing, deleting.

use std::collections::{BTreeMap, BTreeSet};

use drawbridge_names::{Epoch, PrincipalKind, PrincipalName, Uid};

use super::fixtures::*;
use crate::*;

pub(super) async fn a_principal_is_read_back_as_given_by_name_by_number_and_by_key(store: &dyn Store) {
    let registry = make_registry(store, "default").await;
    let full = Principal {
        kind: PrincipalKind::Application,
        blocked: true,
        pending: true,
        epoch: Epoch(u64::MAX - 1),
        not_before_s: u64::MAX,
        legacy_assertions: true,
        policy: Some(policy_name("backend")),
        attributes: BTreeMap::from([
            ("site".to_owned(), "north \"1\"\n".to_owned()),
            (String::new(), "ä".to_owned()),
        ]),
        password: Some(vec![1, 0, 255]),
        settings: PrincipalSettings {
            clock: Some(ClockTrust::Coarse),
            gateway: true,
            roles: BTreeSet::from([Role::Viewer, Role::Introspect]),
            certificate_subject: Some(CertificateSubject::SubjectDn("CN=\"ä\",O=b".into())),
            bound_tokens: true,
            bound_connections: Some(false),
            ways: Some(BTreeSet::from(["certificate".to_owned(), "device-jwt".to_owned()])),
        },
        enrolment: Some("AAAAAAAAAAAAAAAAAAAAAA".into()),
        registration: Some([255; 32]),
        created_s: 0,
        revision: 7,
        ..principal(&registry, "backend_~%41", u64::MAX)
    };
    let keys = vec![
        Key {
            label: Some("new".into()),
            algorithm: "EdDSA".into(),
            not_before_s: Some(1),
            expires_s: Some(u64::MAX),
            state: KeyState::Grace,
            last_used_s: Some(NOW_S),
            certificate_der: Some(vec![0x30; 3000]),
            ..key(9)
        },
        Key { state: KeyState::Retired, spki_der: vec![0; 600], added_s: 0, ..key(3) },
        key(5),
    ];
    let added = store.add_principal(full.clone(), keys.clone(), entry("app.add")).await;
    assert_eq!(added.expect("add_principal"), AddPrincipal::Added);
    make_device(store, &registry, "bare", 0, &[]).await;

    let expected = Known { principal: full.clone(), keys };
    assert_eq!(store.known(&registry, &full.name).await.expect("known"), Some(expected.clone()));
    assert_eq!(known(store, &registry, full.uid).await, expected);
    let owner = Some((full.uid, full.name.clone()));
    assert_eq!(store.owner_of_key(&registry, &kid(9)).await.expect("owner_of_key"), owner);
    assert_eq!(store.owner_of_key(&registry, &kid(3)).await.expect("owner_of_key"), owner, "retired");
    assert_eq!(store.owner_of_key(&registry, &kid(4)).await.expect("owner_of_key"), None);
    let bare = Known { principal: principal(&registry, "bare", 0), keys: vec![] };
    assert_eq!(store.known(&registry, &name("bare")).await.expect("known"), Some(bare.clone()));
    let listed = store.principals(&registry, None, None, 9).await.expect("principals");
    assert_eq!(listed, [expected, bare]);
    assert_eq!(store.known(&registry, &name("nobody")).await.expect("known"), None);
    assert_eq!(store.known_by_uid(&registry, Uid(5)).await.expect("known_by_uid"), None);
}

pub(super) async fn whoever_is_blocked_or_waits_is_listed_by_number(store: &dyn Store) {
    let registry = make_registry(store, "default").await;
    let other = make_registry(store, "other").await;
    assert_eq!(store.not_admitted(&registry).await.expect("not_admitted"), []);
    let table = [(1, false, false), (u64::MAX, true, false), (3, false, true), (4, true, true)];
    for (uid, blocked, pending) in table {
        let one = Principal { blocked, pending, ..principal(&registry, &format!("p{uid}"), uid) };
        store.add_principal(one, vec![], entry("device.add")).await.expect("add_principal");
    }
    let there = Principal { blocked: true, ..principal(&other, "p9", 9) };
    store.add_principal(there, vec![], entry("device.add")).await.expect("add_principal");
    let listed: BTreeSet<_> =
        store.not_admitted(&registry).await.expect("not_admitted").into_iter().collect();
    assert_eq!(listed, BTreeSet::from([Uid(3), Uid(4), Uid(u64::MAX)]));
}

pub(super) async fn a_name_is_taken_whatever_the_kind_and_names_are_bytes(store: &dyn Store) {
    let (registry, _) = make_lamp(store).await;
    let app = Principal { kind: PrincipalKind::Application, ..principal(&registry, "app", 2) };
    store.add_principal(app, vec![], entry("app.add")).await.expect("add_principal");
    for text in ["Lamp", "LAMP", "lamp.", "l%61mp"] {
        let uid = 10 + u64::from(text.as_bytes()[0]) * 7 + u64::from(text.as_bytes()[1]) + text.len() as u64;
        make_device(store, &registry, text, uid, &[]).await;
    }
    let before = picture(store).await;
    for kind in [PrincipalKind::Device, PrincipalKind::Application] {
        let lamp = Principal { kind, ..principal(&registry, "lamp", 3) };
        let answer = store.add_principal(lamp, vec![key(3)], entry("e")).await.expect("add_principal");
        assert_eq!(answer, AddPrincipal::NameTaken(PrincipalKind::Device));
        let app = Principal { kind, ..principal(&registry, "app", 3) };
        let answer = store.add_principal(app, vec![key(3)], entry("e")).await.expect("add_principal");
        assert_eq!(answer, AddPrincipal::NameTaken(PrincipalKind::Application));
    }
    assert_eq!(picture(store).await, before);
    assert_eq!(store.owner_of_key(&registry, &kid(3)).await.expect("owner_of_key"), None);
}

pub(super) async fn a_refused_principal_leaves_nothing_behind(store: &dyn Store) {
    let (registry, _) = make_lamp(store).await;
    let before = picture(store).await;
    let taken = store.add_principal(principal(&registry, "x", 2), vec![key(2), key(1)], entry("e")).await;
    assert_eq!(taken.expect("add_principal"), AddPrincipal::KeyInUse(kid(1)));
    let twice = store.add_principal(principal(&registry, "x", 2), vec![key(2), key(2)], entry("e")).await;
    assert_eq!(twice.expect("add_principal"), AddPrincipal::KeyInUse(kid(2)));
    assert_eq!(picture(store).await, before);
    assert_eq!(store.owner_of_key(&registry, &kid(2)).await.expect("owner_of_key"), None);
    // Neither the name, nor the number, nor the key was spent.
    make_device(store, &registry, "x", 2, &[2]).await;
}

pub(super) async fn a_number_is_never_given_twice_also_after_deletion(store: &dyn Store) {
    let (registry, lamp) = make_lamp(store).await;
    let same = store.add_principal(principal(&registry, "other", 1), vec![], entry("e")).await;
    assert_eq!(same.expect("add_principal"), AddPrincipal::UidTaken);
    assert!(store.delete_principal(&registry, lamp, entry("device.delete")).await.expect("delete_principal"));
    let before = picture(store).await;
    for text in ["lamp", "other"] {
        let again = store.add_principal(principal(&registry, text, 1), vec![key(1)], entry("e")).await;
        assert_eq!(again.expect("add_principal"), AddPrincipal::UidTaken, "{text}");
    }
    assert_eq!(picture(store).await, before);
    make_device(store, &registry, "lamp", 2, &[1]).await;
}

pub(super) async fn principals_are_paged_in_byte_order_without_gap_or_repetition(store: &dyn Store) {
    let registry = make_registry(store, "default").await;
    let other = make_registry(store, "other").await;
    let names = ["b", "a", "B", "a.b", "a-b", "0", "a~", "aa", "Z", "a%"];
    for (at, text) in names.iter().enumerate() {
        let uid = 100 - at as u64;
        let kind = if at % 2 == 0 { PrincipalKind::Device } else { PrincipalKind::Application };
        let number = u32::try_from(at).expect("ten");
        let given = Principal { kind, ..principal(&registry, text, uid) };
        // Two keys each, the later with the smaller id: the order of adding must show.
        let keys = vec![key(200 - number), key(100 - number)];
        store.add_principal(given, keys, entry("e")).await.expect("add_principal");
        make_device(store, &other, text, uid, &[]).await;
    }
    let sorted = ["0", "B", "Z", "a", "a%", "a-b", "a.b", "aa", "a~", "b"];
    for limit in [1, 3, 10, 11, usize::MAX] {
        let mut found = Vec::new();
        loop {
            let after: Option<PrincipalName> = found.last().cloned();
            let page = store.principals(&registry, None, after.as_ref(), limit).await.expect("principals");
            assert!(page.len() <= limit);
            for known in &page {
                assert_eq!(known.keys.len(), 2);
                assert!(known.keys[0].kid > known.keys[1].kid, "in the order they were added");
                assert_eq!(known.principal.registry, registry);
            }
            let Some(first) = page.first() else { break };
            assert!(
                after.is_none_or(|after| first.principal.name > after),
                "a page begins after the last one"
            );
            found.extend(page.into_iter().map(|known| known.principal.name));
        }
        let found: Vec<&str> = found.iter().map(PrincipalName::as_str).collect();
        assert_eq!(found, sorted, "pages of {limit}");
    }
    for (kind, expected) in [
        (PrincipalKind::Device, ["B", "Z", "a-b", "a~", "b"].as_slice()),
        (PrincipalKind::Application, ["0", "a", "a%", "a.b", "aa"].as_slice()),
    ] {
        let page = store.principals(&registry, Some(kind), None, 9).await.expect("principals");
        let found: Vec<&str> = page.iter().map(|known| known.principal.name.as_str()).collect();
        assert_eq!(found, expected, "{kind}");
    }
    let after = store.principals(&registry, None, Some(&name("a0")), 2).await.expect("principals");
    let after: Vec<&str> = after.iter().map(|known| known.principal.name.as_str()).collect();
    assert_eq!(after, ["aa", "a~"], "after a name that does not exist");
    assert_eq!(store.principals(&registry, None, None, 0).await.expect("principals"), []);
}

pub(super) async fn each_change_does_what_it_says_and_counts_the_revision(store: &dyn Store) {
    let (registry, lamp) = make_lamp(store).await;
    let attributes = BTreeMap::from([("site".to_owned(), "north".to_owned())]);
    let mut expected = known(store, &registry, lamp).await.principal;
    type Effect = fn(&mut Principal);
    let settings = PrincipalSettings { gateway: true, ..PrincipalSettings::default() };
    let steps: [(PrincipalChange, Effect); 16] = [
        (PrincipalChange::Block, |p| p.blocked = true),
        (PrincipalChange::Unblock, |p| p.blocked = false),
        (PrincipalChange::Revoke { not_before_s: NOW_S }, |p| {
            p.epoch = Epoch(1);
            p.not_before_s = NOW_S;
        }),
        (PrincipalChange::Policy(Some(policy_name("device"))), |p| p.policy = Some(policy_name("device"))),
        (PrincipalChange::Policy(None), |p| p.policy = None),
        (PrincipalChange::LegacyAssertions(true), |p| p.legacy_assertions = true),
        (PrincipalChange::Attributes(attributes), |p| {
            p.attributes = BTreeMap::from([("site".to_owned(), "north".to_owned())]);
        }),
        (PrincipalChange::Password(Some(vec![1, 2])), |p| {
            p.password = Some(vec![1, 2]);
            p.epoch = Epoch(p.epoch.0 + 1);
        }),
        (PrincipalChange::Password(None), |p| {
            p.password = None;
            p.epoch = Epoch(p.epoch.0 + 1);
        }),
        (PrincipalChange::Settings(settings), |p| p.settings.gateway = true),
        (PrincipalChange::Settings(PrincipalSettings::default()), |p| p.settings.gateway = false),
        (PrincipalChange::Settings(certified("old")), |p| p.settings = certified("old")),
        (PrincipalChange::Settings(certified("new")), |p| {
            p.settings = certified("new");
            p.epoch = Epoch(p.epoch.0 + 1);
        }),
        (PrincipalChange::Settings(PrincipalSettings::default()), |p| {
            p.settings = PrincipalSettings::default();
            p.epoch = Epoch(p.epoch.0 + 1);
        }),
        (PrincipalChange::Registration(Some([7; 32])), |p| p.registration = Some([7; 32])),
        (PrincipalChange::Registration(None), |p| p.registration = None),
    ];
    for (at, (change, effect)) in steps.into_iter().enumerate() {
        // By turns with the revision it has, and with none.
        let asked = (at % 2 == 0).then_some(expected.revision);
        effect(&mut expected);
        expected.revision += 1;
        let answer = store.change_principal(&registry, lamp, change, asked, entry("e")).await;
        assert_eq!(answer.expect("change_principal"), Changed::Done(expected.clone()), "step {at}");
        assert_eq!(known(store, &registry, lamp).await.principal, expected, "step {at}");
    }
    assert_eq!(expected.revision, 17);
    assert_eq!(known(store, &registry, lamp).await.keys, [key(1)], "keys are left alone");
}

/// Settings by which a certificate of this DNS name counts.
fn certified(name: &str) -> PrincipalSettings {
    PrincipalSettings {
        certificate_subject: Some(CertificateSubject::SanDns(name.to_owned())),
        ..PrincipalSettings::default()
    }
}

pub(super) async fn a_pending_principal_is_approved_once_and_stays_so(store: &dyn Store) {
    let registry = make_registry(store, "default").await;
    let waiting = Principal { pending: true, ..principal(&registry, "lamp", 1) };
    let added = store.add_principal(waiting, vec![key(1)], entry("device.add")).await;
    assert_eq!(added.expect("add_principal"), AddPrincipal::Added);
    assert!(known(store, &registry, Uid(1)).await.principal.pending);
    for revision in [2, 3] {
        let expected = Principal { revision, ..principal(&registry, "lamp", 1) };
        let approve = PrincipalChange::Approve;
        let answer = store.change_principal(&registry, Uid(1), approve, None, entry("device.approve")).await;
        assert_eq!(answer.expect("change_principal"), Changed::Done(expected.clone()));
        assert_eq!(known(store, &registry, Uid(1)).await.principal, expected);
    }
}

pub(super) async fn a_change_against_a_stale_revision_changes_nothing(store: &dyn Store) {
    let (registry, lamp) = make_lamp(store).await;
    let block = || PrincipalChange::Block;
    store.change_principal(&registry, lamp, block(), Some(1), entry("e")).await.expect("change_principal");
    let before = picture(store).await;
    for asked in [0, 1, 3, u64::MAX] {
        let answer =
            store.change_principal(&registry, lamp, PrincipalChange::Unblock, Some(asked), entry("e")).await;
        assert_eq!(answer.expect("change_principal"), Changed::Stale { revision: 2 }, "{asked}");
    }
    let nobody = store.change_principal(&registry, Uid(2), block(), None, entry("e")).await;
    assert_eq!(nobody.expect("change_principal"), Changed::NotFound);
    assert_eq!(picture(store).await, before);
}

pub(super) async fn a_revocation_never_moves_not_before_back(store: &dyn Store) {
    let (registry, lamp) = make_lamp(store).await;
    for (not_before_s, expected) in [(NOW_S, NOW_S), (NOW_S - 50, NOW_S), (NOW_S + 1, NOW_S + 1)] {
        let change = PrincipalChange::Revoke { not_before_s };
        store.change_principal(&registry, lamp, change, None, entry("e")).await.expect("change_principal");
        assert_eq!(known(store, &registry, lamp).await.principal.not_before_s, expected);
    }
    assert_eq!(known(store, &registry, lamp).await.principal.epoch, Epoch(3));
}

pub(super) async fn deletion_takes_all_that_was_the_principals_own_and_frees_its_name_and_keys(
    store: &dyn Store,
) {
    let (registry, lamp) = make_lamp(store).await;
    let pump = make_device(store, &registry, "pump", 2, &[2]).await;
    for (uid, signer) in [(lamp, 1), (pump, 2)] {
        for mark in [timed(1, signer, NOW_S + 9), lasting(2, signer)] {
            let jti = store.remember_jti(&registry, uid, mark, NOW_S).await;
            assert_eq!(jti.expect("remember_jti"), JtiOutcome::Fresh);
        }
        store.set_config(&registry, uid, vec![1], None, 1, entry("e")).await.expect("set_config");
        let state = StateReport { payload: vec![1], received_ms: 1 };
        store.add_state(&registry, uid, state).await.expect("add_state");
    }
    assert!(store.delete_principal(&registry, lamp, entry("device.delete")).await.expect("delete_principal"));
    assert!(!store.delete_principal(&registry, lamp, entry("e")).await.expect("delete_principal"), "twice");

    assert_eq!(store.known(&registry, &name("lamp")).await.expect("known"), None);
    assert_eq!(store.known_by_uid(&registry, lamp).await.expect("known_by_uid"), None);
    assert_eq!(store.owner_of_key(&registry, &kid(1)).await.expect("owner_of_key"), None);
    assert_eq!(store.config(&registry, lamp).await.expect("config"), None);
    assert_eq!(store.states(&registry, lamp).await.expect("states"), []);
    let listed = store.configs(&registry, None, 9).await.expect("configs");
    assert_eq!(listed.into_iter().map(|(name, ..)| name).collect::<Vec<_>>(), [name("pump")]);
    let jti = store.remember_jti(&registry, lamp, timed(3, 1, NOW_S + 9), NOW_S).await;
    assert_eq!(jti.expect("remember_jti"), JtiOutcome::KeyGone);

    // Name and key are free; the new lamp begins with nothing of the old one.
    let lamp = make_device(store, &registry, "lamp", 3, &[1]).await;
    assert_eq!(store.config(&registry, lamp).await.expect("config"), None);
    // The neighbour lost nothing.
    assert_eq!(known(store, &registry, pump).await.keys, [key(2)]);
    assert!(store.config(&registry, pump).await.expect("config").is_some());
    assert_eq!(store.states(&registry, pump).await.expect("states").len(), 1);
    let jti = store.remember_jti(&registry, pump, lasting(2, 2), NOW_S).await.expect("remember_jti");
    assert!(matches!(jti, JtiOutcome::Seen { .. }), "{jti:?}");
}
