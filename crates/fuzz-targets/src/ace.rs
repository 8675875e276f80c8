//! What comes by RFC 9431: authentication data, tokens and keys in CBOR, requests of the token endpoint.

use drawbridge_identity::ace::{
    AceFault, AceRequest, Answer, ConnectData, Cwt, POP_BYTES, RequestedKey, SealedKey, SymmetricKey,
    TokenForm, public_key_from_cose, public_key_to_cose, scope_from_cbor, scope_to_cbor, seal_as_cose,
    seal_as_jwe, token_of_user_name, user_name_of_token,
};
use drawbridge_identity::{AccessClaims, Confirmation, Refusal};
use drawbridge_jose::Sign as _;
use drawbridge_names::{Epoch, KeyId, Uid};
use serde_json::Value;

use crate::kind::{judge_refusal, verifies};
use crate::world::{BRIDGE, DEVICE, ISSUER, NOW_S, TOKEN_BYTES_MAX, WORLD};
use crate::{Outcome, judge_code, judge_text};

const SCOPE: &str = "W1siZGV2aWNlcy9zZW5zb3ItMTcvZXZlbnRzLyMiLFsicHViIl1dXQ";
const JTI: &str = "AAECAwQFBgcICQoLDA0ODw";

fn refused(fault: AceFault, sent: &[u8]) -> Outcome {
    let refusal = Refusal::from(fault);
    judge_code(refusal.code());
    judge_text(&refusal.to_string(), sent);
    Outcome::refused(refusal.code())
}

fn claims(confirmation: Option<Confirmation>) -> AccessClaims {
    AccessClaims {
        issuer: ISSUER.to_owned(),
        subject: WORLD.name.clone(),
        client_id: DEVICE.to_owned(),
        audience: BRIDGE.to_owned(),
        issued_s: NOW_S,
        expires_s: NOW_S + 3600,
        jti: JTI.to_owned(),
        scope: Some(SCOPE.to_owned()),
        uid: Uid(4711),
        epoch: Epoch(0),
        akid: None,
        confirmation,
        actor: None,
        alias: None,
        cnonce: None,
    }
}

/// A byte string in its shortest form, without a library.
fn bstr(bytes: &[u8]) -> Vec<u8> {
    let head = match bytes.len() {
        length @ 0..=23 => vec![0x40 | length as u8],
        length @ 24..=255 => vec![0x58, length as u8],
        length => vec![0x59, (length >> 8) as u8, length as u8],
    };
    [head, bytes.to_vec()].concat()
}

pub(crate) mod ace_data {
    use super::*;

    /// The first byte: an odd one says that a user name follows.
    pub(crate) fn run(data: &[u8]) -> Outcome {
        let Some((&mode, rest)) = data.split_first() else { return Outcome::refused("empty") };
        if mode & 1 == 1 {
            return user_name(rest);
        }
        if let Ok(answer) = Answer::parse(rest) {
            assert_eq!(answer.to_bytes(), rest);
            assert!(POP_BYTES.contains(&(rest.len() - 8)));
        }
        match ConnectData::parse(Some(rest)) {
            Ok(found) => {
                assert_eq!(found.to_bytes().expect("it was read").unwrap_or_default(), rest);
                Outcome(format!("accepted {found:?}"))
            }
            Err(fault) => refused(fault, rest),
        }
    }

    fn user_name(bytes: &[u8]) -> Outcome {
        let Ok(text) = std::str::from_utf8(bytes) else { return Outcome::refused("no text") };
        let Some(token) = token_of_user_name(text) else { return Outcome::refused("a name") };
        let encoded = user_name_of_token(&token);
        assert!(text == encoded || text.as_bytes() == [b"ace", &token[..]].concat(), "one token, two names");
        assert_eq!(token_of_user_name(&encoded).as_deref(), Some(&*token));
        Outcome(format!("accepted {:?}", TokenForm::of(&token)))
    }

