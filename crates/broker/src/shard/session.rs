//! A session: whose it is, what it asked for, where it stands in the log; and its end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use drawbridge_mqtt::codec::{PacketId, Qos, Will, WillProperties};
use drawbridge_names::{KeyId, MqttClientId, PrincipalKind, PrincipalName, TopicFilter, TopicName, Uid};
use drawbridge_policy::Rights;

use super::filters::Filters;
use super::outgoing::{Publication, unstored};
use super::publish::Speaker;
use super::{ConnId, Later, Shard};
use crate::deliver::{Voices, may_deliver};
use crate::effect::{Admitted, Close, Crossing, Effect, Ended, EndedWhy, OrderOutcome, Ticket};
use crate::log::Log;
use crate::message::{Message, Publisher};
use crate::report::{Report, What, Who};
use crate::retained::Walk;
use crate::routes::Subscriber;

pub(super) struct Session {
    /// Index into the shard's registries.
    pub(super) registry: usize,
    pub(super) publisher: Publisher,
    pub(super) name: PrincipalName,
    pub(super) kind: PrincipalKind,
    pub(super) client_id: MqttClientId,
    pub(super) rights: Arc<Rights>,
    pub(super) ends: Option<Instant>,
    pub(super) kid: Option<KeyId>,
    pub(super) ticket: Option<Box<Ticket>>,
    /// The fence of the cluster to come: grows with each session of the principal.
    pub(super) owner_epoch: u64,
    /// `/devices/...` on the wire is `devices/...` within.
    pub(super) leading_slash: bool,
    pub(super) filters: Filters,
    /// What the filters cost, see [`filter_cost`].
    pub(super) filter_bytes: usize,
    /// The next message of the log to be read, while the session is behind.
    pub(super) cursor: Option<u64>,
    /// Retained messages that wait for room, one walk per subscription, the oldest first.
    pub(super) walks: BTreeMap<u64, RetainedWalk>,
    /// When it reads on of its own accord, having read as much at once as one may.
    pub(super) resumes: Option<Instant>,
    pub(super) orders: Vec<WaitingOrder>,
    /// Control publishes that wait for the edge.
    pub(super) controls: u16,
    pub(super) will: Option<Box<LastWill>>,
}

/// A subscription as the session knows it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subscription {
    pub(super) route: Subscriber,
    /// Key of its walk over the retained messages, if that has not come to its end.
    pub(super) walk: u64,
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
    /// In the log, behind the cursor.
    Logged(u64),
    /// Sent.
    Sent(PacketId),
}

/// A will as CONNECT brought it.
pub(super) struct LastWill {
    /// Without leading slash where the session maps it.
    pub(super) topic: Box<str>,
    pub(super) payload: Arc<[u8]>,
    pub(super) qos: Qos,
    pub(super) retain: bool,
    pub(super) expiry_s: Option<u32>,
    pub(super) properties: Box<[u8]>,
    /// Will Delay Interval, at most the Session Expiry Interval asked for.
    pub(super) delay: Duration,
}

/// A will whose session has ended.
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
    pub(super) will: Box<LastWill>,
}

/// A will speaks a day after its session at the latest; the standard lets it wait 136 years.
const WILL_DELAY_MAX: Duration = Duration::from_secs(86_400);
/// Wills of one principal held back in one shard; beyond it they speak at once.
const WILLS_HELD_MAX: usize = 8;
/// Control publishes of one connection that the edge works on at once.
const CONTROLS_MAX: u16 = 16;
/// Beside its text, what a level of a filter costs in the routes.
const LEVEL_BYTES: usize = 96;

/// What a filter costs.
pub(super) fn filter_cost(filter: &TopicFilter) -> usize {
    filter.as_str().len() + LEVEL_BYTES * filter.levels().count()
}

impl LastWill {
    pub(super) fn of(will: &Will<'_>, session_expiry_s: u32) -> Self {
        let WillProperties { delay_s, message_expiry_s, .. } = will.properties;
        Self {
            topic: will.topic.as_str().into(),
            payload: will.payload.into(),
            // 3.1.1 cannot be told that QoS 2 is not served; 5.0 was refused.
            qos: will.qos.min(Qos::AtLeastOnce),
            retain: will.retain,
            expiry_s: message_expiry_s,
            properties: super::outgoing::will_properties(&will.properties),
            delay: Duration::from_secs(u64::from(delay_s.unwrap_or(0).min(session_expiry_s)))
                .min(WILL_DELAY_MAX),
        }
    }
}

