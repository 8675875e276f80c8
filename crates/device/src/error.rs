//! What can go wrong for a device.

use alloc::string::String;
#[cfg(feature = "std")]
use std::path::PathBuf;

use drawbridge_jose::SignError;

/// Why a device could not do something.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// A file of the identity folder cannot be used.
    #[cfg(feature = "std")]
    #[error("{}: {why}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it and what was wanted.
        why: String,
    },
    /// The key cannot be used or a JWT could not be signed.
    #[error("the key cannot be used: {0}")]
    Key(String),
    /// No connection, or it broke.
    #[error("the connection to {server} failed: {why}; check the address and that the server runs")]
    Connection {
        /// Where to.
        server: String,
        /// What the system said.
        why: String,
    },
    /// The server does not have a certificate of the root we were given.
    #[error("TLS with {server} failed: {why}; the root certificate must be the server's `ca.pem`")]
    Tls {
        /// Where to.
        server: String,
        /// What TLS said.
        why: String,
    },
    /// The server refused us.
    #[error("refused: {why} (reason code 0x{code:02x})")]
    Refused {
        /// MQTT reason code of CONNACK, SUBACK, PUBACK or DISCONNECT.
        code: u8,
        /// Its name, and the reason string if the server gave one.
        why: String,
        /// The server's time, in seconds since 1970-01-01 UTC: it refused for the time.
        server_time_s: Option<u64>,
    },
    /// The HTTP API refused us.
    #[error("refused: {0}")]
    Denied(String),
    /// The HTTP API cannot answer now: it is overloaded or failed. Later it may.
    #[error("the server cannot answer now: {why}; try again later")]
    Unavailable {
        /// What it said.
        why: String,
        /// It asks to be left alone so long (`Retry-After`).
        retry_after: Option<core::time::Duration>,
    },
    /// The server is not the one that the token is for: it has shown another key than the authorization server named.
    ///
    /// Source: RFC 9431 section 2.2.1 (`rs_cnf`).
    #[error(
        "the server has shown the key {found}, and the token is for the one with {wanted} (`rs_cnf`); nothing was sent to it. \
         Check the address, and that the token's server knows the broker's certificate"
    )]
    OtherServer {
        /// Thumbprint (RFC 7638) of the key that was shown.
        found: String,
        /// What was wanted.
        wanted: String,
    },
    /// The server closed the connection.
    #[error("the server closed the connection{0}")]
    Closed(String),
    /// The server sent something that is not MQTT, or answers were mixed up.
    #[error("the server does not speak MQTT as expected: {0}")]
    Protocol(String),
    /// No answer in time.
    #[error("no answer within {seconds} s to {what}")]
    TimedOut {
        /// What was waited for.
        what: &'static str,
        /// How long.
        seconds: u64,
    },
    /// As many messages wait for a connection as may.
    #[error("{messages} messages of {bytes} bytes wait already; publish less, or let more wait (`Queue`)")]
    QueueFull {
        /// How many wait.
        messages: usize,
        /// Their bytes.
        bytes: usize,
    },
    /// A message of QoS 0 was published while there is no connection; such a message is not kept.
    #[error("there is no connection, and a message of QoS 0 is not kept; publish it at QoS 1")]
    Offline,
    /// A message was dropped to make room for a newer one, because the queue was told to do so.
    #[error("the message was dropped for a newer one; let more wait (`Queue`)")]
    Dropped,
    /// The client was stopped before it was done.
    #[error("the client was stopped before it was done")]
    Stopped,
}

impl From<SignError> for DeviceError {
    fn from(error: SignError) -> Self {
        Self::Key(alloc::string::ToString::to_string(&error))
    }
}
