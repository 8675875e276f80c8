//! Server nonces: fresh without a clock and without memory. A nonce is the server's time, 64 random
//! bits and a MAC over both and the purpose, so any node that has the secret can tell its own.

use aws_lc_rs::hmac;
use drawbridge_jose::{base64url_decode, base64url_encode};

use crate::refusal::Refusal;

/// How long a nonce is good, in seconds.
pub const NONCE_LIFE_S: u64 = 60;

const VERSION: u8 = 1;
/// Version, 4 bytes of time, 8 random bytes; then 16 bytes of the MAC.
const CLEAR_BYTES: usize = 13;
const MAC_BYTES: usize = 16;
const DAY_S: u64 = 86_400;

/// What a nonce is for; one made for one purpose is none for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoncePurpose {
    /// A client assertion, a key update or removal: the claim `nonce`.
    Assertion,
    /// A DPoP proof (RFC 9449 section 8).
    Dpop,
    /// The proof of an enrolment.
    Enrolment,
    /// A token by RFC 9431: `cnonce` of the hint (RFC 9200 section 5.3.1).
    Ace,
}

impl NoncePurpose {
    fn label(self) -> &'static [u8] {
        match self {
            Self::Assertion => b"assertion",
            Self::Dpop => b"dpop",
            Self::Enrolment => b"enrolment",
            Self::Ace => b"ace",
        }
    }
}

/// Makes and checks the nonces of one registry. Its key changes every day; the one of the day before is
/// accepted.
pub struct Nonces {
    secret: hmac::Key,
}

impl std::fmt::Debug for Nonces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Nonces")
    }
}

impl Nonces {
    /// Nonces from a secret that all nodes of a registry share.
    #[must_use]
    pub fn new(secret: &[u8; 32]) -> Self {
        Self { secret: hmac::Key::new(hmac::HMAC_SHA256, secret) }
    }

    /// A nonce, 39 characters of base64url.
    #[must_use]
    pub fn mint(&self, purpose: NoncePurpose, now_s: u64, random: [u8; 8]) -> String {
        let mut bytes = vec![VERSION];
        // 32 bits of seconds last until 2106; what is compared is a difference.
        bytes.extend_from_slice(&u32::try_from(now_s & u64::from(u32::MAX)).unwrap_or(0).to_be_bytes());
        bytes.extend_from_slice(&random);
        let mac = hmac::sign(&self.key_of(now_s / DAY_S), &message(&bytes, purpose));
        bytes.extend_from_slice(&mac.as_ref()[..MAC_BYTES]);
        base64url_encode(&bytes)
    }

    /// Judges a nonce; answers how many seconds old it is.
    ///
    /// # Errors
    /// [`Refusal::NonceStale`] for one that is not ours, for another purpose, or older than
    /// [`NONCE_LIFE_S`].
    pub fn check(&self, purpose: NoncePurpose, nonce: &str, now_s: u64) -> Result<u64, Refusal> {
        let stale = Refusal::NonceStale;
        let bytes = if nonce.len() <= 64 { base64url_decode(nonce).ok() } else { None };
        let bytes = bytes.filter(|bytes| bytes.len() == CLEAR_BYTES + MAC_BYTES && bytes[0] == VERSION);
        let Some(bytes) = bytes else { return Err(stale) };
        let (clear, mac) = bytes.split_at(CLEAR_BYTES);
        let at_s = u32::from_be_bytes([clear[1], clear[2], clear[3], clear[4]]);
        let now_low = u32::try_from(now_s & u64::from(u32::MAX)).unwrap_or(0);
        let age_s = u64::from(now_low.wrapping_sub(at_s));
        if age_s > NONCE_LIFE_S {
            return Err(stale);
        }
        let made_s = now_s.saturating_sub(age_s);
        let expected = hmac::sign(&self.key_of(made_s / DAY_S), &message(clear, purpose));
        let same = aws_lc_rs::constant_time::verify_slices_are_equal(&expected.as_ref()[..MAC_BYTES], mac);
        same.map(|()| age_s).map_err(|_| stale)
    }

    fn key_of(&self, day: u64) -> hmac::Key {
        let key = hmac::sign(&self.secret, &day.to_be_bytes());
        hmac::Key::new(hmac::HMAC_SHA256, key.as_ref())
    }
}

fn message(clear: &[u8], purpose: NoncePurpose) -> Vec<u8> {
    [clear, purpose.label()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_S: u64 = 1_795_301_000;

    #[test]
    fn a_nonce_is_good_for_its_life_its_purpose_and_its_secret_only() {
        let nonces = Nonces::new(&[7; 32]);
        let nonce = nonces.mint(NoncePurpose::Dpop, NOW_S, [1; 8]);
        assert_eq!(nonce.len(), 39);
        for (at_s, good) in [(NOW_S, true), (NOW_S + 60, true), (NOW_S + 61, false), (NOW_S - 1, false)] {
            assert_eq!(nonces.check(NoncePurpose::Dpop, &nonce, at_s).is_ok(), good, "{at_s}");
        }
        assert!(nonces.check(NoncePurpose::Assertion, &nonce, NOW_S).is_err());
        assert!(Nonces::new(&[8; 32]).check(NoncePurpose::Dpop, &nonce, NOW_S).is_err());
        assert_ne!(nonce, nonces.mint(NoncePurpose::Dpop, NOW_S, [2; 8]));
    }

    #[test]
    fn a_nonce_of_the_last_second_of_a_day_is_good_in_the_next() {
        let nonces = Nonces::new(&[7; 32]);
        let midnight_s = (NOW_S / DAY_S + 1) * DAY_S;
        let nonce = nonces.mint(NoncePurpose::Enrolment, midnight_s - 1, [1; 8]);
        assert_eq!(nonces.check(NoncePurpose::Enrolment, &nonce, midnight_s + 9), Ok(10));
    }

    #[test]
    fn no_changed_character_passes() {
        let nonces = Nonces::new(&[7; 32]);
        let nonce = nonces.mint(NoncePurpose::Dpop, NOW_S, [1; 8]);
        for at in 0..nonce.len() {
            let mut changed = nonce.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).expect("ASCII");
            assert!(changed == nonce || nonces.check(NoncePurpose::Dpop, &changed, NOW_S).is_err(), "{at}");
        }
        for odd in ["", "A", &"A".repeat(39), &"A".repeat(9999), "ä"] {
            assert_eq!(nonces.check(NoncePurpose::Dpop, odd, NOW_S), Err(Refusal::NonceStale));
        }
    }
}
