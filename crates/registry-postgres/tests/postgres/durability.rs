//! What was answered is kept, whatever happens to the server; and the store comes back by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use drawbridge_names::Uid;
use drawbridge_registry::audit::verify_chain;
use drawbridge_registry::{JtiOutcome, Store, StoreError};
use drawbridge_registry_postgres::PostgresStore;

use crate::cluster::{Cluster, open};
use crate::records::*;

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(60);

/// Tasks that remember `jti` and append to the audit until they are told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<Vec<u64>>>,
}

impl Load {
    /// Each task has numbers of its own.
    fn start(store: &Arc<PostgresStore>, tasks: u64) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let tasks = (0..tasks)
            .map(|task| {
                let (store, stop, answered) = (Arc::clone(store), Arc::clone(&stop), Arc::clone(&answered));
                tokio::spawn(async move {
                    let mut remembered = Vec::new();
                    for number in (task << 32).. {
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                        match store.remember_jti(&registry(), Uid(1), mark(number), NOW_S).await {
                            Ok(JtiOutcome::Fresh) => {
                                remembered.push(number);
                                answered.fetch_add(1, Ordering::Relaxed);
                            }
                            Ok(other) => panic!("{number}: {other:?}"),
                            // The step may or may not have happened; the number is not used again.
                            Err(StoreError::Unavailable(_)) => {
                                tokio::time::sleep(Duration::from_millis(20)).await
                            }
                            Err(error) => panic!("{error}"),
                        }
                        if number % 8 == 0 {
                            match store.record(&registry(), entry("command.send")).await {
                                Ok(()) | Err(StoreError::Unavailable(_)) => {}
                                Err(error) => panic!("{error}"),
                            }
                        }
                    }
                    remembered
                })
            })
            .collect();
        Self { stop, answered, tasks }
    }

    /// Waits until so many more were answered.
    async fn more(&self, count: u64) {
        let goal = self.answered.load(Ordering::Relaxed) + count;
        let waiting = async {
            while self.answered.load(Ordering::Relaxed) < goal {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(LONG, waiting).await.expect("the load goes on");
    }

    /// All numbers that were answered.
    async fn end(self) -> Vec<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for task in self.tasks {
            all.extend(task.await.expect("no panic"));
        }
        all
    }
}

async fn is_whole(store: &PostgresStore, remembered: &[u64]) {
    for number in remembered {
        let seen = JtiOutcome::Seen { token_digest: mark(*number).token_digest };
        let outcome = store.remember_jti(&registry(), Uid(1), mark(*number), NOW_S).await;
        assert_eq!(outcome.expect("remember_jti"), seen, "{number} was answered, then forgotten");
    }
    let mut rows = store.audit_tail(&registry(), None, usize::MAX).await.expect("audit_tail");
    rows.reverse();
    verify_chain(&rows).expect("the chain holds");
    assert_eq!(rows.first().map(|row| row.seq), Some(1));
    // The count of the key's marks is that of its rows: none was written without being counted.
    let kept = store.lasting_jti(&registry(), &kid(1)).await.expect("lasting_jti");
    assert!(kept >= remembered.len() as u64, "{kept} kept, {} answered", remembered.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i7_what_was_answered_survives_a_kill_of_the_server() {
    let cluster = Cluster::new(&[]);
    let url = cluster.database();
    let store = Arc::new(open(&url).await);
    make_lamp(&*store).await;
    let load = Load::start(&store, 8);
    for _ in 0..2 {
        load.more(100).await;
        cluster.kill();
        cluster.start();
    }
    load.more(100).await;
    let remembered = load.end().await;
    assert!(remembered.len() >= 300);
    is_whole(&store, &remembered).await;
    is_whole(&open(&url).await, &remembered).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_comes_back_by_itself_when_the_database_is_restarted_under_load() {
    let cluster = Cluster::new(&[]);
    let url = cluster.database();
    let store = Arc::new(open(&url).await);
    make_lamp(&*store).await;
    let load = Load::start(&store, 8);
    for _ in 0..2 {
        load.more(50).await;
        cluster.stop();
        let lookup = store.known(&registry(), &name("lamp")).await;
        assert!(matches!(lookup, Err(StoreError::Unavailable(_))), "{lookup:?}");
        let change = store.record(&registry(), entry("command.send")).await;
        assert!(matches!(change, Err(StoreError::Unavailable(_))), "{change:?}");
        let shown = format!("{change:?}");
        assert!(!shown.contains(crate::cluster::PASSWORD), "{shown}");
        cluster.start();
    }
    load.more(50).await;
    let known = store.known(&registry(), &name("lamp")).await.expect("known");
    assert!(known.is_some());
    let remembered = load.end().await;
    is_whole(&store, &remembered).await;
}

#[tokio::test]
async fn a_store_that_is_opened_again_has_everything() {
    let url = Cluster::shared().database();
    let store = open(&url).await;
    make_lamp(&store).await;
    store.add_key(&registry(), Uid(1), key(2), 5, entry("key.add")).await.expect("add_key");
    store.secret_or_insert(&registry(), "issuer", vec![1, 2, 3]).await.expect("secret_or_insert");
    store.set_config(&registry(), Uid(1), vec![9], None, 5, entry("e")).await.expect("set_config");
    store.remember_jti(&registry(), Uid(1), mark(1), NOW_S).await.expect("remember_jti");
    let picture = async |store: &PostgresStore| {
        (
            store.registries().await.expect("registries"),
            store.principals(&registry(), None, None, 99).await.expect("principals"),
            store.secret(&registry(), "issuer").await.expect("secret"),
            store.configs(&registry(), None, 99).await.expect("configs"),
            store.audit_tail(&registry(), None, 99).await.expect("audit_tail"),
        )
    };
    let before = picture(&store).await;
    drop(store);
    let store = open(&url).await;
    assert_eq!(picture(&store).await, before);
    let again = store.remember_jti(&registry(), Uid(1), mark(1), NOW_S).await.expect("remember_jti");
    assert_eq!(again, JtiOutcome::Seen { token_digest: mark(1).token_digest });
    // The chain goes on where it was.
    store.record(&registry(), entry("command.send")).await.expect("record");
    is_whole(&store, &[1]).await;
}
