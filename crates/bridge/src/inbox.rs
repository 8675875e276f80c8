//! What other threads hand to a shard: answers, orders, ends of sessions, and other shards' batches.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use drawbridge_admission::{Connected, TokenMark};
use drawbridge_broker::storage::{MessageId, SessionId};
use drawbridge_broker::{
    Admitted, Asked, ConnId, ControlAck, Crossing, Ended, Figures, Message, Order, OrderOutcome, Refreshed,
    Refused, RegistryStats, Ticket,
};
use drawbridge_mqtt::codec::ReasonCode;
use drawbridge_names::{MqttClientId, PolicyName, RegistryName, Uid};
use drawbridge_policy::Rights;
use tokio::sync::oneshot;

use crate::driver::{Arrival, Travelling};

/// A principal, and what it may do by its policy; `None`: nothing of it is delivered.
pub(crate) type Standing = ((RegistryName, Uid), Option<Arc<Rights>>);

/// One thing for a shard to do.
#[derive(Debug)]
pub(crate) enum ToShard {
    /// What admission said of a CONNECT. Stale when the connection is gone.
    Answer { conn: ConnId, answer: Result<Box<Connected>, TurnedAway> },
    /// The client may publish a token and nothing else; its client id, if admission has chosen one.
    AnswerForToken { conn: ConnId, assigned: Option<MqttClientId> },
    /// What admission said of a token on `authz-info`.
    TokenJudged { conn: ConnId, outcome: Result<(), TokenRefused> },
    /// The same of a new credential for an open session.
    Renewed { conn: ConnId, answer: Result<Box<Connected>, TurnedAway> },
    /// A new right for an open session, from outside; `reply` hears what became of it.
    Refresh {
        conn: ConnId,
        connected: Box<Connected>,
        reply: oneshot::Sender<Result<Refreshed, &'static str>>,
    },
    /// Admission wants this answered first.
    Challenge { conn: ConnId, asked: Asked, challenge: Vec<u8> },
    /// What control said of a client's publish; of a will nobody waits for the answer.
    ControlDone { conn: ConnId, ack: Option<ControlAck>, result: Result<(), ControlRefused> },
    /// A message from the server; `reply` hears what became of it.
    Order { order: Order, reply: oneshot::Sender<OrderOutcome> },
    /// Sessions that end now.
    Ended(Ended),
    /// A policy changed: the sessions that have their rights from it end.
    PolicyChanged { registry: RegistryName, policy: PolicyName },
    /// What another shard collected in one turn.
    Crossings(Vec<Crossing>),
    /// A connection comes from another shard.
    Adopt(Box<Travelling>),
    /// A client comes from HTTPS, over WebSocket from now on.
    Arrive(Box<Arrival>),
    /// There is room at a listener again, and nobody goes on accepting yet.
    PlaceFreed { door: usize },
    /// The storage has this batch, and all before it.
    Committed { number: u64 },
    /// Messages that the shard asked the storage for.
    Fetched { session: SessionId, messages: Vec<(MessageId, Option<Arc<Message>>)> },
    /// The same, and how those who published them stand.
    Judged { standing: Vec<Standing>, session: SessionId, messages: Vec<(MessageId, Option<Arc<Message>>)> },
    /// The storage cannot store for now, or can again.
    Stalled(bool),
    /// Somebody wants this shard's numbers, and perhaps to hear when they are there.
    LeaveNumbers { reply: Option<oneshot::Sender<()>> },
    /// What does each registry hold here?
    CountRegistries { reply: oneshot::Sender<Vec<(RegistryName, RegistryStats)>> },
    /// What `$SYS` says from now on; `reply` hears whether somebody listens here.
    TellStatistics { figures: Arc<[(RegistryName, Arc<Figures>)]>, reply: oneshot::Sender<bool> },
    /// Say goodbye to everybody, and be gone at `by`.
    Stop { by: Instant },
}

/// A refusal by admission: what the peer is told, and what is counted.
#[derive(Debug)]
pub(crate) struct TurnedAway {
    pub(crate) told: Refused,
    pub(crate) code: &'static str,
    pub(crate) word: &'static str,
}

/// A token that is not kept: what its client is told, and what is counted.
#[derive(Debug)]
pub(crate) struct TokenRefused {
    pub(crate) told: ReasonCode,
    pub(crate) word: &'static str,
}

/// A refusal by control: what the client is told, and what is logged.
#[derive(Debug)]
pub(crate) struct ControlRefused {
    pub(crate) told: ReasonCode,
    pub(crate) code: &'static str,
    pub(crate) word: &'static str,
    pub(crate) text: String,
}

