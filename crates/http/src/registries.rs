//! `/v1/registries`: the namespaces of this server.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use drawbridge_admission::NewRegistry;
use drawbridge_names::RegistryName;
use drawbridge_registry::{GoogleNames, RegistryRecord};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::HttpState;
use crate::body::JsonBody;
use crate::caller::Root;
use crate::config::BODY_BYTES_MAX;
use crate::failure::Failure;
use crate::wire_time;

/// All registries, in byte order of name.
pub(crate) async fn list(State(state): State<HttpState>, _: Root) -> Json<Value> {
    let items: Vec<Value> = state.admission.registries().iter().map(|record| registry_json(record)).collect();
    Json(json!({ "items": items }))
}

/// A registry to make.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewRegistryBody {
    name: String,
    issuer: Option<String>,
    bridge_audience: Option<String>,
    clock_skew_s: Option<u32>,
    token_life_s: Option<u32>,
    google: Option<GoogleBody>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GoogleBody {
    project: String,
    location: String,
}

/// Makes a registry; 409 when there is one of this name.
pub(crate) async fn add(
    State(state): State<HttpState>,
    caller: Root,
    JsonBody(body): JsonBody<BODY_BYTES_MAX, NewRegistryBody>,
) -> Result<(StatusCode, Json<Value>), Failure> {
    let new = NewRegistry {
        name: RegistryName::parse(&body.name).map_err(Failure::bad_name)?,
        issuer: body.issuer,
        bridge_audience: body.bridge_audience,
        clock_skew_s: body.clock_skew_s,
        token_life_s: body.token_life_s,
        google: body.google.map(|google| GoogleNames { project: google.project, location: google.location }),
    };
    match state.admission.create_registry(new, caller.actor()).await? {
        (record, true) => Ok((StatusCode::CREATED, Json(registry_json(&record)))),
        (record, false) => Err(Failure::registry_exists(record.name.as_str())),
    }
}

fn registry_json(record: &RegistryRecord) -> Value {
    let google = record.google.as_ref();
    json!({
        "name": record.name.as_str(),
        "issuer": record.issuer,
        "bridge_audience": record.bridge_audience,
        "clock_skew_s": record.clock_skew_s,
        "token_life_s": record.token_life_s,
        "google": google.map(|google| json!({ "project": google.project, "location": google.location })),
        "created": wire_time::from_s(record.created_s),
    })
}
