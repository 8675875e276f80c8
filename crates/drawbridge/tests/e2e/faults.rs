//! A full disk, a peer that does not read and peers that vanish: what the server does then, over real sockets.

use std::io::{ErrorKind, Read as _};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::bytes::{Connect, DISCONNECT, Publish, Said, Version, Will, ack};
use crate::disk::Disk;
use crate::harness::{Core, connect, wait_for};
use crate::plain::{ARGS, Plain, guest};

/// The promise is 5 s after space is back; three times that for a busy machine.
const HEALED: Duration = Duration::from_secs(15);

/// Messages of 200 kB: more than wait for space.
const LARGE: u16 = 250;

fn kept(id: &str) -> Connect {
    Connect::kept(id, Version::V5, 3_600)
}

#[test]
fn f3_nothing_is_acknowledged_that_a_full_disk_cannot_hold_and_all_else_goes_on() {
    // The bound that is met here is that of what waits for space, not that of one reader.
    let settings = settings("queue_bytes_max = 1_073_741_824");
    let path = settings.path().to_string_lossy().into_owned();
    let mut core = Core::prepared(&[&ARGS[..], &["--config", &path]].concat());
    let disk = Disk::below(&mut core, "messages");
    core.run_again();
    guest(&core);
    let lamp = core.device("lamp");
    let (mut reader, _) = Plain::join(&core, &kept("reader"));
    reader.subscribe("stored", 2);
    reader.send(&DISCONNECT);
    let (mut live, _) = Plain::join(&core, &Connect::clean("live"));
    live.subscribe("live", 0);
    let (mut writer, _) = Plain::join(&core, &Connect::clean("writer"));
    let id = writer.say("stored", "1", 1);
    writer.acked(0x40, id);

    disk.set_full(true);
    let second = writer.say("stored", "2", 1);
    // Nor is there a word of what comes after it. Once too much waits, what comes is refused, in its order.
    let (mut other, _) = Plain::join(&core, &Connect::clean("other"));
    let large = "large".repeat(40_000);
    for _ in 0..LARGE {
        other.say("stored", &large, 1);
    }
    let mut waiting = Vec::new();
    let mut refused = loop {
        assert!(waiting.len() < 40, "nothing is refused");
        let (mut late, _) = Plain::join(&core, &Connect::clean(&format!("late-{}", waiting.len())));
        let id = late.say("stored", &large, 1);
        match late.within(Duration::from_millis(300)) {
            // Its shard has room.
            None => waiting.push((late, id)),
            Some(Said::Ack { first_byte: 0x40, id: found, code: 0x97, .. }) if found == id => break late,
            said => panic!("{said:?} while the disk is full"),
        }
    };
    let id = refused.say("stored", "refused", 2);
    let said = refused.next();
    assert!(matches!(said, Said::Ack { first_byte: 0x50, id: i, code: 0x97, .. } if i == id), "{said:?}");
    assert_eq!(other.within(Duration::from_millis(500)), None, "not one of them is acknowledged");
    assert_eq!(writer.within(Duration::from_millis(500)), None, "the second message is not acknowledged");
    // What needs no space goes on: QoS 0, QoS 1 to who is here, logins with and without a key, reads.
    for round in 0..20 {
        refused.say("live", &round.to_string(), 0);
        assert_eq!(live.message().text(), round.to_string());
    }
    drop(connect(&lamp));
    Plain::join(&core, &Connect::clean("newcomer")).0.ping();
    core.admin("GET", "/v1/devices", None);
    core.device("made-meanwhile");

    disk.set_full(false);
    let begun = Instant::now();
    writer.acked(0x40, second);
    let healed = begun.elapsed();
    let mut stored = waiting.len();
    for (late, id) in &mut waiting {
        late.acked(0x40, *id);
    }
    for id in 1..=LARGE {
        match other.next() {
            Said::Ack { first_byte: 0x40, id: found, code, .. }
                if found == id && matches!(code, 0 | 0x97) =>
            {
                stored += usize::from(code == 0);
            }
            said => panic!("{said:?} for PUBACK {id}"),
        }
    }
    let id = other.say("stored", "3", 2);
    other.acked(0x50, id);
    other.send(&ack(0x62, id));
    other.acked(0x70, id);
    println!("acknowledged {healed:.1?} after space was back");
    assert!(healed < HEALED, "{healed:?}");
    let (mut reader, present) = Plain::join(&core, &kept("reader"));
    assert!(present);
    let mut large = 0;
    for wanted in ["1", "2", "3"] {
        let mut message = reader.message();
        while message.text().starts_with("large") {
            large += 1;
            message = reader.message();
        }
        assert_eq!(message.text(), wanted);
    }
    println!("{stored} messages of 200 kB waited for space");
    assert_eq!(large, stored, "all that was acknowledged, and nothing that was refused");
}

