//! The file: its format, its rights, its damage.

mod records;

use std::path::Path;

use drawbridge_names::Uid;
use drawbridge_registry::{JtiOutcome, Store, StoreError};
use drawbridge_registry_sqlite::{FORMAT, SqliteStore};
use records::*;

fn version(path: &Path) -> u32 {
    let conn = rusqlite::Connection::open(path).expect("opens");
    conn.pragma_query_value(None, "user_version", |row| row.get(0)).expect("a version")
}

fn refused(path: &Path) -> StoreError {
    SqliteStore::open(path).map(|_| ()).expect_err("must not open")
}

#[tokio::test]
async fn an_empty_file_is_format_0_and_is_raised_to_the_newest() {
    let folder = tempfile::tempdir().expect("a folder");
    for (file, empty) in [("new.db", false), ("empty.db", true)] {
        let path = folder.path().join(file);
        if empty {
            std::fs::write(&path, b"").expect("written");
            assert_eq!(version(&path), 0);
        }
        let store = open(&path);
        make_lamp(&store).await;
        store.close();
        assert_eq!(version(&path), FORMAT);
        // Raised once: opening it again changes nothing.
        let before = std::fs::read(&path).expect("read");
        open(&path).close();
        assert!(before == std::fs::read(&path).expect("read"), "{file}");
    }
}

#[tokio::test]
async fn a_newer_format_is_refused_and_the_file_is_left_as_it_was() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("registry.db");
    let store = open(&path);
    make_lamp(&store).await;
    drop(store);
    for newer in [FORMAT + 1, 4_000_000_000] {
        let conn = rusqlite::Connection::open(&path).expect("opens");
        conn.pragma_update(None, "user_version", newer.cast_signed()).expect("set");
        drop(conn);
        let before = std::fs::read(&path).expect("read");
        let error = refused(&path);
        assert!(
            matches!(error, StoreError::UnknownFormat { found, known } if found == newer && known == FORMAT),
            "{error:?}"
        );
        assert!(error.to_string().contains(&newer.to_string()), "{error}");
        assert!(before == std::fs::read(&path).expect("read"), "the file was changed");
    }
    // Also when the newer version was killed: what its log holds is not folded in.
    let conn = rusqlite::Connection::open(&path).expect("opens");
    conn.pragma_update(None, "user_version", FORMAT).expect("set");
    conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).expect("folded");
    conn.pragma_update(None, "user_version", FORMAT + 1).expect("set");
    let image = folder.path().join("image.db");
    std::fs::copy(&path, &image).expect("copied");
    std::fs::copy(path.with_extension("db-wal"), image.with_extension("db-wal")).expect("copied");
    let log = std::fs::read(image.with_extension("db-wal")).expect("read");
    assert!(!log.is_empty());
    let before = std::fs::read(&image).expect("read");
    assert!(matches!(refused(&image), StoreError::UnknownFormat { .. }));
    assert!(before == std::fs::read(&image).expect("read"), "the file was changed");
    assert!(log == std::fs::read(image.with_extension("db-wal")).expect("read"), "the log was changed");
}

#[test]
fn files_of_something_else_are_refused_and_left_as_they_were() {
    let folder = tempfile::tempdir().expect("a folder");
    let foreign = folder.path().join("foreign.db");
    let conn = rusqlite::Connection::open(&foreign).expect("opens");
    conn.execute_batch("CREATE TABLE bookmarks (url TEXT)").expect("made");
    drop(conn);
    let numbered = folder.path().join("numbered.db");
    let conn = rusqlite::Connection::open(&numbered).expect("opens");
    conn.execute_batch("CREATE TABLE bookmarks (url TEXT); PRAGMA user_version = 1").expect("made");
    drop(conn);
    let text = folder.path().join("text.db");
    std::fs::write(&text, "[[allow]]\npublish = [\"#\"]\n".repeat(100)).expect("written");
    for path in [foreign, numbered, text] {
        let before = std::fs::read(&path).expect("read");
        let error = refused(&path);
        assert!(matches!(error, StoreError::Corrupt(_)), "{path:?}: {error:?}");
        assert!(before == std::fs::read(&path).expect("read"), "{path:?} was changed");
    }
    let nowhere = folder.path().join("no/such/folder/registry.db");
    assert!(matches!(refused(&nowhere), StoreError::Unavailable(_)));
    assert!(matches!(refused(folder.path()), StoreError::Unavailable(_)), "a folder");
}

