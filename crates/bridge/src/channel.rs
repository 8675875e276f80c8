//! One socket, without TLS, with it, or with WebSocket inside of it: the same calls in each case.

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;

use drawbridge_admission::TlsFacts;
use drawbridge_names::RegistryName;
use mio::net::TcpStream;
use rustls::ServerConfig;
use rustls::server::Accepted;

use crate::error::Turned;
use crate::tls::{Fed, Tls};
use crate::websocket::{self, FRAME_BYTES_MAX, FrameReader, data_header};

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
    /// The peer broke TLS or the framing of WebSocket.
    Turned(Turned),
    /// The client speaks HTTPS.
    Https(Box<(Accepted, Arc<ServerConfig>)>),
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

/// A socket, non-blocking.
#[derive(Debug)]
pub(crate) enum Channel {
    Plain(TcpStream),
    Tls(TcpStream, Box<Tls>),
    WebSocket(TcpStream, Box<WebSocket>),
}

/// TLS, and in it the frames of RFC 6455. No frame is buffered, in either direction.
#[derive(Debug)]
pub(crate) struct WebSocket {
    tls: Tls,
    reader: FrameReader,
    /// All that may come until the client is admitted, frames and all (I1); `None`: it is.
    early_bytes_left: Option<usize>,
    early_bytes_max: usize,
    /// Of the frame that is being written.
    frame_bytes_left: usize,
    /// What stands before that: the rest of a header, a control frame. Mostly without memory.
    ahead: Vec<u8>,
    pong: Option<Vec<u8>>,
    close: CloseFrame,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CloseFrame {
    NotYet,
    Due(u16),
    Said,
}

/// The code of a close frame in order (RFC 6455 section 7.4.1).
const NORMAL: u16 = 1000;

impl Channel {
    /// `early_bytes_max`: what may come until the client is admitted.
    pub(crate) fn web_socket(socket: TcpStream, tls: Tls, early_bytes_max: usize) -> Self {
        let inside = WebSocket {
            tls,
            reader: FrameReader::default(),
            early_bytes_left: Some(early_bytes_max),
            early_bytes_max,
            frame_bytes_left: 0,
            ahead: Vec::new(),
            pong: None,
            close: CloseFrame::NotYet,
        };
        Self::WebSocket(socket, Box::new(inside))
    }

    pub(crate) fn socket_mut(&mut self) -> &mut TcpStream {
        match self {
            Self::Plain(socket) | Self::Tls(socket, _) | Self::WebSocket(socket, _) => socket,
        }
    }

    /// Whether what comes next costs a handshake: far more than any message.
    pub(crate) fn is_handshaking(&self) -> bool {
        matches!(self, Self::Tls(_, tls) if tls.is_handshaking())
    }

    /// The socket alone: what TLS knew is somebody else's.
    pub(crate) fn into_socket(self) -> TcpStream {
        match self {
            Self::Plain(socket) | Self::Tls(socket, _) | Self::WebSocket(socket, _) => socket,
        }
    }

    /// The registry that the name led to by which the client has called the server; said once.
    pub(crate) fn take_registry(&mut self) -> Option<Box<RegistryName>> {
        if let Self::Tls(_, tls) = self { tls.take_registry() } else { None }
    }

    /// Whether the client has chosen the protocol of those who log in with their certificate alone.
    pub(crate) fn is_by_certificate(&self) -> bool {
        matches!(self, Self::Tls(_, tls) if tls.is_by_certificate())
    }

