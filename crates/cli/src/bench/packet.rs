//! The packets of a client under load: what is sent is a patched copy of one packet, what comes in is looked at only
//! as far as a client must. Whatever is not on the path of a message goes through the codec of `mqtt`.

use std::num::NonZeroU16;

use drawbridge_device::{ProtocolVersion, Qos};
use drawbridge_mqtt::codec::{
    self, Connect, ConnectProperties, Packet, PacketId, Publish, ReasonCode, Side, Subscribe, SubscribeEntry,
    UserProperties,
};
use drawbridge_names::TopicName;

use super::credentials::Login;
use crate::Failure;

/// The largest packet taken from a broker, in bytes.
const PACKET_BYTES_MAX: usize = 32 << 20;

/// What the payload begins with: when the message was due (nanoseconds) and the number of its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) due_ns: u64,
    pub(super) sender: u32,
}

impl Stamp {
    /// Its length in bytes; the least of a payload is 16.
    const BYTES: usize = 12;

    fn write(self, at: &mut [u8]) {
        at[..8].copy_from_slice(&self.due_ns.to_le_bytes());
        at[8..12].copy_from_slice(&self.sender.to_le_bytes());
    }

    /// The stamp of a payload; `None` when it is too short to be ours.
    pub(super) fn read(payload: &[u8]) -> Option<Self> {
        let due_ns = u64::from_le_bytes(payload.get(..8)?.try_into().ok()?);
        let sender = u32::from_le_bytes(payload.get(8..12)?.try_into().ok()?);
        Some(Self { due_ns, sender })
    }
}

/// A PUBLISH, ready but for its packet identifier, its stamp, and digits in its topic.
#[derive(Debug, Clone)]
pub(super) struct Template {
    bytes: Vec<u8>,
    topic_at: usize,
    id_at: Option<usize>,
    payload_at: usize,
}

impl Template {
    pub(super) fn new(
        version: ProtocolVersion,
        topic: &str,
        qos: Qos,
        payload_bytes: usize,
    ) -> Result<Self, Failure> {
        let name = TopicName::parse(topic).map_err(|e| Failure::Usage(format!("--topic `{topic}`: {e}")))?;
        let payload = vec![b'x'; payload_bytes.max(Stamp::BYTES)];
        let mut bytes = Vec::new();
        let packet = Packet::Publish(Publish {
            dup: false,
            qos,
            retain: false,
            topic: Some(name),
            packet_id: (qos != Qos::AtMostOnce).then(|| PacketId::new(1).expect("1 is one")),
            properties: Default::default(),
            payload: &payload,
        });
        encode(&packet, version, &mut bytes)?;
        let length_bytes = bytes[1..].iter().take_while(|byte| **byte >= 0x80).count() + 1;
        let topic_at = 1 + length_bytes + 2;
        let id_at = (qos != Qos::AtMostOnce).then_some(topic_at + topic.len());
        let payload_at = bytes.len() - payload.len();
        Ok(Self { bytes, topic_at, id_at, payload_at })
    }

    pub(super) fn qos(&self) -> Qos {
        Qos::from_bits(self.bytes[0] >> 1 & 3).expect("made from one")
    }

    /// Writes `number` in seven digits into the topic, from byte `at` of it.
    pub(super) fn number(&mut self, at: usize, number: u32) {
        let place = &mut self.bytes[self.topic_at + at..][..7];
        let mut rest = number;
        for digit in place.iter_mut().rev() {
            *digit = b'0' + u8::try_from(rest % 10).expect("a digit");
            rest /= 10;
        }
    }

    /// Appends the packet.
    pub(super) fn write(&self, id: u16, stamp: Stamp, out: &mut Vec<u8>) {
        let begin = out.len();
        out.extend_from_slice(&self.bytes);
        let packet = &mut out[begin..];
        if let Some(at) = self.id_at {
            packet[at..at + 2].copy_from_slice(&id.to_be_bytes());
        }
        stamp.write(&mut packet[self.payload_at..]);
    }
}

/// A CONNECT. `keep_s` above 0: the session outlives the connection, in MQTT 5 for so many seconds. Otherwise what
/// was kept of it is forgotten.
pub(super) fn connect(version: ProtocolVersion, login: &Login, keep_s: u32) -> Result<Vec<u8>, Failure> {
    let packet = Packet::from(Connect {
        version,
        clean_start: keep_s == 0,
        keep_alive_s: 0,
        client_id: &login.client_id,
        username: login.username.as_deref(),
        password: login.password.as_ref().map(|bytes| bytes.as_slice()),
        will: None,
        properties: ConnectProperties {
            session_expiry_s: (version == ProtocolVersion::V5 && keep_s > 0).then_some(keep_s),
            ..Default::default()
        },
    });
    let mut bytes = Vec::new();
    encode(&packet, version, &mut bytes)?;
    Ok(bytes)
}

