//! Gateways that act for devices, and the CAs of a registry.

use drawbridge_names::{PrincipalName, RegistryName, Uid};

use super::fixtures::*;
use crate::*;

async fn link(store: &dyn Store, registry: &RegistryName, gateway: Uid, device: Uid, on: bool) -> Link {
    store.link(registry, gateway, device, on, entry("gateway.link")).await.expect("link")
}

fn texts(names: &[PrincipalName]) -> Vec<&str> {
    names.iter().map(PrincipalName::as_str).collect()
}

pub(super) async fn a_link_is_made_and_taken_away_and_goes_one_way(store: &dyn Store) {
    let (registry, lamp) = make_lamp(store).await;
    let gateway = make_device(store, &registry, "gateway", 2, &[2]).await;
    let other = make_registry(store, "other").await;
    make_device(store, &other, "lamp", 1, &[1]).await;
    make_device(store, &other, "gateway", 2, &[2]).await;
    let is_linked =
        async |registry, gateway, device| store.linked(registry, gateway, device).await.expect("linked");
    let rows = audit(store, &registry).await.len();
    for (on, expected, rows_more) in [
        (false, Link::Unchanged, 0),
        (true, Link::Changed, 1),
        (true, Link::Unchanged, 1),
        (false, Link::Changed, 2),
        (false, Link::Unchanged, 2),
        (true, Link::Changed, 3),
    ] {
        assert_eq!(link(store, &registry, gateway, lamp, on).await, expected, "{on}");
        assert_eq!(is_linked(&registry, gateway, lamp).await, on);
        assert!(!is_linked(&registry, lamp, gateway).await, "the other way round");
        assert!(!is_linked(&other, gateway, lamp).await, "in the other registry");
        assert_eq!(audit(store, &registry).await.len(), rows + rows_more);
    }
    let before = picture(store).await;
    for on in [true, false] {
        assert_eq!(link(store, &registry, gateway, Uid(9), on).await, Link::NotFound);
        assert_eq!(link(store, &registry, Uid(9), lamp, on).await, Link::NotFound);
    }
    assert_eq!(picture(store).await, before);
    assert!(!is_linked(&registry, Uid(9), lamp).await);
    assert_eq!(known(store, &registry, gateway).await.principal.revision, 1);
    assert_eq!(known(store, &registry, lamp).await.principal.revision, 1);
}

pub(super) async fn the_devices_of_a_gateway_are_paged_and_the_gateways_of_a_device_listed(
    store: &dyn Store,
) {
    let registry = make_registry(store, "default").await;
    let big = make_device(store, &registry, "big", 1, &[]).await;
    let small = make_device(store, &registry, "Small", 2, &[]).await;
    // Numbers against the order of names.
    for (uid, text) in [(20, "b"), (19, "B"), (18, "a.b"), (17, "a-b"), (16, "a"), (u64::MAX, "z")] {
        let device = make_device(store, &registry, text, uid, &[]).await;
        assert_eq!(link(store, &registry, big, device, true).await, Link::Changed);
    }
    assert_eq!(link(store, &registry, small, Uid(16), true).await, Link::Changed);
    let expected = ["B", "a", "a-b", "a.b", "b", "z"];
    for limit in [1, 4, 6, usize::MAX] {
        let mut found: Vec<PrincipalName> = Vec::new();
        loop {
            let page = store.linked_devices(&registry, big, found.last(), limit).await;
            let page = page.expect("linked_devices");
            assert!(page.len() <= limit);
            if page.is_empty() {
                break;
            }
            found.extend(page);
        }
        assert_eq!(texts(&found), expected, "pages of {limit}");
    }
    let page = store.linked_devices(&registry, big, Some(&name("a0")), 9).await.expect("linked_devices");
    assert_eq!(texts(&page), ["b", "z"], "after a name that does not exist");
    assert_eq!(store.linked_devices(&registry, big, None, 0).await.expect("linked_devices"), []);
    assert_eq!(store.linked_devices(&registry, Uid(16), None, 9).await.expect("linked_devices"), []);
    let both = store.gateways_of(&registry, Uid(16)).await.expect("gateways_of");
    assert_eq!(texts(&both), ["Small", "big"]);
    assert_eq!(store.gateways_of(&registry, Uid(17)).await.expect("gateways_of"), [name("big")]);
    assert_eq!(store.gateways_of(&registry, big).await.expect("gateways_of"), []);
    assert_eq!(store.gateways_of(&registry, Uid(99)).await.expect("gateways_of"), []);
}

