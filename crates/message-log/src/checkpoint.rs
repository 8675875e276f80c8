//! What stands, written down: everything but the payloads, so that opening reads only what came after.
//!
//! ```text
//! header   as of a segment
//! chunk    bytes (4), checksum (4), items: kind (1) and the fields of the item
//! ```
//!
//! The last item of the last chunk says how many there were.

use std::io;

use drawbridge_broker::storage::{Image, MessageId, Pending, Record, SessionId, TimeBase};
use drawbridge_mqtt::codec::{PacketId, Qos};
use drawbridge_names::RegistryName;

use crate::disk::{Disk, DiskFile};
use crate::error::LogError;
use crate::frame::{self, CHECKPOINT, HEADER, Header};
use crate::mirror::{Mirror, Place, Segment, owe};
use crate::recovery::UNFINISHED;

const HIGHEST: u8 = 1;
const SEGMENT: u8 = 2;
const RECORD: u8 = 3;
const PENDING: u8 = 4;
const RETAINED: u8 = 5;
const PLACE: u8 = 6;
const END: u8 = 7;

/// A chunk is closed when it has so many bytes.
const CHUNK: usize = 1 << 20;
/// After so many bytes the file is synced, so that commits beside it do not wait for all of it at once.
const SYNC_EVERY: u64 = 4 << 20;

/// Writes down what stands and gives it its name. When this returns, it survives a power cut. Gives its bytes.
pub(crate) fn write(disk: &dyn Disk, mirror: &Mirror, time: TimeBase, salt: u64) -> io::Result<u64> {
    let name = frame::checkpoint_name(mirror.next);
    let temporary = format!("{name}{UNFINISHED}");
    let mut writer = Writer {
        file: disk.create(&temporary)?,
        chunk: Vec::with_capacity(CHUNK + 4096),
        items: 0,
        bytes: 0,
        synced: 0,
    };
    let written = writer.all(mirror, time, salt).and_then(|()| writer.file.sync());
    if let Err(error) =
        written.and_then(|()| disk.rename(&temporary, &name)).and_then(|()| disk.sync_folder())
    {
        // Gives the space back; if that fails too, the next opening removes it.
        let _ = disk.remove(&temporary);
        return Err(error);
    }
    Ok(writer.bytes)
}

struct Writer {
    file: Box<dyn DiskFile>,
    chunk: Vec<u8>,
    items: u64,
    bytes: u64,
    synced: u64,
}

impl Writer {
    fn all(&mut self, mirror: &Mirror, time: TimeBase, salt: u64) -> io::Result<()> {
        let image = &mirror.image;
        self.append(&frame::header(CHECKPOINT, mirror.next, salt))?;
        self.item(HIGHEST, |out| {
            [image.session_max, image.message_max, image.owner_epoch_max]
                .iter()
                .for_each(|n| put_u64(out, *n));
        })?;
        for (first, segment) in &mirror.segments {
            self.item(SEGMENT, |out| {
                [*first, segment.last, segment.bytes].iter().for_each(|n| put_u64(out, *n));
            })?;
        }
        for (id, session) in &image.sessions {
            let stored = Record::Session(Box::new(session.session.clone()));
            self.item(RECORD, |out| stored.encode(time, out))?;
            for (filter, terms) in session.filters() {
                let subscribed = Record::Subscribed { session: *id, filter, terms };
                self.item(RECORD, |out| subscribed.encode(time, out))?;
            }
            for packet_id in session.inbound.iter().filter_map(|packet_id| PacketId::new(*packet_id)) {
                let inbound = Record::Inbound { session: *id, packet_id };
                self.item(RECORD, |out| inbound.encode(time, out))?;
            }
            for (message, pending) in &session.pending {
                self.item(PENDING, |out| {
                    put_u64(out, id.0);
                    put_u64(out, message.0);
                    out.push(
                        pending.qos.bits() | u8::from(pending.retain) << 2 | u8::from(pending.received) << 3,
                    );
                    out.extend_from_slice(&pending.packet_id.map_or(0, PacketId::get).to_le_bytes());
                    put_u32(out, u32::try_from(pending.identifiers.len()).unwrap_or(u32::MAX));
                    pending.identifiers.iter().for_each(|identifier| put_u32(out, *identifier));
                })?;
            }
        }
        for (id, registry, topic) in image.cleared() {
            let cleared = Record::RetainedCleared { id, registry: registry.clone(), topic: topic.into() };
            self.item(RECORD, |out| cleared.encode(time, out))?;
        }
        for (registry, topics) in &image.retained {
            for (topic, id) in topics {
                self.item(RETAINED, |out| {
                    put_text(out, registry.as_str());
                    put_text(out, topic);
                    put_u64(out, id.0);
                })?;
            }
        }
        // Copied in pieces: the reader and the disk's slowness must not meet in this lock.
        let mut from = MessageId(0);
        loop {
            let piece: Vec<(MessageId, Place)> =
                mirror.places.lock().range(from..).take(4096).map(|(id, place)| (*id, *place)).collect();
            for (id, place) in &piece {
                self.item(PLACE, |out| {
                    put_u64(out, id.0);
                    put_u64(out, place.segment);
                    [place.offset, place.bytes, place.received_s].iter().for_each(|n| put_u32(out, *n));
                })?;
            }
            match piece.last().and_then(|(last, _)| last.0.checked_add(1)) {
                Some(next) => from = MessageId(next),
                None => break,
            }
        }
        let items = self.items;
        self.item(END, |out| put_u64(out, items))?;
        self.close_chunk()
    }

