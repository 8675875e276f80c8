//! One shard: its connections, its sessions, its filters. Single-threaded.

mod answers;
mod authz_info;
mod config;
mod filters;
mod flow;
mod known;
mod open;
mod orders;
mod outgoing;
mod pace;
mod ping;
mod publish;
mod readers;
mod renew;
mod session;
mod shared;
mod speech;
mod statistics;
mod stored;
mod subscribe;
mod timers;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::mem;
use std::sync::Arc;
use std::time::Instant;

use drawbridge_mqtt::codec::{PacketId, ReasonCode};
use drawbridge_mqtt::connection::{Connection, Event, Limits, Step};
use drawbridge_names::{MqttClientId, RegistryName, TopicFilter, Uid};
use drawbridge_policy::Rights;
use slab::Slab;
use zeroize::Zeroize;

use crate::deliver::Voices;
use crate::directory::{Directory, Interest};
use crate::effect::{Close, ConnId, ControlAck, Crossing, Effect, Ended, EndedWhy};
use crate::report::{Report, What, Who, disconnect_reason};
use crate::retained::Retained;
use crate::routes::{Routes, Subscriber};
use crate::storage::{MessageId, Record, SessionId};
use crate::wheel::Wheel;
pub use authz_info::AUTHZ_INFO_TOPIC;
use authz_info::Uploading;
pub use config::{ShardConfig, Stats};
use flow::Room;
use open::Pending;
use outgoing::Templates;
pub use ping::PING_TOPIC;
use readers::Met;
pub use renew::{AUTH_NONCE_TOPIC, AUTH_RESULT_TOPIC, AUTH_TOPIC, Refreshed};
use session::{DelayedWill, Leaving, Session};
use shared::Group;
pub use shared::{Given, Member, Sharing};
use statistics::Tally;
pub use statistics::{Figures, RegistryStats};
use stored::{Foreign, Gather, Outbox};
pub use stored::{Moving, Restored};

/// Counters of [`Stats`] that only grow.
#[derive(Debug, Default)]
struct Counters {
    dropped_qos0: u64,
    withheld: u64,
    expired: u64,
    too_large: u64,
    queue_full: u64,
    storage_full: u64,
    forgotten: u64,
    sessions_expired: u64,
    discarded: u64,
}

/// Connections, sessions and filters of one thread.
pub struct Shard {
    config: ShardConfig,
    directory: Arc<Directory>,
    interest: Arc<Interest>,
    places: Vec<Place>,
    free: Vec<u32>,
    /// By slot; boxed, because a few are large and many come and go.
    sessions: Slab<Box<Session>>,
    /// The slots of stored sessions.
    by_id: HashMap<SessionId, u32>,
    registries: Vec<Registry>,
    by_name: HashMap<RegistryName, usize>,
    wheel: Wheel<Timer>,
    delayed_wills: Slab<DelayedWill>,
    /// Work that an end of a session leaves behind; done before a call returns.
    later: VecDeque<Later>,
    /// Emptied output buffers, for whoever writes next: an idle connection holds none.
    pool: Pool,
    /// Reused by each route.
    met: Vec<Met>,
    met_groups: Vec<usize>,
    templates: Templates,
    outbox: Outbox,
    /// Clients that are not listened to until the storage has caught up.
    held_back: BTreeSet<ConnId>,
    /// Messages that other shards were asked about, by what they are called there.
    gathers: HashMap<u64, Gather>,
    /// Control publishes at QoS 2 of stored sessions that the edge has.
    handed: HashSet<(SessionId, PacketId)>,
    /// Messages that are not known to be stored yet, and that sessions here are owed.
    foreign: HashMap<MessageId, Foreign>,
    /// Messages that other shards have stored, and that have not come yet.
    stored_early: VecDeque<MessageId>,
    /// Numbers routes and messages.
    counter: u64,
    counters: Counters,
    /// Somebody has subscribed below `$SYS`.
    statistics_wanted: bool,
}

/// A slot; its generation outlives the connections in it.
#[derive(Default)]
struct Place {
    generation: u32,
    conn: Option<Box<Conn>>,
}

