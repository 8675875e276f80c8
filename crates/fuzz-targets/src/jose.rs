//! Tokens, keys and claims.

use std::sync::Mutex;

use drawbridge_jose::{
    Algorithm, BadSignature, CertificateKey, Claims, Jws, JwsError, KeyError, Padding, ParseOptions,
    PublicKey, SigningKey, Verify, base64url_encode, ecdsa_der_to_raw, sha256,
};
use serde_json::Value;

use crate::world::{self, WORLD, signed};
use crate::{Outcome, judge_text};

/// The kind of an error, without what it holds.
fn kind(error: &impl std::fmt::Debug) -> String {
    let text = format!("{error:?}");
    text.chars().take_while(|c| c.is_ascii_alphanumeric()).collect()
}

fn refused_token(error: &JwsError, sent: &[u8]) -> Outcome {
    judge_text(&error.to_string(), sent);
    Outcome::refused(match error {
        JwsError::Json { why, .. } => format!("Json {why:?}"),
        JwsError::EmbeddedKey(why) => format!("EmbeddedKey {}", kind(why)),
        other => kind(other),
    })
}

fn refused_key(error: &KeyError, sent: &[u8]) -> Outcome {
    judge_text(&error.to_string(), sent);
    Outcome::refused(match error {
        KeyError::Json(why) => format!("Json {why:?}"),
        other => kind(other),
    })
}

pub(crate) mod jws {
    use super::*;

    /// The first byte: bit 0 tolerates padding, bit 1 lets a key stand in the header, bit 2 says that header
    /// and payload follow, apart from each other by a NUL, and are to be signed.
    pub(crate) fn run(data: &[u8]) -> Outcome {
        let Some((&mode, rest)) = data.split_first() else { return Outcome::refused("empty") };
        let options = ParseOptions {
            padding: if mode & 1 == 0 { Padding::Refused } else { Padding::Tolerated },
            embedded_jwk: mode & 2 != 0,
            ..ParseOptions::default()
        };
        if mode & 4 == 0 {
            return read(rest, &options);
        }
        let cut = rest.iter().position(|byte| *byte == 0).unwrap_or(rest.len());
        let (header, payload) = (&rest[..cut], rest.get(cut + 1..).unwrap_or_default());
        let key = &WORLD.keys[usize::from(mode >> 3) % WORLD.keys.len()];
        let token = signed(header, payload, key);
        let outcome = read(token.as_bytes(), &options);
        if let Ok(jws) = Jws::parse(token.as_bytes(), &options) {
            // Rightly signed: only the algorithm that the header names can be in the way.
            match jws.verify(key.public_key()) {
                Ok(verified) => {
                    assert_eq!(verified.payload(), payload);
                    assert_eq!(verified.algorithm(), key.public_key().algorithm());
                    assert!(jws.verify(WORLD.stranger.public_key()).is_err(), "a stranger's key fits");
                }
                Err(JwsError::AlgorithmMismatch { header, key: of_key }) => {
                    assert!(header == jws.algorithm() && header != of_key);
                }
                Err(other) => panic!("rightly signed, and refused: {other}"),
            }
        }
        outcome
    }

