//! Devices with a good, a coarse and no clock: which dates and which nonces pass, for every JWT that a device
//! signs about itself.

mod world;

use drawbridge_admission::{Actor, Admission, LoginRequest, NewRegistry, Peer, Refusal};
use drawbridge_identity::{NONCE_LIFE_S, NoncePurpose, Nonces};
use drawbridge_names::{KeyId, RegistryName};
use drawbridge_registry::{ClockTrust, PrincipalSettings, RegistrySettings};
use drawbridge_testkit::{Draft, TestDevice};
use serde_json::json;
use world::{BRIDGE, ISSUER, World};

const DAY_S: u64 = 86_400;

/// What stands in the claim `nonce`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nonce {
    Absent,
    Good,
    /// In its last second.
    Aged,
    /// One second later.
    Old,
    OfAnotherPurpose,
    OfAnotherServer,
    Empty,
    Number,
}
use ClockTrust::{Coarse, Good as Trusted, None as Clockless};
use Nonce::{Absent, Aged, Empty, Good, Number, OfAnotherPurpose, OfAnotherServer, Old};

type Change = for<'d> fn(Draft<'d>, u64) -> Draft<'d>;

fn dated(draft: Draft<'_>, iat_s: u64, exp_s: u64) -> Draft<'_> {
    draft.with("iat", json!(iat_s)).with("exp", json!(exp_s))
}

/// Whose clock, which nonce, what it is called, what is changed, what comes of it.
type Case = (ClockTrust, Nonce, &'static str, Change, Result<(), &'static str>);

/// The draft has `iat` now and `exp` in 120 s, and nothing else that concerns time.
const CASES: &[Case] = &[
    // A good clock without a nonce: the numbers of the conformance suites and of the decisions.
    (Trusted, Absent, "as it should be", |d, _| d, Ok(())),
    (Trusted, Absent, "nbf 8 s ahead", |d, now| d.with("nbf", json!(now + 8)), Ok(())),
    (Trusted, Absent, "nbf 60 s ahead", |d, now| d.with("nbf", json!(now + 60)), Ok(())),
    (Trusted, Absent, "nbf 61 s ahead", |d, now| d.with("nbf", json!(now + 61)), Err("time")),
    (Trusted, Absent, "iat 60 s ahead", |d, now| d.with("iat", json!(now + 60)), Ok(())),
    (Trusted, Absent, "iat 61 s ahead", |d, now| d.with("iat", json!(now + 61)), Err("time")),
    (Trusted, Absent, "iat absent", |d, _| d.without("iat"), Ok(())),
    (Trusted, Absent, "iat long ago", |d, now| d.with("iat", json!(now - 7 * DAY_S)), Ok(())),
    (Trusted, Absent, "exp 59 s past", |d, now| d.with("exp", json!(now - 59)), Ok(())),
    (Trusted, Absent, "exp 60 s past", |d, now| d.with("exp", json!(now - 60)), Err("time")),
    (Trusted, Absent, "exp 5 min past", |d, now| d.with("exp", json!(now - 300)), Err("time")),
    (Trusted, Absent, "exp 300 s ahead", |d, now| d.with("exp", json!(now + 300)), Ok(())),
    (Trusted, Absent, "exp 360 s ahead", |d, now| d.with("exp", json!(now + 360)), Ok(())),
    (Trusted, Absent, "exp 361 s ahead", |d, now| d.with("exp", json!(now + 361)), Err("time")),
    (Trusted, Absent, "exp absent", |d, _| d.without("exp"), Err("time")),
    (Trusted, Absent, "exp 2^53", |d, _| d.with("exp", json!(9_007_199_254_740_992_u64)), Err("time")),
    // A nonce that is sent must be good, whoever sends it; a good one replaces the comparison with the time.
    (Trusted, Good, "as it should be", |d, _| d, Ok(())),
    (Trusted, Aged, "as it should be", |d, _| d, Ok(())),
    (Trusted, Old, "a good clock does not mend it", |d, _| d, Err("nonce-stale")),
    (Trusted, OfAnotherPurpose, "", |d, _| d, Err("nonce-stale")),
    (Trusted, OfAnotherServer, "", |d, _| d, Err("nonce-stale")),
    (Trusted, Empty, "", |d, _| d, Err("nonce-stale")),
    (Trusted, Number, "", |d, _| d, Err("nonce-stale")),
    (Trusted, Good, "the clock stands at 1970", |d, _| dated(d, 5, 305), Ok(())),
    (
        Trusted,
        Good,
        "the clock is a year ahead",
        |d, now| dated(d, now + 365 * DAY_S, now + 365 * DAY_S + 300),
        Ok(()),
    ),
    (Trusted, Good, "exp 361 s after iat", |d, _| dated(d, 5, 366), Err("time")),
    (Trusted, Good, "exp at iat", |d, _| dated(d, 5, 5), Err("time")),
    (Trusted, Good, "exp absent", |d, _| d.without("exp"), Err("time")),
    (Trusted, Good, "dates in milliseconds", |d, now| dated(d, now * 1000, now * 1000 + 300), Err("time")),
    // A coarse clock.
    (Coarse, Absent, "right dates are not enough", |d, _| d, Err("nonce-required")),
    (Coarse, Absent, "no dates", |d, _| d.without("iat").without("exp"), Err("nonce-required")),
    (Coarse, Good, "as it should be", |d, _| d, Ok(())),
    (Coarse, Old, "", |d, _| d, Err("nonce-stale")),
    (Coarse, OfAnotherPurpose, "", |d, _| d, Err("nonce-stale")),
    (Coarse, Good, "a day behind", |d, now| dated(d, now - DAY_S, now - DAY_S + 300), Ok(())),
    (
        Coarse,
        Good,
        "more than a day behind",
        |d, now| dated(d, now - DAY_S - 1, now - DAY_S + 299),
        Err("time"),
    ),
    (Coarse, Good, "a day ahead", |d, now| dated(d, now + DAY_S, now + DAY_S + 300), Ok(())),
    (
        Coarse,
        Good,
        "more than a day ahead",
        |d, now| dated(d, now + DAY_S + 1, now + DAY_S + 200),
        Err("time"),
    ),
    (
        Coarse,
        Good,
        "exp more than a day ahead",
        |d, now| d.with("exp", json!(now + DAY_S + 301)),
        Err("time"),
    ),
    (Coarse, Good, "exp a day past", |d, now| dated(d, now - DAY_S, now - DAY_S), Err("time")),
    (Coarse, Good, "nbf more than a day ahead", |d, now| d.with("nbf", json!(now + DAY_S + 1)), Err("time")),
    (Coarse, Good, "iat absent", |d, _| d.without("iat"), Ok(())),
    (Coarse, Good, "exp absent", |d, _| d.without("exp"), Err("time")),
    (Coarse, Good, "the clock stands at 1970", |d, _| dated(d, 5, 305), Err("time")),
    // No clock.
    (Clockless, Absent, "right dates are not enough", |d, _| d, Err("nonce-required")),
    (Clockless, Absent, "no dates", |d, _| d.without("iat").without("exp"), Err("nonce-required")),
    (Clockless, Good, "no dates", |d, _| d.without("iat").without("exp"), Ok(())),
    (Clockless, Aged, "no dates", |d, _| d.without("iat").without("exp"), Ok(())),
    (Clockless, Old, "no dates", |d, _| d.without("iat").without("exp"), Err("nonce-stale")),
    (Clockless, OfAnotherPurpose, "", |d, _| d, Err("nonce-stale")),
    (Clockless, OfAnotherServer, "", |d, _| d, Err("nonce-stale")),
    (Clockless, Number, "", |d, _| d, Err("nonce-stale")),
    (Clockless, Good, "as a good clock would", |d, _| d, Ok(())),
    (Clockless, Good, "all zero", |d, _| dated(d, 0, 0).with("nbf", json!(0)), Ok(())),
    (Clockless, Good, "seconds since it was switched on", |d, _| dated(d, 7, 100_007), Ok(())),
    (Clockless, Good, "far ahead", |d, now| dated(d, now * 2, now * 2), Ok(())),
    (Clockless, Good, "milliseconds", |d, now| d.with("iat", json!(now * 1000)), Err("time")),
    (Clockless, Good, "nbf in milliseconds", |d, now| d.with("nbf", json!(now * 1000)), Err("time")),
    (Clockless, Good, "iat a text", |d, _| d.with("iat", json!("now")), Err("time")),
    (Clockless, Good, "exp negative", |d, _| d.with("exp", json!(-1)), Err("time")),
    (Clockless, Good, "jti absent", |d, _| d.without("jti"), Err("jti")),
    (Clockless, Good, "aud the bridge", |d, _| d.with("aud", json!(BRIDGE)), Err("audience")),
];

fn challenge(world: &World, purpose: NoncePurpose) -> String {
    world.admission.challenge(&world.registry, purpose).expect("a nonce").nonce
}

fn with_nonce<'d>(world: &World, draft: Draft<'d>, nonce: Nonce) -> Draft<'d> {
    let value = match nonce {
        Absent => return draft,
        Good | Aged | Old => json!(challenge(world, NoncePurpose::Assertion)),
        OfAnotherPurpose => json!(challenge(world, NoncePurpose::Dpop)),
        OfAnotherServer => {
            json!(Nonces::new(&[9; 32]).mint(NoncePurpose::Assertion, world.now_s(), [1; 8]))
        }
        Empty => json!(""),
        Number => json!(7),
    };
    draft.with("nonce", value)
}

