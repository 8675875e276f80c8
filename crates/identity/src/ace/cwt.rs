//! Access tokens as CWT: the claims of an `at+jwt`, in CBOR, in a COSE_Sign1.

use coset::cbor::Value;
use coset::{AsCborValue as _, CoseSign1, CoseSign1Builder, Header, RegisteredLabelWithPrivate};
use drawbridge_jose::{
    Algorithm, BadSignature, Claims, PublicKey, Sign, SignError, Verify as _, base64url_decode,
    base64url_encode,
};
use serde_json::{Map, Value as Json, json};

use super::aif::{scope_from_cbor, scope_to_cbor};
use super::cbor::{self, Members, byte_string, number, text};
use super::cose_key::{cose_algorithm, public_key, public_key_value};
use super::fault::AceFault;
use super::sealed::SealedKey;
use crate::access_token::{AccessClaims, Confirmation};
use crate::keys::Checker;
use crate::refusal::{NotProven, Refusal};
use crate::rules::Now;

/// Source: RFC 8392 section 6 and RFC 9052 section 2.
const TAG_CWT: u64 = 61;
const TAG_SIGN1: u64 = 18;

/// Source: RFC 8392 section 4, RFC 8747 section 7.1, RFC 9200 section 8.14.
const ISS: i64 = 1;
const SUB: i64 = 2;
const AUD: i64 = 3;
const EXP: i64 = 4;
const NBF: i64 = 5;
const IAT: i64 = 6;
const CTI: i64 = 7;
const CNF: i64 = 8;
const SCOPE: i64 = 9;
const CNONCE: i64 = 39;

/// Source: RFC 8747 section 3.1.
const COSE_KEY: i64 = 1;
const ENCRYPTED_COSE_KEY: i64 = 2;
const KID: i64 = 3;

/// Claims of ours that have no number: texts are shorter than numbers of the private range.
const TEXTS: [&str; 2] = ["client_id", "akid"];
const WHAT: &str = "the CWT";

/// An access token in CBOR that was read but not yet proven.
pub struct Cwt {
    message: CoseSign1,
    kid: Option<String>,
    not_before_s: Option<u64>,
    /// As a JWT would say it.
    claims: Claims,
}

impl Cwt {
    /// Reads a CWT, with or without the tags 18 and 61; nothing is believed yet.
    ///
    /// # Errors
    /// [`AceFault::Format`] when it is no strict COSE_Sign1 with the claims of an access token. In its headers
    /// only `alg` (protected) and `kid` may stand, so nothing can be critical.
    ///
    /// Source: RFC 8392 section 7.2, RFC 9052 sections 3.1 and 4.2.
    pub fn parse(token: &[u8], token_bytes_max: usize) -> Result<Self, AceFault> {
        let malformed = |found: &str| AceFault::Format(format!("{WHAT}: {found}"));
        if token.len() > token_bytes_max {
            return Err(malformed(&format!("{} bytes, at most {token_bytes_max} are read", token.len())));
        }
        let mut value = cbor::read(token)?;
        let mut tags = Vec::new();
        while let Value::Tag(tag, inner) = value {
            tags.push(tag);
            value = *inner;
        }
        if !matches!(tags[..], [] | [TAG_SIGN1] | [TAG_CWT, TAG_SIGN1]) {
            return Err(malformed("its tags are not 18, or 61 and 18"));
        }
        let message = CoseSign1::from_cbor_value(value).map_err(|_| malformed("it is no COSE_Sign1"))?;
        let header = &message.protected.header;
        // coset has read these bytes as well, and is less strict.
        cbor::read(message.protected.original_data.as_deref().unwrap_or_default())?;
        let plain = |header: &Header| Header { alg: None, key_id: Vec::new(), ..header.clone() }.is_empty();
        if header.alg.is_none() || message.unprotected.alg.is_some() {
            return Err(malformed("`alg` does not stand in its protected header"));
        }
        if !plain(header) || !plain(&message.unprotected) {
            return Err(malformed("its headers hold more than `alg` and `kid`"));
        }
        let kid = match (&header.key_id[..], &message.unprotected.key_id[..]) {
            (kid, []) | ([], kid) => (!kid.is_empty()).then(|| base64url_encode(kid)),
            _ => return Err(malformed("`kid` stands there twice")),
        };
        let payload = message.payload.as_deref().ok_or_else(|| malformed("it has no payload"))?;
        let (claims, not_before_s) = claims_from_cbor(payload)?;
        Ok(Self { message, kid, not_before_s, claims })
    }

    /// `iss`, not believed: which registry is meant.
    #[must_use]
    pub fn issuer(&self) -> Option<&str> {
        self.claims.text("iss").ok().flatten()
    }

