//! The trait that every store implements, and its answers.

use async_trait::async_trait;
use drawbridge_names::{KeyId, PolicyName, PrincipalKind, PrincipalName, RegistryName, Uid};

use crate::{
    AuditEntry, AuditRow, ConfigVersion, Key, Known, PolicyRecord, Principal, PrincipalChange,
    RegistryRecord, StateReport, StoreError,
};

/// Answer of [`Store::add_registry`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddRegistry {
    /// It exists now.
    Added,
    /// It existed; nothing was changed.
    Exists(RegistryRecord),
}

/// Answer of [`Store::add_principal`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddPrincipal {
    /// It exists now.
    Added,
    /// A principal of this name exists; this is its kind.
    NameTaken(PrincipalKind),
    /// The number is, or once was, another principal's: draw another.
    UidTaken,
    /// This key belongs to a principal of the registry already, retired keys included, or was given
    /// twice.
    KeyInUse(KeyId),
}

/// Answer of a conditional change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changed {
    /// The record as it is now.
    Done(Principal),
    /// There is no such principal.
    NotFound,
    /// The revision asked for is not the current one; nothing was changed.
    Stale {
        /// The current revision.
        revision: u64,
    },
}

/// Answer of [`Store::add_key`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddKey {
    /// The key is registered now.
    Added,
    /// This principal has the key already, in this state; nothing was changed.
    AlreadyThere(Key),
    /// The key belongs to another principal of the registry.
    InUse,
    /// As many keys as allowed are active.
    TooMany {
        /// How many are.
        active: usize,
    },
    /// There is no such principal.
    NotFound,
}

/// Answer of [`Store::remove_key`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemoveKey {
    /// The key is retired now.
    Removed,
    /// The principal has no such key that is not retired already.
    NotFound,
    /// It is the last active key; nothing was changed.
    LastKey,
}

/// A `jti` to be remembered. One namespace per principal, whatever the JWT was for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JtiMark {
    /// The first 16 bytes of SHA-256 of the `jti`.
    pub jti_digest: [u8; 16],
    /// The first 16 bytes of SHA-256 of the whole JWT: tells a repeated message from a reused `jti`.
    pub token_digest: [u8; 16],
    /// The key that signed.
    pub kid: KeyId,
    /// Forget it from this second on; `None`: keep it as long as the key `kid` is not retired.
    pub until_s: Option<u64>,
    /// At most so many live marks of the same sort: with an end, of the principal; without, of the key.
    pub live_max: usize,
}

/// Answer of [`Store::remember_jti`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JtiOutcome {
    /// It was unknown and is remembered now.
    Fresh,
    /// It is known.
    Seen {
        /// The digest of the JWT it came with first.
        token_digest: [u8; 16],
    },
    /// `live_max` are remembered already.
    Full,
    /// The principal is gone, or `kid` is not a key of it that is active or in grace: whoever asked
    /// looked at an older record. Nothing is remembered, so nothing may be admitted.
    KeyGone,
}

/// A device replaces its own key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRotation {
    /// The key that signed the update; must be active.
    pub old: KeyId,
    /// The new key; it becomes active, whatever its `state` says.
    pub new: Key,
    /// `Some`: the old key goes into grace and expires at this second, or earlier if it did so before.
    /// `None`: it stays active.
    pub old_expires_s: Option<u64>,
    /// The `jti` of the update JWT.
    pub mark: JtiMark,
    /// How many keys may be active afterwards.
    pub active_max: usize,
}

/// Answer of [`Store::rotate_key`]. Only `Rotated` changes anything, and only it remembers the `jti`.
///
/// Judged in this order: `OldNotActive` (the principal is gone or blocked), `Seen`, `AlreadyThere`,
/// `OldNotActive` (the key), `InUse`, `TooMany`, `JtiFull` (of marks with an end only: a
/// key full of lasting ones has room for this one, since to be replaced is its way out); so a device that repeats an update whose
/// answer was lost learns `Seen` or `AlreadyThere`, although its old key is in grace by now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RotateKey {
    /// Done, the `jti` is remembered.
    Rotated,
    /// The `jti` is known.
    Seen {
        /// The digest of the JWT it came with first.
        token_digest: [u8; 16],
    },
    /// The principal is full of remembered `jti` with an end.
    JtiFull,
    /// This principal has the new key already, in this state.
    AlreadyThere(Key),
    /// The new key belongs to another principal.
    InUse,
    /// Too many keys would be active.
    TooMany {
        /// How many are.
        active: usize,
    },
    /// The principal is gone or blocked, or `old` is not its active key: whoever asked looked at an older
    /// record.
    OldNotActive,
}

