//! AUTH, and the authentication methods of MQTT 5.0 section 4.12. The one used here, `OAUTH2-JWT`, has one round;
//! what a challenge asks of both sides is tried out in `broker/tests/renewal.rs` and with `ace` over TLS.

use std::thread;
use std::time::Duration;

use crate::bytes::{
    AUTHENTICATION_DATA, AUTHENTICATION_METHOD, Connect, MAXIMUM_PACKET_SIZE, PROBLEM_INFORMATION,
    Properties, Publish, Said, USER_PROPERTY, Version, p32, packet, pstr, section,
};
use crate::client::Client;
use crate::world::{Case, Via, World, every_v5, name};

const METHOD: &str = "OAUTH2-JWT";
const CONTINUE: u8 = 0x18;
const AGAIN: u8 = 0x19;
/// A session is renewed at most once within this.
const BETWEEN_RENEWALS: Duration = Duration::from_millis(1_100);

fn auth(code: u8, method: &str, data: &[u8]) -> Vec<u8> {
    let properties = [pstr(AUTHENTICATION_METHOD, method), pstr(AUTHENTICATION_DATA, data)].concat();
    packet(0xf0, &[&[code][..], &section(Version::V5, &properties)].concat())
}

/// The guest's JWT: what the method wants as its data.
fn token(world: &World) -> &[u8] {
    world.credential(Via::Tls).expect("over TLS there is one").1
}

/// A CONNECT by the method, and what was said to it.
fn ask(world: &World, case: Case, data: &[u8], more: Vec<u8>) -> (Client, u8, Properties) {
    let connect = Connect::clean(&name("c"))
        .with(pstr(AUTHENTICATION_METHOD, METHOD))
        .with(pstr(AUTHENTICATION_DATA, data))
        .with(more);
    let mut client = Client::silent(world, case);
    client.send(&connect.encode(case.version, None));
    match client.next() {
        Some(Said::ConnAck { flags: 0, code, properties }) => (client, code, properties),
        other => panic!("{other:?} for CONNACK"),
    }
}

fn join(world: &World, case: Case) -> Client {
    let (client, code, properties) = ask(world, case, token(world), Vec::new());
    assert_eq!(code, 0, "{properties:?}");
    client
}

/// In every way that a token may go: not where anybody could read it.
fn every_confidential(test: impl Fn(&World, Case) + Sync) {
    every_v5(|world, case| {
        if case.via == Via::Plain {
            let (mut client, code, _) = ask(world, case, token(world), Vec::new());
            assert_eq!(code, 0x87, "no token is taken over a channel that anybody can read");
            client.is_closed();
        } else {
            test(world, case);
        }
    });
}

#[test]
fn a_method_that_is_served_is_named_in_connack_and_every_auth() {
    every_confidential(|world, case| {
        let (mut client, code, properties) = ask(world, case, token(world), Vec::new());
        assert_eq!((code, properties.text(AUTHENTICATION_METHOD)), (0, Some(METHOD)));
        let topic = name("t");
        client.subscribe(&topic, 1);
        for _ in 0..2 {
            // What follows at once is worked on whether the judgement is there or not.
            let id = client.fresh_id();
            let publish = Publish::new(&topic, "beside").qos(1, id).encode(case.version);
            client.send(&[auth(AGAIN, METHOD, token(world)), publish].concat());
            let (mut renewed, mut acknowledged) = (0, 0);
            while renewed + acknowledged < 2 {
                match client.answer() {
                    Some(Said::Auth { code, properties }) => {
                        assert_eq!((code, properties.text(AUTHENTICATION_METHOD)), (0, Some(METHOD)));
                        assert!(!properties.has(AUTHENTICATION_DATA));
                        renewed += 1;
                    }
                    Some(Said::Ack { first_byte: 0x40, id: found, code: 0, .. }) if found == id => {
                        acknowledged += 1;
                    }
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!((renewed, acknowledged), (1, 1));
            assert_eq!(client.taken().text(), "beside");
            thread::sleep(BETWEEN_RENEWALS);
        }
        client.leave();
        let (_, _, code, properties) = Client::ask(world, case, &Connect::clean(&name("c")));
        assert_eq!((code, properties.has(AUTHENTICATION_METHOD)), (0, false));
    });
}

#[test]
fn auth_out_of_turn_or_by_another_method_ends_the_connection() {
    every_confidential(|world, case| {
        let token = token(world);
        let no_method = packet(0xf0, &[&[AGAIN][..], &section(Version::V5, &[])].concat());
        for (what, bytes) in [
            ("another method", auth(AGAIN, "CUSTOM-JWT", token)),
            ("a method in other letters", auth(AGAIN, "oauth2-jwt", token)),
            ("no method", no_method),
            ("an answer that nobody asked for", auth(CONTINUE, METHOD, token)),
            ("success, which only a server says", auth(0x00, METHOD, token)),
            ("a reason code that AUTH does not have", auth(0x87, METHOD, token)),
        ] {
            let mut client = join(world, case);
            client.send(&bytes);
            let code = client.ended().expect("5.0");
            assert!([0x81, 0x82].contains(&code), "{what}: {code:#04x}");
        }
    });
}

#[test]
fn authentication_that_fails_ends_the_connection_the_first_time_and_anew() {
    every_confidential(|world, case| {
        let good = token(world);
        let mut forged = good.to_vec();
        let at = forged.len() - 8;
        forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
        for bad in [&forged[..], b"no token", b""] {
            let (mut client, code, _) = ask(world, case, bad, Vec::new());
            assert_eq!(code, 0x87);
            client.is_closed();
            let mut client = join(world, case);
            client.send(&auth(AGAIN, METHOD, bad));
            client.ended_with(0x87);
        }
    });
}

#[test]
fn auth_stays_within_what_the_client_takes() {
    every_confidential(|world, case| {
        let renew = |client: &mut Client| {
            client.send(&auth(AGAIN, METHOD, token(world)));
            match client.next_sized() {
                Some((Said::Auth { code: 0, properties }, bytes)) => (properties, bytes),
                other => panic!("{other:?}"),
            }
        };
        let (told, bytes) = renew(&mut join(world, case));
        assert!(told.has(USER_PROPERTY), "how long the right lasts");
        let max = u32::try_from(bytes - 1).expect("small");
        let (mut client, code, _) = ask(world, case, token(world), p32(MAXIMUM_PACKET_SIZE, max));
        assert_eq!(code, 0);
        let (told, bytes) = renew(&mut client);
        assert!(bytes <= max as usize && told.text(AUTHENTICATION_METHOD) == Some(METHOD));
        // Who wants no such words gets none.
        let (mut client, ..) = ask(world, case, token(world), vec![PROBLEM_INFORMATION, 0]);
        let (told, _) = renew(&mut client);
        assert!(!told.has(USER_PROPERTY), "{told:?}");
    });
}
