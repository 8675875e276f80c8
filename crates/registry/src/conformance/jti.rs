//! Replay marks. Source: RFC 7523 section 3 item 7; invariant I7 of the design.

use drawbridge_names::{RegistryName, Uid};

use super::fixtures::*;
use crate::*;

async fn remember(
    store: &dyn Store,
    registry: &RegistryName,
    uid: Uid,
    mark: &JtiMark,
    now_s: u64,
) -> JtiOutcome {
    store.remember_jti(registry, uid, mark.clone(), now_s).await.expect("remember_jti")
}

fn seen(mark: &JtiMark) -> JtiOutcome {
    JtiOutcome::Seen { token_digest: mark.token_digest }
}

pub(super) async fn a_jti_is_fresh_once_and_then_seen_with_its_first_token(store: &dyn Store) {
    let (registry, lamp) = make_lamp(store).await;
    for first in [timed(1, 1, NOW_S + 300), lasting(2, 1)] {
        let reused = JtiMark { token_digest: [9; 16], ..first.clone() };
        let before = picture(store).await;
        assert_eq!(remember(store, &registry, lamp, &first, NOW_S).await, JtiOutcome::Fresh);
        assert_eq!(remember(store, &registry, lamp, &reused, NOW_S).await, seen(&first));
        assert_eq!(remember(store, &registry, lamp, &first, NOW_S).await, seen(&first));
        assert_eq!(picture(store).await, before, "a login is no change of the record");
    }
    // Digests that differ in one bit are different.
    let mut other = timed(1, 1, NOW_S + 300);
    other.jti_digest[15] ^= 1;
    assert_eq!(remember(store, &registry, lamp, &other, NOW_S).await, JtiOutcome::Fresh);
}

pub(super) async fn jti_are_one_namespace_per_principal_whatever_their_sort(store: &dyn Store) {
    let registry = make_registry(store, "default").await;
    let lamp = make_device(store, &registry, "lamp", 1, &[1, 2]).await;
    let pump = make_device(store, &registry, "pump", 2, &[3]).await;
    let (first, second) = (timed(1, 1, NOW_S + 300), lasting(2, 1));
    assert_eq!(remember(store, &registry, lamp, &first, NOW_S).await, JtiOutcome::Fresh);
    assert_eq!(remember(store, &registry, lamp, &second, NOW_S).await, JtiOutcome::Fresh);
    // The same jti of the other sort, and signed by another key of the same principal: seen.
    assert_eq!(remember(store, &registry, lamp, &lasting(1, 1), NOW_S).await, seen(&first));
    assert_eq!(remember(store, &registry, lamp, &timed(2, 1, NOW_S + 9), NOW_S).await, seen(&second));
    assert_eq!(remember(store, &registry, lamp, &timed(1, 2, NOW_S + 9), NOW_S).await, seen(&first));
    assert_eq!(remember(store, &registry, lamp, &lasting(2, 2), NOW_S).await, seen(&second));
    // Of another principal: fresh.
    assert_eq!(remember(store, &registry, pump, &timed(1, 3, NOW_S + 9), NOW_S).await, JtiOutcome::Fresh);
    assert_eq!(remember(store, &registry, pump, &lasting(2, 3), NOW_S).await, JtiOutcome::Fresh);
}

pub(super) async fn a_jti_is_forgotten_from_its_end_on_and_not_a_second_earlier(store: &dyn Store) {
    let (registry, lamp) = make_lamp(store).await;
    let (first, forever) = (timed(1, 1, NOW_S + 10), timed(3, 1, u64::MAX));
    let again = JtiMark { token_digest: [7; 16], until_s: Some(NOW_S + 20), ..first.clone() };
    assert_eq!(remember(store, &registry, lamp, &first, NOW_S).await, JtiOutcome::Fresh);
    assert_eq!(remember(store, &registry, lamp, &forever, NOW_S).await, JtiOutcome::Fresh);
    assert_eq!(remember(store, &registry, lamp, &lasting(2, 1), NOW_S).await, JtiOutcome::Fresh);
    assert_eq!(remember(store, &registry, lamp, &again, NOW_S + 9).await, seen(&first));
    assert_eq!(remember(store, &registry, lamp, &again, NOW_S + 10).await, JtiOutcome::Fresh);
    assert_eq!(remember(store, &registry, lamp, &first, NOW_S + 19).await, seen(&again));
    let lasts = remember(store, &registry, lamp, &lasting(2, 1), NOW_S + 1_000_000).await;
    assert_eq!(lasts, seen(&lasting(2, 1)), "a lasting one has no end");
    let lasts = remember(store, &registry, lamp, &forever, NOW_S + 1_000_000).await;
    assert_eq!(lasts, seen(&forever), "the largest end is far away");
}

