//! What a request is refused for, and how each of the three dialects tells it: one place for all.
//!
//! `/oauth` speaks the flat error of RFC 6749 section 5.2, `/v1` (and all that is nowhere else)
//! problem details of RFC 9457, the aliases the nested envelope of the IoT IdP.

use std::ops::{Deref, DerefMut};

use axum::body::Body;
use axum::http::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, SEC_WEBSOCKET_VERSION, UPGRADE,
    WWW_AUTHENTICATE,
};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use drawbridge_admission::AdmissionError;
use drawbridge_control::ControlError;
use drawbridge_identity::Refusal;
use drawbridge_identity::ace::AceFault;
use drawbridge_names::{NameError, PrincipalName};
use drawbridge_policy::{Decision, PolicyError};
use drawbridge_registry::StoreError;
use serde_json::{Map, Value, json};

use crate::ace::{self, AceForm};
use crate::dpop::DPOP_ALGORITHMS;

/// The one text for all that is found before a good signature.
pub(crate) const NOT_PROVEN: &str = "the credential is not accepted";

/// A refusal of a request. Handlers answer it as an error; the outermost layer writes it out.
#[derive(Debug, Clone)]
pub(crate) struct Failure(Box<Told>);

/// What a [`Failure`] says.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    /// Stable, `DB-nnnn`.
    pub(crate) code: &'static str,
    /// Stable, the tail of `urn:drawbridge:error:<word>`.
    pub(crate) word: &'static str,
    /// For the peer.
    pub(crate) detail: String,
    /// For the log, when it says more than `detail`.
    pub(crate) log: Option<String>,
    /// The status in `/v1`.
    pub(crate) status: StatusCode,
    /// The status and `error` of RFC 6749.
    pub(crate) oauth: (StatusCode, &'static str),
    /// The status on the IoT IdP aliases.
    pub(crate) alias: StatusCode,
    /// The server's time, for who has a wrong clock.
    pub(crate) server_time_s: Option<u64>,
    /// A nonce for the next try.
    pub(crate) nonce: Option<String>,
    /// Try again after so many seconds.
    pub(crate) retry_after_s: Option<u64>,
    /// Members of a problem document beyond the usual.
    pub(crate) members: Vec<(&'static str, Value)>,
    /// Close the connection: the request was not read to its end.
    pub(crate) close: bool,
}

impl Failure {
    fn new(status: StatusCode, code: &'static str, word: &'static str, detail: impl Into<String>) -> Self {
        Self(Box::new(Told {
            code,
            word,
            detail: detail.into(),
            log: None,
            status,
            oauth: (StatusCode::BAD_REQUEST, "invalid_request"),
            alias: StatusCode::BAD_REQUEST,
            server_time_s: None,
            nonce: None,
            retry_after_s: None,
            members: Vec::new(),
            close: false,
        }))
    }

    pub(crate) fn closing(mut self) -> Self {
        self.close = true;
        self
    }

    fn with_members(mut self, members: Vec<(&'static str, Value)>) -> Self {
        self.members = members;
        self
    }

    fn everywhere(mut self, status: StatusCode) -> Self {
        let told = &mut *self.0;
        (told.status, told.oauth.0, told.alias) = (status, status, status);
        self
    }

    /// No such path.
    pub(crate) fn no_such_path() -> Self {
        let detail = "there is nothing at this path; the entry points are /.well-known/oauth-authorization-server and /v1/self";
        Self::new(StatusCode::NOT_FOUND, "DB-4201", "no-such-path", detail).everywhere(StatusCode::NOT_FOUND)
    }

    /// The path does not know this method; the router adds `Allow`.
    pub(crate) fn method_not_allowed() -> Self {
        let detail = "this path does not take this method; `Allow` names those that it takes";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "DB-4202", "method-not-allowed", detail)
            .everywhere(StatusCode::METHOD_NOT_ALLOWED)
    }

    /// The body is longer than this path takes.
    pub(crate) fn body_too_long(bytes_max: usize) -> Self {
        let detail = format!("the body is longer than {bytes_max} bytes; send less");
        let failure = Self::new(StatusCode::PAYLOAD_TOO_LARGE, "DB-4203", "body-too-long", detail);
        failure.everywhere(StatusCode::PAYLOAD_TOO_LARGE).closing()
    }

    /// The body did not come in time, or broke off.
    pub(crate) fn body_incomplete(detail: &str) -> Self {
        let failure = Self::new(StatusCode::REQUEST_TIMEOUT, "DB-4204", "body-incomplete", detail);
        failure.everywhere(StatusCode::REQUEST_TIMEOUT).closing()
    }

    /// The body is of a kind that this path does not take.
    pub(crate) fn media_type(wanted: &str) -> Self {
        let detail = format!("the `Content-Type` is not taken here; send {wanted}");
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "DB-4205", "media-type", detail)
    }

    /// The body, the query or a header is not what this path wants.
    pub(crate) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "DB-4206", "bad-request", detail)
    }

    /// A name in the path or the body is none.
    pub(crate) fn bad_name(error: NameError) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "DB-4207", "bad-name", error.to_string())
    }

    /// No record of this name.
    pub(crate) fn not_found(what: &str, name: &str) -> Self {
        let detail = format!("there is no {what} `{name}`; check the name with a listing");
        Self::new(StatusCode::NOT_FOUND, "DB-4208", "not-found", detail).everywhere(StatusCode::NOT_FOUND)
    }

    /// `If-Match` or `If-None-Match` does not hold.
    pub(crate) fn precondition(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::PRECONDITION_FAILED, "DB-4210", "precondition-failed", detail)
    }

    /// The caller is known, and this is not for it.
    pub(crate) fn operator_only() -> Self {
        let detail = "this is for operators; send the admin credential, or the token of an application that has a role";
        Self::new(StatusCode::FORBIDDEN, "DB-4211", "operator-only", detail)
    }

    /// The caller is an operator, and this is for the holder of the admin credential alone.
    pub(crate) fn credential_only() -> Self {
        let detail = "this concerns more than one registry; send the admin credential as a Bearer token";
        Self::new(StatusCode::FORBIDDEN, "DB-4228", "credential-only", detail)
    }

    /// Client metadata of a device that registers itself, which cannot be taken (RFC 7591 section 3.2.2).
    pub(crate) fn client_metadata(detail: impl Into<String>) -> Self {
        let mut failure = Self::new(StatusCode::BAD_REQUEST, "DB-4226", "client-metadata", detail);
        failure.oauth.1 = "invalid_client_metadata";
        failure
    }

    /// A line of an import that is not understood.
    pub(crate) fn import_line(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "DB-4227", "import-line", detail)
    }

    /// A registry of this name exists.
    pub(crate) fn registry_exists(name: &str) -> Self {
        let detail = format!(
            "there is a registry `{name}`, and it keeps its issuer and settings; choose another name"
        );
        Self::new(StatusCode::CONFLICT, "DB-4218", "registry-exists", detail)
    }

    /// A topic that the caller may not read.
    pub(crate) fn denied(name: &PrincipalName, topic: &str, decision: &Decision<'_>) -> Self {
        let code = decision.code().unwrap_or("DB-3012");
        let word = decision.word().unwrap_or("delivery-withheld");
        let detail = format!("`{name}` may not receive `{topic}`: {decision}");
        let members = vec![("topic", Value::from(topic)), ("rule", Value::from(decision.to_string()))];
        Self::new(StatusCode::FORBIDDEN, code, word, detail).with_members(members)
    }

    /// A command for a device that is not there.
    pub(crate) fn not_connected(device: &str) -> Self {
        let detail = format!("`{device}` is not connected; a command is not kept, send it again when it is");
        Self::new(StatusCode::CONFLICT, "DB-4212", "not-connected", detail)
    }

    /// A command for a device that does not listen.
    pub(crate) fn not_subscribed(device: &str) -> Self {
        let detail =
            format!("`{device}` is connected and has not subscribed to devices/{device}/commands/# at QoS 1");
        Self::new(StatusCode::CONFLICT, "DB-4213", "not-subscribed", detail)
    }

    /// A command that its device may not receive.
    pub(crate) fn withheld(device: &str) -> Self {
        let detail = format!(
            "`{device}` is subscribed and may not receive the command, so nothing was sent; allow it in the policy of the device, or check that neither side's rights have just ended"
        );
        Self::new(StatusCode::CONFLICT, "DB-3012", "delivery-withheld", detail)
    }

    /// A command that its device refused. `reason`: of the PUBACK, MQTT 5.0 section 3.4.2.1.
    pub(crate) fn rejected_by_device(device: &str, reason: u8) -> Self {
        let detail = format!(
            "`{device}` got the command and refused it: its PUBACK has the reason code {reason:#04x}; the device's own log knows why"
        );
        let members = vec![("reason", Value::from(reason))];
        Self::new(StatusCode::CONFLICT, "DB-4219", "rejected-by-device", detail).with_members(members)
    }

    /// A command without a PUBACK.
    pub(crate) fn timed_out(device: &str, wait_s: u64) -> Self {
        let detail =
            format!("`{device}` did not acknowledge within {wait_s} s; it may have obeyed nevertheless");
        Self::new(StatusCode::GATEWAY_TIMEOUT, "DB-4214", "timed-out", detail)
    }

    /// What is no opening handshake of WebSocket, or of another version.
    pub(crate) fn upgrade_required(detail: &str) -> Self {
        Self::new(StatusCode::UPGRADE_REQUIRED, "DB-2080", "websocket-handshake", detail)
    }

    /// An opening handshake of WebSocket that lacks something.
    pub(crate) fn websocket_handshake(detail: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "DB-2080", "websocket-handshake", detail)
    }

    /// A web page of an origin that nobody has let in.
    pub(crate) fn websocket_origin() -> Self {
        let detail = "a web page of this origin may not speak MQTT here; name it in `http.websocket_origins`";
        Self::new(StatusCode::FORBIDDEN, "DB-2081", "websocket-origin", detail)
    }

    /// As many clients are unauthenticated, or connected, as may be. The code is that of the limit.
    pub(crate) fn websocket_full(code: &'static str, word: &'static str) -> Self {
        let detail = "there is no place for another connection now; come again soon";
        let mut failure = Self::new(StatusCode::SERVICE_UNAVAILABLE, code, word, detail);
        failure.retry_after_s = Some(1);
        failure
    }

    /// An OAuth grant that is not served.
    pub(crate) fn unsupported_grant_type() -> Self {
        let detail = "this grant_type is not served; wanted client_credentials or urn:ietf:params:oauth:grant-type:token-exchange";
        let mut failure = Self::new(StatusCode::BAD_REQUEST, "DB-4216", "unsupported-grant-type", detail);
        failure.oauth.1 = "unsupported_grant_type";
        failure
    }

    /// Whether the server's time would help to do it better, and whether a nonce would: what was refused for
    /// its dates, for a nonce, or as older than a revocation.
    pub(crate) fn wants_time(&self) -> (bool, bool) {
        match self.code {
            "DB-1011" | "DB-1032" | "DB-1033" | "DB-1050" => (true, true),
            "DB-1016" | "DB-1023" => (true, false),
            _ => (false, false),
        }
    }

    /// A fault of ours, told without inner parts.
    pub(crate) fn internal(log: impl Into<String>) -> Self {
        let mut failure = Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "DB-4217",
            "internal",
            "the server failed; its log has the reason under this request id",
        )
        .everywhere(StatusCode::INTERNAL_SERVER_ERROR);
        failure.oauth.1 = "server_error";
        failure.log = Some(log.into());
        failure
    }

    /// The refusal of a store or another part that may work again soon.
    fn unavailable(code: &'static str, word: &'static str, log: String) -> Self {
        let detail = "the server cannot decide this now; try again soon";
        let mut failure = Self::new(StatusCode::SERVICE_UNAVAILABLE, code, word, detail);
        failure.oauth = (StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable");
        failure.alias = StatusCode::INTERNAL_SERVER_ERROR;
        failure.retry_after_s = Some(1);
        failure.log = Some(log);
        failure
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let (status, oauth_status, oauth_error, alias) = refusal_row(&refusal);
        let told = refusal.for_owner();
        let detail = match (&refusal, &told) {
            (_, Some(text)) => text.clone(),
            (Refusal::NoCredential, _) => "no credential was presented".to_owned(),
            (Refusal::Malformed(_), _) => "the request is malformed".to_owned(),
            (Refusal::NoRegistry, _) => "there is no such registry".to_owned(),
            (Refusal::Unavailable(_), _) => "the server cannot decide this now; try again soon".to_owned(),
            (Refusal::RateLimited { .. } | Refusal::Busy, _) => refusal.to_string(),
            _ => NOT_PROVEN.to_owned(),
        };
        let http = |status| StatusCode::from_u16(status).expect("the table holds valid statuses");
        let mut failure = Self::new(http(status), refusal.code(), refusal.word(), detail);
        failure.oauth = (http(oauth_status), oauth_error);
        failure.alias = http(alias);
        failure.log = told.is_none().then(|| format!("{}: {refusal}", refusal.reason()));
        match refusal {
            Refusal::Time { server_time_s, .. } => failure.server_time_s = Some(server_time_s),
            Refusal::Unavailable(_) | Refusal::Busy => failure.retry_after_s = Some(1),
            Refusal::RateLimited { retry_after_s } | Refusal::TooOften { retry_after_s } => {
                failure.retry_after_s = Some(retry_after_s.into())
            }
            Refusal::JtiFull { for_life: false } | Refusal::TokensFull { .. } => {
                failure.retry_after_s = Some(60)
            }
            _ => {}
        }
        failure
    }
}

