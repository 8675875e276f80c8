//! `POST /v1/admin-token:rotate`: the holder of the admin credential replaces it.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::CACHE_CONTROL;
use axum::response::{IntoResponse as _, Response};
use serde_json::json;

use crate::HttpState;
use crate::caller::Root;
use crate::failure::Failure;

/// Answers the new credential, this once; the one that asked is dead from now on.
pub(crate) async fn rotate(State(state): State<HttpState>, caller: Root) -> Result<Response, Failure> {
    let token = state.admission.create_admin_token(caller.actor()).await?;
    let no_store = [(CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    Ok((no_store, Json(json!({ "admin_token": token.as_str() }))).into_response())
}
