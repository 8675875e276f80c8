//! TLS of a device: whom it believes, and what it shows.

use std::sync::Arc;

use drawbridge_jose::{PublicKey, sha256};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::{
    CryptoProvider, verify_tls12_signature, verify_tls13_signature, verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
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
    /// The same of a server that shows a raw public key instead of a certificate: TLS 1.3 and no other.
    ///
    /// Source: RFC 7250.
    RawKeys(Vec<[u8; 32]>),
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

    /// A server that shows this key, raw, is believed, and no certificate is shown. What the client shows is its own
    /// affair: [`ClientCertificate::raw_key`].
    #[must_use]
    pub fn with_raw_key(server: &PublicKey) -> Self {
        Self { trust: Trust::RawKeys(vec![sha256(server.spki_der())]), ..Self::with_roots("") }
    }

    pub(crate) fn config(&self, server: &str, resumes: bool) -> Result<Arc<ClientConfig>, DeviceError> {
        let fault = |why: String| DeviceError::Tls { server: server.to_owned(), why };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let raw_key_shown = self.certificate.as_ref().is_some_and(|certificate| certificate.raw);
        let raw = matches!(self.trust, Trust::RawKeys(_)) || raw_key_shown;
        let versions: &[&SupportedProtocolVersion] = match (self.only_1_2, raw) {
            (true, true) => {
                return Err(fault("raw public keys are of TLS 1.3, and 1.2 is asked for".to_owned()));
            }
            (true, false) => &[&rustls::version::TLS12],
            (false, true) => &[&rustls::version::TLS13],
            (false, false) => rustls::ALL_VERSIONS,
        };
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .map_err(|e| fault(e.to_string()))?;
        let builder = match &self.trust {
            Trust::Roots(pem) => builder.with_root_certificates(roots(pem).map_err(fault)?),
            Trust::Pinned(keys) | Trust::RawKeys(keys) => {
                let raw = matches!(self.trust, Trust::RawKeys(_));
                let verifier = PinnedKeys { keys: keys.clone(), raw, provider };
                builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
            }
        };
        let mut config = match &self.certificate {
            // A listener with raw keys speaks to nobody who would show a certificate.
            None if raw => builder.with_client_cert_resolver(Arc::new(Shown { certified: None, raw })),
            None => builder.with_no_client_auth(),
            Some(ClientCertificate { certified, raw }) => {
                let certified = Some(Arc::clone(certified));
                builder.with_client_cert_resolver(Arc::new(Shown { certified, raw: *raw }))
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
struct Shown {
    certified: Option<Arc<CertifiedKey>>,
    /// It is a raw public key, or would be.
    raw: bool,
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.certified.clone()
    }

    fn only_raw_public_keys(&self) -> bool {
        self.raw
    }

    fn has_certs(&self) -> bool {
        self.certified.is_some()
    }
}

/// Believes a server by its key; that it holds the key is proven by the signature in the handshake.
#[derive(Debug)]
struct PinnedKeys {
    keys: Vec<[u8; 32]>,
    /// They are shown raw.
    raw: bool,
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
        let key = match self.raw {
            true => PublicKey::from_spki_der(end_entity),
            false => PublicKey::from_certificate_der(end_entity),
        };
        let key = key.map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
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
        let algorithms = &self.provider.signature_verification_algorithms;
        if self.raw {
            let key = SubjectPublicKeyInfoDer::from(cert.as_ref());
            return verify_tls13_signature_with_raw_key(message, &key, dss, algorithms);
        }
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn requires_raw_public_keys(&self) -> bool {
        self.raw
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
