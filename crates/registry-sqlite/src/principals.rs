//! Principals: registering, reading, changing, deleting.

use drawbridge_names::{KeyId, PrincipalKind, PrincipalName, RegistryName, Uid};
use drawbridge_registry::{AddPrincipal, AuditEntry, Changed, Key, Known, Principal, PrincipalChange};
use rusqlite::{Connection, params};

use crate::fault::Fault;
use crate::rows::{
    attributes_json, bits, execute, exists, first, kind, limit, number, principal_name, read_known,
    select_known, text,
};
use crate::{audit, jti, keys, registries};

pub(crate) fn add(
    conn: &Connection,
    principal: &Principal,
    given: &[Key],
    audit: &AuditEntry,
) -> Result<AddPrincipal, Fault> {
    registries::must_exist(conn, &principal.registry)?;
    if let Some(refused) = refusal(conn, principal, given)? {
        return Ok(refused);
    }
    insert(conn, principal, given)?;
    audit::append(conn, &principal.registry, audit)?;
    Ok(AddPrincipal::Added)
}

pub(crate) fn import(
    conn: &Connection,
    registry: &RegistryName,
    batch: Vec<(Principal, Vec<Key>)>,
    audit: &AuditEntry,
) -> Result<Vec<AddPrincipal>, Fault> {
    registries::must_exist(conn, registry)?;
    let mut answers = Vec::with_capacity(batch.len());
    for (principal, given) in batch {
        let principal = Principal { registry: registry.clone(), ..principal };
        answers.push(match refusal(conn, &principal, &given)? {
            Some(refused) => refused,
            None => {
                insert(conn, &principal, &given)?;
                AddPrincipal::Added
            }
        });
    }
    if answers.contains(&AddPrincipal::Added) {
        audit::append(conn, registry, audit)?;
    }
    Ok(answers)
}

/// Why a principal cannot be registered, if it cannot.
pub(crate) fn refusal(
    conn: &Connection,
    principal: &Principal,
    given: &[Key],
) -> Result<Option<AddPrincipal>, Fault> {
    let registry = &principal.registry;
    let there = first(
        conn,
        "SELECT kind FROM principal WHERE registry = ?1 AND name = ?2",
        (registry.as_str(), principal.name.as_str()),
        |row| kind(text(row, 0)?),
    )?;
    if let Some(kind) = there {
        return Ok(Some(AddPrincipal::NameTaken(kind)));
    }
    let spent = exists(
        conn,
        "SELECT 1 FROM principal WHERE registry = ?1 AND uid = ?2
         UNION ALL SELECT 1 FROM spent_uid WHERE registry = ?1 AND uid = ?2",
        (registry.as_str(), bits(principal.uid.0)),
    )?;
    if spent {
        return Ok(Some(AddPrincipal::UidTaken));
    }
    for (at, key) in given.iter().enumerate() {
        let twice = given[..at].iter().any(|earlier| earlier.kid == key.kid);
        if twice || keys::is_taken(conn, registry, &key.kid)? {
            return Ok(Some(AddPrincipal::KeyInUse(key.kid.clone())));
        }
    }
    Ok(None)
}

/// Writes a principal that [`refusal`] lets through.
pub(crate) fn insert(conn: &Connection, principal: &Principal, given: &[Key]) -> Result<(), Fault> {
    let registry = &principal.registry;
    execute(
        conn,
        "INSERT INTO principal (registry, name, uid, kind, blocked, pending, epoch, not_before_s,
                                legacy_assertions, policy, attributes, password, settings, enrolment,
                                registration, created_s, revision)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)",
        params![
            registry.as_str(),
            principal.name.as_str(),
            bits(principal.uid.0),
            principal.kind.as_str(),
            principal.blocked,
            principal.pending,
            bits(principal.epoch.0),
            bits(principal.not_before_s),
            principal.legacy_assertions,
            principal.policy.as_ref().map(|policy| policy.as_str()),
            attributes_json(&principal.attributes),
            &principal.password,
            principal.settings.to_json(),
            &principal.enrolment,
            &principal.registration,
            bits(principal.created_s),
            bits(principal.revision),
        ],
    )?;
    for key in given {
        keys::insert(conn, registry, principal.uid, key)?;
    }
    Ok(())
}

pub(crate) fn known(
    conn: &Connection,
    registry: &RegistryName,
    name: &PrincipalName,
) -> Result<Option<Known>, Fault> {
    const SQL: &str =
        select_known!("(SELECT * FROM principal WHERE registry = ?1 AND name = ?2) p", "k.ordinal");
    let mut statement = conn.prepare_cached(SQL)?;
    let rows = statement.query((registry.as_str(), name.as_str()))?;
    Ok(read_known(registry, rows)?.pop())
}

pub(crate) fn known_by_uid(
    conn: &Connection,
    registry: &RegistryName,
    uid: Uid,
) -> Result<Option<Known>, Fault> {
    const SQL: &str =
        select_known!("(SELECT * FROM principal WHERE registry = ?1 AND uid = ?2) p", "k.ordinal");
    let mut statement = conn.prepare_cached(SQL)?;
    let rows = statement.query((registry.as_str(), bits(uid.0)))?;
    Ok(read_known(registry, rows)?.pop())
}

