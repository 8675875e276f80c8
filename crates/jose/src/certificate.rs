//! What a certificate says of the key in it: enough to register the key by its certificate.

use alloc::vec::Vec;

use crate::pem;
use crate::public_key::{KeyError, PublicKey};

/// A public key with the certificate it came in. Neither its signature nor its dates are judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateKey {
    /// The key.
    pub key: PublicKey,
    /// The certificate, DER.
    pub der: Vec<u8>,
    /// `notBefore`, in seconds since 1970-01-01 UTC; 0 for an earlier one.
    pub not_before_s: u64,
    /// `notAfter`, the last second at which it is valid; 0 for one before 1970.
    pub not_after_s: u64,
}

impl CertificateKey {
    /// Reads a certificate.
    ///
    /// # Errors
    /// As [`PublicKey::from_certificate_der`].
    ///
    /// Source: RFC 5280 section 4.1.2.5.
    pub fn from_der(der: &[u8]) -> Result<Self, KeyError> {
        let key = PublicKey::from_certificate_der(der)?;
        let (_, certificate) = x509_parser::parse_x509_certificate(der).map_err(|_| KeyError::Certificate)?;
        let validity = certificate.validity();
        let seconds = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).unwrap_or(0);
        let (not_before_s, not_after_s) = (seconds(validity.not_before), seconds(validity.not_after));
        Ok(Self { key, der: der.to_vec(), not_before_s, not_after_s })
    }

    /// Reads one certificate in PEM.
    ///
    /// # Errors
    /// As [`PublicKey::from_pem`].
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        let (_, der) = pem::peel(text, &[pem::CERTIFICATE])?;
        Self::from_der(&der)
    }
}
