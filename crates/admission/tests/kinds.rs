//! I9: a JWT is good for the one thing it was made for. Every kind at every endpoint.

mod world;

use drawbridge_admission::{
    Actor, Audience, BindingRequest, Dpop, LoginRequest, NewEnrolment, Peer, Permission, Refusal,
    RegisterRequest,
};
use drawbridge_identity::NoncePurpose;
use drawbridge_jose::{base64url_encode, sha256};
use drawbridge_registry::{EnrolmentNames, PrincipalSettings, Role};
use drawbridge_testkit::TestDevice;
use serde_json::json;
use world::{API, BRIDGE, ISSUER, World};

const TOKEN_URL: &str = "https://core.example/oauth/token";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Assertion,
    PlainAssertion,
    Connect,
    ConnectOnce,
    Update,
    Pop,
    AccessBridge,
    AccessApi,
    LegacyLogin,
    LegacyUpdate,
    DpopProof,
    EnrolmentProof,
    SoftwareStatement,
    SignedMessage,
    KeyRemoval,
    SignedTime,
}

const KINDS: [Kind; 16] = [
    Kind::Assertion,
    Kind::PlainAssertion,
    Kind::Connect,
    Kind::ConnectOnce,
    Kind::Update,
    Kind::Pop,
    Kind::AccessBridge,
    Kind::AccessApi,
    Kind::LegacyLogin,
    Kind::LegacyUpdate,
    Kind::DpopProof,
    Kind::EnrolmentProof,
    Kind::SoftwareStatement,
    Kind::SignedMessage,
    Kind::KeyRemoval,
    Kind::SignedTime,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Token,
    Connect,
    Api,
    PublishOverHttp,
    ReadSelf,
    UpdateAsUpdate,
    UpdateAsPop,
    AliasToken,
    AliasUpdate,
    ProofOfLogin,
    ProofOfEnrolment,
    Statement,
    RemoveKey,
}

const PLACES: [Place; 13] = [
    Place::Token,
    Place::Connect,
    Place::Api,
    Place::PublishOverHttp,
    Place::ReadSelf,
    Place::UpdateAsUpdate,
    Place::UpdateAsPop,
    Place::AliasToken,
    Place::AliasUpdate,
    Place::ProofOfLogin,
    Place::ProofOfEnrolment,
    Place::Statement,
    Place::RemoveKey,
];

fn is_made_for(kind: Kind, place: Place) -> bool {
    matches!(
        (kind, place),
        (Kind::Assertion | Kind::PlainAssertion, Place::Token)
            | (Kind::Connect | Kind::ConnectOnce | Kind::AccessBridge, Place::Connect)
            | (Kind::AccessApi, Place::Api | Place::ReadSelf)
            | (Kind::AccessBridge, Place::PublishOverHttp | Place::ReadSelf)
            | (Kind::Update, Place::UpdateAsUpdate)
            | (Kind::Pop, Place::UpdateAsPop)
            | (Kind::LegacyLogin, Place::AliasToken)
            | (Kind::LegacyUpdate, Place::AliasUpdate)
            | (Kind::DpopProof, Place::ProofOfLogin)
            | (Kind::EnrolmentProof, Place::ProofOfEnrolment)
            | (Kind::SoftwareStatement, Place::Statement)
            | (Kind::KeyRemoval, Place::RemoveKey)
    )
}

/// The update that a proof of possession in this matrix is for.
struct Scene {
    world: World,
    device: TestDevice,
    new: TestDevice,
    update: String,
    /// Signs software statements.
    maker: TestDevice,
    /// Of an enrolment.
    token: String,
}

/// The proof with which `new` enrols as `fresh`.
fn proof(scene: &Scene, authority: &str) -> String {
    let Scene { world, new, .. } = scene;
    let nonce = world.admission.challenge(&world.registry, NoncePurpose::Enrolment).expect("a nonce").nonce;
    let eth = base64url_encode(&sha256(authority.as_bytes()));
    let claims = json!({ "aud": ISSUER, "sub": "fresh", "nonce": nonce, "eth": eth });
    new.draft(Some("enrolment-proof+jwt"), claims).sign()
}

