//! The audit goes with the change, whole or not at all.

use drawbridge_names::Uid;

use super::fixtures::*;
use crate::audit::{CHAIN_START, continues, verify_chain};
use crate::*;

/// Runs a call with its own audit entry and checks that exactly this entry was, or none was, written.
macro_rules! audited {
    ($store:ident, $registry:expr, $expected:expr, |$entry:ident| $call:expr) => {{
        let before = audit($store, $registry).await;
        let $entry = AuditEntry { at_ms: before.len() as u64, ..entry(concat!("check.", line!())) };
        let given = $entry.clone();
        let answer = $call.await.expect("the store works");
        let after = audit($store, $registry).await;
        assert_eq!(after[..before.len()], before[..], "what is written stays: {answer:?}");
        let written: Vec<&AuditEntry> = after[before.len()..].iter().map(|row| &row.entry).collect();
        let expected: &[&AuditEntry] = if $expected { &[&given] } else { &[] };
        assert_eq!(written, expected, "{answer:?}");
        answer
    }};
}

pub(super) async fn each_change_writes_one_audit_row_and_each_refusal_none(store: &dyn Store) {
    let r = &registry_name("default");
    let lamp = Uid(1);
    let nobody = Uid(99);
    audited!(store, r, true, |e| store.add_registry(registry_record("default"), e));
    audited!(store, r, false, |e| store.add_registry(registry_record("default"), e));
    audited!(store, r, true, |e| store.add_principal(principal(r, "lamp", 1), vec![key(1)], e));
    audited!(store, r, false, |e| store.add_principal(principal(r, "lamp", 2), vec![], e));
    audited!(store, r, false, |e| store.add_principal(principal(r, "x", 1), vec![], e));
    audited!(store, r, false, |e| store.add_principal(principal(r, "x", 2), vec![key(1)], e));
    audited!(store, r, true, |e| store.change_principal(r, lamp, PrincipalChange::Unblock, None, e));
    audited!(store, r, false, |e| store.change_principal(r, lamp, PrincipalChange::Unblock, Some(9), e));
    audited!(store, r, false, |e| store.change_principal(r, nobody, PrincipalChange::Unblock, None, e));
    audited!(store, r, true, |e| store.add_key(r, lamp, key(2), 2, e));
    audited!(store, r, false, |e| store.add_key(r, lamp, key(2), 2, e));
    audited!(store, r, false, |e| store.add_key(r, lamp, key(3), 2, e));
    audited!(store, r, false, |e| store.add_key(r, nobody, key(3), 2, e));
    audited!(store, r, true, |e| store.remove_key(r, lamp, &kid(2), false, e));
    audited!(store, r, false, |e| store.remove_key(r, lamp, &kid(2), false, e));
    audited!(store, r, false, |e| store.remove_key(r, lamp, &kid(1), false, e));
    audited!(store, r, true, |e| store.rotate_key(r, lamp, rotation(1, 4, 1), NOW_S, e));
    audited!(store, r, false, |e| store.rotate_key(r, lamp, rotation(1, 4, 1), NOW_S, e));
    audited!(store, r, false, |e| store.rotate_key(r, lamp, rotation(1, 4, 2), NOW_S, e));
    audited!(store, r, false, |e| store.rotate_key(r, lamp, rotation(1, 5, 2), NOW_S, e));
    audited!(store, r, true, |e| store.replace_key(r, lamp, &kid(4), key(6), NOW_S, 5, e));
    audited!(store, r, false, |e| store.replace_key(r, lamp, &kid(4), key(7), NOW_S, 5, e));
    audited!(store, r, true, |e| store.change_key(r, lamp, &kid(6), KeyChange::default(), e));
    audited!(store, r, false, |e| store.change_key(r, lamp, &kid(9), KeyChange::default(), e));
    audited!(store, r, true, |e| store.change_registry(registry_record("default"), e));
    audited!(store, r, false, |e| store.change_registry(registry_record("gone"), e));
    let batch = |uid| vec![(principal(r, "a", uid), vec![]), (principal(r, "b", uid + 1), vec![])];
    audited!(store, r, true, |e| store.import_principals(r, batch(50), e));
    audited!(store, r, false, |e| store.import_principals(r, batch(60), e));
    audited!(store, r, true, |e| store.add_enrolment(r, enrolment("e"), e));
    audited!(store, r, true, |e| store.enrol(r, "e", principal(r, "c", 70), vec![], NOW_S, e));
    audited!(store, r, false, |e| store.enrol(r, "e", principal(r, "c", 71), vec![], NOW_S, e));
    audited!(store, r, true, |e| store.link(r, lamp, Uid(70), true, e));
    audited!(store, r, false, |e| store.link(r, lamp, Uid(70), true, e));
    audited!(store, r, false, |e| store.link(r, lamp, nobody, true, e));
    audited!(store, r, true, |e| store.undo_enrolment(r, Uid(70), e));
    audited!(store, r, false, |e| store.undo_enrolment(r, Uid(70), e));
    audited!(store, r, true, |e| store.end_enrolment(r, "e", e));
    audited!(store, r, false, |e| store.end_enrolment(r, "e", e));
    let ca = || Ca { fingerprint: [1; 32], der: vec![1], label: None, added_s: NOW_S };
    audited!(store, r, true, |e| store.add_ca(r, ca(), e));
    audited!(store, r, false, |e| store.add_ca(r, ca(), e));
    audited!(store, r, true, |e| store.remove_ca(r, &[1; 32], e));
    audited!(store, r, false, |e| store.remove_ca(r, &[1; 32], e));
    audited!(store, r, true, |e| store.set_policy(r, &policy_name("p"), "", NOW_S, e));
    audited!(store, r, true, |e| store.replace_secret(r, "admin", vec![1], e));
    audited!(store, r, true, |e| store.set_config(r, lamp, vec![], Some(0), 1, e));
    audited!(store, r, false, |e| store.set_config(r, lamp, vec![], Some(0), 1, e));
    audited!(store, r, false, |e| store.set_config(r, nobody, vec![], None, 1, e));
    audited!(store, r, true, |e| store.record(r, e));
    audited!(store, r, true, |e| store.delete_principal(r, lamp, e));
    audited!(store, r, false, |e| store.delete_principal(r, lamp, e));
    let rows = audit(store, r).await;
    assert_eq!(rows.len(), 22);
    verify_chain(&rows).expect("the chain holds");
}

