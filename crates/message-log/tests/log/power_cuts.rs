//! The power is cut, or the process killed, at every call of the disk that changes something (F2).

use drawbridge_broker::storage::{Batch, Image, Storage};
use drawbridge_message_log::{Fault, FaultyDisk, LogConfig};

use crate::world::*;

/// One log through several lives.
struct Lives {
    batches: Vec<Batch>,
    /// So many of them were told to be committed, in this life or one before.
    told: usize,
    disk: FaultyDisk,
}

impl Lives {
    fn new(seed: u64, batches: usize) -> Self {
        Self { batches: Work::new(seed, 0, 1).batches(batches), told: 0, disk: FaultyDisk::new(seed) }
    }

    /// Opens the log and works until the end of the work or a power cut. Whether it was cut.
    fn live(&mut self, what: &str, random: &mut Random) -> bool {
        let disk = self.disk.clone();
        let world = match try_open(disk.clone(), &small()) {
            Ok(world) => world,
            // No test lets a disk fail at opening but by a cut or one injected fault.
            Err(error) => {
                assert_eq!(error.code(), "DB-5010", "{what}: {error}");
                return disk.is_cut();
            }
        };
        let stands = self.stands(&world.image, what);
        let (mut submitted, rest) = (0, &self.batches[stands..]);
        while submitted < rest.len() && !disk.is_cut() {
            let burst = rest.iter().skip(submitted).take(1 + random.below(5) as usize);
            for batch in burst {
                submitted += 1;
                world.log.submit(0, Batch { number: submitted as u64, ..batch.clone() });
            }
            let upto = submitted as u64 - random.below(2);
            world.heard.committed_or(0, upto, || disk.is_cut());
        }
        if !disk.is_cut() {
            world.heard.committed_or(0, submitted as u64, || disk.is_cut());
        }
        drop(world.log);
        self.told = self.told.max(stands + world.heard.committed_of(0) as usize);
        disk.is_cut()
    }

    /// How many batches make this image: all that were told, at least.
    fn stands(&self, image: &Image, what: &str) -> usize {
        let mut expected = after(&self.batches[..self.told]);
        for count in self.told..=self.batches.len() {
            if plain(&expected) == *image {
                return count;
            }
            self.batches.get(count).iter().flat_map(|batch| &batch.records).for_each(|r| expected.apply(r));
        }
        panic!("{what}: {} batches were told, and what stands is no such prefix", self.told);
    }

    /// The disk comes back: it opens, what was told is there, and it can be worked on to the end.
    fn check(&mut self, what: &str) {
        {
            let world = try_open(self.disk.clone(), &small())
                .unwrap_or_else(|error| panic!("{what}: does not open: {error}"));
            self.stands(&world.image, what);
            all_needed_is_readable(&world, &self.batches);
        }
        assert!(!self.live(what, &mut Random(1)));
        assert_eq!(self.told, self.batches.len(), "{what}");
        let world = open(self.disk.clone(), &small());
        assert_eq!(world.image, after(&self.batches), "{what}");
        all_needed_is_readable(&world, &self.batches);
    }
}

/// Every call of one fixed work is the last, for each of `seeds`; gives the number of points.
fn cut_at_every_call(batches: usize, seeds: std::ops::Range<u64>, kill: bool) -> u64 {
    let mut points = 0;
    for seed in seeds {
        for call in 0.. {
            let what = format!("seed {seed}, kill {kill}, call {call}");
            let mut lives = Lives::new(seed, batches);
            lives.disk.fail_at(call, Fault::PowerCut);
            if !lives.live(&what, &mut Random(seed)) {
                assert!(call > batches as u64, "{what}: too few calls to believe it");
                break;
            }
            lives.disk =
                if kill { lives.disk.after_kill() } else { lives.disk.after_power_cut(seed ^ call << 8) };
            lives.check(&what);
            points += 1;
        }
    }
    points
}

/// Logs that are cut or killed four times each, at any call, with other faults in between; gives the number of cuts.
fn cut_at_random(seeds: std::ops::Range<u64>) -> u64 {
    let mut points = 0;
    for seed in seeds {
        let random = &mut Random(seed);
        let mut lives = Lives::new(seed, 120);
        for life in 0..4 {
            let what = format!("seed {seed}, life {life}");
            if random.below(2) == 0 {
                let fault = if random.below(2) == 0 { Fault::Error } else { Fault::Full };
                lives.disk.fail_at(random.below(60), fault);
            }
            lives.disk.fail_at(random.below(120), Fault::PowerCut);
            if !lives.live(&what, random) {
                lives.disk = lives.disk.after_kill();
                continue;
            }
            points += 1;
            let killed = random.below(3) == 0;
            lives.disk =
                if killed { lives.disk.after_kill() } else { lives.disk.after_power_cut(random.next()) };
        }
        lives.check(&format!("seed {seed}, at the end"));
    }
    points
}

#[test]
fn f2_whenever_the_power_is_cut_it_opens_and_holds_all_that_was_told() {
    let points = cut_at_every_call(60, 0..2, false);
    println!("{points} points");
    assert!(points > 150, "{points}");
}