    /// When the client has done its last whole TLS handshake, in ms since 1970-01-01 UTC; `None` without TLS of our own.
    pub(crate) fn handshake_ms(&self) -> Option<u64> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(_, tls) => Some(tls.since_ms()),
            Self::WebSocket(_, inside) => Some(inside.tls.since_ms()),
        }
    }

    /// What TLS says of the connection; `None` without TLS of our own. `renewal`: the new token, if one has come.
    pub(crate) fn tls_facts(&self, renewal: Option<&[u8]>) -> Option<TlsFacts> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(_, tls) => tls.facts(renewal),
            Self::WebSocket(_, inside) => inside.tls.facts(renewal),
        }
    }

    /// The client has been admitted: what holds for strangers alone is over.
    pub(crate) fn admitted(&mut self) {
        if let Self::WebSocket(_, inside) = self {
            inside.early_bytes_left = None;
        }
    }

    /// Reads once. The bytes are in `buffers`; they come before the end that is reported.
    pub(crate) fn read(&mut self, buffers: &mut ReadBuffers) -> (Received, ReadEnd) {
        buffers.plain.clear();
        let (socket, tls) = match self {
            Self::Plain(socket) => (socket, None),
            Self::Tls(socket, tls) => (socket, Some(&mut **tls)),
            Self::WebSocket(socket, inside) => (socket, Some(&mut inside.tls)),
        };
        let (wire_bytes, end) = read_once(socket, &mut buffers.wire);
        let received = Received { plain: tls.is_none(), wire_bytes };
        let Some(tls) = tls else {
            return (received, end);
        };
        let wire = buffers.wire.get(..wire_bytes).unwrap_or_default();
        let end = match tls.feed(wire, &mut buffers.plain) {
            Ok(Fed::Open) => end,
            Ok(Fed::PeerClosed) => ReadEnd::Closed,
            Ok(Fed::Https(_)) if matches!(end, ReadEnd::Closed) => ReadEnd::Closed,
            Ok(Fed::Https(hello)) => ReadEnd::Https(hello),
            Err(turned) => ReadEnd::Turned(turned),
        };
        (received, self.unframe(&mut buffers.plain, end))
    }

    /// As [`read`](Self::read), with what was read from the socket before it was handed over: `before`, and
    /// what TLS holds decrypted.
    pub(crate) fn read_before(&mut self, before: &[u8], buffers: &mut ReadBuffers) -> (Received, ReadEnd) {
        buffers.plain.clear();
        buffers.plain.extend_from_slice(before);
        if let Self::WebSocket(_, inside) = self {
            inside.tls.take_plaintext(&mut buffers.plain);
        }
        (Received { plain: false, wire_bytes: 0 }, self.unframe(&mut buffers.plain, ReadEnd::More))
    }

    /// Leaves the MQTT in `plain` alone, where it came in frames.
    fn unframe(&mut self, plain: &mut Vec<u8>, end: ReadEnd) -> ReadEnd {
        let Self::WebSocket(socket, inside) = self else { return end };
        match inside.take(plain) {
            Ok(false) => end,
            Ok(true) => {
                // The answer leaves at once or not at all: nobody waits for it longer than the client does.
                let _ = write_web_socket(socket, inside, &[], &mut 0);
                ReadEnd::Closed
            }
            Err(turned) => ReadEnd::Turned(turned),
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
            Self::WebSocket(socket, inside) => write_web_socket(socket, inside, out, &mut at),
        };
        if at == out.len() {
            out.clear();
        } else {
            out.drain(..at);
        }
        end
    }

    /// Whether TLS or WebSocket has something to say of its own.
    pub(crate) fn wants_write(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(_, tls) => tls.wants_write(),
            Self::WebSocket(_, inside) => inside.has_own() || inside.tls.wants_write(),
        }
    }

    /// Says that nothing more will be sent: close_notify where there is TLS, a close frame before it where
    /// there is WebSocket. What it queues must be written by [`write`](Self::write); then comes
    /// [`finish`](Self::finish).
    pub(crate) fn send_close_notify(&mut self) {
        match self {
            Self::Plain(_) => {}
            Self::Tls(_, tls) => tls.send_close_notify(),
            Self::WebSocket(_, inside) => inside.close_with(NORMAL),
        }
    }

    /// A last word of WebSocket to a client that is left at once: it leaves now or never.
    pub(crate) fn part(&mut self) {
        if let Self::WebSocket(socket, inside) = self {
            inside.close_with(NORMAL);
            let _ = write_web_socket(socket, inside, &[], &mut 0);
        }
    }

    /// Sends FIN behind what was written.
    pub(crate) fn finish(&mut self) {
        // A socket that is already broken has nothing to finish.
        let _ = self.socket_mut().shutdown(Shutdown::Write);
    }
}

