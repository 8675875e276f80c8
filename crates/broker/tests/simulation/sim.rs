//! The clients, and what they hold against what they get.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;
use std::time::{Duration, Instant};

use drawbridge_broker::{Ended, EndedWhy, ShardConfig};
use drawbridge_mqtt::codec::{
    Ack, Connect, ConnectProperties, Disconnect, Frame, Packet, PacketId, ProtocolVersion, Publish,
    PublishProperties, Qos, ReasonCode, RetainHandling, Side, Subscribe, SubscribeEntry, Unsubscribe,
    UserProperties, Will, WillProperties, decode,
};
use drawbridge_names::{PolicyName, PrincipalName, RegistryName, TopicFilter, TopicName, Uid};
use drawbridge_policy::{Policy, Rights, Variables};

use crate::Rng;
use crate::model::{Asked, Ever, Heard, Owed, Pub, Sess, Wanted, Word, matches};
use crate::turn::at;
use crate::world::{News, Told, World};

pub use ProtocolVersion::{V5, V311};

pub struct Person {
    pub registry: usize,
    pub uid: u64,
    /// Which of the policies.
    pub rights: usize,
    pub blocked: bool,
    pub deleted: bool,
    /// All shards know how it stands since this step.
    pub told: Option<u64>,
    /// It was blocked, and not let in since.
    pub muted: bool,
}

/// Something that a client still has to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Todo {
    /// PUBACK.
    Have(u16),
    /// PUBREC.
    Received(u16),
    /// PUBCOMP, and whether the message was known.
    Complete(u16, bool),
}

/// A message of a client that has not been answered to its end.
#[derive(Debug)]
pub struct Out {
    pub id: u16,
    pub n: u64,
    pub released: bool,
    /// Sent on this connection.
    pub sent: bool,
}

/// One client: what it knows of its session outlives its connections.
pub struct Client {
    pub id: String,
    pub person: usize,
    pub ends: Option<Instant>,
    /// The session that `out` and `received` belong to.
    pub state_of: Option<usize>,
    pub socket: Option<usize>,
    pub connected: bool,
    pub version: ProtocolVersion,
    pub expiry_s: u32,
    pub window: u16,
    /// Its session, as the model has it.
    pub sess: Option<usize>,
    pub next_id: u16,
    pub out: VecDeque<Out>,
    /// QoS 2 messages it has and has not been released from.
    pub received: BTreeMap<u16, u64>,
    pub outstanding: BTreeMap<u16, (Option<u64>, u8)>,
    pub todo: Vec<Todo>,
    pub aliases: BTreeMap<u16, String>,
    pub server_window: u16,
    pub pubacks: VecDeque<u16>,
    pub pubrecs: VecDeque<u16>,
    pub pubcomps: VecDeque<u16>,
    pub subs: VecDeque<(u16, Vec<Sub>)>,
    pub seen_retained: BTreeMap<String, u64>,
}

/// A SUBSCRIBE (`ever`: its place in the session) or an UNSUBSCRIBE that waits for its answer.
#[derive(Debug, Clone)]
pub struct Sub {
    pub filter: String,
    pub ever: Option<usize>,
    /// What stood before was certain.
    pub certain: bool,
}

pub struct Sim {
    pub step: u64,
    pub world: World,
    pub people: Vec<Person>,
    pub rights: Vec<Arc<Rights>>,
    pub clients: Vec<Client>,
    pub pubs: Vec<Pub>,
    pub sess: Vec<Sess>,
    pub owed: Vec<Owed>,
    pub wanted: Vec<Wanted>,
    pub words: BTreeMap<(usize, String), Vec<Word>>,
    pub socket_sess: BTreeMap<usize, usize>,
    pub ended: BTreeSet<usize>,
    pub goodbyes: BTreeSet<usize>,
    pub wills: BTreeMap<usize, u64>,
    pub will_delays: BTreeMap<u64, u32>,
    /// The policies that the session of each connection had, and since when.
    pub socket_rights: BTreeMap<usize, Vec<(u64, usize)>>,
    /// What was said in the CONNECT of each connection.
    pub asked: BTreeMap<usize, Connecting>,
    /// What CONNACK says, or will say, of the session.
    pub presents: BTreeMap<usize, bool>,
    pub loud: bool,
    pub delivered: u64,
}

/// What a CONNECT says, and what comes with its credential.
#[derive(Debug, Clone, Copy)]
pub struct Connecting {
    pub clean: bool,
    pub expiry_s: u32,
    pub ends: Option<Instant>,
    pub person: usize,
    /// The policy when it was judged.
    pub rights: Option<usize>,
}

pub const TOPICS: [&str; 8] = ["a/1", "a/2", "a/x/1", "b", "b/1", "r/1", "r/2", "c/1"];
const FILTERS: [&str; 11] = ["#", "a/#", "a/+", "+/1", "b/#", "b", "r/+", "r/#", "a/1", "+/+", "w/#"];
const POLICIES: [&str; 4] = [
    "[[allow]]\npublish = [\"#\"]\nsubscribe = [\"#\"]\n",
    "[[allow]]\npublish = [\"a/#\", \"w/#\"]\nsubscribe = [\"a/#\", \"r/#\", \"w/#\"]\n",
    "[[allow]]\npublish = [\"#\"]\nsubscribe = [\"#\"]\n[[deny]]\nsubscribe = [\"b/#\"]\n",
    "[[allow]]\npublish = [\"a/#\", \"r/#\", \"b\", \"w/#\"]\nsubscribe = [\"#\"]\n",
];

pub fn registry_name(registry: usize) -> RegistryName {
    RegistryName::parse(&format!("r{registry}")).expect("a name")
}

fn qos(bits: u8) -> Qos {
    [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce][usize::from(bits)]
}

fn id(n: u16) -> PacketId {
    PacketId::new(n).expect("not 0")
}

