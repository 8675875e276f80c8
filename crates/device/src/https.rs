//! HTTPS to the server: one small client that trusts one root. The CLI stands on it too.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use drawbridge_jose::{Sign, SigningKey, base64url_decode};

use crate::{
    ClientAssertion, DeviceError, DeviceIdentity, DeviceKey, DpopProof, EnrolmentProof, KeyUpdate, ServerKey,
    SymmetricKey, now_s, random_id,
};

/// Source: RFC 7523 section 2.2.
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// A server that asks to be left alone longer than this, in seconds, is asked again nevertheless.
const RETRY_AFTER_S_MAX: u64 = 86_400;

/// Speaks to one server over HTTPS, with verification that cannot be turned off.
#[derive(Debug, Clone)]
pub struct ApiClient {
    agent: ureq::Agent,
    base: String,
}

/// An answer of the server, whatever its status. `Debug` shows the text of a refusal alone: the others may
/// be tokens.
#[derive(Clone)]
pub struct ApiAnswer {
    /// HTTP status.
    pub status: u16,
    /// The `ETag`, if it has one.
    pub etag: Option<String>,
    /// The server's nonce for DPoP proofs, if it gave one.
    pub dpop_nonce: Option<String>,
    /// The server asks to be left alone so long. Source: RFC 9110 section 10.2.3, in seconds.
    pub retry_after: Option<Duration>,
    /// The body, as text.
    pub text: String,
}

impl std::fmt::Debug for ApiAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let refusal = (self.status >= 400).then_some(&self.text);
        f.debug_struct("ApiAnswer")
            .field("status", &self.status)
            .field("etag", &self.etag)
            .field("refusal", &refusal)
            .finish_non_exhaustive()
    }
}

impl ApiAnswer {
    /// The body as JSON; `Null` when it is not JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or(Value::Null)
    }
}

/// What is asked of the token endpoint.
#[derive(Clone, Copy)]
pub struct TokenRequest<'a> {
    /// The device.
    pub device: &'a str,
    /// The issuer, from `device.json`.
    pub issuer: &'a str,
    /// What the token is for; the MQTT bridge by default.
    pub resource: Option<&'a str>,
    /// Less than all that the policy allows: AIF-MQTT for the bridge, words for the API.
    pub scope: Option<&'a str>,
    /// The key without which the token shall be worth nothing.
    pub bind_to: Option<Binding<'a>>,
}

/// To which key a token is bound, and by which rules.
#[derive(Clone, Copy)]
pub enum Binding<'a> {
    /// Any key, with a proof of it in the request: DPoP. For the HTTP API, and to renew a session. Source: RFC 9449 section 5.
    Dpop(&'a dyn DeviceKey),
    /// A registered key of the device, for RFC 9431 over MQTT. Source: RFC 9201 section 3.1 (`req_cnf`).
    Ace(&'a dyn DeviceKey),
    /// A symmetric key that the server makes and tells this once ([`TokenAnswer::proof_key`]), for RFC 9431 over MQTT.
    AceSymmetric,
}

impl std::fmt::Debug for TokenRequest<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenRequest")
            .field("device", &self.device)
            .field("resource", &self.resource)
            .field("scope", &self.scope)
            .field("bound", &self.bind_to.is_some())
            .finish_non_exhaustive()
    }
}

/// An access token as the token endpoint gave it.
#[derive(Clone)]
pub struct TokenAnswer {
    /// The token.
    pub access_token: String,
    /// Seconds it lives.
    pub expires_in_s: u64,
    /// The symmetric key that proves it (`cnf`), if the server has made one.
    pub proof_key: Option<SymmetricKey>,
    /// The broker that it is for (`rs_cnf`), if that was said. Whoever presents it elsewhere has to compare it.
    pub server_key: Option<ServerKey>,
}

impl std::fmt::Debug for TokenAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenAnswer").field("expires_in_s", &self.expires_in_s).finish_non_exhaustive()
    }
}

