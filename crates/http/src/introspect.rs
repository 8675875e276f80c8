//! `POST /oauth/introspect`: what a token says, for whom it concerns.

use axum::Json;
use axum::extract::State;
use axum::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use drawbridge_admission::TokenRequest;

use crate::HttpState;
use crate::body::AnyBody;
use crate::caller::FromPeer;
use crate::client_auth::{self, FromTls};
use crate::config::BODY_BYTES_MAX;
use crate::edge::InRegistry;
use crate::failure::Failure;
use crate::token::form;

/// Source: RFC 9701 section 4.
const JWT: &str = "application/token-introspection+jwt";

/// The body of the answer is JSON, or on request a JWT by the issuer. `token_type_hint` is not needed.
///
/// Source: RFC 7662 section 2, RFC 9701 section 4.
pub(crate) async fn introspect(
    State(state): State<HttpState>,
    InRegistry(registry): InRegistry,
    FromPeer(peer): FromPeer,
    FromTls(certificate): FromTls,
    headers: HeaderMap,
    body: AnyBody<BODY_BYTES_MAX>,
) -> Result<Response, Failure> {
    let params = form(&body)?;
    let credential = client_auth::credential(&params, &headers, certificate.as_deref())?;
    let request = TokenRequest {
        credential: credential.get(),
        client_id: params.get("client_id"),
        token: params.required("token")?,
        peer,
    };
    let no_store = (CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if wants_jwt(&headers) {
        let jwt = state.admission.introspection_jwt(&registry, request).await?;
        return Ok(([no_store, (CONTENT_TYPE, HeaderValue::from_static(JWT))], jwt).into_response());
    }
    let answer = state.admission.introspect(&registry, request).await?;
    Ok(([no_store], Json(answer.body)).into_response())
}

/// Whether `Accept` names the JWT form; weights are not read, nobody asks for both.
fn wants_jwt(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut types = values.flat_map(|value| value.split(','));
    types.any(|kind| kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(JWT))
}
