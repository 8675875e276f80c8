//! SubjectPublicKeyInfo: read into a typed key, written back, and the two compared.

use alloc::vec::Vec;

use crate::{Algorithm, KeyError, curve, der, rsa_modulus};

/// RFC 5480 section 2.1.1.
const OID_EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const OID_P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const OID_P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
/// RFC 8410 section 3.
const OID_ED25519: &[u8] = &[0x2b, 0x65, 0x70];
/// RFC 3279 section 2.3.1.
const OID_RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];

/// The numbers of a public key that passed every check.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) enum Material {
    /// Coordinates of full length.
    Ec { curve: EcCurve, x: Vec<u8>, y: Vec<u8> },
    /// RFC 8032 encoding of the point.
    Ed25519 { x: [u8; 32] },
    /// Big-endian without leading zeros.
    Rsa { n: Vec<u8>, e: Vec<u8> },
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum EcCurve {
    P256,
    P384,
}

impl EcCurve {
    pub(crate) fn coordinate_bytes(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
        }
    }

    fn oid(self) -> &'static [u8] {
        match self {
            Self::P256 => OID_P256,
            Self::P384 => OID_P384,
        }
    }

    fn numbers(self) -> &'static curve::Curve {
        match self {
            Self::P256 => &curve::P256,
            Self::P384 => &curve::P384,
        }
    }
}

impl Material {
    /// # Errors
    /// [`KeyError`] for anything but a key in canonical DER that the policy allows.
    pub(crate) fn from_spki(bytes: &[u8]) -> Result<Self, KeyError> {
        let mut outer = der::Reader::new(bytes);
        let mut inner = der::Reader::new(outer.read(der::SEQUENCE).ok_or(KeyError::Der)?);
        if !outer.is_empty() {
            return Err(KeyError::TrailingBytes);
        }
        let mut identifier = der::Reader::new(inner.read(der::SEQUENCE).ok_or(KeyError::Der)?);
        let oid = identifier.read(der::OBJECT_IDENTIFIER).ok_or(KeyError::Der)?;
        let key = match inner.read(der::BIT_STRING).ok_or(KeyError::Der)? {
            [0, key @ ..] => key,
            _ => return Err(KeyError::Der),
        };
        let material = match oid {
            OID_EC_PUBLIC_KEY => Self::ec_from_point(ec_curve(&mut identifier)?, key)?,
            OID_ED25519 => Self::ed25519(key)?,
            OID_RSA => Self::rsa_from_pkcs1(key)?,
            _ => return Err(KeyError::KeyType),
        };
        // Whatever was overlooked above (extra members, other parameters) does not survive this.
        if material.to_spki() == bytes { Ok(material) } else { Err(KeyError::NotCanonical) }
    }

    pub(crate) fn ec(curve: EcCurve, x: &[u8], y: &[u8]) -> Result<Self, KeyError> {
        if curve.numbers().contains(x, y) {
            Ok(Self::Ec { curve, x: x.into(), y: y.into() })
        } else {
            Err(KeyError::PointOffCurve)
        }
    }

    /// From an uncompressed point.
    pub(crate) fn ec_from_point(curve: EcCurve, point: &[u8]) -> Result<Self, KeyError> {
        match point {
            [0] => Err(KeyError::PointOffCurve),
            [4, coordinates @ ..] if coordinates.len() == 2 * curve.coordinate_bytes() => {
                let (x, y) = coordinates.split_at(curve.coordinate_bytes());
                Self::ec(curve, x, y)
            }
            _ => Err(KeyError::PointEncoding),
        }
    }

    pub(crate) fn ed25519(point: &[u8]) -> Result<Self, KeyError> {
        let x: [u8; 32] = point.try_into().map_err(|_| KeyError::PointEncoding)?;
        if curve::is_ed25519_point(&x) { Ok(Self::Ed25519 { x }) } else { Err(KeyError::PointOffCurve) }
    }

    pub(crate) fn rsa(n: &[u8], e: &[u8]) -> Result<Self, KeyError> {
        rsa_modulus::check(n, e)?;
        Ok(Self::Rsa { n: n.into(), e: e.into() })
    }

    /// From an RSAPublicKey of RFC 8017 appendix A.1.1.
    pub(crate) fn rsa_from_pkcs1(bytes: &[u8]) -> Result<Self, KeyError> {
        let mut outer = der::Reader::new(bytes);
        let mut inner = der::Reader::new(outer.read(der::SEQUENCE).ok_or(KeyError::Der)?);
        let n = inner.read_unsigned().ok_or(KeyError::Der)?;
        let e = inner.read_unsigned().ok_or(KeyError::Der)?;
        if !outer.is_empty() || !inner.is_empty() {
            return Err(KeyError::TrailingBytes);
        }
        Self::rsa(n, e)
    }

