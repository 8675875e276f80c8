//! The compact serialisation: parsed, verified, signed.

use alloc::{string::String, vec::Vec};
use core::fmt;

use crate::{
    Algorithm, BadSignature, Claims, JsonError, KeyError, PublicKey, Sign, SignError, Verify,
    base64url::{base64url_encode, decode_segment},
    ecdsa,
    json::{Json, Members, parse_object},
    jwk,
};

/// What a token may be before anything in it is believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ParseOptions {
    /// Bytes of the whole token, as received. Default 4096.
    pub token_bytes_max: usize,
    /// Bytes of the header, decoded (the JSON text). Default 1024.
    pub header_bytes_max: usize,
    /// Whether `=` may stand at the end of a segment. Default [`Padding::Refused`].
    pub padding: Padding,
    /// Whether the header may carry a public key as `jwk`: only for DPoP, proofs of possession and
    /// enrolment, where something already verified says which key it must be. Default `false`.
    pub embedded_jwk: bool,
}

/// What to do with `=` at the end of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Padding {
    /// Refused, as RFC 7515 section 2 wants it.
    Refused,
    /// The right number of `=`, or none, at the end of each segment. The signature is checked over the
    /// exact bytes received. Only for a device's CONNECT JWT: a C SDK in the field sends it.
    Tolerated,
}

impl Default for ParseOptions {
    fn default() -> Self {
        Self { token_bytes_max: 4096, header_bytes_max: 1024, padding: Padding::Refused, embedded_jwk: false }
    }
}

/// A part of a compact JWS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Segment {
    /// The first.
    Header,
    /// The second.
    Payload,
    /// The third.
    Signature,
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Header => "header",
            Self::Payload => "payload",
            Self::Signature => "signature",
        })
    }
}

/// Why a token was refused. No text repeats what the token says.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum JwsError {
    /// The token is longer than the limit.
    #[error("the token has {found_bytes} bytes, at most {bytes_max} are read; put less into it")]
    TokenTooLarge {
        /// Bytes received.
        found_bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// Not three segments; five are a JWE.
    #[error("the token has {found} segments, a signed token has 3 (header.payload.signature)")]
    Segments {
        /// Segments found.
        found: usize,
    },
    /// The header is longer than the limit.
    #[error("the header has more than {bytes_max} bytes; leave out what is not needed")]
    HeaderTooLarge {
        /// The limit, in bytes of the decoded header.
        bytes_max: usize,
    },
    /// `=` where it is not wanted.
    #[error("the {segment} ends in `=`; base64url in tokens has no padding (RFC 7515 section 2)")]
    Padding {
        /// Where.
        segment: Segment,
    },
    /// Not canonical base64url.
    #[error("the {segment} is not canonical base64url; see RFC 7515 section 2")]
    Base64 {
        /// Where.
        segment: Segment,
    },
    /// Not strict JSON.
    #[error("the {segment} was not read: {why}")]
    Json {
        /// Where.
        segment: Segment,
        /// Which rule is broken.
        why: JsonError,
    },
    /// A known member of the header is missing or has the wrong type.
    #[error("header member `{name}` is missing or no string; send it as a string")]
    HeaderMemberType {
        /// Name of the member.
        name: &'static str,
    },
    /// A member that would move the source of the key, switch on an extension, or belongs to JWE.
    #[error("header member `{name}` is refused here; leave it out")]
    HeaderMemberRefused {
        /// Name of the member.
        name: &'static str,
    },
    /// A member of the header that is an array or an object.
    #[error("a header member is an array or an object; use plain values only")]
    HeaderNested,
    /// `alg` is not one of ours: `none`, HMAC, another case, anything else.
    #[error("the algorithm in the header is not allowed; sign with ES256, ES384, EdDSA, RS256 or PS256")]
    AlgorithmRefused,
    /// `alg` is not the one of the key.
    #[error("the header says {header}, the key is for {key}; sign with the algorithm of the registered key")]
    AlgorithmMismatch {
        /// From the header.
        header: Algorithm,
        /// From the key.
        key: Algorithm,
    },
    /// The `jwk` of a proof is not a good public key.
    #[error("the key in the header was refused: {0}")]
    EmbeddedKey(KeyError),
    /// The signature has the wrong length for its algorithm, as one in ASN.1 DER has.
    #[error("the signature has {found} bytes, {wanted} are wanted; send r||s, not ASN.1 DER")]
    SignatureLength {
        /// Bytes found.
        found: usize,
        /// Bytes wanted.
        wanted: usize,
    },
    /// r or s of an ECDSA signature is 0 or not below the order of the curve.
    #[error("r or s of the signature is out of range; sign again with a sound library")]
    SignatureRange,
    /// Not one ECDSA signature in minimal DER.
    #[error(
        "the signature is not one ECDSA signature in minimal ASN.1 DER; send exactly SEQUENCE {{ r, s }}"
    )]
    SignatureEncoding,
    /// The signature does not verify.
    #[error(transparent)]
    Signature(#[from] BadSignature),
}

