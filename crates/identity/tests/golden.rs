//! The one pair of JWTs of an IoT IdP that its makers published, with the key recovered from them.

use drawbridge_identity::{
    AssertionRules, Candidate, Checker, DeviceClock, KeyRing, LegacyLogin, LegacyUpdate, NotProven, Refusal,
    RingKey,
};
use drawbridge_jose::PublicKey;
use drawbridge_names::{KeyId, PrincipalName};
use serde_json::Value;

const NOW_S: u64 = 1_795_341_800;
const RULES: AssertionRules<'_> = AssertionRules {
    issuer: "https://core.example",
    skew_s: 60,
    life_s_max: 300,
    clock: DeviceClock::Good,
    nonces: None,
};

fn golden() -> Value {
    serde_json::from_str(include_str!("vectors/golden.json")).expect("the vector file")
}

fn ring(jwk: &str) -> KeyRing {
    let public = PublicKey::from_jwk(jwk.as_bytes()).expect("a JWK");
    let kid = KeyId::parse(public.thumbprint()).expect("a thumbprint");
    KeyRing::new(vec![RingKey {
        kid,
        public,
        label: None,
        in_grace: false,
        not_before_s: None,
        expires_s: None,
    }])
}

fn judge<T>(legacy: bool, work: impl FnOnce(&Candidate<'_>, &Checker) -> T) -> T {
    let golden = golden();
    let name = PrincipalName::parse("test.device.01").expect("a name");
    let ring = ring(&golden["registered_key"].to_string());
    let candidate =
        Candidate { name: &name, ring: &ring, not_before_s: 0, legacy_assertions: legacy, clock: None };
    work(&candidate, &Checker::new())
}

fn text(name: &str) -> String {
    golden()[name].as_str().expect("a text").to_owned()
}

#[test]
fn the_published_login_with_its_high_s_signature_is_accepted() {
    let jwt = text("login_jwt");
    let login = LegacyLogin::parse(&jwt, 4096).expect("strict enough");
    assert_eq!(login.claimed().expect("sub").as_str(), "test.device.01");
    let asserted = judge(true, |c, checker| login.verify(Some(c), &RULES, NOW_S, checker)).expect("good");
    assert_eq!(asserted.kid.as_str(), "SFEYDs8DTkhEu85exBSqX5ap-W26Mdxo7cNP0VNzUds");
    assert_eq!(asserted.until_s, None, "without `exp` it is remembered for the life of the key");
}

#[test]
fn the_published_update_is_no_login_and_names_its_new_key() {
    let jwt = text("update_jwt");
    let as_login = LegacyLogin::parse(&jwt, 4096).expect("the same form");
    let refusal =
        judge(true, |c, checker| as_login.verify(Some(c), &RULES, NOW_S, checker)).expect_err("an update");
    assert!(matches!(refusal, Refusal::Kind { .. }), "{refusal}");

    let update = LegacyUpdate::parse(&jwt, 4096).expect("strict enough");
    let updated = judge(true, |c, checker| update.verify(Some(c), &RULES, NOW_S, checker)).expect("good");
    assert_eq!(updated.new_key.thumbprint(), "2OQ-jZZz7VA7F78y0ZVoRlk8tXnwQdjTxNztKmQBDdU");
}

#[test]
fn the_published_login_is_no_update() {
    let jwt = text("login_jwt");
    let update = LegacyUpdate::parse(&jwt, 4096).expect("the same form");
    let refusal =
        judge(true, |c, checker| update.verify(Some(c), &RULES, NOW_S, checker)).err().expect("a login");
    assert!(matches!(refusal, Refusal::Kind { .. }), "{refusal}");
}

#[test]
fn i8_the_update_does_not_verify_under_the_key_it_carries() {
    let jwt = text("update_jwt");
    let update = LegacyUpdate::parse(&jwt, 4096).expect("strict enough");
    let carried = judge(true, |c, checker| update.verify(Some(c), &RULES, NOW_S, checker)).expect("good");
    let ring = ring(&carried.new_key.to_jwk_json());
    let name = PrincipalName::parse("test.device.01").expect("a name");
    let wrong = Candidate { name: &name, ring: &ring, not_before_s: 0, legacy_assertions: true, clock: None };
    let refusal = update.verify(Some(&wrong), &RULES, NOW_S, &Checker::new()).err().expect("not its key");
    assert_eq!(refusal, Refusal::NotProven(NotProven::Signature));
}

#[test]
fn a_device_that_is_not_marked_does_not_log_in_that_way() {
    let jwt = text("login_jwt");
    let login = LegacyLogin::parse(&jwt, 4096).expect("strict enough");
    let refusal =
        judge(false, |c, checker| login.verify(Some(c), &RULES, NOW_S, checker)).expect_err("not marked");
    assert_eq!(refusal, Refusal::LegacyNotAllowed);
}
