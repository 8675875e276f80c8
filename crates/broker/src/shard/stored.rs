//! What a shard has in common with the storage, and with the shard that a connection comes from.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use drawbridge_mqtt::codec::{PacketId, Qos};
use drawbridge_mqtt::connection::Connection;
use drawbridge_names::{Epoch, RegistryName, TopicName, Uid};
use drawbridge_policy::Rights;

use super::flow::{Flow, Kept, Owed, Stage};
use super::open::Pending;
use super::readers::Owing;
use super::session::{DelayedWill, Session, Stored, Subscription, filter_cost, slot_of};
use super::shared::parse_share;
use super::{Conn, Later, Registry, Shard, Timer};
use crate::effect::{Admitted, ConnId, Crossing, Effect, OrderOutcome};
use crate::message::{Message, Publisher};
use crate::routes::Subscriber;
use crate::storage::{
    Batch, Destination, Image, MessageId, Record, SessionId, SessionImage, StoredSession, Terms, TimeBase,
};

/// What the storage kept, for the shards of a process that starts.
#[derive(Debug, Clone, Default)]
pub struct Restored {
    /// All stored sessions; each shard takes its own.
    pub image: Arc<Image>,
    /// The retained messages.
    pub retained: Vec<(MessageId, Arc<Message>)>,
    /// The rights, by their policy of now, of everybody who owns a session or published a retained message,
    /// and of everybody who is blocked; `None`: blocked or deleted. Who is missing here is taken for deleted.
    pub standing: HashMap<(RegistryName, Uid), Option<Arc<Rights>>>,
}

/// A connection on its way from one shard to another: its CONNECT has been judged, its answer has not been
/// given.
pub struct Moving {
    protocol: Connection,
    input: Vec<u8>,
    deadline: Instant,
    pending: Box<Pending>,
    admitted: Admitted,
}

impl fmt::Debug for Moving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Moving").field("name", &self.admitted.name).finish_non_exhaustive()
    }
}

/// The records that the storage has not taken yet, and who waits for it.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    records: Vec<Record>,
    urgent: bool,
    /// The number of the last batch that was taken.
    taken: u64,
    /// The number of the last batch that is stored.
    pub(super) committed: u64,
    /// What the batches hold that are taken and not stored, by number.
    unsaved: VecDeque<(u64, usize)>,
    unsaved_bytes: usize,
    /// Who waits, by the number of the batch.
    waiting: VecDeque<(u64, Waiter)>,
    /// The storage cannot store for now.
    pub(super) stalled: bool,
}

/// Who waits for a batch to be stored.
#[derive(Debug)]
pub(super) enum Waiter {
    Session(u32),
    Output(ConnId),
    Order(u64),
    Tell(usize, MessageId),
}

/// While the storage stalls, what must be stored is refused once so much waits.
const UNSAVED_BYTES_MAX: usize = 32 << 20;
/// While it does not say that it stalls, and is slow or hangs: from here on a client that waits for it is not
/// listened to until it has caught up.
const UNSAVED_BYTES_WAITED_FOR: usize = 64 << 20;
/// From here on none is; what comes without being listened to is refused.
const UNSAVED_BYTES_MAX_EVER: usize = 128 << 20;
/// A message from another shard that is stored now has no more older ones behind it.
const OLDER_MAX: usize = 1_024;
/// Messages that were said to be stored before they came; each comes a moment later.
const STORED_EARLY_MAX: usize = 256;
/// Messages that a session asks the storage for at once.
const FETCHED_AT_ONCE: usize = 64;

impl Outbox {
    /// The place of the next record.
    pub(super) fn mark(&self) -> usize {
        self.records.len()
    }

    /// The number of the last batch that was taken.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// The number of the batch that holds all that was remembered until now.
    pub(super) fn everything_so_far(&mut self) -> u64 {
        let next = !self.records.is_empty();
        self.urgent |= next;
        self.taken + u64::from(next)
    }

    /// Whether the storage is so far behind that the client is not to be listened to.
    pub(super) fn holds(&self, session: &Session) -> bool {
        let waits = self.unsaved_bytes > UNSAVED_BYTES_WAITED_FOR && !session.speeches.is_empty();
        (waits || self.unsaved_bytes > UNSAVED_BYTES_MAX_EVER) && !self.stalled
    }
}