async fn mint(scene: &Scene, kind: Kind) -> String {
    let Scene { world, device, new, update, maker, token } = scene;
    let now_s = world.now_s();
    match kind {
        Kind::Assertion => device.assertion(ISSUER, now_s).sign(),
        Kind::PlainAssertion => device.assertion(ISSUER, now_s).typ(None).sign(),
        Kind::Connect => device.connect_jwt(BRIDGE, now_s).sign(),
        Kind::ConnectOnce => {
            device.connect_jwt(BRIDGE, now_s).without("iat").with("jti", json!("0123456789abcdef")).sign()
        }
        Kind::Update => device.update(ISSUER, now_s, new.public_key()).sign(),
        Kind::Pop => new.pop(ISSUER, update).sign(),
        Kind::AccessBridge => world.token(device, None).await,
        Kind::AccessApi => world.token(device, Some(API)).await,
        Kind::LegacyLogin => device.legacy_login().sign(),
        Kind::LegacyUpdate => device.legacy_update(new.public_key()).sign(),
        Kind::DpopProof => device.dpop("POST", TOKEN_URL, now_s).sign(),
        Kind::EnrolmentProof => proof(scene, token),
        Kind::SoftwareStatement => {
            let claims = json!({
                "iss": "maker", "aud": ISSUER, "iat": now_s, "exp": now_s + 600, "software_id": "s",
                "id_pattern": "fresh*",
            });
            maker.draft(Some("software-statement+jwt"), claims).sign()
        }
        Kind::SignedMessage => device.assertion(ISSUER, now_s).typ(Some("drawbridge-msg+jws")).sign(),
        Kind::KeyRemoval => {
            let spare = TestDevice::new("sensor");
            let (admission, registry) = (&world.admission, &world.registry);
            let added = admission.add_key(registry, &device.name, spare.public_key(), None, &Actor::Admin);
            added.await.expect("added");
            device.removal(ISSUER, now_s, &spare.kid()).sign()
        }
        Kind::SignedTime => {
            let answer = world.admission.signed_time(&world.registry, "0123456789abcdef", Peer::default());
            answer.expect("signed").0
        }
    }
}

async fn present(scene: &Scene, place: Place, jwt: &str) -> Result<(), Refusal> {
    let Scene { world, device, new, update, token, .. } = scene;
    let (admission, registry, peer) = (&world.admission, &world.registry, Peer::default());
    let bearer = async |audience| admission.bearer(Some(registry), jwt, audience, peer).await.map(|_| ());
    match place {
        Place::Token => world.login(jwt).await.map(|_| ()),
        Place::Connect => world.connect("sensor", jwt).await.map(|_| ()),
        Place::Api => bearer(Audience::Api).await,
        Place::PublishOverHttp => bearer(Audience::Bridge).await,
        Place::ReadSelf => bearer(Audience::SelfRead).await,
        Place::UpdateAsUpdate => {
            let pop = new.pop(ISSUER, jwt).sign();
            admission.update_key(registry, jwt, &pop, true, peer).await.map(|_| ())
        }
        Place::UpdateAsPop => admission.update_key(registry, update, jwt, true, peer).await.map(|_| ()),
        Place::AliasToken => world.legacy_login(jwt).await.map(|_| ()),
        Place::AliasUpdate => {
            let pop = new.legacy_pop(jwt);
            admission.legacy_update_key(registry, jwt, &pop, peer).await.map(|_| ())
        }
        Place::RemoveKey => admission.remove_own_key(registry, jwt, None, peer).await.map(|_| ()),
        Place::ProofOfLogin => {
            let assertion = device.assertion(ISSUER, world.now_s()).sign();
            let dpop = Some(Dpop { proof: jwt, method: "POST", url: TOKEN_URL });
            let binding = BindingRequest { dpop, certificate: None };
            let request = LoginRequest { binding, ..LoginRequest::with_assertion(&assertion, peer) };
            admission.login(registry, request).await.map(|_| ())
        }
        Place::ProofOfEnrolment | Place::Statement => {
            let jwk = new.public_key().to_jwk_json();
            let by_statement = place == Place::Statement;
            let (permission, proof) = if by_statement {
                (Permission::Statement(jwt), proof(scene, jwt))
            } else {
                (Permission::Token(token), jwt.to_owned())
            };
            let (keys, proofs) = ([jwk.as_str()], [proof.as_str()]);
            let request =
                RegisterRequest { permission, name: Some("fresh"), keys: &keys, proofs: &proofs, peer };
            admission.register(registry, request).await.map(|_| ())
        }
    }
}

