//! `drawbridge policy`, `can`, `registry`, `audit`.

use drawbridge_names::PolicyName;
use drawbridge_policy::Policy;
use serde_json::{Value, json};

use crate::args::{Action, AuditCommand, Common, PolicyCommand, RegistryCommand};
use crate::output::{self, cell};
use crate::server::escape;
use crate::{Failure, Server, files};

pub(crate) fn policy(common: &Common, command: &PolicyCommand) -> Result<(), Failure> {
    match command {
        PolicyCommand::Set { name, file } => {
            let bytes = files::read(file)?;
            let source = String::from_utf8(bytes)
                .map_err(|_| Failure::Usage(format!("{}: not UTF-8 text", file.display())))?;
            let parsed = PolicyName::parse(name).map_err(|e| Failure::Usage(e.to_string()))?;
            // Judge it here first: the file's faults are shown even when no server is up.
            Policy::parse(&parsed, &source)
                .map_err(|e| Failure::Usage(format!("{}: {e}", file.display())))?;
            Server::find(common)?.call(
                "PUT",
                &format!("/v1/policies/{}", escape(name)),
                Some(&json!({ "source": source })),
            )?;
            println!("policy {name} is set");
            output::next(&format!("drawbridge policy attach {name} PRINCIPAL"));
        }
        PolicyCommand::Show { name } => {
            let answer =
                Server::find(common)?.call("GET", &format!("/v1/policies/{}", escape(name)), None)?.json();
            if common.json {
                output::json(&answer);
            } else {
                println!("{}", answer["source"].as_str().unwrap_or_default().trim_end());
            }
        }
        PolicyCommand::List => {
            let answer = Server::find(common)?.call("GET", "/v1/policies", None)?.json();
            listing(
                common,
                &answer["items"],
                &["name", "revision", "updated"],
                "drawbridge policy show NAME",
            );
        }
        PolicyCommand::Attach { name, principal } => {
            let body = json!({ "policy": name });
            Server::find(common)?.call(
                "PUT",
                &format!("/v1/principals/{}/policy", escape(principal)),
                Some(&body),
            )?;
            println!("{principal} has the policy {name} now");
            output::next(&format!("drawbridge can {principal} publish TOPIC"));
        }
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
        println!("{verdict}: {}", cell(&answer["reason"]));
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
            println!("registry {name} exists, issuer {}", cell(&answer["issuer"]));
            output::next(&format!("drawbridge device add ID --registry {name}"));
        }
        RegistryCommand::List => {
            let answer = Server::find(common)?.call("GET", "/v1/registries", None)?.json();
            let next = "drawbridge registry show NAME";
            listing(common, &answer["items"], &["name", "issuer", "bridge_audience"], next);
        }
        RegistryCommand::Show { name } => {
            let answer = Server::find(common)?.call("GET", "/v1/registries", None)?.json();
            let items = answer["items"].as_array().cloned().unwrap_or_default();
            match items.iter().find(|item| item["name"] == name.as_str()) {
                Some(item) => output::json(item),
                None => {
                    return Err(Failure::NotFound(format!(
                        "there is no registry `{name}`; see `drawbridge registry list`"
                    )));
                }
            }
        }
    }
    Ok(())
}

pub(crate) fn audit(common: &Common, command: &AuditCommand) -> Result<(), Failure> {
    let AuditCommand::Tail { count } = command;
    let answer = Server::find(common)?.call("GET", &format!("/v1/audit?limit={count}"), None)?.json();
    listing(
        common,
        &answer["items"],
        &["seq", "at", "actor", "action", "subject"],
        "drawbridge device show NAME",
    );
    Ok(())
}

fn listing(common: &Common, items: &Value, columns: &[&str], next: &str) {
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
    output::next(next);
}
