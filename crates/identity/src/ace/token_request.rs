//! Requests to the token endpoint, and its answers, as JSON and as CBOR.

use std::collections::BTreeMap;

use coset::cbor::Value;
use drawbridge_jose::{Claims, PublicKey, base64url_decode, base64url_encode};
use drawbridge_names::KeyId;
use serde_json::{Map, Value as Json, json};

use super::aif::{scope_from_cbor, scope_to_cbor};
use super::cbor::{self, Members, byte_string};
use super::cose_key::{public_key, public_key_value, symmetric_key_value};
use super::fault::AceFault;
use super::sealed::SymmetricKey;
use super::{PROFILE, PROFILE_CBOR};

/// Source: RFC 9200 section 5.8.5 (figure 12), RFC 9201 section 7.
const ACCESS_TOKEN: i64 = 1;
const EXPIRES_IN: i64 = 2;
const REQ_CNF: i64 = 4;
const AUDIENCE: i64 = 5;
const CNF: i64 = 8;
const SCOPE: i64 = 9;
const CLIENT_ID: i64 = 24;
const CLIENT_SECRET: i64 = 25;
const ERROR: i64 = 30;
const ERROR_DESCRIPTION: i64 = 31;
const GRANT_TYPE: i64 = 33;
const TOKEN_TYPE: i64 = 34;
const ACE_PROFILE: i64 = 38;
const CNONCE: i64 = 39;
const RS_CNF: i64 = 41;

/// `client_credentials` and the token type `PoP`.
const CLIENT_CREDENTIALS: i64 = 2;
const POP: i64 = 2;

/// Longest `cnonce`, in bytes: ours have 29.
const CNONCE_BYTES_MAX: usize = 64;

/// Parameters that are texts in both forms. Those of RFC 7523 have no number in CBOR, so they have their names.
const TEXTS: [(&str, Option<i64>); 6] = [
    ("audience", Some(AUDIENCE)),
    ("client_id", Some(CLIENT_ID)),
    ("client_secret", Some(CLIENT_SECRET)),
    ("resource", None),
    ("client_assertion", None),
    ("client_assertion_type", None),
];

/// The key that a client wants its token bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestedKey {
    /// By value.
    Key(PublicKey),
    /// A registered one, by its thumbprint.
    KeyId(KeyId),
}

/// What a client said of `ace_profile`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestedProfile {
    /// It names this one.
    MqttTls,
    /// It asks which one: an empty text, null in CBOR. The answer must say it.
    Unknown,
}

/// A request to the token endpoint.
#[derive(Clone, Default)]
pub struct AceRequest {
    /// The parameters that a form would have as well, `grant_type` among them, which is `client_credentials`
    /// unless it was sent. `scope` is base64url of AIF-MQTT in JSON.
    pub params: BTreeMap<String, String>,
    /// `req_cnf`; `None`: the server makes a symmetric key.
    pub requested_key: Option<RequestedKey>,
    /// `ace_profile`.
    pub profile: Option<RequestedProfile>,
    /// `cnonce`, base64url.
    pub cnonce: Option<String>,
}

impl std::fmt::Debug for AceRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Values may be secrets.
        f.debug_struct("AceRequest").field("params", &self.params.keys()).finish_non_exhaustive()
    }
}

impl AceRequest {
    /// Reads `application/ace+json`. Members that are not known are ignored, as RFC 6749 section 3.2 wants it;
    /// one named twice is refused.
    ///
    /// # Errors
    /// [`AceFault`]: [`AceFault::Key`] for a key that cannot be one, [`AceFault::Profile`].
    ///
    /// Source: RFC 9200 section 5.8.1, RFC 9201 section 3.1.
    pub fn from_json(body: &[u8]) -> Result<Self, AceFault> {
        let malformed =
            |name: &str| AceFault::Format(format!("`{name}` is of the wrong type, or no value of it"));
        let body = Claims::from_json(body).map_err(|error| AceFault::Format(format!("the body: {error}")))?;
        let mut request = Self::default();
        let text = |name: &'static str| body.text(name).map_err(|_| malformed(name));
        for name in TEXTS.iter().map(|(name, _)| *name).chain(["grant_type", "scope"]) {
            if let Some(value) = text(name)? {
                request.keep(name, value.to_owned());
            }
        }
        if body.contains("req_cnf") {
            let cnf = body.object("req_cnf").ok().flatten().ok_or_else(|| malformed("req_cnf"))?;
            request.requested_key = Some(requested_key(&cnf)?);
        }
        request.profile = match text("ace_profile")? {
            None => None,
            Some("") => Some(RequestedProfile::Unknown),
            Some(PROFILE) => Some(RequestedProfile::MqttTls),
            Some(_) => return Err(AceFault::Profile),
        };
        request.cnonce = match text("cnonce")? {
            None => None,
            Some(nonce) => {
                let bytes = base64url_decode(nonce).map_err(|_| malformed("cnonce"))?;
                Some(judge_cnonce(&bytes)?)
            }
        };
        request.finish()
    }

