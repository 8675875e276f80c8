//! What is kept is in no log, however much is logged: the client below logs the values of statements.

#[path = "postgres/cluster.rs"]
#[allow(dead_code, reason = "one test needs little of it")]
mod cluster;
#[path = "postgres/records.rs"]
mod records;

use std::io::Write;
use std::sync::{Arc, Mutex};

use drawbridge_names::Uid;
use drawbridge_registry::{Principal, PrincipalChange, Store};
use records::*;

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("not poisoned").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn what_is_kept_is_in_no_log() {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .init();
    let cluster = cluster::Cluster::shared();
    let url = cluster.database();
    let store = cluster::open(&url).await;
    make_registry(&store).await;
    let kept = vec![211, 212, 213, 214, 215];
    let lamp = Principal { password: Some(kept.clone()), registration: Some([203; 32]), ..device("lamp", 1) };
    store.add_principal(lamp, vec![key(1)], entry("device.add")).await.expect("add_principal");
    let change = PrincipalChange::Password(Some(kept.clone()));
    store.change_principal(&registry(), Uid(1), change, None, entry("e")).await.expect("change_principal");
    store.secret_or_insert(&registry(), "issuer", kept.clone()).await.expect("secret_or_insert");
    store.replace_secret(&registry(), "issuer", kept.clone(), entry("e")).await.expect("replace_secret");
    assert_eq!(store.secret(&registry(), "issuer").await.expect("secret"), Some(kept));
    store.remember_jti(&registry(), Uid(1), mark(1), NOW_S).await.expect("remember_jti");
    let wrong = url.replace(cluster::PASSWORD, "another-secret-word");
    assert!(drawbridge_registry_postgres::PostgresStore::open(&wrong, "one").await.is_err());
    let log = String::from_utf8(log.0.lock().expect("not poisoned").clone()).expect("is text");
    assert!(log.contains("executing statement"), "the client's log is seen:\n{log}");
    for secret in ["211, 212", "d3d4d5", "203, 203", cluster::PASSWORD, "another-secret-word"] {
        let line = log.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "`{secret}`");
    }
}
