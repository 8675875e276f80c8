//! A store in memory: for tests and demonstrations. It keeps every promise of [`Store`] but one:
//! what it holds ends with the process.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard};

use async_trait::async_trait;
use drawbridge_names::{KeyId, PolicyName, PrincipalKind, PrincipalName, RegistryName, Uid};

use crate::audit::{CHAIN_START, WRITER_ALONE, chain_hash};
use crate::{
    AddKey, AddPrincipal, AddRegistry, AuditEntry, AuditRow, Changed, ConfigVersion, JtiMark, JtiOutcome,
    KEPT_MAX, Key, KeyRotation, KeyState, Known, PolicyRecord, Principal, PrincipalChange, RegistryRecord,
    RemoveKey, RotateKey, SetConfig, StateReport, Store, StoreError,
};

/// Registries in memory.
#[derive(Default)]
pub struct MemoryStore {
    registries: Mutex<BTreeMap<RegistryName, Registry>>,
}

impl std::fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryStore").finish_non_exhaustive()
    }
}

impl MemoryStore {
    /// A store without any registry.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> Result<MutexGuard<'_, BTreeMap<RegistryName, Registry>>, StoreError> {
        self.registries
            .lock()
            .map_err(|_| StoreError::Unavailable("an earlier change of the memory store panicked".into()))
    }

    /// Works in a registry; `absent` when there is none of this name.
    fn within<T>(
        &self,
        name: &RegistryName,
        absent: T,
        work: impl FnOnce(&mut Registry) -> T,
    ) -> Result<T, StoreError> {
        Ok(match self.lock()?.get_mut(name) {
            Some(registry) => work(registry),
            None => absent,
        })
    }

    /// Works in a registry that must be there.
    fn within_known<T>(
        &self,
        name: &RegistryName,
        work: impl FnOnce(&mut Registry) -> T,
    ) -> Result<T, StoreError> {
        match self.lock()?.get_mut(name) {
            Some(registry) => Ok(work(registry)),
            None => Err(StoreError::UnknownRegistry(name.clone())),
        }
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn add_registry(
        &self,
        record: RegistryRecord,
        audit: AuditEntry,
    ) -> Result<AddRegistry, StoreError> {
        let mut registries = self.lock()?;
        if let Some(there) = registries.get(&record.name) {
            return Ok(AddRegistry::Exists(there.record.clone()));
        }
        let mut registry = Registry::new(record);
        registry.record_audit(audit);
        registries.insert(registry.record.name.clone(), registry);
        Ok(AddRegistry::Added)
    }

    async fn registry(&self, name: &RegistryName) -> Result<Option<RegistryRecord>, StoreError> {
        self.within(name, None, |registry| Some(registry.record.clone()))
    }

    async fn registries(&self) -> Result<Vec<RegistryRecord>, StoreError> {
        Ok(self.lock()?.values().map(|registry| registry.record.clone()).collect())
    }

    async fn add_principal(
        &self,
        principal: Principal,
        keys: Vec<Key>,
        audit: AuditEntry,
    ) -> Result<AddPrincipal, StoreError> {
        let registry = principal.registry.clone();
        self.within_known(&registry, |registry| registry.add_principal(principal, keys, audit))
    }

    async fn known(
        &self,
        registry: &RegistryName,
        name: &PrincipalName,
    ) -> Result<Option<Known>, StoreError> {
        self.within(registry, None, |registry| {
            let uid = registry.names.get(name)?;
            registry.owned.get(uid).map(|owned| owned.known.clone())
        })
    }

    async fn known_by_uid(&self, registry: &RegistryName, uid: Uid) -> Result<Option<Known>, StoreError> {
        self.within(registry, None, |registry| registry.owned.get(&uid).map(|owned| owned.known.clone()))
    }

    async fn owner_of_key(
        &self,
        registry: &RegistryName,
        kid: &KeyId,
    ) -> Result<Option<(Uid, PrincipalName)>, StoreError> {
        self.within(registry, None, |registry| {
            let uid = registry.keys.get(kid)?;
            let owned = registry.owned.get(uid)?;
            Some((*uid, owned.known.principal.name.clone()))
        })
    }

    async fn principals(
        &self,
        registry: &RegistryName,
        kind: Option<PrincipalKind>,
        after: Option<&PrincipalName>,
        limit: usize,
    ) -> Result<Vec<Known>, StoreError> {
        self.within(registry, Vec::new(), |registry| {
            let wanted = |known: &Known| kind.is_none_or(|kind| known.principal.kind == kind);
            registry
                .owned_after(after)
                .filter(|owned| wanted(&owned.known))
                .take(limit)
                .map(|owned| owned.known.clone())
                .collect()
        })
    }

    async fn change_principal(
        &self,
        registry: &RegistryName,
        uid: Uid,
        change: PrincipalChange,
        revision: Option<u64>,
        audit: AuditEntry,
    ) -> Result<Changed, StoreError> {
        self.within(registry, Changed::NotFound, |registry| {
            let Some(owned) = registry.owned.get_mut(&uid) else { return Changed::NotFound };
            let principal = &mut owned.known.principal;
            if revision.is_some_and(|asked| asked != principal.revision) {
                return Changed::Stale { revision: principal.revision };
            }
            change.apply_to(principal);
            let changed = Changed::Done(principal.clone());
            registry.record_audit(audit);
            changed
        })
    }

    async fn delete_principal(
        &self,
        registry: &RegistryName,
        uid: Uid,
        audit: AuditEntry,
    ) -> Result<bool, StoreError> {
        self.within(registry, false, |registry| {
            let Some(owned) = registry.owned.remove(&uid) else { return false };
            registry.names.remove(&owned.known.principal.name);
            registry.leave(owned);
            registry.record_audit(audit);
            true
        })
    }

    async fn add_key(
        &self,
        registry: &RegistryName,
        uid: Uid,
        key: Key,
        active_max: usize,
        audit: AuditEntry,
    ) -> Result<AddKey, StoreError> {
        self.within(registry, AddKey::NotFound, |registry| registry.add_key(uid, key, active_max, audit))
    }

    async fn remove_key(
        &self,
        registry: &RegistryName,
        uid: Uid,
        kid: &KeyId,
        also_last: bool,
        audit: AuditEntry,
    ) -> Result<RemoveKey, StoreError> {
        self.within(registry, RemoveKey::NotFound, |registry| registry.remove_key(uid, kid, also_last, audit))
    }

    async fn rotate_key(
        &self,
        registry: &RegistryName,
        uid: Uid,
        rotation: KeyRotation,
        now_s: u64,
        audit: AuditEntry,
    ) -> Result<RotateKey, StoreError> {
        self.within(registry, RotateKey::OldNotActive, |registry| {
            registry.rotate_key(uid, rotation, now_s, audit)
        })
    }

    async fn remember_jti(
        &self,
        registry: &RegistryName,
        uid: Uid,
        mark: JtiMark,
        now_s: u64,
    ) -> Result<JtiOutcome, StoreError> {
        self.within(registry, JtiOutcome::KeyGone, |registry| {
            let Some(owned) = registry.owned.get_mut(&uid) else { return JtiOutcome::KeyGone };
            if !owned.known.keys.iter().any(|key| key.kid == mark.kid && key.state != KeyState::Retired) {
                return JtiOutcome::KeyGone;
            }
            let outcome = owned.judge_jti(&registry.left, &mark, now_s);
            if outcome == JtiOutcome::Fresh {
                owned.marks.insert(mark.jti_digest, mark);
            }
            outcome
        })
    }

    async fn set_policy(
        &self,
        registry: &RegistryName,
        name: &PolicyName,
        source: &str,
        now_s: u64,
        audit: AuditEntry,
    ) -> Result<u64, StoreError> {
        self.within_known(registry, |registry| {
            let revision = registry.policies.get(name).map_or(0, |policy| policy.revision) + 1;
            let policy =
                PolicyRecord { name: name.clone(), source: source.to_owned(), updated_s: now_s, revision };
            registry.policies.insert(name.clone(), policy);
            registry.record_audit(audit);
            revision
        })
    }

    async fn policy(
        &self,
        registry: &RegistryName,
        name: &PolicyName,
    ) -> Result<Option<PolicyRecord>, StoreError> {
        self.within(registry, None, |registry| registry.policies.get(name).cloned())
    }

    async fn policies(&self, registry: &RegistryName) -> Result<Vec<PolicyRecord>, StoreError> {
        self.within(registry, Vec::new(), |registry| registry.policies.values().cloned().collect())
    }

    async fn secret_or_insert(
        &self,
        registry: &RegistryName,
        name: &str,
        value: Vec<u8>,
    ) -> Result<Vec<u8>, StoreError> {
        self.within_known(registry, |registry| {
            registry.secrets.entry(name.to_owned()).or_insert(value).clone()
        })
    }

    async fn secret(&self, registry: &RegistryName, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.within(registry, None, |registry| registry.secrets.get(name).cloned())
    }

    async fn replace_secret(
        &self,
        registry: &RegistryName,
        name: &str,
        value: Vec<u8>,
        audit: AuditEntry,
    ) -> Result<(), StoreError> {
        self.within_known(registry, |registry| {
            registry.secrets.insert(name.to_owned(), value);
            registry.record_audit(audit);
        })
    }

    async fn set_config(
        &self,
        registry: &RegistryName,
        uid: Uid,
        payload: Vec<u8>,
        expected: Option<u64>,
        now_ms: u64,
        audit: AuditEntry,
    ) -> Result<SetConfig, StoreError> {
        self.within(registry, SetConfig::NotFound, |registry| {
            let Some(owned) = registry.owned.get_mut(&uid) else { return SetConfig::NotFound };
            let current = owned.configs.back().map_or(0, |config| config.version);
            if expected.is_some_and(|expected| expected != current) {
                return SetConfig::Stale { version: current };
            }
            let version = current + 1;
            let config = ConfigVersion { version, payload, set_ms: now_ms, acked_ms: None };
            push_bounded(&mut owned.configs, config);
            registry.record_audit(audit);
            SetConfig::Set { version }
        })
    }

    async fn ack_config(
        &self,
        registry: &RegistryName,
        uid: Uid,
        version: u64,
        now_ms: u64,
    ) -> Result<bool, StoreError> {
        self.within(registry, false, |registry| {
            let configs = registry.owned.get_mut(&uid).map(|owned| owned.configs.iter_mut());
            match configs.and_then(|mut configs| configs.find(|config| config.version == version)) {
                Some(config) => {
                    config.acked_ms.get_or_insert(now_ms);
                    true
                }
                None => false,
            }
        })
    }

    async fn config(&self, registry: &RegistryName, uid: Uid) -> Result<Option<ConfigVersion>, StoreError> {
        self.within(registry, None, |registry| registry.owned.get(&uid)?.configs.back().cloned())
    }

    async fn configs(
        &self,
        registry: &RegistryName,
        after: Option<&PrincipalName>,
        limit: usize,
    ) -> Result<Vec<(PrincipalName, Uid, ConfigVersion)>, StoreError> {
        self.within(registry, Vec::new(), |registry| {
            registry
                .owned_after(after)
                .filter_map(|owned| {
                    let principal = &owned.known.principal;
                    Some((principal.name.clone(), principal.uid, owned.configs.back()?.clone()))
                })
                .take(limit)
                .collect()
        })
    }

    async fn add_state(
        &self,
        registry: &RegistryName,
        uid: Uid,
        state: StateReport,
    ) -> Result<(), StoreError> {
        self.within(registry, (), |registry| {
            if let Some(owned) = registry.owned.get_mut(&uid) {
                push_bounded(&mut owned.states, state);
            }
        })
    }

    async fn states(&self, registry: &RegistryName, uid: Uid) -> Result<Vec<StateReport>, StoreError> {
        self.within(registry, Vec::new(), |registry| {
            registry
                .owned
                .get(&uid)
                .map_or_else(Vec::new, |owned| owned.states.iter().rev().cloned().collect())
        })
    }

    async fn record(&self, registry: &RegistryName, audit: AuditEntry) -> Result<(), StoreError> {
        self.within_known(registry, |registry| registry.record_audit(audit))
    }

    async fn audit_tail(
        &self,
        registry: &RegistryName,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<AuditRow>, StoreError> {
        self.within(registry, Vec::new(), |registry| {
            let rows = registry.audit.iter().rev();
            rows.filter(|row| before.is_none_or(|before| row.seq < before)).take(limit).cloned().collect()
        })
    }
}

struct Registry {
    record: RegistryRecord,
    names: BTreeMap<PrincipalName, Uid>,
    owned: HashMap<Uid, Owned>,
    /// Every number ever used.
    uids: HashSet<Uid>,
    keys: HashMap<KeyId, Uid>,
    /// Keys that were retired when their principal was deleted: never registered again.
    spent_keys: HashSet<KeyId>,
    /// The marks of deleted principals, by key and digest: a key that comes back brings none of the
    /// JWTs back that it was used with.
    left: HashMap<(KeyId, [u8; 16]), JtiMark>,
    policies: BTreeMap<PolicyName, PolicyRecord>,
    secrets: HashMap<String, Vec<u8>>,
    audit: Vec<AuditRow>,
}

/// A principal with all that is its own.
struct Owned {
    known: Known,
    marks: HashMap<[u8; 16], JtiMark>,
    configs: VecDeque<ConfigVersion>,
    states: VecDeque<StateReport>,
}

impl Registry {
    fn new(record: RegistryRecord) -> Self {
        Self {
            record,
            names: BTreeMap::new(),
            owned: HashMap::new(),
            uids: HashSet::new(),
            keys: HashMap::new(),
            spent_keys: HashSet::new(),
            left: HashMap::new(),
            policies: BTreeMap::new(),
            secrets: HashMap::new(),
            audit: Vec::new(),
        }
    }

    fn record_audit(&mut self, entry: AuditEntry) {
        let (seq, prev) = self.audit.last().map_or((1, CHAIN_START), |row| (row.seq + 1, row.hash));
        let registry = self.record.name.clone();
        let hash = chain_hash(&prev, registry.as_str(), WRITER_ALONE, seq, &entry);
        self.audit.push(AuditRow { registry, writer: WRITER_ALONE.to_owned(), seq, prev, hash, entry });
    }

    fn owned_after(&self, after: Option<&PrincipalName>) -> impl Iterator<Item = &Owned> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.names
            .range::<PrincipalName, _>((from, Bound::Unbounded))
            .filter_map(|(_, uid)| self.owned.get(uid))
    }

    fn add_principal(&mut self, principal: Principal, keys: Vec<Key>, audit: AuditEntry) -> AddPrincipal {
        if let Some(there) = self.names.get(&principal.name).and_then(|uid| self.owned.get(uid)) {
            return AddPrincipal::NameTaken(there.known.principal.kind);
        }
        if self.uids.contains(&principal.uid) {
            return AddPrincipal::UidTaken;
        }
        for (at, key) in keys.iter().enumerate() {
            let twice = keys[..at].iter().any(|earlier| earlier.kid == key.kid);
            if twice || self.is_taken(&key.kid) {
                return AddPrincipal::KeyInUse(key.kid.clone());
            }
        }
        let uid = principal.uid;
        self.uids.insert(uid);
        self.names.insert(principal.name.clone(), uid);
        self.keys.extend(keys.iter().map(|key| (key.kid.clone(), uid)));
        let owned = Owned {
            known: Known { principal, keys },
            marks: HashMap::new(),
            configs: VecDeque::new(),
            states: VecDeque::new(),
        };
        self.owned.insert(uid, owned);
        self.record_audit(audit);
        AddPrincipal::Added
    }

    /// Whether a key is somebody's, or may be nobody's any more.
    fn is_taken(&self, kid: &KeyId) -> bool {
        self.keys.contains_key(kid) || self.spent_keys.contains(kid)
    }

    /// What stays of a principal that is deleted.
    fn leave(&mut self, owned: Owned) {
        let is_retired = |kid: &KeyId| {
            owned.known.keys.iter().any(|key| key.kid == *kid && key.state == KeyState::Retired)
        };
        for key in &owned.known.keys {
            self.keys.remove(&key.kid);
            if key.state == KeyState::Retired {
                self.spent_keys.insert(key.kid.clone());
            }
        }
        for mark in owned.marks.into_values().filter(|mark| !is_retired(&mark.kid)) {
            self.left.insert((mark.kid.clone(), mark.jti_digest), mark);
        }
    }

    fn add_key(&mut self, uid: Uid, key: Key, active_max: usize, audit: AuditEntry) -> AddKey {
        let Some(owned) = self.owned.get(&uid) else { return AddKey::NotFound };
        if let Some(there) = owned.key(&key.kid) {
            return AddKey::AlreadyThere(there.clone());
        }
        if self.is_taken(&key.kid) {
            return AddKey::InUse;
        }
        let Some(owned) = self.owned.get_mut(&uid) else { return AddKey::NotFound };
        let active = owned.active();
        if active >= active_max {
            return AddKey::TooMany { active };
        }
        self.keys.insert(key.kid.clone(), uid);
        owned.known.keys.push(key);
        owned.known.principal.revision += 1;
        self.record_audit(audit);
        AddKey::Added
    }

    fn remove_key(&mut self, uid: Uid, kid: &KeyId, also_last: bool, audit: AuditEntry) -> RemoveKey {
        let Some(owned) = self.owned.get_mut(&uid) else { return RemoveKey::NotFound };
        let active = owned.active();
        let Some(key) = owned.known.keys.iter_mut().find(|key| key.kid == *kid) else {
            return RemoveKey::NotFound;
        };
        match key.state {
            KeyState::Retired => return RemoveKey::NotFound,
            KeyState::Active if active == 1 && !also_last => return RemoveKey::LastKey,
            KeyState::Active | KeyState::Grace => key.state = KeyState::Retired,
        }
        owned.marks.retain(|_, mark| mark.until_s.is_some() || mark.kid != *kid);
        self.left.retain(|_, mark| mark.kid != *kid);
        owned.known.principal.revision += 1;
        self.record_audit(audit);
        RemoveKey::Removed
    }

    /// The order of the questions is part of the promise: see [`RotateKey`].
    fn rotate_key(&mut self, uid: Uid, rotation: KeyRotation, now_s: u64, audit: AuditEntry) -> RotateKey {
        let KeyRotation { old, mut new, old_expires_s, mark, active_max } = rotation;
        let new_is_taken = self.is_taken(&new.kid);
        let Some(owned) = self.owned.get_mut(&uid).filter(|owned| !owned.known.principal.blocked) else {
            return RotateKey::OldNotActive;
        };
        let jti = owned.judge_jti(&self.left, &mark, now_s);
        if let JtiOutcome::Seen { token_digest } = jti {
            return RotateKey::Seen { token_digest };
        }
        if let Some(there) = owned.key(&new.kid) {
            return RotateKey::AlreadyThere(there.clone());
        }
        let active = owned.active();
        let old = owned.known.keys.iter_mut().find(|key| key.kid == old && key.state == KeyState::Active);
        let Some(old) = old else { return RotateKey::OldNotActive };
        if new_is_taken {
            return RotateKey::InUse;
        }
        if active + usize::from(old_expires_s.is_none()) > active_max {
            return RotateKey::TooMany { active };
        }
        // A key full of lasting marks has room for the one that replaces it: that is the way out.
        if jti == JtiOutcome::Full && mark.until_s.is_some() {
            return RotateKey::JtiFull;
        }
        if let Some(grace_end_s) = old_expires_s {
            old.state = KeyState::Grace;
            old.expires_s = Some(old.expires_s.map_or(grace_end_s, |end_s| end_s.min(grace_end_s)));
        }
        new.state = KeyState::Active;
        self.keys.insert(new.kid.clone(), uid);
        owned.known.keys.push(new);
        owned.marks.insert(mark.jti_digest, mark);
        owned.known.principal.revision += 1;
        self.record_audit(audit);
        RotateKey::Rotated
    }
}

