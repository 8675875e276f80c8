//! What a client is told of what it said: at once, or when the storage or another shard is done with it;
//! always in the order in which it said it.
//!
//! Source: [MQTT-4.6.0-2], [MQTT-4.6.0-3] (5.0), [MQTT-4.6.0-2], [MQTT-4.6.0-3] (3.1.1).

use std::time::Instant;

use drawbridge_mqtt::codec::{PacketId, ProtocolVersion, ReasonCode};

use super::{Later, Shard};
use crate::effect::{ConnId, Effect};
use crate::report::What;
use crate::storage::Record;

/// An answer to a client.
#[derive(Debug)]
pub(super) enum Speech {
    /// To a publish at QoS 1.
    PubAck { packet_id: PacketId, reason: ReasonCode, text: Option<Box<str>> },
    /// To a publish at QoS 2.
    PubRec { packet_id: PacketId, reason: ReasonCode, text: Option<Box<str>> },
    /// To a PUBREL.
    PubComp { packet_id: PacketId, reason: ReasonCode },
    /// To a PUBREC.
    PubRel { packet_id: PacketId, reason: ReasonCode },
    /// To a SUBSCRIBE.
    SubAck { packet_id: PacketId, codes: Vec<ReasonCode> },
    /// To an UNSUBSCRIBE.
    UnsubAck { packet_id: PacketId, codes: Vec<ReasonCode> },
}

/// An answer that cannot go out yet.
#[derive(Debug)]
pub(super) struct Waiting {
    speech: Speech,
    /// The batch that must be stored.
    after: u64,
    /// How many others must say first that they are done: shards, the edge.
    others: u8,
}

/// What an answer waits for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Waits {
    /// The batch that must be stored; 0 for none.
    pub(super) after: u64,
    /// How many others.
    pub(super) others: u8,
}

impl Waiting {
    /// Whether it is the answer to the publish with this identifier.
    pub(super) fn answers_publish(&self, packet_id: PacketId) -> bool {
        self.speech.answers_publish(packet_id)
    }
}

impl Speech {
    /// The answer to a publish, by whether it was at QoS 2.
    pub(super) fn to_publish(packet_id: PacketId, exactly_once: bool, reason: ReasonCode) -> Self {
        if exactly_once {
            Self::PubRec { packet_id, reason, text: None }
        } else {
            Self::PubAck { packet_id, reason, text: None }
        }
    }

    fn answers_publish(&self, asked: PacketId) -> bool {
        matches!(self, Self::PubAck { packet_id, .. } | Self::PubRec { packet_id, .. } if *packet_id == asked)
    }
}

impl Shard {
    /// Answers a client, now or when its turn has come.
    pub(super) fn say(
        &mut self,
        now: Instant,
        conn: ConnId,
        speech: Speech,
        waits: Waits,
        fx: &mut Vec<Effect>,
    ) {
        let committed = self.outbox.committed;
        let Some(session) = self.session(conn) else { return };
        if session.speeches.is_empty() && waits.after <= committed && waits.others == 0 {
            self.speak_out(now, conn, speech, fx);
            return;
        }
        session.speeches.push_back(Waiting { speech, after: waits.after, others: waits.others });
        if waits.after > committed
            && let Some(slot) = self.session_of(conn)
        {
            self.await_batch(slot, waits.after);
        }
    }

    /// One of the others that the answer to a publish waited for is done. `after`: what is to be stored yet.
    /// `false` when no answer waits.
    pub(super) fn other_is_done(
        &mut self,
        now: Instant,
        slot: u32,
        packet_id: PacketId,
        after: u64,
        refusal: Option<ReasonCode>,
        fx: &mut Vec<Effect>,
    ) -> bool {
        let session = &mut self.sessions[slot as usize];
        let mut waiting = session.speeches.iter_mut();
        let Some(waiting) = waiting.find(|w| w.others > 0 && w.speech.answers_publish(packet_id)) else {
            return false;
        };
        waiting.others -= 1;
        waiting.after = waiting.after.max(after);
        if let (Some(refused), Speech::PubAck { reason, .. } | Speech::PubRec { reason, .. }) =
            (refusal, &mut waiting.speech)
        {
            *reason = refused;
        }
        if after > self.outbox.committed {
            self.await_batch(slot, after);
        }
        self.say_what_is_ready(now, slot, fx);
        true
    }

