//! Reason codes, and what 3.1.1 has in their place.

use std::fmt;

use super::PacketType;

macro_rules! reason_codes {
    ($($name:ident = $byte:literal, $text:literal, [$($packet:ident)*];)*) => {
        /// A reason code of MQTT 5.0.
        ///
        /// Source: MQTT 5.0 section 2.4, table 2-6.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum ReasonCode {
            $(#[doc = concat!($text, ".")] $name = $byte,)*
        }

        impl ReasonCode {
            /// Every reason code, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The reason code that a byte stands for, if it stands for one.
            #[must_use]
            pub fn from_byte(byte: u8) -> Option<Self> {
                match byte {
                    $($byte => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// Its words in the standard.
            #[must_use]
            pub fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// Whether the table lists it for `packet`.
            #[must_use]
            pub fn belongs_in(self, packet: PacketType) -> bool {
                match self { $(Self::$name => matches!(packet, $(PacketType::$packet)|*),)* }
            }
        }
    };
}

reason_codes! {
    Success = 0x00, "Success", [ConnAck PubAck PubRec PubRel PubComp SubAck UnsubAck Disconnect Auth];
    GrantedQos1 = 0x01, "Granted QoS 1", [SubAck];
    GrantedQos2 = 0x02, "Granted QoS 2", [SubAck];
    DisconnectWithWill = 0x04, "Disconnect with Will Message", [Disconnect];
    NoMatchingSubscribers = 0x10, "No matching subscribers", [PubAck PubRec];
    NoSubscriptionExisted = 0x11, "No subscription existed", [UnsubAck];
    ContinueAuthentication = 0x18, "Continue authentication", [Auth];
    ReAuthenticate = 0x19, "Re-authenticate", [Auth];
    UnspecifiedError = 0x80, "Unspecified error", [ConnAck PubAck PubRec SubAck UnsubAck Disconnect];
    MalformedPacket = 0x81, "Malformed Packet", [ConnAck Disconnect];
    ProtocolError = 0x82, "Protocol Error", [ConnAck Disconnect];
    ImplementationSpecificError = 0x83, "Implementation specific error", [ConnAck PubAck PubRec SubAck UnsubAck Disconnect];
    UnsupportedProtocolVersion = 0x84, "Unsupported Protocol Version", [ConnAck];
    ClientIdentifierNotValid = 0x85, "Client Identifier not valid", [ConnAck];
    BadUserNameOrPassword = 0x86, "Bad User Name or Password", [ConnAck];
    NotAuthorized = 0x87, "Not authorized", [ConnAck PubAck PubRec SubAck UnsubAck Disconnect];
    ServerUnavailable = 0x88, "Server unavailable", [ConnAck];
    ServerBusy = 0x89, "Server busy", [ConnAck Disconnect];
    Banned = 0x8A, "Banned", [ConnAck];
    ServerShuttingDown = 0x8B, "Server shutting down", [Disconnect];
    BadAuthenticationMethod = 0x8C, "Bad authentication method", [ConnAck Disconnect];
    KeepAliveTimeout = 0x8D, "Keep Alive timeout", [Disconnect];
    SessionTakenOver = 0x8E, "Session taken over", [Disconnect];
    TopicFilterInvalid = 0x8F, "Topic Filter invalid", [SubAck UnsubAck Disconnect];
    TopicNameInvalid = 0x90, "Topic Name invalid", [ConnAck PubAck PubRec Disconnect];
    PacketIdentifierInUse = 0x91, "Packet Identifier in use", [PubAck PubRec SubAck UnsubAck];
    PacketIdentifierNotFound = 0x92, "Packet Identifier not found", [PubRel PubComp];
    ReceiveMaximumExceeded = 0x93, "Receive Maximum exceeded", [Disconnect];
    TopicAliasInvalid = 0x94, "Topic Alias invalid", [Disconnect];
    PacketTooLarge = 0x95, "Packet too large", [ConnAck Disconnect];
    MessageRateTooHigh = 0x96, "Message rate too high", [Disconnect];
    QuotaExceeded = 0x97, "Quota exceeded", [ConnAck PubAck PubRec SubAck Disconnect];
    AdministrativeAction = 0x98, "Administrative action", [Disconnect];
    PayloadFormatInvalid = 0x99, "Payload format invalid", [ConnAck PubAck PubRec Disconnect];
    RetainNotSupported = 0x9A, "Retain not supported", [ConnAck Disconnect];
    QosNotSupported = 0x9B, "QoS not supported", [ConnAck Disconnect];
    UseAnotherServer = 0x9C, "Use another server", [ConnAck Disconnect];
    ServerMoved = 0x9D, "Server moved", [ConnAck Disconnect];
    SharedSubscriptionsNotSupported = 0x9E, "Shared Subscriptions not supported", [SubAck Disconnect];
    ConnectionRateExceeded = 0x9F, "Connection rate exceeded", [ConnAck Disconnect];
    MaximumConnectTime = 0xA0, "Maximum connect time", [Disconnect];
    SubscriptionIdentifiersNotSupported = 0xA1, "Subscription Identifiers not supported", [SubAck Disconnect];
    WildcardSubscriptionsNotSupported = 0xA2, "Wildcard Subscriptions not supported", [SubAck Disconnect];
}

impl ReasonCode {
    /// What 0x00 is called in a DISCONNECT.
    pub const NORMAL_DISCONNECTION: Self = Self::Success;
    /// What 0x00 is called in a SUBACK.
    pub const GRANTED_QOS_0: Self = Self::Success;

    /// Its byte on the wire.
    #[must_use]
    pub fn byte(self) -> u8 {
        self as u8
    }

    /// Whether it is a refusal (0x80 and above).
    #[must_use]
    pub fn is_error(self) -> bool {
        self.byte() >= 0x80
    }

    /// The CONNACK return code of 3.1.1 that comes nearest; `None` where 3.1.1 has none and closes the
    /// connection without an answer.
    ///
    /// Source: MQTT 3.1.1 section 3.2.2.3, table 3.1.
    #[must_use]
    pub fn connack_return_code_v311(self) -> Option<u8> {
        match self {
            Self::Success => Some(0),
            Self::UnsupportedProtocolVersion => Some(1),
            Self::ClientIdentifierNotValid => Some(2),
            Self::UnspecifiedError
            | Self::ImplementationSpecificError
            | Self::ServerUnavailable
            | Self::ServerBusy
            | Self::QuotaExceeded
            | Self::UseAnotherServer
            | Self::ServerMoved
            | Self::ConnectionRateExceeded => Some(3),
            Self::BadUserNameOrPassword => Some(4),
            Self::NotAuthorized
            | Self::Banned
            | Self::BadAuthenticationMethod
            // The will is refused.
            | Self::TopicNameInvalid
            | Self::PayloadFormatInvalid
            | Self::RetainNotSupported
            | Self::QosNotSupported => Some(5),
            _ => None,
        }
    }

    /// The reason code that a CONNACK return code of 3.1.1 stands for.
    ///
    /// Source: MQTT 3.1.1 section 3.2.2.3, table 3.1.
    #[must_use]
    pub fn from_connack_return_code_v311(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Success),
            1 => Some(Self::UnsupportedProtocolVersion),
            2 => Some(Self::ClientIdentifierNotValid),
            3 => Some(Self::ServerUnavailable),
            4 => Some(Self::BadUserNameOrPassword),
            5 => Some(Self::NotAuthorized),
            _ => None,
        }
    }

    /// The SUBACK return code of 3.1.1: the granted QoS, or 0x80 for every refusal.
    ///
    /// Source: [MQTT-3.9.3-2] (3.1.1).
    #[must_use]
    pub fn suback_return_code_v311(self) -> u8 {
        if self.is_error() { 0x80 } else { self.byte() }
    }
}

impl fmt::Display for ReasonCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#04x} {}", self.byte(), self.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_code_survives_its_byte_and_belongs_somewhere() {
        assert_eq!(ReasonCode::ALL.len(), 43);
        for &code in ReasonCode::ALL {
            assert_eq!(ReasonCode::from_byte(code.byte()), Some(code));
            assert!(PacketType::ALL.iter().any(|&packet| code.belongs_in(packet)), "{code}");
        }
        let known = (0..=255).filter(|&byte| ReasonCode::from_byte(byte).is_some()).count();
        assert_eq!(known, ReasonCode::ALL.len());
    }

    #[test]
    fn return_codes_of_3_1_1_survive_the_way_through_reason_codes() {
        for byte in 0..=5 {
            let code = ReasonCode::from_connack_return_code_v311(byte).expect("six codes exist");
            assert_eq!(code.connack_return_code_v311(), Some(byte));
        }
        assert_eq!(ReasonCode::from_connack_return_code_v311(6), None);
        assert_eq!(ReasonCode::MalformedPacket.connack_return_code_v311(), None);
    }
}
