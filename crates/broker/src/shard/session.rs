//! A session: whose it is, what it asked for, what it is owed; and its end.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use drawbridge_mqtt::codec::{PacketId, Will, WillProperties};
use drawbridge_names::{KeyId, MqttClientId, PrincipalKind, PrincipalName, TopicFilter, TopicName, Uid};
use drawbridge_policy::Rights;

use super::filters::Filters;
use super::flow::Flow;
use super::known::Known;
use super::outgoing::{Publication, unstored};
use super::pace::Pace;
use super::publish::{Origin, Speaker};
use super::renew::Renewal;
use super::shared::Change;
use super::speech::Waiting;
use super::{ConnId, Kept, Later, Shard};
use crate::deliver::{Audience, Voices, may_deliver};
use crate::effect::{Admitted, Close, Crossing, Effect, Ended, EndedWhy, OrderOutcome, Ticket};
use crate::message::Publisher;
use crate::report::{Report, What, Who};
use crate::retained::Walk;
use crate::routes::Subscriber;
use crate::storage::{Record, SessionId, StoredWill, Terms};

pub(super) struct Session {
    /// Index into the shard's registries.
    pub(super) registry: usize,
    /// Its connection; `None` while it is away.
    pub(super) conn: Option<ConnId>,
    pub(super) publisher: Publisher,
    pub(super) name: PrincipalName,
    pub(super) kind: PrincipalKind,
    pub(super) client_id: MqttClientId,
    /// Those of its connection, of its last one while it is away.
    pub(super) rights: Arc<Rights>,
    pub(super) ends: Option<Instant>,
    pub(super) kid: Option<KeyId>,
    pub(super) ticket: Option<Box<Ticket>>,
    /// The fence of the cluster to come: grows with each connection of the principal.
    pub(super) owner_epoch: u64,
    /// `/devices/...` on the wire is `devices/...` within.
    pub(super) leading_slash: bool,
    pub(super) filters: Filters,
    /// How many of them are shared.
    pub(super) shares: usize,
    /// Tells it from all other sessions of the shard.
    pub(super) tag: u64,
    /// What the filters cost, see [`filter_cost`].
    pub(super) filter_bytes: usize,
    /// The route that met it last, and where it stands in `Shard::met`.
    pub(super) met: (u64, u32),
    /// What it found out about the topics that it publishes to.
    pub(super) known: Option<Box<Known>>,
    pub(super) flow: Flow,
    /// Since when messages wait, as a number that grows; 0: none do.
    pub(super) behind_since: u64,
    /// Answers that must go out in the order of what they answer, and wait for the storage or another shard.
    pub(super) speeches: VecDeque<Waiting>,
    /// The last batch whose storing it wants to hear of.
    pub(super) awaits: u64,
    /// Retained messages that wait for room, one walk per subscription, the oldest first.
    pub(super) walks: BTreeMap<u64, RetainedWalk>,
    /// How fast it may publish, if there is a ceiling.
    pub(super) pace: Option<Box<Pace>>,
    /// When it reads on of its own accord, having read as much at once as one may.
    pub(super) resumes: Option<Instant>,
    pub(super) orders: Vec<WaitingOrder>,
    /// Control publishes that wait for the edge.
    pub(super) controls: u16,
    pub(super) will: Option<Box<StoredWill>>,
    /// Whether its client has proven to hold the key of its credential.
    pub(super) proven: bool,
    /// When its connection ends, whatever renews it; never before `ends`.
    pub(super) closes: Option<Instant>,
    /// What there is to a session that is renewed now, or was.
    pub(super) renewal: Option<Box<Renewal>>,
    /// What there is to a session that outlives its connection.
    pub(super) stored: Option<Box<Stored>>,
}

/// A session that outlives its connection.
pub(super) struct Stored {
    pub(super) id: SessionId,
    /// How long, in seconds; not 0.
    pub(super) expiry_s: u32,
    /// When its connection ended, in ms since 1970-01-01 UTC; 0 while it is connected.
    pub(super) ended_ms: u64,
    /// When it ends, while it is away.
    pub(super) expires: Option<Instant>,
    /// When the wheel will look at it.
    pub(super) armed: Option<Instant>,
    /// A will that is held back while it is away.
    pub(super) will: Option<Box<StoredWill>>,
}

/// A subscription as the session knows it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subscription {
    /// Key of its walk over the retained messages, if that has not come to its end.
    pub(super) walk: u64,
    /// The terms of a shared subscription.
    pub(super) shared: Option<Terms>,
}

