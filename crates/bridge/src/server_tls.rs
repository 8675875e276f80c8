//! TLS of a listener: which settings a handshake gets, chosen by what its ClientHello says (decision 0034).
//!
//! A listener may speak MQTT and HTTPS, show a certificate for each name, and lead names to registries. For each of them there is
//! one `rustls::ServerConfig` for TLS 1.3 and one for 1.2: only the first asks for client certificates (in 1.2 they would
//! cross the network in clear) and gives tickets (in 1.2 a stolen ticket secret would open recorded sessions).

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use drawbridge_names::RegistryName;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CipherSuite, ServerConfig, SupportedProtocolVersion, crypto::aws_lc_rs};

use crate::BridgeError;
use crate::client_certificate::{AnyClientCertificate, AnyRawKey};
use crate::hello::Hello;
use crate::tickets::{Binding, TicketSecrets};

/// ALPN of MQTT (IANA), and that of AWS IoT for clients that log in with their certificate.
pub(crate) const ALPN_MQTT: &[u8] = b"mqtt";
pub(crate) const ALPN_MQTT_CERTIFICATE: &[u8] = b"x-amzn-mqtt-ca";
const ALPN_HTTP: &[u8] = b"http/1.1";

/// Settings of a TLS server for MQTT: TLS 1.3 and 1.2; X25519MLKEM768, X25519, P-256 in that order;
/// AES-128-GCM with SHA-256 before other ciphers, whatever order the client has; ALPN `mqtt`, or
/// none at all. Nothing is resumed: no tickets, no session storage, no 0-RTT.
///
/// `chain`: the leaf first. `key`: its private key.
///
/// # Errors
/// [`BridgeError::Certificate`] when the key does not belong to the leaf or is of a kind unknown.
pub fn server_tls(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>, BridgeError> {
    server_tls_with(chain, key, false)
}

/// As [`server_tls`], and clients are asked for a certificate; none has to send one. One that is sent is of
/// any origin, its chain of 4 certificates and 16 KiB at most, and its private key is proven to be the
/// peer's; nothing else is judged here.
///
/// # Errors
/// As [`server_tls`].
pub fn server_tls_asking(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>, BridgeError> {
    server_tls_with(chain, key, true)
}

fn server_tls_with(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    client_certificates: bool,
) -> Result<Arc<ServerConfig>, BridgeError> {
    let provider = provider();
    let verifier: Arc<dyn ClientCertVerifier> = match client_certificates {
        true => Arc::new(AnyClientCertificate::new(provider.signature_verification_algorithms)),
        false => WebPkiClientVerifier::no_client_auth(),
    };
    let identity = ServerIdentity::new(chain, key)?;
    let versions = [&rustls::version::TLS13, &rustls::version::TLS12];
    let mut config = configured(&provider, &versions, verifier, identity.resolver())?;
    config.alpn_protocols = vec![ALPN_MQTT.to_vec()];
    Ok(Arc::new(config))
}

fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![
        aws_lc_rs::kx_group::X25519MLKEM768,
        aws_lc_rs::kx_group::X25519,
        aws_lc_rs::kx_group::SECP256R1,
    ];
    // AES-128 with SHA-256 first: processors have instructions for both, and few have them for SHA-384,
    // whose key schedule costs a tenth of a handshake. The sort is stable: the rest stays in order.
    provider.cipher_suites.sort_by_key(|suite| {
        !matches!(
            suite.suite(),
            CipherSuite::TLS13_AES_128_GCM_SHA256
                | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
                | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
        )
    });
    // Still all 1.3 suites before those of 1.2.
    provider.cipher_suites.sort_by_key(|suite| suite.tls13().is_none());
    Arc::new(provider)
}

/// What holds for every handshake of ours: nothing is resumed unless the caller adds a ticketer, no 0-RTT.
fn configured(
    provider: &Arc<CryptoProvider>,
    versions: &[&'static SupportedProtocolVersion],
    verifier: Arc<dyn ClientCertVerifier>,
    resolver: Arc<dyn ResolvesServerCert>,
) -> Result<ServerConfig, BridgeError> {
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(versions)
        .map_err(|source| BridgeError::Certificate { source })?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(resolver);
    config.ignore_client_order = true;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_tls13_tickets = 0;
    // 0-RTT can be replayed, and a CONNECT in it with it.
    config.max_early_data_size = 0;
    // Without the extended master secret (RFC 7627) an exporter of TLS 1.2 is not one connection's alone.
    config.require_ems = true;
    Ok(config)
}

/// What a server shows in the handshake, and its private key.
#[derive(Debug, Clone)]
pub struct ServerIdentity {
    key: Arc<CertifiedKey>,
    is_raw: bool,
}

impl ServerIdentity {
    /// A certificate chain, the leaf first, and the key of the leaf.
    ///
    /// # Errors
    /// [`BridgeError::Certificate`] when the key does not belong to the leaf or is of a kind unknown.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, BridgeError> {
        let key = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())
            .map_err(|source| BridgeError::Certificate { source })?;
        Ok(Self { key: Arc::new(key), is_raw: false })
    }

    /// A key that is shown without a certificate (RFC 7250).
    ///
    /// # Errors
    /// [`BridgeError::Certificate`] when the key is of a kind unknown.
    pub fn raw(key: PrivateKeyDer<'static>) -> Result<Self, BridgeError> {
        let key = aws_lc_rs::sign::any_supported_type(&key)
            .map_err(|source| BridgeError::Certificate { source })?;
        let source = || rustls::Error::General("the key does not say what its public key is".into());
        let spki = key.public_key().ok_or_else(|| BridgeError::Certificate { source: source() })?;
        let shown = vec![CertificateDer::from(spki.to_vec())];
        Ok(Self { key: Arc::new(CertifiedKey::new(shown, key)), is_raw: true })
    }

    /// What is shown first: the leaf, or the SubjectPublicKeyInfo of a raw key; DER.
    #[must_use]
    pub fn shown(&self) -> &[u8] {
        self.key.cert.first().map_or(&[], |shown| shown.as_ref())
    }

    /// All that is shown, the leaf first.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.key.cert
    }

    fn resolver(&self) -> Arc<dyn ResolvesServerCert> {
        match self.is_raw {
            true => Arc::new(AlwaysResolvesServerRawPublicKeys::new(Arc::clone(&self.key))),
            false => Arc::new(SingleCertAndKey::from(Arc::clone(&self.key))),
        }
    }
}