pub(super) async fn a_principal_full_of_live_jti_takes_no_more_until_one_ends(store: &dyn Store) {
    let registry = make_registry(store, "default").await;
    let lamp = make_device(store, &registry, "lamp", 1, &[1, 2]).await;
    let pump = make_device(store, &registry, "pump", 2, &[3]).await;
    let mark = |jti: u8, signer: u32| JtiMark { live_max: 3, ..timed(jti, signer, NOW_S + u64::from(jti)) };
    for (jti, signer) in [(11, 1), (12, 2), (13, 1)] {
        assert_eq!(remember(store, &registry, lamp, &mark(jti, signer), NOW_S).await, JtiOutcome::Fresh);
    }
    assert_eq!(remember(store, &registry, lamp, &mark(14, 1), NOW_S).await, JtiOutcome::Full);
    assert_eq!(remember(store, &registry, lamp, &mark(14, 2), NOW_S).await, JtiOutcome::Full);
    assert_eq!(
        remember(store, &registry, lamp, &mark(12, 1), NOW_S).await,
        seen(&mark(12, 2)),
        "also when full"
    );
    assert_eq!(remember(store, &registry, pump, &mark(14, 3), NOW_S).await, JtiOutcome::Fresh, "another's");
    let own_limit = JtiMark { live_max: 1, ..lasting(20, 1) };
    assert_eq!(remember(store, &registry, lamp, &own_limit, NOW_S).await, JtiOutcome::Fresh, "another sort");
    // Full remembered nothing; the end of one makes room for one.
    assert_eq!(remember(store, &registry, lamp, &mark(14, 1), NOW_S + 11).await, JtiOutcome::Fresh);
    assert_eq!(remember(store, &registry, lamp, &mark(15, 1), NOW_S + 11).await, JtiOutcome::Full);
}

pub(super) async fn a_key_full_of_lasting_jti_takes_no_more_and_others_are_not_counted(store: &dyn Store) {
    let registry = make_registry(store, "default").await;
    let lamp = make_device(store, &registry, "lamp", 1, &[1, 2]).await;
    let mark = |jti: u8, signer: u32| JtiMark { live_max: 2, ..lasting(jti, signer) };
    for jti in [1, 2] {
        assert_eq!(remember(store, &registry, lamp, &mark(jti, 1), NOW_S).await, JtiOutcome::Fresh);
    }
    assert_eq!(remember(store, &registry, lamp, &mark(3, 1), NOW_S).await, JtiOutcome::Full);
    assert_eq!(
        remember(store, &registry, lamp, &mark(1, 1), NOW_S).await,
        seen(&mark(1, 1)),
        "also when full"
    );
    assert_eq!(
        remember(store, &registry, lamp, &mark(3, 2), NOW_S).await,
        JtiOutcome::Fresh,
        "the other key"
    );
    let other_sort = JtiMark { live_max: 1, ..timed(4, 1, NOW_S + 9) };
    assert_eq!(remember(store, &registry, lamp, &other_sort, NOW_S).await, JtiOutcome::Fresh);
    let none = JtiMark { live_max: 0, ..timed(5, 1, NOW_S + 9) };
    assert_eq!(remember(store, &registry, lamp, &none, NOW_S).await, JtiOutcome::Full);
}

