//! `GET /openapi.json`: every path of the HTTPS side as an OpenAPI 3.1 document.
//!
//! `operations` says what each path takes and answers, `schemas` what stands in the bodies; here is what
//! all have in common. Statuses and dialects of refusals follow from what an operation takes, so that
//! they are said once.
//!
//! Source: OpenAPI Specification 3.1.1.

mod operations;
mod schemas;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use crate::HttpState;
use crate::ace::{ACE_CBOR, ACE_JSON, AceForm};
use crate::edge::InRegistry;
use crate::failure::{Dialect, Failure};

/// How long the document may be kept: it changes with the server's version.
const CACHE: &str = "public, max-age=300";

/// All but `servers`, which each registry has its own of.
static DOCUMENT: LazyLock<String> = LazyLock::new(|| document().to_string());

/// Answers the document. Its one server is the stored issuer of the registry; nothing comes from `Host`.
pub(crate) async fn show(
    State(state): State<HttpState>,
    InRegistry(registry): InRegistry,
) -> Result<Response, Failure> {
    let servers = json!([{ "url": state.issuer(&registry)? }]);
    let rest = DOCUMENT.strip_prefix('{').ok_or_else(|| Failure::internal("the document is no object"))?;
    let headers = [
        (CACHE_CONTROL, HeaderValue::from_static(CACHE)),
        (CONTENT_TYPE, HeaderValue::from_static("application/json")),
    ];
    Ok((headers, format!("{{\"servers\":{servers},{rest}")).into_response())
}

fn document() -> Value {
    let mut paths: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    let mut refusals: BTreeMap<String, Value> = BTreeMap::new();
    for operation in operations::all() {
        refusals.extend(
            operation.told().map(|(dialect, status)| (name(dialect, status), refusal(dialect, status))),
        );
        let (path, method, value) = operation.written();
        paths.entry(path).or_default().insert(method, value);
    }
    json!({
        "openapi": "3.1.1",
        "info": {
            "title": "Drawbridge",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "Identity, policies and commands of IoT devices.",
            "description": ABOUT,
        },
        "tags": operations::TAGS.map(|(name, description)| json!({ "name": name, "description": description })),
        "paths": paths,
        "components": {
            "schemas": schemas::all(),
            "headers": headers(),
            "responses": refusals,
            "securitySchemes": security_schemes(),
        },
    })
}

const ABOUT: &str = "Every path belongs to one registry: this document's server is the issuer of the registry \
    that it was asked of. `/oauth` answers errors as RFC 6749 section 5.2 has them, `/v1` as problem details \
    (RFC 9457) with a stable `code`, the paths of the IoT IdP in an envelope of their own. An empty parameter \
    of a form counts as absent; a repeated one is refused, in a query as well. Answers may get further members; a \
    request with a member that is not known is refused, but for forms and client metadata.";

fn headers() -> Value {
    let header = |required: bool, description: &str, schema: Value| json!({ "required": required, "description": description, "schema": schema });
    let text = || json!({ "type": "string" });
    json!({
        "Request-Id": header(true, "Names this request in the server's log.", json!({ "type": "string", "pattern": "^[A-Za-z0-9_-]{22}$" })),
        "ETag": header(true, "The revision, for `If-Match`.", json!({ "type": "string", "pattern": "^\"[0-9]+\"$" })),
        "Location": header(true, "Where the new record is.", json!({ "type": "string", "format": "uri" })),
        "Cache-Control": header(true, "Whether the answer may be kept.", text()),
        "Retry-After": header(true, "Seconds to wait before the next try.", json!({ "type": "integer", "minimum": 0 })),
        "WWW-Authenticate": header(true, "Which credential is wanted, and what is wrong with the one that came (RFC 6750 section 3, RFC 9449 section 7.1).", text()),
        "DPoP-Nonce": header(false, "A nonce for the next DPoP proof (RFC 9449 section 8).", text()),
    })
}

fn security_schemes() -> Value {
    json!({
        "bearer": {
            "type": "http",
            "scheme": "bearer",
            "description": "An access token for the API (`resource` is the issuer and `/v1`), or the admin \
                credential (`dba_...`). A token that is bound to a key takes `Authorization: DPoP` and a proof \
                in the header `DPoP` (RFC 9449), one that is bound to a certificate the same certificate in TLS.",
        },
        "registration": {
            "type": "http",
            "scheme": "bearer",
            "description": "An enrolment token (`dbe_...`) to register, a registration token (`dbr_...`) to look \
                at or end a registration.",
        },
        "client_secret": {
            "type": "http",
            "scheme": "basic",
            "description": "`client_secret_basic`: name and secret, each form-encoded (RFC 6749 section 2.3.1).",
        },
        "client_certificate": {
            "type": "mutualTLS",
            "description": "`tls_client_auth` or `self_signed_tls_client_auth`: a certificate of a CA of the \
                registry, or one with a registered key, and `client_id` in the form (RFC 8705).",
        },
        "legacy": {
            "type": "apiKey",
            "in": "header",
            "name": "Authorization",
            "description": "The JWT or token of the IoT IdP, with or without `Bearer`.",
        },
    })
}

