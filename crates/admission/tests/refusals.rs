//! The rows of the error table that concern identity, each a named case with the word it is refused by.

mod world;

use drawbridge_admission::{LoginRequest, Refusal};
use drawbridge_jose::{Algorithm, SigningKey, base64url_encode};
use drawbridge_testkit::{Draft, TestDevice};
use serde_json::json;
use world::{API, BRIDGE, ISSUER, LONG_S, World};

type Change = for<'d> fn(Draft<'d>, u64) -> Draft<'d>;

/// Claims of a client assertion that are wrong, or just right.
const ASSERTIONS: &[(&str, Change, Result<(), &str>)] = &[
    ("as it should be", |d, _| d, Ok(())),
    ("typ absent", |d, _| d.typ(None), Ok(())),
    ("typ JWT", |d, _| d.typ(Some("JWT")), Ok(())),
    ("typ as a full media type", |d, _| d.typ(Some("application/client-authentication+jwt")), Ok(())),
    ("kid absent: all active keys are tried", |d, _| d.kid(None), Ok(())),
    ("kid is the device id: all active keys are tried", |d, _| d.kid(Some("sensor")), Ok(())),
    ("kid is hostile text", |d, _| d.kid(Some("../../etc/passwd' OR 1=1 --")), Ok(())),
    ("aud an array of one", |d, _| d.with("aud", json!([ISSUER])), Ok(())),
    ("iat absent", |d, _| d.without("iat"), Ok(())),
    ("unknown claims", |d, _| d.with("firmware", json!({ "v": 3 })), Ok(())),
    ("padding", |d, _| d.with("pad", json!("0".repeat(1_000))), Ok(())),
    ("exp 300 s ahead", |d, now| d.with("exp", json!(now + 300)), Ok(())),
    ("exp with a fraction", |d, now| d.with("exp", json!(now as f64 + 100.5)), Ok(())),
    ("nbf 8 s ahead", |d, now| d.with("nbf", json!(now + 8)), Ok(())),
    ("typ of a key update", |d, _| d.typ(Some("key-update+jwt")), Err("token-type")),
    ("typ of an access token", |d, _| d.typ(Some("at+jwt")), Err("token-type")),
    ("typ of a DPoP proof", |d, _| d.typ(Some("dpop+jwt")), Err("token-type")),
    ("typ empty", |d, _| d.typ(Some("")), Err("token-type")),
    ("public_key in it", |d, _| d.with("public_key", json!("x")), Err("token-kind")),
    ("cnf in it", |d, _| d.with("cnf", json!({})), Err("token-kind")),
    ("scope in it", |d, _| d.with("scope", json!("x")), Err("token-kind")),
    ("htm in it", |d, _| d.with("htm", json!("POST")), Err("token-kind")),
    ("iss is not sub", |d, _| d.with("iss", json!("other")), Err("subject")),
    ("iss absent", |d, _| d.without("iss"), Err("subject")),
    ("sub absent", |d, _| d.without("sub"), Err("subject")),
    ("sub another device", |d, _| d.with("sub", json!("other")), Err("not-proven")),
    ("sub in another case", |d, _| d.with("sub", json!("Sensor")), Err("not-proven")),
    ("sub a number", |d, _| d.with("sub", json!(7)), Err("not-proven")),
    ("sub with a NUL", |d, _| d.with("sub", json!("sensor\u{0}")), Err("jws-format")),
    ("aud absent", |d, _| d.without("aud"), Err("audience")),
    ("aud the token URL", |d, _| d.with("aud", json!("https://core.example/oauth/token")), Err("audience")),
    ("aud with a slash at its end", |d, _| d.with("aud", json!("https://core.example/")), Err("audience")),
    ("aud two values", |d, _| d.with("aud", json!([ISSUER, BRIDGE])), Err("audience")),
    ("aud twice the same", |d, _| d.with("aud", json!([ISSUER, ISSUER])), Err("audience")),
    ("aud an empty array", |d, _| d.with("aud", json!([])), Err("audience")),
    ("aud the bridge", |d, _| d.with("aud", json!(BRIDGE)), Err("audience")),
    ("aud a number", |d, _| d.with("aud", json!(1)), Err("audience")),
    ("exp absent", |d, _| d.without("exp"), Err("time")),
    ("exp 5 min past", |d, now| d.with("exp", json!(now - 300)), Err("time")),
    ("exp past by the whole skew", |d, now| d.with("exp", json!(now - 60)), Err("time")),
    ("exp one second beyond life and skew", |d, now| d.with("exp", json!(now + 361)), Err("time")),
    ("exp a text", |d, now| d.with("exp", json!((now + 60).to_string())), Err("time")),
    ("exp null", |d, _| d.with("exp", json!(null)), Err("time")),
    ("exp negative", |d, _| d.with("exp", json!(-1)), Err("time")),
    ("exp 1e300", |d, _| d.with("exp", json!(1e300)), Err("time")),
    ("iat over 60 s ahead", |d, now| d.with("iat", json!(now + 61)), Err("time")),
    ("iat a text", |d, _| d.with("iat", json!("now")), Err("time")),
    ("nbf over 60 s ahead", |d, now| d.with("nbf", json!(now + 61)), Err("time")),
    ("nbf a text", |d, _| d.with("nbf", json!("x")), Err("time")),
    ("jti absent", |d, _| d.without("jti"), Err("jti")),
    ("jti of 15 characters", |d, _| d.with("jti", json!("0123456789abcde")), Err("jti")),
    ("jti of 129 characters", |d, _| d.with("jti", json!("x".repeat(129))), Err("jti")),
    ("jti not printable", |d, _| d.with("jti", json!("0123456789abcdef\n")), Err("jti")),
    ("jti a number", |d, _| d.with("jti", json!(1_234_567_890_123_456_u64)), Err("jti")),
    ("jwk in the header", |d, _| d, Err("header")),
];

