//! Where each principal is connected, for all shards of this machine; and which shards listen.
//!
//! The directory is touched at connect and disconnect only; no message takes its lock.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use drawbridge_names::{MqttClientId, RegistryName, Uid};

use crate::ConnId;
use crate::storage::{Image, MessageId, SessionId};

/// More take-overs than this of one client id within [`TAKEOVER_SPAN`] are refused, or of one principal that
/// may have one session only: two clients with one identity would otherwise throw each other out for ever.
const TAKEOVERS_MAX: usize = 5;
const TAKEOVER_SPAN: Duration = Duration::from_secs(10);

/// (registry, uid) -> live sessions.
#[derive(Debug, Default)]
pub struct Directory {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    principals: HashMap<RegistryName, HashMap<Uid, Presence>>,
    /// The shard that each stored session lives on.
    homes: HashMap<(RegistryName, Uid, MqttClientId), usize>,
    /// Grows with every session of all, so with those of each: the fence of the cluster to come. One
    /// number for all outlives the presences.
    owner_epoch: u64,
}

#[derive(Debug, Default)]
struct Presence {
    live: Lives,
    /// Nearly always none.
    takeovers: Option<Box<Takeovers>>,
    /// Shards that hold back a will of this principal (Will Delay Interval), by client id.
    delayed_wills: Vec<(MqttClientId, usize)>,
}

/// When each identity of a principal was taken over.
#[derive(Debug, Default)]
struct Takeovers {
    by_identity: HashMap<MqttClientId, Vec<Instant>>,
    swept: Option<Instant>,
}

impl Takeovers {
    fn note(&mut self, now: Instant, identity: MqttClientId) -> Result<(), TakeoverStorm> {
        let recent = |at: &Instant| now.saturating_duration_since(*at) < TAKEOVER_SPAN;
        if !self.swept.as_ref().is_some_and(recent) {
            self.swept = Some(now);
            self.by_identity.retain(|_, times| times.iter().any(recent));
        }
        let times = self.by_identity.entry(identity).or_default();
        times.retain(recent);
        if times.len() >= TAKEOVERS_MAX {
            return Err(TakeoverStorm);
        }
        times.push(now);
        Ok(())
    }
}

#[derive(Debug)]
struct Live {
    shard: usize,
    conn: ConnId,
    client_id: MqttClientId,
}

/// The live sessions of a principal by owner epoch. A device has one; an application may have a
/// hundred thousand, and each of them comes and goes without a look at the others.
#[derive(Debug, Default)]
enum Lives {
    #[default]
    None,
    One(u64, Live),
    Many(Box<Crowd>),
}

#[derive(Debug, Default)]
struct Crowd {
    by_epoch: BTreeMap<u64, Live>,
    by_client_id: HashMap<MqttClientId, u64>,
}

