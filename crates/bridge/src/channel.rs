//! One socket, with TLS or without: the same four calls either way.

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;

use mio::net::TcpStream;

use crate::error::Turned;
use crate::tls::{Fed, Tls};

/// Most bytes taken from a socket by one `read`.
const READ_BYTES: usize = 64 * 1024;

/// The read buffers of a shard: one for what comes from a socket, one for what it decrypts to. They
/// are lent to one connection at a time, so that an idle one holds none.
#[derive(Debug)]
pub(crate) struct ReadBuffers {
    wire: Box<[u8]>,
    plain: Vec<u8>,
}

impl ReadBuffers {
    pub(crate) fn new() -> Self {
        Self {
            wire: vec![0; READ_BYTES].into_boxed_slice(),
            plain: Vec::with_capacity(READ_BYTES + 16 * 1024),
        }
    }

    /// Overwrites everything that `read` left here. Called after bytes that may hold a password.
    pub(crate) fn wipe(&mut self, received: Received) {
        // A plain `fill` of a buffer that is read again later is not optimised away.
        if let Some(used) = self.wire.get_mut(..received.wire_bytes) {
            used.fill(0);
        }
        self.plain.fill(0);
        self.plain.clear();
    }

    /// What the last `read` brought, as the client wrote it.
    pub(crate) fn bytes(&self, received: Received) -> &[u8] {
        if received.plain { self.wire.get(..received.wire_bytes).unwrap_or_default() } else { &self.plain }
    }
}

/// What one `read` brought.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Received {
    /// The bytes stand in the wire buffer itself (no TLS).
    plain: bool,
    wire_bytes: usize,
}

/// How a channel stands after a `read`.
#[derive(Debug)]
pub(crate) enum ReadEnd {
    /// Nothing at all for now; the next edge will tell.
    Empty,
    /// Less than the buffer takes: nothing more for now, but for the end, if that has come already.
    Drained,
    /// The buffer was filled: more may be waiting.
    More,
    /// The peer sends nothing more: end of stream, close_notify or reset.
    Closed,
    /// The peer broke TLS.
    Turned(Turned),
}

/// How a channel stands after a `write`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WriteEnd {
    /// Everything was handed to the kernel.
    Flushed,
    /// The kernel takes no more; an edge will tell when it does.
    Blocked,
    /// The connection is broken.
    Broken,
}

/// A socket, non-blocking, with or without TLS.
#[derive(Debug)]
pub(crate) enum Channel {
    Plain(TcpStream),
    Tls(TcpStream, Box<Tls>),
}

impl Channel {
    pub(crate) fn socket_mut(&mut self) -> &mut TcpStream {
        match self {
            Self::Plain(socket) | Self::Tls(socket, _) => socket,
        }
    }

    /// Reads once. The bytes are in `buffers`; they come before the end that is reported.
    pub(crate) fn read(&mut self, buffers: &mut ReadBuffers) -> (Received, ReadEnd) {
        buffers.plain.clear();
        let (socket, tls) = match self {
            Self::Plain(socket) => (socket, None),
            Self::Tls(socket, tls) => (socket, Some(tls)),
        };
        let (wire_bytes, end) = read_once(socket, &mut buffers.wire);
        let received = Received { plain: tls.is_none(), wire_bytes };
        let Some(tls) = tls else {
            return (received, end);
        };
        let wire = buffers.wire.get(..wire_bytes).unwrap_or_default();
        match tls.feed(wire, &mut buffers.plain) {
            Ok(Fed::Open) => (received, end),
            Ok(Fed::PeerClosed) => (received, ReadEnd::Closed),
            Err(turned) => (received, ReadEnd::Turned(turned)),
        }
    }

    /// Reads once and throws it away, undecrypted. Returns the number of bytes.
    pub(crate) fn discard(&mut self, buffers: &mut ReadBuffers) -> (usize, ReadEnd) {
        read_once(self.socket_mut(), &mut buffers.wire)
    }

    /// Writes as much of `out` as the kernel takes and removes it from `out`, and anything TLS has
    /// to say of its own (handshake, alerts). What TLS has accepted is removed even if it still
    /// waits as ciphertext (at most 64 KiB).
    pub(crate) fn write(&mut self, out: &mut Vec<u8>) -> WriteEnd {
        let mut at = 0;
        let end = match self {
            Self::Plain(socket) => write_plain(socket, out, &mut at),
            Self::Tls(socket, tls) => write_tls(socket, tls, out, &mut at),
        };
        if at == out.len() {
            out.clear();
        } else {
            out.drain(..at);
        }
        end
    }

    /// Whether TLS has something to say of its own.
    pub(crate) fn wants_write(&self) -> bool {
        matches!(self, Self::Tls(_, tls) if tls.wants_write())
    }

    /// Says that nothing more will be sent: close_notify where there is TLS. What it queues must be
    /// written by [`write`](Self::write); then comes [`finish`](Self::finish).
    pub(crate) fn send_close_notify(&mut self) {
        if let Self::Tls(_, tls) = self {
            tls.send_close_notify();
        }
    }

    /// Sends FIN behind what was written.
    pub(crate) fn finish(&mut self) {
        // A socket that is already broken has nothing to finish.
        let _ = self.socket_mut().shutdown(Shutdown::Write);
    }
}

fn read_once(socket: &mut TcpStream, buffer: &mut [u8]) -> (usize, ReadEnd) {
    loop {
        return match socket.read(buffer) {
            Ok(0) => (0, ReadEnd::Closed),
            // A short read leaves nothing behind; one call less for a lone message.
            Ok(found) if found < buffer.len() => (found, ReadEnd::Drained),
            Ok(found) => (found, ReadEnd::More),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == ErrorKind::WouldBlock => (0, ReadEnd::Empty),
            Err(_) => (0, ReadEnd::Closed),
        };
    }
}

fn write_plain(socket: &mut TcpStream, out: &[u8], at: &mut usize) -> WriteEnd {
    while let Some(rest) = out.get(*at..).filter(|rest| !rest.is_empty()) {
        match write_result(socket.write(rest)) {
            Ok(written) => *at += written,
            Err(end) => return end,
        }
    }
    WriteEnd::Flushed
}

fn write_tls(socket: &mut TcpStream, tls: &mut Tls, out: &[u8], at: &mut usize) -> WriteEnd {
    loop {
        let before = *at;
        if let Some(rest) = out.get(*at..).filter(|rest| !rest.is_empty()) {
            *at += tls.push(rest);
        }
        let stuck = *at == before && *at < out.len() && !tls.wants_write();
        if stuck {
            // It takes no more and has nothing to send: its keys are used up, or it was closed.
            return WriteEnd::Broken;
        }
        while tls.wants_write() {
            if let Err(end) = write_result(tls.flush(socket)) {
                return end;
            }
        }
        if *at == out.len() {
            return WriteEnd::Flushed;
        }
    }
}

/// `Ok` means go on; an interrupted call counts as zero bytes.
fn write_result(result: io::Result<usize>) -> Result<usize, WriteEnd> {
    match result {
        Ok(0) => Err(WriteEnd::Broken),
        Ok(written) => Ok(written),
        Err(error) if error.kind() == ErrorKind::Interrupted => Ok(0),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Err(WriteEnd::Blocked),
        Err(_) => Err(WriteEnd::Broken),
    }
}
