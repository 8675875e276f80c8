//! The threads that read messages back, from one queue. Commits do not wait for them, nor they for commits.
//!
//! Lots of one session may be answered in another order than asked for, where it asks for a second while it waits for
//! the first. A shard does so only after the connection that asked is gone, and does not mind: an answer names its
//! messages, and what is sent next is told by the session's queue.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use drawbridge_broker::Message;
use drawbridge_broker::storage::{MessageId, SessionId, StorageListener};

use crate::Shared;
use crate::disk::DiskFile;
use crate::error::DAMAGED;
use crate::mirror::Places;
use crate::recovery::read_message;

/// What is asked for.
#[derive(Default)]
pub(crate) struct Requests {
    pub(crate) asked: VecDeque<Request>,
    /// What the disk did not answer, of a session only what it asked for last, and when all of it is asked again.
    failed: VecDeque<Request>,
    again_at: Option<Instant>,
    pub(crate) closing: bool,
}

pub(crate) struct Request {
    pub(crate) shard: usize,
    pub(crate) session: SessionId,
    pub(crate) messages: Vec<MessageId>,
}

impl Requests {
    fn has_failed(&mut self, request: Request, again_at: Instant) {
        self.failed.retain(|old| (old.shard, old.session) != (request.shard, request.session));
        self.failed.push_back(request);
        self.again_at.get_or_insert(again_at);
    }

    fn ask_again(&mut self) {
        self.again_at = None;
        self.asked.append(&mut self.failed);
    }
}

/// How many threads read: one that meets a slow place of the disk does not hold up all sessions.
pub(crate) const READERS: [&str; 3] = ["messages-read-0", "messages-read-1", "messages-read-2"];

/// Files that each keeps open while requests wait.
const OPEN_MAX: usize = 16;

pub(crate) struct Reader {
    shared: Arc<Shared>,
    places: Places,
    listener: Arc<dyn StorageListener>,
    open: HashMap<u64, Box<dyn DiskFile>>,
}

impl Reader {
    pub(crate) fn new(shared: Arc<Shared>, places: Places, listener: Arc<dyn StorageListener>) -> Self {
        Self { shared, places, listener, open: HashMap::new() }
    }

    /// Until the log is closed.
    pub(crate) fn run(mut self) {
        while let Some(request) = self.next() {
            let Request { shard, session, messages } = &request;
            let read: io::Result<Vec<_>> = messages.iter().map(|id| Ok((*id, self.message(*id)?))).collect();
            match read {
                Ok(messages) => self.listener.fetched(*shard, *session, messages),
                Err(error) => {
                    tracing::warn!(%error, "stored messages cannot be read; it is tried again");
                    self.open.clear();
                    let again_at = (self.shared.clock)() + self.shared.config.retry;
                    self.shared.requests.lock().has_failed(request, again_at);
                    // By then this one may be at something else, and the others wait without an end.
                    self.shared.requests.wake_one();
                }
            }
        }
    }

    /// Waits for a request. `None` when the log is closed.
    fn next(&mut self) -> Option<Request> {
        let mut requests = self.shared.requests.lock();
        loop {
            if requests.closing {
                return None;
            }
            let left = requests.again_at.map(|at| at.saturating_duration_since((self.shared.clock)()));
            if left.is_some_and(|left| left.is_zero()) {
                requests.ask_again();
            }
            if let Some(request) = requests.asked.pop_front() {
                if !requests.asked.is_empty() {
                    self.shared.requests.wake_one();
                }
                return Some(request);
            }
            // Nothing is kept open while nobody asks: the space of a removed file would not be given back.
            self.open.clear();
            requests = self.shared.requests.wait(requests, left);
        }
    }

    fn message(&mut self, id: MessageId) -> io::Result<Option<Arc<Message>>> {
        // First what is not yet written or known to the keeper, then the places: it goes from there to here, never
        // back.
        if let Some(message) = self.shared.recent.lock().get(&id) {
            return Ok(Some(Arc::clone(message)));
        }
        loop {
            let Some(place) = self.places.lock().get(&id).copied() else { return Ok(None) };
            if self.open.len() >= OPEN_MAX && !self.open.contains_key(&place.segment) {
                self.open.clear();
            }
            let file = match self.open.remove(&place.segment) {
                Some(file) => Ok(file),
                None => self.shared.disk.open(&place.file()),
            };
            let read = file.and_then(|file| {
                let message = read_message(&*file, place, id, self.shared.time);
                self.open.insert(place.segment, file);
                message
            });
            if !matches!(read, Ok(Some(_))) && self.places.lock().get(&id) != Some(&place) {
                // It was copied forward or given up meanwhile.
                continue;
            }
            if let Ok(None) = read {
                self.shared.counters.damaged.fetch_add(1, Relaxed);
                tracing::error!(
                    code = DAMAGED,
                    file = place.file(),
                    offset = place.offset,
                    "a stored message is damaged and not delivered"
                );
            }
            self.shared.counters.fetched.fetch_add(1, Relaxed);
            return Ok(read?.map(|(message, _)| message));
        }
    }
}
