//! One shard at work: its poll, its sockets, its broker.
//!
//! A turn: take the inbox (and with it sockets from elsewhere, [`adopt`]), read what is ready ([`serve`]), let
//! time pass; then carry out the broker's effects ([`carry_out`]), give the storage what is to be kept, flush every
//! changed socket once, and hand each other shard its batch. When those who are in have had that, strangers:
//! handshakes for a bounded time ([`storm`]), then accept ([`accept`]).

mod accept;
mod adopt;
mod carry_out;
mod patience;
mod serve;
mod storm;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use drawbridge_admission::Connected;
use drawbridge_broker::storage::{MessageId, SessionId};
use drawbridge_broker::{ConnId, Crossing, Effect, Ended, Message, OrderOutcome, Publisher, Restored, Shard};
use drawbridge_names::{PolicyName, PrincipalName, RegistryName, Uid};
use mio::{Events, Poll, Token};
use tokio::sync::oneshot;

use crate::bridge::Shared;
use crate::channel::{Channel, ReadBuffers};
use crate::driver::accept::Doorway;
use crate::driver::patience::Waiting;
use crate::driver::serve::Closing;
use crate::driver::storm::STRANGERS_LOOK;
use crate::inbox::ToShard;
use crate::journal::Journal;
use crate::{BridgeError, BridgeHandle, Listener};

pub(crate) use adopt::{Arrival, Counted, Travelling};

/// Tokens of sockets are the slots of their connections: small numbers. These are the others.
pub(crate) const WAKER: Token = Token(usize::MAX);
const FIRST_DOOR: usize = 1 << 40;

/// 10,000 connections that break at once take 40 us each, and those who are in must not wait for all of them.
const EVENTS_PER_TURN: usize = 256;
/// Rounds of effects and flushes in one turn: what is left waits until others had their turn.
const ROUNDS_PER_TURN: usize = 16;

/// One shard and everything it owns.
pub(crate) struct Driver {
    index: usize,
    shared: Arc<Shared>,
    poll: Poll,
    doorways: Vec<Doorway>,
    shard: Shard,
    /// By [`ConnId::slot`].
    sockets: Vec<Option<Socket>>,
    open: usize,
    buffers: ReadBuffers,
    effects: Vec<Effect>,
    /// Connections with something to write; each once.
    dirty: Vec<ConnId>,
    /// Connections with more to read than one turn allows; each once.
    unread: Vec<ConnId>,
    /// Connections with something to read for their handshake; each once, in the order in which it came.
    handshakes: VecDeque<ConnId>,
    /// Not let in yet: their address has its fill of strangers.
    waiting: Waiting,
    /// Connections to be closed at the end of the turn; each once.
    leaving: Vec<ConnId>,
    /// When closing connections have had time enough.
    closings: BinaryHeap<Reverse<(Instant, ConnId)>>,
    /// For each other shard, what it gets at the end of the turn.
    outbox: Vec<Vec<Crossing>>,
    /// And after all of that: what it has asked for. When it tells a third shard that a message is stored, that one
    /// must have been given it.
    answers: Vec<Vec<Crossing>>,
    incoming: Vec<ToShard>,
    orders: HashMap<u64, oneshot::Sender<OrderOutcome>>,
    /// Publishers of messages from before this start of whom it is known how they stand.
    voices_known: HashSet<(RegistryName, Uid)>,
    journal: Journal,
    /// The connection that is being installed, as admission has judged it.
    judged: Option<(ConnId, Box<Connected>)>,
    stop: Option<Instant>,
}

/// One connection's socket and how it stands.
struct Socket {
    conn: ConnId,
    channel: Channel,
    peer: SocketAddr,
    door: usize,
    /// Counted as unauthenticated.
    at_gate: bool,
    /// Counted as a session.
    in_session: bool,
    /// The registry that the path of its upgrade named.
    registry: Option<Box<RegistryName>>,
    rights_of: Option<Box<RightsOf>>,
    closing: Option<Closing>,
    /// Listed in [`Driver::handshakes`], and whether the peer was said to have ended its half.
    handshake_queued: bool,
    handshake_closed: bool,
    /// Listed in [`Driver::dirty`], [`Driver::unread`], [`Driver::leaving`].
    dirty: bool,
    unread: bool,
    leaving: bool,
    /// The kernel took no more; an edge will tell when it does.
    blocked: bool,
    /// The broker said that there is output and has not heard yet that it is gone.
    writing: bool,
    /// Not read on, because its answers do not leave, or are not there yet.
    held_back: bool,
}

