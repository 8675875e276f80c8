//! A token in `Authorization`: whose it is and what it may be used for.

use std::collections::BTreeSet;
use std::sync::Arc;

use drawbridge_identity::{AccessClaims, ActedBy, NotProven, Refusal};
use drawbridge_names::{Epoch, KeyId, PrincipalKind, PrincipalName, RegistryName, Uid};
use drawbridge_policy::{Connection, Grant, Rights};
use drawbridge_registry::Role;

use crate::admin_token::ADMIN_TOKEN_PREFIX;
use crate::binding::Presentation;
use crate::cache::Loaded;
use crate::issue::judge_state;
use crate::registries::Realm;
use crate::scope::ApiWords;
use crate::seen::{claims_of, over_http};
use crate::tokens::ReadToken;
use crate::{Admission, Peer};

/// The service that a token is presented to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// `/v1`: `aud` is `<issuer>/v1`, or the admin credential.
    Api,
    /// Publishing over HTTP: `aud` is the bridge audience.
    Bridge,
    /// Reading `/v1/self`: either of the two.
    SelfRead,
}

/// Who calls.
#[derive(Debug, Clone)]
pub enum Caller {
    /// The holder of the admin credential: good for every registry.
    Admin,
    /// A principal with an access token.
    Principal(Arc<Authorized>),
}

/// A principal with an access token.
#[derive(Debug)]
pub struct Authorized {
    /// Its registry.
    pub registry: RegistryName,
    /// Its number.
    pub uid: Uid,
    /// Its name.
    pub name: PrincipalName,
    /// What it is.
    pub kind: PrincipalKind,
    /// Who asked for the token; differs from the name on the legacy alias.
    pub client_id: String,
    /// Its rights, narrowed by the token if that is for the bridge.
    pub rights: Arc<Rights>,
    /// The words of a token for the API; a token for the bridge has none, but `self:read` where the own
    /// record is read.
    pub words: ApiWords,
    /// When the token ends, in seconds since 1970-01-01 UTC.
    pub expires_s: u64,
    /// The key that logged in, if one did.
    pub kid: Option<KeyId>,
    /// The gateway that acts for the principal.
    pub actor: Option<ActedBy>,
    /// What its operator lets it do beyond its policy.
    pub roles: BTreeSet<Role>,
    /// Its epoch.
    pub epoch: Epoch,
}

impl Admission {
    /// Judges a bearer token. `registry`: the one whose path was called; `None` takes it from the token.
    ///
    /// # Errors
    /// [`Refusal`]: what this issuer did not sign is [`Refusal::NotProven`]; a token whose principal,
    /// epoch or key stands no more is told so.
    ///
    /// Source: RFC 6750, RFC 9068 section 4.
    pub async fn bearer(
        &self,
        registry: Option<&RegistryName>,
        token: &str,
        audience: Audience,
        peer: Peer,
    ) -> Result<Caller, Refusal> {
        self.presented(registry, token, audience, &Presentation::default(), peer).await
    }

    /// Judges an access token and what came with it: see [`Self::bearer`].
    ///
    /// # Errors
    /// [`Refusal`], also when the token is bound and its proof is missing or wrong.
    ///
    /// Source: RFC 9449 section 7, RFC 8705 section 3.
    pub async fn presented(
        &self,
        registry: Option<&RegistryName>,
        token: &str,
        audience: Audience,
        presentation: &Presentation<'_>,
        peer: Peer,
    ) -> Result<Caller, Refusal> {
        let judged = self.judge_bearer(registry, token, audience, presentation, peer);
        self.decide("bearer", registry, peer, judged).await
    }

