//! The running server, held against its own OpenAPI document by schemathesis: no 5xx, no status, header, media
//! type or member that the document does not know, no bad request that is taken for a good one.

use std::fs;
use std::process::Command;

use drawbridge_device::Qos;
use serde_json::json;

use crate::harness::{Core, connect, python, repository};

/// As whom the requests are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum As {
    Nobody,
    Device,
    Operator,
}

/// Runs schemathesis against the server. `phases`: `examples`, `coverage` (what follows from the schemas, at their
/// bounds and beyond), `fuzzing`, `stateful` (what one answer gives is sent in the next request).
fn hold(core: &Core, who: As, phases: &str, examples: u32, seed: u32) {
    let folder = core.place().join(format!("{who:?}-{seed}"));
    fs::create_dir(&folder).expect("a folder");
    let token = match who {
        As::Nobody => None,
        As::Device => {
            let meter = core.device(&format!("meter-{seed}"));
            let resource = format!("{}/v1", meter.issuer);
            let token = core.api().token(&meter.device, &meter.issuer, Some(&resource), &meter.key);
            Some(token.expect("a token").access_token)
        }
        As::Operator => Some(
            fs::read_to_string(core.data().join("admin-token")).expect("the credential").trim().to_owned(),
        ),
    };
    let mut command = Command::new(python());
    command
        .arg(repository().join("crates/drawbridge/tests/clients/openapi.py"))
        .arg(&folder)
        .arg(format!("https://{}", core.endpoints.https))
        .arg(core.data().join("ca.pem"))
        .args([phases, &examples.to_string(), &seed.to_string()])
        .arg(if token.is_some() { "DRAWBRIDGE_TOKEN" } else { "nobody" })
        .env("DRAWBRIDGE_TOKEN", token.unwrap_or_default());
    let output = command.output().expect("python runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "as {who:?}, seed {seed}: {}\n{text}{said}", output.status);
    let line =
        |word: &str| text.lines().find(|line| line.contains(word)).unwrap_or_default().trim().to_owned();
    println!("{}, as {who:?}, seed {seed}: {}", line("schemathesis Version"), line("generated,"));
    assert!(text.contains("No issues found"), "{text}");
}

/// A server with records of the names that `openapi.py` knows.
fn core() -> Core {
    let core = Core::start();
    for number in 0..8 {
        core.device(&format!("lamp-{number}"));
    }
    for number in 0..4 {
        core.application(&format!("desk-{number}"), "");
    }
    core
}

/// After all that, the server does its work, and no handler has panicked.
fn still_serves(core: &Core) {
    // The requests were free to change how the registry judges clocks and tokens, and which ways in it leaves open.
    let usual = json!({
        "clock": "good", "clock_skew_s": 600, "token_life_s": 3600,
        "ways": null, "bound_connections": false, "certificate_registration": null,
    });
    core.admin("PATCH", "/v1/registries/default", Some(&usual));
    let survivor = core.device("survivor");
    let token = core.api().token(&survivor.device, &survivor.issuer, None, &survivor.key);
    assert!(token.expect("it logs in").expires_in_s > 0);
    let mut client = connect(&survivor);
    client.publish("devices/survivor/events/x", b"1", Qos::AtLeastOnce, false).expect("it publishes");
    let log = core.log();
    assert!(!log.contains("panicked"), "{log}");
}

#[test]
fn the_server_answers_as_its_openapi_document_says_whoever_asks() {
    let core = core();
    hold(&core, As::Nobody, "examples,fuzzing", 2, 1);
    hold(&core, As::Device, "examples,fuzzing", 2, 1);
    hold(&core, As::Operator, "examples,coverage,fuzzing", 3, 1);
    still_serves(&core);
}

#[test]
#[ignore = "10 minutes"]
fn soak_the_server_answers_as_its_openapi_document_says_whatever_the_seed() {
    let core = core();
    for seed in 2..5 {
        for who in [As::Nobody, As::Device, As::Operator] {
            hold(&core, who, "examples,coverage,fuzzing,stateful", 60, seed);
        }
    }
    still_serves(&core);
}
