//! Login, key update, revoke, block: load, ask `identity` and `policy`, save.
//!
//! The sequences live once, here, and are used by `bridge` and `http` alike. A login costs one
//! signature check, one read (cached) and one remembered `jti`, in this order: check everything, use up
//! the `jti`, then issue.
//!
//! A change of rights commits in the store first, then moves the generation of what is cached, then
//! tells the [`Watcher`]s which sessions must end. Whoever installs a session installs it where the
//! watcher finds it and then asks [`Admission::still_good`]: so either the watcher finds the session or
//! the question finds the change, and no blocked device stays connected.

mod ace;
mod admin_token;
mod audit;
mod background;
mod bearer;
mod binding;
mod cache;
mod cas;
mod challenge;
mod client;
mod client_id;
mod clock;
mod config;
mod connect;
mod connect_ace;
mod enrol;
mod error;
mod exchange;
mod gateways;
mod handshake;
mod import;
mod introspect;
mod issue;
mod issuer_keys;
mod journal;
mod key_remove;
mod key_update;
mod keys;
mod limits;
mod login;
mod maintain;
mod one_turn;
mod operate;
mod passwords;
mod policies;
mod proofs;
mod register_by_certificate;
mod registries;
mod renew;
mod renew_session;
mod roles;
mod scope;
mod seal;
mod seen;
mod standing;
mod statements;
mod stats;
mod tokens;
mod turns;
mod watch;
mod ways;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use drawbridge_identity::{Asserted, AssertionRules, Candidate, Checker, KeyRing, RingKey};
use drawbridge_jose::{Algorithm, PublicKey};
use drawbridge_names::{KeyId, MqttClientId, PrincipalKind, PrincipalName, RegistryName, Uid};
use drawbridge_registry::{AuditEntry, JtiMark, JtiOutcome, Key, KeyState, Store, StoreError};

pub use ace::{AceGrant, AceLogin};
pub use admin_token::ADMIN_TOKEN_PREFIX;
pub use audit::{CHECKPOINT_ACTION, CHECKPOINT_TYP, SUMMARY_ACTION};
pub use bearer::{Audience, Authorized, Caller};
pub use binding::{BindingRequest, Dpop, Presentation};
pub use cas::{CaFacts, fingerprint_hex};
pub use challenge::Challenge;
pub use client::{ClientCertificate, ClientCredential};
pub use clock::{Clock, Random};
pub use config::AdmissionConfig;
pub use connect::{Challenged, ConnectRequest, Connected, Verdict};
pub use drawbridge_identity::ace::AceFault;
pub use drawbridge_identity::{NotProven, Refusal};
pub use enrol::{
    ENROLMENT_TOKEN_PREFIX, NewEnrolment, Permission, REGISTRATION_TOKEN_PREFIX, RegisterRequest, Registered,
};
pub use error::AdmissionError;
pub use exchange::ExchangeRequest;
pub use import::{ImportDevice, ImportSource, Imported};
pub use introspect::{Introspection, TokenRequest};
pub use issue::TokenGrant;
pub use issuer_keys::{IssuerKeyInfo, IssuerKeyState, Rotation};
pub use journal::Journal;
pub use key_remove::KeyRemoved;
pub use key_update::KeyUpdated;
pub use keys::{KeyReplaced, KeyWarning, NewKey};
pub use limits::{LimitsConfig, Network};
pub use login::LoginRequest;
pub use operate::{NewApplication, NewDevice};
pub use policies::{CanAnswer, Question};
pub use registries::{NewRegistry, RegistryChange};
pub use renew_session::{NewCredential, Refreshed, RefreshedSession, SessionRenewal};
pub use scope::{ApiWord, ApiWords};
pub use seal::{AesSeal, Seal, SealFault, SecretPlace};
pub use standing::Standing;
pub use stats::AdmissionStats;
pub use tokens::TokenMark;
pub use watch::{EndReason, Refreshing, SessionsEnd, Watcher};
pub use ways::{ACE_METHOD, PeerProof, TOKEN_METHODS, TlsFacts, TlsVersion, Way, Ways, refresh_context};

