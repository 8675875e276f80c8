//! MQTT over WebSocket: the client's side, frame by frame.

use std::io::{Error, ErrorKind, Read, Write};
use std::net::TcpStream;

use rustls::{ClientConnection, StreamOwned};

/// The key of the example of RFC 6455, and what has to come of it.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A WebSocket after its opening handshake.
pub(crate) struct WebSocket {
    pub(crate) stream: StreamOwned<ClientConnection, TcpStream>,
    /// What has come and is not yet a whole frame, or not yet read.
    frames: Vec<u8>,
    payload: Vec<u8>,
    ended: bool,
}

/// Says the opening handshake with these lines besides; answers status line and headers, and what came behind.
pub(crate) fn upgrade(
    stream: &mut StreamOwned<ClientConnection, TcpStream>,
    lines: &[&str],
) -> (String, Vec<u8>) {
    let mut request = format!(
        "GET /mqtt HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n"
    );
    for line in lines {
        request.push_str(line);
        request.push_str("\r\n");
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).expect("a request");
    stream.flush().expect("a request");
    let mut answer = Vec::new();
    loop {
        if let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") {
            let rest = answer.split_off(end + 4);
            return (String::from_utf8(answer).expect("text"), rest);
        }
        let mut buffer = [0; 4096];
        let bytes = stream.read(&mut buffer).expect("an answer");
        assert!(bytes > 0, "closed within the answer: {:?}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&buffer[..bytes]);
    }
}

pub(crate) fn header<'a>(answer: &'a str, wanted: &str) -> Option<&'a str> {
    let mut lines = answer.lines().filter_map(|line| line.split_once(':'));
    lines.find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.trim())
}

impl WebSocket {
    pub(crate) fn open(mut stream: StreamOwned<ClientConnection, TcpStream>) -> Self {
        let (answer, frames) = upgrade(&mut stream, &["Sec-WebSocket-Protocol: mqtt"]);
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        assert_eq!(header(&answer, "sec-websocket-accept"), Some(ACCEPT), "{answer}");
        assert_eq!(header(&answer, "sec-websocket-protocol"), Some("mqtt"), "{answer}");
        assert_eq!(header(&answer, "sec-websocket-extensions"), None, "none was offered");
        Self::behind(stream, frames)
    }

    /// Behind an opening handshake, with what came after it.
    pub(crate) fn behind(stream: StreamOwned<ClientConnection, TcpStream>, frames: Vec<u8>) -> Self {
        Self { stream, frames, payload: Vec::new(), ended: false }
    }

    /// Sends one frame; `first_byte` is FIN and opcode.
    pub(crate) fn write_frame(&mut self, first_byte: u8, payload: &[u8]) -> std::io::Result<()> {
        const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
        let mut frame = vec![first_byte];
        match payload.len() {
            length @ 0..=125 => frame.push(0x80 | u8::try_from(length).expect("short")),
            length @ 126..=65_535 => {
                frame.push(0x80 | 126);
                frame.extend(u16::try_from(length).expect("16 bits").to_be_bytes());
            }
            length => {
                frame.push(0x80 | 127);
                frame.extend(u64::try_from(length).expect("64 bits").to_be_bytes());
            }
        }
        frame.extend(MASK);
        frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        self.stream.write_all(&frame)?;
        self.stream.flush()
    }

    /// The MQTT of binary frames; 0 after a close frame, or the end of the stream.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            if !self.payload.is_empty() {
                let bytes = self.payload.len().min(buffer.len());
                buffer[..bytes].copy_from_slice(&self.payload[..bytes]);
                self.payload.drain(..bytes);
                return Ok(bytes);
            }
            if self.ended {
                return Ok(0);
            }
            if let Some((opcode, payload)) = self.take_frame() {
                match opcode {
                    2 => self.payload = payload,
                    8 => self.ended = true,
                    9 => self.write_frame(0x8a, &payload)?,
                    10 => {}
                    other => return Err(Error::other(format!("a frame of opcode {other}"))),
                }
                continue;
            }
            let mut more = [0; 16 << 10];
            match self.stream.read(&mut more) {
                Ok(0) => self.ended = true,
                Ok(bytes) => self.frames.extend_from_slice(&more[..bytes]),
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => self.ended = true,
                Err(error) => return Err(error),
            }
        }
    }

    /// One whole frame of the server: not fragmented, not masked, no extension.
    fn take_frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let head = self.frames.get(..2)?;
        let (first, second) = (head[0], head[1]);
        assert_eq!((first & 0xf0, second & 0x80), (0x80, 0), "FIN, no reserved bit, no mask");
        let (at, length) = match second {
            126 => (4, u64::from(u16::from_be_bytes(self.frames.get(2..4)?.try_into().expect("two bytes")))),
            127 => (10, u64::from_be_bytes(self.frames.get(2..10)?.try_into().expect("eight bytes"))),
            short => (2, u64::from(short)),
        };
        let end = at + usize::try_from(length).expect("a frame that fits");
        let payload = self.frames.get(at..end)?.to_vec();
        self.frames.drain(..end);
        Some((first & 0x0f, payload))
    }
}
