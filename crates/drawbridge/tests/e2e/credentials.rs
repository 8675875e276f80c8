//! Client certificates, passwords and secrets, used by programs that no one here wrote.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::harness::{Core, DRAWBRIDGE, version_of};

const PASSWORD: &str = "correct horse battery";

/// The command line with a password on standard input.
fn with_password(core: &Core, words: &[&str]) -> Output {
    let mut child = Command::new(DRAWBRIDGE)
        .arg("--data")
        .arg(core.data())
        .args(words)
        .current_dir(core.place())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command line runs");
    writeln!(child.stdin.take().expect("a pipe"), "{PASSWORD}").expect("read");
    child.wait_with_output().expect("it ends")
}

/// A file with these settings, read once at the start.
fn settings(text: &str) -> String {
    let file = tempfile::Builder::new().suffix(".toml").tempfile().expect("a file");
    std::fs::write(file.path(), text).expect("written");
    file.into_temp_path().keep().expect("kept").to_string_lossy().into_owned()
}

fn openssl(core: &Core, words: &[&str]) {
    let output = Command::new("openssl").args(words).current_dir(core.place()).output().expect("openssl");
    assert!(output.status.success(), "openssl {words:?}: {output:?}");
}

/// Status and JSON of a request to a path.
fn curl(core: &Core, path: &str, words: &[&str]) -> (String, Value) {
    let output = Command::new("curl")
        .args(["-sS", "--max-time", "20", "-w", "\n%{http_code}", "--cacert"])
        .arg(core.data().join("ca.pem"))
        .arg(format!("https://{}{path}", core.endpoints.https))
        .args(words)
        .current_dir(core.place())
        .output()
        .expect("curl");
    assert!(output.status.success(), "{words:?}: {output:?}");
    let text = String::from_utf8(output.stdout).expect("text");
    let (body, status) = text.rsplit_once('\n').expect("a status line");
    (status.to_owned(), serde_json::from_str(body).unwrap_or(Value::Null))
}

const GRANT: [&str; 2] = ["-d", "grant_type=client_credentials"];

