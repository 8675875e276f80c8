//! The thread that reads messages back. Commits do not wait for it, nor it for them.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

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
    pub(crate) closing: bool,
}

pub(crate) struct Request {
    pub(crate) shard: usize,
    pub(crate) session: SessionId,
    pub(crate) messages: Vec<MessageId>,
}

/// Files that are kept open while requests wait.
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
        // Requests that the disk did not answer. They are asked again, beside the new ones.
        let mut failed = VecDeque::new();
        loop {
            let mut requests = self.shared.requests.lock();
            if requests.asked.is_empty() && !requests.closing {
                // Nothing is kept open while nobody asks: the space of a removed file would not be given back.
                self.open.clear();
                let retry = (!failed.is_empty()).then_some(self.shared.config.retry);
                requests = self.shared.requests.wait(requests, retry);
            }
            if requests.closing {
                return;
            }
            let mut asked = std::mem::take(&mut requests.asked);
            drop(requests);
            asked.append(&mut failed);
            for request in asked {
                let Request { shard, session, messages } = &request;
                let read: io::Result<Vec<_>> =
                    messages.iter().map(|id| Ok((*id, self.message(*id)?))).collect();
                match read {
                    Ok(messages) => self.listener.fetched(*shard, *session, messages),
                    Err(error) => {
                        tracing::warn!(%error, "stored messages cannot be read; it is tried again");
                        self.open.clear();
                        // Of a session that came back meanwhile only what it asked for last.
                        failed.retain(|old: &Request| {
                            (old.shard, old.session) != (request.shard, request.session)
                        });
                        failed.push_back(request);
                    }
                }
            }
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
