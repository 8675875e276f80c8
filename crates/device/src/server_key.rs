//! Which broker a token is for: `rs_cnf` of its answer, compared with the key that the server shows in TLS.

use drawbridge_jose::{PublicKey, base64url_decode, base64url_encode, sha256};
use serde_json::Value;

use crate::DeviceError;

/// The key that a broker has to show, as the authorization server names it.
///
/// Source: RFC 9201 section 3.2, RFC 9431 sections 2.1 and 2.2.1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerKey {
    /// The key itself (`jwk`).
    Key(PublicKey),
    /// Its thumbprint of RFC 7638 (`kid`, `jkt`).
    Thumbprint(String),
    /// SHA-256 of the certificate (`x5t#S256`); a raw public key is none.
    Certificate([u8; 32]),
}

impl ServerKey {
    /// Reads `rs_cnf`.
    ///
    /// # Errors
    /// [`DeviceError::Protocol`] when it names no key, two, or one in a form that is not known here: it cannot be checked
    /// then, and a token for a server that cannot be checked is presented to nobody.
    pub fn from_json(rs_cnf: &Value) -> Result<Self, DeviceError> {
        let wrong = |what: &str| {
            DeviceError::Protocol(format!(
                "`rs_cnf` {what}; wanted one of `jwk`, `kid`, `jkt`, `x5t#S256`, to know the broker by"
            ))
        };
        let members = rs_cnf.as_object().ok_or_else(|| wrong("is no object"))?;
        let mut members = members.iter();
        let (Some((name, value)), None) = (members.next(), members.next()) else {
            return Err(wrong("names no key, or several"));
        };
        match (name.as_str(), value.as_str()) {
            ("jwk", None) => PublicKey::from_jwk(value.to_string().as_bytes())
                .map(Self::Key)
                .map_err(|e| wrong(&format!("has a key that cannot be read ({e})"))),
            ("kid" | "jkt", Some(thumbprint)) => Ok(Self::Thumbprint(thumbprint.to_owned())),
            ("x5t#S256", Some(digest)) => base64url_decode(digest)
                .ok()
                .and_then(|digest| digest.try_into().ok())
                .map(Self::Certificate)
                .ok_or_else(|| wrong("has an `x5t#S256` that is no SHA-256")),
            (other, _) => Err(wrong(&format!("has `{other}`"))),
        }
    }

    /// Compares it with what the server has shown: a certificate (DER), or the SubjectPublicKeyInfo of a raw key.
    ///
    /// # Errors
    /// [`DeviceError::OtherServer`] when it is another, or nothing was shown.
    pub fn judge(&self, shown: Option<&[u8]>) -> Result<(), DeviceError> {
        let key = shown.and_then(public_key_of);
        let is_it = match self {
            Self::Key(wanted) => key.as_ref().is_some_and(|key| key.spki_der() == wanted.spki_der()),
            Self::Thumbprint(wanted) => key.as_ref().is_some_and(|key| key.thumbprint() == wanted),
            Self::Certificate(wanted) => shown.is_some_and(|shown| sha256(shown) == *wanted),
        };
        if is_it {
            return Ok(());
        }
        Err(DeviceError::OtherServer {
            found: key.map_or_else(|| "none".to_owned(), |key| key.thumbprint().to_owned()),
            wanted: match self {
                Self::Key(key) => format!("the thumbprint {}", key.thumbprint()),
                Self::Thumbprint(thumbprint) => format!("the thumbprint {thumbprint}"),
                Self::Certificate(digest) => format!("a certificate of SHA-256 {}", base64url_encode(digest)),
            },
        })
    }
}

/// The key of a certificate, or of a raw public key.
pub(crate) fn public_key_of(shown: &[u8]) -> Option<PublicKey> {
    PublicKey::from_certificate_der(shown).or_else(|_| PublicKey::from_spki_der(shown)).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_server_is_the_one_of_rs_cnf_in_each_of_its_forms_and_no_other_is() {
        let made = |name: &str| rcgen::generate_simple_self_signed([name.to_owned()]).expect("made");
        let (own, other) = (made("core"), made("core"));
        let (own, other) = (own.cert.der().as_ref(), other.cert.der().as_ref());
        let key = public_key_of(own).expect("a key");
        let jwk: Value = serde_json::from_str(&key.to_jwk_json()).expect("JSON");
        for (form, raw_too) in [
            (json!({ "jwk": jwk }), true),
            (json!({ "kid": key.thumbprint() }), true),
            (json!({ "jkt": key.thumbprint() }), true),
            (json!({ "x5t#S256": base64url_encode(&sha256(own)) }), false),
        ] {
            let wanted = ServerKey::from_json(&form).expect("read");
            wanted.judge(Some(own)).expect("it is the one");
            assert_eq!(wanted.judge(Some(key.spki_der())).is_ok(), raw_too, "{form}: a raw key");
            for shown in [Some(other), Some(&b"nothing"[..]), None] {
                let refused = wanted.judge(shown).expect_err("it is not");
                assert!(matches!(refused, DeviceError::OtherServer { .. }), "{refused}");
            }
        }
    }

    #[test]
    fn a_form_that_cannot_be_checked_is_refused() {
        for form in [
            json!(null),
            json!("kid"),
            json!({}),
            json!({ "jwk": { "kty": "oct", "k": "AAAA" } }),
            json!({ "jwe": "a..b.c.d" }),
            json!({ "kid": 7 }),
            json!({ "x5t#S256": "AAAA" }),
            json!({ "kid": "a", "jkt": "a" }),
        ] {
            assert!(matches!(ServerKey::from_json(&form), Err(DeviceError::Protocol(_))), "{form}");
        }
    }
}
