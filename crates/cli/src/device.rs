//! `drawbridge device`, `app`, `key`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use drawbridge_device::{DeviceIdentity, MqttClient, Qos, random_id};
use drawbridge_jose::{Algorithm, PublicKey, SigningKey};
use serde_json::{Value, json};

use crate::args::{AppCommand, Common, DeviceAdd, DeviceCommand, KeyCommand};
use crate::output::{self, cell};
use crate::server::escape;
use crate::{Failure, Server, files};

pub(crate) fn device(common: &Common, command: &DeviceCommand) -> Result<(), Failure> {
    match command {
        DeviceCommand::Add(add) => device_add(common, add),
        DeviceCommand::List => list(common, Kind::Device),
        DeviceCommand::Show { id } => show(common, Kind::Device, id),
        DeviceCommand::Block { id } => act(common, id, "block"),
        DeviceCommand::Unblock { id } => act(common, id, "unblock"),
        DeviceCommand::Revoke { id } => act(common, id, "revoke"),
        DeviceCommand::Delete { id } => delete(common, Kind::Device, id),
        DeviceCommand::Run { id, identity, count, every } => run(id, identity.as_deref(), *count, *every),
    }
}

pub(crate) fn app(common: &Common, command: &AppCommand) -> Result<(), Failure> {
    match command {
        AppCommand::Add { name, keys, policy, out } => {
            let keys = keys.iter().map(|path| files::public_key(path)).collect::<Result<Vec<_>, _>>()?;
            let body = json!({ "policy": policy });
            add(common, Kind::Application, name, keys, body, out.as_deref())?;
            match policy {
                Some(_) => output::next(&format!("drawbridge sub '#' --as ./{name}")),
                None => {
                    output::next(&format!("drawbridge policy attach POLICY {name}   # it may do nothing yet"))
                }
            }
            Ok(())
        }
        AppCommand::List => list(common, Kind::Application),
        AppCommand::Show { name } => show(common, Kind::Application, name),
        AppCommand::Delete { name } => delete(common, Kind::Application, name),
    }
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
    let made = add(common, Kind::Device, id, keys, body, add_args.out.as_deref())?;
    match made {
        Some(folder) => output::next(&format!("drawbridge device run {id} --as {}", folder.display())),
        None => output::next(&format!("drawbridge device show {id}")),
    }
    Ok(())
}

/// Registers a principal; without keys one is made here, and its private half never leaves.
fn add(
    common: &Common,
    kind: Kind,
    name: &str,
    mut keys: Vec<PublicKey>,
    mut body: Value,
    out: Option<&Path>,
) -> Result<Option<PathBuf>, Failure> {
    let server = Server::find(common)?;
    let made = keys.is_empty();
    let folder = match out {
        Some(folder) => folder.to_owned(),
        None => PathBuf::from(".").join(name),
    };
    let secret = if made {
        let taken = ["key.pem", "ca.pem", "device.json"].iter().any(|file| folder.join(file).exists());
        if taken {
            let folder = folder.display();
            return Err(Failure::Conflict(format!(
                "{folder} holds an identity already and is not overwritten; choose another folder with --out"
            )));
        }
        let key = SigningKey::generate(Algorithm::Es256).map_err(|e| Failure::Unavailable(e.to_string()))?;
        keys.push(key.public_key().clone());
        Some(key)
    } else {
        None
    };
    body["keys"] = keys.iter().map(key_body).collect::<Result<Vec<_>, _>>()?.into();
    let answer = server.create(kind.path(), name, &body)?.json();
    let discovery =
        server.client().send("GET", "/.well-known/oauth-authorization-server", None, None)?.json();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    println!("{} {name} registered with key {}", kind.verb(), keys[0].thumbprint());
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
            println!("its identity is in {} (key.pem, ca.pem, device.json)", folder.display());
            Some(folder)
        }
        None => {
            if let Some(out) = out {
                write_description(&server, name, &discovery, out)?;
            }
            None
        }
    };
    if common.json {
        output::json(&answer);
    }
    Ok(written)
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
    println!("ca.pem and device.json are in {}", out.display());
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
                if item["blocked"] == true { "blocked".to_owned() } else { "active".to_owned() },
                keys.to_string(),
                cell(&item["policy"]),
                cell(&item["assertion_profile"]),
            ]
        })
        .collect();
    output::table(&["name", "state", "keys", "policy", "assertions"], &rows);
    output::next(&format!("drawbridge {} show NAME", kind.verb()));
    Ok(())
}

fn show(common: &Common, kind: Kind, id: &str) -> Result<(), Failure> {
    let answer = Server::find(common)?.call("GET", &format!("{}/{}", kind.path(), escape(id)), None)?.json();
    output::json(&answer);
    if !common.json {
        output::next(&format!("drawbridge can {id} publish devices/{id}/events/test"));
    }
    Ok(())
}

