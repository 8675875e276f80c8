//! Frames of WebSocket, as a client sends them one after the other.

use drawbridge_bridge::fuzzing::{FrameFault, FrameReader, data_header};

use crate::{Outcome, judge_text};

pub(crate) mod websocket_frames {
    use super::*;

    /// What stands in a sequence of frames, worked out on all of it at once.
    #[derive(Debug, Default, PartialEq)]
    struct Read {
        payload: Vec<u8>,
        last_ping: Option<Vec<u8>>,
        close: Option<u16>,
        fault: Option<FrameFault>,
        frames: usize,
    }

    /// The first byte says how long a frame may be, the second how the rest is cut into reads.
    pub(crate) fn run(data: &[u8]) -> Outcome {
        let [limit, cuts, wire @ ..] = data else { return Outcome::refused("empty") };
        let bytes_max = [125, 1000, 65_536, 64 << 20][usize::from(*limit) % 4];
        let wanted = by_the_book(wire, bytes_max);
        judge(wire, wire.len().max(1), 0, bytes_max, &wanted);
        judge(wire, 1, 0, bytes_max, &wanted);
        judge(wire, 1 + usize::from(*cuts) % 64, u32::from(*cuts), bytes_max, &wanted);
        match wanted.fault {
            Some(fault) => {
                judge_text(&fault.to_string(), wire);
                assert!([1002, 1003, 1009].contains(&fault.close_code()));
                // The kind alone: some name a number.
                let kind = format!("{fault:?}");
                Outcome::refused(kind.split([' ', '(']).next().unwrap_or_default())
            }
            None => Outcome(format!(
                "accepted, closed: {}, pinged: {}",
                wanted.close.is_some(),
                wanted.last_ping.is_some()
            )),
        }
    }

    /// Reads in pieces of at most `piece` bytes, and compares.
    fn judge(wire: &[u8], piece: usize, mut seed: u32, bytes_max: usize, wanted: &Read) {
        let mut reader = FrameReader::default();
        let mut read = Read::default();
        let mut rest = wire;
        while !rest.is_empty() {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let length = if seed == 1_013_904_223 { piece } else { 1 + (seed >> 16) as usize % piece };
            let (now, later) = rest.split_at(length.min(rest.len()));
            rest = later;
            let mut now = now.to_vec();
            let taken = match reader.take(&mut now, bytes_max) {
                Ok(taken) => taken,
                Err(fault) => {
                    assert_eq!(Some(fault), wanted.fault, "pieces of {piece}");
                    assert!(wanted.payload.starts_with(&read.payload), "pieces of {piece}");
                    return;
                }
            };
            assert!(taken.bytes <= now.len());
            read.payload.extend_from_slice(&now[..taken.bytes]);
            read.last_ping = taken.ping.or(read.last_ping);
            read.close = read.close.or(taken.close);
        }
        assert_eq!(wanted.fault, None, "pieces of {piece}: a fault was overlooked");
        assert_eq!(
            (&read.payload, &read.last_ping, read.close),
            (&wanted.payload, &wanted.last_ping, wanted.close),
            "pieces of {piece}"
        );
    }