/// An identity, and for whom it is.
#[derive(Debug, Clone)]
pub struct ServerName {
    /// What it is called in the settings; tickets are bound to it.
    pub label: String,
    /// DNS names, as clients send them (SNI); `*.plant.example` stands for one label. Names are for the
    /// first that has them; whoever sends an unknown name or none gets the first of all.
    pub names: Vec<String>,
    /// The registry that these names lead to; `None`: that of the listener.
    pub registry: Option<RegistryName>,
    /// What it shows.
    pub identity: ServerIdentity,
}

/// How a listener speaks TLS, whatever it shows.
#[derive(Debug, Clone)]
pub struct TlsSettings {
    /// Name of the listener; tickets are bound to it, so it is the same on all nodes.
    pub listener: String,
    /// MQTT is spoken here.
    pub mqtt: bool,
    /// HTTPS is spoken here. With both, ALPN tells them apart; who names no protocol speaks HTTPS then.
    pub https: bool,
    /// TLS 1.3 is offered.
    pub tls13: bool,
    /// TLS 1.2 is offered.
    pub tls12: bool,
    /// MQTT clients are asked for a certificate.
    pub mqtt_certificates: bool,
    /// HTTPS clients are.
    pub https_certificates: bool,
    /// Also in TLS 1.2, where everybody on the way can read it.
    pub tls12_certificates: bool,
    /// Both sides show raw public keys; TLS 1.3 alone.
    pub raw_keys: bool,
    /// Largest TLS record that is sent, in bytes, its header included; 32 to 16,389. `None`: 16,389.
    pub record_bytes_max: Option<usize>,
    /// Tickets for TLS 1.3; `None`: nothing is resumed.
    pub tickets: Option<Arc<TicketSecrets>>,
}

/// TLS of one listener. What it shows can be replaced; connections that stand do not notice.
#[derive(Debug)]
pub struct ServerTls {
    settings: Option<TlsSettings>,
    current: RwLock<Arc<Shown>>,
}

/// The identities of a listener, ready for handshakes.
#[derive(Debug)]
struct Shown {
    /// Never empty.
    all: Vec<Ready>,
    by_name: HashMap<String, usize>,
    /// Behind `*`.
    by_suffix: HashMap<String, usize>,
}

#[derive(Debug)]
struct Ready {
    registry: Option<RegistryName>,
    mqtt: Option<Versions>,
    https: Option<Versions>,
}

#[derive(Debug, Clone)]
struct Versions {
    tls13: Option<Arc<ServerConfig>>,
    tls12: Option<Arc<ServerConfig>>,
}

/// What is spoken inside of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// MQTT, at once.
    Mqtt,
    /// HTTP/1.1, and perhaps MQTT over WebSocket later.
    Https,
}

