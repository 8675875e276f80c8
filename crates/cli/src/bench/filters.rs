//! Many wildcard filters, and publishes that match one each.

use std::time::Duration;

use super::args::FiltersArgs;
use super::credentials::Role;
use super::packet::Template;
use super::process::Process;
use super::report::Report;
use super::traffic::{Traffic, Until};
use super::{report_of, swarm_of};
use crate::Failure;
use crate::args::Common;

/// Filters in one SUBSCRIBE.
const IN_ONE: usize = 100;
/// The number of a filter has as many digits, so that topics can be patched in place.
const DIGITS: usize = 7;
const SETTLE: Duration = Duration::from_secs(1);

pub(super) fn filters(common: &Common, args: &FiltersArgs) -> Result<Report, Failure> {
    let server = Process::server(args.load.server_pid)?;
    let mut swarm = swarm_of(common, &args.load)?;
    let wide = |n: u32| usize::try_from(n).expect("32 bits fit");
    let (filters, connections, publishers) =
        (wide(args.filters), wide(args.connections), wide(args.publishers));
    let template = args.load.topic.as_deref().unwrap_or("bench/{k}/in");
    let before_digits = template.find("{k}").ok_or_else(|| {
        Failure::Usage(format!("--topic `{template}` has no `{{k}}`, which the number of the filter takes"))
    })?;
    let filter = |k: usize| format!("{}/+", template.replace("{k}", &format!("{k:0DIGITS$}")));
    let topic = format!("{}/x", template.replace("{k}", &"0".repeat(DIGITS)));
    let hellos = (0..connections).map(|n| swarm.hello(publishers + n, Role::Receiver, 0));
    let hellos = hellos.collect::<Result<Vec<_>, _>>()?;
    let first = swarm.connect_all(hellos)?;
    swarm.rest(SETTLE)?;
    let resident = |server: Option<Process>| server.map(Process::resident_bytes).transpose();
    let before = resident(server)?;
    let begun = swarm.clock.ns();
    // Filter `k` belongs to connection `k % connections`.
    let wanted = (0..connections).flat_map(|n| {
        let mine: Vec<usize> = (n..filters).step_by(connections).collect();
        let lists: Vec<_> =
            mine.chunks(IN_ONE).map(|some| (first + n, some.iter().map(|k| filter(*k)).collect())).collect();
        lists
    });
    swarm.subscribe_all(wanted, args.shape.qos())?;
    let subscribed_s = (swarm.clock.ns() - begun) as f64 / 1e9;
    swarm.rest(SETTLE)?;
    let after = resident(server)?;
    let hellos = (0..publishers).map(|n| swarm.hello(n, Role::Sender, 0)).collect::<Result<Vec<_>, _>>()?;
    let sender = swarm.connect_all(hellos)?;
    let mut traffic = Traffic::new(Until::Received { copies: 1 }, Some(args.window), 0, swarm.clock.ns());
    for n in 0..publishers {
        let template = Template::new(swarm.version, &topic, args.shape.qos(), args.shape.payload_bytes())?;
        traffic.sender(&swarm, sender + n, template, Some((before_digits, args.filters)));
    }
    let used = traffic.run(&mut swarm, args.span, server)?;
    let mut report = report_of("filters", &args.load);
    report.set("filters", args.filters);
    report.set("connections", args.connections);
    report.set("publishers", args.publishers);
    report.set("qos", args.shape.qos);
    report.found("filters_per_s", filters as f64 / subscribed_s);
    if let (Some(before), Some(after)) = (before, after) {
        report.found("bytes_each", after.saturating_sub(before) as f64 / filters as f64);
    }
    used.tell(&mut report, "messages", traffic.received);
    report.found("lost", traffic.lost as f64);
    Ok(report)
}
