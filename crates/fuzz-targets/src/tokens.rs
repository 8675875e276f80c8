//! Every kind of JWT, through the code that judges it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use drawbridge_identity::{
    AccessToken, ClientAssertion, ConnectJwt, Dates, DeviceClock, DpopRules, EnrolmentRules, KeyRemove,
    KeyUpdate, LegacyLogin, LegacyUpdate, NoncePurpose, Refusal, SoftwareStatement, verify_dpop,
    verify_enrolment_proof, verify_legacy_pop, verify_pop,
};
use drawbridge_jose::{PublicKey, Sign as _, base64url_encode, sha256};
use serde_json::{Map, Value, json};

use crate::Outcome;
use crate::edits::{ACCESS_TOKEN, AUTHORITY, Draft, UPDATE, URL, jwk};
use crate::kind::{Kind, embedded_key, judge_refusal};
use crate::rules::{
    DAY_S, are_dates, assertion_fits, aud_is, connect_is_fresh, dates_of, has_none, is_confirmation,
    is_device, is_good_key, is_of_new_key, is_url, jti_fits, kid_fits, legacy_fits, nonce_of, seconds,
    times_fit, typ_is,
};
use crate::world::{
    BRIDGE, CONNECT_LIFE_S_MAX, DEVICE, ISSUER, LIFE_S_MAX, NOW_S, PROJECT, SKEW_S, TOKEN_BYTES_MAX, WORLD,
};

fn assertion_claims() -> Value {
    json!({
        "iss": DEVICE, "sub": DEVICE, "aud": ISSUER, "iat": NOW_S, "exp": NOW_S + 120, "jti": "0123456789abcdef",
    })
}

macro_rules! kind {
    ($name:ident, $make:expr) => {
        pub(crate) mod $name {
            use super::*;

            pub(super) static KIND: std::sync::LazyLock<Kind> = std::sync::LazyLock::new(|| $make);

            pub(crate) fn run(data: &[u8]) -> Outcome {
                KIND.run(data)
            }

            pub(crate) fn seeds() -> Vec<Vec<u8>> {
                KIND.seeds()
            }
        }
    };
}

kind!(
    client_assertion,
    Kind::of_device(
        Draft::new(Some("client-authentication+jwt"), assertion_claims()),
        |token, clock| {
            let jwt = ClientAssertion::parse(token, TOKEN_BYTES_MAX)?;
            let candidate = WORLD.candidate(clock);
            let known = jwt.claimed().is_some_and(|name| name == WORLD.name).then_some(&candidate);
            let asserted = jwt.verify(known, &WORLD.rules(), NOW_S, &WORLD.checker)?;
            let until_s = asserted.until_s.expect("a client assertion ends");
            assert!(until_s > NOW_S && until_s <= NOW_S + LIFE_S_MAX + 2 * SKEW_S);
            Ok(())
        },
        |header, claims, clock| {
            typ_is(header, &["client-authentication+jwt", "jwt"], true)
                && kid_fits(header)
                && !header.contains_key("jwk")
                && has_none(claims, &["cnf", "public_key", "scope", "htm"])
                && assertion_fits(claims, clock)
        },
    )
);

kind!(
    key_update,
    Kind::of_device(
        {
            let mut claims = assertion_claims();
            claims["cnf"] = json!({ "jwk": jwk(&WORLD.new_key) });
            Draft::new(Some("key-update+jwt"), claims)
        },
        |token, clock| {
            let jwt = KeyUpdate::parse(token, TOKEN_BYTES_MAX)?;
            let candidate = WORLD.candidate(clock);
            let known = jwt.claimed().is_some_and(|name| name == WORLD.name).then_some(&candidate);
            jwt.verify(known, &WORLD.rules(), NOW_S, &WORLD.checker).map(drop)
        },
        |header, claims, clock| {
            let new_key = claims.get("cnf").and_then(Value::as_object).filter(|cnf| cnf.len() == 1);
            let new_key = new_key.and_then(|cnf| cnf.get("jwk"));
            typ_is(header, &["key-update+jwt"], false)
                && kid_fits(header)
                && !header.contains_key("jwk")
                && has_none(claims, &["public_key", "scope", "htm", "upd"])
                && assertion_fits(claims, clock)
                && new_key.is_some_and(is_good_key)
        },
    )
);

