//! The OpenAPI document says what the router does.

use std::collections::BTreeSet;

use drawbridge_admission::{Actor, NewRegistry};
use drawbridge_names::RegistryName;
use serde_json::{Value, json};

use crate::roles::routes_of_the_source;
use crate::world::{Answer, Ask, World};

/// Whatever the tests of this crate ask, the answer is one that the document describes: its status, its media
/// type, its headers, and of JSON every member. Not looked at: paths and methods that are not served.
pub(crate) async fn conforms(method: &str, path: &str, answer: &Answer) {
    static DOCUMENT: tokio::sync::OnceCell<Value> = tokio::sync::OnceCell::const_new();
    let document = DOCUMENT
        .get_or_init(|| async {
            let request = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
            World::new().await.send_raw(request).await.json()
        })
        .await;
    let path = path.split('?').next().unwrap_or_default();
    let path = path.strip_prefix("/r/").and_then(|rest| rest.find('/').map(|at| &rest[at..])).unwrap_or(path);
    let paths = document["paths"].as_object().expect("paths");
    let is_it = |template: &str| {
        let (parts, found): (Vec<_>, Vec<_>) = (template.split('/').collect(), path.split('/').collect());
        let same =
            |(part, found): (&&str, &&str)| part == found || (part.starts_with('{') && !found.is_empty());
        parts.len() == found.len() && parts.iter().zip(&found).all(same)
    };
    let Some((template, methods)) = paths.iter().find(|(template, _)| is_it(template)) else { return };
    let Some(operation) = methods.get(method.to_lowercase()) else { return };
    // No answer came, there is no such registry, or HTTP itself refused the header section.
    if [0, 431].contains(&answer.status) || answer.word() == "no-such-path" {
        return;
    }
    let at = format!("{method} {template}: {} {}", answer.status, answer.text);
    let response = &operation["responses"][answer.status.to_string()];
    assert!(response.is_object(), "a status that is not described: {at}");
    let response = target(document, response);
    for (name, header) in response["headers"].as_object().expect("headers") {
        let wanted = target(document, header)["required"] == true;
        assert!(!wanted || answer.header(&name.to_lowercase()).is_some(), "no {name}: {at}");
    }
    let kind = answer.header("content-type").and_then(|kind| kind.split(';').next());
    let described = response["content"].as_object();
    assert_eq!(kind.is_some(), described.is_some(), "a body or none: {at}");
    let Some((kind, described)) = kind.zip(described) else { return };
    let described = described.get(kind).unwrap_or_else(|| panic!("{kind} is not described: {at}"));
    if kind.ends_with("json") && kind != "application/x-ndjson" {
        let fault = fault(document, &described["schema"], &answer.json());
        assert_eq!(fault, None, "{at}");
    }
}

/// What a reference leads to, or the value itself.
fn target<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    let pointer = value["$ref"].as_str().and_then(|reference| reference.strip_prefix('#'));
    pointer.map_or(value, |pointer| document.pointer(pointer).expect("a reference leads somewhere"))
}

/// What of a value the schema does not describe. An object that is not said to be open is closed.
fn fault(document: &Value, schema: &Value, value: &Value) -> Option<String> {
    let schema = target(document, schema);
    let any = schema["anyOf"].as_array().or(schema["oneOf"].as_array());
    if let Some(any) = any {
        let mut faults: Vec<_> = any.iter().map(|schema| fault(document, schema, value)).collect();
        return if faults.contains(&None) { None } else { faults.swap_remove(0) };
    }
    let fits = match schema["type"].as_str() {
        None => true,
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_u64() || value.is_i64(),
        Some("null") => value.is_null(),
        Some(other) => panic!("the test does not know the type {other}"),
    };
    let listed = schema["enum"].as_array().is_none_or(|words| words.contains(value));
    if !fits || !listed {
        return Some(format!("{value} is not {schema}"));
    }
    if let Some(items) = value.as_array() {
        return items.iter().find_map(|item| fault(document, &schema["items"], item));
    }
    let members = value.as_object()?;
    if schema["type"] != "object" {
        return None;
    }
    let required = schema["required"].as_array().into_iter().flatten();
    if let Some(name) = required.filter_map(Value::as_str).find(|name| !members.contains_key(*name)) {
        return Some(format!("no member `{name}`"));
    }
    members.iter().find_map(|(name, member)| {
        match (&schema["properties"][name], &schema["additionalProperties"]) {
            (Value::Null, Value::Null | Value::Bool(false)) if schema["properties"].is_object() => {
                Some(format!("the member `{name}`"))
            }
            (Value::Null, more @ Value::Object(_)) => fault(document, more, member),
            (Value::Null, _) => None,
            (described, _) => fault(document, described, member).map(|fault| format!("`{name}`: {fault}")),
        }
    })
}

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
        let succeeds = |status: &str| status.starts_with('2') || status == "101";
        assert!(statuses.iter().any(|status| succeeds(status)), "{method} {path}: {statuses:?}");
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
        ("an empty number", Ask::get("/v1/devices?limit=")),
        ("an empty word", Ask::get("/v1/enrolments/-/devices?pending=")),
        ("a path that is no text", Ask::get("/v1/registries/%FF")),
    ];
    for (what, ask) in table {
        let answer = world.admin(ask).await;
        assert_eq!(answer.status, 400, "{what}: {}", answer.text);
        assert!(answer.header("content-type").is_some_and(|kind| kind.contains("json")), "{what}");
    }
    assert_eq!(world.admin(Ask::get("/v1/devices/ghost")).await.status, 404);
}

#[tokio::test]
async fn an_answer_that_says_more_less_or_other_than_the_document_is_found() {
    let world = World::new().await;
    let document = document(&world).await;
    let registry = &document["components"]["schemas"]["Registry"];
    let good = world.admin(Ask::get("/v1/registries/default")).await.json();
    assert_eq!(fault(&document, registry, &good), None);
    for (member, value, wanted) in [
        ("issuer", None, "no member `issuer`"),
        ("shadow", Some(json!(1)), "the member `shadow`"),
        ("token_life_s", Some(json!("3600")), "`token_life_s`"),
        ("clock", Some(json!("fine")), "`clock`"),
        ("google", Some(json!({ "project": "p" })), "`google`"),
    ] {
        let mut bad = good.clone();
        let members = bad.as_object_mut().expect("an object");
        match value {
            Some(value) => members.insert(member.to_owned(), value),
            None => members.remove(member),
        };
        let found = fault(&document, registry, &bad).unwrap_or_default();
        assert!(found.starts_with(wanted), "{member}: {found}");
    }
}
