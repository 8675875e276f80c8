//! All clients lose their connection and come back at once, while others go on exchanging messages.

use std::collections::BinaryHeap;
use std::cmp::Reverse;
use std::time::Duration;

use drawbridge_device::Qos;

use super::args::ConnectArgs;
use super::client::{Heard, State};
use super::credentials::Role;
use super::histogram::Histogram;
use super::packet::Template;
use super::process::{Meter, Process};
use super::report::Report;
use super::{clock, pairs, report_of, swarm_of};
use crate::Failure;
use crate::args::Common;

/// The others' traffic before and after, to compare with.
const CALM: Duration = Duration::from_secs(3);
/// A client that was sent away waits so long at first, then twice as long each time, up to 64 times.
const BACK_OFF_NS: u64 = 500_000_000;

pub(super) fn storm(common: &Common, args: &ConnectArgs) -> Result<Report, Failure> {
    let server = Process::server(args.load.server_pid)?;
    let mut swarm = swarm_of(common, &args.load)?;
    let count = usize::try_from(args.connections).expect("32 bits fit");
    let pairs = usize::try_from(args.pairs).expect("32 bits fit");
    let mut traffic = pairs::connect(&mut swarm, pairs, args.rate, |swarm, topic| {
        Template::new(swarm.version, topic, Qos::AtLeastOnce, 64)
    })?;
    // The senders of the pairs are clients 0 to `pairs`; the crowd comes after both.
    let number = |n: usize| if args.load.keys.is_some() { pairs + n } else { 2 * pairs + n };
    let hellos =
        (0..count).map(|n| swarm.hello(number(n), Role::Sender, 0)).collect::<Result<Vec<_>, _>>()?;
    let first = swarm.connect_all(hellos.clone())?;
    let clock = swarm.clock;
    traffic.restart(clock.ns());
    traffic.measure();
    traffic.go_on(&mut swarm, clock.ns() + clock::ns(CALM))?;
    let calm = traffic.times.clone();
    for at in first..first + count {
        swarm.cut(at);
    }
    let meter = Meter::start(server, clock)?;
    traffic.measure();
    let begun = clock.ns();
    for (n, hello) in hellos.iter().enumerate() {
        swarm.begin_again(first + n, hello.clone())?;
    }
    let (mut times, mut refusals) = (Histogram::default(), 0_u64);
    let mut tries = vec![0_u32; count];
    let mut later: BinaryHeap<Reverse<(u64, usize)>> = BinaryHeap::new();
    while times.total() < count as u64 {
        let now = clock.ns();
        if now - begun > clock::ns(args.patience) {
            let back = times.total();
            let seconds = args.patience.as_secs();
            return Err(Failure::Unavailable(format!("{back} of {count} clients were back after {seconds} s")));
        }
        while let Some(Reverse((due, n))) = later.peek().copied()
            && due <= now
        {
            later.pop();
            swarm.begin_again(first + n, hellos[n].clone())?;
        }
        let wait = traffic.send(&mut swarm);
        let mut ended = Vec::new();
        swarm.turn(Some(wait), |at, heard| {
            let of_crowd = at >= first;
            match heard {
                Heard::Opened if of_crowd => times.add(clock.ns() - begun),
                Heard::Refused(_) if of_crowd => refusals += 1,
                Heard::Closed(_) if of_crowd => ended.push(at - first),
                other => return traffic.hear(at, other, clock.ns()),
            }
            Ok(())
        })?;
        for n in ended {
            let wait = BACK_OFF_NS << tries[n].min(6);
            tries[n] += 1;
            // Spread by a number of its own, as devices do by chance.
            let spread = (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) % wait;
            later.push(Reverse((clock.ns() + wait / 2 + spread, n)));
            debug_assert_eq!(swarm.peek(first + n).state, State::Closed);
        }
    }
    let used = meter.used()?;
    let mut report = report_of("storm", &args.load);
    report.set("connections", args.connections);
    report.set("pairs", args.pairs);
    report.set("rate_per_s", args.rate);
    used.tell(&mut report, "connects", count as u64);
    report.found("back_p50_ms", times.at_us(0.5) / 1e3);
    report.found("back_all_ms", times.max_us() / 1e3);
    report.found("tries_again", tries.iter().map(|n| f64::from(*n)).sum());
    report.found("refusals", refusals as f64);
    report.times("others_before", &calm);
    report.times("others_meanwhile", &traffic.times);
    traffic.tell_late(&mut report);
    Ok(report)
}
