//! Opening: the last checkpoint, then the groups after it.
//!
//! A segment is named by the number of its first group. Groups are numbered without gaps, so all segments from
//! the checkpoint on must join: each has every group up to the first of the next one. What stands behind that in
//! a segment was given up when a write failed. Only in the last segment may a group be broken off, and only if
//! nothing was written behind it: that is a write which a power cut interrupted, and nobody was told of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use drawbridge_broker::Message;
use drawbridge_broker::storage::{Image, MessageId, Record, TimeBase};

use crate::checkpoint;
use crate::disk::{Disk, DiskFile};
use crate::error::LogError;
use crate::frame::{self, Found, Header, MESSAGE, MOVED, SEGMENT, segment_name};
use crate::mirror::{Mirror, Place};

/// The end of the name of a file that has no name yet.
pub(crate) const UNFINISHED: &str = ".new";

/// What was found on a disk.
pub(crate) struct Recovery {
    pub(crate) mirror: Mirror,
    pub(crate) retained: Vec<(MessageId, Arc<Message>)>,
    /// Bytes of the checkpoint.
    pub(crate) checkpoint_bytes: u64,
    /// Bytes of groups after it.
    pub(crate) log_bytes: u64,
    /// Bytes of the files that were read for them: segments are longer than what is in them.
    pub(crate) read_bytes: u64,
}

/// Reads what is on the disk, writes its last group again, and removes what a crash left unfinished.
pub(crate) fn recover(disk: &dyn Disk, time: TimeBase, salt: u64) -> Result<Recovery, LogError> {
    let names = disk.list().map_err(|source| LogError::Unreadable {
        file: "the folder".to_owned(),
        action: "listed",
        source,
    })?;
    let numbers = |ending| {
        let mut numbers: Vec<u64> = names.iter().filter_map(|name| frame::number_of(name, ending)).collect();
        numbers.sort_unstable();
        numbers
    };
    let (mut segments, checkpoints) = (numbers("segment"), numbers("checkpoint"));
    let (mut mirror, checkpoint_bytes) = match checkpoints.last() {
        Some(newest) => checkpoint::read(disk, &frame::checkpoint_name(*newest), time)?,
        None => (Mirror::default(), 0),
    };
    check_old_segments(disk, &mirror, &segments)?;
    if let Some(last) = segments.last().copied() {
        segments.extend(secure_last_group(disk, &mirror, last, salt)?.filter(|group| *group != last));
    }
    let (log_bytes, read_bytes) = replay(disk, &mut mirror, &segments, time)?;
    let lost = mirror.without_place();
    mirror.forget(&lost);
    let retained = read_retained(disk, &mirror.image, &mirror, time)?;
    // What is removed now is not needed by what is there, which must be there after a power cut too.
    disk.sync_folder().map_err(|source| LogError::Unreadable {
        file: "the folder".to_owned(),
        action: "synced",
        source,
    })?;
    let unfinished = names.iter().filter(|name| name.ends_with(UNFINISHED)).cloned();
    let older = checkpoints.iter().rev().skip(1).map(|number| frame::checkpoint_name(*number));
    let unneeded = segments.iter().filter(|first| !mirror.segments.contains_key(first));
    for name in unfinished.chain(older).chain(unneeded.map(|first| segment_name(*first))) {
        // What cannot be removed now is removed at the next opening.
        let _ = disk.remove(&name);
    }
    Ok(Recovery { mirror, retained, checkpoint_bytes, log_bytes, read_bytes })
}

/// The segments that the checkpoint needs are there, and as long as they were.
fn check_old_segments(disk: &dyn Disk, mirror: &Mirror, segments: &[u64]) -> Result<(), LogError> {
    let mut ends: BTreeMap<u64, u64> = BTreeMap::new();
    for place in mirror.places.lock().values() {
        let end = ends.entry(place.segment).or_default();
        *end = place.end().max(*end);
    }
    for (first, end) in ends {
        let name = segment_name(first);
        if segments.binary_search(&first).is_err() {
            return Err(LogError::Missing { file: name });
        }
        let length = disk.open(&name).and_then(|file| file.length());
        let length =
            length.map_err(|source| LogError::Unreadable { file: name.clone(), action: "opened", source })?;
        if length < end {
            return Err(LogError::Damaged { file: name, offset: length, wanted: "the rest of the segment" });
        }
    }
    Ok(())
}

