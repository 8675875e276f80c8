//! MQTT CONNECT by what the TLS handshake has proven: certificates, registered or by a CA, and raw public keys; alone
//! and beside another credential.

mod world;

use drawbridge_admission::{
    Actor, AdmissionError, ClientCertificate, Connected, NewApplication, NewKey, PeerProof, Refusal,
    RegistryChange, SessionsEnd, TlsFacts, TlsVersion, Way, Ways,
};
use drawbridge_jose::{CertificateKey, SigningKey};
use drawbridge_names::{MqttClientId, PolicyName, PrincipalKind, PrincipalName};
use drawbridge_registry::{
    CertificateRegistration, CertificateSubject, PrincipalSettings, RegistrySettings, Store as _,
};
use drawbridge_testkit::TestDevice;
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, SanType};
use world::{BRIDGE, World, connected, request};

const SHUT: Err = Err("not-proven");
type Err = Result<(), &'static str>;

struct TestCa {
    der: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

fn params(common_name: Option<&str>, until: i32) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "plant");
    if let Some(name) = common_name {
        params.distinguished_name.push(DnType::CommonName, name);
    }
    params.not_before = rcgen::date_time_ymd(2026, 1, 1);
    params.not_after = rcgen::date_time_ymd(until, 1, 1);
    params
}

impl TestCa {
    fn new() -> Self {
        let mut params = params(Some("root"), 2030);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let der = params.self_signed(&key).expect("signed").der().to_vec();
        Self { der, issuer: Issuer::new(params, key) }
    }

    /// A certificate by this CA over a key of nobody.
    fn leaf(&self, common_name: &str) -> PeerProof {
        self.sign(&params(Some(common_name), 2027), &KeyPair::generate().expect("a key"))
    }

    fn sign(&self, params: &CertificateParams, key: &KeyPair) -> PeerProof {
        peer(params.signed_by(key, &self.issuer).expect("signed").der().to_vec())
    }
}

fn peer(der: Vec<u8>) -> PeerProof {
    PeerProof::Certificate(ClientCertificate { chain_der: vec![der] })
}

fn pair(key: &SigningKey) -> KeyPair {
    KeyPair::try_from(key.to_pkcs8_der().as_slice()).expect("a key")
}

fn self_signed(key: &SigningKey, common_name: &str) -> PeerProof {
    peer(params(Some(common_name), 2027).self_signed(&pair(key)).expect("signed").der().to_vec())
}

fn facts(peer: PeerProof) -> TlsFacts {
    TlsFacts {
        version: TlsVersion::V13,
        resumed: false,
        peer: Some(peer),
        ace_exporter: None,
        channel_binding: None,
        refresh_exporter: None,
    }
}

/// What comes with the handshake.
#[derive(Clone, Copy)]
struct Packet<'a> {
    client_id: &'a str,
    username: Option<&'a str>,
    password: Option<&'a str>,
}

fn only(client_id: &str) -> Packet<'_> {
    Packet { client_id, username: None, password: None }
}

async fn enter(world: &World, facts: &TlsFacts, packet: Packet<'_>) -> Result<Connected, Refusal> {
    enter_by(world, facts, packet, Ways::ALL).await
}

async fn enter_by(
    world: &World,
    facts: &TlsFacts,
    packet: Packet<'_>,
    ways: Ways,
) -> Result<Connected, Refusal> {
    let client_id = MqttClientId::parse(packet.client_id).expect("a client id");
    let mut asked = request(&client_id, packet.password.map(str::as_bytes));
    (asked.username, asked.tls, asked.ways) = (packet.username, Some(facts), ways);
    connected(world.admission.connect(asked).await)
}

fn word(found: &Result<Connected, Refusal>) -> Err {
    found.as_ref().map(|_| ()).map_err(Refusal::word)
}

async fn add_ca(world: &World, ca: &TestCa) -> [u8; 32] {
    let added = world.admission.add_ca(&world.registry, ca.der.clone(), None, &Actor::Admin).await;
    added.expect("registered").0.fingerprint
}

