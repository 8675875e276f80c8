//! Gateways and the devices they may act for; the CAs of a registry.

use drawbridge_names::{PrincipalName, RegistryName, Uid};
use drawbridge_registry::{AuditEntry, Ca, Link, StoreError};
use tokio_postgres::Row;

use crate::connection::Params;
use crate::fault::Fault;
use crate::pool::{Lane, Pool};
use crate::rows::{bits, bytes, limit, number, principal_name, value};
use crate::transaction::Tx;
use crate::{audit, registries};

pub(crate) async fn set(
    tx: &mut Tx<'_>,
    registry: &RegistryName,
    gateway: Uid,
    device: Uid,
    on: bool,
    audit: &AuditEntry,
) -> Result<Link, Fault> {
    let registry_text = registry.as_str();
    let both = vec![bits(gateway.0), bits(device.0)];
    let lock = "SELECT uid FROM principal WHERE registry = $1 AND uid = ANY ($2) ORDER BY uid FOR UPDATE";
    let [held] = tx.ask([(lock, &[&registry_text, &both])]).await?;
    let held = held.iter().map(|row| value::<i64>(row, 0)).collect::<Result<Vec<i64>, Fault>>()?;
    if !both.iter().all(|uid| held.contains(uid)) {
        return Ok(Link::NotFound);
    }
    let sql = if on {
        "INSERT INTO link (registry, gateway, device) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING RETURNING 1"
    } else {
        "DELETE FROM link WHERE registry = $1 AND gateway = $2 AND device = $3 RETURNING 1"
    };
    let [changed] = tx.ask([(sql, &[&registry_text, &both[0], &both[1]])]).await?;
    if changed.is_empty() {
        return Ok(Link::Unchanged);
    }
    audit::finish(tx, registry, &[], |_| Ok(()), audit).await?;
    Ok(Link::Changed)
}

pub(crate) async fn linked(
    pool: &Pool,
    registry: &RegistryName,
    gateway: Uid,
    device: Uid,
) -> Result<bool, StoreError> {
    let sql = "SELECT 1 FROM link WHERE registry = $1 AND gateway = $2 AND device = $3";
    let params: Params<'_> = &[&registry.as_str(), &bits(gateway.0), &bits(device.0)];
    Ok(!pool.read(Lane::Lookup, sql, params).await?.is_empty())
}

pub(crate) async fn devices(
    pool: &Pool,
    registry: &RegistryName,
    gateway: Uid,
    after: Option<&PrincipalName>,
    rows_max: usize,
) -> Result<Vec<PrincipalName>, StoreError> {
    let sql = "
        SELECT p.name FROM link l JOIN principal p ON p.registry = l.registry AND p.uid = l.device
        WHERE l.registry = $1 AND l.gateway = $2 AND p.name > $3 ORDER BY p.name LIMIT $4";
    let after = after.map_or("", PrincipalName::as_str);
    let params: Params<'_> = &[&registry.as_str(), &bits(gateway.0), &after, &limit(rows_max)];
    let rows = pool.read(Lane::List, sql, params).await?;
    rows.iter().map(|row| Ok(principal_name(row, 0)?)).collect()
}

pub(crate) async fn gateways(
    pool: &Pool,
    registry: &RegistryName,
    device: Uid,
) -> Result<Vec<PrincipalName>, StoreError> {
    let sql = "
        SELECT p.name FROM link l JOIN principal p ON p.registry = l.registry AND p.uid = l.gateway
        WHERE l.registry = $1 AND l.device = $2 ORDER BY p.name";
    let rows = pool.read(Lane::List, sql, &[&registry.as_str(), &bits(device.0)]).await?;
    rows.iter().map(|row| Ok(principal_name(row, 0)?)).collect()
}

pub(crate) async fn add_ca(
    tx: &mut Tx<'_>,
    registry: &RegistryName,
    ca: &Ca,
    audit: &AuditEntry,
) -> Result<bool, Fault> {
    let insert = "
        INSERT INTO ca (registry, fingerprint, der, label, added_s) VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT DO NOTHING RETURNING 1";
    let registry_text = registry.as_str();
    let params: Params<'_> =
        &[&registry_text, &ca.fingerprint.as_slice(), &ca.der, &ca.label, &bits(ca.added_s)];
    let [exists, added] = tx.ask([(registries::EXISTS, &[&registry_text]), (insert, params)]).await?;
    registries::must_exist(&exists, registry)?;
    if added.is_empty() {
        return Ok(false);
    }
    audit::finish(tx, registry, &[], |_| Ok(()), audit).await?;
    Ok(true)
}

pub(crate) async fn cas(pool: &Pool, registry: &RegistryName) -> Result<Vec<Ca>, StoreError> {
    let sql = "SELECT fingerprint, der, label, added_s FROM ca WHERE registry = $1 ORDER BY fingerprint";
    let rows = pool.read(Lane::List, sql, &[&registry.as_str()]).await?;
    let read = |row: &Row| -> Result<Ca, Fault> {
        Ok(Ca {
            fingerprint: bytes(row, 0)?,
            der: value(row, 1)?,
            label: value(row, 2)?,
            added_s: number(row, 3)?,
        })
    };
    rows.iter().map(|row| Ok(read(row)?)).collect()
}

pub(crate) async fn remove_ca(
    tx: &mut Tx<'_>,
    registry: &RegistryName,
    fingerprint: &[u8; 32],
    audit: &AuditEntry,
) -> Result<bool, Fault> {
    let delete = "DELETE FROM ca WHERE registry = $1 AND fingerprint = $2 RETURNING 1";
    let [removed] = tx.ask([(delete, &[&registry.as_str(), &fingerprint.as_slice()])]).await?;
    if removed.is_empty() {
        return Ok(false);
    }
    audit::finish(tx, registry, &[], |_| Ok(()), audit).await?;
    Ok(true)
}