impl WebSocket {
    /// Takes frames apart in place. `true`: the client has said that it closes, and is answered.
    fn take(&mut self, plain: &mut Vec<u8>) -> Result<bool, Turned> {
        let mut bytes_max = FRAME_BYTES_MAX;
        if let Some(left) = self.early_bytes_left {
            let came = plain.len();
            if came > left {
                plain.fill(0);
                plain.clear();
                self.close_with(1009);
                return Err(Turned::WebSocketEarly { bytes_max: self.early_bytes_max });
            }
            self.early_bytes_left = Some(left - came);
            bytes_max = self.early_bytes_max;
        }
        let taken = self.reader.take(plain, bytes_max);
        let kept = taken.as_ref().map_or(0, |taken| taken.bytes);
        if self.early_bytes_left.is_some() {
            // Of what was moved to the front a copy stands behind, and a password may be in it.
            plain.get_mut(kept..).unwrap_or_default().fill(0);
        }
        plain.truncate(kept);
        let taken = taken.map_err(|fault| {
            self.close_with(fault.close_code());
            Turned::WebSocket(fault)
        })?;
        if let Some(payload) = taken.ping {
            // The last one alone is answered: a client that only pings fills nothing here.
            self.pong = Some(websocket::pong(&payload));
        }
        if let Some(code) = taken.close {
            self.close_with(code);
        }
        Ok(taken.close.is_some())
    }

    fn close_with(&mut self, code: u16) {
        if self.close == CloseFrame::NotYet {
            self.close = CloseFrame::Due(code);
        }
    }

    /// Whether there is something to send beside MQTT.
    fn has_own(&self) -> bool {
        let due = matches!(self.close, CloseFrame::Due(_));
        !self.ahead.is_empty() || due || (self.pong.is_some() && self.frame_bytes_left == 0)
    }

    /// Gives TLS what comes next, of its own or of `rest`, as much as it takes; returns whether that was
    /// anything. `at` moves on by what was taken of `rest`.
    fn push(&mut self, rest: &[u8], at: &mut usize) -> bool {
        if self.ahead.is_empty() && !self.fill_ahead(rest) {
            return true;
        }
        if !self.ahead.is_empty() {
            let taken = self.tls.push(&self.ahead);
            self.ahead.drain(..taken);
            if self.ahead.is_empty() {
                self.ahead = Vec::new();
                if self.close == CloseFrame::Said {
                    self.tls.send_close_notify();
                }
            }
            return taken > 0;
        }
        if rest.is_empty() || self.close == CloseFrame::Said {
            return false;
        }
        if self.frame_bytes_left > 0 {
            let piece = rest.get(..self.frame_bytes_left.min(rest.len())).unwrap_or(rest);
            let taken = self.tls.push(piece);
            self.frame_bytes_left -= taken;
            *at += taken;
            return taken > 0;
        }
        // All that waits is one frame.
        let mut header = [0; 10];
        let header_bytes = data_header(&mut header, rest.len());
        let header = header.get(..header_bytes).unwrap_or_default();
        let taken = self.tls.push_both(header, rest);
        if let Some(missing) = header.get(taken..).filter(|missing| !missing.is_empty()) {
            if taken > 0 {
                self.ahead = missing.to_vec();
                self.frame_bytes_left = rest.len();
            }
            return taken > 0;
        }
        *at += taken - header_bytes;
        self.frame_bytes_left = rest.len() - (taken - header_bytes);
        true
    }

    /// Between two frames is the place of control frames. `false`: the end was said another way.
    fn fill_ahead(&mut self, rest: &[u8]) -> bool {
        if self.frame_bytes_left == 0
            && let Some(pong) = self.pong.take()
        {
            self.ahead = pong;
        } else if let CloseFrame::Due(code) = self.close
            && rest.is_empty()
        {
            self.close = CloseFrame::Said;
            if self.frame_bytes_left > 0 {
                // A frame was begun that will never end, so no other can begin.
                self.tls.send_close_notify();
                return false;
            }
            self.ahead = websocket::close(code).to_vec();
        }
        true
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

fn write_web_socket(socket: &mut TcpStream, inside: &mut WebSocket, out: &[u8], at: &mut usize) -> WriteEnd {
    loop {
        let rest = out.get(*at..).unwrap_or_default();
        let waits = !rest.is_empty() && inside.close != CloseFrame::Said;
        if (waits || inside.has_own()) && !inside.push(rest, at) && !inside.tls.wants_write() {
            // As with TLS alone: it takes no more and has nothing to send.
            return WriteEnd::Broken;
        }
        while inside.tls.wants_write() {
            if let Err(end) = write_result(inside.tls.flush(socket)) {
                return end;
            }
        }
        if (*at == out.len() || inside.close == CloseFrame::Said) && !inside.has_own() {
            *at = out.len();
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
