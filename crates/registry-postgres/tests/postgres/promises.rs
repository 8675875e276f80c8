//! The PostgreSQL store keeps the promises of every store, also when raced from several threads.

use std::sync::Arc;

use drawbridge_names::Uid;
use drawbridge_registry::conformance::{self, promises};
use drawbridge_registry::{JtiMark, JtiOutcome, KeyRotation, RotateKey, Store, StoreError};

use crate::cluster::{Cluster, open};
use crate::records::*;

#[tokio::test]
async fn the_postgres_store_keeps_every_promise() {
    println!("{}", Cluster::shared().version());
    let kept = conformance::run(
        async |_| open(&Cluster::shared().database()).await,
        |promise| println!("postgres: {}", promise.name),
    )
    .await;
    assert_eq!(kept, promises().len());
    assert!(kept >= 40, "only {kept} promises");
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
    let store = Arc::new(open(&Cluster::shared().database()).await);
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
