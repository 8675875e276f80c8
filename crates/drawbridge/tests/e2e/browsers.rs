//! MQTT over WebSocket from a browser, which shows whatever client certificate it has.

use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore};

use crate::ace::{CONNACK, Came, Link, NOT_AUTHORIZED, connect_4, connect_5, method};
use crate::harness::{Core, connect_jwt, now_s};

/// A client with a certificate that this server knows nothing of.
fn with_a_certificate_of_elsewhere(core: &Core) -> Arc<ClientConfig> {
    let key = KeyPair::generate().expect("a key");
    let leaf = CertificateParams::new(vec!["bank.example".to_owned()]).expect("a name");
    let leaf = leaf.self_signed(&key).expect("signed").der().clone();
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("PKCS#8");
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(core.data().join("ca.pem")).expect("the root")).expect("a root");
    let builder =
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    let builder = builder.with_protocol_versions(&[&TLS13]).expect("a version").with_root_certificates(roots);
    Arc::new(builder.with_client_auth_cert(vec![leaf], key).expect("a certificate"))
}

/// Changes to WebSocket, and answers what a CONNECT is answered.
fn over_web_socket(core: &Core, connect: &[u8]) -> Came {
    let mut link = Link::open_at(&core.endpoints.wss, &with_a_certificate_of_elsewhere(core));
    let request = format!(
        "GET /mqtt HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: mqtt\r\nOrigin: https://{}\r\n\r\n",
        core.endpoints.https.replace("127.0.0.1", "localhost")
    );
    link.send(request.as_bytes());
    let head = link.read_until(b"\r\n\r\n");
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    // One binary frame, masked by zeros.
    let length = u16::try_from(connect.len()).expect("short").to_be_bytes();
    link.send(&[&[0x82, 0x80 | 126], &length[..], &[0; 4], connect].concat());
    let head = link.read_exactly(2);
    assert!(head[0] == 0x82 && head[1] < 126, "a short binary frame: {head:02x?}");
    link.next()
}

#[test]
fn over_websocket_a_certificate_is_not_looked_at_unless_that_is_asked_for_by_name() {
    let place = tempfile::tempdir().expect("a folder");
    let file = place.path().join("settings.toml");
    let settings = "[listener.https]\nways = [\"device-jwt\", \"token-method\", \"certificate\"]\n";
    std::fs::write(&file, settings).expect("written");
    let asking = Core::start_with(&["--config", &file.to_string_lossy()]);
    for (core, good, code_4, code_5) in [(Core::start(), true, 0, 0), (asking, false, 5, NOT_AUTHORIZED)] {
        let lamp = core.device("lamp");
        let jwt = || connect_jwt(&lamp, now_s(), 600);
        let came = over_web_socket(&core, &connect_4("lamp", "unused", jwt().as_bytes(), None));
        assert_eq!(came.reason(), (CONNACK, code_4), "3.1.1, {good}");
        let by_method = connect_5("lamp", &method(b"OAUTH2-JWT", Some(jwt().as_bytes())), None);
        assert_eq!(over_web_socket(&core, &by_method).reason(), (CONNACK, code_5), "MQTT 5, {good}");
        assert_eq!(core.log().contains("DB-1007"), !good, "{}", core.log());
    }
}
