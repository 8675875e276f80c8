//! The device library against a running server: what only a device does.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use drawbridge_device::{
    AceProof, ApiClient, ClientCertificate, ClientOptions, DeviceClient, DeviceError, DeviceIdentity,
    DeviceKey, Endpoint, Event, Host, ProtocolVersion, PublicKey, Qos, Tls, TokenSource, Way,
};
use drawbridge_jose::{Algorithm, Sign, SigningKey};
use serde_json::Value;

use crate::harness::{Core, connect, run_python, wait_for};

/// The identity with another private key.
fn with_key(core: &Core, name: &str, key: SigningKey) -> DeviceIdentity {
    let mut identity = DeviceIdentity::load(&core.identity_folder(name)).expect("an identity");
    identity.key = key;
    identity
}

#[test]
fn a_device_replaces_its_key_by_one_of_another_kind_and_a_lost_answer_costs_nothing() {
    let core = Core::start();
    let old = core.device("lamp");
    assert_eq!(old.key.algorithm(), Algorithm::Es256);
    let key = SigningKey::generate(Algorithm::EdDsa).expect("a key");
    let new = with_key(&core, "lamp", key);
    let api = ApiClient::new(&format!("https://{}", old.https), &old.ca_pem).expect("a client");
    let login = |identity: &DeviceIdentity| api.token("lamp", &identity.issuer, None, &identity.key);

    assert!(matches!(login(&new), Err(DeviceError::Denied(_))), "a key that nobody registered");
    let first = api.replace_key(&old, &new.key).expect("the first call");
    assert_eq!(first.status, 201, "{}", first.text);
    let answer: Value = first.json();
    assert_eq!(answer["kid"], new.public_key().thumbprint(), "{answer}");
    assert_eq!(answer["previous"]["kid"], old.public_key().thumbprint(), "{answer}");

    // The answer was lost: the device knows no better than to ask again, with fresh JWTs.
    let again = api.replace_key(&old, &new.key).expect("the repeated call");
    assert_eq!((again.status, again.json()), (200, answer));
    // Until the new key has proved itself, the old one still opens the door.
    drop(connect(&old));

    login(&new).expect("the new key logs in");
    let refused = login(&old).expect_err("the old key is dead now");
    assert!(matches!(refused, DeviceError::Denied(_)), "{refused}");
    let options = old.mqtt_options().expect("signs");
    let refused = drawbridge_device::MqttClient::connect(&options).expect_err("dead at the bridge too");
    assert!(matches!(refused, DeviceError::Refused { .. }), "{refused}");
    assert!(api.replace_key(&old, &new.key).is_err(), "nor does the old key replace anything");
    drop(connect(&new));

    let keys: Value = serde_json::from_str(&core.cli_ok(&["key", "list", "lamp", "--json"])).expect("JSON");
    let active: Vec<&Value> =
        keys.as_array().expect("a list").iter().filter(|key| key["state"] == "active").collect();
    assert_eq!(active.len(), 1, "{keys}");
    assert_eq!(
        (&active[0]["kid"], &active[0]["alg"]),
        (&Value::from(new.public_key().thumbprint()), &Value::from("EdDSA"))
    );
}

