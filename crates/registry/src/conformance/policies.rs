//! Policies and secrets of a registry.

use super::fixtures::*;
use crate::*;

pub(super) async fn a_policy_is_kept_byte_for_byte_and_counts_its_revisions(store: &dyn Store) {
    let registry = make_registry(store, "default").await;
    let device = policy_name("device");
    assert_eq!(store.policy(&registry, &device).await.expect("policy"), None);
    for (revision, source) in [(1, "[[allow]]\r\n# ä\t\"'"), (2, ""), (3, "[[deny]]\n")] {
        let now_s = NOW_S + revision;
        let set = store.set_policy(&registry, &device, source, now_s, entry("policy.set")).await;
        assert_eq!(set.expect("set_policy"), revision);
        let expected =
            PolicyRecord { name: device.clone(), source: source.to_owned(), updated_s: now_s, revision };
        assert_eq!(store.policy(&registry, &device).await.expect("policy"), Some(expected));
    }
    for text in ["b", "B", "a.b", "a"] {
        let set = store.set_policy(&registry, &policy_name(text), text, NOW_S, entry("policy.set")).await;
        assert_eq!(set.expect("set_policy"), 1, "each counts for itself");
    }
    let listed = store.policies(&registry).await.expect("policies");
    let listed: Vec<(&str, u64)> = listed.iter().map(|p| (p.name.as_str(), p.revision)).collect();
    assert_eq!(listed, [("B", 1), ("a", 1), ("a.b", 1), ("b", 1), ("device", 3)]);
}

pub(super) async fn the_first_secret_stays_until_it_is_replaced(store: &dyn Store) {
    let registry = make_registry(store, "default").await;
    let audits = audit(store, &registry).await.len();
    assert_eq!(store.secret(&registry, "issuer").await.expect("secret"), None);
    for offered in [vec![1, 7], vec![1, 8]] {
        let kept = store.secret_or_insert(&registry, "issuer", offered).await;
        assert_eq!(kept.expect("secret_or_insert"), [1, 7]);
    }
    assert_eq!(store.secret(&registry, "Issuer").await.expect("secret"), None);
    assert_eq!(audit(store, &registry).await.len(), audits, "making one is part of a start, not audited");
    for (name, value) in [("issuer", vec![1, 9]), ("admin", vec![])] {
        store.replace_secret(&registry, name, value.clone(), entry("e")).await.expect("replace_secret");
        assert_eq!(store.secret(&registry, name).await.expect("secret"), Some(value.clone()));
        let kept = store.secret_or_insert(&registry, name, vec![3]).await;
        assert_eq!(kept.expect("secret_or_insert"), value);
    }
}
