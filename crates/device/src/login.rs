//! The ways in: what a client presents in CONNECT, and where its tokens come from.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use drawbridge_jose::base64url_decode;
use drawbridge_mqtt::codec::ProtocolVersion;
use serde_json::Value;

use crate::link::Link;
use crate::{
    ACE_EXPORTER_LABEL, ACE_METHOD, ApiClient, Binding, CHANNEL_BINDING_LABEL, ConnectJwt, DeviceError,
    DeviceKey, Prove, ServerKey, SignError, SymmetricKey, TokenRequest, ace_prove, ace_token, ace_user_name,
    random_id,
};

/// How a client proves who it is. What it shows in the TLS handshake comes on top: see [`crate::Tls`].
#[derive(Clone)]
pub enum Way {
    /// The token is the password. Any version, any broker; the default.
    Token,
    /// The token is the data of an Authentication Method that needs one round, `OAUTH2-JWT` or `CUSTOM-JWT`; MQTT 5.
    Method(String),
    /// RFC 9431: the token, and a proof that we have its key. In 3.1.1 only with [`AceProof::Exporter`].
    Ace(AceProof),
    /// User name and password.
    Password {
        /// User name.
        user_name: String,
        /// Password.
        password: Vec<u8>,
    },
    /// Nothing in CONNECT: the certificate of the TLS handshake, or the listener, says who we are.
    Certificate,
}

impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token => f.write_str("Token"),
            Self::Method(name) => write!(f, "Method({name})"),
            Self::Ace(proof) => write!(f, "Ace({proof:?})"),
            Self::Password { user_name, .. } => write!(f, "Password({user_name})"),
            Self::Certificate => f.write_str("Certificate"),
        }
    }
}

/// How a client of RFC 9431 proves that it has the key of its token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AceProof {
    /// By what TLS exports: no further round trip. Source: section 2.2.4.2.1.
    Exporter,
    /// By a challenge of the server: for what ends TLS elsewhere. Source: section 2.2.4.2.2.
    Challenge,
}

/// A token as it is presented.
#[derive(Clone)]
pub struct Token {
    /// Its bytes: text of a JWT or an opaque token, or a CWT.
    pub bytes: Vec<u8>,
    /// How long it is good from now on, if that is known: so early is it renewed.
    pub life: Option<Duration>,
    /// It is worth nothing without a proof of our key (`cnf`), so its renewal carries one.
    pub bound: bool,
    /// The key that it is bound to, where that is not the device's own.
    pub proof_key: Option<SymmetricKey>,
    /// The server that it is for, which is compared with the one that was found before anything is sent there.
    pub server_key: Option<ServerKey>,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("life", &self.life).field("bound", &self.bound).finish_non_exhaustive()
    }
}

impl Token {
    /// A token of these bytes, of which nothing else is known.
    #[must_use]
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self { bytes: bytes.into(), life: None, bound: false, proof_key: None, server_key: None }
    }

    /// A token from elsewhere. Of a JWT the claims `exp`, `iat` and `cnf` are read, which say when to renew and whether
    /// a proof is wanted; nothing is verified, the server does that. `now_s`: seconds since 1970-01-01 UTC.
    #[must_use]
    pub fn of_text(text: &str, now_s: u64) -> Self {
        let claims = text.split('.').nth(1).and_then(|claims| base64url_decode(claims).ok());
        let claims: Value =
            claims.and_then(|claims| serde_json::from_slice(&claims).ok()).unwrap_or(Value::Null);
        let second =
            |name: &str| claims[name].as_f64().filter(|second| *second >= 0.0).map(|second| second as u64);
        let life_s = second("exp").map(|exp| {
            let left = exp.saturating_sub(now_s);
            // A clock that stands wrong does not make it live longer than it was made to.
            second("iat").map_or(left, |iat| left.min(exp.saturating_sub(iat)))
        });
        let bound = claims.get("cnf").is_some();
        Self { life: life_s.map(Duration::from_secs), bound, ..Self::new(text) }
    }
}

/// Where tokens come from. One is taken for each connection and for each renewal.
#[derive(Clone)]
pub enum TokenSource {
    /// A JWT that the device signs itself, good so many seconds.
    DeviceJwt {
        /// Seconds, at most 86,400.
        life_s: u64,
        /// With the claim `cb`: good for its TLS connection alone.
        bound: bool,
    },
    /// An access token from the token endpoint, by a client assertion of the device's key; needs no clock.
    AccessToken {
        /// Less than all that the policy allows, as AIF-MQTT.
        scope: Option<String>,
        /// Bound to the device's key.
        bound: bool,
    },
    /// An access token for RFC 9431, bound to the device's key: see [`Way::Ace`].
    AceToken {
        /// Less than all that the policy allows, as AIF-MQTT.
        scope: Option<String>,
    },
    /// The same, bound to a symmetric key that the server makes for it: for devices that cannot sign for each connection.
    /// No `rs_cnf` comes with it (RFC 9201 section 3.2): the server is known by [`crate::Trust`] alone.
    AceSymmetric {
        /// Less than all that the policy allows, as AIF-MQTT.
        scope: Option<String>,
    },
    /// Whatever this answers: a file that another program writes, a gateway, another authorization server.
    From(Arc<dyn Fn() -> Result<Token, DeviceError> + Send + Sync>),
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DeviceJwt { life_s, bound } => write!(f, "DeviceJwt({life_s} s, bound: {bound})"),
            Self::AccessToken { scope, bound } => write!(f, "AccessToken({scope:?}, bound: {bound})"),
            Self::AceToken { scope } => write!(f, "AceToken({scope:?})"),
            Self::AceSymmetric { scope } => write!(f, "AceSymmetric({scope:?})"),
            Self::From(_) => f.write_str("From"),
        }
    }
}

