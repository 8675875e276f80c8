//! What goes into a shard and what comes out of it, apart from bytes.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use drawbridge_mqtt::codec::{ProtocolVersion, Qos, ReasonCode};
use drawbridge_names::{Epoch, KeyId, MqttClientId, PrincipalKind, PrincipalName, RegistryName, Uid};
use drawbridge_policy::Rights;
use zeroize::Zeroizing;

use crate::message::{Message, Publisher};
use crate::report::Report;
use crate::shard::{Given, Moving, Sharing};
use crate::storage::{Destination, MessageId, SessionId};

/// A connection within its shard. A stale one is never taken for a newer connection in its place.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId {
    slot: u32,
    generation: u32,
}

impl ConnId {
    pub(crate) fn new(slot: u32, generation: u32) -> Self {
        Self { slot, generation }
    }

    /// Its place in the shard: dense small numbers, good as an index or a poll token. Used again
    /// after [`crate::Shard::hung_up`].
    #[must_use]
    pub fn slot(self) -> u32 {
        self.slot
    }

    /// Tells the connections apart that had the same slot.
    #[must_use]
    pub fn generation(self) -> u32 {
        self.generation
    }
}

impl fmt::Debug for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.slot, self.generation)
    }
}

/// What the driver is asked to do.
#[derive(Debug)]
pub enum Effect {
    /// Who is this, and what may it? Answer by [`crate::Shard::answer`], by [`crate::Shard::challenge`], or by
    /// [`crate::Shard::answer_for_token`].
    Authenticate {
        /// The connection.
        conn: ConnId,
        /// What it said in CONNECT.
        request: Box<ConnectRequest>,
    },
    /// A new credential for a session that is open: how does it stand, and what may it from now on? Answer by
    /// [`crate::Shard::renewed`], or by [`crate::Shard::challenge`].
    Renew {
        /// The connection.
        conn: ConnId,
        /// Whose session, and what came.
        request: Box<RenewRequest>,
    },
    /// The client wants a nonce for its next renewal. Answer by [`crate::Shard::tell_nonce`].
    Nonce {
        /// The connection.
        conn: ConnId,
        /// Its registry.
        registry: RegistryName,
    },
    /// A client that has not logged in has published a token, to be kept for whoever comes with its key. Answer by
    /// [`crate::Shard::token_judged`].
    AuthzInfo {
        /// The connection.
        conn: ConnId,
        /// What it published. Overwritten when dropped.
        token: Zeroizing<Vec<u8>>,
    },
    /// [`crate::Shard::output`] has bytes. Said once; again only after [`crate::Shard::drained`].
    Write {
        /// The connection.
        conn: ConnId,
    },
    /// The connection is authenticated: it leaves the count of those that are not.
    Admitted {
        /// The connection.
        conn: ConnId,
    },
    /// Close the socket, then call [`crate::Shard::hung_up`], which frees the place. Said once.
    Close {
        /// The connection.
        conn: ConnId,
        /// How.
        how: Close,
    },
    /// Hand this to another shard, by [`crate::Shard::crossings`], in order.
    Cross {
        /// The other shard.
        shard: usize,
        /// What to hand over.
        crossing: Crossing,
    },
    /// A client commands, configures or reports state. Answer by [`crate::Shard::control_done`] when
    /// there is an `ack`: the client is not listened to further while too many are unanswered.
    Control {
        /// The connection it came on; a will can come after its end.
        conn: ConnId,
        /// What the answer belongs to; a will has none.
        ack: Option<ControlAck>,
        /// What it said.
        publish: ControlPublish,
    },
    /// What became of an [`Order`].
    OrderDone {
        /// [`Order::id`].
        order: u64,
        /// What became of it.
        outcome: OrderOutcome,
    },
    /// A stored session wants messages that are not in memory. Answer by [`crate::Shard::fetched`].
    Fetch {
        /// The session.
        session: SessionId,
        /// In the order in which they are wanted.
        messages: Vec<MessageId>,
    },
    /// The connection belongs to a session that lives on another shard: its socket goes there, and with it
    /// `moving`, by [`crate::Shard::adopt`]. Its place here is free already; it is not hung up.
    Move {
        /// The connection, which ends to be one of this shard.
        conn: ConnId,
        /// Where to.
        shard: usize,
        /// What the broker knows of it.
        moving: Box<Moving>,
    },
    /// The client was not listened to because too much of what it, or everybody, said waited; it is from now on.
    Resume {
        /// The connection.
        conn: ConnId,
    },
    /// Something for the log.
    Report(Report),
}

