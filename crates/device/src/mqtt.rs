//! A blocking MQTT client over TLS.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use drawbridge_mqtt::codec::{
    self, Ack, Connect, Disconnect, Frame, Packet, PacketId, ProtocolVersion, Publish, Qos, ReasonCode, Side,
    Subscribe, SubscribeEntry, UserProperties,
};
use drawbridge_names::TopicName;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::{ApiClient, DeviceError, DeviceIdentity, edge};

/// How long the server may take to answer, in seconds.
const ANSWER_S_MAX: u64 = 15;
/// The largest packet taken from the server, in bytes.
const PACKET_BYTES_MAX: usize = 1 << 20;

/// What it takes to connect.
#[derive(Clone)]
pub struct MqttOptions {
    /// `host:port` of MQTT over TLS; the host must be a name or address of the server's certificate.
    pub server: String,
    /// The server's root certificate, PEM.
    pub ca_pem: String,
    /// MQTT version.
    pub version: ProtocolVersion,
    /// MQTT client id.
    pub client_id: String,
    /// User name, if any.
    pub username: Option<String>,
    /// Password: a JWT of the device, or an access token.
    pub password: Vec<u8>,
    /// Keep alive in seconds, 0 for none.
    pub keep_alive_s: u16,
}

impl std::fmt::Debug for MqttOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MqttOptions")
            .field("server", &self.server)
            .field("client_id", &self.client_id)
            .finish_non_exhaustive()
    }
}

/// A message that came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Where it was published.
    pub topic: String,
    /// Its bytes.
    pub payload: Vec<u8>,
    /// Whether it is a retained message sent on subscribing.
    pub retain: bool,
}

/// One connection to the server.
pub struct MqttClient {
    stream: StreamOwned<ClientConnection, TcpStream>,
    server: String,
    version: ProtocolVersion,
    keep_alive: Option<Duration>,
    last_sent: Instant,
    received: Vec<u8>,
    next_id: u16,
    messages: VecDeque<Message>,
    answers: VecDeque<(PacketId, u8, String)>,
}

impl std::fmt::Debug for MqttClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MqttClient").field("server", &self.server).finish_non_exhaustive()
    }
}

impl MqttClient {
    /// Connects as a device: with a JWT of its own, or, when the server refuses that for the time, with an
    /// access token, which needs no clock.
    ///
    /// # Errors
    /// As [`Self::connect`] and [`ApiClient::token`].
    pub fn connect_as(identity: &DeviceIdentity, client_id: &str) -> Result<Self, DeviceError> {
        let mut options = identity.mqtt_options()?;
        client_id.clone_into(&mut options.client_id);
        match Self::connect(&options) {
            Err(DeviceError::Refused { server_time_s: Some(_), .. }) => {}
            answer => return answer,
        }
        let server = &identity.https;
        let base = match identity.registry.as_str() {
            "default" => format!("https://{server}"),
            other => format!("https://{server}/r/{other}"),
        };
        let api = ApiClient::new(&base, &identity.ca_pem)?;
        let token = api.token(&identity.device, &identity.issuer, None, &identity.key)?;
        options.password = token.access_token.into_bytes();
        Self::connect(&options)
    }

    /// Connects, authenticates, and answers when the server has accepted.
    ///
    /// # Errors
    /// [`DeviceError::Refused`] with the reason of CONNACK, [`DeviceError::Tls`],
    /// [`DeviceError::Connection`], [`DeviceError::TimedOut`].
    pub fn connect(options: &MqttOptions) -> Result<Self, DeviceError> {
        let mut client = Self {
            stream: open_tls(&options.server, &options.ca_pem)?,
            server: options.server.clone(),
            version: options.version,
            keep_alive: (options.keep_alive_s > 0)
                .then(|| Duration::from_secs(u64::from(options.keep_alive_s))),
            last_sent: edge::instant(),
            received: Vec::new(),
            next_id: 0,
            messages: VecDeque::new(),
            answers: VecDeque::new(),
        };
        client.write(&Packet::Connect(Box::new(Connect {
            version: options.version,
            clean_start: true,
            keep_alive_s: options.keep_alive_s,
            client_id: &options.client_id,
            username: options.username.as_deref(),
            password: Some(&options.password),
            will: None,
            properties: Default::default(),
        })))?;
        let deadline = edge::instant() + Duration::from_secs(ANSWER_S_MAX);
        loop {
            match client.step(deadline)? {
                Step::Accepted => return Ok(client),
                Step::Something => {}
                Step::Nothing => {
                    return Err(DeviceError::TimedOut { what: "CONNECT", seconds: ANSWER_S_MAX });
                }
            }
        }
    }

