//! Subscriptions; and what a session takes at its own pace: what it had not answered, retained messages, its
//! queue.

use std::sync::Arc;
use std::time::Instant;

use drawbridge_mqtt::codec::{Qos, ReasonCode, RetainHandling, Subscribe, SubscribeEntry, Unsubscribe};
use drawbridge_names::{TopicFilter, TopicName};

use super::Shard;
use super::flow::{Kept, Owed, Stage};
use super::outgoing::{Offered, Outgoing, inner_filter};
use super::readers::{Met, window_of};
use super::renew::{AUTH_NONCE_TOPIC, is_private};
use super::session::{RetainedWalk, Subscription, filter_cost};
use super::shared::{Change, parse_share};
use super::speech::{Speech, Waits};
use super::statistics::names_sys;
use crate::effect::{ConnId, Effect};
use crate::message::Message;
use crate::report::What;
use crate::retained::{Next, Walk};
use crate::routes::{LEVELS_MAX, Subscriber};
use crate::storage::{Record, SessionId, Terms};

/// Messages that one session looks at before others have their turn.
const STEPS_AT_ONCE: usize = 2_048;

impl Shard {
    pub(super) fn on_subscribe(
        &mut self,
        now: Instant,
        conn: ConnId,
        subscribe: &Subscribe<'_>,
        fx: &mut Vec<Effect>,
    ) {
        let identifier = subscribe.subscription_identifier.map_or(0, std::num::NonZeroU32::get);
        let mut codes = Vec::with_capacity(subscribe.entries.len());
        for entry in &subscribe.entries {
            let code = match self.subscribe_one(conn, entry, identifier) {
                Ok(granted) => granted,
                Err((code, what)) => {
                    self.report(conn, what, fx);
                    code
                }
            };
            codes.push(code);
        }
        let waits = self.subscriptions_are_stored(conn);
        self.say(now, conn, Speech::SubAck { packet_id: subscribe.packet_id, codes }, waits, fx);
        if let Some(slot) = self.session_of(conn)
            && subscribe.entries.iter().any(|entry| entry.filter == AUTH_NONCE_TOPIC)
        {
            self.ask_for_nonce(conn, slot, fx);
        }
    }

    /// What the answer to a change of subscriptions waits for: a session that outlives its connection must
    /// not lose, by a crash, what it was told it has.
    fn subscriptions_are_stored(&mut self, conn: ConnId) -> Waits {
        let stored = self.session(conn).is_some_and(|session| session.stored.is_some());
        Waits { after: if stored { self.outbox.everything_so_far() } else { 0 }, others: 0 }
    }

