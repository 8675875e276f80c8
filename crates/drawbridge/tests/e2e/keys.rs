//! The life of a key by the command line, and what becomes of the sessions it has opened.

use std::fs;
use std::time::Duration;

use drawbridge_device::{DeviceIdentity, MqttClient};
use drawbridge_jose::{Algorithm, SigningKey};
use serde_json::Value;

use crate::harness::{Core, connect, wait_for};

/// A new key, and the file of its public half.
fn made(core: &Core, name: &str) -> (SigningKey, String) {
    let key = SigningKey::generate(Algorithm::EdDsa).expect("generates");
    let file = core.place().join(name);
    fs::write(&file, key.public_key().to_pem()).expect("write");
    (key, file.to_string_lossy().into_owned())
}

fn keys(core: &Core, id: &str) -> Vec<Value> {
    serde_json::from_str(&core.cli_ok(&["key", "list", id, "--json"])).expect("JSON")
}

fn key(core: &Core, id: &str, kid: &str) -> Value {
    keys(core, id).into_iter().find(|key| key["kid"] == kid).expect("a key of it")
}

fn is_over(client: &mut MqttClient) -> bool {
    client.receive(Duration::from_millis(100)).is_err()
}

#[test]
fn i6_a_session_opened_before_its_key_was_replaced_ends_with_the_grace_of_the_key() {
    let core = Core::start();
    let sensor = core.device("sensor");
    let old = sensor.public_key().thumbprint().to_owned();
    let (next, file) = made(&core, "next.pem");
    let mut session = connect(&sensor);
    let said = core.cli_ok(&["key", "add", "sensor", &file, "--replaces", &old, "--grace", "3s"]);
    assert!(said.contains(&old) && said.contains("was replaced"), "{said}");
    assert!(!is_over(&mut session), "it has its grace");
    assert_eq!(key(&core, "sensor", &old)["state"], "grace");
    wait_for("the end of the session", Duration::from_secs(15), || is_over(&mut session).then_some(()));
    assert_eq!(key(&core, "sensor", &old)["state"], "expired");
    drop(connect(&DeviceIdentity { key: next, ..sensor }));
}

#[test]
fn a_key_is_added_changed_listed_and_revoked_by_the_command_line() {
    let core = Core::start();
    let sensor = core.device("sensor");
    let (spare, file) = made(&core, "spare.pem");
    let kid = spare.public_key().thumbprint().to_owned();
    let add = ["key", "add", "sensor", &file, "--label", "spare", "--not-before", "2098-01-01T00:00:00Z"];
    core.cli_ok(&add);
    let shown = key(&core, "sensor", &kid);
    assert_eq!((shown["state"].as_str(), shown["label"].as_str()), (Some("not_yet"), Some("spare")));
    core.cli_ok(&[
        "key",
        "set",
        "sensor",
        &kid,
        "--not-before",
        "never",
        "--expires",
        "2099-01-01T00:00:00Z",
    ]);
    let shown = key(&core, "sensor", &kid);
    assert_eq!((shown["state"].as_str(), shown["label"].as_str()), (Some("active"), Some("spare")));
    assert_eq!(shown["expires"], "2099-01-01T00:00:00Z");
    core.cli_ok(&["key", "set", "sensor", &kid, "--label", "", "--expires", "never"]);
    assert_eq!(
        (&key(&core, "sensor", &kid)["label"], &key(&core, "sensor", &kid)["expires"]),
        (&Value::Null, &Value::Null)
    );

    let mut session = connect(&sensor);
    let own = sensor.public_key().thumbprint().to_owned();
    wait_for("the last use", Duration::from_secs(10), || {
        key(&core, "sensor", &own)["last_used"].as_str().map(drop)
    });
    let table = core.cli_ok(&["key", "list", "sensor"]);
    for heading in ["kid", "state", "not_before", "expires", "last_used"] {
        assert!(table.lines().next().is_some_and(|line| line.contains(heading)), "{heading}: {table}");
    }
    core.cli_ok(&["key", "revoke", "sensor", &own, "--reason", "stolen"]);
    wait_for("the end of the session", Duration::from_secs(5), || is_over(&mut session).then_some(()));
    assert_eq!(key(&core, "sensor", &own)["state"], "retired");
    let audit = core.cli_ok(&["audit", "tail", "--json"]);
    assert!(audit.contains("key.revoke") && audit.contains("stolen"), "{audit}");
    std::thread::sleep(Duration::from_millis(1100));
    drop(connect(&DeviceIdentity { key: spare, ..sensor }));

    let code = |words: &[&str]| core.cli(words).status.code().expect("an exit code");
    assert_eq!(code(&["key", "set", "sensor", &kid]), 2, "nothing to change");
    assert_eq!(code(&["key", "add", "sensor", &file, "--grace", "1m"]), 2, "grace of what");
    assert_eq!(code(&["key", "set", "sensor", &kid, "--expires", "tomorrow"]), 2);
    assert_eq!(code(&["key", "revoke", "sensor", "A-kid-that-nobody-has-had-in-this-registry"]), 4);
    assert_eq!(code(&["key", "remove", "sensor", &kid]), 6, "the last one");
}
