//! One stored copy per message, whatever the number of subscribers. Alone in its process, because it
//! looks at the memory of the process.

mod support;

use drawbridge_mqtt::codec::Qos;
use support::{Net, V5, V311, app};

const MIB: usize = 1 << 20;

/// Resident bytes of this process; `None` where the system does not say.
fn resident() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<usize>().ok()? * 1_024)
}

#[test]
fn a_mebibyte_for_a_thousand_cursors_is_held_once() {
    let mut net = Net::with(1, |config| {
        config.packet_bytes_max = 2 * MIB;
        config.inflight_max = 1;
    });
    let publisher = net.join(0, V5, app(1));
    let readers: Vec<usize> = (0..1_000)
        .map(|n| {
            let reader = net.join(0, if n % 2 == 0 { V5 } else { V311 }, app(100 + n));
            net.subscribe(reader, if n % 3 == 0 { "big/+" } else { "big/one" }, Qos::AtLeastOnce);
            reader
        })
        .collect();
    // One small message in flight to each: from now on they stand at their cursors.
    net.publish(publisher, "big/one", b"first", Qos::AtLeastOnce);
    for &reader in &readers {
        assert_eq!(net.payloads(reader), ["first"]);
    }
    let before = (net.stats(), resident());
    let payload: Vec<u8> = (0..MIB).map(|n| (n % 251) as u8).collect();
    net.publish(publisher, "big/one", &payload, Qos::AtLeastOnce);
    let after = (net.stats(), resident());
    assert_eq!((after.0.sessions_behind, after.0.waiting), (1_000, 1));
    let held = after.0.waiting_bytes + after.0.buffer_bytes - before.0.buffer_bytes;
    assert!((MIB..MIB + 4_096).contains(&held), "{held} bytes are held for 1,000 cursors");
    if let (Some(before), Some(after)) = (before.1, after.1) {
        let grown = after.saturating_sub(before);
        assert!(grown < 16 * MIB, "the process grew by {grown} bytes for one message of 1 MiB");
    }
    // Each gets it when it has acknowledged, and the last one takes it off the log.
    for (n, &reader) in readers.iter().enumerate() {
        assert_eq!(net.stats().waiting, 1, "reader {n} still needs it");
        net.acknowledge(reader, 1);
        let got = net.messages(reader);
        assert!(got.len() == 1 && got[0].payload == payload, "reader {n}");
    }
    let end = net.stats();
    assert_eq!((end.sessions_behind, end.waiting, end.waiting_bytes), (0, 0, 0));
}