/// A message that other shards have been asked about: to whom of theirs it is owed.
pub(super) struct Gather {
    pub(super) message: Arc<Message>,
    pub(super) to: Vec<Destination>,
    pub(super) retained: bool,
    /// Shards that have not answered.
    pub(super) left: usize,
    /// Those that owe it to somebody.
    pub(super) owing: Vec<usize>,
    pub(super) asker: Asker,
}

/// Who waits for a message to be stored.
#[derive(Debug, Clone, Copy)]
pub(super) enum Asker {
    Nobody,
    /// A client that has published it.
    Client {
        slot: u32,
        owner_epoch: u64,
        packet_id: PacketId,
        inbound: Option<SessionId>,
    },
    Order(u64),
}

/// A message from another shard that is not known to be stored yet: sessions here that are owed it.
#[derive(Default)]
pub(super) struct Foreign {
    /// The session, and whether it has answered the message to its end already.
    sessions: Vec<(SessionId, bool)>,
}

impl Shard {
    /// Takes back what the storage kept; once, before anything else.
    pub fn restore(&mut self, now: Instant, restored: &Restored, fx: &mut Vec<Effect>) {
        self.directory.restore_epoch(restored.image.owner_epoch_max);
        for (id, message) in &restored.retained {
            let registry = self.registry(&message.registry);
            debug_assert_eq!(message.id, Some(*id), "the storage gives a message its number");
            let uid = message.publisher.uid;
            let standing = restored.standing.get(&(message.registry.clone(), uid)).cloned().flatten();
            let topic = TopicName::parse(&message.topic);
            let may = topic
                .is_ok_and(|topic| standing.as_ref().is_some_and(|rights| rights.may_publish(topic).allowed));
            // The server is no principal: nobody can take its right away.
            if !may && uid != Publisher::SERVER {
                self.registries[registry].voices.judge_by(uid, standing);
            }
            let mut message = Arc::clone(message);
            if message.received > now {
                // The wall clock has gone back since: every word from now on is a later one.
                Arc::make_mut(&mut message).received = now;
            }
            self.registries[registry].retained.put(message, now);
        }
        for ((registry, uid), standing) in &restored.standing {
            if standing.is_none() {
                let registry = self.registry(registry);
                self.registries[registry].voices.judge_by(*uid, None);
            }
        }
        let shards = self.config.shards as u64;
        let own = restored.image.sessions.values();
        let own = own.filter(|session| session.session.id.0 % shards == self.config.index as u64);
        let own: Vec<&SessionImage> = own.collect();
        for session in own {
            let owner = (session.session.registry.clone(), session.session.uid);
            if restored.standing.contains_key(&owner) {
                self.restore_session(now, session, restored);
            } else {
                // The process ended before its end was stored.
                self.remember(Record::SessionGone { session: session.session.id });
            }
        }
        self.settle(now, fx);
    }

    fn restore_session(&mut self, now: Instant, image: &SessionImage, restored: &Restored) {
        let time = self.time(now);
        let stored = &image.session;
        let registry = self.registry(&stored.registry);
        let standing = restored.standing.get(&(stored.registry.clone(), stored.uid)).cloned().flatten();
        let ended_ms = if stored.ended_ms == 0 { time.to_ms(now) } else { stored.ended_ms };
        // By a clock that was wrong it may not have ended yet.
        let ended = time.to_instant(ended_ms).min(now);
        let expires = ended + Duration::from_secs(u64::from(stored.expiry_s));
        let rights = standing.unwrap_or_else(|| Arc::new(Rights::none()));
        let session = Session {
            flow: self.restore_flow(image),
            stored: Some(Box::new(Stored {
                id: stored.id,
                expiry_s: stored.expiry_s,
                ended_ms,
                expires: Some(expires),
                armed: None,
                will: stored.will.clone().map(Box::new),
            })),
            ..Session::of(stored.admitted(rights), registry, stored.owner_epoch, self.next_tag())
        };
        let slot = slot_of(self.sessions.insert(Box::new(session)));
        let Registry { name, .. } = &self.registries[registry];
        self.directory.keep(name, stored.uid, &stored.client_id, self.config.index);
        self.by_id.insert(stored.id, slot);
        self.registries[registry].sessions.insert((stored.uid, slot));
        self.registries[registry].stored.insert((stored.uid, stored.client_id.clone()), slot);
        for (filter, terms) in image.filters() {
            let shared = parse_share(filter.as_str()).is_some().then_some(terms);
            if shared.is_none() {
                self.registries[registry].routes.insert(&filter, terms.route(slot));
            }
            let session = &mut self.sessions[slot as usize];
            session.shares += usize::from(shared.is_some());
            session.filter_bytes += filter_cost(&filter);
            session.filters.insert(filter, Subscription { walk: 0, shared });
            self.interest.add(self.config.index, 1);
            self.interest.keep_more(self.config.index, 1);
        }
        let session = &self.sessions[slot as usize];
        let kept = super::Kept { sessions: 1, filter_bytes: session.filter_bytes };
        self.registries[registry].keep_more(stored.uid, kept);
        self.tell_groups(slot);
        self.arm_session(now, slot, expires);
        let session = &self.sessions[slot as usize];
        if let Some(will) = session.stored.as_ref().and_then(|stored| stored.will.clone()) {
            let at = (ended + Duration::from_millis(will.delay_ms)).min(expires);
            let nobody = ConnId::new(u32::MAX, 0);
            let will = DelayedWill { at, ..self.delayed(now, nobody, slot, will) };
            self.see_to_will(now, will, false);
        }
    }