/// What a device that registered itself was told.
#[derive(Clone)]
pub struct EnrolmentAnswer {
    /// The name it has.
    pub device: String,
    /// The registry it belongs to.
    pub registry: String,
    /// The issuer: the `aud` of its client assertions.
    pub issuer: String,
    /// The `aud` of its CONNECT JWTs.
    pub bridge_audience: String,
    /// An operator has to approve it before it is admitted anywhere.
    pub pending: bool,
    /// With this it looks at, or ends, its registration (RFC 7592).
    pub registration_token: String,
}

impl std::fmt::Debug for EnrolmentAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EnrolmentAnswer")
            .field("device", &self.device)
            .field("registry", &self.registry)
            .field("pending", &self.pending)
            .finish_non_exhaustive()
    }
}

impl ApiClient {
    /// A client for `base` (`https://host:port`, with `/r/NAME` for another registry) that trusts the
    /// roots in `ca_pem` and no other.
    ///
    /// # Errors
    /// [`DeviceError::Tls`] when `ca_pem` holds no certificate.
    pub fn new(base: &str, ca_pem: &str) -> Result<Self, DeviceError> {
        let tls = |why: String| DeviceError::Tls { server: base.to_owned(), why };
        let certificate = Certificate::from_pem(ca_pem.as_bytes())
            .map_err(|e| tls(format!("the CA file is no certificate: {e}")))?;
        let config = ureq::Agent::config_builder()
            .https_only(true)
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .no_delay(true)
            .timeout_connect(Some(Duration::from_secs(5)))
            .timeout_global(Some(Duration::from_secs(120)))
            .tls_config(
                TlsConfig::builder()
                    .root_certs(RootCerts::new_with_certs(&[certificate]))
                    .unversioned_rustls_crypto_provider(Arc::new(
                        rustls::crypto::aws_lc_rs::default_provider(),
                    ))
                    .build(),
            )
            .build();
        Ok(Self { agent: config.new_agent(), base: base.trim_end_matches('/').to_owned() })
    }

    /// Where it speaks to: `https://host:port`, with the path of the registry.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Sends a request. `bearer` goes into `Authorization`; `body` is its type and bytes.
    ///
    /// # Errors
    /// [`DeviceError::Connection`] or [`DeviceError::Tls`]; a status of refusal is an answer.
    pub fn send(
        &self,
        method: &str,
        path: &str,
        bearer: Option<&str>,
        body: Option<(&str, &[u8])>,
    ) -> Result<ApiAnswer, DeviceError> {
        let bearer = bearer.map(|token| ("authorization", format!("Bearer {token}")));
        let fields: Vec<(&str, &str)> = bearer.iter().map(|(name, value)| (*name, value.as_str())).collect();
        self.send_with(method, path, &fields, body)
    }

