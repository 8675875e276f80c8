//! Who waits for whom: as few as can be, and nobody for ever.

use std::sync::Arc;
use std::time::Duration;

use drawbridge_names::Uid;
use drawbridge_registry::{JtiMark, JtiOutcome, PrincipalChange, Store, StoreError};
use drawbridge_registry_postgres::PostgresStore;
use tokio_postgres::Client;

use crate::cluster::{Cluster, database_of, open};
use crate::records::*;

/// Another program at the same database.
async fn stranger(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.expect("connects");
    tokio::spawn(connection);
    client
}

/// Holds a device's row until the transaction ends.
async fn hold(client: &Client, uid: u64) {
    let sql = format!("BEGIN; SELECT 1 FROM drawbridge.principal WHERE uid = {uid} FOR UPDATE");
    client.batch_execute(&sql).await.expect("the row is free");
}

#[tokio::test]
async fn a_login_does_not_wait_for_the_change_of_another_device() {
    let url = Cluster::shared().database();
    let store = open(&url).await;
    make_devices(&store, 20).await;
    let other = stranger(&url).await;
    hold(&other, 1).await;
    let registry = registry();
    let of = |uid: u64| JtiMark { kid: kid(uid), ..mark(1) };
    let mut held = store.remember_jti(&registry, Uid(1), of(1), NOW_S);
    let rest = (2..=20).map(|uid| store.remember_jti(&registry, Uid(uid), of(uid), NOW_S)).collect();
    tokio::select! {
        biased;
        answer = &mut held => panic!("answered while somebody holds the device: {answer:?}"),
        answers = side_by_side(rest) => {
            assert!(answers.into_iter().all(|answer| answer.expect("remember_jti") == JtiOutcome::Fresh));
        }
    }
    other.batch_execute("COMMIT").await.expect("lets go");
    assert_eq!(held.await.expect("remember_jti"), JtiOutcome::Fresh);
}

#[tokio::test]
async fn who_waits_too_long_for_a_device_is_told_and_the_store_works_on() {
    let url = Cluster::shared().database();
    let store = open(&url).await;
    make_lamp(&store).await;
    let other = stranger(&url).await;
    hold(&other, 1).await;
    let change = PrincipalChange::Block;
    let blocked = store.change_principal(&registry(), Uid(1), change.clone(), None, entry("e")).await;
    assert!(matches!(blocked, Err(StoreError::Unavailable(_))), "{blocked:?}");
    other.batch_execute("COMMIT").await.expect("lets go");
    store.change_principal(&registry(), Uid(1), change, None, entry("e")).await.expect("change_principal");
}

