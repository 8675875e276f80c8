//! What is durable, and what MQTT 5 adds, as stock clients see it: paho-mqtt, MQTT.js, the mosquitto clients, rumqttc.

use std::fs;
use std::process::Command;
use std::time::Duration;

use drawbridge_device::DeviceIdentity;
use serde_json::json;

use crate::harness::{
    Background, Core, connect_jwt, node_folder, now_s, run_node, run_python, version_of, wait_for,
};
use crate::plain::{ARGS, guest};

/// An application that may everything below `lab`, with any client id.
fn lab(core: &Core) -> DeviceIdentity {
    core.application("lab", "[[allow]]\npublish = [\"lab/#\"]\nsubscribe = [\"lab/#\"]\n")
}

#[test]
fn paho_keeps_its_sessions_and_uses_all_of_both_versions() {
    for (version, least) in [("3.1.1", 100), ("5", 140)] {
        let core = Core::start();
        let app = lab(&core);
        let (host, port) = core.endpoints.mqtts.rsplit_once(':').expect("host:port");
        let (ca, jwt) = (core.data().join("ca.pem"), connect_jwt(&app, now_s(), 600));
        let text = run_python("paho_durable.py", &[host, port, &ca.to_string_lossy(), version, "lab", &jwt]);
        all_passed(&text, least);
    }
}

#[test]
fn mqtt_js_keeps_its_sessions_and_uses_all_of_both_versions() {
    let core = Core::start();
    let app = lab(&core);
    let (_, port) = core.endpoints.mqtts.rsplit_once(':').expect("host:port");
    let world = json!({
        "url": format!("mqtts://localhost:{port}"), "packages": node_folder(),
        "name": "lab", "jwt": connect_jwt(&app, now_s(), 600),
    });
    let path = core.place().join("world.json");
    fs::write(&path, world.to_string()).expect("write");
    let text = run_node("durable.mjs", &core.data().join("ca.pem"), &[&path.to_string_lossy()]);
    all_passed(&text, 22);
}

/// A script that skipped its checks would not have counted them.
fn all_passed(text: &str, least: u32) {
    let count = text.lines().find_map(|line| line.strip_suffix(" checks passed")).expect("a last line");
    assert!(count.parse::<u32>().expect("a number") >= least, "{text}");
}

/// One of the mosquitto clients as `lab:NAME`.
fn mosquitto(core: &Core, app: &DeviceIdentity, program: &str, name: &str, version: &str) -> Command {
    let (host, port) = core.endpoints.mqtts.rsplit_once(':').expect("host:port");
    let mut command = Command::new(program);
    command
        .args(["-h", host, "-p", port, "-V", version, "-i", &format!("lab:{name}"), "-u", "unused", "-P"])
        .arg(connect_jwt(app, now_s(), 600))
        .arg("--cafile")
        .arg(core.data().join("ca.pem"));
    command
}

