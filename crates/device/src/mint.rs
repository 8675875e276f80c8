//! JWTs that a device signs: for CONNECT, for the token endpoint, for replacing its key.

use drawbridge_jose::{Header, PublicKey, Sign, base64url_encode, sha256, sign_compact};
use serde_json::json;

use crate::DeviceError;

fn sign(
    typ: &str,
    kid: Option<&str>,
    claims: &serde_json::Value,
    key: &dyn Sign,
) -> Result<String, DeviceError> {
    let header = Header { typ: Some(typ), kid, jwk: None };
    sign_compact(&header, claims.to_string().as_bytes(), key).map_err(|e| DeviceError::Key(e.to_string()))
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
    /// [`DeviceError::Key`] when the key cannot sign.
    pub fn sign(&self, key: &dyn Sign) -> Result<String, DeviceError> {
        let claims = json!({
            "sub": self.device, "aud": self.bridge_audience, "iat": self.now_s, "exp": self.now_s + self.life_s,
        });
        sign("JWT", None, &claims, key)
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
    /// Never used before; see [`crate::random_id`].
    pub jti: &'a str,
}

impl ClientAssertion<'_> {
    /// Signs it.
    ///
    /// # Errors
    /// [`DeviceError::Key`] when the key cannot sign.
    pub fn sign(&self, key: &dyn Sign) -> Result<String, DeviceError> {
        self.signed(None, key)
    }

    /// Signs it with a nonce of the server, for a device whose clock the server does not trust.
    ///
    /// # Errors
    /// [`DeviceError::Key`] when the key cannot sign.
    pub fn sign_with_nonce(&self, nonce: &str, key: &dyn Sign) -> Result<String, DeviceError> {
        self.signed(Some(nonce), key)
    }

    pub(crate) fn signed(&self, nonce: Option<&str>, key: &dyn Sign) -> Result<String, DeviceError> {
        let mut claims = json!({
            "iss": self.device, "sub": self.device, "aud": self.issuer,
            "iat": self.now_s, "exp": self.now_s + 60, "jti": self.jti,
        });
        if let Some(nonce) = nonce {
            claims["nonce"] = json!(nonce);
        }
        sign("client-authentication+jwt", None, &claims, key)
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
    /// Never used before; see [`crate::random_id`].
    pub update_jti: &'a str,
    /// Never used before; see [`crate::random_id`].
    pub pop_jti: &'a str,
}

impl KeyUpdate<'_> {
    /// Signs both: `(update, pop)`.
    ///
    /// # Errors
    /// [`DeviceError::Key`] when a key cannot sign.
    pub fn sign(
        &self,
        old: &dyn Sign,
        new: &dyn Sign,
        new_public: &PublicKey,
    ) -> Result<(String, String), DeviceError> {
        self.signed(None, old, new, new_public)
    }

    /// Signs both, the update with a nonce of the server: for a device whose clock the server does not
    /// trust.
    ///
    /// # Errors
    /// [`DeviceError::Key`] when a key cannot sign.
    pub fn sign_with_nonce(
        &self,
        nonce: &str,
        old: &dyn Sign,
        new: &dyn Sign,
        new_public: &PublicKey,
    ) -> Result<(String, String), DeviceError> {
        self.signed(Some(nonce), old, new, new_public)
    }

    pub(crate) fn signed(
        &self,
        nonce: Option<&str>,
        old: &dyn Sign,
        new: &dyn Sign,
        new_public: &PublicKey,
    ) -> Result<(String, String), DeviceError> {
        let jwk: serde_json::Value = serde_json::from_str(&new_public.to_jwk_json())
            .map_err(|e| DeviceError::Key(format!("the new key has no JWK form: {e}")))?;
        let mut claims = json!({
            "iss": self.device, "sub": self.device, "aud": self.issuer,
            "iat": self.now_s, "exp": self.now_s + 60, "jti": self.update_jti, "cnf": { "jwk": jwk },
        });
        if let Some(nonce) = nonce {
            claims["nonce"] = json!(nonce);
        }
        let update = sign("key-update+jwt", None, &claims, old)?;
        let proof = json!({
            "aud": self.issuer, "jti": self.pop_jti, "iat": self.now_s, "exp": self.now_s + 60,
            "upd": base64url_encode(&sha256(update.as_bytes())),
        });
        let header = Header { typ: Some("key-pop+jwt"), kid: None, jwk: Some(new_public) };
        let pop = sign_compact(&header, proof.to_string().as_bytes(), new)
            .map_err(|e| DeviceError::Key(e.to_string()))?;
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

impl std::fmt::Debug for EnrolmentProof<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
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
    /// [`DeviceError::Key`] when the key cannot sign.
    pub fn sign(&self, key: &dyn Sign) -> Result<String, DeviceError> {
        let claims = json!({
            "aud": self.issuer, "sub": self.device, "nonce": self.nonce,
            "eth": base64url_encode(&sha256(self.authority.as_bytes())),
        });
        sign("enrolment-proof+jwt", None, &claims, key)
    }
}
