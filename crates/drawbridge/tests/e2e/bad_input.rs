//! Unknown, malformed and oversized input gets its clear answer, and the server's memory does not move.

use std::io::{Read, Write};
use std::time::Duration;

use drawbridge_device::{ApiClient, Qos};

use crate::harness::{Core, connect};
use crate::invariants::tls;

#[test]
fn malformed_and_oversized_input_is_answered_and_takes_no_memory() {
    let core = Core::start();
    let sensor = core.device("sensor");
    let api = ApiClient::new(&format!("https://{}", core.endpoints.https), &sensor.ca_pem).expect("client");
    let form = "application/x-www-form-urlencoded";
    let big = vec![b'a'; 300 * 1024];
    let round = || {
        let post = |path: &str, kind: &str, body: &[u8]| {
            api.send("POST", path, None, Some((kind, body))).map(|answer| answer.status)
        };
        assert_eq!(post("/oauth/token", form, b"").expect("an answer"), 400);
        assert_eq!(post("/oauth/token", form, b"grant_type=password").expect("an answer"), 400);
        assert_eq!(post("/oauth/token", form, b"grant_type=client_credentials").expect("an answer"), 401);
        assert_eq!(post("/oauth/token", "text/plain", b"x").expect("an answer"), 400);
        assert_eq!(post("/oauth/token", form, &big).expect("an answer"), 413);
        assert_eq!(post("/v1/self/keys", "application/json", b"{").expect("an answer"), 400);
        assert_eq!(api.send("GET", "/nowhere", None, None).expect("an answer").status, 404);
        assert_eq!(api.send("DELETE", "/oauth/token", None, None).expect("an answer").status, 405);
        assert_eq!(
            api.send("GET", "/v1/devices", Some("dba_nonsense"), None).expect("an answer").status,
            401
        );
        // A CONNECT that announces more than is taken before authentication.
        let mut stream = tls(&core);
        stream.write_all(&[0x10, 0xff, 0xff, 0xff, 0x7f]).expect("written");
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer); // closed with or without close_notify
        assert!(answer.len() < 64, "{answer:02x?}");
    };
    // Every thread and pool has had its turn after the first rounds.
    for _ in 0..30 {
        round();
    }
    let before = core.resident_bytes();
    for _ in 0..120 {
        round();
    }
    let grown = core.resident_bytes().saturating_sub(before);
    assert!(grown < 8 << 20, "the server has grown by {grown} bytes");
    let mut client = connect(&sensor);
    client.publish("devices/sensor/events/x", b"1", Qos::AtLeastOnce, false).expect("still serves");
}

#[test]
fn a_packet_too_large_for_an_admitted_client_is_refused_by_its_header_alone() {
    let core = Core::start();
    let sensor = core.device("sensor");
    let mut client = connect(&sensor);
    let error = client
        .publish("devices/sensor/events/x", &vec![0; 512 * 1024], Qos::AtLeastOnce, false)
        .and_then(|()| client.receive(Duration::from_secs(5)).map(|_| ()))
        .expect_err("256 KiB are the most");
    let text = error.to_string();
    assert!(text.contains("closed") || text.contains("failed"), "{text}");
    core.wait_for_log(&["sensor", "DB-2"]);
}
