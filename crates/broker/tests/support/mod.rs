//! Shards, clients and a fake clock in one process without sockets: what a driver would do, step by
//! step. Time moves only by [`Net::pass`].

#![allow(dead_code, reason = "each test file uses its part")]
#![expect(unreachable_pub, reason = "a module of several test files, not a crate")]
#![expect(clippy::disallowed_methods, reason = "one base instant; all later ones are sums")]

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use drawbridge_broker::storage::{Batch, Image, MessageId, Record};
use drawbridge_broker::{
    Admitted, Close, ConnId, ConnectRequest, ControlAck, ControlPublish, Crossing, Directory, Effect,
    Interest, Order, OrderOutcome, Publisher, Refused, RenewRequest, Report, Restored, Shard, ShardConfig,
    Stats, What,
};
use drawbridge_mqtt::codec::{
    Ack, Connect, ConnectProperties, Disconnect, Frame, Packet, PacketId, ProtocolVersion, Publish,
    PublishProperties, Qos, ReasonCode, RetainHandling, Side, Subscribe, SubscribeEntry, Unsubscribe,
    UserProperties, Will, decode,
};
use drawbridge_names::{
    Epoch, KeyId, MqttClientId, PolicyName, PrincipalKind, PrincipalName, RegistryName, TopicName, Uid,
};
use drawbridge_policy::{Policy, Rights, Variables};

#[allow(unused_imports, reason = "each test file uses its part")]
pub use ProtocolVersion::{V5, V311};

/// A packet from the server, owned and shortened to what tests look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Got {
    ConnAck {
        session_present: bool,
        reason: ReasonCode,
        text: Option<String>,
        session_expiry_s: Option<u32>,
        keep_alive_s: Option<u16>,
    },
    Message(Message),
    PubAck {
        id: u16,
        reason: ReasonCode,
        text: Option<String>,
    },
    PubRec(u16, ReasonCode),
    PubRel(u16, ReasonCode),
    PubComp(u16, ReasonCode),
    SubAck(Vec<ReasonCode>),
    UnsubAck(Vec<ReasonCode>),
    Pong,
    Auth {
        reason: ReasonCode,
        method: Option<String>,
        data: Option<Vec<u8>>,
        user: Vec<(String, String)>,
    },
    Disconnect {
        reason: ReasonCode,
        text: Option<String>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Message {
    pub topic: String,
    pub payload: Vec<u8>,
    pub qos: u8,
    pub retain: bool,
    pub dup: bool,
    pub id: Option<u16>,
    pub subscriptions: Vec<u32>,
    pub expiry_s: Option<u32>,
    pub user: Vec<(String, String)>,
    pub content_type: Option<String>,
}

pub struct Client {
    pub shard: usize,
    pub conn: ConnId,
    pub version: ProtocolVersion,
    /// Takes no bytes: its output stays in the shard.
    pub stalled: bool,
    pub inbox: Vec<u8>,
    pub closed: Option<Close>,
    next_id: u16,
}

/// Several shards and their clients.
pub struct Net {
    pub now: Instant,
    pub base: Instant,
    pub shards: Vec<Shard>,
    pub directory: Arc<Directory>,
    pub clients: Vec<Client>,
    /// Unanswered questions: shard, connection, request.
    pub asked: Vec<(usize, ConnId, Box<ConnectRequest>)>,
    /// The same of renewals.
    pub renewals: Vec<(usize, ConnId, Box<RenewRequest>)>,
    /// Tokens on `authz-info`.
    pub tokens: Vec<(usize, ConnId, Vec<u8>)>,
    pub reports: Vec<Report>,
    pub controls: Vec<(usize, ConnId, Option<ControlAck>, ControlPublish)>,
    pub orders_done: Vec<(u64, OrderOutcome)>,
    pub crossings: usize,
    /// What shards send each other waits for [`Net::cross`].
    pub late_links: bool,
    /// From, to, and what.
    pub links: VecDeque<(usize, usize, Crossing)>,
    pub disk: Disk,
    /// Nobody knows them when the process starts anew.
    pub deleted: Vec<Uid>,
    settle: Box<dyn Fn(&mut ShardConfig)>,
}

/// A storage without files: what was submitted, and how much of it is stored.
#[derive(Default)]
pub struct Disk {
    /// In the order in which they came, with their shards.
    pub batches: Vec<(usize, Batch)>,
    /// So many of them are stored.
    pub stored: usize,
    /// Nothing is stored until [`Net::commit`].
    pub slow: bool,
    /// Messages that were dropped because they were too old.
    pub lost: HashSet<MessageId>,
}

impl Disk {
    /// The records that survive.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.batches.iter().take(self.stored).flat_map(|(_, batch)| &batch.records)
    }

    fn message(&self, wanted: MessageId) -> Option<Arc<drawbridge_broker::Message>> {
        let records = self.batches.iter().flat_map(|(_, batch)| &batch.records);
        let mut messages = records.filter_map(|record| match record {
            Record::Message { id, message, .. } if *id == wanted => Some(Arc::clone(message)),
            _ => None,
        });
        messages.next().filter(|_| !self.lost.contains(&wanted))
    }

    pub fn image(&self) -> Image {
        let mut image = Image::default();
        self.records().for_each(|record| image.apply(record));
        image
    }
}

