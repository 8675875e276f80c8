//! What the server says: refusals, acknowledgements, farewells, in the words of each version.

use super::{Agreed, Connection, Fault, Renewal, State};
use crate::codec::{
    Ack, Auth, ConnAck, ConnAckProperties, DecodeError, Disconnect, PAD, PADDED_CONNACK_BYTES, Packet,
    PacketId, PacketType, ProtocolVersion, ReasonCode, SubAck, UnsubAck, UserProperties, filler,
};

impl Connection {
    /// Does not let the client in: CONNACK with the reason, in 3.1.1 the nearest return code. The
    /// reason string, and `told` as User Properties, go out only if the client did not forbid them, and as far as
    /// they fit. The connection must end.
    pub fn refuse(
        &mut self,
        reason: ReasonCode,
        for_owner: Option<&str>,
        told: &[(&str, &str)],
        out: &mut Vec<u8>,
    ) {
        let State::Authenticating(agreed) = self.state else { return };
        self.state = State::Closed { version: agreed.version };
        if agreed.version == ProtocolVersion::V311 && reason.connack_return_code_v311().is_none() {
            return; // 3.1.1 has no word for it and closes
        }
        let connack = |reason_string: Option<_>, told| ConnAck {
            session_present: false,
            reason,
            properties: ConnAckProperties {
                reason_string,
                user_properties: UserProperties::of(told),
                ..ConnAckProperties::default()
            },
        };
        let text = for_owner.map(plain).filter(|_| agreed.problem_information);
        let text = text.as_deref();
        let told = if agreed.problem_information { told } else { &[] };
        let all = [(text, told), (text, &[]), (None, &[])].map(|(text, told)| connack(text, told));
        let start = out.len();
        let put = put_first_fitting(&all.map(Packet::ConnAck), agreed.version, agreed.packet_bytes_max, out);
        if agreed.pads {
            out.truncate(start);
            put_connack(all[put], &agreed, out);
        }
    }

    /// AUTH: the client is to answer this, before it is let in or while it re-authenticates.
    ///
    /// Source: [MQTT-4.12.0-2] (5.0).
    pub fn challenge(&mut self, data: &[u8], out: &mut Vec<u8>) {
        let Some(method) = &self.method else { return };
        match &mut self.state {
            State::Authenticating(agreed) => self.state = State::Challenged(*agreed),
            State::Open(open) if open.renewal == Renewal::Judged => open.renewal = Renewal::Challenged,
            _ => return,
        }
        let auth = Auth {
            reason: ReasonCode::ContinueAuthentication,
            method: Some(method),
            data: Some(data),
            reason_string: None,
            user_properties: UserProperties::default(),
        };
        put(Packet::Auth(auth), ProtocolVersion::V5, out);
    }

    /// AUTH with success: the re-authentication is over. `told`: User Properties, left out where the client wants
    /// none or takes no packet of that size; `true` when they went out.
    ///
    /// Source: [MQTT-4.12.1-1], [MQTT-3.1.2-29] (5.0).
    pub fn renewed(&mut self, told: &[(&str, &str)], out: &mut Vec<u8>) -> bool {
        let (State::Open(open), Some(method)) = (&mut self.state, &self.method) else { return false };
        open.renewal = Renewal::None;
        let auth = |told| {
            Packet::Auth(Auth {
                reason: ReasonCode::Success,
                method: Some(method),
                data: None,
                reason_string: None,
                user_properties: UserProperties::of(told),
            })
        };
        let (version, bytes_max) = (open.version, open.packet_bytes_max);
        if !open.problem_information {
            put(auth(&[]), version, out);
            return told.is_empty();
        }
        put_first_fitting(&[auth(told), auth(&[])], version, bytes_max, out) == 0
    }

    /// Whether the client takes User Properties in any packet.
    #[must_use]
    pub fn takes_words(&self) -> bool {
        matches!(&self.state, State::Open(open) if open.version == ProtocolVersion::V5 && open.problem_information)
    }

