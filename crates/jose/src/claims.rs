//! Claims: a strict JSON object, asked by name and type. A claim of the wrong type is an error and
//! never an absent claim (CVE-2026-25537).

use alloc::{string::String, sync::Arc, vec, vec::Vec};

use crate::json::{Json, JsonError, Members, parse_object};

/// NumericDate at and above which a double no longer tells one second from the next.
const NUMERIC_DATE_S_END: u64 = 1 << 53;

/// The claims of a token: a JSON object in which no name occurs twice at any depth, at most 8 deep,
/// UTF-8 without byte order mark, without half surrogate pairs and without U+0000. Cloning is cheap.
///
/// Source: RFC 7519 section 4, RFC 8259.
#[derive(Clone, PartialEq, Debug)]
pub struct Claims {
    members: Arc<Members>,
}

/// A claim has the wrong type or a value outside its range.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("claim `{name}` is {found}, {wanted} is wanted")]
pub struct ClaimError {
    /// Name of the claim.
    pub name: String,
    /// What stands there.
    pub found: &'static str,
    /// What should stand there.
    pub wanted: &'static str,
}

impl Claims {
    /// Reads one JSON object and nothing after it.
    ///
    /// # Errors
    /// [`JsonError`] names the rule that is broken.
    pub fn from_json(bytes: &[u8]) -> Result<Self, JsonError> {
        parse_object(bytes).map(|members| Self { members: Arc::new(members) })
    }

    /// Whether a member of this name exists, whatever its type, `null` included.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.member(name).is_some()
    }

    /// The names of all members in the order of the text.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.members.iter().map(|(name, _)| name.as_str())
    }

    /// A string.
    ///
    /// # Errors
    /// [`ClaimError`] when it is there and no string.
    pub fn text(&self, name: &str) -> Result<Option<&str>, ClaimError> {
        match self.member(name) {
            None => Ok(None),
            Some(Json::Text(text)) => Ok(Some(text)),
            Some(other) => Err(wrong(name, other.kind(), "a string")),
        }
    }

    /// A boolean.
    ///
    /// # Errors
    /// [`ClaimError`] when it is there and no boolean.
    pub fn boolean(&self, name: &str) -> Result<Option<bool>, ClaimError> {
        match self.member(name) {
            None => Ok(None),
            Some(Json::Bool(value)) => Ok(Some(*value)),
            Some(other) => Err(wrong(name, other.kind(), "a boolean")),
        }
    }

    /// A NumericDate: seconds since 1970-01-01 UTC, any JSON number from 0 to below 2^53; a fraction
    /// is dropped.
    ///
    /// Source: RFC 7519 section 2.
    ///
    /// # Errors
    /// [`ClaimError`] when it is there and anything else: a string, `null`, negative, too large.
    pub fn numeric_date_s(&self, name: &str) -> Result<Option<u64>, ClaimError> {
        const WANTED: &str = "a number of seconds from 0 to below 2^53";
        let seconds = match self.member(name) {
            None => return Ok(None),
            Some(Json::Unsigned(seconds)) => *seconds,
            Some(Json::Real(seconds)) if *seconds >= 0.0 && *seconds < NUMERIC_DATE_S_END as f64 => {
                *seconds as u64
            }
            Some(Json::Real(_) | Json::Negative(_)) => {
                return Err(wrong(name, "a number outside the range", WANTED));
            }
            Some(other) => return Err(wrong(name, other.kind(), WANTED)),
        };
        if seconds >= NUMERIC_DATE_S_END {
            return Err(wrong(name, "a number outside the range", WANTED));
        }
        Ok(Some(seconds))
    }

    /// `aud`: one string, or an array of strings as it stands (it may be empty or hold one name
    /// twice; how many are right is for the caller to judge).
    ///
    /// Source: RFC 7519 section 4.1.3.
    ///
    /// # Errors
    /// [`ClaimError`] when it is there and neither.
    pub fn audience(&self) -> Result<Option<Vec<&str>>, ClaimError> {
        match self.member("aud") {
            Some(Json::Text(text)) => Ok(Some(vec![text])),
            _ => self.texts("aud"),
        }
    }

    /// An array of strings.
    ///
    /// # Errors
    /// [`ClaimError`] when it is there and anything else.
    pub fn texts(&self, name: &str) -> Result<Option<Vec<&str>>, ClaimError> {
        const WANTED: &str = "an array of strings";
        match self.member(name) {
            None => Ok(None),
            Some(Json::List(list)) => list
                .iter()
                .map(|value| match value {
                    Json::Text(text) => Ok(text.as_str()),
                    _ => Err(wrong(name, "an array of something else", WANTED)),
                })
                .collect::<Result<Vec<_>, _>>()
                .map(Some),
            Some(other) => Err(wrong(name, other.kind(), WANTED)),
        }
    }

    /// An object, such as `cnf`, to be asked in its turn.
    ///
    /// # Errors
    /// [`ClaimError`] when it is there and no object.
    pub fn object(&self, name: &str) -> Result<Option<Self>, ClaimError> {
        match self.member(name) {
            None => Ok(None),
            Some(Json::Object(members)) => Ok(Some(Self { members: Arc::new(members.clone()) })),
            Some(other) => Err(wrong(name, other.kind(), "an object")),
        }
    }

    /// The JSON text of a member of any type, written anew without white space; `None` only when
    /// there is no such member. Numbers keep their value, not their spelling.
    #[must_use]
    pub fn object_json(&self, name: &str) -> Option<String> {
        self.member(name).map(|value| {
            serde_json::to_string(value).expect("a parsed value has finite numbers and text keys")
        })
    }

    fn member(&self, name: &str) -> Option<&Json> {
        self.members.iter().find(|(found, _)| found == name).map(|(_, value)| value)
    }
}

