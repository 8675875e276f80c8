//! The command line: what it writes, and its exit codes.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use drawbridge_device::Qos;
use drawbridge_jose::{Algorithm, SigningKey};
use serde_json::Value;

use crate::harness::{
    Background, Core, DRAWBRIDGE, connect, connect_jwt, connect_with, now_s, version_of, wait_for,
};
use crate::invariants::settings;

#[test]
fn exit_codes_tell_usage_denied_not_found_unavailable_and_conflict_apart() {
    let core = Core::start();
    core.device("lamp");
    core.device("door");
    core.cli_ok(&["registry", "add", "plant"]);
    let code = |words: &[&str]| core.cli(words).status.code().expect("an exit code");
    assert_eq!(code(&["device", "show", "lamp"]), 0);
    assert_eq!(code(&["can", "lamp", "publish", "devices/lamp/events/x"]), 0);
    assert_eq!(code(&["device", "shwo", "lamp"]), 2);
    assert_eq!(code(&["device", "add", "a/b"]), 2);
    assert_eq!(code(&["can", "lamp", "publish", "devices/other/x"]), 3);
    assert_eq!(code(&["token", "get", "lamp", "--key", "identities/door/key.pem"]), 3);
    assert_eq!(code(&["device", "show", "nobody"]), 4);
    assert_eq!(code(&["policy", "attach", "nosuch", "lamp"]), 4);
    assert_eq!(code(&["command", "send", "lamp", "on"]), 5);
    assert_eq!(code(&["device", "add", "lamp", "--out", "elsewhere"]), 6);
    assert_eq!(code(&["registry", "add", "plant"]), 6);
    let elsewhere = tempfile::tempdir().expect("temporary folder");
    let output =
        Command::new(DRAWBRIDGE).arg("--data").arg(elsewhere.path()).args(["device", "list"]).output();
    assert_eq!(output.expect("runs").status.code(), Some(5));
}

/// A line of every command, in an order in which each succeeds. `KID` is the key in `second.jwk`.
const EVERY_COMMAND: [&str; 57] = [
    "device add lamp --out ids/lamp",
    "device add own --key second.jwk --out ids/own",
    "device delete own",
    "device list",
    "device show lamp",
    "device block lamp",
    "device unblock lamp",
    "device set lamp --ways certificate,device-jwt,access-token,ace",
    "registry set default --ways all",
    "registry set default --register-certificates gauge-* --register-at-once",
    "policy set all all.toml",
    "policy show all",
    "policy list",
    "app add backend --policy all --out ids/backend",
    "app add idle --out ids/idle",
    "policy attach all idle",
    "app list",
    "app show backend",
    "registry add plant",
    "registry list",
    "registry show plant",
    "--registry plant device list",
    "key add lamp third.jwk",
    "key list lamp",
    "key set lamp KID --label spare --expires 2099-01-01T00:00:00Z",
    "key remove lamp KID",
    "can lamp publish devices/lamp/events/x",
    "token mint --key ids/lamp/key.pem --device lamp --aud bridge --life 5m",
    "token get lamp --key ids/lamp/key.pem",
    "token inspect eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJsYW1wIn0.AAAA",
    "config set lamp dim=1",
    "config get lamp",
    "sub devices/lamp/config --as ids/lamp --count 1",
    "pub devices/lamp/state on --as ids/lamp",
    "state list lamp",
    "device run lamp --as ids/lamp --count 1",
    "pub devices/lamp/events/x hi --as ids/lamp --bound",
    "pub devices/lamp/events/x hi --as ids/lamp --method ace-challenge",
    "pub devices/lamp/events/x hi --as ids/lamp --method ace --symmetric",
    "device refresh lamp --as ids/lamp",
    "device import gw.ndjson",
    "gateway link gw lamp",
    "gateway list gw",
    "gateway list --of lamp",
    "gateway unlink gw lamp",
    "enrol create --id pump-1 --out pump.token",
    "enrol list",
    "device enrol pump-1 --token-file pump.token --out ids/pump-1",
    "enrol approve pump-1",
    "enrol undo pump-1",
    "ca add ROOT",
    "ca list",
    "explain not-proven",
    "audit tail",
    "device revoke lamp",
    "key revoke lamp KID",
    "app delete idle",
];

