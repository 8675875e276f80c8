//! The store: each method handed to its step.

use std::sync::Arc;

use async_trait::async_trait;
use drawbridge_names::{KeyId, PolicyName, PrincipalKind, PrincipalName, RegistryName, Uid};
use drawbridge_registry::{
    AddKey, AddPrincipal, AddRegistry, AddToken, AuditEntry, AuditHead, AuditRow, Ca, ChangeKey, Changed,
    ConfigVersion, Enrol, Enrolment, JtiMark, JtiOutcome, KeptToken, Key, KeyChange, KeyRotation, Known,
    Link, PolicyRecord, Principal, PrincipalChange, RegistryRecord, RemoveKey, RotateKey, SetConfig,
    StateReport, Store, StoreError, TokenUse,
};

use crate::connection::Connection;
use crate::marks::Marks;
use crate::pool::Pool;
use crate::sole::SoleServer;
use crate::sweep::Sweep;
use crate::transaction::change;
use crate::url::Target;
use crate::{audit, control, enrolments, format, jti, keys, links, policies, principals, registries, tokens};

/// The registry in a PostgreSQL database. Works within a tokio runtime; several, also of several
/// processes, may work on one database.
pub struct PostgresStore {
    pool: Arc<Pool>,
    sweep: Arc<Sweep>,
    marks: Marks,
}

impl std::fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresStore")
            .field("target", self.pool.target())
            .field("writer", &self.pool.writer())
            .finish_non_exhaustive()
    }
}

impl PostgresStore {
    /// Connects, makes the tables (in the schema `drawbridge`) when they are not there, and raises their
    /// format when it is older.
    ///
    /// `url`: `postgres://USER[:PASSWORD]@HOST[:PORT]/DATABASE[?PARAMETER=VALUE&...]`, with these
    /// parameters: `sslmode` (`require`, `verify-ca` and `verify-full` mean the same: TLS, certificate and
    /// name verified; `disable`: plain text; `prefer`, as without it: plain text to a Unix socket or a
    /// loopback address, TLS to all else), `sslrootcert` (a PEM file with the authority's certificate),
    /// `connections` (4 to 500 at most, 16 unless given), `host`, `port`, `user`, `password`, `dbname`.
    /// `writer`: whose chain of the audit grows; each process that writes needs a name of its own.
    ///
    /// # Errors
    /// [`StoreError::Address`] for a URL that is refused, [`StoreError::UnknownFormat`] when a newer
    /// version wrote the tables (nothing is changed then), [`StoreError::Corrupt`] when they are damaged
    /// or something else's, [`StoreError::Unavailable`] when the database cannot be reached or lets nobody
    /// in.
    pub async fn open(url: &str, writer: &str) -> Result<Self, StoreError> {
        let pool = Arc::new(Pool::new(Target::parse(url, writer)?, writer));
        format::raise(&Connection::open(pool.target()).await?).await?;
        let sweep = Arc::new(Sweep::new());
        let marks = Marks::start(&pool, &sweep);
        Ok(Self { pool, sweep, marks })
    }

    /// Takes the place of the sole server on this database, on a connection of its own.
    ///
    /// # Errors
    /// [`StoreError::InUse`] when another server has it; the text says which.
    pub async fn hold_sole_server(&self) -> Result<SoleServer, StoreError> {
        SoleServer::take(self.pool.target().clone()).await
    }

    /// Ends the connections that are not in use at this moment.
    pub fn close(&self) {
        self.pool.drop_idle();
    }
}

