//! Messages of the server itself: commands, configurations, publishes over HTTP; and what became of them.

use std::time::Instant;

use drawbridge_mqtt::codec::{PacketId, Qos};
use drawbridge_names::TopicName;
use drawbridge_policy::PublishFacts;

use super::Shard;
use super::outgoing::Publication;
use super::publish::Origin;
use super::readers::{Fate, To};
use super::session::{OrderStage, WaitingOrder};
use crate::deliver::may_publish;
use crate::effect::{ConnId, Effect, Order, OrderOutcome};

impl Shard {
    /// A message from the server itself, as a rule on behalf of somebody: a command, a configuration,
    /// a publish over HTTP. Answered by [`Effect::OrderDone`].
    pub fn publish(&mut self, now: Instant, order: Order, fx: &mut Vec<Effect>) {
        let outcome = self.carry_out(now, &order, fx);
        if let Some(outcome) = outcome {
            fx.push(Effect::OrderDone { order: order.id, outcome });
        }
        self.settle(now, fx);
    }

    /// `None` when the PUBACK is waited for.
    fn carry_out(&mut self, now: Instant, order: &Order, fx: &mut Vec<Effect>) -> Option<OrderOutcome> {
        let Ok(topic) = TopicName::parse(&order.topic) else { return Some(OrderOutcome::Denied) };
        if order.to.is_some() && order.deadline <= now {
            return Some(OrderOutcome::TimedOut);
        }
        let registry = self.registry(&order.registry);
        // The edge has just found it in good standing.
        if let Some(rights) = &order.rights
            && let Some(rights) = self.registries[registry].voices.admitted(order.publisher.uid, rights)
        {
            self.spread_standing(registry, order.publisher.uid, Some(&rights), fx);
        }
        let voices = &self.registries[registry].voices;
        let message = PublishFacts {
            qos: order.qos.bits(),
            retain: order.retain,
            will: false,
            payload_bytes: order.payload.len(),
        };
        if may_publish(order.rights.as_deref(), voices, order.publisher.uid, topic, &message).is_err() {
            return Some(OrderOutcome::Denied);
        }
        let mut publication = Publication {
            registry,
            topic,
            payload: &order.payload,
            qos: if order.to.is_some() { Qos::AtLeastOnce } else { order.qos },
            retain: order.retain,
            expires: None,
            properties: Default::default(),
            publisher: order.publisher,
            from: None,
            stored: None,
            kept: None,
            payload_shared: Some(&order.payload),
        };
        if self.is_too_much_to_store(&publication) {
            return Some(OrderOutcome::TimedOut);
        }
        let nobody = ConnId::new(u32::MAX, 0);
        let Some(uid) = order.to else {
            let origin = Origin::Order(order.id);
            let waits = self.spread(now, nobody, &mut publication, To::FindAgain, origin, fx).waits;
            if waits.others > 0 {
                return None;
            }
            if waits.after > self.outbox.committed {
                self.order_awaits_batch(order.id, waits.after);
                return None;
            }
            return Some(OrderOutcome::Stored);
        };
        let found = self.directory.find(&order.registry, uid);
        let target = found.filter(|(shard, _)| *shard == self.config.index).map(|(_, conn)| conn);
        let failure = match target {
            None => Some(OrderOutcome::NotConnected),
            Some(target) => self.obstacle(now, target, &publication),
        };
        // Nobody else is to hear of a command that its device does not get. What is retained is for
        // later, so it goes out all the same.
        if failure.is_some() && !order.retain {
            return failure;
        }
        let to = target.map_or(To::FindAgain, To::FindAnd);
        let fate = self.spread(now, nobody, &mut publication, to, Origin::Nobody, fx).fate;
        let (Some(target), None) = (target, failure) else { return failure };
        self.wait_for(now, target, order, fate)
    }

    fn wait_for(&mut self, now: Instant, target: ConnId, order: &Order, fate: Fate) -> Option<OrderOutcome> {
        let stage = match fate {
            // What goes out at QoS 0 has no PUBACK; that no subscription of QoS 1 matched was asked before.
            Fate::NotMet | Fate::Sent(None) => return Some(OrderOutcome::NotSubscribed),
            Fate::Withheld => return Some(OrderOutcome::Withheld),
            Fate::Dropped => return Some(OrderOutcome::TimedOut),
            Fate::Sent(Some(packet_id)) => OrderStage::Sent(packet_id),
            Fate::Queued(ticket) => OrderStage::Queued(ticket),
        };
        let Some(session) = self.session(target) else { return Some(OrderOutcome::NotConnected) };
        session.orders.push(WaitingOrder { id: order.id, deadline: order.deadline, stage });
        self.arm(now, target);
        None
    }

    /// Why the session that an order waits for cannot get it at QoS 1; asked before anybody gets it.
    fn obstacle(
        &mut self,
        now: Instant,
        target: ConnId,
        publication: &Publication<'_>,
    ) -> Option<OrderOutcome> {
        let Some(slot) = self.session_of(target) else { return Some(OrderOutcome::NotConnected) };
        let Publication { topic, publisher, .. } = *publication;
        let registry = &mut self.registries[publication.registry];
        let mut acknowledges = false;
        registry.routes.each(topic, |route| {
            acknowledges |= route.slot == slot && route.qos != Qos::AtMostOnce;
        });
        if !acknowledges {
            return Some(OrderOutcome::NotSubscribed);
        }
        let session = &self.sessions[slot as usize];
        if session.may_have(now, &registry.voices, publisher.uid, topic) {
            return None;
        }
        self.counters.withheld += 1;
        Some(OrderOutcome::Withheld)
    }

    /// An order that waited is on its way.
    pub(super) fn order_sent(&mut self, slot: u32, ticket: u64, packet_id: PacketId) {
        let orders = &mut self.sessions[slot as usize].orders;
        if let Some(order) = orders.iter_mut().find(|order| order.stage == OrderStage::Queued(ticket)) {
            order.stage = OrderStage::Sent(packet_id);
        }
    }

    /// An order that waited may not be delivered any more.
    pub(super) fn order_withheld(&mut self, slot: u32, ticket: u64, fx: &mut Vec<Effect>) {
        let orders = &mut self.sessions[slot as usize].orders;
        if let Some(at) = orders.iter().position(|order| order.stage == OrderStage::Queued(ticket)) {
            let order = orders.swap_remove(at);
            fx.push(Effect::OrderDone { order: order.id, outcome: OrderOutcome::Withheld });
        }
    }

    pub(super) fn time_out_orders(&mut self, now: Instant, conn: ConnId, fx: &mut Vec<Effect>) {
        let Some(session) = self.session(conn) else { return };
        session.orders.retain(|order| {
            let waits = order.deadline > now;
            if !waits {
                fx.push(Effect::OrderDone { order: order.id, outcome: OrderOutcome::TimedOut });
            }
            waits
        });
    }
}
