//! The audit's rows: written in the transaction of the change they tell of.

use drawbridge_names::RegistryName;
use drawbridge_registry::audit::{CHAIN_START, WRITER_ALONE, chain_hash};
use drawbridge_registry::{AuditEntry, AuditRow};
use rusqlite::Connection;

use crate::fault::Fault;
use crate::rows::{all, bits, clamped, execute, first, limit, number};

/// Appends an entry to its registry's chain. The registry must exist.
pub(crate) fn append(conn: &Connection, registry: &RegistryName, entry: &AuditEntry) -> Result<(), Fault> {
    let last = first(
        conn,
        "SELECT seq, hash FROM audit WHERE registry = ?1 AND writer = ?2 ORDER BY seq DESC LIMIT 1",
        (registry.as_str(), WRITER_ALONE),
        |row| Ok((number(row, 0)?, row.get::<_, [u8; 32]>(1)?)),
    )?;
    let (seq, prev) = last.map_or((1, CHAIN_START), |(seq, hash)| (seq + 1, hash));
    let hash = chain_hash(&prev, registry.as_str(), WRITER_ALONE, seq, entry);
    execute(
        conn,
        "INSERT INTO audit (registry, writer, seq, prev, hash, at_ms, actor, action, subject, detail)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        (
            registry.as_str(),
            WRITER_ALONE,
            bits(seq),
            prev,
            hash,
            bits(entry.at_ms),
            &entry.actor,
            &entry.action,
            &entry.subject,
            &entry.detail,
        ),
    )?;
    Ok(())
}

pub(crate) fn tail(
    conn: &Connection,
    registry: &RegistryName,
    before: Option<u64>,
    rows_max: usize,
) -> Result<Vec<AuditRow>, Fault> {
    all(
        conn,
        "SELECT seq, prev, hash, at_ms, actor, action, subject, detail FROM audit
         WHERE registry = ?1 AND writer = ?2 AND seq < ?3 ORDER BY seq DESC LIMIT ?4",
        (registry.as_str(), WRITER_ALONE, clamped(before.unwrap_or(u64::MAX)), limit(rows_max)),
        |row| {
            Ok(AuditRow {
                registry: registry.clone(),
                writer: WRITER_ALONE.to_owned(),
                seq: number(row, 0)?,
                prev: row.get(1)?,
                hash: row.get(2)?,
                entry: AuditEntry {
                    at_ms: number(row, 3)?,
                    actor: row.get(4)?,
                    action: row.get(5)?,
                    subject: row.get(6)?,
                    detail: row.get(7)?,
                },
            })
        },
    )
}
