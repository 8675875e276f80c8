//! Connections as a test wants them: the version of TLS, the address they come from, the certificate they show.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use drawbridge_device::DeviceIdentity;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion, version::TLS13,
};

use crate::client::Transport;
use crate::frames::WebSocket;
use crate::harness::Core;

/// A certificate that its holder has signed with the registered key.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    pub(crate) chain: Vec<u8>,
    /// PEM.
    pub(crate) key: String,
}

impl Shown {
    pub(crate) fn by(core: &Core, identity: &DeviceIdentity) -> Self {
        let file = core.identity_folder(&identity.device).join("key.pem");
        let pair = KeyPair::from_pem(&fs::read_to_string(file).expect("the key")).expect("a key");
        let params = CertificateParams::new(Vec::new()).expect("no names");
        let chain = params.self_signed(&pair).expect("signed").der().to_vec();
        Self { chain, key: pair.serialize_pem() }
    }
}

/// A way to a server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Road<'a> {
    pub(crate) from: Ipv4Addr,
    pub(crate) tls: &'static SupportedProtocolVersion,
    pub(crate) shown: Option<&'a Shown>,
    pub(crate) websocket: bool,
}

impl Default for Road<'_> {
    fn default() -> Self {
        Self { from: Ipv4Addr::LOCALHOST, tls: &TLS13, shown: None, websocket: false }
    }
}

impl Road<'_> {
    /// A socket on which nothing of MQTT has been said.
    pub(crate) fn open(&self, core: &Core, address: &str) -> Transport {
        let stream = self.stream(core, address);
        if self.websocket {
            Transport::WebSocket(Box::new(WebSocket::open(stream)))
        } else {
            Transport::Tls(Box::new(stream))
        }
    }

    pub(crate) fn stream(&self, core: &Core, address: &str) -> StreamOwned<ClientConnection, TcpStream> {
        let pem = fs::read(core.data().join("ca.pem")).expect("the root");
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            roots.add(certificate.expect("a certificate")).expect("a root");
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider);
        let config = config.with_protocol_versions(&[self.tls]).expect("a version");
        let config = config.with_root_certificates(roots);
        let config = match self.shown {
            None => config.with_no_client_auth(),
            Some(shown) => {
                let key = PrivateKeyDer::from_pem_slice(shown.key.as_bytes()).expect("a key");
                config.with_client_auth_cert(vec![shown.chain.clone().into()], key).expect("a certificate")
            }
        };
        let name = ServerName::try_from("127.0.0.1").expect("an address");
        let tls = ClientConnection::new(Arc::new(config), name).expect("TLS");
        StreamOwned::new(tls, socket(self.from, address))
    }
}

/// TCP from an address of this machine.
pub(crate) fn socket(from: Ipv4Addr, to: &str) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from((from, 0)).into()).expect("an address of this machine");
    let to: SocketAddr = to.parse().expect("an address");
    socket.connect(&to.into()).expect("the server accepts");
    let socket = TcpStream::from(socket);
    socket.set_nodelay(true).expect("no delay");
    socket.set_write_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    socket
}