/// One method of one path, in the making.
struct Operation {
    method: &'static str,
    path: String,
    value: Value,
    refusals: BTreeSet<u16>,
}

/// An operation; the parts of its path become parameters. `summary` is a sentence without its full stop.
fn op(
    tag: &str,
    method: &'static str,
    path: impl Into<String>,
    id: impl Into<String>,
    summary: &str,
) -> Operation {
    let path = path.into();
    let value = json!({
        "tags": [tag], "operationId": id.into(), "summary": summary, "parameters": [], "responses": {},
        "security": [],
    });
    let mut operation = Operation { method, path, value, refusals: BTreeSet::new() };
    let path = operation.path.clone();
    for part in path.split('{').skip(1).filter_map(|rest| rest.split('}').next()) {
        let (schema, description) = schemas::path_part(&path, part);
        operation = operation.parameter("path", part, true, schema, description).refuses(&[404]);
    }
    operation
}

impl Operation {
    /// Takes a token with this operator role.
    fn role(self, role: &str) -> Self {
        let needs = format!("Needs the role `{role}`, or the admin credential.");
        self.bearer().about(&needs)
    }

    /// Takes a token for the API.
    fn bearer(self) -> Self {
        self.secured(&["bearer"]).refuses(&[401, 403])
    }

    /// Takes one of these; more of it in the description of each.
    fn secured(mut self, schemes: &[&str]) -> Self {
        self.value["security"] = schemes
            .iter()
            .map(|scheme| if scheme.is_empty() { json!({}) } else { json!({ *scheme: [] }) })
            .collect();
        self.refuses(&[400, 429, 503])
    }

    /// A sentence more.
    fn about(mut self, text: &str) -> Self {
        let before =
            self.value["description"].as_str().map(|before| format!("{before} ")).unwrap_or_default();
        self.value["description"] = json!(format!("{before}{text}"));
        self
    }

    fn parameter(
        mut self,
        place: &str,
        name: &str,
        required: bool,
        schema: Value,
        description: &str,
    ) -> Self {
        let parameter = json!({
            "in": place, "name": name, "required": required, "schema": schema, "description": description,
        });
        if let Some(parameters) = self.value["parameters"].as_array_mut() {
            parameters.push(parameter);
        }
        self
    }

    fn query(self, name: &str, schema: Value, description: &str) -> Self {
        self.parameter("query", name, false, schema, description).refuses(&[400])
    }

    /// One page of a listing.
    fn paged(self) -> Self {
        self.query("limit", schemas::limit(), "How many items, 100 if it is not there.").query(
            "cursor",
            schemas::text(),
            "`next_cursor` of the page before.",
        )
    }

    /// `If-Match`, with the ETag of the record.
    fn if_match(self) -> Self {
        let schema = json!({ "type": "string", "examples": ["\"3\""] });
        self.parameter("header", "If-Match", false, schema, "Only if the record still has this ETag.")
            .refuses(&[412])
    }

    /// A proof of the key of a bound token, or for a bound token.
    fn dpop(self) -> Self {
        self.parameter(
            "header",
            "DPoP",
            false,
            schemas::text(),
            "A proof that the caller has a key (RFC 9449).",
        )
    }

    /// A body, in any of these media types.
    fn takes(mut self, required: bool, kinds: &[(&str, Value)]) -> Self {
        let content: Map<String, Value> =
            kinds.iter().map(|(kind, schema)| ((*kind).to_owned(), json!({ "schema": schema }))).collect();
        self.value["requestBody"] = json!({ "required": required, "content": content });
        self.refuses(&[400, 408, 413])
    }

    /// A JSON body, and nothing else.
    fn json(self, schema: &str) -> Self {
        let operation = self.takes(true, &[(JSON, schemas::of(schema))]);
        if operation.dialect() == Dialect::OAuth { operation } else { operation.refuses(&[415]) }
    }

    /// An answer in JSON.
    fn answers(self, status: u16, description: &str, schema: &str) -> Self {
        self.answers_with(status, description, &[(JSON, schemas::of(schema))], &[])
    }

