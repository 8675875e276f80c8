//! JWTs that a device signs: for CONNECT, for the token endpoint, for replacing its key.

use alloc::string::{String, ToString};

use drawbridge_jose::{Header, PublicKey, Sign, SignError, base64url_encode, sha256, sign_compact};
use serde_json::{Value, json};

fn sign(typ: &str, claims: &Value, key: &dyn Sign) -> Result<String, SignError> {
    let header = Header { typ: Some(typ), kid: None, jwk: None };
    sign_compact(&header, claims.to_string().as_bytes(), key)
}

fn jwk(key: &PublicKey) -> Value {
    serde_json::from_str(&key.to_jwk_json()).expect("the JWK of a key is JSON")
}

/// The JWT for the password of CONNECT: it opens a session at the bridge, and the session ends when
/// it does. Claims `sub`, `aud`, `iat`, `exp`.
#[derive(Debug, Clone, Copy)]
pub struct ConnectJwt<'a> {
    /// The device.
    pub device: &'a str,
    /// The bridge's audience, from `device.json`.
    pub bridge_audience: &'a str,
    /// Seconds since 1970-01-01 UTC.
    pub now_s: u64,
    /// Life in seconds, at most 86,400.
    pub life_s: u64,
}

impl ConnectJwt<'_> {
    /// Signs it.
    ///
    /// # Errors
    /// [`SignError`] when the key cannot sign.
    pub fn sign(&self, key: &dyn Sign) -> Result<String, SignError> {
        sign("JWT", &self.claims(), key)
    }

    /// Signs it for one TLS connection alone: whoever steals it can use it nowhere. `binding` is what TLS
    /// exports for the label `EXPORTER-Channel-Binding` and a context of zero length, and becomes the claim `cb`.
    ///
    /// # Errors
    /// [`SignError`] when the key cannot sign.
    ///
    /// Source: RFC 9266 section 4 (TLS 1.3), section 4.2 (TLS 1.2 wants the extended master secret).
    pub fn sign_bound(&self, binding: &[u8; 32], key: &dyn Sign) -> Result<String, SignError> {
        let mut claims = self.claims();
        claims["cb"] = json!(base64url_encode(binding));
        sign("JWT", &claims, key)
    }

    /// Signs it with a claim `pad` of so many characters, which means nothing: for a client whose CONNECT cannot be
    /// padded elsewhere. `binding` as in [`Self::sign_bound`]. Four characters of the JWT carry three of the claim.
    ///
    /// # Errors
    /// [`SignError`] when the key cannot sign.
    pub fn sign_padded(
        &self,
        pad_bytes: usize,
        binding: Option<&[u8; 32]>,
        key: &dyn Sign,
    ) -> Result<String, SignError> {
        let mut claims = self.claims();
        claims["pad"] = json!("0".repeat(pad_bytes));
        if let Some(binding) = binding {
            claims["cb"] = json!(base64url_encode(binding));
        }
        sign("JWT", &claims, key)
    }

    /// Signs it with a nonce of the server, which stands for the time that the device does not know: of
    /// `$drawbridge/auth/nonce` to renew a session, of `/oauth/challenge` to open one. `jti`: never used before. `binding` as
    /// in [`Self::sign_bound`], where the session was opened so.
    ///
    /// # Errors
    /// [`SignError`] when the key cannot sign.
    pub fn sign_with_nonce(
        &self,
        nonce: &str,
        jti: &str,
        binding: Option<&[u8; 32]>,
        key: &dyn Sign,
    ) -> Result<String, SignError> {
        let mut claims = self.claims();
        (claims["nonce"], claims["jti"]) = (json!(nonce), json!(jti));
        if let Some(binding) = binding {
            claims["cb"] = json!(base64url_encode(binding));
        }
        sign("JWT", &claims, key)
    }

    fn claims(&self) -> Value {
        json!({
            "sub": self.device, "aud": self.bridge_audience, "iat": self.now_s, "exp": self.now_s + self.life_s,
        })
    }
}

/// A client assertion: proves to the token endpoint who the device is. It lives 60 seconds.
///
/// Source: RFC 7523 section 3, RFC 10070 (`aud` is the issuer and nothing else).
#[derive(Debug, Clone, Copy)]
pub struct ClientAssertion<'a> {
    /// The device.
    pub device: &'a str,
    /// The issuer, from `device.json`.
    pub issuer: &'a str,
    /// Seconds since 1970-01-01 UTC.
    pub now_s: u64,
    /// Never used before; see `random_id`.
    pub jti: &'a str,
}

impl ClientAssertion<'_> {
    /// Signs it.
    ///
    /// # Errors
    /// [`SignError`] when the key cannot sign.
    pub fn sign(&self, key: &dyn Sign) -> Result<String, SignError> {
        self.signed(None, key)
    }

    /// Signs it with a nonce of the server, for a device whose clock the server does not trust.
    ///
    /// # Errors
    /// [`SignError`] when the key cannot sign.
    pub fn sign_with_nonce(&self, nonce: &str, key: &dyn Sign) -> Result<String, SignError> {
        self.signed(Some(nonce), key)
    }

    pub(crate) fn signed(&self, nonce: Option<&str>, key: &dyn Sign) -> Result<String, SignError> {
        let mut claims = json!({
            "iss": self.device, "sub": self.device, "aud": self.issuer,
            "iat": self.now_s, "exp": self.now_s + 60, "jti": self.jti,
        });
        if let Some(nonce) = nonce {
            claims["nonce"] = json!(nonce);
        }
        sign("client-authentication+jwt", &claims, key)
    }
}

