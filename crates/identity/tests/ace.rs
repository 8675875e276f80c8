//! The wire forms of RFC 9431 and its kin, against bytes that other hands have made (`vectors/make_ace.py`).

use drawbridge_identity::ace::{
    self, AceAnswer, AceError, AceFault, AceRequest, Answer, AsHint, ConnectData, Cwt, PopInput, PopKey,
    RequestedKey, RequestedProfile, SealedKey, SymmetricKey, TokenForm,
};
use drawbridge_identity::{AccessToken, Checker, Confirmation, IssuerKey, Refusal};
use drawbridge_jose::{PublicKey, SigningKey};
use serde_json::Value;

fn vectors() -> Value {
    serde_json::from_str(include_str!("vectors/ace.json")).expect("the file of vectors is JSON")
}

fn hex(value: &Value) -> Vec<u8> {
    let text = value.as_str().expect("hexadecimal text").as_bytes();
    assert!(text.len().is_multiple_of(2));
    let digit = |byte: u8| char::from(byte).to_digit(16).expect("a digit") as u8;
    text.chunks(2).map(|two| digit(two[0]) * 16 + digit(two[1])).collect()
}

fn each<'v>(vectors: &'v Value, name: &str) -> impl Iterator<Item = (&'v Value, String)> {
    let list = vectors[name].as_array().unwrap_or_else(|| panic!("{name} is a list"));
    assert!(!list.is_empty(), "{name}");
    list.iter().map(|entry| {
        assert!(entry["source"].as_str().is_some_and(|source| !source.is_empty()), "a vector has a source");
        (entry, entry["name"].as_str().unwrap_or_default().to_owned())
    })
}

fn key(jwk: &Value) -> PublicKey {
    PublicKey::from_jwk(jwk.to_string().as_bytes()).expect("a key")
}

/// The same text on both sides, whatever the order of members.
fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

#[test]
fn the_forms_of_authentication_data_are_read_and_written_to_the_byte() {
    let vectors = vectors();
    for (entry, name) in each(&vectors, "auth_data") {
        let data = hex(&entry["data"]);
        match entry["form"].as_str() {
            Some("bad") => {
                assert!(matches!(ConnectData::parse(Some(&data)), Err(AceFault::Data(_))), "{name}");
            }
            Some("answer") => {
                let answer = Answer::parse(&data).expect(&name);
                assert_eq!(answer.nonce.to_vec(), hex(&entry["nonce"]), "{name}");
                assert_eq!(answer.pop, hex(&entry["pop"]), "{name}");
                assert_eq!(answer.to_bytes(), data, "{name}");
            }
            form => {
                let found = ConnectData::parse(Some(&data)).expect(&name);
                let (word, token, pop) = match found {
                    ConnectData::Proof { token, pop } => ("proof", Some(token), Some(pop)),
                    ConnectData::Token { token } => ("token", Some(token), None),
                    ConnectData::Stored => ("stored", None, None),
                };
                assert_eq!(Some(word), form, "{name}");
                for (found, member) in [(token, "token"), (pop, "pop")] {
                    assert_eq!(found.map(<[u8]>::to_vec), entry.get(member).map(hex), "{name}: {member}");
                }
                assert_eq!(found.to_bytes().expect("it was read").unwrap_or_default(), data, "{name}");
            }
        }
    }
}

#[test]
fn the_user_name_of_311_carries_the_token_in_base64url_and_a_jwt_also_as_it_is() {
    let vectors = vectors();
    for (entry, name) in each(&vectors, "user_names") {
        let user_name = entry["user_name"].as_str().expect("a text");
        let token = (!entry["token"].is_null()).then(|| hex(&entry["token"]));
        assert_eq!(ace::token_of_user_name(user_name).map(|token| token.to_vec()), token, "{name}");
        if entry["ours"] == true {
            assert_eq!(ace::user_name_of_token(&token.expect("a token")), user_name, "{name}");
        }
    }
}

