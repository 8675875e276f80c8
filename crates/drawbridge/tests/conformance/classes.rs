//! Classes of faults that other brokers had, each by the number of one of them; what they share is that a
//! broker did not hold a rule against a peer that breaks it on purpose.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use drawbridge_device::{MqttClient, MqttOptions};
use drawbridge_mqtt::codec::ProtocolVersion;
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::bytes::{
    Connect, PINGREQ, Publish, SESSION_EXPIRY, Said, Version, WILL_DELAY, Will, connect_head, field, p32,
    packet, section, subscribe, unsubscribe, user, variable,
};
use crate::client::Client;
use crate::harness::{DRAWBRIDGE, wait_for};
use crate::world::{Case, Via, World, every, every_v5, name};

/// Over TCP alone: for what needs a server of its own, or many connections.
fn plain(version: Version) -> Case {
    Case { version, via: Via::Plain }
}

/// What `work` has made the server grow by, in bytes; the first part of it warms it up.
fn growth(world: &World, work: impl FnMut(usize)) -> u64 {
    growth_of(world, 2_000, work)
}

fn growth_of(world: &World, times: usize, mut work: impl FnMut(usize)) -> u64 {
    let warm = times * 3 / 20;
    for n in 0..warm {
        work(n);
    }
    let before = world.core().resident_bytes();
    for n in warm..times {
        work(n);
    }
    world.core().resident_bytes().saturating_sub(before)
}

#[test]
fn cve_2017_7650_a_client_id_with_wildcards_gains_no_rights() {
    every(|world, case| {
        let topic = name("t");
        let mut other = Client::new(world, case);
        other.subscribe(&topic, 0);
        for id in ["#", "+", "+/+", "a/../b", "$SYS/#"] {
            let id = format!("{id}{}", name(""));
            let (mut client, _) = Client::join(world, case, &Connect::clean(&id));
            assert!(client.try_subscribe("$other/#", 0) >= 0x80, "{id}");
            client.publish(&Publish::new(&topic, "x"));
            assert_eq!(other.message().topic, topic);
        }
    });
}

#[test]
fn cve_2017_7651_a_large_connect_is_refused_by_its_header_and_takes_no_memory() {
    let world = World::start(&[]);
    for version in [Version::V311, Version::V5] {
        let grown = growth(&world, |n| {
            let mut client = Client::silent(&world, plain(version));
            // 256 MiB announced; or 20 KiB sent.
            if n % 2 == 0 {
                client.send(&[0x10, 0xff, 0xff, 0xff, 0x7f]);
            } else {
                client.try_send(&packet(
                    0x10,
                    &[connect_head(version, 2, 60, &[]), field("c"), vec![0; 20_000]].concat(),
                ));
            }
            client.is_closed();
        });
        assert!(grown < 4 << 20, "{grown} bytes");
    }
}

#[test]
fn cve_2023_0809_a_first_packet_that_is_not_connect_takes_no_memory_whatever_it_announces() {
    let world = World::start(&[]);
    let grown = growth(&world, |n| {
        let mut client = Client::silent(&world, plain(Version::V5));
        let kind = [0x30, 0x82, 0x62, 0xf0, 0x00, 0x20][n % 6];
        client.try_send(&[kind, 0xff, 0xff, 0xff, 0x7f]);
        client.is_closed();
    });
    assert!(grown < 4 << 20, "{grown} bytes");
}

#[test]
fn cve_2018_12550_an_empty_policy_allows_nothing() {
    every(|world, case| {
        if case.via != Via::Tls {
            return; // who it is stands in a JWT, which needs TLS; once is enough
        }
        let topic = name("t");
        let jwt = world.application(&name("nobody"), "");
        let mut observer = Client::observer(world);
        observer.subscribe(&topic, 0);
        let (mut client, _) = Client::join_as(world, case, &jwt, &Connect::clean(&name("c")));
        for filter in ["#", "+", topic.as_str(), "$SYS/#", "$share/g/#"] {
            assert!(client.try_subscribe(filter, 0) >= 0x80, "{filter}");
        }
        client.send(&Publish::new(&topic, "x").encode(case.version));
        client.ended_with(0x87);
        let mut guest = Client::new(world, case);
        assert_eq!(observer.all_of(&mut guest), []);
    });
}