    async fn judge_bearer(
        &self,
        registry: Option<&RegistryName>,
        token: &str,
        audience: Audience,
        presentation: &Presentation<'_>,
        peer: Peer,
    ) -> Result<Caller, Refusal> {
        if token.is_empty() {
            return Err(Refusal::NoCredential);
        }
        if token.starts_with(ADMIN_TOKEN_PREFIX) {
            if audience == Audience::Api && self.is_admin_token(token).await? {
                return Ok(Caller::Admin);
            }
            return Err(Refusal::NotProven(NotProven::UnknownToken));
        }
        let read = self.read_token(registry, token, self.inner.config.http_token_bytes_max).await?;
        let ReadToken { realm, claims, .. } = read;
        let for_bridge = claims.audience == realm.record.bridge_audience;
        let for_api = claims.audience == realm.api_audience();
        let fits = match audience {
            Audience::Api => for_api,
            Audience::Bridge => for_bridge,
            Audience::SelfRead => for_api || for_bridge,
        };
        if !fits {
            return Err(Refusal::OtherService);
        }
        if claims.actor.is_some() && audience != Audience::Bridge {
            return Err(Refusal::Gateway("a device's record is not for its gateway".to_owned()));
        }
        let loaded = self.standing(&realm, &claims).await?;
        self.judge_presentation(&realm, &loaded, &claims, token, presentation)?;
        let said = claims_of(&claims);
        let connection = Connection { facts: over_http(peer.address), token: Some(&said), certificate: None };
        let rights = loaded.rights_over(&connection);
        let (rights, words) = if for_bridge {
            // A token for the bridge is good for one thing of the API: reading the own record.
            let words = if audience == Audience::SelfRead { ApiWords::self_read() } else { ApiWords::none() };
            (narrowed(rights, claims.scope.as_deref())?, words)
        } else {
            (rights, ApiWords::parse(claims.scope.as_deref())?)
        };
        let principal = &loaded.principal;
        Ok(Caller::Principal(Arc::new(Authorized {
            registry: principal.registry.clone(),
            uid: principal.uid,
            name: principal.name.clone(),
            kind: principal.kind,
            client_id: claims.client_id,
            rights,
            words,
            expires_s: claims.expires_s,
            kid: claims.akid,
            actor: claims.actor,
            roles: principal.settings.roles.clone(),
            epoch: claims.epoch,
        })))
    }

    /// The principal of a token, if it, its epoch and the key that logged in still stand.
    pub(crate) async fn standing(
        &self,
        realm: &Realm,
        claims: &AccessClaims,
    ) -> Result<Arc<Loaded>, Refusal> {
        let loaded = self.candidate(&realm.record.name, Some(&claims.subject)).await?;
        // A name may be used again after its principal was deleted; its number never is.
        let loaded = loaded.filter(|loaded| loaded.principal.uid == claims.uid).ok_or(Refusal::KeyGone)?;
        judge_state(&loaded)?;
        if loaded.principal.epoch != claims.epoch {
            return Err(Refusal::Revoked);
        }
        // Also one from before that was switched on: it may be in other hands, which is why it was.
        if loaded.principal.settings.bound_tokens && claims.confirmation.is_none() {
            return Err(Refusal::Binding(
                "this principal gets bound tokens only, and this one is bound to nothing; ask for a new one"
                    .to_owned(),
            ));
        }
        let now_s = self.now_s();
        if claims.akid.as_ref().is_some_and(|akid| loaded.ring.usable(akid, now_s).is_none()) {
            return Err(Refusal::KeyGone);
        }
        // After the subject was loaded: a link that goes from now on moves its generation.
        if let Some(actor) = &claims.actor {
            self.acting(realm, actor, claims.uid).await?;
        }
        Ok(loaded)
    }
}

/// The rights of a principal, no more than the token grants.
pub(crate) fn narrowed(rights: Arc<Rights>, scope: Option<&str>) -> Result<Arc<Rights>, Refusal> {
    match scope {
        None => Ok(rights),
        Some(scope) => {
            let grant = Grant::parse_scope(scope).map_err(|error| Refusal::Scope(error.to_string()))?;
            Ok(Arc::new(rights.narrowed(&grant)))
        }
    }
}
