//! `/v1/devices/{id}/password`, `.../secret` and the same of applications.

use axum::Json;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, ETAG};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use drawbridge_identity::Verifier;
use serde::Deserialize;
use serde_json::json;
use zeroize::Zeroizing;

use crate::HttpState;
use crate::body::JsonBody;
use crate::config::BODY_BYTES_MAX;
use crate::etag;
use crate::failure::Failure;
use crate::principals::{At, matching};

/// A password to be set.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PasswordBody {
    password: Zeroizing<String>,
}

/// Sets the password, in place of the password or secret that there was.
pub(crate) async fn set(
    State(state): State<HttpState>,
    At { registry, kind, name, actor }: At,
    headers: HeaderMap,
    JsonBody(body): JsonBody<BODY_BYTES_MAX, PasswordBody>,
) -> Result<Response, Failure> {
    let known = matching(&state, &registry, kind, &name, &headers).await?;
    let revision = Some(known.principal.revision);
    let set = state.admission.set_password(&registry, &name, Some(&body.password), revision, &actor);
    Ok((StatusCode::NO_CONTENT, [(ETAG, etag::write(set.await?.revision))]).into_response())
}

/// Takes the password away.
pub(crate) async fn remove(
    State(state): State<HttpState>,
    at: At,
    headers: HeaderMap,
) -> Result<StatusCode, Failure> {
    take_away(&state, at, &headers, "password of", |kept| matches!(kept, Verifier::Password(_))).await
}

/// Makes a new secret, in place of the password or secret that there was, and shows it this once.
pub(crate) async fn make(
    State(state): State<HttpState>,
    At { registry, kind, name, actor }: At,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let known = matching(&state, &registry, kind, &name, &headers).await?;
    let revision = Some(known.principal.revision);
    let (changed, secret) = state.admission.make_secret(&registry, &name, revision, &actor).await?;
    let headers =
        [(ETAG, etag::write(changed.revision)), (CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    let body = json!({ "client_id": name.as_str(), "client_secret": secret.as_str() });
    Ok((StatusCode::CREATED, headers, Json(body)).into_response())
}

/// Takes the secret away.
pub(crate) async fn remove_secret(
    State(state): State<HttpState>,
    at: At,
    headers: HeaderMap,
) -> Result<StatusCode, Failure> {
    take_away(&state, at, &headers, "secret of", |kept| matches!(kept, Verifier::Secret(_))).await
}

async fn take_away(
    state: &HttpState,
    At { registry, kind, name, actor }: At,
    headers: &HeaderMap,
    what: &str,
    is_it: impl Fn(&Verifier) -> bool,
) -> Result<StatusCode, Failure> {
    let known = matching(state, &registry, kind, &name, headers).await?;
    let kept = known.principal.password.as_deref().and_then(Verifier::from_bytes);
    if !kept.is_some_and(|kept| is_it(&kept)) {
        return Err(Failure::not_found(what, name.as_str()));
    }
    let revision = Some(known.principal.revision);
    state.admission.set_password(&registry, &name, None, revision, &actor).await?;
    Ok(StatusCode::NO_CONTENT)
}
