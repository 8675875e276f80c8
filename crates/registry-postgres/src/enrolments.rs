//! Enrolments: devices that register themselves.

use drawbridge_names::{PrincipalName, RegistryName, Uid};
use drawbridge_registry::{AuditEntry, Enrol, Enrolment, EnrolmentNames, Key, Known, Principal, StoreError};
use tokio_postgres::Row;

use crate::connection::Params;
use crate::fault::Fault;
use crate::pool::{Lane, Pool};
use crate::principals::{LOCK, NewPrincipals, Taken};
use crate::rows::{bits, bytes, limit, number, policy_or_null, read_known, select_known, small, text, value};
use crate::transaction::Tx;
use crate::{audit, principals, registries};

/// Holds an enrolment until the transaction ends.
const HOLD: &str = "
    SELECT id, token_digest, label, names, claims_max, claims, policy, auto, expires_s, ended, created_s
    FROM enrolment WHERE registry = $1 AND id = $2 FOR UPDATE";

pub(crate) async fn add(
    tx: &mut Tx<'_>,
    registry: &RegistryName,
    enrolment: &Enrolment,
    audit: &AuditEntry,
) -> Result<(), Fault> {
    let insert = "
        INSERT INTO enrolment (registry, id, token_digest, label, names, claims_max, claims, policy, auto,
                               expires_s, ended, created_s)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)";
    let registry_text = registry.as_str();
    let exists: Params<'_> = &[&registry_text];
    let params: Params<'_> = &[
        &registry_text,
        &enrolment.id,
        &enrolment.token_digest.as_slice(),
        &enrolment.label,
        &enrolment.names.to_json(),
        &i64::from(enrolment.claims_max),
        &i64::from(enrolment.claims),
        &enrolment.policy.as_ref().map(|policy| policy.as_str()),
        &enrolment.auto,
        &bits(enrolment.expires_s),
        &enrolment.ended,
        &bits(enrolment.created_s),
    ];
    let asks = [(registries::EXISTS, exists), (insert, params)];
    audit::finish(tx, registry, &asks, |answers| registries::must_exist(&answers[0], registry), audit).await
}

pub(crate) async fn by_token(
    pool: &Pool,
    registry: &RegistryName,
    token_digest: &[u8; 32],
) -> Result<Option<Enrolment>, StoreError> {
    let sql = "
        SELECT id, token_digest, label, names, claims_max, claims, policy, auto, expires_s, ended, created_s
        FROM enrolment WHERE registry = $1 AND token_digest = $2";
    let rows = pool.read(Lane::Lookup, sql, &[&registry.as_str(), &token_digest.as_slice()]).await?;
    Ok(rows.first().map(read).transpose()?)
}

pub(crate) async fn list(pool: &Pool, registry: &RegistryName) -> Result<Vec<Enrolment>, StoreError> {
    let sql = "
        SELECT id, token_digest, label, names, claims_max, claims, policy, auto, expires_s, ended, created_s
        FROM enrolment WHERE registry = $1 ORDER BY created_s DESC, id";
    let rows = pool.read(Lane::List, sql, &[&registry.as_str()]).await?;
    rows.iter().map(|row| Ok(read(row)?)).collect()
}

pub(crate) async fn end(
    tx: &mut Tx<'_>,
    registry: &RegistryName,
    id: &str,
    audit: &AuditEntry,
) -> Result<bool, Fault> {
    let update = "
        UPDATE enrolment SET ended = TRUE WHERE registry = $1 AND id = $2 AND NOT ended RETURNING 1";
    let [ended] = tx.ask([(update, &[&registry.as_str(), &id])]).await?;
    if ended.is_empty() {
        return Ok(false);
    }
    audit::finish(tx, registry, &[], |_| Ok(()), audit).await?;
    Ok(true)
}

