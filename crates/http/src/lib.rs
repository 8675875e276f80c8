//! Token API, discovery, device and operator API over HTTPS.
//!
//! ```text
//! socket -> serve (TLS) -> edge (request id, registry, failures written out) -> router -> a resource
//! ```
//!
//! One file per resource. Every path below belongs to the registry `default`; below `/r/NAME` the same
//! paths belong to registry NAME. Handlers answer a `Failure` as their error and do not
//! know in which dialect it is written: the path decides, in one place.

mod ace;
mod admin;
mod aliases;
mod audit;
mod body;
mod caller;
mod can;
mod cas;
mod challenge;
mod client_auth;
mod commands;
mod config;
mod crowd;
mod dpop;
mod edge;
mod enrolments;
mod etag;
mod failure;
#[doc(hidden)]
pub mod fuzzing;
mod gateways;
mod health;
mod import;
mod introspect;
mod keys;
mod metadata;
mod metrics;
mod openapi;
mod own;
mod paging;
mod passwords;
mod policies;
mod principals;
mod register;
mod registries;
mod revoke;
mod serve;
mod time;
mod token;
mod websocket;
mod wire_time;

use std::sync::Arc;

use axum::middleware::from_fn_with_state;
use axum::routing::{delete, get, patch, post, put};
use axum::{Extension, Router};
use drawbridge_admission::{Admission, Journal, Random};
use drawbridge_control::Control;
use drawbridge_names::{PrincipalKind, RegistryName};

use failure::Failure;

pub use config::HttpConfig;
pub use metrics::{HttpCounts, MetricsPage};
pub use serve::{
    HandedOver, HelloInParts, HttpsDoor, HttpsFrom, HttpsTls, PeerAddress, ReadsHello, Served, TlsStart,
    serve, serve_all,
};
pub use websocket::{WebSocketConnection, WebSocketDoor, WebSocketSeat};

/// What the handlers stand on. Cheap to clone.
#[derive(Clone)]
pub struct HttpState {
    /// Logins, key updates, the changes of operators.
    pub admission: Admission,
    /// Commands, configs, states.
    pub control: Arc<Control>,
    /// For request ids.
    pub random: Arc<dyn Random>,
    /// The bounds.
    pub config: Arc<HttpConfig>,
    /// Where `/mqtt` leads; `None`: nowhere.
    pub web_socket: Option<Arc<dyn WebSocketDoor>>,
    /// What `/metrics` shows; `None`: nothing.
    pub metrics: Option<Arc<dyn MetricsPage>>,
    /// Where requests are counted.
    pub counts: Arc<HttpCounts>,
}

impl std::fmt::Debug for HttpState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpState").field("config", &self.config).finish_non_exhaustive()
    }
}

impl HttpState {
    /// The issuer of a registry: what every URL of ours begins with.
    pub(crate) fn issuer(&self, registry: &RegistryName) -> Result<String, Failure> {
        let record = self.admission.registry(registry).ok_or_else(Failure::no_such_path)?;
        Ok(record.issuer.clone())
    }

    /// Seconds since 1970-01-01 UTC.
    pub(crate) fn now_s(&self) -> u64 {
        self.admission.clock().now_ms() / 1000
    }
}

/// Every path of the HTTPS side, ready for [`serve`].
pub fn router(state: HttpState) -> Router {
    let paths = Router::new()
        .merge(public_paths())
        .merge(device_paths())
        .merge(operator_paths())
        .fallback(edge::no_such_path)
        .method_not_allowed_fallback(edge::method_not_allowed)
        .with_state(state.clone());
    // The outermost layer rewrites paths, so it has to run before the router looks at them.
    let journal = Arc::new(Journal::new("requests"));
    Router::new().fallback_service(paths).layer(from_fn_with_state((state, journal), edge::edge))
}

