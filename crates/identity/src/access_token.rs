//! Access tokens of our own issuer: RFC 9068 with the number of the principal, its epoch, and the key
//! that logged in.

use drawbridge_jose::{
    Claims, Header, PublicKey, SignError, SigningKey, base64url_decode, base64url_encode, sign_compact,
};
use drawbridge_names::{Epoch, KeyId, PrincipalName, Uid};
use serde_json::{Value, json};

use crate::ace::SealedKey;
use crate::keys::Checker;
use crate::presented::{Presented, Wanted};
use crate::refusal::{NotProven, Refusal};
use crate::rules::Now;

const KIND: &str = "access token";
const WANTED: Wanted = Wanted { kind: KIND, types: &["at+jwt"], plain: false };

/// What an access token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessClaims {
    /// `iss`: the issuer of the registry.
    pub issuer: String,
    /// `sub`: the bare name of the principal.
    pub subject: PrincipalName,
    /// `client_id`: who asked for it; the principal itself, or on the alias an application.
    pub client_id: String,
    /// `aud`: the one service it is for.
    pub audience: String,
    /// `iat`, seconds.
    pub issued_s: u64,
    /// `exp`, seconds. Our own tokens have no skew.
    pub expires_s: u64,
    /// `jti`: the token's own id.
    pub jti: String,
    /// `scope`: a grant in base64url for the bridge, words for the API, absent = all the policy allows.
    pub scope: Option<String>,
    /// `uid`: the principal's number.
    pub uid: Uid,
    /// `epoch`: revocations of the principal when it was issued.
    pub epoch: Epoch,
    /// `akid`: the key that logged in; `None` after a login by a secret or by a certificate of a CA.
    pub akid: Option<KeyId>,
    /// `cnf`: what the presenter must prove to hold; `None`: a bearer token.
    pub confirmation: Option<Confirmation>,
    /// `act`: the gateway that acts for the subject.
    pub actor: Option<ActedBy>,
    /// Ours: the login on an IoT IdP path that the token goes back to.
    pub alias: Option<AliasLogin>,
    /// `cnonce`: what the broker had a client send with its request (RFC 9200 section 5.3.1).
    pub cnonce: Option<String>,
}

/// A login on an IoT IdP path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AliasLogin {
    /// The scope words that were asked for and granted, for whoever introspects: they give no right here.
    pub words: String,
    /// When it was, seconds: its tokens are renewed for so long and no longer.
    pub login_s: u64,
}

/// What a token is bound to.
///
/// Source: RFC 7800 section 3.1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Confirmation {
    /// `jkt`: the RFC 7638 thumbprint of the key that signs DPoP proofs (RFC 9449 section 6.1).
    Key(String),
    /// `x5t#S256`: SHA-256 of the client certificate, base64url (RFC 8705 section 3.1).
    Certificate(String),
    /// `jwk`, or COSE_Key: the key that proves possession in MQTT (RFC 9431), whole.
    PopKey(PublicKey),
    /// `kid`: the same, a registered key of the subject by its thumbprint.
    PopKeyId(KeyId),
    /// `jwe`, or Encrypted_COSE_Key: a symmetric one, sealed by the server for itself.
    Sealed(SealedKey),
}

impl Confirmation {
    /// As `cnf` in JSON. A key sealed for a CWT has no registered form there; its name is ours.
    #[must_use]
    pub fn to_json(&self) -> Value {
        match self {
            Self::Key(thumbprint) => json!({ "jkt": thumbprint }),
            Self::Certificate(digest) => json!({ "x5t#S256": digest }),
            Self::PopKey(key) => {
                let jwk: Value = serde_json::from_str(&key.to_jwk_json()).expect("a key writes its own JWK");
                json!({ "jwk": jwk })
            }
            Self::PopKeyId(kid) => json!({ "kid": kid.as_str() }),
            Self::Sealed(SealedKey::Jwe(jwe)) => json!({ "jwe": jwe }),
            Self::Sealed(SealedKey::Cose(bytes)) => json!({ "cose": base64url_encode(bytes) }),
        }
    }

    /// Whether it is a key for proofs in MQTT alone, by RFC 9431: no request over HTTP can prove it.
    #[must_use]
    pub fn is_for_mqtt(&self) -> bool {
        matches!(self, Self::PopKey(_) | Self::PopKeyId(_) | Self::Sealed(_))
    }

