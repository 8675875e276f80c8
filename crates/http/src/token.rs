//! `POST /oauth/token`: a client assertion for an access token.

use axum::Json;
use axum::extract::State;
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL};
use axum::http::{HeaderMap, HeaderValue, Uri};
use axum::response::{IntoResponse, Response};
use drawbridge_admission::{LoginRequest, TokenGrant};
use drawbridge_identity::Refusal;
use serde_json::{Map, Value, json};

use crate::HttpState;
use crate::body::{AnyBody, Params};
use crate::caller::FromPeer;
use crate::config::{BODY_BYTES_MAX, JWT_BYTES_MAX};
use crate::edge::InRegistry;
use crate::failure::Failure;

/// Source: RFC 7523 section 2.2.
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// The grant `client_credentials` with `private_key_jwt`.
///
/// Source: RFC 6749 sections 3.2 and 4.4, RFC 7523 section 2.2, RFC 8707 section 2.
pub(crate) async fn token(
    State(state): State<HttpState>,
    InRegistry(registry): InRegistry,
    FromPeer(peer): FromPeer,
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
    let assertion = assertion(&params, &headers)?;
    let grant = state
        .admission
        .login(
            &registry,
            LoginRequest {
                client_id: params.get("client_id"),
                scope: params.get("scope"),
                resource: params.get("resource"),
                ..LoginRequest::with_assertion(assertion, peer)
            },
        )
        .await?;
    Ok(granted(&grant, "Bearer"))
}

/// The one client assertion of a request.
fn assertion<'a>(params: &'a Params, headers: &HeaderMap) -> Result<&'a str, Failure> {
    let kind = params.get("client_assertion_type");
    let assertion = params.get("client_assertion");
    let by_header = headers.contains_key(AUTHORIZATION);
    let methods = [assertion.is_some(), params.get("client_secret").is_some(), by_header];
    if methods.into_iter().filter(|used| *used).count() > 1 {
        return Err(Failure::bad_request(
            "more than one way of client authentication; send client_assertion alone",
        ));
    }
    let Some(assertion) = assertion else { return Err(Refusal::NoCredential.into()) };
    if assertion.len() > JWT_BYTES_MAX {
        return Err(Failure::bad_request(format!("client_assertion is longer than {JWT_BYTES_MAX} bytes")));
    }
    match kind {
        Some(ASSERTION_TYPE) => Ok(assertion),
        Some(_) => {
            Err(Failure::bad_request(format!("client_assertion_type is not known; wanted {ASSERTION_TYPE}")))
        }
        None => {
            Err(Failure::bad_request(format!("client_assertion_type is missing; wanted {ASSERTION_TYPE}")))
        }
    }
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