    /// Publishes; with [`Qos::AtLeastOnce`] it answers after the server's PUBACK.
    ///
    /// # Errors
    /// [`DeviceError::Refused`] when the server refuses the message (MQTT 5), [`DeviceError::Closed`]
    /// when it closes the connection instead.
    pub fn publish(
        &mut self,
        topic: &str,
        payload: &[u8],
        qos: Qos,
        retain: bool,
    ) -> Result<(), DeviceError> {
        let topic = TopicName::parse(topic).map_err(|e| DeviceError::Protocol(e.to_string()))?;
        let packet_id = (qos != Qos::AtMostOnce).then(|| self.packet_id());
        self.write(&Packet::Publish(Publish {
            dup: false,
            qos,
            retain,
            topic: Some(topic),
            packet_id,
            properties: Default::default(),
            payload,
        }))?;
        match packet_id {
            None => Ok(()),
            Some(id) => self.answer(id, "PUBLISH"),
        }
    }

    /// Subscribes at QoS 1 and answers after the server's SUBACK.
    ///
    /// # Errors
    /// [`DeviceError::Refused`] when the server refuses the filter.
    pub fn subscribe(&mut self, filter: &str) -> Result<(), DeviceError> {
        let id = self.packet_id();
        let entry = SubscribeEntry::of(filter, Qos::AtLeastOnce);
        self.write(&Packet::Subscribe(Subscribe {
            packet_id: id,
            subscription_identifier: None,
            user_properties: UserProperties::default(),
            entries: vec![entry],
        }))?;
        self.answer(id, "SUBSCRIBE")
    }

    /// The next message, or `None` when none came within `wait`. Keeps the connection alive meanwhile.
    ///
    /// # Errors
    /// [`DeviceError::Closed`] with the server's reason when the connection ended.
    pub fn receive(&mut self, wait: Duration) -> Result<Option<Message>, DeviceError> {
        let deadline = edge::instant() + wait;
        loop {
            if let Some(message) = self.messages.pop_front() {
                return Ok(Some(message));
            }
            if matches!(self.step(deadline)?, Step::Nothing) {
                return Ok(None);
            }
        }
    }

    /// Says goodbye and closes.
    ///
    /// # Errors
    /// [`DeviceError::Connection`] when the connection broke before.
    pub fn disconnect(mut self) -> Result<(), DeviceError> {
        self.write(&Packet::Disconnect(Disconnect::of(ReasonCode::NORMAL_DISCONNECTION)))?;
        self.stream.conn.send_close_notify();
        let _ = self.stream.flush(); // the goodbye is said; the server may be gone by now
        Ok(())
    }

    fn packet_id(&mut self) -> PacketId {
        self.next_id = self.next_id.checked_add(1).unwrap_or(1);
        PacketId::new(self.next_id).expect("counted from 1")
    }

    fn write(&mut self, packet: &Packet<'_>) -> Result<(), DeviceError> {
        let mut bytes = Vec::new();
        packet
            .encode(self.version, &mut bytes)
            .map_err(|e| DeviceError::Protocol(format!("the packet cannot be sent: {e}")))?;
        self.last_sent = edge::instant();
        let sent = self.stream.write_all(&bytes).and_then(|()| self.stream.flush());
        sent.map_err(|e| fault(&self.server, &e))
    }

    fn answer(&mut self, id: PacketId, what: &'static str) -> Result<(), DeviceError> {
        let deadline = edge::instant() + Duration::from_secs(ANSWER_S_MAX);
        loop {
            if let Some(at) = self.answers.iter().position(|(answered, ..)| *answered == id) {
                let (_, code, why) = self.answers.remove(at).expect("`position` just found it");
                let refused = || DeviceError::Refused { code, why, server_time_s: None };
                return if code < 0x80 { Ok(()) } else { Err(refused()) };
            }
            if matches!(self.step(deadline)?, Step::Nothing) {
                return Err(DeviceError::TimedOut { what, seconds: ANSWER_S_MAX });
            }
        }
    }

    /// Takes one packet, reading until `deadline` if none is here.
    fn step(&mut self, deadline: Instant) -> Result<Step, DeviceError> {
        loop {
            let frame = codec::decode(&self.received, Some(self.version), PACKET_BYTES_MAX, Side::FromServer)
                .map_err(|e| DeviceError::Protocol(e.to_string()))?;
            if let Frame::Complete { packet, bytes } = frame {
                let (step, puback) = take(packet, &mut self.messages, &mut self.answers)?;
                self.received.drain(..bytes);
                if let Some(id) = puback {
                    self.write(&Packet::PubAck(Ack::success(id)))?;
                }
                return Ok(step);
            }
            let now = edge::instant();
            if now >= deadline {
                return Ok(Step::Nothing);
            }
            let mut until = deadline;
            if let Some(keep_alive) = self.keep_alive {
                if now >= self.last_sent + keep_alive {
                    self.write(&Packet::PingReq)?;
                }
                until = until.min(self.last_sent + keep_alive);
            }
            self.read(until.saturating_duration_since(now))?;
        }
    }

