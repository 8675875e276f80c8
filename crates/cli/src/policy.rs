//! `drawbridge policy`, `can`, `registry`, `audit`.

use std::path::Path;

use drawbridge_names::PolicyName;
use drawbridge_policy::{ImportedPolicy, Policy, PolicyError};
use serde_json::{Value, json};

use crate::args::{
    Action, CanFacts, Common, DEFAULT_REGISTRY, ImportFrom, PolicyCommand, RegistryCommand, RegistrySet,
};
use crate::device::ways_of;
use crate::output::{self, cell};
use crate::server::escape;
use crate::{Failure, Server, files};

pub(crate) fn policy(common: &Common, command: &PolicyCommand) -> Result<(), Failure> {
    match command {
        PolicyCommand::Set { name, file } => set(common, name, file),
        PolicyCommand::Check { file } => check(common, file),
        PolicyCommand::Import { from, file, user, out } => {
            import(common, *from, file, user.as_deref(), out.as_deref())
        }
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
    // Judge it here first: the file's faults are shown even when no server is up.
    let after = format!("policy `{name}` was not set, an earlier policy of that name stays in force");
    let policy = judged(&parsed, file, &after)?;
    let path = format!("/v1/policies/{}", escape(name));
    let answer =
        Server::find(common)?.call("PUT", &path, Some(&json!({ "source": policy.source() })))?.json();
    if common.json {
        output::json(&answer);
    } else {
        say!("policy {name} is set{}", passed(policy.tests()));
        output::next(common, &["policy", "show", name]);
    }
    Ok(())
}

fn check(common: &Common, file: &Path) -> Result<(), Failure> {
    let name = PolicyName::parse("checked").map_err(|e| Failure::Usage(e.to_string()))?;
    let policy = judged(&name, file, "nothing was set")?;
    if common.json {
        output::json(&json!({ "file": file.display().to_string(), "tests": policy.tests() }));
    } else {
        say!("{} has no fault{}", file.display(), passed(policy.tests()));
        output::next(common, &["policy", "set", "NAME", &file.display().to_string()]);
    }
    Ok(())
}

fn passed(tests: usize) -> String {
    match tests {
        0 => String::new(),
        1 => "; its test passes".to_owned(),
        tests => format!("; its {tests} tests pass"),
    }
}

/// The policy in a file, if it has no fault and its tests pass.
fn judged(name: &PolicyName, file: &Path, after: &str) -> Result<Policy, Failure> {
    let bytes = files::read(file, "wanted a policy in TOML, with [[allow]] and [[deny]] tables")?;
    let broken = |why: String| {
        Failure::Usage(format!("{}: {why}; {after}: mend the file and set it again", file.display()))
    };
    let source = String::from_utf8(bytes).map_err(|_| broken("not UTF-8 text".to_owned()))?;
    let judged = Policy::parse(name, &source).and_then(|policy| policy.run_tests().map(|()| policy));
    judged.map_err(|error| match error {
        PolicyError::Document { faults, .. } => broken(joined(&faults)),
        PolicyError::Tests { faults, .. } => {
            broken(format!("{} test(s) fail: {}", faults.len(), joined(&faults)))
        }
        other => broken(other.to_string()),
    })
}

fn joined(faults: &[drawbridge_policy::Fault]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn import(
    common: &Common,
    from: ImportFrom,
    file: &Path,
    user: Option<&str>,
    out: Option<&Path>,
) -> Result<(), Failure> {
    let bytes = files::read(file, "wanted an AWS IoT policy document or a Mosquitto ACL file")?;
    let shown = file.display();
    let text = String::from_utf8(bytes).map_err(|_| Failure::Usage(format!("{shown}: not UTF-8 text")))?;
    let refused = |error: PolicyError| Failure::Usage(format!("{shown}: {error} [{}]", error.code()));
    let mut policies = match from {
        ImportFrom::Aws if user.is_some() || out.is_some() => {
            return Err(Failure::Usage(
                "--user and --out are for --from mosquitto; leave them out".to_owned(),
            ));
        }
        ImportFrom::Aws => vec![ImportedPolicy::of_aws(&text).map_err(refused)?],
        ImportFrom::Mosquitto => ImportedPolicy::of_mosquitto(&text).map_err(refused)?,
    };
    if let Some(folder) = out {
        return write_all(common, folder, &policies);
    }
    if let Some(user) = user {
        policies.retain(|policy| policy.user.as_deref() == Some(user));
        if policies.is_empty() {
            return Err(Failure::NotFound(format!(
                "{shown}: no user `{user}`; leave --user out for all others"
            )));
        }
    }
    let [policy] = policies.as_slice() else {
        let users: Vec<&str> = policies.iter().filter_map(|policy| policy.user.as_deref()).collect();
        return Err(Failure::Usage(format!(
            "{shown}: a policy for each of {} and one for everybody else; choose one with --user NAME, or write \
             all with --out DIR",
            users.join(", ")
        )));
    };
    if common.json {
        output::json(&as_json(policy));
    } else {
        say!("{}", policy.toml.trim_end());
        // The document goes to a file; what was left out is for who reads it.
        for left in &policy.dropped {
            eprintln!("left out: {left}");
        }
    }
    Ok(())
}

fn as_json(policy: &ImportedPolicy) -> Value {
    json!({ "user": policy.user, "toml": policy.toml, "dropped": policy.dropped, "notes": policy.notes })
}

fn write_all(common: &Common, folder: &Path, policies: &[ImportedPolicy]) -> Result<(), Failure> {
    let failed = |path: &Path, error: std::io::Error| Failure::Usage(format!("{}: {error}", path.display()));
    std::fs::create_dir_all(folder).map_err(|error| failed(folder, error))?;
    let mut rows = Vec::new();
    for policy in policies {
        let name = policy.user.as_deref().unwrap_or("everybody");
        // A user name can be anything, a policy's cannot; and it becomes the name of a file.
        PolicyName::parse(name).map_err(|error| {
            Failure::Usage(format!("user `{}`: {error}; take it alone with --user", name.escape_debug()))
        })?;
        let path = folder.join(format!("{name}.toml"));
        let mut file = std::fs::File::create_new(&path).map_err(|error| failed(&path, error))?;
        std::io::Write::write_all(&mut file, policy.toml.as_bytes()).map_err(|error| failed(&path, error))?;
        rows.push(vec![path.display().to_string(), policy.dropped.len().to_string()]);
    }
    if common.json {
        output::json(&Value::Array(policies.iter().map(as_json).collect()));
    } else {
        output::table(&["file", "left out"], &rows);
        output::next(common, &["policy", "check", rows.first().map_or("FILE", |row| &row[0])]);
    }
    Ok(())
}

pub(crate) fn can(
    common: &Common,
    principal: &str,
    action: Action,
    topic: &str,
    facts: &CanFacts,
) -> Result<(), Failure> {
    let action = match action {
        Action::Publish => "publish",
        Action::Subscribe => "subscribe",
        Action::Receive => "receive",
    };
    let mut path = format!("/v1/can?principal={}&action={action}&topic={}", escape(principal), escape(topic));
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            path.push_str(&format!("&{name}={}", escape(&value)));
        }
    };
    add("qos", facts.qos.map(|qos| qos.to_string()));
    add("retain", facts.retain.then(|| "true".to_owned()));
    add("will", facts.will.then(|| "true".to_owned()));
    add("payload_bytes", facts.payload_bytes.map(|bytes| bytes.to_string()));
    add("protocol", facts.protocol.clone());
    add("websocket", facts.websocket.then(|| "true".to_owned()));
    add("port", facts.port.map(|port| port.to_string()));
    add("address", facts.address.map(|address| address.to_string()));
    add("tls", facts.tls.clone());
    add("method", facts.method.clone());
    add("client_id", facts.client_id.clone());
    let answer = Server::find(common)?.call("GET", &path, None)?.json();
    if common.json {
        output::json(&answer);
    } else {
        let verdict = if answer["allowed"] == true { "yes" } else { "no" };
        say!("{verdict}: {}", cell(&answer["reason"]));
        if let (Some(granted), Some(asked)) = (answer["granted_qos"].as_u64(), facts.qos)
            && granted < u64::from(asked)
        {
            say!("with QoS {granted}, not {asked}");
        }
        for left_out in answer["left_out"].as_array().into_iter().flatten() {
            say!("left out: {}", cell(left_out));
        }
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
                ("bound_connections", set.bound_connections.map(|word| json!(word))),
                ("clock", set.clock.as_ref().map(|word| json!(word))),
                ("issuer_algorithm", set.issuer_algorithm.as_ref().map(|word| json!(word))),
                ("ways", set.ways.as_deref().map(ways_of)),
                ("certificate_registration", certificate_registration(set)),
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

/// `--register-certificates` and what goes with it.
fn certificate_registration(set: &RegistrySet) -> Option<Value> {
    let names = set.register_certificates.as_deref()?;
    if names == "none" {
        return Some(Value::Null);
    }
    let mut rule = json!({
        "names": names,
        "cas": set.register_cas,
        "auto": set.register_at_once,
        "policy": set.register_policy,
    });
    for (member, count) in
        [("pending_max", set.register_pending_max), ("hourly_max", set.register_hourly_max)]
    {
        if let Some(count) = count {
            rule[member] = json!(count);
        }
    }
    Some(rule)
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
