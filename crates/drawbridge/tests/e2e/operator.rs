//! What an operator sets by the command line, and what becomes of it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use drawbridge_device::{DeviceError, DeviceIdentity, MqttClient};
use drawbridge_jose::{Algorithm, SigningKey};
use serde_json::{Value, json};

use crate::harness::{Core, connect, connect_with, now_s};

fn code(core: &Core, line: &str) -> i32 {
    core.cli(&line.split(' ').collect::<Vec<_>>()).status.code().expect("an exit code")
}

fn ok(core: &Core, line: &str) -> String {
    core.cli_ok(&line.split(' ').collect::<Vec<_>>())
}

#[test]
fn a_new_admin_credential_is_kept_where_the_old_one_was_which_is_dead() {
    let core = Core::start();
    let file = core.data().join("admin-token");
    let old = fs::read_to_string(&file).expect("the credential");
    let said = ok(&core, "admin rotate");
    let new = fs::read_to_string(&file).expect("the credential");
    assert!(new.starts_with("dba_") && new != old && !said.contains(new.trim()), "{said}");
    assert_eq!(fs::metadata(&file).expect("it is there").permissions().mode() & 0o777, 0o600);
    let status = |token: &str| {
        core.api().send("GET", "/v1/devices", Some(token.trim()), None).expect("an answer").status
    };
    assert_eq!((status(&old), status(&new)), (401, 200));
    ok(&core, "device list");
    // Whoever still has the old one elsewhere is shut out.
    fs::write(core.place().join("old-token"), &old).expect("write");
    let server = format!("--server https://{} --ca data/ca.pem --token-file old-token", core.endpoints.https);
    assert_eq!(code(&core, &format!("{server} device list")), 3);
}

#[test]
fn a_device_without_a_clock_logs_in_and_replaces_its_key_and_enters_with_its_token() {
    let core = Core::start();
    let sensor = core.device("sensor");
    drop(connect(&sensor));
    let said = ok(&core, "device set sensor --clock none");
    assert!(said.contains("sensor has clock: none"), "{said}");

    let token = ok(&core, "token get sensor --key identities/sensor/key.pem");
    drop(connect_with(&sensor, token.trim()).expect("its token opens the door"));
    let refused = MqttClient::connect(&sensor.mqtt_options().expect("signs")).expect_err("a JWT of its own");
    let now_s = now_s();
    assert!(
        matches!(refused, DeviceError::Refused { server_time_s: Some(at_s), .. } if at_s.abs_diff(now_s) < 60),
        "{refused:?}"
    );
    // A library that is told so takes the other way by itself, and so do the commands.
    drop(MqttClient::connect_as(&sensor, "sensor").expect("by its token"));
    ok(&core, "device run sensor --as identities/sensor --count 1");

    let key = SigningKey::generate(Algorithm::EdDsa).expect("a key");
    let replaced = core.api().replace_key(&sensor, &key).expect("replaced, with a nonce");
    assert_eq!(replaced.status, 201);
    let new = DeviceIdentity { key, ..sensor };
    core.api().token("sensor", &new.issuer, None, &new.key).expect("the new key logs in");

    ok(&core, "device set sensor --clock registry");
    drop(connect(&new));
}

#[test]
fn what_is_set_of_a_device_and_an_application_is_shown_and_holds() {
    let core = Core::start();
    for name in ["gw", "lamp"] {
        core.device(name);
    }
    assert_eq!(code(&core, "gateway link gw lamp"), 6, "it is no gateway yet");
    ok(&core, "device set gw --gateway true");
    ok(&core, "gateway link gw lamp");
    ok(&core, "device set lamp --bound-tokens true --certificate-subject san_dns=lamp.plant");
    let show = |line: &str| -> Value { serde_json::from_str(&ok(&core, line)).expect("JSON") };
    let lamp = show("device show lamp --json");
    assert_eq!(
        (&lamp["bound_tokens"], &lamp["certificate_subject"]),
        (&json!(true), &json!({ "san_dns": "lamp.plant" }))
    );
    assert_eq!(code(&core, "token get lamp --key identities/lamp/key.pem"), 3, "bound tokens only");
    ok(&core, "device set lamp --bound-tokens false --certificate-subject none");
    assert_eq!(show("device show lamp --json")["certificate_subject"], Value::Null);
    ok(&core, "token get lamp --key identities/lamp/key.pem");
    for (line, wanted) in [
        ("device set lamp", 2),
        ("device set lamp --clock sundial", 2),
        ("device set lamp --certificate-subject lamp.plant", 2),
        ("device set nobody --gateway true", 4),
        ("app set nobody --role viewer", 4),
    ] {
        assert_eq!(code(&core, line), wanted, "{line}");
    }

    let revoked = show("device revoke lamp --json");
    let epoch = revoked["epoch"].as_u64().expect("a number");
    assert_eq!(revoked["sessions_closed"], 0);
    let identity = DeviceIdentity::load(&core.identity_folder("lamp")).expect("an identity");
    // A JWT of the second of the revocation is dead too.
    std::thread::sleep(std::time::Duration::from_millis(1_100));
    let _session = connect(&identity);
    let revoked = show("device revoke lamp --reason stolen-van --json");
    assert_eq!((&revoked["epoch"], &revoked["sessions_closed"]), (&json!(epoch + 1), &json!(1)));
    assert!(ok(&core, "audit tail --json").contains("stolen-van"), "the audit says why");
}

#[test]
fn the_settings_of_a_registry_hold_for_the_tokens_that_it_issues() {
    let core = Core::start();
    core.device("lamp");
    let get = || ok(&core, "token get lamp --key identities/lamp/key.pem");
    assert!(get().starts_with("eyJ"));
    ok(&core, "registry set default --token-format opaque --token-life-s 120");
    assert!(get().starts_with("dbo_"));
    let answer = ok(&core, "token get lamp --key identities/lamp/key.pem --json");
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    assert_eq!(answer["expires_in"], 120);
    let shown: Value = serde_json::from_str(&ok(&core, "registry show default --json")).expect("JSON");
    assert_eq!((&shown["token_format"], &shown["token_life_s"]), (&json!("opaque"), &json!(120)));
    for (line, wanted) in [
        ("registry set default --token-format paper", 2),
        ("registry set default --token-life-s 0", 2),
        ("registry set nowhere --token-life-s 60", 4),
        ("registry keys nowhere", 4),
        ("registry rotate-key nowhere", 4),
    ] {
        assert_eq!(code(&core, line), wanted, "{line}");
    }
}
