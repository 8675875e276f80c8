//! The two JWTs that the documentation of the IoT IdP prints: real tokens of a real client.
#![cfg(feature = "aws-lc")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod tokens;

use drawbridge_jose::{BadSignature, Jws, JwsError, ParseOptions, PublicKey, base64url_decode};
use tokens::{p256_order, vectors};

#[test]
fn both_tokens_verify_under_the_registered_key_the_high_s_one_too() {
    let golden = vectors("iot-idp/golden.json");
    let key = PublicKey::from_jwk(golden["registered_key"].to_string().as_bytes()).unwrap();
    assert_eq!(key.thumbprint(), "SFEYDs8DTkhEu85exBSqX5ap-W26Mdxo7cNP0VNzUds");
    for (name, high_s) in [("login_jwt", true), ("update_jwt", false)] {
        let token = golden[name].as_str().unwrap();
        let jws = Jws::parse(token.as_bytes(), &ParseOptions::default()).unwrap();
        assert_eq!(jws.unverified_claims().unwrap().text("sub"), Ok(Some("test.device.01")));
        let verified = jws.verify(&key).unwrap();
        assert_eq!((verified.typ(), verified.kid()), (Some("JWT"), Some("test.device.01")));
        let claims = verified.claims().unwrap();
        assert_eq!(claims.text("jti").unwrap().map(str::len), Some(32));
        assert_eq!(claims.numeric_date_s("exp"), Ok(None));

        let s = &base64url_decode(token.rsplit('.').next().unwrap()).unwrap()[32..];
        assert_eq!(is_high(s), high_s, "{name}");
    }
}

#[test]
fn the_update_token_does_not_verify_under_the_key_it_carries() {
    let golden = vectors("iot-idp/golden.json");
    let token = golden["update_jwt"].as_str().unwrap();
    let jws = Jws::parse(token.as_bytes(), &ParseOptions::default()).unwrap();
    let claims = jws.unverified_claims().unwrap();
    let pem = claims.text("public_key").unwrap().unwrap();
    assert!(!pem.contains('\n') && pem.len() == 174);
    let new = PublicKey::from_spki_pem(pem).unwrap();
    assert_eq!(new.thumbprint(), "2OQ-jZZz7VA7F78y0ZVoRlk8tXnwQdjTxNztKmQBDdU");
    assert_eq!(jws.verify(&new).unwrap_err(), JwsError::Signature(BadSignature));
}

/// s > n/2, that is 2s >= n.
fn is_high(s: &[u8]) -> bool {
    let half: Vec<u8> = {
        let mut carry = 0;
        p256_order()
            .iter()
            .map(|byte| {
                let out = carry << 7 | byte >> 1;
                carry = byte & 1;
                out
            })
            .collect()
    };
    s > half.as_slice()
}
