//! The audit of a server, and what its check finds after somebody has written in the file behind it.

use std::fs;

use drawbridge_registry::AuditEntry;
use drawbridge_registry::audit::{CHAIN_START, chain_hash};
use rusqlite::Connection;

use crate::harness::Core;

const FILE: &str = "registry.sqlite";

/// A row as it stands in the file.
#[derive(Debug, Clone)]
struct Row {
    seq: u64,
    prev: [u8; 32],
    hash: [u8; 32],
    entry: AuditEntry,
}

fn rows(file: &Connection) -> Vec<Row> {
    let mut query = file
        .prepare("SELECT seq, prev, hash, at_ms, actor, action, subject, detail FROM audit WHERE registry = 'default' ORDER BY seq")
        .expect("the table");
    let read = query.query_map([], |row| {
        Ok(Row {
            seq: row.get::<_, i64>(0)?.cast_unsigned(),
            prev: row.get(1)?,
            hash: row.get(2)?,
            entry: AuditEntry {
                at_ms: row.get::<_, i64>(3)?.cast_unsigned(),
                actor: row.get(4)?,
                action: row.get(5)?,
                subject: row.get(6)?,
                detail: row.get(7)?,
            },
        })
    });
    read.expect("rows").collect::<Result<_, _>>().expect("rows")
}

/// Somebody with the file, but without the issuer key, writes the whole audit as he likes it.
fn write(file: &Connection, rows: &[Row]) {
    file.execute("DELETE FROM audit WHERE registry = 'default'", []).expect("deletes");
    for row in rows {
        let Row { seq, prev, hash, entry } = row;
        file.execute(
            "INSERT INTO audit (registry, writer, seq, prev, hash, at_ms, actor, action, subject, detail)
             VALUES ('default', 'alone', ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            (
                seq.cast_signed(),
                prev,
                hash,
                entry.at_ms.cast_signed(),
                &entry.actor,
                &entry.action,
                &entry.subject,
                &entry.detail,
            ),
        )
        .expect("inserts");
    }
}

/// Numbers and hashes every row anew: a chain without a fault in itself.
fn chained(mut rows: Vec<Row>) -> Vec<Row> {
    let mut prev = CHAIN_START;
    for (at, row) in rows.iter_mut().enumerate() {
        row.seq = at as u64 + 1;
        row.prev = prev;
        row.hash = chain_hash(&prev, "default", "alone", row.seq, &row.entry);
        prev = row.hash;
    }
    rows
}

fn of(rows: &[Row], action: &str) -> usize {
    rows.iter().position(|row| row.entry.action == action).expect(action)
}

type Attack = (&'static str, fn(Vec<Row>) -> Vec<Row>, &'static str);

const ATTACKS: &[Attack] = &[
    ("nothing", |rows| rows, ""),
    (
        "another actor in a row",
        |mut rows| {
            let at = of(&rows, "device.add");
            rows[at].entry.actor = "app:somebody".to_owned();
            rows
        },
        "was changed",
    ),
    (
        "another actor, and the hash with it",
        |mut rows| {
            let at = of(&rows, "device.add");
            let row = &mut rows[at];
            row.entry.actor = "app:somebody".to_owned();
            row.hash = chain_hash(&row.prev, "default", "alone", row.seq, &row.entry);
            rows
        },
        "does not follow",
    ),
    (
        "a row taken out",
        |mut rows| {
            let at = of(&rows, "device.add");
            rows.remove(at);
            rows
        },
        "is missing",
    ),
    (
        "a row taken out, the rest chained anew",
        |mut rows| {
            let at = of(&rows, "device.add");
            rows.remove(at);
            chained(rows)
        },
        "the checkpoint in row",
    ),
    (
        "a row put in, the rest chained anew",
        |mut rows| {
            let at = of(&rows, "device.add");
            let again = rows[at].clone();
            rows.insert(at, again);
            chained(rows)
        },
        "the checkpoint in row",
    ),
    (
        "two rows swapped, the rest chained anew",
        |mut rows| {
            let at = of(&rows, "device.add");
            rows.swap(at, at + 1);
            chained(rows)
        },
        "the checkpoint in row",
    ),
    (
        "a checkpoint by nobody's key",
        |mut rows| {
            let at = of(&rows, "audit.checkpoint");
            let detail = rows[at].entry.detail.clone();
            let end = detail.rfind('"').expect("a text");
            let other = if detail[..end].ends_with("AAAA") { "BBBB" } else { "AAAA" };
            rows[at].entry.detail = format!("{}{other}{}", &detail[..end - 4], &detail[end..]);
            chained(rows)
        },
        "the checkpoint in row",
    ),
    (
        "the newest rows cut off",
        |mut rows| {
            rows.truncate(rows.len() - 1);
            rows
        },
        "the head given names it",
    ),
    (
        "another past without any checkpoint",
        |mut rows| {
            rows.retain(|row| row.entry.action != "audit.checkpoint");
            let at = of(&rows, "device.add");
            rows[at].entry.subject = "another".to_owned();
            chained(rows)
        },
        "the head given names it",
    ),
];

#[test]
fn whoever_writes_in_the_file_is_found_by_the_check() {
    let mut core = Core::start();
    for name in ["lamp", "pump"] {
        core.device(name);
    }
    core.stop(); // writes the last checkpoint
    core.run_again();
    core.cli_ok(&["device", "block", "lamp"]);
    let said = core.cli_ok(&["audit", "verify"]);
    let head = said.lines().find_map(|line| line.strip_prefix("keep this head elsewhere: ")).expect("a head");
    let head = head.to_owned();
    core.stop();

    let file = core.data().join(FILE);
    let untouched = Connection::open(&file).expect("opens");
    untouched.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).expect("one file");
    let past = rows(&untouched);
    drop(untouched);
    let kept = fs::read(&file).expect("the file");
    // Rows after the kept head (a checkpoint at the stop) are no part of it.
    let seq: u64 = head.split(':').nth(1).and_then(|seq| seq.parse().ok()).expect("a head");
    for (attack, change, wanted) in ATTACKS {
        let mut known = past.clone();
        if *attack == "the newest rows cut off" {
            known.truncate(usize::try_from(seq).expect("few"));
        }
        let connection = Connection::open(&file).expect("opens");
        connection.execute_batch("PRAGMA journal_mode = DELETE").expect("one file");
        drop_triggers(&connection);
        write(&connection, &change(known));
        drop(connection);
        core.run_again();
        let mut words = vec!["audit", "verify"];
        // The chains and checkpoints find most by themselves; what they cannot, the head that was kept.
        if wanted.is_empty() || wanted.contains("head given") {
            words.extend(["--since", &head]);
        }
        let output = core.cli(&words);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let expected = if wanted.is_empty() { Some(0) } else { Some(6) };
        assert_eq!(output.status.code(), expected, "{attack}: {said}");
        assert!(said.contains(wanted), "{attack}: {said}");
        core.kill();
        for rest in ["", "-wal", "-shm", "-journal"] {
            let _ = fs::remove_file(core.data().join(format!("{FILE}{rest}")));
        }
        fs::write(&file, &kept).expect("as it was");
    }
}

