//! `/v1/policies` and `PUT /v1/principals/{name}/policy`.

use axum::Json;
use axum::extract::{FromRequestParts, State};
use axum::http::header::ETAG;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use drawbridge_admission::AdmissionError;
use drawbridge_names::PolicyName;
use drawbridge_registry::PolicyRecord;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::HttpState;
use crate::body::{AnyBody, JsonBody, json as json_of};
use crate::caller::{Admin, Operator, Viewer, role_over};
use crate::config::{BODY_BYTES_MAX, PAYLOAD_BODY_BYTES_MAX};
use crate::edge::InRegistry;
use crate::etag;
use crate::failure::Failure;
use crate::principals::{IdInPath, path_part, policy_name};
use crate::wire_time;

/// `{id}` in the path, as the name of a policy.
pub(crate) struct PolicyInPath(PolicyName);

impl<S: Send + Sync> FromRequestParts<S> for PolicyInPath {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        policy_name(&path_part(parts, state, "id").await?).map(Self)
    }
}

/// All policies, without their texts.
pub(crate) async fn list(
    State(state): State<HttpState>,
    InRegistry(registry): InRegistry,
    _: Viewer,
) -> Result<Json<Value>, Failure> {
    let policies = state.admission.policies(&registry).await?;
    let items: Vec<Value> = policies
        .iter()
        .map(|policy| {
            json!({
                "name": policy.name.as_str(),
                "revision": policy.revision,
                "updated": wire_time::from_s(policy.updated_s),
            })
        })
        .collect();
    Ok(Json(json!({ "items": items })))
}

/// One policy as its operator wrote it; as `text/toml` for who asks for that.
pub(crate) async fn show(
    State(state): State<HttpState>,
    InRegistry(registry): InRegistry,
    _: Viewer,
    PolicyInPath(name): PolicyInPath,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let found = state.admission.policy(&registry, &name).await?;
    let policy = found.ok_or_else(|| Failure::not_found("policy", name.as_str()))?;
    let wants_toml = headers
        .get(axum::http::header::ACCEPT)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|accept| accept.contains("text/toml") || accept.contains("application/toml"));
    let tag = [(ETAG, etag::write(policy.revision))];
    if wants_toml {
        let kind = [(axum::http::header::CONTENT_TYPE, "text/toml; charset=utf-8")];
        return Ok((tag, kind, policy.source).into_response());
    }
    Ok((tag, Json(policy_json(&policy))).into_response())
}

/// A policy as JSON.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyBody {
    source: String,
}

/// Sets a policy: its text as `text/toml`, or in `source` of a JSON object. All its faults are told
/// at once, and then nothing has changed.
pub(crate) async fn set(
    State(state): State<HttpState>,
    InRegistry(registry): InRegistry,
    caller: Admin,
    PolicyInPath(name): PolicyInPath,
    body: AnyBody<PAYLOAD_BODY_BYTES_MAX>,
) -> Result<Response, Failure> {
    let source = match body.media_type.as_deref() {
        Some("application/json") => json_of::<PolicyBody>(&body.bytes)?.source,
        Some("text/toml" | "application/toml") => String::from_utf8(body.bytes.to_vec())
            .map_err(|_| Failure::bad_request("the policy is not UTF-8 text; save it as such"))?,
        _ => return Err(Failure::media_type("text/toml, or application/json with the member `source`")),
    };
    let revision = state.admission.set_policy(&registry, &name, &source, caller.actor()).await?;
    let status = if revision == 1 { StatusCode::CREATED } else { StatusCode::OK };
    let answer = json!({ "name": name.as_str(), "revision": revision });
    Ok((status, [(ETAG, etag::write(revision))], Json(answer)).into_response())
}

/// Which policy a principal is to have; `null` for none.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AttachBody {
    #[serde(deserialize_with = "Option::deserialize")]
    policy: Option<String>,
}

/// Attaches a policy to a principal: of a device an operator may, of an application an admin.
pub(crate) async fn attach(
    State(state): State<HttpState>,
    InRegistry(registry): InRegistry,
    caller: Operator,
    IdInPath(principal): IdInPath,
    JsonBody(body): JsonBody<BODY_BYTES_MAX, AttachBody>,
) -> Result<Json<Value>, Failure> {
    let Some(known) = state.admission.show(&registry, &principal).await? else {
        return Err(AdmissionError::NoPrincipal(principal).into());
    };
    caller.must_be(role_over(known.principal.kind))?;
    let policy = body.policy.as_deref().map(policy_name).transpose()?;
    let changed = state.admission.attach_policy(&registry, &principal, policy, caller.actor()).await?;
    Ok(Json(json!({
        "name": changed.name.as_str(),
        "policy": changed.policy.as_ref().map(PolicyName::as_str),
    })))
}

fn policy_json(policy: &PolicyRecord) -> Value {
    json!({
        "name": policy.name.as_str(),
        "revision": policy.revision,
        "updated": wire_time::from_s(policy.updated_s),
        "source": policy.source,
    })
}
