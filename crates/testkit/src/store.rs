//! A store that can be taken down and brought back.

use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use drawbridge_names::{KeyId, PolicyName, PrincipalKind, PrincipalName, RegistryName, Uid};
use drawbridge_registry::memory::MemoryStore;
use drawbridge_registry::{
    AddKey, AddPrincipal, AddRegistry, AuditEntry, AuditRow, Changed, ConfigVersion, JtiMark, JtiOutcome,
    Key, KeyRotation, Known, PolicyRecord, Principal, PrincipalChange, RegistryRecord, RemoveKey, RotateKey,
    SetConfig, StateReport, Store, StoreError,
};

/// A memory store that answers [`StoreError::Unavailable`] while it is down, and changes nothing then.
#[derive(Debug, Default)]
pub struct FlakyStore {
    inner: MemoryStore,
    down: AtomicBool,
}

impl FlakyStore {
    /// Takes it down, or brings it back with all it held.
    pub fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::SeqCst);
    }

    fn up(&self) -> Result<&MemoryStore, StoreError> {
        if self.down.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable("the test has taken it down".into()));
        }
        Ok(&self.inner)
    }
}

#[async_trait]
impl Store for FlakyStore {
    async fn add_registry(
        &self,
        record: RegistryRecord,
        audit: AuditEntry,
    ) -> Result<AddRegistry, StoreError> {
        self.up()?.add_registry(record, audit).await
    }

    async fn registry(&self, name: &RegistryName) -> Result<Option<RegistryRecord>, StoreError> {
        self.up()?.registry(name).await
    }

    async fn registries(&self) -> Result<Vec<RegistryRecord>, StoreError> {
        self.up()?.registries().await
    }

    async fn add_principal(
        &self,
        principal: Principal,
        keys: Vec<Key>,
        audit: AuditEntry,
    ) -> Result<AddPrincipal, StoreError> {
        self.up()?.add_principal(principal, keys, audit).await
    }

    async fn known(
        &self,
        registry: &RegistryName,
        name: &PrincipalName,
    ) -> Result<Option<Known>, StoreError> {
        self.up()?.known(registry, name).await
    }

    async fn known_by_uid(&self, registry: &RegistryName, uid: Uid) -> Result<Option<Known>, StoreError> {
        self.up()?.known_by_uid(registry, uid).await
    }

    async fn owner_of_key(
        &self,
        registry: &RegistryName,
        kid: &KeyId,
    ) -> Result<Option<(Uid, PrincipalName)>, StoreError> {
        self.up()?.owner_of_key(registry, kid).await
    }

    async fn principals(
        &self,
        registry: &RegistryName,
        kind: Option<PrincipalKind>,
        after: Option<&PrincipalName>,
        limit: usize,
    ) -> Result<Vec<Known>, StoreError> {
        self.up()?.principals(registry, kind, after, limit).await
    }

    async fn change_principal(
        &self,
        registry: &RegistryName,
        uid: Uid,
        change: PrincipalChange,
        revision: Option<u64>,
        audit: AuditEntry,
    ) -> Result<Changed, StoreError> {
        self.up()?.change_principal(registry, uid, change, revision, audit).await
    }

    async fn delete_principal(
        &self,
        registry: &RegistryName,
        uid: Uid,
        audit: AuditEntry,
    ) -> Result<bool, StoreError> {
        self.up()?.delete_principal(registry, uid, audit).await
    }

    async fn add_key(
        &self,
        registry: &RegistryName,
        uid: Uid,
        key: Key,
        active_max: usize,
        audit: AuditEntry,
    ) -> Result<AddKey, StoreError> {
        self.up()?.add_key(registry, uid, key, active_max, audit).await
    }

    async fn remove_key(
        &self,
        registry: &RegistryName,
        uid: Uid,
        kid: &KeyId,
        also_last: bool,
        audit: AuditEntry,
    ) -> Result<RemoveKey, StoreError> {
        self.up()?.remove_key(registry, uid, kid, also_last, audit).await
    }

    async fn rotate_key(
        &self,
        registry: &RegistryName,
        uid: Uid,
        rotation: KeyRotation,
        now_s: u64,
        audit: AuditEntry,
    ) -> Result<RotateKey, StoreError> {
        self.up()?.rotate_key(registry, uid, rotation, now_s, audit).await
    }

    async fn remember_jti(
        &self,
        registry: &RegistryName,
        uid: Uid,
        mark: JtiMark,
        now_s: u64,
    ) -> Result<JtiOutcome, StoreError> {
        self.up()?.remember_jti(registry, uid, mark, now_s).await
    }

    async fn set_policy(
        &self,
        registry: &RegistryName,
        name: &PolicyName,
        source: &str,
        now_s: u64,
        audit: AuditEntry,
    ) -> Result<u64, StoreError> {
        self.up()?.set_policy(registry, name, source, now_s, audit).await
    }

    async fn policy(
        &self,
        registry: &RegistryName,
        name: &PolicyName,
    ) -> Result<Option<PolicyRecord>, StoreError> {
        self.up()?.policy(registry, name).await
    }

    async fn policies(&self, registry: &RegistryName) -> Result<Vec<PolicyRecord>, StoreError> {
        self.up()?.policies(registry).await
    }

    async fn secret_or_insert(
        &self,
        registry: &RegistryName,
        name: &str,
        value: Vec<u8>,
    ) -> Result<Vec<u8>, StoreError> {
        self.up()?.secret_or_insert(registry, name, value).await
    }

    async fn secret(&self, registry: &RegistryName, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.up()?.secret(registry, name).await
    }

    async fn replace_secret(
        &self,
        registry: &RegistryName,
        name: &str,
        value: Vec<u8>,
        audit: AuditEntry,
    ) -> Result<(), StoreError> {
        self.up()?.replace_secret(registry, name, value, audit).await
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
        self.up()?.set_config(registry, uid, payload, expected, now_ms, audit).await
    }

    async fn ack_config(
        &self,
        registry: &RegistryName,
        uid: Uid,
        version: u64,
        now_ms: u64,
    ) -> Result<bool, StoreError> {
        self.up()?.ack_config(registry, uid, version, now_ms).await
    }

    async fn config(&self, registry: &RegistryName, uid: Uid) -> Result<Option<ConfigVersion>, StoreError> {
        self.up()?.config(registry, uid).await
    }

    async fn configs(
        &self,
        registry: &RegistryName,
        after: Option<&PrincipalName>,
        limit: usize,
    ) -> Result<Vec<(PrincipalName, Uid, ConfigVersion)>, StoreError> {
        self.up()?.configs(registry, after, limit).await
    }

    async fn add_state(
        &self,
        registry: &RegistryName,
        uid: Uid,
        state: StateReport,
    ) -> Result<(), StoreError> {
        self.up()?.add_state(registry, uid, state).await
    }

    async fn states(&self, registry: &RegistryName, uid: Uid) -> Result<Vec<StateReport>, StoreError> {
        self.up()?.states(registry, uid).await
    }

    async fn record(&self, registry: &RegistryName, audit: AuditEntry) -> Result<(), StoreError> {
        self.up()?.record(registry, audit).await
    }

    async fn audit_tail(
        &self,
        registry: &RegistryName,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<AuditRow>, StoreError> {
        self.up()?.audit_tail(registry, before, limit).await
    }
}