    /// `kid` of the key that shall have signed, not believed, as it stands in the JWK set: base64url of the bytes
    /// in the header.
    #[must_use]
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// As [`crate::AccessToken::verify`].
    ///
    /// # Errors
    /// [`Refusal`]; [`Refusal::NotProven`] for whatever this issuer did not sign.
    ///
    /// Source: RFC 8392 section 7.2, RFC 9052 section 4.4.
    pub fn verify(
        &self,
        issuer: &str,
        keys: &[&PublicKey],
        now_s: u64,
        checker: &Checker,
    ) -> Result<AccessClaims, Refusal> {
        let key = keys.iter().find(|key| Some(key.thumbprint()) == self.kid());
        let key = key.ok_or(Refusal::NotProven(NotProven::UnknownIssuer))?;
        if self.message.protected.header.alg != Some(label(key.algorithm())) {
            return Err(Refusal::NotProven(NotProven::AlgorithmOfKey));
        }
        checker.count();
        let verified: Result<(), BadSignature> =
            self.message.verify_signature(&[], |signature, message| key.verify(message, signature));
        verified.map_err(|_| Refusal::NotProven(NotProven::Signature))?;
        Now { now_s, skew_s: 0 }.expiry(&self.claims)?;
        if self.not_before_s.is_some_and(|from_s| from_s > now_s) {
            return Err(Refusal::Time { found: "`nbf` is in the future".into(), server_time_s: now_s });
        }
        AccessClaims::from_claims(&self.claims, issuer)
    }
}

fn label(algorithm: Algorithm) -> coset::Algorithm {
    use coset::iana::EnumI64 as _;
    let number = cose_algorithm(algorithm);
    let known = coset::iana::Algorithm::from_i64(number);
    RegisteredLabelWithPrivate::Assigned(known.expect("all of ours are registered"))
}

/// Signs an access token as CWT, tagged 61 and 18. `kid`: of the key, its thumbprint.
///
/// # Errors
/// [`Refusal::Unavailable`] when the library fails, [`AceFault::Format`] for claims that a CWT of ours has not.
///
/// Source: RFC 8392 section 7.1.
pub fn issue_cwt(claims: &AccessClaims, key: &dyn Sign, kid: &str) -> Result<Vec<u8>, Refusal> {
    let header = Header {
        alg: Some(label(key.algorithm())),
        key_id: base64url_decode(kid).unwrap_or_default(),
        ..Header::default()
    };
    let builder = CoseSign1Builder::new().protected(header).payload(claims_to_cbor(claims)?);
    let signed = builder.try_create_signature(&[], |message| key.sign(message));
    let signed = signed.map_err(|error: SignError| Refusal::Unavailable(error.to_string()))?.build();
    let value = signed.to_cbor_value().map_err(|error| Refusal::Unavailable(error.to_string()))?;
    Ok(cbor::write(&Value::Tag(TAG_CWT, Box::new(Value::Tag(TAG_SIGN1, Box::new(value))))))
}

fn claims_to_cbor(claims: &AccessClaims) -> Result<Vec<u8>, Refusal> {
    let mut map: Vec<(Value, Value)> = vec![
        (ISS.into(), claims.issuer.as_str().into()),
        (SUB.into(), claims.subject.as_str().into()),
        (AUD.into(), claims.audience.as_str().into()),
        (EXP.into(), claims.expires_s.into()),
        (IAT.into(), claims.issued_s.into()),
        (CTI.into(), Value::Bytes(bytes_of(&claims.jti)?)),
    ];
    if let Some(confirmation) = &claims.confirmation {
        map.push((CNF.into(), confirmation_value(confirmation)?));
    }
    if let Some(scope) = &claims.scope {
        map.push((SCOPE.into(), Value::Bytes(scope_to_cbor(scope)?)));
    }
    if let Some(cnonce) = &claims.cnonce {
        map.push((CNONCE.into(), Value::Bytes(bytes_of(cnonce)?)));
    }
    map.push(("uid".into(), claims.uid.0.into()));
    map.push(("epoch".into(), claims.epoch.0.into()));
    if claims.client_id != claims.subject.as_str() {
        map.push(("client_id".into(), claims.client_id.as_str().into()));
    }
    if let Some(akid) = &claims.akid {
        map.push(("akid".into(), akid.as_str().into()));
    }
    if claims.actor.is_some() || claims.alias.is_some() {
        return Err(AceFault::Format("a token with `act` has no form as CWT".to_owned()).into());
    }
    Ok(cbor::write(&Value::Map(map)))
}

/// What is base64url in a JWT is bytes in a CWT.
fn bytes_of(text: &str) -> Result<Vec<u8>, AceFault> {
    base64url_decode(text)
        .map_err(|_| AceFault::Format("a value is no base64url, so it has no form as CWT".to_owned()))
}

