//! A public key that somebody asks to be registered. No message here repeats what was sent: it may
//! be a private key.

use drawbridge_jose::PublicKey;

use crate::refusal::Refusal;

/// Longest text of a new key, in bytes.
pub const NEW_KEY_BYTES_MAX: usize = 2 * 1024;

/// A key as PEM (on one line, too) or, as the legacy alias allows, as bare base64 of its DER.
pub(crate) fn from_text(text: &str) -> Result<PublicKey, Refusal> {
    check_size(text)?;
    let key = if text.contains("-----") {
        PublicKey::from_spki_pem(text)
    } else {
        PublicKey::from_bare_base64(text)
    };
    key.map_err(|error| Refusal::NewKey(error.to_string()))
}

/// A key as JWK, public members only.
pub(crate) fn from_jwk(json: &str) -> Result<PublicKey, Refusal> {
    check_size(json)?;
    PublicKey::from_jwk(json.as_bytes()).map_err(|error| Refusal::NewKey(error.to_string()))
}

fn check_size(text: &str) -> Result<(), Refusal> {
    if text.len() > NEW_KEY_BYTES_MAX {
        let found = text.len();
        return Err(Refusal::NewKey(format!(
            "it has {found} bytes, at most {NEW_KEY_BYTES_MAX} are allowed"
        )));
    }
    Ok(())
}
