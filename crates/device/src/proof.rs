//! Proofs over one connection: RFC 9431 in CONNECT and AUTH, and the renewal of an open session. Bytes in, bytes
//! out; what TLS exports and the random nonce are arguments.

use alloc::string::String;
use alloc::vec::Vec;

use drawbridge_jose::{Sign, SignError, base64url_encode, sha256};

/// Exporter label of the proof in CONNECT. Its context is present and empty, which TLS 1.2 tells apart from absent.
///
/// Source: RFC 9431 section 2.2.4.2.1.
pub const ACE_EXPORTER_LABEL: &[u8] = b"EXPORTER-ACE-MQTT-Sign-Challenge";
/// Exporter label of the claim `cb`; the context is present and empty. Source: RFC 9266 section 3.
pub const CHANNEL_BINDING_LABEL: &[u8] = b"EXPORTER-Channel-Binding";
/// Exporter label of the proof of a renewal; the context is the SHA-256 of the new token.
pub const REFRESH_EXPORTER_LABEL: &[u8] = b"EXPORTER-drawbridge-refresh";

/// The Authentication Method of RFC 9431.
pub const ACE_METHOD: &str = "ace";
/// Bytes of a challenge of the server, and of the client's own nonce.
///
/// Source: RFC 9431 section 2.2.4.2.2.
pub const ACE_NONCE_BYTES: usize = 8;

/// What proves that its holder has the key of a token: every key that signs, and [`SymmetricKey`].
pub trait Prove {
    /// The signature or MAC over exactly these bytes.
    ///
    /// # Errors
    /// [`SignError`] when the key cannot sign.
    fn prove(&self, input: &[u8]) -> Result<Vec<u8>, SignError>;
}

impl<S: Sign + ?Sized> Prove for S {
    fn prove(&self, input: &[u8]) -> Result<Vec<u8>, SignError> {
        self.sign(input)
    }
}

/// A key that the server made for one token: HMAC with SHA-256. For devices too small for signatures. `Debug` does not
/// show it.
///
/// Source: RFC 9431 section 2.2.5 (HS256), RFC 2104.
#[derive(Clone, PartialEq, Eq)]
pub struct SymmetricKey(Vec<u8>);

impl SymmetricKey {
    /// A key of these bytes, 32 as this server makes them; `None` for fewer, which are too few for SHA-256.
    ///
    /// Source: RFC 7518 section 3.2.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Option<Self> {
        (bytes.len() >= 32).then_some(Self(bytes))
    }

    /// The MAC over these bytes.
    #[must_use]
    pub fn mac(&self, input: &[u8]) -> [u8; 32] {
        const BLOCK: usize = 64;
        let mut block = [0; BLOCK];
        if self.0.len() > BLOCK {
            block[..32].copy_from_slice(&sha256(&self.0));
        } else {
            block[..self.0.len()].copy_from_slice(&self.0);
        }
        let padded = |pad: u8, rest: &[u8]| {
            let mut bytes: Vec<u8> = block.iter().map(|byte| byte ^ pad).collect();
            bytes.extend_from_slice(rest);
            sha256(&bytes)
        };
        padded(0x5c, &padded(0x36, input))
    }
}

impl core::fmt::Debug for SymmetricKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("SymmetricKey")
    }
}

impl Prove for SymmetricKey {
    fn prove(&self, input: &[u8]) -> Result<Vec<u8>, SignError> {
        Ok(self.mac(input).to_vec())
    }
}

/// A token that is longer than its two-byte length can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the token has {found_bytes} bytes, at most 65535 fit; ask for a token with fewer claims")]
pub struct TokenTooLong {
    /// Its length in bytes.
    pub found_bytes: usize,
}

/// Authentication Data of CONNECT, or of AUTH 0x19, that asks for a challenge: length and token.
///
/// # Errors
/// [`TokenTooLong`].
///
/// Source: RFC 9431 sections 2.2.4.2.2 and 4.
pub fn ace_token(token: &[u8]) -> Result<Vec<u8>, TokenTooLong> {
    let bytes = u16::try_from(token.len()).map_err(|_| TokenTooLong { found_bytes: token.len() })?;
    let mut data = Vec::with_capacity(2 + token.len() + 64);
    data.extend_from_slice(&bytes.to_be_bytes());
    data.extend_from_slice(token);
    Ok(data)
}

/// Appends the proof to what [`ace_token`] made: the signature over the 32 bytes that TLS exports, good for this
/// connection alone and never for re-authentication.
///
/// # Errors
/// [`SignError`] when the key cannot sign.
///
/// Source: RFC 9431 section 2.2.4.2.1.
pub fn ace_prove(
    data: &mut Vec<u8>,
    exported: &[u8; 32],
    key: &(impl Prove + ?Sized),
) -> Result<(), SignError> {
    data.extend(key.prove(exported)?);
    Ok(())
}

