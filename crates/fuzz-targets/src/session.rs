//! Clients of MQTT, honest ones and others, on shards with a storage that is late, and that loses what it has not
//! stored when the process starts anew.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use drawbridge_broker::storage::{Batch, Image, Record, TimeBase};
use drawbridge_broker::{
    Admitted, Close, ConnId, Directory, Effect, Interest, Message, Restored, Shard, ShardConfig,
};
use drawbridge_mqtt::codec::{Frame, Packet, ProtocolVersion, Qos, Side, decode};
use drawbridge_names::{Epoch, MqttClientId, PolicyName, PrincipalKind, PrincipalName, RegistryName, Uid};
use drawbridge_policy::{Policy, Rights, Variables};

use crate::Outcome;

/// Clients, by number; each is a principal of its own. The last may not read below `deny`.
const CLIENTS: u8 = 4;
const TOPICS: [&str; 5] = ["a/b", "a/c", "a", "deny/a", "$lab/x"];
const FILTERS: [&str; 8] = ["a/b", "a/+", "#", "a/#", "+/+", "$share/g/a/+", "$share/h/#", "deny/#"];
/// How often one session may be sent the same message for the first time: by its plain subscriptions, and by
/// each group above.
const COPIES_MAX: u32 = 3;
const WINDOW_MAX: u16 = 4;
const EXPIRY_S_MAX: u32 = 600;
const UNIX_MS: u64 = 1_800_000_000_000;
const STEPS_MAX: usize = 160;

/// What a message on its way to a client waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owed {
    Ack,
    Rec,
    /// Nothing, until the server has said PUBREL.
    Nothing,
    Comp,
}

/// One connection, as its client sees it.
struct Link {
    shard: usize,
    conn: ConnId,
    who: u8,
    version: ProtocolVersion,
    window: usize,
    /// What the server has said and the client has not read.
    heard: Vec<u8>,
    /// What the client has said and is not yet read here.
    said: Vec<u8>,
    /// It said something that is no MQTT.
    broken: bool,
    closed: bool,
    /// By packet identifier, in the order of arrival.
    inflight: BTreeMap<u16, Owed>,
}

struct Run {
    base: Instant,
    now: Instant,
    shards: Vec<Shard>,
    links: Vec<Link>,
    /// In the order in which they were submitted, with their shards.
    batches: Vec<(usize, Batch)>,
    stored: usize,
    payloads: u32,
    /// Client and payload of first deliveries at QoS 2.
    first: HashMap<(u8, Vec<u8>), u32>,
    reached: BTreeSet<&'static str>,
}

pub(crate) mod mqtt_session {
    use super::*;

    /// The first byte: how many shards. Then steps of four bytes.
    pub(crate) fn run(data: &[u8]) -> Outcome {
        let Some((&shards, steps)) = data.split_first() else { return Outcome::refused("empty") };
        let mut run = Run::new(1 + usize::from(shards) % 3);
        for step in steps.chunks_exact(4).take(STEPS_MAX) {
            run.step([step[0], step[1], step[2], step[3]]);
            run.read_all();
        }
        run.end();
        let reached: Vec<&str> = run.reached.into_iter().collect();
        Outcome(format!("accepted {}", reached.join(", ")))
    }

