//! The tables: their format, their owner, what is not ours.

use drawbridge_registry::{Store, StoreError};
use drawbridge_registry_postgres::{FORMAT, PostgresStore};

use crate::cluster::{Cluster, database_of, open};
use crate::records::*;

async fn refused(url: &str) -> StoreError {
    PostgresStore::open(url, "one").await.map(|_| ()).expect_err("must not open")
}

/// All that is in a database: its tables' shapes and rows.
fn content(cluster: &Cluster, database: &str) -> String {
    let tables = cluster.sql(
        database,
        "SELECT string_agg(format('%I.%I', schemaname, tablename), ' ' ORDER BY 1) FROM pg_tables
         WHERE schemaname NOT IN ('pg_catalog', 'information_schema')",
    );
    let mut content = tables.clone();
    for table in tables.split_whitespace() {
        content += &cluster.sql(database, &format!("SELECT t, t.xmin FROM {table} t ORDER BY 1"));
    }
    content
}

#[tokio::test]
async fn an_empty_database_gets_the_tables_and_opening_it_again_changes_nothing() {
    let cluster = Cluster::shared();
    let url = cluster.database();
    // An empty schema that an operator made is as good as none.
    cluster.sql(database_of(&url), "CREATE SCHEMA drawbridge");
    let store = open(&url).await;
    make_lamp(&store).await;
    let before = content(cluster, database_of(&url));
    assert!(before.contains("drawbridge.principal") && before.contains("lamp"), "{before}");
    open(&url).await;
    assert_eq!(content(cluster, database_of(&url)), before);
    let format = cluster.sql(database_of(&url), "SELECT format FROM drawbridge.format");
    assert_eq!(format, FORMAT.to_string());
}

#[tokio::test]
async fn a_newer_format_is_refused_and_the_database_is_left_as_it_was() {
    let cluster = Cluster::shared();
    let url = cluster.database();
    make_lamp(&open(&url).await).await;
    for newer in [FORMAT + 1, 4_000_000_000] {
        cluster.sql(database_of(&url), &format!("UPDATE drawbridge.format SET format = {newer}"));
        let before = content(cluster, database_of(&url));
        let error = refused(&url).await;
        assert!(
            matches!(error, StoreError::UnknownFormat { found, known } if found == newer && known == FORMAT),
            "{error:?}"
        );
        assert_eq!(content(cluster, database_of(&url)), before);
    }
}

#[tokio::test]
async fn a_schema_of_something_else_is_refused_and_left_as_it_was() {
    let cluster = Cluster::shared();
    for (what, sql) in [
        ("foreign tables", "CREATE SCHEMA drawbridge; CREATE TABLE drawbridge.bookmarks (url TEXT)"),
        ("a foreign format", "CREATE SCHEMA drawbridge; CREATE TABLE drawbridge.format (format TEXT)"),
        ("no format", "CREATE SCHEMA drawbridge; CREATE TABLE drawbridge.format (format BIGINT)"),
        (
            "a negative format",
            "CREATE SCHEMA drawbridge; CREATE TABLE drawbridge.format AS SELECT -1::bigint AS format",
        ),
        ("format 0", "CREATE SCHEMA drawbridge; CREATE TABLE drawbridge.format AS SELECT 0 AS format"),
    ] {
        let url = cluster.database();
        cluster.sql(database_of(&url), sql);
        let before = content(cluster, database_of(&url));
        let error = refused(&url).await;
        assert!(matches!(error, StoreError::Corrupt(_)), "{what}: {error:?}");
        assert_eq!(content(cluster, database_of(&url)), before, "{what}");
    }
}

#[tokio::test]
async fn a_damaged_record_is_corrupt_and_never_a_panic() {
    let cluster = Cluster::shared();
    for damage in [
        "UPDATE principal SET attributes = '{'",
        "UPDATE principal SET kind = 'toaster'",
        "UPDATE principal SET name = E'a\\nb'",
        "UPDATE principal SET settings = '{\"toast\":1}'",
        "UPDATE principal SET registration = '\\x00'",
        "UPDATE principal_key SET state = 'lost'",
        "UPDATE principal_key SET kid = 'a b'",
        "ALTER TABLE principal RENAME COLUMN epoch TO era",
        "ALTER TABLE principal ALTER COLUMN epoch TYPE TEXT",
        "DROP TABLE principal_key",
    ] {
        let url = cluster.database();
        let store = open(&url).await;
        make_lamp(&store).await;
        cluster.sql(database_of(&url), &format!("SET search_path = drawbridge; {damage}"));
        let answer = store.principals(&registry(), None, None, 9).await;
        assert!(matches!(answer, Err(StoreError::Corrupt(_))), "{damage}: {answer:?}");
    }
}