/// What a handshake goes on with.
#[derive(Debug, Clone)]
pub struct Choice {
    /// What is spoken.
    pub protocol: Protocol,
    /// The settings of TLS.
    pub config: Arc<ServerConfig>,
    /// The registry that the server's name led to.
    pub registry: Option<RegistryName>,
    /// The peer shows a raw public key, if anything.
    pub raw_keys: bool,
}

impl ServerTls {
    /// `shown`: at least one; the first is for those who name nobody.
    ///
    /// # Errors
    /// [`BridgeError::NothingToShow`] when `shown` is empty, no version of TLS or no protocol is on;
    /// [`BridgeError::Certificate`] as [`ServerIdentity::new`].
    pub fn new(settings: TlsSettings, shown: &[ServerName]) -> Result<Arc<Self>, BridgeError> {
        let current = RwLock::new(Shown::new(&settings, shown)?);
        Ok(Arc::new(Self { settings: Some(settings), current }))
    }

    /// One configuration for everybody, whatever the ClientHello says.
    #[must_use]
    pub fn fixed(config: Arc<ServerConfig>) -> Arc<Self> {
        let versions = Versions { tls13: Some(Arc::clone(&config)), tls12: Some(config) };
        let all = vec![Ready { registry: None, mqtt: Some(versions), https: None }];
        let shown = Shown { all, by_name: HashMap::new(), by_suffix: HashMap::new() };
        Arc::new(Self { settings: None, current: RwLock::new(Arc::new(shown)) })
    }

    /// Shows something else from the next handshake on.
    ///
    /// # Errors
    /// As [`ServerTls::new`]; what was shown before stays then.
    pub fn replace(&self, shown: &[ServerName]) -> Result<(), BridgeError> {
        let Some(settings) = &self.settings else { return Err(BridgeError::NothingToShow) };
        let shown = Shown::new(settings, shown)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = shown;
        Ok(())
    }

    /// How a handshake goes on that begins with this ClientHello.
    #[must_use]
    pub fn choose(&self, hello: &Hello) -> Choice {
        let tls13 = hello.tls13;
        let hello = hello.client_hello();
        let shown = Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner));
        let ready = shown.named(hello.server_name());
        let offered = |ours: &[&[u8]]| {
            hello.alpn().is_some_and(|mut theirs| theirs.any(|offered| ours.contains(&offered)))
        };
        let (protocol, versions) = match (&ready.mqtt, &ready.https) {
            (Some(mqtt), Some(https)) => match offered(&[ALPN_MQTT, ALPN_MQTT_CERTIFICATE]) {
                true => (Protocol::Mqtt, mqtt),
                false => (Protocol::Https, https),
            },
            (None, Some(https)) => (Protocol::Https, https),
            (Some(mqtt), None) => (Protocol::Mqtt, mqtt),
            (None, None) => unreachable!("`Shown::new` refuses a listener without a protocol"),
        };
        let config = Arc::clone(versions.choose(tls13));
        let raw_keys = self.settings.as_ref().is_some_and(|settings| settings.raw_keys);
        Choice { protocol, config, registry: ready.registry.clone(), raw_keys }
    }

    /// The one configuration that there is, if the ClientHello decides nothing.
    pub(crate) fn only(&self) -> Option<Arc<ServerConfig>> {
        if self.settings.is_some() {
            return None;
        }
        let shown = Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner));
        shown.all.first()?.mqtt.as_ref()?.tls13.clone()
    }
}

impl Versions {
    /// A version that is off is refused by rustls, with an alert.
    fn choose(&self, tls13: bool) -> &Arc<ServerConfig> {
        let chosen = match tls13 {
            true => self.tls13.as_ref().or(self.tls12.as_ref()),
            false => self.tls12.as_ref().or(self.tls13.as_ref()),
        };
        chosen.expect("`Shown::new` refuses a listener without a version")
    }
}

impl Shown {
    fn new(settings: &TlsSettings, shown: &[ServerName]) -> Result<Arc<Self>, BridgeError> {
        let speaks = settings.mqtt || settings.https;
        if shown.is_empty() || !speaks || !(settings.tls13 || (settings.tls12 && !settings.raw_keys)) {
            return Err(BridgeError::NothingToShow);
        }
        let provider = provider();
        let all = shown.iter().map(|name| Ready::new(settings, &provider, name)).collect::<Result<_, _>>()?;
        let (mut by_name, mut by_suffix) = (HashMap::new(), HashMap::new());
        for (index, name) in shown.iter().enumerate() {
            for name in &name.names {
                let name = name.to_ascii_lowercase();
                match name.strip_prefix('*') {
                    Some(suffix) => by_suffix.entry(suffix.to_owned()).or_insert(index),
                    None => by_name.entry(name).or_insert(index),
                };
            }
        }
        Ok(Arc::new(Self { all, by_name, by_suffix }))
    }

