//! The messages on their way to one session at QoS 1 and 2: what is sent and not answered, and what waits
//! behind it. It outlives the connection, if the session does.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use drawbridge_mqtt::codec::{PacketId, Qos};
use drawbridge_names::TopicFilter;

use crate::message::Message;
use crate::storage::{Destination, MessageId, SessionId};

/// The messages of a registry that wait in memory for some session of a shard: each counts once.
#[derive(Debug, Default)]
pub(super) struct Room {
    messages: AtomicUsize,
    bytes: AtomicUsize,
}

impl Room {
    pub(super) fn messages(&self) -> usize {
        self.messages.load(Ordering::Relaxed)
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// A message that waits in memory; all sessions that wait for it share it.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) message: Arc<Message>,
    bytes: usize,
    room: Arc<Room>,
}

impl Kept {
    pub(super) fn new(message: Arc<Message>, room: &Arc<Room>) -> Arc<Self> {
        let bytes = message.bytes();
        room.messages.fetch_add(1, Ordering::Relaxed);
        room.bytes.fetch_add(bytes, Ordering::Relaxed);
        Arc::new(Self { message, bytes, room: Arc::clone(room) })
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.room.messages.fetch_sub(1, Ordering::Relaxed);
        self.room.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A message that a session is owed, and on what terms.
pub(super) struct Owed {
    /// Tells it apart within the shard.
    pub(super) ticket: u64,
    /// Its number in the storage; `None` when it is not stored for this session.
    pub(super) id: Option<MessageId>,
    /// The message, if it is in memory. One that is not is stored.
    pub(super) message: Option<Arc<Kept>>,
    /// What it costs.
    pub(super) bytes: usize,
    pub(super) qos: Qos,
    pub(super) retain: bool,
    /// Subscription identifiers; a first one of 0 is none.
    pub(super) identifiers: (u32, Box<[u32]>),
    /// At QoS 2: the shard that it came from has not yet said that it is stored.
    pub(super) held: bool,
    /// The shared subscription that it came by: another member may have it, if this one goes for good.
    pub(super) share: Option<TopicFilter>,
}

/// What the client is to answer next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The PUBLISH: by PUBACK or PUBREC.
    Publish,
    /// The PUBREL: by PUBCOMP.
    Release,
}

/// A message that has a packet identifier.
pub(super) struct Sent {
    /// Counts the messages of the session; the packet identifier follows from it.
    number: u64,
    /// What to send again on the next connection; nothing for a session that has no other.
    pub(super) owed: Option<Box<Owed>>,
    pub(super) qos: Qos,
    pub(super) stage: Stage,
    /// It was sent before: the next PUBLISH has the DUP flag.
    pub(super) again: bool,
    /// It goes out when this batch is stored.
    pub(super) after: u64,
}

impl Owed {
    /// As it stands in the record of the message.
    pub(super) fn destination(&self, session: SessionId) -> Destination {
        let (first, more) = &self.identifiers;
        let first = Some(*first).filter(|first| *first != 0);
        let identifiers = first.into_iter().chain(more.iter().copied()).collect();
        Destination { session, qos: self.qos, retain: self.retain, identifiers }
    }
}

impl Sent {
    pub(super) fn packet_id(&self) -> PacketId {
        packet_id_of(self.number)
    }
}

#[derive(Default)]
pub(super) struct Flow {
    /// The number of the next message.
    next: u64,
    /// In the order of their numbers. Clients answer in order, so a search ends at the front.
    inflight: VecDeque<Sent>,
    /// So many from the front were sent on this connection; those behind them wait for their turn.
    wired: usize,
    /// Has no identifier yet.
    pub(super) queue: VecDeque<Owed>,
    /// What the queue costs.
    pub(super) queue_bytes: usize,
    /// Messages were asked for, and are not there yet.
    pub(super) fetching: bool,
    /// Identifiers of the client's own messages at QoS 2, until it releases them.
    pub(super) inbound: Vec<u16>,
}

impl Flow {
    /// Whether a message may go out at once: nothing waits before it, and the client takes one more.
    pub(super) fn is_clear(&self, window: usize) -> bool {
        self.queue.is_empty() && self.wired == self.inflight.len() && self.wired < window
    }

    /// Whether one more may have an identifier.
    pub(super) fn has_room(&self, window: usize) -> bool {
        self.inflight.len() < window
    }

    /// Whether something waits for the client or for the storage before it can go out.
    pub(super) fn is_behind(&self) -> bool {
        !self.queue.is_empty() || self.wired < self.inflight.len()
    }

    /// The identifier that [`Self::send`] will use next.
    ///
    /// Numbers less than one round apart have different identifiers. Only when the oldest message is a whole
    /// round behind can an identifier be taken; the window leaves others free. Source: [MQTT-2.2.1-3] (5.0).
    pub(super) fn peek(&mut self) -> PacketId {
        while self.inflight.front().is_some_and(|oldest| self.next - oldest.number >= PACKET_IDS)
            && self.inflight.iter().any(|sent| sent.packet_id() == packet_id_of(self.next))
        {
            self.next += 1;
        }
        packet_id_of(self.next)
    }

