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
