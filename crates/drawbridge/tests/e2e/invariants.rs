//! The security invariants that show on the wire of the whole binary. The others are named in the
//! crate that holds them: I1 and I2 also in `bridge`, I3 in `policy`, I4 in `broker`, I8, I9 and I11
//! (which counts signature checks) in `identity` and `admission`.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use drawbridge_device::{
    ApiClient, ClientAssertion, DeviceError, DeviceIdentity, MqttClient, Qos, random_id,
};
use drawbridge_jose::{Algorithm, SigningKey};
use serde_json::json;

use crate::harness::{Core, connect, connect_jwt, connect_with, jwt, now_s, wait_for};

/// What the promise allows, times three: the machine of the tests may be busy.
const ONE_SECOND_X3: Duration = Duration::from_secs(3);

#[test]
fn i1_a_peer_that_says_nothing_is_closed_and_bytes_before_connect_are_bounded() {
    let core = Core::start_with(&["--config", &settings("[bridge]\nconnect_timeout_s = 1\n")]);
    let mut silent = TcpStream::connect(&core.endpoints.mqtts).expect("connects");
    silent.set_read_timeout(Some(Duration::from_secs(10))).expect("timeout");
    let begun = Instant::now();
    assert_eq!(silent.read(&mut [0; 16]).expect("closed in order"), 0, "nothing is said to a silent peer");
    assert!(begun.elapsed() < ONE_SECOND_X3, "closed after {:?}", begun.elapsed());

    // A TLS record that never ends: 64 KiB and no more are taken.
    let mut flood = TcpStream::connect(&core.endpoints.mqtts).expect("connects");
    flood.set_write_timeout(Some(Duration::from_secs(5))).expect("timeout");
    let mut sent = 0_usize;
    let record = [[0x16, 0x03, 0x01, 0x40, 0x00].as_slice(), &[0; 0x4000]].concat();
    while sent < 8 << 20 {
        match flood.write(&record) {
            Ok(n) => sent += n,
            Err(_) => break,
        }
    }
    assert!(sent < 8 << 20, "{sent} bytes of handshake were swallowed");
}

#[test]
fn i2_a_first_packet_that_is_not_connect_closes_the_socket_without_an_answer() {
    let core = Core::start();
    for first in [
        &b"\xc0\x00"[..],
        b"\x30\x05\x00\x01a42",
        b"\x82\x06\x00\x01\x00\x01a\x00",
        b"GET / HTTP/1.1\r\n\r\n",
    ] {
        let mut tls = tls(&core);
        tls.write_all(first).expect("written");
        let mut answer = Vec::new();
        let end = tls.read_to_end(&mut answer);
        assert!(answer.is_empty(), "{first:02x?} was answered with {answer:02x?} ({end:?})");
    }
}

#[test]
fn i5_a_silent_subscriber_is_closed_when_its_token_ends() {
    let core = Core::start_with(&["--config", &settings("[identity]\ntoken_life_s = 3\n")]);
    let sensor = core.device("sensor");
    let api = ApiClient::new(&format!("https://{}", core.endpoints.https), &sensor.ca_pem).expect("client");
    let token = api.token(&sensor.device, &sensor.issuer, None, &sensor.key).expect("admitted");
    let begun = Instant::now();
    assert_eq!(token.expires_in_s, 3);
    let mut client = silent(&sensor, &token.access_token);
    client.subscribe("devices/sensor/commands/#").expect("granted");
    let why = gone(&mut client, Duration::from_secs(10));
    let lived = begun.elapsed();
    assert!(lived >= Duration::from_millis(1500), "closed too early, after {lived:?}: {why}");
    assert!(lived <= Duration::from_secs(3) + ONE_SECOND_X3, "closed after {lived:?}");
    core.wait_for_log(&["sensor", "expired"]);
}