impl Session {
    /// A session that has just been admitted.
    pub(super) fn of(admitted: Admitted, registry: usize, owner_epoch: u64, will: Option<LastWill>) -> Self {
        Self {
            registry,
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
            cursor: None,
            walks: Default::default(),
            resumes: None,
            orders: Vec::new(),
            controls: 0,
            will: will.map(Box::new),
        }
    }

    /// Whether the right of the session has ended (I5).
    pub(super) fn has_ended(&self, now: Instant) -> bool {
        self.ends.is_some_and(|ends| ends <= now)
    }

    /// Whether messages must queue: some wait already, and order must hold.
    pub(super) fn is_behind(&self) -> bool {
        self.cursor.is_some() || !self.walks.is_empty()
    }

    /// Whether it must wait until the edge has answered what it said before.
    pub(super) fn is_held(&self) -> bool {
        self.controls >= CONTROLS_MAX
    }

    /// Whether a message of `publisher` on `topic` may go to it now: what every delivery asks (I4).
    pub(super) fn may_have(
        &self,
        now: Instant,
        voices: &Voices,
        publisher: Uid,
        topic: TopicName<'_>,
    ) -> bool {
        // To a client that maps, `/devices/...` means `devices/...`: another topic of that very name
        // would pass for it.
        let is_mistakable = self.leading_slash && topic.as_str().starts_with("/devices/");
        !self.has_ended(now) && !is_mistakable && may_deliver(&self.rights, voices, publisher, topic)
    }

    /// What the end of this session is called if `which`, which means its principal, ends it.
    pub(super) fn ended_by(&self, which: &Ended) -> Option<What> {
        match which {
            Ended::Principal { why, .. } => Some(What::Ended(*why)),
            Ended::Key { kid, .. } => (self.kid.as_ref() == Some(kid)).then_some(What::KeyRemoved),
            Ended::Ticket { end, .. } => end.concerns(self.ticket.as_deref()).then_some(What::TicketEnded),
            Ended::Policy { .. } => Some(What::PolicyChanged),
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
            let all = self.connections().filter(|(_, state)| state.session.is_some());
            return (0, all.map(|(conn, _)| conn.slot()).collect());
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
            Ended::Policy { uid, rights, .. } => {
                (*uid, Some(rights.clone().unwrap_or_else(|| Arc::new(Rights::none()))))
            }
            Ended::Principal { .. } | Ended::Key { .. } | Ended::Ticket { .. } | Ended::All => return,
        };
        self.registries[registry].voices.judge_by(uid, rights.clone());
        if had_session {
            self.spread_standing(registry, uid, rights.as_ref(), fx);
        }
    }

    pub(super) fn spread_standing(
        &self,
        registry: usize,
        uid: Uid,
        rights: Option<&Arc<Rights>>,
        fx: &mut Vec<Effect>,
    ) {
        for shard in (0..self.config.shards).filter(|&shard| shard != self.config.index) {
            let registry = self.registries[registry].name.clone();
            let crossing = Crossing::Standing { registry, uid, rights: rights.cloned() };
            fx.push(Effect::Cross { shard, crossing });
        }
    }

    /// The wills that are held back and will not be spoken any more, because of `which`.
    pub(super) fn drop_wills_of(&mut self, which: &Ended, registry: usize, fx: &mut Vec<Effect>) {
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
        fx: &mut Vec<Effect>,
    ) {
        let Some(session) = self.take_session(conn) else { return };
        if let Some(state) = self.conn(conn) {
            state.protocol.close();
        }
        self.close(conn, Close::AfterFlush { linger: false }, fx);
        self.report_of(conn, &session, What::Disconnected { by_client: true }, fx);
        self.leave(now, conn, session, with_will, fx);
    }

    pub(super) fn take_session(&mut self, conn: ConnId) -> Option<Box<Session>> {
        self.conn(conn)?.session.take()
    }