pub(super) async fn lasting_jti_go_when_their_key_is_retired_and_not_before(store: &dyn Store) {
    let registry = make_registry(store, "default").await;
    let lamp = make_device(store, &registry, "lamp", 1, &[1, 2]).await;
    let pump = make_device(store, &registry, "pump", 2, &[3]).await;
    let end = NOW_S + 300;
    let marks = [lasting(1, 1), lasting(2, 2), timed(3, 1, end)];
    for mark in &marks {
        assert_eq!(remember(store, &registry, lamp, mark, NOW_S).await, JtiOutcome::Fresh);
    }
    assert_eq!(remember(store, &registry, pump, &lasting(1, 3), NOW_S).await, JtiOutcome::Fresh);

    // In grace nothing is forgotten: the old key may still log in.
    let rotated = store.rotate_key(&registry, lamp, rotation(1, 4, 9), NOW_S, entry("e")).await;
    assert_eq!(rotated.expect("rotate_key"), RotateKey::Rotated);
    assert_eq!(remember(store, &registry, lamp, &lasting(1, 1), NOW_S).await, seen(&marks[0]));

    store.remove_key(&registry, lamp, &kid(1), false, entry("e")).await.expect("remove_key");
    assert_eq!(remember(store, &registry, lamp, &lasting(1, 2), NOW_S).await, JtiOutcome::Fresh);
    assert_eq!(remember(store, &registry, lamp, &lasting(9, 2), NOW_S).await, JtiOutcome::Fresh);
    // Those of the other key, those with an end, and those of another principal stay.
    assert_eq!(remember(store, &registry, lamp, &lasting(2, 2), NOW_S).await, seen(&marks[1]));
    assert_eq!(remember(store, &registry, lamp, &timed(3, 2, end), NOW_S).await, seen(&marks[2]));
    assert_eq!(remember(store, &registry, pump, &lasting(1, 3), NOW_S).await, seen(&lasting(1, 3)));
    // The count of the other key is what it holds: 1, 2 and 9.
    let full = JtiMark { live_max: 3, ..lasting(30, 2) };
    assert_eq!(remember(store, &registry, lamp, &full, NOW_S).await, JtiOutcome::Full);
    let room = JtiMark { live_max: 4, ..full };
    assert_eq!(remember(store, &registry, lamp, &room, NOW_S).await, JtiOutcome::Fresh);
}

pub(super) async fn a_jti_of_a_key_that_cannot_log_in_is_not_remembered(store: &dyn Store) {
    let registry = make_registry(store, "default").await;
    let lamp = make_device(store, &registry, "lamp", 1, &[1, 2]).await;
    make_device(store, &registry, "pump", 2, &[3]).await;
    let rotated = store.rotate_key(&registry, lamp, rotation(2, 4, 9), NOW_S, entry("e")).await;
    assert_eq!(rotated.expect("rotate_key"), RotateKey::Rotated);
    store.remove_key(&registry, lamp, &kid(1), false, entry("e")).await.expect("remove_key");
    for sort in [timed(1, 1, NOW_S + 9), lasting(1, 1)] {
        for (why, uid, signer) in [
            ("retired", lamp, 1),
            ("of another principal", lamp, 3),
            ("of nobody", lamp, 7),
            ("of a principal that is not there", Uid(9), 1),
        ] {
            let mark = JtiMark { kid: kid(signer), ..sort.clone() };
            assert_eq!(remember(store, &registry, uid, &mark, NOW_S).await, JtiOutcome::KeyGone, "{why}");
        }
    }
    // It was not remembered, and a key in grace may log in.
    assert_eq!(remember(store, &registry, lamp, &lasting(1, 2), NOW_S).await, JtiOutcome::Fresh, "in grace");
    assert_eq!(remember(store, &registry, lamp, &lasting(2, 4), NOW_S).await, JtiOutcome::Fresh, "active");
}

pub(super) async fn a_key_that_comes_back_after_deletion_brings_no_used_jti_back(store: &dyn Store) {
    let registry = make_registry(store, "default").await;
    let lamp = make_device(store, &registry, "lamp", 1, &[1, 2, 3]).await;
    let other = make_registry(store, "other").await;
    let (short, long, forever) = (timed(1, 1, NOW_S + 10), timed(2, 2, NOW_S + 300), lasting(3, 1));
    let in_grace = lasting(4, 3);
    for mark in [&short, &long, &forever, &in_grace] {
        assert_eq!(remember(store, &registry, lamp, mark, NOW_S).await, JtiOutcome::Fresh);
    }
    let rotated = store.rotate_key(&registry, lamp, rotation(3, 4, 9), NOW_S, entry("e")).await;
    assert_eq!(rotated.expect("rotate_key"), RotateKey::Rotated);
    assert!(store.delete_principal(&registry, lamp, entry("e")).await.expect("delete_principal"));

    // Under another name, and each key elsewhere: the marks are the keys'.
    let bulb = make_device(store, &registry, "bulb", 2, &[1]).await;
    let lamp = make_device(store, &registry, "lamp", 3, &[2, 3]).await;
    assert_eq!(remember(store, &registry, bulb, &short, NOW_S).await, seen(&short));
    assert_eq!(remember(store, &registry, bulb, &lasting(1, 1), NOW_S).await, seen(&short), "of either sort");
    assert_eq!(remember(store, &registry, bulb, &forever, NOW_S).await, seen(&forever));
    assert_eq!(remember(store, &registry, lamp, &long, NOW_S).await, seen(&long));
    assert_eq!(remember(store, &registry, lamp, &in_grace, NOW_S).await, seen(&in_grace));
    let update = store.rotate_key(&registry, bulb, rotation(1, 5, 3), NOW_S, entry("e")).await;
    assert_eq!(update.expect("rotate_key"), RotateKey::Seen { token_digest: forever.token_digest });
    // What was never used, what another key used, and what another registry saw is fresh.
    assert_eq!(remember(store, &registry, bulb, &lasting(5, 1), NOW_S).await, JtiOutcome::Fresh);
    assert_eq!(remember(store, &registry, bulb, &lasting(2, 1), NOW_S).await, JtiOutcome::Fresh);
    let abroad = make_device(store, &other, "lamp", 1, &[1]).await;
    assert_eq!(remember(store, &other, abroad, &forever, NOW_S).await, JtiOutcome::Fresh);

    // A second time, and when the first end has come.
    assert!(store.delete_principal(&registry, bulb, entry("e")).await.expect("delete_principal"));
    let bulb = make_device(store, &registry, "bulb", 4, &[1]).await;
    for mark in [&forever, &lasting(5, 1)] {
        let years_later = NOW_S + 1_000_000_000;
        assert_eq!(remember(store, &registry, bulb, mark, years_later).await, seen(mark), "a lasting one");
    }
    assert_eq!(remember(store, &registry, bulb, &short, NOW_S + 9).await, seen(&short));
    assert_eq!(remember(store, &registry, bulb, &short, NOW_S + 10).await, JtiOutcome::Fresh, "its end");
}

