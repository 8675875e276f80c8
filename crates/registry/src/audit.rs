//! The chain of the audit: each row's hash holds the row before, so none can be changed, taken out
//! or put in between without breaking every later one.
//!
//! What the chain alone cannot show is that its newest rows were cut off, or that the whole of it was
//! written anew; whoever needs that notes its head ([`AuditHead`]) elsewhere and asks later whether the
//! chain [`continues`] from there.

use drawbridge_names::RegistryName;
use sha2::{Digest, Sha256};

use crate::{AuditEntry, AuditHead, AuditRow};

/// The writer of a store that one process alone writes to.
pub const WRITER_ALONE: &str = "alone";

/// `prev` of a chain's first row.
pub const CHAIN_START: [u8; 32] = [0; 32];

/// Format of the bytes that are hashed; they begin with it.
const CHAIN_VERSION: u8 = 1;

/// The hash of a row: SHA-256 over a version byte, `prev`, and every field with its length in bytes
/// before it (lengths and numbers: 8 bytes, big-endian), in the order registry, writer, `seq`,
/// `at_ms`, actor, action, subject, detail.
#[must_use]
pub fn chain_hash(prev: &[u8; 32], registry: &str, writer: &str, seq: u64, entry: &AuditEntry) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update([CHAIN_VERSION]);
    let (seq, at_ms) = (seq.to_be_bytes(), entry.at_ms.to_be_bytes());
    let fields: [&[u8]; 9] = [
        prev,
        registry.as_bytes(),
        writer.as_bytes(),
        &seq,
        &at_ms,
        entry.actor.as_bytes(),
        entry.action.as_bytes(),
        entry.subject.as_bytes(),
        entry.detail.as_bytes(),
    ];
    for field in fields {
        hash.update((field.len() as u64).to_be_bytes());
        hash.update(field);
    }
    hash.finalize().into()
}

/// Where a chain stops being one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the audit chain is broken at row {seq}: it, or the row before, was changed, removed or put in later"
)]
pub struct BrokenAt {
    /// The first row that does not follow from the one before.
    pub seq: u64,
}

/// Checks a stretch of one writer's chain, oldest row first. It may begin anywhere; only if it begins
/// with row 1 is its beginning proven too.
///
/// # Errors
/// [`BrokenAt`] names the first row that does not follow from the one before.
pub fn verify_chain<'a>(rows: impl IntoIterator<Item = &'a AuditRow>) -> Result<(), BrokenAt> {
    let mut before: Option<&AuditRow> = None;
    for row in rows {
        let follows = match before {
            Some(before) => {
                row.prev == before.hash
                    && Some(row.seq) == before.seq.checked_add(1)
                    && row.registry == before.registry
                    && row.writer == before.writer
            }
            None => row.seq > 1 || (row.seq == 1 && row.prev == CHAIN_START),
        };
        let hash = chain_hash(&row.prev, row.registry.as_str(), &row.writer, row.seq, &row.entry);
        if !follows || hash != row.hash {
            return Err(BrokenAt { seq: row.seq });
        }
        before = Some(row);
    }
    Ok(())
}

/// Why a chain is not the continuation of a head that was noted earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotContinued {
    /// The row of the head is not there.
    #[error(
        "row {seq} of the audit chain was there when its head was noted and is missing now: the chain was cut off"
    )]
    Missing {
        /// Its place.
        seq: u64,
    },
    /// At the place of the head is another row.
    #[error(
        "row {seq} of the audit chain is not the one whose hash was noted: the chain was written anew before or at it"
    )]
    Differs {
        /// Its place.
        seq: u64,
    },
    /// The rows from the head on are not a chain.
    #[error(transparent)]
    Broken(#[from] BrokenAt),
}

