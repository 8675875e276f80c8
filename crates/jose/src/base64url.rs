//! Base64, strict: one text for one value, nothing skipped, nothing tolerated.

use alloc::{string::String, vec::Vec};

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

/// Base64url as RFC 7515 section 2 wants it: no padding, no stray bits in the last character.
const URL: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(false),
);

/// Standard base64 of PEM bodies (RFC 7468): padded, no stray bits in the last character.
const PEM: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_encode_padding(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical)
        .with_decode_allow_trailing_bits(false),
);

/// The text is not canonical base64url.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "not canonical base64url; use A-Z a-z 0-9 - _ only, without `=` or white space, \
     and leave the unused bits of the last character zero"
)]
pub struct Base64Error;

/// Encodes as base64url without padding.
///
/// Source: RFC 4648 section 5, RFC 7515 section 2.
#[must_use]
pub fn base64url_encode(bytes: &[u8]) -> String {
    URL.encode(bytes)
}

/// Decodes canonical base64url without padding.
///
/// # Errors
/// [`Base64Error`] for padding, white space, another alphabet, an impossible length, or a last
/// character whose unused bits are set: each value has exactly one text.
pub fn base64url_decode(text: &str) -> Result<Vec<u8>, Base64Error> {
    decode_segment(text.as_bytes())
}

pub(crate) fn decode_segment(text: &[u8]) -> Result<Vec<u8>, Base64Error> {
    URL.decode(text).map_err(|_| Base64Error)
}

pub(crate) fn encode_standard(bytes: &[u8]) -> String {
    PEM.encode(bytes)
}

pub(crate) fn decode_standard(text: &[u8]) -> Result<Vec<u8>, Base64Error> {
    PEM.decode(text).map_err(|_| Base64Error)
}
