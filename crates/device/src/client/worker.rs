//! The thread of a client: connects, serves the connection, waits, connects again.

use std::collections::{HashSet, VecDeque};
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use drawbridge_mqtt::codec::{
    Ack, Auth, Connect, ConnectProperties, Disconnect, Packet, PacketId, ProtocolVersion, Publish, Qos,
    ReasonCode, Subscribe, SubscribeEntry, Unsubscribe, UserProperties, Will, WillProperties,
};
use drawbridge_names::TopicName;
use rustls::ClientConfig;

use super::inbox::Receipt;
use super::outbox::Send;
use super::renewal::{ANSWER_MAX, AUTH_TOPIC, RESULT_TOPIC, Renewed, again_after, read_result, renew_after};
use super::{ClientOptions, Event, Incoming, Shared};
use crate::connect::{Accepted, LIFE_PROPERTY, admit, number};
use crate::link::{Link, PACKET_BYTES_MAX};
use crate::login::channel_binding;
use crate::{
    ACE_METHOD, ACE_NONCE_BYTES, AceProof, Advice, Backoff, DeviceError, KeyLogin, REFRESH_EXPORTER_LABEL,
    Sign, Token, TokenSource, Way, ace_answer, ace_token, refresh_context, renewal,
};

/// So many of our own publishes are under way at once, if the server takes as many.
const WINDOW_MAX: usize = 64;
/// So much is handed to the connection before what came is looked at again, in bytes.
const ROUND_BYTES: usize = 1 << 16;
/// How long a PINGRESP may take.
const PING_ANSWER: Duration = Duration::from_secs(15);
/// The longest sleep of the worker.
const SLEEP_MAX: Duration = Duration::from_secs(600);

/// The thread.
pub(super) struct Worker {
    shared: Arc<Shared>,
    options: ClientOptions,
    /// Which connection this is.
    epoch: u64,
    /// The server has had a session of ours.
    has_session: bool,
    /// QoS 2 messages that were handed to the application and not released yet.
    received: HashSet<u16>,
    /// How far our clock is behind the server's, in seconds, once it has said so.
    clock_behind_s: i128,
    /// TLS of all connections, so that a session of before is resumed.
    tls: Option<Arc<ClientConfig>>,
    /// The server did not take our own JWT: the next token comes over HTTPS.
    over_https: bool,
}

/// One connection.
struct Open {
    link: Link,
    accepted: Accepted,
    opened_at: Duration,
    last_sent: Duration,
    ping_sent: Option<Duration>,
    keep_alive: Option<Duration>,
    /// Messages that came at QoS 1, in their order, and whether the application is done: with `true`, it refused.
    owed: VecDeque<(PacketId, Option<bool>)>,
    /// When the credential ends.
    ends: Option<Duration>,
    renewal: Renewal,
    /// How a renewal reaches the server; the first is tried first.
    doors: Vec<Door>,
    /// The subscription to the results of renewals that is asked for.
    result_asked: Option<PacketId>,
}

/// A way in which a credential can be renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    /// AUTH 0x19. Source: MQTT 5.0 section 4.12.1.
    Auth,
    /// A publish to [`AUTH_TOPIC`].
    Topic,
    /// A new connection, shortly before the end.
    Reconnect,
}

enum Renewal {
    /// Nothing to renew.
    Off,
    At(Duration),
    /// The token is being fetched, since then.
    Fetching,
    /// It was sent; the PUBACK of its publish is awaited, or has come.
    Sent {
        token: Token,
        deadline: Duration,
        publish: Option<PacketId>,
    },
}

/// Why a connection is over.
enum End {
    Stop,
    /// A planned new connection, at once.
    Again,
    Lost {
        why: String,
        advice: Advice,
        code: Option<u8>,
    },
}

impl From<DeviceError> for End {
    fn from(error: DeviceError) -> Self {
        Self::from(&error)
    }
}

