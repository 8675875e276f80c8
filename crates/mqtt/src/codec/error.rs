//! Why bytes are no packet, and why a packet cannot become bytes.

use super::{PacketType, PropertyId, ReasonCode, Side};

/// Why bytes are refused. After one of these the connection ends: where the next packet begins is
/// no longer known for certain.
///
/// `at` counts bytes within the string named by `field`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's text says what it is; the fields are its words")]
pub enum DecodeError {
    #[error("the {field} of {packet} runs over four bytes; send a packet of at most 268435455 bytes")]
    LengthOverlong { packet: PacketType, field: &'static str },
    #[error(
        "the {field} of {packet} takes {found_bytes} bytes, more than its value needs; encode it in the fewest bytes"
    )]
    LengthNotMinimal { packet: PacketType, field: &'static str, found_bytes: usize },
    #[error("{packet} has {found_bytes} bytes, at most {max_bytes} are accepted here; send a smaller packet")]
    PacketTooLarge { packet: PacketType, found_bytes: usize, max_bytes: usize },
    #[error("{packet} has the flags {found:#06b}, wanted {wanted:#06b}; the reserved bits must be so")]
    ReservedFlags { packet: PacketType, found: u8, wanted: u8 },
    #[error("the first packet has type {found_type}, wanted CONNECT (1); connect first")]
    FirstPacketNotConnect { found_type: u8 },
    #[error("a second CONNECT came on one connection; open a new connection instead")]
    ConnectRepeated,
    #[error("packet type {found_type} does not exist in this version of MQTT; use one that does")]
    PacketTypeReserved { found_type: u8 },
    #[error("{packet} came {side}, which may not send it")]
    WrongDirection { packet: PacketType, side: Side },
    #[error("{packet} ends within its {field}; the lengths inside must fit the remaining length")]
    Truncated { packet: PacketType, field: &'static str },
    #[error("{packet} has {found_bytes} bytes after its last field; the remaining length must end with it")]
    TrailingBytes { packet: PacketType, found_bytes: usize },
    #[error("the {field} of {packet} is not UTF-8 at byte {at}; encode it as UTF-8")]
    StringIllFormed { packet: PacketType, field: &'static str, at: usize },
    #[error("the {field} of {packet} has NUL at byte {at}; remove it")]
    StringNul { packet: PacketType, field: &'static str, at: usize },
    #[error("the {field} of {packet} has the control character {found:?} at byte {at}; remove it")]
    StringControl { packet: PacketType, field: &'static str, found: char, at: usize },
    #[error("CONNECT names another protocol, wanted \"MQTT\"")]
    ProtocolName,
    #[error("CONNECT asks for protocol level {found}, wanted 4 (MQTT 3.1.1) or 5 (MQTT 5.0)")]
    UnsupportedVersion { found: u8 },
    #[error("CONNECT has its reserved flag set; it must be 0")]
    ConnectFlagReserved,
    #[error("CONNECT has will QoS or will retain set without a will; set the will flag or clear both")]
    WillFlagsWithoutWill,
    #[error("CONNECT has the will QoS 3; wanted 0, 1 or 2")]
    WillQosThree,
    #[error(
        "CONNECT has a password without a user name, which MQTT 3.1.1 forbids; send a user name or use MQTT 5"
    )]
    PasswordWithoutUserName,
    #[error("CONNACK has the flags {found:#010b}, wanted only bit 0 (session present)")]
    ConnAckFlags { found: u8 },
    #[error("CONNACK refuses and says that a session is present; both cannot be")]
    SessionPresentOnRefusal,
    #[error("{packet} has the packet identifier 0; use 1 to 65535")]
    PacketIdZero { packet: PacketType },
    #[error("PUBLISH has QoS 3; wanted 0, 1 or 2")]
    QosThree,
    #[error("PUBLISH has DUP set at QoS 0; what is not acknowledged is not sent again")]
    DupAtQosZero,
    #[error("the {field} of {packet} is empty; name a topic{}", if *.alias_would_do { " or a topic alias" } else { "" })]
    TopicMissing { packet: PacketType, field: &'static str, alias_would_do: bool },
    #[error(
        "the {field} of {packet} has the wildcard {found:?} at byte {at}; only a subscription may use wildcards"
    )]
    TopicWildcard { packet: PacketType, field: &'static str, found: char, at: usize },
    #[error("{packet} has the property {found:#04x}, which does not exist; remove it")]
    PropertyUnknown { packet: PacketType, found: u8 },
    #[error("{packet} has the property {property}, which does not belong there; remove it")]
    PropertyMisplaced { packet: PacketType, property: PropertyId },
    #[error("{packet} came {side} with the property {property}, which only the other side may send")]
    PropertyWrongDirection { packet: PacketType, property: PropertyId, side: Side },
    #[error("{packet} has the property {property} more than once; send it once")]
    PropertyRepeated { packet: PacketType, property: PropertyId },
    #[error("{packet} has the property {property} with the value {found}, wanted {wanted}")]
    PropertyValue { packet: PacketType, property: PropertyId, found: u32, wanted: &'static str },
    #[error("{packet} has authentication data without an authentication method; name the method")]
    AuthenticationDataWithoutMethod { packet: PacketType },
    #[error("AUTH names no authentication method; repeat the one of CONNECT")]
    AuthenticationMethodMissing,
    #[error("{packet} lists nothing; wanted at least one entry")]
    EmptyList { packet: PacketType },
    #[error("SUBSCRIBE has reserved bits set in the options {found:#010b}; they must be 0")]
    SubscriptionOptionsReserved { found: u8 },
    #[error("SUBSCRIBE asks for QoS 3; wanted 0, 1 or 2")]
    SubscriptionQosThree,
    #[error("SUBSCRIBE has the retain handling 3; wanted 0, 1 or 2")]
    RetainHandlingThree,
    #[error("SUBSCRIBE has No Local on a shared subscription; clear one of the two")]
    NoLocalOnShared,
    #[error("{packet} has the reason code {found:#04x}, which does not belong there")]
    ReasonCodeMisplaced { packet: PacketType, found: u8 },
}

impl DecodeError {
    /// What a CONNACK or DISCONNECT of MQTT 5 says of it.
    ///
    /// Source: MQTT 5.0 sections 2.4 and 4.13.1.
    #[must_use]
    pub fn reason_code(&self) -> ReasonCode {
        match self {
            Self::PacketTooLarge { .. } => ReasonCode::PacketTooLarge,
            Self::ProtocolName | Self::UnsupportedVersion { .. } => ReasonCode::UnsupportedProtocolVersion,
            Self::PropertyValue { property: PropertyId::TopicAlias, .. } => ReasonCode::TopicAliasInvalid,
            Self::FirstPacketNotConnect { .. }
            | Self::ConnectRepeated
            | Self::WrongDirection { .. }
            | Self::PacketIdZero { .. }
            | Self::DupAtQosZero
            | Self::TopicMissing { .. }
            | Self::PropertyWrongDirection { .. }
            | Self::PropertyRepeated { .. }
            | Self::PropertyValue { .. }
            | Self::AuthenticationDataWithoutMethod { .. }
            | Self::AuthenticationMethodMissing
            | Self::EmptyList { .. }
            | Self::SubscriptionQosThree
            | Self::RetainHandlingThree
            | Self::NoLocalOnShared
            | Self::SessionPresentOnRefusal
            | Self::ReasonCodeMisplaced { .. } => ReasonCode::ProtocolError,
            Self::LengthOverlong { .. }
            | Self::LengthNotMinimal { .. }
            | Self::ReservedFlags { .. }
            | Self::PacketTypeReserved { .. }
            | Self::Truncated { .. }
            | Self::TrailingBytes { .. }
            | Self::StringIllFormed { .. }
            | Self::StringNul { .. }
            | Self::StringControl { .. }
            | Self::ConnectFlagReserved
            | Self::WillFlagsWithoutWill
            | Self::WillQosThree
            | Self::PasswordWithoutUserName
            | Self::ConnAckFlags { .. }
            | Self::QosThree
            | Self::TopicWildcard { .. }
            | Self::PropertyUnknown { .. }
            | Self::PropertyMisplaced { .. }
            | Self::SubscriptionOptionsReserved { .. } => ReasonCode::MalformedPacket,
        }
    }

    /// The statement of the standard that forbids it, with the version that numbers it so; a section
    /// where the standard gives no number.
    #[must_use]
    pub fn statement(&self) -> &'static str {
        match self {
            Self::LengthOverlong { .. } => "MQTT 5.0 section 1.5.5; MQTT 3.1.1 section 2.2.3",
            Self::LengthNotMinimal { .. } => "[MQTT-1.5.5-1] (5.0); MQTT 3.1.1 section 2.2.3, table 2.4",
            Self::PacketTooLarge { .. } => "MQTT 5.0 section 3.2.2.3.6; a limit of this receiver in 3.1.1",
            Self::ReservedFlags { .. } => "[MQTT-2.1.3-1] (5.0); [MQTT-2.2.2-2] (3.1.1)",
            Self::FirstPacketNotConnect { .. } => "[MQTT-3.1.0-1] (both versions)",
            Self::ConnectRepeated => "[MQTT-3.1.0-2] (both versions)",
            Self::PacketTypeReserved { .. } | Self::WrongDirection { .. } => {
                "MQTT 5.0 section 2.1.2; MQTT 3.1.1 section 2.2.1"
            }
            Self::Truncated { .. } | Self::TrailingBytes { .. } => {
                "MQTT 5.0 section 2.1.4; MQTT 3.1.1 section 2.2.3"
            }
            Self::StringIllFormed { .. } => "[MQTT-1.5.4-1] (5.0); [MQTT-1.5.3-1] (3.1.1)",
            Self::StringNul { .. } => "[MQTT-1.5.4-2] (5.0); [MQTT-1.5.3-2] (3.1.1)",
            Self::StringControl { .. } => "MQTT 5.0 section 1.5.4; MQTT 3.1.1 section 1.5.3",
            Self::ProtocolName => "[MQTT-3.1.2-1] (both versions)",
            Self::UnsupportedVersion { .. } => "[MQTT-3.1.2-2] (both versions)",
            Self::ConnectFlagReserved => "[MQTT-3.1.2-3] (both versions)",
            Self::WillFlagsWithoutWill => {
                "[MQTT-3.1.2-11], [MQTT-3.1.2-13] (5.0); [MQTT-3.1.2-13], [MQTT-3.1.2-15] (3.1.1)"
            }
            Self::WillQosThree => "[MQTT-3.1.2-12] (5.0); [MQTT-3.1.2-14] (3.1.1)",
            Self::PasswordWithoutUserName => "[MQTT-3.1.2-22] (3.1.1)",
            Self::ConnAckFlags { .. } => "[MQTT-3.2.2-1] (5.0); MQTT 3.1.1 section 3.2.2.1",
            Self::SessionPresentOnRefusal => "[MQTT-3.2.2-6] (5.0); [MQTT-3.2.2-4] (3.1.1)",
            Self::PacketIdZero { .. } => "[MQTT-2.2.1-3], [MQTT-2.2.1-4] (5.0); [MQTT-2.3.1-1] (3.1.1)",
            Self::QosThree => "[MQTT-3.3.1-4] (both versions)",
            Self::DupAtQosZero => "[MQTT-3.3.1-2] (both versions)",
            Self::TopicMissing { .. } => "[MQTT-4.7.3-1] (both versions); MQTT 5.0 section 3.3.2.1",
            Self::TopicWildcard { field: "response topic", .. } => "[MQTT-3.3.2-14] (5.0)",
            Self::TopicWildcard { .. } => "[MQTT-3.3.2-2] (both versions)",
            Self::PropertyUnknown { .. } | Self::PropertyMisplaced { .. } => "MQTT 5.0 section 2.2.2.2",
            Self::PropertyWrongDirection { property: PropertyId::SubscriptionIdentifier, .. } => {
                "[MQTT-3.3.4-6] (5.0)"
            }
            Self::PropertyWrongDirection { .. } => "[MQTT-3.14.2-2] (5.0)",
            Self::PropertyValue { property: PropertyId::TopicAlias, .. } => "[MQTT-3.3.2-8] (5.0)",
            Self::PropertyRepeated { .. } | Self::PropertyValue { .. } => {
                "MQTT 5.0, the section of the property in the section of the packet"
            }
            Self::AuthenticationDataWithoutMethod { .. } => "MQTT 5.0 sections 3.1.2.11.10 and 3.2.2.3.18",
            Self::AuthenticationMethodMissing => "MQTT 5.0 section 3.15.2.2.2",
            Self::EmptyList { packet: PacketType::Subscribe } => {
                "[MQTT-3.8.3-2] (5.0); [MQTT-3.8.3-3] (3.1.1)"
            }
            Self::EmptyList { packet: PacketType::Unsubscribe } => "[MQTT-3.10.3-2] (both versions)",
            Self::EmptyList { .. } => "MQTT 5.0 sections 3.9.3 and 3.11.3; MQTT 3.1.1 section 3.9.3",
            Self::SubscriptionOptionsReserved { .. } => "[MQTT-3.8.3-5] (5.0); [MQTT-3-8.3-4] (3.1.1)",
            Self::SubscriptionQosThree => "MQTT 5.0 section 3.8.3.1; [MQTT-3-8.3-4] (3.1.1)",
            Self::RetainHandlingThree => "MQTT 5.0 section 3.8.3.1",
            Self::NoLocalOnShared => "[MQTT-3.8.3-4] (5.0)",
            Self::ReasonCodeMisplaced { .. } => {
                "MQTT 5.0 section 2.4, table 2-6; MQTT 3.1.1 sections 3.2.2.3 and 3.9.3"
            }
        }
    }

    /// Stable code of the refusal; the table is `docs/errors.md`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.row().0
    }

    /// Stable word of the refusal; the table is `docs/errors.md`.
    #[must_use]
    pub fn word(&self) -> &'static str {
        self.row().1
    }

    fn row(&self) -> (&'static str, &'static str) {
        match self {
            Self::LengthOverlong { .. } | Self::LengthNotMinimal { .. } => {
                ("DB-2000", "mqtt-length-malformed")
            }
            Self::PacketTooLarge { .. } => ("DB-2001", "mqtt-packet-too-large"),
            Self::ReservedFlags { .. } => ("DB-2002", "mqtt-reserved-flags"),
            Self::FirstPacketNotConnect { .. }
            | Self::ConnectRepeated
            | Self::PacketTypeReserved { .. }
            | Self::WrongDirection { .. } => ("DB-2003", "mqtt-unexpected-packet"),
            Self::Truncated { .. } => ("DB-2004", "mqtt-packet-truncated"),
            Self::TrailingBytes { .. } => ("DB-2005", "mqtt-trailing-bytes"),
            Self::StringIllFormed { .. } | Self::StringNul { .. } | Self::StringControl { .. } => {
                ("DB-2006", "mqtt-string-malformed")
            }
            Self::ProtocolName | Self::UnsupportedVersion { .. } => ("DB-2007", "mqtt-unsupported-version"),
            Self::ConnectFlagReserved
            | Self::WillFlagsWithoutWill
            | Self::WillQosThree
            | Self::PasswordWithoutUserName
            | Self::ConnAckFlags { .. }
            | Self::SessionPresentOnRefusal => ("DB-2008", "mqtt-connect-flags"),
            Self::PacketIdZero { .. } => ("DB-2009", "mqtt-packet-id-zero"),
            Self::QosThree | Self::DupAtQosZero => ("DB-2010", "mqtt-publish-flags"),
            Self::TopicMissing { .. } | Self::TopicWildcard { .. } => ("DB-2011", "mqtt-topic-malformed"),
            Self::PropertyUnknown { .. }
            | Self::PropertyMisplaced { .. }
            | Self::PropertyWrongDirection { .. } => ("DB-2012", "mqtt-property-misplaced"),
            Self::PropertyRepeated { .. } => ("DB-2013", "mqtt-property-repeated"),
            Self::PropertyValue { .. } => ("DB-2014", "mqtt-property-value"),
            Self::AuthenticationDataWithoutMethod { .. } | Self::AuthenticationMethodMissing => {
                ("DB-2015", "mqtt-authentication-method-missing")
            }
            Self::EmptyList { .. } => ("DB-2016", "mqtt-empty-list"),
            Self::SubscriptionOptionsReserved { .. }
            | Self::SubscriptionQosThree
            | Self::RetainHandlingThree
            | Self::NoLocalOnShared => ("DB-2017", "mqtt-subscription-options"),
            Self::ReasonCodeMisplaced { .. } => ("DB-2018", "mqtt-reason-code-misplaced"),
        }
    }
}

