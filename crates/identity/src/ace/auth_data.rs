//! The forms of authentication data, the user name of 3.1.1, and what a token looks like.

use std::borrow::Cow;

use drawbridge_jose::{base64url_decode, base64url_encode};

use super::METHOD;
use super::fault::AceFault;

/// Lengths that a proof can have: HS256; Ed25519 and ES256.
pub const POP_BYTES: [usize; 2] = [32, 64];

const NONCE_BYTES: usize = 8;
/// No token of any form is as short; so short a rest of a user name is a name.
const USER_NAME_TOKEN_CHARS_MIN: usize = 48;

/// What stands in the Authentication Data of a CONNECT, or of an AUTH 0x19.
///
/// Source: RFC 9431 section 2.2.4.2.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum ConnectData<'a> {
    /// Form 1: the token, and a proof over the TLS connection.
    Proof {
        /// The access token.
        token: &'a [u8],
        /// MAC or signature over the exporter value.
        pop: &'a [u8],
    },
    /// Form 2: the token alone; the broker is to send a nonce.
    Token {
        /// The access token.
        token: &'a [u8],
    },
    /// Form 3: nothing; the broker has a token of this client.
    Stored,
}

impl std::fmt::Debug for ConnectData<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Proof { .. } => "Proof",
            Self::Token { .. } => "Token",
            Self::Stored => "Stored",
        })
    }
}

impl<'a> ConnectData<'a> {
    /// Reads forms 1 to 3. The length of the token is 2 bytes, big endian as everywhere in MQTT; the proof is
    /// what is left and has no length.
    ///
    /// # Errors
    /// [`AceFault::Data`].
    pub fn parse(data: Option<&'a [u8]>) -> Result<Self, AceFault> {
        let Some(data) = data.filter(|data| !data.is_empty()) else { return Ok(Self::Stored) };
        let (length, rest) = data.split_first_chunk().ok_or(AceFault::Data("it ends within the length"))?;
        let length = usize::from(u16::from_be_bytes(*length));
        if length == 0 {
            return Err(AceFault::Data("the token is empty"));
        }
        let (token, pop) = rest.split_at_checked(length).ok_or(AceFault::Data("it ends within the token"))?;
        match pop.len() {
            0 => Ok(Self::Token { token }),
            length if POP_BYTES.contains(&length) => Ok(Self::Proof { token, pop }),
            _ => Err(AceFault::Data("the proof has neither 32 nor 64 bytes")),
        }
    }

    /// Writes forms 1 to 3; `None` for the last.
    ///
    /// # Errors
    /// [`AceFault::Data`] for a token that has no bytes or more than the length can say.
    pub fn to_bytes(self) -> Result<Option<Vec<u8>>, AceFault> {
        let (token, pop) = match self {
            Self::Stored => return Ok(None),
            Self::Token { token } => (token, &[][..]),
            Self::Proof { token, pop } => (token, pop),
        };
        let length = u16::try_from(token.len()).ok().filter(|length| *length > 0);
        let length = length.ok_or(AceFault::Data("the token has no bytes, or more than 65,535"))?;
        Ok(Some([&length.to_be_bytes(), token, pop].concat()))
    }
}

/// Form 5: the client's answer to the broker's nonce, in an AUTH 0x18.
///
/// Source: RFC 9431 section 2.2.4.2.2.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Answer<'a> {
    /// The client's own nonce.
    pub nonce: [u8; 8],
    /// MAC or signature over both nonces.
    pub pop: &'a [u8],
}

impl std::fmt::Debug for Answer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Answer")
    }
}

impl<'a> Answer<'a> {
    /// Reads form 5. Neither part has a length.
    ///
    /// # Errors
    /// [`AceFault::Data`].
    pub fn parse(data: &'a [u8]) -> Result<Self, AceFault> {
        let (nonce, pop) = data
            .split_first_chunk::<NONCE_BYTES>()
            .ok_or(AceFault::Data("the answer ends within the nonce of 8 bytes"))?;
        if !POP_BYTES.contains(&pop.len()) {
            return Err(AceFault::Data("the proof has neither 32 nor 64 bytes"));
        }
        Ok(Self { nonce: *nonce, pop })
    }

    /// Writes form 5.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        [&self.nonce[..], self.pop].concat()
    }
}

/// What a token looks like, from its first bytes; nothing is judged yet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum TokenForm<'a> {
    /// A compact JWS.
    Jwt(&'a str),
    /// A COSE message.
    Cwt(&'a [u8]),
    /// Something that only its issuer understands.
    Reference(&'a [u8]),
}

impl std::fmt::Debug for TokenForm<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Jwt(_) => "Jwt",
            Self::Cwt(_) => "Cwt",
            Self::Reference(_) => "Reference",
        })
    }
}

