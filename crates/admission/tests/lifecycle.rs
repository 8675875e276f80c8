//! Block, revoke, delete, remove a key, change a policy: what was good is good no more, at once. And
//! races: two logins with one `jti`, a block while a connection is being judged.

mod world;

use std::sync::Arc;

use async_trait::async_trait;
use drawbridge_admission::{
    Actor, Admission, AdmissionConfig, Audience, Caller, EndReason, LoginRequest, Peer, Refusal, SessionsEnd,
};
use drawbridge_names::{PolicyName, PrincipalName, RegistryName, TopicName, Uid};
use drawbridge_policy::Action;
use drawbridge_testkit::{FakeClock, FlakyStore, SeededRandom, TestDevice, sealer};
use world::{API, BRIDGE, ISSUER, World, name_of, open};

async fn bearer(world: &World, token: &str, audience: Audience) -> Result<Caller, Refusal> {
    world.admission.bearer(Some(&world.registry), token, audience, Peer::default()).await
}

#[tokio::test]
async fn i7_of_many_logins_with_one_jti_at_the_same_time_one_wins() {
    let world = Arc::new(World::new().await);
    let device = world.device("sensor").await;
    let assertion = device.assertion(ISSUER, world.now_s()).sign();
    let tasks: Vec<_> = (0..32)
        .map(|_| {
            let (world, assertion) = (Arc::clone(&world), assertion.clone());
            tokio::spawn(async move { world.login(&assertion).await })
        })
        .collect();
    let (mut won, mut replayed) = (0, 0);
    for task in tasks {
        match task.await.expect("no panic") {
            Ok(_) => won += 1,
            Err(Refusal::Replay) => replayed += 1,
            Err(refusal) => panic!("{refusal}"),
        }
    }
    assert_eq!((won, replayed), (1, 31));
}

#[tokio::test]
async fn i7_a_jti_is_used_once_also_across_restart_and_until_its_assertion_is_dead() {
    let world = World::new().await;
    let device = world.device("sensor").await;
    let assertion = device.assertion(ISSUER, world.now_s()).sign();
    world.login(&assertion).await.expect("in");
    let World { store, clock, registry, watcher, .. } = world;
    let admission = open(&store, &clock, 2).await;
    let world = World { store, clock, admission, registry, watcher };
    assert_eq!(world.login(&assertion).await.expect_err("after a restart"), Refusal::Replay);
    world.clock.advance_s(120 + 59);
    assert_eq!(world.login(&assertion).await.expect_err("at its last second"), Refusal::Replay);
    world.clock.advance_s(1);
    assert_eq!(world.login(&assertion).await.expect_err("dead").word(), "time");
}

#[tokio::test]
async fn tokens_issued_before_a_restart_stay_good() {
    let world = World::new().await;
    let device = world.device("sensor").await;
    let token = world.token(&device, None).await;
    let jwks = world.admission.jwks_json(&world.registry);
    let World { store, clock, registry, watcher, .. } = world;
    let admission = open(&store, &clock, 2).await;
    let world = World { store, clock, admission, registry, watcher };
    assert_eq!(world.admission.jwks_json(&world.registry), jwks);
    assert_eq!(name_of(&bearer(&world, &token, Audience::Bridge).await.expect("good")), "sensor");
    let again = drawbridge_admission::NewRegistry::named(
        world.registry.clone(),
        Some("https://moved.example".into()),
    );
    let (record, made) = world.admission.create_registry(again, &Actor::Admin).await.expect("there");
    assert_eq!((record.issuer.as_str(), made), (ISSUER, false), "the issuer is fixed at creation");
}

#[tokio::test]
async fn one_jti_may_be_used_by_two_devices() {
    let world = World::new().await;
    let (one, two) = (world.device("one").await, world.device("two").await);
    for device in [&one, &two] {
        let jwt = device.assertion(ISSUER, world.now_s()).with("jti", serde_json::json!("0123456789abcdef"));
        world.login(&jwt.sign()).await.expect("in");
    }
}

