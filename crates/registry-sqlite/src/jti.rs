//! Replay marks. Those with an end and those that last as long as their key are kept apart: a device
//! may have a few of the first sort and 65,536 of the second, and neither count may pass by the other.

use drawbridge_names::{KeyId, RegistryName, Uid};
use drawbridge_registry::{JtiMark, JtiOutcome, KeyState};
use rusqlite::Connection;

use crate::fault::{Fault, damaged};
use crate::rows::{bits, clamped, execute, first, number, text};
use crate::writer::Turn;

/// Expired marks taken away with a commit: twice as many as were added, so that they never pile up,
/// and few enough that no commit is long.
const SWEEP_MIN: u64 = 16;

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
         SELECT token_digest FROM lasting_jti WHERE registry = ?1 AND uid = ?2 AND jti_digest = ?3",
        (registry, uid, mark.jti_digest, now_s),
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
            "INSERT INTO timed_jti (registry, uid, jti_digest, token_digest, until_s) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (registry, uid, jti_digest)
             DO UPDATE SET token_digest = excluded.token_digest, until_s = excluded.until_s",
            (registry, uid, mark.jti_digest, mark.token_digest, clamped(until_s)),
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
    turn.marks += 1;
    turn.now_s = turn.now_s.max(now_s);
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
    Ok(())
}

/// Takes away some marks whose end is over, of any registry: the oldest first.
pub(crate) fn sweep(turn: &Turn<'_>) -> rusqlite::Result<()> {
    execute(
        turn.conn,
        "DELETE FROM timed_jti WHERE (registry, uid, jti_digest) IN
         (SELECT registry, uid, jti_digest FROM timed_jti WHERE until_s <= ?1 ORDER BY until_s LIMIT ?2)",
        (clamped(turn.now_s), clamped(2 * turn.marks + SWEEP_MIN)),
    )?;
    Ok(())
}
