//! What nobody needs is given back, and what is too old or too much is dropped and counted.

use std::time::Duration;

use drawbridge_broker::storage::{Batch, MessageId, Record, SessionId, Storage, TimeBase};
use drawbridge_message_log::{FaultyDisk, LogConfig};

use crate::world::*;

fn submit_and_wait(world: &World, number: &mut u64, records: Vec<Record>) {
    *number += 1;
    world.log.submit(0, Batch { number: *number, records, urgent: true });
    world.heard.wait_committed(0, *number);
}

fn disk_bytes(disk: &FaultyDisk) -> usize {
    disk.contents().values().map(Vec::len).sum()
}

#[test]
fn segments_that_nobody_needs_go() {
    let disk = FaultyDisk::new(1);
    let world = open(disk.clone(), &small());
    let mut number = 0;
    submit_and_wait(&world, &mut number, vec![session(1)]);
    for id in 1..=500 {
        submit_and_wait(&world, &mut number, vec![message(id, &[1], false, vec![1; 500])]);
        submit_and_wait(&world, &mut number, vec![done(1, id)]);
    }
    eventually("what is dead is removed", || disk_bytes(&disk) < 20_000);
    assert_eq!(world.log.stats().moved, 0);
}

#[test]
fn the_few_that_are_needed_are_copied_out_of_segments_that_are_mostly_dead() {
    let disk = FaultyDisk::new(1);
    let world = open(disk.clone(), &small());
    let (mut number, mut all) = (0, Vec::new());
    let mut submit = |records: Vec<Record>| {
        all.push(batch(number + 1, records.clone()));
        submit_and_wait(&world, &mut number, records);
    };
    submit(vec![session(1)]);
    for id in 1..=600 {
        submit(vec![message(id, &[1], id == 77, vec![1; 500])]);
        if id % 20 != 0 {
            submit(vec![done(1, id)]);
        }
    }
    // 30 of 500 B are owed, one is retained; they lay in 80 segments.
    let mut unneeded = 1000..;
    eventually("the space comes back", || {
        submit(vec![message(unneeded.next().unwrap(), &[], false, vec![0; 500])]);
        disk_bytes(&disk) < 60_000
    });
    assert!(world.log.stats().moved >= 20, "{:?}", world.log.stats());
    for left in [disk.after_power_cut(5), disk.after_kill()] {
        let world = open(left, &small());
        assert_eq!(world.image, after(&all));
        all_needed_is_readable(&world, &all);
    }
}

#[test]
fn too_much_drops_the_oldest_that_are_owed_and_never_a_retained_one() {
    let disk = FaultyDisk::new(1);
    let config = LogConfig { bytes_max: 64 << 10, ..small() };
    let world = open(disk.clone(), &config);
    let mut number = 0;
    submit_and_wait(&world, &mut number, vec![session(1), session(2)]);
    let retained = (1..=7).map(|id| message(id, &[1], true, vec![7; 500])).collect();
    submit_and_wait(&world, &mut number, retained);
    for id in 8..=400 {
        submit_and_wait(&world, &mut number, vec![message(id, &[1, 2], false, vec![1; 500])]);
        if id % 50 == 0 {
            std::thread::sleep(Duration::from_millis(300));
        }
    }
    eventually("it fits again", || disk_bytes(&disk) < 80 << 10 && world.log.stats().dropped_bytes > 100);
    // Nothing is forgotten before it has to be.
    assert!(world.log.stats().messages > 40, "{:?}", world.log.stats());
    world.log.fetch(0, SessionId(1), vec![MessageId(8), MessageId(400), MessageId(1)]);
    let there: Vec<bool> = world.heard.wait_fetched().2.iter().map(|(_, m)| m.is_some()).collect();
    assert_eq!(there, [false, true, true]);
    // Whoever is told that it is kept no more says so; that changes nothing.
    submit_and_wait(&world, &mut number, vec![done(1, 8), done(2, 8)]);
    drop(world);
    let world = open(disk, &config);
    assert_eq!(world.retained.len(), 7);
    assert!(world.image.references.keys().all(|id| id.0 <= 7 || id.0 > 100));
    assert_eq!(world.image.sessions.len(), 2);
}

