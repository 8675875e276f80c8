//! `/v1/self`: what a principal may see of itself, and how a device replaces its own key.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use drawbridge_admission::Authorized;
use drawbridge_identity::Refusal;
use drawbridge_registry::Known;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::HttpState;
use crate::body::JsonBody;
use crate::caller::{FromPeer, Own};
use crate::config::{JWT_BYTES_MAX, KEY_BODY_BYTES_MAX};
use crate::edge::InRegistry;
use crate::failure::Failure;
use crate::principals::{key_json, principal_json};
use crate::wire_time;

/// `GET /v1/self`.
pub(crate) async fn show(State(state): State<HttpState>, Own(caller): Own) -> Result<Json<Value>, Failure> {
    Ok(Json(principal_json(&record(&state, &caller).await?)))
}

/// `GET /v1/self/keys`.
pub(crate) async fn keys(State(state): State<HttpState>, Own(caller): Own) -> Result<Json<Value>, Failure> {
    let known = record(&state, &caller).await?;
    let items: Vec<Value> = known.keys.iter().map(key_json).collect();
    Ok(Json(json!({ "items": items })))
}

async fn record(state: &HttpState, caller: &Authorized) -> Result<Known, Failure> {
    let known = state.admission.store().known_by_uid(&caller.registry, caller.uid).await?;
    known.ok_or_else(|| Refusal::KeyGone.into())
}

/// A key update: the JWT with the new key, and the proof that the device has its private half.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct UpdateBody {
    /// `key-update+jwt` by the old key.
    update: String,
    /// `key-pop+jwt` by the new key.
    pop: String,
    /// What becomes of the old key.
    #[serde(default)]
    retire: Retire,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
enum Retire {
    #[default]
    Old,
    Keep,
}

/// `POST /v1/self/keys`: the JWT by the registered key is the credential; no token is needed, and an
/// access token alone would change nothing.
pub(crate) async fn update_key(
    State(state): State<HttpState>,
    InRegistry(registry): InRegistry,
    FromPeer(peer): FromPeer,
    JsonBody(body): JsonBody<KEY_BODY_BYTES_MAX, UpdateBody>,
) -> Result<(StatusCode, Json<Value>), Failure> {
    for jwt in [&body.update, &body.pop] {
        if jwt.len() > JWT_BYTES_MAX {
            return Err(Failure::bad_request(format!("a JWT is longer than {JWT_BYTES_MAX} bytes")));
        }
    }
    let retire_old = body.retire == Retire::Old;
    let updated = state.admission.update_key(&registry, &body.update, &body.pop, retire_old, peer).await?;
    let status = if updated.changed { StatusCode::CREATED } else { StatusCode::OK };
    let previous = updated
        .previous
        .map(|(kid, expires_s)| json!({ "kid": kid.as_str(), "expires": wire_time::from_s(expires_s) }));
    Ok((status, Json(json!({ "kid": updated.kid.as_str(), "status": "active", "previous": previous }))))
}