/// A token that was parsed and is **not verified**: nothing in it may be believed. Its `alg` is one of
/// ours, its header is strict, its segments are canonical.
///
/// Source: RFC 7515 sections 3.1 and 5.2.
#[derive(Clone, Debug)]
pub struct Jws<'a> {
    signing_input: &'a [u8],
    header: ParsedHeader,
    payload: Vec<u8>,
    // Read once, before the signature is checked: whose key to ask for stands in here.
    claims: Result<Claims, JsonError>,
    signature: Vec<u8>,
}

#[derive(Clone, Debug)]
struct ParsedHeader {
    algorithm: Algorithm,
    typ: Option<String>,
    kid: Option<String>,
    jwk: Option<PublicKey>,
}

impl<'a> Jws<'a> {
    /// Reads a token within the limits of `options`.
    ///
    /// # Errors
    /// [`JwsError`] for everything that is wrong without knowing the key.
    pub fn parse(token: &'a [u8], options: &ParseOptions) -> Result<Self, JwsError> {
        if token.len() > options.token_bytes_max {
            return Err(JwsError::TokenTooLarge {
                found_bytes: token.len(),
                bytes_max: options.token_bytes_max,
            });
        }
        // Counted before anything is cut or decoded: a thousand dots cost one pass (CVE-2025-30204).
        let found = 1 + token.iter().filter(|byte| **byte == b'.').count();
        let mut segments = token.splitn(3, |byte| *byte == b'.');
        let (Some(header), Some(payload), Some(signature), 3) =
            (segments.next(), segments.next(), segments.next(), found)
        else {
            return Err(JwsError::Segments { found });
        };
        if header.len() / 4 * 3 > options.header_bytes_max + 2 {
            return Err(JwsError::HeaderTooLarge { bytes_max: options.header_bytes_max });
        }
        let signing_input = &token[..header.len() + 1 + payload.len()];
        let header = decode(header, Segment::Header, options.padding)?;
        if header.len() > options.header_bytes_max {
            return Err(JwsError::HeaderTooLarge { bytes_max: options.header_bytes_max });
        }
        let header = ParsedHeader::read(&header, options.embedded_jwk)?;
        let payload = decode(payload, Segment::Payload, options.padding)?;
        let signature = decode(signature, Segment::Signature, options.padding)?;
        if let Some(wanted) = header.algorithm.signature_bytes().filter(|wanted| *wanted != signature.len()) {
            return Err(JwsError::SignatureLength { found: signature.len(), wanted });
        }
        ecdsa::check_range(&signature, header.algorithm)?;
        Ok(Self { signing_input, header, claims: Claims::from_json(&payload), payload, signature })
    }