    fn restore_flow(&mut self, image: &SessionImage) -> Flow {
        let mut flow = Flow::default();
        flow.inbound.extend(&image.inbound);
        for (id, pending) in &image.pending {
            self.counter += 1;
            let (first, more) = match &*pending.identifiers {
                [] => (0, Box::default()),
                [first, more @ ..] => (*first, more.into()),
            };
            let owed = Owed {
                ticket: self.counter,
                id: Some(*id),
                message: None,
                bytes: size_of::<Message>(),
                qos: pending.qos,
                retain: pending.retain,
                identifiers: (first, more),
                held: false,
                share: None,
            };
            let stage = if pending.received { Stage::Release } else { Stage::Publish };
            match pending.packet_id {
                Some(packet_id) => flow.restore(packet_id, Box::new(owed), stage),
                None => flow.enqueue(owed),
            }
        }
        flow
    }

    /// What is to be stored since the last call; `None` when that is nothing. The driver asks at the end of
    /// each turn.
    pub fn take_batch(&mut self) -> Option<Batch> {
        let outbox = &mut self.outbox;
        if outbox.records.is_empty() {
            return None;
        }
        let records = mem::take(&mut outbox.records);
        outbox.taken += 1;
        let bytes = records.iter().map(|record| size_of::<Record>() + record.bytes()).sum();
        outbox.unsaved.push_back((outbox.taken, bytes));
        outbox.unsaved_bytes += bytes;
        Some(Batch { number: outbox.taken, records, urgent: mem::take(&mut outbox.urgent) })
    }

    /// The batch with this number, and all before it, are stored.
    pub fn committed(&mut self, now: Instant, number: u64, fx: &mut Vec<Effect>) {
        let outbox = &mut self.outbox;
        outbox.committed = outbox.committed.max(number);
        while let Some((_, bytes)) = outbox.unsaved.pop_front_if(|(batch, _)| *batch <= number) {
            outbox.unsaved_bytes -= bytes;
        }
        while let Some((_, waiter)) = self.outbox.waiting.pop_front_if(|(batch, _)| *batch <= number) {
            match waiter {
                Waiter::Session(slot) => {
                    self.say_what_is_ready(now, slot, fx);
                    let conn = self.sessions.get(slot as usize).and_then(|session| session.conn);
                    if let Some(conn) = conn {
                        self.catch_up(now, conn, fx);
                    }
                }
                Waiter::Output(conn) => self.ask_to_write(conn, fx),
                Waiter::Order(order) => {
                    fx.push(Effect::OrderDone { order, outcome: OrderOutcome::Stored });
                }
                Waiter::Tell(shard, message) if shard == self.config.index => {
                    self.foreign_is_stored(now, message, fx);
                }
                Waiter::Tell(shard, message) => {
                    fx.push(Effect::Cross { shard, crossing: Crossing::Stored { message } });
                }
            }
        }
        self.listen_to_those_held_back(fx);
        self.settle(now, fx);
    }