#[tokio::test]
async fn every_claim_of_an_assertion_is_judged() {
    let mut seen = 0;
    for (case, change, wanted) in ASSERTIONS {
        let world = World::new().await;
        let device = world.device("sensor").await;
        let mut draft = change(device.assertion(ISSUER, world.now_s()), world.now_s());
        if *case == "jwk in the header" {
            draft = draft.jwk(Some(device.public_key()));
        }
        let found = world.login(&draft.sign()).await;
        assert_eq!(found.as_ref().map(|_| ()).map_err(Refusal::word), *wanted, "{case}: {found:?}");
        seen += 1;
    }
    println!("{seen} cases of claims");
    assert_eq!(seen, ASSERTIONS.len());
}

/// What a token looks like, before anything in it counts. `{h}`, `{b}`, `{s}`: its good segments.
type Spoil = fn(&TestDevice, &str, &str, &str) -> String;

const FORMS: &[(&str, Spoil, &str)] = &[
    ("two segments", |_, h, b, _| format!("{h}.{b}"), "jws-format"),
    ("four segments", |_, h, b, s| format!("{h}.{b}.{s}.x"), "jws-format"),
    ("five segments: a JWE", |_, h, b, s| format!("{h}.{b}.{s}.{b}.{s}"), "jws-format"),
    ("a thousand dots", |_, _, _, _| ".".repeat(1000), "jws-format"),
    ("an empty header", |_, _, b, s| format!(".{b}.{s}"), "jws-format"),
    ("padding", |_, h, b, s| format!("{h}.{b}.{s}=="), "jws-format"),
    ("a space in front", |_, h, b, s| format!(" {h}.{b}.{s}"), "jws-format"),
    ("a line end behind", |_, h, b, s| format!("{h}.{b}.{s}\n"), "jws-format"),
    ("the standard alphabet", |_, h, b, s| format!("{h}.{b}.{}/", &s[..s.len() - 1]), "jws-format"),
    (
        "JSON serialisation",
        |_, h, b, s| format!("{{\"protected\":\"{h}\",\"payload\":\"{b}\",\"signature\":\"{s}\"}}"),
        "jws-format",
    ),
    ("larger than 4 KiB", |_, h, b, s| format!("{h}.{b}{}.{s}", "A".repeat(4096)), "jws-format"),
    ("a header that is an array", |_, _, b, s| format!("{}.{b}.{s}", base64url_encode(b"[]")), "jws-format"),
    (
        "a body that is no JSON",
        |_, h, _, s| format!("{h}.{}.{s}", base64url_encode(b"sub=sensor")),
        "jws-format",
    ),
    ("a byte order mark", |d, _, _, _| raw(d, "\u{feff}{\"alg\":\"ES256\"}"), "jws-format"),
    ("alg twice", |d, _, _, _| raw(d, r#"{"alg":"ES256","alg":"ES256"}"#), "jws-format"),
    ("kid an array", |d, _, _, _| raw(d, r#"{"alg":"ES256","kid":["a"]}"#), "jws-format"),
    (
        "a header of 2 KiB",
        |d, _, _, _| raw(d, &format!(r#"{{"alg":"ES256","kid":"{}"}}"#, "k".repeat(2048))),
        "jws-format",
    ),
    ("alg none", |d, _, _, _| raw(d, r#"{"alg":"none"}"#), "algorithm"),
    ("alg None", |d, _, _, _| raw(d, r#"{"alg":"None"}"#), "algorithm"),
    ("alg es256", |d, _, _, _| raw(d, r#"{"alg":"es256"}"#), "algorithm"),
    ("alg HS256", |d, _, _, _| raw(d, r#"{"alg":"HS256"}"#), "algorithm"),
    ("alg ES512", |d, _, _, _| raw(d, r#"{"alg":"ES512"}"#), "algorithm"),
    ("alg of another key", |d, _, _, _| raw(d, r#"{"alg":"EdDSA"}"#), "not-proven"),
    ("alg RS256 for an EC key", |d, _, _, _| raw(d, r#"{"alg":"RS256"}"#), "not-proven"),
    ("crit empty", |d, _, _, _| raw(d, r#"{"alg":"ES256","crit":[]}"#), "header"),
    ("crit unknown", |d, _, _, _| raw(d, r#"{"alg":"ES256","crit":["x"],"x":1}"#), "header"),
    ("b64 false", |d, _, _, _| raw(d, r#"{"alg":"ES256","b64":false}"#), "header"),
    ("jku", |d, _, _, _| raw(d, r#"{"alg":"ES256","jku":"https://127.0.0.1/"}"#), "header"),
    ("x5u", |d, _, _, _| raw(d, r#"{"alg":"ES256","x5u":"https://127.0.0.1/"}"#), "header"),
    ("x5c", |d, _, _, _| raw(d, r#"{"alg":"ES256","x5c":["AA=="]}"#), "header"),
    ("r and s zero", |_, h, b, _| format!("{h}.{b}.{}", base64url_encode(&[0; 64])), "not-proven"),
    ("r and s all ones", |_, h, b, _| format!("{h}.{b}.{}", base64url_encode(&[255; 64])), "not-proven"),
    ("a signature in DER", |_, h, b, _| format!("{h}.{b}.{}", base64url_encode(&[0x30; 70])), "not-proven"),
    ("an empty signature", |_, h, b, _| format!("{h}.{b}."), "not-proven"),
    (
        "another body",
        |_, h, _, s| format!("{h}.{}.{s}", base64url_encode(br#"{"sub":"sensor","iss":"sensor"}"#)),
        "not-proven",
    ),
];

fn raw(device: &TestDevice, header: &str) -> String {
    device.assertion(ISSUER, drawbridge_testkit::FakeClock::START_S).sign_raw(header)
}

#[tokio::test]
async fn every_form_that_is_no_strict_jws_is_refused_and_nothing_is_told() {
    let world = World::new().await;
    let device = world.device("sensor").await;
    let mut seen = 0;
    for (case, spoil, wanted) in FORMS {
        let good = device.assertion(ISSUER, world.now_s()).sign();
        let mut parts = good.split('.');
        let mut part = || parts.next().expect("three segments");
        let (h, b, s) = (part(), part(), part());
        let refusal = world.login(&spoil(&device, h, b, s)).await.expect_err(case);
        assert_eq!(refusal.word(), *wanted, "{case}: {refusal}");
        assert_eq!(refusal.for_owner(), None, "{case}: found before a good signature");
        seen += 1;
    }
    println!("{seen} cases of form");
    assert_eq!(seen, FORMS.len());
}

#[tokio::test]
async fn the_owner_is_told_what_is_wrong_and_what_time_it_is() {
    let world = World::new().await;
    let device = world.device("sensor").await;
    let late = device.assertion(ISSUER, world.now_s() - LONG_S).sign();
    let told = world.login(&late).await.expect_err("late").for_owner().expect("told");
    assert!(told.contains("`exp` is 880 s in the past"), "{told}");
    assert!(told.contains(&format!("(server time {})", world.now_s())), "{told}");
    let misdirected = device.assertion("https://core.example/oauth/token", world.now_s()).sign();
    let told = world.login(&misdirected).await.expect_err("misdirected").for_owner().expect("told");
    assert!(told.contains("wanted `https://core.example` and nothing else"), "{told}");
}

#[tokio::test]
async fn resource_scope_and_client_id_are_judged_before_the_jti_is_used_up() {
    let world = World::new().await;
    let device = world.device("sensor").await;
    let assertion = device.assertion(ISSUER, world.now_s()).sign();
    let wide = base64url_encode(br##"[["#",["pub"]]]"##);
    let fits = base64url_encode(br#"[["devices/sensor/state",["pub"]]]"#);
    for (scope, resource, wanted) in [
        (None, Some("https://elsewhere.example"), "target"),
        (None, Some(ISSUER), "target"),
        (Some(wide.as_str()), None, "scope"),
        (Some("telemetry:write"), None, "scope"),
        (Some("commands:send nonsense"), Some(API), "scope"),
        (Some(fits.as_str()), Some(API), "scope"),
    ] {
        let refusal = world.login_for(&assertion, scope, resource).await.expect_err("refused");
        assert_eq!(refusal.word(), wanted, "{scope:?} {resource:?}");
    }
    let request = drawbridge_admission::LoginRequest {
        client_id: Some("other"),
        ..LoginRequest::with_assertion(&assertion, drawbridge_admission::Peer::default())
    };
    assert_eq!(world.admission.login(&world.registry, request).await.expect_err("refused").word(), "client");
    let granted = world.login_for(&assertion, Some(&fits), Some(BRIDGE)).await.expect("nothing was used up");
    assert_eq!(granted.scope.as_deref(), Some(fits.as_str()));
    assert_eq!(world.login_for(&assertion, Some(&fits), None).await.expect_err("used").word(), "jti-reused");
}

#[tokio::test]
async fn all_five_algorithms_log_in_and_a_foreign_key_of_each_does_not() {
    let world = World::new().await;
    for (at, algorithm) in Algorithm::ALL.into_iter().enumerate() {
        let device = TestDevice::with_algorithm(&format!("device-{at}"), algorithm);
        world.register(&device, false).await;
        let draft = device.assertion(ISSUER, world.now_s());
        let foreign = SigningKey::generate(algorithm).expect("a key");
        assert_eq!(world.login(&draft.sign_by(&foreign)).await.expect_err("foreign").word(), "not-proven");
        world.login(&draft.sign()).await.unwrap_or_else(|refusal| panic!("{algorithm}: {refusal}"));
    }
}

/// Claims of a legacy login: what is optional there is checked whenever it is sent.
const LEGACY: &[(&str, Change, Result<(), &str>)] = &[
    ("as it should be", |d, _| d, Ok(())),
    ("aud the issuer", |d, _| d.with("aud", json!(ISSUER)), Ok(())),
    ("iss the device", |d, _| d.with("iss", json!("sensor")), Ok(())),
    ("exp ahead", |d, now| d.with("exp", json!(now + 60)), Ok(())),
    ("exp years ahead", |d, now| d.with("exp", json!(now + 100_000_000)), Ok(())),
    ("iat now", |d, now| d.with("iat", json!(now)), Ok(())),
    ("kid something else", |d, _| d.kid(Some("x")), Err("subject")),
    ("kid absent", |d, _| d.kid(None), Err("subject")),
    ("typ absent", |d, _| d.typ(None), Err("token-type")),
    ("typ of an assertion", |d, _| d.typ(Some("client-authentication+jwt")), Err("token-type")),
    ("typ of a key update", |d, _| d.typ(Some("key-update+jwt")), Err("token-type")),
    ("sub absent", |d, _| d.without("sub").with("iss", json!("sensor")), Err("not-proven")),
    ("sub another", |d, _| d.with("sub", json!("other")), Err("not-proven")),
    ("aud the bridge", |d, _| d.with("aud", json!(BRIDGE)), Err("audience")),
    ("aud two values", |d, _| d.with("aud", json!([ISSUER, BRIDGE])), Err("audience")),
    ("iss another", |d, _| d.with("iss", json!("other")), Err("subject")),
    ("exp past", |d, now| d.with("exp", json!(now - 60)), Err("time")),
    ("exp a text", |d, _| d.with("exp", json!("x")), Err("time")),
    ("iat ahead", |d, now| d.with("iat", json!(now + 61)), Err("time")),
    ("nbf ahead", |d, now| d.with("nbf", json!(now + 61)), Err("time")),
    ("jti absent", |d, _| d.without("jti"), Err("jti")),
    ("jti short", |d, _| d.with("jti", json!("x")), Err("jti")),
    ("public_key in it", |d, _| d.with("public_key", json!("x")), Err("token-kind")),
    ("public_key null in it", |d, _| d.with("public_key", json!(null)), Err("token-kind")),
    ("cnf in it", |d, _| d.with("cnf", json!({})), Err("token-kind")),
];

#[tokio::test]
async fn every_claim_of_a_legacy_login_is_judged() {
    for (case, change, wanted) in LEGACY {
        let world = World::new().await;
        let device = world.legacy_device("sensor").await;
        world.application("backend", &TestDevice::new("backend"), "").await;
        let jwt = change(device.legacy_login(), world.now_s()).sign();
        let found = world.legacy_login(&jwt).await;
        assert_eq!(found.as_ref().map(|_| ()).map_err(Refusal::word), *wanted, "{case}: {found:?}");
        if found.is_ok() {
            assert_eq!(world.legacy_login(&jwt).await.expect_err(case), Refusal::Replay, "{case}");
        }
    }
    println!("{} cases of legacy claims", LEGACY.len());
}

#[tokio::test]
async fn a_legacy_login_names_a_registered_application_and_a_marked_device() {
    let world = World::new().await;
    let device = world.legacy_device("sensor").await;
    let unmarked = world.device("unmarked").await;
    world.application("backend", &TestDevice::new("backend"), "").await;
    let login = async |jwt: &str, client_id: Option<&str>| {
        let peer = drawbridge_admission::Peer::default();
        world.admission.legacy_login(&world.registry, jwt, client_id, None, peer).await
    };
    let jwt = device.legacy_login().sign();
    for client_id in [None, Some(""), Some("nobody"), Some("sensor"), Some("a/b")] {
        assert_eq!(
            login(&jwt, client_id).await.expect_err("no application").word(),
            "client",
            "{client_id:?}"
        );
    }
    login(&jwt, Some("backend")).await.expect("nothing was used up");
    let refusal = login(&unmarked.legacy_login().sign(), Some("backend")).await.expect_err("not marked");
    assert_eq!(refusal, Refusal::LegacyNotAllowed);
    let new = TestDevice::new("unmarked");
    let update = unmarked.legacy_update(new.public_key()).sign();
    let peer = drawbridge_admission::Peer::default();
    let found =
        world.admission.legacy_update_key(&world.registry, &update, &new.legacy_pop(&update), peer).await;
    assert_eq!(found.expect_err("not marked"), Refusal::LegacyNotAllowed);
}

#[tokio::test]
async fn the_longest_scope_that_is_granted_makes_a_token_that_the_bridge_reads() {
    let world = World::new().await;
    let name = "s".repeat(255);
    let device = world.device(&name).await;
    let scope = |pairs: usize| {
        let pair = |at: usize| format!(r#"["devices/{name}/events/{at}",["pub"]]"#);
        let pairs: Vec<String> = (0..pairs).map(pair).collect();
        base64url_encode(format!("[{}]", pairs.join(",")).as_bytes())
    };
    let mut longest = None;
    for pairs in 1..60 {
        let assertion = device.assertion(ISSUER, world.now_s()).sign();
        match world.login_for(&assertion, Some(&scope(pairs)), None).await {
            Ok(granted) => longest = Some(granted.access_token),
            Err(refusal) => assert_eq!(refusal.word(), "scope", "{pairs}: {refusal}"),
        }
    }
    let longest = longest.expect("one pair is granted");
    world
        .connect(&name, &longest)
        .await
        .unwrap_or_else(|refusal| panic!("{} bytes: {refusal}", longest.len()));
}
