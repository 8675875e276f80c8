//! ETags: the revision of a record, the version of a config.

use axum::http::{HeaderMap, HeaderName, HeaderValue};

use crate::failure::Failure;

/// A number as a strong ETag.
pub(crate) fn write(revision: u64) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{revision}\"")).expect("digits in quotes are a header value")
}

/// The number in `If-Match`; `None` when the header is absent or `*`.
///
/// Source: RFC 9110 section 13.1.1.
pub(crate) fn expected(headers: &HeaderMap, name: HeaderName) -> Result<Option<u64>, Failure> {
    let mut values = headers.get_all(&name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    // Of several ETags at most one could be the current one; ask for that one.
    let text = if values.next().is_some() { "" } else { value.to_str().unwrap_or_default().trim() };
    if text == "*" {
        return Ok(None);
    }
    let number = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    let number = number.and_then(|text| text.parse::<u64>().ok().filter(|number| number.to_string() == text));
    // An ETag that is none of ours cannot be the current one.
    number
        .map(Some)
        .ok_or_else(|| Failure::precondition("the ETag is not one that this server gave; read it again"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::header::IF_MATCH;

    #[test]
    fn an_etag_that_is_none_of_ours_never_matches() {
        let with = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(IF_MATCH, HeaderValue::from_str(text).expect("a header value"));
            expected(&headers, IF_MATCH)
        };
        assert_eq!(with("\"7\"").expect("ours"), Some(7));
        assert_eq!(with("*").expect("any"), None);
        assert_eq!(expected(&HeaderMap::new(), IF_MATCH).expect("none"), None);
        for bad in ["7", "W/\"7\"", "\"x\"", "\"7\", \"8\"", "", "\"-1\""] {
            assert_eq!(with(bad).expect_err(bad).word, "precondition-failed", "{bad}");
        }
    }
}
