//! Devices that come by themselves or in thousands: the commands for it, against a real server.

use std::fs;
use std::time::Duration;

use drawbridge_device::{ApiClient, DeviceIdentity, Qos};
use drawbridge_jose::{Algorithm, SigningKey};
use serde_json::{Value, json};

use crate::harness::{Core, connect, wait_for};

fn code(core: &Core, line: &str) -> i32 {
    core.cli(&line.split(' ').collect::<Vec<_>>()).status.code().expect("an exit code")
}

fn ok(core: &Core, line: &str) -> String {
    core.cli_ok(&line.split(' ').collect::<Vec<_>>())
}

fn json_of(core: &Core, line: &str) -> Value {
    serde_json::from_str(&ok(core, &format!("{line} --json"))).expect("JSON")
}

#[test]
fn a_device_enrols_itself_waits_is_approved_publishes_and_is_undone() {
    let core = Core::start();
    let said = ok(&core, "enrol create --pattern pump-* --count 2 --label hall --out pump.token");
    assert!(said.contains("waits for `enrol approve`") && !said.contains("dbe_"), "{said}");
    let token = fs::read_to_string(core.place().join("pump.token")).expect("the token");
    assert!(token.starts_with("dbe_"));
    assert_eq!(code(&core, "enrol create --pattern pump-* --out pump.token"), 6, "not overwritten");
    let said = ok(&core, "device enrol pump-1 --token-file pump.token --out ids/pump-1");
    assert!(said.contains("waits for an operator"), "{said}");
    let folder = core.place().join("ids/pump-1");
    let identity = DeviceIdentity::load(&folder).expect("a whole identity");
    let waiting = drawbridge_device::MqttClient::connect(&identity.mqtt_options().expect("signs"));
    assert!(waiting.is_err(), "who waits is admitted nowhere");
    assert_eq!(code(&core, "token get pump-1 --key ids/pump-1/key.pem"), 3);

    let listed = json_of(&core, "enrol list");
    let id = listed[0]["id"].as_str().expect("an id").to_owned();
    assert_eq!((&listed[0]["claims"], &listed[0]["label"]), (&json!(1), &json!("hall")));
    let shown = ok(&core, &format!("enrol show {id}"));
    assert!(shown.contains("\"pending\"") && shown.contains(&format!("enrol approve --all {id}")), "{shown}");
    ok(&core, "enrol approve pump-1");
    let mut client = connect(&identity);
    client.publish("devices/pump-1/events/flow", b"7", Qos::AtLeastOnce, false).expect("may publish");
    assert_eq!(code(&core, "token get pump-1 --key ids/pump-1/key.pem"), 0);

    // A device that lost the answer asks again with the key it has kept.
    fs::remove_file(folder.join("device.json")).expect("removed");
    ok(&core, "device enrol pump-1 --token-file pump.token --out ids/pump-1");
    let again = DeviceIdentity::load(&folder).expect("a whole identity");
    assert_eq!(again.public_key().thumbprint(), identity.public_key().thumbprint());
    assert_eq!(code(&core, "device enrol pump-1 --token-file pump.token --out ids/pump-1"), 6);
    assert_eq!(code(&core, "device enrol pump-1 --token-file pump.token --out ids/other"), 3, "another key");
    assert_eq!(code(&core, "device enrol lamp --token-file pump.token --out ids/lamp"), 3, "not a pump");
    assert_eq!(code(&core, "device enrol pump-2 --out ids/pump-2"), 2, "no token");

    // With its registration token the device sees how it stands.
    let secret = fs::read_to_string(folder.join("registration-token")).expect("a token");
    let api = ApiClient::new(&format!("https://{}", identity.https), &identity.ca_pem).expect("a client");
    let own = api.send("GET", "/oauth/register/pump-1", Some(secret.trim()), None).expect("an answer");
    assert_eq!((own.status, &own.json()["status"]), (200, &json!("active")));

    ok(&core, "device enrol pump-2 --token-file pump.token --out ids/pump-2");
    assert!(ok(&core, &format!("enrol approve --all {id}")).contains("1 device(s)"));
    let said = ok(&core, "enrol undo pump-1");
    assert!(said.contains("one claim more"), "{said}");
    wait_for("end of the session", Duration::from_secs(2), || {
        client.receive(Duration::from_millis(50)).err()
    });
    assert_eq!(code(&core, "device show pump-1"), 4);
    ok(&core, "device enrol pump-3 --token-file pump.token --out ids/pump-3");
    ok(&core, "enrol reject pump-3");
    assert_eq!(code(&core, "enrol reject pump-2"), 6, "it is admitted");
    ok(&core, &format!("enrol revoke {id}"));
    assert_eq!(code(&core, "device enrol pump-4 --token-file pump.token --out ids/pump-4"), 3);
    assert_eq!(code(&core, "enrol show nosuch"), 4);
    assert_eq!(code(&core, "enrol create --pattern *"), 2);
    let log = core.log();
    assert!(!log.contains("dbe_") && !log.contains("dbr_"), "no token in the log");
}

