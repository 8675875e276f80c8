//! Principals ready to log in: the record, the keys parsed, the rights compiled. Bounded, and never
//! stale: what was loaded carries the generations under which it was loaded, and a change moves them on.
//!
//! A generation is one of 65,536 counters, chosen by hash. A change commits in the store first and then
//! counts; a load reads the counters first and then the store. So whoever loaded before a commit holds
//! an old generation, and one counter shared by two names costs a reload and nothing else.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use drawbridge_identity::{Candidate, KeyRing};
use drawbridge_names::{PolicyName, PrincipalName, RegistryName};
use drawbridge_policy::{Policy, Rights};
use drawbridge_registry::{Key, Principal};

const COUNTERS: usize = 1 << 16;
const PARTS: usize = 16;
/// How many parsed policies are kept. A fleet has a handful; beyond this all are read again.
const POLICIES_MAX: usize = 1_024;

/// A principal ready to log in.
pub(crate) struct Loaded {
    pub(crate) principal: Principal,
    pub(crate) keys: Vec<Key>,
    pub(crate) ring: KeyRing,
    /// Over a connection of which nothing is known; the same over all where `conditional` is none.
    pub(crate) rights: Arc<Rights>,
    /// Over any connection: what a token may carry, what is kept for later.
    pub(crate) anywhere: Arc<Rights>,
    /// The policy, if it asks something of connections.
    pub(crate) conditional: Option<Policy>,
    pub(crate) generation: Generation,
}

impl Loaded {
    pub(crate) fn candidate(&self) -> Candidate<'_> {
        Candidate {
            name: &self.principal.name,
            ring: &self.ring,
            not_before_s: self.principal.not_before_s,
            legacy_assertions: self.principal.legacy_assertions,
            clock: self.principal.settings.clock.map(crate::challenge::device_clock),
        }
    }
}

/// When something was loaded, in the count of changes of its principal and of its policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Generation {
    principal: Stamp,
    policy: Option<Stamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    counter: usize,
    count: u64,
}

type Part = Mutex<Halves>;
type CacheKey = (RegistryName, PrincipalName);

/// When the young half is full it becomes the old one: what was not asked for meanwhile is forgotten.
#[derive(Default)]
struct Halves {
    young: HashMap<CacheKey, Arc<Loaded>>,
    old: HashMap<CacheKey, Arc<Loaded>>,
}

pub(crate) struct Cache {
    counters: Box<[AtomicU64]>,
    hasher: RandomState,
    parts: [Part; PARTS],
    half_max: usize,
    /// Nothing is found here meanwhile.
    doubted: AtomicBool,
    policies: Mutex<HashMap<(RegistryName, PolicyName), (Stamp, Policy)>>,
}

impl Cache {
    pub(crate) fn new(principals_max: usize) -> Self {
        Self {
            counters: (0..COUNTERS).map(|_| AtomicU64::new(0)).collect(),
            hasher: RandomState::new(),
            parts: std::array::from_fn(|_| Part::default()),
            half_max: (principals_max / PARTS / 2).max(1),
            doubted: AtomicBool::new(false),
            policies: Mutex::default(),
        }
    }

    /// Whether what is here is to be found.
    pub(crate) fn believe(&self, believe: bool) {
        self.doubted.store(!believe, Ordering::SeqCst);
    }

    /// To be taken before the principal is read from the store.
    pub(crate) fn stamp_principal(&self, registry: &RegistryName, name: &PrincipalName) -> Stamp {
        self.stamp(self.principal_counter(registry, name))
    }

    /// To be taken before the policy is read from the store.
    pub(crate) fn stamp_policy(&self, registry: &RegistryName, name: &PolicyName) -> Stamp {
        self.stamp(self.policy_counter(registry, name))
    }

    pub(crate) fn generation(principal: Stamp, policy: Option<Stamp>) -> Generation {
        Generation { principal, policy }
    }

    /// Whether nothing has changed since.
    pub(crate) fn is_current(&self, generation: &Generation) -> bool {
        self.stands(&generation.principal)
            && generation.policy.as_ref().is_none_or(|stamp| self.stands(stamp))
    }

