//! CBOR, read strictly: one value has one encoding here.

use coset::cbor::Value;

use super::fault::AceFault;

/// Items within each other. The deepest that is wanted: a key in `cnf` in a request.
const DEPTH_MAX: usize = 8;

/// Reads one item and nothing after it. Refused are lengths and numbers in a longer form than needed, items of
/// indefinite length, maps that name a key twice, and what is nested too deep.
///
/// Source: RFC 8949 sections 3 and 4.1 (preferred serialization), 5.6 (no duplicate keys).
pub(super) fn read(bytes: &[u8]) -> Result<Value, AceFault> {
    let mut rest = bytes;
    let value: Value = coset::cbor::de::from_reader_with_recursion_limit(&mut rest, DEPTH_MAX)
        .map_err(|_| AceFault::Format("it is not CBOR, or is nested too deep".to_owned()))?;
    if !rest.is_empty() {
        return Err(AceFault::Format("bytes follow the end of the CBOR item".to_owned()));
    }
    if write(&value) != bytes {
        return Err(AceFault::Format("the CBOR is not in its shortest form".to_owned()));
    }
    judge_keys(&value)?;
    Ok(value)
}

/// Writes an item.
pub(super) fn write(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    coset::cbor::ser::into_writer(value, &mut bytes).expect("a vector takes every byte");
    bytes
}

fn judge_keys(value: &Value) -> Result<(), AceFault> {
    match value {
        Value::Array(items) => items.iter().try_for_each(judge_keys),
        Value::Tag(_, inner) => judge_keys(inner),
        Value::Map(members) => {
            for (at, (key, value)) in members.iter().enumerate() {
                if members[..at].iter().any(|(earlier, _)| earlier == key) {
                    return Err(AceFault::Format("a map names one key twice".to_owned()));
                }
                judge_keys(key)?;
                judge_keys(value)?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// A map of this profile: labels are numbers, or texts for what has no number.
#[derive(Debug, Default)]
pub(super) struct Members(Vec<(Value, Value)>);

impl Members {
    /// Takes a map; `what`: its name in texts.
    pub(super) fn of(value: Value, what: &str) -> Result<Self, AceFault> {
        match value {
            Value::Map(members) => Ok(Self(members)),
            _ => Err(AceFault::Format(format!("{what} is no map"))),
        }
    }

    pub(super) fn take(&mut self, label: i64) -> Option<Value> {
        let at = self.0.iter().position(|(key, _)| *key == Value::from(label))?;
        Some(self.0.swap_remove(at).1)
    }

    pub(super) fn take_named(&mut self, name: &str) -> Option<Value> {
        let at = self.0.iter().position(|(key, _)| key.as_text() == Some(name))?;
        Some(self.0.swap_remove(at).1)
    }

    /// That nothing is left.
    pub(super) fn finish(self, what: &str) -> Result<(), AceFault> {
        match self.0.is_empty() {
            true => Ok(()),
            false => Err(AceFault::Format(format!("{what} has a member that is not known here"))),
        }
    }
}

/// A member of a type, or the fault that names it.
pub(super) fn text(value: Value, what: &str) -> Result<String, AceFault> {
    value.into_text().map_err(|_| AceFault::Format(format!("{what} is no text")))
}

pub(super) fn byte_string(value: Value, what: &str) -> Result<Vec<u8>, AceFault> {
    value.into_bytes().map_err(|_| AceFault::Format(format!("{what} is no byte string")))
}

pub(super) fn number(value: &Value, what: &str) -> Result<u64, AceFault> {
    let number = value.as_integer().and_then(|number| u64::try_from(number).ok());
    number.ok_or_else(|| AceFault::Format(format!("{what} is no number, or is negative")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_value_has_one_encoding() {
        for good in [&[0xa1, 0x01, 0x02][..], &[0x80], &[0x82, 0x01, 0x61, 0x61], &[0xd2, 0x80], &[0xf6]] {
            assert!(read(good).is_ok(), "{good:02x?}");
        }
        for (bad, why) in [
            (&[][..], "nothing"),
            (&[0x80, 0x80], "two items"),
            (&[0x18, 0x01], "1 in two bytes"),
            (&[0x98, 0x00], "a length in two bytes"),
            (&[0x9f, 0xff], "an array without length"),
            (&[0x5f, 0x41, 0x01, 0xff], "a byte string in chunks"),
            (&[0xbf, 0xff], "a map without length"),
            (&[0xa2, 0x01, 0x02, 0x01, 0x03], "a key twice"),
            (&[0xa1, 0x01, 0xa2, 0x01, 0x02, 0x01, 0x03], "a key twice further in"),
            (&[0xf7], "undefined"),
            (&[0xc2, 0x41, 0x01], "1 as a bignum"),
            (&[0xfb, 0x3f, 0xf0, 0, 0, 0, 0, 0, 0], "1.0 in eight bytes"),
            (&[0x5b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], "more bytes than there are"),
            (&[0x9b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], "more items than there are"),
            (&[0x81; 64], "too deep"),
            (&[0x61, 0xff], "no UTF-8"),
        ] {
            assert!(read(bad).is_err(), "{why}: {bad:02x?}");
        }
    }
}