#[test]
fn f2_whenever_the_process_is_killed_it_opens_and_holds_all_that_was_told() {
    let points = cut_at_every_call(60, 2..3, true);
    println!("{points} points");
    assert!(points > 75, "{points}");
}

#[test]
fn f2_the_same_for_logs_cut_killed_and_failing_again_and_again() {
    let points = cut_at_random(0..100);
    println!("{points} points");
    assert!(points > 200, "{points}");
}

#[test]
#[ignore = "takes long: cargo xtask soak"]
fn soak_f2_twenty_thousand_power_cuts_and_kills() {
    let mut points = 0;
    for seed in (100..).step_by(50) {
        points += cut_at_every_call(60, seed..seed + 1, false) + cut_at_every_call(60, seed..seed + 1, true);
        points += cut_at_random(seed..seed + 50);
        if points >= 20_000 {
            break;
        }
    }
    println!("{points} points");
}

#[test]
fn shards_side_by_side_have_each_what_they_were_told() {
    const SHARDS: u64 = 3;
    for seed in 0..25 {
        let random = &mut Random(seed);
        let all: Vec<Vec<Batch>> =
            (0..SHARDS).map(|shard| Work::new(seed ^ shard << 32, shard, SHARDS).batches(60)).collect();
        let disk = FaultyDisk::new(seed);
        let world = open(disk.clone(), &small());
        disk.fail_at(random.below(90), Fault::PowerCut);
        std::thread::scope(|scope| {
            for (shard, batches) in all.iter().enumerate() {
                let (world, disk) = (&world, &disk);
                scope.spawn(move || {
                    for batch in batches {
                        world.log.submit(shard, batch.clone());
                        if batch.number % 3 == 0 {
                            world.heard.committed_or(shard, batch.number, || disk.is_cut());
                        }
                    }
                    world.heard.committed_or(shard, batches.len() as u64, || disk.is_cut());
                });
            }
        });
        world.log.close();
        let left = open(disk.after_power_cut(seed), &small());
        for (shard, batches) in all.iter().enumerate() {
            let mut theirs = left.image.sessions.clone();
            theirs.retain(|id, _| id.0 % SHARDS == shard as u64);
            let told = world.heard.committed_of(shard) as usize;
            let stands = (told..=batches.len()).find(|count| after(&batches[..*count]).sessions == theirs);
            assert!(stands.is_some(), "seed {seed}, shard {shard}: {told} told");
        }
        all_needed_is_readable(&left, all.iter().flatten());
    }
}

#[test]
fn f3_a_full_disk_acknowledges_nothing_serves_reads_and_goes_on_by_itself() {
    for seed in 0..20 {
        let random = &mut Random(seed);
        let batches = Work::new(seed, 0, 1).batches(240);
        let disk = FaultyDisk::new(seed);
        let world = open(disk.clone(), &LogConfig { patience: std::time::Duration::ZERO, ..small() });
        let (mut submitted, mut stalls) = (0, Vec::new());
        let submit = |from: &mut usize, count: usize| {
            let until = (*from + count).min(batches.len());
            batches[*from..until].iter().for_each(|batch| world.log.submit(0, batch.clone()));
            *from = until;
        };
        for _ in 0..4 {
            submit(&mut submitted, 1 + random.below(40) as usize);
            world.heard.wait_committed(0, submitted as u64);
            disk.set_full(true);
            let before = submitted;
            submit(&mut submitted, 1 + random.below(20) as usize);
            world.heard.wait_stalled(true);
            stalls.push(true);
            assert_eq!(world.heard.committed_of(0), before as u64, "seed {seed}");
            let known = after(&batches[..before]);
            if let Some(id) = known.references.keys().next() {
                world.log.fetch(0, drawbridge_broker::storage::SessionId(1), vec![*id]);
                let (.., messages) = world.heard.wait_fetched();
                // It may be that nobody needs it any more as far as the keeper knows: never a wrong one.
                assert!(messages.iter().all(|(found, _)| found == id), "seed {seed}");
                assert!(messages[0].1.is_some(), "seed {seed}: {id:?} is owed");
            }
            disk.set_full(false);
            world.heard.wait_committed(0, submitted as u64);
            world.heard.wait_stalled(false);
            stalls.push(false);
        }
        assert_eq!(world.heard.stalls(), stalls, "seed {seed}");
        let left = open(disk.after_power_cut(seed), &small());
        assert_eq!(left.image, after(&batches[..submitted]), "seed {seed}");
        all_needed_is_readable(&left, &batches);
    }
}

#[test]
fn a_log_that_is_closed_while_the_disk_is_full_loses_only_what_nobody_was_told() {
    let disk = FaultyDisk::new(1);
    let batches = Work::new(1, 0, 1).batches(40);
    let world = open(disk.clone(), &small());
    batches[..30].iter().for_each(|batch| world.log.submit(0, batch.clone()));
    world.heard.wait_committed(0, 30);
    disk.set_full(true);
    batches[30..].iter().for_each(|batch| world.log.submit(0, batch.clone()));
    world.heard.wait_stalled(true);
    world.log.close();
    let full = open(disk.clone(), &small());
    assert_eq!(full.image, after(&batches[..30]), "it opens on a full disk");
    all_needed_is_readable(&full, &batches);
}