/// How to close.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Close {
    /// At once, with no answer (invariant I2).
    Silent,
    /// When the output is written.
    AfterFlush {
        /// Read and discard for a while before closing, so that the answer is not lost to a reset.
        linger: bool,
    },
}

/// What a client said of itself in CONNECT.
pub struct ConnectRequest {
    /// 3.1.1 or 5.
    pub version: ProtocolVersion,
    /// As sent; empty when the server is to choose.
    pub client_id: MqttClientId,
    /// The user name.
    pub username: Option<String>,
    /// The password: a JWT, a token or a word. Overwritten when dropped.
    pub password: Option<Zeroizing<Vec<u8>>>,
    /// Clean Start (5) or Clean Session (3.1.1).
    pub clean_start: bool,
    /// As asked for, in seconds; 0 for none.
    pub keep_alive_s: u16,
    /// Where the will would go, as sent.
    pub will_topic: Option<String>,
    /// Authentication Method, in MQTT 5.
    pub method: Option<String>,
    /// Authentication Data, in MQTT 5. Overwritten when dropped.
    pub data: Option<Zeroizing<Vec<u8>>>,
    /// What was asked of the client since, and its answer.
    pub challenged: Option<Challenged>,
}

/// A challenge, and what the client answered to it.
pub struct Challenged {
    /// Authentication Data of our AUTH.
    pub challenge: Vec<u8>,
    /// Authentication Data of the client's AUTH; empty if it has none. Overwritten when dropped.
    pub answer: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for Challenged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Challenged").finish_non_exhaustive()
    }
}

/// A new credential for a session that is open.
pub struct RenewRequest {
    /// 3.1.1 or 5.
    pub version: ProtocolVersion,
    /// The registry of the session.
    pub registry: RegistryName,
    /// Whose it is.
    pub uid: Uid,
    /// Its name.
    pub name: PrincipalName,
    /// The client id that the session is kept under.
    pub client_id: MqttClientId,
    /// See [`Admitted::leading_slash`].
    pub leading_slash: bool,
    /// See [`Admitted::proven`].
    pub proven: bool,
    /// The access token that is in force, if one is.
    pub token: Option<[u8; 16]>,
    /// How it came.
    pub by: RenewBy,
}

/// How a new credential came.
pub enum RenewBy {
    /// By AUTH, in the method of CONNECT.
    Method {
        /// The method.
        method: String,
        /// Authentication Data. Overwritten when dropped.
        data: Zeroizing<Vec<u8>>,
        /// What was asked of the client since, and its answer.
        challenged: Option<Challenged>,
    },
    /// As the payload of a publish to [`crate::AUTH_TOPIC`]. Overwritten when dropped.
    Publish(Zeroizing<Vec<u8>>),
}

impl fmt::Debug for RenewRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by = match &self.by {
            RenewBy::Method { method, .. } => method.as_str(),
            RenewBy::Publish(_) => "publish",
        };
        f.debug_struct("RenewRequest")
            .field("registry", &self.registry)
            .field("name", &self.name)
            .field("by", &by)
            .finish_non_exhaustive()
    }
}

/// What [`crate::Shard::challenge`] belongs to: the request comes back with the answer in it.
#[derive(Debug)]
pub enum Asked {
    /// [`Effect::Authenticate`].
    Connect(Box<ConnectRequest>),
    /// [`Effect::Renew`].
    Renew(Box<RenewRequest>),
}

impl fmt::Debug for ConnectRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither the password nor the user name, which carries a token in one profile.
        f.debug_struct("ConnectRequest")
            .field("version", &self.version)
            .field("client_id", &self.client_id)
            .field("has_username", &self.username.is_some())
            .field("has_password", &self.password.is_some())
            .field("clean_start", &self.clean_start)
            .field("keep_alive_s", &self.keep_alive_s)
            .field("will_topic", &self.will_topic)
            .field("method", &self.method)
            .finish_non_exhaustive()
    }
}

