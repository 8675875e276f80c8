//! `POST /v1/self/sessions:refresh` as it looks over HTTP: who may, what it asks of the sessions, and what it answers. That a
//! session over a socket gets its new end is proven with the server itself (`drawbridge/tests/e2e/refresh.rs`).

use std::sync::{Arc, Mutex};

use drawbridge_admission::{Connected, Refreshed, Refreshing, SessionsEnd, Watcher};
use drawbridge_identity::Refusal;
use drawbridge_names::{MqttClientId, RegistryName, TopicFilter, Uid};
use drawbridge_testkit::TestDevice;
use serde_json::{Value, json};

use crate::world::{Answer, Ask, ISSUER, World, login_form, registry};

const PATHS: [&str; 2] = ["/v1/self/sessions:refresh", "/session/refresh"];

/// The sessions of whoever asks, and what was done with them: client id, whether proven, its end.
#[derive(Default)]
struct Sessions {
    open: Mutex<Vec<MqttClientId>>,
    given: Mutex<Vec<(String, bool, Option<u64>)>>,
    lost: Mutex<Refreshed>,
    refuses: Mutex<bool>,
}

impl Watcher for Sessions {
    fn ended(&self, _: &SessionsEnd) {}

    fn client_ids(&self, _: &RegistryName, _: Uid) -> Vec<MqttClientId> {
        self.open.lock().expect("not poisoned").clone()
    }

    fn refresh(&self, connected: Box<Connected>) -> Refreshing {
        let refused = *self.refuses.lock().expect("not poisoned");
        if !refused {
            let given = (connected.client_id.to_string(), connected.proven, connected.ends_ms);
            self.given.lock().expect("not poisoned").push(given);
        }
        let lost = self.lost.lock().expect("not poisoned").clone();
        Box::pin(async move {
            if refused {
                Err(Refusal::Renewal("the session was renewed a moment ago".to_owned()))
            } else {
                Ok(lost)
            }
        })
    }
}

impl Sessions {
    fn of(world: &World, client_ids: &[&str]) -> Arc<Self> {
        let sessions = Arc::new(Self::default());
        let ids = client_ids.iter().map(|id| MqttClientId::parse(id).expect("a client id"));
        sessions.open.lock().expect("not poisoned").extend(ids);
        world.admission.watch(Arc::clone(&sessions) as Arc<dyn Watcher>);
        sessions
    }

    fn given(&self) -> Vec<(String, bool, Option<u64>)> {
        std::mem::take(&mut self.given.lock().expect("not poisoned"))
    }
}

/// A token for the bridge.
async fn token(world: &World, device: &TestDevice) -> String {
    let assertion = device.assertion(ISSUER, world.clock.now_s()).sign();
    let answer = world.send(Ask::post("/oauth/token").form(&login_form(&assertion))).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()["access_token"].as_str().expect("a token").to_owned()
}

fn renewed(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()
}

#[tokio::test]
async fn every_open_session_of_the_caller_or_the_one_that_is_named_gets_the_right_of_the_token() {
    let world = World::new().await;
    let device = world.device("lamp").await;
    let bearer = token(&world, &device).await;
    for path in PATHS {
        let ask = || Ask::post(path).bearer(&bearer);
        assert_eq!(
            renewed(&world.send(ask()).await),
            json!({ "renewed": 0, "sessions": [] }),
            "none is open"
        );
    }
    let sessions = Sessions::of(&world, &["lamp", "lamp:2"]);
    let ends_ms = (world.clock.now_s() + 3_600) * 1_000;
    for path in PATHS {
        let answer = renewed(&world.send(Ask::post(path).bearer(&bearer)).await);
        assert_eq!(answer["renewed"], 2, "{answer}");
        let both = ["lamp", "lamp:2"].map(|id| (id.to_owned(), false, Some(ends_ms)));
        assert_eq!(sessions.given(), both);
        for (at, id) in ["lamp", "lamp:2"].into_iter().enumerate() {
            let session = &answer["sessions"][at];
            assert_eq!(session["client_id"], id);
            assert_eq!((&session["removed"], &session["will_dropped"]), (&json!([]), &json!(false)));
            assert!(session["expires"].as_str().is_some_and(|text| text.ends_with('Z')), "{answer}");
        }
    }
    *sessions.lost.lock().expect("not poisoned") =
        Refreshed { removed: vec![TopicFilter::parse("a/#").expect("a filter")], will_dropped: true };
    let one = Ask::post(PATHS[0]).bearer(&bearer).json(&json!({ "client_id": "lamp:2" }));
    let answer = renewed(&world.send(one).await);
    assert_eq!((&answer["renewed"], sessions.given().len()), (&json!(1), 1));
    let session = &answer["sessions"][0];
    assert_eq!(
        (&session["client_id"], &session["removed"], &session["will_dropped"]),
        (&json!("lamp:2"), &json!(["a/#"]), &json!(true))
    );
    let nobody = Ask::post(PATHS[0]).bearer(&bearer).json(&json!({ "client_id": "lamp:3" }));
    assert_eq!(renewed(&world.send(nobody).await)["renewed"], 0);
    // What no session took is a refusal.
    *sessions.refuses.lock().expect("not poisoned") = true;
    let answer = world.send(Ask::post(PATHS[0]).bearer(&bearer)).await;
    assert_eq!((answer.status, &*answer.word()), (403, "renewal"), "{}", answer.text);
}

