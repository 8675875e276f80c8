//! A store in memory: for tests and demonstrations. It keeps every promise of [`Store`] but one:
//! what it holds ends with the process.

mod enrolments;
mod keys;
mod tokens;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard};

use async_trait::async_trait;
use drawbridge_names::{KeyId, PolicyName, PrincipalKind, PrincipalName, RegistryName, Uid};

use crate::audit::{CHAIN_START, WRITER_ALONE, chain_hash};
use crate::{
    AddKey, AddPrincipal, AddRegistry, AddToken, AuditEntry, AuditHead, AuditRow, Ca, ChangeKey, Changed,
    ConfigVersion, Enrol, Enrolment, JtiMark, JtiOutcome, KEPT_MAX, KeptToken, Key, KeyChange, KeyRotation,
    KeyState, Known, Link, PolicyRecord, Principal, PrincipalChange, RegistryRecord, RemoveKey, RotateKey,
    SetConfig, StateReport, Store, StoreError, TokenUse,
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

    async fn not_admitted(&self, registry: &RegistryName) -> Result<Vec<Uid>, StoreError> {
        self.within(registry, Vec::new(), |registry| {
            let all = registry.owned.iter();
            let of = |owned: &Principal| owned.blocked || owned.pending;
            all.filter(|(_, owned)| of(&owned.known.principal)).map(|(uid, _)| *uid).collect()
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
        self.within(registry, false, |registry| registry.delete_principal(uid, audit))
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

    async fn lasting_jti(&self, registry: &RegistryName, kid: &KeyId) -> Result<u64, StoreError> {
        self.within(registry, 0, |registry| {
            let owned = registry.keys.get(kid).and_then(|uid| registry.owned.get(uid));
            let is_counted = |mark: &&JtiMark| mark.until_s.is_none() && mark.kid == *kid;
            owned.map_or(0, |owned| owned.marks.values().filter(is_counted).count() as u64)
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

    async fn change_registry(
        &self,
        record: RegistryRecord,
        audit: AuditEntry,
    ) -> Result<Option<RegistryRecord>, StoreError> {
        let name = record.name.clone();
        self.within(&name, None, |registry| {
            registry.record.clock_skew_s = record.clock_skew_s;
            registry.record.token_life_s = record.token_life_s;
            registry.record.settings = record.settings;
            registry.record_audit(audit);
            Some(registry.record.clone())
        })
    }

    async fn import_principals(
        &self,
        registry: &RegistryName,
        batch: Vec<(Principal, Vec<Key>)>,
        audit: AuditEntry,
    ) -> Result<Vec<AddPrincipal>, StoreError> {
        self.within_known(registry, |registry| registry.import_principals(batch, audit))
    }

    async fn replace_key(
        &self,
        registry: &RegistryName,
        uid: Uid,
        old: &KeyId,
        new: Key,
        old_expires_s: u64,
        active_max: usize,
        audit: AuditEntry,
    ) -> Result<RotateKey, StoreError> {
        self.within(registry, RotateKey::OldNotActive, |registry| {
            registry.replace_key(uid, old, new, old_expires_s, active_max, audit)
        })
    }

    async fn change_key(
        &self,
        registry: &RegistryName,
        uid: Uid,
        kid: &KeyId,
        change: KeyChange,
        audit: AuditEntry,
    ) -> Result<ChangeKey, StoreError> {
        self.within(registry, ChangeKey::NotFound, |registry| registry.change_key(uid, kid, change, audit))
    }

    async fn touch_keys(&self, registry: &RegistryName, used: Vec<(KeyId, u64)>) -> Result<(), StoreError> {
        self.within(registry, (), |registry| registry.touch_keys(used))
    }

    async fn add_enrolment(
        &self,
        registry: &RegistryName,
        enrolment: Enrolment,
        audit: AuditEntry,
    ) -> Result<(), StoreError> {
        self.within_known(registry, |registry| {
            registry.enrolments.insert(enrolment.id.clone(), enrolment);
            registry.record_audit(audit);
        })
    }

    async fn enrolment_by_token(
        &self,
        registry: &RegistryName,
        token_digest: &[u8; 32],
    ) -> Result<Option<Enrolment>, StoreError> {
        self.within(registry, None, |registry| {
            registry.enrolments.values().find(|enrolment| enrolment.token_digest == *token_digest).cloned()
        })
    }

    async fn enrolments(&self, registry: &RegistryName) -> Result<Vec<Enrolment>, StoreError> {
        self.within(registry, Vec::new(), |registry| registry.enrolments())
    }

    async fn end_enrolment(
        &self,
        registry: &RegistryName,
        id: &str,
        audit: AuditEntry,
    ) -> Result<bool, StoreError> {
        self.within(registry, false, |registry| registry.end_enrolment(id, audit))
    }

    async fn enrol(
        &self,
        registry: &RegistryName,
        id: &str,
        principal: Principal,
        keys: Vec<Key>,
        now_s: u64,
        audit: AuditEntry,
    ) -> Result<Enrol, StoreError> {
        self.within(registry, Enrol::Ended, |registry| registry.enrol(id, principal, keys, now_s, audit))
    }

    async fn undo_enrolment(
        &self,
        registry: &RegistryName,
        uid: Uid,
        audit: AuditEntry,
    ) -> Result<bool, StoreError> {
        self.within(registry, false, |registry| registry.undo_enrolment(uid, audit))
    }

    async fn enrolled(
        &self,
        registry: &RegistryName,
        enrolment: Option<&str>,
        pending_only: bool,
        after: Option<&PrincipalName>,
        limit: usize,
    ) -> Result<Vec<Known>, StoreError> {
        self.within(registry, Vec::new(), |registry| {
            registry
                .owned_after(after)
                .filter(|owned| Registry::is_enrolled(&owned.known, enrolment, pending_only))
                .take(limit)
                .map(|owned| owned.known.clone())
                .collect()
        })
    }

    async fn link(
        &self,
        registry: &RegistryName,
        gateway: Uid,
        device: Uid,
        on: bool,
        audit: AuditEntry,
    ) -> Result<Link, StoreError> {
        self.within(registry, Link::NotFound, |registry| {
            if !registry.owned.contains_key(&gateway) || !registry.owned.contains_key(&device) {
                return Link::NotFound;
            }
            let pair = (gateway, device);
            let changed = if on { registry.links.insert(pair) } else { registry.links.remove(&pair) };
            if !changed {
                return Link::Unchanged;
            }
            registry.record_audit(audit);
            Link::Changed
        })
    }

    async fn linked(&self, registry: &RegistryName, gateway: Uid, device: Uid) -> Result<bool, StoreError> {
        self.within(registry, false, |registry| registry.links.contains(&(gateway, device)))
    }

    async fn linked_devices(
        &self,
        registry: &RegistryName,
        gateway: Uid,
        after: Option<&PrincipalName>,
        limit: usize,
    ) -> Result<Vec<PrincipalName>, StoreError> {
        self.within(registry, Vec::new(), |registry| {
            registry
                .owned_after(after)
                .map(|owned| &owned.known.principal)
                .filter(|device| registry.links.contains(&(gateway, device.uid)))
                .take(limit)
                .map(|device| device.name.clone())
                .collect()
        })
    }

    async fn gateways_of(
        &self,
        registry: &RegistryName,
        device: Uid,
    ) -> Result<Vec<PrincipalName>, StoreError> {
        self.within(registry, Vec::new(), |registry| {
            registry
                .owned_after(None)
                .map(|owned| &owned.known.principal)
                .filter(|gateway| registry.links.contains(&(gateway.uid, device)))
                .map(|gateway| gateway.name.clone())
                .collect()
        })
    }

    async fn add_ca(&self, registry: &RegistryName, ca: Ca, audit: AuditEntry) -> Result<bool, StoreError> {
        self.within_known(registry, |registry| {
            if registry.cas.contains_key(&ca.fingerprint) {
                return false;
            }
            registry.cas.insert(ca.fingerprint, ca);
            registry.record_audit(audit);
            true
        })
    }

    async fn cas(&self, registry: &RegistryName) -> Result<Vec<Ca>, StoreError> {
        self.within(registry, Vec::new(), |registry| registry.cas.values().cloned().collect())
    }

    async fn remove_ca(
        &self,
        registry: &RegistryName,
        fingerprint: &[u8; 32],
        audit: AuditEntry,
    ) -> Result<bool, StoreError> {
        self.within(registry, false, |registry| {
            if registry.cas.remove(fingerprint).is_none() {
                return false;
            }
            registry.record_audit(audit);
            true
        })
    }

    async fn add_token(
        &self,
        registry: &RegistryName,
        token: KeptToken,
        live_max: usize,
        now_s: u64,
    ) -> Result<AddToken, StoreError> {
        self.within(registry, AddToken::Gone, |registry| registry.add_token(token, live_max, now_s))
    }

    async fn token(
        &self,
        registry: &RegistryName,
        digest: &[u8; 32],
        now_s: u64,
    ) -> Result<Option<KeptToken>, StoreError> {
        self.within(registry, None, |registry| registry.token(digest, now_s).cloned())
    }

    async fn use_token(
        &self,
        registry: &RegistryName,
        digest: &[u8; 32],
        now_s: u64,
    ) -> Result<TokenUse, StoreError> {
        self.within(registry, TokenUse::Gone, |registry| registry.use_token(digest, now_s))
    }

    async fn renew_token(
        &self,
        registry: &RegistryName,
        digest: &[u8; 32],
        successor: KeptToken,
        old_expires_s: u64,
        now_s: u64,
    ) -> Result<TokenUse, StoreError> {
        self.within(registry, TokenUse::Gone, |registry| {
            registry.renew_token(digest, successor, old_expires_s, now_s)
        })
    }

    async fn end_token(
        &self,
        registry: &RegistryName,
        digest: &[u8; 32],
        now_s: u64,
    ) -> Result<usize, StoreError> {
        self.within(registry, 0, |registry| registry.end_token(digest, now_s))
    }

    async fn revoke_jti(
        &self,
        registry: &RegistryName,
        jti_digest: [u8; 16],
        until_s: u64,
    ) -> Result<(), StoreError> {
        self.within_known(registry, |registry| {
            let kept_s = registry.revoked.entry(jti_digest).or_default();
            *kept_s = until_s.max(*kept_s);
        })
    }

    async fn revoked_jtis(
        &self,
        registry: &RegistryName,
        now_s: u64,
    ) -> Result<Vec<([u8; 16], u64)>, StoreError> {
        self.within(registry, Vec::new(), |registry| {
            let live = registry.revoked.iter().filter(|(_, until_s)| **until_s > now_s);
            live.map(|(jti_digest, until_s)| (*jti_digest, *until_s)).collect()
        })
    }

    async fn audit_heads(&self, registry: &RegistryName) -> Result<Vec<AuditHead>, StoreError> {
        self.within(registry, Vec::new(), |registry| {
            let newest = registry.audit.last();
            newest.map(AuditRow::head).into_iter().collect()
        })
    }

    async fn audit_rows(
        &self,
        registry: &RegistryName,
        writer: &str,
        from_seq: u64,
        limit: usize,
    ) -> Result<Vec<AuditRow>, StoreError> {
        self.within(registry, Vec::new(), |registry| {
            let wanted = |row: &&AuditRow| row.writer == writer && row.seq >= from_seq;
            registry.audit.iter().filter(wanted).take(limit).cloned().collect()
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
    enrolments: BTreeMap<String, Enrolment>,
    /// Gateway, device.
    links: BTreeSet<(Uid, Uid)>,
    cas: BTreeMap<[u8; 32], Ca>,
    tokens: HashMap<[u8; 32], KeptToken>,
    /// The `jti` of revoked tokens, with their ends.
    revoked: BTreeMap<[u8; 16], u64>,
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
            enrolments: BTreeMap::new(),
            links: BTreeSet::new(),
            cas: BTreeMap::new(),
            tokens: HashMap::new(),
            revoked: BTreeMap::new(),
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
        if let Some(refused) = self.refusal(&principal, &keys) {
            return refused;
        }
        self.insert(principal, keys);
        self.record_audit(audit);
        AddPrincipal::Added
    }

    fn import_principals(
        &mut self,
        batch: Vec<(Principal, Vec<Key>)>,
        audit: AuditEntry,
    ) -> Vec<AddPrincipal> {
        let mut add = |(principal, keys): (Principal, Vec<Key>)| {
            let refused = self.refusal(&principal, &keys);
            refused.unwrap_or_else(|| {
                self.insert(Principal { registry: self.record.name.clone(), ..principal }, keys);
                AddPrincipal::Added
            })
        };
        let answers: Vec<AddPrincipal> = batch.into_iter().map(&mut add).collect();
        if answers.contains(&AddPrincipal::Added) {
            self.record_audit(audit);
        }
        answers
    }

    /// Why a principal cannot be registered, if it cannot.
    fn refusal(&self, principal: &Principal, keys: &[Key]) -> Option<AddPrincipal> {
        if let Some(there) = self.names.get(&principal.name).and_then(|uid| self.owned.get(uid)) {
            return Some(AddPrincipal::NameTaken(there.known.principal.kind));
        }
        if self.uids.contains(&principal.uid) {
            return Some(AddPrincipal::UidTaken);
        }
        let taken = |(at, key): (usize, &Key)| {
            let twice = keys[..at].iter().any(|earlier| earlier.kid == key.kid);
            (twice || self.is_taken(&key.kid)).then(|| AddPrincipal::KeyInUse(key.kid.clone()))
        };
        keys.iter().enumerate().find_map(taken)
    }

    /// Keeps a principal that [`Self::refusal`] lets through.
    fn insert(&mut self, principal: Principal, keys: Vec<Key>) {
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
    }

    fn delete_principal(&mut self, uid: Uid, audit: AuditEntry) -> bool {
        let Some(owned) = self.owned.remove(&uid) else { return false };
        self.names.remove(&owned.known.principal.name);
        self.tokens.retain(|_, token| token.uid != uid);
        self.links.retain(|(gateway, device)| *gateway != uid && *device != uid);
        self.leave(owned);
        self.record_audit(audit);
        true
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
}

fn push_bounded<T>(kept: &mut VecDeque<T>, newest: T) {
    if kept.len() == KEPT_MAX {
        kept.pop_front();
    }
    kept.push_back(newest);
}