/// Whose session a socket serves, and where its rights come from.
struct RightsOf {
    registry: RegistryName,
    policy: PolicyName,
    uid: Uid,
    name: PrincipalName,
}

impl Driver {
    pub(crate) fn new(
        index: usize,
        shared: Arc<Shared>,
        poll: Poll,
        shard: Shard,
        listeners: &[Listener],
    ) -> Result<Self, BridgeError> {
        let doorways = listeners
            .iter()
            .enumerate()
            .map(|(door, listener)| Doorway::open(&poll, Token(FIRST_DOOR + door), listener))
            .collect::<Result<_, _>>()?;
        let refused = shared.meters.get(index).map(|meter| Arc::clone(&meter.refused)).unwrap_or_default();
        let outbox: Vec<Vec<Crossing>> = shared.inboxes.iter().map(|_| Vec::new()).collect();
        Ok(Self {
            index,
            shared,
            poll,
            doorways,
            shard,
            sockets: Vec::new(),
            open: 0,
            buffers: ReadBuffers::new(),
            effects: Vec::new(),
            dirty: Vec::new(),
            unread: Vec::new(),
            handshakes: VecDeque::new(),
            waiting: Waiting::new(),
            leaving: Vec::new(),
            closings: BinaryHeap::new(),
            answers: outbox.clone(),
            outbox,
            incoming: Vec::new(),
            orders: HashMap::new(),
            voices_known: HashSet::new(),
            journal: Journal::new(refused),
            judged: None,
            stop: None,
        })
    }

    /// Gives the shard back what the storage kept. Before [`run`](Self::run).
    pub(crate) fn restore(&mut self, now: Instant, restored: &Restored) {
        self.shard.restore(now, restored, &mut self.effects);
    }

