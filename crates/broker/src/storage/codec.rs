//! Records as bytes. One kind byte, then the fields in their order: integers little-endian, texts and
//! blocks behind their length. What frames them (length, checksum, version) is the storage's.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use drawbridge_mqtt::codec::{PacketId, Qos};
use drawbridge_names::{
    KeyId, MqttClientId, PrincipalKind, PrincipalName, RegistryName, TopicFilter, TopicName, Uid,
};

use super::{Destination, MessageId, Record, SessionId, StoredSession, StoredWill, Terms};
use crate::message::{Message, Publisher};

/// An instant and the ms since 1970-01-01 UTC at that instant: turns the one kind of time, which is
/// meaningless after a restart, into the other and back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeBase {
    /// The instant.
    pub instant: Instant,
    /// The same moment, in ms since 1970-01-01 UTC.
    pub unix_ms: u64,
}

/// Bytes that are no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordError {
    /// What was wanted where reading stopped.
    pub wanted: &'static str,
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the bytes are no record: {} was wanted", self.wanted)
    }
}

impl std::error::Error for RecordError {}

impl TimeBase {
    /// An instant in ms since 1970-01-01 UTC; never 0.
    #[must_use]
    pub fn to_ms(self, at: Instant) -> u64 {
        let ms = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        match at.checked_duration_since(self.instant) {
            Some(after) => self.unix_ms.saturating_add(ms(after)),
            None => self.unix_ms.saturating_sub(ms(self.instant - at)),
        }
        .max(1)
    }

    /// The instant of a moment in ms since 1970-01-01 UTC. One further back than this machine's clock
    /// goes is its beginning, one further ahead than a century a century ahead.
    #[must_use]
    pub fn to_instant(self, at_ms: u64) -> Instant {
        const CENTURY_MS: u64 = 100 * 365 * 86_400_000;
        if at_ms >= self.unix_ms {
            return self.instant + Duration::from_millis((at_ms - self.unix_ms).min(CENTURY_MS));
        }
        let mut back = Duration::from_millis(self.unix_ms - at_ms);
        loop {
            if let Some(instant) = self.instant.checked_sub(back) {
                return instant;
            }
            back /= 2;
        }
    }
}

const SESSION: u8 = 1;
const SESSION_GONE: u8 = 2;
const SUBSCRIBED: u8 = 3;
const UNSUBSCRIBED: u8 = 4;
const MESSAGE: u8 = 5;
const RETAINED_CLEARED: u8 = 6;
const SENDING: u8 = 7;
const RECEIVED: u8 = 8;
const DONE: u8 = 9;
const INBOUND: u8 = 10;
const RELEASED: u8 = 11;
const OWED: u8 = 12;

impl Record {
    /// Appends the record to `out`.
    pub fn encode(&self, time: TimeBase, out: &mut Vec<u8>) {
        let mut to = Writer { out };
        match self {
            Self::Session(stored) => {
                to.byte(SESSION);
                stored.encode(&mut to);
            }
            Self::SessionGone { session } => {
                to.byte(SESSION_GONE);
                to.u64(session.0);
            }
            Self::Subscribed { session, filter, terms } => {
                to.byte(SUBSCRIBED);
                to.u64(session.0);
                to.text(filter.as_str());
                to.byte(
                    terms.qos.bits()
                        | u8::from(terms.no_local) << 2
                        | u8::from(terms.retain_as_published) << 3,
                );
                to.u32(terms.identifier);
            }
            Self::Unsubscribed { session, filter } => {
                to.byte(UNSUBSCRIBED);
                to.u64(session.0);
                to.text(filter.as_str());
            }
            Self::Message { id, message, to: destinations, retained } => {
                to.byte(MESSAGE);
                to.u64(id.0);
                to.byte(u8::from(*retained));
                to.u32(u32::try_from(destinations.len()).unwrap_or(u32::MAX));
                for destination in destinations {
                    destination.encode(&mut to);
                }
                message.encode(time, &mut to);
            }
            Self::RetainedCleared { id, registry, topic } => {
                to.byte(RETAINED_CLEARED);
                to.u64(id.0);
                to.text(registry.as_str());
                to.text(topic);
            }
            Self::Sending { session, message, packet_id } => {
                to.byte(SENDING);
                to.u64(session.0);
                to.u64(message.0);
                to.u16(packet_id.get());
            }
            Self::Received { session, message } => {
                to.byte(RECEIVED);
                to.u64(session.0);
                to.u64(message.0);
            }
            Self::Done { session, message } => {
                to.byte(DONE);
                to.u64(session.0);
                to.u64(message.0);
            }
            Self::Inbound { session, packet_id } => {
                to.byte(INBOUND);
                to.u64(session.0);
                to.u16(packet_id.get());
            }
            Self::Released { session, packet_id } => {
                to.byte(RELEASED);
                to.u64(session.0);
                to.u16(packet_id.get());
            }
            Self::Owed { message, destination } => {
                to.byte(OWED);
                to.u64(message.0);
                destination.encode(&mut to);
            }
        }
    }