    /// An answer in any of these media types; without any it has no body. `headers`: besides `Request-Id`.
    fn answers_with(
        mut self,
        status: u16,
        description: &str,
        kinds: &[(&str, Value)],
        headers: &[&str],
    ) -> Self {
        self.value["responses"][status.to_string()] = response(description, kinds, headers);
        self
    }

    /// The answer of this status has these headers too.
    fn with(mut self, status: u16, headers: &[&str]) -> Self {
        for name in headers {
            self.value["responses"][status.to_string()]["headers"][*name] = header(name);
        }
        self
    }

    fn refuses(mut self, statuses: &[u16]) -> Self {
        self.refusals.extend(statuses);
        self
    }

    fn dialect(&self) -> Dialect {
        // Where RFC 9200 is spoken as well, the refusals are described in all forms.
        Dialect::of(&self.path, Some(AceForm::Json))
    }

    /// Its refusals.
    fn told(&self) -> impl Iterator<Item = (Dialect, u16)> {
        let dialect = self.dialect();
        self.refusals.iter().map(move |status| match (dialect, *status) {
            // What the store does not answer is the server's fault in the words of the IoT IdP.
            (Dialect::Alias, 503) => (dialect, 500),
            (_, status) => (dialect, status),
        })
    }

    /// Path, method and what stands there.
    fn written(mut self) -> (String, String, Value) {
        let told: Vec<_> = self.told().collect();
        for (dialect, status) in told {
            let reference = format!("#/components/responses/{}", name(dialect, status));
            self.value["responses"][status.to_string()] = json!({ "$ref": reference });
        }
        (self.path, self.method.to_ascii_lowercase(), self.value)
    }
}

/// The name of a refusal among the components.
fn name(dialect: Dialect, status: u16) -> String {
    match dialect {
        Dialect::Ace(_) => format!("Token{status}"),
        _ => format!("{dialect:?}{status}"),
    }
}

const JSON: &str = "application/json";

fn header(name: &str) -> Value {
    json!({ "$ref": format!("#/components/headers/{name}") })
}

fn response(description: &str, kinds: &[(&str, Value)], headers: &[&str]) -> Value {
    let headers: Map<String, Value> =
        headers.iter().chain(&["Request-Id"]).map(|name| ((*name).to_owned(), header(name))).collect();
    let content: Map<String, Value> =
        kinds.iter().map(|(kind, schema)| ((*kind).to_owned(), json!({ "schema": schema }))).collect();
    let mut response = json!({ "description": description, "headers": headers });
    if !content.is_empty() {
        response["content"] = Value::Object(content);
    }
    response
}

/// What a status means wherever it stands.
fn refusal(dialect: Dialect, status: u16) -> Value {
    let (description, headers): (_, &[&str]) = match status {
        400 if dialect == Dialect::Problem => {
            ("The request is not understood: its body, query, headers or a key in it.", &[])
        }
        400 => ("The request is not understood, or what it asks for is not granted.", &["DPoP-Nonce"]),
        401 => ("No credential, or one that is not accepted.", &["WWW-Authenticate", "DPoP-Nonce"]),
        403 => ("The caller is known and may not do this.", &[]),
        404 => ("There is no such record.", &[]),
        408 => ("The body did not come in time, or broke off.", &[]),
        409 => ("It does not fit what is there already.", &[]),
        412 => ("`If-Match` or `If-None-Match` does not hold: read the record again.", &[]),
        413 => ("The body is too long.", &[]),
        415 => ("The media type of the body is not taken here.", &[]),
        422 => ("Understood, and not possible: a name, a date, a rule of a policy.", &[]),
        426 => ("What came is no WebSocket of version 13.", &[]),
        429 => ("Too often: wait as long as `Retry-After` says.", &["Retry-After"]),
        500 => ("The server cannot decide this now.", &["Retry-After"]),
        503 => ("The server cannot decide this now; try again soon.", &["Retry-After"]),
        504 => ("The device did not acknowledge in time; it may have obeyed nevertheless.", &[]),
        _ => ("Refused.", &[]),
    };
    let (kind, schema) = match dialect {
        Dialect::OAuth => (JSON, "OAuthError"),
        Dialect::Ace(_) => {
            let error = || schemas::of("OAuthError");
            let kinds = [(JSON, error()), (ACE_JSON, error()), (ACE_CBOR, schemas::bytes())];
            return response(description, &kinds, headers);
        }
        Dialect::Problem => ("application/problem+json", "Problem"),
        Dialect::Alias => (JSON, "AliasError"),
    };
    response(description, &[(kind, schemas::of(schema))], headers)
}