    fn read(&mut self, wait: Duration) -> Result<(), DeviceError> {
        let wait = wait.max(Duration::from_millis(1));
        self.stream.sock.set_read_timeout(Some(wait)).map_err(|e| fault(&self.server, &e))?;
        let mut chunk = [0; 4096];
        match self.stream.read(&mut chunk) {
            Ok(0) => Err(DeviceError::Closed(" without a word".to_owned())),
            Ok(n) => {
                self.received.extend_from_slice(&chunk[..n]);
                Ok(())
            }
            Err(e)
                if matches!(
                    e.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) =>
            {
                Ok(())
            }
            Err(e) => Err(fault(&self.server, &e)),
        }
    }
}

enum Step {
    /// CONNACK said yes.
    Accepted,
    /// A packet was taken.
    Something,
    /// Nothing came until the deadline.
    Nothing,
}

fn take(
    packet: Packet<'_>,
    messages: &mut VecDeque<Message>,
    answers: &mut VecDeque<(PacketId, u8, String)>,
) -> Result<(Step, Option<PacketId>), DeviceError> {
    let why = |code: ReasonCode, said: Option<&str>| said.unwrap_or(code.text()).to_owned();
    match packet {
        Packet::ConnAck(connack) => {
            if !connack.reason.is_error() {
                return Ok((Step::Accepted, None));
            }
            let why = why(connack.reason, connack.properties.reason_string);
            let server_time_s = connack.properties.user_properties.first("db-time");
            let server_time_s = server_time_s.and_then(|text| text.parse().ok());
            Err(DeviceError::Refused { code: connack.reason.byte(), why, server_time_s })
        }
        Packet::Publish(publish) => {
            messages.push_back(Message {
                topic: publish.topic.map(|topic| topic.as_str().to_owned()).unwrap_or_default(),
                payload: publish.payload.to_vec(),
                retain: publish.retain,
            });
            Ok((Step::Something, publish.packet_id.filter(|_| publish.qos == Qos::AtLeastOnce)))
        }
        Packet::PubAck(ack) => {
            answers.push_back((ack.packet_id, ack.reason.byte(), why(ack.reason, ack.reason_string)));
            Ok((Step::Something, None))
        }
        Packet::SubAck(ack) => {
            let code = ack.codes.first().copied().unwrap_or(ReasonCode::UnspecifiedError);
            answers.push_back((ack.packet_id, code.byte(), why(code, ack.reason_string)));
            Ok((Step::Something, None))
        }
        Packet::Disconnect(bye) => {
            let why = why(bye.reason, bye.reason_string);
            Err(DeviceError::Closed(format!(": {why} (0x{:02x})", bye.reason.byte())))
        }
        _ => Ok((Step::Something, None)),
    }
}

fn open_tls(server: &str, ca_pem: &str) -> Result<StreamOwned<ClientConnection, TcpStream>, DeviceError> {
    let tls = |why: String| DeviceError::Tls { server: server.to_owned(), why };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        let certificate = certificate.map_err(|e| tls(format!("the CA file is no PEM: {e}")))?;
        roots.add(certificate).map_err(|e| tls(format!("the CA file is no certificate: {e}")))?;
    }
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| tls(e.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let host = server.rsplit_once(':').map_or(server, |(host, _)| host).trim_matches(['[', ']']);
    let name = ServerName::try_from(host.to_owned()).map_err(|e| tls(e.to_string()))?;
    let connection = ClientConnection::new(Arc::new(config), name).map_err(|e| tls(e.to_string()))?;
    let address =
        server.to_socket_addrs().map_err(|e| fault(server, &e))?.next().ok_or_else(|| {
            DeviceError::Connection { server: server.to_owned(), why: "no address".to_owned() }
        })?;
    let socket =
        TcpStream::connect_timeout(&address, Duration::from_secs(5)).map_err(|e| fault(server, &e))?;
    socket.set_nodelay(true).map_err(|e| fault(server, &e))?;
    let limit = Some(Duration::from_secs(ANSWER_S_MAX));
    socket
        .set_read_timeout(limit)
        .and_then(|()| socket.set_write_timeout(limit))
        .map_err(|e| fault(server, &e))?;
    let mut stream = StreamOwned::new(connection, socket);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock).map_err(|e| fault(server, &e))?;
    }
    Ok(stream)
}

fn fault(server: &str, error: &std::io::Error) -> DeviceError {
    let server = server.to_owned();
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(tls) => DeviceError::Tls { server, why: tls.to_string() },
        None if error.kind() == ErrorKind::UnexpectedEof => DeviceError::Closed(" without a word".to_owned()),
        None => DeviceError::Connection { server, why: error.to_string() },
    }
}
