//! Who calls a token endpoint: the one credential of a request, judged.

use std::sync::Arc;

use drawbridge_identity::{
    Asserted, Candidate, ClientAssertion, LeafCertificate, NotProven, Refusal, SubjectField,
};
use drawbridge_jose::{base64url_encode, sha256};
use drawbridge_names::{KeyId, PrincipalName};
use drawbridge_registry::CertificateSubject;

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
    /// The registered key that proved it; `None` after a secret or a certificate of a CA.
    pub(crate) akid: Option<KeyId>,
    pub(crate) asserted: Option<Asserted>,
    /// `x5t#S256` of the certificate that it has logged in with, if it has.
    pub(crate) certificate: Option<String>,
    /// Nothing that it gets outlives this second.
    pub(crate) until_s: Option<u64>,
}

impl Client {
    /// Whoever has signed with a registered key.
    pub(crate) fn asserted(loaded: Arc<Loaded>, asserted: Asserted) -> Self {
        let akid = Some(asserted.kid.clone());
        Self { loaded, akid, asserted: Some(asserted), certificate: None, until_s: None }
    }
}

impl ClientCertificate {
    /// `x5t#S256` of the client's own certificate.
    ///
    /// Source: RFC 8705 section 3.1.
    pub(crate) fn digest(&self) -> Option<String> {
        self.chain_der.first().map(|der| base64url_encode(&sha256(der)))
    }
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
            ClientCredential::Secret { client_id: claimed, secret } => {
                let client = self.client_by_secret(realm, claimed, secret).await?;
                is_client(&client.loaded, client_id).map(|()| client)
            }
            ClientCredential::Certificate { client_id, certificate } => {
                self.client_by_certificate(realm, client_id, certificate).await
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
        let (rules, now_s) = (self.assertion_rules(realm), self.now_s());
        let verify = |candidate: Option<&Candidate<'_>>| {
            assertion.verify(candidate, &rules, now_s, &self.inner.checker)
        };
        let (loaded, asserted) =
            self.proven(&realm.record.name, assertion.claimed().as_ref(), verify).await?;
        is_client(&loaded, client_id)?;
        Ok(Client::asserted(loaded, asserted))
    }

    async fn client_by_secret(
        &self,
        realm: &Realm,
        client_id: &str,
        secret: &str,
    ) -> Result<Client, Refusal> {
        let name = PrincipalName::parse(client_id).ok();
        let loaded = self.candidate(&realm.record.name, name.as_ref()).await?;
        self.verify_secret(loaded.as_deref(), secret.as_bytes()).await?;
        let loaded = loaded.expect("a secret that fits is somebody's");
        Ok(Client { loaded, akid: None, asserted: None, certificate: None, until_s: None })
    }

    /// First by a key that is registered (`self_signed_tls_client_auth`), then by a CA of the registry
    /// (`tls_client_auth`). The chain is judged before anything is asked about the principal, so who is not
    /// vouched for learns nothing about names.
    ///
    /// Source: RFC 8705 section 2.
    pub(crate) async fn client_by_certificate(
        &self,
        realm: &Realm,
        client_id: &str,
        certificate: &ClientCertificate,
    ) -> Result<Client, Refusal> {
        let registry = &realm.record.name;
        let not_theirs = |why: &str| {
            tracing::debug!(%registry, client_id = client_id.escape_debug().to_string(), "a client certificate is refused: {why}");
            Refusal::NotProven(NotProven::Certificate)
        };
        let leaf = certificate.chain_der.first().and_then(|der| LeafCertificate::parse(der));
        let leaf = leaf.ok_or_else(|| not_theirs("it cannot be read"))?;
        let name = PrincipalName::parse(client_id).ok();
        let loaded = self.candidate(registry, name.as_ref()).await?;
        let now_s = self.now_s();
        let kid = leaf.thumbprint.as_deref().and_then(|kid| KeyId::parse(kid).ok());
        if let (Some(loaded), Some(kid)) = (&loaded, kid)
            && loaded.keys.iter().any(|key| key.kid == kid)
        {
            // A key that was taken back comes in by no CA either.
            if loaded.ring.usable(&kid, now_s).is_none() {
                return Err(not_theirs("its key is registered and may not be used (now)"));
            }
            // Its own dates say nothing that its owner could not have written otherwise: those of the
            // registered key count, which a certificate that registered it has set.
            self.used(registry, &kid);
            let (loaded, certificate) = (Arc::clone(loaded), Some(leaf.digest));
            return Ok(Client { loaded, akid: Some(kid), asserted: None, certificate, until_s: None });
        }
        self.vouched(registry, certificate).await?;
        let subject =
            loaded.as_ref().and_then(|loaded| loaded.principal.settings.certificate_subject.as_ref());
        match (loaded.as_ref(), subject) {
            (Some(loaded), Some(subject)) if leaf.names(field_of(subject)) => {
                let until_s = Some(leaf.not_after_s.saturating_add(1));
                let (loaded, certificate) = (Arc::clone(loaded), Some(leaf.digest));
                Ok(Client { loaded, akid: None, asserted: None, certificate, until_s })
            }
            _ => Err(not_theirs("its subject is not the one that the principal's record names")),
        }
    }
}

pub(crate) fn field_of(subject: &CertificateSubject) -> SubjectField<'_> {
    match subject {
        CertificateSubject::SubjectDn(name) => SubjectField::Dn(name),
        CertificateSubject::SanDns(name) => SubjectField::Dns(name),
        CertificateSubject::SanUri(uri) => SubjectField::Uri(uri),
        CertificateSubject::SanIp(address) => SubjectField::Ip(address),
        CertificateSubject::SanEmail(name) => SubjectField::Email(name),
    }
}

/// `client_id`, where it was sent beside the credential, is the one of the credential.
fn is_client(loaded: &Loaded, client_id: Option<&str>) -> Result<(), Refusal> {
    let name = loaded.principal.name.as_str();
    if client_id.is_some_and(|client_id| !client_id.is_empty() && client_id != name) {
        return Err(Refusal::OAuthClient(format!("is not `{name}`, whose credential it came with")));
    }
    Ok(())
}