    pub(crate) fn seeds() -> Vec<Vec<u8>> {
        let jwt = WORLD.issuer.issue(&claims(None)).expect("it signs").into_bytes();
        let cwt = WORLD.issuer.issue_cwt(&claims(None)).expect("it signs");
        let form = |token: &[u8], pop: &[u8]| {
            let form = match pop {
                [] => ConnectData::Token { token },
                pop => ConnectData::Proof { token, pop },
            };
            [&[0][..], &form.to_bytes().expect("it is short").unwrap_or_default()].concat()
        };
        vec![
            form(&jwt, &[7; 64]),
            form(&cwt, &[7; 32]),
            form(&cwt, &[]),
            form(b"dbo_x", &[7; 32]),
            [&[0][..], &[1; 40]].concat(),
            vec![0],
            [b"\x01", user_name_of_token(&jwt).as_bytes()].concat(),
            [b"\x01", user_name_of_token(&cwt).as_bytes()].concat(),
            [b"\x01ace", &jwt[..]].concat(),
            b"\x01acebook".to_vec(),
        ]
    }
}

pub(crate) mod ace_cwt {
    use super::*;

    /// The first byte: 0 a token as it is, 1 a payload, 2 a protected header that ends where the second byte says
    /// and a payload; the last two are then rightly signed.
    pub(crate) fn run(data: &[u8]) -> Outcome {
        let Some((&mode, rest)) = data.split_first() else { return Outcome::refused("empty") };
        let protected = protected();
        match mode % 3 {
            0 => judge(rest, None),
            1 => judge(&signed(&protected, rest), Some(&protected)),
            _ => {
                let Some((&at, rest)) = rest.split_first() else { return Outcome::refused("empty") };
                let (header, payload) = rest.split_at(usize::from(at).min(rest.len()));
                judge(&signed(header, payload), Some(header))
            }
        }
    }

    fn protected() -> Vec<u8> {
        let kid = drawbridge_jose::base64url_decode(WORLD.issuer.kid()).expect("a thumbprint");
        [&[0xa2, 1, 0x27, 4][..], &bstr(&kid)].concat()
    }

    fn signed(protected: &[u8], payload: &[u8]) -> Vec<u8> {
        let tbs = [&b"\x84\x6aSignature1"[..], &bstr(protected), &[0x40], &bstr(payload)].concat();
        let signature = WORLD.issuer_signing.sign(&tbs).expect("it signs");
        [&[0xd2, 0x84][..], &bstr(protected), &[0xa0], &bstr(payload), &bstr(&signature)].concat()
    }

    fn judge(token: &[u8], header: Option<&[u8]>) -> Outcome {
        let cwt = match Cwt::parse(token, TOKEN_BYTES_MAX) {
            Ok(cwt) => cwt,
            Err(fault) => return refused(fault, token),
        };
        assert!(token.len() <= TOKEN_BYTES_MAX);
        let key = WORLD.issuer.public_key();
        let found = match cwt.verify(ISSUER, &[key], NOW_S, &WORLD.checker) {
            Ok(found) => found,
            Err(refusal) => {
                judge_refusal(&refusal, &String::from_utf8_lossy(token));
                return Outcome::refused(format!("{} {}", refusal.code(), refusal.reason()));
            }
        };
        assert_eq!(cwt.kid(), Some(key.thumbprint()));
        assert!((NOW_S..NOW_S + (1 << 53)).contains(&(found.expires_s - 1)), "it has expired");
        assert_eq!(found.issuer, ISSUER);
        // Where the parts are known, the signature is asked of the primitive alone.
        if header.is_some() {
            let signature = &token[token.len() - 64..];
            let untagged = token.strip_prefix(&[0xd2]).expect("this is how it was made");
            let body = &untagged[1..untagged.len() - 66];
            let (protected, payload) = parts(body);
            let tbs = [&b"\x84\x6aSignature1"[..], &bstr(protected), &[0x40], &bstr(payload)].concat();
            assert!(verifies(key, &tbs, signature));
        }
        // Written again it says the same.
        match WORLD.issuer.issue_cwt(&found) {
            Ok(again) => {
                let read = Cwt::parse(&again, 2 * TOKEN_BYTES_MAX).expect("our own");
                let again = read.verify(ISSUER, &[key], NOW_S, &WORLD.checker).expect("our own");
                assert_eq!(again, found);
            }
            Err(refusal) => judge_code(refusal.code()),
        }
        Outcome::accepted()
    }

    /// The protected header and the payload of what [`signed`] made.
    fn parts(body: &[u8]) -> (&[u8], &[u8]) {
        let (protected, rest) = split(body);
        let (payload, rest) = split(rest.strip_prefix(&[0xa0]).expect("nothing is unprotected"));
        assert!(rest.is_empty());
        (protected, payload)
    }

