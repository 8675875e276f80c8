//! Every target over its corpus and over seeded mutations of it. A failure prints the input, and leaves it as a
//! file that `fuzz/README.md` tells what to do with.
//!
//! `DRAWBRIDGE_FUZZ_SECONDS` makes each target run for so long instead of a fixed number of inputs, and
//! `DRAWBRIDGE_FUZZ_SEED` begins elsewhere.

#![expect(clippy::print_stdout, reason = "a run tells its seed and what it reached, under --nocapture")]

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use drawbridge_fuzz_targets::{Mutator, Outcome, TARGETS, Target};

/// For each target the inputs that a plain run gives it, how many kinds of outcomes they must reach, and how many
/// of 100 must get past the signature: a target that sees less has lost its way past the first check.
macro_rules! targets {
    ($($name:ident: $inputs:literal, $outcomes:literal, $past:literal;)*) => {
        mod every_promise_holds_for {
            $(
                #[test]
                fn $name() {
                    super::run(super::target(stringify!($name)), $inputs, $outcomes, $past);
                }
            )*
        }

        const LISTED: &[&str] = &[$(stringify!($name)),*];
    };
}

targets! {
    jws: 6_000, 15, 0;
    jwk: 6_000, 10, 0;
    public_key: 6_000, 10, 0;
    private_key: 2_000, 2, 0;
    ecdsa_der: 10_000, 4, 0;
    claims: 30_000, 7, 0;
    client_assertion: 4_000, 8, 45;
    key_update: 4_000, 8, 45;
    key_pop: 4_000, 2, 0;
    key_remove: 4_000, 8, 45;
    enrolment_proof: 4_000, 2, 0;
    software_statement: 4_000, 8, 45;
    dpop_proof: 4_000, 3, 0;
    legacy_login: 4_000, 8, 45;
    legacy_update: 4_000, 8, 45;
    legacy_pop: 6_000, 5, 0;
    connect_jwt: 4_000, 8, 45;
    access_token: 4_000, 7, 35;
    ace_data: 10_000, 5, 0;
    ace_cwt: 4_000, 4, 0;
    ace_scope: 10_000, 2, 0;
    ace_request: 10_000, 6, 0;
    ace_key: 4_000, 4, 0;
    client_certificate: 5_000, 4, 0;
    form_body: 30_000, 3, 0;
    policy_document: 3_000, 3, 0;
    grant: 10_000, 4, 0;
    topic_filter: 40_000, 4, 0;
    id_pattern: 40_000, 2, 0;
    nonce: 6_000, 4, 0;
    name: 40_000, 3, 0;
    mqtt_packet: 40_000, 20, 0;
    mqtt_session: 3_000, 20, 0;
    websocket_frames: 40_000, 12, 0;
}

#[test]
fn every_target_is_run_has_a_binary_and_a_corpus_and_the_reverse() {
    let names: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(names.len(), TARGETS.len(), "each target has its own name");
    assert_eq!(names, LISTED.iter().map(|name| (*name).to_owned()).collect(), "tests of this file");
    let entries = |folder: &str| -> BTreeSet<String> {
        let folder = fuzz().join(folder);
        let entries =
            std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
    };
    assert_eq!(entries("corpus"), names, "fuzz/corpus");
    let files = names.iter().map(|name| format!("{name}.rs")).collect();
    assert_eq!(entries("fuzz_targets"), files, "fuzz/fuzz_targets");
    let manifest = std::fs::read_to_string(fuzz().join("Cargo.toml")).expect("fuzz/Cargo.toml");
    for name in &names {
        let text = std::fs::read_to_string(fuzz().join(format!("fuzz_targets/{name}.rs"))).expect("a binary");
        assert!(
            text.contains(&format!("drawbridge_fuzz_targets::{name}(data)")),
            "{name}.rs calls its function"
        );
        assert!(manifest.contains(&format!("name = \"{name}\"\n")), "fuzz/Cargo.toml lacks `{name}`");
    }
    assert_eq!(manifest.matches("[[bin]]").count(), names.len(), "binaries in fuzz/Cargo.toml");
    let workspace = std::fs::read_to_string(fuzz().join("../Cargo.toml")).expect("the workspace");
    assert!(workspace.contains("exclude = [\"fuzz\"]"), "fuzz/ needs nightly and stays out of the workspace");
}

/// Writes the seeds of the targets that lack them: `cargo test -p drawbridge-fuzz-targets -- --ignored seeds`.
#[test]
#[ignore = "writes files of the repository"]
fn seeds_are_written_where_the_corpus_lacks_them() {
    for target in TARGETS {
        let folder = fuzz().join("corpus").join(target.name);
        std::fs::create_dir_all(&folder).expect("a folder");
        for (at, seed) in (target.seeds)().iter().enumerate() {
            let path = folder.join(format!("seed-{at:02}"));
            if !path.exists() {
                std::fs::write(path, seed).expect("a file");
            }
        }
    }
}

