//! `/v1/devices` and `/v1/applications`: the records of principals. Both collections work alike; which
//! one is meant comes as an extension of the route.

use std::collections::BTreeSet;

use axum::extract::{FromRequestParts, RawPathParams, State};
use axum::http::header::{ETAG, IF_MATCH, IF_NONE_MATCH, LOCATION};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use drawbridge_admission::{Actor, AdmissionError, NewApplication, NewDevice};
use drawbridge_identity::Verifier;
use drawbridge_names::{PolicyName, PrincipalKind, PrincipalName, RegistryName};
use drawbridge_registry::{CertificateSubject, ClockTrust, Known, PrincipalSettings, Role};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::HttpState;
use crate::body::{AnyBody, JsonBody, Object, Query, Texts, json as json_of};
use crate::caller::{Registrar, Viewer};
use crate::config::{BODY_BYTES_MAX, KEY_BODY_BYTES_MAX};
use crate::edge::InRegistry;
use crate::etag;
use crate::failure::Failure;
use crate::keys::{KeyBody, key_json, warning_json};
use crate::paging::{Page, cursor};
use crate::wire_time;

/// `{id}` in the path, as the name of a principal.
pub(crate) struct IdInPath(pub(crate) PrincipalName);

impl<S: Send + Sync> FromRequestParts<S> for IdInPath {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let text = path_part(parts, state, "id").await?;
        PrincipalName::parse(&text).map(Self).map_err(Failure::bad_name)
    }
}

/// The principal that the path names, for who may read it (`GET`) or change it. As an argument it guards a
/// handler.
pub(crate) struct At {
    pub(crate) registry: RegistryName,
    /// Of the collection in the path.
    pub(crate) kind: PrincipalKind,
    pub(crate) name: PrincipalName,
    /// Who asks, for the audit.
    pub(crate) actor: Actor,
}

impl FromRequestParts<HttpState> for At {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &HttpState) -> Result<Self, Failure> {
        let InRegistry(registry) = InRegistry::from_request_parts(parts, state).await?;
        let collection = parts.extensions.get::<PrincipalKind>().copied();
        let kind = collection.ok_or_else(|| Failure::internal("a collection without a kind"))?;
        let actor = if parts.method.is_safe() {
            Viewer::from_request_parts(parts, state).await?.actor().clone()
        } else {
            Registrar::from_request_parts(parts, state).await?.actor().clone()
        };
        let IdInPath(name) = IdInPath::from_request_parts(parts, state).await?;
        Ok(Self { registry, kind, name, actor })
    }
}

/// A part of the path, percent-decoded once.
pub(crate) async fn path_part<S: Send + Sync>(
    parts: &mut Parts,
    state: &S,
    name: &str,
) -> Result<String, Failure> {
    let params = RawPathParams::from_request_parts(parts, state)
        .await
        .map_err(|_| Failure::bad_request("the path is not UTF-8 when percent-decoded"))?;
    let found = params.iter().find(|(found, _)| *found == name).map(|(_, text)| text.to_owned());
    found.ok_or_else(Failure::no_such_path)
}

/// The principals of a kind, page by page.
pub(crate) async fn list(
    State(state): State<HttpState>,
    InRegistry(registry): InRegistry,
    Extension(kind): Extension<PrincipalKind>,
    _: Viewer,
    Query(query): Query,
) -> Result<Json<Value>, Failure> {
    let page = Page::from_query(&query)?;
    let found = state.admission.list(&registry, Some(kind), page.after.as_ref(), page.limit).await?;
    let last = found.last().filter(|_| found.len() == page.limit);
    let next = last.map(|known| cursor(&known.principal.name));
    let items: Vec<Value> = found.iter().map(|known| principal_json(known, state.now_s())).collect();
    Ok(Json(json!({ "items": items, "next_cursor": next })))
}

/// A principal to register.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PrincipalBody {
    /// In `POST`; in `PUT` the path says it.
    name: Option<String>,
    #[serde(default)]
    keys: Vec<Object<KeyBody>>,
    policy: Option<String>,
    assertion_profile: Option<Profile>,
    attributes: Option<Texts>,
    /// `null`: as the registry says.
    #[serde(default, deserialize_with = "given")]
    clock: Option<Option<ClockTrust>>,
    gateway: Option<bool>,
    roles: Option<BTreeSet<Role>>,
    /// `null`: none.
    #[serde(default, deserialize_with = "given")]
    certificate_subject: Option<Option<CertificateSubject>>,
    bound_tokens: Option<bool>,
    /// `null`: as the registry says.
    #[serde(default, deserialize_with = "given")]
    bound_connections: Option<Option<bool>>,
    /// `null`: all that listener and registry allow.
    #[serde(default, deserialize_with = "given")]
    ways: Option<Option<BTreeSet<String>>>,
}

