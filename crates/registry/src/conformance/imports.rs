//! Many principals in one step.

use drawbridge_names::{PrincipalKind, Uid};

use super::fixtures::*;
use crate::*;

pub(super) async fn a_batch_is_judged_one_by_one_in_order_and_audited_as_one(store: &dyn Store) {
    let (registry, lamp) = make_lamp(store).await;
    let pump = make_device(store, &registry, "pump", 2, &[2]).await;
    assert!(store.delete_principal(&registry, pump, entry("device.delete")).await.expect("delete_principal"));
    let rows = audit(store, &registry).await.len();
    let app = Principal { kind: PrincipalKind::Application, ..principal(&registry, "app", 15) };
    let one = |text: &str, uid, keys: &[u32]| {
        (principal(&registry, text, uid), keys.iter().map(|number| key(*number)).collect::<Vec<Key>>())
    };
    let added = || AddPrincipal::Added;
    let table = [
        (one("a", 10, &[10, 11]), added()),
        (one("a", 11, &[12]), AddPrincipal::NameTaken(PrincipalKind::Device)),
        (one("b", 10, &[13]), AddPrincipal::UidTaken),
        (one("c", 12, &[14, 10]), AddPrincipal::KeyInUse(kid(10))),
        (one("d", 12, &[14, 14]), AddPrincipal::KeyInUse(kid(14))),
        // What was refused has spent neither name, nor number, nor key.
        (one("c", 12, &[14, 12, 13]), added()),
        (one("lamp", 13, &[15]), AddPrincipal::NameTaken(PrincipalKind::Device)),
        (one("e", 13, &[1]), AddPrincipal::KeyInUse(kid(1))),
        (one("f", 2, &[]), AddPrincipal::UidTaken),
        ((app, vec![]), added()),
        (one("app", 16, &[]), AddPrincipal::NameTaken(PrincipalKind::Application)),
        // Of a deleted principal name and key are free.
        (one("pump", 17, &[2]), added()),
    ];
    let (batch, expected): (Vec<_>, Vec<_>) = table.into_iter().unzip();
    let given = batch.clone();
    let answers = store.import_principals(&registry, batch, entry("device.import")).await;
    assert_eq!(answers.as_ref().expect("import_principals"), &expected);
    for ((principal, keys), answer) in given.into_iter().zip(&expected) {
        let (uid, name) = (principal.uid, principal.name.clone());
        let there = store.known(&registry, &name).await.expect("known");
        let is_there = there.as_ref() == Some(&Known { principal, keys });
        assert_eq!(is_there, *answer == AddPrincipal::Added, "{name} {uid:?}: {there:?}");
    }
    let after = audit(store, &registry).await;
    assert_eq!((after.len(), after.last().map(|row| &row.entry)), (rows + 1, Some(&entry("device.import"))));
    let mut left = store.principals(&registry, None, None, 99).await.expect("principals");
    left.retain(|known| known.principal.uid != lamp);
    let left: Vec<&str> = left.iter().map(|known| known.principal.name.as_str()).collect();
    assert_eq!(left, ["a", "app", "c", "pump"]);
    assert_eq!(store.owner_of_key(&registry, &kid(15)).await.expect("owner_of_key"), None);
}

pub(super) async fn a_batch_of_which_nothing_is_added_changes_nothing(store: &dyn Store) {
    let (registry, _) = make_lamp(store).await;
    let before = picture(store).await;
    let same = || (principal(&registry, "lamp", 9), vec![key(9)]);
    let taken = AddPrincipal::NameTaken(PrincipalKind::Device);
    for (batch, expected) in [(vec![], vec![]), (vec![same(), same()], vec![taken.clone(), taken])] {
        let answers = store.import_principals(&registry, batch, entry("device.import")).await;
        assert_eq!(answers.expect("import_principals"), expected);
        assert_eq!(picture(store).await, before);
    }
}

pub(super) async fn a_batch_belongs_to_the_registry_it_was_given_to(store: &dyn Store) {
    let (registry, _) = make_lamp(store).await;
    let other = make_registry(store, "other").await;
    let lamps = vec![(principal(&registry, "lamp", 1), vec![key(1)])];
    let answers = store.import_principals(&other, lamps, entry("device.import")).await;
    assert_eq!(answers.expect("import_principals"), [AddPrincipal::Added]);
    let expected = Known { principal: principal(&other, "lamp", 1), keys: vec![key(1)] };
    assert_eq!(known(store, &other, Uid(1)).await, expected);
    assert_eq!((audit(store, &registry).await.len(), audit(store, &other).await.len()), (2, 2));
}

pub(super) async fn a_large_batch_is_one_step(store: &dyn Store) {
    let registry = make_registry(store, "default").await;
    let one =
        |number: u32| (principal(&registry, &format!("d{number:04}"), u64::from(number)), vec![key(number)]);
    let answers = store.import_principals(&registry, (0..1000).map(one).collect(), entry("e")).await;
    let answers = answers.expect("import_principals");
    assert_eq!(answers.len(), 1000);
    assert!(answers.iter().all(|answer| *answer == AddPrincipal::Added));
    // A resumed import sends some again.
    let answers = store.import_principals(&registry, (900..1100).map(one).collect(), entry("e")).await;
    let answers = answers.expect("import_principals");
    let again = answers.iter().filter(|answer| matches!(answer, AddPrincipal::NameTaken(_))).count();
    assert_eq!((again, answers.len()), (100, 200));
    assert_eq!(store.principals(&registry, None, None, 9999).await.expect("principals").len(), 1100);
    assert_eq!(audit(store, &registry).await.len(), 3);
}