    /// Undoes all that a session had: filters, place in the directory, cursor, orders; and sees to its
    /// will. The session is already taken out of its connection.
    pub(super) fn leave(
        &mut self,
        now: Instant,
        conn: ConnId,
        mut session: Box<Session>,
        with_will: bool,
        fx: &mut Vec<Effect>,
    ) {
        let registry = &mut self.registries[session.registry];
        for (filter, _) in session.filters.iter() {
            registry.routes.remove(filter, conn.slot());
        }
        self.interest.sub(self.config.index, session.filters.len());
        registry.sessions.remove(&(session.publisher.uid, conn.slot()));
        self.directory.release(&registry.name, session.publisher.uid, session.owner_epoch);
        if let Some(cursor) = session.cursor.take() {
            registry.behind.remove(&(cursor, conn.slot()));
        }
        for order in session.orders.drain(..) {
            fx.push(Effect::OrderDone { order: order.id, outcome: OrderOutcome::NotConnected });
        }
        let will = session.will.take().filter(|_| with_will);
        self.trim_log(session.registry);
        if let Some(will) = will {
            self.see_to_will(now, conn, *session, will);
        }
    }

    fn see_to_will(&mut self, now: Instant, conn: ConnId, session: Session, will: Box<LastWill>) {
        let delay = will.delay;
        let held = self.registries[session.registry].wills.range((session.publisher.uid, 0)..);
        let is_held_by_owner = |(uid, _): &&(Uid, usize)| *uid == session.publisher.uid;
        let full = held.take(WILLS_HELD_MAX).filter(is_held_by_owner).count() >= WILLS_HELD_MAX;
        let will = DelayedWill {
            at: now + delay,
            armed: now,
            conn,
            registry: session.registry,
            publisher: session.publisher,
            name: session.name,
            kind: session.kind,
            kid: session.kid,
            ticket: session.ticket,
            client_id: session.client_id,
            rights: session.rights,
            will,
        };
        if delay.is_zero() || full {
            self.later.push_back(Later::Will { conn, will });
        } else {
            self.delay_will(now, will);
        }
    }

    /// A will speaks when its owner cannot any more; it asks `may_publish` as any message does, with
    /// the rights that the session had. An expired token does not silence it (it was accepted in
    /// time), a blocked or deleted owner does.
    pub(super) fn publish_will(
        &mut self,
        now: Instant,
        conn: ConnId,
        will: &DelayedWill,
        fx: &mut Vec<Effect>,
    ) {
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
            from: None,
            stored: None,
            payload_shared: Some(&last.payload),
        };
        let speaker = Speaker { name: &will.name, kind: will.kind, rights: &will.rights };
        if let Err(rule) = self.speak(now, conn, &mut publication, &speaker, None, fx) {
            self.report_will(will, rule, fx);
        }
    }

    /// Forgets what no session of the registry will read any more.
    pub(super) fn trim_log(&mut self, registry: usize) {
        let registry = &mut self.registries[registry];
        let needed = registry.behind.first().map_or(registry.log.tail(), |(cursor, _)| *cursor);
        registry.log.trim(needed);
    }

    /// Moves the cursor of a session, `None` when it has caught up.
    pub(super) fn set_cursor(&mut self, conn: ConnId, cursor: Option<u64>) {
        let Some(session) = self.conn(conn).and_then(|state| state.session.as_mut()) else { return };
        let (old, registry) = (session.cursor, session.registry);
        if old == cursor {
            return;
        }
        session.cursor = cursor;
        let behind = &mut self.registries[registry].behind;
        if let Some(old) = old {
            behind.remove(&(old, conn.slot()));
        }
        if let Some(new) = cursor {
            behind.insert((new, conn.slot()));
        }
        if old.is_some() {
            self.trim_log(registry);
        }
    }

    /// Stores a message for sessions that are behind; whoever thereby fell off the log is closed
    /// before the call that led here returns.
    pub(super) fn log(&mut self, registry: usize, message: Arc<Message>) -> u64 {
        let state = &mut self.registries[registry];
        let seq = state.log.append_batch(&[message]);
        let first = state.log.first();
        // Each is told once, however many messages follow before it is closed.
        while let Some((cursor, slot)) = state.behind.first().copied().filter(|(cursor, _)| *cursor < first) {
            state.behind.remove(&(cursor, slot));
            let conn = ConnId::new(slot, self.places[slot as usize].generation);
            self.later.push_back(Later::FellBehind(conn));
        }
        seq
    }
}
