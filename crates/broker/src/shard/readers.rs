//! From a message to its readers on this shard: whom it meets, and what becomes of it for each.

use std::mem;
use std::sync::Arc;
use std::time::Instant;

use drawbridge_mqtt::codec::{PacketId, Qos};
use drawbridge_names::TopicFilter;

use super::flow::{Kept, Owed};
use super::known::Generation;
use super::outgoing::{Offered, Outgoing, Publication};
use super::session::Session;
use super::shared::{Member, Turn, group_of};
use super::{Later, Place, Shard};
use crate::deliver::Audience;
use crate::effect::{ConnId, Effect};
use crate::message::expiry_s;
use crate::routes::Subscriber;
use crate::storage::Destination;

/// A client that a message goes to, and on what terms: all its matching subscriptions in one.
#[derive(Clone)]
pub(super) struct Met {
    slot: u32,
    qos: Qos,
    retain_as_published: bool,
    /// 0 for none.
    identifier: u32,
    more_identifiers: Vec<u32>,
    /// The shared subscription through which it gets it.
    share: Option<TopicFilter>,
}

/// Who is owed a message, for its record.
#[derive(Default)]
pub(super) struct Owing {
    /// The stored sessions.
    pub(super) to: Vec<Destination>,
    /// Other shards that owe it to one of them.
    pub(super) shards: Vec<usize>,
}

impl Met {
    pub(super) fn of(route: &Subscriber) -> Self {
        Self {
            slot: route.slot,
            qos: route.qos,
            retain_as_published: route.retain_as_published,
            identifier: route.identifier,
            more_identifiers: Vec::new(),
            share: None,
        }
    }

    /// A member of a group, chosen for this message.
    pub(super) fn of_member(member: &Member, share: TopicFilter) -> Self {
        Self { share: Some(share), ..Self::of(&member.terms.route(member.slot)) }
    }

    /// One copy for overlapping subscriptions: the highest QoS, every identifier.
    ///
    /// Source: MQTT 5.0 section 3.3.4, MQTT 3.1.1 section 3.3.5.
    fn add(&mut self, route: &Subscriber) {
        self.qos = self.qos.max(route.qos);
        self.retain_as_published |= route.retain_as_published;
        match (self.identifier, route.identifier) {
            (_, 0) => {}
            (0, identifier) => self.identifier = identifier,
            (_, identifier) => self.more_identifiers.push(identifier),
        }
    }

    /// The message on these terms.
    pub(super) fn adapt<'m>(&'m self, message: Outgoing<'m>) -> Outgoing<'m> {
        Outgoing {
            qos: message.qos.min(self.qos),
            retain: message.retain && self.retain_as_published,
            identifiers: (self.identifier, &self.more_identifiers),
            ..message
        }
    }
}

/// What became of a message for the device that an order waits for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fate {
    NotMet,
    Withheld,
    Dropped,
    Sent(Option<PacketId>),
    Queued(u64),
}

impl Shard {
    /// Who gets a message of this session on this topic, if it is known that it may say it, and that they may
    /// have it.
    pub(super) fn recall(&mut self, slot: u32, publication: &Publication<'_>) -> Option<To> {
        let now = self.generation(publication.registry);
        let known = self.sessions[slot as usize].known.as_mut()?;
        known
            .take(publication.topic.as_str(), now, || publication.facts(false))
            .map(|(at, met)| To::Known { at, met })
    }

    fn generation(&self, registry: usize) -> Generation {
        let registry = &self.registries[registry];
        Generation { routes: registry.routes.generation(), rights: registry.voices.generation() }
    }

    /// To the subscribers of this shard. `owing` is filled with the stored sessions that it is owed to.
    pub(super) fn route(
        &mut self,
        now: Instant,
        publication: &mut Publication<'_>,
        readers: To,
        foreign: bool,
        owing: &mut Owing,
        fx: &mut Vec<Effect>,
    ) -> Fate {
        self.templates.clear();
        let (target, remember) = match readers {
            To::Known { at, met } => {
                let mut route = Route { foreign, ..Route::of(&met) };
                for met in &met {
                    self.deliver(now, publication, met, &mut route, owing, fx);
                }
                let publisher = publication.from.and_then(|slot| self.sessions.get_mut(slot as usize));
                if let Some(known) = publisher.and_then(|publisher| publisher.known.as_mut()) {
                    known.give_back(at, met);
                }
                return Fate::NotMet;
            }
            To::Find => (None, publication.from),
            To::FindAgain => (None, None),
            To::FindAnd(target) => (self.session_of(target), None),
        };
        let mut groups = mem::take(&mut self.met_groups);
        let mut met = mem::take(&mut self.met);
        self.counter += 1;
        let mark = self.counter;
        let sessions = &mut self.sessions;
        let from = publication.from;
        self.registries[publication.registry].routes.each(publication.topic, |route| {
            if route.no_local && from == Some(route.slot) {
                return; // [MQTT-3.8.3-3] (5.0)
            }
            if let Some(group) = group_of(route.slot) {
                groups.push(group);
                return;
            }
            let Some(session) = sessions.get_mut(route.slot as usize) else { return };
            meet(session, mark, &mut met, route);
        });
        let mut route = Route { foreign, audience: Some(Audience::default()), ..Route::of(&met) };
        let mut fate = Fate::NotMet;
        let mut all = groups.is_empty();
        for met in &met {
            let what = self.deliver(now, publication, met, &mut route, owing, fx);
            all &= !matches!(what, Fate::Withheld | Fate::NotMet);
            if target == Some(met.slot) {
                fate = what;
            }
        }
        // Nothing changes rights or subscriptions within this call: ends of sessions wait in `later`.
        if all && let Some(publisher) = remember {
            let at = self.generation(publication.registry);
            let publisher = self.sessions.get_mut(publisher as usize);
            if let Some(publisher) = publisher {
                let rights = &publisher.rights;
                let limits =
                    rights.has_ceilings().then(|| Box::new(rights.publish_limits(publication.topic)));
                let known = publisher.known.get_or_insert_default();
                known.remember(publication.topic.as_str(), at, &met, limits);
            }
        }
        met.clear();
        self.met = met;
        for group in groups.drain(..) {
            self.give(now, publication, Turn { group, foreign, not: Vec::new() }, owing, fx);
        }
        self.met_groups = groups;
        fate
    }