#[test]
fn cve_2018_12546_a_retained_message_is_not_delivered_after_its_publisher_lost_the_right() {
    every(|world, case| {
        if case.via != Via::Tls {
            return;
        }
        let (app, topic) = (name("app"), name("t"));
        let jwt = world.application(&app, "[[allow]]\npublish = [\"#\"]\n");
        let (mut publisher, _) = Client::join_as(world, case, &jwt, &Connect::clean(&name("c")));
        publisher.publish(&Publish::new(&topic, "kept").qos(1, 0).retain());
        let told = || {
            let mut client = Client::new(world, case);
            client.subscribe(&topic, 1);
            client.ping().len()
        };
        crate::harness::wait_for("the retained message", Duration::from_secs(5), || {
            (told() == 1).then_some(())
        });
        let file = world.core().place().join(format!("{app}-less.toml"));
        std::fs::write(&file, "[[allow]]\npublish = [\"elsewhere/#\"]\n").expect("a file");
        world.core().cli_ok(&["policy", "set", &app, &file.to_string_lossy()]);
        crate::harness::wait_for("its end", Duration::from_secs(2), || (told() == 0).then_some(()));
        for _ in 0..4 {
            assert_eq!(told(), 0, "on no shard");
        }
    });
}

#[test]
fn cve_2021_34434_a_subscription_does_not_outlive_the_right_to_it() {
    every(|world, case| {
        if case.via != Via::Tls {
            return;
        }
        let (app, topic) = (name("app"), name("t"));
        let jwt = world.application(&app, "[[allow]]\nsubscribe = [\"#\"]\n");
        let (mut reader, _) = Client::join_as(world, case, &jwt, &Connect::clean(&name("c")));
        reader.subscribe(&topic, 1);
        let mut sender = Client::new(world, case);
        sender.publish(&Publish::new(&topic, "before").qos(1, 0));
        assert_eq!(reader.taken().text(), "before");
        let file = world.core().place().join(format!("{app}-less.toml"));
        std::fs::write(&file, "[[allow]]\nsubscribe = [\"elsewhere/#\"]\n").expect("a file");
        world.core().cli_ok(&["policy", "set", &app, &file.to_string_lossy()]);
        let changed = Instant::now();
        reader.ended();
        assert!(changed.elapsed() < Duration::from_secs(2), "within a second (I6)");
        let (mut reader, _) = Client::join_as(world, case, &jwt, &Connect::clean(&name("c")));
        assert!(reader.try_subscribe(&topic, 1) >= 0x80);
    });
}

/// May read all of `topic`/... but for `topic`/secret/...
fn with_a_secret(world: &World, topic: &str) -> String {
    let policy = format!("[[allow]]\nsubscribe = [\"#\"]\n[[deny]]\nsubscribe = [\"{topic}/secret/#\"]\n");
    world.application(&name("app"), &policy)
}

#[test]
fn ghsa_7qmq_8cc4_hxwg_live_retained_and_wills_pass_the_same_deny() {
    every(|world, case| {
        if case.via != Via::Tls {
            return;
        }
        let topic = name("t");
        let (secret, open) = (format!("{topic}/secret/a"), format!("{topic}/open"));
        let jwt = with_a_secret(world, &topic);
        let mut sender = Client::new(world, case);
        for retained in [&secret, &open] {
            sender.publish(&Publish::new(retained, "retained").qos(1, 0).retain());
        }
        sender.settle(world, case);
        let (mut reader, _) = Client::join_as(world, case, &jwt, &Connect::clean(&name("c")));
        assert!(reader.try_subscribe(&secret, 1) >= 0x80, "what is denied whole is refused");
        reader.subscribe(&format!("{topic}/#"), 1);
        assert_eq!(reader.taken().topic, open);
        sender.publish(&Publish::new(&secret, "live").qos(1, 0));
        let will = Will { topic: secret.clone(), payload: b"will".to_vec(), ..Will::default() };
        Client::join(world, case, &Connect::clean(&name("c")).will(will)).0.vanish();
        sender.publish(&Publish::new(&open, "live").qos(1, 0));
        assert_eq!(reader.taken().text(), "live");
        assert_eq!(reader.ping(), []);
    });
}

