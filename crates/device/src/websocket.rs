//! MQTT over WebSocket: the client's end of RFC 6455, as little as MQTT needs of it.

use std::io::{Read, Write};

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

/// RFC 6455 section 4.2.2.
const KEY_TAIL: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Longest answer to the opening handshake, in bytes.
const ANSWER_BYTES_MAX: usize = 16 * 1024;
/// Longest frame taken from the server, in bytes.
const FRAME_BYTES_MAX: u64 = 64 << 20;

/// Standard base64 with padding, which the handshake wants.
fn base64(bytes: &[u8]) -> String {
    let mut text = drawbridge_jose::base64url_encode(bytes).replace('-', "+").replace('_', "/");
    while !text.len().is_multiple_of(4) {
        text.push('=');
    }
    text
}

/// Asks the server to switch to MQTT over WebSocket; answers what it sent behind its answer.
///
/// Source: RFC 6455 section 4.1; MQTT 5.0 section 6 ([MQTT-6.0.0-3]: the subprotocol is `mqtt`).
pub(crate) fn upgrade(
    stream: &mut (impl Read + Write),
    host: &str,
    path: &str,
    nonce: [u8; 16],
) -> Result<Vec<u8>, String> {
    let key = base64(&nonce);
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).and_then(|()| stream.flush()).map_err(|e| e.to_string())?;
    let mut answer = Vec::new();
    let end = loop {
        if let Some(at) = answer.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        if answer.len() > ANSWER_BYTES_MAX {
            return Err("the answer to the WebSocket handshake does not end".to_owned());
        }
        let mut chunk = [0; 1024];
        match stream.read(&mut chunk) {
            Ok(0) => return Err("the server closed instead of switching to WebSocket".to_owned()),
            Ok(n) => answer.extend_from_slice(&chunk[..n]),
            Err(e) => return Err(e.to_string()),
        }
    };
    let rest = answer.split_off(end);
    let text = String::from_utf8_lossy(&answer).into_owned();
    let mut lines = text.split("\r\n");
    let status = lines.next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("101") {
        return Err(format!("the server does not switch to WebSocket at {path}: {status}"));
    }
    let fields: Vec<(String, &str)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim()))
        .collect();
    let field = |name: &str| fields.iter().find(|(found, _)| found == name).map(|(_, value)| *value);
    let wanted = base64(digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{KEY_TAIL}").as_bytes()).as_ref());
    if field("sec-websocket-accept") != Some(wanted.as_str())
        || field("sec-websocket-protocol") != Some("mqtt")
    {
        return Err("the server answers the WebSocket handshake wrongly".to_owned());
    }
    Ok(rest)
}

/// The frames of one connection.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    /// Bytes of frames that are not whole yet.
    raw: Vec<u8>,
    /// A close frame came.
    pub(crate) closed: bool,
}

impl Frames {
    /// Puts `payload` into one masked binary frame.
    ///
    /// Source: RFC 6455 section 5.2, [MQTT-6.0.0-1].
    pub(crate) fn frame(payload: &[u8], mask: [u8; 4], out: &mut Vec<u8>) {
        Self::write(0x82, payload, mask, out);
    }

    fn write(first: u8, payload: &[u8], mask: [u8; 4], out: &mut Vec<u8>) {
        out.push(first);
        match payload.len() {
            short @ 0..=125 => out.push(0x80 | short as u8),
            middle @ 126..=0xffff => {
                out.push(0x80 | 126);
                out.extend_from_slice(&(middle as u16).to_be_bytes());
            }
            long => {
                out.push(0x80 | 127);
                out.extend_from_slice(&(long as u64).to_be_bytes());
            }
        }
        out.extend_from_slice(&mask);
        out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    }

    /// Takes bytes of the server in; MQTT goes to `mqtt`, what has to be answered to `out`.
    pub(crate) fn take(
        &mut self,
        bytes: &[u8],
        mask: [u8; 4],
        mqtt: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<(), String> {
        self.raw.extend_from_slice(bytes);
        while let Some((first, start, end)) = self.header()? {
            let payload = &self.raw[start..end];
            match first & 0x0f {
                0 | 2 => mqtt.extend_from_slice(payload),
                8 => {
                    self.closed = true;
                    Self::write(0x88, payload, mask, out);
                }
                9 => Self::write(0x8a, payload, mask, out),
                10 => {}
                other => {
                    return Err(format!("a WebSocket frame of kind {other} came; MQTT comes in binary ones"));
                }
            }
            self.raw.drain(..end);
        }
        Ok(())
    }

    /// First byte, begin and end of the payload of the first frame, if it is whole.
    fn header(&self) -> Result<Option<(u8, usize, usize)>, String> {
        let (&first, &second) = match self.raw.as_slice() {
            [first, second, ..] => (first, second),
            _ => return Ok(None),
        };
        if first & 0x70 != 0 || second & 0x80 != 0 {
            return Err("a WebSocket frame of the server is masked or has a reserved bit set".to_owned());
        }
        let number = |bytes: &[u8]| bytes.iter().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
        let (start, length) = match second {
            126 if self.raw.len() < 4 => return Ok(None),
            127 if self.raw.len() < 10 => return Ok(None),
            126 => (4, number(&self.raw[2..4])),
            127 => (10, number(&self.raw[2..10])),
            short => (2, u64::from(short)),
        };
        if length > FRAME_BYTES_MAX {
            return Err(format!(
                "a WebSocket frame of {length} bytes came, at most {FRAME_BYTES_MAX} are taken"
            ));
        }
        let end = start + usize::try_from(length).expect("64 MiB fit a usize");
        Ok((self.raw.len() >= end).then_some((first, start, end)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_every_length_come_back_however_they_are_cut() {
        for bytes in [0, 1, 125, 126, 65_535, 65_536] {
            let payload: Vec<u8> = (0..bytes).map(|n| n as u8).collect();
            let mut wire = Vec::new();
            Frames::frame(&payload, [0; 4], &mut wire);
            // A server does not mask.
            wire[1] &= 0x7f;
            let mask_at = wire.len() - bytes - 4;
            wire.drain(mask_at..mask_at + 4);
            let mut frames = Frames::default();
            let (mut mqtt, mut out) = (Vec::new(), Vec::new());
            for chunk in wire.chunks(997) {
                frames.take(chunk, [0; 4], &mut mqtt, &mut out).expect("sound");
            }
            assert_eq!(mqtt, payload);
            assert!(out.is_empty() && !frames.closed);
        }
    }

    #[test]
    fn a_ping_is_answered_a_close_is_echoed_and_text_is_refused() {
        let mut frames = Frames::default();
        let (mut mqtt, mut out) = (Vec::new(), Vec::new());
        frames.take(&[0x89, 1, 7, 0x88, 0], [0; 4], &mut mqtt, &mut out).expect("sound");
        assert_eq!(out, [0x8a, 0x81, 0, 0, 0, 0, 7, 0x88, 0x80, 0, 0, 0, 0]);
        assert!(frames.closed && mqtt.is_empty());
        for bad in [[0x81, 0], [0x82, 0x80], [0xc2, 0], [0x83, 0]] {
            assert!(Frames::default().take(&bad, [0; 4], &mut mqtt, &mut out).is_err(), "{bad:?}");
        }
    }
}
