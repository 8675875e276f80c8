//! Why a connection must end, and how that is called on the wire and in the log.

use crate::codec::{DecodeError, ReasonCode};

/// Why a connection cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Not MQTT.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// [MQTT-3.3.4-7] (5.0).
    #[error(
        "more than {receive_maximum} messages at QoS 1 and 2 came before they were answered; wait for PUBACK or PUBCOMP"
    )]
    ReceiveMaximumExceeded {
        /// The limit said in CONNACK.
        receive_maximum: u16,
    },
    /// [MQTT-3.3.2-9] (5.0).
    #[error("topic alias {found} is above the maximum of {max}; use 1 to {max}, or none")]
    TopicAliasTooLarge {
        /// The alias.
        found: u16,
        /// The limit said in CONNACK.
        max: u16,
    },
    /// MQTT 5.0 3.3.2.3.4: it stands for nothing yet.
    #[error("topic alias {found} was never defined; send it once together with its topic")]
    TopicAliasUnknown {
        /// The alias.
        found: u16,
    },
    /// MQTT 5.0 4.12: AUTH without an authentication method in CONNECT is a protocol error.
    #[error("AUTH came, but CONNECT named no authentication method; connect with one or leave AUTH out")]
    AuthUnexpected,
    /// MQTT 5.0 4.12, 4.12.1: another method than that of CONNECT, a second re-authentication before the end of
    /// the first, or an answer that nobody asked for.
    #[error(
        "AUTH came out of turn; repeat the method of CONNECT, answer only what was asked, and re-authenticate \
         again only when the last time is over"
    )]
    AuthOutOfTurn,
    /// [MQTT-3.1.2-30] (5.0).
    #[error("another packet than AUTH or DISCONNECT came before CONNACK; answer the challenge first")]
    AuthAwaited,
    /// MQTT 5.0 3.14.2.2.2: a session that was to end with its connection cannot be kept after all.
    #[error("DISCONNECT sets a session expiry of {found_s} s after CONNECT had set none; set one in CONNECT")]
    SessionExpirySetLate {
        /// What DISCONNECT says.
        found_s: u32,
    },
}

impl Fault {
    /// What CONNACK or DISCONNECT of MQTT 5 says of it.
    #[must_use]
    pub fn reason_code(&self) -> ReasonCode {
        match self {
            Self::Decode(error) => error.reason_code(),
            Self::ReceiveMaximumExceeded { .. } => ReasonCode::ReceiveMaximumExceeded,
            Self::TopicAliasTooLarge { .. } => ReasonCode::TopicAliasInvalid,
            Self::TopicAliasUnknown { .. }
            | Self::AuthUnexpected
            | Self::AuthOutOfTurn
            | Self::AuthAwaited
            | Self::SessionExpirySetLate { .. } => ReasonCode::ProtocolError,
        }
    }

    /// Stable code; the table is `docs/errors.md`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.row().0
    }

    /// Stable word; the table is `docs/errors.md`.
    #[must_use]
    pub fn word(&self) -> &'static str {
        self.row().1
    }

    fn row(&self) -> (&'static str, &'static str) {
        match self {
            Self::Decode(error) => (error.code(), error.word()),
            Self::ReceiveMaximumExceeded { .. } => ("DB-2021", "mqtt-receive-maximum-exceeded"),
            Self::TopicAliasTooLarge { .. } | Self::TopicAliasUnknown { .. } => {
                ("DB-2022", "mqtt-topic-alias-invalid")
            }
            Self::AuthUnexpected => ("DB-2023", "mqtt-auth-unexpected"),
            Self::AuthOutOfTurn | Self::AuthAwaited => ("DB-2026", "mqtt-auth-out-of-turn"),
            Self::SessionExpirySetLate { .. } => ("DB-2025", "mqtt-session-expiry-set-late"),
        }
    }
}
