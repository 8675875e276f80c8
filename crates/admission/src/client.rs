//! Who calls a token endpoint: the one credential of a request, judged.

use std::sync::Arc;

use drawbridge_identity::{Asserted, ClientAssertion, NotProven, Refusal};
use drawbridge_names::KeyId;

use crate::Admission;
use crate::cache::Loaded;
use crate::registries::Realm;

/// How a client proves who it is at the token, introspection and revocation endpoints: exactly one way.
#[derive(Clone, Copy)]
pub enum ClientCredential<'a> {
    /// `private_key_jwt` (RFC 7523): a client assertion.
    Assertion(&'a str),
    /// `client_secret_basic` or `client_secret_post` (RFC 6749 section 2.3.1): a generated secret or a
    /// password.
    Secret {
        /// `client_id`.
        client_id: &'a str,
        /// The secret.
        secret: &'a str,
    },
    /// `tls_client_auth` or `self_signed_tls_client_auth` (RFC 8705 section 2): the certificate of the
    /// TLS connection itself.
    Certificate {
        /// `client_id`.
        client_id: &'a str,
        /// What the client presented in the handshake, whose private key TLS has proven.
        certificate: &'a ClientCertificate,
    },
}

/// A certificate chain that a client presented in the TLS handshake of this very connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The chain, DER, the client's own certificate first. Never empty.
    pub chain_der: Vec<Vec<u8>>,
}

/// A client that has proven who it is. Its `jti`, if any, is still to be used up.
pub(crate) struct Client {
    pub(crate) loaded: Arc<Loaded>,
    /// The registered key that proved it, if it was one.
    pub(crate) akid: Option<KeyId>,
    pub(crate) asserted: Option<Asserted>,
}

impl Admission {
    /// Judges the one credential of a request. `client_id`: as it was sent beside the credential. State
    /// (blocked, pending) is judged with what is asked for.
    pub(crate) async fn client(
        &self,
        realm: &Realm,
        credential: &ClientCredential<'_>,
        client_id: Option<&str>,
    ) -> Result<Client, Refusal> {
        match credential {
            ClientCredential::Assertion(assertion) => {
                self.client_by_assertion(realm, assertion, client_id).await
            }
            // Until somebody can have one, it costs what a wrong key costs.
            ClientCredential::Secret { .. } | ClientCredential::Certificate { .. } => {
                self.inner.checker.spend();
                Err(Refusal::NotProven(NotProven::Password))
            }
        }
    }

    async fn client_by_assertion(
        &self,
        realm: &Realm,
        assertion: &str,
        client_id: Option<&str>,
    ) -> Result<Client, Refusal> {
        if assertion.is_empty() {
            return Err(Refusal::NoCredential);
        }
        let assertion = ClientAssertion::parse(assertion, self.inner.config.http_token_bytes_max)?;
        let loaded = self.candidate(&realm.record.name, assertion.claimed().as_ref()).await?;
        let asserted = {
            let candidate = loaded.as_ref().map(|loaded| loaded.candidate());
            let rules = self.assertion_rules(realm);
            assertion.verify(candidate.as_ref(), &rules, self.now_s(), &self.inner.checker)?
        };
        let loaded = loaded.expect("an assertion is verified with the keys of a principal that was loaded");
        let name = loaded.principal.name.as_str();
        if client_id.is_some_and(|client_id| !client_id.is_empty() && client_id != name) {
            return Err(Refusal::OAuthClient(format!("is not `{name}`, whose assertion it came with")));
        }
        Ok(Client { loaded, akid: Some(asserted.kid.clone()), asserted: Some(asserted) })
    }
}
