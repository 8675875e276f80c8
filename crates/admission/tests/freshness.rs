//! What shows that a JWT for CONNECT is new: its dates, a nonce of the server, or the very connection that it came
//! over; and what is good on that connection alone.

mod world;

use std::sync::Arc;

use drawbridge_admission::{
    Actor, Admission, AdmissionConfig, ConnectRequest, Connected, NewCredential, NewDevice, NewRegistry,
    Peer, Refusal, RegistryChange, SessionRenewal, TlsFacts, TlsVersion, Ways,
};
use drawbridge_identity::NONCE_LIFE_S;
use drawbridge_jose::base64url_encode;
use drawbridge_names::{MqttClientId, RegistryName};
use drawbridge_registry::{ClockTrust, PrincipalSettings, RegistrySettings};
use drawbridge_testkit::{Draft, FakeClock, FlakyStore, SeededRandom, TestDevice, sealer};
use serde_json::json;
use world::{BRIDGE, ISSUER, World, connected, request};

const HERE: [u8; 32] = [7; 32];
const ELSEWHERE: [u8; 32] = [8; 32];
const DAY_S: u64 = 86_400;

fn facts(channel_binding: Option<[u8; 32]>) -> TlsFacts {
    TlsFacts {
        version: TlsVersion::V13,
        resumed: false,
        peer: None,
        ace_exporter: None,
        channel_binding,
        refresh_exporter: None,
    }
}

fn with_cb<'d>(draft: Draft<'d>, value: &[u8; 32]) -> Draft<'d> {
    draft.with("cb", json!(base64url_encode(value)))
}

async fn set(world: &World, device: &TestDevice, settings: PrincipalSettings) {
    let changed =
        world.admission.set_settings(&world.registry, &device.name, settings, None, &Actor::Admin).await;
    changed.expect("set");
}

async fn trust(world: &World, device: &TestDevice, clock: ClockTrust) {
    set(world, device, PrincipalSettings { clock: Some(clock), ..PrincipalSettings::default() }).await;
}

async fn connect(admission: &Admission, jwt: &str, tls: &TlsFacts) -> Result<Connected, Refusal> {
    let client_id = MqttClientId::parse("sensor").expect("a client id");
    let request = ConnectRequest { tls: Some(tls), ..request(&client_id, Some(jwt.as_bytes())) };
    connected(admission.connect(request).await)
}

async fn renew(world: &World, session: &Connected, jwt: &str, tls: &TlsFacts) -> Result<Connected, Refusal> {
    let session = SessionRenewal {
        registry: &session.registry,
        uid: session.uid,
        client_id: &session.client_id,
        proven: session.proven,
        token: None,
        version: 5,
        credential: NewCredential::Token(jwt.as_bytes()),
        confidential: true,
        tls: Some(tls),
        ways: Ways::ALL,
        peer: Peer::default(),
    };
    connected(world.admission.renew_session(session).await)
}

/// What a JWT brings beside its dates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Brings {
    Nothing,
    /// `cb` of this connection, of another, in other words; and one where TLS says nothing.
    Here,
    Elsewhere,
    Short,
    Number,
    NoTls,
    /// A nonce: good with a `jti`; without one; too old.
    Nonce,
    NonceAlone,
    OldNonce,
    /// Both.
    HereAndNonce,
}
use Brings::{Elsewhere, Here, HereAndNonce, NoTls, Nonce, NonceAlone, Nothing, Number, OldNonce, Short};

#[derive(Debug, Clone, Copy)]
enum Dated {
    /// As a good clock would.
    Right,
    /// Some hours off: nothing for a good clock.
    Hours,
    /// None at all.
    Without,
    /// As of 1970.
    Since1970,
}
use Dated::{Hours, Right, Since1970, Without};

type Verdict = Result<(), &'static str>;

