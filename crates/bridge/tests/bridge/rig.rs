//! A bridge with a store in memory, a CA of its own, and people who may connect.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use drawbridge_admission::Ways;
use drawbridge_admission::{
    Actor, Admission, AdmissionConfig, Clock, NewApplication, NewDevice, NewRegistry,
};
use drawbridge_bridge::{Bridge, BridgeConfig, BridgeHandle, Listener, ListenerKind, server_tls};
use drawbridge_names::{PolicyName, PrincipalName, RegistryName, Uid};
use drawbridge_registry::memory::MemoryStore;
use drawbridge_testkit::{Draft, SeededRandom, TestDevice, sealer};
use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::client::{Client, Level, tls_config};

pub(crate) const ISSUER: &str = "https://bridge.test";
const AUDIENCE: &str = "https://bridge.test/mqtt";

/// The machine's clocks.
#[derive(Debug)]
pub(crate) struct RealClock;

impl Clock for RealClock {
    fn now_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
        u64::try_from(since.as_millis()).expect("before the year 500,000,000")
    }
    fn instant(&self) -> Instant {
        Instant::now()
    }
}

pub(crate) struct Rig {
    pub(crate) bridge: Option<Bridge>,
    pub(crate) handle: BridgeHandle,
    pub(crate) admission: Admission,
    pub(crate) tls: SocketAddr,
    pub(crate) plain: SocketAddr,
    pub(crate) ca: CertificateDer<'static>,
    pub(crate) server_tls: Arc<rustls::ServerConfig>,
    pub(crate) runtime: tokio::runtime::Runtime,
}

/// Registry `default`, clients without credentials on the plain listener as application `guest`, who
/// may everything.
pub(crate) fn rig(change: impl FnOnce(&mut BridgeConfig)) -> Rig {
    let runtime = runtime();
    let clock: Arc<dyn Clock> = Arc::new(RealClock);
    let admission = runtime.block_on(furnished(&clock));
    start(runtime, admission, clock, change)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("tokio")
}

fn start(
    runtime: tokio::runtime::Runtime,
    admission: Admission,
    clock: Arc<dyn Clock>,
    change: impl FnOnce(&mut BridgeConfig),
) -> Rig {
    let (ca, chain, key) = certificates();
    let server_tls = server_tls(chain, key).expect("TLS");
    let tls = TcpListener::bind("127.0.0.1:0").expect("a port");
    let plain = TcpListener::bind("127.0.0.1:0").expect("a port");
    let (tls_address, plain_address) = (tls.local_addr().expect("bound"), plain.local_addr().expect("bound"));
    let anonymous_as = Some(PrincipalName::parse("guest").expect("a name"));
    let mut config = BridgeConfig {
        shards: 2,
        listeners: vec![
            Listener {
                socket: tls,
                kind: ListenerKind::Tls(Arc::clone(&server_tls)),
                registry: None,
                ways: Ways::ALL,
            },
            Listener {
                socket: plain,
                kind: ListenerKind::Plain { anonymous_as },
                registry: None,
                ways: Ways::ALL,
            },
        ],
        ..BridgeConfig::default()
    };
    change(&mut config);
    let bridge =
        Bridge::start(config, admission.clone(), clock, runtime.handle().clone()).expect("it starts");
    let handle = bridge.handle();
    admission.watch(Arc::new(handle.clone()));
    Rig {
        bridge: Some(bridge),
        handle,
        admission,
        tls: tls_address,
        plain: plain_address,
        ca,
        server_tls,
        runtime,
    }
}

async fn furnished(clock: &Arc<dyn Clock>) -> Admission {
    let random = Arc::new(SeededRandom::new(7));
    let config = AdmissionConfig::default();
    let admission =
        Admission::open(Arc::new(MemoryStore::new()), Arc::clone(clock), random, sealer(), config)
            .await
            .expect("a store");
    let mut registry = NewRegistry::named(registry(), Some(ISSUER.to_owned()));
    // Sessions end exactly when their tokens do.
    registry.clock_skew_s = Some(0);
    admission.create_registry(registry, &Actor::Admin).await.expect("a registry");
    let everything = "[[allow]]\npublish = [\"#\"]\nsubscribe = [\"#\"]\n";
    let policy = PolicyName::parse("everything").expect("a name");
    admission.set_policy(&self::registry(), &policy, everything, &Actor::Admin).await.expect("a policy");
    let name = PrincipalName::parse("guest").expect("a name");
    let guest = NewApplication { name, keys: Vec::new(), policy: Some(policy) };
    admission.add_application(&self::registry(), guest, &Actor::Admin).await.expect("an application");
    admission
}

fn certificates() -> (CertificateDer<'static>, Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
    let ca_key = KeyPair::generate().expect("a key");
    let mut ca = CertificateParams::new(Vec::new()).expect("no names");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // OpenSSL takes a leaf of the same name as its issuer for self-signed.
    ca.distinguished_name.push(DnType::CommonName, "test root");
    let ca_certificate = ca.self_signed(&ca_key).expect("a root");
    let key = KeyPair::generate().expect("a key");
    let leaf = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    let leaf = leaf.signed_by(&key, &Issuer::new(ca, ca_key)).expect("a leaf");
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("PKCS#8");
    (ca_certificate.der().clone(), vec![leaf.der().clone()], key)
}

pub(crate) fn registry() -> RegistryName {
    RegistryName::default_registry()
}

pub(crate) fn now_s() -> u64 {
    RealClock.now_ms() / 1000
}

/// Asks until it is so, for 10 s.
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(10), "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl Rig {
    /// Another bridge for the same people.
    pub(crate) fn again_by(&self, clock: Arc<dyn Clock>, change: impl FnOnce(&mut BridgeConfig)) -> Rig {
        start(runtime(), self.admission.clone(), clock, change)
    }

    /// A device with the usual policy.
    pub(crate) fn device(&self, name: &str) -> TestDevice {
        let device = TestDevice::new(name);
        self.register(&device);
        device
    }

    pub(crate) fn register(&self, device: &TestDevice) -> Uid {
        let new = NewDevice::with_key(device.name.clone(), device.public_key().clone());
        let registry = registry();
        let added = self.admission.add_device(&registry, new, &Actor::Admin);
        self.runtime.block_on(added).expect("registered").principal.uid
    }

    pub(crate) fn tls13(&self) -> Arc<ClientConfig> {
        tls_config(&self.ca, &rustls::version::TLS13)
    }

    pub(crate) fn tls12(&self) -> Arc<ClientConfig> {
        tls_config(&self.ca, &rustls::version::TLS12)
    }

    /// A device that is in, over TLS 1.3.
    pub(crate) fn enter(&self, device: &TestDevice, level: Level) -> Client {
        let client = Client::tls(self.tls, level, &self.tls13());
        client.enter(device.name.as_str(), Some("unused"), Some(&jwt(device).sign()))
    }

    /// A guest that is in, without TLS.
    pub(crate) fn guest(&self, client_id: &str, level: Level) -> Client {
        Client::plain(self.plain, level).enter(client_id, None, None)
    }

    /// The numbers of the shards now. Each answers in a turn of its own: the turn in which something was done before
    /// is over then.
    pub(crate) fn shards(&self) -> Vec<drawbridge_broker::Stats> {
        self.runtime.block_on(self.handle.stats_now()).shards
    }

    pub(crate) fn refused(&self, word: &str) -> u64 {
        self.handle.stats().refused.get(word).copied().unwrap_or(0)
    }
}

/// What a device puts into its password.
pub(crate) fn jwt(device: &TestDevice) -> Draft<'_> {
    device.connect_jwt(AUDIENCE, now_s())
}
