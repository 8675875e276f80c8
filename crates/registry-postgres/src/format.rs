//! The tables: what they must be, how they are brought to the newest format.

use drawbridge_registry::StoreError;

use crate::connection::Connection;
use crate::fault::Fault;
use crate::rows::{text, value};
use crate::sole;

/// The newest format known here: the number of migrations.
pub const FORMAT: u32 = MIGRATIONS.len() as u32;

/// Forward only: a migration that was released is never changed. Format `n` is what the first `n` make.
const MIGRATIONS: [&str; 1] = [include_str!("../migrations/0001_registry.sql")];

/// PostgreSQL 13. Older ones are no longer maintained.
const SERVER_MIN: i32 = 130_000;

/// The advisory lock of whoever raises the format: "Drbg" and 1.
const RAISING: &str = "SELECT pg_advisory_xact_lock(1148347239, 1)";

/// Checks the server and brings the tables to the newest format, one transaction a step. Several
/// processes may do so at once.
pub(crate) async fn raise(connection: &Connection) -> Result<(), Fault> {
    judge_server(connection).await?;
    while judge(connection).await? < FORMAT {
        connection.run("BEGIN; SET LOCAL lock_timeout = '60s'; SET LOCAL statement_timeout = '600s'").await?;
        // An error ends the connection, and with it the transaction.
        connection.ask(RAISING, &[]).await?;
        let found = judge(connection).await?; // again, now that nobody else can change it
        if let Some(migration) = MIGRATIONS.get(found as usize) {
            // A server that works on the old format would not understand the new one.
            sole::must_be_free(connection).await?;
            if found == 0 {
                make_schema(connection).await?;
            }
            connection.run(migration).await?;
            connection.run(&format!("UPDATE format SET format = {}", found + 1)).await?;
            tracing::info!(from = found, to = found + 1, "the registry's format was raised");
        }
        connection.run("COMMIT").await?;
    }
    Ok(())
}

async fn judge_server(connection: &Connection) -> Result<(), Fault> {
    let rows = connection
        .ask(
            "SELECT current_setting('server_version_num')::int, current_setting('server_encoding'),
                    current_setting('fsync'), current_setting('server_version')",
            &[],
        )
        .await?;
    let row = rows.first().expect("a SELECT without FROM has one row");
    let (version, encoding, fsync) = (value::<i32>(row, 0)?, text(row, 1)?, text(row, 2)?);
    if version < SERVER_MIN {
        let found = text(row, 3)?;
        return Err(unavailable(format!("this is PostgreSQL {found}; wanted is 13 or newer")));
    }
    if encoding != "UTF8" {
        return Err(unavailable(format!(
            "the database has the encoding {encoding}; make one with CREATE DATABASE ... ENCODING 'UTF8' \
             TEMPLATE template0"
        )));
    }
    if fsync != "on" {
        tracing::warn!(
            "this PostgreSQL runs with fsync=off: after a power cut a used `jti` may be good again"
        );
    }
    Ok(())
}

/// Reads the format; changes nothing. 0: there is nothing yet.
async fn judge(connection: &Connection) -> Result<u32, Fault> {
    let rows = connection
        .ask(
            "SELECT (SELECT count(*) FROM pg_catalog.pg_class c
                     JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'drawbridge'),
                    pg_catalog.to_regclass('drawbridge.format') IS NOT NULL",
            &[],
        )
        .await?;
    let row = rows.first().expect("a SELECT without FROM has one row");
    let (objects, has_format) = (value::<i64>(row, 0)?, value::<bool>(row, 1)?);
    if objects == 0 {
        return Ok(0);
    }
    let foreign = || StoreError::Corrupt("the schema `drawbridge` is not a registry of Drawbridge".into());
    if !has_format {
        return Err(foreign().into());
    }
    let rows = connection.ask("SELECT format::bigint FROM drawbridge.format", &[]).await?;
    let [row] = rows.as_slice() else { return Err(foreign().into()) };
    let found = u32::try_from(value::<i64>(row, 0)?).map_err(|_| foreign())?;
    if found == 0 {
        return Err(foreign().into());
    }
    if found > FORMAT {
        return Err(StoreError::UnknownFormat { found, known: FORMAT }.into());
    }
    Ok(found)
}

async fn make_schema(connection: &Connection) -> Result<(), Fault> {
    let there =
        connection.ask("SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = 'drawbridge'", &[]).await?;
    if there.is_empty() {
        connection.run("CREATE SCHEMA drawbridge").await.map_err(|fault| {
            let why = StoreError::from(fault);
            unavailable(format!(
                "the schema `drawbridge` cannot be made ({why}); as its owner: GRANT CREATE ON DATABASE ... TO ..."
            ))
        })?;
    }
    // Nobody but its owner may read keys and verifiers.
    connection
        .run(
            "REVOKE ALL ON SCHEMA drawbridge FROM PUBLIC;
             CREATE TABLE format (
                 one    BOOLEAN NOT NULL PRIMARY KEY DEFAULT TRUE CHECK (one),
                 format BIGINT  NOT NULL
             );
             INSERT INTO format (format) VALUES (0)",
        )
        .await
}

fn unavailable(why: String) -> Fault {
    Fault::Store(StoreError::Unavailable(why))
}
