//! Subscriptions, and what comes for them. A message is acknowledged when the application is done with it.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::Duration;

use drawbridge_mqtt::codec::{PacketId, Qos};
use drawbridge_names::{TopicFilter, TopicName};

use super::Shared;
use crate::DeviceError;

/// So many messages wait for the application before those of QoS 0 are dropped. Those of QoS 1 and 2 are bounded by what
/// the client tells the server it takes at once.
const QOS_0_MAX: usize = 1000;
/// The same in bytes of topics and payloads.
const QOS_0_BYTES_MAX: usize = 4 << 20;

/// A message that came in. One of QoS 1 is acknowledged when it is dropped, with its clones: what the application was
/// not done with when it died comes again. One of QoS 2 is taken over when it comes (PUBREC), and comes once; the handshake
/// ends (PUBCOMP) when it is dropped, so no more of them wait here than the client takes at once.
#[derive(Clone)]
pub struct Incoming {
    /// Where it was published.
    pub topic: String,
    /// Its bytes.
    pub payload: Vec<u8>,
    /// QoS at which it came.
    pub qos: Qos,
    /// Whether it is a retained message sent on subscribing.
    pub retain: bool,
    /// Where to answer, and what the answer should repeat; MQTT 5.
    pub response_topic: Option<String>,
    /// What the answer should repeat.
    pub correlation_data: Option<Vec<u8>>,
    /// What the payload is.
    pub content_type: Option<String>,
    /// User properties, in their order.
    pub user_properties: Vec<(String, String)>,
    pub(crate) receipt: Option<Arc<Receipt>>,
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming")
            .field("topic", &self.topic)
            .field("bytes", &self.payload.len())
            .field("qos", &self.qos)
            .field("retain", &self.retain)
            .finish_non_exhaustive()
    }
}

impl Incoming {
    fn bytes(&self) -> usize {
        self.topic.len() + self.payload.len()
    }

    /// Refuses it: who sent a command is told that the device rejects it. In 3.1.1, and at QoS 0, nobody can be told
    /// so, and it is acknowledged.
    pub fn refuse(self) {
        if let Some(receipt) = &self.receipt {
            receipt.refused.store(true, std::sync::atomic::Ordering::Release);
        }
    }
}

/// Tells the worker when the last holder of a message is done.
pub(crate) struct Receipt {
    pub(crate) shared: Weak<Shared>,
    /// Which connection it came over: later ones do not know its identifier.
    pub(crate) epoch: u64,
    pub(crate) id: PacketId,
    pub(crate) refused: std::sync::atomic::AtomicBool,
}

impl Drop for Receipt {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            let refused = self.refused.load(std::sync::atomic::Ordering::Acquire);
            shared.lock().done.push((self.epoch, self.id, refused));
            shared.wake();
        }
    }
}

/// A subscription: an iterator over its messages that ends with the client. Dropping it unsubscribes.
pub struct Subscription {
    shared: Weak<Shared>,
    number: u64,
    filter: String,
    mailbox: Arc<Mailbox>,
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("filter", &self.filter).finish_non_exhaustive()
    }
}

#[derive(Default)]
pub(crate) struct Mailbox {
    content: Mutex<Content>,
    changed: Condvar,
}

#[derive(Default)]
struct Content {
    messages: VecDeque<Incoming>,
    /// Of their topics and payloads.
    bytes: usize,
    /// What SUBACK said, of the last connection that asked.
    answer: Option<Result<Qos, (u8, String)>>,
    closed: bool,
}

impl Content {
    fn take(&mut self) -> Option<Incoming> {
        let message = self.messages.pop_front()?;
        self.bytes -= message.bytes();
        Some(message)
    }
}

impl Mailbox {
    fn lock(&self) -> std::sync::MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, message: Incoming) {
        let mut content = self.lock();
        let bytes = content.bytes + message.bytes();
        let is_full = content.messages.len() >= QOS_0_MAX || bytes > QOS_0_BYTES_MAX;
        if message.qos == Qos::AtMostOnce && is_full {
            return;
        }
        content.bytes = bytes;
        content.messages.push_back(message);
        drop(content);
        self.changed.notify_all();
    }

    fn answered(&self, answer: Result<Qos, (u8, String)>) {
        self.lock().answer = Some(answer);
        self.changed.notify_all();
    }

    fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }
}

impl Subscription {
    pub(crate) fn new(shared: Weak<Shared>, number: u64, filter: String, mailbox: Arc<Mailbox>) -> Self {
        Self { shared, number, filter, mailbox }
    }

    /// The topic filter.
    #[must_use]
    pub fn filter(&self) -> &str {
        &self.filter
    }

    /// Waits until the server has granted it, and answers at which QoS.
    ///
    /// # Errors
    /// [`DeviceError::Refused`] with the reason of SUBACK, [`DeviceError::Stopped`], [`DeviceError::TimedOut`].
    pub fn granted(&self, limit: Duration) -> Result<Qos, DeviceError> {
        let pending = |content: &mut Content| content.answer.is_none() && !content.closed;
        let content = self.mailbox.lock();
        let (content, _) = self
            .mailbox
            .changed
            .wait_timeout_while(content, limit, pending)
            .unwrap_or_else(PoisonError::into_inner);
        match &content.answer {
            Some(Ok(qos)) => Ok(*qos),
            Some(Err((code, why))) => {
                Err(DeviceError::Refused { code: *code, why: why.clone(), server_time_s: None })
            }
            None if content.closed => Err(DeviceError::Stopped),
            None => Err(DeviceError::TimedOut { what: "SUBSCRIBE", seconds: limit.as_secs() }),
        }
    }