/// A server and the files that [`EVERY_COMMAND`] reads; answers the lines, each as its words.
fn every_command() -> (Core, Vec<Vec<String>>) {
    let core = Core::start();
    let place = core.place();
    fs::write(place.join("all.toml"), "[[allow]]\npublish = [\"#\"]\nsubscribe = [\"#\"]\n").expect("write");
    let [second, third] = [(); 2].map(|()| SigningKey::generate(Algorithm::EdDsa).expect("a key"));
    for (name, key) in [("second.jwk", &second), ("third.jwk", &third)] {
        fs::write(place.join(name), key.public_key().to_jwk_json()).expect("write");
    }
    fs::write(place.join("gw.ndjson"), "{\"id\":\"gw\",\"gateway\":true}\n").expect("write");
    let root = core.data().join("ca.pem").to_string_lossy().into_owned();
    let word = |word: &str| word.replace("KID", third.public_key().thumbprint()).replace("ROOT", &root);
    let lines = EVERY_COMMAND.map(|line| line.split(' ').map(word).collect());
    (core, lines.into())
}

/// Runs a shell line in which `drawbridge` is the binary under test.
fn shell(core: &Core, line: &str) -> Output {
    let bin = core.place().join("bin");
    if !bin.exists() {
        fs::create_dir(&bin).expect("bin");
        std::os::unix::fs::symlink(DRAWBRIDGE, bin.join("drawbridge")).expect("symlink");
    }
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").expect("PATH"));
    let mut command = Command::new("bash");
    command.args(["-c", &format!("set -o pipefail; {line}")]).current_dir(core.place()).env("PATH", path);
    command.output().expect("bash runs")
}

#[test]
fn every_command_ends_with_a_next_line_that_runs_as_it_is_printed() {
    let (core, lines) = every_command();
    for line in lines {
        let words: Vec<&str> = line.iter().map(String::as_str).collect();
        let output = core.cli(&words);
        assert!(output.status.success(), "{words:?}: {output:?}");
        let (out, err) = (
            String::from_utf8(output.stdout).expect("text"),
            String::from_utf8(output.stderr).expect("text"),
        );
        let is_product = matches!(words[..2], ["token", "mint" | "get"] | ["policy", "show"] | ["sub", _]);
        let told = if is_product { &err } else { &out };
        let next = told.lines().last().and_then(|line| line.strip_prefix("next: "));
        let next = next.unwrap_or_else(|| panic!("{words:?} has no next line: {told}"));
        assert!(!is_product || !out.contains("next:"), "stdout is the product alone: {out}");
        let needs_server = !next.contains(" --as ") && !next.contains("token mint");
        assert_eq!(next.contains(&format!("--data {}", core.data().display())), needs_server, "{next}");
        let in_plant = words[0] == "--registry"
            || words[..2] == ["registry", "show"]
            || words[..2] == ["registry", "add"];
        assert_eq!(next.contains("--registry plant"), in_plant && words[1] != "list", "{words:?}: {next}");
        // What runs until stopped is stopped after one; what waits for a message is only read.
        let next = if next.contains("device run") { format!("{next} --count 1") } else { next.to_owned() };
        if !next.contains("drawbridge sub ") {
            let output = shell(&core, &next);
            assert!(output.status.success(), "{words:?} leads to `{next}`: {output:?}");
        }
    }
}

