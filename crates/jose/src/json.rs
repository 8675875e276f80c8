//! JSON read strictly: one meaning for one text.
//!
//! `serde_json::Value` keeps the last of two members with one name in silence, which is how two
//! verifiers come to read two different tokens; here a second one is an error at any depth.

use alloc::{string::String, vec::Vec};
use core::{cell::Cell, fmt};

use serde::{
    Serialize, Serializer,
    de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor},
    ser::{SerializeMap as _, SerializeSeq as _},
};

/// Objects and arrays within each other, the outermost counted.
pub(crate) const DEPTH_MAX: usize = 8;

/// Why a text is not the JSON we take.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum JsonError {
    /// The text begins with U+FEFF.
    #[error("it begins with a byte order mark; send the JSON without one")]
    ByteOrderMark,
    /// The bytes are not UTF-8.
    #[error("it is not UTF-8; encode the JSON as UTF-8")]
    NotUtf8,
    /// The text is not JSON, holds half a surrogate pair, or a number beyond the range of a double.
    #[error("it is not valid JSON (RFC 8259); serialise it with a JSON library")]
    Syntax,
    /// Two members of one object have the same name.
    #[error("an object names one member twice; name each member once")]
    DuplicateMember,
    /// Too many objects and arrays within each other.
    #[error("objects and arrays are nested more than {DEPTH_MAX} deep; flatten it")]
    TooDeep,
    /// A string or a name holds U+0000.
    #[error("a string holds U+0000; leave it out")]
    Nul,
    /// The outermost value is not an object.
    #[error("the outermost value is not an object; wrap it in {{...}}")]
    NotAnObject,
}

#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Json {
    Null,
    Bool(bool),
    Unsigned(u64),
    Negative(i64),
    Real(f64),
    Text(String),
    List(Vec<Json>),
    Object(Members),
}

pub(crate) type Members = Vec<(String, Json)>;

/// Reads one object and nothing after it.
pub(crate) fn parse_object(bytes: &[u8]) -> Result<Members, JsonError> {
    if bytes.starts_with(b"\xef\xbb\xbf") {
        return Err(JsonError::ByteOrderMark);
    }
    let text = core::str::from_utf8(bytes).map_err(|_| JsonError::NotUtf8)?;
    let fault = Cell::new(JsonError::Syntax);
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = Strict { levels_left: DEPTH_MAX, fault: &fault }
        .deserialize(&mut deserializer)
        .map_err(|_| fault.get())?;
    deserializer.end().map_err(|_| JsonError::Syntax)?;
    match value {
        Json::Object(members) => Ok(members),
        _ => Err(JsonError::NotAnObject),
    }
}

impl Json {
    /// What it is, for an error text.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Unsigned(_) | Self::Negative(_) | Self::Real(_) => "a number",
            Self::Text(_) => "a string",
            Self::List(_) => "an array",
            Self::Object(_) => "an object",
        }
    }

    pub(crate) fn is_scalar(&self) -> bool {
        !matches!(self, Self::List(_) | Self::Object(_))
    }
}

/// A reader of one value. serde's error type cannot carry ours, so the reason is left in `fault`.
#[derive(Clone, Copy)]
struct Strict<'f> {
    levels_left: usize,
    fault: &'f Cell<JsonError>,
}

