//! MQTT clients that no one here wrote.

use std::process::Command;
use std::time::Duration;

use drawbridge_device::DeviceIdentity;

use serde_json::json;

use crate::harness::{
    Background, Core, connect, connect_jwt, node_folder, now_s, run_node, run_python, version_of,
};

fn mosquitto(
    program: &str,
    core: &Core,
    identity: &DeviceIdentity,
    version: &str,
    password: &str,
) -> Command {
    let (host, port) = core.endpoints.mqtts.rsplit_once(':').expect("host:port");
    let mut command = Command::new(program);
    command
        .args(["-h", host, "-p", port, "-V", version, "-i", &identity.device, "-u", "unused", "-P", password])
        .arg("--cafile")
        .arg(core.data().join("ca.pem"));
    command
}

#[test]
fn mosquitto_clients_publish_and_receive_over_both_versions_of_both_protocols() {
    version_of("mosquitto_pub", "--version");
    version_of("mosquitto_sub", "--version");
    let core = Core::start();
    let sensor = core.device("sensor");
    let viewer = core.application("viewer", "[[allow]]\nsubscribe = [\"devices/#\"]\n");
    let mut rounds = 0;
    for version in ["mqttv311", "mqttv5"] {
        for tls in ["tlsv1.2", "tlsv1.3"] {
            for qos in ["0", "1"] {
                let (password, text) = (connect_jwt(&viewer, now_s(), 600), format!("{version} {tls} {qos}"));
                let mut sub = mosquitto("mosquitto_sub", &core, &viewer, version, &password);
                sub.args(["-t", "devices/+/events/#", "-q", qos, "-C", "1", "-v", "-W", "20", "-d"]);
                let sub = Background::start(sub.args(["--tls-version", tls]));
                std::thread::sleep(Duration::from_millis(400));
                let password = connect_jwt(&sensor, now_s(), 600);
                let mut publish = mosquitto("mosquitto_pub", &core, &sensor, version, &password);
                publish.args(["-t", "devices/sensor/events/x", "-m", &text, "-q", qos, "--tls-version", tls]);
                let published = publish.output().expect("mosquitto_pub");
                assert!(published.status.success(), "{text}: {published:?}");
                let (ok, out, err) = sub.finish(Duration::from_secs(25));
                assert!(
                    ok && out.contains(&format!("devices/sensor/events/x {text}")),
                    "{text}: {out} {err}"
                );
                rounds += 1;
            }
        }
    }
    assert_eq!(rounds, 8);
}

#[test]
fn a_mosquitto_client_with_a_forged_jwt_is_told_it_is_not_authorised() {
    let core = Core::start();
    let sensor = core.device("sensor");
    let other = core.device("other");
    // Right name, wrong key.
    let forged = DeviceIdentity { key: other.key, ..sensor };
    let password = connect_jwt(&forged, now_s(), 600);
    for (version, wanted) in [("mqttv311", "not authorised"), ("mqttv5", "Not authorized")] {
        let mut publish = mosquitto("mosquitto_pub", &core, &forged, version, &password);
        let output =
            publish.args(["-t", "devices/sensor/events/x", "-m", "x"]).output().expect("mosquitto_pub");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && text.contains(wanted), "{version}: {output:?}");
    }
    core.wait_for_log(&["sig"]);
}

#[test]
fn mosquitto_pub_is_refused_a_topic_of_another_device() {
    let core = Core::start();
    let sensor = core.device("sensor");
    let password = connect_jwt(&sensor, now_s(), 600);
    let mut publish = mosquitto("mosquitto_pub", &core, &sensor, "mqttv5", &password);
    let output =
        publish.args(["-t", "devices/other/events/x", "-m", "x", "-q", "1"]).output().expect("mosquitto_pub");
    let text =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(text.to_lowercase().contains("not authorized"), "{output:?}");
}

#[test]
fn paho_sessions_of_both_versions_work_and_are_refused_as_they_should() {
    for version in ["3.1.1", "5"] {
        // A server each: the retained message of one session must not be seen by the next.
        paho_session(version, "tcp");
    }
}

#[test]
fn paho_sessions_over_websocket_are_the_same() {
    for version in ["3.1.1", "5"] {
        paho_session(version, "websockets");
    }
}

fn paho_session(version: &str, transport: &str) {
    let core = Core::start();
    let sensor = core.device("sensor");
    let viewer = core.application(
        "viewer",
        "[[allow]]\nsubscribe = [\"devices/#\"]\npublish = [\"devices/+/commands/#\"]\n",
    );
    let address = if transport == "tcp" { &core.endpoints.mqtts } else { &core.endpoints.wss };
    let (host, port) = address.rsplit_once(':').expect("host:port");
    let ca = core.data().join("ca.pem");
    let text = run_python(
        "paho_session.py",
        &[
            host,
            port,
            &ca.to_string_lossy(),
            version,
            &sensor.device,
            &connect_jwt(&sensor, now_s(), 600),
            &viewer.device,
            &connect_jwt(&viewer, now_s(), 600),
            transport,
        ],
    );
    assert!(text.contains("9 checks passed"), "{version}: {text}");
}

