//! The audit's rows: written in the transaction of the change they tell of.

use std::borrow::Cow;

use drawbridge_names::RegistryName;
use drawbridge_registry::audit::{CHAIN_START, chain_hash};
use drawbridge_registry::{AuditEntry, AuditHead, AuditRow, StoreError};
use tokio_postgres::Row;

use crate::connection::{Ask, Params};
use crate::fault::Fault;
use crate::pool::{Lane, Pool};
use crate::rows::{bits, bytes, clamped, limit, number, value};
use crate::transaction::Tx;

/// Holds the end of a chain until the transaction ends. It is the last row that any change holds, so
/// those who wait for it hold nothing that its owner could wait for.
const HEAD: &str = "SELECT seq, hash FROM audit_head WHERE registry = $1 AND writer = $2 FOR UPDATE";

const BEGIN_CHAIN: &str = "
    INSERT INTO audit_head (registry, writer, seq, hash) VALUES ($1, $2, 0, $3) ON CONFLICT DO NOTHING";

const APPEND: &str = "
    WITH appended AS (
        INSERT INTO audit (registry, writer, seq, prev, hash, at_ms, actor, action, subject, detail)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
    )
    UPDATE audit_head SET seq = $3, hash = $5 WHERE registry = $1 AND writer = $2";

/// Sends the last statements of a change; if `judge` likes their answers, appends the audit row and
/// commits. Two round trips.
pub(crate) async fn finish(
    tx: &mut Tx<'_>,
    registry: &RegistryName,
    asks: &[Ask<'_>],
    judge: impl FnOnce(&[Vec<Row>]) -> Result<(), Fault>,
    entry: &AuditEntry,
) -> Result<(), Fault> {
    let writer = tx.writer().to_owned();
    let head: Ask<'_> = (HEAD, &[&registry.as_str(), &writer]);
    let mut all = asks.to_vec();
    all.push(head);
    let mut answers = tx.ask_each(&all).await?;
    let mut found = answers.pop().expect("the end of the chain was asked for");
    judge(&answers)?;
    if found.is_empty() {
        let begin: Ask<'_> = (BEGIN_CHAIN, &[&registry.as_str(), &writer, &CHAIN_START.as_slice()]);
        [_, found] = tx.ask([begin, head]).await?;
    }
    let last = found.first().ok_or_else(|| StoreError::Corrupt("the audit has no end".into()))?;
    let (seq, prev) = (number(last, 0)? + 1, bytes::<32>(last, 1)?);
    let entry = storable(entry);
    let hash = chain_hash(&prev, registry.as_str(), &writer, seq, &entry);
    tx.commit([(
        APPEND,
        &[
            &registry.as_str(),
            &writer,
            &bits(seq),
            &prev.as_slice(),
            &hash.as_slice(),
            &bits(entry.at_ms),
            &entry.actor,
            &entry.action,
            &entry.subject,
            &entry.detail,
        ],
    )])
    .await?;
    Ok(())
}

/// No text of PostgreSQL holds a NUL; in the audit, whose texts tell what others sent, a sign stands for
/// it, so that nobody can keep a row out of it.
fn storable(entry: &AuditEntry) -> Cow<'_, AuditEntry> {
    let AuditEntry { at_ms, actor, action, subject, detail } = entry;
    if ![actor, action, subject, detail].iter().any(|text| text.contains('\0')) {
        return Cow::Borrowed(entry);
    }
    let shown = |text: &str| text.replace('\0', "\u{fffd}");
    Cow::Owned(AuditEntry {
        at_ms: *at_ms,
        actor: shown(actor),
        action: shown(action),
        subject: shown(subject),
        detail: shown(detail),
    })
}

pub(crate) async fn tail(
    pool: &Pool,
    registry: &RegistryName,
    before: Option<u64>,
    rows_max: usize,
) -> Result<Vec<AuditRow>, StoreError> {
    let sql = "
        SELECT seq, prev, hash, at_ms, actor, action, subject, detail FROM audit
        WHERE registry = $1 AND writer = $2 AND seq < $3 ORDER BY seq DESC LIMIT $4";
    let before = clamped(before.unwrap_or(u64::MAX));
    let writer = pool.writer();
    let rows = pool.read(Lane::List, sql, &[&registry.as_str(), &writer, &before, &limit(rows_max)]).await?;
    rows.iter().map(|row| Ok(read(registry, writer, row)?)).collect()
}

pub(crate) async fn rows(
    pool: &Pool,
    registry: &RegistryName,
    writer: &str,
    from_seq: u64,
    rows_max: usize,
) -> Result<Vec<AuditRow>, StoreError> {
    let sql = "
        SELECT seq, prev, hash, at_ms, actor, action, subject, detail FROM audit
        WHERE registry = $1 AND writer = $2 AND seq >= $3 ORDER BY seq LIMIT $4";
    let params: Params<'_> = &[&registry.as_str(), &writer, &clamped(from_seq), &limit(rows_max)];
    let rows = pool.read(Lane::List, sql, params).await?;
    rows.iter().map(|row| Ok(read(registry, writer, row)?)).collect()
}

pub(crate) async fn heads(pool: &Pool, registry: &RegistryName) -> Result<Vec<AuditHead>, StoreError> {
    let sql = "SELECT writer, seq, hash FROM audit_head WHERE registry = $1 AND seq > 0 ORDER BY writer";
    let rows = pool.read(Lane::List, sql, &[&registry.as_str()]).await?;
    let read = |row: &Row| -> Result<AuditHead, Fault> {
        Ok(AuditHead { writer: value(row, 0)?, seq: number(row, 1)?, hash: bytes(row, 2)? })
    };
    rows.iter().map(|row| Ok(read(row)?)).collect()
}

fn read(registry: &RegistryName, writer: &str, row: &Row) -> Result<AuditRow, Fault> {
    Ok(AuditRow {
        registry: registry.clone(),
        writer: writer.to_owned(),
        seq: number(row, 0)?,
        prev: bytes(row, 1)?,
        hash: bytes(row, 2)?,
        entry: AuditEntry {
            at_ms: number(row, 3)?,
            actor: value(row, 4)?,
            action: value(row, 5)?,
            subject: value(row, 6)?,
            detail: value(row, 7)?,
        },
    })
}
