//! Who asks: the credential in `Authorization`, and the address it came from.

use std::convert::Infallible;
use std::ops::Deref;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use drawbridge_admission::{
    ADMIN_TOKEN_PREFIX, Actor, ApiWord, Audience, Authorized, Caller, ClientCertificate, Peer, Presentation,
};
use drawbridge_control::Sender;
use drawbridge_identity::Refusal;
use drawbridge_names::PrincipalKind;
use drawbridge_registry::Role;

use crate::HttpState;
use crate::config::JWT_BYTES_MAX;
use crate::dpop;
use crate::edge::InRegistry;
use crate::failure::Failure;
use crate::serve::PeerAddress;

/// Where a request comes from.
pub(crate) struct FromPeer(pub(crate) Peer);

impl<S: Send + Sync> FromRequestParts<S> for FromPeer {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self(peer(parts)))
    }
}

fn peer(parts: &Parts) -> Peer {
    Peer {
        address: parts.extensions.get::<PeerAddress>().map(|peer| peer.0.ip()),
        websocket: Some(false),
        ..Peer::default()
    }
}

/// The caller behind the token in `Authorization`, and behind what the token is bound to.
///
/// Source: RFC 6750 section 2.1 (its other two ways, body and query, are not served: RFC 9700), RFC 9449
/// section 7.1, RFC 8705 section 3.
pub(crate) async fn bearer(
    parts: &mut Parts,
    state: &HttpState,
    audience: Audience,
) -> Result<Caller, Failure> {
    let InRegistry(registry) = InRegistry::from_request_parts(parts, state).await?;
    let (scheme, token) = authorization(&parts.headers)?;
    // Of the issuer, never of `Host`; the path is the one within the registry.
    let url = format!("{}{}", state.issuer(&registry)?, parts.uri.path());
    let presentation = Presentation {
        dpop_scheme: scheme == Scheme::Dpop,
        dpop: dpop::of_request(&parts.headers, parts.method.as_str(), &url)?,
        certificate: parts.extensions.get::<Arc<ClientCertificate>>().map(|found| &**found),
    };
    if presentation.dpop_scheme && token.starts_with(ADMIN_TOKEN_PREFIX) {
        return Err(Refusal::Binding("the admin credential is bound to no key".to_owned()).into());
    }
    let peer = peer(parts);
    Ok(state.admission.presented(Some(&registry), token, audience, &presentation, peer).await?)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Bearer,
    Dpop,
}

/// The Bearer token of a request, where nothing else is taken.
pub(crate) fn token(headers: &HeaderMap) -> Result<&str, Failure> {
    match authorization(headers)? {
        (Scheme::Bearer, token) => Ok(token),
        (Scheme::Dpop, _) => {
            Err(Failure::bad_request("Authorization is not understood; wanted `Bearer TOKEN`"))
        }
    }
}

/// The token of a request and what came with it, where something else than its caller is asked for. `url`: that of
/// the request, below the issuer.
pub(crate) fn presented<'a>(
    headers: &'a HeaderMap,
    url: &'a str,
    certificate: Option<&'a ClientCertificate>,
) -> Result<(&'a str, Presentation<'a>), Failure> {
    let (scheme, token) = authorization(headers)?;
    let dpop = dpop::of_request(headers, "POST", url)?;
    Ok((token, Presentation { dpop_scheme: scheme == Scheme::Dpop, dpop, certificate }))
}

/// The token of a request, whatever its scheme: for whoever was judged already.
pub(crate) fn presented_token(headers: &HeaderMap) -> Result<&str, Failure> {
    authorization(headers).map(|(_, token)| token)
}

fn authorization(headers: &HeaderMap) -> Result<(Scheme, &str), Failure> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next().ok_or(Refusal::NoCredential)?;
    if values.next().is_some() {
        return Err(Failure::bad_request("Authorization stands there twice; send it once"));
    }
    let wanted = || {
        Failure::bad_request(
            "Authorization is not understood; wanted `Bearer TOKEN`, or `DPoP TOKEN` with a proof",
        )
    };
    let (scheme, token) = value.to_str().ok().and_then(|text| text.split_once(' ')).ok_or_else(wanted)?;
    let scheme = match scheme {
        _ if scheme.eq_ignore_ascii_case("bearer") => Scheme::Bearer,
        _ if scheme.eq_ignore_ascii_case("dpop") => Scheme::Dpop,
        _ => return Err(wanted()),
    };
    if token.is_empty() {
        return Err(wanted());
    }
    if token.len() > JWT_BYTES_MAX {
        return Err(Failure::bad_request(format!("the token is longer than {JWT_BYTES_MAX} bytes")));
    }
    Ok((scheme, token))
}

/// Somebody with a token for `/v1`: the operator, or a principal whose rights are still to be asked.
pub(crate) struct ApiCaller(Caller);

