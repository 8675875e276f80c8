//! One server alone on a database.

use std::time::Duration;

use drawbridge_registry::StoreError;

use crate::cluster::{Cluster, database_of, open};

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(60);

async fn until_held(server: &drawbridge_registry_postgres::SoleServer, held: bool) {
    let waiting = async {
        while server.open_for().is_none() != held {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(LONG, waiting).await.expect("it changes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_server_on_the_same_database_is_refused_until_the_first_is_gone() {
    let cluster = Cluster::shared();
    let url = cluster.database();
    let (first, second) = (open(&url).await, open(&cluster.tcp_url(&url)).await);
    let place = first.hold_sole_server().await.expect("the place is free");
    assert_eq!(place.open_for(), None);
    for store in [&first, &second] {
        let error = store.hold_sole_server().await.expect_err("the place is taken");
        assert!(matches!(error, StoreError::InUse(_)), "{error:?}");
        assert!(
            error.to_string().contains("drawbridge one") && error.to_string().contains("stop it"),
            "{error}"
        );
    }
    // Another database is another place.
    let other = open(&cluster.database()).await;
    let _other = other.hold_sole_server().await.expect("the place is free");
    drop(place);
    let waiting = async {
        loop {
            match second.hold_sole_server().await {
                Ok(place) => break place,
                Err(StoreError::InUse(_)) => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(error) => panic!("{error}"),
            }
        }
    };
    tokio::time::timeout(LONG, waiting).await.expect("the place is free soon");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_place_is_kept_when_the_connection_breaks_and_lost_when_another_had_it() {
    let cluster = Cluster::shared();
    let url = cluster.database();
    let (first, second) = (open(&url).await, open(&url).await);
    let place = first.hold_sole_server().await.expect("the place is free");
    let holder = || {
        let sql = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND classid = 1148347239 AND objid = 2
                   AND granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        cluster.sql(database_of(&url), sql)
    };
    let before = holder();
    let end_holder = "SELECT count(pg_terminate_backend(pid)) FROM pg_locks
                      WHERE locktype = 'advisory' AND classid = 1148347239 AND objid = 2
                        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    assert_eq!(cluster.sql(database_of(&url), end_holder), "1");
    crate::cluster::wait_until("it is held again", || ![String::new(), before.clone()].contains(&holder()));
    until_held(&place, true).await;
    assert!(second.hold_sole_server().await.is_err(), "it is taken again");

    // Another server had the place in between: it has counted itself.
    cluster.sql(database_of(&url), "UPDATE drawbridge.sole_server SET generation = generation + 1");
    assert_eq!(cluster.sql(database_of(&url), end_holder), "1");
    tokio::time::timeout(LONG, place.lost()).await.expect("it is told");
    assert_eq!(place.open_for(), Some(Duration::MAX));
    let _second = second.hold_sole_server().await.expect("the place is free");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_place_is_held_again_after_a_restart_of_the_database() {
    let cluster = Cluster::new(&[]);
    let store = open(&cluster.database()).await;
    let place = store.hold_sole_server().await.expect("the place is free");
    cluster.stop();
    until_held(&place, false).await;
    cluster.start();
    until_held(&place, true).await;
    assert!(matches!(store.hold_sole_server().await, Err(StoreError::InUse(_))));
}