async fn set(world: &World, name: &PrincipalName, settings: PrincipalSettings) {
    let set = world.admission.set_settings(&world.registry, name, settings, None, &Actor::Admin);
    set.await.map(drop).expect("set");
}

async fn set_registry(world: &World, settings: RegistrySettings) -> Result<(), AdmissionError> {
    let change = RegistryChange { settings: Some(settings), ..RegistryChange::default() };
    world.admission.change_registry(&world.registry, change, &Actor::Admin).await.map(drop)
}

async fn registers(world: &World, rule: CertificateRegistration) {
    let settings = RegistrySettings { certificate_registration: Some(rule), ..RegistrySettings::default() };
    set_registry(world, settings).await.expect("set");
}

fn name(text: &str) -> PrincipalName {
    PrincipalName::parse(text).expect("a name")
}

fn raw_key(device: &TestDevice) -> PeerProof {
    PeerProof::RawKey(device.public_key().spki_der().to_vec())
}

#[tokio::test]
async fn a_registered_key_says_whose_it_is_whatever_user_name_and_certificate_say() {
    let world = World::new().await;
    let lamp = world.device("lamp").await;
    world.device("other").await;
    for peer in [self_signed(&lamp.key, "other"), raw_key(&lamp)] {
        let facts = facts(peer);
        for (client_id, username, wanted) in [
            ("lamp", None, Ok(())),
            ("lamp:2", None, Ok(())),
            ("", None, Ok(())),
            ("lamp", Some("lamp"), Ok(())),
            // As SDKs of AWS send it.
            ("lamp", Some("?SDK=Python&Version=1.2.3"), Ok(())),
            ("lamp", Some("other"), Ok(())),
            ("other", None, Err("client-id")),
            ("other", Some("lamp"), Err("client-id")),
            ("nobody", None, Err("client-id")),
        ] {
            let found = enter(&world, &facts, Packet { client_id, username, password: None }).await;
            assert_eq!(word(&found), wanted, "{client_id:?} {username:?} {facts:?}");
            if let Ok(session) = found {
                assert_eq!((session.name.as_str(), session.kid), ("lamp", Some(lamp.kid())));
                assert!(session.proven && session.ca.is_none());
            }
        }
    }
}

#[tokio::test]
async fn who_has_registered_nothing_is_refused_and_told_nothing() {
    let world = World::new().await;
    let lamp = world.device("lamp").await;
    let stranger = TestDevice::new("lamp");
    for peer in [
        self_signed(&stranger.key, "lamp"),
        raw_key(&stranger),
        TestCa::new().leaf("lamp"),
        PeerProof::Certificate(ClientCertificate { chain_der: vec![vec![0x30, 0]] }),
        PeerProof::Certificate(ClientCertificate { chain_der: vec![] }),
        PeerProof::RawKey(vec![]),
        PeerProof::RawKey([lamp.public_key().spki_der(), &[0]].concat()),
    ] {
        let found = enter(&world, &facts(peer.clone()), only("lamp")).await;
        assert_eq!(word(&found), SHUT, "{peer:?}");
        assert_eq!(found.expect_err("refused").for_owner(), None);
    }
}

#[tokio::test]
async fn a_certificate_registered_without_any_ca_comes_in_until_its_end_and_another_one_over_its_key_too() {
    let world = World::new().await;
    let lamp = world.device("lamp").await;
    let second = TestDevice::new("x");
    let der = params(Some("c0ffee"), 2027).self_signed(&pair(&second.key)).expect("signed");
    let key = NewKey::from(CertificateKey::from_pem(&der.pem()).expect("a certificate"));
    world.admission.register_key(&world.registry, &lamp.name, key, &Actor::Admin).await.expect("registered");
    let registered = facts(peer(der.der().to_vec()));
    let session = enter(&world, &registered, only("lamp")).await.expect("in");
    assert_eq!(session.kid, Some(second.kid()));
    // 2027-01-01.
    assert_eq!(session.ends_ms, Some(1_798_761_600_000));
    enter(&world, &facts(self_signed(&second.key, "any")), only("lamp")).await.expect("the same key");
    world.clock.advance_s(1_798_761_600 - world.now_s());
    assert_eq!(word(&enter(&world, &registered, only("lamp")).await), SHUT);
}

