//! Changes that wait together are committed together; lists do not hold up lookups.

mod records;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use drawbridge_names::Uid;
use drawbridge_registry::{
    AddPrincipal, AddToken, Ca, JtiMark, JtiOutcome, KeptToken, KeyChange, PrincipalChange, RegistryRecord,
    Store, StoreError, TokenUse,
};
use records::*;

#[tokio::test]
async fn two_hundred_concurrent_jti_take_a_handful_of_commits() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("registry.db");
    let store = open(&path);
    make_lamp(&store).await;
    let before = store.counters();
    // As long as another connection holds the file, changes can only gather.
    let other = rusqlite::Connection::open(&path).expect("a second connection");
    other.execute_batch("BEGIN IMMEDIATE").expect("the file is free");
    let registry = registry();
    let mut waiting: Vec<_> =
        (0..200).map(|number| store.remember_jti(&registry, Uid(1), mark(number), NOW_S)).collect();
    // The first poll of each hands it to the writer.
    std::future::poll_fn(|context| {
        for future in &mut waiting {
            assert!(future.as_mut().poll(context).is_pending(), "answered before it was committed");
        }
        std::task::Poll::Ready(())
    })
    .await;
    other.execute_batch("COMMIT").expect("the file is let go");
    for answer in side_by_side(waiting).await {
        assert_eq!(answer.expect("remember_jti"), JtiOutcome::Fresh);
    }
    let after = store.counters();
    assert_eq!(after.changes - before.changes, 200);
    let commits = after.commits - before.commits;
    println!("200 concurrent jti: {commits} commits");
    assert!((1..=10).contains(&commits), "{commits} commits");
}

#[tokio::test]
async fn more_callers_than_the_queue_holds_wait_and_are_all_answered() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(&folder.path().join("registry.db"));
    make_lamp(&store).await;
    let registry = registry();
    let waiting: Vec<_> =
        (0..3000).map(|number| store.remember_jti(&registry, Uid(1), mark(number), NOW_S)).collect();
    let answers = side_by_side(waiting).await;
    assert_eq!(answers.len(), 3000);
    assert!(answers.into_iter().all(|answer| answer.expect("remember_jti") == JtiOutcome::Fresh));
    let lists = (0..3000).map(|_| store.registries()).collect();
    let answers = side_by_side(lists).await;
    assert!(answers.into_iter().all(|answer| answer.expect("registries").len() == 1));
}

