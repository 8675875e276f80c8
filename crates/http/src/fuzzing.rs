//! A door for `crates/fuzz-targets` to parsers that nobody else needs from outside. Not part of the API.

use std::collections::BTreeMap;

use crate::body::Params;

/// Reads a form body: its parameters, or code and text of the refusal.
///
/// # Errors
/// What the peer would be told.
pub fn form(bytes: &[u8]) -> Result<BTreeMap<String, String>, (&'static str, String)> {
    Params::parse(bytes).map(Params::into_map).map_err(|failure| (failure.code, failure.detail.clone()))
}
