//! What the broker has acknowledged is there after kills and power cuts of the real process, as outside clients saw it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use drawbridge_broker::storage::{
    Batch, MessageId, Record, SessionId, Storage, StorageListener, StoredSession, TimeBase,
};
use drawbridge_device::DeviceIdentity;
use drawbridge_message_log::{LogConfig, MessageLog, RealDisk};
use drawbridge_names::{MqttClientId, TopicFilter};

use crate::disk::{Disk, Keep, Lost};
use crate::harness::{
    Background, Core, connect, connect_jwt, now_s, python, repository, version_of, wait_for,
};

/// Longest start with the sessions of [`Plan::sessions`]: three times the promise, for a busy machine and this build.
const START_MAX: Duration = Duration::from_secs(30);

/// What is done to the server.
struct Plan {
    kills: u32,
    /// Stored sessions of others that are there all the time.
    sessions: u64,
    /// Whether the power fails with every kill.
    power_cuts: bool,
}

#[test]
fn f1_nothing_acknowledged_is_lost_in_10_kills_under_load() {
    run(&Plan { kills: 10, sessions: 10_000, power_cuts: false });
}

/// `cargo xtask soak`; the last result stands in `docs/reliability.md`.
#[test]
#[ignore = "long: 200 kills"]
fn soak_f1_nothing_acknowledged_is_lost_in_200_kills_under_load() {
    run(&Plan { kills: 200, sessions: 10_000, power_cuts: false });
}

#[test]
#[ignore = "long: 100,000 stored sessions"]
fn soak_f1_the_server_is_there_in_time_with_100_000_sessions() {
    run(&Plan { kills: 20, sessions: 100_000, power_cuts: false });
}

#[test]
fn f2_nothing_acknowledged_is_lost_when_the_power_fails_under_load() {
    run(&Plan { kills: 4, sessions: 100, power_cuts: true });
}

#[test]
#[ignore = "long: 100 power cuts"]
fn soak_f2_nothing_acknowledged_is_lost_in_100_power_cuts_under_load() {
    run(&Plan { kills: 100, sessions: 10_000, power_cuts: true });
}

