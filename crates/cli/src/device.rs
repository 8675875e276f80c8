//! `drawbridge device`, `app`, `key`.

use std::path::{Path, PathBuf};

use drawbridge_device::DeviceIdentity;
use drawbridge_jose::{Algorithm, PublicKey, SigningKey};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::args::{AppCommand, Common, DeviceAdd, DeviceCommand, KeyAdd, KeyCommand, KeySet, PrincipalSet};
use crate::output::{self, cell};
use crate::server::escape;
use crate::{Failure, Server, files, session};

pub(crate) fn device(common: &Common, command: &DeviceCommand) -> Result<(), Failure> {
    match command {
        DeviceCommand::Add(add) => device_add(common, add),
        DeviceCommand::List => list(common, Kind::Device),
        DeviceCommand::Show { id } => show(common, Kind::Device, id),
        DeviceCommand::Block { id } => act(common, id, "block", &json!({})),
        DeviceCommand::Unblock { id } => act(common, id, "unblock", &json!({})),
        DeviceCommand::Revoke { id, reason } => act(common, id, "revoke", &json!({ "reason": reason })),
        DeviceCommand::Set { id, gateway, clock, legacy_assertions, both } => {
            let mut body = both_set(both)?;
            if let Some(gateway) = gateway {
                body["gateway"] = json!(gateway);
            }
            if let Some(clock) = clock {
                body["clock"] = if clock == "registry" { Value::Null } else { json!(clock) };
            }
            if let Some(legacy) = legacy_assertions {
                body["assertion_profile"] = json!(if *legacy { "legacy" } else { "standard" });
            }
            set(common, Kind::Device, id, &body)
        }
        DeviceCommand::Secret { id } => make_secret(common, Kind::Device, id),
        DeviceCommand::Password { id, remove } => set_password(common, Kind::Device, id, *remove),
        DeviceCommand::Delete { id } => delete(common, Kind::Device, id),
        DeviceCommand::Enrol { id, out, mqtts } => {
            crate::enrol::device(common, id, out.as_deref(), mqtts.as_deref())
        }
        DeviceCommand::Import { file, errors, resume } => {
            crate::import::import(common, file, errors.as_deref(), *resume)
        }
        DeviceCommand::Run(run) => session::run(common, run),
        DeviceCommand::Refresh { id, identity, client_id } => {
            session::refresh(common, id, identity.as_deref(), client_id.as_deref())
        }
    }
}

pub(crate) fn app(common: &Common, command: &AppCommand) -> Result<(), Failure> {
    match command {
        AppCommand::Add { name, keys, password_stdin, roles, policy, out } => {
            let keys = keys.iter().map(|path| files::public_key(path)).collect::<Result<Vec<_>, _>>()?;
            let mut body = json!({ "policy": policy });
            if !roles.is_empty() {
                body["roles"] = json!(roles);
            }
            let password = if *password_stdin { Some(password_from_stdin()?) } else { None };
            add(common, Kind::Application, name, keys, password, body, out.as_deref())?;
            if policy.is_none() && roles.is_empty() && !common.json {
                say!("it may do nothing until `policy attach` gives it a policy");
            }
            output::next(common, &["app", "show", name]);
            Ok(())
        }
        AppCommand::List => list(common, Kind::Application),
        AppCommand::Show { name } => show(common, Kind::Application, name),
        AppCommand::Set { name, roles, no_roles, both } => {
            let mut body = both_set(both)?;
            if *no_roles || !roles.is_empty() {
                body["roles"] = json!(roles);
            }
            set(common, Kind::Application, name, &body)
        }
        AppCommand::Secret { name } => make_secret(common, Kind::Application, name),
        AppCommand::Password { name, remove } => set_password(common, Kind::Application, name, *remove),
        AppCommand::Delete { name } => delete(common, Kind::Application, name),
    }
}