impl Lives {
    fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::One(..) => 1,
            Self::Many(crowd) => crowd.by_epoch.len(),
        }
    }

    fn iter(&self) -> impl Iterator<Item = &Live> {
        let (one, many) = match self {
            Self::None => (None, None),
            Self::One(_, live) => (Some(live), None),
            Self::Many(crowd) => (None, Some(crowd.by_epoch.values())),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }

    fn newest(&self) -> Option<&Live> {
        match self {
            Self::None => None,
            Self::One(_, live) => Some(live),
            Self::Many(crowd) => crowd.by_epoch.last_key_value().map(|(_, live)| live),
        }
    }

    fn epoch_of(&self, client_id: &MqttClientId) -> Option<u64> {
        match self {
            Self::One(epoch, live) if live.client_id == *client_id => Some(*epoch),
            Self::None | Self::One(..) => None,
            Self::Many(crowd) => crowd.by_client_id.get(client_id).copied(),
        }
    }

    fn insert(&mut self, epoch: u64, live: Live) {
        match std::mem::take(self) {
            Self::None => *self = Self::One(epoch, live),
            Self::One(older, other) => {
                let mut crowd = Box::<Crowd>::default();
                crowd.insert(older, other);
                crowd.insert(epoch, live);
                *self = Self::Many(crowd);
            }
            Self::Many(mut crowd) => {
                crowd.insert(epoch, live);
                *self = Self::Many(crowd);
            }
        }
    }

    fn remove(&mut self, epoch: u64) -> Option<Live> {
        match self {
            Self::None => None,
            Self::One(found, _) if *found != epoch => None,
            Self::One(..) => match std::mem::take(self) {
                Self::One(_, live) => Some(live),
                _ => None,
            },
            Self::Many(crowd) => {
                let live = crowd.by_epoch.remove(&epoch)?;
                crowd.by_client_id.remove(&live.client_id);
                if crowd.by_epoch.is_empty() {
                    *self = Self::None;
                }
                Some(live)
            }
        }
    }

    fn remove_oldest(&mut self) -> Option<Live> {
        let oldest = match self {
            Self::None => return None,
            Self::One(epoch, _) => *epoch,
            Self::Many(crowd) => *crowd.by_epoch.first_key_value()?.0,
        };
        self.remove(oldest)
    }
}

impl Crowd {
    fn insert(&mut self, epoch: u64, live: Live) {
        self.by_client_id.insert(live.client_id.clone(), epoch);
        self.by_epoch.insert(epoch, live);
    }
}

