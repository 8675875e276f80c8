//! An operator replaces and changes keys; when they were last used.

use drawbridge_names::{RegistryName, Uid};

use super::fixtures::*;
use crate::*;

async fn replace(
    store: &dyn Store,
    registry: &RegistryName,
    uid: Uid,
    (old, new): (u32, Key),
    active_max: usize,
) -> RotateKey {
    let audit = entry("key.replace");
    let answer = store.replace_key(registry, uid, &kid(old), new, NOW_S + 3600, active_max, audit).await;
    answer.expect("replace_key")
}

pub(super) async fn a_replaced_key_goes_into_grace_and_the_new_one_is_active(store: &dyn Store) {
    let registry = make_registry(store, "default").await;
    let ends = |number, expires_s| Key { expires_s: Some(expires_s), ..key(number) };
    let keys = vec![key(1), ends(2, NOW_S + 60), ends(3, NOW_S + 9999)];
    let added = store.add_principal(principal(&registry, "lamp", 1), keys, entry("device.add")).await;
    assert_eq!(added.expect("add_principal"), AddPrincipal::Added);
    let rows = audit(store, &registry).await.len();
    for (old, new) in [(1, 11), (2, 12), (3, 13)] {
        let new = Key { state: KeyState::Retired, label: Some("spare".into()), ..key(new) };
        assert_eq!(replace(store, &registry, Uid(1), (old, new), 3).await, RotateKey::Rotated);
    }
    let now = known(store, &registry, Uid(1)).await;
    let grace = |number, expires_s| Key { state: KeyState::Grace, ..ends(number, expires_s) };
    let new = |number| Key { label: Some("spare".into()), ..key(number) };
    let expected = [
        grace(1, NOW_S + 3600),
        grace(2, NOW_S + 60), // it would have ended anyway
        grace(3, NOW_S + 3600),
        new(11),
        new(12),
        new(13),
    ];
    assert_eq!((now.keys.as_slice(), now.principal.revision), (expected.as_slice(), 4));
    let after = audit(store, &registry).await;
    assert_eq!((after.len(), after.last().map(|row| &row.entry)), (rows + 3, Some(&entry("key.replace"))));
    let owner = store.owner_of_key(&registry, &kid(13)).await.expect("owner_of_key");
    assert_eq!(owner, Some((Uid(1), name("lamp"))));
}

pub(super) async fn a_replacement_that_cannot_be_done_changes_nothing_and_says_why_in_order(
    store: &dyn Store,
) {
    let registry = make_registry(store, "default").await;
    let lamp = make_device(store, &registry, "lamp", 1, &[1, 2, 3]).await;
    make_device(store, &registry, "pump", 2, &[4]).await;
    store.remove_key(&registry, lamp, &kid(3), false, entry("e")).await.expect("remove_key");
    assert_eq!(replace(store, &registry, lamp, (2, key(5)), 2).await, RotateKey::Rotated);
    let before = picture(store).await;
    let state = |number, state| Key { state, ..key(number) };
    let in_grace = Key { expires_s: Some(NOW_S + 3600), ..state(2, KeyState::Grace) };
    for (old, new, active_max, expected) in [
        (1, 1, 0, RotateKey::AlreadyThere(key(1))),
        (9, 5, 0, RotateKey::AlreadyThere(key(5))),
        (1, 2, 5, RotateKey::AlreadyThere(in_grace)),
        (1, 3, 5, RotateKey::AlreadyThere(state(3, KeyState::Retired))),
        (2, 4, 0, RotateKey::OldNotActive), // in grace
        (3, 6, 5, RotateKey::OldNotActive), // retired
        (4, 6, 5, RotateKey::OldNotActive), // another's
        (9, 6, 5, RotateKey::OldNotActive),
        (1, 4, 0, RotateKey::InUse),
        (1, 6, 1, RotateKey::TooMany { active: 2 }),
    ] {
        let answer = replace(store, &registry, lamp, (old, key(new)), active_max).await;
        assert_eq!(answer, expected, "{old} by {new}");
        assert_eq!(picture(store).await, before, "{expected:?}");
    }
    assert_eq!(replace(store, &registry, Uid(9), (1, key(6)), 5).await, RotateKey::OldNotActive);
    assert_eq!(picture(store).await, before);
    assert_eq!(store.owner_of_key(&registry, &kid(6)).await.expect("owner_of_key"), None);
}

pub(super) async fn the_key_of_a_principal_that_is_admitted_nowhere_can_be_replaced_by_its_operator_only(
    store: &dyn Store,
) {
    let registry = make_registry(store, "default").await;
    for (uid, blocked, pending) in [(1, true, false), (2, false, true)] {
        let lamp = Principal { blocked, pending, ..principal(&registry, &format!("lamp{uid}"), uid) };
        let number = u32::try_from(uid).expect("small");
        let added = store.add_principal(lamp, vec![key(number)], entry("device.add")).await;
        assert_eq!(added.expect("add_principal"), AddPrincipal::Added);
        let own = rotation(number, number + 10, 1);
        let own = store.rotate_key(&registry, Uid(uid), own, NOW_S, entry("key.rotate")).await;
        assert_eq!(own.expect("rotate_key"), RotateKey::OldNotActive, "{uid}");
        let answer = replace(store, &registry, Uid(uid), (number, key(number + 10)), 1).await;
        assert_eq!(answer, RotateKey::Rotated, "{uid}");
    }
}

