//! What an operator does to principals.

use std::collections::BTreeMap;

use drawbridge_jose::PublicKey;
use drawbridge_names::{Epoch, PolicyName, PrincipalKind, PrincipalName, RegistryName, Uid};
use drawbridge_registry::{
    AddPrincipal, Changed, Known, Principal, PrincipalChange, PrincipalSettings, StoreError,
};
use serde_json::{Value, json};

use crate::keys::NewKey;
use crate::registries::DEVICE_POLICY;
use crate::{Actor, Admission, AdmissionError, EndReason, SessionsEnd};

/// A device to be registered.
#[derive(Debug, Clone)]
pub struct NewDevice {
    /// Its name.
    pub name: PrincipalName,
    /// Its public keys.
    pub keys: Vec<NewKey>,
    /// Its policy; `None` attaches `device`.
    pub policy: Option<PolicyName>,
    /// Accept IoT IdP JWTs on the alias paths: a weakness.
    pub legacy_assertions: bool,
    /// Values for `${attr.x}`.
    pub attributes: BTreeMap<String, String>,
}

impl NewDevice {
    /// A device with one key and the policy `device`.
    #[must_use]
    pub fn with_key(name: PrincipalName, key: PublicKey) -> Self {
        let keys = vec![key.into()];
        Self { name, keys, policy: None, legacy_assertions: false, attributes: BTreeMap::new() }
    }
}

/// An application to be registered.
#[derive(Debug, Clone)]
pub struct NewApplication {
    /// Its name.
    pub name: PrincipalName,
    /// Its public keys. There may be none.
    pub keys: Vec<NewKey>,
    /// Its policy; without one it may nothing.
    pub policy: Option<PolicyName>,
}

impl Admission {
    /// Registers a device.
    ///
    /// # Errors
    /// [`AdmissionError`] when the name is taken, a key is registered, or there is no such policy.
    pub async fn add_device(
        &self,
        registry: &RegistryName,
        device: NewDevice,
        actor: &Actor,
    ) -> Result<Known, AdmissionError> {
        self.add_device_with(registry, device, PrincipalSettings::default(), actor).await
    }

    /// Registers a device with what else its operator has set.
    ///
    /// # Errors
    /// As [`Self::add_device`]; [`AdmissionError::DeviceRole`] for roles.
    pub async fn add_device_with(
        &self,
        registry: &RegistryName,
        device: NewDevice,
        settings: PrincipalSettings,
        actor: &Actor,
    ) -> Result<Known, AdmissionError> {
        let NewDevice { name, keys, policy, legacy_assertions, attributes } = device;
        if !settings.roles.is_empty() {
            return Err(AdmissionError::DeviceRole(name));
        }
        let policy =
            policy.unwrap_or_else(|| PolicyName::parse(DEVICE_POLICY).expect("`device` is a policy name"));
        let principal = Principal {
            policy: Some(policy),
            legacy_assertions,
            attributes,
            settings,
            ..self.new_principal(registry, name, PrincipalKind::Device)
        };
        self.add(principal, keys, actor, "device.add").await
    }

    /// Registers an application.
    ///
    /// # Errors
    /// [`AdmissionError`] when the name is taken, a key is registered, or there is no such policy.
    pub async fn add_application(
        &self,
        registry: &RegistryName,
        application: NewApplication,
        actor: &Actor,
    ) -> Result<Known, AdmissionError> {
        self.add_application_with(registry, application, PrincipalSettings::default(), actor).await
    }

    /// Registers an application with what else its operator has set, its roles among it.
    ///
    /// # Errors
    /// As [`Self::add_application`].
    pub async fn add_application_with(
        &self,
        registry: &RegistryName,
        application: NewApplication,
        settings: PrincipalSettings,
        actor: &Actor,
    ) -> Result<Known, AdmissionError> {
        let NewApplication { name, keys, policy } = application;
        let new = self.new_principal(registry, name, PrincipalKind::Application);
        let principal = Principal { policy, settings, ..new };
        self.add(principal, keys, actor, "app.add").await
    }

    fn new_principal(&self, registry: &RegistryName, name: PrincipalName, kind: PrincipalKind) -> Principal {
        let mut uid = [0; 8];
        self.inner.random.fill(&mut uid);
        Principal {
            registry: registry.clone(),
            uid: Uid(u64::from_be_bytes(uid)),
            name,
            kind,
            blocked: false,
            pending: false,
            epoch: Epoch::default(),
            not_before_s: 0,
            legacy_assertions: false,
            policy: None,
            attributes: BTreeMap::new(),
            password: None,
            settings: Default::default(),
            enrolment: None,
            registration: None,
            created_s: self.now_s(),
            revision: 1,
        }
    }