    /// The same with header fields of any kind: names and values.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub fn send_with(
        &self,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
        body: Option<(&str, &[u8])>,
    ) -> Result<ApiAnswer, DeviceError> {
        let url = format!("{}{path}", self.base);
        let mut request = ureq::http::Request::builder().method(method).uri(&url);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        if let Some((content_type, _)) = body {
            request = request.header("content-type", content_type);
        }
        let fault = |why: String| DeviceError::Connection { server: self.base.clone(), why };
        let outcome = match body {
            Some((_, bytes)) => request.body(bytes).map(|r| self.agent.run(r)),
            None => request.body(()).map(|r| self.agent.run(r)),
        };
        let mut response = match outcome.map_err(|e| fault(e.to_string()))? {
            Ok(response) => response,
            Err(ureq::Error::Tls(why)) => {
                return Err(DeviceError::Tls { server: self.base.clone(), why: why.to_owned() });
            }
            Err(ureq::Error::Rustls(why)) => {
                return Err(DeviceError::Tls { server: self.base.clone(), why: why.to_string() });
            }
            Err(e) => return Err(fault(e.to_string())),
        };
        let field =
            |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let (etag, dpop_nonce) = (field("etag"), field("dpop-nonce"));
        // Its other form, a date, would want a clock; this server writes seconds.
        let retry_after = field("retry-after").and_then(|text| text.trim().parse().ok());
        let retry_after = retry_after.map(|seconds: u64| Duration::from_secs(seconds.min(RETRY_AFTER_S_MAX)));
        let status = response.status().as_u16();
        let text = response.body_mut().read_to_string().map_err(|e| fault(e.to_string()))?;
        Ok(ApiAnswer { status, etag, dpop_nonce, retry_after, text })
    }

    /// Logs in with a client assertion and gets an access token for `resource`, else for the MQTT bridge. When the
    /// server refuses it for the time it says, once more with the server's own time and nonce: a device needs no clock
    /// for it.
    ///
    /// # Errors
    /// [`DeviceError::Denied`] with the server's error text, [`DeviceError::Unavailable`], or what [`Self::send`] answers.
    pub fn token(
        &self,
        device: &str,
        issuer: &str,
        resource: Option<&str>,
        key: &dyn Sign,
    ) -> Result<TokenAnswer, DeviceError> {
        self.access_token(&TokenRequest { device, issuer, resource, scope: None, bind_to: None }, key)
    }

    /// The same, with all that can be asked for.
    ///
    /// # Errors
    /// As [`Self::token`].
    pub fn access_token(
        &self,
        request: &TokenRequest<'_>,
        key: &dyn Sign,
    ) -> Result<TokenAnswer, DeviceError> {
        const PATH: &str = "/oauth/token";
        let TokenRequest { device, issuer, resource, scope, bind_to } = *request;
        let url = format!("{}{PATH}", issuer.trim_end_matches('/'));
        let answer = with_second_try(|time| {
            let (jti, now_s) = (random_id(), time.now_s());
            let assertion = ClientAssertion { device, issuer, now_s, jti: &jti }.signed(time.nonce(), key)?;
            if let Some(binding @ (Binding::Ace(_) | Binding::AceSymmetric)) = bind_to {
                let mut request = serde_json::json!({
                    "grant_type": "client_credentials",
                    "client_assertion_type": ASSERTION_TYPE,
                    "client_assertion": assertion,
                    "ace_profile": "",
                });
                if let Binding::Ace(key) = binding {
                    request["req_cnf"] = serde_json::json!({ "kid": key.public_key().thumbprint() });
                }
                for (name, value) in [("resource", resource), ("scope", scope)] {
                    if let Some(value) = value {
                        request[name] = value.into();
                    }
                }
                let body = request.to_string();
                return self.send_with("POST", PATH, &[], Some(("application/ace+json", body.as_bytes())));
            }
            let mut form = "grant_type=client_credentials".to_owned();
            let assertion = ("client_assertion", Some(assertion.as_str()));
            let kind = ("client_assertion_type", Some(ASSERTION_TYPE));
            for (name, value) in [kind, assertion, ("resource", resource), ("scope", scope)] {
                if let Some(value) = value {
                    form.push_str(&format!("&{name}="));
                    form.extend(value.bytes().map(form_byte));
                }
            }
            let proof = match bind_to {
                Some(Binding::Dpop(key)) => {
                    let (jti, nonce) = (random_id(), time.dpop_nonce.as_deref());
                    let proof = DpopProof { method: "POST", url: &url, now_s, jti: &jti, nonce, token: None };
                    Some(proof.sign(key, key.public_key())?)
                }
                _ => None,
            };
            let fields: Vec<(&str, &str)> = proof.iter().map(|proof| ("dpop", proof.as_str())).collect();
            let body = ("application/x-www-form-urlencoded", form.as_bytes());
            self.send_with("POST", PATH, &fields, Some(body))
        })?;
        let json = answer.json();
        let (200, Some(token)) = (answer.status, json["access_token"].as_str()) else {
            return Err(refused(&answer));
        };
        if matches!(bind_to, Some(Binding::Ace(_) | Binding::AceSymmetric))
            && json["ace_profile"] != "mqtt_tls"
        {
            return Err(DeviceError::Protocol("the token is not for the profile `mqtt_tls`".to_owned()));
        }
        let proof_key = match bind_to {
            Some(Binding::AceSymmetric) => Some(symmetric_key(&json["cnf"])?),
            _ => None,
        };
        let server_key = json.get("rs_cnf").map(ServerKey::from_json).transpose()?;
        let expires_in_s = json["expires_in"].as_u64().unwrap_or(0);
        Ok(TokenAnswer { access_token: token.to_owned(), expires_in_s, proof_key, server_key })
    }

    /// Gives the open MQTT sessions of a device a new right over HTTPS, beside their connections: for clients that cannot
    /// renew by themselves. With `client_id` only that session. The token it gets for it is bound to `key`, so sessions
    /// that were opened by a proof of possession are renewed too. Answers what the server says: `renewed` and `sessions`.
    ///
    /// # Errors
    /// As [`Self::token`].
    ///
    /// Source: RFC 9449 sections 5 and 7.
    pub fn refresh_sessions(
        &self,
        device: &str,
        issuer: &str,
        client_id: Option<&str>,
        key: &dyn DeviceKey,
    ) -> Result<ApiAnswer, DeviceError> {
        const PATH: &str = "/v1/self/sessions:refresh";
        let bind_to = Some(Binding::Dpop(key));
        let request = TokenRequest { device, issuer, resource: None, scope: None, bind_to };
        let token = self.access_token(&request, key)?.access_token;
        let url = format!("{}{PATH}", issuer.trim_end_matches('/'));
        let body = client_id.map(|id| serde_json::json!({ "client_id": id }).to_string());
        let body = body.as_ref().map(|body| ("application/json", body.as_bytes()));
        let answer = with_second_try(|time| {
            let (jti, nonce) = (random_id(), time.dpop_nonce.as_deref());
            let proof = DpopProof {
                method: "POST",
                url: &url,
                now_s: time.now_s(),
                jti: &jti,
                nonce,
                token: Some(&token),
            };
            let proof = proof.sign(key, key.public_key())?;
            let authorization = format!("DPoP {token}");
            self.send_with("POST", PATH, &[("authorization", &authorization), ("dpop", &proof)], body)
        })?;
        if answer.status == 200 { Ok(answer) } else { Err(refused(&answer)) }
    }

    /// Registers this device by an enrolment token. Store `key` before this is called: if the answer is
    /// lost, the same call with the same key gets it again.
    ///
    /// # Errors
    /// [`DeviceError::Denied`] with the server's error text, [`DeviceError::Unavailable`], or what [`Self::send`] answers.
    pub fn enrol(&self, device: &str, token: &str, key: &SigningKey) -> Result<EnrolmentAnswer, DeviceError> {
        let text = |json: &Value, member: &str| -> Result<String, DeviceError> {
            let found = json[member].as_str().map(str::to_owned);
            found.ok_or_else(|| DeviceError::Protocol(format!("the answer has no `{member}`")))
        };
        let said = |answer: ApiAnswer| match answer.status {
            200 | 201 => Ok(answer.json()),
            _ => Err(refused(&answer)),
        };
        let issuer =
            text(&said(self.send("GET", "/.well-known/oauth-authorization-server", None, None)?)?, "issuer")?;
        let form = ("application/x-www-form-urlencoded", b"purpose=enrolment".as_slice());
        let nonce = text(&said(self.send("POST", "/oauth/challenge", None, Some(form))?)?, "nonce")?;
        let proof = EnrolmentProof { device, issuer: &issuer, nonce: &nonce, authority: token }.sign(key)?;
        let jwk: Value = serde_json::from_str(&key.public_key().to_jwk_json())
            .map_err(|e| DeviceError::Key(format!("the key has no JWK form: {e}")))?;
        let body = serde_json::json!({ "client_id_hint": device, "jwks": { "keys": [jwk] }, "proof": proof })
            .to_string();
        let body = Some(("application/json", body.as_bytes()));
        let answer = said(self.send("POST", "/oauth/register", Some(token), body)?)?;
        Ok(EnrolmentAnswer {
            device: text(&answer, "client_id")?,
            registry: text(&answer, "registry")?,
            issuer: text(&answer, "issuer")?,
            bridge_audience: text(&answer, "bridge_audience")?,
            pending: answer["status"] != "active",
            registration_token: text(&answer, "registration_access_token")?,
        })
    }

    /// Replaces the device's key by `new`. Store `new` before this is called: if the answer is lost,
    /// the new key may be the one that counts. It needs no clock, as [`Self::token`].
    ///
    /// # Errors
    /// [`DeviceError::Denied`] with the server's error text, [`DeviceError::Unavailable`], or what [`Self::send`] answers.
    pub fn replace_key(&self, identity: &DeviceIdentity, new: &SigningKey) -> Result<ApiAnswer, DeviceError> {
        self.replace_key_of(&identity.device, &identity.issuer, &identity.key, new)
    }

    /// The same with keys of any kind.
    ///
    /// # Errors
    /// As [`Self::replace_key`].
    pub fn replace_key_of(
        &self,
        device: &str,
        issuer: &str,
        old: &dyn Sign,
        new: &dyn DeviceKey,
    ) -> Result<ApiAnswer, DeviceError> {
        let answer = with_second_try(|time| {
            let (update_jti, pop_jti) = (random_id(), random_id());
            let now_s = time.now_s();
            let update = KeyUpdate { device, issuer, now_s, update_jti: &update_jti, pop_jti: &pop_jti };
            let (update, pop) = update.signed(time.nonce(), old, new, new.public_key())?;
            let body = serde_json::json!({ "update": update, "pop": pop, "retire": "old" }).to_string();
            self.send("POST", "/v1/self/keys", None, Some(("application/json", body.as_bytes())))
        })?;
        if matches!(answer.status, 200 | 201) { Ok(answer) } else { Err(refused(&answer)) }
    }
}