/// Status in `/v1`, status and error in `/oauth`, status on the aliases.
///
/// Source: RFC 6749 section 5.2, RFC 7523 section 3.2, RFC 8707 section 2 (`invalid_target`), RFC 9200 section
/// 5.8.3.
fn refusal_row(refusal: &Refusal) -> (u16, u16, &'static str, u16) {
    use Refusal as R;
    match refusal {
        R::NoCredential
        | R::NotProven(_)
        | R::AuthMethod
        | R::WayClosed { .. }
        | R::CertificateRegistration(_)
        | R::TwoPrincipals => (401, 401, "invalid_client", 401),
        R::Malformed(_) => (400, 400, "invalid_request", 400),
        R::JwsFormat(_) | R::Jti(_) => (401, 401, "invalid_client", 400),
        R::Algorithm(_)
        | R::Header(_)
        | R::Type { .. }
        | R::Kind { .. }
        | R::Subject(_)
        | R::Audience { .. }
        | R::Time { .. }
        | R::Replay
        | R::Revoked
        | R::KeyGone
        | R::OtherService => (401, 401, "invalid_client", 403),
        R::JtiFull { for_life: true } => (403, 401, "invalid_client", 403),
        R::JtiFull { for_life: false } => (429, 429, "rate_limited", 429),
        R::Blocked | R::LegacyNotAllowed | R::KeyInGrace | R::MqttClientId(_) | R::NotConfidential => {
            (403, 400, "unauthorized_client", 403)
        }
        R::Scope(_) => (403, 400, "invalid_scope", 403),
        R::Target { .. } => (400, 400, "invalid_target", 400),
        R::OAuthClient(_) => (400, 401, "invalid_client", 403),
        R::NewKey(_) => (400, 400, "invalid_request", 400),
        R::Pop(_) => (400, 400, "invalid_request", 403),
        R::KeyInUse | R::TooManyKeys { .. } | R::KeysSpent { .. } => (409, 400, "invalid_request", 403),
        R::NoRegistry => (404, 404, "invalid_request", 404),
        R::Unavailable(_) | R::Busy => (503, 503, "temporarily_unavailable", 500),
        R::DpopNonce => (401, 400, "use_dpop_nonce", 400),
        R::NonceWanted | R::NonceStale | R::ClockNotTrusted => (401, 401, "invalid_client", 403),
        R::LastKey => (409, 400, "invalid_request", 403),
        R::NoSuchKey => (404, 400, "invalid_request", 403),
        R::Dpop(_) => (401, 400, "invalid_dpop_proof", 400),
        R::Binding(_) | R::TokenGone => (401, 400, "invalid_grant", 403),
        R::Certificate(_) => (401, 401, "invalid_client", 401),
        R::Enrolment(_) => (403, 400, "invalid_client_metadata", 403),
        R::EnrolmentOver(_) => (401, 401, "invalid_token", 401),
        R::StatementInvalid(_) => (400, 400, "invalid_software_statement", 400),
        R::NameInUse => (409, 409, "invalid_client_metadata", 409),
        R::Statement(_) => (403, 400, "unapproved_software_statement", 403),
        R::Pending | R::Role(_) => (403, 400, "unauthorized_client", 403),
        R::Exchange(_) => (400, 400, "invalid_request", 400),
        R::TokensFull { .. } => (429, 429, "rate_limited", 429),
        R::RateLimited { .. } | R::TooOften { .. } => (429, 429, "rate_limited", 429),
        R::Renewal(_) => (403, 400, "invalid_grant", 403),
        R::Gateway(_) => (403, 400, "invalid_target", 403),
        R::Ace(AceFault::Key(_)) => (400, 400, "unsupported_pop_key", 400),
        R::Ace(AceFault::Profile) => (400, 400, "incompatible_ace_profiles", 400),
        R::Ace(AceFault::StoreFull) => (429, 429, "rate_limited", 429),
        R::Ace(_) => (400, 400, "invalid_request", 400),
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::unavailable(error.code(), error.word(), error.to_string())
    }
}

