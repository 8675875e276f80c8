//! What a shard has in common with the storage, and with the shard that a connection comes from.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use drawbridge_names::{RegistryName, Uid};
use drawbridge_policy::Rights;

use super::Shard;
use crate::effect::{ConnId, Effect};
use crate::message::Message;
use crate::storage::{Batch, Image, MessageId, SessionId};

/// What the storage kept, for the shards of a process that starts.
#[derive(Debug, Clone, Default)]
pub struct Restored {
    /// All stored sessions; each shard takes its own.
    pub image: Arc<Image>,
    /// The retained messages.
    pub retained: Vec<(MessageId, Arc<Message>)>,
    /// The rights, by their policy of now, of everybody who owns a session or published a retained message;
    /// `None`: blocked or deleted. Who is missing here is taken for deleted.
    pub standing: HashMap<(RegistryName, Uid), Option<Arc<Rights>>>,
}

/// A connection on its way from one shard to another.
pub struct Moving {}

impl fmt::Debug for Moving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Moving").finish_non_exhaustive()
    }
}

impl Shard {
    /// Takes back what the storage kept; once, before anything else.
    pub fn restore(&mut self, _now: Instant, _restored: &Restored, _fx: &mut Vec<Effect>) {}

    /// What is to be stored since the last call; `None` when that is nothing. The driver asks at the end of
    /// each turn, before anything that was written in it leaves.
    pub fn take_batch(&mut self) -> Option<Batch> {
        None
    }

    /// The batch with this number, and all before it, are stored.
    pub fn committed(&mut self, _now: Instant, _number: u64, _fx: &mut Vec<Effect>) {}

    /// The answer to [`Effect::Fetch`].
    pub fn fetched(
        &mut self,
        _now: Instant,
        _session: SessionId,
        _messages: Vec<(MessageId, Option<Arc<Message>>)>,
        _fx: &mut Vec<Effect>,
    ) {
    }

    /// The storage cannot store for now, or can again.
    pub fn stalled(&mut self, _now: Instant, _stalled: bool, _fx: &mut Vec<Effect>) {}

    /// Takes a connection over from another shard, CONNECT and all.
    pub fn adopt(&mut self, now: Instant, _moving: Moving, _fx: &mut Vec<Effect>) -> ConnId {
        self.open(now, now)
    }
}
