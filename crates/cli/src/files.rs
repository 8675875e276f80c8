//! Keys and texts that a command reads from files.

use std::fs;
use std::path::Path;
use std::time::Duration;

use drawbridge_jose::{PublicKey, SigningKey};

use crate::Failure;

/// The public key in a file, recognised by content. Of a private key only the public half is taken.
pub(crate) fn public_key(path: &Path) -> Result<PublicKey, Failure> {
    let bytes = read(path)?;
    let bad = |why: String| Failure::Usage(format!("{}: {why}", path.display()));
    if let Ok(text) = std::str::from_utf8(&bytes)
        && text.contains("-----BEGIN PRIVATE KEY-----")
    {
        let key = SigningKey::from_pkcs8_pem(text).map_err(|e| bad(e.to_string()))?;
        return Ok(key.public_key().clone());
    }
    PublicKey::recognise(&bytes).map_err(|e| bad(e.to_string()))
}

/// The private key in a PKCS#8 PEM file.
pub(crate) fn private_key(path: &Path) -> Result<SigningKey, Failure> {
    let bytes = read(path)?;
    let text = std::str::from_utf8(&bytes)
        .map_err(|_| Failure::Usage(format!("{}: not text; wanted a PKCS#8 key in PEM", path.display())))?;
    SigningKey::from_pkcs8_pem(text).map_err(|e| Failure::Usage(format!("{}: {e}", path.display())))
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(path).map_err(|e| Failure::Usage(format!("{}: {e}", path.display())))
}

/// `30s`, `10m`, `1h`, or seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, Failure> {
    let (digits, seconds) = match text.as_bytes().last() {
        Some(b's') => (&text[..text.len() - 1], 1),
        Some(b'm') => (&text[..text.len() - 1], 60),
        Some(b'h') => (&text[..text.len() - 1], 3600),
        _ => (text, 1),
    };
    let count: Option<u64> = digits.parse().ok();
    match count.and_then(|count| count.checked_mul(seconds)) {
        Some(total) => Ok(Duration::from_secs(total)),
        None => Err(Failure::Usage(format!("`{text}` is no duration; write `30s`, `10m` or `1h`"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        for (text, seconds) in [("30s", 30), ("10m", 600), ("1h", 3600), ("7", 7)] {
            assert_eq!(duration(text).expect(text).as_secs(), seconds);
        }
        for bad in ["", "h", "1d", "-1s", "1.5h", "99999999999999999999h", "ä"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
