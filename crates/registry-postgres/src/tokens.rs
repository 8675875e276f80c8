//! Opaque access tokens, and the `jti` of revoked signed ones. Whoever changes a token holds its
//! principal, so the steps of a family of tokens follow each other.

use drawbridge_names::{RegistryName, Uid};
use drawbridge_registry::{AddToken, KeptToken, StoreError, TokenUse};
use tokio_postgres::Row;

use crate::connection::Params;
use crate::fault::{Fault, damaged};
use crate::pool::{Lane, Pool};
use crate::principals::LOCK;
use crate::registries;
use crate::rows::{bits, bytes, clamped, number, small, value};
use crate::transaction::Tx;

/// A token that is good, and whether a later one of its family was used.
const ONE: &str = "
    SELECT t.digest, t.uid, t.family, t.generation, t.claims, t.expires_s, t.used, t.renewed,
           t.renewed AND EXISTS (
               SELECT 1 FROM token o
               WHERE o.registry = t.registry AND o.uid = t.uid AND o.family = t.family AND o.expires_s > $3
                 AND o.generation > t.generation AND o.used)
    FROM token t WHERE t.registry = $1 AND t.digest = $2 AND t.expires_s > $3";

/// Holds the principal of a token.
const HOLD: &str = "
    SELECT 1 FROM principal p
    WHERE p.registry = $1 AND p.uid = (SELECT t.uid FROM token t WHERE t.registry = $1 AND t.digest = $2)
    FOR UPDATE";

const INSERT: &str = "
    INSERT INTO token (registry, digest, uid, family, generation, claims, expires_s, used, renewed)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";

const FORGET_FAMILY: &str = "DELETE FROM token WHERE registry = $1 AND uid = $2 AND family = $3";

pub(crate) async fn add(
    tx: &mut Tx<'_>,
    registry: &RegistryName,
    token: &KeptToken,
    live_max: usize,
    now_s: u64,
) -> Result<AddToken, Fault> {
    let live = "SELECT count(*) FROM token WHERE registry = $1 AND uid = $2 AND expires_s > $3";
    let (registry, uid) = (registry.as_str(), bits(token.uid.0));
    let [held, live] =
        tx.ask([(LOCK, &[&registry, &uid]), (live, &[&registry, &uid, &clamped(now_s)])]).await?;
    if held.is_empty() {
        return Ok(AddToken::Gone);
    }
    let live = number(live.first().ok_or_else(|| damaged("a count of tokens"))?, 0)?;
    if usize::try_from(live).map_or(true, |live| live >= live_max) {
        return Ok(AddToken::Full);
    }
    let row = NewToken::new(registry, token);
    tx.commit([(INSERT, &row.params())]).await?;
    Ok(AddToken::Added)
}

pub(crate) async fn one(
    pool: &Pool,
    registry: &RegistryName,
    digest: &[u8; 32],
    now_s: u64,
) -> Result<Option<KeptToken>, StoreError> {
    let rows =
        pool.read(Lane::Lookup, ONE, &[&registry.as_str(), &digest.as_slice(), &clamped(now_s)]).await?;
    Ok(rows.first().map(read).transpose()?)
}

/// The answer to most uses, for which nothing must be written: unknown, or good and used before.
pub(crate) async fn used_before(
    pool: &Pool,
    registry: &RegistryName,
    digest: &[u8; 32],
    now_s: u64,
) -> Result<Option<TokenUse>, StoreError> {
    let rows =
        pool.read(Lane::Lookup, ONE, &[&registry.as_str(), &digest.as_slice(), &clamped(now_s)]).await?;
    let Some(row) = rows.first() else { return Ok(Some(TokenUse::Gone)) };
    let (token, successor_was_used) = (read(row)?, value::<bool>(row, 8)?);
    Ok((token.used && !successor_was_used).then_some(TokenUse::Good(token)))
}

/// Named after the method: `use` is a word of the language.
pub(crate) async fn use_token(
    tx: &mut Tx<'_>,
    registry: &RegistryName,
    digest: &[u8; 32],
    now_s: u64,
) -> Result<TokenUse, Fault> {
    let Some((mut token, successor_was_used)) = hold(tx, registry, digest, now_s).await? else {
        return Ok(TokenUse::Gone);
    };
    if successor_was_used {
        return forget_family(tx, registry, &token).await;
    }
    if !token.used {
        let update = "UPDATE token SET used = TRUE WHERE registry = $1 AND digest = $2";
        tx.commit([(update, &[&registry.as_str(), &digest.as_slice()])]).await?;
        token.used = true;
    }
    Ok(TokenUse::Good(token))
}

pub(crate) async fn renew(
    tx: &mut Tx<'_>,
    registry: &RegistryName,
    digest: &[u8; 32],
    successor: &KeptToken,
    old_expires_s: u64,
    now_s: u64,
) -> Result<TokenUse, Fault> {
    let Some((mut token, successor_was_used)) = hold(tx, registry, digest, now_s).await? else {
        return Ok(TokenUse::Gone);
    };
    if successor_was_used {
        return forget_family(tx, registry, &token).await;
    }
    token.used = true;
    token.renewed = true;
    token.expires_s = token.expires_s.min(old_expires_s);
    let forget = "
        DELETE FROM token WHERE registry = $1 AND uid = $2 AND family = $3 AND generation > $4";
    let update = "
        UPDATE token SET used = TRUE, renewed = TRUE, expires_s = $3 WHERE registry = $1 AND digest = $2";
    let registry = registry.as_str();
    let forget_params: Params<'_> =
        &[&registry, &bits(token.uid.0), &token.family.as_slice(), &i64::from(token.generation)];
    let update_params: Params<'_> = &[&registry, &digest.as_slice(), &clamped(token.expires_s)];
    let row = NewToken::new(registry, successor);
    tx.commit([(forget, forget_params), (update, update_params), (INSERT, &row.params())]).await?;
    Ok(TokenUse::Good(token))
}

