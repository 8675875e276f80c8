//! Keys that are refused, each for its own reason, and what the error may say.
#![cfg(feature = "aws-lc")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod tokens;

use drawbridge_jose::{
    Algorithm, JsonError, JwsError, KeyError, PublicKey, SigningKey, base64url_encode, ecdsa_der_to_raw,
};
use tokens::{der, hex, integer, vectors};

const P256: &str = "2a8648ce3d030107";
const EC: &str = "2a8648ce3d0201";
const RSA: &str = "2a864886f70d010101";

/// A SubjectPublicKeyInfo with these parameters.
fn spki(oid: &str, parameters: &[u8], key: &[u8]) -> Vec<u8> {
    der(0x30, &[&der(0x30, &[&der(6, &[&hex(oid)]), parameters]), &der(3, &[&[0], key])])
}

fn rsa_spki(n: &[u8], e: &[u8]) -> Vec<u8> {
    spki(RSA, &der(5, &[]), &der(0x30, &[&integer(n), &integer(e)]))
}

fn ed25519_spki(point: &[u8]) -> Vec<u8> {
    spki("2b6570", &[], point)
}

fn p256_point() -> Vec<u8> {
    let key = SigningKey::generate(Algorithm::Es256).unwrap();
    key.public_key().spki_der()[26..].to_vec()
}

#[test]
fn elliptic_curve_keys_outside_the_policy_or_off_the_curve_are_refused() {
    let point = p256_point();
    let named = der(6, &[&hex(P256)]);
    assert!(PublicKey::from_spki_der(&spki(EC, &named, &point)).is_ok());

    let compressed = [&[2 + (point[64] & 1)], &point[1..33]].concat();
    let mut off = point.clone();
    off[64] ^= 1;
    let field = "ffffffff00000001000000000000000000000000ffffffffffffffffffffffff";
    let unreduced = [&[4][..], &hex(field), &point[33..]].concat();
    // Explicit parameters begin with a version; nothing after it is read.
    let explicit = der(0x30, &[&integer(&[1])]);
    let secp256k1 = der(6, &[&hex("2b8104000a")]);
    let p521 = der(6, &[&hex("2b81040023")]);
    let p384 = der(6, &[&hex("2b81040022")]);
    for (name, key, wanted) in [
        ("explicit parameters", spki(EC, &explicit, &point), KeyError::ExplicitParameters),
        ("secp256k1", spki(EC, &secp256k1, &point), KeyError::Curve),
        ("P-521", spki(EC, &p521, &point), KeyError::Curve),
        ("a point of P-256 said to be of P-384", spki(EC, &p384, &point), KeyError::PointEncoding),
        ("no parameters", spki(EC, &[], &point), KeyError::Der),
        ("compressed", spki(EC, &named, &compressed), KeyError::PointEncoding),
        ("infinity", spki(EC, &named, &[0]), KeyError::PointOffCurve),
        ("(0, 0)", spki(EC, &named, &[&[4][..], &[0; 64]].concat()), KeyError::PointOffCurve),
        ("off the curve", spki(EC, &named, &off), KeyError::PointOffCurve),
        ("x not below the field", spki(EC, &named, &unreduced), KeyError::PointOffCurve),
        ("cut short", spki(EC, &named, &point[..64]), KeyError::PointEncoding),
        ("id-ecDH", spki("2b8104010c", &named, &point), KeyError::KeyType),
    ] {
        assert_eq!(PublicKey::from_spki_der(&key), Err(wanted), "{name}");
    }
}

