//! What a connection costs that does nothing.

use std::time::Duration;

use drawbridge_device::Qos;

use super::args::IdleArgs;
use super::client::Heard;
use super::credentials::Role;
use super::packet::{Stamp, Template};
use super::process::Process;
use super::report::Report;
use super::swarm::{Swarm, faults};
use super::{report_of, swarm_of};
use crate::Failure;
use crate::args::Common;

/// Connected first: what is made once, and what a pool keeps ready, is not charged to a connection.
const FIRST: usize = 64;
/// Bytes of a message of the burst.
const BURST_BYTES: usize = 1024;
/// Messages of the burst under way at once.
const BURST_AT_ONCE: u64 = 2_000;

pub(super) fn idle(common: &Common, args: &IdleArgs) -> Result<Report, Failure> {
    let server = Process::server(args.load.server_pid)?.ok_or_else(|| {
        Failure::Usage("idle reads the memory of the broker; name its process with --server-pid".to_owned())
    })?;
    let mut swarm = swarm_of(common, &args.load)?;
    let count = usize::try_from(args.connections).expect("32 bits fit");
    // Everybody has a topic of its own, also where one identity is shared.
    let topics = (0..count + FIRST).map(|n| swarm.topic(n, Role::Sender)).collect::<Result<Vec<_>, _>>()?;
    // With both --keys and --as the devices are idle and the application publishes.
    let (idle, busy) = match (&args.load.keys, &args.load.identity) {
        (Some(_), Some(_)) => (Role::Sender, Role::Receiver),
        _ => (Role::Receiver, Role::Sender),
    };
    let hellos = (0..count + FIRST).map(|n| swarm.hello(n, idle, 0)).collect::<Result<Vec<_>, _>>()?;
    let publisher = swarm.hello(count + FIRST, busy, 0)?;
    let (early, late) = hellos.split_at(FIRST);
    let open = |swarm: &mut Swarm, hellos: &[Vec<u8>], topics: &[String]| {
        let first = swarm.connect_all(hellos.to_vec())?;
        let wanted = topics.iter().enumerate().map(|(n, topic)| (first + n, vec![topic.clone()]));
        swarm.subscribe_all(wanted, Qos::AtLeastOnce)?;
        Ok::<usize, Failure>(first)
    };
    open(&mut swarm, early, &topics[..FIRST])?;
    let publisher = swarm.connect_all(vec![publisher])?;
    swarm.rest(Duration::from_secs(1))?;
    let before = server.resident_bytes()?;
    open(&mut swarm, late, &topics[FIRST..])?;
    swarm.rest(args.rest)?;
    let after = server.resident_bytes()?;
    let mut report = report_of("idle", &args.load);
    report.set("connections", args.connections);
    report.set("burst", args.burst);
    let each = |bytes: u64| bytes.saturating_sub(before) as f64 / count as f64;
    report.found("server_resident_before_bytes", before as f64);
    report.found("server_resident_after_bytes", after as f64);
    report.found("bytes_each", each(after));
    if args.burst > 0 {
        let received = burst(&mut swarm, publisher, &topics[FIRST..], args.burst)?;
        let at_once = server.resident_bytes()?;
        swarm.rest(args.rest)?;
        report.found("burst_messages", received as f64);
        report.found("bytes_each_right_after_burst", each(at_once));
        report.found("bytes_each_after_burst", each(server.resident_bytes()?));
    }
    Ok(report)
}

/// Sends every connection `rounds` messages; answers how many came.
fn burst(swarm: &mut Swarm, publisher: usize, topics: &[String], rounds: u32) -> Result<u64, Failure> {
    let templates = topics
        .iter()
        .map(|topic| Template::new(swarm.version, topic, Qos::AtLeastOnce, BURST_BYTES))
        .collect::<Result<Vec<_>, _>>()?;
    let total = templates.len() as u64 * u64::from(rounds);
    let at_once = BURST_AT_ONCE.min(u64::from(swarm.peek(publisher).unacknowledged_max));
    let (mut sent, mut received, mut acknowledged) = (0_u64, 0_u64, 0_u64);
    let mut quiet = 0;
    while received < total && quiet < 50 {
        while sent < total && sent - received.min(acknowledged) < at_once {
            // All of a connection in a row: that is what makes buffers grow.
            let template = &templates[usize::try_from(sent / u64::from(rounds)).expect("one of them")];
            let stamp = Stamp { due_ns: swarm.clock.ns(), sender: 0 };
            swarm.publish(publisher, template, stamp);
            sent += 1;
        }
        let before = received;
        swarm.turn(Some(Duration::from_millis(100)), |_, heard| {
            match heard {
                Heard::Message(_) => received += 1,
                Heard::Done(_) => acknowledged += 1,
                other => faults(other)?,
            }
            Ok(())
        })?;
        quiet = if received == before { quiet + 1 } else { 0 };
    }
    Ok(received)
}
