//! ECDSA signatures: the range of r and s, and the way from ASN.1 DER to JOSE form.

use alloc::{vec, vec::Vec};

use crate::{Algorithm, JwsError, curve, der};

/// `Ok` unless the algorithm is ECDSA and r or s is 0 or not below the order of the curve
/// (CVE-2022-21449). A high s is accepted: JWS does not ask for a low one and a real client sends it.
pub(crate) fn check_range(signature: &[u8], algorithm: Algorithm) -> Result<(), JwsError> {
    let Some(order) = order(algorithm) else { return Ok(()) };
    for half in signature.chunks(order.len()) {
        // Big-endian numbers of one length compare like their bytes.
        if half.iter().all(|byte| *byte == 0) || half >= order {
            return Err(JwsError::SignatureRange);
        }
    }
    Ok(())
}

/// Converts an ECDSA signature from ASN.1 DER to `r || s`, for proofs of possession of the legacy
/// profile. Inside a JWS only `r || s` is accepted.
///
/// # Errors
/// [`JwsError::SignatureEncoding`] when the algorithm is not ECDSA, or the bytes are not exactly one
/// SEQUENCE of two positive INTEGERs, all in minimal DER; [`JwsError::SignatureRange`] when r or s is 0
/// or not below the order of the curve.
///
/// Source: RFC 3279 section 2.2.3, RFC 7518 section 3.4.
pub fn ecdsa_der_to_raw(der: &[u8], algorithm: Algorithm) -> Result<Vec<u8>, JwsError> {
    let order = order(algorithm).ok_or(JwsError::SignatureEncoding)?;
    let (r, s) = read_pair(der).ok_or(JwsError::SignatureEncoding)?;
    let half = order.len();
    let mut raw = vec![0; 2 * half];
    for (number, end) in [(r, half), (s, 2 * half)] {
        if number.len() > half {
            return Err(JwsError::SignatureRange);
        }
        raw[end - number.len()..end].copy_from_slice(number);
    }
    check_range(&raw, algorithm)?;
    Ok(raw)
}

fn read_pair(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut outer = der::Reader::new(bytes);
    let mut inner = der::Reader::new(outer.read(der::SEQUENCE)?);
    let (r, s) = (inner.read_unsigned()?, inner.read_unsigned()?);
    (outer.is_empty() && inner.is_empty()).then_some((r, s))
}

fn order(algorithm: Algorithm) -> Option<&'static [u8]> {
    match algorithm {
        Algorithm::Es256 => Some(curve::P256.order),
        Algorithm::Es384 => Some(curve::P384.order),
        Algorithm::EdDsa | Algorithm::Rs256 | Algorithm::Ps256 => None,
    }
}
