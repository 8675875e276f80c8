//! `drawbridge policy`, `can`, `registry`, `audit`.

use std::path::Path;

use drawbridge_names::PolicyName;
use drawbridge_policy::{Policy, PolicyError};
use serde_json::{Value, json};

use crate::args::{Action, Common, DEFAULT_REGISTRY, PolicyCommand, RegistryCommand};
use crate::output::{self, cell};
use crate::server::escape;
use crate::{Failure, Server, files};

pub(crate) fn policy(common: &Common, command: &PolicyCommand) -> Result<(), Failure> {
    match command {
        PolicyCommand::Set { name, file } => set(common, name, file),
        PolicyCommand::Show { name } => {
            let path = format!("/v1/policies/{}", escape(name));
            let answer = Server::find(common)?.call("GET", &path, None)?.json();
            if common.json {
                output::json(&answer);
            } else {
                say!("{}", answer["source"].as_str().unwrap_or_default().trim_end());
                output::next_beside_product(common, true, &["policy", "list"], "");
            }
            Ok(())
        }
        PolicyCommand::List => {
            let answer = Server::find(common)?.call("GET", "/v1/policies", None)?.json();
            let items = &answer["items"];
            let next = ["policy", "show", first_name(items).unwrap_or("device")];
            listing(common, items, &["name", "revision", "updated"], &next);
            Ok(())
        }
        PolicyCommand::Attach { name, principal } => {
            let path = format!("/v1/principals/{}/policy", escape(principal));
            let answer = Server::find(common)?.call("PUT", &path, Some(&json!({ "policy": name })))?.json();
            if common.json {
                output::json(&answer);
            } else {
                say!("{principal} has the policy {name} now");
                let topic = format!("devices/{principal}/events/test");
                output::next(common, &["can", principal, "publish", &topic]);
            }
            Ok(())
        }
    }
}

fn set(common: &Common, name: &str, file: &Path) -> Result<(), Failure> {
    let parsed = PolicyName::parse(name).map_err(|e| Failure::Usage(e.to_string()))?;
    let bytes = files::read(file, "wanted a policy in TOML, with [[allow]] and [[deny]] tables")?;
    let broken = |why: String| {
        Failure::Usage(format!(
            "{}: {why}; policy `{name}` was not set, an earlier policy of that name stays in force: mend the \
             file and set it again",
            file.display()
        ))
    };
    let source = String::from_utf8(bytes).map_err(|_| broken("not UTF-8 text".to_owned()))?;
    // Judge it here first: the file's faults are shown even when no server is up.
    Policy::parse(&parsed, &source).map_err(|error| match error {
        PolicyError::Document { faults, .. } => {
            let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
            broken(faults.join("; "))
        }
        other => broken(other.to_string()),
    })?;
    let path = format!("/v1/policies/{}", escape(name));
    let answer = Server::find(common)?.call("PUT", &path, Some(&json!({ "source": source })))?.json();
    if common.json {
        output::json(&answer);
    } else {
        say!("policy {name} is set");
        output::next(common, &["policy", "show", name]);
    }
    Ok(())
}

pub(crate) fn can(common: &Common, principal: &str, action: Action, topic: &str) -> Result<(), Failure> {
    let action = match action {
        Action::Publish => "publish",
        Action::Subscribe => "subscribe",
    };
    let path = format!("/v1/can?principal={}&action={action}&topic={}", escape(principal), escape(topic));
    let answer = Server::find(common)?.call("GET", &path, None)?.json();
    if common.json {
        output::json(&answer);
    } else {
        let verdict = if answer["allowed"] == true { "yes" } else { "no" };
        say!("{verdict}: {}", cell(&answer["reason"]));
        match answer["policy"].as_str() {
            Some(policy) => output::next(common, &["policy", "show", policy]),
            None => output::next(common, &["policy", "list"]),
        }
    }
    if answer["allowed"] == true {
        Ok(())
    } else {
        Err(Failure::Denied(format!("{principal} may not {action} {topic}")))
    }
}

