//! The store: its threads, and each method handed to the right one.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use async_trait::async_trait;
use drawbridge_names::{KeyId, PolicyName, PrincipalKind, PrincipalName, RegistryName, Uid};
use drawbridge_registry::{
    AddKey, AddPrincipal, AddRegistry, AddToken, AuditEntry, AuditHead, AuditRow, Ca, ChangeKey, Changed,
    ConfigVersion, Enrol, Enrolment, JtiMark, JtiOutcome, KeptToken, Key, KeyChange, KeyRotation, Known,
    Link, PolicyRecord, Principal, PrincipalChange, RegistryRecord, RemoveKey, RotateKey, SetConfig,
    StateReport, Store, StoreError, TokenUse,
};

use crate::file::{open_reader, open_writer};
use crate::readers::{Lists, Lookups};
use crate::writer::{Counters, Writer};
use crate::{audit, control, enrolments, jti, keys, links, policies, principals, registries, tokens};

/// The registry in one SQLite file. Works under any async runtime.
///
/// Dropping it is [`SqliteStore::close`].
pub struct SqliteStore {
    writer: Arc<Writer>,
    lookups: Lookups,
    lists: Arc<Lists>,
    listing: Mutex<Option<JoinHandle<()>>>,
    writing: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqliteStore").field("counters", &self.counters()).finish_non_exhaustive()
    }
}

impl SqliteStore {
    /// Opens the file, makes it (for its owner only) when it is not there, and raises its format when
    /// it is older. Blocks until that is done.
    ///
    /// # Errors
    /// [`StoreError::UnknownFormat`] when a newer version wrote it, [`StoreError::Corrupt`] when it is
    /// damaged or not a registry, [`StoreError::Unavailable`] when it cannot be opened. The file is
    /// left as it was.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let writing = open_writer(path)?;
        let listing = open_reader(path)?;
        let store = Self {
            writer: Writer::new(),
            lookups: Lookups::open(path)?,
            lists: Arc::new(Lists::new()),
            listing: Mutex::new(None),
            writing: Mutex::new(None),
        };
        // Should the second thread not start, dropping `store` ends the first.
        let lists = Arc::clone(&store.lists);
        start(&store.listing, "registry-lists", move || lists.run(&listing))?;
        let writer = Arc::clone(&store.writer);
        start(&store.writing, "registry-writer", move || writer.run(&writing))?;
        Ok(store)
    }

    /// Does what was asked for already, refuses all else with [`StoreError::Unavailable`], ends the
    /// threads, and folds the log into the file. Blocks until that is done; a second call does nothing.
    pub fn close(&self) {
        self.lookups.close();
        self.lists.close();
        join(&self.listing);
        // The writer last: it can empty the log only when nobody reads it any more.
        self.writer.close();
        join(&self.writing);
    }

    /// How many changes were made with how many commits since the store was opened.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.writer.counters()
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.close();
    }
}

fn start(
    place: &Mutex<Option<JoinHandle<()>>>,
    name: &str,
    run: impl FnOnce() + Send + 'static,
) -> Result<(), StoreError> {
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run);
    let thread =
        thread.map_err(|error| StoreError::Unavailable(format!("a thread could not be started: {error}")))?;
    *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
    Ok(())
}