/// Let it in, as this principal, with these rights.
#[derive(Debug, Clone)]
pub struct Admitted {
    /// Its registry.
    pub registry: RegistryName,
    /// Its number.
    pub uid: Uid,
    /// Its name.
    pub name: PrincipalName,
    /// Device or application.
    pub kind: PrincipalKind,
    /// The client id of the session: the one sent, or the one assigned.
    pub client_id: MqttClientId,
    /// Whether the client id was assigned by the server.
    pub assigned_client_id: bool,
    /// What it may do.
    pub rights: Arc<Rights>,
    /// When its right ends; `None` where it does not (a password).
    pub ends: Option<Instant>,
    /// The key that opened the session.
    pub kid: Option<KeyId>,
    /// The principal's revocation epoch.
    pub epoch: Epoch,
    /// The policy epoch of `rights`.
    pub policy_epoch: u64,
    /// Live sessions it may have; 1 for a device. 0 counts as 1.
    pub sessions_max: usize,
    /// Google client id: `/devices/...` on the wire is `devices/...` within, both ways.
    pub leading_slash: bool,
    /// The access token that opened the session, if one did. Apart, since few sessions have one.
    pub ticket: Option<Box<Ticket>>,
    /// Whether the client has proven, in this connection, to hold the key of its credential: then it must do so
    /// at each renewal.
    pub proven: bool,
    /// Of a renewal: when the connection ends, whatever renews its session until then. `None`: with its right.
    pub closes: Option<Instant>,
}

/// What a session remembers of the access token that opened it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    /// Tells the token.
    pub token: [u8; 16],
    /// The issuer's key that signed it.
    pub issuer_kid: Option<KeyId>,
    /// The gateway that acts for the principal.
    pub gateway: Option<Uid>,
}

/// Which tickets are good no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TicketEnd {
    /// A token was revoked.
    Token([u8; 16]),
    /// A key of the issuer is believed no more.
    IssuerKey(KeyId),
    /// A gateway may act no more.
    Gateway(Uid),
}

impl TicketEnd {
    pub(crate) fn concerns(&self, ticket: Option<&Ticket>) -> bool {
        ticket.is_some_and(|ticket| match self {
            Self::Token(token) => ticket.token == *token,
            Self::IssuerKey(kid) => ticket.issuer_kid.as_ref() == Some(kid),
            Self::Gateway(uid) => ticket.gateway == Some(*uid),
        })
    }
}

/// Do not let it in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// What the peer is told.
    pub reason: RefusedReason,
    /// A reason string: only after a good signature, never to a prober.
    pub for_owner: Option<String>,
    /// Beside the reason string: the server's time, in seconds since 1970-01-01 UTC, for a client whose clock
    /// is wrong.
    pub server_time_s: Option<u64>,
    /// Where tokens are to be had: the User Property `ace_as_hint` (RFC 9431 section 2.4.1).
    pub hint: Option<String>,
}

/// What a refused client is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusedReason {
    /// 5: 0x87; 3.1.1: 5. Also for unknown, wrong key and blocked: they look alike (I11).
    NotAuthorized,
    /// 5: 0x86; 3.1.1: 4.
    BadCredentials,
    /// 5: 0x8C; 3.1.1 has no methods.
    BadMethod,
    /// 5: 0x85; 3.1.1: 2.
    ClientIdRefused,
    /// 5: 0x89; 3.1.1: 3.
    ServerBusy,
    /// 5: 0x88; 3.1.1: 3.
    Unavailable,
    /// 5: 0x8A; 3.1.1: 5.
    Banned,
    /// 5: 0x97; 3.1.1: 3.
    QuotaExceeded,
    /// 5: 0x9F; 3.1.1: 3.
    TooManyConnects,
}

impl RefusedReason {
    /// A stable word, for a client that reads the result of a renewal.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::NotAuthorized => "not-authorized",
            Self::BadCredentials => "bad-credentials",
            Self::BadMethod => "bad-method",
            Self::ClientIdRefused => "client-id-refused",
            Self::ServerBusy => "server-busy",
            Self::Unavailable => "unavailable",
            Self::Banned => "banned",
            Self::QuotaExceeded => "quota-exceeded",
            Self::TooManyConnects => "too-many-connects",
        }
    }
}

impl From<RefusedReason> for ReasonCode {
    fn from(reason: RefusedReason) -> Self {
        match reason {
            RefusedReason::NotAuthorized => Self::NotAuthorized,
            RefusedReason::BadCredentials => Self::BadUserNameOrPassword,
            RefusedReason::BadMethod => Self::BadAuthenticationMethod,
            RefusedReason::ClientIdRefused => Self::ClientIdentifierNotValid,
            RefusedReason::ServerBusy => Self::ServerBusy,
            RefusedReason::Unavailable => Self::ServerUnavailable,
            RefusedReason::Banned => Self::Banned,
            RefusedReason::QuotaExceeded => Self::QuotaExceeded,
            RefusedReason::TooManyConnects => Self::ConnectionRateExceeded,
        }
    }
}

