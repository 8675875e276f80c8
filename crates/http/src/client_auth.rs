//! How a client proves who it is at `/oauth`: exactly one way in each request.
//!
//! Source: RFC 6749 section 2.3, RFC 7523 section 2.2, RFC 8705 section 2.

use std::borrow::Cow;
use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use drawbridge_admission::{ClientCertificate, ClientCredential};
use drawbridge_identity::Refusal;
use zeroize::Zeroizing;

use crate::body::Params;
use crate::config::JWT_BYTES_MAX;
use crate::failure::Failure;

/// Source: RFC 7523 section 2.2.
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// Longest secret, in bytes. What is longer is nobody's.
const SECRET_BYTES_MAX: usize = 1024;

/// The client certificate of the connection that a request came over, if the client presented one.
pub(crate) struct FromTls(pub(crate) Option<Arc<ClientCertificate>>);

impl<S: Send + Sync> FromRequestParts<S> for FromTls {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self(parts.extensions.get().cloned()))
    }
}

/// The one credential of a request, still to be judged.
pub(crate) enum Credential<'a> {
    /// `private_key_jwt`.
    Assertion(&'a str),
    /// `client_secret_basic` or `client_secret_post`.
    Secret { client_id: Cow<'a, str>, secret: Zeroizing<String> },
    /// `tls_client_auth` or `self_signed_tls_client_auth`.
    Certificate { client_id: &'a str, certificate: &'a ClientCertificate },
}

impl Credential<'_> {
    /// For `drawbridge_admission`.
    pub(crate) fn get(&self) -> ClientCredential<'_> {
        match self {
            Self::Assertion(assertion) => ClientCredential::Assertion(assertion),
            Self::Secret { client_id, secret } => ClientCredential::Secret { client_id, secret },
            Self::Certificate { client_id, certificate } => {
                ClientCredential::Certificate { client_id, certificate }
            }
        }
    }
}

/// Finds the one credential of a request: a client assertion, a secret in `Authorization` or in the body,
/// or `client_id` in the body and the certificate of the connection. A certificate beside another
/// credential authenticates nobody; what it may do then is bind the token.
///
/// # Errors
/// 400 for more than one, or one that is not well formed; [`Refusal::NoCredential`] for none.
pub(crate) fn credential<'a>(
    params: &'a Params,
    headers: &'a HeaderMap,
    certificate: Option<&'a ClientCertificate>,
) -> Result<Credential<'a>, Failure> {
    let (kind, assertion) = (params.get("client_assertion_type"), params.get("client_assertion"));
    let posted = params.get("client_secret");
    let client_id = params.get("client_id");
    let by_header = headers.contains_key(AUTHORIZATION);
    let methods = [assertion.is_some() || kind.is_some(), posted.is_some(), by_header];
    if methods.into_iter().filter(|used| *used).count() > 1 {
        return Err(Failure::bad_request(
            "more than one way of client authentication; send one of them alone",
        ));
    }
    if by_header {
        return basic(headers);
    }
    if let Some(secret) = posted {
        let Some(client_id) = client_id else {
            return Err(Failure::bad_request("client_secret came without client_id; send both"));
        };
        let secret = Zeroizing::new(secret.to_owned());
        return judge_length(&secret)
            .map(|()| Credential::Secret { client_id: Cow::Borrowed(client_id), secret });
    }
    match (kind, assertion) {
        (Some(ASSERTION_TYPE), Some(assertion)) | (None, Some(assertion))
            if assertion.len() > JWT_BYTES_MAX =>
        {
            Err(Failure::bad_request(format!("client_assertion is longer than {JWT_BYTES_MAX} bytes")))
        }
        (Some(ASSERTION_TYPE), Some(assertion)) => Ok(Credential::Assertion(assertion)),
        (Some(ASSERTION_TYPE), None) => {
            Err(Failure::bad_request("client_assertion_type came without client_assertion; send both"))
        }
        (Some(_), _) => {
            Err(Failure::bad_request(format!("client_assertion_type is not known; wanted {ASSERTION_TYPE}")))
        }
        (None, Some(_)) => {
            Err(Failure::bad_request(format!("client_assertion_type is missing; wanted {ASSERTION_TYPE}")))
        }
        (None, None) => match (client_id, certificate) {
            (Some(client_id), Some(certificate)) => Ok(Credential::Certificate { client_id, certificate }),
            _ => Err(Refusal::NoCredential.into()),
        },
    }
}

/// `client_secret_basic`: both halves are form-encoded before they are joined, so that a `:` in the first
/// is none of ours.
///
/// Source: RFC 6749 section 2.3.1, RFC 7617 section 2.
fn basic(headers: &HeaderMap) -> Result<Credential<'_>, Failure> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err(Failure::bad_request("Authorization stands there twice; send it once"));
    };
    let parted = value.to_str().ok().and_then(|text| text.split_once(' '));
    // A scheme that is no client authentication is none at all: 401, as RFC 6749 section 5.2 has it.
    let Some((_, encoded)) = parted.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic")) else {
        return Err(Refusal::NoCredential.into());
    };
    let fault = || {
        Failure::bad_request(
            "Authorization is no Basic credential; wanted base64 of CLIENT_ID:SECRET, each form-encoded before",
        )
    };
    let bytes = Zeroizing::new(STANDARD.decode(encoded.trim()).map_err(|_| fault())?);
    let text = std::str::from_utf8(&bytes).map_err(|_| fault())?;
    let (client_id, secret) = text.split_once(':').ok_or_else(fault)?;
    let client_id = form_decoded(client_id).ok_or_else(fault)?;
    let secret = Zeroizing::new(form_decoded(secret).ok_or_else(fault)?);
    if client_id.is_empty() || secret.is_empty() {
        return Err(Refusal::NoCredential.into());
    }
    judge_length(&secret)?;
    Ok(Credential::Secret { client_id: Cow::Owned(client_id), secret })
}

