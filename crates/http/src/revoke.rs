//! `POST /oauth/revoke`: the end of a token before its time.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use drawbridge_admission::TokenRequest;

use crate::HttpState;
use crate::body::AnyBody;
use crate::caller::FromPeer;
use crate::client_auth::{self, FromTls};
use crate::config::BODY_BYTES_MAX;
use crate::edge::InRegistry;
use crate::failure::Failure;
use crate::token::form;

/// Whoever has proven who it is is answered 200, whatever the token.
///
/// Source: RFC 7009 section 2.2.
pub(crate) async fn revoke(
    State(state): State<HttpState>,
    InRegistry(registry): InRegistry,
    FromPeer(peer): FromPeer,
    FromTls(certificate): FromTls,
    headers: HeaderMap,
    body: AnyBody<BODY_BYTES_MAX>,
) -> Result<StatusCode, Failure> {
    let params = form(&body)?;
    let credential = client_auth::credential(&params, &headers, certificate.as_deref())?;
    let request = TokenRequest {
        credential: credential.get(),
        client_id: params.get("client_id"),
        token: params.required("token")?,
        peer,
    };
    state.admission.revoke_token(&registry, request).await?;
    Ok(StatusCode::OK)
}
