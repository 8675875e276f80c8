//! The Wycheproof files of the signature primitives, with exact counts: ECDSA in the form of a JWS (P1363) and
//! in that of the legacy proof of possession (DER), Ed25519, RSA PKCS#1 v1.5 and PSS. What a case says is
//! compared with what a [`PublicKey`] says; which gate refuses is compared with a rule of this file.
#![cfg(feature = "aws-lc")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod tokens;

use drawbridge_jose::{
    Algorithm, Jws, JwsError, KeyError, ParseOptions, PublicKey, Verify as _, base64url_encode,
    ecdsa_der_to_raw,
};
use serde_json::Value;
use tokens::{hex, p256_order, vectors};

struct Case<'a> {
    id: u64,
    key: Result<PublicKey, KeyError>,
    message: Vec<u8>,
    signature: Vec<u8>,
    result: &'a str,
}

impl Case<'_> {
    fn verifies(&self) -> bool {
        self.key.as_ref().unwrap().verify(&self.message, &self.signature).is_ok()
    }
}

/// Every case of a file, for one algorithm. Where a group gives its key as JWK too, both are one key.
fn cases(file: &Value, algorithm: Algorithm) -> Vec<Case<'_>> {
    let mut cases = Vec::new();
    for group in file["testGroups"].as_array().unwrap() {
        let der = hex(group["publicKeyDer"].as_str().unwrap());
        let key = PublicKey::from_spki_der_with(&der, algorithm);
        for jwk in ["publicKeyJwk", "keyJwk"].into_iter().filter_map(|name| group.get(name)) {
            assert_eq!(PublicKey::from_jwk(jwk.to_string().as_bytes()), key, "two forms of one key");
        }
        if let Ok(key) = &key {
            assert_eq!(key.spki_der(), der);
            let pem = PublicKey::from_pem(group["publicKeyPem"].as_str().unwrap()).unwrap();
            assert_eq!(pem.thumbprint(), key.thumbprint());
        }
        for case in group["tests"].as_array().unwrap() {
            cases.push(Case {
                id: case["tcId"].as_u64().unwrap(),
                key: key.clone(),
                message: hex(case["msg"].as_str().unwrap()),
                signature: hex(case["sig"].as_str().unwrap()),
                result: case["result"].as_str().unwrap(),
            });
        }
    }
    assert_eq!(file["numberOfTests"].as_u64(), Some(cases.len() as u64));
    cases
}

fn is_out_of_range(half: &[u8], order: &[u8]) -> bool {
    half.iter().all(|byte| *byte == 0) || half >= order
}

fn p384_order() -> Vec<u8> {
    hex("ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973")
}

