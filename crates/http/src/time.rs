//! `POST /v1/time`: what the time is, signed.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use drawbridge_identity::is_time_nonce;
use serde::Deserialize;
use serde_json::json;

use crate::HttpState;
use crate::body::JsonBody;
use crate::caller::FromPeer;
use crate::config::BODY_BYTES_MAX;
use crate::edge::InRegistry;
use crate::failure::Failure;
use crate::wire_time;

/// A question for the time.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TimeBody {
    /// New for each question, so that no old answer passes for one to it.
    nonce: String,
}

/// Answers the time as a JWT of the issuer over the nonce, and once more in the clear.
pub(crate) async fn time(
    State(state): State<HttpState>,
    InRegistry(registry): InRegistry,
    FromPeer(peer): FromPeer,
    JsonBody(body): JsonBody<BODY_BYTES_MAX, TimeBody>,
) -> Result<Response, Failure> {
    if !is_time_nonce(&body.nonce) {
        return Err(Failure::bad_request("`nonce` is not 16 to 64 characters of base64url"));
    }
    let (jwt, now_ms) = state.admission.signed_time(&registry, &body.nonce, peer)?;
    let no_store = [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    Ok((no_store, Json(json!({ "time": jwt, "now": wire_time::from_ms(now_ms) }))).into_response())
}