/// Runs it to its end, which must be a good one; answers its lines.
fn lines(command: &mut Command) -> Vec<String> {
    let output = command.output().expect("it runs");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

#[test]
fn mosquitto_clients_keep_sessions_and_share_ask_and_leave_wills() {
    for program in ["mosquitto_sub", "mosquitto_pub", "mosquitto_rr"] {
        version_of(program, "--version");
    }
    let core = Core::start();
    let app = lab(&core);
    for version in ["mqttv311", "mqttv5"] {
        let client = |program: &str, name: &str| mosquitto(&core, &app, program, name, version);
        let publish = |topic: &str, text: &str, qos: &str, more: &[&str]| {
            lines(client("mosquitto_pub", "say").args(["-t", topic, "-m", text, "-q", qos]).args(more));
        };
        let kept: &[&str] = if version == "mqttv5" { &["-c", "-x", "600"] } else { &["-c"] };
        let (topic, session) = (format!("lab/{version}"), format!("kept-{version}"));
        lines(client("mosquitto_sub", &session).args(kept).args(["-t", &topic, "-q", "2", "-E"]));
        for (text, qos) in [("one", "1"), ("two", "1"), ("three", "2")] {
            publish(&topic, text, qos, &[]);
        }
        let mut sub = client("mosquitto_sub", &session);
        let sub = sub.args(kept).args(["-t", &topic, "-q", "2", "-C", "3", "-W", "20"]);
        assert_eq!(lines(sub), ["one", "two", "three"], "{version}");

        publish(&format!("{topic}/last"), "word", "1", &["-r"]);
        let mut sub = client("mosquitto_sub", "retained");
        let sub = sub.args(["-t", &format!("{topic}/last"), "-C", "1", "-W", "20", "--retained-only"]);
        assert_eq!(lines(sub), ["word"], "{version}");

        // A will of one that is killed; each reader says that it is there by a retained message it has got.
        let mut reader = client("mosquitto_sub", "reader");
        reader.args(["-t", &format!("{topic}/will"), "-t", &format!("{topic}/last"), "-q", "2", "-C", "2"]);
        let reader = Background::start(reader.args(["-W", "20", "-d"]));
        let dying = client("mosquitto_sub", "dying")
            .args(["-t", &format!("{topic}/none"), "--will-topic", &format!("{topic}/will")])
            .args(["--will-payload", "gone", "--will-qos", "2"])
            .stdout(std::process::Stdio::null())
            .spawn()
            .expect("starts");
        let mut dying = Background(dying);
        wait_for("both are there", Duration::from_secs(20), || {
            let log = core.log();
            (log.contains("lab:dying") && log.contains("lab:reader")).then_some(())
        });
        std::thread::sleep(Duration::from_millis(700));
        dying.0.kill().expect("killed");
        let (ok, out, err) = reader.finish(Duration::from_secs(30));
        assert!(ok && out.lines().any(|line| line == "gone"), "{version}: {out} {err}");

        // Two members of a group and one other: each message comes to one of the two.
        let listen = |name: &str, filter: &str| {
            let mut sub = client("mosquitto_sub", name);
            Background::start(sub.args(["-t", filter, "-q", "1", "-W", "4"]))
        };
        let shared = format!("$share/team/{topic}/work");
        let readers = [listen("m1", &shared), listen("m2", &shared), listen("m3", &format!("{topic}/work"))];
        std::thread::sleep(Duration::from_secs(1));
        for number in 0..10 {
            publish(&format!("{topic}/work"), &number.to_string(), "1", &[]);
        }
        let got = readers.map(|reader| reader.finish(Duration::from_secs(20)).1);
        let numbers = |texts: &[String]| {
            let mut all: Vec<String> =
                texts.iter().flat_map(|text| text.lines().map(str::to_owned)).collect();
            all.sort_unstable();
            all
        };
        let all: Vec<String> = (0..10).map(|number| number.to_string()).collect();
        assert_eq!((numbers(&got[..2]), numbers(&got[2..])), (all.clone(), all), "{version}");
    }

    // Request and response, of which only 5.0 knows.
    let client = |program: &str, name: &str| mosquitto(&core, &app, program, name, "mqttv5");
    let mut service = client("mosquitto_sub", "service");
    service.args(["-t", "lab/ask", "-q", "1", "-C", "1", "-W", "20", "-F", "%R %D %C %p"]);
    let service = Background::start(&mut service);
    std::thread::sleep(Duration::from_secs(1));
    let mut asker = client("mosquitto_rr", "asker");
    asker.args(["-t", "lab/ask", "-e", "lab/answer", "-m", "what", "-q", "1", "-W", "20"]);
    asker.args(["-D", "publish", "content-type", "text/plain", "-D", "publish", "correlation-data", "c7"]);
    let asker = Background::start(&mut asker);
    let (ok, asked, err) = service.finish(Duration::from_secs(30));
    assert!(ok && asked.trim() == "lab/answer c7 text/plain what", "{asked} {err}");
    lines(client("mosquitto_pub", "say").args(["-t", "lab/answer", "-m", "that", "-q", "1"]));
    let (ok, answer, err) = asker.finish(Duration::from_secs(30));
    assert!(ok && answer.trim() == "that", "{answer} {err}");
}

/// What a client of rumqttc heard.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    ConnAck { present: bool },
    SubAck,
    Message { topic: String, text: String },
    Acknowledged,
}