#[tokio::test]
async fn a_device_with_a_thousand_live_assertions_waits_until_some_are_dead() {
    let world = World::new().await;
    let random = Arc::new(SeededRandom::new(3));
    let settings = AdmissionConfig { jti_live_max: 3, ..AdmissionConfig::default() };
    let store = world.store.clone();
    let admission =
        Admission::open(store, world.clock.clone(), random, sealer(), settings).await.expect("opened");
    let world = World { admission, ..world };
    let device = world.device("sensor").await;
    let login = async || world.login(&device.assertion(ISSUER, world.now_s()).sign()).await;
    for _ in 0..3 {
        login().await.expect("in");
    }
    assert_eq!(login().await.expect_err("full"), Refusal::JtiFull { for_life: false });
    // Their 120 s, the skew, and the margin of a minute.
    world.clock.advance_s(239);
    assert_eq!(login().await.expect_err("full"), Refusal::JtiFull { for_life: false });
    world.clock.advance_s(1);
    login().await.expect("in again");
}

#[tokio::test]
async fn a_key_that_has_signed_too_many_jwts_without_exp_is_exhausted_until_it_is_replaced() {
    let world = World::new().await;
    let random = Arc::new(SeededRandom::new(5));
    let settings = AdmissionConfig { legacy_jti_max: 3, ..AdmissionConfig::default() };
    let store = world.store.clone();
    let admission =
        Admission::open(store, world.clock.clone(), random, sealer(), settings).await.expect("opened");
    let world = World { admission, ..world };
    let device = world.legacy_device("sensor").await;
    world.application("backend", &TestDevice::new("backend"), "").await;
    for _ in 0..2 {
        world.legacy_login(&device.legacy_login().sign()).await.expect("in");
    }
    let new = TestDevice::new("sensor");
    let update = device.legacy_update(new.public_key()).sign();
    let pop = new.legacy_pop(&update);
    let updated = world.admission.legacy_update_key(&world.registry, &update, &pop, Peer::default()).await;
    assert!(updated.expect("the third").changed);
    world.clock.advance_s(100_000);
    let exhausted = world.legacy_login(&device.legacy_login().sign()).await;
    assert_eq!(exhausted.expect_err("its grace is over").word(), "not-proven");
    for _ in 0..3 {
        world.legacy_login(&new.legacy_login().sign()).await.expect("the new key starts afresh");
    }
    let exhausted = world.legacy_login(&new.legacy_login().sign()).await;
    assert_eq!(exhausted.expect_err("exhausted"), Refusal::JtiFull { for_life: true });
}

#[tokio::test]
async fn the_way_out_of_an_exhausted_key_is_to_replace_it() {
    let world = World::new().await;
    let settings = AdmissionConfig { legacy_jti_max: 1, ..AdmissionConfig::default() };
    let (store, random) = (world.store.clone(), Arc::new(SeededRandom::new(6)));
    let admission =
        Admission::open(store, world.clock.clone(), random, sealer(), settings).await.expect("opened");
    let world = World { admission, ..world };
    let device = world.legacy_device("sensor").await;
    world.application("backend", &TestDevice::new("backend"), "").await;
    world.legacy_login(&device.legacy_login().sign()).await.expect("in");
    let exhausted = world.legacy_login(&device.legacy_login().sign()).await;
    assert_eq!(exhausted.expect_err("exhausted"), Refusal::JtiFull { for_life: true });
    let new = TestDevice::new("sensor");
    let update = device.legacy_update(new.public_key()).sign();
    let pop = new.legacy_pop(&update);
    let updated = world.admission.legacy_update_key(&world.registry, &update, &pop, Peer::default()).await;
    assert!(updated.expect("replaced").changed);
    world.legacy_login(&new.legacy_login().sign()).await.expect("the new key starts afresh");
}

#[tokio::test]
async fn i7_a_device_deleted_and_registered_again_with_its_key_admits_no_jwt_it_was_used_with() {
    let world = World::new().await;
    let device = world.legacy_device("sensor").await;
    world.application("backend", &TestDevice::new("backend"), "").await;
    let (legacy, assertion) = (device.legacy_login().sign(), device.assertion(ISSUER, world.now_s()).sign());
    world.legacy_login(&legacy).await.expect("in");
    world.login(&assertion).await.expect("in");
    world.admission.delete(&world.registry, &device.name, &Actor::Admin).await.expect("deleted");
    world.register(&device, true).await;
    assert_eq!(world.login(&assertion).await.expect_err("used"), Refusal::Replay);
    world.clock.advance_s(10_000_000);
    assert_eq!(world.legacy_login(&legacy).await.expect_err("used"), Refusal::Replay);
}

/// A clock that goes on one second after it was read so many times.
struct Creeping {
    inner: Arc<FakeClock>,
    reads_left: std::sync::atomic::AtomicU32,
}