/// A subscription that is still being told the retained messages.
pub(super) struct RetainedWalk {
    pub(super) filter: TopicFilter,
    pub(super) route: Subscriber,
    pub(super) walk: Walk,
}

/// An order that waits for the PUBACK of this session.
#[derive(Debug)]
pub(super) struct WaitingOrder {
    pub(super) id: u64,
    pub(super) deadline: Instant,
    pub(super) stage: OrderStage,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum OrderStage {
    /// In the queue, by the ticket of what is owed.
    Queued(u64),
    /// Sent.
    Sent(PacketId),
}

/// A will whose connection has ended.
pub(super) struct DelayedWill {
    pub(super) at: Instant,
    /// When the wheel will look at it.
    pub(super) armed: Instant,
    pub(super) conn: ConnId,
    pub(super) registry: usize,
    pub(super) publisher: Publisher,
    pub(super) name: PrincipalName,
    pub(super) kind: PrincipalKind,
    pub(super) kid: Option<KeyId>,
    pub(super) ticket: Option<Box<Ticket>>,
    pub(super) client_id: MqttClientId,
    pub(super) rights: Arc<Rights>,
    pub(super) will: Box<StoredWill>,
    /// The stored session that remembers it until it is spoken.
    pub(super) session: Option<SessionId>,
}

/// How a session leaves its connection.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Leaving {
    /// Whether the will speaks.
    pub(super) with_will: bool,
    /// Whether nothing is kept, whatever was agreed.
    pub(super) discard: bool,
}

/// A will speaks a day after its session at the latest; the standard lets it wait 136 years.
const WILL_DELAY_MAX: Duration = Duration::from_secs(86_400);
/// Wills of one principal held back in one shard; beyond it they speak at once.
const WILLS_HELD_MAX: usize = 8;
/// Control publishes of one connection that the edge works on at once.
const CONTROLS_MAX: u16 = 16;
/// Answers that wait; beyond it the client is not listened to until some have gone out.
const SPEECHES_MAX: usize = 1_024;
/// Stored sessions of one principal in one shard, if it may not have more live ones; the one that is away
/// longest goes for a new one.
pub(super) const AWAY_MAX: usize = 16;
/// Beside its text, what a level of a filter costs in the routes.
const LEVEL_BYTES: usize = 96;

/// What a filter costs.
pub(super) fn filter_cost(filter: &TopicFilter) -> usize {
    filter.as_str().len() + LEVEL_BYTES * filter.levels().count()
}

/// A will as CONNECT brought it; its delay ends with its session.
pub(super) fn last_will(will: &Will<'_>, session_expiry_s: u32) -> StoredWill {
    let WillProperties { delay_s, message_expiry_s, .. } = will.properties;
    let delay = Duration::from_secs(u64::from(delay_s.unwrap_or(0).min(session_expiry_s)));
    StoredWill {
        topic: will.topic.as_str().into(),
        payload: will.payload.into(),
        qos: will.qos,
        retain: will.retain,
        expiry_s: message_expiry_s,
        properties: super::outgoing::will_properties(&will.properties),
        delay_ms: u64::try_from(delay.min(WILL_DELAY_MAX).as_millis()).unwrap_or(u64::MAX),
        policy_epoch: 0,
    }
}

impl Session {
    /// A session of whoever was admitted, as yet without connection, and with nothing.
    pub(super) fn of(admitted: Admitted, registry: usize, owner_epoch: u64, tag: u64) -> Self {
        let pace = Pace::of(&admitted.rights, None);
        Self {
            shares: 0,
            tag,
            registry,
            conn: None,
            publisher: Publisher { uid: admitted.uid, policy_epoch: admitted.policy_epoch },
            name: admitted.name,
            kind: admitted.kind,
            client_id: admitted.client_id,
            rights: admitted.rights,
            ends: admitted.ends,
            kid: admitted.kid,
            ticket: admitted.ticket,
            owner_epoch,
            leading_slash: admitted.leading_slash,
            filters: Default::default(),
            filter_bytes: 0,
            met: (0, 0),
            known: None,
            flow: Flow::default(),
            behind_since: 0,
            speeches: VecDeque::new(),
            awaits: 0,
            walks: Default::default(),
            pace,
            resumes: None,
            orders: Vec::new(),
            controls: 0,
            will: None,
            proven: admitted.proven,
            closes: None,
            renewal: None,
            stored: None,
        }
    }

