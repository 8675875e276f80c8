//! The certificate that a device shows in the TLS handshake: a self-signed one of its registered key, or one from
//! files. The key may be in a secure element.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use drawbridge_jose::{Algorithm, PublicKey};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, Signer, SigningKey as TlsKey};
use rustls::{SignatureAlgorithm, SignatureScheme};

use crate::{DeviceError, DeviceKey, Environment};

/// A certificate, what it was issued by, and its private key.
#[derive(Clone)]
pub struct ClientCertificate {
    pub(crate) certified: Arc<CertifiedKey>,
    /// No certificate, but the public key as it is.
    pub(crate) raw: bool,
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCertificate")
            .field("certificates", &self.certified.cert.len())
            .finish_non_exhaustive()
    }
}

impl ClientCertificate {
    /// A certificate of this key, signed by itself. The server knows it by its key alone, so its name and dates say
    /// nothing: it is good from 1970 to 9999, and a device without a clock can make it.
    ///
    /// # Errors
    /// [`DeviceError::Key`] when the key cannot sign, or is neither P-256, P-384 nor Ed25519.
    ///
    /// Source: RFC 5280 section 4.1 (9999: section 4.1.2.5), RFC 8705 section 2.2.
    pub fn self_signed(
        name: &str,
        key: Arc<dyn DeviceKey>,
        environment: &dyn Environment,
    ) -> Result<Self, DeviceError> {
        let mut serial = [0; 16];
        environment.random(&mut serial);
        let certificate = self_signed_der(name, key.as_ref(), serial)?;
        let key = Arc::new(HandshakeKey { scheme: scheme(key.algorithm())?, key });
        let certified = CertifiedKey::new(vec![CertificateDer::from(certificate)], key);
        Ok(Self { certified: Arc::new(certified), raw: false })
    }

    /// No certificate but the public key as it is, for listeners with raw public keys: TLS 1.3.
    ///
    /// # Errors
    /// [`DeviceError::Key`] when the key is neither P-256, P-384 nor Ed25519.
    ///
    /// Source: RFC 7250 section 3.
    pub fn raw_key(key: Arc<dyn DeviceKey>) -> Result<Self, DeviceError> {
        let shown = CertificateDer::from(key.public_key().spki_der().to_vec());
        let key = Arc::new(HandshakeKey { scheme: scheme(key.algorithm())?, key });
        Ok(Self { certified: Arc::new(CertifiedKey::new(vec![shown], key)), raw: true })
    }

    /// The certificate, and those that lead to its root, from one PEM file, and its key from another.
    ///
    /// # Errors
    /// [`DeviceError::File`] naming the file that is at fault.
    pub fn load(chain: &Path, key: &Path) -> Result<Self, DeviceError> {
        let fault = |path: &Path, why: String| DeviceError::File { path: path.to_owned(), why };
        let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(chain)
            .and_then(Iterator::collect)
            .map_err(|e| fault(chain, format!("{e}; wanted certificates in PEM")))?;
        if certificates.is_empty() {
            return Err(fault(chain, "no certificate was found; wanted certificates in PEM".to_owned()));
        }
        let private = PrivateKeyDer::from_pem_file(key)
            .map_err(|e| fault(key, format!("{e}; wanted a private key in PEM")))?;
        let private = any_supported_type(&private).map_err(|e| fault(key, e.to_string()))?;
        let certified = CertifiedKey::new(certificates, private);
        match certified.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
            Err(_) => {
                let why = format!("it is not the key of the certificate in {}", chain.display());
                return Err(fault(key, why));
            }
        }
        Ok(Self { certified: Arc::new(certified), raw: false })
    }
}

fn scheme(algorithm: Algorithm) -> Result<SignatureScheme, DeviceError> {
    match algorithm {
        Algorithm::Es256 => Ok(SignatureScheme::ECDSA_NISTP256_SHA256),
        Algorithm::Es384 => Ok(SignatureScheme::ECDSA_NISTP384_SHA384),
        Algorithm::EdDsa => Ok(SignatureScheme::ED25519),
        other => Err(DeviceError::Key(format!(
            "a client shows a P-256, P-384 or Ed25519 key, and this one is for {other}; \
             make a certificate with `openssl req -x509` and give it as a file"
        ))),
    }
}

/// A [`DeviceKey`] as the TLS library wants it.
struct HandshakeKey {
    key: Arc<dyn DeviceKey>,
    scheme: SignatureScheme,
}

impl fmt::Debug for HandshakeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HandshakeKey({:?})", self.scheme)
    }
}

impl TlsKey for HandshakeKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered.contains(&self.scheme).then(|| {
            let signer: Box<dyn Signer> =
                Box::new(HandshakeSigner { key: Arc::clone(&self.key), scheme: self.scheme });
            signer
        })
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        if self.scheme == SignatureScheme::ED25519 {
            SignatureAlgorithm::ED25519
        } else {
            SignatureAlgorithm::ECDSA
        }
    }
}

struct HandshakeSigner {
    key: Arc<dyn DeviceKey>,
    scheme: SignatureScheme,
}

impl fmt::Debug for HandshakeSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HandshakeSigner({:?})", self.scheme)
    }
}

impl Signer for HandshakeSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        signature_of(self.key.as_ref(), message).map_err(|e| rustls::Error::General(e.to_string()))
    }

    fn scheme(&self) -> SignatureScheme {
        self.scheme
    }
}

