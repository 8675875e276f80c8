//! A broker of which each test writes what it says: real sockets, the codec of this workspace, no state.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use drawbridge_device::{ClientOptions, Endpoint, Tls, sha256_of_public_key};
use drawbridge_mqtt::codec::{self, Ack, ConnAck, Frame, Packet, ProtocolVersion, ReasonCode, Side, SubAck};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    DigitallySignedStruct, DistinguishedName, ServerConfig, ServerConnection, SignatureScheme, StreamOwned,
};

/// Nothing in these tests takes so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A listener, its certificate, and what its script has reported.
pub(crate) struct Broker<T> {
    pub(crate) server: String,
    pub(crate) ca_pem: String,
    pub(crate) pin: [u8; 32],
    /// SHA-256 of it is `x5t#S256`.
    pub(crate) certificate: Vec<u8>,
    pub(crate) reports: Receiver<T>,
}

/// One connection of a client.
pub(crate) struct Peer {
    stream: Stream,
    version: Option<ProtocolVersion>,
    received: Vec<u8>,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ServerConnection, TcpStream>>),
}

impl<T: Send + 'static> Broker<T> {
    /// Runs `script` for each connection in turn, with its number. Over TLS unless `plain`; the script ends by returning.
    pub(crate) fn start(
        plain: bool,
        mut script: impl FnMut(usize, &mut Peer, &mpsc::Sender<T>) + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let server = format!("127.0.0.1:{}", listener.local_addr().expect("bound").port());
        let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("made");
        let (ca_pem, der) = (certified.cert.pem(), certified.cert.der().clone());
        let pin = sha256_of_public_key(&der).expect("a key");
        let certificate = der.to_vec();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).expect("a key");
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(rustls::ALL_VERSIONS)
            .expect("versions")
            .with_client_cert_verifier(Arc::new(Anybody))
            .with_single_cert(vec![der], key)
            .expect("a certificate");
        let config = Arc::new(config);
        let (sender, reports) = mpsc::channel();
        std::thread::spawn(move || {
            for (number, socket) in listener.incoming().enumerate() {
                let socket = socket.expect("a connection");
                socket.set_read_timeout(Some(PATIENCE)).expect("set");
                let stream = if plain {
                    Stream::Plain(socket)
                } else {
                    let tls = ServerConnection::new(Arc::clone(&config)).expect("configured");
                    Stream::Tls(Box::new(StreamOwned::new(tls, socket)))
                };
                let mut peer = Peer { stream, version: None, received: Vec::new() };
                script(number, &mut peer, &sender);
            }
        });
        Self { server, ca_pem, pin, certificate, reports }
    }

    /// A client for it; quick to come back.
    pub(crate) fn options(&self, plain: bool) -> ClientOptions {
        let tls = (!plain).then(|| Tls::with_roots(&self.ca_pem));
        let endpoint = Endpoint { server: self.server.clone(), tls, websocket: None };
        let mut options = ClientOptions::new(endpoint, "lamp");
        options.backoff.base = Duration::from_millis(20);
        options
    }

    pub(crate) fn report(&self) -> T {
        self.reports.recv_timeout(PATIENCE).expect("the broker reports")
    }
}

