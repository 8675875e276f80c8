//! A device replaces its own key.

use drawbridge_names::{RegistryName, Uid};

use super::fixtures::*;
use crate::*;

async fn rotate(store: &dyn Store, registry: &RegistryName, uid: Uid, rotation: &KeyRotation) -> RotateKey {
    let answer = store.rotate_key(registry, uid, rotation.clone(), NOW_S, entry("key.rotate")).await;
    answer.expect("rotate_key")
}

/// The rotation is refused with this answer, changes nothing, and its `jti` is not remembered:
/// `signer`, a key of the principal, can still use it.
async fn refused(
    store: &dyn Store,
    registry: &RegistryName,
    uid: Uid,
    rotation: &KeyRotation,
    expected: RotateKey,
    signer: u32,
) {
    let before = picture(store).await;
    assert_eq!(rotate(store, registry, uid, rotation).await, expected);
    assert_eq!(picture(store).await, before, "{expected:?}");
    let mark = JtiMark { kid: kid(signer), live_max: usize::MAX, ..rotation.mark.clone() };
    let fresh = store.remember_jti(registry, uid, mark, NOW_S).await.expect("remember_jti");
    assert_eq!(fresh, JtiOutcome::Fresh, "{expected:?}");
}

pub(super) async fn a_rotation_is_one_step_key_jti_revision_and_audit(store: &dyn Store) {
    let (registry, lamp) = make_lamp(store).await;
    let asked = KeyRotation {
        new: Key { state: KeyState::Retired, label: Some("second".into()), ..key(2) },
        ..rotation(1, 2, 1)
    };
    let audits = audit(store, &registry).await.len();
    assert_eq!(rotate(store, &registry, lamp, &asked).await, RotateKey::Rotated);
    let now = known(store, &registry, lamp).await;
    let old = Key { state: KeyState::Grace, expires_s: Some(NOW_S + 3600), ..key(1) };
    let new = Key { label: Some("second".into()), ..key(2) };
    assert_eq!(now.keys, [old, new], "the new key is active whatever was asked");
    assert_eq!(now.principal.revision, 2);
    let owner = store.owner_of_key(&registry, &kid(2)).await.expect("owner_of_key");
    assert_eq!(owner, Some((lamp, name("lamp"))));
    let rows = audit(store, &registry).await;
    assert_eq!((rows.len(), rows.last().map(|row| &row.entry)), (audits + 1, Some(&entry("key.rotate"))));
    let jti = store.remember_jti(&registry, lamp, lasting(1, 2), NOW_S).await.expect("remember_jti");
    assert_eq!(jti, JtiOutcome::Seen { token_digest: asked.mark.token_digest });
}

pub(super) async fn a_rotation_without_grace_keeps_the_old_key_active(store: &dyn Store) {
    let (registry, lamp) = make_lamp(store).await;
    let asked = KeyRotation { old_expires_s: None, active_max: 2, ..rotation(1, 2, 1) };
    assert_eq!(rotate(store, &registry, lamp, &asked).await, RotateKey::Rotated);
    assert_eq!(known(store, &registry, lamp).await.keys, [key(1), key(2)]);
}

pub(super) async fn a_grace_never_lengthens_the_life_of_a_key(store: &dyn Store) {
    let registry = make_registry(store, "default").await;
    let ends = |number, expires_s| Key { expires_s: Some(expires_s), ..key(number) };
    let keys = vec![ends(1, NOW_S + 60), ends(2, NOW_S + 9999)];
    let added = store.add_principal(principal(&registry, "lamp", 1), keys, entry("device.add")).await;
    assert_eq!(added.expect("add_principal"), AddPrincipal::Added);
    assert_eq!(rotate(store, &registry, Uid(1), &rotation(1, 3, 1)).await, RotateKey::Rotated);
    assert_eq!(rotate(store, &registry, Uid(1), &rotation(2, 4, 2)).await, RotateKey::Rotated);
    let keys = known(store, &registry, Uid(1)).await.keys;
    assert_eq!((keys[0].state, keys[0].expires_s), (KeyState::Grace, Some(NOW_S + 60)));
    assert_eq!((keys[1].state, keys[1].expires_s), (KeyState::Grace, Some(NOW_S + 3600)));
}

pub(super) async fn a_lost_answer_can_be_asked_for_again_and_a_key_in_grace_starts_nothing_new(
    store: &dyn Store,
) {
    let (registry, lamp) = make_lamp(store).await;
    let asked = rotation(1, 2, 1);
    assert_eq!(rotate(store, &registry, lamp, &asked).await, RotateKey::Rotated);
    let before = picture(store).await;
    // The same message again: the caller compares the digest with the message it has.
    let seen = RotateKey::Seen { token_digest: asked.mark.token_digest };
    assert_eq!(rotate(store, &registry, lamp, &asked).await, seen);
    // Another message with that jti.
    let reused = KeyRotation {
        mark: JtiMark { token_digest: [9; 16], ..asked.mark.clone() },
        new: key(3),
        ..asked.clone()
    };
    assert_eq!(rotate(store, &registry, lamp, &reused).await, seen);
    assert_eq!(picture(store).await, before);
    // A new message for the same key, by the old key in grace or by the new one.
    let there = || RotateKey::AlreadyThere(key(2));
    refused(store, &registry, lamp, &rotation(1, 2, 2), there(), 2).await;
    refused(store, &registry, lamp, &rotation(2, 2, 3), there(), 2).await;
    // A new message for another key, by the old key in grace.
    refused(store, &registry, lamp, &rotation(1, 3, 4), RotateKey::OldNotActive, 2).await;
}