#[test]
fn a_file_of_devices_is_imported_its_faults_are_kept_and_a_cut_run_goes_on() {
    let core = Core::start();
    let key = SigningKey::generate(Algorithm::Es256).expect("a key");
    let jwk: Value = serde_json::from_str(&key.public_key().to_jwk_json()).expect("a JWK");
    let lines = [
        json!({ "id": "pump-1", "keys": [{ "jwk": jwk }], "attributes": { "site": "north" } }).to_string(),
        json!({ "id": "gw", "gateway": true }).to_string(),
        json!({ "id": "lamp+1" }).to_string(),
        "oops".to_owned(),
    ];
    let file = core.place().join("fleet.ndjson");
    fs::write(&file, lines.join("\n")).expect("written");
    let output = core.cli(&["device", "import", "fleet.ndjson"]);
    assert_eq!(output.status.code(), Some(6));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("4 lines: 2 added, 0 were there, 2 refused"), "{said}");
    let faults = fs::read_to_string(core.place().join("fleet.ndjson.errors")).expect("the faults");
    let faults: Vec<Value> = faults.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let mut found: Vec<(u64, &str)> = faults
        .iter()
        .map(|f| (f["line"].as_u64().expect("a line"), f["error"].as_str().expect("a code")))
        .collect();
    found.sort_unstable();
    assert_eq!(found, [(3, "DB-4207"), (4, "DB-4227")]);

    fs::write(&file, lines[..2].join("\n")).expect("written");
    let again = json_of(&core, "device import fleet.ndjson");
    assert_eq!((&again["added"], &again["exists"], &again["errors"]), (&json!(0), &json!(2), &json!(0)));
    assert_eq!(code(&core, "device import fleet.ndjson --resume"), 2, "nothing was cut");
    assert_eq!(code(&core, "device import nosuch.ndjson"), 2);

    // As a run leaves it that was cut after its first part.
    let many: String = (1..=5_100).map(|n| format!("{{\"id\":\"m{n}\"}}\n")).collect();
    fs::write(core.place().join("many.ndjson"), &many).expect("written");
    let state =
        json!({ "file_bytes": many.len(), "lines": 5_000, "added": 4_990, "exists": 0, "errors": 10 });
    let progress = core.place().join("many.ndjson.progress");
    fs::write(&progress, state.to_string()).expect("written");
    let output = core.cli(&["device", "import", "many.ndjson", "--resume", "--json"]);
    let done: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&done["lines"], &done["added"]), (&json!(5_100), &json!(5_090)));
    assert!(!progress.exists(), "it is done");
    assert_eq!((code(&core, "device show m5001"), code(&core, "device show m5000")), (0, 4));
    fs::write(
        &progress,
        json!({ "file_bytes": 1, "lines": 1, "added": 1, "exists": 0, "errors": 0 }).to_string(),
    )
    .expect("written");
    assert_eq!(code(&core, "device import many.ndjson --resume"), 2, "another file");

    ok(&core, "gateway link gw pump-1");
    assert_eq!(json_of(&core, "gateway list gw"), json!([{ "name": "pump-1" }]));
    assert_eq!(json_of(&core, "gateway list --of pump-1"), json!([{ "name": "gw" }]));
    assert_eq!(code(&core, "gateway link pump-1 gw"), 6, "no gateway");
    ok(&core, "gateway unlink gw pump-1");
    assert_eq!(code(&core, "gateway unlink gw pump-1"), 4);

    // Its own root is a CA like any other.
    let ca = core.data().join("ca.pem");
    let added = json_of(&core, &format!("ca add {} --label own", ca.display()));
    let fingerprint = added["fingerprint"].as_str().expect("a fingerprint").to_owned();
    assert!(ok(&core, "ca list").contains(&fingerprint));
    ok(&core, &format!("ca remove {fingerprint}"));
    assert_eq!(code(&core, &format!("ca remove {fingerprint}")), 4);
    assert_eq!(code(&core, "ca add fleet.ndjson"), 2);
}
