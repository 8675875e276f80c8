//! A log whose threads panic or hang says so, and what was acknowledged stands.

use std::io;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use drawbridge_broker::storage::{Batch, MessageId, SessionId, Storage};
use drawbridge_message_log::{Disk, DiskFile, FaultyDisk, LogConfig};

use crate::world::*;

/// A call of a disk: its name and the file.
type Call<'a> = (&'a str, &'a str);

/// A disk on which something happens at some calls.
#[derive(Clone)]
struct Moody {
    disk: FaultyDisk,
    mood: Arc<Mood>,
}

struct Mood {
    concerned: fn(Call<'_>) -> bool,
    now: Mutex<Now>,
    bell: Condvar,
}

#[derive(Clone, Copy, PartialEq)]
enum Now {
    Works,
    Hangs,
    Panics,
}

impl Moody {
    fn new(disk: FaultyDisk, concerned: fn(Call<'_>) -> bool) -> Self {
        Self { disk, mood: Arc::new(Mood { concerned, now: Mutex::new(Now::Works), bell: Condvar::new() }) }
    }

    fn set(&self, now: Now) {
        *self.mood.now.lock().unwrap() = now;
        self.mood.bell.notify_all();
    }

    fn file(&self, name: &str, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        Box::new(MoodyFile { name: name.to_owned(), file, mood: self.mood.clone() })
    }
}

impl Mood {
    fn meet(&self, call: Call<'_>) {
        if !(self.concerned)(call) {
            return;
        }
        let mut now = self.now.lock().unwrap();
        if *now == Now::Panics {
            drop(now);
            panic!("as the test wants it");
        }
        while *now == Now::Hangs {
            now = self.bell.wait(now).unwrap();
        }
    }
}

impl Disk for Moody {
    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.mood.meet(("create", name));
        Ok(self.file(name, self.disk.create(name)?))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.file(name, self.disk.open(name)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn sync_folder(&self) -> io::Result<()> {
        self.disk.sync_folder()
    }
}

struct MoodyFile {
    name: String,
    file: Box<dyn DiskFile>,
    mood: Arc<Mood>,
}

impl DiskFile for MoodyFile {
    fn reserve(&mut self, length: u64) -> io::Result<()> {
        self.file.reserve(length)
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.mood.meet(("append", &self.name));
        self.file.append(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.mood.meet(("sync", &self.name));
        self.file.sync()
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.file.truncate(length)
    }

    fn length(&self) -> io::Result<u64> {
        self.file.length()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.mood.meet(("read", &self.name));
        self.file.read_at(offset, buffer)
    }
}

/// A test that fails must end, and closing the log waits for its threads: dropped before the log.
struct Works<'a>(&'a Moody);

impl Drop for Works<'_> {
    fn drop(&mut self) {
        self.0.set(Now::Works);
    }
}

fn of_writer((call, file): Call<'_>) -> bool {
    call == "sync" && file.ends_with("segment")
}

fn of_keeper((call, file): Call<'_>) -> bool {
    call == "append" && file.contains("checkpoint")
}

fn of_reader_of_the_first_segment((call, file): Call<'_>) -> bool {
    call == "read" && file == "0000000000000000.segment"
}

/// Sessions and messages, one batch each.
fn batches(count: u64) -> Vec<Batch> {
    let first = batch(1, vec![session(1)]);
    std::iter::once(first)
        .chain((2..=count).map(|number| batch(number, vec![message(number, &[1], false, vec![1; 300])])))
        .collect()
}

#[test]
fn a_log_whose_thread_panics_says_so_ends_all_the_same_and_loses_nothing() {
    for concerned in [of_writer, of_keeper] {
        let disk = FaultyDisk::new(1);
        let moody = Moody::new(disk.clone(), concerned);
        let world = open(moody.clone(), &small());
        let batches = batches(200);
        batches[..10].iter().for_each(|batch| world.log.submit(0, batch.clone()));
        world.heard.wait_committed(0, 10);
        moody.set(Now::Panics);
        for batch in &batches[10..] {
            world.log.submit(0, batch.clone());
            // So that the keeper has a checkpoint to write.
            world.heard.committed_or(0, batch.number, || world.heard.is_broken());
        }
        eventually("it is told", || world.heard.is_broken());
        world.heard.wait_stalled(true);
        assert!(world.log.stats().stalled);
        // With a thread that is gone, nobody is waited for.
        world.log.close();
        assert_eq!(world.heard.stalls(), [true]);
        let told = world.heard.committed_of(0) as usize;
        let left = open(disk.after_power_cut(3), &small());
        assert!((told..=batches.len()).any(|count| left.image == after(&batches[..count])), "{told}");
        all_needed_is_readable(&left, &batches);
    }
}

#[test]
fn a_write_that_hangs_is_told_and_goes_on_when_the_disk_does() {
    let moody = Moody::new(FaultyDisk::new(1), of_writer);
    let world = open(moody.clone(), &LogConfig { hangs_after: Duration::from_millis(20), ..small() });
    let batches = batches(20);
    world.log.submit(0, batches[0].clone());
    world.heard.wait_committed(0, 1);
    let _works = Works(&moody);
    moody.set(Now::Hangs);
    batches[1..].iter().for_each(|batch| world.log.submit(0, batch.clone()));
    world.heard.wait_stalled(true);
    assert!(world.log.stats().stalled);
    assert_eq!(world.heard.committed_of(0), 1);
    moody.set(Now::Works);
    world.heard.wait_committed(0, 20);
    world.heard.wait_stalled(false);
    assert!(!world.heard.is_broken());
}

#[test]
fn a_keeper_that_hangs_is_told_and_what_waits_for_it_is_written_when_it_goes_on() {
    let moody = Moody::new(FaultyDisk::new(1), of_keeper);
    let config = LogConfig {
        hangs_after: Duration::from_millis(20),
        backlog_bytes_max: 4 << 10,
        group_bytes_max: 1,
        ..small()
    };
    let world = open(moody.clone(), &config);
    let _works = Works(&moody);
    moody.set(Now::Hangs);
    let batches = batches(100);
    batches.iter().for_each(|batch| world.log.submit(0, batch.clone()));
    world.heard.wait_stalled(true);
    assert!(world.heard.committed_of(0) < 100);
    moody.set(Now::Works);
    world.heard.wait_committed(0, 100);
    world.heard.wait_stalled(false);
    assert!(!world.heard.is_broken());
}

#[test]
fn who_waits_for_a_slow_place_of_the_disk_holds_up_nobody_else() {
    let disk = FaultyDisk::new(1);
    let all = batches(100);
    // A group for each, so that they lie in many segments.
    let world = open(disk.clone(), &LogConfig { group_bytes_max: 1, ..small() });
    all.iter().for_each(|batch| world.log.submit(0, batch.clone()));
    world.heard.wait_committed(0, 100);
    drop(world);
    let first = disk.contents().into_keys().next().expect("a segment");
    let moody = Moody::new(disk, of_reader_of_the_first_segment);
    assert!((moody.mood.concerned)(("read", &first)), "the first segment is {first}");
    let world = open(moody.clone(), &small());
    let _works = Works(&moody);
    moody.set(Now::Hangs);
    world.log.fetch(0, SessionId(1), vec![MessageId(2)]);
    for id in 90..=99 {
        world.log.fetch(1, SessionId(2), vec![MessageId(id)]);
        let (shard, session, messages) = world.heard.wait_fetched();
        assert_eq!((shard, session, messages.len()), (1, SessionId(2), 1));
        assert!(messages[0].0 == MessageId(id) && messages[0].1.is_some(), "{id}");
    }
    moody.set(Now::Works);
    let (shard, session, messages) = world.heard.wait_fetched();
    assert!((shard, session) == (0, SessionId(1)) && messages[0].1.is_some());
}