pub(super) async fn a_keys_label_and_window_change_and_nothing_else(store: &dyn Store) {
    let (registry, lamp) = make_lamp(store).await;
    let rows = audit(store, &registry).await.len();
    let mut expected = key(1);
    type Effect = fn(&mut Key);
    let nothing = KeyChange::default;
    let steps: [(KeyChange, Effect); 6] = [
        (KeyChange { label: Some(Some("ä".into())), ..nothing() }, |key| key.label = Some("ä".into())),
        (KeyChange { not_before_s: Some(Some(u64::MAX)), ..nothing() }, |key| {
            key.not_before_s = Some(u64::MAX);
        }),
        (KeyChange { expires_s: Some(Some(5)), ..nothing() }, |key| key.expires_s = Some(5)),
        (nothing(), |_| ()),
        (KeyChange { label: Some(None), expires_s: Some(Some(6)), ..nothing() }, |key| {
            key.label = None;
            key.expires_s = Some(6);
        }),
        (KeyChange { not_before_s: Some(None), expires_s: Some(None), ..nothing() }, |key| {
            key.not_before_s = None;
            key.expires_s = None;
        }),
    ];
    for (at, (change, effect)) in steps.into_iter().enumerate() {
        effect(&mut expected);
        let answer = store.change_key(&registry, lamp, &kid(1), change, entry("key.change")).await;
        assert_eq!(answer.expect("change_key"), ChangeKey::Done(expected.clone()), "step {at}");
        let now = known(store, &registry, lamp).await;
        assert_eq!(now.keys, [expected.clone()], "step {at}");
        assert_eq!(now.principal.revision, at as u64 + 2, "step {at}");
        assert_eq!(audit(store, &registry).await.len(), rows + at + 1, "step {at}");
    }
}

pub(super) async fn a_key_that_is_retired_or_not_the_principals_is_not_changed(store: &dyn Store) {
    let registry = make_registry(store, "default").await;
    let lamp = make_device(store, &registry, "lamp", 1, &[1, 2, 3]).await;
    make_device(store, &registry, "pump", 2, &[4]).await;
    store.remove_key(&registry, lamp, &kid(1), false, entry("e")).await.expect("remove_key");
    assert_eq!(replace(store, &registry, lamp, (2, key(5)), 5).await, RotateKey::Rotated);
    let change = || KeyChange { label: Some(Some("x".into())), ..KeyChange::default() };
    let before = picture(store).await;
    for (uid, number) in [(lamp, 1), (lamp, 4), (lamp, 9), (Uid(9), 3)] {
        let answer = store.change_key(&registry, uid, &kid(number), change(), entry("e")).await;
        assert_eq!(answer.expect("change_key"), ChangeKey::NotFound, "{uid:?} {number}");
    }
    assert_eq!(picture(store).await, before);
    // One in grace can be: its end may be brought forward.
    let answer = store.change_key(&registry, lamp, &kid(2), change(), entry("e")).await;
    let ChangeKey::Done(changed) = answer.expect("change_key") else { panic!("key 2 is there") };
    assert_eq!((changed.state, changed.label.as_deref()), (KeyState::Grace, Some("x")));
}

pub(super) async fn the_last_use_of_a_key_only_moves_forward_and_is_no_change_of_the_record(
    store: &dyn Store,
) {
    let registry = make_registry(store, "default").await;
    let other = make_registry(store, "other").await;
    let lamp = make_device(store, &registry, "lamp", 1, &[1, 2]).await;
    make_device(store, &other, "lamp", 1, &[1]).await;
    let rows = audit(store, &registry).await;
    let touch = async |used: &[(u32, u64)]| {
        let used = used.iter().map(|(number, used_s)| (kid(*number), *used_s)).collect();
        store.touch_keys(&registry, used).await.expect("touch_keys");
        let keys = known(store, &registry, lamp).await.keys;
        [keys[0].last_used_s, keys[1].last_used_s]
    };
    assert_eq!(touch(&[]).await, [None, None]);
    assert_eq!(touch(&[(9, NOW_S), (1, NOW_S)]).await, [Some(NOW_S), None], "the unknown key is passed by");
    assert_eq!(touch(&[(1, NOW_S - 60), (2, NOW_S + 60)]).await, [Some(NOW_S), Some(NOW_S + 60)]);
    assert_eq!(touch(&[(1, NOW_S + 1), (1, NOW_S + 120), (1, NOW_S + 2)]).await[0], Some(NOW_S + 120));
    let now = known(store, &registry, lamp).await;
    let used = |number, used_s| Key { last_used_s: Some(used_s), ..key(number) };
    assert_eq!(now.keys, [used(1, NOW_S + 120), used(2, NOW_S + 60)]);
    assert_eq!(now.principal.revision, 1);
    assert_eq!(audit(store, &registry).await, rows);
    assert_eq!(known(store, &other, lamp).await.keys, [key(1)], "the key of the other registry");
    let nowhere = store.touch_keys(&registry_name("gone"), vec![(kid(1), NOW_S)]).await;
    nowhere.expect("the use of nobody's key is dropped");
}