impl Sim {
    pub fn new(base: Instant, rng: &mut Rng, loud: bool) -> Self {
        let shape = ShardConfig {
            shards: 1 + rng.below(3),
            durable: rng.chance(90),
            inflight_max: *rng.pick(&[1, 2, 5, 1_024]),
            receive_maximum: *rng.pick(&[1, 3, 1_024]),
            queue_messages_max: *rng.pick(&[3, 100_000, 100_000, 100_000]),
            write_buffer_bytes_max: *rng.pick(&[60, 400, 256 << 10, 256 << 10]),
            waiting_bytes_max: *rng.pick(&[2_000, 64 << 20, 64 << 20]),
            topic_aliases_given_max: *rng.pick(&[0, 2, 32]),
            session_expiry_s_max: *rng.pick(&[20, 604_800]),
            ..ShardConfig::default()
        };
        let rights = POLICIES.iter().map(|source| {
            let policy = Policy::parse(&PolicyName::parse("test").expect("a name"), source);
            let device = PrincipalName::parse("test").expect("a name");
            let (registry, attributes) = (RegistryName::default_registry(), Default::default());
            let variables = Variables { device: &device, registry: &registry, attributes: &attributes };
            Arc::new(policy.expect("a policy").compile(&variables).expect("compiles"))
        });
        let rights = rights.collect();
        let mut sim = Self {
            step: 1,
            world: World::new(base, shape),
            people: Vec::new(),
            rights,
            clients: Vec::new(),
            pubs: Vec::new(),
            sess: Vec::new(),
            owed: Vec::new(),
            wanted: Vec::new(),
            words: BTreeMap::new(),
            socket_sess: BTreeMap::new(),
            ended: BTreeSet::new(),
            goodbyes: BTreeSet::new(),
            wills: BTreeMap::new(),
            will_delays: BTreeMap::new(),
            socket_rights: BTreeMap::new(),
            asked: BTreeMap::new(),
            presents: BTreeMap::new(),
            loud,
            delivered: 0,
        };
        for (registry, uid, ids) in [(0, 1, 2), (0, 2, 2), (0, 3, 1), (1, 4, 2), (0, 90, 1), (1, 91, 1)] {
            let rights = if uid >= 90 || uid == 1 { 0 } else { rng.below(POLICIES.len()) };
            sim.people.push(Person {
                registry,
                uid,
                rights,
                blocked: false,
                deleted: false,
                told: Some(0),
                muted: false,
            });
            for n in 0..ids {
                // The same client ids for all: they are the principal's own.
                sim.add_client(sim.people.len() - 1, format!("c{n}"));
            }
        }
        // Number 0 is none.
        let none = sim.message(0, "a/1", 0, false);
        debug_assert_eq!(none, 0);
        sim
    }

    fn add_client(&mut self, person: usize, id: String) {
        self.clients.push(Client {
            id,
            person,
            ends: None,
            state_of: None,
            socket: None,
            connected: false,
            version: V5,
            expiry_s: 0,
            window: 1,
            sess: None,
            next_id: 0,
            out: VecDeque::new(),
            received: BTreeMap::new(),
            outstanding: BTreeMap::new(),
            todo: Vec::new(),
            aliases: BTreeMap::new(),
            server_window: 1,
            pubacks: VecDeque::new(),
            pubrecs: VecDeque::new(),
            pubcomps: VecDeque::new(),
            subs: VecDeque::new(),
            seen_retained: BTreeMap::new(),
        });
    }

    /// The clients that the steps move; the last two look on.
    pub fn actors(&self) -> usize {
        self.clients.len() - 2
    }

    pub fn note(&self, text: impl FnOnce() -> String) {
        if self.loud {
            eprintln!("{:4} {}", self.step, text());
        }
    }

    pub fn may_publish(&self, rights: usize, topic: &str) -> bool {
        TopicName::parse(topic).is_ok_and(|topic| self.rights[rights].may_publish(topic).allowed)
    }

    pub fn may_receive(&self, rights: usize, topic: &str) -> bool {
        TopicName::parse(topic).is_ok_and(|topic| self.rights[rights].may_receive(topic).allowed)
    }

    pub fn may_subscribe(&self, rights: usize, filter: &str) -> bool {
        TopicFilter::parse(filter).is_ok_and(|filter| self.rights[rights].may_subscribe(&filter).allowed)
    }

    fn message(&mut self, client: usize, topic: &str, qos: u8, retain: bool) -> u64 {
        let owner = &self.clients[client];
        let source = match self.own_sess(client).filter(|sess| self.sess[*sess].stored) {
            Some(sess) => sess as u64,
            None => 1_000_000 + owner.socket.unwrap_or(0) as u64,
        };
        self.pubs.push(Pub {
            registry: self.people[owner.person].registry,
            // A connection stays that of whom it was opened for.
            person: owner.socket.and_then(|s| self.asked.get(&s)).map_or(owner.person, |asked| asked.person),
            client,
            source,
            topic: topic.to_owned(),
            qos,
            retain,
            clears: false,
            expires_ms: None,
            is_will: false,
            dead: None,
            not_before: None,
            arrived: None,
            arrivals: 0,
            links: 0,
            firm: None,
            acked: false,
            refusable: false,
            crashed: false,
            lost: false,
        });
        self.pubs.len() as u64 - 1
    }

    /// The session on the connection of a client.
    fn own_sess(&self, client: usize) -> Option<usize> {
        self.socket_sess.get(&self.clients[client].socket?).copied()
    }

    // What clients do.

    fn send(&mut self, client: usize, packet: &Packet<'_>, heard: Option<Heard>) {
        let Some(socket) = self.clients[client].socket else { return };
        self.note(|| format!("client {client} says {:?} {heard:?}", packet.packet_type()));
        let state = &mut self.world.sockets[socket];
        packet.encode(state.version, &mut state.up).expect("a packet");
        let end = state.up_at + state.up.len() as u64;
        state.marks.extend(heard.map(|heard| (end, heard)));
    }

    fn next_id(&mut self, client: usize) -> u16 {
        let client = &mut self.clients[client];
        loop {
            client.next_id = client.next_id % 40 + 1;
            let id = client.next_id;
            let free = client.out.iter().all(|out| out.id != id) && client.subs.iter().all(|(s, _)| *s != id);
            if free {
                return id;
            }
        }
    }

