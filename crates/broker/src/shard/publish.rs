//! From a message to all who want it: clients, retained store, other shards, the edge.

use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use drawbridge_mqtt::codec::{PacketId, ProtocolVersion, Qos, ReasonCode};
use drawbridge_mqtt::connection::{Inbound, InboundTopic};
use drawbridge_names::{PrincipalKind, PrincipalName, TopicFilter, TopicName};
use drawbridge_policy::Rights;

use super::flow::{Kept, Owed, Stage};
use super::known::Generation;
use super::outgoing::{Offered, Outgoing, Publication, inner_topic, stored};
use super::renew::AUTH_TOPIC;
use super::session::{OrderStage, Session, WaitingOrder};
use super::shared::{Member, Turn, group_of};
use super::speech::{Speech, Waits};
use super::stored::{Asker, Gather, Waiter};
use super::{Later, Place, Shard};
use crate::deliver::{Audience, may_publish};
use crate::effect::{ConnId, ControlAck, ControlKind, ControlPublish, Crossing, Effect, Order, OrderOutcome};
use crate::message::{Message, expiry_s};
use crate::report::What;
use crate::routes::Subscriber;
use crate::storage::{Destination, Record};

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

/// Who speaks in a message that came from a client.
pub(super) struct Speaker<'a> {
    pub(super) name: &'a PrincipalName,
    pub(super) kind: PrincipalKind,
    pub(super) rights: &'a Rights,
}

/// Whence a message comes, and who waits for what becomes of it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Origin {
    /// A will: nobody waits.
    Nobody,
    /// A client, by QoS 1 or 2.
    Client { slot: u32, packet_id: PacketId, exactly_once: bool },
    /// A client, by QoS 0.
    Unanswered,
    /// An order without addressee.
    Order(u64),
}

/// What a message that was allowed has become.
pub(super) enum Spoken {
    /// It went to its subscribers; its answer waits for this.
    Routed(Waits),
    /// The edge has it, and will say when it is done; beside it, its answer waits for this.
    Handed(Waits),
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

/// What became of a message on its way to all.
struct Spread {
    /// For the addressee of an order.
    fate: Fate,
    waits: Waits,
}

impl Shard {
    pub(super) fn on_publish(
        &mut self,
        now: Instant,
        conn: ConnId,
        inbound: &Inbound<'_>,
        fx: &mut Vec<Effect>,
    ) {
        let Some(slot) = self.session_of(conn) else { return };
        let session = &self.sessions[slot as usize];
        let exactly_once = inbound.qos == Qos::ExactlyOnce;
        if let Some(packet_id) = inbound.packet_id.filter(|_| exactly_once)
            && session.flow.inbound.contains(&packet_id.get())
        {
            // The same message again, whatever it says [MQTT-4.3.3-10] (5.0), [MQTT-4.3.3-2] (3.1.1).
            self.publish_again(now, conn, slot, packet_id, fx);
            return;
        }
        let inner = inner_topic(inbound.topic.as_str(), session.leading_slash);
        let topic = match inbound.topic {
            InboundTopic::Said(said) if said.as_str().len() == inner.len() => Ok(said),
            _ => TopicName::parse(inner),
        };
        let Ok(topic) = topic else { return }; // the codec has judged it
        if topic.is_dollar() && topic.as_str() == AUTH_TOPIC {
            self.on_auth_publish(now, conn, slot, inbound, fx);
            return;
        }
        let mut publication = Publication {
            registry: session.registry,
            topic,
            payload: inbound.payload,
            qos: inbound.qos,
            retain: inbound.retain,
            expires: inbound.message_expiry_s.map(|s| now + Duration::from_secs(u64::from(s))),
            properties: inbound.properties,
            publisher: session.publisher,
            from: Some(slot),
            stored: None,
            kept: None,
            payload_shared: None,
        };
        let origin = match inbound.packet_id {
            Some(packet_id) => Origin::Client { slot, packet_id, exactly_once },
            None => Origin::Unanswered,
        };
        if self.is_too_much_to_store(&publication) {
            self.refuse_publish(now, conn, origin, ReasonCode::QuotaExceeded, What::StorageFull, fx);
            return;
        }
        let spoken = match self.recall(slot, &publication) {
            Some(met) => Ok(Spoken::Routed(self.spread(now, conn, &mut publication, met, origin, fx).waits)),
            None => {
                let session = &self.sessions[slot as usize];
                let (rights, name, kind) = (Arc::clone(&session.rights), session.name.clone(), session.kind);
                let speaker = Speaker { name: &name, kind, rights: &rights };
                self.speak(now, conn, &mut publication, &speaker, origin, fx)
            }
        };
        let (waits, handed) = match spoken {
            Ok(Spoken::Routed(waits)) => (waits, false),
            Ok(Spoken::Handed(waits)) => (Waits { others: waits.others + 1, ..waits }, true),
            Err(rule) => {
                let topic = topic.as_str().to_owned();
                let what = What::PublishDenied { topic, rule };
                self.refuse_publish(now, conn, origin, ReasonCode::NotAuthorized, what, fx);
                return;
            }
        };
        self.registries[publication.registry].tally.received[usize::from(inbound.qos.bits())] += 1;
        if let Some(session) = self.session(conn) {
            session.controls += u16::from(handed);
            if let Some(packet_id) = inbound.packet_id.filter(|_| exactly_once) {
                session.flow.inbound.push(packet_id.get());
            }
        }
        if let Some(packet_id) = inbound.packet_id {
            let speech = Speech::to_publish(packet_id, exactly_once, ReasonCode::Success);
            self.say(now, conn, speech, waits, fx);
        }
    }

