//! Secrets at rest: what the store keeps of them is sealed by a key that the store does not have.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use drawbridge_jose::sha256;
use drawbridge_names::RegistryName;
use drawbridge_registry::AuditEntry;
use zeroize::{Zeroize as _, Zeroizing};

use crate::{Actor, Admission, AdmissionError, Random};

/// The format of a sealed secret: this byte, 8 bytes that tell the key, 12 bytes of nonce, then the
/// ciphertext with its 16 bytes of tag.
const VERSION: u8 = 2;
const KEY_TAG_BYTES: usize = 8;
const NONCE_BYTES: usize = 12;
const HEAD_BYTES: usize = 1 + KEY_TAG_BYTES + NONCE_BYTES;

/// Where a secret is kept: it opens nowhere else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SecretPlace<'a> {
    /// The registry it belongs to.
    pub registry: &'a RegistryName,
    /// Its name there.
    pub name: &'a str,
}

/// Why a sealed secret does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealFault {
    /// Another key has sealed it.
    #[error("it was sealed by another key")]
    OtherKey,
    /// It is not sealed, damaged, or was moved here from another place.
    #[error("it is damaged, or not a sealed secret of this place")]
    Damaged,
}

/// Seals secrets before the store gets them.
pub trait Seal: Send + Sync {
    /// Seals a secret for its place.
    fn seal(&self, place: SecretPlace<'_>, plain: &[u8], random: &dyn Random) -> Vec<u8>;
    /// Opens what [`Self::seal`] made for the same place.
    ///
    /// # Errors
    /// [`SealFault`] when this key did not make it, or not for this place.
    fn open(&self, place: SecretPlace<'_>, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealFault>;
    /// Whether the key that seals now has made it; if not, it should be sealed anew.
    fn is_current(&self, sealed: &[u8]) -> bool;
}

/// AES-256-GCM with a random nonce of 96 bits; registry and name are authenticated with the secret. One key
/// seals a handful of secrets, far from the 2^32 up to which random nonces are safe.
///
/// Source: NIST SP 800-38D section 8.3.
pub struct AesSeal {
    current: KeyOfSeal,
    previous: Option<KeyOfSeal>,
}

struct KeyOfSeal {
    key: LessSafeKey,
    /// The first bytes of a digest of the key: tells a wrong key from damage.
    tag: [u8; KEY_TAG_BYTES],
}

impl KeyOfSeal {
    fn new(bytes: &[u8; 32]) -> Self {
        let key = UnboundKey::new(&AES_256_GCM, bytes).expect("AES-256 takes every 32 bytes as a key");
        let mut labelled = Zeroizing::new(b"drawbridge seal key 1 ".to_vec());
        labelled.extend_from_slice(bytes);
        let mut tag = [0; KEY_TAG_BYTES];
        tag.copy_from_slice(&sha256(&labelled)[..KEY_TAG_BYTES]);
        Self { key: LessSafeKey::new(key), tag }
    }
}

impl AesSeal {
    /// Seals and opens with one key.
    #[must_use]
    pub fn new(key: [u8; 32]) -> Self {
        Self::with_previous(key, None)
    }

    /// Seals with `key`, opens what `key` or `previous` has sealed: the way from one key to the next, see
    /// [`Admission::reseal`].
    #[must_use]
    pub fn with_previous(mut key: [u8; 32], mut previous: Option<[u8; 32]>) -> Self {
        let seal = Self { current: KeyOfSeal::new(&key), previous: previous.as_ref().map(KeyOfSeal::new) };
        key.zeroize();
        previous.zeroize();
        seal
    }
}

impl Seal for AesSeal {
    fn seal(&self, place: SecretPlace<'_>, plain: &[u8], random: &dyn Random) -> Vec<u8> {
        let mut nonce = [0; NONCE_BYTES];
        random.fill(&mut nonce);
        let mut sealed = Zeroizing::new(plain.to_vec());
        let tag = self
            .current
            .key
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), aad(place), &mut sealed)
            .expect("a secret is far below the 64 GiB that AES-GCM takes");
        let mut value = Vec::with_capacity(HEAD_BYTES + sealed.len() + tag.as_ref().len());
        value.push(VERSION);
        value.extend_from_slice(&self.current.tag);
        value.extend_from_slice(&nonce);
        value.extend_from_slice(&sealed);
        value.extend_from_slice(tag.as_ref());
        value
    }

    fn open(&self, place: SecretPlace<'_>, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealFault> {
        if sealed.len() < HEAD_BYTES || sealed[0] != VERSION {
            return Err(SealFault::Damaged);
        }
        let (head, body) = sealed.split_at(HEAD_BYTES);
        let tag = &head[1..=KEY_TAG_BYTES];
        let keys = std::iter::once(&self.current).chain(&self.previous);
        let key = keys.into_iter().find(|key| key.tag == tag).ok_or(SealFault::OtherKey)?;
        let mut nonce = [0; NONCE_BYTES];
        nonce.copy_from_slice(&head[1 + KEY_TAG_BYTES..]);
        let mut plain = Zeroizing::new(body.to_vec());
        let nonce = Nonce::assume_unique_for_key(nonce);
        let length = match key.key.open_in_place(nonce, aad(place), &mut plain) {
            Ok(opened) => opened.len(),
            Err(_) => return Err(SealFault::Damaged),
        };
        plain.truncate(length);
        Ok(plain)
    }

    fn is_current(&self, sealed: &[u8]) -> bool {
        sealed.len() >= HEAD_BYTES && sealed[0] == VERSION && sealed[1..=KEY_TAG_BYTES] == self.current.tag
    }
}