fn both_set(set: &PrincipalSet) -> Result<Value, Failure> {
    let mut body = json!({});
    if let Some(bound) = set.bound_tokens {
        body["bound_tokens"] = json!(bound);
    }
    if let Some(word) = &set.bound_connections {
        body["bound_connections"] = if word == "registry" { Value::Null } else { json!(word == "true") };
    }
    if let Some(ways) = &set.ways {
        body["ways"] = ways_of(ways);
    }
    match set.certificate_subject.as_deref().map(|text| (text, text.split_once('='))) {
        None => {}
        Some(("none", _)) => body["certificate_subject"] = Value::Null,
        Some((_, Some((field, value)))) if !value.is_empty() => {
            body["certificate_subject"] = json!({ field: value });
        }
        Some((text, _)) => {
            let wanted = format!("--certificate-subject {text}: wanted FIELD=VALUE, or `none`");
            return Err(Failure::Usage(wanted));
        }
    }
    Ok(body)
}

/// `--ways`: words with commas between, or `all`.
pub(crate) fn ways_of(text: &str) -> Value {
    if text == "all" { Value::Null } else { text.split(',').map(str::trim).collect() }
}

fn set(common: &Common, kind: Kind, name: &str, body: &Value) -> Result<(), Failure> {
    if *body == json!({}) {
        let wanted = format!("nothing to set; see `drawbridge {} set --help`", kind.verb());
        return Err(Failure::Usage(wanted));
    }
    let path = format!("{}/{}", kind.path(), escape(name));
    let answer = Server::find(common)?.call("PATCH", &path, Some(body))?.json();
    if common.json {
        output::json(&answer);
        return Ok(());
    }
    for member in body.as_object().into_iter().flat_map(|body| body.keys()) {
        let value = match &answer[member] {
            Value::Array(words) if words.is_empty() => "none".to_owned(),
            Value::Array(words) => words.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "),
            Value::String(word) => word.clone(),
            Value::Null if member == "ways" => "all that are open".to_owned(),
            Value::Null if member == "clock" || member == "bound_connections" => {
                "as the registry says".to_owned()
            }
            Value::Null => "none".to_owned(),
            Value::Object(fields) => {
                let text = |(field, value): (&String, &Value)| {
                    format!("{field}={}", value.as_str().unwrap_or_default())
                };
                fields.iter().map(text).collect::<Vec<_>>().join(", ")
            }
            other => other.to_string(),
        };
        say!("{name} has {}: {value}", member.replace('_', " "));
    }
    output::next(common, &[kind.verb(), "show", name]);
    Ok(())
}

/// The two kinds of principals and where the API has them.
#[derive(Clone, Copy)]
enum Kind {
    Device,
    Application,
}

impl Kind {
    fn path(self) -> &'static str {
        match self {
            Self::Device => "/v1/devices",
            Self::Application => "/v1/applications",
        }
    }

    fn verb(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Application => "app",
        }
    }
}

fn device_add(common: &Common, add_args: &DeviceAdd) -> Result<(), Failure> {
    let mut keys = Vec::new();
    for path in add_args.keys.iter().chain(&add_args.certificate) {
        keys.push(files::public_key(path)?);
    }
    let mut attributes = serde_json::Map::new();
    for pair in &add_args.attributes {
        let (name, value) = pair
            .split_once('=')
            .ok_or_else(|| Failure::Usage(format!("--attr `{pair}` has no `=`; write NAME=VALUE")))?;
        attributes.insert(name.to_owned(), value.into());
    }
    let mut body = json!({ "attributes": attributes });
    if let Some(policy) = &add_args.policy {
        body["policy"] = policy.clone().into();
    }
    if add_args.legacy_assertions {
        body["assertion_profile"] = "legacy".into();
    }
    let id = &add_args.id;
    let password = if add_args.password_stdin { Some(password_from_stdin()?) } else { None };
    let made = add(common, Kind::Device, id, keys, password, body, add_args.out.as_deref())?;
    match made {
        Some(folder) => {
            output::next_with_identity(common, &["device", "run", id, "--as", &folder.to_string_lossy()]);
        }
        None => output::next(common, &["device", "show", id]),
    }
    Ok(())
}

