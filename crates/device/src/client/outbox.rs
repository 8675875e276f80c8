//! What is published and not acknowledged yet: in order, bounded, over any number of connections.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use drawbridge_mqtt::codec::{PacketId, Qos};

use super::store::Store;
use crate::DeviceError;

/// How much may wait for a connection, and what happens beyond it.
#[derive(Debug, Clone)]
pub struct Queue {
    /// Most messages. Default 1,000.
    pub messages_max: usize,
    /// Most bytes of their topics and payloads. Default 1 MiB.
    pub bytes_max: usize,
    /// What happens to one more.
    pub overflow: Overflow,
    /// A folder in which messages of QoS 1 and 2 are kept until they are acknowledged, so that they outlive the
    /// process and a power cut. It belongs to one client at a time; a second is refused. Each message costs a file and two syncs.
    pub folder: Option<std::path::PathBuf>,
}

impl Default for Queue {
    fn default() -> Self {
        Self { messages_max: 1000, bytes_max: 1 << 20, overflow: Overflow::RefuseNewest, folder: None }
    }
}

/// What happens to a message that finds the queue full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overflow {
    /// It is refused ([`DeviceError::QueueFull`]); what was taken is never lost. The default.
    RefuseNewest,
    /// The oldest that were not sent yet make room for it; who waits for them is told [`DeviceError::Dropped`].
    DropOldest,
}

/// What becomes of one publish. It need not be looked at.
#[derive(Debug, Clone)]
pub struct Delivery(Arc<Outcome>);

#[derive(Debug, Default)]
struct Outcome {
    end: Mutex<Option<End>>,
    changed: Condvar,
}

/// How a publish ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    Done,
    Refused { code: u8, why: String },
    Dropped,
    Stopped,
}

impl Delivery {
    pub(crate) fn new() -> Self {
        Self(Arc::default())
    }

    pub(crate) fn end(&self, end: End) {
        *self.0.end.lock().unwrap_or_else(PoisonError::into_inner) = Some(end);
        self.0.changed.notify_all();
    }

    /// Whether it has ended, well or not.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.0.end.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Waits until the server has acknowledged (QoS 1: PUBACK, QoS 2: PUBCOMP), or, at QoS 0, the message has been
    /// handed to the connection.
    ///
    /// # Errors
    /// [`DeviceError::Refused`] when the server refuses it (MQTT 5), [`DeviceError::Dropped`],
    /// [`DeviceError::Stopped`], [`DeviceError::TimedOut`] when it is still under way.
    pub fn wait(&self, limit: Duration) -> Result<(), DeviceError> {
        let end = self.0.end.lock().unwrap_or_else(PoisonError::into_inner);
        let (end, _) = self
            .0
            .changed
            .wait_timeout_while(end, limit, |end| end.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        match end.clone() {
            Some(End::Done) => Ok(()),
            Some(End::Refused { code, why }) => Err(DeviceError::Refused { code, why, server_time_s: None }),
            Some(End::Dropped) => Err(DeviceError::Dropped),
            Some(End::Stopped) => Err(DeviceError::Stopped),
            None => Err(DeviceError::TimedOut { what: "PUBLISH", seconds: limit.as_secs() }),
        }
    }
}

/// One message to be sent.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing {
    pub(crate) topic: String,
    pub(crate) payload: Arc<[u8]>,
    pub(crate) qos: Qos,
    pub(crate) retain: bool,
    stage: Stage,
    delivery: Delivery,
    /// Its file.
    stored: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Waiting,
    /// Sent and not answered.
    Sent(PacketId),
    /// PUBREC came: the server has it, and PUBREL is on its way.
    Released(PacketId),
}

impl Outgoing {
    fn bytes(&self) -> usize {
        self.topic.len() + self.payload.len()
    }
}

/// What [`Outbox::next`] gives to be sent.
#[derive(Debug)]
pub(crate) enum Send {
    Publish { message: Outgoing, id: Option<PacketId>, dup: bool },
    Release(PacketId),
}

/// All of it. What is in flight stands before what waits.
#[derive(Debug)]
pub(crate) struct Outbox {
    queue: Queue,
    entries: VecDeque<Outgoing>,
    bytes: usize,
    in_flight: usize,
    ids: HashSet<u16>,
    last_id: u16,
    /// How many in flight are to be sent again, from the front.
    again: usize,
    store: Option<Store>,
}