/// Who signs, with which key, for whom.
#[derive(Clone)]
pub struct KeyLogin {
    /// The device.
    pub device: String,
    /// The issuer of its registry: the `aud` of its client assertions.
    pub issuer: String,
    /// The `aud` of its JWTs for CONNECT.
    pub bridge_audience: String,
    /// Its key.
    pub key: Arc<dyn DeviceKey>,
    /// HTTPS of the server, for access tokens and new keys.
    pub api: Option<ApiClient>,
    /// The identity folder that the key is in, if it is in one: there [`crate::DeviceClient::rotate_key_in_folder`] keeps its
    /// successor, and a client that was cut off meanwhile finds it again.
    pub folder: Option<PathBuf>,
}

impl fmt::Debug for KeyLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyLogin")
            .field("device", &self.device)
            .field("issuer", &self.issuer)
            .field("kid", &self.key.public_key().thumbprint())
            .finish_non_exhaustive()
    }
}

impl TokenSource {
    /// Whether a token is made here, at once, by the key alone.
    pub(crate) fn is_minted_here(&self) -> bool {
        matches!(self, Self::DeviceJwt { .. })
    }

    /// A token. `binding`: what TLS exports for the claim `cb`; `nonce`: of the server, for a JWT of ours.
    pub(crate) fn token(
        &self,
        login: Option<&KeyLogin>,
        now_s: u64,
        binding: Option<[u8; 32]>,
        nonce: Option<&str>,
    ) -> Result<Token, DeviceError> {
        let login = || {
            login.ok_or_else(|| {
                DeviceError::Key("there is no key to log in with; give a `KeyLogin`".to_owned())
            })
        };
        match self {
            Self::From(source) => source(),
            Self::DeviceJwt { life_s, bound } => {
                let KeyLogin { device, bridge_audience, key, .. } = login()?;
                let jwt = ConnectJwt { device, bridge_audience, now_s, life_s: *life_s };
                let text = match (binding.filter(|_| *bound), nonce) {
                    (binding, Some(nonce)) => {
                        jwt.sign_with_nonce(nonce, &random_id(), binding.as_ref(), key.as_ref())?
                    }
                    (Some(binding), None) => jwt.sign_bound(&binding, key.as_ref())?,
                    (None, None) => jwt.sign(key.as_ref())?,
                };
                // `cb` stands in it: no second line proves it once more.
                Ok(Token { life: Some(Duration::from_secs(*life_s)), ..Token::new(text) })
            }
            Self::AccessToken { scope, bound } => {
                let login = login()?;
                let bind_to = bound.then(|| Binding::Dpop(login.key.as_ref()));
                login.access_token(scope.as_deref(), bind_to)
            }
            Self::AceToken { scope } => {
                let login = login()?;
                login.access_token(scope.as_deref(), Some(Binding::Ace(login.key.as_ref())))
            }
            Self::AceSymmetric { scope } => {
                login()?.access_token(scope.as_deref(), Some(Binding::AceSymmetric))
            }
        }
    }
}

impl KeyLogin {
    fn access_token(&self, scope: Option<&str>, bind_to: Option<Binding<'_>>) -> Result<Token, DeviceError> {
        let api = self.api.as_ref().ok_or_else(|| {
            DeviceError::Denied("an access token comes over HTTPS; say where that is".to_owned())
        })?;
        let request =
            TokenRequest { device: &self.device, issuer: &self.issuer, resource: None, scope, bind_to };
        let answer = api.access_token(&request, self.key.as_ref())?;
        let life = (answer.expires_in_s > 0).then(|| Duration::from_secs(answer.expires_in_s));
        let (proof_key, server_key) = (answer.proof_key, answer.server_key);
        Ok(Token { life, bound: bind_to.is_some(), proof_key, server_key, ..Token::new(answer.access_token) })
    }
}

/// The key that a token is bound to.
#[derive(Clone, Copy)]
pub(crate) enum ProofKey<'a> {
    Own(&'a dyn DeviceKey),
    OfToken(&'a SymmetricKey),
}

impl<'a> ProofKey<'a> {
    /// That of this token.
    pub(crate) fn of(token: Option<&'a Token>, login: Option<&'a KeyLogin>) -> Result<Self, DeviceError> {
        let own = || login.map(|login| Self::Own(login.key.as_ref()));
        let of_token = token.and_then(|token| token.proof_key.as_ref()).map(Self::OfToken);
        of_token.or_else(own).ok_or_else(|| {
            DeviceError::Key("a proof of possession needs the key of the token; give a `KeyLogin`".to_owned())
        })
    }
}

impl Prove for ProofKey<'_> {
    fn prove(&self, input: &[u8]) -> Result<Vec<u8>, SignError> {
        match self {
            Self::Own(key) => key.prove(input),
            Self::OfToken(key) => key.prove(input),
        }
    }
}