    /// # Errors
    /// What the client is told, and what the log says.
    fn subscribe_one(
        &mut self,
        conn: ConnId,
        entry: &SubscribeEntry<'_>,
        identifier: u32,
    ) -> Result<ReasonCode, (ReasonCode, What)> {
        let refused =
            |(code, why)| (code, What::SubscriptionRefused { filter: entry.filter.to_owned(), why });
        let Some(slot) = self.session_of(conn) else {
            return Err(refused((ReasonCode::UnspecifiedError, "the session has ended")));
        };
        let session = &self.sessions[slot as usize];
        let (filter, is_shared) = parse_filter(entry.filter, session.leading_slash).map_err(refused)?;
        let (decision, granted) = session.rights.may_subscribe_with(&filter, entry.qos.bits());
        let qos = match granted {
            _ if !decision.allowed && is_private(filter.as_str()) => entry.qos,
            _ if !decision.allowed => {
                let rule = decision.to_string();
                return Err((ReasonCode::NotAuthorized, What::SubscribeDenied { filter, rule }));
            }
            0 => Qos::AtMostOnce,
            1 => Qos::AtLeastOnce,
            _ => entry.qos,
        };
        let old = session.filters.get(&filter).copied();
        let cost = if old.is_none() { filter_cost(&filter) } else { 0 };
        self.has_room_for_filter(slot, old.is_none(), cost).map_err(refused)?;
        let route = Subscriber {
            slot,
            identifier,
            qos,
            no_local: entry.no_local,
            retain_as_published: entry.retain_as_published,
        };
        let tell = match entry.retain_handling {
            RetainHandling::SendAtSubscribe => true,
            RetainHandling::SendIfNew => old.is_none(),
            RetainHandling::DoNotSend => false,
        };
        // MQTT 5.0 4.8.2: not at all for a shared subscription.
        let tell = tell && !is_shared;
        let walk = self.walk_for(slot, &filter, route, old, tell);
        let terms = Terms::from(&route);
        let session = &mut self.sessions[slot as usize];
        let registry = &mut self.registries[session.registry];
        session.filter_bytes += cost;
        let shared = is_shared.then_some(terms);
        session.filters.insert(filter.clone(), Subscription { walk, shared });
        let stored = session.stored.as_ref().map(|stored| stored.id);
        if stored.is_some() {
            registry.keep_more(session.publisher.uid, super::Kept { sessions: 0, filter_bytes: cost });
        }
        if old.is_none() {
            session.shares += usize::from(is_shared);
            self.interest.add(self.config.index, 1);
            self.interest.keep_more(self.config.index, usize::from(stored.is_some()));
        }
        if is_shared {
            self.share(slot, &filter, terms);
        } else {
            registry.routes.insert(&filter, route);
        }
        if names_sys(&filter) {
            self.wants_statistics(conn, tell.then(|| (filter.clone(), route)));
        }
        if let Some(session) = stored {
            self.remember(Record::Subscribed { session, filter, terms });
        }
        Ok(match qos {
            Qos::AtMostOnce => ReasonCode::GRANTED_QOS_0,
            Qos::AtLeastOnce => ReasonCode::GrantedQos1,
            Qos::ExactlyOnce => ReasonCode::GrantedQos2,
        })
    }

    /// Whether the session may have one more filter, if it `is_new`, that costs so much.
    fn has_room_for_filter(
        &mut self,
        slot: u32,
        is_new: bool,
        cost: usize,
    ) -> Result<(), (ReasonCode, &'static str)> {
        let session = &self.sessions[slot as usize];
        let is_stored = session.stored.is_some();
        let kept = self.registries[session.registry].kept(session.publisher.uid);
        let why = if is_new && session.filters.len() >= self.config.subscriptions_max {
            "the session has too many; subscribe with wildcards, or from several sessions"
        } else if is_stored && self.storage_is_full() {
            self.counters.storage_full += 1;
            "it cannot be stored for now"
        } else if session.filter_bytes + cost > self.config.subscription_bytes_max {
            "the filters of the session take too much room; subscribe with wildcards, or from several sessions"
        } else if is_stored && kept.filter_bytes + cost > self.config.kept_subscription_bytes_max {
            "the filters of all kept sessions of its owner take too much room; end sessions that are not needed"
        } else {
            return Ok(());
        };
        Err((ReasonCode::QuotaExceeded, why))
    }

    /// The key of the walk over the retained messages of a subscription, 0 for none. If the client is to be
    /// told, one that is under way begins anew: [MQTT-3.8.4-4] (5.0) wants all of them again.
    fn walk_for(
        &mut self,
        slot: u32,
        filter: &TopicFilter,
        route: Subscriber,
        old: Option<Subscription>,
        tell: bool,
    ) -> u64 {
        let session = &mut self.sessions[slot as usize];
        let walk = old.map_or(0, |old| old.walk);
        if tell && self.registries[session.registry].retained.len() > 0 {
            session.walks.remove(&walk);
            self.counter += 1;
            let waiting = RetainedWalk { filter: filter.clone(), route, walk: Walk::default() };
            session.walks.insert(self.counter, waiting);
            return self.counter;
        }
        if let Some(waiting) = session.walks.get_mut(&walk) {
            waiting.route = route;
        }
        walk
    }