    pub fn connect(&mut self, client: usize, shard: usize, rng: &mut Rng, keep: Option<bool>) {
        self.hang_up_or_leave(client, rng);
        let version = if keep.is_some() || rng.chance(60) { V5 } else { V311 };
        let socket = self.world.open(shard, client, version);
        let clean = keep.map_or_else(|| rng.chance(25), |keep| !keep);
        let expiry_s = match (version, keep) {
            (V311, _) => {
                if clean {
                    0
                } else {
                    u32::MAX
                }
            }
            (V5, Some(false)) => 0,
            (V5, Some(true)) => 600,
            (V5, None) => *rng.pick(&[0, 5, 60, 600, 600, u32::MAX]),
        };
        let now = self.world.now;
        let state = &mut self.clients[client];
        state.socket = Some(socket);
        state.connected = false;
        (state.version, state.expiry_s) = (version, expiry_s);
        state.ends = (keep.is_none() && rng.chance(10))
            .then(|| now + Duration::from_millis(500 + rng.below(40_000) as u64));
        let asked = Connecting { clean, expiry_s, ends: state.ends, person: state.person, rights: None };
        self.asked.insert(socket, asked);
        state.window = if version == V5 { *rng.pick(&[1, 2, 5, u16::MAX]) } else { u16::MAX };
        state.outstanding.clear();
        state.todo.clear();
        state.aliases.clear();
        state.pubacks.clear();
        state.pubrecs.clear();
        state.pubcomps.clear();
        state.subs.clear();
        let (client_id, window) = (state.id.clone(), state.window);
        let rights = self.people[self.clients[client].person].rights;
        let topic = format!("w/{client}");
        let with_will = keep.is_none() && rng.chance(30) && self.may_publish(rights, &topic);
        let mut will_payload = String::new();
        let mut will = None;
        let delay_s = if version == V5 { *rng.pick(&[0, 0, 3, 30]) } else { 0 };
        let will_qos = rng.below(3) as u8;
        if with_will {
            let n = self.message(client, &topic, will_qos, false);
            self.pubs[at(n)].is_will = true;
            self.wills.insert(socket, n);
            self.will_delays.insert(n, delay_s);
            will_payload = n.to_string();
            let properties =
                WillProperties { delay_s: (delay_s > 0).then_some(delay_s), ..Default::default() };
            let topic = TopicName::parse(&topic).expect("a topic");
            will = Some(Will {
                topic,
                payload: will_payload.as_bytes(),
                qos: qos(will_qos),
                retain: false,
                properties,
            });
        }
        let mut properties = ConnectProperties::default();
        if version == V5 {
            properties.session_expiry_s = Some(expiry_s);
            properties.receive_maximum = NonZeroU16::new(window).filter(|_| window < u16::MAX);
            properties.topic_alias_maximum = Some(*rng.pick(&[0, 1, 3]));
        }
        let connect = Connect {
            version,
            clean_start: clean,
            keep_alive_s: 0,
            client_id: &client_id,
            username: Some("unused"),
            password: Some(b"unused"),
            will,
            properties,
        };
        self.note(|| format!("client {client} connects on {shard}: {version:?} clean {clean} expiry {expiry_s} window {window} will {will_payload}"));
        self.send(client, &connect.into(), None);
    }

    /// The client goes on without its connection: it closes it, or leaves it as it is.
    fn hang_up_or_leave(&mut self, client: usize, rng: &mut Rng) {
        if rng.chance(50) {
            self.hang_up(client, rng);
        }
        self.clients[client].socket = None;
        self.clients[client].connected = false;
    }

    pub fn hang_up(&mut self, client: usize, rng: &mut Rng) {
        let Some(socket) = self.clients[client].socket.take() else { return };
        self.clients[client].connected = false;
        let waiting = self.world.sockets[socket].up.len();
        let arriving = *rng.pick(&[0, waiting, rng.clone().below(waiting + 1)]);
        self.note(|| format!("client {client} hangs up, {arriving} of {waiting} bytes arrive"));
        self.world.client_leaves(socket, arriving);
    }

    pub fn disconnect(&mut self, client: usize, rng: &mut Rng, for_good: bool) {
        let Some(socket) = self.clients[client].socket.filter(|_| self.clients[client].connected) else {
            return;
        };
        let v5 = self.clients[client].version == V5;
        let with_will = v5 && !for_good && rng.chance(20);
        let mut packet = Disconnect::of(if with_will {
            ReasonCode::DisconnectWithWill
        } else {
            ReasonCode::NORMAL_DISCONNECTION
        });
        if v5 && self.clients[client].expiry_s > 0 && (for_good || rng.chance(30)) {
            packet.session_expiry_s = Some(if for_good { 0 } else { *rng.pick(&[0, 5, 600]) });
        }
        let heard = Heard::Disconnect { with_will, expiry_s: packet.session_expiry_s };
        self.send(client, &Packet::Disconnect(packet), Some(heard));
        let waiting = self.world.sockets[socket].up.len();
        self.world.client_leaves(socket, waiting);
        self.clients[client].socket = None;
        self.clients[client].connected = false;
    }

    pub fn publish(&mut self, client: usize, rng: &mut Rng) {
        let state = &self.clients[client];
        if !state.connected {
            return;
        }
        let under_way = state.out.len();
        let may_more =
            under_way < usize::from(state.server_window).min(30) && state.out.iter().all(|out| out.sent);
        let bits = if may_more { rng.below(3) as u8 } else { 0 };
        let rights = self.people[state.person].rights;
        let topic = *rng.pick(&TOPICS);
        if !self.may_publish(rights, topic) && !rng.chance(5) {
            return;
        }
        let retain = if topic.starts_with('r') { rng.chance(70) } else { rng.chance(5) };
        let clears = retain && rng.chance(25);
        let life_s = (!retain && state.version == V5 && rng.chance(15)).then(|| 1 + rng.below(30) as u32);
        let n = self.message(client, topic, bits, retain);
        let p = &mut self.pubs[at(n)];
        p.clears = clears;
        // Counted from its arrival.
        p.expires_ms = life_s.map(|s| i64::from(s) * 1_000);
        let id = (bits > 0).then(|| self.next_id(client));
        if let Some(id) = id {
            self.clients[client].out.push_back(Out { id, n, released: false, sent: true });
        }
        self.send_publish(client, n, id, false, life_s);
    }

    fn send_publish(&mut self, client: usize, n: u64, packet: Option<u16>, dup: bool, life_s: Option<u32>) {
        let p = &self.pubs[at(n)];
        let (topic, bits, retain) = (p.topic.clone(), p.qos, p.retain);
        let payload = if p.clears { String::new() } else { n.to_string() };
        let properties = PublishProperties { message_expiry_s: life_s, ..PublishProperties::default() };
        let publish = Publish {
            dup,
            qos: qos(bits),
            retain,
            topic: Some(TopicName::parse(&topic).expect("a topic")),
            packet_id: packet.map(id),
            properties,
            payload: payload.as_bytes(),
        };
        match (bits, packet) {
            (1, Some(id)) => self.clients[client].pubacks.push_back(id),
            (2, Some(id)) => self.clients[client].pubrecs.push_back(id),
            _ => {}
        }
        self.note(|| {
            format!(
                "client {client} publishes {n} on {topic} at {bits} as {packet:?} retain {retain} {life_s:?}"
            )
        });
        self.send(client, &Packet::Publish(publish), Some(Heard::Publish { n }));
    }

