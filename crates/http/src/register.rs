//! `/oauth/register`: a device registers itself, and looks at, or ends, its registration.
//!
//! Source: RFC 7591 and RFC 7592. What a device may say of itself is its name and its keys; all else an
//! operator or manufacturer says, so further metadata is ignored and the answer shows what is.

use axum::Json;
use axum::extract::State;
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use drawbridge_admission::{Permission, RegisterRequest};
use drawbridge_identity::{NoncePurpose, Refusal};
use drawbridge_jose::PublicKey;
use drawbridge_names::{PrincipalName, RegistryName};
use drawbridge_registry::{Key, KeyState, Known};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::HttpState;
use crate::body::{JsonBody, Object};
use crate::caller::{FromPeer, token};
use crate::config::KEY_BODY_BYTES_MAX;
use crate::edge::InRegistry;
use crate::failure::Failure;
use crate::principals::IdInPath;

/// Client metadata as far as it counts here. Unknown members are ignored (RFC 7591 section 2).
#[derive(Deserialize)]
pub(crate) struct Metadata {
    client_id: Option<String>,
    client_id_hint: Option<String>,
    jwks: Option<Object<Jwks>>,
    proof: Option<String>,
    proofs: Option<Vec<String>>,
    software_statement: Option<String>,
    jwks_uri: Option<serde::de::IgnoredAny>,
    redirect_uris: Option<serde::de::IgnoredAny>,
    registration_access_token: Option<serde::de::IgnoredAny>,
    registration_client_uri: Option<serde::de::IgnoredAny>,
    client_id_issued_at: Option<serde::de::IgnoredAny>,
    client_secret_expires_at: Option<serde::de::IgnoredAny>,
}

/// Each key as it was sent: `jose` refuses doubles and private members, which a parsed value would hide.
#[derive(Deserialize)]
struct Jwks {
    keys: Vec<Box<RawValue>>,
}

impl Metadata {
    /// What no device may say: this server fetches no URL, and a device has no user to send back.
    fn judge(&self) -> Result<(), Failure> {
        if self.jwks_uri.is_some() {
            return Err(Failure::client_metadata("`jwks_uri` is not taken: nothing is fetched; send `jwks`"));
        }
        if self.redirect_uris.is_some() {
            let mut failure =
                Failure::client_metadata("`redirect_uris` are not taken: a device has no user to send back");
            failure.oauth.1 = "invalid_redirect_uri";
            return Err(failure);
        }
        Ok(())
    }

    fn keys(&self) -> Vec<&str> {
        self.jwks.iter().flat_map(|Object(jwks)| jwks.keys.iter().map(|key| key.get())).collect()
    }
}

/// `POST /oauth/register`: 201, or 200 when this device was registered the same way before.
pub(crate) async fn register(
    State(state): State<HttpState>,
    InRegistry(registry): InRegistry,
    FromPeer(peer): FromPeer,
    headers: HeaderMap,
    JsonBody(metadata): JsonBody<KEY_BODY_BYTES_MAX, Metadata>,
) -> Result<Response, Failure> {
    let bearer = if headers.contains_key(AUTHORIZATION) { Some(token(&headers)?) } else { None };
    let permission = match (bearer, metadata.software_statement.as_deref()) {
        (Some(_), Some(_)) => {
            let detail =
                "an enrolment token and a software statement came together; send the one that counts";
            return Err(Failure::bad_request(detail));
        }
        (Some(token), None) => Permission::Token(token),
        (None, Some(statement)) => Permission::Statement(statement),
        (None, None) => return Err(told(&state, &registry, Refusal::NoCredential, false)),
    };
    metadata.judge()?;
    let proofs: Vec<&str> = match (&metadata.proof, &metadata.proofs) {
        (Some(_), Some(_)) => {
            return Err(Failure::client_metadata("`proof` and `proofs` came together; send one of them"));
        }
        (Some(proof), None) => vec![proof],
        (None, proofs) => proofs.iter().flatten().map(String::as_str).collect(),
    };
    let keys = metadata.keys();
    let request = RegisterRequest {
        permission,
        name: metadata.client_id_hint.as_deref(),
        keys: &keys,
        proofs: &proofs,
        peer,
    };
    let by_statement = matches!(permission, Permission::Statement(_));
    let registered = state.admission.register(&registry, request).await;
    let registered = registered.map_err(|refusal| told(&state, &registry, refusal, by_statement))?;
    let status = if registered.new { StatusCode::CREATED } else { StatusCode::OK };
    shown(&state, &registry, status, &registered.known, &registered.registration_token)
}