impl Owned {
    fn key(&self, kid: &KeyId) -> Option<&Key> {
        self.known.keys.iter().find(|key| key.kid == *kid)
    }

    fn active(&self) -> usize {
        self.known.keys.iter().filter(|key| key.state == KeyState::Active).count()
    }

    /// Whether a `jti` could be remembered now; forgets those whose time is over.
    fn judge_jti(
        &mut self,
        left: &HashMap<(KeyId, [u8; 16]), JtiMark>,
        mark: &JtiMark,
        now_s: u64,
    ) -> JtiOutcome {
        let is_live = |mark: &JtiMark| mark.until_s.is_none_or(|until_s| until_s > now_s);
        self.marks.retain(|_, mark| is_live(mark));
        let left = || left.get(&(mark.kid.clone(), mark.jti_digest)).filter(|mark| is_live(mark));
        if let Some(seen) = self.marks.get(&mark.jti_digest).or_else(left) {
            return JtiOutcome::Seen { token_digest: seen.token_digest };
        }
        let same_sort = |other: &&JtiMark| match mark.until_s {
            Some(_) => other.until_s.is_some(),
            None => other.until_s.is_none() && other.kid == mark.kid,
        };
        if self.marks.values().filter(same_sort).count() >= mark.live_max {
            return JtiOutcome::Full;
        }
        JtiOutcome::Fresh
    }
}

fn push_bounded<T>(kept: &mut VecDeque<T>, newest: T) {
    if kept.len() == KEPT_MAX {
        kept.pop_front();
    }
    kept.push_back(newest);
}
