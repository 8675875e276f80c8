//! Token exchange: a gateway gets a token to act for a device that is linked to it.

use std::sync::{Arc, PoisonError};

use drawbridge_identity::{ActedBy, Refusal};
use drawbridge_names::{PrincipalKind, PrincipalName, RegistryName, Uid};

use crate::bearer::narrowed;
use crate::binding::BindingRequest;
use crate::cache::Loaded;
use crate::client::ClientCredential;
use crate::issue::{Issuance, TokenGrant, judge_state};
use crate::registries::Realm;
use crate::tokens::ReadToken;
use crate::{Admission, Peer, SessionsEnd};

/// A token exchange. The client is the gateway.
#[derive(Clone, Copy)]
pub struct ExchangeRequest<'a> {
    /// How the gateway proves who it is.
    pub credential: ClientCredential<'a>,
    /// `client_id`, if it was sent: must be the gateway's name.
    pub client_id: Option<&'a str>,
    /// `subject_token`: an access token of the device; or, with `device`, one of the gateway itself.
    pub subject_token: &'a str,
    /// `actor_token`: an access token of the gateway; not needed where `subject_token` is one.
    pub actor_token: Option<&'a str>,
    /// `device`, a parameter of ours: whom the gateway acts for, where it holds no token of it.
    pub device: Option<&'a str>,
    /// `audience`: the name of the device, or as `resource`.
    pub audience: Option<&'a str>,
    /// `resource`: the bridge audience, if it was sent.
    pub resource: Option<&'a str>,
    /// `scope`: a grant within the device's rights and the subject token's.
    pub scope: Option<&'a str>,
    /// What the token shall be bound to.
    pub binding: BindingRequest<'a>,
    /// Where the request comes from.
    pub peer: Peer,
}

impl Admission {
    /// A gateway gets a token of a device, with itself as the actor.
    ///
    /// The link in the registry is what allows it, not the token it holds. The token is for the bridge only,
    /// says no more than the subject token, ends no later than the tokens it was made from, and cannot be
    /// exchanged again.
    ///
    /// # Errors
    /// [`Refusal::Gateway`] when the gateway is none, or is not linked to the device.
    ///
    /// Source: RFC 8693 sections 2.1 and 4.1.
    pub async fn exchange(
        &self,
        registry: &RegistryName,
        request: ExchangeRequest<'_>,
    ) -> Result<TokenGrant, Refusal> {
        let judged = self.judge_exchange(registry, &request);
        let grant = self.decide("exchange", Some(registry), request.peer, judged).await?;
        self.note_issued("exchange", registry, request.peer, &grant);
        Ok(grant)
    }

    async fn judge_exchange(
        &self,
        registry: &RegistryName,
        request: &ExchangeRequest<'_>,
    ) -> Result<TokenGrant, Refusal> {
        let realm = self.known_realm(registry)?;
        let client = self.client(&realm, &request.credential, request.client_id).await?;
        let gateway = &client.loaded;
        self.charge_principal(registry, gateway.principal.uid, request.peer)?;
        judge_state(gateway)?;
        if !gateway.principal.settings.gateway {
            return Err(Refusal::Gateway(format!("`{}` is no gateway", gateway.principal.name)));
        }
        let bytes_max = self.inner.config.http_token_bytes_max;
        let read = async |what: &'static str, text: &str| {
            let read = self.read_token(Some(registry), text, bytes_max).await;
            read.map_err(|refusal| of_parameter(what, refusal))
        };
        let subject = read("subject_token", request.subject_token).await?;
        let actor = match request.actor_token {
            Some(text) => Some(read("actor_token", text).await?),
            None => None,
        };
        for (what, token) in [("subject_token", Some(&subject)), ("actor_token", actor.as_ref())] {
            let Some(token) = token else { continue };
            if token.claims.actor.is_some() {
                return Err(Refusal::Exchange(format!("`{what}` was exchanged already; take the original")));
            }
            if token.claims.audience != realm.record.bridge_audience {
                return Err(Refusal::Exchange(format!("`{what}` is for another service than the bridge")));
            }
            let standing = self.standing(&realm, &token.claims).await;
            standing.map_err(|refusal| of_parameter(what, refusal))?;
        }
        let is_own = |token: &ReadToken| token.claims.uid == gateway.principal.uid;
        if actor.as_ref().is_some_and(|actor| !is_own(actor)) {
            return Err(Refusal::Exchange("`actor_token` is not of the client that asks".to_owned()));
        }
        let (name, own_form) = match (is_own(&subject), request.device) {
            (true, Some(device)) => (PrincipalName::parse(device).ok(), true),
            (true, None) => {
                let text = "`subject_token` is the gateway's own: name the device with `device`";
                return Err(Refusal::Exchange(text.to_owned()));
            }
            (false, _) if actor.is_none() => {
                return Err(Refusal::Exchange("`actor_token` is missing: who acts?".to_owned()));
            }
            (false, Some(device)) if device != subject.claims.subject.as_str() => {
                let text = "`device` is not whom `subject_token` is of";
                return Err(Refusal::Exchange(text.to_owned()));
            }
            (false, _) => (Some(subject.claims.subject.clone()), false),
        };
        let resource = match (request.resource, request.audience) {
            (resource, Some(audience)) if name.as_ref().is_some_and(|name| name.as_str() == audience) => {
                resource
            }
            (None, audience) => audience,
            (Some(resource), Some(audience)) if resource != audience => {
                return Err(Refusal::Target { wanted: format!("one of `{resource}` and `{audience}`") });
            }
            (resource, _) => resource,
        };
        if resource.is_some_and(|resource| resource != realm.record.bridge_audience) {
            return Err(Refusal::Target { wanted: format!("`{}`", realm.record.bridge_audience) });
        }