#[tokio::test]
async fn a_revoked_key_is_out_at_the_next_connect_also_over_tls_that_was_resumed_and_also_by_a_ca() {
    let world = World::new().await;
    let lamp = world.device("lamp").await;
    let ca = TestCa::new();
    add_ca(&world, &ca).await;
    let by_ca = ca.sign(&params(Some("lamp"), 2027), &pair(&lamp.key));
    for peer in [self_signed(&lamp.key, "lamp"), by_ca.clone(), raw_key(&lamp)] {
        for resumed in [false, true] {
            let facts = TlsFacts { resumed, ..facts(peer.clone()) };
            assert_eq!(word(&enter(&world, &facts, only("lamp")).await), Ok(()), "{resumed} {peer:?}");
        }
    }
    let kid = lamp.kid();
    let revoked = world.admission.revoke_key(&world.registry, &lamp.name, &kid, "stolen", &Actor::Admin);
    revoked.await.expect("revoked");
    for peer in [self_signed(&lamp.key, "lamp"), by_ca, raw_key(&lamp)] {
        for resumed in [false, true] {
            let facts = TlsFacts { resumed, ..facts(peer.clone()) };
            assert_eq!(word(&enter(&world, &facts, only("lamp")).await), SHUT, "{resumed} {peer:?}");
        }
    }
    // Another key of the same name: the CA speaks for that.
    enter(&world, &facts(ca.leaf("lamp")), only("lamp")).await.expect("the CA vouches for it");
}

#[tokio::test]
async fn a_ca_names_a_device_by_the_field_of_its_record_else_by_its_common_name() {
    let world = World::new().await;
    let ca = TestCa::new();
    add_ca(&world, &ca).await;
    for device in ["plain", "named", "app-like"] {
        world.device(device).await;
    }
    let subject = CertificateSubject::SanDns("named.plant".to_owned());
    let settings = PrincipalSettings { certificate_subject: Some(subject), ..Default::default() };
    set(&world, &name("named"), settings).await;
    let application = NewApplication { name: name("backend"), keys: Vec::new(), policy: None };
    world.admission.add_application(&world.registry, application, &Actor::Admin).await.expect("registered");
    let mut with_san = params(Some("serial-7"), 2027);
    with_san.subject_alt_names = vec![SanType::DnsName("named.plant".try_into().expect("a name"))];
    let with_san = ca.sign(&with_san, &KeyPair::generate().expect("a key"));
    for (case, peer, packet, wanted) in [
        ("its common name", ca.leaf("plain"), only("plain"), Ok("plain")),
        ("no client id", ca.leaf("plain"), only(""), Ok("plain")),
        ("another's client id", ca.leaf("plain"), only("named"), Err("client-id")),
        ("of nobody's name", ca.leaf("nobody"), only("plain"), Err("not-proven")),
        ("the field of its record", with_san.clone(), only("named"), Ok("named")),
        ("its common name, and the record has a field", ca.leaf("named"), only("named"), Err("not-proven")),
        (
            "the user name says where to look",
            with_san.clone(),
            Packet { username: Some("named"), ..only("") },
            Ok("named"),
        ),
        ("nothing says where to look", with_san, only(""), Err("not-proven")),
        ("an application's name", ca.leaf("backend"), only("backend"), Err("not-proven")),
        (
            "an application's name as user name",
            ca.leaf("backend"),
            Packet { username: Some("backend"), ..only("x") },
            Err("not-proven"),
        ),
    ] {
        let found = enter(&world, &facts(peer), packet).await;
        let found = found.as_ref().map(|session| session.name.as_str()).map_err(|refusal| refusal.word());
        assert_eq!(found, wanted, "{case}");
    }
    let session = enter(&world, &facts(ca.leaf("plain")), only("plain")).await.expect("in");
    assert_eq!((session.kid, session.ends_ms), (None, Some((1_798_761_600 + 1) * 1000)));
    assert!(session.proven);
}

