//! `POST /oauth/challenge`: a nonce and the server's time, for whoever asks.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use drawbridge_identity::NoncePurpose;
use serde_json::json;

use crate::HttpState;
use crate::body::{AnyBody, Params, Texts};
use crate::caller::FromPeer;
use crate::config::BODY_BYTES_MAX;
use crate::edge::InRegistry;
use crate::failure::Failure;

const DPOP_NONCE: HeaderName = HeaderName::from_static("dpop-nonce");

/// Makes a nonce. Nothing is kept of it, and no credential is asked for. `purpose` in a form or a JSON
/// object: `assertion` (also for key updates and removals), `dpop` or `enrolment`.
pub(crate) async fn challenge(
    State(state): State<HttpState>,
    InRegistry(registry): InRegistry,
    FromPeer(peer): FromPeer,
    body: AnyBody<BODY_BYTES_MAX>,
) -> Result<Response, Failure> {
    state.admission.charge_question(peer)?;
    let params = match body.media_type.as_deref() {
        Some("application/json") if !body.bytes.is_empty() => {
            crate::body::json::<Texts>(&body.bytes).map(Params::from)?
        }
        _ if body.bytes.is_empty() => Params::default(),
        Some("application/x-www-form-urlencoded") => Params::parse(&body.bytes)?,
        _ => {
            let detail = "the body is neither a form nor JSON; leave it out, or name its Content-Type";
            return Err(Failure::bad_request(detail));
        }
    };
    let purpose = match params.get("purpose") {
        None | Some("assertion") => NoncePurpose::Assertion,
        Some("dpop") => NoncePurpose::Dpop,
        Some("enrolment") => NoncePurpose::Enrolment,
        Some(_) => {
            let detail = "`purpose` is not known; wanted assertion, dpop or enrolment";
            return Err(Failure::bad_request(detail));
        }
    };
    let challenge = state.admission.challenge(&registry, purpose)?;
    let answer = json!({
        "nonce": challenge.nonce,
        "server_time": challenge.server_time_s,
        "expires_in": challenge.expires_in_s,
    });
    let mut response =
        ([(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))], Json(answer)).into_response();
    if let (NoncePurpose::Dpop, Ok(nonce)) = (purpose, HeaderValue::from_str(&challenge.nonce)) {
        // Where RFC 9449 section 8 has it.
        response.headers_mut().insert(DPOP_NONCE, nonce);
    }
    Ok(response)
}
