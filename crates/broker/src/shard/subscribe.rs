//! Subscriptions; and what a session reads at its own pace: retained messages, then the log.

use std::mem;
use std::time::Instant;

use drawbridge_mqtt::codec::{Qos, ReasonCode, RetainHandling, Subscribe, SubscribeEntry, Unsubscribe};
use drawbridge_names::{TopicFilter, TopicName};

use super::outgoing::{Offered, Outgoing, inner_topic};
use super::publish::Met;
use super::session::{OrderStage, RetainedWalk, Session, Subscription, filter_cost};
use super::{Later, Shard};
use crate::effect::{ConnId, Effect, OrderOutcome};
use crate::log::{Log, Read};
use crate::message::Message;
use crate::report::What;
use crate::retained::{Next, Walk};
use crate::routes::{LEVELS_MAX, Subscriber};

/// Up to this many filters are asked one by one whether they mean a message of the log; more are
/// asked through the tree.
const FILTERS_ASKED: usize = 32;
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
        self.write(conn, fx, |protocol, out| protocol.subscribe_answer(subscribe.packet_id, codes, out));
        self.catch_up(now, conn, fx);
    }

    fn subscribe_one(
        &mut self,
        conn: ConnId,
        entry: &SubscribeEntry<'_>,
        identifier: u32,
    ) -> Result<ReasonCode, (ReasonCode, What)> {
        let subscriptions_max = self.config.subscriptions_max;
        let refused = |code, why| (code, What::SubscriptionRefused { filter: entry.filter.to_owned(), why });
        let place = &mut self.places[conn.slot() as usize];
        let Some(session) = place.conn.as_mut().and_then(|state| state.session.as_mut()) else {
            return Err(refused(ReasonCode::UnspecifiedError, "the session has ended"));
        };
        let text = inner_topic(entry.filter, session.leading_slash);
        let Ok(filter) = TopicFilter::parse(text) else {
            return Err(refused(ReasonCode::TopicFilterInvalid, "it is no topic filter"));
        };
        if text.starts_with("$share/") || text == "$share" {
            let code = ReasonCode::SharedSubscriptionsNotSupported;
            return Err(refused(code, "shared subscriptions are not served yet"));
        }
        if filter.levels().nth(LEVELS_MAX).is_some() {
            return Err(refused(ReasonCode::TopicFilterInvalid, "it has more than 128 levels"));
        }
        let decision = session.rights.may_subscribe(&filter);
        if !decision.allowed {
            let rule = decision.to_string();
            return Err((ReasonCode::NotAuthorized, What::SubscribeDenied { filter, rule }));
        }
        let old = session.filters.get(&filter).copied();
        if old.is_none() && session.filters.len() >= subscriptions_max {
            return Err(refused(
                ReasonCode::QuotaExceeded,
                "the session has too many; raise `broker.subscriptions_max`",
            ));
        }
        let cost = if old.is_none() { filter_cost(&filter) } else { 0 };
        if session.filter_bytes + cost > self.config.subscription_bytes_max {
            return Err(refused(
                ReasonCode::QuotaExceeded,
                "the filters of the session take too much room; raise `broker.subscription_bytes_max`",
            ));
        }
        session.filter_bytes += cost;
        let qos = entry.qos.min(Qos::AtLeastOnce);
        let registry = &mut self.registries[session.registry];
        let route = Subscriber {
            slot: conn.slot(),
            since: old.map_or_else(|| registry.log.tail(), |old| old.route.since),
            identifier,
            qos,
            no_local: entry.no_local,
            retain_as_published: entry.retain_as_published,
        };
        registry.routes.insert(&filter, route);
        if old.is_none() {
            self.interest.add(self.config.index, 1);
        }
        let tell = match entry.retain_handling {
            RetainHandling::SendAtSubscribe => true,
            RetainHandling::SendIfNew => old.is_none(),
            RetainHandling::DoNotSend => false,
        };
        // A walk that is under way begins anew: [MQTT-3.8.4-4] (5.0) wants all of them again.
        let mut walk = old.map_or(0, |old| old.walk);
        if tell && registry.retained.len() > 0 {
            session.walks.remove(&walk);
            self.counter += 1;
            walk = self.counter;
            let waiting = RetainedWalk { filter: filter.clone(), route, walk: Walk::default() };
            session.walks.insert(walk, waiting);
        } else if let Some(waiting) = session.walks.get_mut(&walk) {
            waiting.route = route;
        }
        session.filters.insert(filter, Subscription { route, walk });
        Ok(if qos == Qos::AtLeastOnce { ReasonCode::GrantedQos1 } else { ReasonCode::GRANTED_QOS_0 })
    }

    pub(super) fn on_unsubscribe(
        &mut self,
        conn: ConnId,
        unsubscribe: &Unsubscribe<'_>,
        fx: &mut Vec<Effect>,
    ) {
        let codes = unsubscribe.filters.iter().map(|filter| self.unsubscribe_one(conn, filter)).collect();
        self.write(conn, fx, |protocol, out| protocol.unsubscribe_answer(unsubscribe.packet_id, codes, out));
    }

    fn unsubscribe_one(&mut self, conn: ConnId, text: &str) -> ReasonCode {
        let place = &mut self.places[conn.slot() as usize];
        let Some(session) = place.conn.as_mut().and_then(|state| state.session.as_mut()) else {
            return ReasonCode::UnspecifiedError;
        };
        let Ok(filter) = TopicFilter::parse(inner_topic(text, session.leading_slash)) else {
            return ReasonCode::TopicFilterInvalid;
        };
        let Some(old) = session.filters.remove(&filter) else {
            return ReasonCode::NoSubscriptionExisted;
        };
        session.filter_bytes -= filter_cost(&filter);
        session.walks.remove(&old.walk);
        self.registries[session.registry].routes.remove(&filter, conn.slot());
        self.interest.sub(self.config.index, 1);
        ReasonCode::Success
    }

    /// Hands a session what it can take of what waits for it: first the retained messages of its
    /// subscriptions, then the log from its cursor on. What takes long is done in parts, a tick
    /// apart, so that nobody else has to wait for it.
    pub(super) fn catch_up(&mut self, now: Instant, conn: ConnId, fx: &mut Vec<Effect>) {
        let mut steps = STEPS_AT_ONCE;
        loop {
            let Some(state) = self.conn(conn) else { return };
            let Some(session) = state.session.as_mut() else { return };
            session.resumes = None;
            let told = if session.walks.is_empty() {
                if session.cursor.is_none() || !state.protocol.has_window() {
                    return;
                }
                self.read_log(now, conn, &mut steps, fx)
            } else {
                self.tell_retained(now, conn, &mut steps, fx)
            };
            match told {
                Told::All => {}
                Told::Some => return,
                Told::Tired => {
                    if let Some(session) = self.conn(conn).and_then(|state| state.session.as_mut()) {
                        session.resumes = Some(now);
                    }
                    self.arm(now, conn);
                    return;
                }
            }
        }
    }

    /// Goes on with the oldest walk of a session over the retained messages.
    fn tell_retained(&mut self, now: Instant, conn: ConnId, steps: &mut usize, fx: &mut Vec<Effect>) -> Told {
        let Some(session) = self.conn(conn).and_then(|state| state.session.as_mut()) else {
            return Told::Some;
        };
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
            if !self.may_have(now, conn, index, &message) {
                continue;
            }
            let met = Met::of(&waiting.route);
            // [MQTT-3.3.1-8] (3.1.1), MQTT 5.0 3.3.1.3: the flag says that it was kept.
            let outgoing = Outgoing { retain: true, ..met.adapt(Outgoing::of_stored(&message, now)) };
            if self.offer(conn, &outgoing, false, fx) == Offered::Full {
                waiting.walk = before;
                break Told::Some;
            }
        };
        if let Some(session) = self.conn(conn).and_then(|state| state.session.as_mut()) {
            session.walks.insert(key, waiting);
        }
        told
    }

    /// Whether the stored message may go to the session; counted when not.
    fn may_have(&mut self, now: Instant, conn: ConnId, registry: usize, message: &Message) -> bool {
        let voices = &self.registries[registry].voices;
        let place = &self.places[conn.slot() as usize];
        let Some(session) = place.conn.as_ref().and_then(|state| state.session.as_ref()) else {
            return false;
        };
        let Ok(topic) = TopicName::parse(&message.topic) else { return false };
        let may = session.may_have(now, voices, message.publisher.uid, topic);
        self.counters.withheld += u64::from(!may);
        may
    }

    /// Reads one message of the log.
    fn read_log(&mut self, now: Instant, conn: ConnId, steps: &mut usize, fx: &mut Vec<Effect>) -> Told {
        let place = &self.places[conn.slot() as usize];
        let Some(session) = place.conn.as_ref().and_then(|state| state.session.as_ref()) else {
            return Told::Some;
        };
        let Some(cursor) = session.cursor else { return Told::Some };
        let index = session.registry;
        let origin = (self.config.index, conn);
        let mut met = None;
        let registry = &mut self.registries[index];
        let routes = &mut registry.routes;
        let mut wanted = |seq, message: &Message| {
            met = None;
            if *steps == 0 {
                return true; // no further now
            }
            let Ok(topic) = TopicName::parse(&message.topic) else { return false };
            let mut asked = 0;
            let mut take = |route: &Subscriber| {
                let own = route.no_local && message.from == Some(origin);
                if route.slot == conn.slot() && route.since <= seq && !own {
                    Met::merge(&mut met, route);
                }
            };
            if session.filters.len() > FILTERS_ASKED {
                routes.each(topic, |route| {
                    asked += 1;
                    take(route);
                });
            } else {
                session.routes_to(topic, take);
            }
            *steps = steps.saturating_sub(1 + asked / FILTERS_ASKED);
            // What it gets at QoS 0 it got, or missed, when it was live.
            met.as_ref().is_some_and(|met| met.qos().min(message.qos) != Qos::AtMostOnce)
        };
        let (seq, message) = match registry.log.read_from(&mut wanted, cursor) {
            Read::Found(seq, message) => (seq, message),
            Read::End => {
                self.set_cursor(conn, None);
                return Told::Some;
            }
            Read::FallenOff { .. } => {
                self.later.push_back(Later::FellBehind(conn));
                return Told::Some;
            }
        };
        self.set_cursor(conn, Some(seq));
        let Some(met) = met else { return Told::Tired };
        if message.expires.is_some_and(|expires| expires <= now) {
            self.counters.expired += 1;
        } else if !self.may_have(now, conn, index, &message) {
            self.order_withheld(conn, seq, fx);
        } else {
            match self.offer(conn, &met.adapt(Outgoing::of_stored(&message, now)), false, fx) {
                Offered::Full => return Told::Some,
                Offered::Written(packet_id) => self.order_sent(conn, seq, packet_id),
                Offered::TooLarge => {}
            }
        }
        let more = seq + 1 < self.registries[index].log.tail();
        self.set_cursor(conn, more.then_some(seq + 1));
        if more { Told::All } else { Told::Some }
    }

    /// An order that waited in the log is on its way.
    fn order_sent(&mut self, conn: ConnId, seq: u64, packet_id: Option<drawbridge_mqtt::codec::PacketId>) {
        let Some(session) = self.conn(conn).and_then(|state| state.session.as_mut()) else { return };
        let order = session.orders.iter_mut().find(|order| order.stage == OrderStage::Logged(seq));
        if let (Some(order), Some(packet_id)) = (order, packet_id) {
            let _ = mem::replace(&mut order.stage, OrderStage::Sent(packet_id));
        }
    }

    /// An order that waited in the log may not be delivered any more.
    fn order_withheld(&mut self, conn: ConnId, seq: u64, fx: &mut Vec<Effect>) {
        let Some(session) = self.conn(conn).and_then(|state| state.session.as_mut()) else { return };
        if let Some(at) = session.orders.iter().position(|order| order.stage == OrderStage::Logged(seq)) {
            let order = session.orders.swap_remove(at);
            fx.push(Effect::OrderDone { order: order.id, outcome: OrderOutcome::Withheld });
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

impl Session {
    /// The subscriptions that mean `topic`.
    fn routes_to(&self, topic: TopicName<'_>, mut take: impl FnMut(&Subscriber)) {
        for (filter, subscription) in self.filters.iter() {
            if filter.matches(topic) {
                take(&subscription.route);
            }
        }
    }
}