#[tokio::test]
async fn a_ca_that_is_removed_ends_what_it_has_let_in_also_what_is_being_let_in() {
    let world = World::new().await;
    let lamp = world.device("lamp").await;
    let (ca, other) = (TestCa::new(), TestCa::new());
    let fingerprint = add_ca(&world, &ca).await;
    add_ca(&world, &other).await;
    let facts = facts(ca.leaf("lamp"));
    let session = enter(&world, &facts, only("lamp")).await.expect("in");
    let by_key = enter(&world, &self::facts(self_signed(&lamp.key, "x")), only("lamp")).await.expect("in");
    assert!(world.admission.still_good(&session));
    world.watcher.take();
    assert!(world.admission.remove_ca(&world.registry, &fingerprint, &Actor::Admin).await.expect("removed"));
    assert!(!world.admission.still_good(&session), "it would be installed after the news");
    assert!(world.admission.still_good(&by_key), "no CA has let it in");
    let ca_of = session.ca.clone().expect("a CA vouched");
    let wanted = SessionsEnd::Ca { registry: world.registry.clone(), ca: ca_of };
    assert_eq!(world.watcher.take(), [wanted]);
    assert_eq!(word(&enter(&world, &facts, only("lamp")).await), SHUT);
}

#[tokio::test]
async fn what_stands_beside_the_handshake_must_be_the_same_principal() {
    let world = World::new().await;
    let (lamp, door) = (world.device("lamp").await, world.device("door").await);
    let ca = TestCa::new();
    add_ca(&world, &ca).await;
    let password = Some("correct horse battery");
    let set = world.admission.set_password(&world.registry, &lamp.name, password, None, &Actor::Admin);
    set.await.map(drop).expect("set");
    let jwt = lamp.connect_jwt(BRIDGE, world.now_s()).sign();
    let token = world.token(&lamp, None).await;
    let stranger = TestDevice::new("lamp");
    for (of, credential) in
        [("jwt", jwt.as_str()), ("token", token.as_str()), ("password", "correct horse battery")]
    {
        let packet = Packet { client_id: "lamp", username: Some("lamp"), password: Some(credential) };
        for (case, peer, wanted) in [
            ("its own key", self_signed(&lamp.key, "x"), Ok(())),
            ("its own raw key", raw_key(&lamp), Ok(())),
            ("its name by a CA", ca.leaf("lamp"), Ok(())),
            ("another's key", self_signed(&door.key, "lamp"), Err("two-principals")),
            ("another's raw key", raw_key(&door), Err("two-principals")),
            ("a key of nobody", self_signed(&stranger.key, "lamp"), Err("not-proven")),
            ("a raw key of nobody", raw_key(&stranger), Err("not-proven")),
            ("a CA of nobody", TestCa::new().leaf("lamp"), Err("not-proven")),
            ("a CA for nobody", ca.leaf("nobody"), Err("not-proven")),
        ] {
            let facts = facts(peer);
            let found = enter(&world, &facts, packet).await;
            assert_eq!(word(&found), wanted, "{of} beside {case}");
            if let Err(refusal) = found {
                assert_eq!(refusal.for_owner(), None, "{of} beside {case}");
            }
            // Where nobody comes in by a handshake, it says nothing.
            let ways = Ways::ALL.without(Way::Certificate).without(Way::RawKey);
            assert_eq!(word(&enter_by(&world, &facts, packet, ways).await), Ok(()), "{of} beside {case}");
        }
    }
    // Another's name in a certificate by a CA: of two devices one, whichever the client id says.
    let packet = Packet { password: Some(&jwt), ..only("lamp") };
    assert_eq!(word(&enter(&world, &facts(ca.leaf("door")), packet).await), Err("two-principals"));
}