/// Why a packet cannot become bytes: a mistake of whoever built it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's text says what it is; the fields are its words")]
pub enum EncodeError {
    #[error("the packet would have {found_bytes} bytes, at most 268435455 can be said; send less")]
    TooLarge { found_bytes: usize },
    #[error("the {field} has {found_bytes} bytes, at most 65535 can be said; shorten it")]
    FieldTooLong { field: &'static str, found_bytes: usize },
    #[error("the {field} has the control character {found:?} at byte {at}; remove it")]
    StringControl { field: &'static str, found: char, at: usize },
    #[error("{packet} does not exist in MQTT 3.1.1; use MQTT 5")]
    NotInVersion { packet: PacketType },
    #[error("{packet} lists nothing; wanted at least one entry")]
    EmptyList { packet: PacketType },
    #[error("PUBLISH at QoS 1 or 2 has no packet identifier; assign one")]
    PacketIdMissing,
    #[error("PUBLISH at QoS 0 has a packet identifier; leave it out")]
    PacketIdAtQosZero,
    #[error("PUBLISH has DUP set at QoS 0; what is not acknowledged is not sent again")]
    DupAtQosZero,
    #[error("PUBLISH names neither a topic nor (in MQTT 5) a topic alias; name one")]
    TopicMissing,
    #[error(
        "CONNECT has a password without a user name, which MQTT 3.1.1 forbids; add a user name or use MQTT 5"
    )]
    PasswordWithoutUserName,
    #[error("{packet} has authentication data without an authentication method; name the method")]
    AuthenticationDataWithoutMethod { packet: PacketType },
    #[error("AUTH names no authentication method; repeat the one of CONNECT")]
    AuthenticationMethodMissing,
    #[error("{packet} cannot carry the reason code {found}; use one that belongs there")]
    ReasonCodeMisplaced { packet: PacketType, found: ReasonCode },
    #[error("CONNACK refuses and says that a session is present; both cannot be")]
    SessionPresentOnRefusal,
    #[error("CONNACK limits to QoS 2, which is said by leaving the limit out")]
    MaximumQosTwo,
    #[error("SUBSCRIBE has No Local on a shared subscription; clear one of the two")]
    NoLocalOnShared,
    #[error("the {field} holds {found}, which no variable byte integer can say")]
    VariableTooLarge { field: &'static str, found: u32 },
}

impl EncodeError {
    /// Stable code; the table is `docs/errors.md`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        "DB-2019"
    }

    /// Stable word; the table is `docs/errors.md`.
    #[must_use]
    pub fn word(&self) -> &'static str {
        "mqtt-unencodable"
    }
}