    pub(super) fn on_unsubscribe(
        &mut self,
        now: Instant,
        conn: ConnId,
        unsubscribe: &Unsubscribe<'_>,
        fx: &mut Vec<Effect>,
    ) {
        let codes = unsubscribe.filters.iter().map(|filter| self.unsubscribe_one(conn, filter)).collect();
        let waits = self.subscriptions_are_stored(conn);
        self.say(now, conn, Speech::UnsubAck { packet_id: unsubscribe.packet_id, codes }, waits, fx);
    }

    fn unsubscribe_one(&mut self, conn: ConnId, text: &str) -> ReasonCode {
        let Some(slot) = self.session_of(conn) else { return ReasonCode::UnspecifiedError };
        let session = &mut self.sessions[slot as usize];
        let Ok(filter) = TopicFilter::parse(&inner_filter(text, session.leading_slash)) else {
            return ReasonCode::TopicFilterInvalid;
        };
        if self.unsubscribe_from(slot, &filter) {
            ReasonCode::Success
        } else {
            ReasonCode::NoSubscriptionExisted
        }
    }

    /// Takes a subscription from a session; `false` when it had none.
    pub(super) fn unsubscribe_from(&mut self, slot: u32, filter: &TopicFilter) -> bool {
        let session = &mut self.sessions[slot as usize];
        let Some(old) = session.filters.remove(filter) else { return false };
        let cost = filter_cost(filter);
        session.filter_bytes -= cost;
        session.walks.remove(&old.walk);
        let (registry, shard) = (session.registry, self.config.index);
        self.interest.sub(shard, 1);
        if old.shared.is_some() {
            session.shares -= 1;
        } else {
            self.registries[registry].routes.remove(filter, slot);
        }
        let stored = session.stored.as_ref().map(|stored| stored.id);
        if old.shared.is_some() {
            self.tell_home(registry, filter, Change::Leaves { shard, slot });
        }
        if let Some(session) = stored {
            let uid = self.sessions[slot as usize].publisher.uid;
            self.registries[registry].keep_less(uid, super::Kept { sessions: 0, filter_bytes: cost });
            self.interest.keep_less(shard, 1);
            self.remember(Record::Unsubscribed { session, filter: filter.clone() });
        }
        true
    }

    /// Hands a session what it can take of what waits for it: first what was sent on an earlier connection,
    /// then the retained messages of its subscriptions, then its queue. What takes long is done in parts, a
    /// tick apart, so that nobody else has to wait for it.
    pub(super) fn catch_up(&mut self, now: Instant, conn: ConnId, fx: &mut Vec<Effect>) {
        let mut steps = STEPS_AT_ONCE;
        let Some(slot) = self.session_of(conn) else { return };
        loop {
            let Some(session) = self.sessions.get_mut(slot as usize) else { return };
            // What waits for it stays, if its right has ended and it is about to be told so.
            if session.conn != Some(conn) || session.has_ended(now) {
                return;
            }
            session.resumes = None;
            let told = if session.flow.unwired().is_some() {
                self.send_again(now, slot, conn, fx)
            } else if !session.walks.is_empty() {
                self.tell_retained(now, slot, conn, &mut steps, fx)
            } else if session.flow.queue.is_empty() {
                break;
            } else {
                self.tell_queued(now, slot, conn, fx)
            };
            steps = steps.saturating_sub(1);
            match told {
                Told::All if steps > 0 => {}
                Told::Some => break,
                Told::All | Told::Tired => {
                    self.sessions[slot as usize].resumes = Some(now);
                    self.arm(now, conn);
                    break;
                }
            }
        }
        self.note_behind(slot);
    }