    /// Each a story; the mutator mixes them.
    pub(crate) fn seeds() -> Vec<Vec<u8>> {
        // Connects: who, bits (1 clean, 2 of 5.0, 4 kept, 8 with a will), window.
        let keeps = |who: u8| [0, who, 0b0110, 3];
        let old = |who: u8| [0, who, 0b0100, 3];
        let clean = |who: u8| [0, who, 0b0011, 0];
        let (all, restart, pass) = ([8, 0xff, 0, 0], [9, 0, 0, 0], |s: u8| [10, s, 0, 0]);
        let subscribe = |who: u8, filter: u8, qos: u8| [2, who, filter, qos];
        let publish = |who: u8, topic: u8, qos: u8, id: u8| [4, who, topic | qos << 4, id];
        let answer = |who: u8| [5, who, 0, 0];
        let stories: Vec<Vec<[u8; 4]>> = vec![
            // QoS 2 both ways, whole.
            vec![
                keeps(0),
                subscribe(0, 1, 2),
                all,
                clean(1),
                publish(1, 0, 2, 1),
                all,
                [6, 1, 1, 0],
                all,
                answer(0),
                all,
                answer(0),
                all,
            ],
            // Broken off after each step, and the process starts anew.
            vec![
                keeps(0),
                subscribe(0, 1, 2),
                all,
                keeps(1),
                publish(1, 0, 2, 1),
                all,
                restart,
                keeps(0),
                answer(0),
                restart,
                keeps(0),
                all,
                answer(0),
                answer(0),
                keeps(1),
                publish(1, 0, 2, 1),
                [6, 1, 1, 0],
                all,
            ],
            // What was not stored is lost, and was not acknowledged.
            vec![
                keeps(0),
                subscribe(0, 2, 1),
                all,
                clean(1),
                publish(1, 1, 1, 1),
                publish(1, 0, 2, 2),
                restart,
                keeps(0),
                all,
                answer(0),
            ],
            // A session away, its queue, its return in the other version, its end.
            vec![
                keeps(0),
                subscribe(0, 1, 1),
                all,
                [1, 0, 0, 0],
                clean(1),
                publish(1, 0, 1, 1),
                publish(1, 1, 2, 2),
                all,
                old(0),
                answer(0),
                answer(0),
                all,
                [7, 0, 0, 0],
                pass(250),
                pass(250),
                pass(250),
                keeps(0),
            ],
            // A group: members at home, away, ended.
            vec![
                keeps(0),
                subscribe(0, 5, 2),
                keeps(1),
                subscribe(1, 5, 1),
                clean(2),
                subscribe(2, 5, 2),
                all,
                clean(3),
                publish(3, 0, 2, 1),
                publish(3, 0, 2, 2),
                publish(3, 0, 1, 3),
                all,
                [1, 0, 0, 0],
                answer(1),
                answer(2),
                clean(0),
                all,
            ],
            // Take-overs, clean and not.
            vec![
                keeps(0),
                subscribe(0, 2, 2),
                all,
                keeps(0),
                clean(1),
                publish(1, 0, 2, 1),
                all,
                old(0),
                clean(0),
                all,
            ],
            // Retained, wills, what the last one may not have.
            vec![
                keeps(3),
                subscribe(3, 2, 2),
                subscribe(3, 7, 1),
                [0, 1, 0b1111, 0],
                publish(1, 3, 2, 1),
                [11, 1, 0, 1],
                all,
                [1, 1, 0, 0],
                pass(20),
                answer(3),
                all,
                [3, 3, 2, 0],
                subscribe(3, 2, 2),
                all,
                restart,
                keeps(3),
            ],
            // Identifiers that are nobody's, packets of a server, half a packet.
            vec![
                keeps(0),
                [6, 0, 9, 0],
                [12, 0, 0x40, 9],
                [12, 0, 0x50, 9],
                [12, 0, 0x70, 9],
                [12, 0, 0x62, 9],
                [13, 0, 0x30, 200],
                clean(0),
                [13, 0, 0x90, 3],
            ],
        ];
        stories.into_iter().enumerate().map(|(n, steps)| [&[n as u8][..], &steps.concat()].concat()).collect()
    }
}

impl Run {
    fn new(shards: usize) -> Self {
        #[expect(clippy::disallowed_methods, reason = "one base instant; all later ones are sums")]
        let base = Instant::now();
        Self {
            base,
            now: base,
            shards: begin(base, shards, &Image::default()),
            links: Vec::new(),
            batches: Vec::new(),
            stored: 0,
            payloads: 0,
            first: HashMap::new(),
            reached: BTreeSet::new(),
        }
    }

