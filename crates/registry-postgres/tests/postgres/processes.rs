//! Several processes on one database: of eight connections exactly one wins.

use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;

use drawbridge_names::{RegistryName, Uid};
use drawbridge_registry::audit::verify_chain;
use drawbridge_registry::{
    AddPrincipal, JtiMark, JtiOutcome, KeyRotation, Principal, RotateKey, Store, StoreError,
};
use drawbridge_registry_postgres::PostgresStore;

use crate::cluster::{Cluster, open};
use crate::records::*;

/// Racers of each of the two processes.
const RACERS: u64 = 4;

const RACER_URL: &str = "DRAWBRIDGE_TEST_RACER";

/// What eight connections race for in a round, each time with a device that nothing has happened to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Race {
    /// All present the same `jti`.
    Jti,
    /// Each presents another `jti` of a device that may have one live.
    LastPlace,
    /// Each replaces the same key by another.
    Rotation,
    /// One deletes the device while the others log in.
    Deletion,
}

const RACES: [Race; 4] = [Race::Jti, Race::LastPlace, Race::Rotation, Race::Deletion];

/// The device of a round; its key has the same number.
fn device_of(race: Race, round: u64) -> u64 {
    1 + 4 * round + RACES.iter().position(|other| *other == race).expect("it is one of them") as u64
}

fn mark_of(race: Race, round: u64, racer: u64) -> JtiMark {
    let number = device_of(race, round);
    let jti = if race == Race::Jti { 100 } else { racer };
    let live_max = if race == Race::LastPlace { 1 } else { 99 };
    let until_s = (race != Race::Deletion || racer.is_multiple_of(2)).then_some(NOW_S + 300);
    let token_digest = [u8::try_from(racer).expect("eight"); 16];
    JtiMark { kid: kid(number), token_digest, until_s, live_max, ..mark(jti) }
}

/// One racer's turn: a letter, and a number that belongs to it.
async fn turn(store: &PostgresStore, race: Race, round: u64, racer: u64) -> Result<String, StoreError> {
    let (registry, uid) = (registry(), Uid(device_of(race, round)));
    let mark = mark_of(race, round, racer);
    if race == Race::Rotation {
        let rotation = KeyRotation {
            old: kid(uid.0),
            new: key(1_000_000 + 8 * round + racer),
            old_expires_s: Some(NOW_S + 3600),
            mark,
            active_max: 5,
        };
        let answer = store.rotate_key(&registry, uid, rotation, NOW_S, entry("key.rotate")).await?;
        return Ok(match answer {
            RotateKey::Rotated => "W0".into(),
            RotateKey::OldNotActive => "L0".into(),
            other => format!("? {other:?}"),
        });
    }
    if race == Race::Deletion && racer == 0 {
        let deleted = store.delete_principal(&registry, uid, entry("device.delete")).await?;
        return Ok(if deleted { "D0".into() } else { "? not there".into() });
    }
    Ok(match store.remember_jti(&registry, uid, mark, NOW_S).await? {
        JtiOutcome::Fresh => format!("W{racer}"),
        JtiOutcome::Seen { token_digest } => format!("L{}", token_digest[0]),
        JtiOutcome::Full => "F0".into(),
        JtiOutcome::KeyGone => "G0".into(),
    })
}

/// The racers of this process at once, each with connections of its own.
async fn turns(stores: &[Arc<PostgresStore>], race: Race, round: u64, first: u64) -> Vec<String> {
    let racing: Vec<_> = (first..)
        .zip(stores)
        .map(|(racer, store)| {
            let store = Arc::clone(store);
            tokio::spawn(async move { turn(&store, race, round, racer).await })
        })
        .collect();
    let mut answers = Vec::new();
    for racer in racing {
        let answer = racer.await.expect("no panic");
        answers.push(answer.unwrap_or_else(|error| format!("? {error}")));
    }
    answers
}

async fn open_racers(url: &str, name: &str) -> Vec<Arc<PostgresStore>> {
    let mut stores = Vec::new();
    for racer in 0..RACERS {
        let writer = format!("{name}-{racer}");
        let url = format!("{url}?connections=4");
        stores.push(Arc::new(PostgresStore::open(&url, &writer).await.expect("the store opens")));
    }
    stores
}