/// Authentication Data of AUTH 0x18 that answers a challenge: our nonce, and the signature over both nonces.
///
/// # Errors
/// [`SignError`] when the key cannot sign.
///
/// Source: RFC 9431 section 2.2.4.2.2.
pub fn ace_answer(
    challenge: &[u8; ACE_NONCE_BYTES],
    own_nonce: &[u8; ACE_NONCE_BYTES],
    key: &(impl Prove + ?Sized),
) -> Result<Vec<u8>, SignError> {
    let mut input = [0; 2 * ACE_NONCE_BYTES];
    input[..ACE_NONCE_BYTES].copy_from_slice(challenge);
    input[ACE_NONCE_BYTES..].copy_from_slice(own_nonce);
    let mut data = Vec::with_capacity(ACE_NONCE_BYTES + 64);
    data.extend_from_slice(own_nonce);
    data.extend(key.prove(&input)?);
    Ok(data)
}

/// The user name of MQTT 3.1.1: `ace` and the token in base64url; the password is the signature over what TLS exports.
///
/// Source: RFC 9431 section 6.1.
#[must_use]
pub fn ace_user_name(token: &[u8]) -> String {
    let mut name = String::from("ace");
    name.push_str(&base64url_encode(token));
    name
}

/// The context with which TLS exports for the renewal with this token.
#[must_use]
pub fn refresh_context(token: &[u8]) -> [u8; 32] {
    sha256(token)
}

/// What is published to `$drawbridge/auth`: the new token, and on a second line, where the session or the token is
/// bound to a key, the proof that this connection has it. `proof` is what TLS exports for
/// [`REFRESH_EXPORTER_LABEL`] and [`refresh_context`], and the key.
///
/// # Errors
/// [`SignError`] when the key cannot sign.
pub fn renewal<K: Prove + ?Sized>(
    token: &[u8],
    proof: Option<(&[u8; 32], &K)>,
) -> Result<Vec<u8>, SignError> {
    let mut payload = token.to_vec();
    if let Some((exported, key)) = proof {
        let mut input = b"db-refresh-1\0".to_vec();
        input.extend_from_slice(exported);
        payload.push(b'\n');
        payload.extend_from_slice(base64url_encode(&key.prove(&input)?).as_bytes());
    }
    Ok(payload)
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use drawbridge_jose::{Algorithm, SigningKey, Verify, base64url_decode};

    use super::*;

    fn key() -> SigningKey {
        SigningKey::generate(Algorithm::EdDsa).expect("a key")
    }

    #[test]
    fn the_exporter_proof_is_length_token_and_signature() {
        let key = key();
        let mut data = ace_token(b"a.b.c").expect("short");
        ace_prove(&mut data, &[7; 32], &key).expect("signs");
        assert_eq!(&data[..7], b"\0\x05a.b.c");
        key.public_key().verify(&[7; 32], &data[7..]).expect("signed");
        assert_eq!(ace_token(&[0; 65_536]), Err(TokenTooLong { found_bytes: 65_536 }));
    }

    /// Source: RFC 4231, cases 2 and 6.
    #[test]
    fn a_mac_is_that_of_the_published_vectors_and_a_short_key_is_none() {
        let hex = |bytes: [u8; 32]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let long = SymmetricKey::new(vec![0xaa; 131]).expect("long enough");
        assert_eq!(
            hex(long.mac(b"Test Using Larger Than Block-Size Key - Hash Key First")),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
        );
        // Zeros at its end change nothing of a key that is shorter than a block.
        let mut jefe = b"Jefe".to_vec();
        jefe.resize(32, 0);
        let jefe = SymmetricKey::new(jefe).expect("long enough");
        assert_eq!(
            hex(jefe.mac(b"what do ya want for nothing?")),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        assert!(SymmetricKey::new(vec![7; 31]).is_none());
        assert_eq!(format!("{jefe:?}"), "SymmetricKey");
    }

    #[test]
    fn the_answer_to_a_challenge_signs_both_nonces_in_their_order() {
        let key = key();
        let data = ace_answer(b"serverno", b"clientno", &key).expect("signs");
        assert_eq!(&data[..8], b"clientno");
        key.public_key().verify(b"servernoclientno", &data[8..]).expect("signed");
    }

    #[test]
    fn the_user_name_has_the_token_encoded_once_more_as_the_rfc_wants_it() {
        assert_eq!(ace_user_name(b"a.b.c"), "aceYS5iLmM");
    }

    #[test]
    fn a_renewal_is_the_token_alone_or_with_a_proof_on_the_second_line() {
        let key = key();
        assert_eq!(renewal::<SigningKey>(b"a.b.c", None).expect("no signature"), b"a.b.c");
        let payload = renewal(b"a.b.c", Some((&[9; 32], &key))).expect("signs");
        let text = String::from_utf8(payload).expect("text");
        let (token, proof) = text.split_once('\n').expect("two lines");
        let mut input = b"db-refresh-1\0".to_vec();
        input.extend([9; 32]);
        assert_eq!(token, "a.b.c");
        key.public_key().verify(&input, &base64url_decode(proof).expect("base64url")).expect("signed");
    }
}