    /// `alg` of the header: what the sender claims, to be compared with the key.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.header.algorithm
    }

    /// `typ` of the header, not verified.
    #[must_use]
    pub fn typ(&self) -> Option<&str> {
        self.header.typ.as_deref()
    }

    /// `kid` of the header, not verified: hostile text, good only to look up a registered key.
    #[must_use]
    pub fn kid(&self) -> Option<&str> {
        self.header.kid.as_deref()
    }

    /// The key in the header, where [`ParseOptions::embedded_jwk`] allows one. Not verified: whoever
    /// sends the token chose it.
    #[must_use]
    pub fn jwk(&self) -> Option<&PublicKey> {
        self.header.jwk.as_ref()
    }

    /// The claims **before** any signature was checked: to find out whose key to ask for, nothing else.
    ///
    /// # Errors
    /// [`JwsError::Json`] when the payload is not a strict JSON object.
    pub fn unverified_claims(&self) -> Result<Claims, JwsError> {
        claims(&self.claims)
    }

    /// Checks the signature over the bytes as received. Several keys may be tried in turn.
    ///
    /// # Errors
    /// [`JwsError::AlgorithmMismatch`] when the header names another algorithm than the key has,
    /// [`JwsError::Signature`] when the signature does not verify.
    pub fn verify(&self, key: &dyn Verify) -> Result<Verified, JwsError> {
        if key.algorithm() != self.header.algorithm {
            return Err(JwsError::AlgorithmMismatch { header: self.header.algorithm, key: key.algorithm() });
        }
        key.verify(self.signing_input, &self.signature)?;
        Ok(Verified {
            header: self.header.clone(),
            payload: self.payload.clone(),
            claims: self.claims.clone(),
        })
    }
}

/// A token whose signature was checked with the key given to [`Jws::verify`]. Whether the claims are
/// acceptable is for the caller to judge.
#[derive(Clone, Debug)]
pub struct Verified {
    header: ParsedHeader,
    payload: Vec<u8>,
    claims: Result<Claims, JsonError>,
}

impl Verified {
    /// `alg` of the header, equal to that of the key.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.header.algorithm
    }

    /// `typ` of the header.
    #[must_use]
    pub fn typ(&self) -> Option<&str> {
        self.header.typ.as_deref()
    }

    /// `kid` of the header.
    #[must_use]
    pub fn kid(&self) -> Option<&str> {
        self.header.kid.as_deref()
    }

    /// The key in the header, where [`ParseOptions::embedded_jwk`] allowed one. It is the key that was
    /// used only if the caller used it.
    #[must_use]
    pub fn jwk(&self) -> Option<&PublicKey> {
        self.header.jwk.as_ref()
    }

    /// The claims.
    ///
    /// # Errors
    /// [`JwsError::Json`] when the payload is not a strict JSON object.
    pub fn claims(&self) -> Result<Claims, JwsError> {
        claims(&self.claims)
    }

    /// The payload, decoded.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }
}

/// What the header of a new token says besides `alg`, which comes from the key.
#[derive(Clone, Copy, Default, Debug)]
pub struct Header<'a> {
    /// The kind of token, for instance `at+jwt`.
    pub typ: Option<&'a str>,
    /// Which key signs.
    pub kid: Option<&'a str>,
    /// The public key itself, for proofs of possession.
    pub jwk: Option<&'a PublicKey>,
}

/// Signs `payload` and gives the compact serialisation.
///
/// Source: RFC 7515 section 5.1.
///
/// # Errors
/// [`SignError`] when the primitive fails or answers in another form than JOSE's.
pub fn sign_compact(header: &Header<'_>, payload: &[u8], key: &dyn Sign) -> Result<String, SignError> {
    let algorithm = key.algorithm();
    let mut token = base64url_encode(header_json(header, algorithm).as_bytes());
    token.push('.');
    token.push_str(&base64url_encode(payload));
    let signature = key.sign(token.as_bytes())?;
    if let Some(wanted) = algorithm.signature_bytes().filter(|wanted| *wanted != signature.len()) {
        return Err(SignError::Length { algorithm, found: signature.len(), wanted });
    }
    token.push('.');
    token.push_str(&base64url_encode(&signature));
    Ok(token)
}

