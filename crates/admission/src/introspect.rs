//! What a token says, for those it concerns; and its end before its time.

use std::sync::Arc;

use drawbridge_identity::{Confirmation, Refusal};
use drawbridge_names::{PrincipalKind, PrincipalName, RegistryName};
use drawbridge_registry::Role;
use serde_json::{Value, json};

use crate::admin_token::OPAQUE_TOKEN_PREFIX;
use crate::cache::Loaded;
use crate::client::ClientCredential;
use crate::issue::judge_state;
use crate::registries::Realm;
use crate::tokens::ReadToken;
use crate::{Admission, Peer};

/// A question about a token, or its revocation.
#[derive(Clone, Copy)]
pub struct TokenRequest<'a> {
    /// How the caller proves who it is.
    pub credential: ClientCredential<'a>,
    /// `client_id`, if it was sent: must be the caller's name.
    pub client_id: Option<&'a str>,
    /// `token`.
    pub token: &'a str,
    /// Where the request comes from.
    pub peer: Peer,
}

/// The answer of an introspection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Introspection {
    /// A JSON object: `active`, and of an active token what it says.
    pub body: Value,
    /// Who asked.
    pub caller: PrincipalName,
}

impl Admission {
    /// What a token says. A principal may ask about its own tokens and, as a gateway, about those it acts by;
    /// an application with the role `introspect` about all of its registry. For everybody else, and for a
    /// token that is unknown, has ended, or whose principal stands no more, it is not active.
    ///
    /// # Errors
    /// [`Refusal`] when the caller is not admitted; never for the token.
    ///
    /// Source: RFC 7662 section 2.
    pub async fn introspect(
        &self,
        registry: &RegistryName,
        request: TokenRequest<'_>,
    ) -> Result<Introspection, Refusal> {
        let judged = self.judge_introspect(registry, &request);
        self.decide("introspect", Some(registry), request.peer, judged).await
    }

    async fn judge_introspect(
        &self,
        registry: &RegistryName,
        request: &TokenRequest<'_>,
    ) -> Result<Introspection, Refusal> {
        let realm = self.known_realm(registry)?;
        let caller = self.token_caller(&realm, request).await?;
        let found = self.look_at(&realm, request.token).await?;
        let read = found.filter(|read| may_ask(&caller, read));
        let body = match read {
            Some(read) if self.is_active(&read).await? => told(&read),
            _ => json!({ "active": false }),
        };
        Ok(Introspection { body, caller: caller.principal.name.clone() })
    }

    /// As [`Self::introspect`], signed by the issuer for the caller.
    ///
    /// # Errors
    /// As [`Self::introspect`].
    ///
    /// Source: RFC 9701 section 5.
    pub async fn introspection_jwt(
        &self,
        registry: &RegistryName,
        request: TokenRequest<'_>,
    ) -> Result<String, Refusal> {
        let answer = self.introspect(registry, request).await?;
        let realm = self.known_realm(registry)?;
        let body = json!({
            "iss": realm.record.issuer,
            "aud": answer.caller.as_str(),
            "iat": self.now_s(),
            "token_introspection": answer.body,
        });
        let signed = realm.keys.current().sign("token-introspection+jwt", &body);
        signed.map_err(|error| Refusal::Unavailable(error.to_string()))
    }

    /// Revokes a token of the caller: one of its own, one it acts by, or one that it asked for as the
    /// `client_id`. An opaque token goes with all its renewals; the sessions it has opened end. Of any other
    /// token nothing is said and nothing done.
    ///
    /// # Errors
    /// [`Refusal`] when the caller is not admitted, or the store does not answer.
    ///
    /// Source: RFC 7009 section 2.
    pub async fn revoke_token(
        &self,
        registry: &RegistryName,
        request: TokenRequest<'_>,
    ) -> Result<(), Refusal> {
        let judged = self.judge_revoke(registry, &request);
        self.decide("revoke-token", Some(registry), request.peer, judged).await
    }