#[tokio::test]
async fn without_its_audit_row_no_change_happens_and_its_neighbours_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("registry.db");
    let store = open(&path);
    make_lamp(&store).await;
    let other = rusqlite::Connection::open(&path).expect("a second connection");
    other
        .execute_batch(
            "CREATE TRIGGER refuse BEFORE INSERT ON audit WHEN NEW.action = 'refused'
             BEGIN SELECT RAISE(ABORT, 'refused by the test'); END",
        )
        .expect("a trigger");
    let registry = registry();
    let answers = side_by_side(vec![
        store.add_principal(device("first", 2), vec![key(2)], entry("device.add")),
        store.add_principal(device("second", 3), vec![key(3)], entry("refused")),
        store.add_principal(device("third", 4), vec![key(4)], entry("device.add")),
    ])
    .await;
    assert!(matches!(answers[0], Ok(AddPrincipal::Added)), "{answers:?}");
    assert!(matches!(answers[1], Err(StoreError::Corrupt(_))), "{answers:?}");
    assert!(matches!(answers[2], Ok(AddPrincipal::Added)), "{answers:?}");
    assert_eq!(store.known(&registry, &name("second")).await.expect("known"), None);
    assert_eq!(store.owner_of_key(&registry, &kid(3)).await.expect("owner_of_key"), None);
    assert!(store.known(&registry, &name("third")).await.expect("known").is_some());
    let block = PrincipalChange::Block;
    assert!(store.change_principal(&registry, Uid(1), block, None, entry("refused")).await.is_err());
    let lamp = store.known_by_uid(&registry, Uid(1)).await.expect("known_by_uid").expect("is there");
    assert!(!lamp.principal.blocked);
    assert!(store.delete_principal(&registry, Uid(1), entry("refused")).await.is_err());
    assert!(store.known_by_uid(&registry, Uid(1)).await.expect("known_by_uid").is_some());
    // Nor does any of the rest; each of these would be done otherwise.
    store.add_enrolment(&registry, enrolment("e"), entry("enrolment.add")).await.expect("add_enrolment");
    let refused = || entry("refused");
    let batch = vec![(device("x", 8), vec![]), (device("y", 9), vec![])];
    assert!(store.import_principals(&registry, batch, refused()).await.is_err());
    assert!(store.enrol(&registry, "e", device("x", 8), vec![], NOW_S, refused()).await.is_err());
    assert!(store.end_enrolment(&registry, "e", refused()).await.is_err());
    assert!(store.replace_key(&registry, Uid(1), &kid(1), key(8), NOW_S, 5, refused()).await.is_err());
    let change = KeyChange { label: Some(Some("x".into())), ..KeyChange::default() };
    assert!(store.change_key(&registry, Uid(1), &kid(1), change, refused()).await.is_err());
    assert!(store.link(&registry, Uid(1), Uid(2), true, refused()).await.is_err());
    let ca = Ca { fingerprint: [1; 32], der: vec![1], label: None, added_s: NOW_S };
    assert!(store.add_ca(&registry, ca, refused()).await.is_err());
    let there = store.registry(&registry).await.expect("registry").expect("is there");
    let changed = RegistryRecord { token_life_s: 1, ..there.clone() };
    assert!(store.change_registry(changed, refused()).await.is_err());
    assert_eq!(store.known_by_uid(&registry, Uid(1)).await.expect("known_by_uid"), Some(lamp));
    assert_eq!(store.principals(&registry, None, None, 9).await.expect("principals").len(), 3);
    assert_eq!(store.enrolments(&registry).await.expect("enrolments"), [enrolment("e")]);
    assert!(!store.linked(&registry, Uid(1), Uid(2)).await.expect("linked"));
    assert_eq!(store.cas(&registry).await.expect("cas"), []);
    assert_eq!(store.registry(&registry).await.expect("registry"), Some(there));
}

#[tokio::test]
async fn tokens_that_are_presented_and_keys_that_are_used_share_their_commits() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("registry.db");
    let store = open(&path);
    make_lamp(&store).await;
    let registry = registry();
    for number in 0..50 {
        let added = store.add_token(&registry, token(number), 50, NOW_S).await;
        assert_eq!(added.expect("add_token"), AddToken::Added);
    }
    let before = store.counters();
    let other = rusqlite::Connection::open(&path).expect("a second connection");
    other.execute_batch("BEGIN IMMEDIATE").expect("the file is free");
    let digests: Vec<[u8; 32]> = (0..50).map(|number| token(number).digest).collect();
    let mut uses: Vec<_> = digests.iter().map(|digest| store.use_token(&registry, digest, NOW_S)).collect();
    let mut touches: Vec<_> =
        (0..50).map(|number| store.touch_keys(&registry, vec![(kid(1), NOW_S + number)])).collect();
    std::future::poll_fn(|context| {
        assert!(uses.iter_mut().all(|future| future.as_mut().poll(context).is_pending()));
        assert!(touches.iter_mut().all(|future| future.as_mut().poll(context).is_pending()));
        std::task::Poll::Ready(())
    })
    .await;
    other.execute_batch("COMMIT").expect("the file is let go");
    for answer in side_by_side(uses).await {
        assert!(matches!(answer, Ok(TokenUse::Good(token)) if token.used));
    }
    for answer in side_by_side(touches).await {
        answer.expect("touch_keys");
    }
    let after = store.counters();
    assert_eq!(after.changes - before.changes, 100);
    let commits = after.commits - before.commits;
    assert!((1..=10).contains(&commits), "{commits} commits");
    let lamp = store.known_by_uid(&registry, Uid(1)).await.expect("known_by_uid").expect("is there");
    assert_eq!(lamp.keys[0].last_used_s, Some(NOW_S + 49));
}