struct Conn {
    protocol: Connection,
    /// A part of a packet, or what is held while CONNECT is judged.
    input: Vec<u8>,
    output: Vec<u8>,
    /// [`Effect::Write`] was said and not yet answered.
    writing: bool,
    /// [`Effect::Close`] was said.
    closed: bool,
    /// By when CONNECT must be admitted.
    deadline: Instant,
    /// When the wheel will look at it.
    armed: Option<Instant>,
    bytes_before_auth: usize,
    /// CONNECT has come and is judged.
    pending: Option<Box<Pending>>,
    /// The slot of its session.
    session: Option<u32>,
    /// It is let in without a session, to publish a token.
    uploading: Option<Box<Uploading>>,
    /// The output leaves when this batch is stored.
    output_after: u64,
}

/// What belongs to one registry. No client of another ever touches it.
struct Registry {
    name: RegistryName,
    routes: Routes,
    retained: Retained,
    /// What waits in memory for sessions.
    room: Arc<Room>,
    /// Since when, and the slot, of every session that is behind.
    behind: BTreeSet<(u64, u32)>,
    /// The slots of each principal's sessions.
    sessions: BTreeSet<(Uid, u32)>,
    /// The slots of stored sessions.
    stored: HashMap<(Uid, MqttClientId), u32>,
    /// What each principal has stored here.
    kept: HashMap<Uid, Kept>,
    /// Shared subscriptions that are at home here.
    groups: Slab<Group>,
    group_of: HashMap<TopicFilter, usize>,
    /// The wills of each principal that are held back, by key of `Shard::delayed_wills`.
    wills: BTreeSet<(Uid, usize)>,
    voices: Voices,
    tally: Tally,
    /// What `$SYS` says, while somebody listens.
    figures: Option<Arc<Figures>>,
}

/// What the stored sessions of one principal amount to.
#[derive(Debug, Clone, Copy, Default)]
struct Kept {
    sessions: usize,
    /// What their filters cost.
    filter_bytes: usize,
}

impl Registry {
    /// What the stored sessions of a principal amount to now.
    fn kept(&self, uid: Uid) -> Kept {
        self.kept.get(&uid).copied().unwrap_or_default()
    }

    /// So much more of a principal is stored.
    fn keep_more(&mut self, uid: Uid, more: Kept) {
        let kept = self.kept.entry(uid).or_default();
        kept.sessions += more.sessions;
        kept.filter_bytes += more.filter_bytes;
    }

