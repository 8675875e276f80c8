//! Commands to devices, and what clients publish to control topics.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use drawbridge_admission::Actor;
use drawbridge_control::{
    ClientControlPublish, ControlError, ControlPublishes, DeliveryOutcome, DeviceOrder, Dispatch, Publisher,
};
use drawbridge_names::Uid;
use drawbridge_testkit::TestDevice;

use crate::client::{Level, PINGREQ, publish};
use crate::rig::{Rig, registry, rig, wait_until};

fn command(device: Uid, wait: Duration) -> DeviceOrder {
    DeviceOrder {
        registry: registry(),
        device,
        topic: "devices/lamp/commands".to_owned(),
        payload: Arc::from(b"on".as_slice()),
        qos: 1,
        retain: false,
        to_device: true,
        publisher: Publisher::Server,
        wait,
    }
}

fn send(rig: &Rig, order: DeviceOrder) -> DeliveryOutcome {
    rig.runtime.block_on(rig.handle.send(order))
}

#[test]
fn a_command_is_answered_by_the_puback_of_its_device() {
    let rig = rig(|_| {});
    let lamp = TestDevice::new("lamp");
    let uid = rig.register(&lamp);
    let wait = Duration::from_secs(5);
    assert_eq!(send(&rig, command(uid, wait)), DeliveryOutcome::NotConnected);
    let mut client = rig.enter(&lamp, Level::V311);
    assert_eq!(send(&rig, command(uid, wait)), DeliveryOutcome::NotSubscribed);
    client.subscribe("devices/lamp/commands/#", 1);
    let answer = rig.runtime.spawn({
        let handle = rig.handle.clone();
        async move { handle.send(command(uid, wait)).await }
    });
    assert_eq!(client.message(), ("devices/lamp/commands".to_owned(), b"on".to_vec()));
    assert_eq!(rig.runtime.block_on(answer).expect("no panic"), DeliveryOutcome::Acknowledged);
}

#[test]
fn a_command_to_a_subscription_of_qos_0_is_not_sent_and_not_called_acknowledged() {
    let rig = rig(|_| {});
    let lamp = TestDevice::new("lamp");
    let uid = rig.register(&lamp);
    let mut client = rig.enter(&lamp, Level::V311);
    client.subscribe("devices/lamp/commands/#", 0);
    assert_eq!(send(&rig, command(uid, Duration::from_secs(5))), DeliveryOutcome::NotSubscribed);
    // The next packet is the answer to this, so no PUBLISH came before.
    client.send(&PINGREQ);
    assert_eq!(client.packet(), Ok((0xd0, vec![])));
}

#[test]
fn a_command_that_its_device_refuses_is_told_with_the_reason_of_the_puback() {
    let rig = rig(|_| {});
    let lamp = TestDevice::new("lamp");
    let uid = rig.register(&lamp);
    let mut client = rig.enter(&lamp, Level::V5);
    client.subscribe("devices/lamp/commands/#", 1);
    let answer = std::thread::scope(|scope| {
        scope.spawn(|| {
            let (first, body) = client.packet().expect("a PUBLISH");
            assert_eq!(first & 0xf6, 0x32, "at QoS 1");
            let id_at = 2 + "devices/lamp/commands".len();
            client.send(&[0x40, 4, body[id_at], body[id_at + 1], 0x87, 0]);
        });
        send(&rig, command(uid, Duration::from_secs(5)))
    });
    assert_eq!(answer, DeliveryOutcome::Rejected { reason: 0x87 });
}

#[test]
fn who_is_no_principal_any_more_sends_nothing() {
    let rig = rig(|_| {});
    let lamp = TestDevice::new("lamp");
    let uid = rig.register(&lamp);
    let mut client = rig.enter(&lamp, Level::V5);
    client.subscribe("devices/lamp/commands/#", 1);
    let nobody = Publisher::Principal(Uid(u64::MAX));
    let order = DeviceOrder { publisher: nobody, ..command(uid, Duration::from_secs(5)) };
    assert_eq!(send(&rig, order), DeliveryOutcome::Unavailable);
    client.send(&PINGREQ);
    assert_eq!(client.packet(), Ok((0xd0, vec![])));
}

#[test]
fn a_command_without_a_puback_times_out_and_a_stopped_bridge_says_so() {
    let mut rig = rig(|_| {});
    let lamp = TestDevice::new("lamp");
    let uid = rig.register(&lamp);
    let mut client = rig.enter(&lamp, Level::V311);
    client.subscribe("devices/lamp/commands/#", 1);
    assert_eq!(send(&rig, command(uid, Duration::from_millis(300))), DeliveryOutcome::TimedOut);
    rig.bridge.take().expect("running").shutdown(Duration::from_secs(1));
    assert_eq!(send(&rig, command(uid, Duration::from_secs(5))), DeliveryOutcome::Unavailable);
}