#[test]
fn mqtt_js_sessions_over_websocket_work_and_are_refused_as_they_should() {
    let core = Core::start();
    let (sensor, forger) = (core.device("sensor"), core.device("forger"));
    let viewer = core.application("viewer", "[[allow]]\nsubscribe = [\"devices/#\"]\n");
    let forged = DeviceIdentity { key: forger.key, ..core.device("unused") };
    let forged = DeviceIdentity { device: sensor.device.clone(), ..forged };
    let (_, port) = core.endpoints.wss.rsplit_once(':').expect("host:port");
    let world = json!({
        "url": format!("wss://localhost:{port}/mqtt"), "packages": node_folder(),
        "sensor": { "name": sensor.device, "jwt": connect_jwt(&sensor, now_s(), 600) },
        "viewer": { "name": viewer.device, "jwt": connect_jwt(&viewer, now_s(), 600) },
        "forged": connect_jwt(&forged, now_s(), 600),
    });
    let path = core.place().join("world.json");
    std::fs::write(&path, world.to_string()).expect("write");
    let ca = core.data().join("ca.pem");
    let text = run_node("mqtt_over_websocket.mjs", &ca, &[&path.to_string_lossy()]);
    assert!(text.contains("35 checks passed"), "{text}");
}

#[test]
fn packets_sent_before_connack_are_held_and_then_served() {
    let core = Core::start();
    let sensor = core.device("sensor");
    let viewer = core.application("viewer", "[[allow]]\nsubscribe = [\"devices/#\"]\n");
    let mut watcher = connect(&viewer);
    watcher.subscribe("devices/#").expect("granted");
    let (host, port) = core.endpoints.mqtts.rsplit_once(':').expect("host:port");
    let ca = core.data().join("ca.pem");
    let jwt = connect_jwt(&sensor, now_s(), 600);
    let text = run_python("eager_client.py", &[host, port, &ca.to_string_lossy(), &sensor.device, &jwt]);
    assert!(text.contains("connack 0, suback 1, pubacks 3"), "{text}");
    for expected in ["0", "1", "2"] {
        let message = watcher.receive(Duration::from_secs(5)).expect("connected").expect("a message");
        assert_eq!(message.payload, expected.as_bytes());
    }
}

#[test]
fn a_google_style_device_speaks_with_its_old_client_id_topics_and_audience() {
    let core = Core::start();
    core.cli_ok(&["registry", "add", "plant", "--google", "my-project/europe-west1"]);
    let folder = core.place().join("meter");
    core.cli_ok(&["--registry", "plant", "device", "add", "meter", "--out", &folder.to_string_lossy()]);
    let meter = DeviceIdentity::load(&folder).expect("an identity");
    let policy = core.place().join("all.toml");
    std::fs::write(&policy, "[[allow]]\nsubscribe = [\"devices/#\"]\n").expect("write");
    core.cli_ok(&["--registry", "plant", "policy", "set", "all", &policy.to_string_lossy()]);
    let viewer = core.place().join("viewer");
    core.cli_ok(&[
        "--registry",
        "plant",
        "app",
        "add",
        "viewer",
        "--policy",
        "all",
        "--out",
        &viewer.to_string_lossy(),
    ]);
    let mut watcher = connect(&DeviceIdentity::load(&viewer).expect("an identity"));
    watcher.subscribe("devices/#").expect("granted");

    // Google's devices have no `sub`: the client id names the device, `aud` is the project.
    let claims = serde_json::json!({ "aud": "my-project", "iat": now_s(), "exp": now_s() + 600 });
    let jwt = crate::harness::jwt(Some("JWT"), &claims, &meter.key);
    let publish = |device: &str, project: &str| {
        let (host, port) = core.endpoints.mqtts.rsplit_once(':').expect("host:port");
        Command::new("mosquitto_pub")
            .args(["-h", host, "-p", port, "-V", "mqttv311", "-u", "unused", "-P", &jwt, "--cafile"])
            .arg(core.data().join("ca.pem"))
            .args([
                "-i",
                &format!("projects/{project}/locations/europe-west1/registries/plant/devices/{device}"),
            ])
            .args(["-t", &format!("/devices/{device}/events/kwh"), "-m", "17", "-q", "1"])
            .output()
            .expect("mosquitto_pub")
    };
    let output = publish("meter", "my-project");
    assert!(output.status.success(), "{output:?}\n{}", core.log());
    let message = watcher.receive(Duration::from_secs(5)).expect("connected").expect("the message");
    assert_eq!((message.topic.as_str(), &message.payload[..]), ("devices/meter/events/kwh", &b"17"[..]));
    assert!(!publish("meter", "other-project").status.success(), "another project's path was admitted");
    assert!(!publish("other", "my-project").status.success(), "another device's path was admitted");
}

#[test]
fn the_insecure_port_takes_no_token_and_lets_only_the_named_application_in() {
    let core = Core::start_with(&["--insecure-mqtt-port", "0", "--insecure-anonymous", "guest"]);
    let plain = core.endpoints.mqtt.clone().expect("a plain listener");
    let (host, port) = plain.rsplit_once(':').expect("host:port");
    let publish = |more: &[&str]| {
        let mut command = Command::new("mosquitto_pub");
        command
            .args(["-h", host, "-p", port, "-V", "mqttv5", "-t", "lab/x", "-m", "1", "-q", "1"])
            .args(more);
        let output = command.output().expect("mosquitto_pub");
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    };
    let (ok, text) = publish(&["-i", "a"]);
    assert!(!ok, "let in before the application exists: {text}");
    core.application("guest", "[[allow]]\npublish = [\"lab/#\"]\n");
    let (ok, text) = publish(&["-i", "a"]);
    assert!(ok, "{text}\n{}", core.log());
    let sensor = core.device("sensor");
    let jwt = connect_jwt(&sensor, now_s(), 600);
    let (ok, text) = publish(&["-i", "sensor", "-u", "unused", "-P", &jwt]);
    assert!(!ok, "a token was taken without TLS: {text}");
    core.wait_for_log(&["MQTT without TLS"]);
}
