//! The two stores behind one face.

use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use drawbridge_broker::storage::{
    Batch, Destination, MessageId, Record, SessionId, Storage, StorageListener, StoredSession, TimeBase,
};
use drawbridge_broker::{Message, Publisher};
use drawbridge_message_log::{LogConfig, MessageLog, RealDisk};
use drawbridge_mqtt::codec::Qos;
use drawbridge_names::{MqttClientId, PrincipalKind, PrincipalName, RegistryName, Uid};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

/// Records in a group of the power-cut test.
pub const RECORDS: u64 = 100;
/// Bytes of a payload, so that a record has about 300.
const PAYLOAD: usize = 240;
/// The records of a group are removed so many groups later, so that both have something to clear away.
const KEPT: u64 = 20;
/// Small, so that tables, journals, segments and checkpoints turn over within the test.
const TURN_OVER: u64 = 256 << 10;

pub enum Engine {
    Fjall { db: Database, messages: Keyspace },
    Log { log: MessageLog, committed: Receiver<u64>, time: TimeBase },
}

struct Heard {
    committed: Mutex<Sender<u64>>,
    fetched: Mutex<Sender<Vec<(MessageId, Option<Arc<Message>>)>>>,
}

impl StorageListener for Heard {
    fn committed(&self, _: usize, number: u64) {
        let _ = self.committed.lock().expect("nobody panics").send(number);
    }

    fn fetched(&self, _: usize, _: SessionId, messages: Vec<(MessageId, Option<Arc<Message>>)>) {
        let _ = self.fetched.lock().expect("nobody panics").send(messages);
    }

    fn stalled(&self, stalled: bool) {
        assert!(!stalled, "the disk is full");
    }
}

fn open_fjall(folder: &Path) -> fjall::Result<(Database, Keyspace)> {
    let db = Database::builder(folder).open()?;
    let messages =
        db.keyspace("messages", || KeyspaceCreateOptions::default().max_memtable_size(TURN_OVER))?;
    Ok((db, messages))
}

type Fetched = Receiver<Vec<(MessageId, Option<Arc<Message>>)>>;

type OpenLog = (MessageLog, drawbridge_broker::storage::Image, Receiver<u64>, Fetched, TimeBase);

fn open_log(folder: &Path, config: LogConfig) -> Result<OpenLog, String> {
    let disk = Arc::new(RealDisk::open(folder).map_err(|error| error.to_string())?);
    let time = TimeBase { instant: Instant::now(), unix_ms: 1_800_000_000_000 };
    let opened =
        MessageLog::open(disk, config, time, Arc::new(Instant::now)).map_err(|error| error.to_string())?;
    let (to, committed) = channel();
    let (to_fetched, fetched) = channel();
    let heard = Heard { committed: Mutex::new(to), fetched: Mutex::new(to_fetched) };
    let log = opened.log.start(Arc::new(heard), || std::process::abort()).map_err(|error| error.to_string())?;
    Ok((log, opened.image, committed, fetched, time))
}

fn small() -> LogConfig {
    LogConfig {
        segment_bytes: TURN_OVER,
        checkpoint_bytes: TURN_OVER,
        bytes_max: 64 * TURN_OVER,
        ..LogConfig::default()
    }
}

impl Engine {
    pub fn open(engine: &str, folder: &Path) -> Result<Self, String> {
        match engine {
            "fjall" | "fjall-synced" => {
                let (db, messages) = open_fjall(folder).map_err(|error| error.to_string())?;
                if engine == "fjall-synced" {
                    // fjall syncs this folder before it makes the folder of the keyspace in it.
                    let keyspaces = std::fs::File::open(folder.join("keyspaces"));
                    keyspaces.and_then(|folder| folder.sync_all()).map_err(|error| error.to_string())?;
                }
                Ok(Self::Fjall { db, messages })
            }
            "segments" => Self::log(folder, small()),
            other => panic!("`{other}` is none of fjall, fjall-synced and segments"),
        }
    }

    /// With the settings as they are shipped, for the figures.
    pub fn open_as_shipped(engine: &str, folder: &Path) -> Result<Self, String> {
        if engine == "segments" {
            return Self::log(folder, LogConfig::default());
        }
        let db = Database::builder(folder).open().map_err(|error| error.to_string())?;
        let messages =
            db.keyspace("messages", KeyspaceCreateOptions::default).map_err(|error| error.to_string())?;
        Ok(Self::Fjall { db, messages })
    }

    fn log(folder: &Path, config: LogConfig) -> Result<Self, String> {
        let (log, _, committed, _, time) = open_log(folder, config)?;
        Ok(Self::Log { log, committed, time })
    }