    /// So much less of a principal is stored.
    fn keep_less(&mut self, uid: Uid, less: Kept) {
        let Some(kept) = self.kept.get_mut(&uid) else { return };
        kept.sessions -= less.sessions;
        kept.filter_bytes -= less.filter_bytes;
        if kept.sessions == 0 {
            self.kept.remove(&uid);
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Timer {
    Conn(ConnId),
    Will(usize),
    Session(SessionId),
}

enum Later {
    Will(Box<DelayedWill>),
    FellBehind {
        conn: ConnId,
        waiting: usize,
    },
    /// It was not listened to, and is now.
    Replay(ConnId),
    /// It is to hear the figures below `$SYS` that it has subscribed to.
    Figures {
        conn: ConnId,
        filter: Box<TopicFilter>,
        route: Subscriber,
    },
    /// The home of a group is to hear of a member.
    Sharing {
        home: usize,
        sharing: Sharing,
    },
}

impl Shard {
    /// An empty shard.
    #[must_use]
    pub fn new(config: ShardConfig, directory: Arc<Directory>, interest: Arc<Interest>) -> Self {
        Self {
            config,
            directory,
            interest,
            places: Vec::new(),
            free: Vec::new(),
            sessions: Slab::new(),
            by_id: HashMap::new(),
            registries: Vec::new(),
            by_name: HashMap::new(),
            wheel: Wheel::new(),
            delayed_wills: Slab::new(),
            later: VecDeque::new(),
            pool: Pool::default(),
            met: Vec::new(),
            met_groups: Vec::new(),
            templates: Templates::default(),
            outbox: Outbox::default(),
            held_back: BTreeSet::new(),
            gathers: HashMap::new(),
            handed: HashSet::new(),
            foreign: HashMap::new(),
            stored_early: VecDeque::new(),
            counter: 0,
            counters: Counters::default(),
            statistics_wanted: false,
        }
    }

    /// A socket was accepted; its CONNECT must be admitted by `deadline`, or it is closed silently.
    pub fn open(&mut self, now: Instant, deadline: Instant) -> ConnId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place::default());
            u32::try_from(self.places.len() - 1).expect("a machine has fewer than 2^32 sockets")
        });
        let config = &self.config;
        let limits = Limits {
            packet_bytes_before_auth_max: config.packet_bytes_before_auth_max,
            packet_bytes_max: config.packet_bytes_max,
            receive_maximum: config.receive_maximum,
            topic_alias_maximum: config.topic_alias_maximum,
            keep_alive_s_max: config.keep_alive_s_max,
            inflight_max: config.inflight_max,
            topic_aliases_given_max: config.topic_aliases_given_max,
        };
        let place = &mut self.places[slot as usize];
        place.conn = Some(Box::new(Conn {
            protocol: Connection::new(limits),
            input: Vec::new(),
            output: Vec::new(),
            writing: false,
            closed: false,
            deadline,
            armed: None,
            bytes_before_auth: 0,
            pending: None,
            session: None,
            uploading: None,
            output_after: 0,
        }));
        let conn = ConnId::new(slot, place.generation);
        self.arm(now, conn);
        conn
    }

    /// Bytes came from the socket. All are taken: worked on where they stand; only the beginning of
    /// an incomplete packet, or what must wait for [`Self::answer`], is copied.
    pub fn receive(&mut self, now: Instant, conn: ConnId, bytes: &[u8], fx: &mut Vec<Effect>) {
        let bytes_max = self.config.packet_bytes_before_auth_max;
        let Some(state) = self.conn(conn).filter(|state| !state.closed) else { return };
        if state.session.is_none() {
            state.bytes_before_auth += bytes.len();
            if state.bytes_before_auth > bytes_max && state.starts_with_connect(bytes) {
                self.report(conn, What::TooMuchBeforeAuthentication { bytes_max }, fx);
                self.close(conn, Close::Silent, fx);
                return;
            }
        }
        let Some(state) = self.conn(conn) else { return };
        if state.input.is_empty() {
            let used = self.work(now, conn, bytes, fx);
            self.keep(conn, &bytes[used..]);
        } else {
            state.input.extend_from_slice(bytes);
            self.replay(now, conn, fx);
        }
        self.settle(now, fx);
    }

    /// Works on what the connection has kept.
    fn replay(&mut self, now: Instant, conn: ConnId, fx: &mut Vec<Effect>) {
        let Some(state) = self.conn(conn) else { return };
        let early = state.session.is_none();
        let mut input = mem::take(&mut state.input);
        let used = self.work(now, conn, &input, fx);
        let kept = input.len() - used;
        if used > 0 {
            input.copy_within(used.., 0);
        }
        if early {
            // A CONNECT stood there, and with it a credential.
            input[kept..].zeroize();
        }
        input.truncate(kept);
        if let Some(state) = self.conn(conn).filter(|state| kept > 0 && !state.closed) {
            state.input = input;
        }
    }

    fn keep(&mut self, conn: ConnId, rest: &[u8]) {
        if let Some(state) = self.conn(conn).filter(|state| !state.closed) {
            state.input.extend_from_slice(rest);
        }
    }

    /// Takes packet after packet from `input`; returns how many bytes are done with.
    fn work(&mut self, now: Instant, conn: ConnId, input: &[u8], fx: &mut Vec<Effect>) -> usize {
        let mut used = 0;
        loop {
            let place = &mut self.places[conn.slot() as usize];
            let state = place.conn.as_deref_mut().filter(|_| place.generation == conn.generation());
            let Some(state) = state.filter(|state| !state.closed) else { return input.len() };
            if let Some(session) = state.session.and_then(|slot| self.sessions.get(slot as usize)) {
                if session.is_held() {
                    return used;
                }
                if self.outbox.holds(session) {
                    self.held_back.insert(conn);
                    return used;
                }
                // I5: the timer ends the session; this check makes the end exact.
                if session.has_ended(now) {
                    let what = session.why_ended(now);
                    self.end(now, conn, what, fx);
                    return input.len();
                }
            } else if state.uploading.as_ref().is_some_and(|uploading| uploading.is_judged()) {
                return used;
            }
            let uploads = state.uploading.is_some();
            match state.protocol.next(now, &input[used..]) {
                Step::NeedMore | Step::Hold => return used,
                Step::Failed(fault) => {
                    self.fail(now, conn, fault, fx);
                    return input.len();
                }
                Step::Took { bytes, event } => {
                    used += bytes;
                    if uploads {
                        self.on_event_of_upload(now, conn, event, fx);
                    } else {
                        self.on_event(now, conn, event, fx);
                    }
                }
            }
        }
    }

    fn on_event(&mut self, now: Instant, conn: ConnId, event: Event<'_>, fx: &mut Vec<Effect>) {
        match event {
            Event::Connect(connect) => self.on_connect(conn, &connect, fx),
            Event::Auth { begins, data } => self.on_auth(now, conn, begins, data, fx),
            Event::Publish(publish) => self.on_publish(now, conn, &publish, fx),
            Event::Acknowledged { packet_id, reason } => {
                self.on_acknowledged(now, conn, packet_id, reason, fx)
            }
            Event::Received { packet_id, reason } => self.on_received(now, conn, packet_id, reason, fx),
            Event::Released { packet_id } => self.on_released(now, conn, packet_id, fx),
            Event::Completed { packet_id } => self.on_completed(now, conn, packet_id, fx),
            Event::Subscribe(subscribe) => self.on_subscribe(now, conn, &subscribe, fx),
            Event::Unsubscribe(unsubscribe) => self.on_unsubscribe(now, conn, &unsubscribe, fx),
            Event::Ping => self.write(conn, fx, |protocol, out| protocol.ping_answer(out)),
            Event::Disconnect { with_will, session_expiry_s } => {
                self.on_disconnect(now, conn, with_will, session_expiry_s, fx);
            }
        }
    }

    /// The socket is gone, or was closed after [`Effect::Close`]: the place is free again.
    pub fn hung_up(&mut self, now: Instant, conn: ConnId, fx: &mut Vec<Effect>) {
        if self.conn(conn).is_none() {
            return;
        }
        if let Some(slot) = self.take_session(conn) {
            self.report_of(conn, slot, What::Disconnected { by_client: false }, fx);
            self.leave(now, conn, slot, Leaving { with_will: true, discard: false }, fx);
        }
        self.held_back.remove(&conn);
        let place = &mut self.places[conn.slot() as usize];
        place.conn = None;
        place.generation = place.generation.wrapping_add(1);
        self.free.push(conn.slot());
        self.settle(now, fx);
    }

    /// The output was written to the socket: goes on with what waits for it.
    pub fn drained(&mut self, now: Instant, conn: ConnId, fx: &mut Vec<Effect>) {
        let Some(state) = self.conn(conn) else { return };
        state.writing = false;
        if state.output.is_empty() {
            let output = mem::take(&mut state.output);
            self.take_back(output);
        } else {
            self.ask_to_write(conn, fx);
        }
        self.catch_up(now, conn, fx);
        self.settle(now, fx);
    }

    /// Bytes to be written to the socket; the driver removes what it has written. `None` also while they wait
    /// for the storage.
    pub fn output(&mut self, conn: ConnId) -> Option<&mut Vec<u8>> {
        let committed = self.outbox.committed;
        self.conn(conn).filter(|state| state.output_after <= committed).map(|state| &mut state.output)
    }

    /// Whether the client is not listened to for now, because too much of what it said waits for
    /// [`Self::control_done`] or the storage. The driver reads on after that, or after [`Effect::Resume`]; what it
    /// reads before is kept.
    #[must_use]
    pub fn is_held(&mut self, conn: ConnId) -> bool {
        let committed = self.outbox.committed;
        // What it hears waits for the storage: more answers would only pile up behind that.
        if self.conn(conn).is_some_and(|state| state.output_after > committed) {
            return true;
        }
        let session = self.session_of(conn).and_then(|slot| self.sessions.get(slot as usize));
        let Some(session) = session else { return false };
        let holds = self.outbox.holds(session);
        if holds {
            self.held_back.insert(conn);
        }
        holds || session.is_held()
    }

    /// The edge has dealt with a control publish: its PUBACK goes out.
    pub fn control_done(
        &mut self,
        now: Instant,
        conn: ConnId,
        ack: ControlAck,
        outcome: Result<(), ReasonCode>,
        fx: &mut Vec<Effect>,
    ) {
        let ControlAck { packet_id, inbound } = ack;
        if let Some(session) = self.session(conn) {
            session.controls = session.controls.saturating_sub(1);
        }
        if let Some(handed) = inbound.zip(packet_id) {
            self.handed.remove(&handed);
        }
        // It may be on another connection by now, or on none.
        let returns = inbound.and_then(|id| self.by_id.get(&id).copied());
        if let Some((slot, packet_id)) = self.session_of(conn).or(returns).zip(packet_id) {
            let refusal = outcome.err();
            // Unless its client has released it by now.
            let is_taken = |session: &Session| session.flow.inbound.contains(&packet_id.get());
            let after = match inbound.filter(|_| refusal.is_none() && is_taken(&self.sessions[slot as usize]))
            {
                Some(session) => self.remember_now(Record::Inbound { session, packet_id }),
                None => 0,
            };
            let is_told = self.other_is_done(now, slot, packet_id, after, refusal, fx);
            if refusal.is_some() && !is_told {
                // When it says it again, it is asked anew.
                self.forget_inbound(slot, packet_id);
            }
        }
        self.replay(now, conn, fx);
        self.settle(now, fx);
    }

    /// Ends sessions from outside: blocked, revoked, key removed, deleted; or switches their rights. Every
    /// shard is told.
    pub fn end_sessions(&mut self, now: Instant, which: &Ended, fx: &mut Vec<Effect>) {
        let (registry, concerned) = self.concerned(which);
        self.note_standing(which, registry, !concerned.is_empty(), fx);
        let discard = matches!(which, Ended::Principal { why: EndedWhy::Deleted, .. });
        for slot in concerned {
            let Some(session) = self.sessions.get_mut(slot as usize) else { continue };
            if let Ended::Policy { rights, .. } = which {
                let rights =
                    rights.as_deref().map_or_else(Rights::none, |new| new.succeeding(&session.rights));
                self.change_policy(now, slot, Arc::new(rights), fx);
                continue;
            }
            let Some(what) = session.ended_by(which) else { continue };
            match session.conn {
                Some(conn) => self.end_as(now, conn, what, discard, fx),
                None if discard => self.end_session(slot),
                None => {}
            }
        }
        self.drop_wills_of(now, which, registry, fx);
        self.settle(now, fx);
    }

    /// What other shards have handed over, in their order.
    pub fn crossings(&mut self, now: Instant, batch: Vec<Crossing>, fx: &mut Vec<Effect>) {
        for crossing in batch {
            match crossing {
                Crossing::Publish { message, gather } => self.route_crossed(now, &message, gather, fx),
                Crossing::Gathered { token, to, shards } => self.gathered(now, token, to, &shards, fx),
                Crossing::Sharing(sharing) => self.sharing(now, *sharing, fx),
                Crossing::Given(given) => self.given(now, &given, fx),
                Crossing::Stored { message } => self.foreign_is_stored(now, message, fx),
                Crossing::Supplant { conn, discarded } => {
                    self.supplanted(now, conn, discarded.as_ref(), fx);
                }
                Crossing::SessionIsBack { registry, uid, client_id, clean_start } => {
                    let registry = self.registry(&registry);
                    self.session_is_back(registry, uid, &client_id, clean_start);
                }
                Crossing::Standing { registry, uid, rights } => {
                    let registry = self.registry(&registry);
                    self.registries[registry].voices.judge_by(uid, rights);
                }
            }
        }
        self.settle(now, fx);
    }

    /// The owner epoch of the session on a connection: grows with each session of its principal. The
    /// cluster fences by it.
    #[must_use]
    pub fn owner_epoch(&self, conn: ConnId) -> Option<u64> {
        let slot = self.session_of(conn)?;
        self.sessions.get(slot as usize).map(|session| session.owner_epoch)
    }

    /// What the shard holds and has counted.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let mut stats = Stats {
            dropped_qos0: self.counters.dropped_qos0,
            withheld: self.counters.withheld,
            expired: self.counters.expired,
            too_large_for_client: self.counters.too_large,
            timers: self.wheel.len(),
            delayed_wills: self.delayed_wills.len(),
            gathering: self.gathers.len(),
            foreign: self.foreign.len(),
            queue_full: self.counters.queue_full,
            storage_full: self.counters.storage_full,
            forgotten: self.counters.forgotten,
            sessions_expired: self.counters.sessions_expired,
            discarded: self.counters.discarded,
            ..Stats::default()
        };
        for (_, conn) in self.connections() {
            stats.connections += 1;
            stats.buffer_bytes += conn.input.capacity() + conn.output.capacity();
        }
        for (_, session) in &self.sessions {
            stats.sessions += usize::from(session.conn.is_some());
            stats.sessions_stored += usize::from(session.stored.is_some());
            stats.sessions_away += usize::from(session.conn.is_none());
            stats.queued += session.flow.queue.len();
            stats.queued_bytes += session.flow.queue_bytes;
        }
        for registry in &self.registries {
            stats.subscriptions += registry.routes.len();
            stats.retained += registry.retained.len();
            stats.retained_bytes += registry.retained.bytes();
            stats.waiting += registry.room.messages();
            stats.waiting_bytes += registry.room.bytes();
            stats.sessions_behind += registry.behind.len();
            for qos in 0..3 {
                stats.received_by_qos[qos] += registry.tally.received[qos];
                stats.delivered_by_qos[qos] += registry.tally.delivered[qos];
            }
        }
        stats.received = stats.received_by_qos.iter().sum();
        stats.delivered = stats.delivered_by_qos.iter().sum();
        stats
    }
}