    pub fn subscribe(&mut self, client: usize, rng: &mut Rng, filter: Option<&str>) {
        let state = &self.clients[client];
        let Some(sess) = self.own_sess(client).filter(|_| state.connected && state.subs.len() < 5) else {
            return;
        };
        let v5 = state.version == V5;
        let count = if filter.is_some() { 1 } else { 1 + rng.below(2) };
        let identifier = if v5 && rng.chance(40) { 1 + rng.below(5) as u32 } else { 0 };
        let packet = self.next_id(client);
        let mut entries = Vec::new();
        let mut subs = Vec::new();
        let mut chosen = BTreeSet::new();
        for _ in 0..count {
            let filter = filter.map_or_else(
                || *rng.pick(&FILTERS),
                |filter| FILTERS.iter().find(|f| **f == filter).expect("known"),
            );
            if !chosen.insert(filter) {
                continue;
            }
            let asked = Asked {
                qos: if filter == "#" && self.clients[client].person >= 4 { 1 } else { rng.below(3) as u8 },
                no_local: v5 && rng.chance(15),
                as_published: v5 && rng.chance(30),
                identifier,
            };
            let handling = match (v5, rng.below(3)) {
                (false, _) | (true, 0) => RetainHandling::SendAtSubscribe,
                (true, 1) => RetainHandling::SendIfNew,
                (true, _) => RetainHandling::DoNotSend,
            };
            let entry = SubscribeEntry {
                filter,
                qos: qos(asked.qos),
                no_local: asked.no_local,
                retain_as_published: asked.as_published,
                retain_handling: handling,
            };
            entries.push(entry);
            let state = &mut self.sess[sess];
            let is_new = !state.filters.contains_key(filter) && !state.lenient;
            let before = state.filters.entry(filter.to_owned()).or_default();
            let certain = std::mem::take(&mut before.certain);
            let ever = Ever { filter: filter.to_owned(), asked, from: self.step, until: None, allowed: None };
            state.ever.push(ever);
            let ever = state.ever.len() - 1;
            subs.push((Sub { filter: filter.to_owned(), ever: Some(ever), certain }, handling, is_new));
        }
        // What is on its way may meet the old terms or the new ones.
        for owed in self.owed.iter_mut().filter(|o| o.sess == sess && !o.done) {
            let p = &self.pubs[at(owed.n)];
            if p.firm.is_none() {
                owed.exact = None;
                owed.dropped |= subs.iter().any(|(sub, ..)| matches(&sub.filter, &p.topic));
            }
        }
        self.note(|| format!("client {client} subscribes {entries:?} id {identifier}"));
        let marks: Vec<Heard> = subs
            .iter()
            .map(|(sub, handling, is_new)| Heard::Subscribe {
                filter: sub.filter.clone(),
                ever: sub.ever.expect("a subscription"),
                handling: *handling,
                is_new: *is_new,
            })
            .collect();
        let packet = Subscribe {
            packet_id: id(packet),
            subscription_identifier: NonZeroU32::new(identifier),
            user_properties: UserProperties::default(),
            entries,
        };
        let packet_id = packet.packet_id.get();
        self.send(client, &Packet::Subscribe(packet), None);
        let socket = self.clients[client].socket.expect("connected");
        let state = &mut self.world.sockets[socket];
        let end = state.up_at + state.up.len() as u64;
        state.marks.extend(marks.into_iter().map(|heard| (end, heard)));
        let subs = subs.into_iter().map(|(sub, ..)| sub).collect();
        self.clients[client].subs.push_back((packet_id, subs));
    }

    pub fn unsubscribe(&mut self, client: usize, rng: &mut Rng) {
        let state = &self.clients[client];
        let Some(sess) = self.own_sess(client).filter(|_| state.connected && state.subs.len() < 5) else {
            return;
        };
        let filter = *rng.pick(&FILTERS);
        let packet = self.next_id(client);
        if let Some(state) = self.sess[sess].filters.get_mut(filter) {
            state.certain = false;
        }
        for owed in self.owed.iter_mut().filter(|o| o.sess == sess && !o.done) {
            let p = &self.pubs[at(owed.n)];
            if p.firm.is_none() && matches(filter, &p.topic) {
                (owed.dropped, owed.exact) = (true, None);
            }
        }
        // What was retained is not told further.
        let socket = state_socket(&self.clients[client]);
        for wanted in self.wanted.iter_mut().filter(|w| w.socket == socket) {
            wanted.done |= matches(filter, &wanted.topic);
        }
        self.note(|| format!("client {client} unsubscribes {filter}"));
        let unsubscribe = Unsubscribe {
            packet_id: id(packet),
            user_properties: UserProperties::default(),
            filters: vec![filter],
        };
        self.send(client, &Packet::Unsubscribe(unsubscribe), None);
        let sub = Sub { filter: filter.to_owned(), ever: None, certain: false };
        self.clients[client].subs.push_back((packet, vec![sub]));
    }

    /// Says some of what it has to say, in its order as a rule.
    pub fn acknowledge(&mut self, client: usize, rng: &mut Rng, count: usize) {
        for _ in 0..count {
            let state = &mut self.clients[client];
            if !state.connected || state.todo.is_empty() {
                return;
            }
            let place = if rng.chance(80) { 0 } else { rng.below(state.todo.len()) };
            let todo = state.todo.remove(place);
            let v5 = state.version == V5;
            let refuse = v5 && rng.chance(5);
            let reason = if refuse { ReasonCode::ImplementationSpecificError } else { ReasonCode::Success };
            match todo {
                Todo::Have(packet) => {
                    state.outstanding.remove(&packet);
                    self.send(client, &Packet::PubAck(Ack::of(id(packet), reason)), None);
                }
                Todo::Received(packet) => {
                    if refuse {
                        state.outstanding.remove(&packet);
                        let n = state.received.remove(&packet);
                        if let (Some(n), Some(sess)) = (n, self.own_sess(client)) {
                            // It is as if it had not come.
                            let seen = self.sess[sess].seen.entry(n).or_default();
                            seen.apps[2] = seen.apps[2].saturating_sub(1);
                        }
                    }
                    self.send(client, &Packet::PubRec(Ack::of(id(packet), reason)), None);
                }
                Todo::Complete(packet, known) => {
                    self.clients[client].outstanding.remove(&packet);
                    let reason =
                        if known || !v5 { ReasonCode::Success } else { ReasonCode::PacketIdentifierNotFound };
                    self.send(client, &Packet::PubComp(Ack::of(id(packet), reason)), None);
                }
            }
        }
    }

    // What clients hear.

    /// The client reads what has come to it.
    pub fn read(&mut self, client: usize) {
        let Some(socket) = self.clients[client].socket else { return };
        loop {
            let version = self.world.sockets[socket].version;
            let bytes = std::mem::take(&mut self.world.sockets[socket].down);
            let frame = decode(&bytes, Some(version), usize::MAX, Side::FromServer);
            let used = match frame {
                Ok(Frame::Complete { packet, bytes }) => {
                    let state = &mut self.world.sockets[socket];
                    state.read += bytes as u64;
                    let (read, mut made) = (state.read, (self.world.now, self.step));
                    while let Some((end, at, step)) = state.made.front().copied() {
                        if end >= read {
                            made = (at, step);
                            break;
                        }
                        state.made.pop_front();
                    }
                    self.hears(client, socket, &packet, made);
                    bytes
                }
                Ok(Frame::Incomplete { .. }) => 0,
                Err(error) => panic!("the server wrote no packet: {error:?}"),
            };
            let state = &mut self.world.sockets[socket];
            debug_assert!(state.down.is_empty());
            state.down = bytes[used..].to_vec();
            if used == 0 {
                break;
            }
        }
        let state = &self.world.sockets[socket];
        if state.server_closed && state.down.is_empty() {
            self.note(|| format!("client {client} sees the end"));
            self.world.client_leaves(socket, 0);
            self.clients[client].socket = None;
            self.clients[client].connected = false;
        }
    }