    /// RFC 6455 section 5, read slowly.
    fn by_the_book(mut wire: &[u8], bytes_max: usize) -> Read {
        let mut read = Read::default();
        let mut in_message = false;
        while read.close.is_none() && wire.len() >= 2 {
            let (fin, opcode) = (wire[0] & 0x80 != 0, wire[0] & 0x0f);
            let short = wire[1] & 0x7f;
            let is_control = opcode >= 8;
            let fault = match opcode {
                _ if wire[0] & 0x70 != 0 => Some(FrameFault::ReservedBit),
                _ if wire[1] & 0x80 == 0 => Some(FrameFault::NotMasked),
                0 if !in_message => Some(FrameFault::NothingToContinue),
                1 => Some(FrameFault::Text),
                2 if in_message => Some(FrameFault::MessageInterrupted),
                3..=7 | 11.. => Some(FrameFault::ReservedOpcode(opcode)),
                8..=10 if !fin || short > 125 => Some(FrameFault::ControlFrame),
                _ => None,
            };
            if fault.is_some() {
                return Read { fault, ..read };
            }
            let (header, length) = match short {
                126 if wire.len() < 4 => break,
                126 => (4, u64::from(u16::from_be_bytes([wire[2], wire[3]]))),
                127 if wire.len() < 10 => break,
                127 => (10, u64::from_be_bytes(wire[2..10].try_into().expect("eight bytes"))),
                short => (2, u64::from(short)),
            };
            let shortest = match length {
                0..=125 => 2,
                126..=0xffff => 4,
                _ => 10,
            };
            if header != shortest || length > i64::MAX as u64 {
                return Read { fault: Some(FrameFault::LengthForm), ..read };
            }
            if !is_control && (header > 2 || wire.len() >= 6) && length > bytes_max as u64 {
                return Read { fault: Some(FrameFault::TooLong { found: length, bytes_max }), ..read };
            }
            if wire.len() < header + 4 {
                break;
            }
            let mask = &wire[header..header + 4];
            let come = (length as usize).min(wire.len() - header - 4);
            let masked = &wire[header + 4..header + 4 + come];
            let payload: Vec<u8> =
                masked.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
            let is_whole = come as u64 == length;
            wire = &wire[header + 4 + come..];
            if !is_control {
                read.payload.extend(payload);
                in_message = !fin;
            } else if is_whole && opcode == 9 {
                read.last_ping = Some(payload);
            } else if is_whole && opcode == 8 {
                match close_code(&payload) {
                    Some(code) => read.close = Some(code),
                    None => return Read { fault: Some(FrameFault::CloseBody), ..read },
                }
            }
            read.frames += 1;
        }
        read
    }

    fn close_code(body: &[u8]) -> Option<u16> {
        if body.is_empty() {
            return Some(1000);
        }
        let code = u16::from_be_bytes([*body.first()?, *body.get(1)?]);
        let is_for_the_wire = (1000..5000).contains(&code) && !matches!(code, 1004..=1006 | 1015..=2999);
        (is_for_the_wire && std::str::from_utf8(&body[2..]).is_ok()).then_some(code)
    }

    /// A frame as a client writes it.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut header = [0; 10];
        let length = data_header(&mut header, payload.len());
        header[0] = first;
        header[1] |= 0x80;
        let mask = [0x37, 0xfa, 0x21, 0x3d];
        let masked = payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key);
        header[..length].iter().copied().chain(mask).chain(masked).collect()
    }

    /// Good sequences, and one of each kind that is refused.
    pub(crate) fn seeds() -> Vec<Vec<u8>> {
        let connect = b"\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04lamp";
        let whole = frame(0x82, connect);
        let parts =
            [frame(0x02, &connect[..3]), frame(0x89, b"ping"), frame(0x00, &[]), frame(0x80, &connect[3..])];
        let ended = [frame(0x82, &[0xe0, 0]), frame(0x88, &1000_u16.to_be_bytes())];
        let wires = [
            whole.clone(),
            parts.concat(),
            ended.concat(),
            [frame(0x8a, b"pong"), whole.clone(), frame(0x89, &[0; 125])].concat(),
            frame(0x82, &[0xc0; 300]),
            frame(0x82, &[0; 66_000])[..40].to_vec(),
            frame(0x81, b"text"),
            frame(0x88, &1006_u16.to_be_bytes()),
            frame(0x88, &[]),
            frame(0x80, b"alone"),
            [frame(0x02, b"a"), frame(0x82, b"b")].concat(),
            vec![0x82, 2, 0xc0, 0],
        ];
        let wires = wires.into_iter().enumerate();
        wires.map(|(n, wire)| [&[n as u8, 7 * n as u8][..], &wire].concat()).collect()
    }
}
