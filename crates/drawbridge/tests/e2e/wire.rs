//! HTTPS with any header and any body: also what no honest client would send.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use ureq::http::{HeaderMap, Request, Response};
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig};

use crate::harness::Core;
use crate::roads::Shown;

/// An answer, whatever its status.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    /// A member of the JSON body, as text; empty when it is none.
    pub(crate) fn text_of(&self, member: &str) -> String {
        self.json()[member].as_str().unwrap_or_default().to_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or(Value::Null)
    }

    /// A header, as text.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        self.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
    }
}

/// A client of one server, whose root it trusts and no other.
#[derive(Clone)]
pub(crate) struct Wire {
    agent: ureq::Agent,
    base: String,
}

impl Wire {
    pub(crate) fn of(core: &Core) -> Self {
        Self::showing(core, None)
    }

    /// With a client certificate, if there is one.
    pub(crate) fn showing(core: &Core, shown: Option<&Shown>) -> Self {
        let client = shown.map(|shown| {
            let chain = Certificate::from_der(&shown.chain).to_owned();
            let key = PrivateKey::from_pem(shown.key.as_bytes()).expect("a key");
            ClientCert::new_with_certs(&[chain], key)
        });
        let pem = fs::read_to_string(core.data().join("ca.pem")).expect("the root");
        let root = Certificate::from_pem(pem.as_bytes()).expect("a certificate");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::new_with_certs(&[root]))
            .client_cert(client)
            .unversioned_rustls_crypto_provider(provider)
            .build();
        let config = ureq::Agent::config_builder()
            .https_only(true)
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .timeout_global(Some(Duration::from_secs(20)))
            .tls_config(tls)
            .build();
        Self { agent: config.new_agent(), base: format!("https://{}", core.endpoints.https) }
    }

    /// Sends a request as it is; its URL says where to.
    pub(crate) fn run(&self, request: Request<Vec<u8>>) -> Result<Response<Vec<u8>>, ureq::Error> {
        let (parts, mut body) = self.agent.run(request)?.into_parts();
        Ok(Response::from_parts(parts, body.read_to_vec()?))
    }

    pub(crate) fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = self.run(request.body(body.to_vec()).expect("a request")).expect("an answer");
        let (parts, body) = answer.into_parts();
        Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            text: String::from_utf8_lossy(&body).into_owned(),
        }
    }

    pub(crate) fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.send("GET", path, headers, b"")
    }

    /// Sends a form.
    pub(crate) fn form(&self, path: &str, headers: &[(&str, &str)], form: &[(&str, &str)]) -> Answer {
        let pairs: Vec<String> = form.iter().map(|(n, v)| format!("{}={}", encoded(n), encoded(v))).collect();
        let kind = ("content-type", "application/x-www-form-urlencoded");
        self.send("POST", path, &[&[kind], headers].concat(), pairs.join("&").as_bytes())
    }

    /// Sends JSON.
    pub(crate) fn post(&self, path: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
        let kind = ("content-type", "application/json");
        self.send("POST", path, &[&[kind], headers].concat(), body.to_string().as_bytes())
    }
}

/// Every byte that has a meaning in a form, escaped.
fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}
