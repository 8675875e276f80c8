//! Sessions that a certificate of the handshake has opened, and what ends them.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use drawbridge_admission::{Actor, Ways};
use drawbridge_bridge::{Listener, ListenerKind, server_tls_asking};
use drawbridge_testkit::TestDevice;
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::client::{Client, End, Level, PINGREQ};
use crate::rig::{Rig, registry, rig};

/// A machine that is busy with other tests may be slower than the promise; so much is let pass.
const BOUND: Duration = Duration::from_secs(3);
const VERSIONS: [&rustls::SupportedProtocolVersion; 2] = [&rustls::version::TLS12, &rustls::version::TLS13];

/// A listener that asks for certificates, beside those of the rig.
struct Asking {
    rig: Rig,
    address: SocketAddr,
    root: CertificateDer<'static>,
}

fn asking() -> Asking {
    let key = KeyPair::generate().expect("a key");
    let root = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    let root = root.self_signed(&key).expect("signed").der().clone();
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("PKCS#8");
    let tls = server_tls_asking(vec![root.clone()], key).expect("TLS");
    let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = socket.local_addr().expect("bound");
    let rig = rig(|config| {
        let kind = ListenerKind::Tls(tls);
        config.listeners.push(Listener { socket, kind, registry: None, ways: Ways::ALL });
    });
    Asking { rig, address, root }
}

impl Asking {
    /// With a certificate, or without one.
    fn client(
        &self,
        version: &'static rustls::SupportedProtocolVersion,
        level: Level,
        certificate: Option<(Vec<u8>, &KeyPair)>,
    ) -> Client {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).expect("a certificate");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .expect("a version that exists")
            .with_root_certificates(roots);
        let config = match certificate {
            None => config.with_no_client_auth(),
            Some((der, key)) => {
                let key = PrivateKeyDer::try_from(key.serialize_der()).expect("PKCS#8");
                config.with_client_auth_cert(vec![CertificateDer::from(der)], key).expect("a key that fits")
            }
        };
        Client::tls(self.address, level, &Arc::new(config))
    }
}

fn params(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params
}

fn pair(device: &TestDevice) -> KeyPair {
    KeyPair::try_from(device.key.to_pkcs8_der().as_slice()).expect("a key")
}

/// Out within the bound; who has nothing to do with it stays.
fn ends(what: &str, mut client: Client, bystander: &mut Client) {
    let began = Instant::now();
    let (_, end) = client.until_end();
    assert!(began.elapsed() < BOUND, "{what}: out after {:?}", began.elapsed());
    assert_eq!(end, End::Orderly, "{what}");
    bystander.send(&PINGREQ);
    assert_eq!(bystander.packet().expect("PINGRESP"), (0xd0, Vec::new()), "{what}");
}

#[test]
fn i6_a_revoked_key_ends_the_session_that_its_certificate_opened() {
    let asking = asking();
    let rig = &asking.rig;
    let other = rig.device("other");
    let mut bystander = rig.enter(&other, Level::V5);
    for (number, (version, level)) in
        VERSIONS.into_iter().flat_map(|version| [(version, Level::V311), (version, Level::V5)]).enumerate()
    {
        let lamp = rig.device(&format!("lamp-{number}"));
        let key = pair(&lamp);
        let der = params("any").self_signed(&key).expect("signed").der().to_vec();
        let client = asking.client(version, level, Some((der.clone(), &key)));
        let client = client.enter(lamp.name.as_str(), None, None);
        let (registry, kid) = (registry(), lamp.kid());
        let removed = rig.admission.remove_key(&registry, &lamp.name, &kid, true, &Actor::Admin);
        rig.runtime.block_on(removed).expect("removed");
        ends(&format!("{version:?}"), client, &mut bystander);
        let mut again = asking.client(version, Level::V5, Some((der, &key)));
        assert_eq!(again.connect(lamp.name.as_str(), None, None).get(1), Some(&0x87), "{version:?}");
    }
}

#[test]
fn i6_a_removed_ca_a_block_and_a_closed_way_end_the_sessions_that_the_ca_let_in() {
    let asking = asking();
    let rig = &asking.rig;
    let ca_key = KeyPair::generate().expect("a key");
    let mut ca = params("plant");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_der = ca.self_signed(&ca_key).expect("signed").der().to_vec();
    let issuer = Issuer::new(ca, ca_key);
    let registry = registry();
    let added = rig.admission.add_ca(&registry, ca_der, None, &Actor::Admin);
    let fingerprint = rig.runtime.block_on(added).expect("registered").0.fingerprint;
    let (lamp, door, gate) = (rig.device("lamp"), rig.device("door"), rig.device("gate"));
    // The key of the third is registered: no CA has let it in, although one vouches for it.
    let enter = |device: &TestDevice, key: &KeyPair, version, level| {
        let der = params(device.name.as_str()).signed_by(key, &issuer).expect("signed").der().to_vec();
        asking.client(version, level, Some((der, key))).enter(device.name.as_str(), None, None)
    };
    let keys = [(); 3].map(|()| KeyPair::generate().expect("a key"));
    let mut bystander = enter(&gate, &pair(&gate), VERSIONS[1], Level::V5);
    let blocked = enter(&door, &keys[0], VERSIONS[1], Level::V5);
    let block = rig.admission.block(&registry, &door.name, None, &Actor::Admin);
    rig.runtime.block_on(block).expect("blocked");
    ends("blocked", blocked, &mut bystander);

    let closed = enter(&lamp, &keys[1], VERSIONS[0], Level::V311);
    let settings = drawbridge_registry::PrincipalSettings {
        ways: Some(["device-jwt".to_owned()].into()),
        ..Default::default()
    };
    let set = rig.admission.set_settings(&registry, &lamp.name, settings, None, &Actor::Admin);
    rig.runtime.block_on(set).expect("set");
    ends("its way is closed", closed, &mut bystander);
    let set = rig.admission.set_settings(&registry, &lamp.name, Default::default(), None, &Actor::Admin);
    rig.runtime.block_on(set).expect("set");

    for (version, level) in [(VERSIONS[0], Level::V311), (VERSIONS[1], Level::V5)] {
        let added = rig.admission.cas(&registry);
        let there = rig.runtime.block_on(added).expect("listed");
        let ca = there.first().map(|(ca, _)| ca.der.clone());
        let client = enter(&lamp, &keys[2], version, level);
        let removed = rig.admission.remove_ca(&registry, &fingerprint, &Actor::Admin);
        assert!(rig.runtime.block_on(removed).expect("removed"));
        ends("its CA is removed", client, &mut bystander);
        let added = rig.admission.add_ca(&registry, ca.expect("one"), None, &Actor::Admin);
        rig.runtime.block_on(added).expect("registered");
    }
}
