//! `/v1/gateways/{id}/devices`: which gateway may act for which device.

use axum::Json;
use axum::extract::{FromRequestParts, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use drawbridge_names::PrincipalName;
use serde_json::{Value, json};

use crate::HttpState;
use crate::body::Query;
use crate::caller::{Operator, Viewer};
use crate::edge::InRegistry;
use crate::failure::Failure;
use crate::paging::{Page, cursor};
use crate::principals::{IdInPath, path_part};

/// `{device}` in the path.
pub(crate) struct DeviceInPath(PrincipalName);

impl<S: Send + Sync> FromRequestParts<S> for DeviceInPath {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let text = path_part(parts, state, "device").await?;
        PrincipalName::parse(&text).map(Self).map_err(Failure::bad_name)
    }
}

/// The devices of a gateway, page by page.
pub(crate) async fn devices(
    State(state): State<HttpState>,
    InRegistry(registry): InRegistry,
    _: Viewer,
    IdInPath(gateway): IdInPath,
    Query(query): Query,
) -> Result<Json<Value>, Failure> {
    let page = Page::from_query(&query)?;
    let found = state.admission.devices_of(&registry, &gateway, page.after.as_ref(), page.limit).await?;
    let next = found.last().filter(|_| found.len() == page.limit).map(cursor);
    let items: Vec<Value> = found.iter().map(|name| json!({ "name": name.as_str() })).collect();
    Ok(Json(json!({ "items": items, "next_cursor": next })))
}

/// The gateways of a device.
pub(crate) async fn gateways(
    State(state): State<HttpState>,
    InRegistry(registry): InRegistry,
    _: Viewer,
    IdInPath(device): IdInPath,
) -> Result<Json<Value>, Failure> {
    let found = state.admission.gateways_of(&registry, &device).await?;
    let items: Vec<Value> = found.iter().map(|name| json!({ "name": name.as_str() })).collect();
    Ok(Json(json!({ "items": items })))
}

/// Links the two: 201, or 200 when they were.
pub(crate) async fn link(
    State(state): State<HttpState>,
    InRegistry(registry): InRegistry,
    caller: Operator,
    IdInPath(gateway): IdInPath,
    DeviceInPath(device): DeviceInPath,
) -> Result<(StatusCode, Json<Value>), Failure> {
    let new = state.admission.link(&registry, &gateway, &device, caller.actor()).await?;
    let status = if new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(json!({ "gateway": gateway.as_str(), "device": device.as_str() }))))
}

/// Takes the link away and ends what the gateway opened by it.
pub(crate) async fn unlink(
    State(state): State<HttpState>,
    InRegistry(registry): InRegistry,
    caller: Operator,
    IdInPath(gateway): IdInPath,
    DeviceInPath(device): DeviceInPath,
) -> Result<StatusCode, Failure> {
    if state.admission.unlink(&registry, &gateway, &device, caller.actor()).await? {
        return Ok(StatusCode::NO_CONTENT);
    }
    Err(Failure::not_found("link between the two, to", device.as_str()))
}