impl drawbridge_admission::Clock for Creeping {
    fn now_ms(&self) -> u64 {
        use std::sync::atomic::Ordering::SeqCst;
        if self.reads_left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_err() {
            return self.inner.now_ms() + 1000;
        }
        self.inner.now_ms()
    }

    fn instant(&self) -> std::time::Instant {
        self.inner.instant()
    }
}

#[tokio::test]
async fn i7_no_replay_slips_through_while_the_last_second_of_an_assertion_passes() {
    for reads in 0..8 {
        let world = World::new().await;
        let device = world.device("sensor").await;
        let assertion = device.assertion(ISSUER, world.now_s()).sign();
        world.login(&assertion).await.expect("in");
        // The last second at which it would be good; its signature is checked while that second passes.
        world.clock.advance_s(120 + 60 - 1);
        let clock = Arc::new(Creeping { inner: world.clock.clone(), reads_left: reads.into() });
        let (store, random) = (world.store.clone(), Arc::new(SeededRandom::new(8)));
        let settings = AdmissionConfig::default();
        let admission = Admission::open(store, clock, random, sealer(), settings).await.expect("opened");
        let world = World { admission, ..world };
        let refusal = world.login(&assertion).await.expect_err("used");
        assert!(matches!(refusal.word(), "jti-reused" | "time"), "after {reads} reads: {refusal}");
    }
}

#[tokio::test]
async fn i6_blocking_ends_tokens_and_tells_the_watcher_after_the_commit() {
    let world = World::new().await;
    let device = world.device("sensor").await;
    let token = world.token(&device, None).await;
    let session = world.connect("sensor", &token).await.expect("in");
    assert!(world.admission.still_good(&session));
    let (registry, name) = (&world.registry, &device.name);
    world.admission.block(registry, name, None, &Actor::Admin).await.expect("blocked");
    assert!(!world.admission.still_good(&session));
    let event =
        SessionsEnd::Principal { registry: registry.clone(), uid: session.uid, why: EndReason::Blocked };
    assert_eq!(world.watcher.take(), [event]);
    assert_eq!(bearer(&world, &token, Audience::Bridge).await.expect_err("blocked"), Refusal::Blocked);
    assert_eq!(world.connect("sensor", &token).await.expect_err("blocked"), Refusal::Blocked);
}

#[tokio::test]
async fn i6_revoking_ends_what_is_older_and_nothing_that_is_newer() {
    let world = World::new().await;
    let device = world.device("sensor").await;
    let (token, jwt) = (world.token(&device, None).await, device.connect_jwt(BRIDGE, world.now_s()).sign());
    let (assertion, no_iat) =
        (device.assertion(ISSUER, world.now_s()), device.assertion(ISSUER, world.now_s()));
    let no_iat = no_iat.without("iat").sign();
    let revoked = world.admission.revoke(&world.registry, &device.name, "lost", None, &Actor::Admin).await;
    let revoked = revoked.expect("revoked");
    assert_eq!((revoked.epoch.0, revoked.not_before_s), (1, world.now_s()));
    let events = world.watcher.take();
    assert!(
        matches!(events.as_slice(), [SessionsEnd::Principal { why: EndReason::Revoked, .. }]),
        "{events:?}"
    );
    assert_eq!(bearer(&world, &token, Audience::Bridge).await.expect_err("older"), Refusal::Revoked);
    assert_eq!(world.connect("sensor", &token).await.expect_err("older"), Refusal::Revoked);
    assert_eq!(world.connect("sensor", &jwt).await.expect_err("of this second"), Refusal::Revoked);
    assert_eq!(world.login(&assertion.sign()).await.expect_err("of this second"), Refusal::Revoked);
    world.login(&no_iat).await.expect("its one-time jti makes it fresh");
    world.clock.advance_s(1);
    world.connect("sensor", &device.connect_jwt(BRIDGE, world.now_s()).sign()).await.expect("newer");
    let token = world.token(&device, None).await;
    bearer(&world, &token, Audience::Bridge).await.expect("newer");
}