    /// Whoever is behind stands in a list, by the time since when.
    pub(super) fn note_behind(&mut self, slot: u32) {
        let Some(session) = self.sessions.get_mut(slot as usize) else { return };
        let is_behind = session.is_behind();
        if is_behind == (session.behind_since > 0) {
            return;
        }
        let behind = &mut self.registries[session.registry].behind;
        if is_behind {
            self.counter += 1;
            session.behind_since = self.counter;
            behind.insert((session.behind_since, slot));
        } else {
            behind.remove(&(session.behind_since, slot));
            session.behind_since = 0;
        }
    }

    /// Sends the next message that has an identifier and was not sent on this connection.
    ///
    /// Source: [MQTT-4.4.0-1] (both versions).
    fn send_again(&mut self, now: Instant, slot: u32, conn: ConnId, fx: &mut Vec<Effect>) -> Told {
        let window = window_of(&self.places, conn);
        let committed = self.outbox.committed;
        let session = &mut self.sessions[slot as usize];
        let registry = session.registry;
        let wired = session.flow.wired();
        let Some(sent) = session.flow.unwired() else { return Told::All };
        if wired >= window || sent.after > committed {
            return Told::Some;
        }
        let (packet_id, again, stage) = (sent.packet_id(), sent.again, sent.stage);
        if stage == Stage::Release {
            self.write(conn, fx, |protocol, out| protocol.release(packet_id, ReasonCode::Success, out));
            self.sessions[slot as usize].flow.wire();
            return Told::All;
        }
        let Some(owed) = sent.owed.as_deref() else {
            session.flow.drop_unwired();
            return Told::All;
        };
        let Some(message) = owed.message.as_ref().map(|kept| Arc::clone(&kept.message)) else {
            self.fetch(slot, fx);
            return Told::Some;
        };
        let (id, ticket, terms) = (owed.id, owed.ticket, Owing::of(owed));
        // A message that has been sent before is sent again even when it has expired: the client may have it.
        let expired = !again && message.expires.is_some_and(|expires| expires <= now);
        let offered = if expired {
            self.counters.expired += 1;
            self.registries[registry].tally.dropped += 1;
            Offered::TooLarge
        } else if !self.may_have(now, slot, registry, &message) {
            self.order_withheld(slot, ticket, fx);
            Offered::TooLarge
        } else {
            self.offer(conn, &terms.outgoing(&message, now), Some((packet_id, again)), false, fx)
        };
        let session = &mut self.sessions[slot as usize];
        match offered {
            Offered::Full => return Told::Some,
            Offered::Written => {
                session.flow.wire();
                self.order_sent(slot, ticket, packet_id);
            }
            // The client may have it: its identifier is free when it has let go of that. Stored first, as after
            // PUBREC, or a crash would have it sent anew to a client that knows nothing of it any more.
            Offered::TooLarge if again && terms.qos == Qos::ExactlyOnce => {
                let owner = session.stored.as_ref().map(|stored| stored.id);
                let after = match owner.zip(id) {
                    Some((session, message)) => self.remember_now(Record::Received { session, message }),
                    None => 0,
                };
                if let Some(sent) = self.sessions[slot as usize].flow.unwired() {
                    (sent.stage, sent.after) = (Stage::Release, after);
                }
                self.await_batch(slot, after);
            }
            Offered::TooLarge => {
                session.flow.drop_unwired();
                if let Some(id) = id {
                    self.is_done(slot, id);
                }
            }
        }
        Told::All
    }

