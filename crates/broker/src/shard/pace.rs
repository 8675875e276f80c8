//! How fast a client may publish, where its policy has a ceiling: whoever is faster is not listened to until it
//! has fallen back, so that it feels the pressure of TCP and loses nothing.

use std::time::{Duration, Instant};

use drawbridge_policy::{PublishFacts, Rates, Rights};

use super::{ConnId, Effect, Later, Shard};
use crate::storage::StoredWill;

/// So far ahead of its pace a client may be: it can say at once what it may say in this time.
const BURST: Duration = Duration::from_secs(1);
/// A message that would be a longer rest than this is not taken.
const REST_MAX: Duration = Duration::from_secs(60);

/// One client against its ceilings.
pub(super) struct Pace {
    rates: Rates,
    /// When what it has said would have been said at its pace.
    messages: Option<Instant>,
    bytes: Option<Instant>,
    /// Until then it is not listened to.
    pub(super) rests: Option<Instant>,
}

impl Pace {
    /// For these rights; what was said under earlier ones still counts.
    pub(super) fn of(rights: &Rights, old: Option<Box<Self>>) -> Option<Box<Self>> {
        let rates = rights.rates();
        match old {
            Some(old) => (!rates.is_free() || old.rests.is_some()).then(|| Box::new(Self { rates, ..*old })),
            None if rates.is_free() => None,
            None => Some(Box::new(Self { rates, messages: None, bytes: None, rests: None })),
        }
    }

    /// Counts a message of so many bytes; afterwards `rests` says for how long to rest.
    ///
    /// # Errors
    /// The message alone is more than is taken; the rule, for the log.
    fn count(&mut self, now: Instant, bytes: usize) -> Result<(), String> {
        let cost = |amount: u64, rate: u32| {
            Duration::from_nanos(amount.saturating_mul(1_000_000_000) / u64::from(rate.max(1)))
        };
        let ahead = |said: Option<Instant>, cost: Duration| said.map_or(now, |said| said.max(now)) + cost;
        if let Some(rate) = self.rates.bytes_per_s {
            let cost = cost(bytes as u64, rate);
            if cost > REST_MAX {
                return Err(format!(
                    "section [limits] says {rate} bytes a second, and this message has {bytes}, more than in {} s",
                    REST_MAX.as_secs()
                ));
            }
            self.bytes = Some(ahead(self.bytes, cost));
        }
        if let Some(rate) = self.rates.messages_per_s {
            self.messages = Some(ahead(self.messages, cost(1, rate)));
        }
        let latest = self.messages.max(self.bytes).and_then(|latest| latest.checked_sub(BURST));
        self.rests = latest.filter(|rests| *rests > now);
        Ok(())
    }

    /// Whether it rested long enough.
    pub(super) fn has_rested(&self, now: Instant) -> bool {
        self.rests.is_some_and(|rests| rests <= now)
    }
}

impl Shard {
    /// Counts a message of a session against its ceilings.
    ///
    /// # Errors
    /// As [`Pace::count`].
    pub(super) fn pace(&mut self, now: Instant, conn: ConnId, slot: u32, bytes: usize) -> Result<(), String> {
        let session = self.sessions.get_mut(slot as usize);
        let Some(pace) = session.and_then(|session| session.pace.as_deref_mut()) else { return Ok(()) };
        pace.count(now, bytes)?;
        if pace.rests.is_some() {
            self.arm(now, conn);
        }
        Ok(())
    }

    /// A client has fallen back to its pace.
    pub(super) fn listen_after_rest(&mut self, conn: ConnId, fx: &mut Vec<Effect>) {
        let Some(slot) = self.session_of(conn) else { return };
        let session = self.sessions.get_mut(slot as usize);
        if let Some(pace) = session.and_then(|session| session.pace.as_deref_mut()) {
            pace.rests = None;
            self.later.push_back(Later::Replay(conn));
            fx.push(Effect::Resume { conn });
        }
    }
}

/// A will as rights judge it.
pub(super) fn will_facts(will: &StoredWill) -> PublishFacts {
    PublishFacts { qos: will.qos.bits(), retain: will.retain, will: true, payload_bytes: will.payload.len() }
}