    fn step(&mut self, [what, who, one, two]: [u8; 4]) {
        let who = who % CLIENTS;
        match what % 14 {
            0 => self.connect(who, one, two),
            1 => self.hang_up(who),
            2 => {
                let filter = FILTERS[usize::from(one) % FILTERS.len()];
                let shared = filter.starts_with("$share/");
                // Options of 5.0 above the QoS; No Local on a group is a fault of its own.
                let v5 = self.is_v5(who);
                let options = (two % 3) | if v5 && !shared { two & 0x1c } else { 0 };
                let mut body = vec![0, 1 + one % 7];
                if v5 {
                    let identifier = 1 + two % 5;
                    body.extend(if two & 0x40 > 0 { vec![2, 0x0b, identifier] } else { vec![0] });
                }
                body.extend(field(filter));
                body.push(options);
                self.say(who, &packet(0x82, &body));
            }
            3 => {
                let filter = FILTERS[usize::from(one) % FILTERS.len()];
                let mut body = vec![0, 9];
                body.extend(self.is_v5(who).then_some(0));
                body.extend(field(filter));
                self.say(who, &packet(0xa2, &body));
            }
            4 => self.publish(who, one & 0x0f, one >> 4, two, false),
            11 => self.publish(who, one & 0x0f, one >> 4, two, true),
            5 => self.answer(who),
            6 => self.say(who, &[0x62, 2, 0, one]),
            7 => {
                self.say(who, &[0xe0, 0]);
            }
            8 => (0..one).for_each(|_| self.commit_one()),
            9 => self.restart(),
            10 => self.pass(Duration::from_secs(u64::from(one))),
            12 => self.say(who, &[one & 0xf0 | if one >> 4 == 6 { 2 } else { 0 }, 2, 0, two]),
            _ => self.say(who, &[one, two]),
        }
    }

    fn is_v5(&self, who: u8) -> bool {
        self.link_of(who).is_some_and(|at| self.links[at].version == ProtocolVersion::V5)
    }

    fn link_of(&self, who: u8) -> Option<usize> {
        self.links.iter().rposition(|link| link.who == who && !link.closed)
    }

    fn connect(&mut self, who: u8, bits: u8, window: u8) {
        let (clean, v5, keeps, wills) = (bits & 1 > 0, bits & 2 > 0, bits & 4 > 0, bits & 8 > 0);
        let version = if v5 { ProtocolVersion::V5 } else { ProtocolVersion::V311 };
        let asked = u16::from(window % 6);
        let shard = usize::from(who ^ window) % self.shards.len();
        let conn = self.shards[shard].open(self.now, self.now + Duration::from_secs(10));
        let window = if v5 && asked > 0 { asked.min(WINDOW_MAX) } else { WINDOW_MAX };
        self.links.push(Link {
            shard,
            conn,
            who,
            version,
            window: usize::from(window),
            heard: Vec::new(),
            said: Vec::new(),
            broken: false,
            closed: false,
            inflight: BTreeMap::new(),
        });
        let flags = u8::from(clean) << 1 | if wills { 0x0c | (bits & 0x10) << 1 } else { 0 };
        let mut body = field("MQTT");
        body.extend([if v5 { 5 } else { 4 }, flags, 0, 0]);
        if v5 {
            let mut properties = Vec::new();
            if keeps {
                let expiry_s = 30 * (1 + u32::from(bits >> 5));
                properties.push(0x11);
                properties.extend(expiry_s.to_be_bytes());
            }
            if asked > 0 {
                properties.extend([0x21, 0, asked as u8]);
            }
            body.push(properties.len() as u8);
            body.extend(properties);
        }
        body.extend(field(&format!("c{who}")));
        if wills {
            if v5 {
                body.extend([5, 0x18, 0, 0, 0, 10]);
            }
            body.extend(field("a/will"));
            body.extend(field("w"));
        }
        let bytes = packet(0x10, &body);
        // CONNECT is judged by its own rules before there is a version.
        self.carry(shard, |shard, now, fx| shard.receive(now, conn, &bytes, fx));
    }