#[tokio::test]
async fn listener_registry_and_principal_close_ways_and_the_log_says_which_of_them() {
    let world = World::new().await;
    let lamp = world.device("lamp").await;
    let jwt = lamp.connect_jwt(BRIDGE, world.now_s()).sign();
    let token = world.token(&lamp, None).await;
    let key = facts(self_signed(&lamp.key, "x"));
    let raw = facts(raw_key(&lamp));
    let plain = TlsFacts { peer: None, ..key.clone() };
    let credentials = [
        (Way::DeviceJwt, &plain, Some(jwt.as_str())),
        (Way::AccessToken, &plain, Some(token.as_str())),
        (Way::Certificate, &key, None),
        (Way::RawKey, &raw, None),
    ];
    let words = |ways: Ways| Some(ways.iter().map(|way| way.as_str().to_owned()).collect());
    for (closed, facts, password) in credentials {
        let packet = Packet { password, ..only("lamp") };
        let open = Ways::ALL.without(closed).without(Way::AuthzInfo);
        let by_listener = enter_by(&world, facts, packet, open).await;
        if facts.peer.is_some() {
            // Where tokens of keys are taken, and keys alone are not, it is the token that is missing.
            let without_token = enter_by(&world, facts, packet, open.with(Way::AuthzInfo)).await;
            assert_eq!(word(&without_token), Err("ace-no-token"), "{closed}");
        }
        let settings = PrincipalSettings { ways: words(open), ..Default::default() };
        set(&world, &lamp.name, settings).await;
        let by_principal = enter(&world, facts, packet).await;
        let settings = PrincipalSettings { ways: words(Ways::NONE.with(closed)), ..Default::default() };
        set(&world, &lamp.name, settings).await;
        assert_eq!(word(&enter(&world, facts, packet).await), Ok(()), "{closed} alone is open");
        set_registry(&world, RegistrySettings { ways: words(open), ..Default::default() })
            .await
            .expect("set");
        let by_registry = enter(&world, facts, packet).await;
        set_registry(&world, RegistrySettings::default()).await.expect("set");
        for (by, found) in [("listener", by_listener), ("principal", by_principal), ("registry", by_registry)]
        {
            let refusal = found.map(|_| ()).expect_err("closed");
            assert_eq!(refusal, Refusal::WayClosed { way: closed.as_str(), by });
            assert!(refusal.to_string().contains(by), "{refusal}");
            assert_eq!(refusal.for_owner(), None);
        }
        set(&world, &lamp.name, PrincipalSettings::default()).await;
        assert_eq!(word(&enter(&world, facts, packet).await), Ok(()), "{closed} is open again");
    }
    let unknown = Some(["device-jwt".to_owned(), "telepathy".to_owned()].into());
    let settings = PrincipalSettings { ways: unknown.clone(), ..Default::default() };
    let refused =
        world.admission.set_settings(&world.registry, &lamp.name, settings, None, &Actor::Admin).await;
    assert!(matches!(refused, Err(AdmissionError::Setting(_))), "{refused:?}");
    let refused = set_registry(&world, RegistrySettings { ways: unknown, ..Default::default() }).await;
    assert!(matches!(refused, Err(AdmissionError::Setting(_))), "{refused:?}");
}

#[tokio::test]
async fn a_way_that_is_closed_for_a_principal_ends_its_sessions() {
    let world = World::new().await;
    let lamp = world.device("lamp").await;
    let of = |words: &[&str]| PrincipalSettings {
        ways: Some(words.iter().map(|word| (*word).to_owned()).collect()),
        ..PrincipalSettings::default()
    };
    for (settings, ends) in [
        (of(&["certificate", "device-jwt"]), true),
        (of(&["certificate", "device-jwt", "password"]), false),
        (of(&["certificate"]), true),
        (PrincipalSettings::default(), false),
    ] {
        world.watcher.take();
        set(&world, &lamp.name, settings.clone()).await;
        let ended = world.watcher.take();
        let ended = ended.iter().any(|end| matches!(end, SessionsEnd::Principal { .. }));
        assert_eq!(ended, ends, "{settings:?}");
    }
}