/// The last group was perhaps never synced: the process was killed in between, and what is read is only the page
/// cache, which says nothing after a `sync` that failed. All that follows will stand on this group, so it is
/// written again, as the first of a segment of its own. Gives its number if that was done.
fn secure_last_group(
    disk: &dyn Disk,
    mirror: &Mirror,
    last: u64,
    salt: u64,
) -> Result<Option<u64>, LogError> {
    let name = segment_name(last);
    let segment = read_whole(disk, &name)?;
    let Header::Good { salt: old_salt, .. } = frame::read_header(&segment, SEGMENT) else { return Ok(None) };
    let ((mut at, _), mut group) = (unread(mirror, last), None);
    while let Found::Group { number, end, .. } = frame::read_group(&segment, at, old_salt) {
        group = Some((number, at..end));
        at = end;
    }
    let Some((number, range)) = group.filter(|(number, _)| *number >= mirror.next) else { return Ok(None) };
    if frame::group_follows(&segment, at, number, old_salt) {
        return Ok(None);
    }
    let mut bytes = frame::header(SEGMENT, number, salt).to_vec();
    bytes.extend_from_slice(&segment[range]);
    frame::seal_group(&mut bytes[frame::HEADER..], number, salt);
    let unfinished = format!("{}{UNFINISHED}", segment_name(number));
    let write = || {
        let mut file = disk.create(&unfinished)?;
        file.append(&bytes)?;
        file.sync()?;
        disk.rename(&unfinished, &segment_name(number))?;
        disk.sync_folder()
    };
    match write() {
        Ok(()) => Ok(Some(number)),
        // On a full disk the next best: it must start there too.
        Err(error) if error.kind() == std::io::ErrorKind::StorageFull => {
            let _ = disk.remove(&unfinished);
            let synced = disk.open(&name).and_then(|mut file| file.sync()).and_then(|()| disk.sync_folder());
            synced.map_err(|source| LogError::Unreadable { file: name, action: "synced", source })?;
            Ok(None)
        }
        Err(source) => Err(LogError::Unreadable { file: segment_name(number), action: "written", source }),
    }
}

/// Where in a segment reading begins, and with which group: behind what the checkpoint has.
fn unread(mirror: &Mirror, first: u64) -> (usize, u64) {
    match mirror.segments.get(&first) {
        Some(known) if known.bytes > 0 && known.last < mirror.next => {
            (usize::try_from(known.bytes).unwrap_or(usize::MAX), known.last + 1)
        }
        _ => (frame::HEADER, first),
    }
}

/// Applies the groups from `mirror.next` on. Gives their bytes, and those of the files that were read for them.
fn replay(
    disk: &dyn Disk,
    mirror: &mut Mirror,
    segments: &[u64],
    time: TimeBase,
) -> Result<(u64, u64), LogError> {
    // Segments that the checkpoint does not know and that are older than it were to be removed.
    let known = |first: &u64| mirror.segments.contains_key(first) || *first >= mirror.next;
    let segments: Vec<u64> = segments.iter().copied().filter(known).collect();
    let started = mirror.next;
    let first = segments.iter().rposition(|first| *first <= started).unwrap_or(0);
    let (mut bytes, mut read) = (0, 0);
    for (at, first) in segments.iter().enumerate().skip(first) {
        if *first > mirror.next {
            return Err(LogError::Missing { file: segment_name(mirror.next) });
        }
        let (new, length) = replay_segment(disk, mirror, *first, segments.get(at + 1).copied(), time)?;
        (bytes, read) = (bytes + new, read + length);
    }
    // A checkpoint's newest segment may only be gone if nothing in it is needed; its groups are in the checkpoint.
    let there = |first: &u64| segments.binary_search(first).is_ok();
    mirror.segments.retain(|first, segment| there(first) && (segment.bytes > 0 || segment.live > 0));
    Ok((bytes, read))
}

