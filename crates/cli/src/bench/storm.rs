//! All clients lose their connection and come back at once, while others go on exchanging messages. The others have a
//! thread of their own: what the crowd costs the generator is not to delay them.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use drawbridge_device::Qos;

use super::args::ConnectArgs;
use super::client::Heard;
use super::credentials::Role;
use super::histogram::Histogram;
use super::packet::Template;
use super::process::{Meter, Process};
use super::report::Report;
use super::swarm::Swarm;
use super::traffic::Traffic;
use super::{clock, pairs, report_of, swarm_of};
use crate::Failure;
use crate::args::Common;

/// The others' traffic before the storm, to compare with.
const CALM: Duration = Duration::from_secs(3);
/// A client that was sent away waits about so long at first, then twice as long each time, up to 64 times.
const BACK_OFF_NS: u64 = 500_000_000;
/// How often the others look whether the storm has begun or ended.
const LOOK_NS: u64 = 5_000_000;

/// What the others live in: not yet measured, the calm, the storm, and after.
const EARLY: u8 = 0;
const CALM_STAGE: u8 = 1;
const STORM_STAGE: u8 = 2;
const OVER: u8 = 3;

pub(super) fn storm(common: &Common, args: &ConnectArgs) -> Result<Report, Failure> {
    let server = Process::server(args.load.server_pid)?;
    let mut swarm = swarm_of(common, &args.load)?;
    let others = swarm.another()?;
    let count = usize::try_from(args.connections).expect("32 bits fit");
    let pairs = usize::try_from(args.pairs).expect("32 bits fit");
    // The pairs are clients 0 to 2 x `pairs`, of which only those that send need a device of their own.
    let first_number =
        if args.load.keys.is_some() && args.load.identity.is_some() { pairs } else { 2 * pairs };
    let hellos = (first_number..first_number + count).map(|n| swarm.hello(n, Role::Sender, 0));
    let hellos = hellos.collect::<Result<Vec<_>, _>>()?;
    let stage = AtomicU8::new(EARLY);
    let (ready, is_ready) = mpsc::channel();
    let (crowd, told) = thread::scope(|scope| {
        let others = scope.spawn(|| exchange(others, args, &stage, ready));
        let crowd = if is_ready.recv().is_ok() {
            lose_and_return(&mut swarm, args, &hellos, server, &stage)
        } else {
            Err(Failure::Unavailable("the other clients could not connect".to_owned())) // they say why
        };
        stage.store(OVER, Ordering::Relaxed);
        let told = others.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (crowd, told)
    });
    let told = told?;
    let crowd = crowd?;
    let mut report = report_of("storm", &args.load);
    report.set("connections", args.connections);
    report.set("pairs", args.pairs);
    report.set("rate_per_s", args.rate);
    crowd.used.tell(&mut report, "connects", count as u64);
    report.found("back_p50_ms", crowd.times.at_us(0.5) / 1e3);
    report.found("back_all_ms", crowd.times.max_us() / 1e3);
    report.found("tries_again", crowd.tries_again as f64);
    report.found("refusals", crowd.refusals as f64);
    report.times("others_before", &told.calm);
    report.times("others_meanwhile", &told.storm.times);
    told.storm.tell_late(&mut report);
    Ok(report)
}

/// What became of the crowd.
struct Crowd {
    used: super::process::Used,
    times: Histogram,
    tries_again: u64,
    refusals: u64,
}

fn lose_and_return(
    swarm: &mut Swarm,
    args: &ConnectArgs,
    hellos: &[Vec<u8>],
    server: Option<Process>,
    stage: &AtomicU8,
) -> Result<Crowd, Failure> {
    let first = swarm.connect_all(hellos.to_vec())?;
    stage.store(CALM_STAGE, Ordering::Relaxed);
    swarm.rest(CALM)?;
    let count = hellos.len();
    (first..first + count).for_each(|at| swarm.cut(at));
    stage.store(STORM_STAGE, Ordering::Relaxed);
    let clock = swarm.clock;
    let meter = Meter::start(server, clock)?;
    let begun = clock.ns();
    for (n, hello) in hellos.iter().enumerate() {
        swarm.begin_again(first + n, hello.clone())?;
    }
    let (mut times, mut tries_again, mut refusals) = (Histogram::default(), 0_u64, 0_u64);
    let mut tries = vec![0_u32; count];
    let mut later: BinaryHeap<Reverse<(u64, usize)>> = BinaryHeap::new();
    while times.total() < count as u64 {
        let now = clock.ns();
        if now - begun > clock::ns(args.patience) {
            let (back, seconds) = (times.total(), args.patience.as_secs());
            return Err(Failure::Unavailable(format!(
                "{back} of {count} clients were back after {seconds} s"
            )));
        }
        while let Some(Reverse((due, n))) = later.peek().copied()
            && due <= now
        {
            later.pop();
            tries_again += 1;
            swarm.begin_again(first + n, hellos[n].clone())?;
        }
        let mut ended = Vec::new();
        swarm.turn(Some(Duration::from_millis(10)), |at, heard| {
            match heard {
                Heard::Opened => times.add(clock.ns() - begun),
                Heard::Refused(_) => refusals += 1,
                Heard::Closed(_) => ended.push(at - first),
                _ => {}
            }
            Ok(())
        })?;
        for n in ended {
            let wait = BACK_OFF_NS << tries[n].min(6);
            tries[n] += 1;
            // Spread by a number of its own, as devices do by chance.
            let spread = (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) % wait;
            later.push(Reverse((clock.ns() + wait / 2 + spread, n)));
        }
    }
    Ok(Crowd { used: meter.used()?, times, tries_again, refusals })
}

/// What became of the others.
struct Told {
    calm: Histogram,
    storm: Traffic,
}

/// Pairs exchange messages until all is over.
fn exchange(
    mut swarm: Swarm,
    args: &ConnectArgs,
    stage: &AtomicU8,
    ready: mpsc::Sender<()>,
) -> Result<Told, Failure> {
    let pairs = usize::try_from(args.pairs).expect("32 bits fit");
    let mut traffic = pairs::connect(&mut swarm, pairs, args.rate, |swarm, topic| {
        Template::new(swarm.version, topic, Qos::AtLeastOnce, 64)
    })?;
    traffic.may_sleep();
    let _ = ready.send(()); // whoever waited may have given up
    let clock = swarm.clock;
    traffic.restart(clock.ns());
    let (mut was, mut calm) = (EARLY, Histogram::default());
    loop {
        traffic.go_on(&mut swarm, clock.ns() + LOOK_NS)?;
        let is = stage.load(Ordering::Relaxed);
        if is == OVER {
            return Ok(Told { calm, storm: traffic });
        }
        if is != was {
            if was == CALM_STAGE {
                calm = traffic.times.clone();
            }
            traffic.measure();
            was = is;
        }
    }
}
