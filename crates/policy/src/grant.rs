//! Grants: the one form in which rights travel in tokens for the bridge, AIF-MQTT.
//!
//! Source: RFC 9237 (AIF), RFC 9431 section 3 (its MQTT form, `scope` as base64url of the JSON).

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use drawbridge_names::{TopicFilter, TopicName};
use serde_json::Value;

use crate::error::PolicyError;
use crate::pattern::{Pattern, Scan};

/// Longest `scope`, in bytes of base64url. In a JWT it takes a third more, and with the longest names
/// and an issuer of 500 bytes that still fits into the 8 KiB that the bridge reads.
pub const SCOPE_BYTES_MAX: usize = 4_608;

/// Most pairs in one grant.
pub const PAIRS_MAX: usize = 128;

/// Pairs of topic filter and permissions. A grant only ever narrows: see
/// [`crate::Rights::narrowed`]. Without pairs it allows nothing.
#[derive(Debug, Clone)]
pub struct Grant(Arc<[GrantPair]>);

/// One pair, `["devices/lamp/events/#", ["pub"]]`.
#[derive(Debug, Clone)]
pub struct GrantPair {
    pattern: Pattern,
    publish: bool,
    subscribe: bool,
}

impl GrantPair {
    /// Its topic filter.
    #[must_use]
    pub fn filter(&self) -> &TopicFilter {
        self.pattern.filter()
    }

    /// Whether it has `pub`.
    #[must_use]
    pub fn publish(&self) -> bool {
        self.publish
    }

    /// Whether it has `sub`.
    #[must_use]
    pub fn subscribe(&self) -> bool {
        self.subscribe
    }

    pub(crate) fn permissions(&self) -> impl Iterator<Item = &'static str> {
        self.publish.then_some("pub").into_iter().chain(self.subscribe.then_some("sub"))
    }
}

impl Grant {
    /// Takes the `scope` of a token for the bridge: base64url without padding of AIF-MQTT JSON.
    ///
    /// # Errors
    /// [`PolicyError::Scope`] for padding, white space, bits left over, or JSON of another shape.
    ///
    /// Source: RFC 9431 section 3.
    pub fn parse_scope(scope: &str) -> Result<Self, PolicyError> {
        if scope.len() > SCOPE_BYTES_MAX {
            return Err(malformed(format!("{} bytes, at most {SCOPE_BYTES_MAX} are allowed", scope.len())));
        }
        let bytes =
            URL_SAFE_NO_PAD.decode(scope).map_err(|error| malformed(format!("as base64url: {error}")))?;
        let json = std::str::from_utf8(&bytes).map_err(|error| malformed(error.to_string()))?;
        Self::parse_json(json)
    }

    /// Takes AIF-MQTT JSON: `[["t1",["pub","sub"]],["t2/#",["pub"]]]`.
    ///
    /// # Errors
    /// [`PolicyError::Scope`] for anything that has not exactly this shape: a pair of two members, a
    /// topic filter, one or two different permissions out of `pub` and `sub`.
    ///
    /// Source: RFC 9431 section 3, RFC 9237 section 3.
    pub fn parse_json(json: &str) -> Result<Self, PolicyError> {
        if json.len() > SCOPE_BYTES_MAX {
            return Err(malformed(format!("{} bytes, at most {SCOPE_BYTES_MAX} are allowed", json.len())));
        }
        let value: Value =
            serde_json::from_str(json).map_err(|error| malformed(format!("as JSON: {error}")))?;
        let Value::Array(items) = value else { return Err(malformed("no array of pairs".to_owned())) };
        if items.len() > PAIRS_MAX {
            return Err(malformed(format!("{} pairs, at most {PAIRS_MAX} are allowed", items.len())));
        }
        let pairs: Result<Vec<_>, _> = items.iter().enumerate().map(|(i, item)| pair(i, item)).collect();
        Ok(Self(pairs?.into()))
    }

    /// As `scope`: base64url without padding of [`Self::to_json`].
    #[must_use]
    pub fn to_scope(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.to_json())
    }

    /// As compact JSON, permissions in the order `pub`, `sub`.
    #[must_use]
    pub fn to_json(&self) -> String {
        let pairs = self.0.iter().map(|pair| {
            let permissions = pair.permissions().map(Value::from).collect();
            Value::Array(vec![Value::from(pair.filter().as_str()), Value::Array(permissions)])
        });
        Value::Array(pairs.collect()).to_string()
    }

    /// Its pairs, in the order of the token.
    #[must_use]
    pub fn pairs(&self) -> &[GrantPair] {
        &self.0
    }

    pub(crate) fn publish_pair(&self, topic: TopicName<'_>) -> Option<&GrantPair> {
        let mut scan = Scan::default();
        self.0.iter().find(|pair| pair.publish && pair.pattern.matches(topic, &mut scan))
    }

    pub(crate) fn receive_pair(&self, topic: TopicName<'_>) -> Option<&GrantPair> {
        let mut scan = Scan::default();
        self.0.iter().find(|pair| pair.subscribe && pair.pattern.matches(topic, &mut scan))
    }

    /// The one pair that covers the whole of `filter`; two halves do not make one.
    pub(crate) fn covering_pair(&self, filter: &TopicFilter, publish: bool) -> Option<&GrantPair> {
        self.0
            .iter()
            .find(|pair| (if publish { pair.publish } else { pair.subscribe }) && pair.pattern.covers(filter))
    }
}

