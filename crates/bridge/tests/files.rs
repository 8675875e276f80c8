//! Running out of file descriptors: a process of its own, because the limit is the process's.
#![expect(clippy::disallowed_methods, reason = "real sockets need the real clocks")]

#[expect(dead_code, reason = "shared with the other tests, which use all of it")]
#[path = "bridge/client.rs"]
mod client;
#[expect(dead_code, reason = "shared with the other tests, which use all of it")]
#[path = "bridge/framed.rs"]
mod framed;
#[expect(dead_code, reason = "shared with the other tests, which use all of it")]
#[path = "bridge/rig.rs"]
mod rig;

use std::time::Duration;

use client::{Client, Level, connect, tcp};
use rlimit::Resource;

#[test]
fn without_a_file_descriptor_accepting_rests_and_goes_on_when_there_is_one_again() {
    let rig = rig::rig(|config| {
        config.shards = 1;
        config.unauthenticated_max = 1;
    });
    let first = tcp(rig.plain);
    rig::wait_until("the first is in", || rig.handle.stats().accepted == 1);
    let mut waiting = Client::plain(rig.plain, Level::V311);
    waiting.send(&connect(Level::V311, "patient", None, None, 0));
    let (soft, hard) = Resource::NOFILE.get().expect("a limit");
    // Numbers below 3 are taken: nothing can be opened any more, what is open stays.
    Resource::NOFILE.set(3, hard).expect("lowered");
    drop(first);
    rig::wait_until("accepting fails", || rig.refused("out-of-files") >= 1);
    std::thread::sleep(Duration::from_secs(1));
    let tries = rig.refused("out-of-files");
    Resource::NOFILE.set(soft, hard).expect("raised");
    assert!(tries <= 8, "{tries} tries in a second: a busy loop");
    assert_eq!(waiting.packet().expect("CONNACK"), (0x20, vec![0, 0]));
}