/// Tells a member that is `null` from one that is not there.
pub(crate) fn given<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(
    value: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::<T>::deserialize(value).map(Some)
}

impl PrincipalBody {
    /// What is set of a principal, with what the body names laid over it.
    fn settings(&self, before: &PrincipalSettings) -> PrincipalSettings {
        PrincipalSettings {
            clock: self.clock.unwrap_or(before.clock),
            gateway: self.gateway.unwrap_or(before.gateway),
            roles: self.roles.clone().unwrap_or_else(|| before.roles.clone()),
            certificate_subject: self
                .certificate_subject
                .clone()
                .unwrap_or_else(|| before.certificate_subject.clone()),
            bound_tokens: self.bound_tokens.unwrap_or(before.bound_tokens),
            bound_connections: self.bound_connections.unwrap_or(before.bound_connections),
            ways: self.ways.clone().unwrap_or_else(|| before.ways.clone()),
        }
    }
}

/// Which assertions a device may log in with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Profile {
    Standard,
    Legacy,
}

/// `POST` on the collection.
pub(crate) async fn add(
    State(state): State<HttpState>,
    InRegistry(registry): InRegistry,
    Extension(kind): Extension<PrincipalKind>,
    caller: Registrar,
    JsonBody(body): JsonBody<KEY_BODY_BYTES_MAX, PrincipalBody>,
) -> Result<Response, Failure> {
    let text = body.name.clone().ok_or_else(|| Failure::bad_request("the member `name` is missing"))?;
    let name = PrincipalName::parse(&text).map_err(Failure::bad_name)?;
    create(&state, &registry, kind, name, body, caller.actor()).await
}

/// `PATCH` on one principal: changes those members that the body names, of one that is there.
pub(crate) async fn patch(
    State(state): State<HttpState>,
    At { registry, kind, name, actor }: At,
    headers: HeaderMap,
    JsonBody(body): JsonBody<KEY_BODY_BYTES_MAX, PrincipalBody>,
) -> Result<Response, Failure> {
    if body.name.is_some() || !body.keys.is_empty() {
        return Err(Failure::bad_request("a name stays, and keys have a path of their own; leave both out"));
    }
    let there = matching(&state, &registry, kind, &name, &headers).await?;
    change(&state, &registry, there, body, &actor).await?;
    Ok(shown(&state, StatusCode::OK, &found(&state, &registry, kind, &name).await?))
}

/// `PUT` on one principal: makes it, or changes those members of the one that is there that the body
/// names. Keys are not changed by it, they have paths of their own.
pub(crate) async fn put(
    State(state): State<HttpState>,
    At { registry, kind, name, actor }: At,
    headers: HeaderMap,
    JsonBody(body): JsonBody<KEY_BODY_BYTES_MAX, PrincipalBody>,
) -> Result<Response, Failure> {
    if body.name.as_deref().is_some_and(|text| text != name.as_str()) {
        return Err(Failure::bad_request("`name` in the body is not the one in the path; leave it out"));
    }
    if headers.get_all(IF_NONE_MATCH).iter().any(|value| value.as_bytes() != b"*") {
        return Err(Failure::bad_request(
            "`If-None-Match` is not understood; wanted `*`: only if there is none",
        ));
    }
    let Some(there) = state.admission.show(&registry, &name).await? else {
        if headers.contains_key(IF_MATCH) {
            return Err(Failure::precondition(format!(
                "`{name}` does not exist, so no revision of it matches"
            )));
        }
        return create(&state, &registry, kind, name, body, &actor).await;
    };
    if there.principal.kind != kind {
        return Err(AdmissionError::NameTaken { name, kind: there.principal.kind }.into());
    }
    if headers.contains_key(IF_NONE_MATCH) {
        return Err(Failure::precondition(format!("`{name}` exists already")));
    }
    matches_revision(&there, &headers)?;
    change(&state, &registry, there, body, &actor).await?;
    Ok(shown(&state, StatusCode::OK, &found(&state, &registry, kind, &name).await?))
}