/// What other shards may hand over before it is taken. A shard that finds another so far behind reads
/// no further from its own clients.
const CROSSING_BYTES_MAX: usize = 32 << 20;

/// The queue of one shard. Its lock is taken once for a batch, never for a message.
#[derive(Debug)]
pub(crate) struct Inbox {
    queue: Mutex<Queue>,
    /// The shard sleeps, or is about to after a last look at the queue.
    asleep: AtomicBool,
    /// What the crossings in the queue hold.
    crossing_bytes: AtomicUsize,
    waker: mio::Waker,
}

#[derive(Debug, Default)]
struct Queue {
    items: Vec<ToShard>,
    closed: bool,
}

impl Inbox {
    pub(crate) fn new(registry: &mio::Registry, token: mio::Token) -> io::Result<Self> {
        let waker = mio::Waker::new(registry, token)?;
        Ok(Self {
            queue: Mutex::default(),
            asleep: AtomicBool::new(false),
            crossing_bytes: AtomicUsize::new(0),
            waker,
        })
    }

    /// Hands something over, and wakes the shard if it sleeps: a wake that is not needed costs a
    /// system call on both sides. A shard that is gone drops it, so that who waits for a reply hears.
    pub(crate) fn push(&self, item: ToShard) {
        let mut queue = self.lock();
        if queue.closed {
            return;
        }
        if let ToShard::Crossings(batch) = &item {
            self.crossing_bytes.fetch_add(batch.iter().map(Crossing::bytes).sum(), Relaxed);
        }
        match (queue.items.last_mut(), item) {
            // A later batch says all that an earlier one said.
            (Some(ToShard::Committed { number }), ToShard::Committed { number: later }) => *number = later,
            (_, item) => queue.items.push(item),
        }
        drop(queue);
        if self.asleep.swap(false, SeqCst)
            && let Err(error) = self.waker.wake()
        {
            tracing::error!(%error, "a shard could not be woken; it will look at its queue late");
        }
    }

    /// Moves everything into `into`, which must be empty; its capacity goes to the queue.
    pub(crate) fn take(&self, into: &mut Vec<ToShard>) {
        debug_assert!(into.is_empty(), "the batch before was worked off");
        let mut queue = self.lock();
        std::mem::swap(&mut queue.items, into);
        self.crossing_bytes.store(0, Relaxed);
    }

    /// Whether the shard takes what others hand over more slowly than it comes.
    pub(crate) fn is_overfull(&self) -> bool {
        self.crossing_bytes.load(Relaxed) > CROSSING_BYTES_MAX
    }

    /// Announces sleep. `false`: something came in meanwhile, do not sleep.
    pub(crate) fn fall_asleep(&self) -> bool {
        self.asleep.store(true, SeqCst);
        // Whoever pushes after this look finds the flag up and wakes.
        let empty = self.lock().items.is_empty();
        if !empty {
            self.asleep.store(false, SeqCst);
        }
        empty
    }

    pub(crate) fn wake_up(&self) {
        self.asleep.store(false, SeqCst);
    }

    /// The shard ends: what waits is dropped, and what comes from now on.
    pub(crate) fn close(&self) {
        let mut queue = self.lock();
        queue.closed = true;
        let dropped = std::mem::take(&mut queue.items);
        drop(queue);
        // Not under the lock: what is dropped may give places back.
        drop(dropped);
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // A push or a swap is complete before anything could panic.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An admission in the words of the broker.
pub(crate) fn admitted(connected: Connected) -> Admitted {
    Admitted {
        registry: connected.registry,
        uid: connected.uid,
        name: connected.name,
        kind: connected.kind,
        client_id: connected.client_id,
        assigned_client_id: connected.assigned_client_id,
        rights: connected.rights,
        ends: connected.ends,
        kid: connected.kid,
        epoch: connected.epoch,
        // Admission does not count the changes of a policy: they end the sessions.
        policy_epoch: 0,
        sessions_max: connected
            .sessions_max
            .map_or(usize::MAX, |max| usize::try_from(max).unwrap_or(usize::MAX)),
        leading_slash: connected.leading_slash,
        proven: connected.proven,
        closes: None,
        ticket: match (connected.token, connected.ca) {
            (Some(TokenMark { token, issuer_kid, gateway }), _) => {
                Some(Box::new(Ticket { token, issuer_kid, gateway }))
            }
            // A certificate is a ticket, too: its CA has signed it. No token has this number.
            (None, Some(ca)) => {
                Some(Box::new(Ticket { token: [0; 16], issuer_kid: Some(ca), gateway: None }))
            }
            (None, None) => None,
        },
    }
}
