//! `GET /metrics`: the numbers of the whole server, as Prometheus reads them.
//!
//! They are of all registries together, so only staff of the registry `default` (that of whoever runs the
//! server) and the holder of the admin credential may read them.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse as _, Response};
use drawbridge_names::RegistryName;

use crate::HttpState;
use crate::caller::Viewer;
use crate::edge::InRegistry;
use crate::failure::Failure;

/// Prometheus text exposition format 0.0.4.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Whoever knows all the numbers.
pub trait MetricsPage: Send + Sync {
    /// The numbers now, in the text format of Prometheus, version 0.0.4.
    fn render(&self) -> Pin<Box<dyn Future<Output = String> + Send + '_>>;
}

/// What the HTTPS side has counted since the start.
#[derive(Debug, Default)]
pub struct HttpCounts {
    responses: Mutex<BTreeMap<u16, u64>>,
    refused: Mutex<BTreeMap<&'static str, u64>>,
}

impl HttpCounts {
    /// Responses by status.
    #[must_use]
    pub fn responses(&self) -> BTreeMap<u16, u64> {
        lock(&self.responses).clone()
    }

    /// Refusals by the word of `docs/errors.md`.
    #[must_use]
    pub fn refused(&self) -> BTreeMap<&'static str, u64> {
        lock(&self.refused).clone()
    }

    pub(crate) fn answered(&self, status: StatusCode) {
        *lock(&self.responses).entry(status.as_u16()).or_default() += 1;
    }

    pub(crate) fn refuse(&self, word: &'static str) {
        *lock(&self.refused).entry(word).or_default() += 1;
    }
}

fn lock<T>(counts: &Mutex<T>) -> MutexGuard<'_, T> {
    // A count is complete before anything could panic.
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The page, for a viewer of `default`.
pub(crate) async fn show(
    State(state): State<HttpState>,
    InRegistry(registry): InRegistry,
    _: Viewer,
) -> Result<Response, Failure> {
    if registry != RegistryName::default_registry() {
        return Err(Failure::no_such_path());
    }
    let page = state.metrics.as_ref().ok_or_else(Failure::no_such_path)?;
    Ok(([(CONTENT_TYPE, TEXT), (CACHE_CONTROL, "no-store")], page.render().await).into_response())
}