/// One half of rumqttc has topics as text, the other as bytes.
fn text(topic: impl AsRef<[u8]>) -> String {
    String::from_utf8_lossy(topic.as_ref()).into_owned()
}

/// The same tests for the two halves of rumqttc, which have different types with the same names.
macro_rules! rumqttc {
    ($half:ident, $crate_path:path, $packet:path, $qos:path, $will:expr, $keep:expr) => {
        mod $half {
            use std::sync::Arc;
            use std::sync::atomic::{AtomicBool, Ordering};
            use std::sync::mpsc::{Receiver, channel};
            use std::thread::JoinHandle;
            use std::time::Duration;

            use $crate_path::{Client, Event, MqttOptions};
            use $packet as Packet;
            use $qos as QoS;

            use super::{Heard, text};
            use crate::harness::Core;

            /// A client with its event loop on a thread of its own.
            pub(super) struct Rumqttc {
                client: Client,
                heard: Receiver<Heard>,
                stop: Arc<AtomicBool>,
                thread: Option<JoinHandle<()>>,
                pub(super) present: bool,
            }

            impl Rumqttc {
                pub(super) fn join(core: &Core, name: &str, keep: bool, will: Option<&str>) -> Self {
                    let address = core.endpoints.mqtt.as_ref().expect("a plain listener");
                    let (host, port) = address.rsplit_once(':').expect("host:port");
                    let id = format!("{}-{name}", stringify!($half));
                    let mut options = MqttOptions::new(id, host, port.parse().expect("a port"));
                    options.set_keep_alive(Duration::from_secs(30));
                    $keep(&mut options, keep);
                    if let Some(topic) = will {
                        options.set_last_will($will(topic));
                    }
                    let (client, mut connection) = Client::new(options, 1_000);
                    let (sender, heard) = channel();
                    let stop = Arc::new(AtomicBool::new(false));
                    let stopped = Arc::clone(&stop);
                    let thread = std::thread::spawn(move || {
                        while !stopped.load(Ordering::Relaxed) {
                            let packet = match connection.recv_timeout(Duration::from_millis(20)) {
                                Ok(Ok(Event::Incoming(packet))) => packet,
                                Ok(Err(error)) => panic!("the connection ended: {error}"),
                                _ => continue,
                            };
                            let heard = match packet {
                                Packet::ConnAck(ack) => Heard::ConnAck { present: ack.session_present },
                                Packet::SubAck(_) => Heard::SubAck,
                                Packet::PubAck(_) | Packet::PubComp(_) => Heard::Acknowledged,
                                Packet::Publish(publish) => Heard::Message {
                                    text: String::from_utf8_lossy(&publish.payload).into_owned(),
                                    topic: text(publish.topic),
                                },
                                _ => continue,
                            };
                            let _ = sender.send(heard);
                        }
                    });
                    let mut joined = Self { client, heard, stop, thread: Some(thread), present: false };
                    match joined.next() {
                        Heard::ConnAck { present } => joined.present = present,
                        other => panic!("{other:?} for CONNACK"),
                    }
                    joined
                }

                pub(super) fn next(&self) -> Heard {
                    self.heard.recv_timeout(Duration::from_secs(20)).expect("a packet in 20 s")
                }

                pub(super) fn is_silent(&self) -> bool {
                    self.heard.recv_timeout(Duration::from_millis(500)).is_err()
                }

                pub(super) fn subscribe(&self, filter: &str) {
                    self.client.subscribe(filter, QoS::ExactlyOnce).expect("asked");
                    assert_eq!(self.next(), Heard::SubAck);
                }

                /// Says messages 0, 1, 2 ... at QoS 1, then 2 (`mixed`), or all at 2, and waits for every answer.
                pub(super) fn say(&self, topic: &str, count: usize, mixed: bool) {
                    for number in 0..count {
                        let qos =
                            if mixed && number < count / 2 { QoS::AtLeastOnce } else { QoS::ExactlyOnce };
                        self.client.publish(topic, qos, false, number.to_string()).expect("said");
                    }
                    for _ in 0..count {
                        assert_eq!(self.next(), Heard::Acknowledged);
                    }
                }

                pub(super) fn hears(&self, topic: &str, count: usize) {
                    for number in 0..count {
                        let wanted = Heard::Message { topic: topic.to_owned(), text: number.to_string() };
                        assert_eq!(self.next(), wanted);
                    }
                }

                /// The socket is closed without DISCONNECT.
                pub(super) fn vanish(self) {
                    drop(self);
                }
            }

            impl Drop for Rumqttc {
                fn drop(&mut self) {
                    self.stop.store(true, Ordering::Relaxed);
                    let ended = self.thread.take().expect("once").join();
                    assert!(ended.is_ok() || std::thread::panicking(), "the event loop");
                }
            }

            pub(super) fn run(core: &Core) {
                let topic = concat!("lab/", stringify!($half));
                let join = |name, keep| Rumqttc::join(core, name, keep, None);
                let (say, kept) = (join("say", false), join("kept", true));
                assert!(!kept.present);
                kept.subscribe(topic);
                kept.vanish();
                say.say(topic, 20, true);
                let kept = join("kept", true);
                assert!(kept.present, "the session is there");
                kept.hears(topic, 20);
                say.say(topic, 300, false);
                kept.hears(topic, 300);
                assert!(kept.is_silent(), "nothing twice");

                let (watch, will) = (join("watch", false), format!("{topic}/will"));
                watch.subscribe(&will);
                Rumqttc::join(core, "dying", false, Some(&will)).vanish();
                assert_eq!(watch.next(), Heard::Message { topic: will, text: "gone".to_owned() });

                let members = [join("m1", false), join("m2", false)];
                let work = format!("{topic}/work");
                members.iter().for_each(|member| member.subscribe(&format!("$share/team/{work}")));
                say.say(&work, 40, true);
                let mut found: Vec<usize> = Vec::new();
                while found.len() < 40 {
                    for member in &members {
                        while let Ok(heard) = member.heard.recv_timeout(Duration::from_millis(200)) {
                            match heard {
                                Heard::Message { text, .. } => found.push(text.parse().expect("a number")),
                                other => panic!("{other:?} for a message"),
                            }
                        }
                    }
                }
                found.sort_unstable();
                assert_eq!(found, (0..40).collect::<Vec<_>>(), "each to one member");
            }
        }
    };
}