/// A settings file with these lines of `[messages]`.
fn settings(lines: &str) -> tempfile::NamedTempFile {
    let settings = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(&settings, format!("[messages]\n{lines}\n")).expect("written");
    settings
}

#[test]
fn f3_what_was_acknowledged_before_the_disk_was_full_survives_a_kill_while_it_is() {
    let mut core = Core::prepared(&ARGS);
    let disk = Disk::below(&mut core, "messages");
    core.run_again();
    guest(&core);
    let (mut reader, _) = Plain::join(&core, &kept("reader"));
    reader.subscribe("stored", 1);
    drop(reader);
    let (mut writer, _) = Plain::join(&core, &Connect::clean("writer"));
    for text in ["1", "2"] {
        let id = writer.say("stored", text, 1);
        writer.acked(0x40, id);
    }
    disk.set_full(true);
    writer.say("stored", "lost, and never acknowledged", 1);
    assert_eq!(writer.within(Duration::from_secs(1)), None);
    core.kill();
    disk.set_full(false);
    core.run_again();
    let (mut reader, present) = Plain::join(&core, &kept("reader"));
    assert!(present);
    let (mut writer, _) = Plain::join(&core, &Connect::clean("writer"));
    let id = writer.say("stored", "3", 1);
    writer.acked(0x40, id);
    let texts: Vec<_> = (0..3).map(|_| reader.message().text().to_owned()).collect();
    assert_eq!(texts, ["1", "2", "3"]);
}

/// In the store itself: `a_full_disk_is_told_to_all_and_nothing_stays` of `registry-sqlite`.
#[test]
fn f3_changes_that_need_audit_are_refused_while_the_disk_of_the_registry_is_full() {
    let mut core = Core::prepared(&ARGS);
    let disk = Disk::below(&mut core, "");
    core.run_again();
    guest(&core);
    let (lamp, door) = (core.device("lamp"), core.device("door"));
    let (mut live, _) = Plain::join(&core, &Connect::clean("live"));
    live.subscribe("devices/#", 0);
    disk.set_full(true);
    let folder = core.identity_folder("late");
    let folder = folder.to_string_lossy();
    for words in [&["device", "block", "door"][..], &["device", "add", "late", "--out", &folder]] {
        let output = core.cli(words);
        let said = String::from_utf8_lossy(&output.stderr);
        // 5: unavailable.
        assert!(!output.status.success() && said.contains("DB-"), "{words:?}: {output:?}");
        println!("{words:?}: {}", said.trim());
    }
    // Reads and the connections of MQTT go on, and the block that was refused is not half done.
    let devices = core.admin("GET", "/v1/devices", None);
    assert!(devices.to_string().contains("lamp") && !devices.to_string().contains("late"), "{devices}");
    drop((connect(&lamp), connect(&door)));
    let (mut other, _) = Plain::join(&core, &Connect::clean("other"));
    other.say("devices/lamp/events/x", "on", 0);
    assert_eq!(live.message().text(), "on");

    disk.set_full(false);
    wait_for("a change that is taken", HEALED, || {
        core.cli(&["device", "block", "door"]).status.success().then_some(())
    });
    println!("{}", core.cli_ok(&["audit", "verify"]));
    let door = core.admin("GET", "/v1/devices/door", None);
    assert!(door.to_string().contains("blocked"), "{door}");
}

