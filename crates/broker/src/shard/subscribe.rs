//! Subscriptions; and what a session reads at its own pace: retained messages, then the log.

use std::mem;
use std::time::Instant;

use drawbridge_mqtt::codec::{Qos, ReasonCode, RetainHandling, Subscribe, SubscribeEntry, Unsubscribe};
use drawbridge_names::{TopicFilter, TopicName};

use super::outgoing::{Offered, Outgoing, inner_topic};
use super::publish::Met;
use super::session::{OrderStage, RetainedWalk, Session, Subscription};
use super::{Later, Shard};
use crate::deliver::may_deliver;
use crate::effect::{ConnId, Effect};
use crate::log::{Log, Read};
use crate::message::Message;
use crate::report::What;
use crate::routes::{LEVELS_MAX, Subscriber};

/// Up to this many filters are asked one by one whether they mean a message of the log; more are
/// asked through the tree.
const FILTERS_ASKED: usize = 32;

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
        let qos = entry.qos.min(Qos::AtLeastOnce);
        let route = Subscriber {
            slot: conn.slot(),
            identifier,
            qos,
            no_local: entry.no_local,
            retain_as_published: entry.retain_as_published,
        };
        let registry = &mut self.registries[session.registry];
        registry.routes.insert(&filter, route);
        let since = old.map_or_else(|| registry.log.tail(), |old| old.since);
        session.newest_since = session.newest_since.max(since);
        session.filters.insert(filter.clone(), Subscription { route, since });
        if old.is_none() {
            self.interest.add(self.config.index, 1);
        }
        let tell = match entry.retain_handling {
            RetainHandling::SendAtSubscribe => true,
            RetainHandling::SendIfNew => old.is_none(),
            RetainHandling::DoNotSend => false,
        };
        if tell && registry.retained.len() > 0 {
            // A walk that is under way begins anew: [MQTT-3.8.4-4] (5.0) wants all of them again.
            session.walks.retain(|walk| walk.filter != filter);
            session.walks.push_back(RetainedWalk { filter, route, after: None });
        }
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
        if session.filters.remove(&filter).is_none() {
            return ReasonCode::NoSubscriptionExisted;
        }
        session.walks.retain(|walk| walk.filter != filter);
        self.registries[session.registry].routes.remove(&filter, conn.slot());
        self.interest.sub(self.config.index, 1);
        ReasonCode::Success
    }

    /// Hands a session what it can take of what waits for it: first the retained messages of its
    /// subscriptions, then the log from its cursor on.
    pub(super) fn catch_up(&mut self, now: Instant, conn: ConnId, fx: &mut Vec<Effect>) {
        while let Some(state) = self.conn(conn) {
            let Some(session) = state.session.as_mut() else { return };
            let goes_on = if let Some(mut walk) = session.walks.pop_front() {
                let registry = session.registry;
                match self.tell_retained(now, conn, registry, &mut walk, fx) {
                    Told::All => true,
                    Told::Some => {
                        if let Some(session) = self.conn(conn).and_then(|state| state.session.as_mut()) {
                            session.walks.push_front(walk);
                        }
                        false
                    }
                }
            } else if session.cursor.is_some() && state.protocol.has_window() {
                self.read_log(now, conn, fx)
            } else {
                false
            };
            if !goes_on {
                return;
            }
        }
    }

    fn tell_retained(
        &mut self,
        now: Instant,
        conn: ConnId,
        registry: usize,
        walk: &mut RetainedWalk,
        fx: &mut Vec<Effect>,
    ) -> Told {
        loop {
            let state = &self.registries[registry];
            let Some(message) = state.retained.next(&walk.filter, walk.after.as_deref(), now).cloned() else {
                return Told::All;
            };
            let mut met = None;
            Met::merge(&mut met, &walk.route);
            if let Some(met) = met
                && self.may_have(now, conn, registry, &message)
            {
                // [MQTT-3.3.1-8] (3.1.1), MQTT 5.0 3.3.1.3: the flag says that it was kept.
                let outgoing = Outgoing { retain: true, ..met.adapt(Outgoing::of_stored(&message, now)) };
                if self.offer(conn, &outgoing, false, fx) == Offered::Full {
                    return Told::Some;
                }
            }
            walk.after = Some(message.topic.clone());
        }
    }

    /// Whether the stored message may go to the session; counted when not.
    fn may_have(&mut self, now: Instant, conn: ConnId, registry: usize, message: &Message) -> bool {
        let voices = &self.registries[registry].voices;
        let place = &self.places[conn.slot() as usize];
        let Some(session) = place.conn.as_ref().and_then(|state| state.session.as_ref()) else {
            return false;
        };
        let Ok(topic) = TopicName::parse(&message.topic) else { return false };
        let may =
            !session.has_ended(now) && may_deliver(&session.rights, voices, message.publisher.uid, topic);
        self.counters.withheld += u64::from(!may);
        may
    }

    /// Reads one message of the log; `false` when the session can take no more, or has caught up.
    fn read_log(&mut self, now: Instant, conn: ConnId, fx: &mut Vec<Effect>) -> bool {
        let place = &self.places[conn.slot() as usize];
        let Some(session) = place.conn.as_ref().and_then(|state| state.session.as_ref()) else {
            return false;
        };
        let Some(cursor) = session.cursor else { return false };
        let index = session.registry;
        let origin = (self.config.index, conn);
        let mut met = None;
        let registry = &mut self.registries[index];
        let routes = &mut registry.routes;
        let mut wanted = |seq, message: &Message| {
            met = None;
            let Ok(topic) = TopicName::parse(&message.topic) else { return false };
            let mut take = |route: &Subscriber| {
                if !(route.no_local && message.from == Some(origin)) {
                    Met::merge(&mut met, route);
                }
            };
            if session.filters.len() > FILTERS_ASKED && session.newest_since <= seq {
                routes.each(topic, |route| {
                    if route.slot == conn.slot() {
                        take(route);
                    }
                });
            } else {
                session.routes_to(seq, topic, take);
            }
            // What it gets at QoS 0 it got, or missed, when it was live.
            met.as_ref().is_some_and(|met| met.qos().min(message.qos) != Qos::AtMostOnce)
        };
        let (seq, message) = match registry.log.read_from(&mut wanted, cursor) {
            Read::Found(seq, message) => (seq, message),
            Read::End => {
                self.set_cursor(conn, None);
                return false;
            }
            Read::FallenOff { .. } => {
                self.later.push_back(Later::FellBehind(conn));
                return false;
            }
        };
        self.set_cursor(conn, Some(seq));
        if message.expires.is_some_and(|expires| expires <= now) {
            self.counters.expired += 1;
        } else if let Some(met) = met
            && self.may_have(now, conn, index, &message)
        {
            match self.offer(conn, &met.adapt(Outgoing::of_stored(&message, now)), false, fx) {
                Offered::Full => return false,
                Offered::Written(packet_id) => self.order_sent(conn, seq, packet_id),
                Offered::TooLarge => {}
            }
        }
        let more = seq + 1 < self.registries[index].log.tail();
        self.set_cursor(conn, more.then_some(seq + 1));
        more
    }

    /// An order that waited in the log is on its way.
    fn order_sent(&mut self, conn: ConnId, seq: u64, packet_id: Option<drawbridge_mqtt::codec::PacketId>) {
        let Some(session) = self.conn(conn).and_then(|state| state.session.as_mut()) else { return };
        let order = session.orders.iter_mut().find(|order| order.stage == OrderStage::Logged(seq));
        if let (Some(order), Some(packet_id)) = (order, packet_id) {
            let _ = mem::replace(&mut order.stage, OrderStage::Sent(packet_id));
        }
    }
}

enum Told {
    All,
    Some,
}

impl Session {
    /// The subscriptions that mean a message of the log.
    fn routes_to(&self, seq: u64, topic: TopicName<'_>, mut take: impl FnMut(&Subscriber)) {
        for (filter, subscription) in &self.filters {
            if seq >= subscription.since && filter.matches(topic) {
                take(&subscription.route);
            }
        }
    }
}