/// Another process of this program that runs [`racer`].
struct Other {
    child: Child,
    commands: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Other {
    fn start(url: &str) -> Self {
        let this_program = std::env::current_exe().expect("the path of this program");
        let mut child = Command::new(this_program)
            .args(["--ignored", "--exact", "processes::racer", "--nocapture"])
            .env(RACER_URL, url)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("this program can be run again");
        let commands = child.stdin.take().expect("is piped");
        let lines = BufReader::new(child.stdout.take().expect("is piped")).lines();
        Self { child, commands, lines }
    }

    fn tell(&mut self, command: &str) {
        writeln!(self.commands, "{command}").expect("the other process listens");
    }

    fn hear(&mut self) -> String {
        loop {
            let line = self.lines.next().expect("the other process has ended").expect("it speaks");
            if let Some(answer) = line.strip_prefix("answer: ") {
                return answer.to_owned();
            }
        }
    }

    fn end(mut self) {
        drop(self.commands);
        assert!(self.child.wait().expect("it ends").success());
    }
}

/// Run by the races below in a process of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the second process of the races"]
async fn racer() {
    let Ok(url) = std::env::var(RACER_URL) else { return };
    let mut stores = Vec::new();
    for line in std::io::stdin().lines() {
        let line = line.expect("the first process speaks");
        let words: Vec<&str> = line.split(' ').collect();
        let answer = match words.as_slice() {
            ["open", database] => {
                let url = format!("{}/{database}", url.rsplit_once('/').expect("a URL has a path").0);
                stores = open_racers(&url, "other").await;
                "opened".to_owned()
            }
            [race, round] => {
                let race = RACES[race.parse::<usize>().expect("a number")];
                turns(&stores, race, round.parse().expect("a number"), RACERS).await.join(" ")
            }
            _ => panic!("{line}"),
        };
        println!("\nanswer: {answer}");
    }
}

/// Checks one round; `answers` are those of all eight.
async fn judge(store: &PostgresStore, race: Race, round: u64, answers: &[String]) {
    let told = || format!("{race:?}, round {round}: {answers:?}");
    assert_eq!(answers.len(), 8, "{}", told());
    let won: Vec<u64> = answers.iter().filter_map(|answer| answer.strip_prefix('W')?.parse().ok()).collect();
    let count = |answer: &str| answers.iter().filter(|other| *other == answer).count();
    match race {
        Race::Jti => {
            let [winner] = won[..] else { panic!("{}", told()) };
            assert_eq!(count(&format!("L{winner}")), 7, "{}", told());
        }
        Race::LastPlace => assert_eq!((won.len(), count("F0")), (1, 7), "{}", told()),
        Race::Rotation => assert_eq!((won.len(), count("L0")), (1, 7), "{}", told()),
        Race::Deletion => {
            assert_eq!((count("D0"), won.len() + count("G0")), (1, 7), "{}", told());
            // Somebody registers the key again: every login that was admitted is remembered.
            let number = device_of(race, round);
            let (name, uid) = (format!("again{number}"), 2_000_000 + number);
            let added = store.add_principal(device(&name, uid), vec![key(number)], entry("device.add")).await;
            assert_eq!(added.expect("add_principal"), AddPrincipal::Added);
            for racer in won {
                let mark = mark_of(race, round, racer);
                let seen = JtiOutcome::Seen { token_digest: mark.token_digest };
                let outcome = store.remember_jti(&registry(), Uid(uid), mark, NOW_S).await;
                assert_eq!(outcome.expect("remember_jti"), seen, "{} racer {racer}", told());
            }
        }
    }
}

async fn race(rounds: u64) {
    let cluster = Cluster::shared();
    let url = cluster.database();
    let stores = open_racers(&url, "this").await;
    let store = &stores[0];
    make_registry(&**store).await;
    for first in (0..4 * rounds).step_by(500) {
        let numbers = 1 + first..=(first + 500).min(4 * rounds);
        let batch: Vec<(Principal, Vec<drawbridge_registry::Key>)> =
            numbers.map(|number| (device(&format!("d{number}"), number), vec![key(number)])).collect();
        let count = batch.len();
        let added = store.import_principals(&registry(), batch, entry("device.import")).await;
        assert_eq!(added.expect("import_principals"), vec![AddPrincipal::Added; count]);
    }
    let mut other = Other::start(&url);
    other.tell(&format!("open {}", crate::cluster::database_of(&url)));
    assert_eq!(other.hear(), "opened");
    for round in 0..rounds {
        for (at, race) in RACES.into_iter().enumerate() {
            other.tell(&format!("{at} {round}"));
            let mut answers = turns(&stores, race, round, 0).await;
            answers.extend(other.hear().split(' ').map(str::to_owned));
            judge(store, race, round, &answers).await;
        }
    }
    other.end();
    // Each writer has a chain of its own, and nothing is lost between them.
    let heads = store.audit_heads(&registry()).await.expect("audit_heads");
    assert_eq!(heads.len(), 8, "{heads:?}");
    let mut rows = 0;
    for head in &heads {
        let chain = store.audit_rows(&registry(), &head.writer, 1, usize::MAX).await.expect("audit_rows");
        verify_chain(&chain).expect("the chain holds");
        assert_eq!(chain.last().map(drawbridge_registry::AuditRow::head).as_ref(), Some(head));
        rows += chain.len() as u64;
    }
    let batches = (4 * rounds).div_ceil(500);
    assert_eq!(rows, 1 + batches + 3 * rounds, "one for each rotation, deletion and new device");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_eight_connections_in_two_processes_exactly_one_wins() {
    race(100).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes long: cargo xtask soak"]
async fn soak_of_eight_connections_in_two_processes_exactly_one_wins_a_thousand_times() {
    race(1000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_that_make_the_tables_at_once_do_not_collide() {
    let cluster = Cluster::shared();
    let first = cluster.database();
    let mut other = Other::start(&first);
    for round in 0..5 {
        let url = if round == 0 { first.clone() } else { cluster.database() };
        other.tell(&format!("open {}", crate::cluster::database_of(&url)));
        let stores = open_racers(&url, "this").await;
        assert_eq!(other.hear(), "opened");
        make_registry(&*stores[0]).await;
        assert_eq!(stores[1].registries().await.expect("registries").len(), 1);
        assert_eq!(
            cluster.sql(crate::cluster::database_of(&url), "SELECT format FROM drawbridge.format"),
            "1"
        );
    }
    other.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writers_of_one_registry_have_chains_that_verify_while_all_write() {
    let url = Cluster::shared().database();
    let mut stores = vec![Arc::new(open(&url).await)];
    make_registry(&*stores[0]).await;
    for writer in ["two", "three"] {
        stores.push(Arc::new(PostgresStore::open(&url, writer).await.expect("the store opens")));
    }
    let writing: Vec<_> = (0..12)
        .map(|task| {
            let store = Arc::clone(&stores[task % 3]);
            tokio::spawn(async move {
                for _ in 0..20 {
                    store.record(&registry(), entry("command.send")).await.expect("record");
                }
            })
        })
        .collect();
    for task in writing {
        task.await.expect("no panic");
    }
    let registry: RegistryName = registry();
    let heads = stores[0].audit_heads(&registry).await.expect("audit_heads");
    let lengths: Vec<(&str, u64)> = heads.iter().map(|head| (head.writer.as_str(), head.seq)).collect();
    assert_eq!(lengths, [("one", 81), ("three", 80), ("two", 80)]);
    for (store, writer) in stores.iter().zip(["one", "two", "three"]) {
        let mut own = store.audit_tail(&registry, None, 99).await.expect("audit_tail");
        own.reverse();
        verify_chain(&own).expect("the chain holds");
        assert!(own.iter().all(|row| row.writer == writer), "the tail is of the store's own writer");
        let read = stores[0].audit_rows(&registry, writer, 1, 99).await.expect("audit_rows");
        assert_eq!(read, own);
    }
}
