//! Opening the file: what it must be, how it is set up, how it is brought to the newest format.

use std::path::Path;
use std::time::Duration;

use drawbridge_registry::StoreError;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use crate::fault::{Fault, store_error};

/// The newest format known here: the number of migrations.
pub const FORMAT: u32 = MIGRATIONS.len() as u32;

/// Forward only: a migration that was released is never changed. Format `n` is what the first `n` make.
const MIGRATIONS: [&str; 1] = [include_str!("../migrations/0001_registry.sql")];

/// Set by the first migration; tells our file from any other SQLite file.
const APPLICATION_ID: i32 = 0x4472_6267;

/// Another process (a backup, an operator's shell) may hold the file for so long.
const BUSY_MAX: Duration = Duration::from_secs(5);

/// Each statement of the code fits, so none is compiled twice.
const STATEMENTS_MAX: usize = 192;

/// Opens the file for writing, makes it when it is not there, and migrates it.
pub(crate) fn open_writer(path: &Path) -> Result<Connection, StoreError> {
    make_private(path).map_err(|error| StoreError::Unavailable(format!("{}: {error}", path.display())))?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let set_up = || -> Result<Connection, Fault> {
        let conn = Connection::open_with_flags(path, flags)?;
        conn.busy_timeout(BUSY_MAX)?;
        keep_plans(&conn)?;
        // Until the format is known, not even a log left by a crash is folded into the file.
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        judge_format(&conn)?;
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
        let mode: String = conn.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
        if mode != "wal" {
            let found = format!("SQLite's journal mode is `{mode}`, wanted `wal`; use a local disk");
            return Err(StoreError::Unavailable(found).into());
        }
        // 2 MiB of pages: the system keeps the others at hand, and each of ours would be there twice. What one
        // commit changes may go beyond it.
        // FULL: a commit is on disk before it is answered. The two `fullfsync` mean macOS only,
        // whose ordinary flush stops at the disk's cache.
        conn.execute_batch(
            "PRAGMA synchronous = FULL; PRAGMA fullfsync = ON; PRAGMA checkpoint_fullfsync = ON;
             PRAGMA foreign_keys = ON; PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON;
             PRAGMA cache_size = -2048; PRAGMA cache_spill = OFF; PRAGMA journal_size_limit = 67108864;",
        )?;
        migrate(&conn)?;
        conn.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
        Ok(conn)
    };
    set_up().map_err(|fault| name_file(path, fault))
}

/// Opens a file that a writer has open already, for reading.
pub(crate) fn open_reader(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let set_up = || -> Result<Connection, Fault> {
        let conn = Connection::open_with_flags(path, flags)?;
        conn.busy_timeout(BUSY_MAX)?;
        keep_plans(&conn)?;
        conn.execute_batch(
            "PRAGMA query_only = ON; PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON;
             PRAGMA cache_size = -256;",
        )?;
        conn.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
        Ok(conn)
    };
    set_up().map_err(|fault| name_file(path, fault))
}

/// Without this SQLite compiles most statements that join tables, or have a bound `LIMIT`, anew whenever
/// other values are bound, to look whether these deserve another plan: four fifths of a login's lookup.
fn keep_plans(conn: &Connection) -> Result<(), Fault> {
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(())
}

/// Folds the log into the file and empties it. Nothing is lost when it cannot be done now.
pub(crate) fn checkpoint(conn: &Connection) {
    let folded = conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, bool>(0));
    match folded {
        Ok(false) => {}
        Ok(true) => tracing::warn!("the registry's log is in use; it is kept beside the file"),
        Err(error) => tracing::warn!(%error, "the registry's log could not be folded into its file"),
    }
}

/// The file holds keys and verifiers: nobody but its owner may read it, whatever the umask. SQLite
/// gives the same rights to its log.
fn make_private(path: &Path) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        made => made.map(drop),
    }
}

/// Reads the format; changes nothing.
fn judge_format(conn: &Connection) -> Result<u32, Fault> {
    let found = conn.pragma_query_value(None, "user_version", |row| row.get::<_, i32>(0))?.cast_unsigned();
    let application_id: i32 = conn.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let objects: i64 = conn.query_row("SELECT COUNT(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let ours = if found == 0 { objects == 0 } else { application_id == APPLICATION_ID };
    if !ours {
        return Err(StoreError::Corrupt("this SQLite file is not a registry of Drawbridge".into()).into());
    }
    if found > FORMAT {
        return Err(StoreError::UnknownFormat { found, known: FORMAT }.into());
    }
    Ok(found)
}

/// Takes the file from the format it has to the newest, one transaction a step: a crash between two
/// leaves a whole format.
fn migrate(conn: &Connection) -> Result<(), Fault> {
    loop {
        conn.execute_batch("BEGIN IMMEDIATE")?;
        let step = || -> Result<bool, Fault> {
            let found = judge_format(conn)?; // again, now that nobody else can change it
            let Some(migration) = MIGRATIONS.get(found as usize) else { return Ok(false) };
            conn.execute_batch(migration)?;
            conn.pragma_update(None, "user_version", found + 1)?;
            tracing::info!(from = found, to = found + 1, "the registry's format was raised");
            Ok(true)
        };
        match step() {
            Ok(more) => {
                conn.execute_batch("COMMIT")?;
                if !more {
                    return Ok(());
                }
            }
            Err(fault) => {
                conn.execute_batch("ROLLBACK")?;
                return Err(fault);
            }
        }
    }
}

fn name_file(path: &Path, fault: Fault) -> StoreError {
    let error = match fault {
        Fault::Sqlite(error) => store_error(&error),
        Fault::Store(error) => error,
    };
    let path = path.display();
    match error {
        StoreError::Unavailable(why) => StoreError::Unavailable(format!("{path}: {why}")),
        StoreError::Corrupt(why) => StoreError::Corrupt(format!("{path}: {why}")),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::StatementStatus;

    use super::*;

    #[test]
    fn no_statement_is_compiled_again_for_other_values() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("registry.db");
        let (writer, reader) = (open_writer(&path).expect("a writer"), open_reader(&path).expect("a reader"));
        let sql = "SELECT p.name, k.kid FROM principal p
                   LEFT JOIN principal_key k ON k.registry = p.registry AND k.uid = p.uid
                   WHERE p.registry = ?1 AND p.name > ?2 ORDER BY p.name, k.ordinal LIMIT ?3";
        for conn in [&writer, &reader] {
            for (number, name) in ["a", "b", "c"].into_iter().enumerate() {
                let mut statement = conn.prepare_cached(sql).expect("a statement");
                let mut rows = statement.query(("default", name, number as i64)).expect("rows");
                assert!(rows.next().expect("an answer").is_none());
                drop(rows);
                assert_eq!(statement.get_status(StatementStatus::RePrepare), 0, "round {number}");
            }
        }
    }
}