kind!(key_pop, {
    let claims = json!({ "aud": ISSUER, "jti": "0123456789abcdef", "upd": base64url_encode(&sha256(UPDATE.as_bytes())) });
    let mut kind = Kind::of_device(
        Draft::new(Some("key-pop+jwt"), claims).header("jwk", jwk(&WORLD.new_key)),
        |token, clock| {
            let (key, rules) = (WORLD.new_key.public_key(), WORLD.rules());
            verify_pop(token, UPDATE, key, &rules, dates_of(clock), NOW_S, &WORLD.checker)
        },
        |header, claims, clock| {
            let dates = match dates_of(clock) {
                Dates::Skew => times_fit(claims, SKEW_S, false),
                Dates::Day => times_fit(claims, DAY_S, false),
                Dates::Any => are_dates(claims),
            };
            typ_is(header, &["key-pop+jwt"], false)
                && is_of_new_key(header)
                && has_none(claims, &["sub", "scope", "cnf", "public_key", "htm"])
                && aud_is(claims, ISSUER)
                && jti_fits(claims)
                && nonce_of(claims, NoncePurpose::Assertion).is_ok()
                && dates
                && claims.get("upd").is_some_and(|upd| *upd == base64url_encode(&sha256(UPDATE.as_bytes())))
        },
    );
    kind.keys = vec![&WORLD.new_key];
    kind.inner = true;
    kind
});

kind!(
    key_remove,
    Kind::of_device(
        {
            let mut claims = assertion_claims();
            claims["kid"] = WORLD.keys[2].public_key().thumbprint().into();
            Draft::new(Some("key-remove+jwt"), claims)
        },
        |token, clock| {
            let jwt = KeyRemove::parse(token, TOKEN_BYTES_MAX)?;
            let candidate = WORLD.candidate(clock);
            let known = jwt.claimed().is_some_and(|name| name == WORLD.name).then_some(&candidate);
            jwt.verify(known, &WORLD.rules(), NOW_S, &WORLD.checker).map(drop)
        },
        |header, claims, clock| {
            let kid = claims.get("kid").and_then(Value::as_str);
            typ_is(header, &["key-remove+jwt"], false)
                && kid_fits(header)
                && !header.contains_key("jwk")
                && has_none(claims, &["cnf", "public_key", "scope", "htm", "upd"])
                && assertion_fits(claims, clock)
                && kid.is_some_and(|kid| drawbridge_names::KeyId::parse(kid).is_ok())
        },
    )
);

kind!(enrolment_proof, {
    let claims = json!({
        "aud": ISSUER, "sub": DEVICE, "nonce": WORLD.nonce(NoncePurpose::Enrolment, 30), "eth": base64url_encode(&AUTHORITY),
    });
    let mut kind = Kind::of_device(
        Draft::new(Some("enrolment-proof+jwt"), claims).header("jwk", jwk(&WORLD.new_key)),
        |token, _| {
            let rules = EnrolmentRules {
                issuer: ISSUER,
                device: &WORLD.name,
                authority: &AUTHORITY,
                skew_s: SKEW_S,
                nonces: &WORLD.nonces,
            };
            let key = WORLD.new_key.public_key();
            verify_enrolment_proof(token, TOKEN_BYTES_MAX, key, &rules, NOW_S, &WORLD.checker)
        },
        |header, claims, _| {
            typ_is(header, &["enrolment-proof+jwt"], false)
                && is_of_new_key(header)
                && has_none(
                    claims,
                    &["scope", "cnf", "public_key", "htm", "htu", "ath", "upd", "client_id", "software_id"],
                )
                && aud_is(claims, ISSUER)
                && is_device(claims, "sub", false)
                && is_device(claims, "iss", true)
                && claims.get("eth").is_some_and(|eth| *eth == base64url_encode(&AUTHORITY))
                && times_fit(claims, SKEW_S, false)
                && matches!(nonce_of(claims, NoncePurpose::Enrolment), Ok(Some(_)))
        },
    );
    kind.keys = vec![&WORLD.new_key];
    kind.inner = true;
    kind
});

