//! `drawbridge bench`: a load generator for any MQTT broker, in one thread.
//!
//! One thread with one poll drives all clients (`swarm`); a client keeps its bytes and nothing else (`client`).
//! Publishes are patched copies of one packet (`packet`), up to 20 in a write, so that the generator costs a small
//! part of what a broker does. What a scenario found is a list of named figures (`report`): a table, or JSON.
//! Why so: `docs/decisions/0024-bench.md`.

pub(crate) mod args;
mod client;
mod clock;
mod connect;
mod credentials;
mod durable;
mod fan;
mod filters;
mod histogram;
mod idle;
mod keys;
mod packet;
mod pairs;
mod process;
mod report;
mod storm;
mod swarm;
mod traffic;

use args::{BenchCommand, Load};
use report::Report;
use swarm::Swarm;

use crate::args::Common;
use crate::{Failure, output};

/// Runs one scenario and prints what it found.
pub(crate) fn bench(common: &Common, command: &BenchCommand) -> Result<(), Failure> {
    // What the system refuses shows itself when the sockets run out.
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    let (report, load, next) = match command {
        BenchCommand::FanIn(args) => (fan::fan_in(common, args)?, &args.load, "fan-out"),
        BenchCommand::FanOut(args) => (fan::fan_out(common, args)?, &args.load, "pairs"),
        BenchCommand::Pairs(args) => (pairs::pairs(common, args)?, &args.load, "connect"),
        BenchCommand::Connect(args) if args.storm => (storm::storm(common, args)?, &args.load, "filters"),
        BenchCommand::Connect(args) => (connect::connect(common, args)?, &args.load, "filters"),
        BenchCommand::Idle(args) => (idle::idle(common, args)?, &args.load, "filters"),
        BenchCommand::Filters(args) => (filters::filters(common, args)?, &args.load, "durable"),
        BenchCommand::Durable(args) => (durable::durable(common, args)?, &args.load, "fan-in"),
        BenchCommand::Keys(args) => return keys::keys(common, args),
    };
    report.print(common);
    let words = same_broker(common, load, next);
    output::next_with_identity(common, &words.iter().map(String::as_str).collect::<Vec<_>>());
    Ok(())
}

/// Another scenario against the same broker, with the same identities.
fn same_broker(common: &Common, load: &Load, scenario: &str) -> Vec<String> {
    let mut words: Vec<String> = ["bench", scenario, "--target", &load.target].map(str::to_owned).into();
    if load.plain {
        words.push("--plain".to_owned());
    }
    let ca = common.ca.as_ref().filter(|_| !load.plain);
    for (flag, folder) in [("--ca", ca), ("--as", load.identity.as_ref()), ("--keys", load.keys.as_ref())] {
        words.extend(
            folder.into_iter().flat_map(|path| [flag.to_owned(), path.to_string_lossy().into_owned()]),
        );
    }
    if let Some(name) = &load.username {
        words.extend(["--username".to_owned(), name.clone()]);
    }
    if load.password_stdin {
        words.push("--password-stdin".to_owned());
    }
    words
}

/// A report with what every scenario was told.
fn report_of(scenario: &'static str, load: &Load) -> Report {
    let mut report = Report::new(scenario);
    report.set("target", load.target.as_str());
    report.set("transport", if load.plain { "plain" } else { "tls" });
    report.set("version", load.version.text());
    report
}

/// Everything that a scenario needs of the common flags.
fn swarm_of(common: &Common, load: &Load) -> Result<Swarm, Failure> {
    let credentials = credentials::Credentials::read(load)?;
    let ca = credentials.ca_pem(common.ca.as_deref(), load)?;
    Swarm::new(load, credentials, ca.as_deref())
}