#[test]
fn i6_a_blocked_device_is_out_within_a_second_though_it_is_silent() {
    let core = Core::start();
    let sensor = core.device("sensor");
    let other = core.device("other");
    let mut client = silent(&sensor, &connect_jwt(&sensor, now_s(), 3600));
    client.subscribe("devices/sensor/commands/#").expect("granted");
    let mut bystander = connect(&other);
    core.cli_ok(&["device", "block", "sensor"]);
    let begun = Instant::now();
    gone(&mut client, Duration::from_secs(10));
    assert!(begun.elapsed() <= ONE_SECOND_X3, "closed after {:?}", begun.elapsed());
    let refused = connect_with(&sensor, &connect_jwt(&sensor, now_s(), 3600));
    assert!(matches!(refused, Err(DeviceError::Refused { .. })), "{refused:?}");
    bystander.publish("devices/other/events/x", b"1", Qos::AtLeastOnce, false).expect("others feel nothing");
    core.cli_ok(&["device", "unblock", "sensor"]);
    drop(connect(&sensor));
}

#[test]
fn i6_a_revoked_device_is_out_and_its_tokens_of_before_are_dead() {
    let core = Core::start();
    let sensor = core.device("sensor");
    let api = ApiClient::new(&format!("https://{}", core.endpoints.https), &sensor.ca_pem).expect("client");
    let token = api.token(&sensor.device, &sensor.issuer, None, &sensor.key).expect("admitted").access_token;
    let own = connect_jwt(&sensor, now_s(), 3600);
    let mut client = connect_with(&sensor, &token).expect("admitted");
    core.cli_ok(&["device", "revoke", "sensor"]);
    gone(&mut client, ONE_SECOND_X3);
    for (what, password) in [("access token", &token), ("device JWT", &own)] {
        let refused = connect_with(&sensor, password);
        assert!(matches!(refused, Err(DeviceError::Refused { .. })), "{what}: {refused:?}");
    }
    // Whoever has the key signs anew; a new second begins a new life.
    std::thread::sleep(Duration::from_millis(1100));
    drop(connect(&sensor));
}

#[test]
fn i6_a_removed_key_ends_what_it_opened() {
    let core = Core::start();
    let sensor = core.device("sensor");
    let second = SigningKey::generate(Algorithm::EdDsa).expect("generates");
    let file = core.place().join("second.pem");
    fs::write(&file, second.public_key().to_pem()).expect("write");
    core.cli_ok(&["key", "add", "sensor", &file.to_string_lossy()]);
    let mut client = connect(&sensor);
    core.cli_ok(&["key", "remove", "sensor", sensor.public_key().thumbprint()]);
    gone(&mut client, ONE_SECOND_X3);
    assert!(connect_with(&sensor, &connect_jwt(&sensor, now_s(), 60)).is_err());
    let with_second = DeviceIdentity { key: second, ..sensor };
    drop(connect(&with_second));
}

#[test]
fn i7_an_assertion_is_used_once_also_across_a_kill() {
    let mut core = Core::start_with(&["--issuer", "https://core.example"]);
    let sensor = core.device("sensor");
    let assertion =
        ClientAssertion { device: "sensor", issuer: &sensor.issuer, now_s: now_s(), jti: &random_id() }
            .sign(&sensor.key)
            .expect("signs");
    assert_eq!(present(&core, &sensor, &assertion).expect("an answer"), 200);
    assert_eq!(present(&core, &sensor, &assertion).expect("an answer"), 401);
    core.kill();
    core.run_again();
    assert_eq!(
        present(&core, &sensor, &assertion).expect("an answer"),
        401,
        "the server forgot a jti when it was killed"
    );
}

#[test]
fn i8_a_jwt_is_never_verified_with_a_key_it_carries() {
    let core = Core::start();
    let sensor = core.device("sensor");
    let mallory = SigningKey::generate(Algorithm::Es256).expect("generates");
    let header = drawbridge_jose::Header { typ: Some("JWT"), kid: None, jwk: Some(mallory.public_key()) };
    let claims =
        json!({ "sub": "sensor", "aud": sensor.bridge_audience, "iat": now_s(), "exp": now_s() + 60 });
    let forged =
        drawbridge_jose::sign_compact(&header, claims.to_string().as_bytes(), &mallory).expect("signs");
    assert!(matches!(connect_with(&sensor, &forged), Err(DeviceError::Refused { .. })));
    core.wait_for_log(&["header"]);
}

