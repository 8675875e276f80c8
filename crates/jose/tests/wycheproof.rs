//! The Wycheproof files, every case accounted for: right, left out with a reason, or a known quirk of the
//! file. `vectors/wycheproof/README.md` tells where the 393 of 401 come from; we accept fewer algorithms than
//! the files hold, so the 393 divide into cases that concern our algorithms (all must come out as labelled)
//! and cases left out (all must be refused, and none counts as passed).
#![cfg(feature = "aws-lc")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod tokens;

use std::collections::BTreeMap;

use drawbridge_jose::{Jws, JwsError, KeyError, ParseOptions, PublicKey};
use serde_json::Value;
use tokens::vectors;

/// Labels that a strict verifier disagrees with; see the README of the data. We refuse all eight: 346, 347,
/// 350 and 351 for the algorithm of their key, the others because they are HS256.
const QUIRKS: [u64; 8] = [346, 347, 350, 351, 367, 370, 372, 373];

/// Cases left out of the signature file, by reason, counted by hand from the groups of the file:
/// HS256 is group 0 without its JSON case (16), 12 and 16 (1 each), 21 without its four quirks (17).
const SIGNATURES_LEFT_OUT: [(&str, usize); 6] = [
    ("HS256: no HMAC in Drawbridge", 35),
    ("JSON serialisation: compact only", 1),
    ("PS384: not in the allowed set", 5),
    ("PS512: not in the allowed set", 20),
    ("RS384: not in the allowed set", 4),
    ("RS512: not in the allowed set", 4),
];
const SIGNATURES_OURS: usize = 324;

#[test]
fn every_signature_case_is_right_left_out_or_a_known_quirk_and_393_is_the_full_mark() {
    let file = vectors("wycheproof/json_web_signature_test.json");
    let mut left_out = BTreeMap::<String, usize>::new();
    let (mut ours, mut quirks) = (0, 0);
    for (group, case) in cases(&file) {
        let id = case["tcId"].as_u64().unwrap();
        let token = case["jws"].as_str().unwrap();
        let labelled_valid = case["result"] == "valid";
        let judged = judge(group, token);
        if QUIRKS.contains(&id) {
            quirks += 1;
            assert!(judged.is_err(), "quirk {id}");
        } else if let Some(reason) = left_out_because(group, token) {
            assert!(judged.is_err(), "{id} is of an algorithm we do not have: {reason}");
            if labelled_valid {
                // Refused for its algorithm, not by luck.
                let refusal = Jws::parse(token.as_bytes(), &ParseOptions::default()).unwrap_err();
                assert_eq!(refusal, JwsError::AlgorithmRefused, "{id}");
            }
            *left_out.entry(reason).or_default() += 1;
        } else {
            ours += 1;
            assert_eq!(judged.is_ok(), labelled_valid, "tcId {id} {}: {judged:?}", case["comment"]);
        }
    }
    let wanted = SIGNATURES_LEFT_OUT.map(|(reason, count)| (reason.to_owned(), count));
    assert_eq!(left_out.clone().into_iter().collect::<Vec<_>>(), wanted);
    let left_out: usize = left_out.values().sum();
    assert_eq!((ours, left_out, quirks), (SIGNATURES_OURS, 69, 8));
    assert_eq!(ours + left_out, 393);
    assert_eq!(file["numberOfTests"], 401);
    println!(
        "signatures: {ours} of {ours} right, {left_out} left out and refused (393), {quirks} quirks of the file"
    );
}

/// The keys of each group we know, and why we refuse them; `None` where the case is labelled valid.
fn key_refusals() -> BTreeMap<u64, Option<KeyError>> {
    BTreeMap::from([
        (5, None),
        (6, Some(KeyError::Purpose)),
        (7, Some(KeyError::RsaRoca)),
        (8, Some(KeyError::RsaSize { found_bits: 1024 })),
        (9, Some(KeyError::RsaExponent)),
        (19, Some(KeyError::Algorithm)),
        (20, Some(KeyError::Algorithm)),
        (21, Some(KeyError::Purpose)),
        (22, Some(KeyError::PointOffCurve)),
        (23, Some(KeyError::JwkMember { name: "x" })),
        (24, Some(KeyError::JwkMember { name: "n" })),
    ])
}

const KEYS_LEFT_OUT: [(&str, usize); 2] =
    [("symmetric and EC key in one set", 1), ("symmetric keys only: no HMAC in Drawbridge", 14)];

