//! The trait that every store implements, and its answers.

use async_trait::async_trait;
use drawbridge_names::{KeyId, PolicyName, PrincipalKind, PrincipalName, RegistryName, Uid};

use crate::{
    AuditEntry, AuditHead, AuditRow, Ca, ConfigVersion, Enrolment, KeptToken, Key, KeyChange, Known,
    PolicyRecord, Principal, PrincipalChange, RegistryRecord, StateReport, StoreError,
};

/// Answer of [`Store::add_registry`].
#[expect(
    clippy::large_enum_variant,
    reason = "registries are made now and then, and the answer is read at once"
)]
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
#[expect(clippy::large_enum_variant, reason = "an operator's change is rare, and its answer read at once")]
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
/// Judged in this order: `OldNotActive` (the principal is gone, blocked or pending), `Seen`, `AlreadyThere`,
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
    /// The principal is gone, blocked or pending, or `old` is not its active key: whoever asked looked at an
    /// older record.
    OldNotActive,
}

/// Answer of [`Store::change_key`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangeKey {
    /// The key as it is now.
    Done(Key),
    /// The principal has no such key, or it is retired.
    NotFound,
}

/// Answer of [`Store::enrol`]. Only `Enrolled` changes anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Enrol {
    /// The device is registered, one claim is used.
    Enrolled,
    /// There is no such enrolment, it was ended, or its time is over.
    Ended,
    /// As many devices as allowed have registered.
    Spent,
    /// The device cannot be added: never [`AddPrincipal::Added`].
    Refused(AddPrincipal),
}

/// Answer of [`Store::link`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// It is as asked for now.
    Changed,
    /// It was so already; nothing was changed.
    Unchanged,
    /// One of the two is not there.
    NotFound,
}

/// Answer of [`Store::add_token`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddToken {
    /// It is good now.
    Added,
    /// The principal has `live_max` live tokens.
    Full,
    /// There is no such principal.
    Gone,
}

/// Answer of [`Store::use_token`] and [`Store::renew_token`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenUse {
    /// Good; the token as it is now.
    Good(KeptToken),
    /// Unknown, or its time is over.
    Gone,
    /// It was presented after its successor had been: one of the two was stolen. The whole family is
    /// ended by this answer.
    Stolen,
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