/// Checks that a chain still holds a head noted earlier, and all that follows from it: `rows` are those
/// of the head's writer from `since.seq` on, oldest first, at least one if the chain is that long. Rows
/// before the head need no check: its hash stands for them. A long chain is checked page by page, each
/// from the last row of the page before ([`AuditRow::head`]).
///
/// # Errors
/// [`NotContinued::Missing`] when the first row is not there or of a later place,
/// [`NotContinued::Differs`] when it is another one, [`NotContinued::Broken`] when what follows is no chain.
pub fn continues<'a>(
    rows: impl IntoIterator<Item = &'a AuditRow>,
    registry: &RegistryName,
    since: &AuditHead,
) -> Result<(), NotContinued> {
    let mut rows = rows.into_iter().peekable();
    match rows.peek() {
        Some(first) if first.seq <= since.seq => {
            if first.head() != *since || first.registry != *registry {
                return Err(NotContinued::Differs { seq: since.seq });
            }
        }
        _ => return Err(NotContinued::Missing { seq: since.seq }),
    }
    Ok(verify_chain(rows)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(length: u64) -> Vec<AuditRow> {
        let mut prev = CHAIN_START;
        (1..=length)
            .map(|seq| {
                let entry = AuditEntry {
                    at_ms: 1_700_000_000_000 + seq,
                    actor: "admin".into(),
                    action: "device.add".into(),
                    subject: format!("lamp-{seq}"),
                    detail: "{}".into(),
                };
                let registry = RegistryName::default_registry();
                let hash = chain_hash(&prev, registry.as_str(), WRITER_ALONE, seq, &entry);
                let row = AuditRow { registry, writer: WRITER_ALONE.into(), seq, prev, hash, entry };
                prev = hash;
                row
            })
            .collect()
    }

    #[test]
    fn a_whole_chain_and_any_stretch_of_it_verify() {
        let rows = chain(5);
        assert_eq!(verify_chain(&rows), Ok(()));
        assert_eq!(verify_chain(&rows[2..]), Ok(()));
        assert_eq!(verify_chain(&rows[..0]), Ok(()));
    }

    #[test]
    fn every_single_change_of_a_chain_is_found_where_it_was_made() {
        type Change = fn(&mut Vec<AuditRow>);
        let table: [(&str, u64, Change); 11] = [
            ("time", 3, |rows| rows[2].entry.at_ms += 1),
            ("actor", 3, |rows| rows[2].entry.actor.push('x')),
            ("action", 3, |rows| rows[2].entry.action.clear()),
            ("subject", 3, |rows| rows[2].entry.subject = "lamp-4".into()),
            ("detail", 3, |rows| rows[2].entry.detail = "{ }".into()),
            ("registry", 3, |rows| rows[2].registry = RegistryName::parse("b").expect("a name")),
            ("writer", 3, |rows| rows[2].writer = "other".into()),
            ("a row removed", 4, |rows| drop(rows.remove(2))),
            ("a row twice", 3, |rows| rows.insert(3, rows[2].clone())),
            ("two rows swapped", 4, |rows| rows.swap(2, 3)),
            ("the first row forged", 1, |rows| {
                let row = &mut rows[0];
                row.prev = [1; 32];
                row.hash = chain_hash(&row.prev, row.registry.as_str(), &row.writer, row.seq, &row.entry);
            }),
        ];
        for (what, seq, change) in table {
            let mut rows = chain(5);
            change(&mut rows);
            assert_eq!(verify_chain(&rows), Err(BrokenAt { seq }), "{what}");
        }
    }

    #[test]
    fn a_chain_continues_from_each_of_its_heads() {
        let rows = chain(5);
        let registry = RegistryName::default_registry();
        for at in 0..rows.len() {
            assert_eq!(continues(&rows[at..], &registry, &rows[at].head()), Ok(()), "{at}");
            assert_eq!(continues(&rows[at..=at], &registry, &rows[at].head()), Ok(()), "{at}");
        }
        // Page by page.
        let mut head = rows[0].head();
        for page in [&rows[..3], &rows[2..4], &rows[3..]] {
            assert_eq!(continues(page, &registry, &head), Ok(()));
            head = page.last().expect("no page is empty").head();
        }
        assert_eq!(head, rows[4].head());
    }

    #[test]
    fn a_chain_that_was_cut_off_or_written_anew_does_not_continue_from_a_noted_head() {
        let noted = chain(3)[2].head();
        let seq = noted.seq;
        type Change = fn(&mut Vec<AuditRow>);
        let table: [(&str, NotContinued, Change); 9] = [
            ("all gone", NotContinued::Missing { seq }, |rows| rows.clear()),
            ("the row gone", NotContinued::Missing { seq }, |rows| drop(rows.remove(0))),
            ("the row changed", NotContinued::Differs { seq }, |rows| rows[0].hash = [1; 32]),
            ("its writer changed", NotContinued::Differs { seq }, |rows| rows[0].writer.push('x')),
            ("written anew", NotContinued::Differs { seq }, |rows| {
                // A whole chain of its own, from the first row on, with one entry changed.
                let row = &mut rows[0];
                row.entry.subject = "lamp-x".into();
                row.hash = chain_hash(&row.prev, row.registry.as_str(), &row.writer, row.seq, &row.entry);
            }),
            ("another registry's", NotContinued::Differs { seq }, |rows| {
                rows[0].registry = RegistryName::parse("b").expect("a name");
            }),
            ("its entry changed, its hash left", NotContinued::Broken(BrokenAt { seq }), |rows| {
                rows[0].entry.subject = "lamp-x".into();
            }),
            ("a later one changed", NotContinued::Broken(BrokenAt { seq: 5 }), |rows| {
                rows[2].entry.actor.clear();
            }),
            ("a later one gone", NotContinued::Broken(BrokenAt { seq: 5 }), |rows| drop(rows.remove(1))),
        ];
        let registry = RegistryName::default_registry();
        for (what, expected, change) in table {
            let mut rows = chain(6).split_off(2);
            change(&mut rows);
            assert_eq!(continues(&rows, &registry, &noted), Err(expected), "{what}");
        }
        // Cut off before the head and grown again: the place is taken, the row is another.
        let grown = &mut chain(3)[2..];
        grown[0].entry.at_ms += 1;
        grown[0].hash = chain_hash(&grown[0].prev, "default", WRITER_ALONE, 3, &grown[0].entry);
        assert_eq!(continues(&*grown, &registry, &noted), Err(NotContinued::Differs { seq }));
        // An earlier row in front is not the head.
        assert_eq!(continues(&chain(4)[1..], &registry, &noted), Err(NotContinued::Differs { seq }));
    }

    #[test]
    fn a_character_cannot_move_from_one_field_to_the_next() {
        let entry = |actor: &str, action: &str| AuditEntry {
            at_ms: 1,
            actor: actor.into(),
            action: action.into(),
            subject: String::new(),
            detail: String::new(),
        };
        let hash = |entry| chain_hash(&CHAIN_START, "default", "alone", 1, &entry);
        assert_ne!(hash(entry("ab", "c")), hash(entry("a", "bc")));
        assert_ne!(
            chain_hash(&CHAIN_START, "ab", "c", 1, &entry("a", "b")),
            chain_hash(&CHAIN_START, "a", "bc", 1, &entry("a", "b"))
        );
    }

    /// Fixed from the first commit: a later version must still verify what this one wrote. The value
    /// was computed by another implementation (Python's `hashlib` over the bytes described above).
    #[test]
    fn the_hash_of_a_row_never_changes() {
        let hex: String = chain(1)[0].hash.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "a84604f0c7d735f522e87b108c9e5dbbef7d32c5eb5b008fd1ca990839ce3350");
    }
}
