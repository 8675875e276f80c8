//! Enrolments: an operator permits a batch of devices to register themselves, they do, and the operator
//! approves them, rejects them or takes it back.

use std::collections::BTreeSet;

use drawbridge_identity::{
    ENROLMENT_KEYS_MAX, EnrolmentRules, NotProven, Refusal, judge_pattern, pattern_fits, thumbprint,
    verify_enrolment_proof,
};
use drawbridge_jose::{KeyError, PublicKey, base64url_encode, sha256};
use drawbridge_names::{PolicyName, PrincipalKind, PrincipalName, RegistryName, Uid};
use drawbridge_registry::{
    AddPrincipal, Enrol, Enrolment, EnrolmentNames, Key, KeyState, Known, Principal, PrincipalChange,
};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::admin_token::{same, with_checksum};
use crate::registries::{DEVICE_POLICY, Realm};
use crate::{Actor, Admission, AdmissionError, EndReason, Peer, kid_of, unavailable};

/// With this every enrolment token begins, so that secret scanners know it.
pub const ENROLMENT_TOKEN_PREFIX: &str = "dbe_";
/// With this every registration access token (RFC 7592) begins.
pub const REGISTRATION_TOKEN_PREFIX: &str = "dbr_";

/// Longest text that can be one of these tokens, in bytes.
const TOKEN_BYTES_MAX: usize = 64;
/// How long an enrolment is good if nobody says, in seconds.
const LIFE_S: u64 = 86_400;
/// How long it may be good, in seconds: a year.
const LIFE_S_MAX: u64 = 366 * 86_400;
/// How many devices one enrolment may admit.
const CLAIMS_MAX: u32 = 10_000_000;
/// How many names or keys one enrolment may list.
const LISTED_MAX: usize = 10_000;
/// How many devices one call approves.
const APPROVED_AT_ONCE: usize = 500;

/// An enrolment to be made.
#[derive(Debug, Clone)]
pub struct NewEnrolment {
    /// Who may use it.
    pub names: EnrolmentNames,
    /// A pattern that fits every name is meant.
    pub any: bool,
    /// How many devices may register; `None`: as many as are listed, with a pattern 1.
    pub count: Option<u32>,
    /// Until which second; `None`: 24 h from now.
    pub expires_s: Option<u64>,
    /// The policy they get; `None`: `device`.
    pub policy: Option<PolicyName>,
    /// Those of a pattern are admitted at once too.
    pub auto: bool,
    /// A word of the operator.
    pub label: Option<String>,
}

impl NewEnrolment {
    /// One for these devices, with the usual settings.
    #[must_use]
    pub fn of(names: EnrolmentNames) -> Self {
        Self { names, any: false, count: None, expires_s: None, policy: None, auto: false, label: None }
    }
}

/// What permits a device to register itself.
#[derive(Clone, Copy)]
pub enum Permission<'a> {
    /// The token of an enrolment.
    Token(&'a str),
    /// A software statement of a manufacturer (RFC 7591 section 2.3).
    Statement(&'a str),
}

/// A device registers itself.
#[derive(Clone, Copy)]
pub struct RegisterRequest<'a> {
    /// What permits it.
    pub permission: Permission<'a>,
    /// The name it asks for; a statement may name it instead.
    pub name: Option<&'a str>,
    /// Its public keys, each a JWK as JSON text, as it was sent.
    pub keys: &'a [&'a str],
    /// A proof of possession for each key, in the order of the keys.
    pub proofs: &'a [&'a str],
    /// Where the request comes from.
    pub peer: Peer,
}

/// A device that has registered itself, or had before.
pub struct Registered {
    /// The device and its keys.
    pub known: Known,
    /// It was not there before.
    pub new: bool,
    /// Its registration access token, shown this once; an earlier one is dead.
    pub registration_token: Zeroizing<String>,
}

impl std::fmt::Debug for Registered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registered")
            .field("known", &self.known)
            .field("new", &self.new)
            .finish_non_exhaustive()
    }
}

/// A new device as it is about to be stored: what is common to all ways of registering itself.
pub(crate) struct Applicant {
    pub(crate) principal: Principal,
    pub(crate) keys: Vec<Key>,
    pub(crate) detail: Value,
    pub(crate) registration_token: Zeroizing<String>,
}