impl From<&DeviceError> for End {
    fn from(error: &DeviceError) -> Self {
        let why = error.to_string();
        let (advice, code) = match error {
            DeviceError::Refused { code, .. } => (Advice::for_reason(*code), Some(*code)),
            DeviceError::Denied(_) => (Advice::MintAnew, None),
            DeviceError::Unavailable(_) => (Advice::Wait, None),
            DeviceError::Key(_) | DeviceError::File { .. } => (Advice::Slow, None),
            _ => (Advice::Retry, None),
        };
        Self::Lost { why, advice, code }
    }
}

/// What a packet of the server says.
enum Heard {
    Message { message: Incoming, id: Option<PacketId> },
    PubAck { id: PacketId, code: u8, why: String },
    PubRec { id: PacketId, code: u8, why: String },
    PubRel(PacketId),
    PubComp(PacketId),
    SubAck { id: PacketId, code: u8, why: String },
    UnsubAck(PacketId),
    Auth { code: ReasonCode, data: Vec<u8>, renewed: Renewed },
    Bye { code: u8, why: String },
    Pong,
    Other,
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>, options: ClientOptions) -> Self {
        let has_session = options.resume;
        Self {
            shared,
            options,
            epoch: 0,
            has_session,
            received: HashSet::new(),
            clock_behind_s: 0,
            tls: None,
            over_https: false,
        }
    }

    pub(super) fn run(mut self) {
        let mut backoff = Backoff::new(self.options.backoff);
        loop {
            let end = match self.connect() {
                Ok(mut open) => {
                    let end = self.serve(&mut open).err().unwrap_or(End::Stop);
                    backoff.was_open(self.now().saturating_sub(open.opened_at));
                    self.part(open, &end);
                    end
                }
                Err(error) => {
                    let tries_otherwise = self.learn_from(&error);
                    let end = End::from(&error);
                    if !tries_otherwise {
                        self.shared.lock().failure = Some(error);
                    }
                    end
                }
            };
            let (why, advice, code) = match end {
                _ if self.shared.lock().stopping => break,
                End::Stop => break,
                End::Again => continue,
                End::Lost { why, advice, code } => (why, advice, code),
            };
            let retry_in = backoff.next(advice, self.random());
            self.shared.tell(&Event::Disconnected { why, code, retry_in });
            self.shared.changed.notify_all();
            let state = self.shared.lock();
            let (state, _) = self
                .shared
                .changed
                .wait_timeout_while(state, retry_in, |state| !state.stopping)
                .unwrap_or_else(PoisonError::into_inner);
            if state.stopping {
                break;
            }
        }
        let mut state = self.shared.lock();
        state.stopping = true;
        state.outbox.stop();
        state.inbox.stop();
        state.listeners.clear();
        state.ended = true;
        drop(state);
        self.shared.changed.notify_all();
    }

    fn now(&self) -> Duration {
        self.options.environment.elapsed()
    }

    fn now_s(&self) -> u64 {
        let now_s = i128::from(self.options.environment.now_s()) + self.clock_behind_s;
        u64::try_from(now_s.max(0)).unwrap_or(u64::MAX)
    }

    fn random(&self) -> u64 {
        let mut bytes = [0; 8];
        self.options.environment.random(&mut bytes);
        u64::from_ne_bytes(bytes)
    }

    fn login(&self) -> Option<KeyLogin> {
        self.shared.lock().login.clone()
    }

    /// A refusal may say what time it is; and a JWT of ours that is not taken is replaced by an access token, if there
    /// is HTTPS: that needs no clock.
    /// Answers whether the next attempt is made otherwise.
    fn learn_from(&mut self, error: &DeviceError) -> bool {
        let DeviceError::Refused { code, server_time_s, .. } = error else { return false };
        if let Some(server_s) = server_time_s {
            self.clock_behind_s = i128::from(*server_s) - i128::from(self.options.environment.now_s());
        }
        let has_api = self.login().is_some_and(|login| login.api.is_some());
        if matches!(code, 0x86 | 0x87) && self.options.tokens.is_minted_here() {
            self.over_https = has_api && !self.over_https;
            return self.over_https;
        }
        false
    }

    /// Where the next token comes from.
    fn source(&self) -> TokenSource {
        match &self.options.tokens {
            TokenSource::DeviceJwt { bound, .. } if self.over_https => {
                TokenSource::AccessToken { scope: None, bound: *bound }
            }
            source => source.clone(),
        }
    }

    fn connect(&mut self) -> Result<Open, DeviceError> {
        self.epoch += 1;
        let options = self.options.clone();
        let version = options.version;
        let login = self.login();
        let source = self.source();
        let wants_token = options.way.takes_token();
        let mut token = None;
        // What takes time comes first: the server waits 10 s for CONNECT.
        if wants_token && !source.is_minted_here() {
            token = Some(source.token(login.as_ref(), self.now_s(), None)?);
        }
        if self.tls.is_none() {
            // What TLS exports is taken for a proof on full handshakes alone (RFC 9431 section 4).
            let resumes = !matches!(options.way, Way::Ace(AceProof::Exporter));
            self.tls = options.endpoint.config(resumes)?;
        }
        let mut link =
            Link::open(&options.endpoint, self.tls.clone(), version, Arc::clone(&options.environment))?;
        if wants_token && token.is_none() {
            token = Some(source.token(login.as_ref(), self.now_s(), channel_binding(&link)?)?);
        }
        let presented = options.way.present(token.as_ref(), login.as_ref(), &link, version)?;
        let keeps = options.session_expiry_s > 0;
        let will = match &options.testament {
            None => None,
            Some(testament) => Some(Will {
                topic: TopicName::parse(&testament.topic)
                    .map_err(|e| DeviceError::Protocol(e.to_string()))?,
                payload: &testament.payload,
                qos: testament.qos,
                retain: testament.retain,
                properties: WillProperties {
                    delay_s: (testament.delay_s > 0).then_some(testament.delay_s),
                    ..WillProperties::default()
                },
            }),
        };
        // A client that sends it wants to know how long its right lasts.
        let asked = [(LIFE_PROPERTY, "")];
        let properties = ConnectProperties {
            user_properties: if wants_token { UserProperties::of(&asked) } else { UserProperties::default() },
            session_expiry_s: Some(options.session_expiry_s),
            receive_maximum: NonZeroU16::new(options.receive_maximum.max(1)),
            maximum_packet_size: u32::try_from(PACKET_BYTES_MAX).ok().and_then(NonZeroU32::new),
            authentication_method: presented.method.as_deref(),
            authentication_data: presented.data.as_deref(),
            ..ConnectProperties::default()
        };
        let old = version == ProtocolVersion::V311;
        let connect = Connect {
            version,
            // 3.1.1 knows only "keep it" and "keep nothing".
            clean_start: if old { !keeps } else { !self.has_session },
            keep_alive_s: options.keep_alive_s,
            client_id: &options.client_id,
            username: presented.user_name.as_deref(),
            password: presented.password.as_deref(),
            will,
            properties: if old { ConnectProperties::default() } else { properties },
        };
        let accepted = admit(&mut link, connect, options.environment.as_ref(), |challenge| {
            self.answer_challenge(challenge, login.as_ref())
        })?;
        let now = self.now();
        // The server knows best: rights may end before their token.
        let life = accepted.life_s.map(Duration::from_secs).or(token.as_ref().and_then(|token| token.life));
        let keep_alive_s = accepted.keep_alive_s.unwrap_or(options.keep_alive_s);
        let mut open = Open {
            link,
            opened_at: now,
            last_sent: now,
            ping_sent: None,
            keep_alive: (keep_alive_s > 0).then(|| Duration::from_secs(u64::from(keep_alive_s))),
            owed: VecDeque::new(),
            ends: life.map(|life| now + life),
            renewal: match life.filter(|_| wants_token) {
                Some(life) => Renewal::At(now + renew_after(life, self.random())),
                None => Renewal::Off,
            },
            doors: match options.way.method(version) {
                _ if !wants_token => vec![Door::Reconnect],
                Some(_) => vec![Door::Auth, Door::Reconnect],
                None => vec![Door::Topic, Door::Reconnect],
            },
            result_asked: None,
            accepted,
        };
        self.begin(&mut open)?;
        Ok(open)
    }

    /// The state of before goes on, or begins anew, over the new connection.
    fn begin(&mut self, open: &mut Open) -> Result<(), DeviceError> {
        let kept = open.accepted.session_present;
        // In 3.1.1 a first connection may find what an earlier process left; its identifiers mean nothing to us.
        let resumes = kept && self.has_session;
        self.has_session = self.options.session_expiry_s > 0;
        if !resumes {
            self.received.clear();
        }
        let client_id = open.accepted.client_id.clone().unwrap_or_else(|| self.options.client_id.clone());
        {
            let mut state = self.shared.lock();
            state.outbox.resume(resumes);
            state.inbox.resume(resumes);
            state.done.clear();
            state.fetched = None;
            state.waker = Some(open.link.waker());
            // Told in the same breath: who asks for events behind `connected` hears of what comes after it.
            let connected = Event::Connected { session_present: kept, client_id };
            state.listeners.retain(|listener| listener.send(connected.clone()).is_ok());
            state.connected = true;
            state.failure = None;
            if open.doors.contains(&Door::Topic) {
                open.result_asked = Some(state.outbox.free_id());
            }
        }
        if let Some(id) = open.result_asked {
            self.subscribe(open, id, RESULT_TOPIC, Qos::AtLeastOnce)?;
        }
        self.shared.changed.notify_all();
        Ok(())
    }

    /// The connection is over: with a goodbye, if it is ours to say.
    fn part(&mut self, mut open: Open, end: &End) {
        if matches!(end, End::Stop | End::Again) {
            let bye = Packet::Disconnect(Disconnect::of(ReasonCode::NORMAL_DISCONNECTION));
            if open.link.send(&bye).is_ok() {
                let _ = open.link.flush_all(Duration::from_secs(1)); // the server may be gone by now
            }
            open.link.close();
        }
        let mut state = self.shared.lock();
        state.connected = false;
        state.waker = None;
        state.done.clear();
        state.outbox.disconnected();
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Serves the connection until it is over; answers only with the end.
    fn serve(&mut self, open: &mut Open) -> Result<(), End> {
        loop {
            let mut heard = Vec::new();
            while let Some(one) = open.link.next(|packet| hear(packet, self.options.version))? {
                heard.push(one);
            }
            for one in heard {
                self.take(open, one)?;
            }
            let more = self.give(open)?;
            let now = self.now();
            self.look_at_the_clock(open, now)?;
            if self.shared.lock().stopping {
                return Err(End::Stop);
            }
            let wait = if more { Duration::ZERO } else { self.next_timer(open).saturating_sub(now) };
            open.link.wait(wait.min(SLEEP_MAX))?;
        }
    }

    fn send(&self, open: &mut Open, packet: &Packet<'_>) -> Result<(), DeviceError> {
        open.link.send(packet)?;
        open.last_sent = self.now();
        Ok(())
    }

    fn subscribe(&self, open: &mut Open, id: PacketId, filter: &str, qos: Qos) -> Result<(), DeviceError> {
        self.send(
            open,
            &Packet::Subscribe(Subscribe {
                packet_id: id,
                subscription_identifier: None,
                user_properties: UserProperties::default(),
                entries: vec![SubscribeEntry::of(filter, qos)],
            }),
        )
    }

    /// Sends what the calls have left; answers whether there is more that could be sent now.
    fn give(&mut self, open: &mut Open) -> Result<bool, DeviceError> {
        self.acknowledge(open)?;
        loop {
            let asked = {
                let mut state = self.shared.lock();
                let super::State { inbox, outbox, .. } = &mut *state;
                inbox.next_wanted(|| outbox.free_id())
            };
            let Some((id, filter, qos)) = asked else { break };
            self.subscribe(open, id, &filter, qos)?;
        }
        loop {
            let (filter, id) = {
                let mut state = self.shared.lock();
                let Some(filter) = state.inbox.next_unwanted() else { break };
                (filter, state.outbox.free_id())
            };
            let user_properties = UserProperties::default();
            let packet = Unsubscribe { packet_id: id, user_properties, filters: vec![&filter] };
            self.send(open, &Packet::Unsubscribe(packet))?;
        }
        let window = WINDOW_MAX.min(usize::from(open.accepted.receive_maximum));
        while open.link.unsent() < ROUND_BYTES {
            if open.link.is_stuck() {
                return Ok(false); // the socket says when it takes more
            }
            let next = self.shared.lock().outbox.next(window);
            match next {
                None => {
                    self.shared.changed.notify_all();
                    return Ok(false);
                }
                Some(Send::Release(id)) => self.send(open, &Packet::PubRel(Ack::success(id)))?,
                Some(Send::Publish { message, id, dup }) => {
                    let qos = message.qos.min(open.accepted.maximum_qos);
                    let topic =
                        TopicName::parse(&message.topic).map_err(|e| DeviceError::Protocol(e.to_string()))?;
                    let too_large =
                        message.topic.len() + message.payload.len() + 16 > open.accepted.packet_bytes_max;
                    if too_large || (qos == Qos::AtMostOnce && id.is_some()) {
                        if let Some(id) = id {
                            let why = if too_large {
                                "larger than the server takes"
                            } else {
                                "the server takes QoS 0 only"
                            };
                            self.shared.lock().outbox.acknowledged(id, 0x95, why);
                        }
                        continue;
                    }
                    self.send(
                        open,
                        &Packet::Publish(Publish {
                            dup,
                            qos,
                            retain: message.retain,
                            topic: Some(topic),
                            packet_id: id,
                            properties: Default::default(),
                            payload: &message.payload,
                        }),
                    )?;
                }
            }
        }
        Ok(true)
    }

    /// Acknowledges what the application is done with, in the order in which it came.
    ///
    /// Source: [MQTT-4.6.0-2] (both versions).
    fn acknowledge(&mut self, open: &mut Open) -> Result<(), DeviceError> {
        let done = std::mem::take(&mut self.shared.lock().done);
        for (_, id, refused) in done.into_iter().filter(|(epoch, ..)| *epoch == self.epoch) {
            if let Some(owed) = open.owed.iter_mut().find(|(owed, done)| *owed == id && done.is_none()) {
                owed.1 = Some(refused);
            }
        }
        while let Some((id, Some(refused))) = open.owed.front().copied() {
            open.owed.pop_front();
            let reason = if refused { ReasonCode::ImplementationSpecificError } else { ReasonCode::Success };
            self.send(open, &Packet::PubAck(Ack::of(id, reason)))?;
        }
        Ok(())
    }

    fn take(&mut self, open: &mut Open, heard: Heard) -> Result<(), End> {
        match heard {
            Heard::Message { message, id } if message.topic == RESULT_TOPIC => {
                open.owed.extend(id.map(|id| (id, Some(false))));
                self.result(open, read_result(&message.payload));
            }
            Heard::Message { message, id } => self.message(open, message, id)?,
            Heard::PubAck { id, code, why } => {
                if !self.publish_of_renewal(open, id, code, &why) {
                    self.shared.lock().outbox.acknowledged(id, code, &why);
                }
            }
            Heard::PubRec { id, code, why } if code >= 0x80 => {
                self.shared.lock().outbox.acknowledged(id, code, &why);
            }
            Heard::PubRec { id, .. } => {
                self.shared.lock().outbox.received(id);
                self.send(open, &Packet::PubRel(Ack::success(id)))?;
            }
            Heard::PubComp(id) => {
                // An identifier that the server does not know any more was completed before.
                self.shared.lock().outbox.acknowledged(id, 0, "");
            }
            Heard::PubRel(id) => {
                self.received.remove(&id.get());
                self.send(open, &Packet::PubComp(Ack::success(id)))?;
            }
            Heard::SubAck { id, code, why } => self.subscribed(open, id, code, why),
            Heard::UnsubAck(id) => self.shared.lock().outbox.give_back(id),
            Heard::Auth { code: ReasonCode::ContinueAuthentication, data, .. } => {
                let data = self.answer_challenge(&data, self.login().as_ref())?;
                self.auth(open, ReasonCode::ContinueAuthentication, &data)?;
            }
            Heard::Auth { renewed, .. } => self.result(open, Ok(renewed)),
            Heard::Bye { code, why } => {
                let why = format!("the server closed the connection: {why} (0x{code:02x})");
                return Err(End::Lost { why, advice: Advice::for_reason(code), code: Some(code) });
            }
            Heard::Pong => open.ping_sent = None,
            Heard::Other => {}
        }
        Ok(())
    }

    fn message(
        &mut self,
        open: &mut Open,
        mut message: Incoming,
        id: Option<PacketId>,
    ) -> Result<(), DeviceError> {
        match (message.qos, id) {
            (Qos::AtLeastOnce, Some(id)) => {
                open.owed.push_back((id, None));
                message.receipt = Some(Arc::new(Receipt {
                    shared: Arc::downgrade(&self.shared),
                    epoch: self.epoch,
                    id,
                    refused: AtomicBool::new(false),
                }));
            }
            (Qos::ExactlyOnce, Some(id)) => {
                self.send(open, &Packet::PubRec(Ack::success(id)))?;
                if !self.received.insert(id.get()) {
                    return Ok(());
                }
            }
            _ => {}
        }
        self.shared.lock().inbox.deliver(&message);
        // Here, without the lock, a message for nobody is dropped and thereby acknowledged.
        drop(message);
        Ok(())
    }

    fn subscribed(&mut self, open: &mut Open, id: PacketId, code: u8, why: String) {
        if open.result_asked == Some(id) {
            self.shared.lock().outbox.give_back(id);
            // A server that does not know the topic does not renew over it. MQTT 5 would hear of it by PUBACK as well.
            if code >= 0x80 {
                open.doors.retain(|door| *door != Door::Topic);
            }
            return;
        }
        let refused = {
            let mut state = self.shared.lock();
            state.outbox.give_back(id);
            state.inbox.answered(id, code, &why)
        };
        if let Some(filter) = refused {
            self.shared.tell(&Event::SubscriptionRefused { filter, code, why });
        }
    }

    fn answer_challenge(&self, challenge: &[u8], login: Option<&KeyLogin>) -> Result<Vec<u8>, DeviceError> {
        let challenge: &[u8; ACE_NONCE_BYTES] = challenge.try_into().map_err(|_| {
            DeviceError::Protocol(format!(
                "a challenge of {} bytes came, wanted {ACE_NONCE_BYTES}",
                challenge.len()
            ))
        })?;
        if self.options.way.method(self.options.version) != Some(ACE_METHOD) {
            return Err(DeviceError::Protocol("the server challenges a method of one round".to_owned()));
        }
        let login =
            login.ok_or_else(|| DeviceError::Key("a challenge came, and there is no key".to_owned()))?;
        let mut nonce = [0; ACE_NONCE_BYTES];
        self.options.environment.random(&mut nonce);
        Ok(ace_answer(challenge, &nonce, login.key.as_ref())?)
    }

    fn auth(&self, open: &mut Open, reason: ReasonCode, data: &[u8]) -> Result<(), DeviceError> {
        let method = self.options.way.method(self.options.version);
        let user_properties = UserProperties::default();
        let packet = Auth { reason, method, data: Some(data), reason_string: None, user_properties };
        self.send(open, &Packet::Auth(packet))
    }

    fn next_timer(&self, open: &Open) -> Duration {
        let ping = match (open.ping_sent, open.keep_alive) {
            (Some(sent), _) => sent + PING_ANSWER,
            (None, Some(keep_alive)) => open.last_sent + keep_alive,
            (None, None) => Duration::MAX,
        };
        let renewal = match &open.renewal {
            Renewal::Off | Renewal::Fetching => Duration::MAX,
            Renewal::At(at) => *at,
            Renewal::Sent { deadline, .. } => *deadline,
        };
        ping.min(renewal)
    }

    fn look_at_the_clock(&mut self, open: &mut Open, now: Duration) -> Result<(), End> {
        match (open.ping_sent, open.keep_alive) {
            (Some(sent), _) if now >= sent + PING_ANSWER => {
                return Err(End::from(DeviceError::TimedOut {
                    what: "PINGREQ",
                    seconds: PING_ANSWER.as_secs(),
                }));
            }
            (None, Some(keep_alive)) if now >= open.last_sent + keep_alive => {
                self.send(open, &Packet::PingReq)?;
                open.ping_sent = Some(now);
            }
            _ => {}
        }
        let (renew_now, fetched) = {
            let mut state = self.shared.lock();
            let fetched = state.fetched.take_if(|(epoch, _)| *epoch == self.epoch);
            // A renewal that is under way is finished first.
            let idle = matches!(open.renewal, Renewal::At(_) | Renewal::Off);
            (idle && std::mem::take(&mut state.renew_now), fetched)
        };
        match &open.renewal {
            Renewal::At(at) if renew_now || now >= *at => self.fetch(open)?,
            Renewal::Off if renew_now && self.options.way.takes_token() => self.fetch(open)?,
            Renewal::Sent { deadline, .. } if now >= *deadline => {
                self.result(open, Err("the server does not answer".to_owned()));
            }
            _ => {}
        }
        if let Some((_, token)) = fetched {
            match token {
                Ok(token) => self.renew_with(open, token)?,
                Err(error) => self.result(open, Err(error.to_string())),
            }
        }
        Ok(())
    }

    /// Gets a new token: at once where the key alone makes it, else beside the connection.
    fn fetch(&mut self, open: &mut Open) -> Result<(), End> {
        if open.doors.first() == Some(&Door::Reconnect) {
            return Err(End::Again);
        }
        let (source, login, now_s) = (self.source(), self.login(), self.now_s());
        if source.is_minted_here() {
            // What was opened by a proof for its connection is renewed by one.
            let token = source.token(login.as_ref(), now_s, channel_binding(&open.link)?)?;
            return Ok(self.renew_with(open, token)?);
        }
        let (shared, epoch) = (Arc::clone(&self.shared), self.epoch);
        open.renewal = Renewal::Fetching;
        let work = move || {
            let token = source.token(login.as_ref(), now_s, None);
            shared.lock().fetched = Some((epoch, token));
            shared.wake();
        };
        let thread = std::thread::Builder::new().name("drawbridge-device-token".to_owned()).spawn(work);
        if let Err(error) = thread {
            self.result(open, Err(error.to_string()));
        }
        Ok(())
    }

    fn renew_with(&mut self, open: &mut Open, token: Token) -> Result<(), DeviceError> {
        let deadline = self.now() + ANSWER_MAX;
        let mut publish = None;
        match open.doors.first() {
            Some(Door::Auth) => {
                let is_ace = self.options.way.method(self.options.version) == Some(ACE_METHOD);
                // Always by challenge: what TLS exports is the same as at CONNECT (RFC 9431 section 4).
                let data = if is_ace {
                    ace_token(&token.bytes).map_err(|e| DeviceError::Key(e.to_string()))?
                } else {
                    token.bytes.clone()
                };
                self.auth(open, ReasonCode::ReAuthenticate, &data)?;
            }
            Some(Door::Topic) => {
                let exported = match token.bound {
                    true => open.link.export(REFRESH_EXPORTER_LABEL, &refresh_context(&token.bytes))?,
                    false => None,
                };
                let login = self.login();
                let proof = match (&exported, &login) {
                    (Some(exported), Some(login)) => Some((exported, login.key.as_ref() as &dyn Sign)),
                    _ => None,
                };
                let payload = renewal(&token.bytes, proof)?;
                let id = self.shared.lock().outbox.free_id();
                publish = Some(id);
                self.send(
                    open,
                    &Packet::Publish(Publish {
                        dup: false,
                        qos: Qos::AtLeastOnce,
                        retain: false,
                        topic: Some(TopicName::parse(AUTH_TOPIC).expect("a topic")),
                        packet_id: Some(id),
                        properties: Default::default(),
                        payload: &payload,
                    }),
                )?;
            }
            Some(Door::Reconnect) | None => {}
        }
        open.renewal = Renewal::Sent { token, deadline, publish };
        Ok(())
    }

    /// PUBACK of the publish that renews; answers whether it was that. In 3.1.1 it says nothing.
    fn publish_of_renewal(&mut self, open: &mut Open, id: PacketId, code: u8, why: &str) -> bool {
        let Renewal::Sent { publish, .. } = &mut open.renewal else { return false };
        if *publish != Some(id) {
            return false;
        }
        *publish = None;
        self.shared.lock().outbox.give_back(id);
        if code >= 0x80 {
            self.result(open, Err(format!("{why} (0x{code:02x})")));
        } else if self.options.version == ProtocolVersion::V5 && open.result_asked.is_none() {
            self.result(open, Ok(Renewed { life_s: None, removed: Vec::new() }));
        }
        true
    }

    /// The server has spoken, or has not.
    fn result(&mut self, open: &mut Open, result: Result<Renewed, String>) {
        let now = self.now();
        let token = match std::mem::replace(&mut open.renewal, Renewal::Off) {
            Renewal::Sent { token, .. } => Some(token),
            Renewal::Fetching => None,
            nothing_was_asked => {
                open.renewal = nothing_was_asked;
                return;
            }
        };
        match result {
            Ok(renewed) => {
                let said = renewed.life_s.map(Duration::from_secs);
                let life = said.or(token.and_then(|token| token.life));
                open.ends = life.map(|life| now + life);
                if let Some(life) = life {
                    open.renewal = Renewal::At(now + renew_after(life, self.random()));
                }
                self.shared.lock().inbox.cut(&renewed.removed);
                self.shared.tell(&Event::Renewed { life, removed: renewed.removed });
            }
            Err(why) => {
                let left = open.ends.map_or(Duration::from_secs(3600), |ends| ends.saturating_sub(now));
                open.renewal = Renewal::At(now + again_after(left, self.random()));
                self.shared.tell(&Event::RenewalFailed { why });
            }
        }
    }
}

