//! The storage behind the shards: what it kept, where batches go, and how its news come back.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, OnceLock, Weak};

use drawbridge_broker::storage::{MessageId, SessionId, Storage, StorageListener};
use drawbridge_broker::{Message, Restored};

use crate::bridge::Shared;
use crate::inbox::ToShard;

/// A storage, open, for a bridge that is about to start.
pub struct Durable {
    /// Where batches go and messages come back from.
    pub storage: Arc<dyn Storage>,
    /// What it kept. Every shard takes its part before a client is let in.
    pub restored: Restored,
    /// The listener that the storage was opened with.
    pub news: Arc<StorageNews>,
}

impl std::fmt::Debug for Durable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Durable").finish_non_exhaustive()
    }
}

/// Puts what a storage says into the inboxes of the shards. Made before the storage, which is opened before
/// the bridge; what is said until the bridge runs can only be that the storage is stalled, and is not lost.
#[derive(Debug, Default)]
pub struct StorageNews {
    shards: OnceLock<Weak<Shared>>,
    stalled: AtomicBool,
}

impl StorageNews {
    /// A listener for the storage of one bridge.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(crate) fn lead_to(&self, shared: &Arc<Shared>) {
        if self.shards.set(Arc::downgrade(shared)).is_err() {
            tracing::error!("a listener of a storage was given to two bridges; the first keeps it");
            return;
        }
        if self.stalled.load(SeqCst) {
            self.push_to_all(|| ToShard::Stalled(true));
        }
    }

    fn push(&self, shard: usize, item: ToShard) {
        let shared = self.shards.get().and_then(Weak::upgrade);
        if let Some(inbox) = shared.as_ref().and_then(|shared| shared.inboxes.get(shard)) {
            inbox.push(item);
        }
    }

    fn push_to_all(&self, item: impl Fn() -> ToShard) {
        if let Some(shared) = self.shards.get().and_then(Weak::upgrade) {
            shared.inboxes.iter().for_each(|inbox| inbox.push(item()));
        }
    }
}

impl StorageListener for StorageNews {
    fn committed(&self, shard: usize, number: u64) {
        self.push(shard, ToShard::Committed { number });
    }

    fn fetched(&self, shard: usize, session: SessionId, messages: Vec<(MessageId, Option<Arc<Message>>)>) {
        self.push(shard, ToShard::Fetched { session, messages });
    }

    fn stalled(&self, stalled: bool) {
        // First the flag: whoever leads this to the shards meanwhile looks at it after.
        self.stalled.store(stalled, SeqCst);
        self.push_to_all(|| ToShard::Stalled(stalled));
    }
}