/// A client that has nothing to wait for but the server.
fn started(options: ClientOptions) -> DeviceClient {
    let client = DeviceClient::start(options).expect("starts");
    client.connected(PATIENCE).expect("admitted");
    client
}

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn the_client_enters_by_every_way_it_has_and_its_message_arrives() {
    let core = Core::start();
    drop(core.device("lamp"));
    let backend = core.application("backend", "[[allow]]\nsubscribe = [\"devices/#\"]\n");
    let mut reader = connect(&backend);
    reader.subscribe("devices/lamp/events/#").expect("granted");
    let jwt = |bound| TokenSource::DeviceJwt { life_s: 600, bound };
    let access = TokenSource::AccessToken { scope: None, bound: false };
    let ace = || TokenSource::AceToken { scope: None };
    let symmetric = || TokenSource::AceSymmetric { scope: None };
    let method = |name: &str| Way::Method(name.to_owned());
    let (old, new) = (ProtocolVersion::V311, ProtocolVersion::V5);
    let rows = [
        ("jwt", old, Way::Token, jwt(false)),
        ("jwt 5", new, Way::Token, jwt(false)),
        ("access token", old, Way::Token, access.clone()),
        ("access token 5", new, Way::Token, access),
        ("OAUTH2-JWT", new, method("OAUTH2-JWT"), jwt(false)),
        ("CUSTOM-JWT", new, method("CUSTOM-JWT"), jwt(false)),
        ("ace, exporter", new, Way::Ace(AceProof::Exporter), ace()),
        ("ace, challenge", new, Way::Ace(AceProof::Challenge), ace()),
        ("ace of 3.1.1", old, Way::Ace(AceProof::Exporter), ace()),
        ("HS256, exporter", new, Way::Ace(AceProof::Exporter), symmetric()),
        ("HS256, challenge", new, Way::Ace(AceProof::Challenge), symmetric()),
        ("HS256 of 3.1.1", old, Way::Ace(AceProof::Exporter), symmetric()),
    ];
    for only_1_2 in [false, true] {
        for websocket in [false, true] {
            for (name, version, way, tokens) in rows.clone() {
                let what = format!("{name}, TLS 1.2 only: {only_1_2}, WebSocket: {websocket}");
                let mut options = ClientOptions::of(load(&core, "lamp")).expect("options");
                (options.version, options.way, options.tokens) = (version, way, tokens);
                options.endpoint.tls.as_mut().expect("TLS").only_1_2 = only_1_2;
                if websocket {
                    options.endpoint.server = core.endpoints.https.clone();
                    options.endpoint.websocket = Some("/mqtt".to_owned());
                }
                let client = started(options);
                let delivery = client.telemetry("way", what.as_bytes()).expect("taken");
                delivery.wait(PATIENCE).expect(&what);
                let message = reader.receive(PATIENCE).expect("open").expect(&what);
                assert_eq!(String::from_utf8(message.payload).expect("text"), what);
                assert_eq!(client.stop(PATIENCE), 0);
            }
        }
    }
}

fn load(core: &Core, name: &str) -> DeviceIdentity {
    DeviceIdentity::load(&core.identity_folder(name)).expect("an identity")
}

#[test]
fn sessions_go_on_over_renewals_by_every_door_without_a_message_lost_or_doubled() {
    let core = Core::start();
    core.cli_ok(&["registry", "set", "default", "--token-life-s", "6"]);
    let backend = core.application("backend", "[[allow]]\nsubscribe = [\"devices/#\"]\n");
    let mut reader = connect(&backend);
    reader.subscribe("devices/+/events/#").expect("granted");
    let access = TokenSource::AccessToken { scope: None, bound: false };
    let ace = TokenSource::AceToken { scope: None };
    let symmetric = TokenSource::AceSymmetric { scope: None };
    let rows = [
        ("the topic, 3.1.1", ProtocolVersion::V311, Way::Token, access.clone()),
        ("the topic, 5", ProtocolVersion::V5, Way::Token, access.clone()),
        ("AUTH of one round", ProtocolVersion::V5, Way::Method("OAUTH2-JWT".to_owned()), access),
        ("AUTH of ace", ProtocolVersion::V5, Way::Ace(AceProof::Exporter), ace.clone()),
        ("the topic, ace of 3.1.1", ProtocolVersion::V311, Way::Ace(AceProof::Exporter), ace),
        ("AUTH, HS256", ProtocolVersion::V5, Way::Ace(AceProof::Challenge), symmetric.clone()),
        ("the topic, HS256 of 3.1.1", ProtocolVersion::V311, Way::Ace(AceProof::Exporter), symmetric),
    ];
    for number in 0..rows.len() {
        drop(core.device(&format!("lamp-{number}")));
    }
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reads = scope.spawn(|| {
            let mut heard: BTreeMap<String, Vec<String>> = BTreeMap::new();
            loop {
                match reader.receive(Duration::from_secs(3)).expect("open") {
                    Some(message) => {
                        let text = String::from_utf8(message.payload).expect("text");
                        heard.entry(message.topic).or_default().push(text);
                    }
                    None if ended.load(Ordering::Acquire) => break heard,
                    None => {}
                }
            }
        });
        // All at once: each row waits for the time most of the time.
        let rows = rows.into_iter().enumerate().map(|(number, (name, version, way, tokens))| {
            let core = &core;
            scope.spawn(move || {
                let device = format!("lamp-{number}");
                let mut options = ClientOptions::of(load(core, &device)).expect("options");
                (options.version, options.way, options.tokens) = (version, way, tokens);
                let client = started(options);
                let events = client.events();
                let (mut sent, mut renewals) = (0u64, 0);
                while renewals < 3 {
                    sent += 1;
                    client.telemetry("count", sent.to_string().as_bytes()).expect("taken");
                    match events.recv_timeout(Duration::from_millis(20)) {
                        Ok(Event::Renewed { removed, .. }) => {
                            assert_eq!(removed, [""; 0], "{name}");
                            renewals += 1;
                        }
                        Ok(other) => panic!("{name}: {other:?}"),
                        Err(_) => {}
                    }
                    assert!(sent < 5000, "{name}: no renewal");
                }
                assert_eq!(client.stop(PATIENCE), 0);
                (name, format!("devices/{device}/events/count"), sent)
            })
        });
        // Joined before anybody says how it went: else the reader would read on when one of them fails.
        let sent: Vec<_> = rows.collect::<Vec<_>>().into_iter().map(|row| row.join()).collect();
        ended.store(true, Ordering::Release);
        let heard = reads.join().expect("it reads");
        for row in sent {
            let (name, topic, sent) = row.expect("the row goes well");
            let wanted: Vec<String> = (1..=sent).map(|number| number.to_string()).collect();
            assert_eq!(heard.get(&topic), Some(&wanted), "{name}");
        }
    });
}