#[test]
fn i9_every_kind_of_jwt_is_refused_where_another_is_wanted() {
    let core = Core::start();
    let sensor = core.device("sensor");
    let now = now_s();
    let assertion =
        ClientAssertion { device: "sensor", issuer: &sensor.issuer, now_s: now, jti: &random_id() }
            .sign(&sensor.key)
            .expect("signs");
    let own = connect_jwt(&sensor, now, 60);
    let api = ApiClient::new(&format!("https://{}", core.endpoints.https), &sensor.ca_pem).expect("client");
    let token = api.token("sensor", &sensor.issuer, None, &sensor.key).expect("admitted").access_token;
    assert!(connect_with(&sensor, &assertion).is_err(), "a client assertion opened a session");
    for (what, wrong) in [("CONNECT JWT", &own), ("access token", &token)] {
        assert_eq!(
            present(&core, &sensor, wrong).expect("an answer"),
            401,
            "a {what} was taken as client assertion"
        );
    }
    for (what, wrong) in [("CONNECT JWT", &own), ("client assertion", &assertion)] {
        let answer = api.send("GET", "/v1/self", Some(wrong), None).expect("an answer");
        assert_eq!(answer.status, 401, "a {what} was taken as access token");
    }
    let admin = fs::read_to_string(core.data().join("admin-token")).expect("admin-token");
    assert!(connect_with(&sensor, admin.trim()).is_err(), "the admin credential opened a session");
}

#[test]
fn i10_no_token_key_or_credential_is_in_any_log() {
    let core = Core::start();
    let sensor = core.device("sensor");
    let own = connect_jwt(&sensor, now_s(), 60);
    drop(connect_with(&sensor, &own).expect("admitted"));
    let late = jwt(Some("JWT"), &json!({ "sub": "sensor", "aud": "x", "iat": 1, "exp": 2 }), &sensor.key);
    assert!(connect_with(&sensor, &late).is_err());
    assert!(connect_with(&sensor, "a-password-nobody-set").is_err());
    let api = ApiClient::new(&format!("https://{}", core.endpoints.https), &sensor.ca_pem).expect("client");
    let token = api.token("sensor", &sensor.issuer, None, &sensor.key).expect("admitted").access_token;
    assert!(api.send("GET", "/v1/devices", Some(&token), None).expect("an answer").status >= 400);
    core.wait_for_log(&["sensor"]);
    let admin = fs::read_to_string(core.data().join("admin-token")).expect("admin-token").trim().to_owned();
    let log = core.log();
    assert!(!log.is_empty());
    let signature = |token: &str| token.rsplit('.').next().expect("a segment").to_owned();
    let secrets = [
        ("device JWT", signature(&own)),
        ("refused JWT", signature(&late)),
        ("access token", signature(&token)),
        ("admin credential", admin),
        ("password", "a-password-nobody-set".to_owned()),
        ("private key", "PRIVATE KEY".to_owned()),
    ];
    for (what, secret) in secrets {
        assert!(!log.contains(&secret), "the log has a {what}");
    }
}

#[test]
fn i11_unknown_device_wrong_key_and_blocked_device_are_told_the_same() {
    let core = Core::start();
    let sensor = core.device("sensor");
    let blocked = core.device("blocked");
    core.cli_ok(&["device", "block", "blocked"]);
    let stranger = SigningKey::generate(Algorithm::Es256).expect("generates");
    let mut told = Vec::new();
    for name in ["nobody", "sensor", "blocked"] {
        let claims =
            json!({ "sub": name, "aud": sensor.bridge_audience, "iat": now_s(), "exp": now_s() + 60 });
        let mut options = sensor.mqtt_options().expect("signs");
        options.client_id = name.to_owned();
        options.password = jwt(Some("JWT"), &claims, &stranger).into_bytes();
        let mqtt = MqttClient::connect(&options).expect_err("refused").to_string();
        let claims = json!({
            "iss": name, "sub": name, "aud": sensor.issuer, "exp": now_s() + 60, "jti": random_id(),
        });
        let assertion = jwt(Some("client-authentication+jwt"), &claims, &stranger);
        let answer = token_request(&core, &sensor, &assertion);
        told.push((mqtt, answer.status, answer.text));
    }
    assert_eq!(told[0], told[1], "unknown device against wrong key");
    assert_eq!(told[1], told[2], "wrong key against blocked device");
    assert!(connect_with(&blocked, &connect_jwt(&blocked, now_s(), 60)).is_err());
}