/// Clock, evidence, dates: the verdict at CONNECT, and when a session is renewed.
///
/// Source: section 3 of the protocol notes (the policy matrix).
const CASES: &[(ClockTrust, Brings, Dated, Verdict, Verdict)] = &[
    (ClockTrust::Good, Nothing, Right, Ok(()), Ok(())),
    (ClockTrust::Good, Nothing, Hours, Err("time"), Err("time")),
    (ClockTrust::Good, Nothing, Without, Err("time"), Err("time")),
    (ClockTrust::Good, Here, Right, Ok(()), Ok(())),
    (ClockTrust::Good, Here, Hours, Err("time"), Err("time")),
    (ClockTrust::Good, Elsewhere, Right, Err("token-binding"), Err("token-binding")),
    (ClockTrust::Good, Short, Right, Err("token-binding"), Err("token-binding")),
    (ClockTrust::Good, Number, Right, Err("token-kind"), Err("token-kind")),
    (ClockTrust::Good, NoTls, Right, Err("token-binding"), Err("token-binding")),
    (ClockTrust::Good, Nonce, Right, Ok(()), Ok(())),
    (ClockTrust::Good, OldNonce, Right, Err("nonce-stale"), Err("nonce-stale")),
    (ClockTrust::Coarse, Nothing, Right, Err("clock-not-trusted"), Err("clock-not-trusted")),
    (ClockTrust::Coarse, Here, Right, Ok(()), Err("clock-not-trusted")),
    (ClockTrust::Coarse, Here, Hours, Ok(()), Err("clock-not-trusted")),
    (ClockTrust::Coarse, Here, Since1970, Err("time"), Err("clock-not-trusted")),
    (ClockTrust::Coarse, Here, Without, Err("time"), Err("clock-not-trusted")),
    (ClockTrust::Coarse, Nonce, Hours, Ok(()), Ok(())),
    (ClockTrust::Coarse, NonceAlone, Hours, Err("jti"), Err("jti")),
    (ClockTrust::Coarse, HereAndNonce, Hours, Ok(()), Ok(())),
    (ClockTrust::None, Nothing, Right, Err("clock-not-trusted"), Err("clock-not-trusted")),
    (ClockTrust::None, Nothing, Without, Err("clock-not-trusted"), Err("clock-not-trusted")),
    (ClockTrust::None, Here, Without, Ok(()), Err("clock-not-trusted")),
    (ClockTrust::None, Here, Since1970, Ok(()), Err("clock-not-trusted")),
    (ClockTrust::None, Elsewhere, Without, Err("token-binding"), Err("token-binding")),
    (ClockTrust::None, Nonce, Without, Ok(()), Ok(())),
    (ClockTrust::None, Nonce, Since1970, Ok(()), Ok(())),
    (ClockTrust::None, NonceAlone, Without, Err("jti"), Err("jti")),
    (ClockTrust::None, OldNonce, Without, Err("nonce-stale"), Err("nonce-stale")),
    (ClockTrust::None, HereAndNonce, Without, Ok(()), Ok(())),
];

fn draft<'d>(world: &World, device: &'d TestDevice, brings: Brings, dated: Dated, nonce: &str) -> Draft<'d> {
    let now_s = world.now_s();
    let jwt = device.connect_jwt(BRIDGE, now_s);
    let jwt = match dated {
        Right => jwt,
        Hours => jwt.with("iat", json!(now_s - 20_000)).with("exp", json!(now_s - 10_000)),
        Since1970 => jwt.with("iat", json!(5)).with("exp", json!(605)),
        Without => jwt.without("iat").without("exp"),
    };
    let with_nonce = |jwt: Draft<'d>| jwt.with("nonce", json!(nonce));
    match brings {
        Nothing => jwt,
        Here | NoTls => with_cb(jwt, &HERE),
        Elsewhere => with_cb(jwt, &ELSEWHERE),
        Short => jwt.with("cb", json!(base64url_encode(&HERE[..31]))),
        Number => jwt.with("cb", json!(7)),
        Nonce | OldNonce => with_nonce(jwt).with("jti", json!("0123456789abcdef")),
        NonceAlone => with_nonce(jwt),
        HereAndNonce => with_nonce(with_cb(jwt, &HERE)),
    }
}