#[test]
fn a_proof_is_good_for_its_key_its_input_and_its_algorithm_alone() {
    let (vectors, checker) = (vectors(), Checker::new());
    let symmetric: [u8; 32] = hex(&vectors["keys"]["symmetric"]).try_into().expect("32 bytes");
    for (entry, name) in each(&vectors, "proofs") {
        let of_token = match entry["key"].as_str() {
            Some("symmetric") => PopKey::Symmetric(SymmetricKey::new(symmetric)),
            Some(of) => PopKey::Public(key(&vectors["keys"][of])),
            None => panic!("{name}"),
        };
        let message = hex(&entry["input"]);
        let input = match entry["kind"].as_str() {
            Some("exporter") => PopInput::Exporter(message[..].try_into().expect("32 bytes")),
            _ => PopInput::Nonces(message[..8].try_into().expect("8"), message[8..].try_into().expect("8")),
        };
        let pop = hex(&entry["pop"]);
        let found = of_token.verify(&input, &pop, &checker);
        assert_eq!(found.is_ok(), entry["good"] == true, "{name}: {found:?}");
        // The other input: as long as it is fresh it says something else.
        let other = match input {
            PopInput::Exporter(_) => PopInput::Nonces([0; 8], [0; 8]),
            PopInput::Nonces(..) | PopInput::Renewal(_) => PopInput::Exporter([0; 32]),
        };
        assert_eq!(of_token.verify(&other, &pop, &checker), Err(AceFault::Proof), "{name}");
        for at in 0..pop.len() {
            let mut changed = pop.clone();
            changed[at] ^= 1;
            assert!(of_token.verify(&input, &changed, &checker).is_err(), "{name}: byte {at}");
        }
    }
}

#[test]
fn keys_of_other_algorithms_prove_nothing() {
    use drawbridge_jose::{Algorithm, Sign as _};
    let algorithm = Algorithm::Es384;
    let pair = SigningKey::generate(algorithm).expect("a key");
    let pop = pair.sign(&[0; 32]).expect("a signature");
    let found =
        PopKey::Public(pair.public_key().clone()).verify(&PopInput::Exporter([0; 32]), &pop, &Checker::new());
    assert!(matches!(found, Err(AceFault::Key(_))), "{algorithm}: {found:?}");
}

#[test]
fn cose_keys_are_read_and_written_to_the_byte() {
    let vectors = vectors();
    for (entry, _) in each(&vectors, "cose_keys") {
        let (of_jwk, cose) = (key(&entry["jwk"]), hex(&entry["cose"]));
        assert_eq!(ace::public_key_to_cose(&of_jwk), cose);
        assert_eq!(ace::public_key_from_cose(&cose).expect("a key"), of_jwk);
    }
}

#[test]
fn sealed_keys_are_those_of_another_implementation() {
    let vectors = vectors();
    let secret: [u8; 32] = hex(&vectors["secret"]).try_into().expect("32 bytes");
    let symmetric: [u8; 32] = hex(&vectors["keys"]["symmetric"]).try_into().expect("32 bytes");
    let nonce: [u8; 12] = hex(&vectors["sealed"]["nonce"]).try_into().expect("12 bytes");
    let (jti, of) = (vectors["jti"].as_str().expect("a text"), SymmetricKey::new(symmetric));
    let jwe = SealedKey::Jwe(vectors["sealed"]["jwe"].as_str().expect("a text").to_owned());
    let cose = SealedKey::Cose(hex(&vectors["sealed"]["cose"]));
    assert_eq!(ace::seal_as_jwe(&of, &secret, jti, nonce), jwe);
    assert_eq!(ace::seal_as_cose(&of, &secret, jti, nonce), cose);
    for sealed in [jwe, cose] {
        assert_eq!(sealed.open(&secret, jti).expect("it opens").bytes(), &symmetric);
    }
}

#[test]
fn the_jwts_say_what_they_are_bound_to_in_exactly_one_way() {
    let vectors = vectors();
    let (issuer, now_s) =
        (vectors["issuer"].as_str().expect("a text"), vectors["now_s"].as_u64().expect("a number"));
    let of_issuer = key(&vectors["issuer_jwk"]);
    for (entry, name) in each(&vectors, "jwts") {
        let token = entry["token"].as_str().expect("a text");
        assert!(matches!(TokenForm::of(token.as_bytes()), TokenForm::Jwt(found) if found == token), "{name}");
        let read = AccessToken::parse(token.as_bytes(), 8192).expect(&name);
        let verified = read.verify(issuer, &[&of_issuer], now_s, &Checker::new());
        match entry.get("want").and_then(Value::as_str) {
            Some(code) => assert_eq!(verified.expect_err(&name).code(), code, "{name}"),
            None => assert_eq!(verified.expect(&name).to_json(), entry["claims"], "{name}"),
        }
    }
}

