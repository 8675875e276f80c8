//! How clients prove themselves, and what their tokens are bound to, over real TLS.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use drawbridge_admission::{Actor, AdmissionConfig, NewRegistry};
use drawbridge_http::HttpConfig;
use drawbridge_names::RegistryName;
use drawbridge_registry::memory::MemoryStore;
use drawbridge_registry::{CertificateSubject, ClockTrust, PrincipalSettings};
use drawbridge_testkit::TestDevice;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use serde_json::{Value, json};

use crate::world::{Answer, Ask, ISSUER, World, login_form, name, registry};

const TOKEN_URL: &str = "https://id.example/oauth/token";
const SELF_URL: &str = "https://id.example/v1/self";
/// Longer than a proof of an earlier process could be good.
const SETTLED_S: u64 = 200;

/// A chain and the private key of its first certificate.
struct Identity {
    chain: Vec<Vec<u8>>,
    key: Vec<u8>,
}

impl Identity {
    /// A certificate that a device has signed itself, with the key that it has registered.
    fn self_signed(device: &TestDevice) -> Self {
        let key = device.key.to_pkcs8_der().to_vec();
        let pair = KeyPair::try_from(key.as_slice()).expect("a key");
        let params = CertificateParams::new(Vec::new()).expect("no names");
        Self { chain: vec![params.self_signed(&pair).expect("signed").der().to_vec()], key }
    }

    fn digest(&self) -> String {
        URL_SAFE_NO_PAD.encode(drawbridge_jose::sha256(&self.chain[0]))
    }
}

struct TestCa {
    der: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

impl TestCa {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "fleet");
        let key = KeyPair::generate().expect("a key");
        let der = params.self_signed(&key).expect("signed").der().to_vec();
        Self { der, issuer: Issuer::new(params, key) }
    }

    fn certify(&self, uri: &str) -> Identity {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.subject_alt_names = vec![SanType::URI(uri.try_into().expect("a URI"))];
        let key = KeyPair::generate().expect("a key");
        let der = params.signed_by(&key, &self.issuer).expect("signed").der().to_vec();
        Identity { chain: vec![der], key: key.serialize_der() }
    }
}

fn by_certificate(client_id: &str) -> Ask {
    Ask::post("/oauth/token").form(&format!("grant_type=client_credentials&client_id={client_id}"))
}

async fn with(world: &World, identity: &Identity, ask: Ask) -> Answer {
    world.send_with(&identity.chain, &identity.key, ask).await
}

fn token_of(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()["access_token"].as_str().expect("a token").to_owned()
}

fn claims(token: &str) -> Value {
    let body = token.split('.').nth(1).expect("a JWT");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(body).expect("base64url")).expect("JSON")
}

async fn settings(world: &World, principal: &str, settings: PrincipalSettings) {
    let principal = name(principal);
    world.admission.set_settings(&registry(), &principal, settings, None, &Actor::Admin).await.expect("set");
}

fn refused(answer: &Answer, status: u16, word: &str) {
    assert_eq!((answer.status, answer.word().as_str()), (status, word), "{}", answer.text);
}

#[tokio::test]
async fn a_self_signed_certificate_with_a_registered_key_logs_in_and_binds_the_token_to_itself() {
    let world = World::new().await;
    let device = world.device("lamp").await;
    let identity = Identity::self_signed(&device);
    let answer = with(&world, &identity, by_certificate("lamp")).await;
    let token = token_of(&answer);
    assert_eq!(answer.json()["token_type"], "Bearer");
    let found = claims(&token);
    assert_eq!(found["cnf"], json!({ "x5t#S256": identity.digest() }));
    assert_eq!(found["akid"], device.kid().as_str());

    let own = || Ask::get("/v1/self").bearer(&token);
    assert_eq!(with(&world, &identity, own()).await.status, 200);
    // The same key, and yet another certificate than the one the token names.
    let again = Identity::self_signed(&device);
    for (case, answer) in [
        ("no certificate", world.send(own()).await),
        ("another certificate", with(&world, &Identity::self_signed(&TestDevice::new("x")), own()).await),
        ("another certificate of the key", with(&world, &again, own()).await),
    ] {
        assert_eq!(answer.status, 401, "{case}: {}", answer.text);
        assert_eq!(answer.word(), "token-binding", "{case}");
        assert!(answer.header("www-authenticate").expect("told").contains("invalid_token"), "{case}");
    }
    let as_dpop = Ask::get("/v1/self").header("Authorization", &format!("DPoP {token}"));
    refused(&with(&world, &identity, as_dpop).await, 401, "token-binding");
}