#[tokio::test]
async fn what_shows_that_a_jwt_is_new_is_judged_as_the_trust_in_the_clock_says() {
    for (clock, brings, dated, at_connect, at_renewal) in CASES {
        for (renews, wanted) in [(false, at_connect), (true, at_renewal)] {
            let case = format!("{clock:?} {brings:?} {dated:?}, renews: {renews}");
            let world = World::new().await;
            let device = world.device("sensor").await;
            let session =
                world.connect("sensor", &device.connect_jwt(BRIDGE, world.now_s()).sign()).await.expect("in");
            trust(&world, &device, *clock).await;
            let nonce = world.admission.renewal_nonce(&world.registry).expect("a nonce");
            if *brings == OldNonce {
                world.clock.advance_s(NONCE_LIFE_S + 1);
            }
            let jwt = draft(&world, &device, *brings, *dated, &nonce).sign();
            let tls = facts((*brings != NoTls).then_some(HERE));
            let found = match renews {
                false => connect(&world.admission, &jwt, &tls).await,
                true => renew(&world, &session, &jwt, &tls).await,
            };
            let (word, told) = match &found {
                Ok(_) => (Ok(()), None),
                Err(refusal) => (Err(refusal.word()), refusal.for_owner()),
            };
            assert_eq!(word, *wanted, "{case}: {found:?}");
            assert!(word.is_ok() || told.is_some(), "its owner is told why: {case}");
            if let Ok(connected) = found {
                let bound = matches!(brings, Here | HereAndNonce);
                assert_eq!(connected.proven, bound, "{case}");
                let life_s = connected.ends_ms.expect("an end") / 1000 - world.now_s();
                let by_dates = match (clock, dated) {
                    (ClockTrust::Good, _) => 3_660,
                    (_, Hours) => 10_000,
                    (_, Since1970) => 600,
                    (_, Without) => DAY_S,
                    (_, Right) => 3_600,
                };
                assert_eq!(life_s, by_dates, "{case}");
            }
        }
    }
}

#[tokio::test]
async fn i7_a_nonce_is_good_once_and_a_bound_jwt_as_often_as_its_connection_asks() {
    let world = World::new().await;
    let device = world.device("sensor").await;
    trust(&world, &device, ClockTrust::None).await;
    let nonce = world.admission.renewal_nonce(&world.registry).expect("a nonce");
    let by_nonce = draft(&world, &device, Nonce, Without, &nonce).sign();
    let (here, elsewhere) = (facts(Some(HERE)), facts(Some(ELSEWHERE)));
    connect(&world.admission, &by_nonce, &here).await.expect("once");
    let again = connect(&world.admission, &by_nonce, &elsewhere).await;
    assert_eq!(again.expect_err("whoever took it"), Refusal::Replay);
    let bound = draft(&world, &device, Here, Without, "").sign();
    for _ in 0..3 {
        connect(&world.admission, &bound, &here).await.expect("its own connection");
        let stolen = connect(&world.admission, &bound, &elsewhere).await.expect_err("another's");
        assert_eq!(stolen.word(), "token-binding");
    }
}

#[tokio::test]
async fn a_session_that_was_opened_by_a_bound_jwt_is_renewed_by_one_only() {
    let world = World::new().await;
    let device = world.device("sensor").await;
    let here = facts(Some(HERE));
    let jwt = || device.connect_jwt(BRIDGE, world.now_s());
    let session = connect(&world.admission, &with_cb(jwt(), &HERE).sign(), &here).await.expect("in");
    assert!(session.proven);
    let refusal = renew(&world, &session, &jwt().sign(), &here).await.expect_err("a weaker proof");
    assert_eq!(refusal.word(), "token-binding");
    let stolen = with_cb(jwt(), &ELSEWHERE).sign();
    assert_eq!(renew(&world, &session, &stolen, &here).await.expect_err("another's").word(), "token-binding");
    assert!(renew(&world, &session, &with_cb(jwt(), &HERE).sign(), &here).await.expect("its own").proven);
}

