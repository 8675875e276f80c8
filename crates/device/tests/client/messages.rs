//! Messages in both directions, over connections that break.

use std::sync::mpsc::Sender;
use std::time::Duration;

use drawbridge_device::{DeviceClient, DeviceError, Event, ProtocolVersion, Qos, Queue, Way};
use drawbridge_mqtt::codec::{Ack, Packet, PacketId, Publish, ReasonCode};
use drawbridge_names::TopicName;

use crate::broker::{Broker, PATIENCE, Peer};

/// What a client sent, as a test looks at it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Sent {
    Connect { clean: bool },
    Publish { text: String, id: Option<u16>, dup: bool, retain: bool },
    Ack(u8, u16, ReasonCode),
    Subscribe(Vec<String>),
    Unsubscribe(Vec<String>),
    Disconnect,
}

fn sent(packet: &Packet<'_>) -> Option<Sent> {
    let ack = |kind: u8, ack: &Ack<'_>| Sent::Ack(kind, ack.packet_id.get(), ack.reason);
    Some(match packet {
        Packet::Connect(connect) => Sent::Connect { clean: connect.clean_start },
        Packet::Publish(publish) => Sent::Publish {
            text: String::from_utf8_lossy(publish.payload).into_owned(),
            id: publish.packet_id.map(PacketId::get),
            dup: publish.dup,
            retain: publish.retain,
        },
        Packet::PubAck(it) => ack(4, it),
        Packet::PubRec(it) => ack(5, it),
        Packet::PubRel(it) => ack(6, it),
        Packet::PubComp(it) => ack(7, it),
        Packet::Subscribe(it) => {
            Sent::Subscribe(it.entries.iter().map(|entry| entry.filter.to_owned()).collect())
        }
        Packet::Unsubscribe(it) => {
            Sent::Unsubscribe(it.filters.iter().map(|filter| (*filter).to_owned()).collect())
        }
        Packet::Disconnect(_) => Sent::Disconnect,
        _ => return None,
    })
}

fn id(number: u16) -> PacketId {
    PacketId::new(number).expect("not 0")
}

fn publish(peer: &mut Peer, text: &str, qos: Qos, number: u16, dup: bool) {
    peer.say(&Packet::Publish(Publish {
        dup,
        qos,
        retain: false,
        topic: Some(TopicName::parse("devices/lamp/commands/on").expect("a topic")),
        packet_id: (qos != Qos::AtMostOnce).then(|| id(number)),
        properties: Default::default(),
        payload: text.as_bytes(),
    }));
}

fn publish_of(text: &str, id: u16, dup: bool) -> Sent {
    Sent::Publish { text: text.to_owned(), id: Some(id), dup, retain: false }
}

#[test]
fn what_was_not_acknowledged_is_sent_again_after_the_link_broke() {
    for kept in [true, false] {
        let broker = Broker::start(true, move |number, peer, reports: &Sender<Sent>| {
            let mut count = 0;
            while let Some(one) = peer.until(sent) {
                let _ = reports.send(one.clone());
                match one {
                    Sent::Connect { .. } => peer.welcome(number > 0 && kept),
                    Sent::Publish { id: Some(it), .. } => {
                        count += 1;
                        if number == 0 && count == 2 {
                            return; // the link breaks
                        }
                        if number > 0 {
                            peer.puback(id(it));
                        }
                    }
                    _ => {}
                }
            }
        });
        let mut options = broker.options(true);
        options.way = Way::Certificate;
        let client = DeviceClient::start(options).expect("starts");
        // Before there is a connection: QoS 1 is kept, QoS 0 is not.
        let one = client.publish("a/b", b"1", Qos::AtLeastOnce).expect("taken");
        assert_eq!(broker.report(), Sent::Connect { clean: true });
        assert_eq!(broker.report(), publish_of("1", 1, false));
        let two = client.publish("a/b", b"2", Qos::AtLeastOnce).expect("taken");
        assert_eq!(broker.report(), publish_of("2", 2, false));
        assert_eq!(broker.report(), Sent::Connect { clean: false }, "the session is kept for us");
        let ids = if kept { [1, 2] } else { [3, 4] };
        assert_eq!(broker.report(), publish_of("1", ids[0], kept));
        assert_eq!(broker.report(), publish_of("2", ids[1], kept));
        one.wait(PATIENCE).expect("acknowledged");
        two.wait(PATIENCE).expect("acknowledged");
        assert_eq!(client.stop(PATIENCE), 0);
        assert_eq!(broker.report(), Sent::Disconnect);
        assert!(matches!(client.publish("a/b", b"3", Qos::AtLeastOnce), Err(DeviceError::Stopped)));
    }
}