impl Net {
    pub fn new(shards: usize) -> Self {
        Self::with(shards, |_| {})
    }

    /// Shards with a storage: sessions may outlive their connections.
    pub fn durable(shards: usize) -> Self {
        Self::with(shards, |config| config.durable = true)
    }

    pub fn with(shards: usize, settle: impl Fn(&mut ShardConfig) + 'static) -> Self {
        let base = Instant::now();
        Self::starting(base, base, shards, Disk::default(), Box::new(settle))
    }

    /// The process is killed and starts anew, with what is stored. All connections are gone. Everybody whose
    /// session or message is stored may still everything.
    pub fn restart(&mut self) {
        self.restart_with(|_| Some(rights(&["#"], &["#"])));
    }

    pub fn restart_with(&mut self, standing: impl Fn(Uid) -> Option<Arc<Rights>>) {
        let mut disk = std::mem::take(&mut self.disk);
        disk.batches.truncate(disk.stored);
        let shards = self.shards.len();
        let settle = std::mem::replace(&mut self.settle, Box::new(|_| {}));
        let image = Arc::new(disk.image());
        let topics = image.retained.values().flat_map(|topics| topics.values());
        let retained = topics.filter_map(|id| Some((*id, disk.message(*id)?)));
        let retained: Vec<_> = retained.collect();
        let owners = image.sessions.values().map(|s| (s.session.registry.clone(), s.session.uid));
        let publishers = retained.iter().map(|(_, m)| (m.registry.clone(), m.publisher.uid));
        let known = owners.chain(publishers).filter(|(_, uid)| !self.deleted.contains(uid));
        let standing = known.map(|key| (key.clone(), standing(key.1))).collect();
        let restored = Restored { image, retained, standing };
        // The numbers of batches begin anew.
        *self = Self::starting(self.base, self.now, shards, disk, settle);
        self.disk.batches.iter_mut().for_each(|(_, batch)| batch.number = 0);
        for shard in 0..shards {
            self.run(shard, |shard, now, fx| shard.restore(now, &restored, fx));
        }
    }

    fn starting(
        base: Instant,
        now: Instant,
        shards: usize,
        disk: Disk,
        settle: Box<dyn Fn(&mut ShardConfig)>,
    ) -> Self {
        let directory = Arc::new(Directory::new());
        let interest = Arc::new(Interest::restored(shards, &disk.image()));
        let shards = (0..shards)
            .map(|index| {
                let wall_clock = Some((base, 1_800_000_000_000));
                let mut config = ShardConfig { index, shards, wall_clock, ..ShardConfig::default() };
                settle(&mut config);
                Shard::new(config, Arc::clone(&directory), Arc::clone(&interest))
            })
            .collect();
        Self {
            now,
            base,
            shards,
            directory,
            clients: Vec::new(),
            asked: Vec::new(),
            renewals: Vec::new(),
            tokens: Vec::new(),
            reports: Vec::new(),
            controls: Vec::new(),
            orders_done: Vec::new(),
            crossings: 0,
            late_links: false,
            links: VecDeque::new(),
            disk,
            deleted: Vec::new(),
            settle,
        }
    }

