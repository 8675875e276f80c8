//! The key of a device: made, loaded, stored, or kept where it cannot be taken out.

use std::path::Path;

use drawbridge_jose::{Algorithm, PublicKey, Sign, SigningKey};

use crate::{DeviceError, write_private};

/// A private key with its public half. [`SigningKey`] is one that lies in memory; for one in a secure element
/// implement this and [`Sign`], whose `sign` asks the element: see `examples/secure_element.rs`.
pub trait DeviceKey: Sign + Send + Sync {
    /// The public half, as it is registered.
    fn public_key(&self) -> &PublicKey;
}

impl DeviceKey for SigningKey {
    fn public_key(&self) -> &PublicKey {
        self.public_key()
    }
}

/// Makes a key. [`Algorithm::EdDsa`] costs a device without hardware for it far less than [`Algorithm::Es256`],
/// which secure elements know.
///
/// # Errors
/// [`DeviceError::Key`] when the library fails.
pub fn create_key(algorithm: Algorithm) -> Result<SigningKey, DeviceError> {
    SigningKey::generate(algorithm).map_err(|e| DeviceError::Key(e.to_string()))
}

/// Reads a key: PKCS#8 in PEM, as `openssl genpkey` and [`store_key`] write it.
///
/// # Errors
/// [`DeviceError::File`].
pub fn load_key(path: &Path) -> Result<SigningKey, DeviceError> {
    let fault = |why: String| DeviceError::File { path: path.to_owned(), why };
    let text = std::fs::read_to_string(path).map_err(|e| {
        fault(format!("{e}; wanted a private key in PKCS#8 PEM (`-----BEGIN PRIVATE KEY-----`)"))
    })?;
    SigningKey::from_pkcs8_pem(&text).map_err(|e| fault(e.to_string()))
}

/// Writes a key into a new file that only its owner can read, and syncs it.
///
/// # Errors
/// [`DeviceError::File`] when the file exists or cannot be written.
pub fn store_key(path: &Path, key: &SigningKey) -> Result<(), DeviceError> {
    write_private(path, key.to_pkcs8_pem().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_key_is_private_comes_back_and_is_never_overwritten() {
        let place = tempfile::tempdir().expect("a folder");
        for algorithm in [Algorithm::Es256, Algorithm::EdDsa] {
            let path = place.path().join(algorithm.name());
            let key = create_key(algorithm).expect("a key");
            store_key(&path, &key).expect("written");
            let mode = std::os::unix::fs::PermissionsExt::mode(
                &std::fs::metadata(&path).expect("there").permissions(),
            );
            assert_eq!(mode & 0o777, 0o600);
            let again = load_key(&path).expect("read");
            assert_eq!(again.public_key(), key.public_key());
            assert!(matches!(store_key(&path, &key), Err(DeviceError::File { .. })));
        }
        assert!(matches!(load_key(&place.path().join("none")), Err(DeviceError::File { .. })));
    }
}
