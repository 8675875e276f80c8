//! A token in `Authorization`: whose it is and what it may be used for.

use std::sync::Arc;

use drawbridge_identity::{AccessClaims, AccessToken, NotProven, Refusal};
use drawbridge_names::{Epoch, KeyId, PrincipalKind, PrincipalName, RegistryName, Uid};
use drawbridge_policy::{Grant, Rights};

use crate::admin_token::{ADMIN_TOKEN_PREFIX, OPAQUE_TOKEN_PREFIX};
use crate::cache::Loaded;
use crate::registries::Realm;
use crate::scope::ApiWords;
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
    /// The key that logged in.
    pub kid: KeyId,
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
        let decision = self.judge_bearer(registry, token, audience).await;
        self.note("bearer", registry, peer, decision)
    }

    async fn judge_bearer(
        &self,
        registry: Option<&RegistryName>,
        token: &str,
        audience: Audience,
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
        if token.starts_with(OPAQUE_TOKEN_PREFIX) {
            return Err(Refusal::NotProven(NotProven::UnknownToken));
        }
        let token = AccessToken::parse(token.as_bytes(), self.inner.config.http_token_bytes_max)?;
        let unknown = || Refusal::NotProven(NotProven::UnknownIssuer);
        let realm = token.issuer().and_then(|issuer| self.realm_of_issuer(issuer)).ok_or_else(unknown)?;
        if registry.is_some_and(|wanted| *wanted != realm.record.name) {
            return Err(unknown());
        }
        let claims = self.own_token(&realm, &token)?;
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
        let loaded = self.standing(&realm, &claims).await?;
        let (rights, words) = if for_bridge {
            // A token for the bridge is good for one thing of the API: reading the own record.
            let words = if audience == Audience::SelfRead { ApiWords::self_read() } else { ApiWords::none() };
            (narrowed(&loaded, claims.scope.as_deref())?, words)
        } else {
            (Arc::clone(&loaded.rights), ApiWords::parse(claims.scope.as_deref())?)
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
            epoch: claims.epoch,
        })))
    }

    /// What a token of this registry says, if it is one.
    pub(crate) fn own_token(&self, realm: &Realm, token: &AccessToken<'_>) -> Result<AccessClaims, Refusal> {
        token.verify(&realm.record.issuer, &[&realm.issuer_key], self.now_s(), &self.inner.checker)
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
        if loaded.principal.blocked {
            return Err(Refusal::Blocked);
        }
        if loaded.principal.epoch != claims.epoch {
            return Err(Refusal::Revoked);
        }
        if loaded.ring.usable(&claims.akid, self.now_s()).is_none() {
            return Err(Refusal::KeyGone);
        }
        Ok(loaded)
    }
}

/// The rights of a principal, no more than the token grants.
pub(crate) fn narrowed(loaded: &Loaded, scope: Option<&str>) -> Result<Arc<Rights>, Refusal> {
    match scope {
        None => Ok(Arc::clone(&loaded.rights)),
        Some(scope) => {
            let grant = Grant::parse_scope(scope).map_err(|error| Refusal::Scope(error.to_string()))?;
            Ok(Arc::new(loaded.rights.narrowed(&grant)))
        }
    }
}