    /// Says what waited and need not wait any more, up to the first that must.
    pub(super) fn say_what_is_ready(&mut self, now: Instant, slot: u32, fx: &mut Vec<Effect>) {
        let committed = self.outbox.committed;
        loop {
            let Some(session) = self.sessions.get_mut(slot as usize) else { return };
            let Some(conn) = session.conn else { return };
            let held = session.is_held();
            let ready = session.speeches.front().is_some_and(|w| w.others == 0 && w.after <= committed);
            let Some(waiting) = session.speeches.pop_front_if(|_| ready) else { return };
            if session.speeches.is_empty() && session.speeches.capacity() > 64 {
                session.speeches = Default::default();
            }
            let free = held && !session.is_held();
            self.speak_out(now, conn, waiting.speech, fx);
            if free {
                self.later.push_back(Later::Replay(conn));
                fx.push(Effect::Resume { conn });
            }
        }
    }

    fn speak_out(&mut self, now: Instant, conn: ConnId, speech: Speech, fx: &mut Vec<Effect>) {
        match speech {
            Speech::PubAck { packet_id, reason, text } => {
                if self.refuses_in_vain(now, conn, reason, fx) {
                    return;
                }
                self.write(conn, fx, |protocol, out| {
                    protocol.publish_answer(packet_id, reason, text.as_deref(), out);
                });
            }
            Speech::PubRec { packet_id, reason, text } => {
                if let Some(slot) = self.session_of(conn).filter(|_| reason.is_error()) {
                    self.forget_inbound(slot, packet_id);
                }
                if self.refuses_in_vain(now, conn, reason, fx) {
                    return;
                }
                self.write(conn, fx, |protocol, out| {
                    protocol.received_answer(packet_id, reason, text.as_deref(), out);
                });
            }
            Speech::PubComp { packet_id, reason } => {
                self.write(conn, fx, |protocol, out| protocol.complete_answer(packet_id, reason, out));
            }
            Speech::PubRel { packet_id, reason } => {
                self.write(conn, fx, |protocol, out| protocol.release(packet_id, reason, out));
            }
            Speech::SubAck { packet_id, codes } => {
                self.write(conn, fx, |protocol, out| protocol.subscribe_answer(packet_id, codes, out));
                self.catch_up(now, conn, fx);
            }
            Speech::UnsubAck { packet_id, codes } => {
                self.write(conn, fx, |protocol, out| protocol.unsubscribe_answer(packet_id, codes, out));
            }
        }
    }

    /// The exchange has ended with a refusal: the next message under this identifier is another one.
    pub(super) fn forget_inbound(&mut self, slot: u32, packet_id: PacketId) {
        let session = &mut self.sessions[slot as usize];
        let known = session.flow.inbound.len();
        session.flow.inbound.retain(|id| *id != packet_id.get());
        let is_gone = session.flow.inbound.len() < known;
        if let Some(session) = session.stored.as_ref().map(|stored| stored.id).filter(|_| is_gone) {
            self.remember(Record::Released { session, packet_id });
        }
    }

    /// A refusal is said in MQTT 5; 3.1.1 has no word for it, so the connection is closed, as after any
    /// publish that is not allowed (RFC 9431 section 6).
    fn refuses_in_vain(
        &mut self,
        now: Instant,
        conn: ConnId,
        reason: ReasonCode,
        fx: &mut Vec<Effect>,
    ) -> bool {
        let is_old = self.conn(conn).is_some_and(|state| state.protocol.version() == ProtocolVersion::V311);
        if reason.is_error() && is_old {
            self.end(now, conn, What::ControlRefused { reason }, fx);
            return true;
        }
        false
    }
}
