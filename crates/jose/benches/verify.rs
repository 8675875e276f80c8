//! What a device JWT costs beyond its bare signature check.
//!
//! Parses and verifies a token and asks its claims, against the bare primitive with a parsed key over the same
//! bytes. The token is a client assertion without `kid`, about 300 bytes long with ES256 and EdDSA. Both are timed in turns in the same run, so that a change of the machine's speed
//! falls on both; the figures are medians of the rounds. Run with
//! `cargo bench -p drawbridge-jose --bench verify`.
#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a benchmark reads the clock and prints"
)]

use std::{hint::black_box, time::Instant};

use aws_lc_rs::{
    encoding::{AsDer as _, Pkcs8V1Der},
    rsa::{self, KeySize},
    signature::{
        ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, VerificationAlgorithm,
    },
};
use drawbridge_jose::{
    Algorithm, Header, Jws, ParseOptions, PublicKey, SigningKey, base64url_decode, sign_compact,
};

const ROUNDS: usize = 41;
const CHECKS_PER_ROUND: u32 = 100;
const PAYLOAD: &[u8] = br#"{"iss":"sensor-0042","sub":"sensor-0042","aud":"https://id.example","iat":1795301000,"exp":1795301300,"jti":"bX0K2mHcQm2r8G3vJ0y5Tw"}"#;

fn main() {
    println!("algorithm  token B  bare us  whole us  ratio  budget");
    for (algorithm, budget) in [(Algorithm::Es256, 1.10), (Algorithm::EdDsa, 1.10), (Algorithm::Rs256, 1.20)]
    {
        let key = signing_key(algorithm);
        let header = Header { typ: Some("JWT"), kid: None, jwk: None };
        let token = sign_compact(&header, PAYLOAD, &key).expect("the key signs");
        let (input, signature) = token.rsplit_once('.').expect("a token has dots");
        let signature = base64url_decode(signature).expect("a token is base64url");
        let parsed =
            ParsedPublicKey::new(primitive(algorithm), key.public_key().spki_der()).expect("the key is good");

        let (mut bare, mut whole) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            bare.push(time_us(|| {
                parsed.verify_sig(black_box(input.as_bytes()), black_box(&signature)).is_ok()
            }));
            whole.push(time_us(|| accepts(black_box(token.as_bytes()), key.public_key())));
        }
        let (bare, whole) = (median(bare), median(whole));
        let ratio = whole / bare;
        println!(
            "{:9}  {:7}  {bare:7.1}  {whole:8.1}  {ratio:5.3}  {budget:.2}",
            algorithm.name(),
            token.len()
        );
    }
}

/// From bytes to claims that were asked by name and type.
fn accepts(token: &[u8], key: &PublicKey) -> bool {
    let Ok(jws) = Jws::parse(token, &ParseOptions::default()) else { return false };
    let Ok(claims) = jws.verify(key).and_then(|verified| verified.claims()) else { return false };
    claims.text("iss") == claims.text("sub")
        && claims.audience().is_ok_and(|aud| aud.is_some_and(|aud| aud == ["https://id.example"]))
        && claims.numeric_date_s("exp").is_ok_and(|exp| exp > Some(1_795_301_000))
        && claims.numeric_date_s("iat").is_ok_and(|iat| iat.is_some())
        && claims.text("jti").is_ok_and(|jti| jti.is_some_and(|jti| jti.len() >= 16))
}

/// Microseconds per call.
fn time_us(check: impl Fn() -> bool) -> f64 {
    let start = Instant::now();
    for _ in 0..CHECKS_PER_ROUND {
        assert!(check());
    }
    start.elapsed().as_secs_f64() * 1e6 / f64::from(CHECKS_PER_ROUND)
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// A new key; of RSA the smallest that is allowed, which is what most have and where our own part shows most.
fn signing_key(algorithm: Algorithm) -> SigningKey {
    if algorithm != Algorithm::Rs256 {
        return SigningKey::generate(algorithm).expect("the library makes keys");
    }
    let pair = rsa::KeyPair::generate(KeySize::Rsa2048).expect("the library makes keys");
    let der: Pkcs8V1Der<'_> = pair.as_der().expect("the library writes keys");
    SigningKey::from_pkcs8_der(der.as_ref()).expect("a key of 2048 bits is allowed")
}

fn primitive(algorithm: Algorithm) -> &'static dyn VerificationAlgorithm {
    match algorithm {
        Algorithm::Es256 => &ECDSA_P256_SHA256_FIXED,
        Algorithm::EdDsa => &ED25519,
        Algorithm::Rs256 => &RSA_PKCS1_2048_8192_SHA256,
        Algorithm::Es384 | Algorithm::Ps256 => unreachable!("not in the list of `main`"),
    }
}