fn act(common: &Common, id: &str, verb: &str) -> Result<(), Failure> {
    let path = format!("/v1/devices/{}/{verb}", escape(id));
    let answer = Server::find(common)?.call("POST", &path, Some(&json!({})))?;
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
            "revoked: every token and session it had is dead\nnote: whoever holds its key can sign anew; if the key is stolen, `device block` or `key remove`",
            "block",
        ),
    };
    println!("{id} is {done}");
    output::next(&format!("drawbridge device {next} {id}"));
    Ok(())
}

fn delete(common: &Common, kind: Kind, id: &str) -> Result<(), Failure> {
    Server::find(common)?.call("DELETE", &format!("{}/{}", kind.path(), escape(id)), None)?;
    println!("{} {id} is deleted with its keys", kind.verb());
    output::next(&format!("drawbridge {} list", kind.verb()));
    Ok(())
}

pub(crate) fn key(common: &Common, command: &KeyCommand) -> Result<(), Failure> {
    let server = Server::find(common)?;
    match command {
        KeyCommand::Add { id, file, label } => {
            let key = files::public_key(file)?;
            let mut body = key_body(&key)?;
            if let Some(label) = label {
                body["label"] = label.clone().into();
            }
            let answer =
                server.call("POST", &format!("{}/keys", principal_path(&server, id)?), Some(&body))?;
            if common.json {
                output::json(&answer.json());
            } else {
                println!("{id} has the key {} now", key.thumbprint());
                output::next(&format!("drawbridge key list {id}"));
            }
        }
        KeyCommand::List { id } => {
            let answer = server.call("GET", &format!("{}/keys", principal_path(&server, id)?), None)?.json();
            let keys = answer["keys"].as_array().or(answer["items"].as_array()).cloned().unwrap_or_default();
            if common.json {
                output::json(&Value::Array(keys));
            } else {
                let row = |key: &Value| {
                    ["kid", "alg", "state", "label", "expires"].iter().map(|m| cell(&key[*m])).collect()
                };
                let rows: Vec<Vec<String>> = keys.iter().map(row).collect();
                output::table(&["kid", "alg", "state", "label", "expires"], &rows);
                output::next(&format!("drawbridge key add {id} FILE"));
            }
        }
        KeyCommand::Remove { id, kid } => {
            server.call("DELETE", &format!("{}/keys/{kid}", principal_path(&server, id)?), None)?;
            println!("the key {kid} of {id} is retired; sessions and tokens it opened are ended");
            output::next(&format!("drawbridge key list {id}"));
        }
    }
    Ok(())
}

/// Devices and applications share one namespace, so a name says which of the two it is.
fn principal_path(server: &Server, id: &str) -> Result<String, Failure> {
    for kind in [Kind::Device, Kind::Application] {
        let path = format!("{}/{}", kind.path(), escape(id));
        match server.call("GET", &path, None) {
            Ok(_) => return Ok(path),
            Err(Failure::NotFound(_)) => {}
            Err(other) => return Err(other),
        }
    }
    Err(Failure::NotFound(format!("there is no device or application `{id}`; see `drawbridge device list`")))
}

fn run(id: &str, identity: Option<&Path>, count: u64, every: u64) -> Result<(), Failure> {
    let folder = identity.map_or_else(|| PathBuf::from(".").join(id), Path::to_owned);
    let identity = DeviceIdentity::load(&folder)?;
    if identity.device != id {
        return Err(Failure::Usage(format!(
            "{} is the identity of `{}`, not of `{id}`; name its folder with --as",
            folder.display(),
            identity.device
        )));
    }
    let mut client = MqttClient::connect(&identity.mqtt_options()?)?;
    println!("{id} is connected to {} with a JWT signed by its own key", identity.mqtts);
    client.subscribe(&format!("devices/{id}/commands/#"))?;
    client.subscribe(&format!("devices/{id}/config"))?;
    let run = random_id();
    let mut sent = 0;
    loop {
        sent += 1;
        let payload = json!({ "run": run, "report": sent }).to_string();
        client.publish(
            &format!("devices/{id}/events/report"),
            payload.as_bytes(),
            Qos::AtLeastOnce,
            false,
        )?;
        println!("published devices/{id}/events/report {payload}");
        if count != 0 && sent >= count {
            client.disconnect()?;
            return Ok(());
        }
        let mut left = Duration::from_secs(every.max(1));
        while !left.is_zero() {
            let slice = left.min(Duration::from_secs(1));
            if let Some(message) = client.receive(slice)? {
                println!("received {} {}", message.topic, String::from_utf8_lossy(&message.payload));
                client.publish(&format!("devices/{id}/state"), &message.payload, Qos::AtLeastOnce, false)?;
            }
            left = left.saturating_sub(slice);
        }
    }
}
