//! Proofs of possession: a MAC or a signature directly over what the connection or both sides have made fresh.

use aws_lc_rs::hmac;
use drawbridge_jose::{Algorithm, PublicKey, Verify as _};

use super::fault::AceFault;
use super::sealed::SymmetricKey;
use crate::keys::Checker;

/// What a proof is over.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum PopInput {
    /// The exporter value of the TLS connection: [`super::EXPORTER_LABEL`], an empty context, 32 bytes.
    Exporter([u8; 32]),
    /// The nonce of the broker, then that of the client.
    Nonces([u8; 8], [u8; 8]),
    /// Ours, for a new token on `$drawbridge/auth`: an exporter value whose context is the hash of that token, behind
    /// a text that no other proof begins with.
    Renewal([u8; 32]),
}

impl PopInput {
    /// The bytes that are signed: nothing is put around or between them.
    ///
    /// Source: RFC 9431 section 2.2.5.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Exporter(value) => value.to_vec(),
            Self::Nonces(broker, client) => [&broker[..], client].concat(),
            Self::Renewal(value) => [&b"db-refresh-1\0"[..], value].concat(),
        }
    }
}

/// The key of a token, which has one algorithm: nothing that a client sends chooses another.
#[derive(Debug, Clone)]
pub enum PopKey {
    /// Ed25519, or ECDSA with P-256 (`r || s`, 64 bytes).
    Public(PublicKey),
    /// HMAC with SHA-256.
    Symmetric(SymmetricKey),
}

/// Whether proofs are taken by keys of this algorithm: EdDSA, which brokers must have, and ES256 for secure
/// elements.
///
/// # Errors
/// [`AceFault::Key`].
///
/// Source: RFC 9431 section 2.2.5; ES256 is ours.
pub fn judge_pop_algorithm(algorithm: Algorithm) -> Result<(), AceFault> {
    match algorithm {
        Algorithm::EdDsa | Algorithm::Es256 => Ok(()),
        other => Err(AceFault::Key(format!("its algorithm is {other}"))),
    }
}

impl PopKey {
    /// Checks a proof.
    ///
    /// # Errors
    /// [`AceFault::Proof`] when it does not fit; [`AceFault::Key`] for a key of another algorithm.
    ///
    /// Source: RFC 9431 section 2.2.5.
    pub fn verify(&self, input: &PopInput, pop: &[u8], checker: &Checker) -> Result<(), AceFault> {
        checker.count();
        let message = input.to_bytes();
        match self {
            Self::Public(key) => {
                judge_pop_algorithm(key.algorithm())?;
                if pop.len() != 64 {
                    return Err(AceFault::Proof);
                }
                key.verify(&message, pop).map_err(|_| AceFault::Proof)
            }
            Self::Symmetric(key) => {
                let key = hmac::Key::new(hmac::HMAC_SHA256, key.bytes());
                hmac::verify(&key, &message, pop).map_err(|_| AceFault::Proof)
            }
        }
    }
}