use cache::{Cache, Loaded};
use limits::Limits;
use passwords::Passwords;
use proofs::Proofs;
use registries::Realm;
use stats::Counters;

/// So much longer than a JWT is good its `jti` is remembered, in seconds. The time at which it was judged
/// and the time at which the store looks for its `jti` are two: without a margin a replay judged in its
/// last second would find the `jti` forgotten in the next.
const JTI_MARGIN_S: u64 = 60;

/// Where a request comes from; what rate limits are charged to before a signature is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Peer {
    /// The address, where there is one.
    pub address: Option<IpAddr>,
    /// The port it came to, where that is known.
    pub port: Option<u16>,
    /// Whether it is MQTT over WebSocket, where that is known.
    pub websocket: Option<bool>,
}

impl From<IpAddr> for Peer {
    fn from(address: IpAddr) -> Self {
        Self { address: Some(address), ..Self::default() }
    }
}

/// Who makes a change, for the audit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Actor {
    /// The holder of the admin credential.
    Admin,
    /// A device, about itself.
    Device(PrincipalName),
    /// An application.
    Application(PrincipalName),
    /// The server itself.
    Server,
}

impl std::fmt::Display for Actor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Admin => f.write_str("admin"),
            Self::Device(name) => write!(f, "device:{name}"),
            Self::Application(name) => write!(f, "app:{name}"),
            Self::Server => f.write_str("server"),
        }
    }
}

impl Actor {
    /// A principal, about itself.
    #[must_use]
    pub fn of(kind: PrincipalKind, name: &PrincipalName) -> Self {
        match kind {
            PrincipalKind::Device => Self::Device(name.clone()),
            PrincipalKind::Application => Self::Application(name.clone()),
        }
    }
}

/// Admission to all registries of a server. Cheap to clone: all clones are one.
#[derive(Clone)]
pub struct Admission {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    sealer: Arc<dyn Seal>,
    /// Whoever changes issuer keys does it alone.
    issuer_keys_turn: one_turn::OneTurn,
    issuer_keys_read_s: std::sync::atomic::AtomicU64,
    /// The gateways that have opened sessions for others.
    gateways_seen: RwLock<std::collections::HashSet<Uid>>,
    config: AdmissionConfig,
    checker: Checker,
    realms: RwLock<Arc<BTreeMap<RegistryName, Arc<Realm>>>>,
    cache: Cache,
    watchers: RwLock<Vec<Arc<dyn Watcher>>>,
    counters: Counters,
    journal: Journal,
    key_notes: keys::KeyNotes,
    passwords: Passwords,
    proofs: Proofs,
    limits: Limits,
    desk: audit::Desk,
    ace: ace::Ace,
    certificates_hourly: register_by_certificate::HourlyCounts,
}

impl std::fmt::Debug for Admission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admission").field("config", &self.inner.config).finish_non_exhaustive()
    }
}

impl Admission {
    /// Loads all registries of a store. There may be none yet: see [`Self::create_registry`]. `sealer` opens
    /// the secrets that the store keeps.
    ///
    /// # Errors
    /// [`AdmissionError`] when the store does not answer or an issuer key cannot be used;
    /// [`AdmissionError::OtherSealKey`] when another key has sealed it. Nothing is replaced then.
    pub async fn open(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
        sealer: Arc<dyn Seal>,
        settings: AdmissionConfig,
    ) -> Result<Self, AdmissionError> {
        let inner = Inner {
            desk: audit::Desk::default(),
            ace: ace::Ace::default(),
            certificates_hourly: Default::default(),
            limits: Limits::new(&settings.limits, clock.instant()),
            cache: Cache::new(settings.principals_cached_max),
            passwords: Passwords::new(&settings, &*random),
            proofs: Proofs::new(&*random, clock.now_ms() / 1000),
            store,
            clock,
            random,
            sealer,
            issuer_keys_turn: Default::default(),
            issuer_keys_read_s: Default::default(),
            gateways_seen: RwLock::default(),
            config: settings,
            checker: Checker::new(),
            realms: RwLock::default(),
            watchers: RwLock::default(),
            counters: Counters::default(),
            journal: Journal::new("decisions of admission"),
            key_notes: keys::KeyNotes::default(),
        };
        let admission = Self { inner: Arc::new(inner) };
        for record in admission.inner.store.registries().await? {
            admission.furnish(record).await?;
        }
        Ok(admission)
    }

