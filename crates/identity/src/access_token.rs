//! Access tokens of our own issuer: RFC 9068 with the number of the principal, its epoch, and the key
//! that logged in.

use drawbridge_jose::{Header, PublicKey, SignError, SigningKey, sign_compact};
use drawbridge_names::{Epoch, KeyId, PrincipalName, Uid};
use serde_json::json;

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
    /// `akid`: the key that logged in.
    pub akid: KeyId,
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

    /// Signs an access token.
    ///
    /// # Errors
    /// [`SignError`] when the library fails.
    ///
    /// Source: RFC 9068 section 2.
    pub fn issue(&self, claims: &AccessClaims) -> Result<String, SignError> {
        let mut body = json!({
            "iss": claims.issuer,
            "sub": claims.subject.as_str(),
            "client_id": claims.client_id,
            "aud": claims.audience,
            "iat": claims.issued_s,
            "exp": claims.expires_s,
            "jti": claims.jti,
            // A 64-bit number does not survive in every JSON reader.
            "uid": claims.uid.to_string(),
            "epoch": claims.epoch.0,
            "akid": claims.akid.as_str(),
        });
        if let Some(scope) = &claims.scope {
            body["scope"] = json!(scope);
        }
        let header = Header { typ: Some("at+jwt"), kid: Some(&self.kid), ..Header::default() };
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
        keys: &[&IssuerKey],
        now_s: u64,
        checker: &Checker,
    ) -> Result<AccessClaims, Refusal> {
        let kid = self.0.kid();
        let key = keys.iter().find(|key| Some(key.kid()) == kid);
        let key = key.ok_or(Refusal::NotProven(NotProven::UnknownIssuer))?;
        let claims = self.0.prove_by(key.public_key(), checker)?;
        // Signed by our key: from here on a fault is ours, or a token of another registry whose key
        // was copied. It is told apart in the log alone.
        let not_ours = |found: &str| Refusal::Kind { found: found.to_owned(), wanted: KIND };
        let text = |name: &'static str| {
            claims.text(name).ok().flatten().ok_or_else(|| not_ours(&format!("`{name}` is missing")))
        };
        if text("iss")? != issuer {
            return Err(Refusal::NotProven(NotProven::UnknownIssuer));
        }
        let now = Now { now_s, skew_s: 0 };
        let expires_s = now.expiry(&claims)?;
        let issued_s = now.date(&claims, "iat")?.ok_or_else(|| not_ours("`iat` is missing"))?;
        let epoch =
            claims.numeric_date_s("epoch").ok().flatten().ok_or_else(|| not_ours("`epoch` is missing"))?;
        let parsed = || -> Option<_> {
            let uid = text("uid").ok()?.parse().ok()?;
            let subject = PrincipalName::parse(text("sub").ok()?).ok()?;
            let akid = KeyId::parse(text("akid").ok()?).ok()?;
            Some((Uid(uid), subject, akid))
        };
        let (uid, subject, akid) = parsed().ok_or_else(|| not_ours("it names no principal"))?;
        let scope = claims.text("scope").map_err(|error| not_ours(&error.to_string()))?.map(str::to_owned);
        Ok(AccessClaims {
            issuer: issuer.to_owned(),
            subject,
            client_id: text("client_id")?.to_owned(),
            audience: text("aud")?.to_owned(),
            issued_s,
            expires_s,
            jti: text("jti")?.to_owned(),
            scope,
            uid,
            epoch: Epoch(epoch),
            akid,
        })
    }
}
