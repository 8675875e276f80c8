//! The token endpoint: an assertion comes in, an access token goes out.

use std::sync::Arc;

use drawbridge_identity::{AccessClaims, Asserted, ClientAssertion, LegacyLogin, Refusal};
use drawbridge_names::{KeyId, PrincipalKind, PrincipalName, RegistryName};

use crate::cache::Loaded;
use crate::clock::random_id;
use crate::registries::Realm;
use crate::scope::{judge_grant, judge_words};
use crate::{Admission, Peer};

/// A `client_credentials` request with a client assertion.
#[derive(Clone, Copy)]
pub struct LoginRequest<'a> {
    /// `client_assertion`.
    pub assertion: &'a str,
    /// `client_id`, if it was sent: must be the principal's name.
    pub client_id: Option<&'a str>,
    /// `scope`, if it was sent; an empty one is none.
    pub scope: Option<&'a str>,
    /// `resource`, if it was sent: the bridge audience (the default) or `<issuer>/v1`.
    pub resource: Option<&'a str>,
    /// Where the request comes from.
    pub peer: Peer,
}

/// An access token, issued.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenGrant {
    /// The token, in compact form. A secret.
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
    /// The key that logged in.
    pub kid: KeyId,
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

impl Admission {
    /// A principal logs in with a client assertion and gets an access token.
    ///
    /// # Errors
    /// [`Refusal`]. The `jti` is used up only if nothing else was wrong.
    ///
    /// Source: RFC 7523, RFC 10070, RFC 9068.
    pub async fn login(
        &self,
        registry: &RegistryName,
        request: LoginRequest<'_>,
    ) -> Result<TokenGrant, Refusal> {
        let decision = self.judge_login(registry, &request).await;
        let grant = self.note("login", Some(registry), request.peer, decision)?;
        self.note_issued("login", registry, request.peer, &grant);
        Ok(grant)
    }

    async fn judge_login(
        &self,
        registry: &RegistryName,
        request: &LoginRequest<'_>,
    ) -> Result<TokenGrant, Refusal> {
        if request.assertion.is_empty() {
            return Err(Refusal::NoCredential);
        }
        let realm = self.known_realm(registry)?;
        let assertion = ClientAssertion::parse(request.assertion, self.inner.config.http_token_bytes_max)?;
        let loaded = self.candidate(registry, assertion.claimed().as_ref()).await?;
        let asserted = {
            let candidate = loaded.as_ref().map(|loaded| loaded.candidate());
            let rules = self.assertion_rules(&realm);
            assertion.verify(candidate.as_ref(), &rules, self.now_s(), &self.inner.checker)?
        };
        let loaded = loaded.expect("an assertion is verified with the keys of a principal that was loaded");
        let name = loaded.principal.name.as_str();
        if request.client_id.is_some_and(|client_id| !client_id.is_empty() && client_id != name) {
            return Err(Refusal::OAuthClient(format!("is not `{name}`, whose assertion it came with")));
        }
        self.grant(&realm, &loaded, &asserted, name, request.scope, request.resource).await
    }

    /// A device logs in with an IoT IdP authentication JWT, on the alias path.
    ///
    /// `client_id` must name a registered application of the registry.
    ///
    /// # Errors
    /// [`Refusal`]; [`Refusal::LegacyNotAllowed`] for a device that is not marked for it.
    pub async fn legacy_login(
        &self,
        registry: &RegistryName,
        jwt: &str,
        client_id: Option<&str>,
        scope: Option<&str>,
        peer: Peer,
    ) -> Result<TokenGrant, Refusal> {
        let decision = self.judge_legacy_login(registry, jwt, client_id, scope).await;
        let grant = self.note("legacy-login", Some(registry), peer, decision)?;
        self.note_issued("legacy-login", registry, peer, &grant);
        Ok(grant)
    }

    async fn judge_legacy_login(
        &self,
        registry: &RegistryName,
        jwt: &str,
        client_id: Option<&str>,
        scope: Option<&str>,
    ) -> Result<TokenGrant, Refusal> {
        if jwt.is_empty() {
            return Err(Refusal::NoCredential);
        }
        let realm = self.known_realm(registry)?;
        let login = LegacyLogin::parse(jwt, self.inner.config.http_token_bytes_max)?;
        let loaded = self.candidate(registry, login.claimed().as_ref()).await?;
        let asserted = {
            let candidate = loaded.as_ref().map(|loaded| loaded.candidate());
            let rules = self.assertion_rules(&realm);
            login.verify(candidate.as_ref(), &rules, self.now_s(), &self.inner.checker)?
        };
        let loaded = loaded.expect("an assertion is verified with the keys of a principal that was loaded");
        let application = match client_id.map(PrincipalName::parse) {
            Some(Ok(name)) => self.candidate(registry, Some(&name)).await?,
            _ => None,
        };
        let application = application
            .filter(|loaded| loaded.principal.kind == PrincipalKind::Application && !loaded.principal.blocked)
            .ok_or_else(|| Refusal::OAuthClient("names no registered application of this registry".into()))?;
        self.grant(&realm, &loaded, &asserted, application.principal.name.as_str(), scope, None).await
    }

    /// The end of every login: state, audience, scope; then the `jti`; then the token.
    async fn grant(
        &self,
        realm: &Realm,
        loaded: &Arc<Loaded>,
        asserted: &Asserted,
        client_id: &str,
        scope: Option<&str>,
        resource: Option<&str>,
    ) -> Result<TokenGrant, Refusal> {
        let (record, principal) = (&realm.record, &loaded.principal);
        if principal.blocked {
            return Err(Refusal::Blocked);
        }
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
            judge_words(scope, &loaded.rights)?
        };

        // Use up the `jti` before issuing: a crash here costs a retry, the other order a replay.
        self.use_up(&record.name, principal.uid, asserted).await?;
        self.end_grace(loaded, &asserted.kid).await;

        let now_s = self.now_s();
        let key_end_s = loaded.ring.usable(&asserted.kid, now_s).and_then(|key| key.expires_s);
        let expires_s = (now_s + u64::from(record.token_life_s)).min(key_end_s.unwrap_or(u64::MAX));
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
            akid: asserted.kid.clone(),
        };
        let access_token =
            realm.issuer_key.issue(&claims).map_err(|error| Refusal::Unavailable(error.to_string()))?;
        Ok(TokenGrant {
            access_token,
            expires_in_s: expires_s - now_s,
            scope: claims.scope,
            audience: claims.audience,
            name: principal.name.clone(),
            kind: principal.kind,
            kid: claims.akid,
        })
    }
}