#[tokio::test]
async fn a_device_registers_itself_by_its_certificate_and_waits_until_an_operator_admits_it() {
    let world = World::new().await;
    let ca = TestCa::new();
    add_ca(&world, &ca).await;
    let facts = facts(ca.leaf("pump-1"));
    assert_eq!(word(&enter(&world, &facts, only("pump-1")).await), SHUT, "off by default");
    let rule = CertificateRegistration { names: "pump-*".to_owned(), ..Default::default() };
    registers(&world, rule).await;
    for _ in 0..2 {
        assert_eq!(word(&enter(&world, &facts, only("pump-1")).await), Err("pending"));
    }
    let waiting = world.admission.enrolled(&world.registry, None, true, None, 9).await.expect("listed");
    let [device] = waiting.as_slice() else { panic!("{waiting:?}") };
    let device = &device.principal;
    assert_eq!((device.name.as_str(), device.kind, device.pending), ("pump-1", PrincipalKind::Device, true));
    assert_eq!(device.policy, Some(PolicyName::parse("device").expect("a name")));
    let enrolments = world.admission.enrolments(&world.registry).await.expect("listed");
    assert_eq!(enrolments.len(), 1);
    assert_eq!((device.enrolment.as_ref(), enrolments[0].claims), (Some(&enrolments[0].id), 1));
    let tail = world.store.audit_tail(&world.registry, None, 9).await.expect("audit");
    let row = |action: &str| tail.iter().any(|row| row.entry.action == action);
    assert!(row("device.certificate") && row("enrolment.certificates"), "{tail:?}");

    world.admission.approve(&world.registry, &device.name, None, &Actor::Admin).await.expect("approved");
    let session = enter(&world, &facts, only("pump-1")).await.expect("in");
    assert_eq!(session.name.as_str(), "pump-1");
    // A new certificate of the same name is the same device.
    let renewed = self::facts(ca.leaf("pump-1"));
    assert_eq!(enter(&world, &renewed, only("")).await.expect("in").uid, session.uid);
    // It does not come by an assertion, a password, or a certificate of another CA.
    assert_eq!(word(&enter(&world, &self::facts(TestCa::new().leaf("pump-1")), only("")).await), SHUT);
    world.admission.block(&world.registry, &session.name, None, &Actor::Admin).await.expect("blocked");
    assert_eq!(word(&enter(&world, &renewed, only("")).await), Err("blocked"));
}

