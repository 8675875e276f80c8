//! Replay marks. Those with an end and those that last as long as their key are kept apart: a device
//! may have a few of the first sort and 65,536 of the second, and neither count may pass by the other.

use drawbridge_names::{KeyId, RegistryName, Uid};
use drawbridge_registry::{JtiMark, JtiOutcome, KeyState};
use rusqlite::Connection;

use crate::fault::{Fault, damaged};
use crate::rows::{bits, clamped, execute, first, number, text};
use crate::writer::{SWEEP_MIN, Turn};

pub(crate) fn remember(
    turn: &mut Turn<'_>,
    registry: &RegistryName,
    uid: Uid,
    mark: &JtiMark,
    now_s: u64,
) -> Result<JtiOutcome, Fault> {
    let state = first(
        turn.conn,
        "SELECT state FROM principal_key WHERE registry = ?1 AND kid = ?2 AND uid = ?3",
        (registry.as_str(), mark.kid.as_str(), bits(uid.0)),
        |row| KeyState::from_word(text(row, 0)?).ok_or_else(|| damaged("the state of a key")),
    )?;
    match state {
        None | Some(KeyState::Retired) => return Ok(JtiOutcome::KeyGone),
        Some(KeyState::Active | KeyState::Grace) => {}
    }
    let outcome = judge(turn.conn, registry, uid, mark, now_s)?;
    if outcome == JtiOutcome::Fresh {
        keep(turn, registry, uid, mark, now_s)?;
    }
    Ok(outcome)
}

/// Whether a `jti` could be remembered now: everything but `KeyGone`.
pub(crate) fn judge(
    conn: &Connection,
    registry: &RegistryName,
    uid: Uid,
    mark: &JtiMark,
    now_s: u64,
) -> Result<JtiOutcome, Fault> {
    let (registry, uid, now_s) = (registry.as_str(), bits(uid.0), clamped(now_s));
    let seen = first(
        conn,
        "SELECT token_digest FROM timed_jti WHERE registry = ?1 AND uid = ?2 AND jti_digest = ?3 AND until_s > ?4
         UNION ALL
         SELECT token_digest FROM lasting_jti WHERE registry = ?1 AND uid = ?2 AND jti_digest = ?3
         UNION ALL
         SELECT token_digest FROM left_jti
         WHERE registry = ?1 AND kid = ?5 AND jti_digest = ?3 AND (until_s IS NULL OR until_s > ?4)",
        (registry, uid, mark.jti_digest, now_s, mark.kid.as_str()),
        |row| Ok(row.get::<_, [u8; 16]>(0)?),
    )?;
    if let Some(token_digest) = seen {
        return Ok(JtiOutcome::Seen { token_digest });
    }
    let live = match mark.until_s {
        Some(_) => first(
            conn,
            "SELECT COUNT(*) FROM timed_jti WHERE registry = ?1 AND uid = ?2 AND until_s > ?3",
            (registry, uid, now_s),
            |row| Ok(number(row, 0)?),
        )?,
        None => first(
            conn,
            "SELECT lasting_jti FROM principal_key WHERE registry = ?1 AND kid = ?2 AND uid = ?3",
            (registry, mark.kid.as_str(), uid),
            |row| Ok(number(row, 0)?),
        )?,
    };
    let full = usize::try_from(live.unwrap_or(0)).map_or(true, |live| live >= mark.live_max);
    Ok(if full { JtiOutcome::Full } else { JtiOutcome::Fresh })
}

/// How many marks without an end a key has.
pub(crate) fn lasting(conn: &Connection, registry: &RegistryName, kid: &KeyId) -> Result<u64, Fault> {
    let sql = "SELECT lasting_jti FROM principal_key WHERE registry = ?1 AND kid = ?2";
    let kept = first(conn, sql, (registry.as_str(), kid.as_str()), |row| Ok(number(row, 0)?))?;
    Ok(kept.unwrap_or(0))
}

