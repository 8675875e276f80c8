//! Pairs of a publisher and a subscriber, at a fixed rate in all.

use super::args::PairsArgs;
use super::credentials::Role;
use super::packet::Template;
use super::process::Process;
use super::report::Report;
use super::swarm::Swarm;
use super::traffic::{Traffic, Until};
use super::{report_of, swarm_of};
use crate::Failure;
use crate::args::Common;

pub(super) fn pairs(common: &Common, args: &PairsArgs) -> Result<Report, Failure> {
    let server = Process::server(args.load.server_pid)?;
    let mut swarm = swarm_of(common, &args.load)?;
    let count = usize::try_from(args.pairs).expect("32 bits fit");
    let mut traffic = connect(&mut swarm, count, args.rate, |swarm, topic| {
        Template::new(swarm.version, topic, args.shape.qos(), args.shape.payload_bytes())
    })?;
    let used = traffic.run(&mut swarm, args.span, server)?;
    let mut report = report_of("pairs", &args.load);
    report.set("pairs", args.pairs);
    report.set("rate_per_s", args.rate);
    report.set("qos", args.shape.qos);
    report.set("payload_bytes", args.shape.payload);
    used.tell(&mut report, "messages", traffic.received);
    report.found("sent", traffic.sent as f64);
    report.times("delivery", &traffic.times);
    traffic.tell_late(&mut report);
    Ok(report)
}

/// Connects pairs: client `n` publishes, client `count + n` receives.
pub(super) fn connect(
    swarm: &mut Swarm,
    count: usize,
    rate: u32,
    template: impl Fn(&Swarm, &str) -> Result<Template, Failure>,
) -> Result<Traffic, Failure> {
    let topics = (0..count).map(|n| swarm.topic(n, Role::Sender)).collect::<Result<Vec<_>, _>>()?;
    let templates = topics.iter().map(|topic| template(swarm, topic)).collect::<Result<Vec<_>, _>>()?;
    let receivers = (0..count).map(|n| swarm.hello(count + n, Role::Receiver, 0));
    let receivers = receivers.collect::<Result<Vec<_>, _>>()?;
    let senders = (0..count).map(|n| swarm.hello(n, Role::Sender, 0)).collect::<Result<Vec<_>, _>>()?;
    let first = swarm.connect_all(receivers)?;
    let qos = templates.first().map(Template::qos).unwrap_or_default();
    let wanted = topics.into_iter().enumerate().map(|(n, topic)| (first + n, vec![topic]));
    swarm.subscribe_all(wanted, qos)?;
    let first = swarm.connect_all(senders)?;
    let mut traffic = Traffic::new(Until::Received { copies: 1 }, None, rate, swarm.clock.ns());
    for (n, template) in templates.into_iter().enumerate() {
        traffic.sender(swarm, first + n, template, None);
    }
    Ok(traffic)
}