/// What time a JWT is signed for, and with which nonces.
#[derive(Default)]
struct TimeToSign {
    /// Nonce and time of the server, once it has refused our own.
    from_server: Option<(String, u64)>,
    /// The server's nonce for DPoP, once it has wanted one.
    dpop_nonce: Option<String>,
}

impl TimeToSign {
    fn now_s(&self) -> u64 {
        self.from_server.as_ref().map_or_else(now_s, |(_, server_s)| *server_s)
    }

    fn nonce(&self) -> Option<&str> {
        self.from_server.as_ref().map(|(nonce, _)| nonce.as_str())
    }
}

/// Asks; and, when a refusal brings nonce and time of the server, or its nonce for DPoP, again with it. Each is tried
/// once.
fn with_second_try(
    ask: impl Fn(&TimeToSign) -> Result<ApiAnswer, DeviceError>,
) -> Result<ApiAnswer, DeviceError> {
    let mut time = TimeToSign::default();
    loop {
        let answer = ask(&time)?;
        if !matches!(answer.status, 400..=403) {
            return Ok(answer);
        }
        let json = answer.json();
        match (json["nonce"].as_str(), json["server_time"].as_u64(), &answer.dpop_nonce) {
            (Some(nonce), Some(server_s), _) if time.from_server.is_none() => {
                time.from_server = Some((nonce.to_owned(), server_s));
            }
            (_, _, Some(nonce)) if time.dpop_nonce.is_none() && wants_dpop_nonce(&json) => {
                time.dpop_nonce = Some(nonce.clone());
            }
            _ => return Ok(answer),
        }
    }
}