    fn read(token: &[u8], options: &ParseOptions) -> Outcome {
        let jws = match Jws::parse(token, options) {
            Ok(jws) => jws,
            Err(error) => return refused_token(&error, token),
        };
        assert!(token.len() <= options.token_bytes_max);
        let seen = Seen { algorithm: jws.algorithm(), of: Mutex::default() };
        let verified =
            jws.verify(&seen).expect("a verifier that always agrees, of the algorithm of the header");
        let (message, signature) = seen.of.into_inner().expect("nothing panicked");
        // Header, payload and signature, written again, are the token; the primitive got its exact bytes.
        let text = std::str::from_utf8(token).expect("base64url and dots are ASCII");
        let parts: Vec<&str> = text.split('.').collect();
        assert_eq!(parts.len(), 3);
        assert_eq!(message, [parts[0], parts[1]].join(".").as_bytes());
        for (part, bytes) in [(parts[1], verified.payload()), (parts[2], &signature)] {
            let padding = part.len() - part.trim_end_matches('=').len();
            assert!(
                padding == 0
                    || (options.padding == Padding::Tolerated && part.len() % 4 == 0 && padding <= 2)
            );
            assert_eq!(base64url_encode(bytes), part.trim_end_matches('='));
        }
        // A reader that shares no code with ours finds the same in the header.
        let header = drawbridge_jose::base64url_decode(parts[0].trim_end_matches('=')).expect("it was read");
        assert!(header.len() <= options.header_bytes_max);
        let header: Value = serde_json::from_slice(&header).expect("strict JSON is JSON");
        assert_eq!(header["alg"].as_str().and_then(Algorithm::from_header), Some(jws.algorithm()));
        assert_eq!(header.get("kid").map(|kid| kid.as_str().expect("a text")), jws.kid());
        assert_eq!(header.get("typ").map(|typ| typ.as_str().expect("a text")), jws.typ());
        assert_eq!(header.get("jwk").is_some(), jws.jwk().is_some());
        assert!(jws.jwk().is_none() || options.embedded_jwk);
        for member in ["crit", "b64", "jku", "x5u", "x5c", "zip", "enc", "p2c", "epk"] {
            assert!(header.get(member).is_none(), "{member}");
        }
        match jws.unverified_claims() {
            Ok(claims) => super::claims::agrees(&claims, verified.payload()),
            Err(error) => drop(refused_token(&error, token)),
        }
        Outcome::accepted()
    }

    /// Agrees with everything, and keeps what it was asked.
    struct Seen {
        algorithm: Algorithm,
        of: Mutex<(Vec<u8>, Vec<u8>)>,
    }

    impl Verify for Seen {
        fn algorithm(&self) -> Algorithm {
            self.algorithm
        }

        fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), BadSignature> {
            *self.of.lock().expect("nothing panicked") = (message.to_vec(), signature.to_vec());
            Ok(())
        }
    }

    pub(crate) fn seeds() -> Vec<Vec<u8>> {
        let payload = br#"{"sub":"sensor-17","aud":"https://core.example","exp":1795301120}"#;
        let mut seeds = Vec::new();
        for (at, key) in WORLD.keys.iter().enumerate() {
            let alg = key.public_key().algorithm();
            let jwk = key.public_key().to_jwk_json();
            for header in [
                format!(r#"{{"alg":"{alg}"}}"#),
                format!(r#"{{"alg":"{alg}","typ":"JWT","kid":"factory"}}"#),
                format!(r#"{{"alg":"{alg}","typ":"dpop+jwt","jwk":{jwk}}}"#),
            ] {
                let raw = signed(header.as_bytes(), payload, key);
                seeds.push([&[2][..], raw.as_bytes()].concat());
                seeds.push([&[6 | (at as u8) << 3][..], header.as_bytes(), &[0], payload].concat());
            }
        }
        let raw = signed(br#"{"alg":"EdDSA"}"#, b"{}", &WORLD.keys[0]);
        let padded = raw.split('.').map(|part| format!("{part}{}", &"=="[..(4 - part.len() % 4) % 4]));
        seeds.push([&[1][..], padded.collect::<Vec<_>>().join(".").as_bytes()].concat());
        seeds
    }
}

pub(crate) mod jwk {
    use super::*;

    pub(crate) fn run(data: &[u8]) -> Outcome {
        let key = match PublicKey::from_jwk(data) {
            Ok(key) => key,
            Err(error) => return refused_key(&error, data),
        };
        survives(&key);
        let json: Value = serde_json::from_slice(data).expect("strict JSON is JSON");
        let private = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];
        assert!(private.iter().all(|name| json.get(name).is_none()), "a private key was taken");
        // The thumbprint of RFC 7638, worked out from the text that came in.
        let text = |name: &str| json[name].as_str().expect("a required member is a text");
        let members = match text("kty") {
            "EC" => vec!["crv", "kty", "x", "y"],
            "OKP" => vec!["crv", "kty", "x"],
            _ => vec!["e", "kty", "n"],
        };
        let members: Vec<String> =
            members.iter().map(|name| format!("\"{name}\":\"{}\"", text(name))).collect();
        let thumbprint = base64url_encode(&sha256(format!("{{{}}}", members.join(",")).as_bytes()));
        assert_eq!(key.thumbprint(), thumbprint);
        Outcome::accepted()
    }

    /// Whatever form a key came in, it survives every form it is written in.
    pub(super) fn survives(key: &PublicKey) {
        let alg = key.algorithm();
        for again in [
            PublicKey::from_jwk(key.to_jwk_json().as_bytes()),
            PublicKey::from_jwk(key.to_published_jwk_json().as_bytes()),
            PublicKey::from_spki_der_with(key.spki_der(), alg),
            PublicKey::recognise(key.to_jwk_json().as_bytes()),
        ] {
            assert_eq!(again.as_ref(), Ok(key));
        }
        let pem = PublicKey::from_pem(&key.to_pem()).expect("our own PEM");
        assert_eq!(pem.spki_der(), key.spki_der());
        assert_eq!(key.thumbprint().len(), 43);
        assert!(key.verify(b"message", &[1; 64]).is_err());
    }

    pub(crate) fn seeds() -> Vec<Vec<u8>> {
        let keys = [&WORLD.keys[0], &WORLD.keys[1], &WORLD.keys[2], &WORLD.new_key];
        let mut seeds: Vec<Vec<u8>> =
            keys.iter().map(|key| key.public_key().to_published_jwk_json().into_bytes()).collect();
        let ec = WORLD.keys[1].public_key().to_jwk_json();
        seeds.push(ec.replace('{', r#"{"use":"sig","key_ops":["verify"],"x5t":"AA","#).into_bytes());
        let mut members: Vec<&str> = ec.trim_matches(['{', '}']).split(',').collect();
        members.reverse();
        seeds.push(format!("{{ {} }}", members.join(" ,\n ")).into_bytes());
        for bytes in [256, 512] {
            let mut modulus = vec![0xc5; bytes];
            modulus[bytes - 1] = 0xc1;
            let n = base64url_encode(&modulus);
            seeds.push(format!(r#"{{"kty":"RSA","n":"{n}","e":"AQAB","alg":"PS256"}}"#).into_bytes());
        }
        seeds
    }
}

pub(crate) mod public_key {
    use super::*;

    /// The first byte chooses the form.
    pub(crate) fn run(data: &[u8]) -> Outcome {
        let Some((&form, rest)) = data.split_first() else { return Outcome::refused("empty") };
        let text = || std::str::from_utf8(rest).ok();
        let read = match form % 7 {
            0 => PublicKey::recognise(rest),
            1 => PublicKey::from_spki_der(rest),
            2 => PublicKey::from_certificate_der(rest),
            3 => text().map_or(Err(KeyError::Unrecognised), PublicKey::from_pem),
            4 => text().map_or(Err(KeyError::Unrecognised), PublicKey::from_spki_pem),
            5 => text().map_or(Err(KeyError::Unrecognised), PublicKey::from_bare_base64),
            _ => text().map_or(Err(KeyError::Unrecognised), |text| {
                let read = CertificateKey::from_pem(text)?;
                assert_eq!(CertificateKey::from_der(&read.der).as_ref(), Ok(&read));
                Ok(read.key)
            }),
        };
        let key = match read {
            Ok(key) => key,
            Err(error) => return refused_key(&error, rest),
        };
        super::jwk::survives(&key);
        let spki = key.spki_der();
        match form % 7 {
            1 => assert_eq!(spki, rest, "a key has one encoding"),
            2 => {
                assert!(rest.windows(spki.len()).any(|window| window == spki), "a key out of the certificate")
            }
            5 => {
                use base64::Engine as _;
                let dense: Vec<u8> = rest.iter().copied().filter(|byte| !b" \t\r\n".contains(byte)).collect();
                assert_eq!(base64::engine::general_purpose::STANDARD.encode(spki).as_bytes(), dense);
            }
            _ => {}
        }
        // A text names one key: what two readers could read differently is refused.
        if let Some(text) = text().filter(|_| matches!(form % 7, 3 | 4 | 6)) {
            assert_eq!(text.matches("-----BEGIN ").count(), 1);
            assert!(!text.contains("PRIVATE"));
        }
        Outcome::accepted()
    }

    pub(crate) fn seeds() -> Vec<Vec<u8>> {
        use base64::Engine as _;
        let mut seeds = Vec::new();
        for key in WORLD.keys.iter().map(SigningKey::public_key) {
            let with = |form: u8, bytes: &[u8]| [&[form], bytes].concat();
            let one_line: String = key.to_pem().split('\n').collect();
            let bare = base64::engine::general_purpose::STANDARD.encode(key.spki_der());
            seeds.extend([
                with(0, key.to_jwk_json().as_bytes()),
                with(1, key.spki_der()),
                with(3, key.to_pem().as_bytes()),
                with(4, one_line.as_bytes()),
                with(5, bare.as_bytes()),
            ]);
        }
        let certificate = include_bytes!("certificate.der");
        seeds.push([&[2][..], certificate].concat());
        seeds.push([&[0][..], certificate].concat());
        let body = base64::engine::general_purpose::STANDARD.encode(certificate);
        let pem = format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n");
        seeds.extend([3, 6].map(|form: u8| [&[form][..], pem.as_bytes()].concat()));
        seeds
    }
}

pub(crate) mod private_key {
    use super::*;

    pub(crate) fn run(data: &[u8]) -> Outcome {
        let key = match SigningKey::from_pkcs8_der(data) {
            Ok(key) => key,
            Err(error) => return refused_key(&error, data),
        };
        // The halves fit: what it signs verifies, and it survives being kept.
        let token =
            signed(format!(r#"{{"alg":"{}"}}"#, key.public_key().algorithm()).as_bytes(), b"{}", &key);
        let jws = Jws::parse(token.as_bytes(), &ParseOptions::default()).expect("our own token");
        assert!(jws.verify(key.public_key()).is_ok(), "the halves of the key do not fit");
        let again = SigningKey::from_pkcs8_der(&key.to_pkcs8_der()).expect("our own writing");
        assert_eq!(again.public_key(), key.public_key());
        let shown = format!("{key:?}");
        assert_eq!(
            shown,
            format!("SigningKey({} {})", key.public_key().algorithm(), key.public_key().thumbprint())
        );
        Outcome::accepted()
    }

    pub(crate) fn seeds() -> Vec<Vec<u8>> {
        let keys = WORLD.keys.iter().chain([&WORLD.new_key, &WORLD.stranger]);
        let mut seeds: Vec<Vec<u8>> = keys.map(|key| key.to_pkcs8_der().to_vec()).collect();
        // Without the public half, as openssl does not write it but others do.
        seeds.push(world::p256(7).to_pkcs8_der().to_vec());
        seeds
    }
}

pub(crate) mod ecdsa_der {
    use super::*;

    /// The first byte chooses the curve; the signature is over `message`.
    pub(crate) fn run(data: &[u8]) -> Outcome {
        let Some((&curve, der)) = data.split_first() else { return Outcome::refused("empty") };
        let at = 1 + usize::from(curve & 1);
        let key = WORLD.keys[at].public_key();
        let raw = match ecdsa_der_to_raw(der, key.algorithm()) {
            Ok(raw) => raw,
            Err(error) => return refused_token(&error, der),
        };
        assert_eq!(Some(raw.len()), key.algorithm().signature_bytes());
        let (r, s) = raw.split_at(raw.len() / 2);
        let body = [integer(r), integer(s)].concat();
        assert!(body.len() < 0x80, "two curves of at most 384 bits");
        assert_eq!([&[0x30, body.len() as u8][..], &body].concat(), der, "one signature has one DER");
        // A library that takes DER itself says the same.
        let primitive =
            [&aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1, &aws_lc_rs::signature::ECDSA_P384_SHA384_ASN1]
                [at - 1];
        // The point stands at the end of the SPKI.
        let point = &key.spki_der()[key.spki_der().len() - raw.len() - 1..];
        let theirs =
            aws_lc_rs::signature::UnparsedPublicKey::new(primitive, point).verify(b"message", der).is_ok();
        assert_eq!(key.verify(b"message", &raw).is_ok(), theirs);
        if theirs { Outcome::accepted() } else { Outcome(String::from("well-formed")) }
    }

    /// DER of a positive INTEGER below 128 bytes.
    pub(crate) fn integer(magnitude: &[u8]) -> Vec<u8> {
        let start = magnitude.iter().position(|byte| *byte != 0).unwrap_or(magnitude.len() - 1);
        let mut content = magnitude[start..].to_vec();
        if content[0] >= 0x80 {
            content.insert(0, 0);
        }
        [&[2, content.len() as u8][..], &content].concat()
    }

    /// A signature by this key in DER.
    pub(crate) fn sign(key: &SigningKey, message: &[u8]) -> Vec<u8> {
        use drawbridge_jose::Sign as _;
        let raw = key.sign(message).expect("the key signs");
        let (r, s) = raw.split_at(raw.len() / 2);
        let body = [integer(r), integer(s)].concat();
        [&[0x30, body.len() as u8][..], &body].concat()
    }

    pub(crate) fn seeds() -> Vec<Vec<u8>> {
        let of = |at: usize| [&[at as u8 - 1][..], &sign(&WORLD.keys[at], b"message")].concat();
        (0..6).map(|i| of(1 + i % 2)).chain([vec![0, 0x30, 6, 2, 1, 1, 2, 1, 1]]).collect()
    }
}

pub(crate) mod claims {
    use super::*;

    pub(crate) fn run(data: &[u8]) -> Outcome {
        let claims = match Claims::from_json(data) {
            Ok(claims) => claims,
            Err(why) => {
                judge_text(&why.to_string(), data);
                return Outcome::refused(format!("{why:?}"));
            }
        };
        agrees(&claims, data);
        Outcome::accepted()
    }

    /// What we read is what another reader reads, and nothing in it has two readings.
    pub(super) fn agrees(claims: &Claims, json: &[u8]) {
        let text = std::str::from_utf8(json).expect("strict JSON is UTF-8");
        assert!(!text.starts_with('\u{feff}'));
        let value: Value = serde_json::from_str(text).expect("strict JSON is JSON");
        same(claims, &value, 1);
    }

    fn same(claims: &Claims, value: &Value, depth: usize) {
        assert!(depth <= 8, "nested {depth} deep");
        let members = value.as_object().expect("an object");
        // The other reader keeps one of two members with one name.
        assert_eq!(claims.names().count(), members.len(), "a member stands there twice");
        for (name, value) in members {
            assert!(claims.contains(name) && !name.contains('\0'));
            let written = claims.object_json(name).expect("it is there");
            let again: Value = serde_json::from_str(&written).expect("what we write is JSON");
            assert_eq!(&again, value, "member {name:?}");
            assert_eq!(claims.text(name).ok().flatten(), value.as_str());
            assert_eq!(claims.boolean(name).ok().flatten(), value.as_bool());
            let list =
                value.as_array().and_then(|list| list.iter().map(Value::as_str).collect::<Option<Vec<_>>>());
            assert_eq!(claims.texts(name).ok().flatten(), list);
            let number = value.as_f64().filter(|n| *n >= 0.0 && *n < 9_007_199_254_740_992.0);
            let seconds = value.as_u64().filter(|n| *n < 1 << 53).or(number.map(|n| n as u64));
            assert_eq!(claims.numeric_date_s(name).ok().flatten(), seconds, "{value}");
            for error in [claims.text(name).err(), claims.numeric_date_s(name).err()].into_iter().flatten() {
                assert_eq!(&error.name, name);
                assert!(error.found.len() < 80 && error.wanted.len() < 80);
            }
            if value.is_object() {
                same(&claims.object(name).expect("an object").expect("it is there"), value, depth + 1);
            } else {
                assert!(claims.object(name).is_err());
            }
        }
    }

    pub(crate) fn seeds() -> Vec<Vec<u8>> {
        [
            r#"{"iss":"sensor-17","sub":"sensor-17","aud":"https://core.example","iat":1795301000,"exp":1795301120,"jti":"0123456789abcdef"}"#,
            r#"{"aud":["a","b"],"cnf":{"jkt":"x","n":[1,-2,0.5,1e3,null,true,"\"\u00e9"]}}"#,
            r#"{"a":{"b":{"c":{"d":{"e":{"f":{"g":{}}}}}}}}"#,
            r#"{"exp":1795301000.5,"nbf":-1,"iat":9007199254740991,"big":18446744073709551615,"e":1e300}"#,
            r#"{"a":1,"A":1,"aa":1,"":0," ":[],"\ud83d\ude00":"\ud83d\ude00"}"#,
            " { } \n",
        ]
        .map(|text| text.as_bytes().to_vec())
        .to_vec()
    }
}