    /// Asks for every end of sessions from now on.
    pub fn watch(&self, watcher: Arc<dyn Watcher>) {
        self.inner.watchers.write().unwrap_or_else(PoisonError::into_inner).push(watcher);
    }

    /// How many live sessions a principal has.
    #[must_use]
    pub fn live_sessions(&self, registry: &RegistryName, uid: Uid) -> usize {
        let watchers = self.inner.watchers.read().unwrap_or_else(PoisonError::into_inner);
        watchers.iter().map(|watcher| watcher.sessions(registry, uid)).sum()
    }

    /// The live sessions of a principal by client id, each with who has it.
    fn sessions_of(&self, registry: &RegistryName, uid: Uid) -> Vec<(Arc<dyn Watcher>, MqttClientId)> {
        let watchers = self.inner.watchers.read().unwrap_or_else(PoisonError::into_inner);
        let of = |watcher: &Arc<dyn Watcher>| {
            let ids = watcher.client_ids(registry, uid).into_iter();
            ids.map(|id| (Arc::clone(watcher), id)).collect::<Vec<_>>()
        };
        watchers.iter().flat_map(of).collect()
    }

    /// Whether what is remembered of principals and policies can be believed: not while this server cannot
    /// know whether another one works on the store. Until it is told again that it can, each decision asks
    /// the store, and so fails when that does not answer.
    pub fn believe_memory(&self, believe: bool) {
        self.inner.cache.believe(believe);
    }

    /// What was decided so far.
    #[must_use]
    pub fn stats(&self) -> AdmissionStats {
        self.inner.counters.read(self.inner.checker.checks(), self.inner.passwords.checks())
    }

