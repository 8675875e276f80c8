//! Discovery: `/.well-known/oauth-authorization-server` (RFC 8414) and
//! `/.well-known/openid-configuration`, both from one struct.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use drawbridge_admission::{ApiWord, IssuerKeyState};
use drawbridge_registry::RegistryRecord;
use serde::Serialize;
use serde_json::Value;

use crate::HttpState;
use crate::dpop::DPOP_ALGORITHMS;
use crate::edge::InRegistry;
use crate::failure::Failure;
use crate::token::TOKEN_EXCHANGE;

/// What clients sign their assertions with.
const CLIENT_ALGORITHMS: [&str; 6] = ["ES256", "ES384", "EdDSA", "Ed25519", "RS256", "PS256"];
/// How long metadata may be kept, in seconds.
const CACHE: &str = "public, max-age=300";

/// What the issuer says of itself. Every URL is the stored issuer and a path; nothing comes from the
/// `Host` header.
///
/// Source: RFC 8414 section 2, OpenID Connect Discovery 1.0 section 3.
#[derive(Debug, Serialize)]
pub(crate) struct Metadata {
    issuer: String,
    token_endpoint: String,
    /// Source: RFC 7662.
    introspection_endpoint: String,
    /// Source: RFC 7009.
    revocation_endpoint: String,
    /// Source: RFC 7591.
    registration_endpoint: String,
    jwks_uri: String,
    /// Required by RFC 8414; there is no authorization endpoint yet, so none.
    response_types_supported: [&'static str; 0],
    grant_types_supported: [&'static str; 2],
    token_endpoint_auth_methods_supported: Vec<&'static str>,
    token_endpoint_auth_signing_alg_values_supported: [&'static str; 6],
    introspection_endpoint_auth_methods_supported: Vec<&'static str>,
    introspection_endpoint_auth_signing_alg_values_supported: [&'static str; 6],
    /// Source: RFC 9701 section 7.
    introspection_signing_alg_values_supported: [String; 1],
    revocation_endpoint_auth_methods_supported: Vec<&'static str>,
    revocation_endpoint_auth_signing_alg_values_supported: [&'static str; 6],
    /// The words of tokens for the API; a token for the bridge has a grant instead.
    scopes_supported: Vec<&'static str>,
    /// Source: RFC 9449 section 5.1.
    dpop_signing_alg_values_supported: [&'static str; 6],
    /// Source: RFC 8705 section 3.3.
    tls_client_certificate_bound_access_tokens: bool,
    subject_types_supported: [&'static str; 1],
    /// Ours: the `aud` of tokens for the bridge, also of a device's own JWT in CONNECT.
    bridge_audience: String,
    /// Ours: the `resource` of tokens for `/v1`.
    api_audience: String,
    /// Ours: nonces for devices without a trusted clock.
    challenge_endpoint: String,
    /// Ours: the time, signed.
    time_endpoint: String,
    /// Ours: every path as an OpenAPI document. (`service_documentation` is for people.)
    api_description: String,
}

impl Metadata {
    /// `client_certificates`: whether clients are asked for one.
    /// `issuer_algorithm`: of the key that signs now.
    pub(crate) fn of(registry: &RegistryRecord, client_certificates: bool, issuer_algorithm: &str) -> Self {
        let issuer = &registry.issuer;
        let mut methods = vec!["private_key_jwt", "client_secret_basic", "client_secret_post"];
        if client_certificates {
            methods.extend(["tls_client_auth", "self_signed_tls_client_auth"]);
        }
        Self {
            issuer: issuer.clone(),
            token_endpoint: format!("{issuer}/oauth/token"),
            introspection_endpoint: format!("{issuer}/oauth/introspect"),
            revocation_endpoint: format!("{issuer}/oauth/revoke"),
            registration_endpoint: format!("{issuer}/oauth/register"),
            jwks_uri: format!("{issuer}/oauth/jwks"),
            response_types_supported: [],
            grant_types_supported: ["client_credentials", TOKEN_EXCHANGE],
            token_endpoint_auth_methods_supported: methods.clone(),
            token_endpoint_auth_signing_alg_values_supported: CLIENT_ALGORITHMS,
            introspection_endpoint_auth_methods_supported: methods.clone(),
            introspection_endpoint_auth_signing_alg_values_supported: CLIENT_ALGORITHMS,
            introspection_signing_alg_values_supported: [issuer_algorithm.to_owned()],
            revocation_endpoint_auth_methods_supported: methods,
            revocation_endpoint_auth_signing_alg_values_supported: CLIENT_ALGORITHMS,
            scopes_supported: ApiWord::ALL.iter().map(|word| word.as_str()).collect(),
            dpop_signing_alg_values_supported: DPOP_ALGORITHMS,
            tls_client_certificate_bound_access_tokens: client_certificates,
            subject_types_supported: ["public"],
            bridge_audience: registry.bridge_audience.clone(),
            api_audience: format!("{issuer}/v1"),
            challenge_endpoint: format!("{issuer}/oauth/challenge"),
            time_endpoint: format!("{issuer}/v1/time"),
            api_description: format!("{issuer}/openapi.json"),
        }
    }
}

/// Answers both documents.
pub(crate) async fn show(
    State(state): State<HttpState>,
    InRegistry(name): InRegistry,
) -> Result<Response, Failure> {
    let record = state.admission.registry(&name).ok_or_else(Failure::no_such_path)?;
    let keys = state.admission.issuer_keys(&name)?;
    let current = keys.iter().find(|key| key.state == IssuerKeyState::Current);
    let jwk = current.and_then(|key| serde_json::from_str::<Value>(&key.jwk).ok()).unwrap_or_default();
    let algorithm = jwk["alg"].as_str().unwrap_or_default();
    let metadata = Metadata::of(&record, state.config.client_certificates, algorithm);
    Ok(([(CACHE_CONTROL, HeaderValue::from_static(CACHE))], Json(metadata)).into_response())
}

/// `GET /oauth/jwks`: the issuer's public keys.
///
/// Source: RFC 7517 section 8.5.1 (the media type).
pub(crate) async fn jwks(
    State(state): State<HttpState>,
    InRegistry(name): InRegistry,
) -> Result<Response, Failure> {
    let jwks = state.admission.jwks_json(&name).ok_or_else(Failure::no_such_path)?;
    let age = format!("public, max-age={}", state.admission.jwks_age_s_max());
    let headers = [(CACHE_CONTROL, age), (CONTENT_TYPE, "application/jwk-set+json".to_owned())];
    Ok((headers, jwks).into_response())
}
