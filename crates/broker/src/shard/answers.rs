//! What clients say of messages that are on their way: PUBACK, PUBREC, PUBREL, PUBCOMP.

use std::time::Instant;

use drawbridge_mqtt::codec::{PacketId, Qos, ReasonCode};

use super::Shard;
use super::flow::Stage;
use super::session::OrderStage;
use super::speech::{Speech, Waits};
use crate::effect::{ConnId, Effect, OrderOutcome};
use crate::storage::Record;

impl Shard {
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
}
