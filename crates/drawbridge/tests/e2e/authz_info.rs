//! A token that is published to `authz-info` before its client comes with the key in TLS (RFC 9431 section 2.2.2 and
//! appendix A), over real sockets.

use std::net::TcpListener;
use std::sync::Arc;

use drawbridge_jose::{Algorithm, SigningKey};
use rcgen::{CertificateParams, KeyPair};
use rustls::client::AlwaysResolvesClientRawPublicKeys;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature_with_raw_key};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use serde_json::json;

use crate::ace::{
    CONNACK, Came, DISCONNECT, Link, NOT_AUTHORIZED, PUBACK, PUBREC, SUBACK, VERSIONS, admitted, config,
    field, fresh, packet, publish, scope, subscribe,
};
use crate::harness::{Core, wait_for};
use crate::pop::Owner;

const UNREADABLE: u8 = 0x99;

/// A server that takes tokens on `authz-info`, at `mqtts` and at a listener with raw keys, whose address is answered.
fn core_with_raw_keys() -> (Core, String) {
    let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port();
    let place = tempfile::tempdir().expect("a folder");
    let file = place.path().join("settings.toml");
    let settings = format!(
        "[listener.mqtts]\nways = [\"authz-info\", \"device-jwt\", \"ace\"]\n\
         [listener.raw]\naddress = \"127.0.0.1:{port}\"\nraw_keys = true\nways = [\"authz-info\"]\n"
    );
    std::fs::write(&file, settings).expect("written");
    (Core::start_with(&["--config", &file.to_string_lossy()]), format!("127.0.0.1:{port}"))
}

/// A CONNECT without any credential.
fn connect(version: u8, client_id: &str) -> Vec<u8> {
    let properties: &[u8] = if version == 5 { &[0] } else { &[] };
    let body = [&field(b"MQTT")[..], &[version, 2, 0, 60], properties, &field(client_id.as_bytes())];
    packet(0x10, &body.concat())
}

/// A token as the payload of a publish.
fn token(version: u8, qos: u8, payload: &[u8]) -> Vec<u8> {
    let id: &[u8] = if qos == 0 { &[] } else { &[0, 9] };
    let properties: &[u8] = if version == 5 { &[0] } else { &[] };
    packet(0x30 | qos << 1, &[&field(b"authz-info")[..], id, properties, payload].concat())
}

fn key_of(key: &SigningKey) -> PrivateKeyDer<'static> {
    PrivatePkcs8KeyDer::from(key.to_pkcs8_der().to_vec()).into()
}

/// The one key that a server must show, as `raw-key.pub.pem` has it.
#[derive(Debug)]
struct Pinned {
    spki: SubjectPublicKeyInfoDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match shown.as_ref() == self.spki.as_ref() {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(Error::General("another key".into())),
        }
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("not in TLS 1.2".into()))
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let spki = SubjectPublicKeyInfoDer::from(shown.as_ref());
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature_with_raw_key(message, &spki, signed, algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// A client of the listener with raw keys.
pub(crate) fn with_raw_key(core: &Core, key: &SigningKey) -> Arc<ClientConfig> {
    let pinned = core.data().join("raw-key.pub.pem");
    let spki = SubjectPublicKeyInfoDer::from_pem_file(pinned).expect("the key to pin");
    let provider = Arc::new(aws_lc_rs::default_provider());
    let key = aws_lc_rs::sign::any_supported_type(&key_of(key)).expect("a key");
    let shown = vec![CertificateDer::from(key.public_key().expect("it has a public half").to_vec())];
    let resolver = AlwaysResolvesClientRawPublicKeys::new(Arc::new(CertifiedKey::new(shown, key)));
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])
        .expect("a version")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned { spki, provider }))
        .with_client_cert_resolver(Arc::new(resolver));
    config.resumption = rustls::client::Resumption::disabled();
    Arc::new(config)
}