/// A SUBSCRIBE with these filters.
pub(super) fn subscribe(
    version: ProtocolVersion,
    id: u16,
    filters: &[String],
    qos: Qos,
    out: &mut Vec<u8>,
) -> Result<(), Failure> {
    let packet = Packet::Subscribe(Subscribe {
        packet_id: PacketId::new(id).expect("counted from 1"),
        subscription_identifier: None,
        user_properties: UserProperties::default(),
        entries: filters.iter().map(|filter| SubscribeEntry::of(filter, qos)).collect(),
    });
    encode(&packet, version, out)
}

fn encode(packet: &Packet<'_>, version: ProtocolVersion, out: &mut Vec<u8>) -> Result<(), Failure> {
    packet.encode(version, out).map_err(|e| Failure::Usage(format!("the packet cannot be sent: {e}")))
}

/// What came in.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Incoming<'a> {
    /// A message; `id` is 0 at QoS 0.
    Publish { qos: u8, id: u16, payload: &'a [u8] },
    /// PUBACK, PUBREC, PUBREL, PUBCOMP: its type and packet identifier.
    Ack { kind: u8, id: u16 },
    /// CONNACK that admits, and how many publishes of QoS 1 and 2 the broker takes before it has acknowledged.
    Accepted { unacknowledged_max: u16 },
    /// SUBACK that grants every filter.
    Subscribed,
    /// CONNACK, SUBACK, an acknowledgement or DISCONNECT that refuses, and why.
    Refused(String),
    /// Of no account here.
    Other,
}

/// PUBACK, PUBREC, PUBREL, PUBCOMP by the number of their type.
pub(super) const PUBACK: u8 = 4;
pub(super) const PUBREC: u8 = 5;
pub(super) const PUBREL: u8 = 6;
pub(super) const PUBCOMP: u8 = 7;

/// Takes one packet from the front: it and its length, or `None` when more bytes are needed.
pub(super) fn take(bytes: &[u8], version: ProtocolVersion) -> Result<Option<(Incoming<'_>, usize)>, String> {
    let Some(&first) = bytes.first() else { return Ok(None) };
    let mut length = 0_usize;
    let mut at = 1;
    loop {
        let Some(&byte) = bytes.get(at) else { return Ok(None) };
        length |= usize::from(byte & 0x7f) << (7 * (at - 1));
        at += 1;
        if byte < 0x80 {
            break;
        }
        if at > 4 {
            return Err("a remaining length of more than 4 bytes".to_owned());
        }
    }
    if length > PACKET_BYTES_MAX {
        return Err(format!("a packet of {length} bytes"));
    }
    let Some(body) = bytes.get(at..at + length) else { return Ok(None) };
    let whole = at + length;
    let incoming = match first >> 4 {
        3 => publish(first, body, version).ok_or("a PUBLISH that ends too early")?,
        kind @ PUBACK..=PUBCOMP => {
            let id: [u8; 2] =
                body.get(..2).and_then(|b| b.try_into().ok()).ok_or("an empty acknowledgement")?;
            match body.get(2) {
                Some(&code) if code >= 0x80 => Incoming::Refused(reason(code)),
                _ => Incoming::Ack { kind, id: u16::from_be_bytes(id) },
            }
        }
        13 => Incoming::Other,
        _ => control(&bytes[..whole], version)?,
    };
    Ok(Some((incoming, whole)))
}

fn publish(first: u8, body: &[u8], version: ProtocolVersion) -> Option<Incoming<'_>> {
    let qos = first >> 1 & 3;
    let topic = usize::from(u16::from_be_bytes(body.get(..2)?.try_into().ok()?));
    let mut at = 2 + topic;
    let mut id = 0;
    if qos > 0 {
        id = u16::from_be_bytes(body.get(at..at + 2)?.try_into().ok()?);
        at += 2;
    }
    if version == ProtocolVersion::V5 {
        let (mut properties, mut shift) = (0_usize, 0);
        loop {
            let byte = *body.get(at)?;
            properties |= usize::from(byte & 0x7f) << shift;
            at += 1;
            shift += 7;
            if byte < 0x80 || shift > 21 {
                break;
            }
        }
        at += properties;
    }
    Some(Incoming::Publish { qos, id, payload: body.get(at..)? })
}

fn control(bytes: &[u8], version: ProtocolVersion) -> Result<Incoming<'_>, String> {
    let frame = codec::decode(bytes, Some(version), PACKET_BYTES_MAX, Side::FromServer);
    let codec::Frame::Complete { packet, .. } = frame.map_err(|e| e.to_string())? else {
        return Err("a packet whose length is wrong".to_owned());
    };
    Ok(match packet {
        Packet::ConnAck(ack) if ack.reason.is_error() => {
            Incoming::Refused(said(ack.reason, ack.properties.reason_string))
        }
        Packet::ConnAck(ack) => {
            let most = ack.properties.receive_maximum.map_or(u16::MAX, NonZeroU16::get);
            Incoming::Accepted { unacknowledged_max: most }
        }
        Packet::SubAck(ack) => match ack.codes.iter().find(|code| code.is_error()) {
            Some(code) => Incoming::Refused(said(*code, ack.reason_string)),
            None => Incoming::Subscribed,
        },
        Packet::Disconnect(bye) => Incoming::Refused(said(bye.reason, bye.reason_string)),
        _ => Incoming::Other,
    })
}