    fn publish(&mut self, who: u8, topic: u8, qos: u8, id: u8, retain: bool) {
        let (topic, qos) = (TOPICS[usize::from(topic) % TOPICS.len()], qos % 3);
        let mut body = field(topic);
        if qos > 0 {
            body.extend([0, 1 + id % 6]);
        }
        body.extend(self.is_v5(who).then_some(0));
        // Each its own, so that a second copy is seen; sometimes the retained one is taken back.
        if !(retain && id & 0x80 > 0) {
            self.payloads += 1;
            body.extend(self.payloads.to_be_bytes());
        }
        self.say(who, &packet(0x30 | qos << 1 | u8::from(retain), &body));
    }

    /// The client answers the oldest message that it has not answered.
    fn answer(&mut self, who: u8) {
        let Some(at) = self.link_of(who) else { return };
        let mut owed = self.links[at].inflight.iter().filter_map(|(id, owed)| match owed {
            Owed::Ack => Some((*id, 0x40)),
            Owed::Rec => Some((*id, 0x50)),
            Owed::Comp => Some((*id, 0x70)),
            Owed::Nothing => None,
        });
        let Some((id, first_byte)) = owed.next() else { return };
        let [high, low] = id.to_be_bytes();
        self.say(who, &[first_byte, 2, high, low]);
    }

    fn say(&mut self, who: u8, bytes: &[u8]) {
        let Some(at) = self.link_of(who) else { return };
        self.links[at].say(bytes);
        let (shard, conn) = (self.links[at].shard, self.links[at].conn);
        self.carry(shard, |shard, now, fx| shard.receive(now, conn, bytes, fx));
    }

    fn hang_up(&mut self, who: u8) {
        let Some(at) = self.link_of(who) else { return };
        self.links[at].closed = true;
        let (shard, conn) = (self.links[at].shard, self.links[at].conn);
        self.carry(shard, |shard, now, fx| shard.hung_up(now, conn, fx));
    }

    /// Calls a shard and does what it wants done, until nothing is left.
    fn carry(&mut self, shard: usize, call: impl FnOnce(&mut Shard, Instant, &mut Vec<Effect>)) {
        let mut effects = Vec::new();
        call(&mut self.shards[shard], self.now, &mut effects);
        let mut work: Vec<(usize, Effect)> = effects.into_iter().map(|effect| (shard, effect)).collect();
        while !work.is_empty() {
            for (shard, effect) in std::mem::take(&mut work) {
                let mut effects = Vec::new();
                let other = self.carry_out(shard, effect, &mut effects);
                work.extend(effects.into_iter().map(|effect| (other, effect)));
            }
        }
        for (index, shard) in self.shards.iter_mut().enumerate() {
            self.batches.extend(shard.take_batch().map(|batch| (index, batch)));
        }
    }

    fn carry_out(&mut self, shard: usize, effect: Effect, fx: &mut Vec<Effect>) -> usize {
        let now = self.now;
        match effect {
            Effect::Authenticate { conn, .. } => {
                let who = self.links.iter().find(|link| (link.shard, link.conn) == (shard, conn));
                let admitted = admitted(who.expect("it has said CONNECT").who);
                self.shards[shard].answer(now, conn, Ok(admitted), fx);
            }
            Effect::Renew { conn, .. } => {
                let link = self.links.iter().find(|link| (link.shard, link.conn) == (shard, conn));
                if let Some(who) = link.map(|link| link.who) {
                    self.shards[shard].renewed(now, conn, Ok(admitted(who)), fx);
                    self.reached.insert("renewed");
                }
            }
            Effect::Nonce { conn, .. } => self.shards[shard].tell_nonce(now, conn, "nonce", fx),
            Effect::Write { conn } => self.take_output(shard, conn, fx),
            Effect::Close { conn, how } => {
                if how != Close::Silent {
                    self.take_output(shard, conn, fx);
                }
                let link = self.links.iter_mut().find(|link| (link.shard, link.conn) == (shard, conn));
                if let Some(link) = link {
                    link.closed = true;
                }
                self.shards[shard].hung_up(now, conn, fx);
            }
            Effect::Cross { shard: to, crossing } => {
                assert_ne!(shard, to, "a shard sends nothing to itself");
                self.shards[to].crossings(now, vec![crossing], fx);
                return to;
            }
            Effect::Fetch { session, messages } => {
                let known = self.messages();
                let found = messages.into_iter().map(|id| (id, known.get(&id.0).cloned())).collect();
                self.shards[shard].fetched(now, session, found, fx);
                self.reached.insert("fetched");
            }
            Effect::Move { conn, shard: to, moving } => {
                let adopted = self.shards[to].adopt(now, *moving, fx);
                let link = self.links.iter_mut().find(|link| (link.shard, link.conn) == (shard, conn));
                let link = link.expect("it is connected");
                (link.shard, link.conn) = (to, adopted);
                self.reached.insert("moved");
                return to;
            }
            _ => {}
        }
        shard
    }

