//! A server on 127.0.0.1 and a client that trusts its certificate.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use drawbridge_admission::{Actor, Admission, AdmissionConfig, NewApplication, NewDevice, NewRegistry};
use drawbridge_control::{Control, DeliveryOutcome, DeviceOrder, Dispatch};
use drawbridge_http::{HttpConfig, HttpState, MetricsPage, router, serve};
use drawbridge_names::{PolicyName, PrincipalName, RegistryName};
use drawbridge_registry::Store;
use drawbridge_registry::memory::MemoryStore;
use drawbridge_testkit::{FakeClock, SeededRandom, TestDevice, sealer};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::openapi::conforms;

/// The issuer of registry `default`. It is no address of the server: nothing may be derived from that.
pub(crate) const ISSUER: &str = "https://id.example";

/// A page of one number.
struct FakeMetrics;

impl MetricsPage for FakeMetrics {
    fn render(&self) -> Pin<Box<dyn Future<Output = String> + Send + '_>> {
        Box::pin(async { "# HELP up 1.\n# TYPE up gauge\nup 1\n".to_owned() })
    }
}

/// Keeps the orders and answers as it was told, else `Acknowledged`.
#[derive(Default)]
pub(crate) struct FakeBridge {
    pub(crate) sent: Mutex<Vec<DeviceOrder>>,
    pub(crate) answers: Mutex<VecDeque<DeliveryOutcome>>,
}

#[async_trait]
impl Dispatch for FakeBridge {
    async fn send(&self, order: DeviceOrder) -> DeliveryOutcome {
        self.sent.lock().expect("not poisoned").push(order);
        self.answers.lock().expect("not poisoned").pop_front().unwrap_or(DeliveryOutcome::Acknowledged)
    }
}

pub(crate) struct World {
    pub(crate) admission: Admission,
    pub(crate) clock: Arc<FakeClock>,
    pub(crate) bridge: Arc<FakeBridge>,
    pub(crate) admin: String,
    address: SocketAddr,
    connector: TlsConnector,
    roots: rustls::RootCertStore,
    /// Dropped with the world: the server stops.
    _stop: tokio::sync::oneshot::Sender<()>,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with_config(HttpConfig::default()).await
    }

    pub(crate) async fn with_config(config: HttpConfig) -> Self {
        Self::with(Arc::new(MemoryStore::new()), config, AdmissionConfig::default()).await
    }

    pub(crate) async fn with(store: Arc<dyn Store>, config: HttpConfig, settings: AdmissionConfig) -> Self {
        let clock = Arc::new(FakeClock::default());
        let random = Arc::new(SeededRandom::new(7));
        let admission = Admission::open(store.clone(), clock.clone(), random.clone(), sealer(), settings)
            .await
            .expect("opens");
        let default = NewRegistry::named(registry(), Some(ISSUER.to_owned()));
        admission.create_registry(default, &Actor::Server).await.expect("the default registry");
        let admin = admission.create_admin_token(&Actor::Server).await.expect("a credential").to_string();
        let bridge = Arc::new(FakeBridge::default());
        let control = Arc::new(Control::new(store, bridge.clone(), clock.clone()));
        let state = HttpState {
            admission: admission.clone(),
            control,
            random,
            config: Arc::new(config.clone()),
            web_socket: None,
            metrics: Some(Arc::new(FakeMetrics)),
            counts: Arc::default(),
        };

        let (tls, roots) = tls();
        let connector = connector(&roots, None);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        tokio::spawn(serve(listener, tls, router(state), config, async move {
            let _ = stopped.await;
        }));
        Self { admission, clock, bridge, admin, address, connector, roots, _stop: stop }
    }

    /// Registers a device with the policy `device`.
    pub(crate) async fn device(&self, name: &str) -> TestDevice {
        let device = TestDevice::new(name);
        let new = NewDevice::with_key(device.name.clone(), device.public_key().clone());
        self.admission.add_device(&registry(), new, &Actor::Admin).await.expect(name);
        device
    }

    /// Registers a device that may use the aliases.
    pub(crate) async fn legacy_device(&self, name: &str) -> TestDevice {
        let device = TestDevice::new(name);
        let mut new = NewDevice::with_key(device.name.clone(), device.public_key().clone());
        new.legacy_assertions = true;
        self.admission.add_device(&registry(), new, &Actor::Admin).await.expect(name);
        device
    }

    /// Registers an application with a policy of this text, if there is one.
    pub(crate) async fn application(&self, name: &str, source: Option<&str>) -> TestDevice {
        let application = TestDevice::new(name);
        let policy = source.map(|_| PolicyName::parse(name).expect(name));
        if let (Some(policy), Some(source)) = (&policy, source) {
            self.admission.set_policy(&registry(), policy, source, &Actor::Admin).await.expect(source);
        }
        let keys = vec![application.public_key().clone().into()];
        let new = NewApplication { name: application.name.clone(), keys, policy };
        self.admission.add_application(&registry(), new, &Actor::Admin).await.expect(name);
        application
    }

    pub(crate) fn answer(&self, outcome: DeliveryOutcome) {
        self.bridge.answers.lock().expect("not poisoned").push_back(outcome);
    }

    /// An access token for `/v1`, or with `None` for the bridge.
    pub(crate) async fn token(&self, device: &TestDevice, resource: Option<&str>, scope: &str) -> String {
        let assertion = device.assertion(ISSUER, self.clock.now_s()).sign();
        let mut form = login_form(&assertion);
        if let Some(resource) = resource {
            form.push_str(&format!("&resource={resource}"));
        }
        form.push_str(&format!("&scope={scope}"));
        let answer = self.send(Ask::post("/oauth/token").form(&form)).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json()["access_token"].as_str().expect("a token").to_owned()
    }

    pub(crate) async fn connect(&self) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(self.address).await.expect("the server listens");
        let name = ServerName::try_from("localhost").expect("a name");
        self.connector.connect(name, stream).await.expect("a TLS handshake")
    }

    /// The same, where the server may close it.
    async fn try_connect(&self) -> Option<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address).await.ok()?;
        let name = ServerName::try_from("localhost").expect("a name");
        self.connector.connect(name, stream).await.ok()
    }

    /// Over a connection with a client certificate: the chain in DER, the private key in PKCS#8.
    pub(crate) async fn send_with(&self, chain: &[Vec<u8>], key: &[u8], ask: Ask) -> Answer {
        let connector = connector(&self.roots, Some((chain, key)));
        let stream = TcpStream::connect(self.address).await.expect("the server listens");
        let name = ServerName::try_from("localhost").expect("a name");
        let mut read = Vec::new();
        // In TLS 1.3 a client learns after its handshake only that its certificate was refused.
        if let Ok(mut stream) = connector.connect(name, stream).await {
            let _ = stream.write_all(&ask.bytes()).await;
            let _ = stream.read_to_end(&mut read).await;
        }
        let answer = Answer::parse(&read);
        conforms(&ask.method, &ask.path, &answer).await;
        answer
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// As the operator.
    pub(crate) async fn admin(&self, ask: Ask) -> Answer {
        let admin = self.admin.clone();
        self.send(ask.bearer(&admin)).await
    }

    /// Every answer is held against the OpenAPI document.
    pub(crate) async fn send(&self, ask: Ask) -> Answer {
        let answer = self.send_raw(&ask.bytes()).await;
        conforms(&ask.method, &ask.path, &answer).await;
        answer
    }

    /// Writes bytes, reads until the server closes.
    pub(crate) async fn send_raw(&self, bytes: &[u8]) -> Answer {
        let Some(mut stream) = self.try_connect().await else { return Answer::parse(b"") };
        // A server that refuses early may close before all is written; its answer is there nevertheless.
        let _ = stream.write_all(bytes).await;
        let mut read = Vec::new();
        let _ = stream.read_to_end(&mut read).await;
        Answer::parse(&read)
    }
}

