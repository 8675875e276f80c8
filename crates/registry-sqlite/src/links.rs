//! Gateways and the devices they may act for; the CAs of a registry.

use drawbridge_names::{PrincipalName, RegistryName, Uid};
use drawbridge_registry::{AuditEntry, Ca, Link};
use rusqlite::{Connection, Row};

use crate::fault::Fault;
use crate::rows::{all, bits, execute, exists, limit, number, principal_name};
use crate::{audit, principals, registries};

pub(crate) fn set(
    conn: &Connection,
    registry: &RegistryName,
    gateway: Uid,
    device: Uid,
    on: bool,
    audit: &AuditEntry,
) -> Result<Link, Fault> {
    if !principals::is_there(conn, registry, gateway)? || !principals::is_there(conn, registry, device)? {
        return Ok(Link::NotFound);
    }
    let sql = if on {
        "INSERT INTO link (registry, gateway, device) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING"
    } else {
        "DELETE FROM link WHERE registry = ?1 AND gateway = ?2 AND device = ?3"
    };
    if execute(conn, sql, (registry.as_str(), bits(gateway.0), bits(device.0)))? == 0 {
        return Ok(Link::Unchanged);
    }
    audit::append(conn, registry, audit)?;
    Ok(Link::Changed)
}

pub(crate) fn linked(
    conn: &Connection,
    registry: &RegistryName,
    gateway: Uid,
    device: Uid,
) -> Result<bool, Fault> {
    let sql = "SELECT 1 FROM link WHERE registry = ?1 AND gateway = ?2 AND device = ?3";
    Ok(exists(conn, sql, (registry.as_str(), bits(gateway.0), bits(device.0)))?)
}

pub(crate) fn devices(
    conn: &Connection,
    registry: &RegistryName,
    gateway: Uid,
    after: Option<&PrincipalName>,
    rows_max: usize,
) -> Result<Vec<PrincipalName>, Fault> {
    all(
        conn,
        "SELECT p.name FROM link l CROSS JOIN principal p ON p.registry = l.registry AND p.uid = l.device
         WHERE l.registry = ?1 AND l.gateway = ?2 AND p.name > ?3 ORDER BY p.name LIMIT ?4",
        (registry.as_str(), bits(gateway.0), after.map_or("", PrincipalName::as_str), limit(rows_max)),
        |row| principal_name(row, 0),
    )
}

pub(crate) fn gateways(
    conn: &Connection,
    registry: &RegistryName,
    device: Uid,
) -> Result<Vec<PrincipalName>, Fault> {
    all(
        conn,
        "SELECT p.name FROM link l CROSS JOIN principal p ON p.registry = l.registry AND p.uid = l.gateway
         WHERE l.registry = ?1 AND l.device = ?2 ORDER BY p.name",
        (registry.as_str(), bits(device.0)),
        |row| principal_name(row, 0),
    )
}

pub(crate) fn add_ca(
    conn: &Connection,
    registry: &RegistryName,
    ca: &Ca,
    audit: &AuditEntry,
) -> Result<bool, Fault> {
    registries::must_exist(conn, registry)?;
    let added = execute(
        conn,
        "INSERT INTO ca (registry, fingerprint, der, label, added_s) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT DO NOTHING",
        (registry.as_str(), ca.fingerprint, &ca.der, &ca.label, bits(ca.added_s)),
    )?;
    if added == 0 {
        return Ok(false);
    }
    audit::append(conn, registry, audit)?;
    Ok(true)
}

pub(crate) fn cas(conn: &Connection, registry: &RegistryName) -> Result<Vec<Ca>, Fault> {
    let sql = "SELECT fingerprint, der, label, added_s FROM ca WHERE registry = ?1 ORDER BY fingerprint";
    let read = |row: &Row<'_>| {
        Ok(Ca { fingerprint: row.get(0)?, der: row.get(1)?, label: row.get(2)?, added_s: number(row, 3)? })
    };
    all(conn, sql, [registry.as_str()], read)
}

pub(crate) fn remove_ca(
    conn: &Connection,
    registry: &RegistryName,
    fingerprint: &[u8; 32],
    audit: &AuditEntry,
) -> Result<bool, Fault> {
    let sql = "DELETE FROM ca WHERE registry = ?1 AND fingerprint = ?2";
    if execute(conn, sql, (registry.as_str(), fingerprint))? == 0 {
        return Ok(false);
    }
    audit::append(conn, registry, audit)?;
    Ok(true)
}