impl Outbox {
    pub(crate) fn open(queue: Queue) -> Result<Self, DeviceError> {
        let mut outbox = Self {
            entries: VecDeque::new(),
            bytes: 0,
            in_flight: 0,
            ids: HashSet::new(),
            last_id: 0,
            again: 0,
            store: None,
            queue,
        };
        if let Some(folder) = &outbox.queue.folder {
            let (store, kept) = Store::open(folder)?;
            outbox.store = Some(store);
            for (number, kept) in kept {
                let entry = Outgoing {
                    topic: kept.topic,
                    payload: kept.payload.into(),
                    qos: kept.qos,
                    retain: kept.retain,
                    stage: Stage::Waiting,
                    delivery: Delivery::new(),
                    stored: Some(number),
                };
                outbox.bytes += entry.bytes();
                outbox.entries.push_back(entry);
            }
        }
        Ok(outbox)
    }

    /// How many messages wait or are under way.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Takes one more, or says why not; and how many made room for it.
    pub(crate) fn push(
        &mut self,
        topic: &str,
        payload: &[u8],
        qos: Qos,
        retain: bool,
    ) -> Result<(Delivery, usize), DeviceError> {
        let mut dropped = 0;
        let more = topic.len() + payload.len();
        let fits = |outbox: &Self| {
            outbox.entries.len() < outbox.queue.messages_max && outbox.bytes + more <= outbox.queue.bytes_max
        };
        if self.queue.overflow == Overflow::DropOldest && more <= self.queue.bytes_max {
            while !fits(self) && self.in_flight < self.entries.len() {
                self.remove(self.in_flight, End::Dropped);
                dropped += 1;
            }
        }
        if !fits(self) {
            return Err(DeviceError::QueueFull { messages: self.entries.len(), bytes: self.bytes });
        }
        let stored = match &mut self.store {
            Some(store) if qos != Qos::AtMostOnce => Some(store.keep(topic, payload, qos, retain)?),
            _ => None,
        };
        let delivery = Delivery::new();
        self.bytes += more;
        self.entries.push_back(Outgoing {
            topic: topic.to_owned(),
            payload: payload.into(),
            qos,
            retain,
            stage: Stage::Waiting,
            delivery: delivery.clone(),
            stored,
        });
        Ok((delivery, dropped))
    }

    /// What to send next, if fewer than `window` are in flight.
    pub(crate) fn next(&mut self, window: usize) -> Option<Send> {
        while self.again > 0 {
            let entry = &self.entries[self.in_flight - self.again];
            self.again -= 1;
            match entry.stage {
                Stage::Sent(id) => {
                    return Some(Send::Publish { message: entry.clone(), id: Some(id), dup: true });
                }
                Stage::Released(id) => return Some(Send::Release(id)),
                Stage::Waiting => {}
            }
        }
        let entry = self.entries.get(self.in_flight)?;
        if entry.qos == Qos::AtMostOnce {
            let message = entry.clone();
            self.remove(self.in_flight, End::Done);
            return Some(Send::Publish { message, id: None, dup: false });
        }
        if self.in_flight >= window {
            return None;
        }
        let id = self.free_id();
        let entry = &mut self.entries[self.in_flight];
        entry.stage = Stage::Sent(id);
        self.in_flight += 1;
        Some(Send::Publish { message: entry.clone(), id: Some(id), dup: false })
    }