    /// The answer to [`Effect::Fetch`]: for every message asked for, the message, or `None` when it is kept
    /// no more.
    pub fn fetched(
        &mut self,
        now: Instant,
        session: SessionId,
        messages: Vec<(MessageId, Option<Arc<Message>>)>,
        fx: &mut Vec<Effect>,
    ) {
        let Some(&slot) = self.by_id.get(&session) else { return };
        let session = &mut self.sessions[slot as usize];
        let Some(conn) = session.conn.filter(|_| mem::take(&mut session.flow.fetching)) else { return };
        let registry = session.registry;
        let room = Arc::clone(&self.registries[registry].room);
        let mut found: HashMap<MessageId, Option<Arc<Message>>> = messages.into_iter().collect();
        let mut gone = Vec::new();
        for owed in session.flow.owed_mut().filter(|owed| owed.message.is_none()) {
            if found.is_empty() {
                break; // a queue can be long, and what was asked for stands at its front
            }
            match owed.id.and_then(|id| found.remove(&id)) {
                Some(Some(message)) => owed.message = Some(Kept::new(message, &room)),
                Some(None) => gone.extend(owed.id),
                None => {}
            }
        }
        for id in gone {
            self.counters.forgotten += 1;
            self.forget_owed(slot, id);
        }
        self.catch_up(now, conn, fx);
        // After that, so that it gets on even if it has to make room itself.
        self.make_space(registry);
        self.settle(now, fx);
    }

    /// Nobody has the message any more.
    fn forget_owed(&mut self, slot: u32, id: MessageId) {
        if !self.sessions[slot as usize].flow.forget(id) {
            self.is_done(slot, id);
        }
    }

    /// How the publisher of stored messages stands that was not known when this process started. What has
    /// been heard of it since is newer.
    pub fn learn_standing(&mut self, registry: &RegistryName, uid: Uid, rights: Option<Arc<Rights>>) {
        let registry = self.registry(registry);
        self.registries[registry].voices.learn(uid, rights);
    }

    /// The storage cannot store for now, or can again.
    pub fn stalled(&mut self, now: Instant, stalled: bool, fx: &mut Vec<Effect>) {
        self.outbox.stalled = stalled;
        self.listen_to_those_held_back(fx);
        self.settle(now, fx);
    }

    /// The storage has caught up, or has said that it stalls: then a client is told so instead.
    fn listen_to_those_held_back(&mut self, fx: &mut Vec<Effect>) {
        if self.outbox.stalled || self.outbox.unsaved_bytes <= UNSAVED_BYTES_WAITED_FOR {
            for conn in mem::take(&mut self.held_back) {
                self.later.push_back(Later::Replay(conn));
                fx.push(Effect::Resume { conn });
            }
        }
    }

    /// Whether nothing more can be taken that must be stored.
    pub(super) fn storage_is_full(&self) -> bool {
        let unsaved = self.outbox.unsaved_bytes;
        unsaved > UNSAVED_BYTES_MAX_EVER || self.outbox.stalled && unsaved > UNSAVED_BYTES_MAX
    }

    /// Takes a connection over from another shard, CONNECT and all.
    pub fn adopt(&mut self, now: Instant, moving: Moving, fx: &mut Vec<Effect>) -> ConnId {
        let conn = self.open(now, moving.deadline);
        let Moving { protocol, input, pending, admitted, .. } = moving;
        if let Some(state) = self.conn(conn) {
            state.protocol = protocol;
            state.input = input;
        }
        self.let_in(now, conn, pending, admitted, fx);
        self.settle(now, fx);
        conn
    }

    /// Sends a connection to the shard that its session lives on.
    pub(super) fn move_to(
        &mut self,
        shard: usize,
        conn: ConnId,
        pending: Box<Pending>,
        admitted: Admitted,
        fx: &mut Vec<Effect>,
    ) {
        let place = &mut self.places[conn.slot() as usize];
        let Some(state) = place.conn.take() else { return };
        place.generation = place.generation.wrapping_add(1);
        self.free.push(conn.slot());
        let Conn { protocol, input, deadline, .. } = *state;
        let moving = Box::new(Moving { protocol, input, deadline, pending, admitted });
        fx.push(Effect::Move { conn, shard, moving });
    }

    /// The time by which records are written.
    pub(super) fn time(&self, now: Instant) -> TimeBase {
        let (instant, unix_ms) = self.config.wall_clock.unwrap_or((now, 0));
        TimeBase { instant, unix_ms }
    }