/// Registers a principal; without keys and password a key is made here, and its private half never leaves.
fn add(
    common: &Common,
    kind: Kind,
    name: &str,
    mut keys: Vec<PublicKey>,
    password: Option<Zeroizing<String>>,
    mut body: Value,
    out: Option<&Path>,
) -> Result<Option<PathBuf>, Failure> {
    let server = Server::find(common)?;
    let made = keys.is_empty() && password.is_none();
    let folder = match out {
        Some(folder) => folder.to_owned(),
        None => PathBuf::from(".").join(name),
    };
    // Judged before anything is registered: a folder in use must not cost a half-made principal.
    let writes: &[&str] = match (made, out) {
        (true, _) => &["key.pem", "ca.pem", "device.json"],
        (false, Some(_)) => &["ca.pem", "device.json"],
        (false, None) => &[],
    };
    if let Some(taken) = writes.iter().map(|file| folder.join(file)).find(|path| path.exists()) {
        return Err(Failure::Conflict(format!(
            "{} exists: {} holds an identity already and is not overwritten; choose another folder with --out",
            taken.display(),
            folder.display()
        )));
    }
    let secret = if made {
        let key = SigningKey::generate(Algorithm::Es256).map_err(|e| Failure::Unavailable(e.to_string()))?;
        keys.push(key.public_key().clone());
        Some(key)
    } else {
        None
    };
    body["keys"] = keys.iter().map(key_body).collect::<Result<Vec<_>, _>>()?.into();
    let discovery = server.discovery()?;
    let mut answer = server.create(kind.path(), name, &body)?.json();
    if let Some(password) = &password
        && let Err(refused) = put_password(&server, kind, name, password)
    {
        // Made by this very command and of no use as it is: all or nothing.
        server.call("DELETE", &format!("{}/{}", kind.path(), escape(name)), None)?;
        return Err(refused);
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let proofs =
        [keys.first().map(|key| format!("key {}", key.thumbprint())), password.map(|_| "a password".into())];
    let proofs: Vec<String> = proofs.into_iter().flatten().collect();
    let mut said = vec![format!("{} {name} registered with {}", kind.verb(), proofs.join(" and "))];
    let written = match secret {
        Some(key) => {
            let identity = DeviceIdentity {
                registry: server.registry().to_owned(),
                device: name.to_owned(),
                issuer: text(&discovery["issuer"]),
                bridge_audience: text(&discovery["bridge_audience"]),
                mqtts: server.mqtts(),
                https: server.https().to_owned(),
                ca_pem: server.ca_pem().to_owned(),
                key,
            };
            identity.store(&folder)?;
            said.push(format!("its identity is in {} (key.pem, ca.pem, device.json)", folder.display()));
            answer["identity"] = folder.to_string_lossy().into();
            Some(folder)
        }
        None => {
            if let Some(out) = out {
                write_description(&server, name, &discovery, out)?;
                said.push(format!("ca.pem and device.json are in {}", out.display()));
            }
            None
        }
    };
    if common.json {
        output::json(&answer);
    } else {
        say!("{}", said.join("\n"));
    }
    Ok(written)
}

/// One line without its line end.
fn password_from_stdin() -> Result<Zeroizing<String>, Failure> {
    let mut line = Zeroizing::new(String::new());
    std::io::stdin().read_line(&mut line).map_err(|e| Failure::Usage(format!("standard input: {e}")))?;
    let text = line.strip_suffix('\n').unwrap_or(&line);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        return Err(Failure::Usage("standard input has no password; write it there in one line".to_owned()));
    }
    Ok(Zeroizing::new(text.to_owned()))
}