    /// Calls a shard and carries out its effects, until none is left.
    pub fn run(&mut self, shard: usize, call: impl FnOnce(&mut Shard, Instant, &mut Vec<Effect>)) {
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
        self.submit();
        if !self.disk.slow {
            self.commit();
        }
    }

    fn submit(&mut self) {
        for (index, shard) in self.shards.iter_mut().enumerate() {
            if let Some(batch) = shard.take_batch() {
                self.disk.batches.push((index, batch));
            }
        }
    }

    /// Everything that was submitted is stored.
    pub fn commit(&mut self) {
        while self.disk.stored < self.disk.batches.len() {
            self.commit_one();
        }
    }

    /// The oldest batch that is not stored is stored.
    pub fn commit_one(&mut self) {
        let Some((shard, batch)) = self.disk.batches.get(self.disk.stored) else { return };
        let (shard, number) = (*shard, batch.number);
        self.disk.stored += 1;
        let slow = std::mem::replace(&mut self.disk.slow, true);
        self.run(shard, |shard, now, fx| shard.committed(now, number, fx));
        self.disk.slow = slow;
    }

    fn carry_out(&mut self, shard: usize, effect: Effect, fx: &mut Vec<Effect>) -> usize {
        match effect {
            Effect::Authenticate { conn, request } => self.asked.push((shard, conn, request)),
            Effect::Renew { conn, request } => self.renewals.push((shard, conn, request)),
            Effect::AuthzInfo { conn, token } => self.tokens.push((shard, conn, token.to_vec())),
            Effect::Nonce { conn, .. } => self.shards[shard].tell_nonce(self.now, conn, "a-nonce", fx),
            Effect::Write { conn } => self.take_output(shard, conn, fx),
            Effect::Admitted { .. } => {}
            Effect::Close { conn, how } => {
                if how != Close::Silent {
                    self.take_output(shard, conn, fx);
                }
                if let Some(client) = self.client_at(shard, conn) {
                    assert_eq!(client.closed, None, "closed once");
                    client.closed = Some(how);
                }
                self.shards[shard].hung_up(self.now, conn, fx);
            }
            Effect::Cross { shard: to, crossing } => {
                assert_ne!(shard, to);
                self.crossings += 1;
                if self.late_links {
                    self.links.push_back((shard, to, crossing));
                    return shard;
                }
                self.shards[to].crossings(self.now, vec![crossing], fx);
                return to;
            }
            Effect::Control { conn, ack, publish } => self.controls.push((shard, conn, ack, publish)),
            Effect::OrderDone { order, outcome } => self.orders_done.push((order, outcome)),
            Effect::Report(report) => self.reports.push(report),
            Effect::Resume { .. } => {}
            Effect::Fetch { session, messages } => {
                let found = messages.into_iter().map(|id| (id, self.disk.message(id))).collect();
                self.shards[shard].fetched(self.now, session, found, fx);
            }
            Effect::Move { conn, shard: to, moving } => {
                assert_ne!(shard, to);
                // What the client hears before it has its new place is heard there.
                let adopted = self.shards[to].adopt(self.now, *moving, fx);
                let client = self.client_at(shard, conn).expect("it is connected");
                (client.shard, client.conn) = (to, adopted);
                return to;
            }
        }
        shard
    }

    /// What `from` has sent to other shards arrives, and what comes of that from there stays under way.
    pub fn cross_from(&mut self, from: usize) {
        let (arrives, stays) = std::mem::take(&mut self.links).into_iter().partition(|(f, ..)| *f == from);
        let arrives: VecDeque<_> = arrives;
        self.links = stays;
        for (_, to, crossing) in arrives {
            self.run(to, |shard, now, fx| shard.crossings(now, vec![crossing], fx));
        }
    }

