//! What lies around the shards: sockets that bring bytes late and in pieces, links between shards, the
//! admission, a storage that commits late and forgets. Nothing moves unless a step says so.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use drawbridge_broker::storage::{Batch, Image, MessageId, Record, SessionId, TimeBase};
use drawbridge_broker::{
    Close, ConnId, Crossing, Directory, Ended, Interest, Message, Moving, Restored, Shard, ShardConfig, Stats,
};
use drawbridge_mqtt::codec::ProtocolVersion;
use drawbridge_policy::Rights;

use crate::model::Heard;

/// What the admission tells a shard.
pub enum News {
    Answer { socket: usize, conn: ConnId },
    Ends(Ended),
}

pub type Fetched = Vec<(MessageId, Option<Arc<Message>>)>;

/// What the storage tells a shard.
pub enum Told {
    Committed(u64),
    Fetched(SessionId, Fetched),
    /// The same, and how publishers stand that were not known.
    Judged(Vec<(usize, u64, Option<Arc<Rights>>)>, SessionId, Fetched),
    Stalled(bool),
}

/// One call of a shard.
pub enum Input {
    Bytes(usize, Vec<u8>),
    HungUp(usize),
    Drained(usize),
    Tick,
    Cross(Crossing),
    Adopt(usize, Box<Moving>),
    News(News),
    Told(Told),
}

pub struct Socket {
    pub shard: usize,
    /// `None` on its way between shards, and at the end.
    pub conn: Option<ConnId>,
    pub client: usize,
    pub version: ProtocolVersion,
    /// From the client, not yet with the shard; and how much is.
    pub up: Vec<u8>,
    pub up_at: u64,
    /// What the shard has heard when it has so many bytes.
    pub marks: VecDeque<(u64, Heard)>,
    /// From the shard, not yet read by the client; and how much is.
    pub down: Vec<u8>,
    pub read: u64,
    pub taken: u64,
    /// When the bytes up to here were written by the shard.
    pub made: VecDeque<(u64, Instant, u64)>,
    /// The client takes no bytes.
    pub stalled: bool,
    pub wants_write: bool,
    pub server_closed: bool,
    pub client_gone: bool,
    /// Its place in the shard is free.
    pub gone: bool,
}

impl Socket {
    pub fn is_open(&self) -> bool {
        !self.gone && !self.server_closed
    }
}

/// A storage in memory.
#[derive(Default)]
pub struct Disk {
    pub batches: Vec<(usize, Batch)>,
    pub stored: usize,
    pub messages: BTreeMap<MessageId, Arc<Message>>,
    pub lost: BTreeSet<MessageId>,
    pub stalled: bool,
}

impl Disk {
    pub fn submit(&mut self, shard: usize, batch: Batch) {
        for record in &batch.records {
            if let Record::Message { id, message, .. } = record {
                self.messages.insert(*id, Arc::clone(message));
            }
        }
        self.batches.push((shard, batch));
    }

    pub fn message(&self, id: MessageId) -> Option<Arc<Message>> {
        self.messages.get(&id).filter(|_| !self.lost.contains(&id)).cloned()
    }

    pub fn image(&self) -> Image {
        let mut image = Image::default();
        let records = self.batches.iter().take(self.stored).flat_map(|(_, batch)| &batch.records);
        records.for_each(|record| image.apply(record));
        image
    }
}

pub struct World {
    pub now: Instant,
    pub time: TimeBase,
    pub shape: ShardConfig,
    pub shards: Vec<Shard>,
    pub links: Vec<Vec<VecDeque<Crossing>>>,
    pub moves: Vec<VecDeque<(usize, Box<Moving>)>>,
    pub news: Vec<VecDeque<News>>,
    pub told: Vec<VecDeque<Told>>,
    pub disk: Disk,
    pub sockets: Vec<Socket>,
    /// Counted by processes that have ended.
    pub before: Vec<Stats>,
    /// The highest number of a message when the process started.
    pub restored_message_max: u64,
    /// Publishers of older messages whose standing each shard has asked for: shard, registry, number.
    pub voices_known: BTreeSet<(usize, usize, u64)>,
}

impl World {
    pub fn new(base: Instant, shape: ShardConfig) -> Self {
        let time = TimeBase { instant: base, unix_ms: 1_800_000_000_000 };
        let count = shape.shards;
        let mut world = Self {
            now: base,
            time,
            shape,
            shards: Vec::new(),
            links: (0..count).map(|_| (0..count).map(|_| VecDeque::new()).collect()).collect(),
            moves: (0..count).map(|_| VecDeque::new()).collect(),
            news: (0..count).map(|_| VecDeque::new()).collect(),
            told: (0..count).map(|_| VecDeque::new()).collect(),
            disk: Disk::default(),
            sockets: Vec::new(),
            before: Vec::new(),
            restored_message_max: 0,
            voices_known: BTreeSet::new(),
        };
        world.start(&Image::default());
        world
    }

    fn start(&mut self, image: &Image) {
        let directory = Arc::new(Directory::new());
        let interest = Arc::new(Interest::restored(self.shape.shards, image));
        self.shards = (0..self.shape.shards)
            .map(|index| {
                let wall_clock = Some((self.time.instant, self.time.unix_ms));
                let config = ShardConfig { index, wall_clock, ..self.shape.clone() };
                Shard::new(config, Arc::clone(&directory), Arc::clone(&interest))
            })
            .collect();
    }

    pub fn wall_ms(&self) -> i64 {
        i64::try_from(self.time.to_ms(self.now)).expect("not so far ahead")
    }