    fn item(&mut self, kind: u8, fill: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        if self.chunk.is_empty() {
            self.chunk.extend_from_slice(&[0; 8]);
        }
        self.chunk.push(kind);
        fill(&mut self.chunk);
        self.items += 1;
        if self.chunk.len() >= CHUNK { self.close_chunk() } else { Ok(()) }
    }

    fn close_chunk(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let mut chunk = std::mem::take(&mut self.chunk);
        let (head, items) = chunk.split_at_mut(8);
        let length = u32::try_from(items.len()).map_err(io::Error::other)?;
        head[..4].copy_from_slice(&length.to_le_bytes());
        head[4..].copy_from_slice(&crc32fast::hash(items).to_le_bytes());
        self.append(&chunk)?;
        chunk.clear();
        self.chunk = chunk;
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.append(bytes)?;
        self.bytes += bytes.len() as u64;
        if self.bytes - self.synced >= SYNC_EVERY {
            self.file.sync()?;
            self.synced = self.bytes;
        }
        Ok(())
    }
}

fn put_u32(out: &mut Vec<u8>, number: u32) {
    out.extend_from_slice(&number.to_le_bytes());
}

fn put_u64(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_le_bytes());
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_u32(out, u32::try_from(text.len()).unwrap_or(u32::MAX));
    out.extend_from_slice(text.as_bytes());
}