#[tokio::test]
async fn the_format_is_not_raised_under_a_server_that_works_on_the_database() {
    let cluster = Cluster::shared();
    let url = cluster.database();
    let (server, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.expect("connects");
    tokio::spawn(connection);
    let lock = "SET application_name = 'drawbridge old'; SELECT pg_advisory_lock(1148347239, 2)";
    server.batch_execute(lock).await.expect("the place is free");
    let error = refused(&url).await;
    assert!(matches!(error, StoreError::InUse(_)), "{error:?}");
    assert!(error.to_string().contains("drawbridge old"), "{error}");
    let schemas = "SELECT count(*) FROM pg_namespace WHERE nspname = 'drawbridge'";
    assert_eq!(cluster.sql(database_of(&url), schemas), "0", "nothing was made");
    server.batch_execute("SELECT pg_advisory_unlock(1148347239, 2)").await.expect("lets go");
    make_lamp(&open(&url).await).await;
    // Tables that are as they should be are opened beside a server: it is `hold_sole_server` that refuses.
    server.batch_execute(lock).await.expect("the place is free");
    let second = open(&url).await;
    assert!(matches!(second.hold_sole_server().await, Err(StoreError::InUse(_))));
}

#[tokio::test]
async fn who_may_not_make_the_schema_is_told_how_it_is_made() {
    let cluster = Cluster::shared();
    let url = cluster.database();
    let database = database_of(&url);
    cluster.sql(database, "CREATE ROLE guest LOGIN PASSWORD 'guest-secret'");
    let socket = url.split_once('@').expect("a URL has a host").1;
    let guest = format!("postgres://guest:guest-secret@{socket}");
    let error = refused(&guest).await;
    let text = error.to_string();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    assert!(text.contains("GRANT CREATE ON DATABASE") && !text.contains("guest-secret"), "{text}");
    // Once it may, it works; and then nobody else may look.
    cluster.sql(database, &format!("GRANT CREATE ON DATABASE {database} TO guest"));
    make_lamp(&PostgresStore::open(&guest, "one").await.expect("it opens")).await;
    cluster.sql(database, "CREATE ROLE stranger LOGIN PASSWORD 'guest-secret'");
    let stranger = format!("postgres://stranger:guest-secret@{socket}");
    let error = refused(&stranger).await;
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
}

#[tokio::test]
async fn a_database_in_another_encoding_is_refused() {
    let cluster = Cluster::shared();
    cluster.sql("postgres", "CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0 LOCALE 'C'");
    let error = refused(&cluster.url("latin")).await;
    assert!(error.to_string().contains("UTF8"), "{error}");
}

#[tokio::test]
async fn without_its_audit_row_no_change_happens() {
    let cluster = Cluster::shared();
    let url = cluster.database();
    let store = open(&url).await;
    make_lamp(&store).await;
    cluster.sql(
        database_of(&url),
        "CREATE FUNCTION drawbridge.refuse() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE EXCEPTION 'refused by the test'; END $$;
         CREATE TRIGGER refuse BEFORE INSERT ON drawbridge.audit FOR EACH ROW
             WHEN (NEW.action = 'refused') EXECUTE FUNCTION drawbridge.refuse()",
    );
    let uid = drawbridge_names::Uid(1);
    let before = content(cluster, database_of(&url));
    let refused = || entry("refused");
    let registry = registry();
    assert!(store.add_principal(device("x", 2), vec![key(2)], refused()).await.is_err());
    assert!(store.add_key(&registry, uid, key(3), 5, refused()).await.is_err());
    assert!(store.delete_principal(&registry, uid, refused()).await.is_err());
    assert!(store.set_config(&registry, uid, vec![1], None, 1, refused()).await.is_err());
    assert!(store.replace_secret(&registry, "s", vec![1], refused()).await.is_err());
    let policy = drawbridge_names::PolicyName::parse("p").expect("a name");
    assert!(store.set_policy(&registry, &policy, "", 1, refused()).await.is_err());
    assert_eq!(content(cluster, database_of(&url)), before);
    store.record(&registry, entry("command.send")).await.expect("the store works on");
}
