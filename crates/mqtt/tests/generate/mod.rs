//! Packets from a seed: every kind, every field, both versions; each of them legal.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::num::{NonZeroU16, NonZeroU32};

use drawbridge_mqtt::codec::{
    Ack, Auth, ConnAck, ConnAckProperties, Connect, ConnectProperties, Disconnect, Packet, PacketId,
    PacketType, ProtocolVersion, Publish, PublishProperties, Qos, ReasonCode, RetainHandling, Side, SubAck,
    Subscribe, SubscribeEntry, SubscriptionIdentifiers, UnsubAck, Unsubscribe, UserProperties, Will,
    WillProperties,
};
use drawbridge_names::TopicName;

/// Strings are cut out of it: ASCII, two, three and four bytes a character.
const TEXT: &str =
    "devices/thermo-7/events/température/ñ/日本語/x y/🌡️/state Ünïcödé $share tail\u{a0}\u{fffd}";

/// Payloads are cut out of it.
static BYTES: [u8; 40_000] = {
    let mut bytes = [0; 40_000];
    let mut at = 0;
    while at < bytes.len() {
        bytes[at] = (at * 7 % 256) as u8;
        at += 1;
    }
    bytes
};

static PAIRS: [(&str, &str); 4] = [("unit", "°C"), ("", ""), ("unit", "K"), ("trace", "00-ab-cd-01")];

static IDENTIFIERS: [NonZeroU32; 4] = [
    NonZeroU32::MIN,
    NonZeroU32::new(127).expect("not 0"),
    NonZeroU32::new(16_384).expect("not 0"),
    NonZeroU32::new(268_435_455).expect("not 0"),
];

/// A seeded source of choices (splitmix64).
pub struct Draw(pub u64);

impl Draw {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("below a usize")
    }

    pub fn flip(&mut self) -> bool {
        self.next() & 1 == 1
    }

    fn maybe<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        if self.flip() { Some(make(self)) } else { None }
    }

    fn u16(&mut self) -> u16 {
        [0, 1, 255, 256, 65_535, self.next() as u16][self.below(6)]
    }

    fn u32(&mut self) -> u32 {
        [0, 1, 65_536, u32::MAX, self.next() as u32][self.below(5)]
    }

    fn nonzero_u16(&mut self) -> NonZeroU16 {
        NonZeroU16::new(self.u16()).unwrap_or(NonZeroU16::MIN)
    }

    fn nonzero_u32(&mut self) -> NonZeroU32 {
        NonZeroU32::new(self.u32()).unwrap_or(NonZeroU32::MAX)
    }

    fn packet_id(&mut self) -> PacketId {
        PacketId::new(self.nonzero_u16().get()).expect("not 0")
    }

    pub fn text(&mut self) -> &'static str {
        let bounds: Vec<usize> = TEXT.char_indices().map(|(at, _)| at).chain([TEXT.len()]).collect();
        let (one, other) = (self.below(bounds.len()), self.below(bounds.len()));
        &TEXT[bounds[one.min(other)]..bounds[one.max(other)]]
    }

    fn topic(&mut self) -> TopicName<'static> {
        TopicName::parse(self.text()).unwrap_or_else(|_| TopicName::parse("/").expect("a topic"))
    }

    /// Mostly short, so that the test is fast; now and then across the boundaries of the length.
    fn bytes(&mut self) -> &'static [u8] {
        let length = [0, 1, 20, 100, 127, 128, 300, 16_370 + self.below(30), self.below(200)][self.below(9)];
        &BYTES[..length]
    }

    fn payload(&mut self) -> &'static [u8] {
        if self.below(20) == 0 { &BYTES } else { self.bytes() }
    }

    fn users(&mut self) -> UserProperties<'static> {
        UserProperties::of(&PAIRS[..self.below(PAIRS.len() + 1)])
    }

    fn qos(&mut self) -> Qos {
        [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce][self.below(3)]
    }

    fn reason(&mut self, packet: PacketType) -> ReasonCode {
        let fit: Vec<ReasonCode> =
            ReasonCode::ALL.iter().copied().filter(|code| code.belongs_in(packet)).collect();
        fit[self.below(fit.len())]
    }
}

/// The packet of `seed`, the version and the side it is for. 3.1.1 packets have only what 3.1.1 says.
pub fn packet(seed: u64) -> (Packet<'static>, ProtocolVersion, Side) {
    let mut draw = Draw(seed);
    let version = if draw.flip() { ProtocolVersion::V5 } else { ProtocolVersion::V311 };
    let v5 = version == ProtocolVersion::V5;
    let side = if draw.flip() { Side::FromClient } else { Side::FromServer };
    let packet = match (draw.below(9), side) {
        (0 | 1, _) => publish(&mut draw, v5, side),
        (2, _) => {
            let make = [PacketType::PubAck, PacketType::PubRec, PacketType::PubRel, PacketType::PubComp]
                [draw.below(4)];
            ack(&mut draw, v5, make)
        }
        (3, Side::FromClient) => connect(&mut draw, version),
        (3, Side::FromServer) => connack(&mut draw, v5),
        (4, Side::FromClient) => subscribe(&mut draw, v5),
        (4, Side::FromServer) => suback(&mut draw, v5),
        (5, Side::FromClient) => unsubscribe(&mut draw, v5),
        (5, Side::FromServer) => unsuback(&mut draw, v5),
        (6, Side::FromClient) => Packet::PingReq,
        (6, Side::FromServer) => Packet::PingResp,
        (7, _) if v5 || side == Side::FromClient => disconnect(&mut draw, v5, side),
        (8, _) if v5 => auth(&mut draw, side),
        _ => publish(&mut draw, v5, side),
    };
    (packet, version, side)
}