    /// A message at QoS 2 came again, after its first answer was lost or while that waits.
    fn publish_again(
        &mut self,
        now: Instant,
        conn: ConnId,
        slot: u32,
        packet_id: PacketId,
        fx: &mut Vec<Effect>,
    ) {
        let session = &self.sessions[slot as usize];
        if session.speeches.iter().any(|waiting| waiting.answers_publish(packet_id)) {
            return; // it will be answered, once
        }
        let owner_epoch = session.owner_epoch;
        let mut waits = Waits { after: self.outbox.everything_so_far(), others: 0 };
        let is_same = |asker: &Asker| matches!(asker, Asker::Client { slot: s, packet_id: p, .. } if (*s, *p) == (slot, packet_id));
        for gather in self.gathers.values_mut().filter(|gather| is_same(&gather.asker)) {
            if let Asker::Client { owner_epoch: asked, .. } = &mut gather.asker {
                *asked = owner_epoch;
                waits.others = 1;
            }
        }
        self.say(now, conn, Speech::to_publish(packet_id, true, ReasonCode::Success), waits, fx);
    }

    /// What a client hears of a publish that is not taken: in MQTT 5 PUBACK or PUBREC with the reason, or at
    /// QoS 0, where there is no answer, DISCONNECT; in 3.1.1 the connection is closed.
    ///
    /// Source: RFC 9431 sections 3.1 and 6.
    pub(super) fn refuse_publish(
        &mut self,
        now: Instant,
        conn: ConnId,
        origin: Origin,
        reason: ReasonCode,
        what: What,
        fx: &mut Vec<Effect>,
    ) {
        let version = self.conn(conn).map(|state| state.protocol.version());
        match origin {
            Origin::Client { packet_id, exactly_once, .. } if version == Some(ProtocolVersion::V5) => {
                let text = Some(what.to_string().into_boxed_str());
                self.report(conn, what, fx);
                let speech = if exactly_once {
                    Speech::PubRec { packet_id, reason, text }
                } else {
                    Speech::PubAck { packet_id, reason, text }
                };
                self.say(now, conn, speech, Waits::default(), fx);
            }
            // A message that cannot be stored is lost, as any at QoS 0 may be.
            Origin::Unanswered if matches!(what, What::StorageFull) => self.report(conn, what, fx),
            _ => self.end(now, conn, what, fx),
        }
    }

    /// Whether the message may have to be stored, and nothing more can be taken that must be; counted.
    pub(super) fn is_too_much_to_store(&mut self, publication: &Publication<'_>) -> bool {
        let acknowledged = publication.qos != Qos::AtMostOnce;
        let is_kept = || (0..self.config.shards).any(|shard| self.interest.keeps(shard));
        let is_too_much = self.storage_is_full() && (publication.retain || acknowledged && is_kept());
        self.counters.storage_full += u64::from(is_too_much);
        is_too_much
    }