/// Answer of [`Store::set_config`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetConfig {
    /// Stored under this version.
    Set {
        /// The new version.
        version: u64,
    },
    /// The version asked to be replaced is not the current one; nothing was changed.
    Stale {
        /// The current version, 0 when there is none.
        version: u64,
    },
    /// There is no such principal.
    NotFound,
}

/// Where registries, principals, keys, policies, replay marks, configs and the audit are kept.
///
/// A principal that is gone, or a registry that does not exist, is "not there" wherever the answer
/// can say so; a write into a registry that does not exist is otherwise
/// [`StoreError::UnknownRegistry`]. Dropping a call's future before its answer leaves open whether
/// the change happens.
///
/// # Errors
/// Every method answers [`StoreError`] when the store cannot do its work; nothing has changed then.
#[async_trait]
pub trait Store: Send + Sync {
    /// Makes a registry, unless one of this name exists.
    async fn add_registry(
        &self,
        record: RegistryRecord,
        audit: AuditEntry,
    ) -> Result<AddRegistry, StoreError>;
    /// The registry of this name.
    async fn registry(&self, name: &RegistryName) -> Result<Option<RegistryRecord>, StoreError>;
    /// All registries, in byte order of name.
    async fn registries(&self) -> Result<Vec<RegistryRecord>, StoreError>;

    /// Registers a principal with its first keys, all or nothing; the records are kept as given.
    async fn add_principal(
        &self,
        principal: Principal,
        keys: Vec<Key>,
        audit: AuditEntry,
    ) -> Result<AddPrincipal, StoreError>;
    /// A principal and its keys, by name.
    async fn known(&self, registry: &RegistryName, name: &PrincipalName)
    -> Result<Option<Known>, StoreError>;
    /// A principal and its keys, by number.
    async fn known_by_uid(&self, registry: &RegistryName, uid: Uid) -> Result<Option<Known>, StoreError>;
    /// Who has this key, retired keys included.
    async fn owner_of_key(
        &self,
        registry: &RegistryName,
        kid: &KeyId,
    ) -> Result<Option<(Uid, PrincipalName)>, StoreError>;
    /// Up to `limit` principals after a name, in byte order of name.
    async fn principals(
        &self,
        registry: &RegistryName,
        kind: Option<PrincipalKind>,
        after: Option<&PrincipalName>,
        limit: usize,
    ) -> Result<Vec<Known>, StoreError>;
    /// Changes a principal's record, if `revision` is `None` or the current one. The revision grows by
    /// one, as it does with every change of its keys; `not_before_s` never goes back.
    async fn change_principal(
        &self,
        registry: &RegistryName,
        uid: Uid,
        change: PrincipalChange,
        revision: Option<u64>,
        audit: AuditEntry,
    ) -> Result<Changed, StoreError>;
    /// Deletes a principal with all that is its own (keys, config, states); `false`: not there. Its
    /// name and keys are free again; its number is not, and neither are those keys that were retired.
    /// The marks of its other keys stay, each with its key, until their end (the lasting ones until the
    /// key is retired): whoever gets the key later is asked for them as for its own.
    async fn delete_principal(
        &self,
        registry: &RegistryName,
        uid: Uid,
        audit: AuditEntry,
    ) -> Result<bool, StoreError>;