    /// Says what the standard wants said before the connection ends for a fault; `false` when that is
    /// nothing, and the socket is to be closed without an answer.
    ///
    /// Before CONNECT is understood only a wrong version is answered; everything else is silence (a packet other
    /// than CONNECT: invariant I2).
    pub fn fail(&mut self, fault: &Fault, out: &mut Vec<u8>) -> bool {
        match self.state {
            State::AwaitConnect => {
                self.state = State::Closed { version: ProtocolVersion::V311 };
                let Fault::Decode(DecodeError::UnsupportedVersion { found }) = fault else { return false };
                // [MQTT-3.1.2-2]: a later version is answered in the form of 5.0, an earlier in that
                // of 3.1.1.
                let version = if *found >= 5 { ProtocolVersion::V5 } else { ProtocolVersion::V311 };
                put_connack_refusal(ReasonCode::UnsupportedProtocolVersion, version, out);
                true
            }
            State::Challenged(agreed) => {
                self.state = State::Closed { version: agreed.version };
                put_connack_refusal(fault.reason_code(), agreed.version, out);
                true
            }
            State::Open(_) => {
                let text = fault.to_string();
                self.disconnect(fault.reason_code(), Some(&text), out)
            }
            State::Authenticating(_) | State::Closed { .. } => false,
        }
    }

    /// Ends an open connection: DISCONNECT in 5.0, nothing in 3.1.1. `true` when it said something.
    pub fn disconnect(&mut self, reason: ReasonCode, text: Option<&str>, out: &mut Vec<u8>) -> bool {
        let State::Open(open) = &self.state else { return false };
        let (version, problem_information, bytes_max) =
            (open.version, open.problem_information, open.packet_bytes_max);
        self.state = State::Closed { version };
        if version == ProtocolVersion::V311 {
            return false;
        }
        let disconnect =
            |reason_string| Packet::Disconnect(Disconnect { reason_string, ..Disconnect::of(reason) });
        let text = text.map(plain).filter(|_| problem_information);
        put_short(disconnect, text.as_deref(), version, bytes_max, out);
        true
    }

    /// Forgets everything: the client has said DISCONNECT, or its socket is gone.
    pub fn close(&mut self) {
        self.state = State::Closed { version: self.version() };
    }

    /// PUBACK for a publish of the client. A refusal is said in 5.0 only.
    pub fn publish_answer(
        &mut self,
        packet_id: PacketId,
        reason: ReasonCode,
        text: Option<&str>,
        out: &mut Vec<u8>,
    ) {
        self.answered();
        self.put_ack(PacketType::PubAck, packet_id, reason, text, out);
    }

    /// PUBREC for a publish of the client at QoS 2. A refusal, said in 5.0 only, ends the exchange.
    pub fn received_answer(
        &mut self,
        packet_id: PacketId,
        reason: ReasonCode,
        text: Option<&str>,
        out: &mut Vec<u8>,
    ) {
        if reason.is_error() {
            self.answered();
        }
        self.put_ack(PacketType::PubRec, packet_id, reason, text, out);
    }

    /// PUBREL to the client.
    pub fn release(&mut self, packet_id: PacketId, reason: ReasonCode, out: &mut Vec<u8>) {
        self.put_ack(PacketType::PubRel, packet_id, reason, None, out);
    }

    /// PUBCOMP for a PUBREL of the client.
    pub fn complete_answer(&mut self, packet_id: PacketId, reason: ReasonCode, out: &mut Vec<u8>) {
        self.answered();
        self.put_ack(PacketType::PubComp, packet_id, reason, None, out);
    }

    fn answered(&mut self) {
        if let State::Open(open) = &mut self.state {
            open.unanswered = open.unanswered.saturating_sub(1);
        }
    }

    fn put_ack(
        &self,
        packet: PacketType,
        packet_id: PacketId,
        reason: ReasonCode,
        text: Option<&str>,
        out: &mut Vec<u8>,
    ) {
        let State::Open(open) = &self.state else { return };
        if reason == ReasonCode::Success || open.version == ProtocolVersion::V311 {
            // The packet of nearly every exchange: four bytes in both versions.
            let [high, low] = packet_id.get().to_be_bytes();
            out.extend_from_slice(&[packet.first_byte(), 2, high, low]);
            return;
        }
        let text = text.map(plain).filter(|_| open.problem_information);
        let ack = |reason_string| {
            let ack = Ack { reason_string, ..Ack::of(packet_id, reason) };
            match packet {
                PacketType::PubRec => Packet::PubRec(ack),
                PacketType::PubRel => Packet::PubRel(ack),
                PacketType::PubComp => Packet::PubComp(ack),
                _ => Packet::PubAck(ack),
            }
        };
        put_short(ack, text.as_deref(), open.version, open.packet_bytes_max, out);
    }

    /// SUBACK, one code per entry of the SUBSCRIBE.
    pub fn subscribe_answer(&mut self, packet_id: PacketId, codes: Vec<ReasonCode>, out: &mut Vec<u8>) {
        let State::Open(open) = &self.state else { return };
        let (version, bytes_max) = (open.version, open.packet_bytes_max);
        let suback =
            SubAck { packet_id, codes, reason_string: None, user_properties: UserProperties::default() };
        put_fitting(Packet::SubAck(suback), version, bytes_max, out);
    }