    /// PUBREL: the client will not send this message again.
    ///
    /// Source: [MQTT-4.3.3-11], [MQTT-4.3.3-12] (5.0), [MQTT-4.3.3-2] (3.1.1).
    pub(super) fn on_released(
        &mut self,
        now: Instant,
        conn: ConnId,
        packet_id: PacketId,
        fx: &mut Vec<Effect>,
    ) {
        let Some(session) = self.session(conn) else { return };
        let at = session.flow.inbound.iter().position(|id| *id == packet_id.get());
        let reason = match at {
            Some(at) => {
                session.flow.inbound.swap_remove(at);
                ReasonCode::Success
            }
            None => ReasonCode::PacketIdentifierNotFound,
        };
        let mut waits = Waits::default();
        if let Some(session) = session.stored.as_ref().map(|stored| stored.id).filter(|_| at.is_some()) {
            // Else a crash could forget it, and the next message under this number would pass for this one.
            waits.after = self.remember_now(Record::Released { session, packet_id });
        }
        self.say(now, conn, Speech::PubComp { packet_id, reason }, waits, fx);
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
        origin: Origin,
        fx: &mut Vec<Effect>,
    ) -> Result<Spoken, String> {
        let registry = &self.registries[publication.registry];
        let uid = publication.publisher.uid;
        may_publish(Some(speaker.rights), &registry.voices, uid, publication.topic)?;
        let Some((device, kind)) = ControlKind::of(publication.topic.as_str()) else {
            return Ok(Spoken::Routed(self.spread(now, conn, publication, To::Find, origin, fx).waits));
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
        let mut waits = Waits::default();
        if publish.kind == ControlKind::State {
            waits = self.spread(now, conn, publication, To::FindAgain, origin, fx).waits;
        } else if let Origin::Client { slot, packet_id, exactly_once: true } = origin
            && let Some(session) = self.sessions[slot as usize].stored.as_ref().map(|stored| stored.id)
        {
            waits.after = self.remember_now(Record::Inbound { session, packet_id });
        }
        let ack = match origin {
            Origin::Nobody | Origin::Order(_) => None,
            Origin::Unanswered => Some(ControlAck { packet_id: None }),
            Origin::Client { packet_id, .. } => Some(ControlAck { packet_id: Some(packet_id) }),
        };
        fx.push(Effect::Control { conn, ack, publish });
        Ok(Spoken::Handed(waits))
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

    /// PUBACK came: the window has room, and an order may be done.
    pub(super) fn on_acknowledged(
        &mut self,
        now: Instant,
        conn: ConnId,
        packet_id: PacketId,
        reason: ReasonCode,
        fx: &mut Vec<Effect>,
    ) {
        let Some(slot) = self.session_of(conn) else { return };
        let session = &mut self.sessions[slot as usize];
        let Some((at, sent)) = session.flow.sent(packet_id) else { return };
        if sent.qos != Qos::AtLeastOnce {
            return; // the answer to another kind of message: harmless, and no answer to this one
        }
        let sent = session.flow.done(at);
        if !session.orders.is_empty()
            && let Some(at) = session.orders.iter().position(|o| o.stage == OrderStage::Sent(packet_id))
        {
            let order = session.orders.swap_remove(at);
            let outcome =
                if reason.is_error() { OrderOutcome::Rejected(reason) } else { OrderOutcome::Acknowledged };
            fx.push(Effect::OrderDone { order: order.id, outcome });
        }
        let behind = session.is_behind();
        if let Some(id) = sent.and_then(|sent| sent.owed?.id) {
            self.is_done(slot, id);
        }
        if behind {
            self.catch_up(now, conn, fx);
        }
    }

    /// PUBREC came: the client has the message and need not be sent it again.
    ///
    /// Source: [MQTT-4.3.3-4] (5.0), [MQTT-4.3.3-1] (3.1.1).
    pub(super) fn on_received(
        &mut self,
        now: Instant,
        conn: ConnId,
        packet_id: PacketId,
        reason: ReasonCode,
        fx: &mut Vec<Effect>,
    ) {
        let Some(slot) = self.session_of(conn) else { return };
        let session = &mut self.sessions[slot as usize];
        let Some((at, sent)) = session.flow.sent(packet_id).filter(|(_, s)| s.qos == Qos::ExactlyOnce) else {
            let speech = Speech::PubRel { packet_id, reason: ReasonCode::PacketIdentifierNotFound };
            self.say(now, conn, speech, Waits::default(), fx);
            return;
        };
        if reason.is_error() {
            // The exchange is over, and the client does not have it.
            let sent = session.flow.done(at);
            if let Some(id) = sent.and_then(|sent| sent.owed?.id) {
                self.is_done(slot, id);
            }
            self.catch_up(now, conn, fx);
            return;
        }
        let first = sent.stage == Stage::Publish;
        sent.stage = Stage::Release;
        let mut message = None;
        if let Some(owed) = &mut sent.owed {
            (owed.message, message) = (None, owed.id);
        }
        let mut waits = Waits::default();
        if let (Some(message), Some(stored), true) = (message, &session.stored, first) {
            // After a restart the message must not be sent anew: the client may have answered it to its end.
            let session = stored.id;
            waits.after = self.remember_now(Record::Received { session, message });
            if let Some((_, sent)) = self.sessions[slot as usize].flow.sent(packet_id) {
                sent.after = waits.after;
            }
        }
        self.say(now, conn, Speech::PubRel { packet_id, reason: ReasonCode::Success }, waits, fx);
    }

    /// PUBCOMP came: the exchange is over.
    pub(super) fn on_completed(
        &mut self,
        now: Instant,
        conn: ConnId,
        packet_id: PacketId,
        fx: &mut Vec<Effect>,
    ) {
        let Some(slot) = self.session_of(conn) else { return };
        let session = &mut self.sessions[slot as usize];
        let found = session.flow.sent(packet_id).filter(|(_, sent)| sent.stage == Stage::Release);
        let Some((at, _)) = found else { return };
        let sent = session.flow.done(at);
        if let Some(id) = sent.and_then(|sent| sent.owed?.id) {
            self.is_done(slot, id);
        }
        self.catch_up(now, conn, fx);
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

    /// A message that another shard has let in. `gather`: the shard that wants to hear to whom it is owed
    /// here, and how it calls the message.
    pub(super) fn route_crossed(
        &mut self,
        now: Instant,
        message: &Arc<Message>,
        gather: Option<(usize, u64)>,
        fx: &mut Vec<Effect>,
    ) {
        let mut owing = Owing::default();
        let place = self.outbox.mark();
        // Stored sessions have subscribed since it was sent here: nobody will ask to whom it is owed, so what
        // they get has a record of its own.
        let acknowledged = message.qos != Qos::AtMostOnce;
        let unasked = gather.is_none() && acknowledged && self.interest.keeps(self.config.index);
        let mut own = Arc::clone(message);
        if unasked && self.config.durable {
            Arc::make_mut(&mut own).id = Some(self.interest.next_message());
        }
        if let Ok(topic) = TopicName::parse(&message.topic) {
            let registry = self.registry(&message.registry);
            if message.retain {
                self.registries[registry].retained.put(Arc::clone(message), now);
            }
            let stored = Some(Arc::clone(&own));
            let mut publication = Publication { stored, ..Publication::of(registry, topic, message) };
            self.route(now, &mut publication, To::FindAgain, gather.is_some(), &mut owing, fx);
        }
        if unasked && !owing.to.is_empty() {
            self.store_message(&own, mem::take(&mut owing.to), false, false, place);
        }
        if let Some((asker, token)) = gather {
            self.answer_gather(asker, token, message, owing, fx);
        }
    }

    /// To the retained store, to the other shards, to the subscribers here.
    fn spread(
        &mut self,
        now: Instant,
        conn: ConnId,
        publication: &mut Publication<'_>,
        readers: To,
        origin: Origin,
        fx: &mut Vec<Effect>,
    ) -> Spread {
        let acknowledged = publication.qos != Qos::AtMostOnce;
        let retained = publication.retain && self.retain(now, conn, publication, fx);
        let (index, retain) = (self.config.index, publication.retain);
        // Else it could come back after the answer.
        let cleared = if retain && !retained && self.config.durable { self.outbox.taken() + 1 } else { 0 };
        let others = (0..self.config.shards).filter(|shard| *shard != index);
        let asked = others.clone().filter(|shard| acknowledged && self.interest.keeps(*shard)).count();
        let mut owing = Owing::default();
        let place = self.outbox.mark();
        let fate = self.route(now, publication, readers, asked > 0, &mut owing, fx);
        let Owing { to, mut shards } = owing;
        self.counter += 1;
        let token = self.counter;
        let mut left = 0;
        for shard in others {
            let asks = acknowledged && self.interest.keeps(shard);
            if retain || asks || self.interest.has_any(shard) {
                let message = self.stored(now, publication);
                left += usize::from(asks);
                let gather = asks.then_some((index, token));
                fx.push(Effect::Cross { shard, crossing: Crossing::Publish { message, gather } });
            }
        }
        let answered = acknowledged && !matches!(origin, Origin::Nobody);
        let session = match origin {
            Origin::Client { slot, exactly_once: true, .. } => {
                self.sessions[slot as usize].stored.as_ref().map(|stored| stored.id)
            }
            _ => None,
        };
        if left > 0 {
            let message = self.stored(now, publication);
            let asker = match origin {
                Origin::Client { slot, packet_id, .. } => {
                    let owner_epoch = self.sessions[slot as usize].owner_epoch;
                    Asker::Client { slot, owner_epoch, packet_id, inbound: session }
                }
                Origin::Order(order) => Asker::Order(order),
                Origin::Nobody | Origin::Unanswered => Asker::Nobody,
            };
            if self.note_foreign(&message, &to) {
                shards.push(index);
            }
            self.gathers.insert(token, Gather { message, to, retained, left, owing: shards, asker });
            let after = if answered { cleared } else { 0 };
            return Spread { fate, waits: Waits { after, others: u8::from(answered) } };
        }
        let mut after = cleared;
        if self.config.durable && (retained || !to.is_empty()) {
            let message = self.stored(now, publication);
            // Before what was remembered of its way to those it is owed to.
            after = self.store_message(&message, to, retained, answered, place);
            if let Some(id) = message.id {
                self.await_stored(shards.into_iter().map(|shard| Waiter::Tell(shard, id)));
            }
        }
        if let (Some(session), Origin::Client { packet_id, .. }) = (session, origin) {
            after = self.remember_now(Record::Inbound { session, packet_id });
        }
        Spread { fate, waits: Waits { after: if answered { after } else { 0 }, others: 0 } }
    }

    /// `true` when the message is the last word on its topic now, and must be stored as that.
    fn retain(
        &mut self,
        now: Instant,
        conn: ConnId,
        publication: &mut Publication<'_>,
        fx: &mut Vec<Effect>,
    ) -> bool {
        let bytes_max = self.config.retained_bytes_max;
        let message = self.stored(now, publication);
        let clears = message.payload.is_empty();
        let registry = &mut self.registries[publication.registry];
        if registry.retained.has_room_for(&message, bytes_max, now) {
            registry.retained.put(message, now);
            if clears {
                let (registry, topic) = (registry.name.clone(), publication.topic.as_str().into());
                self.remember_now(Record::RetainedCleared { registry, topic });
            }
            return !clears;
        }
        // To live subscribers it still goes, as a message like others.
        publication.retain = false;
        publication.stored = None;
        let topic = publication.topic.as_str().to_owned();
        self.report(conn, What::RetainedFull { topic, bytes_max }, fx);
        false
    }

    /// The stored copy of a publication, made when first needed.
    pub(super) fn stored(&mut self, now: Instant, publication: &mut Publication<'_>) -> Arc<Message> {
        if let Some(message) = &publication.stored {
            return Arc::clone(message);
        }
        self.counter += 1;
        let message = Arc::new(Message {
            id: self.config.durable.then(|| self.interest.next_message()),
            registry: self.registries[publication.registry].name.clone(),
            topic: publication.topic.as_str().into(),
            publisher: publication.publisher,
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

    /// The same, counted among what waits in memory here.
    fn kept(&mut self, now: Instant, publication: &mut Publication<'_>) -> Arc<Kept> {
        if let Some(kept) = &publication.kept {
            return Arc::clone(kept);
        }
        let message = self.stored(now, publication);
        let kept = Kept::new(message, &self.registries[publication.registry].room);
        publication.kept = Some(Arc::clone(&kept));
        kept
    }

    /// Who gets a message of this session on this topic, if it is known that it may say it, and that they may
    /// have it.
    fn recall(&mut self, slot: u32, publication: &Publication<'_>) -> Option<To> {
        let now = self.generation(publication.registry);
        let known = self.sessions[slot as usize].known.as_mut()?;
        known.take(publication.topic.as_str(), now).map(|(at, met)| To::Known { at, met })
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
                let known = publisher.known.get_or_insert_default();
                known.remember(publication.topic.as_str(), at, &met);
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
        let may = match &mut route.audience {
            Some(audience) => session.may_have_too(now, voices, publisher, topic, audience),
            // It may, by its rights; they can have ended since.
            None => !session.has_ended(now),
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
        let (conn, behind) = (session.conn, session.is_behind());
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