fn mosquitto_pub(core: &Core, user: &str, password: &str, topic: &str) -> bool {
    let (host, port) = core.endpoints.mqtts.rsplit_once(':').expect("an address");
    let status = Command::new("mosquitto_pub")
        .args(["-h", host, "-p", port, "-V", "mqttv5", "-q", "1", "-m", "1", "-t", topic])
        .args(["-u", user, "-P", password, "-i", user, "--cafile"])
        .arg(core.data().join("ca.pem"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.expect("mosquitto_pub").success()
}

#[test]
fn curl_logs_in_with_a_certificate_of_openssl_and_its_token_is_worth_nothing_without() {
    version_of("curl", "--version");
    version_of("openssl", "version");
    // In TLS 1.2 a certificate is asked for where the settings say so alone.
    let core =
        Core::start_with(&["--config", &settings("[listener.https]\ntls12_client_certificates = true\n")]);
    for (name, tls) in [("lamp", "--tlsv1.3"), ("door", "--tls-max=1.2")] {
        let (key, certificate, public) =
            (format!("{name}.key"), format!("{name}.crt"), format!("{name}.pub"));
        openssl(&core, &["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", &key]);
        openssl(
            &core,
            &["req", "-x509", "-new", "-key", &key, "-subj", "/CN=x", "-days", "1", "-out", &certificate],
        );
        openssl(&core, &["ec", "-in", &key, "-pubout", "-out", &public]);
        core.cli_ok(&["device", "add", name, "--key", &public]);
        // The option of curl has its value apart.
        let tls: Vec<&str> = tls.split('=').collect();
        let by_certificate = [&tls[..], &["--cert", &certificate, "--key", &key]].concat();
        let client_id = format!("client_id={name}");
        let login = [&by_certificate[..], &GRANT, &["-d", &client_id]].concat();
        let (status, answer) = curl(&core, "/oauth/token", &login);
        assert_eq!(status, "200", "{name}: {answer}");
        let bearer = format!("Authorization: Bearer {}", answer["access_token"].as_str().expect("a token"));
        let own = [&by_certificate[..], &["-H", &bearer]].concat();
        assert_eq!(curl(&core, "/v1/self", &own).0, "200", "{name}");
        let (status, answer) = curl(&core, "/v1/self", &["-H", &bearer]);
        assert_eq!((status.as_str(), answer["code"].as_str()), ("401", Some("DB-1035")), "{answer}");
        assert_eq!(curl(&core, "/oauth/token", &[&GRANT[..], &["-d", &client_id]].concat()).0, "401");
    }
    let lamp = ["--cert", "lamp.crt", "--key", "lamp.key"];
    let as_door = [&lamp[..], &GRANT, &["-d", "client_id=door"]].concat();
    assert_eq!(curl(&core, "/oauth/token", &as_door).0, "401");
}

#[test]
fn a_certificate_is_not_asked_for_where_the_settings_say_so() {
    let place = tempfile::tempdir().expect("temporary folder");
    let file = place.path().join("settings.toml");
    std::fs::write(&file, "[http]\nclient_certificates = false\n").expect("write");
    let core = Core::start_with(&["--config", &file.to_string_lossy()]);
    let handshake = |core: &Core| {
        let output = Command::new("openssl")
            .args(["s_client", "-connect", &core.endpoints.https, "-state"])
            .stdin(Stdio::null())
            .output()
            .expect("openssl");
        let text = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&text).contains("read server certificate request")
    };
    assert!(!handshake(&core));
    let (_, metadata) = curl(&core, "/.well-known/oauth-authorization-server", &[]);
    assert_eq!(metadata["tls_client_certificate_bound_access_tokens"], false);
    assert!(handshake(&Core::start()), "by default it is");
}

#[test]
fn passwords_and_secrets_log_in_by_curl_and_mosquitto_until_they_are_changed() {
    version_of("mosquitto_pub", "--help");
    // Over MQTT passwords have to be asked for.
    let core = Core::start_with(&["--config", &settings("[listener.mqtts]\nways = [\"password\"]\n")]);
    let added = with_password(&core, &["device", "add", "lamp", "--password-stdin"]);
    assert!(added.status.success(), "{added:?}");
    assert!(String::from_utf8_lossy(&added.stdout).contains("registered with a password"), "{added:?}");
    let topic = "devices/lamp/events/x";
    assert!(mosquitto_pub(&core, "lamp", PASSWORD, topic));
    assert!(!mosquitto_pub(&core, "lamp", "a wrong password", topic));
    assert!(!mosquitto_pub(&core, "ghost", PASSWORD, topic));
    let basic = |id: &str, secret: &str| {
        // curl does not form-encode what it sends; nothing here needs it but the space.
        let user = format!("{id}:{}", secret.replace(' ', "+"));
        curl(&core, "/oauth/token", &[&["-u", &user], &GRANT[..]].concat()).0
    };
    assert_eq!(basic("lamp", PASSWORD), "200");
    assert_eq!(basic("lamp", "a wrong password"), "401");

    let policy = core.place().join("all.toml");
    std::fs::write(&policy, "[[allow]]\npublish = [\"#\"]\n").expect("write");
    core.cli_ok(&["policy", "set", "all", "all.toml"]);
    core.cli_ok(&["app", "add", "backend", "--policy", "all", "--out", "ids/backend"]);
    let secret = || {
        let text = core.cli_ok(&["app", "secret", "backend"]);
        text.lines().next().expect("a line").to_owned()
    };
    let (first, second) = (secret(), secret());
    assert!(first.starts_with("dbs_") && first != second, "{first}");
    assert_eq!((basic("backend", &first).as_str(), basic("backend", &second).as_str()), ("401", "200"));
    assert!(mosquitto_pub(&core, "backend", &second, topic));
    assert!(!mosquitto_pub(&core, "backend", &first, topic));

    let set = with_password(&core, &["app", "password", "backend"]);
    assert!(set.status.success(), "{set:?}");
    assert_eq!((basic("backend", &second).as_str(), basic("backend", PASSWORD).as_str()), ("401", "200"));
    core.cli_ok(&["device", "password", "lamp", "--remove"]);
    assert!(!mosquitto_pub(&core, "lamp", PASSWORD, topic));
    assert_eq!(core.cli(&["device", "password", "lamp", "--remove"]).status.code(), Some(4));

    // A password that cannot be set leaves nothing behind.
    let refused = core.cli(&["device", "add", "door", "--password-stdin"]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert_eq!(core.cli(&["device", "show", "door"]).status.code(), Some(4));
    let log = core.log();
    for hidden in [PASSWORD, &first[..], &second[..]] {
        assert!(!log.contains(hidden), "the log has a secret");
    }
}