#[test]
fn i14_no_default_credential_exists() {
    let [first, second] = [Core::start(), Core::start()];
    let token = |core: &Core| fs::read_to_string(core.data().join("admin-token")).expect("admin-token");
    assert_ne!(token(&first), token(&second));
    assert!(token(&first).starts_with("dba_"));
    let key = |core: &Core| fs::read(core.data().join("ca-key.pem")).expect("ca-key.pem");
    assert_ne!(key(&first), key(&second));
    for file in ["admin-token", "ca-key.pem", "server-key.pem", "registry.sqlite"] {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(first.data().join(file)).expect(file).permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{file}");
    }
    let sensor = first.device("sensor");
    for (user, password) in [("admin", "admin"), ("admin", "public"), ("guest", "guest"), ("", "")] {
        let mut options = sensor.mqtt_options().expect("signs");
        options.username = Some(user.to_owned());
        options.password = password.as_bytes().to_vec();
        options.client_id = "x".to_owned();
        assert!(MqttClient::connect(&options).is_err(), "{user}/{password} was let in");
    }
    let api = ApiClient::new(&format!("https://{}", first.endpoints.https), &sensor.ca_pem).expect("client");
    for bearer in [None, Some("admin"), Some(token(&second).trim())] {
        assert_eq!(api.send("GET", "/v1/devices", bearer, None).expect("an answer").status, 401);
    }
}

/// A settings file of a test; it lives as long as the process.
pub(crate) fn settings(text: &str) -> String {
    let file = tempfile::Builder::new().suffix(".toml").tempfile().expect("file");
    fs::write(file.path(), text).expect("write");
    let (_, path) = file.keep().expect("kept");
    path.to_string_lossy().into_owned()
}

/// A client that never says anything by itself: keep alive 0.
fn silent(identity: &DeviceIdentity, password: &str) -> MqttClient {
    let mut options = identity.mqtt_options().expect("signs");
    options.password = password.as_bytes().to_vec();
    options.keep_alive_s = 0;
    MqttClient::connect(&options).expect("admitted")
}

/// Waits until the server closes; answers what it said.
fn gone(client: &mut MqttClient, limit: Duration) -> String {
    wait_for("end of the session", limit, || {
        client.receive(Duration::from_millis(50)).err().map(|e| e.to_string())
    })
}

fn token_request(core: &Core, identity: &DeviceIdentity, assertion: &str) -> drawbridge_device::ApiAnswer {
    try_token_request(core, identity, assertion).expect("an answer")
}

fn try_token_request(
    core: &Core,
    identity: &DeviceIdentity,
    assertion: &str,
) -> Result<drawbridge_device::ApiAnswer, DeviceError> {
    let api = ApiClient::new(&format!("https://{}", core.endpoints.https), &identity.ca_pem).expect("client");
    let form = format!(
        "grant_type=client_credentials&client_assertion_type=urn:ietf:params:oauth:client-assertion-type:jwt-bearer&client_assertion={assertion}"
    );
    api.send("POST", "/oauth/token", None, Some(("application/x-www-form-urlencoded", form.as_bytes())))
}

/// Presents a client assertion; answers the status, or that there was no answer.
pub(crate) fn present(core: &Core, identity: &DeviceIdentity, assertion: &str) -> Result<u16, DeviceError> {
    try_token_request(core, identity, assertion).map(|answer| answer.status)
}

/// A bare TLS connection to the MQTT port.
pub(crate) fn tls(core: &Core) -> rustls::StreamOwned<rustls::ClientConnection, TcpStream> {
    use rustls_pki_types::pem::PemObject;
    let mut roots = rustls::RootCertStore::empty();
    let pem = fs::read(core.data().join("ca.pem")).expect("ca.pem");
    roots.add(rustls_pki_types::CertificateDer::from_pem_slice(&pem).expect("PEM")).expect("a root");
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = "localhost".try_into().expect("a name");
    let connection = rustls::ClientConnection::new(std::sync::Arc::new(config), name).expect("client");
    let socket = TcpStream::connect(&core.endpoints.mqtts).expect("connects");
    socket.set_read_timeout(Some(Duration::from_secs(15))).expect("timeout");
    rustls::StreamOwned::new(connection, socket)
}