#[test]
fn cve_2026_33217_topics_of_the_server_are_out_of_reach_of_every_client() {
    every(|world, case| {
        for topic in ["$drawbridge/x", "$SYS/broker/x", "$share/g/t", "$MQTT/x", "$", "$queue/x"] {
            let mut client = Client::new(world, case);
            // Below `$share` stands the filter of a shared subscription, which is judged by itself.
            if !topic.starts_with("$share") {
                assert!(client.try_subscribe(&format!("{topic}/#"), 0) >= 0x80, "{topic}");
            }
            client.send(&Publish::new(topic, "x").retain().encode(case.version));
            client.ended_with(0x87);
        }
    });
}

#[test]
fn cve_2018_12543_a_publish_to_a_dollar_topic_is_refused_and_breaks_nothing() {
    every(|world, case| {
        let mut other = Client::new(world, case);
        for topic in ["$SYS", "$SYS/a", "$", "$/", "$share/a/b", "$other/\u{e4}"] {
            for qos in [0, 1] {
                let mut client = Client::new(world, case);
                client.send(&Publish::new(topic, "x").qos(qos, 1).encode(case.version));
                if case.is_v5() && qos == 1 {
                    client.acked(0x40, 1, 0x87);
                } else {
                    client.ended_with(0x87);
                }
            }
        }
        assert_eq!(other.ping(), [], "the server lives");
    });
}

#[test]
fn cve_2019_11778_a_will_delay_beyond_the_expiry_of_its_session_speaks_once() {
    every_v5(|world, case| {
        // (delay, expiry, whether a clean connection comes before, whether the will is spoken)
        let orders =
            [(60, 0, false), (60, 1, false), (1, 60, false), (60, 60, true), (60, 1, true), (0, 0, true)];
        for (delay_s, expiry_s, comes_back) in orders {
            let topic = name("will");
            let mut observer = Client::observer(world);
            observer.subscribe(&topic, 1);
            let id = name("c");
            let will = Will {
                topic: topic.clone(),
                payload: b"will".to_vec(),
                properties: p32(WILL_DELAY, delay_s),
                ..Will::default()
            };
            let connect = Connect::clean(&id).with(p32(SESSION_EXPIRY, expiry_s)).will(will);
            Client::join(world, case, &connect).0.vanish();
            if comes_back {
                // A clean start ends the session, which the will waits for at most.
                Client::join(world, case, &Connect::clean(&id)).0.leave();
            }
            let order = (delay_s, expiry_s, comes_back);
            assert_eq!(observer.taken().text(), "will", "{order:?}");
            std::thread::sleep(Duration::from_millis(1_300));
            assert_eq!(observer.ping(), [], "once: {order:?}");
        }
    });
}

#[test]
fn cve_2019_11779_a_filter_of_sixty_five_thousand_slashes_is_answered() {
    every(|world, case| {
        let mut client = Client::new(world, case);
        let slashes = "/".repeat(65_535);
        let plus = "+/".repeat(32_767);
        for filter in [&slashes, &plus] {
            let code = client.try_subscribe(filter, 0);
            assert_eq!(code, if case.is_v5() { 0x8f } else { 0x80 });
            client.send(&unsubscribe(case.version, 0x100, &[filter]));
            assert!(matches!(client.next(), Some(Said::UnsubAck { .. })));
        }
        client.publish(&Publish::new(&slashes, "x").qos(1, 0));
        client.publish(&Publish::new(&slashes, "x").qos(1, 0).retain());
        client.publish(&Publish::new(&slashes, "").qos(1, 0).retain());
        assert_eq!(client.ping(), []);
    });
}

#[test]
fn cve_2021_28166_packets_that_only_a_server_sends_end_the_connection_in_every_state() {
    every(|world, case| {
        let v = case.version;
        let packets = [
            packet(0x20, &[&[0, 0][..], &section(v, &[])].concat()),
            packet(0x20, &[1]),
            packet(0x90, &[&[0, 1][..], &section(v, &[]), &[0]].concat()),
            packet(0xb0, &[&[0, 1][..], &section(v, &[]), &[0]].concat()),
            vec![0xd0, 0],
        ];
        for bytes in packets {
            let mut before = Client::silent(world, case);
            before.send(&bytes);
            before.is_closed();
            let mut open = Client::new(world, case);
            open.send(&bytes);
            open.ended();
            let mut behind = Client::silent(world, case);
            let connect = Connect::clean(&name("c")).encode(v, world.credential(case.via));
            behind.send(&[connect, bytes].concat());
            assert!(matches!(behind.next(), Some(Said::ConnAck { code: 0, .. })));
            behind.ended();
        }
    });
}