    pub(crate) fn to_spki(&self) -> Vec<u8> {
        let oid = |oid| der::element(der::OBJECT_IDENTIFIER, oid);
        let identifier = match self {
            Self::Ec { curve, .. } => der::sequence(&[&oid(OID_EC_PUBLIC_KEY), &oid(curve.oid())]),
            Self::Ed25519 { .. } => der::sequence(&[&oid(OID_ED25519)]),
            Self::Rsa { .. } => der::sequence(&[&oid(OID_RSA), &der::element(der::NULL, &[])]),
        };
        let bits = [&[0], self.to_primitive().as_slice()].concat();
        der::sequence(&[&identifier, &der::element(der::BIT_STRING, &bits)])
    }

    /// The form inside the BIT STRING, which is also what primitives take: the uncompressed point,
    /// the 32 bytes of RFC 8032, or an RSAPublicKey.
    pub(crate) fn to_primitive(&self) -> Vec<u8> {
        match self {
            Self::Ec { x, y, .. } => [&[4], x.as_slice(), y].concat(),
            Self::Ed25519 { x } => x.to_vec(),
            Self::Rsa { n, e } => der::sequence(&[&der::unsigned(n), &der::unsigned(e)]),
        }
    }

    /// The algorithm of a key about which nothing more is said.
    pub(crate) fn algorithm(&self) -> Algorithm {
        match self {
            Self::Ec { curve: EcCurve::P256, .. } => Algorithm::Es256,
            Self::Ec { curve: EcCurve::P384, .. } => Algorithm::Es384,
            Self::Ed25519 { .. } => Algorithm::EdDsa,
            Self::Rsa { .. } => Algorithm::Rs256,
        }
    }

    pub(crate) fn allows(&self, algorithm: Algorithm) -> bool {
        self.algorithm() == algorithm || (matches!(self, Self::Rsa { .. }) && algorithm == Algorithm::Ps256)
    }
}

fn ec_curve(identifier: &mut der::Reader<'_>) -> Result<EcCurve, KeyError> {
    if identifier.peek_tag() == Some(der::SEQUENCE) {
        return Err(KeyError::ExplicitParameters);
    }
    match identifier.read(der::OBJECT_IDENTIFIER) {
        Some(OID_P256) => Ok(EcCurve::P256),
        Some(OID_P384) => Ok(EcCurve::P384),
        Some(_) => Err(KeyError::Curve),
        None => Err(KeyError::Der),
    }
}

/// The kind of private key in a PKCS#8 document, before a primitive reads it.
#[cfg(feature = "aws-lc")]
pub(crate) fn pkcs8_algorithm(bytes: &[u8]) -> Result<Algorithm, KeyError> {
    let mut outer = der::Reader::new(bytes);
    let mut inner = der::Reader::new(outer.read(der::SEQUENCE).ok_or(KeyError::Der)?);
    if !outer.is_empty() {
        return Err(KeyError::TrailingBytes);
    }
    inner.read(der::INTEGER).ok_or(KeyError::Der)?;
    let mut identifier = der::Reader::new(inner.read(der::SEQUENCE).ok_or(KeyError::Der)?);
    match identifier.read(der::OBJECT_IDENTIFIER).ok_or(KeyError::Der)? {
        OID_EC_PUBLIC_KEY => Ok(match ec_curve(&mut identifier)? {
            EcCurve::P256 => Algorithm::Es256,
            EcCurve::P384 => Algorithm::Es384,
        }),
        OID_ED25519 => Ok(Algorithm::EdDsa),
        OID_RSA => Ok(Algorithm::Rs256),
        _ => Err(KeyError::KeyType),
    }
}

/// Whether DER looks like a certificate and not like an SPKI: a TBSCertificate begins with a version or
/// a serial number, an AlgorithmIdentifier with an OID.
pub(crate) fn looks_like_certificate(bytes: &[u8]) -> bool {
    let first = der::Reader::new(bytes)
        .read(der::SEQUENCE)
        .and_then(|content| der::Reader::new(content).read(der::SEQUENCE));
    first
        .and_then(|content| der::Reader::new(content).peek_tag())
        .is_some_and(|tag| matches!(tag, 0xa0 | der::INTEGER))
}
