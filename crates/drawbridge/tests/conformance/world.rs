//! One server for all tests that run at the same time, and the ways to it.

use std::fs;
use std::net::TcpStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::bytes::Version;
use crate::client::Transport;
use crate::frames::WebSocket;
use crate::harness::{Core, connect_jwt, now_s};

/// The application that every client of these tests is; it may do everything, topics that begin with `$lab`
/// included, those that begin with any other `$...` not.
const GUEST: &str = "guest";
const POLICY: &str = "[[allow]]\npublish = [\"#\", \"$lab/#\"]\nsubscribe = [\"#\", \"$lab/#\"]\n";

/// A way to the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Via {
    /// TCP alone, on the listener that lets the guest in without a credential.
    Plain,
    /// TLS, with a JWT as the password.
    Tls,
    /// WebSocket within TLS at `/mqtt` of the HTTPS port, with the same.
    WebSocket,
}

impl Via {
    /// Every way; the whole suite runs over each.
    pub(crate) const ALL: [Self; 3] = [Self::Plain, Self::Tls, Self::WebSocket];
}

/// A server that the guest may use.
pub(crate) struct World {
    core: Core,
    tls: Arc<ClientConfig>,
    jwt: String,
}

static WORLD: Mutex<Weak<World>> = Mutex::new(Weak::new());
static NAMES: AtomicU32 = AtomicU32::new(0);

impl World {
    /// The server that other tests use just now, else a new one; it ends with the last test that has it.
    pub(crate) fn shared() -> Arc<Self> {
        let mut place = WORLD.lock().unwrap_or_else(PoisonError::into_inner);
        place.upgrade().unwrap_or_else(|| {
            let world = Arc::new(Self::start(&[]));
            *place = Arc::downgrade(&world);
            world
        })
    }

    /// A server of a test's own, with further arguments of `serve`.
    pub(crate) fn start(args: &[&str]) -> Self {
        let all = [&["--insecure-mqtt-port", "0", "--insecure-anonymous", GUEST][..], args].concat();
        let core = Core::start_with(&all);
        let guest = core.application(GUEST, POLICY);
        let jwt = connect_jwt(&guest, now_s(), 3_600);
        let pem = fs::read(core.data().join("ca.pem")).expect("the root");
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            roots.add(certificate.expect("a certificate")).expect("a root");
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self { core, tls: Arc::new(tls), jwt }
    }

    /// The server itself.
    pub(crate) fn core(&self) -> &Core {
        &self.core
    }

    /// The server itself, to be ended and started again.
    pub(crate) fn core_mut(&mut self) -> &mut Core {
        &mut self.core
    }

    /// Another application, with its own policy; the JWT that it logs in with.
    pub(crate) fn application(&self, name: &str, policy: &str) -> String {
        connect_jwt(&self.core.application(name, policy), now_s(), 3_600)
    }

    /// A device under the device template; the JWT that it logs in with.
    pub(crate) fn device(&self, name: &str) -> String {
        connect_jwt(&self.core.device(name), now_s(), 3_600)
    }

    /// CPU time of the server so far, in hundredths of a second.
    pub(crate) fn cpu_ticks(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.core.pid())).expect("/proc");
        let behind_name = stat.rsplit_once(')').expect("a name").1;
        // User and system time are fields 14 and 15; the state is field 3.
        let fields = behind_name.split_whitespace().skip(11).take(2);
        fields.map(|field| field.parse::<u64>().expect("a number")).sum()
    }

    /// Whom the server takes for the guest on this way: user name and password.
    pub(crate) fn credential(&self, via: Via) -> Option<(&str, &[u8])> {
        (via != Via::Plain).then_some(("unused", self.jwt.as_bytes()))
    }

    /// A socket on which nothing has been said.
    pub(crate) fn transport(&self, via: Via) -> Transport {
        let endpoints = &self.core.endpoints;
        match via {
            Via::Plain => Transport::Plain(Self::socket(endpoints.mqtt.as_ref().expect("a plain listener"))),
            Via::Tls => Transport::Tls(Box::new(self.tls(&endpoints.mqtts))),
            Via::WebSocket => Transport::WebSocket(Box::new(WebSocket::open(self.https()))),
        }
    }

    /// TLS to the HTTPS port.
    pub(crate) fn https(&self) -> StreamOwned<ClientConnection, TcpStream> {
        self.tls(&self.core.endpoints.https)
    }

    fn tls(&self, address: &str) -> StreamOwned<ClientConnection, TcpStream> {
        let name = ServerName::try_from("127.0.0.1").expect("an address");
        let tls = ClientConnection::new(Arc::clone(&self.tls), name).expect("TLS");
        StreamOwned::new(tls, Self::socket(address))
    }

    fn socket(address: &str) -> TcpStream {
        let socket = TcpStream::connect(address).expect("the server accepts");
        socket.set_nodelay(true).expect("no delay");
        socket.set_write_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        socket
    }
}

/// One run of a test: a version and a way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Case {
    pub(crate) version: Version,
    pub(crate) via: Via,
}

impl Case {
    pub(crate) fn is_v5(self) -> bool {
        self.version == Version::V5
    }
}

/// A name that no other run uses: for clients, and as the first level of topics. Letters and digits only.
pub(crate) fn name(what: &str) -> String {
    format!("{what}{}", NAMES.fetch_add(1, Ordering::Relaxed))
}

/// Runs a test in both versions over every way, all at the same time.
pub(crate) fn every(test: impl Fn(&World, Case) + Sync) {
    run(&[Version::V311, Version::V5], test);
}

/// The same in 5.0 alone.
pub(crate) fn every_v5(test: impl Fn(&World, Case) + Sync) {
    run(&[Version::V5], test);
}

/// The same in 3.1.1 alone.
pub(crate) fn every_v311(test: impl Fn(&World, Case) + Sync) {
    run(&[Version::V311], test);
}

/// The same with a server for each version that no other test uses: for take-overs, of which a principal has
/// few in 10 s before it is taken for two clients with one identity.
pub(crate) fn every_apart(test: impl Fn(&World, Case) + Sync) {
    for version in [Version::V311, Version::V5] {
        run_on(&World::start(&[]), &[version], &test);
    }
}

fn run(versions: &[Version], test: impl Fn(&World, Case) + Sync) {
    run_on(&World::shared(), versions, test);
}

fn run_on(world: &World, versions: &[Version], test: impl Fn(&World, Case) + Sync) {
    let cases = versions.iter().flat_map(|&version| Via::ALL.map(|via| Case { version, via }));
    let failed: Vec<Case> = thread::scope(|scope| {
        let test = &test;
        let runs: Vec<_> = cases.map(|case| (case, scope.spawn(move || test(world, case)))).collect();
        runs.into_iter().filter_map(|(case, run)| run.join().err().map(|_| case)).collect()
    });
    assert!(failed.is_empty(), "failed in {failed:?}; the panics are above");
}
