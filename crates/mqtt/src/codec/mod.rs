//! MQTT packets, from bytes and to bytes: 3.1.1 and 5.0, both directions, nothing copied on the way in.
//!
//! A decoded packet borrows from the bytes it came in. What exists is valid: a packet that breaks a
//! rule that one packet alone can break is a [`DecodeError`]. Two things are left to the connection,
//! because they are answered inside the protocol and do not end it: whether a text is a topic
//! *filter*, and whether the client identifier is acceptable (empty included).
//!
//! Why our own: `docs/decisions/0003-mqtt-codec.md`.

mod ack;
mod auth;
mod connack;
mod connect;
mod disconnect;
mod error;
mod padding;
mod properties;
mod publish;
mod reason;
mod suback;
mod subscribe;
mod unsubscribe;
mod wire;

use std::fmt;
use std::num::NonZeroU16;

pub use ack::Ack;
pub use auth::Auth;
pub use connack::{ConnAck, ConnAckProperties};
pub use connect::{Connect, ConnectProperties, Will, WillProperties};
pub use disconnect::Disconnect;
pub use error::{DecodeError, EncodeError};
pub use padding::{PAD, PADDED_CONNACK_BYTES, filler};
pub use properties::{PropertyId, SubscriptionIdentifiers, UserProperties};
pub use publish::{Delivery, Publish, PublishProperties, PublishTemplate, encode_publish};
pub use reason::ReasonCode;
pub use suback::{SubAck, UnsubAck};
pub use subscribe::{RetainHandling, Subscribe, SubscribeEntry};
pub use unsubscribe::Unsubscribe;
use wire::{Reader, read_variable};

/// The versions of MQTT that are spoken here.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ProtocolVersion {
    /// MQTT 3.1.1, protocol level 4.
    V311,
    /// MQTT 5.0, protocol level 5.
    V5,
}

/// Quality of service.
///
/// Source: MQTT 5.0 and 3.1.1, section 4.3.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Qos {
    /// Sent once, not acknowledged.
    #[default]
    AtMostOnce = 0,
    /// Sent until acknowledged.
    AtLeastOnce = 1,
    /// Sent until acknowledged, and taken once.
    ExactlyOnce = 2,
}

impl Qos {
    /// The QoS that two bits say; 3 is none.
    #[must_use]
    pub fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }

    /// Its two bits.
    #[must_use]
    pub fn bits(self) -> u8 {
        self as u8
    }
}

/// A packet identifier: 1 to 65535.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PacketId(NonZeroU16);

impl PacketId {
    /// The identifier with this number; 0 is none.
    #[must_use]
    pub fn new(id: u16) -> Option<Self> {
        NonZeroU16::new(id).map(Self)
    }

    /// Its number.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0.get()
    }
}

/// Who sent the bytes: it decides which packets and properties are legal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// A client sent them; we are the server.
    FromClient,
    /// A server sent them; we are the client.
    FromServer,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FromClient => "from a client",
            Self::FromServer => "from a server",
        })
    }
}

/// The kinds of packets, by their number in the first byte.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names are those of the standard")]
pub enum PacketType {
    Connect = 1,
    ConnAck = 2,
    Publish = 3,
    PubAck = 4,
    PubRec = 5,
    PubRel = 6,
    PubComp = 7,
    Subscribe = 8,
    SubAck = 9,
    Unsubscribe = 10,
    UnsubAck = 11,
    PingReq = 12,
    PingResp = 13,
    Disconnect = 14,
    Auth = 15,
}

impl PacketType {
    /// All kinds, in the order of their numbers.
    pub const ALL: [Self; 15] = [
        Self::Connect,
        Self::ConnAck,
        Self::Publish,
        Self::PubAck,
        Self::PubRec,
        Self::PubRel,
        Self::PubComp,
        Self::Subscribe,
        Self::SubAck,
        Self::Unsubscribe,
        Self::UnsubAck,
        Self::PingReq,
        Self::PingResp,
        Self::Disconnect,
        Self::Auth,
    ];

    /// The flags in the low four bits that are the only legal ones; PUBLISH has its own.
    ///
    /// Source: MQTT 5.0 section 2.1.3, MQTT 3.1.1 section 2.2.2.
    #[inline]
    fn fixed_flags(self) -> u8 {
        match self {
            Self::PubRel | Self::Subscribe | Self::Unsubscribe => 0b0010,
            _ => 0,
        }
    }

    /// The first byte of a packet of this kind; of PUBLISH, with no flag set.
    pub(crate) fn first_byte(self) -> u8 {
        (self as u8) << 4 | self.fixed_flags()
    }