    /// To one subscriber: now, later, or not at all.
    pub(super) fn deliver(
        &mut self,
        now: Instant,
        publication: &mut Publication<'_>,
        met: &Met,
        route: &mut Route,
        owing: &mut Owing,
        fx: &mut Vec<Effect>,
    ) -> Fate {
        let voices = &self.registries[publication.registry].voices;
        let Some(session) = self.sessions.get_mut(met.slot as usize) else { return Fate::NotMet };
        let (publisher, topic) = (publication.publisher.uid, publication.topic);
        // It has a right to nothing until it comes back; if it is kept, it is as good as away.
        let has_ended = session.has_ended(now);
        let may = !(has_ended && session.stored.is_none())
            && match &mut route.audience {
                Some(audience) => session.may_be_owed_too(voices, publisher, topic, audience),
                None => true,
            };
        if !may {
            self.counters.withheld += 1;
            return Fate::Withheld;
        }
        let mut properties = publication.properties;
        properties.message_expiry_s = expiry_s(publication.expires, now);
        let message = met.adapt(Outgoing {
            topic: topic.as_str(),
            payload: publication.payload,
            properties,
            qos: publication.qos,
            retain: publication.retain,
            identifiers: (0, &[]),
        });
        if properties.message_expiry_s == Some(0) {
            self.counters.expired += 1;
            self.registries[publication.registry].tally.dropped += 1;
            return Fate::Dropped;
        }
        let (conn, behind) = (session.conn.filter(|_| !has_ended), session.is_behind());
        if message.qos == Qos::AtMostOnce {
            let Some(conn) = conn else { return Fate::NotMet };
            return match self.offer(conn, &message, None, route.shared, fx) {
                Offered::Written => Fate::Sent(None),
                Offered::TooLarge => Fate::Dropped,
                Offered::Full => {
                    self.counters.dropped_qos0 += 1;
                    self.registries[publication.registry].tally.dropped += 1;
                    Fate::Dropped
                }
            };
        }
        let id = session.stored.as_ref().map(|stored| stored.id);
        let holds = route.foreign && id.is_some();
        let window = conn.map_or(0, |conn| window_of(&self.places, conn));
        let clear = !behind && session.flow.is_clear(window);
        // At QoS 2 a stored session is sent the message once it is known to survive, identifier and all.
        let at_once = clear && (id.is_none() || message.qos == Qos::AtLeastOnce);
        let mut offered = Offered::Full;
        let mut packet_id = None;
        if let Some(conn) = conn.filter(|_| at_once) {
            let id = session.flow.peek();
            offered = self.offer(conn, &message, Some((id, false)), route.shared, fx);
            packet_id = Some(id);
        }
        match (offered, id) {
            (Offered::TooLarge, _) => return Fate::Dropped,
            (Offered::Written, None) if met.share.is_none() => {
                self.sessions[met.slot as usize].flow.send(message.qos, None);
                return Fate::Sent(packet_id);
            }
            _ => {}
        }
        let kept = self.kept(now, publication);
        let owed = self.owe(met, &message, kept, id.is_some(), holds);
        let ticket = owed.ticket;
        if let Some(session) = id {
            owing.to.push(owed.destination(session));
        }
        let session = &mut self.sessions[met.slot as usize];
        if offered == Offered::Written {
            session.flow.send(message.qos, Some(Box::new(owed)));
            if let (Some(packet_id), Some(session), false) = (packet_id, id, holds) {
                self.note_sending(session, met.slot, packet_id);
            }
            return Fate::Sent(packet_id);
        }
        if clear && conn.is_some() && id.is_some() && message.qos == Qos::ExactlyOnce && !holds {
            self.send_when_stored(met.slot, owed);
            return Fate::Queued(ticket);
        }
        if !self.enqueue(met.slot, owed) {
            owing.to.pop_if(|last| Some(last.session) == id);
            return Fate::Dropped;
        }
        Fate::Queued(ticket)
    }