#[test]
fn cve_2021_34432_a_publish_with_an_empty_topic_is_a_protocol_error() {
    every(|world, case| {
        for first_byte in [0x30, 0x31, 0x32] {
            let id: &[u8] = if first_byte == 0x32 { &[0, 1] } else { &[] };
            let mut client = Client::new(world, case);
            client.send(&packet(first_byte, &[&[0, 0][..], id, &section(case.version, &[])].concat()));
            client.ended_with(0x82);
        }
    });
}

#[test]
fn cve_2021_41039_many_user_properties_cost_no_more_than_their_bytes() {
    let world = World::start(&[]);
    let case = plain(Version::V5);
    let topic = name("t");
    let mut reader = Client::new(&world, case);
    reader.subscribe(&topic, 0);
    let mut sender = Client::new(&world, case);
    // As many bytes and properties either way: 8,000 in one packet, or 20 in each of 400.
    let mut cost = |packets: usize, each: usize| {
        let before = world.cpu_ticks();
        for _ in 0..30 {
            for _ in 0..packets {
                let mut publish = Publish::new(&topic, "x");
                publish.properties = user("k", "v").repeat(each);
                sender.publish(&publish);
            }
            for _ in 0..packets {
                assert_eq!(reader.message().properties.0.len(), each);
            }
        }
        world.cpu_ticks() - before
    };
    let (apart, together) = (cost(400, 20), cost(1, 8_000));
    assert!(together <= 2 * apart + 30, "{together} ticks in one packet, {apart} in many");
}

#[test]
fn cve_2023_3592_and_cve_2021_34431_refused_connects_with_broken_wills_leave_nothing_behind() {
    let grown = growth_by_refusals(2_000);
    assert!(grown < 5 << 20, "{grown} bytes");
}

/// The long form: a million refusals.
#[test]
#[ignore = "runs for half an hour"]
fn soak_of_cve_2023_3592_refused_connects() {
    let grown = growth_by_refusals(1_000_000);
    println!("1,000,000 refused CONNECTs: {grown} bytes more");
    assert!(grown < 5 << 20, "{grown} bytes");
}

fn growth_by_refusals(times: usize) -> u64 {
    let world = World::start(&[]);
    let case = plain(Version::V5);
    growth_of(&world, times, |n| {
        let mut client = Client::silent(&world, case);
        let long = user("k", &"v".repeat(200)).repeat(20);
        // A property that no will has; a will that may not be; a name and password that are good nowhere.
        let bytes = match n % 3 {
            0 => {
                let will =
                    [section(case.version, &[&long[..], &[0x23, 0, 1]].concat()), field("t"), field("m")];
                packet(0x10, &[connect_head(case.version, 6, 60, &[]), field("c"), will.concat()].concat())
            }
            1 => {
                let will = Will { topic: "$other/t".to_owned(), properties: long, ..Will::default() };
                Connect::clean(&name("c")).will(will).encode(case.version, None)
            }
            _ => {
                let will = Will { topic: "t".to_owned(), properties: long, ..Will::default() };
                Connect::clean(&name("c")).will(will).encode(case.version, Some(("u", b"p")))
            }
        };
        client.send(&bytes);
        while client.next().is_some() {}
    })
}

#[test]
fn cve_2023_5632_sockets_that_are_half_closed_cost_no_cpu() {
    let world = World::start(&[]);
    let case = plain(Version::V5);
    let mut all = Vec::new();
    for n in 0..60 {
        let mut client = Client::silent(&world, case);
        match n % 3 {
            0 => client.send(&[0x10]),
            1 => {
                client = Client::new(&world, case);
                client.send(&[0x30]);
            }
            _ => {
                client = Client::new(&world, case);
                client.shut(Shutdown::Read);
            }
        }
        if n % 2 == 0 {
            client.shut(Shutdown::Write);
        }
        all.push(client);
    }
    // What there is to do about them is done.
    std::thread::sleep(Duration::from_millis(1_000));
    let before = world.cpu_ticks();
    std::thread::sleep(Duration::from_millis(2_000));
    let spent = world.cpu_ticks() - before;
    assert!(spent <= 20, "{spent} hundredths of a second of CPU in 2 s of nothing");
    drop(all);
}