#[tokio::test]
async fn a_damaged_file_is_corrupt_and_never_a_panic() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("registry.db");
    let store = open(&path);
    make_devices(&store, 1000).await;
    store.close();
    let good = std::fs::read(&path).expect("read");
    let page = 4096;
    let pages = good.len() / page;
    assert!(pages > 100, "{pages} pages");
    let (mut opened, mut corrupt) = (0, 0);
    for round in 0..12 {
        let mut bad = good.clone();
        // Every third page, by turns with and without those first ones that hold the schema and the roots; or
        // the end is missing.
        match round {
            0 => bad[..200].fill(0xff),
            1 => bad.truncate(good.len() / 2),
            2 => bad.truncate(700),
            _ => (if round % 2 == 0 { 1 } else { 64 }..pages)
                .filter(|number| number % 3 == round % 3)
                .for_each(|number| {
                    let byte = u8::try_from(round * 21).expect("small");
                    bad[number * page..(number + 1) * page].fill(byte);
                }),
        }
        let path = folder.path().join(format!("bad{round}.db"));
        std::fs::write(&path, bad).expect("written");
        let mut errors = Vec::new();
        match SqliteStore::open(&path) {
            Err(error) => errors.push(error),
            Ok(store) => {
                opened += 1;
                for number in (1..=1000).step_by(50) {
                    errors.extend(store.known_by_uid(&registry(), Uid(number)).await.err());
                    let mark = drawbridge_registry::JtiMark { kid: kid(number), ..mark(number) };
                    errors.extend(store.remember_jti(&registry(), Uid(number), mark, NOW_S).await.err());
                }
                errors.extend(store.principals(&registry(), None, None, usize::MAX).await.err());
                errors.extend(store.audit_tail(&registry(), None, usize::MAX).await.err());
            }
        }
        assert!(!errors.is_empty(), "round {round}: the damage was not noticed");
        for error in &errors {
            assert!(matches!(error, StoreError::Corrupt(_)), "round {round}: {error:?}");
        }
        corrupt += errors.len();
    }
    println!("{opened} damaged files opened, {corrupt} answers were `Corrupt`");
    assert!(opened >= 3, "only {opened} opened: the damage is too coarse to test reads");
}

#[tokio::test]
async fn a_damaged_value_is_corrupt_and_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("registry.db");
    let store = open(&path);
    make_lamp(&store).await;
    let other = rusqlite::Connection::open(&path).expect("a second connection");
    for (damage, mend, what) in [
        ("principal SET kind = 'toaster'", "principal SET kind = 'device'", "kind"),
        ("principal SET attributes = '[1]'", "principal SET attributes = '{}'", "attributes"),
        ("principal SET policy = 'a/b'", "principal SET policy = NULL", "policy"),
        ("principal SET settings = '7'", "principal SET settings = '{}'", "PrincipalSettings"),
        ("principal SET settings = '{\"x\":1}'", "principal SET settings = '{}'", "PrincipalSettings"),
        ("principal_key SET state = 'fresh'", "principal_key SET state = 'active'", "state"),
    ] {
        other.execute(&format!("UPDATE {damage}"), []).expect("damaged");
        let error = store.known(&registry(), &name("lamp")).await.expect_err("cannot be read");
        assert!(matches!(&error, StoreError::Corrupt(why) if why.contains(what)), "{damage}: {error}");
        other.execute(&format!("UPDATE {mend}"), []).expect("mended");
        assert!(store.known(&registry(), &name("lamp")).await.expect("known").is_some(), "{mend}");
    }
    store.add_enrolment(&registry(), enrolment("e"), entry("e")).await.expect("add_enrolment");
    other.execute("UPDATE enrolment SET names = '{\"all\":[]}'", []).expect("damaged");
    let error = store.enrolments(&registry()).await.expect_err("cannot be read");
    assert!(matches!(&error, StoreError::Corrupt(why) if why.contains("EnrolmentNames")), "{error}");
    other.execute("UPDATE registry SET settings = 'x'", []).expect("damaged");
    let error = store.registry(&registry()).await.expect_err("cannot be read");
    assert!(matches!(&error, StoreError::Corrupt(why) if why.contains("RegistrySettings")), "{error}");
}

#[tokio::test]
async fn a_closed_store_is_unavailable_and_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(&folder.path().join("registry.db"));
    make_lamp(&store).await;
    // What was asked for before is still done.
    let registry = registry();
    let mut asked = store.remember_jti(&registry, Uid(1), mark(1), NOW_S);
    std::future::poll_fn(|context| {
        assert!(asked.as_mut().poll(context).is_pending());
        std::task::Poll::Ready(())
    })
    .await;
    store.close();
    store.close();
    assert_eq!(asked.await.expect("remember_jti"), JtiOutcome::Fresh);
    let change = store.remember_jti(&registry, Uid(1), mark(2), NOW_S).await;
    assert!(matches!(change, Err(StoreError::Unavailable(_))), "{change:?}");
    let lookup = store.known(&registry, &name("lamp")).await;
    assert!(matches!(lookup, Err(StoreError::Unavailable(_))), "{lookup:?}");
    let list = store.registries().await;
    assert!(matches!(list, Err(StoreError::Unavailable(_))), "{list:?}");
}

#[cfg(unix)]
#[tokio::test]
async fn nobody_but_the_owner_may_read_the_file_or_its_log() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("registry.db");
    let store = open(&path);
    make_lamp(&store).await;
    for file in [path.clone(), path.with_extension("db-wal"), path.with_extension("db-shm")] {
        let mode = std::fs::metadata(&file).expect("is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file:?}");
    }
}
