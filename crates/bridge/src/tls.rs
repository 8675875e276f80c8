//! TLS of one connection. With `server_tls.rs`, which has the settings, the only file that knows rustls' calls:
//! a change of its interface (buffered to unbuffered, 0.23 to 0.24) stays in here.

use std::fmt;
use std::io::{self, BufRead, IoSlice, Write};
use std::sync::Arc;

use drawbridge_admission::{ClientCertificate, PeerProof, TlsFacts, TlsVersion, refresh_context};
use drawbridge_names::RegistryName;
use rustls::server::{Accepted, ServerConnection};
use rustls::{HandshakeKind, ProtocolVersion, ServerConfig};

use crate::error::Turned;
use crate::hello::{HelloFault, HelloReader};
use crate::server_tls::{ALPN_MQTT_CERTIFICATE, Protocol, ServerTls};

/// The server's end of one TLS connection: ciphertext in, plaintext out, and back.
#[derive(Debug)]
pub(crate) struct Tls {
    stage: Stage,
    handshake_bytes_left: usize,
    handshake_bytes_max: usize,
    /// The registry that the server's name led to, until somebody takes it.
    registry: Option<Box<RegistryName>>,
    /// What the peer shows is a key, not a certificate.
    raw_keys: bool,
    /// When the peer has done its last whole handshake, in ms since 1970-01-01 UTC; of one that is resumed the ticket says it.
    since_ms: u64,
}

enum Stage {
    /// The ClientHello is not whole yet; it decides what comes.
    Hello(HelloReader, Arc<ServerTls>),
    Session(ServerConnection),
    /// Nothing but an alert is left to say.
    Refused(Vec<u8>),
}

impl fmt::Debug for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hello(..) => f.write_str("Hello"),
            Self::Session(session) => session.fmt(f),
            Self::Refused(_) => f.write_str("Refused"),
        }
    }
}

/// How a connection stands after ciphertext was taken in.
#[derive(Debug)]
pub(crate) enum Fed {
    Open,
    /// The peer sent close_notify: nothing more will come.
    PeerClosed,
    /// The client speaks HTTPS: somebody else goes on with the handshake.
    Https(Box<(Accepted, Arc<ServerConfig>)>),
}

impl Tls {
    /// `handshake_bytes_max`: ciphertext accepted until the handshake is done. `now_ms`: since 1970-01-01 UTC.
    pub(crate) fn new(
        tls: &Arc<ServerTls>,
        handshake_bytes_max: usize,
        now_ms: u64,
    ) -> Result<Self, rustls::Error> {
        let stage = match tls.only() {
            Some(config) => Stage::Session(ServerConnection::new(config)?),
            None => Stage::Hello(HelloReader::new(handshake_bytes_max), Arc::clone(tls)),
        };
        Ok(Self {
            stage,
            handshake_bytes_left: handshake_bytes_max,
            handshake_bytes_max,
            registry: None,
            raw_keys: false,
            since_ms: now_ms,
        })
    }

    /// One whose handshake was done a moment ago.
    pub(crate) fn begun(session: ServerConnection, now_ms: u64) -> Self {
        Self {
            stage: Stage::Session(session),
            handshake_bytes_left: 0,
            handshake_bytes_max: 0,
            registry: None,
            raw_keys: false,
            since_ms: now_ms,
        }
    }