#[test]
fn cve_2024_8376_any_sequence_of_subscribe_and_unsubscribe_leaves_what_it_says() {
    every(|world, case| {
        let p = name("p");
        let filters: Vec<String> =
            ["a", "+", "#", "a/b", "a/+", "+/b", "a/#"].iter().map(|f| format!("{p}/{f}")).collect();
        let mut client = Client::new(world, case);
        let mut held: BTreeSet<usize> = BTreeSet::new();
        let mut seed = 0x2024_8376_u32 ^ u32::from(case.is_v5());
        println!("seed {seed:#x}");
        for _ in 0..120 {
            let mut packet_filters = Vec::new();
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let (adds, count) = (seed >> 31 == 0, 1 + (seed >> 28) as usize % 3);
            for _ in 0..count {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                packet_filters.push((seed >> 16) as usize % filters.len());
            }
            let id = client.fresh_id();
            if adds {
                let entries: Vec<(&str, u8)> =
                    packet_filters.iter().map(|at| (filters[*at].as_str(), 0)).collect();
                client.send(&subscribe(case.version, id, &[], &entries));
                assert!(matches!(client.answer(), Some(Said::SubAck { .. })));
                held.extend(&packet_filters);
            } else {
                let named: Vec<&str> = packet_filters.iter().map(|at| filters[*at].as_str()).collect();
                client.send(&unsubscribe(case.version, id, &named));
                let Some(Said::UnsubAck { codes, .. }) = client.answer() else { panic!("no UNSUBACK") };
                for (n, at) in packet_filters.iter().enumerate() {
                    let was_there = held.remove(at);
                    assert!(codes.is_empty() || codes[n] == if was_there { 0 } else { 0x11 });
                }
            }
            client.publish(&Publish::new(&format!("{p}/a"), "x"));
            let wanted = usize::from([0, 1, 2, 6].iter().any(|at| held.contains(at)));
            assert_eq!(client.ping().len(), wanted, "{held:?}");
        }
    });
}

#[test]
fn cve_2021_33175_a_thousand_hostile_connections_take_bounded_memory() {
    let world = World::start(&[]);
    hostile_connections(&world);
}

/// The long form: again and again, and no round leaves anything to the next.
#[test]
#[ignore = "runs for minutes"]
fn soak_of_cve_2021_33175_hostile_connections() {
    let world = World::start(&[]);
    (0..3).for_each(|_| hostile_connections(&world));
    let before = world.core().resident_bytes();
    (0..60).for_each(|_| hostile_connections(&world));
    let grown = world.core().resident_bytes().saturating_sub(before);
    println!("60 rounds of 760 hostile connections: {grown} bytes more");
    assert!(grown < 16 << 20, "{grown} bytes");
}

fn hostile_connections(world: &World) {
    let case = plain(Version::V5);
    let mut all: Vec<Client> = (0..20).map(|_| Client::silent(world, case)).collect();
    let before = world.core().resident_bytes();
    // Each holds as much as it may before it is known: nearly 16 KiB of a CONNECT that never ends.
    for _ in 0..700 {
        let mut client = Client::silent(world, case);
        client.send(&[&[0x10][..], &variable(16_000), &vec![0; 15_900]].concat());
        all.push(client);
    }
    // And who is let in holds a packet of 250 KB that never ends.
    for _ in 0..40 {
        let mut client = Client::new(world, case);
        client.send(&[&[0x30][..], &variable(250_000), &vec![0; 249_000]].concat());
        all.push(client);
    }
    std::thread::sleep(Duration::from_millis(500));
    let grown = world.core().resident_bytes().saturating_sub(before);
    // Twice what was sent.
    assert!(grown < 2 * (700 * 16_000 + 40 * 250_000), "{grown} bytes");
    drop(all);
    assert_eq!(Client::new(world, case).ping(), []);
}

