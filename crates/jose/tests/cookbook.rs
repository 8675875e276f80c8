//! RFC 7520 and RFC 8037: what our algorithms sign is verified and made again byte for byte; the other
//! algorithms and private keys are refused.
#![cfg(feature = "aws-lc")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod tokens;

use drawbridge_jose::{
    Algorithm, Header, Jws, JwsError, KeyError, ParseOptions, PublicKey, SigningKey, base64url_decode,
    sign_compact,
};
use serde_json::Value;
use tokens::{der, integer, public_jwk, vectors};

#[test]
fn rs256_of_section_4_1_verifies_and_is_made_again_byte_for_byte() {
    let example = vectors("jose-cookbook/jws/4_1.rsa_v15_signature.json");
    let token = verified(&example, Algorithm::Rs256);
    let key = rsa_signing_key(&example["input"]["key"]);
    let header = Header { kid: example["input"]["key"]["kid"].as_str(), ..Header::default() };
    let payload = example["input"]["payload"].as_str().unwrap();
    assert_eq!(sign_compact(&header, payload.as_bytes(), &key).unwrap(), token);
}

#[test]
fn ed25519_of_rfc_8037_verifies_and_is_made_again_byte_for_byte() {
    let example = vectors("jose-cookbook/curve25519/jws.json");
    let token = verified(&example, Algorithm::EdDsa);
    let seed = base64url_decode(example["input"]["key"]["d"].as_str().unwrap()).unwrap();
    let oid = [0x2b, 0x65, 0x70];
    let pkcs8 = der(0x30, &[&integer(&[]), &der(0x30, &[&der(6, &[&oid])]), &der(4, &[&der(4, &[&seed])])]);
    let key = SigningKey::from_pkcs8_der(&pkcs8).unwrap();
    assert_eq!(sign_compact(&Header::default(), b"Example of Ed25519 signing", &key).unwrap(), token);
    // RFC 8037 appendix A.3 prints the thumbprint.
    assert_eq!(key.public_key().thumbprint(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
}

#[test]
fn the_thumbprint_of_rfc_7638_section_3_1_comes_out() {
    let key = concat!(
        r#"{"kty":"RSA","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhM"#,
        r#"stn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbI"#,
        r#"SD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw","#,
        r#""e":"AQAB","alg":"RS256","kid":"2011-04-29"}"#
    );
    assert_eq!(
        PublicKey::from_jwk(key.as_bytes()).unwrap().thumbprint(),
        "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
    );
}

#[test]
fn examples_of_algorithms_outside_the_set_are_refused() {
    for (name, alg) in [
        ("4_2.rsa-pss_signature", "PS384"),
        ("4_3.ecdsa_signature", "ES512"),
        ("4_4.hmac-sha2_integrity_protection", "HS256"),
    ] {
        let example = vectors(&format!("jose-cookbook/jws/{name}.json"));
        assert_eq!(example["input"]["alg"], alg);
        let token = example["output"]["compact"].as_str().unwrap();
        let refusal = Jws::parse(token.as_bytes(), &ParseOptions::default()).unwrap_err();
        assert_eq!(refusal, JwsError::AlgorithmRefused, "{name}");
    }
}

#[test]
fn keys_of_section_3_are_taken_or_refused_by_kind() {
    for (name, wanted) in [
        ("3_1.ec_public_key", Some(KeyError::Curve)), // P-521
        ("3_2.ec_private_key", Some(KeyError::PrivateKey)),
        ("3_3.rsa_public_key", None),
        ("3_4.rsa_private_key", Some(KeyError::PrivateKey)),
        ("3_5.symmetric_key_mac_computation", Some(KeyError::PrivateKey)),
    ] {
        let key = vectors(&format!("jose-cookbook/jwk/{name}.json"));
        assert_eq!(PublicKey::from_jwk(key.to_string().as_bytes()).err(), wanted, "{name}");
    }
}

/// The compact token, after it verified under the public part of its key.
fn verified(example: &Value, algorithm: Algorithm) -> String {
    let key = &example["input"]["key"];
    assert_eq!(PublicKey::from_jwk(key.to_string().as_bytes()), Err(KeyError::PrivateKey));
    let key = PublicKey::from_jwk(&public_jwk(key)).unwrap();
    assert_eq!(key.algorithm(), algorithm);
    let token = example["output"]["compact"].as_str().unwrap();
    let jws = Jws::parse(token.as_bytes(), &ParseOptions::default()).unwrap();
    let payload = example["input"]["payload"].as_str().unwrap();
    assert_eq!(jws.verify(&key).unwrap().payload(), payload.as_bytes());
    token.to_owned()
}

fn rsa_signing_key(jwk: &Value) -> SigningKey {
    let number = |name: &str| integer(&base64url_decode(jwk[name].as_str().unwrap()).unwrap());
    let numbers: Vec<u8> = ["n", "e", "d", "p", "q", "dp", "dq", "qi"].into_iter().flat_map(number).collect();
    let pkcs1 = der(0x30, &[&integer(&[]), &numbers]);
    let oid = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
    let pkcs8 =
        der(0x30, &[&integer(&[]), &der(0x30, &[&der(6, &[&oid]), &der(5, &[])]), &der(4, &[&pkcs1])]);
    SigningKey::from_pkcs8_der(&pkcs8).unwrap()
}