#[test]
fn every_ecdsa_case_in_jws_form_is_right() {
    for (name, algorithm, order, total, valid, length, range) in [
        ("secp256r1_sha256", Algorithm::Es256, p256_order(), 262, 173, 21, 50),
        ("secp384r1_sha384", Algorithm::Es384, p384_order(), 280, 193, 19, 50),
    ] {
        let file = vectors(&format!("wycheproof/ecdsa_{name}_p1363_test.json"));
        let cases = cases(&file, algorithm);
        let (mut accepted, mut wrong_length, mut out_of_range) = (0, 0, 0);
        for case in &cases {
            let id = case.id;
            assert_eq!(case.verifies(), case.result == "valid", "{name} {id}");
            accepted += usize::from(case.verifies());
            // The parser refuses by form alone exactly what has a wrong form, before it knows the key.
            let token = format!(
                "{}.e30.{}",
                base64url_encode(format!(r#"{{"alg":"{algorithm}"}}"#).as_bytes()),
                base64url_encode(&case.signature)
            );
            let parsed = Jws::parse(token.as_bytes(), &ParseOptions::default());
            let halves = case.signature.split_at_checked(order.len());
            match parsed.err() {
                Some(JwsError::SignatureLength { found, wanted }) => {
                    assert!(found == case.signature.len() && wanted == 2 * order.len() && found != wanted);
                    wrong_length += 1;
                }
                Some(JwsError::SignatureRange) => {
                    let (r, s) = halves.unwrap();
                    assert!(is_out_of_range(r, &order) || is_out_of_range(s, &order), "{name} {id}");
                    out_of_range += 1;
                }
                Some(other) => panic!("{name} {id}: {other}"),
                None => {
                    let (r, s) = halves.unwrap();
                    assert!(s.len() == order.len(), "{name} {id}");
                    assert!(!is_out_of_range(r, &order) && !is_out_of_range(s, &order), "{name} {id}");
                }
            }
        }
        assert_eq!((cases.len(), accepted), (total, valid), "{name}");
        assert_eq!((wrong_length, out_of_range), (length, range), "{name}: refused by form");
    }
}

#[test]
fn every_ecdsa_case_in_der_is_right_and_only_minimal_der_is_read() {
    for (name, algorithm, total, valid, encoding, range) in [
        ("secp256r1_sha256", Algorithm::Es256, 484, 174, 219, 68),
        ("secp384r1_sha384", Algorithm::Es384, 504, 194, 219, 68),
    ] {
        let file = vectors(&format!("wycheproof/ecdsa_{name}_test.json"));
        let cases = cases(&file, algorithm);
        let (mut accepted, mut not_der, mut out_of_range) = (0, 0, 0);
        for case in &cases {
            let id = case.id;
            let key = case.key.as_ref().unwrap();
            let good = match ecdsa_der_to_raw(&case.signature, algorithm) {
                Ok(raw) => {
                    // What is read has one spelling.
                    let (r, s) = raw.split_at(raw.len() / 2);
                    let again = tokens::der(0x30, &[&tokens::integer(r), &tokens::integer(s)]);
                    assert_eq!(again, case.signature, "{name} {id}");
                    key.verify(&case.message, &raw).is_ok()
                }
                Err(refusal) => {
                    not_der += usize::from(refusal == JwsError::SignatureEncoding);
                    out_of_range += usize::from(refusal == JwsError::SignatureRange);
                    false
                }
            };
            assert_eq!(good, case.result == "valid", "{name} {id}");
            accepted += usize::from(good);
            // The DER form never passes where `r || s` is wanted.
            assert!(!case.verifies(), "{name} {id}");
        }
        assert_eq!((cases.len(), accepted), (total, valid), "{name}");
        assert_eq!((not_der, out_of_range), (encoding, range), "{name}: refused by form");
    }
}

#[test]
fn every_ed25519_case_is_right() {
    let file = vectors("wycheproof/ed25519_test.json");
    let cases = cases(&file, Algorithm::EdDsa);
    for case in &cases {
        assert_eq!(case.verifies(), case.result == "valid", "{}", case.id);
    }
    assert_eq!((cases.len(), cases.iter().filter(|case| case.verifies()).count()), (151, 88));
}

/// "Acceptable" is one case a file, a DigestInfo without NULL: we refuse it. Keys with e = 3 are refused
/// before any signature is looked at.
#[test]
fn every_rsa_pkcs1_case_is_right() {
    for (bits, total, valid, refused_keys) in [(2048, 259, 7, 2), (3072, 259, 7, 1), (4096, 258, 7, 0)] {
        let file = vectors(&format!("wycheproof/rsa_signature_{bits}_sha256_test.json"));
        let (mut accepted, mut refused) = (0, 0);
        let cases = cases(&file, Algorithm::Rs256);
        for case in &cases {
            match &case.key {
                Ok(_) => {
                    assert_eq!(case.verifies(), case.result == "valid", "{bits} {}", case.id);
                    accepted += usize::from(case.verifies());
                }
                Err(refusal) => {
                    assert_eq!(refusal, &KeyError::RsaExponent, "{bits} {}", case.id);
                    refused += 1;
                }
            }
        }
        assert_eq!((cases.len(), accepted, refused), (total, valid, refused_keys), "{bits}");
    }
}

#[test]
fn every_rsa_pss_case_is_right_and_other_parameters_are_refused() {
    for bits in [2048, 3072, 4096] {
        let file = vectors(&format!("wycheproof/rsa_pss_{bits}_sha256_mgf1_32_test.json"));
        let cases = cases(&file, Algorithm::Ps256);
        for case in &cases {
            assert_eq!(case.verifies(), case.result == "valid", "{bits} {}", case.id);
        }
        assert_eq!((cases.len(), cases.iter().filter(|case| case.verifies()).count()), (108, 63), "{bits}");
    }
    // RFC 7518 section 3.5: the salt is as long as the hash, MGF1 uses the same hash.
    // 69 of the first file is a wrong salt length there and the right one here.
    for (name, total, ours) in
        [("rsa_pss_2048_sha256_mgf1_0", 103, &[69][..]), ("rsa_pss_2048_sha256_mgf1sha1_20", 108, &[])]
    {
        let file = vectors(&format!("wycheproof/{name}_test.json"));
        let cases = cases(&file, Algorithm::Ps256);
        let accepted: Vec<u64> = cases.iter().filter(|case| case.verifies()).map(|case| case.id).collect();
        assert_eq!((cases.len(), accepted.as_slice()), (total, ours), "{name}");
    }
}

/// A signature of one scheme never passes as one of the other, under the same RSA key. The two cases named
/// are there on purpose: 108 of the PSS file is a PKCS#1 v1.5 signature, 257 of the other one of PSS.
#[test]
fn an_rs256_key_takes_no_pss_signature_and_a_ps256_key_no_other() {
    for (name, other, wanted) in [
        ("rsa_pss_2048_sha256_mgf1_32_test", Algorithm::Rs256, &[108][..]),
        ("rsa_signature_2048_sha256_test", Algorithm::Ps256, &[257]),
    ] {
        let file = vectors(&format!("wycheproof/{name}.json"));
        let mut accepted = Vec::new();
        for group in file["testGroups"].as_array().unwrap() {
            let der = hex(group["publicKeyDer"].as_str().unwrap());
            let Ok(key) = PublicKey::from_spki_der_with(&der, other) else { continue };
            for case in group["tests"].as_array().unwrap() {
                let [message, signature] = ["msg", "sig"].map(|name| hex(case[name].as_str().unwrap()));
                if key.verify(&message, &signature).is_ok() {
                    accepted.push(case["tcId"].as_u64().unwrap());
                }
            }
        }
        assert_eq!(accepted, wanted, "{name}");
    }
}
