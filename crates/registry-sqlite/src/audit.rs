//! The audit's rows: written in the transaction of the change they tell of.

use drawbridge_names::RegistryName;
use drawbridge_registry::audit::{CHAIN_START, WRITER_ALONE, chain_hash};
use drawbridge_registry::{AuditEntry, AuditHead, AuditRow};
use rusqlite::{Connection, Row};

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
        |row| read(registry, WRITER_ALONE, row),
    )
}

pub(crate) fn rows(
    conn: &Connection,
    registry: &RegistryName,
    writer: &str,
    from_seq: u64,
    rows_max: usize,
) -> Result<Vec<AuditRow>, Fault> {
    all(
        conn,
        "SELECT seq, prev, hash, at_ms, actor, action, subject, detail FROM audit
         WHERE registry = ?1 AND writer = ?2 AND seq >= ?3 ORDER BY seq LIMIT ?4",
        (registry.as_str(), writer, clamped(from_seq), limit(rows_max)),
        |row| read(registry, writer, row),
    )
}

/// Goes from writer to writer by the index, past none of their other rows.
const HEADS: &str = "WITH RECURSIVE known (writer) AS (
         SELECT (SELECT MIN(writer) FROM audit WHERE registry = ?1)
         UNION ALL
         SELECT (SELECT MIN(writer) FROM audit WHERE registry = ?1 AND writer > known.writer)
         FROM known WHERE known.writer IS NOT NULL
     )
     SELECT a.writer, a.seq, a.hash FROM known CROSS JOIN audit a
     WHERE a.registry = ?1 AND a.writer = known.writer
       AND a.seq = (SELECT MAX(seq) FROM audit WHERE registry = ?1 AND writer = known.writer)
     ORDER BY a.writer";

pub(crate) fn heads(conn: &Connection, registry: &RegistryName) -> Result<Vec<AuditHead>, Fault> {
    all(conn, HEADS, [registry.as_str()], |row| {
        Ok(AuditHead { writer: row.get(0)?, seq: number(row, 1)?, hash: row.get(2)? })
    })
}

fn read(registry: &RegistryName, writer: &str, row: &Row<'_>) -> Result<AuditRow, Fault> {
    Ok(AuditRow {
        registry: registry.clone(),
        writer: writer.to_owned(),
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::open_writer;

    #[test]
    fn each_writer_has_a_head_and_none_is_found_by_walking_over_the_rows() {
        let folder = tempfile::tempdir().expect("a folder");
        let conn = open_writer(&folder.path().join("registry.db")).expect("the file opens");
        for registry in ["default", "other"] {
            let sql = "INSERT INTO registry VALUES (?1, '', '', 0, 0, NULL, NULL, '{}', 0)";
            conn.execute(sql, [registry]).expect("a registry");
        }
        let writers = [("default", "b", 3u8), ("default", "B", 2), ("default", "a", 1), ("other", "c", 1)];
        for (registry, writer, length) in writers {
            for seq in 1..=length {
                let sql = "INSERT INTO audit VALUES (?1, ?2, ?3, ?4, ?4, 0, '', '', '', '')";
                conn.execute(sql, (registry, writer, seq, [seq; 32])).expect("a row");
            }
        }
        let found = heads(&conn, &RegistryName::default_registry()).expect("heads");
        let head =
            |writer: &str, seq: u8| AuditHead { writer: writer.into(), seq: seq.into(), hash: [seq; 32] };
        assert_eq!(found, [head("B", 2), head("a", 1), head("b", 3)]);
        let none = RegistryName::parse("none").expect("a name");
        assert_eq!(heads(&conn, &none).expect("heads"), []);
        let found = rows(&conn, &RegistryName::default_registry(), "b", 2, 9).expect("rows");
        assert_eq!(found.iter().map(|row| row.seq).collect::<Vec<_>>(), [2, 3]);

        let plan = format!("EXPLAIN QUERY PLAN {HEADS}");
        let steps = all(&conn, &plan, ["default"], |row| Ok(row.get::<_, String>(3)?)).expect("a plan");
        assert!(steps.iter().any(|step| step.contains("SEARCH audit")), "{steps:?}");
        assert!(!steps.iter().any(|step| step.contains("SCAN a")), "{steps:?}");
    }
}