fn passes(world: &World, nonce: Nonce) {
    match nonce {
        Aged => world.clock.advance_s(NONCE_LIFE_S),
        Old => world.clock.advance_s(NONCE_LIFE_S + 1),
        _ => {}
    }
}

async fn trust(world: &World, device: &TestDevice, clock: ClockTrust) {
    let settings = PrincipalSettings { clock: Some(clock), ..PrincipalSettings::default() };
    let changed =
        world.admission.set_settings(&world.registry, &device.name, settings, None, &Actor::Admin).await;
    changed.expect("set");
}

async fn remove(admission: &Admission, world: &World, jwt: &str) -> Result<KeyId, Refusal> {
    let removed = admission.remove_own_key(&world.registry, jwt, None, Peer::default()).await?;
    assert!(removed.changed);
    Ok(removed.kid)
}

/// Every case as a login, as a key update and as a key removal: the three share one judgement, and this
/// shows that they do.
#[tokio::test]
async fn dates_and_nonces_are_judged_as_the_trust_in_the_clock_says() {
    let mut seen = 0;
    for (clock, nonce, case, change, wanted) in CASES {
        let case = format!("{clock:?}, nonce {nonce:?}: {case}");
        let world = World::new().await;
        let device = world.device("sensor").await;
        let spare = TestDevice::new("sensor");
        let add =
            world.admission.add_key(&world.registry, &device.name, spare.public_key(), None, &Actor::Admin);
        add.await.expect("added");
        trust(&world, &device, *clock).await;
        let ready = |draft| {
            let draft = with_nonce(&world, draft, *nonce);
            // Dates as of the moment of use, nonces as of the moment of the challenge.
            let now_s = world.now_s()
                + match nonce {
                    Aged => NONCE_LIFE_S,
                    Old => NONCE_LIFE_S + 1,
                    _ => 0,
                };
            change(dated(draft, now_s, now_s + 120), now_s).sign()
        };
        let new = TestDevice::new("sensor");
        let login = ready(device.assertion(ISSUER, world.now_s()));
        let update = ready(device.update(ISSUER, world.now_s(), new.public_key()));
        let removal = ready(device.removal(ISSUER, world.now_s(), &spare.kid()));
        passes(&world, *nonce);
        let word = |found: Result<(), Refusal>| found.map_err(|refusal| refusal.word());
        assert_eq!(word(world.login(&login).await.map(|_| ())), *wanted, "login: {case}");
        let pop = new.pop(ISSUER, &update).sign();
        let removed = remove(&world.admission, &world, &removal).await;
        assert_eq!(word(removed.map(|_| ())), *wanted, "removal: {case}");
        let updated = world.admission.update_key(&world.registry, &update, &pop, true, Peer::default()).await;
        assert_eq!(word(updated.map(|_| ())), *wanted, "update: {case}");
        seen += 1;
    }
    assert_eq!(seen, CASES.len());
}