    /// The clock that all decisions are made by.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.inner.clock
    }

    /// The store behind, for reading; changes go through the methods here, or caches would be stale.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.inner.store
    }

    fn now_s(&self) -> u64 {
        self.inner.clock.now_ms() / 1000
    }

    fn realms(&self) -> Arc<BTreeMap<RegistryName, Arc<Realm>>> {
        Arc::clone(&self.inner.realms.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn tell(&self, event: &SessionsEnd) {
        for watcher in self.inner.watchers.read().unwrap_or_else(PoisonError::into_inner).iter() {
            watcher.ended(event);
        }
    }

    fn audit(&self, actor: &Actor, action: &str, subject: &str, detail: &serde_json::Value) -> AuditEntry {
        AuditEntry {
            at_ms: self.inner.clock.now_ms(),
            actor: actor.to_string(),
            action: action.to_owned(),
            subject: subject.to_owned(),
            detail: detail.to_string(),
        }
    }

    /// Makes a decision within the limits of the peer's address, counts it, and logs it when it is a refusal.
    /// Every entry by which a credential comes in is one of these.
    pub(crate) async fn decide<T>(
        &self,
        what: &'static str,
        registry: Option<&RegistryName>,
        peer: Peer,
        judged: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<T, Refusal> {
        let decision = self.within_limits(peer, judged).await;
        self.note(what, registry, peer, decision)
    }

    /// As [`Self::decide`], for what proves nothing of whoever brings it: the address pays, however good it is.
    pub(crate) async fn decide_unproven<T>(
        &self,
        what: &'static str,
        registry: Option<&RegistryName>,
        peer: Peer,
        judged: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<T, Refusal> {
        let decision = match self.charge_signature(peer) {
            Ok(()) => judged.await,
            Err(refusal) => Err(refusal),
        };
        self.note(what, registry, peer, decision)
    }

    /// Counts a decision, and logs it when it is a refusal. The log gets the full reason, the peer does not.
    fn note<T>(
        &self,
        what: &'static str,
        registry: Option<&RegistryName>,
        peer: Peer,
        decision: Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        match &decision {
            Ok(_) => self.inner.counters.admitted(),
            Err(refusal) => {
                self.inner.counters.refused(refusal);
                self.tally_refused(registry, refusal);
                if self.inner.journal.takes(self.inner.clock.instant(), refusal.word()) {
                    tracing::info!(
                        what,
                        registry = registry.map(tracing::field::display),
                        address = peer.address.map(tracing::field::display),
                        code = refusal.code(),
                        word = refusal.word(),
                        reason = refusal.reason(),
                        "refused: {refusal}"
                    );
                }
            }
        }
        decision
    }

    /// Logs that a token was issued; never the token.
    fn note_issued(&self, what: &'static str, registry: &RegistryName, peer: Peer, grant: &TokenGrant) {
        self.tally_admitted(what, registry, grant.kind, &grant.name);
        if self.inner.journal.takes(self.inner.clock.instant(), what) {
            tracing::info!(
                what,
                %registry,
                address = peer.address.map(tracing::field::display),
                name = %grant.name,
                kid = grant.kid.as_ref().map(tracing::field::display),
                "a token was issued"
            );
        }
    }

    /// A principal ready to log in, from memory or from the store.
    async fn loaded(
        &self,
        registry: &RegistryName,
        name: &PrincipalName,
    ) -> Result<Option<Arc<Loaded>>, StoreError> {
        let cache = &self.inner.cache;
        if let Some(found) = cache.find(registry, name) {
            return Ok(Some(found));
        }
        let stamp = cache.stamp_principal(registry, name);
        let Some(known) = self.inner.store.known(registry, name).await? else { return Ok(None) };
        let compiled = self.compiled(&known.principal).await?;
        let rights = Arc::new(compiled.rights);
        // One and the same where no connection matters, so that it is kept once.
        let anywhere =
            if compiled.conditional.is_some() { Arc::new(compiled.anywhere) } else { Arc::clone(&rights) };
        let loaded = Arc::new(Loaded {
            ring: ring_of(&known.keys, self.now_s()),
            keys: known.keys,
            rights,
            anywhere,
            conditional: compiled.conditional,
            generation: Cache::generation(stamp, compiled.stamp),
            principal: known.principal,
        });
        cache.keep(Arc::clone(&loaded));
        Ok(Some(loaded))
    }

    /// As [`Self::loaded`], for somebody who is being judged: fails closed.
    async fn candidate(
        &self,
        registry: &RegistryName,
        name: Option<&PrincipalName>,
    ) -> Result<Option<Arc<Loaded>>, Refusal> {
        match name {
            Some(name) => self.loaded(registry, name).await.map_err(|error| unavailable(&error)),
            None => Ok(None),
        }
    }

    /// Has a JWT verified with the keys of the principal it claims to be from; answers that principal, and what
    /// was proven. `verify` gets nobody where there is no such principal, and refuses then at the same cost.
    async fn proven<T>(
        &self,
        registry: &RegistryName,
        claimed: Option<&PrincipalName>,
        verify: impl FnOnce(Option<&Candidate<'_>>) -> Result<T, Refusal>,
    ) -> Result<(Arc<Loaded>, T), Refusal> {
        let loaded = self.candidate(registry, claimed).await?;
        let proven = verify(loaded.as_ref().map(|loaded| loaded.candidate()).as_ref())?;
        let loaded = loaded.ok_or(Refusal::NotProven(NotProven::UnknownPrincipal))?;
        Ok((loaded, proven))
    }

    /// Uses up a `jti`: everything else must have been checked before.
    async fn use_up(&self, registry: &RegistryName, uid: Uid, asserted: &Asserted) -> Result<(), Refusal> {
        let mark = self.mark_of(asserted);
        let for_life = mark.until_s.is_none();
        let outcome = self.inner.store.remember_jti(registry, uid, mark, self.now_s()).await;
        match outcome.map_err(|error| unavailable(&error))? {
            JtiOutcome::Fresh => {
                self.used(registry, &asserted.kid);
                if for_life {
                    self.warn_of_lasting_jti(registry, uid, &asserted.kid).await;
                }
                Ok(())
            }
            JtiOutcome::Seen { .. } => Err(Refusal::Replay),
            JtiOutcome::Full => Err(Refusal::JtiFull { for_life }),
            JtiOutcome::KeyGone => Err(Refusal::KeyGone),
        }
    }

    fn mark_of(&self, asserted: &Asserted) -> JtiMark {
        let config = &self.inner.config;
        JtiMark {
            jti_digest: asserted.jti.0,
            token_digest: asserted.token.0,
            kid: asserted.kid.clone(),
            until_s: asserted.until_s.map(|until_s| until_s.saturating_add(JTI_MARGIN_S)),
            live_max: if asserted.until_s.is_some() { config.jti_live_max } else { config.legacy_jti_max },
        }
    }

    fn assertion_rules<'a>(&self, realm: &'a Realm) -> AssertionRules<'a> {
        AssertionRules {
            issuer: &realm.record.issuer,
            skew_s: realm.record.clock_skew_s.into(),
            life_s_max: self.inner.config.assertion_life_s_max.into(),
            clock: challenge::device_clock(realm.record.settings.clock),
            nonces: Some(&realm.nonces),
        }
    }

    /// The first login with a new key ends the grace of the key it has replaced. Answers whether it did.
    async fn end_grace(&self, loaded: &Loaded, kid: &KeyId) -> bool {
        let Some(used) = loaded.keys.iter().find(|key| key.kid == *kid && key.state == KeyState::Active)
        else {
            return false;
        };
        let grace_s = u64::from(self.inner.config.key_grace_s);
        let replaced = |key: &&Key| {
            key.state == KeyState::Grace && key.expires_s.is_some_and(|end_s| used.added_s + grace_s >= end_s)
        };
        let principal = &loaded.principal;
        let mut ended = false;
        for key in loaded.keys.iter().filter(replaced) {
            let actor = Actor::of(principal.kind, &principal.name);
            match self
                .retire(principal, &key.kid, false, &actor, "key.grace-end", serde_json::json!({}))
                .await
            {
                Ok(()) => ended = true,
                // The login itself is good; the grace then ends by its time.
                Err(error) => {
                    tracing::warn!(kid = %key.kid, "the grace of a replaced key was not ended: {error}")
                }
            }
        }
        ended
    }
}

/// The keys that may be used now or later, parsed once. One that has ended stays so until it is changed, and then
/// its principal is loaded anew.
fn ring_of(keys: &[Key], now_s: u64) -> KeyRing {
    let ends_later = |key: &&Key| key.expires_s.is_none_or(|end_s| now_s < end_s);
    let usable = keys.iter().filter(|key| key.state != KeyState::Retired).filter(ends_later);
    KeyRing::new(usable.filter_map(parse_key).collect())
}

fn parse_key(key: &Key) -> Option<RingKey> {
    let algorithm = Algorithm::from_header(&key.algorithm);
    let public = algorithm.and_then(|algorithm| PublicKey::from_spki_der_with(&key.spki_der, algorithm).ok());
    if public.is_none() {
        tracing::warn!(kid = %key.kid, "a stored key cannot be used: register it anew");
    }
    Some(RingKey {
        kid: key.kid.clone(),
        public: public?,
        label: key.label.clone(),
        in_grace: key.state == KeyState::Grace,
        not_before_s: key.not_before_s,
        expires_s: key.expires_s,
    })
}

fn kid_of(key: &PublicKey) -> KeyId {
    KeyId::parse(key.thumbprint()).expect("a thumbprint is 43 characters of base64url")
}

fn unavailable(error: &StoreError) -> Refusal {
    Refusal::Unavailable(error.to_string())
}
