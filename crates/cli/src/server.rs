//! Which server to talk to, and as whom.

use std::fs;
use std::path::Path;

use drawbridge_device::{ApiAnswer, ApiClient};
use drawbridge_names::RegistryName;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::args::{Common, DEFAULT_REGISTRY};
use crate::{Failure, files};

/// `DIR/endpoints.json`: the addresses in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoints {
    /// MQTT over TLS, `127.0.0.1:8883`.
    pub mqtts: String,
    /// HTTPS.
    pub https: String,
    /// MQTT over WebSocket, at the path `/mqtt`.
    #[serde(default)]
    pub wss: String,
    /// MQTT without TLS, when there is such a listener.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mqtt: Option<String>,
}

/// A server and the admin credential for it.
pub struct Server {
    client: ApiClient,
    token: String,
    ca_pem: String,
    endpoints: Option<Endpoints>,
    registry: String,
    https: String,
}

impl Server {
    /// The server of `--data`, or the one of `--server`.
    ///
    /// # Errors
    /// [`Failure::Unavailable`] when the folder shows no running server, [`Failure::Usage`] when a file
    /// cannot be read.
    pub fn find(common: &Common) -> Result<Self, Failure> {
        let read = |path: &Path, wanted: &str| {
            String::from_utf8(files::read(path, wanted)?)
                .map_err(|_| Failure::Usage(format!("{}: not text; {wanted}", path.display())))
        };
        let credential = |path: &Path| {
            const WANTED: &str = "wanted the admin credential of the server, as `admin-token` in its data folder \
                                  holds it: one line that begins with `dba_`";
            let text = read(path, WANTED)?;
            let token = text.trim().to_owned();
            if token.starts_with("dba_") && !token.contains(char::is_whitespace) {
                return Ok(token);
            }
            Err(Failure::Usage(format!("{}: no admin credential was found; {WANTED}", path.display())))
        };
        let root =
            |path: &Path| read(path, "wanted the server's root certificate, `ca.pem` in its data folder");
        if let (Some(url), Some(token_file), Some(ca)) = (&common.server, &common.token_file, &common.ca) {
            let https = url.trim_start_matches("https://").trim_end_matches('/').to_owned();
            return Self::new(common, https, credential(token_file)?, root(ca)?, None);
        }
        let endpoints = Self::endpoints(common)?;
        let token = credential(&common.data.join("admin-token"))?;
        let ca = root(&common.data.join("ca.pem"))?;
        Self::new(common, endpoints.https.clone(), token, ca, Some(endpoints))
    }

    /// The same server as somebody sees it who has no admin credential: a device.
    ///
    /// # Errors
    /// As [`Self::find`].
    pub(crate) fn as_guest(common: &Common) -> Result<Self, Failure> {
        let root = |path: &Path| {
            String::from_utf8(files::read(path, "wanted the server's root certificate")?).map_err(|_| {
                Failure::Usage(format!("{}: not text; wanted a certificate in PEM", path.display()))
            })
        };
        if let (Some(url), Some(ca)) = (&common.server, &common.ca) {
            let https = url.trim_start_matches("https://").trim_end_matches('/').to_owned();
            return Self::new(common, https, String::new(), root(ca)?, None);
        }
        let endpoints = Self::endpoints(common)?;
        let ca = root(&common.data.join("ca.pem"))?;
        Self::new(common, endpoints.https.clone(), String::new(), ca, Some(endpoints))
    }

    fn endpoints(common: &Common) -> Result<Endpoints, Failure> {
        let path = common.data.join("endpoints.json");
        let text = fs::read_to_string(&path).map_err(|e| {
            Failure::Unavailable(format!(
                "{}: {e}; start the server with `drawbridge serve --data {}`, or name another folder with --data",
                path.display(),
                common.data.display()
            ))
        })?;
        serde_json::from_str(&text).map_err(|e| {
            Failure::Usage(format!("{}: {e}; restart the server to write it anew", path.display()))
        })
    }

