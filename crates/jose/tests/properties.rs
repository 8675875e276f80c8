//! Properties: nothing that arrives makes a parser panic, and no token has a second spelling.
#![cfg(feature = "aws-lc")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod tokens;

use std::sync::OnceLock;

use drawbridge_jose::{
    Algorithm, Claims, Jws, Padding, ParseOptions, PublicKey, SigningKey, base64url_decode, base64url_encode,
    ecdsa_der_to_raw,
};
use proptest::prelude::*;
use tokens::craft;

const PAYLOAD: &[u8] = br#"{"sub":"lamp","aud":["https://id.example"],"exp":1795301000}"#;

/// Keys with one rightly signed token each.
fn signed() -> &'static [(SigningKey, String)] {
    static SIGNED: OnceLock<Vec<(SigningKey, String)>> = OnceLock::new();
    SIGNED.get_or_init(|| {
        [Algorithm::Es256, Algorithm::EdDsa, Algorithm::Rs256]
            .into_iter()
            .map(|algorithm| {
                let key = SigningKey::generate(algorithm).unwrap();
                let header = format!(r#"{{"alg":"{algorithm}","typ":"JWT","kid":"lamp"}}"#);
                let token = craft(&key, header.as_bytes(), PAYLOAD);
                (key, token)
            })
            .collect()
    })
}

fn options() -> impl Strategy<Value = ParseOptions> {
    (any::<bool>(), any::<bool>()).prop_map(|(tolerant, embedded_jwk)| ParseOptions {
        padding: if tolerant { Padding::Tolerated } else { Padding::Refused },
        embedded_jwk,
        ..ParseOptions::default()
    })
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600), options in options()) {
        let _ = Jws::parse(&bytes, &options);
        let _ = Claims::from_json(&bytes);
        let _ = PublicKey::recognise(&bytes);
        let _ = ecdsa_der_to_raw(&bytes, Algorithm::Es256);
        if let Ok(key) = PublicKey::from_spki_der(&bytes) {
            prop_assert_eq!(key.spki_der(), &bytes[..]);
        }
    }

    #[test]
    fn arbitrary_json_in_a_header_never_panics(
        json in r#"\{("(alg|typ|kid|jwk|crit|x)":("ES256"|"x"|[0-9]{1,3}|\[\]|\{"kty":"EC"\}|null),?){0,4}\}"#,
        options in options(),
    ) {
        let token = format!("{}.e30.{}", base64url_encode(json.as_bytes()), "A".repeat(86));
        let _ = Jws::parse(token.as_bytes(), &options);
    }

    #[test]
    fn no_changed_token_verifies(
        which in 0_usize..3,
        position in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        kind in 0..4,
        options in options(),
    ) {
        let (key, token) = &signed()[which];
        let mut changed = token.clone().into_bytes();
        let at = position.index(changed.len());
        match kind {
            0 => changed[at] = byte,
            1 => changed.insert(at, byte),
            2 => { changed.remove(at); }
            _ => changed.truncate(at),
        }
        prop_assume!(changed != token.as_bytes());
        let verified = Jws::parse(&changed, &options).and_then(|jws| jws.verify(key.public_key()));
        // With padding tolerated, `=` at the end of the signature is the one change that may pass.
        let padded = options.padding == Padding::Tolerated && changed.ends_with(b"=");
        prop_assert!(verified.is_err() || padded, "{}", String::from_utf8_lossy(&changed));
        prop_assert!(Jws::parse(token.as_bytes(), &options).unwrap().verify(key.public_key()).is_ok());
    }

    #[test]
    fn a_changed_key_is_refused_or_another_key(position in any::<prop::sample::Index>(), bit in 0..8, which in 0_usize..3) {
        let key = signed()[which].0.public_key();
        let mut changed = key.spki_der().to_vec();
        let at = position.index(changed.len());
        changed[at] ^= 1_u8 << bit;
        if let Ok(found) = PublicKey::from_spki_der(&changed) {
            prop_assert_eq!(found.spki_der(), &changed[..]);
            prop_assert_ne!(found.thumbprint(), key.thumbprint());
        }
    }

    #[test]
    fn base64url_has_one_text_for_one_value(text in "[A-Za-z0-9_=+/ -]{0,24}", bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        if let Ok(decoded) = base64url_decode(&text) {
            prop_assert_eq!(base64url_encode(&decoded), text);
        }
        prop_assert_eq!(base64url_decode(&base64url_encode(&bytes)).unwrap(), bytes);
    }

    #[test]
    fn strict_json_agrees_with_serde_json_where_it_accepts(text in r#"\{("[ab]":(-?[0-9]{1,19}|"[xyé"\\]{0,3}"|\[[0-9,]{0,4}\]|true),?){0,3}\}"#) {
        if Claims::from_json(text.as_bytes()).is_ok() {
            prop_assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok());
        }
    }

    #[test]
    fn claims_written_again_mean_the_same(number in any::<f64>().prop_filter("finite", |n| n.is_finite()), text in "[^\0]{0,12}") {
        let value = serde_json::json!({ "v": { "n": number, "t": text, "l": [1, -1, null, true] } });
        let claims = Claims::from_json(value.to_string().as_bytes()).unwrap();
        let again: serde_json::Value = serde_json::from_str(&claims.object_json("v").unwrap()).unwrap();
        let expected: serde_json::Value = serde_json::from_str(&value["v"].to_string()).unwrap();
        prop_assert_eq!(again, expected);
    }
}