    /// A packet identifier that is in no use; give it back with [`Self::give_back`].
    pub(crate) fn free_id(&mut self) -> PacketId {
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            // Far fewer than 65,535 are ever in use: the window and a few requests.
            if self.ids.insert(self.last_id) {
                return PacketId::new(self.last_id).expect("counted from 1");
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn ids_in_use(&self) -> usize {
        self.ids.len()
    }

    pub(crate) fn give_back(&mut self, id: PacketId) {
        self.ids.remove(&id.get());
    }

    /// PUBACK, PUBCOMP, or a PUBREC that refuses; answers whether it was owed.
    pub(crate) fn acknowledged(&mut self, id: PacketId, code: u8, why: &str) -> bool {
        let Some(at) = self.position(id) else { return false };
        let end = if code < 0x80 { End::Done } else { End::Refused { code, why: why.to_owned() } };
        self.ids.remove(&id.get());
        if at >= self.in_flight - self.again {
            self.again -= 1; // answered before it was sent again
        }
        self.in_flight -= 1;
        self.remove(at, end);
        true
    }

    /// PUBREC that takes the message: PUBREL is to be sent, whatever is here.
    pub(crate) fn received(&mut self, id: PacketId) {
        if let Some(at) = self.position(id) {
            self.entries[at].stage = Stage::Released(id);
        }
    }

    /// A new connection begins; `kept`: the server has our session.
    pub(crate) fn resume(&mut self, kept: bool) {
        self.ids.clear();
        if kept {
            self.again = self.in_flight;
            self.ids.extend(self.entries.iter().filter_map(|entry| match entry.stage {
                Stage::Sent(id) | Stage::Released(id) => Some(id.get()),
                Stage::Waiting => None,
            }));
            return;
        }
        // What was released, the server has: it acknowledged with PUBREC. The others begin anew.
        while let Some(at) = self.entries.iter().position(|entry| matches!(entry.stage, Stage::Released(_))) {
            self.remove(at, End::Done);
        }
        for entry in &mut self.entries {
            entry.stage = Stage::Waiting;
        }
        (self.in_flight, self.again) = (0, 0);
    }

    /// The connection ended: what may be lost is.
    pub(crate) fn disconnected(&mut self) {
        while let Some(at) = self.entries.iter().position(|entry| entry.qos == Qos::AtMostOnce) {
            self.remove(at, End::Dropped);
        }
    }

    /// Nobody will send any more. What is in files stays there.
    pub(crate) fn stop(&mut self) {
        for entry in self.entries.drain(..) {
            entry.delivery.end(End::Stopped);
        }
        self.store = None; // the next client may have it
        self.bytes = 0;
    }

    fn position(&self, id: PacketId) -> Option<usize> {
        let has =
            |entry: &Outgoing| matches!(entry.stage, Stage::Sent(own) | Stage::Released(own) if own == id);
        self.entries.iter().take(self.in_flight).position(has)
    }

    fn remove(&mut self, at: usize, end: End) {
        let Some(entry) = self.entries.remove(at) else { return };
        self.bytes -= entry.bytes();
        if let (Some(store), Some(number)) = (&mut self.store, entry.stored) {
            store.forget(number);
        }
        entry.delivery.end(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outbox(queue: Queue) -> Outbox {
        Outbox::open(queue).expect("opens")
    }

    fn push(outbox: &mut Outbox, text: &str, qos: Qos) -> Delivery {
        outbox.push("t", text.as_bytes(), qos, false).expect("taken").0
    }

    /// Payload, identifier and DUP of all that is to be sent.
    fn sent(outbox: &mut Outbox, window: usize) -> Vec<(String, Option<u16>, bool)> {
        std::iter::from_fn(|| outbox.next(window))
            .map(|send| match send {
                Send::Publish { message, id, dup } => {
                    (String::from_utf8_lossy(&message.payload).into_owned(), id.map(PacketId::get), dup)
                }
                Send::Release(id) => ("release".to_owned(), Some(id.get()), false),
            })
            .collect()
    }

    fn id(number: u16) -> PacketId {
        PacketId::new(number).expect("not 0")
    }

    #[test]
    fn what_is_not_acknowledged_is_sent_again_in_its_order_with_its_identifier() {
        let mut outbox = outbox(Queue::default());
        for text in ["a", "b", "c"] {
            push(&mut outbox, text, Qos::AtLeastOnce);
        }
        push(&mut outbox, "d", Qos::ExactlyOnce);
        let row = |text: &str, id, dup| (text.to_owned(), Some(id), dup);
        assert_eq!(sent(&mut outbox, 3), [row("a", 1, false), row("b", 2, false), row("c", 3, false)]);
        assert!(outbox.acknowledged(id(2), 0, ""));
        assert!(!outbox.acknowledged(id(2), 0, ""), "once");
        assert_eq!(sent(&mut outbox, 3), [row("d", 4, false)]);
        outbox.received(id(4));
        outbox.resume(true);
        assert_eq!(
            sent(&mut outbox, 3),
            [row("a", 1, true), row("c", 3, true), ("release".into(), Some(4), false)]
        );
        // The server has lost the session: what it had received is done, the rest is new.
        outbox.resume(false);
        assert_eq!(sent(&mut outbox, 3), [row("a", 5, false), row("c", 6, false)]);
        assert_eq!(outbox.len(), 2);
    }

    #[test]
    fn each_publish_is_told_how_it_ended() {
        let mut outbox = outbox(Queue::default());
        let one = push(&mut outbox, "1", Qos::AtLeastOnce);
        let two = push(&mut outbox, "2", Qos::AtLeastOnce);
        let lost = push(&mut outbox, "0", Qos::AtMostOnce);
        assert_eq!(outbox.next(1).map(|_| ()), Some(()));
        outbox.disconnected();
        assert!(matches!(lost.wait(Duration::ZERO), Err(DeviceError::Dropped)));
        assert!(outbox.acknowledged(id(1), 0x87, "no"));
        assert!(matches!(one.wait(Duration::ZERO), Err(DeviceError::Refused { code: 0x87, .. })));
        assert!(matches!(two.wait(Duration::ZERO), Err(DeviceError::TimedOut { .. })));
        outbox.stop();
        assert!(matches!(two.wait(Duration::ZERO), Err(DeviceError::Stopped)));
    }

    #[test]
    fn a_full_queue_refuses_the_newest_or_drops_the_oldest_that_was_not_sent() {
        let limits = |overflow| Queue { messages_max: 3, bytes_max: 10, overflow, folder: None };
        let mut strict = outbox(limits(Overflow::RefuseNewest));
        for _ in 0..3 {
            push(&mut strict, "1", Qos::AtLeastOnce);
        }
        let refused = strict.push("t", b"1", Qos::AtLeastOnce, false);
        assert!(matches!(refused, Err(DeviceError::QueueFull { messages: 3, bytes: 6 })), "{refused:?}");

        let mut sensor = outbox(limits(Overflow::DropOldest));
        let flying = push(&mut sensor, "1", Qos::AtLeastOnce);
        assert_eq!(sent(&mut sensor, 1).len(), 1);
        let (second, third) =
            (push(&mut sensor, "2", Qos::AtLeastOnce), push(&mut sensor, "3", Qos::AtLeastOnce));
        let (long, dropped) = sensor.push("t", b"44444", Qos::AtLeastOnce, false).expect("taken");
        assert_eq!(dropped, 1, "the caller can be told");
        assert!(matches!(second.wait(Duration::ZERO), Err(DeviceError::Dropped)), "the oldest that waits");
        assert!(!flying.is_over() && !third.is_over() && !long.is_over());
        assert!(matches!(
            sensor.push("t", &[0; 10], Qos::AtLeastOnce, false),
            Err(DeviceError::QueueFull { .. })
        ));
        assert_eq!(sensor.len(), 3, "one that can never fit costs nothing");
    }

    #[test]
    fn what_is_kept_in_a_folder_is_there_after_the_process_has_ended() {
        let place = tempfile::tempdir().expect("a folder");
        let queue = Queue { folder: Some(place.path().join("queue")), ..Queue::default() };
        let mut first = outbox(queue.clone());
        for (text, qos) in [("a", Qos::AtLeastOnce), ("0", Qos::AtMostOnce), ("b", Qos::ExactlyOnce)] {
            push(&mut first, text, qos);
        }
        assert_eq!(sent(&mut first, 1).len(), 2, "QoS 0 needs no window");
        assert!(first.acknowledged(id(1), 0, ""));
        drop(first);
        let mut second = outbox(queue.clone());
        push(&mut second, "c", Qos::AtLeastOnce);
        assert_eq!(sent(&mut second, 9), [("b".into(), Some(1), false), ("c".into(), Some(2), false)]);
        let refused = Outbox::open(queue.clone()).expect_err("one client at a time");
        assert!(matches!(refused, DeviceError::File { .. }), "{refused:?}");
        second.stop();
        assert_eq!(outbox(queue).len(), 2, "a stop loses nothing");
    }
}
