//! Every algorithm signs, verifies, and survives every form of its key.
#![cfg(feature = "aws-lc")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod tokens;

use drawbridge_jose::{
    Algorithm, Header, Jws, JwsError, KeyError, ParseOptions, PublicKey, Sign, SigningKey, sign_compact,
};

#[test]
fn what_each_algorithm_signs_verifies_under_its_key_and_no_other() {
    let keys: Vec<SigningKey> =
        Algorithm::ALL.into_iter().map(|alg| SigningKey::generate(alg).unwrap()).collect();
    for key in &keys {
        let header = Header { typ: Some("JWT"), kid: Some("a \"quoted\" kid\n"), jwk: None };
        let token = sign_compact(&header, br#"{"sub":"lamp","exp":1795301000}"#, key).unwrap();
        let jws = Jws::parse(token.as_bytes(), &ParseOptions::default()).unwrap();
        assert_eq!(jws.algorithm(), key.algorithm());
        let verified = jws.verify(key.public_key()).unwrap();
        assert_eq!(verified.typ(), Some("JWT"));
        assert_eq!(verified.kid(), header.kid);
        let claims = verified.claims().unwrap();
        assert_eq!(claims.text("sub"), Ok(Some("lamp")));
        assert_eq!(claims.numeric_date_s("exp"), Ok(Some(1_795_301_000)));
        for other in &keys {
            if other.algorithm() != key.algorithm() {
                let refusal = jws.verify(other.public_key()).unwrap_err();
                let wanted = JwsError::AlgorithmMismatch { header: key.algorithm(), key: other.algorithm() };
                assert_eq!(refusal, wanted);
            }
        }
    }
}

#[test]
fn a_public_key_survives_der_pem_jwk_and_recognition() {
    for alg in Algorithm::ALL {
        let key = SigningKey::generate(alg).unwrap();
        let public = key.public_key();
        assert_eq!(public.thumbprint().len(), 43);
        assert_eq!(&PublicKey::from_spki_der_with(public.spki_der(), alg).unwrap(), public);
        assert_eq!(&PublicKey::from_jwk(public.to_jwk_json().as_bytes()).unwrap(), public);
        assert_eq!(&PublicKey::from_jwk(public.to_published_jwk_json().as_bytes()).unwrap(), public);
        assert_eq!(&PublicKey::recognise(public.to_jwk_json().as_bytes()).unwrap(), public);
        let one_line: String = public.to_pem().split('\n').collect();
        let bare = one_line
            .trim_start_matches("-----BEGIN PUBLIC KEY-----")
            .trim_end_matches("-----END PUBLIC KEY-----");
        for found in [
            PublicKey::from_spki_der(public.spki_der()),
            PublicKey::from_pem(&public.to_pem()),
            PublicKey::from_pem(&one_line),
            PublicKey::from_spki_pem(&format!("\r\n \t{}\n\n", public.to_pem().replace('\n', "\r\n  "))),
            PublicKey::from_bare_base64(bare),
            PublicKey::recognise(public.to_pem().as_bytes()),
            PublicKey::recognise(public.spki_der()),
        ] {
            let found = found.unwrap();
            assert_eq!(found.spki_der(), public.spki_der());
            assert_eq!(found.thumbprint(), public.thumbprint());
        }
    }
}

#[test]
fn a_private_key_survives_pkcs8_and_signs_as_before() {
    for alg in Algorithm::ALL {
        let key = SigningKey::generate(alg).unwrap();
        let again = SigningKey::from_pkcs8_der_with(&key.to_pkcs8_der(), alg).unwrap();
        assert_eq!(again.public_key(), key.public_key());
        let from_pem = SigningKey::from_pkcs8_pem(&key.to_pkcs8_pem()).unwrap();
        assert_eq!(from_pem.public_key().thumbprint(), key.public_key().thumbprint());
        let token = sign_compact(&Header::default(), b"", &again).unwrap();
        Jws::parse(token.as_bytes(), &ParseOptions::default()).unwrap().verify(key.public_key()).unwrap();
    }
}

#[test]
fn a_key_serves_only_an_algorithm_of_its_own() {
    for (held, asked) in [
        (Algorithm::Es256, Algorithm::Es384),
        (Algorithm::Es384, Algorithm::Es256),
        (Algorithm::EdDsa, Algorithm::Es256),
        (Algorithm::Rs256, Algorithm::Es256),
        (Algorithm::Es256, Algorithm::Ps256),
    ] {
        let key = SigningKey::generate(held).unwrap();
        assert_eq!(
            PublicKey::from_spki_der_with(key.public_key().spki_der(), asked),
            Err(KeyError::Algorithm)
        );
        assert_eq!(
            SigningKey::from_pkcs8_der_with(&key.to_pkcs8_der(), asked).unwrap_err(),
            KeyError::Algorithm
        );
    }
}

#[test]
fn the_debug_form_of_a_private_key_shows_only_algorithm_and_thumbprint() {
    let key = SigningKey::generate(Algorithm::Es256).unwrap();
    assert_eq!(format!("{key:?}"), format!("SigningKey(ES256 {})", key.public_key().thumbprint()));
}

#[test]
fn a_certificate_gives_its_key_in_pem_and_der() {
    let pair = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["lamp".into()]).unwrap().self_signed(&pair).unwrap();
    let key = PublicKey::from_certificate_der(certificate.der()).unwrap();
    assert_eq!(key.algorithm(), Algorithm::Es256);
    assert_eq!(key, PublicKey::from_pem(&certificate.pem()).unwrap());
    assert_eq!(key, PublicKey::recognise(certificate.der()).unwrap());
    assert_eq!(key, PublicKey::recognise(certificate.pem().as_bytes()).unwrap());
    assert_eq!(key, PublicKey::from_pem(&pair.public_key_pem()).unwrap());
    // The claim of an update JWT takes keys only.
    assert_eq!(PublicKey::from_spki_pem(&certificate.pem()), Err(KeyError::PemLabel));
    let long: Vec<u8> = certificate.der().iter().copied().chain([0]).collect();
    assert_eq!(PublicKey::from_certificate_der(&long), Err(KeyError::TrailingBytes));
}

