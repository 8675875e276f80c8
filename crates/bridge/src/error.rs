//! What keeps the bridge from starting, and why a connection is refused before MQTT is spoken.

use std::io;
use std::net::SocketAddr;

use crate::websocket::FrameFault;

/// Why the bridge could not be built. All of these are the operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum BridgeError {
    /// A listener without TLS on an address that others can reach.
    #[error(
        "the plaintext listener is bound to {address}; wanted a loopback address (127.0.0.0/8 or ::1), \
         because a credential would cross the network unprotected; bind it to 127.0.0.1 or use TLS"
    )]
    PlainBeyondLoopback {
        /// Where it is bound.
        address: SocketAddr,
    },
    /// No listener was given.
    #[error("no listener was given, so no client could ever connect; pass at least one")]
    NoListener,
    /// A setting has a value with which the bridge cannot work.
    #[error("`bridge.{setting}` is {found}; wanted at least {wanted_min}")]
    Setting {
        /// Name of the field of [`crate::BridgeConfig`].
        setting: &'static str,
        /// Its value.
        found: u128,
        /// The least that works.
        wanted_min: u128,
    },
    /// The open-files limit leaves no room for a connection.
    #[error(
        "the limit of open files is {soft}, of which {reserve} are kept for everything else, so no \
         connection fits; raise it (`ulimit -n`, LimitNOFILE=) to at least {wanted_min}"
    )]
    OpenFiles {
        /// Soft limit found.
        soft: u64,
        /// Descriptors kept back.
        reserve: u64,
        /// The least that works.
        wanted_min: u64,
    },
    /// The operating system refused a poll, a socket option or a thread.
    #[error("could not set up {what}: {source}")]
    System {
        /// What was attempted.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A TLS listener without a certificate, a version or a protocol.
    #[error(
        "a TLS listener has nothing to show or to speak; give it a certificate, `1.3` or `1.2` (raw keys: `1.3`), \
         and a protocol"
    )]
    NothingToShow,
    /// The certificate chain and key do not make a TLS server.
    #[error("the certificate chain and key do not make a TLS server: {source}")]
    Certificate {
        /// What rustls said.
        source: rustls::Error,
    },
}

impl BridgeError {
    /// The stable code, listed in `docs/errors.md`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::PlainBeyondLoopback { .. } => "DB-2060",
            Self::NoListener => "DB-2061",
            Self::Setting { .. } => "DB-2062",
            Self::OpenFiles { .. } => "DB-2063",
            Self::System { .. } => "DB-2064",
            Self::Certificate { .. } => "DB-2065",
            Self::NothingToShow => "DB-2083",
        }
    }

    /// The stable word.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::PlainBeyondLoopback { .. } => "plain-beyond-loopback",
            Self::NoListener => "no-listener",
            Self::Setting { .. } => "bridge-setting",
            Self::OpenFiles { .. } => "open-files-too-few",
            Self::System { .. } => "bridge-system",
            Self::Certificate { .. } => "certificate-unusable",
            Self::NothingToShow => "tls-nothing-to-show",
        }
    }
}

/// Why a connection was closed below MQTT. The peer learns nothing but the close (or a TLS alert);
/// the log has the code, the word and the address.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Turned {
    /// TLS failed: before or after the handshake, as the flag says.
    #[error("TLS failed{}: {source}", if *.handshaking { " in the handshake" } else { "" })]
    Tls { handshaking: bool, source: rustls::Error },
    /// The handshake took more bytes than allowed.
    #[error("the TLS handshake passed {bytes_max} bytes, the most allowed before authentication")]
    HandshakeTooLarge { bytes_max: usize },
    /// Too many unauthenticated connections from one address.
    #[error("{max} connections of this address are unauthenticated, the most allowed on a listener")]
    AddressFull { max: usize },
    /// Too many connections in all.
    #[error("{max} connections are open, the most that the limit of open files allows; raise LimitNOFILE")]
    ConnectionsFull { max: usize },
    /// The process has no descriptor left: accepting pauses.
    #[error("no file descriptor is left, accepting pauses: {source}")]
    OutOfFiles { source: io::Error },
    /// The system refused to hand over or prepare a connection.
    #[error("a connection could not be accepted: {source}")]
    Accept { source: io::Error },
    /// A listener has as many unauthenticated connections as it may.
    #[error(
        "{max} connections of a listener are unauthenticated, the most allowed; the next ones wait unaccepted"
    )]
    ListenerFull { max: usize },
    /// As many logins are under judgement as may be.
    #[error("{max} logins are being judged, the most at once; `bridge.logins_max` allows more")]
    LoginsFull { max: usize },
    /// The client broke the framing of WebSocket.
    #[error("WebSocket was broken: {0}")]
    WebSocket(FrameFault),
    /// A client over WebSocket sent too much before it was admitted.
    #[error("more than {bytes_max} bytes of WebSocket frames came before authentication, the most allowed")]
    WebSocketEarly { bytes_max: usize },
    /// The principal changed between admission's answer and its installation.
    #[error("blocked, revoked or changed while it was being admitted")]
    AdmissionOutdated,
}

impl Turned {
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Tls { .. } => "DB-2070",
            Self::HandshakeTooLarge { .. } => "DB-2071",
            Self::AddressFull { .. } => "DB-2072",
            Self::ConnectionsFull { .. } => "DB-2073",
            Self::OutOfFiles { .. } => "DB-2074",
            Self::Accept { .. } => "DB-2075",
            Self::ListenerFull { .. } => "DB-2076",
            Self::AdmissionOutdated => "DB-2077",
            Self::LoginsFull { .. } => "DB-2082",
            Self::WebSocket(FrameFault::TooLong { .. }) | Self::WebSocketEarly { .. } => "DB-2079",
            Self::WebSocket(_) => "DB-2078",
        }
    }

    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Tls { .. } => "tls-failed",
            Self::HandshakeTooLarge { .. } => "tls-handshake-too-large",
            Self::AddressFull { .. } => "address-full",
            Self::ConnectionsFull { .. } => "connections-full",
            Self::OutOfFiles { .. } => "out-of-files",
            Self::Accept { .. } => "accept-failed",
            Self::ListenerFull { .. } => "listener-full",
            Self::AdmissionOutdated => "admission-outdated",
            Self::LoginsFull { .. } => "logins-full",
            Self::WebSocket(FrameFault::TooLong { .. }) | Self::WebSocketEarly { .. } => "websocket-too-long",
            Self::WebSocket(_) => "websocket-malformed",
        }
    }
}
