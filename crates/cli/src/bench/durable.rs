//! QoS 1 to sessions that outlive their connections: what it takes until the broker has acknowledged.

use drawbridge_device::Qos;

use super::args::DurableArgs;
use super::credentials::Role;
use super::packet::Template;
use super::process::Process;
use super::report::Report;
use super::traffic::{Traffic, Until};
use super::{report_of, swarm_of};
use crate::Failure;
use crate::args::Common;

/// How long the sessions are kept after the run if it is cut off; a run that ends removes them.
const KEEP_S: u32 = 600;

pub(super) fn durable(common: &Common, args: &DurableArgs) -> Result<Report, Failure> {
    let server = Process::server(args.load.server_pid)?;
    let mut swarm = swarm_of(common, &args.load)?;
    let wide = |n: u32| usize::try_from(n).expect("32 bits fit");
    let (publishers, sessions) = (wide(args.publishers), wide(args.sessions));
    let number = |n: usize| publishers + n;
    let hellos = (0..sessions).map(|n| swarm.hello(number(n), Role::Receiver, KEEP_S));
    let hellos = hellos.collect::<Result<Vec<_>, _>>()?;
    let first = swarm.connect_all(hellos)?;
    // Publisher `p` writes to session `p % sessions`.
    let topics = (0..publishers).map(|n| swarm.topic(n, Role::Sender)).collect::<Result<Vec<_>, _>>()?;
    let wanted = topics.iter().enumerate().map(|(p, topic)| (first + p % sessions, vec![topic.clone()]));
    swarm.subscribe_all(wanted, Qos::AtLeastOnce)?;
    if args.away {
        (first..first + sessions).for_each(|at| swarm.cut(at));
    }
    let hellos = (0..publishers).map(|n| swarm.hello(n, Role::Sender, 0)).collect::<Result<Vec<_>, _>>()?;
    let sender = swarm.connect_all(hellos)?;
    let mut traffic = Traffic::new(Until::Acknowledged, Some(args.window), args.rate, swarm.clock.ns());
    for (n, topic) in topics.iter().enumerate() {
        let template = Template::new(swarm.version, topic, Qos::AtLeastOnce, wide(args.payload))?;
        traffic.sender(&swarm, sender + n, template, None);
    }
    let used = traffic.run(&mut swarm, args.span, server)?;
    // The sessions go with their messages.
    let hellos = (0..sessions).map(|n| swarm.hello(number(n), Role::Receiver, 0));
    let hellos = hellos.collect::<Result<Vec<_>, _>>()?;
    (first..first + sessions + publishers).for_each(|at| swarm.cut(at));
    swarm.connect_all(hellos)?;
    let mut report = report_of("durable", &args.load);
    report.set("publishers", args.publishers);
    report.set("sessions", args.sessions);
    report.set("away", args.away);
    report.set("rate_per_s", args.rate);
    report.set("payload_bytes", args.payload);
    used.tell(&mut report, "acknowledged", traffic.acknowledged);
    report.found("received", traffic.received as f64);
    report.found("lost", traffic.lost as f64);
    report.times("puback", &traffic.acknowledgements);
    if args.rate > 0 {
        traffic.tell_late(&mut report);
    }
    Ok(report)
}