/// A client of `mqtts` with a certificate that it has made for its own key.
fn with_certificate(core: &Core, key: &SigningKey) -> Arc<ClientConfig> {
    let pair = KeyPair::try_from(&key_of(key)).expect("a key pair");
    let leaf = CertificateParams::new(vec!["anything".to_owned()]).expect("a name");
    let leaf = leaf.self_signed(&pair).expect("signed").der().clone();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(core.data().join("ca.pem")).expect("the root")).expect("a root");
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_protocol_versions(&[&TLS13]).expect("a version");
    let builder = builder.with_root_certificates(roots);
    Arc::new(builder.with_client_auth_cert(vec![leaf], key_of(key)).expect("a certificate"))
}

#[test]
fn a_token_on_authz_info_is_told_what_became_of_it_in_every_version_and_quality_of_service() {
    let (core, _) = core_with_raw_keys();
    let owner = Owner::register(&core, "lamp", Algorithm::EdDsa);
    let good = owner.token(&core, false, true, json!({})).token;
    let symmetric = owner.token(&core, true, true, json!({})).token;
    let mut forged = good.clone();
    *forged.last_mut().expect("bytes") ^= 1;
    let jwt = owner.token(&core, false, false, json!({})).token;
    for tls in VERSIONS {
        let config = fresh(&config(&core, tls));
        for version in [4, 5] {
            for (case, payload, code) in [
                ("a CWT", &good[..], 0),
                ("a JWT", &jwt[..], 0),
                ("forged", &forged[..], NOT_AUTHORIZED),
                ("with a symmetric key", &symmetric[..], NOT_AUTHORIZED),
                ("no token", b"nonsense", UNREADABLE),
                ("nothing", b"", UNREADABLE),
            ] {
                let case = format!("{case}, MQTT {version}, {tls:?}");
                let told = if version == 5 { code } else { 0 };
                for (qos, kind) in [(1, PUBACK), (2, PUBREC)] {
                    let mut link = Link::open(&core, &config);
                    admitted(&link.ask(&connect(version, "whoever")), &case);
                    let came = link.ask(&token(version, qos, payload));
                    assert_eq!(came.reason(), (kind, told), "{case}");
                    // The connection stands, and the client leaves.
                    if qos == 2 && told == 0 {
                        let came = link.ask(&packet(0x62, &[0, 9]));
                        assert!(matches!(came, Came::Packet(7, _)), "{case}: {came:?} for PUBCOMP");
                    }
                    assert_eq!(link.ask(&[0xe0, 0]), Came::End, "{case}");
                }
                let mut link = Link::open(&core, &config);
                admitted(&link.ask(&connect(version, "whoever")), &case);
                link.send(&token(version, 0, payload));
                if told == 0 {
                    // PINGRESP comes behind whatever there was to say.
                    assert_eq!(link.ask(&[0xc0, 0]), Came::Packet(13, Vec::new()), "{case}");
                } else {
                    assert_eq!(link.next().reason(), (DISCONNECT, told), "{case}");
                    assert_eq!(link.next(), Came::End, "{case}");
                }
            }
        }
    }
    let log = core.log();
    assert!(!log.contains(std::str::from_utf8(&jwt).expect("text")), "a token stands in the log");
}

