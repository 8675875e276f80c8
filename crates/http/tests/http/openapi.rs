//! The OpenAPI document says what the router does.

use std::collections::BTreeSet;

use drawbridge_admission::{Actor, NewRegistry};
use drawbridge_names::RegistryName;
use serde_json::{Value, json};

use crate::roles::routes_of_the_source;
use crate::world::{Ask, World};

async fn document(world: &World) -> Value {
    let answer = world.send(Ask::get("/openapi.json")).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    assert_eq!(answer.header("cache-control"), Some("public, max-age=300"));
    answer.json()
}

fn operations(document: &Value) -> Vec<(String, String, &Value)> {
    let paths = document["paths"].as_object().expect("paths");
    let methods = paths.iter().flat_map(|(path, methods)| {
        let methods = methods.as_object().expect("methods").iter();
        methods.map(|(method, operation)| (method.to_uppercase(), path.clone(), operation))
    });
    methods.collect()
}

#[tokio::test]
async fn every_route_has_an_operation_and_every_operation_a_route() {
    let world = World::new().await;
    let document = document(&world).await;
    let routes = routes_of_the_source();
    let described: BTreeSet<_> =
        operations(&document).into_iter().map(|(method, path, _)| (method, path)).collect();
    let missing: Vec<_> = routes.difference(&described).collect();
    let gone: Vec<_> = described.difference(&routes).collect();
    assert!(missing.is_empty() && gone.is_empty(), "describe {missing:?}, take out {gone:?}");
}

#[tokio::test]
async fn operations_have_ids_of_their_own_and_every_reference_leads_somewhere() {
    let world = World::new().await;
    let document = document(&world).await;
    let operations = operations(&document);
    let ids: BTreeSet<_> =
        operations.iter().filter_map(|(.., value)| value["operationId"].as_str()).collect();
    assert_eq!(ids.len(), operations.len(), "an operationId twice");
    let mut used = BTreeSet::new();
    references(&document, &mut used);
    for reference in &used {
        let pointer = reference.strip_prefix('#').expect("a reference within the document");
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
    for part in ["schemas", "headers", "responses"] {
        for name in document["components"][part].as_object().expect(part).keys() {
            let reference = format!("#/components/{part}/{name}");
            // Told in words, for a body that is lines.
            assert!(used.contains(&reference) || name == "ImportLine", "{reference} is used nowhere");
        }
    }
    for (method, path, operation) in &operations {
        let tag = operation["tags"][0].as_str().expect("a tag");
        let tags = document["tags"].as_array().expect("tags");
        assert!(tags.iter().any(|known| known["name"] == tag), "{method} {path}: {tag}");
        for scheme in operation["security"].as_array().expect("security").iter().filter_map(Value::as_object)
        {
            for name in scheme.keys() {
                assert!(
                    document["components"]["securitySchemes"].get(name).is_some(),
                    "{method} {path}: {name}"
                );
            }
        }
        let statuses: Vec<_> = operation["responses"].as_object().expect("responses").keys().collect();
        assert!(statuses.iter().any(|status| status.starts_with('2')), "{method} {path}: {statuses:?}");
    }
}

fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            found.extend(members.get("$ref").and_then(Value::as_str).map(str::to_owned));
            members.values().for_each(|member| references(member, found));
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

#[tokio::test]
async fn the_server_of_the_document_is_the_issuer_of_its_registry_whatever_host_was_asked() {
    let world = World::new().await;
    let plant = NewRegistry::named(RegistryName::parse("plant").expect("plant"), None);
    let (plant, _) = world.admission.create_registry(plant, &Actor::Admin).await.expect("plant");
    // The client sends `Host: evil.example`.
    let text = world.send(Ask::get("/openapi.json")).await.text;
    assert!(!text.contains("evil"));
    assert_eq!(document(&world).await["servers"][0]["url"], "https://id.example");
    let of_plant = world.send(Ask::get("/r/plant/openapi.json")).await.json();
    assert_eq!(of_plant["servers"][0]["url"], plant.issuer.as_str());
}

#[tokio::test]
async fn what_the_document_has_no_word_for_is_refused() {
    let world = World::new().await;
    world.device("lamp").await;
    let import = Ask::post("/v1/devices:import?from_line=x").header("import-from-line", "1");
    let table = [
        ("an array for an object", Ask::post("/v1/devices").json(&json!(["ghost"]))),
        (
            "one inside",
            Ask::post("/v1/devices").json(&json!({ "name": "ghost", "keys": [[null, null, null]] })),
        ),
        ("and another", Ask::post("/v1/registries").json(&json!({ "name": "plant", "google": ["a", "b"] }))),
        ("keys of a registration", {
            let body = json!({ "client_id_hint": "ghost", "jwks": [[]], "software_statement": "x" });
            Ask::post("/oauth/register").json(&body)
        }),
        ("a reason", Ask::post("/v1/devices/lamp/revoke").json(&json!(["stolen"]))),
        (
            "a condition",
            Ask::new("PUT", "/v1/devices/ghost").header("if-none-match", "\"1\"").json(&json!({})),
        ),
        (
            "no time to wait",
            Ask::post("/v1/devices/lamp/commands").json(&json!({ "text": "on", "wait_s": 0 })),
        ),
        ("a line in the query beside one in a header", import.body("application/x-ndjson", "")),
        ("a path that is no text", Ask::get("/v1/registries/%FF")),
    ];
    for (what, ask) in table {
        let answer = world.admin(ask).await;
        assert_eq!(answer.status, 400, "{what}: {}", answer.text);
        assert!(answer.header("content-type").is_some_and(|kind| kind.contains("json")), "{what}");
    }
    assert_eq!(world.admin(Ask::get("/v1/devices/ghost")).await.status, 404);
}