    /// Its owner is back, on another connection.
    pub(super) fn resume(
        &mut self,
        admitted: Admitted,
        conn: ConnId,
        owner_epoch: u64,
        will: Option<Box<StoredWill>>,
    ) {
        self.conn = Some(conn);
        self.publisher = Publisher { uid: admitted.uid, policy_epoch: admitted.policy_epoch };
        self.rights = admitted.rights;
        self.pace = Pace::of(&self.rights, self.pace.take());
        self.ends = admitted.ends;
        self.kid = admitted.kid;
        self.ticket = admitted.ticket;
        self.owner_epoch = owner_epoch;
        self.leading_slash = admitted.leading_slash;
        self.proven = admitted.proven;
        self.closes = None;
        self.will = will;
    }

    /// Whether the right of the session has ended (I5). One that is away has none that could.
    pub(super) fn has_ended(&self, now: Instant) -> bool {
        self.conn.is_some() && self.ends.is_some_and(|ends| ends <= now)
    }

    /// Why the right of the session has ended.
    pub(super) fn why_ended(&self, now: Instant) -> What {
        match self.closes {
            Some(closes) if closes <= now => What::HandshakeTooOld,
            _ => What::Expired,
        }
    }

    /// Whether messages must queue: some wait already, and order must hold.
    pub(super) fn is_behind(&self) -> bool {
        self.flow.is_behind() || !self.walks.is_empty()
    }

    /// Whether it must wait until what it said before is dealt with.
    pub(super) fn is_held(&self) -> bool {
        self.controls >= CONTROLS_MAX
            || self.speeches.len() >= SPEECHES_MAX
            || self.pace.as_ref().is_some_and(|pace| pace.rests.is_some())
    }

    /// Whether a message of `publisher` on `topic` may go to it now: what every delivery asks (I4).
    pub(super) fn may_have(
        &self,
        now: Instant,
        voices: &Voices,
        publisher: Uid,
        topic: TopicName<'_>,
    ) -> bool {
        !self.has_ended(now) && self.may_be_owed(voices, publisher, topic)
    }

    /// As [`Self::may_have`], apart from whether its right has ended: who comes back gets what came meanwhile.
    pub(super) fn may_be_owed(&self, voices: &Voices, publisher: Uid, topic: TopicName<'_>) -> bool {
        !self.is_mistaken(topic) && may_deliver(&self.rights, voices, publisher, topic)
    }

    /// As [`Self::may_be_owed`], of one of many that get the same message.
    pub(super) fn may_be_owed_too(
        &self,
        voices: &Voices,
        publisher: Uid,
        topic: TopicName<'_>,
        audience: &mut Audience,
    ) -> bool {
        !self.is_mistaken(topic) && audience.may_deliver(&self.rights, voices, publisher, topic)
    }

    /// To a client that maps, `/devices/...` means `devices/...`: another topic of that very name would pass
    /// for it.
    fn is_mistaken(&self, topic: TopicName<'_>) -> bool {
        self.leading_slash && topic.as_str().starts_with("/devices/")
    }

    /// What the end of this session is called if `which`, which means its principal, ends it.
    pub(super) fn ended_by(&self, which: &Ended) -> Option<What> {
        match which {
            Ended::Principal { why, .. } => Some(What::Ended(*why)),
            Ended::Key { kid, .. } => (self.kid.as_ref() == Some(kid)).then_some(What::KeyRemoved),
            Ended::Ticket { end, .. } => end.concerns(self.ticket.as_deref()).then_some(What::TicketEnded),
            // Its rights are switched.
            Ended::Policy { .. } => None,
            Ended::All => Some(What::ShuttingDown),
        }
    }
}

impl Shard {
    /// The registry that `which` speaks of, and the slots of the sessions that it may end.
    pub(super) fn concerned(&mut self, which: &Ended) -> (usize, Vec<u32>) {
        if let Ended::Ticket { registry, uid: None, .. } = which {
            let registry = self.registry(registry);
            let slots = self.registries[registry].sessions.iter().map(|(_, slot)| *slot).collect();
            return (registry, slots);
        }
        let (Ended::Principal { registry, uid, .. }
        | Ended::Key { registry, uid, .. }
        | Ended::Ticket { registry, uid: Some(uid), .. }
        | Ended::Policy { registry, uid, .. }) = which
        else {
            let all = self.sessions.iter().filter(|(_, session)| session.conn.is_some());
            return (0, all.map(|(slot, _)| slot_of(slot)).collect());
        };
        let registry = self.registry(registry);
        let slots = self.registries[registry].sessions.range((*uid, 0)..=(*uid, u32::MAX));
        (registry, slots.map(|(_, slot)| *slot).collect())
    }