/// `GET /oauth/register/{id}`.
pub(crate) async fn show(
    State(state): State<HttpState>,
    InRegistry(registry): InRegistry,
    FromPeer(peer): FromPeer,
    IdInPath(name): IdInPath,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let (known, token) = registration(&state, &registry, &name, &headers, peer).await?;
    shown(&state, &registry, StatusCode::OK, &known, token)
}

/// `PUT /oauth/register/{id}`: nothing that counts can be changed here, so nothing is; the answer shows
/// what is (RFC 7592 section 2.2 lets the server replace what it was sent).
pub(crate) async fn replace(
    State(state): State<HttpState>,
    InRegistry(registry): InRegistry,
    FromPeer(peer): FromPeer,
    IdInPath(name): IdInPath,
    headers: HeaderMap,
    JsonBody(metadata): JsonBody<KEY_BODY_BYTES_MAX, Metadata>,
) -> Result<Response, Failure> {
    let (known, token) = registration(&state, &registry, &name, &headers, peer).await?;
    metadata.judge()?;
    if metadata.client_id.as_deref() != Some(name.as_str()) {
        return Err(Failure::client_metadata("`client_id` is missing, or not that of this registration"));
    }
    let forbidden = [
        metadata.registration_access_token.is_some(),
        metadata.registration_client_uri.is_some(),
        metadata.client_id_issued_at.is_some(),
        metadata.client_secret_expires_at.is_some(),
    ];
    if forbidden.contains(&true) || metadata.software_statement.is_some() {
        let detail = "the body repeats what the server has said, or a software statement; leave \
                      registration_access_token, registration_client_uri, client_id_issued_at, \
                      client_secret_expires_at and software_statement out";
        return Err(Failure::client_metadata(detail));
    }
    if metadata.jwks.is_some() && !same_keys(&metadata.keys(), &known) {
        let detail = "`jwks` are not the registered keys; a device replaces its key at /v1/self/keys, with a \
                      proof by the old one";
        return Err(Failure::client_metadata(detail));
    }
    shown(&state, &registry, StatusCode::OK, &known, token)
}

/// `DELETE /oauth/register/{id}`: the device takes itself out; its keys can never be registered again.
pub(crate) async fn remove(
    State(state): State<HttpState>,
    InRegistry(registry): InRegistry,
    FromPeer(peer): FromPeer,
    IdInPath(name): IdInPath,
    headers: HeaderMap,
) -> Result<StatusCode, Failure> {
    let token = token(&headers)?;
    let gone = state.admission.deregister(&registry, &name, token, peer).await;
    let principal = gone.map_err(|refusal| told(&state, &registry, refusal, false))?;
    forget(&state, &registry, &name, principal.uid).await;
    Ok(StatusCode::NO_CONTENT)
}

/// A device is gone; that its config is still retained is not worth an error.
pub(crate) async fn forget(
    state: &HttpState,
    registry: &RegistryName,
    name: &PrincipalName,
    uid: drawbridge_names::Uid,
) {
    if let Err(error) = state.control.forget(registry, name, uid).await {
        tracing::warn!(%registry, %name, "the retained config of a deleted device was not taken away: {error}");
    }
}

