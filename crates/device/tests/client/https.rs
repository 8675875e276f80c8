//! What comes over HTTPS, from a server of which each test writes what it says.

use std::sync::mpsc::Sender;
use std::time::Duration;

use drawbridge_device::{
    AceProof, ApiClient, Binding, DeviceClient, DeviceError, Event, KeyLogin, TokenRequest, TokenSource, Way,
};

use crate::broker::{Broker, PATIENCE};
use crate::renewal::{Brought, give_nonces};
use crate::ways::{key, login};

/// A token endpoint that answers everybody so.
fn token_endpoint(status: &'static str, fields: &'static str, body: &'static str) -> (Broker<()>, ApiClient) {
    let server = Broker::start(false, move |_, peer, _: &Sender<()>| {
        peer.answer_http(status, fields, body);
    });
    let api = ApiClient::new(&format!("https://{}", server.server), &server.ca_pem).expect("a client");
    (server, api)
}

#[test]
fn a_client_leaves_a_token_endpoint_alone_as_long_as_it_asks_to() {
    for (status, fields, least_s) in [
        ("429 Too Many Requests", "retry-after: 30\r\n", 30),
        ("503 Service Unavailable", "retry-after: 1\r\n", 5),
        ("503 Service Unavailable", "retry-after: Wed, 21 Oct 2026 07:28:00 GMT\r\n", 5),
        ("500 Internal Server Error", "", 5),
    ] {
        let (server, api) = token_endpoint(status, fields, r#"{"error":"slow_down"}"#);
        let mut options = server.options(false);
        options.login = Some(KeyLogin { api: Some(api), ..login(&key()) });
        options.tokens = TokenSource::AccessToken { scope: None, bound: false };
        let client = DeviceClient::start(options).expect("starts");
        match client.events().recv_timeout(PATIENCE).expect("an event") {
            Event::Disconnected { retry_in, .. } => {
                let least = Duration::from_secs(least_s);
                assert!(retry_in >= least && retry_in <= 2 * least, "{status} {fields}: {retry_in:?}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_token_that_cannot_be_checked_or_proven_is_not_used() {
    let key = key();
    for (case, binding, body) in [
        ("another profile", Binding::Ace(key.as_ref()), r#"{"access_token":"t","ace_profile":"coap_dtls"}"#),
        ("no profile", Binding::Ace(key.as_ref()), r#"{"access_token":"t"}"#),
        (
            "a server in a form that is not known",
            Binding::Ace(key.as_ref()),
            r#"{"access_token":"t","ace_profile":"mqtt_tls","rs_cnf":{"jku":"https://x"}}"#,
        ),
        ("no key", Binding::AceSymmetric, r#"{"access_token":"t","ace_profile":"mqtt_tls"}"#),
        (
            "a short key",
            Binding::AceSymmetric,
            r#"{"access_token":"t","ace_profile":"mqtt_tls","cnf":{"jwk":{"kty":"oct","k":"AAAA"}}}"#,
        ),
    ] {
        let (_server, api) = token_endpoint("200 OK", "", body);
        let bind_to = Some(binding);
        let issuer = "https://core.example";
        let request = TokenRequest { device: "lamp", issuer, resource: None, scope: None, bind_to };
        let refused = api.access_token(&request, key.as_ref()).expect_err(case);
        assert!(matches!(refused, DeviceError::Protocol(_)), "{case}: {refused:?}");
    }
    // The same at a client, which goes to no broker with it.
    let (server, api) = token_endpoint("200 OK", "", r#"{"access_token":"t"}"#);
    let mut options = server.options(false);
    options.login = Some(KeyLogin { api: Some(api), ..login(&key) });
    options.way = Way::Ace(AceProof::Challenge);
    options.tokens = TokenSource::AceToken { scope: None };
    let refused = DeviceClient::start(options).expect("starts").connected(PATIENCE).expect_err("refused");
    assert!(refused.to_string().contains("mqtt_tls"), "{refused}");
}

#[test]
fn a_jwt_of_ours_that_renews_nothing_is_followed_by_an_access_token_and_that_by_a_jwt() {
    let (_server, api) = token_endpoint("200 OK", "", r#"{"access_token":"at-1","expires_in":3600}"#);
    let broker = Broker::start(true, |number, peer, reports: &Sender<Brought>| {
        assert_eq!(number, 0, "one connection");
        peer.admit(false);
        let mut count = 0;
        give_nonces(peer, true, reports, &mut || {
            count += 1;
            let ok = count == 3;
            format!(r#"{{"ok":{ok},"error":"not-authorized"}}"#)
        });
    });
    let key = key();
    let mut options = broker.options(true);
    options.login = Some(KeyLogin { api: Some(api), ..login(&key) });
    options.tokens = TokenSource::DeviceJwt { life_s: 3, bound: false };
    let client = DeviceClient::start(options).expect("starts");
    let events = client.events();
    let mut failed = 0;
    while !matches!(events.recv_timeout(PATIENCE).expect("an event"), Event::Renewed { .. }) {
        failed += 1;
        assert!(failed <= 4, "connected, and twice not renewed");
    }
    let brought = [(); 3].map(|()| broker.report().0);
    assert_eq!(brought.each_ref().map(|token| token == b"at-1"), [false, true, false]);
}