fn put_password(server: &Server, kind: Kind, name: &str, password: &str) -> Result<(), Failure> {
    let path = format!("{}/{}/password", kind.path(), escape(name));
    server.call("PUT", &path, Some(&json!({ "password": password }))).map(drop)
}

fn set_password(common: &Common, kind: Kind, name: &str, remove: bool) -> Result<(), Failure> {
    let server = Server::find(common)?;
    if remove {
        server.call("DELETE", &format!("{}/{}/password", kind.path(), escape(name)), None)?;
    } else {
        put_password(&server, kind, name, &password_from_stdin()?)?;
    }
    let done = if remove { "taken away" } else { "set" };
    if common.json {
        output::json(&json!({ "name": name, "password": done }));
    } else {
        say!("the password of {name} is {done}; its tokens and sessions have ended");
    }
    output::next(common, &[kind.verb(), "show", name]);
    Ok(())
}

fn make_secret(common: &Common, kind: Kind, name: &str) -> Result<(), Failure> {
    let server = Server::find(common)?;
    let path = format!("{}/{}/secret", kind.path(), escape(name));
    let answer = server.call("POST", &path, None)?.json();
    if common.json {
        output::json(&answer);
    } else {
        say!("{}", answer["client_secret"].as_str().unwrap_or_default());
        say!("it is shown this once; {name} sends it as client_secret, or as its MQTT password");
    }
    output::next(common, &[kind.verb(), "show", name]);
    Ok(())
}

/// `ca.pem` and `device.json` for a device whose key was made elsewhere.
fn write_description(server: &Server, name: &str, discovery: &Value, out: &Path) -> Result<(), Failure> {
    let fault = |path: &Path, e: std::io::Error| Failure::Usage(format!("{}: {e}", path.display()));
    std::fs::create_dir_all(out).map_err(|e| fault(out, e))?;
    let description = json!({
        "registry": server.registry(), "device": name, "issuer": discovery["issuer"],
        "bridge_audience": discovery["bridge_audience"], "mqtts": server.mqtts(), "https": server.https(),
    });
    let text =
        format!("{}\n", serde_json::to_string_pretty(&description).expect("a JSON value can be written"));
    for (file, text) in [("ca.pem", server.ca_pem()), ("device.json", &text)] {
        let path = out.join(file);
        let mut options = std::fs::OpenOptions::new();
        let opened = options.write(true).create_new(true).open(&path);
        opened
            .and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()))
            .map_err(|e| fault(&path, e))?;
    }
    Ok(())
}

fn key_body(key: &PublicKey) -> Result<Value, Failure> {
    let jwk: Value = serde_json::from_str(&key.to_jwk_json()).map_err(|e| Failure::Usage(e.to_string()))?;
    Ok(json!({ "jwk": jwk }))
}

fn list(common: &Common, kind: Kind) -> Result<(), Failure> {
    let server = Server::find(common)?;
    let mut items = Vec::new();
    let mut path = format!("{}?limit=500", kind.path());
    loop {
        let page = server.call("GET", &path, None)?.json();
        items.extend(page["items"].as_array().cloned().unwrap_or_default());
        match page["next_cursor"].as_str() {
            Some(cursor) => path = format!("{}?limit=500&cursor={cursor}", kind.path()),
            None => break,
        }
    }
    if common.json {
        output::json(&Value::Array(items));
        return Ok(());
    }
    let rows: Vec<Vec<String>> = items
        .iter()
        .map(|item| {
            let keys = item["keys"]
                .as_array()
                .map_or(0, |keys| keys.iter().filter(|key| key["state"] == "active").count());
            vec![
                cell(&item["name"]),
                state_of(item).to_owned(),
                keys.to_string(),
                cell(&item["policy"]),
                cell(&item["assertion_profile"]),
            ]
        })
        .collect();
    output::table(&["name", "state", "keys", "policy", "assertions"], &rows);
    match (items.first().and_then(|item| item["name"].as_str()), kind) {
        (Some(name), _) => output::next(common, &[kind.verb(), "show", name]),
        (None, Kind::Device) => output::next(common, &["device", "add", "lamp"]),
        (None, Kind::Application) => output::next(common, &["app", "add", "backend"]),
    }
    Ok(())
}

