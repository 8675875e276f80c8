//! What is stored is there after a restart.

use std::sync::Arc;

use drawbridge_broker::storage::{MessageId, SessionId, Storage};
use drawbridge_message_log::{Disk, FaultyDisk, LogConfig, LogError, MessageLog, RealDisk};

use crate::world::*;

#[test]
fn what_was_committed_stands_after_a_restart_also_from_a_checkpoint() {
    let disk = FaultyDisk::new(1);
    let batches = Work::new(7, 0, 1).batches(400);
    for (part, upto) in [(&batches[..150], 150), (&batches[150..300], 300), (&batches[300..], 400)] {
        let world = open(disk.clone(), &small());
        assert_eq!(world.image, after(&batches[..upto - part.len()]));
        all_needed_is_readable(&world, &batches);
        for (number, batch) in (1..).zip(part) {
            world.log.submit(0, drawbridge_broker::storage::Batch { number, ..batch.clone() });
        }
        world.heard.wait_committed(0, part.len() as u64);
        assert!(world.heard.stalls().is_empty());
    }
    let world = open(disk.clone(), &small());
    assert_eq!(world.image, after(&batches));
    all_needed_is_readable(&world, &batches);
    let checkpoints = disk.contents().keys().filter(|name| name.ends_with("checkpoint")).count();
    assert_eq!(checkpoints, 1, "{:?}", disk.contents().keys());
}

#[test]
fn the_same_holds_in_a_folder_whose_files_nobody_else_may_read() {
    use std::os::unix::fs::PermissionsExt;
    let above = tempfile::tempdir().unwrap();
    let folder = above.path().join("messages");
    let batches = Work::new(11, 0, 1).batches(300);
    let world = open(RealDisk::open(&folder).unwrap(), &small());
    batches.iter().for_each(|batch| world.log.submit(0, batch.clone()));
    world.heard.wait_committed(0, 300);
    drop(world);
    let world = open(RealDisk::open(&folder).unwrap(), &small());
    assert_eq!(world.image, after(&batches));
    all_needed_is_readable(&world, &batches);
    assert_eq!(folder.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    for file in folder.read_dir().unwrap() {
        assert_eq!(file.unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn a_message_is_fetched_before_and_after_it_is_written_and_none_comes_of_one_that_nobody_needs() {
    let disk = FaultyDisk::new(1);
    let world = open(disk.clone(), &LogConfig { patience: std::time::Duration::from_secs(3600), ..small() });
    let stored =
        batch(1, vec![session(1), message(5, &[1], false, vec![5; 3]), message(6, &[1], false, vec![])]);
    world.log.submit(0, drawbridge_broker::storage::Batch { urgent: false, ..stored });
    let fetch = |ids: &[u64]| -> Vec<bool> {
        world.log.fetch(2, SessionId(1), ids.iter().map(|id| MessageId(*id)).collect());
        let (shard, session, messages) = world.heard.wait_fetched();
        assert_eq!((shard, session), (2, SessionId(1)));
        messages.iter().map(|(_, message)| message.is_some()).collect()
    };
    assert_eq!(fetch(&[6, 5, 7]), [true, true, false]);
    assert_eq!(world.heard.committed_of(0), 0, "nobody waits for it");
    world.log.submit(0, batch(2, vec![done(1, 5)]));
    world.heard.wait_committed(0, 2);
    eventually("5 is needed by nobody", || fetch(&[6, 5]) == [true, false]);
}

#[test]
fn a_batch_that_nobody_waits_for_is_written_in_the_end() {
    let world = open(FaultyDisk::new(1), &small());
    world.log.submit(0, drawbridge_broker::storage::Batch { urgent: false, ..batch(1, vec![session(1)]) });
    world.heard.wait_committed(0, 1);
}

#[test]
fn closing_stores_what_waits_and_says_so() {
    let disk = FaultyDisk::new(1);
    let config = LogConfig { patience: std::time::Duration::from_secs(3600), ..small() };
    let world = open(disk.clone(), &config);
    world.log.submit(1, drawbridge_broker::storage::Batch { urgent: false, ..batch(1, vec![session(1)]) });
    world.log.close();
    world.log.close();
    assert_eq!(world.heard.committed_of(1), 1);
    assert_eq!(open(disk, &config).image.sessions.len(), 1);
}

#[test]
fn settings_out_of_range_are_refused() {
    for config in [
        LogConfig { segment_bytes: 4095, ..LogConfig::default() },
        LogConfig { segment_bytes: (1 << 30) + 1, bytes_max: u64::MAX, ..LogConfig::default() },
        LogConfig { bytes_max: 511 << 20, ..LogConfig::default() },
        LogConfig { checkpoint_bytes: 0, ..LogConfig::default() },
        LogConfig { group_bytes_max: 0, ..LogConfig::default() },
        LogConfig { retry: std::time::Duration::ZERO, ..LogConfig::default() },
    ] {
        let disk: Arc<dyn Disk> = Arc::new(FaultyDisk::new(1));
        let refused = MessageLog::open(disk, config, *TIME, Arc::new(std::time::Instant::now)).err();
        assert!(matches!(refused, Some(LogError::Config { .. })), "{refused:?}");
    }
}

#[test]
fn what_was_reserved_and_never_written_is_not_read_of_segments_that_kills_have_left() {
    const SEGMENT: u64 = 8 << 20;
    let config =
        LogConfig { segment_bytes: SEGMENT, bytes_max: 1 << 30, checkpoint_bytes: 1 << 30, ..small() };
    let mut disk = FaultyDisk::new(1);
    for round in 1..=12 {
        let world = open(disk.clone(), &config);
        assert_eq!(world.image.sessions.len(), 2 * (round - 1));
        for number in 1..=2 {
            world.log.submit(0, batch(number, vec![session(2 * round as u64 + number)]));
            world.heard.wait_committed(0, number);
        }
        // The newest segment is read twice, to its end: whether anything stands behind a group that is broken off.
        let read = disk.bytes_read();
        assert!(read < 2 * SEGMENT + (12 << 20), "round {round}: {read} bytes");
        disk = disk.after_kill();
    }
    let reserved: usize = disk.contents().values().map(Vec::len).sum();
    assert!(reserved as u64 > 11 * SEGMENT, "each kill has left a segment: {reserved} bytes");
}

#[test]
fn a_server_that_is_killed_again_and_again_reads_no_more_each_time() {
    let mut disk = FaultyDisk::new(1);
    let mut most = 0;
    for round in 1..=30 {
        let segments = disk.contents().keys().filter(|name| name.ends_with("segment")).count();
        most = most.max(segments);
        let world = open(disk.clone(), &small());
        assert_eq!(world.image.sessions.len(), 2 * (round - 1));
        // The last group is written anew at the next start; the one before stays in its segment.
        for number in 1..=2 {
            world.log.submit(0, batch(number, vec![session(2 * round as u64 + number)]));
            world.heard.wait_committed(0, number);
        }
        // 6 KiB are due, 4 times that are too much. Each kill leaves a segment of 4 and a short one.
        if segments > 15 {
            eventually("a checkpoint", || world.log.stats().checkpoints > 0);
        }
        disk = disk.after_kill();
    }
    assert!((8..=18).contains(&most), "{most} segments");
}
