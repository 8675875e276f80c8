//! Where a refused client finds the authorization server.

use serde_json::json;

/// What stands in the user property `ace_as_hint` of a CONNACK or DISCONNECT that refuses. The client must know
/// by other means that it may trust what it is told.
///
/// Source: RFC 9431 section 2.4.1, RFC 9200 section 5.3.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AsHint<'a> {
    /// `AS`: the URL of the token endpoint.
    pub token_endpoint: &'a str,
    /// `audience`: what to ask the token for.
    pub audience: &'a str,
    /// `cnonce`: to be sent with the request, base64url without padding.
    pub cnonce: Option<&'a str>,
}

impl AsHint<'_> {
    /// The name of the user property.
    pub const PROPERTY: &'static str = "ace_as_hint";

    /// Its value.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut hint = json!({ "AS": self.token_endpoint, "audience": self.audience });
        if let Some(cnonce) = self.cnonce {
            hint["cnonce"] = json!(cnonce);
        }
        hint.to_string()
    }
}
