//! The token endpoint in the words of RFC 9200: requests and answers as `application/ace+json` and
//! `application/ace+cbor`, tokens bound to keys for proofs in MQTT.

use axum::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse as _, Response};
use drawbridge_admission::{AceLogin, BindingRequest, ClientCertificate, LoginRequest, Peer};
use drawbridge_identity::ace::{AceAnswer, AceError, AceFault, AceRequest, RequestedProfile};
use drawbridge_names::RegistryName;

use crate::HttpState;
use crate::body::{Params, Texts};
use crate::client_auth;
use crate::dpop;
use crate::failure::Failure;
use crate::token::{TOKEN_EXCHANGE, target};

pub(crate) const ACE_JSON: &str = "application/ace+json";
pub(crate) const ACE_CBOR: &str = "application/ace+cbor";

/// The two media types of the framework.
///
/// Source: RFC 9200 section 8.16, RFC 9431 section 7.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AceForm {
    Json,
    Cbor,
}

impl AceForm {
    pub(crate) fn of(media_type: &str) -> Option<Self> {
        match media_type {
            ACE_JSON => Some(Self::Json),
            ACE_CBOR => Some(Self::Cbor),
            _ => None,
        }
    }

    /// The form of the answer: the one that `Accept` names, else that of the request. `None`: the request is none
    /// of these.
    pub(crate) fn of_answer(headers: &HeaderMap) -> Option<Self> {
        let media_type = |text: &str| {
            let name = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
            Self::of(&name)
        };
        let asked = media_type(headers.get(CONTENT_TYPE)?.to_str().ok()?)?;
        let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        Some(accepted.flat_map(|value| value.split(',')).find_map(media_type).unwrap_or(asked))
    }

    pub(crate) fn media_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Json => ACE_JSON,
            Self::Cbor => ACE_CBOR,
        })
    }
}

/// What a request brings beside its body.
pub(crate) struct Around<'a> {
    pub(crate) registry: &'a RegistryName,
    pub(crate) peer: Peer,
    pub(crate) certificate: Option<&'a ClientCertificate>,
    pub(crate) headers: &'a HeaderMap,
}

/// A request in one of the two forms.
///
/// Source: RFC 9200 section 5.8, RFC 9431 section 2.1.
pub(crate) async fn token(
    state: &HttpState,
    around: Around<'_>,
    form: AceForm,
    body: &[u8],
) -> Result<Response, Failure> {
    let read = match form {
        AceForm::Json => AceRequest::from_json(body),
        AceForm::Cbor => AceRequest::from_cbor(body),
    };
    let AceRequest { params, requested_key, profile, cnonce } = read.map_err(unreadable)?;
    let params = Params::from(Texts(params));
    if params.get("grant_type") != Some("client_credentials") {
        let mut failure = Failure::unsupported_grant_type();
        if params.get("grant_type") == Some(TOKEN_EXCHANGE) {
            failure.detail = "an exchange is asked for by a form (RFC 8693)".to_owned();
        }
        return Err(failure);
    }
    let credential = client_auth::credential(&params, around.headers, around.certificate)?;
    let resource = match (target(&params, "audience")?, target(&params, "resource")?) {
        (Some(audience), Some(resource)) if audience != resource => {
            return Err(Failure::bad_request("audience and resource name two services; send one of them"));
        }
        (audience, resource) => audience.or(resource),
    };
    let url = format!("{}/oauth/token", state.issuer(around.registry)?);
    let request = LoginRequest {
        credential: credential.get(),
        client_id: params.get("client_id"),
        scope: params.get("scope"),
        resource,
        binding: BindingRequest {
            dpop: dpop::of_request(around.headers, "POST", &url)?,
            certificate: around.certificate,
        },
        peer: around.peer,
    };
    let answer_form = AceForm::of_answer(around.headers).unwrap_or(form);
    let login = AceLogin {
        requested_key: requested_key.as_ref(),
        cnonce: cnonce.as_deref(),
        cwt: answer_form == AceForm::Cbor,
    };
    let granted = state.admission.ace_login(around.registry, request, login).await?;
    let answer = AceAnswer {
        access_token: granted.cwt.as_deref().unwrap_or(granted.grant.access_token.as_bytes()),
        expires_in_s: granted.grant.expires_in_s,
        scope: granted.grant.scope.as_deref(),
        with_profile: profile == Some(RequestedProfile::Unknown),
        symmetric: granted.symmetric.as_ref(),
        broker_key: granted.broker_key.as_ref(),
    };
    let body = match answer_form {
        AceForm::Json => answer.to_json().to_string().into_bytes(),
        AceForm::Cbor => answer.to_cbor().map_err(|fault| Failure::internal(fault.to_string()))?,
    };
    let headers =
        [(CACHE_CONTROL, HeaderValue::from_static("no-store")), (CONTENT_TYPE, answer_form.media_type())];
    Ok((headers, body).into_response())
}

/// Nobody has proven anything yet; what is told is of the request alone.
fn unreadable(fault: AceFault) -> Failure {
    drawbridge_identity::Refusal::from(fault).into()
}

/// The body of a failure in CBOR.
///
/// Source: RFC 9200 section 5.8.3.
pub(crate) fn error_body(failure: &Failure, description: &str) -> Vec<u8> {
    AceError { error: failure.oauth.1, description, code: failure.code }.to_cbor()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_has_the_form_that_is_accepted_or_that_of_the_request() {
        let found = |content: &str, accept: &[&str]| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_str(content).expect("a value"));
            for value in accept {
                headers.append(ACCEPT, HeaderValue::from_str(value).expect("a value"));
            }
            AceForm::of_answer(&headers)
        };
        for (content, accept, form) in [
            (ACE_JSON, &[][..], Some(AceForm::Json)),
            (ACE_CBOR, &[], Some(AceForm::Cbor)),
            ("Application/Ace+JSON; charset=utf-8", &[], Some(AceForm::Json)),
            (ACE_JSON, &[ACE_CBOR], Some(AceForm::Cbor)),
            (ACE_JSON, &["application/json;q=0.1, application/ace+cbor;q=1"], Some(AceForm::Cbor)),
            (ACE_CBOR, &["text/html", ACE_JSON], Some(AceForm::Json)),
            (ACE_CBOR, &["*/*"], Some(AceForm::Cbor)),
            ("application/x-www-form-urlencoded", &[ACE_CBOR], None),
        ] {
            assert_eq!(found(content, accept), form, "{content} {accept:?}");
        }
        assert_eq!(AceForm::of_answer(&HeaderMap::new()), None);
    }
}
