//! Operator roles: who may call which part of `/v1`, and how an operator sets what a principal is.
//!
//! Viewer < operator < admin. A role is held by an application and counts in its own registry only; the
//! admin credential is admin of all. What a role allows is a matter of `/v1`: topics are the policy's.

use drawbridge_identity::Refusal;
use drawbridge_names::{PrincipalKind, PrincipalName, RegistryName};
use drawbridge_registry::{Principal, PrincipalChange, PrincipalSettings, Role};
use serde_json::json;

use crate::registries::judge_ways;
use crate::scope::ApiWord;
use crate::{Actor, Admission, AdmissionError, Authorized, Caller, EndReason};

/// The operator roles, lowest first, each with the word of a token that carries it.
pub(crate) const OPERATOR_ROLES: [(Role, ApiWord); 3] = [
    (Role::Viewer, ApiWord::RegistryRead),
    (Role::Operator, ApiWord::RegistryOperate),
    (Role::Admin, ApiWord::RegistryAdmin),
];

/// The place of a role among the operator roles, from 1; 0 for one that opens nothing of `/v1`.
pub(crate) fn level(role: Role) -> usize {
    OPERATOR_ROLES.iter().position(|(found, _)| *found == role).map_or(0, |at| at + 1)
}

impl Authorized {
    /// The highest operator role that this caller has here and now: held by an application, acting for
    /// itself, and not left out of the token's `scope`.
    #[must_use]
    pub fn operator_role(&self) -> Option<Role> {
        if self.kind != PrincipalKind::Application || self.actor.is_some() {
            return None;
        }
        let held = self.roles.iter().map(|role| level(*role)).max().unwrap_or(0);
        let carried = OPERATOR_ROLES.iter().rposition(|(_, word)| self.words.allow(*word));
        let level = held.min(carried.map_or(0, |at| at + 1));
        level.checked_sub(1).map(|at| OPERATOR_ROLES[at].0)
    }
}

impl Caller {
    /// Who this caller is in the audit, if it has at least the role `wanted`.
    ///
    /// # Errors
    /// [`Refusal::Role`] names the role that the caller has. `None` inside: it has no operator role at all.
    pub fn operator(&self, wanted: Role) -> Result<Actor, Option<Refusal>> {
        let caller = match self {
            Self::Admin => return Ok(Actor::Admin),
            Self::Principal(caller) => caller,
        };
        match caller.operator_role() {
            Some(role) if level(role) >= level(wanted) => Ok(Actor::Application(caller.name.clone())),
            Some(role) => Err(Some(Refusal::Role(format!(
                "this takes the role {}; the token of {} carries {}",
                wanted.as_str(),
                caller.name,
                role.as_str()
            )))),
            None => Err(None),
        }
    }
}

impl Admission {
    /// Replaces what an operator has set of a principal: clock, gateway, roles and so on. Sessions that a
    /// changed setting concerns end and may come again at once; a role taken away counts from the next
    /// request on. When another certificate counts, all that the principal has is dead; when it gets bound tokens
    /// only, those that are bound to nothing are.
    ///
    /// # Errors
    /// [`AdmissionError::DeviceRole`] for roles of a device; [`AdmissionError::Stale`] when `revision` is
    /// given and not the current one.
    pub async fn set_settings(
        &self,
        registry: &RegistryName,
        name: &PrincipalName,
        settings: PrincipalSettings,
        revision: Option<u64>,
        actor: &Actor,
    ) -> Result<Principal, AdmissionError> {
        self.must_exist(registry)?;
        let known = self.show(registry, name).await?;
        let before = known.ok_or_else(|| AdmissionError::NoPrincipal(name.clone()))?.principal;
        if before.kind == PrincipalKind::Device && !settings.roles.is_empty() {
            return Err(AdmissionError::DeviceRole(name.clone()));
        }
        judge_ways(settings.ways.as_ref())?;
        // What a way that is closed now has let in ends; the client may come again by another.
        let way_closed = settings
            .ways
            .as_ref()
            .is_some_and(|now| before.settings.ways.as_ref().is_none_or(|before| !before.is_subset(now)));
        let sessions_end = settings.certificate_subject != before.settings.certificate_subject
            || settings.gateway != before.settings.gateway
            || settings.bound_tokens && !before.settings.bound_tokens
            || settings.bound_connections == Some(true) && before.settings.bound_connections != Some(true);
        let gateway_no_more = before.settings.gateway && !settings.gateway;
        let detail = json!({ "settings": settings });
        let change = PrincipalChange::Settings(settings);
        let changed =
            self.change(registry, name, change, revision, actor, "principal.settings", &detail).await?;
        if changed.epoch != before.epoch || way_closed {
            self.tell_principal(&changed, EndReason::Revoked);
        } else if sessions_end {
            self.tell_principal(&changed, EndReason::SettingsChanged);
        }
        if gateway_no_more {
            self.end_links_of(&changed).await?;
        }
        Ok(changed)
    }
}
