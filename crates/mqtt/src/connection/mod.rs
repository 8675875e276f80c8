//! What one client may say when: the server's side of one connection, without I/O.
//!
//! Pull style: the driver offers bytes and takes one [`Step`] at a time. An event borrows from the
//! bytes it came in, not from the connection, so that whoever acts on it may let the same connection
//! speak. (Pushing borrowed events into a list would hold all of them, and with them the connection,
//! until the list is worked off.)
//!
//! Here is what concerns one network connection: the order of packets, keep-alive, topic aliases, limits
//! agreed on in CONNECT, and how a refusal is said in each version. What outlives the connection (packet
//! identifiers in use, messages on the way, subscriptions) belongs to the session, which is the broker's;
//! who the client is, what it may and where messages go is asked and answered outside. So is what an
//! authentication method says: here is only who may send AUTH when (MQTT 5.0 section 4.12).

mod answer;
mod event;
mod fault;

use std::fmt;
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;
use std::time::{Duration, Instant};

use drawbridge_names::TopicName;

use crate::codec::{
    ConnAck, ConnAckProperties, DecodeError, Frame, Framed, Outline, PAD, Packet, ProtocolVersion, Publish,
    Qos, ReasonCode, Side, UserProperties, decode, frame,
};
use answer::put_connack;
pub use event::{Event, Inbound, InboundTopic, Step};
pub use fault::Fault;

/// What the server sets for its connections.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// A CONNECT, in bytes.
    pub packet_bytes_before_auth_max: usize,
    /// Any later packet, in bytes.
    pub packet_bytes_max: usize,
    /// QoS 1 and 2 messages of a client of MQTT 5 that are not answered at once; 0 counts as 1.
    pub receive_maximum: u16,
    /// Topic aliases that a client of MQTT 5 may define.
    pub topic_alias_maximum: u16,
    /// Longest keep-alive given, in seconds. A client of MQTT 5 that asks for more, or for none, is
    /// given this one; 65,535 leaves each its own.
    pub keep_alive_s_max: u16,
    /// QoS 1 and 2 messages to the client that it has not answered at once; 0 counts as 1.
    pub inflight_max: u16,
    /// Topic aliases that are defined for a client of MQTT 5 that takes any.
    pub topic_aliases_given_max: u16,
}

/// One client, from its first byte to its last.
pub struct Connection {
    limits: Limits,
    state: State,
    /// The Authentication Method that CONNECT named: of every AUTH, too.
    method: Option<Box<str>>,
}

enum State {
    AwaitConnect,
    Authenticating(Agreed),
    /// AUTH was sent, and the client is to answer it.
    Challenged(Agreed),
    Open(Open),
    Closed {
        version: ProtocolVersion,
    },
}

/// What CONNECT said that holds for the whole connection.
#[derive(Debug, Clone, Copy)]
struct Agreed {
    version: ProtocolVersion,
    keep_alive_s_asked: u16,
    session_expiry_s_asked: u32,
    window: u16,
    topic_alias_maximum: u16,
    packet_bytes_max: usize,
    problem_information: bool,
    /// CONNECT was padded: so is CONNACK.
    pads: bool,
}

struct Open {
    version: ProtocolVersion,
    problem_information: bool,
    /// CONNECT asked for a session that outlives its connection.
    expiry_asked: bool,
    /// The client's Maximum Packet Size.
    packet_bytes_max: usize,
    keep_alive_s: u16,
    heard: Instant,
    /// Publishes of the client at QoS 1 and 2 that are not answered to their end.
    unanswered: u16,
    /// By alias number less one.
    aliases: Vec<Option<Arc<str>>>,
    window: u16,
    /// The topics that the client was given aliases for, in their order; `None` if it takes none.
    given: Option<Box<Given>>,
    renewal: Renewal,
}

/// How far a re-authentication is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Renewal {
    None,
    Judged,
    Challenged,
}

/// A longer topic is given no alias.
const ALIASED_BYTES_MAX: usize = 1_024;

#[derive(Debug)]
struct Given {
    topics: Vec<Box<str>>,
    max: u16,
}

