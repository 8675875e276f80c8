//! Messages in both directions, and their acknowledgements.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use drawbridge_mqtt::codec::{
    Ack, Packet, PacketId, Publish, Qos, ReasonCode, Subscribe, SubscribeEntry, Unsubscribe, UserProperties,
};
use drawbridge_names::TopicName;

use super::super::inbox::Receipt;
use super::super::outbox::Send;
use super::super::{Event, Incoming, State};
use super::renewing::{Door, Renewal};
use super::{Open, Worker};
use crate::DeviceError;

/// So many of our own publishes are under way at once, if the server takes as many.
const WINDOW_MAX: usize = 64;
/// So much is handed to the connection before what came is looked at again, in bytes.
const ROUND_BYTES: usize = 1 << 16;

impl Worker {
    pub(super) fn send(&self, open: &mut Open, packet: &Packet<'_>) -> Result<(), DeviceError> {
        open.link.send(packet)?;
        open.last_sent = self.now();
        Ok(())
    }

    pub(super) fn subscribe(
        &self,
        open: &mut Open,
        id: PacketId,
        filter: &str,
        qos: Qos,
    ) -> Result<(), DeviceError> {
        self.send(
            open,
            &Packet::Subscribe(Subscribe {
                packet_id: id,
                subscription_identifier: None,
                user_properties: UserProperties::default(),
                entries: vec![SubscribeEntry::of(filter, qos)],
            }),
        )
    }

    /// Sends what the calls have left; answers whether there is more that could be sent now.
    pub(super) fn give(&mut self, open: &mut Open) -> Result<bool, DeviceError> {
        self.acknowledge(open)?;
        loop {
            let asked = {
                let mut state = self.shared.lock();
                let State { inbox, outbox, .. } = &mut *state;
                inbox.next_wanted(|| outbox.free_id())
            };
            let Some((id, filter, qos)) = asked else { break };
            self.subscribe(open, id, &filter, qos)?;
        }
        loop {
            let (filter, id) = {
                let mut state = self.shared.lock();
                let Some(filter) = state.inbox.next_unwanted() else { break };
                (filter, state.outbox.free_id())
            };
            let user_properties = UserProperties::default();
            let packet = Unsubscribe { packet_id: id, user_properties, filters: vec![&filter] };
            self.send(open, &Packet::Unsubscribe(packet))?;
        }
        let window = WINDOW_MAX.min(usize::from(open.accepted.receive_maximum));
        while open.link.unsent() < ROUND_BYTES {
            if open.link.is_stuck() {
                return Ok(false); // the socket says when it takes more
            }
            let next = self.shared.lock().outbox.next(window);
            match next {
                None => {
                    self.shared.changed.notify_all();
                    return Ok(false);
                }
                Some(Send::Release(id)) => self.send(open, &Packet::PubRel(Ack::success(id)))?,
                Some(Send::Publish { message, id, dup }) => {
                    let qos = message.qos.min(open.accepted.maximum_qos);
                    let topic =
                        TopicName::parse(&message.topic).map_err(|e| DeviceError::Protocol(e.to_string()))?;
                    let too_large =
                        message.topic.len() + message.payload.len() + 16 > open.accepted.packet_bytes_max;
                    if too_large || (qos == Qos::AtMostOnce && id.is_some()) {
                        if let Some(id) = id {
                            let why = if too_large {
                                "larger than the server takes"
                            } else {
                                "the server takes QoS 0 only"
                            };
                            self.shared.lock().outbox.acknowledged(id, 0x95, why);
                        }
                        continue;
                    }
                    self.send(
                        open,
                        &Packet::Publish(Publish {
                            dup,
                            qos,
                            retain: message.retain,
                            topic: Some(topic),
                            packet_id: id,
                            properties: Default::default(),
                            payload: &message.payload,
                        }),
                    )?;
                }
            }
        }
        Ok(true)
    }

    /// Acknowledges what the application is done with, in the order in which it came.
    ///
    /// Source: [MQTT-4.6.0-2] (both versions).
    pub(super) fn acknowledge(&mut self, open: &mut Open) -> Result<(), DeviceError> {
        let done = std::mem::take(&mut self.shared.lock().done);
        for (_, id, refused) in done.into_iter().filter(|(epoch, ..)| *epoch == self.epoch) {
            // The server gives no identifier to two messages at once, whatever their QoS.
            // One whose PUBREL has not come yet is answered when it does.
            if let Some(released) = open.held.remove(&id.get()) {
                if released {
                    self.send(open, &Packet::PubComp(Ack::success(id)))?;
                }
                continue;
            }
            if let Some(owed) = open.owed.iter_mut().find(|(owed, done)| *owed == id && done.is_none()) {
                owed.1 = Some(refused);
            }
        }
        while let Some((id, Some(refused))) = open.owed.front().copied() {
            open.owed.pop_front();
            let reason = if refused { ReasonCode::ImplementationSpecificError } else { ReasonCode::Success };
            self.send(open, &Packet::PubAck(Ack::of(id, reason)))?;
        }
        Ok(())
    }

    pub(super) fn message(
        &mut self,
        open: &mut Open,
        mut message: Incoming,
        id: Option<PacketId>,
    ) -> Result<(), DeviceError> {
        match (message.qos, id) {
            (Qos::AtLeastOnce, Some(id)) => {
                open.owed.push_back((id, None));
                message.receipt = Some(self.receipt(id));
            }
            (Qos::ExactlyOnce, Some(id)) => {
                self.send(open, &Packet::PubRec(Ack::success(id)))?;
                if !self.received.insert(id.get()) {
                    return Ok(());
                }
                open.held.insert(id.get(), false);
                message.receipt = Some(self.receipt(id));
            }
            _ => {}
        }
        self.shared.lock().inbox.deliver(&message);
        // Here, without the lock, a message for nobody is dropped and thereby acknowledged.
        drop(message);
        Ok(())
    }

    fn receipt(&self, id: PacketId) -> Arc<Receipt> {
        let refused = AtomicBool::new(false);
        Arc::new(Receipt { shared: Arc::downgrade(&self.shared), epoch: self.epoch, id, refused })
    }

    pub(super) fn subscribed(&mut self, open: &mut Open, id: PacketId, code: u8, why: String) {
        if open.result_asked == Some(id) {
            self.shared.lock().outbox.give_back(id);
            // A server that does not know the topic does not renew over it. MQTT 5 would hear of it by PUBACK as well.
            if code >= 0x80 {
                open.doors.retain(|door| *door != Door::Topic);
                if let Renewal::Sent { deadline, .. } = &mut open.renewal {
                    *deadline = Duration::ZERO; // nobody will answer
                }
            }
            return;
        }
        if open.nonce_asked == Some(id) {
            open.nonce_asked = None;
            self.shared.lock().outbox.give_back(id);
            if code >= 0x80 {
                open.without_nonce = true;
                if let Renewal::Nonce { deadline } = &mut open.renewal {
                    *deadline = Duration::ZERO; // now, without one
                }
            }
            return;
        }
        let refused = {
            let mut state = self.shared.lock();
            state.outbox.give_back(id);
            state.inbox.answered(id, code, &why)
        };
        if let Some(filter) = refused {
            self.shared.tell(&Event::SubscriptionRefused { filter, code, why });
        }
    }
}