    /// The next message, or `None` when none came within `limit`, or the client was stopped.
    #[must_use]
    pub fn receive(&self, limit: Duration) -> Option<Incoming> {
        let content = self.mailbox.lock();
        let nothing = |content: &mut Content| content.messages.is_empty() && !content.closed;
        let (mut content, _) = self
            .mailbox
            .changed
            .wait_timeout_while(content, limit, nothing)
            .unwrap_or_else(PoisonError::into_inner);
        content.take()
    }
}

impl Iterator for Subscription {
    type Item = Incoming;

    fn next(&mut self) -> Option<Incoming> {
        let content = self.mailbox.lock();
        let nothing = |content: &mut Content| content.messages.is_empty() && !content.closed;
        let mut content =
            self.mailbox.changed.wait_while(content, nothing).unwrap_or_else(PoisonError::into_inner);
        content.take()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        // What nobody will look at any more is dropped outside of every lock: it acknowledges itself.
        let messages = std::mem::take(&mut *self.mailbox.lock()).messages;
        if let Some(shared) = self.shared.upgrade() {
            shared.lock().inbox.leave(self.number);
            shared.wake();
        }
        drop(messages);
    }
}

/// All subscriptions of a client.
#[derive(Default)]
pub(crate) struct Inbox {
    wanted: Vec<Wanted>,
    last_number: u64,
    /// Filters that nobody wants any more and the server still serves.
    unwanted: Vec<String>,
}

struct Wanted {
    number: u64,
    filter: String,
    /// What the filter matches: without `$share/GROUP/`.
    matches: TopicFilter,
    qos: Qos,
    state: State,
    mailbox: Arc<Mailbox>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    New,
    Asked(PacketId),
    Granted,
    Refused,
}

impl Inbox {
    pub(crate) fn join(&mut self, filter: &str, qos: Qos) -> Result<(u64, Arc<Mailbox>), DeviceError> {
        let inner = filter
            .strip_prefix("$share/")
            .map_or(Some(filter), |rest| rest.split_once('/').map(|(_, inner)| inner));
        let wrong = |why: String| DeviceError::Protocol(format!("`{filter}` is no topic filter: {why}"));
        let inner = inner.ok_or_else(|| wrong("wanted `$share/GROUP/FILTER`".to_owned()))?;
        let matches = TopicFilter::parse(inner).map_err(|e| wrong(e.to_string()))?;
        self.last_number += 1;
        let (number, mailbox) = (self.last_number, Arc::<Mailbox>::default());
        self.unwanted.retain(|other| other != filter);
        self.wanted.push(Wanted {
            number,
            filter: filter.to_owned(),
            matches,
            qos,
            state: State::New,
            mailbox: Arc::clone(&mailbox),
        });
        Ok((number, mailbox))
    }

    fn leave(&mut self, number: u64) {
        let Some(at) = self.wanted.iter().position(|wanted| wanted.number == number) else { return };
        let gone = self.wanted.swap_remove(at);
        if !self.wanted.iter().any(|wanted| wanted.filter == gone.filter) && gone.state != State::New {
            self.unwanted.push(gone.filter);
        }
    }

    /// The next filter to be asked for, whose state becomes [`State::Asked`] with the identifier of `id`.
    pub(crate) fn next_wanted(&mut self, id: impl FnOnce() -> PacketId) -> Option<(PacketId, String, Qos)> {
        let wanted = self.wanted.iter_mut().find(|wanted| wanted.state == State::New)?;
        let id = id();
        wanted.state = State::Asked(id);
        Some((id, wanted.filter.clone(), wanted.qos))
    }

    /// The next filter to be given up.
    pub(crate) fn next_unwanted(&mut self) -> Option<String> {
        self.unwanted.pop()
    }

    /// SUBACK; answers the filter if it was refused.
    pub(crate) fn answered(&mut self, id: PacketId, code: u8, why: &str) -> Option<String> {
        let wanted = self.wanted.iter_mut().find(|wanted| wanted.state == State::Asked(id))?;
        if code < 0x80 {
            wanted.state = State::Granted;
            wanted.mailbox.answered(Ok(Qos::from_bits(code).unwrap_or_default()));
            return None;
        }
        wanted.state = State::Refused;
        wanted.mailbox.answered(Err((code, why.to_owned())));
        Some(wanted.filter.clone())
    }

    /// A new connection begins; `kept`: the server has our session, and what it granted.
    pub(crate) fn resume(&mut self, kept: bool) {
        for wanted in &mut self.wanted {
            if !(kept && wanted.state == State::Granted) {
                wanted.state = State::New;
            }
        }
        if !kept {
            self.unwanted.clear();
        }
    }

    /// The server has cut these filters; each is asked for again with the next connection.
    pub(crate) fn cut(&mut self, filters: &[String]) {
        for wanted in self.wanted.iter_mut().filter(|wanted| filters.contains(&wanted.filter)) {
            wanted.state = State::Refused;
        }
    }

    /// Hands a message to everybody whom it concerns.
    pub(crate) fn deliver(&self, message: &Incoming) {
        let Ok(topic) = TopicName::parse(&message.topic) else { return };
        for wanted in self.wanted.iter().filter(|wanted| wanted.matches.matches(topic)) {
            wanted.mailbox.put(message.clone());
        }
    }

    pub(crate) fn stop(&mut self) {
        for wanted in &self.wanted {
            wanted.mailbox.close();
        }
    }
}
