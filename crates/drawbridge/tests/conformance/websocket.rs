//! MQTT over WebSocket (section 6 of both standards): a client of frames, and what only frames can break.

use std::collections::BTreeSet;
use std::io::{Error, ErrorKind, Read, Write};
use std::net::TcpStream;

use rustls::{ClientConnection, StreamOwned};

use crate::bytes::{Connect, PINGREQ, Publish, Said, subscribe};
use crate::client::{Client, Transport};
use crate::world::{Case, Via, World, every, name};

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
fn upgrade(stream: &mut StreamOwned<ClientConnection, TcpStream>, lines: &[&str]) -> (String, Vec<u8>) {
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

fn header<'a>(answer: &'a str, wanted: &str) -> Option<&'a str> {
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

/// Runs a test in both versions over WebSocket.
fn every_web(test: impl Fn(&World, Case) + Sync) {
    every(|world, case| {
        if case.via == Via::WebSocket {
            test(world, case);
        }
    });
}

#[test]
fn a_text_frame_ends_the_connection() {
    every_web(|world, case| {
        // Text, and opcodes that are reserved.
        for first_byte in [0x81, 0x83, 0x8b] {
            let mut client = Client::new(world, case);
            client.web_socket().write_frame(first_byte, &PINGREQ).expect("sent");
            while client.next().is_some_and(|said| matches!(said, Said::Disconnect { .. })) {}
            let mut before = Client::silent(world, case);
            before.web_socket().write_frame(first_byte, &PINGREQ).expect("sent");
            before.is_closed();
        }
    });
}

#[test]
fn packets_need_not_be_aligned_with_frames() {
    every_web(|world, case| {
        let topic = name("t");
        let connect = Connect::clean(&name("c")).encode(case.version, world.credential(case.via));
        let all = [
            connect,
            subscribe(case.version, 1, &[], &[(&topic, 1)]),
            Publish::new(&topic, "x".repeat(300)).qos(1, 2).encode(case.version),
            PINGREQ.to_vec(),
        ]
        .concat();
        for size in [1, 7, 126, all.len()] {
            let mut client = Client::silent(world, case);
            let web = client.web_socket();
            for part in all.chunks(size) {
                web.write_frame(0x82, part).expect("sent");
            }
            assert!(matches!(client.next(), Some(Said::ConnAck { code: 0, .. })), "frames of {size}");
            // The PUBACK may come behind the PINGRESP.
            let mut left = BTreeSet::from([0x40, 0x90, 0xd0]);
            while !left.is_empty() {
                let first_byte = match client.answer() {
                    Some(Said::SubAck { id: 1, .. }) => 0x90,
                    Some(Said::Ack { first_byte, id: 2, .. }) => first_byte,
                    Some(Said::PingResp) => 0xd0,
                    other => panic!("{other:?}, and {left:02x?} to come"),
                };
                assert!(left.remove(&first_byte), "frames of {size}: {first_byte:#04x} twice");
            }
            assert_eq!(client.message().payload.len(), 300);
        }
        // One message in fragments, a ping between them, and empty frames.
        let mut client = Client::new(world, case);
        let web = client.web_socket();
        for (first_byte, part) in
            [(0x82, &b""[..]), (0x02, b"\xc0"), (0x89, b"?"), (0x00, b""), (0x80, b"\x00")]
        {
            web.write_frame(first_byte, part).expect("sent");
        }
        assert_eq!(client.next(), Some(Said::PingResp));
    });
}

#[test]
fn who_does_not_offer_mqtt_is_not_upgraded() {
    every_web(|world, _| {
        for lines in [&[][..], &["Sec-WebSocket-Protocol: chat"], &["Sec-WebSocket-Protocol: MQTT"]] {
            let (answer, _) = upgrade(&mut world.https(), lines);
            assert!(answer.starts_with("HTTP/1.1 4"), "{lines:?}: {answer}");
        }
    });
}

#[test]
fn the_subprotocol_that_is_chosen_is_mqtt() {
    every_web(|world, case| {
        for line in ["mqtt", "mqttv3.1, mqtt", "chat, mqtt , superchat"] {
            let mut stream = world.https();
            let (answer, frames) = upgrade(&mut stream, &[&format!("Sec-WebSocket-Protocol: {line}")]);
            assert!(answer.starts_with("HTTP/1.1 101 "), "{line}: {answer}");
            assert_eq!(header(&answer, "sec-websocket-protocol"), Some("mqtt"), "{line}");
            let web = WebSocket { stream, frames, payload: Vec::new(), ended: false };
            let mut client = Client::over(Transport::WebSocket(Box::new(web)), case.version);
            client.send(&Connect::clean(&name("c")).encode(case.version, world.credential(case.via)));
            assert!(matches!(client.next(), Some(Said::ConnAck { code: 0, .. })));
        }
    });
}

#[test]
fn cve_2026_25627_a_packet_that_says_to_be_longer_than_its_frame_waits_for_the_next() {
    every_web(|world, case| {
        let topic = name("t");
        let mut client = Client::new(world, case);
        client.subscribe(&topic, 1);
        let publish = Publish::new(&topic, "y".repeat(5_000)).qos(1, 9).encode(case.version);
        let mut seed = 0x2026_2562_u32;
        println!("seed {seed:#x}");
        for _ in 0..20 {
            let mut rest = &publish[..];
            while !rest.is_empty() {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let (part, behind) = rest.split_at((1 + (seed >> 20) as usize % 900).min(rest.len()));
                client.web_socket().write_frame(0x82, part).expect("sent");
                rest = behind;
            }
            client.acked(0x40, 9, 0);
            assert_eq!(client.taken().payload.len(), 5_000);
        }
        // One that never goes on is not worked on, and its frame takes nothing with it.
        client.web_socket().write_frame(0x82, &publish[..100]).expect("sent");
        client.shut(std::net::Shutdown::Write);
        client.is_closed();
    });
}