    async fn add(
        &self,
        principal: Principal,
        keys: Vec<NewKey>,
        actor: &Actor,
        action: &str,
    ) -> Result<Known, AdmissionError> {
        let (registry, name) = (principal.registry.clone(), principal.name.clone());
        self.policy_must_exist(&registry, principal.policy.as_ref()).await?;
        let active_max = self.inner.config.keys_active_max;
        if keys.len() > active_max {
            return Err(AdmissionError::TooManyKeys { active: keys.len(), active_max });
        }
        let keys = keys.into_iter().map(|key| self.key_of(key)).collect::<Result<Vec<_>, _>>()?;
        let detail = json!({
            "uid": principal.uid.to_string(),
            "kids": keys.iter().map(|key| key.kid.as_str()).collect::<Vec<_>>(),
            "policy": principal.policy.as_ref().map(PolicyName::as_str),
            "legacy_assertions": principal.legacy_assertions,
            "settings": principal.settings,
        });
        let audit = self.audit(actor, action, name.as_str(), &detail);
        match self.inner.store.add_principal(principal, keys, audit).await? {
            AddPrincipal::Added => {}
            AddPrincipal::NameTaken(kind) => return Err(AdmissionError::NameTaken { name, kind }),
            AddPrincipal::KeyInUse(kid) => return Err(AdmissionError::KeyInUse(kid)),
            AddPrincipal::UidTaken => {
                let found = "the random number drawn is in use already".to_owned();
                return Err(AdmissionError::Store(StoreError::Unavailable(found)));
            }
        }
        self.inner.cache.principal_changed(&registry, &name);
        self.known(&registry, &name).await
    }

    /// A principal with its keys, if there is one.
    ///
    /// # Errors
    /// [`AdmissionError`] when there is no such registry, or the store does not answer.
    pub async fn show(
        &self,
        registry: &RegistryName,
        name: &PrincipalName,
    ) -> Result<Option<Known>, AdmissionError> {
        self.must_exist(registry)?;
        let known = self.inner.store.known(registry, name).await?;
        Ok(known.map(|known| self.with_last_used(known)))
    }

    /// Up to `limit` principals after a name, in byte order of name.
    ///
    /// # Errors
    /// [`AdmissionError`] when there is no such registry, or the store does not answer.
    pub async fn list(
        &self,
        registry: &RegistryName,
        kind: Option<PrincipalKind>,
        after: Option<&PrincipalName>,
        limit: usize,
    ) -> Result<Vec<Known>, AdmissionError> {
        self.must_exist(registry)?;
        let found = self.inner.store.principals(registry, kind, after, limit).await?;
        Ok(found.into_iter().map(|known| self.with_last_used(known)).collect())
    }

    /// Admits a principal nowhere any more and ends its sessions. The answer to a stolen key.
    ///
    /// # Errors
    /// [`AdmissionError::Stale`] when `revision` is given and not the current one.
    pub async fn block(
        &self,
        registry: &RegistryName,
        name: &PrincipalName,
        revision: Option<u64>,
        actor: &Actor,
    ) -> Result<Principal, AdmissionError> {
        let change = PrincipalChange::Block;
        let changed =
            self.change(registry, name, change, revision, actor, "principal.block", &json!({})).await?;
        self.tell_principal(&changed, EndReason::Blocked);
        Ok(changed)
    }

    /// Admits a principal again.
    ///
    /// # Errors
    /// [`AdmissionError::Stale`] when `revision` is given and not the current one.
    pub async fn unblock(
        &self,
        registry: &RegistryName,
        name: &PrincipalName,
        revision: Option<u64>,
        actor: &Actor,
    ) -> Result<Principal, AdmissionError> {
        let change = PrincipalChange::Unblock;
        self.change(registry, name, change, revision, actor, "principal.unblock", &json!({})).await
    }