/// What CONNACK says of the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Welcome<'a> {
    /// Whether the server had kept a session of this client [MQTT-3.2.2-2] (both versions).
    pub session_present: bool,
    /// Session Expiry Interval in force, in seconds, where it is not the one asked for.
    pub session_expiry_s: Option<u32>,
    /// The client id that the server chose, if it did (only 5.0 is told).
    pub assigned_client_id: Option<&'a str>,
    /// User Properties.
    pub told: &'a [(&'a str, &'a str)],
}

impl Connection {
    /// A connection that waits for CONNECT.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, state: State::AwaitConnect, method: None }
    }

    /// Takes the packet at the start of `input`. `now` is when its last byte arrived.
    pub fn next<'a>(&mut self, now: Instant, input: &'a [u8]) -> Step<'a> {
        match &mut self.state {
            State::AwaitConnect => self.next_connect(input),
            State::Authenticating(_) => Step::Hold,
            State::Challenged(agreed) => {
                let agreed = *agreed;
                self.next_answer(agreed, input)
            }
            State::Open(open) => {
                let framed =
                    match frame(input, Some(open.version), self.limits.packet_bytes_max, Side::FromClient) {
                        Ok(Outline::Complete(framed)) => framed,
                        Ok(Outline::Incomplete { .. }) => return Step::NeedMore,
                        Err(error) => return Step::Failed(error.into()),
                    };
                if !framed.is_publish() {
                    return open.next_other(now, framed, &self.limits, self.method.as_deref());
                }
                let bytes = framed.bytes;
                match framed.publish(open.version, Side::FromClient) {
                    Ok(publish) => {
                        open.heard = now;
                        match open.take_publish(publish, &self.limits) {
                            Ok(inbound) => Step::Took { bytes, event: Event::Publish(inbound) },
                            Err(fault) => Step::Failed(fault),
                        }
                    }
                    Err(error) => Step::Failed(error.into()),
                }
            }
            State::Closed { .. } => Step::NeedMore,
        }
    }

    fn next_connect<'a>(&mut self, input: &'a [u8]) -> Step<'a> {
        let frame = decode(input, None, self.limits.packet_bytes_before_auth_max, Side::FromClient);
        let (connect, bytes) = match frame {
            Ok(Frame::Complete { packet: Packet::Connect(connect), bytes }) => (connect, bytes),
            Ok(_) => return Step::NeedMore, // the codec gives nothing but a CONNECT before a version
            Err(error) => return Step::Failed(error.into()),
        };
        let properties = &connect.properties;
        self.method = properties.authentication_method.map(Into::into);
        let window = properties.receive_maximum.map_or(u16::MAX, NonZeroU16::get);
        self.state = State::Authenticating(Agreed {
            version: connect.version,
            keep_alive_s_asked: connect.keep_alive_s,
            session_expiry_s_asked: properties.session_expiry_s.unwrap_or(0),
            window: window.min(self.limits.inflight_max).max(1),
            topic_alias_maximum: properties.topic_alias_maximum.unwrap_or(0),
            packet_bytes_max: properties
                .maximum_packet_size
                .map_or(usize::MAX, |bytes| usize::try_from(bytes.get()).unwrap_or(usize::MAX)),
            problem_information: properties.request_problem_information,
            pads: properties.user_properties.first(PAD).is_some(),
        });
        Step::Took { bytes, event: Event::Connect(connect) }
    }

    /// Before CONNACK: only AUTH in answer to ours, or DISCONNECT.
    ///
    /// Source: [MQTT-3.1.2-30] (5.0).
    fn next_answer<'a>(&mut self, agreed: Agreed, input: &'a [u8]) -> Step<'a> {
        let bytes_max = self.limits.packet_bytes_before_auth_max;
        match decode(input, Some(agreed.version), bytes_max, Side::FromClient) {
            Ok(Frame::Complete { packet: Packet::Auth(auth), bytes }) => {
                if auth.reason != ReasonCode::ContinueAuthentication || auth.method != self.method.as_deref()
                {
                    return Step::Failed(Fault::AuthOutOfTurn);
                }
                self.state = State::Authenticating(agreed);
                Step::Took { bytes, event: Event::Auth { begins: false, data: auth.data } }
            }
            Ok(Frame::Complete { packet: Packet::Disconnect(_), bytes }) => {
                let event = Event::Disconnect { with_will: false, session_expiry_s: None };
                Step::Took { bytes, event }
            }
            Ok(Frame::Complete { .. }) => Step::Failed(Fault::AuthAwaited),
            Ok(_) => Step::NeedMore,
            Err(error) => Step::Failed(error.into()),
        }
    }

    /// Lets the client in: CONNACK.
    pub fn admit(&mut self, now: Instant, welcome: &Welcome<'_>, out: &mut Vec<u8>) {
        let State::Authenticating(agreed) = self.state else { return };
        let limits = &self.limits;
        let method = self.method.as_deref();
        let asked = agreed.keep_alive_s_asked;
        let shorter = agreed.version == ProtocolVersion::V5
            && (asked > limits.keep_alive_s_max || (asked == 0 && limits.keep_alive_s_max < u16::MAX));
        let keep_alive_s = if shorter { limits.keep_alive_s_max } else { asked };
        let connack = ConnAck {
            session_present: welcome.session_present,
            reason: ReasonCode::Success,
            properties: ConnAckProperties {
                session_expiry_s: welcome.session_expiry_s,
                receive_maximum: NonZeroU16::new(limits.receive_maximum.max(1)),
                maximum_packet_size: NonZeroU32::new(
                    u32::try_from(limits.packet_bytes_max).unwrap_or(u32::MAX),
                ),
                assigned_client_id: welcome.assigned_client_id,
                topic_alias_maximum: (limits.topic_alias_maximum > 0).then_some(limits.topic_alias_maximum),
                server_keep_alive_s: shorter.then_some(keep_alive_s),
                // [MQTT-4.12.0-5] (5.0).
                authentication_method: method,
                user_properties: UserProperties::of(welcome.told),
                ..ConnAckProperties::default()
            },
        };
        put_connack(connack, &agreed, out);
        self.state = State::Open(Open {
            version: agreed.version,
            problem_information: agreed.problem_information,
            expiry_asked: agreed.session_expiry_s_asked > 0,
            packet_bytes_max: agreed.packet_bytes_max,
            keep_alive_s,
            heard: now,
            unanswered: 0,
            aliases: Vec::new(),
            window: agreed.window,
            given: (agreed.topic_alias_maximum > 0 && limits.topic_aliases_given_max > 0).then(|| {
                let max = agreed.topic_alias_maximum.min(limits.topic_aliases_given_max);
                Box::new(Given { topics: Vec::new(), max })
            }),
            renewal: Renewal::None,
        });
    }

    /// How many QoS 1 and 2 messages the client takes at once without having answered them.
    ///
    /// Source: [MQTT-3.3.4-9] (5.0).
    #[must_use]
    pub fn window(&self) -> usize {
        match &self.state {
            State::Open(open) => usize::from(open.window),
            _ => 0,
        }
    }

    /// Whether the client takes topic aliases: then ask for the one of each topic.
    #[must_use]
    pub fn takes_aliases(&self) -> bool {
        matches!(&self.state, State::Open(open) if open.given.is_some())
    }

    /// The alias of a topic on the way to the client, and whether it is new: then the packet must carry the
    /// topic too, and when it does not go out, [`Self::take_alias_back`]. `None`: there is none left.
    ///
    /// Source: [MQTT-3.3.2-8], [MQTT-3.1.2-26] (5.0).
    pub fn alias(&mut self, topic: &str) -> Option<(NonZeroU16, bool)> {
        let State::Open(open) = &mut self.state else { return None };
        let given = open.given.as_mut()?;
        let known = given.topics.iter().position(|known| **known == *topic);
        let at = match known {
            Some(at) => at,
            None if given.topics.len() >= usize::from(given.max) => return None,
            // It would be kept for every connection that hears it.
            None if topic.len() > ALIASED_BYTES_MAX => return None,
            None => {
                given.topics.push(topic.into());
                given.topics.len() - 1
            }
        };
        let alias = u16::try_from(at + 1).ok().and_then(NonZeroU16::new)?;
        Some((alias, known.is_none()))
    }

    /// Forgets the alias that was given last: the packet that would have defined it did not go out.
    pub fn take_alias_back(&mut self) {
        if let State::Open(open) = &mut self.state
            && let Some(given) = &mut open.given
        {
            given.topics.pop();
        }
    }

    /// Takes the client for alive: it is not listened to for a while, for a reason that is not its own.
    pub fn excuse(&mut self, now: Instant) {
        if let State::Open(open) = &mut self.state {
            open.heard = now;
        }
    }

    /// Whether the client is let in and not yet gone.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open(_))
    }

    /// The version that the client speaks; 3.1.1 before that is known.
    #[must_use]
    pub fn version(&self) -> ProtocolVersion {
        match &self.state {
            State::AwaitConnect => ProtocolVersion::V311,
            State::Authenticating(agreed) | State::Challenged(agreed) => agreed.version,
            State::Open(open) => open.version,
            State::Closed { version } => *version,
        }
    }

    /// The Authentication Method that CONNECT named, if it did.
    #[must_use]
    pub fn method(&self) -> Option<&str> {
        self.method.as_deref()
    }

    /// The largest packet that the client takes, in bytes.
    #[must_use]
    pub fn client_packet_bytes_max(&self) -> usize {
        match &self.state {
            State::Open(open) => open.packet_bytes_max,
            _ => usize::MAX,
        }
    }

    /// The keep-alive in force, in seconds; 0 for none.
    #[must_use]
    pub fn keep_alive_s(&self) -> u16 {
        match &self.state {
            State::Open(open) => open.keep_alive_s,
            _ => 0,
        }
    }

    /// When one and a half keep-alives will have passed without a packet.
    ///
    /// Source: [MQTT-3.1.2-22] (5.0), [MQTT-3.1.2-24] (3.1.1).
    #[must_use]
    pub fn timeout(&self) -> Option<Instant> {
        let State::Open(open) = &self.state else { return None };
        let half_ms = u64::from(open.keep_alive_s) * 1_500;
        (half_ms > 0).then(|| open.heard + Duration::from_millis(half_ms))
    }
}