impl Drop for PostgresStore {
    fn drop(&mut self) {
        self.close();
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn add_registry(
        &self,
        record: RegistryRecord,
        audit: AuditEntry,
    ) -> Result<AddRegistry, StoreError> {
        change!(&self.pool, |tx| registries::add(tx, &record, &audit))
    }

    async fn registry(&self, name: &RegistryName) -> Result<Option<RegistryRecord>, StoreError> {
        registries::one(&self.pool, name).await
    }

    async fn registries(&self) -> Result<Vec<RegistryRecord>, StoreError> {
        registries::list(&self.pool).await
    }

    async fn add_principal(
        &self,
        principal: Principal,
        keys: Vec<Key>,
        audit: AuditEntry,
    ) -> Result<AddPrincipal, StoreError> {
        change!(&self.pool, |tx| principals::add(tx, &principal, &keys, &audit))
    }

    async fn known(
        &self,
        registry: &RegistryName,
        name: &PrincipalName,
    ) -> Result<Option<Known>, StoreError> {
        principals::known(&self.pool, registry, name).await
    }

    async fn known_by_uid(&self, registry: &RegistryName, uid: Uid) -> Result<Option<Known>, StoreError> {
        principals::known_by_uid(&self.pool, registry, uid).await
    }

    async fn owner_of_key(
        &self,
        registry: &RegistryName,
        kid: &KeyId,
    ) -> Result<Option<(Uid, PrincipalName)>, StoreError> {
        principals::owner_of_key(&self.pool, registry, kid).await
    }

    async fn principals(
        &self,
        registry: &RegistryName,
        kind: Option<PrincipalKind>,
        after: Option<&PrincipalName>,
        limit: usize,
    ) -> Result<Vec<Known>, StoreError> {
        principals::list(&self.pool, registry, kind, after, limit).await
    }

    async fn not_admitted(&self, registry: &RegistryName) -> Result<Vec<Uid>, StoreError> {
        principals::not_admitted(&self.pool, registry).await
    }

    async fn change_principal(
        &self,
        registry: &RegistryName,
        uid: Uid,
        change: PrincipalChange,
        revision: Option<u64>,
        audit: AuditEntry,
    ) -> Result<Changed, StoreError> {
        change!(&self.pool, |tx| principals::change(tx, registry, uid, change.clone(), revision, &audit))
    }

    async fn delete_principal(
        &self,
        registry: &RegistryName,
        uid: Uid,
        audit: AuditEntry,
    ) -> Result<bool, StoreError> {
        change!(&self.pool, |tx| principals::delete(tx, registry, uid, &audit))
    }

    async fn add_key(
        &self,
        registry: &RegistryName,
        uid: Uid,
        key: Key,
        active_max: usize,
        audit: AuditEntry,
    ) -> Result<AddKey, StoreError> {
        change!(&self.pool, |tx| keys::add(tx, registry, uid, &key, active_max, &audit))
    }

    async fn remove_key(
        &self,
        registry: &RegistryName,
        uid: Uid,
        kid: &KeyId,
        also_last: bool,
        audit: AuditEntry,
    ) -> Result<RemoveKey, StoreError> {
        change!(&self.pool, |tx| keys::remove(tx, registry, uid, kid, also_last, &audit))
    }

    async fn rotate_key(
        &self,
        registry: &RegistryName,
        uid: Uid,
        rotation: KeyRotation,
        now_s: u64,
        audit: AuditEntry,
    ) -> Result<RotateKey, StoreError> {
        change!(&self.pool, |tx| keys::rotate(tx, registry, uid, &rotation, now_s, &audit))
    }

    async fn remember_jti(
        &self,
        registry: &RegistryName,
        uid: Uid,
        mark: JtiMark,
        now_s: u64,
    ) -> Result<JtiOutcome, StoreError> {
        self.marks.remember(registry, uid, mark, now_s).await
    }

    async fn lasting_jti(&self, registry: &RegistryName, kid: &KeyId) -> Result<u64, StoreError> {
        jti::lasting(&self.pool, registry, kid).await
    }

    async fn set_policy(
        &self,
        registry: &RegistryName,
        name: &PolicyName,
        source: &str,
        now_s: u64,
        audit: AuditEntry,
    ) -> Result<u64, StoreError> {
        change!(&self.pool, |tx| policies::set(tx, registry, name, source, now_s, &audit))
    }

    async fn policy(
        &self,
        registry: &RegistryName,
        name: &PolicyName,
    ) -> Result<Option<PolicyRecord>, StoreError> {
        policies::one(&self.pool, registry, name).await
    }

    async fn policies(&self, registry: &RegistryName) -> Result<Vec<PolicyRecord>, StoreError> {
        policies::list(&self.pool, registry).await
    }

    async fn secret_or_insert(
        &self,
        registry: &RegistryName,
        name: &str,
        value: Vec<u8>,
    ) -> Result<Vec<u8>, StoreError> {
        change!(&self.pool, |tx| policies::secret_or_insert(tx, registry, name, &value))
    }

    async fn secret(&self, registry: &RegistryName, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        policies::secret(&self.pool, registry, name).await
    }

    async fn replace_secret(
        &self,
        registry: &RegistryName,
        name: &str,
        value: Vec<u8>,
        audit: AuditEntry,
    ) -> Result<(), StoreError> {
        change!(&self.pool, |tx| policies::replace_secret(tx, registry, name, &value, &audit))
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
        change!(&self.pool, |tx| control::set_config(tx, registry, uid, &payload, expected, now_ms, &audit))
    }

    async fn ack_config(
        &self,
        registry: &RegistryName,
        uid: Uid,
        version: u64,
        now_ms: u64,
    ) -> Result<bool, StoreError> {
        change!(&self.pool, |tx| control::ack_config(tx, registry, uid, version, now_ms))
    }

    async fn config(&self, registry: &RegistryName, uid: Uid) -> Result<Option<ConfigVersion>, StoreError> {
        control::config(&self.pool, registry, uid).await
    }

    async fn configs(
        &self,
        registry: &RegistryName,
        after: Option<&PrincipalName>,
        limit: usize,
    ) -> Result<Vec<(PrincipalName, Uid, ConfigVersion)>, StoreError> {
        control::configs(&self.pool, registry, after, limit).await
    }

    async fn add_state(
        &self,
        registry: &RegistryName,
        uid: Uid,
        state: StateReport,
    ) -> Result<(), StoreError> {
        change!(&self.pool, |tx| control::add_state(tx, registry, uid, &state))
    }

    async fn states(&self, registry: &RegistryName, uid: Uid) -> Result<Vec<StateReport>, StoreError> {
        control::states(&self.pool, registry, uid).await
    }

    async fn record(&self, registry: &RegistryName, audit: AuditEntry) -> Result<(), StoreError> {
        change!(&self.pool, |tx| registries::record(tx, registry, &audit))
    }

    async fn audit_tail(
        &self,
        registry: &RegistryName,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<AuditRow>, StoreError> {
        audit::tail(&self.pool, registry, before, limit).await
    }

    async fn change_registry(
        &self,
        record: RegistryRecord,
        audit: AuditEntry,
    ) -> Result<Option<RegistryRecord>, StoreError> {
        change!(&self.pool, |tx| registries::change(tx, &record, &audit))
    }

    async fn import_principals(
        &self,
        registry: &RegistryName,
        batch: Vec<(Principal, Vec<Key>)>,
        audit: AuditEntry,
    ) -> Result<Vec<AddPrincipal>, StoreError> {
        let batch: Vec<(Principal, Vec<Key>)> = batch
            .into_iter()
            .map(|(principal, keys)| (Principal { registry: registry.clone(), ..principal }, keys))
            .collect();
        let batch: Vec<(&Principal, &[Key])> =
            batch.iter().map(|(principal, keys)| (principal, keys.as_slice())).collect();
        change!(&self.pool, |tx| principals::import(tx, registry, &batch, &audit))
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
        change!(&self.pool, |tx| keys::replace(
            tx,
            registry,
            uid,
            old,
            &new,
            old_expires_s,
            active_max,
            &audit
        ))
    }

    async fn change_key(
        &self,
        registry: &RegistryName,
        uid: Uid,
        kid: &KeyId,
        change: KeyChange,
        audit: AuditEntry,
    ) -> Result<ChangeKey, StoreError> {
        change!(&self.pool, |tx| keys::change(tx, registry, uid, kid, change.clone(), &audit))
    }

    async fn touch_keys(&self, registry: &RegistryName, used: Vec<(KeyId, u64)>) -> Result<(), StoreError> {
        change!(&self.pool, |tx| keys::touch(tx, registry, &used))
    }

    async fn add_enrolment(
        &self,
        registry: &RegistryName,
        enrolment: Enrolment,
        audit: AuditEntry,
    ) -> Result<(), StoreError> {
        change!(&self.pool, |tx| enrolments::add(tx, registry, &enrolment, &audit))
    }

    async fn enrolment_by_token(
        &self,
        registry: &RegistryName,
        token_digest: &[u8; 32],
    ) -> Result<Option<Enrolment>, StoreError> {
        enrolments::by_token(&self.pool, registry, token_digest).await
    }

    async fn enrolments(&self, registry: &RegistryName) -> Result<Vec<Enrolment>, StoreError> {
        enrolments::list(&self.pool, registry).await
    }

    async fn end_enrolment(
        &self,
        registry: &RegistryName,
        id: &str,
        audit: AuditEntry,
    ) -> Result<bool, StoreError> {
        change!(&self.pool, |tx| enrolments::end(tx, registry, id, &audit))
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
        change!(&self.pool, |tx| enrolments::enrol(tx, registry, id, &principal, &keys, now_s, &audit))
    }

    async fn undo_enrolment(
        &self,
        registry: &RegistryName,
        uid: Uid,
        audit: AuditEntry,
    ) -> Result<bool, StoreError> {
        change!(&self.pool, |tx| enrolments::undo(tx, registry, uid, &audit))
    }

    async fn enrolled(
        &self,
        registry: &RegistryName,
        enrolment: Option<&str>,
        pending_only: bool,
        after: Option<&PrincipalName>,
        limit: usize,
    ) -> Result<Vec<Known>, StoreError> {
        enrolments::enrolled(&self.pool, registry, enrolment, pending_only, after, limit).await
    }

    async fn link(
        &self,
        registry: &RegistryName,
        gateway: Uid,
        device: Uid,
        on: bool,
        audit: AuditEntry,
    ) -> Result<Link, StoreError> {
        change!(&self.pool, |tx| links::set(tx, registry, gateway, device, on, &audit))
    }

    async fn linked(&self, registry: &RegistryName, gateway: Uid, device: Uid) -> Result<bool, StoreError> {
        links::linked(&self.pool, registry, gateway, device).await
    }

    async fn linked_devices(
        &self,
        registry: &RegistryName,
        gateway: Uid,
        after: Option<&PrincipalName>,
        limit: usize,
    ) -> Result<Vec<PrincipalName>, StoreError> {
        links::devices(&self.pool, registry, gateway, after, limit).await
    }

    async fn gateways_of(
        &self,
        registry: &RegistryName,
        device: Uid,
    ) -> Result<Vec<PrincipalName>, StoreError> {
        links::gateways(&self.pool, registry, device).await
    }

    async fn add_ca(&self, registry: &RegistryName, ca: Ca, audit: AuditEntry) -> Result<bool, StoreError> {
        change!(&self.pool, |tx| links::add_ca(tx, registry, &ca, &audit))
    }

    async fn cas(&self, registry: &RegistryName) -> Result<Vec<Ca>, StoreError> {
        links::cas(&self.pool, registry).await
    }

    async fn remove_ca(
        &self,
        registry: &RegistryName,
        fingerprint: &[u8; 32],
        audit: AuditEntry,
    ) -> Result<bool, StoreError> {
        change!(&self.pool, |tx| links::remove_ca(tx, registry, fingerprint, &audit))
    }

    async fn add_token(
        &self,
        registry: &RegistryName,
        token: KeptToken,
        live_max: usize,
        now_s: u64,
    ) -> Result<AddToken, StoreError> {
        let added = change!(&self.pool, |tx| tokens::add(tx, registry, &token, live_max, now_s))?;
        self.sweep.after(&self.pool, usize::from(added == AddToken::Added), now_s).await;
        Ok(added)
    }

    async fn token(
        &self,
        registry: &RegistryName,
        digest: &[u8; 32],
        now_s: u64,
    ) -> Result<Option<KeptToken>, StoreError> {
        tokens::one(&self.pool, registry, digest, now_s).await
    }

    async fn use_token(
        &self,
        registry: &RegistryName,
        digest: &[u8; 32],
        now_s: u64,
    ) -> Result<TokenUse, StoreError> {
        // Nearly always nothing is to be written.
        if let Some(answer) = tokens::used_before(&self.pool, registry, digest, now_s).await? {
            return Ok(answer);
        }
        change!(&self.pool, |tx| tokens::use_token(tx, registry, digest, now_s))
    }

    async fn renew_token(
        &self,
        registry: &RegistryName,
        digest: &[u8; 32],
        successor: KeptToken,
        old_expires_s: u64,
        now_s: u64,
    ) -> Result<TokenUse, StoreError> {
        let renewed = change!(&self.pool, |tx| {
            tokens::renew(tx, registry, digest, &successor, old_expires_s, now_s)
        })?;
        self.sweep.after(&self.pool, 1, now_s).await;
        Ok(renewed)
    }

    async fn end_token(
        &self,
        registry: &RegistryName,
        digest: &[u8; 32],
        now_s: u64,
    ) -> Result<usize, StoreError> {
        change!(&self.pool, |tx| tokens::end(tx, registry, digest, now_s))
    }

    async fn revoke_jti(
        &self,
        registry: &RegistryName,
        jti_digest: [u8; 16],
        until_s: u64,
    ) -> Result<(), StoreError> {
        change!(&self.pool, |tx| tokens::revoke_jti(tx, registry, &jti_digest, until_s))
    }

    async fn revoked_jtis(
        &self,
        registry: &RegistryName,
        now_s: u64,
    ) -> Result<Vec<([u8; 16], u64)>, StoreError> {
        tokens::revoked_jtis(&self.pool, registry, now_s).await
    }

    async fn audit_heads(&self, registry: &RegistryName) -> Result<Vec<AuditHead>, StoreError> {
        audit::heads(&self.pool, registry).await
    }

    async fn audit_rows(
        &self,
        registry: &RegistryName,
        writer: &str,
        from_seq: u64,
        limit: usize,
    ) -> Result<Vec<AuditRow>, StoreError> {
        audit::rows(&self.pool, registry, writer, from_seq, limit).await
    }
}
