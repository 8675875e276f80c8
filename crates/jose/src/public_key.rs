//! Public keys: parsed once from any of the forms in which people and devices carry them.

use alloc::{
    format,
    string::{String, ToString as _},
    sync::Arc,
    vec::Vec,
};
use core::{fmt, hash};

use sha2::{Digest as _, Sha256};

use crate::{Algorithm, JsonError, base64url_encode, jwk, pem, spki, spki::Material};

/// A public key with its one algorithm. One that exists passed every check: an allowed kind and size,
/// on its curve, canonical. Cloning is cheap. Equal keys have equal numbers and the same algorithm.
///
/// It checks signatures (`Verify`) where the feature `aws-lc` is on.
#[derive(Clone)]
pub struct PublicKey {
    shared: Arc<Shared>,
}

struct Shared {
    algorithm: Algorithm,
    material: Material,
    spki: Vec<u8>,
    thumbprint: String,
    #[cfg(feature = "aws-lc")]
    parsed: aws_lc_rs::signature::ParsedPublicKey,
}

/// Why a key was refused. No text repeats any part of the key.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum KeyError {
    /// Not the DER of a key.
    #[error("the key is not valid DER; send a SubjectPublicKeyInfo, as `openssl pkey -pubout` writes it")]
    Der,
    /// Bytes after the key.
    #[error("bytes follow the end of the key; send exactly one key")]
    TrailingBytes,
    /// The same key has another, canonical encoding.
    #[error("the key is not in canonical DER; write it again with `openssl pkey -pubin -pubout`")]
    NotCanonical,
    /// A kind of key outside the policy.
    #[error("this kind of key is not allowed; use EC P-256, EC P-384, Ed25519, or RSA of 2048 to 4096 bits")]
    KeyType,
    /// An EC curve outside the policy.
    #[error("this curve is not allowed; use P-256 or P-384")]
    Curve,
    /// The curve is described by its numbers.
    #[error("the key spells out its curve; name it instead (`openssl ... -param_enc named_curve`)")]
    ExplicitParameters,
    /// A compressed point, or one of the wrong length.
    #[error("the point of the key is compressed or has the wrong length; use the uncompressed form")]
    PointEncoding,
    /// Not a point of the curve, the point at infinity, or (Ed25519) a point of small order.
    #[error("the key is not a usable point of its curve; make a new key")]
    PointOffCurve,
    /// RSA modulus too short or too long.
    #[error("the RSA key has {found_bits} bits; use 2048 to 4096")]
    RsaSize {
        /// Bits of the modulus.
        found_bits: usize,
    },
    /// RSA modulus that is even.
    #[error("the RSA modulus is even; make a new key")]
    RsaModulus,
    /// RSA exponent outside the policy.
    #[error("the RSA exponent is not allowed; use 65537 (odd, at least that, below 2^33)")]
    RsaExponent,
    /// A key of the library with the ROCA weakness, CVE-2017-15361.
    #[error(
        "the RSA key has the ROCA weakness (CVE-2017-15361) and can be factored; make a new key elsewhere"
    )]
    RsaRoca,
    /// The algorithm asked for, or named in `alg`, is unknown or not one of this key.
    #[error(
        "the algorithm does not belong to this key; an EC or Ed25519 key has one, an RSA key RS256 or PS256"
    )]
    Algorithm,
    /// `use` or `key_ops` forbid checking signatures.
    #[error("the key is not for signatures; leave `use` and `key_ops` out, or say \"sig\" and [\"verify\"]")]
    Purpose,
    /// The JWK is not strict JSON.
    #[error("the JWK was not read: {0}")]
    Json(JsonError),
    /// A member of the JWK is missing or malformed.
    #[error("member `{name}` of the JWK is missing, of the wrong type or length, or not canonical base64url")]
    JwkMember {
        /// Name of the member.
        name: &'static str,
    },
    /// A private or symmetric key stands where a public one is wanted.
    #[error("this is a private or secret key; send the public key only, and treat this one as disclosed")]
    PrivateKey,
    /// PEM with another label.
    #[error(
        "this PEM label is not taken here; convert the key (`openssl pkey`, for public keys with `-pubout`)"
    )]
    PemLabel,
    /// No complete PEM block, or text around it.
    #[error("not exactly one PEM block; send it from -----BEGIN to -----END with nothing around it")]
    PemArmour,
    /// More than one PEM block.
    #[error("more than one PEM block; send one")]
    PemSeveral,
    /// The base64 is broken.
    #[error("the base64 of the key is not canonical; copy the key again")]
    Base64,
    /// Too many bytes for a key.
    #[error("the key takes {found_bytes} bytes, at most {bytes_max} are read; send one key only")]
    TooLarge {
        /// Bytes given.
        found_bytes: usize,
        /// Bytes read at most.
        bytes_max: usize,
    },
    /// The certificate could not be read, or this build reads none.
    #[error("the certificate was not read; send one X.509 certificate in DER or PEM")]
    Certificate,
    /// None of the forms.
    #[error("not a key in a known form; use a JWK, PEM or DER of a public key or a certificate")]
    Unrecognised,
    /// The primitive refused or failed.
    #[error("the cryptographic library refused the key; make a new key")]
    Primitive,
}