    /// All messages that were submitted, by their numbers.
    fn messages(&self) -> HashMap<u64, Arc<Message>> {
        let records = self.batches.iter().flat_map(|(_, batch)| &batch.records);
        let messages = records.filter_map(|record| match record {
            Record::Message { id, message, .. } => Some((id.0, Arc::clone(message))),
            _ => None,
        });
        messages.collect()
    }

    fn take_output(&mut self, shard: usize, conn: ConnId, fx: &mut Vec<Effect>) {
        let Some(output) = self.shards[shard].output(conn) else { return };
        let bytes = std::mem::take(output);
        let link = self.links.iter_mut().find(|link| (link.shard, link.conn) == (shard, conn));
        if let Some(link) = link {
            link.heard.extend_from_slice(&bytes);
        }
        self.shards[shard].drained(self.now, conn, fx);
    }

    /// Every client reads all that it was sent, and judges it.
    fn read_all(&mut self) {
        for link in &mut self.links {
            let bytes = std::mem::take(&mut link.heard);
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let packet = match decode(rest, Some(link.version), usize::MAX, Side::FromServer) {
                    Ok(Frame::Complete { packet, bytes }) => {
                        rest = &rest[bytes..];
                        packet
                    }
                    other => panic!("the server said no whole packet to {}: {other:?}", link.who),
                };
                match packet {
                    Packet::ConnAck(connack) => {
                        self.reached.extend(connack.session_present.then_some("resumed"));
                    }
                    Packet::Publish(publish) => {
                        let topic = publish.topic.expect("it takes no alias").as_str();
                        let may = link.who != CLIENTS - 1 || !topic.starts_with("deny/");
                        assert!(may, "{} may not have {topic}", link.who);
                        let Some(id) = publish.packet_id.map(|id| id.get()) else { continue };
                        let owed = if publish.qos == Qos::ExactlyOnce { Owed::Rec } else { Owed::Ack };
                        let old = link.inflight.insert(id, owed);
                        assert!(link.broken || old.is_none(), "{id} is in use: {old:?}");
                        let under_way = link.inflight.len();
                        assert!(link.broken || under_way <= link.window, "{under_way} of {}", link.window);
                        if owed == Owed::Rec {
                            self.reached.insert(if publish.dup { "sent again" } else { "qos 2" });
                        }
                        if owed == Owed::Rec && !publish.dup && !publish.retain && publish.payload != b"w" {
                            let times = self.first.entry((link.who, publish.payload.to_vec())).or_default();
                            *times += 1;
                            assert!(*times <= COPIES_MAX, "{} got {topic} {times} times", link.who);
                        }
                    }
                    // What is sent again on a new connection may be the second half of the exchange alone.
                    Packet::PubRel(ack) if ack.reason.is_error() => {}
                    Packet::PubRel(ack) => {
                        link.inflight.insert(ack.packet_id.get(), Owed::Comp);
                    }
                    _ => {}
                }
            }
        }
        self.links.retain(|link| !link.closed);
    }

    /// The oldest batch that is not stored is stored.
    fn commit_one(&mut self) {
        let Some((shard, batch)) = self.batches.get(self.stored) else { return };
        let (shard, number) = (*shard, batch.number);
        self.stored += 1;
        self.carry(shard, |shard, now, fx| shard.committed(now, number, fx));
    }

    fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        while let Some(at) = self.shards.iter().filter_map(Shard::next_timeout).min().filter(|at| *at <= end)
        {
            self.now = at.max(self.now);
            for shard in 0..self.shards.len() {
                self.carry(shard, |shard, now, fx| shard.tick(now, fx));
            }
        }
        self.now = end;
    }

    /// The process is killed, and another one reads what was stored.
    fn restart(&mut self) {
        self.batches.truncate(self.stored);
        let time = TimeBase { instant: self.base, unix_ms: UNIX_MS };
        let mut image = Image::default();
        let mut known = HashMap::new();
        for record in self.batches.iter_mut().flat_map(|(_, batch)| &mut batch.records) {
            let mut bytes = Vec::new();
            record.encode(time, &mut bytes);
            let (again, read) = Record::decode(time, &bytes).expect("a record that was written");
            assert_eq!(read, bytes.len(), "{record:?}");
            image.apply(&again);
            if let Record::Message { id, message, .. } = &again {
                known.insert(*id, Arc::clone(message));
            }
            *record = again;
        }
        let topics = image.retained.values().flat_map(|topics| topics.values());
        let retained: Vec<_> = topics.map(|id| (*id, Arc::clone(&known[id]))).collect();
        let standing = (0..CLIENTS).map(|who| {
            let admitted = admitted(who);
            ((admitted.registry, admitted.uid), Some(admitted.rights))
        });
        let restored = Restored { standing: standing.collect(), image: Arc::new(image), retained };
        self.links.clear();
        self.shards = begin(self.base, self.shards.len(), &restored.image);
        // The numbers of batches begin anew.
        for shard in 0..self.shards.len() {
            self.carry(shard, |shard, now, fx| shard.restore(now, &restored, fx));
        }
        self.reached.insert("restarted");
    }

    /// Everybody goes and all expires: nothing may be left but what is retained.
    fn end(&mut self) {
        for who in (0..CLIENTS).chain(0..CLIENTS) {
            self.hang_up(who);
        }
        self.read_all();
        for _ in 0..2 {
            while self.stored < self.batches.len() {
                self.commit_one();
            }
            self.pass(Duration::from_secs(u64::from(EXPIRY_S_MAX) + 30));
        }
        while self.stored < self.batches.len() {
            self.commit_one();
        }
        let mut image = Image::default();
        let records = self.batches.iter().flat_map(|(_, batch)| &batch.records);
        records.for_each(|record| image.apply(record));
        assert!(image.sessions.is_empty(), "sessions are left: {:?}", image.sessions);
        let retained: BTreeSet<_> = image.retained.values().flat_map(|topics| topics.values()).collect();
        assert_eq!(image.references.len(), retained.len(), "messages that nobody is owed are left");
        for shard in &self.shards {
            let stats = shard.stats();
            let left = [
                ("connections", stats.connections),
                ("sessions", stats.sessions),
                ("subscriptions", stats.subscriptions),
                ("waiting", stats.waiting),
                ("waiting_bytes", stats.waiting_bytes),
                ("queued", stats.queued),
                ("behind", stats.sessions_behind),
                ("gathering", stats.gathering),
                ("foreign", stats.foreign),
                ("wills", stats.delayed_wills),
            ];
            assert!(left.iter().all(|(_, count)| *count == 0), "left over: {left:?}");
            assert_eq!(stats.retained, retained.len(), "the storage and the shards retain the same");
        }
    }
}

