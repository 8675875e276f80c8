//! May this message be published, may it be delivered: the two questions that every path asks
//! (invariant I4). Live, retained, queued, will and command messages all come through here.

use std::collections::HashMap;
use std::sync::Arc;

use drawbridge_names::{TopicName, Uid};
use drawbridge_policy::Rights;

/// What is known of publishers whose standing changed since they spoke. Nearly always empty.
#[derive(Debug, Default)]
pub(crate) struct Voices {
    changed: HashMap<Uid, Voice>,
}

#[derive(Debug)]
enum Voice {
    /// Blocked or deleted: nothing of it is delivered.
    Silenced,
    /// Its policy changed: what it left behind is judged by these.
    Rights(Arc<Rights>),
}

impl Voices {
    pub(crate) fn silence(&mut self, uid: Uid) {
        self.changed.insert(uid, Voice::Silenced);
    }

    pub(crate) fn judge_by(&mut self, uid: Uid, rights: Arc<Rights>) {
        self.changed.insert(uid, Voice::Rights(rights));
    }

    /// The principal has been admitted with `rights`; `true` when that was news, and the other
    /// shards must hear of it.
    pub(crate) fn admitted(&mut self, uid: Uid, rights: &Arc<Rights>) -> bool {
        let Some(voice) = self.changed.get_mut(&uid) else { return false };
        let news = matches!(voice, Voice::Silenced);
        *voice = Voice::Rights(Arc::clone(rights));
        news
    }

    fn is_silenced(&self, uid: Uid) -> bool {
        matches!(self.changed.get(&uid), Some(Voice::Silenced))
    }

    fn may_still_say(&self, uid: Uid, topic: TopicName<'_>) -> bool {
        if self.changed.is_empty() {
            return true;
        }
        match self.changed.get(&uid) {
            None => true,
            Some(Voice::Silenced) => false,
            Some(Voice::Rights(rights)) => rights.may_publish(topic).allowed,
        }
    }
}

/// Whether `publisher` may publish to `topic`. `rights` are those it speaks with; the server itself
/// has none and needs none.
///
/// # Errors
/// The rule that refuses, for the log.
pub(crate) fn may_publish(
    rights: Option<&Rights>,
    voices: &Voices,
    publisher: Uid,
    topic: TopicName<'_>,
) -> Result<(), String> {
    if let Some(rights) = rights {
        let decision = rights.may_publish(topic);
        if !decision.allowed {
            return Err(decision.to_string());
        }
        if voices.is_silenced(publisher) {
            return Err("the publisher has been blocked or deleted".to_owned());
        }
    }
    Ok(())
}

/// Whether a message of `publisher` on `topic` may go to a session with the rights `receiver`.
pub(crate) fn may_deliver(receiver: &Rights, voices: &Voices, publisher: Uid, topic: TopicName<'_>) -> bool {
    voices.may_still_say(publisher, topic) && receiver.may_receive(topic).allowed
}
