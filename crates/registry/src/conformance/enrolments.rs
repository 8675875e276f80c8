//! Devices that register themselves.

use drawbridge_names::{PrincipalKind, RegistryName, Uid};

use super::fixtures::*;
use crate::*;

async fn add(store: &dyn Store, registry: &RegistryName, enrolment: &Enrolment) {
    store.add_enrolment(registry, enrolment.clone(), entry("enrolment.add")).await.expect("add_enrolment");
}

async fn claims(store: &dyn Store, registry: &RegistryName, id: &str) -> u32 {
    let all = store.enrolments(registry).await.expect("enrolments");
    all.into_iter().find(|enrolment| enrolment.id == id).expect("it was added").claims
}

/// The device `text` with the key of this number registers itself at `NOW_S`.
async fn enrol(store: &dyn Store, registry: &RegistryName, id: &str, text: &str, number: u32) -> Enrol {
    let device = principal(registry, text, u64::from(number));
    let keys = vec![key(number)];
    store.enrol(registry, id, device, keys, NOW_S, entry("device.enrol")).await.expect("enrol")
}

pub(super) async fn enrolments_are_read_back_as_given_and_listed_newest_first(store: &dyn Store) {
    let registry = make_registry(store, "default").await;
    let other = make_registry(store, "other").await;
    assert_eq!(store.enrolments(&registry).await.expect("enrolments"), []);
    let full = Enrolment {
        label: Some("line 7, \"ä\"".into()),
        names: EnrolmentNames::Ids(vec!["pump-1".into(), "pump \"2\"".into()]),
        claims_max: u32::MAX,
        claims: 3,
        policy: Some(policy_name("pumps")),
        auto: true,
        expires_s: u64::MAX,
        ended: true,
        created_s: NOW_S + 5,
        ..enrolment("m")
    };
    let keys = Enrolment { names: EnrolmentNames::Keys(vec!["k".repeat(43)]), ..enrolment("z") };
    let early = Enrolment { created_s: NOW_S - 1, ..enrolment("a") };
    for given in [&early, &keys, &full, &enrolment("B"), &enrolment("b")] {
        add(store, &registry, given).await;
        let found = store.enrolment_by_token(&registry, &given.token_digest).await;
        assert_eq!(found.expect("enrolment_by_token").as_ref(), Some(given));
    }
    // The same id and token in another registry is another enrolment.
    add(store, &other, &early).await;
    let listed = store.enrolments(&registry).await.expect("enrolments");
    assert_eq!(listed, [full, enrolment("B"), enrolment("b"), keys, early.clone()]);
    assert_eq!(store.enrolments(&other).await.expect("enrolments"), [early]);
    let unknown = store.enrolment_by_token(&registry, &[9; 32]).await;
    assert_eq!(unknown.expect("enrolment_by_token"), None);
}

pub(super) async fn an_enrolment_is_ended_once_and_is_still_found(store: &dyn Store) {
    let registry = make_registry(store, "default").await;
    let other = make_registry(store, "other").await;
    let past = Enrolment { expires_s: 1, ..enrolment("p") };
    for enrolment in [&enrolment("e"), &past] {
        add(store, &registry, enrolment).await;
        add(store, &other, enrolment).await;
    }
    for given in [enrolment("e"), past] {
        let end = async || store.end_enrolment(&registry, &given.id, entry("enrolment.end")).await;
        assert!(end().await.expect("end_enrolment"));
        let before = picture(store).await;
        assert!(!end().await.expect("end_enrolment"), "twice");
        assert_eq!(picture(store).await, before);
        let found = store.enrolment_by_token(&registry, &given.token_digest).await;
        let ended = Enrolment { ended: true, ..given.clone() };
        assert_eq!(found.expect("enrolment_by_token"), Some(ended));
        let found = store.enrolment_by_token(&other, &given.token_digest).await;
        assert_eq!(found.expect("enrolment_by_token"), Some(given), "that of the other registry");
    }
    assert!(!store.end_enrolment(&registry, "none", entry("e")).await.expect("end_enrolment"));
}

pub(super) async fn a_device_registers_itself_with_one_claim_in_one_step(store: &dyn Store) {
    let registry = make_registry(store, "default").await;
    add(store, &registry, &enrolment("e")).await;
    add(store, &registry, &enrolment("f")).await;
    let rows = audit(store, &registry).await.len();
    let given = Principal {
        registry: registry_name("elsewhere"),
        pending: true,
        policy: Some(policy_name("pumps")),
        enrolment: Some("f".into()),
        registration: Some([7; 32]),
        ..principal(&registry, "pump", 1)
    };
    let expected = Principal { registry: registry.clone(), enrolment: Some("e".into()), ..given.clone() };
    let keys = vec![key(1), Key { certificate_der: Some(vec![1, 2]), ..key(2) }];
    let answer = store.enrol(&registry, "e", given, keys.clone(), NOW_S, entry("device.enrol")).await;
    assert_eq!(answer.expect("enrol"), Enrol::Enrolled);
    let expected = Known { principal: expected, keys };
    assert_eq!(known(store, &registry, Uid(1)).await, expected);
    assert_eq!(store.known(&registry, &name("pump")).await.expect("known"), Some(expected));
    assert_eq!((claims(store, &registry, "e").await, claims(store, &registry, "f").await), (1, 0));
    let after = audit(store, &registry).await;
    assert_eq!((after.len(), after.last().map(|row| &row.entry)), (rows + 1, Some(&entry("device.enrol"))));
}