    /// Everything that is under way between shards arrives, and what comes of it.
    pub fn cross(&mut self) {
        while let Some((_, to, crossing)) = self.links.pop_front() {
            self.run(to, |shard, now, fx| shard.crossings(now, vec![crossing], fx));
        }
    }

    fn client_at(&mut self, shard: usize, conn: ConnId) -> Option<&mut Client> {
        self.clients.iter_mut().find(|client| (client.shard, client.conn) == (shard, conn))
    }

    fn take_output(&mut self, shard: usize, conn: ConnId, fx: &mut Vec<Effect>) {
        if self.client_at(shard, conn).is_some_and(|client| client.stalled) {
            return;
        }
        let Some(output) = self.shards[shard].output(conn) else { return };
        let bytes = std::mem::take(output);
        if let Some(client) = self.client_at(shard, conn) {
            client.inbox.extend_from_slice(&bytes);
        }
        self.shards[shard].drained(self.now, conn, fx);
    }

    /// The client reads again.
    pub fn unstall(&mut self, client: usize) {
        self.clients[client].stalled = false;
        let (shard, conn) = (self.clients[client].shard, self.clients[client].conn);
        let bytes = std::mem::take(self.shards[shard].output(conn).expect("connected"));
        self.clients[client].inbox.extend_from_slice(&bytes);
        self.run(shard, |shard, now, fx| shard.drained(now, conn, fx));
    }

