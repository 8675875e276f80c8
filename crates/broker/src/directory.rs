//! Where each principal is connected, for all shards of this machine; and which shards listen.
//!
//! The directory is touched at connect and disconnect only; no message takes its lock.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use drawbridge_names::{MqttClientId, RegistryName, Uid};

use crate::ConnId;

/// More take-overs than this of one principal within [`TAKEOVER_SPAN`] are refused: two clients
/// with one identity would otherwise throw each other out for ever.
const TAKEOVERS_MAX: usize = 5;
const TAKEOVER_SPAN: Duration = Duration::from_secs(10);

/// (registry, uid) -> live sessions.
#[derive(Debug, Default)]
pub struct Directory {
    principals: Mutex<HashMap<RegistryName, HashMap<Uid, Presence>>>,
}

#[derive(Debug, Default)]
struct Presence {
    /// Oldest first.
    live: Vec<Live>,
    /// Grows with every session: the fence of the cluster to come.
    owner_epoch: u64,
    takeovers: Vec<Instant>,
    /// Shards that hold back a will of this principal (Will Delay Interval), by client id.
    delayed_wills: Vec<(MqttClientId, usize)>,
}

#[derive(Debug)]
struct Live {
    shard: usize,
    conn: ConnId,
    client_id: MqttClientId,
}

/// A session that has been granted, and those that must go for it.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) owner_epoch: u64,
    /// Shard and connection of each older session to be closed with 0x8E.
    pub(crate) older: Vec<(usize, ConnId)>,
    /// Shards that hold back a will of this session: it is back, so the will is dropped
    /// [MQTT-3.1.3-9] (5.0).
    pub(crate) delayed_wills: Vec<usize>,
}

/// Too many take-overs: come back later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TakeoverStorm;

impl Directory {
    /// An empty directory.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The newest session of a principal: its shard and its connection there.
    #[must_use]
    pub fn find(&self, registry: &RegistryName, uid: Uid) -> Option<(usize, ConnId)> {
        let principals = self.lock();
        let live = principals.get(registry)?.get(&uid)?.live.last()?;
        Some((live.shard, live.conn))
    }

    /// Number of live sessions of a principal.
    #[must_use]
    pub fn sessions(&self, registry: &RegistryName, uid: Uid) -> usize {
        self.lock().get(registry).and_then(|r| r.get(&uid)).map_or(0, |p| p.live.len())
    }

    /// Enters a session. One with the same client id is replaced, and beyond `sessions_max` the
    /// oldest go.
    pub(crate) fn claim(
        &self,
        now: Instant,
        registry: &RegistryName,
        uid: Uid,
        newcomer: (usize, ConnId),
        client_id: &MqttClientId,
        sessions_max: usize,
    ) -> Result<Claim, TakeoverStorm> {
        let mut principals = self.lock();
        let uids = principals.entry(registry.clone()).or_default();
        let presence = uids.entry(uid).or_default();
        presence.takeovers.retain(|at| now.saturating_duration_since(*at) < TAKEOVER_SPAN);
        let same = presence.live.iter().filter(|live| live.client_id == *client_id).count();
        let others = presence.live.len() - same;
        let excess = (others + 1).saturating_sub(sessions_max.max(1));
        if same + excess > 0 {
            if presence.takeovers.len() >= TAKEOVERS_MAX {
                return Err(TakeoverStorm);
            }
            presence.takeovers.push(now);
        }
        let mut older = Vec::new();
        let mut left = excess;
        presence.live.retain(|live| {
            let goes = if live.client_id == *client_id {
                true
            } else if left > 0 {
                left -= 1;
                true
            } else {
                false
            };
            if goes {
                older.push((live.shard, live.conn));
            }
            !goes
        });
        presence.owner_epoch += 1;
        presence.live.push(Live { shard: newcomer.0, conn: newcomer.1, client_id: client_id.clone() });
        let mut delayed_wills = Vec::new();
        presence.delayed_wills.retain(|(id, shard)| {
            let back = id == client_id;
            if back {
                delayed_wills.push(*shard);
            }
            !back
        });
        Ok(Claim { owner_epoch: presence.owner_epoch, older, delayed_wills })
    }

    /// Notes that a shard holds back the will of a session that has ended.
    pub(crate) fn delay_will(
        &self,
        registry: &RegistryName,
        uid: Uid,
        client_id: &MqttClientId,
        shard: usize,
    ) {
        let mut principals = self.lock();
        let presence = principals.entry(registry.clone()).or_default().entry(uid).or_default();
        presence.delayed_wills.push((client_id.clone(), shard));
    }

    /// Notes that the will is held back no longer.
    pub(crate) fn will_gone(
        &self,
        registry: &RegistryName,
        uid: Uid,
        client_id: &MqttClientId,
        shard: usize,
    ) {
        let mut principals = self.lock();
        let Some(uids) = principals.get_mut(registry) else { return };
        let Some(presence) = uids.get_mut(&uid) else { return };
        presence.delayed_wills.retain(|(id, at)| (id, *at) != (client_id, shard));
        if presence.live.is_empty() && presence.delayed_wills.is_empty() && presence.takeovers.is_empty() {
            uids.remove(&uid);
        }
    }