/// Remembers a mark that [`judge`] found fresh.
pub(crate) fn keep(
    turn: &mut Turn<'_>,
    registry: &RegistryName,
    uid: Uid,
    mark: &JtiMark,
    now_s: u64,
) -> Result<(), Fault> {
    let (registry, uid) = (registry.as_str(), bits(uid.0));
    match mark.until_s {
        // One of the same digest is there if its end is over and it was not swept yet.
        Some(until_s) => execute(
            turn.conn,
            "INSERT INTO timed_jti (registry, uid, jti_digest, token_digest, until_s, kid)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (registry, uid, jti_digest)
             DO UPDATE SET token_digest = excluded.token_digest, until_s = excluded.until_s, kid = excluded.kid",
            (registry, uid, mark.jti_digest, mark.token_digest, clamped(until_s), mark.kid.as_str()),
        )?,
        None => {
            execute(
                turn.conn,
                "INSERT INTO lasting_jti (registry, uid, jti_digest, token_digest, kid)
                 VALUES (?1, ?2, ?3, ?4, ?5)",
                (registry, uid, mark.jti_digest, mark.token_digest, mark.kid.as_str()),
            )?;
            execute(
                turn.conn,
                "UPDATE principal_key SET lasting_jti = lasting_jti + 1 WHERE registry = ?1 AND kid = ?2",
                (registry, mark.kid.as_str()),
            )?
        }
    };
    turn.count_kept(now_s);
    Ok(())
}

/// Forgets the marks of a key that is retired.
pub(crate) fn forget_lasting(
    conn: &Connection,
    registry: &RegistryName,
    uid: Uid,
    kid: &KeyId,
) -> Result<(), Fault> {
    execute(
        conn,
        "DELETE FROM lasting_jti WHERE registry = ?1 AND uid = ?2 AND kid = ?3",
        (registry.as_str(), bits(uid.0), kid.as_str()),
    )?;
    // It can never be registered again, so nobody will be asked for these either.
    let sql = "DELETE FROM left_jti WHERE registry = ?1 AND kid = ?2";
    execute(conn, sql, (registry.as_str(), kid.as_str()))?;
    Ok(())
}

/// Keeps the marks of a principal that is about to be deleted, by key; not those of retired keys, which
/// never come back. Of two with one digest the one that lasts longer stays.
pub(crate) fn leave(conn: &Connection, registry: &RegistryName, uid: Uid) -> Result<(), Fault> {
    execute(
        conn,
        "INSERT INTO left_jti (registry, kid, jti_digest, token_digest, until_s)
         SELECT m.registry, m.kid, m.jti_digest, m.token_digest, m.until_s
         FROM (SELECT registry, uid, kid, jti_digest, token_digest, until_s FROM timed_jti
               WHERE registry = ?1 AND uid = ?2
               UNION ALL
               SELECT registry, uid, kid, jti_digest, token_digest, NULL FROM lasting_jti
               WHERE registry = ?1 AND uid = ?2) m
         JOIN principal_key k ON k.registry = m.registry AND k.kid = m.kid
         WHERE k.state <> ?3
         ON CONFLICT (registry, kid, jti_digest)
         DO UPDATE SET token_digest = excluded.token_digest, until_s = excluded.until_s
         WHERE left_jti.until_s IS NOT NULL
           AND (excluded.until_s IS NULL OR excluded.until_s > left_jti.until_s)",
        (registry.as_str(), bits(uid.0), KeyState::Retired.as_str()),
    )?;
    Ok(())
}

/// Takes away some marks whose end is over, of any registry: the oldest first.
pub(crate) fn sweep(turn: &Turn<'_>) -> rusqlite::Result<()> {
    let limit = clamped(turn.sweep_max());
    execute(
        turn.conn,
        "DELETE FROM timed_jti WHERE (registry, uid, jti_digest) IN
         (SELECT registry, uid, jti_digest FROM timed_jti WHERE until_s <= ?1 ORDER BY until_s LIMIT ?2)",
        (clamped(turn.now_s), limit),
    )?;
    execute(
        turn.conn,
        "DELETE FROM left_jti WHERE (registry, kid, jti_digest) IN
         (SELECT registry, kid, jti_digest FROM left_jti WHERE until_s <= ?1 ORDER BY until_s LIMIT ?2)",
        (clamped(turn.now_s), clamped(SWEEP_MIN)),
    )?;
    Ok(())
}
