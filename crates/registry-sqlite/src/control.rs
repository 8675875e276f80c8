//! Configs and states of devices.

use drawbridge_names::{PrincipalName, RegistryName, Uid};
use drawbridge_registry::{AuditEntry, ConfigVersion, KEPT_MAX, SetConfig, StateReport};
use rusqlite::{Connection, Row};

use crate::fault::Fault;
use crate::rows::{all, bits, execute, first, limit, number, number_or_null, principal_name};
use crate::{audit, principals};

pub(crate) fn set_config(
    conn: &Connection,
    registry: &RegistryName,
    uid: Uid,
    payload: &[u8],
    expected: Option<u64>,
    now_ms: u64,
    audit: &AuditEntry,
) -> Result<SetConfig, Fault> {
    let place = (registry.as_str(), bits(uid.0));
    let current =
        first(conn, "SELECT config_version FROM principal WHERE registry = ?1 AND uid = ?2", place, |row| {
            Ok(number(row, 0)?)
        })?;
    let Some(current) = current else { return Ok(SetConfig::NotFound) };
    if expected.is_some_and(|expected| expected != current) {
        return Ok(SetConfig::Stale { version: current });
    }
    let version = current + 1;
    execute(
        conn,
        "INSERT INTO config (registry, uid, version, payload, set_ms) VALUES (?1, ?2, ?3, ?4, ?5)",
        (place.0, place.1, bits(version), payload, bits(now_ms)),
    )?;
    execute(
        conn,
        "DELETE FROM config WHERE registry = ?1 AND uid = ?2 AND version <= ?3",
        (place.0, place.1, bits(version.saturating_sub(KEPT_MAX as u64))),
    )?;
    execute(
        conn,
        "UPDATE principal SET config_version = ?3 WHERE registry = ?1 AND uid = ?2",
        (place.0, place.1, bits(version)),
    )?;
    audit::append(conn, registry, audit)?;
    Ok(SetConfig::Set { version })
}

pub(crate) fn ack_config(
    conn: &Connection,
    registry: &RegistryName,
    uid: Uid,
    version: u64,
    now_ms: u64,
) -> Result<bool, Fault> {
    let changed = execute(
        conn,
        "UPDATE config SET acked_ms = IFNULL(acked_ms, ?4) WHERE registry = ?1 AND uid = ?2 AND version = ?3",
        (registry.as_str(), bits(uid.0), bits(version), bits(now_ms)),
    )?;
    Ok(changed > 0)
}

pub(crate) fn config(
    conn: &Connection,
    registry: &RegistryName,
    uid: Uid,
) -> Result<Option<ConfigVersion>, Fault> {
    first(
        conn,
        "SELECT version, payload, set_ms, acked_ms FROM config WHERE registry = ?1 AND uid = ?2
         ORDER BY version DESC LIMIT 1",
        (registry.as_str(), bits(uid.0)),
        |row| read_config(row, 0),
    )
}

pub(crate) fn configs(
    conn: &Connection,
    registry: &RegistryName,
    after: Option<&PrincipalName>,
    rows_max: usize,
) -> Result<Vec<(PrincipalName, Uid, ConfigVersion)>, Fault> {
    all(
        conn,
        "SELECT p.name, p.uid, c.version, c.payload, c.set_ms, c.acked_ms
         FROM principal p INDEXED BY principal_config
         CROSS JOIN config c ON c.registry = p.registry AND c.uid = p.uid AND c.version = p.config_version
         WHERE p.registry = ?1 AND p.name > ?2 AND p.config_version > 0 ORDER BY p.name LIMIT ?3",
        (registry.as_str(), after.map_or("", PrincipalName::as_str), limit(rows_max)),
        |row| Ok((principal_name(row, 0)?, Uid(number(row, 1)?), read_config(row, 2)?)),
    )
}

pub(crate) fn add_state(
    conn: &Connection,
    registry: &RegistryName,
    uid: Uid,
    state: &StateReport,
) -> Result<(), Fault> {
    if !principals::is_there(conn, registry, uid)? {
        return Ok(());
    }
    let place = (registry.as_str(), bits(uid.0));
    let last =
        first(conn, "SELECT MAX(ordinal) FROM state WHERE registry = ?1 AND uid = ?2", place, |row| {
            Ok(number_or_null(row, 0)?)
        })?;
    let ordinal = last.flatten().unwrap_or(0) + 1;
    execute(
        conn,
        "INSERT INTO state (registry, uid, ordinal, payload, received_ms) VALUES (?1, ?2, ?3, ?4, ?5)",
        (place.0, place.1, bits(ordinal), &state.payload, bits(state.received_ms)),
    )?;
    execute(
        conn,
        "DELETE FROM state WHERE registry = ?1 AND uid = ?2 AND ordinal <= ?3",
        (place.0, place.1, bits(ordinal.saturating_sub(KEPT_MAX as u64))),
    )?;
    Ok(())
}

pub(crate) fn states(
    conn: &Connection,
    registry: &RegistryName,
    uid: Uid,
) -> Result<Vec<StateReport>, Fault> {
    all(
        conn,
        "SELECT payload, received_ms FROM state WHERE registry = ?1 AND uid = ?2 ORDER BY ordinal DESC",
        (registry.as_str(), bits(uid.0)),
        |row| Ok(StateReport { payload: row.get(0)?, received_ms: number(row, 1)? }),
    )
}

fn read_config(row: &Row<'_>, at: usize) -> Result<ConfigVersion, Fault> {
    Ok(ConfigVersion {
        version: number(row, at)?,
        payload: row.get(at + 1)?,
        set_ms: number(row, at + 2)?,
        acked_ms: number_or_null(row, at + 3)?,
    })
}
