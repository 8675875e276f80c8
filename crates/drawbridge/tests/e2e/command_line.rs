//! The command line: what it writes, and its exit codes.

use std::fs;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Core, DRAWBRIDGE, connect, version_of, wait_for};
use crate::invariants::settings;

#[test]
fn exit_codes_tell_usage_denied_not_found_unavailable_and_conflict_apart() {
    let core = Core::start();
    core.device("lamp");
    let code = |words: &[&str]| core.cli(words).status.code().expect("an exit code");
    assert_eq!(code(&["device", "show", "lamp"]), 0);
    assert_eq!(code(&["device", "shwo", "lamp"]), 2);
    assert_eq!(code(&["device", "add", "a/b"]), 2);
    assert_eq!(code(&["can", "lamp", "publish", "devices/other/x"]), 3);
    assert_eq!(code(&["device", "show", "nobody"]), 4);
    assert_eq!(code(&["command", "send", "lamp", "on"]), 5);
    assert_eq!(code(&["device", "add", "lamp", "--out", "elsewhere"]), 6);
    let elsewhere = tempfile::tempdir().expect("temporary folder");
    let output =
        Command::new(DRAWBRIDGE).arg("--data").arg(elsewhere.path()).args(["device", "list"]).output();
    assert_eq!(output.expect("runs").status.code(), Some(5));
}

#[test]
fn a_command_reaches_the_connected_device_and_says_when_it_cannot() {
    let core = Core::start();
    let lamp = core.device("lamp");
    let refusal = |words: &[&str]| String::from_utf8(core.cli(words).stderr).expect("text");
    let text = refusal(&["command", "send", "lamp", "on", "--wait", "2s"]);
    assert!(text.contains("not connected"), "{text}");
    let mut client = connect(&lamp);
    let text = refusal(&["command", "send", "lamp", "on", "--wait", "2s"]);
    assert!(text.contains("not subscribed"), "{text}");
    client.subscribe("devices/lamp/commands/#").expect("granted");
    let device = std::thread::spawn(move || {
        let first = client.receive(Duration::from_secs(10)).expect("connected").expect("a command");
        let second = client.receive(Duration::from_secs(10)).expect("connected").expect("a command");
        (first, second)
    });
    core.cli_ok(&["command", "send", "lamp", "on"]);
    core.cli_ok(&["command", "send", "lamp", "up", "--subfolder", "blinds/left"]);
    let (first, second) = device.join().expect("the device");
    assert_eq!((first.topic.as_str(), &first.payload[..]), ("devices/lamp/commands", &b"on"[..]));
    assert_eq!(
        (second.topic.as_str(), &second.payload[..]),
        ("devices/lamp/commands/blinds/left", &b"up"[..])
    );
    let audit = core.cli_ok(&["audit", "tail"]);
    assert!(audit.contains("command.send"), "{audit}");
}

#[test]
fn a_config_waits_for_its_device_also_across_a_restart() {
    let mut core = Core::start();
    let lamp = core.device("lamp");
    core.cli_ok(&["config", "set", "lamp", "dim=1"]);
    core.cli_ok(&["config", "set", "lamp", "dim=2"]);
    core.stop();
    core.run_again();
    let mut options = lamp.mqtt_options().expect("signs");
    options.server.clone_from(&core.endpoints.mqtts);
    let mut client = drawbridge_device::MqttClient::connect(&options).expect("admitted");
    client.subscribe("devices/lamp/config").expect("granted");
    let message = client.receive(Duration::from_secs(10)).expect("connected").expect("the config");
    assert_eq!(message.payload, b"dim=2");
    core.cli_ok(&["config", "set", "lamp", "dim=3"]);
    let message = client.receive(Duration::from_secs(10)).expect("connected").expect("the newer config");
    assert_eq!(message.payload, b"dim=3");
    let text = core.cli_ok(&["config", "get", "lamp"]);
    assert!(text.contains("version 3") && text.contains("dim=3"), "{text}");
}

#[test]
fn a_state_that_a_device_reports_is_kept() {
    let core = Core::start();
    let lamp = core.device("lamp");
    let mut client = connect(&lamp);
    for state in ["on", "off"] {
        let qos = drawbridge_device::Qos::AtLeastOnce;
        client.publish("devices/lamp/state", state.as_bytes(), qos, false).expect("taken");
    }
    let text = wait_for("both states", Duration::from_secs(10), || {
        let text = core.cli_ok(&["state", "list", "lamp"]);
        (text.contains("on") && text.contains("off")).then_some(text)
    });
    assert!(text.find("off") < text.find(" on"), "newest first: {text}");
}

#[test]
fn the_first_start_makes_a_chain_that_openssl_verifies_strictly() {
    version_of("openssl", "version");
    let core = Core::start_with(&["--name", "core.example"]);
    for name in ["localhost", "core.example"] {
        let output = Command::new("openssl")
            .args(["verify", "-x509_strict", "-purpose", "sslserver", "-verify_hostname", name, "-CAfile"])
            .arg(core.data().join("ca.pem"))
            .arg(core.data().join("server.pem"))
            .output()
            .expect("openssl");
        assert!(output.status.success(), "{name}: {output:?}");
    }
    let text = core.log();
    assert!(text.contains("root fingerprint") && text.contains(&core.endpoints.mqtts), "{text}");
}

