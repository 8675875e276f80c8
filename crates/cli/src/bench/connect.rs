//! How fast clients are admitted, and what each costs.

use std::time::Duration;

use super::args::ConnectArgs;
use super::client::Heard;
use super::credentials::Role;
use super::histogram::Histogram;
use super::process::{Meter, Process};
use super::report::Report;
use super::swarm::faults;
use super::{report_of, swarm_of};
use crate::Failure;
use crate::args::Common;

pub(super) fn connect(common: &Common, args: &ConnectArgs) -> Result<Report, Failure> {
    let server = Process::server(args.load.server_pid)?;
    let mut swarm = swarm_of(common, &args.load)?;
    let count = usize::try_from(args.connections).expect("32 bits fit");
    let at_once = usize::try_from(args.at_once).expect("32 bits fit");
    // One apart: what is made once is not charged to a connect.
    let first = swarm.connect_all(vec![swarm.hello(count, Role::Receiver, 0)?])?;
    swarm.cut(first);
    let hellos = (0..count).map(|n| swarm.hello(n, Role::Sender, 0)).collect::<Result<Vec<_>, _>>()?;
    let clock = swarm.clock;
    let meter = Meter::start(server, clock)?;
    let (mut hellos, mut times, mut waiting, mut opened) = (hellos.into_iter(), Histogram::default(), 0, 0);
    let mut began = vec![0; count + first + 1];
    while opened < count {
        while waiting < at_once
            && let Some(hello) = hellos.next()
        {
            let at = swarm.begin(hello)?;
            began[at] = swarm.peek(at).began_ns;
            waiting += 1;
        }
        let before = opened;
        swarm.turn(Some(Duration::from_millis(100)), |at, heard| match heard {
            Heard::Opened => {
                times.add(clock.ns() - began[at]);
                opened += 1;
                Ok(())
            }
            other => faults(other),
        })?;
        waiting -= opened - before;
    }
    let used = meter.used()?;
    let mut report = report_of("connect", &args.load);
    report.set("connections", args.connections);
    report.set("at_once", args.at_once);
    used.tell(&mut report, "connects", count as u64);
    report.times("connect", &times);
    Ok(report)
}