    /// Stores a group of so many records, removes what is [`KEPT`] groups old, and returns when that is durable.
    pub fn store(&mut self, group: u64, records: u64) {
        let old = group.checked_sub(KEPT).filter(|old| *old > 0);
        match self {
            Self::Fjall { db, messages } => {
                let mut batch = db.batch().durability(Some(PersistMode::SyncData));
                for id in ids(group, records) {
                    batch.insert(messages, key(id), value(id));
                }
                for id in old.into_iter().flat_map(|old| ids(old, records)) {
                    batch.remove(messages, key(id));
                }
                batch.commit().expect("the disk has room");
            }
            Self::Log { log, committed, time } => {
                let mut batch = Vec::new();
                if group == 1 {
                    batch.extend((0..SESSIONS).map(session));
                }
                batch.extend(ids(group, records).map(|id| message(id, *time)));
                batch.extend(
                    old.into_iter()
                        .flat_map(|old| ids(old, records))
                        .map(|id| Record::Done { session: SessionId(id % SESSIONS), message: MessageId(id) }),
                );
                log.submit(0, Batch { number: group, records: batch, urgent: true });
                while committed.recv().expect("it is open") < group {}
            }
        }
    }

    /// How many groups stand in a folder: `None` when it is no prefix of the work of so many groups.
    pub fn stands(engine: &str, folder: &Path, groups: u64) -> Result<Option<u64>, String> {
        let mut found: Vec<u64> = Vec::new();
        if engine.starts_with("fjall") {
            let (db, messages) = open_fjall(folder).map_err(|error| format!("{error:?}"))?;
            for item in messages.iter() {
                let (key, stored) = item.into_inner().map_err(|error| format!("{error:?}"))?;
                let id = key.get(8..16).and_then(|id| id.try_into().ok()).map(u64::from_be_bytes);
                match id {
                    Some(id) if stored[..] == value(id)[..] => found.push(id),
                    _ => return Ok(None),
                }
            }
            drop(db);
        } else {
            let (log, image, _, fetched, _) = open_log(folder, small())?;
            let ids: Vec<MessageId> = image.references.keys().copied().collect();
            log.fetch(0, SessionId(0), ids);
            for (id, message) in fetched.recv_timeout(Duration::from_secs(60)).expect("it is open") {
                match message {
                    Some(message) if message.payload[..] == value(id.0)[..] => found.push(id.0),
                    _ => return Ok(None),
                }
            }
        }
        found.sort_unstable();
        let expected = |stands: u64| -> Vec<u64> {
            let first = (stands + 1).saturating_sub(KEPT).max(1);
            (first..=stands).flat_map(|group| ids(group, RECORDS)).collect()
        };
        Ok((0..=groups).find(|stands| expected(*stands) == found))
    }
}

/// As in the contract's measurement: (session, sequence), round robin over 1,000 sessions.
const SESSIONS: u64 = 1000;

fn ids(group: u64, records: u64) -> std::ops::Range<u64> {
    group * records..(group + 1) * records
}

fn key(id: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&(id % SESSIONS).to_be_bytes());
    key[8..].copy_from_slice(&id.to_be_bytes());
    key
}

fn value(id: u64) -> [u8; PAYLOAD] {
    let mut value = [0; PAYLOAD];
    for (at, byte) in value.iter_mut().enumerate() {
        *byte = (id.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (at % 8 * 8)) as u8 ^ at as u8;
    }
    value
}

fn message(id: u64, time: TimeBase) -> Record {
    Record::Message {
        id: MessageId(id),
        message: Arc::new(Message {
            id: Some(MessageId(id)),
            registry: RegistryName::default_registry(),
            topic: "devices/d/events/t".into(),
            publisher: Publisher { uid: Uid(1), policy_epoch: 0 },
            received: time.instant,
            received_ms: time.unix_ms,
            expires: None,
            qos: Qos::AtLeastOnce,
            retain: false,
            properties: Box::default(),
            payload: Arc::new(value(id)),
            origin: (0, 0),
        }),
        to: vec![Destination {
            session: SessionId(id % SESSIONS),
            qos: Qos::AtLeastOnce,
            retain: false,
            identifiers: Box::default(),
        }],
        retained: false,
    }
}

fn session(number: u64) -> Record {
    Record::Session(Box::new(StoredSession {
        id: SessionId(number),
        registry: RegistryName::default_registry(),
        uid: Uid(number),
        name: PrincipalName::parse("d").expect("a name"),
        kind: PrincipalKind::Device,
        client_id: MqttClientId::parse("d").expect("a client id"),
        owner_epoch: 1,
        kid: None,
        leading_slash: false,
        expiry_s: 3600,
        ended_ms: 0,
        rights_end_ms: 0,
        will: None,
    }))
}