    /// The principal, if it is here and nothing has changed since it was loaded.
    pub(crate) fn find(&self, registry: &RegistryName, name: &PrincipalName) -> Option<Arc<Loaded>> {
        if self.doubted.load(Ordering::SeqCst) {
            return None;
        }
        let key = (registry.clone(), name.clone());
        let mut part = self.part(&key);
        let found = part.young.get(&key).cloned().or_else(|| {
            let found = part.old.remove(&key)?;
            Self::put(&mut part, self.half_max, key.clone(), Arc::clone(&found));
            Some(found)
        })?;
        if self.is_current(&found.generation) {
            return Some(found);
        }
        part.young.remove(&key);
        None
    }

    pub(crate) fn keep(&self, loaded: Arc<Loaded>) {
        let key = (loaded.principal.registry.clone(), loaded.principal.name.clone());
        Self::put(&mut self.part(&key), self.half_max, key, loaded);
    }

    /// A policy as parsed once for all its principals, if it has not changed since.
    pub(crate) fn policy(&self, registry: &RegistryName, name: &PolicyName) -> Option<(Stamp, Policy)> {
        if self.doubted.load(Ordering::SeqCst) {
            return None;
        }
        let policies = self.policies.lock().unwrap_or_else(PoisonError::into_inner);
        let (stamp, policy) = policies.get(&(registry.clone(), name.clone()))?;
        let current = self.counters[stamp.counter].load(Ordering::SeqCst) == stamp.count;
        current.then(|| (*stamp, policy.clone()))
    }

    /// Keeps a policy; `stamp` was taken before it was read.
    pub(crate) fn keep_policy(
        &self,
        registry: &RegistryName,
        name: &PolicyName,
        stamp: Stamp,
        policy: Policy,
    ) {
        let mut policies = self.policies.lock().unwrap_or_else(PoisonError::into_inner);
        if policies.len() >= POLICIES_MAX {
            policies.clear();
        }
        policies.insert((registry.clone(), name.clone()), (stamp, policy));
    }

    /// The principal was changed; the store has committed.
    pub(crate) fn principal_changed(&self, registry: &RegistryName, name: &PrincipalName) {
        self.counters[self.principal_counter(registry, name)].fetch_add(1, Ordering::SeqCst);
    }

    /// To be taken before the CAs of a registry are read from the store.
    pub(crate) fn stamp_cas(&self, registry: &RegistryName) -> Stamp {
        self.stamp(self.counter(&(2_u8, registry.as_str(), "")))
    }

    /// The CAs of a registry were changed; the store has committed.
    pub(crate) fn cas_changed(&self, registry: &RegistryName) {
        self.counters[self.counter(&(2_u8, registry.as_str(), ""))].fetch_add(1, Ordering::SeqCst);
    }

    /// Whether what was stamped has not changed since.
    pub(crate) fn stands(&self, stamp: &Stamp) -> bool {
        self.counters[stamp.counter].load(Ordering::SeqCst) == stamp.count
    }

    /// The policy was changed; the store has committed.
    pub(crate) fn policy_changed(&self, registry: &RegistryName, name: &PolicyName) {
        self.counters[self.policy_counter(registry, name)].fetch_add(1, Ordering::SeqCst);
    }

    fn put(part: &mut Halves, half_max: usize, key: CacheKey, loaded: Arc<Loaded>) {
        if part.young.len() >= half_max {
            part.old = std::mem::take(&mut part.young);
        }
        part.young.insert(key, loaded);
    }

    fn part(&self, key: &CacheKey) -> std::sync::MutexGuard<'_, Halves> {
        let at = self.principal_counter(&key.0, &key.1) % PARTS;
        self.parts[at].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stamp(&self, counter: usize) -> Stamp {
        Stamp { counter, count: self.counters[counter].load(Ordering::SeqCst) }
    }

    fn principal_counter(&self, registry: &RegistryName, name: &PrincipalName) -> usize {
        self.counter(&(0_u8, registry.as_str(), name.as_str()))
    }

    fn policy_counter(&self, registry: &RegistryName, name: &PolicyName) -> usize {
        self.counter(&(1_u8, registry.as_str(), name.as_str()))
    }

    fn counter(&self, what: &(u8, &str, &str)) -> usize {
        usize::try_from(self.hasher.hash_one(what) % COUNTERS as u64).expect("it is below 65,536")
    }
}