        // A device that is not there and one that is not linked are one answer: a gateway learns no names.
        let device = self.candidate(registry, name.as_ref()).await?;
        let device = device.filter(|device| device.principal.kind == PrincipalKind::Device);
        let linked = match &device {
            Some(device) => self.is_linked(registry, gateway.principal.uid, device.principal.uid).await?,
            None => false,
        };
        let Some(device) = device.filter(|_| linked) else {
            let named = request.device.unwrap_or(subject.claims.subject.as_str());
            let named: String = named.chars().take(64).flat_map(char::escape_debug).collect();
            return Err(Refusal::Gateway(format!("`{}` is not linked to `{named}`", gateway.principal.name)));
        };
        // The grant of the gateway's own token speaks of the gateway's topics; the link speaks of the device.
        let subject_scope = subject.claims.scope.as_deref().filter(|_| !own_form);
        let within = narrowed(Arc::clone(&device.anywhere), subject_scope)?;
        let scope = request.scope.filter(|scope| !scope.is_empty()).or(subject_scope);
        let ends_s = actor.as_ref().map_or(u64::MAX, |actor| actor.claims.expires_s);
        let confirmation = self.confirmation(&realm, &request.binding, &client)?;
        let issuance = Issuance {
            loaded: &device,
            scope,
            resource,
            akid: subject.claims.akid.as_ref().filter(|_| !own_form),
            confirmation,
            actor: Some(ActedBy {
                name: gateway.principal.name.clone(),
                uid: gateway.principal.uid,
                epoch: gateway.principal.epoch,
                akid: actor.as_ref().unwrap_or(&subject).claims.akid.clone(),
            }),
            expires_s_max: Some(ends_s.min(subject.claims.expires_s).min(client.until_s.unwrap_or(u64::MAX))),
            within: Some(&within),
            ..Issuance::of(&client, gateway.principal.name.as_str())
        };
        self.issue(&realm, issuance).await
    }

    /// Ends the sessions that a principal has opened for others, if it has opened any since the start.
    pub(crate) fn tell_gateway(&self, registry: &RegistryName, uid: Uid) {
        let seen = self.inner.gateways_seen.read().unwrap_or_else(PoisonError::into_inner);
        if seen.contains(&uid) {
            self.tell(&SessionsEnd::Gateway { registry: registry.clone(), gateway: uid });
        }
    }

    /// To be called before [`Self::acting`] for a session: who is blocked from then on is in the set.
    pub(crate) fn note_gateway(&self, uid: Uid) {
        let seen = &self.inner.gateways_seen;
        if !seen.read().unwrap_or_else(PoisonError::into_inner).contains(&uid) {
            seen.write().unwrap_or_else(PoisonError::into_inner).insert(uid);
        }
    }

    /// The gateway of a token, if it still is one, stands, and is linked to the token's subject.
    pub(crate) async fn acting(
        &self,
        realm: &Realm,
        actor: &ActedBy,
        subject: Uid,
    ) -> Result<Arc<Loaded>, Refusal> {
        let registry = &realm.record.name;
        let gone = || Refusal::Gateway(format!("`{}` is no gateway any more", actor.name));
        let loaded = self.candidate(registry, Some(&actor.name)).await?;
        let loaded = loaded.filter(|loaded| loaded.principal.uid == actor.uid).ok_or_else(gone)?;
        judge_state(&loaded)?;
        if loaded.principal.epoch != actor.epoch {
            return Err(Refusal::Revoked);
        }
        if !loaded.principal.settings.gateway {
            return Err(gone());
        }
        if actor.akid.as_ref().is_some_and(|akid| loaded.ring.usable(akid, self.now_s()).is_none()) {
            return Err(Refusal::KeyGone);
        }
        if !self.is_linked(registry, actor.uid, subject).await? {
            return Err(Refusal::Gateway(format!("`{}` is not linked to this device", actor.name)));
        }
        Ok(loaded)
    }
}

/// A token in a parameter that does not hold is no fault of the client's own credential.
///
/// Source: RFC 8693 section 2.2.2.
fn of_parameter(what: &str, refusal: Refusal) -> Refusal {
    match refusal {
        Refusal::Unavailable(_) | Refusal::RateLimited { .. } => refusal,
        Refusal::NotProven(_) => Refusal::Exchange(format!("`{what}` is no access token of this issuer")),
        other => Refusal::Exchange(format!("`{what}`: {other}")),
    }
}