#[test]
fn a_greedy_session_loses_its_own_messages_and_ten_modest_ones_nothing() {
    let disk = FaultyDisk::new(1);
    let config = LogConfig { bytes_max: 64 << 10, ..small() };
    let world = open(disk.clone(), &config);
    let mut number = 0;
    submit_and_wait(&world, &mut number, (1..=11).map(session).collect());
    // The modest are owed the oldest; session 11 waits for all of that too, and for what is said ten times as often.
    let modest = |id: u64| id.is_multiple_of(10) && id <= 200;
    for id in 1..=600 {
        let record = match modest(id) {
            true => message(id, &[1 + id / 10 % 10, 11], false, vec![1; 500]),
            false => message(id, &[11], false, vec![1; 500]),
        };
        submit_and_wait(&world, &mut number, vec![record]);
        if id % 50 == 0 {
            // House is kept once a second: what may be on the disk is not exceeded by far.
            let before = world.log.stats().dropped_bytes;
            eventually("room is made", || {
                let stats = world.log.stats();
                stats.dropped_bytes > before || stats.live_bytes <= config.bytes_max / 10 * 7
            });
        }
    }
    // Though what has to stay lies in nearly every segment, the space comes back.
    let mut unneeded = 1000..;
    eventually("it fits again", || {
        submit_and_wait(
            &world,
            &mut number,
            vec![message(unneeded.next().unwrap(), &[], false, vec![0; 500])],
        );
        let stats = world.log.stats();
        stats.live_bytes <= config.bytes_max / 10 * 7 && disk_bytes(&disk) < 80 << 10
    });
    let stats = world.log.stats();
    assert!(stats.dropped_bytes > 400 && stats.moved > 0, "{stats:?}");
    drop(world);
    let world = open(disk, &config);
    for session in 1..=10 {
        assert_eq!(world.image.sessions[&SessionId(session)].pending.len(), 2, "session {session}");
    }
    let greedy = &world.image.sessions[&SessionId(11)].pending;
    assert!(greedy.len() > 40, "it keeps its share: {}", greedy.len());
    // And what it keeps of its own is the newest.
    let own: Vec<u64> = greedy.keys().map(|id| id.0).filter(|id| !modest(*id)).collect();
    assert!(own.iter().copied().eq(601 - own.len() as u64..=600), "{own:?}");
}

#[test]
fn what_is_too_old_is_dropped_and_sessions_and_retained_messages_stay() {
    let disk = FaultyDisk::new(1);
    let world = open(disk.clone(), &small());
    let mut number = 0;
    submit_and_wait(&world, &mut number, vec![session(1), session(2)]);
    submit_and_wait(&world, &mut number, vec![message(1, &[1], true, vec![1; 50])]);
    let owed = (2..=40).map(|id| message(id, &[1, 2], false, vec![1; 50])).collect();
    submit_and_wait(&world, &mut number, owed);
    drop(world);
    // The clock goes on while the server is down.
    let later = TimeBase { unix_ms: TIME.unix_ms + 3_600_000, ..*TIME };
    let config = LogConfig { age_max: Duration::from_secs(1800), ..small() };
    let world = try_open_at(disk.clone(), &config, later).unwrap();
    assert_eq!(world.image.references.len(), 40);
    eventually("39 are dropped", || world.log.stats().dropped_age == 39);
    world.log.fetch(0, SessionId(2), vec![MessageId(2), MessageId(1)]);
    let there: Vec<bool> = world.heard.wait_fetched().2.iter().map(|(_, m)| m.is_some()).collect();
    assert_eq!(there, [false, true]);
    submit_and_wait(&world, &mut 0, vec![session(3)]);
    drop(world);
    let world = try_open_at(disk, &config, later).unwrap();
    assert_eq!((world.image.sessions.len(), world.image.references.len(), world.retained.len()), (3, 1, 1));
}

#[test]
fn a_hundred_thousand_sessions_stand_again() {
    let folder = tempfile::tempdir().unwrap();
    let disk = || drawbridge_message_log::RealDisk::open(&folder.path().join("messages")).unwrap();
    let config = LogConfig::default();
    let world = open(disk(), &config);
    let mut number = 0;
    for first in (0..100_000).step_by(1000) {
        let records = (first..first + 1000)
            .flat_map(|id| [session(id + 1), message(id + 1, &[id + 1], false, vec![0; 20])]);
        number += 1;
        world.log.submit(0, batch(number, records.collect()));
    }
    world.heard.wait_committed(0, number);
    drop(world);
    for _ in 0..2 {
        let world = open(disk(), &config);
        assert_eq!((world.image.sessions.len(), world.image.references.len()), (100_000, 100_000));
        assert_eq!(world.image.session_max, 100_000);
    }
}
