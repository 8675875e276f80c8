//! From a message to all who want it: clients, retained store, other shards, the edge.

use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use drawbridge_mqtt::codec::{PacketId, ProtocolVersion, Qos, ReasonCode};
use drawbridge_mqtt::connection::{Inbound, InboundTopic};
use drawbridge_names::{PrincipalKind, PrincipalName, TopicName};
use drawbridge_policy::Rights;

use super::outgoing::{Offered, Outgoing, Publication, inner_topic, stored, unstored};
use super::session::{OrderStage, WaitingOrder};
use super::{Conn, Shard};
use crate::deliver::may_publish;
use crate::effect::{ConnId, ControlAck, ControlKind, ControlPublish, Effect, Order, OrderOutcome};
use crate::message::{Message, expiry_s};
use crate::report::What;
use crate::routes::Subscriber;

/// A client that a message goes to, and on what terms: all its matching subscriptions in one.
pub(super) struct Met {
    slot: u32,
    qos: Qos,
    retain_as_published: bool,
    /// 0 for none.
    identifier: u32,
    more_identifiers: Vec<u32>,
}

impl Met {
    pub(super) fn of(route: &Subscriber) -> Self {
        Self {
            slot: route.slot,
            qos: route.qos,
            retain_as_published: route.retain_as_published,
            identifier: route.identifier,
            more_identifiers: Vec::new(),
        }
    }

    /// One copy for overlapping subscriptions: the highest QoS, every identifier.
    ///
    /// Source: MQTT 5.0 section 3.3.4, MQTT 3.1.1 section 3.3.5.
    pub(super) fn merge(into: &mut Option<Self>, route: &Subscriber) {
        match into {
            None => *into = Some(Self::of(route)),
            Some(met) => met.add(route),
        }
    }

    fn add(&mut self, route: &Subscriber) {
        self.qos = self.qos.max(route.qos);
        self.retain_as_published |= route.retain_as_published;
        match (self.identifier, route.identifier) {
            (_, 0) => {}
            (0, identifier) => self.identifier = identifier,
            (_, identifier) => self.more_identifiers.push(identifier),
        }
    }

    pub(super) fn qos(&self) -> Qos {
        self.qos
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

/// Who speaks in a message that came from a client.
pub(super) struct Speaker<'a> {
    pub(super) name: &'a PrincipalName,
    pub(super) kind: PrincipalKind,
    pub(super) rights: &'a Rights,
}

/// What a message that was allowed has become.
pub(super) enum Spoken {
    /// It went to its subscribers.
    Routed,
    /// The edge has it, and will say when it is done.
    Handed,
}

/// What became of a message for the device that an order waits for.
#[derive(Debug, Clone, Copy)]
enum Fate {
    NotMet,
    Withheld,
    Dropped,
    Sent(Option<PacketId>),
    Logged(u64),
}

impl Shard {
    pub(super) fn on_publish(
        &mut self,
        now: Instant,
        conn: ConnId,
        inbound: &Inbound<'_>,
        fx: &mut Vec<Effect>,
    ) {
        let Some(session) = self.conn(conn).and_then(|state| state.session.as_ref()) else { return };
        let inner = inner_topic(inbound.topic.as_str(), session.leading_slash);
        let topic = match inbound.topic {
            InboundTopic::Said(said) if said.as_str().len() == inner.len() => Ok(said),
            _ => TopicName::parse(inner),
        };
        let Ok(topic) = topic else { return }; // the codec has judged it
        let (rights, name, kind) = (Arc::clone(&session.rights), session.name.clone(), session.kind);
        let mut publication = Publication {
            registry: session.registry,
            topic,
            payload: inbound.payload,
            qos: inbound.qos,
            retain: inbound.retain,
            expires: inbound.message_expiry_s.map(|s| now + Duration::from_secs(u64::from(s))),
            properties: inbound.properties,
            publisher: session.publisher,
            from: Some(conn),
            stored: None,
            payload_shared: None,
        };
        let ack = inbound.packet_id;
        let speaker = Speaker { name: &name, kind, rights: &rights };
        let answer = Some(ControlAck { packet_id: ack });
        match self.speak(now, conn, &mut publication, &speaker, answer, fx) {
            Ok(Spoken::Routed) => {
                self.counters.received += 1;
                if let Some(packet_id) = ack {
                    self.acknowledge(now, conn, packet_id, Ok(()), fx);
                }
            }
            Ok(Spoken::Handed) => {
                self.counters.received += 1;
                if let Some(session) = self.conn(conn).and_then(|state| state.session.as_mut()) {
                    session.controls += 1;
                }
            }
            Err(rule) => {
                let topic = topic.as_str().to_owned();
                self.deny_publish(now, conn, ack, What::PublishDenied { topic, rule }, fx);
            }
        }
    }

