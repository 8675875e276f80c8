//! The `DPoP` header of a request.
//!
//! Source: RFC 9449 section 4.3.

use axum::http::{HeaderMap, HeaderName};
use drawbridge_admission::Dpop;
use drawbridge_identity::Refusal;

use crate::failure::Failure;

/// With a proof in a request, with nothing in an answer.
const DPOP: HeaderName = HeaderName::from_static("dpop");
/// A nonce for the next proof.
pub(crate) const DPOP_NONCE: HeaderName = HeaderName::from_static("dpop-nonce");
/// The algorithms of proofs, for metadata and challenges.
pub(crate) const DPOP_ALGORITHMS: [&str; 6] = ["ES256", "ES384", "EdDSA", "Ed25519", "RS256", "PS256"];

/// The one proof of a request, if it has one.
///
/// # Errors
/// [`Refusal::Dpop`] for two, or for what is no text.
pub(crate) fn proof(headers: &HeaderMap) -> Result<Option<&str>, Failure> {
    let mut values = headers.get_all(DPOP).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Refusal::Dpop("the header `DPoP` stands there twice; send it once".to_owned()).into());
    }
    match value.to_str() {
        Ok(text) => Ok(Some(text.trim())),
        Err(_) => Err(Refusal::Dpop("the header `DPoP` is no text".to_owned()).into()),
    }
}

/// The proof with the request that it must be for.
pub(crate) fn of_request<'a>(
    headers: &'a HeaderMap,
    method: &'a str,
    url: &'a str,
) -> Result<Option<Dpop<'a>>, Failure> {
    Ok(proof(headers)?.map(|proof| Dpop { proof, method, url }))
}