/// Whose sessions end now. Every shard is told.
#[derive(Debug, Clone)]
pub enum Ended {
    /// All sessions of a principal.
    Principal {
        /// Its registry.
        registry: RegistryName,
        /// Its number.
        uid: Uid,
        /// Why.
        why: EndedWhy,
    },
    /// The sessions that a key opened: it was removed or retired.
    Key {
        /// The registry.
        registry: RegistryName,
        /// The principal.
        uid: Uid,
        /// The key.
        kid: KeyId,
    },
    /// The sessions that access tokens opened which are good no more.
    Ticket {
        /// The registry.
        registry: RegistryName,
        /// Whose; `None`: of any principal.
        uid: Option<Uid>,
        /// Which tokens.
        end: TicketEnd,
    },
    /// The policy of a principal changed: its sessions have `rights` from now on, subscriptions that they do not
    /// cover are cut, and a session that cannot be told of that ends. What it left behind (retained messages,
    /// wills) is judged by `rights`, too; by none at all without.
    Policy {
        /// The registry.
        registry: RegistryName,
        /// The principal.
        uid: Uid,
        /// Its rights under the new policy.
        rights: Option<Arc<Rights>>,
    },
    /// Every session: the server shuts down (0x8B).
    All,
}

/// Why all sessions of a principal end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndedWhy {
    /// Blocked: what it left behind is not delivered either, until it is admitted again.
    Blocked,
    /// Its tokens were revoked; it may log in anew.
    Revoked,
    /// Deleted: as blocked.
    Deleted,
    /// The operator ended the sessions, nothing else (0x98).
    Operator,
}

impl EndedWhy {
    pub(crate) fn silences(self) -> bool {
        matches!(self, Self::Blocked | Self::Deleted)
    }
}

/// A message from the server itself: a command, a configuration, a publish over HTTP.
#[derive(Debug, Clone)]
pub struct Order {
    /// Chosen by the caller; comes back in [`Effect::OrderDone`].
    pub id: u64,
    /// The registry.
    pub registry: RegistryName,
    /// Where to: a topic name without leading slash.
    pub topic: String,
    /// What.
    pub payload: Arc<[u8]>,
    /// With `to` it counts as 1: at QoS 0 nothing would answer.
    pub qos: Qos,
    /// Whether it stays as the last word on its topic.
    pub retain: bool,
    /// Wait for the PUBACK of this principal's session; `None`: done when it is handed over. When that
    /// session cannot get it at QoS 1, nobody gets it, unless it is retained.
    pub to: Option<Uid>,
    /// Until when to wait for the PUBACK.
    pub deadline: Instant,
    /// On whose behalf.
    pub publisher: Publisher,
    /// The rights of `publisher`, asked once more here; `None` when the server itself speaks.
    pub rights: Option<Arc<Rights>>,
}

/// What became of an [`Order`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderOutcome {
    /// The device sent PUBACK.
    Acknowledged,
    /// The device sent PUBACK with a refusal (5 only).
    Rejected(ReasonCode),
    /// No session of the principal on this shard, or it ended before it answered.
    NotConnected,
    /// Connected, but no subscription of QoS 1 matches.
    NotSubscribed,
    /// Connected and subscribed, but the message may not be delivered to it: its rights do not let it
    /// through, or those of the publisher no more.
    Withheld,
    /// No PUBACK until the deadline, or larger than the device takes; or nothing can be stored for now.
    TimedOut,
    /// There was nobody to wait for: handed to whoever subscribed, and retained if asked.
    Stored,
    /// The publisher may not publish there, or the topic is none.
    Denied,
}

/// A publish to `devices/{id}/commands[/sub]`, `/config` or `/state` that `may_publish` allowed. To
/// command is to publish: the edge records it, then a command or configuration comes back through
/// [`crate::Shard::publish`]. State is also routed to subscribers at once.
#[derive(Debug, Clone, PartialEq)]
pub struct ControlPublish {
    /// The registry.
    pub registry: RegistryName,
    /// Who speaks.
    pub publisher: (Uid, PrincipalName),
    /// What it is, for the audit.
    pub publisher_kind: PrincipalKind,
    /// The policy epoch under which it was allowed to.
    pub policy_epoch: u64,
    /// The device that the topic names.
    pub device: PrincipalName,
    /// Which of the three.
    pub kind: ControlKind,
    /// What was said.
    pub payload: Vec<u8>,
    /// How it was published.
    pub qos: Qos,
}

/// What a control topic is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ControlKind {
    /// `devices/{id}/commands`, or below it.
    Command {
        /// What stands after `commands/`.
        subfolder: Option<String>,
    },
    /// `devices/{id}/config`.
    Config,
    /// `devices/{id}/state`.
    State,
}