pub(super) async fn a_refused_enrolment_changes_nothing_and_says_why_in_order(store: &dyn Store) {
    let registry = make_registry(store, "default").await;
    let other = make_registry(store, "other").await;
    let closing = Enrolment { expires_s: NOW_S + 1, claims_max: 1, ..enrolment("closing") };
    let over = Enrolment { expires_s: NOW_S, ..enrolment("over") };
    let ended = Enrolment { ended: true, ..enrolment("ended") };
    let none = Enrolment { claims_max: 0, ..enrolment("none") };
    for enrolment in [&closing, &over, &ended, &none] {
        add(store, &registry, enrolment).await;
    }
    add(store, &other, &enrolment("foreign")).await;
    make_device(store, &registry, "app", 50, &[50]).await;
    assert_eq!(enrol(store, &registry, "closing", "lamp", 1).await, Enrol::Enrolled);
    let before = picture(store).await;
    let taken = || Enrol::Refused(AddPrincipal::NameTaken(PrincipalKind::Device));
    for (id, text, uid, number, expected) in [
        ("unknown", "app", 50, 50, Enrol::Ended),
        ("foreign", "app", 50, 50, Enrol::Ended),
        ("over", "app", 50, 50, Enrol::Ended),
        ("ended", "app", 50, 50, Enrol::Ended),
        ("closing", "app", 50, 50, taken()),
        ("none", "app", 60, 60, taken()),
        // It asks again, since it did not get its answer.
        ("closing", "lamp", 9, 1, taken()),
        ("closing", "pump", 50, 1, Enrol::Refused(AddPrincipal::UidTaken)),
        ("closing", "pump", 2, 1, Enrol::Refused(AddPrincipal::KeyInUse(kid(1)))),
        ("closing", "pump", 2, 2, Enrol::Spent),
        ("none", "pump", 2, 2, Enrol::Spent),
    ] {
        let device = principal(&registry, text, uid);
        let answer = store.enrol(&registry, id, device, vec![key(number)], NOW_S, entry("e")).await;
        assert_eq!(answer.expect("enrol"), expected, "{id} {text}");
        assert_eq!(picture(store).await, before, "{id} {text}");
    }
    let late = store.enrol(&registry, "closing", principal(&registry, "x", 3), vec![], NOW_S + 1, entry("e"));
    assert_eq!(late.await.expect("enrol"), Enrol::Ended);
    assert_eq!(store.owner_of_key(&registry, &kid(2)).await.expect("owner_of_key"), None);
}

pub(super) async fn a_claim_is_given_back_by_undoing_and_not_by_deleting(store: &dyn Store) {
    let registry = make_registry(store, "default").await;
    add(store, &registry, &Enrolment { claims_max: 2, ..enrolment("e") }).await;
    make_device(store, &registry, "lamp", 50, &[50]).await;
    for number in [1, 2] {
        assert_eq!(enrol(store, &registry, "e", &format!("pump{number}"), number).await, Enrol::Enrolled);
    }
    let deleted = store.delete_principal(&registry, Uid(1), entry("device.delete")).await;
    assert!(deleted.expect("delete_principal"));
    assert_eq!(claims(store, &registry, "e").await, 2);
    assert_eq!(enrol(store, &registry, "e", "pump3", 3).await, Enrol::Spent);
    let rows = audit(store, &registry).await.len();
    // Also after its end: the count tells what came of it.
    assert!(store.end_enrolment(&registry, "e", entry("enrolment.end")).await.expect("end_enrolment"));
    assert!(store.undo_enrolment(&registry, Uid(2), entry("enrolment.undo")).await.expect("undo_enrolment"));
    assert_eq!(claims(store, &registry, "e").await, 1);
    assert_eq!(audit(store, &registry).await.len(), rows + 2);
    assert_eq!(store.known_by_uid(&registry, Uid(2)).await.expect("known_by_uid"), None);
    assert_eq!(store.owner_of_key(&registry, &kid(2)).await.expect("owner_of_key"), None);
    let again = store.add_principal(principal(&registry, "pump2", 2), vec![], entry("e")).await;
    assert_eq!(again.expect("add_principal"), AddPrincipal::UidTaken, "its number is spent");
    let before = picture(store).await;
    for uid in [1, 2, 50, 99] {
        let undone = store.undo_enrolment(&registry, Uid(uid), entry("e")).await;
        assert!(!undone.expect("undo_enrolment"), "{uid}");
    }
    assert_eq!(picture(store).await, before);
}

