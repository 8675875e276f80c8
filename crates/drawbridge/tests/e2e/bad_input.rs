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
        for (what, bytes, answered) in malformed() {
            let mut stream = tls(&core);
            stream.write_all(&bytes).expect("written");
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer); // closed with or without close_notify
            assert_eq!(answer, answered, "{what}: {answer:02x?}");
        }
    };
    // Every thread and pool has had its turn after the first rounds.
    for _ in 0..10 {
        round();
    }
    let before = core.resident_bytes();
    for _ in 0..40 {
        round();
    }
    // 40 rounds of 18 requests and connections: 8 KiB kept of each round would show.
    let grown = core.resident_bytes().saturating_sub(before);
    assert!(grown < 320 << 10, "the server has grown by {grown} bytes");
    let mut client = connect(&sensor);
    client.publish("devices/sensor/events/x", b"1", Qos::AtLeastOnce, false).expect("still serves");
}

/// What strangers send instead of a CONNECT, and what they are answered.
fn malformed() -> Vec<(&'static str, Vec<u8>, Vec<u8>)> {
    let connect = |protocol: &[u8], flags: u8, rest: &[u8]| {
        let mut packet = vec![0x10, 0];
        packet.extend_from_slice(protocol);
        packet.extend_from_slice(&[flags, 0, 60]);
        packet.extend_from_slice(rest);
        packet[1] = u8::try_from(packet.len() - 2).expect("short");
        packet
    };
    let v311 = b"\x00\x04MQTT\x04";
    vec![
        ("a length beyond what is taken", vec![0x10, 0xff, 0xff, 0xff, 0x7f], vec![]),
        ("a length of five bytes", vec![0x10, 0xff, 0xff, 0xff, 0xff, 0x01], vec![]),
        ("reserved flags", vec![0x1f, 0x00], vec![]),
        ("an empty CONNECT", vec![0x10, 0x00], vec![]),
        ("the reserved bit of the connect flags", connect(v311, 0x03, b"\x00\x01a"), vec![]),
        ("MQTT 3.1", connect(b"\x00\x06MQIsdp\x03", 0x02, b"\x00\x01a"), vec![0x20, 2, 0, 1]),
        ("a NUL in the client id", connect(v311, 0x02, b"\x00\x01\x00"), vec![]),
        ("no credentials", connect(v311, 0x02, b"\x00\x01a"), vec![0x20, 2, 0, 5]),
        ("a JWT that is none", connect(v311, 0xc2, b"\x00\x01a\x00\x00\x00\x03a.b"), vec![0x20, 2, 0, 5]),
    ]
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
    // Either the DISCONNECT was read (0x95) or the writing broke off before.
    let text = error.to_string();
    assert!(text.contains("0x95") || text.contains("failed"), "{text}");
    core.wait_for_log(&["sensor", "DB-2001"]);
}