async fn registration<'h>(
    state: &HttpState,
    registry: &RegistryName,
    name: &PrincipalName,
    headers: &'h HeaderMap,
    peer: drawbridge_admission::Peer,
) -> Result<(Known, &'h str), Failure> {
    let refused = |refusal| told(state, registry, refusal, false);
    if !headers.contains_key(AUTHORIZATION) {
        return Err(refused(Refusal::NoCredential));
    }
    let token = token(headers)?;
    let known = state.admission.registration(registry, name, token, peer).await.map_err(refused)?;
    Ok((known, token))
}

fn active(known: &Known) -> impl Iterator<Item = &Key> {
    known.keys.iter().filter(|key| key.state == KeyState::Active)
}

fn same_keys(sent: &[&str], known: &Known) -> bool {
    let mut sent_kids: Vec<String> = Vec::new();
    for jwk in sent {
        let Ok(key) = PublicKey::from_jwk(jwk.as_bytes()) else { return false };
        sent_kids.push(key.thumbprint().to_owned());
    }
    let mut kids: Vec<String> = active(known).map(|key| key.kid.as_str().to_owned()).collect();
    sent_kids.sort();
    kids.sort();
    sent_kids == kids
}

/// The client information response.
///
/// Source: RFC 7591 section 3.2.1, RFC 7592 section 3. The keys are those that are active.
fn shown(
    state: &HttpState,
    registry: &RegistryName,
    status: StatusCode,
    known: &Known,
    registration_token: &str,
) -> Result<Response, Failure> {
    let record = state.admission.registry(registry).ok_or_else(Failure::no_such_path)?;
    let principal = &known.principal;
    let keys: Vec<Value> = active(known)
        .filter_map(|key| PublicKey::from_spki_der(&key.spki_der).ok())
        .filter_map(|key| serde_json::from_str(&key.to_jwk_json()).ok())
        .collect();
    let escaped = principal.name.as_str().replace('%', "%25");
    let body = json!({
        "client_id": principal.name.as_str(),
        "client_id_issued_at": principal.created_s,
        "jwks": { "keys": keys },
        "token_endpoint_auth_method": "private_key_jwt",
        "grant_types": ["client_credentials"],
        "response_types": [],
        "registration_access_token": registration_token,
        "registration_client_uri": format!("{}/oauth/register/{escaped}", record.issuer),
        "status": if principal.pending { "pending" } else { "active" },
        "registry": registry.as_str(),
        "issuer": record.issuer,
        "bridge_audience": record.bridge_audience,
    });
    let no_store = [(CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    Ok((status, no_store, Json(body)).into_response())
}

/// A refusal in the words of this endpoint: RFC 7591 section 3.2.2, RFC 6750 section 3.1 for the token.
fn told(state: &HttpState, registry: &RegistryName, refusal: Refusal, by_statement: bool) -> Failure {
    use Refusal as R;
    let oauth = match &refusal {
        R::NoCredential => Some((401, "invalid_token")),
        R::NotProven(_) if !by_statement => Some((401, "invalid_token")),
        R::NotProven(_) | R::JwsFormat(_) | R::Algorithm(_) | R::Header(_) | R::Type { .. }
            if by_statement =>
        {
            Some((400, "invalid_software_statement"))
        }
        R::NewKey(_) | R::Pop(_) | R::NonceWanted | R::NonceStale => Some((400, "invalid_client_metadata")),
        R::KeyInUse => Some((409, "invalid_client_metadata")),
        R::Blocked => Some((403, "unauthorized_client")),
        _ => None,
    };
    let nonce = matches!(refusal, R::NonceWanted | R::NonceStale)
        .then(|| state.admission.challenge(registry, NoncePurpose::Enrolment).ok())
        .flatten();
    let mut failure = Failure::from(refusal);
    if let Some((status, error)) = oauth {
        failure.oauth = (StatusCode::from_u16(status).expect("the table holds valid statuses"), error);
    }
    if let Some(challenge) = nonce {
        failure.nonce = Some(challenge.nonce);
    }
    failure
}
