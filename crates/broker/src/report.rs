//! What the log is told. The peer is told little, the log everything but secrets.

use std::fmt;

use drawbridge_mqtt::codec::{ProtocolVersion, ReasonCode};
use drawbridge_mqtt::connection::Fault;
use drawbridge_names::{MqttClientId, PrincipalKind, PrincipalName, RegistryName, TopicFilter, Uid};

use crate::effect::{ConnId, EndedWhy, RefusedReason};

/// One thing that happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// On which connection of this shard.
    pub conn: ConnId,
    /// To whom, once that is known.
    pub who: Option<Who>,
    /// What.
    pub what: What,
}

/// An authenticated principal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Who {
    /// Its registry.
    pub registry: RegistryName,
    /// Its number.
    pub uid: Uid,
    /// Its name.
    pub name: PrincipalName,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the text of each variant says what it is; the fields are its words")]
pub enum What {
    /// A session began.
    Connected { version: ProtocolVersion, client_id: MqttClientId, kind: PrincipalKind },
    /// A session ended in an orderly way, or its socket went away.
    Disconnected { by_client: bool },
    /// No CONNECT was admitted by the deadline.
    ConnectTimeout,
    /// More bytes before authentication than allowed.
    TooMuchBeforeAuthentication { bytes_max: usize },
    /// The client was not let in.
    Refused { reason: RefusedReason, for_owner: Option<String> },
    /// The client broke the protocol, or asked for what is not served.
    ProtocolFault(Fault),
    /// Nothing was heard for one and a half keep-alives.
    KeepAliveTimeout { keep_alive_s: u16 },
    /// The right of the session ended.
    Expired,
    /// The session was ended from outside.
    Ended(EndedWhy),
    /// The key that opened the session was removed.
    KeyRemoved,
    /// The policy changed, or the rights that a new token gives are fewer; the client could not be told which of its
    /// subscriptions are cut.
    PolicyChanged,
    /// A session was renewed; so many of its subscriptions were cut.
    Renewed { removed: usize },
    /// A session was not renewed.
    RenewalRefused { reason: RefusedReason, for_owner: Option<String> },
    /// A session is renewed too often.
    RenewedTooOften,
    /// A session that was renewed has gone on for as long as may be after the last whole TLS handshake.
    HandshakeTooOld,
    /// A client that has not logged in did something else than to publish a token.
    NotLoggedIn,
    /// A token that was published at QoS 0 is not kept; admission has said why.
    TokenNotKept { reason: ReasonCode },
    /// The server shuts down.
    ShuttingDown,
    /// The access token that opened it is accepted no more.
    TicketEnded,
    /// A newer session of the same principal took its place.
    TakenOver,
    /// Too many take-overs in a short time: two clients share one identity. An alarm.
    TakeoverStorm { client_id: MqttClientId },
    /// A publish was refused.
    PublishDenied { topic: String, rule: String },
    /// The edge refused a control publish, and MQTT 3.1.1 has no word for that but the end.
    ControlRefused { reason: ReasonCode },
    /// A subscription was refused.
    SubscribeDenied { filter: TopicFilter, rule: String },
    /// A CONNECT was refused because of its will, or a will was not published.
    WillDenied { topic: String, rule: String },
    /// The session did not keep up, and more waits for it than may.
    FellBehind { waiting: usize },
    /// A publish or a CONNECT that must be stored was refused, because nothing can be stored.
    StorageFull,
    /// A subscription was refused though allowed: `why` says which limit.
    SubscriptionRefused { filter: String, why: &'static str },
    /// A message was not retained: the store of the registry is full.
    RetainedFull { topic: String, bytes_max: usize },
}

impl What {
    /// Whether what the session left to say, its will, is not said: it had been opened by what is not
    /// believed any more.
    pub(crate) fn takes_the_last_word(&self) -> bool {
        matches!(self, Self::KeyRemoved | Self::TicketEnded | Self::Ended(EndedWhy::Revoked))
    }