#[test]
fn a_client_replaces_its_key_and_goes_on_with_the_new_one() {
    let core = Core::start();
    let old = core.device("lamp");
    let client = started(ClientOptions::of(load(&core, "lamp")).expect("options"));
    let commands = client.commands().expect("subscribes");
    commands.granted(PATIENCE).expect("granted");
    let events = client.events();
    let kept = core.place().join("new-key.pem");
    client.rotate_key(Algorithm::EdDsa, |new| drawbridge_device::store_key(&kept, new)).expect("replaced");
    // The session goes on with the new key, in place.
    let after = events.recv_timeout(PATIENCE).expect("an event");
    assert!(matches!(after, Event::Renewed { .. }), "{after:?}");
    let key = drawbridge_device::load_key(&kept).expect("it was stored before it was sent");
    let api = core.api();
    api.token("lamp", &old.issuer, None, &key).expect("the new key logs in");
    assert!(api.token("lamp", &old.issuer, None, &old.key).is_err(), "the old key is replaced");
    client.telemetry("after", b"1").expect("taken").wait(PATIENCE).expect("the session goes on");
}

#[test]
fn commands_answer_when_the_device_is_done_and_configs_and_states_arrive() {
    let core = Core::start();
    drop(core.device("lamp"));
    let client = started(ClientOptions::of(load(&core, "lamp")).expect("options"));
    let name = client.name().to_owned();
    let reporter = client.clone();
    client
        .on(&format!("devices/{name}/commands/#"), Qos::AtLeastOnce, move |command| {
            if command.payload == b"explode" {
                return command.refuse();
            }
            reporter.report_state(&command.payload).expect("taken");
        })
        .expect("subscribes");
    let config = client.config().expect("subscribes");
    config.granted(PATIENCE).expect("granted");
    core.cli_ok(&["command", "send", "lamp", "on"]);
    let refused = core.cli(&["command", "send", "lamp", "explode"]);
    assert_eq!(refused.status.code(), Some(5), "{refused:?}");
    core.cli_ok(&["config", "set", "lamp", "bright"]);
    let taken = loop {
        let one = config.receive(PATIENCE).expect("a config");
        if !one.payload.is_empty() {
            break one; // the first is the one of before, which is none
        }
    };
    assert_eq!(taken.payload, b"bright");
    wait_for("the state", PATIENCE, || {
        core.cli_ok(&["state", "list", "lamp", "--json"]).contains("b24").then_some(())
    });
    let _ = client.stop(PATIENCE);
}

/// A clock at 1970.
struct Unset;

impl drawbridge_device::Environment for Unset {
    fn now_s(&self) -> u64 {
        17
    }
    fn elapsed(&self) -> Duration {
        drawbridge_device::Host.elapsed()
    }
    fn random(&self, bytes: &mut [u8]) {
        drawbridge_device::Host.random(bytes);
    }
}

