//! What a publisher found out when it last published to a topic: that it may, and who gets the message.
//!
//! Devices publish to few topics, again and again. As long as no subscription and no right of the registry has
//! changed, what was found holds, and neither policy nor routes are asked again. What a message itself decides
//! (its size, its expiry, the window of its reader, the end of a right by the clock) is asked each time.

use drawbridge_policy::{Limits, PublishFacts};

use super::readers::Met;

/// So many topics are remembered for each publisher.
const TOPICS: usize = 4;
/// A message that more than this many get costs enough of its own.
const MET_MAX: usize = 16;
/// A topic longer than this is not remembered: there may be very many sessions.
const TOPIC_BYTES_MAX: usize = 512;

/// The topics that a session has published to.
#[derive(Default)]
pub(super) struct Known {
    topics: Vec<Topic>,
    /// The one that makes room for the next.
    next: usize,
}

#[derive(Default)]
struct Topic {
    name: String,
    at: Generation,
    met: Vec<Met>,
    /// What messages may be, for rights that say more than that there may be some.
    limits: Option<Box<Limits>>,
}

/// When something was found out: it holds while neither of these has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Generation {
    /// Of the subscriptions.
    pub(super) routes: u64,
    /// Of the rights.
    pub(super) rights: u64,
}

impl Known {
    /// Who gets a message on this topic. Taken out; to be given back by [`Self::give_back`].
    pub(super) fn take(
        &mut self,
        topic: &str,
        now: Generation,
        message: impl FnOnce() -> PublishFacts,
    ) -> Option<(usize, Vec<Met>)> {
        let at = self.topics.iter().position(|known| known.at == now && known.name == topic)?;
        if self.topics[at].limits.as_ref().is_some_and(|limits| !limits.admits(&message())) {
            return None; // it is for the rights to say why
        }
        Some((at, std::mem::take(&mut self.topics.get_mut(at)?.met)))
    }

    /// Gives back what was taken.
    pub(super) fn give_back(&mut self, at: usize, met: Vec<Met>) {
        if let Some(topic) = self.topics.get_mut(at) {
            topic.met = met;
        }
    }

    /// Remembers who got a message on this topic.
    pub(super) fn remember(&mut self, topic: &str, at: Generation, met: &[Met], limits: Option<Box<Limits>>) {
        if met.len() > MET_MAX || topic.len() > TOPIC_BYTES_MAX {
            return;
        }
        let same = self.topics.iter().position(|known| known.name == topic);
        let place = match same {
            Some(place) => place,
            None if self.topics.len() < TOPICS => {
                self.topics.reserve_exact(1);
                self.topics.push(Topic::default());
                self.topics.len() - 1
            }
            None => {
                self.next = (self.next + 1) % TOPICS;
                self.next
            }
        };
        if let Some(known) = self.topics.get_mut(place) {
            known.name.clear();
            known.name.push_str(topic);
            known.at = at;
            known.met.clear();
            known.met.extend_from_slice(met);
            known.limits = limits;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_cannot_make_a_shard_remember_much() {
        let mut known = Known::default();
        let now = Generation::default();
        for length in [TOPIC_BYTES_MAX, TOPIC_BYTES_MAX + 1, 65_535] {
            let topic = "t".repeat(length);
            known.remember(&topic, now, &[], None);
            assert_eq!(
                known.take(&topic, now, PublishFacts::default).is_some(),
                length <= TOPIC_BYTES_MAX,
                "{length}"
            );
        }
        (0..100).for_each(|n| known.remember(&n.to_string(), now, &[], None));
        assert_eq!(known.topics.len(), TOPICS);
    }
}
