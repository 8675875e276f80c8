//! A client of a few hand-written packets over real sockets, with TLS or without.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// The byte of the protocol level in CONNECT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Level {
    V311 = 4,
    V5 = 5,
}

pub(crate) enum Wire {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
    WebSocket(Box<crate::websocket::Framed>),
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
            Self::WebSocket(stream) => stream.read(buffer),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
            Self::WebSocket(stream) => stream.write(bytes),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
            Self::WebSocket(stream) => stream.flush(),
        }
    }
}

pub(crate) struct Client {
    pub(crate) wire: Wire,
    pub(crate) level: Level,
}

/// How a connection ended, as the client sees it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// close_notify, or FIN without TLS.
    Orderly,
    /// FIN without close_notify.
    Cut,
    Reset,
}

pub(crate) fn tls_config(
    ca: &CertificateDer<'static>,
    version: &'static rustls::SupportedProtocolVersion,
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.clone()).expect("a CA certificate");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .expect("a version that exists")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

pub(crate) fn tcp(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the bridge listens");
    stream.set_nodelay(true).expect("nodelay");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    stream
}

impl Client {
    pub(crate) fn plain(address: SocketAddr, level: Level) -> Self {
        Self { wire: Wire::Plain(tcp(address)), level }
    }

    pub(crate) fn tls(address: SocketAddr, level: Level, config: &Arc<ClientConfig>) -> Self {
        let name = ServerName::try_from("localhost").expect("a name");
        let session = ClientConnection::new(Arc::clone(config), name).expect("a client");
        Self { wire: Wire::Tls(Box::new(StreamOwned::new(session, tcp(address)))), level }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.wire.write_all(bytes).expect("written");
        self.wire.flush().expect("flushed");
    }

    /// CONNECT, and the first packet that comes back.
    pub(crate) fn connect(
        &mut self,
        client_id: &str,
        username: Option<&str>,
        password: Option<&str>,
    ) -> Vec<u8> {
        let packet = connect(self.level, client_id, username, password, 0);
        self.send(&packet);
        self.packet().expect("CONNACK").1
    }

    /// CONNECT that must be admitted.
    pub(crate) fn enter(mut self, client_id: &str, username: Option<&str>, password: Option<&str>) -> Self {
        let connack = self.connect(client_id, username, password);
        assert_eq!(connack.get(1), Some(&0), "CONNACK {connack:?}");
        self
    }

    pub(crate) fn subscribe(&mut self, filter: &str, qos: u8) {
        let packet = subscribe(self.level, 7, filter, qos);
        self.send(&packet);
        let (kind, body) = self.packet().expect("SUBACK");
        assert_eq!((kind & 0xf0, body.last()), (0x90, Some(&qos)), "{filter}: {body:?}");
    }

    /// The next packet: its first byte and what follows the length.
    pub(crate) fn packet(&mut self) -> Result<(u8, Vec<u8>), End> {
        let mut first = [0; 1];
        self.fill(&mut first)?;
        let mut length = 0_usize;
        for shift in [0, 7, 14, 21] {
            let mut byte = [0; 1];
            self.fill(&mut byte)?;
            length |= usize::from(byte[0] & 0x7f) << shift;
            if byte[0] & 0x80 == 0 {
                break;
            }
        }
        let mut body = vec![0; length];
        self.fill(&mut body)?;
        Ok((first[0], body))
    }

    fn fill(&mut self, mut buffer: &mut [u8]) -> Result<(), End> {
        while !buffer.is_empty() {
            match self.wire.read(buffer) {
                Ok(0) => return Err(End::Orderly),
                Ok(found) => buffer = &mut buffer[found..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Err(End::Cut),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Err(End::Reset),
                Err(error) => panic!("nothing came, not even an end: {error}"),
            }
        }
        Ok(())
    }

    /// Reads until the connection ends; the packets that came, and how it ended.
    pub(crate) fn until_end(&mut self) -> (Vec<(u8, Vec<u8>)>, End) {
        let mut packets = Vec::new();
        loop {
            match self.packet() {
                Ok(packet) => packets.push(packet),
                Err(end) => return (packets, end),
            }
        }
    }

    /// The next PUBLISH: topic and payload. It is acknowledged when it asks for it.
    pub(crate) fn message(&mut self) -> (String, Vec<u8>) {
        let (first, body) = self.packet().expect("a PUBLISH");
        assert_eq!(first & 0xf0, 0x30, "PUBLISH wanted, got {first:#x} {body:?}");
        let topic_end = 2 + usize::from(u16::from_be_bytes([body[0], body[1]]));
        let topic = String::from_utf8(body[2..topic_end].to_vec()).expect("UTF-8");
        let mut at = topic_end;
        if first & 0x06 != 0 {
            let id = [body[at], body[at + 1]];
            at += 2;
            self.send(&[0x40, 2, id[0], id[1]]);
        }
        if self.level == Level::V5 {
            assert!(body[at] < 0x80, "few properties");
            at += 1 + usize::from(body[at]);
        }
        (topic, body[at..].to_vec())
    }
}

fn framed(first: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![first];
    let mut length = body.len();
    loop {
        let byte = u8::try_from(length & 0x7f).expect("7 bits");
        length >>= 7;
        packet.push(if length == 0 { byte } else { byte | 0x80 });
        if length == 0 {
            break;
        }
    }
    packet.extend_from_slice(body);
    packet
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&u16::try_from(text.len()).expect("short").to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

pub(crate) fn connect(
    level: Level,
    client_id: &str,
    username: Option<&str>,
    password: Option<&str>,
    keep_alive_s: u16,
) -> Vec<u8> {
    let mut body = Vec::new();
    text(&mut body, "MQTT");
    let flags = 2 | if username.is_some() { 0x80 } else { 0 } | if password.is_some() { 0x40 } else { 0 };
    body.extend_from_slice(&[level as u8, flags]);
    body.extend_from_slice(&keep_alive_s.to_be_bytes());
    if level == Level::V5 {
        body.push(0);
    }
    text(&mut body, client_id);
    for part in [username, password].into_iter().flatten() {
        text(&mut body, part);
    }
    framed(0x10, &body)
}

pub(crate) fn subscribe(level: Level, id: u16, filter: &str, qos: u8) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    if level == Level::V5 {
        body.push(0);
    }
    text(&mut body, filter);
    body.push(qos);
    framed(0x82, &body)
}

/// `id` 0 means QoS 0.
pub(crate) fn publish(level: Level, topic: &str, id: u16, payload: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    text(&mut body, topic);
    if id != 0 {
        body.extend_from_slice(&id.to_be_bytes());
    }
    if level == Level::V5 {
        body.push(0);
    }
    body.extend_from_slice(payload);
    framed(if id == 0 { 0x30 } else { 0x32 }, &body)
}

pub(crate) const PINGREQ: [u8; 2] = [0xc0, 0];
