//! `/v1/audit`: who changed what, and all that an auditor needs to check it without trusting this server.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use drawbridge_names::RegistryName;
use drawbridge_registry::{AuditHead, AuditRow, StoreError};
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::HttpState;
use crate::body::Query;
use crate::caller::Viewer;
use crate::edge::InRegistry;
use crate::failure::Failure;
use crate::paging;
use crate::wire_time;

/// Rows that an export reads at a time.
const EXPORT_PAGE: usize = 500;

/// Up to `limit` rows: with `seq` below `before`, newest first; or of `writer` from `from` on, oldest first.
pub(crate) async fn rows(
    State(state): State<HttpState>,
    InRegistry(registry): InRegistry,
    _: Viewer,
    Query(query): Query,
) -> Result<Json<Value>, Failure> {
    let (limit, store) = (paging::limit(&query)?, state.admission.store());
    let Some(writer) = query.get("writer") else {
        if query.get("from").is_some() {
            return Err(Failure::bad_request("`from` stands there without `writer`, whose row it is"));
        }
        let rows = store.audit_tail(&registry, query.number("before")?, limit).await?;
        let next = rows.last().filter(|row| rows.len() == limit && row.seq > 1).map(|row| row.seq);
        let items: Vec<Value> = rows.iter().map(row_json).collect();
        return Ok(Json(json!({ "items": items, "next_before": next })));
    };
    if query.get("before").is_some() {
        return Err(Failure::bad_request("`before` is for the newest rows first; with `writer` send `from`"));
    }
    let from = query.number("from")?.unwrap_or(1);
    let rows = store.audit_rows(&registry, writer, from, limit).await?;
    let next = rows.last().filter(|_| rows.len() == limit).map(|row| row.seq + 1);
    let items: Vec<Value> = rows.iter().map(row_json).collect();
    Ok(Json(json!({ "items": items, "next_from": next })))
}

/// The newest row of every writer's chain, and the issuer keys that checkpoints may be signed with.
pub(crate) async fn heads(
    State(state): State<HttpState>,
    InRegistry(registry): InRegistry,
    _: Viewer,
) -> Result<Json<Value>, Failure> {
    let heads = state.admission.store().audit_heads(&registry).await?;
    let mut about = about(&state, &registry)?;
    about["heads"] = heads_json(&heads);
    Ok(Json(about))
}

/// Every row of every writer as NDJSON: a line about the registry, each writer's rows oldest first, and a
/// line with the heads at the end, without which the export is not whole.
pub(crate) async fn export(
    State(state): State<HttpState>,
    InRegistry(registry): InRegistry,
    _: Viewer,
) -> Result<Response, Failure> {
    let heads = state.admission.store().audit_heads(&registry).await?;
    let about = about(&state, &registry)?;
    let (sender, receiver) = mpsc::channel(4);
    tokio::spawn(async move {
        if let Err(error) = write_export(&state, &registry, &about, &heads, &sender).await {
            tracing::warn!(%registry, "an export of the audit was cut off: {error}");
            // The reader sees a broken connection, never a short export that looks whole.
            let _ = sender.send(Err(std::io::Error::other("the store failed"))).await;
        }
    });
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], Body::new(Lines(receiver))).into_response())
}

type Line = Result<Bytes, std::io::Error>;

async fn write_export(
    state: &HttpState,
    registry: &RegistryName,
    about: &Value,
    heads: &[AuditHead],
    sender: &mpsc::Sender<Line>,
) -> Result<(), StoreError> {
    if sender.send(Ok(Bytes::from(format!("{about}\n")))).await.is_err() {
        return Ok(()); // nobody reads on
    }
    for head in heads {
        let mut from = 1;
        while from <= head.seq {
            let rows = state.admission.store().audit_rows(registry, &head.writer, from, EXPORT_PAGE).await?;
            let Some(last) = rows.last() else {
                return Err(StoreError::Corrupt(format!(
                    "row {from} of the audit of {} is missing",
                    head.writer
                )));
            };
            from = last.seq + 1;
            let mut text = String::new();
            for row in rows.iter().filter(|row| row.seq <= head.seq) {
                text.push_str(&row_json(row).to_string());
                text.push('\n');
            }
            if sender.send(Ok(Bytes::from(text))).await.is_err() {
                return Ok(());
            }
        }
    }
    // A failed send: nobody reads on.
    let _ = sender.send(Ok(Bytes::from(format!("{}\n", json!({ "heads": heads_json(heads) }))))).await;
    Ok(())
}

struct Lines(mpsc::Receiver<Line>);

impl axum::body::HttpBody for Lines {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        self.0.poll_recv(context).map(|line| line.map(|line| line.map(Frame::data)))
    }
}

fn about(state: &HttpState, registry: &RegistryName) -> Result<Value, Failure> {
    let record = state.admission.registry(registry).ok_or_else(Failure::no_such_path)?;
    let jwks = state.admission.jwks_json(registry).ok_or_else(Failure::no_such_path)?;
    let jwks: Value = serde_json::from_str(&jwks).map_err(|error| Failure::internal(error.to_string()))?;
    Ok(json!({ "drawbridge_audit": 1, "registry": registry.as_str(), "issuer": record.issuer, "jwks": jwks }))
}

fn heads_json(heads: &[AuditHead]) -> Value {
    heads
        .iter()
        .map(|head| {
            json!({ "writer": head.writer, "seq": head.seq, "hash": URL_SAFE_NO_PAD.encode(head.hash) })
        })
        .collect()
}

/// A row: `at` and `detail` for people, `at_ms` and `detail_text` as they are hashed.
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
        "at_ms": entry.at_ms,
        "detail_text": entry.detail,
        "prev": URL_SAFE_NO_PAD.encode(row.prev),
        "hash": URL_SAFE_NO_PAD.encode(row.hash),
    })
}