/// Two publishers at QoS 1 and 2, and three subscribers with stored sessions, one of which is often away, are stock
/// paho-mqtt in processes of their own. They find the server again after each kill and go on with their sessions. In
/// the end every message whose PUBACK or PUBCOMP was read has come to every subscriber, in the order of its topic
/// (repetitions at QoS 1 aside), at QoS 2 exactly once, and the last word on each topic stands.
fn run(plan: &Plan) {
    let settings = tempfile::NamedTempFile::new().expect("a file");
    // Nothing may be dropped here because somebody is away for long.
    fs::write(&settings, "[messages]\nqueue_messages_max = 10_000_000\nqueue_bytes_max = 4_294_967_296\n")
        .expect("written");
    let mut core = Core::prepared(&["--config", &settings.path().to_string_lossy()]);
    let disk = plan.power_cuts.then(|| Disk::below(&mut core, "messages"));
    core.run_again();
    fill(&mut core, plan.sessions);
    if disk.is_some() {
        // What the tests themselves have put there is on the disk.
        fs::remove_file(core.place().join("disk-journal")).expect("the journal");
    }
    core.run_again();
    core.device("probe");
    let mut random = Random(0x5eed);

    let all = "[[allow]]\nsubscribe = [\"devices/#\"]\n";
    let subscribers = [("live-2", "5", "2"), ("live-1", "3.1.1", "1"), ("often-away", "5", "2")];
    let readers: Vec<_> = subscribers
        .iter()
        .map(|(name, version, qos)| player(&core, "subscribe", &core.application(name, all), version, qos))
        .collect();
    for (name, ..) in &subscribers {
        wait_for("subscription", Duration::from_secs(30), || {
            Log::read(&core, name).is_subscribed.then_some(())
        });
    }
    let publishers = [("source-a", "5"), ("source-b", "3.1.1")];
    let writers: Vec<_> = publishers
        .iter()
        .map(|(name, version)| player(&core, "publish", &core.device(name), version, "700"))
        .collect();

    let (mut starts, mut rates, mut lost) = (Vec::new(), Vec::new(), Lost::default());
    let away = core.place().join("away-often-away");
    let logs = publishers.map(|(name, _)| log_of(&core, name));
    let sizes = || logs.each_ref().map(|log| fs::metadata(log).map_or(0, |meta| meta.len()));
    for round in 0..plan.kills {
        let before = sizes();
        wait_for("publishes under way", Duration::from_secs(60), || {
            // Some 50 acknowledgements of each.
            sizes().iter().zip(before).all(|(now, before)| *now > before + 2_000).then_some(())
        });
        match round % 3 {
            0 => fs::write(&away, "").expect("written"),
            2 => fs::remove_file(&away).expect("it was away"),
            _ => {}
        }
        let (begun, acknowledged) = (Instant::now(), sizes());
        std::thread::sleep(Duration::from_millis(50 + random.next() % 300));
        core.kill();
        let lines: usize = logs.iter().zip(acknowledged).map(|(log, from)| lines_behind(log, from)).sum();
        rates.push(lines as f64 / begun.elapsed().as_secs_f64());
        if let Some(disk) = &disk {
            let keep = if round % 2 == 0 { Keep::Nothing } else { Keep::Any };
            let taken = disk.power_cut(keep, || random.next());
            lost = Lost { bytes: lost.bytes + taken.bytes, names: lost.names + taken.names };
        }
        let begun = Instant::now();
        core.run_again();
        drop(connect(&again(&core, "probe")));
        starts.push(begun.elapsed());
    }
    let _ = fs::remove_file(&away);
    fs::write(core.place().join("stop"), "").expect("written");
    for player in writers.into_iter().chain(readers) {
        let (ok, out, err) = player.finish(Duration::from_secs(120));
        assert!(ok, "{out}\n{err}");
    }

    let acknowledged = publishers.map(|(name, _)| Log::read(&core, name));
    acknowledged.iter().for_each(Log::kept_its_session);
    let count: usize = acknowledged.iter().flat_map(|log| log.acknowledged.values()).map(Vec::len).sum();
    for (name, _, qos) in &subscribers {
        let seen = Log::read(&core, name);
        seen.kept_its_session();
        for log in &acknowledged {
            for (topic, numbers) in &log.acknowledged {
                let came = seen.messages.get(topic).map_or(&[][..], Vec::as_slice);
                assert_eq!(judge(*qos == "2", topic, numbers, came), Ok(()), "{name}");
            }
        }
    }
    for (log, (name, _)) in acknowledged.iter().zip(publishers) {
        let topic = format!("devices/{name}/events/state");
        let last = log.acknowledged[&topic].last().expect("some were said");
        assert_eq!(retained(&core, &topic), *last, "the last word on {topic}");
    }
    starts.sort_unstable();
    rates.sort_unstable_by(f64::total_cmp);
    let (median, slowest) = (starts[starts.len() / 2], starts[starts.len() - 1]);
    println!(
        "{} kills, {} stored sessions: {count} messages acknowledged, each came to 3 subscribers; about {:.0} \
         acknowledged a second while it ran (median); there again after {median:.1?} (median), {slowest:.1?} \
         (longest){}",
        plan.kills,
        plan.sessions,
        rates[rates.len() / 2],
        if plan.power_cuts { format!("; taken by power cuts: {lost:?}") } else { String::new() },
    );
    assert!(slowest < START_MAX, "the start took {slowest:?}");
    if plan.power_cuts {
        assert!(lost.bytes > 0, "no power cut took anything: this was no test");
    }
}