#[tokio::test]
async fn the_dates_of_a_proof_of_possession_count_as_those_of_its_update_do() {
    let cases: [(ClockTrust, Change, bool); 7] = [
        (Trusted, |d, now| d.with("exp", json!(now + 60)), true),
        (Trusted, |d, now| d.with("exp", json!(now - 300)), false),
        (Coarse, |d, now| d.with("exp", json!(now - 300)), true),
        (Coarse, |d, now| d.with("exp", json!(now - 2 * DAY_S)), false),
        (Clockless, |d, _| d.with("exp", json!(300)).with("iat", json!(0)), true),
        (Clockless, |d, now| d.with("exp", json!(now * 1000)), false),
        (Clockless, |d, _| d.with("nonce", json!("not one of ours")), false),
    ];
    for (at, (clock, change, good)) in cases.into_iter().enumerate() {
        let world = World::new().await;
        let (device, new) = (world.device("sensor").await, TestDevice::new("sensor"));
        trust(&world, &device, clock).await;
        let nonce = if clock == Trusted { Absent } else { Good };
        let update = with_nonce(&world, device.update(ISSUER, world.now_s(), new.public_key()), nonce).sign();
        let pop = change(new.pop(ISSUER, &update), world.now_s()).sign();
        let found = world.admission.update_key(&world.registry, &update, &pop, true, Peer::default()).await;
        let wanted = if good { Ok(()) } else { Err("invalid-pop") };
        assert_eq!(found.map(|_| ()).map_err(|refusal| refusal.word()), wanted, "case {at}");
    }
}