#[tokio::test]
async fn a_call_that_is_dropped_leaves_no_transaction_open_and_takes_no_connection_with_it() {
    let cluster = Cluster::shared();
    let url = cluster.database();
    let store = open(&format!("{url}?connections=4")).await;
    make_lamp(&store).await;
    let other = stranger(&url).await;
    for _ in 0..6 {
        hold(&other, 1).await;
        let change = PrincipalChange::Revoke { not_before_s: NOW_S };
        let registry = registry();
        let call = store.change_principal(&registry, Uid(1), change, None, entry("device.revoke"));
        let dropped = tokio::time::timeout(Duration::from_millis(100), call).await;
        assert!(dropped.is_err(), "{dropped:?}");
        other.batch_execute("COMMIT").await.expect("lets go");
    }
    crate::cluster::wait_until("no transaction is open", || {
        let open = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                    AND application_name = 'drawbridge one' AND state <> 'idle'";
        cluster.sql(database_of(&url), open) == "0"
    });
    let known = store.known(&registry(), &name("lamp")).await.expect("known").expect("is there");
    assert_eq!(known.principal.epoch.0, 0, "nothing of them has happened");
    store.record(&registry(), entry("command.send")).await.expect("there are connections");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_callers_than_there_are_connections_wait_and_are_all_answered() {
    let url = Cluster::shared().database();
    let store = open(&format!("{url}?connections=4")).await;
    make_lamp(&store).await;
    let registry = registry();
    let marks: Vec<_> =
        (0..3000).map(|number| store.remember_jti(&registry, Uid(1), mark(number), NOW_S)).collect();
    let answers = side_by_side(marks).await;
    assert!(answers.into_iter().all(|answer| answer.expect("remember_jti") == JtiOutcome::Fresh));
    assert_eq!(store.lasting_jti(&registry, &kid(1)).await.expect("lasting_jti"), 3000);
    let lists = (0..300).map(|_| store.registries()).collect();
    let answers = side_by_side(lists).await;
    assert!(answers.into_iter().all(|answer| answer.expect("registries").len() == 1));
}

#[tokio::test]
async fn concurrent_jti_share_transactions() {
    let cluster = Cluster::shared();
    let url = cluster.database();
    let store = open(&url).await;
    make_devices(&store, 200).await;
    let transactions = || -> u64 {
        // Each transaction that wrote a mark left its number in the rows.
        let sql = "SELECT count(DISTINCT xmin::text) FROM drawbridge.lasting_jti";
        cluster.sql(database_of(&url), sql).parse().expect("a number")
    };
    let registry = registry();
    let of = |uid: u64| JtiMark { kid: kid(uid), ..mark(1) };
    let marks = (1..=200).map(|uid| store.remember_jti(&registry, Uid(uid), of(uid), NOW_S)).collect();
    for answer in side_by_side(marks).await {
        assert_eq!(answer.expect("remember_jti"), JtiOutcome::Fresh);
    }
    let shared = transactions();
    println!("200 concurrent jti: {shared} transactions");
    assert!((1..=10).contains(&shared), "{shared} transactions");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lookups_and_logins_are_answered_while_lists_and_changes_wait() {
    let url = Cluster::shared().database();
    let store: Arc<PostgresStore> = Arc::new(open(&format!("{url}?connections=4")).await);
    make_devices(&*store, 20).await;
    let other = stranger(&url).await;
    // Lists cannot read principals now, nor can changes write them.
    let lock = "BEGIN; LOCK TABLE drawbridge.policy IN ACCESS EXCLUSIVE MODE";
    other.batch_execute(lock).await.expect("the table is free");
    hold_in(&other, 1).await;
    let waiting: Vec<_> = (0..20)
        .map(|number| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                match number % 2 {
                    0 => drop(store.policies(&registry()).await),
                    _ => drop(store.add_key(&registry(), Uid(1), key(100 + number), 99, entry("e")).await),
                }
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(200)).await;
    for uid in 1..=20 {
        assert!(store.known_by_uid(&registry(), Uid(uid)).await.expect("known_by_uid").is_some());
    }
    for uid in 2..=20 {
        let mark = JtiMark { kid: kid(uid), ..mark(1) };
        let outcome = store.remember_jti(&registry(), Uid(uid), mark, NOW_S).await;
        assert_eq!(outcome.expect("remember_jti"), JtiOutcome::Fresh);
    }
    other.batch_execute("COMMIT").await.expect("lets go");
    for task in waiting {
        task.await.expect("no panic");
    }
}

/// As [`hold`], in a transaction that is open.
async fn hold_in(client: &Client, uid: u64) {
    let sql = format!("SELECT 1 FROM drawbridge.principal WHERE uid = {uid} FOR UPDATE");
    client.batch_execute(&sql).await.expect("the row is free");
}

#[tokio::test]
async fn what_is_over_does_not_pile_up() {
    let cluster = Cluster::shared();
    let url = cluster.database();
    let store = open(&url).await;
    make_lamp(&store).await;
    let registry = registry();
    let count = || -> u64 {
        cluster.sql(database_of(&url), "SELECT count(*) FROM drawbridge.timed_jti").parse().expect("a number")
    };
    for round in 0..6u64 {
        let now_s = NOW_S + round * 1000;
        let marks = (0..250)
            .map(|number| {
                let mark = JtiMark { until_s: Some(now_s + 50), ..mark(round * 250 + number) };
                store.remember_jti(&registry, Uid(1), mark, now_s)
            })
            .collect();
        for answer in side_by_side(marks).await {
            assert_eq!(answer.expect("remember_jti"), JtiOutcome::Fresh);
        }
    }
    // A sweep comes after its group is answered.
    crate::cluster::wait_until("the rounds before are swept", || count() <= 500);
}
