//! TLS of one connection, and the settings of a TLS server. The only file that knows rustls' calls:
//! a change of its interface (buffered to unbuffered, 0.23 to 0.24) stays in here.

use std::io::{self, BufRead, IoSlice, Write};
use std::sync::Arc;

use drawbridge_admission::{ClientCertificate, PeerProof, TlsFacts, TlsVersion, refresh_context};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, ServerConnection};
use rustls::{CipherSuite, HandshakeKind, ProtocolVersion, ServerConfig, crypto::aws_lc_rs};

use crate::BridgeError;
use crate::client_certificate::AnyClientCertificate;
use crate::error::Turned;

/// Settings of a TLS server for MQTT: TLS 1.3 and 1.2; X25519MLKEM768, X25519, P-256 in that order;
/// AES-128-GCM with SHA-256 before other ciphers, whatever order the client has; ALPN `mqtt`, or
/// none at all. Nothing is resumed: no tickets, no session storage, no 0-RTT, because nothing
/// re-checks a resumed session yet.
///
/// `chain`: the leaf first. `key`: its private key.
///
/// # Errors
/// [`BridgeError::Certificate`] when the key does not belong to the leaf or is of a kind unknown.
pub fn server_tls(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>, BridgeError> {
    server_tls_with(chain, key, false)
}

/// As [`server_tls`], and clients are asked for a certificate; none has to send one. One that is sent is of
/// any origin, its chain of 4 certificates and 16 KiB at most, and its private key is proven to be the
/// peer's; nothing else is judged here.
///
/// # Errors
/// As [`server_tls`].
pub fn server_tls_asking(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>, BridgeError> {
    server_tls_with(chain, key, true)
}

fn server_tls_with(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    client_certificates: bool,
) -> Result<Arc<ServerConfig>, BridgeError> {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![
        aws_lc_rs::kx_group::X25519MLKEM768,
        aws_lc_rs::kx_group::X25519,
        aws_lc_rs::kx_group::SECP256R1,
    ];
    // AES-128 with SHA-256 first: processors have instructions for both, and few have them for SHA-384,
    // whose key schedule costs a tenth of a handshake. The sort is stable: the rest stays in order.
    provider.cipher_suites.sort_by_key(|suite| {
        !matches!(
            suite.suite(),
            CipherSuite::TLS13_AES_128_GCM_SHA256
                | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
                | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
        )
    });
    // Still all 1.3 suites before those of 1.2.
    provider.cipher_suites.sort_by_key(|suite| suite.tls13().is_none());
    let signatures = provider.signature_verification_algorithms;
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .and_then(|builder| {
            let builder = match client_certificates {
                true => builder.with_client_cert_verifier(Arc::new(AnyClientCertificate::new(signatures))),
                false => builder.with_no_client_auth(),
            };
            builder.with_single_cert(chain, key)
        })
        .map_err(|source| BridgeError::Certificate { source })?;
    config.ignore_client_order = true;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.alpn_protocols = vec![b"mqtt".to_vec()];
    Ok(Arc::new(config))
}

/// The server's end of one TLS connection: ciphertext in, plaintext out, and back.
#[derive(Debug)]
pub(crate) struct Tls {
    session: ServerConnection,
    handshake_bytes_left: usize,
    handshake_bytes_max: usize,
}

/// How a connection stands after ciphertext was taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fed {
    Open,
    /// The peer sent close_notify: nothing more will come.
    PeerClosed,
}

impl Tls {
    /// `handshake_bytes_max`: ciphertext accepted until the handshake is done.
    pub(crate) fn new(config: &Arc<ServerConfig>, handshake_bytes_max: usize) -> Result<Self, rustls::Error> {
        let session = ServerConnection::new(Arc::clone(config))?;
        Ok(Self { session, handshake_bytes_left: handshake_bytes_max, handshake_bytes_max })
    }

    /// One whose handshake is done already.
    pub(crate) fn begun(session: ServerConnection) -> Self {
        Self { session, handshake_bytes_left: 0, handshake_bytes_max: 0 }
    }

    /// What is known of the connection once its handshake is done. `renewal`: the new token, if one has come.
    pub(crate) fn facts(&self, renewal: Option<&[u8]>) -> TlsFacts {
        let version = match self.session.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => TlsVersion::V12,
            _ => TlsVersion::V13,
        };
        let peer = self.session.peer_certificates().map(|chain| {
            let chain_der = chain.iter().map(|der| der.to_vec()).collect();
            PeerProof::Certificate(ClientCertificate { chain_der })
        });
        TlsFacts {
            version,
            resumed: self.session.handshake_kind() == Some(HandshakeKind::Resumed),
            peer,
            // An empty context, not none: the two differ in TLS 1.2 (RFC 5705 section 4).
            ace_exporter: self.export(b"EXPORTER-ACE-MQTT-Sign-Challenge", b""),
            channel_binding: self.export(b"EXPORTER-Channel-Binding", b""),
            refresh_exporter: renewal
                .and_then(|token| self.export(b"EXPORTER-drawbridge-refresh", &refresh_context(token))),
        }
    }

    fn export(&self, label: &[u8], context: &[u8]) -> Option<[u8; 32]> {
        self.session.export_keying_material([0; 32], label, Some(context)).ok()
    }

    /// Takes in all of `ciphertext` and appends what it decrypts to `plaintext`: at most as many
    /// bytes as came in, plus one record that was begun before.
    ///
    /// # Errors
    /// [`Turned`] when the handshake is too large or the peer breaks the protocol. An alert may be
    /// waiting to be [`flushed`](Self::flush).
    pub(crate) fn feed(&mut self, mut ciphertext: &[u8], plaintext: &mut Vec<u8>) -> Result<Fed, Turned> {
        while !ciphertext.is_empty() {
            let handshaking = self.session.is_handshaking();
            if handshaking && self.handshake_bytes_left == 0 {
                return Err(Turned::HandshakeTooLarge { bytes_max: self.handshake_bytes_max });
            }
            let allowed = if handshaking { self.handshake_bytes_left } else { ciphertext.len() };
            let mut piece = ciphertext.get(..allowed).unwrap_or(ciphertext);
            let before = piece.len();
            // `read_tls` copies at most 4 KiB a time; it fails only when plaintext was left in it.
            if self.session.read_tls(&mut piece).is_err() {
                let source = rustls::Error::General("received plaintext was not taken out".into());
                return Err(Turned::Tls { handshaking, source });
            }
            let taken = before - piece.len();
            if taken == 0 {
                return Ok(Fed::PeerClosed);
            }
            ciphertext = ciphertext.get(taken..).unwrap_or_default();
            if handshaking {
                self.handshake_bytes_left -= taken;
            }
            let state =
                self.session.process_new_packets().map_err(|source| Turned::Tls { handshaking, source })?;
            self.take_plaintext(plaintext);
            if state.peer_has_closed() {
                return Ok(Fed::PeerClosed);
            }
        }
        Ok(Fed::Open)
    }

    pub(crate) fn is_handshaking(&self) -> bool {
        self.session.is_handshaking()
    }

    /// Appends what is decrypted and was not taken yet.
    pub(crate) fn take_plaintext(&mut self, plaintext: &mut Vec<u8>) {
        let mut reader = self.session.reader();
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
        self.session.writer().write(plaintext).unwrap_or(0)
    }

    /// As [`push`](Self::push), of two pieces behind each other, in the same record where they fit.
    pub(crate) fn push_both(&mut self, first: &[u8], second: &[u8]) -> usize {
        self.session.writer().write_vectored(&[IoSlice::new(first), IoSlice::new(second)]).unwrap_or(0)
    }

    /// Whether ciphertext waits to be sent.
    pub(crate) fn wants_write(&self) -> bool {
        self.session.wants_write()
    }

    /// Writes waiting ciphertext to `socket`, once.
    ///
    /// # Errors
    /// What the socket says, `WouldBlock` included.
    pub(crate) fn flush(&mut self, socket: &mut dyn Write) -> io::Result<usize> {
        self.session.write_tls(socket)
    }

    /// Queues close_notify behind everything pushed so far. Safe to call twice.
    pub(crate) fn send_close_notify(&mut self) {
        self.session.send_close_notify();
    }
}