impl fmt::Debug for AesSeal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AesSeal")
    }
}

/// No name has a byte 0, so no two places have one text.
fn aad(place: SecretPlace<'_>) -> Aad<Vec<u8>> {
    Aad::from([&[VERSION], place.registry.as_str().as_bytes(), &[0], place.name.as_bytes()].concat())
}

impl Admission {
    /// A secret of a registry, opened; if there is none, `make` is asked for one.
    pub(crate) async fn sealed_or_insert(
        &self,
        registry: &RegistryName,
        name: &str,
        make: impl FnOnce() -> Zeroizing<Vec<u8>> + Send,
    ) -> Result<Zeroizing<Vec<u8>>, AdmissionError> {
        if let Some(plain) = self.sealed(registry, name).await? {
            return Ok(plain);
        }
        let place = SecretPlace { registry, name };
        let value = self.inner.sealer.seal(place, &make(), &*self.inner.random);
        let kept = self.inner.store.secret_or_insert(registry, name, value).await?;
        self.opened(place, &kept)
    }

    /// A secret of a registry, opened, if there is one.
    pub(crate) async fn sealed(
        &self,
        registry: &RegistryName,
        name: &str,
    ) -> Result<Option<Zeroizing<Vec<u8>>>, AdmissionError> {
        let kept = self.inner.store.secret(registry, name).await?;
        kept.map(|kept| self.opened(SecretPlace { registry, name }, &kept)).transpose()
    }

    /// Replaces a secret of a registry.
    pub(crate) async fn replace_sealed(
        &self,
        registry: &RegistryName,
        name: &str,
        plain: &[u8],
        audit: AuditEntry,
    ) -> Result<(), AdmissionError> {
        let value = self.inner.sealer.seal(SecretPlace { registry, name }, plain, &*self.inner.random);
        Ok(self.inner.store.replace_secret(registry, name, value, audit).await?)
    }

    /// Seals anew what the previous key of the sealer has sealed; answers how many secrets those were. To be
    /// called after a start with both keys; once it has answered, the previous key opens nothing any more.
    ///
    /// # Errors
    /// [`AdmissionError`] when the store does not answer. It can be repeated.
    pub async fn reseal(&self, actor: &Actor) -> Result<usize, AdmissionError> {
        let mut resealed = 0;
        for record in self.registries() {
            let registry = &record.name;
            for name in crate::registries::SEALED_SECRETS {
                let Some(kept) = self.inner.store.secret(registry, name).await? else { continue };
                if self.inner.sealer.is_current(&kept) {
                    continue;
                }
                let plain = self.opened(SecretPlace { registry, name }, &kept)?;
                let audit = self.audit(actor, "secret.reseal", name, &serde_json::json!({}));
                self.replace_sealed(registry, name, &plain, audit).await?;
                resealed += 1;
            }
        }
        Ok(resealed)
    }

    fn opened(&self, place: SecretPlace<'_>, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, AdmissionError> {
        self.inner.sealer.open(place, sealed).map_err(|fault| match fault {
            SealFault::OtherKey => AdmissionError::OtherSealKey {
                registry: place.registry.clone(),
                secret: place.name.to_owned(),
            },
            SealFault::Damaged => AdmissionError::Secret(format!("{}: {fault}", place.name)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Counted(std::sync::atomic::AtomicU8);

    impl Random for Counted {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.fill(self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst));
        }
    }

    fn random() -> Counted {
        Counted(0.into())
    }

    #[test]
    fn a_secret_opens_in_its_place_with_its_key_and_nowhere_else() {
        let (one, other) = (RegistryName::default_registry(), RegistryName::parse("plant").expect("a name"));
        let place = SecretPlace { registry: &one, name: "nonce-key" };
        let random = random();
        let seal = AesSeal::new([1; 32]);
        let sealed = seal.seal(place, b"a secret", &random);
        assert_eq!(seal.open(place, &sealed).expect("it opens").as_slice(), b"a secret");
        assert!(!sealed.windows(8).any(|part| part == b"a secret"));
        assert_ne!(sealed, seal.seal(place, b"a secret", &random), "a nonce is used once");
        let moved = [
            SecretPlace { registry: &other, name: "nonce-key" },
            SecretPlace { registry: &one, name: "nonce-keys" },
        ];
        for place in moved {
            assert_eq!(seal.open(place, &sealed), Err(SealFault::Damaged));
        }
        assert_eq!(AesSeal::new([2; 32]).open(place, &sealed), Err(SealFault::OtherKey));
        for end in 0..sealed.len() {
            assert!(seal.open(place, &sealed[..end]).is_err(), "cut at {end}");
        }
        for at in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[at] ^= 1;
            assert!(seal.open(place, &damaged).is_err(), "changed at {at}");
        }
    }

    #[test]
    fn the_next_key_opens_what_the_previous_one_has_sealed() {
        let registry = RegistryName::default_registry();
        let place = SecretPlace { registry: &registry, name: "x" };
        let sealed = AesSeal::new([1; 32]).seal(place, b"s", &random());
        let next = AesSeal::with_previous([2; 32], Some([1; 32]));
        assert!(!next.is_current(&sealed));
        assert_eq!(next.open(place, &sealed).expect("it opens").as_slice(), b"s");
        let again = next.seal(place, b"s", &random());
        assert!(next.is_current(&again));
        assert!(AesSeal::new([2; 32]).open(place, &again).is_ok());
        assert_eq!(format!("{next:?}"), "AesSeal");
    }
}
