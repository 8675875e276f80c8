//! The server's time, signed: for devices that have no clock, or do not trust it.

use serde_json::{Value, json};

/// What the time is, for whoever sent this nonce.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTime {
    /// Who says so.
    pub issuer: String,
    /// As the device sent it: an answer to another question is none to this.
    pub nonce: String,
    /// Milliseconds since 1970-01-01 UTC.
    pub now_ms: u64,
    /// So far may the server's own clock be off, in milliseconds.
    pub uncertainty_ms: u64,
}

impl ServerTime {
    /// The `typ` of its JWT.
    pub const TYP: &'static str = "db-time+jwt";

    /// The claims. There is no `exp`: its nonce says what it answers, and it proves nothing later.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "iss": self.issuer,
            "nonce": self.nonce,
            "iat": self.now_ms / 1000,
            "now_ms": self.now_ms,
            "unc_ms": self.uncertainty_ms,
        })
    }
}

/// Whether a text can be the nonce of a question for the time: 16 to 64 characters of base64url.
#[must_use]
pub fn is_time_nonce(text: &str) -> bool {
    (16..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_nonce_is_16_to_64_characters_of_base64url() {
        for (text, good) in [
            ("0123456789abcdef".to_owned(), true),
            ("A-_".repeat(8), true),
            ("x".repeat(64), true),
            ("x".repeat(15), false),
            ("x".repeat(65), false),
            ("0123456789abcde=".to_owned(), false),
            ("0123456789abcdé".to_owned(), false),
            (String::new(), false),
        ] {
            assert_eq!(is_time_nonce(&text), good, "{text}");
        }
    }
}