impl Link {
    /// Notes what the answers among the client's bytes mean for what it was sent.
    fn say(&mut self, bytes: &[u8]) {
        self.said.extend_from_slice(bytes);
        while !self.broken && !self.said.is_empty() {
            let (packet, bytes) = match decode(&self.said, Some(self.version), 1 << 20, Side::FromClient) {
                Ok(Frame::Complete { packet, bytes }) => (packet, bytes),
                Ok(Frame::Incomplete { .. }) => return,
                Err(_) => {
                    self.broken = true;
                    return;
                }
            };
            let owed = |id: u16| self.inflight.get(&id).copied();
            match packet {
                Packet::PubAck(ack) if owed(ack.packet_id.get()) == Some(Owed::Ack) => {
                    self.inflight.remove(&ack.packet_id.get());
                }
                Packet::PubRec(ack) if owed(ack.packet_id.get()) == Some(Owed::Rec) => {
                    self.inflight.insert(ack.packet_id.get(), Owed::Nothing);
                }
                // It answers what it was not asked: what it is sent from here on is its own fault.
                Packet::PubComp(ack) if owed(ack.packet_id.get()) == Some(Owed::Nothing) => {
                    self.broken = true;
                }
                Packet::PubComp(ack) if owed(ack.packet_id.get()) == Some(Owed::Comp) => {
                    self.inflight.remove(&ack.packet_id.get());
                }
                _ => {}
            }
            self.said.drain(..bytes);
        }
    }
}

