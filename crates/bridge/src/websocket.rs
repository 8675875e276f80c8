//! The framing of MQTT over WebSocket: the server's end of RFC 6455 section 5, without I/O.
//!
//! Strict, and without a buffer: a payload is unmasked where it was read and handed on as it comes, so
//! neither a frame nor a message is ever kept. What a frame says of its length is only compared with the most
//! that is allowed; the lengths in MQTT packets are judged by the MQTT codec, which sees one stream of bytes, as MQTT
//! 5.0 section 6 ([MQTT-6.0.0-4]) wants it. Extensions are none: no one was agreed on.

/// Longest frame of a client that is admitted, in bytes. It is not buffered, and holds as many packets as the
/// client likes to write at once.
pub(crate) const FRAME_BYTES_MAX: usize = 64 << 20;
/// Longest payload of a control frame (RFC 6455 section 5.5).
const CONTROL_BYTES_MAX: usize = 125;
/// Longest header of a frame with a mask.
const HEADER_BYTES_MAX: usize = 14;

/// Why a client is closed on. The number is that of RFC 6455 section 7.4.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameFault {
    /// Section 5.1: what a client sends is masked.
    #[error("a frame is not masked; every frame of a client has to be")]
    NotMasked,
    /// Section 5.2: reserved bits are for extensions, and none was agreed on.
    #[error("a frame has a reserved bit set, and no extension was agreed on")]
    ReservedBit,
    /// Section 5.2: opcodes 3 to 7 and 11 to 15.
    #[error("a frame has the reserved opcode {0}")]
    ReservedOpcode(u8),
    /// [MQTT-6.0.0-1]: MQTT comes in binary frames.
    #[error("a text frame came; MQTT is sent in binary frames")]
    Text,
    /// Section 5.5: control frames are not fragmented and have 125 bytes at most.
    #[error("a control frame is fragmented or longer than 125 bytes")]
    ControlFrame,
    /// Section 5.4.
    #[error("a continuation frame came, and no message had been begun")]
    NothingToContinue,
    /// Section 5.4.
    #[error("a new message began inside of a fragmented one")]
    MessageInterrupted,
    /// Section 5.2: the shortest form, and no more than 63 bits.
    #[error("the length of a frame is not written in the shortest form")]
    LengthForm,
    /// Longer than is allowed now.
    #[error("a frame of {found} bytes came; at most {bytes_max} are allowed now")]
    TooLong {
        /// As its header says.
        found: u64,
        /// The most allowed.
        bytes_max: usize,
    },
    /// Section 7.4: one byte, or a number that is not for the wire.
    #[error("a close frame has a body that cannot be")]
    CloseBody,
}

impl FrameFault {
    /// The code of the close frame that answers it.
    #[must_use]
    pub fn close_code(self) -> u16 {
        match self {
            Self::Text => 1003,
            Self::TooLong { .. } => 1009,
            _ => 1002,
        }
    }
}

/// What a client has sent, taken out of its frames.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Unframed {
    /// So many bytes of MQTT stand at the front now.
    pub bytes: usize,
    /// The payload of the last ping: the one that is answered (section 5.5.3).
    pub ping: Option<Vec<u8>>,
    /// A close frame came, and the code to echo. Nothing after it is looked at.
    pub close: Option<u16>,
}

/// Reads the frames of one client.
#[derive(Debug, Default)]
pub struct FrameReader {
    /// A header that has come in part.
    header: [u8; HEADER_BYTES_MAX],
    header_bytes: u8,
    /// A fragmented message is under way.
    in_message: bool,
    /// The frame whose payload comes now.
    payload: Option<Payload>,
    /// The payload of a control frame as far as it has come. Empty otherwise, and then without memory.
    control: Vec<u8>,
    closed: bool,
}