fn state_of(item: &Value) -> &'static str {
    match (item["blocked"] == true, item["pending"] == true) {
        (true, _) => "blocked",
        (false, true) => "pending",
        (false, false) => "active",
    }
}

fn show(common: &Common, kind: Kind, id: &str) -> Result<(), Failure> {
    let answer = Server::find(common)?.call("GET", &format!("{}/{}", kind.path(), escape(id)), None)?.json();
    output::json(&answer);
    match kind {
        Kind::Device => output::next(common, &["can", id, "publish", &format!("devices/{id}/events/test")]),
        Kind::Application => output::next(common, &["can", id, "subscribe", "devices/#"]),
    }
    Ok(())
}

fn act(common: &Common, id: &str, verb: &str, body: &Value) -> Result<(), Failure> {
    let path = format!("/v1/devices/{}/{verb}", escape(id));
    let answer = Server::find(common)?.call("POST", &path, Some(body))?;
    if common.json {
        output::json(&answer.json());
        return Ok(());
    }
    let (done, next) = match verb {
        "block" => ("blocked; its sessions are closed", "unblock"),
        "unblock" => (
            "admitted again\nnote: tokens issued before the block are good again until they expire; `device revoke` kills them",
            "show",
        ),
        _ => (
            "revoked: every token it had is dead\nnote: whoever holds its key can sign anew; if the key is stolen, `device block` or `key remove`",
            "block",
        ),
    };
    say!("{id} is {done}");
    if let Some(sessions) = answer.json()["sessions_closed"].as_u64() {
        say!("{sessions} session(s) closed, epoch {}", answer.json()["epoch"]);
    }
    output::next(common, &["device", next, id]);
    Ok(())
}

fn delete(common: &Common, kind: Kind, id: &str) -> Result<(), Failure> {
    Server::find(common)?.call("DELETE", &format!("{}/{}", kind.path(), escape(id)), None)?;
    if common.json {
        output::json(&json!({ "name": id, "deleted": true }));
    } else {
        say!("{} {id} is deleted with its keys", kind.verb());
        output::next(common, &[kind.verb(), "list"]);
    }
    Ok(())
}

pub(crate) fn key(common: &Common, command: &KeyCommand) -> Result<(), Failure> {
    match command {
        KeyCommand::Add(add) => key_add(common, add),
        KeyCommand::List { id } => key_list(common, id),
        KeyCommand::Set(set) => key_set(common, set),
        KeyCommand::Remove { id, kid } => {
            let server = Server::find(common)?;
            let path = format!("{}/keys/{}", principal(&server, id)?.1, escape(kid));
            server.call("DELETE", &path, None)?;
            if common.json {
                output::json(&json!({ "name": id, "kid": kid, "removed": true }));
            } else {
                say!("the key {kid} of {id} is retired; sessions and tokens it opened are ended");
                output::next(common, &["key", "list", id]);
            }
            Ok(())
        }
        KeyCommand::Revoke { id, kid, reason } => {
            let server = Server::find(common)?;
            let path = format!("{}/keys/{}/revoke", principal(&server, id)?.1, escape(kid));
            let answer = server.call("POST", &path, Some(&json!({ "reason": reason })))?.json();
            if common.json {
                output::json(&answer);
            } else {
                say!(
                    "the key {kid} of {id} is retired for ever; every token and session of {id} is dead (epoch {})",
                    cell(&answer["epoch"])
                );
                output::next(common, &["key", "list", id]);
            }
            Ok(())
        }
    }
}

/// A time of the command line as the API takes it: `never` is no bound.
fn time_or_never(text: &str) -> Value {
    if text == "never" { Value::Null } else { text.into() }
}

