//! A listener that remembers, and work for a log.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Condvar, LazyLock, Mutex};
use std::time::{Duration, Instant};

use drawbridge_broker::storage::{
    Batch, Destination, Image, MessageId, Record, SessionId, Storage, StorageListener, StoredSession, Terms,
    TimeBase,
};
use drawbridge_broker::{Message, Publisher};
use drawbridge_message_log::{Disk, LogConfig, LogError, MessageLog};
use drawbridge_mqtt::codec::{PacketId, Qos};
use drawbridge_names::{MqttClientId, PrincipalKind, PrincipalName, RegistryName, TopicFilter, Uid};

/// One for all openings: so that a message read back equals the one that was stored.
pub(crate) static TIME: LazyLock<TimeBase> =
    LazyLock::new(|| TimeBase { instant: Instant::now(), unix_ms: 1_800_000_000_000 });

const LONG: Duration = Duration::from_secs(60);

/// Segments of 4 KiB, a checkpoint after every 6 KiB, no waiting.
pub(crate) fn small() -> LogConfig {
    LogConfig {
        segment_bytes: 4 << 10,
        bytes_max: 1 << 20,
        checkpoint_bytes: 6 << 10,
        patience: Duration::from_millis(2),
        retry: Duration::from_millis(2),
        ..LogConfig::default()
    }
}

#[derive(Default)]
pub(crate) struct Heard {
    inside: Mutex<Inside>,
    broken: AtomicBool,
    bell: Condvar,
}

type Fetched = Vec<(MessageId, Option<Arc<Message>>)>;

#[derive(Default)]
struct Inside {
    committed: HashMap<usize, u64>,
    fetched: Vec<(usize, SessionId, Fetched)>,
    stalled: Vec<bool>,
}

impl StorageListener for Heard {
    fn committed(&self, shard: usize, number: u64) {
        let mut inside = self.inside.lock().unwrap();
        let before = inside.committed.insert(shard, number).unwrap_or(0);
        assert!(before < number, "shard {shard} was told {before}, then {number}");
        self.bell.notify_all();
    }

    fn fetched(&self, shard: usize, session: SessionId, messages: Fetched) {
        self.inside.lock().unwrap().fetched.push((shard, session, messages));
        self.bell.notify_all();
    }

    fn stalled(&self, stalled: bool) {
        self.inside.lock().unwrap().stalled.push(stalled);
        self.bell.notify_all();
    }
}

impl Heard {
    /// The highest number that the shard was told.
    pub(crate) fn committed_of(&self, shard: usize) -> u64 {
        self.inside.lock().unwrap().committed.get(&shard).copied().unwrap_or(0)
    }

    pub(crate) fn wait_committed(&self, shard: usize, number: u64) {
        self.wait(|inside| (inside.committed.get(&shard).copied().unwrap_or(0) >= number).then_some(()));
    }

    /// Until the number is told or something is true.
    pub(crate) fn committed_or(&self, shard: usize, number: u64, other: impl Fn() -> bool) -> bool {
        let mut inside = self.inside.lock().unwrap();
        loop {
            if inside.committed.get(&shard).copied().unwrap_or(0) >= number {
                return true;
            }
            if other() {
                return false;
            }
            inside = self.bell.wait_timeout(inside, Duration::from_millis(1)).unwrap().0;
        }
    }

    pub(crate) fn wait_stalled(&self, stalled: bool) {
        self.wait(|inside| (inside.stalled.last() == Some(&stalled)).then_some(()));
    }

    /// A thread of the log has panicked.
    fn broken(&self) {
        self.broken.store(true, SeqCst);
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.broken.load(SeqCst)
    }

    pub(crate) fn stalls(&self) -> Vec<bool> {
        self.inside.lock().unwrap().stalled.clone()
    }

    /// The next answer to a fetch.
    pub(crate) fn wait_fetched(&self) -> (usize, SessionId, Fetched) {
        self.wait(|inside| (!inside.fetched.is_empty()).then(|| inside.fetched.remove(0)))
    }

    fn wait<T>(&self, is: impl Fn(&mut Inside) -> Option<T>) -> T {
        let mut inside = self.inside.lock().unwrap();
        let until = Instant::now() + LONG;
        loop {
            if let Some(value) = is(&mut inside) {
                return value;
            }
            assert!(Instant::now() < until, "nothing came of it in {LONG:?}");
            inside = self.bell.wait_timeout(inside, Duration::from_millis(50)).unwrap().0;
        }
    }
}

