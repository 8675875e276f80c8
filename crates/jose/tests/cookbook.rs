//! RFC 7520 and RFC 8037: what our algorithms sign is verified and made again byte for byte; the other
//! algorithms and private keys are refused.
#![cfg(feature = "aws-lc")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod tokens;

use drawbridge_jose::{
    Algorithm, Header, JsonError, Jws, JwsError, KeyError, ParseOptions, PublicKey, Segment, SigningKey,
    base64url_decode, sign_compact,
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

/// The 8 examples of section 4 in each form they are printed in: our algorithm in the compact form verifies,
/// and only that.
#[test]
fn of_the_eight_examples_ours_verify_and_all_else_is_refused() {
    let not_ours = JwsError::AlgorithmRefused;
    let (mut verified, mut refused) = (0, 0);
    for (name, alg, compact) in [
        ("4_1.rsa_v15_signature", "RS256", Some(None)),
        ("4_2.rsa-pss_signature", "PS384", Some(Some(&not_ours))),
        ("4_3.ecdsa_signature", "ES512", Some(Some(&not_ours))),
        ("4_4.hmac-sha2_integrity_protection", "HS256", Some(Some(&not_ours))),
        ("4_5.signature_with_detached_content", "HS256", Some(Some(&not_ours))),
        ("4_6.protecting_specific_header_fields", "HS256", None),
        ("4_7.protecting_content_only", "HS256", None),
        ("4_8.multiple_signatures", "RS256", None),
    ] {
        let example = vectors(&format!("jose-cookbook/jws/{name}.json"));
        let stated = &example["input"]["alg"];
        assert_eq!(stated.get(0).unwrap_or(stated), alg);
        let output = example["output"].as_object().unwrap();
        assert_eq!(output.get("compact").is_some(), compact.is_some(), "{name}");
        for (form, token) in output {
            let token = token.as_str().map_or_else(|| token.to_string(), str::to_owned);
            let found = Jws::parse(token.as_bytes(), &ParseOptions::default()).err();
            match compact.filter(|_| form == "compact") {
                Some(None) => {
                    assert_eq!(found, None, "{name}");
                    verified += 1;
                }
                Some(Some(wanted)) => {
                    assert_eq!(found.as_ref(), Some(wanted), "{name}");
                    refused += 1;
                }
                // Braces are no base64url; without any dot it is not even cut.
                None => {
                    assert!(
                        matches!(found, Some(JwsError::Segments { .. } | JwsError::Base64 { .. })),
                        "{name} {form}: {found:?}"
                    );
                    refused += 1;
                }
            }
        }
    }
    assert_eq!((verified, refused), (1, 19));
}

/// The first of the three signatures of section 4.8 is RS256 over a protected header: as a compact token it
/// is one of ours. The two others are not.
#[test]
fn the_signatures_of_section_4_8_are_judged_one_by_one() {
    let example = vectors("jose-cookbook/jws/4_8.multiple_signatures.json");
    let key = PublicKey::from_jwk(&public_jwk(&example["input"]["key"][0])).unwrap();
    let json = &example["output"]["json"];
    let judged: Vec<_> = json["signatures"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| {
            let part = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let token = [part(&one["protected"]), part(&json["payload"]), part(&one["signature"])].join(".");
            Jws::parse(token.as_bytes(), &ParseOptions::default())
                .and_then(|jws| jws.verify(&key).map(|verified| verified.algorithm()))
        })
        .collect();
    let empty = JwsError::Json { segment: Segment::Header, why: JsonError::Syntax };
    assert_eq!(judged, [Ok(Algorithm::Rs256), Err(empty), Err(JwsError::AlgorithmRefused)]);
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