    fn hears(&mut self, client: usize, socket: usize, packet: &Packet<'_>, made: (Instant, u64)) {
        let state = &mut self.clients[client];
        assert_eq!(
            state.connected,
            !matches!(packet, Packet::ConnAck(_)),
            "CONNACK first, and once: {packet:?}"
        );
        match packet {
            Packet::ConnAck(connack) => self.welcomed(
                client,
                connack.session_present,
                connack.reason,
                connack.properties.receive_maximum,
            ),
            Packet::Publish(publish) => self.gets(client, socket, publish, made),
            Packet::PubAck(ack) => {
                let expected = state.pubacks.pop_front();
                assert_eq!(expected, Some(ack.packet_id.get()), "PUBACK in order, client {client}");
                self.answered(client, ack.packet_id.get(), ack.reason);
            }
            Packet::PubRec(ack) => {
                let expected = state.pubrecs.pop_front();
                assert_eq!(expected, Some(ack.packet_id.get()), "PUBREC in order, client {client}");
                if ack.reason.is_error() {
                    self.answered(client, ack.packet_id.get(), ack.reason);
                    return;
                }
                let packet = ack.packet_id.get();
                let out = state.out.iter_mut().find(|out| out.id == packet).expect("it is under way");
                out.released = true;
                let n = out.n;
                self.was_acknowledged(n);
                self.release(client, packet);
            }
            Packet::PubRel(ack) => {
                let packet = ack.packet_id.get();
                let known = state.received.remove(&packet).is_some();
                if known {
                    state.outstanding.insert(packet, (None, 2));
                }
                state.todo.push(Todo::Complete(packet, known));
            }
            Packet::PubComp(ack) => {
                let packet = ack.packet_id.get();
                let expected = state.pubcomps.pop_front();
                assert_eq!(expected, Some(packet), "PUBCOMP in order, client {client}");
                state.out.retain(|out| out.id != packet);
                self.send_again(client);
            }
            Packet::SubAck(suback) => self.subscribed(client, suback.packet_id.get(), &suback.codes, true),
            Packet::UnsubAck(unsuback) => {
                self.subscribed(client, unsuback.packet_id.get(), &unsuback.codes, false)
            }
            Packet::Disconnect(disconnect) => {
                self.note(|| {
                    format!(
                        "client {client} is told to go: {:?} {:?}",
                        disconnect.reason, disconnect.reason_string
                    )
                });
            }
            other => panic!("nobody asked for {other:?}"),
        }
    }

    fn welcomed(&mut self, client: usize, present: bool, reason: ReasonCode, window: Option<NonZeroU16>) {
        let state = &mut self.clients[client];
        if reason.is_error() {
            assert!(!present);
            self.note(|| format!("client {client} is refused: {reason:?}"));
            return;
        }
        assert_eq!(state.socket.and_then(|socket| self.presents.get(&socket)), Some(&present));
        state.connected = true;
        state.server_window = window.map_or(u16::MAX, NonZeroU16::get);
        let sess = self.own_sess(client).expect("it has been let in");
        let state = &mut self.clients[client];
        let old = state.state_of.replace(sess);
        // A client that has not seen the end of its old session cannot know that this is another one; there is
        // no help against that in MQTT, so it is told.
        let person = self.sess[sess].person;
        let same = old == Some(sess)
            || (self.sess[sess].lenient && old.is_none_or(|old| self.sess[old].person == person));
        if !present || !same {
            state.out.clear();
            state.received.clear();
            return;
        }
        if self.sess[sess].lenient {
            state.out.iter().for_each(|out| self.pubs[at(out.n)].lost = true);
            if old != Some(sess) {
                state.received.clear(); // perhaps of the session before it
            }
        }
        state.out.iter_mut().for_each(|out| out.sent = false);
        self.send_again(client);
    }

    /// Goes through what was under way on the last connection, in order, as far as the server's window lets it.
    fn send_again(&mut self, client: usize) {
        let now_ms = self.world.wall_ms();
        loop {
            let state = &mut self.clients[client];
            let sent = state.out.iter().filter(|out| out.sent).count();
            let window = usize::from(state.server_window);
            let Some(out) = state.out.iter_mut().find(|out| !out.sent) else { return };
            let (packet, n, released) = (out.id, out.n, out.released);
            if sent >= window {
                return;
            }
            out.sent = true;
            if released {
                self.release(client, packet);
                continue;
            }
            let p = &self.pubs[at(n)];
            let life_s = p.expires_ms.map(|end| {
                let left_ms = if p.arrived.is_some() { end - now_ms } else { end };
                u32::try_from((left_ms / 1_000).max(1)).unwrap_or(1)
            });
            let life_s = life_s.filter(|_| self.clients[client].version == V5);
            if p.expires_ms.is_some() {
                // Sent anew it lives as long as it is said to: nothing is sure about it.
                self.owed.iter_mut().filter(|owed| owed.n == n).for_each(|owed| owed.dropped = true);
                self.pubs[at(n)].lost = true;
            }
            self.send_publish(client, n, Some(packet), true, life_s);
        }
    }

    fn release(&mut self, client: usize, packet: u16) {
        self.clients[client].pubcomps.push_back(packet);
        self.send(client, &Packet::PubRel(Ack::success(id(packet))), None);
    }

    fn was_acknowledged(&mut self, n: u64) {
        self.pubs[at(n)].acked = true;
    }

    /// PUBACK, or a PUBREC that ends it.
    fn answered(&mut self, client: usize, packet: u16, reason: ReasonCode) {
        let state = &mut self.clients[client];
        let place = state.out.iter().position(|out| out.id == packet).expect("it is under way");
        let out = state.out.remove(place).expect("found");
        self.send_again(client);
        let p = &self.pubs[at(out.n)];
        if reason.is_error() {
            let person = &self.people[p.person];
            // What was refused may be heard when it would not be any more.
            let sure = !person.muted && person.told.is_some_and(|since| since <= p.arrived.unwrap_or(0));
            let may = sure && self.may_publish(person.rights, &p.topic) && !person.blocked;
            assert!(p.refusable || !may, "{} on {} refused: {reason:?}", out.n, p.topic);
            return;
        }
        assert!(!p.refusable || p.arrivals > 0, "{} on {} was taken without right", out.n, p.topic);
        self.was_acknowledged(out.n);
    }