#[test]
fn the_cwts_are_read_strictly_and_say_what_a_jwt_would() {
    let vectors = vectors();
    let (issuer, now_s) =
        (vectors["issuer"].as_str().expect("a text"), vectors["now_s"].as_u64().expect("a number"));
    let of_issuer = key(&vectors["issuer_jwk"]);
    for (entry, name) in each(&vectors, "cwts") {
        let token = hex(&entry["token"]);
        let found = Cwt::parse(&token, 8192).map_err(Refusal::from);
        let found = found.and_then(|cwt| cwt.verify(issuer, &[&of_issuer], now_s, &Checker::new()));
        match entry["want"].as_str() {
            Some("good") => {
                assert!(matches!(TokenForm::of(&token), TokenForm::Cwt(_)), "{name}");
                assert_eq!(found.expect(&name).to_json(), entry["claims"], "{name}");
                let step = if name.contains("61") { 1 } else { 7 };
                for at in (0..token.len()).step_by(step) {
                    let mut changed = token.clone();
                    changed[at] ^= 1;
                    let found = Cwt::parse(&changed, 8192).map_err(Refusal::from);
                    let found =
                        found.and_then(|cwt| cwt.verify(issuer, &[&of_issuer], now_s, &Checker::new()));
                    assert!(found.is_err(), "{name}: byte {at} was changed");
                }
            }
            code => assert_eq!(found.map(drop).expect_err(&name).code(), code.expect("a code"), "{name}"),
        }
    }
}

#[test]
fn the_cwt_that_we_sign_is_that_of_another_implementation() {
    let vectors = vectors();
    let (issuer, now_s) =
        (vectors["issuer"].as_str().expect("a text"), vectors["now_s"].as_u64().expect("a number"));
    let frame = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    let pair = SigningKey::from_pkcs8_der(&[&frame[..], &[6; 32]].concat()).expect("a key");
    assert_eq!(pair.public_key(), &key(&vectors["issuer_jwk"]));
    let of_issuer = IssuerKey::new(pair);
    assert_eq!(vectors["issuer_kid"], of_issuer.kid());
    let mut compared = 0;
    for (entry, name) in each(&vectors, "cwts").filter(|(entry, _)| entry["want"] == "good") {
        let token = hex(&entry["token"]);
        // What we write has both tags, no label for the key and its id in the protected header.
        let rest = ["tag 18", "no tag", "cnf COSE_Key with kid and alg", "kid in the unprotected header"];
        if rest.contains(&name.as_str()) {
            continue;
        }
        let read = Cwt::parse(&token, 8192).expect(&name);
        let claims = read.verify(issuer, &[of_issuer.public_key()], now_s, &Checker::new()).expect(&name);
        let ours = of_issuer.issue_cwt(&claims).expect("it signs");
        let wanted = if token.starts_with(&[0xd8, 61]) { token } else { [&[0xd8, 61], &token[..]].concat() };
        assert_eq!(ours, wanted, "{name}");
        compared += 1;
    }
    assert!(compared >= 5, "{compared} tokens were compared");
}

#[test]
fn scope_has_one_form_in_a_jwt_and_one_in_a_cwt() {
    let vectors = vectors();
    for (entry, name) in each(&vectors, "aif") {
        let (cbor, scope) = (hex(&entry["cbor"]), entry["scope"].as_str().expect("a text"));
        assert_eq!(ace::scope_from_cbor(&cbor).expect(&name), scope, "{name}");
        assert_eq!(ace::scope_to_cbor(scope).expect(&name), cbor, "{name}");
    }
    for bad in vectors["aif_bad"].as_array().expect("a list") {
        assert!(ace::scope_from_cbor(&hex(bad)).is_err(), "{bad}");
    }
}

