//! The bytes of a segment.
//!
//! ```text
//! header   magic "DBML", version, kind, 0 0, number of the first group (8), salt (8), checksum (4), 0 (4)
//! group    magic (4), bytes of the body (4), number (8), checksum of the body (4), checksum of these (4), body
//! body     entries: kind (1), bytes (4), for a message their checksum (4), bytes of a record
//! ```
//!
//! Zeros may stand behind the last group: room that was made and not used. Integers are little-endian, checksums CRC-32. A group is what one fsync makes durable: all of it is there or
//! none. The salt goes into the checksum of each group's head, so that nobody can send a payload that looks like a
//! group.

/// The format written and read here.
pub(crate) const VERSION: u8 = 2;
/// Kind of a file: a segment.
pub(crate) const SEGMENT: u8 = 1;
/// Kind of a file: a checkpoint.
pub(crate) const CHECKPOINT: u8 = 2;

/// Bytes of a file's header.
pub(crate) const HEADER: usize = 32;
/// Bytes of a group's head.
pub(crate) const GROUP_HEAD: usize = 24;

/// A record without a payload.
pub(crate) const RECORD: u8 = 1;
/// A message that is stored for the first time.
pub(crate) const MESSAGE: u8 = 2;
/// A message that was copied forward from an older segment.
pub(crate) const MOVED: u8 = 3;

const FILE_MAGIC: &[u8; 4] = b"DBML";
const GROUP_MAGIC: [u8; 4] = [0xD8, 0x47, 0x52, 0x50];

/// The header of a file. `number`: of the first group in a segment, of the first group after a checkpoint.
pub(crate) fn header(kind: u8, number: u64, salt: u64) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..4].copy_from_slice(FILE_MAGIC);
    header[4] = VERSION;
    header[5] = kind;
    header[8..16].copy_from_slice(&number.to_le_bytes());
    header[16..24].copy_from_slice(&salt.to_le_bytes());
    let sum = crc32fast::hash(&header[..24]);
    header[24..28].copy_from_slice(&sum.to_le_bytes());
    header
}

/// What a header says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Header {
    /// It is one: number and salt.
    Good { number: u64, salt: u64 },
    /// It was written by another version.
    OtherVersion(u8),
    /// It is none, or of another kind.
    Bad,
}

/// Reads the header at the beginning of a file.
pub(crate) fn read_header(bytes: &[u8], kind: u8) -> Header {
    let Some(header) = bytes.get(..HEADER) else { return Header::Bad };
    let whole = u32_at(header, 24) == Some(crc32fast::hash(&header[..24]));
    if &header[..4] != FILE_MAGIC || !whole {
        return Header::Bad;
    }
    if header[4] != VERSION {
        return Header::OtherVersion(header[4]);
    }
    match (u64_at(header, 8), u64_at(header, 16)) {
        (Some(number), Some(salt)) if header[5] == kind => Header::Good { number, salt },
        _ => Header::Bad,
    }
}

/// Fills in the head of a group, for which `group` has [`GROUP_HEAD`] bytes before the body.
pub(crate) fn seal_group(group: &mut [u8], number: u64, salt: u64) {
    let (head, body) = group.split_at_mut(GROUP_HEAD);
    let length = u32::try_from(body.len()).expect("a group has at most `group_bytes_max` and one batch more");
    head[..4].copy_from_slice(&GROUP_MAGIC);
    head[4..8].copy_from_slice(&length.to_le_bytes());
    head[8..16].copy_from_slice(&number.to_le_bytes());
    head[16..20].copy_from_slice(&crc32fast::hash(body).to_le_bytes());
    let sum = head_sum(head, salt);
    head[20..24].copy_from_slice(&sum.to_le_bytes());
}

fn head_sum(head: &[u8], salt: u64) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&salt.to_le_bytes());
    hasher.update(&head[..20]);
    hasher.finalize()
}

/// What stands at a place in a segment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found<'a> {
    /// A whole group: its number, its body, and where the next begins.
    Group { number: u64, body: &'a [u8], end: usize },
    /// The end of the file, or zeros up to there.
    End,
    /// No whole group.
    Nothing,
}

/// Looks for a group at `at`.
pub(crate) fn read_group(segment: &[u8], at: usize, salt: u64) -> Found<'_> {
    let Some((number, length, sum)) = read_head(segment, at, salt) else {
        return if segment.get(at..).is_some_and(is_blank) { Found::End } else { Found::Nothing };
    };
    let from = at + GROUP_HEAD;
    match segment.get(from..from.saturating_add(length)) {
        Some(body) if crc32fast::hash(body) == sum => Found::Group { number, body, end: from + length },
        _ => Found::Nothing,
    }
}

/// Whether nothing was ever written there.
pub(crate) fn is_blank(bytes: &[u8]) -> bool {
    let (chunks, rest) = bytes.as_chunks::<64>();
    chunks.iter().all(|chunk| *chunk == [0; 64]) && rest.iter().all(|byte| *byte == 0)
}

/// Number, bytes and checksum of the body.
fn read_head(segment: &[u8], at: usize, salt: u64) -> Option<(u64, usize, u32)> {
    let head = segment.get(at..at.checked_add(GROUP_HEAD)?)?;
    if head[..4] != GROUP_MAGIC || u32_at(head, 20)? != head_sum(head, salt) {
        return None;
    }
    Some((u64_at(head, 8)?, u32_at(head, 4)? as usize, u32_at(head, 16)?))
}