    fn named(&self, name: Option<&str>) -> &Ready {
        let name = name.unwrap_or_default().to_ascii_lowercase();
        let by_suffix = || self.by_suffix.get(name.get(name.find('.')?..)?);
        let index = self.by_name.get(&name).or_else(by_suffix).copied().unwrap_or(0);
        self.all.get(index).or(self.all.first()).expect("`Shown::new` refuses none at all")
    }
}

impl Ready {
    fn new(
        settings: &TlsSettings,
        provider: &Arc<CryptoProvider>,
        name: &ServerName,
    ) -> Result<Self, BridgeError> {
        let mut mqtt_alpn = vec![ALPN_MQTT.to_vec()];
        if settings.mqtt_certificates {
            mqtt_alpn.push(ALPN_MQTT_CERTIFICATE.to_vec());
        }
        let make = |protocol: &str, alpn: Vec<Vec<u8>>, certificates: bool| {
            Versions::new(settings, provider, name, protocol, &alpn, certificates)
        };
        let mqtt = settings.mqtt.then(|| make("mqtt", mqtt_alpn, settings.mqtt_certificates)).transpose()?;
        let https = settings
            .https
            .then(|| make("https", vec![ALPN_HTTP.to_vec()], settings.https_certificates))
            .transpose()?;
        Ok(Self { registry: name.registry.clone(), mqtt, https })
    }
}

impl Versions {
    fn new(
        settings: &TlsSettings,
        provider: &Arc<CryptoProvider>,
        name: &ServerName,
        protocol: &str,
        alpn: &[Vec<u8>],
        certificates: bool,
    ) -> Result<Self, BridgeError> {
        let algorithms = provider.signature_verification_algorithms;
        let make = |version: &'static SupportedProtocolVersion, asks: bool| {
            let verifier: Arc<dyn ClientCertVerifier> = match (settings.raw_keys, asks) {
                (true, _) => Arc::new(AnyRawKey::new(algorithms)),
                (false, true) => Arc::new(AnyClientCertificate::new(algorithms)),
                (false, false) => WebPkiClientVerifier::no_client_auth(),
            };
            let mut config = configured(provider, &[version], verifier, name.identity.resolver())?;
            config.alpn_protocols = alpn.to_vec();
            config.max_fragment_size = settings.record_bytes_max;
            Ok::<_, BridgeError>(config)
        };
        let tls13 = match settings.tls13 {
            false => None,
            true => {
                let mut config = make(&rustls::version::TLS13, certificates)?;
                if let Some(tickets) = &settings.tickets {
                    config.ticketer = tickets.ticketer(Binding {
                        listener: &settings.listener,
                        protocol,
                        certificate: &name.label,
                        registry: name.registry.as_ref().map_or("", RegistryName::as_str),
                    });
                    config.send_tls13_tickets = 1;
                }
                Some(Arc::new(config))
            }
        };
        let tls12 = match settings.tls12 && !settings.raw_keys {
            false => None,
            true => {
                let asks = certificates && settings.tls12_certificates;
                Some(Arc::new(make(&rustls::version::TLS12, asks)?))
            }
        };
        Ok(Self { tls13, tls12 })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
    use std::time::Instant;