#[test]
fn requests_say_the_same_in_json_and_in_cbor() {
    let vectors = vectors();
    for (entry, name) in each(&vectors, "requests") {
        let of_json =
            entry.get("json").map(|text| AceRequest::from_json(text.as_str().expect("a text").as_bytes()));
        let of_cbor = entry.get("cbor").map(|bytes| AceRequest::from_cbor(&hex(bytes)));
        for (form, found) in [("JSON", of_json), ("CBOR", of_cbor)] {
            let Some(found) = found else { continue };
            if let Some(code) = entry.get("fault").and_then(Value::as_str) {
                assert_eq!(Refusal::from(found.expect_err(&name)).code(), code, "{name} in {form}");
                continue;
            }
            let found = found.unwrap_or_else(|fault| panic!("{name} in {form}: {fault}"));
            assert_eq!(
                serde_json::to_value(&found.params).expect("texts"),
                entry["params"],
                "{name} in {form}"
            );
            let wanted = match (entry.get("key"), entry.get("kid").and_then(Value::as_str)) {
                (Some(jwk), _) => Some(RequestedKey::Key(key(jwk))),
                (None, Some(kid)) => {
                    Some(RequestedKey::KeyId(drawbridge_names::KeyId::parse(kid).expect("a kid")))
                }
                (None, None) => None,
            };
            assert_eq!(found.requested_key, wanted, "{name} in {form}");
            let profile = match entry.get("profile").and_then(Value::as_str) {
                None => None,
                Some("mqtt_tls") => Some(RequestedProfile::MqttTls),
                Some(_) => Some(RequestedProfile::Unknown),
            };
            assert_eq!(found.profile, profile, "{name} in {form}");
            assert_eq!(
                found.cnonce.as_deref(),
                entry.get("cnonce").and_then(Value::as_str),
                "{name} in {form}"
            );
        }
    }
}

#[test]
fn answers_and_errors_are_those_of_another_implementation() {
    let vectors = vectors();
    let token = vectors["cwts"].as_array().and_then(|all| all.first()).map(|entry| hex(&entry["token"]));
    let (token, scope) = (token.expect("a token"), vectors["aif"][0]["scope"].as_str().expect("a text"));
    let symmetric = SymmetricKey::new(hex(&vectors["keys"]["symmetric"]).try_into().expect("32 bytes"));
    let broker = key(&vectors["keys"]["ec"]);
    for (entry, name) in each(&vectors, "answers") {
        let answer = AceAnswer {
            access_token: &token,
            expires_in_s: 3600,
            scope: Some(scope),
            with_profile: entry["profile"] == true,
            symmetric: (entry["symmetric"] == true).then_some(&symmetric),
            broker_key: (entry["broker"] == true).then_some(&broker),
        };
        assert_eq!(answer.to_cbor().expect(&name), hex(&entry["cbor"]), "{name}");
        assert_eq!(answer.to_json(), entry["json"], "{name}");
    }
    for (entry, _) in each(&vectors, "errors") {
        let name = entry["error"].as_str().expect("a text");
        let error = AceError { error: name, description: "why", code: "DB-1069" };
        assert_eq!(error.to_cbor(), hex(&entry["cbor"]), "{name}");
    }
}

#[test]
fn the_hint_names_the_authorization_server() {
    let hint = AsHint {
        token_endpoint: "https://core.example/oauth/token",
        audience: "https://core.example/mqtt",
        cnonce: Some("BQY"),
    };
    // RFC 9431 section 2.4.1; the names of RFC 9200 section 5.3.
    let wanted =
        r#"{"AS":"https://core.example/oauth/token","audience":"https://core.example/mqtt","cnonce":"BQY"}"#;
    assert_eq!(json(&hint.to_json()), json(wanted));
    assert_eq!(AsHint::PROPERTY, "ace_as_hint");
}

#[test]
fn nothing_that_is_shown_of_a_key_or_proof_is_the_key_or_proof() {
    let symmetric = SymmetricKey::new([7; 32]);
    let data = ConnectData::Proof { token: b"SECRET", pop: b"SECRET" };
    let answer = Answer { nonce: [7; 8], pop: b"SECRET" };
    let request = AceRequest::from_json(br#"{"client_id":"a","client_secret":"SECRET"}"#).expect("a request");
    let shown =
        format!("{symmetric:?} {data:?} {answer:?} {request:?} {:?}", PopKey::Symmetric(symmetric.clone()));
    assert!(!shown.contains("SECRET") && !shown.contains('7'), "{shown}");
    assert!(Confirmation::Sealed(SealedKey::Jwe("x".into())).is_for_mqtt());
    assert!(!Confirmation::Key("x".into()).is_for_mqtt());
}