    fn may_come(self, side: Side, version: ProtocolVersion) -> bool {
        match self {
            Self::Publish | Self::PubAck | Self::PubRec | Self::PubRel | Self::PubComp | Self::Auth => true,
            Self::Connect | Self::Subscribe | Self::Unsubscribe | Self::PingReq => side == Side::FromClient,
            Self::ConnAck | Self::SubAck | Self::UnsubAck | Self::PingResp => side == Side::FromServer,
            // In 3.1.1 a server just closes.
            Self::Disconnect => side == Side::FromClient || version == ProtocolVersion::V5,
        }
    }
}

impl fmt::Display for PacketType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "CONNECT",
            Self::ConnAck => "CONNACK",
            Self::Publish => "PUBLISH",
            Self::PubAck => "PUBACK",
            Self::PubRec => "PUBREC",
            Self::PubRel => "PUBREL",
            Self::PubComp => "PUBCOMP",
            Self::Subscribe => "SUBSCRIBE",
            Self::SubAck => "SUBACK",
            Self::Unsubscribe => "UNSUBSCRIBE",
            Self::UnsubAck => "UNSUBACK",
            Self::PingReq => "PINGREQ",
            Self::PingResp => "PINGRESP",
            Self::Disconnect => "DISCONNECT",
            Self::Auth => "AUTH",
        })
    }
}

/// The kind of packet that a first byte announces, whatever its flags; 0 is none.
#[must_use]
#[inline]
pub fn packet_type(first_byte: u8) -> Option<PacketType> {
    PacketType::ALL.get(usize::from(first_byte >> 4).wrapping_sub(1)).copied()
}