#[tokio::test]
async fn i7_an_assertion_with_a_nonce_is_good_once_also_without_dates() {
    let world = World::new().await;
    let device = world.device("sensor").await;
    trust(&world, &device, Clockless).await;
    let draft = with_nonce(&world, device.assertion(ISSUER, 0), Good).without("iat").without("exp");
    let jwt = draft.sign();
    world.login(&jwt).await.expect("once");
    assert_eq!(world.login(&jwt).await.expect_err("twice"), Refusal::Replay);
    world.clock.advance_s(NONCE_LIFE_S);
    assert_eq!(world.login(&jwt).await.expect_err("in the last second"), Refusal::Replay);
    world.clock.advance_s(1);
    assert_eq!(world.login(&jwt).await.expect_err("after it"), Refusal::NonceStale);
    let other = draft.with("jti", json!("another-jti-of-this-device")).sign();
    assert_eq!(world.login(&other).await.expect_err("the nonce is over"), Refusal::NonceStale);
}

#[tokio::test]
async fn the_registry_says_how_far_clocks_are_trusted_unless_the_record_does() {
    let world = World::new().await;
    let settings = RegistrySettings { clock: Clockless, ..RegistrySettings::default() };
    let name = RegistryName::parse("plant").expect("a name");
    let new = NewRegistry { settings, ..NewRegistry::named(name.clone(), None) };
    let (record, _) = world.admission.create_registry(new, &Actor::Admin).await.expect("made");
    let (plain, exact) = (TestDevice::new("plain"), TestDevice::new("exact"));
    for device in [&plain, &exact] {
        world.register_in(&name, device, false).await;
    }
    let settings = PrincipalSettings { clock: Some(Trusted), ..PrincipalSettings::default() };
    world.admission.set_settings(&name, &exact.name, settings, None, &Actor::Admin).await.expect("set");
    let login = async |device: &TestDevice| {
        let jwt = device.assertion(&record.issuer, world.now_s()).sign();
        let request = LoginRequest::with_assertion(&jwt, Peer::default());
        world.admission.login(&name, request).await.map(|_| ()).map_err(|refusal| refusal.word())
    };
    assert_eq!((login(&plain).await, login(&exact).await), (Err("nonce-required"), Ok(())));
    let other = challenge(&world, NoncePurpose::Assertion);
    let jwt = plain.assertion(&record.issuer, world.now_s()).with("nonce", json!(other)).sign();
    let found = world.admission.login(&name, LoginRequest::with_assertion(&jwt, Peer::default())).await;
    assert_eq!(found.expect_err("a nonce of another registry"), Refusal::NonceStale);
}

#[tokio::test]
async fn two_assertions_may_carry_one_nonce() {
    let world = World::new().await;
    let device = world.device("sensor").await;
    trust(&world, &device, Clockless).await;
    let nonce = challenge(&world, NoncePurpose::Assertion);
    for _ in 0..2 {
        let jwt = device.assertion(ISSUER, 5).with("nonce", json!(nonce)).sign();
        world.login(&jwt).await.expect("the `jti` is what is used once");
    }
}