impl From<AdmissionError> for Failure {
    fn from(error: AdmissionError) -> Self {
        use AdmissionError as E;
        let (mut code, mut word, text) = (error.code(), error.word(), error.to_string());
        let mut members = vec![];
        let status = match error {
            E::Store(error) => return error.into(),
            E::Secret(_) | E::OtherSealKey { .. } => return Self::internal(text),
            E::Busy => return Refusal::Busy.into(),
            E::NoRegistry(_) | E::NoPrincipal(_) | E::NoKey(_) | E::NoEnrolment(_) => StatusCode::NOT_FOUND,
            E::NameTaken { .. } | E::LastKey | E::AudienceTaken { .. } => StatusCode::CONFLICT,
            E::NotEnrolled { .. } | E::Gateway { .. } => StatusCode::CONFLICT,
            // One word for one thing: what a device is told of its own key update.
            E::KeyInUse(_) => {
                (code, word) = (Refusal::KeyInUse.code(), Refusal::KeyInUse.word());
                StatusCode::CONFLICT
            }
            E::TooManyKeys { active_max, .. } => {
                let refusal = Refusal::TooManyKeys { active_max };
                (code, word) = (refusal.code(), refusal.word());
                StatusCode::CONFLICT
            }
            E::Stale { revision } => {
                members.push(("revision", Value::from(revision)));
                StatusCode::PRECONDITION_FAILED
            }
            E::Policy(error) => {
                if let PolicyError::Document { faults, .. } | PolicyError::Tests { faults, .. } = error {
                    members.push(("faults", faults.iter().map(ToString::to_string).collect()));
                }
                StatusCode::UNPROCESSABLE_ENTITY
            }
            E::Password(_)
            | E::NoPolicy(_)
            | E::Label
            | E::KeyDates(_)
            | E::Setting(_)
            | E::Issuer { .. }
            | E::Topic(_)
            | E::DeviceRole(_)
            | E::Enrolment(_)
            | E::Ca(_) => StatusCode::UNPROCESSABLE_ENTITY,
        };
        Self::new(status, code, word, text).with_members(members)
    }
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Self {
        let (code, word, text) = (error.code(), error.word(), error.to_string());
        let (status, members) = match error {
            ControlError::Store(error) => return error.into(),
            ControlError::BridgeUnavailable => return Self::unavailable(code, word, text),
            ControlError::NoControlTopic { .. } => return Self::internal(text),
            ControlError::NoSuchDevice { .. } => (StatusCode::NOT_FOUND, vec![]),
            ControlError::Denied { topic, rule, .. } => {
                (StatusCode::FORBIDDEN, vec![("topic", Value::from(topic)), ("rule", Value::from(rule))])
            }
            ControlError::PayloadTooLong { .. } => (StatusCode::PAYLOAD_TOO_LARGE, vec![]),
            ControlError::BadSubfolder { .. } => (StatusCode::UNPROCESSABLE_ENTITY, vec![]),
            ControlError::StaleVersion { current, .. } => {
                (StatusCode::PRECONDITION_FAILED, vec![("version", Value::from(current))])
            }
        };
        Self::new(status, code, word, text).with_members(members)
    }
}