#[test]
fn with_json_every_command_prints_json_and_nothing_else() {
    let (core, lines) = every_command();
    for line in lines {
        let mut words: Vec<&str> = line.iter().map(String::as_str).collect();
        words.push("--json");
        let output = core.cli(&words);
        assert!(output.status.success(), "{words:?}: {output:?}");
        assert!(output.stderr.is_empty(), "{words:?}: {output:?}");
        let values: Vec<Value> = serde_json::Deserializer::from_slice(&output.stdout)
            .into_iter()
            .collect::<Result<_, _>>()
            .unwrap_or_else(|e| panic!("{words:?}: {e}: {output:?}"));
        assert!(!values.is_empty(), "{words:?} says nothing");
        let value = &values[0];
        match words[..2] {
            ["token", "inspect"] => {
                let wanted = serde_json::json!({
                    "header": { "alg": "ES256" }, "claims": { "sub": "lamp" }, "verified": false,
                });
                assert_eq!(*value, wanted);
            }
            ["token", "get"] => {
                assert!(
                    value["access_token"].is_string() && value["expires_in"].as_u64() > Some(0),
                    "{value}"
                );
            }
            ["device" | "app", "add"] => assert!(value["name"].is_string(), "{value}"),
            ["can", _] => assert_eq!(value["allowed"], true),
            _ => {}
        }
    }
    let output = core.cli(&["can", "lamp", "publish", "devices/door/x", "--json"]);
    let value: Value = serde_json::from_slice(&output.stdout).expect("JSON though denied");
    assert_eq!((output.status.code(), &value["allowed"]), (Some(3), &Value::from(false)));
}

#[test]
fn a_reader_that_leaves_early_is_no_fault_and_a_full_disk_is_one() {
    let core = Core::start();
    core.device("lamp");
    let list = format!("drawbridge --data {} device list", core.data().display());
    // The pipe is closed before anything is written into it.
    let output = shell(&core, &format!("{{ sleep 1; {list}; }} | true"));
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let output = shell(&core, &format!("{list} > /dev/full"));
    assert_eq!(output.status.code(), Some(5));
    assert!(String::from_utf8_lossy(&output.stderr).contains("could not be written"), "{output:?}");
}

/// Runs a line that must fail, and answers what it said after checking code and words.
fn refused(core: &Core, line: &str, code: i32, wanted: &[&str]) -> String {
    let output = core.cli(&line.split(' ').collect::<Vec<_>>());
    let text = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(code), "{line}: {text}");
    for word in wanted {
        assert!(text.contains(word), "{line}: no {word:?} in {text}");
    }
    text
}

#[test]
fn errors_say_what_was_found_what_was_wanted_and_the_mend() {
    let core = Core::start();
    let lamp = core.device("lamp");
    let write = |name: &str, text: &str| fs::write(core.place().join(name), text).expect("write");
    refused(&core, "device add x --key missing.pem", 2, &["missing.pem", "wanted a public key"]);
    refused(&core, "token get lamp --key missing.pem", 2, &["missing.pem", "PKCS#8 PEM"]);
    refused(&core, "policy set p missing.toml", 2, &["missing.toml", "wanted a policy in TOML"]);

    write("good.toml", "[[allow]]\npublish = [\"kept\"]\n");
    write("broken.toml", "[[allow]]\npublish = [\"a/#/b\"]\n");
    core.cli_ok(&["policy", "set", "p", "good.toml"]);
    refused(&core, "policy set p broken.toml", 2, &["broken.toml", "a/#/b", "was not set", "stays in force"]);
    assert!(core.cli_ok(&["policy", "show", "p"]).contains("kept"));

    let server = format!("--server https://{} --ca data/ca.pem", core.endpoints.https);
    core.cli_ok(
        &format!("{server} --token-file data/admin-token device list").split(' ').collect::<Vec<_>>(),
    );
    let line = format!("{server} --token-file identities/lamp/key.pem device list");
    let text = refused(&core, &line, 2, &["identities/lamp/key.pem", "dba_"]);
    let secret = lamp.key.to_pkcs8_pem();
    assert!(!text.contains(secret.lines().nth(1).expect("a body")), "{text}");
    refused(&core, &format!("{server} --token-file nowhere device list"), 2, &["nowhere", "admin-token"]);

    let nosuch = "there is no registry `nosuch`; see `drawbridge registry list`";
    for line in [
        "device list",
        "device show lamp",
        "device add x --out x",
        "key list lamp",
        "policy list",
        "token get lamp --key identities/lamp/key.pem",
    ] {
        refused(&core, &format!("--registry nosuch {line}"), 4, &[nosuch]);
    }
    assert!(!core.place().join("x").exists(), "nothing is written for a device that was not registered");
    refused(&core, "--registry a/b device list", 2, &["--registry", "'/'", "wanted"]);

    refused(&core, "policy attach nosuch lamp", 4, &["nosuch"]);
    refused(&core, "device add x --policy nosuch --out x", 4, &["nosuch"]);
    refused(&core, "device show x", 4, &["x"]);
    assert!(!core.place().join("x").exists(), "no key is kept for a device that was not registered");
    fs::create_dir(core.place().join("used")).expect("folder");
    write("used/device.json", "{}");
    let other = SigningKey::generate(Algorithm::EdDsa).expect("a key");
    write("lamp.jwk", &other.public_key().to_jwk_json());
    refused(&core, "device add x --key lamp.jwk --out used", 6, &["used/device.json", "--out"]);
    refused(&core, "device show x", 4, &["x"]);
    refused(&core, "policy attach p nobody", 4, &["nobody"]);
    refused(&core, "token mint --key identities/lamp/key.pem --device a/b --aud x", 2, &["--device", "'/'"]);
    refused(&core, "explain not-a-word", 4, &["not-a-word", "DB-1007", "not-proven"]);
    let (by_word, by_code) = (core.cli_ok(&["explain", "not-proven"]), core.cli_ok(&["explain", "DB-1007"]));
    assert!(by_word.starts_with("DB-1007 not-proven") && by_word == by_code, "{by_word}");
}

