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
    let _ = rlimit::increase_nofile_limit(u64::MAX); // a refusal shows itself when the sockets run out
    let (report, next) = match command {
        BenchCommand::FanIn(args) => (fan::fan_in(common, args)?, "fan-out"),
        BenchCommand::FanOut(args) => (fan::fan_out(common, args)?, "pairs"),
        BenchCommand::Pairs(args) => (pairs::pairs(common, args)?, "connect"),
        BenchCommand::Connect(args) if args.storm => (storm::storm(common, args)?, "idle"),
        BenchCommand::Connect(args) => (connect::connect(common, args)?, "idle"),
        BenchCommand::Idle(args) => (idle::idle(common, args)?, "filters"),
        BenchCommand::Filters(args) => (filters::filters(common, args)?, "durable"),
        BenchCommand::Durable(args) => (durable::durable(common, args)?, "fan-in"),
    };
    report.print(common);
    let target = command.load().target.clone();
    output::next_with_identity(common, &["bench", next, "--target", &target]);
    Ok(())
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
