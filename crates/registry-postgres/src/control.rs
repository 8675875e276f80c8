//! Configs and states of devices.

use drawbridge_names::{PrincipalName, RegistryName, Uid};
use drawbridge_registry::{AuditEntry, ConfigVersion, KEPT_MAX, SetConfig, StateReport, StoreError};
use tokio_postgres::Row;

use crate::audit;
use crate::connection::Params;
use crate::fault::Fault;
use crate::pool::{Lane, Pool};
use crate::principals::LOCK;
use crate::rows::{bits, limit, number, number_or_null, principal_name, value};
use crate::transaction::Tx;

pub(crate) async fn set_config(
    tx: &mut Tx<'_>,
    registry: &RegistryName,
    uid: Uid,
    payload: &[u8],
    expected: Option<u64>,
    now_ms: u64,
    audit: &AuditEntry,
) -> Result<SetConfig, Fault> {
    let (registry_text, uid) = (registry.as_str(), bits(uid.0));
    let [held] = tx.ask([(LOCK, &[&registry_text, &uid])]).await?;
    let Some(held) = held.first() else { return Ok(SetConfig::NotFound) };
    let current = number(held, 2)?;
    if expected.is_some_and(|expected| expected != current) {
        return Ok(SetConfig::Stale { version: current });
    }
    let version = current + 1;
    let insert = "
        INSERT INTO config (registry, uid, version, payload, set_ms) VALUES ($1, $2, $3, $4, $5)";
    let forget = "DELETE FROM config WHERE registry = $1 AND uid = $2 AND version <= $3";
    let count = "UPDATE principal SET config_version = $3 WHERE registry = $1 AND uid = $2";
    let insert_params: Params<'_> = &[&registry_text, &uid, &bits(version), &payload, &bits(now_ms)];
    let forget_params: Params<'_> = &[&registry_text, &uid, &bits(version.saturating_sub(KEPT_MAX as u64))];
    let count_params: Params<'_> = &[&registry_text, &uid, &bits(version)];
    let asks = [(insert, insert_params), (forget, forget_params), (count, count_params)];
    audit::finish(tx, registry, &asks, |_| Ok(()), audit).await?;
    Ok(SetConfig::Set { version })
}

pub(crate) async fn ack_config(
    tx: &mut Tx<'_>,
    registry: &RegistryName,
    uid: Uid,
    version: u64,
    now_ms: u64,
) -> Result<bool, Fault> {
    let update = "
        UPDATE config SET acked_ms = COALESCE(acked_ms, $4) WHERE registry = $1 AND uid = $2 AND version = $3
        RETURNING 1";
    let params: Params<'_> = &[&registry.as_str(), &bits(uid.0), &bits(version), &bits(now_ms)];
    let [changed] = tx.commit([(update, params)]).await?;
    Ok(!changed.is_empty())
}

pub(crate) async fn config(
    pool: &Pool,
    registry: &RegistryName,
    uid: Uid,
) -> Result<Option<ConfigVersion>, StoreError> {
    let sql = "
        SELECT version, payload, set_ms, acked_ms FROM config WHERE registry = $1 AND uid = $2
        ORDER BY version DESC LIMIT 1";
    let rows = pool.read(Lane::Lookup, sql, &[&registry.as_str(), &bits(uid.0)]).await?;
    Ok(rows.first().map(|row| read_config(row, 0)).transpose()?)
}

pub(crate) async fn configs(
    pool: &Pool,
    registry: &RegistryName,
    after: Option<&PrincipalName>,
    rows_max: usize,
) -> Result<Vec<(PrincipalName, Uid, ConfigVersion)>, StoreError> {
    let sql = "
        SELECT p.name, p.uid, c.version, c.payload, c.set_ms, c.acked_ms
        FROM principal p
        JOIN config c ON c.registry = p.registry AND c.uid = p.uid AND c.version = p.config_version
        WHERE p.registry = $1 AND p.name > $2 AND p.config_version > 0 ORDER BY p.name LIMIT $3";
    let after = after.map_or("", PrincipalName::as_str);
    let rows = pool.read(Lane::List, sql, &[&registry.as_str(), &after, &limit(rows_max)]).await?;
    let read = |row: &Row| -> Result<_, Fault> {
        Ok((principal_name(row, 0)?, Uid(number(row, 1)?), read_config(row, 2)?))
    };
    rows.iter().map(|row| Ok(read(row)?)).collect()
}

pub(crate) async fn add_state(
    tx: &mut Tx<'_>,
    registry: &RegistryName,
    uid: Uid,
    state: &StateReport,
) -> Result<(), Fault> {
    let insert = "
        INSERT INTO state (registry, uid, ordinal, payload, received_ms)
        SELECT p.registry, p.uid,
               1 + COALESCE((SELECT MAX(s.ordinal) FROM state s WHERE s.registry = $1 AND s.uid = $2), 0),
               $3, $4
        FROM principal p WHERE p.registry = $1 AND p.uid = $2";
    let forget = "
        DELETE FROM state WHERE registry = $1 AND uid = $2 AND ordinal <=
            (SELECT MAX(ordinal) FROM state WHERE registry = $1 AND uid = $2) - $3::bigint";
    let place: Params<'_> = &[&registry.as_str(), &bits(uid.0)];
    let insert_params: Params<'_> =
        &[&registry.as_str(), &bits(uid.0), &state.payload, &bits(state.received_ms)];
    let forget_params: Params<'_> = &[&registry.as_str(), &bits(uid.0), &limit(KEPT_MAX)];
    tx.commit([(LOCK, place), (insert, insert_params), (forget, forget_params)]).await?;
    Ok(())
}

pub(crate) async fn states(
    pool: &Pool,
    registry: &RegistryName,
    uid: Uid,
) -> Result<Vec<StateReport>, StoreError> {
    let sql = "SELECT payload, received_ms FROM state WHERE registry = $1 AND uid = $2 ORDER BY ordinal DESC";
    let rows = pool.read(Lane::List, sql, &[&registry.as_str(), &bits(uid.0)]).await?;
    let read = |row: &Row| -> Result<StateReport, Fault> {
        Ok(StateReport { payload: value(row, 0)?, received_ms: number(row, 1)? })
    };
    rows.iter().map(|row| Ok(read(row)?)).collect()
}

fn read_config(row: &Row, at: usize) -> Result<ConfigVersion, Fault> {
    Ok(ConfigVersion {
        version: number(row, at)?,
        payload: value(row, at + 1)?,
        set_ms: number(row, at + 2)?,
        acked_ms: number_or_null(row, at + 3)?,
    })
}