impl Deref for Failure {
    type Target = Told;

    fn deref(&self) -> &Told {
        &self.0
    }
}

impl DerefMut for Failure {
    fn deref_mut(&mut self) -> &mut Told {
        &mut self.0
    }
}

impl IntoResponse for Failure {
    /// Carries the failure to the outermost layer, which knows the dialect and writes it out.
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// In which words a path speaks of failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// RFC 6749 section 5.2.
    OAuth,
    /// The same at the token endpoint, in the words of RFC 9200 section 5.8.3.
    Ace(AceForm),
    /// RFC 9457.
    Problem,
    /// The IoT IdP's.
    Alias,
}

impl Dialect {
    /// By path, without the registry's prefix. `ace`: the form that the request wants, if it is one by RFC 9200.
    pub(crate) fn of(path: &str, ace: Option<AceForm>) -> Self {
        if let Some(form) = ace.filter(|_| path == "/oauth/token") {
            return Self::Ace(form);
        }
        let first = path.split('/').nth(1).unwrap_or_default();
        match first {
            "oauth" => Self::OAuth,
            "as" | "idp" | "device" => Self::Alias,
            _ => Self::Problem,
        }
    }
}

/// Writes a failure into a response that carries one, keeping headers such as `Allow`.
/// `authorization`: the value of that header in the request, if it had one.
pub(crate) fn write_out(
    response: &mut Response,
    failure: &Failure,
    dialect: Dialect,
    authorization: Option<&str>,
    request_id: &str,
) {
    let (json, problem) = ("application/json", "application/problem+json");
    let text = |kind, body: Value| (HeaderValue::from_static(kind), body.to_string().into_bytes());
    let (status, (kind, body)) = match dialect {
        Dialect::OAuth => (failure.oauth.0, text(json, oauth_body(failure))),
        Dialect::Ace(form) => {
            let body = match form {
                AceForm::Json => oauth_body(failure).to_string().into_bytes(),
                AceForm::Cbor => ace::error_body(failure, &printable(&failure.detail)),
            };
            (failure.oauth.0, (form.media_type(), body))
        }
        Dialect::Problem => (failure.status, text(problem, problem_body(failure, request_id))),
        Dialect::Alias => (failure.alias, text(json, alias_body(failure, request_id))),
    };
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.remove(CONTENT_LENGTH);
    headers.insert(CONTENT_TYPE, kind);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if status == StatusCode::UNAUTHORIZED {
        let challenge = challenge(failure, dialect, authorization);
        if let Ok(value) = HeaderValue::from_str(&challenge) {
            headers.insert(WWW_AUTHENTICATE, value);
        }
    }
    if status == StatusCode::UPGRADE_REQUIRED {
        // RFC 9110 section 15.5.22, RFC 6455 section 4.4.
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    }
    if let Some(seconds) = failure.retry_after_s {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if failure.close {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    *response.body_mut() = Body::from(body);
}

/// RFC 6750 section 3: no error code when no credential was sent. At the token endpoint the scheme
/// is the one that the client used (RFC 6749 section 5.2).
fn challenge(failure: &Failure, dialect: Dialect, authorization: Option<&str>) -> String {
    if matches!(dialect, Dialect::OAuth | Dialect::Ace(_)) {
        let basic = authorization
            .is_some_and(|value| value.as_bytes().get(..5).is_some_and(|b| b.eq_ignore_ascii_case(b"basic")));
        return if basic { "Basic realm=\"drawbridge\"" } else { "Bearer realm=\"drawbridge\"" }.to_owned();
    }
    let Some(authorization) = authorization else { return "Bearer realm=\"drawbridge\"".to_owned() };
    let text = printable(&failure.detail);
    let error = match failure.oauth.1 {
        error @ ("use_dpop_nonce" | "invalid_dpop_proof") => error,
        _ => "invalid_token",
    };
    // RFC 9449 section 7.1: who spoke of DPoP, or presented a bound token, is answered in that scheme.
    let is_dpop = error != "invalid_token"
        || authorization.as_bytes().get(..4).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"dpop"));
    let scheme = match is_dpop {
        true => format!("DPoP algs=\"{}\",", DPOP_ALGORITHMS.join(" ")),
        false => "Bearer".to_owned(),
    };
    format!("{scheme} realm=\"drawbridge\", error=\"{error}\", error_description=\"{text}\"")
}