fn replay_segment(
    disk: &dyn Disk,
    mirror: &mut Mirror,
    first: u64,
    following: Option<u64>,
    time: TimeBase,
) -> Result<(u64, u64), LogError> {
    let file = segment_name(first);
    let damaged =
        |offset: usize, wanted| LogError::Damaged { file: file.clone(), offset: offset as u64, wanted };
    // What stands behind the groups of a segment that another one follows is not looked at, and can be long: the
    // rest of what was reserved, each time the process was killed.
    let mut segment = Reading::open(disk, &file, following.is_none())?;
    let salt = match frame::read_header(&segment.bytes, SEGMENT) {
        Header::Good { number, salt } if number == first => salt,
        Header::OtherVersion(found) => return Err(LogError::Format { file, found, known: frame::VERSION }),
        // The header is synced before anything is written behind it.
        _ if frame::is_blank(segment.bytes.get(frame::HEADER..).unwrap_or(&[]))
            && following.is_none()
            && first == mirror.next =>
        {
            return Ok((0, segment.read()));
        }
        _ => return Err(damaged(0, "the header of a segment")),
    };
    let ((mut at, mut expected), mut new) = (unread(mirror, first), 0);
    if at > segment.length {
        return Err(damaged(segment.length, "the rest of the segment"));
    }
    loop {
        if following == Some(expected) {
            return Ok((new, segment.read()));
        }
        let (number, body, end) = match frame::read_group(&segment.bytes, at, salt) {
            Found::Group { number, body, end } => (number, body, end),
            Found::End | Found::Nothing if !segment.is_whole() => {
                segment.read_on(&file)?;
                continue;
            }
            Found::End if following.is_some() => {
                return Err(LogError::Missing { file: segment_name(expected) });
            }
            Found::Nothing if following.is_some() => {
                return Err(damaged(at, "a whole group, for the next segment goes on behind it"));
            }
            Found::Nothing if frame::group_follows(&segment.bytes, at, expected, salt) => {
                return Err(damaged(at, "a whole group, for another one follows"));
            }
            Found::End | Found::Nothing if expected < mirror.next => {
                return Err(damaged(at, "a whole group, for the checkpoint is of a later one"));
            }
            Found::End | Found::Nothing => return Ok((new, segment.read())),
        };
        if number != expected {
            return Err(damaged(at, "the group with the next number"));
        }
        if number >= mirror.next {
            let body_at = at + frame::GROUP_HEAD;
            apply_group(mirror, first, body, body_at, time)
                .map_err(|offset| damaged(body_at + offset, "a record"))?;
            mirror.next = number + 1;
            new += (end - at) as u64;
        }
        let known = mirror.segments.entry(first).or_default();
        (known.last, known.bytes) = (known.last.max(number), known.bytes.max(end as u64));
        (at, expected) = (end, number + 1);
    }
}

/// Applies one group of the segment that begins with `first`. `Err`: where in the body there is no record.
fn apply_group(
    mirror: &mut Mirror,
    first: u64,
    body: &[u8],
    body_at: usize,
    time: TimeBase,
) -> Result<(), usize> {
    mirror.segments.entry(first).or_default();
    for entry in frame::entries(body) {
        let entry = entry?;
        let (record, length) = Record::decode(time, entry.record).map_err(|_| entry.at)?;
        if length != entry.record.len() {
            return Err(entry.at);
        }
        match (&record, entry.kind) {
            (Record::Message { id, message, .. }, MESSAGE | MOVED) => {
                let offset = u32::try_from(body_at + entry.at - frame::SUM).map_err(|_| entry.at)?;
                let bytes = u32::try_from(length).map_err(|_| entry.at)?;
                let place = Place { segment: first, offset, bytes, received_s: received_s(message, time) };
                match entry.kind {
                    MESSAGE => mirror.apply(&record, Some(place)),
                    _ => mirror.moved(*id, place),
                }
            }
            (Record::Message { .. }, _) | (_, MESSAGE | MOVED) => return Err(entry.at),
            _ => mirror.apply(&record, None),
        }
    }
    Ok(())
}

/// When it arrived, in seconds since 1970-01-01 UTC.
pub(crate) fn received_s(message: &Message, time: TimeBase) -> u32 {
    u32::try_from(time.to_ms(message.received) / 1000).unwrap_or(u32::MAX)
}

