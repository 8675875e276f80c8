//! TLS of fleets over real sockets: one port for MQTT and HTTPS, names that lead to registries, sessions that are resumed.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use drawbridge_admission::{Actor, NewDevice, NewRegistry, Ways};
use drawbridge_bridge::{
    HttpsArrival, HttpsEntrance, Listener, ListenerKind, ServerIdentity, ServerName, ServerTls,
    TicketSecrets, TlsSettings,
};
use drawbridge_names::RegistryName;
use drawbridge_testkit::TestDevice;
use rcgen::{CertificateParams, KeyPair};
use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, ServerConnection, StreamOwned};

use crate::client::{Client, Level, Wire, tcp, tls_config};
use crate::rig::{ISSUER, RealClock, Rig, jwt, rig, wait_until};

/// Certificates for `localhost` and `plant.example`, and what a client believes.
struct Shown {
    names: Vec<ServerName>,
    leaves: Vec<CertificateDer<'static>>,
}

fn shown() -> Shown {
    let (mut names, mut leaves) = (Vec::new(), Vec::new());
    for (label, name, registry) in [
        ("own", "localhost", None),
        ("plant", "plant.example", Some(RegistryName::parse("plant").expect("a name"))),
    ] {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let issuer = rcgen::Issuer::new(params.clone(), &key);
        let root = params.self_signed(&key).expect("signed");
        let leaf_key = KeyPair::generate().expect("a key");
        let leaf = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        let leaf = leaf.signed_by(&leaf_key, &issuer).expect("signed");
        let der = PrivateKeyDer::try_from(leaf_key.serialize_der()).expect("PKCS#8");
        let identity = ServerIdentity::new(vec![leaf.der().clone()], der).expect("an identity");
        names.push(ServerName { label: label.into(), names: vec![name.into()], registry, identity });
        leaves.push(root.der().clone());
    }
    Shown { names, leaves }
}

fn settings(https: bool) -> TlsSettings {
    TlsSettings {
        listener: "fleet".into(),
        mqtt: true,
        https,
        tls13: true,
        tls12: true,
        mqtt_certificates: true,
        https_certificates: false,
        tls12_certificates: false,
        raw_keys: false,
        record_bytes_max: None,
        tickets: Some(TicketSecrets::new(&[[3; 32]], 86_400, Arc::new(RealClock))),
    }
}

/// HTTPS that says one line to everybody.
#[derive(Debug, Default)]
struct OneLine {
    came: Mutex<Vec<HttpsArrival>>,
}

impl HttpsEntrance for OneLine {
    fn enter(&self, arrival: HttpsArrival) {
        self.came.lock().expect("unpoisoned").push(arrival);
    }
}

impl OneLine {
    fn serve(&self) -> SocketAddr {
        wait_until("a client of HTTPS", || !self.came.lock().expect("unpoisoned").is_empty());
        let HttpsArrival { mut socket, peer, hello, tls, place } =
            self.came.lock().expect("unpoisoned").pop().expect("just seen");
        socket.set_nonblocking(false).expect("blocking");
        socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        let mut session: ServerConnection = hello.into_connection(tls).expect("a server");
        while session.is_handshaking() {
            session.complete_io(&mut socket).expect("a handshake");
        }
        drop(place);
        session.writer().write_all(b"hello\n").expect("memory");
        session.send_close_notify();
        session.complete_io(&mut socket).expect("sent");
        peer
    }
}

struct Fleet {
    rig: Rig,
    address: SocketAddr,
    shown: Shown,
    https: Arc<OneLine>,
}

fn fleet(has_https: bool, change: impl FnOnce(&mut drawbridge_bridge::BridgeConfig)) -> Fleet {
    let shown = shown();
    let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = socket.local_addr().expect("bound");
    let https = Arc::new(OneLine::default());
    let entrance = has_https.then(|| Arc::clone(&https) as Arc<dyn HttpsEntrance>);
    let tls = ServerTls::new(settings(has_https), &shown.names).expect("TLS");
    let rig = rig(|config| {
        config.listeners.push(Listener {
            socket,
            kind: ListenerKind::ByHello { tls, https: entrance },
            registry: None,
            ways: Ways::ALL,
        });
        change(config);
    });
    Fleet { rig, address, shown, https }
}

impl Fleet {
    fn config(&self, index: usize, alpn: &[&[u8]]) -> Arc<ClientConfig> {
        let mut config = (*tls_config(&self.shown.leaves[index], &rustls::version::TLS13)).clone();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        config.resumption = Resumption::in_memory_sessions(4);
        Arc::new(config)
    }

    fn open(
        &self,
        name: &'static str,
        config: &Arc<ClientConfig>,
    ) -> StreamOwned<ClientConnection, std::net::TcpStream> {
        let session = ClientConnection::new(Arc::clone(config), name.try_into().expect("a name"));
        StreamOwned::new(session.expect("a client"), tcp(self.address))
    }

    fn mqtt(&self, name: &'static str, config: &Arc<ClientConfig>, level: Level) -> Client {
        Client { wire: Wire::Tls(Box::new(self.open(name, config))), level }
    }
}

fn kind(client: &Client) -> Option<HandshakeKind> {
    let Wire::Tls(stream) = &client.wire else { return None };
    stream.conn.handshake_kind()
}

