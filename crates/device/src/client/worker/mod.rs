//! The thread of a client: connects, serves the connection, waits, connects again.

mod heard;
mod renewing;
mod traffic;

use std::collections::{HashMap, HashSet, VecDeque};
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use drawbridge_mqtt::codec::{
    Ack, Connect, ConnectProperties, Disconnect, Packet, PacketId, ProtocolVersion, Publish, Qos, ReasonCode,
    UserProperties, Will, WillProperties,
};
use drawbridge_names::TopicName;
use rustls::ClientConfig;

use super::renewal::{NONCE_TOPIC, RESULT_TOPIC, read_result, renew_after};
use super::{ClientOptions, Event, Shared};
use crate::connect::{Accepted, LIFE_PROPERTY, admit};
use crate::key::{adopt_next_key, next_key};
use crate::link::{Link, PACKET_BYTES_MAX};
use crate::login::channel_binding;
use crate::padding::Filler;
use crate::{AceProof, Advice, Backoff, DeviceError, DeviceKey, KeyLogin, TokenSource, Way};
use heard::{Heard, hear};
use renewing::{Door, Renewal};

/// Takes a message of any length in place of PINGREQ; it goes nowhere.
const PING_TOPIC: &str = "$drawbridge/ping";
/// Such a message is shorter than this, in bytes.
const PING_BYTES: u64 = 256;
/// So many of them go out while the server says nothing; then a PINGREQ.
const UNANSWERED_MAX: u8 = 3;
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
    /// The key that waits in the folder of the other, of a rotation that was cut off.
    next_key: Option<Arc<dyn DeviceKey>>,
    /// The two have changed places: the one that waited logs in.
    next_is_tried: bool,
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
    /// So long after the last packet of ours the next ping goes out.
    ping_after: Duration,
    /// Pings without an answer of their own, since the server was heard.
    unanswered: u8,
    /// Messages that came at QoS 1, in their order, and whether the application is done: with `true`, it refused.
    owed: VecDeque<(PacketId, Option<bool>)>,
    /// Messages that came at QoS 2 over this connection and are with the application; with `true`, PUBREL has come.
    held: HashMap<u16, bool>,
    /// When the credential ends.
    ends: Option<Duration>,
    renewal: Renewal,
    /// Publishes of renewals whose PUBACK is awaited. What became of a renewal often comes before.
    renewal_ids: Vec<PacketId>,
    /// The last nonce of the server, and when it came.
    nonce: Option<(String, Duration)>,
    /// The subscription to nonces that is asked for.
    nonce_asked: Option<PacketId>,
    /// The server gives no nonces.
    without_nonce: bool,
    /// A JWT of ours did not renew the session, also not by the server's time: the next token comes over HTTPS.
    own_refused: bool,
    /// The server has told the time for this renewal.
    told_time: bool,
    /// How a renewal reaches the server; the first is tried first.
    doors: Vec<Door>,
    /// The subscription to the results of renewals that is asked for.
    result_asked: Option<PacketId>,
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
            DeviceError::Unavailable { retry_after: Some(least), .. } => (Advice::WaitFor(*least), None),
            DeviceError::Unavailable { .. } => (Advice::Wait, None),
            DeviceError::Key(_) | DeviceError::File { .. } | DeviceError::OtherServer { .. } => {
                (Advice::Slow, None)
            }
            _ => (Advice::Retry, None),
        };
        Self::Lost { why, advice, code }
    }
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>, options: ClientOptions) -> Self {
        let has_session = options.resume;
        let folder = options.login.as_ref().and_then(|login| login.folder.as_deref());
        // One that cannot be read is told by the call that needs it; the other may be good.
        let waits = folder.and_then(|folder| next_key(folder).ok().flatten());
        let next_key = waits.map(|key| Arc::new(key) as Arc<dyn DeviceKey>);
        Self {
            next_key,
            next_is_tried: false,
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
            let mut lived = Duration::ZERO;
            let end = match self.connect() {
                Ok(mut open) => {
                    let end = self.serve(&mut open).err().unwrap_or(End::Stop);
                    lived = self.now().saturating_sub(open.opened_at);
                    backoff.was_open(lived);
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
                // A server that gives no time at all is not hammered for it.
                End::Again if lived < self.options.backoff.base => {
                    let why = "the credential ended as soon as it was taken".to_owned();
                    (why, Advice::Retry, None)
                }
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
        let is_refused =
            matches!(error, DeviceError::Denied(_) | DeviceError::Refused { code: 0x86 | 0x87, .. });
        if is_refused && self.swap_keys() {
            return true;
        }
        let DeviceError::Refused { code, server_time_s, .. } = error else { return false };
        if let Some(server_s) = server_time_s {
            self.learn_time(*server_s);
        }
        let has_api = self.login().is_some_and(|login| login.api.is_some());
        if matches!(code, 0x86 | 0x87) && self.options.tokens.is_minted_here() {
            self.over_https = has_api && !self.over_https;
            return self.over_https;
        }
        false
    }

    /// Tries the key that waits in the place of the other, or the other again; answers whether it is the one that waits.
    fn swap_keys(&mut self) -> bool {
        let mut state = self.shared.lock();
        if let (Some(next), Some(login)) = (&mut self.next_key, &mut state.login) {
            std::mem::swap(next, &mut login.key);
            self.next_is_tried = !self.next_is_tried;
        }
        self.next_is_tried
    }

    /// The server has let us in: with the key that waited, that is the key.
    fn settle_keys(&mut self) {
        if !std::mem::take(&mut self.next_is_tried) {
            return;
        }
        self.next_key = None;
        let folder = self.login().and_then(|login| login.folder);
        if let Some(folder) = folder {
            let _ = adopt_next_key(&folder); // else the next start finds both again
        }
    }

    fn learn_time(&mut self, server_s: u64) {
        self.clock_behind_s = i128::from(server_s) - i128::from(self.options.environment.now_s());
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
            token = Some(source.token(login.as_ref(), self.now_s(), None, None)?);
        }
        if self.tls.is_none() {
            // What TLS exports is taken for a proof on full handshakes alone (RFC 9431 section 4).
            let resumes = !matches!(options.way, Way::Ace(AceProof::Exporter));
            self.tls = options.endpoint.config(resumes)?;
        }
        let mut link =
            Link::open(&options.endpoint, self.tls.clone(), version, Arc::clone(&options.environment))?;
        if wants_token && token.is_none() {
            token = Some(source.token(login.as_ref(), self.now_s(), channel_binding(&link)?, None)?);
        }
        // Before a byte of MQTT: a server that is another's learns nothing (RFC 9431 section 2.2.1).
        if let Some(server) = token.as_ref().and_then(|token| token.server_key.as_ref()) {
            link.judge_server(server)?;
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
        let filler = match options.pad_to {
            0 => None,
            pad_to => Some(Filler::of(&connect, &options.way, pad_to)?),
        };
        let told = filler.as_ref().map(|filler| filler.told(&connect));
        let connect = match (&filler, &told) {
            (Some(filler), Some(told)) => filler.fill(&connect, told),
            _ => connect,
        };
        let accepted = admit(&mut link, connect, options.environment.as_ref(), |challenge| {
            self.answer_challenge(challenge, token.as_ref(), login.as_ref())
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
            ping_after: Duration::ZERO,
            unanswered: 0,
            owed: VecDeque::new(),
            held: HashMap::new(),
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
            renewal_ids: Vec::new(),
            nonce: None,
            nonce_asked: None,
            without_nonce: false,
            own_refused: false,
            told_time: false,
            accepted,
        };
        self.settle_keys();
        self.draw_ping(&mut open);
        self.begin(&mut open)?;
        Ok(open)
    }

    /// When the next ping goes out; with padding at a random time before it is due.
    fn draw_ping(&self, open: &mut Open) {
        open.ping_after = open.keep_alive.unwrap_or_default();
        if self.options.pad_to > 0 {
            open.ping_after = open.ping_after.mul_f64(0.5 + (self.random() % 500) as f64 / 1000.0);
        }
    }

    /// Keeps the connection alive: by PINGREQ, or with padding by a message that is answered by nothing and has a random
    /// length; but when the server has not been heard for long, by PINGREQ, which it must answer.
    fn ping(&self, open: &mut Open, now: Duration) -> Result<(), DeviceError> {
        self.draw_ping(open);
        if self.options.pad_to == 0 || open.unanswered >= UNANSWERED_MAX {
            open.ping_sent = Some(now);
            return self.send(open, &Packet::PingReq);
        }
        open.unanswered += 1;
        let payload = vec![b'0'; (self.random() % PING_BYTES) as usize];
        let topic = TopicName::parse(PING_TOPIC).map_err(|e| DeviceError::Protocol(e.to_string()))?;
        self.send(
            open,
            &Packet::Publish(Publish {
                dup: false,
                qos: Qos::AtMostOnce,
                retain: false,
                topic: Some(topic),
                packet_id: None,
                properties: Default::default(),
                payload: &payload,
            }),
        )
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
            state.tell(&connected);
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
                open.unanswered = 0;
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

    fn take(&mut self, open: &mut Open, heard: Heard) -> Result<(), End> {
        match heard {
            Heard::Message { message, id } if message.topic == RESULT_TOPIC => {
                open.owed.extend(id.map(|id| (id, Some(false))));
                self.result(open, read_result(&message.payload));
            }
            Heard::Message { message, id } if message.topic == NONCE_TOPIC => {
                open.owed.extend(id.map(|id| (id, Some(false))));
                self.nonce(open, &message.payload)?;
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
                match open.held.get_mut(&id.get()) {
                    Some(released) => *released = true,
                    None => self.send(open, &Packet::PubComp(Ack::success(id)))?,
                }
            }
            Heard::SubAck { id, code, why } => self.subscribed(open, id, code, why),
            Heard::UnsubAck(id) => self.shared.lock().outbox.give_back(id),
            Heard::Auth { code: ReasonCode::ContinueAuthentication, data, .. } => {
                let token = match &open.renewal {
                    Renewal::Sent { token, .. } => Some(token),
                    _ => None,
                };
                let data = self.answer_challenge(&data, token, self.login().as_ref())?;
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

    fn next_timer(&self, open: &Open) -> Duration {
        let ping = match (open.ping_sent, open.keep_alive) {
            (Some(sent), _) => sent + PING_ANSWER,
            (None, Some(_)) => open.last_sent + open.ping_after,
            (None, None) => Duration::MAX,
        };
        let renewal = match &open.renewal {
            Renewal::Off | Renewal::Fetching => Duration::MAX,
            Renewal::At(at) => *at,
            Renewal::Nonce { deadline } | Renewal::Sent { deadline, .. } => *deadline,
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
            (None, Some(_)) if now >= open.last_sent + open.ping_after => self.ping(open, now)?,
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
            Renewal::Nonce { deadline } if now >= *deadline => {
                open.without_nonce = true;
                self.fetch(open)?;
            }
            Renewal::Sent { deadline, .. } if now >= *deadline => {
                self.result(open, Err("the server does not answer".to_owned().into()));
            }
            _ => {}
        }
        if let Some((_, token)) = fetched {
            match token {
                Ok(token) => self.renew_with(open, token)?,
                Err(error) => self.result(open, Err(error.to_string().into())),
            }
        }
        Ok(())
    }
}