    /// Reads the record at the beginning of `bytes`, and how long it is.
    ///
    /// # Errors
    /// [`RecordError`] when there is none.
    pub fn decode(time: TimeBase, bytes: &[u8]) -> Result<(Self, usize), RecordError> {
        let mut from = Reader { rest: bytes };
        let record = match from.byte()? {
            SESSION => Self::Session(Box::new(StoredSession::decode(&mut from)?)),
            SESSION_GONE => Self::SessionGone { session: from.session()? },
            SUBSCRIBED => {
                let session = from.session()?;
                let filter = from.filter()?;
                let bits = from.byte()?;
                let terms = Terms {
                    qos: qos(bits & 3)?,
                    no_local: bits & 4 != 0,
                    retain_as_published: bits & 8 != 0,
                    identifier: from.u32()?,
                };
                Self::Subscribed { session, filter, terms }
            }
            UNSUBSCRIBED => Self::Unsubscribed { session: from.session()?, filter: from.filter()? },
            MESSAGE => {
                let id = MessageId(from.u64()?);
                let retained = from.byte()? != 0;
                let count = from.u32()?;
                let mut to = Vec::new();
                for _ in 0..count {
                    to.push(Destination::decode(&mut from)?);
                }
                let message = Arc::new(Message { id: Some(id), ..Message::decode(time, &mut from)? });
                Self::Message { id, message, to, retained }
            }
            RETAINED_CLEARED => Self::RetainedCleared {
                id: MessageId(from.u64()?),
                registry: from.registry()?,
                topic: from.text()?.into(),
            },
            SENDING => Self::Sending {
                session: from.session()?,
                message: MessageId(from.u64()?),
                packet_id: from.packet_id()?,
            },
            RECEIVED => Self::Received { session: from.session()?, message: MessageId(from.u64()?) },
            DONE => Self::Done { session: from.session()?, message: MessageId(from.u64()?) },
            INBOUND => Self::Inbound { session: from.session()?, packet_id: from.packet_id()? },
            OWED => {
                Self::Owed { message: MessageId(from.u64()?), destination: Destination::decode(&mut from)? }
            }
            RELEASED => Self::Released { session: from.session()?, packet_id: from.packet_id()? },
            _ => return Err(RecordError { wanted: "the kind of a record" }),
        };
        Ok((record, bytes.len() - from.rest.len()))
    }

    /// About how many bytes its encoding has.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::Message { message, to, .. } => 96 + message.bytes() + 16 * to.len(),
            Self::Session(stored) => {
                160 + stored.will.as_ref().map_or(0, |w| w.payload.len() + w.topic.len())
            }
            Self::Subscribed { filter, .. } | Self::Unsubscribed { filter, .. } => 24 + filter.as_str().len(),
            Self::RetainedCleared { topic, .. } => 40 + topic.len(),
            _ => 24,
        }
    }
}

impl StoredSession {
    fn encode(&self, to: &mut Writer<'_>) {
        to.u64(self.id.0);
        to.text(self.registry.as_str());
        to.u64(self.uid.0);
        to.text(self.name.as_str());
        to.byte(match self.kind {
            PrincipalKind::Device => 0,
            PrincipalKind::Application => 1,
        });
        to.text(self.client_id.as_str());
        to.u64(self.owner_epoch);
        to.text(self.kid.as_ref().map_or("", KeyId::as_str));
        to.byte(u8::from(self.leading_slash));
        to.u32(self.expiry_s);
        to.u64(self.ended_ms);
        to.u64(self.rights_end_ms);
        to.byte(u8::from(self.will.is_some()));
        if let Some(will) = &self.will {
            will.encode(to);
        }
    }