fn join(place: &Mutex<Option<JoinHandle<()>>>) {
    let thread = place.lock().unwrap_or_else(PoisonError::into_inner).take();
    if thread.is_some_and(|thread| thread.join().is_err()) {
        tracing::error!("a thread of the registry's store has panicked");
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn add_registry(
        &self,
        record: RegistryRecord,
        audit: AuditEntry,
    ) -> Result<AddRegistry, StoreError> {
        self.writer.change(move |turn| registries::add(turn.conn, &record, &audit)).await
    }

    async fn registry(&self, name: &RegistryName) -> Result<Option<RegistryRecord>, StoreError> {
        self.lookups.read(|conn| registries::one(conn, name))
    }

    async fn registries(&self) -> Result<Vec<RegistryRecord>, StoreError> {
        self.lists.read(registries::list).await
    }

    async fn add_principal(
        &self,
        principal: Principal,
        keys: Vec<Key>,
        audit: AuditEntry,
    ) -> Result<AddPrincipal, StoreError> {
        self.writer.change(move |turn| principals::add(turn.conn, &principal, &keys, &audit)).await
    }

    async fn known(
        &self,
        registry: &RegistryName,
        name: &PrincipalName,
    ) -> Result<Option<Known>, StoreError> {
        self.lookups.read(|conn| principals::known(conn, registry, name))
    }

    async fn known_by_uid(&self, registry: &RegistryName, uid: Uid) -> Result<Option<Known>, StoreError> {
        self.lookups.read(|conn| principals::known_by_uid(conn, registry, uid))
    }

    async fn owner_of_key(
        &self,
        registry: &RegistryName,
        kid: &KeyId,
    ) -> Result<Option<(Uid, PrincipalName)>, StoreError> {
        self.lookups.read(|conn| principals::owner_of_key(conn, registry, kid))
    }

    async fn principals(
        &self,
        registry: &RegistryName,
        kind: Option<PrincipalKind>,
        after: Option<&PrincipalName>,
        limit: usize,
    ) -> Result<Vec<Known>, StoreError> {
        let (registry, after) = (registry.clone(), after.cloned());
        self.lists.read(move |conn| principals::list(conn, &registry, kind, after.as_ref(), limit)).await
    }

    async fn not_admitted(&self, registry: &RegistryName) -> Result<Vec<Uid>, StoreError> {
        self.lists
            .read({
                let registry = registry.clone();
                move |conn| principals::not_admitted(conn, &registry)
            })
            .await
    }

    async fn change_principal(
        &self,
        registry: &RegistryName,
        uid: Uid,
        change: PrincipalChange,
        revision: Option<u64>,
        audit: AuditEntry,
    ) -> Result<Changed, StoreError> {
        let registry = registry.clone();
        self.writer
            .change(move |turn| principals::change(turn.conn, &registry, uid, change, revision, &audit))
            .await
    }

    async fn delete_principal(
        &self,
        registry: &RegistryName,
        uid: Uid,
        audit: AuditEntry,
    ) -> Result<bool, StoreError> {
        let registry = registry.clone();
        self.writer.change(move |turn| principals::delete(turn.conn, &registry, uid, &audit)).await
    }

    async fn add_key(
        &self,
        registry: &RegistryName,
        uid: Uid,
        key: Key,
        active_max: usize,
        audit: AuditEntry,
    ) -> Result<AddKey, StoreError> {
        let registry = registry.clone();
        self.writer.change(move |turn| keys::add(turn.conn, &registry, uid, &key, active_max, &audit)).await
    }

    async fn remove_key(
        &self,
        registry: &RegistryName,
        uid: Uid,
        kid: &KeyId,
        also_last: bool,
        audit: AuditEntry,
    ) -> Result<RemoveKey, StoreError> {
        let (registry, kid) = (registry.clone(), kid.clone());
        self.writer.change(move |turn| keys::remove(turn.conn, &registry, uid, &kid, also_last, &audit)).await
    }

    async fn rotate_key(
        &self,
        registry: &RegistryName,
        uid: Uid,
        rotation: KeyRotation,
        now_s: u64,
        audit: AuditEntry,
    ) -> Result<RotateKey, StoreError> {
        let registry = registry.clone();
        self.writer.change(move |turn| keys::rotate(turn, &registry, uid, rotation, now_s, &audit)).await
    }

    async fn remember_jti(
        &self,
        registry: &RegistryName,
        uid: Uid,
        mark: JtiMark,
        now_s: u64,
    ) -> Result<JtiOutcome, StoreError> {
        let registry = registry.clone();
        self.writer.change(move |turn| jti::remember(turn, &registry, uid, &mark, now_s)).await
    }

    async fn lasting_jti(&self, registry: &RegistryName, kid: &KeyId) -> Result<u64, StoreError> {
        self.lookups.read(|conn| jti::lasting(conn, registry, kid))
    }

    async fn set_policy(
        &self,
        registry: &RegistryName,
        name: &PolicyName,
        source: &str,
        now_s: u64,
        audit: AuditEntry,
    ) -> Result<u64, StoreError> {
        let (registry, name, source) = (registry.clone(), name.clone(), source.to_owned());
        self.writer
            .change(move |turn| policies::set(turn.conn, &registry, &name, &source, now_s, &audit))
            .await
    }

    async fn policy(
        &self,
        registry: &RegistryName,
        name: &PolicyName,
    ) -> Result<Option<PolicyRecord>, StoreError> {
        self.lookups.read(|conn| policies::one(conn, registry, name))
    }

    async fn policies(&self, registry: &RegistryName) -> Result<Vec<PolicyRecord>, StoreError> {
        let registry = registry.clone();
        self.lists.read(move |conn| policies::list(conn, &registry)).await
    }

    async fn secret_or_insert(
        &self,
        registry: &RegistryName,
        name: &str,
        value: Vec<u8>,
    ) -> Result<Vec<u8>, StoreError> {
        let (registry, name) = (registry.clone(), name.to_owned());
        self.writer.change(move |turn| policies::secret_or_insert(turn.conn, &registry, &name, value)).await
    }

    async fn secret(&self, registry: &RegistryName, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.lookups.read(|conn| policies::secret(conn, registry, name))
    }

    async fn replace_secret(
        &self,
        registry: &RegistryName,
        name: &str,
        value: Vec<u8>,
        audit: AuditEntry,
    ) -> Result<(), StoreError> {
        let (registry, name) = (registry.clone(), name.to_owned());
        self.writer
            .change(move |turn| policies::replace_secret(turn.conn, &registry, &name, &value, &audit))
            .await
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
        let registry = registry.clone();
        self.writer
            .change(move |turn| {
                control::set_config(turn.conn, &registry, uid, &payload, expected, now_ms, &audit)
            })
            .await
    }

    async fn ack_config(
        &self,
        registry: &RegistryName,
        uid: Uid,
        version: u64,
        now_ms: u64,
    ) -> Result<bool, StoreError> {
        let registry = registry.clone();
        self.writer.change(move |turn| control::ack_config(turn.conn, &registry, uid, version, now_ms)).await
    }

    async fn config(&self, registry: &RegistryName, uid: Uid) -> Result<Option<ConfigVersion>, StoreError> {
        self.lookups.read(|conn| control::config(conn, registry, uid))
    }

    async fn configs(
        &self,
        registry: &RegistryName,
        after: Option<&PrincipalName>,
        limit: usize,
    ) -> Result<Vec<(PrincipalName, Uid, ConfigVersion)>, StoreError> {
        let (registry, after) = (registry.clone(), after.cloned());
        self.lists.read(move |conn| control::configs(conn, &registry, after.as_ref(), limit)).await
    }

    async fn add_state(
        &self,
        registry: &RegistryName,
        uid: Uid,
        state: StateReport,
    ) -> Result<(), StoreError> {
        let registry = registry.clone();
        self.writer.change(move |turn| control::add_state(turn.conn, &registry, uid, &state)).await
    }

    async fn states(&self, registry: &RegistryName, uid: Uid) -> Result<Vec<StateReport>, StoreError> {
        let registry = registry.clone();
        self.lists.read(move |conn| control::states(conn, &registry, uid)).await
    }

    async fn record(&self, registry: &RegistryName, audit: AuditEntry) -> Result<(), StoreError> {
        let registry = registry.clone();
        self.writer
            .change(move |turn| {
                registries::must_exist(turn.conn, &registry)?;
                audit::append(turn.conn, &registry, &audit)
            })
            .await
    }

    async fn audit_tail(
        &self,
        registry: &RegistryName,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<AuditRow>, StoreError> {
        let registry = registry.clone();
        self.lists.read(move |conn| audit::tail(conn, &registry, before, limit)).await
    }

    async fn change_registry(
        &self,
        record: RegistryRecord,
        audit: AuditEntry,
    ) -> Result<Option<RegistryRecord>, StoreError> {
        self.writer.change(move |turn| registries::change(turn.conn, &record, &audit)).await
    }

    async fn import_principals(
        &self,
        registry: &RegistryName,
        batch: Vec<(Principal, Vec<Key>)>,
        audit: AuditEntry,
    ) -> Result<Vec<AddPrincipal>, StoreError> {
        let registry = registry.clone();
        self.writer.change(move |turn| principals::import(turn.conn, &registry, batch, &audit)).await
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
        let (registry, old) = (registry.clone(), old.clone());
        self.writer
            .change(move |turn| {
                keys::replace(turn.conn, &registry, uid, &old, new, old_expires_s, active_max, &audit)
            })
            .await
    }

    async fn change_key(
        &self,
        registry: &RegistryName,
        uid: Uid,
        kid: &KeyId,
        change: KeyChange,
        audit: AuditEntry,
    ) -> Result<ChangeKey, StoreError> {
        let (registry, kid) = (registry.clone(), kid.clone());
        self.writer.change(move |turn| keys::change(turn.conn, &registry, uid, &kid, change, &audit)).await
    }

    async fn touch_keys(&self, registry: &RegistryName, used: Vec<(KeyId, u64)>) -> Result<(), StoreError> {
        let registry = registry.clone();
        self.writer.change(move |turn| keys::touch(turn.conn, &registry, &used)).await
    }

    async fn add_enrolment(
        &self,
        registry: &RegistryName,
        enrolment: Enrolment,
        audit: AuditEntry,
    ) -> Result<(), StoreError> {
        let registry = registry.clone();
        self.writer.change(move |turn| enrolments::add(turn.conn, &registry, &enrolment, &audit)).await
    }

    async fn enrolment_by_token(
        &self,
        registry: &RegistryName,
        token_digest: &[u8; 32],
    ) -> Result<Option<Enrolment>, StoreError> {
        self.lookups.read(|conn| enrolments::by_token(conn, registry, token_digest))
    }

    async fn enrolments(&self, registry: &RegistryName) -> Result<Vec<Enrolment>, StoreError> {
        let registry = registry.clone();
        self.lists.read(move |conn| enrolments::list(conn, &registry)).await
    }

    async fn end_enrolment(
        &self,
        registry: &RegistryName,
        id: &str,
        audit: AuditEntry,
    ) -> Result<bool, StoreError> {
        let (registry, id) = (registry.clone(), id.to_owned());
        self.writer.change(move |turn| enrolments::end(turn.conn, &registry, &id, &audit)).await
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
        let (registry, id) = (registry.clone(), id.to_owned());
        self.writer
            .change(move |turn| enrolments::enrol(turn.conn, &registry, &id, principal, &keys, now_s, &audit))
            .await
    }

    async fn undo_enrolment(
        &self,
        registry: &RegistryName,
        uid: Uid,
        audit: AuditEntry,
    ) -> Result<bool, StoreError> {
        let registry = registry.clone();
        self.writer.change(move |turn| enrolments::undo(turn.conn, &registry, uid, &audit)).await
    }

    async fn enrolled(
        &self,
        registry: &RegistryName,
        enrolment: Option<&str>,
        pending_only: bool,
        after: Option<&PrincipalName>,
        limit: usize,
    ) -> Result<Vec<Known>, StoreError> {
        let (registry, enrolment, after) = (registry.clone(), enrolment.map(str::to_owned), after.cloned());
        self.lists
            .read(move |conn| {
                let after = after.as_ref();
                enrolments::enrolled(conn, &registry, enrolment.as_deref(), pending_only, after, limit)
            })
            .await
    }

    async fn link(
        &self,
        registry: &RegistryName,
        gateway: Uid,
        device: Uid,
        on: bool,
        audit: AuditEntry,
    ) -> Result<Link, StoreError> {
        let registry = registry.clone();
        self.writer.change(move |turn| links::set(turn.conn, &registry, gateway, device, on, &audit)).await
    }

    async fn linked(&self, registry: &RegistryName, gateway: Uid, device: Uid) -> Result<bool, StoreError> {
        self.lookups.read(|conn| links::linked(conn, registry, gateway, device))
    }

    async fn linked_devices(
        &self,
        registry: &RegistryName,
        gateway: Uid,
        after: Option<&PrincipalName>,
        limit: usize,
    ) -> Result<Vec<PrincipalName>, StoreError> {
        let (registry, after) = (registry.clone(), after.cloned());
        self.lists.read(move |conn| links::devices(conn, &registry, gateway, after.as_ref(), limit)).await
    }

    async fn gateways_of(
        &self,
        registry: &RegistryName,
        device: Uid,
    ) -> Result<Vec<PrincipalName>, StoreError> {
        let registry = registry.clone();
        self.lists.read(move |conn| links::gateways(conn, &registry, device)).await
    }

    async fn add_ca(&self, registry: &RegistryName, ca: Ca, audit: AuditEntry) -> Result<bool, StoreError> {
        let registry = registry.clone();
        self.writer.change(move |turn| links::add_ca(turn.conn, &registry, &ca, &audit)).await
    }

    async fn cas(&self, registry: &RegistryName) -> Result<Vec<Ca>, StoreError> {
        let registry = registry.clone();
        self.lists.read(move |conn| links::cas(conn, &registry)).await
    }

    async fn remove_ca(
        &self,
        registry: &RegistryName,
        fingerprint: &[u8; 32],
        audit: AuditEntry,
    ) -> Result<bool, StoreError> {
        let (registry, fingerprint) = (registry.clone(), *fingerprint);
        self.writer.change(move |turn| links::remove_ca(turn.conn, &registry, &fingerprint, &audit)).await
    }

    async fn add_token(
        &self,
        registry: &RegistryName,
        token: KeptToken,
        live_max: usize,
        now_s: u64,
    ) -> Result<AddToken, StoreError> {
        let registry = registry.clone();
        self.writer.change(move |turn| tokens::add(turn, &registry, &token, live_max, now_s)).await
    }

    async fn token(
        &self,
        registry: &RegistryName,
        digest: &[u8; 32],
        now_s: u64,
    ) -> Result<Option<KeptToken>, StoreError> {
        self.lookups.read(|conn| tokens::one(conn, registry, digest, now_s))
    }

    async fn use_token(
        &self,
        registry: &RegistryName,
        digest: &[u8; 32],
        now_s: u64,
    ) -> Result<TokenUse, StoreError> {
        let (registry, digest) = (registry.clone(), *digest);
        self.writer.change(move |turn| tokens::use_token(turn, &registry, &digest, now_s)).await
    }

    async fn renew_token(
        &self,
        registry: &RegistryName,
        digest: &[u8; 32],
        successor: KeptToken,
        old_expires_s: u64,
        now_s: u64,
    ) -> Result<TokenUse, StoreError> {
        let (registry, digest) = (registry.clone(), *digest);
        self.writer
            .change(move |turn| tokens::renew(turn, &registry, &digest, &successor, old_expires_s, now_s))
            .await
    }

    async fn end_token(
        &self,
        registry: &RegistryName,
        digest: &[u8; 32],
        now_s: u64,
    ) -> Result<usize, StoreError> {
        let (registry, digest) = (registry.clone(), *digest);
        self.writer.change(move |turn| tokens::end(turn.conn, &registry, &digest, now_s)).await
    }

    async fn revoke_jti(
        &self,
        registry: &RegistryName,
        jti_digest: [u8; 16],
        until_s: u64,
    ) -> Result<(), StoreError> {
        let registry = registry.clone();
        self.writer.change(move |turn| tokens::revoke_jti(turn.conn, &registry, jti_digest, until_s)).await
    }

    async fn revoked_jtis(
        &self,
        registry: &RegistryName,
        now_s: u64,
    ) -> Result<Vec<([u8; 16], u64)>, StoreError> {
        let registry = registry.clone();
        self.lists.read(move |conn| tokens::revoked_jtis(conn, &registry, now_s)).await
    }

    async fn audit_heads(&self, registry: &RegistryName) -> Result<Vec<AuditHead>, StoreError> {
        let registry = registry.clone();
        self.lists.read(move |conn| audit::heads(conn, &registry)).await
    }

    async fn audit_rows(
        &self,
        registry: &RegistryName,
        writer: &str,
        from_seq: u64,
        limit: usize,
    ) -> Result<Vec<AuditRow>, StoreError> {
        let (registry, writer) = (registry.clone(), writer.to_owned());
        self.lists.read(move |conn| audit::rows(conn, &registry, &writer, from_seq, limit)).await
    }
}
