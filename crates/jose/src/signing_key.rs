//! Private keys: made or parsed once, then only used.

use alloc::{string::String, vec, vec::Vec};
use core::fmt;

use aws_lc_rs::{
    encoding::{AsDer as _, Pkcs8V1Der},
    rand::SystemRandom,
    rsa::{self, KeySize},
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
        EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaEncoding,
    },
};
use zeroize::Zeroizing;

use crate::{
    Algorithm, KeyError, PublicKey, Sign, SignError, pem,
    spki::{EcCurve, Material, pkcs8_algorithm},
};

/// A private key with its one algorithm. The library below keeps its only copy and wipes it; what is
/// shown of it is the algorithm and the thumbprint.
pub struct SigningKey {
    pair: Pair,
    public: PublicKey,
}

enum Pair {
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Rsa(rsa::KeyPair, &'static dyn RsaEncoding),
}

impl SigningKey {
    /// Makes a new key. RSA keys get 3072 bits, about as strong as P-256, and take a fraction of a second up
    /// to seconds: not for a thread that others wait for.
    ///
    /// Source: NIST SP 800-57 part 1 section 5.6.1 (strengths).
    ///
    /// # Errors
    /// [`KeyError::Primitive`] when the library fails.
    pub fn generate(algorithm: Algorithm) -> Result<Self, KeyError> {
        let pair = match algorithm {
            Algorithm::Es256 | Algorithm::Es384 => {
                Pair::Ecdsa(EcdsaKeyPair::generate(ecdsa(algorithm)).map_err(|_| KeyError::Primitive)?)
            }
            Algorithm::EdDsa => Pair::Ed25519(Ed25519KeyPair::generate().map_err(|_| KeyError::Primitive)?),
            Algorithm::Rs256 | Algorithm::Ps256 => {
                let pair = rsa::KeyPair::generate(KeySize::Rsa3072).map_err(|_| KeyError::Primitive)?;
                Pair::Rsa(pair, padding(algorithm))
            }
        };
        Self::new(pair, algorithm)
    }

    /// From PKCS#8 in PEM with the label `PRIVATE KEY`. An RSA key comes out as RS256.
    ///
    /// Source: RFC 5208, RFC 5958, RFC 7468 section 10.
    ///
    /// # Errors
    /// [`KeyError`]; other labels (`EC PRIVATE KEY`, `RSA PRIVATE KEY`, encrypted keys) are refused:
    /// convert them with `openssl pkcs8 -topk8 -nocrypt`.
    pub fn from_pkcs8_pem(text: &str) -> Result<Self, KeyError> {
        match pem::peel(text, &[pem::PRIVATE_KEY]) {
            Ok((_, der)) => Self::from_pkcs8_der(&der),
            // The other label names a private key too, which is not the fault here.
            Err(KeyError::PrivateKey) => Err(KeyError::PemLabel),
            Err(error) => Err(error),
        }
    }

    /// From PKCS#8 in DER. An RSA key comes out as RS256.
    ///
    /// # Errors
    /// [`KeyError`], as for public keys, and when the halves of the key do not fit each other.
    pub fn from_pkcs8_der(der: &[u8]) -> Result<Self, KeyError> {
        Self::from_pkcs8_der_with(der, pkcs8_algorithm(der)?)
    }

    /// From PKCS#8 in DER, for one algorithm: RS256 or PS256 of an RSA key, otherwise the one of the
    /// curve.
    ///
    /// # Errors
    /// As [`Self::from_pkcs8_der`], and [`KeyError::Algorithm`] when the key has another algorithm.
    pub fn from_pkcs8_der_with(der: &[u8], algorithm: Algorithm) -> Result<Self, KeyError> {
        match (pkcs8_algorithm(der)?, algorithm) {
            (Algorithm::Rs256, Algorithm::Ps256) => {}
            (found, wanted) if found == wanted => {}
            _ => return Err(KeyError::Algorithm),
        }
        let pair = match algorithm {
            Algorithm::Es256 | Algorithm::Es384 => {
                Pair::Ecdsa(EcdsaKeyPair::from_pkcs8(ecdsa(algorithm), der).map_err(|_| KeyError::Primitive)?)
            }
            Algorithm::EdDsa => {
                Pair::Ed25519(Ed25519KeyPair::from_pkcs8(der).map_err(|_| KeyError::Primitive)?)
            }
            Algorithm::Rs256 | Algorithm::Ps256 => {
                Pair::Rsa(rsa::KeyPair::from_pkcs8(der).map_err(|_| KeyError::Primitive)?, padding(algorithm))
            }
        };
        Self::new(pair, algorithm)
    }

    /// PKCS#8 in DER, wiped when dropped.
    #[must_use]
    pub fn to_pkcs8_der(&self) -> Zeroizing<Vec<u8>> {
        const HELD: &str = "a key pair that was made or parsed can be written";
        Zeroizing::new(match &self.pair {
            Pair::Ecdsa(pair) => pair.to_pkcs8v1().expect(HELD).as_ref().to_vec(),
            Pair::Ed25519(pair) => pair.to_pkcs8v1().expect(HELD).as_ref().to_vec(),
            Pair::Rsa(pair, _) => {
                let der: Pkcs8V1Der<'_> = pair.as_der().expect(HELD);
                der.as_ref().to_vec()
            }
        })
    }

    /// PKCS#8 in PEM with the label `PRIVATE KEY`, wiped when dropped.
    #[must_use]
    pub fn to_pkcs8_pem(&self) -> Zeroizing<String> {
        pem::wrap(pem::PRIVATE_KEY, &self.to_pkcs8_der())
    }

    /// The public half.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        &self.public
    }

    fn new(pair: Pair, algorithm: Algorithm) -> Result<Self, KeyError> {
        let material = match &pair {
            Pair::Ecdsa(pair) => {
                let curve = if algorithm == Algorithm::Es256 { EcCurve::P256 } else { EcCurve::P384 };
                Material::ec_from_point(curve, pair.public_key().as_ref())?
            }
            Pair::Ed25519(pair) => Material::ed25519(pair.public_key().as_ref())?,
            Pair::Rsa(pair, _) => Material::rsa_from_pkcs1(pair.public_key().as_ref())?,
        };
        Ok(Self { pair, public: PublicKey::new(material, algorithm)? })
    }
}

impl Sign for SigningKey {
    fn algorithm(&self) -> Algorithm {
        self.public.algorithm()
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the signature of the call wants it; the library draws its own"
    )]
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        match &self.pair {
            Pair::Ecdsa(pair) => pair
                .sign(&SystemRandom::new(), message)
                .map(|signature| signature.as_ref().to_vec())
                .map_err(|_| SignError::Primitive),
            Pair::Ed25519(pair) => pair
                .try_sign(message)
                .map(|signature| signature.as_ref().to_vec())
                .map_err(|_| SignError::Primitive),
            Pair::Rsa(pair, padding) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(*padding, &SystemRandom::new(), message, &mut signature)
                    .map_err(|_| SignError::Primitive)?;
                Ok(signature)
            }
        }
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({} {})", self.public.algorithm(), self.public.thumbprint())
    }
}

fn ecdsa(algorithm: Algorithm) -> &'static EcdsaSigningAlgorithm {
    if algorithm == Algorithm::Es256 {
        &ECDSA_P256_SHA256_FIXED_SIGNING
    } else {
        &ECDSA_P384_SHA384_FIXED_SIGNING
    }
}

fn padding(algorithm: Algorithm) -> &'static dyn RsaEncoding {
    if algorithm == Algorithm::Rs256 { &RSA_PKCS1_SHA256 } else { &RSA_PSS_SHA256 }
}