/// A key of each kind, out of 64 random bytes; `None` where they are none.
fn key_of(kind: usize, bytes: &[u8], modulus: &[u8]) -> Option<PublicKey> {
    let jwk = match kind {
        // Private scalars: nearly all are below the order.
        0 => return signing_key(&P256_FRAME, &bytes[..32]),
        1 => return signing_key(&P384_FRAME, &bytes[..48]),
        // Any 32 bytes: about half are a point.
        2 => format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{}"}}"#, base64url_encode(&bytes[..32])),
        _ => {
            let mut modulus = modulus.to_vec();
            modulus[0] |= 0x80;
            *modulus.last_mut().unwrap() |= 1;
            let e = u32::from_be_bytes([0, 1 | bytes[0] & 0x7f, bytes[1], bytes[2] | 1]).to_be_bytes();
            let (n, e) = (base64url_encode(&modulus), base64url_encode(&e[1..]));
            let alg = if kind == 3 { "RS256" } else { "PS256" };
            format!(r#"{{"kty":"RSA","n":"{n}","e":"{e}","alg":"{alg}"}}"#)
        }
    };
    PublicKey::from_jwk(jwk.as_bytes()).ok()
}

const P256_FRAME: [u8; 35] = [
    0x30, 0x41, 2, 1, 0, 0x30, 0x13, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 8, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 3, 1, 7, 4, 0x27, 0x30, 0x25, 2, 1, 1, 4, 0x20,
];
const P384_FRAME: [u8; 32] = [
    0x30, 0x4e, 2, 1, 0, 0x30, 0x10, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 5, 0x2b, 0x81, 4, 0, 0x22,
    4, 0x37, 0x30, 0x35, 2, 1, 1, 4, 0x30,
];

fn signing_key(frame: &[u8], scalar: &[u8]) -> Option<PublicKey> {
    SigningKey::from_pkcs8_der(&[frame, scalar].concat()).ok().map(|key| key.public_key().clone())
}

proptest! {
    #[test]
    fn jwk_and_spki_carry_the_same_key_both_ways(
        kind in 0_usize..5,
        bytes in prop::collection::vec(any::<u8>(), 64),
        modulus in prop::collection::vec(any::<u8>(), 256..=512),
    ) {
        let Some(key) = key_of(kind, &bytes, &modulus) else { return Ok(()) };
        let by_spki = PublicKey::from_spki_der_with(key.spki_der(), key.algorithm()).unwrap();
        let by_jwk = PublicKey::from_jwk(by_spki.to_jwk_json().as_bytes()).unwrap();
        let published = PublicKey::from_jwk(by_jwk.to_published_jwk_json().as_bytes()).unwrap();
        let pem = PublicKey::from_pem(&published.to_pem()).unwrap();
        prop_assert_eq!(&by_spki, &key);
        prop_assert_eq!(&by_jwk, &key);
        prop_assert_eq!(&published, &key);
        prop_assert_eq!(pem.spki_der(), key.spki_der());
        prop_assert_eq!(by_jwk.to_jwk_json(), key.to_jwk_json());
    }

    #[test]
    fn order_white_space_escapes_and_other_members_change_no_thumbprint(
        kind in 0_usize..5,
        bytes in prop::collection::vec(any::<u8>(), 64),
        modulus in prop::collection::vec(any::<u8>(), 256..=257),
        order in any::<u64>(),
        spaces in "[ \t\r\n]{0,3}",
    ) {
        let Some(key) = key_of(kind, &bytes, &modulus) else { return Ok(()) };
        let json = key.to_published_jwk_json();
        let mut members: Vec<String> = json.trim_matches(['{', '}']).split(',').map(str::to_owned).collect();
        members.push(r#""x5t":"AAAA""#.into());
        members.push(r#""ext":[{"a":1}]"#.into());
        for at in (1..members.len()).rev() {
            members.swap(at, (order >> at) as usize % (at + 1));
        }
        // A name may be spelled with escapes.
        let text = members.join(&format!("{spaces},{spaces}")).replace("\"kty\"", r#""\u006bty""#);
        let read = PublicKey::from_jwk(format!("{{{spaces}{text}{spaces}}}").as_bytes()).unwrap();
        prop_assert_eq!(read.thumbprint(), key.thumbprint());
        prop_assert_eq!(read, key);
    }

    #[test]
    fn a_numeric_date_is_its_number_however_it_is_spelled(
        seconds in 0_u64..1 << 53,
        fraction in "[0-9]{0,3}",
        zeros in 0_usize..4,
    ) {
        let read = |text: &str| {
            Claims::from_json(format!("{{\"exp\":{text}}}").as_bytes()).ok()?.numeric_date_s("exp").ok().flatten()
        };
        prop_assert_eq!(read(&seconds.to_string()), Some(seconds));
        prop_assert_eq!(read(&format!("{seconds}e0")), Some(seconds));
        if seconds < 1 << 40 {
            // Beyond that a double holds no thousandths.
            prop_assert_eq!(read(&format!("{seconds}.{fraction}0")), Some(seconds));
            let zeros = "0".repeat(zeros);
            prop_assert_eq!(read(&format!("{seconds}{zeros}e-{}", zeros.len())), Some(seconds));
        }
        for wrong in [
            format!("-{}", seconds + 1),
            format!("\"{seconds}\""),
            format!("[{seconds}]"),
            format!("0{}", seconds + 1),
            format!("+{seconds}"),
            format!("{seconds}."),
            format!("{}", seconds + (1 << 53)),
            format!("{}e16", seconds + 1),
        ] {
            prop_assert_eq!(read(&wrong), None, "{}", wrong);
        }
    }

    #[test]
    fn an_ecdsa_signature_in_der_and_in_jws_form_are_one(r in prop::collection::vec(any::<u8>(), 32), s in prop::collection::vec(any::<u8>(), 32)) {
        let raw = [&r[..], &s[..]].concat();
        let order = tokens::p256_order();
        let in_range = |half: &Vec<u8>| half.iter().any(|byte| *byte != 0) && *half < order;
        let der = tokens::der(0x30, &[&tokens::integer(&r), &tokens::integer(&s)]);
        prop_assert_eq!(ecdsa_der_to_raw(&der, Algorithm::Es256).ok(), (in_range(&r) && in_range(&s)).then_some(raw));
        // Wider halves, a longer length form and another sign are no second spelling.
        let wide = tokens::der(0x30, &[&tokens::der(2, &[&[0, 0], &r]), &tokens::integer(&s)]);
        prop_assert!(ecdsa_der_to_raw(&wide, Algorithm::Es256).is_err());
        let long = [&[0x30, 0x81], &der[1..]].concat();
        prop_assert!(ecdsa_der_to_raw(&long, Algorithm::Es256).is_err());
    }
}

/// The whole neighbourhood of a token: each character exchanged for each other one of the alphabet, for `.`, `=`,
/// `+` and a space; one left out; one doubled. Nothing of it passes, whether padding is tolerated or not.
#[test]
fn no_token_one_character_away_is_accepted() {
    const CHARACTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.=+/ \n\0";
    let key = SigningKey::generate(Algorithm::EdDsa).unwrap();
    let other = SigningKey::generate(Algorithm::Es256).unwrap();
    let mut tried = 0;
    for (key, characters) in [(&key, CHARACTERS), (&other, &b"AQgw9_.="[..])] {
        let alg = key.public_key().algorithm();
        // Segments of every length: 0, 2 and 4 unused bits at their ends.
        for payload in [&b"{}"[..], b"{ }", b"{  }"] {
            let token = craft(key, format!(r#"{{"alg":"{alg}"}}"#).as_bytes(), payload).into_bytes();
            for tolerant in [false, true] {
                let padding = if tolerant { Padding::Tolerated } else { Padding::Refused };
                let options = ParseOptions { padding, ..ParseOptions::default() };
                let accepted = |token: &[u8]| {
                    Jws::parse(token, &options).and_then(|jws| jws.verify(key.public_key())).is_ok()
                };
                assert!(accepted(&token));
                let mut refuse = |changed: &[u8]| {
                    tried += 1;
                    assert!(!accepted(changed), "{}", String::from_utf8_lossy(changed));
                };
                for at in 0..token.len() {
                    for character in characters.iter().filter(|character| **character != token[at]) {
                        let mut changed = token.clone();
                        changed[at] = *character;
                        refuse(&changed);
                    }
                    let without = [&token[..at], &token[at + 1..]].concat();
                    let doubled = [&token[..=at], &token[at..]].concat();
                    refuse(&without);
                    refuse(&doubled);
                }
            }
        }
    }
    assert!(tried > 50_000, "{tried}");
}
