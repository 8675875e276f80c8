//! Many to one, and one to many.

use super::args::FanArgs;
use super::credentials::Role;
use super::packet::Template;
use super::process::Process;
use super::report::Report;
use super::swarm::Swarm;
use super::traffic::{Traffic, Until};
use super::{report_of, swarm_of};
use crate::Failure;
use crate::args::Common;

/// `clients` publish, one receives.
pub(super) fn fan_in(common: &Common, args: &FanArgs) -> Result<Report, Failure> {
    let server = Process::server(args.load.server_pid)?;
    let mut swarm = swarm_of(common, &args.load)?;
    let clients = usize::try_from(args.clients.unwrap_or(50)).expect("32 bits fit");
    let receiver = swarm.connect_all(vec![swarm.hello(clients, Role::Receiver, 0)?])?;
    let filter = swarm.filter();
    swarm.subscribe_all([(receiver, vec![filter])].into_iter(), args.shape.qos())?;
    let hellos = (0..clients).map(|n| swarm.hello(n, Role::Sender, 0)).collect::<Result<Vec<_>, _>>()?;
    let first = swarm.connect_all(hellos)?;
    let mut traffic = Traffic::new(Until::Received { copies: 1 }, Some(args.window), 0, swarm.clock.ns());
    for n in 0..clients {
        let topic = swarm.topic(n, Role::Sender)?;
        let template = Template::new(swarm.version, &topic, args.shape.qos(), args.shape.payload_bytes())?;
        traffic.sender(&swarm, first + n, template, None);
    }
    finish("fan-in", args, clients, swarm, traffic, server)
}

/// One publishes, `clients` receive.
pub(super) fn fan_out(common: &Common, args: &FanArgs) -> Result<Report, Failure> {
    let server = Process::server(args.load.server_pid)?;
    let mut swarm = swarm_of(common, &args.load)?;
    let clients = usize::try_from(args.clients.unwrap_or(200)).expect("32 bits fit");
    let topic = swarm.topic(0, Role::Sender)?;
    let hellos = (1..=clients).map(|n| swarm.hello(n, Role::Receiver, 0)).collect::<Result<Vec<_>, _>>()?;
    let first = swarm.connect_all(hellos)?;
    let wanted = (first..first + clients).map(|at| (at, vec![topic.clone()]));
    swarm.subscribe_all(wanted, args.shape.qos())?;
    let sender = swarm.connect_all(vec![swarm.hello(0, Role::Sender, 0)?])?;
    let until = Until::Received { copies: clients as u64 };
    let mut traffic = Traffic::new(until, Some(args.window), 0, swarm.clock.ns());
    let template = Template::new(swarm.version, &topic, args.shape.qos(), args.shape.payload_bytes())?;
    traffic.sender(&swarm, sender, template, None);
    finish("fan-out", args, clients, swarm, traffic, server)
}

fn finish(
    scenario: &'static str,
    args: &FanArgs,
    clients: usize,
    mut swarm: Swarm,
    mut traffic: Traffic,
    server: Option<Process>,
) -> Result<Report, Failure> {
    let used = traffic.run(&mut swarm, args.span, server)?;
    let mut report = report_of(scenario, &args.load);
    report.set("clients", clients);
    report.set("qos", args.shape.qos);
    report.set("payload_bytes", args.shape.payload);
    report.set("in_flight", args.window.in_flight);
    used.tell(&mut report, "messages", traffic.received);
    report.found("lost", traffic.lost as f64);
    report.times("delivery", &traffic.times);
    Ok(report)
}