    fn decode(from: &mut Reader<'_>) -> Result<Self, RecordError> {
        let wanted = |wanted| move |_| RecordError { wanted };
        Ok(Self {
            id: from.session()?,
            registry: from.registry()?,
            uid: Uid(from.u64()?),
            name: PrincipalName::parse(from.text()?).map_err(wanted("the name of a principal"))?,
            kind: match from.byte()? {
                0 => PrincipalKind::Device,
                1 => PrincipalKind::Application,
                _ => return Err(RecordError { wanted: "the kind of a principal" }),
            },
            client_id: MqttClientId::parse(from.text()?).map_err(wanted("a client id"))?,
            owner_epoch: from.u64()?,
            kid: match from.text()? {
                "" => None,
                kid => Some(KeyId::parse(kid).map_err(wanted("a key id"))?),
            },
            leading_slash: from.byte()? != 0,
            expiry_s: from.u32()?,
            ended_ms: from.u64()?,
            rights_end_ms: from.u64()?,
            will: if from.byte()? == 0 { None } else { Some(StoredWill::decode(from)?) },
        })
    }
}

impl StoredWill {
    fn encode(&self, to: &mut Writer<'_>) {
        to.text(&self.topic);
        to.block(&self.payload);
        to.byte(self.qos.bits() | u8::from(self.retain) << 2 | u8::from(self.expiry_s.is_some()) << 3);
        to.u32(self.expiry_s.unwrap_or(0));
        to.block(&self.properties);
        to.u64(self.delay_ms);
        to.u64(self.policy_epoch);
    }

    fn decode(from: &mut Reader<'_>) -> Result<Self, RecordError> {
        let topic = from.topic()?;
        let payload = from.block()?.into();
        let bits = from.byte()?;
        let expiry_s = from.u32()?;
        Ok(Self {
            topic,
            payload,
            qos: qos(bits & 3)?,
            retain: bits & 4 != 0,
            expiry_s: (bits & 8 != 0).then_some(expiry_s),
            properties: from.block()?.into(),
            delay_ms: from.u64()?,
            policy_epoch: from.u64()?,
        })
    }
}

impl Destination {
    fn encode(&self, to: &mut Writer<'_>) {
        to.u64(self.session.0);
        let count = u8::try_from(self.identifiers.len().min(usize::from(MANY))).unwrap_or(MANY);
        to.byte(self.qos.bits() | u8::from(self.retain) << 2 | count << 3);
        if count == MANY {
            to.u32(u32::try_from(self.identifiers.len()).unwrap_or(u32::MAX));
        }
        self.identifiers.iter().for_each(|identifier| to.u32(*identifier));
    }

    fn decode(from: &mut Reader<'_>) -> Result<Self, RecordError> {
        let session = from.session()?;
        let bits = from.byte()?;
        let count = match bits >> 3 {
            MANY => from.u32()?,
            few => u32::from(few),
        };
        let identifiers = (0..count).map(|_| from.u32()).collect::<Result<_, _>>()?;
        Ok(Self { session, qos: qos(bits & 3)?, retain: bits & 4 != 0, identifiers })
    }
}

/// As many identifiers as this, or more, are counted in a field of their own.
const MANY: u8 = 31;

impl Message {
    fn encode(&self, time: TimeBase, to: &mut Writer<'_>) {
        to.text(self.registry.as_str());
        to.text(&self.topic);
        to.u64(self.publisher.uid.0);
        to.u64(self.publisher.policy_epoch);
        to.u64(time.to_ms(self.received));
        to.u64(self.received_ms);
        to.u64(self.expires.map_or(0, |at| time.to_ms(at)));
        to.byte(self.qos.bits() | u8::from(self.retain) << 2);
        to.block(&self.properties);
        to.block(&self.payload);
    }

    fn decode(time: TimeBase, from: &mut Reader<'_>) -> Result<Self, RecordError> {
        let registry = from.registry()?;
        let topic = from.topic()?;
        let publisher = Publisher { uid: Uid(from.u64()?), policy_epoch: from.u64()? };
        let received = time.to_instant(from.u64()?);
        let received_ms = from.u64()?;
        let expires = match from.u64()? {
            0 => None,
            at_ms => Some(time.to_instant(at_ms)),
        };
        let bits = from.byte()?;
        Ok(Self {
            id: None,
            registry,
            topic,
            publisher,
            received,
            received_ms,
            expires,
            qos: qos(bits & 3)?,
            retain: bits & 4 != 0,
            properties: from.block()?.into(),
            payload: from.block()?.into(),
            origin: (0, 0),
        })
    }
}

fn qos(bits: u8) -> Result<Qos, RecordError> {
    Qos::from_bits(bits).ok_or(RecordError { wanted: "a QoS" })
}

struct Writer<'a> {
    out: &'a mut Vec<u8>,
}