fn publish(draw: &mut Draw, v5: bool, side: Side) -> Packet<'static> {
    let qos = draw.qos();
    let acknowledged = qos != Qos::AtMostOnce;
    let properties = if v5 && draw.flip() { publish_properties(draw, side) } else { Default::default() };
    let topic = if properties.topic_alias.is_some() && draw.flip() { None } else { Some(draw.topic()) };
    Packet::Publish(Publish {
        dup: acknowledged && draw.flip(),
        qos,
        retain: draw.flip(),
        topic,
        packet_id: acknowledged.then(|| draw.packet_id()),
        properties,
        payload: draw.payload(),
    })
}

fn publish_properties(draw: &mut Draw, side: Side) -> PublishProperties<'static> {
    let identifiers = match side {
        Side::FromClient => &[],
        Side::FromServer => &IDENTIFIERS[..draw.below(IDENTIFIERS.len() + 1)],
    };
    PublishProperties {
        payload_format_utf8: draw.maybe(Draw::flip),
        message_expiry_s: draw.maybe(Draw::u32),
        topic_alias: draw.maybe(Draw::nonzero_u16),
        response_topic: draw.maybe(Draw::topic),
        correlation_data: draw.maybe(Draw::bytes),
        user_properties: draw.users(),
        subscription_identifiers: SubscriptionIdentifiers::of(identifiers),
        content_type: draw.maybe(Draw::text),
    }
}

fn ack(draw: &mut Draw, v5: bool, kind: PacketType) -> Packet<'static> {
    let mut ack = Ack::success(draw.packet_id());
    if v5 && draw.flip() {
        ack.reason = draw.reason(kind);
        ack.reason_string = draw.maybe(Draw::text);
        ack.user_properties = draw.users();
    }
    match kind {
        PacketType::PubAck => Packet::PubAck(ack),
        PacketType::PubRec => Packet::PubRec(ack),
        PacketType::PubRel => Packet::PubRel(ack),
        _ => Packet::PubComp(ack),
    }
}

fn connect(draw: &mut Draw, version: ProtocolVersion) -> Packet<'static> {
    let v5 = version == ProtocolVersion::V5;
    let username = draw.maybe(Draw::text);
    let password = if v5 || username.is_some() { draw.maybe(Draw::bytes) } else { None };
    let will = draw.maybe(|draw| Will {
        topic: draw.topic(),
        payload: draw.bytes(),
        qos: draw.qos(),
        retain: draw.flip(),
        properties: if v5 { will_properties(draw) } else { WillProperties::default() },
    });
    let mut properties = ConnectProperties::default();
    if v5 && draw.flip() {
        let method = draw.maybe(Draw::text);
        properties = ConnectProperties {
            session_expiry_s: draw.maybe(Draw::u32),
            receive_maximum: draw.maybe(Draw::nonzero_u16),
            maximum_packet_size: draw.maybe(Draw::nonzero_u32),
            topic_alias_maximum: draw.maybe(Draw::u16),
            request_response_information: draw.flip(),
            request_problem_information: draw.flip(),
            user_properties: draw.users(),
            authentication_method: method,
            authentication_data: if method.is_some() { draw.maybe(Draw::bytes) } else { None },
        };
    }
    Packet::from(Connect {
        version,
        clean_start: draw.flip(),
        keep_alive_s: draw.u16(),
        client_id: draw.text(),
        username,
        password,
        will,
        properties,
    })
}

fn will_properties(draw: &mut Draw) -> WillProperties<'static> {
    WillProperties {
        delay_s: draw.maybe(Draw::u32),
        payload_format_utf8: draw.maybe(Draw::flip),
        message_expiry_s: draw.maybe(Draw::u32),
        content_type: draw.maybe(Draw::text),
        response_topic: draw.maybe(Draw::topic),
        correlation_data: draw.maybe(Draw::bytes),
        user_properties: draw.users(),
    }
}