#[derive(Debug, Clone, Copy)]
struct Payload {
    opcode: Opcode,
    left: u32,
    /// Turned as far as the payload has come.
    mask: [u8; 4],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opcode {
    /// Binary, or the continuation of it.
    Data,
    Close,
    Ping,
    Pong,
}

impl FrameReader {
    /// Takes all of `bytes` in and leaves the MQTT that they carry at their front. `bytes_max`: the longest
    /// data frame allowed now.
    ///
    /// # Errors
    /// [`FrameFault`]; nothing more must be given in then.
    pub fn take(&mut self, bytes: &mut [u8], bytes_max: usize) -> Result<Unframed, FrameFault> {
        let mut taken = Unframed::default();
        let mut at = 0;
        while at < bytes.len() && !self.closed {
            let Some(payload) = self.payload else {
                at += self.take_header(bytes.get(at..).unwrap_or_default(), bytes_max)?;
                // A frame without a payload is over with its header.
                if self.payload.is_some_and(|payload| payload.left == 0) {
                    self.end_frame(&mut taken)?;
                }
                continue;
            };
            let come = (bytes.len() - at).min(payload.left as usize);
            let end = at + come;
            let mask = unmask(bytes.get_mut(at..end).unwrap_or_default(), payload.mask);
            match payload.opcode {
                Opcode::Data => {
                    bytes.copy_within(at..end, taken.bytes);
                    taken.bytes += come;
                }
                _ => self.control.extend_from_slice(bytes.get(at..end).unwrap_or_default()),
            }
            at = end;
            let left = payload.left - u32::try_from(come).unwrap_or(payload.left);
            self.payload = Some(Payload { left, mask, ..payload });
            if left == 0 {
                self.end_frame(&mut taken)?;
            }
        }
        Ok(taken)
    }

    /// Returns how many bytes belonged to the header.
    fn take_header(&mut self, bytes: &[u8], bytes_max: usize) -> Result<usize, FrameFault> {
        let mut used = 0;
        for byte in bytes {
            used += 1;
            self.header[usize::from(self.header_bytes)] = *byte;
            self.header_bytes += 1;
            let [first, second, ..] = self.header;
            let extended = match second & 0x7f {
                126 => 2,
                127 => 8,
                _ => 0,
            };
            match usize::from(self.header_bytes) {
                1 => {}
                // Judged as soon as it is there, so that a fault is not waited for.
                2 => self.judge(first, second)?,
                have if have == 2 + extended && extended > 0 => {
                    judge_length(self.length(extended)?, bytes_max)?;
                }
                have if have == 2 + extended + 4 => {
                    let length = self.length(extended)?;
                    if first & 0x08 == 0 {
                        judge_length(length, bytes_max)?;
                        self.in_message = first & 0x80 == 0;
                    }
                    let opcode = match first & 0x0f {
                        8 => Opcode::Close,
                        9 => Opcode::Ping,
                        10 => Opcode::Pong,
                        _ => Opcode::Data,
                    };
                    let mut mask = [0; 4];
                    mask.copy_from_slice(&self.header[2 + extended..2 + extended + 4]);
                    let left = u32::try_from(length).map_err(|_| FrameFault::LengthForm)?;
                    self.payload = Some(Payload { opcode, left, mask });
                    self.header_bytes = 0;
                    return Ok(used);
                }
                _ => {}
            }
        }
        Ok(used)
    }

    /// The first two bytes of a header.
    fn judge(&self, first: u8, second: u8) -> Result<(), FrameFault> {
        if first & 0x70 != 0 {
            return Err(FrameFault::ReservedBit);
        }
        if second & 0x80 == 0 {
            return Err(FrameFault::NotMasked);
        }
        match first & 0x0f {
            0 if !self.in_message => Err(FrameFault::NothingToContinue),
            2 if self.in_message => Err(FrameFault::MessageInterrupted),
            0 | 2 => Ok(()),
            1 => Err(FrameFault::Text),
            8..=10 if first & 0x80 == 0 || usize::from(second & 0x7f) > CONTROL_BYTES_MAX => {
                Err(FrameFault::ControlFrame)
            }
            8..=10 => Ok(()),
            opcode => Err(FrameFault::ReservedOpcode(opcode)),
        }
    }

    /// The length that the header says, `extended` bytes of which stand behind the first two.
    fn length(&self, extended: usize) -> Result<u64, FrameFault> {
        let short = u64::from(self.header[1] & 0x7f);
        let long = self.header[2..2 + extended].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        match extended {
            0 => Ok(short),
            2 if long > 125 => Ok(long),
            8 if long > 0xffff && long >> 63 == 0 => Ok(long),
            _ => Err(FrameFault::LengthForm),
        }
    }