    /// Takes the next message of the queue.
    fn tell_queued(&mut self, now: Instant, slot: u32, conn: ConnId, fx: &mut Vec<Effect>) -> Told {
        let window = window_of(&self.places, conn);
        let session = &mut self.sessions[slot as usize];
        let (registry, stored) = (session.registry, session.stored.as_ref().map(|stored| stored.id));
        if !session.flow.has_room(window) {
            return Told::Some;
        }
        let Some(owed) = session.flow.front() else { return Told::All };
        if owed.held && owed.qos == Qos::ExactlyOnce {
            return Told::Some;
        }
        let Some(message) = owed.message.as_ref().map(|kept| Arc::clone(&kept.message)) else {
            self.fetch(slot, fx);
            return Told::Some;
        };
        let (id, ticket, terms) = (owed.id, owed.ticket, Owing::of(owed));
        let keeps = id.is_some();
        let mut packet_id = None;
        let offered = if message.expires.is_some_and(|expires| expires <= now) {
            self.counters.expired += 1;
            self.registries[registry].tally.dropped += 1;
            Offered::TooLarge
        } else if !self.may_have(now, slot, registry, &message) {
            self.order_withheld(slot, ticket, fx);
            Offered::TooLarge
        } else if keeps && terms.qos == Qos::ExactlyOnce {
            if let Some(owed) = self.sessions[slot as usize].flow.dequeue() {
                self.send_when_stored(slot, owed);
            }
            return Told::All;
        } else {
            let id = self.sessions[slot as usize].flow.peek();
            packet_id = Some(id);
            self.offer(conn, &terms.outgoing(&message, now), Some((id, false)), false, fx)
        };
        if offered == Offered::Full {
            return Told::Some;
        }
        let flow = &mut self.sessions[slot as usize].flow;
        let Some(owed) = flow.dequeue() else { return Told::All };
        match (offered, packet_id) {
            (Offered::Written, Some(packet_id)) => {
                let held = owed.held;
                let again = keeps || owed.share.is_some();
                flow.send(owed.qos, again.then(|| Box::new(owed)));
                self.order_sent(slot, ticket, packet_id);
                if let Some(session) = stored.filter(|_| keeps && !held) {
                    self.note_sending(session, slot, packet_id);
                }
            }
            _ => {
                if let Some(id) = id {
                    self.is_done(slot, id);
                }
            }
        }
        Told::All
    }

    /// Goes on with the oldest walk of a session over the retained messages.
    fn tell_retained(
        &mut self,
        now: Instant,
        slot: u32,
        conn: ConnId,
        steps: &mut usize,
        fx: &mut Vec<Effect>,
    ) -> Told {
        let session = &mut self.sessions[slot as usize];
        let index = session.registry;
        let Some((key, mut waiting)) = session.walks.pop_first() else { return Told::All };
        self.registries[index].retained.touch(now);
        let told = loop {
            let before = waiting.walk.clone();
            let message =
                match self.registries[index].retained.next(&waiting.filter, &mut waiting.walk, now, steps) {
                    Next::Found(message) => message,
                    Next::End => return Told::All,
                    Next::Tired => break Told::Tired,
                };
            if !self.may_have(now, slot, index, &message) {
                continue;
            }
            let met = Met::of(&waiting.route);
            // [MQTT-3.3.1-8] (3.1.1), MQTT 5.0 3.3.1.3: the flag says that it was kept.
            let outgoing = Outgoing { retain: true, ..met.adapt(Outgoing::of_stored(&message, now)) };
            if !self.tell(slot, conn, &met, &outgoing, &message, fx) {
                waiting.walk = before;
                break Told::Some;
            }
        };
        self.sessions[slot as usize].walks.insert(key, waiting);
        told
    }