fn hear(packet: Packet<'_>, version: ProtocolVersion) -> Heard {
    let why = |code: ReasonCode, said: Option<&str>| said.unwrap_or(code.text()).to_owned();
    let ack = |ack: &Ack<'_>| (ack.packet_id, ack.reason.byte(), why(ack.reason, ack.reason_string));
    match packet {
        Packet::Publish(publish) => {
            let properties = &publish.properties;
            let message = Incoming {
                topic: publish.topic.map(|topic| topic.as_str().to_owned()).unwrap_or_default(),
                payload: publish.payload.to_vec(),
                qos: publish.qos,
                retain: publish.retain,
                response_topic: properties.response_topic.map(|topic| topic.as_str().to_owned()),
                correlation_data: properties.correlation_data.map(<[u8]>::to_vec),
                content_type: properties.content_type.map(str::to_owned),
                user_properties: properties
                    .user_properties
                    .iter()
                    .map(|(name, value)| (name.to_owned(), value.to_owned()))
                    .collect(),
                receipt: None,
            };
            Heard::Message { message, id: publish.packet_id }
        }
        Packet::PubAck(it) => {
            let (id, code, why) = ack(&it);
            Heard::PubAck { id, code, why }
        }
        Packet::PubRec(it) => {
            let (id, code, why) = ack(&it);
            Heard::PubRec { id, code, why }
        }
        Packet::PubComp(it) => Heard::PubComp(it.packet_id),
        Packet::PubRel(it) => Heard::PubRel(it.packet_id),
        Packet::SubAck(it) => {
            let code = it.codes.first().copied().unwrap_or(ReasonCode::UnspecifiedError);
            let why = if version == ProtocolVersion::V311 && code.is_error() {
                "the server refuses it".to_owned()
            } else {
                why(code, it.reason_string)
            };
            Heard::SubAck { id: it.packet_id, code: code.byte(), why }
        }
        Packet::UnsubAck(it) => Heard::UnsubAck(it.packet_id),
        Packet::Auth(it) => Heard::Auth {
            code: it.reason,
            data: it.data.unwrap_or_default().to_vec(),
            renewed: Renewed {
                life_s: number(&it.user_properties, LIFE_PROPERTY),
                removed: it
                    .user_properties
                    .iter()
                    .filter(|(name, _)| *name == "db-unsub")
                    .map(|(_, filter)| filter.to_owned())
                    .collect(),
            },
        },
        Packet::Disconnect(it) => {
            Heard::Bye { code: it.reason.byte(), why: why(it.reason, it.reason_string) }
        }
        Packet::PingResp => Heard::Pong,
        _ => Heard::Other,
    }
}