/// The promise is one for a session: its messages and bytes are bounded, its neighbours get all.
#[test]
fn f5_a_subscriber_that_does_not_read_is_bounded_and_its_neighbours_miss_nothing() {
    const MESSAGES: usize = 10_000;
    let settings = settings("queue_messages_max = 1_000\nqueue_bytes_max = 1_048_576");
    let path = settings.path().to_string_lossy().into_owned();
    let core = Core::start_with(&[&ARGS[..], &["--config", &path]].concat());
    guest(&core);
    for qos in [0, 1] {
        let (mut slow, _) = Plain::join(&core, &kept(&format!("slow-{qos}")));
        slow.subscribe("t", qos);
        let (mut quick, _) = Plain::join(&core, &Connect::clean("quick"));
        quick.subscribe("t", qos);
        let (mut writer, _) = Plain::join(&core, &Connect::clean("writer"));
        let before = core.resident_bytes();
        let read = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let reading = scope.spawn(|| {
                for number in 0..MESSAGES {
                    read.store(number, Ordering::Relaxed);
                    let message = quick.message();
                    let found = message.text().split('.').next().expect("a number").to_owned();
                    assert_eq!(found, number.to_string(), "a neighbour at QoS {qos}");
                }
            });
            for number in 0..MESSAGES {
                let id = writer.say("t", &format!("{number:.<4096}"), 1);
                // Twice as many as that are under way at once, 160 KiB: less than what may wait unsent for a reader, so
                // the neighbour may miss nothing at QoS 0 either.
                if id % 20 == 0 {
                    (id - 19..=id).for_each(|id| writer.acked(0x40, id));
                    while read.load(Ordering::Relaxed) + 20 < number && !reading.is_finished() {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }
            }
            reading.join().expect("the neighbour");
        });
        let grown = core.resident_bytes().saturating_sub(before);
        println!(
            "QoS {qos}: {} MB were said, the server has grown by {} KiB",
            MESSAGES * 4_096 / 1_000_000,
            grown >> 10
        );
        // All of it would be 40 MB.
        assert!(grown < 16 << 20, "{grown} bytes for one that does not read");
        // It takes what it has room for, and is served as anybody when it reads again.
        let mut got = 0;
        while let Some(said) = slow.within(Duration::from_secs(2)) {
            if let Said::Publish(message) = said {
                got += 1;
                if message.qos == 1 {
                    slow.send(&ack(0x40, message.id));
                }
            }
        }
        println!("QoS {qos}: the slow one has got {got} of {MESSAGES}");
        assert!(got > 0 && got < MESSAGES, "{got}");
        let id = writer.say("t", "at last", 1);
        writer.acked(0x40, id);
        assert_eq!(slow.message().text(), "at last");
        slow.send(&DISCONNECT);
    }
}

#[test]
fn f6_peers_that_vanish_without_a_word_are_closed_and_each_will_is_said_once() {
    vanish(200);
}

/// `cargo xtask soak`
#[test]
#[ignore = "long: 5,000 connections"]
fn soak_f6_peers_that_vanish_without_a_word_are_closed_and_each_will_is_said_once() {
    vanish(5_000);
}

/// A peer whose cable was cut acknowledges nothing and says nothing, not even FIN: here it keeps its socket and never
/// touches it again. Half of the sessions outlive their connection, so half of the wills come from stored ones.
fn vanish(peers: usize) {
    let core = Core::start_with(&ARGS);
    guest(&core);
    let (mut watcher, _) = Plain::join(&core, &Connect::clean("watcher"));
    watcher.subscribe("wills/#", 1);
    let mut vanished: Vec<Plain> = (0..peers)
        .map(|number| {
            let id = format!("peer-{number}");
            let connect = if number % 2 == 0 { Connect::clean(&id) } else { kept(&id) };
            let will = Will {
                topic: format!("wills/{number}"),
                payload: b"gone".to_vec(),
                qos: 1,
                ..Will::default()
            };
            let (mut peer, _) = Plain::join(&core, &connect.keep_alive(5).will(will));
            peer.subscribe("noise", 0);
            peer
        })
        .collect();
    // What is sent to them meanwhile goes nowhere.
    let (mut writer, _) = Plain::join(&core, &Connect::clean("writer"));
    let mut wills = vec![0; peers];
    let mut missing = peers;
    let deadline = Instant::now() + Duration::from_secs(60);
    while missing > 0 {
        assert!(Instant::now() < deadline, "{missing} of {peers} wills were not said");
        writer.say("noise", "x", 0);
        if let Some(Said::Publish(message)) = watcher.within(Duration::from_millis(50)) {
            watcher.send(&ack(0x40, message.id));
            let number: usize = message.topic["wills/".len()..].parse().expect("a number");
            wills[number] += 1;
            missing -= usize::from(wills[number] == 1);
        }
    }
    // The server has closed each: all that it had sent is followed by the end.
    for peer in &mut vanished {
        peer.socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        let mut buffer = [0; 16 << 10];
        loop {
            match peer.socket.read(&mut buffer) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
                Err(error) => panic!("still open: {error}"),
            }
        }
    }
    // None comes a second time, also not when the sessions are taken up again.
    for number in (1..peers).step_by(2).take(100) {
        let (mut back, present) = Plain::join(&core, &kept(&format!("peer-{number}")));
        assert!(present, "the session of peer {number}");
        back.send(&DISCONNECT);
    }
    writer.send(&Publish::new("wills/end", "end").qos(1, 60_000).encode(Version::V5));
    assert_eq!(watcher.message().topic, "wills/end", "no will a second time");
    assert!(wills.iter().all(|count| *count == 1), "{wills:?}");
    println!("{peers} peers vanished: all were closed, each will was said once");
}