    /// Time passes in steps of 10 ms at most, and every shard is told when it asked to be.
    pub fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            let next = self.shards.iter().filter_map(Shard::next_timeout).min();
            match next {
                Some(at) if at <= end => self.now = at.max(self.now),
                _ => break,
            }
            for shard in 0..self.shards.len() {
                self.run(shard, |shard, now, fx| shard.tick(now, fx));
            }
        }
        self.now = end;
    }

    pub fn open(&mut self, shard: usize, version: ProtocolVersion) -> usize {
        let now = self.now;
        let conn = self.shards[shard].open(now, now + Duration::from_secs(10));
        self.clients.push(Client {
            shard,
            conn,
            version,
            stalled: false,
            inbox: Vec::new(),
            closed: None,
            next_id: 0,
        });
        self.clients.len() - 1
    }

    pub fn send_bytes(&mut self, client: usize, bytes: &[u8]) {
        let (shard, conn) = (self.clients[client].shard, self.clients[client].conn);
        self.run(shard, |shard, now, fx| shard.receive(now, conn, bytes, fx));
    }

    pub fn send(&mut self, client: usize, packet: &Packet<'_>) {
        let bytes = encode(self.clients[client].version, packet);
        self.send_bytes(client, &bytes);
    }

    pub fn hang_up(&mut self, client: usize) {
        let (shard, conn) = (self.clients[client].shard, self.clients[client].conn);
        self.run(shard, |shard, now, fx| shard.hung_up(now, conn, fx));
    }

    /// Opens, connects and is admitted: the usual start.
    pub fn connect(&mut self, shard: usize, version: ProtocolVersion, admitted: Admitted) -> usize {
        self.connect_with(shard, version, admitted, |_| {})
    }

    pub fn connect_with(
        &mut self,
        shard: usize,
        version: ProtocolVersion,
        admitted: Admitted,
        change: impl FnOnce(&mut Connect<'_>),
    ) -> usize {
        let client = self.open(shard, version);
        let id = admitted.client_id.clone();
        let mut packet = connect(version, id.as_str());
        change(&mut packet);
        self.send(client, &packet.into());
        self.answer(client, Ok(admitted));
        client
    }

    /// As [`Self::connect`], and the CONNACK is looked at and removed.
    pub fn join(&mut self, shard: usize, version: ProtocolVersion, admitted: Admitted) -> usize {
        let client = self.connect(shard, version, admitted);
        self.expect_welcome(client);
        client
    }

    pub fn expect_welcome(&mut self, client: usize) {
        let got = self.got(client);
        assert!(matches!(got[..], [Got::ConnAck { reason: ReasonCode::Success, .. }]), "{got:?}");
    }

    pub fn answer(&mut self, client: usize, answer: Result<Admitted, Refused>) {
        let (shard, conn) = (self.clients[client].shard, self.clients[client].conn);
        let at = self.asked.iter().position(|(s, c, _)| (*s, *c) == (shard, conn));
        self.asked.remove(at.expect("the shard has asked"));
        self.run(shard, |shard, now, fx| shard.answer(now, conn, answer, fx));
    }

    /// What the client wants to renew its session with.
    pub fn renewal(&mut self, client: usize) -> Box<RenewRequest> {
        let (shard, conn) = (self.clients[client].shard, self.clients[client].conn);
        let at = self.renewals.iter().position(|(s, c, _)| (*s, *c) == (shard, conn));
        self.renewals.remove(at.expect("the shard has asked")).2
    }

    /// Admission says what becomes of it.
    pub fn renewed(&mut self, client: usize, answer: Result<Admitted, Refused>) {
        let (shard, conn) = (self.clients[client].shard, self.clients[client].conn);
        self.run(shard, |shard, now, fx| shard.renewed(now, conn, answer, fx));
    }

    pub fn subscribe(&mut self, client: usize, filter: &str, qos: Qos) -> Vec<Got> {
        self.subscribe_as(client, SubscribeEntry::of(filter, qos), None)
    }

    pub fn subscribe_as(
        &mut self,
        client: usize,
        entry: SubscribeEntry<'_>,
        identifier: Option<u32>,
    ) -> Vec<Got> {
        let packet_id = self.next_id(client);
        let subscribe = Subscribe {
            packet_id,
            subscription_identifier: identifier.and_then(std::num::NonZeroU32::new),
            user_properties: UserProperties::default(),
            entries: vec![entry],
        };
        self.send(client, &Packet::Subscribe(subscribe));
        self.got(client)
    }

    pub fn unsubscribe(&mut self, client: usize, filter: &str) -> Vec<Got> {
        let packet_id = self.next_id(client);
        let packet =
            Unsubscribe { packet_id, user_properties: UserProperties::default(), filters: vec![filter] };
        self.send(client, &Packet::Unsubscribe(packet));
        self.got(client)
    }

    pub fn publish(&mut self, client: usize, topic: &str, payload: &[u8], qos: Qos) -> Option<PacketId> {
        self.publish_with(client, topic, payload, qos, false, PublishProperties::default())
    }

    pub fn retain(&mut self, client: usize, topic: &str, payload: &[u8]) {
        self.publish_with(client, topic, payload, Qos::AtMostOnce, true, PublishProperties::default());
    }

    pub fn publish_with(
        &mut self,
        client: usize,
        topic: &str,
        payload: &[u8],
        qos: Qos,
        retain: bool,
        properties: PublishProperties<'_>,
    ) -> Option<PacketId> {
        let packet_id = (qos != Qos::AtMostOnce).then(|| self.next_id(client));
        let topic = TopicName::parse(topic).expect("a topic");
        let publish = Publish { dup: false, qos, retain, topic: Some(topic), packet_id, properties, payload };
        self.send(client, &Packet::Publish(publish));
        packet_id
    }

    pub fn acknowledge(&mut self, client: usize, id: u16) {
        let packet_id = PacketId::new(id).expect("not 0");
        self.send(client, &Packet::PubAck(Ack::success(packet_id)));
    }

    /// As [`Self::join`], without Clean Start, and the session is kept for `expiry_s`; whether it was there.
    pub fn rejoin(
        &mut self,
        shard: usize,
        version: ProtocolVersion,
        admitted: Admitted,
        expiry_s: u32,
    ) -> (usize, bool) {
        let client = self.connect_with(shard, version, admitted, |connect| {
            connect.clean_start = false;
            if version == V5 {
                connect.properties.session_expiry_s = Some(expiry_s);
            }
        });
        match self.take_first(client) {
            Some(Got::ConnAck { session_present, reason: ReasonCode::Success, .. }) => {
                (client, session_present)
            }
            other => panic!("{other:?}"),
        }
    }

    /// The first packet of what a client has received; the others stay.
    pub fn take_first(&mut self, client: usize) -> Option<Got> {
        let client = &mut self.clients[client];
        match decode(&client.inbox, Some(client.version), usize::MAX, Side::FromServer) {
            Ok(Frame::Complete { packet, bytes }) => {
                let got = owned(&packet);
                client.inbox.drain(..bytes);
                Some(got)
            }
            _ => None,
        }
    }

    pub fn next_id(&mut self, client: usize) -> PacketId {
        let client = &mut self.clients[client];
        client.next_id += 1;
        PacketId::new(client.next_id).expect("fewer than 65,535 in a test")
    }

    /// What a client has received since it was last asked.
    pub fn got(&mut self, client: usize) -> Vec<Got> {
        let client = &mut self.clients[client];
        let bytes = std::mem::take(&mut client.inbox);
        let mut rest = &bytes[..];
        let mut got = Vec::new();
        while !rest.is_empty() {
            match decode(rest, Some(client.version), usize::MAX, Side::FromServer) {
                Ok(Frame::Complete { packet, bytes }) => {
                    got.push(owned(&packet));
                    rest = &rest[bytes..];
                }
                other => panic!("the server sent no whole packet: {other:?}"),
            }
        }
        got
    }

    /// The messages among what a client has received; the rest is dropped.
    pub fn messages(&mut self, client: usize) -> Vec<Message> {
        let messages = self.got(client).into_iter().filter_map(|got| match got {
            Got::Message(message) => Some(message),
            _ => None,
        });
        messages.collect()
    }

    pub fn topics(&mut self, client: usize) -> Vec<String> {
        self.messages(client).into_iter().map(|message| message.topic).collect()
    }

    pub fn payloads(&mut self, client: usize) -> Vec<String> {
        let text = |message: Message| String::from_utf8(message.payload).expect("text");
        self.messages(client).into_iter().map(text).collect()
    }

    pub fn order(&mut self, shard: usize, order: Order) {
        self.run(shard, |shard, now, fx| shard.publish(now, order, fx));
    }

    pub fn stats(&self) -> Stats {
        assert_eq!(self.shards.len(), 1);
        self.shards[0].stats()
    }

    pub fn whats(&self) -> Vec<&What> {
        self.reports.iter().map(|report| &report.what).collect()
    }

    pub fn reported(&self, code: &str) -> usize {
        self.reports.iter().filter(|report| report.what.code() == Some(code)).count()
    }
}

