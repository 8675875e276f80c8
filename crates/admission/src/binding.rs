//! What a token is bound to when it is issued, and what must be proven when it is presented.

use drawbridge_identity::{AccessClaims, Confirmation, Refusal};

use crate::Admission;
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
    /// What the token for `client` is to be bound to.
    pub(crate) async fn confirmation(
        &self,
        _realm: &Realm,
        binding: &BindingRequest<'_>,
        _client: &Client,
    ) -> Result<Option<Confirmation>, Refusal> {
        match binding {
            BindingRequest { dpop: None, certificate: None } => Ok(None),
            _ => Err(Refusal::Binding("bound tokens are not issued yet".to_owned())),
        }
    }

    /// Whether what came with a token proves what the token is bound to.
    pub(crate) async fn judge_presentation(
        &self,
        _realm: &Realm,
        claims: &AccessClaims,
        _token: &str,
        _presentation: &Presentation<'_>,
    ) -> Result<(), Refusal> {
        match claims.confirmation {
            None => Ok(()),
            Some(_) => Err(Refusal::Binding("its proof is missing".to_owned())),
        }
    }
}
