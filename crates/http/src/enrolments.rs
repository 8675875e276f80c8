//! `/v1/enrolments`: who may register itself; and what an operator does with those who have.

use axum::Json;
use axum::extract::{FromRequestParts, State};
use axum::http::header::{CACHE_CONTROL, IF_MATCH};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use drawbridge_admission::NewEnrolment;
use drawbridge_names::{PolicyName, PrincipalName, RegistryName};
use drawbridge_registry::{Enrolment, EnrolmentNames, Known};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::HttpState;
use crate::body::{JsonBody, Query};
use crate::caller::{Operator, Viewer};
use crate::config::KEY_BODY_BYTES_MAX;
use crate::edge::InRegistry;
use crate::etag;
use crate::failure::Failure;
use crate::paging::{Page, cursor};
use crate::principals::{IdInPath, path_part, policy_name};
use crate::register::forget;
use crate::wire_time;

/// In place of an enrolment's id: any.
const ANY: &str = "-";

/// An enrolment to make: exactly one of `ids`, `id_pattern` and `key_thumbprints`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EnrolmentBody {
    ids: Option<Vec<String>>,
    id_pattern: Option<String>,
    key_thumbprints: Option<Vec<String>>,
    #[serde(default)]
    any: bool,
    count: Option<u32>,
    /// RFC 3339; or `life_s`, seconds from now.
    expires: Option<String>,
    life_s: Option<u32>,
    policy: Option<String>,
    #[serde(default)]
    auto: bool,
    label: Option<String>,
}

