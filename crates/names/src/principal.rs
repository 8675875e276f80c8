//! Names of principals, registries, policies, keys and MQTT clients.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// Why a text is no valid name. The messages never repeat more than the offending character.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing was given.
    #[error("the {what} is empty; wanted 1 to {bytes_max} characters")]
    Empty {
        /// Which kind of name.
        what: &'static str,
        /// Longest allowed, in bytes.
        bytes_max: usize,
    },
    /// Longer than allowed.
    #[error("the {what} has {found_bytes} bytes, at most {bytes_max} are allowed; choose a shorter one")]
    TooLong {
        /// Which kind of name.
        what: &'static str,
        /// Length found, in bytes.
        found_bytes: usize,
        /// Longest allowed, in bytes.
        bytes_max: usize,
    },
    /// A character outside the alphabet of the name.
    #[error("the {what} has {found:?} at byte {at}; wanted {wanted}")]
    BadCharacter {
        /// Which kind of name.
        what: &'static str,
        /// The offending character.
        found: char,
        /// Its byte offset.
        at: usize,
        /// The alphabet, for people.
        wanted: &'static str,
    },
}

fn check(
    what: &'static str,
    text: &str,
    bytes_max: usize,
    first: fn(u8) -> bool,
    rest: fn(u8) -> bool,
    wanted: &'static str,
) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty { what, bytes_max });
    }
    if text.len() > bytes_max {
        return Err(NameError::TooLong { what, found_bytes: text.len(), bytes_max });
    }
    for (at, found) in text.char_indices() {
        let fits = u8::try_from(found).is_ok_and(|byte| if at == 0 { first(byte) } else { rest(byte) });
        if !fits {
            return Err(NameError::BadCharacter { what, found, at, wanted });
        }
    }
    Ok(())
}

macro_rules! text_name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $max:literal, $first:expr, $rest:expr, $wanted:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Longest allowed, in bytes.
            pub const BYTES_MAX: usize = $max;

            /// Takes a text as a name, byte for byte.
            ///
            /// # Errors
            /// [`NameError`] when it is empty, too long, or has a character outside the alphabet.
            pub fn parse(text: &str) -> Result<Self, NameError> {
                check($what, text, $max, $first, $rest, $wanted)?;
                Ok(Self(text.into()))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::parse(text)
            }
        }
    };
}

text_name!(
    /// The name of a device, an application or (later) a user. All principals of a registry share
    /// one namespace.
    ///
    /// Grammar: `[A-Za-z0-9][A-Za-z0-9._~%-]{0,254}`, so no `+ # / :` and no control character: a
    /// name can stand in a topic, a filter and a client id without being mistaken for syntax.
    PrincipalName, "name", 255,
    |b| b.is_ascii_alphanumeric(),
    |b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'~' | b'%' | b'-'),
    "a letter or digit first, then letters, digits, `.`, `_`, `~`, `%`, `-`"
);

text_name!(
    /// The name of a registry: a namespace of devices with its own issuer and settings. It stands
    /// in URLs (`/r/NAME`) and on disk, hence the small alphabet: `[a-z0-9][a-z0-9-]{0,62}`.
    RegistryName, "registry name", 63,
    |b| b.is_ascii_lowercase() || b.is_ascii_digit(),
    |b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-',
    "lower-case letters, digits and `-`, beginning with a letter or digit"
);

text_name!(
    /// The name of a policy within its registry: `[A-Za-z0-9][A-Za-z0-9._-]{0,127}`.
    PolicyName, "policy name", 128,
    |b| b.is_ascii_alphanumeric(),
    |b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'),
    "a letter or digit first, then letters, digits, `.`, `_`, `-`"
);

text_name!(
    /// The `kid` of a key: its RFC 7638 SHA-256 thumbprint, 43 characters of base64url.
    KeyId, "key id", 43,
    |b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'),
    |b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'),
    "43 characters of base64url (an RFC 7638 thumbprint)"
);

impl RegistryName {
    /// The registry that exists from the first start.
    #[must_use]
    pub fn default_registry() -> Self {
        Self("default".into())
    }
}

/// An MQTT client identifier as the client sent it: UTF-8 without NUL, 0 to 65,535 bytes. Which
/// ones a principal may use is judged after authentication, by `admission`.
///
/// Source: MQTT 5.0 and 3.1.1, section 3.1.3.1.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct MqttClientId(Arc<str>);

impl MqttClientId {
    /// Takes a client id as it stands in CONNECT.
    ///
    /// # Errors
    /// [`NameError`] when it is longer than 65,535 bytes or holds a NUL.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        const WHAT: &str = "client id";
        if text.len() > 65_535 {
            return Err(NameError::TooLong { what: WHAT, found_bytes: text.len(), bytes_max: 65_535 });
        }
        if let Some(at) = text.find('\0') {
            return Err(NameError::BadCharacter { what: WHAT, found: '\0', at, wanted: "UTF-8 without NUL" });
        }
        Ok(Self(text.into()))
    }

    /// The client id as text; empty when the server is asked to choose one.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the client left the choice to the server.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for MqttClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The number of a principal: random, never reused, also after delete. Tokens, sessions, `jti` and
/// audit refer to it, never to the name. A string in JSON (a 64-bit number does not survive there).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uid(pub u64);

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Counts the revocations of a principal. A token of an older epoch is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What a principal is. A name taken by one kind cannot be used by another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PrincipalKind {
    /// A device, which logs in with its own key.
    Device,
    /// A backend service.
    Application,
}

impl PrincipalKind {
    /// The word used in stores and in JSON: `device` or `application`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Application => "application",
        }
    }
}

impl fmt::Display for PrincipalKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_be_taken_for_topic_syntax_are_refused() {
        for bad in ["", "+", "a+b", "#", "a/b", "a:b", "-a", ".a", "a b", "a\0", "ä", "a\u{7f}"] {
            assert!(PrincipalName::parse(bad).is_err(), "{bad:?}");
        }
        assert!(PrincipalName::parse(&"a".repeat(256)).is_err());
    }

    #[test]
    fn names_are_kept_byte_for_byte() {
        for good in ["a", "A", "test.device.01", "x%41", "pump-0042_~", "0"] {
            assert_eq!(PrincipalName::parse(good).expect(good).as_str(), good);
        }
        assert_ne!(PrincipalName::parse("A").expect("A"), PrincipalName::parse("a").expect("a"));
        assert!(PrincipalName::parse(&"a".repeat(255)).is_ok());
    }

    #[test]
    fn registry_names_fit_into_urls_and_files() {
        assert!(RegistryName::parse("default").is_ok());
        for bad in ["", "Default", "a/b", "..", "-a", "a_b"] {
            assert!(RegistryName::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_error_names_the_character_and_where_it_stands() {
        let error = PrincipalName::parse("lamp#1").expect_err("`#` is not allowed").to_string();
        assert!(error.contains("'#'") && error.contains("byte 4"), "{error}");
    }
}