pub(super) async fn a_rotation_to_a_key_that_is_known_or_in_use_changes_nothing(store: &dyn Store) {
    let registry = make_registry(store, "default").await;
    let lamp = make_device(store, &registry, "lamp", 1, &[1, 2, 3]).await;
    let pump = make_device(store, &registry, "pump", 2, &[4, 5]).await;
    store.remove_key(&registry, lamp, &kid(3), false, entry("e")).await.expect("remove_key");
    store.remove_key(&registry, pump, &kid(5), false, entry("e")).await.expect("remove_key");
    let retired = Key { state: KeyState::Retired, ..key(3) };
    for (new, jti, expected) in [
        (1, 1, RotateKey::AlreadyThere(key(1))),
        (2, 2, RotateKey::AlreadyThere(key(2))),
        (3, 3, RotateKey::AlreadyThere(retired)),
        (4, 4, RotateKey::InUse),
        (5, 5, RotateKey::InUse),
    ] {
        refused(store, &registry, lamp, &rotation(1, new, jti), expected, 1).await;
    }
}

pub(super) async fn a_rotation_beyond_the_limits_changes_nothing(store: &dyn Store) {
    let registry = make_registry(store, "default").await;
    let lamp = make_device(store, &registry, "lamp", 1, &[1, 2, 3]).await;
    let limits =
        |jti, old_expires_s, active_max| KeyRotation { old_expires_s, active_max, ..rotation(1, 4, jti) };
    let too_many = || RotateKey::TooMany { active: 3 };
    // One goes into grace, so three stay active; without grace there would be four.
    refused(store, &registry, lamp, &limits(1, Some(NOW_S), 2), too_many(), 1).await;
    refused(store, &registry, lamp, &limits(2, None, 3), too_many(), 1).await;
    let timed = KeyRotation { mark: JtiMark { live_max: 0, ..timed(4, 1, NOW_S + 9) }, ..rotation(1, 4, 4) };
    refused(store, &registry, lamp, &timed, RotateKey::JtiFull, 2).await;
    assert_eq!(store.owner_of_key(&registry, &kid(4)).await.expect("owner_of_key"), None);
    assert_eq!(rotate(store, &registry, lamp, &limits(5, Some(NOW_S), 3)).await, RotateKey::Rotated);
}

pub(super) async fn a_key_full_of_lasting_jti_can_still_be_replaced(store: &dyn Store) {
    let (registry, lamp) = make_lamp(store).await;
    let full = |mark: JtiMark| JtiMark { live_max: 1, ..mark };
    let first = store.remember_jti(&registry, lamp, full(lasting(1, 1)), NOW_S).await;
    assert_eq!(first.expect("remember_jti"), JtiOutcome::Fresh);
    let more = store.remember_jti(&registry, lamp, full(lasting(2, 1)), NOW_S).await;
    assert_eq!(more.expect("remember_jti"), JtiOutcome::Full);
    let asked = KeyRotation { mark: full(lasting(3, 1)), ..rotation(1, 2, 3) };
    assert_eq!(rotate(store, &registry, lamp, &asked).await, RotateKey::Rotated);
    // Its mark is kept as any other, and the key stays full.
    let again = rotate(store, &registry, lamp, &asked).await;
    assert_eq!(again, RotateKey::Seen { token_digest: asked.mark.token_digest });
    let more = store.remember_jti(&registry, lamp, full(lasting(2, 1)), NOW_S).await;
    assert_eq!(more.expect("remember_jti"), JtiOutcome::Full);
    let by_new = store.remember_jti(&registry, lamp, full(lasting(4, 2)), NOW_S).await;
    assert_eq!(by_new.expect("remember_jti"), JtiOutcome::Fresh, "the new key begins afresh");
}

pub(super) async fn a_rotation_by_a_key_that_is_not_active_changes_nothing(store: &dyn Store) {
    let registry = make_registry(store, "default").await;
    let lamp = make_device(store, &registry, "lamp", 1, &[1, 2]).await;
    make_device(store, &registry, "pump", 2, &[3]).await;
    store.remove_key(&registry, lamp, &kid(1), false, entry("e")).await.expect("remove_key");
    refused(store, &registry, lamp, &rotation(1, 4, 1), RotateKey::OldNotActive, 2).await;
    refused(store, &registry, lamp, &rotation(3, 4, 2), RotateKey::OldNotActive, 2).await;
    refused(store, &registry, lamp, &rotation(9, 4, 3), RotateKey::OldNotActive, 2).await;
    let before = picture(store).await;
    assert_eq!(rotate(store, &registry, Uid(9), &rotation(2, 4, 4)).await, RotateKey::OldNotActive);
    assert_eq!(picture(store).await, before);
}

pub(super) async fn a_blocked_principal_replaces_no_key(store: &dyn Store) {
    let (registry, lamp) = make_lamp(store).await;
    let change = async |change| {
        let changed = store.change_principal(&registry, lamp, change, None, entry("e")).await;
        assert!(matches!(changed.expect("change_principal"), Changed::Done(_)));
    };
    // Whoever asked had looked before it was blocked.
    change(PrincipalChange::Block).await;
    refused(store, &registry, lamp, &rotation(1, 2, 1), RotateKey::OldNotActive, 1).await;
    change(PrincipalChange::Unblock).await;
    assert_eq!(rotate(store, &registry, lamp, &rotation(1, 2, 2)).await, RotateKey::Rotated);
}