/// The retained messages, read in the order in which they lie on the disk.
fn read_retained(
    disk: &dyn Disk,
    image: &Image,
    mirror: &Mirror,
    time: TimeBase,
) -> Result<Vec<(MessageId, Arc<Message>)>, LogError> {
    let mut wanted: Vec<(MessageId, Place)> = {
        let places = mirror.places.lock();
        let ids = image.retained.values().flat_map(|topics| topics.values());
        ids.filter_map(|id| Some((*id, *places.get(id)?))).collect()
    };
    wanted.sort_unstable_by_key(|(_, place)| (place.segment, place.offset));
    let mut open: Option<(u64, Box<dyn DiskFile>)> = None;
    let mut messages = Vec::with_capacity(wanted.len());
    for (id, place) in wanted {
        let unreadable = |source| LogError::Unreadable { file: place.file(), action: "read", source };
        let file = match open.take() {
            Some((segment, file)) if segment == place.segment => file,
            _ => disk.open(&place.file()).map_err(unreadable)?,
        };
        match read_message(&*file, place, id, time).map_err(unreadable)? {
            Some((message, _)) => messages.push((id, message)),
            None => {
                return Err(LogError::Damaged {
                    file: place.file(),
                    offset: place.offset.into(),
                    wanted: "a message with the checksum before it",
                });
            }
        }
        open = Some((place.segment, file));
    }
    Ok(messages)
}

/// Reads a message and the bytes of its record; `None` when it is damaged.
pub(crate) fn read_message(
    file: &dyn DiskFile,
    place: Place,
    id: MessageId,
    time: TimeBase,
) -> std::io::Result<Option<(Arc<Message>, Vec<u8>)>> {
    // A forged length must not make us ask for memory: nothing ends behind the end of the file.
    if place.end() > file.length()? {
        return Ok(None);
    }
    let mut bytes = vec![0; frame::SUM + place.bytes as usize];
    file.read_at(place.offset.into(), &mut bytes)?;
    let sum = frame::u32_at(&bytes, 0);
    bytes.drain(..frame::SUM);
    if sum != Some(crc32fast::hash(&bytes)) {
        return Ok(None);
    }
    Ok(match Record::decode(time, &bytes) {
        Ok((Record::Message { id: found, message, .. }, _)) if found == id => Some((message, bytes)),
        _ => None,
    })
}

/// A file that is read as far as is needed.
struct Reading {
    file: Box<dyn DiskFile>,
    length: usize,
    /// What is read of it.
    bytes: Vec<u8>,
}

/// So much is read of a file at first; then twice as much, and again.
const READ_AT_FIRST: usize = 256 << 10;

impl Reading {
    fn open(disk: &dyn Disk, name: &str, whole: bool) -> Result<Self, LogError> {
        let open = || {
            let file = disk.open(name)?;
            let length = usize::try_from(file.length()?).map_err(std::io::Error::other)?;
            let mut bytes = vec![0; if whole { length } else { length.min(READ_AT_FIRST) }];
            file.read_at(0, &mut bytes)?;
            Ok(Self { file, length, bytes })
        };
        open().map_err(|source| LogError::Unreadable { file: name.to_owned(), action: "read", source })
    }

    fn is_whole(&self) -> bool {
        self.bytes.len() == self.length
    }

    fn read_on(&mut self, name: &str) -> Result<(), LogError> {
        let from = self.bytes.len();
        self.bytes.resize(self.length.min(2 * from.max(READ_AT_FIRST)), 0);
        let read = self.file.read_at(from as u64, &mut self.bytes[from..]);
        read.map_err(|source| LogError::Unreadable { file: name.to_owned(), action: "read", source })
    }

    /// How many bytes were read.
    fn read(&self) -> u64 {
        self.bytes.len() as u64
    }
}

fn read_whole(disk: &dyn Disk, name: &str) -> Result<Vec<u8>, LogError> {
    let read = || {
        let file = disk.open(name)?;
        let length = usize::try_from(file.length()?).map_err(std::io::Error::other)?;
        let mut bytes = vec![0; length];
        file.read_at(0, &mut bytes)?;
        Ok(bytes)
    };
    read().map_err(|source| LogError::Unreadable { file: name.to_owned(), action: "read", source })
}
