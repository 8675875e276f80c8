//! Topic names: where a message goes (MQTT 4.7).

use std::fmt;

/// Why a text is no topic name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TopicNameError {
    /// [MQTT-4.7.3-1] (both versions): at least one character.
    #[error("the topic name is empty; wanted at least one character")]
    Empty,
    /// [MQTT-3.3.2-2] (both versions): no wildcards in PUBLISH.
    #[error(
        "the topic name has the wildcard {found:?} at byte {at}; a message goes to one topic, only a subscription may use wildcards"
    )]
    Wildcard {
        /// `+` or `#`.
        found: char,
        /// Byte offset.
        at: usize,
    },
    /// [MQTT-4.7.3-2] (both versions): no NUL; and no other control character (MQTT 5.0 1.5.4 lets a
    /// receiver refuse U+0001..U+001F and U+007F..U+009F).
    #[error("the topic name has the control character {found:?} at byte {at}; remove it")]
    Control {
        /// The character.
        found: char,
        /// Byte offset.
        at: usize,
    },
    /// [MQTT-4.7.3-3] (both versions): 65,535 bytes at most.
    #[error("the topic name has {found_bytes} bytes, at most 65535 are allowed; shorten it")]
    TooLong {
        /// Length found, in bytes.
        found_bytes: usize,
    },
}

/// A topic name, borrowed from the bytes it came in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicName<'a>(&'a str);

impl<'a> TopicName<'a> {
    /// Takes a text as a topic name.
    ///
    /// # Errors
    /// [`TopicNameError`] when it is empty, too long, or has a wildcard or a control character.
    ///
    /// Source: MQTT 5.0 and 3.1.1, sections 4.7.1 and 4.7.3.
    #[inline]
    pub fn parse(text: &'a str) -> Result<Self, TopicNameError> {
        if text.is_empty() {
            return Err(TopicNameError::Empty);
        }
        if text.len() > 65_535 {
            return Err(TopicNameError::TooLong { found_bytes: text.len() });
        }
        if is_plain(text.as_bytes()) {
            return Ok(Self(text));
        }
        Self::parse_slowly(text)
    }

    #[inline(never)]
    fn parse_slowly(text: &'a str) -> Result<Self, TopicNameError> {
        // One pass over the bytes: U+0080..U+009F is C2 80..C2 9F in UTF-8.
        let bytes = text.as_bytes();
        for (at, &byte) in bytes.iter().enumerate() {
            match byte {
                b'+' | b'#' => return Err(TopicNameError::Wildcard { found: char::from(byte), at }),
                0..=0x1f | 0x7f => return Err(TopicNameError::Control { found: char::from(byte), at }),
                0xc2 => {
                    let next = bytes[at + 1]; // UTF-8: a lead byte is never last
                    if next <= 0x9f {
                        return Err(TopicNameError::Control { found: char::from(next), at });
                    }
                }
                _ => {}
            }
        }
        Ok(Self(text))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(self) -> &'a str {
        self.0
    }

    /// Its levels, split at `/`; a level may be empty.
    pub fn levels(self) -> std::str::Split<'a, char> {
        self.0.split('/')
    }

    /// Whether it begins with `$`: such a topic is matched only by filters that name the `$` level.
    ///
    /// Source: [MQTT-4.7.2-1] (both versions).
    #[must_use]
    pub fn is_dollar(self) -> bool {
        self.0.starts_with('$')
    }
}

/// Whether all bytes are ASCII that no rule speaks of, as in nearly every topic. Many bytes are judged at
/// once, those at the end perhaps twice.
#[inline]
fn is_plain(bytes: &[u8]) -> bool {
    // `+` is `#` with one more bit.
    let special = |byte: u8| byte.wrapping_sub(b' ') > b'~' - b' ' || byte | 0x08 == b'+';
    let mut found = [false; 16];
    if let Some(last) = bytes.last_chunk::<16>() {
        for chunk in bytes.as_chunks::<16>().0 {
            for at in 0..16 {
                found[at] |= special(chunk[at]);
            }
        }
        for at in 0..16 {
            found[at] |= special(last[at]);
        }
    } else if let (Some(first), Some(last)) = (bytes.first_chunk::<8>(), bytes.last_chunk::<8>()) {
        for at in 0..8 {
            found[at] = special(first[at]);
            found[at + 8] = special(last[at]);
        }
    } else {
        return !bytes.iter().any(|byte| special(*byte));
    }
    found == [false; 16]
}

impl fmt::Display for TopicName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl fmt::Debug for TopicName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_controls_and_emptiness_are_refused() {
        for bad in ["", "a/+", "a/#", "a+b", "a\0", "a\n", "a\u{7f}", "a\u{85}", "a\u{9f}b"] {
            assert!(TopicName::parse(bad).is_err(), "{bad:?}");
        }
        assert!(TopicName::parse(&"a".repeat(65_536)).is_err());
    }

    #[test]
    fn at_every_place_of_every_length_each_byte_is_judged_alike() {
        for length in 1..40 {
            for at in 0..length {
                for byte in 0..=0x7f_u8 {
                    let mut bytes = vec![b'a'; length];
                    bytes[at] = byte;
                    let text = String::from_utf8(bytes).expect("ASCII");
                    let found = char::from(byte);
                    let wanted = match byte {
                        b'+' | b'#' => Err(TopicNameError::Wildcard { found, at }),
                        0..0x20 | 0x7f => Err(TopicNameError::Control { found, at }),
                        _ => Ok(TopicName(&text)),
                    };
                    assert_eq!(TopicName::parse(&text), wanted, "{byte:#x} at {at} of {length}");
                }
            }
        }
    }

    #[test]
    fn spaces_slashes_and_unicode_are_ordinary() {
        for good in ["/", "a", "/a//b/", "a b", "é\u{a0}", "$SYS/x", "日本"] {
            assert_eq!(TopicName::parse(good).expect(good).as_str(), good);
        }
    }
}
