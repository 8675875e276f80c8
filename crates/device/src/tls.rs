//! TLS of a device: whom it believes, and what it shows.

use std::sync::Arc;

use drawbridge_jose::{PublicKey, sha256};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    SupportedProtocolVersion,
};

use crate::{ClientCertificate, DeviceError};

/// By what the device knows the server.
#[derive(Debug, Clone)]
pub enum Trust {
    /// Root certificates, PEM; the server's certificate must lead to one of them, name the host, and be good now.
    Roots(String),
    /// SHA-256 of the SubjectPublicKeyInfo of the server's own key, one of these. No date and no name is looked at:
    /// for a device that does not know the time. A server that changes its key needs the next one listed before.
    ///
    /// Source: RFC 7469 section 2.4 (what is hashed).
    Pinned(Vec<[u8; 32]>),
}

/// What a device wants of TLS.
#[derive(Debug, Clone)]
pub struct Tls {
    /// By what it knows the server.
    pub trust: Trust,
    /// What it shows, if the server asks.
    pub certificate: Option<ClientCertificate>,
    /// Protocols it offers by ALPN, such as `mqtt`; none by default.
    pub alpn: Vec<Vec<u8>>,
    /// TLS 1.2 and no other: for middleboxes that take no newer one.
    pub only_1_2: bool,
}

impl Tls {
    /// The roots in this PEM text are believed, and no certificate is shown.
    #[must_use]
    pub fn with_roots(pem: impl Into<String>) -> Self {
        Self { trust: Trust::Roots(pem.into()), certificate: None, alpn: Vec::new(), only_1_2: false }
    }

    /// A server with this key is believed, and no certificate is shown. See [`Trust::Pinned`].
    #[must_use]
    pub fn with_pin(sha256_of_public_key: [u8; 32]) -> Self {
        Self { trust: Trust::Pinned(vec![sha256_of_public_key]), ..Self::with_roots("") }
    }

    pub(crate) fn config(&self, server: &str, resumes: bool) -> Result<Arc<ClientConfig>, DeviceError> {
        let fault = |why: String| DeviceError::Tls { server: server.to_owned(), why };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let versions: &[&SupportedProtocolVersion] =
            if self.only_1_2 { &[&rustls::version::TLS12] } else { rustls::ALL_VERSIONS };
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .map_err(|e| fault(e.to_string()))?;
        let builder = match &self.trust {
            Trust::Roots(pem) => builder.with_root_certificates(roots(pem).map_err(fault)?),
            Trust::Pinned(keys) => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(PinnedKeys { keys: keys.clone(), provider })),
        };
        let mut config = match &self.certificate {
            None => builder.with_no_client_auth(),
            Some(certificate) => {
                builder.with_client_cert_resolver(Arc::new(Shown(Arc::clone(&certificate.certified))))
            }
        };
        config.alpn_protocols.clone_from(&self.alpn);
        if !resumes {
            config.resumption = Resumption::disabled();
        }
        // What TLS exports is only as good as RFC 7627 makes it in TLS 1.2.
        config.require_ems = true;
        Ok(Arc::new(config))
    }
}

/// SHA-256 of the SubjectPublicKeyInfo in a certificate (DER): what [`Trust::Pinned`] wants.
///
/// # Errors
/// [`DeviceError::Key`] when it is no certificate, or of a key that is not known here.
pub fn sha256_of_public_key(certificate_der: &[u8]) -> Result<[u8; 32], DeviceError> {
    let key =
        PublicKey::from_certificate_der(certificate_der).map_err(|e| DeviceError::Key(e.to_string()))?;
    Ok(sha256(key.spki_der()))
}

fn roots(pem: &str) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|e| format!("the CA file is no PEM: {e}"))?;
        roots.add(certificate).map_err(|e| format!("the CA file is no certificate: {e}"))?;
    }
    if roots.is_empty() {
        return Err("the CA file has no certificate in PEM".to_owned());
    }
    Ok(roots)
}

/// Shows its certificate to every server that asks: it names its issuers by their names, which a self-signed
/// certificate does not have.
#[derive(Debug)]
struct Shown(Arc<CertifiedKey>);

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Believes a server by its key; that it holds the key is proven by the signature in the handshake.
#[derive(Debug)]
struct PinnedKeys {
    keys: Vec<[u8; 32]>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedKeys {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let key = PublicKey::from_certificate_der(end_entity)
            .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        if self.keys.contains(&sha256(key.spki_der())) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(Error::InvalidCertificate(CertificateError::UnknownIssuer))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