/// Makes an enrolment; its token is in this answer and nowhere else.
pub(crate) async fn add(
    State(state): State<HttpState>,
    InRegistry(registry): InRegistry,
    caller: Operator,
    JsonBody(body): JsonBody<KEY_BODY_BYTES_MAX, EnrolmentBody>,
) -> Result<Response, Failure> {
    let names = match (body.ids, body.id_pattern, body.key_thumbprints) {
        (Some(ids), None, None) => EnrolmentNames::Ids(ids),
        (None, Some(pattern), None) => EnrolmentNames::Pattern(pattern),
        (None, None, Some(kids)) => EnrolmentNames::Keys(kids),
        _ => {
            let detail = "an enrolment is for exactly one of `ids`, `id_pattern` and `key_thumbprints`";
            return Err(Failure::bad_request(detail));
        }
    };
    let time = |text: &String| {
        wire_time::to_s(text).ok_or_else(|| {
            Failure::bad_request("`expires` is no RFC 3339 time, such as 2026-12-01T00:00:00Z")
        })
    };
    let expires_s = match (&body.expires, body.life_s) {
        (Some(_), Some(_)) => {
            return Err(Failure::bad_request("`expires` and `life_s` say the same; send one of them"));
        }
        (Some(text), None) => Some(time(text)?),
        (None, life_s) => life_s.map(|life_s| wire_now(&state).saturating_add(life_s.into())),
    };
    let new = NewEnrolment {
        any: body.any,
        count: body.count,
        expires_s,
        policy: body.policy.as_deref().map(policy_name).transpose()?,
        auto: body.auto,
        label: body.label,
        ..NewEnrolment::of(names)
    };
    let (enrolment, token) = state.admission.create_enrolment(&registry, new, caller.actor()).await?;
    let mut shown = enrolment_json(&enrolment, wire_now(&state));
    shown["token"] = json!(token.as_str());
    let no_store = [(CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    Ok((StatusCode::CREATED, no_store, Json(shown)).into_response())
}

/// All enrolments, newest first.
pub(crate) async fn list(
    State(state): State<HttpState>,
    InRegistry(registry): InRegistry,
    _: Viewer,
) -> Result<Json<Value>, Failure> {
    let now_s = wire_now(&state);
    let found = state.admission.enrolments(&registry).await?;
    let items: Vec<Value> = found.iter().map(|enrolment| enrolment_json(enrolment, now_s)).collect();
    Ok(Json(json!({ "items": items })))
}

/// `{id}` in the path, as the id of an enrolment.
pub(crate) struct EnrolmentInPath(String);

impl<S: Send + Sync> FromRequestParts<S> for EnrolmentInPath {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        path_part(parts, state, "id").await.map(Self)
    }
}

/// One enrolment.
pub(crate) async fn show(
    State(state): State<HttpState>,
    InRegistry(registry): InRegistry,
    _: Viewer,
    EnrolmentInPath(id): EnrolmentInPath,
) -> Result<Json<Value>, Failure> {
    let enrolment = state.admission.enrolment(&registry, &id).await?;
    Ok(Json(enrolment_json(&enrolment, wire_now(&state))))
}

/// Ends it: the token is good no more, what came by it stays.
pub(crate) async fn end(
    State(state): State<HttpState>,
    InRegistry(registry): InRegistry,
    caller: Operator,
    EnrolmentInPath(id): EnrolmentInPath,
) -> Result<StatusCode, Failure> {
    state.admission.end_enrolment(&registry, &id, caller.actor()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The devices that came by it (`-`: by any), page by page; `pending=true`: those that wait.
pub(crate) async fn devices(
    State(state): State<HttpState>,
    InRegistry(registry): InRegistry,
    _: Viewer,
    EnrolmentInPath(id): EnrolmentInPath,
    Query(query): Query,
) -> Result<Json<Value>, Failure> {
    let page = Page::from_query(&query)?;
    let pending = match query.get("pending") {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err(Failure::bad_request("`pending` is `true` or `false`")),
    };
    let id = if id == ANY { None } else { Some(state.admission.enrolment(&registry, &id).await?.id) };
    let found =
        state.admission.enrolled(&registry, id.as_deref(), pending, page.after.as_ref(), page.limit).await?;
    let last = found.last().filter(|_| found.len() == page.limit);
    let next = last.map(|known| cursor(&known.principal.name));
    let items: Vec<Value> = found.iter().map(enrolled_json).collect();
    Ok(Json(json!({ "items": items, "next_cursor": next })))
}

/// Admits those that wait, as many as one call does.
pub(crate) async fn approve_all(
    State(state): State<HttpState>,
    InRegistry(registry): InRegistry,
    caller: Operator,
    EnrolmentInPath(id): EnrolmentInPath,
) -> Result<Json<Value>, Failure> {
    let (approved, more) = state.admission.approve_all(&registry, &id, caller.actor()).await?;
    Ok(Json(json!({ "approved": approved, "more": more })))
}

/// `POST /v1/devices/{id}/approve`: admits a device that has registered itself.
pub(crate) async fn approve(
    State(state): State<HttpState>,
    InRegistry(registry): InRegistry,
    caller: Operator,
    IdInPath(name): IdInPath,
    headers: HeaderMap,
) -> Result<Json<Value>, Failure> {
    let revision = etag::expected(&headers, IF_MATCH)?;
    state.admission.approve(&registry, &name, revision, caller.actor()).await?;
    let known = device(&state, &registry, &name).await?;
    Ok(Json(enrolled_json(&known)))
}

/// `POST /v1/devices/{id}/reject`: sends a waiting device away for good.
pub(crate) async fn reject(
    State(state): State<HttpState>,
    InRegistry(registry): InRegistry,
    caller: Operator,
    IdInPath(name): IdInPath,
) -> Result<StatusCode, Failure> {
    let principal = state.admission.reject(&registry, &name, caller.actor()).await?;
    forget(&state, &registry, &name, principal.uid).await;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /v1/devices/{id}/undo-enrolment`: takes back its claim.
pub(crate) async fn undo(
    State(state): State<HttpState>,
    InRegistry(registry): InRegistry,
    caller: Operator,
    IdInPath(name): IdInPath,
) -> Result<StatusCode, Failure> {
    let principal = state.admission.undo_enrolment(&registry, &name, caller.actor()).await?;
    forget(&state, &registry, &name, principal.uid).await;
    Ok(StatusCode::NO_CONTENT)
}

async fn device(state: &HttpState, registry: &RegistryName, name: &PrincipalName) -> Result<Known, Failure> {
    let known = state.admission.show(registry, name).await?;
    known.ok_or_else(|| Failure::not_found("device", name.as_str()))
}

fn wire_now(state: &HttpState) -> u64 {
    state.admission.clock().now_ms() / 1000
}

/// An enrolment as `/v1` shows it, never with its token.
fn enrolment_json(enrolment: &Enrolment, now_s: u64) -> Value {
    let state = if enrolment.ended {
        "ended"
    } else if enrolment.expires_s <= now_s {
        "expired"
    } else if enrolment.claims >= enrolment.claims_max {
        "used"
    } else {
        "open"
    };
    let mut shown = json!({
        "id": enrolment.id,
        "state": state,
        "label": enrolment.label,
        "count": enrolment.claims_max,
        "claims": enrolment.claims,
        "policy": enrolment.policy.as_ref().map(PolicyName::as_str),
        "auto": enrolment.auto,
        "expires": wire_time::from_s(enrolment.expires_s),
        "created": wire_time::from_s(enrolment.created_s),
    });
    let (member, value) = match &enrolment.names {
        EnrolmentNames::Ids(ids) => ("ids", json!(ids)),
        EnrolmentNames::Pattern(pattern) => ("id_pattern", json!(pattern)),
        EnrolmentNames::Keys(kids) => ("key_thumbprints", json!(kids)),
    };
    shown[member] = value;
    shown
}

fn enrolled_json(known: &Known) -> Value {
    let principal = &known.principal;
    json!({
        "name": principal.name.as_str(),
        "state": if principal.pending { "pending" } else if principal.blocked { "blocked" } else { "active" },
        "enrolment": principal.enrolment,
        "policy": principal.policy.as_ref().map(PolicyName::as_str),
        "kids": known.keys.iter().map(|key| key.kid.as_str()).collect::<Vec<_>>(),
        "created": wire_time::from_s(principal.created_s),
    })
}