/// The request of the proof: at the token endpoint, there with a nonce wanted, or with an access token.
fn dpop_request(clock: DeviceClock) -> (bool, Option<&'static str>) {
    match clock {
        DeviceClock::Good => (false, None),
        DeviceClock::Coarse => (true, None),
        DeviceClock::None => (false, Some(ACCESS_TOKEN)),
    }
}

kind!(dpop_proof, {
    let claims = json!({ "htm": "POST", "htu": URL, "iat": NOW_S, "jti": "0123456789abcdef" });
    let mut kind = Kind::of_device(
        Draft::new(Some("dpop+jwt"), claims),
        |token, clock| {
            let (nonce_wanted, access_token) = dpop_request(clock);
            let rules = DpopRules {
                method: "POST",
                url: URL,
                access_token,
                skew_s: SKEW_S,
                nonces: &WORLD.nonces,
                nonce_wanted,
                token_bytes_max: TOKEN_BYTES_MAX,
            };
            let proven = verify_dpop(token, &rules, NOW_S, &WORLD.checker)?;
            let key =
                embedded_key(token.split('.').next().unwrap_or_default()).expect("it was verified with it");
            assert_eq!(proven.thumbprint, key.thumbprint());
            assert!(proven.until_s > NOW_S && proven.until_s <= NOW_S + 2 * SKEW_S + 1);
            Ok(())
        },
        |header, claims, clock| {
            let (nonce_wanted, access_token) = dpop_request(clock);
            let key = header.get("jwk").and_then(|key| PublicKey::from_jwk(key.to_string().as_bytes()).ok());
            let kid = header.get("kid").and_then(Value::as_str);
            let iat = seconds(claims, "iat").ok().flatten();
            let ath = access_token.map(|token| base64url_encode(&sha256(token.as_bytes())));
            let fresh = match nonce_of(claims, NoncePurpose::Dpop) {
                Err(()) => false,
                Ok(None) => {
                    let recent = iat.is_some_and(|iat_s| iat_s + SKEW_S >= NOW_S);
                    !nonce_wanted && recent && times_fit(claims, SKEW_S, false)
                }
                Ok(Some(_)) => true,
            };
            typ_is(header, &["dpop+jwt"], false)
                && key.is_some_and(|key| kid.is_none_or(|kid| kid == key.thumbprint()))
                && has_none(claims, &["sub", "aud", "cnf", "scope"])
                && claims.get("htm").is_some_and(|htm| htm == "POST")
                && claims.get("htu").and_then(Value::as_str).is_some_and(is_url)
                && jti_fits(claims)
                && iat.is_some()
                && claims.get("ath").map(|ath| ath.as_str().unwrap_or_default()) == ath.as_deref()
                && fresh
        },
    );
    kind.embedded = true;
    kind
});

