//! I10: nothing secret stands in `Debug`, so none can come into a log by way of it.

use drawbridge_identity::{DpopRules, IssuerKey, Nonces, PasswordVerifier, Verifier};
use drawbridge_jose::{Algorithm, SigningKey};

#[test]
fn i10_nothing_secret_stands_in_debug() {
    const SECRET: &str = "hunter2-open-sesame";
    let bytes = [0x5a_u8; 32];
    let nonces = Nonces::new(&bytes);
    let key = SigningKey::generate(Algorithm::Es256).expect("a key");
    let pem = key.to_pkcs8_pem().to_string();
    let issuer_key = IssuerKey::new(key);
    let rules = DpopRules {
        method: "GET",
        url: "https://core.example/v1/self",
        access_token: Some(SECRET),
        skew_s: 60,
        nonces: &nonces,
        nonce_wanted: false,
        token_bytes_max: 4096,
    };
    let cost = drawbridge_identity::PasswordCost { memory_kib: 8, passes: 1 };
    let password = PasswordVerifier::of(SECRET, bytes[..16].try_into().expect("16 bytes"), cost);
    let mut shown = vec![
        format!("{nonces:?}"),
        format!("{issuer_key:?}"),
        format!("{rules:?}"),
        format!("{password:?}"),
        format!("{:?}", Verifier::Secret(bytes)),
    ];
    shown.push(format!("{:?}", Verifier::Password(password)));
    let lines: Vec<&str> = pem.lines().filter(|line| line.len() >= 24).collect();
    for shown in shown {
        assert!(!shown.contains(SECRET) && !shown.contains("90, 90"), "{shown}");
        assert!(!lines.iter().any(|line| shown.contains(line)), "{shown}");
    }
}
