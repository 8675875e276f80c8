//! Listeners of the settings, TLS of fleets, and certificates that change: with OpenSSL, GnuTLS, curl, Mosquitto's clients
//! and the SDK of AWS IoT.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};

use crate::harness::{
    Core, connect, connect_jwt, in_a_network_of_its_own, now_s, run_python, signal, version_of, wait_for,
};

/// A server whose settings end with `more`; `fleet` stands for the port of the listener of that name.
fn core_with(more: &str) -> (Core, String) {
    let place = tempfile::tempdir().expect("a folder");
    let file = place.path().join("settings.toml");
    let fleet = free_port();
    fs::write(&file, more.replace("FLEET", &fleet)).expect("written");
    // Read once, at the start; a server that starts again reads it again.
    let core = Core::start_with(&["--config", &file.to_string_lossy()]);
    (core, format!("127.0.0.1:{fleet}"))
}

/// A port that nobody has. (A listener with port 0 is told to nobody but the log.)
fn free_port() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("bound").port().to_string()
}

/// `openssl s_client`; it stays until a ticket is in `sess_out`, if one is to come.
fn s_client(core: &Core, address: &str, more: &[&str], sess_out: Option<&Path>) -> String {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", address, "-CAfile"]).arg(core.data().join("ca.pem")).args(more);
    if let Some(path) = sess_out {
        command.arg("-sess_out").arg(path);
    }
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl runs");
    match sess_out {
        Some(path) => wait_for("a ticket", Duration::from_secs(10), || {
            fs::metadata(path).is_ok_and(|found| found.len() > 0).then_some(())
        }),
        None => std::thread::sleep(Duration::from_millis(300)),
    }
    drop(child.stdin.take());
    let output = child.wait_with_output().expect("it ends");
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

const MQTT: [&str; 5] = ["-tls1_3", "-servername", "localhost", "-alpn", "mqtt"];

#[test]
fn openssl_resumes_its_session_at_another_server_with_the_same_ticket_secret_and_nowhere_else() {
    version_of("openssl", "version");
    let shared = tempfile::tempdir().expect("a folder");
    let (secret, other) = (shared.path().join("tickets"), shared.path().join("other"));
    fs::write(&secret, format!("{}\n", "5a".repeat(32))).expect("written");
    fs::write(&other, format!("{}\n", "a5".repeat(32))).expect("written");
    let settings = |secret: &Path, life_s: u32| {
        let secret = secret.display();
        format!(
            "[tickets]\nsecret_file = \"{secret}\"\nlife_s = {life_s}\n[listener.fleet]\naddress = \"127.0.0.1:FLEET\"\n"
        )
    };
    let (here, here_fleet) = core_with(&settings(&secret, 86_400));
    let (there, _) = core_with(&settings(&secret, 86_400));
    let (stranger, _) = core_with(&settings(&other, 86_400));
    let ticket = shared.path().join("session");
    let first = s_client(&here, &here.endpoints.mqtts, &MQTT, Some(&ticket));
    assert!(first.contains("New, TLSv1.3") && !first.contains("Max Early Data: 1"), "{first}");
    assert!(first.contains("Max Early Data: 0"), "0-RTT is off: {first}");
    let ticket = ticket.to_string_lossy().into_owned();
    let resume = |core: &Core, address: &str| {
        let text = s_client(core, address, &[&MQTT[..], &["-sess_in", &ticket]].concat(), None);
        assert!(text.contains("New, TLSv1.3") || text.contains("Reused, TLSv1.3"), "{text}");
        text.contains("Reused, TLSv1.3")
    };
    assert!(resume(&here, &here.endpoints.mqtts), "resumed = yes where it began");
    assert!(resume(&there, &there.endpoints.mqtts), "resumed = yes at another process");
    assert!(!resume(&here, &here_fleet), "another listener");
    assert!(!resume(&stranger, &stranger.endpoints.mqtts), "another secret");
    // The secret is exchanged on a running server; the one before still opens.
    let line = |byte: &str| format!("{}\n", byte.repeat(32));
    fs::write(&secret, line("77") + &line("5a")).expect("written");
    signal(there.pid(), "HUP");
    there.wait_for_log(&["read anew"]);
    assert!(resume(&there, &there.endpoints.mqtts), "by the secret before");
    fs::write(&secret, line("77")).expect("written");
    signal(there.pid(), "HUP");
    wait_for("the secret before is gone", Duration::from_secs(10), || {
        (!resume(&there, &there.endpoints.mqtts)).then_some(())
    });
    // A ticket that is over.
    let (brief, _) = core_with(&settings(&other, 2));
    let short = shared.path().join("short");
    s_client(&brief, &brief.endpoints.mqtts, &MQTT, Some(&short));
    let short = short.to_string_lossy().into_owned();
    std::thread::sleep(Duration::from_secs(2));
    let late = s_client(&brief, &brief.endpoints.mqtts, &[&MQTT[..], &["-sess_in", &short]].concat(), None);
    assert!(late.contains("New, TLSv1.3"), "{late}");
}

#[test]
fn tls_1_2_has_no_tickets_and_asks_for_no_certificate_unless_by_name() {
    let asks = "[listener.fleet]\naddress = \"127.0.0.1:FLEET\"\ntls12_client_certificates = true\n";
    let (core, fleet) = core_with(asks);
    let tls12 = ["-tls1_2", "-servername", "localhost"];
    for (address, asked) in [(&core.endpoints.mqtts, false), (&core.endpoints.https, false), (&fleet, true)] {
        let text = s_client(&core, address, &tls12, None);
        assert!(text.contains("Protocol  : TLSv1.2") || text.contains("New, TLSv1.2"), "{text}");
        assert!(!text.contains("TLS session ticket:"), "{address}: {text}");
        assert_eq!(text.contains("Requested Signature Algorithms"), asked, "{address}: {text}");
        assert!(text.contains("Extended master secret: yes"), "{text}");
    }
    let text = s_client(&core, &core.endpoints.mqtts, &MQTT, None);
    assert!(text.contains("Requested Signature Algorithms"), "in TLS 1.3 it is: {text}");
}

const SHARED: &str = "[listener.fleet]\naddress = \"127.0.0.1:FLEET\"\nprotocols = [\"mqtt\", \"websocket\", \"https\"]\n\
                      ways = [\"device-jwt\", \"certificate\"]\n";

fn mosquitto_pub(core: &Core, address: &str, device: &str, more: &[&str]) -> Output {
    let (host, port) = address.rsplit_once(':').expect("host:port");
    Command::new("mosquitto_pub")
        .args([
            "-h",
            host,
            "-p",
            port,
            "-i",
            device,
            "-t",
            &format!("devices/{device}/events/x"),
            "-m",
            "1",
            "-q",
            "1",
        ])
        .arg("--cafile")
        .arg(core.data().join("ca.pem"))
        .args(more)
        .output()
        .expect("mosquitto_pub")
}

/// A self-signed certificate of a device, whose key is registered.
fn certificate_of(core: &Core, device: &str) -> (String, String) {
    let folder = core.place().join(format!("{device}-certificate"));
    fs::create_dir_all(&folder).expect("a folder");
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.distinguished_name.push(rcgen::DnType::CommonName, device);
    let leaf = params.self_signed(&key).expect("signed");
    let (cert_file, key_file) = (folder.join("certificate.pem"), folder.join("key.pem"));
    fs::write(&cert_file, leaf.pem()).expect("written");
    fs::write(&key_file, key.serialize_pem()).expect("written");
    core.cli_ok(&["device", "add", device, "--certificate", &cert_file.to_string_lossy()]);
    (cert_file.to_string_lossy().into_owned(), key_file.to_string_lossy().into_owned())
}

#[test]
fn one_port_serves_mosquitto_by_alpn_and_curl_and_passwords_are_refused_unless_asked_for() {
    version_of("mosquitto_pub", "--version");
    version_of("curl", "--version");
    let (core, fleet) = core_with(SHARED);
    let lamp = core.device("lamp");
    let jwt = || connect_jwt(&lamp, now_s(), 600);
    for version in ["mqttv311", "mqttv5"] {
        let published = mosquitto_pub(
            &core,
            &fleet,
            "lamp",
            &["-V", version, "--tls-alpn", "mqtt", "-u", "unused", "-P", &jwt()],
        );
        assert!(published.status.success(), "{version}: {published:?}");
        // By this name it would have to show a certificate.
        let by_certificate = ["-V", version, "--tls-alpn", "x-amzn-mqtt-ca", "-u", "unused", "-P", &jwt()];
        assert!(!mosquitto_pub(&core, &fleet, "lamp", &by_certificate).status.success());
    }
    let (certificate, key) = certificate_of(&core, "pump");
    for alpn in ["mqtt", "x-amzn-mqtt-ca"] {
        for version in ["mqttv311", "mqttv5"] {
            let shows = ["-V", version, "--tls-alpn", alpn, "--cert", &certificate, "--key", &key];
            let published = mosquitto_pub(&core, &fleet, "pump", &shows);
            assert!(published.status.success(), "{alpn} {version}: {published:?}\n{}", core.log());
        }
    }
    let url = |path: &str| format!("https://{fleet}{path}");
    let curl = |more: &[&str], path: &str| {
        let mut command = Command::new("curl");
        command.args(["-sS", "--max-time", "20", "-o", "/dev/null", "-w", "%{http_code}", "--cacert"]);
        let output =
            command.arg(core.data().join("ca.pem")).args(more).arg(url(path)).output().expect("curl");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    for more in [&[][..], &["--no-alpn"], &["--http1.1"], &["--tlsv1.2", "--tls-max", "1.2"]] {
        assert_eq!(curl(more, "/.well-known/oauth-authorization-server"), "200", "{more:?}");
    }
    assert_eq!(curl(&[], "/mqtt"), "426", "WebSocket is there too");
    // Passwords: refused by default, taken where the listener says so.
    let asked = "[listener.fleet]\naddress = \"127.0.0.1:FLEET\"\nways = [\"password\"]\n";
    let (core, fleet) = core_with(asked);
    let secret = {
        core.cli_ok(&["device", "add", "door", "--out", "ids/door"]);
        let text = core.cli_ok(&["device", "secret", "door"]);
        text.lines().next().expect("a line").to_owned()
    };
    let words = ["-V", "mqttv5", "-u", "door", "-P", &secret];
    assert!(mosquitto_pub(&core, &fleet, "door", &words).status.success());
    assert!(!mosquitto_pub(&core, &core.endpoints.mqtts, "door", &words).status.success());
    core.wait_for_log(&["DB-1091"]);
}

#[test]
fn certificates_are_read_anew_and_a_bad_file_keeps_the_old_one_while_connections_stand() {
    let place = tempfile::tempdir().expect("a folder");
    let (chain, key) = (place.path().join("chain.pem"), place.path().join("key.pem"));
    // RSA first, EC later: OpenSSL makes both.
    let make = |kind: &[&str]| {
        let made = Command::new("openssl")
            .args(["req", "-x509", "-nodes", "-days", "30", "-subj", "/CN=shop", "-addext"])
            .args(["subjectAltName=DNS:shop.example,DNS:*.shop.example", "-newkey"])
            .args(kind)
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&chain)
            .output()
            .expect("openssl");
        assert!(made.status.success(), "{made:?}");
    };
    make(&["rsa:2048"]);
    let settings = format!(
        "[serve]\ncertificate_check_s = 1\n[certificate.shop]\nchain_file = \"{}\"\nkey_file = \"{}\"\n\
         [listener.mqtts]\ncertificates = [\"own\", \"shop\"]\n[listener.https]\ncertificates = [\"own\", \"shop\"]\n",
        chain.display(),
        key.display()
    );
    let (core, _) = core_with(&settings);
    let shown = |address: &str, name: &str| {
        let text = s_client(&core, address, &["-servername", name], None);
        let line = text.lines().find(|line| line.contains("Server public key is")).unwrap_or_default();
        (text.contains("CN = shop"), line.trim().to_owned())
    };
    for address in [&core.endpoints.mqtts, &core.endpoints.https] {
        assert_eq!(shown(address, "a.shop.example"), (true, "Server public key is 2048 bit".to_owned()));
        assert!(!shown(address, "localhost").0, "that is the server's own");
    }
    let lamp = core.device("lamp");
    let mut session = connect(&lamp);
    make(&["ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]);
    core.wait_for_log(&["read anew"]);
    assert_eq!(
        shown(&core.endpoints.mqtts, "shop.example"),
        (true, "Server public key is 256 bit".to_owned())
    );
    // A chain that is broken, and a key that is another's.
    fs::write(&chain, "-----BEGIN CERTIFICATE-----\nAAAA\n").expect("written");
    signal(core.pid(), "HUP");
    core.wait_for_log(&["DB-6026", "DB-6024", "chain.pem"]);
    assert!(shown(&core.endpoints.mqtts, "shop.example").0, "what was shown before stays");
    session
        .publish("devices/lamp/events/x", b"still here", drawbridge_device::Qos::AtLeastOnce, false)
        .expect("the connection stands");
    let refused = core_fails(&settings);
    assert!(refused.contains("DB-6024"), "a server does not start with it: {refused}");
}

/// What a server says that does not start.
fn core_fails(settings: &str) -> String {
    let place = tempfile::tempdir().expect("a folder");
    let file = place.path().join("settings.toml");
    fs::write(&file, settings).expect("written");
    let output = Command::new(crate::harness::DRAWBRIDGE)
        .arg("--data")
        .arg(place.path().join("data"))
        .args(["serve", "--mqtts-port", "0", "--https-port", "0", "--config"])
        .arg(&file)
        .output()
        .expect("it runs");
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn gnutls_proves_raw_public_keys_on_both_sides() {
    version_of("gnutls-cli", "--version");
    let (core, fleet) = core_with("[listener.fleet]\naddress = \"127.0.0.1:FLEET\"\nraw_keys = true\n");
    core.device("lamp");
    let key = core.identity_folder("lamp").join("key.pem");
    let public = core.place().join("lamp.pub.pem");
    let made =
        Command::new("openssl").args(["pkey", "-pubout", "-in"]).arg(&key).arg("-out").arg(&public).output();
    assert!(made.expect("openssl").status.success());
    let (host, port) = fleet.rsplit_once(':').expect("host:port");
    let gnutls = |priority: &str, with_key: bool, input: &[u8]| {
        let mut command = Command::new("gnutls-cli");
        command.args(["--insecure", "--priority", priority, "--port", port, host]);
        if with_key {
            command.arg("--rawpkkeyfile").arg(&key).arg("--rawpkfile").arg(&public);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("gnutls-cli runs");
        let mut stdin = child.stdin.take().expect("a pipe");
        // It may have gone already.
        let _ = stdin.write_all(input);
        std::thread::sleep(Duration::from_millis(1500));
        drop(stdin);
        let output = child.wait_with_output().expect("it ends");
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    };
    let raw = "NORMAL:-VERS-ALL:+VERS-TLS1.3:-CTYPE-ALL:+CTYPE-CLI-RAWPK:+CTYPE-SRV-RAWPK";
    let text = gnutls(raw, true, &[]);
    assert!(text.contains("Handshake was completed"), "{text}\n{}", core.log());
    assert!(text.contains("Raw Public Key") || text.contains("raw public key"), "{text}");
    // The key that it shows is the one that is written for clients to pin.
    let fingerprint = core
        .log()
        .lines()
        .find_map(|line| Some(line.split_once("raw public key    sha256:")?.1.split(' ').next()?.to_owned()));
    let pem = fs::read_to_string(core.data().join("raw-key.pub.pem")).expect("for everybody to read");
    assert!(pem.starts_with("-----BEGIN PUBLIC KEY-----") && fingerprint.is_some_and(|f| f.len() == 64));
    let text = gnutls("NORMAL:-VERS-ALL:+VERS-TLS1.3", false, &[]);
    assert!(!text.contains("Handshake was completed"), "no certificates here: {text}");
    // And none of it where certificates are shown.
    core.wait_for_log(&["DB-2070"]);
}

#[test]
fn the_sdk_of_aws_iot_works_at_the_ports_443_and_8883_that_it_chooses_by_itself() {
    if !in_a_network_of_its_own(
        "fleet::the_sdk_of_aws_iot_works_at_the_ports_443_and_8883_that_it_chooses_by_itself",
    ) {
        return;
    }
    let place = tempfile::tempdir().expect("a folder");
    let file = place.path().join("settings.toml");
    fs::write(&file, SHARED.replace("FLEET", "443")).expect("written");
    let core = Core::start_with(&["--mqtts-port", "8883", "--config", &file.to_string_lossy()]);
    assert_eq!(core.endpoints.mqtts, "127.0.0.1:8883");
    let (certificate, key) = certificate_of(&core, "pump");
    let lamp = core.device("lamp");
    let viewer = core.application("viewer", "[[allow]]\nsubscribe = [\"devices/#\"]\n");
    let ca = core.data().join("ca.pem").to_string_lossy().into_owned();
    for way in ["mtls", "mtls-8883", "authorizer", "websocket"] {
        for version in ["3.1.1", "5"] {
            let device = if way.starts_with("mtls") { "pump" } else { "lamp" };
            let jwt = connect_jwt(&lamp, now_s(), 600);
            let mut listener = connect(&viewer);
            let topic = format!("devices/{device}/events/x");
            listener.subscribe(&topic).expect("subscribed");
            std::thread::scope(|scope| {
                let args = [version, way, &ca, &certificate, &key, device, &jwt];
                let client = scope.spawn(move || run_python("aws_iot.py", &args));
                // It has subscribed to its commands before it publishes.
                let heard = wait_for("a message or the client's end", Duration::from_secs(60), || {
                    let message = listener.receive(Duration::from_millis(100)).expect("a connection");
                    message.map(Some).or_else(|| client.is_finished().then_some(None))
                });
                if let Some(message) = heard {
                    assert_eq!((message.topic, message.payload), (topic, b"1".to_vec()));
                    // Below a subfolder: the SDK hands out nothing for `a/#` that comes on `a`. It may leave before it has
                    // acknowledged it.
                    core.cli(&["command", "send", device, "on", "--subfolder", "light"]);
                }
                let text = client.join().expect("no panic");
                assert!(text.contains("heard a command, left"), "{way} {version}: {text}\n{}", core.log());
            });
        }
    }
}