    fn subscribed(&mut self, client: usize, packet: u16, codes: &[ReasonCode], subscribing: bool) {
        let (expected, subs) = self.clients[client].subs.pop_front().expect("something was asked");
        assert_eq!(expected, packet, "SUBACK and UNSUBACK in order");
        let sess = self.own_sess(client).expect("connected");
        let newer: BTreeSet<String> = self.clients[client]
            .subs
            .iter()
            .flat_map(|(_, subs)| subs.iter().map(|s| s.filter.clone()))
            .collect();
        let step = self.step;
        let state = &mut self.sess[sess];
        state.certain |= state.stored;
        for (n, sub) in subs.iter().enumerate() {
            match (subscribing, sub.ever) {
                (true, Some(ever)) if state.ever[ever].allowed != Some(true) => {
                    assert!(
                        codes[n].is_error() && state.ever[ever].allowed.is_some(),
                        "{sub:?} {:?}",
                        codes[n]
                    );
                    let older =
                        state.ever[..ever].iter().any(|e| e.filter == sub.filter && e.until.is_none());
                    if !newer.contains(&sub.filter) {
                        match state.filters.get_mut(&sub.filter) {
                            Some(filter) if older => filter.certain = sub.certain,
                            _ => drop(state.filters.remove(&sub.filter)),
                        }
                    }
                }
                (true, Some(ever)) => {
                    assert_eq!(codes[n] as u8, state.ever[ever].asked.qos, "{sub:?}");
                    for older in state.ever[..ever].iter_mut().filter(|e| e.filter == sub.filter) {
                        older.until = older.until.or(Some(step));
                    }
                    if !newer.contains(&sub.filter)
                        && let Some(filter) = state.filters.get_mut(&sub.filter)
                    {
                        filter.certain = true;
                    }
                }
                (true, None) => panic!("{sub:?} is no subscription"),
                (false, _) => {
                    let newer_ever: usize = self.clients[client]
                        .subs
                        .iter()
                        .flat_map(|(_, subs)| subs)
                        .filter(|s| s.filter == sub.filter)
                        .filter_map(|s| s.ever)
                        .min()
                        .unwrap_or(usize::MAX);
                    for (n, older) in state.ever.iter_mut().enumerate() {
                        if older.filter == sub.filter && n < newer_ever {
                            older.until = older.until.or(Some(step));
                        }
                    }
                    if !newer.contains(&sub.filter) {
                        state.filters.remove(&sub.filter);
                    }
                }
            }
        }
    }

    /// A message comes to a client.
    fn gets(&mut self, client: usize, socket: usize, publish: &Publish<'_>, made: (Instant, u64)) {
        self.delivered += 1;
        let state = &mut self.clients[client];
        let bits = publish.qos.bits();
        let alias = publish.properties.topic_alias.map(NonZeroU16::get);
        let topic = match (publish.topic, alias) {
            (Some(topic), alias) => {
                if let Some(alias) = alias {
                    state.aliases.insert(alias, topic.as_str().to_owned());
                }
                topic.as_str().to_owned()
            }
            (None, Some(alias)) => state.aliases.get(&alias).expect("an alias that was defined").clone(),
            (None, None) => panic!("no topic"),
        };
        let n: Option<u64> = std::str::from_utf8(publish.payload).ok().and_then(|text| text.parse().ok());
        let packet = publish.packet_id.map(PacketId::get);
        let sess_at = self.socket_sess[&socket];
        if self.loud {
            eprintln!(
                "{:4} client {client} gets {n:?} on {topic} at {bits} as {packet:?} dup {} retain {}",
                self.step, publish.dup, publish.retain
            );
        }
        assert!(!(bits == 0 && publish.dup), "[MQTT-3.3.1-2]");
        // The packet identifier, and the window.
        let mut is_again = false;
        if let Some(packet) = packet {
            if let Some(held) = state.received.get(&packet) {
                assert_eq!(Some(*held), n, "client {client}: identifier {packet} given twice");
                assert!(bits == 2 && publish.dup, "client {client}: {n:?} sent again without DUP");
                is_again = true;
            }
            let old = state.outstanding.insert(packet, (n, bits));
            assert_eq!(old, None, "client {client}: identifier {packet} is in use");
            let window = usize::from(state.window.min(self.world.shape.inflight_max));
            assert!(state.outstanding.len() <= window, "client {client}: window of {window}");
            state.todo.push(if bits == 1 { Todo::Have(packet) } else { Todo::Received(packet) });
            if let Some(n) = n.filter(|_| bits == 2) {
                state.received.insert(packet, n);
            }
        }
        if let Some(ends) = state.ends {
            assert!(made.0 < ends, "I5: client {client} got {n:?} after the end of its right");
        }
        let Some(n) = n else { return };
        let (p, sess) = (&self.pubs[at(n)], &self.sess[sess_at]);
        let registry = sess.registry;
        assert_eq!(p.registry, registry, "client {client} got {n} of another registry");
        assert_eq!(p.topic, topic);
        assert!(p.arrived.is_some(), "client {client} got {n} before it was said");
        assert!(
            self.might_receive(socket, made.1, &topic),
            "I4: client {client} got {n} on {topic} without right"
        );
        let publisher = &self.people[p.person];
        if let Some(since) = publisher.told {
            let may = !publisher.blocked && !publisher.deleted && self.may_publish(publisher.rights, &topic);
            assert!(may || made.1 <= since, "I4: client {client} got {n} of a publisher without right");
        }
        if p.is_will {
            assert_eq!(p.dead, None, "client {client} got the will {n} that was taken back");
            let due = p.not_before.expect("it has ended");
            assert!(made.0 >= due, "client {client} got the will {n} too early");
        }
        if let Some(end) = p.expires_ms.filter(|_| !p.crashed && !p.lost && !publish.dup) {
            let made_ms = i64::try_from(self.world.time.to_ms(made.0)).expect("small");
            assert!(made_ms <= end + 1, "client {client} got {n} after its expiry");
        }
        if publish.retain {
            self.clients[client].seen_retained.insert(topic.clone(), n);
            for wanted in self.wanted.iter_mut().filter(|w| w.socket == socket && w.n == n) {
                wanted.done = true;
            }
        }
        let (p, sess) = (&self.pubs[at(n)], &self.sess[sess_at]);
        if sess.lenient {
            self.sess[sess_at].seen.entry(n).or_default();
            self.settle_owed(sess_at, n, None);
            return;
        }
        // A will is the word of the server, on behalf of a client that is no more: No Local does not count.
        let own = p.client == client && !p.is_will;
        let step = self.step;
        let possible: Vec<&Ever> = sess.possible(p, step, own).collect();
        assert!(!possible.is_empty(), "client {client} got {n} on {topic}, which it has not subscribed to");
        let most = possible.iter().map(|ever| ever.asked.qos).max().unwrap_or(0).min(p.qos);
        assert!(bits <= most, "client {client} got {n} at QoS {bits}, at most {most}");
        let identifiers: Vec<u32> =
            publish.properties.subscription_identifiers.iter().map(NonZeroU32::get).collect();
        for identifier in &identifiers {
            let known = possible.iter().any(|ever| ever.asked.identifier == *identifier);
            assert!(known, "client {client} got {n} with the identifier {identifier}");
        }
        assert!(p.retain || !publish.retain, "client {client} got {n} as retained");
        // DUP: only what may have been sent to this session before.
        let arrived = p.arrived.unwrap_or(0);
        let broken = sess.breaks.iter().any(|at| *at >= arrived);
        assert!(!publish.dup || broken, "client {client} got {n} with DUP for the first time");
        let seen = sess.seen.get(&n);
        if let Some((old, on)) = seen.and_then(|seen| seen.last)
            && !publish.dup
            && bits > 0
            && on != socket
            && !p.crashed
            && p.arrivals == 1
            && !p.retain
        {
            panic!("client {client} got {n} again without DUP, before as {old}");
        }
        // Once, or at least once; in order.
        let copies =
            if p.retain { 1 + sess.asked_retained.iter().filter(|f| matches(f, &topic)).count() } else { 1 };
        let is_again = is_again || (bits == 1 && publish.dup);
        let mut apps = seen.map_or([0; 3], |seen| seen.apps);
        apps[usize::from(bits)] += u32::from(!is_again);
        let plain = seen.map_or(0, |seen| seen.plain) + u32::from(!publish.dup);
        let copies = u32::try_from(copies).expect("few");
        if p.qos != 1 {
            let once = (bits == 2 || !p.crashed) && !p.lost;
            let counted = if bits == 1 { plain } else { apps[usize::from(bits)] };
            // Of a message published at QoS 2 and acknowledged late a crash may have made two, for those who
            // get it at QoS 1 or 0.
            assert!(!once || counted <= copies, "client {client} got {n} {counted} times");
        } else if !p.crashed {
            assert!(plain <= copies * p.arrivals, "client {client} got {n} {plain} times");
        }
        let key = (p.source, topic.clone(), p.qos * 3 + bits);
        // What is sent anew may come by a subscription that was not there at first.
        let first = seen.is_none() && p.arrivals < 2 && !publish.retain && !(p.retain) && !p.is_will;
        let last = sess.order.get(&key).copied().unwrap_or(0);
        assert!(!first || n > last, "client {client} got {n} after {last}");
        let terms = (bits, publish.retain, identifiers);
        let sess = &mut self.sess[sess_at];
        if first {
            sess.order.insert(key, n);
        }
        let seen = sess.seen.entry(n).or_default();
        (seen.apps, seen.plain) = (apps, plain);
        seen.last = packet.map(|packet| (packet, socket));
        self.settle_owed(sess_at, n, Some(terms));
    }

