//! Keys: adding, removing, and the device's own rotation.

use drawbridge_names::{KeyId, RegistryName, Uid};
use drawbridge_registry::{
    AddKey, AuditEntry, ChangeKey, JtiOutcome, Key, KeyChange, KeyRotation, KeyState, RemoveKey, RotateKey,
};
use rusqlite::Connection;

use crate::fault::Fault;
use crate::rows::{KEY_COLUMNS, all, bits, clamped, execute, exists, read_key};
use crate::writer::Turn;
use crate::{audit, jti, principals};

pub(crate) fn add(
    conn: &Connection,
    registry: &RegistryName,
    uid: Uid,
    key: &Key,
    active_max: usize,
    audit: &AuditEntry,
) -> Result<AddKey, Fault> {
    if !principals::is_there(conn, registry, uid)? {
        return Ok(AddKey::NotFound);
    }
    let keys = of(conn, registry, uid)?;
    if let Some(there) = keys.iter().find(|there| there.kid == key.kid) {
        return Ok(AddKey::AlreadyThere(there.clone()));
    }
    if is_taken(conn, registry, &key.kid)? {
        return Ok(AddKey::InUse);
    }
    let active = active(&keys);
    if active >= active_max {
        return Ok(AddKey::TooMany { active });
    }
    insert(conn, registry, uid, key)?;
    principals::count_revision(conn, registry, uid)?;
    audit::append(conn, registry, audit)?;
    Ok(AddKey::Added)
}

pub(crate) fn remove(
    conn: &Connection,
    registry: &RegistryName,
    uid: Uid,
    kid: &KeyId,
    also_last: bool,
    audit: &AuditEntry,
) -> Result<RemoveKey, Fault> {
    let keys = of(conn, registry, uid)?;
    match keys.iter().find(|key| key.kid == *kid).map(|key| key.state) {
        None | Some(KeyState::Retired) => return Ok(RemoveKey::NotFound),
        Some(KeyState::Active) if active(&keys) == 1 && !also_last => return Ok(RemoveKey::LastKey),
        Some(KeyState::Active | KeyState::Grace) => {}
    }
    execute(
        conn,
        "UPDATE principal_key SET state = ?3, lasting_jti = 0 WHERE registry = ?1 AND kid = ?2",
        (registry.as_str(), kid.as_str(), KeyState::Retired.as_str()),
    )?;
    jti::forget_lasting(conn, registry, uid, kid)?;
    principals::count_revision(conn, registry, uid)?;
    audit::append(conn, registry, audit)?;
    Ok(RemoveKey::Removed)
}

/// The order of the questions is part of the promise: see [`RotateKey`].
pub(crate) fn rotate(
    turn: &mut Turn<'_>,
    registry: &RegistryName,
    uid: Uid,
    rotation: KeyRotation,
    now_s: u64,
    audit: &AuditEntry,
) -> Result<RotateKey, Fault> {
    let KeyRotation { old, mut new, old_expires_s, mark, active_max } = rotation;
    let conn = turn.conn;
    if !principals::is_admitted(conn, registry, uid)? {
        return Ok(RotateKey::OldNotActive);
    }
    let jti = jti::judge(conn, registry, uid, &mark, now_s)?;
    if let JtiOutcome::Seen { token_digest } = jti {
        return Ok(RotateKey::Seen { token_digest });
    }
    let keys = of(conn, registry, uid)?;
    if let Some(there) = keys.iter().find(|key| key.kid == new.kid) {
        return Ok(RotateKey::AlreadyThere(there.clone()));
    }
    let Some(old) = keys.iter().find(|key| key.kid == old && key.state == KeyState::Active) else {
        return Ok(RotateKey::OldNotActive);
    };
    if is_taken(conn, registry, &new.kid)? {
        return Ok(RotateKey::InUse);
    }
    let active = active(&keys);
    if active + usize::from(old_expires_s.is_none()) > active_max {
        return Ok(RotateKey::TooMany { active });
    }
    // A key full of lasting marks has room for the one that replaces it: that is the way out.
    if jti == JtiOutcome::Full && mark.until_s.is_some() {
        return Ok(RotateKey::JtiFull);
    }
    if let Some(grace_end_s) = old_expires_s {
        enter_grace(conn, registry, old, grace_end_s)?;
    }
    new.state = KeyState::Active;
    insert(conn, registry, uid, &new)?;
    jti::keep(turn, registry, uid, &mark, now_s)?;
    principals::count_revision(conn, registry, uid)?;
    audit::append(conn, registry, audit)?;
    Ok(RotateKey::Rotated)
}