kind!(
    software_statement,
    Kind::of_device(
        {
            let claims = json!({
                "iss": DEVICE, "aud": ISSUER, "iat": NOW_S - 100, "exp": NOW_S + 1000, "software_id": "pump 3.1",
                "id_pattern": "pump-*",
            });
            Draft::new(Some("software-statement+jwt"), claims)
        },
        |token, clock| {
            let jwt = SoftwareStatement::parse(token, TOKEN_BYTES_MAX)?;
            let maker = WORLD.candidate(clock);
            let known = jwt.claimed().is_some_and(|name| name == WORLD.name).then_some(&maker);
            jwt.verify(known, ISSUER, SKEW_S, NOW_S, &WORLD.checker).map(drop)
        },
        |header, claims, _| {
            let text = |name: &str| claims.get(name).map(|value| value.as_str().unwrap_or_default());
            let is_name = |name: &str| drawbridge_names::PrincipalName::parse(name).is_ok();
            let devices = match (text("client_id"), text("id_pattern"), claims.get("cnf")) {
                (Some(name), None, None) => is_name(name),
                (Some(name), None, Some(cnf)) => {
                    let jkt = cnf.get("jkt").and_then(Value::as_str).unwrap_or_default();
                    let digest = URL_SAFE_NO_PAD.decode(jkt).unwrap_or_default();
                    let alone = cnf.as_object().is_some_and(|cnf| cnf.len() == 1);
                    is_name(name)
                        && alone
                        && digest.len() == 32
                        && drawbridge_names::KeyId::parse(jkt).is_ok()
                }
                (None, Some(pattern), None) => {
                    pattern.len() <= drawbridge_names::PrincipalName::BYTES_MAX
                        && pattern.bytes().any(|byte| byte != b'*')
                        && is_name(&pattern.replace('*', "a"))
                }
                _ => false,
            };
            typ_is(header, &["software-statement+jwt"], false)
                && kid_fits(header)
                && !header.contains_key("jwk")
                && has_none(
                    claims,
                    &["scope", "public_key", "htm", "nonce", "eth", "upd", "redirect_uris", "jwks_uri"],
                )
                && is_device(claims, "iss", false)
                && aud_is(claims, ISSUER)
                && claims.contains_key("exp")
                && claims.contains_key("iat")
                && times_fit(claims, SKEW_S, true)
                && text("software_id").is_some_and(|id| {
                    (1..=128).contains(&id.len()) && id.bytes().all(|byte| (b' '..=b'~').contains(&byte))
                })
                && devices
        },
    )
);

kind!(
    legacy_login,
    Kind::of_device(
        Draft::new(Some("JWT"), json!({ "sub": DEVICE, "jti": "0123456789ABCDEF" })).header("kid", DEVICE),
        |token, clock| {
            let jwt = LegacyLogin::parse(token, TOKEN_BYTES_MAX)?;
            let candidate = WORLD.candidate(clock);
            let known = jwt.claimed().is_some_and(|name| name == WORLD.name).then_some(&candidate);
            jwt.verify(known, &WORLD.rules(), NOW_S, &WORLD.checker).map(drop)
        },
        |header, claims, _| legacy_fits(header, claims)
            && has_none(claims, &["public_key", "cnf", "upd", "htm"]),
    )
);

kind!(
    legacy_update,
    Kind::of_device(
        {
            let pem: String = WORLD.new_key.public_key().to_pem().split('\n').collect();
            let claims = json!({ "sub": DEVICE, "public_key": pem, "jti": "0123456789ABCDEF" });
            Draft::new(Some("JWT"), claims).header("kid", DEVICE)
        },
        |token, clock| {
            let jwt = LegacyUpdate::parse(token, TOKEN_BYTES_MAX)?;
            let candidate = WORLD.candidate(clock);
            let known = jwt.claimed().is_some_and(|name| name == WORLD.name).then_some(&candidate);
            jwt.verify(known, &WORLD.rules(), NOW_S, &WORLD.checker).map(drop)
        },
        |header, claims, _| {
            let key = claims.get("public_key").and_then(Value::as_str).filter(|text| text.len() <= 2048);
            legacy_fits(header, claims)
                && has_none(claims, &["cnf", "upd", "htm"])
                && key.is_some_and(|text| {
                    PublicKey::from_spki_pem(text).or_else(|_| PublicKey::from_bare_base64(text)).is_ok()
                })
        },
    )
);

fn connect(token: &str, clock: DeviceClock, renews: bool) -> Result<(), Refusal> {
    let jwt = ConnectJwt::parse(token.as_bytes(), TOKEN_BYTES_MAX)?;
    // The name comes from the client id; a `sub`, where there is one, must not be another's.
    let known = jwt.subject()?.is_none_or(|name| name == WORLD.name);
    let candidate = WORLD.candidate(clock);
    let rules = WORLD.connect_rules(renews);
    let proof = jwt.verify(known.then_some(&candidate), &rules, NOW_S, &WORLD.checker)?;
    assert!(proof.ends_s > NOW_S && proof.ends_s <= NOW_S + CONNECT_LIFE_S_MAX + 3 * SKEW_S);
    assert!(proof.once.is_none_or(|once| once.until_s > NOW_S && once.until_s <= NOW_S + 2 * DAY_S));
    Ok(())
}