    fn end_frame(&mut self, taken: &mut Unframed) -> Result<(), FrameFault> {
        let control = std::mem::take(&mut self.control);
        match self.payload.take().map(|payload| payload.opcode) {
            Some(Opcode::Ping) => taken.ping = Some(control),
            Some(Opcode::Close) => {
                self.closed = true;
                taken.close = Some(close_code(&control)?);
            }
            Some(Opcode::Data | Opcode::Pong) | None => {}
        }
        Ok(())
    }
}

fn judge_length(found: u64, bytes_max: usize) -> Result<(), FrameFault> {
    match usize::try_from(found) {
        Ok(fits) if fits <= bytes_max => Ok(()),
        _ => Err(FrameFault::TooLong { found, bytes_max }),
    }
}

/// The code that a close frame is answered with.
///
/// Source: RFC 6455 sections 5.5.1, 7.4.1, 7.4.2.
fn close_code(body: &[u8]) -> Result<u16, FrameFault> {
    let Some((code, reason)) = body.split_first_chunk() else {
        return if body.is_empty() { Ok(1000) } else { Err(FrameFault::CloseBody) };
    };
    let code = u16::from_be_bytes(*code);
    match code {
        1000..=1003 | 1007..=1014 | 3000..=4999 if std::str::from_utf8(reason).is_ok() => Ok(code),
        _ => Err(FrameFault::CloseBody),
    }
}

/// Takes the mask off; returns it turned to where the payload goes on.
///
/// Source: RFC 6455 section 5.3.
fn unmask(bytes: &mut [u8], mut mask: [u8; 4]) -> [u8; 4] {
    for chunk in bytes.chunks_mut(4) {
        for (byte, key) in chunk.iter_mut().zip(mask) {
            *byte ^= key;
        }
    }
    mask.rotate_left(bytes.len() % 4);
    mask
}

/// Writes the header of a binary frame that is a whole message, into `header`; returns its length.
pub fn data_header(header: &mut [u8; 10], payload_bytes: usize) -> usize {
    let length = payload_bytes as u64;
    header[0] = 0x82;
    match length {
        0..=125 => {
            header[1] = length as u8;
            2
        }
        126..=0xffff => {
            header[1] = 126;
            header[2..4].copy_from_slice(&(length as u16).to_be_bytes());
            4
        }
        _ => {
            header[1] = 127;
            header[2..10].copy_from_slice(&length.to_be_bytes());
            10
        }
    }
}

/// The pong that answers a ping: the same payload, 125 bytes at most.
pub(crate) fn pong(payload: &[u8]) -> Vec<u8> {
    let payload = payload.get(..payload.len().min(CONTROL_BYTES_MAX)).unwrap_or_default();
    let mut frame = vec![0x8a, payload.len() as u8];
    frame.extend_from_slice(payload);
    frame
}

/// A close frame.
pub(crate) fn close(code: u16) -> [u8; 4] {
    let [high, low] = code.to_be_bytes();
    [0x88, 2, high, low]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame of a client.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [0x12, 0x34, 0x56, 0x78];
        let mut header = [0; 10];
        let length = data_header(&mut header, payload.len());
        header[0] = first;
        header[1] |= 0x80;
        let mut frame = header[..length].to_vec();
        frame.extend_from_slice(&mask);
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
        frame
    }

    /// All that comes out when the bytes come in pieces of this length.
    fn read(
        bytes: &[u8],
        piece: usize,
        bytes_max: usize,
    ) -> Result<(Vec<u8>, Vec<Vec<u8>>, Option<u16>), FrameFault> {
        let mut reader = FrameReader::default();
        let (mut all, mut pings, mut close) = (Vec::new(), Vec::new(), None);
        for piece in bytes.chunks(piece) {
            let mut piece = piece.to_vec();
            let taken = reader.take(&mut piece, bytes_max)?;
            all.extend_from_slice(&piece[..taken.bytes]);
            pings.extend(taken.ping);
            close = close.or(taken.close);
        }
        assert_eq!(reader.control.capacity(), 0, "nothing is kept between frames");
        Ok((all, pings, close))
    }