    /// Makes every token, session and JWT of a principal up to this second dead. Whoever has its key
    /// signs anew: against a stolen key [`Self::block`] it, or [`Self::remove_key`].
    ///
    /// # Errors
    /// [`AdmissionError::Stale`] when `revision` is given and not the current one.
    pub async fn revoke(
        &self,
        registry: &RegistryName,
        name: &PrincipalName,
        reason: &str,
        revision: Option<u64>,
        actor: &Actor,
    ) -> Result<Principal, AdmissionError> {
        let change = PrincipalChange::Revoke { not_before_s: self.now_s() };
        let reason: String = reason.chars().take(256).collect();
        let detail = json!({ "reason": reason });
        let changed =
            self.change(registry, name, change, revision, actor, "principal.revoke", &detail).await?;
        self.tell_principal(&changed, EndReason::Revoked);
        Ok(changed)
    }

    /// Accepts IoT IdP JWTs of a device on the alias paths, or not.
    ///
    /// # Errors
    /// [`AdmissionError::Stale`] when `revision` is given and not the current one.
    pub async fn set_legacy_assertions(
        &self,
        registry: &RegistryName,
        name: &PrincipalName,
        accepted: bool,
        revision: Option<u64>,
        actor: &Actor,
    ) -> Result<Principal, AdmissionError> {
        let change = PrincipalChange::LegacyAssertions(accepted);
        let detail = json!({ "accepted": accepted });
        self.change(registry, name, change, revision, actor, "principal.legacy", &detail).await
    }

    /// Replaces the values for `${attr.x}`; the sessions end and may come again at once.
    ///
    /// # Errors
    /// [`AdmissionError::Stale`] when `revision` is given and not the current one.
    pub async fn set_attributes(
        &self,
        registry: &RegistryName,
        name: &PrincipalName,
        attributes: BTreeMap<String, String>,
        revision: Option<u64>,
        actor: &Actor,
    ) -> Result<Principal, AdmissionError> {
        let detail = json!({ "attributes": attributes });
        let change = PrincipalChange::Attributes(attributes);
        let changed =
            self.change(registry, name, change, revision, actor, "principal.attributes", &detail).await?;
        self.tell_principal(&changed, EndReason::PolicyChanged);
        Ok(changed)
    }

    /// Deletes a principal with all that is its own.
    ///
    /// # Errors
    /// [`AdmissionError`] when there is no such principal.
    pub async fn delete(
        &self,
        registry: &RegistryName,
        name: &PrincipalName,
        actor: &Actor,
    ) -> Result<(), AdmissionError> {
        let principal = self.known(registry, name).await?.principal;
        let detail = json!({ "uid": principal.uid.to_string() });
        let audit = self.audit(actor, "principal.delete", name.as_str(), &detail);
        if !self.inner.store.delete_principal(registry, principal.uid, audit).await? {
            return Err(AdmissionError::NoPrincipal(name.clone()));
        }
        self.inner.cache.principal_changed(registry, name);
        self.tell_principal(&principal, EndReason::Deleted);
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "private: what is changed, and what the audit says of it")]
    pub(crate) async fn change(
        &self,
        registry: &RegistryName,
        name: &PrincipalName,
        change: PrincipalChange,
        revision: Option<u64>,
        actor: &Actor,
        action: &str,
        detail: &Value,
    ) -> Result<Principal, AdmissionError> {
        let uid = self.known(registry, name).await?.principal.uid;
        let audit = self.audit(actor, action, name.as_str(), detail);
        match self.inner.store.change_principal(registry, uid, change, revision, audit).await? {
            Changed::Done(principal) => {
                self.inner.cache.principal_changed(registry, name);
                Ok(principal)
            }
            Changed::NotFound => Err(AdmissionError::NoPrincipal(name.clone())),
            Changed::Stale { revision } => Err(AdmissionError::Stale { revision }),
        }
    }

    pub(crate) fn tell_principal(&self, principal: &Principal, why: EndReason) {
        let (registry, uid) = (principal.registry.clone(), principal.uid);
        if why != EndReason::PolicyChanged {
            self.tell_gateway(&registry, uid);
        }
        self.tell(&SessionsEnd::Principal { registry, uid, why });
    }

    pub(crate) fn must_exist(&self, registry: &RegistryName) -> Result<(), AdmissionError> {
        match self.realm(registry) {
            Some(_) => Ok(()),
            None => Err(AdmissionError::NoRegistry(registry.clone())),
        }
    }

    /// As stored, not as cached: an operator sees and changes what is.
    pub(crate) async fn known(
        &self,
        registry: &RegistryName,
        name: &PrincipalName,
    ) -> Result<Known, AdmissionError> {
        self.show(registry, name).await?.ok_or_else(|| AdmissionError::NoPrincipal(name.clone()))
    }
}
