//! Many devices at once, gateways, and certificate authorities.

use std::sync::Arc;
use std::time::Instant;

use drawbridge_admission::{Actor, AdmissionConfig, SessionsEnd};
use drawbridge_http::HttpConfig;
use drawbridge_jose::{Algorithm, SigningKey};
use drawbridge_registry::{PrincipalSettings, Role};
use drawbridge_registry_sqlite::SqliteStore;
use drawbridge_testkit::{RecordingWatcher, TestDevice};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::world::{Answer, Ask, World, name, registry};

const NDJSON: &str = "application/x-ndjson";

fn key(key: &SigningKey) -> Value {
    let jwk: Value = serde_json::from_str(&key.public_key().to_jwk_json()).expect("a JWK");
    json!({ "jwk": jwk })
}

fn line(id: &str) -> Value {
    json!({ "id": id, "keys": [key(&SigningKey::generate(Algorithm::EdDsa).expect("a key"))] })
}

fn lines(values: &[Value]) -> String {
    values.iter().map(|value| format!("{value}\n")).collect()
}

/// The answer lines of an import; chunked coding taken off.
fn told(answer: &Answer) -> Vec<Value> {
    answer
        .text
        .lines()
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(line).expect(line))
        .collect()
}

impl World {
    async fn import(&self, query: &str, body: &str) -> Vec<Value> {
        let ask = Ask::post(&format!("/v1/devices:import{query}")).body(NDJSON, body);
        let answer = self.admin(ask).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        told(&answer)
    }
}