/// The two JWTs that replace a device's key: one by the old key that names the new one, and a proof
/// by the new key that it was really made by this device.
#[derive(Debug, Clone, Copy)]
pub struct KeyUpdate<'a> {
    /// The device.
    pub device: &'a str,
    /// The issuer, from `device.json`.
    pub issuer: &'a str,
    /// Seconds since 1970-01-01 UTC.
    pub now_s: u64,
    /// Never used before; see `random_id`.
    pub update_jti: &'a str,
    /// Never used before; see `random_id`.
    pub pop_jti: &'a str,
}

impl KeyUpdate<'_> {
    /// Signs both: `(update, pop)`.
    ///
    /// # Errors
    /// [`SignError`] when a key cannot sign.
    pub fn sign(
        &self,
        old: &dyn Sign,
        new: &dyn Sign,
        new_public: &PublicKey,
    ) -> Result<(String, String), SignError> {
        self.signed(None, old, new, new_public)
    }

    /// Signs both, the update with a nonce of the server: for a device whose clock the server does not
    /// trust.
    ///
    /// # Errors
    /// [`SignError`] when a key cannot sign.
    pub fn sign_with_nonce(
        &self,
        nonce: &str,
        old: &dyn Sign,
        new: &dyn Sign,
        new_public: &PublicKey,
    ) -> Result<(String, String), SignError> {
        self.signed(Some(nonce), old, new, new_public)
    }

    pub(crate) fn signed(
        &self,
        nonce: Option<&str>,
        old: &dyn Sign,
        new: &dyn Sign,
        new_public: &PublicKey,
    ) -> Result<(String, String), SignError> {
        let mut claims = json!({
            "iss": self.device, "sub": self.device, "aud": self.issuer,
            "iat": self.now_s, "exp": self.now_s + 60, "jti": self.update_jti, "cnf": { "jwk": jwk(new_public) },
        });
        if let Some(nonce) = nonce {
            claims["nonce"] = json!(nonce);
        }
        let update = sign("key-update+jwt", &claims, old)?;
        let proof = json!({
            "aud": self.issuer, "jti": self.pop_jti, "iat": self.now_s, "exp": self.now_s + 60,
            "upd": base64url_encode(&sha256(update.as_bytes())),
        });
        let header = Header { typ: Some("key-pop+jwt"), kid: None, jwk: Some(new_public) };
        let pop = sign_compact(&header, proof.to_string().as_bytes(), new)?;
        Ok((update, pop))
    }
}

/// The proof with which a device registers itself: its own key signs the name it asks for, the issuer, a
/// nonce of the server, and the hash of the enrolment token. It needs no clock. `Debug` does not show the
/// token.
#[derive(Clone, Copy)]
pub struct EnrolmentProof<'a> {
    /// The name it asks for.
    pub device: &'a str,
    /// The issuer of the registry.
    pub issuer: &'a str,
    /// From `/oauth/challenge` with `purpose=enrolment`; good for 60 seconds.
    pub nonce: &'a str,
    /// The enrolment token, or the software statement, that is sent with it.
    pub authority: &'a str,
}

impl core::fmt::Debug for EnrolmentProof<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("EnrolmentProof")
            .field("device", &self.device)
            .field("issuer", &self.issuer)
            .finish_non_exhaustive()
    }
}

impl EnrolmentProof<'_> {
    /// Signs it.
    ///
    /// # Errors
    /// [`SignError`] when the key cannot sign.
    pub fn sign(&self, key: &dyn Sign) -> Result<String, SignError> {
        let claims = json!({
            "aud": self.issuer, "sub": self.device, "nonce": self.nonce,
            "eth": base64url_encode(&sha256(self.authority.as_bytes())),
        });
        sign("enrolment-proof+jwt", &claims, key)
    }
}

/// A DPoP proof: this request comes from who has the key that the token is bound to.
///
/// Source: RFC 9449 section 4.2.
#[derive(Debug, Clone, Copy)]
pub struct DpopProof<'a> {
    /// Method of the request, such as `POST`.
    pub method: &'a str,
    /// URL of the request below the issuer, without query.
    pub url: &'a str,
    /// Seconds since 1970-01-01 UTC.
    pub now_s: u64,
    /// Never used before; see `random_id`.
    pub jti: &'a str,
    /// The server's nonce, once it has given one in `DPoP-Nonce`.
    pub nonce: Option<&'a str>,
    /// The access token that is presented with it, if any.
    pub token: Option<&'a str>,
}

impl DpopProof<'_> {
    /// Signs it.
    ///
    /// # Errors
    /// [`SignError`] when the key cannot sign.
    pub fn sign(&self, key: &dyn Sign, public: &PublicKey) -> Result<String, SignError> {
        let mut claims = json!({ "htm": self.method, "htu": self.url, "iat": self.now_s, "jti": self.jti });
        if let Some(nonce) = self.nonce {
            claims["nonce"] = json!(nonce);
        }
        if let Some(token) = self.token {
            claims["ath"] = json!(base64url_encode(&sha256(token.as_bytes())));
        }
        let header = Header { typ: Some("dpop+jwt"), kid: None, jwk: Some(public) };
        sign_compact(&header, claims.to_string().as_bytes(), key)
    }
}
