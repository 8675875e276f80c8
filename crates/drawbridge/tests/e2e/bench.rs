//! `drawbridge bench`: every scenario runs against our server, and the ones that any broker can serve against Mosquitto.

use std::fs;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Core, DRAWBRIDGE, version_of, wait_for};

const POLICY: &str =
    "[[allow]]\npublish = [\"bench/#\", \"devices/#\"]\nsubscribe = [\"bench/#\", \"devices/#\"]\n";

/// A server with an application that may use the topics of the load.
fn core() -> Core {
    let core = Core::start_with(&["--insecure-mqtt-port", "0", "--insecure-anonymous", "bench"]);
    core.application("bench", POLICY);
    core
}

/// Runs a scenario; it must succeed. Answers its JSON.
fn bench(words: &str, more: &[&str]) -> Value {
    let output = run(words, more, "");
    assert!(output.status.success(), "bench {words}: {output:?}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn run(words: &str, more: &[&str], stdin: &str) -> Output {
    let mut child = Command::new(DRAWBRIDGE)
        .arg("bench")
        .args(words.split_whitespace())
        .args(more)
        .arg("--json")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the generator starts");
    child.stdin.take().expect("piped").write_all(stdin.as_bytes()).expect("written");
    child.wait_with_output().expect("ends")
}

fn figure(found: &Value, name: &str) -> f64 {
    found["results"][name].as_f64().unwrap_or_else(|| panic!("no {name} in {found}"))
}

const SHORT: &str = "--duration 1 --warm-up 0";

#[test]
fn every_scenario_runs_without_tls_and_counts_what_came() {
    let core = core();
    let plain = core.endpoints.mqtt.clone().expect("there is a plain listener");
    let pid = core.pid().to_string();
    let more = ["--plain", "--target", plain.as_str(), "--server-pid", pid.as_str()];
    for version in ["3.1.1", "5"] {
        for words in [
            "fan-in --clients 5",
            "fan-in --clients 5 --qos 1 --payload 16 --in-flight 3",
            "fan-out --clients 5 --qos 1 --payload 3000",
            "filters --filters 300 --connections 3 --publishers 2",
            "pairs --pairs 5 --rate 500 --qos 1",
        ] {
            let found = bench(&format!("{words} {SHORT} --version {version}"), &more);
            assert!(figure(&found, "messages") > 100.0, "{found}");
            assert!(figure(&found, "server_cpu_s") > 0.0, "{found}");
            assert_eq!(found["results"]["lost"].as_f64().unwrap_or(0.0), 0.0, "{found}");
            assert_eq!(found["settings"]["version"], version);
        }
    }
    let pairs = bench(&format!("pairs --pairs 5 --rate 500 {SHORT}"), &more);
    // What is due in a second, but for what is on its way at the end of it.
    assert!((figure(&pairs, "messages") - 500.0).abs() < 50.0, "{pairs}");
    assert!(figure(&pairs, "delivery_p50_us") > 0.0 && figure(&pairs, "delivery_p999_us") > 0.0, "{pairs}");
    let connects = bench("connect --connections 60 --at-once 20", &more);
    assert_eq!(figure(&connects, "connects"), 60.0);
    let idle = bench("idle --connections 50 --rest 1 --burst 3", &more);
    assert_eq!(figure(&idle, "burst_messages"), 150.0);
    let durable = bench(&format!("durable --publishers 4 --sessions 2 {SHORT}"), &more);
    assert!(figure(&durable, "acknowledged") > 100.0, "{durable}");
}

#[test]
fn over_tls_every_device_has_a_jwt_of_its_own_and_all_come_back_after_a_storm() {
    let core = core();
    let place = core.place();
    let text = |path: std::path::PathBuf| path.to_string_lossy().into_owned();
    let (app, fleet) = (text(core.identity_folder("bench")), text(place.join("fleet")));
    core.cli_ok(&["bench", "keys", &fleet, "--like", &app, "--count", "30", "--prefix", "pump"]);
    core.cli_ok(&["device", "import", &format!("{fleet}/devices.ndjson")]);
    let again = core.cli(&["bench", "keys", &fleet, "--like", &app]);
    assert_eq!(again.status.code(), Some(6), "nothing is overwritten");
    let target = core.endpoints.mqtts.as_str();
    let more = ["--target", target, "--as", &app, "--keys", &fleet];
    let fan_in = bench(&format!("fan-in --clients 10 --qos 1 {SHORT}"), &more);
    assert!(figure(&fan_in, "messages") > 100.0, "{fan_in}");
    let connects = bench("connect --connections 30 --at-once 30 --x25519", &more);
    assert_eq!(figure(&connects, "connects"), 30.0);
    let storm = bench("connect --storm --connections 20 --pairs 5 --rate 200", &more);
    assert_eq!(figure(&storm, "connects"), 20.0);
    assert!(figure(&storm, "others_before_p50_us") > 0.0 && figure(&storm, "back_all_ms") > 0.0, "{storm}");
    let log = core.log();
    assert!(log.contains("pump-000007"), "the devices logged in as themselves");
}

#[test]
fn what_cannot_be_measured_ends_with_the_exit_code_of_its_cause() {
    let core = core();
    let plain = core.endpoints.mqtt.clone().expect("there is a plain listener");
    let app = core.identity_folder("bench").to_string_lossy().into_owned();
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let nobody = silent.local_addr().expect("bound").to_string();
    drop(silent);
    let cases: [(&[&str], i32, &str); 7] = [
        (&["--plain", "--target", "nowhere"], 2, "host:port"),
        (&["--target", &plain], 2, "--ca"),
        (&["--plain", "--target", &plain, "--as", &app], 2, "without TLS"),
        (&["--plain", "--target", &plain, "--server-pid", "4294967295"], 2, "--server-pid"),
        (&["--plain", "--target", &plain, "--qos", "3"], 2, "0..=2"),
        (&["--plain", "--target", &nobody], 5, "connection"),
        (&["--plain", "--target", &plain, "--topic", "elsewhere/{client}"], 3, "refused"),
    ];
    for (more, code, said) in cases {
        let output = run("fan-in --clients 2 --duration 1", more, "");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{more:?}: {text}");
        assert!(text.contains(said), "{more:?}: {text}");
        assert!(output.stdout.is_empty(), "{more:?}");
    }
}

/// Mosquitto on a free port, with one password for all; ended when dropped.
struct Mosquitto(Child, String, tempfile::TempDir);

impl Mosquitto {
    fn start() -> Self {
        version_of("mosquitto", "-h");
        let place = tempfile::tempdir().expect("temporary folder");
        let passwords = place.path().join("passwords");
        let mut made = Command::new("mosquitto_passwd");
        made.args(["-b", "-c"]).arg(&passwords).args(["bench", "secret"]);
        assert!(made.output().expect("mosquitto_passwd runs").status.success());
        let port =
            TcpListener::bind("127.0.0.1:0").and_then(|probe| probe.local_addr()).expect("a port").port();
        let file = place.path().join("mosquitto.conf");
        let user = "user root\n"; // of no account unless it is started by root
        let shown = passwords.display();
        let text = format!("{user}listener {port} 127.0.0.1\nallow_anonymous false\npassword_file {shown}\n");
        fs::write(&file, text).expect("written");
        let mut child = Command::new("mosquitto");
        child.arg("-c").arg(&file).stdout(Stdio::null()).stderr(Stdio::null());
        let child = child.spawn().expect("mosquitto starts");
        let address = format!("127.0.0.1:{port}");
        wait_for("mosquitto", Duration::from_secs(10), || TcpStream::connect(&address).ok());
        Self(child, address, place)
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn another_broker_is_measured_alike_at_every_qos_and_a_wrong_password_is_refused() {
    let mosquitto = Mosquitto::start();
    let more = ["--plain", "--target", &mosquitto.1, "--username", "bench", "--password-stdin"];
    for words in [
        "fan-in --qos 0",
        "fan-in --qos 1",
        "fan-in --qos 2",
        "durable --publishers 5",
        "pairs --qos 2 --pairs 3",
    ] {
        let clients = if words.starts_with("fan") { "--clients 5" } else { "" };
        for version in ["3.1.1", "5"] {
            let output = run(&format!("{words} {clients} {SHORT} --version {version}"), &more, "secret\n");
            assert!(output.status.success(), "{words}: {output:?}");
            let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
            let name = if words.starts_with("durable") { "acknowledged" } else { "messages" };
            assert!(figure(&found, name) > 100.0, "{found}");
        }
    }
    let refused = run(&format!("fan-in --clients 1 {SHORT}"), &more, "wrong\n");
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
    let _ = &mosquitto.2;
}