    /// What a session is owed of a message, on these terms.
    pub(super) fn owe(
        &mut self,
        met: &Met,
        message: &Outgoing<'_>,
        kept: Arc<Kept>,
        is_stored: bool,
        held: bool,
    ) -> Owed {
        self.counter += 1;
        Owed {
            ticket: self.counter,
            id: kept.message.id.filter(|_| is_stored),
            bytes: kept.message.bytes(),
            message: Some(kept),
            qos: message.qos,
            retain: message.retain,
            identifiers: (met.identifier, met.more_identifiers.clone().into()),
            held,
            share: met.share.clone(),
        }
    }

    /// Puts what a session is owed behind what waits already; `false` when there is no room for it.
    fn enqueue(&mut self, slot: u32, owed: Owed) -> bool {
        let (messages_max, bytes_max) = (self.config.queue_messages_max, self.config.queue_bytes_max);
        let session = &mut self.sessions[slot as usize];
        let queued = session.flow.queue.len();
        let full =
            queued >= messages_max || (queued > 0 && session.flow.queue_bytes + owed.bytes > bytes_max);
        if full {
            self.counters.queue_full += 1;
            self.registries[session.registry].tally.dropped += 1;
            // What was acknowledged first is owed first: a session that is kept keeps what it has. One that
            // is not is told, by its end, that it has missed something.
            if session.stored.is_none()
                && let Some(conn) = session.conn
            {
                self.later.push_back(Later::FellBehind { conn, waiting: queued });
            }
            return false;
        }
        let mut owed = owed;
        // What nobody reads soon is read from the storage when its time comes.
        let in_memory = session.flow.queue_bytes < QUEUE_IN_MEMORY_BYTES && session.conn.is_some();
        if owed.id.is_some() && !owed.held && !in_memory {
            owed.message = None;
        }
        session.flow.enqueue(owed);
        let registry = session.registry;
        self.note_behind(slot);
        self.make_space(registry);
        true
    }

    /// When too much waits in memory, whoever is behind longest makes room.
    pub(super) fn make_space(&mut self, registry: usize) {
        let registry = &mut self.registries[registry];
        for _ in 0..ASKED_FOR_ROOM {
            if registry.room.bytes() <= self.config.waiting_bytes_max {
                return;
            }
            let Some((since, slot)) = registry.behind.pop_first() else { return };
            let session = &mut self.sessions[slot as usize];
            if session.stored.is_none() {
                debug_assert_eq!(session.behind_since, since);
                let waiting = session.flow.queue.len();
                let fell = session.conn.map(|conn| Later::FellBehind { conn, waiting });
                self.later.extend(fell);
                return;
            }
            // It may have nothing in memory.
            session.flow.leave_memory(LOOKED_AT_FOR_ROOM);
            // The next one is asked next time.
            self.counter += 1;
            session.behind_since = self.counter;
            registry.behind.insert((self.counter, slot));
        }
    }
}

/// How a message is on its way.
pub(super) struct Route {
    /// Whom to ask whether they may have it; `None` when that is known.
    pub(super) audience: Option<Audience>,
    /// Several get it: encode it once.
    pub(super) shared: bool,
    /// Its record is not written with this call, but later, or by another shard.
    pub(super) foreign: bool,
}

impl Route {
    fn of(met: &[Met]) -> Self {
        Self { audience: None, shared: met.len() > 1, foreign: false }
    }

    /// To one reader, who is asked.
    pub(super) fn to_one(foreign: bool) -> Self {
        Self { audience: Some(Audience::default()), shared: false, foreign }
    }
}

/// To whom a message goes.
pub(super) enum To {
    /// To whoever subscribed, and who that is may be remembered for its publisher.
    Find,
    /// To whoever subscribed.
    FindAgain,
    /// The same, and what becomes of it for this connection is asked for.
    FindAnd(ConnId),
    /// To these, who may have it.
    Known {
        /// Where it is remembered.
        at: usize,
        met: Vec<Met>,
    },
}

/// So many are asked at a time to make room.
const ASKED_FOR_ROOM: usize = 16;
/// A queue is long, and mostly not in memory: that is found out by so many.
const LOOKED_AT_FOR_ROOM: usize = 256;
/// Of a stored session, so much of what waits stays in memory.
const QUEUE_IN_MEMORY_BYTES: usize = 256 << 10;

pub(super) fn window_of(places: &[Place], conn: ConnId) -> usize {
    let place = places.get(conn.slot() as usize).filter(|place| place.generation == conn.generation());
    place.and_then(|place| place.conn.as_deref()).map_or(0, |state| state.protocol.window())
}

fn meet(session: &mut Session, mark: u64, met: &mut Vec<Met>, route: &Subscriber) {
    let (seen, at) = session.met;
    if seen == mark {
        met[at as usize].add(route);
    } else {
        session.met = (mark, u32::try_from(met.len()).expect("a shard has fewer than 2^32 sessions"));
        met.push(Met::of(route));
    }
}