async fn change(
    state: &HttpState,
    registry: &RegistryName,
    there: Known,
    body: PrincipalBody,
    actor: &Actor,
) -> Result<(), Failure> {
    let Known { principal, keys } = there;
    let name = &principal.name;
    for Object(key) in &body.keys {
        let key = key.parse()?;
        if !keys.iter().any(|known| known.kid.as_str() == key.public.thumbprint()) {
            // Somebody who meant to make a principal would otherwise take this one for it.
            return Err(AdmissionError::NameTaken { name: name.clone(), kind: principal.kind }.into());
        }
    }
    let admission = &state.admission;
    let mut revision = principal.revision;
    let settings = body.settings(&principal.settings);
    if settings != principal.settings {
        revision = admission.set_settings(registry, name, settings, Some(revision), actor).await?.revision;
    }
    if let Some(legacy) = body.assertion_profile.map(|profile| profile == Profile::Legacy)
        && legacy != principal.legacy_assertions
    {
        revision =
            admission.set_legacy_assertions(registry, name, legacy, Some(revision), actor).await?.revision;
    }
    if let Some(Texts(attributes)) = body.attributes
        && attributes != principal.attributes
    {
        admission.set_attributes(registry, name, attributes, Some(revision), actor).await?;
    }
    let policy = body.policy.as_deref().map(policy_name).transpose()?;
    if policy.is_some() && policy != principal.policy {
        admission.attach_policy(registry, name, policy, actor).await?;
    }
    Ok(())
}

async fn create(
    state: &HttpState,
    registry: &RegistryName,
    kind: PrincipalKind,
    name: PrincipalName,
    body: PrincipalBody,
    actor: &Actor,
) -> Result<Response, Failure> {
    let policy = body.policy.as_deref().map(policy_name).transpose()?;
    let keys = body.keys.iter().map(|Object(key)| key.parse()).collect::<Result<Vec<_>, _>>()?;
    let legacy_assertions = body.assertion_profile == Some(Profile::Legacy);
    let settings = body.settings(&PrincipalSettings::default());
    let Texts(attributes) = body.attributes.unwrap_or_default();
    let admission = &state.admission;
    let (collection, known) = match kind {
        PrincipalKind::Device => {
            let device = NewDevice { name, keys, policy, legacy_assertions, attributes };
            ("devices", admission.add_device_with(registry, device, settings, actor).await?)
        }
        PrincipalKind::Application if legacy_assertions || !attributes.is_empty() => {
            let detail = "an application has neither `attributes` nor legacy assertions; leave both out";
            return Err(Failure::bad_request(detail));
        }
        PrincipalKind::Application => {
            let application = NewApplication { name, keys, policy };
            ("applications", admission.add_application_with(registry, application, settings, actor).await?)
        }
    };
    let name = &known.principal.name;
    let mut response = shown(state, StatusCode::CREATED, &known);
    let record = state.admission.registry(registry).ok_or_else(Failure::no_such_path)?;
    // Of the characters of a name only this one means something else in a path.
    let name = name.as_str().replace('%', "%25");
    if let Ok(location) = HeaderValue::from_str(&format!("{}/v1/{collection}/{name}", record.issuer)) {
        response.headers_mut().insert(LOCATION, location);
    }
    Ok(response)
}

/// One principal.
pub(crate) async fn show(
    State(state): State<HttpState>,
    At { registry, kind, name, .. }: At,
) -> Result<Response, Failure> {
    let known = found(&state, &registry, kind, &name).await?;
    let mut body = principal_json(&known, state.now_s());
    let warnings = state.admission.key_warnings(&known).await?;
    body["warnings"] = warnings.iter().map(warning_json).collect();
    Ok((StatusCode::OK, [(ETAG, etag::write(known.principal.revision))], Json(body)).into_response())
}