pub(super) async fn an_undone_enrolment_makes_room_for_another_device(store: &dyn Store) {
    let registry = make_registry(store, "default").await;
    add(store, &registry, &Enrolment { claims_max: 1, ..enrolment("e") }).await;
    assert_eq!(enrol(store, &registry, "e", "pump", 1).await, Enrol::Enrolled);
    assert_eq!(enrol(store, &registry, "e", "fan", 2).await, Enrol::Spent);
    assert!(store.undo_enrolment(&registry, Uid(1), entry("enrolment.undo")).await.expect("undo_enrolment"));
    // Also for the same one, with the same key and another number.
    let device = principal(&registry, "pump", 3);
    let answer = store.enrol(&registry, "e", device, vec![key(1)], NOW_S, entry("device.enrol")).await;
    assert_eq!(answer.expect("enrol"), Enrol::Enrolled);
    assert_eq!(claims(store, &registry, "e").await, 1);
}

pub(super) async fn enrolled_principals_are_paged_by_name_and_by_what_they_wait_for(store: &dyn Store) {
    let registry = make_registry(store, "default").await;
    let other = make_registry(store, "other").await;
    for id in ["e", "f"] {
        add(store, &registry, &enrolment(id)).await;
        add(store, &other, &enrolment(id)).await;
    }
    make_device(store, &registry, "aa", 90, &[90]).await;
    make_device(store, &registry, "waits", 91, &[91]).await;
    for (at, (text, id, pending)) in [
        ("c", "e", true),
        ("a", "e", false),
        ("B", "f", true),
        ("b", "f", false),
        ("a-b", "e", true),
        ("d", "e", true),
    ]
    .into_iter()
    .enumerate()
    {
        let uid = 10 + at as u64;
        for registry in [&registry, &other] {
            let device = Principal { pending, ..principal(registry, text, uid) };
            let number = u32::try_from(uid).expect("small");
            let keys = vec![key(number), key(number + 100)];
            let answer = store.enrol(registry, id, device, keys, NOW_S, entry("e")).await;
            assert_eq!(answer.expect("enrol"), Enrol::Enrolled);
        }
    }
    let approve = PrincipalChange::Approve;
    let approved = store.change_principal(&registry, Uid(15), approve, None, entry("e")).await;
    assert!(matches!(approved, Ok(Changed::Done(_))));
    for (id, pending_only, expected) in [
        (None, false, ["B", "a", "a-b", "b", "c", "d"].as_slice()),
        (None, true, &["B", "a-b", "c"]),
        (Some("e"), false, &["a", "a-b", "c", "d"]),
        (Some("e"), true, &["a-b", "c"]),
        (Some("f"), true, &["B"]),
        (Some("g"), false, &[]),
    ] {
        for limit in [1, 2, 99] {
            let mut found = Vec::new();
            loop {
                let after = found.last().cloned();
                let page = store.enrolled(&registry, id, pending_only, after.as_ref(), limit).await;
                let page = page.expect("enrolled");
                assert!(page.len() <= limit);
                assert!(
                    page.iter().all(|known| known.keys.len() == 2 && known.principal.registry == registry)
                );
                if page.is_empty() {
                    break;
                }
                found.extend(page.into_iter().map(|known| known.principal.name));
            }
            let found: Vec<&str> = found.iter().map(|name| name.as_str()).collect();
            assert_eq!(found, expected, "{id:?} {pending_only} pages of {limit}");
        }
    }
    let page = store.enrolled(&registry, None, false, Some(&name("aa")), 1).await.expect("enrolled");
    assert_eq!(page, [known(store, &registry, Uid(13)).await], "after a name that is not one of them");
    assert_eq!(store.enrolled(&registry, None, false, None, 0).await.expect("enrolled"), []);
}

pub(super) async fn a_device_without_keys_registers_itself_too(store: &dyn Store) {
    let registry = make_registry(store, "default").await;
    add(store, &registry, &enrolment("e")).await;
    let device = Principal { pending: true, ..principal(&registry, "pump", 5) };
    let enrolled =
        store.enrol(&registry, "e", device.clone(), Vec::new(), NOW_S, entry("device.enrol")).await;
    assert_eq!(enrolled.expect("enrol"), Enrol::Enrolled);
    let there = store.known(&registry, &device.name).await.expect("known").expect("there");
    assert_eq!(there.keys, []);
    assert_eq!(there.principal.enrolment.as_deref(), Some("e"));
    let waiting = store.enrolled(&registry, None, true, None, 9).await.expect("enrolled");
    assert_eq!(waiting, [there]);
}
