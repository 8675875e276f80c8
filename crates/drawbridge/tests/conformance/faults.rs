//! Rules that were once found broken here.

use crate::bytes::{Connect, Publish, TOPIC_ALIAS, p16};
use crate::client::Client;
use crate::world::{Via, every, every_v5, name};

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
fn a_member_that_may_not_have_a_message_does_not_keep_it_from_its_group() {
    every(|world, case| {
        if case.via != Via::Tls {
            return; // who it is stands in a JWT, which needs TLS; once is enough
        }
        let (topic, group) = (name("t"), name("g"));
        let policy =
            format!("[[allow]]\nsubscribe = [\"#\"]\n[[deny]]\nsubscribe = [\"{topic}/secret/#\"]\n");
        let jwt = world.application(&name("app"), &policy);
        let (mut member, _) = Client::join_as(world, case, &jwt, &Connect::clean(&name("c")));
        member.subscribe(&format!("$share/{group}/{topic}/#"), 1);
        let mut sender = Client::new(world, case);
        let mut other = Client::new(world, case);
        other.subscribe(&format!("$share/{group}/{topic}/#"), 1);
        for n in 0..6 {
            sender.publish(&Publish::new(&format!("{topic}/secret/a"), n.to_string()).qos(1, 0));
        }
        // One that comes by way of the member may be overtaken: order is owed to subscriptions that are not shared
        // (MQTT-4.6.0-6).
        let mut taken: Vec<String> = (0..6).map(|_| other.taken().text().to_string()).collect();
        taken.sort();
        assert_eq!(taken, ["0", "1", "2", "3", "4", "5"]);
        assert_eq!(member.ping(), []);
    });
}