#[test]
fn an_application_that_never_connects_is_heard_again_after_a_block_is_over() {
    let rig = rig(|_| {});
    let lamp = TestDevice::new("lamp");
    let to = rig.register(&lamp);
    let (registry, guest) = (registry(), drawbridge_names::PrincipalName::parse("guest").expect("a name"));
    let mut client = rig.enter(&lamp, Level::V5);
    client.subscribe("devices/lamp/commands/#", 1);
    let blocked = rig.runtime.block_on(rig.admission.block(&registry, &guest, None, &Actor::Admin));
    let from = blocked.expect("blocked").uid;
    rig.runtime.block_on(rig.admission.unblock(&registry, &guest, None, &Actor::Admin)).expect("unblocked");
    let order = DeviceOrder { publisher: Publisher::Principal(from), ..command(to, Duration::from_secs(5)) };
    let answer = std::thread::scope(|scope| {
        let heard = scope.spawn(|| client.message());
        let answer = send(&rig, order);
        assert_eq!(heard.join().expect("no panic").0, "devices/lamp/commands");
        answer
    });
    assert_eq!(answer, DeliveryOutcome::Acknowledged);
}

#[test]
fn a_retained_config_waits_for_its_device() {
    let rig = rig(|_| {});
    let lamp = TestDevice::new("lamp");
    let uid = rig.register(&lamp);
    let config = DeviceOrder {
        topic: "devices/lamp/config".to_owned(),
        retain: true,
        to_device: false,
        ..command(uid, Duration::ZERO)
    };
    assert_eq!(send(&rig, config), DeliveryOutcome::Stored);
    // On whichever shard it lands.
    for _ in 0..6 {
        let mut client = rig.enter(&lamp, Level::V311);
        client.subscribe("devices/lamp/config", 1);
        assert_eq!(client.message(), ("devices/lamp/config".to_owned(), b"on".to_vec()));
    }
}

/// Writes down what it is given; refuses configs.
#[derive(Default)]
struct Clerk(Mutex<Vec<ClientControlPublish>>);

#[async_trait]
impl ControlPublishes for Clerk {
    async fn client_publish(&self, publish: ClientControlPublish) -> Result<(), ControlError> {
        let refuse = publish.topic.ends_with("/config");
        self.0.lock().expect("unpoisoned").push(publish);
        if refuse { Err(ControlError::BridgeUnavailable) } else { Ok(()) }
    }
}

#[test]
fn a_publish_to_a_control_topic_is_acknowledged_when_control_has_recorded_it() {
    let rig = rig(|_| {});
    let clerk = Arc::new(Clerk::default());
    rig.bridge.as_ref().expect("running").serve_control(clerk.clone());
    let mut guest = rig.guest("operator", Level::V5);
    guest.send(&publish(Level::V5, "devices/lamp/commands/blink", 5, b"3"));
    let (kind, body) = guest.packet().expect("PUBACK");
    assert_eq!((kind, &body[..2]), (0x40, &[0, 5][..]));
    assert!(body.get(2).is_none_or(|reason| *reason < 0x80), "{body:?}");
    guest.send(&publish(Level::V5, "devices/lamp/config", 6, b"{}"));
    let (kind, body) = guest.packet().expect("PUBACK");
    assert_eq!((kind, &body[..3]), (0x40, &[0, 6, 0x83][..]));
    let seen = clerk.0.lock().expect("unpoisoned");
    let topics: Vec<&str> = seen.iter().map(|publish| publish.topic.as_str()).collect();
    assert_eq!(topics, ["devices/lamp/commands/blink", "devices/lamp/config"]);
    assert_eq!(seen[0].publisher_name.as_str(), "guest");
    assert_eq!(seen[0].publisher_kind, drawbridge_names::PrincipalKind::Application);
    drop(seen);
    wait_until("nothing is left behind", || rig.handle.stats().sessions == 1);
}

/// Control that never comes to an end.
#[derive(Default)]
struct Sleeper(std::sync::atomic::AtomicUsize);

#[async_trait]
impl ControlPublishes for Sleeper {
    async fn client_publish(&self, _: ClientControlPublish) -> Result<(), ControlError> {
        self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        std::future::pending().await
    }
}

#[test]
fn a_flood_of_states_waits_in_its_socket_while_control_is_slow() {
    let rig = rig(|config| config.shards = 1);
    let sleeper = Arc::new(Sleeper::default());
    rig.bridge.as_ref().expect("running").serve_control(sleeper.clone());
    let guest = rig.guest("flooder", Level::V311);
    let crate::client::Wire::Plain(mut stream) = guest.wire else { unreachable!("it is plain") };
    let flood = std::thread::spawn(move || {
        let state = publish(Level::V311, "devices/lamp/state", 5, &[b'x'; 64 << 10]);
        // 64 MiB; it blocks when the kernel's buffers are full, until the bridge is gone.
        (0..1_000).take_while(|_| std::io::Write::write_all(&mut stream, &state).is_ok()).count()
    });
    let asked = || sleeper.0.load(std::sync::atomic::Ordering::SeqCst);
    wait_until("control is asked", || asked() == 16);
    std::thread::sleep(Duration::from_millis(300));
    let held = rig.shards()[0].buffer_bytes;
    assert!(asked() == 16 && held < 1 << 20, "{} asked, {held} bytes held", asked());
    drop(rig);
    assert!(flood.join().expect("no panic") < 1_000, "it was made to wait");
}