#[tokio::test]
async fn a_revocation_counts_by_the_nonce_where_the_dates_say_nothing() {
    let world = World::new().await;
    let device = world.device("sensor").await;
    trust(&world, &device, Clockless).await;
    let before = with_nonce(&world, device.assertion(ISSUER, world.now_s()), Good).sign();
    let revoked = world.admission.revoke(&world.registry, &device.name, "test", None, &Actor::Admin).await;
    revoked.expect("revoked");
    assert_eq!(world.login(&before).await.expect_err("made before"), Refusal::Revoked);
    world.clock.advance_s(1);
    let after = dated(with_nonce(&world, device.assertion(ISSUER, 0), Good), 5, 305).sign();
    world.login(&after).await.expect("a clock at 1970 is not older than the revocation");
}

#[tokio::test]
async fn dates_alone_open_no_connection_of_a_device_without_a_good_clock() {
    for clock in [Clockless, Coarse] {
        let world = World::new().await;
        let device = world.device("sensor").await;
        trust(&world, &device, clock).await;
        let by_iat = device.connect_jwt(BRIDGE, world.now_s());
        let by_jti = by_iat.clone().without("iat").with("jti", json!("0123456789abcdef"));
        for (case, draft) in [("iat", by_iat), ("jti", by_jti)] {
            let refusal = world.connect("sensor", &draft.sign()).await.expect_err(case);
            assert_eq!(refusal, Refusal::ClockNotTrusted, "{case}");
            let told = refusal.for_owner().expect("the key has signed");
            assert!(told.contains("/oauth/challenge") && told.contains("RFC 9266"), "{told}");
        }
        let login = with_nonce(&world, device.assertion(ISSUER, world.now_s()), Good).sign();
        let token = world.login(&login).await.expect("in").access_token;
        world.connect("sensor", &token).await.expect("the access token does it");
    }
}

#[tokio::test]
async fn i11_a_prober_learns_nothing_of_a_devices_clock() {
    let world = World::new().await;
    let device = world.device("sensor").await;
    trust(&world, &device, Clockless).await;
    let stranger = TestDevice::new("sensor");
    let refusal = world.login(&stranger.assertion(ISSUER, world.now_s()).sign()).await.expect_err("unproven");
    assert_eq!((refusal.word(), refusal.for_owner()), ("not-proven", None));
}

#[tokio::test]
async fn the_time_is_signed_for_whoever_asks_with_a_nonce() {
    let world = World::new().await;
    let nonce = "0123456789abcdef";
    let (jwt, now_ms) = world.admission.signed_time(&world.registry, nonce, Peer::default()).expect("signed");
    assert_eq!(now_ms, world.now_s() * 1000);
    let jwks = world.admission.jwks_json(&world.registry).expect("published");
    let keys: serde_json::Value = serde_json::from_str(&jwks).expect("JSON");
    let key = drawbridge_jose::PublicKey::from_jwk(keys["keys"][0].to_string().as_bytes()).expect("a JWK");
    let jws = drawbridge_jose::Jws::parse(jwt.as_bytes(), &Default::default()).expect("strict");
    assert_eq!(jws.typ(), Some("db-time+jwt"));
    let claims = jws.verify(&key).expect("by the issuer").claims().expect("claims");
    assert_eq!(claims.text("iss"), Ok(Some(ISSUER)));
    assert_eq!(claims.text("nonce"), Ok(Some(nonce)));
    assert_eq!(claims.numeric_date_s("iat"), Ok(Some(world.now_s())));
    assert_eq!(claims.numeric_date_s("now_ms"), Ok(Some(now_ms)));
    assert_eq!(claims.numeric_date_s("unc_ms"), Ok(Some(1_000)));
    // It is no token of any other kind.
    assert!(world.login(&jwt).await.is_err() && world.connect("sensor", &jwt).await.is_err());
    let bearer =
        world.admission.bearer(None, &jwt, drawbridge_admission::Audience::SelfRead, Peer::default());
    assert!(bearer.await.is_err());
}