#[tokio::test]
async fn removing_the_key_that_logged_in_ends_its_tokens_and_sessions_alone() {
    let world = World::new().await;
    let (first, second) = (world.device("sensor").await, TestDevice::new("sensor"));
    let (admission, registry, name) = (&world.admission, &world.registry, &first.name);
    let remove = async || admission.remove_key(registry, name, &first.kid(), false, &Actor::Admin).await;
    assert_eq!(remove().await.expect_err("the last").word(), "last-key");
    admission
        .add_key(registry, name, second.public_key(), Some("spare".into()), &Actor::Admin)
        .await
        .expect("added");
    let (by_first, by_second) = (world.token(&first, None).await, world.token(&second, None).await);
    let by_label = second.assertion(ISSUER, world.now_s()).kid(Some("spare")).sign();
    world.login(&by_label).await.expect("a label may stand as `kid`");
    remove().await.expect("removed");
    let events = world.watcher.take();
    assert!(matches!(events.as_slice(), [SessionsEnd::Key { kid, .. }] if *kid == first.kid()), "{events:?}");
    assert_eq!(
        bearer(&world, &by_first, Audience::Bridge).await.expect_err("its key is gone"),
        Refusal::KeyGone
    );
    bearer(&world, &by_second, Audience::Bridge).await.expect("the other key stands");
    let again = admission.add_key(registry, name, first.public_key(), None, &Actor::Admin).await;
    assert_eq!(again.expect_err("retired keys stay retired").word(), "key-registered");
}

#[tokio::test]
async fn a_name_used_again_after_delete_is_another_principal() {
    let world = World::new().await;
    let device = world.device("sensor").await;
    let token = world.token(&device, None).await;
    world.admission.delete(&world.registry, &device.name, &Actor::Admin).await.expect("deleted");
    let events = world.watcher.take();
    assert!(
        matches!(events.as_slice(), [SessionsEnd::Principal { why: EndReason::Deleted, .. }]),
        "{events:?}"
    );
    assert_eq!(bearer(&world, &token, Audience::Bridge).await.expect_err("gone"), Refusal::KeyGone);
    // The same name, the same key, the same epoch: but another number.
    world.register(&device, false).await;
    assert_eq!(bearer(&world, &token, Audience::Bridge).await.expect_err("another uid"), Refusal::KeyGone);
    assert_eq!(world.connect("sensor", &token).await.expect_err("another uid"), Refusal::KeyGone);
    world.token(&device, None).await;
}

#[tokio::test]
async fn a_changed_policy_changes_rights_at_once_and_a_broken_one_changes_nothing() {
    let world = World::new().await;
    let device = world.device("sensor").await;
    let (admission, registry) = (&world.admission, &world.registry);
    let policy = PolicyName::parse("device").expect("a policy name");
    let can = async || {
        admission.can(registry, &device.name, Action::Publish, "devices/sensor/state").await.expect("asked")
    };
    assert!(can().await.allowed);
    let broken =
        admission.set_policy(registry, &policy, "[[allow]]\npublish = [\"a/#/b\"]", &Actor::Admin).await;
    assert_eq!(broken.expect_err("i13").word(), "policy-invalid");
    assert!(can().await.allowed, "nothing has changed");
    assert_eq!(world.watcher.take(), []);

    let session =
        world.connect("sensor", &device.connect_jwt(BRIDGE, world.now_s()).sign()).await.expect("in");
    admission.set_policy(registry, &policy, "", &Actor::Admin).await.expect("set");
    assert!(!can().await.allowed, "an empty policy allows nothing (I3)");
    assert!(!admission.still_good(&session));
    assert_eq!(session.policy.as_ref(), Some(&policy));
    let event = SessionsEnd::Policy { registry: registry.clone(), policy };
    assert_eq!(world.watcher.take(), [event]);

    let name = PolicyName::parse("wide").expect("a policy name");
    let attach = async |policy| admission.attach_policy(registry, &device.name, policy, &Actor::Admin).await;
    assert_eq!(attach(Some(name.clone())).await.expect_err("not there").word(), "policy-not-found");
    admission.set_policy(registry, &name, "[[allow]]\npublish = [\"#\"]", &Actor::Admin).await.expect("set");
    attach(Some(name)).await.expect("attached");
    let answer = can().await;
    assert!(answer.allowed && answer.text.contains("wide"), "{}", answer.text);
    assert!(answer.json.contains("\"allowed\":true"));
    attach(None).await.expect("detached");
    assert!(!can().await.allowed, "no policy allows nothing (I3)");
}