fn owned(packet: &Packet<'_>) -> Got {
    let text = |text: Option<&str>| text.map(str::to_owned);
    match packet {
        Packet::ConnAck(p) => Got::ConnAck {
            session_present: p.session_present,
            reason: p.reason,
            text: text(p.properties.reason_string),
            session_expiry_s: p.properties.session_expiry_s,
            keep_alive_s: p.properties.server_keep_alive_s,
        },
        Packet::Publish(p) => Got::Message(Message {
            topic: p.topic.expect("no alias from this server").as_str().to_owned(),
            payload: p.payload.to_vec(),
            qos: p.qos.bits(),
            retain: p.retain,
            dup: p.dup,
            id: p.packet_id.map(PacketId::get),
            subscriptions: p
                .properties
                .subscription_identifiers
                .iter()
                .map(std::num::NonZeroU32::get)
                .collect(),
            expiry_s: p.properties.message_expiry_s,
            user: p.properties.user_properties.iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
            content_type: text(p.properties.content_type),
        }),
        Packet::PubAck(p) => {
            Got::PubAck { id: p.packet_id.get(), reason: p.reason, text: text(p.reason_string) }
        }
        Packet::PubRec(p) => Got::PubRec(p.packet_id.get(), p.reason),
        Packet::PubRel(p) => Got::PubRel(p.packet_id.get(), p.reason),
        Packet::PubComp(p) => Got::PubComp(p.packet_id.get(), p.reason),
        Packet::SubAck(p) => Got::SubAck(p.codes.clone()),
        Packet::UnsubAck(p) => Got::UnsubAck(p.codes.clone()),
        Packet::PingResp => Got::Pong,
        Packet::Auth(p) => Got::Auth {
            reason: p.reason,
            method: text(p.method),
            data: p.data.map(<[u8]>::to_vec),
            user: p.user_properties.iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
        },
        Packet::Disconnect(p) => Got::Disconnect { reason: p.reason, text: text(p.reason_string) },
        other => panic!("a server does not send this: {other:?}"),
    }
}