    /// Takes in all of `ciphertext` and appends what it decrypts to `plaintext`: at most as many
    /// bytes as came in, plus one record that was begun before.
    ///
    /// # Errors
    /// [`Turned`] when the handshake is too large or the peer breaks the protocol. An alert may be
    /// waiting to be [`flushed`](Self::flush).
    pub(crate) fn feed(&mut self, mut ciphertext: &[u8], plaintext: &mut Vec<u8>) -> Result<Fed, Turned> {
        if matches!(self.stage, Stage::Hello(..)) {
            return self.feed_hello(ciphertext, plaintext);
        }
        while !ciphertext.is_empty() {
            let handshaking = self.is_handshaking();
            if handshaking && self.handshake_bytes_left == 0 {
                return Err(Turned::HandshakeTooLarge { bytes_max: self.handshake_bytes_max });
            }
            let allowed = if handshaking { self.handshake_bytes_left } else { ciphertext.len() };
            let mut piece = ciphertext.get(..allowed).unwrap_or(ciphertext);
            let before = piece.len();
            // `read_tls` copies at most 4 KiB a time; it fails only when plaintext was left in it.
            let Stage::Session(session) = &mut self.stage else { return Ok(Fed::PeerClosed) };
            if session.read_tls(&mut piece).is_err() {
                return Err(broken(handshaking, "received plaintext was not taken out"));
            }
            let taken = before - piece.len();
            if taken == 0 {
                return Ok(Fed::PeerClosed);
            }
            ciphertext = ciphertext.get(taken..).unwrap_or_default();
            if handshaking {
                self.handshake_bytes_left -= taken;
            }
            let Stage::Session(session) = &mut self.stage else { continue };
            let state =
                session.process_new_packets().map_err(|source| Turned::Tls { handshaking, source })?;
            let closed = state.peer_has_closed();
            self.take_plaintext(plaintext);
            if closed {
                return Ok(Fed::PeerClosed);
            }
        }
        Ok(Fed::Open)
    }

    fn feed_hello(&mut self, ciphertext: &[u8], plaintext: &mut Vec<u8>) -> Result<Fed, Turned> {
        let Stage::Hello(reader, tls) = &mut self.stage else { return Ok(Fed::Open) };
        let left = self.handshake_bytes_left.checked_sub(ciphertext.len());
        self.handshake_bytes_left =
            left.ok_or(Turned::HandshakeTooLarge { bytes_max: self.handshake_bytes_max })?;
        let hello = match reader.feed(ciphertext) {
            Ok(None) => return Ok(Fed::Open),
            Ok(Some(hello)) => hello,
            Err(fault) => return Err(self.refuse(fault)),
        };
        let choice = tls.choose(&hello);
        if choice.protocol == Protocol::Https {
            return Ok(Fed::Https(Box::new((hello.accepted, choice.config))));
        }
        self.registry = choice.registry.map(Box::new);
        self.raw_keys = choice.raw_keys;
        match hello.accepted.into_connection(choice.config) {
            Ok(mut session) => {
                // What the ticket says that is resumed, the next one says too.
                let told = session.received_resumption_data().and_then(|told| <[u8; 8]>::try_from(told).ok());
                let told_ms = told.map(u64::from_be_bytes).filter(|told_ms| *told_ms < self.since_ms);
                self.since_ms = told_ms.unwrap_or(self.since_ms);
                session.set_resumption_data(&self.since_ms.to_be_bytes());
                self.stage = Stage::Session(session);
            }
            Err((source, mut alert)) => {
                return Err(self.refuse(HelloFault::with(source, |out| alert.write_all(out))));
            }
        }
        self.take_plaintext(plaintext);
        Ok(Fed::Open)
    }

    /// Keeps the alert for [`flush`](Self::flush).
    fn refuse(&mut self, fault: HelloFault) -> Turned {
        self.stage = Stage::Refused(fault.alert);
        Turned::Tls { handshaking: true, source: fault.source }
    }

    /// When the peer has done its last whole handshake, in ms since 1970-01-01 UTC.
    pub(crate) fn since_ms(&self) -> u64 {
        self.since_ms
    }

    fn session(&self) -> Option<&ServerConnection> {
        if let Stage::Session(session) = &self.stage { Some(session) } else { None }
    }

    /// The registry that the name led to by which the client has called the server; said once.
    pub(crate) fn take_registry(&mut self) -> Option<Box<RegistryName>> {
        self.registry.take()
    }

    /// Whether the client has chosen the protocol of those who log in with their certificate alone.
    pub(crate) fn is_by_certificate(&self) -> bool {
        self.session().is_some_and(|session| session.alpn_protocol() == Some(ALPN_MQTT_CERTIFICATE))
    }