/// What is wrong with what came of the messages on a topic that were acknowledged, all of which must come in order.
fn judge(exactly: bool, topic: &str, acknowledged: &[u64], seen: &[u64]) -> Result<(), String> {
    let all: BTreeSet<u64> = seen.iter().copied().collect();
    let missing: Vec<_> = acknowledged.iter().filter(|number| !all.contains(number)).collect();
    if !missing.is_empty() {
        return Err(format!("{topic}: acknowledged and lost: {missing:?}"));
    }
    let (mut met, mut highest) = (BTreeSet::new(), 0);
    for number in seen {
        let is_new = met.insert(*number);
        if is_new && *number < highest {
            return Err(format!("{topic}: {number} came after {highest}"));
        }
        if !is_new && exactly && topic.ends_with("exactly") {
            return Err(format!("{topic}: {number} came twice"));
        }
        highest = highest.max(*number);
    }
    Ok(())
}

/// Lines of a file behind its first `from` bytes.
fn lines_behind(path: &Path, from: u64) -> usize {
    let bytes = fs::read(path).expect("the log of a client");
    bytes[usize::try_from(from).expect("a length")..].iter().filter(|byte| **byte == b'\n').count()
}

/// What a client wrote down.
#[derive(Default)]
struct Log {
    name: String,
    is_subscribed: bool,
    /// For each CONNACK, whether its session was present.
    present: Vec<bool>,
    refused: Vec<String>,
    acknowledged: BTreeMap<String, Vec<u64>>,
    messages: BTreeMap<String, Vec<u64>>,
}

fn log_of(core: &Core, name: &str) -> PathBuf {
    core.place().join(format!("{name}.log"))
}

impl Log {
    fn read(core: &Core, name: &str) -> Self {
        let mut log = Self { name: name.to_owned(), ..Self::default() };
        let text = fs::read_to_string(log_of(core, name)).unwrap_or_default();
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["C", present] => log.present.push(present == "1"),
                ["S"] => log.is_subscribed = true,
                ["A" | "M", _, "end"] | ["E"] => {}
                // The last line may be half written.
                ["A", topic, number] => put(&mut log.acknowledged, topic, number),
                ["M", topic, number] => put(&mut log.messages, topic, number),
                _ => log.refused.push(line.to_owned()),
            }
        }
        log
    }

    /// It was never refused, and found its session again each time.
    fn kept_its_session(&self) {
        assert!(self.refused.is_empty(), "{}: {:?}", self.name, self.refused);
        let first = self.present.iter().position(|present| *present);
        assert_eq!(first, Some(1), "{}: a session is there from the second time on", self.name);
        assert!(self.present[1..].iter().all(|present| *present), "{}: a session was lost", self.name);
    }
}

fn put(map: &mut BTreeMap<String, Vec<u64>>, topic: &str, number: &str) {
    map.entry(topic.to_owned()).or_default().push(number.parse().expect("a number"));
}

/// A client in a process of its own.
fn player(core: &Core, role: &str, identity: &DeviceIdentity, version: &str, more: &str) -> Background {
    let script = repository().join("crates/drawbridge/tests/clients/through_kills.py");
    let paths = [core.place().to_owned(), core.data().join("endpoints.json"), core.data().join("ca.pem")];
    let mut command = Command::new(python());
    command.arg(script).arg(role).args(paths);
    Background::start(command.args([version, &identity.device, &connect_jwt(identity, now_s(), 3_600), more]))
}

/// An identity that was made here, with the address that the server has now.
fn again(core: &Core, name: &str) -> DeviceIdentity {
    let identity = DeviceIdentity::load(&core.identity_folder(name)).expect("the identity");
    DeviceIdentity { mqtts: core.endpoints.mqtts.clone(), ..identity }
}

/// The number that is retained on a topic, as mosquitto_sub gets it.
fn retained(core: &Core, topic: &str) -> u64 {
    let watcher = again(core, "live-1");
    let (host, port) = core.endpoints.mqtts.rsplit_once(':').expect("host:port");
    let output = Command::new("mosquitto_sub")
        .args(["-h", host, "-p", port, "-i", "live-1:2", "-u", "unused", "-P"])
        .arg(connect_jwt(&watcher, now_s(), 600))
        .args(["-t", topic, "-q", "1", "-C", "1", "-W", "20", "--retained-only", "--cafile"])
        .arg(core.data().join("ca.pem"))
        .output()
        .expect("mosquitto_sub");
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim().trim_end_matches('.').parse().unwrap_or_else(|e| panic!("{e}: {output:?}"))
}