#[test]
fn a_publish_at_qos_2_goes_through_all_four_packets() {
    let broker = Broker::start(true, |_, peer, reports: &Sender<Sent>| {
        while let Some(one) = peer.until(sent) {
            let _ = reports.send(one.clone());
            match one {
                Sent::Connect { .. } => peer.welcome(false),
                Sent::Publish { id: Some(it), .. } => peer.say(&Packet::PubRec(Ack::success(id(it)))),
                Sent::Ack(6, it, _) => peer.say(&Packet::PubComp(Ack::success(id(it)))),
                _ => {}
            }
        }
    });
    let mut options = broker.options(true);
    options.way = Way::Certificate;
    let client = DeviceClient::start(options).expect("starts");
    let delivery = client.publish_retained("a/b", b"2", Qos::ExactlyOnce).expect("taken");
    delivery.wait(PATIENCE).expect("complete");
    assert_eq!(broker.report(), Sent::Connect { clean: true });
    assert_eq!(broker.report(), Sent::Publish { text: "2".into(), id: Some(1), dup: false, retain: true });
    assert_eq!(broker.report(), Sent::Ack(6, 1, ReasonCode::Success));
}

#[test]
fn without_a_connection_qos_0_is_refused_and_the_queue_is_bounded() {
    // A port where nobody listens.
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port").port();
    let endpoint =
        drawbridge_device::Endpoint { server: format!("127.0.0.1:{port}"), tls: None, websocket: None };
    let mut options = drawbridge_device::ClientOptions::new(endpoint, "lamp");
    options.way = Way::Certificate;
    options.queue = Queue { messages_max: 2, ..Queue::default() };
    let client = DeviceClient::start(options).expect("starts");
    assert!(matches!(client.publish("a", b"", Qos::AtMostOnce), Err(DeviceError::Offline)));
    for _ in 0..2 {
        client.publish("a", b"", Qos::AtLeastOnce).expect("kept");
    }
    assert!(matches!(
        client.publish("a", b"", Qos::AtLeastOnce),
        Err(DeviceError::QueueFull { messages: 2, .. })
    ));
    assert!(matches!(client.publish("a/#", b"", Qos::AtLeastOnce), Err(DeviceError::Protocol(_))));
    assert_eq!(client.stop(Duration::from_millis(10)), 2, "two are told to be left");
}

