//! Policies: set, attached, compiled, explained.

use std::sync::Arc;

use drawbridge_names::{PolicyName, PrincipalName, RegistryName, TopicFilter, TopicName};
use drawbridge_policy::{
    Action, Connection, ConnectionFacts, Policy, PolicyError, PublishFacts, Rights, Variables,
};
use drawbridge_registry::{PolicyRecord, Principal, PrincipalChange, StoreError};

use crate::cache::{Loaded, Stamp};
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

/// What is asked of a principal.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// What it wants to do.
    pub action: Action,
    /// Topic, or filter of a subscription.
    pub topic: &'a str,
    /// The message, or the QoS of a subscription; `None`: any message.
    pub message: Option<PublishFacts>,
    /// Over which connection; `None`: over any that the principal may have.
    pub connection: Option<ConnectionFacts<'a>>,
}

/// The rights of a principal, compiled.
pub(crate) struct Compiled {
    /// What it may over any connection: to be judged again, or judged before, by the rights of a connection.
    pub(crate) anywhere: Rights,
    /// What it may over a connection of which nothing is known.
    pub(crate) rights: Rights,
    /// The policy, where that has more to say of a connection that is known.
    pub(crate) conditional: Option<Policy>,
    /// When the policy was read.
    pub(crate) stamp: Option<Stamp>,
}

impl Compiled {
    fn nothing(stamp: Option<Stamp>) -> Self {
        Self { anywhere: Rights::none(), rights: Rights::none(), conditional: None, stamp }
    }
}

fn variables(principal: &Principal) -> Variables<'_> {
    Variables { device: &principal.name, registry: &principal.registry, attributes: &principal.attributes }
}

impl Loaded {
    /// The rights over one connection.
    pub(crate) fn rights_over(&self, connection: &Connection<'_>) -> Arc<Rights> {
        let Some(policy) = &self.conditional else { return Arc::clone(&self.rights) };
        match policy.compile_for(&variables(&self.principal), connection) {
            Ok(rights) => Arc::new(rights),
            Err(error) => {
                tracing::warn!(principal = %self.principal.name, "nothing is allowed over this connection: {error}");
                Arc::new(Rights::none())
            }
        }
    }
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

    /// The rights that a principal's policy gives it now, over any connection: for what it left behind, and for
    /// what is judged again when it connects.
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
        Ok(Arc::clone(&loaded.anywhere))
    }

    /// Whether a principal may publish to a topic, subscribe to a filter, or receive a topic, and which
    /// rule says so: any message, over any connection. The state of the principal does not count: a blocked
    /// one may nothing anyway.
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
        let question = Question { action, topic, message: None, connection: None };
        self.can_with(registry, principal, &question).await
    }

    /// As [`Self::can`], of one message or over one connection.
    ///
    /// # Errors
    /// As [`Self::can`].
    pub async fn can_with(
        &self,
        registry: &RegistryName,
        principal: &PrincipalName,
        question: &Question<'_>,
    ) -> Result<CanAnswer, AdmissionError> {
        self.must_exist(registry)?;
        let loaded = self.loaded(registry, principal).await?;
        let loaded = loaded.ok_or_else(|| AdmissionError::NoPrincipal(principal.clone()))?;
        let policy = match &loaded.principal.policy {
            Some(name) => self.parsed(registry, name).await?.1.and_then(Result::ok),
            None => None,
        };
        let variables = variables(&loaded.principal);
        let connection =
            Connection { facts: question.connection.unwrap_or_default(), ..Connection::default() };
        let rights = match (&policy, question.connection) {
            (Some(policy), Some(_)) => {
                Arc::new(policy.compile_for(&variables, &connection).unwrap_or(Rights::none()))
            }
            _ => Arc::clone(&loaded.anywhere),
        };
        let left_out: Vec<String> = policy
            .iter()
            .flat_map(|policy| policy.left_out(&variables, &connection))
            .map(|error| error.to_string())
            .collect();
        let topic = question.topic;
        let bad = |error: String| AdmissionError::Topic(error);
        let name = || TopicName::parse(topic).map_err(|error| bad(error.to_string()));
        let filter;
        let (decision, granted_qos) = match (question.action, &question.message) {
            (Action::Publish, None) => (rights.may_publish(name()?), None),
            (Action::Publish, Some(message)) => (rights.may_publish_with(name()?, message), None),
            (Action::Receive, _) => (rights.may_receive(name()?), None),
            (Action::Subscribe, message) => {
                filter = TopicFilter::parse(topic).map_err(|error| bad(error.to_string()))?;
                let (decision, granted) =
                    rights.may_subscribe_with(&filter, message.map_or(2, |message| message.qos));
                (decision, decision.allowed.then_some(granted))
            }
        };
        let explanation = decision.explain(topic);
        let mut json = serde_json::to_value(explanation).expect("an explanation is texts, numbers and flags");
        json["granted_qos"] = granted_qos.into();
        json["left_out"] = left_out.into();
        Ok(CanAnswer { allowed: decision.allowed, text: explanation.to_string(), json: json.to_string() })
    }

    /// A policy as parsed, from memory or from the store; no policy when there is none of that name.
    async fn parsed(
        &self,
        registry: &RegistryName,
        name: &PolicyName,
    ) -> Result<(Stamp, Option<Result<Policy, PolicyError>>), StoreError> {
        if let Some((stamp, policy)) = self.inner.cache.policy(registry, name) {
            return Ok((stamp, Some(Ok(policy))));
        }
        let stamp = self.inner.cache.stamp_policy(registry, name);
        let Some(record) = self.inner.store.policy(registry, name).await? else { return Ok((stamp, None)) };
        let policy = Policy::parse(name, &record.source);
        if let Ok(policy) = &policy {
            self.inner.cache.keep_policy(registry, name, stamp, policy.clone());
        }
        Ok((stamp, Some(policy)))
    }

    /// The rights of a principal by its policy as stored. A policy that is missing or broken gives
    /// nothing (I3).
    pub(crate) async fn compiled(&self, principal: &Principal) -> Result<Compiled, StoreError> {
        let Some(name) = &principal.policy else { return Ok(Compiled::nothing(None)) };
        let (stamp, policy) = self.parsed(&principal.registry, name).await?;
        let Some(policy) = policy else {
            tracing::warn!(principal = %principal.name, policy = %name, "the policy attached does not exist");
            return Ok(Compiled::nothing(Some(stamp)));
        };
        let broken = |error| {
            tracing::warn!(principal = %principal.name, policy = %name, "nothing is allowed: {error}");
            Rights::none()
        };
        let policy = match policy {
            Ok(policy) => policy,
            Err(error) => {
                broken(error);
                return Ok(Compiled::nothing(Some(stamp)));
            }
        };
        let variables = variables(principal);
        if !policy.asks_for_connection() {
            let rights = policy.compile(&variables).unwrap_or_else(broken);
            return Ok(Compiled { anywhere: rights.clone(), rights, conditional: None, stamp: Some(stamp) });
        }
        let anywhere = policy.compile_anywhere(&variables).unwrap_or_else(broken);
        // What a connection lacks is told when there is one.
        let rights = policy.compile(&variables).unwrap_or(Rights::none());
        Ok(Compiled { anywhere, rights, conditional: Some(policy), stamp: Some(stamp) })
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
