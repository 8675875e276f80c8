//! The token endpoint: a credential comes in, an access token goes out.

use drawbridge_identity::{Candidate, LegacyLogin, Refusal};
use drawbridge_names::RegistryName;

use crate::binding::BindingRequest;
use crate::client::{Client, ClientCredential};
use crate::issue::{Issuance, TokenGrant};
use crate::renew::{alias_scope, grant_of};
use crate::{Admission, Peer};

/// A `client_credentials` request.
#[derive(Clone, Copy)]
pub struct LoginRequest<'a> {
    /// How the client proves who it is.
    pub credential: ClientCredential<'a>,
    /// `client_id`, if it was sent: must be the principal's name.
    pub client_id: Option<&'a str>,
    /// `scope`, if it was sent; an empty one is none.
    pub scope: Option<&'a str>,
    /// `resource`, if it was sent: the bridge audience (the default) or `<issuer>/v1`.
    pub resource: Option<&'a str>,
    /// What the token shall be bound to.
    pub binding: BindingRequest<'a>,
    /// Where the request comes from.
    pub peer: Peer,
}

impl<'a> LoginRequest<'a> {
    /// A login with a client assertion, and nothing else asked for.
    #[must_use]
    pub fn with_assertion(assertion: &'a str, peer: Peer) -> Self {
        Self {
            credential: ClientCredential::Assertion(assertion),
            client_id: None,
            scope: None,
            resource: None,
            binding: BindingRequest::default(),
            peer,
        }
    }
}

impl Admission {
    /// A principal logs in by one credential and gets an access token.
    ///
    /// # Errors
    /// [`Refusal`]. The `jti` is used up only if nothing else was wrong.
    ///
    /// Source: RFC 6749 section 4.4, RFC 7523, RFC 8705, RFC 10070, RFC 9068.
    pub async fn login(
        &self,
        registry: &RegistryName,
        request: LoginRequest<'_>,
    ) -> Result<TokenGrant, Refusal> {
        let judged = self.judge_login(registry, &request);
        let grant = self.decide("login", Some(registry), request.peer, judged).await?;
        self.note_issued("login", registry, request.peer, &grant);
        Ok(grant)
    }

    async fn judge_login(
        &self,
        registry: &RegistryName,
        request: &LoginRequest<'_>,
    ) -> Result<TokenGrant, Refusal> {
        let realm = self.known_realm(registry)?;
        let client = self.client(&realm, &request.credential, request.client_id).await?;
        self.charge_principal(registry, client.loaded.principal.uid, request.peer)?;
        let confirmation = self.confirmation(&realm, &request.binding, &client)?;
        let name = client.loaded.principal.name.clone();
        let issuance = Issuance {
            scope: request.scope,
            resource: request.resource,
            confirmation,
            ..Issuance::of(&client, name.as_str())
        };
        self.issue(&realm, issuance).await
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
        let judged = self.judge_legacy_login(registry, jwt, client_id, scope, peer);
        let grant = self.decide("legacy-login", Some(registry), peer, judged).await?;
        self.note_issued("legacy-login", registry, peer, &grant);
        Ok(grant)
    }

    async fn judge_legacy_login(
        &self,
        registry: &RegistryName,
        jwt: &str,
        client_id: Option<&str>,
        scope: Option<&str>,
        peer: Peer,
    ) -> Result<TokenGrant, Refusal> {
        if jwt.is_empty() {
            return Err(Refusal::NoCredential);
        }
        let realm = self.known_realm(registry)?;
        let login = LegacyLogin::parse(jwt, self.inner.config.http_token_bytes_max)?;
        let (rules, now_s) = (self.assertion_rules(&realm), self.now_s());
        let verify =
            |candidate: Option<&Candidate<'_>>| login.verify(candidate, &rules, now_s, &self.inner.checker);
        let (loaded, asserted) = self.proven(registry, login.claimed().as_ref(), verify).await?;
        self.charge_principal(registry, loaded.principal.uid, peer)?;
        let application = self.alias_application(registry, client_id).await?;
        let mut alias = alias_scope(scope, &loaded.rights)?;
        alias.login_s = self.now_s();
        let client = Client::asserted(loaded, asserted);
        let grant = grant_of(&alias, &client.loaded.rights).map(str::to_owned);
        let issuance = Issuance {
            scope: grant.as_deref(),
            alias: Some(alias),
            ..Issuance::of(&client, application.principal.name.as_str())
        };
        self.issue(&realm, issuance).await
    }
}