pub(crate) fn owner_of_key(
    conn: &Connection,
    registry: &RegistryName,
    kid: &KeyId,
) -> Result<Option<(Uid, PrincipalName)>, Fault> {
    first(
        conn,
        "SELECT p.uid, p.name FROM principal_key k JOIN principal p ON p.registry = k.registry AND p.uid = k.uid
         WHERE k.registry = ?1 AND k.kid = ?2",
        (registry.as_str(), kid.as_str()),
        |row| Ok((Uid(number(row, 0)?), principal_name(row, 1)?)),
    )
}

pub(crate) fn list(
    conn: &Connection,
    registry: &RegistryName,
    kind: Option<PrincipalKind>,
    after: Option<&PrincipalName>,
    rows_max: usize,
) -> Result<Vec<Known>, Fault> {
    const ANY: &str = select_known!(
        "(SELECT * FROM principal WHERE registry = ?1 AND name > ?2 ORDER BY name LIMIT ?3) p",
        "p.name, k.ordinal"
    );
    const OF_KIND: &str = select_known!(
        "(SELECT * FROM principal WHERE registry = ?1 AND kind = ?4 AND name > ?2 ORDER BY name LIMIT ?3) p",
        "p.name, k.ordinal"
    );
    // The empty text is before every name.
    let (registry_text, after) = (registry.as_str(), after.map_or("", PrincipalName::as_str));
    let mut statement = conn.prepare_cached(if kind.is_some() { OF_KIND } else { ANY })?;
    let rows = match kind {
        None => statement.query((registry_text, after, limit(rows_max)))?,
        Some(kind) => statement.query((registry_text, after, limit(rows_max), kind.as_str()))?,
    };
    read_known(registry, rows)
}

pub(crate) fn not_admitted(conn: &Connection, registry: &RegistryName) -> Result<Vec<Uid>, Fault> {
    let mut statement =
        conn.prepare_cached("SELECT uid FROM principal WHERE registry = ?1 AND (blocked OR pending)")?;
    let rows =
        statement.query_map([registry.as_str()], |row| Ok(Uid(row.get::<_, i64>(0)?.cast_unsigned())))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub(crate) fn change(
    conn: &Connection,
    registry: &RegistryName,
    uid: Uid,
    change: PrincipalChange,
    revision: Option<u64>,
    audit: &AuditEntry,
) -> Result<Changed, Fault> {
    let Some(Known { mut principal, .. }) = known_by_uid(conn, registry, uid)? else {
        return Ok(Changed::NotFound);
    };
    if revision.is_some_and(|asked| asked != principal.revision) {
        return Ok(Changed::Stale { revision: principal.revision });
    }
    change.apply_to(&mut principal);
    execute(
        conn,
        "UPDATE principal SET blocked = ?3, epoch = ?4, not_before_s = ?5, legacy_assertions = ?6, policy = ?7,
                              attributes = ?8, password = ?9, revision = ?10, pending = ?11, settings = ?12,
                              registration = ?13
         WHERE registry = ?1 AND uid = ?2",
        (
            registry.as_str(),
            bits(uid.0),
            principal.blocked,
            bits(principal.epoch.0),
            bits(principal.not_before_s),
            principal.legacy_assertions,
            principal.policy.as_ref().map(|policy| policy.as_str()),
            attributes_json(&principal.attributes),
            &principal.password,
            bits(principal.revision),
            principal.pending,
            principal.settings.to_json(),
            &principal.registration,
        ),
    )?;
    audit::append(conn, registry, audit)?;
    Ok(Changed::Done(principal))
}

/// All that is the principal's own goes with its row (`ON DELETE CASCADE`); what must outlive it is
/// written down elsewhere before.
pub(crate) fn delete(
    conn: &Connection,
    registry: &RegistryName,
    uid: Uid,
    audit: &AuditEntry,
) -> Result<bool, Fault> {
    let place = (registry.as_str(), bits(uid.0));
    jti::leave(conn, registry, uid)?;
    keys::spend_retired(conn, registry, uid)?;
    if execute(conn, "DELETE FROM principal WHERE registry = ?1 AND uid = ?2", place)? == 0 {
        return Ok(false);
    }
    execute(conn, "INSERT INTO spent_uid (registry, uid) VALUES (?1, ?2)", place)?;
    audit::append(conn, registry, audit)?;
    Ok(true)
}

/// Counts a change of the principal's keys.
pub(crate) fn count_revision(conn: &Connection, registry: &RegistryName, uid: Uid) -> Result<(), Fault> {
    execute(
        conn,
        "UPDATE principal SET revision = revision + 1 WHERE registry = ?1 AND uid = ?2",
        (registry.as_str(), bits(uid.0)),
    )?;
    Ok(())
}

/// Whether it is there, not blocked, and not waiting for approval.
pub(crate) fn is_admitted(conn: &Connection, registry: &RegistryName, uid: Uid) -> rusqlite::Result<bool> {
    let sql = "SELECT 1 FROM principal WHERE registry = ?1 AND uid = ?2 AND NOT blocked AND NOT pending";
    exists(conn, sql, (registry.as_str(), bits(uid.0)))
}

pub(crate) fn is_there(conn: &Connection, registry: &RegistryName, uid: Uid) -> rusqlite::Result<bool> {
    let sql = "SELECT 1 FROM principal WHERE registry = ?1 AND uid = ?2";
    exists(conn, sql, (registry.as_str(), bits(uid.0)))
}