#[test]
fn who_has_published_a_token_comes_back_with_its_raw_key_or_a_certificate_of_it_and_has_the_rights_of_the_token()
 {
    let (core, raw) = core_with_raw_keys();
    for algorithm in [Algorithm::EdDsa, Algorithm::Es256] {
        let name = format!("lamp-{}", algorithm.name().to_ascii_lowercase());
        let owner = Owner::register(&core, &name, algorithm);
        let grant = scope(&format!(r#"[["devices/{name}/events/#",["pub"]]]"#));
        let held = owner.token(&core, false, algorithm == Algorithm::EdDsa, json!({ "scope": grant }));
        let key = with_raw_key(&core, &owner.key);
        let open = |config: &Arc<ClientConfig>| Link::open_at(&raw, config);
        // Its key alone opens nothing here.
        assert_eq!(open(&key).ask(&connect(5, &name)).reason(), (CONNACK, NOT_AUTHORIZED), "no token yet");
        // Without a key, where the server shows a certificate: rustls takes nobody without one among raw keys.
        let mut link = Link::open(&core, &fresh(&config(&core, &TLS13)));
        admitted(&link.ask(&connect(5, "")), "without a credential");
        assert_eq!(link.ask(&token(5, 1, &held.token)).reason(), (PUBACK, 0));
        link.send(&[0xe0, 0]);
        for version in [4, 5] {
            let mut link = open(&key);
            admitted(&link.ask(&connect(version, &name)), "with the key of the token");
            assert_eq!(
                link.ask(&publish(version, &format!("devices/{name}/events/a"), 1)).reason(),
                (PUBACK, 0)
            );
            // Its policy would allow this, its token does not.
            let came = link.ask(&publish(version, &format!("devices/{name}/state"), 1));
            match version {
                5 => assert_eq!(came.reason(), (PUBACK, NOT_AUTHORIZED)),
                _ => assert_eq!(came, Came::End),
            }
            // Another's client id is no way around.
            let refused = if version == 5 { 0x85 } else { 2 };
            assert_eq!(open(&key).ask(&connect(version, "other")).reason(), (CONNACK, refused));
        }
        // The proof is that of a certificate of this key, too.
        let mut link = Link::open(&core, &with_certificate(&core, &owner.key));
        admitted(&link.ask(&connect(5, &name)), "with a certificate of the key");
        assert_eq!(
            link.ask(&publish(5, &format!("devices/{name}/state"), 1)).reason(),
            (PUBACK, NOT_AUTHORIZED)
        );
        // Nobody else's key is let in by it.
        let other = SigningKey::generate(algorithm).expect("a key");
        let mut link = open(&with_raw_key(&core, &other));
        assert_eq!(link.ask(&connect(5, &name)).reason(), (CONNACK, NOT_AUTHORIZED), "another key");
        // What is revoked is kept, and believed no more.
        core.cli_ok(&["device", "revoke", &name]);
        assert_eq!(open(&key).ask(&connect(5, &name)).reason(), (CONNACK, NOT_AUTHORIZED), "revoked");
    }
}

#[test]
fn who_has_not_logged_in_can_only_publish_tokens_and_only_where_that_was_asked_for() {
    // By default nobody comes in without a credential.
    let core = Core::start();
    let config_of = |core: &Core| fresh(&config(core, &TLS13));
    let refused = Link::open(&core, &config_of(&core)).ask(&connect(5, "x"));
    assert_eq!(refused.reason(), (CONNACK, NOT_AUTHORIZED));
    let (core, _) = core_with_raw_keys();
    let owner = Owner::register(&core, "lamp", Algorithm::EdDsa);
    let held = owner.token(&core, false, true, json!({}));
    let everything = "[[allow]]\nsubscribe = [\"#\"]\npublish = [\"#\"]\n";
    let mut viewer = crate::harness::connect(&core.application("viewer", everything));
    viewer.subscribe("#").expect("subscribed");
    for version in [4, 5] {
        let open = || {
            let mut link = Link::open(&core, &config_of(&core));
            admitted(&link.ask(&connect(version, "whoever")), "let in");
            link
        };
        for (case, act) in [
            ("a publish", publish(version, "devices/lamp/events/a", 1)),
            ("a subscription", subscribe(version, &["authz-info"])),
            ("another topic of its kind", publish(version, "authz-info/x", 0)),
            ("a renewal", publish(version, "$drawbridge/auth", 1)),
        ] {
            let came = open().ask(&act);
            match version {
                5 => assert_eq!(came.reason(), (DISCONNECT, NOT_AUTHORIZED), "{case}"),
                _ => assert_eq!(came, Came::End, "{case}"),
            }
            assert!(!matches!(came, Came::Packet(SUBACK, _)), "{case}");
        }
        assert_eq!(open().ask(&token(version, 1, &held.token)).reason(), (PUBACK, 0));
    }
    // Not even who may hear everything hears of a token; what was said after it comes first.
    viewer.publish("marker", b"x", drawbridge_device::Qos::AtLeastOnce, false).expect("published");
    let first = viewer.receive(std::time::Duration::from_secs(20)).expect("a connection").expect("a message");
    assert_eq!(first.topic, "marker");
    // And who has logged in publishes none there.
    let denied = viewer.publish("authz-info", &held.token, drawbridge_device::Qos::AtLeastOnce, false);
    assert!(denied.is_err(), "{denied:?}");
    wait_for("the refusals are counted", std::time::Duration::from_secs(10), || {
        core.log().contains("DB-2048").then_some(())
    });
}