    /// Reads what [`Self::to_json`] wrote: exactly one member. Whether a sealed key is one is seen when it is
    /// opened.
    fn from_claims(cnf: &Claims) -> Result<Self, String> {
        let names: Vec<&str> = cnf.names().collect();
        let [name] = names[..] else { return Err("`cnf` names no key, or two".to_owned()) };
        let text = |name| cnf.text(name).ok().flatten().map(str::to_owned);
        let is_sha256 = |text: &String| base64url_decode(text).is_ok_and(|digest| digest.len() == 32);
        let found = match name {
            "jkt" => text("jkt").filter(is_sha256).map(Self::Key),
            "x5t#S256" => text("x5t#S256").filter(is_sha256).map(Self::Certificate),
            "jwk" => {
                let jwk = cnf.object_json("jwk").and_then(|jwk| PublicKey::from_jwk(jwk.as_bytes()).ok());
                jwk.map(Self::PopKey)
            }
            "kid" => text("kid").and_then(|kid| KeyId::parse(&kid).ok()).map(Self::PopKeyId),
            "jwe" => text("jwe").map(|jwe| Self::Sealed(SealedKey::Jwe(jwe))),
            "cose" => {
                let bytes = text("cose").and_then(|text| base64url_decode(&text).ok());
                bytes.map(|bytes| Self::Sealed(SealedKey::Cose(bytes)))
            }
            _ => None,
        };
        found.ok_or_else(|| "`cnf` names a key in no form that is known here".to_owned())
    }
}

/// A gateway that acts for a device.
///
/// Source: RFC 8693 section 4.1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActedBy {
    /// Its name.
    pub name: PrincipalName,
    /// Its number.
    pub uid: Uid,
    /// Its epoch when the token was issued: a revoked gateway acts no more.
    pub epoch: Epoch,
    /// The key that it logged in with, if it was one.
    pub akid: Option<KeyId>,
}

impl AccessClaims {
    /// What the token says, as a JSON object: the payload of an `at+jwt`, the record of an opaque one.
    ///
    /// Source: RFC 9068 section 2.2.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut body = json!({
            "iss": self.issuer,
            "sub": self.subject.as_str(),
            "client_id": self.client_id,
            "aud": self.audience,
            "iat": self.issued_s,
            "exp": self.expires_s,
            "jti": self.jti,
            // A 64-bit number does not survive in every JSON reader.
            "uid": self.uid.to_string(),
            "epoch": self.epoch.0,
        });
        if let Some(akid) = &self.akid {
            body["akid"] = json!(akid.as_str());
        }
        if let Some(scope) = &self.scope {
            body["scope"] = json!(scope);
        }
        if let Some(confirmation) = &self.confirmation {
            body["cnf"] = confirmation.to_json();
        }
        if let Some(cnonce) = &self.cnonce {
            body["cnonce"] = json!(cnonce);
        }
        if let Some(actor) = &self.actor {
            body["act"] = json!({
                "sub": actor.name.as_str(), "uid": actor.uid.to_string(), "epoch": actor.epoch.0,
            });
            if let Some(akid) = &actor.akid {
                body["act"]["akid"] = json!(akid.as_str());
            }
        }
        if let Some(alias) = &self.alias {
            body["alias"] = json!({ "words": alias.words, "login": alias.login_s });
        }
        body
    }

    /// Reads what [`Self::to_json`] wrote, of this issuer; whether it is still good is not asked.
    ///
    /// # Errors
    /// [`Refusal`] when it is something else.
    pub fn from_claims(claims: &Claims, issuer: &str) -> Result<Self, Refusal> {
        let not_ours = |found: &str| Refusal::Kind { found: found.to_owned(), wanted: KIND };
        let text = |claims: &Claims, name: &'static str| {
            let found = claims.text(name).ok().flatten().map(str::to_owned);
            found.ok_or_else(|| not_ours(&format!("`{name}` is missing")))
        };
        let number = |claims: &Claims, name: &'static str| {
            let found = claims.numeric_date_s(name).ok().flatten();
            found.ok_or_else(|| not_ours(&format!("`{name}` is missing")))
        };
        let uid = |claims: &Claims| -> Result<Uid, Refusal> {
            text(claims, "uid")?.parse().map(Uid).map_err(|_| not_ours("it names no principal"))
        };
        let name = |claims: &Claims| {
            PrincipalName::parse(&text(claims, "sub")?).map_err(|_| not_ours("it names no principal"))
        };
        let optional = |claims: &Claims, name: &'static str| {
            claims.text(name).map(|found| found.map(str::to_owned)).map_err(|e| not_ours(&e.to_string()))
        };
        let object = |name: &'static str| claims.object(name).map_err(|e| not_ours(&e.to_string()));
        if text(claims, "iss")? != issuer {
            return Err(Refusal::NotProven(NotProven::UnknownIssuer));
        }
        let akid = |claims: &Claims| {
            let akid = optional(claims, "akid")?.map(|akid| KeyId::parse(&akid)).transpose();
            akid.map_err(|_| not_ours("`akid` is no key id"))
        };
        let confirmation = match object("cnf")? {
            None => None,
            Some(cnf) => Some(Confirmation::from_claims(&cnf).map_err(|found| not_ours(&found))?),
        };
        let actor = match object("act")? {
            None => None,
            Some(act) => Some(ActedBy {
                name: name(&act)?,
                uid: uid(&act)?,
                epoch: Epoch(number(&act, "epoch")?),
                akid: akid(&act)?,
            }),
        };
        let alias = match object("alias")? {
            None => None,
            Some(alias) => {
                Some(AliasLogin { words: text(&alias, "words")?, login_s: number(&alias, "login")? })
            }
        };
        Ok(Self {
            issuer: issuer.to_owned(),
            subject: name(claims)?,
            client_id: text(claims, "client_id")?,
            audience: text(claims, "aud")?,
            issued_s: number(claims, "iat")?,
            expires_s: number(claims, "exp")?,
            jti: text(claims, "jti")?,
            scope: optional(claims, "scope")?,
            uid: uid(claims)?,
            epoch: Epoch(number(claims, "epoch")?),
            akid: akid(claims)?,
            confirmation,
            actor,
            alias,
            cnonce: optional(claims, "cnonce")?,
        })
    }
}