    /// UNSUBACK, one code per filter of the UNSUBSCRIBE (not sent in 3.1.1).
    pub fn unsubscribe_answer(&mut self, packet_id: PacketId, codes: Vec<ReasonCode>, out: &mut Vec<u8>) {
        let State::Open(open) = &self.state else { return };
        let (version, bytes_max) = (open.version, open.packet_bytes_max);
        let unsuback =
            UnsubAck { packet_id, codes, reason_string: None, user_properties: UserProperties::default() };
        put_fitting(Packet::UnsubAck(unsuback), version, bytes_max, out);
    }

    /// PINGRESP.
    pub fn ping_answer(&mut self, out: &mut Vec<u8>) {
        if self.is_open() {
            out.extend_from_slice(&[0xd0, 0]);
        }
    }
}

/// CONNACK; to a client that pads, padded, if it takes a packet of that size.
pub(super) fn put_connack(connack: ConnAck<'_>, agreed: &Agreed, out: &mut Vec<u8>) {
    let version = agreed.version;
    if agreed.pads {
        let start = out.len();
        let padded = |zeros: &str, out: &mut Vec<u8>| {
            let mut told: Vec<_> = connack.properties.user_properties.iter().collect();
            told.push((PAD, zeros));
            let properties =
                ConnAckProperties { user_properties: UserProperties::of(&told), ..connack.properties };
            Packet::ConnAck(ConnAck { properties, ..connack }).encode(version, out).is_ok()
        };
        let size = |filler| {
            let mut bytes = Vec::new();
            padded(&"0".repeat(filler), &mut bytes).then_some(bytes.len())
        };
        if let Some(filler) = filler(PADDED_CONNACK_BYTES, size)
            && padded(&"0".repeat(filler), out)
            && out.len() - start <= agreed.packet_bytes_max
        {
            return;
        }
        out.truncate(start);
    }
    put(Packet::ConnAck(connack), version, out);
}

fn put_connack_refusal(reason: ReasonCode, version: ProtocolVersion, out: &mut Vec<u8>) {
    let connack = ConnAck { session_present: false, reason, properties: ConnAckProperties::default() };
    put(Packet::ConnAck(connack), version, out);
}

/// With its reason string if that fits into what the client takes, else without.
///
/// Source: [MQTT-3.2.2-19], [MQTT-3.4.2-2], [MQTT-3.14.2-3] (5.0).
fn put_short<'t>(
    packet: impl Fn(Option<&'t str>) -> Packet<'t>,
    text: Option<&'t str>,
    version: ProtocolVersion,
    bytes_max: usize,
    out: &mut Vec<u8>,
) {
    let start = out.len();
    if text.is_some() {
        put(packet(text), version, out);
        if out.len() > start && out.len() - start <= bytes_max {
            return;
        }
        out.truncate(start);
    }
    put(packet(None), version, out);
}

/// The first of some packets that the client takes; the last one in any case. Which one.
fn put_first_fitting(
    packets: &[Packet<'_>],
    version: ProtocolVersion,
    bytes_max: usize,
    out: &mut Vec<u8>,
) -> usize {
    let start = out.len();
    for (at, packet) in packets.iter().enumerate() {
        out.truncate(start);
        let written = packet.encode(version, out).is_ok();
        if written && out.len() - start <= bytes_max {
            return at;
        }
    }
    packets.len() - 1
}

/// As [`put`], unless the client says that it cannot take a packet of this size [MQTT-3.1.2-24] (5.0):
/// then it goes without its answer.
fn put_fitting(packet: Packet<'_>, version: ProtocolVersion, bytes_max: usize, out: &mut Vec<u8>) {
    let start = out.len();
    put(packet, version, out);
    if out.len() - start > bytes_max {
        out.truncate(start);
    }
}

/// Encodes a packet that was built here. One that cannot be encoded is left out: the connection is
/// about to end, or the peer will miss an answer; neither is worth the life of the server.
pub(super) fn put(packet: Packet<'_>, version: ProtocolVersion, out: &mut Vec<u8>) {
    let written = packet.encode(version, out);
    debug_assert!(written.is_ok(), "{written:?}");
}

/// A reason string without control characters, at most 1 KiB.
fn plain(text: &str) -> String {
    let end = text.floor_char_boundary(1_024);
    text[..end].chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