/// Where registries, principals, keys, replay marks, enrolments, links, CAs, tokens, policies, configs and
/// the audit are kept.
///
/// A principal that is gone, or a registry that does not exist, is "not there" wherever the answer
/// can say so; a write into a registry that does not exist is otherwise
/// [`StoreError::UnknownRegistry`]. Dropping a call's future before its answer leaves open whether
/// the change happens.
///
/// # Errors
/// Every method answers [`StoreError`] when the store cannot do its work; nothing has changed then.
#[expect(clippy::too_many_arguments, reason = "a change and its audit entry")]
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
    /// Changes `clock_skew_s`, `token_life_s` and `settings` of the registry of that name to those of the
    /// record given, nothing else; answers the record as it is now, or `None` when there is no such registry.
    async fn change_registry(
        &self,
        record: RegistryRecord,
        audit: AuditEntry,
    ) -> Result<Option<RegistryRecord>, StoreError>;

    /// Registers a principal with its first keys, all or nothing; the records are kept as given.
    async fn add_principal(
        &self,
        principal: Principal,
        keys: Vec<Key>,
        audit: AuditEntry,
    ) -> Result<AddPrincipal, StoreError>;
    /// Registers many principals in one step with one row of audit; each is judged by itself, in order,
    /// as [`Self::add_principal`] does (so of two of one name or key in a batch the first is added), and those
    /// that cannot be added leave the others alone. All become principals of this registry, whatever their
    /// records say. The row is written if at least one was added. Answers in the order given.
    /// Other changes may wait until it is written: keep a batch to 1,000 or fewer.
    async fn import_principals(
        &self,
        registry: &RegistryName,
        batch: Vec<(Principal, Vec<Key>)>,
        audit: AuditEntry,
    ) -> Result<Vec<AddPrincipal>, StoreError>;
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
    /// Everybody who is blocked or waits for approval.
    async fn not_admitted(&self, registry: &RegistryName) -> Result<Vec<Uid>, StoreError>;
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
    /// Deletes a principal with all that is its own (keys, config, states, tokens, links); `false`: not
    /// there. The claim of the enrolment by which it came stays used. Its name and keys are free again; its
    /// number is not, and neither are those keys that were retired.
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
    /// An operator replaces a principal's key, as [`Self::rotate_key`] does but without a `jti`: the new key
    /// becomes active, the old one goes into grace until `old_expires_s` (or earlier if it would end
    /// anyway). Judged in this order: `OldNotActive` (there is no such principal), `AlreadyThere`,
    /// `OldNotActive` (the key), `InUse`, `TooMany` (more than `active_max` are active already); never `Seen`
    /// or `JtiFull`. The key of a blocked or pending principal may be replaced.
    async fn replace_key(
        &self,
        registry: &RegistryName,
        uid: Uid,
        old: &KeyId,
        new: Key,
        old_expires_s: u64,
        active_max: usize,
        audit: AuditEntry,
    ) -> Result<RotateKey, StoreError>;
    /// Changes label or validity of a key that is not retired; the principal's revision grows by one, even
    /// if nothing differs.
    async fn change_key(
        &self,
        registry: &RegistryName,
        uid: Uid,
        kid: &KeyId,
        change: KeyChange,
        audit: AuditEntry,
    ) -> Result<ChangeKey, StoreError>;
    /// Notes when keys were last used, in one step for all. A time earlier than the one kept, and a key that
    /// is not there, change nothing; no revision grows, nothing is audited.
    async fn touch_keys(&self, registry: &RegistryName, used: Vec<(KeyId, u64)>) -> Result<(), StoreError>;
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
    /// How many marks without an end are kept for a key: what [`JtiMark::live_max`] is compared with. 0
    /// also for a key that is retired or not there.
    async fn lasting_jti(&self, registry: &RegistryName, kid: &KeyId) -> Result<u64, StoreError>;

    /// Keeps an enrolment as given. Its id and token are new (128 and 256 random bits); one of an id or token
    /// that is there is not promised anything.
    async fn add_enrolment(
        &self,
        registry: &RegistryName,
        enrolment: Enrolment,
        audit: AuditEntry,
    ) -> Result<(), StoreError>;
    /// The enrolment of a token, whether it may still be used or not.
    async fn enrolment_by_token(
        &self,
        registry: &RegistryName,
        token_digest: &[u8; 32],
    ) -> Result<Option<Enrolment>, StoreError>;
    /// All enrolments of a registry, newest first; those of one second in byte order of id.
    async fn enrolments(&self, registry: &RegistryName) -> Result<Vec<Enrolment>, StoreError>;
    /// Ends an enrolment; `false`: there is none of this id, or it was ended before. One whose time is over can
    /// be ended.
    async fn end_enrolment(
        &self,
        registry: &RegistryName,
        id: &str,
        audit: AuditEntry,
    ) -> Result<bool, StoreError>;
    /// A device registers itself: one claim of the enrolment and the new principal in one step. The
    /// principal's `enrolment` becomes `id` and its registry this one, whatever its record says. Judged in
    /// this order: `Ended` (also when there is no such registry), `Refused` (so that a device whose answer was
    /// lost learns that it is registered), `Spent`.
    async fn enrol(
        &self,
        registry: &RegistryName,
        id: &str,
        principal: Principal,
        keys: Vec<Key>,
        now_s: u64,
        audit: AuditEntry,
    ) -> Result<Enrol, StoreError>;
    /// Takes back an enrolment's claim: deletes the principal as [`Self::delete_principal`] does and
    /// gives the claim back, also to an enrolment that has ended; `false`: there is no such principal that
    /// came by an enrolment.
    async fn undo_enrolment(
        &self,
        registry: &RegistryName,
        uid: Uid,
        audit: AuditEntry,
    ) -> Result<bool, StoreError>;
    /// Up to `limit` principals that came by this enrolment (`None`: by any), after a name, in byte order
    /// of name; with `pending_only` only those of them that wait for approval.
    async fn enrolled(
        &self,
        registry: &RegistryName,
        enrolment: Option<&str>,
        pending_only: bool,
        after: Option<&PrincipalName>,
        limit: usize,
    ) -> Result<Vec<Known>, StoreError>;

    /// Lets a gateway act for a device (`on`), or no more. Whether the gateway is one, and the other a device,
    /// the caller has judged. No revision grows. The links of a principal go with it.
    async fn link(
        &self,
        registry: &RegistryName,
        gateway: Uid,
        device: Uid,
        on: bool,
        audit: AuditEntry,
    ) -> Result<Link, StoreError>;
    /// Whether a gateway may act for a device.
    async fn linked(&self, registry: &RegistryName, gateway: Uid, device: Uid) -> Result<bool, StoreError>;
    /// Up to `limit` devices of a gateway after a name, in byte order of name.
    async fn linked_devices(
        &self,
        registry: &RegistryName,
        gateway: Uid,
        after: Option<&PrincipalName>,
        limit: usize,
    ) -> Result<Vec<PrincipalName>, StoreError>;
    /// The gateways of a device, in byte order of name.
    async fn gateways_of(
        &self,
        registry: &RegistryName,
        device: Uid,
    ) -> Result<Vec<PrincipalName>, StoreError>;

    /// Registers a CA; `false`: one of this fingerprint is registered already, nothing was changed.
    async fn add_ca(&self, registry: &RegistryName, ca: Ca, audit: AuditEntry) -> Result<bool, StoreError>;
    /// The CAs of a registry, in byte order of fingerprint.
    async fn cas(&self, registry: &RegistryName) -> Result<Vec<Ca>, StoreError>;
    /// Removes a CA; `false`: it is not there.
    async fn remove_ca(
        &self,
        registry: &RegistryName,
        fingerprint: &[u8; 32],
        audit: AuditEntry,
    ) -> Result<bool, StoreError>;

    /// Keeps an opaque token as given, if its principal has fewer than `live_max` that are good at `now_s`
    /// (`expires_s` after it). Judged in this order: `Gone`, `Full`. Its digest is new (of 256 random bits).
    /// Nothing of tokens is audited. Tokens whose time is over mean nothing and are swept in passing, some
    /// with each one that is kept; a principal's go with it.
    async fn add_token(
        &self,
        registry: &RegistryName,
        token: KeptToken,
        live_max: usize,
        now_s: u64,
    ) -> Result<AddToken, StoreError>;
    /// The token of a digest, if it is good at `now_s`.
    async fn token(
        &self,
        registry: &RegistryName,
        digest: &[u8; 32],
        now_s: u64,
    ) -> Result<Option<KeptToken>, StoreError>;
    /// Notes that a token was presented. If it is `renewed` and a later one (of a larger generation) of its
    /// family is `used` and good at `now_s`, the whole family ends. A family is of one principal: tokens of
    /// another with the same 16 bytes are not part of it. Judged in this order: `Gone`, `Stolen`.
    async fn use_token(
        &self,
        registry: &RegistryName,
        digest: &[u8; 32],
        now_s: u64,
    ) -> Result<TokenUse, StoreError>;
    /// Issues a token's successor: judged as [`Self::use_token`] first, which also notes the use; then later
    /// ones of the family, which nobody has used, are forgotten (the answer that told them was lost), the
    /// successor is kept as given (of the same principal and family, its generation larger by one), the old
    /// one is `renewed` and ends at `old_expires_s`, or earlier if it would anyway. Answers the old one as it
    /// is now. No limit is asked: a renewal leaves a family with one token more that is good at most.
    async fn renew_token(
        &self,
        registry: &RegistryName,
        digest: &[u8; 32],
        successor: KeptToken,
        old_expires_s: u64,
        now_s: u64,
    ) -> Result<TokenUse, StoreError>;
    /// Ends a token and its whole family at once; answers how many were good at `now_s`. A token that is
    /// unknown or not good itself ends nothing: 0.
    async fn end_token(
        &self,
        registry: &RegistryName,
        digest: &[u8; 32],
        now_s: u64,
    ) -> Result<usize, StoreError>;
    /// Revokes a signed token by the first 16 bytes of SHA-256 of its `jti`, until `until_s`, its end. If it is
    /// revoked already, the later end stays. Forgotten in passing from its end on, as tokens are.
    async fn revoke_jti(
        &self,
        registry: &RegistryName,
        jti_digest: [u8; 16],
        until_s: u64,
    ) -> Result<(), StoreError>;
    /// All revoked `jti` whose end is after `now_s`, with it, in byte order of digest.
    async fn revoked_jtis(
        &self,
        registry: &RegistryName,
        now_s: u64,
    ) -> Result<Vec<([u8; 16], u64)>, StoreError>;

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
    /// Up to `limit` rows of the chain of this store's own writer, newest first, with `seq` below `before`.
    async fn audit_tail(
        &self,
        registry: &RegistryName,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<AuditRow>, StoreError>;
    /// The newest row of every writer's chain that has one, in byte order of writer.
    async fn audit_heads(&self, registry: &RegistryName) -> Result<Vec<AuditHead>, StoreError>;
    /// Up to `limit` rows of a writer's chain from `from_seq` on, oldest first; of an unknown writer none.
    async fn audit_rows(
        &self,
        registry: &RegistryName,
        writer: &str,
        from_seq: u64,
        limit: usize,
    ) -> Result<Vec<AuditRow>, StoreError>;
}