impl ControlKind {
    /// Takes a topic apart if it is a control topic of a device.
    #[must_use]
    pub fn of(topic: &str) -> Option<(PrincipalName, Self)> {
        let (device, rest) = topic.strip_prefix("devices/")?.split_once('/')?;
        let kind = match rest {
            "config" => Self::Config,
            "state" => Self::State,
            "commands" => Self::Command { subfolder: None },
            _ => Self::Command { subfolder: Some(rest.strip_prefix("commands/")?.to_owned()) },
        };
        Some((PrincipalName::parse(device).ok()?, kind))
    }
}

/// A control publish that waits for its answer; at QoS 1 the client waits for its PUBACK, at QoS 2 for its PUBREC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ControlAck {
    pub(crate) packet_id: Option<drawbridge_mqtt::codec::PacketId>,
    /// The stored session that said it at QoS 2: it may come back for its answer on another connection.
    pub(crate) inbound: Option<SessionId>,
}

/// What one shard tells another.
#[derive(Debug, Clone)]
pub enum Crossing {
    /// A message, for the subscribers and the retained store there.
    Publish {
        /// The message.
        message: Arc<Message>,
        /// The shard that wants to hear which stored sessions there are owed it ([`Crossing::Gathered`]),
        /// and how it calls the message.
        gather: Option<(usize, u64)>,
    },
    /// The stored sessions of a shard that are owed a message.
    Gathered {
        /// How the asker calls the message.
        token: u64,
        /// The sessions.
        to: Vec<Destination>,
        /// The shards where they live, which want to hear when the message is stored.
        shards: Vec<usize>,
    },
    /// What became of a member of a shared subscription, for the home of its group.
    Sharing(Box<Sharing>),
    /// A message for one member of a shared subscription.
    Given(Box<Given>),
    /// The message that sessions of the receiving shard are owed is stored.
    Stored {
        /// The message.
        message: MessageId,
    },
    /// The session on this connection has been taken over: close it with 0x8E.
    Supplant {
        /// The connection on the receiving shard.
        conn: ConnId,
        /// The client id of the newer session, if that began anew: one with this client id is not kept.
        discarded: Option<MqttClientId>,
    },
    /// A client is back: its wills that are held back are not spoken, or, when its session began anew, at
    /// once.
    SessionIsBack {
        /// The registry.
        registry: RegistryName,
        /// The principal.
        uid: Uid,
        /// The client id of the session.
        client_id: MqttClientId,
        /// Whether its session began anew.
        clean_start: bool,
    },
    /// How a principal stands, said by the shard that admitted it, or that ended its session: what
    /// was said before, and may still be under way from there, is outdated.
    Standing {
        /// The registry.
        registry: RegistryName,
        /// The principal.
        uid: Uid,
        /// What it may do by its policy; `None`: nothing of it is delivered.
        rights: Option<Arc<Rights>>,
    },
}

impl Crossing {
    /// About what it holds in memory until it is worked on.
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of::<Self>()
            + match self {
                Self::Publish { message, .. } => message.bytes(),
                Self::Given(given) => given.message.bytes(),
                _ => 0,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_topics_are_those_of_a_device_and_no_others() {
        let of = |topic| ControlKind::of(topic).map(|(device, kind)| (device.to_string(), kind));
        let command = |sub: Option<&str>| ControlKind::Command { subfolder: sub.map(str::to_owned) };
        assert_eq!(of("devices/lamp/commands"), Some(("lamp".to_owned(), command(None))));
        assert_eq!(of("devices/lamp/commands/a/b"), Some(("lamp".to_owned(), command(Some("a/b")))));
        assert_eq!(of("devices/lamp/config"), Some(("lamp".to_owned(), ControlKind::Config)));
        assert_eq!(of("devices/lamp/state"), Some(("lamp".to_owned(), ControlKind::State)));
        for other in [
            "devices/lamp/events",
            "devices/lamp/config/x",
            "devices/lamp",
            "devices//config",
            "x/lamp/config",
            "devices/lamp/commandsx",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
    }

    #[test]
    fn i10_a_connect_request_never_shows_its_credentials() {
        let request = ConnectRequest {
            version: ProtocolVersion::V5,
            client_id: MqttClientId::parse("lamp").expect("lamp"),
            username: Some("ace-secret".to_owned()),
            password: Some(Zeroizing::new(b"hunter2".to_vec())),
            clean_start: true,
            keep_alive_s: 60,
            will_topic: None,
            method: Some("ace".to_owned()),
            data: Some(Zeroizing::new(b"hunter2".to_vec())),
            challenged: None,
        };
        let shown = format!("{request:?}");
        assert!(!shown.contains("secret") && !shown.contains("hunter2"), "{shown}");
        assert!(!shown.contains("104, 117, 110"), "{shown}");
    }
}