    fn new(
        common: &Common,
        https: String,
        token: String,
        ca_pem: String,
        endpoints: Option<Endpoints>,
    ) -> Result<Self, Failure> {
        RegistryName::parse(&common.registry).map_err(|e| Failure::Usage(format!("--registry: {e}")))?;
        let base = match common.registry.as_str() {
            DEFAULT_REGISTRY => format!("https://{https}"),
            other => format!("https://{https}/r/{other}"),
        };
        let client = ApiClient::new(&base, &ca_pem)?;
        Ok(Self { client, token, ca_pem, endpoints, registry: common.registry.clone(), https })
    }

    /// The root certificate of the server, PEM.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// `host:port` of HTTPS.
    #[must_use]
    pub fn https(&self) -> &str {
        &self.https
    }

    /// `host:port` of MQTT over TLS; of a remote server the standard port is assumed.
    #[must_use]
    pub fn mqtts(&self) -> String {
        match &self.endpoints {
            Some(endpoints) => endpoints.mqtts.clone(),
            None => {
                format!("{}:8883", self.https.rsplit_once(':').map_or(self.https.as_str(), |(host, _)| host))
            }
        }
    }

    /// The registry that commands work in.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The HTTPS client, without the admin credential.
    #[must_use]
    pub fn client(&self) -> &ApiClient {
        &self.client
    }

    /// Asks the API as admin; an answer of refusal is a failure.
    ///
    /// # Errors
    /// [`Failure`] by the status of the answer.
    pub fn call(
        &self,
        method: &str,
        path: &str,
        body: Option<&serde_json::Value>,
    ) -> Result<ApiAnswer, Failure> {
        let text = body.map(ToString::to_string);
        self.call_with(method, path, text.as_ref().map(|text| ("application/json", text.as_bytes())))
    }

    /// The same with a body of any kind: its media type and bytes.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub(crate) fn call_with(
        &self,
        method: &str,
        path: &str,
        body: Option<(&str, &[u8])>,
    ) -> Result<ApiAnswer, Failure> {
        let answer = self.client.send(method, path, Some(&self.token), body)?;
        if (200..300).contains(&answer.status) { Ok(answer) } else { Err(self.refusal(&answer)) }
    }

    /// What the registry publishes of itself: `issuer`, `bridge_audience` and where its doors are.
    ///
    /// # Errors
    /// [`Failure::NotFound`] when there is no such registry.
    pub(crate) fn discovery(&self) -> Result<Value, Failure> {
        let answer = self.client.send("GET", "/.well-known/oauth-authorization-server", None, None)?;
        if answer.status == 200 { Ok(answer.json()) } else { Err(self.refusal(&answer)) }
    }

    /// A 404 has two meanings: no such record, or no such registry to look in.
    fn refusal(&self, answer: &ApiAnswer) -> Failure {
        if answer.status == 404 && self.registry != DEFAULT_REGISTRY && self.registry_is_missing() {
            return Failure::NotFound(format!(
                "there is no registry `{}`; see `drawbridge registry list`",
                self.registry
            ));
        }
        Failure::of_answer(answer)
    }

    fn registry_is_missing(&self) -> bool {
        let base = format!("https://{}", self.https);
        let listed = ApiClient::new(&base, &self.ca_pem)
            .and_then(|root| root.send("GET", "/v1/registries", Some(&self.token), None));
        let Ok(answer) = listed else { return false };
        let list = answer.json();
        let Some(items) = list["items"].as_array() else { return false };
        items.iter().all(|item| item["name"] != self.registry.as_str())
    }

    /// Creates a resource that must not exist yet: POST on its collection.
    ///
    /// # Errors
    /// [`Failure::Conflict`] when it exists.
    pub(crate) fn create(
        &self,
        collection: &str,
        name: &str,
        body: &serde_json::Value,
    ) -> Result<ApiAnswer, Failure> {
        let mut body = body.clone();
        body["name"] = name.into();
        self.call("POST", collection, Some(&body))
    }
}

/// Percent-encodes a path segment or query value: a name may hold `%`.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