    /// What a client hears of a publish that it may not do: in MQTT 5 PUBACK 0x87, or at QoS 0, where
    /// there is no answer, DISCONNECT 0x87; in 3.1.1 the connection is closed.
    ///
    /// Source: RFC 9431 sections 3.1 and 6.
    fn deny_publish(
        &mut self,
        now: Instant,
        conn: ConnId,
        ack: Option<PacketId>,
        what: What,
        fx: &mut Vec<Effect>,
    ) {
        let version = self.conn(conn).map(|state| state.protocol.version());
        match ack {
            Some(packet_id) if version == Some(ProtocolVersion::V5) => {
                let text = what.to_string();
                self.report(conn, what, fx);
                self.write(conn, fx, |protocol, out| {
                    protocol.publish_answer(packet_id, ReasonCode::NotAuthorized, Some(&text), out);
                });
            }
            _ => self.end(now, conn, what, fx),
        }
    }

    /// PUBACK to a client.
    pub(super) fn acknowledge(
        &mut self,
        now: Instant,
        conn: ConnId,
        packet_id: PacketId,
        outcome: Result<(), ReasonCode>,
        fx: &mut Vec<Effect>,
    ) {
        let Some(state) = self.conn(conn).filter(|state| state.session.is_some()) else { return };
        let reason = match outcome {
            Err(reason) if state.protocol.version() == ProtocolVersion::V311 => {
                self.end(now, conn, What::ControlRefused { reason }, fx);
                return;
            }
            Err(reason) => reason,
            Ok(()) => ReasonCode::Success,
        };
        self.write(conn, fx, |protocol, out| protocol.publish_answer(packet_id, reason, None, out));
    }

    /// A client or its will speaks: asks whether it may, then hands control messages to the edge and
    /// all others to their subscribers.
    ///
    /// # Errors
    /// The rule that refuses.
    pub(super) fn speak(
        &mut self,
        now: Instant,
        conn: ConnId,
        publication: &mut Publication<'_>,
        speaker: &Speaker<'_>,
        ack: Option<ControlAck>,
        fx: &mut Vec<Effect>,
    ) -> Result<Spoken, String> {
        let registry = &self.registries[publication.registry];
        let uid = publication.publisher.uid;
        may_publish(Some(speaker.rights), &registry.voices, uid, publication.topic)?;
        let Some((device, kind)) = ControlKind::of(publication.topic.as_str()) else {
            self.spread(now, conn, publication, None, fx);
            return Ok(Spoken::Routed);
        };
        let publish = ControlPublish {
            registry: registry.name.clone(),
            publisher: (uid, speaker.name.clone()),
            publisher_kind: speaker.kind,
            policy_epoch: publication.publisher.policy_epoch,
            device,
            kind,
            payload: publication.payload.to_vec(),
            qos: publication.qos,
        };
        // Commands and configurations come back as orders, once they are recorded.
        if publish.kind == ControlKind::State {
            self.spread(now, conn, publication, None, fx);
        }
        fx.push(Effect::Control { conn, ack, publish });
        Ok(Spoken::Handed)
    }

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
        if may_publish(order.rights.as_deref(), voices, order.publisher.uid, topic).is_err() {
            return Some(OrderOutcome::Denied);
        }
        let mut publication = Publication {
            registry,
            topic,
            payload: &order.payload,
            qos: if order.to.is_some() { Qos::AtLeastOnce } else { order.qos.min(Qos::AtLeastOnce) },
            retain: order.retain,
            expires: None,
            properties: Default::default(),
            publisher: order.publisher,
            from: None,
            stored: None,
            payload_shared: Some(&order.payload),
        };
        let nobody = ConnId::new(u32::MAX, 0);
        let Some(uid) = order.to else {
            self.spread(now, nobody, &mut publication, None, fx);
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
        let fate = self.spread(now, nobody, &mut publication, target, fx);
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
            Fate::Logged(seq) => OrderStage::Logged(seq),
        };
        let Some(session) = self.conn(target).and_then(|state| state.session.as_mut()) else {
            return Some(OrderOutcome::NotConnected);
        };
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
        if self.conn(target).is_none_or(|state| state.session.is_none()) {
            return Some(OrderOutcome::NotConnected);
        }
        let Publication { topic, publisher, .. } = *publication;
        let registry = &mut self.registries[publication.registry];
        let mut acknowledges = false;
        registry.routes.each(topic, |route| {
            acknowledges |= route.slot == target.slot() && route.qos != Qos::AtMostOnce;
        });
        if !acknowledges {
            return Some(OrderOutcome::NotSubscribed);
        }
        let place = &self.places[target.slot() as usize];
        let session = place.conn.as_ref().and_then(|state| state.session.as_ref())?;
        if session.may_have(now, &registry.voices, publisher.uid, topic) {
            return None;
        }
        self.counters.withheld += 1;
        Some(OrderOutcome::Withheld)
    }