#[tokio::test]
async fn tokens_and_revocations_whose_end_is_over_do_not_pile_up() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("registry.db");
    let store = open(&path);
    make_lamp(&store).await;
    let registry = registry();
    let other = rusqlite::Connection::open(&path).expect("a second connection");
    let count = |table: &str| -> i64 {
        let sql = format!("SELECT COUNT(*) FROM {table}");
        other.query_row(&sql, [], |row| row.get(0)).expect("a count")
    };
    for round in 0..4u64 {
        let now_s = NOW_S + round * 100;
        for number in 0..10 {
            let mut jti = [0; 16];
            jti[..8].copy_from_slice(&(round * 10 + number).to_be_bytes());
            store.revoke_jti(&registry, jti, now_s + 50).await.expect("revoke_jti");
        }
        let waiting: Vec<_> = (0..250)
            .map(|number| {
                let token = KeptToken { expires_s: now_s + 50, ..token(round * 250 + number) };
                store.add_token(&registry, token, usize::MAX, now_s)
            })
            .collect();
        for answer in side_by_side(waiting).await {
            assert_eq!(answer.expect("add_token"), AddToken::Added);
        }
        assert_eq!((count("token"), count("revoked_jti")), (250, 10), "only those of round {round}");
    }
    // A registry whose tokens are signed keeps none: its logins sweep as well.
    let outcome = store.remember_jti(&registry, Uid(1), mark(1), NOW_S + 999).await;
    assert_eq!(outcome.expect("remember_jti"), JtiOutcome::Fresh);
    assert_eq!(count("revoked_jti"), 0);
    assert!(count("token") < 250);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lookup_does_not_wait_for_long_lists() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Arc::new(open(&folder.path().join("registry.db")));
    make_devices(&store, 4000).await;
    let lists_done = Arc::new(AtomicUsize::new(0));
    let lists: Vec<_> = (0..10)
        .map(|_| {
            let (store, lists_done) = (Arc::clone(&store), Arc::clone(&lists_done));
            tokio::spawn(async move {
                let page = store.principals(&registry(), None, None, usize::MAX).await.expect("principals");
                lists_done.fetch_add(1, Ordering::Relaxed);
                page.len()
            })
        })
        .collect();
    tokio::task::yield_now().await; // all lists wait in their lane now
    for number in 1..=20 {
        let known = store.known_by_uid(&registry(), Uid(number)).await.expect("known_by_uid");
        assert!(known.is_some());
    }
    let done = lists_done.load(Ordering::Relaxed);
    assert!(done < 10, "20 lookups were answered after all 10 lists");
    for list in lists {
        assert_eq!(list.await.expect("no panic"), 4000);
    }
}

#[tokio::test]
async fn marks_whose_end_is_over_do_not_pile_up() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("registry.db");
    let store = open(&path);
    make_lamp(&store).await;
    let registry = registry();
    let count = || -> i64 {
        let other = rusqlite::Connection::open(&path).expect("a second connection");
        other.query_row("SELECT COUNT(*) FROM timed_jti", [], |row| row.get(0)).expect("a count")
    };
    for round in 0..4u64 {
        let now_s = NOW_S + round * 100;
        let waiting: Vec<_> = (0..250)
            .map(|number| {
                let mark = JtiMark { until_s: Some(now_s + 50), ..mark(round * 250 + number) };
                store.remember_jti(&registry, Uid(1), mark, now_s)
            })
            .collect();
        for answer in side_by_side(waiting).await {
            assert_eq!(answer.expect("remember_jti"), JtiOutcome::Fresh);
        }
        assert_eq!(count(), 250, "only those of round {round}");
    }
}