    /// Remembers whose word counts no more, or how it is judged, for what is stored and for wills.
    ///
    /// Where the principal `had_session`, the other shards are told after all that this one has said
    /// of it: an admission may be on its way to them, and they may have heard of its end before.
    pub(super) fn note_standing(
        &mut self,
        which: &Ended,
        registry: usize,
        had_session: bool,
        fx: &mut Vec<Effect>,
    ) {
        let (uid, rights) = match which {
            Ended::Principal { uid, why, .. } if why.silences() => (*uid, None),
            // Blocked it stays, until it is admitted again.
            Ended::Policy { uid, .. } if self.registries[registry].voices.is_silenced(*uid) => return,
            Ended::Policy { uid, rights, .. } => {
                (*uid, Some(rights.clone().unwrap_or_else(|| Arc::new(Rights::none()))))
            }
            Ended::Principal { .. } | Ended::Key { .. } | Ended::Ticket { .. } | Ended::All => return,
        };
        self.registries[registry].voices.judge_by(uid, rights.clone());
        if had_session || self.registries[registry].voices.was_spread(uid) {
            self.spread_standing(registry, uid, rights.as_ref(), fx);
        }
    }

    pub(super) fn spread_standing(
        &mut self,
        registry: usize,
        uid: Uid,
        rights: Option<&Arc<Rights>>,
        fx: &mut Vec<Effect>,
    ) {
        self.registries[registry].voices.note_spread(uid);
        for shard in (0..self.config.shards).filter(|&shard| shard != self.config.index) {
            let registry = self.registries[registry].name.clone();
            let crossing = Crossing::Standing { registry, uid, rights: rights.cloned() };
            fx.push(Effect::Cross { shard, crossing });
        }
    }

    /// The wills that are held back and will not be spoken any more, because of `which`.
    pub(super) fn drop_wills_of(
        &mut self,
        now: Instant,
        which: &Ended,
        registry: usize,
        fx: &mut Vec<Effect>,
    ) {
        let taken = match which {
            Ended::Principal { uid, why, .. } if why.silences() || *why == EndedWhy::Revoked => {
                self.take_wills(registry, *uid, |_| true)
            }
            Ended::Key { uid, kid, .. } => {
                self.take_wills(registry, *uid, |will| will.kid.as_ref() == Some(kid))
            }
            Ended::Ticket { uid, end, .. } => {
                let owners: BTreeSet<Uid> = match uid {
                    Some(uid) => [*uid].into(),
                    None => self.registries[registry].wills.iter().map(|(uid, _)| *uid).collect(),
                };
                let concerned = |will: &DelayedWill| end.concerns(will.ticket.as_deref());
                owners.into_iter().flat_map(|uid| self.take_wills(registry, uid, concerned)).collect()
            }
            Ended::Principal { .. } | Ended::Policy { .. } | Ended::All => return,
        };
        for will in taken {
            let uid = will.publisher.uid;
            let name = &self.registries[registry].name;
            self.directory.will_gone(name, uid, &will.client_id, self.config.index);
            self.will_is_settled(now, &will);
            let rule =
                "its owner was blocked, deleted or revoked, or its key or token was removed".to_owned();
            self.report_will(&will, rule, fx);
        }
    }

    /// Takes the wills of a principal that are held back here and that `which` means.
    pub(super) fn take_wills(
        &mut self,
        registry: usize,
        uid: Uid,
        which: impl Fn(&DelayedWill) -> bool,
    ) -> Vec<DelayedWill> {
        let held = self.registries[registry].wills.range((uid, 0)..=(uid, usize::MAX)).map(|(_, key)| *key);
        let keys: Vec<usize> = held.filter(|key| self.delayed_wills.get(*key).is_some_and(&which)).collect();
        keys.into_iter().map(|key| self.remove_will(key)).collect()
    }

    pub(super) fn remove_will(&mut self, key: usize) -> DelayedWill {
        let will = self.delayed_wills.remove(key);
        self.registries[will.registry].wills.remove(&(will.publisher.uid, key));
        will
    }

