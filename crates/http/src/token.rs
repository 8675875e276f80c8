//! `POST /oauth/token`: a client proves who it is and gets an access token.

use axum::Json;
use axum::extract::State;
use axum::http::header::CACHE_CONTROL;
use axum::http::{HeaderMap, HeaderValue, Uri};
use axum::response::{IntoResponse, Response};
use drawbridge_admission::{BindingRequest, ExchangeRequest, LoginRequest, TokenGrant};
use drawbridge_identity::Confirmation;
use serde_json::{Map, Value, json};

use crate::HttpState;
use crate::ace::{self, AceForm, Around};
use crate::body::{AnyBody, Params};
use crate::caller::FromPeer;
use crate::client_auth::{self, FromTls};
use crate::config::BODY_BYTES_MAX;
use crate::dpop;
use crate::edge::InRegistry;
use crate::failure::Failure;

/// The grant `client_credentials`.
///
/// A body in the words of RFC 9200 is answered in them.
///
/// Source: RFC 6749 sections 3.2 and 4.4, RFC 8707 section 2.
pub(crate) async fn token(
    State(state): State<HttpState>,
    InRegistry(registry): InRegistry,
    FromPeer(peer): FromPeer,
    FromTls(certificate): FromTls,
    uri: Uri,
    headers: HeaderMap,
    body: AnyBody<BODY_BYTES_MAX>,
) -> Result<Response, Failure> {
    if uri.query().is_some() {
        return Err(Failure::bad_request("parameters in the URL end up in logs; send them in the body"));
    }
    if let Some(form) = body.media_type.as_deref().and_then(AceForm::of) {
        let around =
            Around { registry: &registry, peer, certificate: certificate.as_deref(), headers: &headers };
        return ace::token(&state, around, form, &body.bytes).await;
    }
    let params = form(&body)?;
    let grant_type = params.required("grant_type")?;
    if !["client_credentials", TOKEN_EXCHANGE].contains(&grant_type) {
        return Err(Failure::unsupported_grant_type());
    }
    let credential = client_auth::credential(&params, &headers, certificate.as_deref())?;
    let (credential, client_id) = (credential.get(), params.get("client_id"));
    let (scope, resource) = (params.get("scope"), target(&params, "resource")?);
    let url = format!("{}/oauth/token", state.issuer(&registry)?);
    let binding = BindingRequest {
        dpop: dpop::of_request(&headers, "POST", &url)?,
        certificate: certificate.as_deref(),
    };
    match grant_type {
        "client_credentials" => {
            let request = LoginRequest { credential, client_id, scope, resource, binding, peer };
            let grant = state.admission.login(&registry, request).await?;
            Ok(granted(&grant, token_type(&grant)))
        }
        TOKEN_EXCHANGE => {
            judge_types(&params)?;
            let request = ExchangeRequest {
                credential,
                client_id,
                subject_token: params.required("subject_token")?,
                actor_token: params.get("actor_token"),
                device: params.get("device"),
                audience: params.get("audience"),
                resource,
                scope,
                binding,
                peer,
            };
            let grant = state.admission.exchange(&registry, request).await?;
            Ok(told(&grant, token_type(&grant), Some(ACCESS_TOKEN)))
        }
        _ => Err(Failure::unsupported_grant_type()),
    }
}

/// Only a proof of a key makes another type: who has a certificate presents the token as `Bearer`.
///
/// Source: RFC 9449 section 5, RFC 8705 section 3.
fn token_type(grant: &TokenGrant) -> &'static str {
    match grant.confirmation {
        Some(Confirmation::Key(_)) => "DPoP",
        _ => "Bearer",
    }
}

/// Source: RFC 8693 section 2.1.
pub(crate) const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
/// Source: RFC 8693 section 3.
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";

/// Only access tokens are exchanged, and only for access tokens; a type stands beside each token.
///
/// Source: RFC 8693 section 2.1.
fn judge_types(params: &Params) -> Result<(), Failure> {
    let wrong = |name: &str| Failure::bad_request(format!("{name} is not served; wanted {ACCESS_TOKEN}"));
    if params.required("subject_token_type")? != ACCESS_TOKEN {
        return Err(wrong("this subject_token_type"));
    }
    match (params.get("actor_token"), params.get("actor_token_type")) {
        (None, None) | (Some(_), Some(ACCESS_TOKEN)) => {}
        (Some(_), Some(_)) => return Err(wrong("this actor_token_type")),
        (Some(_), None) => return Err(Failure::bad_request("actor_token came without actor_token_type")),
        (None, Some(_)) => return Err(Failure::bad_request("actor_token_type came without actor_token")),
    }
    match params.get("requested_token_type") {
        None | Some(ACCESS_TOKEN) => Ok(()),
        Some(_) => Err(wrong("this requested_token_type")),
    }
}

/// An absolute URI without fragment; one, since a repeated parameter is refused before.
///
/// Source: RFC 8707 section 2.
pub(crate) fn target<'a>(params: &'a Params, name: &str) -> Result<Option<&'a str>, Failure> {
    let Some(found) = params.get(name) else { return Ok(None) };
    let scheme = found.split_once(':').map_or("", |(scheme, _)| scheme);
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    if !is_scheme || found.contains('#') || !found.bytes().all(|byte| byte.is_ascii_graphic()) {
        let mut failure =
            Failure::bad_request(format!("{name} is no absolute URI without fragment; wanted one"));
        failure.oauth.1 = "invalid_target";
        return Err(failure);
    }
    Ok(Some(found))
}

/// The form in the body of a request.
pub(crate) fn form(body: &AnyBody<BODY_BYTES_MAX>) -> Result<Params, Failure> {
    if body.media_type.as_deref() != Some("application/x-www-form-urlencoded") {
        return Err(Failure::bad_request("the body is no form; send application/x-www-form-urlencoded"));
    }
    Params::parse(&body.bytes)
}

/// A token, told.
///
/// Source: RFC 6749 section 5.1.
pub(crate) fn granted(grant: &TokenGrant, token_type: &str) -> Response {
    told(grant, token_type, None)
}

/// `issued`: `issued_token_type` of RFC 8693 section 2.2.1.
fn told(grant: &TokenGrant, token_type: &str, issued: Option<&str>) -> Response {
    let mut body = Map::new();
    body.insert("access_token".to_owned(), json!(grant.access_token));
    if let Some(issued) = issued {
        body.insert("issued_token_type".to_owned(), json!(issued));
    }
    body.insert("token_type".to_owned(), json!(token_type));
    body.insert("expires_in".to_owned(), json!(grant.expires_in_s));
    if let Some(scope) = grant.alias_words.as_ref().or(grant.scope.as_ref()) {
        body.insert("scope".to_owned(), json!(scope));
    }
    let no_store = [(CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    (no_store, Json(Value::Object(body))).into_response()
}