/// A packet of either direction. In 3.1.1 what only 5.0 can say is absent after decoding and left out
/// in encoding.
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the names are those of the standard")]
pub enum Packet<'a> {
    /// Boxed: one comes per connection, and unboxed it would make every packet nearly twice as large.
    Connect(Box<Connect<'a>>),
    ConnAck(ConnAck<'a>),
    Publish(Publish<'a>),
    PubAck(Ack<'a>),
    PubRec(Ack<'a>),
    PubRel(Ack<'a>),
    PubComp(Ack<'a>),
    Subscribe(Subscribe<'a>),
    SubAck(SubAck<'a>),
    Unsubscribe(Unsubscribe<'a>),
    UnsubAck(UnsubAck<'a>),
    PingReq,
    PingResp,
    Disconnect(Disconnect<'a>),
    Auth(Auth<'a>),
}

/// What the start of some bytes is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Frame<'a> {
    /// The beginning of a packet, without fault so far.
    Incomplete {
        /// Length of the whole packet in bytes, known once its fixed header is there.
        bytes_total: Option<usize>,
    },
    /// A packet.
    Complete {
        /// It.
        packet: Packet<'a>,
        /// Its length in bytes: where the next one begins.
        bytes: usize,
    },
}

/// Decodes the packet at the start of `input`, which may be followed by others.
///
/// `version` is what CONNECT agreed on; `None` before it, when only CONNECT from a client is legal
/// (and judged by the first byte). `packet_bytes_max` bounds the whole packet and is judged from the
/// fixed header, before the body arrives; so are the kind, the direction and the flags.
///
/// # Errors
/// [`DecodeError`]; the connection must then end.
///
/// Source: MQTT 5.0 and 3.1.1, sections 2 and 3.
pub fn decode(
    input: &[u8],
    version: Option<ProtocolVersion>,
    packet_bytes_max: usize,
    side: Side,
) -> Result<Frame<'_>, DecodeError> {
    let Framed { kind, first_byte, body, bytes } = match frame(input, version, packet_bytes_max, side)? {
        Outline::Complete(framed) => framed,
        Outline::Incomplete { bytes_total } => return Ok(Frame::Incomplete { bytes_total }),
    };
    let packet = decode_body(kind, first_byte, body, version, side)?;
    Ok(Frame::Complete { packet, bytes })
}

/// A packet whose body is still to be read.
pub(crate) struct Framed<'a> {
    kind: PacketType,
    first_byte: u8,
    body: Reader<'a>,
    /// Length of the whole packet.
    pub(crate) bytes: usize,
}

pub(crate) enum Outline<'a> {
    Incomplete { bytes_total: Option<usize> },
    Complete(Framed<'a>),
}

impl<'a> Framed<'a> {
    #[inline]
    pub(crate) fn is_publish(&self) -> bool {
        self.kind == PacketType::Publish
    }

    /// Reads it as the PUBLISH that it is.
    #[inline(always)]
    pub(crate) fn publish(self, version: ProtocolVersion, side: Side) -> Result<Publish<'a>, DecodeError> {
        Publish::decode(self.first_byte, self.body, version, side)
    }

    /// Reads it, whatever it is.
    pub(crate) fn packet(self, version: ProtocolVersion, side: Side) -> Result<Packet<'a>, DecodeError> {
        decode_body(self.kind, self.first_byte, self.body, Some(version), side)
    }
}

/// What [`decode`] judges before the body: the kind, the direction, the flags, the length.
#[inline(always)]
pub(crate) fn frame(
    input: &[u8],
    version: Option<ProtocolVersion>,
    packet_bytes_max: usize,
    side: Side,
) -> Result<Outline<'_>, DecodeError> {
    let Some((&first_byte, rest)) = input.split_first() else {
        return Ok(Outline::Incomplete { bytes_total: None });
    };
    let kind = judge_first_byte(first_byte, version, side)?;
    let Some((remaining, length_bytes)) = read_variable(rest, kind, "remaining length")? else {
        return Ok(Outline::Incomplete { bytes_total: None });
    };
    let header_bytes = 1 + length_bytes;
    let bytes = header_bytes + usize::try_from(remaining).expect("28 bits fit a usize");
    if bytes > packet_bytes_max {
        return Err(DecodeError::PacketTooLarge {
            packet: kind,
            found_bytes: bytes,
            max_bytes: packet_bytes_max,
        });
    }
    let Some(body) = input.get(header_bytes..bytes) else {
        return Ok(Outline::Incomplete { bytes_total: Some(bytes) });
    };
    Ok(Outline::Complete(Framed { kind, first_byte, body: Reader::new(body, kind), bytes }))
}

#[inline]
fn judge_first_byte(
    first_byte: u8,
    version: Option<ProtocolVersion>,
    side: Side,
) -> Result<PacketType, DecodeError> {
    let found_type = first_byte >> 4;
    // Most packets: both sides may send it in each version.
    if found_type == PacketType::Publish as u8 && version.is_some() {
        publish::judge_flags(first_byte)?;
        return Ok(PacketType::Publish);
    }
    judge_other_first_byte(first_byte, version, side)
}

fn judge_other_first_byte(
    first_byte: u8,
    version: Option<ProtocolVersion>,
    side: Side,
) -> Result<PacketType, DecodeError> {
    let found_type = first_byte >> 4;
    let kind = packet_type(first_byte);
    match (kind, version) {
        (Some(PacketType::Connect), None) if side == Side::FromClient => {}
        (_, None) => return Err(DecodeError::FirstPacketNotConnect { found_type }),
        (None, _) | (Some(PacketType::Auth), Some(ProtocolVersion::V311)) => {
            return Err(DecodeError::PacketTypeReserved { found_type });
        }
        (Some(PacketType::Connect), Some(_)) if side == Side::FromClient => {
            return Err(DecodeError::ConnectRepeated);
        }
        (Some(packet), Some(version)) if !packet.may_come(side, version) => {
            return Err(DecodeError::WrongDirection { packet, side });
        }
        (Some(_), Some(_)) => {}
    }
    let Some(packet) = kind else {
        return Err(DecodeError::PacketTypeReserved { found_type });
    };
    let (found, wanted) = (first_byte & 0x0f, packet.fixed_flags());
    if found != wanted {
        return Err(DecodeError::ReservedFlags { packet, found, wanted });
    }
    Ok(packet)
}

fn decode_body<'a>(
    kind: PacketType,
    first_byte: u8,
    body: Reader<'a>,
    version: Option<ProtocolVersion>,
    side: Side,
) -> Result<Packet<'a>, DecodeError> {
    let Some(version) = version else {
        return Ok(Packet::Connect(Box::new(Connect::decode(body)?)));
    };
    Ok(match kind {
        PacketType::Publish => Packet::Publish(Publish::decode(first_byte, body, version, side)?),
        PacketType::PubAck => Packet::PubAck(Ack::decode(body, version)?),
        PacketType::PubRec => Packet::PubRec(Ack::decode(body, version)?),
        PacketType::PubRel => Packet::PubRel(Ack::decode(body, version)?),
        PacketType::PubComp => Packet::PubComp(Ack::decode(body, version)?),
        PacketType::Connect => Packet::Connect(Box::new(Connect::decode(body)?)),
        PacketType::ConnAck => Packet::ConnAck(ConnAck::decode(body, version)?),
        PacketType::Subscribe => Packet::Subscribe(Subscribe::decode(body, version)?),
        PacketType::SubAck => Packet::SubAck(SubAck::decode(body, version)?),
        PacketType::Unsubscribe => Packet::Unsubscribe(Unsubscribe::decode(body, version)?),
        PacketType::UnsubAck => Packet::UnsubAck(UnsubAck::decode(body, version)?),
        PacketType::PingReq => {
            body.finish()?;
            Packet::PingReq
        }
        PacketType::PingResp => {
            body.finish()?;
            Packet::PingResp
        }
        PacketType::Disconnect => Packet::Disconnect(Disconnect::decode(body, version, side)?),
        PacketType::Auth => Packet::Auth(Auth::decode(body, side)?),
    })
}

impl Packet<'_> {
    /// Its kind.
    #[must_use]
    pub fn packet_type(&self) -> PacketType {
        match self {
            Self::Connect(_) => PacketType::Connect,
            Self::ConnAck(_) => PacketType::ConnAck,
            Self::Publish(_) => PacketType::Publish,
            Self::PubAck(_) => PacketType::PubAck,
            Self::PubRec(_) => PacketType::PubRec,
            Self::PubRel(_) => PacketType::PubRel,
            Self::PubComp(_) => PacketType::PubComp,
            Self::Subscribe(_) => PacketType::Subscribe,
            Self::SubAck(_) => PacketType::SubAck,
            Self::Unsubscribe(_) => PacketType::Unsubscribe,
            Self::UnsubAck(_) => PacketType::UnsubAck,
            Self::PingReq => PacketType::PingReq,
            Self::PingResp => PacketType::PingResp,
            Self::Disconnect(_) => PacketType::Disconnect,
            Self::Auth(_) => PacketType::Auth,
        }
    }

    /// Appends the packet to `out`; a CONNECT in its own version, the others in `version`.
    ///
    /// What 3.1.1 cannot say (properties, most reason codes, options) is left out there.
    ///
    /// # Errors
    /// [`EncodeError`]; `out` is then as it was.
    pub fn encode(&self, version: ProtocolVersion, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        match self {
            Self::Connect(connect) => connect.encode(out),
            Self::ConnAck(connack) => connack.encode(version, out),
            Self::Publish(publish) => publish.encode(version, out),
            Self::PubAck(ack) | Self::PubRec(ack) | Self::PubRel(ack) | Self::PubComp(ack) => {
                ack.encode(self.packet_type(), version, out)
            }
            Self::Subscribe(subscribe) => subscribe.encode(version, out),
            Self::SubAck(suback) => suback.encode(version, out),
            Self::Unsubscribe(unsubscribe) => unsubscribe.encode(version, out),
            Self::UnsubAck(unsuback) => unsuback.encode(version, out),
            Self::PingReq | Self::PingResp => {
                out.extend_from_slice(&[self.packet_type().first_byte(), 0]);
                Ok(())
            }
            Self::Disconnect(disconnect) => disconnect.encode(version, out),
            Self::Auth(auth) => auth.encode(version, out),
        }
    }
}

impl<'a> From<Connect<'a>> for Packet<'a> {
    fn from(connect: Connect<'a>) -> Self {
        Self::Connect(Box::new(connect))
    }
}

/// Reads a reason code and judges whether it belongs in the packet.
fn read_reason(reader: &mut Reader<'_>) -> Result<ReasonCode, DecodeError> {
    let found = reader.u8("reason code")?;
    let packet = reader.packet();
    match ReasonCode::from_byte(found) {
        Some(code) if code.belongs_in(packet) => Ok(code),
        _ => Err(DecodeError::ReasonCodeMisplaced { packet, found }),
    }
}

fn judge_reason(packet: PacketType, found: ReasonCode) -> Result<(), EncodeError> {
    if found.belongs_in(packet) { Ok(()) } else { Err(EncodeError::ReasonCodeMisplaced { packet, found }) }
}

/// How many bytes a field has, for `Debug` of what may be secret or long.
struct Hidden(usize);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} bytes>", self.0)
    }
}

fn hidden(bytes: Option<&[u8]>) -> Option<Hidden> {
    bytes.map(|bytes| Hidden(bytes.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_not_much_larger_than_a_publish() {
        let (packet, publish, connect) =
            (size_of::<Packet<'_>>(), size_of::<Publish<'_>>(), size_of::<Connect<'_>>());
        println!(
            "Packet {packet}, Publish {publish}, ConnAck {}, Connect {connect}",
            size_of::<ConnAck<'_>>()
        );
        assert!(packet <= 2 * publish, "Packet {packet}, Publish {publish}");
    }
}