    /// Removes a session that has ended; one that was taken over is gone already.
    pub(crate) fn release(&self, now: Instant, registry: &RegistryName, uid: Uid, session: (usize, ConnId)) {
        let mut principals = self.lock();
        let Some(uids) = principals.get_mut(registry) else { return };
        let Some(presence) = uids.get_mut(&uid) else { return };
        presence.live.retain(|live| (live.shard, live.conn) != session);
        // A storm is remembered by the session that is live during it; an empty presence has none.
        if presence.live.is_empty() {
            presence.takeovers.retain(|at| now.saturating_duration_since(*at) < TAKEOVER_SPAN);
            if presence.takeovers.is_empty() && presence.delayed_wills.is_empty() {
                uids.remove(&uid);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RegistryName, HashMap<Uid, Presence>>> {
        // Every change above is complete before anything could panic.
        self.principals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many subscriptions each shard has: a message is handed only to shards that have any.
#[derive(Debug)]
pub struct Interest {
    subscriptions: Vec<AtomicUsize>,
}

impl Interest {
    /// For this number of shards, all without subscriptions.
    #[must_use]
    pub fn new(shards: usize) -> Self {
        Self { subscriptions: std::iter::repeat_with(|| AtomicUsize::new(0)).take(shards).collect() }
    }

    /// Whether the shard has any subscription.
    #[must_use]
    pub fn has_any(&self, shard: usize) -> bool {
        self.subscriptions.get(shard).is_some_and(|count| count.load(Ordering::Acquire) > 0)
    }

    pub(crate) fn add(&self, shard: usize, count: usize) {
        if let Some(subscriptions) = self.subscriptions.get(shard) {
            subscriptions.fetch_add(count, Ordering::AcqRel);
        }
    }

    pub(crate) fn sub(&self, shard: usize, count: usize) {
        if let Some(subscriptions) = self.subscriptions.get(shard) {
            subscriptions.fetch_sub(count, Ordering::AcqRel);
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "one base instant; all others are sums")]
    use super::*;

    fn conn(slot: u32) -> ConnId {
        ConnId::new(slot, 0)
    }

    fn client(text: &str) -> MqttClientId {
        MqttClientId::parse(text).expect(text)
    }

    #[test]
    fn a_device_has_one_session_whatever_its_client_id() {
        let (directory, registry, now) = (Directory::new(), RegistryName::default_registry(), Instant::now());
        let first = directory.claim(now, &registry, Uid(7), (0, conn(1)), &client("lamp"), 1).expect("first");
        assert!(first.older.is_empty());
        let second =
            directory.claim(now, &registry, Uid(7), (1, conn(9)), &client("lamp:2"), 1).expect("second");
        assert_eq!(second.older, [(0, conn(1))]);
        assert!(second.owner_epoch > first.owner_epoch);
        assert_eq!(directory.find(&registry, Uid(7)), Some((1, conn(9))));
        directory.release(now, &registry, Uid(7), (0, conn(1)));
        assert_eq!(
            directory.find(&registry, Uid(7)),
            Some((1, conn(9))),
            "the late end of the old one is harmless"
        );
        directory.release(now, &registry, Uid(7), (1, conn(9)));
        assert_eq!(directory.find(&registry, Uid(7)), None);
    }

    #[test]
    fn an_application_keeps_its_sessions_apart_by_client_id() {
        let (directory, registry, now) = (Directory::new(), RegistryName::default_registry(), Instant::now());
        for (slot, id) in [(1, "a"), (2, "b"), (3, "c")] {
            let claim = directory.claim(now, &registry, Uid(7), (0, conn(slot)), &client(id), 3).expect(id);
            assert!(claim.older.is_empty());
        }
        let same = directory.claim(now, &registry, Uid(7), (0, conn(4)), &client("b"), 3).expect("same id");
        assert_eq!(same.older, [(0, conn(2))]);
        let fourth = directory.claim(now, &registry, Uid(7), (0, conn(5)), &client("d"), 3).expect("fourth");
        assert_eq!(fourth.older, [(0, conn(1))], "the oldest goes");
        assert_eq!(directory.sessions(&registry, Uid(7)), 3);
    }

    #[test]
    fn the_sixth_takeover_in_ten_seconds_is_refused_and_later_allowed_again() {
        let (directory, registry, t0) = (Directory::new(), RegistryName::default_registry(), Instant::now());
        let claim = |ms: u64| {
            let now = t0 + Duration::from_millis(ms);
            let slot = u32::try_from(ms).expect("small");
            directory.claim(now, &registry, Uid(7), (0, conn(slot)), &client("lamp"), 1).is_ok()
        };
        assert!((0..=5).all(|n| claim(n * 100)), "a first session and five take-overs");
        assert!(!claim(600) && !claim(9_000));
        assert!(claim(10_200), "the first take-over is ten seconds old");
    }

    #[test]
    fn registries_do_not_share_a_presence() {
        let (directory, now) = (Directory::new(), Instant::now());
        let one = RegistryName::parse("one").expect("one");
        let two = RegistryName::parse("two").expect("two");
        directory.claim(now, &one, Uid(7), (0, conn(1)), &client("lamp"), 1).expect("one");
        let claim = directory.claim(now, &two, Uid(7), (0, conn(2)), &client("lamp"), 1).expect("two");
        assert!(claim.older.is_empty());
    }
}