#[tokio::test]
async fn a_token_is_good_for_its_service_alone_and_the_admin_credential_for_the_api_alone() {
    let world = World::new().await;
    let device = world.device("sensor").await;
    let (bridge, api) = (world.token(&device, None).await, world.token(&device, Some(API)).await);
    for (token, audience, good) in [
        (&bridge, Audience::Bridge, true),
        (&bridge, Audience::SelfRead, true),
        (&bridge, Audience::Api, false),
        (&api, Audience::Bridge, false),
        (&api, Audience::SelfRead, true),
        (&api, Audience::Api, true),
    ] {
        let found = bearer(&world, token, audience).await;
        assert_eq!(found.is_ok(), good, "{audience:?}: {found:?}");
    }
    assert!(!world.admission.has_admin_token().await.expect("asked"), "i14: there is none by default");
    assert!(bearer(&world, "dba_", Audience::Api).await.is_err());
    let first = world.admission.create_admin_token(&Actor::Server).await.expect("made");
    assert!(matches!(bearer(&world, &first, Audience::Api).await, Ok(Caller::Admin)));
    for audience in [Audience::Bridge, Audience::SelfRead] {
        assert_eq!(bearer(&world, &first, audience).await.expect_err("not here").word(), "not-proven");
    }
    assert_eq!(world.connect("x", &first).await.expect_err("not at MQTT").word(), "not-proven");
    let second = world.admission.create_admin_token(&Actor::Admin).await.expect("made");
    assert_eq!(bearer(&world, &first, Audience::Api).await.expect_err("replaced").word(), "not-proven");
    assert!(matches!(bearer(&world, &second, Audience::Api).await, Ok(Caller::Admin)));
    for bad in ["dbo_AAAA", "eyJhbGciOiJub25lIn0.e30.", "x", &second[..40]] {
        assert!(bearer(&world, bad, Audience::Api).await.is_err(), "{bad}");
    }
}

#[tokio::test]
async fn i10_neither_debug_nor_refusals_show_a_token() {
    let world = World::new().await;
    let device = world.device("sensor").await;
    let assertion = device.assertion(ISSUER, world.now_s()).sign();
    let granted = world.login(&assertion).await.expect("in");
    assert!(!format!("{granted:?}").contains("eyJ"));
    let id = drawbridge_names::MqttClientId::parse("sensor").expect("a client id");
    let request = world::request(&id, Some(assertion.as_bytes()));
    assert!(!format!("{request:?}").contains("eyJ"));
    let replayed = world.login(&assertion).await.expect_err("used");
    assert!(!format!("{replayed:?} {replayed}").contains("eyJ"));
    let caller = bearer(&world, &granted.access_token, Audience::Bridge).await.expect("good");
    assert!(!format!("{caller:?}").contains("eyJ"));
}

/// A bridge with one session: what it installed, and whether it closed it.
#[derive(Default)]
struct Bridge(std::sync::Mutex<Option<Uid>>);

#[async_trait]
trait Install {
    async fn run(self: Arc<Self>, world: Arc<World>, jwt: String);
}

impl drawbridge_admission::Watcher for Bridge {
    fn ended(&self, event: &SessionsEnd) {
        let mut session = self.0.lock().expect("no panic");
        if matches!(event, SessionsEnd::Principal { uid, .. } if Some(*uid) == *session) {
            *session = None;
        }
    }
}