pub(super) async fn a_key_that_was_retired_does_not_come_back_after_deletion_either(store: &dyn Store) {
    let registry = make_registry(store, "default").await;
    let lamp = make_device(store, &registry, "lamp", 1, &[1, 2]).await;
    assert_eq!(remember(store, &registry, lamp, &lasting(1, 1), NOW_S).await, JtiOutcome::Fresh);
    store.remove_key(&registry, lamp, &kid(1), false, entry("e")).await.expect("remove_key");
    assert!(store.delete_principal(&registry, lamp, entry("e")).await.expect("delete_principal"));
    let added = store.add_principal(principal(&registry, "lamp", 2), vec![key(1)], entry("e")).await;
    assert_eq!(added.expect("add_principal"), AddPrincipal::KeyInUse(kid(1)));
    let lamp = make_device(store, &registry, "lamp", 3, &[2]).await;
    assert_eq!(store.add_key(&registry, lamp, key(1), 5, entry("e")).await.expect("add_key"), AddKey::InUse);
    let rotated = store.rotate_key(&registry, lamp, rotation(2, 1, 7), NOW_S, entry("e")).await;
    assert_eq!(rotated.expect("rotate_key"), RotateKey::InUse);
    // In another registry it is a key like any other.
    let other = make_registry(store, "other").await;
    make_device(store, &other, "lamp", 1, &[1]).await;
}

pub(super) async fn lasting_jti_are_counted_by_key(store: &dyn Store) {
    let registry = make_registry(store, "default").await;
    let lamp = make_device(store, &registry, "lamp", 1, &[1, 2]).await;
    let other = make_registry(store, "other").await;
    make_device(store, &other, "lamp", 1, &[1]).await;
    let counts = async || {
        let mut counts = Vec::new();
        for number in [1, 2, 3, 9] {
            counts.push(store.lasting_jti(&registry, &kid(number)).await.expect("lasting_jti"));
        }
        counts
    };
    assert_eq!(counts().await, [0, 0, 0, 0]);
    let marks = [lasting(1, 1), lasting(2, 1), timed(3, 1, NOW_S + 9), lasting(4, 2), lasting(1, 1)];
    for mark in marks {
        store.remember_jti(&registry, lamp, mark, NOW_S).await.expect("remember_jti");
    }
    assert_eq!(counts().await, [2, 1, 0, 0], "those with an end and those seen are not counted");
    let rotated = store.rotate_key(&registry, lamp, rotation(2, 3, 5), NOW_S, entry("key.rotate")).await;
    assert_eq!(rotated.expect("rotate_key"), RotateKey::Rotated);
    assert_eq!(counts().await, [2, 2, 0, 0], "the mark of the update is the old key's");
    store.remove_key(&registry, lamp, &kid(1), true, entry("key.remove")).await.expect("remove_key");
    assert_eq!(counts().await, [0, 2, 0, 0], "retired");
    assert_eq!(store.lasting_jti(&other, &kid(1)).await.expect("lasting_jti"), 0);
    assert_eq!(store.lasting_jti(&registry_name("gone"), &kid(2)).await.expect("lasting_jti"), 0);
}
