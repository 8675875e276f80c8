//! The cost of taking one PUBLISH from its bytes: `cargo bench -p drawbridge-mqtt`. With `-- N` only
//! the case N runs, 64,000 packets, and no clock is read meanwhile: for `valgrind --tool=callgrind`.
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
#![expect(clippy::unwrap_used, reason = "a benchmark stops at the first surprise")]
#![expect(clippy::print_stdout, reason = "a benchmark prints")]

use std::hint::black_box;
use std::time::Instant;

use drawbridge_mqtt::codec::{
    Connect, ConnectProperties, Packet, PacketId, ProtocolVersion, PublishProperties, Qos, encode_publish,
};
use drawbridge_mqtt::connection::{Connection, Event, Limits, Step, Welcome};

const ROUNDS: u32 = 7;
const PACKETS: usize = 64;
const TURNS: usize = 4_000;

fn open(version: ProtocolVersion) -> Connection {
    let limits = Limits {
        packet_bytes_before_auth_max: 16 << 10,
        packet_bytes_max: 1 << 20,
        receive_maximum: u16::MAX,
        topic_alias_maximum: 10,
        keep_alive_s_max: u16::MAX,
        inflight_max: u16::MAX,
        topic_aliases_given_max: 16,
    };
    let mut connection = Connection::new(limits);
    let connect = Connect {
        version,
        clean_start: true,
        keep_alive_s: 60,
        client_id: "bench",
        username: None,
        password: None,
        will: None,
        properties: ConnectProperties::default(),
    };
    let mut bytes = Vec::new();
    Packet::from(connect).encode(version, &mut bytes).unwrap();
    assert!(matches!(connection.next(Instant::now(), &bytes), Step::Took { .. }));
    connection.admit(Instant::now(), &Welcome::default(), &mut Vec::new());
    connection
}

/// Many packets, as one read brings them.
fn packets(version: ProtocolVersion, qos: Qos, topic: &str, properties: &PublishProperties<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for n in 1..=PACKETS {
        let id = (qos != Qos::AtMostOnce).then(|| PacketId::new(u16::try_from(n).unwrap()).unwrap());
        encode_publish(version, false, qos, false, topic, id, properties, &[7; 64], &mut bytes).unwrap();
    }
    bytes
}

fn take_all(connection: &mut Connection, now: Instant, mut input: &[u8]) -> usize {
    let mut taken = 0;
    loop {
        match connection.next(now, input) {
            Step::Took { bytes, event: Event::Publish(inbound) } => {
                taken += black_box(inbound.topic.as_str()).len() + black_box(inbound.payload).len();
                black_box((inbound.qos, inbound.retain, inbound.packet_id, inbound.message_expiry_s));
                black_box(&inbound.properties);
                input = &input[bytes..];
            }
            Step::NeedMore => return taken,
            other => panic!("{other:?}"),
        }
    }
}

fn main() {
    let counted = std::env::args().find_map(|argument| argument.parse::<usize>().ok());
    let none = PublishProperties::default();
    let some = PublishProperties { content_type: Some("text/plain"), ..none };
    let topic = "devices/pump-0042/events/temperature";
    let cases = [
        ("QoS 0, MQTT 3.1.1", ProtocolVersion::V311, Qos::AtMostOnce, topic, &none),
        ("QoS 0, MQTT 5", ProtocolVersion::V5, Qos::AtMostOnce, topic, &none),
        ("QoS 1, MQTT 3.1.1", ProtocolVersion::V311, Qos::AtLeastOnce, topic, &none),
        ("QoS 0, topic beyond ASCII", ProtocolVersion::V5, Qos::AtMostOnce, "Geräte/Pumpe-42/Zähler", &none),
        ("QoS 0, content type", ProtocolVersion::V5, Qos::AtMostOnce, topic, &some),
    ];
    for (number, (name, version, qos, topic, properties)) in cases.into_iter().enumerate() {
        let mut connection = open(version);
        let bytes = packets(version, qos, topic, properties);
        let now = Instant::now();
        if let Some(counted) = counted {
            for _ in 0..if counted == number { 1_000 } else { 0 } {
                black_box(take_all(&mut connection, now, black_box(&bytes)));
            }
            continue;
        }
        let mut best = f64::INFINITY;
        for _ in 0..ROUNDS {
            let start = Instant::now();
            for _ in 0..TURNS {
                black_box(take_all(&mut connection, now, black_box(&bytes)));
            }
            let packets = (TURNS * PACKETS) as f64;
            best = best.min(start.elapsed().as_secs_f64() * 1e9 / packets);
        }
        println!("{name:<32} {best:>7.1} ns");
    }
}