#[tokio::test]
async fn where_bound_connections_are_wanted_nothing_that_can_be_carried_away_opens_one() {
    let world = World::new().await;
    let device = world.device("sensor").await;
    let here = facts(Some(HERE));
    let plain = || device.connect_jwt(BRIDGE, world.now_s()).sign();
    let bound = || with_cb(device.connect_jwt(BRIDGE, world.now_s()), &HERE).sign();
    let token = world.token(&device, None).await;
    let wanted = |bound_connections| PrincipalSettings { bound_connections, ..PrincipalSettings::default() };
    let registry = |bound_connections| RegistryChange {
        settings: Some(RegistrySettings { bound_connections, ..RegistrySettings::default() }),
        ..RegistryChange::default()
    };
    // Of the device, of the registry: what the connection must be.
    for (of_device, of_registry, unbound_is_good) in [
        (None, false, true),
        (Some(true), false, false),
        (None, true, false),
        (Some(false), true, true),
        (Some(true), true, false),
    ] {
        set(&world, &device, wanted(of_device)).await;
        let change = registry(of_registry);
        world.admission.change_registry(&world.registry, change, &Actor::Admin).await.expect("changed");
        for jwt in [plain(), token.clone()] {
            let found = connect(&world.admission, &jwt, &here).await.map(|_| ()).map_err(|r| r.word());
            let good = if unbound_is_good { Ok(()) } else { Err("token-binding") };
            assert_eq!(found, good, "{of_device:?} {of_registry}");
        }
        connect(&world.admission, &bound(), &here).await.expect("bound");
    }
}

#[tokio::test]
async fn switching_bound_connections_on_ends_the_sessions_that_were_opened_without() {
    use drawbridge_admission::{EndReason, SessionsEnd};
    let world = World::new().await;
    let device = world.device("sensor").await;
    world.watcher.take();
    let settings = PrincipalSettings { bound_connections: Some(true), ..PrincipalSettings::default() };
    set(&world, &device, settings).await;
    let told = world.watcher.take();
    assert!(
        matches!(&told[..], [SessionsEnd::Principal { why: EndReason::SettingsChanged, .. }]),
        "{told:?}"
    );
}

#[tokio::test]
async fn while_the_store_is_out_a_bound_jwt_passes_and_one_that_must_be_remembered_does_not() {
    let store = Arc::new(FlakyStore::default());
    let (clock, random) = (Arc::new(FakeClock::default()), Arc::new(SeededRandom::new(4)));
    let settings = AdmissionConfig::default();
    let admission =
        Admission::open(store.clone(), clock.clone(), random, sealer(), settings).await.expect("opened");
    let registry = RegistryName::default_registry();
    let new = NewRegistry::named(registry.clone(), Some(ISSUER.into()));
    admission.create_registry(new, &Actor::Admin).await.expect("made");
    let device = TestDevice::new("sensor");
    let new = NewDevice::with_key(device.name.clone(), device.public_key().clone());
    admission.add_device(&registry, new, &Actor::Admin).await.expect("registered");
    let settings = PrincipalSettings { clock: Some(ClockTrust::None), ..PrincipalSettings::default() };
    admission.set_settings(&registry, &device.name, settings, None, &Actor::Admin).await.expect("set");
    let undated = || device.connect_jwt(BRIDGE, clock.now_s()).without("iat").without("exp");
    let here = facts(Some(HERE));
    // Its record is in memory from here on.
    connect(&admission, &with_cb(undated(), &HERE).sign(), &here).await.expect("up");
    store.set_down(true);
    let nonce = admission.renewal_nonce(&registry).expect("made of nothing but the time");
    let by_nonce = undated().with("nonce", json!(nonce)).with("jti", json!("0123456789abcdef")).sign();
    let refusal = connect(&admission, &by_nonce, &here).await.expect_err("nobody could remember it");
    assert_eq!(refusal.word(), "temporarily-unavailable");
    connect(&admission, &with_cb(undated(), &HERE).sign(), &here).await.expect("needs no memory");
    store.set_down(false);
    connect(&admission, &by_nonce, &here).await.expect("it was not used up");
}