#[tokio::test]
async fn i9_every_kind_of_jwt_is_good_at_its_own_place_and_refused_at_every_other() {
    let (mut accepted, mut refused) = (0, 0);
    for kind in KINDS {
        for place in PLACES {
            let world = World::new().await;
            // Until then a DPoP proof needs a nonce.
            world.clock.advance_s(200);
            // Marked for the legacy alias, so that nothing is refused only for not being marked.
            let device = world.legacy_device("sensor").await;
            world.application("backend", &TestDevice::new("backend"), "").await;
            let new = TestDevice::new("sensor");
            let update = device.update(ISSUER, world.now_s(), new.public_key()).sign();
            let maker = TestDevice::new("maker");
            world.application("maker", &maker, "").await;
            let settings = PrincipalSettings { roles: [Role::Manufacturer].into(), ..Default::default() };
            let set =
                world.admission.set_settings(&world.registry, &maker.name, settings, None, &Actor::Admin);
            set.await.expect("a manufacturer");
            let enrolment = NewEnrolment::of(EnrolmentNames::Ids(vec!["fresh".to_owned()]));
            let made = world.admission.create_enrolment(&world.registry, enrolment, &Actor::Admin).await;
            let token = made.expect("an enrolment").1.to_string();
            let scene = Scene { world, device, new, update, maker, token };
            let jwt = mint(&scene, kind).await;
            let found = present(&scene, place, &jwt).await;
            assert_eq!(found.is_ok(), is_made_for(kind, place), "{kind:?} at {place:?}: {found:?}");
            *if found.is_ok() { &mut accepted } else { &mut refused } += 1;
        }
    }
    println!("{accepted} accepted, {refused} refused");
    assert_eq!((accepted, refused), (17, KINDS.len() * PLACES.len() - 17));
}

#[tokio::test]
async fn one_jti_serves_a_login_at_one_place_only() {
    // With `kid` = its name and `typ` JWT an assertion has the form of a legacy login, too. Both are
    // logins of the same device, and the `jti` is one namespace: whichever comes second is refused.
    let world = World::new().await;
    let device = world.legacy_device("sensor").await;
    world.application("backend", &TestDevice::new("backend"), "").await;
    let both = device.assertion(ISSUER, world.now_s()).typ(Some("JWT")).kid(Some("sensor")).sign();
    world.login(&both).await.expect("an assertion");
    assert_eq!(world.legacy_login(&both).await.expect_err("used"), Refusal::Replay);
}

#[tokio::test]
async fn an_assertion_for_the_issuer_opens_no_session_and_a_connect_jwt_gets_no_token() {
    let world = World::new().await;
    let device = world.device("sensor").await;
    let plain = device.assertion(ISSUER, world.now_s()).typ(Some("JWT")).sign();
    assert_eq!(world.connect("sensor", &plain).await.expect_err("for the issuer").word(), "audience");
    let connect = device.connect_jwt(BRIDGE, world.now_s()).with("iss", json!("sensor"));
    let connect = connect.with("jti", json!("0123456789abcdef")).sign();
    assert_eq!(world.login(&connect).await.expect_err("for the bridge").word(), "audience");
}