#[test]
fn every_key_case_is_right_for_its_own_reason_or_left_out() {
    let file = vectors("wycheproof/json_web_key_test.json");
    let refusals = key_refusals();
    let mut left_out = BTreeMap::<&str, usize>::new();
    let mut ours = 0;
    for (group, case) in cases(&file) {
        let id = case["tcId"].as_u64().unwrap();
        let token = case["jws"].as_str().unwrap();
        let Some(set) = group.get("public") else {
            let keys = group["private"]["keys"].as_array().unwrap();
            let symmetric: Vec<_> = keys.iter().filter(|key| key["kty"] == "oct").collect();
            for key in &symmetric {
                let refusal = PublicKey::from_jwk(key.to_string().as_bytes()).unwrap_err();
                assert_eq!(refusal, KeyError::PrivateKey, "{id}");
            }
            let refusal = Jws::parse(token.as_bytes(), &ParseOptions::default()).unwrap_err();
            assert_eq!(refusal, JwsError::AlgorithmRefused, "{id}");
            let reason = KEYS_LEFT_OUT[usize::from(symmetric.len() == keys.len())].0;
            *left_out.entry(reason).or_default() += 1;
            continue;
        };
        ours += 1;
        let [key] = set["keys"].as_array().unwrap().as_slice() else { panic!("{id} has one key") };
        match (&refusals[&id], PublicKey::from_jwk(key.to_string().as_bytes())) {
            (None, Ok(key)) => {
                assert_eq!(case["result"], "valid", "{id}");
                Jws::parse(token.as_bytes(), &ParseOptions::default()).unwrap().verify(&key).unwrap();
            }
            (wanted, found) => {
                assert_eq!(case["result"], "invalid", "{id}");
                assert_eq!(&found.err(), wanted, "{id}");
            }
        }
    }
    assert_eq!(left_out.into_iter().collect::<Vec<_>>(), KEYS_LEFT_OUT);
    assert_eq!(ours, refusals.len());
    assert_eq!(ours + 15, 26);
    println!("keys: {ours} of {ours} right, 15 left out and refused");
}

/// The older combined file by what becomes of its cases.
const CRYPTO: [(&str, usize); 5] = [
    ("HS256: no HMAC in Drawbridge", 16),
    ("JSON serialisation: compact only", 1),
    ("JWE: signed tokens only", 34),
    ("key sets with symmetric keys", 3),
    ("ours", 29),
];

#[test]
fn every_case_of_the_combined_file_is_right_or_left_out_and_refused() {
    let file = vectors("wycheproof/json_web_crypto_test.json");
    let mut counts = BTreeMap::<&str, usize>::new();
    for (group, case) in cases(&file) {
        let id = case["tcId"].as_u64().unwrap();
        let member = if case.get("jwe").is_some() { "jwe" } else { "jws" };
        // A JSON serialisation stands there as an object, and is offered as its text.
        let token = case[member].as_str().map_or_else(|| case[member].to_string(), str::to_owned);
        let refusal = Jws::parse(token.as_bytes(), &ParseOptions::default()).err();
        let jwk = group.get("public").unwrap_or(&group["private"]);
        let fate = if member == "jwe" {
            assert!(refusal.is_some(), "{id}");
            CRYPTO[2].0
        } else if token.starts_with('{') {
            assert!(refusal.is_some(), "{id}");
            CRYPTO[1].0
        } else if let Some(keys) = jwk.get("keys") {
            assert_eq!(refusal, Some(JwsError::AlgorithmRefused), "{id}");
            assert!(keys.as_array().unwrap().iter().any(|key| key["kty"] == "oct"), "{id}");
            CRYPTO[3].0
        } else if jwk["kty"] == "oct" {
            assert!(refusal.is_some(), "{id}");
            assert!(judge(group, &token).is_err(), "{id}");
            CRYPTO[0].0
        } else {
            let judged = judge(group, &token);
            assert_eq!(judged.is_ok(), case["result"] == "valid", "{id} {}: {judged:?}", case["comment"]);
            CRYPTO[4].0
        };
        *counts.entry(fate).or_default() += 1;
    }
    assert_eq!(counts.into_iter().collect::<Vec<_>>(), CRYPTO);
    assert_eq!(CRYPTO.map(|(_, count)| count).iter().sum::<usize>(), 83);
}

fn cases(file: &Value) -> impl Iterator<Item = (&Value, &Value)> {
    let groups = file["testGroups"].as_array().unwrap().iter();
    groups.flat_map(|group| group["tests"].as_array().unwrap().iter().map(move |case| (group, case)))
}

fn judge(group: &Value, token: &str) -> Result<(), String> {
    let jwk = group.get("public").unwrap_or(&group["private"]);
    let key = PublicKey::from_jwk(jwk.to_string().as_bytes()).map_err(|error| format!("{error:?}"))?;
    let jws = Jws::parse(token.as_bytes(), &ParseOptions::default()).map_err(|error| format!("{error:?}"))?;
    jws.verify(&key).map(|_| ()).map_err(|error| format!("{error:?}"))
}

/// A case concerns the algorithm of its key, whatever an attacker wrote into the header.
fn left_out_because(group: &Value, token: &str) -> Option<String> {
    if token.starts_with('{') {
        return Some(SIGNATURES_LEFT_OUT[1].0.into());
    }
    let jwk = group.get("public").unwrap_or(&group["private"]);
    match (jwk["kty"].as_str().unwrap(), jwk["alg"].as_str()) {
        ("oct", Some("HS256")) => Some(SIGNATURES_LEFT_OUT[0].0.into()),
        ("RSA", Some(alg @ ("RS384" | "RS512" | "PS384" | "PS512"))) => {
            Some(format!("{alg}: not in the allowed set"))
        }
        ("RSA", None | Some("RS256" | "PS256")) | ("EC", None | Some("ES256")) => None,
        other => panic!("no rule for {other:?}"),
    }
}
