//! Policies and secrets of a registry.

use drawbridge_names::{PolicyName, RegistryName};
use drawbridge_registry::{AuditEntry, PolicyRecord};
use rusqlite::{Connection, Row};

use crate::fault::Fault;
use crate::rows::{all, bits, execute, first, number, policy_name};
use crate::{audit, registries};

pub(crate) fn set(
    conn: &Connection,
    registry: &RegistryName,
    name: &PolicyName,
    source: &str,
    now_s: u64,
    audit: &AuditEntry,
) -> Result<u64, Fault> {
    registries::must_exist(conn, registry)?;
    let revision = one(conn, registry, name)?.map_or(0, |policy| policy.revision) + 1;
    execute(
        conn,
        "INSERT OR REPLACE INTO policy (registry, name, source, updated_s, revision) VALUES (?1, ?2, ?3, ?4, ?5)",
        (registry.as_str(), name.as_str(), source, bits(now_s), bits(revision)),
    )?;
    audit::append(conn, registry, audit)?;
    Ok(revision)
}

pub(crate) fn one(
    conn: &Connection,
    registry: &RegistryName,
    name: &PolicyName,
) -> Result<Option<PolicyRecord>, Fault> {
    let sql = "SELECT name, source, updated_s, revision FROM policy WHERE registry = ?1 AND name = ?2";
    first(conn, sql, (registry.as_str(), name.as_str()), read)
}

pub(crate) fn list(conn: &Connection, registry: &RegistryName) -> Result<Vec<PolicyRecord>, Fault> {
    let sql = "SELECT name, source, updated_s, revision FROM policy WHERE registry = ?1 ORDER BY name";
    all(conn, sql, [registry.as_str()], read)
}

pub(crate) fn secret_or_insert(
    conn: &Connection,
    registry: &RegistryName,
    name: &str,
    value: Vec<u8>,
) -> Result<Vec<u8>, Fault> {
    registries::must_exist(conn, registry)?;
    if let Some(there) = secret(conn, registry, name)? {
        return Ok(there);
    }
    keep_secret(conn, registry, name, &value)?;
    Ok(value)
}

pub(crate) fn replace_secret(
    conn: &Connection,
    registry: &RegistryName,
    name: &str,
    value: &[u8],
    audit: &AuditEntry,
) -> Result<(), Fault> {
    registries::must_exist(conn, registry)?;
    keep_secret(conn, registry, name, value)?;
    audit::append(conn, registry, audit)
}

pub(crate) fn secret(
    conn: &Connection,
    registry: &RegistryName,
    name: &str,
) -> Result<Option<Vec<u8>>, Fault> {
    let sql = "SELECT value FROM secret WHERE registry = ?1 AND name = ?2";
    first(conn, sql, (registry.as_str(), name), |row| Ok(row.get(0)?))
}

fn keep_secret(conn: &Connection, registry: &RegistryName, name: &str, value: &[u8]) -> Result<(), Fault> {
    let sql = "INSERT OR REPLACE INTO secret (registry, name, value) VALUES (?1, ?2, ?3)";
    execute(conn, sql, (registry.as_str(), name, value))?;
    Ok(())
}

fn read(row: &Row<'_>) -> Result<PolicyRecord, Fault> {
    Ok(PolicyRecord {
        name: policy_name(row, 0)?,
        source: row.get(1)?,
        updated_s: number(row, 2)?,
        revision: number(row, 3)?,
    })
}