    fn split(bytes: &[u8]) -> (&[u8], &[u8]) {
        let (length, head) = match bytes[0] {
            first @ 0x40..=0x57 => (usize::from(first & 0x1f), 1),
            0x58 => (usize::from(bytes[1]), 2),
            _ => (usize::from(bytes[1]) << 8 | usize::from(bytes[2]), 3),
        };
        bytes[head..].split_at(length)
    }

    pub(crate) fn seeds() -> Vec<Vec<u8>> {
        let key = SymmetricKey::new([7; 32]);
        let kid = KeyId::parse(WORLD.keys[0].public_key().thumbprint()).expect("a thumbprint");
        let confirmations = [
            None,
            Some(Confirmation::PopKey(WORLD.keys[0].public_key().clone())),
            Some(Confirmation::PopKey(WORLD.keys[1].public_key().clone())),
            Some(Confirmation::PopKeyId(kid)),
            Some(Confirmation::Sealed(seal_as_cose(&key, &[8; 32], JTI, [9; 12]))),
            Some(Confirmation::Key(WORLD.keys[0].public_key().thumbprint().to_owned())),
        ];
        let mut seeds = Vec::new();
        for confirmation in confirmations {
            let token = WORLD.issuer.issue_cwt(&claims(confirmation)).expect("it signs");
            let (_, payload) = parts(&token[4..token.len() - 66]);
            seeds.push([&[1][..], payload].concat());
            seeds.push([&[2, protected().len() as u8][..], &protected(), payload].concat());
            seeds.push([&[0][..], &token].concat());
        }
        seeds
    }
}

pub(crate) mod ace_scope {
    use super::*;

    pub(crate) fn run(data: &[u8]) -> Outcome {
        match scope_from_cbor(data) {
            Ok(scope) => {
                assert_eq!(scope_to_cbor(&scope).as_deref(), Ok(data));
                // Whatever a grant makes of it, it is read or refused by a code.
                match drawbridge_policy::Grant::parse_scope(&scope) {
                    Ok(grant) => assert!(grant.pairs().len() <= data.len()),
                    Err(error) => judge_code(error.code()),
                }
                Outcome::accepted()
            }
            Err(fault) => refused(fault, data),
        }
    }

    pub(crate) fn seeds() -> Vec<Vec<u8>> {
        let aif = |json: &str| scope_to_cbor(&drawbridge_jose::base64url_encode(json.as_bytes()));
        [
            r#"[["t1",["pub","sub"]],["t2/#",["pub"]],["+/t3",["sub"]]]"#,
            r#"[["devices/sensor-17/events/#",["pub"]]]"#,
            "[]",
            r#"[["",[]]]"#,
        ]
        .map(|json| aif(json).expect("it is one"))
        .to_vec()
    }
}

pub(crate) mod ace_request {
    use super::*;

    /// The first byte: an odd one says that it is CBOR.
    pub(crate) fn run(data: &[u8]) -> Outcome {
        let Some((&mode, rest)) = data.split_first() else { return Outcome::refused("empty") };
        let cbor = mode & 1 == 1;
        let read = if cbor { AceRequest::from_cbor(rest) } else { AceRequest::from_json(rest) };
        let request = match read {
            Ok(request) => request,
            Err(fault) => return refused(fault, rest),
        };
        assert!(request.params.values().all(|value| !value.is_empty() && !value.contains('\0')));
        assert!(request.params.contains_key("grant_type"));
        assert!(request.cnonce.as_ref().is_none_or(|nonce| (2..=86).contains(&nonce.len())));
        if !cbor {
            // A reader that shares no code with ours finds the same.
            let json: Value = serde_json::from_slice(rest).expect("strict JSON is JSON");
            for (name, value) in &request.params {
                let found = json.get(name).and_then(Value::as_str);
                assert!(found == Some(value) || (name == "grant_type" && found.is_none_or(str::is_empty)));
            }
            assert_eq!(request.requested_key.is_some(), json.get("req_cnf").is_some());
            if let Some(RequestedKey::KeyId(kid)) = &request.requested_key {
                assert_eq!(json["req_cnf"]["kid"].as_str(), Some(kid.as_str()));
            }
        }
        let word = match (&request.requested_key, request.profile, &request.cnonce) {
            (Some(RequestedKey::Key(_)), ..) => "key",
            (Some(RequestedKey::KeyId(_)), ..) => "kid",
            (None, Some(_), _) => "profile",
            (None, None, Some(_)) => "cnonce",
            _ => "plain",
        };
        Outcome(format!("accepted {} {word}", if cbor { "CBOR" } else { "JSON" }))
    }