impl Admission {
    /// Permits devices to register themselves; answers the enrolment and its token, which is shown this
    /// once.
    ///
    /// # Errors
    /// [`AdmissionError::Enrolment`] when it names nobody, everybody without saying so, or never begins.
    pub async fn create_enrolment(
        &self,
        registry: &RegistryName,
        new: NewEnrolment,
        actor: &Actor,
    ) -> Result<(Enrolment, Zeroizing<String>), AdmissionError> {
        let NewEnrolment { names, any, count, expires_s, policy, auto, label } = new;
        let listed = judge_names(&names, any).map_err(AdmissionError::Enrolment)?;
        let fault = |text: String| Err(AdmissionError::Enrolment(text));
        let claims_max = match count.or(u32::try_from(listed.unwrap_or(1)).ok()) {
            Some(count) if (1..=CLAIMS_MAX).contains(&count) => count,
            _ => return fault(format!("`count` is out of bounds; wanted 1 to {CLAIMS_MAX}")),
        };
        let now_s = self.now_s();
        let expires_s = expires_s.unwrap_or(now_s + LIFE_S);
        if expires_s <= now_s || expires_s > now_s + LIFE_S_MAX {
            return fault("`expires` is past, or more than a year ahead".to_owned());
        }
        if label.as_deref().is_some_and(|label| !is_label(label)) {
            return fault("`label` has 1 to 128 printable ASCII characters".to_owned());
        }
        let policy = policy.unwrap_or_else(device_policy);
        self.policy_must_exist(registry, Some(&policy)).await?;
        let mut id = [0; 16];
        self.inner.random.fill(&mut id);
        let token = self.draw_token(ENROLMENT_TOKEN_PREFIX);
        let enrolment = Enrolment {
            id: base64url_encode(&id),
            token_digest: sha256(token.as_bytes()),
            label,
            // Whoever names ids or keys has said yes to each of them.
            auto: auto || !matches!(names, EnrolmentNames::Pattern(_)),
            names,
            claims_max,
            claims: 0,
            policy: Some(policy),
            expires_s,
            ended: false,
            created_s: now_s,
        };
        let detail = json!({
            "names": summary(&enrolment.names),
            "count": claims_max,
            "expires_s": expires_s,
            "policy": enrolment.policy.as_ref().map(PolicyName::as_str),
            "auto": enrolment.auto,
            "label": enrolment.label,
        });
        let audit = self.audit(actor, "enrolment.create", &enrolment.id, &detail);
        self.inner.store.add_enrolment(registry, enrolment.clone(), audit).await?;
        Ok((enrolment, token))
    }

    /// All enrolments of a registry, newest first.
    ///
    /// # Errors
    /// [`AdmissionError`] when there is no such registry, or the store does not answer.
    pub async fn enrolments(&self, registry: &RegistryName) -> Result<Vec<Enrolment>, AdmissionError> {
        self.must_exist(registry)?;
        Ok(self.inner.store.enrolments(registry).await?)
    }

    /// The enrolment of this id.
    ///
    /// # Errors
    /// [`AdmissionError::NoEnrolment`].
    pub async fn enrolment(&self, registry: &RegistryName, id: &str) -> Result<Enrolment, AdmissionError> {
        let found = self.enrolments(registry).await?.into_iter().find(|enrolment| enrolment.id == id);
        found.ok_or_else(|| AdmissionError::NoEnrolment(shown(id)))
    }

    /// Ends an enrolment: its token is good no more, what came by it stays. Answers it as it is now; one that
    /// has ended before is as it was.
    ///
    /// # Errors
    /// [`AdmissionError::NoEnrolment`].
    pub async fn end_enrolment(
        &self,
        registry: &RegistryName,
        id: &str,
        actor: &Actor,
    ) -> Result<Enrolment, AdmissionError> {
        self.enrolment(registry, id).await?;
        let audit = self.audit(actor, "enrolment.end", id, &json!({}));
        self.inner.store.end_enrolment(registry, id, audit).await?;
        self.enrolment(registry, id).await
    }

