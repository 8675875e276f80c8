//! What a policy asks of a connection is judged by the connection: MQTT by every fact of it, HTTP by its own.

mod world;

use drawbridge_admission::{Actor, Audience, Caller, ConnectRequest, Peer, TlsFacts, TlsVersion};
use drawbridge_names::{MqttClientId, PolicyName, TopicName};
use drawbridge_policy::Rights;
use drawbridge_testkit::TestDevice;
use world::{BRIDGE, World, connected, request};

const POLICY: &str = r#"
[[allow]]
publish = ["five"]
when = { protocol = ["mqtt5"] }
[[allow]]
publish = ["three"]
when = { protocol = ["mqtt3"] }
[[allow]]
publish = ["web"]
when = { protocol = ["http"] }
[[allow]]
publish = ["near"]
when = { address = ["10.0.0.0/8"], port = [8883] }
[[allow]]
publish = ["socket"]
when = { protocol = ["ws"] }
[[allow]]
publish = ["tls13"]
when = { tls = ["1.3"] }
[[allow]]
publish = ["jwt"]
when = { method = ["jwt"] }
[[allow]]
publish = ["token"]
when = { method = ["token"] }
[[allow]]
publish = ["by/${token.client_id}"]
[[allow]]
publish = ["subject/${cert.cn}"]
[[allow]]
publish = ["always"]
[[deny]]
publish = ["always"]
when = { tls = ["none", "1.2"] }
"#;

const TOPICS: [&str; 11] = [
    "five",
    "three",
    "web",
    "near",
    "socket",
    "tls13",
    "jwt",
    "token",
    "by/sensor",
    "subject/sensor",
    "always",
];

fn allowed(rights: &Rights) -> Vec<&'static str> {
    let may = |topic: &&str| rights.may_publish(TopicName::parse(topic).expect("a topic")).allowed;
    TOPICS.into_iter().filter(may).collect()
}

async fn world() -> (World, TestDevice) {
    let world = World::new().await;
    let device = world.device("sensor").await;
    let policy = PolicyName::parse("by-connection").expect("a name");
    world.admission.set_policy(&world.registry, &policy, POLICY, &Actor::Admin).await.expect("set");
    let attached = world.admission.attach_policy(&world.registry, &device.name, Some(policy), &Actor::Admin);
    attached.await.expect("attached");
    (world, device)
}

fn tls(version: TlsVersion) -> TlsFacts {
    TlsFacts {
        version,
        resumed: false,
        peer: None,
        ace_exporter: None,
        channel_binding: None,
        refresh_exporter: None,
    }
}

#[tokio::test]
async fn rights_are_those_of_the_connection_that_asks_for_them() {
    let (world, device) = world().await;
    let (v12, v13) = (tls(TlsVersion::V12), tls(TlsVersion::V13));
    let near = Peer { address: Some([10, 1, 2, 3].into()), port: Some(8883), websocket: Some(false) };
    let far = Peer { address: Some([192, 0, 2, 1].into()), websocket: Some(true), ..near };
    let token = world.token(&device, None).await;
    for (version, peer, facts, by_token, expected) in [
        (5, near, Some(&v13), false, &["five", "near", "tls13", "jwt", "always"][..]),
        (4, far, Some(&v12), false, &["three", "socket", "jwt"]),
        (5, near, Some(&v13), true, &["five", "near", "tls13", "token", "by/sensor", "always"]),
        // TLS ended elsewhere: which it was is not known, so the deny speaks.
        (5, Peer::default(), None, false, &["five", "jwt"]),
    ] {
        let jwt = device.connect_jwt(BRIDGE, world.now_s()).sign();
        let password = if by_token { &token } else { &jwt };
        let client_id = MqttClientId::parse("sensor").expect("a client id");
        let request =
            ConnectRequest { version, peer, tls: facts, ..request(&client_id, Some(password.as_bytes())) };
        let session = connected(world.admission.connect(request).await).expect("let in");
        assert_eq!(allowed(&session.rights), expected, "MQTT {version} from {peer:?}, token {by_token}");
    }
    // The same token over HTTP.
    let caller = world.admission.bearer(Some(&world.registry), &token, Audience::Bridge, near).await;
    let Caller::Principal(caller) = caller.expect("authorized") else { panic!("the device") };
    assert_eq!(allowed(&caller.rights), ["web", "token", "by/sensor"]);
}

#[tokio::test]
async fn a_changed_policy_is_judged_over_the_connection_that_a_session_has() {
    let (world, device) = world().await;
    let jwt = device.connect_jwt(BRIDGE, world.now_s()).sign();
    let session = world.connect("sensor", &jwt).await.expect("let in");
    // What is told to the broker is what the principal may anywhere; the session makes its own of it.
    let anywhere = world.admission.rights_of(&world.registry, &device.name).await.expect("there");
    let all = ["five", "three", "web", "near", "socket", "tls13", "jwt", "token", "always"];
    assert_eq!(allowed(&anywhere), all);
    assert_eq!(allowed(&anywhere.succeeding(&session.rights)), allowed(&session.rights));
}