/// The long form: each target for 20 s, or as long as `DRAWBRIDGE_FUZZ_SECONDS` says, from a seed of its own.
#[test]
#[ignore = "runs for minutes"]
fn soak_of_every_target() {
    let seconds = std::env::var("DRAWBRIDGE_FUZZ_SECONDS").map_or(20, |text| text.parse().expect("seconds"));
    let broken: Vec<&str> = TARGETS
        .iter()
        .filter(|target| catch_unwind(|| fuzz_for(**target, Duration::from_secs(seconds))).is_err())
        .map(|target| target.name)
        .collect();
    assert!(broken.is_empty(), "promises were broken: {broken:?}");
}

fn target(name: &str) -> Target {
    *TARGETS.iter().find(|target| target.name == name).expect("the list of the crate has it")
}

fn run(target: Target, inputs: u64, outcomes_min: usize, past_min: u64) {
    if let Ok(seconds) = std::env::var("DRAWBRIDGE_FUZZ_SECONDS") {
        fuzz_for(target, Duration::from_secs(seconds.parse().expect("seconds")));
        return;
    }
    let mut session = Session::begin(target, 1);
    for _ in 0..inputs {
        session.step();
    }
    session.tell();
    let reached = session.outcomes.len();
    assert!(
        reached >= outcomes_min,
        "{reached} kinds of outcomes, at least {outcomes_min} were reached before"
    );
    let count = |is: &dyn Fn(&str) -> bool| -> u64 {
        session.outcomes.iter().filter(|(outcome, _)| is(&outcome.0)).map(|(_, count)| count).sum()
    };
    let accepted = count(&|outcome| outcome.starts_with("accepted"));
    assert!(
        accepted * 400 >= inputs,
        "{accepted} of {inputs} inputs were accepted: the mutator has lost its way"
    );
    // Refusals from DB-1008 on speak of claims, which are judged when the signature was found good.
    let past =
        accepted + count(&|outcome| outcome.starts_with("refused DB-10") && outcome >= "refused DB-1008");
    println!("past the signature: {past} of {inputs}");
    assert!(past * 100 >= inputs * past_min, "{past} of {inputs} inputs got past the signature");
}

#[expect(clippy::disallowed_methods, reason = "how long a run takes is for the clock on the wall")]
fn fuzz_for(target: Target, long: Duration) {
    let begin = Instant::now();
    let seed = std::env::var("DRAWBRIDGE_FUZZ_SEED").map_or_else(
        |_| {
            std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .map_or(1, |at| at.as_nanos() as u64)
        },
        |text| text.parse().expect("a number"),
    );
    println!("{}: DRAWBRIDGE_FUZZ_SEED={seed}", target.name);
    let mut session = Session::begin(target, seed);
    while begin.elapsed() < long {
        for _ in 0..20 {
            session.step();
        }
    }
    session.tell();
}

/// One run of one target.
struct Session {
    target: Target,
    mutator: Mutator,
    known: Vec<Vec<u8>>,
    outcomes: BTreeMap<Outcome, u64>,
    inputs: u64,
}

impl Session {
    /// Runs the corpus.
    fn begin(target: Target, seed: u64) -> Self {
        let known = corpus(target.name);
        let mut session = Self {
            target,
            mutator: Mutator::new(seed),
            known: Vec::new(),
            outcomes: BTreeMap::new(),
            inputs: 0,
        };
        for input in known {
            assert!(input.len() <= target.bytes_max, "an input of the corpus is too long to be mutated");
            session.give(&input);
            session.known.push(input);
        }
        session
    }

    /// One mutation; what leads to something new is kept.
    fn step(&mut self) {
        let input = self.mutator.next(&self.known, self.target.words, self.target.bytes_max);
        if self.give(&input) && self.known.len() < 500 {
            self.known.push(input);
        }
    }

    fn give(&mut self, input: &[u8]) -> bool {
        self.inputs += 1;
        match catch_unwind(AssertUnwindSafe(|| (self.target.run)(input))) {
            Ok(outcome) => {
                let count = self.outcomes.entry(outcome).or_default();
                *count += 1;
                *count == 1
            }
            Err(_) => {
                let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-crash", self.target.name));
                let kept = std::fs::write(&path, input).map(|()| path.display().to_string());
                panic!(
                    "{} breaks a promise (see above) on input {} ({}), kept as {kept:?}: {input:?}",
                    self.target.name,
                    self.inputs,
                    String::from_utf8_lossy(input),
                );
            }
        }
    }

    fn tell(&self) {
        println!("{}: {} inputs", self.target.name, self.inputs);
        for (outcome, count) in &self.outcomes {
            println!("  {count:6} {}", outcome.0);
        }
    }
}

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz")
}

/// The files of `fuzz/corpus/NAME`, in the order of their names: a run is the same everywhere.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = fuzz().join("corpus").join(name);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    assert!(
        (3..=100).contains(&paths.len()),
        "{} has {} files, 3 to 100 are wanted",
        folder.display(),
        paths.len()
    );
    paths.iter().map(|path| std::fs::read(path).expect("a file")).collect()
}