rumqttc!(
    v4,
    rumqttc,
    rumqttc::Packet,
    rumqttc::QoS,
    |topic| rumqttc::LastWill::new(topic, "gone", rumqttc::QoS::ExactlyOnce, false),
    |options: &mut rumqttc::MqttOptions, keep: bool| {
        options.set_clean_session(!keep);
    }
);
rumqttc!(
    v5,
    rumqttc::v5,
    rumqttc::v5::mqttbytes::v5::Packet,
    rumqttc::v5::mqttbytes::QoS,
    |topic| rumqttc::v5::mqttbytes::v5::LastWill::new(
        topic,
        "gone",
        rumqttc::v5::mqttbytes::QoS::ExactlyOnce,
        false,
        None
    ),
    |options: &mut rumqttc::v5::MqttOptions, keep: bool| {
        options.set_clean_start(!keep);
        options.set_session_expiry_interval(keep.then_some(600));
    }
);

#[test]
fn rumqttc_keeps_its_sessions_in_both_versions() {
    let lock = fs::read_to_string(crate::harness::repository().join("Cargo.lock")).expect("Cargo.lock");
    let at = lock.find("name = \"rumqttc\"").expect("rumqttc");
    println!("rumqttc: {}", lock[at..].lines().nth(1).expect("its version"));
    let core = Core::start_with(&ARGS);
    guest(&core);
    v4::run(&core);
    v5::run(&core);
}