pub(super) async fn the_links_of_a_deleted_principal_go_with_it(store: &dyn Store) {
    let registry = make_registry(store, "default").await;
    let [one, two] = [(1, "one"), (2, "two")];
    for (uid, text) in [one, two] {
        make_device(store, &registry, text, uid, &[]).await;
        for device in [10 * uid + 1, 10 * uid + 2] {
            make_device(store, &registry, &format!("d{device}"), device, &[]).await;
            assert_eq!(link(store, &registry, Uid(uid), Uid(device), true).await, Link::Changed);
        }
    }
    assert_eq!(link(store, &registry, Uid(2), Uid(11), true).await, Link::Changed);
    // A gateway, then a device.
    for uid in [1, 21] {
        let deleted = store.delete_principal(&registry, Uid(uid), entry("device.delete")).await;
        assert!(deleted.expect("delete_principal"));
    }
    for (gateway, device, expected) in
        [(1, 11, false), (1, 12, false), (2, 11, true), (2, 21, false), (2, 22, true)]
    {
        let linked = store.linked(&registry, Uid(gateway), Uid(device)).await.expect("linked");
        assert_eq!(linked, expected, "{gateway} {device}");
    }
    assert_eq!(store.linked_devices(&registry, Uid(1), None, 9).await.expect("linked_devices"), []);
    let left = store.linked_devices(&registry, Uid(2), None, 9).await.expect("linked_devices");
    assert_eq!(texts(&left), ["d11", "d22"]);
    assert_eq!(store.gateways_of(&registry, Uid(11)).await.expect("gateways_of"), [name("two")]);
    // A new one of the old name has no links.
    let again = make_device(store, &registry, "one", 3, &[]).await;
    assert_eq!(store.linked_devices(&registry, again, None, 9).await.expect("linked_devices"), []);
}

pub(super) async fn a_ca_is_registered_once_listed_by_fingerprint_and_removed(store: &dyn Store) {
    let registry = make_registry(store, "default").await;
    let other = make_registry(store, "other").await;
    let ca = |number: u8| Ca {
        fingerprint: [number; 32],
        der: vec![number; 2000],
        label: (number == 200).then(|| "line 7".to_owned()),
        added_s: NOW_S + u64::from(number),
    };
    let rows = audit(store, &registry).await.len();
    for number in [200, 3, 100] {
        assert!(store.add_ca(&registry, ca(number), entry("ca.add")).await.expect("add_ca"));
    }
    assert!(store.add_ca(&other, ca(3), entry("ca.add")).await.expect("add_ca"));
    let before = picture(store).await;
    let same = Ca { der: vec![1], label: Some("x".into()), ..ca(3) };
    assert!(!store.add_ca(&registry, same, entry("e")).await.expect("add_ca"));
    assert!(!store.remove_ca(&registry, &[4; 32], entry("e")).await.expect("remove_ca"));
    assert_eq!(picture(store).await, before);
    assert_eq!(store.cas(&registry).await.expect("cas"), [ca(3), ca(100), ca(200)]);
    assert!(store.remove_ca(&registry, &[3; 32], entry("ca.remove")).await.expect("remove_ca"));
    assert!(!store.remove_ca(&registry, &[3; 32], entry("e")).await.expect("remove_ca"), "twice");
    assert_eq!(store.cas(&registry).await.expect("cas"), [ca(100), ca(200)]);
    assert_eq!(store.cas(&other).await.expect("cas"), [ca(3)]);
    assert_eq!(audit(store, &registry).await.len(), rows + 4);
    // One that was removed may come back.
    assert!(store.add_ca(&registry, ca(3), entry("ca.add")).await.expect("add_ca"));
}