impl Presence {
    /// Whether nothing is known of the principal any more. Its take-overs count only while it has a
    /// session: two clients that throw each other out always leave one.
    fn is_idle(&self) -> bool {
        self.live.len() == 0 && self.delayed_wills.is_empty()
    }
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
        let state = self.lock();
        let live = state.principals.get(registry)?.get(&uid)?.live.newest()?;
        Some((live.shard, live.conn))
    }

    /// The live sessions of a principal: client id, shard and connection there.
    #[must_use]
    pub fn all(&self, registry: &RegistryName, uid: Uid) -> Vec<(MqttClientId, usize, ConnId)> {
        let state = self.lock();
        let presence = state.principals.get(registry).and_then(|uids| uids.get(&uid));
        let live = |live: &Live| (live.client_id.clone(), live.shard, live.conn);
        presence.map(|presence| presence.live.iter().map(live).collect()).unwrap_or_default()
    }

    /// The live session of a principal with this client id.
    #[must_use]
    pub fn find_client(
        &self,
        registry: &RegistryName,
        uid: Uid,
        client_id: &MqttClientId,
    ) -> Option<(usize, ConnId)> {
        let state = self.lock();
        let lives = &state.principals.get(registry)?.get(&uid)?.live;
        let epoch = lives.epoch_of(client_id)?;
        let live = match lives {
            Lives::Many(crowd) => crowd.by_epoch.get(&epoch),
            lives => lives.newest(),
        };
        live.map(|live| (live.shard, live.conn))
    }

    /// Number of live sessions of a principal.
    #[must_use]
    pub fn sessions(&self, registry: &RegistryName, uid: Uid) -> usize {
        self.lock().principals.get(registry).and_then(|r| r.get(&uid)).map_or(0, |p| p.live.len())
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
        let mut state = self.lock();
        let State { principals, owner_epoch, .. } = &mut *state;
        let presence = principals.entry(registry.clone()).or_default().entry(uid).or_default();
        let same = presence.live.epoch_of(client_id);
        let others = presence.live.len() - usize::from(same.is_some());
        let excess = (others + 1).saturating_sub(sessions_max.max(1));
        if same.is_some() || excess > 0 {
            let identity = if sessions_max <= 1 { MqttClientId::default() } else { client_id.clone() };
            presence.takeovers.get_or_insert_default().note(now, identity)?;
        }
        let same = same.and_then(|epoch| presence.live.remove(epoch));
        let mut older: Vec<(usize, ConnId)> = same.map(|live| (live.shard, live.conn)).into_iter().collect();
        for _ in 0..excess {
            older.extend(presence.live.remove_oldest().map(|live| (live.shard, live.conn)));
        }
        *owner_epoch += 1;
        let live = Live { shard: newcomer.0, conn: newcomer.1, client_id: client_id.clone() };
        presence.live.insert(*owner_epoch, live);
        let mut delayed_wills = Vec::new();
        presence.delayed_wills.retain(|(id, shard)| {
            let back = id == client_id;
            if back {
                delayed_wills.push(*shard);
            }
            !back
        });
        Ok(Claim { owner_epoch: *owner_epoch, older, delayed_wills })
    }

    /// The shard that the stored session with this key lives on, if there is one.
    pub(crate) fn home(&self, registry: &RegistryName, uid: Uid, client_id: &MqttClientId) -> Option<usize> {
        let state = self.lock();
        if state.homes.is_empty() {
            return None;
        }
        state.homes.get(&(registry.clone(), uid, client_id.clone())).copied()
    }

    /// As [`Self::home`]; when there is none, it is `shard` from now on.
    pub(crate) fn keep(
        &self,
        registry: &RegistryName,
        uid: Uid,
        client_id: &MqttClientId,
        shard: usize,
    ) -> usize {
        *self.lock().homes.entry((registry.clone(), uid, client_id.clone())).or_insert(shard)
    }

    /// The session is stored no more.
    pub(crate) fn forget(&self, registry: &RegistryName, uid: Uid, client_id: &MqttClientId) {
        self.lock().homes.remove(&(registry.clone(), uid, client_id.clone()));
    }

    /// Owner epochs go on above `epoch`.
    pub(crate) fn restore_epoch(&self, epoch: u64) {
        let mut state = self.lock();
        state.owner_epoch = state.owner_epoch.max(epoch);
    }

    /// Notes that a shard holds back the will of a session that has ended.
    pub(crate) fn delay_will(
        &self,
        registry: &RegistryName,
        uid: Uid,
        client_id: &MqttClientId,
        shard: usize,
    ) {
        let mut state = self.lock();
        let presence = state.principals.entry(registry.clone()).or_default().entry(uid).or_default();
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
        self.change(registry, uid, |presence| {
            presence.delayed_wills.retain(|(id, at)| (id, *at) != (client_id, shard));
        });
    }

    /// Removes a session that has ended; one that was taken over is gone already.
    pub(crate) fn release(&self, registry: &RegistryName, uid: Uid, owner_epoch: u64) {
        self.change(registry, uid, |presence| drop(presence.live.remove(owner_epoch)));
    }

    fn change(&self, registry: &RegistryName, uid: Uid, change: impl FnOnce(&mut Presence)) {
        let mut state = self.lock();
        let Some(uids) = state.principals.get_mut(registry) else { return };
        let Some(presence) = uids.get_mut(&uid) else { return };
        change(presence);
        if presence.is_idle() {
            uids.remove(&uid);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change above is complete before anything could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many subscriptions each shard has: a message is handed only to shards that have any.
#[derive(Debug)]
pub struct Interest {
    subscriptions: Vec<AtomicUsize>,
    /// Those of stored sessions.
    kept: Vec<AtomicUsize>,
    /// The last number given to a message that is stored, and to a stored session.
    message: AtomicU64,
    session: AtomicU64,
}

impl Interest {
    /// For this number of shards, all without subscriptions.
    #[must_use]
    pub fn new(shards: usize) -> Self {
        Self::restored(shards, &Image::default())
    }

    /// For this number of shards that will be given back what `image` holds.
    #[must_use]
    pub fn restored(shards: usize, image: &Image) -> Self {
        Self {
            subscriptions: std::iter::repeat_with(|| AtomicUsize::new(0)).take(shards).collect(),
            kept: std::iter::repeat_with(|| AtomicUsize::new(0)).take(shards).collect(),
            message: AtomicU64::new(image.message_max),
            session: AtomicU64::new(image.session_max),
        }
    }

    /// A number for a message that is to be stored.
    pub(crate) fn next_message(&self) -> MessageId {
        MessageId(self.message.fetch_add(1, Ordering::AcqRel) + 1)
    }

    /// A number for a session that is to be stored.
    pub(crate) fn next_session(&self) -> SessionId {
        SessionId(self.session.fetch_add(1, Ordering::AcqRel) + 1)
    }

    /// Whether the shard has any subscription.
    #[must_use]
    pub fn has_any(&self, shard: usize) -> bool {
        self.subscriptions.get(shard).is_some_and(|count| count.load(Ordering::Acquire) > 0)
    }

    /// Whether some stored session of the shard has a subscription.
    pub(crate) fn keeps(&self, shard: usize) -> bool {
        self.kept.get(shard).is_some_and(|count| count.load(Ordering::Acquire) > 0)
    }

    pub(crate) fn keep_more(&self, shard: usize, count: usize) {
        if let Some(kept) = self.kept.get(shard) {
            kept.fetch_add(count, Ordering::AcqRel);
        }
    }

    pub(crate) fn keep_less(&self, shard: usize, count: usize) {
        if let Some(kept) = self.kept.get(shard) {
            kept.fetch_sub(count, Ordering::AcqRel);
        }
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
        directory.release(&registry, Uid(7), first.owner_epoch);
        assert_eq!(
            directory.find(&registry, Uid(7)),
            Some((1, conn(9))),
            "the late end of the old one is harmless"
        );
        directory.release(&registry, Uid(7), second.owner_epoch);
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
    fn many_clients_of_one_application_come_back_at_once_and_one_that_is_two_does_not() {
        let (directory, registry, now) = (Directory::new(), RegistryName::default_registry(), Instant::now());
        let claim =
            |id: &str| directory.claim(now, &registry, Uid(7), (0, conn(1)), &client(id), 100).is_ok();
        for round in 0..7 {
            for n in 0..20 {
                assert_eq!(claim(&format!("worker-{n}")), round < 6, "round {round}");
            }
        }
    }

    #[test]
    fn a_principal_that_is_gone_leaves_nothing_behind_and_its_next_epoch_is_greater() {
        let (directory, registry, now) = (Directory::new(), RegistryName::default_registry(), Instant::now());
        let claim = |id: &str| {
            directory.claim(now, &registry, Uid(7), (0, conn(1)), &client(id), 1).expect("a claim")
        };
        claim("lamp");
        let second = claim("lamp");
        assert_eq!(second.older.len(), 1, "a take-over, remembered while the session lives");
        directory.release(&registry, Uid(7), second.owner_epoch);
        assert!(directory.lock().principals.values().all(HashMap::is_empty));
        assert!(claim("lamp").owner_epoch > second.owner_epoch, "a fence never goes back");
    }

    #[test]
    fn a_hundred_thousand_sessions_of_one_application_come_and_go_in_a_moment() {
        let (directory, registry, now) = (Directory::new(), RegistryName::default_registry(), Instant::now());
        let epochs: Vec<u64> = (0..100_000)
            .map(|n| {
                let id = client(&n.to_string());
                let claim =
                    directory.claim(now, &registry, Uid(7), (0, conn(n)), &id, usize::MAX).expect("in");
                claim.owner_epoch
            })
            .collect();
        assert_eq!(directory.sessions(&registry, Uid(7)), 100_000);
        epochs.iter().for_each(|epoch| directory.release(&registry, Uid(7), *epoch));
        assert!(now.elapsed() < Duration::from_secs(20), "each looked at all others: {:?}", now.elapsed());
        assert!(directory.lock().principals.values().all(HashMap::is_empty));
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