impl Strict<'_> {
    fn refuse<E: serde::de::Error>(self, fault: JsonError) -> E {
        self.fault.set(fault);
        E::custom("refused")
    }

    fn inner<E: serde::de::Error>(self) -> Result<Self, E> {
        match self.levels_left.checked_sub(1) {
            Some(levels_left) => Ok(Self { levels_left, ..self }),
            None => Err(self.refuse(JsonError::TooDeep)),
        }
    }

    fn text<E: serde::de::Error>(self, text: String) -> Result<String, E> {
        if text.as_bytes().contains(&0) { Err(self.refuse(JsonError::Nul)) } else { Ok(text) }
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Json;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Unsigned(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Negative(value))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Json, E> {
        if value.is_finite() { Ok(Json::Real(value)) } else { Err(self.refuse(JsonError::Syntax)) }
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Json, E> {
        self.text(value.into()).map(Json::Text)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json, A::Error> {
        let inner = self.inner()?;
        let mut list = Vec::new();
        while let Some(value) = seq.next_element_seed(inner)? {
            list.push(value);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        let inner = self.inner()?;
        let mut members = Members::new();
        while let Some(name) = map.next_key::<String>()? {
            let name = self.text(name)?;
            let value = map.next_value_seed(inner)?;
            members.push((name, value));
        }
        if has_duplicate(&members) {
            return Err(self.refuse(JsonError::DuplicateMember));
        }
        Ok(Json::Object(members))
    }
}

/// Sorts instead of comparing each with each, so that many members cost no quadratic work.
fn has_duplicate(members: &Members) -> bool {
    let mut names: Vec<&str> = members.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    names.windows(2).any(|pair| pair[0] == pair[1])
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Unsigned(value) => serializer.serialize_u64(*value),
            Self::Negative(value) => serializer.serialize_i64(*value),
            Self::Real(value) => serializer.serialize_f64(*value),
            Self::Text(value) => serializer.serialize_str(value),
            Self::List(list) => {
                let mut seq = serializer.serialize_seq(Some(list.len()))?;
                for value in list {
                    seq.serialize_element(value)?;
                }
                seq.end()
            }
            Self::Object(members) => {
                let mut map = serializer.serialize_map(Some(members.len()))?;
                for (name, value) in members {
                    map.serialize_entry(name, value)?;
                }
                map.end()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::format;

    use super::*;

    #[test]
    fn each_way_to_be_ambiguous_has_its_own_refusal() {
        let deep = |levels: usize| format!("{}{{}}{}", "{\"a\":".repeat(levels - 1), "}".repeat(levels - 1));
        let nine_deep = deep(9);
        let cases: &[(&[u8], JsonError)] = &[
            (b"\xef\xbb\xbf{}", JsonError::ByteOrderMark),
            (b"\xff\xfe{\0}\0", JsonError::NotUtf8),
            (b"{\"a\":\"\xc3\x28\"}", JsonError::NotUtf8),
            (br#"{"a":1,"a":1}"#, JsonError::DuplicateMember),
            (br#"{"a":1,"\u0061":1}"#, JsonError::DuplicateMember),
            (br#"{"x":[{"a":1,"a":2}]}"#, JsonError::DuplicateMember),
            (nine_deep.as_bytes(), JsonError::TooDeep),
            (br#"{"a":[[[[[[[[]]]]]]]]}"#, JsonError::TooDeep),
            (br#"{"a":"x\u0000"}"#, JsonError::Nul),
            (br#"{"a\u0000":1}"#, JsonError::Nul),
            (br#"{"a":"\ud800"}"#, JsonError::Syntax),
            (br#"{"a":"\udc00\ud800"}"#, JsonError::Syntax),
            (br#"{"a":1e400}"#, JsonError::Syntax),
            (br#"{"a":NaN}"#, JsonError::Syntax),
            (br#"{"a":01}"#, JsonError::Syntax),
            (br#"{"a":1,}"#, JsonError::Syntax),
            (br#"{"a":1}{}"#, JsonError::Syntax),
            (b"{\"a\":\"\n\"}", JsonError::Syntax),
            (b"", JsonError::Syntax),
            (b"[]", JsonError::NotAnObject),
            (b"\"x\"", JsonError::NotAnObject),
        ];
        for (text, wanted) in cases {
            assert_eq!(parse_object(text), Err(*wanted), "{}", String::from_utf8_lossy(text));
        }
        assert!(parse_object(deep(8).as_bytes()).is_ok());
        assert!(parse_object(b" {\"a\" : \"\\ud83d\\ude00\"}\r\n").is_ok());
    }

    #[test]
    fn ten_thousand_members_are_judged_without_quadratic_work() {
        let many: Vec<String> = (0..10_000).map(|i| format!("\"m{i}\":0")).collect();
        let good = format!("{{{}}}", many.join(","));
        assert_eq!(parse_object(good.as_bytes()).map(|m| m.len()), Ok(10_000));
        let bad = format!("{{{},\"m0\":0}}", many.join(","));
        assert_eq!(parse_object(bad.as_bytes()), Err(JsonError::DuplicateMember));
    }
}