/// Output buffers up to this size are kept for the next writer, and so many of them.
const POOLED_BYTES_MAX: usize = 64 << 10;
const POOL_MAX: usize = 1_024;
/// What all of them together may hold.
const POOL_BYTES_MAX: usize = 1 << 20;
/// A buffer of its own begins with this much.
const BUFFER_BYTES_MIN: usize = 1_024;

impl Shard {
    fn conn(&mut self, conn: ConnId) -> Option<&mut Conn> {
        let place = self.places.get_mut(conn.slot() as usize)?;
        place.conn.as_deref_mut().filter(|_| place.generation == conn.generation())
    }

    fn connections(&self) -> impl Iterator<Item = (ConnId, &Conn)> {
        (0_u32..)
            .zip(&self.places)
            .filter_map(|(slot, place)| Some((ConnId::new(slot, place.generation), place.conn.as_deref()?)))
    }

    /// The slot of the session on a connection.
    fn session_of(&self, conn: ConnId) -> Option<u32> {
        let place = self.places.get(conn.slot() as usize)?;
        place.conn.as_deref().filter(|_| place.generation == conn.generation())?.session
    }

    /// The session on a connection.
    fn session(&mut self, conn: ConnId) -> Option<&mut Session> {
        let slot = self.session_of(conn)?;
        self.sessions.get_mut(slot as usize).map(|session| &mut **session)
    }