pub(crate) fn registry() -> RegistryName {
    RegistryName::default_registry()
}

pub(crate) fn name(text: &str) -> PrincipalName {
    PrincipalName::parse(text).expect(text)
}

pub(crate) fn login_form(assertion: &str) -> String {
    format!(
        "grant_type=client_credentials&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer&client_assertion={assertion}"
    )
}

fn tls() -> (Arc<rustls::ServerConfig>, rustls::RootCertStore) {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_key = KeyPair::generate().expect("a key");
    let root = params.self_signed(&ca_key).expect("a root");
    let issuer = Issuer::new(params, ca_key);
    let key = KeyPair::generate().expect("a key");
    let leaf = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    let leaf = leaf.signed_by(&key, &issuer).expect("a leaf");

    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let server = drawbridge_bridge::server_tls_asking(vec![leaf.der().clone()], key);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(root.der().clone()).expect("a root");
    (server.expect("key and leaf belong together"), roots)
}

/// A client, with a certificate or without.
fn connector(roots: &rustls::RootCertStore, identity: Option<(&[Vec<u8>], &[u8])>) -> TlsConnector {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots.clone());
    let mut client = match identity {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            let chain = chain.iter().map(|der| der.clone().into()).collect();
            let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.to_vec()));
            builder.with_client_auth_cert(chain, key).expect("the key is of a kind that signs")
        }
    };
    client.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    TlsConnector::from(Arc::new(client))
}

/// A request to be.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Ask {
    pub(crate) fn new(method: &str, path: &str) -> Self {
        Self { method: method.to_owned(), path: path.to_owned(), headers: Vec::new(), body: Vec::new() }
    }

    pub(crate) fn get(path: &str) -> Self {
        Self::new("GET", path)
    }

    pub(crate) fn post(path: &str) -> Self {
        Self::new("POST", path)
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn bearer(self, token: &str) -> Self {
        self.header("Authorization", &format!("Bearer {token}"))
    }

    pub(crate) fn body(mut self, kind: &str, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self.header("Content-Type", kind)
    }

    pub(crate) fn form(self, text: &str) -> Self {
        self.body("application/x-www-form-urlencoded", text)
    }

    pub(crate) fn json(self, value: &Value) -> Self {
        self.body("application/json", value.to_string())
    }

    fn bytes(&self) -> Vec<u8> {
        let Self { method, path, headers, body } = self;
        let mut text = format!("{method} {path} HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n");
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(body);
        bytes
    }
}

/// What came back.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) text: String,
    /// The same as bytes.
    pub(crate) body: Vec<u8>,
}

impl Answer {
    fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok());
        let headers = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        let raw = end.map(|end| bytes[end + 4..].to_vec()).unwrap_or_default();
        Self { status: status.unwrap_or(0), headers, text: body.to_owned(), body: raw }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or(Value::Null)
    }

    /// The one word of a failure: `error` of OAuth, the tail of `type` of a problem, `status` of the
    /// aliases' envelope.
    pub(crate) fn word(&self) -> String {
        let json = self.json();
        let word = match (&json["type"], &json["error"]) {
            (Value::String(kind), _) => kind.strip_prefix("urn:drawbridge:error:").map(str::to_owned),
            (_, Value::String(error)) => Some(error.clone()),
            (_, Value::Object(envelope)) => envelope["status"].as_str().map(str::to_owned),
            _ => None,
        };
        word.unwrap_or_default()
    }
}
