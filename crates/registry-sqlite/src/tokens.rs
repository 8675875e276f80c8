//! Opaque access tokens, and the `jti` of revoked signed ones.

use drawbridge_names::{RegistryName, Uid};
use drawbridge_registry::{AddToken, KeptToken, TokenUse};
use rusqlite::{Connection, Row};

use crate::fault::Fault;
use crate::rows::{all, bits, clamped, execute, exists, first, number};
use crate::writer::{SWEEP_MIN, Turn};
use crate::{principals, registries};

pub(crate) fn add(
    turn: &mut Turn<'_>,
    registry: &RegistryName,
    token: &KeptToken,
    live_max: usize,
    now_s: u64,
) -> Result<AddToken, Fault> {
    if !principals::is_there(turn.conn, registry, token.uid)? {
        return Ok(AddToken::Gone);
    }
    let live = first(
        turn.conn,
        "SELECT COUNT(*) FROM token WHERE registry = ?1 AND uid = ?2 AND expires_s > ?3",
        (registry.as_str(), bits(token.uid.0), clamped(now_s)),
        |row| Ok(number(row, 0)?),
    )?;
    if usize::try_from(live.unwrap_or(0)).map_or(true, |live| live >= live_max) {
        return Ok(AddToken::Full);
    }
    keep(turn, registry, token, now_s)?;
    Ok(AddToken::Added)
}

pub(crate) fn one(
    conn: &Connection,
    registry: &RegistryName,
    digest: &[u8; 32],
    now_s: u64,
) -> Result<Option<KeptToken>, Fault> {
    first(
        conn,
        "SELECT digest, uid, family, generation, claims, expires_s, used, renewed FROM token
         WHERE registry = ?1 AND digest = ?2 AND expires_s > ?3",
        (registry.as_str(), digest, clamped(now_s)),
        read,
    )
}

/// Named after the method: `use` is a word of the language.
pub(crate) fn use_token(
    turn: &Turn<'_>,
    registry: &RegistryName,
    digest: &[u8; 32],
    now_s: u64,
) -> Result<TokenUse, Fault> {
    let conn = turn.conn;
    let Some(mut token) = one(conn, registry, digest, now_s)? else { return Ok(TokenUse::Gone) };
    if token.renewed {
        let successor_was_used = exists(
            conn,
            "SELECT 1 FROM token WHERE registry = ?1 AND uid = ?2 AND family = ?3 AND expires_s > ?4
                                   AND generation > ?5 AND used = 1",
            (registry.as_str(), bits(token.uid.0), token.family, clamped(now_s), token.generation),
        )?;
        if successor_was_used {
            forget_family(conn, registry, &token)?;
            return Ok(TokenUse::Stolen);
        }
    }
    if !token.used {
        let sql = "UPDATE token SET used = 1 WHERE registry = ?1 AND digest = ?2";
        execute(conn, sql, (registry.as_str(), digest))?;
        token.used = true;
    }
    Ok(TokenUse::Good(token))
}

pub(crate) fn renew(
    turn: &mut Turn<'_>,
    registry: &RegistryName,
    digest: &[u8; 32],
    successor: &KeptToken,
    old_expires_s: u64,
    now_s: u64,
) -> Result<TokenUse, Fault> {
    let mut token = match use_token(turn, registry, digest, now_s)? {
        TokenUse::Good(token) => token,
        refused => return Ok(refused),
    };
    execute(
        turn.conn,
        "DELETE FROM token WHERE registry = ?1 AND uid = ?2 AND family = ?3 AND generation > ?4",
        (registry.as_str(), bits(token.uid.0), token.family, token.generation),
    )?;
    token.renewed = true;
    token.expires_s = token.expires_s.min(old_expires_s);
    execute(
        turn.conn,
        "UPDATE token SET renewed = 1, expires_s = ?3 WHERE registry = ?1 AND digest = ?2",
        (registry.as_str(), digest, clamped(token.expires_s)),
    )?;
    keep(turn, registry, successor, now_s)?;
    Ok(TokenUse::Good(token))
}