impl FromRequestParts<HttpState> for ApiCaller {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &HttpState) -> Result<Self, Failure> {
        bearer(parts, state, Audience::Api).await.map(Self)
    }
}

impl ApiCaller {
    /// The caller as who gives an order, if its token is for such orders.
    pub(crate) fn sender(&self, word: ApiWord) -> Result<Sender<'_>, Failure> {
        match &self.0 {
            Caller::Admin => Ok(Sender::Admin),
            Caller::Principal(caller) if caller.words.allow(word) => {
                let Authorized { uid, name, kind, rights, .. } = &**caller;
                Ok(Sender::Principal { uid: *uid, name, kind: *kind, rights })
            }
            Caller::Principal(_) => Err(not_issued_for(word)),
        }
    }
}

fn not_issued_for(word: ApiWord) -> Failure {
    Refusal::Scope(format!("the token was not issued for `{}`", word.as_str())).into()
}

/// Somebody who works on a registry, with the role that was asked for at least.
async fn operator(parts: &mut Parts, state: &HttpState, wanted: Role) -> Result<Staff, Failure> {
    let caller = bearer(parts, state, Audience::Api).await?;
    let actor = caller.operator(wanted).map_err(not_permitted)?;
    Ok(Staff { caller, actor })
}

fn not_permitted(refusal: Option<Refusal>) -> Failure {
    refusal.map_or_else(Failure::operator_only, Failure::from)
}

/// A caller with an operator role.
pub(crate) struct Staff {
    caller: Caller,
    actor: Actor,
}

impl Staff {
    /// Who it is, for the audit.
    pub(crate) fn actor(&self) -> &Actor {
        &self.actor
    }

    /// For what only the path, or the record behind it, says that it takes more.
    pub(crate) fn must_be(&self, wanted: Role) -> Result<(), Failure> {
        self.caller.operator(wanted).map(drop).map_err(not_permitted)
    }
}

macro_rules! roles {
    ($($(#[$doc:meta])* $name:ident)+) => {$(
        $(#[$doc])*
        pub(crate) struct $name(Staff);

        impl Deref for $name {
            type Target = Staff;

            fn deref(&self) -> &Staff {
                &self.0
            }
        }

        impl FromRequestParts<HttpState> for $name {
            type Rejection = Failure;

            async fn from_request_parts(parts: &mut Parts, state: &HttpState) -> Result<Self, Failure> {
                operator(parts, state, Role::$name).await.map(Self)
            }
        }
    )+};
}
roles! {
    /// May read the registry of the path. As an argument it guards a handler, like its siblings.
    Viewer
    /// May change its devices: their keys, enrolments and links too.
    Operator
    /// May change what devices and others may do: policies, applications, roles, CAs, settings.
    Admin
}

/// The holder of the admin credential itself: for what concerns more than one registry.
pub(crate) struct Root;

impl FromRequestParts<HttpState> for Root {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &HttpState) -> Result<Self, Failure> {
        match bearer(parts, state, Audience::Api).await? {
            Caller::Admin => Ok(Self),
            Caller::Principal(_) => Err(Failure::credential_only()),
        }
    }
}

impl Root {
    /// Who it is, for the audit.
    pub(crate) fn actor(&self) -> &'static Actor {
        &Actor::Admin
    }
}

/// May change principals of the kind that the route is for: devices take an operator, applications an
/// admin, or an operator could make one that is more than itself.
pub(crate) struct Registrar(Staff);

impl Deref for Registrar {
    type Target = Staff;

    fn deref(&self) -> &Staff {
        &self.0
    }
}

impl FromRequestParts<HttpState> for Registrar {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &HttpState) -> Result<Self, Failure> {
        let collection = parts.extensions.get::<PrincipalKind>().copied();
        let kind = collection.ok_or_else(|| Failure::internal("a collection without a kind"))?;
        operator(parts, state, role_over(kind)).await.map(Self)
    }
}

/// The role that changes principals of a kind.
pub(crate) fn role_over(kind: PrincipalKind) -> Role {
    match kind {
        PrincipalKind::Device => Role::Operator,
        PrincipalKind::Application => Role::Admin,
    }
}

/// A principal that reads its own record.
pub(crate) struct Own(pub(crate) std::sync::Arc<Authorized>);

impl FromRequestParts<HttpState> for Own {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &HttpState) -> Result<Self, Failure> {
        match bearer(parts, state, Audience::SelfRead).await? {
            Caller::Principal(caller) if caller.words.allow(ApiWord::SelfRead) => Ok(Self(caller)),
            Caller::Principal(_) => Err(not_issued_for(ApiWord::SelfRead)),
            Caller::Admin => Err(Failure::internal("the admin credential was taken for a principal")),
        }
    }
}
