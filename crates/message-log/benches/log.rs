//! What the message log takes: commits, opening, memory.
//!
//! `cargo bench -p drawbridge-message-log --bench log [-- FOLDER]`: the disk of FOLDER is measured (default: the
//! folder for temporary files). The rates of two runs differ with the disk; compare within one.
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark prints, and stops at the first fault"
)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use drawbridge_broker::storage::{
    Batch, Destination, MessageId, Record, SessionId, Storage, StorageListener, StoredSession, Terms,
    TimeBase,
};
use drawbridge_broker::{Message, Publisher};
use drawbridge_message_log::{LogConfig, MessageLog, RealDisk};
use drawbridge_mqtt::codec::Qos;
use drawbridge_names::{MqttClientId, PrincipalKind, PrincipalName, RegistryName, TopicFilter, Uid};

const SESSIONS: u64 = 100_000;
const PENDING: u64 = 1_000_000;
const EACH: Duration = Duration::from_secs(3);

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [open, folder] = &words[..]
        && open == "--open"
    {
        return open_once(Path::new(folder));
    }
    let given = words.iter().find(|word| !word.starts_with('-')).map(PathBuf::from);
    let folder = tempfile::tempdir_in(given.unwrap_or_else(std::env::temp_dir)).unwrap();
    commits(folder.path());
    opening(&folder.path().join("opening"));
}

/// Publishers of 64 B, each of which waits for its commit before it publishes again.
fn commits(folder: &Path) {
    println!(
        "| waiting publishers | records/s | commit p50 ms | p99 ms | records a group | CPU us a record |"
    );
    println!("|---|---|---|---|---|---|");
    for publishers in [1, 10, 100, 1000] {
        let (log, heard, time) = open(&folder.join(format!("commits-{publishers}")));
        log.submit(0, Batch { number: 1, records: (1..=100).map(session).collect(), urgent: true });
        heard.wait(1);
        let (mut number, mut id, mut waiting) = (1, 0, 0);
        let mut sent: Vec<Instant> = vec![Instant::now(), Instant::now()];
        let mut took: Vec<Duration> = Vec::new();
        let (before, cpu, began) = (log.stats(), cpu_s(), Instant::now());
        // One thread plays all of them, as a shard does: who is answered publishes again at once.
        let mut committed = 1;
        while began.elapsed() < EACH {
            while waiting < publishers {
                (number, id, waiting) = (number + 1, id + 1, waiting + 1);
                let owed = id % 100 + 1;
                let mut records = vec![message(id, owed, 64, time)];
                if id > 1000 {
                    let message = MessageId(id - 1000);
                    records.push(Record::Done { session: SessionId((id - 1000) % 100 + 1), message });
                }
                sent.push(Instant::now());
                log.submit(0, Batch { number, records, urgent: true });
            }
            let upto = heard.wait(committed + 1);
            let now = Instant::now();
            took.extend((committed + 1..=upto).map(|number| now - sent[number as usize]));
            waiting -= (upto - committed) as usize;
            committed = upto;
        }
        let (stored, s) = (took.len() as f64, began.elapsed().as_secs_f64());
        let cpu = (cpu_s() - cpu) * 1e6 / stored;
        let groups = (log.stats().groups - before.groups) as f64;
        took.sort_unstable();
        let ms = |part: f64| took[(part * (stored - 1.0)) as usize].as_secs_f64() * 1000.0;
        println!(
            "| {publishers} | {:.0} | {:.2} | {:.2} | {:.1} | {cpu:.1} |",
            stored / s,
            ms(0.5),
            ms(0.99),
            stored / groups
        );
    }
}

/// 100,000 sessions with a subscription each and 1,000,000 messages that are owed.
fn opening(folder: &Path) {
    let (log, heard, time) = open(folder);
    let began = Instant::now();
    let (mut number, mut id) = (0, 0);
    for first in (1..=SESSIONS).step_by(1000) {
        let sessions = (first..first + 1000).flat_map(|session_id| {
            let filter = TopicFilter::parse(&format!("devices/d{session_id}/commands/#")).unwrap();
            let terms =
                Terms { qos: Qos::AtLeastOnce, no_local: false, retain_as_published: false, identifier: 0 };
            [session(session_id), Record::Subscribed { session: SessionId(session_id), filter, terms }]
        });
        number += 1;
        log.submit(0, Batch { number, records: sessions.collect(), urgent: true });
    }
    while id < PENDING {
        let records = (id + 1..=id + 1000).map(|id| message(id, id % SESSIONS + 1, 64, time)).collect();
        (id, number) = (id + 1000, number + 1);
        log.submit(0, Batch { number, records, urgent: true });
        if number % 100 == 0 {
            heard.wait(number);
        }
    }
    heard.wait(number);
    println!(
        "\n{SESSIONS} sessions, {PENDING} messages of 64 B stored in {:.1} s",
        began.elapsed().as_secs_f64()
    );
    let without_close = folder.with_extension("killed");
    copy(folder, &without_close);
    log.close();
    drop(log);
    println!("| opened after | ms | resident MB | of it the image for the broker |\n|---|---|---|---|");
    for (what, folder) in [("a kill", without_close.as_path()), ("a clean close", folder)] {
        // In a process of its own: memory that is given back does not leave a process.
        let program = std::env::current_exe().unwrap();
        let output = Command::new(program).arg("--open").arg(folder).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        print!("| {what} {}", String::from_utf8(output.stdout).unwrap());
    }
    let segments: u64 = folder.read_dir().unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum();
    println!("on disk: {:.0} MB", segments as f64 / 1e6);
}