#[tokio::test]
async fn a_rule_says_which_certificates_register_and_whether_at_once() {
    let world = World::new().await;
    let (ca, other) = (TestCa::new(), TestCa::new());
    let fingerprint = add_ca(&world, &ca).await;
    add_ca(&world, &other).await;
    world.device("pump-9").await;
    let subject = CertificateSubject::SanDns("pump-9.plant".to_owned());
    let settings = PrincipalSettings { certificate_subject: Some(subject), ..Default::default() };
    set(&world, &name("pump-9"), settings).await;
    let policy = PolicyName::parse("pumps").expect("a name");
    let text = "[[allow]]\npublish = [\"devices/${device}/events/#\"]\n";
    let set = world.admission.set_policy(&world.registry, &policy, text, &Actor::Admin).await;
    set.expect("set");
    registers(
        &world,
        CertificateRegistration {
            names: "pump-*".to_owned(),
            cas: [drawbridge_admission::fingerprint_hex(&fingerprint)].into(),
            auto: true,
            policy: Some("pumps".to_owned()),
            ..Default::default()
        },
    )
    .await;
    let mut two_names = params(Some("pump-3"), 2027);
    two_names.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 3]), "pump-4");
    let two_names = ca.sign(&two_names, &KeyPair::generate().expect("a key"));
    let expired = ca.sign(&params(Some("pump-5"), 2026), &KeyPair::generate().expect("a key"));
    const NOT: Err = Err("certificate-registration");
    for (case, peer, client_id, wanted) in [
        ("as it should be", ca.leaf("pump-1"), "pump-1", Ok(())),
        ("without client id", ca.leaf("pump-2"), "", Ok(())),
        ("another name", ca.leaf("door-1"), "door-1", NOT),
        ("no name at all", ca.leaf("pump 1/2"), "", NOT),
        ("two common names", two_names, "pump-3", NOT),
        ("another CA of the registry", other.leaf("pump-6"), "pump-6", NOT),
        ("a CA of nobody", TestCa::new().leaf("pump-7"), "pump-7", SHUT),
        ("its time is over", expired, "pump-5", SHUT),
        ("a device that is there, and its record names another", ca.leaf("pump-9"), "pump-9", NOT),
    ] {
        let found = enter(&world, &facts(peer), only(client_id)).await;
        assert_eq!(word(&found), wanted, "{case}");
        if let Ok(session) = found {
            assert_eq!(session.policy.as_ref(), Some(&policy), "{case}");
        }
    }
    let known = world.admission.list(&world.registry, None, None, 99).await.expect("listed");
    let names: Vec<&str> = known.iter().map(|known| known.principal.name.as_str()).collect();
    assert_eq!(names, ["pump-1", "pump-2", "pump-9"], "who was refused has left nothing");
    // A client id that is not its own registers it, and lets it in only under its own.
    let found = enter(&world, &facts(ca.leaf("pump-10")), only("door-1")).await;
    assert_eq!(word(&found), Err("client-id"));
}

#[tokio::test]
async fn a_stolen_ca_fills_neither_the_registry_nor_the_list_of_those_who_wait() {
    let world = World::new().await;
    let ca = TestCa::new();
    add_ca(&world, &ca).await;
    let rule = |auto, pending_max, hourly_max| CertificateRegistration {
        auto,
        pending_max,
        hourly_max,
        ..Default::default()
    };
    let enter = async |text: &str| word(&enter(&world, &facts(ca.leaf(text)), only("")).await);
    registers(&world, rule(false, 2, 3)).await;
    assert_eq!((enter("a").await, enter("b").await), (Err("pending"), Err("pending")));
    assert_eq!(enter("c").await, Err("certificate-registration"), "two wait");
    world.admission.approve(&world.registry, &name("a"), None, &Actor::Admin).await.expect("approved");
    assert_eq!(enter("c").await, Err("pending"), "one waits");
    world.admission.approve(&world.registry, &name("b"), None, &Actor::Admin).await.expect("approved");
    assert_eq!(enter("d").await, Err("certificate-registration"), "three in this hour");
    registers(&world, rule(true, 2, 3)).await;
    assert_eq!(enter("d").await, Err("certificate-registration"), "whoever admits them");
    world.clock.advance_s(3_600);
    assert_eq!(enter("d").await, Ok(()));
    // An operator who ends the enrolment of the CA has ended it for this rule.
    let enrolments = world.admission.enrolments(&world.registry).await.expect("listed");
    for enrolment in &enrolments {
        let ended = world.admission.end_enrolment(&world.registry, &enrolment.id, &Actor::Admin).await;
        ended.map(drop).expect("ended");
    }
    assert_eq!(enter("e").await, Err("certificate-registration"));
    assert_eq!(enter("d").await, Ok(()), "who has come stays");
}

#[tokio::test]
async fn a_rule_with_a_policy_that_is_not_there_is_refused() {
    let world = World::new().await;
    for policy in ["nowhere", "no name"] {
        let rule = CertificateRegistration { policy: Some(policy.to_owned()), ..Default::default() };
        let settings =
            RegistrySettings { certificate_registration: Some(rule), ..RegistrySettings::default() };
        assert!(set_registry(&world, settings).await.is_err(), "{policy}");
    }
}