/// Whether the head of a group numbered `number` or higher stands anywhere behind `at`. Then what is bad at `at`
/// is no write that a power cut interrupted: the group behind it was written after that one was durable.
pub(crate) fn group_follows(segment: &[u8], at: usize, number: u64, salt: u64) -> bool {
    let Some(rest) = segment.get(at + 1..) else { return false };
    if is_blank(rest) {
        return false;
    }
    let mut heads = rest.windows(GROUP_MAGIC.len()).enumerate().filter(|(_, bytes)| **bytes == GROUP_MAGIC);
    heads.any(|(offset, _)| {
        read_head(segment, at + 1 + offset, salt).is_some_and(|(found, _, _)| found >= number)
    })
}

/// One entry of a body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry<'a> {
    /// [`RECORD`], [`MESSAGE`] or [`MOVED`].
    pub(crate) kind: u8,
    /// Where its record begins, behind [`SUM`] bytes of checksum if it is a message; in bytes from the beginning
    /// of the body.
    pub(crate) at: usize,
    /// Its record.
    pub(crate) record: &'a [u8],
}

/// Bytes of the checksum before the record of a message.
pub(crate) const SUM: usize = 4;

/// Begins an entry; what is appended then, up to [`end_entry`], is its record. Gives the place of the record.
pub(crate) fn begin_entry(out: &mut Vec<u8>, kind: u8) -> usize {
    out.push(kind);
    out.extend_from_slice(&[0; 4]);
    if kind != RECORD {
        out.extend_from_slice(&[0; SUM]);
    }
    out.len()
}

/// Fills in what stands before the record that begins at `at`.
pub(crate) fn end_entry(out: &mut [u8], kind: u8, at: usize) {
    let (before, record) = out.split_at_mut(at);
    let length = u32::try_from(record.len()).expect("no packet has 4 GiB").to_le_bytes();
    let mut head = before.len() - length.len();
    if kind != RECORD {
        before[head..].copy_from_slice(&crc32fast::hash(record).to_le_bytes());
        head -= SUM;
    }
    before[head..head + length.len()].copy_from_slice(&length);
}

/// The entries of a body. Ends with `Err` and its place at what is no entry.
pub(crate) fn entries(body: &[u8]) -> impl Iterator<Item = Result<Entry<'_>, usize>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let begin = at;
        if begin >= body.len() {
            return None;
        }
        let entry = read_entry(body, begin);
        at = entry.as_ref().map_or(body.len(), |entry| entry.at + entry.record.len());
        Some(entry.ok_or(begin))
    })
}

fn read_entry(body: &[u8], begin: usize) -> Option<Entry<'_>> {
    let kind = *body.get(begin)?;
    let length = u32_at(body, begin + 1)? as usize;
    let at = match kind {
        RECORD => begin + 5,
        MESSAGE | MOVED => begin + 5 + SUM,
        _ => return None,
    };
    Some(Entry { kind, at, record: body.get(at..at.checked_add(length)?)? })
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// The name of a segment that begins with group `first`.
pub(crate) fn segment_name(first: u64) -> String {
    format!("{first:016x}.segment")
}

/// The name of a checkpoint of all groups before `next`.
pub(crate) fn checkpoint_name(next: u64) -> String {
    format!("{next:016x}.checkpoint")
}

/// The number in a name that ends with `.ending`.
pub(crate) fn number_of(name: &str, ending: &str) -> Option<u64> {
    let digits = name.strip_suffix(ending)?.strip_suffix('.')?;
    let plain = digits.len() == 16 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    u64::from_str_radix(digits, 16).ok().filter(|_| plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(number: u64, salt: u64, records: &[&[u8]]) -> Vec<u8> {
        let mut group = vec![0; GROUP_HEAD];
        for record in records {
            let at = begin_entry(&mut group, MESSAGE);
            group.extend_from_slice(record);
            end_entry(&mut group, MESSAGE, at);
        }
        seal_group(&mut group, number, salt);
        group
    }

    #[test]
    fn a_group_is_read_as_it_was_written_and_no_changed_one_is() {
        let whole = group(7, 9, &[b"one", b"", b"three"]);
        let Found::Group { number: 7, body, end } = read_group(&whole, 0, 9) else { panic!("no group") };
        assert_eq!(end, whole.len());
        let records: Vec<&[u8]> = entries(body).map(|entry| entry.expect("an entry").record).collect();
        assert_eq!(records, [b"one".as_slice(), b"", b"three"]);
        assert_eq!(read_group(&whole, 0, 10), Found::Nothing, "another salt");
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 0x40;
            assert_eq!(read_group(&changed, 0, 9), Found::Nothing, "byte {at}");
            assert_eq!(read_group(&whole[..at], 0, 9), if at == 0 { Found::End } else { Found::Nothing });
        }
    }

    #[test]
    fn a_payload_that_looks_like_a_group_is_none() {
        let forged = group(8, 1, &[b"forged"]);
        let torn = group(7, 2, &[&forged, b"torn off"]);
        let torn = &torn[..torn.len() - 1];
        assert_eq!(read_group(torn, 0, 2), Found::Nothing);
        assert!(!group_follows(torn, 0, 8, 2));
        let damaged = [torn, &group(8, 2, &[b"behind"])].concat();
        assert!(group_follows(&damaged, 0, 8, 2));
    }

    #[test]
    fn names_of_files_are_read_back_and_others_are_not_ours() {
        assert_eq!(number_of(&segment_name(u64::MAX), "segment"), Some(u64::MAX));
        assert_eq!(number_of(&checkpoint_name(0), "checkpoint"), Some(0));
        for name in ["", "segment", "1.segment", "00000000000000FF.segment", "+000000000000001.segment"] {
            assert_eq!(number_of(name, "segment"), None, "{name}");
        }
    }
}