fn connect_fits(header: &Map<String, Value>, claims: &Map<String, Value>) -> bool {
    typ_is(header, &["jwt"], true)
        && kid_fits(header)
        && !header.contains_key("jwk")
        && has_none(claims, &["cnf", "public_key", "htm", "upd"])
        && is_device(claims, "sub", true)
        && is_device(claims, "iss", true)
        && (aud_is(claims, BRIDGE) || aud_is(claims, PROJECT))
}

fn connect_draft() -> Draft {
    Draft::new(Some("JWT"), json!({ "sub": DEVICE, "aud": BRIDGE, "iat": NOW_S, "exp": NOW_S + 3600 }))
}

kind!(connect_jwt, {
    let mut kind = Kind::of_device(
        connect_draft(),
        |token, clock| {
            let found = connect(token, clock, false);
            // An open session is not renewed by what would not have opened it.
            assert!(found.is_ok() || connect(token, clock, true).is_err());
            found
        },
        |header, claims, clock| connect_fits(header, claims) && connect_is_fresh(claims, clock, false),
    );
    kind.padded = true;
    kind
});

kind!(access_token, {
    let claims = json!({
        "iss": ISSUER, "sub": DEVICE, "client_id": DEVICE, "aud": BRIDGE, "iat": NOW_S, "exp": NOW_S + 3600,
        "jti": "0123456789abcdef", "uid": "7", "epoch": 1, "akid": WORLD.keys[0].public_key().thumbprint(),
    });
    let mut kind = Kind::of_device(
        Draft::new(Some("at+jwt"), claims).header("kid", WORLD.issuer.kid()),
        |token, _| {
            let keys = [WORLD.issuer.public_key()];
            let jwt = AccessToken::parse(token.as_bytes(), 8192)?;
            let claims = jwt.verify(ISSUER, &keys, NOW_S, &WORLD.checker)?;
            // What was accepted can be issued again and means the same.
            let again = WORLD.issuer.issue(&claims).expect("the key signs");
            let again = AccessToken::parse(again.as_bytes(), 16_384).expect("our own token");
            assert_eq!(again.verify(ISSUER, &keys, NOW_S, &WORLD.checker).as_ref(), Ok(&claims));
            Ok(())
        },
        |header, claims, _| {
            let number = |of: &Map<String, Value>, name: &str| seconds(of, name).ok().flatten();
            let is_text = |name: &str, absent: bool| claims.get(name).map_or(absent, Value::is_string);
            let names_principal = |of: &Map<String, Value>| {
                let text = |name: &str| of.get(name).and_then(Value::as_str);
                text("uid").is_some_and(|uid| uid.parse::<u64>().is_ok())
                    && text("sub").is_some_and(|sub| drawbridge_names::PrincipalName::parse(sub).is_ok())
                    && number(of, "epoch").is_some()
                    && (!of.contains_key("akid")
                        || text("akid").is_some_and(|akid| drawbridge_names::KeyId::parse(akid).is_ok()))
            };
            let is_alias = |of: &Value| {
                of.get("words").is_some_and(Value::is_string)
                    && of.as_object().is_some_and(|of| number(of, "login").is_some())
            };
            typ_is(header, &["at+jwt"], false)
                && header.get("kid").is_some_and(|kid| kid == WORLD.issuer.kid())
                && !header.contains_key("jwk")
                && claims.get("iss").is_some_and(|iss| iss == ISSUER)
                && number(claims, "exp").is_some_and(|exp_s| NOW_S < exp_s)
                && number(claims, "iat").is_some()
                && names_principal(claims)
                && ["client_id", "aud", "jti"].into_iter().all(|name| is_text(name, false))
                && is_text("scope", true)
                && is_text("cnonce", true)
                && claims.get("cnf").is_none_or(is_confirmation)
                && claims.get("alias").is_none_or(is_alias)
                && claims.get("act").is_none_or(|act| act.as_object().is_some_and(names_principal))
        },
    );
    kind.keys = vec![&WORLD.issuer_signing];
    kind.token_bytes_max = 8192;
    kind
});

