//! `/v1/self`: what a principal may see of itself, how a device replaces and removes its own keys, and how it gives
//! its open MQTT sessions a new right.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use drawbridge_admission::{Authorized, Peer, RefreshedSession};
use drawbridge_identity::Refusal;
use drawbridge_names::{KeyId, MqttClientId, RegistryName};
use drawbridge_registry::Known;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::HttpState;
use crate::body::{self, AnyBody, JsonBody};
use crate::caller::{self, FromPeer, Own};
use crate::client_auth::FromTls;
use crate::config::{BODY_BYTES_MAX, JWT_BYTES_MAX, KEY_BODY_BYTES_MAX};
use crate::edge::InRegistry;
use crate::failure::Failure;
use crate::keys::{KidInPath, key_json};
use crate::principals::principal_json;
use crate::wire_time;

/// `GET /v1/self`.
pub(crate) async fn show(State(state): State<HttpState>, Own(caller): Own) -> Result<Json<Value>, Failure> {
    let known = record(&state, &caller).await?;
    Ok(Json(principal_json(&known, state.now_s())))
}

/// `GET /v1/self/keys`.
pub(crate) async fn keys(State(state): State<HttpState>, Own(caller): Own) -> Result<Json<Value>, Failure> {
    let known = record(&state, &caller).await?;
    let items: Vec<Value> = known.keys.iter().map(|key| key_json(key, state.now_s())).collect();
    Ok(Json(json!({ "items": items })))
}

async fn record(state: &HttpState, caller: &Authorized) -> Result<Known, Failure> {
    let known = state.admission.store().known_by_uid(&caller.registry, caller.uid).await?;
    let known = known.ok_or(Refusal::KeyGone)?;
    Ok(state.admission.with_last_used(known))
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

/// A key removal: the JWT that names the key.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RemoveBody {
    /// `key-remove+jwt` by an active key.
    remove: String,
}

/// `POST /v1/self/keys:remove`, for clients that cannot send a body with `DELETE`.
pub(crate) async fn remove_key(
    State(state): State<HttpState>,
    InRegistry(registry): InRegistry,
    FromPeer(peer): FromPeer,
    JsonBody(body): JsonBody<BODY_BYTES_MAX, RemoveBody>,
) -> Result<Json<Value>, Failure> {
    removed(&state, &registry, &body.remove, None, peer).await
}

/// `DELETE /v1/self/keys/{kid}`: the same; the JWT stands in the body, since a token alone changes nothing.
pub(crate) async fn delete_key(
    State(state): State<HttpState>,
    InRegistry(registry): InRegistry,
    FromPeer(peer): FromPeer,
    KidInPath(kid): KidInPath,
    JsonBody(body): JsonBody<BODY_BYTES_MAX, RemoveBody>,
) -> Result<Json<Value>, Failure> {
    removed(&state, &registry, &body.remove, Some(&kid), peer).await
}

async fn removed(
    state: &HttpState,
    registry: &RegistryName,
    jwt: &str,
    named: Option<&KeyId>,
    peer: Peer,
) -> Result<Json<Value>, Failure> {
    if jwt.len() > JWT_BYTES_MAX {
        return Err(Failure::bad_request(format!("the JWT is longer than {JWT_BYTES_MAX} bytes")));
    }
    let removed = state.admission.remove_own_key(registry, jwt, named, peer).await?;
    Ok(Json(json!({ "kid": removed.kid.as_str(), "status": "retired", "changed": removed.changed })))
}

/// Which sessions are to be renewed.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RefreshBody {
    /// That of this client id; all, if it is left out.
    client_id: Option<String>,
}

/// `POST /v1/self/sessions:refresh`, for short `/session/refresh`: the token in `Authorization` is the new right of the caller's open MQTT
/// sessions.
pub(crate) async fn refresh_sessions(
    State(state): State<HttpState>,
    InRegistry(registry): InRegistry,
    FromPeer(peer): FromPeer,
    FromTls(certificate): FromTls,
    uri: Uri,
    headers: HeaderMap,
    body: AnyBody<BODY_BYTES_MAX>,
) -> Result<Json<Value>, Failure> {
    // Of the issuer, never of `Host`; the path is the one within the registry.
    let url = format!("{}{}", state.issuer(&registry)?, uri.path());
    let (token, presentation) = caller::presented(&headers, &url, certificate.as_deref())?;
    let body: RefreshBody = match body.media_type.as_deref() {
        _ if body.bytes.is_empty() => RefreshBody::default(),
        Some("application/json") => body::json(&body.bytes)?,
        _ => return Err(Failure::media_type("application/json")),
    };
    let client_id = body.client_id.as_deref().map(MqttClientId::parse).transpose();
    let client_id =
        client_id.map_err(|_| Failure::bad_request("`client_id` is none that a client could have"))?;
    let refresh = state.admission.refresh_sessions(&registry, token, &presentation, client_id.as_ref(), peer);
    let sessions: Vec<Value> = refresh.await?.iter().map(session_json).collect();
    Ok(Json(json!({ "renewed": sessions.len(), "sessions": sessions })))
}

fn session_json(session: &RefreshedSession) -> Value {
    json!({
        "client_id": session.client_id.as_str(),
        "expires": session.ends_ms.map(|ends_ms| wire_time::from_s(ends_ms / 1000)),
        "removed": session.refreshed.removed.iter().map(|filter| filter.as_str()).collect::<Vec<_>>(),
        "will_dropped": session.refreshed.will_dropped,
    })
}
