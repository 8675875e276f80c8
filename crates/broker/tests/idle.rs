//! What a session that does nothing costs. Alone in its process, because it looks at the memory of the
//! process.

mod support;

use std::sync::Arc;
use std::time::Duration;

use drawbridge_broker::Admitted;
use drawbridge_mqtt::codec::{Connect, Packet, PacketId, Qos, Subscribe, SubscribeEntry, UserProperties};
use support::{Net, V5, V311};

/// Resident bytes of this process; `None` where the system does not say.
fn resident() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<usize>().ok()? * 1_024)
}

#[test]
fn an_idle_session_with_one_subscription_holds_less_than_1_600_bytes() {
    const SESSIONS: u32 = 20_000;
    let mut net = Net::new(1);
    let rights = support::rights(&["devices/#"], &["devices/#"]);
    let mut fx = Vec::new();
    let before = resident();
    for n in 0..SESSIONS {
        let name = format!("device-{n}");
        let admitted = Admitted {
            rights: Arc::clone(&rights),
            ends: Some(net.now + Duration::from_secs(3_600)),
            kid: Some(support::kid('A')),
            ..support::device(u64::from(n), &name)
        };
        let version = if n % 2 == 0 { V5 } else { V311 };
        let shard = &mut net.shards[0];
        let conn = shard.open(net.now, net.now + Duration::from_secs(10));
        let connect = Connect { keep_alive_s: 60, ..support::connect(version, &name) };
        shard.receive(net.now, conn, &support::encode(version, &connect.into()), &mut fx);
        shard.answer(net.now, conn, Ok(admitted), &mut fx);
        let filter = format!("devices/{name}/commands/#");
        let subscribe = Subscribe {
            packet_id: PacketId::new(1).expect("not 0"),
            subscription_identifier: None,
            user_properties: UserProperties::default(),
            entries: vec![SubscribeEntry::of(&filter, Qos::AtLeastOnce)],
        };
        shard.receive(net.now, conn, &support::encode(version, &Packet::Subscribe(subscribe)), &mut fx);
        shard.output(conn).expect("open").clear();
        shard.drained(net.now, conn, &mut fx);
        fx.clear();
    }
    let stats = net.stats();
    assert_eq!((stats.sessions, stats.subscriptions, stats.buffer_bytes), (20_000, 20_000, 0));
    if let (Some(before), Some(after)) = (before, resident()) {
        let each = after.saturating_sub(before) / SESSIONS as usize;
        println!("{each} bytes each");
        assert!(each < 1_600, "{each} bytes each");
    }
}