fn oauth_body(failure: &Failure) -> Value {
    let mut body = Map::new();
    body.insert("error".to_owned(), json!(failure.oauth.1));
    body.insert("error_description".to_owned(), json!(printable(&failure.detail)));
    body.insert("code".to_owned(), json!(failure.code));
    if let Some(now) = failure.server_time_s {
        body.insert("server_time".to_owned(), json!(now));
    }
    if let Some(nonce) = &failure.nonce {
        body.insert("nonce".to_owned(), json!(nonce));
    }
    Value::Object(body)
}

fn problem_body(failure: &Failure, request_id: &str) -> Value {
    let mut body = Map::new();
    body.insert("type".to_owned(), json!(format!("urn:drawbridge:error:{}", failure.word)));
    body.insert("title".to_owned(), json!(title(failure.word)));
    body.insert("status".to_owned(), json!(failure.status.as_u16()));
    body.insert("code".to_owned(), json!(failure.code));
    body.insert("detail".to_owned(), json!(failure.detail));
    body.insert("request_id".to_owned(), json!(request_id));
    if let Some(now) = failure.server_time_s {
        body.insert("server_time".to_owned(), json!(now));
    }
    if let Some(nonce) = &failure.nonce {
        body.insert("nonce".to_owned(), json!(nonce));
    }
    for (name, value) in &failure.members {
        body.insert((*name).to_owned(), value.clone());
    }
    Value::Object(body)
}