/// The signature as X.509 and TLS write it: ECDSA in DER.
fn signature_of(key: &dyn DeviceKey, message: &[u8]) -> Result<Vec<u8>, drawbridge_jose::SignError> {
    let signature = key.sign(message)?;
    if key.algorithm() == Algorithm::EdDsa {
        return Ok(signature);
    }
    let (r, s) = signature.split_at(signature.len() / 2);
    Ok(der(0x30, &[unsigned(r), unsigned(s)].concat()))
}

fn self_signed_der(name: &str, key: &dyn DeviceKey, mut serial: [u8; 16]) -> Result<Vec<u8>, DeviceError> {
    // Positive, and 16 bytes whatever was drawn.
    serial[0] = serial[0] & 0x7f | 0x40;
    let oid: &[u8] = match scheme(key.algorithm())? {
        SignatureScheme::ECDSA_NISTP256_SHA256 => &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2],
        SignatureScheme::ECDSA_NISTP384_SHA384 => &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3],
        _ => &[0x2b, 0x65, 0x70],
    };
    let algorithm = der(0x30, &der(0x06, oid));
    // A name longer than 64 characters is not for X.520; the server reads no name of a self-signed certificate.
    let common: String = name.chars().take(64).collect();
    let common = der(0x30, &[der(0x06, &[0x55, 4, 3]), der(0x0c, common.as_bytes())].concat());
    let distinguished = der(0x30, &der(0x31, &common));
    let validity = der(0x30, &[der(0x17, b"700101000000Z"), der(0x18, b"99991231235959Z")].concat());
    let parts: [&[u8]; 7] = [
        &der(0xa0, &der(0x02, &[2])),
        &der(0x02, &serial),
        &algorithm,
        &distinguished,
        &validity,
        &distinguished,
        public(key.public_key()),
    ];
    let to_be_signed = der(0x30, &parts.concat());
    let signature = signature_of(key, &to_be_signed).map_err(|e| DeviceError::Key(e.to_string()))?;
    let bits = [&[0], signature.as_slice()].concat();
    Ok(der(0x30, &[to_be_signed, algorithm, der(0x03, &bits)].concat()))
}

fn public(key: &PublicKey) -> &[u8] {
    key.spki_der()
}

/// Tag, length, content.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match content.len() {
        short @ 0..=0x7f => out.push(short as u8),
        long => {
            let bytes = long.to_be_bytes();
            let used = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len() - 1);
            out.push(0x80 | (bytes.len() - used) as u8);
            out.extend_from_slice(&bytes[used..]);
        }
    }
    out.extend_from_slice(content);
    out
}

/// An INTEGER of big-endian bytes that are no negative number.
fn unsigned(bytes: &[u8]) -> Vec<u8> {
    let first = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len().saturating_sub(1));
    let mut content = bytes[first..].to_vec();
    if content.first().is_none_or(|byte| *byte >= 0x80) {
        content.insert(0, 0);
    }
    der(0x02, &content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Host, create_key};

    #[test]
    fn a_self_signed_certificate_has_the_key_and_is_read_by_openssl() {
        let place = tempfile::tempdir().expect("a folder");
        for algorithm in [Algorithm::Es256, Algorithm::Es384, Algorithm::EdDsa] {
            let key = Arc::new(create_key(algorithm).expect("a key"));
            let made = ClientCertificate::self_signed("lamp", key.clone(), &Host).expect("made");
            let der = made.certified.cert[0].as_ref();
            assert_eq!(&PublicKey::from_certificate_der(der).expect("a certificate"), key.public_key());
            let path = place.path().join("certificate.der");
            std::fs::write(&path, der).expect("written");
            let openssl = |words: &[&str]| {
                let output = std::process::Command::new("openssl")
                    .args(words)
                    .arg(&path)
                    .output()
                    .expect("openssl runs");
                assert!(output.status.success(), "{algorithm}: {output:?}");
                String::from_utf8_lossy(&output.stdout).into_owned()
            };
            let text = openssl(&["x509", "-inform", "der", "-noout", "-subject", "-enddate", "-in"]);
            assert!(text.contains("CN = lamp") && text.contains("9999"), "{text}");
            let pem = openssl(&["x509", "-inform", "der", "-in"]);
            std::fs::write(&path, pem).expect("written");
            openssl(&["verify", "-check_ss_sig", "-CAfile", &path.to_string_lossy()]);
        }
        let rsa = Arc::new(create_key(Algorithm::Rs256).expect("a key"));
        assert!(matches!(ClientCertificate::self_signed("lamp", rsa, &Host), Err(DeviceError::Key(_))));
    }

    #[test]
    fn a_certificate_and_the_key_of_another_are_refused() {
        let place = tempfile::tempdir().expect("a folder");
        let file = |name: &str, text: &str| {
            let path = place.path().join(name);
            std::fs::write(&path, text).expect("written");
            path
        };
        let one = rcgen::generate_simple_self_signed(["lamp".to_owned()]).expect("made");
        let two = rcgen::generate_simple_self_signed(["door".to_owned()]).expect("made");
        let chain = file("one.pem", &one.cert.pem());
        let own = file("one.key", &one.signing_key.serialize_pem());
        let other = file("two.key", &two.signing_key.serialize_pem());
        ClientCertificate::load(&chain, &own).expect("they belong together");
        let named = |result: Result<ClientCertificate, DeviceError>| match result {
            Err(DeviceError::File { path, .. }) => path,
            other => panic!("{other:?}"),
        };
        assert_eq!(named(ClientCertificate::load(&chain, &other)), other);
        assert_eq!(named(ClientCertificate::load(&own, &own)), own);
        assert_eq!(named(ClientCertificate::load(&chain, &chain)), chain);
    }
}
