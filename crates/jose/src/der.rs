//! The little DER that keys and signatures need: definite, minimal lengths, low tag numbers.

use alloc::vec::Vec;

pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const NULL: u8 = 0x05;
pub(crate) const OBJECT_IDENTIFIER: u8 = 0x06;
pub(crate) const SEQUENCE: u8 = 0x30;

/// Reads elements one after the other.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn peek_tag(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    /// The content of the next element if it has this tag and a minimal definite length.
    pub(crate) fn read(&mut self, tag: u8) -> Option<&'a [u8]> {
        let (&found, rest) = self.rest.split_first()?;
        if found != tag {
            return None;
        }
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81 => {
                let (&length, rest) = rest.split_first()?;
                (Some(usize::from(length)).filter(|length| *length >= 0x80)?, rest)
            }
            0x82 => {
                let (length, rest) = rest.split_first_chunk::<2>()?;
                (usize::from(u16::from_be_bytes(*length)), rest)
            }
            // 64 KiB are enough for every key we take; longer forms and 0x80 (indefinite) are refused.
            _ => return None,
        };
        if first == 0x82 && length < 0x100 {
            return None;
        }
        let (content, rest) = rest.split_at_checked(length)?;
        self.rest = rest;
        Some(content)
    }

    /// The next element if it is a positive INTEGER in minimal form, without its sign byte.
    /// Zero comes out as an empty slice.
    pub(crate) fn read_unsigned(&mut self) -> Option<&'a [u8]> {
        let content = self.read(INTEGER)?;
        match content {
            [] => None,
            [0] => Some(&[]),
            [0, next, ..] if *next < 0x80 => None,
            [0, magnitude @ ..] => Some(magnitude),
            [first, ..] if *first >= 0x80 => None,
            magnitude => Some(magnitude),
        }
    }
}

/// One element.
pub(crate) fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + 4);
    out.push(tag);
    match content.len() {
        length @ 0..=0x7f => out.push(length as u8),
        length @ 0x80..=0xff => out.extend_from_slice(&[0x81, length as u8]),
        length => {
            out.push(0x82);
            let length = u16::try_from(length).expect("callers write keys below 64 KiB");
            out.extend_from_slice(&length.to_be_bytes());
        }
    }
    out.extend_from_slice(content);
    out
}

/// One SEQUENCE of elements already encoded.
pub(crate) fn sequence(elements: &[&[u8]]) -> Vec<u8> {
    element(SEQUENCE, &elements.concat())
}

/// One INTEGER from a big-endian magnitude without leading zeros.
pub(crate) fn unsigned(magnitude: &[u8]) -> Vec<u8> {
    let mut content = Vec::with_capacity(magnitude.len() + 1);
    if magnitude.first().is_none_or(|first| *first >= 0x80) {
        content.push(0);
    }
    content.extend_from_slice(magnitude);
    element(INTEGER, &content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_minimal_definite_lengths_are_read() {
        for good in [&[0x30, 0x00][..], &[0x30, 0x01, 0xff]] {
            assert!(Reader::new(good).read(SEQUENCE).is_some(), "{good:?}");
        }
        for bad in [
            &[0x30][..],
            &[0x30, 0x80, 0x00, 0x00],
            &[0x30, 0x81, 0x01, 0xff],
            &[0x30, 0x82, 0x00, 0x01, 0xff],
            &[0x30, 0x02, 0xff],
            &[0x31, 0x00],
        ] {
            assert!(Reader::new(bad).read(SEQUENCE).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn only_minimal_positive_integers_are_read() {
        assert_eq!(Reader::new(&[2, 1, 0]).read_unsigned(), Some(&[][..]));
        assert_eq!(Reader::new(&[2, 2, 0, 0x80]).read_unsigned(), Some(&[0x80][..]));
        for bad in [&[2, 0][..], &[2, 1, 0x80], &[2, 2, 0, 0x7f], &[2, 2, 0, 0]] {
            assert_eq!(Reader::new(bad).read_unsigned(), None, "{bad:?}");
        }
    }

    #[test]
    fn what_is_written_is_read_back_at_every_length_form() {
        for length in [0, 1, 0x7f, 0x80, 0xff, 0x100, 0x1234] {
            let content = alloc::vec![7; length];
            assert_eq!(Reader::new(&element(4, &content)).read(4), Some(&content[..]));
        }
    }
}
