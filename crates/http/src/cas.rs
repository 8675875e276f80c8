//! `/v1/cas`: the certificate authorities of a registry.

use axum::Json;
use axum::extract::{FromRequestParts, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use drawbridge_admission::{AdmissionError, CaFacts, fingerprint_hex};
use drawbridge_registry::Ca;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::HttpState;
use crate::body::JsonBody;
use crate::caller::{Admin, Viewer};
use crate::config::KEY_BODY_BYTES_MAX;
use crate::edge::InRegistry;
use crate::failure::Failure;
use crate::principals::path_part;
use crate::wire_time;

/// A CA to register.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CaBody {
    /// PEM, or base64 of DER.
    certificate: String,
    label: Option<String>,
}

/// The CAs, in order of fingerprint.
pub(crate) async fn list(
    State(state): State<HttpState>,
    InRegistry(registry): InRegistry,
    _: Viewer,
) -> Result<Json<Value>, Failure> {
    let found = state.admission.cas(&registry).await?;
    let items: Vec<Value> = found.iter().map(|(ca, facts)| ca_json(ca, facts)).collect();
    Ok(Json(json!({ "items": items })))
}

/// Registers a CA: 201, or 200 when it is registered.
pub(crate) async fn add(
    State(state): State<HttpState>,
    InRegistry(registry): InRegistry,
    caller: Admin,
    JsonBody(body): JsonBody<KEY_BODY_BYTES_MAX, CaBody>,
) -> Result<(StatusCode, Json<Value>), Failure> {
    let der = certificate_der(&body.certificate).ok_or_else(|| {
        AdmissionError::Ca("it is neither one certificate in PEM nor base64 of its DER".to_owned())
    })?;
    let (ca, facts, new) = state.admission.add_ca(&registry, der, body.label, caller.actor()).await?;
    let status = if new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(ca_json(&ca, &facts))))
}

/// `{fingerprint}` in the path: SHA-256 of the certificate, 64 hex digits, with or without colons.
pub(crate) struct FingerprintInPath([u8; 32], String);

impl<S: Send + Sync> FromRequestParts<S> for FingerprintInPath {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let text = path_part(parts, state, "fingerprint").await?.replace(':', "").to_ascii_lowercase();
        let wanted = || Failure::bad_request("the fingerprint is not 64 hex digits of SHA-256");
        let pairs = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap_or_default());
        let bytes: Option<Vec<u8>> = pairs.map(|pair| u8::from_str_radix(pair, 16).ok()).collect();
        let digits = text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let bytes = bytes.filter(|_| digits && text.len() == 64).ok_or_else(wanted)?;
        Ok(Self(<[u8; 32]>::try_from(bytes).map_err(|_| wanted())?, text))
    }
}

/// Removes a CA.
pub(crate) async fn remove(
    State(state): State<HttpState>,
    InRegistry(registry): InRegistry,
    caller: Admin,
    FingerprintInPath(fingerprint, text): FingerprintInPath,
) -> Result<StatusCode, Failure> {
    if state.admission.remove_ca(&registry, &fingerprint, caller.actor()).await? {
        return Ok(StatusCode::NO_CONTENT);
    }
    Err(Failure::not_found("CA", &text))
}

/// The DER of one certificate in PEM or base64.
pub(crate) fn certificate_der(text: &str) -> Option<Vec<u8>> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let text = text.trim();
    let body = match text.strip_prefix(BEGIN) {
        Some(rest) => rest.strip_suffix(END)?,
        None => text,
    };
    let body: String = body.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    // A second block has dashes, which are no base64.
    STANDARD.decode(body).ok()
}

fn ca_json(ca: &Ca, facts: &CaFacts) -> Value {
    json!({
        "fingerprint": fingerprint_hex(&ca.fingerprint),
        "subject": facts.subject,
        "not_before": wire_time::from_s(facts.not_before_s),
        "not_after": wire_time::from_s(facts.not_after_s),
        "label": ca.label,
        "added": wire_time::from_s(ca.added_s),
    })
}