pub(crate) fn registry(common: &Common, command: &RegistryCommand) -> Result<(), Failure> {
    match command {
        RegistryCommand::Add { name, google } => {
            let mut body = json!({ "name": name });
            if let Some(google) = google {
                let (project, location) = google.split_once('/').ok_or_else(|| {
                    Failure::Usage(format!("--google `{google}` has no `/`; write PROJECT/LOCATION"))
                })?;
                body["google"] = json!({ "project": project, "location": location });
            }
            let answer = Server::find(common)?.call("POST", "/v1/registries", Some(&body))?.json();
            if common.json {
                output::json(&answer);
            } else {
                say!("registry {name} exists, issuer {}", cell(&answer["issuer"]));
                let out = format!("./{name}-lamp");
                output::next(&within(common, name), &["device", "add", "lamp", "--out", &out]);
            }
        }
        RegistryCommand::List => {
            let answer = Server::find(common)?.call("GET", "/v1/registries", None)?.json();
            let items = &answer["items"];
            let next = ["registry", "show", first_name(items).unwrap_or(DEFAULT_REGISTRY)];
            listing(common, items, &["name", "issuer", "bridge_audience"], &next);
        }
        RegistryCommand::Show { name } => {
            let answer = Server::find(common)?.call("GET", "/v1/registries", None)?.json();
            let items = answer["items"].as_array().cloned().unwrap_or_default();
            match items.iter().find(|item| item["name"] == name.as_str()) {
                Some(item) => {
                    output::json(item);
                    output::next(&within(common, name), &["device", "list"]);
                }
                None => {
                    return Err(Failure::NotFound(format!(
                        "there is no registry `{name}`; see `drawbridge registry list`"
                    )));
                }
            }
        }
        RegistryCommand::Set(set) => {
            let within = within(common, &set.name);
            let mut body = json!({});
            let members = [
                ("token_format", set.token_format.as_ref().map(|word| json!(word))),
                ("token_life_s", set.token_life_s.map(|seconds| json!(seconds))),
                ("clock_skew_s", set.clock_skew_s.map(|seconds| json!(seconds))),
                ("clock", set.clock.as_ref().map(|word| json!(word))),
                ("issuer_algorithm", set.issuer_algorithm.as_ref().map(|word| json!(word))),
            ];
            for (name, value) in members {
                if let Some(value) = value {
                    body[name] = value;
                }
            }
            let path = format!("/v1/registries/{}", escape(&set.name));
            output::json(&Server::find(&within)?.call("PATCH", &path, Some(&body))?.json());
            output::next(common, &["registry", "keys", &set.name]);
        }
        RegistryCommand::Keys { name } => {
            let within = within(common, name);
            let path = format!("/v1/registries/{}/issuer-keys", escape(name));
            let answer = Server::find(&within)?.call("GET", &path, None)?.json();
            let next = ["registry", "rotate-key", name];
            listing(common, &answer["items"], &["kid", "state", "alg", "signs_from", "until"], &next);
        }
        RegistryCommand::RotateKey { name, now } => {
            let within = within(common, name);
            let body = json!({ "when": if *now { "now" } else { "planned" } });
            let path = format!("/v1/registries/{}/issuer-keys", escape(name));
            let answer = Server::find(&within)?.call("POST", &path, Some(&body))?.json();
            let next = ["registry", "keys", name];
            listing(common, &answer["items"], &["kid", "state", "alg", "signs_from", "until"], &next);
        }
    }
    Ok(())
}

/// The same place, another registry.
fn within(common: &Common, registry: &str) -> Common {
    Common { registry: registry.to_owned(), ..common.clone() }
}

fn first_name(items: &Value) -> Option<&str> {
    items[0]["name"].as_str()
}

pub(crate) fn listing(common: &Common, items: &Value, columns: &[&str], next: &[&str]) {
    if common.json {
        output::json(items);
        return;
    }
    let empty = Vec::new();
    let rows: Vec<Vec<String>> = items
        .as_array()
        .unwrap_or(&empty)
        .iter()
        .map(|item| columns.iter().map(|column| cell(&item[*column])).collect())
        .collect();
    output::table(columns, &rows);
    output::next(common, next);
}