#[test]
fn a_clock_at_1970_and_a_client_that_has_to_wait_for_its_server() {
    let mut core = Core::start();
    drop(core.device("lamp"));
    let options = || {
        let mut options = ClientOptions::of(load(&core, "lamp")).expect("options");
        options.environment = std::sync::Arc::new(Unset);
        options
    };
    let client = started(options());
    client.telemetry("x", b"1").expect("taken").wait(PATIENCE).expect("acknowledged");
    assert_eq!(client.stop(PATIENCE), 0);
    let options = options();
    core.stop();
    let waiting = DeviceClient::start(options).expect("starts");
    let refused = waiting.connected(PATIENCE).expect_err("nobody listens");
    assert!(matches!(refused, DeviceError::Connection { .. }), "{refused:?}");
    waiting.telemetry("x", b"2").expect("kept");
    assert_eq!(waiting.stop(Duration::from_millis(1)), 1);
}

#[test]
fn the_examples_of_the_library_run() {
    let core = Core::start();
    drop(core.device("lamp"));
    let folder = core.identity_folder("lamp");
    let example = |name: &str, words: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO"));
        command.args(["run", "--quiet", "--offline", "-p", "drawbridge-device", "--example", name, "--"]);
        command.arg(&folder).args(words).current_dir(env!("CARGO_MANIFEST_DIR"));
        command.stdout(std::process::Stdio::piped()).spawn().expect("cargo runs")
    };
    let said = |child: std::process::Child| {
        let output = child.wait_with_output().expect("it ends");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    let text = said(example("sensor", &["2"]));
    assert!(text.contains("20 °C") && text.ends_with("0 left\n"), "{text}");
    let text = said(example("secure_element", &[]));
    assert!(text.ends_with("0 left\n"), "{text}");
    let lamp = example("lamp", &["2"]);
    wait_for("the lamp", Duration::from_secs(60), || {
        core.cli(&["command", "send", "lamp", "on", "--wait", "2s"]).status.success().then_some(())
    });
    assert_eq!(core.cli(&["command", "send", "lamp", "wink"]).status.code(), Some(5), "it was rejected");
    let text = said(lamp);
    assert!(text.contains("command on\nrejected\n"), "{text}");
}

#[test]
fn plain_paho_renews_over_the_topic_and_is_cut_off_when_it_does_not() {
    let core = Core::start();
    core.cli_ok(&["registry", "set", "default", "--clock-skew-s", "0"]);
    drop(core.device("lamp"));
    let folder = core.identity_folder("lamp").to_string_lossy().into_owned();
    let backend = core.application("backend", "[[allow]]\nsubscribe = [\"devices/#\"]\n");
    let mut reader = connect(&backend);
    reader.subscribe("devices/lamp/events/#").expect("granted");
    let script = "../../../../examples/renew.py";
    for version in ["3.1.1", "5"] {
        let words = [folder.as_str(), "--life", "3", "--version", version, "--renewals", "5"];
        let text = run_python(script, &words);
        assert!(text.contains("5 renewals, the same connection"), "{text}");
        let mut wanted = 1;
        loop {
            let message = reader.receive(PATIENCE).expect("open").expect("a message");
            if message.payload == b"end" {
                break;
            }
            assert_eq!(message.payload, wanted.to_string().as_bytes());
            wanted += 1;
        }
        assert!(wanted > 50, "{wanted}");
        core.cli_ok(&["device", "set", "lamp", "--clock", "none"]);
        let clockless =
            [folder.as_str(), "--life", "3", "--version", version, "--renewals", "2", "--clockless"];
        let text = run_python(script, &clockless);
        assert!(text.contains("2 renewals, the same connection"), "{text}");
        core.cli_ok(&["device", "set", "lamp", "--clock", "good"]);
        while reader.receive(Duration::from_millis(300)).expect("open").is_some() {}
        let text = run_python(script, &[folder.as_str(), "--life", "3", "--version", version, "--never"]);
        assert!(text.contains("cut off after"), "{text}");
        while reader.receive(Duration::from_millis(300)).expect("open").is_some() {}
    }
    assert!(!core.log().contains("eyJ"), "no token stands in the log");
}

