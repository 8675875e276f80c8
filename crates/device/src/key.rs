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

/// Where a key waits, beside the `key.pem` that it replaces, until the server is known to have taken it.
const NEXT_KEY: &str = "next-key.pem";

/// The key that waits in this folder, if one does.
pub(crate) fn next_key(folder: &Path) -> Result<Option<SigningKey>, DeviceError> {
    let path = folder.join(NEXT_KEY);
    if path.exists() { load_key(&path).map(Some) } else { Ok(None) }
}

/// Lets a key wait in this folder. It is there whole, or not at all.
pub(crate) fn keep_next_key(folder: &Path, key: &SigningKey) -> Result<(), DeviceError> {
    let part = folder.join("next-key.part");
    let _ = std::fs::remove_file(&part); // of a process that ended while it wrote; nobody has seen that key
    store_key(&part, key)?;
    rename_synced(folder, &part, NEXT_KEY)
}

/// The key that waits is the device's key from now on.
pub(crate) fn adopt_next_key(folder: &Path) -> Result<(), DeviceError> {
    rename_synced(folder, &folder.join(NEXT_KEY), "key.pem")
}

fn rename_synced(folder: &Path, from: &Path, to: &str) -> Result<(), DeviceError> {
    let renamed = std::fs::rename(from, folder.join(to));
    renamed
        .and_then(|()| std::fs::File::open(folder)?.sync_all())
        .map_err(|e| DeviceError::File { path: from.to_owned(), why: e.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_waits_is_whole_and_takes_the_place_of_the_other_at_once() {
        let place = tempfile::tempdir().expect("a folder");
        let folder = place.path();
        assert!(next_key(folder).expect("none").is_none());
        let (old, new) =
            (create_key(Algorithm::Es256).expect("a key"), create_key(Algorithm::EdDsa).expect("a key"));
        store_key(&folder.join("key.pem"), &old).expect("written");
        std::fs::write(folder.join("next-key.part"), "-----BEGIN PRIV").expect("written");
        keep_next_key(folder, &new).expect("what was cut off is no hindrance");
        let waits = next_key(folder).expect("read").expect("there");
        assert_eq!(waits.public_key(), new.public_key());
        adopt_next_key(folder).expect("renamed");
        assert_eq!(load_key(&folder.join("key.pem")).expect("read").public_key(), new.public_key());
        assert!(next_key(folder).expect("none").is_none());
    }

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