/// Deletes a principal with its keys, and ends its sessions.
pub(crate) async fn remove(
    State(state): State<HttpState>,
    At { registry, kind, name, actor }: At,
    headers: HeaderMap,
) -> Result<StatusCode, Failure> {
    let known = matching(&state, &registry, kind, &name, &headers).await?;
    state.admission.delete(&registry, &name, &actor).await?;
    if kind == PrincipalKind::Device {
        // The device is gone; that its config is still retained is not worth an error.
        if let Err(error) = state.control.forget(&registry, &name, known.principal.uid).await {
            tracing::warn!(%registry, %name, "the retained config of a deleted device was not taken away: {error}");
        }
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Admits it nowhere any more and ends its sessions.
pub(crate) async fn block(
    State(state): State<HttpState>,
    At { registry, kind, name, actor }: At,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let revision = asked_revision(&state, &registry, kind, &name, &headers).await?;
    state.admission.block(&registry, &name, revision, &actor).await?;
    Ok(shown(&state, StatusCode::OK, &found(&state, &registry, kind, &name).await?))
}

/// Admits it again.
pub(crate) async fn unblock(
    State(state): State<HttpState>,
    At { registry, kind, name, actor }: At,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let revision = asked_revision(&state, &registry, kind, &name, &headers).await?;
    state.admission.unblock(&registry, &name, revision, &actor).await?;
    Ok(shown(&state, StatusCode::OK, &found(&state, &registry, kind, &name).await?))
}

/// Why, for the audit.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RevokeBody {
    #[serde(default)]
    reason: String,
}

/// Makes every token and session that it has dead. Whoever holds its key can sign anew.
pub(crate) async fn revoke(
    State(state): State<HttpState>,
    At { registry, kind, name, actor }: At,
    headers: HeaderMap,
    body: AnyBody<BODY_BYTES_MAX>,
) -> Result<Response, Failure> {
    let RevokeBody { reason } =
        if body.bytes.is_empty() { RevokeBody::default() } else { json_of(&body.bytes)? };
    let revision = asked_revision(&state, &registry, kind, &name, &headers).await?;
    let uid = found(&state, &registry, kind, &name).await?.principal.uid;
    // They end on threads of their own, after the answer.
    let sessions = state.admission.live_sessions(&registry, uid);
    state.admission.revoke(&registry, &name, &reason, revision, &actor).await?;
    let known = found(&state, &registry, kind, &name).await?;
    let mut body = principal_json(&known, state.now_s());
    body["sessions_closed"] = json!(sessions);
    Ok((StatusCode::OK, [(ETAG, etag::write(known.principal.revision))], Json(body)).into_response())
}

/// The principal, if it is of this kind.
pub(crate) async fn found(
    state: &HttpState,
    registry: &RegistryName,
    kind: PrincipalKind,
    name: &PrincipalName,
) -> Result<Known, Failure> {
    let known = state.admission.show(registry, name).await?;
    known
        .filter(|known| known.principal.kind == kind)
        .ok_or_else(|| Failure::not_found(kind.as_str(), name.as_str()))
}

/// The principal, if it is of this kind and of the revision in `If-Match`.
pub(crate) async fn matching(
    state: &HttpState,
    registry: &RegistryName,
    kind: PrincipalKind,
    name: &PrincipalName,
    headers: &HeaderMap,
) -> Result<Known, Failure> {
    let known = found(state, registry, kind, name).await?;
    matches_revision(&known, headers)?;
    Ok(known)
}

fn matches_revision(known: &Known, headers: &HeaderMap) -> Result<(), Failure> {
    match etag::expected(headers, IF_MATCH)? {
        Some(revision) if revision != known.principal.revision => {
            Err(AdmissionError::Stale { revision: known.principal.revision }.into())
        }
        _ => Ok(()),
    }
}

/// The revision in `If-Match`, which the store then compares, of a principal of this kind.
async fn asked_revision(
    state: &HttpState,
    registry: &RegistryName,
    kind: PrincipalKind,
    name: &PrincipalName,
    headers: &HeaderMap,
) -> Result<Option<u64>, Failure> {
    found(state, registry, kind, name).await?;
    etag::expected(headers, IF_MATCH)
}

pub(crate) fn policy_name(text: &str) -> Result<PolicyName, Failure> {
    PolicyName::parse(text).map_err(Failure::bad_name)
}

fn shown(state: &HttpState, status: StatusCode, known: &Known) -> Response {
    let body = principal_json(known, state.now_s());
    (status, [(ETAG, etag::write(known.principal.revision))], Json(body)).into_response()
}

/// `password`, `generated`, or nothing: what it could log in with besides its keys.
fn secret_kind(kept: Option<&[u8]>) -> Option<&'static str> {
    kept.and_then(Verifier::from_bytes).map(|kept| match kept {
        Verifier::Password(_) => "password",
        Verifier::Secret(_) => "generated",
    })
}

/// A principal as `/v1` shows it at this second.
pub(crate) fn principal_json(known: &Known, now_s: u64) -> Value {
    let principal = &known.principal;
    let keys: Vec<Value> = known.keys.iter().map(|key| key_json(key, now_s)).collect();
    json!({
        "name": principal.name.as_str(),
        "kind": principal.kind.as_str(),
        "uid": principal.uid.to_string(),
        "registry": principal.registry.as_str(),
        "blocked": principal.blocked,
        "pending": principal.pending,
        "enrolment": principal.enrolment,
        "epoch": principal.epoch.0,
        "policy": principal.policy.as_ref().map(PolicyName::as_str),
        "assertion_profile": if principal.legacy_assertions { "legacy" } else { "standard" },
        "attributes": principal.attributes,
        "clock": principal.settings.clock,
        "gateway": principal.settings.gateway,
        "roles": principal.settings.roles,
        "certificate_subject": principal.settings.certificate_subject,
        "bound_tokens": principal.settings.bound_tokens,
        "bound_connections": principal.settings.bound_connections,
        "ways": principal.settings.ways,
        "secret": secret_kind(principal.password.as_deref()),
        "created": wire_time::from_s(principal.created_s),
        "revision": principal.revision,
        "keys": keys,
    })
}