#[test]
fn one_port_leads_mqtt_to_the_bridge_and_everything_else_to_https() {
    let fleet = fleet(true, |_| {});
    let lamp = fleet.rig.device("lamp");
    for level in [Level::V311, Level::V5] {
        let config = fleet.config(0, &[b"mqtt"]);
        fleet.mqtt("localhost", &config, level).enter("lamp", Some("unused"), Some(&jwt(&lamp).sign()));
        // By this name a client says that it logs in with its certificate, and nothing else is taken.
        let config = fleet.config(0, &[b"x-amzn-mqtt-ca"]);
        let mut other = fleet.mqtt("localhost", &config, level);
        assert_ne!(other.connect("lamp", Some("unused"), Some(&jwt(&lamp).sign()))[1], 0, "{level:?}");
    }
    for alpn in [&[b"http/1.1".as_slice()][..], &[b"h2", b"http/1.1"], &[]] {
        let mut stream = fleet.open("localhost", &fleet.config(0, alpn));
        let reader = std::thread::spawn(move || {
            stream.flush().expect("a handshake");
            let mut text = String::new();
            stream.read_to_string(&mut text).map(|_| (text, stream.sock.local_addr().expect("bound")))
        });
        let peer = fleet.https.serve();
        let (text, local) = reader.join().expect("no panic").expect("it answers");
        assert_eq!((text.as_str(), peer), ("hello\n", local), "{alpn:?}");
    }
    wait_until("nobody is left", || {
        let stats = fleet.rig.handle.stats();
        (stats.connections, stats.unauthenticated) == (0, 0)
    });
}

#[test]
fn i1_who_speaks_https_is_counted_as_a_stranger_until_https_has_taken_him() {
    let fleet = fleet(true, |config| {
        config.shards = 1;
        config.unauthenticated_max = 3;
    });
    let https = fleet.config(0, &[b"http/1.1"]);
    let mut waiting: Vec<_> = (0..3).map(|_| fleet.open("localhost", &https)).collect();
    for stream in &mut waiting {
        let _ = stream.conn.complete_io(&mut NotYet(&mut stream.sock));
    }
    wait_until("all three are there", || fleet.https.came.lock().expect("unpoisoned").len() == 3);
    assert_eq!(fleet.rig.handle.stats().unauthenticated, 3);
    // The fourth finds no place until one of them is counted elsewhere.
    let lamp = fleet.rig.device("lamp");
    let config = fleet.config(0, &[b"mqtt"]);
    let mut fourth = fleet.mqtt("localhost", &config, Level::V5);
    if let Wire::Tls(stream) = &mut fourth.wire {
        stream.sock.set_read_timeout(Some(Duration::from_millis(300))).expect("a timeout");
        let waits = stream.conn.complete_io(&mut stream.sock).expect_err("nobody has accepted it");
        assert!(matches!(waits.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{waits}");
        stream.sock.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    }
    drop(fleet.https.came.lock().expect("unpoisoned").pop());
    fourth.enter("lamp", Some("unused"), Some(&jwt(&lamp).sign()));
}

/// Writes, and has nothing to read.
struct NotYet<'a>(&'a mut std::net::TcpStream);

impl Read for NotYet<'_> {
    fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
        Err(ErrorKind::WouldBlock.into())
    }
}

impl Write for NotYet<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

#[test]
fn a_name_leads_to_its_registry_whoever_has_the_same_name_in_another() {
    let fleet = fleet(false, |_| {});
    let plant = RegistryName::parse("plant").expect("a name");
    let registry = NewRegistry::named(plant.clone(), Some(format!("{ISSUER}/r/plant")));
    let (lamp, password) = (TestDevice::new("lamp"), "correct horse battery staple");
    let new = NewDevice::with_key(lamp.name.clone(), lamp.public_key().clone());
    fleet.rig.device("lamp");
    fleet.rig.runtime.block_on(async {
        let admission = &fleet.rig.admission;
        admission.create_registry(registry, &Actor::Admin).await.expect("a registry");
        admission.add_device(&plant, new, &Actor::Admin).await.expect("a device");
        admission
            .set_password(&plant, &lamp.name, Some(password), None, &Actor::Admin)
            .await
            .expect("a password");
    });
    let there = fleet.config(1, &[]);
    fleet.mqtt("plant.example", &there, Level::V5).enter("lamp", Some("lamp"), Some(password));
    let here = fleet.config(0, &[]);
    let connack = fleet.mqtt("localhost", &here, Level::V5).connect("lamp", Some("lamp"), Some(password));
    assert_eq!(connack[1], 0x87, "not authorised in the default registry");
}

#[test]
fn a_resumed_session_is_judged_anew_and_who_was_blocked_stays_out() {
    let fleet = fleet(false, |_| {});
    let lamp = fleet.rig.device("lamp");
    let config = fleet.config(0, &[b"mqtt"]);
    let enter = || {
        let client = fleet.mqtt("localhost", &config, Level::V5);
        client.enter("lamp", Some("unused"), Some(&jwt(&lamp).sign()))
    };
    assert_eq!(kind(&enter()), Some(HandshakeKind::Full));
    assert_eq!(kind(&enter()), Some(HandshakeKind::Resumed));
    let registry = crate::rig::registry();
    let blocked = fleet.rig.admission.block(&registry, &lamp.name, None, &Actor::Admin);
    fleet.rig.runtime.block_on(blocked).expect("blocked");
    let mut client = fleet.mqtt("localhost", &config, Level::V5);
    let connack = client.connect("lamp", Some("unused"), Some(&jwt(&lamp).sign()));
    assert_eq!((kind(&client), connack[1]), (Some(HandshakeKind::Resumed), 0x87));
}