    /// The stored session need not remember it any more.
    fn will_is_settled(&mut self, now: Instant, will: &DelayedWill) {
        let Some(slot) = will.session.and_then(|id| self.by_id.get(&id).copied()) else { return };
        let session = &mut self.sessions[slot as usize];
        // A session that is back has a will of its own connection.
        let Some(stored) = session.stored.as_mut().filter(|_| session.conn.is_none()) else { return };
        if stored.will.take().is_some() {
            self.record_session(now, slot);
        }
    }

    fn report_will(&self, will: &DelayedWill, rule: String, fx: &mut Vec<Effect>) {
        let registry = self.registries[will.registry].name.clone();
        let who = Some(Who { registry, uid: will.publisher.uid, name: will.name.clone() });
        let what = What::WillDenied { topic: will.will.topic.to_string(), rule };
        fx.push(Effect::Report(Report { conn: will.conn, who, what }));
    }

    /// DISCONNECT came: with reason 0x00 the will is forgotten [MQTT-3.14.4-3] (both versions).
    pub(super) fn on_disconnect(
        &mut self,
        now: Instant,
        conn: ConnId,
        with_will: bool,
        session_expiry_s: Option<u32>,
        fx: &mut Vec<Effect>,
    ) {
        let slot = self.take_session(conn);
        if let Some(state) = self.conn(conn) {
            state.protocol.close();
        }
        self.close(conn, Close::AfterFlush { linger: false }, fx);
        // Without a session it gave up instead of answering a challenge.
        let Some(slot) = slot else { return };
        self.report_of(conn, slot, What::Disconnected { by_client: true }, fx);
        let expiry_s_max = self.config.session_expiry_s_max;
        let session = &mut self.sessions[slot as usize];
        if let (Some(stored), Some(expiry_s)) = (&mut session.stored, session_expiry_s) {
            stored.expiry_s = expiry_s.min(expiry_s_max);
            if let Some(will) = &mut session.will {
                will.delay_ms = will.delay_ms.min(u64::from(stored.expiry_s) * 1_000);
            }
        }
        self.leave(now, conn, slot, Leaving { with_will, discard: false }, fx);
    }

    /// Takes the session from its connection.
    pub(super) fn take_session(&mut self, conn: ConnId) -> Option<u32> {
        self.conn(conn)?.session.take()
    }

    /// A session without its connection: it waits for the next one, or it ends, with all it had. The session
    /// is already taken from its connection.
    pub(super) fn leave(
        &mut self,
        now: Instant,
        conn: ConnId,
        slot: u32,
        leaving: Leaving,
        fx: &mut Vec<Effect>,
    ) {
        let time = self.time(now);
        let session = &mut self.sessions[slot as usize];
        let registry = &self.registries[session.registry].name;
        self.directory.release(registry, session.publisher.uid, session.owner_epoch);
        session.conn = None;
        for order in session.orders.drain(..) {
            fx.push(Effect::OrderDone { order: order.id, outcome: OrderOutcome::NotConnected });
        }
        session.speeches.clear();
        session.controls = 0;
        session.resumes = None;
        session.known = None;
        session.renewal = None;
        let will = session.will.take().filter(|_| leaving.with_will);
        let will = will.map(|will| self.delayed(now, conn, slot, will));
        let session = &mut self.sessions[slot as usize];
        let stays = session.stored.as_mut().filter(|stored| stored.expiry_s > 0 && !leaving.discard);
        let Some(stored) = stays else {
            self.end_session(slot);
            if let Some(will) = will {
                self.see_to_will(now, DelayedWill { session: None, ..will }, true);
            }
            return;
        };
        stored.ended_ms = time.to_ms(now);
        // One of `u32::MAX` does not end, in theory; the longest that is given is a setting.
        let expires = now + Duration::from_secs(u64::from(stored.expiry_s));
        stored.expires = Some(expires);
        stored.will = will.as_ref().map(|delayed| delayed.will.clone());
        session.flow.disconnect();
        self.tell_groups(slot);
        self.record_session(now, slot);
        self.arm_session(now, slot, expires);
        if let Some(will) = will {
            self.see_to_will(now, will, false);
        }
    }

