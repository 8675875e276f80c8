//! The primitive fields of a packet: integers, binary data, strings, variable byte integers.
//!
//! Source: MQTT 5.0 section 1.5, MQTT 3.1.1 sections 1.5 and 2.2.3.

use drawbridge_names::{TopicName, TopicNameError};

use super::{DecodeError, EncodeError, PacketId, PacketType};

/// The greatest variable byte integer, four bytes of seven bits.
pub(super) const VARIABLE_MAX: usize = 268_435_455;

/// What remains of a packet's body, or of a section of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    packet: PacketType,
}

impl<'a> Reader<'a> {
    #[inline]
    pub(super) fn new(bytes: &'a [u8], packet: PacketType) -> Self {
        Self { rest: bytes, packet }
    }

    pub(super) fn packet(&self) -> PacketType {
        self.packet
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// All that remains, unread.
    #[inline]
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Ends the reading of a packet: nothing may be left.
    pub(super) fn finish(self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            found_bytes => Err(DecodeError::TrailingBytes { packet: self.packet, found_bytes }),
        }
    }

    #[inline]
    pub(super) fn take(&mut self, bytes: usize, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let Some((taken, rest)) = self.rest.split_at_checked(bytes) else {
            return Err(DecodeError::Truncated { packet: self.packet, field });
        };
        self.rest = rest;
        Ok(taken)
    }

    #[inline]
    pub(super) fn u8(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        Ok(self.take(1, field)?[0])
    }