    use drawbridge_admission::{Clock, PeerProof, TlsFacts, TlsVersion, refresh_context};
    use rcgen::{CertificateParams, KeyPair};
    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
    use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
    use rustls::pki_types::{ServerName as Name, SubjectPublicKeyInfoDer, UnixTime};
    use rustls::version::{TLS12, TLS13};
    use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme};

    use super::*;
    use crate::tls::{Fed, Tls};

    const LATER_S: u64 = 86_400;
    const NOW_MS: u64 = 1_795_000_000_000;

    #[derive(Debug)]
    struct SetClock(AtomicU64);

    impl Clock for SetClock {
        fn now_ms(&self) -> u64 {
            self.0.load(Relaxed)
        }
        #[expect(clippy::disallowed_methods, reason = "nobody asks for it here")]
        fn instant(&self) -> Instant {
            Instant::now()
        }
    }

    fn clock() -> Arc<SetClock> {
        Arc::new(SetClock(AtomicU64::new(1_795_000_000_000)))
    }

    fn settings() -> TlsSettings {
        TlsSettings {
            listener: "mqtts".to_owned(),
            mqtt: true,
            https: false,
            tls13: true,
            tls12: true,
            mqtt_certificates: true,
            https_certificates: false,
            tls12_certificates: false,
            raw_keys: false,
            record_bytes_max: None,
            tickets: None,
        }
    }

    fn with_tickets(clock: &Arc<SetClock>) -> TlsSettings {
        let tickets = TicketSecrets::new(&[[7; 32]], 86_400, Arc::clone(clock) as Arc<dyn Clock>);
        TlsSettings { tickets: Some(tickets), ..settings() }
    }

    fn key_pair() -> (KeyPair, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().expect("a key");
        let der = PrivateKeyDer::try_from(key.serialize_der()).expect("PKCS#8");
        (key, der)
    }

    fn certificate(names: &[&str]) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let (key, der) = key_pair();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let params = CertificateParams::new(names).expect("names");
        (params.self_signed(&key).expect("signed").der().clone(), der)
    }

    fn shown(label: &str, names: &[&str], registry: Option<&str>) -> ServerName {
        let (leaf, key) = certificate(names);
        ServerName {
            label: label.to_owned(),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            registry: registry.map(|name| RegistryName::parse(name).expect("a name")),
            identity: ServerIdentity::new(vec![leaf], key).expect("an identity"),
        }
    }

    /// Believes every server; what it shows is looked at by the tests.
    #[derive(Debug)]
    struct Credulous(WebPkiSupportedAlgorithms, bool);

    impl ServerCertVerifier for Credulous {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &Name<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls12_signature(message, cert, dss, &self.0)
        }
        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            if self.1 {
                let spki = SubjectPublicKeyInfoDer::from(cert.as_ref());
                return rustls::crypto::verify_tls13_signature_with_raw_key(message, &spki, dss, &self.0);
            }
            verify_tls13_signature(message, cert, dss, &self.0)
        }
        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.supported_schemes()
        }
        fn requires_raw_public_keys(&self) -> bool {
            self.1
        }
    }

    /// What a client has to show.
    enum Shows {
        Nothing,
        Certificate,
        RawKey,
    }

    fn client(
        version: &'static SupportedProtocolVersion,
        shows: &Shows,
        alpn: &[&[u8]],
    ) -> Arc<ClientConfig> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let algorithms = provider.signature_verification_algorithms;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .expect("a version")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Credulous(
                algorithms,
                matches!(shows, Shows::RawKey),
            )));
        let mut config = match shows {
            Shows::Nothing => builder.with_no_client_auth(),
            Shows::Certificate => {
                let (leaf, key) = certificate(&["a client"]);
                builder.with_client_auth_cert(vec![leaf], key).expect("a certificate")
            }
            Shows::RawKey => {
                let key = aws_lc_rs::sign::any_supported_type(&key_pair().1).expect("a key");
                let spki = key.public_key().expect("public").to_vec();
                let certified = CertifiedKey::new(vec![CertificateDer::from(spki)], key);
                builder.with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(Arc::new(
                    certified,
                ))))
            }
        };
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        config.resumption = Resumption::in_memory_sessions(8);
        // It would, if it could.
        config.enable_early_data = true;
        Arc::new(config)
    }

    struct Met {
        client: ClientConnection,
        server: Tls,
        /// Of the server's flights.
        records: Vec<usize>,
    }

    impl Met {
        fn facts(&self) -> TlsFacts {
            self.server.facts(Some(b"a token")).expect("the handshake is done")
        }
        fn leaf(&self) -> Vec<u8> {
            self.client.peer_certificates().expect("shown")[0].to_vec()
        }
    }

    /// A handshake in memory, until both sides are quiet; one byte of data follows, so that the ticket is read.
    fn meet(server: &Arc<ServerTls>, config: &Arc<ClientConfig>, name: &str) -> Result<Met, String> {
        let name = Name::try_from(name.to_owned()).expect("a name");
        let mut client = ClientConnection::new(Arc::clone(config), name).expect("a client");
        assert!(client.early_data().is_none(), "nobody was told that 0-RTT is taken");
        let mut server = Tls::new(server, 65_536, NOW_MS).expect("a server");
        let (mut plaintext, mut records) = (Vec::new(), Vec::new());
        loop {
            let mut wire = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut wire).expect("memory");
            }
            let quiet = wire.is_empty();
            if !quiet {
                match server.feed(&wire, &mut plaintext) {
                    Ok(Fed::Open) => {}
                    Ok(Fed::Https(_)) => return Err("https".to_owned()),
                    Ok(Fed::PeerClosed) => return Err("closed".to_owned()),
                    Err(turned) => {
                        let mut alert = Vec::new();
                        while server.wants_write() {
                            server.flush(&mut alert).expect("memory");
                        }
                        assert!(!alert.is_empty(), "an alert is sent");
                        return Err(turned.to_string());
                    }
                }
            }
            let mut wire = Vec::new();
            while server.wants_write() {
                server.flush(&mut wire).expect("memory");
            }
            if quiet && wire.is_empty() {
                break;
            }
            let mut rest = &wire[..];
            while let Some(header) = rest.first_chunk::<5>() {
                let length = 5 + usize::from(u16::from_be_bytes([header[3], header[4]]));
                records.push(length);
                rest = &rest[length..];
            }
            let mut rest = &wire[..];
            while !rest.is_empty() {
                client.read_tls(&mut rest).expect("memory");
                client.process_new_packets().map_err(|error| error.to_string())?;
            }
        }
        client.writer().write_all(b"x").expect("memory");
        Ok(Met { client, server, records })
    }

    #[test]
    fn the_facts_of_a_handshake_are_what_both_sides_know() {
        for (version, asks) in [(&TLS13, true), (&TLS12, false), (&TLS12, true)] {
            let settings = TlsSettings { tls12_certificates: asks, ..settings() };
            let server = ServerTls::new(settings, &[shown("own", &["localhost"], None)]).expect("TLS");
            let met = meet(&server, &client(version, &Shows::Certificate, &[]), "localhost").expect("met");
            let facts = met.facts();
            assert_eq!(
                (facts.version == TlsVersion::V13, facts.resumed),
                (std::ptr::eq(version, &TLS13), false)
            );
            assert_eq!(
                matches!(facts.peer, Some(PeerProof::Certificate(_))),
                asks,
                "asked in {version:?}: {asks}"
            );
            let exported = |label: &[u8], context: &[u8]| {
                met.client.export_keying_material([0; 32], label, Some(context)).expect("exported")
            };
            assert_eq!(facts.ace_exporter, Some(exported(b"EXPORTER-ACE-MQTT-Sign-Challenge", b"")));
            assert_eq!(facts.channel_binding, Some(exported(b"EXPORTER-Channel-Binding", b"")));
            let bound = exported(b"EXPORTER-drawbridge-refresh", &refresh_context(b"a token"));
            assert_eq!(facts.refresh_exporter, Some(bound));
        }
        let server = ServerTls::new(settings(), &[shown("own", &["localhost"], None)]).expect("TLS");
        assert_eq!(
            Tls::new(&server, 65_536, NOW_MS).expect("a server").facts(None),
            None,
            "before the handshake"
        );
    }

    #[test]
    fn versions_that_are_off_are_refused_in_order() {
        for (tls13, tls12) in [(true, false), (false, true)] {
            let server = ServerTls::new(
                TlsSettings { tls13, tls12, ..settings() },
                &[shown("own", &["localhost"], None)],
            );
            let server = server.expect("TLS");
            for (version, wanted) in [(&TLS13, tls13), (&TLS12, tls12)] {
                let met = meet(&server, &client(version, &Shows::Nothing, &[]), "localhost");
                assert_eq!(met.is_ok(), wanted, "{version:?}: {:?}", met.err());
            }
        }
        for nothing in [
            TlsSettings { tls13: false, tls12: false, ..settings() },
            TlsSettings { tls13: false, raw_keys: true, ..settings() },
            TlsSettings { mqtt: false, ..settings() },
        ] {
            assert!(ServerTls::new(nothing, &[shown("own", &["localhost"], None)]).is_err());
        }
        assert!(ServerTls::new(settings(), &[]).is_err());
    }

    /// Whether HTTPS is spoken too, what the client offers, and what comes of it.
    type Row<'a> = (bool, &'a [&'a [u8]], Result<Option<&'a [u8]>, &'a str>);

    #[test]
    fn alpn_tells_mqtt_and_https_apart_and_an_unknown_name_is_refused() {
        let mqtt: &[&[u8]] = &[b"mqtt"];
        let by_certificate: &[&[u8]] = &[b"x-amzn-mqtt-ca"];
        let table: [Row<'_>; 9] = [
            // Both are spoken.
            (true, mqtt, Ok(Some(b"mqtt"))),
            (true, by_certificate, Ok(Some(b"x-amzn-mqtt-ca"))),
            (true, &[b"http/1.1"], Err("https")),
            (true, &[b"h2", b"http/1.1"], Err("https")),
            (true, &[], Err("https")),
            // MQTT alone.
            (false, mqtt, Ok(Some(b"mqtt"))),
            (false, &[], Ok(None)),
            (false, &[b"http/1.1"], Err("TLS failed in the handshake")),
            (false, &[b"ftp"], Err("TLS failed in the handshake")),
        ];
        for (https, alpn, wanted) in table {
            let settings = TlsSettings { https, ..settings() };
            let server = ServerTls::new(settings, &[shown("own", &["localhost"], None)]).expect("TLS");
            for version in [&TLS13, &TLS12] {
                let met = meet(&server, &client(version, &Shows::Nothing, alpn), "localhost");
                match (&met, wanted) {
                    (Ok(met), Ok(wanted)) => {
                        assert_eq!(met.client.alpn_protocol(), wanted, "{alpn:?}");
                        assert_eq!(met.server.is_by_certificate(), wanted == Some(b"x-amzn-mqtt-ca"));
                    }
                    (Err(found), Err(wanted)) => assert!(found.starts_with(wanted), "{alpn:?}: {found}"),
                    (met, wanted) => panic!("{https} {alpn:?}: {:?} against {wanted:?}", met.as_ref().err()),
                }
            }
        }
        // Where no certificate is asked for, nobody can say that he logs in with one.
        let settings = TlsSettings { mqtt_certificates: false, ..settings() };
        let server = ServerTls::new(settings, &[shown("own", &["localhost"], None)]).expect("TLS");
        assert!(meet(&server, &client(&TLS13, &Shows::Nothing, by_certificate), "localhost").is_err());
    }

    #[test]
    fn names_choose_certificate_and_registry_and_an_unknown_one_gets_the_first() {
        let all = [
            shown("own", &["localhost"], None),
            shown("plant", &["mqtt.plant.example", "*.plant.example"], Some("plant")),
            shown("other", &["b.plant.example"], Some("other")),
        ];
        let server = ServerTls::new(settings(), &all).expect("TLS");
        let config = client(&TLS13, &Shows::Nothing, &[]);
        for (name, index, registry) in [
            ("localhost", 0, None),
            ("mqtt.plant.example", 1, Some("plant")),
            ("MQTT.Plant.Example", 1, Some("plant")),
            ("a.plant.example", 1, Some("plant")),
            ("b.plant.example", 2, Some("other")),
            ("x.a.plant.example", 0, None),
            ("plant.example", 0, None),
            ("127.0.0.1", 0, None),
        ] {
            let mut met = meet(&server, &config, name).expect("met");
            assert_eq!(met.leaf(), all[index].identity.shown(), "{name}");
            let found = met.server.take_registry();
            assert_eq!(found.as_ref().map(|name| name.as_str()), registry, "{name}");
            assert!(met.server.take_registry().is_none(), "said once");
        }
        let later = [shown("own", &["localhost"], None)];
        server.replace(&later).expect("replaced");
        assert_eq!(meet(&server, &config, "localhost").expect("met").leaf(), later[0].identity.shown());
        assert!(server.replace(&[]).is_err());
        assert_eq!(meet(&server, &config, "localhost").expect("met").leaf(), later[0].identity.shown());
    }

    #[test]
    fn a_session_of_one_node_is_resumed_by_another_with_its_certificate_and_without_early_data() {
        let clock = clock();
        let own = shown("own", &["localhost"], None);
        // Not even the same key: what binds them is the secret.
        let [here, there] = [own, shown("own", &["localhost"], None)]
            .map(|own| ServerTls::new(with_tickets(&clock), &[own]).expect("TLS"));
        let config = client(&TLS13, &Shows::Certificate, &[b"mqtt"]);
        let first = meet(&here, &config, "localhost").expect("met");
        assert!(!first.facts().resumed);
        assert_eq!(first.client.tls13_tickets_received(), 1, "one ticket");
        let ticket = *first.records.last().expect("the last record of the server has it");
        let second = meet(&there, &config, "localhost").expect("met");
        assert!(second.facts().resumed);
        assert_eq!(second.facts().peer, first.facts().peer, "what it had proven comes with the ticket");
        assert_ne!(second.facts().channel_binding, first.facts().channel_binding);
        assert!(ticket < 700, "{ticket} bytes for a ticket with a certificate");
        let anonymous = client(&TLS13, &Shows::Nothing, &[b"mqtt"]);
        let ticket = *meet(&here, &anonymous, "localhost").expect("met").records.last().expect("records");
        assert!(ticket < 300, "{ticket} bytes for a ticket without");
        clock.0.fetch_add(LATER_S * 1000, Relaxed);
        assert!(!meet(&there, &config, "localhost").expect("met").facts().resumed, "a day later");
    }

    #[test]
    fn a_session_is_resumed_by_nobody_else_and_never_in_tls_1_2() {
        let clock = clock();
        let names = ["localhost"];
        let here = |change: &dyn Fn(&mut TlsSettings), label: &str, registry: Option<&str>| {
            let mut settings = with_tickets(&clock);
            change(&mut settings);
            ServerTls::new(settings, &[shown(label, &names, registry)]).expect("TLS")
        };
        let start = here(&|_| {}, "own", None);
        let other_secret = |settings: &mut TlsSettings| {
            let clock = Arc::clone(&clock) as Arc<dyn Clock>;
            settings.tickets = Some(TicketSecrets::new(&[[8; 32]], 86_400, clock));
        };
        let table = [
            ("the same", here(&|_| {}, "own", None), true),
            ("another listener", here(&|s| s.listener = "fleet".to_owned(), "own", None), false),
            ("another certificate", here(&|_| {}, "plant", None), false),
            ("another registry", here(&|_| {}, "own", Some("plant")), false),
            ("another secret", here(&other_secret, "own", None), false),
            ("no tickets", here(&|s| s.tickets = None, "own", None), false),
        ];
        for (what, there, is_resumed) in table {
            let config = client(&TLS13, &Shows::Nothing, &[b"mqtt"]);
            meet(&start, &config, "localhost").expect("met");
            let met = meet(&there, &config, "localhost").expect("met");
            assert_eq!(met.facts().resumed, is_resumed, "{what}");
        }
        let config = client(&TLS12, &Shows::Nothing, &[b"mqtt"]);
        for _ in 0..2 {
            assert!(!meet(&start, &config, "localhost").expect("met").facts().resumed);
        }
    }

    #[test]
    fn raw_keys_are_proven_on_both_sides_in_tls_1_3_alone() {
        let clock = clock();
        let identity = ServerIdentity::raw(key_pair().1).expect("a key");
        let raw = ServerName { label: "raw".into(), names: Vec::new(), registry: None, identity };
        let settings = TlsSettings { raw_keys: true, ..with_tickets(&clock) };
        let server = ServerTls::new(settings, std::slice::from_ref(&raw)).expect("TLS");
        let config = client(&TLS13, &Shows::RawKey, &[b"mqtt"]);
        let met = meet(&server, &config, "localhost").expect("met");
        assert_eq!(met.leaf(), raw.identity.shown());
        let Some(PeerProof::RawKey(spki)) = met.facts().peer else { panic!("{:?}", met.facts()) };
        assert!(spki.len() == 91, "SubjectPublicKeyInfo of P-256");
        let again = meet(&server, &config, "localhost").expect("met");
        assert_eq!((again.facts().resumed, again.facts().peer), (true, Some(PeerProof::RawKey(spki))));
        for (version, shows) in
            [(&TLS13, Shows::Certificate), (&TLS13, Shows::Nothing), (&TLS12, Shows::Nothing)]
        {
            assert!(meet(&server, &client(version, &shows, &[]), "localhost").is_err());
        }
        // And no raw key where certificates are shown.
        let server =
            ServerTls::new(super::tests::settings(), &[shown("own", &["localhost"], None)]).expect("TLS");
        assert!(meet(&server, &config, "localhost").is_err());
    }

    #[test]
    fn records_are_as_small_as_the_listener_says() {
        let settings = TlsSettings { record_bytes_max: Some(512), ..settings() };
        let server = ServerTls::new(settings, &[shown("own", &["localhost"], None)]).expect("TLS");
        for version in [&TLS13, &TLS12] {
            let met = meet(&server, &client(version, &Shows::Nothing, &[]), "localhost").expect("met");
            let largest = met.records.iter().max().copied().unwrap_or(0);
            // TLS adds a tag and a type to what was cut.
            assert!((300..=512 + 32).contains(&largest), "{largest}: {:?}", met.records);
        }
    }

    #[test]
    fn what_is_no_client_hello_is_refused_with_an_alert_and_its_bytes_are_bounded() {
        let server = ServerTls::new(settings(), &[shown("own", &["localhost"], None)]).expect("TLS");
        let mut tls = Tls::new(&server, 65_536, NOW_MS).expect("a server");
        assert!(tls.feed(b"GET / HTTP/1.1\r\n\r\n", &mut Vec::new()).is_err());
        assert!(!tls.is_handshaking());
        let mut out = Vec::new();
        while tls.wants_write() {
            tls.flush(&mut out).expect("memory");
        }
        assert_eq!(out.first(), Some(&21));
        // A ClientHello that never ends, in as many records as it takes.
        let mut tls = Tls::new(&server, 8192, NOW_MS).expect("a server");
        let mut record = vec![22, 3, 1, 4, 0, 1, 0, 0xff, 0xff];
        record.resize(5 + 1024, 0);
        let mut fed = Ok(Fed::Open);
        for turn in 0..20 {
            if turn > 0 {
                record[5..].fill(0);
            }
            fed = tls.feed(&record, &mut Vec::new());
            if fed.is_err() {
                break;
            }
        }
        assert!(fed.expect_err("refused").to_string().contains("8192"));
    }
}
