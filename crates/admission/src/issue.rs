//! The end of every login: state, audience, scope; then the `jti`; then the token.

use std::sync::Arc;

use drawbridge_identity::{AccessClaims, ActedBy, Asserted, Confirmation, Refusal};
use drawbridge_names::{KeyId, PrincipalKind, PrincipalName};

use crate::Admission;
use crate::cache::Loaded;
use crate::client::Client;
use crate::clock::random_id;
use crate::registries::Realm;
use crate::scope::{judge_grant, judge_words};

/// An access token, issued.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenGrant {
    /// The token: a JWT in compact form, or opaque. A secret.
    pub access_token: String,
    /// How long it is good, in seconds.
    pub expires_in_s: u64,
    /// Its `scope`; `None`: all that the policy allows.
    pub scope: Option<String>,
    /// Its `aud`.
    pub audience: String,
    /// Whose it is.
    pub name: PrincipalName,
    /// What that is.
    pub kind: PrincipalKind,
    /// The key that logged in, if one did.
    pub kid: Option<KeyId>,
    /// What it is bound to; decides `token_type` (RFC 9449 section 5).
    pub confirmation: Option<Confirmation>,
}

impl std::fmt::Debug for TokenGrant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenGrant")
            .field("expires_in_s", &self.expires_in_s)
            .field("scope", &self.scope)
            .field("audience", &self.audience)
            .field("name", &self.name)
            .field("kid", &self.kid)
            .finish_non_exhaustive()
    }
}

/// What is to be issued, to whom, on which proof.
pub(crate) struct Issuance<'a> {
    /// The subject.
    pub(crate) loaded: &'a Arc<Loaded>,
    pub(crate) client_id: &'a str,
    pub(crate) scope: Option<&'a str>,
    pub(crate) resource: Option<&'a str>,
    /// The registered key that logged in.
    pub(crate) akid: Option<&'a KeyId>,
    /// The assertion whose `jti` is to be used up.
    pub(crate) asserted: Option<&'a Asserted>,
    pub(crate) confirmation: Option<Confirmation>,
    pub(crate) actor: Option<ActedBy>,
    /// It ends then at the latest.
    pub(crate) expires_s_max: Option<u64>,
}

impl<'a> Issuance<'a> {
    /// All that the policy allows, to a client for itself.
    pub(crate) fn of(client: &'a Client, client_id: &'a str) -> Self {
        Self {
            loaded: &client.loaded,
            client_id,
            scope: None,
            resource: None,
            akid: client.akid.as_ref(),
            asserted: client.asserted.as_ref(),
            confirmation: None,
            actor: None,
            expires_s_max: None,
        }
    }
}

impl Admission {
    /// Issues a token, or says why not.
    pub(crate) async fn issue(&self, realm: &Realm, issuance: Issuance<'_>) -> Result<TokenGrant, Refusal> {
        let Issuance { loaded, client_id, scope, resource, akid, asserted, .. } = issuance;
        let (record, principal) = (&realm.record, &loaded.principal);
        judge_state(loaded)?;
        let api_audience = realm.api_audience();
        let for_bridge = match resource.filter(|resource| !resource.is_empty()) {
            None => true,
            Some(resource) if resource == record.bridge_audience => true,
            Some(resource) if resource == api_audience => false,
            Some(_) => {
                let wanted = format!("`{}` or `{api_audience}`", record.bridge_audience);
                return Err(Refusal::Target { wanted });
            }
        };
        let scope = if for_bridge {
            judge_grant(scope, &loaded.rights)?
        } else {
            judge_words(scope, &loaded.rights, &principal.settings.roles)?
        };

        if let Some(asserted) = asserted {
            // Use up the `jti` before issuing: a crash here costs a retry, the other order a replay.
            self.use_up(&record.name, principal.uid, asserted).await?;
            self.end_grace(loaded, &asserted.kid).await;
        }

        let now_s = self.now_s();
        let key_end_s = akid.and_then(|kid| loaded.ring.usable(kid, now_s)).and_then(|key| key.expires_s);
        let expires_s = (now_s + u64::from(record.token_life_s))
            .min(key_end_s.unwrap_or(u64::MAX))
            .min(issuance.expires_s_max.unwrap_or(u64::MAX));
        let claims = AccessClaims {
            issuer: record.issuer.clone(),
            subject: principal.name.clone(),
            client_id: client_id.to_owned(),
            audience: if for_bridge { record.bridge_audience.clone() } else { api_audience },
            issued_s: now_s,
            expires_s,
            jti: random_id(&*self.inner.random),
            scope,
            uid: principal.uid,
            epoch: principal.epoch,
            akid: akid.cloned(),
            confirmation: issuance.confirmation,
            actor: issuance.actor,
        };
        let access_token =
            realm.issuer_key.issue(&claims).map_err(|error| Refusal::Unavailable(error.to_string()))?;
        Ok(TokenGrant {
            access_token,
            expires_in_s: expires_s.saturating_sub(now_s),
            scope: claims.scope,
            audience: claims.audience,
            name: principal.name.clone(),
            kind: principal.kind,
            kid: claims.akid,
            confirmation: claims.confirmation,
        })
    }
}

/// Whether a principal that has proven itself is admitted at all.
pub(crate) fn judge_state(loaded: &Loaded) -> Result<(), Refusal> {
    if loaded.principal.blocked {
        return Err(Refusal::Blocked);
    }
    if loaded.principal.pending {
        return Err(Refusal::Pending);
    }
    Ok(())
}