    #[inline]
    pub(super) fn u16(&mut self, field: &'static str) -> Result<u16, DecodeError> {
        let bytes = self.take(2, field)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    pub(super) fn u32(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        let bytes = self.take(4, field)?;
        Ok(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// Source: [MQTT-2.2.1-3] (5.0), [MQTT-2.3.1-1] (3.1.1): never zero.
    #[inline]
    pub(super) fn packet_id(&mut self) -> Result<PacketId, DecodeError> {
        let found = self.u16("packet identifier")?;
        PacketId::new(found).ok_or(DecodeError::PacketIdZero { packet: self.packet })
    }

    /// Two bytes of length, then that many bytes.
    #[inline]
    pub(super) fn binary(&mut self, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let bytes = usize::from(self.u16(field)?);
        self.take(bytes, field)
    }

    /// A string without NUL and other control characters.
    ///
    /// Source: MQTT 5.0 section 1.5.4, MQTT 3.1.1 section 1.5.3.
    pub(super) fn string(&mut self, field: &'static str) -> Result<&'a str, DecodeError> {
        let text = self.utf8(field)?;
        match find_control(text) {
            None => Ok(text),
            Some((at, found)) => Err(self.control(field, at, found)),
        }
    }

    /// A topic name, or `None` when the string is empty.
    #[inline]
    pub(super) fn topic(&mut self, field: &'static str) -> Result<Option<TopicName<'a>>, DecodeError> {
        // `TopicName::parse` looks for control characters in the same pass as for wildcards.
        let text = self.utf8(field)?;
        match TopicName::parse(text) {
            Ok(topic) => Ok(Some(topic)),
            Err(TopicNameError::Empty) => Ok(None),
            Err(TopicNameError::Wildcard { found, at }) => {
                Err(DecodeError::TopicWildcard { packet: self.packet, field, found, at })
            }
            Err(TopicNameError::Control { found, at }) => Err(self.control(field, at, found)),
            Err(TopicNameError::TooLong { .. }) => {
                unreachable!("two bytes of length cannot say more than 65535")
            }
        }
    }

    /// Source: [MQTT-1.5.5-1] (5.0): at most four bytes, and no more than needed.
    pub(super) fn variable(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        match read_variable(self.rest, self.packet, field)? {
            Some((value, bytes)) => {
                self.rest = &self.rest[bytes..];
                Ok(value)
            }
            None => Err(DecodeError::Truncated { packet: self.packet, field }),
        }
    }

    #[inline]
    fn utf8(&mut self, field: &'static str) -> Result<&'a str, DecodeError> {
        let bytes = self.binary(field)?;
        std::str::from_utf8(bytes).map_err(|fault| DecodeError::StringIllFormed {
            packet: self.packet,
            field,
            at: fault.valid_up_to(),
        })
    }

    fn control(&self, field: &'static str, at: usize, found: char) -> DecodeError {
        if found == '\0' {
            DecodeError::StringNul { packet: self.packet, field, at }
        } else {
            DecodeError::StringControl { packet: self.packet, field, found, at }
        }
    }
}

/// Reads a variable byte integer at the start of `bytes`: its value and its length in bytes, or
/// `None` when `bytes` ends within it.
#[inline]
pub(super) fn read_variable(
    bytes: &[u8],
    packet: PacketType,
    field: &'static str,
) -> Result<Option<(u32, usize)>, DecodeError> {
    match *bytes {
        [low, ..] if low < 0x80 => Ok(Some((u32::from(low), 1))),
        [low, high, ..] if high < 0x80 && high > 0 => {
            Ok(Some((u32::from(low & 0x7f) | u32::from(high) << 7, 2)))
        }
        _ => read_long_variable(bytes, packet, field),
    }
}

fn read_long_variable(
    bytes: &[u8],
    packet: PacketType,
    field: &'static str,
) -> Result<Option<(u32, usize)>, DecodeError> {
    let mut value = 0_u32;
    for (at, &byte) in bytes.iter().take(4).enumerate() {
        value |= u32::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            if byte == 0 && at > 0 {
                return Err(DecodeError::LengthNotMinimal { packet, field, found_bytes: at + 1 });
            }
            return Ok(Some((value, at + 1)));
        }
    }
    if bytes.len() >= 4 { Err(DecodeError::LengthOverlong { packet, field }) } else { Ok(None) }
}

/// The first control character (U+0000..U+001F, U+007F..U+009F) and its place in bytes.
fn find_control(text: &str) -> Option<(usize, char)> {
    let bytes = text.as_bytes();
    // In UTF-8 U+0080..U+009F is C2 80..C2 9F; every other control character is one byte.
    let suspect = bytes.iter().any(|&byte| byte < 0x20 || byte == 0x7f || byte == 0xc2);
    if suspect { text.char_indices().find(|(_, c)| c.is_control()) } else { None }
}

pub(super) fn put_u16(out: &mut Vec<u8>, value: u16) {
    out.extend_from_slice(&value.to_be_bytes());
}

pub(super) fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_be_bytes());
}

pub(super) fn put_binary(out: &mut Vec<u8>, field: &'static str, bytes: &[u8]) -> Result<(), EncodeError> {
    let length = u16::try_from(bytes.len())
        .map_err(|_| EncodeError::FieldTooLong { field, found_bytes: bytes.len() })?;
    put_u16(out, length);
    out.extend_from_slice(bytes);
    Ok(())
}

pub(super) fn put_string(out: &mut Vec<u8>, field: &'static str, text: &str) -> Result<(), EncodeError> {
    if let Some((at, found)) = find_control(text) {
        return Err(EncodeError::StringControl { field, found, at });
    }
    put_binary(out, field, text.as_bytes())
}

/// The bytes of a variable byte integer and how many of the four count.
pub(super) fn variable_bytes(mut value: usize) -> Result<([u8; 4], usize), EncodeError> {
    if value > VARIABLE_MAX {
        return Err(EncodeError::TooLarge { found_bytes: value });
    }
    let mut bytes = [0_u8; 4];
    let mut count = 0;
    loop {
        let low = u8::try_from(value & 0x7f).expect("masked to seven bits");
        value >>= 7;
        bytes[count] = if value > 0 { low | 0x80 } else { low };
        count += 1;
        if value == 0 {
            return Ok((bytes, count));
        }
    }
}

pub(super) fn put_variable(out: &mut Vec<u8>, value: usize) -> Result<(), EncodeError> {
    let (bytes, count) = variable_bytes(value)?;
    out.extend_from_slice(&bytes[..count]);
    Ok(())
}

/// Writes a section that begins with its own length. On a fault `out` is as long as before.
pub(super) fn put_section(
    out: &mut Vec<u8>,
    body: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    let length_at = out.len();
    // Most sections are shorter than 128 bytes: leave one byte for the length and move the body only
    // if it needs more.
    out.push(0);
    let written = body(out).and_then(|()| variable_bytes(out.len() - length_at - 1));
    match written {
        Ok((bytes, count)) => {
            out[length_at] = bytes[0];
            if count > 1 {
                out.splice(length_at + 1..length_at + 1, bytes[1..count].iter().copied());
            }
            Ok(())
        }
        Err(fault) => {
            out.truncate(length_at);
            Err(fault)
        }
    }
}

/// Writes a whole packet: first byte, remaining length, body. On a fault `out` is as long as before.
pub(super) fn put_packet(
    out: &mut Vec<u8>,
    first_byte: u8,
    body: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    let start = out.len();
    out.push(first_byte);
    let written = put_section(out, body);
    if written.is_err() {
        out.truncate(start);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELD: &str = "remaining length";

    #[test]
    fn variable_byte_integers_round_trip_at_every_boundary() {
        for value in [0, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152, VARIABLE_MAX] {
            let (bytes, count) = variable_bytes(value).expect("within four bytes");
            let read = read_variable(&bytes[..count], PacketType::Publish, FIELD);
            assert_eq!(read, Ok(Some((u32::try_from(value).expect("28 bits"), count))));
            assert_eq!(read_variable(&bytes[..count - 1], PacketType::Publish, FIELD), Ok(None));
        }
        assert!(variable_bytes(VARIABLE_MAX + 1).is_err());
    }

    #[test]
    fn variable_byte_integers_of_five_bytes_are_refused() {
        for bytes in [&[0xff, 0xff, 0xff, 0xff][..], &[0x80, 0x80, 0x80, 0x80, 0x01]] {
            assert_eq!(
                read_variable(bytes, PacketType::Publish, FIELD),
                Err(DecodeError::LengthOverlong { packet: PacketType::Publish, field: FIELD })
            );
        }
    }

    #[test]
    fn variable_byte_integers_longer_than_needed_are_refused() {
        for bytes in [&[0x80, 0x00][..], &[0xff, 0x80, 0x00], &[0x81, 0x80, 0x80, 0x00]] {
            assert_eq!(
                read_variable(bytes, PacketType::Publish, FIELD),
                Err(DecodeError::LengthNotMinimal {
                    packet: PacketType::Publish,
                    field: FIELD,
                    found_bytes: bytes.len()
                })
            );
        }
    }

    #[test]
    fn a_section_that_fails_leaves_nothing_behind() {
        let mut out = vec![7];
        let fault = put_section(&mut out, |out| put_string(out, "client identifier", "a\0"));
        assert_eq!(fault, Err(EncodeError::StringControl { field: "client identifier", found: '\0', at: 1 }));
        assert_eq!(out, [7]);
    }
}
