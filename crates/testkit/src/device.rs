//! Devices with keys of their own, which sign whatever a test asks for.

use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use drawbridge_jose::{
    Algorithm, Header, PublicKey, Sign as _, SigningKey, base64url_encode, sha256, sign_compact,
};
use drawbridge_names::{KeyId, PrincipalName};
use serde_json::{Map, Value, json};

/// A device (or an application) with its private key.
#[derive(Debug)]
pub struct TestDevice {
    /// Its private key.
    pub key: SigningKey,
    /// Its name.
    pub name: PrincipalName,
}

/// A JWT that is still to be signed: change what you like, then [`Self::sign`].
#[derive(Debug, Clone)]
pub struct Draft<'d> {
    device: &'d TestDevice,
    typ: Option<String>,
    kid: Option<String>,
    jwk: Option<PublicKey>,
    claims: Map<String, Value>,
}

impl TestDevice {
    /// A device with a new ES256 key.
    ///
    /// # Panics
    /// When `name` is no name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self::with_algorithm(name, Algorithm::Es256)
    }

    /// A device with a new key of this algorithm.
    ///
    /// # Panics
    /// When `name` is no name.
    #[must_use]
    pub fn with_algorithm(name: &str, algorithm: Algorithm) -> Self {
        Self {
            key: SigningKey::generate(algorithm).expect("the library makes keys"),
            name: PrincipalName::parse(name).expect("a name"),
        }
    }

    /// The public half of its key.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        self.key.public_key()
    }

    /// The thumbprint of its key.
    #[must_use]
    pub fn kid(&self) -> KeyId {
        KeyId::parse(self.public_key().thumbprint()).expect("a thumbprint")
    }

    /// A JWT of any kind.
    #[must_use]
    pub fn draft(&self, typ: Option<&str>, claims: Value) -> Draft<'_> {
        let Value::Object(claims) = claims else { unreachable!("claims are an object") };
        Draft { device: self, typ: typ.map(str::to_owned), kid: None, jwk: None, claims }
    }

    /// A client assertion for the token endpoint: good for 120 s.
    #[must_use]
    pub fn assertion(&self, issuer: &str, now_s: u64) -> Draft<'_> {
        let name = self.name.as_str();
        let claims = json!({
            "iss": name, "sub": name, "aud": issuer, "iat": now_s, "exp": now_s + 120, "jti": fresh_jti(),
        });
        self.draft(Some("client-authentication+jwt"), claims).kid(Some(self.public_key().thumbprint()))
    }

    /// A JWT for the password of a CONNECT: good for an hour.
    #[must_use]
    pub fn connect_jwt(&self, audience: &str, now_s: u64) -> Draft<'_> {
        let claims = json!({ "sub": self.name.as_str(), "aud": audience, "iat": now_s, "exp": now_s + 3600 });
        self.draft(Some("JWT"), claims)
    }

    /// A key update by this device's key, for `new_key`.
    #[must_use]
    pub fn update(&self, issuer: &str, now_s: u64, new_key: &PublicKey) -> Draft<'_> {
        let jwk: Value = serde_json::from_str(&new_key.to_jwk_json()).expect("a JWK is JSON");
        let mut draft = self.assertion(issuer, now_s).with("cnf", json!({ "jwk": jwk }));
        draft.typ = Some("key-update+jwt".to_owned());
        draft
    }

    /// A key removal by this device's key, of the key `kid`.
    #[must_use]
    pub fn removal(&self, issuer: &str, now_s: u64, kid: &KeyId) -> Draft<'_> {
        let mut draft = self.assertion(issuer, now_s).with("kid", json!(kid.as_str()));
        draft.typ = Some("key-remove+jwt".to_owned());
        draft
    }

    /// The proof of possession of this device's key for a key update.
    #[must_use]
    pub fn pop(&self, issuer: &str, update: &str) -> Draft<'_> {
        let upd = base64url_encode(&sha256(update.as_bytes()));
        let mut draft =
            self.draft(Some("key-pop+jwt"), json!({ "aud": issuer, "jti": fresh_jti(), "upd": upd }));
        draft.jwk = Some(self.public_key().clone());
        draft
    }

    /// A DPoP proof by this device's key for a request without an access token.
    #[must_use]
    pub fn dpop(&self, method: &str, url: &str, now_s: u64) -> Draft<'_> {
        let claims = json!({ "htm": method, "htu": url, "iat": now_s, "jti": fresh_jti() });
        let mut draft = self.draft(Some("dpop+jwt"), claims);
        draft.jwk = Some(self.public_key().clone());
        draft
    }

    /// An IoT IdP authentication JWT.
    #[must_use]
    pub fn legacy_login(&self) -> Draft<'_> {
        let claims = json!({ "sub": self.name.as_str(), "jti": fresh_jti() });
        self.draft(Some("JWT"), claims).kid(Some(self.name.as_str()))
    }

    /// An IoT IdP update JWT, its PEM on one line as in the wild.
    #[must_use]
    pub fn legacy_update(&self, new_key: &PublicKey) -> Draft<'_> {
        let body = STANDARD.encode(new_key.spki_der());
        let pem = format!("-----BEGIN PUBLIC KEY-----{body}-----END PUBLIC KEY-----");
        self.legacy_login().with("public_key", json!(pem))
    }

    /// The IoT IdP proof of possession: base64 of a DER signature over the update JWT.
    #[must_use]
    pub fn legacy_pop(&self, update: &str) -> String {
        self.legacy_pop_over(update.as_bytes())
    }

    /// The same over other bytes, such as the hash of the JWT.
    #[must_use]
    pub fn legacy_pop_over(&self, bytes: &[u8]) -> String {
        let signature = self.key.sign(bytes).expect("the library signs");
        STANDARD.encode(match self.public_key().algorithm() {
            Algorithm::Es256 | Algorithm::Es384 => der(&signature),
            _ => signature,
        })
    }
}