/// Leaves `sessions` stored sessions, each with a subscription, in the message log: the first is made by mosquitto_sub,
/// the others are like it and are put there while the server does not run. Ends with the server stopped.
fn fill(core: &mut Core, sessions: u64) {
    version_of("mosquitto_sub", "--version");
    let fleet = core.application("fleet", "[[allow]]\nsubscribe = [\"fleet/#\"]\n");
    let (host, port) = core.endpoints.mqtts.rsplit_once(':').expect("host:port");
    let made = Command::new("mosquitto_sub")
        .args([
            "-h", host, "-p", port, "-V", "mqttv5", "-c", "-x", "86400", "-i", "fleet:0", "-u", "unused",
            "-P",
        ])
        .arg(connect_jwt(&fleet, now_s(), 600))
        .args(["-t", "fleet/0/#", "-q", "1", "-E", "--cafile"])
        .arg(core.data().join("ca.pem"))
        .output()
        .expect("mosquitto_sub");
    assert!(made.status.success(), "{made:?}");
    core.stop();

    let time = TimeBase { instant: Instant::now(), unix_ms: now_s() * 1_000 };
    let disk = RealDisk::open(&core.data().join("messages")).expect("the folder");
    let opened = MessageLog::open(Arc::new(disk), LogConfig::default(), time, Arc::new(Instant::now));
    let opened = opened.expect("a log in order");
    let first = opened.image.sessions.values().next().expect("the session of mosquitto_sub");
    let terms = *first.subscriptions.values().next().expect("its subscription");
    let (like, from) = (first.session.clone(), opened.image.session_max);
    let told = Arc::new(Told::default());
    let log = opened.log.start(told.clone(), || panic!("the log is broken")).expect("it starts");
    let numbers: Vec<u64> = (1..sessions).collect();
    let mut batches = 0;
    for numbers in numbers.chunks(500) {
        batches += 1;
        let records = numbers.iter().flat_map(|number| {
            let id = SessionId(from + number);
            let client_id = MqttClientId::parse(&format!("fleet:{number}")).expect("a client id");
            let filter = TopicFilter::parse(&format!("fleet/{number}/#")).expect("a filter");
            let session = StoredSession { id, client_id, ..like.clone() };
            [Record::Session(Box::new(session)), Record::Subscribed { session: id, filter, terms }]
        });
        log.submit(0, Batch { number: batches, records: records.collect(), urgent: true });
    }
    wait_for("stored sessions", Duration::from_secs(60), || {
        (told.0.load(Ordering::Relaxed) == batches).then_some(())
    });
    log.close();
}

/// The last batch that is stored.
#[derive(Default)]
struct Told(AtomicU64);

impl StorageListener for Told {
    fn committed(&self, _shard: usize, number: u64) {
        self.0.store(number, Ordering::Relaxed);
    }

    fn fetched(
        &self,
        _shard: usize,
        _session: SessionId,
        _messages: Vec<(MessageId, Option<Arc<drawbridge_broker::Message>>)>,
    ) {
    }

    fn stalled(&self, stalled: bool) {
        assert!(!stalled, "the disk of the tests is full");
    }
}

/// Numbers that are the same in each run (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[test]
fn the_judge_of_kills_sees_loss_repetition_and_disorder() {
    let wrong = |exactly, topic, seen: &[u64]| judge(exactly, topic, &[1, 2, 3], seen).is_err();
    assert!(!wrong(true, "exactly", &[1, 2, 3, 4]) && !wrong(true, "least", &[1, 2, 1, 2, 3]));
    assert!(!wrong(false, "exactly", &[1, 2, 3, 2]), "at QoS 1 it may come twice");
    assert!(wrong(true, "least", &[1, 3]) && wrong(true, "least", &[1, 3, 2]));
    assert!(wrong(true, "exactly", &[1, 2, 2, 3]));
}