/// What was written down, and its bytes.
pub(crate) fn read(disk: &dyn Disk, name: &str, time: TimeBase) -> Result<(Mirror, u64), LogError> {
    let unreadable = |source| LogError::Unreadable { file: name.to_owned(), action: "read", source };
    let damaged = |offset: u64, wanted| LogError::Damaged { file: name.to_owned(), offset, wanted };
    let file = disk.open(name).map_err(unreadable)?;
    let length = file.length().map_err(unreadable)?;
    let mut header = [0; HEADER];
    if length < HEADER as u64 {
        return Err(damaged(0, "the header of a checkpoint"));
    }
    file.read_at(0, &mut header).map_err(unreadable)?;
    let mut mirror = Mirror::default();
    match frame::read_header(&header, CHECKPOINT) {
        Header::Good { number, .. } if frame::checkpoint_name(number) == name => mirror.next = number,
        Header::OtherVersion(found) => {
            return Err(LogError::Format { file: name.to_owned(), found, known: frame::VERSION });
        }
        _ => return Err(damaged(0, "the header of a checkpoint")),
    }
    let (mut at, mut items, mut ended) = (HEADER as u64, 0, false);
    let mut chunk = Vec::new();
    while at < length {
        let mut head = [0; 8];
        if ended || length - at < 8 {
            return Err(damaged(at, if ended { "the end of the checkpoint" } else { "the head of a chunk" }));
        }
        file.read_at(at, &mut head).map_err(unreadable)?;
        let bytes = frame::u32_at(&head, 0).unwrap_or(u32::MAX);
        if u64::from(bytes) > length - at - 8 {
            return Err(damaged(at, "a chunk of the length before it"));
        }
        chunk.resize(bytes as usize, 0);
        file.read_at(at + 8, &mut chunk).map_err(unreadable)?;
        if frame::u32_at(&head, 4) != Some(crc32fast::hash(&chunk)) {
            return Err(damaged(at, "a chunk with the checksum before it"));
        }
        let mut from = Reader { rest: &chunk };
        while !from.rest.is_empty() {
            let offset = at + 8 + (chunk.len() - from.rest.len()) as u64;
            match from.item(&mut mirror, time) {
                Some(None) if !ended => items += 1,
                Some(Some(counted)) if !ended && counted == items => ended = true,
                _ => return Err(damaged(offset, "an item of a checkpoint")),
            }
        }
        at += 8 + u64::from(bytes);
    }
    if ended { Ok((mirror, length)) } else { Err(damaged(length, "the rest of the checkpoint")) }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    /// Takes one item into the mirror. The last one gives the number of those before it.
    fn item(&mut self, mirror: &mut Mirror, time: TimeBase) -> Option<Option<u64>> {
        let image = &mut mirror.image;
        match self.array::<1>()? {
            [HIGHEST] => {
                image.session_max = image.session_max.max(self.u64()?);
                image.message_max = image.message_max.max(self.u64()?);
                image.owner_epoch_max = image.owner_epoch_max.max(self.u64()?);
            }
            [SEGMENT] => {
                let first = self.u64()?;
                let segment = Segment { last: self.u64()?, bytes: self.u64()?, ..Segment::default() };
                mirror.segments.insert(first, segment);
            }
            [RECORD] => {
                let (record, length) = Record::decode(time, self.rest).ok()?;
                self.rest = self.rest.get(length..)?;
                if matches!(record, Record::Message { .. }) {
                    return None;
                }
                image.apply(&record);
            }
            [PENDING] => self.pending(image)?,
            [RETAINED] => {
                let registry = RegistryName::parse(self.text()?).ok()?;
                let topic = self.text()?.into();
                let id = MessageId(self.u64()?);
                if image.retained.entry(registry).or_default().insert(topic, id).is_some() {
                    return None;
                }
                *image.references.entry(id).or_default() += 1;
            }
            [PLACE] => {
                let id = MessageId(self.u64()?);
                let place = Place {
                    segment: self.u64()?,
                    offset: self.u32()?,
                    bytes: self.u32()?,
                    received_s: self.u32()?,
                };
                if !mirror.segments.contains_key(&place.segment) {
                    return None;
                }
                let places = mirror.places.clone();
                mirror.put(&mut places.lock(), id, place);
            }
            [END] => return Some(Some(self.u64()?)),
            _ => return None,
        }
        Some(None)
    }

    fn pending(&mut self, image: &mut Image) -> Option<()> {
        let (session, message) = (SessionId(self.u64()?), MessageId(self.u64()?));
        let [bits] = self.array::<1>()?;
        let packet_id = u16::from_le_bytes(self.array()?);
        let count = self.u32()?;
        let pending = Pending {
            qos: Qos::from_bits(bits & 3)?,
            retain: bits & 4 != 0,
            received: bits & 8 != 0,
            packet_id: PacketId::new(packet_id),
            identifiers: (0..count).map(|_| self.u32()).collect::<Option<_>>()?,
        };
        owe(image, session, message, pending).then_some(())
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(*taken)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Option<&str> {
        let length = self.u32()? as usize;
        let (text, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        std::str::from_utf8(text).ok()
    }
}