pub(crate) fn end(
    conn: &Connection,
    registry: &RegistryName,
    digest: &[u8; 32],
    now_s: u64,
) -> Result<usize, Fault> {
    let Some(token) = one(conn, registry, digest, now_s)? else { return Ok(0) };
    let good = first(
        conn,
        "SELECT COUNT(*) FROM token WHERE registry = ?1 AND uid = ?2 AND family = ?3 AND expires_s > ?4",
        (registry.as_str(), bits(token.uid.0), token.family, clamped(now_s)),
        |row| Ok(number(row, 0)?),
    )?;
    forget_family(conn, registry, &token)?;
    Ok(usize::try_from(good.unwrap_or(0)).unwrap_or(usize::MAX))
}

pub(crate) fn revoke_jti(
    conn: &Connection,
    registry: &RegistryName,
    jti_digest: [u8; 16],
    until_s: u64,
) -> Result<(), Fault> {
    registries::must_exist(conn, registry)?;
    execute(
        conn,
        "INSERT INTO revoked_jti (registry, jti_digest, until_s) VALUES (?1, ?2, ?3)
         ON CONFLICT (registry, jti_digest) DO UPDATE SET until_s = excluded.until_s
         WHERE excluded.until_s > revoked_jti.until_s",
        (registry.as_str(), jti_digest, clamped(until_s)),
    )?;
    Ok(())
}

pub(crate) fn revoked_jtis(
    conn: &Connection,
    registry: &RegistryName,
    now_s: u64,
) -> Result<Vec<([u8; 16], u64)>, Fault> {
    all(
        conn,
        "SELECT jti_digest, until_s FROM revoked_jti WHERE registry = ?1 AND until_s > ?2 ORDER BY jti_digest",
        (registry.as_str(), clamped(now_s)),
        |row| Ok((row.get(0)?, number(row, 1)?)),
    )
}

/// Takes away some tokens and revoked `jti` whose end is over, of any registry: the oldest first.
pub(crate) fn sweep(turn: &Turn<'_>) -> rusqlite::Result<()> {
    execute(
        turn.conn,
        "DELETE FROM token WHERE (registry, digest) IN
         (SELECT registry, digest FROM token WHERE expires_s <= ?1 ORDER BY expires_s LIMIT ?2)",
        (clamped(turn.now_s), clamped(turn.sweep_max())),
    )?;
    execute(
        turn.conn,
        "DELETE FROM revoked_jti WHERE (registry, jti_digest) IN
         (SELECT registry, jti_digest FROM revoked_jti WHERE until_s <= ?1 ORDER BY until_s LIMIT ?2)",
        (clamped(turn.now_s), clamped(SWEEP_MIN)),
    )?;
    Ok(())
}

fn keep(turn: &mut Turn<'_>, registry: &RegistryName, token: &KeptToken, now_s: u64) -> Result<(), Fault> {
    execute(
        turn.conn,
        "INSERT INTO token (registry, digest, uid, family, generation, claims, expires_s, used, renewed)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        (
            registry.as_str(),
            token.digest,
            bits(token.uid.0),
            token.family,
            token.generation,
            &token.claims,
            clamped(token.expires_s),
            token.used,
            token.renewed,
        ),
    )?;
    turn.count_kept(now_s);
    Ok(())
}

fn forget_family(conn: &Connection, registry: &RegistryName, token: &KeptToken) -> Result<(), Fault> {
    let sql = "DELETE FROM token WHERE registry = ?1 AND uid = ?2 AND family = ?3";
    execute(conn, sql, (registry.as_str(), bits(token.uid.0), token.family))?;
    Ok(())
}

fn read(row: &Row<'_>) -> Result<KeptToken, Fault> {
    Ok(KeptToken {
        digest: row.get(0)?,
        uid: Uid(number(row, 1)?),
        family: row.get(2)?,
        generation: row.get(3)?,
        claims: row.get(4)?,
        expires_s: number(row, 5)?,
        used: row.get(6)?,
        renewed: row.get(7)?,
    })
}