#[tokio::test]
async fn an_import_adds_what_is_good_names_what_is_not_and_run_again_changes_nothing() {
    let world = World::new().await;
    let taken = world.device("taken").await;
    world.application("app", None).await;
    let mut private = key(&SigningKey::generate(Algorithm::Es256).expect("a key"));
    private["jwk"]["d"] = json!("c2VjcmV0");
    let shared = line("first");
    let mut same_key = shared.clone();
    same_key["id"] = json!("second");
    let pem = SigningKey::generate(Algorithm::Es256).expect("a key").public_key().to_pem();
    let full = json!({
        "id": "full", "policy": "device", "attributes": { "site": "north" }, "legacy_assertions": true,
        "clock": "none", "gateway": true,
        "keys": [{ "pem": pem, "label": "factory", "not_before": "2026-01-01T00:00:00Z", "expires": "2030-01-01T00:00:00Z" }],
    });
    let table: Vec<(String, Option<&str>)> = vec![
        (shared.to_string(), None),
        (full.to_string(), None),
        (String::new(), None),
        (json!({ "id": "keyless" }).to_string(), None),
        (line("lamp+1").to_string(), Some("DB-4207")),
        (line("a/b").to_string(), Some("DB-4207")),
        (line("taken").to_string(), Some("DB-4003")),
        (line("app").to_string(), Some("DB-4003")),
        (same_key.to_string(), Some("DB-1024")),
        (line("first").to_string(), Some("DB-4003")),
        (json!({ "id": "x", "keys": [private] }).to_string(), Some("DB-1022")),
        (json!({ "id": "x", "keys": [{}] }).to_string(), Some("DB-4206")),
        (json!({ "id": "x", "policy": "nosuch" }).to_string(), Some("DB-4009")),
        (json!({ "id": "x", "clock": "atomic" }).to_string(), Some("DB-4227")),
        (json!({ "id": "x", "unknown": 1 }).to_string(), Some("DB-4227")),
        (r#"{"id":"x","id":"y"}"#.to_owned(), Some("DB-4227")),
        ("not JSON".to_owned(), Some("DB-4227")),
        (format!("{{\"id\":\"{}\"}}", "x".repeat(70_000)), Some("DB-4227")),
        (json!({ "id": "x", "attributes": { "a": 1 } }).to_string(), Some("DB-4227")),
        (shared.to_string(), None),
    ];
    let body: String = table.iter().map(|(line, _)| format!("{line}\r\n")).collect();
    let said = world.import("", &body).await;
    let faults: Vec<(u64, &str)> =
        said.iter().filter_map(|told| Some((told["line"].as_u64()?, told["error"].as_str()?))).collect();
    let mut wanted: Vec<(u64, &str)> =
        table.iter().zip(1..).filter_map(|((_, code), line)| Some((line, (*code)?))).collect();
    let mut sorted = faults.clone();
    sorted.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(sorted, wanted);
    let text = said.iter().map(ToString::to_string).collect::<String>();
    assert!(!text.contains("c2VjcmV0"), "a private key is not repeated");
    let last = said.last().expect("a last line");
    assert_eq!(*last, json!({ "line": 20, "added": 3, "exists": 1, "errors": 15, "done": true }));

    let shown = world.admin(Ask::get("/v1/devices/full")).await.json();
    assert_eq!(
        (&shown["attributes"]["site"], &shown["assertion_profile"]),
        (&json!("north"), &json!("legacy"))
    );
    assert_eq!(
        (&shown["keys"][0]["label"], &shown["keys"][0]["expires"]),
        (&json!("factory"), &json!("2030-01-01T00:00:00Z"))
    );
    let again = world.import("", &body).await;
    assert_eq!(again.last().expect("a line")["added"], 0);
    assert_eq!(again.last().expect("a line")["exists"], 4);
    assert!(!world.token(&taken, None, "").await.is_empty(), "who was there is as before");

    let rows = world.admin(Ask::get("/v1/audit?limit=50")).await.json();
    let rows: Vec<&Value> = rows["items"]
        .as_array()
        .expect("rows")
        .iter()
        .filter(|row| row["action"] == "device.import")
        .collect();
    assert_eq!(rows.len(), 1, "one row for a batch, none for one that added nothing");
    let detail = &rows[0]["detail"];
    let detail: Value =
        detail.as_str().map_or_else(|| detail.clone(), |text| serde_json::from_str(text).expect("JSON"));
    assert_eq!(
        (&detail["first"], &detail["last"], &detail["first_line"]),
        (&json!("first"), &json!("first"), &json!(1))
    );
    assert_eq!(detail["sha256"].as_str().map(str::len), Some(64));
}

#[tokio::test]
async fn an_import_is_judged_before_its_body_and_counts_lines_as_it_is_told() {
    let world = World::new().await;
    for (query, kind, status) in
        [("", "application/json", 415), ("?from_line=0", NDJSON, 400), ("?first_line=x", NDJSON, 400)]
    {
        let ask = Ask::post(&format!("/v1/devices:import{query}")).body(kind, "");
        assert_eq!(world.admin(ask).await.status, status, "{query} {kind}");
    }
    assert_eq!(world.send(Ask::post("/v1/devices:import").body(NDJSON, "")).await.status, 401);
    let body = lines(&[line("a"), line("b"), line("c"), json!({ "id": "+" })]);
    let part = world.import("?first_line=101", &body).await;
    assert_eq!(part[0]["line"], 104, "a fault has the number of the whole file");
    let rest = world.import("?from_line=3", &lines(&[line("x"), line("y"), line("z")])).await;
    assert_eq!(
        *rest.last().expect("a line"),
        json!({ "line": 3, "added": 1, "exists": 0, "errors": 0, "done": true })
    );
    assert_eq!(world.admin(Ask::get("/v1/devices/x")).await.status, 404);
    let empty = world.import("", "").await;
    assert_eq!(empty, [json!({ "line": 0, "added": 0, "exists": 0, "errors": 0, "done": true })]);
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_whole_batches_behind() {
    let world = World::new().await;
    let all: Vec<Value> = (0..700).map(|n| line(&format!("d{n:04}"))).collect();
    let body = lines(&all);
    let mut stream = world.connect().await;
    let head = format!(
        "POST /v1/devices:import HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Type: {NDJSON}\r\nContent-Length: {}\r\n\r\n",
        world.admin,
        body.len() + 1000
    );
    stream.write_all(head.as_bytes()).await.expect("written");
    stream.write_all(body.as_bytes()).await.expect("written");
    let mut answer = Vec::new();
    // Progress comes while the body is open.
    while !String::from_utf8_lossy(&answer).contains("\"added\":500") {
        let mut piece = [0; 4096];
        let read = stream.read(&mut piece).await.expect("an answer");
        assert!(read > 0, "{}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&piece[..read]);
    }
    drop(stream);
    let again = world.import("", &body).await;
    let last = again.last().expect("a line");
    assert_eq!(
        (last["added"].as_u64(), last["exists"].as_u64(), last["errors"].as_u64()),
        (Some(200), Some(500), Some(0)),
        "the first batch was done, the second had not begun"
    );
}

#[tokio::test]
async fn an_import_ends_with_the_rights_of_who_began_it() {
    let world = World::new().await;
    let ops = world.application("ops", None).await;
    let settings =
        |roles: &[Role]| PrincipalSettings { roles: roles.iter().copied().collect(), ..Default::default() };
    let set = async |roles: &[Role]| {
        let of = name("ops");
        world
            .admission
            .set_settings(&registry(), &of, settings(roles), None, &Actor::Admin)
            .await
            .expect("set");
    };
    set(&[Role::Operator]).await;
    let token = world.token(&ops, Some("https://id.example/v1"), "").await;
    let body = lines(&(0..1_000).map(|n| json!({ "id": format!("d{n:04}") })).collect::<Vec<_>>());
    let (first, second) = body.split_at(body.len() / 2 + 200);
    let mut stream = world.connect().await;
    let head = format!(
        "POST /v1/devices:import HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {token}\r\nContent-Type: {NDJSON}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.expect("written");
    stream.write_all(first.as_bytes()).await.expect("written");
    let mut answer = Vec::new();
    while !String::from_utf8_lossy(&answer).contains("\"added\":500") {
        let mut piece = [0; 4096];
        let read = stream.read(&mut piece).await.expect("an answer");
        assert!(read > 0, "{}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&piece[..read]);
    }
    set(&[Role::Viewer]).await;
    stream.write_all(second.as_bytes()).await.expect("written");
    stream.read_to_end(&mut answer).await.expect("the rest");
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let last = answer.lines().rfind(|line| line.starts_with('{')).expect("a last line");
    let last: Value = serde_json::from_str(last).expect("JSON");
    assert_eq!(
        (&last["done"], &last["error"], &last["added"]),
        (&json!(false), &json!("DB-1041"), &json!(500))
    );
    assert_eq!(world.admin(Ask::get("/v1/devices/d0999")).await.status, 404);
}

#[tokio::test]
async fn a_fleet_of_thousands_is_imported_in_one_stream() {
    const COUNT: usize = 2_000;
    let folder = tempfile::tempdir().expect("a folder");
    let store = SqliteStore::open(&folder.path().join("registry.sqlite")).expect("opens");
    let world = World::with(Arc::new(store), HttpConfig::default(), AdmissionConfig::default()).await;
    let body = lines(&(0..COUNT).map(|n| line(&format!("pump-{n:05}"))).collect::<Vec<_>>());
    #[expect(clippy::disallowed_methods, reason = "a figure for whoever reads the output, asserted nowhere")]
    let begun = Instant::now();
    let said = world.import("", &body).await;
    eprintln!("{COUNT} devices imported in {:?}", begun.elapsed());
    assert_eq!(said.len(), COUNT / 500 + 1, "progress after each batch, and the end");
    assert_eq!(said.last().expect("a line")["added"], COUNT);
    let rows = world.admin(Ask::get("/v1/audit?limit=50")).await.json();
    let imports =
        rows["items"].as_array().expect("rows").iter().filter(|row| row["action"] == "device.import");
    assert_eq!(imports.count(), COUNT / 500);
}

#[tokio::test]
async fn a_gateway_is_linked_to_devices_and_unlinked_again() {
    let world = World::new().await;
    for device in ["gw", "lamp", "door"] {
        world.device(device).await;
    }
    world.application("hub", None).await;
    let watcher = Arc::new(RecordingWatcher::default());
    world.admission.watch(watcher.clone());
    let put = async |path: &str| world.admin(Ask::new("PUT", path)).await;
    for (path, status, word) in [
        ("/v1/gateways/gw/devices/lamp", 409, "gateway-state"),
        ("/v1/gateways/ghost/devices/lamp", 404, "principal-not-found"),
    ] {
        let refused = put(path).await;
        assert_eq!((refused.status, refused.word().as_str()), (status, word), "{path}: {}", refused.text);
    }
    let set = async |gateway: bool| {
        for of in ["gw", "hub"] {
            let settings = PrincipalSettings { gateway, ..Default::default() };
            world
                .admission
                .set_settings(&registry(), &name(of), settings, None, &Actor::Admin)
                .await
                .expect(of);
        }
    };
    set(true).await;
    for (path, status) in [
        ("/v1/gateways/gw/devices/lamp", 201),
        ("/v1/gateways/gw/devices/lamp", 200),
        ("/v1/gateways/gw/devices/door", 201),
        ("/v1/gateways/hub/devices/lamp", 201),
        ("/v1/gateways/gw/devices/gw", 409),
        ("/v1/gateways/gw/devices/hub", 409),
        ("/v1/gateways/gw/devices/ghost", 404),
        ("/v1/gateways/gw/devices/a+b", 422),
    ] {
        let answer = put(path).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.text);
    }
    let names = async |path: &str| -> Vec<String> {
        let answer = world.admin(Ask::get(path)).await.json();
        let items = answer["items"].as_array().expect("items").clone();
        items.iter().map(|item| item["name"].as_str().expect("a name").to_owned()).collect()
    };
    assert_eq!(names("/v1/gateways/gw/devices").await, ["door", "lamp"]);
    assert_eq!(names("/v1/devices/lamp/gateways").await, ["gw", "hub"]);
    let page = world.admin(Ask::get("/v1/gateways/gw/devices?limit=1")).await.json();
    let cursor = page["next_cursor"].as_str().expect("more").to_owned();
    assert_eq!(names(&format!("/v1/gateways/gw/devices?limit=1&cursor={cursor}")).await, ["lamp"]);

    let gone = world.admin(Ask::new("DELETE", "/v1/gateways/gw/devices/lamp")).await;
    assert_eq!(gone.status, 204);
    let gone = world.admin(Ask::new("DELETE", "/v1/gateways/gw/devices/lamp")).await;
    assert_eq!((gone.status, gone.word().as_str()), (404, "not-found"));
    let links = || watcher.take().iter().filter(|event| matches!(event, SessionsEnd::Link { .. })).count();
    assert_eq!(links(), 1, "what the gateway had opened for the lamp ends");
    set(false).await;
    assert_eq!(links(), 2, "and all that gateways had opened that are none any more");
    let deleted = world.admin(Ask::new("DELETE", "/v1/devices/door")).await;
    assert_eq!(deleted.status, 204);
    assert_eq!(names("/v1/gateways/gw/devices").await, Vec::<String>::new());
}

/// A self-signed certificate: PEM and DER.
fn certificate(is_ca: bool, years: std::ops::Range<i32>) -> (String, Vec<u8>) {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.distinguished_name.push(DnType::CommonName, "Plant CA");
    params.is_ca = if is_ca { IsCa::Ca(BasicConstraints::Unconstrained) } else { IsCa::ExplicitNoCa };
    params.not_before = rcgen::date_time_ymd(years.start, 1, 1);
    params.not_after = rcgen::date_time_ymd(years.end, 1, 1);
    let certificate = params.self_signed(&KeyPair::generate().expect("a key")).expect("a certificate");
    (certificate.pem(), certificate.der().to_vec())
}

#[tokio::test]
async fn the_cas_of_a_registry_are_added_listed_and_removed() {
    let world = World::new().await;
    let (pem, _) = certificate(true, 2020..2040);
    let add = async |text: &str| {
        world.admin(Ask::post("/v1/cas").json(&json!({ "certificate": text, "label": "plant" }))).await
    };
    let made = add(&pem).await;
    assert_eq!(made.status, 201, "{}", made.text);
    assert_eq!(
        (&made.json()["subject"], &made.json()["not_after"]),
        (&json!("CN=Plant CA"), &json!("2040-01-01T00:00:00Z"))
    );
    assert_eq!(add(&pem).await.status, 200, "once more is the same");
    let (leaf, _) = certificate(false, 2020..2040);
    let (old, _) = certificate(true, 2010..2020);
    for (what, text) in [
        ("no CA", leaf.as_str()),
        ("its time is over", old.as_str()),
        ("nothing", ""),
        ("no certificate", "AAAA"),
        ("a key", &TestDevice::new("x").public_key().to_pem()),
        ("two of them", &format!("{pem}{pem}")),
    ] {
        let refused = add(text).await;
        assert_eq!(
            (refused.status, refused.word().as_str()),
            (422, "ca-invalid"),
            "{what}: {}",
            refused.text
        );
    }
    let listed = world.admin(Ask::get("/v1/cas")).await.json();
    let fingerprint = listed["items"][0]["fingerprint"].as_str().expect("a fingerprint").to_owned();
    assert_eq!((listed["items"].as_array().map(Vec::len), fingerprint.len()), (Some(1), 64));
    let remove = async |text: &str| world.admin(Ask::new("DELETE", &format!("/v1/cas/{text}"))).await.status;
    assert_eq!(remove("zz").await, 400);
    assert_eq!(remove(&"ä".repeat(32)).await, 400);
    assert_eq!(remove(&fingerprint).await, 204);
    assert_eq!(remove(&fingerprint).await, 404);
}
