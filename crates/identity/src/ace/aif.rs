//! AIF-MQTT in CBOR, as it stands in the `scope` of a CWT, and the same in the form of a JWT.

use coset::cbor::Value;
use drawbridge_jose::{base64url_decode, base64url_encode};

use super::cbor;
use super::fault::AceFault;

/// Turns `scope` of a CWT (AIF-MQTT in CBOR) into that of a JWT: base64url of AIF-MQTT in JSON. Filters and
/// permissions are judged where grants are read.
///
/// # Errors
/// [`AceFault::Format`] for anything that is not an array of pairs of a text and an array of texts.
///
/// Source: RFC 9431 section 3, RFC 9237 section 3.
pub fn scope_from_cbor(bytes: &[u8]) -> Result<String, AceFault> {
    let malformed = || AceFault::Format("`scope` is no array of [topic filter, [permissions]]".to_owned());
    let pairs = cbor::read(bytes)?.into_array().map_err(|_| malformed())?;
    let mut json = Vec::with_capacity(pairs.len());
    for pair in pairs {
        let Ok([filter, permissions]) = <[Value; 2]>::try_from(pair.into_array().map_err(|_| malformed())?)
        else {
            return Err(malformed());
        };
        let permissions = permissions.into_array().map_err(|_| malformed())?;
        let permissions: Result<Vec<serde_json::Value>, _> =
            permissions.into_iter().map(|text| text.into_text().map(Into::into)).collect();
        let filter = filter.into_text().map_err(|_| malformed())?;
        json.push(serde_json::json!([filter, permissions.map_err(|_| malformed())?]));
    }
    Ok(base64url_encode(serde_json::Value::Array(json).to_string().as_bytes()))
}

/// The reverse of [`scope_from_cbor`].
///
/// # Errors
/// [`AceFault::Format`] when it is none.
pub fn scope_to_cbor(scope: &str) -> Result<Vec<u8>, AceFault> {
    let malformed = || AceFault::Format("`scope` is no base64url of AIF-MQTT in JSON".to_owned());
    let bytes = base64url_decode(scope).map_err(|_| malformed())?;
    let pairs: Vec<(String, Vec<String>)> = serde_json::from_slice(&bytes).map_err(|_| malformed())?;
    let pairs = pairs.into_iter().map(|(filter, permissions)| {
        let permissions = permissions.into_iter().map(Value::Text).collect();
        Value::Array(vec![Value::Text(filter), Value::Array(permissions)])
    });
    Ok(cbor::write(&Value::Array(pairs.collect())))
}
