//! The token endpoint, driven by curl and by a stock OAuth client library.

use std::process::Command;

use drawbridge_device::{ClientAssertion, random_id};
use serde_json::Value;

use crate::harness::{Core, connect_with, now_s, run_python, version_of};

#[test]
fn curl_gets_an_access_token_that_opens_the_bridge() {
    version_of("curl", "--version");
    let core = Core::start();
    let sensor = core.device("sensor");
    let assertion =
        ClientAssertion { device: &sensor.device, issuer: &sensor.issuer, now_s: now_s(), jti: &random_id() }
            .sign(&sensor.key)
            .expect("signs");
    let ask = || {
        let output = Command::new("curl")
            .args(["-sS", "--max-time", "20", "-w", "\n%{http_code}", "--cacert"])
            .arg(core.data().join("ca.pem"))
            .arg(format!("https://{}/oauth/token", core.endpoints.https))
            .args(["-d", "grant_type=client_credentials", "-d"])
            .arg("client_assertion_type=urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
            .args(["-d", &format!("client_assertion={assertion}")])
            .output()
            .expect("curl");
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).expect("text");
        let (body, status) = text.rsplit_once('\n').expect("a status line");
        (status.to_owned(), serde_json::from_str::<Value>(body).expect("JSON"))
    };
    let (status, answer) = ask();
    assert_eq!(status, "200", "{answer}");
    assert_eq!(answer["token_type"], "Bearer");
    let token = answer["access_token"].as_str().expect("a token");
    let mut client = connect_with(&sensor, token).expect("the token opens a session");
    client
        .publish("devices/sensor/events/x", b"1", drawbridge_device::Qos::AtLeastOnce, false)
        .expect("and publishes");

    let (status, answer) = ask();
    assert_eq!((status.as_str(), answer["error"].as_str()), ("401", Some("invalid_client")), "{answer}");
}

#[test]
fn a_stock_oauth_client_library_logs_in_and_verifies_the_token_from_the_published_keys() {
    let core = Core::start();
    let sensor = core.device("sensor");
    let folder = core.identity_folder("sensor");
    let text = run_python("oauth_login.py", &[&folder.to_string_lossy(), &core.endpoints.https]);
    assert!(text.contains("6 checks passed"), "{text}");
    assert_eq!(sensor.device, "sensor");
}

#[test]
fn every_published_url_stands_under_the_stored_issuer_whatever_host_is_asked() {
    let core = Core::start_with(&["--name", "core.example", "--issuer", "https://core.example:9443"]);
    let output = Command::new("curl")
        .args(["-sS", "--max-time", "20", "-H", "Host: evil.example", "--cacert"])
        .arg(core.data().join("ca.pem"))
        .arg(format!("https://{}/.well-known/oauth-authorization-server", core.endpoints.https))
        .output()
        .expect("curl");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(metadata["issuer"], "https://core.example:9443");
    for (name, value) in metadata.as_object().expect("an object") {
        if let Some(url) = value.as_str().filter(|_| name.ends_with("_endpoint") || name == "jwks_uri") {
            assert!(url.starts_with("https://core.example:9443/"), "{name}: {url}");
        }
    }
}