    /// Reads `application/ace+cbor`. Strict throughout: a member that is not known is refused.
    ///
    /// # Errors
    /// As [`Self::from_json`].
    ///
    /// Source: RFC 9200 sections 5.8.1 and 5.8.5, RFC 9201 sections 3.1 and 7.
    pub fn from_cbor(body: &[u8]) -> Result<Self, AceFault> {
        let malformed =
            |name: &str| AceFault::Format(format!("`{name}` is of the wrong type, or no value of it"));
        let mut members = Members::of(cbor::read(body)?, "the body")?;
        let mut request = Self::default();
        for (name, label) in TEXTS {
            let value = match label {
                Some(label) => members.take(label),
                None => members.take_named(name),
            };
            match value {
                None => {}
                Some(Value::Text(text)) => request.keep(name, text),
                // RFC 9200 has client secrets as byte strings.
                Some(Value::Bytes(bytes)) if label == Some(CLIENT_SECRET) => {
                    request.keep(name, String::from_utf8(bytes).map_err(|_| malformed(name))?);
                }
                Some(_) => return Err(malformed(name)),
            }
        }
        match members.take(SCOPE) {
            None => {}
            Some(Value::Bytes(aif)) => request.keep("scope", scope_from_cbor(&aif)?),
            Some(Value::Text(text)) => request.keep("scope", text),
            Some(_) => return Err(malformed("scope")),
        }
        match members.take(GRANT_TYPE) {
            None => {}
            Some(value) if value == Value::from(CLIENT_CREDENTIALS) => {}
            // Named by its number, so that the refusal is that of the grant and not of the form.
            Some(Value::Integer(_)) => request.keep("grant_type", "another".to_owned()),
            Some(_) => return Err(malformed("grant_type")),
        }
        if let Some(cnf) = members.take(REQ_CNF) {
            let mut cnf = Members::of(cnf, "`req_cnf`")?;
            request.requested_key = Some(match (cnf.take(1), cnf.take(3)) {
                (Some(key), None) => RequestedKey::Key(public_key(key)?),
                (None, Some(kid)) => {
                    RequestedKey::KeyId(key_id(&base64url_encode(&byte_string(kid, "`kid`")?))?)
                }
                _ => return Err(AceFault::Key("`req_cnf` names none, or two".to_owned())),
            });
            cnf.finish("`req_cnf`")?;
        }
        request.profile = match members.take(ACE_PROFILE) {
            None => None,
            Some(Value::Null) => Some(RequestedProfile::Unknown),
            Some(value) if value == Value::from(PROFILE_CBOR) => Some(RequestedProfile::MqttTls),
            Some(Value::Integer(_)) => return Err(AceFault::Profile),
            Some(_) => return Err(malformed("ace_profile")),
        };
        request.cnonce = match members.take(CNONCE) {
            None => None,
            Some(value) => Some(judge_cnonce(&byte_string(value, "`cnonce`")?)?),
        };
        members.finish("the body")?;
        request.finish()
    }

    fn keep(&mut self, name: &str, value: String) {
        // An empty one counts as absent (RFC 6749 section 3.2).
        if !value.is_empty() {
            self.params.insert(name.to_owned(), value);
        }
    }

    fn finish(mut self) -> Result<Self, AceFault> {
        if self.params.values().any(|value| value.contains('\0')) {
            return Err(AceFault::Format("a text holds U+0000".to_owned()));
        }
        self.params.entry("grant_type".to_owned()).or_insert_with(|| "client_credentials".to_owned());
        Ok(self)
    }
}

/// Source: RFC 7800 sections 3.2 and 3.4.
fn requested_key(cnf: &Claims) -> Result<RequestedKey, AceFault> {
    let names: Vec<&str> = cnf.names().collect();
    match names[..] {
        ["jwk"] => {
            let jwk = cnf.object_json("jwk").ok_or_else(|| AceFault::Key("`jwk` is no object".to_owned()))?;
            let key = PublicKey::from_jwk(jwk.as_bytes());
            key.map(RequestedKey::Key).map_err(|error| AceFault::Key(error.to_string()))
        }
        ["kid"] => key_id(cnf.text("kid").ok().flatten().unwrap_or_default()).map(RequestedKey::KeyId),
        _ => {
            Err(AceFault::Key("`req_cnf` names none in a form known here (`jwk`, `kid`), or two".to_owned()))
        }
    }
}

fn key_id(text: &str) -> Result<KeyId, AceFault> {
    KeyId::parse(text).map_err(|_| AceFault::Key("`kid` is no thumbprint by RFC 7638".to_owned()))
}

