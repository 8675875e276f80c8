//! A client of WebSocket that writes its frames by hand.

use std::io::{self, Read, Write};
use std::net::TcpStream;

use rustls::{ClientConnection, StreamOwned};

/// The client's end: what is written becomes one masked frame, what is read comes out of frames.
pub(crate) struct Framed {
    pub(crate) stream: StreamOwned<ClientConnection, TcpStream>,
    payload: Vec<u8>,
    pub(crate) pongs: Vec<Vec<u8>>,
    pub(crate) closed: Option<u16>,
}

impl Framed {
    pub(crate) fn new(stream: StreamOwned<ClientConnection, TcpStream>) -> Self {
        Self { stream, payload: Vec::new(), pongs: Vec::new(), closed: None }
    }

    pub(crate) fn frame(&mut self, first: u8, payload: &[u8]) {
        self.stream.write_all(&frame(first, payload)).expect("written");
        self.stream.flush().expect("flushed");
    }

    /// One frame of the server: opcode and payload.
    fn next(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let mut head = [0; 2];
        self.stream.read_exact(&mut head)?;
        assert!(
            head[0] & 0xf0 == 0x80 && head[1] & 0x80 == 0,
            "whole, without extensions, unmasked: {head:?}"
        );
        let mut long = [0; 8];
        let length = match head[1] {
            126 => {
                self.stream.read_exact(&mut long[6..])?;
                u64::from_be_bytes(long)
            }
            127 => {
                self.stream.read_exact(&mut long)?;
                u64::from_be_bytes(long)
            }
            short => u64::from(short),
        };
        let mut payload = vec![0; usize::try_from(length).expect("fits")];
        self.stream.read_exact(&mut payload)?;
        Ok((head[0] & 0x0f, payload))
    }
}

impl Read for Framed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.payload.is_empty() {
            if self.closed.is_some() {
                // After a close frame nothing comes but the end of TLS.
                return self.stream.read(buffer);
            }
            match self.next()? {
                (2, payload) => self.payload = payload,
                (10, payload) => self.pongs.push(payload),
                (8, payload) => self.closed = Some(u16::from_be_bytes([payload[0], payload[1]])),
                (opcode, payload) => panic!("opcode {opcode}: {payload:?}"),
            }
        }
        let length = buffer.len().min(self.payload.len());
        buffer[..length].copy_from_slice(&self.payload[..length]);
        self.payload.drain(..length);
        Ok(length)
    }
}

impl Write for Framed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write_all(&frame(0x82, bytes))?;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0xa1, 0x5c, 0x03, 0xfe];
    let mut frame = vec![first];
    match payload.len() {
        short @ 0..=125 => frame.push(0x80 | u8::try_from(short).expect("7 bits")),
        middle @ 126..=0xffff => {
            frame.push(0xfe);
            frame.extend_from_slice(&u16::try_from(middle).expect("16 bits").to_be_bytes());
        }
        long => {
            frame.push(0xff);
            frame.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}