fn connack(draw: &mut Draw, v5: bool) -> Packet<'static> {
    let reason = match v5 {
        true => draw.reason(PacketType::ConnAck),
        false => ReasonCode::from_connack_return_code_v311(draw.below(6) as u8).expect("six exist"),
    };
    let mut properties = ConnAckProperties::default();
    if v5 && draw.flip() {
        let method = draw.maybe(Draw::text);
        properties = ConnAckProperties {
            session_expiry_s: draw.maybe(Draw::u32),
            receive_maximum: draw.maybe(Draw::nonzero_u16),
            maximum_qos: draw.maybe(|draw| [Qos::AtMostOnce, Qos::AtLeastOnce][draw.below(2)]),
            retain_available: draw.maybe(Draw::flip),
            maximum_packet_size: draw.maybe(Draw::nonzero_u32),
            assigned_client_id: draw.maybe(Draw::text),
            topic_alias_maximum: draw.maybe(Draw::u16),
            reason_string: draw.maybe(Draw::text),
            user_properties: draw.users(),
            wildcard_subscription_available: draw.maybe(Draw::flip),
            subscription_identifiers_available: draw.maybe(Draw::flip),
            shared_subscription_available: draw.maybe(Draw::flip),
            server_keep_alive_s: draw.maybe(Draw::u16),
            response_information: draw.maybe(Draw::text),
            server_reference: draw.maybe(Draw::text),
            authentication_method: method,
            authentication_data: if method.is_some() { draw.maybe(Draw::bytes) } else { None },
        };
    }
    Packet::ConnAck(ConnAck { session_present: !reason.is_error() && draw.flip(), reason, properties })
}

fn subscribe(draw: &mut Draw, v5: bool) -> Packet<'static> {
    let filters = ["devices/+/state", "#", "", "a#b", "$share/g/x", "日本/+"];
    let entries = (0..=draw.below(4))
        .map(|_| {
            let filter = filters[draw.below(filters.len())];
            let mut entry = SubscribeEntry::of(filter, draw.qos());
            if v5 {
                entry.no_local = !filter.starts_with("$share/") && draw.flip();
                entry.retain_as_published = draw.flip();
                entry.retain_handling =
                    [RetainHandling::SendAtSubscribe, RetainHandling::SendIfNew, RetainHandling::DoNotSend]
                        [draw.below(3)];
            }
            entry
        })
        .collect();
    Packet::Subscribe(Subscribe {
        packet_id: draw.packet_id(),
        subscription_identifier: if v5 {
            draw.maybe(|draw| IDENTIFIERS[draw.below(IDENTIFIERS.len())])
        } else {
            None
        },
        user_properties: if v5 { draw.users() } else { UserProperties::default() },
        entries,
    })
}

fn suback(draw: &mut Draw, v5: bool) -> Packet<'static> {
    let old = [
        ReasonCode::GRANTED_QOS_0,
        ReasonCode::GrantedQos1,
        ReasonCode::GrantedQos2,
        ReasonCode::UnspecifiedError,
    ];
    Packet::SubAck(SubAck {
        packet_id: draw.packet_id(),
        codes: (0..=draw.below(5))
            .map(|_| if v5 { draw.reason(PacketType::SubAck) } else { old[draw.below(4)] })
            .collect(),
        reason_string: if v5 { draw.maybe(Draw::text) } else { None },
        user_properties: if v5 { draw.users() } else { UserProperties::default() },
    })
}

fn unsubscribe(draw: &mut Draw, v5: bool) -> Packet<'static> {
    Packet::Unsubscribe(Unsubscribe {
        packet_id: draw.packet_id(),
        user_properties: if v5 { draw.users() } else { UserProperties::default() },
        filters: (0..=draw.below(4)).map(|_| draw.text()).collect(),
    })
}

fn unsuback(draw: &mut Draw, v5: bool) -> Packet<'static> {
    Packet::UnsubAck(UnsubAck {
        packet_id: draw.packet_id(),
        codes: if v5 {
            (0..=draw.below(5)).map(|_| draw.reason(PacketType::UnsubAck)).collect()
        } else {
            Vec::new()
        },
        reason_string: if v5 { draw.maybe(Draw::text) } else { None },
        user_properties: if v5 { draw.users() } else { UserProperties::default() },
    })
}

fn disconnect(draw: &mut Draw, v5: bool, side: Side) -> Packet<'static> {
    let mut disconnect = Disconnect::of(ReasonCode::NORMAL_DISCONNECTION);
    if v5 && draw.flip() {
        disconnect.reason = draw.reason(PacketType::Disconnect);
        if side == Side::FromServer && disconnect.reason == ReasonCode::DisconnectWithWill {
            disconnect.reason = ReasonCode::ServerBusy;
        }
        if side == Side::FromClient {
            disconnect.session_expiry_s = draw.maybe(Draw::u32);
        }
        disconnect.reason_string = draw.maybe(Draw::text);
        disconnect.user_properties = draw.users();
        disconnect.server_reference = draw.maybe(Draw::text);
    }
    Packet::Disconnect(disconnect)
}

fn auth(draw: &mut Draw, side: Side) -> Packet<'static> {
    let mut reason = draw.reason(PacketType::Auth);
    if side == Side::FromServer && reason == ReasonCode::ReAuthenticate {
        reason = ReasonCode::ContinueAuthentication;
    }
    if reason == ReasonCode::Success && draw.flip() {
        return Packet::Auth(Auth {
            reason,
            method: None,
            data: None,
            reason_string: None,
            user_properties: UserProperties::default(),
        });
    }
    Packet::Auth(Auth {
        reason,
        method: Some(draw.text()),
        data: draw.maybe(Draw::bytes),
        reason_string: draw.maybe(Draw::text),
        user_properties: draw.users(),
    })
}
