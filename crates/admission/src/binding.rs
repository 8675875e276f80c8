//! What a token is bound to when it is issued, and what must be proven when it is presented.

use drawbridge_identity::{
    AccessClaims, Confirmation, DPOP_SKEW_S_MIN, DpopProven, DpopRules, NoncePurpose, Refusal, verify_dpop,
};
use drawbridge_names::RegistryName;
use drawbridge_registry::ClockTrust;

use crate::Admission;
use crate::cache::Loaded;
use crate::client::{Client, ClientCertificate};
use crate::registries::Realm;

/// A DPoP proof and the request it came with.
#[derive(Clone, Copy)]
pub struct Dpop<'a> {
    /// The value of the one `DPoP` header.
    pub proof: &'a str,
    /// The request's method, such as `POST`.
    pub method: &'a str,
    /// The request's URL without query and fragment, from the issuer, never from `Host`.
    pub url: &'a str,
}

/// What a token to be issued shall be bound to: at most one of the two.
#[derive(Clone, Copy, Default)]
pub struct BindingRequest<'a> {
    /// The key of a DPoP proof (RFC 9449 section 5).
    pub dpop: Option<Dpop<'a>>,
    /// The client certificate of the connection (RFC 8705 section 3).
    pub certificate: Option<&'a ClientCertificate>,
}

/// What came with an access token.
#[derive(Clone, Copy, Default)]
pub struct Presentation<'a> {
    /// The scheme in `Authorization` was `DPoP`, not `Bearer`.
    pub dpop_scheme: bool,
    /// The `DPoP` header of the request.
    pub dpop: Option<Dpop<'a>>,
    /// The client certificate of the connection.
    pub certificate: Option<&'a ClientCertificate>,
}

impl Admission {
    /// What the token for `client` is to be bound to: the key of a DPoP proof; else the certificate by which
    /// it has logged in; else the one that it presented, if its operator wants its tokens bound.
    ///
    /// Source: RFC 9449 section 5, RFC 8705 section 3.
    pub(crate) fn confirmation(
        &self,
        realm: &Realm,
        binding: &BindingRequest<'_>,
        client: &Client,
    ) -> Result<Option<Confirmation>, Refusal> {
        let loaded = &client.loaded;
        if let Some(dpop) = &binding.dpop {
            let proven = self.judge_dpop(realm, loaded, dpop, None)?;
            self.use_proof(loaded, &proven)?;
            return Ok(Some(Confirmation::Key(proven.thumbprint)));
        }
        if let Some(digest) = &client.certificate {
            return Ok(Some(Confirmation::Certificate(digest.clone())));
        }
        if !loaded.principal.settings.bound_tokens {
            return Ok(None);
        }
        match binding.certificate.and_then(ClientCertificate::digest) {
            Some(digest) => Ok(Some(Confirmation::Certificate(digest))),
            None => Err(unbound()),
        }
    }

    /// Whether what came with a token of `loaded` proves what the token is bound to.
    ///
    /// Source: RFC 9449 sections 7.1 and 7.2, RFC 8705 section 3.
    pub(crate) fn judge_presentation(
        &self,
        realm: &Realm,
        loaded: &Loaded,
        claims: &AccessClaims,
        token: &str,
        presentation: &Presentation<'_>,
    ) -> Result<(), Refusal> {
        let refuse = |found: &str| Err(Refusal::Binding(found.to_owned()));
        match (&claims.confirmation, presentation.dpop_scheme) {
            (None, false) => Ok(()),
            (None, true) => refuse("the token is bound to no key; present it as `Bearer`"),
            (Some(Confirmation::PopKey(_) | Confirmation::PopKeyId(_) | Confirmation::Sealed(_)), _) => {
                refuse("the token is for MQTT by RFC 9431, and its key cannot be proven over HTTP")
            }
            (Some(Confirmation::Key(_)), false) => {
                refuse("the token is bound to a key; present it as `DPoP`, with a proof by that key")
            }
            (Some(Confirmation::Certificate(_)), true) => refuse(
                "the token is bound to a certificate; present it as `Bearer` over a connection with it",
            ),
            (Some(Confirmation::Certificate(digest)), false) => {
                match presentation.certificate.and_then(ClientCertificate::digest) {
                    Some(found) if found == *digest => Ok(()),
                    Some(_) => {
                        refuse("the connection has another client certificate than the token is bound to")
                    }
                    None => refuse("the token is bound to a certificate, and the connection has none"),
                }
            }
            (Some(Confirmation::Key(thumbprint)), true) => {
                let Some(dpop) = &presentation.dpop else {
                    return Err(Refusal::Dpop("the header `DPoP` is missing".to_owned()));
                };
                let proven = self.judge_dpop(realm, loaded, dpop, Some(token))?;
                if proven.thumbprint != *thumbprint {
                    return refuse("the proof is by another key than the token is bound to");
                }
                self.use_proof(loaded, &proven)
            }
        }
    }

    /// A nonce for a DPoP proof, to be sent as `DPoP-Nonce`.
    ///
    /// Source: RFC 9449 section 8.
    #[must_use]
    pub fn dpop_nonce(&self, registry: &RegistryName) -> Option<String> {
        let random = self.inner.proofs.nonce_random(&*self.inner.random);
        Some(self.realm(registry)?.nonces.mint(NoncePurpose::Dpop, self.now_s(), random))
    }

    fn judge_dpop(
        &self,
        realm: &Realm,
        loaded: &Loaded,
        dpop: &Dpop<'_>,
        access_token: Option<&str>,
    ) -> Result<DpopProven, Refusal> {
        let (now_s, proofs) = (self.now_s(), &self.inner.proofs);
        let skew_s = u64::from(realm.record.clock_skew_s);
        let clock = loaded.principal.settings.clock.unwrap_or(realm.record.settings.clock);
        let is_young = proofs.is_young(skew_s.max(DPOP_SKEW_S_MIN), now_s);
        let rules = DpopRules {
            method: dpop.method,
            url: dpop.url,
            access_token,
            skew_s,
            nonces: &realm.nonces,
            nonce_wanted: is_young || clock != ClockTrust::Good,
            token_bytes_max: self.inner.config.http_token_bytes_max,
        };
        let proven = verify_dpop(dpop.proof, &rules, now_s, &self.inner.checker)?;
        // One that the process before has seen can only be told by its nonce.
        if is_young && !proven.nonce.as_deref().is_some_and(|nonce| proofs.is_own(nonce)) {
            return Err(Refusal::DpopNonce);
        }
        Ok(proven)
    }

    fn use_proof(&self, loaded: &Loaded, proven: &DpopProven) -> Result<(), Refusal> {
        let live_max = self.inner.config.jti_live_max;
        self.inner.proofs.use_up(loaded.principal.uid, proven, self.now_s(), live_max)
    }
}

/// Who gets bound tokens only has named nothing to bind one to.
pub(crate) fn unbound() -> Refusal {
    Refusal::Binding(
        "this principal gets bound tokens only; send a DPoP proof, or connect with a client certificate"
            .to_owned(),
    )
}
