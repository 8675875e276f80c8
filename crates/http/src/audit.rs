//! `GET /v1/audit`: who changed what, newest first.

use axum::Json;
use axum::extract::State;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use drawbridge_registry::AuditRow;
use serde_json::{Value, json};

use crate::HttpState;
use crate::body::Query;
use crate::caller::Viewer;
use crate::edge::InRegistry;
use crate::failure::Failure;
use crate::paging;
use crate::wire_time;

/// Up to `limit` rows with `seq` below `before`.
pub(crate) async fn tail(
    State(state): State<HttpState>,
    InRegistry(registry): InRegistry,
    _: Viewer,
    Query(query): Query,
) -> Result<Json<Value>, Failure> {
    let limit = paging::limit(&query)?;
    let before = query.number("before")?;
    let rows = state.admission.store().audit_tail(&registry, before, limit).await?;
    let next = rows.last().filter(|row| rows.len() == limit && row.seq > 1).map(|row| row.seq);
    let items: Vec<Value> = rows.iter().map(row_json).collect();
    Ok(Json(json!({ "items": items, "next_before": next })))
}

fn row_json(row: &AuditRow) -> Value {
    let entry = &row.entry;
    let detail = serde_json::from_str(&entry.detail).unwrap_or_else(|_| Value::from(entry.detail.as_str()));
    json!({
        "writer": row.writer,
        "seq": row.seq,
        "at": wire_time::from_ms(entry.at_ms),
        "actor": entry.actor,
        "action": entry.action,
        "subject": entry.subject,
        "detail": detail,
        "hash": URL_SAFE_NO_PAD.encode(row.hash),
    })
}