fn key_add(common: &Common, add: &KeyAdd) -> Result<(), Failure> {
    let KeyAdd { id, file, label, not_before, expires, replaces, grace } = add;
    let key = files::public_key(file)?;
    let mut body = match files::certificate_pem(file)? {
        // The certificate says more than its key: until when it is good.
        Some(pem) => json!({ "certificate": pem }),
        None => key_body(&key)?,
    };
    if let Some(label) = label {
        body["label"] = label.clone().into();
    }
    for (member, time) in [("not_before", not_before), ("expires", expires)] {
        if let Some(time) = time {
            body[member] = time_or_never(time);
        }
    }
    if let Some(replaces) = replaces {
        body["replaces"] = replaces.clone().into();
    }
    if let Some(grace) = grace {
        body["grace_s"] = files::duration(grace)?.as_secs().into();
    }
    let server = Server::find(common)?;
    let path = format!("{}/keys", principal(&server, id)?.1);
    let answer = server.call("POST", &path, Some(&body))?.json();
    if common.json {
        output::json(&answer);
        return Ok(());
    }
    say!("{id} has the key {} now", key.thumbprint());
    if let Some(previous) = answer["previous"].as_object() {
        let of = |member: &str| cell(previous.get(member).unwrap_or(&Value::Null));
        say!(
            "{} was replaced and ends at {}, or with the first login by the new key",
            of("kid"),
            of("expires")
        );
    }
    output::next(common, &["key", "list", id]);
    Ok(())
}

fn key_list(common: &Common, id: &str) -> Result<(), Failure> {
    const COLUMNS: [&str; 7] = ["kid", "alg", "state", "label", "not_before", "expires", "last_used"];
    let server = Server::find(common)?;
    let (kind, path) = principal(&server, id)?;
    let answer = server.call("GET", &format!("{path}/keys"), None)?.json();
    let keys = answer["items"].as_array().cloned().unwrap_or_default();
    if common.json {
        output::json(&Value::Array(keys));
        return Ok(());
    }
    let row = |key: &Value| COLUMNS.iter().map(|member| cell(&key[*member])).collect();
    let rows: Vec<Vec<String>> = keys.iter().map(row).collect();
    output::table(&COLUMNS, &rows);
    output::next(common, &[kind.verb(), "show", id]);
    Ok(())
}

fn key_set(common: &Common, set: &KeySet) -> Result<(), Failure> {
    let KeySet { id, kid, label, not_before, expires } = set;
    let mut body = json!({});
    if let Some(label) = label {
        body["label"] = if label.is_empty() { Value::Null } else { label.clone().into() };
    }
    for (member, time) in [("not_before", not_before), ("expires", expires)] {
        if let Some(time) = time {
            body[member] = time_or_never(time);
        }
    }
    let server = Server::find(common)?;
    let path = format!("{}/keys/{}", principal(&server, id)?.1, escape(kid));
    let answer = server.call("PATCH", &path, Some(&body))?.json();
    if common.json {
        output::json(&answer);
    } else {
        say!("the key {kid} of {id} is changed; what it has opened ends with it");
        output::next(common, &["key", "list", id]);
    }
    Ok(())
}

/// Devices and applications share one namespace, so a name says which of the two it is, and its path.
fn principal(server: &Server, id: &str) -> Result<(Kind, String), Failure> {
    for kind in [Kind::Device, Kind::Application] {
        let path = format!("{}/{}", kind.path(), escape(id));
        match server.call("GET", &path, None) {
            Ok(_) => return Ok((kind, path)),
            Err(Failure::NotFound(text)) if text.starts_with("there is no registry") => {
                return Err(Failure::NotFound(text));
            }
            Err(Failure::NotFound(_)) => {}
            Err(other) => return Err(other),
        }
    }
    Err(Failure::NotFound(format!("there is no device or application `{id}`; see `drawbridge device list`")))
}
