//! A store that can be taken down and brought back.

use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use drawbridge_names::{KeyId, PolicyName, PrincipalKind, PrincipalName, RegistryName, Uid};
use drawbridge_registry::memory::MemoryStore;
use drawbridge_registry::{
    AddKey, AddPrincipal, AddRegistry, AddToken, AuditEntry, AuditHead, AuditRow, Ca, ChangeKey, Changed,
    ConfigVersion, Enrol, Enrolment, JtiMark, JtiOutcome, KeptToken, Key, KeyChange, KeyRotation, Known,
    Link, PolicyRecord, Principal, PrincipalChange, RegistryRecord, RemoveKey, RotateKey, SetConfig,
    StateReport, Store, StoreError, TokenUse,
};

/// A memory store that answers [`StoreError::Unavailable`] while it is down, and changes nothing then; and
/// whose audit can be another than it was.
#[derive(Debug, Default)]
pub struct FlakyStore {
    inner: MemoryStore,
    down: AtomicBool,
    rewritten: AtomicBool,
}

impl FlakyStore {
    /// Takes it down, or brings it back with all it held.
    pub fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::SeqCst);
    }

    /// From now on its audit is as if somebody had written the whole of it anew, or no more.
    pub fn rewrite_audit(&self, rewritten: bool) {
        self.rewritten.store(rewritten, Ordering::SeqCst);
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

    async fn not_admitted(&self, registry: &RegistryName) -> Result<Vec<Uid>, StoreError> {
        self.up()?.not_admitted(registry).await
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

    async fn lasting_jti(&self, registry: &RegistryName, kid: &KeyId) -> Result<u64, StoreError> {
        self.up()?.lasting_jti(registry, kid).await
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

    async fn change_registry(
        &self,
        record: RegistryRecord,
        audit: AuditEntry,
    ) -> Result<Option<RegistryRecord>, StoreError> {
        self.up()?.change_registry(record, audit).await
    }

    async fn import_principals(
        &self,
        registry: &RegistryName,
        batch: Vec<(Principal, Vec<Key>)>,
        audit: AuditEntry,
    ) -> Result<Vec<AddPrincipal>, StoreError> {
        self.up()?.import_principals(registry, batch, audit).await
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
        self.up()?.replace_key(registry, uid, old, new, old_expires_s, active_max, audit).await
    }

    async fn change_key(
        &self,
        registry: &RegistryName,
        uid: Uid,
        kid: &KeyId,
        change: KeyChange,
        audit: AuditEntry,
    ) -> Result<ChangeKey, StoreError> {
        self.up()?.change_key(registry, uid, kid, change, audit).await
    }

    async fn touch_keys(&self, registry: &RegistryName, used: Vec<(KeyId, u64)>) -> Result<(), StoreError> {
        self.up()?.touch_keys(registry, used).await
    }

    async fn add_enrolment(
        &self,
        registry: &RegistryName,
        enrolment: Enrolment,
        audit: AuditEntry,
    ) -> Result<(), StoreError> {
        self.up()?.add_enrolment(registry, enrolment, audit).await
    }

    async fn enrolment_by_token(
        &self,
        registry: &RegistryName,
        token_digest: &[u8; 32],
    ) -> Result<Option<Enrolment>, StoreError> {
        self.up()?.enrolment_by_token(registry, token_digest).await
    }

    async fn enrolments(&self, registry: &RegistryName) -> Result<Vec<Enrolment>, StoreError> {
        self.up()?.enrolments(registry).await
    }

    async fn end_enrolment(
        &self,
        registry: &RegistryName,
        id: &str,
        audit: AuditEntry,
    ) -> Result<bool, StoreError> {
        self.up()?.end_enrolment(registry, id, audit).await
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
        self.up()?.enrol(registry, id, principal, keys, now_s, audit).await
    }

    async fn undo_enrolment(
        &self,
        registry: &RegistryName,
        uid: Uid,
        audit: AuditEntry,
    ) -> Result<bool, StoreError> {
        self.up()?.undo_enrolment(registry, uid, audit).await
    }

    async fn enrolled(
        &self,
        registry: &RegistryName,
        enrolment: Option<&str>,
        pending_only: bool,
        after: Option<&PrincipalName>,
        limit: usize,
    ) -> Result<Vec<Known>, StoreError> {
        self.up()?.enrolled(registry, enrolment, pending_only, after, limit).await
    }

    async fn link(
        &self,
        registry: &RegistryName,
        gateway: Uid,
        device: Uid,
        on: bool,
        audit: AuditEntry,
    ) -> Result<Link, StoreError> {
        self.up()?.link(registry, gateway, device, on, audit).await
    }

    async fn linked(&self, registry: &RegistryName, gateway: Uid, device: Uid) -> Result<bool, StoreError> {
        self.up()?.linked(registry, gateway, device).await
    }

    async fn linked_devices(
        &self,
        registry: &RegistryName,
        gateway: Uid,
        after: Option<&PrincipalName>,
        limit: usize,
    ) -> Result<Vec<PrincipalName>, StoreError> {
        self.up()?.linked_devices(registry, gateway, after, limit).await
    }

    async fn gateways_of(
        &self,
        registry: &RegistryName,
        device: Uid,
    ) -> Result<Vec<PrincipalName>, StoreError> {
        self.up()?.gateways_of(registry, device).await
    }

    async fn add_ca(&self, registry: &RegistryName, ca: Ca, audit: AuditEntry) -> Result<bool, StoreError> {
        self.up()?.add_ca(registry, ca, audit).await
    }

    async fn cas(&self, registry: &RegistryName) -> Result<Vec<Ca>, StoreError> {
        self.up()?.cas(registry).await
    }

    async fn remove_ca(
        &self,
        registry: &RegistryName,
        fingerprint: &[u8; 32],
        audit: AuditEntry,
    ) -> Result<bool, StoreError> {
        self.up()?.remove_ca(registry, fingerprint, audit).await
    }

    async fn add_token(
        &self,
        registry: &RegistryName,
        token: KeptToken,
        live_max: usize,
        now_s: u64,
    ) -> Result<AddToken, StoreError> {
        self.up()?.add_token(registry, token, live_max, now_s).await
    }

    async fn token(
        &self,
        registry: &RegistryName,
        digest: &[u8; 32],
        now_s: u64,
    ) -> Result<Option<KeptToken>, StoreError> {
        self.up()?.token(registry, digest, now_s).await
    }

    async fn use_token(
        &self,
        registry: &RegistryName,
        digest: &[u8; 32],
        now_s: u64,
    ) -> Result<TokenUse, StoreError> {
        self.up()?.use_token(registry, digest, now_s).await
    }

    async fn renew_token(
        &self,
        registry: &RegistryName,
        digest: &[u8; 32],
        successor: KeptToken,
        old_expires_s: u64,
        now_s: u64,
    ) -> Result<TokenUse, StoreError> {
        self.up()?.renew_token(registry, digest, successor, old_expires_s, now_s).await
    }

    async fn end_token(
        &self,
        registry: &RegistryName,
        digest: &[u8; 32],
        now_s: u64,
    ) -> Result<usize, StoreError> {
        self.up()?.end_token(registry, digest, now_s).await
    }

    async fn revoke_jti(
        &self,
        registry: &RegistryName,
        jti_digest: [u8; 16],
        until_s: u64,
    ) -> Result<(), StoreError> {
        self.up()?.revoke_jti(registry, jti_digest, until_s).await
    }

    async fn revoked_jtis(
        &self,
        registry: &RegistryName,
        now_s: u64,
    ) -> Result<Vec<([u8; 16], u64)>, StoreError> {
        self.up()?.revoked_jtis(registry, now_s).await
    }

    async fn audit_heads(&self, registry: &RegistryName) -> Result<Vec<AuditHead>, StoreError> {
        self.up()?.audit_heads(registry).await
    }

    async fn audit_rows(
        &self,
        registry: &RegistryName,
        writer: &str,
        from_seq: u64,
        limit: usize,
    ) -> Result<Vec<AuditRow>, StoreError> {
        let mut rows = self.up()?.audit_rows(registry, writer, from_seq, limit).await?;
        if self.rewritten.load(Ordering::SeqCst) {
            for row in &mut rows {
                row.hash[0] ^= 1;
            }
        }
        Ok(rows)
    }
}