    /// The message with the identifier of [`Self::peek`] was written.
    pub(super) fn send(&mut self, qos: Qos, owed: Option<Box<Owed>>) {
        let number = self.next;
        self.next += 1;
        self.inflight.push_back(Sent { number, owed, qos, stage: Stage::Publish, again: true, after: 0 });
        self.wired += 1;
    }

    /// The message with the identifier of [`Self::peek`] will be written once the batch is stored.
    pub(super) fn send_after(&mut self, qos: Qos, owed: Box<Owed>, after: u64) {
        let number = self.next;
        self.next += 1;
        let owed = Some(owed);
        self.inflight.push_back(Sent { number, owed, qos, stage: Stage::Publish, again: false, after });
    }

    /// Takes back a message that had been sent under `packet_id` before the process ended.
    pub(super) fn restore(&mut self, packet_id: PacketId, owed: Box<Owed>, stage: Stage) {
        let wanted = u64::from(packet_id.get()) - 1;
        let ahead = (wanted + PACKET_IDS - self.next % PACKET_IDS) % PACKET_IDS;
        let number = self.next + ahead;
        self.next = number + 1;
        let (qos, owed) = (owed.qos, Some(owed));
        self.inflight.push_back(Sent { number, owed, qos, stage, again: true, after: 0 });
    }

    /// The message with this identifier that was sent on this connection.
    pub(super) fn sent(&mut self, packet_id: PacketId) -> Option<(usize, &mut Sent)> {
        let wired = self.wired;
        // Most clients answer in order.
        let first = self.inflight.front_mut().filter(|sent| wired > 0 && sent.packet_id() == packet_id);
        if first.is_some() {
            return self.inflight.front_mut().map(|sent| (0, sent));
        }
        // All are nearly always within one round: then the identifier tells the number, and numbers are in order.
        let oldest = self.inflight.front()?.number;
        let ahead = (u64::from(packet_id.get()) - 1 + PACKET_IDS - oldest % PACKET_IDS) % PACKET_IDS;
        let mut number = oldest + ahead;
        while number < self.next {
            if let Ok(at) = self.inflight.binary_search_by_key(&number, |sent| sent.number) {
                return self.inflight.get_mut(at).filter(|_| at < wired).map(|sent| (at, sent));
            }
            number += PACKET_IDS;
        }
        None
    }

    /// The identifier under which a stored message was sent, if it waits for its answer at QoS 1.
    pub(super) fn sent_under(&self, message: MessageId) -> Option<PacketId> {
        // It came a moment ago.
        let is_it = |sent: &&Sent| sent.owed.as_ref().is_some_and(|owed| owed.id == Some(message));
        let sent = self.inflight.iter().rev().find(is_it)?;
        (sent.qos == Qos::AtLeastOnce && sent.again).then(|| sent.packet_id())
    }

    /// The client has answered it to its end.
    pub(super) fn done(&mut self, at: usize) -> Option<Sent> {
        let sent = self.inflight.remove(at)?;
        self.wired -= usize::from(at < self.wired);
        if self.inflight.is_empty() && self.inflight.capacity() > INFLIGHT_KEPT {
            self.inflight = VecDeque::new();
        }
        Some(sent)
    }

    /// The next message that has an identifier and was not sent on this connection.
    pub(super) fn unwired(&mut self) -> Option<&mut Sent> {
        self.inflight.get_mut(self.wired)
    }

    /// The message that got its identifier last.
    pub(super) fn last_mut(&mut self) -> Option<&mut Sent> {
        self.inflight.back_mut()
    }

    /// It was written.
    pub(super) fn wire(&mut self) {
        if let Some(sent) = self.inflight.get_mut(self.wired) {
            sent.again = true;
            self.wired += 1;
        }
    }

    /// It will not be written: its exchange is over.
    pub(super) fn drop_unwired(&mut self) -> Option<Sent> {
        self.done(self.wired)
    }

    /// How many were sent on this connection and are not answered.
    pub(super) fn wired(&self) -> usize {
        self.wired
    }

    /// The connection is gone: everything that is not answered goes out again on the next one.
    pub(super) fn disconnect(&mut self) {
        self.wired = 0;
        self.fetching = false;
        self.leave_memory(usize::MAX);
    }

    /// What is stored need not be in memory. Looks no further when it has met `patience` that are not.
    pub(super) fn leave_memory(&mut self, mut patience: usize) {
        for owed in self.owed_mut() {
            if owed.message.is_none() {
                patience -= 1;
                if patience == 0 {
                    return;
                }
            } else if owed.id.is_some() && !owed.held {
                owed.message = None;
            }
        }
    }

    pub(super) fn owed_mut(&mut self) -> impl DoubleEndedIterator<Item = &mut Owed> {
        let sent = self.inflight.iter_mut().filter_map(|sent| sent.owed.as_deref_mut());
        sent.chain(self.queue.iter_mut())
    }