/// Outside of `/oauth` the error of DPoP stands in a header field, and its code in the body.
fn wants_dpop_nonce(refusal: &Value) -> bool {
    refusal["error"] == "use_dpop_nonce" || refusal["code"] == "DB-1046"
}

/// `cnf` of an answer: the key that the server has made.
///
/// Source: RFC 9201 section 3.2, RFC 7518 section 6.4.
fn symmetric_key(cnf: &Value) -> Result<SymmetricKey, DeviceError> {
    let jwk = &cnf["jwk"];
    let octets = jwk["k"].as_str().filter(|_| jwk["kty"] == "oct");
    octets.and_then(|octets| base64url_decode(octets).ok()).and_then(SymmetricKey::new).ok_or_else(|| {
        DeviceError::Protocol("the token came without a symmetric key of 32 bytes in `cnf`".to_owned())
    })
}

fn form_byte(byte: u8) -> String {
    if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
        char::from(byte).to_string()
    } else {
        format!("%{byte:02X}")
    }
}

fn refused(answer: &ApiAnswer) -> DeviceError {
    let json = answer.json();
    let word = json["error"].as_str().or(json["title"].as_str()).unwrap_or("no reason given");
    let detail = json["error_description"].as_str().or(json["detail"].as_str()).unwrap_or("");
    let text = format!("HTTP {} {word} {detail}", answer.status).trim_end().to_owned();
    match answer.status {
        429 | 500.. => DeviceError::Unavailable { why: text, retry_after: answer.retry_after },
        _ => DeviceError::Denied(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_cannot_answer_now_is_told_apart_from_one_that_refuses() {
        let retry_after = Some(Duration::from_secs(7));
        let text = r#"{"error":"x"}"#;
        let answer =
            |status| ApiAnswer { status, etag: None, dpop_nonce: None, retry_after, text: text.to_owned() };
        for status in [400, 401, 403, 409] {
            assert!(matches!(refused(&answer(status)), DeviceError::Denied(_)), "{status}");
        }
        for status in [429, 500, 503] {
            let DeviceError::Unavailable { retry_after: found, .. } = refused(&answer(status)) else {
                panic!("{status}");
            };
            assert_eq!(found, retry_after, "{status}");
        }
    }

    #[test]
    fn a_symmetric_key_is_read_from_cnf_or_the_token_is_of_no_use() {
        let cnf = |jwk: Value| serde_json::json!({ "jwk": jwk });
        let octets = drawbridge_jose::base64url_encode(&[7; 32]);
        assert!(symmetric_key(&cnf(serde_json::json!({ "kty": "oct", "k": octets }))).is_ok());
        for bad in [
            serde_json::json!({ "kty": "oct", "k": "AAAA" }),
            serde_json::json!({ "kty": "EC", "k": octets }),
            serde_json::json!({ "kty": "oct" }),
        ] {
            assert!(matches!(symmetric_key(&cnf(bad)), Err(DeviceError::Protocol(_))));
        }
        assert!(symmetric_key(&Value::Null).is_err());
    }

    #[test]
    fn nothing_secret_stands_in_debug() {
        const SECRET: &str = "hunter2-open-sesame";
        let key = SigningKey::generate(drawbridge_jose::Algorithm::Es256).expect("a key");
        let private = key.to_pkcs8_pem().to_string();
        let text = SECRET.to_owned();
        let identity = DeviceIdentity {
            registry: "default".into(),
            device: "lamp".into(),
            issuer: "https://core.example".into(),
            bridge_audience: "https://core.example/mqtt".into(),
            mqtts: String::new(),
            https: String::new(),
            ca_pem: String::new(),
            key,
        };
        let options = identity.mqtt_options().expect("signs");
        let jwt = String::from_utf8(options.password.clone()).expect("a JWT");
        let enrolment = EnrolmentAnswer {
            device: "lamp".into(),
            registry: "default".into(),
            issuer: String::new(),
            bridge_audience: String::new(),
            pending: false,
            registration_token: text.clone(),
        };
        let shown = [
            format!("{identity:?}"),
            format!("{options:?}"),
            format!("{enrolment:?}"),
            format!("{:?}", {
                let proof_key = SymmetricKey::new(SECRET.repeat(2).into_bytes());
                TokenAnswer { access_token: text.clone(), expires_in_s: 1, proof_key, server_key: None }
            }),
            format!("{:?}", ApiAnswer { status: 200, etag: None, dpop_nonce: None, retry_after: None, text }),
            format!("{:?}", EnrolmentProof { device: "lamp", issuer: "", nonce: "", authority: SECRET }),
        ];
        let lines: Vec<&str> = private.lines().filter(|line| line.len() >= 24).collect();
        for shown in shown {
            assert!(!shown.contains(SECRET) && !shown.contains(&jwt), "{shown}");
            assert!(!lines.iter().any(|line| shown.contains(line)), "{shown}");
        }
    }
}
