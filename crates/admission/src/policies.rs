//! Policies: set, attached, compiled, explained.

use std::sync::Arc;

use drawbridge_names::{PolicyName, PrincipalName, RegistryName, TopicFilter, TopicName};
use drawbridge_policy::{Action, Policy, Rights, Variables};
use drawbridge_registry::{PolicyRecord, Principal, PrincipalChange, StoreError};

use crate::cache::Stamp;
use crate::{Actor, Admission, AdmissionError, EndReason, SessionsEnd};

/// The answer to "may this principal do that".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CanAnswer {
    /// Whether it may.
    pub allowed: bool,
    /// The answer with the deciding rule, for people.
    pub text: String,
    /// The same as JSON (see [`drawbridge_policy::Explanation`]).
    pub json: String,
}

impl Admission {
    /// Sets a policy, if its text is one and its own tests pass; answers its revision. Sessions that live by it end and may
    /// come again at once.
    ///
    /// # Errors
    /// [`AdmissionError::Policy`] names every fault of the text, or every test that fails; nothing has changed then (I13).
    pub async fn set_policy(
        &self,
        registry: &RegistryName,
        name: &PolicyName,
        source: &str,
        actor: &Actor,
    ) -> Result<u64, AdmissionError> {
        self.must_exist(registry)?;
        Policy::parse(name, source)?.run_tests()?;
        let detail = serde_json::json!({ "bytes": source.len() });
        let audit = self.audit(actor, "policy.set", name.as_str(), &detail);
        let revision = self.inner.store.set_policy(registry, name, source, self.now_s(), audit).await?;
        self.inner.cache.policy_changed(registry, name);
        self.tell(&SessionsEnd::Policy { registry: registry.clone(), policy: name.clone() });
        Ok(revision)
    }

    /// A policy.
    ///
    /// # Errors
    /// [`AdmissionError`] when the store does not answer.
    pub async fn policy(
        &self,
        registry: &RegistryName,
        name: &PolicyName,
    ) -> Result<Option<PolicyRecord>, AdmissionError> {
        self.must_exist(registry)?;
        Ok(self.inner.store.policy(registry, name).await?)
    }

    /// All policies of a registry, in byte order of name.
    ///
    /// # Errors
    /// [`AdmissionError`] when the store does not answer.
    pub async fn policies(&self, registry: &RegistryName) -> Result<Vec<PolicyRecord>, AdmissionError> {
        self.must_exist(registry)?;
        Ok(self.inner.store.policies(registry).await?)
    }

    /// Attaches a policy to a principal, or none; its sessions end and may come again at once.
    ///
    /// # Errors
    /// [`AdmissionError`] when there is no such policy or principal.
    pub async fn attach_policy(
        &self,
        registry: &RegistryName,
        principal: &PrincipalName,
        policy: Option<PolicyName>,
        actor: &Actor,
    ) -> Result<Principal, AdmissionError> {
        self.policy_must_exist(registry, policy.as_ref()).await?;
        let detail = serde_json::json!({ "policy": policy.as_ref().map(PolicyName::as_str) });
        let change = PrincipalChange::Policy(policy);
        let changed = self.change(registry, principal, change, None, actor, "policy.attach", &detail).await?;
        self.tell_principal(&changed, EndReason::PolicyChanged);
        Ok(changed)
    }

    /// The rights that a principal's policy gives it now.
    ///
    /// # Errors
    /// [`AdmissionError`] when there is no such principal.
    pub async fn rights_of(
        &self,
        registry: &RegistryName,
        principal: &PrincipalName,
    ) -> Result<Arc<Rights>, AdmissionError> {
        self.must_exist(registry)?;
        let loaded = self.loaded(registry, principal).await?;
        let loaded = loaded.ok_or_else(|| AdmissionError::NoPrincipal(principal.clone()))?;
        Ok(Arc::clone(&loaded.rights))
    }

    /// Whether a principal may publish to a topic, subscribe to a filter, or receive a topic, and which
    /// rule says so. The state of the principal does not count: a blocked one may nothing anyway.
    ///
    /// # Errors
    /// [`AdmissionError`] when there is no such principal, or `topic` is no topic or filter.
    pub async fn can(
        &self,
        registry: &RegistryName,
        principal: &PrincipalName,
        action: Action,
        topic: &str,
    ) -> Result<CanAnswer, AdmissionError> {
        let rights = self.rights_of(registry, principal).await?;
        let name = || TopicName::parse(topic).map_err(|error| AdmissionError::Topic(error.to_string()));
        let filter;
        let decision = match action {
            Action::Publish => rights.may_publish(name()?),
            Action::Receive => rights.may_receive(name()?),
            Action::Subscribe => {
                filter =
                    TopicFilter::parse(topic).map_err(|error| AdmissionError::Topic(error.to_string()))?;
                rights.may_subscribe(&filter)
            }
        };
        let explanation = decision.explain(topic);
        let json = serde_json::to_string(&explanation).expect("an explanation is texts, numbers and flags");
        Ok(CanAnswer { allowed: decision.allowed, text: explanation.to_string(), json })
    }

    /// The rights of a principal by its policy as stored. A policy that is missing or broken gives
    /// nothing (I3).
    pub(crate) async fn compiled(
        &self,
        principal: &Principal,
    ) -> Result<(Rights, Option<Stamp>), StoreError> {
        let Some(name) = &principal.policy else { return Ok((Rights::none(), None)) };
        let (stamp, policy) = match self.inner.cache.policy(&principal.registry, name) {
            Some((stamp, policy)) => (stamp, Ok(policy)),
            None => {
                let stamp = self.inner.cache.stamp_policy(&principal.registry, name);
                let Some(record) = self.inner.store.policy(&principal.registry, name).await? else {
                    tracing::warn!(principal = %principal.name, policy = %name, "the policy attached does not exist");
                    return Ok((Rights::none(), Some(stamp)));
                };
                let policy = Policy::parse(name, &record.source);
                if let Ok(policy) = &policy {
                    self.inner.cache.keep_policy(&principal.registry, name, stamp, policy.clone());
                }
                (stamp, policy)
            }
        };
        let variables = Variables {
            device: &principal.name,
            registry: &principal.registry,
            attributes: &principal.attributes,
        };
        let rights = policy.and_then(|policy| policy.compile(&variables));
        let rights = rights.unwrap_or_else(|error| {
            tracing::warn!(principal = %principal.name, policy = %name, "nothing is allowed: {error}");
            Rights::none()
        });
        Ok((rights, Some(stamp)))
    }

    pub(crate) async fn policy_must_exist(
        &self,
        registry: &RegistryName,
        policy: Option<&PolicyName>,
    ) -> Result<(), AdmissionError> {
        self.must_exist(registry)?;
        match policy {
            Some(name) if self.inner.store.policy(registry, name).await?.is_none() => {
                Err(AdmissionError::NoPolicy(name.clone()))
            }
            _ => Ok(()),
        }
    }
}