    /// Whether the message may be on its way to the session already.
    pub(super) fn may_owe(&self, id: Option<MessageId>) -> bool {
        let sent = self.inflight.iter().filter_map(|sent| sent.owed.as_deref());
        self.queue.len() > LOOKED_THROUGH || sent.chain(&self.queue).any(|owed| owed.id == id)
    }

    /// What is not answered to its end: the stage, whether it was sent, and the message.
    pub(super) fn unanswered(&self) -> impl Iterator<Item = (Stage, bool, &Owed)> {
        let sent =
            self.inflight.iter().filter_map(|sent| Some((sent.stage, sent.again, sent.owed.as_deref()?)));
        sent.chain(self.queue.iter().map(|owed| (Stage::Publish, false, owed)))
    }

    /// Nobody has this message any more, so it cannot be sent. `true` when its exchange goes on: at QoS 2 the
    /// client may have it, and the identifier is free again only when it has let go of it.
    pub(super) fn forget(&mut self, id: MessageId) -> bool {
        let wired = self.wired;
        let mut at = 0;
        let mut goes_on = false;
        self.inflight.retain_mut(|sent| {
            let is_it = at >= wired && sent.owed.as_ref().is_some_and(|owed| owed.id == Some(id));
            at += 1;
            if is_it && sent.again && sent.qos == Qos::ExactlyOnce {
                sent.stage = Stage::Release;
                goes_on = true;
            }
            !is_it || sent.stage == Stage::Release
        });
        // What is asked for stands at the front of a queue that can be long.
        let at = self.queue.iter().position(|owed| owed.id == Some(id));
        if let Some(owed) = at.and_then(|at| self.queue.remove(at)) {
            self.queue_bytes -= owed.bytes;
        }
        goes_on
    }

    pub(super) fn enqueue(&mut self, owed: Owed) {
        self.queue_bytes += owed.bytes;
        self.queue.push_back(owed);
    }

    pub(super) fn dequeue(&mut self) -> Option<Owed> {
        let owed = self.queue.pop_front()?;
        self.queue_bytes -= owed.bytes;
        if self.queue.is_empty() && self.queue.capacity() > QUEUE_KEPT {
            self.queue = VecDeque::new();
        }
        Some(owed)
    }

    pub(super) fn front(&self) -> Option<&Owed> {
        self.queue.front()
    }

    /// The next messages that are not in memory, in the order in which they are wanted; none while others
    /// are on their way.
    pub(super) fn missing(&self, count_max: usize) -> Vec<MessageId> {
        if self.fetching {
            return Vec::new();
        }
        let waiting = self.inflight.iter().skip(self.wired);
        let waiting = waiting.filter(|sent| sent.stage == Stage::Publish).filter_map(|s| s.owed.as_deref());
        let missing = waiting.chain(self.queue.iter()).filter(|owed| owed.message.is_none());
        missing.filter_map(|owed| owed.id).take(count_max).collect()
    }
}

/// Room for so many messages stays when there are none: most sessions are idle most of the time, and there are
/// very many.
const INFLIGHT_KEPT: usize = 8;
const QUEUE_KEPT: usize = 4;
/// A longer queue is not looked through for one message.
const LOOKED_THROUGH: usize = 64;
/// How many packet identifiers there are.
const PACKET_IDS: u64 = 65_535;

fn packet_id_of(number: u64) -> PacketId {
    u16::try_from(number % PACKET_IDS + 1).ok().and_then(PacketId::new).expect("1 to 65,535")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owed() -> Box<Owed> {
        Box::new(Owed {
            ticket: 0,
            id: Some(MessageId(1)),
            message: None,
            bytes: 1,
            qos: Qos::ExactlyOnce,
            retain: false,
            identifiers: (0, Box::default()),
            held: false,
            share: None,
        })
    }

    #[test]
    fn identifiers_go_round_and_leave_out_those_in_use() {
        let mut flow = Flow::default();
        for n in 0..200_000_u32 {
            let id = flow.peek();
            let taken = u32::from(id.get());
            assert!(n < 3 || taken != 1, "1 is in use since the beginning");
            flow.send(Qos::AtLeastOnce, None);
            if n > 0 {
                let (at, _) = flow.sent(id).expect("sent");
                flow.done(at);
            }
        }
        assert_eq!(flow.wired(), 1);
    }

    #[test]
    fn what_was_sent_before_a_restart_keeps_its_identifier_and_its_order() {
        let mut flow = Flow::default();
        let ids: Vec<PacketId> = [65_534, 65_535, 1, 7].into_iter().filter_map(PacketId::new).collect();
        ids.iter().for_each(|id| flow.restore(*id, owed(), Stage::Publish));
        assert!(flow.is_behind() && !flow.is_clear(10));
        for id in &ids {
            assert_eq!(flow.unwired().map(|sent| sent.packet_id()), Some(*id));
            flow.wire();
        }
        assert_eq!(flow.peek().get(), 8);
        let (at, _) = flow.sent(ids[1]).expect("sent");
        flow.done(at);
        assert_eq!((flow.wired(), flow.sent(ids[1]).is_none()), (3, true));
    }
}