    /// PUBACK came: the window has room, and an order may be done.
    pub(super) fn on_acknowledged(
        &mut self,
        now: Instant,
        conn: ConnId,
        packet_id: PacketId,
        reason: ReasonCode,
        fx: &mut Vec<Effect>,
    ) {
        let Some(session) = self.conn(conn).and_then(|state| state.session.as_mut()) else { return };
        if let Some(at) = session.orders.iter().position(|o| o.stage == OrderStage::Sent(packet_id)) {
            let order = session.orders.swap_remove(at);
            let outcome =
                if reason.is_error() { OrderOutcome::Rejected(reason) } else { OrderOutcome::Acknowledged };
            fx.push(Effect::OrderDone { order: order.id, outcome });
        }
        if session.is_behind() {
            self.catch_up(now, conn, fx);
        }
    }

    pub(super) fn time_out_orders(&mut self, now: Instant, conn: ConnId, fx: &mut Vec<Effect>) {
        let Some(session) = self.conn(conn).and_then(|state| state.session.as_mut()) else { return };
        session.orders.retain(|order| {
            let waits = order.deadline > now;
            if !waits {
                fx.push(Effect::OrderDone { order: order.id, outcome: OrderOutcome::TimedOut });
            }
            waits
        });
    }

    /// A message that another shard has let in.
    pub(super) fn route_crossed(&mut self, now: Instant, message: &Arc<Message>, fx: &mut Vec<Effect>) {
        let Ok(topic) = TopicName::parse(&message.topic) else { return };
        let registry = self.registry(&message.registry);
        if message.retain {
            self.registries[registry].retained.put(Arc::clone(message), now);
        }
        let mut publication = Publication {
            registry,
            topic,
            payload: &message.payload,
            qos: message.qos,
            retain: message.retain,
            expires: message.expires,
            properties: unstored(&message.properties),
            publisher: message.publisher,
            from: None,
            stored: Some(Arc::clone(message)),
            payload_shared: Some(&message.payload),
        };
        self.route(now, &mut publication, None, fx);
    }

    /// To the retained store, to the other shards, to the subscribers here.
    fn spread(
        &mut self,
        now: Instant,
        conn: ConnId,
        publication: &mut Publication<'_>,
        target: Option<ConnId>,
        fx: &mut Vec<Effect>,
    ) -> Fate {
        if publication.retain {
            self.retain(now, conn, publication, fx);
        }
        let index = self.config.index;
        let crosses = |shard| shard != index && (publication.retain || self.interest.has_any(shard));
        if (0..self.config.shards).any(crosses) {
            let message = self.stored(now, publication);
            self.cross(&message, fx);
        }
        self.route(now, publication, target, fx)
    }

    fn retain(
        &mut self,
        now: Instant,
        conn: ConnId,
        publication: &mut Publication<'_>,
        fx: &mut Vec<Effect>,
    ) {
        let bytes_max = self.config.retained_bytes_max;
        let message = self.stored(now, publication);
        let store = &mut self.registries[publication.registry].retained;
        if store.has_room_for(&message, bytes_max, now) {
            store.put(message, now);
            return;
        }
        // To live subscribers it still goes, as a message like others.
        publication.retain = false;
        publication.stored = None;
        let topic = publication.topic.as_str().to_owned();
        self.report(conn, What::RetainedFull { topic, bytes_max }, fx);
    }