#[test]
fn the_curves_are_the_published_ones() {
    // The generators of FIPS 186-4 D.1.2 and the base point of RFC 8032 5.1 are on them.
    for (crv, x, y) in [
        (
            "P-256",
            "6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296",
            "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5",
        ),
        (
            "P-384",
            "aa87ca22be8b05378eb1c71ef320ad746e1d3b628ba79b9859f741e082542a385502f25dbf55296c3a545e3872760ab7",
            "3617de4a96262c6f5d9e98bf9292dc29f8f41dbd289a147ce9da3113b5f0b8c00a60b1ce1d7e819d7a431d7c90ea0e5f",
        ),
    ] {
        let (x, y) = (base64url_encode(&hex(x)), base64url_encode(&hex(y)));
        let jwk = format!(r#"{{"kty":"EC","crv":"{crv}","x":"{x}","y":"{y}"}}"#);
        assert!(PublicKey::from_jwk(jwk.as_bytes()).is_ok(), "{crv}");
    }
    let base = hex("5866666666666666666666666666666666666666666666666666666666666666");
    assert!(PublicKey::from_spki_der(&ed25519_spki(&base)).is_ok());
    // Every key that the library makes is on its curve by our arithmetic too.
    for algorithm in [Algorithm::Es256, Algorithm::Es384, Algorithm::EdDsa] {
        for _ in 0..50 {
            assert!(SigningKey::generate(algorithm).is_ok());
        }
    }
}

#[test]
fn ed25519_keys_of_small_order_off_the_curve_or_with_two_spellings_are_refused() {
    let zero = "00".repeat(32);
    for point in [
        zero.as_str(),
        "0100000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000080",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
        // y = p and y = p + 3: other spellings of 0 and 3.
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "f0ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        // y = 2 has no x.
        "0200000000000000000000000000000000000000000000000000000000000000",
    ] {
        assert_eq!(
            PublicKey::from_spki_der(&ed25519_spki(&hex(point))),
            Err(KeyError::PointOffCurve),
            "{point}"
        );
    }
    assert_eq!(PublicKey::from_spki_der(&ed25519_spki(&[9; 31])), Err(KeyError::PointEncoding));
    let x25519 = spki("2b656e", &[], &[9; 32]);
    assert_eq!(PublicKey::from_spki_der(&x25519), Err(KeyError::KeyType));
}

#[test]
fn rsa_keys_outside_the_policy_are_refused() {
    let f4 = [1, 0, 1];
    let modulus = |bytes: usize| {
        let mut n = vec![0xc5; bytes];
        n[bytes - 1] = 0xc1;
        n
    };
    assert!(PublicKey::from_spki_der(&rsa_spki(&modulus(256), &f4)).is_ok());
    assert!(PublicKey::from_spki_der(&rsa_spki(&modulus(512), &f4)).is_ok());
    let mut even = modulus(256);
    even[255] = 0xc0;
    let mut short = modulus(256);
    short[0] = 0x7f;
    let pss = spki("2a864886f70d01010a", &[], &der(0x30, &[&integer(&modulus(256)), &integer(&f4)]));
    for (name, key, wanted) in [
        ("1024 bits", rsa_spki(&modulus(128), &f4), KeyError::RsaSize { found_bits: 1024 }),
        ("2047 bits", rsa_spki(&short, &f4), KeyError::RsaSize { found_bits: 2047 }),
        ("4104 bits", rsa_spki(&modulus(513), &f4), KeyError::RsaSize { found_bits: 4104 }),
        ("even modulus", rsa_spki(&even, &f4), KeyError::RsaModulus),
        ("e = 1", rsa_spki(&modulus(256), &[1]), KeyError::RsaExponent),
        ("e = 3", rsa_spki(&modulus(256), &[3]), KeyError::RsaExponent),
        ("e = 65535", rsa_spki(&modulus(256), &[0xff, 0xff]), KeyError::RsaExponent),
        ("e even", rsa_spki(&modulus(256), &[1, 0, 2]), KeyError::RsaExponent),
        ("e of 34 bits", rsa_spki(&modulus(256), &[2, 0, 0, 0, 1]), KeyError::RsaExponent),
        ("e as long as n", rsa_spki(&modulus(256), &modulus(256)), KeyError::RsaExponent),
        ("RSASSA-PSS key", pss, KeyError::KeyType),
    ] {
        assert_eq!(PublicKey::from_spki_der(&key), Err(wanted), "{name}");
    }
}

#[test]
fn a_key_has_one_encoding() {
    let good = SigningKey::generate(Algorithm::Es256).unwrap().public_key().spki_der().to_vec();
    let point = good[26..].to_vec();
    let named = der(6, &[&hex(P256)]);
    let long_length = [&[0x30, 0x81], &good[1..]].concat();
    let extra = der(0x30, &[&good[2..], &der(5, &[])]);
    let with_null = spki(EC, &[&named[..], &der(5, &[])].concat(), &point);
    let unused_bits = der(0x30, &[&der(0x30, &[&der(6, &[&hex(EC)]), &named]), &der(3, &[&[1], &point])]);
    let rsa_without_null = spki(RSA, &[], &der(0x30, &[&integer(&[0xc1; 256]), &integer(&[1, 0, 1])]));
    for (name, key, wanted) in [
        ("trailing byte", [&good[..], &[0]].concat(), KeyError::TrailingBytes),
        ("cut short", good[..good.len() - 1].to_vec(), KeyError::Der),
        ("length in long form", long_length, KeyError::Der),
        ("another element inside", extra, KeyError::NotCanonical),
        ("NULL after the curve", with_null, KeyError::NotCanonical),
        ("unused bits", unused_bits, KeyError::Der),
        ("RSA without NULL", rsa_without_null, KeyError::NotCanonical),
        ("empty", vec![], KeyError::Der),
    ] {
        assert_eq!(PublicKey::from_spki_der(&key), Err(wanted), "{name}");
    }
}

#[test]
fn pem_is_one_block_with_one_label_and_nothing_around_it() {
    let key = SigningKey::generate(Algorithm::EdDsa).unwrap();
    let pem = key.public_key().to_pem();
    let private = key.to_pkcs8_pem();
    let labelled = |label: &str| pem.replace("PUBLIC KEY", label);
    let large = format!("{pem}{}", " ".repeat(2048));
    for (name, text, wanted) in [
        ("two blocks", format!("{pem}{pem}"), KeyError::PemSeveral),
        ("a private key", private.to_string(), KeyError::PrivateKey),
        ("an EC private key", labelled("EC PRIVATE KEY"), KeyError::PrivateKey),
        ("an encrypted private key", labelled("ENCRYPTED PRIVATE KEY"), KeyError::PrivateKey),
        ("an RSA public key", labelled("RSA PUBLIC KEY"), KeyError::PemLabel),
        ("a certificate", labelled("CERTIFICATE"), KeyError::PemLabel),
        ("a label in lower case", labelled("public key"), KeyError::PemLabel),
        ("another label at the end", pem.replace("END PUBLIC", "END PRIVATE"), KeyError::PemArmour),
        ("text before", format!("key: {pem}"), KeyError::PemArmour),
        ("text after", format!("{pem}key"), KeyError::PemArmour),
        ("no end", pem.replace("-----END PUBLIC KEY-----", ""), KeyError::PemArmour),
        ("base64url", pem.replace("MCow", "MC_w"), KeyError::Base64),
        ("a byte left out", pem.replace("MCow", "MCo"), KeyError::Base64),
        ("too large", large, KeyError::TooLarge { found_bytes: pem.len() + 2048, bytes_max: 2048 }),
    ] {
        assert_eq!(PublicKey::from_spki_pem(&text), Err(wanted), "{name}");
    }
    assert_eq!(SigningKey::from_pkcs8_pem(&pem).unwrap_err(), KeyError::PemLabel);
    assert_eq!(SigningKey::from_pkcs8_pem(&labelled("EC PRIVATE KEY")).unwrap_err(), KeyError::PemLabel);
}

#[test]
fn a_jwk_is_public_strict_and_meant_for_signatures() {
    let key = SigningKey::generate(Algorithm::Es256).unwrap();
    let jwk = key.public_key().to_jwk_json();
    let plus = |member: &str| jwk.replacen('{', &format!("{{{member},"), 1);
    for member in [
        r#""alg":"ES256""#,
        r#""use":"sig""#,
        r#""key_ops":["verify"]"#,
        r#""key_ops":["verify","deriveBits"]"#,
        r#""kid":"lamp","x5u":"https://attacker.example""#,
    ] {
        assert_eq!(&PublicKey::from_jwk(plus(member).as_bytes()).unwrap(), key.public_key(), "{member}");
    }
    let json = KeyError::Json;
    let member = |name| KeyError::JwkMember { name };
    for (text, wanted) in [
        (plus(r#""use":"enc""#), KeyError::Purpose),
        (plus(r#""use":1"#), member("use")),
        (plus(r#""key_ops":["encrypt"]"#), KeyError::Purpose),
        (plus(r#""key_ops":[]"#), KeyError::Purpose),
        (plus(r#""key_ops":"verify""#), member("key_ops")),
        (plus(r#""key_ops":["verify","verify"]"#), member("key_ops")),
        (plus(r#""alg":"ES384""#), KeyError::Algorithm),
        (plus(r#""alg":"RS256""#), KeyError::Algorithm),
        (plus(r#""alg":"HS256""#), KeyError::Algorithm),
        (plus(r#""alg":null"#), member("alg")),
        (plus(r#""crv":"P-256""#), json(JsonError::DuplicateMember)),
        (plus(r#""x":"AAAA""#), json(JsonError::DuplicateMember)),
        (plus(r#""z":{"a":1,"a":1}"#), json(JsonError::DuplicateMember)),
        (format!("[{jwk}]"), json(JsonError::NotAnObject)),
        (format!("{jwk}{jwk}"), json(JsonError::Syntax)),
        (jwk.replace("P-256", "P-384"), member("x")),
        (jwk.replace("P-256", "p-256"), KeyError::Curve),
        (jwk.replace("EC", "ec"), KeyError::KeyType),
        (jwk.replace("\"x\":\"", "\"x\":\"AA"), member("x")),
        (format!(r#"{{"keys":[{jwk}]}}"#), KeyError::KeyType),
        (r#"{"kty":"OKP","crv":"X25519","x":"AAAA"}"#.into(), KeyError::KeyType),
        (r#"{"kty":"RSA","n":"AAAA","e":"AQAB"}"#.into(), member("n")),
        (r#"{"kty":"RSA","n":"","e":"AQAB"}"#.into(), member("n")),
    ] {
        assert_eq!(PublicKey::from_jwk(text.as_bytes()), Err(wanted), "{text}");
    }
}

#[test]
fn no_refusal_repeats_a_private_key() {
    let secret = "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A";
    let jwk = format!(
        r#"{{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","d":"{secret}"}}"#
    );
    let pem = SigningKey::generate(Algorithm::Es256).unwrap().to_pkcs8_pem();
    for refusal in [
        PublicKey::from_jwk(jwk.as_bytes()).unwrap_err(),
        PublicKey::recognise(jwk.as_bytes()).unwrap_err(),
        PublicKey::from_spki_pem(&pem).unwrap_err(),
        PublicKey::recognise(pem.as_bytes()).unwrap_err(),
    ] {
        assert_eq!(refusal, KeyError::PrivateKey);
        let said = format!("{refusal} {refusal:?}");
        assert!(!said.contains(secret) && !said.contains(&pem[40..60]), "{said}");
    }
}

#[test]
fn what_is_no_key_is_not_recognised() {
    for bytes in [&b""[..], b"   ", b"lamp", b"\xef\xbb\xbf{}", b"\xff\xff", b"ssh-ed25519 AAAA"] {
        assert_eq!(PublicKey::recognise(bytes), Err(KeyError::Unrecognised), "{bytes:?}");
    }
    assert_eq!(PublicKey::recognise(&[0x30, 3, 0x30, 1, 6]), Err(KeyError::Der));
    assert_eq!(PublicKey::recognise(&[0x30, 5, 0x30, 3, 2, 1, 1]), Err(KeyError::Certificate));
}

#[test]
fn only_minimal_der_becomes_a_raw_signature() {
    let order = tokens::p256_order();
    let pair = |r: &[u8], s: &[u8]| der(0x30, &[r, s]);
    let one = integer(&[1]);
    let raw = ecdsa_der_to_raw(&pair(&one, &integer(&[0x80; 32])), Algorithm::Es256).unwrap();
    assert_eq!(raw, [&[0; 31][..], &[1], &[0x80; 32]].concat());
    let wide = ecdsa_der_to_raw(&pair(&one, &one), Algorithm::Es384).unwrap();
    assert_eq!((wide.len(), wide[47], wide[95]), (96, 1, 1));

    let encoding = JwsError::SignatureEncoding;
    let range = JwsError::SignatureRange;
    let good = pair(&one, &one);
    for (name, bytes, wanted) in [
        ("r = 0", pair(&integer(&[]), &one), &range),
        ("s = 0", pair(&one, &integer(&[])), &range),
        ("r = n", pair(&integer(&order), &one), &range),
        ("s = n", pair(&one, &integer(&order)), &range),
        ("s of 33 bytes", pair(&one, &integer(&[1; 33])), &range),
        ("negative r", pair(&[2, 1, 0x80], &one), &encoding),
        ("r with a zero too many", pair(&[2, 2, 0, 1], &one), &encoding),
        ("empty integer", pair(&[2, 0], &one), &encoding),
        ("length in long form", [&[0x30, 0x81, 6][..], &good[2..]].concat(), &encoding),
        ("indefinite length", [&[0x30, 0x80][..], &good[2..], &[0, 0]].concat(), &encoding),
        ("trailing byte", [&good[..], &[0]].concat(), &encoding),
        ("third integer", der(0x30, &[&one, &one, &one]), &encoding),
        ("r alone", der(0x30, &[&one]), &encoding),
        ("raw", vec![1; 64], &encoding),
        ("empty", vec![], &encoding),
    ] {
        assert_eq!(ecdsa_der_to_raw(&bytes, Algorithm::Es256).as_ref(), Err(wanted), "{name}");
    }
    for algorithm in [Algorithm::EdDsa, Algorithm::Rs256, Algorithm::Ps256] {
        assert_eq!(ecdsa_der_to_raw(&good, algorithm), Err(encoding.clone()), "{algorithm}");
    }
}

#[test]
fn a_signature_in_der_verifies_after_conversion() {
    use drawbridge_jose::{Sign as _, Verify as _};
    for algorithm in [Algorithm::Es256, Algorithm::Es384] {
        let key = SigningKey::generate(algorithm).unwrap();
        // Often enough to meet numbers with leading zeros and with the high bit set.
        for round in 0..300_u32 {
            let message = round.to_be_bytes();
            let raw = key.sign(&message).unwrap();
            let (r, s) = raw.split_at(raw.len() / 2);
            let encoded = der(0x30, &[&integer(r), &integer(s)]);
            let back = ecdsa_der_to_raw(&encoded, algorithm).unwrap();
            assert_eq!(back, raw);
            assert!(round > 10 || key.public_key().verify(&message, &back).is_ok());
        }
    }
}

#[test]
fn the_weak_key_of_the_key_vectors_is_refused_in_every_form() {
    let file = vectors("wycheproof/json_web_key_test.json");
    let roca = &file["testGroups"][5]["public"]["keys"][0];
    let number = |name: &str| drawbridge_jose::base64url_decode(roca[name].as_str().unwrap()).unwrap();
    let der = rsa_spki(&number("n"), &number("e"));
    assert_eq!(PublicKey::from_spki_der(&der), Err(KeyError::RsaRoca));
}