fn alias_body(failure: &Failure, request_id: &str) -> Value {
    json!({ "error": {
        "code": failure.alias.as_u16(),
        "status": failure.alias.canonical_reason().unwrap_or("Error"),
        "request": request_id,
        "message": failure.detail,
    }})
}

/// `not-connected` is titled `Not connected`.
fn title(word: &str) -> String {
    let mut text = word.replace('-', " ");
    if let Some(first) = text.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    text
}

/// The characters that RFC 6749 section 5.2 and a quoted header value allow.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '"' | '\\' => '\'',
            ' '..='~' => c,
            _ => '?',
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use drawbridge_identity::NotProven;

    #[test]
    fn everything_before_a_good_signature_shares_one_text() {
        let unproven = [
            Refusal::JwsFormat("two segments".into()),
            Refusal::Algorithm("none".into()),
            Refusal::Header("crit".into()),
            Refusal::Type { found: "at+jwt".into(), wanted: "client assertion" },
            Refusal::NotProven(NotProven::UnknownPrincipal),
            Refusal::NotProven(NotProven::NoKey),
            Refusal::NotProven(NotProven::Signature),
        ];
        for refusal in unproven {
            let failure = Failure::from(refusal.clone());
            assert_eq!(failure.detail, NOT_PROVEN, "{refusal:?}");
            assert_eq!(failure.oauth, (StatusCode::UNAUTHORIZED, "invalid_client"), "{refusal:?}");
        }
    }

    #[test]
    fn a_store_that_does_not_answer_refuses_and_tells_no_inner_parts() {
        let inner = "database is locked: registry.sqlite";
        let failures = [
            Failure::from(Refusal::Unavailable(inner.into())),
            Failure::from(StoreError::Unavailable(inner.into())),
            Failure::from(AdmissionError::Store(StoreError::Unavailable(inner.into()))),
            Failure::from(ControlError::Store(StoreError::Unavailable(inner.into()))),
        ];
        for failure in failures {
            let unavailable = StatusCode::SERVICE_UNAVAILABLE;
            assert_eq!(
                (failure.status, failure.oauth),
                (unavailable, (unavailable, "temporarily_unavailable"))
            );
            assert_eq!(failure.alias, StatusCode::INTERNAL_SERVER_ERROR);
            assert!(!failure.detail.contains("sqlite"), "{}", failure.detail);
            assert!(failure.log.as_deref().is_some_and(|log| log.contains(inner)), "the log has the reason");
            assert!(failure.retry_after_s.is_some());
        }
    }

    #[test]
    fn a_full_queue_of_password_checks_says_when_to_come_again() {
        for failure in [Failure::from(Refusal::Busy), Failure::from(AdmissionError::Busy)] {
            let unavailable = StatusCode::SERVICE_UNAVAILABLE;
            assert_eq!((failure.status, failure.oauth.0), (unavailable, unavailable));
            assert_eq!((failure.code, failure.retry_after_s), ("DB-1045", Some(1)));
        }
    }

    #[test]
    fn each_path_has_its_dialect() {
        let table = [
            ("/oauth/token", Dialect::OAuth),
            ("/v1/devices", Dialect::Problem),
            ("/as/token", Dialect::Alias),
            ("/device/update/pubkey", Dialect::Alias),
            ("/nothing", Dialect::Problem),
            ("", Dialect::Problem),
        ];
        for (path, dialect) in table {
            assert_eq!(Dialect::of(path, None), dialect, "{path}");
            let ace = Some(AceForm::Cbor);
            let wanted = if path == "/oauth/token" { Dialect::Ace(AceForm::Cbor) } else { dialect };
            assert_eq!(Dialect::of(path, ace), wanted, "{path}");
        }
    }

    #[test]
    fn a_description_never_leaves_the_characters_of_rfc_6749() {
        assert_eq!(printable("a \"b\\ \u{7} é"), "a 'b' ? ?");
        assert_eq!(title("not-connected"), "Not connected");
    }
}