/// Until something is true.
pub(crate) fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let until = Instant::now() + LONG;
    while !is() {
        assert!(Instant::now() < until, "in {LONG:?} not: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub(crate) struct World {
    pub(crate) log: MessageLog,
    pub(crate) heard: Arc<Heard>,
    pub(crate) image: Image,
    pub(crate) retained: BTreeMap<MessageId, Arc<Message>>,
}

pub(crate) fn open(disk: impl Disk + 'static, config: &LogConfig) -> World {
    try_open(disk, config).unwrap_or_else(|error| panic!("{error}"))
}

pub(crate) fn try_open(disk: impl Disk + 'static, config: &LogConfig) -> Result<World, LogError> {
    try_open_at(disk, config, *TIME)
}

pub(crate) fn try_open_at(
    disk: impl Disk + 'static,
    config: &LogConfig,
    time: TimeBase,
) -> Result<World, LogError> {
    let opened = MessageLog::open(Arc::new(disk), config.clone(), time, Arc::new(Instant::now))?;
    let heard = Arc::new(Heard::default());
    let log = opened.log.start(heard.clone(), {
        let heard = heard.clone();
        move || heard.broken()
    })?;
    Ok(World { log, heard, image: plain(&opened.image), retained: opened.retained.into_iter().collect() })
}

/// An image without registries that have no retained message: whether there is an empty map is all the same.
pub(crate) fn plain(image: &Image) -> Image {
    let mut image = image.clone();
    image.retained.retain(|_, topics| !topics.is_empty());
    image
}

/// The image after these batches.
pub(crate) fn after<'a>(batches: impl IntoIterator<Item = &'a Batch>) -> Image {
    let mut image = Image::default();
    batches.into_iter().flat_map(|batch| &batch.records).for_each(|record| image.apply(record));
    plain(&image)
}

pub(crate) fn session(number: u64) -> Record {
    Record::Session(Box::new(StoredSession {
        id: SessionId(number),
        registry: RegistryName::default_registry(),
        uid: Uid(number),
        name: PrincipalName::parse(&format!("lamp-{number}")).unwrap(),
        kind: PrincipalKind::Device,
        client_id: MqttClientId::parse(&format!("lamp-{number}")).unwrap(),
        owner_epoch: number,
        kid: None,
        leading_slash: false,
        expiry_s: 3600,
        ended_ms: 0,
        rights_end_ms: 0,
        will: None,
    }))
}

pub(crate) fn message(id: u64, to: &[u64], retained: bool, payload: Vec<u8>) -> Record {
    let destination = |session: &u64| Destination {
        session: SessionId(*session),
        qos: Qos::AtLeastOnce,
        retain: false,
        identifiers: Box::default(),
    };
    Record::Message {
        id: MessageId(id),
        message: Arc::new(Message {
            id: Some(MessageId(id)),
            registry: RegistryName::default_registry(),
            topic: format!("plant/{}", id % 7).into(),
            publisher: Publisher { uid: Uid(1), policy_epoch: 0 },
            received: TIME.instant + Duration::from_millis(id),
            received_ms: TIME.unix_ms + id,
            expires: None,
            qos: Qos::AtLeastOnce,
            retain: retained,
            properties: Box::default(),
            payload: payload.into(),
            origin: (0, 0),
        }),
        to: to.iter().map(destination).collect(),
        retained,
    }
}

pub(crate) fn done(session: u64, message: u64) -> Record {
    Record::Done { session: SessionId(session), message: MessageId(message) }
}

pub(crate) fn batch(number: u64, records: Vec<Record>) -> Batch {
    Batch { number, records, urgent: true }
}

/// Random work of one shard: numbers of sessions and messages are `shard` modulo `shards`.
pub(crate) struct Work {
    random: Random,
    shard: u64,
    shards: u64,
    steps: u64,
    number: u64,
    image: Image,
}

impl Work {
    pub(crate) fn new(seed: u64, shard: u64, shards: u64) -> Self {
        Self { random: Random(seed), shard, shards, steps: 0, number: 0, image: Image::default() }
    }

    pub(crate) fn batches(mut self, count: usize) -> Vec<Batch> {
        (0..count).map(|_| self.batch()).collect()
    }

