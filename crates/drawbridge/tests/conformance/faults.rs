//! Rules that were found broken; this file is declared in `main.rs` once they hold.

use crate::bytes::{Publish, TOPIC_ALIAS, p16};
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
