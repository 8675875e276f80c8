//! The allowed algorithms, and the two traits through which primitives come in.

use alloc::vec::Vec;
use core::fmt;

/// The signature algorithms a device, an application or the issuer may use. There is no other:
/// no HMAC, no `none`, nothing by configuration.
///
/// Source: RFC 7518 section 3.1, RFC 8037 section 3.1, RFC 9864 section 2.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Algorithm {
    /// ECDSA over P-256 with SHA-256.
    Es256,
    /// ECDSA over P-384 with SHA-384.
    Es384,
    /// Ed25519. The header names `EdDSA` (RFC 8037) and `Ed25519` (RFC 9864) both mean this.
    EdDsa,
    /// RSASSA-PKCS1-v1_5 with SHA-256, modulus of 2048 to 4096 bits.
    Rs256,
    /// RSASSA-PSS with SHA-256 and a salt of 32 bytes, modulus of 2048 to 4096 bits.
    Ps256,
}

impl Algorithm {
    /// All of them, in the order in which a list for people shows them.
    pub const ALL: [Self; 5] = [Self::Es256, Self::Es384, Self::EdDsa, Self::Rs256, Self::Ps256];

    /// The name as it stands in the `alg` member of a key and in lists such as discovery.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::EdDsa => "EdDSA",
            Self::Rs256 => "RS256",
            Self::Ps256 => "PS256",
        }
    }

    /// The `alg` that [`crate::sign_compact`] writes. For Ed25519 it is `EdDSA`: every verifier
    /// knows that name, the newer `Ed25519` of RFC 9864 only a few.
    #[must_use]
    pub fn header_name(self) -> &'static str {
        self.name()
    }

    /// Reads an `alg` of a header or a key. Case-sensitive; `EdDSA` and `Ed25519` are one.
    #[must_use]
    pub fn from_header(alg: &str) -> Option<Self> {
        match alg {
            "ES256" => Some(Self::Es256),
            "ES384" => Some(Self::Es384),
            "EdDSA" | "Ed25519" => Some(Self::EdDsa),
            "RS256" => Some(Self::Rs256),
            "PS256" => Some(Self::Ps256),
            _ => None,
        }
    }

    /// Length in bytes of a signature in JOSE form, where the algorithm alone fixes it.
    #[must_use]
    pub fn signature_bytes(self) -> Option<usize> {
        match self {
            Self::Es256 | Self::EdDsa => Some(64),
            Self::Es384 => Some(96),
            Self::Rs256 | Self::Ps256 => None,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Checks signatures with one key, which has one algorithm.
pub trait Verify {
    /// The one algorithm of the key. The header of a token is compared with it, never obeyed.
    fn algorithm(&self) -> Algorithm;

    /// Checks `signature` (JOSE form: `r || s` of fixed length for ECDSA) over `message`.
    ///
    /// # Errors
    /// [`BadSignature`], whatever the reason.
    fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), BadSignature>;
}

/// Signs with one key, which has one algorithm.
pub trait Sign {
    /// The one algorithm of the key.
    fn algorithm(&self) -> Algorithm;

    /// Signs `message`; the answer is in JOSE form (`r || s` of fixed length for ECDSA, not DER).
    ///
    /// # Errors
    /// [`SignError`] when the primitive fails, for instance a secure element that does not answer.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError>;
}

/// The signature does not belong to this message and this key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the signature does not verify under this key; sign the exact bytes with the registered private key")]
pub struct BadSignature;

/// Why no signature came about.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SignError {
    /// The primitive refused or failed.
    #[error("the signing primitive failed; check the key or the secure element behind it")]
    Primitive,
    /// The primitive answered with something that is not in JOSE form.
    #[error(
        "the signing primitive gave {found} bytes, {algorithm} wants {wanted}; \
         convert an ASN.1 DER signature to r||s first"
    )]
    Length {
        /// Algorithm of the key.
        algorithm: Algorithm,
        /// Bytes given.
        found: usize,
        /// Bytes wanted.
        wanted: usize,
    },
}
