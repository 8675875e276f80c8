//! `POST /oauth/token`: a client proves who it is and gets an access token.

use axum::Json;
use axum::extract::State;
use axum::http::header::CACHE_CONTROL;
use axum::http::{HeaderMap, HeaderValue, Uri};
use axum::response::{IntoResponse, Response};
use drawbridge_admission::{BindingRequest, LoginRequest, TokenGrant};
use serde_json::{Map, Value, json};

use crate::HttpState;
use crate::body::{AnyBody, Params};
use crate::caller::FromPeer;
use crate::client_auth::{self, FromTls};
use crate::config::BODY_BYTES_MAX;
use crate::edge::InRegistry;
use crate::failure::Failure;

/// The grant `client_credentials`.
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
    if body.media_type.as_deref() != Some("application/x-www-form-urlencoded") {
        return Err(Failure::bad_request("the body is no form; send application/x-www-form-urlencoded"));
    }
    if uri.query().is_some() {
        return Err(Failure::bad_request("parameters in the URL end up in logs; send them in the body"));
    }
    let params = Params::parse(&body.bytes)?;
    match params.required("grant_type")? {
        "client_credentials" => {}
        _ => return Err(Failure::unsupported_grant_type()),
    }
    let credential = client_auth::credential(&params, &headers, certificate.as_deref())?;
    let request = LoginRequest {
        credential: credential.get(),
        client_id: params.get("client_id"),
        scope: params.get("scope"),
        resource: params.get("resource"),
        binding: BindingRequest::default(),
        peer,
    };
    let grant = state.admission.login(&registry, request).await?;
    Ok(granted(&grant, "Bearer"))
}

/// A token, told.
///
/// Source: RFC 6749 section 5.1.
pub(crate) fn granted(grant: &TokenGrant, token_type: &str) -> Response {
    let mut body = Map::new();
    body.insert("access_token".to_owned(), json!(grant.access_token));
    body.insert("token_type".to_owned(), json!(token_type));
    body.insert("expires_in".to_owned(), json!(grant.expires_in_s));
    if let Some(scope) = &grant.scope {
        body.insert("scope".to_owned(), json!(scope));
    }
    let no_store = [(CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    (no_store, Json(Value::Object(body))).into_response()
}