/// What works without the operator's credential.
fn public_paths() -> Router<HttpState> {
    Router::new()
        .route("/.well-known/oauth-authorization-server", get(metadata::show))
        .route("/.well-known/openid-configuration", get(metadata::show))
        .route("/oauth/jwks", get(metadata::jwks))
        .route("/openapi.json", get(openapi::show))
        .route("/oauth/challenge", post(challenge::challenge))
        .route("/oauth/token", post(token::token))
        .route("/oauth/register", post(register::register))
        .route("/oauth/register/{id}", get(register::show).put(register::replace).delete(register::remove))
        .route("/oauth/introspect", post(introspect::introspect))
        .route("/oauth/revoke", post(revoke::revoke))
        .route("/as/token", post(aliases::token))
        .route("/as/renew/token", post(aliases::renew))
        .route("/idp/introspect", post(aliases::introspect))
        .route("/device/update/pubkey", post(aliases::update_key))
        .route("/v1/self", get(own::show))
        .route("/v1/self/keys", get(own::keys).post(own::update_key))
        .route("/v1/self/keys:remove", post(own::remove_key))
        .route("/v1/self/keys/{kid}", delete(own::delete_key))
        .route("/v1/self/sessions:refresh", post(own::refresh_sessions))
        .route("/session/refresh", post(own::refresh_sessions))
        .route("/v1/time", post(time::time))
        .route("/mqtt", get(websocket::open))
        .route("/health", get(health::health))
        .route("/healthz", get(health::health))
}

/// Devices: their records are the operator's, their control is for whoever may publish to them.
fn device_paths() -> Router<HttpState> {
    Router::new()
        .merge(principal_paths("/v1/devices", PrincipalKind::Device))
        .route("/v1/devices:import", post(import::import))
        .route("/v1/devices/{id}/approve", post(enrolments::approve))
        .route("/v1/devices/{id}/reject", post(enrolments::reject))
        .route("/v1/devices/{id}/undo-enrolment", post(enrolments::undo))
        .route("/v1/devices/{id}/gateways", get(gateways::gateways))
        .route("/v1/devices/{id}/commands", post(commands::send))
        .route("/v1/devices/{id}/config", get(commands::config).put(commands::set_config))
        .route("/v1/devices/{id}/state", get(commands::states))
}

/// The records of one kind of principals.
fn principal_paths(collection: &str, kind: PrincipalKind) -> Router<HttpState> {
    let at = |rest: &str| format!("{collection}{rest}");
    Router::new()
        .route(&at(""), get(principals::list).post(principals::add))
        .route(
            &at("/{id}"),
            get(principals::show).put(principals::put).patch(principals::patch).delete(principals::remove),
        )
        .route(&at("/{id}/block"), post(principals::block))
        .route(&at("/{id}/unblock"), post(principals::unblock))
        .route(&at("/{id}/revoke"), post(principals::revoke))
        .route(&at("/{id}/password"), put(passwords::set).delete(passwords::remove))
        .route(&at("/{id}/secret"), post(passwords::make).delete(passwords::remove_secret))
        .route(&at("/{id}/keys"), get(keys::list).post(keys::add))
        .route(&at("/{id}/keys/{kid}"), patch(keys::change).delete(keys::remove))
        .route(&at("/{id}/keys/{kid}/revoke"), post(keys::revoke))
        .layer(Extension(kind))
}

/// The operator's other paths.
fn operator_paths() -> Router<HttpState> {
    Router::new()
        .merge(principal_paths("/v1/applications", PrincipalKind::Application))
        .route("/v1/enrolments", get(enrolments::list).post(enrolments::add))
        .route("/v1/enrolments/{id}", get(enrolments::show).delete(enrolments::end))
        .route("/v1/enrolments/{id}/devices", get(enrolments::devices))
        .route("/v1/enrolments/{id}/approve", post(enrolments::approve_all))
        .route("/v1/gateways/{id}/devices", get(gateways::devices))
        .route("/v1/gateways/{id}/devices/{device}", put(gateways::link).delete(gateways::unlink))
        .route("/v1/cas", get(cas::list).post(cas::add))
        .route("/v1/cas/{fingerprint}", delete(cas::remove))
        .route("/v1/policies", get(policies::list))
        .route("/v1/policies/{id}", get(policies::show).put(policies::set))
        .route("/v1/principals/{id}/policy", put(policies::attach))
        .route("/v1/can", get(can::can))
        .route("/v1/admin-token:rotate", post(admin::rotate))
        .route("/metrics", get(metrics::show))
        .route("/v1/audit", get(audit::rows))
        .route("/v1/audit:heads", get(audit::heads))
        .route("/v1/audit:export", get(audit::export))
        .route("/v1/registries", get(registries::list).post(registries::add))
        .route("/v1/registries/{name}", get(registries::show).patch(registries::change))
        .route(
            "/v1/registries/{name}/issuer-keys",
            get(registries::issuer_keys).post(registries::rotate_issuer_key),
        )
}
