//! The SQLite store keeps the promises of every store, also when raced from several threads.

mod records;

use std::sync::Arc;

use drawbridge_names::Uid;
use drawbridge_registry::conformance::{self, promises};
use drawbridge_registry::{
    AddToken, Enrol, Enrolment, JtiMark, JtiOutcome, KeptToken, KeyRotation, RotateKey, Store, StoreError,
    TokenUse,
};
use drawbridge_registry_sqlite::SqliteStore;
use records::*;

#[tokio::test]
async fn the_sqlite_store_keeps_every_promise() {
    let folder = tempfile::tempdir().expect("a folder");
    let open = async |promise: &conformance::Promise| {
        let mut file = promise.name.to_owned();
        file.truncate(60);
        SqliteStore::open(&folder.path().join(file)).expect("the store opens")
    };
    let kept = conformance::run(open, |promise| println!("sqlite: {}", promise.name)).await;
    assert_eq!(kept, promises().len());
    assert!(kept >= 85, "only {kept} promises");
}

/// Spawns eight tasks and counts the answers that win.
async fn winners<T, F>(racer: impl Fn(u8) -> F, won: impl Fn(&T) -> bool) -> usize
where
    T: Send + 'static,
    F: Future<Output = Result<T, StoreError>> + Send + 'static,
{
    let racers: Vec<_> = (0..8).map(|number| tokio::spawn(racer(number))).collect();
    let mut count = 0;
    for racer in racers {
        count += usize::from(won(&racer.await.expect("no panic").expect("an answer")));
    }
    count
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_eight_tasks_on_four_threads_exactly_one_gets_the_jti_and_one_the_rotation() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Arc::new(open(&folder.path().join("registry.db")));
    make_lamp(&*store).await;
    for round in 0..30 {
        let fresh = winners(
            |racer| {
                let store = Arc::clone(&store);
                let mark = JtiMark { kid: kid(1 + round), token_digest: [racer; 16], ..mark(2 * round) };
                async move { store.remember_jti(&registry(), Uid(1), mark, NOW_S).await }
            },
            |outcome| *outcome == JtiOutcome::Fresh,
        )
        .await;
        assert_eq!(fresh, 1, "round {round}");
        let rotated =
            winners(
                |_| {
                    let store = Arc::clone(&store);
                    let rotation = KeyRotation {
                        old: kid(1 + round),
                        new: key(2 + round),
                        old_expires_s: Some(NOW_S + 3600),
                        mark: JtiMark { kid: kid(1 + round), ..mark(2 * round + 1) },
                        active_max: 5,
                    };
                    async move {
                        store.rotate_key(&registry(), Uid(1), rotation, NOW_S, entry("key.rotate")).await
                    }
                },
                |answer| *answer == RotateKey::Rotated,
            )
            .await;
        assert_eq!(rotated, 1, "round {round}");
    }
    let known = store.known(&registry(), &name("lamp")).await.expect("known").expect("is there");
    assert_eq!((known.keys.len(), known.principal.revision), (31, 31));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_eight_tasks_on_four_threads_exactly_one_gets_the_last_claim_and_one_successor_is_left() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Arc::new(open(&folder.path().join("registry.db")));
    make_lamp(&*store).await;
    for round in 0..20u64 {
        let id = format!("e{round}");
        let mut last = Enrolment { claims_max: 1, ..enrolment(&id) };
        last.token_digest[0] = u8::try_from(round).expect("small");
        store.add_enrolment(&registry(), last, entry("enrolment.add")).await.expect("add_enrolment");
        let enrolled = winners(
            |racer| {
                let (store, id) = (Arc::clone(&store), id.clone());
                let uid = 100 + round * 8 + u64::from(racer);
                let pump = device(&format!("pump{uid}"), uid);
                async move {
                    store.enrol(&registry(), &id, pump, vec![key(uid)], NOW_S, entry("device.enrol")).await
                }
            },
            |answer| *answer == Enrol::Enrolled,
        )
        .await;
        assert_eq!(enrolled, 1, "round {round}");
        let first = token(1000 + round);
        let added = store.add_token(&registry(), first.clone(), usize::MAX, NOW_S).await;
        assert_eq!(added.expect("add_token"), AddToken::Added);
        let successor = |racer: u64| KeptToken {
            family: first.family,
            generation: 1,
            ..token(10_000 + round * 8 + racer)
        };
        let renewed = winners(
            |racer| {
                let (store, digest, successor) =
                    (Arc::clone(&store), first.digest, successor(u64::from(racer)));
                async move { store.renew_token(&registry(), &digest, successor, NOW_S + 60, NOW_S).await }
            },
            |answer| matches!(answer, TokenUse::Good(_)),
        )
        .await;
        assert_eq!(renewed, 8, "round {round}: nobody has used a successor");
        let mut left = 0;
        for racer in 0..8 {
            let found = store.token(&registry(), &successor(racer).digest, NOW_S).await.expect("token");
            left += usize::from(found.is_some());
        }
        assert_eq!(left, 1, "round {round}");
    }
}