    /// Undoes all that a session without connection had: filters, messages, its places in the lists.
    pub(super) fn end_session(&mut self, slot: u32) {
        let session = &self.sessions[slot as usize];
        let index = session.registry;
        let registry = &mut self.registries[index];
        let mut shares = Vec::new();
        for (filter, subscription) in session.filters.iter() {
            if subscription.shared.is_some() {
                shares.push(filter.clone());
            } else {
                registry.routes.remove(filter, slot);
            }
        }
        self.interest.sub(self.config.index, session.filters.len());
        registry.sessions.remove(&(session.publisher.uid, slot));
        registry.behind.remove(&(session.behind_since, slot));
        if let Some(stored) = &session.stored {
            let id = stored.id;
            self.interest.keep_less(self.config.index, session.filters.len());
            registry.stored.remove(&(session.publisher.uid, session.client_id.clone()));
            let kept = Kept { sessions: 1, filter_bytes: session.filter_bytes };
            registry.keep_less(session.publisher.uid, kept);
            self.directory.forget(&registry.name, session.publisher.uid, &session.client_id);
            self.by_id.remove(&id);
            self.remember(Record::SessionGone { session: id });
        }
        let shard = self.config.index;
        for share in shares {
            self.tell_home(index, &share, Change::Leaves { shard, slot });
        }
        let session = self.sessions.remove(slot as usize);
        // What is not in memory is not handed back either.
        let waited = session
            .flow
            .unanswered()
            .filter(|(_, sent, owed)| !sent && (owed.share.is_none() || owed.message.is_none()));
        let discarded = waited.count() as u64;
        self.counters.discarded += discarded;
        self.registries[index].tally.dropped += discarded;
        self.hand_back(&session);
    }

    /// What is to become of the will of a connection that has ended.
    pub(super) fn delayed(
        &self,
        now: Instant,
        conn: ConnId,
        slot: u32,
        will: Box<StoredWill>,
    ) -> DelayedWill {
        let session = &self.sessions[slot as usize];
        DelayedWill {
            at: now + Duration::from_millis(will.delay_ms),
            armed: now,
            conn,
            registry: session.registry,
            publisher: session.publisher,
            name: session.name.clone(),
            kind: session.kind,
            kid: session.kid.clone(),
            ticket: session.ticket.clone(),
            client_id: session.client_id.clone(),
            rights: Arc::clone(&session.rights),
            will,
            session: session.stored.as_ref().map(|stored| stored.id),
        }
    }

    /// Holds a will back, or lets it speak when its time has come, `at_once` or because too many wait.
    pub(super) fn see_to_will(&mut self, now: Instant, will: DelayedWill, at_once: bool) {
        let owner = will.publisher.uid;
        let held = self.registries[will.registry].wills.range((owner, 0)..);
        let full = held.take(WILLS_HELD_MAX).filter(|(uid, _)| *uid == owner).count() >= WILLS_HELD_MAX;
        if at_once || will.at <= now || full {
            self.later.push_back(Later::Will(Box::new(will)));
        } else {
            self.delay_will(now, will);
        }
    }

    /// A will speaks when its owner cannot any more; it asks `may_publish` as any message does, with
    /// the rights that the session had. An expired token does not silence it (it was accepted in
    /// time), a blocked or deleted owner does.
    pub(super) fn publish_will(&mut self, now: Instant, will: &DelayedWill, fx: &mut Vec<Effect>) {
        let conn = will.conn;
        self.will_is_settled(now, will);
        let last = &will.will;
        let Ok(topic) = TopicName::parse(&last.topic) else { return }; // judged at CONNECT
        let mut publication = Publication {
            registry: will.registry,
            topic,
            payload: &last.payload,
            qos: last.qos,
            retain: last.retain,
            expires: last.expiry_s.map(|s| now + Duration::from_secs(u64::from(s))),
            properties: unstored(&last.properties),
            publisher: will.publisher,
            // [MQTT-3.8.3-3] (5.0): it is published for the client, under its client id.
            from: will.session.and_then(|id| self.by_id.get(&id).copied()),
            stored: None,
            kept: None,
            payload_shared: Some(&last.payload),
        };
        if self.is_too_much_to_store(&publication) {
            self.report_will(will, What::StorageFull.to_string(), fx);
            return;
        }
        let speaker = Speaker { name: &will.name, kind: will.kind, rights: &will.rights, will: true };
        if let Err(rule) = self.speak(now, conn, &mut publication, &speaker, Origin::Nobody, fx) {
            self.report_will(will, rule, fx);
        }
    }
}

/// A slot as it stands in routes and lists.
pub(super) fn slot_of(slot: usize) -> u32 {
    u32::try_from(slot).expect("a shard has fewer than 2^32 sessions")
}