#[test]
fn cve_2026_22040_a_storm_of_connects_with_one_client_id_leaves_one_alive() {
    let world = World::start(&[]);
    for version in [Version::V311, Version::V5] {
        let case = plain(version);
        let id = name("c");
        let mut let_in = Vec::new();
        let mut refused = 0;
        for n in 0..300 {
            let mut client = Client::silent(&world, case);
            client.send(&Connect::clean(&id).encode(version, None));
            match client.next() {
                Some(Said::ConnAck { code: 0, .. }) => {
                    client.try_send(&subscribe(version, 1, &[], &[(&format!("{id}/{n}"), 0)]));
                    let_in.push(client);
                }
                Some(Said::ConnAck { .. }) => refused += 1,
                other => panic!("{other:?}"),
            }
        }
        assert!(refused > 250, "the storm is slowed down: {refused}");
        let mut last = let_in.pop().expect("the first one at least");
        last.send(&PINGREQ);
        while !matches!(last.answer().expect("the last one lives"), Said::PingResp) {}
        for older in &mut let_in {
            while older.answer().is_some() {}
        }
    }
}

/// The long form: 10 min without a pause, and the one that is alive is the last that was let in.
#[test]
#[ignore = "runs for 10 min"]
fn soak_of_cve_2026_22040_a_storm_of_connects_with_one_client_id() {
    let world = World::start(&[]);
    let case = plain(Version::V5);
    let (mut connects, mut let_in, mut before) = (0_u64, 0_u64, 0);
    let mut live: Option<Client> = None;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(600) {
        let mut client = Client::silent(&world, case);
        client.send(&Connect::clean("kicked").encode(case.version, None));
        connects += 1;
        if let Some(Said::ConnAck { code: 0, .. }) = client.next() {
            client.try_send(&subscribe(case.version, 1, &[], &[(&format!("kicked/{connects}"), 0)]));
            let_in += 1;
            if let Some(mut older) = live.replace(client) {
                while older.answer().is_some() {}
            }
        }
        if connects == 3_000 {
            before = world.core().resident_bytes();
        }
    }
    live.expect("the first one at least").send(&PINGREQ);
    let grown = world.core().resident_bytes().saturating_sub(before);
    println!("{connects} connects, {let_in} let in, {grown} bytes more");
    assert!(connects > 30_000 && grown < 8 << 20, "{connects} connects, {grown} bytes");
}

#[test]
fn cve_2026_21888_integers_of_five_bytes_end_the_connection_wherever_they_stand() {
    let five = [0x80, 0x80, 0x80, 0x80, 0x00];
    every_v5(|world, case| {
        let body = |before: &[u8], behind: &[u8]| [before, &five, behind].concat();
        let packets = [
            body(&[0x30], &[]),
            packet(0x30, &body(&field("a"), b"x")),
            packet(0x82, &body(&[0, 1], &[&field("a")[..], &[0]].concat())),
            packet(0x82, &[&[0, 1, 6, 0x0b][..], &five, &field("a"), &[0]].concat()),
            packet(0xa2, &body(&[0, 1], &field("a"))),
            packet(0xe0, &body(&[0], &[])),
            packet(0x40, &body(&[0, 1, 0], &[])),
        ];
        for bytes in packets {
            let mut client = Client::new(world, case);
            client.send(&bytes);
            client.ended_with(0x81);
        }
    });
    every(|world, case| {
        let mut client = Client::silent(world, case);
        client.send(&[&[0x10][..], &five].concat());
        client.is_closed();
    });
}

#[test]
fn cve_2020_13849_a_connect_that_dribbles_in_is_cut_off_whatever_keep_alive_it_asks_for() {
    let world = World::shared();
    let case = plain(Version::V311);
    let mut client = Client::silent(&world, case);
    let begun = Instant::now();
    let bytes = Connect::clean(&"c".repeat(100)).keep_alive(65_535).encode(case.version, None);
    for byte in bytes.chunks(1) {
        client.try_send(byte);
        if let Ok(said) = client.next_within(Duration::from_millis(500)) {
            assert_eq!(said, None);
            break;
        }
    }
    let lived = begun.elapsed();
    assert!(lived > Duration::from_secs(8) && lived < Duration::from_secs(15), "10 s in all (I1): {lived:?}");
}