    /// Whether the rights that the session of a connection had at a step allow it.
    fn might_receive(&self, socket: usize, step: u64, topic: &str) -> bool {
        let had = &self.socket_rights[&socket];
        let last = had.iter().rposition(|(since, _)| *since < step).unwrap_or(0);
        had[last..].iter().take_while(|(since, _)| *since <= step).any(|(_, r)| self.may_receive(*r, topic))
    }

    fn settle_owed(&mut self, sess: usize, n: u64, terms: Option<(u8, bool, Vec<u32>)>) {
        let p = &self.pubs[at(n)];
        let unsure = p.retain || p.lost || p.arrivals > 1;
        for owed in self.owed.iter_mut().filter(|owed| owed.sess == sess && owed.n == n) {
            if let (Some(exact), Some((qos, kept, ids)), false) = (&owed.exact, &terms, unsure || owed.done) {
                let mut ids = ids.clone();
                ids.sort_unstable();
                let mut exact = exact.clone();
                if self.clients[self.sess[sess].client].version == V311 {
                    exact.2.clear();
                }
                assert_eq!(exact, (*qos, *kept, ids), "{n} came on other terms");
            }
            owed.done = true;
        }
    }

    // What operators do.

    /// What is undelivered and not allowed any more is not owed.
    fn judge_owed(&mut self) {
        let doubtful: Vec<usize> = (0..self.owed.len())
            .filter(|at_owed| {
                let owed = &self.owed[*at_owed];
                !owed.done && !self.may_have(owed.sess, &self.pubs[at(owed.n)])
            })
            .collect();
        for at_owed in doubtful {
            let owed = &mut self.owed[at_owed];
            (owed.dropped, owed.denied) = (true, true);
        }
        let doubtful: Vec<usize> = (0..self.wanted.len())
            .filter(|at_wanted| {
                let wanted = &self.wanted[*at_wanted];
                let sess = self.socket_sess.get(&wanted.socket);
                !sess.is_some_and(|sess| self.may_have(*sess, &self.pubs[at(wanted.n)]))
            })
            .collect();
        doubtful.into_iter().for_each(|at| self.wanted[at].done = true);
    }

    fn tell_all(&mut self, which: &Ended) {
        for queue in &mut self.world.news {
            queue.push_back(News::Ends(which.clone()));
        }
        self.judge_owed();
    }

    pub fn new_policy(&mut self, person: usize, rights: usize) {
        if self.people[person].deleted {
            return;
        }
        self.note(|| format!("person {person} gets policy {rights}"));
        let state = &mut self.people[person];
        (state.rights, state.told) = (rights, None);
        let (registry, uid) = (registry_name(state.registry), Uid(state.uid));
        let rights_now = Some(self.rights[rights].clone());
        self.tell_all(&Ended::Policy { registry, uid, rights: rights_now });
        // Sessions that are away are judged by it, too.
        for sess in self.sess.iter_mut().filter(|s| s.person == person && s.socket.is_none()) {
            sess.rights = rights;
        }
    }