    /// Tells a session a retained message; `false` when it can take no more now.
    fn tell(
        &mut self,
        slot: u32,
        conn: ConnId,
        met: &Met,
        outgoing: &Outgoing<'_>,
        message: &Arc<Message>,
        fx: &mut Vec<Effect>,
    ) -> bool {
        if outgoing.qos == Qos::AtMostOnce {
            return self.offer(conn, outgoing, None, false, fx) != Offered::Full;
        }
        let window = window_of(&self.places, conn);
        let session = &mut self.sessions[slot as usize];
        if !session.flow.has_room(window) {
            return false;
        }
        let stored = session.stored.as_ref().map(|stored| stored.id);
        // What is retained may be replaced at any time, on any shard, and the session may be owed it already: an
        // exchange at QoS 2, and a second one of the same message, has a record of its own.
        let exactly_once = outgoing.qos == Qos::ExactlyOnce;
        let apart = stored.is_some() && (exactly_once || session.flow.may_owe(message.id));
        let owed = |shard: &mut Self| {
            let registry = shard.sessions[slot as usize].registry;
            let mut message = Arc::clone(message);
            if apart {
                Arc::make_mut(&mut message).id = Some(shard.interest.next_message());
            }
            let kept = Kept::new(message, &shard.registries[registry].room);
            shard.owe(met, outgoing, kept, stored.is_some(), false)
        };
        if let Some(session) = stored.filter(|_| outgoing.qos == Qos::ExactlyOnce) {
            let owed = owed(self);
            self.owe_one(session, &owed, apart);
            self.send_when_stored(slot, owed);
            return true;
        }
        if session.flow.unwired().is_some() {
            return false; // one before it waits to be stored: it goes first
        }
        let packet_id = session.flow.peek();
        match self.offer(conn, outgoing, Some((packet_id, false)), false, fx) {
            Offered::Full => return false,
            Offered::TooLarge => return true,
            Offered::Written => {}
        }
        let Some(session) = stored else {
            self.sessions[slot as usize].flow.send(outgoing.qos, None);
            return true;
        };
        let owed = owed(self);
        self.owe_one(session, &owed, apart);
        self.sessions[slot as usize].flow.send(outgoing.qos, Some(Box::new(owed)));
        self.note_sending(session, slot, packet_id);
        true
    }

    /// One more session is owed a message: one that is stored already, or, `apart`, one of its own.
    fn owe_one(&mut self, session: SessionId, owed: &Owed, apart: bool) {
        let Some(id) = owed.id else { return };
        let destination = owed.destination(session);
        let record = match owed.message.as_ref().filter(|_| apart) {
            Some(kept) => {
                let (message, to) = (Arc::clone(&kept.message), vec![destination]);
                Record::Message { id, message, to, retained: false }
            }
            None => Record::Owed { message: id, destination },
        };
        self.remember(record);
    }

    /// Whether the stored message may go to the session; counted when not.
    fn may_have(&mut self, now: Instant, slot: u32, registry: usize, message: &Message) -> bool {
        let voices = &self.registries[registry].voices;
        let Ok(topic) = TopicName::parse(&message.topic) else { return false };
        let may = self.sessions[slot as usize].may_have(now, voices, message.publisher.uid, topic);
        self.counters.withheld += u64::from(!may);
        may
    }
}

/// The filter within, of one on the wire, and whether it is that of a shared subscription.
fn parse_filter(text: &str, leading_slash: bool) -> Result<(TopicFilter, bool), (ReasonCode, &'static str)> {
    let invalid = |why| (ReasonCode::TopicFilterInvalid, why);
    let text = inner_filter(text, leading_slash);
    let filter = TopicFilter::parse(&text).map_err(|_| invalid("it is no topic filter"))?;
    let share = parse_share(&text).transpose().map_err(invalid)?;
    if filter.levels().nth(LEVELS_MAX).is_some() {
        return Err(invalid("it has more than 128 levels"));
    }
    Ok((filter, share.is_some()))
}

/// The terms on which a message is owed, apart from it.
struct Owing {
    qos: Qos,
    retain: bool,
    identifiers: (u32, Box<[u32]>),
}

impl Owing {
    fn of(owed: &Owed) -> Self {
        Self { qos: owed.qos, retain: owed.retain, identifiers: owed.identifiers.clone() }
    }

    fn outgoing<'a>(&'a self, message: &'a Message, now: Instant) -> Outgoing<'a> {
        let (one, more) = &self.identifiers;
        Outgoing {
            qos: self.qos,
            retain: self.retain,
            identifiers: (*one, more),
            ..Outgoing::of_stored(message, now)
        }
    }
}

/// How far a session got.
enum Told {
    /// There may be more.
    All,
    /// It can take no more now, or there is no more.
    Some,
    /// It could take more, but others must have their turn.
    Tired,
}