    fn registry(&mut self, name: &RegistryName) -> usize {
        if let Some(&index) = self.by_name.get(name) {
            return index;
        }
        self.registries.push(Registry {
            name: name.clone(),
            routes: Routes::new(),
            retained: Retained::new(self.config.shards),
            room: Arc::default(),
            behind: BTreeSet::new(),
            sessions: BTreeSet::new(),
            stored: HashMap::new(),
            kept: HashMap::new(),
            groups: Slab::new(),
            group_of: HashMap::new(),
            wills: BTreeSet::new(),
            voices: Voices::default(),
            tally: Tally::default(),
            figures: None,
        });
        self.by_name.insert(name.clone(), self.registries.len() - 1);
        self.registries.len() - 1
    }

    /// Lets the protocol write, and asks the driver to write it out.
    fn write(&mut self, conn: ConnId, fx: &mut Vec<Effect>, say: impl FnOnce(&mut Connection, &mut Vec<u8>)) {
        let pool = &mut self.pool;
        let place = &mut self.places[conn.slot() as usize];
        let Some(state) = place.conn.as_deref_mut().filter(|_| place.generation == conn.generation()) else {
            return;
        };
        state.lend_buffer(pool);
        say(&mut state.protocol, &mut state.output);
        self.ask_to_write(conn, fx);
    }