fn header_json(header: &Header<'_>, algorithm: Algorithm) -> String {
    let mut json = String::from(r#"{"alg":""#);
    json.push_str(algorithm.header_name());
    json.push('"');
    for (name, value) in [("typ", header.typ), ("kid", header.kid)] {
        if let Some(value) = value {
            json.push_str(",\"");
            json.push_str(name);
            json.push_str("\":");
            json.push_str(&serde_json::to_string(value).expect("a text is always JSON"));
        }
    }
    if let Some(key) = header.jwk {
        json.push_str(",\"jwk\":");
        json.push_str(&key.to_jwk_json());
    }
    json.push('}');
    json
}

/// Members whose mere presence is refused: extensions (RFC 7515 section 4.1.11, RFC 7797), places to
/// fetch a key from, keys, and what only encrypted tokens have (RFC 7516, RFC 7518 section 4).
const REFUSED_MEMBERS: [&str; 16] = [
    "crit", "b64", "jku", "jwks_uri", "x5u", "x5c", "enc", "zip", "epk", "apu", "apv", "iv", "tag", "p2s",
    "p2c", "ek",
];

impl ParsedHeader {
    fn read(json: &[u8], embedded_jwk: bool) -> Result<Self, JwsError> {
        let members = parse_object(json).map_err(|why| JwsError::Json { segment: Segment::Header, why })?;
        for (name, value) in &members {
            if let Some(name) = REFUSED_MEMBERS.into_iter().find(|refused| refused == name) {
                return Err(JwsError::HeaderMemberRefused { name });
            }
            match name.as_str() {
                "alg" | "typ" | "kid" => {}
                "jwk" if embedded_jwk => {}
                "jwk" => return Err(JwsError::HeaderMemberRefused { name: "jwk" }),
                _ if value.is_scalar() => {}
                _ => return Err(JwsError::HeaderNested),
            }
        }
        let alg = text(&members, "alg")?.ok_or(JwsError::HeaderMemberType { name: "alg" })?;
        let algorithm = Algorithm::from_header(alg).ok_or(JwsError::AlgorithmRefused)?;
        Ok(Self {
            algorithm,
            typ: text(&members, "typ")?.map(String::from),
            kid: text(&members, "kid")?.map(String::from),
            jwk: match member(&members, "jwk") {
                None => None,
                Some(Json::Object(jwk)) => Some(read_jwk(jwk, algorithm).map_err(JwsError::EmbeddedKey)?),
                Some(_) => return Err(JwsError::HeaderMemberType { name: "jwk" }),
            },
        })
    }
}

/// An RSA key that does not say for which of its two algorithms it is, is for the one it signed with: the
/// sender of this token chose both, and what was registered before is not touched by it.
fn read_jwk(members: &Members, header: Algorithm) -> Result<PublicKey, KeyError> {
    let (material, algorithm) = jwk::from_members(members)?;
    let is_free = member(members, "alg").is_none() && material.allows(header);
    PublicKey::new(material, if is_free { header } else { algorithm })
}

fn member<'m>(members: &'m Members, name: &str) -> Option<&'m Json> {
    members.iter().find(|(found, _)| found == name).map(|(_, value)| value)
}

fn text<'m>(members: &'m Members, name: &'static str) -> Result<Option<&'m str>, JwsError> {
    match member(members, name) {
        None => Ok(None),
        Some(Json::Text(text)) => Ok(Some(text)),
        Some(_) => Err(JwsError::HeaderMemberType { name }),
    }
}

fn claims(read: &Result<Claims, JsonError>) -> Result<Claims, JwsError> {
    read.clone().map_err(|why| JwsError::Json { segment: Segment::Payload, why })
}

fn decode(segment: &[u8], name: Segment, padding: Padding) -> Result<Vec<u8>, JwsError> {
    let padded = segment.ends_with(b"=");
    let stripped = match padding {
        Padding::Refused if padded => return Err(JwsError::Padding { segment: name }),
        Padding::Tolerated if padded && segment.len().is_multiple_of(4) => {
            let once = &segment[..segment.len() - 1];
            once.strip_suffix(b"=").unwrap_or(once)
        }
        _ => segment,
    };
    decode_segment(stripped).map_err(|_| JwsError::Base64 { segment: name })
}
