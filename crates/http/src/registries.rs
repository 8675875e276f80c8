//! `/v1/registries`: the namespaces of this server.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::{FromRequestParts, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use drawbridge_admission::{IssuerKeyInfo, IssuerKeyState, NewRegistry, RegistryChange, Rotation};
use drawbridge_names::RegistryName;
use drawbridge_registry::{
    CertificateRegistration, ClockTrust, GoogleNames, IssuerAlgorithm, RegistryRecord, RegistrySettings,
    TokenFormat,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::HttpState;
use crate::body::{JsonBody, Object};
use crate::caller::{Admin, Root, Viewer};
use crate::config::BODY_BYTES_MAX;
use crate::edge::InRegistry;
use crate::failure::Failure;
use crate::principals::{given, path_part};
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
    google: Option<Object<GoogleBody>>,
    token_format: Option<TokenFormat>,
    clock: Option<ClockTrust>,
    issuer_algorithm: Option<IssuerAlgorithm>,
    bound_connections: Option<bool>,
    /// `null`: all that the listener allows.
    #[serde(default, deserialize_with = "given")]
    ways: Option<Option<BTreeSet<String>>>,
    /// `null`: nobody registers so.
    #[serde(default, deserialize_with = "given")]
    certificate_registration: Option<Option<Object<CertificateRegistration>>>,
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
        google: body
            .google
            .map(|Object(google)| GoogleNames { project: google.project, location: google.location }),
        settings: RegistrySettings {
            token_format: body.token_format.unwrap_or_default(),
            clock: body.clock.unwrap_or_default(),
            issuer_algorithm: body.issuer_algorithm.unwrap_or_default(),
            bound_connections: body.bound_connections.unwrap_or_default(),
            ways: body.ways.flatten(),
            certificate_registration: body.certificate_registration.flatten().map(|Object(rule)| rule),
        },
    };
    match state.admission.create_registry(new, caller.actor()).await? {
        (record, true) => Ok((StatusCode::CREATED, Json(registry_json(&record)))),
        (record, false) => Err(Failure::registry_exists(record.name.as_str())),
    }
}

/// `{name}` in the path.
pub(crate) struct NameInPath(String);

impl<S: Send + Sync> FromRequestParts<S> for NameInPath {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        path_part(parts, state, "name").await.map(Self)
    }
}

/// The registry of the path `/v1/registries/{name}`: the one under whose paths it is asked for.
fn own(registry: &RegistryName, name: &str) -> Result<(), Failure> {
    if registry.as_str() == name {
        return Ok(());
    }
    let name: String = name.chars().take(64).flat_map(char::escape_debug).collect();
    Err(Failure::not_found("registry under these paths", &name))
}

/// One registry.
pub(crate) async fn show(
    State(state): State<HttpState>,
    InRegistry(registry): InRegistry,
    NameInPath(name): NameInPath,
    _: Viewer,
) -> Result<Json<Value>, Failure> {
    own(&registry, &name)?;
    let record = state.admission.registry(&registry).ok_or_else(Failure::no_such_path)?;
    Ok(Json(registry_json(&record)))
}

/// Changes of a registry; what is left out stays.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChangeBody {
    clock_skew_s: Option<u32>,
    token_life_s: Option<u32>,
    token_format: Option<TokenFormat>,
    clock: Option<ClockTrust>,
    issuer_algorithm: Option<IssuerAlgorithm>,
    bound_connections: Option<bool>,
    /// `null`: all that the listener allows.
    #[serde(default, deserialize_with = "given")]
    ways: Option<Option<BTreeSet<String>>>,
    /// `null`: nobody registers so.
    #[serde(default, deserialize_with = "given")]
    certificate_registration: Option<Option<Object<CertificateRegistration>>>,
}

/// Changes what may be changed of a registry.
pub(crate) async fn change(
    State(state): State<HttpState>,
    InRegistry(registry): InRegistry,
    NameInPath(name): NameInPath,
    caller: Admin,
    JsonBody(body): JsonBody<BODY_BYTES_MAX, ChangeBody>,
) -> Result<Json<Value>, Failure> {
    own(&registry, &name)?;
    let record = state.admission.registry(&registry).ok_or_else(Failure::no_such_path)?;
    let before = &record.settings;
    let settings = RegistrySettings {
        token_format: body.token_format.unwrap_or(before.token_format),
        clock: body.clock.unwrap_or(before.clock),
        issuer_algorithm: body.issuer_algorithm.unwrap_or(before.issuer_algorithm),
        bound_connections: body.bound_connections.unwrap_or(before.bound_connections),
        ways: body.ways.unwrap_or_else(|| before.ways.clone()),
        certificate_registration: match body.certificate_registration {
            Some(rule) => rule.map(|Object(rule)| rule),
            None => before.certificate_registration.clone(),
        },
    };
    let change = RegistryChange {
        clock_skew_s: body.clock_skew_s,
        token_life_s: body.token_life_s,
        settings: Some(settings),
    };
    let record = state.admission.change_registry(&registry, change, caller.actor()).await?;
    Ok(Json(registry_json(&record)))
}

/// The published keys of the issuer and what each is for.
pub(crate) async fn issuer_keys(
    State(state): State<HttpState>,
    InRegistry(registry): InRegistry,
    NameInPath(name): NameInPath,
    _: Viewer,
) -> Result<Json<Value>, Failure> {
    own(&registry, &name)?;
    Ok(Json(issuer_keys_json(&state.admission.issuer_keys(&registry)?)))
}

/// How the issuer's key is to change.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RotationBody {
    when: When,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum When {
    Planned,
    Now,
}

/// Changes the issuer's key: `planned` publishes the next one, `now` is for a key that was stolen.
pub(crate) async fn rotate_issuer_key(
    State(state): State<HttpState>,
    InRegistry(registry): InRegistry,
    NameInPath(name): NameInPath,
    caller: Admin,
    JsonBody(body): JsonBody<BODY_BYTES_MAX, RotationBody>,
) -> Result<Json<Value>, Failure> {
    own(&registry, &name)?;
    let rotation = match body.when {
        When::Planned => Rotation::Planned,
        When::Now => Rotation::Now { drop_old: true },
    };
    let keys = state.admission.rotate_issuer_key(&registry, caller.actor(), rotation).await?;
    Ok(Json(issuer_keys_json(&keys)))
}

fn issuer_keys_json(keys: &[IssuerKeyInfo]) -> Value {
    let items = keys.iter().map(|key| {
        let jwk: Value = serde_json::from_str(&key.jwk).unwrap_or_default();
        let signs = key.state != IssuerKeyState::Old;
        json!({
            "kid": key.kid.as_str(),
            "state": key.state.as_str(),
            "alg": jwk["alg"],
            "signs_from": signs.then(|| wire_time::from_s(key.from_s)),
            "until": key.until_s.map(wire_time::from_s),
            "jwk": jwk,
        })
    });
    json!({ "items": items.collect::<Vec<_>>() })
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
        "token_format": record.settings.token_format,
        "clock": record.settings.clock,
        "issuer_algorithm": record.settings.issuer_algorithm,
        "bound_connections": record.settings.bound_connections,
        "ways": record.settings.ways,
        "certificate_registration": record.settings.certificate_registration,
        "created": wire_time::from_s(record.created_s),
    })
}