#[test]
fn a_key_in_another_form_is_refused_with_the_command_that_mends_it() {
    let core = Core::start();
    core.device("lamp");
    let made = shell(
        &core,
        "openssl ecparam -name prime256v1 -genkey -noout -out sec1.pem && \
         openssl genrsa -traditional -out pkcs1.pem 2048 && openssl pkey -in sec1.pem -pubout -out public.pem",
    );
    assert!(made.status.success(), "{made:?}");
    refused(
        &core,
        "token get lamp --key public.pem",
        2,
        &["public.pem", "public half", "wanted a private key in PKCS#8 PEM"],
    );
    for (file, form) in [("sec1.pem", "SEC1"), ("pkcs1.pem", "PKCS#1")] {
        let mint = format!("token mint --device lamp --aud a --key {file}");
        let text = refused(&core, &mint, 2, &[file, form, "PKCS#8", "openssl pkcs8"]);
        let mend = text.split('`').find(|part| part.starts_with("openssl")).expect("a command");
        let output = shell(&core, &format!("{mend} && drawbridge {mint}.pkcs8"));
        assert!(output.status.success(), "{mend}: {output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim().split('.').count(), 3);
    }
}

#[test]
fn a_second_server_on_the_folder_or_the_port_is_refused_and_says_so() {
    let core = Core::start();
    let serve = |data: &Path, port: &str| {
        let mut command = Command::new(DRAWBRIDGE);
        command.arg("--data").arg(data).args(["serve", "--https-port", "0", "--mqtts-port", port]);
        let (success, out, err) = Background::start(&mut command).finish(Duration::from_secs(20));
        assert!(!success, "it serves: {out}{err}");
        err
    };
    let text = serve(&core.data(), "0");
    assert!(text.contains("DB-6011") && text.contains("in use by another server"), "{text}");
    let port = core.endpoints.mqtts.rsplit_once(':').expect("a port").1;
    let other = core.place().join("other");
    let text = serve(&other, port);
    assert!(text.contains("DB-6020") && text.contains(&core.endpoints.mqtts), "{text}");
    for line in [
        format!("--data {} serve --mqtts-port 0", core.data().display()),
        format!("--data other2 serve --mqtts-port {port}"),
    ] {
        assert_eq!(
            shell(&core, &format!("drawbridge {line} --https-port 0")).status.code(),
            Some(5),
            "{line}"
        );
    }
    // The first one goes on undisturbed.
    drop(connect(&core.device("lamp")));
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
    let text = core.cli_ok(&["command", "send", "lamp", "on"]);
    let next = format!("next: drawbridge --data {} state list lamp", core.data().display());
    assert_eq!(text.lines().last(), Some(next.as_str()));
    let text = core.cli_ok(&["command", "send", "lamp", "up", "--subfolder", "blinds/left", "--json"]);
    assert!(serde_json::from_str::<Value>(&text).is_ok(), "{text}");
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

#[test]
fn the_ways_of_registry_and_device_and_who_may_register_are_set_shown_and_taken_back() {
    let core = Core::start();
    core.device("lamp");
    let folder = core.identity_folder("lamp").to_string_lossy().into_owned();
    let show = |kind: &str, name: &str| -> serde_json::Value {
        serde_json::from_str(&core.cli_ok(&[kind, "show", name, "--json"])).expect("JSON")
    };
    let publishes = |way: &[&str]| {
        let mut words = vec!["pub", "devices/lamp/events/x", "hi", "--as", &folder];
        words.extend(way);
        core.cli(&words).status.code()
    };
    assert_eq!(publishes(&[]), Some(0));
    // Of a device: the narrower of both counts.
    core.cli_ok(&["device", "set", "lamp", "--ways", "certificate,device-jwt"]);
    assert_eq!(show("device", "lamp")["ways"], serde_json::json!(["certificate", "device-jwt"]));
    assert_eq!(publishes(&["--method", "access-token"]), Some(3), "the device closes it");
    assert_eq!(publishes(&[]), Some(0), "a JWT of its own");
    core.cli_ok(&["registry", "set", "default", "--ways", "certificate,access-token"]);
    assert_eq!(show("registry", "default")["ways"], serde_json::json!(["access-token", "certificate"]));
    assert_eq!(publishes(&[]), Some(3), "the registry closes the JWT, the device what it tries instead");
    assert_eq!(publishes(&["--self-signed"]), Some(0), "which both leave open");
    for (kind, name) in [("registry", "default"), ("device", "lamp")] {
        core.cli_ok(&[kind, "set", name, "--ways", "all"]);
        assert!(show(kind, name)["ways"].is_null(), "{kind}");
    }
    assert_eq!(publishes(&[]), Some(0));
    for bad in ["windows", "certificate,windows", ""] {
        let output = core.cli(&["device", "set", "lamp", "--ways", bad]);
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{bad}: {told}");
        assert!(told.contains("device-jwt"), "the words are named: {told}");
    }
    // Certificates that register their devices.
    let fingerprint = "ab".repeat(32);
    core.cli_ok(&[
        "registry",
        "set",
        "default",
        "--register-certificates",
        "gauge-*",
        "--register-ca",
        &fingerprint,
        "--register-at-once",
        "--register-policy",
        "device",
        "--register-pending-max",
        "7",
        "--register-hourly-max",
        "9",
    ]);
    let set = show("registry", "default")["certificate_registration"].clone();
    for (member, wanted) in [
        ("cas", serde_json::json!([fingerprint])),
        ("auto", true.into()),
        ("policy", "device".into()),
        ("pending_max", 7.into()),
        ("hourly_max", 9.into()),
    ] {
        assert_eq!(set[member], wanted, "{member} of {set}");
    }
    core.cli_ok(&["registry", "set", "default", "--register-certificates", "none"]);
    assert!(show("registry", "default")["certificate_registration"].is_null());
    assert_eq!(core.cli(&["registry", "set", "default", "--register-at-once"]).status.code(), Some(2));
}

#[test]
fn a_session_is_renewed_from_outside_of_its_connection_and_outlives_the_token_that_opened_it() {
    let core = Core::start();
    core.cli_ok(&["registry", "set", "default", "--clock-skew-s", "0"]);
    let lamp = core.device("lamp");
    let folder = core.identity_folder("lamp").to_string_lossy().into_owned();
    assert!(core.cli_ok(&["device", "refresh", "lamp", "--as", &folder]).contains("no session"));
    let jwt = connect_jwt(&lamp, now_s(), 8);
    let mut client = connect_with(&lamp, &jwt).expect("admitted");
    let other = core.cli_ok(&["device", "refresh", "lamp", "--as", &folder, "-i", "lamp:other"]);
    assert!(other.contains("no session"), "another session is meant: {other}");
    let text = core.cli_ok(&["device", "refresh", "lamp", "--as", &folder, "-i", "lamp"]);
    assert!(text.contains("renewed lamp until 20"), "{text}");
    std::thread::sleep(Duration::from_secs(10));
    client
        .publish("devices/lamp/events/x", b"still here", Qos::AtLeastOnce, false)
        .expect("the session goes on");
    // Whose folder it is not is told so.
    let wrong = core.cli(&["device", "refresh", "door", "--as", &folder]);
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
}