impl PublicKey {
    /// From a SubjectPublicKeyInfo in DER. An RSA key comes out as RS256.
    ///
    /// Source: RFC 5280 section 4.1.2.7, RFC 5480, RFC 8410, RFC 3279.
    ///
    /// # Errors
    /// [`KeyError`] for trailing bytes, another encoding than the canonical one, explicit curve
    /// parameters, a point off the curve, and every key outside the policy.
    pub fn from_spki_der(der: &[u8]) -> Result<Self, KeyError> {
        let material = Material::from_spki(der)?;
        let algorithm = material.algorithm();
        Self::new(material, algorithm)
    }

    /// From a SubjectPublicKeyInfo in DER, for one algorithm: RS256 or PS256 of an RSA key, otherwise the
    /// one of the curve.
    ///
    /// # Errors
    /// As [`Self::from_spki_der`], and [`KeyError::Algorithm`] when the key has another algorithm.
    pub fn from_spki_der_with(der: &[u8], alg: Algorithm) -> Result<Self, KeyError> {
        Self::new(Material::from_spki(der)?, alg)
    }

    /// From PEM with the label `PUBLIC KEY`, or `CERTIFICATE` where certificates can be read. White space
    /// may stand anywhere outside the labels, also nowhere.
    ///
    /// # Errors
    /// [`KeyError`] for more than one block, text around it, and any other label.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        match pem::peel(text, &[pem::PUBLIC_KEY, pem::CERTIFICATE])? {
            (pem::PUBLIC_KEY, _) => Self::from_spki_pem(text),
            (_, der) => Self::from_certificate(&der),
        }
    }

    /// From PEM with the label `PUBLIC KEY` and no other, of at most 2 KiB: the `public_key` claim of an
    /// update JWT. White space may stand anywhere outside the labels, also nowhere.
    ///
    /// # Errors
    /// As [`Self::from_pem`].
    pub fn from_spki_pem(text: &str) -> Result<Self, KeyError> {
        let (_, der) = pem::peel(text, &[pem::PUBLIC_KEY])?;
        Self::from_spki_der(&der)
    }

    /// From the base64 (standard alphabet, padded) of a SubjectPublicKeyInfo without armour, as the
    /// legacy paths take it. White space is skipped.
    ///
    /// # Errors
    /// [`KeyError::Base64`], and as [`Self::from_spki_der`].
    pub fn from_bare_base64(text: &str) -> Result<Self, KeyError> {
        if text.len() > pem::PUBLIC_KEY_BYTES_MAX {
            return Err(KeyError::TooLarge { found_bytes: text.len(), bytes_max: pem::PUBLIC_KEY_BYTES_MAX });
        }
        Self::from_spki_der(&pem::decode_spaced(text)?)
    }

    /// From one public JWK of at most 8 KiB. `alg`, `use` and `key_ops` are obeyed, an RSA key without
    /// `alg` is RS256; other members are ignored.
    ///
    /// Source: RFC 7517 section 4, RFC 7518 section 6, RFC 8037 section 2.
    ///
    /// # Errors
    /// [`KeyError`]; [`KeyError::PrivateKey`] for a JWK with private members, which it does not repeat.
    pub fn from_jwk(json: &[u8]) -> Result<Self, KeyError> {
        let (material, algorithm) = jwk::parse(json)?;
        Self::new(material, algorithm)
    }

    /// The key of an X.509 certificate. Nothing else of the certificate is judged: not its signature,
    /// not its dates.
    ///
    /// # Errors
    /// [`KeyError::Certificate`] when it is not one certificate and nothing else; otherwise as
    /// [`Self::from_spki_der`].
    #[cfg(feature = "aws-lc")]
    pub fn from_certificate_der(der: &[u8]) -> Result<Self, KeyError> {
        Self::from_certificate(der)
    }

    /// From a JWK, a public key in PEM or DER, or a certificate in PEM or DER, told apart by content.
    ///
    /// # Errors
    /// [`KeyError::Unrecognised`], or that of the form found.
    pub fn recognise(bytes: &[u8]) -> Result<Self, KeyError> {
        if bytes.first() == Some(&0x30) {
            return if spki::looks_like_certificate(bytes) {
                Self::from_certificate(bytes)
            } else {
                Self::from_spki_der(bytes)
            };
        }
        match bytes.trim_ascii_start() {
            [b'{', ..] => Self::from_jwk(bytes),
            [b'-', ..] => Self::from_pem(core::str::from_utf8(bytes).map_err(|_| KeyError::Unrecognised)?),
            _ => Err(KeyError::Unrecognised),
        }
    }

    /// The one algorithm of this key.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.shared.algorithm
    }

    /// SubjectPublicKeyInfo in canonical DER.
    #[must_use]
    pub fn spki_der(&self) -> &[u8] {
        &self.shared.spki
    }

    /// SHA-256 thumbprint in base64url, 43 characters. RS256 and PS256 of one RSA key share it.
    ///
    /// Source: RFC 7638 section 3, RFC 8037 appendix A.3.
    #[must_use]
    pub fn thumbprint(&self) -> &str {
        &self.shared.thumbprint
    }

    /// A JWK with the required members only, in lexical order; a PS256 key also says `alg`, without which
    /// it would come back as RS256.
    #[must_use]
    pub fn to_jwk_json(&self) -> String {
        let members = jwk::required_members(&self.shared.material);
        match self.shared.algorithm {
            Algorithm::Ps256 => format!(r#"{{"alg":"PS256",{}"#, &members[1..]),
            _ => members,
        }
    }

    /// A JWK as a key set publishes it: the required members with `alg`, `use` = `sig` and
    /// `kid` = thumbprint.
    #[must_use]
    pub fn to_published_jwk_json(&self) -> String {
        let members = jwk::required_members(&self.shared.material);
        format!(
            r#"{{"alg":"{}","kid":"{}","use":"sig",{}"#,
            self.algorithm(),
            self.thumbprint(),
            &members[1..]
        )
    }

    /// PEM with the label `PUBLIC KEY`.
    #[must_use]
    pub fn to_pem(&self) -> String {
        pem::wrap(pem::PUBLIC_KEY, &self.shared.spki).to_string()
    }

    pub(crate) fn new(material: Material, algorithm: Algorithm) -> Result<Self, KeyError> {
        if !material.allows(algorithm) {
            return Err(KeyError::Algorithm);
        }
        let thumbprint = base64url_encode(&sha256(jwk::required_members(&material).as_bytes()));
        Ok(Self {
            shared: Arc::new(Shared {
                algorithm,
                spki: material.to_spki(),
                thumbprint,
                #[cfg(feature = "aws-lc")]
                parsed: aws_lc::parse(&material, algorithm)?,
                material,
            }),
        })
    }

    #[cfg(feature = "aws-lc")]
    fn from_certificate(der: &[u8]) -> Result<Self, KeyError> {
        if der.len() > pem::OTHER_BYTES_MAX {
            return Err(KeyError::TooLarge { found_bytes: der.len(), bytes_max: pem::OTHER_BYTES_MAX });
        }
        match x509_parser::parse_x509_certificate(der) {
            Ok(([], certificate)) => Self::from_spki_der(certificate.tbs_certificate.subject_pki.raw),
            Ok(_) => Err(KeyError::TrailingBytes),
            Err(_) => Err(KeyError::Certificate),
        }
    }

    #[cfg(not(feature = "aws-lc"))]
    fn from_certificate(_der: &[u8]) -> Result<Self, KeyError> {
        Err(KeyError::Certificate)
    }
}