    /// Up to `limit` devices that came by an enrolment (`None`: by any), after a name, in byte order of name;
    /// with `pending_only` those of them that wait for approval.
    ///
    /// # Errors
    /// [`AdmissionError`] when there is no such registry, or the store does not answer.
    pub async fn enrolled(
        &self,
        registry: &RegistryName,
        enrolment: Option<&str>,
        pending_only: bool,
        after: Option<&PrincipalName>,
        limit: usize,
    ) -> Result<Vec<Known>, AdmissionError> {
        self.must_exist(registry)?;
        Ok(self.inner.store.enrolled(registry, enrolment, pending_only, after, limit).await?)
    }

    /// Admits a device that has registered itself. One that waits no longer is as it was.
    ///
    /// # Errors
    /// [`AdmissionError::NoPrincipal`]; [`AdmissionError::Stale`] when `revision` is given and not the
    /// current one.
    pub async fn approve(
        &self,
        registry: &RegistryName,
        name: &PrincipalName,
        revision: Option<u64>,
        actor: &Actor,
    ) -> Result<Principal, AdmissionError> {
        let principal = self.enrolled_device(registry, name).await?.principal;
        if !principal.pending {
            return Ok(principal);
        }
        let change = PrincipalChange::Approve;
        let detail = json!({ "enrolment": principal.enrolment });
        self.change(registry, name, change, revision, actor, "device.approve", &detail).await
    }

