//! Symmetric proof-of-possession keys inside tokens: encrypted by the server to itself.
//!
//! Each token has a key-encryption key of its own, made of the registry's secret and the token's `jti`. So no
//! sealed key opens in another token, and a nonce that came twice would matter to nobody.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hmac;
use coset::{
    AsCborValue as _, CborSerializable as _, CoseEncrypt0, CoseEncrypt0Builder, HeaderBuilder, iana,
};
use drawbridge_jose::{Claims, base64url_decode, base64url_encode};
use zeroize::Zeroizing;

use super::cose_key::{symmetric_key_from_cose, symmetric_key_to_cose};
use super::fault::AceFault;

/// `{"alg":"dir","enc":"A256GCM"}`, and the empty encrypted key of `dir`.
const JWE_HEAD: &str = "eyJhbGciOiJkaXIiLCJlbmMiOiJBMjU2R0NNIn0..";
const TAG_BYTES: usize = 16;
/// Longest sealed key that is read, in bytes: ours have some 160.
const SEALED_BYTES_MAX: usize = 512;

/// A key for HMAC with SHA-256, wiped when dropped.
#[derive(Clone)]
pub struct SymmetricKey(Zeroizing<[u8; 32]>);

impl SymmetricKey {
    /// Takes 32 random bytes.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The key itself: for the one answer that tells it to its client.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// As a JWK.
    ///
    /// Source: RFC 7518 section 6.4.
    #[must_use]
    pub fn to_jwk_json(&self) -> Zeroizing<String> {
        let k = Zeroizing::new(base64url_encode(&*self.0));
        Zeroizing::new(format!(r#"{{"alg":"HS256","k":"{}","kty":"oct"}}"#, *k))
    }
}

impl std::fmt::Debug for SymmetricKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SymmetricKey")
    }
}

/// A sealed key, as it stands in `cnf`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SealedKey {
    /// `jwe`: a JWE in compact form over a JWK (RFC 7800 section 3.3).
    Jwe(String),
    /// Encrypted_COSE_Key: a COSE_Encrypt0 over a COSE_Key (RFC 8747 section 3.3).
    Cose(Vec<u8>),
}

impl SealedKey {
    /// Opens the key. `secret`: the registry's; `jti`: of the token that the key stands in.
    ///
    /// # Errors
    /// [`AceFault::Key`] when this server did not seal it for this token.
    pub fn open(&self, secret: &[u8; 32], jti: &str) -> Result<SymmetricKey, AceFault> {
        let opened = match self {
            Self::Jwe(jwe) => open_jwe(jwe, secret, jti),
            Self::Cose(bytes) => open_cose(bytes, secret, jti),
        };
        opened
            .map(SymmetricKey::new)
            .ok_or_else(|| AceFault::Key("it was not sealed for this token".to_owned()))
    }
}

/// Seals a key as `cnf.jwe`: `dir` with A256GCM. `nonce`: random.
///
/// Source: RFC 7516 section 5.1, RFC 7518 sections 4.5 and 5.3, RFC 9431 section 2.1.
#[must_use]
pub fn seal_as_jwe(key: &SymmetricKey, secret: &[u8; 32], jti: &str, nonce: [u8; 12]) -> SealedKey {
    let mut text = Zeroizing::new(key.to_jwk_json().as_bytes().to_vec());
    let header = JWE_HEAD.trim_end_matches('.');
    let tag = key_of(secret, jti)
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(header), &mut text)
        .expect("a key is far below the 64 GiB that AES-GCM takes");
    let [nonce, text, tag] = [&nonce[..], &text, tag.as_ref()].map(base64url_encode);
    SealedKey::Jwe(format!("{JWE_HEAD}{nonce}.{text}.{tag}"))
}

fn open_jwe(jwe: &str, secret: &[u8; 32], jti: &str) -> Option<[u8; 32]> {
    let mut parts = jwe.strip_prefix(JWE_HEAD).filter(|_| jwe.len() <= SEALED_BYTES_MAX)?.split('.');
    let mut part = || base64url_decode(parts.next()?).ok();
    let (nonce, text, tag) = (part()?, part()?, part()?);
    if parts.next().is_some() || tag.len() != TAG_BYTES {
        return None;
    }
    let header = JWE_HEAD.trim_end_matches('.');
    let plain = open(secret, jti, &nonce, header.as_bytes(), [text, tag].concat())?;
    let jwk = Claims::from_json(&plain).ok()?;
    let is_hmac = jwk.text("kty").ok()? == Some("oct") && jwk.text("alg").ok()? == Some("HS256");
    let key = Zeroizing::new(base64url_decode(jwk.text("k").ok()??).ok()?);
    <[u8; 32]>::try_from(&key[..]).ok().filter(|_| is_hmac)
}