    /// Keeps an emptied buffer for the next who writes.
    fn take_back(&mut self, buffer: Vec<u8>) {
        let bytes = buffer.capacity();
        let pool = &mut self.pool;
        if bytes > 0
            && bytes <= POOLED_BYTES_MAX
            && pool.buffers.len() < POOL_MAX
            && pool.bytes + bytes <= POOL_BYTES_MAX
        {
            pool.bytes += bytes;
            pool.buffers.push(buffer);
        }
    }

    fn ask_to_write(&mut self, conn: ConnId, fx: &mut Vec<Effect>) {
        let committed = self.outbox.committed;
        if let Some(state) = self.conn(conn)
            && !state.output.is_empty()
            && !state.writing
            && state.output_after <= committed
        {
            state.writing = true;
            fx.push(Effect::Write { conn });
        }
    }

    /// Asks the driver to close, once.
    fn close(&mut self, conn: ConnId, how: Close, fx: &mut Vec<Effect>) {
        let Some(state) = self.conn(conn).filter(|state| !state.closed) else { return };
        state.closed = true;
        state.input.zeroize();
        state.input = Vec::new();
        if how == Close::Silent {
            state.output.clear();
        }
        fx.push(Effect::Close { conn, how });
    }

    fn report(&mut self, conn: ConnId, what: What, fx: &mut Vec<Effect>) {
        let session = self.session_of(conn).and_then(|slot| self.sessions.get(slot as usize));
        let who = session.map(|session| self.who(session));
        fx.push(Effect::Report(Report { conn, who, what }));
    }