#[tokio::test]
async fn a_bound_token_renews_with_its_proof_for_the_path_that_is_asked_and_proves_the_session() {
    let world = World::new().await;
    let (device, holder) = (world.device("lamp").await, TestDevice::new("holder"));
    let sessions = Sessions::of(&world, &["lamp"]);
    // Longer than a proof of an earlier process could be good.
    world.clock.advance_s(200);
    let now_s = world.clock.now_s();
    let login = holder.dpop("POST", "https://id.example/oauth/token", now_s).sign();
    let assertion = device.assertion(ISSUER, now_s).sign();
    let ask = Ask::post("/oauth/token").form(&login_form(&assertion)).header("DPoP", &login);
    let answer = world.send(ask).await;
    let bound = answer.json()["access_token"].as_str().expect("a token").to_owned();
    let url = |path: &str| format!("https://id.example{path}");
    let with = |path: &str, proof: &str| {
        Ask::post(path).header("Authorization", &format!("DPoP {bound}")).header("DPoP", proof)
    };
    for (path, other) in [(PATHS[0], PATHS[1]), (PATHS[1], PATHS[0])] {
        let proof = || holder.dpop("POST", &url(path), now_s).for_token(&bound);
        let elsewhere = holder.dpop("POST", &url(other), now_s).for_token(&bound).sign();
        let stranger = TestDevice::new("x").dpop("POST", &url(path), now_s).for_token(&bound).sign();
        let good = proof().sign();
        for (case, ask, word) in [
            ("as Bearer", Ask::post(path).bearer(&bound), "token-binding"),
            ("for the other path", with(path, &elsewhere), "invalid-dpop-proof"),
            ("by another key", with(path, &stranger), "token-binding"),
        ] {
            let answer = world.send(ask).await;
            assert_eq!((answer.status, &*answer.word()), (401, word), "{path}, {case}: {}", answer.text);
        }
        assert_eq!(sessions.given(), [], "{path}");
        assert_eq!(renewed(&world.send(with(path, &good)).await)["renewed"], 1);
        let given = sessions.given();
        assert!(given.iter().all(|(_, proven, _)| *proven) && given.len() == 1, "{given:?}");
        let again = world.send(with(path, &good)).await;
        assert_eq!((again.status, &*again.word()), (401, "invalid-dpop-proof"), "{}", again.text);
    }
}

#[tokio::test]
async fn what_is_no_token_of_the_bridge_or_no_request_of_this_kind_reaches_no_session() {
    let world = World::new().await;
    let device = world.device("lamp").await;
    let sessions = Sessions::of(&world, &["lamp"]);
    let good = token(&world, &device).await;
    let api = world.token(&device, Some("https://id.example/v1"), "self:read").await;
    let own = device.assertion(ISSUER, world.clock.now_s()).sign();
    let refresh = || Ask::post(PATHS[0]);
    for (case, ask, status, word) in [
        ("nothing", refresh(), 401, "no-credential"),
        ("no token", refresh().bearer("x"), 401, "jws-format"),
        ("the admin credential", refresh().bearer(&world.admin), 401, "not-proven"),
        ("an assertion", refresh().bearer(&own), 401, "token-type"),
        ("a token for the API", refresh().bearer(&api), 401, "other-service"),
        ("another kind of body", refresh().bearer(&good).body("text/plain", "lamp"), 415, "media-type"),
        ("an array", refresh().bearer(&good).json(&json!(["lamp"])), 400, "bad-request"),
        ("an unknown member", refresh().bearer(&good).json(&json!({ "client": "lamp" })), 400, "bad-request"),
        (
            "no client id",
            refresh().bearer(&good).json(&json!({ "client_id": "a\u{0}b" })),
            400,
            "bad-request",
        ),
        (
            "a long body",
            refresh().bearer(&good).body("application/json", vec![b' '; 70_000]),
            413,
            "body-too-long",
        ),
        ("GET", Ask::get(PATHS[0]).bearer(&good), 405, "method-not-allowed"),
    ] {
        let answer = world.send(ask).await;
        assert_eq!((answer.status, &*answer.word()), (status, word), "{case}: {}", answer.text);
    }
    // Over, revoked, and its owner blocked.
    let name = device.name.clone();
    let admin = drawbridge_admission::Actor::Admin;
    world.admission.block(&registry(), &name, None, &admin).await.expect("blocked");
    let answer = world.send(refresh().bearer(&good)).await;
    assert_eq!((answer.status, &*answer.word()), (403, "blocked"), "{}", answer.text);
    world.admission.unblock(&registry(), &name, None, &admin).await.expect("unblocked");
    world.clock.advance_s(4_000);
    let answer = world.send(refresh().bearer(&good)).await;
    assert_eq!((answer.status, &*answer.word()), (401, "time"), "{}", answer.text);
    assert_eq!(sessions.given(), []);
}