    /// Has the record stored; returns the number of the batch in which it will be, 0 without a storage.
    pub(super) fn remember(&mut self, record: Record) -> u64 {
        if !self.config.durable {
            return 0;
        }
        self.outbox.records.push(record);
        self.outbox.taken + 1
    }

    /// As [`Self::remember`], and somebody waits for it.
    pub(super) fn remember_now(&mut self, record: Record) -> u64 {
        self.outbox.urgent = true;
        self.remember(record)
    }

    /// The session hears when this batch is stored.
    pub(super) fn await_batch(&mut self, slot: u32, batch: u64) {
        // In the order of their numbers; to hear of a later one instead is no harm.
        let batch = self.outbox.waiting.back().map_or(batch, |(last, _)| batch.max(*last));
        let session = &mut self.sessions[slot as usize];
        if session.awaits < batch {
            session.awaits = batch;
            self.outbox.urgent |= batch > self.outbox.taken;
            self.outbox.waiting.push_back((batch, Waiter::Session(slot)));
        }
    }

    /// The output of the connection waits for the batch that is being filled now.
    pub(super) fn hold_output(&mut self, conn: ConnId) {
        let batch = self.outbox.taken + 1;
        self.outbox.urgent = true;
        if let Some(state) = self.conn(conn) {
            state.output_after = batch;
            self.outbox.waiting.push_back((batch, Waiter::Output(conn)));
        }
    }

    /// The order is done when this batch is stored.
    pub(super) fn order_awaits_batch(&mut self, order: u64, batch: u64) {
        let batch = self.outbox.waiting.back().map_or(batch, |(last, _)| batch.max(*last));
        self.outbox.urgent |= batch > self.outbox.taken;
        self.outbox.waiting.push_back((batch, Waiter::Order(order)));
    }

    /// Writes down what a session says of itself now.
    pub(super) fn record_session(&mut self, now: Instant, slot: u32) {
        let time = self.time(now);
        let session = &self.sessions[slot as usize];
        let Some(stored) = &session.stored else { return };
        let will = if session.conn.is_some() { &session.will } else { &stored.will };
        let record = StoredSession {
            id: stored.id,
            registry: self.registries[session.registry].name.clone(),
            uid: session.publisher.uid,
            name: session.name.clone(),
            kind: session.kind,
            client_id: session.client_id.clone(),
            owner_epoch: session.owner_epoch,
            kid: session.kid.clone(),
            leading_slash: session.leading_slash,
            expiry_s: stored.expiry_s,
            ended_ms: if session.conn.is_some() { 0 } else { stored.ended_ms },
            rights_end_ms: session.ends.map_or(0, |ends| time.to_ms(ends)),
            will: will.as_deref().cloned(),
        };
        self.remember(Record::Session(Box::new(record)));
    }

    pub(super) fn arm_session(&mut self, now: Instant, slot: u32, at: Instant) {
        let session = self.sessions.get_mut(slot as usize);
        let Some(stored) = session.and_then(|session| session.stored.as_mut()) else { return };
        let at = at.min(now + super::timers::AHEAD_MAX);
        // It may come and go often, and is away whenever an entry is looked at.
        if stored.armed.is_none_or(|armed| at < armed) {
            stored.armed = Some(at);
            self.wheel.insert(now, at, Timer::Session(stored.id));
        }
    }

    /// The session is sent the message of its own under this identifier; lost by a crash, that is no harm.
    pub(super) fn note_sending(&mut self, session: SessionId, slot: u32, packet_id: PacketId) {
        let sent = self.sessions[slot as usize].flow.sent(packet_id);
        if let Some(message) = sent.and_then(|(_, sent)| sent.owed.as_ref()?.id) {
            self.remember(Record::Sending { session, message, packet_id });
        }
    }

    /// A message at QoS 2 gets its identifier, and goes out when both are stored.
    pub(super) fn send_when_stored(&mut self, slot: u32, owed: Owed) {
        let session = &mut self.sessions[slot as usize];
        let (Some(stored), Some(message)) = (&session.stored, owed.id) else { return };
        let (session_id, packet_id) = (stored.id, session.flow.peek());
        session.flow.send_after(owed.qos, Box::new(owed), 0);
        let after = self.remember_now(Record::Sending { session: session_id, message, packet_id });
        if let Some(sent) = self.sessions[slot as usize].flow.last_mut() {
            sent.after = after;
        }
        self.await_batch(slot, after);
    }