fn wrong(name: &str, found: &'static str, wanted: &'static str) -> ClaimError {
    ClaimError { name: name.into(), found, wanted }
}

#[cfg(test)]
mod tests {
    use alloc::format;

    use super::*;

    fn claims(text: &str) -> Claims {
        Claims::from_json(text.as_bytes()).unwrap()
    }

    #[test]
    fn numeric_dates_are_numbers_from_zero_to_below_two_to_the_53() {
        for (text, wanted) in [
            ("0", 0),
            ("-0.0", 0),
            ("1795301000", 1_795_301_000),
            ("1795301000.999", 1_795_301_000),
            ("1.795301e9", 1_795_301_000),
            ("9007199254740991", (1 << 53) - 1),
        ] {
            assert_eq!(
                claims(&format!("{{\"exp\":{text}}}")).numeric_date_s("exp"),
                Ok(Some(wanted)),
                "{text}"
            );
        }
        for text in [
            "-1",
            "-0.5",
            "-1e-300",
            "9007199254740992",
            "18446744073709551615",
            "18446744073709551616",
            "1e300",
            "\"1795301000\"",
            "null",
            "true",
            "[1]",
            "{}",
        ] {
            assert!(claims(&format!("{{\"exp\":{text}}}")).numeric_date_s("exp").is_err(), "{text}");
        }
        assert_eq!(claims("{}").numeric_date_s("exp"), Ok(None));
    }

    #[test]
    fn a_claim_of_the_wrong_type_is_never_absent() {
        let odd = claims(r#"{"aud":["a",1],"sub":7,"cnf":"x","scope":null}"#);
        assert!(odd.audience().is_err());
        assert!(odd.text("sub").is_err());
        assert!(odd.text("scope").is_err());
        assert!(odd.object("cnf").is_err());
        assert!(odd.contains("scope"));
        assert_eq!(claims("{}").audience(), Ok(None));
        assert_eq!(claims(r#"{"aud":"a"}"#).audience(), Ok(Some(vec!["a"])));
        assert_eq!(claims(r#"{"aud":["a","b"]}"#).audience(), Ok(Some(vec!["a", "b"])));
        assert_eq!(claims(r#"{"aud":[]}"#).audience(), Ok(Some(vec![])));
    }

    #[test]
    fn nested_members_can_be_asked_and_written_again() {
        let bound = claims(r#"{"cnf": {"jkt" : "abc", "n":[1,-2,0.5,null,true,"\"é"]}}"#);
        assert_eq!(bound.object("cnf").unwrap().unwrap().text("jkt"), Ok(Some("abc")));
        assert_eq!(bound.object_json("cnf").unwrap(), r#"{"jkt":"abc","n":[1,-2,0.5,null,true,"\"é"]}"#);
        assert_eq!(bound.object_json("none"), None);
    }
}