    /// Stable code, where something was refused or ended; the table is `docs/errors.md`.
    #[must_use]
    pub fn code(&self) -> Option<&'static str> {
        self.row().map(|row| row.0)
    }

    /// Stable word, as [`Self::code`].
    #[must_use]
    pub fn word(&self) -> Option<&'static str> {
        self.row().map(|row| row.1)
    }

    fn row(&self) -> Option<(&'static str, &'static str)> {
        Some(match self {
            Self::Connected { .. }
            | Self::Disconnected { .. }
            | Self::Renewed { .. }
            | Self::ShuttingDown => return None,
            Self::ProtocolFault(fault) => (fault.code(), fault.word()),
            Self::ConnectTimeout => ("DB-2030", "mqtt-connect-timeout"),
            Self::TooMuchBeforeAuthentication { .. } => ("DB-2031", "mqtt-too-much-before-authentication"),
            Self::Refused { .. } => ("DB-2032", "mqtt-connect-refused"),
            Self::KeepAliveTimeout { .. } => ("DB-2033", "mqtt-keep-alive-timeout"),
            Self::Expired => ("DB-2034", "mqtt-session-expired"),
            Self::Ended(_) | Self::KeyRemoved | Self::TicketEnded | Self::PolicyChanged => {
                ("DB-2035", "mqtt-session-ended")
            }
            Self::TakenOver => ("DB-2036", "mqtt-session-taken-over"),
            Self::TakeoverStorm { .. } => ("DB-2037", "mqtt-takeover-storm"),
            Self::PublishDenied { .. } => ("DB-2038", "mqtt-publish-denied"),
            Self::SubscribeDenied { .. } => ("DB-2039", "mqtt-subscribe-denied"),
            Self::WillDenied { .. } => ("DB-2040", "mqtt-will-denied"),
            Self::FellBehind { .. } => ("DB-2041", "mqtt-session-fell-behind"),
            Self::SubscriptionRefused { .. } => ("DB-2042", "mqtt-subscription-refused"),
            Self::RetainedFull { .. } => ("DB-2043", "mqtt-retained-full"),
            Self::ControlRefused { .. } => ("DB-2044", "mqtt-control-refused"),
            Self::StorageFull => ("DB-2045", "mqtt-storage-full"),
            Self::RenewalRefused { .. } => ("DB-2046", "mqtt-renewal-refused"),
            Self::RenewedTooOften => ("DB-2047", "mqtt-renewed-too-often"),
            Self::HandshakeTooOld => ("DB-2049", "mqtt-handshake-too-old"),
            Self::NotLoggedIn | Self::TokenNotKept { .. } => ("DB-2048", "mqtt-not-logged-in"),
        })
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connected { version, client_id, kind } => {
                let version = match version {
                    ProtocolVersion::V311 => "3.1.1",
                    ProtocolVersion::V5 => "5.0",
                };
                write!(f, "{kind} connected by MQTT {version} as client {:?}", client_id.as_str())
            }
            Self::Disconnected { by_client: true } => f.write_str("disconnected by the client"),
            Self::Disconnected { by_client: false } => f.write_str("the connection was lost"),
            Self::ConnectTimeout => {
                f.write_str("no CONNECT was admitted in time; connect and authenticate at once")
            }
            Self::TooMuchBeforeAuthentication { bytes_max } => write!(
                f,
                "more than {bytes_max} bytes came before authentication; wait for CONNACK before sending more"
            ),
            Self::Refused { reason, for_owner: Some(why) } => write!(f, "refused ({reason:?}): {why}"),
            Self::Refused { reason, for_owner: None } => write!(f, "refused ({reason:?})"),
            Self::ProtocolFault(fault) => fault.fmt(f),
            Self::KeepAliveTimeout { keep_alive_s } => write!(
                f,
                "nothing came for one and a half times the keep-alive of {keep_alive_s} s; send PINGREQ in time"
            ),
            Self::Expired => f.write_str("the right of the session ended; log in with a new token"),
            Self::Ended(why) => write!(f, "the session was ended: {why:?}"),
            Self::KeyRemoved => {
                f.write_str("the key that opened the session was removed; log in with another")
            }
            Self::TicketEnded => {
                f.write_str("the access token that opened the session is accepted no more; log in again")
            }
            Self::PolicyChanged => {
                f.write_str("the rights of the session are fewer than before; connect again")
            }
            Self::Renewed { removed } => write!(f, "renewed; {removed} of its subscriptions are cut"),
            Self::RenewalRefused { for_owner: Some(why), .. } => write!(f, "not renewed: {why}"),
            Self::RenewalRefused { reason, for_owner: None } => write!(f, "not renewed ({reason:?})"),
            Self::RenewedTooOften => f.write_str(
                "the session is renewed too often; renew when half of the time that is left is over",
            ),
            Self::HandshakeTooOld => f.write_str(
                "the session was renewed until its last whole TLS handshake was too long ago; connect again",
            ),
            Self::NotLoggedIn => f.write_str(
                "the client has not logged in, and may only publish a token to `authz-info`; then let it come with the key of that token",
            ),
            Self::TokenNotKept { reason } => write!(f, "the token on `authz-info` is not kept ({reason})"),
            Self::ShuttingDown => f.write_str("the server shuts down"),
            Self::TakenOver => f.write_str("a newer session of the same principal took its place"),
            Self::TakeoverStorm { client_id } => write!(
                f,
                "more than 5 take-overs in 10 s as client {:?}: two clients share one identity; stop one of them",
                client_id.as_str()
            ),
            Self::PublishDenied { topic, rule } => write!(f, "publish to {topic:?} denied: {rule}"),
            Self::ControlRefused { reason } => {
                write!(
                    f,
                    "a command, configuration or state was refused ({reason}), which MQTT 3.1.1 cannot say"
                )
            }
            Self::SubscribeDenied { filter, rule } => write!(f, "subscription to {filter:?} denied: {rule}"),
            Self::WillDenied { topic, rule } => write!(f, "the will on {topic:?} is denied: {rule}"),
            Self::FellBehind { waiting } => write!(
                f,
                "{waiting} messages wait for the client, and there is no room for more; \
                 acknowledge faster or raise `messages.queue_messages_max` and `messages.queue_bytes_max`"
            ),
            Self::StorageFull => f.write_str(
                "nothing can be stored for now, and so much waits for that already that no more is taken; \
                 make room on the disk of the messages",
            ),
            Self::SubscriptionRefused { filter, why } => {
                write!(f, "subscription to {filter:?} refused: {why}")
            }
            Self::RetainedFull { topic, bytes_max } => write!(
                f,
                "the message on {topic:?} was not retained: the registry keeps at most {bytes_max} bytes; \
                 clear retained topics"
            ),
        }
    }
}

/// The reason that a client of MQTT 5 is given in DISCONNECT when the server ends its session.
///
/// An expired right is 0x87 Not authorized (RFC 9431 section 2.2.4), not 0xA0 Maximum connect time,
/// which says that the same credential would do again.
pub(crate) fn disconnect_reason(what: &What) -> ReasonCode {
    match what {
        What::ProtocolFault(fault) => fault.reason_code(),
        What::KeepAliveTimeout { .. } => ReasonCode::KeepAliveTimeout,
        What::Ended(EndedWhy::Operator) | What::PolicyChanged => ReasonCode::AdministrativeAction,
        What::ShuttingDown => ReasonCode::ServerShuttingDown,
        What::TakenOver => ReasonCode::SessionTakenOver,
        What::FellBehind { .. } => ReasonCode::QuotaExceeded,
        _ => ReasonCode::NotAuthorized,
    }
}