    fn report_of(&self, conn: ConnId, slot: u32, what: What, fx: &mut Vec<Effect>) {
        let who = self.sessions.get(slot as usize).map(|session| self.who(session));
        fx.push(Effect::Report(Report { conn, who, what }));
    }

    fn who(&self, session: &Session) -> Who {
        Who {
            registry: self.registries[session.registry].name.clone(),
            uid: session.publisher.uid,
            name: session.name.clone(),
        }
    }

    /// Ends a session from this side: a client of MQTT 5 is told why.
    fn end(&mut self, now: Instant, conn: ConnId, what: What, fx: &mut Vec<Effect>) {
        self.end_as(now, conn, what, false, fx);
    }

    /// As [`Self::end`]; `discard`: and nothing is kept of the session.
    fn end_as(&mut self, now: Instant, conn: ConnId, what: What, discard: bool, fx: &mut Vec<Effect>) {
        let Some(slot) = self.take_session(conn) else { return };
        let reason = disconnect_reason(&what);
        let with_will = !what.takes_the_last_word();
        if let Some(will) = self.sessions[slot as usize].will.as_ref().filter(|_| !with_will) {
            let (topic, rule) = (will.topic.to_string(), what.to_string());
            self.report_of(conn, slot, What::WillDenied { topic, rule }, fx);
        }
        // The session's owner is told the whole reason: it has proved who it is.
        let text = what.to_string();
        self.write(conn, fx, |protocol, out| {
            protocol.disconnect(reason, Some(&text), out);
        });
        self.close(conn, Close::AfterFlush { linger: false }, fx);
        self.report_of(conn, slot, what, fx);
        self.leave(now, conn, slot, Leaving { with_will, discard }, fx);
    }

    /// Does what the ends of sessions left to do. Each may end further sessions.
    fn settle(&mut self, now: Instant, fx: &mut Vec<Effect>) {
        while let Some(later) = self.later.pop_front() {
            match later {
                Later::Will(will) => self.publish_will(now, &will, fx),
                Later::Sharing { home, sharing } if home == self.config.index => {
                    self.sharing(now, sharing, fx);
                }
                Later::Sharing { home: shard, sharing } => {
                    fx.push(Effect::Cross { shard, crossing: Crossing::Sharing(Box::new(sharing)) });
                }
                Later::Replay(conn) => self.replay(now, conn, fx),
                Later::Figures { conn, filter, route } => self.tell_figures(now, conn, &filter, &route, fx),
                Later::FellBehind { conn, waiting } => {
                    self.end(now, conn, What::FellBehind { waiting }, fx);
                }
            }
        }
    }

    fn stored_ms(&self, now: Instant) -> u64 {
        self.config.wall_clock.map_or(0, |(at, ms)| {
            let since = u64::try_from(now.saturating_duration_since(at).as_millis()).unwrap_or(u64::MAX);
            ms.saturating_add(since)
        })
    }
}

/// Emptied output buffers.
#[derive(Default)]
struct Pool {
    buffers: Vec<Vec<u8>>,
    /// What they hold.
    bytes: usize,
}

impl Conn {
    /// Gives the connection a buffer to write into, if it has none.
    fn lend_buffer(&mut self, pool: &mut Pool) {
        if self.output.capacity() > 0 {
            return;
        }
        match pool.buffers.pop() {
            Some(buffer) => {
                pool.bytes -= buffer.capacity();
                self.output = buffer;
            }
            None => self.output.reserve(BUFFER_BYTES_MIN),
        }
    }

    /// Whether the first byte of all was that of a CONNECT; another one is judged by the protocol,
    /// which has the better word for it.
    fn starts_with_connect(&self, bytes: &[u8]) -> bool {
        let first = self.input.first().or(bytes.first());
        self.pending.is_some() || self.uploading.is_some() || first == Some(&0x10)
    }
}
