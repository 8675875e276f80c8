//! Sessions that outlive their connections: over real sockets, two shards and the real log, on a disk that a
//! test can cut off.

use std::sync::Arc;
use std::time::Duration;

use drawbridge_admission::{Actor, Clock};
use drawbridge_bridge::{BridgeConfig, Durable, StorageNews};
use drawbridge_broker::Restored;
use drawbridge_broker::storage::TimeBase;
use drawbridge_message_log::{Disk, FaultyDisk, LogConfig, MessageLog};
use drawbridge_names::PrincipalName;
use drawbridge_testkit::TestDevice;

use crate::client::{Client, End, Level, publish};
use crate::rig::{RealClock, Rig, jwt, registry, rig, wait_until};

/// The settings of a bridge over what is on the disk, and its log.
fn durable(config: &mut BridgeConfig, disk: &FaultyDisk) -> Arc<MessageLog> {
    let clock = RealClock;
    let time = TimeBase { instant: clock.instant(), unix_ms: clock.now_ms() };
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let opened = MessageLog::open(disk, LogConfig::default(), time, Arc::new(move || clock.instant()));
    let opened = opened.expect("a log in order");
    let news = StorageNews::new();
    let log = Arc::new(opened.log.start(news.clone(), || panic!("the log is broken")).expect("it starts"));
    let restored =
        Restored { image: Arc::new(opened.image), retained: opened.retained, ..Restored::default() };
    config.storage = Some(Durable { storage: log.clone(), restored, news });
    log
}

fn durable_rig(disk: &FaultyDisk) -> (Rig, Arc<MessageLog>) {
    let mut log = None;
    let rig = rig(|config| log = Some(durable(config, disk)));
    (rig, log.expect("made with the rig"))
}

/// CONNECT of 3.1.1 without Clean Session; the session that is there is gone on with, or not.
fn come_back(rig: &Rig, device: &TestDevice, is_present: bool) -> Client {
    let mut client = Client::tls(rig.tls, Level::V311, &rig.tls13());
    let mut packet = crate::client::connect(
        Level::V311,
        device.name.as_str(),
        Some("unused"),
        Some(&jwt(device).sign()),
        0,
    );
    // The flags stand behind the length, the protocol's name and its level.
    let flags = packet.iter().position(|byte| *byte == 4).expect("a length of 4") + 6;
    assert_eq!(packet[flags], 0xc2);
    packet[flags] = 0xc0;
    client.send(&packet);
    assert_eq!(client.packet().expect("CONNACK"), (0x20, vec![u8::from(is_present), 0]));
    client
}

fn say(rig: &Rig, topic: &str, texts: &[&str]) {
    let mut speaker = rig.guest("speaker", Level::V311);
    for (n, text) in (1..).zip(texts) {
        speaker.send(&publish(Level::V311, topic, n, text.as_bytes()));
        assert_eq!(speaker.packet().expect("PUBACK").0, 0x40);
    }
}

fn hear(client: &mut Client, topic: &str, texts: &[&str]) {
    for text in texts {
        assert_eq!(client.message(), (topic.to_owned(), text.as_bytes().to_vec()));
    }
}

#[test]
fn a_session_is_found_from_whichever_shard_its_client_comes_back_to() {
    let disk = FaultyDisk::new(1);
    let (rig, _log) = durable_rig(&disk);
    let lamp = rig.device("lamp");
    let mut client = come_back(&rig, &lamp, false);
    client.subscribe("devices/lamp/commands/#", 1);
    for round in 0..20 {
        drop(client);
        wait_until("it is away", || rig.handle.stats().sessions <= 1);
        client = come_back(&rig, &lamp, true);
        let stats = rig.handle.stats();
        assert_eq!((stats.unauthenticated, stats.connections), (0, stats.sessions), "round {round}");
    }
    drop(client);
    wait_until("all places are free", || rig.handle.stats().connections == 0);
    assert_eq!(rig.handle.stats().sessions, 0);
}

#[test]
fn what_is_said_while_a_client_is_away_waits_for_it_and_survives_a_restart_and_a_power_cut() {
    let disk = FaultyDisk::new(2);
    let (mut first, log) = durable_rig(&disk);
    let lamp = everything(&first, "lamp");
    let mut client = come_back(&first, &lamp, false);
    client.subscribe("t", 1);
    drop(client);
    wait_until("it is away", || first.handle.stats().sessions == 0);
    say(&first, "t", &["1", "2", "3"]);
    let mut client = come_back(&first, &lamp, true);
    hear(&mut client, "t", &["1", "2", "3"]);
    client.send(&crate::client::PINGREQ);
    assert_eq!(client.packet().expect("PINGRESP").0, 0xd0);
    drop(client);
    wait_until("it is away", || first.handle.stats().sessions == 0);
    say(&first, "t", &["4", "5"]);
    // What was acknowledged is on the disk; the rest of the process is lost.
    let disk = disk.after_power_cut(3);
    first.bridge.take().expect("running").shutdown(Duration::ZERO);
    log.close();

    let (second, _log) = restarted(&disk, &first);
    let mut client = come_back(&second, &lamp, true);
    hear(&mut client, "t", &["4", "5"]);
    say(&second, "t", &["6"]);
    hear(&mut client, "t", &["6"]);
}

/// A wall clock that was put back by an hour.
#[derive(Debug)]
struct PutBack;

impl Clock for PutBack {
    fn now_ms(&self) -> u64 {
        RealClock.now_ms() - 3_600_000
    }
    fn instant(&self) -> std::time::Instant {
        RealClock.instant()
    }
}