    /// The session is owed nothing more of the message.
    pub(super) fn is_done(&mut self, slot: u32, message: MessageId) {
        let Some(stored) = &self.sessions[slot as usize].stored else { return };
        let session = stored.id;
        if let Some(foreign) = self.foreign.get_mut(&message)
            && let Some((_, done)) = foreign.sessions.iter_mut().find(|(owed, _)| *owed == session)
        {
            // Its record is still to come from another shard: this one must stand behind it.
            *done = true;
            return;
        }
        self.remember(Record::Done { session, message });
    }

    /// The message is owed to these: its record, at a `place` that [`Outbox::mark`] has given.
    pub(super) fn store_message(
        &mut self,
        message: &Arc<Message>,
        to: Vec<Destination>,
        retained: bool,
        urgent: bool,
        place: usize,
    ) -> u64 {
        let Some(id) = message.id.filter(|_| self.config.durable) else { return 0 };
        let record = Record::Message { id, message: Arc::clone(message), to, retained };
        self.outbox.urgent |= urgent;
        self.outbox.records.insert(place, record);
        self.outbox.taken + 1
    }

    /// Sessions here are owed a message of which the record is yet to be written, by this shard or another.
    ///
    /// `true` when there is one.
    pub(super) fn note_foreign(&mut self, message: &Message, to: &[Destination]) -> bool {
        let Some(id) = message.id else { return false };
        let here = to.iter().filter(|destination| self.by_id.contains_key(&destination.session));
        let here: Vec<SessionId> = here.map(|destination| destination.session).collect();
        here.iter().for_each(|session| self.note_foreign_one(id, *session));
        !here.is_empty()
    }

    pub(super) fn note_foreign_one(&mut self, id: MessageId, session: SessionId) {
        self.foreign.entry(id).or_default().sessions.push((session, false));
    }

    /// Another shard asks to whom here a message is owed.
    pub(super) fn answer_gather(
        &mut self,
        asker: usize,
        token: u64,
        message: &Message,
        owing: Owing,
        fx: &mut Vec<Effect>,
    ) {
        let Owing { to, mut shards } = owing;
        if self.note_foreign(message, &to) {
            shards.push(self.config.index);
        }
        let crossing = Crossing::Gathered { token, to, shards };
        fx.push(Effect::Cross { shard: asker, crossing });
    }

    /// Another shard has said to whom there a message is owed.
    pub(super) fn gathered(
        &mut self,
        now: Instant,
        token: u64,
        to: Vec<Destination>,
        shards: &[usize],
        fx: &mut Vec<Effect>,
    ) {
        let Some(gather) = self.gathers.get_mut(&token) else { return };
        gather.owing.extend(shards);
        gather.to.extend(to);
        gather.left -= 1;
        if gather.left > 0 {
            return;
        }
        let Some(gather) = self.gathers.remove(&token) else { return };
        let Gather { message, to, mut retained, owing, asker, .. } = gather;
        // Who has cleared the topic meanwhile did not wait for this message to be stored.
        let registry = self.registry(&message.registry);
        retained &= self.registries[registry].retained.has(&message.topic);
        let mut after = 0;
        if let Asker::Client { inbound: Some(session), packet_id, .. } = asker
            && self.has_inbound(session, packet_id)
        {
            after = self.remember_now(Record::Inbound { session, packet_id });
        }
        // One batch holds both, or neither.
        if !to.is_empty() || retained {
            let place = self.outbox.mark();
            after = self.store_message(&message, to, retained, true, place);
        }
        if message.retain && after == 0 {
            after = self.outbox.everything_so_far();
        }
        if let Some(id) = message.id {
            self.await_stored(owing.into_iter().map(|shard| Waiter::Tell(shard, id)));
        }
        match asker {
            Asker::Nobody => {}
            Asker::Order(order) if after <= self.outbox.committed => {
                fx.push(Effect::OrderDone { order, outcome: OrderOutcome::Stored });
            }
            Asker::Order(order) => self.order_awaits_batch(order, after),
            Asker::Client { slot, owner_epoch, packet_id, .. } => {
                let same = self.sessions.get(slot as usize);
                if same.is_some_and(|session| session.owner_epoch == owner_epoch && session.conn.is_some()) {
                    self.other_is_done(now, slot, packet_id, after, None, fx);
                }
            }
        }
    }

