//! Registries.

use drawbridge_names::RegistryName;
use drawbridge_registry::{
    AddRegistry, AuditEntry, GoogleNames, RegistryRecord, RegistrySettings, StoreError,
};
use tokio_postgres::Row;

use crate::audit;
use crate::connection::Ask;
use crate::fault::{Fault, damaged};
use crate::pool::{Lane, Pool};
use crate::rows::{bits, number, small, text, value};
use crate::transaction::Tx;

const ONE: &str = "
    SELECT registry, issuer, bridge_audience, clock_skew_s, token_life_s, google_project, google_location,
           settings, created_s
    FROM registry WHERE registry = $1";

/// Asked with every write into a registry.
pub(crate) const EXISTS: &str = "SELECT 1 FROM registry WHERE registry = $1";

/// Judges the answer to [`EXISTS`].
pub(crate) fn must_exist(rows: &[Row], name: &RegistryName) -> Result<(), Fault> {
    if rows.is_empty() {
        return Err(StoreError::UnknownRegistry(name.clone()).into());
    }
    Ok(())
}

pub(crate) async fn add(
    tx: &mut Tx<'_>,
    record: &RegistryRecord,
    audit: &AuditEntry,
) -> Result<AddRegistry, Fault> {
    let [there] = tx.ask([(ONE, &[&record.name.as_str()])]).await?;
    if let Some(row) = there.first() {
        return Ok(AddRegistry::Exists(read(row)?));
    }
    let insert = "
        INSERT INTO registry (registry, issuer, bridge_audience, clock_skew_s, token_life_s, google_project,
                              google_location, settings, created_s)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
    let google = record.google.as_ref();
    audit::finish(
        tx,
        &record.name,
        &[(
            insert,
            &[
                &record.name.as_str(),
                &record.issuer,
                &record.bridge_audience,
                &i64::from(record.clock_skew_s),
                &i64::from(record.token_life_s),
                &google.map(|google| &google.project),
                &google.map(|google| &google.location),
                &record.settings.to_json(),
                &bits(record.created_s),
            ],
        )],
        |_| Ok(()),
        audit,
    )
    .await?;
    Ok(AddRegistry::Added)
}

pub(crate) async fn change(
    tx: &mut Tx<'_>,
    record: &RegistryRecord,
    audit: &AuditEntry,
) -> Result<Option<RegistryRecord>, Fault> {
    let update = "
        UPDATE registry SET clock_skew_s = $2, token_life_s = $3, settings = $4 WHERE registry = $1
        RETURNING registry, issuer, bridge_audience, clock_skew_s, token_life_s, google_project,
                  google_location, settings, created_s";
    let [changed] = tx
        .ask([(
            update,
            &[
                &record.name.as_str(),
                &i64::from(record.clock_skew_s),
                &i64::from(record.token_life_s),
                &record.settings.to_json(),
            ],
        )])
        .await?;
    let Some(row) = changed.first() else { return Ok(None) };
    let changed = read(row)?;
    audit::finish(tx, &record.name, &[], |_| Ok(()), audit).await?;
    Ok(Some(changed))
}

pub(crate) async fn one(pool: &Pool, name: &RegistryName) -> Result<Option<RegistryRecord>, StoreError> {
    let rows = pool.read(Lane::Lookup, ONE, &[&name.as_str()]).await?;
    Ok(rows.first().map(read).transpose()?)
}

pub(crate) async fn list(pool: &Pool) -> Result<Vec<RegistryRecord>, StoreError> {
    let sql = "
        SELECT registry, issuer, bridge_audience, clock_skew_s, token_life_s, google_project, google_location,
               settings, created_s
        FROM registry ORDER BY registry";
    let rows = pool.read(Lane::List, sql, &[]).await?;
    rows.iter().map(|row| Ok(read(row)?)).collect()
}

/// Appends to the audit without any other change.
pub(crate) async fn record(
    tx: &mut Tx<'_>,
    registry: &RegistryName,
    audit: &AuditEntry,
) -> Result<(), Fault> {
    let exists: Ask<'_> = (EXISTS, &[&registry.as_str()]);
    audit::finish(tx, registry, &[exists], |answers| must_exist(&answers[0], registry), audit).await
}

fn read(row: &Row) -> Result<RegistryRecord, Fault> {
    let project: Option<String> = value(row, 5)?;
    let location: Option<String> = value(row, 6)?;
    Ok(RegistryRecord {
        name: RegistryName::parse(text(row, 0)?).map_err(|_| damaged("the name of a registry"))?,
        issuer: value(row, 1)?,
        bridge_audience: value(row, 2)?,
        clock_skew_s: small(row, 3)?,
        token_life_s: small(row, 4)?,
        google: project.zip(location).map(|(project, location)| GoogleNames { project, location }),
        settings: RegistrySettings::from_json(text(row, 7)?)?,
        created_s: number(row, 8)?,
    })
}