pub(super) async fn the_audit_is_one_chain_per_registry_that_verifies(store: &dyn Store) {
    let registries = [make_registry(store, "a").await, make_registry(store, "b").await];
    for number in 0..20u64 {
        let registry = &registries[usize::from(number % 3 == 0)];
        let odd = AuditEntry {
            at_ms: u64::MAX - number,
            actor: String::new(),
            subject: "ä\"\n".into(),
            detail: "x".repeat(5000),
            ..entry("e")
        };
        store.record(registry, odd).await.expect("record");
    }
    let mut all = Vec::new();
    for (registry, length) in registries.iter().zip([14, 8]) {
        let rows = audit(store, registry).await;
        assert_eq!(rows.len(), length, "{registry}");
        assert_eq!(rows[0].prev, CHAIN_START);
        let numbers: Vec<u64> = rows.iter().map(|row| row.seq).collect();
        assert_eq!(numbers, (1..=length as u64).collect::<Vec<_>>());
        assert!(rows.iter().all(|row| row.registry == *registry && row.writer == rows[0].writer));
        verify_chain(&rows).expect("the chain holds");
        all.push(rows);
    }
    assert_ne!(all[0][0].hash, all[1][0].hash, "the registry is part of the hash");
    all[0][3].entry.actor.push('x');
    assert_eq!(verify_chain(&all[0]).map_err(|broken| broken.seq), Err(4));
}

pub(super) async fn the_audit_is_read_newest_first_in_pages(store: &dyn Store) {
    let registry = make_registry(store, "default").await;
    for _ in 0..9 {
        store.record(&registry, entry("e")).await.expect("record");
    }
    for (before, limit, expected) in [
        (None, 3, [10, 9, 8].as_slice()),
        (Some(8), 3, &[7, 6, 5]),
        (Some(3), 9, &[2, 1]),
        (Some(1), 9, &[]),
        (Some(0), 9, &[]),
        (None, 0, &[]),
        (Some(u64::MAX), 1, &[10]),
    ] {
        let rows = store.audit_tail(&registry, before, limit).await.expect("audit_tail");
        let found: Vec<u64> = rows.iter().map(|row| row.seq).collect();
        assert_eq!(found, expected, "before {before:?}, at most {limit}");
    }
}

pub(super) async fn the_audit_is_read_oldest_first_from_any_row_on(store: &dyn Store) {
    let registry = make_registry(store, "default").await;
    let other = make_registry(store, "other").await;
    for _ in 0..9 {
        store.record(&registry, entry("e")).await.expect("record");
    }
    let all = audit(store, &registry).await;
    let writer = &all[0].writer;
    for (from_seq, limit, expected) in [
        (1, 3, 0..3),
        (0, 3, 0..3),
        (4, 3, 3..6),
        (9, 99, 8..10),
        (10, usize::MAX, 9..10),
        (11, 9, 0..0),
        (u64::MAX, 9, 0..0),
        (1, 0, 0..0),
    ] {
        let rows = store.audit_rows(&registry, writer, from_seq, limit).await.expect("audit_rows");
        assert_eq!(rows, all[expected], "from {from_seq}, at most {limit}");
    }
    assert_eq!(store.audit_rows(&registry, "nobody", 0, 9).await.expect("audit_rows"), []);
    let of_other = audit(store, &other).await;
    assert_eq!(store.audit_rows(&other, writer, 1, 9).await.expect("audit_rows"), of_other);
}

pub(super) async fn the_heads_of_the_audit_are_the_newest_rows(store: &dyn Store) {
    let registries = [make_registry(store, "a").await, make_registry(store, "b").await];
    for number in 0..5 {
        for registry in &registries {
            let heads = store.audit_heads(registry).await.expect("audit_heads");
            let newest = audit(store, registry).await.pop().expect("it was made");
            assert_eq!(heads, [newest.head()], "{registry} {number}");
            // A head noted earlier is found again, with all that came after it.
            let rows = store.audit_rows(registry, &heads[0].writer, heads[0].seq, 9).await;
            continues(&rows.expect("audit_rows"), registry, &heads[0]).expect("nothing is missing");
        }
        store.record(&registries[0], entry("e")).await.expect("record");
    }
    let first = store.audit_rows(&registries[0], &audit(store, &registries[0]).await[0].writer, 1, 9).await;
    let first = first.expect("audit_rows");
    continues(&first, &registries[0], &first[0].head()).expect("nothing is missing");
}