impl Open {
    fn next_other<'a>(
        &mut self,
        now: Instant,
        framed: Framed<'a>,
        limits: &Limits,
        method: Option<&str>,
    ) -> Step<'a> {
        let bytes = framed.bytes;
        match framed.packet(self.version, Side::FromClient) {
            Ok(packet) => {
                self.heard = now;
                match self.take(packet, limits, method) {
                    Ok(event) => Step::Took { bytes, event },
                    Err(fault) => Step::Failed(fault),
                }
            }
            Err(error) => Step::Failed(error.into()),
        }
    }

    fn take<'a>(
        &mut self,
        packet: Packet<'a>,
        limits: &Limits,
        method: Option<&str>,
    ) -> Result<Event<'a>, Fault> {
        Ok(match packet {
            Packet::Publish(publish) => Event::Publish(self.take_publish(publish, limits)?),
            Packet::PubAck(ack) => Event::Acknowledged { packet_id: ack.packet_id, reason: ack.reason },
            Packet::PubRec(ack) => Event::Received { packet_id: ack.packet_id, reason: ack.reason },
            Packet::PubRel(ack) => Event::Released { packet_id: ack.packet_id },
            Packet::PubComp(ack) => Event::Completed { packet_id: ack.packet_id },
            Packet::Subscribe(subscribe) => Event::Subscribe(subscribe),
            Packet::Unsubscribe(unsubscribe) => Event::Unsubscribe(unsubscribe),
            Packet::PingReq => Event::Ping,
            Packet::Disconnect(disconnect) => {
                let late = disconnect.session_expiry_s.filter(|&found_s| found_s > 0 && !self.expiry_asked);
                if let Some(found_s) = late {
                    return Err(Fault::SessionExpirySetLate { found_s });
                }
                Event::Disconnect {
                    with_will: disconnect.reason != ReasonCode::NORMAL_DISCONNECTION,
                    session_expiry_s: disconnect.session_expiry_s,
                }
            }
            Packet::Auth(auth) => {
                let begins = auth.reason == ReasonCode::ReAuthenticate;
                self.take_auth(begins, auth.method, method)?;
                Event::Auth { begins, data: auth.data }
            }
            Packet::Connect(_) => return Err(DecodeError::ConnectRepeated.into()),
            other @ (Packet::ConnAck(_) | Packet::SubAck(_) | Packet::UnsubAck(_) | Packet::PingResp) => {
                let packet = other.packet_type();
                return Err(DecodeError::WrongDirection { packet, side: Side::FromClient }.into());
            }
        })
    }

    #[inline(always)]
    fn take_publish<'a>(&mut self, publish: Publish<'a>, limits: &Limits) -> Result<Inbound<'a>, Fault> {
        let alias = publish.properties.topic_alias.map(NonZeroU16::get);
        if let Some(found) = alias.filter(|&found| found > limits.topic_alias_maximum) {
            return Err(Fault::TopicAliasTooLarge { found, max: limits.topic_alias_maximum });
        }
        if publish.qos != Qos::AtMostOnce && self.version == ProtocolVersion::V5 {
            let receive_maximum = limits.receive_maximum.max(1);
            if self.unanswered >= receive_maximum {
                return Err(Fault::ReceiveMaximumExceeded { receive_maximum });
            }
            self.unanswered += 1;
        }
        let topic = match (publish.topic, alias) {
            (Some(topic), None) => InboundTopic::Said(topic),
            (topic, alias) => self.by_alias(topic, alias.unwrap_or(0))?,
        };
        let mut properties = publish.properties;
        properties.topic_alias = None;
        let message_expiry_s = properties.message_expiry_s.take();
        Ok(Inbound {
            topic,
            payload: publish.payload,
            qos: publish.qos,
            retain: publish.retain,
            packet_id: publish.packet_id,
            message_expiry_s,
            properties,
        })
    }

    /// AUTH begins a re-authentication, or answers ours.
    ///
    /// Source: [MQTT-4.12.1-1] (5.0).
    fn take_auth(&mut self, begins: bool, found: Option<&str>, method: Option<&str>) -> Result<(), Fault> {
        if method.is_none() {
            return Err(Fault::AuthUnexpected);
        }
        let wanted = if begins { Renewal::None } else { Renewal::Challenged };
        if self.renewal != wanted || found != method {
            return Err(Fault::AuthOutOfTurn);
        }
        self.renewal = Renewal::Judged;
        Ok(())
    }

    #[inline(never)]
    fn by_alias<'a>(&mut self, topic: Option<TopicName<'a>>, alias: u16) -> Result<InboundTopic<'a>, Fault> {
        let at = usize::from(alias).wrapping_sub(1);
        let Some(topic) = topic else {
            let known = self.aliases.get(at).cloned().flatten();
            return Ok(InboundTopic::Alias(known.ok_or(Fault::TopicAliasUnknown { found: alias })?));
        };
        if self.aliases.len() <= at {
            self.aliases.resize(at + 1, None);
        }
        self.aliases[at] = Some(topic.as_str().into());
        Ok(InboundTopic::Said(topic))
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::AwaitConnect => "AwaitConnect",
            State::Authenticating(_) => "Authenticating",
            State::Challenged(_) => "Challenged",
            State::Open(_) => "Open",
            State::Closed { .. } => "Closed",
        };
        f.debug_struct("Connection").field("state", &state).field("version", &self.version()).finish()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "one base instant; all later ones are sums")]
    use super::*;
    use crate::codec::{Connect, ConnectProperties, PacketId};

    const LIMITS: Limits = Limits {
        packet_bytes_before_auth_max: 16 << 10,
        packet_bytes_max: 1 << 20,
        receive_maximum: 10,
        topic_alias_maximum: 10,
        keep_alive_s_max: u16::MAX,
        inflight_max: 3,
        topic_aliases_given_max: 16,
    };

    fn open(version: ProtocolVersion, properties: ConnectProperties<'_>) -> (Connection, Instant) {
        let (mut connection, now) = asking(version, properties);
        connection.admit(now, &Welcome::default(), &mut Vec::new());
        (connection, now)
    }

    /// It has said CONNECT, and is judged.
    fn asking(version: ProtocolVersion, properties: ConnectProperties<'_>) -> (Connection, Instant) {
        let now = Instant::now();
        let mut connection = Connection::new(LIMITS);
        let connect = Connect {
            version,
            clean_start: true,
            keep_alive_s: 10,
            client_id: "c",
            username: None,
            password: None,
            will: None,
            properties,
        };
        let mut bytes = Vec::new();
        Packet::from(connect).encode(version, &mut bytes).expect("a CONNECT");
        assert!(matches!(connection.next(now, &bytes), Step::Took { event: Event::Connect(_), .. }));
        assert!(matches!(connection.next(now, &[0xc0, 0]), Step::Hold), "held until admitted");
        (connection, now)
    }

    #[test]
    fn the_window_is_the_smaller_of_both_sides() {
        let asked = ConnectProperties { receive_maximum: NonZeroU16::new(2), ..ConnectProperties::default() };
        for (properties, window) in [(asked, 2), (ConnectProperties::default(), 3)] {
            let (connection, _) = open(ProtocolVersion::V5, properties);
            assert_eq!(connection.window(), window);
        }
    }

    #[test]
    fn no_more_aliases_are_given_than_the_client_takes() {
        let asked = ConnectProperties { topic_alias_maximum: Some(2), ..ConnectProperties::default() };
        let (mut connection, _) = open(ProtocolVersion::V5, asked);
        let alias = |n| NonZeroU16::new(n).expect("not 0");
        assert_eq!(connection.alias("a"), Some((alias(1), true)));
        assert_eq!(connection.alias("b"), Some((alias(2), true)));
        assert_eq!(connection.alias("c"), None);
        assert_eq!(connection.alias("a"), Some((alias(1), false)));
        connection.take_alias_back();
        assert_eq!(connection.alias(&"long".repeat(300)), None, "what is kept for it has bounds");
        assert_eq!(connection.alias("c"), Some((alias(2), true)), "`b` was never defined");
        let (mut none, _) = open(ProtocolVersion::V5, ConnectProperties::default());
        assert!(!none.takes_aliases() && none.alias("a").is_none());
    }

    #[test]
    fn a_reason_string_that_does_not_fit_is_left_out_and_never_breaks_utf_8() {
        let long = "ä\n".repeat(2_000);
        for (bytes_max, fits) in [(None, true), (NonZeroU32::new(100), false)] {
            let properties =
                ConnectProperties { maximum_packet_size: bytes_max, ..ConnectProperties::default() };
            let (mut connection, _) = open(ProtocolVersion::V5, properties);
            let mut out = Vec::new();
            assert!(connection.disconnect(ReasonCode::NotAuthorized, Some(&long), &mut out));
            let frame = decode(&out, Some(ProtocolVersion::V5), usize::MAX, Side::FromServer);
            let Ok(Frame::Complete { packet: Packet::Disconnect(disconnect), bytes }) = frame else {
                panic!("{frame:?}")
            };
            assert_eq!((bytes, disconnect.reason_string.is_some()), (out.len(), fits));
            assert!(!connection.disconnect(ReasonCode::NotAuthorized, None, &mut out), "once");
        }
    }

    /// What a client of MQTT 5 with these properties is told: its length and whether it is padded.
    fn connack(properties: ConnectProperties<'_>, refusal: Option<&str>) -> (usize, bool) {
        let (mut connection, now) = asking(ProtocolVersion::V5, properties);
        let mut out = Vec::new();
        match refusal {
            None => {
                let told = [("db-expires-in", "3600")];
                let welcome =
                    Welcome { told: &told, assigned_client_id: Some("given"), ..Welcome::default() };
                connection.admit(now, &welcome, &mut out);
            }
            Some(why) => {
                connection.refuse(ReasonCode::NotAuthorized, Some(why), &[("db-time", "1")], &mut out)
            }
        }
        let frame = decode(&out, Some(ProtocolVersion::V5), usize::MAX, Side::FromServer);
        let Ok(Frame::Complete { packet: Packet::ConnAck(connack), bytes }) = frame else {
            panic!("{frame:?}")
        };
        assert_eq!(bytes, out.len());
        assert_eq!(connack.reason.is_error(), refusal.is_some());
        let told = &connack.properties.user_properties;
        assert!(told.first("db-expires-in").or(told.first("db-time")).is_some(), "nothing else is lost");
        (bytes, told.first(PAD).is_some())
    }

    #[test]
    fn a_client_that_pads_cannot_be_told_from_another_by_the_length_of_its_connack() {
        let pad = [(PAD, "000")];
        let asks = |user_properties, maximum_packet_size| ConnectProperties {
            user_properties: UserProperties::of(user_properties),
            maximum_packet_size: NonZeroU32::new(maximum_packet_size),
            ..ConnectProperties::default()
        };
        for refusal in [None, Some("no"), Some("the JWT is not signed by a key of this device")] {
            assert_eq!(connack(asks(&pad, 0), refusal), (256, true));
            assert_eq!(connack(asks(&pad, 256), refusal), (256, true));
            let (bytes, padded) = connack(asks(&pad, 255), refusal);
            assert!(bytes < 128 && !padded, "the client takes no more than 255: {bytes}");
            let (bytes, padded) = connack(asks(&[], 0), refusal);
            assert!(bytes < 128 && !padded, "nobody asked: {bytes}");
        }
        assert_eq!(connack(asks(&pad, 0), Some(&"long".repeat(100))), (512, true));
    }

    #[test]
    fn the_timeout_moves_with_each_packet_and_is_absent_without_keep_alive() {
        let (mut connection, t0) = open(ProtocolVersion::V311, ConnectProperties::default());
        assert_eq!(connection.timeout(), Some(t0 + Duration::from_secs(15)));
        let t1 = t0 + Duration::from_secs(9);
        assert!(matches!(connection.next(t1, &[0xc0]), Step::NeedMore));
        assert_eq!(connection.timeout(), Some(t0 + Duration::from_secs(15)), "half a packet is none");
        assert!(matches!(connection.next(t1, &[0xc0, 0]), Step::Took { event: Event::Ping, .. }));
        assert_eq!(connection.timeout(), Some(t1 + Duration::from_secs(15)));
        connection.close();
        assert_eq!(connection.timeout(), None);
    }

    #[test]
    fn a_session_expiry_that_connect_did_not_ask_for_is_a_protocol_error_in_disconnect() {
        for (asked, late) in [(None, true), (Some(0), true), (Some(1), false)] {
            let properties = ConnectProperties { session_expiry_s: asked, ..ConnectProperties::default() };
            let (mut connection, now) = open(ProtocolVersion::V5, properties);
            let step = connection.next(now, &[0xe0, 7, 0, 5, 0x11, 0, 0, 0, 9]);
            assert_eq!(
                matches!(step, Step::Failed(Fault::SessionExpirySetLate { found_s: 9 })),
                late,
                "{step:?}"
            );
            assert!(late || matches!(step, Step::Took { event: Event::Disconnect { .. }, .. }), "{step:?}");
        }
    }

    #[test]
    fn an_answer_larger_than_the_client_takes_is_not_sent() {
        let properties =
            ConnectProperties { maximum_packet_size: NonZeroU32::new(10), ..ConnectProperties::default() };
        let (mut connection, _) = open(ProtocolVersion::V5, properties);
        let id = PacketId::new(1).expect("not 0");
        for (codes, sent) in [(4, true), (5, true), (6, false)] {
            let mut out = Vec::new();
            connection.subscribe_answer(id, vec![ReasonCode::GrantedQos1; codes], &mut out);
            assert_eq!(!out.is_empty(), sent, "{codes} codes are {} bytes", 5 + codes);
        }
    }
}