#[test]
fn device_run_sends_lines_prints_commands_and_renews_by_itself() {
    let core = Core::start();
    core.cli_ok(&["registry", "set", "default", "--token-life-s", "3"]);
    drop(core.device("lamp"));
    let mut child = std::process::Command::new(crate::harness::DRAWBRIDGE)
        .args(["--data", &core.data().to_string_lossy(), "--json", "device", "run", "lamp", "-l"])
        .args(["--method", "access-token", "--as", &core.identity_folder("lamp").to_string_lossy()])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("runs");
    let mut stdin = child.stdin.take().expect("piped");
    let say = |stdin: &mut std::process::ChildStdin, line: &str| {
        std::io::Write::write_all(stdin, format!("{line}\n").as_bytes()).expect("it reads");
    };
    say(&mut stdin, "{\"lux\":1}");
    say(&mut stdin, "/state ready");
    wait_for("the state", PATIENCE, || {
        core.cli_ok(&["state", "list", "lamp", "--json"]).contains("cmVhZHk").then_some(())
    });
    wait_for("the command", PATIENCE, || {
        core.cli(&["command", "send", "lamp", "on", "--wait", "2s"]).status.success().then_some(())
    });
    std::thread::sleep(Duration::from_secs(7));
    say(&mut stdin, "last");
    drop(stdin);
    let output = child.wait_with_output().expect("ends");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("text");
    for wanted in ["\"renewed\"", "devices/lamp/commands", "devices/lamp/events/report", "\"last\""] {
        assert!(text.contains(wanted), "{wanted} in {text}");
    }
    assert!(!text.contains("\"disconnected\""), "{text}");
}

#[test]
fn a_certificate_of_the_registered_key_that_the_library_made_opens_a_session_alone_and_beside_a_jwt() {
    let core = Core::start();
    drop(core.device("lamp"));
    for version in [ProtocolVersion::V311, ProtocolVersion::V5] {
        for way in [Way::Certificate, Way::Token] {
            let mut options = ClientOptions::of(load(&core, "lamp")).expect("options");
            let key = options.login.as_ref().expect("`of` gives one").key.clone();
            let shown = ClientCertificate::self_signed("lamp", key, &Host).expect("made");
            options.endpoint.tls.as_mut().expect("TLS").certificate = Some(shown);
            (options.version, options.way) = (version, way);
            let client = started(options);
            client.telemetry("way", b"certificate").expect("taken").wait(PATIENCE).expect("acknowledged");
            assert_eq!(client.stop(PATIENCE), 0);
        }
    }
    // Another's key opens nothing.
    drop(core.device("door"));
    let mut options = ClientOptions::of(load(&core, "lamp")).expect("options");
    let stranger = std::sync::Arc::new(drawbridge_device::create_key(Algorithm::EdDsa).expect("a key"));
    let shown = ClientCertificate::self_signed("lamp", stranger, &Host).expect("made");
    options.endpoint.tls.as_mut().expect("TLS").certificate = Some(shown);
    options.way = Way::Certificate;
    let refused = DeviceClient::start(options).expect("starts").connected(PATIENCE).expect_err("refused");
    assert!(matches!(refused, DeviceError::Refused { .. }), "{refused:?}");
}

/// A client of the device whose clock stands at 1970.
fn without_clock(core: &Core, name: &str) -> ClientOptions {
    let mut options = ClientOptions::of(load(core, name)).expect("options");
    options.environment = std::sync::Arc::new(Unset);
    options
}

#[test]
fn a_device_without_a_clock_renews_over_its_connection_by_the_nonce_of_the_server() {
    let core = Core::start();
    let (old, new) = (ProtocolVersion::V311, ProtocolVersion::V5);
    let rows = [
        ("cb, 3.1.1", old, Way::Token, true),
        ("cb, 5", new, Way::Token, true),
        ("cb, AUTH", new, Way::Method("OAUTH2-JWT".to_owned()), true),
        // Its TLS exports nothing: it comes in by a token over HTTPS, and renews by itself.
        ("no exporter, 3.1.1", old, Way::Token, false),
        ("no exporter, 5", new, Way::Token, false),
    ];
    // Without `cb` the first connection is refused, and the token over HTTPS decides when to renew.
    core.cli_ok(&["registry", "set", "default", "--token-life-s", "6"]);
    for number in 0..rows.len() {
        let name = format!("lamp-{number}");
        drop(core.device(&name));
        core.cli_ok(&["device", "set", &name, "--clock", "none"]);
    }
    std::thread::scope(|scope| {
        for (number, (name, version, way, bound)) in rows.into_iter().enumerate() {
            let core = &core;
            scope.spawn(move || {
                let mut options = without_clock(core, &format!("lamp-{number}"));
                (options.version, options.way) = (version, way);
                options.tokens = TokenSource::DeviceJwt { life_s: 10, bound };
                let client = DeviceClient::start(options).expect("starts");
                assert!(client.wait_connected(PATIENCE), "{name}");
                let events = client.events();
                for _ in 0..2 {
                    match events.recv_timeout(PATIENCE).expect("an event") {
                        // Of the JWT, and not of an access token.
                        Event::Renewed { life: Some(life), .. } => assert!(
                            life > Duration::from_secs(6) && life <= Duration::from_secs(10),
                            "{name}: {life:?}"
                        ),
                        other => panic!("{name}: {other:?}"),
                    }
                }
                let delivery = client.telemetry("x", name.as_bytes()).expect("taken");
                delivery.wait(PATIENCE).expect("acknowledged");
                assert_eq!(client.stop(PATIENCE), 0);
            });
        }
    });
}