#[tokio::test]
async fn a_certificate_of_nobody_gets_one_answer_whoever_is_named() {
    let world = World::new().await;
    let device = world.device("lamp").await;
    world.device("blocked").await;
    world.admission.block(&registry(), &name("blocked"), None, &Actor::Admin).await.expect("blocked");
    let stranger = Identity::self_signed(&TestDevice::new("lamp"));
    let mut answers = Vec::new();
    for client_id in ["lamp", "unknown", "blocked", "no%23name"] {
        let answer = with(&world, &stranger, by_certificate(client_id)).await;
        refused(&answer, 401, "invalid_client");
        answers.push(answer.text);
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
    // Its certificate is not enough: the request has to say who it is.
    let ask = Ask::post("/oauth/token").form("grant_type=client_credentials");
    refused(&with(&world, &Identity::self_signed(&device), ask).await, 401, "invalid_client");
    refused(&world.send(by_certificate("lamp")).await, 401, "invalid_client");
}

#[tokio::test]
async fn a_certificate_of_a_ca_logs_in_the_one_principal_whose_field_it_names() {
    let world = World::new().await;
    world.application("pump", None).await;
    world.application("other", None).await;
    let ca = TestCa::new();
    let identity = ca.certify("urn:pump:1");
    let subject = |uri: &str| PrincipalSettings {
        certificate_subject: Some(CertificateSubject::SanUri(uri.to_owned())),
        ..PrincipalSettings::default()
    };
    settings(&world, "pump", subject("urn:pump:1")).await;
    refused(&with(&world, &identity, by_certificate("pump")).await, 401, "invalid_client");

    let pem = pem_of(&ca.der);
    let added = Ask::post("/v1/cas").json(&json!({ "certificate": pem }));
    assert_eq!(world.admin(added).await.status, 201);
    let token = token_of(&with(&world, &identity, by_certificate("pump")).await);
    let found = claims(&token);
    assert_eq!(found["cnf"], json!({ "x5t#S256": identity.digest() }));
    assert_eq!(found.get("akid"), None, "no registered key has logged in");
    assert_eq!(with(&world, &identity, Ask::get("/v1/self").bearer(&token)).await.status, 200);

    for (case, identity, client_id) in [
        ("another principal", &identity, "other"),
        ("another name in the certificate", &ca.certify("urn:pump:2"), "pump"),
        ("another CA", &TestCa::new().certify("urn:pump:1"), "pump"),
    ] {
        let answer = with(&world, identity, by_certificate(client_id)).await;
        assert_eq!((answer.status, answer.word().as_str()), (401, "invalid_client"), "{case}");
    }
    settings(&world, "pump", subject("urn:pump:9")).await;
    refused(&with(&world, &identity, by_certificate("pump")).await, 401, "invalid_client");
}

fn pem_of(der: &[u8]) -> String {
    let lines: Vec<String> = STANDARD
        .encode(der)
        .as_bytes()
        .chunks(64)
        .map(|line| String::from_utf8_lossy(line).into_owned())
        .collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

#[tokio::test]
async fn a_certificate_beside_an_assertion_binds_when_the_operator_wants_bound_tokens() {
    let world = World::new().await;
    let device = world.device("lamp").await;
    let identity = Identity::self_signed(&TestDevice::new("anybody"));
    let login = || {
        let assertion = device.assertion(ISSUER, world.clock.now_s()).sign();
        Ask::post("/oauth/token").form(&login_form(&assertion))
    };
    let plain = token_of(&with(&world, &identity, login()).await);
    assert_eq!(claims(&plain).get("cnf"), None, "nobody asked for it");
    settings(&world, "lamp", PrincipalSettings { bound_tokens: true, ..Default::default() }).await;
    let bound = token_of(&with(&world, &identity, login()).await);
    assert_eq!(claims(&bound)["cnf"], json!({ "x5t#S256": identity.digest() }));
    let unbound = world.send(login()).await;
    assert_eq!(unbound.status, 400, "{}", unbound.text);
    assert!(unbound.text.contains("bound tokens only"), "{}", unbound.text);
}

#[tokio::test]
async fn a_chain_too_long_ends_the_handshake_and_no_certificate_is_demanded() {
    let world = World::new().await;
    let mut identity = Identity::self_signed(&world.device("lamp").await);
    assert_eq!(with(&world, &identity, Ask::get("/health")).await.status, 200);
    assert_eq!(world.send(Ask::get("/health")).await.status, 200);
    identity.chain = vec![identity.chain[0].clone(); 4];
    assert_eq!(with(&world, &identity, Ask::get("/health")).await.status, 200);
    identity.chain = vec![identity.chain[0].clone(); 5];
    assert_eq!(with(&world, &identity, Ask::get("/health")).await.status, 0, "no answer at all");
}

/// A request to the token endpoint with a proof.
fn dpop_login(world: &World, device: &TestDevice, proof: &str) -> Ask {
    let assertion = device.assertion(ISSUER, world.clock.now_s()).sign();
    Ask::post("/oauth/token").form(&login_form(&assertion)).header("DPoP", proof)
}

/// A token bound to the key of `holder`, and the world settled.
async fn dpop_token(world: &World, device: &TestDevice, holder: &TestDevice) -> String {
    let proof = holder.dpop("POST", TOKEN_URL, world.clock.now_s()).sign();
    let answer = world.send(dpop_login(world, device, &proof)).await;
    assert_eq!(answer.json()["token_type"], "DPoP", "{}", answer.text);
    token_of(&answer)
}

fn own(token: &str, proof: &str) -> Ask {
    Ask::get("/v1/self").header("Authorization", &format!("DPoP {token}")).header("DPoP", proof)
}

#[tokio::test]
async fn a_token_bound_by_dpop_is_good_with_a_fresh_proof_by_its_key_alone() {
    let world = World::new().await;
    world.clock.advance_s(SETTLED_S);
    let device = world.device("lamp").await;
    let holder = TestDevice::new("holder");
    let token = dpop_token(&world, &device, &holder).await;
    assert_eq!(claims(&token)["cnf"], json!({ "jkt": holder.public_key().thumbprint() }));

    let now_s = world.clock.now_s();
    let good = || holder.dpop("GET", SELF_URL, now_s).for_token(&token);
    assert_eq!(world.send(own(&token, &good().sign())).await.status, 200);
    for ahead_s in [-10_i64, 10] {
        let iat_s = now_s.saturating_add_signed(ahead_s);
        assert_eq!(world.send(own(&token, &good().with("iat", json!(iat_s)).sign())).await.status, 200);
    }
    let other = TestDevice::new("other");
    let other_proof = other.dpop("GET", SELF_URL, now_s).for_token(&token).sign();
    let used = good().sign();
    assert_eq!(world.send(own(&token, &used)).await.status, 200);
    let in_plant = good().with("htu", json!("https://id.example/r/plant/v1/self")).sign();
    let table = [
        ("used before", own(&token, &used), "invalid-dpop-proof", "invalid_dpop_proof"),
        ("by another key", own(&token, &other_proof), "token-binding", "invalid_token"),
        ("of another registry", own(&token, &in_plant), "invalid-dpop-proof", "invalid_dpop_proof"),
        (
            "of another method",
            own(&token, &good().with("htm", json!("POST")).sign()),
            "invalid-dpop-proof",
            "invalid_dpop_proof",
        ),
        (
            "without `ath`",
            own(&token, &good().without("ath").sign()),
            "invalid-dpop-proof",
            "invalid_dpop_proof",
        ),
        (
            "of another token",
            own(&token, &good().for_token("x").sign()),
            "invalid-dpop-proof",
            "invalid_dpop_proof",
        ),
        (
            "too old",
            own(&token, &good().with("iat", json!(now_s - 61)).sign()),
            "invalid-dpop-proof",
            "invalid_dpop_proof",
        ),
        (
            "two proofs",
            own(&token, &good().sign()).header("DPoP", &good().sign()),
            "invalid-dpop-proof",
            "invalid_dpop_proof",
        ),
        (
            "no proof",
            Ask::get("/v1/self").header("Authorization", &format!("DPoP {token}")),
            "invalid-dpop-proof",
            "invalid_dpop_proof",
        ),
        ("as Bearer", Ask::get("/v1/self").bearer(&token), "token-binding", "invalid_token"),
        (
            "as Bearer with a proof",
            Ask::get("/v1/self").bearer(&token).header("DPoP", &good().sign()),
            "token-binding",
            "invalid_token",
        ),
    ];
    for (case, ask, word, error) in table {
        let answer = world.send(ask).await;
        assert_eq!((answer.status, answer.word().as_str()), (401, word), "{case}: {}", answer.text);
        let challenge = answer.header("www-authenticate").expect("told");
        assert!(challenge.contains(&format!("error=\"{error}\"")), "{case}: {challenge}");
        assert_eq!(
            challenge.starts_with("DPoP algs=\"ES256 "),
            !case.starts_with("as Bearer"),
            "{case}: {challenge}"
        );
    }
    let plain = world.token(&device, None, "").await;
    refused(&world.send(own(&plain, &good().for_token(&plain).sign())).await, 401, "token-binding");
    refused(
        &world.send(own(&world.admin, &good().for_token(&world.admin).sign())).await,
        401,
        "token-binding",
    );
}

#[tokio::test]
async fn a_proof_at_the_token_endpoint_is_used_once_and_a_bad_one_gets_no_token() {
    let world = World::new().await;
    world.clock.advance_s(SETTLED_S);
    let device = world.device("lamp").await;
    let proof = device.dpop("POST", TOKEN_URL, world.clock.now_s());
    let once = proof.sign();
    token_of(&world.send(dpop_login(&world, &device, &once)).await);
    for bad in [
        once,
        device.dpop("POST", SELF_URL, world.clock.now_s()).sign(),
        device.dpop("POST", TOKEN_URL, world.clock.now_s()).for_token("x").sign(),
        proof.clone().jwk(None).sign(),
        "x".to_owned(),
    ] {
        refused(&world.send(dpop_login(&world, &device, &bad)).await, 400, "invalid_dpop_proof");
    }
    let twice = dpop_login(&world, &device, &proof.sign()).header("DPoP", "x");
    refused(&world.send(twice).await, 400, "invalid_dpop_proof");
}

#[tokio::test]
async fn after_a_start_and_without_a_trusted_clock_a_proof_needs_the_servers_nonce() {
    let world = World::new().await;
    let device = world.device("lamp").await;
    let holder = TestDevice::new("holder");
    let proof = || holder.dpop("POST", TOKEN_URL, world.clock.now_s());
    let wanted = |answer: &Answer, status| {
        assert_eq!(answer.status, status, "{}", answer.text);
        answer.header("dpop-nonce").expect("a nonce").to_owned()
    };
    let answer = world.send(dpop_login(&world, &device, &proof().sign())).await;
    let nonce = wanted(&answer, 400);
    refused(&answer, 400, "use_dpop_nonce");
    let signed = proof().with("nonce", json!(nonce)).with("iat", json!(7)).sign();
    let token = token_of(&world.send(dpop_login(&world, &device, &signed)).await);
    refused(&world.send(dpop_login(&world, &device, &signed)).await, 400, "invalid_dpop_proof");

    let at_self = || holder.dpop("GET", SELF_URL, world.clock.now_s()).for_token(&token);
    let answer = world.send(own(&token, &at_self().sign())).await;
    let nonce = wanted(&answer, 401);
    let challenge = answer.header("www-authenticate").expect("told");
    assert!(challenge.starts_with("DPoP ") && challenge.contains("error=\"use_dpop_nonce\""), "{challenge}");
    let signed = at_self().with("nonce", json!(nonce)).sign();
    assert_eq!(world.send(own(&token, &signed)).await.status, 200);

    world.clock.advance_s(SETTLED_S);
    token_of(&world.send(dpop_login(&world, &device, &proof().sign())).await);
    let stale = proof().with("nonce", json!(nonce)).sign();
    refused(&world.send(dpop_login(&world, &device, &stale)).await, 400, "use_dpop_nonce");

    settings(&world, "lamp", PrincipalSettings { clock: Some(ClockTrust::Coarse), ..Default::default() })
        .await;
    let answer = world.send(own(&token, &at_self().sign())).await;
    let nonce = wanted(&answer, 401);
    assert_eq!(world.send(own(&token, &at_self().with("nonce", json!(nonce)).sign())).await.status, 200);
}

#[tokio::test]
async fn in_another_registry_the_url_of_a_proof_is_below_its_issuer() {
    let world = World::new().await;
    world.clock.advance_s(SETTLED_S);
    let plant = RegistryName::parse("plant").expect("a name");
    world
        .admission
        .create_registry(NewRegistry::named(plant.clone(), None), &Actor::Admin)
        .await
        .expect("made");
    let device = TestDevice::new("lamp");
    let new = drawbridge_admission::NewDevice::with_key(device.name.clone(), device.public_key().clone());
    world.admission.add_device(&plant, new, &Actor::Admin).await.expect("registered");
    let issuer = "https://id.example/r/plant";
    let login = |url: &str| {
        let assertion = device.assertion(issuer, world.clock.now_s()).sign();
        let proof = device.dpop("POST", url, world.clock.now_s()).sign();
        Ask::post("/r/plant/oauth/token").form(&login_form(&assertion)).header("DPoP", &proof)
    };
    token_of(&world.send(login("HTTPS://ID.example:443/r/plant/oauth/token")).await);
    refused(&world.send(login(TOKEN_URL)).await, 400, "invalid_dpop_proof");
    refused(&world.send(login("https://evil.example/r/plant/oauth/token")).await, 400, "invalid_dpop_proof");
}

fn cheap() -> AdmissionConfig {
    AdmissionConfig { password_memory_kib: 8, password_passes: 1, ..AdmissionConfig::default() }
}

#[tokio::test]
async fn secrets_and_passwords_log_in_by_basic_and_by_post_and_are_made_by_the_operator() {
    let store = std::sync::Arc::new(MemoryStore::new());
    let world = World::with(store, HttpConfig::default(), cheap()).await;
    world.application("backend", None).await;
    world.device("lamp").await;
    let made = world.admin(Ask::post("/v1/applications/backend/secret")).await;
    assert_eq!((made.status, made.header("cache-control")), (201, Some("no-store")), "{}", made.text);
    let secret = made.json()["client_secret"].as_str().expect("a secret").to_owned();
    assert!(secret.starts_with("dbs_") && secret.len() == 53, "{}", secret.len());

    let password = "p:ss wörd+%41";
    let set = Ask::new("PUT", "/v1/devices/lamp/password").json(&json!({ "password": password }));
    assert_eq!(world.admin(set).await.status, 204);
    for (path, kind) in [("/v1/applications/backend", "generated"), ("/v1/devices/lamp", "password")] {
        let shown = world.admin(Ask::get(path)).await;
        assert_eq!(shown.json()["secret"], kind);
        assert!(!shown.text.contains("dbs_"), "{}", shown.text);
    }
    let form = |id: &str, secret: &str| {
        let encoded: String = form_urlencoded::byte_serialize(secret.as_bytes()).collect();
        format!("grant_type=client_credentials&client_id={id}&client_secret={encoded}")
    };
    let basic = |id: &str, secret: &str| {
        let encoded: String = form_urlencoded::byte_serialize(secret.as_bytes()).collect();
        let value = format!("Basic {}", STANDARD.encode(format!("{id}:{encoded}")));
        Ask::post("/oauth/token").form("grant_type=client_credentials").header("Authorization", &value)
    };
    for (id, secret) in [("backend", secret.as_str()), ("lamp", password)] {
        let post = world.send(Ask::post("/oauth/token").form(&form(id, secret))).await;
        assert_eq!(claims(&token_of(&post)).get("akid"), None);
        token_of(&world.send(basic(id, secret)).await);
        for (id, secret) in [(id, "wrong wrong"), (id, "dbs_wrong"), ("ghost", secret)] {
            let answer = world.send(basic(id, secret)).await;
            refused(&answer, 401, "invalid_client");
            assert_eq!(answer.header("www-authenticate"), Some("Basic realm=\"drawbridge\""));
            assert!(!answer.text.contains(secret), "{}", answer.text);
            refused(
                &world.send(Ask::post("/oauth/token").form(&form(id, secret))).await,
                401,
                "invalid_client",
            );
        }
    }
    let other = format!("{}&client_id=lamp", "grant_type=client_credentials");
    let value = format!("Basic {}", STANDARD.encode(format!("backend:{secret}")));
    let ask = Ask::post("/oauth/token").form(&other).header("Authorization", &value);
    refused(&world.send(ask).await, 401, "invalid_client");

    let bad = Ask::new("PUT", "/v1/devices/lamp/password").json(&json!({ "password": "dbs_wrong" }));
    let answer = world.admin(bad).await;
    refused(&answer, 422, "password-unfit");
    for (path, status) in [
        ("/v1/devices/lamp/secret", 404),
        ("/v1/devices/lamp/password", 204),
        ("/v1/devices/lamp/password", 404),
        ("/v1/applications/backend/password", 404),
        ("/v1/applications/backend/secret", 204),
        ("/v1/applications/lamp/secret", 404),
    ] {
        assert_eq!(world.admin(Ask::new("DELETE", path)).await.status, status, "{path}");
    }
    refused(&world.send(basic("lamp", password)).await, 401, "invalid_client");
}