fn judge_length(secret: &str) -> Result<(), Failure> {
    match secret.len() <= SECRET_BYTES_MAX {
        true => Ok(()),
        false => Err(Failure::bad_request(format!("the secret is longer than {SECRET_BYTES_MAX} bytes"))),
    }
}

/// One value of a form, decoded; `None`: its escapes are broken, or it is no text.
fn form_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut left = text.bytes();
    while let Some(byte) = left.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || left.next().and_then(|digit| char::from(digit).to_digit(16));
                let (high, low) = (digit()?, digit()?);
                u8::try_from(high * 16 + low).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn found(
        form: &str,
        authorization: Option<&str>,
        with_certificate: bool,
    ) -> Result<String, (u16, String)> {
        let params = Params::parse(form.as_bytes()).expect("a form");
        let mut headers = HeaderMap::new();
        if let Some(value) = authorization {
            headers.insert(AUTHORIZATION, HeaderValue::from_str(value).expect("a value"));
        }
        let certificate = ClientCertificate { chain_der: vec![vec![0x30]] };
        let found = credential(&params, &headers, with_certificate.then_some(&certificate));
        found
            .map(|found| match found {
                Credential::Assertion(text) => format!("assertion {text}"),
                Credential::Secret { client_id, secret } => format!("secret {client_id} {}", *secret),
                Credential::Certificate { client_id, .. } => format!("certificate {client_id}"),
            })
            .map_err(|failure| (failure.oauth.0.as_u16(), failure.detail.clone()))
    }

    fn basic_of(text: &str) -> String {
        format!("Basic {}", STANDARD.encode(text))
    }

    #[test]
    fn a_request_has_one_credential_in_one_of_the_ways_served() {
        let kind = format!("client_assertion_type={}", ASSERTION_TYPE.replace(':', "%3A"));
        let assertion = format!("{kind}&client_assertion=x");
        for (form, authorization, certificate, expected) in [
            (assertion.as_str(), None, false, "assertion x"),
            // The certificate of the connection is then for binding.
            (assertion.as_str(), None, true, "assertion x"),
            ("client_id=a&client_secret=s+%2B", None, false, "secret a s +"),
            ("client_id=a", Some(basic_of("a:s")), false, "secret a s"),
            ("", Some(basic_of("a%2541:x%3Ay+z:%25")), true, "secret a%41 x:y z:%"),
            ("", Some("bAsIc YTpz".to_owned()), false, "secret a s"),
            ("client_id=a", None, true, "certificate a"),
        ] {
            assert_eq!(found(form, authorization.as_deref(), certificate).as_deref(), Ok(expected), "{form}");
        }
    }

    #[test]
    fn two_ways_none_or_a_malformed_one_are_refused() {
        let kind = format!("client_assertion_type={}", ASSERTION_TYPE.replace(':', "%3A"));
        let assertion = format!("{kind}&client_assertion=x");
        let long = format!("client_id=a&client_secret={}", "x".repeat(SECRET_BYTES_MAX + 1));
        for (form, authorization, certificate, status, text) in [
            (format!("{assertion}&client_secret=s"), None, false, 400, "more than one"),
            (format!("{kind}&client_secret=s"), None, false, 400, "more than one"),
            (assertion.clone(), Some(basic_of("a:s")), false, 400, "more than one"),
            ("client_id=a&client_secret=s".into(), Some(basic_of("a:s")), false, 400, "more than one"),
            ("client_secret=s".into(), None, false, 400, "without client_id"),
            (long, None, false, 400, "longer than"),
            ("client_assertion=x".into(), None, false, 400, "missing"),
            (kind.clone(), None, false, 400, "without client_assertion"),
            ("client_assertion_type=saml&client_assertion=x".into(), None, false, 400, "not known"),
            (String::new(), None, false, 401, "no credential"),
            ("client_id=a".into(), None, false, 401, "no credential"),
            (String::new(), None, true, 401, "no credential"),
            (String::new(), Some("Bearer x".into()), false, 401, "no credential"),
            (String::new(), Some(basic_of("a:")), false, 401, "no credential"),
            (String::new(), Some(basic_of(":s")), false, 401, "no credential"),
            (String::new(), Some(basic_of("as")), false, 400, "no Basic"),
            (String::new(), Some(basic_of("a:%zz")), false, 400, "no Basic"),
            (String::new(), Some(basic_of("a:%")), false, 400, "no Basic"),
            (String::new(), Some(basic_of("a:%00")), false, 400, "no Basic"),
            (String::new(), Some(basic_of("a:%ff")), false, 400, "no Basic"),
            (String::new(), Some("Basic !".into()), false, 400, "no Basic"),
            (String::new(), Some(format!("Basic {}", STANDARD.encode(b"a:\xff"))), false, 400, "no Basic"),
        ] {
            let (found_status, detail) =
                found(&form, authorization.as_deref(), certificate).expect_err("refused");
            assert_eq!(found_status, status, "{form}: {detail}");
            assert!(detail.contains(text), "{form}: {detail}");
        }
    }
}
