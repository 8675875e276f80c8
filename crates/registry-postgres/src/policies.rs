//! Policies and secrets of a registry.

use drawbridge_names::{PolicyName, RegistryName};
use drawbridge_registry::{AuditEntry, PolicyRecord, StoreError};
use tokio_postgres::Row;

use crate::connection::Params;
use crate::fault::Fault;
use crate::pool::{Lane, Pool};
use crate::rows::{bits, number, policy_name, value};
use crate::transaction::Tx;
use crate::{audit, registries};

pub(crate) async fn set(
    tx: &mut Tx<'_>,
    registry: &RegistryName,
    name: &PolicyName,
    source: &str,
    now_s: u64,
    audit: &AuditEntry,
) -> Result<u64, Fault> {
    let upsert = "
        INSERT INTO policy (registry, name, source, updated_s, revision) VALUES ($1, $2, $3, $4, 1)
        ON CONFLICT (registry, name)
        DO UPDATE SET source = excluded.source, updated_s = excluded.updated_s, revision = policy.revision + 1
        RETURNING revision";
    let registry_text = registry.as_str();
    let params: Params<'_> = &[&registry_text, &name.as_str(), &source, &bits(now_s)];
    let [exists, set] = tx.ask([(registries::EXISTS, &[&registry_text]), (upsert, params)]).await?;
    registries::must_exist(&exists, registry)?;
    let revision = number(set.first().expect("RETURNING has the row"), 0)?;
    audit::finish(tx, registry, &[], |_| Ok(()), audit).await?;
    Ok(revision)
}

pub(crate) async fn one(
    pool: &Pool,
    registry: &RegistryName,
    name: &PolicyName,
) -> Result<Option<PolicyRecord>, StoreError> {
    let sql = "SELECT name, source, updated_s, revision FROM policy WHERE registry = $1 AND name = $2";
    let rows = pool.read(Lane::Lookup, sql, &[&registry.as_str(), &name.as_str()]).await?;
    Ok(rows.first().map(read).transpose()?)
}

pub(crate) async fn list(pool: &Pool, registry: &RegistryName) -> Result<Vec<PolicyRecord>, StoreError> {
    let sql = "SELECT name, source, updated_s, revision FROM policy WHERE registry = $1 ORDER BY name";
    let rows = pool.read(Lane::List, sql, &[&registry.as_str()]).await?;
    rows.iter().map(|row| Ok(read(row)?)).collect()
}

pub(crate) async fn secret_or_insert(
    tx: &mut Tx<'_>,
    registry: &RegistryName,
    name: &str,
    value: &[u8],
) -> Result<Vec<u8>, Fault> {
    let insert = "
        INSERT INTO secret (registry, name, value)
        SELECT registry, $2, $3 FROM registry WHERE registry = $1 ON CONFLICT DO NOTHING";
    // After the INSERT, which waits for whoever is about to insert another.
    let select = "SELECT value FROM secret WHERE registry = $1 AND name = $2";
    let registry_text = registry.as_str();
    let [exists, _, there] = tx
        .commit([
            (registries::EXISTS, &[&registry_text]),
            (insert, &[&registry_text, &name, &value]),
            (select, &[&registry_text, &name]),
        ])
        .await?;
    registries::must_exist(&exists, registry)?;
    crate::rows::value(there.first().ok_or(Fault::Again)?, 0)
}

pub(crate) async fn secret(
    pool: &Pool,
    registry: &RegistryName,
    name: &str,
) -> Result<Option<Vec<u8>>, StoreError> {
    let sql = "SELECT value FROM secret WHERE registry = $1 AND name = $2";
    let rows = pool.read(Lane::Lookup, sql, &[&registry.as_str(), &name]).await?;
    Ok(rows.first().map(|row| value(row, 0)).transpose()?)
}

pub(crate) async fn replace_secret(
    tx: &mut Tx<'_>,
    registry: &RegistryName,
    name: &str,
    value: &[u8],
    audit: &AuditEntry,
) -> Result<(), Fault> {
    let upsert = "
        INSERT INTO secret (registry, name, value) VALUES ($1, $2, $3)
        ON CONFLICT (registry, name) DO UPDATE SET value = excluded.value";
    let registry_text = registry.as_str();
    let exists: Params<'_> = &[&registry_text];
    let params: Params<'_> = &[&registry_text, &name, &value];
    let asks = [(registries::EXISTS, exists), (upsert, params)];
    audit::finish(tx, registry, &asks, |answers| registries::must_exist(&answers[0], registry), audit).await
}

fn read(row: &Row) -> Result<PolicyRecord, Fault> {
    Ok(PolicyRecord {
        name: policy_name(row, 0)?,
        source: value(row, 1)?,
        updated_s: number(row, 2)?,
        revision: number(row, 3)?,
    })
}