    #[test]
    fn the_payload_is_one_stream_however_it_is_framed_and_cut() {
        let long: Vec<u8> = (0..70_000_u32).map(|n| n as u8).collect();
        let parts = [
            frame(0x02, b"ab"),
            frame(0x89, b"are you there"),
            frame(0x00, &[]),
            frame(0x80, &long),
            frame(0x82, &long[..300]),
        ];
        let bytes = parts.concat();
        let wanted = [&b"ab"[..], &long, &long[..300]].concat();
        for piece in [1, 2, 3, 7, 127, 4096, bytes.len()] {
            let (all, pings, close) = read(&bytes, piece, 1 << 20).expect("good frames");
            assert!(all == wanted, "pieces of {piece}");
            assert_eq!((pings, close), (vec![b"are you there".to_vec()], None), "pieces of {piece}");
        }
    }

    #[test]
    fn what_the_standard_forbids_is_refused_with_its_code() {
        let unmasked = vec![0x82, 1, b'x'];
        let long_form = |first: u8, bytes: &[u8]| [&[0x82, first], bytes, &[0; 4]].concat();
        let table: Vec<(&str, Vec<u8>, FrameFault, u16)> = vec![
            ("unmasked", unmasked, FrameFault::NotMasked, 1002),
            ("RSV1", frame(0xc2, b"x"), FrameFault::ReservedBit, 1002),
            ("opcode 3", frame(0x83, b"x"), FrameFault::ReservedOpcode(3), 1002),
            ("opcode 15", frame(0x8f, b"x"), FrameFault::ReservedOpcode(15), 1002),
            ("text", frame(0x81, b"x"), FrameFault::Text, 1003),
            ("ping in parts", frame(0x09, b"x"), FrameFault::ControlFrame, 1002),
            ("a long ping", frame(0x89, &[0; 126]), FrameFault::ControlFrame, 1002),
            ("alone", frame(0x80, b"x"), FrameFault::NothingToContinue, 1002),
            (
                "interrupted",
                [frame(0x02, b"x"), frame(0x82, b"y")].concat(),
                FrameFault::MessageInterrupted,
                1002,
            ),
            ("125 in two bytes", long_form(0xfe, &[0, 125]), FrameFault::LengthForm, 1002),
            (
                "65,535 in eight",
                long_form(0xff, &[0, 0, 0, 0, 0, 0, 0xff, 0xff]),
                FrameFault::LengthForm,
                1002,
            ),
            ("64 bits", long_form(0xff, &[0xff; 8]), FrameFault::LengthForm, 1002),
            ("too long", frame(0x82, &[0; 1001]), FrameFault::TooLong { found: 1001, bytes_max: 1000 }, 1009),
            (
                "short and too long",
                frame(0x82, &[0; 1001]),
                FrameFault::TooLong { found: 1001, bytes_max: 1000 },
                1009,
            ),
            ("one byte", frame(0x88, b"x"), FrameFault::CloseBody, 1002),
            ("1006 is not for the wire", frame(0x88, &1006_u16.to_be_bytes()), FrameFault::CloseBody, 1002),
            ("no UTF-8", frame(0x88, &[3, 0xe8, 0xff]), FrameFault::CloseBody, 1002),
        ];
        for (what, bytes, fault, code) in table {
            for piece in [1, bytes.len()] {
                assert_eq!(read(&bytes, piece, 1000), Err(fault), "{what}");
            }
            assert_eq!(fault.close_code(), code, "{what}");
        }
    }

    #[test]
    fn a_frame_that_is_too_long_is_refused_by_its_header_before_a_byte_of_it_has_come() {
        let header = [0x82, 0xff, 0, 0, 0, 0, 0x40, 0, 0, 0];
        let fault = FrameFault::TooLong { found: 1 << 30, bytes_max: 16 << 10 };
        assert_eq!(read(&header, 1, 16 << 10), Err(fault));
    }

    #[test]
    fn nothing_after_a_close_frame_is_looked_at() {
        let bytes = [frame(0x82, b"a"), frame(0x88, &1001_u16.to_be_bytes()), vec![0xff; 20]].concat();
        assert_eq!(read(&bytes, 3, 100), Ok((b"a".to_vec(), Vec::new(), Some(1001))));
        assert_eq!(read(&frame(0x88, &[]), 1, 100), Ok((Vec::new(), Vec::new(), Some(1000))));
    }
}