/// Who has the file has its triggers too.
fn drop_triggers(file: &Connection) {
    let mut query = file.prepare("SELECT name FROM sqlite_master WHERE type = 'trigger'").expect("names");
    let names: Vec<String> =
        query.query_map([], |row| row.get(0)).expect("names").collect::<Result<_, _>>().expect("names");
    for name in names {
        file.execute_batch(&format!("DROP TRIGGER \"{name}\"")).expect("drops");
    }
}

#[test]
fn an_export_is_checked_without_the_server_and_a_short_one_is_told() {
    let mut core = Core::start();
    core.device("lamp");
    let file = core.place().join("audit.ndjson");
    let file_text = file.to_string_lossy().into_owned();
    core.cli_ok(&["audit", "export", &file_text]);
    assert_eq!(core.cli(&["audit", "export", &file_text]).status.code(), Some(6), "nothing is overwritten");
    core.stop();
    let said = core.cli_ok(&["audit", "verify", "--file", &file_text]);
    assert!(said.contains("keep this head elsewhere: alone:"), "{said}");
    let text = fs::read_to_string(&file).expect("text");
    let lines: Vec<&str> = text.lines().collect();
    let short = core.place().join("short.ndjson");
    fs::write(&short, lines[..lines.len() - 1].join("\n")).expect("writes");
    let output = core.cli(&["audit", "verify", "--file", &short.to_string_lossy()]);
    assert_eq!(output.status.code(), Some(6));
    assert!(String::from_utf8_lossy(&output.stderr).contains("breaks off"), "{output:?}");
}

/// Written with the change, or the change does not happen.
#[test]
fn a_change_whose_audit_row_cannot_be_written_is_not_made() {
    let mut core = Core::start();
    core.device("lamp");
    core.stop();
    let connection = Connection::open(core.data().join(FILE)).expect("opens");
    connection
        .execute_batch(
            "CREATE TRIGGER full BEFORE INSERT ON audit WHEN NEW.actor <> 'server'
             BEGIN SELECT RAISE(ABORT, 'no room for the audit'); END",
        )
        .expect("a trigger");
    drop(connection);
    core.run_again();
    for words in [
        &["device", "add", "pump", "--out", "pump"][..],
        &["device", "block", "lamp"],
        &["device", "revoke", "lamp"],
        &["device", "delete", "lamp"],
    ] {
        assert_eq!(core.cli(words).status.code(), Some(5), "{words:?}");
    }
    let lamp: serde_json::Value =
        serde_json::from_str(&core.cli_ok(&["device", "show", "lamp", "--json"])).expect("JSON");
    assert_eq!((&lamp["blocked"], &lamp["epoch"]), (&serde_json::json!(false), &serde_json::json!(0)));
    assert_eq!(core.cli(&["device", "show", "pump"]).status.code(), Some(4));
}