/// An operator replaces a key: the questions are those of [`rotate`], without a `jti`.
#[expect(clippy::too_many_arguments, reason = "a change and its audit entry")]
pub(crate) fn replace(
    conn: &Connection,
    registry: &RegistryName,
    uid: Uid,
    old: &KeyId,
    mut new: Key,
    old_expires_s: u64,
    active_max: usize,
    audit: &AuditEntry,
) -> Result<RotateKey, Fault> {
    let keys = of(conn, registry, uid)?;
    if let Some(there) = keys.iter().find(|key| key.kid == new.kid) {
        return Ok(RotateKey::AlreadyThere(there.clone()));
    }
    let Some(old) = keys.iter().find(|key| key.kid == *old && key.state == KeyState::Active) else {
        return Ok(RotateKey::OldNotActive);
    };
    if is_taken(conn, registry, &new.kid)? {
        return Ok(RotateKey::InUse);
    }
    let active = active(&keys);
    if active > active_max {
        return Ok(RotateKey::TooMany { active });
    }
    enter_grace(conn, registry, old, old_expires_s)?;
    new.state = KeyState::Active;
    insert(conn, registry, uid, &new)?;
    principals::count_revision(conn, registry, uid)?;
    audit::append(conn, registry, audit)?;
    Ok(RotateKey::Rotated)
}

pub(crate) fn change(
    conn: &Connection,
    registry: &RegistryName,
    uid: Uid,
    kid: &KeyId,
    change: KeyChange,
    audit: &AuditEntry,
) -> Result<ChangeKey, Fault> {
    let is_wanted = |key: &Key| key.kid == *kid && key.state != KeyState::Retired;
    let Some(mut key) = of(conn, registry, uid)?.into_iter().find(is_wanted) else {
        return Ok(ChangeKey::NotFound);
    };
    change.apply_to(&mut key);
    execute(
        conn,
        "UPDATE principal_key SET label = ?3, not_before_s = ?4, expires_s = ?5 WHERE registry = ?1 AND kid = ?2",
        (registry.as_str(), kid.as_str(), &key.label, key.not_before_s.map(bits), key.expires_s.map(bits)),
    )?;
    principals::count_revision(conn, registry, uid)?;
    audit::append(conn, registry, audit)?;
    Ok(ChangeKey::Done(key))
}

pub(crate) fn touch(conn: &Connection, registry: &RegistryName, used: &[(KeyId, u64)]) -> Result<(), Fault> {
    for (kid, used_s) in used {
        execute(
            conn,
            "UPDATE principal_key SET last_used_s = ?3
             WHERE registry = ?1 AND kid = ?2 AND (last_used_s IS NULL OR last_used_s < ?3)",
            (registry.as_str(), kid.as_str(), clamped(*used_s)),
        )?;
    }
    Ok(())
}

fn enter_grace(conn: &Connection, registry: &RegistryName, old: &Key, until_s: u64) -> Result<(), Fault> {
    let mut old = old.clone();
    old.enter_grace(until_s);
    execute(
        conn,
        "UPDATE principal_key SET state = ?3, expires_s = ?4 WHERE registry = ?1 AND kid = ?2",
        (registry.as_str(), old.kid.as_str(), old.state.as_str(), old.expires_s.map(bits)),
    )?;
    Ok(())
}

/// Whether a key is somebody's, or may be nobody's any more.
pub(crate) fn is_taken(conn: &Connection, registry: &RegistryName, kid: &KeyId) -> rusqlite::Result<bool> {
    exists(
        conn,
        "SELECT 1 FROM principal_key WHERE registry = ?1 AND kid = ?2
         UNION ALL SELECT 1 FROM spent_key WHERE registry = ?1 AND kid = ?2",
        (registry.as_str(), kid.as_str()),
    )
}

/// Notes the keys of a principal about to be deleted that may never be registered again.
pub(crate) fn spend_retired(conn: &Connection, registry: &RegistryName, uid: Uid) -> Result<(), Fault> {
    execute(
        conn,
        "INSERT INTO spent_key (registry, kid)
         SELECT registry, kid FROM principal_key WHERE registry = ?1 AND uid = ?2 AND state = ?3",
        (registry.as_str(), bits(uid.0), KeyState::Retired.as_str()),
    )?;
    Ok(())
}

/// Adds a key after the principal's others.
pub(crate) fn insert(conn: &Connection, registry: &RegistryName, uid: Uid, key: &Key) -> Result<(), Fault> {
    execute(
        conn,
        "INSERT INTO principal_key (registry, uid, ordinal, kid, spki_der, algorithm, label, state, not_before_s,
                                    expires_s, added_s, last_used_s, certificate_der)
         VALUES (?1, ?2, (SELECT IFNULL(MAX(ordinal), 0) + 1 FROM principal_key WHERE registry = ?1 AND uid = ?2),
                 ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
        (
            registry.as_str(),
            bits(uid.0),
            key.kid.as_str(),
            &key.spki_der,
            &key.algorithm,
            &key.label,
            key.state.as_str(),
            key.not_before_s.map(bits),
            key.expires_s.map(bits),
            bits(key.added_s),
            key.last_used_s.map(clamped),
            &key.certificate_der,
        ),
    )?;
    Ok(())
}

/// All keys of a principal, in the order they were added.
fn of(conn: &Connection, registry: &RegistryName, uid: Uid) -> Result<Vec<Key>, Fault> {
    let sql =
        format!("SELECT {KEY_COLUMNS} FROM principal_key WHERE registry = ?1 AND uid = ?2 ORDER BY ordinal");
    all(conn, &sql, (registry.as_str(), bits(uid.0)), |row| read_key(row, 0))
}

fn active(keys: &[Key]) -> usize {
    keys.iter().filter(|key| key.state == KeyState::Active).count()
}
