//! A blocking MQTT client over TLS, as simple as can be: one connection, until it ends. What stays connected is
//! [`crate::DeviceClient`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use drawbridge_mqtt::codec::{
    Ack, Connect, Disconnect, Packet, PacketId, ProtocolVersion, Publish, Qos, ReasonCode, Subscribe,
    SubscribeEntry, UserProperties,
};
use drawbridge_names::TopicName;

use crate::connect::admit;
use crate::link::{ANSWER_S_MAX, Endpoint, Link};
use crate::{ApiClient, DeviceError, DeviceIdentity, Host, Tls, edge};

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
    link: Link,
    server: String,
    keep_alive: Option<Duration>,
    last_sent: Instant,
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
        let endpoint = Endpoint {
            server: options.server.clone(),
            tls: Some(Tls::with_roots(&options.ca_pem)),
            websocket: None,
        };
        let mut link = Link::open(&endpoint, endpoint.config(false)?, options.version, Arc::new(Host))?;
        let connect = Connect {
            version: options.version,
            clean_start: true,
            keep_alive_s: options.keep_alive_s,
            client_id: &options.client_id,
            username: options.username.as_deref(),
            password: Some(&options.password),
            will: None,
            properties: Default::default(),
        };
        admit(&mut link, connect, &Host, |_| Err(DeviceError::Protocol("AUTH without a method".to_owned())))?;
        Ok(Self {
            link,
            server: options.server.clone(),
            keep_alive: (options.keep_alive_s > 0)
                .then(|| Duration::from_secs(u64::from(options.keep_alive_s))),
            last_sent: edge::instant(),
            next_id: 0,
            messages: VecDeque::new(),
            answers: VecDeque::new(),
        })
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
        self.link.close();
        Ok(())
    }

    fn packet_id(&mut self) -> PacketId {
        self.next_id = self.next_id.checked_add(1).unwrap_or(1);
        PacketId::new(self.next_id).expect("counted from 1")
    }

    fn write(&mut self, packet: &Packet<'_>) -> Result<(), DeviceError> {
        self.link.send(packet)?;
        self.last_sent = edge::instant();
        let deadline = self.last_sent + Duration::from_secs(ANSWER_S_MAX);
        self.link.flush_all(deadline.saturating_duration_since(self.last_sent))
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
            let (messages, answers) = (&mut self.messages, &mut self.answers);
            if let Some(taken) = self.link.next(|packet| take(packet, messages, answers))? {
                if let Some(id) = taken? {
                    self.write(&Packet::PubAck(Ack::success(id)))?;
                }
                return Ok(Step::Something);
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
            self.link.wait(until.saturating_duration_since(now))?;
        }
    }
}

enum Step {
    /// A packet was taken.
    Something,
    /// Nothing came until the deadline.
    Nothing,
}

fn take(
    packet: Packet<'_>,
    messages: &mut VecDeque<Message>,
    answers: &mut VecDeque<(PacketId, u8, String)>,
) -> Result<Option<PacketId>, DeviceError> {
    let why = |code: ReasonCode, said: Option<&str>| said.unwrap_or(code.text()).to_owned();
    match packet {
        Packet::Publish(publish) => {
            messages.push_back(Message {
                topic: publish.topic.map(|topic| topic.as_str().to_owned()).unwrap_or_default(),
                payload: publish.payload.to_vec(),
                retain: publish.retain,
            });
            return Ok(publish.packet_id.filter(|_| publish.qos == Qos::AtLeastOnce));
        }
        Packet::PubAck(ack) => {
            answers.push_back((ack.packet_id, ack.reason.byte(), why(ack.reason, ack.reason_string)));
        }
        Packet::SubAck(ack) => {
            let code = ack.codes.first().copied().unwrap_or(ReasonCode::UnspecifiedError);
            answers.push_back((ack.packet_id, code.byte(), why(code, ack.reason_string)));
        }
        Packet::Disconnect(bye) => {
            let why = why(bye.reason, bye.reason_string);
            return Err(DeviceError::Closed(format!(": {why} (0x{:02x})", bye.reason.byte())));
        }
        _ => {}
    }
    Ok(None)
}