    /// Whether the message under this identifier is not released yet.
    fn has_inbound(&self, session: SessionId, packet_id: PacketId) -> bool {
        let session = self.by_id.get(&session).and_then(|slot| self.sessions.get(*slot as usize));
        session.is_some_and(|session| session.flow.inbound.contains(&packet_id.get()))
    }

    /// A message that came from another shard is stored.
    pub(super) fn foreign_is_stored(&mut self, now: Instant, message: MessageId, fx: &mut Vec<Effect>) {
        let Some(foreign) = self.foreign.remove(&message) else {
            // It comes from another shard than the message itself, and may be faster.
            self.stored_early.push_back(message);
            if self.stored_early.len() > STORED_EARLY_MAX {
                self.stored_early.pop_front();
            }
            return;
        };
        for (session, done) in foreign.sessions {
            let Some(&slot) = self.by_id.get(&session) else { continue };
            let state = &mut self.sessions[slot as usize];
            let away = state.conn.is_none();
            // More than once where it is also retained, and a subscription was told of it meanwhile.
            let mut is_owed = false;
            let mut older = 0;
            for owed in state.flow.owed_mut().rev() {
                if owed.id == Some(message) {
                    is_owed = true;
                    owed.held = false;
                    if away {
                        owed.message = None;
                    }
                } else if owed.id.is_some_and(|id| id < message) {
                    // It came a moment ago, and the queue can be long.
                    older += 1;
                    if older == OLDER_MAX {
                        break;
                    }
                }
            }
            let (conn, sent) = (state.conn, state.flow.sent_under(message));
            if let Some(packet_id) = sent {
                // It went out before its record was written. Without its identifier it would come back behind
                // messages that went out later, if the process ended now.
                self.remember(Record::Sending { session, message, packet_id });
            }
            if done && !is_owed {
                self.remember(Record::Done { session, message });
            } else if let Some(conn) = conn {
                self.catch_up(now, conn, fx);
            }
        }
    }

    /// Asks the storage for what the session needs next and has not in memory.
    pub(super) fn fetch(&mut self, slot: u32, fx: &mut Vec<Effect>) {
        let session = &mut self.sessions[slot as usize];
        let Some(stored) = &session.stored else { return };
        let messages = session.flow.missing(FETCHED_AT_ONCE);
        if !messages.is_empty() {
            session.flow.fetching = true;
            fx.push(Effect::Fetch { session: stored.id, messages });
        }
    }

    fn next_tag(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    /// Who waits for the batch that is being filled now.
    pub(super) fn await_stored(&mut self, waiters: impl Iterator<Item = Waiter>) {
        let batch = self.outbox.taken + 1;
        self.outbox.waiting.extend(waiters.map(|waiter| (batch, waiter)));
    }
}

impl StoredSession {
    /// Whose it is, by his rights of now.
    fn admitted(&self, rights: Arc<Rights>) -> Admitted {
        Admitted {
            registry: self.registry.clone(),
            uid: self.uid,
            name: self.name.clone(),
            kind: self.kind,
            client_id: self.client_id.clone(),
            assigned_client_id: false,
            rights,
            ends: None,
            kid: self.kid.clone(),
            epoch: Epoch(0),
            policy_epoch: self.will.as_ref().map_or(0, |will| will.policy_epoch),
            sessions_max: 0,
            leading_slash: self.leading_slash,
            proven: false,
            closes: None,
            ticket: None,
        }
    }
}

impl Terms {
    /// As it stands in the record of a message that is owed on these terms.
    pub(super) fn destination(self, session: SessionId, qos: Qos, retain: bool) -> Destination {
        let identifiers = Some(self.identifier).filter(|identifier| *identifier != 0);
        let retain = retain && self.retain_as_published;
        Destination { session, qos, retain, identifiers: identifiers.into_iter().collect() }
    }

    pub(super) fn route(self, slot: u32) -> Subscriber {
        Subscriber {
            slot,
            identifier: self.identifier,
            qos: self.qos,
            no_local: self.no_local,
            retain_as_published: self.retain_as_published,
        }
    }
}

impl From<&Subscriber> for Terms {
    fn from(route: &Subscriber) -> Self {
        Self {
            qos: route.qos,
            no_local: route.no_local,
            retain_as_published: route.retain_as_published,
            identifier: route.identifier,
        }
    }
}