impl PartialEq for Grant {
    /// Same pairs in the same order.
    fn eq(&self, other: &Self) -> bool {
        self.0.len() == other.0.len()
            && self.0.iter().zip(other.0.iter()).all(|(a, b)| {
                a.filter() == b.filter() && a.publish == b.publish && a.subscribe == b.subscribe
            })
    }
}

impl Eq for Grant {}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_json())
    }
}

fn malformed(found: String) -> PolicyError {
    PolicyError::Scope { found }
}

fn pair(at: usize, item: &Value) -> Result<GrantPair, PolicyError> {
    let (filter, permissions) = match item.as_array().map(Vec::as_slice) {
        Some([Value::String(filter), Value::Array(permissions)]) => (filter, permissions),
        _ => return Err(malformed(format!("pair {at} is not [topic filter, [permissions]]"))),
    };
    let filter = TopicFilter::parse(filter).map_err(|error| malformed(format!("pair {at}: {error}")))?;
    if filter.levels().next() == Some("$share") {
        return Err(malformed(format!(
            "pair {at} names `$share`; a grant names the filter behind the group"
        )));
    }
    let (mut publish, mut subscribe) = (false, false);
    for permission in permissions {
        let flag = match permission.as_str() {
            Some("pub") => &mut publish,
            Some("sub") => &mut subscribe,
            _ => return Err(malformed(format!("pair {at} has a permission other than \"pub\" and \"sub\""))),
        };
        if std::mem::replace(flag, true) {
            return Err(malformed(format!("pair {at} names a permission twice")));
        }
    }
    if !publish && !subscribe {
        return Err(malformed(format!("pair {at} has no permission")));
    }
    Ok(GrantPair { pattern: Pattern::new(filter), publish, subscribe })
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = r#"[["t1",["pub","sub"]],["t2/#",["pub"]],["+/t3",["sub"]]]"#;

    #[test]
    fn the_example_of_rfc_9431_is_read_and_written_back() {
        let grant = Grant::parse_json(EXAMPLE).expect("the example");
        let shown: Vec<_> =
            grant.pairs().iter().map(|p| (p.filter().as_str(), p.publish(), p.subscribe())).collect();
        assert_eq!(shown, [("t1", true, true), ("t2/#", true, false), ("+/t3", false, true)]);
        assert_eq!(grant.to_json(), EXAMPLE);
        let scope = grant.to_scope();
        assert!(scope.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'), "{scope}");
        assert_eq!(Grant::parse_scope(&scope).expect("own scope"), grant);
    }

    #[test]
    fn a_scope_of_any_other_shape_is_refused() {
        let deep = "[".repeat(200);
        for bad in [
            "",
            "{}",
            "null",
            "7",
            "\"t\"",
            "[[]]",
            "[\"t\",[\"pub\"]]",
            "[[\"t\"]]",
            "[[\"t\",\"pub\"]]",
            "[[\"t\",[]]]",
            "[[\"t\",[\"pub\",\"pub\"]]]",
            "[[\"t\",[\"PUB\"]]]",
            "[[\"t\",[\"pub\"],1]]",
            "[[\"\",[\"pub\"]]]",
            "[[\"a/#/b\",[\"sub\"]]]",
            "[[1,[\"pub\"]]]",
            "[[\"t\",[1]]]",
            "[[\"t\",[\"pub\"]]] x",
            "[[\"$share/g/t\",[\"sub\"]]]",
            "[[\"a\\u0000\",[\"pub\"]]]",
            &deep,
        ] {
            let error = Grant::parse_json(bad).expect_err(bad);
            assert_eq!((error.code(), error.word()), ("DB-3003", "scope-malformed"), "{bad}");
        }
        let many = format!("[{}]", vec!["[\"t\",[\"pub\"]]"; PAIRS_MAX + 1].join(","));
        assert!(Grant::parse_json(&many).is_err());
    }

    #[test]
    fn a_scope_is_canonical_base64url_without_padding() {
        let good = Grant::parse_json("[]").expect("no pairs").to_scope();
        assert_eq!(good, "W10");
        assert!(Grant::parse_scope(&good).expect("no pairs").pairs().is_empty());
        for bad in ["W10=", "W11", " W10", "W10\n", "W1 0", "", "mqtt:pub", "device.read", "\u{e9}"] {
            assert!(Grant::parse_scope(bad).is_err(), "{bad:?}");
        }
        assert!(Grant::parse_scope(&"A".repeat(SCOPE_BYTES_MAX + 1)).is_err());
    }
}