    /// Registers a further key, if fewer than `active_max` are active. Judged in this order:
    /// `NotFound`, `AlreadyThere`, `InUse`, `TooMany`.
    async fn add_key(
        &self,
        registry: &RegistryName,
        uid: Uid,
        key: Key,
        active_max: usize,
        audit: AuditEntry,
    ) -> Result<AddKey, StoreError>;
    /// Retires a key and forgets the marks kept for its life. Unless `also_last`, the last active key
    /// is kept.
    async fn remove_key(
        &self,
        registry: &RegistryName,
        uid: Uid,
        kid: &KeyId,
        also_last: bool,
        audit: AuditEntry,
    ) -> Result<RemoveKey, StoreError>;
    /// A device replaces its key: the `jti`, the new key and the fate of the old one in one step.
    async fn rotate_key(
        &self,
        registry: &RegistryName,
        uid: Uid,
        rotation: KeyRotation,
        now_s: u64,
        audit: AuditEntry,
    ) -> Result<RotateKey, StoreError>;
    /// Remembers a `jti` unless it is known: one atomic step, durable before the answer.
    ///
    /// Source: RFC 7523 section 3 item 7 (the replay rule for `jti`).
    async fn remember_jti(
        &self,
        registry: &RegistryName,
        uid: Uid,
        mark: JtiMark,
        now_s: u64,
    ) -> Result<JtiOutcome, StoreError>;

    /// Sets a policy; answers its new revision (from 1).
    async fn set_policy(
        &self,
        registry: &RegistryName,
        name: &PolicyName,
        source: &str,
        now_s: u64,
        audit: AuditEntry,
    ) -> Result<u64, StoreError>;
    /// The policy of this name.
    async fn policy(
        &self,
        registry: &RegistryName,
        name: &PolicyName,
    ) -> Result<Option<PolicyRecord>, StoreError>;
    /// All policies of a registry, in byte order of name.
    async fn policies(&self, registry: &RegistryName) -> Result<Vec<PolicyRecord>, StoreError>;

    /// Keeps a secret (an issuer key, the hash of the admin credential) under a name unless one is
    /// there; answers the one that is there afterwards. The first byte is its format version.
    async fn secret_or_insert(
        &self,
        registry: &RegistryName,
        name: &str,
        value: Vec<u8>,
    ) -> Result<Vec<u8>, StoreError>;
    /// The secret of this name.
    async fn secret(&self, registry: &RegistryName, name: &str) -> Result<Option<Vec<u8>>, StoreError>;
    /// Replaces a secret.
    async fn replace_secret(
        &self,
        registry: &RegistryName,
        name: &str,
        value: Vec<u8>,
        audit: AuditEntry,
    ) -> Result<(), StoreError>;

    /// Sets a device's config, if `expected` is `None` or the current version (0: none yet). The
    /// last 10 versions are kept.
    async fn set_config(
        &self,
        registry: &RegistryName,
        uid: Uid,
        payload: Vec<u8>,
        expected: Option<u64>,
        now_ms: u64,
        audit: AuditEntry,
    ) -> Result<SetConfig, StoreError>;
    /// Notes that the device acknowledged a version, the first time; `false`: there is no such version.
    async fn ack_config(
        &self,
        registry: &RegistryName,
        uid: Uid,
        version: u64,
        now_ms: u64,
    ) -> Result<bool, StoreError>;
    /// The newest config of a device.
    async fn config(&self, registry: &RegistryName, uid: Uid) -> Result<Option<ConfigVersion>, StoreError>;
    /// The newest configs of up to `limit` devices of a registry whose name is after `after`, in byte
    /// order of name.
    async fn configs(
        &self,
        registry: &RegistryName,
        after: Option<&PrincipalName>,
        limit: usize,
    ) -> Result<Vec<(PrincipalName, Uid, ConfigVersion)>, StoreError>;
    /// Appends a reported state; the last 10 are kept. One of a principal that is gone is dropped.
    async fn add_state(
        &self,
        registry: &RegistryName,
        uid: Uid,
        state: StateReport,
    ) -> Result<(), StoreError>;
    /// The reported states of a device, newest first, at most 10.
    async fn states(&self, registry: &RegistryName, uid: Uid) -> Result<Vec<StateReport>, StoreError>;

    /// Appends to the audit without any other change (a command was sent).
    async fn record(&self, registry: &RegistryName, audit: AuditEntry) -> Result<(), StoreError>;
    /// Up to `limit` rows of a registry's audit, newest first, with `seq` below `before`.
    async fn audit_tail(
        &self,
        registry: &RegistryName,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<AuditRow>, StoreError>;
}