fn open_once(folder: &Path) {
    let (before, began) = (resident_mb(), Instant::now());
    let time = TimeBase { instant: began, unix_ms: 1_800_000_000_000 };
    let disk = Arc::new(RealDisk::open(folder).unwrap());
    let opened = MessageLog::open(disk, LogConfig::default(), time, Arc::new(Instant::now)).unwrap();
    let (took, opened_mb) = (began.elapsed(), resident_mb());
    assert_eq!(opened.image.sessions.len() as u64, SESSIONS);
    let again = opened.image.clone();
    let (all, image) = (opened_mb - before, resident_mb() - opened_mb);
    println!("| {:.0} | {all:.0} | {image:.0} |", took.as_secs_f64() * 1000.0);
    drop(again);
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for file in from.read_dir().unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

fn open(folder: &Path) -> (MessageLog, Arc<Heard>, TimeBase) {
    let time = TimeBase { instant: Instant::now(), unix_ms: 1_800_000_000_000 };
    let disk = Arc::new(RealDisk::open(folder).unwrap());
    let opened = MessageLog::open(disk, LogConfig::default(), time, Arc::new(Instant::now)).unwrap();
    let heard = Arc::new(Heard::default());
    (opened.log.start(heard.clone(), || panic!("broken")).unwrap(), heard, time)
}

#[derive(Default)]
struct Heard {
    committed: Mutex<u64>,
    bell: Condvar,
}

impl StorageListener for Heard {
    fn committed(&self, _: usize, number: u64) {
        *self.committed.lock().unwrap() = number;
        self.bell.notify_all();
    }

    fn fetched(&self, _: usize, _: SessionId, _: Vec<(MessageId, Option<Arc<Message>>)>) {}

    fn stalled(&self, stalled: bool) {
        assert!(!stalled, "the disk is full");
    }
}

impl Heard {
    fn wait(&self, number: u64) -> u64 {
        let mut committed = self.committed.lock().unwrap();
        while *committed < number {
            committed = self.bell.wait(committed).unwrap();
        }
        *committed
    }
}

fn session(number: u64) -> Record {
    Record::Session(Box::new(StoredSession {
        id: SessionId(number),
        registry: RegistryName::default_registry(),
        uid: Uid(number),
        name: PrincipalName::parse(&format!("d{number}")).unwrap(),
        kind: PrincipalKind::Device,
        client_id: MqttClientId::parse(&format!("d{number}")).unwrap(),
        owner_epoch: number,
        kid: None,
        leading_slash: false,
        expiry_s: 3600,
        ended_ms: 0,
        rights_end_ms: 0,
        will: None,
    }))
}

fn message(id: u64, session: u64, bytes: usize, time: TimeBase) -> Record {
    Record::Message {
        id: MessageId(id),
        message: Arc::new(Message {
            id: Some(MessageId(id)),
            registry: RegistryName::default_registry(),
            topic: "devices/d/events/temperature".into(),
            publisher: Publisher { uid: Uid(1), policy_epoch: 0 },
            received: time.instant,
            received_ms: time.unix_ms,
            expires: None,
            qos: Qos::AtLeastOnce,
            retain: false,
            properties: Box::default(),
            payload: vec![7; bytes].into(),
            origin: (0, 0),
        }),
        to: vec![Destination {
            session: SessionId(session),
            qos: Qos::AtLeastOnce,
            retain: false,
            identifiers: Box::default(),
        }],
        retained: false,
    }
}

/// CPU of this process so far, all threads, in seconds.
fn cpu_s() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let after_name = stat.rsplit_once(')').unwrap().1;
    let ticks: u64 = after_name.split_whitespace().skip(11).take(2).map(|n| n.parse::<u64>().unwrap()).sum();
    ticks as f64 / 100.0
}

fn resident_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}