/// SHA-256, as thumbprints, token hashes and `x5t#S256` use it.
#[must_use]
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({} {})", self.algorithm(), self.thumbprint())
    }
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.algorithm() == other.algorithm() && self.spki_der() == other.spki_der()
    }
}

impl Eq for PublicKey {}

impl hash::Hash for PublicKey {
    fn hash<H: hash::Hasher>(&self, state: &mut H) {
        self.algorithm().hash(state);
        self.spki_der().hash(state);
    }
}

#[cfg(feature = "aws-lc")]
mod aws_lc {
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, ParsedPublicKey,
        RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA256, VerificationAlgorithm,
    };

    use super::{Algorithm, KeyError, Material, PublicKey};
    use crate::{BadSignature, Verify};

    pub(super) fn parse(material: &Material, algorithm: Algorithm) -> Result<ParsedPublicKey, KeyError> {
        let primitive: &'static dyn VerificationAlgorithm = match algorithm {
            Algorithm::Es256 => &ECDSA_P256_SHA256_FIXED,
            Algorithm::Es384 => &ECDSA_P384_SHA384_FIXED,
            Algorithm::EdDsa => &ED25519,
            Algorithm::Rs256 => &RSA_PKCS1_2048_8192_SHA256,
            Algorithm::Ps256 => &RSA_PSS_2048_8192_SHA256,
        };
        ParsedPublicKey::new(primitive, material.to_primitive()).map_err(|_| KeyError::Primitive)
    }

    impl Verify for PublicKey {
        fn algorithm(&self) -> Algorithm {
            self.shared.algorithm
        }

        fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), BadSignature> {
            self.shared.parsed.verify_sig(message, signature).map_err(|_| BadSignature)
        }
    }
}
