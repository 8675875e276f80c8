//! Settings of the HTTPS side.

use serde::Deserialize;

/// Bounds of the HTTPS listener. The defaults are meant for production.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct HttpConfig {
    /// Longest TLS handshake, in seconds. Default 10.
    pub handshake_s_max: u64,
    /// Longest time for the header section of a request, and longest pause between two requests of
    /// a connection, in seconds. Default 30.
    pub header_s_max: u64,
    /// Longest time for the body of a request, in seconds. Default 10.
    pub body_s_max: u64,
    /// Connections in the TLS handshake at once; the excess waits unaccepted. Default 1024.
    pub handshakes_max: usize,
    /// Connections at once; the excess waits unaccepted. Default 8192.
    pub connections_max: usize,
    /// Connections of one address at once; the excess is closed. An IPv6 /64 is one address. Default
    /// 1024; a proxy in front needs more.
    pub connections_per_address_max: usize,
    /// Whether clients are asked for a TLS certificate. None has to send one; browsers may show a dialog to
    /// people who have one. Default true.
    pub client_certificates: bool,
    /// Origins of web pages that may speak MQTT over WebSocket, beside that of the issuer, such as
    /// `https://panel.example`; `*` for all. Who sends no `Origin` is no page. Default none.
    pub websocket_origins: Vec<String>,
    /// How long a command waits for the PUBACK when the request does not say, in seconds. Default 10.
    pub command_wait_s: u64,
    /// The longest such wait that a request may ask for, in seconds. Default 60.
    pub command_wait_s_max: u64,
    /// How long setting a config waits for the PUBACK of a connected device, in seconds. Default 2.
    pub config_wait_s: u64,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            handshake_s_max: 10,
            header_s_max: 30,
            body_s_max: 10,
            handshakes_max: 1024,
            connections_max: 8192,
            connections_per_address_max: 1024,
            client_certificates: true,
            websocket_origins: Vec::new(),
            command_wait_s: 10,
            command_wait_s_max: 60,
            config_wait_s: 2,
        }
    }
}

/// Longest body, in bytes.
pub(crate) const BODY_BYTES_MAX: usize = 16 * 1024;
/// Longest body that carries keys, certificates, policies or payloads, in bytes.
pub(crate) const KEY_BODY_BYTES_MAX: usize = 64 * 1024;
/// Longest body of a command or config: the payload of 64 KiB in base64, and the members around it.
pub(crate) const PAYLOAD_BODY_BYTES_MAX: usize = 92 * 1024;
/// Longest JWT or token, in bytes.
pub(crate) const JWT_BYTES_MAX: usize = 4 * 1024;
/// Longest header section, request line included, in bytes.
pub(crate) const HEADER_BYTES_MAX: usize = 16 * 1024;
/// So much of a body that is too long is read and thrown away, that the peer can read the answer.
pub(crate) const LINGER_BYTES_MAX: usize = 1024 * 1024;
/// And for so long, in seconds.
pub(crate) const LINGER_S_MAX: u64 = 2;