    /// Admits the devices of an enrolment that wait, up to 500 of them; answers how many, and whether more
    /// wait.
    ///
    /// # Errors
    /// [`AdmissionError::NoEnrolment`].
    pub async fn approve_all(
        &self,
        registry: &RegistryName,
        id: &str,
        actor: &Actor,
    ) -> Result<(usize, bool), AdmissionError> {
        self.enrolment(registry, id).await?;
        let mut waiting = self.enrolled(registry, Some(id), true, None, APPROVED_AT_ONCE + 1).await?;
        let more = waiting.len() > APPROVED_AT_ONCE;
        waiting.truncate(APPROVED_AT_ONCE);
        let mut approved = 0;
        for known in &waiting {
            match self.approve(registry, &known.principal.name, None, actor).await {
                Ok(_) => approved += 1,
                // Taken away meanwhile: nothing is left to approve.
                Err(AdmissionError::NoPrincipal(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok((approved, more))
    }

    /// Sends a device that waits away: it is deleted, its name is free again, its keys can never be
    /// registered again, and its claim stays used.
    ///
    /// # Errors
    /// [`AdmissionError::NotEnrolled`] for one that does not wait.
    pub async fn reject(
        &self,
        registry: &RegistryName,
        name: &PrincipalName,
        actor: &Actor,
    ) -> Result<Principal, AdmissionError> {
        let known = self.enrolled_device(registry, name).await?;
        if !known.principal.pending {
            let why = "does not wait for approval; `device block` or `device delete` is for those that are admitted";
            return Err(AdmissionError::NotEnrolled { name: name.clone(), why });
        }
        self.delete_for_good(&known, actor, "device.reject").await?;
        Ok(known.principal)
    }

    /// Takes back a claim: the device is deleted, its sessions and tokens end, its name and keys are free
    /// again, and the enrolment has one claim more to give.
    ///
    /// # Errors
    /// [`AdmissionError::NotEnrolled`] for a device that did not come by an enrolment.
    pub async fn undo_enrolment(
        &self,
        registry: &RegistryName,
        name: &PrincipalName,
        actor: &Actor,
    ) -> Result<Principal, AdmissionError> {
        let principal = self.enrolled_device(registry, name).await?.principal;
        let detail = json!({ "uid": principal.uid.to_string(), "enrolment": principal.enrolment });
        let audit = self.audit(actor, "enrolment.undo", name.as_str(), &detail);
        if !self.inner.store.undo_enrolment(registry, principal.uid, audit).await? {
            let why = "did not come by an enrolment; `device delete` takes it away";
            return Err(AdmissionError::NotEnrolled { name: name.clone(), why });
        }
        self.inner.cache.principal_changed(registry, name);
        self.tell_principal(&principal, EndReason::Deleted);
        Ok(principal)
    }

    /// A device registers itself, with a proof of possession for each of its keys. The same device with the
    /// same keys, once more, gets a new registration access token and is otherwise as it was.
    ///
    /// # Errors
    /// [`Refusal`].
    ///
    /// Source: RFC 7591 section 3.
    pub async fn register(
        &self,
        registry: &RegistryName,
        request: RegisterRequest<'_>,
    ) -> Result<Registered, Refusal> {
        let judged = async {
            match request.permission {
                Permission::Token(token) => self.register_by_token(registry, token, &request).await,
                Permission::Statement(statement) => {
                    self.register_by_statement(registry, statement, &request).await
                }
            }
        };
        let registered = self.decide("register", Some(registry), request.peer, judged).await?;
        if self.inner.journal.takes(self.inner.clock.instant(), "register") {
            let principal = &registered.known.principal;
            tracing::info!(
                %registry,
                address = request.peer.address.map(tracing::field::display),
                name = %principal.name,
                new = registered.new,
                pending = principal.pending,
                "a device registered itself"
            );
        }
        Ok(registered)
    }

    async fn register_by_token(
        &self,
        registry: &RegistryName,
        token: &str,
        request: &RegisterRequest<'_>,
    ) -> Result<Registered, Refusal> {
        let realm = self.known_realm(registry)?;
        let unknown = Refusal::NotProven(NotProven::UnknownToken);
        if !token.starts_with(ENROLMENT_TOKEN_PREFIX) || token.len() > TOKEN_BYTES_MAX {
            return Err(unknown);
        }
        let digest = sha256(token.as_bytes());
        let found = self.inner.store.enrolment_by_token(registry, &digest).await;
        let enrolment = found.map_err(|error| unavailable(&error))?.ok_or(unknown)?;
        if let Some(why) = over(&enrolment, self.now_s()) {
            return Err(Refusal::EnrolmentOver(why));
        }
        let name =
            request.name.ok_or_else(|| Refusal::Enrolment("`client_id_hint` is missing".to_owned()))?;
        let name = PrincipalName::parse(name)
            .map_err(|error| Refusal::Enrolment(format!("`client_id_hint`: {error}")))?;
        let keys = self.proven_keys(&realm, &name, &digest, request)?;
        self.claim(&realm, &enrolment, name, keys, request.peer).await
    }

    /// Judges keys and proofs, one for one.
    pub(crate) fn proven_keys(
        &self,
        realm: &Realm,
        name: &PrincipalName,
        authority: &[u8; 32],
        request: &RegisterRequest<'_>,
    ) -> Result<Vec<PublicKey>, Refusal> {
        let RegisterRequest { keys, proofs, .. } = request;
        let max = self.inner.config.keys_active_max.min(ENROLMENT_KEYS_MAX);
        if !(1..=max).contains(&keys.len()) {
            return Err(Refusal::NewKey(format!("`jwks` has {} keys, wanted 1 to {max}", keys.len())));
        }
        let read = |jwk: &&str| {
            let too_large = KeyError::TooLarge {
                found_bytes: jwk.len(),
                bytes_max: drawbridge_identity::NEW_KEY_BYTES_MAX,
            };
            let fits = jwk.len() <= drawbridge_identity::NEW_KEY_BYTES_MAX;
            let key = if fits { PublicKey::from_jwk(jwk.as_bytes()) } else { Err(too_large) };
            key.map_err(|error| Refusal::NewKey(error.to_string()))
        };
        let public = keys.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let different: BTreeSet<&str> = public.iter().map(PublicKey::thumbprint).collect();
        if different.len() != public.len() {
            return Err(Refusal::NewKey("`jwks` has the same key twice".to_owned()));
        }
        if proofs.len() != public.len() {
            let found =
                format!("{} proofs came with {} keys, wanted one for each", proofs.len(), public.len());
            return Err(Refusal::Pop(found));
        }
        let rules = EnrolmentRules {
            issuer: &realm.record.issuer,
            device: name,
            authority,
            skew_s: realm.record.clock_skew_s.into(),
            nonces: &realm.nonces,
        };
        for (proof, key) in proofs.iter().zip(&public) {
            let bytes_max = self.inner.config.http_token_bytes_max;
            verify_enrolment_proof(proof, bytes_max, key, &rules, self.now_s(), &self.inner.checker)?;
        }
        Ok(public)
    }

    /// One claim of an enrolment, for a device whose keys are proven.
    pub(crate) async fn claim(
        &self,
        realm: &Realm,
        enrolment: &Enrolment,
        name: PrincipalName,
        public: Vec<PublicKey>,
        peer: Peer,
    ) -> Result<Registered, Refusal> {
        let registry = &realm.record.name;
        judge_claim(&enrolment.names, &name, &public)?;
        let Applicant { principal, keys, mut detail, registration_token } =
            self.applicant(registry, &name, &public, enrolment.policy.clone(), !enrolment.auto);
        detail["enrolment"] = json!(enrolment.id);
        let actor = Actor::Device(name.clone());
        let audit = self.audit(&actor, "device.enrol", name.as_str(), &detail);
        let (principal, keys) = (Principal { enrolment: Some(enrolment.id.clone()), ..principal }, keys);
        let stored = self
            .inner
            .store
            .enrol(registry, &enrolment.id, principal.clone(), keys, self.now_s(), audit)
            .await;
        match stored.map_err(|error| unavailable(&error))? {
            Enrol::Enrolled => self.registered(registry, &name, registration_token).await,
            Enrol::Ended => Err(Refusal::EnrolmentOver("was ended, or its time is over")),
            Enrol::Spent => Err(Refusal::EnrolmentOver("was used by as many devices as it is for")),
            Enrol::Refused(why) => {
                let by =
                    |principal: &Principal| principal.enrolment.as_deref() == Some(enrolment.id.as_str());
                self.registered_before(registry, &name, &public, why, peer, by).await
            }
        }
    }

    /// A device that is not stored yet.
    pub(crate) fn applicant(
        &self,
        registry: &RegistryName,
        name: &PrincipalName,
        public: &[PublicKey],
        policy: Option<PolicyName>,
        pending: bool,
    ) -> Applicant {
        let registration_token = self.draw_token(REGISTRATION_TOKEN_PREFIX);
        let now_s = self.now_s();
        let mut uid = [0; 8];
        self.inner.random.fill(&mut uid);
        let uid = Uid(u64::from_be_bytes(uid));
        let principal = Principal {
            policy: Some(policy.unwrap_or_else(device_policy)),
            pending,
            registration: Some(sha256(registration_token.as_bytes())),
            ..Principal::new(registry.clone(), uid, name.clone(), PrincipalKind::Device, now_s)
        };
        let keys: Vec<Key> = public.iter().map(|key| key_record(key, now_s)).collect();
        let detail = json!({
            "uid": uid.to_string(),
            "kids": keys.iter().map(|key| key.kid.as_str()).collect::<Vec<_>>(),
            "policy": principal.policy.as_ref().map(PolicyName::as_str),
            "pending": pending,
        });
        Applicant { principal, keys, detail, registration_token }
    }

    pub(crate) async fn registered(
        &self,
        registry: &RegistryName,
        name: &PrincipalName,
        registration_token: Zeroizing<String>,
    ) -> Result<Registered, Refusal> {
        self.inner.cache.principal_changed(registry, name);
        let known = self.inner.store.known(registry, name).await.map_err(|error| unavailable(&error))?;
        // It can be undone in this very moment.
        let known = known.ok_or(Refusal::KeyGone)?;
        Ok(Registered { known, new: true, registration_token })
    }

    /// It could not be added. If it is the same device with the same keys, whose answer was lost, it gets a
    /// new registration access token; `by`: whether it came the same way.
    pub(crate) async fn registered_before(
        &self,
        registry: &RegistryName,
        name: &PrincipalName,
        public: &[PublicKey],
        why: AddPrincipal,
        peer: Peer,
        by: impl FnOnce(&Principal) -> bool,
    ) -> Result<Registered, Refusal> {
        match why {
            AddPrincipal::NameTaken(PrincipalKind::Device) => {}
            AddPrincipal::NameTaken(PrincipalKind::Application) => return Err(Refusal::NameInUse),
            AddPrincipal::KeyInUse(_) => return Err(Refusal::KeyInUse),
            AddPrincipal::UidTaken | AddPrincipal::Added => {
                return Err(Refusal::Unavailable("the random number drawn is in use already".to_owned()));
            }
        }
        let known = self.inner.store.known(registry, name).await.map_err(|error| unavailable(&error))?;
        let known = known.ok_or(Refusal::NameInUse)?;
        let is_active = |key: &PublicKey| {
            known.keys.iter().any(|had| had.state == KeyState::Active && had.kid.as_str() == key.thumbprint())
        };
        if !by(&known.principal) || !public.iter().all(is_active) {
            return Err(Refusal::NameInUse);
        }
        self.charge_principal(registry, known.principal.uid, peer)?;
        if known.principal.blocked {
            return Err(Refusal::Blocked);
        }
        let registration_token = self.draw_token(REGISTRATION_TOKEN_PREFIX);
        let change = PrincipalChange::Registration(Some(sha256(registration_token.as_bytes())));
        let actor = Actor::Device(name.clone());
        let changed =
            self.change(registry, name, change, None, &actor, "device.registration", &json!({})).await;
        let principal = changed.map_err(|error| match error {
            AdmissionError::NoPrincipal(_) => Refusal::KeyGone,
            error => Refusal::Unavailable(error.to_string()),
        })?;
        Ok(Registered { known: Known { principal, keys: known.keys }, new: false, registration_token })
    }

    /// The device whose registration access token this is. An unknown device and a wrong token are one
    /// answer.
    ///
    /// # Errors
    /// [`Refusal::NotProven`]; [`Refusal::Blocked`] for a device that is.
    ///
    /// Source: RFC 7592 section 2.
    pub async fn registration(
        &self,
        registry: &RegistryName,
        name: &PrincipalName,
        token: &str,
        peer: Peer,
    ) -> Result<Known, Refusal> {
        let judged = self.judge_registration(registry, name, token);
        self.decide("registration", Some(registry), peer, judged).await
    }

    async fn judge_registration(
        &self,
        registry: &RegistryName,
        name: &PrincipalName,
        token: &str,
    ) -> Result<Known, Refusal> {
        self.known_realm(registry)?;
        let found = self.inner.store.known(registry, name).await.map_err(|error| unavailable(&error))?;
        let is_token = token.starts_with(REGISTRATION_TOKEN_PREFIX) && token.len() <= TOKEN_BYTES_MAX;
        let digest = sha256(token.as_bytes());
        let known = found.filter(|known| {
            is_token && known.principal.registration.is_some_and(|kept| same(&kept, &digest))
        });
        let known = known.ok_or(Refusal::NotProven(NotProven::UnknownToken))?;
        if known.principal.blocked {
            return Err(Refusal::Blocked);
        }
        Ok(known)
    }

    /// A device takes itself out of the registry. Its keys can never be registered again: a JWT that they
    /// signed before stays dead.
    ///
    /// # Errors
    /// [`Refusal`], as [`Self::registration`].
    ///
    /// Source: RFC 7592 section 2.3.
    pub async fn deregister(
        &self,
        registry: &RegistryName,
        name: &PrincipalName,
        token: &str,
        peer: Peer,
    ) -> Result<Principal, Refusal> {
        let known = self.registration(registry, name, token, peer).await?;
        let actor = Actor::Device(name.clone());
        let gone = self.delete_for_good(&known, &actor, "device.deregister").await;
        gone.map(|()| known.principal).map_err(|error| Refusal::Unavailable(error.to_string()))
    }

    /// Retires all keys of a device, then deletes it: its keys are barred for ever, its name is free.
    async fn delete_for_good(
        &self,
        known: &Known,
        actor: &Actor,
        action: &str,
    ) -> Result<(), AdmissionError> {
        let Principal { registry, uid, name, .. } = &known.principal;
        for key in known.keys.iter().filter(|key| key.state != KeyState::Retired) {
            match self.retire(&known.principal, &key.kid, true, actor, "key.remove", json!({})).await {
                // Retired by somebody else meanwhile.
                Ok(()) | Err(AdmissionError::NoKey(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let audit = self.audit(actor, action, name.as_str(), &json!({ "uid": uid.to_string() }));
        if !self.inner.store.delete_principal(registry, *uid, audit).await? {
            return Err(AdmissionError::NoPrincipal(name.clone()));
        }
        self.inner.cache.principal_changed(registry, name);
        self.tell_principal(&known.principal, EndReason::Deleted);
        Ok(())
    }

    /// The device of this name, whatever way it came.
    async fn enrolled_device(
        &self,
        registry: &RegistryName,
        name: &PrincipalName,
    ) -> Result<Known, AdmissionError> {
        let known = self.show(registry, name).await?;
        known
            .filter(|known| known.principal.kind == PrincipalKind::Device)
            .ok_or_else(|| AdmissionError::NoPrincipal(name.clone()))
    }

    /// A prefix, 256 random bits, a checksum.
    pub(crate) fn draw_token(&self, prefix: &str) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new([0; 32]);
        self.inner.random.fill(&mut *bytes);
        Zeroizing::new(with_checksum(prefix, &Zeroizing::new(base64url_encode(&*bytes))))
    }
}

/// A key that is registered now, without label and end.
pub(crate) fn key_record(key: &PublicKey, now_s: u64) -> Key {
    Key {
        kid: kid_of(key),
        spki_der: key.spki_der().to_vec(),
        algorithm: key.algorithm().name().to_owned(),
        label: None,
        state: KeyState::Active,
        not_before_s: None,
        expires_s: None,
        added_s: now_s,
        last_used_s: None,
        certificate_der: None,
    }
}

pub(crate) fn device_policy() -> PolicyName {
    PolicyName::parse(DEVICE_POLICY).expect("`device` is a policy name")
}

/// Why an enrolment is good no more. That it is used up only the store can say: somebody whose answer was
/// lost is let through.
pub(crate) fn over(enrolment: &Enrolment, now_s: u64) -> Option<&'static str> {
    if enrolment.ended {
        return Some("was ended by the operator");
    }
    (enrolment.expires_s <= now_s).then_some("has expired")
}

/// Whether the enrolment is for this device.
fn judge_claim(names: &EnrolmentNames, name: &PrincipalName, keys: &[PublicKey]) -> Result<(), Refusal> {
    let text = name.as_str();
    let fits = match names {
        EnrolmentNames::Ids(ids) => ids.iter().any(|id| id == text),
        EnrolmentNames::Pattern(pattern) => pattern_fits(pattern, text),
        EnrolmentNames::Keys(kids) => {
            let listed = |key: &PublicKey| kids.iter().any(|kid| kid == key.thumbprint());
            if !keys.iter().all(listed) {
                return Err(Refusal::Enrolment("it does not list this key".to_owned()));
            }
            true
        }
    };
    if fits { Ok(()) } else { Err(Refusal::Enrolment(format!("it is not for the name `{text}`"))) }
}

/// Judges whom an enrolment is for; answers how many it lists.
fn judge_names(names: &EnrolmentNames, any: bool) -> Result<Option<usize>, String> {
    let listed = |list: &[String], what: &str| {
        let different: BTreeSet<&String> = list.iter().collect();
        if !(1..=LISTED_MAX).contains(&list.len()) || different.len() != list.len() {
            return Err(format!("`{what}` has {} members; wanted 1 to {LISTED_MAX}, each once", list.len()));
        }
        Ok(Some(list.len()))
    };
    match names {
        EnrolmentNames::Ids(ids) => {
            for id in ids {
                PrincipalName::parse(id).map_err(|error| format!("`ids`: {error}"))?;
            }
            listed(ids, "ids")
        }
        EnrolmentNames::Keys(kids) => {
            if kids.iter().any(|kid| thumbprint(kid).is_none()) {
                return Err(
                    "`key_thumbprints` holds something else; wanted RFC 7638 thumbprints, 43 characters \
                            of base64url"
                        .to_owned(),
                );
            }
            listed(kids, "key_thumbprints")
        }
        EnrolmentNames::Pattern(pattern) => match judge_pattern(pattern) {
            Err(found) => Err(format!("`id_pattern` {found}")),
            Ok(true) if !any => {
                Err("`id_pattern` fits every name, so whoever has the token takes any name; give \
                                     a prefix, or say `any` if that is meant"
                    .to_owned())
            }
            Ok(_) => Ok(None),
        },
    }
}

/// Whom an enrolment is for, short enough for the audit.
fn summary(names: &EnrolmentNames) -> Value {
    const SHOWN: usize = 20;
    let list = |what: &str, list: &[String]| {
        let shown: Vec<&String> = list.iter().take(SHOWN).collect();
        json!({ what: shown, "of": list.len() })
    };
    match names {
        EnrolmentNames::Ids(ids) => list("ids", ids),
        EnrolmentNames::Keys(kids) => list("key_thumbprints", kids),
        EnrolmentNames::Pattern(pattern) => json!({ "id_pattern": pattern }),
    }
}

pub(crate) fn is_label(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ')
}

/// An id that somebody asked for, for a message.
fn shown(id: &str) -> String {
    id.chars().take(32).filter(|c| c.is_ascii_graphic()).collect()
}