impl Writer<'_> {
    fn byte(&mut self, byte: u8) {
        self.out.push(byte);
    }

    fn u16(&mut self, number: u16) {
        self.out.extend_from_slice(&number.to_le_bytes());
    }

    fn u32(&mut self, number: u32) {
        self.out.extend_from_slice(&number.to_le_bytes());
    }

    fn u64(&mut self, number: u64) {
        self.out.extend_from_slice(&number.to_le_bytes());
    }

    fn block(&mut self, bytes: &[u8]) {
        self.u32(u32::try_from(bytes.len()).expect("no packet has 4 GiB"));
        self.out.extend_from_slice(bytes);
    }

    fn text(&mut self, text: &str) {
        self.block(text.as_bytes());
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize, wanted: &'static str) -> Result<&'a [u8], RecordError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(RecordError { wanted })?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, wanted: &'static str) -> Result<[u8; N], RecordError> {
        self.take(N, wanted)?.try_into().map_err(|_| RecordError { wanted })
    }

    fn byte(&mut self) -> Result<u8, RecordError> {
        self.array::<1>("a byte").map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, RecordError> {
        self.array("two bytes").map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, RecordError> {
        self.array("four bytes").map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, RecordError> {
        self.array("eight bytes").map(u64::from_le_bytes)
    }

    fn block(&mut self) -> Result<&'a [u8], RecordError> {
        let count = self.u32()? as usize;
        self.take(count, "a block of the length before it")
    }

    fn text(&mut self) -> Result<&'a str, RecordError> {
        std::str::from_utf8(self.block()?).map_err(|_| RecordError { wanted: "UTF-8" })
    }

    fn session(&mut self) -> Result<SessionId, RecordError> {
        self.u64().map(SessionId)
    }

    fn packet_id(&mut self) -> Result<PacketId, RecordError> {
        PacketId::new(self.u16()?).ok_or(RecordError { wanted: "a packet identifier" })
    }

    fn registry(&mut self) -> Result<RegistryName, RecordError> {
        RegistryName::parse(self.text()?).map_err(|_| RecordError { wanted: "the name of a registry" })
    }

    fn filter(&mut self) -> Result<TopicFilter, RecordError> {
        TopicFilter::parse(self.text()?).map_err(|_| RecordError { wanted: "a topic filter" })
    }

    fn topic(&mut self) -> Result<Box<str>, RecordError> {
        let text = self.text()?;
        TopicName::parse(text).map_err(|_| RecordError { wanted: "a topic name" })?;
        Ok(text.into())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "records carry instants; no test depends on which")]
    use super::*;

    fn records(time: TimeBase) -> Vec<Record> {
        let session = SessionId(7);
        let filter = TopicFilter::parse("plant/+/temp").expect("a filter");
        let message = Message {
            expires: Some(time.instant + Duration::from_secs(5)),
            properties: Box::new([1, 2, 3]),
            ..Message::for_tests("plant/1/temp", b"21.5".to_vec(), time.instant)
        };
        let destination = |count: u32| Destination {
            session,
            qos: Qos::ExactlyOnce,
            retain: count == 1,
            identifiers: (1..=count).collect(),
        };
        let packet_id = PacketId::new(65_535).expect("not 0");
        let will = StoredWill {
            topic: "plant/1/gone".into(),
            payload: Arc::new(*b"bye"),
            qos: Qos::AtLeastOnce,
            retain: true,
            expiry_s: Some(9),
            properties: Box::default(),
            delay_ms: 1_500,
            policy_epoch: 3,
        };
        let stored = StoredSession {
            id: session,
            registry: RegistryName::default_registry(),
            uid: Uid(u64::MAX),
            name: PrincipalName::parse("lamp").expect("a name"),
            kind: PrincipalKind::Application,
            client_id: MqttClientId::parse("lamp:1").expect("a client id"),
            owner_epoch: 12,
            kid: None,
            leading_slash: true,
            expiry_s: u32::MAX,
            ended_ms: 17,
            rights_end_ms: 0,
            will: Some(will),
        };
        vec![
            Record::Session(Box::new(StoredSession { will: None, ..stored.clone() })),
            Record::Session(Box::new(stored)),
            Record::Subscribed {
                session,
                filter: filter.clone(),
                terms: Terms {
                    qos: Qos::ExactlyOnce,
                    no_local: true,
                    retain_as_published: false,
                    identifier: 268_435_455,
                },
            },
            Record::Unsubscribed { session, filter },
            Record::Message {
                id: MessageId(1),
                message: Arc::new(message),
                to: vec![destination(0), destination(1), destination(30), destination(31), destination(400)],
                retained: true,
            },
            Record::Owed { message: MessageId(1), destination: destination(2) },
            Record::Sending { session, message: MessageId(1), packet_id },
            Record::Received { session, message: MessageId(1) },
            Record::Done { session, message: MessageId(1) },
            Record::Inbound { session, packet_id },
            Record::Released { session, packet_id },
            Record::RetainedCleared {
                id: MessageId(2),
                registry: RegistryName::default_registry(),
                topic: "plant/1/temp".into(),
            },
            Record::SessionGone { session },
        ]
    }

    #[test]
    fn every_record_is_read_as_it_was_written_and_no_shortened_one_is() {
        let time = TimeBase { instant: Instant::now(), unix_ms: 1_800_000_000_000 };
        for record in records(time) {
            let mut bytes = Vec::new();
            record.encode(time, &mut bytes);
            let whole = bytes.len();
            bytes.extend_from_slice(b"what follows");
            assert_eq!(Record::decode(time, &bytes), Ok((record.clone(), whole)));
            for end in 0..whole {
                assert!(Record::decode(time, &bytes[..end]).is_err(), "{end} of {whole} bytes of {record:?}");
            }
        }
    }

    #[test]
    fn time_survives_a_restart_of_the_monotonic_clock() {
        let instant = Instant::now();
        let before = TimeBase { instant, unix_ms: 1_000_000 };
        let after = TimeBase { instant: instant + Duration::from_secs(60), unix_ms: 1_030_000 };
        let at_ms = before.to_ms(instant + Duration::from_secs(40));
        assert_eq!(at_ms, 1_040_000);
        assert_eq!(after.to_instant(at_ms), instant + Duration::from_secs(70), "ten seconds from then");
        assert!(after.to_instant(1) <= instant && after.to_instant(u64::MAX) > instant);
    }

    #[test]
    fn what_is_owed_is_counted_until_nobody_needs_it() {
        use super::super::Image;
        let time = TimeBase { instant: Instant::now(), unix_ms: 1_800_000_000_000 };
        let mut image = Image::default();
        let records = records(time);
        records[..5].iter().for_each(|record| image.apply(record));
        assert_eq!(image.references.get(&MessageId(1)), Some(&2), "one session and the retained store");
        records[5..].iter().for_each(|record| image.apply(record));
        assert!(image.references.is_empty() && image.sessions.is_empty());
        assert_eq!((image.session_max, image.message_max, image.owner_epoch_max), (7, 2, 12));
    }

    #[test]
    fn an_older_retained_message_that_is_stored_behind_a_newer_clear_does_not_come_back() {
        use super::super::Image;
        let now = Instant::now();
        let word = |id: u64| {
            let message = Arc::new(Message::for_tests("a", vec![1], now));
            Record::Message { id: MessageId(id), message, to: Vec::new(), retained: true }
        };
        let clear = |id: u64, topic: &str| Record::RetainedCleared {
            id: MessageId(id),
            registry: RegistryName::default_registry(),
            topic: topic.into(),
        };
        let retained = |image: &Image| -> Vec<u64> {
            image.retained.values().flat_map(|topics| topics.values()).map(|id| id.0).collect()
        };
        for (records, left) in [
            (vec![word(1), clear(2, "a")], None),
            (vec![clear(2, "a"), word(1)], None),
            (vec![clear(2, "a"), word(3), word(1)], Some(3)),
            (vec![word(3), clear(2, "a")], Some(3)),
            (vec![clear(4, "a"), clear(2, "a"), word(3)], None),
        ] {
            let mut image = Image::default();
            records.iter().for_each(|record| image.apply(record));
            assert_eq!(retained(&image), Vec::from_iter(left), "{records:?}");
            assert_eq!(image.references.len(), usize::from(left.is_some()));
            assert_eq!(image.cleared().count(), usize::from(left.is_none()), "a mark, or a message");
            assert!(image.message_max >= 2, "its number is not given again");
        }
        // A flood of them is bounded, the oldest go first.
        let mut image = Image::default();
        for id in 0..60_000 {
            image.apply(&clear(id, &format!("{id}/{}", "x".repeat(1_000))));
        }
        let left: Vec<u64> = image.cleared().map(|(id, ..)| id.0).collect();
        assert!((1_000..10_000).contains(&left.len()) && left.contains(&59_999), "{}", left.len());
    }
}
