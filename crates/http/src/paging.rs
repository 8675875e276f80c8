//! Listings page by page: an opaque cursor, in byte order of name.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use drawbridge_names::PrincipalName;

use crate::body::Params;
use crate::failure::Failure;

/// How many items a page has when the request does not say.
const LIMIT: u64 = 100;
/// How many it may have at most.
const LIMIT_MAX: u64 = 1000;
/// The first byte of a cursor, so that its form can change.
const VERSION: u8 = 1;

/// What part of a listing is wanted.
pub(crate) struct Page {
    /// How many items.
    pub(crate) limit: usize,
    /// Only items after this name.
    pub(crate) after: Option<PrincipalName>,
}

impl Page {
    /// From the parameters `limit` and `cursor`.
    pub(crate) fn from_query(params: &Params) -> Result<Self, Failure> {
        let limit = limit(params)?;
        let after = params.get("cursor").map(read_cursor).transpose()?;
        Ok(Self { limit, after })
    }
}

/// The parameter `limit`.
pub(crate) fn limit(params: &Params) -> Result<usize, Failure> {
    match params.number("limit")?.unwrap_or(LIMIT) {
        limit @ 1..=LIMIT_MAX => Ok(usize::try_from(limit).expect("at most a thousand")),
        _ => Err(Failure::bad_request(format!("`limit` is out of bounds; wanted 1 to {LIMIT_MAX}"))),
    }
}

/// The cursor of the page after `name`.
pub(crate) fn cursor(name: &PrincipalName) -> String {
    let mut bytes = vec![VERSION];
    bytes.extend_from_slice(name.as_str().as_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

fn read_cursor(text: &str) -> Result<PrincipalName, Failure> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok();
    let name = match bytes.as_deref() {
        Some([VERSION, name @ ..]) => {
            std::str::from_utf8(name).ok().and_then(|text| PrincipalName::parse(text).ok())
        }
        _ => None,
    };
    name.ok_or_else(|| Failure::bad_request("`cursor` is not one that this server gave; begin without it"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_as_the_name_it_was_made_of_and_nothing_else_passes() {
        let name = PrincipalName::parse("pump-0042").expect("a name");
        assert_eq!(read_cursor(&cursor(&name)).expect("own cursor"), name);
        for bad in ["", "x", "pump-0042", "AnB1bXA", "AQ"] {
            assert!(read_cursor(bad).is_err(), "{bad}");
        }
    }
}
