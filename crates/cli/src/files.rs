//! Keys and texts that a command reads from files.

use std::fs;
use std::path::Path;
use std::time::Duration;

use drawbridge_jose::{PublicKey, SigningKey};

use crate::Failure;

/// The public key in a file, recognised by content. Of a private key only the public half is taken.
pub(crate) fn public_key(path: &Path) -> Result<PublicKey, Failure> {
    const WANTED: &str = "wanted a public key or certificate: PEM, JWK or DER";
    let bytes = read(path, WANTED)?;
    let bad = |why: String| Failure::Usage(format!("{}: {why}; {WANTED}", path.display()));
    if let Ok(text) = std::str::from_utf8(&bytes) {
        if text.contains("-----BEGIN PRIVATE KEY-----") {
            let key = SigningKey::from_pkcs8_pem(text).map_err(|e| bad(e.to_string()))?;
            return Ok(key.public_key().clone());
        }
        if let Some(mend) = other_private_form(path, text) {
            return Err(Failure::Usage(format!("{}: {mend}", path.display())));
        }
    }
    PublicKey::recognise(&bytes).map_err(|e| bad(e.to_string()))
}

/// The text of a file that is a certificate in PEM.
pub(crate) fn certificate_pem(path: &Path) -> Result<Option<String>, Failure> {
    let bytes = read(path, "wanted a public key or certificate: PEM, JWK or DER")?;
    Ok(String::from_utf8(bytes).ok().filter(|text| text.contains("-----BEGIN CERTIFICATE-----")))
}

/// The private key in a PKCS#8 PEM file.
pub(crate) fn private_key(path: &Path) -> Result<SigningKey, Failure> {
    const WANTED: &str = "wanted a private key in PKCS#8 PEM (`-----BEGIN PRIVATE KEY-----`)";
    let bytes = read(path, WANTED)?;
    let bad = |why: &str| Failure::Usage(format!("{}: {why}", path.display()));
    let text = std::str::from_utf8(&bytes).map_err(|_| bad(&format!("not text; {WANTED}")))?;
    if let Some(mend) = other_private_form(path, text) {
        return Err(bad(&mend));
    }
    if text.contains("-----BEGIN PUBLIC KEY-----") || text.contains("-----BEGIN CERTIFICATE-----") {
        return Err(bad(&format!(
            "this is the public half, which cannot sign; {WANTED}, such as the `key.pem` of an identity folder"
        )));
    }
    if !text.contains("-----BEGIN PRIVATE KEY-----") {
        return Err(bad(&format!("no private key in PEM was found; {WANTED}")));
    }
    SigningKey::from_pkcs8_pem(text).map_err(|e| bad(&format!("{e}; {WANTED}")))
}

/// What is wrong with a private key that is in another form than PKCS#8, and the mend.
fn other_private_form(path: &Path, text: &str) -> Option<String> {
    let (found, command) = if text.contains("-----BEGIN EC PRIVATE KEY-----") {
        ("SEC1 (`EC PRIVATE KEY`)", "openssl pkcs8 -topk8 -nocrypt")
    } else if text.contains("-----BEGIN RSA PRIVATE KEY-----") {
        ("PKCS#1 (`RSA PRIVATE KEY`)", "openssl pkcs8 -topk8 -nocrypt")
    } else if text.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") {
        ("encrypted PKCS#8", "openssl pkcs8")
    } else {
        return None;
    };
    let path = path.display();
    Some(format!(
        "the private key is {found}; wanted a private key in PKCS#8 PEM without password: \
         `{command} -in {path} -out {path}.pkcs8`"
    ))
}

/// The bytes of a file; `wanted` says what should have been there.
pub(crate) fn read(path: &Path, wanted: &str) -> Result<Vec<u8>, Failure> {
    fs::read(path).map_err(|e| Failure::Usage(format!("{}: {e}; {wanted}", path.display())))
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