/// An issuer's key pair: signs what the registry issues, and checks it.
#[derive(Debug)]
pub struct IssuerKey {
    key: SigningKey,
    kid: String,
}

impl IssuerKey {
    /// Takes a key pair.
    #[must_use]
    pub fn new(key: SigningKey) -> Self {
        let kid = key.public_key().thumbprint().to_owned();
        Self { key, kid }
    }

    /// The public half.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        self.key.public_key()
    }

    /// Its `kid`: the RFC 7638 thumbprint.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The key pair as PKCS#8 in DER, wiped when dropped.
    #[must_use]
    pub fn to_pkcs8_der(&self) -> zeroize::Zeroizing<Vec<u8>> {
        self.key.to_pkcs8_der()
    }

    /// Signs an access token.
    ///
    /// # Errors
    /// [`SignError`] when the library fails.
    ///
    /// Source: RFC 9068 section 2.
    pub fn issue(&self, claims: &AccessClaims) -> Result<String, SignError> {
        self.sign("at+jwt", &claims.to_json())
    }

    /// Signs an access token as a CWT.
    ///
    /// # Errors
    /// [`Refusal`] for claims that have no form there, or when the library fails.
    ///
    /// Source: RFC 8392 section 7.1.
    pub fn issue_cwt(&self, claims: &AccessClaims) -> Result<Vec<u8>, Refusal> {
        crate::ace::issue_cwt(claims, &self.key, &self.kid)
    }

    /// Signs a JSON object as a JWT of this `typ`.
    ///
    /// # Errors
    /// [`SignError`] when the library fails.
    pub fn sign(&self, typ: &str, body: &Value) -> Result<String, SignError> {
        let header = Header { typ: Some(typ), kid: Some(&self.kid), ..Header::default() };
        sign_compact(&header, body.to_string().as_bytes(), &self.key)
    }
}

/// An access token that was read but not yet proven.
pub struct AccessToken<'a>(Presented<'a>);

impl<'a> AccessToken<'a> {
    /// Reads an access token; nothing is believed yet.
    ///
    /// # Errors
    /// [`Refusal`] when it is no strict JWS of `typ` `at+jwt`.
    pub fn parse(jwt: &'a [u8], token_bytes_max: usize) -> Result<Self, Refusal> {
        Presented::parse(jwt, token_bytes_max, &WANTED).map(Self)
    }

    /// `iss`, not believed: which registry is meant.
    #[must_use]
    pub fn issuer(&self) -> Option<&str> {
        self.0.unverified_text("iss")
    }

    /// `kid`, not believed: of the key that shall have signed.
    #[must_use]
    pub fn kid(&self) -> Option<&str> {
        self.0.kid()
    }

    /// Judges signature, issuer and time. For which service it is, and whether its principal, epoch
    /// and key still stand, is for the caller to ask.
    ///
    /// # Errors
    /// [`Refusal`]; [`Refusal::NotProven`] for whatever this issuer did not sign.
    ///
    /// Source: RFC 9068 section 4.
    pub fn verify(
        &self,
        issuer: &str,
        keys: &[&PublicKey],
        now_s: u64,
        checker: &Checker,
    ) -> Result<AccessClaims, Refusal> {
        let kid = self.0.kid();
        let key = keys.iter().find(|key| Some(key.thumbprint()) == kid);
        let key = key.ok_or(Refusal::NotProven(NotProven::UnknownIssuer))?;
        let claims = self.0.prove_by(*key, checker)?;
        // Signed by our key: from here on a fault is ours, or a token of another registry whose key
        // was copied. It is told apart in the log alone.
        Now { now_s, skew_s: 0 }.expiry(&claims)?;
        AccessClaims::from_claims(&claims, issuer)
    }
}