pub fn encode(version: ProtocolVersion, packet: &Packet<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    packet.encode(version, &mut bytes).expect("a packet");
    bytes
}

pub fn connect(version: ProtocolVersion, client_id: &str) -> Connect<'_> {
    Connect {
        version,
        clean_start: true,
        keep_alive_s: 0,
        client_id,
        username: Some("unused"),
        password: Some(b"a.jwt.here"),
        will: None,
        properties: ConnectProperties::default(),
    }
}

pub fn will<'a>(topic: &'a str, payload: &'a [u8]) -> Will<'a> {
    let topic = TopicName::parse(topic).expect("a topic");
    Will { topic, payload, qos: Qos::AtLeastOnce, retain: false, properties: Default::default() }
}

pub fn goodbye(reason: ReasonCode) -> Packet<'static> {
    Packet::Disconnect(Disconnect::of(reason))
}

pub fn rights(publish: &[&str], subscribe: &[&str]) -> Arc<Rights> {
    let mut policy = "[[allow]]\n".to_owned();
    for (word, patterns) in [("publish", publish), ("subscribe", subscribe)] {
        if !patterns.is_empty() {
            policy += &format!("{word} = {patterns:?}\n");
        }
    }
    compiled(&policy, "test")
}

pub fn compiled(policy: &str, device: &str) -> Arc<Rights> {
    let name = PolicyName::parse("test").expect("a name");
    let policy = Policy::parse(&name, policy).expect("a policy");
    let device = PrincipalName::parse(device).expect("a name");
    let registry = RegistryName::default_registry();
    let attributes = Default::default();
    let variables = Variables { device: &device, registry: &registry, attributes: &attributes };
    Arc::new(policy.compile(&variables).expect("compiles"))
}

/// An application that may everything, with the number `uid`.
pub fn app(uid: u64) -> Admitted {
    Admitted {
        registry: RegistryName::default_registry(),
        uid: Uid(uid),
        name: PrincipalName::parse(&format!("app-{uid}")).expect("a name"),
        kind: PrincipalKind::Application,
        client_id: MqttClientId::parse(&format!("client-{uid}")).expect("a client id"),
        assigned_client_id: false,
        rights: rights(&["#"], &["#"]),
        ends: None,
        kid: None,
        epoch: Epoch(0),
        policy_epoch: 0,
        sessions_max: 100,
        leading_slash: false,
        proven: false,
        closes: None,
        ticket: None,
    }
}

/// A device under the template `device`.
pub fn device(uid: u64, name: &str) -> Admitted {
    let template = Policy::device_template();
    Admitted {
        name: PrincipalName::parse(name).expect("a name"),
        kind: PrincipalKind::Device,
        client_id: MqttClientId::parse(name).expect("a client id"),
        rights: compiled(template.source(), name),
        sessions_max: 1,
        ..app(uid)
    }
}

pub fn kid(letter: char) -> KeyId {
    KeyId::parse(&letter.to_string().repeat(43)).expect("a thumbprint")
}

pub fn command(net: &Net, id: u64, to: u64, topic: &str) -> Order {
    Order {
        id,
        registry: RegistryName::default_registry(),
        topic: topic.to_owned(),
        payload: Arc::from(&b"on"[..]),
        qos: Qos::AtLeastOnce,
        retain: false,
        to: Some(Uid(to)),
        deadline: net.now + Duration::from_secs(10),
        publisher: Publisher { uid: Uid(999), policy_epoch: 0 },
        rights: Some(rights(&["#"], &[])),
    }
}

pub fn retained_as(filter: &str, handling: RetainHandling) -> SubscribeEntry<'_> {
    SubscribeEntry { retain_handling: handling, ..SubscribeEntry::of(filter, Qos::AtLeastOnce) }
}