#[test]
fn a_token_of_one_server_is_not_presented_to_another() {
    let (own, other) = (Core::start(), Core::start());
    drop((own.device("lamp"), other.device("lamp")));
    for proof in [AceProof::Exporter, AceProof::Challenge] {
        let mut options = ClientOptions::of(load(&own, "lamp")).expect("options");
        (options.way, options.tokens) = (Way::Ace(proof), TokenSource::AceToken { scope: None });
        drop(started(options.clone()));
        // It has been led astray, to one whose certificate it believes.
        options.endpoint = ClientOptions::of(load(&other, "lamp")).expect("options").endpoint;
        let refused = DeviceClient::start(options).expect("starts").connected(PATIENCE).expect_err("another");
        assert!(matches!(refused, DeviceError::OtherServer { .. }), "{refused:?}");
    }
}

#[test]
fn raw_public_keys_let_in_the_device_that_has_one_and_are_spoken_to_no_other_server() {
    let settings = tempfile::NamedTempFile::new().expect("a file");
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port").port();
    let raw = format!("127.0.0.1:{port}");
    std::fs::write(settings.path(), format!("[listener.raw]\naddress = \"{raw}\"\nraw_keys = true\n"))
        .expect("written");
    let core = Core::start_with(&["--config", &settings.path().to_string_lossy()]);
    let lamp = core.device("lamp");
    let pem = std::fs::read_to_string(core.data().join("raw-key.pub.pem")).expect("for everybody to read");
    let server = PublicKey::from_pem(&pem).expect("a key");
    let options = |trusted: &PublicKey, shown: Option<std::sync::Arc<dyn DeviceKey>>, way: Way, version| {
        let mut options = ClientOptions::of(load(&core, "lamp")).expect("options");
        let mut tls = Tls::with_raw_key(trusted);
        tls.certificate = shown.map(|key| ClientCertificate::raw_key(key).expect("such keys are shown"));
        options.endpoint = Endpoint { server: raw.clone(), tls: Some(tls), websocket: None };
        (options.way, options.version) = (way, version);
        options
    };
    let own =
        || -> Option<std::sync::Arc<dyn DeviceKey>> { Some(std::sync::Arc::new(load(&core, "lamp").key)) };
    for version in [ProtocolVersion::V311, ProtocolVersion::V5] {
        for (way, shown) in [(Way::Certificate, own()), (Way::Token, own()), (Way::Token, None)] {
            let client = started(options(&server, shown, way, version));
            client.telemetry("way", b"raw key").expect("taken").wait(PATIENCE).expect("acknowledged");
            assert_eq!(client.stop(PATIENCE), 0);
        }
    }
    // A key that nobody registered lets nobody in; and of another server nothing is believed.
    let stranger: std::sync::Arc<dyn DeviceKey> =
        std::sync::Arc::new(drawbridge_device::create_key(Algorithm::EdDsa).expect("a key"));
    let refused =
        |options| DeviceClient::start(options).expect("starts").connected(PATIENCE).expect_err("refused");
    let told = refused(options(&server, Some(stranger), Way::Certificate, ProtocolVersion::V5));
    assert!(matches!(told, DeviceError::Refused { .. }), "{told:?}");
    let told = refused(options(lamp.public_key(), own(), Way::Certificate, ProtocolVersion::V5));
    assert!(matches!(told, DeviceError::Tls { .. }), "{told:?}");
    let mut old = options(&server, own(), Way::Certificate, ProtocolVersion::V5);
    old.endpoint.tls.as_mut().expect("TLS").only_1_2 = true;
    assert!(refused(old).to_string().contains("TLS 1.3"));
    // The command line has it too.
    let folder = core.identity_folder("lamp").to_string_lossy().into_owned();
    let key = core.data().join("raw-key.pub.pem").to_string_lossy().into_owned();
    core.cli_ok(&["pub", "devices/lamp/events/x", "hi", "--as", &folder, "--mqtts", &raw, "--raw-key", &key]);
}