    /// What is known of the connection; `None` until its handshake is done. `renewal`: the new token, if one has come.
    pub(crate) fn facts(&self, renewal: Option<&[u8]>) -> Option<TlsFacts> {
        let session = self.session().filter(|session| !session.is_handshaking())?;
        let version = match session.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => TlsVersion::V12,
            _ => TlsVersion::V13,
        };
        let shown = session.peer_certificates().unwrap_or_default();
        let peer = shown.first().map(|first| match self.raw_keys {
            true => PeerProof::RawKey(first.to_vec()),
            false => PeerProof::Certificate(ClientCertificate {
                chain_der: shown.iter().map(|der| der.to_vec()).collect(),
            }),
        });
        Some(TlsFacts {
            version,
            resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
            peer,
            ace_exporter: self.export(b"EXPORTER-ACE-MQTT-Sign-Challenge", b""),
            channel_binding: self.export(b"EXPORTER-Channel-Binding", b""),
            refresh_exporter: renewal
                .and_then(|token| self.export(b"EXPORTER-drawbridge-refresh", &refresh_context(token))),
        })
    }

    /// An empty context is not none: the two differ in TLS 1.2 (RFC 5705 section 4), whose exporters are one
    /// connection's alone because the extended master secret is demanded.
    fn export(&self, label: &[u8], context: &[u8]) -> Option<[u8; 32]> {
        self.session()?.export_keying_material([0; 32], label, Some(context)).ok()
    }

    pub(crate) fn is_handshaking(&self) -> bool {
        match &self.stage {
            Stage::Hello(..) => true,
            Stage::Session(session) => session.is_handshaking(),
            Stage::Refused(_) => false,
        }
    }

    /// Appends what is decrypted and was not taken yet.
    pub(crate) fn take_plaintext(&mut self, plaintext: &mut Vec<u8>) {
        let Stage::Session(session) = &mut self.stage else { return };
        let mut reader = session.reader();
        // `WouldBlock` and the end of the stream both mean: no more for now.
        while let Ok(chunk) = reader.fill_buf() {
            if chunk.is_empty() {
                break;
            }
            plaintext.extend_from_slice(chunk);
            let taken = chunk.len();
            reader.consume(taken);
        }
    }

    /// Takes plaintext to send; returns how many bytes were accepted. Zero means that what was
    /// accepted before must leave first: rustls keeps at most 64 KiB.
    pub(crate) fn push(&mut self, plaintext: &[u8]) -> usize {
        let Stage::Session(session) = &mut self.stage else { return 0 };
        session.writer().write(plaintext).unwrap_or(0)
    }

    /// As [`push`](Self::push), of two pieces behind each other, in the same record where they fit.
    pub(crate) fn push_both(&mut self, first: &[u8], second: &[u8]) -> usize {
        let Stage::Session(session) = &mut self.stage else { return 0 };
        session.writer().write_vectored(&[IoSlice::new(first), IoSlice::new(second)]).unwrap_or(0)
    }

    /// Whether ciphertext waits to be sent.
    pub(crate) fn wants_write(&self) -> bool {
        match &self.stage {
            Stage::Hello(..) => false,
            Stage::Session(session) => session.wants_write(),
            Stage::Refused(alert) => !alert.is_empty(),
        }
    }

    /// Writes waiting ciphertext to `socket`, once.
    ///
    /// # Errors
    /// What the socket says, `WouldBlock` included.
    pub(crate) fn flush(&mut self, socket: &mut dyn Write) -> io::Result<usize> {
        match &mut self.stage {
            Stage::Hello(..) => Ok(0),
            Stage::Session(session) => session.write_tls(socket),
            Stage::Refused(alert) => {
                let written = socket.write(alert)?;
                alert.drain(..written);
                Ok(written)
            }
        }
    }

    /// Queues close_notify behind everything pushed so far. Safe to call twice.
    pub(crate) fn send_close_notify(&mut self) {
        if let Stage::Session(session) = &mut self.stage {
            session.send_close_notify();
        }
    }
}

fn broken(handshaking: bool, what: &str) -> Turned {
    Turned::Tls { handshaking, source: rustls::Error::General(what.into()) }
}