    pub fn block(&mut self, person: usize, why: EndedWhy) {
        self.note(|| format!("person {person} ends: {why:?}"));
        let state = &mut self.people[person];
        let (registry, uid) = (registry_name(state.registry), Uid(state.uid));
        state.told = None;
        state.muted = true;
        state.blocked |= matches!(why, EndedWhy::Blocked | EndedWhy::Deleted);
        state.deleted |= why == EndedWhy::Deleted;
        self.tell_all(&Ended::Principal { registry, uid, why });
        if why == EndedWhy::Deleted {
            let gone = |s: &usize| self.sess[*s].person == person && self.sess[*s].socket.is_none();
            let gone: Vec<usize> = (0..self.sess.len()).filter(gone).collect();
            gone.into_iter().for_each(|sess| self.session_gone(sess));
            // Whoever comes under this name is somebody else.
            let (registry, uid, rights) =
                (self.people[person].registry, self.people[person].uid + 100, self.people[person].rights);
            self.people.push(Person {
                registry,
                uid,
                rights,
                blocked: false,
                deleted: false,
                told: Some(0),
                muted: false,
            });
            let newcomer = self.people.len() - 1;
            for client in self.clients.iter_mut().filter(|client| client.person == person) {
                (client.person, client.sess) = (newcomer, None);
            }
        }
    }

    pub fn unblock(&mut self, person: usize) {
        let state = &mut self.people[person];
        // Unblocked before all shards have heard of the block, and let in by one meanwhile, it may stay silent.
        if state.blocked && !state.deleted && state.told.is_some() {
            state.blocked = false;
            state.told = None;
        }
    }

    /// The process dies and is started anew.
    pub fn crash(&mut self, rng: &mut Rng) {
        let submitted = self.world.disk.batches.len() - self.world.disk.stored;
        let kept = self.world.disk.stored + rng.below(submitted + 1);
        let jump_ms = if rng.chance(20) { *rng.pick(&[-40_000, 3_000, 40_000]) } else { 0 };
        self.note(|| {
            format!(
                "crash: {submitted} batches not told, {kept} in all survive, the clock jumps {jump_ms} ms"
            )
        });
        // What has left the machine may still be read.
        for client in 0..self.clients.len() {
            if rng.chance(50) {
                self.read(client);
            }
            self.clients[client].socket = None;
            self.clients[client].connected = false;
        }
        let mut restored = self.world.crash(kept, jump_ms);
        let now_ms = self.world.wall_ms();
        for person in &self.people {
            if !person.deleted {
                let standing = (!person.blocked).then(|| self.rights[person.rights].clone());
                restored.standing.insert((registry_name(person.registry), Uid(person.uid)), standing);
            }
        }
        let (step, now) = (self.step, self.world.now);
        for (socket, state) in self.world.sockets.iter_mut().enumerate().filter(|(_, s)| !s.gone) {
            state.gone = true;
            state.conn = None;
            let Some(sess) = self.socket_sess.get(&socket) else { continue };
            let sess = &mut self.sess[*sess];
            if sess.socket == Some(socket) {
                sess.breaks.push(step);
            }
            if let Some(n) = self.wills.remove(&socket)
                && sess.stored
            {
                let p = &mut self.pubs[at(n)];
                (p.arrived, p.arrivals, p.not_before) = (Some(step), 1, Some(now));
            }
        }
        for sess in &mut self.sess {
            sess.crashed = true;
            sess.deaf |= self.people[sess.person].blocked;
            sess.expires_as_before_or_now();
            sess.ended_ms = match sess.ended_ms {
                Some((lo, hi)) => Some((lo.min(now_ms), hi.max(now_ms))),
                None => Some((sess.ended_old.unwrap_or(now_ms).min(now_ms), now_ms)),
            };
            if sess.socket.take().is_some() && !sess.stored {
                sess.gone = true;
            }
            if jump_ms != 0 {
                sess.expiry_s.0 = sess.expiry_s.0.saturating_sub(50);
            }
        }
        for p in &mut self.pubs {
            p.crashed |= p.arrived.is_some();
            p.links = 0;
            p.firm = p.firm.or(p.arrived.map(|_| step)).filter(|_| !p.is_will);
            if p.is_will {
                if p.dead.is_some_and(|place| place > kept) {
                    p.dead = None;
                }
                if p.arrived.is_some() {
                    p.not_before = Some(p.not_before.map_or(now, |due| due.min(now)));
                }
            }
            if let Some(end) = &mut p.expires_ms
                && jump_ms != 0
                && p.arrived.is_some()
            {
                // It is reckoned by the wall clock.
                *end += 0;
                p.lost = true;
            }
        }
        for at_owed in 0..self.owed.len() {
            let owed = &self.owed[at_owed];
            let p = &self.pubs[at(owed.n)];
            let sess = &self.sess[owed.sess];
            if !p.acked || p.lost || !sess.certain {
                self.owed[at_owed].dropped = true;
            }
        }
        self.wanted.clear();
        for words in self.words.values_mut() {
            for word in words {
                word.certain &= self.pubs[at(word.n)].acked && self.world.shape.durable;
            }
        }
        for person in &mut self.people {
            // All shards know how everybody stands.
            person.told = Some(step);
        }
        let mut after = Vec::new();
        for shard in 0..self.world.shards.len() {
            let mut fx = Vec::new();
            self.world.shards[shard].restore(self.world.now, &restored, &mut fx);
            self.at_once(shard, fx, &mut after);
            self.turn_after(shard, std::mem::take(&mut after));
        }
    }

    fn turn_after(&mut self, shard: usize, effects: Vec<drawbridge_broker::Effect>) {
        if let Some(batch) = self.world.shards[shard].take_batch() {
            self.world.disk.submit(shard, batch);
        }
        let mut fx = Vec::new();
        for effect in effects {
            self.carry_out(shard, effect, &mut fx);
        }
        assert!(fx.is_empty());
    }

    /// The storage forgets a message that somebody waits for.
    pub fn forget(&mut self, rng: &mut Rng) {
        let retained: BTreeSet<_> =
            self.world.disk.image().retained.values().flat_map(|topics| topics.values().copied()).collect();
        let stored: Vec<_> = self
            .world
            .disk
            .messages
            .iter()
            .filter(|(id, message)| !retained.contains(id) && !message.retain)
            .filter_map(|(id, message)| Some((*id, crate::turn::number_of(message)?)))
            .collect();
        if stored.is_empty() {
            return;
        }
        let (message, n) = *rng.pick(&stored);
        self.world.disk.lost.insert(message);
        self.pubs[at(n)].lost = true;
        for owed in self.owed.iter_mut().filter(|owed| owed.n == n) {
            owed.dropped = true;
        }
    }

    /// Nothing is on its way any more: every shard has heard how everybody stands.
    pub fn told_all(&mut self) {
        for person in &mut self.people {
            person.told = person.told.or(Some(self.step));
        }
        // And all is stored.
        self.sess.iter_mut().for_each(|sess| sess.expiry_old = sess.expiry_s);
    }
}

fn state_socket(client: &Client) -> usize {
    client.socket.expect("connected")
}

pub fn stall(world: &mut World, stalled: bool) {
    world.disk.stalled = stalled;
    for queue in &mut world.told {
        queue.push_back(Told::Stalled(stalled));
    }
}
