//! The ClientHello of a connection: read before anything is decided about its TLS.
//!
//! rustls tells of the name, the protocols and the cipher suites that a client offers, not of the versions, so these
//! are looked up here. (Suites do not tell: some clients offer those of TLS 1.3 and speak 1.2 alone.)
//!
//! Source: RFC 8446 sections 4.1.2, 4.2.1 and 5.1.

use std::fmt;
use std::io;

use rustls::server::{Accepted, Acceptor, ClientHello};

/// A ClientHello that comes in pieces.
pub struct HelloReader {
    acceptor: Acceptor,
    seen: Vec<u8>,
    bytes_max: usize,
}

/// A whole ClientHello.
#[derive(Debug)]
pub struct Hello {
    /// With it rustls goes on.
    pub accepted: Accepted,
    /// Whether the client speaks TLS 1.3.
    pub tls13: bool,
}

/// Why no handshake begins.
#[derive(Debug)]
pub struct HelloFault {
    /// What rustls says.
    pub source: rustls::Error,
    /// What is to be sent to the client; mostly not empty.
    pub alert: Vec<u8>,
}

impl fmt::Debug for HelloReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HelloReader").field("seen", &self.seen.len()).finish_non_exhaustive()
    }
}

impl HelloReader {
    /// `bytes_max`: ciphertext that may come until it is whole.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self { acceptor: Acceptor::default(), seen: Vec::new(), bytes_max }
    }

    /// Takes what came, all of it; `None`: it is not whole yet.
    ///
    /// # Errors
    /// [`HelloFault`] when it is none, or more came than one: only 0-RTT would come before we have said a word.
    pub fn feed(&mut self, mut ciphertext: &[u8]) -> Result<Option<Hello>, HelloFault> {
        if self.seen.len() + ciphertext.len() > self.bytes_max {
            return Err(fault("more came than a ClientHello"));
        }
        self.seen.extend_from_slice(ciphertext);
        while !ciphertext.is_empty() {
            // At most 4 KiB a time.
            if !matches!(self.acceptor.read_tls(&mut ciphertext), Ok(taken) if taken > 0) {
                return Err(fault("a ClientHello could not be read"));
            }
            match self.acceptor.accept() {
                Ok(None) => {}
                Ok(Some(_)) if !ciphertext.is_empty() => return Err(fault("more came than a ClientHello")),
                Ok(Some(accepted)) => {
                    let tls13 = offers_tls13(&self.seen).unwrap_or(false);
                    self.seen = Vec::new();
                    return Ok(Some(Hello { accepted, tls13 }));
                }
                Err((source, mut alert)) => {
                    return Err(HelloFault::with(source, |out| alert.write_all(out)));
                }
            }
        }
        Ok(None)
    }
}

impl Hello {
    /// What the client has said.
    #[must_use]
    pub fn client_hello(&self) -> ClientHello<'_> {
        self.accepted.client_hello()
    }
}

impl HelloFault {
    /// `alert` writes what is to be sent.
    pub(crate) fn with(source: rustls::Error, alert: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> Self {
        let mut out = Vec::new();
        // Memory takes it all.
        let _ = alert(&mut out);
        Self { source, alert: out }
    }
}

fn fault(what: &str) -> HelloFault {
    HelloFault { source: rustls::Error::General(what.into()), alert: Vec::new() }
}

/// Whether `supported_versions` has TLS 1.3. `records`: a ClientHello that rustls has taken; what stands behind it
/// does not matter. `None`: it has no such extension.
fn offers_tls13(records: &[u8]) -> Option<bool> {
    const SUPPORTED_VERSIONS: usize = 43;
    let mut message = Vec::with_capacity(records.len());
    let mut rest = Bytes(records);
    while let Some(header) = rest.take(5) {
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        let Some(fragment) = rest.take(length) else { break };
        message.extend_from_slice(fragment);
    }
    let mut hello = Bytes(&message);
    hello.take(4 + 2 + 32)?; // type and length, version, random
    hello.vector(1)?; // session id
    hello.vector(2)?; // cipher suites
    hello.vector(1)?; // compression
    let mut extensions = Bytes(hello.vector(2)?);
    loop {
        let kind = extensions.number(2)?;
        let body = extensions.vector(2)?;
        if kind == SUPPORTED_VERSIONS {
            return Some(Bytes(body).vector(1)?.chunks_exact(2).any(|version| version == [3, 4]));
        }
    }
}

struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self, bytes: usize) -> Option<usize> {
        Some(self.take(bytes)?.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    /// What stands behind its length of so many bytes.
    fn vector(&mut self, length_bytes: usize) -> Option<&'a [u8]> {
        let length = self.number(length_bytes)?;
        self.take(length)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::version::{TLS12, TLS13};
    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::*;

    fn records(versions: &[&'static rustls::SupportedProtocolVersion]) -> Vec<u8> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("versions")
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let name = "localhost".try_into().expect("a name");
        let mut client = ClientConnection::new(Arc::new(config), name).expect("a client");
        let mut wire = Vec::new();
        client.write_tls(&mut wire).expect("memory");
        wire
    }

    #[test]
    fn the_versions_that_a_client_offers_are_found_however_its_hello_is_cut() {
        for (versions, wanted) in [(&[&TLS13][..], true), (&[&TLS12], false), (&[&TLS13, &TLS12], true)] {
            let wire = records(versions);
            for piece in [1, 7, 500, wire.len()] {
                let mut reader = HelloReader::new(wire.len());
                let mut found = None;
                for piece in wire.chunks(piece) {
                    assert!(found.is_none());
                    found = reader.feed(piece).expect("taken").map(|hello| hello.tls13);
                }
                assert_eq!(found, Some(wanted), "in pieces of {piece}");
            }
            assert!(HelloReader::new(wire.len() - 1).feed(&wire).is_err(), "too long");
            // Many records for one message.
            let mut fragments = Vec::new();
            for fragment in wire[5..].chunks(100) {
                fragments.extend_from_slice(&[22, 3, 1, 0, u8::try_from(fragment.len()).expect("short")]);
                fragments.extend_from_slice(fragment);
            }
            assert_eq!(offers_tls13(&fragments), Some(wanted));
        }
    }

    #[test]
    fn no_bytes_break_the_search_for_versions() {
        let wire = records(&[&TLS13]);
        for end in 0..wire.len() {
            offers_tls13(&wire[..end]);
            let mut changed = wire.clone();
            changed[end] ^= 0xff;
            offers_tls13(&changed);
        }
        assert_eq!(offers_tls13(&[]), None);
    }
}