    async fn judge_revoke(&self, registry: &RegistryName, request: &TokenRequest<'_>) -> Result<(), Refusal> {
        let realm = self.known_realm(registry)?;
        let caller = self.token_caller(&realm, request).await?;
        let Some(read) = self.look_at(&realm, request.token).await? else { return Ok(()) };
        let asked_for_it = caller.principal.kind == PrincipalKind::Application
            && read.claims.client_id == caller.principal.name.as_str();
        if is_own(&caller, &read) || asked_for_it {
            self.end_token(&read).await?;
            tracing::info!(
                %registry,
                name = %read.claims.subject,
                by = %caller.principal.name,
                "a token was revoked"
            );
        }
        Ok(())
    }

    /// Whoever asks; its assertion is used up. Who has the role `introspect` asks for each request that it
    /// serves, as its operator wants it to: it is not charged.
    async fn token_caller(&self, realm: &Realm, request: &TokenRequest<'_>) -> Result<Arc<Loaded>, Refusal> {
        let client = self.client(realm, &request.credential, request.client_id).await?;
        if !has_role(&client.loaded) {
            self.charge_principal(&realm.record.name, client.loaded.principal.uid, request.peer)?;
        }
        judge_state(&client.loaded)?;
        if let Some(asserted) = &client.asserted {
            self.use_up(&realm.record.name, client.loaded.principal.uid, asserted).await?;
            self.end_grace(&client.loaded, &asserted.kid).await;
        }
        Ok(client.loaded)
    }

    /// The token, if it is one of this registry, without noting a use: who asks may not be its owner.
    async fn look_at(&self, realm: &Arc<Realm>, text: &str) -> Result<Option<ReadToken>, Refusal> {
        let read = if text.starts_with(OPAQUE_TOKEN_PREFIX) {
            self.read_opaque(Arc::clone(realm), text).await
        } else {
            self.read_token(Some(&realm.record.name), text, self.inner.config.http_token_bytes_max).await
        };
        unless_unavailable(read)
    }

    /// Whether the token would be accepted now. To ask counts as a use: who may ask answers for it.
    async fn is_active(&self, read: &ReadToken) -> Result<bool, Refusal> {
        if unless_unavailable(self.standing(&read.realm, &read.claims).await)?.is_none() {
            return Ok(false);
        }
        Ok(unless_unavailable(self.note_use(read).await)?.is_some())
    }
}

/// A refusal of the token is an answer, a store that is down is not.
fn unless_unavailable<T>(decision: Result<T, Refusal>) -> Result<Option<T>, Refusal> {
    match decision {
        Ok(found) => Ok(Some(found)),
        Err(refusal @ Refusal::Unavailable(_)) => Err(refusal),
        Err(_) => Ok(None),
    }
}

fn is_own(caller: &Loaded, read: &ReadToken) -> bool {
    let uid = caller.principal.uid;
    read.claims.uid == uid || read.claims.actor.as_ref().is_some_and(|actor| actor.uid == uid)
}

fn has_role(caller: &Loaded) -> bool {
    let principal = &caller.principal;
    principal.kind == PrincipalKind::Application && principal.settings.roles.contains(&Role::Introspect)
}

fn may_ask(caller: &Loaded, read: &ReadToken) -> bool {
    has_role(caller) || is_own(caller, read)
}

/// Source: RFC 7662 section 2.2, RFC 8693 section 4.1 (`act`), RFC 9449 section 6.2 and RFC 9201 section 4 (`cnf`).
fn told(read: &ReadToken) -> Value {
    let claims = &read.claims;
    let token_type = match &claims.confirmation {
        Some(Confirmation::Key(_)) => "DPoP",
        // RFC 9200 section 5.8.4.2.
        Some(of_mqtt) if of_mqtt.is_for_mqtt() => "PoP",
        _ => "Bearer",
    };
    let mut body = json!({
        "active": true,
        "sub": claims.subject.as_str(),
        "client_id": claims.client_id,
        "iss": claims.issuer,
        "aud": claims.audience,
        "iat": claims.issued_s,
        "exp": claims.expires_s,
        "jti": claims.jti,
        "token_type": token_type,
    });
    let scope = claims.alias.as_ref().map(|alias| &alias.words).or(claims.scope.as_ref());
    if let Some(scope) = scope {
        body["scope"] = json!(scope);
    }
    if let Some(confirmation) = &claims.confirmation {
        body["cnf"] = confirmation.to_json();
    }
    if let Some(actor) = &claims.actor {
        body["act"] = json!({ "sub": actor.name.as_str() });
    }
    body
}
