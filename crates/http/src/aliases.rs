//! The paths of the IoT IdP: `POST /as/token`, `/as/renew/token`, `/idp/introspect` and
//! `/device/update/pubkey`. They admit only devices whose assertion profile is `legacy`.
//!
//! What is tolerated here and nowhere else: `Authorization` with or without `Bearer`, a form or JSON
//! by `Content-Type`, JWTs without `aud` and `exp`.

use axum::Json;
use axum::extract::State;
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use drawbridge_admission::TokenRequest;
use drawbridge_identity::Refusal;
use serde_json::{Value, json};

use crate::HttpState;
use crate::body::{AnyBody, Params, Texts};
use crate::caller::FromPeer;
use crate::client_auth;
use crate::config::{BODY_BYTES_MAX, JWT_BYTES_MAX};
use crate::edge::InRegistry;
use crate::failure::Failure;
use crate::token::granted;

/// Login.
pub(crate) async fn token(
    State(state): State<HttpState>,
    InRegistry(registry): InRegistry,
    FromPeer(peer): FromPeer,
    headers: HeaderMap,
    body: AnyBody<BODY_BYTES_MAX>,
) -> Result<Response, Failure> {
    let params = parameters(&body)?;
    if params.get("client_secret").is_some() || params.get("client_assertion").is_some() {
        return Err(Failure::bad_request("more than one credential; send the JWT in Authorization alone"));
    }
    let jwt = credential_in(&headers, &AUTHORIZATION)?;
    let client_id = Some(params.required("client_id")?);
    let grant = state.admission.legacy_login(&registry, jwt, client_id, params.get("scope"), peer).await?;
    Ok(granted(&grant, "bearer"))
}

/// A device gives its token for the next one.
pub(crate) async fn renew(
    State(state): State<HttpState>,
    InRegistry(registry): InRegistry,
    FromPeer(peer): FromPeer,
    headers: HeaderMap,
    body: AnyBody<BODY_BYTES_MAX>,
) -> Result<Response, Failure> {
    let params = parameters(&body)?;
    // As the pages of the IoT IdP spell it.
    let british = HeaderName::from_static("authorisation");
    let header = if headers.contains_key(AUTHORIZATION) { AUTHORIZATION } else { british };
    let token = credential_in(&headers, &header)?;
    let client_id = Some(params.required("client_id")?);
    let grant = state.admission.renew(&registry, token, client_id, params.get("scope"), peer).await?;
    Ok(granted(&grant, "bearer"))
}

/// A platform asks about a token, with its name and secret in `Authorization`: the page leaves that open, but
/// then anybody could try tokens here.
pub(crate) async fn introspect(
    State(state): State<HttpState>,
    InRegistry(registry): InRegistry,
    FromPeer(peer): FromPeer,
    headers: HeaderMap,
    body: AnyBody<BODY_BYTES_MAX>,
) -> Result<Response, Failure> {
    let params = parameters(&body)?;
    if !headers.contains_key(AUTHORIZATION) {
        return Err(Refusal::NoCredential.into());
    }
    let credential = client_auth::credential(&params, &headers, None)?;
    let request = TokenRequest {
        credential: credential.get(),
        client_id: params.get("client_id"),
        token: params.required("token")?,
        peer,
    };
    let mut answer = state.admission.introspect(&registry, request).await?.body;
    if let Some(members) = answer.as_object_mut() {
        members.retain(|name, _| ["active", "sub", "scope", "iss", "exp"].contains(&name.as_str()));
    }
    let no_store = [(CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    Ok((no_store, Json(answer)).into_response())
}

/// A device replaces its key.
pub(crate) async fn update_key(
    State(state): State<HttpState>,
    InRegistry(registry): InRegistry,
    FromPeer(peer): FromPeer,
    headers: HeaderMap,
    body: AnyBody<BODY_BYTES_MAX>,
) -> Result<Json<Value>, Failure> {
    let jwt = credential_in(&headers, &AUTHORIZATION)?;
    let params = parameters(&body)?;
    let pop = params.get("pop").ok_or_else(|| Refusal::Pop("it is missing".to_owned()))?;
    state.admission.legacy_update_key(&registry, jwt, pop, peer).await?;
    Ok(Json(json!({ "Success": "Public key updated" })))
}

/// The JWT or token in a header.
fn credential_in<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<&'a str, Failure> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().ok_or(Refusal::NoCredential)?;
    if values.next().is_some() {
        return Err(Failure::bad_request("Authorization stands there twice; send it once"));
    }
    let text = value.to_str().map_err(|_| Refusal::JwsFormat("not ASCII".to_owned()))?;
    let jwt = match text.split_once(' ') {
        Some((scheme, jwt)) if scheme.eq_ignore_ascii_case("bearer") => jwt.trim_start_matches(' '),
        _ => text,
    };
    if jwt.len() > JWT_BYTES_MAX {
        return Err(Failure::bad_request(format!("the JWT is longer than {JWT_BYTES_MAX} bytes")));
    }
    Ok(jwt)
}

/// A form, or a JSON object of texts.
fn parameters(body: &AnyBody<BODY_BYTES_MAX>) -> Result<Params, Failure> {
    match body.media_type.as_deref() {
        Some("application/x-www-form-urlencoded") => Params::parse(&body.bytes),
        None if body.bytes.is_empty() => Ok(Params::default()),
        Some("application/json") => crate::body::json::<Texts>(&body.bytes).map(Params::from),
        _ => Err(Failure::bad_request("the body is neither a form nor JSON; name its Content-Type")),
    }
}
