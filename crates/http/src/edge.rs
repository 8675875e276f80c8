//! The outermost layer: the registry in the path, the request id, failures written out.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, HOST, TRANSFER_ENCODING};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use drawbridge_admission::Journal;
use drawbridge_identity::{NoncePurpose, Refusal};
use drawbridge_names::RegistryName;

use crate::HttpState;
use crate::ace::AceForm;
use crate::body::lingering;
use crate::dpop::DPOP_NONCE;
use crate::failure::{Dialect, Failure, write_out};
use crate::serve::Served;

/// So much of a path, and of a method, stands in the log at most.
const LOGGED_CHARS_MAX: usize = 128;
const METHOD_CHARS_MAX: usize = 16;

const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");

/// The registry that a request is for. In the extensions of every request that reaches a handler.
#[derive(Debug, Clone)]
pub(crate) struct InRegistry(pub(crate) RegistryName);

/// Around everything else.
pub(crate) async fn edge(
    State((state, journal)): State<(HttpState, Arc<Journal>)>,
    mut request: Request,
    next: Next,
) -> Response {
    let request_id = request_id(&state);
    let authorization =
        request.headers().get(AUTHORIZATION).map(|value| value.to_str().unwrap_or_default().to_owned());
    let ace = AceForm::of_answer(request.headers());
    let method = request.method().clone();
    let uri = request.uri().clone();
    let unambiguous = judge_framing(request.version(), request.headers());
    let served = request.extensions().get::<Served>().copied().unwrap_or(Served::ALL);
    let mut response = match unambiguous.and_then(|()| split_registry(uri.path())) {
        Ok((_, rest)) if !served.api && rest != "/mqtt" => Failure::no_such_path().into_response(),
        Ok((registry, rest)) => match lead(&state, &registry, &uri, rest) {
            Ok(rewritten) => {
                *request.uri_mut() = rewritten;
                request.extensions_mut().insert(InRegistry(registry));
                next.run(lingering(request)).await
            }
            Err(failure) => failure.into_response(),
        },
        Err(failure) => failure.into_response(),
    };
    let path = split_registry(uri.path()).map_or_else(|_| uri.path().to_owned(), |(_, rest)| rest);
    if let Some(mut failure) = response.extensions_mut().remove::<Failure>() {
        tell_time(&state, &uri, &mut failure);
        let dialect = Dialect::of(&path, ace);
        state.counts.refuse(failure.word);
        write_out(&mut response, &failure, dialect, authorization.as_deref(), &request_id);
        if failure.code == Refusal::DpopNonce.code() {
            give_nonce(&state, &uri, &mut response);
        }
        if journal.takes(state.admission.clock().instant(), failure.word) {
            log(&response, &failure, &request_id, &method, &path);
        }
    }
    state.counts.answered(response.status());
    if let Ok(value) = HeaderValue::from_str(&request_id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

/// A fresh nonce for the next DPoP proof.
///
/// Source: RFC 9449 sections 8 and 9.
fn give_nonce(state: &HttpState, uri: &Uri, response: &mut Response) {
    let registry = split_registry(uri.path()).map(|(registry, _)| registry);
    let nonce = registry.ok().and_then(|registry| state.admission.dpop_nonce(&registry));
    if let Some(value) = nonce.and_then(|nonce| HeaderValue::from_str(&nonce).ok()) {
        response.headers_mut().insert(DPOP_NONCE, value);
    }
}

/// Who was refused for the time is told it, and gets a nonce for a try that does not depend on it.
fn tell_time(state: &HttpState, uri: &Uri, failure: &mut Failure) {
    let (time, nonce) = failure.wants_time();
    if time {
        let now_s = failure.server_time_s.unwrap_or_else(|| state.now_s());
        failure.server_time_s = Some(now_s);
    }
    if nonce
        && failure.nonce.is_none()
        && let Ok((registry, _)) = split_registry(uri.path())
    {
        let challenge = state.admission.challenge(&registry, NoncePurpose::Assertion);
        failure.nonce = challenge.ok().map(|challenge| challenge.nonce);
    }
}

fn log(response: &Response, failure: &Failure, request_id: &str, method: &Method, path: &str) {
    let reason = failure.log.as_deref().unwrap_or(&failure.detail);
    let (status, code) = (response.status().as_u16(), failure.code);
    let path: String = path.chars().take(LOGGED_CHARS_MAX).collect();
    let method = method.as_str().get(..METHOD_CHARS_MAX).unwrap_or(method.as_str());
    if response.status().is_server_error() {
        tracing::error!(%request_id, %method, %path, status, code, reason, "https: request failed");
    } else {
        tracing::info!(%request_id, %method, %path, status, code, reason, "https: request refused");
    }
}

/// Refuses what a proxy in front could cut into other requests than we do, and closes the connection.
/// (A length that contradicts itself, or a header that is none, hyper refuses before.)
///
/// Source: RFC 9112 sections 3.2 (one `Host`) and 6.1 (`Transfer-Encoding`).
fn judge_framing(version: Version, headers: &HeaderMap) -> Result<(), Failure> {
    let hosts = headers.get_all(HOST).iter().count();
    if hosts > 1 || (hosts == 0 && version == Version::HTTP_11) {
        return Err(Failure::bad_request("`Host` must stand there once").closing());
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(Failure::bad_request("`Transfer-Encoding` is not `chunked`, said once").closing()),
    }
}

/// 128 random bits.
fn request_id(state: &HttpState) -> String {
    let mut bytes = [0; 16];
    state.random.fill(&mut bytes);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Takes `/r/NAME` out of a path: in front, or (RFC 8414 section 3.1) behind a well-known name.
fn split_registry(path: &str) -> Result<(RegistryName, String), Failure> {
    let name = |text: &str| RegistryName::parse(text).map_err(|_| Failure::no_such_path());
    if let Some(rest) = path.strip_prefix("/r/") {
        let (registry, rest) = rest.split_once('/').ok_or_else(Failure::no_such_path)?;
        return Ok((name(registry)?, format!("/{rest}")));
    }
    if let Some(rest) = path.strip_prefix("/.well-known/")
        && let Some((document, registry)) = rest.split_once("/r/")
    {
        return Ok((name(registry)?, format!("/.well-known/{document}")));
    }
    Ok((RegistryName::default_registry(), path.to_owned()))
}

/// The address within the registry, if there is such a registry.
fn lead(state: &HttpState, registry: &RegistryName, uri: &Uri, path: String) -> Result<Uri, Failure> {
    if path == uri.path() {
        return Ok(uri.clone());
    }
    // A second name for `default` would make two addresses of everything.
    if registry.as_str() == "default" || state.admission.registry(registry).is_none() {
        return Err(Failure::no_such_path());
    }
    let text = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    text.parse().map_err(|_| Failure::no_such_path())
}

/// Answers every path that the router does not know.
pub(crate) async fn no_such_path() -> Failure {
    Failure::no_such_path()
}

/// Answers every method that a path does not know; the router adds `Allow`.
pub(crate) async fn method_not_allowed() -> Failure {
    Failure::method_not_allowed()
}

/// The registry of a request, as an argument of a handler.
impl<S: Send + Sync> axum::extract::FromRequestParts<S> for InRegistry {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut axum::http::request::Parts, _: &S) -> Result<Self, Failure> {
        let found = parts.extensions.get::<Self>().cloned();
        found.ok_or_else(|| Failure::internal("a handler ran outside of the outermost layer"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(path: &str) -> Option<(String, String)> {
        split_registry(path).ok().map(|(registry, rest)| (registry.to_string(), rest))
    }

    #[test]
    fn the_registry_stands_in_front_or_behind_a_well_known_name() {
        let table = [
            ("/v1/devices", Some(("default", "/v1/devices"))),
            ("/r/plant/v1/devices", Some(("plant", "/v1/devices"))),
            ("/r/plant/", Some(("plant", "/"))),
            ("/r/plant", None),
            ("/r/Plant/x", None),
            ("/r//x", None),
            (
                "/.well-known/oauth-authorization-server/r/plant",
                Some(("plant", "/.well-known/oauth-authorization-server")),
            ),
            (
                "/r/plant/.well-known/openid-configuration",
                Some(("plant", "/.well-known/openid-configuration")),
            ),
            ("/.well-known/openid-configuration", Some(("default", "/.well-known/openid-configuration"))),
        ];
        for (path, expected) in table {
            let expected = expected.map(|(registry, rest)| (registry.to_owned(), rest.to_owned()));
            assert_eq!(split(path), expected, "{path}");
        }
    }
}
