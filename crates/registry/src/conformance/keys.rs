//! Keys: adding and removing.

use drawbridge_names::Uid;

use super::fixtures::*;
use crate::*;

pub(super) async fn a_key_is_added_up_to_the_limit_and_counts_the_revision(store: &dyn Store) {
    let (registry, lamp) = make_lamp(store).await;
    let second = Key { label: Some("spare".into()), expires_s: Some(NOW_S + 1), ..key(2) };
    let added = store.add_key(&registry, lamp, second.clone(), 2, entry("key.add")).await;
    assert_eq!(added.expect("add_key"), AddKey::Added);
    let now = known(store, &registry, lamp).await;
    assert_eq!((now.keys, now.principal.revision), (vec![key(1), second.clone()], 2));
    let owner = store.owner_of_key(&registry, &kid(2)).await.expect("owner_of_key");
    assert_eq!(owner, Some((lamp, name("lamp"))));

    let before = picture(store).await;
    let third = store.add_key(&registry, lamp, key(3), 2, entry("e")).await;
    assert_eq!(third.expect("add_key"), AddKey::TooMany { active: 2 });
    let again = store.add_key(&registry, lamp, Key { label: None, ..key(2) }, 2, entry("e")).await;
    assert_eq!(again.expect("add_key"), AddKey::AlreadyThere(second));
    let nobody = store.add_key(&registry, Uid(2), key(3), 2, entry("e")).await;
    assert_eq!(nobody.expect("add_key"), AddKey::NotFound);
    assert_eq!(picture(store).await, before);
    assert_eq!(store.owner_of_key(&registry, &kid(3)).await.expect("owner_of_key"), None);

    // Only active keys are counted.
    store.remove_key(&registry, lamp, &kid(1), false, entry("key.remove")).await.expect("remove_key");
    let third = store.add_key(&registry, lamp, key(3), 2, entry("key.add")).await;
    assert_eq!(third.expect("add_key"), AddKey::Added);
    assert_eq!(known(store, &registry, lamp).await.principal.revision, 4);
}

pub(super) async fn a_key_belongs_to_one_principal_also_when_retired(store: &dyn Store) {
    let (registry, lamp) = make_lamp(store).await;
    let pump = make_device(store, &registry, "pump", 2, &[2]).await;
    store.remove_key(&registry, lamp, &kid(1), true, entry("key.remove")).await.expect("remove_key");
    let before = picture(store).await;
    let to_pump = store.add_key(&registry, pump, key(1), 5, entry("e")).await;
    assert_eq!(to_pump.expect("add_key"), AddKey::InUse);
    let to_new = store.add_principal(principal(&registry, "new", 3), vec![key(1)], entry("e")).await;
    assert_eq!(to_new.expect("add_principal"), AddPrincipal::KeyInUse(kid(1)));
    let by_rotation = store.rotate_key(&registry, pump, rotation(2, 1, 1), NOW_S, entry("e")).await;
    assert_eq!(by_rotation.expect("rotate_key"), RotateKey::InUse);
    let to_its_own = store.add_key(&registry, lamp, key(1), 5, entry("e")).await;
    let retired = Key { state: KeyState::Retired, ..key(1) };
    assert_eq!(to_its_own.expect("add_key"), AddKey::AlreadyThere(retired));
    assert_eq!(picture(store).await, before);
}

pub(super) async fn a_removed_key_is_retired_and_the_last_active_one_is_kept(store: &dyn Store) {
    let registry = make_registry(store, "default").await;
    let lamp = make_device(store, &registry, "lamp", 1, &[1, 2, 3]).await;
    let rotated = store.rotate_key(&registry, lamp, rotation(3, 4, 1), NOW_S, entry("key.rotate")).await;
    assert_eq!(rotated.expect("rotate_key"), RotateKey::Rotated);
    // Active: 1, 2, 4. In grace: 3.
    for (number, also_last, expected) in [
        (3, false, RemoveKey::Removed),
        (1, false, RemoveKey::Removed),
        (1, false, RemoveKey::NotFound),
        (9, true, RemoveKey::NotFound),
        (2, true, RemoveKey::Removed),
        (4, false, RemoveKey::LastKey),
        (4, true, RemoveKey::Removed),
        (4, true, RemoveKey::NotFound),
    ] {
        let before = picture(store).await;
        let revision = known(store, &registry, lamp).await.principal.revision;
        let answer = store.remove_key(&registry, lamp, &kid(number), also_last, entry("key.remove")).await;
        assert_eq!(answer.expect("remove_key"), expected, "key {number}");
        if expected == RemoveKey::Removed {
            let now = known(store, &registry, lamp).await;
            assert_eq!(now.principal.revision, revision + 1, "key {number}");
            let state = now.keys.iter().find(|key| key.kid == kid(number)).map(|key| key.state);
            assert_eq!(state, Some(KeyState::Retired), "key {number}");
        } else {
            assert_eq!(picture(store).await, before, "key {number}");
        }
    }
    assert_eq!(known(store, &registry, lamp).await.keys.len(), 4, "retired keys stay");
    let nobody = store.remove_key(&registry, Uid(2), &kid(1), true, entry("e")).await;
    assert_eq!(nobody.expect("remove_key"), RemoveKey::NotFound);
    make_device(store, &registry, "pump", 2, &[5]).await;
    let of_another = store.remove_key(&registry, lamp, &kid(5), true, entry("e")).await;
    assert_eq!(of_another.expect("remove_key"), RemoveKey::NotFound);
}