#[test]
fn a_key_is_rotated_in_its_folder_and_a_process_that_dies_between_the_halves_finds_its_way() {
    let core = Core::start();
    drop(core.device("lamp"));
    let folder = core.identity_folder("lamp");
    let key = || drawbridge_device::load_key(&folder.join("key.pem")).expect("a key");
    let first = key();
    let client = started(ClientOptions::load(&folder).expect("options"));
    let events = client.events();
    client.rotate_key_in_folder(Algorithm::EdDsa).expect("replaced");
    let after = events.recv_timeout(PATIENCE).expect("an event");
    assert!(matches!(after, Event::Renewed { .. }), "in place: {after:?}");
    let second = key();
    assert_ne!(second.public_key(), first.public_key());
    assert_eq!(client.stop(PATIENCE), 0);
    // The server has the third; the process died before it was `key.pem`.
    let third = drawbridge_device::create_key(Algorithm::Es256).expect("a key");
    drawbridge_device::store_key(&folder.join("next-key.pem"), &third).expect("stored");
    core.api().replace_key(&load(&core, "lamp"), &third).expect("replaced");
    let issuer = load(&core, "lamp").issuer;
    core.api().token("lamp", &issuer, None, &third).expect("it has proved itself: the second is dead");
    let client = DeviceClient::start(ClientOptions::load(&folder).expect("options")).expect("starts");
    assert!(client.wait_connected(PATIENCE));
    client.telemetry("x", b"1").expect("taken").wait(PATIENCE).expect("acknowledged");
    assert_eq!(key().public_key(), third.public_key());
    assert!(!folder.join("next-key.pem").exists());
}

#[test]
fn a_client_is_told_what_a_change_of_policy_takes_and_that_it_was_renewed_from_outside() {
    let core = Core::start();
    let own = "[[allow]]\npublish = [\"devices/${device}/#\"]\nsubscribe = [\"devices/${device}/#\"";
    let set = |more: &str| {
        let file = core.place().join("lamps.toml");
        std::fs::write(&file, format!("{own}{more}]\n")).expect("written");
        core.cli_ok(&["policy", "set", "lamps", &file.to_string_lossy()]);
    };
    set(", \"plant/#\"");
    drop(core.device("lamp"));
    core.cli_ok(&["policy", "attach", "lamps", "lamp"]);
    for version in [ProtocolVersion::V311, ProtocolVersion::V5] {
        let mut options = ClientOptions::of(load(&core, "lamp")).expect("options");
        options.version = version;
        let client = started(options);
        let [own, plant] = ["devices/lamp/commands/#", "plant/#"]
            .map(|filter| client.subscribe(filter, Qos::AtLeastOnce).expect("a filter"));
        for subscription in [&own, &plant] {
            subscription.granted(PATIENCE).expect("granted");
        }
        let events = client.events();
        set("");
        match events.recv_timeout(PATIENCE).expect("an event") {
            Event::Renewed { removed, .. } => assert_eq!(removed, ["plant/#"], "{version:?}"),
            other => panic!("{version:?}: {other:?}"),
        }
        let folder = core.identity_folder("lamp").to_string_lossy().into_owned();
        wait_for("the second after the change", PATIENCE, || {
            core.cli_ok(&["device", "refresh", "lamp", "--as", &folder])
                .contains("renewed lamp")
                .then_some(())
        });
        match events.recv_timeout(PATIENCE).expect("an event") {
            Event::Renewed { life: Some(life), removed } => {
                assert!(removed.is_empty() && life > Duration::from_secs(3000), "{version:?}: {life:?}");
            }
            other => panic!("{version:?}: {other:?}"),
        }
        assert_eq!(client.stop(PATIENCE), 0);
        set(", \"plant/#\"");
    }
}