#[test]
fn a_message_is_acknowledged_when_the_application_is_done_with_it_and_in_order() {
    let broker = Broker::start(true, |_, peer, reports: &Sender<Sent>| {
        while let Some(one) = peer.until(sent) {
            let _ = reports.send(one.clone());
            match one {
                Sent::Connect { .. } => peer.welcome(false),
                Sent::Subscribe(_) => {
                    for number in 1..=3 {
                        publish(peer, &number.to_string(), Qos::AtLeastOnce, number, false);
                    }
                }
                _ => {}
            }
        }
    });
    let mut options = broker.options(true);
    options.way = Way::Certificate;
    let client = DeviceClient::start(options).expect("starts");
    let commands = client.commands().expect("subscribes");
    assert_eq!(commands.granted(PATIENCE).expect("granted"), Qos::AtLeastOnce);
    let next = || commands.receive(PATIENCE).expect("a command");
    let (first, second, third) = (next(), next(), next());
    assert_eq!([&first.payload[..], &second.payload, &third.payload], [b"1", b"2", b"3"]);
    drop(third);
    second.refuse();
    assert_eq!(broker.report(), Sent::Connect { clean: true });
    assert_eq!(broker.report(), Sent::Subscribe(vec!["devices/lamp/commands/#".to_owned()]));
    assert!(broker.reports.recv_timeout(Duration::from_millis(100)).is_err(), "the first is not done");
    drop(first);
    assert_eq!(broker.report(), Sent::Ack(4, 1, ReasonCode::Success));
    assert_eq!(broker.report(), Sent::Ack(4, 2, ReasonCode::ImplementationSpecificError), "refused");
    assert_eq!(broker.report(), Sent::Ack(4, 3, ReasonCode::Success));
    drop(commands);
    assert_eq!(broker.report(), Sent::Unsubscribe(vec!["devices/lamp/commands/#".to_owned()]));
}

#[test]
fn a_message_at_qos_2_comes_once_also_when_the_server_repeats_it_over_the_next_connection() {
    let broker = Broker::start(true, |number, peer, reports: &Sender<Sent>| {
        while let Some(one) = peer.until(sent) {
            let _ = reports.send(one.clone());
            match one {
                Sent::Connect { .. } => {
                    peer.welcome(number > 0);
                    if number > 0 {
                        publish(peer, "once", Qos::ExactlyOnce, 9, true);
                    }
                }
                Sent::Subscribe(_) => publish(peer, "once", Qos::ExactlyOnce, 9, false),
                Sent::Ack(5, ..) if number == 0 => return, // the link breaks
                Sent::Ack(5, it, _) => peer.say(&Packet::PubRel(Ack::success(id(it)))),
                Sent::Ack(7, ..) => publish(peer, "last", Qos::AtMostOnce, 0, false),
                _ => {}
            }
        }
    });
    let mut options = broker.options(true);
    options.way = Way::Certificate;
    let client = DeviceClient::start(options).expect("starts");
    let commands = client.commands().expect("subscribes");
    assert_eq!(commands.receive(PATIENCE).expect("a message").payload, b"once");
    assert_eq!(commands.receive(PATIENCE).expect("a message").payload, b"last");
    let all: Vec<Sent> = std::iter::from_fn(|| broker.reports.try_recv().ok()).collect();
    let asked = all.iter().filter(|one| matches!(one, Sent::Subscribe(_))).count();
    assert_eq!(asked, 1, "the server had kept the subscription: {all:?}");
}

#[test]
fn a_lost_session_is_subscribed_again_and_a_refusal_is_told() {
    for version in [ProtocolVersion::V311, ProtocolVersion::V5] {
        let broker = Broker::start(true, |number, peer, reports: &Sender<Vec<String>>| {
            peer.admit(false);
            for _ in 0..2 {
                let heard = peer.hear(|packet| match packet {
                    Packet::Subscribe(it) => (
                        it.packet_id,
                        it.entries.iter().map(|entry| entry.filter.to_owned()).collect::<Vec<_>>(),
                    ),
                    other => panic!("{other:?}"),
                });
                let Some((id, filters)) = heard else { return };
                let refused = filters == ["secret"];
                peer.suback(id, if refused { ReasonCode::NotAuthorized } else { ReasonCode::GrantedQos1 });
                let _ = reports.send(filters);
            }
            if number > 0 {
                while peer.hear(|_| ()).is_some() {}
            }
        });
        let mut options = broker.options(true);
        (options.version, options.way) = (version, Way::Certificate);
        let client = DeviceClient::start(options).expect("starts");
        let events = client.events();
        let open = client.subscribe("$share/group/a/+", Qos::AtLeastOnce).expect("a filter");
        let secret = client.subscribe("secret", Qos::AtLeastOnce).expect("a filter");
        open.granted(PATIENCE).expect("granted");
        assert!(matches!(secret.granted(PATIENCE), Err(DeviceError::Refused { .. })));
        for _ in 0..2 {
            assert_eq!(broker.report(), ["$share/group/a/+"]);
            assert_eq!(broker.report(), ["secret"]);
        }
        let told = events.iter().find(|event| matches!(event, Event::SubscriptionRefused { .. }));
        assert!(told.is_some());
        assert!(client.subscribe("a/#/b", Qos::AtLeastOnce).is_err());
    }
}