/// Nothing is read anew while the server runs, so the start itself must not do with less than it needs.
#[test]
fn cve_2017_7652_a_start_without_file_descriptors_ends_or_lets_nobody_in() {
    let place = tempfile::tempdir().expect("a folder");
    let (mut ended, mut served) = (0, 0);
    for limit in [4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32, 36, 40, 48, 64, 256] {
        let data = place.path().join(limit.to_string());
        let log = File::create(place.path().join("log")).expect("a file");
        let serve = format!("ulimit -n {limit} && exec \"$0\" \"$@\"");
        let mut server = Command::new("sh")
            .args(["-c", &serve, DRAWBRIDGE, "--data", &data.to_string_lossy(), "serve"])
            .args(["--mqtts-port", "0", "--https-port", "0", "--insecure-mqtt-port", "0"])
            .stdout(log.try_clone().expect("a file"))
            .stderr(log)
            .spawn()
            .expect("a shell");
        let told = wait_for("an end or a listener", Duration::from_secs(60), || {
            if let Some(status) = server.try_wait().expect("a child") {
                return Some(Err(status));
            }
            let endpoints = fs::read_to_string(data.join("endpoints.json")).ok()?;
            serde_json::from_str::<serde_json::Value>(&endpoints).ok().map(Ok)
        });
        match told {
            Err(status) => {
                assert!(!status.success(), "{limit}: it ended as if all was well");
                ended += 1;
            }
            Ok(endpoints) => {
                // Whether it has enough for a connection or not: nobody is let in without a credential.
                let address = endpoints["mqtt"].as_str().expect("a plain listener");
                let mut socket = TcpStream::connect(address).expect("it listens");
                socket.set_read_timeout(Some(Duration::from_secs(1))).expect("a timeout");
                let mut said = [0; 4];
                let asked = socket.write_all(&Connect::clean("c").encode(Version::V311, None));
                let read = asked.and_then(|()| socket.read(&mut said)).unwrap_or(0);
                assert!(read < 4 || said[3] != 0, "{limit}: let in with {said:?}");
                served += 1;
            }
        }
        let _ = server.kill();
        server.wait().expect("it ends");
    }
    assert!(ended > 3 && served > 0, "{ended} ended, {served} served");
}

/// A server of which only the answers to CONNECT and SUBSCRIBE are said, the second one by the test.
fn hostile_server(answer: Vec<u8>) -> (String, String, std::thread::JoinHandle<()>) {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("a server");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let serving = std::thread::spawn(move || {
        let (socket, _) = listener.accept().expect("a client");
        let tls = ServerConnection::new(Arc::new(config)).expect("TLS");
        let mut stream = StreamOwned::new(tls, socket);
        let mut asked = [0; 1_024];
        for said in [vec![0x20, 3, 0, 0, 0], answer] {
            let _ = stream.read(&mut asked);
            let _ = stream.write_all(&said).and_then(|()| stream.flush());
        }
        stream.conn.send_close_notify();
        let _ = stream.flush();
    });
    (address, made.cert.pem(), serving)
}

#[test]
fn cve_2024_10525_the_client_library_bears_a_suback_without_codes_and_whatever_else_a_server_says() {
    let answers: [&[u8]; 10] = [
        &[0x90, 3, 0, 1, 0],
        &[0x90, 2, 0, 1],
        &[0x90, 0],
        &[0x90, 4, 0, 1, 0, 0x80],
        &[0x90, 4, 0, 1, 0, 0x55],
        &[0x90, 0xff, 0xff, 0xff, 0x7f],
        &[0x90, 0x80, 0x80, 0x80, 0x80, 0x01],
        &[0x40, 2, 0, 0],
        &[0x30, 3, 0, 9, b'a'],
        &[0xe0, 1, 0x99],
    ];
    for answer in answers {
        let (server, ca_pem, serving) = hostile_server(answer.to_vec());
        let options = MqttOptions {
            server,
            ca_pem,
            version: ProtocolVersion::V5,
            client_id: "c".to_owned(),
            username: None,
            password: b"p".to_vec(),
            keep_alive_s: 0,
        };
        let mut client = MqttClient::connect(&options).expect("it was let in");
        let error = client.subscribe("a/#").expect_err("it was not told that it has it");
        assert!(!error.to_string().is_empty(), "{answer:02x?}");
        serving.join().expect("the server");
    }
}