pub(crate) async fn end(
    tx: &mut Tx<'_>,
    registry: &RegistryName,
    digest: &[u8; 32],
    now_s: u64,
) -> Result<usize, Fault> {
    let Some((token, _)) = hold(tx, registry, digest, now_s).await? else { return Ok(0) };
    let forget = "
        WITH gone AS (DELETE FROM token WHERE registry = $1 AND uid = $2 AND family = $3 RETURNING expires_s)
        SELECT count(*) FROM gone WHERE expires_s > $4";
    let params: Params<'_> =
        &[&registry.as_str(), &bits(token.uid.0), &token.family.as_slice(), &clamped(now_s)];
    let [good] = tx.commit([(forget, params)]).await?;
    let good = number(good.first().ok_or_else(|| damaged("a count of tokens"))?, 0)?;
    Ok(usize::try_from(good).unwrap_or(usize::MAX))
}

pub(crate) async fn revoke_jti(
    tx: &mut Tx<'_>,
    registry: &RegistryName,
    jti_digest: &[u8; 16],
    until_s: u64,
) -> Result<(), Fault> {
    let upsert = "
        INSERT INTO revoked_jti (registry, jti_digest, until_s)
        SELECT registry, $2, $3 FROM registry WHERE registry = $1
        ON CONFLICT (registry, jti_digest) DO UPDATE SET until_s = excluded.until_s
        WHERE excluded.until_s > revoked_jti.until_s";
    let registry_text = registry.as_str();
    let params: Params<'_> = &[&registry_text, &jti_digest.as_slice(), &clamped(until_s)];
    let [exists, _] = tx.commit([(registries::EXISTS, &[&registry_text]), (upsert, params)]).await?;
    registries::must_exist(&exists, registry)
}

pub(crate) async fn revoked_jtis(
    pool: &Pool,
    registry: &RegistryName,
    now_s: u64,
) -> Result<Vec<([u8; 16], u64)>, StoreError> {
    let sql = "
        SELECT jti_digest, until_s FROM revoked_jti WHERE registry = $1 AND until_s > $2 ORDER BY jti_digest";
    let rows = pool.read(Lane::List, sql, &[&registry.as_str(), &clamped(now_s)]).await?;
    let read = |row: &Row| -> Result<_, Fault> { Ok((bytes(row, 0)?, number(row, 1)?)) };
    rows.iter().map(|row| Ok(read(row)?)).collect()
}

/// Holds a token's principal and reads the token as it is then.
async fn hold(
    tx: &mut Tx<'_>,
    registry: &RegistryName,
    digest: &[u8; 32],
    now_s: u64,
) -> Result<Option<(KeptToken, bool)>, Fault> {
    let (registry, digest) = (registry.as_str(), digest.as_slice());
    let [_, found] =
        tx.ask([(HOLD, &[&registry, &digest]), (ONE, &[&registry, &digest, &clamped(now_s)])]).await?;
    found.first().map(|row| Ok((read(row)?, value(row, 8)?))).transpose()
}

async fn forget_family(
    tx: &mut Tx<'_>,
    registry: &RegistryName,
    token: &KeptToken,
) -> Result<TokenUse, Fault> {
    let params: Params<'_> = &[&registry.as_str(), &bits(token.uid.0), &token.family.as_slice()];
    tx.commit([(FORGET_FAMILY, params)]).await?;
    Ok(TokenUse::Stolen)
}

/// The values of a row to be written.
struct NewToken<'a> {
    registry: &'a str,
    digest: &'a [u8],
    uid: i64,
    family: &'a [u8],
    generation: i64,
    expires_s: i64,
    token: &'a KeptToken,
}

impl<'a> NewToken<'a> {
    fn new(registry: &'a str, token: &'a KeptToken) -> Self {
        Self {
            registry,
            digest: &token.digest,
            uid: bits(token.uid.0),
            family: &token.family,
            generation: i64::from(token.generation),
            expires_s: clamped(token.expires_s),
            token,
        }
    }

    fn params(&self) -> [&(dyn tokio_postgres::types::ToSql + Sync); 9] {
        [
            &self.registry,
            &self.digest,
            &self.uid,
            &self.family,
            &self.generation,
            &self.token.claims,
            &self.expires_s,
            &self.token.used,
            &self.token.renewed,
        ]
    }
}

fn read(row: &Row) -> Result<KeptToken, Fault> {
    Ok(KeptToken {
        digest: bytes(row, 0)?,
        uid: Uid(number(row, 1)?),
        family: bytes(row, 2)?,
        generation: small(row, 3)?,
        claims: value(row, 4)?,
        expires_s: number(row, 5)?,
        used: value(row, 6)?,
        renewed: value(row, 7)?,
    })
}
