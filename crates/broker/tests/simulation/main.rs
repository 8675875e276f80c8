//! Random clients, crashes, late links, a slow storage and jumps of the clock against a slow, simple model of
//! MQTT (`model`). A run is a list of steps made from a seed; one that fails is shortened and shown.
//!
//! `SIMULATION_SEED=17 cargo test -p drawbridge-broker --test simulation replay -- --ignored --nocapture`
//! plays one seed again and tells what happens.

#![expect(clippy::disallowed_methods, reason = "one base instant; all later ones are sums")]
#![expect(clippy::print_stderr, reason = "a run that failed is told step by step")]
#![expect(unreachable_pub, reason = "modules of one test, not a crate")]

mod model;
mod settle;
mod sim;
mod turn;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::time::Instant;

use sim::Sim;

/// SplitMix64.
#[derive(Debug, Clone)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).expect("smaller")
    }

    pub(crate) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// One step: what, and the dice for the rest.
type Step = (usize, u64);

fn steps(seed: u64, count: usize) -> Vec<Step> {
    let mut rng = Rng(seed ^ 0x5eed);
    (0..count).map(|_| (rng.below(1_000), rng.next())).collect()
}

/// Plays the steps; what went wrong, if something did.
fn play(seed: u64, steps: &[Step], loud: bool) -> Result<u64, String> {
    static BASE: Mutex<Option<Instant>> = Mutex::new(None);
    let base = *BASE.lock().expect("not poisoned").get_or_insert_with(Instant::now);
    catch_unwind(AssertUnwindSafe(|| {
        let mut sim = Sim::new(base, &mut Rng(seed), loud);
        for (what, dice) in steps {
            sim.one(*what, &mut Rng(*dice));
        }
        sim.end(&mut Rng(seed ^ 1));
        sim.delivered
    }))
    .map_err(|panic| match (panic.downcast_ref::<String>(), panic.downcast_ref::<&str>()) {
        (Some(text), _) => text.clone(),
        (_, Some(text)) => (*text).to_owned(),
        _ => "a panic".to_owned(),
    })
}

/// Leaves out steps as long as it still fails.
fn shortened(seed: u64, steps: Vec<Step>, why: &str) -> Vec<Step> {
    let kind = |why: &str| -> String { why.chars().filter(|c| !c.is_ascii_digit()).take(20).collect() };
    let mut steps = steps;
    let mut size = steps.len() / 2;
    let mut tries = 0;
    while size > 0 && tries < 600 {
        let mut from = 0;
        while from < steps.len() && tries < 600 {
            let to = (from + size).min(steps.len());
            let fewer: Vec<Step> = steps[..from].iter().chain(&steps[to..]).copied().collect();
            tries += 1;
            if play(seed, &fewer, false).is_err_and(|other| kind(&other) == kind(why)) {
                steps = fewer;
            } else {
                from = to;
            }
        }
        size /= 2;
    }
    steps
}

const STEPS: usize = 700;

/// Plays each seed; the first that fails is shortened, told and a failure.
fn check(seeds: impl Iterator<Item = u64>) {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let mut delivered = 0;
    let mut failed = None;
    for seed in seeds {
        match play(seed, &steps(seed, STEPS), false) {
            Ok(more) => delivered += more,
            Err(why) => {
                let few = shortened(seed, steps(seed, STEPS), &why);
                eprintln!("seed {seed}: {why}\nshortened to {} steps:", few.len());
                let again = play(seed, &few, true);
                failed = Some((seed, why, again));
                break;
            }
        }
    }
    std::panic::set_hook(hook);
    if let Some((seed, why, again)) = failed {
        panic!("SIMULATION_SEED={seed}: {why}\nshortened: {again:?}");
    }
    assert!(delivered > 0, "nothing was delivered at all");
}

#[test]
fn random_clients_crashes_and_clocks_never_break_what_mqtt_promises() {
    // The others found something once.
    check(
        (0..500).chain([621, 701, 818, 1_035, 1_426, 1_859, 2_395, 2_566, 2_836, 2_946, 3_309, 5_590, 5_956]),
    );
}

#[test]
#[ignore = "takes long: cargo xtask soak"]
fn soak_of_random_clients_crashes_and_clocks() {
    check(1_000..21_000);
}

#[test]
#[ignore = "plays SIMULATION_SEED again"]
fn replay() {
    let seed = std::env::var("SIMULATION_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0);
    if std::env::var("SIMULATION_ALL").is_ok() {
        let told = play(seed, &steps(seed, STEPS), true);
        panic!("{told:?}");
    }
    let count = std::env::var("SIMULATION_COUNT").ok().and_then(|count| count.parse().ok()).unwrap_or(1);
    check(seed..seed + count);
}