#[test]
fn a_key_made_by_openssl_is_registered_and_a_jwt_signed_with_it_admitted() {
    let core = Core::start();
    let key = core.place().join("own.pem");
    let public = core.place().join("own.pub");
    let run = |args: &[&str]| {
        let output = Command::new("openssl").args(args).output().expect("openssl");
        assert!(output.status.success(), "{output:?}");
    };
    let (key_text, public_text) = (key.to_string_lossy(), public.to_string_lossy());
    run(&["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", &key_text]);
    run(&["pkey", "-in", &key_text, "-pubout", "-out", &public_text]);
    core.cli_ok(&["device", "add", "own", "--key", &public_text, "--out", "own"]);
    let folder = core.place().join("own");
    assert!(!folder.join("key.pem").exists(), "a private key that was never given");
    fs::copy(&key, folder.join("key.pem")).expect("copy");
    drop(connect(&drawbridge_device::DeviceIdentity::load(&folder).expect("an identity")));
    let list: Value = serde_json::from_str(&core.cli_ok(&["device", "list", "--json"])).expect("JSON");
    assert_eq!(list[0]["name"], "own");
    let again = core.cli(&["device", "add", "twin", "--key", &public_text]);
    assert_eq!(again.status.code(), Some(6), "one key, two devices: {again:?}");
}

#[test]
fn a_minted_token_opens_a_session_and_can_be_inspected() {
    let core = Core::start();
    let lamp = core.device("lamp");
    let key = core.identity_folder("lamp").join("key.pem");
    let key = key.to_string_lossy();
    let token = core.cli_ok(&[
        "token",
        "mint",
        "--key",
        &key,
        "--device",
        "lamp",
        "--aud",
        &lamp.bridge_audience,
        "--life",
        "5m",
    ]);
    drop(crate::harness::connect_with(&lamp, token.trim()).expect("admitted"));
    let text = core.cli_ok(&["token", "inspect", token.trim()]);
    assert!(text.contains("not verified") && text.contains("\"sub\": \"lamp\""), "{text}");
}

#[test]
fn two_registries_with_the_same_device_are_two_worlds() {
    let core = Core::start();
    core.cli_ok(&["registry", "add", "plant-2"]);
    let here = core.device("pump");
    let folder = core.place().join("there");
    core.cli_ok(&["--registry", "plant-2", "device", "add", "pump", "--out", &folder.to_string_lossy()]);
    let there = drawbridge_device::DeviceIdentity::load(&folder).expect("an identity");
    assert!(there.issuer.ends_with("/r/plant-2") && there.issuer != here.issuer, "{}", there.issuer);
    let mut a = connect(&here);
    let mut b = connect(&there);
    a.subscribe("devices/pump/commands/#").expect("granted");
    b.subscribe("devices/pump/commands/#").expect("granted");
    core.cli_ok(&["--registry", "plant-2", "device", "block", "pump"]);
    let end = wait_for("end of the blocked one", Duration::from_secs(5), || {
        b.receive(Duration::from_millis(50)).err()
    });
    drop(end);
    let other = std::thread::spawn(move || a.receive(Duration::from_secs(10)).expect("still connected"));
    core.cli_ok(&["command", "send", "pump", "go"]);
    assert_eq!(other.join().expect("thread").expect("the command").payload, b"go");
}

#[test]
fn check_config_shows_every_fault_and_starts_nothing() {
    let file = settings("[serve]\nprot = 1\n[bridge]\nshard = 2\n");
    let output = Command::new(DRAWBRIDGE).args(["check-config", &file]).output().expect("runs");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(text.contains("serve.prot") && text.contains("bridge.shard"), "{text}");
    let good = settings("[serve]\nmqtts_port = 0\n");
    assert!(Command::new(DRAWBRIDGE).args(["check-config", &good]).status().expect("runs").success());
}

#[test]
fn the_issuer_stays_when_the_port_changes() {
    let mut core = Core::start();
    let issuer = core.device("lamp").issuer;
    core.stop();
    assert!(!core.data().join("endpoints.json").exists(), "a stopped server leaves no address behind");
    core.run_again();
    assert_eq!(core.device("door").issuer, issuer);
}

#[test]
fn a_name_with_a_percent_sign_is_kept_byte_for_byte() {
    let core = Core::start();
    let odd = core.device("pump%2F1~a.b");
    drop(connect(&odd));
    let shown: Value =
        serde_json::from_str(&core.cli_ok(&["device", "show", "pump%2F1~a.b", "--json"])).expect("JSON");
    assert_eq!(shown["name"], "pump%2F1~a.b");
    core.cli_ok(&["config", "set", "pump%2F1~a.b", "x"]);
    core.cli_ok(&["device", "block", "pump%2F1~a.b"]);
    core.cli_ok(&["device", "delete", "pump%2F1~a.b"]);
}
