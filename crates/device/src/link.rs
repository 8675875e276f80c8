//! One connection to the server, below what MQTT means: TCP, TLS, perhaps WebSocket, and packets as bytes.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use drawbridge_mqtt::codec::{self, Frame, Packet, ProtocolVersion, Side};
use mio::{Events, Interest, Poll, Token, Waker};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use crate::websocket::{self, Frames};
use crate::{DeviceError, Environment, ServerKey, Tls};

/// The largest packet taken from the server, in bytes.
pub(crate) const PACKET_BYTES_MAX: usize = 1 << 20;
/// How long the server may take to answer, in seconds.
pub(crate) const ANSWER_S_MAX: u64 = 15;
/// How long one address may take to accept, in seconds.
const CONNECT_S_MAX: u64 = 5;
/// So much is read before somebody looks at it, in bytes.
const READ_BYTES_MAX: usize = 1 << 18;

const SOCKET: Token = Token(0);
const WAKER: Token = Token(1);

/// Where to, and how.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// `host:port`.
    pub server: String,
    /// TLS; `None` speaks without, which is done on loopback alone.
    pub tls: Option<Tls>,
    /// Path of WebSocket, such as `/mqtt`; `None` is MQTT over TCP.
    pub websocket: Option<String>,
}

impl Endpoint {
    /// What its connections have in common. `resumes`: sessions of TLS may be resumed.
    pub(crate) fn config(&self, resumes: bool) -> Result<Option<Arc<ClientConfig>>, DeviceError> {
        self.tls.as_ref().map(|tls| tls.config(&self.server, resumes)).transpose()
    }

    pub(crate) fn fault(&self, error: &io::Error) -> DeviceError {
        fault(&self.server, error)
    }
}

/// An open connection.
pub(crate) struct Link {
    socket: mio::net::TcpStream,
    tls: Option<Box<ClientConnection>>,
    frames: Option<Frames>,
    poll: Poll,
    events: Events,
    waker: Arc<Waker>,
    environment: Arc<dyn Environment>,
    server: String,
    version: ProtocolVersion,
    /// MQTT of the server from `taken` on.
    received: Vec<u8>,
    taken: usize,
    /// Bytes that neither TLS nor the socket has taken yet.
    out: Vec<u8>,
    readable: bool,
    writable: bool,
    /// The server sends no more.
    ended: bool,
}

impl Link {
    /// Opens it, TLS handshake and WebSocket included. `config`: what [`Endpoint::config`] has made; one that is used again
    /// resumes sessions of TLS.
    pub(crate) fn open(
        endpoint: &Endpoint,
        config: Option<Arc<ClientConfig>>,
        version: ProtocolVersion,
        environment: Arc<dyn Environment>,
    ) -> Result<Self, DeviceError> {
        let mut socket = dial(endpoint)?;
        let mut tls = match config {
            Some(config) => Some(Box::new(shake_hands(endpoint, config, &mut socket)?)),
            None => None,
        };
        let mut received = Vec::new();
        let mut frames = None;
        if let Some(path) = &endpoint.websocket {
            let mut nonce = [0; 16];
            environment.random(&mut nonce);
            let host = &endpoint.server;
            let rest = match &mut tls {
                Some(tls) => {
                    websocket::upgrade(&mut rustls::Stream::new(tls.as_mut(), &mut socket), host, path, nonce)
                }
                None => websocket::upgrade(&mut socket, host, path, nonce),
            };
            let rest = rest.map_err(|why| DeviceError::Connection { server: host.clone(), why })?;
            let mut reader = Frames::default();
            reader
                .take(&rest, [0; 4], &mut received, &mut Vec::new())
                .map_err(|why| DeviceError::Connection { server: host.clone(), why })?;
            frames = Some(reader);
        }
        Self::assemble(socket, tls, frames, received, endpoint, version, environment)
            .map_err(|e| endpoint.fault(&e))
    }

