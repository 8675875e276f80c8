//! `/v1/devices/{id}/keys` and the same of applications: the operator's view of keys.

use axum::Json;
use axum::extract::State;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use drawbridge_identity::Refusal;
use drawbridge_jose::{Algorithm, KeyError, PublicKey};
use drawbridge_names::KeyId;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::HttpState;
use crate::body::JsonBody;
use crate::config::KEY_BODY_BYTES_MAX;
use crate::failure::Failure;
use crate::principals::{At, found, key_json, matching, path_part};

/// A key to register: exactly one of `jwk`, `pem` and `certificate`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyBody {
    /// Kept as it was sent: `jose` refuses doubles and private members, which a parsed value would hide.
    jwk: Option<Box<RawValue>>,
    /// A `PUBLIC KEY`, also without line ends.
    pem: Option<String>,
    /// An X.509 certificate in PEM; only its key is taken.
    certificate: Option<String>,
    /// `PS256` for an RSA key that is to sign with it.
    alg: Option<String>,
    label: Option<String>,
}

impl KeyBody {
    /// The key and its label. No fault repeats any part of the key: it may be a private one.
    pub(crate) fn parse(&self) -> Result<(PublicKey, Option<String>), Failure> {
        let fault = |error: KeyError| Failure::from(Refusal::NewKey(error.to_string()));
        let public = match (&self.jwk, &self.pem, &self.certificate) {
            (Some(jwk), None, None) => PublicKey::from_jwk(jwk.get().as_bytes()).map_err(fault)?,
            (None, Some(pem), None) => PublicKey::from_spki_pem(pem).map_err(fault)?,
            (None, None, Some(pem)) => PublicKey::from_pem(pem).map_err(fault)?,
            _ => return Err(Failure::bad_request("a key is exactly one of `jwk`, `pem` and `certificate`")),
        };
        let public = match &self.alg {
            None => public,
            Some(alg) => {
                let algorithm = Algorithm::from_header(alg).ok_or_else(|| fault(KeyError::Algorithm))?;
                PublicKey::from_spki_der_with(public.spki_der(), algorithm).map_err(fault)?
            }
        };
        Ok((public, self.label.clone()))
    }
}

/// The keys of a principal, retired ones included.
pub(crate) async fn list(
    State(state): State<HttpState>,
    At { registry, kind, name, .. }: At,
) -> Result<Json<Value>, Failure> {
    let known = found(&state, &registry, kind, &name).await?;
    let items: Vec<Value> = known.keys.iter().map(key_json).collect();
    Ok(Json(json!({ "items": items })))
}

/// Registers a further key: 201, or 200 when the principal has it already.
pub(crate) async fn add(
    State(state): State<HttpState>,
    At { registry, kind, name, actor }: At,
    headers: HeaderMap,
    JsonBody(body): JsonBody<KEY_BODY_BYTES_MAX, KeyBody>,
) -> Result<(StatusCode, Json<Value>), Failure> {
    matching(&state, &registry, kind, &name, &headers).await?;
    let (public, label) = body.parse()?;
    let (key, new) = state.admission.add_key(&registry, &name, &public, label, &actor).await?;
    let status = if new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(key_json(&key))))
}

/// `{kid}` in the path.
pub(crate) struct KidInPath(KeyId);

impl<S: Send + Sync> axum::extract::FromRequestParts<S> for KidInPath {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let text = path_part(parts, state, "kid").await?;
        KeyId::parse(&text).map(Self).map_err(Failure::bad_name)
    }
}

/// Retires a key and ends what it opened.
pub(crate) async fn remove(
    State(state): State<HttpState>,
    At { registry, kind, name, actor }: At,
    KidInPath(kid): KidInPath,
    headers: HeaderMap,
) -> Result<StatusCode, Failure> {
    matching(&state, &registry, kind, &name, &headers).await?;
    state.admission.remove_key(&registry, &name, &kid, false, &actor).await?;
    Ok(StatusCode::NO_CONTENT)
}