/// Seals a key as Encrypted_COSE_Key: COSE_Encrypt0 with A256GCM. `nonce`: random.
///
/// Source: RFC 9052 section 5.2, RFC 9053 section 4.1, RFC 8747 section 3.3.
#[must_use]
pub fn seal_as_cose(key: &SymmetricKey, secret: &[u8; 32], jti: &str, nonce: [u8; 12]) -> SealedKey {
    let plain = Zeroizing::new(symmetric_key_to_cose(key.bytes()));
    let sealed = CoseEncrypt0Builder::new()
        .protected(HeaderBuilder::new().algorithm(iana::Algorithm::A256GCM).build())
        .unprotected(HeaderBuilder::new().iv(nonce.to_vec()).build())
        .create_ciphertext(&plain, &[], |plain, aad| {
            let mut text = plain.to_vec();
            key_of(secret, jti)
                .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), &mut text)
                .expect("a key is far below the 64 GiB that AES-GCM takes");
            text
        });
    SealedKey::Cose(sealed.build().to_vec().expect("a header that was just built has no label twice"))
}

fn open_cose(bytes: &[u8], secret: &[u8; 32], jti: &str) -> Option<[u8; 32]> {
    if bytes.len() > SEALED_BYTES_MAX {
        return None;
    }
    let sealed = CoseEncrypt0::from_cbor_value(super::cbor::read(bytes).ok()?).ok()?;
    let protected = HeaderBuilder::new().algorithm(iana::Algorithm::A256GCM).build();
    let unprotected = HeaderBuilder::new().iv(sealed.unprotected.iv.clone()).build();
    // Nothing else may stand there, `crit` included, and in no other encoding.
    if sealed.protected.original_data.as_deref() != protected.to_vec().ok().as_deref()
        || sealed.unprotected != unprotected
    {
        return None;
    }
    let nonce = sealed.unprotected.iv.clone();
    let plain = sealed.decrypt_ciphertext(
        &[],
        || (),
        |text, aad| open(secret, jti, &nonce, aad, text.to_vec()).ok_or(()),
    );
    symmetric_key_from_cose(&Zeroizing::new(plain.ok()?))
}

fn open(secret: &[u8; 32], jti: &str, nonce: &[u8], aad: &[u8], text: Vec<u8>) -> Option<Vec<u8>> {
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    let mut text = text;
    let length = key_of(secret, jti).open_in_place(nonce, Aad::from(aad), &mut text).ok()?.len();
    text.truncate(length);
    Some(text)
}

fn key_of(secret: &[u8; 32], jti: &str) -> LessSafeKey {
    let master = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let key = hmac::sign(&master, &[b"drawbridge ace key 1\0", jti.as_bytes()].concat());
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.as_ref()).expect("HMAC-SHA-256 gives 32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_key_opens_in_its_token_with_its_secret_and_nowhere_else() {
        let key = SymmetricKey::new([7; 32]);
        for seal in [seal_as_jwe, seal_as_cose] {
            let sealed = seal(&key, &[1; 32], "one", [9; 12]);
            assert_eq!(sealed.open(&[1; 32], "one").expect("it opens").bytes(), key.bytes());
            assert!(sealed.open(&[2; 32], "one").is_err() && sealed.open(&[1; 32], "two").is_err());
            assert!(!format!("{sealed:?} {key:?}").contains("BwcHBw"), "not the key");
            match &sealed {
                SealedKey::Jwe(text) => {
                    for at in 0..text.len() {
                        let mut changed = text.clone().into_bytes();
                        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
                        let changed = SealedKey::Jwe(String::from_utf8(changed).expect("ASCII"));
                        assert!(changed.open(&[1; 32], "one").is_err(), "changed at {at}");
                        assert!(SealedKey::Jwe(text[..at].to_owned()).open(&[1; 32], "one").is_err(), "{at}");
                    }
                }
                SealedKey::Cose(bytes) => {
                    for at in 0..bytes.len() {
                        let mut changed = bytes.clone();
                        changed[at] ^= 1;
                        assert!(SealedKey::Cose(changed).open(&[1; 32], "one").is_err(), "changed at {at}");
                        assert!(SealedKey::Cose(bytes[..at].to_vec()).open(&[1; 32], "one").is_err(), "{at}");
                    }
                }
            }
        }
    }
}