    fn assemble(
        socket: TcpStream,
        mut tls: Option<Box<ClientConnection>>,
        frames: Option<Frames>,
        received: Vec<u8>,
        endpoint: &Endpoint,
        version: ProtocolVersion,
        environment: Arc<dyn Environment>,
    ) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        if let Some(tls) = &mut tls {
            tls.set_buffer_limit(None); // a packet is taken whole
        }
        let mut socket = mio::net::TcpStream::from_std(socket);
        let poll = Poll::new()?;
        poll.registry().register(&mut socket, SOCKET, Interest::READABLE | Interest::WRITABLE)?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        Ok(Self {
            socket,
            tls,
            frames,
            poll,
            events: Events::with_capacity(8),
            waker,
            environment,
            server: endpoint.server.clone(),
            version,
            received,
            taken: 0,
            out: Vec::new(),
            readable: true,
            writable: true,
            ended: false,
        })
    }

    /// With this another thread ends [`Self::wait`].
    pub(crate) fn waker(&self) -> Arc<Waker> {
        Arc::clone(&self.waker)
    }

    /// What TLS exports for this connection; `None` without TLS.
    ///
    /// Source: RFC 8446 section 7.5, RFC 5705.
    pub(crate) fn export(&self, label: &[u8], context: &[u8]) -> Result<Option<[u8; 32]>, DeviceError> {
        let Some(tls) = &self.tls else { return Ok(None) };
        tls.export_keying_material([0; 32], label, Some(context))
            .map(Some)
            .map_err(|e| DeviceError::Tls { server: self.server.clone(), why: e.to_string() })
    }

    /// Whether the server has shown the key that a token is for. Without TLS nobody shows one.
    ///
    /// # Errors
    /// [`DeviceError::OtherServer`].
    pub(crate) fn judge_server(&self, wanted: &ServerKey) -> Result<(), DeviceError> {
        let shown = self.tls.as_ref().and_then(|tls| tls.peer_certificates()?.first());
        wanted.judge(shown.map(AsRef::as_ref))
    }

    /// Puts a packet among what is to be sent.
    pub(crate) fn send(&mut self, packet: &Packet<'_>) -> Result<(), DeviceError> {
        let mut bytes = Vec::new();
        packet
            .encode(self.version, &mut bytes)
            .map_err(|e| DeviceError::Protocol(format!("the packet cannot be sent: {e}")))?;
        if self.frames.is_some() {
            let mask = self.mask();
            Frames::frame(&bytes, mask, &mut self.out);
        } else {
            self.out.extend_from_slice(&bytes);
        }
        Ok(())
    }

    /// How many bytes wait that neither TLS nor the socket has taken.
    pub(crate) fn unsent(&self) -> usize {
        self.out.len()
    }

    /// Gives the next packet that has come to `take`; `None` when none is whole.
    pub(crate) fn next<T>(&mut self, take: impl FnOnce(Packet<'_>) -> T) -> Result<Option<T>, DeviceError> {
        let input = &self.received[self.taken..];
        match codec::decode(input, Some(self.version), PACKET_BYTES_MAX, Side::FromServer) {
            Err(e) => Err(DeviceError::Protocol(e.to_string())),
            Ok(Frame::Incomplete { .. }) => {
                self.received.drain(..self.taken);
                self.taken = 0;
                Ok(None)
            }
            Ok(Frame::Complete { packet, bytes }) => {
                let taken = take(packet);
                self.taken += bytes;
                Ok(Some(taken))
            }
        }
    }

    /// Sends what waits, and reads what comes within `wait`; ends earlier when something came or somebody woke it. Call
    /// it after [`Self::next`] has said `None`.
    pub(crate) fn wait(&mut self, wait: Duration) -> Result<(), DeviceError> {
        self.turn(wait).map_err(|e| fault(&self.server, &e))?;
        Ok(())
    }

    fn turn(&mut self, wait: Duration) -> io::Result<()> {
        self.flush()?;
        if self.ended {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        if !self.readable {
            // A poll counts in milliseconds and rounds up: never back too early.
            match self.poll.poll(&mut self.events, Some(wait)) {
                Err(e) if e.kind() != ErrorKind::Interrupted => return Err(e),
                _ => {}
            }
            for event in &self.events {
                if event.token() == SOCKET {
                    self.readable |= event.is_readable() || event.is_read_closed() || event.is_error();
                    self.writable |= event.is_writable() || event.is_write_closed() || event.is_error();
                }
            }
        }
        if self.readable {
            let before = self.received.len();
            self.read()?;
            if self.ended && self.received.len() == before {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        self.flush()
    }

    fn read(&mut self) -> io::Result<()> {
        let mut chunk = [0; 16 * 1024];
        let mut plain = Vec::new();
        while plain.len() < READ_BYTES_MAX {
            let got = match &mut self.tls {
                None => self.socket.read(&mut chunk),
                Some(tls) => tls.read_tls(&mut self.socket),
            };
            match got {
                Ok(0) => {
                    self.ended = true;
                    self.readable = false;
                    break;
                }
                Ok(n) if self.tls.is_none() => plain.extend_from_slice(&chunk[..n]),
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    self.readable = false;
                    break;
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
            let Some(tls) = &mut self.tls else { continue };
            let state = tls.process_new_packets().map_err(io::Error::other)?;
            if state.plaintext_bytes_to_read() > 0 {
                let begun = plain.len();
                plain.resize(begun + state.plaintext_bytes_to_read(), 0);
                tls.reader().read_exact(&mut plain[begun..])?;
            }
            if state.peer_has_closed() {
                self.ended = true;
                self.readable = false;
                break;
            }
        }
        let mask = self.mask();
        match &mut self.frames {
            None => self.received.extend_from_slice(&plain),
            Some(frames) => {
                frames.take(&plain, mask, &mut self.received, &mut self.out).map_err(io::Error::other)?;
                self.ended |= frames.closed;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            if !self.out.is_empty() {
                tls.writer().write_all(&self.out)?;
                self.out.clear();
            }
            while self.writable && tls.wants_write() {
                match tls.write_tls(&mut self.socket) {
                    Ok(_) => {}
                    Err(e) if e.kind() == ErrorKind::WouldBlock => self.writable = false,
                    Err(e) if e.kind() == ErrorKind::Interrupted => {}
                    Err(e) => return Err(e),
                }
            }
            return Ok(());
        }
        let mut sent = 0;
        let end = loop {
            if !self.writable || sent == self.out.len() {
                break Ok(());
            }
            match self.socket.write(&self.out[sent..]) {
                Ok(n) => sent += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => self.writable = false,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => break Err(e),
            }
        };
        self.out.drain(..sent);
        end
    }

    /// Whether the socket takes nothing more for now.
    pub(crate) fn is_stuck(&self) -> bool {
        !self.writable && self.has_unsent()
    }

    /// Sends all that waits; what comes meanwhile is kept.
    pub(crate) fn flush_all(&mut self, within: Duration) -> Result<(), DeviceError> {
        let deadline = self.environment.elapsed() + within;
        let mut went = self.flush();
        while went.is_ok() && self.has_unsent() && !self.ended {
            let now = self.environment.elapsed();
            if now >= deadline {
                return Err(DeviceError::TimedOut { what: "what was sent", seconds: within.as_secs() });
            }
            went = self.turn(deadline - now);
        }
        went.map_err(|e| fault(&self.server, &e))
    }

    fn has_unsent(&self) -> bool {
        !self.out.is_empty() || self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    /// Says goodbye below MQTT, as far as the socket takes it now.
    pub(crate) fn close(mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
        }
        let _ = self.flush(); // the goodbye is said; the server may be gone by now
    }

    fn mask(&self) -> [u8; 4] {
        let mut mask = [0; 4];
        if self.frames.is_some() {
            self.environment.random(&mut mask);
        }
        mask
    }
}

fn host(server: &str) -> &str {
    server.rsplit_once(':').map_or(server, |(host, _)| host).trim_matches(['[', ']'])
}

/// The first address that accepts.
fn dial(endpoint: &Endpoint) -> Result<TcpStream, DeviceError> {
    let server = &endpoint.server;
    let connection = |why: String| DeviceError::Connection { server: server.clone(), why };
    let mut last = connection("its name has no address".to_owned());
    for address in server.to_socket_addrs().map_err(|e| endpoint.fault(&e))? {
        if endpoint.tls.is_none() && !address.ip().is_loopback() {
            return Err(connection("without TLS only loopback is spoken to".to_owned()));
        }
        match TcpStream::connect_timeout(&address, Duration::from_secs(CONNECT_S_MAX)) {
            Err(e) => last = endpoint.fault(&e),
            Ok(socket) => {
                let limit = Some(Duration::from_secs(ANSWER_S_MAX));
                return socket
                    .set_nodelay(true)
                    .and_then(|()| socket.set_read_timeout(limit))
                    .and_then(|()| socket.set_write_timeout(limit))
                    .map(|()| socket)
                    .map_err(|e| endpoint.fault(&e));
            }
        }
    }
    Err(last)
}

fn shake_hands(
    endpoint: &Endpoint,
    config: Arc<ClientConfig>,
    socket: &mut TcpStream,
) -> Result<ClientConnection, DeviceError> {
    let server = &endpoint.server;
    let wrong = |why: String| DeviceError::Tls { server: server.clone(), why };
    let name = ServerName::try_from(host(server).to_owned()).map_err(|e| wrong(e.to_string()))?;
    let mut tls = ClientConnection::new(config, name).map_err(|e| wrong(e.to_string()))?;
    while tls.is_handshaking() {
        tls.complete_io(socket).map_err(|e| endpoint.fault(&e))?;
    }
    Ok(tls)
}

fn fault(server: &str, error: &io::Error) -> DeviceError {
    let server = server.to_owned();
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(tls) => DeviceError::Tls { server, why: tls.to_string() },
        None if error.kind() == ErrorKind::UnexpectedEof => DeviceError::Closed(" without a word".to_owned()),
        None if error.kind() == ErrorKind::WouldBlock => {
            DeviceError::TimedOut { what: "the opening of the connection", seconds: ANSWER_S_MAX }
        }
        None => DeviceError::Connection { server, why: error.to_string() },
    }
}