impl Peer {
    /// Gives the next packet to `look`; `None` when the client is gone.
    pub(crate) fn hear<T>(&mut self, look: impl FnOnce(Packet<'_>) -> T) -> Option<T> {
        loop {
            match codec::decode(&self.received, self.version, 1 << 20, Side::FromClient).expect("MQTT") {
                Frame::Complete { packet, bytes } => {
                    if let Packet::Connect(connect) = &packet {
                        self.version = Some(connect.version);
                    }
                    let seen = look(packet);
                    self.received.drain(..bytes);
                    return Some(seen);
                }
                Frame::Incomplete { .. } => {
                    let mut chunk = [0; 4096];
                    let got = match &mut self.stream {
                        Stream::Plain(socket) => socket.read(&mut chunk),
                        Stream::Tls(tls) => tls.read(&mut chunk),
                    };
                    match got {
                        Ok(0) | Err(_) => return None,
                        Ok(n) => self.received.extend_from_slice(&chunk[..n]),
                    }
                }
            }
        }
    }

    pub(crate) fn say(&mut self, packet: &Packet<'_>) {
        let mut bytes = Vec::new();
        packet.encode(self.version.expect("after CONNECT"), &mut bytes).expect("encodes");
        let _ = match &mut self.stream {
            Stream::Plain(socket) => socket.write_all(&bytes),
            Stream::Tls(tls) => tls.write_all(&bytes).and_then(|()| tls.flush()),
        };
    }

    /// Reads one request of HTTP and answers it; false when the client is gone.
    pub(crate) fn answer_http(&mut self, status: &str, fields: &str, body: &str) -> bool {
        let Stream::Tls(tls) = &mut self.stream else { panic!("no TLS") };
        let mut request = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&request).to_ascii_lowercase();
            if let Some((head, rest)) = text.split_once("\r\n\r\n") {
                let length = head.split_once("content-length: ").and_then(|(_, rest)| rest.lines().next());
                if rest.len() >= length.map_or(0, |length| length.trim().parse().expect("a number")) {
                    break;
                }
            }
            let mut chunk = [0; 4096];
            match tls.read(&mut chunk) {
                Ok(0) | Err(_) => return false,
                Ok(n) => request.extend_from_slice(&chunk[..n]),
            }
        }
        let answer = format!(
            "HTTP/1.1 {status}\r\n{fields}connection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        tls.write_all(answer.as_bytes()).and_then(|()| tls.flush()).is_ok()
    }

    /// Lets the client in.
    pub(crate) fn welcome(&mut self, session_present: bool) {
        let properties = Default::default();
        self.say(&Packet::ConnAck(ConnAck { session_present, reason: ReasonCode::Success, properties }));
    }

    pub(crate) fn refuse(&mut self, reason: ReasonCode) {
        let properties = Default::default();
        self.say(&Packet::ConnAck(ConnAck { session_present: false, reason, properties }));
    }

    pub(crate) fn puback(&mut self, id: codec::PacketId) {
        self.say(&Packet::PubAck(Ack::success(id)));
    }

    pub(crate) fn suback(&mut self, id: codec::PacketId, code: ReasonCode) {
        self.say(&Packet::SubAck(SubAck {
            packet_id: id,
            codes: vec![code],
            reason_string: None,
            user_properties: Default::default(),
        }));
    }

    /// Takes CONNECT and lets the client in; answers false when it went before.
    pub(crate) fn admit(&mut self, session_present: bool) -> bool {
        let came = self.hear(|packet| assert!(matches!(packet, Packet::Connect(_)), "{packet:?}"));
        if came.is_some() {
            self.welcome(session_present);
        }
        came.is_some()
    }

    /// Answers what is of no interest to a test until `look` has something: pings, and subscriptions, which are granted.
    pub(crate) fn until<T>(&mut self, mut look: impl FnMut(&Packet<'_>) -> Option<T>) -> Option<T> {
        loop {
            let (found, subscribed, ping) = self.hear(|packet| {
                let id = match &packet {
                    Packet::Subscribe(subscribe) => Some(subscribe.packet_id),
                    _ => None,
                };
                (look(&packet), id, packet == Packet::PingReq)
            })?;
            if let Some(id) = subscribed {
                self.suback(id, ReasonCode::GrantedQos1);
            }
            if ping {
                self.say(&Packet::PingResp);
            }
            if found.is_some() {
                return found;
            }
        }
    }

    pub(crate) fn export(&self, label: &[u8], context: &[u8]) -> [u8; 32] {
        let Stream::Tls(tls) = &self.stream else { panic!("no TLS") };
        tls.conn.export_keying_material([0; 32], label, Some(context)).expect("exports")
    }

    /// Whether the handshake resumed a session of before.
    pub(crate) fn is_resumed(&self) -> bool {
        let Stream::Tls(tls) = &self.stream else { panic!("no TLS") };
        tls.conn.handshake_kind() == Some(rustls::HandshakeKind::Resumed)
    }

    /// The certificate that the client showed.
    pub(crate) fn certificate(&self) -> Option<Vec<u8>> {
        let Stream::Tls(tls) = &self.stream else { panic!("no TLS") };
        tls.conn.peer_certificates().and_then(<[_]>::first).map(|certificate| certificate.to_vec())
    }
}

/// Asks for a certificate, and takes any whose key is proven.
#[derive(Debug)]
struct Anybody;

impl ClientCertVerifier for Anybody {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