/// What stands in CONNECT.
#[derive(Default)]
pub(crate) struct Presented {
    pub(crate) user_name: Option<String>,
    pub(crate) password: Option<Vec<u8>>,
    pub(crate) method: Option<String>,
    pub(crate) data: Option<Vec<u8>>,
}

impl Way {
    /// Whether a token is presented.
    pub(crate) fn takes_token(&self) -> bool {
        matches!(self, Self::Token | Self::Method(_) | Self::Ace(_))
    }

    /// The Authentication Method, if there is one.
    pub(crate) fn method(&self, version: ProtocolVersion) -> Option<&str> {
        match self {
            _ if version == ProtocolVersion::V311 => None,
            Self::Method(name) => Some(name),
            Self::Ace(_) => Some(ACE_METHOD),
            _ => None,
        }
    }

    /// What to present over this link.
    pub(crate) fn present(
        &self,
        token: Option<&Token>,
        login: Option<&KeyLogin>,
        link: &Link,
        version: ProtocolVersion,
    ) -> Result<Presented, DeviceError> {
        const HAS_TOKEN: &str = "`takes_token` said so, and one was fetched";
        let key = || ProofKey::of(token, login);
        let token = || token.expect(HAS_TOKEN).bytes.as_slice();
        let old = version == ProtocolVersion::V311;
        Ok(match self {
            Self::Certificate => Presented::default(),
            Self::Password { user_name, password } => Presented {
                user_name: Some(user_name.clone()),
                password: Some(password.clone()),
                ..Presented::default()
            },
            // 3.1.1 permits no password without a user name; beside a token the name is of no account.
            Self::Token => Presented {
                user_name: old.then(|| "token".to_owned()),
                password: Some(token().to_vec()),
                ..Presented::default()
            },
            Self::Method(name) if !old => {
                Presented { method: Some(name.clone()), data: Some(token().to_vec()), ..Presented::default() }
            }
            Self::Ace(AceProof::Exporter) if old => Presented {
                user_name: Some(ace_user_name(token())),
                password: Some(key()?.prove(&exported(link)?)?),
                ..Presented::default()
            },
            Self::Ace(proof) if !old => {
                let mut data = ace_token(token()).map_err(|e| DeviceError::Key(e.to_string()))?;
                if *proof == AceProof::Exporter {
                    ace_prove(&mut data, &exported(link)?, &key()?)?;
                }
                Presented { method: Some(ACE_METHOD.to_owned()), data: Some(data), ..Presented::default() }
            }
            Self::Method(_) | Self::Ace(_) => {
                return Err(DeviceError::Protocol(
                    "MQTT 3.1.1 has no Authentication Method and no challenge; use MQTT 5, or the exporter proof of `ace`"
                        .to_owned(),
                ));
            }
        })
    }
}

/// What TLS exports for the proof of RFC 9431.
fn exported(link: &Link) -> Result<[u8; 32], DeviceError> {
    link.export(ACE_EXPORTER_LABEL, b"")?.ok_or_else(no_tls)
}

/// What TLS exports for the claim `cb`; `None` without TLS.
pub(crate) fn channel_binding(link: &Link) -> Result<Option<[u8; 32]>, DeviceError> {
    link.export(CHANNEL_BINDING_LABEL, b"")
}

fn no_tls() -> DeviceError {
    DeviceError::Protocol("this proof needs TLS, and the connection has none".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jwt(claims: &Value) -> String {
        format!("e30.{}.x", drawbridge_jose::base64url_encode(claims.to_string().as_bytes()))
    }

    #[test]
    fn the_life_of_a_token_from_elsewhere_is_read_from_it() {
        let life =
            |claims: Value, now_s| Token::of_text(&jwt(&claims), now_s).life.map(|life| life.as_secs());
        assert_eq!(life(serde_json::json!({"exp": 1100}), 1000), Some(100));
        assert_eq!(life(serde_json::json!({"exp": 1100, "iat": 1000}), 0), Some(100), "a clock at 1970");
        assert_eq!(life(serde_json::json!({"exp": 900}), 1000), Some(0));
        assert_eq!(life(serde_json::json!({"iat": 1}), 1000), None);
        assert_eq!(Token::of_text("dbo_opaque", 1000).life, None);
        assert!(Token::of_text(&jwt(&serde_json::json!({"cnf": {"jkt": "x"}})), 0).bound);
    }

    #[test]
    fn nothing_secret_stands_in_debug() {
        let token = Token::new("secret-token");
        let way = Way::Password { user_name: "lamp".into(), password: b"secret-word".to_vec() };
        assert_eq!(format!("{token:?} {way:?}"), "Token { life: None, bound: false, .. } Password(lamp)");
    }
}