#[async_trait]
impl Install for Bridge {
    async fn run(self: Arc<Self>, world: Arc<World>, jwt: String) {
        if let Ok(connected) = world.connect("sensor", &jwt).await {
            tokio::task::yield_now().await;
            *self.0.lock().expect("no panic") = Some(connected.uid);
            if !world.admission.still_good(&connected) {
                *self.0.lock().expect("no panic") = None;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i6_a_block_that_races_a_connect_leaves_no_session() {
    for round in 0..200 {
        let world = Arc::new(World::new().await);
        let device = world.device("sensor").await;
        let bridge = Arc::new(Bridge::default());
        world.admission.watch(bridge.clone());
        let jwt = device.connect_jwt(BRIDGE, world.now_s()).sign();
        let connect = tokio::spawn(bridge.clone().run(world.clone(), jwt));
        let block = tokio::spawn({
            let (world, name) = (world.clone(), device.name.clone());
            async move {
                for _ in 0..round % 7 {
                    tokio::task::yield_now().await;
                }
                world.admission.block(&world.registry, &name, None, &Actor::Admin).await.expect("blocked");
            }
        });
        connect.await.expect("no panic");
        block.await.expect("no panic");
        assert_eq!(*bridge.0.lock().expect("no panic"), None, "round {round}");
    }
}

#[tokio::test]
async fn when_the_store_does_not_answer_nobody_gets_in_and_no_jti_is_lost() {
    let store = Arc::new(FlakyStore::default());
    let (clock, random) = (Arc::new(FakeClock::default()), Arc::new(SeededRandom::new(4)));
    let settings = AdmissionConfig::default();
    let admission =
        Admission::open(store.clone(), clock.clone(), random, sealer(), settings).await.expect("opened");
    let registry = RegistryName::default_registry();
    let new = drawbridge_admission::NewRegistry::named(registry.clone(), Some(ISSUER.into()));
    admission.create_registry(new, &Actor::Admin).await.expect("made");
    let device = TestDevice::new("sensor");
    let new = drawbridge_admission::NewDevice::with_key(device.name.clone(), device.public_key().clone());
    admission.add_device(&registry, new, &Actor::Admin).await.expect("registered");
    let login = async |assertion: &str| {
        let (client_id, scope, resource, peer) = (None, None, None, Peer::default());
        let request = drawbridge_admission::LoginRequest {
            client_id,
            scope,
            resource,
            ..LoginRequest::with_assertion(assertion, peer)
        };
        admission.login(&registry, request).await
    };
    let assertion = device.assertion(ISSUER, clock.now_s()).sign();
    // Once before the device is in memory, once when only its `jti` must be remembered.
    for _ in 0..2 {
        store.set_down(true);
        let refusal = login(&assertion).await.expect_err("down");
        assert!(matches!(refusal, Refusal::Unavailable(_)) && refusal.is_temporary(), "{refusal}");
        assert_eq!((refusal.word(), refusal.reason()), ("temporarily-unavailable", "store"));
        assert_eq!(refusal.for_owner(), None);
        let blocked = admission.block(&registry, &device.name, None, &Actor::Admin).await;
        assert_eq!(blocked.expect_err("down").code(), "DB-5001");
        store.set_down(false);
        login(&device.assertion(ISSUER, clock.now_s()).sign()).await.expect("up");
    }
    login(&assertion).await.expect("its jti was not used up");
}

#[tokio::test]
async fn an_operator_is_answered_with_what_is_wrong() {
    let world = World::new().await;
    let device = world.device("sensor").await;
    let (admission, registry, admin) = (&world.admission, &world.registry, Actor::Admin);
    let nobody = PrincipalName::parse("nobody").expect("a name");
    let nowhere = RegistryName::parse("nowhere").expect("a name");
    let again = |name: &str| {
        drawbridge_admission::NewDevice::with_key(
            PrincipalName::parse(name).expect("a name"),
            device.public_key().clone(),
        )
    };
    let taken = TestDevice::new("sensor");
    let taken = drawbridge_admission::NewDevice::with_key(taken.name.clone(), taken.public_key().clone());
    let word = |result: Result<_, drawbridge_admission::AdmissionError>| {
        result.map(|_: ()| ()).expect_err("refused").word()
    };
    assert_eq!(word(admission.add_device(registry, taken, &admin).await.map(drop)), "name-taken");
    assert_eq!(word(admission.add_device(registry, again("twin"), &admin).await.map(drop)), "key-registered");
    assert_eq!(
        word(admission.add_device(&nowhere, again("x"), &admin).await.map(drop)),
        "registry-not-found"
    );
    assert_eq!(word(admission.block(registry, &nobody, None, &admin).await.map(drop)), "principal-not-found");
    assert_eq!(word(admission.block(registry, &device.name, Some(77), &admin).await.map(drop)), "stale");
    assert_eq!(word(admission.delete(registry, &nobody, &admin).await), "principal-not-found");
    let label = Some("\u{7}".to_owned());
    let key = TestDevice::new("k");
    let added = admission.add_key(registry, &device.name, key.public_key(), label, &admin).await;
    assert_eq!(word(added.map(drop)), "key-label");
    assert_eq!(
        word(admission.can(registry, &device.name, Action::Publish, "a/#").await.map(drop)),
        "topic-invalid"
    );
    let topic = TopicName::parse("devices/sensor/state").expect("a topic");
    assert!(admission.rights_of(registry, &device.name).await.expect("there").may_publish(topic).allowed);
    let listed = admission.list(registry, None, None, 10).await.expect("listed");
    assert_eq!(listed.iter().map(|known| known.principal.name.as_str()).collect::<Vec<_>>(), ["sensor"]);
}