/// The order of the questions is part of the promise: see [`drawbridge_registry::Store::enrol`].
pub(crate) async fn enrol(
    tx: &mut Tx<'_>,
    registry: &RegistryName,
    id: &str,
    principal: &Principal,
    given: &[Key],
    now_s: u64,
    audit: &AuditEntry,
) -> Result<Enrol, Fault> {
    let place: Params<'_> = &[&registry.as_str(), &id];
    let [held] = tx.ask([(HOLD, place)]).await?;
    let enrolment = match held.first().map(read).transpose()? {
        Some(enrolment) if !enrolment.ended && enrolment.expires_s > now_s => enrolment,
        _ => return Ok(Enrol::Ended),
    };
    let principal =
        Principal { registry: registry.clone(), enrolment: Some(id.to_owned()), ..principal.clone() };
    let taken = Taken::ask(tx, registry, &[(&principal, given)]).await?;
    if let Some(refused) = taken.refusal(&principal, given) {
        return Ok(Enrol::Refused(refused));
    }
    if enrolment.claims >= enrolment.claims_max {
        return Ok(Enrol::Spent);
    }
    let count = "UPDATE enrolment SET claims = claims + 1 WHERE registry = $1 AND id = $2";
    let mut new = NewPrincipals::default();
    new.push(&principal, given);
    new.finish(tx, registry, &[(count, place)], audit).await?;
    Ok(Enrol::Enrolled)
}

pub(crate) async fn undo(
    tx: &mut Tx<'_>,
    registry: &RegistryName,
    uid: Uid,
    audit: &AuditEntry,
) -> Result<bool, Fault> {
    let place: Params<'_> = &[&registry.as_str(), &bits(uid.0)];
    // It never changes. The enrolment is held before the principal, as when a device enrols.
    let by = "SELECT enrolment FROM principal WHERE registry = $1 AND uid = $2";
    let [found] = tx.ask([(by, place)]).await?;
    let Some(id) = found.first().map(|row| value::<Option<String>>(row, 0)).transpose()?.flatten() else {
        return Ok(false);
    };
    let give_back = "
        UPDATE enrolment SET claims = GREATEST(claims - 1, 0) WHERE registry = $1 AND id = $2";
    let enrolment: Params<'_> = &[&registry.as_str(), &id];
    let [_, held] = tx.ask([(give_back, enrolment), (LOCK, place)]).await?;
    if held.is_empty() {
        return Ok(false); // somebody else has deleted it meanwhile
    }
    principals::finish_delete(tx, registry, uid, audit).await?;
    Ok(true)
}

pub(crate) async fn enrolled(
    pool: &Pool,
    registry: &RegistryName,
    enrolment: Option<&str>,
    pending_only: bool,
    after: Option<&PrincipalName>,
    rows_max: usize,
) -> Result<Vec<Known>, StoreError> {
    const OF_ONE: &str = select_known!(
        "(SELECT * FROM principal
          WHERE registry = $1 AND enrolment = $4 AND name > $2 AND (pending OR NOT $5)
          ORDER BY name LIMIT $3) p",
        "p.name, k.ordinal"
    );
    const OF_ANY: &str = select_known!(
        "(SELECT * FROM principal
          WHERE registry = $1 AND enrolment IS NOT NULL AND name > $2 ORDER BY name LIMIT $3) p",
        "p.name, k.ordinal"
    );
    const PENDING: &str = select_known!(
        "(SELECT * FROM principal
          WHERE registry = $1 AND enrolment IS NOT NULL AND pending AND name > $2 ORDER BY name LIMIT $3) p",
        "p.name, k.ordinal"
    );
    // The empty text is before every name.
    let (registry_text, after, rows_max) =
        (registry.as_str(), after.map_or("", PrincipalName::as_str), limit(rows_max));
    let page: Params<'_> = &[&registry_text, &after, &rows_max];
    let rows = match enrolment {
        Some(id) => {
            let params: Params<'_> = &[&registry_text, &after, &rows_max, &id, &pending_only];
            pool.read(Lane::List, OF_ONE, params).await?
        }
        None if pending_only => pool.read(Lane::List, PENDING, page).await?,
        None => pool.read(Lane::List, OF_ANY, page).await?,
    };
    Ok(read_known(registry, &rows)?)
}

fn read(row: &Row) -> Result<Enrolment, Fault> {
    Ok(Enrolment {
        id: value(row, 0)?,
        token_digest: bytes(row, 1)?,
        label: value(row, 2)?,
        names: EnrolmentNames::from_json(text(row, 3)?)?,
        claims_max: small(row, 4)?,
        claims: small(row, 5)?,
        policy: policy_or_null(row, 6)?,
        auto: value(row, 7)?,
        expires_s: number(row, 8)?,
        ended: value(row, 9)?,
        created_s: number(row, 10)?,
    })
}
