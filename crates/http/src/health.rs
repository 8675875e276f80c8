//! `GET /health` (and `/healthz`): whether requests can be served, without details.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use crate::HttpState;
use crate::failure::Failure;

/// 200 when the store answers.
pub(crate) async fn health(State(state): State<HttpState>) -> Result<Json<Value>, Failure> {
    state.admission.store().registry(&drawbridge_names::RegistryName::default_registry()).await?;
    Ok(Json(json!({ "status": "ok" })))
}