pub(crate) mod legacy_pop {
    use super::*;
    use crate::jose::ecdsa_der;

    pub(crate) fn run(data: &[u8]) -> Outcome {
        let Ok(text) = std::str::from_utf8(data) else { return Outcome::refused("no text") };
        let key = WORLD.new_key.public_key();
        match verify_legacy_pop(text, UPDATE, key, &WORLD.checker) {
            Ok(form) => {
                let url_safe = text.trim_end_matches('=').replace('+', "-").replace('/', "_");
                let der = URL_SAFE_NO_PAD.decode(url_safe).expect("it was read");
                let point = &key.spki_der()[key.spki_der().len() - 65..];
                let primitive = &aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1;
                let theirs = aws_lc_rs::signature::UnparsedPublicKey::new(primitive, point);
                let hash = sha256(UPDATE.as_bytes());
                assert!(theirs.verify(UPDATE.as_bytes(), &der).is_ok() || theirs.verify(&hash, &der).is_ok());
                Outcome(format!("accepted {form:?}"))
            }
            Err(refusal) => {
                assert!(matches!(refusal, Refusal::Pop(_)));
                judge_refusal(&refusal, text);
                Outcome::refused(refusal)
            }
        }
    }

    pub(crate) fn seeds() -> Vec<Vec<u8>> {
        let hash = sha256(UPDATE.as_bytes());
        let mut seeds = Vec::new();
        for message in [UPDATE.as_bytes(), &hash] {
            let der = ecdsa_der::sign(&WORLD.new_key, message);
            seeds.push(URL_SAFE_NO_PAD.encode(&der).into_bytes());
            seeds.push(base64::engine::general_purpose::STANDARD.encode(&der).into_bytes());
            let raw = WORLD.new_key.sign(message).expect("the key signs");
            seeds.push(URL_SAFE_NO_PAD.encode(raw).into_bytes());
        }
        seeds
    }
}

#[cfg(test)]
mod tests {
    use drawbridge_jose::SigningKey;

    use super::*;
    use crate::edits::{NAMES, NONCE_AGES, VALUES, edit};
    use crate::world::{EXPORTER, signed};

    fn kinds() -> [(&'static str, &'static Kind); 11] {
        [
            ("DPoP proof", &dpop_proof::KIND),
            ("client assertion", &client_assertion::KIND),
            ("key update", &key_update::KIND),
            ("key removal", &key_remove::KIND),
            ("proof of possession", &key_pop::KIND),
            ("proof of an enrolment", &enrolment_proof::KIND),
            ("software statement", &software_statement::KIND),
            ("legacy login", &legacy_login::KIND),
            ("legacy update", &legacy_update::KIND),
            ("JWT for CONNECT", &connect_jwt::KIND),
            ("access token", &access_token::KIND),
        ]
    }

    fn token(kind: &Kind, key: &SigningKey, change: impl FnOnce(&mut Draft)) -> String {
        let mut draft = edit(&kind.started(key), key, &[]);
        change(&mut draft);
        let [header, claims] = [draft.header, draft.claims].map(|map| Value::Object(map).to_string());
        signed(header.as_bytes(), claims.as_bytes(), key)
    }

    fn judged(kind: &Kind, token: &str) -> Result<(), Refusal> {
        (kind.judge)(token, DeviceClock::Good)
    }