impl<'a> TokenForm<'a> {
    /// Tells the forms apart: two dots in text that begins as base64url of `{` does, or with `{`; the tags 18 and
    /// 61, or a CBOR array of 3 or 4; the rest is a reference.
    #[must_use]
    pub fn of(token: &'a [u8]) -> Self {
        match token {
            [0xd2, ..] | [0xd8, 0x3d, ..] | [0x83 | 0x84, ..] => Self::Cwt(token),
            [b'e' | b'{', ..] if token.iter().filter(|byte| **byte == b'.').count() == 2 => {
                std::str::from_utf8(token).map_or(Self::Reference(token), Self::Jwt)
            }
            _ => Self::Reference(token),
        }
    }
}

/// The token in the user name of a 3.1.1 CONNECT: `ace`, then base64url of the token. A JWT is also taken as it
/// is, which RFC 9431 does not allow for and which saves a third. `None` for a user name that is none of these:
/// there are people and devices whose names begin with `ace`.
///
/// Source: RFC 9431 section 6.1.
#[must_use]
pub fn token_of_user_name(user_name: &str) -> Option<Cow<'_, [u8]>> {
    let rest = user_name.strip_prefix(METHOD).filter(|rest| rest.len() >= USER_NAME_TOKEN_CHARS_MIN)?;
    if let TokenForm::Jwt(_) = TokenForm::of(rest.as_bytes()) {
        return Some(Cow::Borrowed(rest.as_bytes()));
    }
    let token = base64url_decode(rest).ok()?;
    let is_reference = || std::str::from_utf8(&token).is_ok_and(|text| text.starts_with("dbo_"));
    let is_token = !matches!(TokenForm::of(&token), TokenForm::Reference(_)) || is_reference();
    is_token.then_some(Cow::Owned(token))
}

/// The user name of a 3.1.1 CONNECT with this token, as the RFC has it: also a JWT is encoded.
///
/// Source: RFC 9431 section 6.1.
#[must_use]
pub fn user_name_of_token(token: &[u8]) -> String {
    format!("{METHOD}{}", base64url_encode(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_five_forms_are_read() {
        let pop = [7; 64];
        let proof = [&[0, 3][..], b"abc", &pop].concat();
        assert!(matches!(
            ConnectData::parse(Some(&proof)),
            Ok(ConnectData::Proof { token: b"abc", pop: found }) if found == pop
        ));
        assert_eq!(ConnectData::parse(Some(&proof[..5])), Ok(ConnectData::Token { token: b"abc" }));
        assert_eq!(ConnectData::parse(None), Ok(ConnectData::Stored));
        assert_eq!(ConnectData::parse(Some(b"")), Ok(ConnectData::Stored));
        for bad in [&proof[..1], &proof[..2], &proof[..4], &proof[..6], &proof[..38], &[0, 0], b"\0\0ab"] {
            assert!(matches!(ConnectData::parse(Some(bad)), Err(AceFault::Data(_))), "{bad:02x?}");
        }
        let answer = [&[1; 8][..], &[2; 32]].concat();
        assert_eq!(Answer::parse(&answer), Ok(Answer { nonce: [1; 8], pop: &[2; 32] }));
        for end in (0..40).chain([41, 71]) {
            let long = [answer.clone(), answer.clone()].concat();
            assert!(Answer::parse(&long[..end]).is_err(), "{end}");
        }
    }

    #[test]
    fn a_user_name_that_only_begins_like_a_token_is_a_name() {
        for name in ["ace", "acebook", "ace.of.spades", &format!("ace{}", "a".repeat(64)), "", "ac"] {
            assert_eq!(token_of_user_name(name), None, "{name}");
        }
        let jwt = format!("eyJhbGciOiJFUzI1NiJ9.{}.AAAA", "e30".repeat(12));
        assert_eq!(token_of_user_name(&format!("ace{jwt}")).as_deref(), Some(jwt.as_bytes()));
        assert_eq!(token_of_user_name(&user_name_of_token(jwt.as_bytes())).as_deref(), Some(jwt.as_bytes()));
        let cwt = [&[0xd2, 0x84][..], &[1; 80]].concat();
        assert_eq!(token_of_user_name(&user_name_of_token(&cwt)).as_deref(), Some(&cwt[..]));
        assert_eq!(token_of_user_name(&format!("{}=", user_name_of_token(&cwt))), None, "no padding");
    }
}