#[test]
fn a_key_travels_in_the_header_only_where_the_reader_allows_it() {
    let key = SigningKey::generate(Algorithm::Ps256).unwrap();
    let header = Header { typ: Some("dpop+jwt"), jwk: Some(key.public_key()), ..Header::default() };
    let token = sign_compact(&header, b"{}", &key).unwrap();
    let options = ParseOptions { embedded_jwk: true, ..ParseOptions::default() };
    let proof = Jws::parse(token.as_bytes(), &options).unwrap();
    assert_eq!(proof.jwk(), Some(key.public_key()));
    assert!(proof.verify(proof.jwk().unwrap()).is_ok());
    let refusal = Jws::parse(token.as_bytes(), &ParseOptions::default()).unwrap_err();
    assert_eq!(refusal, JwsError::HeaderMemberRefused { name: "jwk" });
}

/// What an issuer needs that must offer RS256 (RFC 9068 section 4 asks for it): a key of today's strength,
/// kept and read back, under which both of its algorithms sign, each refusing the other's.
#[test]
fn an_rsa_key_is_made_kept_and_signs_rs256_and_ps256() {
    let key = SigningKey::generate(Algorithm::Rs256).unwrap();
    // SPKI of 3072 bits: 384 bytes of modulus and 38 of frame.
    assert_eq!(key.public_key().spki_der().len(), 422);
    let kept = key.to_pkcs8_der();
    assert_eq!(*SigningKey::from_pkcs8_der(&kept).unwrap().to_pkcs8_der(), *kept);
    for (alg, other) in [(Algorithm::Rs256, Algorithm::Ps256), (Algorithm::Ps256, Algorithm::Rs256)] {
        let again = SigningKey::from_pkcs8_der_with(&kept, alg).unwrap();
        assert_eq!(again.public_key().thumbprint(), key.public_key().thumbprint());
        let token = sign_compact(&Header::default(), br#"{"sub":"lamp"}"#, &again).unwrap();
        let jws = Jws::parse(token.as_bytes(), &ParseOptions::default()).unwrap();
        let published = PublicKey::from_jwk(again.public_key().to_published_jwk_json().as_bytes()).unwrap();
        assert!(jws.verify(&published).is_ok());
        let wrong = PublicKey::from_spki_der_with(published.spki_der(), other).unwrap();
        assert_eq!(jws.verify(&wrong).unwrap_err(), JwsError::AlgorithmMismatch { header: alg, key: other });
    }
}

/// Libraries write the key of a DPoP proof without `alg`.
#[test]
fn an_rsa_key_in_the_header_that_names_no_algorithm_has_the_one_of_the_header() {
    let key = SigningKey::generate(Algorithm::Ps256).unwrap();
    let said = key.public_key().to_jwk_json();
    let silent = said.replace(r#""alg":"PS256","#, "");
    assert_ne!(said, silent);
    let options = ParseOptions { embedded_jwk: true, ..ParseOptions::default() };
    for (jwk, alg, wanted) in [
        (&said, "PS256", Some(Algorithm::Ps256)),
        (&silent, "PS256", Some(Algorithm::Ps256)),
        (&silent, "RS256", Some(Algorithm::Rs256)),
        (&said, "RS256", Some(Algorithm::Ps256)),
    ] {
        let header = format!(r#"{{"alg":"{alg}","jwk":{jwk}}}"#);
        let token = tokens::craft(&key, header.as_bytes(), b"{}");
        let jws = Jws::parse(token.as_bytes(), &options).unwrap();
        let embedded = jws.jwk().unwrap();
        assert_eq!(Some(embedded.algorithm()), wanted);
        assert_eq!(embedded.thumbprint(), key.public_key().thumbprint());
        // The key signed with PSS, whatever the header says.
        assert_eq!(jws.verify(embedded).is_ok(), alg == "PS256");
    }
}