    /// One member changed, taken away or added, with every value: the rules say beforehand what becomes of it.
    fn every_single_edit_is_judged_as_the_rules_say(kind: &Kind) {
        let mut accepted = 0;
        for name in 0..NAMES.len() {
            for value in 0..VALUES.len() {
                let program = [2, 0, name as u8, value as u8];
                accepted += usize::from(kind.run(&program) == Outcome::accepted());
            }
        }
        assert!(NAMES.len() <= 256 && VALUES.len() <= 256, "a byte reaches them all");
        let tried = NAMES.len() * VALUES.len();
        assert!(accepted > tried / 5 && accepted < tried, "{accepted} of {tried} were accepted");
    }

    macro_rules! single_edits {
        ($($name:ident)*) => {
            mod every_single_edit {
                $(
                    #[test]
                    fn $name() {
                        super::every_single_edit_is_judged_as_the_rules_say(&super::$name::KIND);
                    }
                )*
            }
        };
    }

    single_edits! {
        client_assertion key_update key_remove key_pop enrolment_proof software_statement dpop_proof
        legacy_login legacy_update connect_jwt access_token
    }

    fn member(name: &str) -> u8 {
        NAMES.iter().position(|found| *found == name).expect("edits reach it") as u8
    }

    fn value(wanted: &Value) -> u8 {
        VALUES.iter().position(|found| found.as_ref() == Some(wanted)).expect("edits put it there") as u8
    }

    /// What shows that a JWT is new, beside every other edit of a claim that has to do with time, at each trust in
    /// the clock, at CONNECT and at a renewal.
    #[test]
    fn what_shows_that_a_jwt_for_connect_is_new_is_judged_as_the_rules_say() {
        let mut renewal = Kind::of_device(
            connect_draft(),
            |token, clock| connect(token, clock, true),
            |header, claims, clock| connect_fits(header, claims) && connect_is_fresh(claims, clock, true),
        );
        renewal.padded = true;
        let nonce = [member("nonce"), value(&WORLD.nonce(NoncePurpose::Assertion, 30).into())];
        let cb = [member("cb"), value(&base64url_encode(&EXPORTER).into())];
        let jti = [member("jti"), value(&"0123456789abcdef".into())];
        let starts = [vec![], nonce.to_vec(), cb.to_vec(), [nonce, jti].concat(), [nonce, cb].concat()];
        for (what, kind) in [("CONNECT", &*connect_jwt::KIND), ("renewal", &renewal)] {
            let mut accepted = [[0; 5]; 3];
            for (clock, mode) in [2, 5, 8].into_iter().enumerate() {
                for (at, start) in starts.iter().enumerate() {
                    for name in ["exp", "iat", "jti", "nonce", "cb"].map(member) {
                        for value in 0..VALUES.len() {
                            let program = [&[mode, 0][..], start, &[name, value as u8]].concat();
                            accepted[clock][at] += usize::from(kind.run(&program) == Outcome::accepted());
                        }
                    }
                }
            }
            let [good, coarse, none] = accepted;
            assert!(good.iter().all(|accepted| *accepted > 9), "{what}: {good:?}");
            // Of a clock that is not good, dates show nothing. What one edit can bring is the right `cb` at CONNECT,
            // and at a renewal with the right `cb` a nonce of three ages.
            let alone = if what == "CONNECT" { 1 } else { 0 };
            for found in [coarse, none] {
                assert_eq!(found[0], alone, "{what}: {found:?}");
                assert!(what == "CONNECT" || found[2] == NONCE_AGES.len(), "{what}: {found:?}");
                assert!([1, 3, 4].iter().all(|at| found[*at] > 9), "{what}: {found:?}");
            }
        }
    }

    /// CVE-2023-51774 and RFC 8725 section 2.8: one JWT in the place of another.
    #[test]
    fn no_jwt_passes_as_two_kinds() {
        let mut refused = 0;
        for (name, kind) in kinds() {
            let good = token(kind, kind.keys[0], |_| {});
            assert_eq!(judged(kind, &good), Ok(()), "{name}");
            for (other_name, other) in kinds().into_iter().filter(|(other, _)| *other != name) {
                assert!(judged(other, &good).is_err(), "a {name} passes as {other_name}");
                // Nor when the right key of the other place signs it.
                let by_its_key = token(kind, other.keys[0], |_| {});
                assert!(judged(other, &by_its_key).is_err(), "a {name} by its key passes as {other_name}");
                refused += 2;
            }
        }
        assert_eq!(refused, 220);
    }