    /// The stored copy of a publication, made when first needed.
    fn stored(&mut self, now: Instant, publication: &mut Publication<'_>) -> Arc<Message> {
        if let Some(message) = &publication.stored {
            return Arc::clone(message);
        }
        self.counter += 1;
        let message = Arc::new(Message {
            registry: self.registries[publication.registry].name.clone(),
            topic: publication.topic.as_str().into(),
            publisher: publication.publisher,
            from: publication.from.map(|conn| (self.config.index, conn)),
            received: now,
            received_ms: self.stored_ms(now),
            expires: publication.expires,
            qos: publication.qos,
            retain: publication.retain,
            properties: stored(&publication.properties),
            payload: publication.payload_shared.map_or_else(|| publication.payload.into(), Arc::clone),
            origin: (self.config.index, self.counter),
        });
        publication.stored = Some(Arc::clone(&message));
        message
    }

    /// To the subscribers of this shard.
    fn route(
        &mut self,
        now: Instant,
        publication: &mut Publication<'_>,
        target: Option<ConnId>,
        fx: &mut Vec<Effect>,
    ) -> Fate {
        let mut met = mem::take(&mut self.met);
        self.counter += 1;
        let mark = self.counter;
        let places = &mut self.places;
        let from = publication.from.map(ConnId::slot);
        self.registries[publication.registry].routes.each(publication.topic, |route| {
            if route.no_local && from == Some(route.slot) {
                return; // [MQTT-3.8.3-3] (5.0)
            }
            let Some(state) = places[route.slot as usize].conn.as_deref_mut() else { return };
            meet(state, mark, &mut met, route);
        });
        self.templates.clear();
        let shared = met.len() > 1;
        let mut logged = None;
        let mut fate = Fate::NotMet;
        for met in &met {
            let what = self.deliver(now, publication, met, shared, &mut logged, fx);
            if target.is_some_and(|target| target.slot() == met.slot) {
                fate = what;
            }
        }
        met.clear();
        self.met = met;
        fate
    }

    /// To one subscriber: now, later by the log, or not at all.
    fn deliver(
        &mut self,
        now: Instant,
        publication: &mut Publication<'_>,
        met: &Met,
        shared: bool,
        logged: &mut Option<u64>,
        fx: &mut Vec<Effect>,
    ) -> Fate {
        let conn = self.id_of(met.slot);
        let registry = &self.registries[publication.registry];
        let place = &self.places[met.slot as usize];
        let Some(session) = place.conn.as_ref().and_then(|state| state.session.as_ref()) else {
            return Fate::NotMet;
        };
        let (publisher, topic) = (publication.publisher.uid, publication.topic);
        if !session.may_have(now, &registry.voices, publisher, topic) {
            self.counters.withheld += 1;
            return Fate::Withheld;
        }
        let (behind, has_cursor) = (session.is_behind(), session.cursor.is_some());
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
            return Fate::Dropped;
        }
        if !behind || message.qos == Qos::AtMostOnce {
            match self.offer(conn, &message, shared, fx) {
                Offered::Written(packet_id) => return Fate::Sent(packet_id),
                Offered::TooLarge => return Fate::Dropped,
                Offered::Full if message.qos == Qos::AtMostOnce => {
                    self.counters.dropped_qos0 += 1;
                    return Fate::Dropped;
                }
                Offered::Full => {}
            }
        }
        let seq = match *logged {
            Some(seq) => seq,
            None => {
                let stored = self.stored(now, publication);
                *logged.insert(self.log(publication.registry, stored))
            }
        };
        if !has_cursor {
            self.set_cursor(conn, Some(seq));
        }
        Fate::Logged(seq)
    }
}

fn meet(state: &mut Conn, mark: u64, met: &mut Vec<Met>, route: &Subscriber) {
    let (seen, at) = state.met;
    if seen == mark {
        met[at as usize].add(route);
    } else {
        state.met = (mark, u32::try_from(met.len()).expect("a shard has fewer than 2^32 connections"));
        met.push(Met::of(route));
    }
}
