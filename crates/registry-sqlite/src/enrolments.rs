//! Enrolments: devices that register themselves.

use drawbridge_names::{PrincipalName, RegistryName, Uid};
use drawbridge_registry::{AuditEntry, Enrol, Enrolment, EnrolmentNames, Key, Known, Principal};
use rusqlite::{Connection, Row};

use crate::fault::Fault;
use crate::rows::{all, bits, execute, first, limit, number, policy_or_null, read_known, select_known, text};
use crate::{audit, principals, registries};

const COLUMNS: &str = "id, token_digest, label, names, claims_max, claims, policy, auto, expires_s, ended, \
                       created_s";

pub(crate) fn add(
    conn: &Connection,
    registry: &RegistryName,
    enrolment: &Enrolment,
    audit: &AuditEntry,
) -> Result<(), Fault> {
    registries::must_exist(conn, registry)?;
    execute(
        conn,
        "INSERT INTO enrolment (registry, id, token_digest, label, names, claims_max, claims, policy, auto,
                                expires_s, ended, created_s)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
        (
            registry.as_str(),
            &enrolment.id,
            enrolment.token_digest,
            &enrolment.label,
            enrolment.names.to_json(),
            enrolment.claims_max,
            enrolment.claims,
            enrolment.policy.as_ref().map(|policy| policy.as_str()),
            enrolment.auto,
            bits(enrolment.expires_s),
            enrolment.ended,
            bits(enrolment.created_s),
        ),
    )?;
    audit::append(conn, registry, audit)
}

pub(crate) fn by_token(
    conn: &Connection,
    registry: &RegistryName,
    token_digest: &[u8; 32],
) -> Result<Option<Enrolment>, Fault> {
    let sql = format!("SELECT {COLUMNS} FROM enrolment WHERE registry = ?1 AND token_digest = ?2");
    first(conn, &sql, (registry.as_str(), token_digest), read)
}

pub(crate) fn list(conn: &Connection, registry: &RegistryName) -> Result<Vec<Enrolment>, Fault> {
    let sql = format!("SELECT {COLUMNS} FROM enrolment WHERE registry = ?1 ORDER BY created_s DESC, id");
    all(conn, &sql, [registry.as_str()], read)
}

pub(crate) fn end(
    conn: &Connection,
    registry: &RegistryName,
    id: &str,
    audit: &AuditEntry,
) -> Result<bool, Fault> {
    let sql = "UPDATE enrolment SET ended = 1 WHERE registry = ?1 AND id = ?2 AND ended = 0";
    if execute(conn, sql, (registry.as_str(), id))? == 0 {
        return Ok(false);
    }
    audit::append(conn, registry, audit)?;
    Ok(true)
}

/// The order of the questions is part of the promise: see [`drawbridge_registry::Store::enrol`].
pub(crate) fn enrol(
    conn: &Connection,
    registry: &RegistryName,
    id: &str,
    principal: Principal,
    given: &[Key],
    now_s: u64,
    audit: &AuditEntry,
) -> Result<Enrol, Fault> {
    let sql = format!("SELECT {COLUMNS} FROM enrolment WHERE registry = ?1 AND id = ?2");
    let enrolment = match first(conn, &sql, (registry.as_str(), id), read)? {
        Some(enrolment) if !enrolment.ended && enrolment.expires_s > now_s => enrolment,
        _ => return Ok(Enrol::Ended),
    };
    let principal = Principal { registry: registry.clone(), enrolment: Some(id.to_owned()), ..principal };
    if let Some(refused) = principals::refusal(conn, &principal, given)? {
        return Ok(Enrol::Refused(refused));
    }
    if enrolment.claims >= enrolment.claims_max {
        return Ok(Enrol::Spent);
    }
    let sql = "UPDATE enrolment SET claims = claims + 1 WHERE registry = ?1 AND id = ?2";
    execute(conn, sql, (registry.as_str(), id))?;
    principals::insert(conn, &principal, given)?;
    audit::append(conn, registry, audit)?;
    Ok(Enrol::Enrolled)
}

pub(crate) fn undo(
    conn: &Connection,
    registry: &RegistryName,
    uid: Uid,
    audit: &AuditEntry,
) -> Result<bool, Fault> {
    let id = first(
        conn,
        "SELECT enrolment FROM principal WHERE registry = ?1 AND uid = ?2",
        (registry.as_str(), bits(uid.0)),
        |row| Ok(row.get::<_, Option<String>>(0)?),
    )?;
    let Some(id) = id.flatten() else { return Ok(false) };
    let sql = "UPDATE enrolment SET claims = MAX(claims - 1, 0) WHERE registry = ?1 AND id = ?2";
    execute(conn, sql, (registry.as_str(), id))?;
    principals::delete(conn, registry, uid, audit)
}

pub(crate) fn enrolled(
    conn: &Connection,
    registry: &RegistryName,
    enrolment: Option<&str>,
    pending_only: bool,
    after: Option<&PrincipalName>,
    rows_max: usize,
) -> Result<Vec<Known>, Fault> {
    const OF_ONE: &str = select_known!(
        "(SELECT * FROM principal INDEXED BY principal_enrolment
          WHERE registry = ?1 AND enrolment = ?4 AND name > ?2 AND (pending = 1 OR NOT ?5)
          ORDER BY name LIMIT ?3) p",
        "p.name, k.ordinal"
    );
    const OF_ANY: &str = select_known!(
        "(SELECT * FROM principal INDEXED BY principal_enrolled
          WHERE registry = ?1 AND enrolment IS NOT NULL AND name > ?2 ORDER BY name LIMIT ?3) p",
        "p.name, k.ordinal"
    );
    const PENDING: &str = select_known!(
        "(SELECT * FROM principal INDEXED BY principal_pending
          WHERE registry = ?1 AND enrolment IS NOT NULL AND pending = 1 AND name > ?2 ORDER BY name LIMIT ?3) p",
        "p.name, k.ordinal"
    );
    // The empty text is before every name.
    let page = (registry.as_str(), after.map_or("", PrincipalName::as_str), limit(rows_max));
    let sql = match enrolment {
        Some(_) => OF_ONE,
        None if pending_only => PENDING,
        None => OF_ANY,
    };
    let mut statement = conn.prepare_cached(sql)?;
    let rows = match enrolment {
        Some(id) => statement.query((page.0, page.1, page.2, id, pending_only))?,
        None => statement.query(page)?,
    };
    read_known(registry, rows)
}

fn read(row: &Row<'_>) -> Result<Enrolment, Fault> {
    Ok(Enrolment {
        id: row.get(0)?,
        token_digest: row.get(1)?,
        label: row.get(2)?,
        names: EnrolmentNames::from_json(text(row, 3)?)?,
        claims_max: row.get(4)?,
        claims: row.get(5)?,
        policy: policy_or_null(row, 6)?,
        auto: row.get(7)?,
        expires_s: number(row, 8)?,
        ended: row.get(9)?,
        created_s: number(row, 10)?,
    })
}