fn judge_cnonce(bytes: &[u8]) -> Result<String, AceFault> {
    match bytes.len() {
        1..=CNONCE_BYTES_MAX => Ok(base64url_encode(bytes)),
        _ => Err(AceFault::Format(format!("`cnonce` has none, or more than {CNONCE_BYTES_MAX} bytes"))),
    }
}

/// A token, told.
#[derive(Clone, Copy)]
pub struct AceAnswer<'a> {
    /// The token: text of a JWT or opaque one, bytes of a CWT.
    pub access_token: &'a [u8],
    /// How long it is good, in seconds.
    pub expires_in_s: u64,
    /// Its `scope`, as in a JWT.
    pub scope: Option<&'a str>,
    /// The profile is to be said.
    pub with_profile: bool,
    /// The symmetric key that the server has made for the client.
    pub symmetric: Option<&'a SymmetricKey>,
    /// `rs_cnf`: the public key that the broker authenticates with. Not beside a symmetric key (RFC 9201
    /// section 3.2).
    pub broker_key: Option<&'a PublicKey>,
}

impl AceAnswer<'_> {
    /// As `application/ace+json`. A token that is no text is base64url of its bytes.
    ///
    /// Source: RFC 9200 section 5.8.2, RFC 9201 section 3.2.
    #[must_use]
    pub fn to_json(&self) -> Json {
        const OWN: &str = "a key writes its own JWK";
        let jwk = |text: &str| serde_json::from_str::<Json>(text).expect(OWN);
        let mut body = Map::new();
        let token = std::str::from_utf8(self.access_token).map(str::to_owned);
        let token = token.unwrap_or_else(|_| base64url_encode(self.access_token));
        body.insert("access_token".to_owned(), token.into());
        body.insert("token_type".to_owned(), "PoP".into());
        body.insert("expires_in".to_owned(), self.expires_in_s.into());
        if let Some(scope) = self.scope {
            body.insert("scope".to_owned(), scope.into());
        }
        if self.with_profile {
            body.insert("ace_profile".to_owned(), PROFILE.into());
        }
        if let Some(key) = self.symmetric {
            body.insert("cnf".to_owned(), json!({ "jwk": jwk(&key.to_jwk_json()) }));
        } else if let Some(key) = self.broker_key {
            body.insert("rs_cnf".to_owned(), json!({ "jwk": jwk(&key.to_jwk_json()) }));
        }
        Json::Object(body)
    }

    /// As `application/ace+cbor`.
    ///
    /// # Errors
    /// [`AceFault::Format`] for a scope that is none.
    ///
    /// Source: RFC 9200 sections 5.8.2 and 5.8.5, RFC 9201 sections 3.2 and 7.
    pub fn to_cbor(&self) -> Result<Vec<u8>, AceFault> {
        let mut map: Vec<(Value, Value)> = vec![
            (ACCESS_TOKEN.into(), Value::Bytes(self.access_token.to_vec())),
            (EXPIRES_IN.into(), self.expires_in_s.into()),
        ];
        if let Some(key) = self.symmetric {
            map.push((CNF.into(), Value::Map(vec![(1.into(), symmetric_key_value(key.bytes()))])));
        }
        if let Some(scope) = self.scope {
            map.push((SCOPE.into(), Value::Bytes(scope_to_cbor(scope)?)));
        }
        map.push((TOKEN_TYPE.into(), POP.into()));
        if self.with_profile {
            map.push((ACE_PROFILE.into(), PROFILE_CBOR.into()));
        }
        if let (None, Some(key)) = (self.symmetric, self.broker_key) {
            map.push((RS_CNF.into(), Value::Map(vec![(1.into(), public_key_value(key))])));
        }
        Ok(cbor::write(&Value::Map(map)))
    }
}

/// A refusal, told.
#[derive(Debug, Clone, Copy)]
pub struct AceError<'a> {
    /// `error`, as RFC 6749 has it.
    pub error: &'a str,
    /// `error_description`.
    pub description: &'a str,
    /// Our code.
    pub code: &'a str,
}

impl AceError<'_> {
    /// As `application/ace+cbor`; an `error` that has no number is `invalid_request`, the code tells it.
    ///
    /// Source: RFC 9200 section 5.8.3 (figure 10).
    #[must_use]
    pub fn to_cbor(&self) -> Vec<u8> {
        let number = match self.error {
            "invalid_client" => 2,
            "invalid_grant" => 3,
            "unauthorized_client" => 4,
            "unsupported_grant_type" => 5,
            "invalid_scope" => 6,
            "unsupported_pop_key" => 7,
            "incompatible_ace_profiles" => 8,
            _ => 1,
        };
        cbor::write(&Value::Map(vec![
            (ERROR.into(), number.into()),
            (ERROR_DESCRIPTION.into(), self.description.into()),
            ("code".into(), self.code.into()),
        ]))
    }
}
