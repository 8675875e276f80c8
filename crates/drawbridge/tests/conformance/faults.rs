//! Rules that were found broken; this file is declared in `main.rs` once they hold.

use std::time::Duration;

use crate::bytes::{Connect, Publish, SESSION_EXPIRY, TOPIC_ALIAS, WILL_DELAY, Will, p16, p32};
use crate::client::Client;
use crate::world::{every_v5, name};

#[test]
fn an_alias_that_was_never_defined_is_a_protocol_error() {
    every_v5(|world, case| {
        let mut definer = Client::new(world, case);
        definer.publish(&Publish::new(&name("t"), "x").with(p16(TOPIC_ALIAS, 1)));
        // Source: MQTT 5.0 section 3.3.2.3.4.
        for alias in [1, 2] {
            let mut client = Client::new(world, case);
            client.send(&Publish::new("", "x").with(p16(TOPIC_ALIAS, alias)).encode(case.version));
            client.ended_with(0x82);
        }
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
