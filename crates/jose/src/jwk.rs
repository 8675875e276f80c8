//! One public JWK, read and written (RFC 7517, RFC 7518 section 6, RFC 8037 section 2).

use alloc::{format, string::String, vec::Vec};

use crate::{
    Algorithm, KeyError,
    base64url::{base64url_decode, base64url_encode},
    json::{Json, Members, parse_object},
    spki::{EcCurve, Material},
};

/// An RSA key of 4096 bits takes about 800 bytes, the rest is room for `kid` and labels.
const JWK_BYTES_MAX: usize = 8 * 1024;

/// Members that only private and symmetric keys have.
const PRIVATE_MEMBERS: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

pub(crate) fn parse(bytes: &[u8]) -> Result<(Material, Algorithm), KeyError> {
    if bytes.len() > JWK_BYTES_MAX {
        return Err(KeyError::TooLarge { found_bytes: bytes.len(), bytes_max: JWK_BYTES_MAX });
    }
    from_members(&parse_object(bytes).map_err(KeyError::Json)?)
}

/// Unknown members are ignored, those that say what the key is for are obeyed.
pub(crate) fn from_members(members: &Members) -> Result<(Material, Algorithm), KeyError> {
    if members.iter().any(|(name, _)| PRIVATE_MEMBERS.contains(&name.as_str())) {
        return Err(KeyError::PrivateKey);
    }
    let jwk = Jwk { members };
    jwk.check_use()?;
    let material = match jwk.text("kty")? {
        Some("EC") => jwk.ec()?,
        Some("OKP") if jwk.text("crv")? == Some("Ed25519") => Material::ed25519(&jwk.bytes("x")?)?,
        Some("RSA") => Material::rsa(&jwk.unsigned("n")?, &jwk.unsigned("e")?)?,
        _ => return Err(KeyError::KeyType),
    };
    let algorithm = match jwk.text("alg")? {
        None => material.algorithm(),
        Some(alg) => Algorithm::from_header(alg)
            .filter(|algorithm| material.allows(*algorithm))
            .ok_or(KeyError::Algorithm)?,
    };
    Ok((material, algorithm))
}

/// The required members in lexical order, without white space: what RFC 7638 hashes.
pub(crate) fn required_members(material: &Material) -> String {
    let b64 = base64url_encode;
    match material {
        Material::Ec { curve, x, y } => {
            format!(r#"{{"crv":"{}","kty":"EC","x":"{}","y":"{}"}}"#, name(*curve), b64(x), b64(y))
        }
        Material::Ed25519 { x } => format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, b64(x)),
        Material::Rsa { n, e } => format!(r#"{{"e":"{}","kty":"RSA","n":"{}"}}"#, b64(e), b64(n)),
    }
}

fn name(curve: EcCurve) -> &'static str {
    match curve {
        EcCurve::P256 => "P-256",
        EcCurve::P384 => "P-384",
    }
}

struct Jwk<'a> {
    members: &'a Members,
}

impl Jwk<'_> {
    fn member(&self, name: &str) -> Option<&Json> {
        self.members.iter().find(|(found, _)| found == name).map(|(_, value)| value)
    }

    fn text(&self, name: &'static str) -> Result<Option<&str>, KeyError> {
        match self.member(name) {
            None => Ok(None),
            Some(Json::Text(text)) => Ok(Some(text)),
            Some(_) => Err(KeyError::JwkMember { name }),
        }
    }

    fn bytes(&self, name: &'static str) -> Result<Vec<u8>, KeyError> {
        self.text(name)?.and_then(|text| base64url_decode(text).ok()).ok_or(KeyError::JwkMember { name })
    }

    /// Base64urlUInt: as few bytes as the number needs (RFC 7518 section 2).
    fn unsigned(&self, name: &'static str) -> Result<Vec<u8>, KeyError> {
        let bytes = self.bytes(name)?;
        if bytes.first().is_none_or(|first| *first == 0) {
            Err(KeyError::JwkMember { name })
        } else {
            Ok(bytes)
        }
    }

    fn ec(&self) -> Result<Material, KeyError> {
        let curve = match self.text("crv")? {
            Some("P-256") => EcCurve::P256,
            Some("P-384") => EcCurve::P384,
            _ => return Err(KeyError::Curve),
        };
        let (x, y) = (self.bytes("x")?, self.bytes("y")?);
        for (name, coordinate) in [("x", &x), ("y", &y)] {
            if coordinate.len() != curve.coordinate_bytes() {
                return Err(KeyError::JwkMember { name });
            }
        }
        Material::ec(curve, &x, &y)
    }

    /// `use` and `key_ops`, where given, must allow checking signatures (RFC 7517 section 4.2, 4.3).
    fn check_use(&self) -> Result<(), KeyError> {
        if self.text("use")?.is_some_and(|purpose| purpose != "sig") {
            return Err(KeyError::Purpose);
        }
        let Some(operations) = self.member("key_ops") else { return Ok(()) };
        let Json::List(operations) = operations else { return Err(KeyError::JwkMember { name: "key_ops" }) };
        let mut may_verify = false;
        for operation in operations {
            match operation {
                // Once only: the values of `key_ops` are unique.
                Json::Text(text) if text == "verify" && !may_verify => may_verify = true,
                Json::Text(text) if text != "verify" => {}
                _ => return Err(KeyError::JwkMember { name: "key_ops" }),
            }
        }
        if may_verify { Ok(()) } else { Err(KeyError::Purpose) }
    }
}
