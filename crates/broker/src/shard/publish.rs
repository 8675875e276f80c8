//! From a message to where it goes: the retained store, other shards, the edge, the storage; and, by `readers.rs`, the
//! readers here.

use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use drawbridge_mqtt::codec::{PacketId, ProtocolVersion, Qos, ReasonCode};
use drawbridge_mqtt::connection::{Inbound, InboundTopic};
use drawbridge_names::{PrincipalKind, PrincipalName, TopicName};
use drawbridge_policy::Rights;

use super::Shard;
use super::authz_info::AUTHZ_INFO_TOPIC;
use super::flow::Kept;
use super::outgoing::{Publication, inner_topic, stored};
use super::ping::PING_TOPIC;
use super::readers::{Fate, Owing, To};
use super::renew::AUTH_TOPIC;
use super::speech::{Speech, Waits};
use super::stored::{Asker, Gather, Waiter};
use crate::deliver::may_publish;
use crate::effect::{ConnId, ControlAck, ControlKind, ControlPublish, Crossing, Effect};
use crate::message::Message;
use crate::report::What;
use crate::storage::{Record, SessionId};

/// Who speaks in a message that came from a client.
pub(super) struct Speaker<'a> {
    pub(super) name: &'a PrincipalName,
    pub(super) kind: PrincipalKind,
    pub(super) rights: &'a Rights,
    /// It is a will that speaks.
    pub(super) will: bool,
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

/// What became of a message on its way to all.
pub(super) struct Spread {
    /// For the addressee of an order.
    pub(super) fate: Fate,
    pub(super) waits: Waits,
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
        if self.config.takes_authz_info && topic.as_str() == AUTHZ_INFO_TOPIC {
            // A token of somebody who has logged in besides: nobody may see it, and nobody waits for it.
            let rule = "tokens are published here by who has not logged in".to_owned();
            let what = What::PublishDenied { topic: AUTHZ_INFO_TOPIC.to_owned(), rule };
            let origin = match inbound.packet_id {
                Some(packet_id) => Origin::Client { slot, packet_id, exactly_once },
                None => Origin::Unanswered,
            };
            self.refuse_publish(now, conn, origin, ReasonCode::NotAuthorized, what, fx);
            return;
        }
        if topic.is_dollar() && topic.as_str() == PING_TOPIC {
            self.on_ping_publish(now, conn, slot, inbound, fx);
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
        if let Err(rule) = self.pace(now, conn, slot, topic.as_str().len() + inbound.payload.len()) {
            let what = What::PublishDenied { topic: topic.as_str().to_owned(), rule };
            self.refuse_publish(now, conn, origin, ReasonCode::QuotaExceeded, what, fx);
            return;
        }
        let spoken = match self.recall(slot, &publication) {
            Some(met) => Ok(Spoken::Routed(self.spread(now, conn, &mut publication, met, origin, fx).waits)),
            None => {
                let session = &self.sessions[slot as usize];
                let (rights, name, kind) = (Arc::clone(&session.rights), session.name.clone(), session.kind);
                let speaker = Speaker { name: &name, kind, rights: &rights, will: false };
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
        // On another connection: what was asked for it then is asked for it still.
        if let Some(id) = session.stored.as_ref().map(|stored| stored.id) {
            waits.others += u8::from(self.handed.contains(&(id, packet_id)));
            for gather in self.gathers.values_mut() {
                if let Asker::Client { owner_epoch: asked, packet_id: of, inbound: Some(by), .. } =
                    &mut gather.asker
                    && (*by, *of) == (id, packet_id)
                {
                    *asked = owner_epoch;
                    waits.others += 1;
                }
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
        let message = publication.facts(speaker.will);
        may_publish(Some(speaker.rights), &registry.voices, uid, publication.topic, &message)?;
        let Some((device, kind)) = ControlKind::of(publication.topic.as_str()) else {
            // What a session that is away found out is of no use to it.
            let readers = if matches!(origin, Origin::Nobody) { To::FindAgain } else { To::Find };
            return Ok(Spoken::Routed(self.spread(now, conn, publication, readers, origin, fx).waits));
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
        // Commands and configurations come back as orders, once they are recorded; that one came at QoS 2 is
        // stored after that (`control_done`). The other way round a crash between the two would lose it, and its
        // client, saying it again, would be told that it has been taken.
        let waits = match publish.kind {
            ControlKind::State => self.spread(now, conn, publication, To::FindAgain, origin, fx).waits,
            ControlKind::Command { .. } | ControlKind::Config => Waits::default(),
        };
        let ack = match origin {
            Origin::Nobody | Origin::Order(_) => None,
            Origin::Unanswered => Some(ControlAck { packet_id: None, inbound: None }),
            Origin::Client { packet_id, .. } => {
                let inbound = self.stored_inbound(origin);
                self.handed.extend(inbound.map(|session| (session, packet_id)));
                Some(ControlAck { packet_id: Some(packet_id), inbound })
            }
        };
        fx.push(Effect::Control { conn, ack, publish });
        Ok(Spoken::Handed(waits))
    }

    /// The stored session that says it at QoS 2, and must remember that it did.
    fn stored_inbound(&self, origin: Origin) -> Option<SessionId> {
        let Origin::Client { slot, exactly_once: true, .. } = origin else { return None };
        self.sessions[slot as usize].stored.as_ref().map(|stored| stored.id)
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
            let shards = mem::take(&mut owing.shards);
            // A member of a group on another shard waits to hear of it.
            self.store_message(&own, mem::take(&mut owing.to), false, !shards.is_empty(), place);
            if let Some(id) = own.id {
                self.await_stored(shards.into_iter().map(|shard| Waiter::Tell(shard, id)));
            }
        }
        if let Some((asker, token)) = gather {
            self.answer_gather(asker, token, message, owing, fx);
        }
    }

    /// To the retained store, to the other shards, to the subscribers here.
    pub(super) fn spread(
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
        let session = self.stored_inbound(origin);
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
        let (clears, id) = (message.payload.is_empty(), message.id);
        let registry = &mut self.registries[publication.registry];
        if registry.retained.has_room_for(&message, bytes_max, now) {
            registry.retained.put(message, now);
            if let Some(id) = id.filter(|_| clears) {
                let (registry, topic) = (registry.name.clone(), publication.topic.as_str().into());
                self.remember_now(Record::RetainedCleared { id, registry, topic });
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
    pub(super) fn kept(&mut self, now: Instant, publication: &mut Publication<'_>) -> Arc<Kept> {
        if let Some(kept) = &publication.kept {
            return Arc::clone(kept);
        }
        let message = self.stored(now, publication);
        let kept = Kept::new(message, &self.registries[publication.registry].room);
        publication.kept = Some(Arc::clone(&kept));
        kept
    }
}
