//! Registries.

use drawbridge_names::RegistryName;
use drawbridge_registry::{
    AddRegistry, AuditEntry, GoogleNames, RegistryRecord, RegistrySettings, StoreError,
};
use rusqlite::{Connection, Row};

use crate::audit;
use crate::fault::{Fault, damaged};
use crate::rows::{all, bits, execute, exists, first, number, text};

const COLUMNS: &str = "registry, issuer, bridge_audience, clock_skew_s, token_life_s, google_project, \
                       google_location, settings, created_s";

pub(crate) fn add(
    conn: &Connection,
    record: &RegistryRecord,
    audit: &AuditEntry,
) -> Result<AddRegistry, Fault> {
    if let Some(there) = one(conn, &record.name)? {
        return Ok(AddRegistry::Exists(there));
    }
    execute(
        conn,
        "INSERT INTO registry (registry, issuer, bridge_audience, clock_skew_s, token_life_s, google_project,
                               google_location, settings, created_s)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        (
            record.name.as_str(),
            &record.issuer,
            &record.bridge_audience,
            record.clock_skew_s,
            record.token_life_s,
            record.google.as_ref().map(|google| &google.project),
            record.google.as_ref().map(|google| &google.location),
            record.settings.to_json(),
            bits(record.created_s),
        ),
    )?;
    audit::append(conn, &record.name, audit)?;
    Ok(AddRegistry::Added)
}

pub(crate) fn one(conn: &Connection, name: &RegistryName) -> Result<Option<RegistryRecord>, Fault> {
    let sql = format!("SELECT {COLUMNS} FROM registry WHERE registry = ?1");
    first(conn, &sql, [name.as_str()], read)
}

pub(crate) fn change(
    conn: &Connection,
    record: &RegistryRecord,
    audit: &AuditEntry,
) -> Result<Option<RegistryRecord>, Fault> {
    let changed = execute(
        conn,
        "UPDATE registry SET clock_skew_s = ?2, token_life_s = ?3, settings = ?4 WHERE registry = ?1",
        (record.name.as_str(), record.clock_skew_s, record.token_life_s, record.settings.to_json()),
    )?;
    if changed == 0 {
        return Ok(None);
    }
    audit::append(conn, &record.name, audit)?;
    one(conn, &record.name)
}

pub(crate) fn list(conn: &Connection) -> Result<Vec<RegistryRecord>, Fault> {
    all(conn, &format!("SELECT {COLUMNS} FROM registry ORDER BY registry"), [], read)
}

/// Refuses a write into a registry that does not exist.
pub(crate) fn must_exist(conn: &Connection, name: &RegistryName) -> Result<(), Fault> {
    if exists(conn, "SELECT 1 FROM registry WHERE registry = ?1", [name.as_str()])? {
        return Ok(());
    }
    Err(StoreError::UnknownRegistry(name.clone()).into())
}

fn read(row: &Row<'_>) -> Result<RegistryRecord, Fault> {
    let project: Option<String> = row.get(5)?;
    let location: Option<String> = row.get(6)?;
    Ok(RegistryRecord {
        name: RegistryName::parse(text(row, 0)?).map_err(|_| damaged("the name of a registry"))?,
        issuer: row.get(1)?,
        bridge_audience: row.get(2)?,
        clock_skew_s: row.get(3)?,
        token_life_s: row.get(4)?,
        google: project.zip(location).map(|(project, location)| GoogleNames { project, location }),
        settings: RegistrySettings::from_json(text(row, 7)?)?,
        created_s: number(row, 8)?,
    })
}
