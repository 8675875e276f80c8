//! The admin credential: `dba_`, 43 characters of base64url, 6 characters of checksum. Only its SHA-256
//! is kept.

use drawbridge_identity::Refusal;
use drawbridge_jose::{base64url_encode, sha256};
use drawbridge_names::RegistryName;
use zeroize::Zeroizing;

use crate::{Actor, Admission, AdmissionError, unavailable};

/// With this every admin credential begins, so that secret scanners know it.
pub const ADMIN_TOKEN_PREFIX: &str = "dba_";
/// With this every opaque access token begins.
pub(crate) const OPAQUE_TOKEN_PREFIX: &str = "dbo_";

/// The secret that holds the hash: a version byte, then 32 bytes.
const ADMIN_TOKEN: &str = "admin-token";
const ADMIN_TOKEN_VERSION: u8 = 1;

impl Admission {
    /// Makes a new admin credential; an earlier one is dead from now on. It is shown this once.
    ///
    /// # Errors
    /// [`AdmissionError`] when there is no registry `default` yet, or the store does not answer.
    pub async fn create_admin_token(&self, actor: &Actor) -> Result<Zeroizing<String>, AdmissionError> {
        let mut bytes = Zeroizing::new([0; 32]);
        self.inner.random.fill(&mut *bytes);
        let token = Zeroizing::new(with_checksum(ADMIN_TOKEN_PREFIX, &base64url_encode(&*bytes)));
        let registry = RegistryName::default_registry();
        let audit = self.audit(actor, "admin.rotate", "admin", &serde_json::json!({}));
        self.inner.store.replace_secret(&registry, ADMIN_TOKEN, hashed(&token), audit).await?;
        Ok(token)
    }

    /// Whether there is an admin credential.
    ///
    /// # Errors
    /// [`AdmissionError`] when the store does not answer.
    pub async fn has_admin_token(&self) -> Result<bool, AdmissionError> {
        Ok(self.inner.store.secret(&RegistryName::default_registry(), ADMIN_TOKEN).await?.is_some())
    }

    pub(crate) async fn is_admin_token(&self, token: &str) -> Result<bool, Refusal> {
        let kept = self.inner.store.secret(&RegistryName::default_registry(), ADMIN_TOKEN).await;
        let Some(kept) = kept.map_err(|error| unavailable(&error))? else { return Ok(false) };
        Ok(same(&kept, &hashed(token)))
    }
}

fn hashed(token: &str) -> Vec<u8> {
    let mut value = vec![ADMIN_TOKEN_VERSION];
    value.extend_from_slice(&sha256(token.as_bytes()));
    value
}

/// Compares without telling by its time where the first difference is.
pub(crate) fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && std::hint::black_box(a.iter().zip(b).fold(0, |acc, (x, y)| acc | (x ^ y))) == 0
}

/// A prefix, a secret, and the CRC-32 of both in base64url.
pub(crate) fn with_checksum(prefix: &str, secret: &str) -> String {
    let crc = crc32fast::hash(format!("{prefix}{secret}").as_bytes());
    format!("{prefix}{secret}{}", base64url_encode(&crc.to_be_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_has_its_prefix_43_characters_and_a_checksum_of_6() {
        let token = with_checksum(ADMIN_TOKEN_PREFIX, &base64url_encode(&[7; 32]));
        assert_eq!(token.len(), 4 + 43 + 6);
        assert!(token.starts_with("dba_"));
        assert_ne!(token[47..], with_checksum(ADMIN_TOKEN_PREFIX, &base64url_encode(&[8; 32]))[47..]);
    }

    #[test]
    fn hashes_are_the_same_only_when_every_byte_is() {
        assert!(same(&hashed("dba_x"), &hashed("dba_x")));
        assert!(!same(&hashed("dba_x"), &hashed("dba_y")));
        assert!(!same(&hashed("dba_x"), &[]));
    }
}