    fn batch(&mut self) -> Batch {
        let count = 1 + self.random.below(6);
        let records: Vec<Record> = (0..count).flat_map(|_| self.record()).collect();
        self.number += 1;
        Batch { number: self.number, records, urgent: self.random.below(4) > 0 }
    }

    fn record(&mut self) -> Vec<Record> {
        self.steps += 1;
        let id = self.steps * self.shards + self.shard;
        let sessions: Vec<SessionId> = self.image.sessions.keys().copied().collect();
        let session =
            (!sessions.is_empty()).then(|| sessions[self.random.below(sessions.len() as u64) as usize]);
        let owed = session.and_then(|session| self.image.sessions[&session].pending.keys().next().copied());
        let record = match (self.random.below(16), session, owed) {
            (0, ..) | (_, None, _) => self::session(id),
            (1, Some(session), _) => Record::Subscribed {
                session,
                filter: TopicFilter::parse(&format!("plant/{}/+", self.random.below(5))).unwrap(),
                terms: Terms {
                    qos: Qos::ExactlyOnce,
                    no_local: false,
                    retain_as_published: true,
                    identifier: id as u32,
                },
            },
            (2, Some(session), _) if self.random.below(4) == 0 => Record::SessionGone { session },
            (3, ..) => Record::RetainedCleared {
                // Now and then it comes late.
                id: MessageId(if self.random.below(4) > 0 { id } else { id / 2 }),
                registry: RegistryName::default_registry(),
                topic: format!("plant/{}", self.random.below(7)).into(),
            },
            (4, Some(session), Some(message)) => Record::Sending {
                session,
                message,
                packet_id: PacketId::new(1 + self.random.below(9) as u16).unwrap(),
            },
            (5, Some(session), Some(message)) => Record::Received { session, message },
            (6, Some(session), _) => Record::Inbound {
                session,
                packet_id: PacketId::new(1 + self.random.below(9) as u16).unwrap(),
            },
            (7, Some(session), _) => Record::Released {
                session,
                packet_id: PacketId::new(1 + self.random.below(9) as u16).unwrap(),
            },
            (8..12, Some(session), Some(message)) => Record::Done { session, message },
            (12, Some(session), _) if !self.image.retained.is_empty() => {
                let topics = self.image.retained.values().flat_map(|topics| topics.values());
                let retained: Vec<MessageId> = topics.copied().collect();
                let destination =
                    Destination { session, qos: Qos::ExactlyOnce, retain: true, identifiers: Box::new([7]) };
                // Now and then one that is gone: nothing comes of it.
                let message = match retained.get(self.random.below(8) as usize) {
                    Some(message) => *message,
                    None => MessageId(id),
                };
                Record::Owed { message, destination }
            }
            (_, Some(session), _) => {
                let mut to = vec![session.0];
                if sessions[0] != session {
                    to.push(sessions[0].0);
                }
                let retained = self.shards == 1 && self.random.below(4) == 0;
                let bytes = self.random.below(900) as usize;
                message(id, &to, retained, vec![id as u8; bytes])
            }
        };
        self.image.apply(&record);
        vec![record]
    }
}

/// SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// Every message that the image needs is given back by a fetch, equal to the one that was stored.
pub(crate) fn all_needed_is_readable<'a>(world: &World, batches: impl IntoIterator<Item = &'a Batch>) {
    let stored: HashMap<MessageId, Arc<Message>> = batches
        .into_iter()
        .flat_map(|batch| &batch.records)
        .filter_map(|record| match record {
            Record::Message { id, message, .. } => Some((*id, message.clone())),
            _ => None,
        })
        .collect();
    let ids: Vec<MessageId> = world.image.references.keys().copied().collect();
    world.log.fetch(3, SessionId(9), ids.clone());
    let (shard, session, messages) = world.heard.wait_fetched();
    assert_eq!((shard, session), (3, SessionId(9)));
    assert_eq!(messages.iter().map(|(id, _)| *id).collect::<Vec<_>>(), ids);
    for (id, message) in &messages {
        assert_eq!(message.as_ref(), stored.get(id), "{id:?}");
    }
    let needed: Vec<MessageId> = world.image.retained.values().flat_map(|t| t.values().copied()).collect();
    assert_eq!(world.retained.len(), needed.len());
    for id in needed {
        assert_eq!(world.retained.get(&id), stored.get(&id), "retained {id:?}");
    }
}
