//! PEM armour, peeled by hand: device firmware sends it on one line, which most PEM readers refuse.

use alloc::{string::String, vec::Vec};

use zeroize::Zeroizing;

use crate::{KeyError, base64url};

pub(crate) const PUBLIC_KEY: &str = "PUBLIC KEY";
pub(crate) const CERTIFICATE: &str = "CERTIFICATE";
#[cfg(feature = "aws-lc")]
pub(crate) const PRIVATE_KEY: &str = "PRIVATE KEY";

/// Public keys in PEM, in bytes of text. An RSA key of 4096 bits takes 800.
pub(crate) const PUBLIC_KEY_BYTES_MAX: usize = 2048;
/// Certificates and private keys in PEM, in bytes of text.
pub(crate) const OTHER_BYTES_MAX: usize = 16 * 1024;

const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";
const DASHES: &str = "-----";

/// The DER inside exactly one block with one of these labels. ASCII white space is skipped anywhere
/// outside the labels, and needed nowhere. The error never repeats what was found.
pub(crate) fn peel(
    text: &str,
    labels: &[&'static str],
) -> Result<(&'static str, Zeroizing<Vec<u8>>), KeyError> {
    let bytes_max = if labels == [PUBLIC_KEY] { PUBLIC_KEY_BYTES_MAX } else { OTHER_BYTES_MAX };
    if text.len() > bytes_max {
        return Err(KeyError::TooLarge { found_bytes: text.len(), bytes_max });
    }
    let text = text.trim_matches(is_space);
    let (found, rest) =
        text.strip_prefix(BEGIN).and_then(|rest| rest.split_once(DASHES)).ok_or(KeyError::PemArmour)?;
    let Some(label) = labels.iter().find(|label| **label == found) else {
        return Err(if found.contains("PRIVATE") { KeyError::PrivateKey } else { KeyError::PemLabel });
    };
    let (body, rest) = rest.split_once(END).ok_or(KeyError::PemArmour)?;
    let rest =
        rest.strip_prefix(label).and_then(|rest| rest.strip_prefix(DASHES)).ok_or(KeyError::PemArmour)?;
    if rest.contains(BEGIN) {
        return Err(KeyError::PemSeveral);
    }
    if !rest.is_empty() {
        return Err(KeyError::PemArmour);
    }
    Ok((label, decode_spaced(body)?))
}

/// The bytes of one armour that has this label, 64 characters to the line.
pub(crate) fn wrap(label: &str, der: &[u8]) -> Zeroizing<String> {
    let body = Zeroizing::new(base64url::encode_standard(der));
    // Reserved once, so that no half-written copy of a private key stays behind in freed memory.
    let mut text = Zeroizing::new(String::with_capacity(body.len() + body.len() / 64 + 2 * label.len() + 40));
    for part in [BEGIN, label, DASHES, "\n"] {
        text.push_str(part);
    }
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, later) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = later;
    }
    for part in [END, label, DASHES, "\n"] {
        text.push_str(part);
    }
    text
}

/// Standard base64 with padding, white space skipped.
pub(crate) fn decode_spaced(text: &str) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let mut dense = Zeroizing::new(Vec::with_capacity(text.len()));
    dense.extend(text.bytes().filter(|byte| !is_space(char::from(*byte))));
    base64url::decode_standard(&dense).map(Zeroizing::new).map_err(|_| KeyError::Base64)
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}
