//! Tokens with a key (RFC 9431) as their owners hold them, and proofs by that key.

use std::sync::Arc;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use coset::CborSerializable as _;
use coset::cbor::Value as Cbor;
use drawbridge_jose::{Algorithm, Sign as _, SigningKey};
use serde_json::{Value, json};
use ureq::http::Request;

use crate::harness::{Core, jwt, now_s};
use crate::wire::Wire;

pub(crate) const KIND: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
const ACE_JSON: &str = "application/ace+json";
const ACE_CBOR: &str = "application/ace+cbor";

/// What proves the key of a token.
#[derive(Clone)]
pub(crate) enum Pop {
    Hmac(Vec<u8>),
    Key(Arc<SigningKey>),
}

impl Pop {
    pub(crate) fn prove(&self, message: &[u8]) -> Vec<u8> {
        match self {
            Self::Hmac(key) => hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message).as_ref().to_vec(),
            Self::Key(key) => key.sign(message).expect("it signs"),
        }
    }
}

/// A token and the key in it.
#[derive(Clone)]
pub(crate) struct Held {
    pub(crate) token: Vec<u8>,
    pub(crate) pop: Pop,
}

/// A device with a key of its own.
pub(crate) struct Owner {
    pub(crate) name: String,
    pub(crate) key: Arc<SigningKey>,
    pub(crate) issuer: String,
}

impl Owner {
    pub(crate) fn register(core: &Core, name: &str, algorithm: Algorithm) -> Self {
        Self::with_policy(core, name, algorithm, "device")
    }

    pub(crate) fn with_policy(core: &Core, name: &str, algorithm: Algorithm, policy: &str) -> Self {
        let key = SigningKey::generate(algorithm).expect("a key");
        let jwk: Value = serde_json::from_str(&key.public_key().to_jwk_json()).expect("JSON");
        let body = json!({ "name": name, "keys": [{ "jwk": jwk }], "policy": policy });
        core.admin("POST", "/v1/devices", Some(&body));
        let issuer = core.admin("GET", "/.well-known/oauth-authorization-server", None)["issuer"].clone();
        Self {
            name: name.to_owned(),
            key: Arc::new(key),
            issuer: issuer.as_str().expect("a text").to_owned(),
        }
    }

    pub(crate) fn body(&self, more: Value) -> Value {
        let claims = json!({
            "iss": self.name, "sub": self.name, "aud": self.issuer, "exp": now_s() + 60,
            "jti": format!("{:032x}", u128::from_be_bytes(random())),
        });
        let assertion = jwt(None, &claims, &*self.key);
        let mut body = json!({ "client_assertion_type": KIND, "client_assertion": assertion });
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        body
    }

    /// A token with a symmetric key of the server's, or bound to the device's own; as JWT or CWT.
    pub(crate) fn token(&self, core: &Core, symmetric: bool, cwt: bool, more: Value) -> Held {
        let mut body = self.body(more);
        if !symmetric {
            body["req_cnf"] = json!({ "kid": self.key.public_key().thumbprint() });
        }
        let form = if cwt { ACE_CBOR } else { ACE_JSON };
        let request = Request::post(format!("https://{}/oauth/token", core.endpoints.https))
            .header("content-type", ACE_JSON)
            .header("accept", form);
        let request = request.body(body.to_string().into_bytes()).expect("a request");
        let answer = Wire::of(core).run(request).expect("an answer");
        assert_eq!(answer.status(), 200, "{}", String::from_utf8_lossy(answer.body()));
        let (token, key) = if cwt {
            let map = Cbor::from_slice(answer.body()).expect("CBOR").into_map().expect("a map");
            let key = member(&map, 8)
                .and_then(|cnf| member(cnf.as_map()?, 1)?.as_map())
                .map(|key| member(key, -1).and_then(|k| k.as_bytes()).expect("a key").clone());
            (member(&map, 1).and_then(|token| token.as_bytes()).expect("a token").clone(), key)
        } else {
            let body: Value = serde_json::from_slice(answer.body()).expect("JSON");
            let key = body["cnf"]["jwk"]["k"].as_str().map(|k| URL_SAFE_NO_PAD.decode(k).expect("base64url"));
            (body["access_token"].as_str().expect("a token").as_bytes().to_vec(), key)
        };
        assert_eq!(key.is_some(), symmetric);
        Held { token, pop: key.map_or_else(|| Pop::Key(Arc::clone(&self.key)), Pop::Hmac) }
    }
}

pub(crate) fn member(map: &[(Cbor, Cbor)], label: i64) -> Option<&Cbor> {
    map.iter().find(|(key, _)| *key == Cbor::from(label)).map(|(_, value)| value)
}

pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).expect("random bytes");
    bytes
}