    /// CVE-2019-7644, CVE-2024-53861: names and issuers compared by a part of them; CVE-2020-26160: `aud` of the wrong
    /// type skips its check.
    #[test]
    fn names_issuers_and_audiences_are_compared_whole_and_must_be_there() {
        let wrong = |right: &str| {
            vec![
                None,
                Some(Value::Null),
                Some(json!([])),
                Some(json!({ "0": right })),
                Some(json!(7)),
                Some("".into()),
                Some(right[1..].into()),
                Some(right[..right.len() - 1].into()),
                Some(format!("{right}x").into()),
                Some(format!("{right}/").into()),
                Some(format!("{right}.attacker.example").into()),
                Some(format!(" {right}").into()),
                Some(right.to_uppercase().into()),
                Some(json!([right, "x"])),
                Some(json!([right, right])),
                Some(json!([[right]])),
            ]
        };
        let rows: [(&str, &Kind, &str, &str); 9] = [
            ("client assertion", &client_assertion::KIND, "aud", ISSUER),
            ("client assertion", &client_assertion::KIND, "iss", DEVICE),
            ("client assertion", &client_assertion::KIND, "sub", DEVICE),
            ("key update", &key_update::KIND, "aud", ISSUER),
            ("proof of possession", &key_pop::KIND, "aud", ISSUER),
            ("software statement", &software_statement::KIND, "aud", ISSUER),
            ("legacy login", &legacy_login::KIND, "sub", DEVICE),
            ("JWT for CONNECT", &connect_jwt::KIND, "aud", BRIDGE),
            ("access token", &access_token::KIND, "iss", ISSUER),
        ];
        for (name, kind, claim, right) in rows {
            for value in wrong(right) {
                let jwt = token(kind, kind.keys[0], |draft| match value.clone() {
                    Some(value) => drop(draft.claims.insert(claim.into(), value)),
                    None => drop(draft.claims.remove(claim)),
                });
                assert!(judged(kind, &jwt).is_err(), "{name}: `{claim}` is {value:?}");
            }
        }
    }

    /// CVE-2025-65945 and all of its kind: what stands in a token only selects among the keys of the principal it
    /// claims to be from.
    #[test]
    fn nothing_in_a_token_brings_a_key_of_somebody_else() {
        let stranger = &WORLD.stranger;
        let kid = stranger.public_key().thumbprint();
        type Change = fn(&mut Draft);
        let changes: [(&str, Change); 6] = [
            ("nothing changed", |_| {}),
            ("kid of the stranger", |draft| {
                drop(draft.header.insert("kid".into(), WORLD.stranger.public_key().thumbprint().into()));
            }),
            ("kid of a key of the device", |draft| {
                drop(draft.header.insert("kid".into(), WORLD.keys[0].public_key().thumbprint().into()));
            }),
            ("jwk of the stranger", |draft| drop(draft.header.insert("jwk".into(), jwk(&WORLD.stranger)))),
            ("jku", |draft| drop(draft.header.insert("jku".into(), "https://attacker.example".into()))),
            ("cnf of the stranger", |draft| {
                drop(draft.claims.insert("cnf".into(), json!({ "jwk": jwk(&WORLD.stranger) })));
            }),
        ];
        // A DPoP proof says nothing but that its sender has the key in it, whosever it is.
        for (name, kind) in kinds().into_iter().filter(|(_, kind)| !kind.embedded) {
            for (what, change) in changes {
                let refusal = judged(kind, &token(kind, stranger, change)).expect_err(what);
                assert!(kind.inner || !refusal.is_proven(), "{name}, {what}: {refusal}");
                assert!(!refusal.to_string().contains(kid), "{name}, {what}: {refusal}");
            }
        }
    }
}