impl Draft<'_> {
    /// With this claim, replaced if it is there.
    #[must_use]
    pub fn with(mut self, name: &str, value: Value) -> Self {
        self.claims.insert(name.to_owned(), value);
        self
    }

    /// Without this claim.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.claims.remove(name);
        self
    }

    /// A DPoP proof for a request with this access token.
    #[must_use]
    pub fn for_token(self, token: &str) -> Self {
        self.with("ath", json!(base64url_encode(&sha256(token.as_bytes()))))
    }

    /// With this `typ`, or without any.
    #[must_use]
    pub fn typ(mut self, typ: Option<&str>) -> Self {
        self.typ = typ.map(str::to_owned);
        self
    }

    /// With this `kid`, or without any.
    #[must_use]
    pub fn kid(mut self, kid: Option<&str>) -> Self {
        self.kid = kid.map(str::to_owned);
        self
    }

    /// With this key in the header, or without any.
    #[must_use]
    pub fn jwk(mut self, jwk: Option<&PublicKey>) -> Self {
        self.jwk = jwk.cloned();
        self
    }

    /// The compact JWT.
    #[must_use]
    pub fn sign(&self) -> String {
        self.sign_by(&self.device.key)
    }

    /// The same, signed by somebody else.
    #[must_use]
    pub fn sign_by(&self, key: &SigningKey) -> String {
        let header = Header { typ: self.typ.as_deref(), kid: self.kid.as_deref(), jwk: self.jwk.as_ref() };
        let body = Value::Object(self.claims.clone()).to_string();
        sign_compact(&header, body.as_bytes(), key).expect("the library signs")
    }

    /// With this header, byte for byte: what no library would write.
    #[must_use]
    pub fn sign_raw(&self, header_json: &str) -> String {
        let body = Value::Object(self.claims.clone()).to_string();
        let input =
            format!("{}.{}", base64url_encode(header_json.as_bytes()), base64url_encode(body.as_bytes()));
        let signature = self.device.key.sign(input.as_bytes()).expect("the library signs");
        format!("{input}.{}", base64url_encode(&signature))
    }
}

/// 32 characters that no other draft of this process has.
fn fresh_jti() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!("{:032X}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// `r || s` as an ASN.1 SEQUENCE of two INTEGERs.
fn der(raw: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    for half in raw.chunks(raw.len() / 2) {
        let number: Vec<u8> = half.iter().copied().skip_while(|byte| *byte == 0).collect();
        let sign = usize::from(number.first().is_some_and(|byte| *byte >= 0x80));
        body.extend([2, u8::try_from(number.len() + sign).expect("at most 49")]);
        body.extend(std::iter::repeat_n(0, sign));
        body.extend(number);
    }
    let mut whole = vec![0x30, u8::try_from(body.len()).expect("at most 104")];
    whole.extend(body);
    whole
}