fn confirmation_value(confirmation: &Confirmation) -> Result<Value, Refusal> {
    let (label, value) = match confirmation {
        Confirmation::PopKey(key) => (COSE_KEY.into(), public_key_value(key)),
        Confirmation::PopKeyId(kid) => (KID.into(), Value::Bytes(bytes_of(kid.as_str())?)),
        Confirmation::Sealed(SealedKey::Cose(sealed)) => (ENCRYPTED_COSE_KEY.into(), cbor::read(sealed)?),
        Confirmation::Sealed(SealedKey::Jwe(_)) => {
            return Err(AceFault::Format("a JWE stands in no CWT".to_owned()).into());
        }
        Confirmation::Key(thumbprint) => ("jkt".into(), thumbprint.as_str().into()),
        Confirmation::Certificate(digest) => ("x5t#S256".into(), digest.as_str().into()),
    };
    Ok(Value::Map(vec![(label, value)]))
}

/// The claims as a JWT of ours would have them, and `nbf`.
fn claims_from_cbor(payload: &[u8]) -> Result<(Claims, Option<u64>), AceFault> {
    let missing = |name: &str| AceFault::Format(format!("{WHAT} has no `{name}`"));
    let mut members = Members::of(cbor::read(payload)?, "the payload")?;
    let mut json = Map::new();
    for (label, name) in [(ISS, "iss"), (SUB, "sub"), (AUD, "aud")] {
        let value = members.take(label).ok_or_else(|| missing(name))?;
        json.insert(name.to_owned(), text(value, name)?.into());
    }
    for (label, name) in [(EXP, "exp"), (IAT, "iat")] {
        let value = members.take(label).ok_or_else(|| missing(name))?;
        json.insert(name.to_owned(), number(&value, name)?.into());
    }
    let not_before_s = members.take(NBF).map(|value| number(&value, "nbf")).transpose()?;
    let cti = byte_string(members.take(CTI).ok_or_else(|| missing("cti"))?, "cti")?;
    json.insert("jti".to_owned(), base64url_encode(&cti).into());
    if let Some(cnf) = members.take(CNF) {
        json.insert("cnf".to_owned(), confirmation_json(cnf)?);
    }
    if let Some(scope) = members.take(SCOPE) {
        json.insert("scope".to_owned(), scope_from_cbor(&byte_string(scope, "scope")?)?.into());
    }
    if let Some(cnonce) = members.take(CNONCE) {
        json.insert("cnonce".to_owned(), base64url_encode(&byte_string(cnonce, "cnonce")?).into());
    }
    let uid = number(&members.take_named("uid").ok_or_else(|| missing("uid"))?, "uid")?;
    let epoch = number(&members.take_named("epoch").ok_or_else(|| missing("epoch"))?, "epoch")?;
    json.insert("uid".to_owned(), uid.to_string().into());
    json.insert("epoch".to_owned(), epoch.into());
    for name in TEXTS {
        if let Some(value) = members.take_named(name) {
            json.insert(name.to_owned(), text(value, name)?.into());
        }
    }
    if !json.contains_key("client_id") {
        json.insert("client_id".to_owned(), json["sub"].clone());
    }
    // `exi`, which lives by the time of its first use, is among what nobody here would obey.
    members.finish(WHAT)?;
    let claims = Claims::from_json(Json::Object(json).to_string().as_bytes());
    claims.map(|claims| (claims, not_before_s)).map_err(|error| AceFault::Format(format!("{WHAT}: {error}")))
}

/// Source: RFC 8747 section 3.1: at most one of the three.
fn confirmation_json(cnf: Value) -> Result<Json, AceFault> {
    let mut members = Members::of(cnf, "`cnf`")?;
    let json = if let Some(key) = members.take(COSE_KEY) {
        let jwk = public_key(key)?.to_jwk_json();
        json!({ "jwk": serde_json::from_str::<Json>(&jwk).expect("a key writes its own JWK") })
    } else if let Some(sealed) = members.take(ENCRYPTED_COSE_KEY) {
        json!({ "cose": base64url_encode(&cbor::write(&sealed)) })
    } else if let Some(kid) = members.take(KID) {
        json!({ "kid": base64url_encode(&byte_string(kid, "kid")?) })
    } else if let Some(thumbprint) = members.take_named("jkt") {
        json!({ "jkt": text(thumbprint, "jkt")? })
    } else if let Some(digest) = members.take_named("x5t#S256") {
        json!({ "x5t#S256": text(digest, "x5t#S256")? })
    } else {
        return Err(AceFault::Key("`cnf` has none that is known here".to_owned()));
    };
    members.finish("`cnf`")?;
    Ok(json)
}