    pub(crate) fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS_PER_TURN);
        let clock = Arc::clone(&self.shared.clock);
        // What the restoring left to do.
        self.settle(clock.instant());
        loop {
            self.wait(clock.instant(), &mut events);
            let now = clock.instant();
            self.turn(now, &events);
            if self.stop.is_some_and(|by| self.open == 0 || by <= now) {
                break;
            }
        }
        self.end(clock.instant());
    }

    /// Sleeps until something happens, a timer is due, or not at all when work is left.
    fn wait(&mut self, now: Instant, events: &mut Events) {
        let shared = Arc::clone(&self.shared);
        let Some(inbox) = shared.inboxes.get(self.index) else { return };
        let timeout = if self.others_are_behind() {
            Some(Duration::from_millis(1))
        } else if self.work_is_left() || !inbox.fall_asleep() {
            Some(Duration::ZERO)
        } else {
            let due = self.next_timeout().map(|due| due.saturating_duration_since(now));
            let look = self.strangers_wait_for_others().then_some(STRANGERS_LOOK);
            due.into_iter().chain(look).min()
        };
        let polled = self.poll.poll(events, timeout);
        inbox.wake_up();
        if let Err(error) = polled
            && error.kind() != ErrorKind::Interrupted
        {
            tracing::error!(%error, "a shard could not wait for its sockets");
            // Never spin on it: the timers and the inbox are still served.
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Whether another shard cannot keep up with what is handed to it: then no more is read here.
    fn others_are_behind(&self) -> bool {
        let inboxes = self.shared.inboxes.iter().enumerate();
        inboxes.filter(|(index, _)| *index != self.index).any(|(_, inbox)| inbox.is_overfull())
    }

    fn work_is_left(&self) -> bool {
        let for_strangers = !self.handshakes.is_empty() && !self.shared.has_many_logins();
        let can_accept = || self.doorways.iter().any(Doorway::is_waited_at) && self.may_accept();
        !self.dirty.is_empty() || !self.unread.is_empty() || for_strangers || can_accept()
    }

    /// Whether strangers wait because admission has enough to do, or for a place of their address, which another
    /// shard may give back.
    fn strangers_wait_for_others(&self) -> bool {
        !self.waiting.is_empty()
            || (self.shared.has_many_logins()
                && (!self.handshakes.is_empty() || self.doorways.iter().any(Doorway::is_waited_at)))
    }

    fn next_timeout(&self) -> Option<Instant> {
        let timers = [
            self.shard.next_timeout(),
            self.closings.peek().map(|Reverse((due, _))| *due),
            self.journal.next_timeout(),
            self.stop,
        ];
        let resting = self.doorways.iter().filter_map(|doorway| doorway.resting_until);
        timers.into_iter().flatten().chain(resting).min()
    }

    fn turn(&mut self, now: Instant, events: &Events) {
        // What is known here already comes before what clients say now.
        self.take_inbox(now);
        // Then what was left over, so that nobody is starved by who keeps sending.
        for conn in std::mem::take(&mut self.unread) {
            if let Some(socket) = self.socket(conn) {
                socket.unread = false;
                // To the very end: the event that told of a closed half may be used up.
                match socket.channel.is_handshaking() {
                    true => self.queue_handshake(conn, true),
                    false => self.read(now, conn, true),
                }
            }
        }
        for event in events {
            match event.token() {
                WAKER => {}
                Token(door) if door >= FIRST_DOOR => {
                    if let Some(doorway) = self.doorways.get_mut(door - FIRST_DOOR) {
                        doorway.ready = true;
                    }
                }
                Token(slot) => self.socket_event(now, slot, event),
            }
        }
        if self.shard.next_timeout().is_some_and(|due| due <= now) {
            self.shard.tick(now, &mut self.effects);
        }
        self.close_overdue(now);
        self.settle(now);
        // Those who are in have had their turn.
        if self.has_strangers() {
            self.work_on_handshakes(now);
            self.release(now);
            self.accept_all(now);
            self.settle(now);
        }
        self.journal.tick(now);
    }

    fn has_strangers(&self) -> bool {
        !self.handshakes.is_empty()
            || !self.waiting.is_empty()
            || self.doorways.iter().any(|doorway| doorway.ready)
    }

    fn socket_event(&mut self, now: Instant, slot: usize, event: &mio::event::Event) {
        let Some(socket) = self.sockets.get_mut(slot).and_then(Option::as_mut) else { return };
        let conn = socket.conn;
        let (blocked, held_back) = (socket.blocked, socket.held_back);
        let is_handshaking = socket.closing.is_none() && socket.channel.is_handshaking();
        if event.is_writable() && blocked {
            socket.blocked = false;
            self.mark_dirty(conn);
        }
        if event.is_error() && held_back {
            // It is not read, so the reset must be taken from the event.
            self.leave(conn);
        } else if event.is_readable() || event.is_read_closed() || event.is_error() {
            let closed = event.is_read_closed() || event.is_error();
            match is_handshaking {
                true => self.queue_handshake(conn, closed),
                false => self.read(now, conn, closed),
            }
        }
    }

    /// Effects and flushes, until there are none or the turn has been long enough. The batches for the other shards
    /// go first: who reads a SUBACK and says so finds the group's home informed.
    fn settle(&mut self, now: Instant) {
        for _ in 0..ROUNDS_PER_TURN {
            self.carry_out_all(now);
            self.submit();
            self.hand_over();
            if self.dirty.is_empty() {
                break;
            }
            for conn in std::mem::take(&mut self.dirty) {
                self.flush(now, conn);
            }
        }
        self.carry_out_all(now);
        self.submit();
        self.hand_over();
        if self.shard.take_statistics_wanted() {
            self.shared.statistics_wanted.notify_one();
        }
    }

    /// Each other shard gets its batch.
    fn hand_over(&mut self) {
        let batches = self.outbox.iter_mut().zip(&self.shared.inboxes);
        for (batch, inbox) in batches.chain(self.answers.iter_mut().zip(&self.shared.inboxes)) {
            if !batch.is_empty() {
                inbox.push(ToShard::Crossings(std::mem::take(batch)));
            }
        }
    }

    /// Gives the storage what is to be kept, before anything that was written because of it leaves.
    fn submit(&mut self) {
        if let Some(batch) = self.shard.take_batch()
            && let Some(storage) = &self.shared.storage
        {
            storage.submit(self.index, batch);
        }
    }

    /// Messages were read back. Of those from before this start it may not be known how their publishers stand:
    /// that is asked before anybody gets them (I4).
    fn fetched(
        &mut self,
        now: Instant,
        session: SessionId,
        messages: Vec<(MessageId, Option<Arc<Message>>)>,
    ) {
        // By their numbers: the wall clock may have been put back since.
        let restored_max = self.shared.restored_message_max;
        let old = messages.iter().filter(|(id, _)| id.0 <= restored_max);
        let old = old.filter_map(|(_, message)| message.as_ref());
        let old = old.filter(|message| message.publisher.uid != Publisher::SERVER);
        let unknown: HashSet<(RegistryName, Uid)> = old
            .map(|message| (message.registry.clone(), message.publisher.uid))
            .filter(|publisher| !self.voices_known.contains(publisher))
            .collect();
        if unknown.is_empty() {
            self.shard.fetched(now, session, messages, &mut self.effects);
            return;
        }
        let (index, shared) = (self.index, Arc::clone(&self.shared));
        shared.clone().runtime.spawn(async move {
            let mut standing = Vec::with_capacity(unknown.len());
            for publisher in unknown {
                // When the registry does not answer, nothing of it is delivered; the publisher itself, or its
                // operator, gives it its voice back.
                let rights =
                    shared.admission.standing_of(&publisher.0, publisher.1).await.unwrap_or_default();
                standing.push((publisher, rights));
            }
            if let Some(inbox) = shared.inboxes.get(index) {
                inbox.push(ToShard::Judged { standing, session, messages });
            }
        });
    }

    fn take_inbox(&mut self, now: Instant) {
        let mut incoming = std::mem::take(&mut self.incoming);
        if let Some(inbox) = self.shared.inboxes.get(self.index) {
            inbox.take(&mut incoming);
        }
        for item in incoming.drain(..) {
            match item {
                ToShard::Answer { conn, answer } => self.install(now, conn, answer),
                ToShard::AnswerForToken { conn, assigned } => {
                    self.shard.answer_for_token(now, conn, assigned.as_ref(), &mut self.effects);
                }
                ToShard::TokenJudged { conn, outcome } => self.token_judged(now, conn, outcome),
                ToShard::Renewed { conn, answer } => self.install_renewal(now, conn, answer),
                ToShard::Refresh { conn, connected, reply } => {
                    // Who asked may have gone.
                    let _ = reply.send(self.install_refresh(now, conn, connected));
                }
                ToShard::Challenge { conn, asked, challenge } => {
                    self.shard.challenge(now, conn, asked, challenge, &mut self.effects);
                }
                ToShard::ControlDone { conn, ack, result } => {
                    self.control_done(now, conn, ack, result);
                }
                ToShard::Order { order, reply } => {
                    self.orders.insert(order.id, reply);
                    self.shard.publish(now, order, &mut self.effects);
                }
                ToShard::Ended(ended) => self.shard.end_sessions(now, &ended, &mut self.effects),
                ToShard::PolicyChanged { registry, policy } => self.policy_changed(registry, policy),
                ToShard::Crossings(batch) => self.shard.crossings(now, batch, &mut self.effects),
                ToShard::Adopt(travelling) => self.adopt(now, *travelling),
                ToShard::Arrive(arrival) => self.arrive(now, *arrival),
                ToShard::PlaceFreed { door } => self.gate_freed(door, true),
                ToShard::Committed { number } => self.shard.committed(now, number, &mut self.effects),
                ToShard::Fetched { session, messages } => self.fetched(now, session, messages),
                ToShard::Judged { standing, session, messages } => {
                    for ((registry, uid), rights) in standing {
                        self.shard.learn_standing(&registry, uid, rights);
                        self.voices_known.insert((registry, uid));
                    }
                    self.shard.fetched(now, session, messages, &mut self.effects);
                }
                ToShard::Stalled(stalled) => self.shard.stalled(now, stalled, &mut self.effects),
                ToShard::LeaveNumbers { reply } => {
                    self.leave_numbers();
                    // Who asked may have gone; so below.
                    let _ = reply.map(|reply| reply.send(()));
                }
                ToShard::CountRegistries { reply } => {
                    let _ = reply.send(self.shard.registry_stats());
                }
                ToShard::TellStatistics { figures, reply } => {
                    let mut is_heard = false;
                    for (registry, figures) in figures.iter() {
                        is_heard |= self.shard.tell_statistics(now, registry, figures, &mut self.effects);
                    }
                    let _ = reply.send(is_heard);
                }
                ToShard::Stop { by } => self.begin_stop(now, by),
            }
        }
        self.incoming = incoming;
    }

    /// The sessions that have their rights from a policy end: they may come back at once.
    fn policy_changed(&self, registry: RegistryName, policy: PolicyName) {
        let names: HashMap<Uid, PrincipalName> = self
            .sockets
            .iter()
            .flatten()
            .filter_map(|socket| socket.rights_of.as_deref())
            .filter(|of| of.policy == policy && of.registry == registry)
            .map(|of| (of.uid, of.name.clone()))
            .collect();
        let handle = BridgeHandle::new(Arc::clone(&self.shared));
        self.shared.runtime.spawn(async move {
            for (uid, name) in names {
                handle.policy_changed_for(&registry, uid, Some(name)).await;
            }
        });
    }

    /// Accepts no more and says goodbye. Who is not a session yet just goes.
    fn begin_stop(&mut self, now: Instant, by: Instant) {
        self.stop = Some(by);
        for mut doorway in self.doorways.drain(..) {
            doorway.close(&self.poll);
        }
        self.send_patients_away();
        self.shard.end_sessions(now, &Ended::All, &mut self.effects);
        self.carry_out_all(now);
        let silent: Vec<ConnId> =
            self.sockets.iter().flatten().filter(|socket| socket.closing.is_none()).map(|s| s.conn).collect();
        silent.into_iter().for_each(|conn| self.leave(conn));
    }

    fn end(&mut self, now: Instant) {
        let rest: Vec<ConnId> = self.sockets.iter().flatten().map(|socket| socket.conn).collect();
        rest.into_iter().for_each(|conn| self.leave(conn));
        // Sessions that end now leave records, and messages to other shards, behind.
        self.settle(now);
        self.leave_numbers();
    }

    fn leave_numbers(&self) {
        if let Some(meter) = self.shared.meters.get(self.index) {
            meter.handshakes_waiting.store(self.handshakes.len(), Relaxed);
            meter.leave(self.shard.stats());
        }
    }

    /// The socket of a connection, unless it is gone.
    fn socket(&mut self, conn: ConnId) -> Option<&mut Socket> {
        let socket = self.sockets.get_mut(conn.slot() as usize)?.as_mut()?;
        (socket.conn == conn && !socket.leaving).then_some(socket)
    }

    fn mark_dirty(&mut self, conn: ConnId) {
        if let Some(socket) = self.socket(conn)
            && !socket.dirty
        {
            socket.dirty = true;
            self.dirty.push(conn);
        }
    }

    fn mark_unread(&mut self, conn: ConnId) {
        if let Some(socket) = self.socket(conn)
            && !socket.unread
        {
            socket.unread = true;
            self.unread.push(conn);
        }
    }

    /// The connection goes at the end of the turn, when its last effects have been carried out.
    fn leave(&mut self, conn: ConnId) {
        if let Some(socket) = self.socket(conn) {
            socket.leaving = true;
            self.leaving.push(conn);
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Also when this thread panics: nobody must wait for a shard that is gone.
        if let Some(inbox) = self.shared.inboxes.get(self.index) {
            inbox.close();
        }
    }
}