    /// The process dies; `kept` batches of those that were submitted survive. The wall clock has moved by
    /// `jump_ms` when the next one begins. What it is to be given back is returned, less the standing.
    pub fn crash(&mut self, kept: usize, jump_ms: i64) -> Restored {
        let stats: Vec<Stats> = self.shards.iter().map(Shard::stats).collect();
        self.before.extend(stats);
        for queue in self.links.iter_mut().flatten() {
            queue.clear();
        }
        self.moves.iter_mut().for_each(VecDeque::clear);
        self.news.iter_mut().for_each(VecDeque::clear);
        self.told.iter_mut().for_each(VecDeque::clear);
        let unix_ms = self.wall_ms().saturating_add(jump_ms);
        let time = TimeBase { instant: self.now, unix_ms: u64::try_from(unix_ms).expect("after 1970") };
        let (old, disk) = (self.time, &mut self.disk);
        disk.batches.truncate(kept);
        disk.stored = kept;
        disk.stalled = false;
        disk.messages.clear();
        let mut bytes = Vec::new();
        let batches = std::mem::take(&mut disk.batches);
        for (shard, batch) in batches {
            let again = |record: &Record| {
                bytes.clear();
                record.encode(old, &mut bytes);
                Record::decode(time, &bytes).expect("it has just been encoded").0
            };
            let records = batch.records.iter().map(again).collect();
            disk.submit(shard, Batch { number: 0, records, urgent: batch.urgent });
        }
        self.time = time;
        let mut image = self.disk.image();
        let retained = image.retained.values().flat_map(|topics| topics.values());
        let retained: Vec<_> = retained.filter_map(|id| Some((*id, self.disk.message(*id)?))).collect();
        // The numbers of what was never stored are given again.
        self.disk.lost.retain(|id| self.disk.messages.contains_key(id));
        let lost: Vec<MessageId> = self.disk.lost.iter().copied().collect();
        // As the log does: what it keeps no more is owed to nobody when it opens.
        lost.into_iter().for_each(|id| image.forget(id));
        self.restored_message_max = image.message_max;
        self.voices_known.clear();
        self.start(&image);
        Restored { image: Arc::new(image), retained, standing: Default::default() }
    }

    pub fn socket_at(&self, shard: usize, conn: ConnId) -> Option<usize> {
        let mut open = self.sockets.iter().enumerate().filter(|(_, socket)| !socket.gone);
        open.find(|(_, socket)| socket.shard == shard && socket.conn == Some(conn)).map(|(at, _)| at)
    }

    /// Notes which bytes the shard has written since it was last asked.
    pub fn note_made(&mut self, shard: usize, step: u64) {
        for socket in self.sockets.iter_mut().filter(|s| s.shard == shard && !s.gone) {
            let Some(conn) = socket.conn else { continue };
            let waiting = self.shards[shard].output(conn).map_or(0, |output| output.len());
            let made = socket.taken + waiting as u64;
            if socket.made.back().is_none_or(|(end, ..)| made > *end) {
                socket.made.push_back((made, self.now, step));
            }
        }
    }

    /// Moves what the shard has written to the client's side.
    pub fn take_output(&mut self, at: usize) {
        let socket = &mut self.sockets[at];
        let Some(conn) = socket.conn else { return };
        if let Some(output) = self.shards[socket.shard].output(conn) {
            socket.taken += output.len() as u64;
            socket.down.append(output);
        }
    }

    pub fn open(&mut self, shard: usize, client: usize, version: ProtocolVersion) -> usize {
        let conn = self.shards[shard].open(self.now, self.now + Duration::from_secs(3_600));
        self.sockets.push(Socket {
            shard,
            conn: Some(conn),
            client,
            version,
            up: Vec::new(),
            up_at: 0,
            marks: VecDeque::new(),
            down: Vec::new(),
            read: 0,
            taken: 0,
            made: VecDeque::new(),
            stalled: false,
            wants_write: false,
            server_closed: false,
            client_gone: false,
            gone: false,
        });
        self.sockets.len() - 1
    }

    /// The client has gone: so many of its bytes still arrive.
    pub fn client_leaves(&mut self, at: usize, arriving: usize) {
        let socket = &mut self.sockets[at];
        socket.client_gone = true;
        socket.stalled = false;
        socket.up.truncate(arriving);
        let end = socket.up_at + socket.up.len() as u64;
        socket.marks.retain(|(mark, _)| *mark <= end);
    }

    /// Nothing is on its way between shards, from the admission or the storage.
    pub fn is_quiet(&self) -> bool {
        self.links.iter().flatten().all(VecDeque::is_empty)
            && self.moves.iter().all(VecDeque::is_empty)
            && self.news.iter().all(VecDeque::is_empty)
            && self.told.iter().all(VecDeque::is_empty)
            && self.disk.stored == self.disk.batches.len()
    }

    /// The next batches are stored.
    pub fn commit(&mut self, count: usize) {
        for _ in 0..count {
            let Some((shard, batch)) = self.disk.batches.get(self.disk.stored) else { return };
            self.told[*shard].push_back(Told::Committed(batch.number));
            self.disk.stored += 1;
        }
    }

    /// A counter over all shards and processes.
    pub fn total(&self, of: impl Fn(&Stats) -> u64) -> u64 {
        let now: u64 = self.shards.iter().map(|shard| of(&shard.stats())).sum();
        now + self.before.iter().map(of).sum::<u64>()
    }
}

pub fn lets_read(how: Close) -> bool {
    how != Close::Silent
}