    pub(crate) fn seeds() -> Vec<Vec<u8>> {
        let key = WORLD.keys[1].public_key();
        let kid = drawbridge_jose::base64url_decode(key.thumbprint()).expect("a thumbprint");
        let aif = scope_to_cbor(SCOPE).expect("a scope");
        let json = |text: String| [&[0][..], text.as_bytes()].concat();
        let map = |parts: &[&[u8]]| [&[1, 0xa0 | parts.len() as u8][..], &parts.concat()].concat();
        let cose = public_key_to_cose(key);
        vec![
            json("{}".to_owned()),
            json(format!(r#"{{"req_cnf":{{"jwk":{}}},"ace_profile":"","scope":"{SCOPE}"}}"#, key.to_jwk_json())),
            json(format!(r#"{{"req_cnf":{{"kid":"{}"}},"cnonce":"BQY","audience":"{BRIDGE}"}}"#, key.thumbprint())),
            json(r#"{"grant_type":"client_credentials","client_id":"a","client_secret":"b","ace_profile":"mqtt_tls"}"#.to_owned()),
            vec![1, 0xa0],
            map(&[&[&[4, 0xa1, 1][..], &cose].concat()]),
            map(&[&[&[4, 0xa1, 3][..], &bstr(&kid)].concat(), &[&[9][..], &bstr(&aif)].concat()]),
            map(&[&[0x18, 33, 2], &[0x18, 38, 0xf6], &[0x18, 39, 0x42, 5, 6], b"\x18\x18\x61a", b"\x18\x19\x41b"]),
            map(&[&[0x18, 38, 3]]),
        ]
    }
}

pub(crate) mod ace_key {
    use super::*;

    /// The first byte: 0 a COSE_Key, 1 a sealed key as COSE, 2 as JWE.
    pub(crate) fn run(data: &[u8]) -> Outcome {
        let Some((&mode, rest)) = data.split_first() else { return Outcome::refused("empty") };
        let sealed = match mode % 3 {
            0 => {
                return match public_key_from_cose(rest) {
                    Ok(key) => {
                        let again = public_key_to_cose(&key);
                        assert_eq!(public_key_from_cose(&again).expect("our own"), key);
                        assert!(again.len() <= rest.len(), "what is left out is a name or a hint");
                        Outcome(format!("accepted {}", key.algorithm()))
                    }
                    Err(fault) => refused(fault, rest),
                };
            }
            1 => SealedKey::Cose(rest.to_vec()),
            _ => match std::str::from_utf8(rest) {
                Ok(text) => SealedKey::Jwe(text.to_owned()),
                Err(_) => return Outcome::refused("no text"),
            },
        };
        match sealed.open(&[8; 32], JTI) {
            Ok(key) => {
                // Only this server seals, so what opens is what it has sealed, to the byte.
                let nonces = [[9; 12], [10; 12]];
                let own = nonces.map(|nonce| {
                    [seal_as_cose(&key, &[8; 32], JTI, nonce), seal_as_jwe(&key, &[8; 32], JTI, nonce)]
                });
                assert!(own.as_flattened().contains(&sealed), "it opens and nobody has sealed it");
                Outcome::accepted()
            }
            Err(fault) => refused(fault, rest),
        }
    }

    pub(crate) fn seeds() -> Vec<Vec<u8>> {
        let mut seeds: Vec<Vec<u8>> =
            WORLD.keys.iter().map(|key| [&[0][..], &public_key_to_cose(key.public_key())].concat()).collect();
        let key = SymmetricKey::new([7; 32]);
        for nonce in [[9; 12], [10; 12]] {
            if let SealedKey::Cose(bytes) = seal_as_cose(&key, &[8; 32], JTI, nonce) {
                seeds.push([&[1][..], &bytes].concat());
            }
            if let SealedKey::Jwe(text) = seal_as_jwe(&key, &[8; 32], JTI, nonce) {
                seeds.push([&[2][..], text.as_bytes()].concat());
            }
        }
        seeds
    }
}