/// A device that may everything.
fn everything(rig: &Rig, name: &str) -> TestDevice {
    let lamp = rig.device(name);
    give_everything(rig, &lamp.name);
    lamp
}

fn give_everything(rig: &Rig, name: &PrincipalName) {
    let policy = Some(drawbridge_names::PolicyName::parse("everything").expect("a name"));
    let registry = registry();
    let attached = rig.admission.attach_policy(&registry, name, policy, &Actor::Admin);
    rig.runtime.block_on(attached).expect("attached");
}

/// Another bridge over the same disk and the same people.
fn restarted(disk: &FaultyDisk, before: &Rig) -> (Rig, Arc<MessageLog>) {
    restarted_by(Arc::new(RealClock), disk, before)
}

fn restarted_by(clock: Arc<dyn Clock>, disk: &FaultyDisk, before: &Rig) -> (Rig, Arc<MessageLog>) {
    let mut log = None;
    let rig = before.again_by(clock, |config| {
        let made = durable(config, disk);
        let storage = config.storage.as_mut().expect("just made");
        let owners: Vec<_> = storage
            .restored
            .image
            .sessions
            .values()
            .map(|s| (s.session.registry.clone(), s.session.uid))
            .collect();
        let standing = before.runtime.block_on(before.admission.standings(owners)).expect("a store");
        storage.restored.standing = standing;
        log = Some(made);
    });
    (rig, log.expect("made with the rig"))
}

#[test]
fn a_take_over_across_shards_leaves_one_session_and_counts_nobody_twice() {
    let disk = FaultyDisk::new(4);
    let (rig, _log) = durable_rig(&disk);
    let lamp = everything(&rig, "lamp");
    let mut older = come_back(&rig, &lamp, false);
    for _ in 0..5 {
        let newer = come_back(&rig, &lamp, true);
        assert!(matches!(older.until_end(), (packets, End::Orderly) if packets.is_empty()));
        older = newer;
    }
    wait_until("one is left", || rig.handle.stats().connections == 1);
    let stats = rig.handle.stats();
    assert_eq!((stats.sessions, stats.unauthenticated), (1, 0));
}

#[test]
fn i6_a_block_ends_a_session_that_has_moved_too() {
    let disk = FaultyDisk::new(5);
    let (rig, _log) = durable_rig(&disk);
    let devices: Vec<_> = (0..8).map(|n| rig.device(&format!("lamp-{n}"))).collect();
    let clients: Vec<_> = devices
        .iter()
        .map(|device| {
            drop(come_back(&rig, device, false));
            come_back(&rig, device, true)
        })
        .collect();
    for (device, mut client) in devices.iter().zip(clients) {
        let registry = registry();
        let blocked = rig.admission.block(&registry, &device.name, None, &Actor::Admin);
        rig.runtime.block_on(blocked).expect("blocked");
        assert_eq!(client.until_end().0, Vec::new());
    }
    wait_until("all are out", || rig.handle.stats().connections == 0);
}

#[test]
fn i12_without_a_disk_nothing_is_acknowledged_and_everything_else_goes_on() {
    let disk = FaultyDisk::new(6);
    let (rig, _log) = durable_rig(&disk);
    let lamp = everything(&rig, "lamp");
    let mut client = come_back(&rig, &lamp, false);
    client.subscribe("kept", 1);
    drop(client);
    wait_until("it is away", || rig.handle.stats().sessions == 0);
    disk.set_full(true);
    let mut speaker = rig.guest("speaker", Level::V311);
    speaker.send(&publish(Level::V311, "kept", 1, b"1"));
    let mut others = [rig.guest("a", Level::V311), rig.guest("b", Level::V311)];
    others[0].subscribe("live", 1);
    others[1].send(&publish(Level::V311, "live", 1, b"x"));
    assert_eq!(others[1].packet().expect("PUBACK").0, 0x40);
    assert_eq!(others[0].message().1, b"x");
    // Its PUBACK has not come: the next thing it hears is the answer to a ping.
    speaker.send(&crate::client::PINGREQ);
    assert_eq!(speaker.packet().expect("PINGRESP").0, 0xd0);
    disk.set_full(false);
    assert_eq!(speaker.packet().expect("PUBACK").0, 0x40);
    hear(&mut come_back(&rig, &lamp, true), "kept", &["1"]);
}

#[test]
fn i4_what_a_deleted_device_said_before_the_restart_is_not_delivered_after_it() {
    let disk = FaultyDisk::new(12);
    let (mut first, log) = durable_rig(&disk);
    let lamp = everything(&first, "lamp");
    let mut client = come_back(&first, &lamp, false);
    client.subscribe("t", 1);
    drop(client);
    wait_until("it is away", || first.handle.stats().sessions == 0);
    let (gone, here) = (everything(&first, "gone"), everything(&first, "here"));
    for (device, text) in [(&gone, "of one that is gone"), (&here, "of one that is here")] {
        let mut speaker = come_back(&first, device, false);
        speaker.send(&publish(Level::V311, "t", 1, text.as_bytes()));
        assert_eq!(speaker.packet().expect("PUBACK").0, 0x40);
    }
    first.bridge.take().expect("running").shutdown(Duration::from_millis(500));
    log.close();
    let registry = registry();
    let deleted = first.admission.delete(&registry, &gone.name, &Actor::Admin);
    first.runtime.block_on(deleted).expect("deleted");
    // By the wall clock of the next start they have not been said yet.
    let (second, _log) = restarted_by(Arc::new(PutBack), &disk, &first);
    let mut client = come_back(&second, &lamp, true);
    hear(&mut client, "t", &["of one that is here"]);
    client.send(&crate::client::PINGREQ);
    assert_eq!(client.packet().expect("PINGRESP").0, 0xd0);
}
