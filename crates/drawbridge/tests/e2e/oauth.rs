//! The token endpoint, driven by curl and by a stock OAuth client library.

use std::process::Command;

use drawbridge_device::{ClientAssertion, DeviceIdentity, random_id};
use oauth2::basic::{BasicClient, BasicErrorResponseType, BasicTokenType};
use oauth2::{
    AccessToken, ClientId, ClientSecret, EndpointNotSet, EndpointSet, IntrospectionUrl, RequestTokenError,
    RevocationUrl, StandardRevocableToken, TokenIntrospectionResponse as _, TokenResponse as _, TokenUrl,
};
use serde_json::Value;

use crate::harness::{Core, connect_with, now_s, run_python, version_of};
use crate::wire::Wire;

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

type Client = BasicClient<EndpointNotSet, EndpointNotSet, EndpointSet, EndpointSet, EndpointSet>;

/// The `oauth2` crate, told what the metadata say.
fn oauth2_client(core: &Core, name: &str) -> Client {
    let wire = Wire::of(core);
    let metadata = wire.get("/.well-known/oauth-authorization-server", &[]).json();
    let url = |member: &str| metadata[member].as_str().expect("a URL").to_owned();
    BasicClient::new(ClientId::new(name.to_owned()))
        .set_token_uri(TokenUrl::new(url("token_endpoint")).expect("a URL"))
        .set_introspection_url(IntrospectionUrl::new(url("introspection_endpoint")).expect("a URL"))
        .set_revocation_url(RevocationUrl::new(url("revocation_endpoint")).expect("a URL"))
}

fn assertion(identity: &DeviceIdentity) -> String {
    let DeviceIdentity { device, issuer, key, .. } = identity;
    ClientAssertion { device, issuer, now_s: now_s(), jti: &random_id() }.sign(key).expect("signs")
}

const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

#[test]
fn the_oauth2_crate_logs_in_introspects_and_revokes_with_private_key_jwt() {
    println!("oauth2 {}", version_in_lock("oauth2"));
    let core = Core::start();
    let (lamp, door) = (core.device("lamp"), core.device("door"));
    let (client, wire) = (oauth2_client(&core, "lamp"), Wire::of(&core));
    let http = |request: oauth2::HttpRequest| wire.run(request);
    let login = |by: &DeviceIdentity| {
        client
            .exchange_client_credentials()
            .add_extra_param("client_assertion_type", ASSERTION_TYPE)
            .add_extra_param("client_assertion", assertion(by))
            .request(&http)
    };
    let token = login(&lamp).expect("a token");
    assert_eq!(token.token_type(), &BasicTokenType::Bearer);
    assert!(token.expires_in().is_some_and(|life| life.as_secs() > 0));
    let mut mqtt = connect_with(&lamp, token.access_token().secret()).expect("the token opens a session");
    mqtt.publish("devices/lamp/events/x", b"1", drawbridge_device::Qos::AtLeastOnce, false)
        .expect("publishes");
    let ask = |token: &AccessToken| {
        let request = client.introspect(token);
        let request = request.add_extra_param("client_assertion_type", ASSERTION_TYPE);
        request.add_extra_param("client_assertion", assertion(&lamp)).request(&http).expect("an answer")
    };
    let told = ask(token.access_token());
    assert!(told.active());
    assert_eq!((told.sub(), told.client_id().map(|id| id.as_str())), (Some("lamp"), Some("lamp")));
    let refused = login(&door).expect_err("the assertion of another");
    let RequestTokenError::ServerResponse(refused) = refused else { panic!("{refused:?}") };
    assert_eq!(refused.error(), &BasicErrorResponseType::InvalidClient);

    let revoke = client.revoke_token(StandardRevocableToken::AccessToken(token.access_token().clone()));
    let revoke = revoke.expect("a request").add_extra_param("client_assertion_type", ASSERTION_TYPE);
    revoke.add_extra_param("client_assertion", assertion(&lamp)).request(&http).expect("revoked");
    assert!(!ask(token.access_token()).active());
    crate::harness::wait_for("the end of the session", std::time::Duration::from_secs(5), || {
        mqtt.receive(std::time::Duration::from_millis(50)).err()
    });
}

#[test]
fn the_oauth2_crate_logs_in_introspects_and_revokes_with_a_generated_secret() {
    println!("oauth2 {}", version_in_lock("oauth2"));
    let core = Core::start();
    core.application("backend", "[[allow]]\nsubscribe = [\"devices/#\"]\n");
    let secret = core.cli_ok(&["app", "secret", "backend"]);
    let secret = secret.lines().next().expect("a secret");
    let wire = Wire::of(&core);
    let http = |request: oauth2::HttpRequest| wire.run(request);
    for kind in [oauth2::AuthType::BasicAuth, oauth2::AuthType::RequestBody] {
        let client = oauth2_client(&core, "backend").set_auth_type(kind.clone());
        let wrong = client.clone().set_client_secret(ClientSecret::new("wrong".to_owned()));
        let refused = wrong.exchange_client_credentials().request(&http).expect_err("a wrong secret");
        let RequestTokenError::ServerResponse(refused) = refused else { panic!("{refused:?}") };
        assert_eq!(refused.error(), &BasicErrorResponseType::InvalidClient);
        let client = client.set_client_secret(ClientSecret::new(secret.to_owned()));
        let token = client.exchange_client_credentials().request(&http).expect("a token");
        let ask = || client.introspect(token.access_token()).request(&http).expect("an answer");
        assert!(ask().active(), "{kind:?}");
        let revocable = StandardRevocableToken::AccessToken(token.access_token().clone());
        client.revoke_token(revocable).expect("a request").request(&http).expect("revoked");
        assert!(!ask().active(), "{kind:?}");
    }
}

/// The version of a crate, as built in.
fn version_in_lock(name: &str) -> String {
    let lock =
        std::fs::read_to_string(crate::harness::repository().join("Cargo.lock")).expect("the lock file");
    let mut lines = lock.lines().skip_while(|line| *line != format!("name = \"{name}\""));
    lines.nth(1).expect("a version").to_owned()
}
