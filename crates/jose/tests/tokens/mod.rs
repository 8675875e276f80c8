//! Tokens and keys made by hand, and those of others from `tests/vectors`.
#![allow(dead_code, reason = "each test file uses its part")]

use std::path::Path;

use drawbridge_jose::{Sign, SigningKey, base64url_encode};
use serde_json::Value;

pub(crate) fn vectors(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(name);
    serde_json::from_slice(
        &std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())),
    )
    .unwrap()
}

/// The public part of a JWK.
pub(crate) fn public_jwk(jwk: &Value) -> Vec<u8> {
    let mut members = jwk.as_object().unwrap().clone();
    for private in ["d", "p", "q", "dp", "dq", "qi"] {
        members.remove(private);
    }
    serde_json::to_vec(&members).unwrap()
}

/// A token with exactly this header, rightly signed.
pub(crate) fn craft(key: &SigningKey, header: &[u8], payload: &[u8]) -> String {
    let input = format!("{}.{}", base64url_encode(header), base64url_encode(payload));
    let signature = key.sign(input.as_bytes()).unwrap();
    format!("{input}.{}", base64url_encode(&signature))
}

/// DER of one element, for keys and signatures made by hand.
pub(crate) fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let mut out = vec![tag];
    match content.len() {
        n @ 0..=0x7f => out.push(n as u8),
        n @ 0x80..=0xff => out.extend([0x81, n as u8]),
        n => out.extend([0x82, (n >> 8) as u8, n as u8]),
    }
    out.extend(content);
    out
}

/// DER of a positive INTEGER.
pub(crate) fn integer(magnitude: &[u8]) -> Vec<u8> {
    let start = magnitude.iter().position(|byte| *byte != 0).unwrap_or(magnitude.len());
    let minimal = &magnitude[start..];
    let sign: &[u8] = if minimal.first().is_none_or(|first| *first >= 0x80) { &[0] } else { &[] };
    der(2, &[sign, minimal])
}

pub(crate) fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

/// The order of P-256.
pub(crate) fn p256_order() -> Vec<u8> {
    hex("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551")
}
