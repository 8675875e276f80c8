//! May this message be published, may it be delivered: the two questions that every path asks
//! (invariant I4). Live, retained, queued, will and command messages all come through here.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use drawbridge_names::{TopicName, Uid};
use drawbridge_policy::{PublishFacts, Rights};

/// What is known of publishers whose standing changed since they spoke. Nearly always empty.
#[derive(Debug, Default)]
pub(crate) struct Voices {
    /// Changes whenever somebody's rights in the registry do.
    generation: u64,
    /// `None`: blocked or deleted, nothing of it is delivered. Else what it left behind is judged by
    /// these.
    changed: HashMap<Uid, Option<Arc<Rights>>>,
    /// Of these the other shards have heard from this one how they stand.
    spread: HashSet<Uid>,
}

impl Voices {
    /// From now on this principal is judged by `rights`; without them it is silenced.
    pub(crate) fn judge_by(&mut self, uid: Uid, rights: Option<Arc<Rights>>) {
        self.generation += 1;
        self.changed.insert(uid, rights);
    }

    /// As [`Self::judge_by`], unless something is known of the principal already, which is newer.
    pub(crate) fn learn(&mut self, uid: Uid, rights: Option<Arc<Rights>>) {
        self.generation += 1;
        self.changed.entry(uid).or_insert(rights);
    }

    /// The other shards hear from this one how the principal stands now.
    pub(crate) fn note_spread(&mut self, uid: Uid) {
        self.spread.insert(uid);
    }

    /// Whether they have heard so before: then they must hear of what comes after it, too, or an older word would be
    /// the last.
    pub(crate) fn was_spread(&self, uid: Uid) -> bool {
        self.spread.contains(&uid)
    }

    /// Whether nothing of this principal is delivered.
    pub(crate) fn is_silenced(&self, uid: Uid) -> bool {
        matches!(self.changed.get(&uid), Some(None))
    }

    /// The principal has been admitted with `rights`. When its standing had changed before, it is
    /// judged by its policy as it is now; `Some` with that: the other shards must hear of it.
    ///
    /// Not by the grant of its token: that narrows one session, not what others of it have said.
    pub(crate) fn admitted(&mut self, uid: Uid, rights: &Rights) -> Option<Arc<Rights>> {
        let voice = self.changed.get_mut(&uid)?;
        self.generation += 1;
        let now = Arc::new(rights.without_grants());
        *voice = Some(Arc::clone(&now));
        Some(now)
    }

    /// A number that is another one after every change of somebody's rights.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// The rights of a session have changed.
    pub(crate) fn note_change(&mut self) {
        self.generation += 1;
    }

    fn may_say(&self, uid: Uid, topic: TopicName<'_>) -> bool {
        if self.changed.is_empty() {
            return true;
        }
        match self.changed.get(&uid) {
            None => true,
            Some(None) => false,
            Some(Some(rights)) => rights.may_publish(topic).allowed,
        }
    }
}

/// Whether `publisher` may publish such a message to `topic`. `rights` are those it speaks with, perhaps older than
/// what is known of it by now (a will); the server itself has none and needs none.
///
/// # Errors
/// The rule that refuses, for the log.
pub(crate) fn may_publish(
    rights: Option<&Rights>,
    voices: &Voices,
    publisher: Uid,
    topic: TopicName<'_>,
    message: &PublishFacts,
) -> Result<(), String> {
    if let Some(rights) = rights {
        let decision = rights.may_publish_with(topic, message);
        if !decision.allowed {
            return Err(decision.to_string());
        }
        if !voices.may_say(publisher, topic) {
            return Err(
                "the publisher has been blocked or deleted, or its new policy does not allow it".to_owned()
            );
        }
    }
    Ok(())
}

/// Whether a message of `publisher` on `topic` may go to a session with the rights `receiver`.
pub(crate) fn may_deliver(receiver: &Rights, voices: &Voices, publisher: Uid, topic: TopicName<'_>) -> bool {
    voices.may_say(publisher, topic) && receiver.may_receive(topic).allowed
}

/// One message and many receivers: the rights that were asked last are not asked again.
#[derive(Default)]
pub(crate) struct Audience {
    asked: Option<(Arc<Rights>, bool)>,
}

impl Audience {
    /// As [`may_deliver`].
    pub(crate) fn may_deliver(
        &mut self,
        receiver: &Arc<Rights>,
        voices: &Voices,
        publisher: Uid,
        topic: TopicName<'_>,
    ) -> bool {
        if let Some((asked, verdict)) = &self.asked
            && (Arc::ptr_eq(asked, receiver) || asked.same(receiver))
        {
            return *verdict;
        }
        let verdict = may_deliver(receiver, voices, publisher, topic);
        self.asked = Some((Arc::clone(receiver), verdict));
        verdict
    }
}