fn begin(base: Instant, shards: usize, image: &Image) -> Vec<Shard> {
    let directory = Arc::new(Directory::new());
    let interest = Arc::new(Interest::restored(shards, image));
    let config = ShardConfig {
        shards,
        durable: true,
        inflight_max: WINDOW_MAX,
        session_expiry_s_max: EXPIRY_S_MAX,
        queue_messages_max: 12,
        topic_aliases_given_max: 0,
        wall_clock: Some((base, UNIX_MS)),
        ..ShardConfig::default()
    };
    let shard = |index| {
        Shard::new(ShardConfig { index, ..config.clone() }, Arc::clone(&directory), Arc::clone(&interest))
    };
    (0..shards).map(shard).collect()
}

fn admitted(who: u8) -> Admitted {
    let text = |kind: &str| format!("{kind}{who}");
    Admitted {
        registry: RegistryName::default_registry(),
        uid: Uid(u64::from(who) + 1),
        name: PrincipalName::parse(&text("app-")).expect("a name"),
        kind: PrincipalKind::Application,
        client_id: MqttClientId::parse(&text("c")).expect("a client id"),
        assigned_client_id: false,
        rights: rights(who),
        ends: None,
        kid: None,
        epoch: Epoch(0),
        policy_epoch: 0,
        sessions_max: 4,
        leading_slash: false,
        proven: false,
        closes: None,
        ticket: None,
    }
}

fn rights(who: u8) -> Arc<Rights> {
    use std::sync::OnceLock;
    static ALL: OnceLock<[Arc<Rights>; 2]> = OnceLock::new();
    let compiled = |policy: &str| {
        let name = PolicyName::parse("test").expect("a name");
        let policy = Policy::parse(&name, policy).expect("a policy");
        let device = PrincipalName::parse("test").expect("a name");
        let (registry, attributes) = (RegistryName::default_registry(), Default::default());
        let variables = Variables { device: &device, registry: &registry, attributes: &attributes };
        Arc::new(policy.compile(&variables).expect("compiles"))
    };
    let all = ALL.get_or_init(|| {
        let allow = "[[allow]]\npublish = [\"#\", \"$lab/#\"]\nsubscribe = [\"#\", \"$lab/#\"]\n";
        [compiled(allow), compiled(&format!("{allow}[[deny]]\nsubscribe = [\"deny/#\"]\n"))]
    });
    Arc::clone(&all[usize::from(who == CLIENTS - 1)])
}

fn packet(first_byte: u8, body: &[u8]) -> Vec<u8> {
    let length = u8::try_from(body.len()).ok().filter(|length| *length < 128).expect("short packets only");
    [&[first_byte, length], body].concat()
}

fn field(text: &str) -> Vec<u8> {
    [&[0, u8::try_from(text.len()).expect("short")], text.as_bytes()].concat()
}