fn said(code: ReasonCode, text: Option<&str>) -> String {
    format!("{} (reason code 0x{:02x})", text.unwrap_or(code.text()), code.byte())
}

fn reason(code: u8) -> String {
    let text = ReasonCode::from_byte(code).map_or("unknown", ReasonCode::text);
    format!("{text} (reason code 0x{code:02x})")
}

/// Appends an acknowledgement.
pub(super) fn acknowledge(kind: u8, id: u16, out: &mut Vec<u8>) {
    let flags = if kind == PUBREL { 2 } else { 0 };
    let [high, low] = id.to_be_bytes();
    out.extend_from_slice(&[kind << 4 | flags, 2, high, low]);
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [ProtocolVersion; 2] = [ProtocolVersion::V311, ProtocolVersion::V5];

    #[test]
    fn a_patched_publish_is_one_to_the_codec_and_gives_its_stamp_back() {
        let stamp = Stamp { due_ns: 0x0102_0304_0506_0708, sender: 77 };
        for version in BOTH {
            for qos in [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce] {
                for payload_bytes in [16, 64, 200, 70_000] {
                    let mut template =
                        Template::new(version, "bench/f/0000000/x", qos, payload_bytes).expect("good");
                    template.number(8, 1_234_567);
                    let mut bytes = Vec::new();
                    template.write(513, stamp, &mut bytes);
                    let frame =
                        codec::decode(&bytes, Some(version), 1 << 20, Side::FromClient).expect("a packet");
                    let codec::Frame::Complete { packet: Packet::Publish(publish), .. } = frame else {
                        panic!("no PUBLISH")
                    };
                    assert_eq!(publish.topic.expect("a topic").as_str(), "bench/f/1234567/x");
                    assert_eq!(publish.packet_id.map(PacketId::get), (qos != Qos::AtMostOnce).then_some(513));
                    assert_eq!(publish.payload.len(), payload_bytes);
                    let (incoming, whole) = take(&bytes, version).expect("sound").expect("whole");
                    assert_eq!(whole, bytes.len());
                    let Incoming::Publish { qos: found, id, payload } = incoming else {
                        panic!("no PUBLISH")
                    };
                    assert_eq!((found, id), (qos.bits(), if qos == Qos::AtMostOnce { 0 } else { 513 }));
                    assert_eq!(Stamp::read(payload), Some(stamp));
                    assert_eq!((template.qos(), payload.len()), (qos, payload_bytes));
                }
            }
        }
    }

    #[test]
    fn nothing_is_taken_from_a_packet_that_is_not_whole() {
        let template = Template::new(ProtocolVersion::V311, "a/b", Qos::AtLeastOnce, 300).expect("good");
        let mut bytes = Vec::new();
        template.write(9, Stamp { due_ns: 1, sender: 2 }, &mut bytes);
        for end in 0..bytes.len() {
            assert_eq!(take(&bytes[..end], ProtocolVersion::V311), Ok(None), "{end}");
        }
    }

    #[test]
    fn answers_are_told_apart() {
        let of =
            |bytes: &'static [u8]| take(bytes, ProtocolVersion::V311).map(|taken| taken.expect("whole").0);
        assert_eq!(of(&[0x20, 2, 0, 0]), Ok(Incoming::Accepted { unacknowledged_max: u16::MAX }));
        assert!(matches!(of(&[0x20, 2, 0, 5]), Ok(Incoming::Refused(_))));
        assert_eq!(of(&[0x90, 3, 0, 1, 1]), Ok(Incoming::Subscribed));
        assert!(matches!(of(&[0x90, 3, 0, 1, 0x80]), Ok(Incoming::Refused(_))));
        assert_eq!(of(&[0x40, 2, 1, 2]), Ok(Incoming::Ack { kind: PUBACK, id: 258 }));
        assert!(of(&[0x40, 0]).is_err() && of(&[0x30, 0xff, 0xff, 0xff, 0xff, 1]).is_err());
        let bounded =
            take(&[0x20, 6, 0, 0, 3, 0x21, 0, 20], ProtocolVersion::V5).expect("sound").expect("whole").0;
        assert_eq!(bounded, Incoming::Accepted { unacknowledged_max: 20 });
        let refused = take(&[0x40, 3, 0, 1, 0x87], ProtocolVersion::V5).expect("sound").expect("whole").0;
        assert!(matches!(refused, Incoming::Refused(why) if why.contains("0x87")));
    }

    #[test]
    fn acknowledgements_are_those_of_the_standard() {
        for (kind, first) in [(PUBACK, 0x40), (PUBREC, 0x50), (PUBREL, 0x62), (PUBCOMP, 0x70)] {
            let mut out = Vec::new();
            acknowledge(kind, 258, &mut out);
            assert_eq!(out, [first, 2, 1, 2]);
        }
    }
}