#[test]
fn a_server_that_does_not_answer_a_ping_is_given_up() {
    let broker = Broker::start(true, |number, peer, reports: &Sender<usize>| {
        peer.admit(false);
        let mut pings = 0;
        while let Some(ping) = peer.hear(|packet| packet == Packet::PingReq) {
            pings += usize::from(ping);
            if pings == 2 {
                let _ = reports.send(number);
                return;
            }
            if ping {
                peer.say(&Packet::PingResp);
            }
        }
    });
    let mut options = broker.options(true);
    (options.keep_alive_s, options.way) = (1, Way::Certificate);
    let client = DeviceClient::start(options).expect("starts");
    assert!(client.wait_connected(PATIENCE));
    assert_eq!(broker.report(), 0, "the second ping comes because the first was answered");
}

#[test]
fn messages_at_qos_2_that_the_application_has_not_read_hold_their_place_with_the_server() {
    let broker = Broker::start(true, |_, peer, reports: &Sender<Sent>| {
        while let Some(one) = peer.until(sent) {
            match one {
                Sent::Connect { .. } => peer.welcome(false),
                Sent::Subscribe(_) => publish(peer, "once", Qos::ExactlyOnce, 9, false),
                Sent::Ack(5, it, _) => {
                    peer.say(&Packet::PubRel(Ack::success(id(it))));
                    let _ = reports.send(one);
                    // Behind PUBREL: when this has come, PUBREL has.
                    publish(peer, "next", Qos::AtLeastOnce, 10, false);
                }
                Sent::Ack(..) => drop(reports.send(one)),
                _ => {}
            }
        }
    });
    let mut options = broker.options(true);
    options.way = Way::Certificate;
    let client = DeviceClient::start(options).expect("starts");
    let commands = client.commands().expect("subscribes");
    let first = commands.receive(PATIENCE).expect("a message");
    assert_eq!((first.payload.as_slice(), first.qos), (&b"once"[..], Qos::ExactlyOnce));
    assert_eq!(broker.report(), Sent::Ack(5, 9, ReasonCode::Success));
    drop(commands.receive(PATIENCE).expect("the next"));
    assert_eq!(broker.report(), Sent::Ack(4, 10, ReasonCode::Success), "no PUBCOMP yet");
    drop(first);
    assert_eq!(broker.report(), Sent::Ack(7, 9, ReasonCode::Success));
}

#[test]
fn what_made_room_for_newer_messages_is_told_and_a_listener_that_does_not_read_costs_nothing() {
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port").port();
    let endpoint =
        drawbridge_device::Endpoint { server: format!("127.0.0.1:{port}"), tls: None, websocket: None };
    let mut options = drawbridge_device::ClientOptions::new(endpoint, "lamp");
    options.way = Way::Certificate;
    let overflow = drawbridge_device::Overflow::DropOldest;
    options.queue = Queue { messages_max: 2, overflow, ..Queue::default() };
    let client = DeviceClient::start(options).expect("starts");
    let events = client.events();
    for _ in 0..1000 {
        client.publish("a", b"", Qos::AtLeastOnce).expect("kept");
    }
    let told: Vec<Event> = events.try_iter().filter(|event| matches!(event, Event::Dropped { .. })).collect();
    assert!((200..=256).contains(&told.len()), "{} events wait", told.len());
    assert_eq!(told[0], Event::Dropped { messages: 1 });
    assert_eq!(client.stop(Duration::from_millis(10)), 2);
}
