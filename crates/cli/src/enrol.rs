//! `drawbridge enrol`, and `device enrol`: devices that register themselves.

use std::fs;
use std::path::{Path, PathBuf};

use drawbridge_device::write_private;
use drawbridge_jose::{Algorithm, SigningKey};
use serde_json::{Value, json};

use crate::args::{Common, EnrolCommand, EnrolCreate};
use crate::output::{self, cell};
use crate::server::escape;
use crate::{Failure, Server, files};

pub(crate) fn enrol(common: &Common, command: &EnrolCommand) -> Result<(), Failure> {
    match command {
        EnrolCommand::Create(create) => make(common, create),
        EnrolCommand::List => list(common),
        EnrolCommand::Show { id } => show(common, id),
        EnrolCommand::Revoke { id } => {
            Server::find(common)?.call("DELETE", &format!("/v1/enrolments/{}", escape(id)), None)?;
            done(common, &json!({ "id": id, "ended": true }), || {
                say!("the enrolment {id} is ended; the devices that came by it stay");
                output::next(common, &["enrol", "show", id]);
            });
            Ok(())
        }
        EnrolCommand::Approve { device: Some(device), .. } => {
            let path = format!("/v1/devices/{}/approve", escape(device));
            let answer = Server::find(common)?.call("POST", &path, None)?.json();
            done(common, &answer, || {
                say!("{device} is admitted");
                output::next(common, &["device", "show", device]);
            });
            Ok(())
        }
        EnrolCommand::Approve { all, .. } => approve_all(common, all.as_deref().unwrap_or_default()),
        EnrolCommand::Reject { device } => {
            Server::find(common)?.call("POST", &format!("/v1/devices/{}/reject", escape(device)), None)?;
            done(common, &json!({ "name": device, "rejected": true }), || {
                say!("{device} is rejected: its name is free again, its key can never be registered again");
                output::next(common, &["enrol", "list"]);
            });
            Ok(())
        }
        EnrolCommand::Undo { device } => {
            let path = format!("/v1/devices/{}/undo-enrolment", escape(device));
            Server::find(common)?.call("POST", &path, None)?;
            done(common, &json!({ "name": device, "undone": true }), || {
                say!(
                    "the claim of {device} is taken back: it is deleted, and its enrolment has one claim more"
                );
                output::next(common, &["enrol", "list"]);
            });
            Ok(())
        }
    }
}

fn done(common: &Common, answer: &Value, said: impl FnOnce()) {
    if common.json {
        output::json(answer);
    } else {
        said();
    }
}

fn make(common: &Common, create: &EnrolCreate) -> Result<(), Failure> {
    let life_s = files::duration(&create.life)?.as_secs();
    let mut body = json!({ "auto": create.auto, "any": create.any });
    if let Some(pattern) = &create.pattern {
        body["id_pattern"] = json!(pattern);
    }
    for (member, list) in [("ids", &create.ids), ("key_thumbprints", &create.keys)] {
        if !list.is_empty() {
            body[member] = json!(list);
        }
    }
    for (member, text) in [("policy", &create.policy), ("label", &create.label)] {
        if let Some(text) = text {
            body[member] = json!(text);
        }
    }
    if let Some(count) = create.count {
        body["count"] = json!(count);
    }
    body["life_s"] = json!(life_s);
    let to_stdout = create.out.as_deref() == Some(Path::new("-"));
    // Judged before anything is made: a token that cannot be written is lost.
    if let Some(out) = create.out.as_deref().filter(|out| !to_stdout && out.exists()) {
        let found =
            format!("{} exists and is not overwritten; choose another file with --out", out.display());
        return Err(Failure::Conflict(found));
    }
    let mut answer = Server::find(common)?.call("POST", "/v1/enrolments", Some(&body))?.json();
    let token = answer["token"].as_str().unwrap_or_default().to_owned();
    let id = answer["id"].as_str().unwrap_or_default().to_owned();
    if to_stdout {
        if common.json {
            output::json(&answer);
        } else {
            say!("{token}");
            output::next_beside_product(common, true, &["enrol", "show", &id], "");
        }
        return Ok(());
    }
    let out = create.out.clone().unwrap_or_else(|| PathBuf::from(format!("./enrolment-{id}.token")));
    write_private(&out, format!("{token}\n").as_bytes())?;
    if let Some(members) = answer.as_object_mut() {
        members.remove("token");
        members.insert("token_file".to_owned(), json!(out.to_string_lossy()));
    }
    done(common, &answer, || {
        say!(
            "enrolment {id}: {} device(s), until {}, {}",
            cell(&answer["count"]),
            cell(&answer["expires"]),
            if answer["auto"] == true { "admitted at once" } else { "each waits for `enrol approve`" }
        );
        say!("its token is in {}; give it to the devices, it is not shown again", out.display());
        output::next(common, &["enrol", "show", &id]);
    });
    Ok(())
}

/// Whom an enrolment is for, in a few words.
fn names(item: &Value) -> String {
    let list = |list: &Value| {
        let list = list.as_array().cloned().unwrap_or_default();
        let first = list.first().map(cell).unwrap_or_default();
        if list.len() > 1 { format!("{first} and {} more", list.len() - 1) } else { first }
    };
    match (&item["id_pattern"], &item["ids"], &item["key_thumbprints"]) {
        (Value::String(pattern), _, _) => pattern.clone(),
        (_, ids @ Value::Array(_), _) => list(ids),
        (_, _, keys) => format!("key {}", list(keys)),
    }
}

fn list(common: &Common) -> Result<(), Failure> {
    let answer = Server::find(common)?.call("GET", "/v1/enrolments", None)?.json();
    let items = answer["items"].as_array().cloned().unwrap_or_default();
    done(common, &answer["items"], || {
        let row = |item: &Value| {
            let claims = format!("{}/{}", cell(&item["claims"]), cell(&item["count"]));
            let columns = ["policy", "expires", "label"].map(|column| cell(&item[column]));
            [vec![cell(&item["id"]), cell(&item["state"]), names(item), claims], columns.to_vec()].concat()
        };
        let rows: Vec<Vec<String>> = items.iter().map(row).collect();
        output::table(&["id", "state", "for", "claims", "policy", "expires", "label"], &rows);
        match items.first().and_then(|item| item["id"].as_str()) {
            Some(id) => output::next(common, &["enrol", "show", id]),
            None => output::next(common, &["enrol", "create", "--pattern", "pump-*"]),
        }
    });
    Ok(())
}

fn show(common: &Common, id: &str) -> Result<(), Failure> {
    let server = Server::find(common)?;
    let path = format!("/v1/enrolments/{}", escape(id));
    let mut answer = server.call("GET", &path, None)?.json();
    let mut devices: Vec<Value> = Vec::new();
    let mut page = format!("{path}/devices?limit=500");
    loop {
        let found = server.call("GET", &page, None)?.json();
        devices.extend(found["items"].as_array().cloned().unwrap_or_default());
        match found["next_cursor"].as_str() {
            Some(cursor) => page = format!("{path}/devices?limit=500&cursor={cursor}"),
            None => break,
        }
    }
    let waiting = devices.iter().filter(|device| device["state"] == "pending").count();
    answer["devices"] = devices.into();
    output::json(&answer);
    if waiting > 0 {
        output::next(common, &["enrol", "approve", "--all", id]);
    } else {
        output::next(common, &["enrol", "list"]);
    }
    Ok(())
}

fn approve_all(common: &Common, id: &str) -> Result<(), Failure> {
    let server = Server::find(common)?;
    let path = format!("/v1/enrolments/{}/approve", escape(id));
    let mut approved = 0;
    loop {
        let answer = server.call("POST", &path, None)?.json();
        approved += answer["approved"].as_u64().unwrap_or(0);
        if answer["more"] != true {
            break;
        }
    }
    done(common, &json!({ "id": id, "approved": approved }), || {
        say!("{approved} device(s) of {id} are admitted");
        output::next(common, &["enrol", "show", id]);
    });
    Ok(())
}

/// `device enrol`: this machine is the device. The key is stored before it is sent, so that a second try
/// after a lost answer is by the same key.
pub(crate) fn device(
    common: &Common,
    id: &str,
    out: Option<&Path>,
    mqtts: Option<&str>,
) -> Result<(), Failure> {
    let wanted = "wanted the enrolment token: one line that begins with `dbe_`, as `enrol create` writes it";
    let token_file = common.token_file.as_deref().ok_or_else(|| {
        Failure::Usage(
            "--token-file is missing: the file with the enrolment token of `enrol create`".to_owned(),
        )
    })?;
    let text = String::from_utf8(files::read(token_file, wanted)?).unwrap_or_default();
    let token = text.trim();
    if !token.starts_with("dbe_") || token.contains(char::is_whitespace) {
        return Err(Failure::Usage(format!(
            "{}: no enrolment token was found; {wanted}",
            token_file.display()
        )));
    }
    let folder = out.map_or_else(|| PathBuf::from(".").join(id), Path::to_owned);
    let file = |name: &str| folder.join(name);
    if file("device.json").exists() {
        return Err(Failure::Conflict(format!(
            "{} holds an identity already and is not overwritten; choose another folder with --out",
            folder.display()
        )));
    }
    let server = Server::as_guest(common)?;
    let fault = |path: &Path, e: std::io::Error| Failure::Usage(format!("{}: {e}", path.display()));
    fs::create_dir_all(&folder).map_err(|e| fault(&folder, e))?;
    let key = if file("key.pem").exists() {
        files::private_key(&file("key.pem"))?
    } else {
        let key = SigningKey::generate(Algorithm::Es256).map_err(|e| Failure::Unavailable(e.to_string()))?;
        write_private(&file("key.pem"), key.to_pkcs8_pem().as_bytes())?;
        key
    };
    let answer = server.client().enrol(id, token, &key)?;
    let mqtts = mqtts.map_or_else(|| server.mqtts(), str::to_owned);
    let description = json!({
        "registry": answer.registry, "device": answer.device, "issuer": answer.issuer,
        "bridge_audience": answer.bridge_audience, "mqtts": mqtts, "https": server.https(),
    });
    let registration = file("registration-token");
    if registration.exists() {
        fs::remove_file(&registration).map_err(|e| fault(&registration, e))?;
    }
    write_private(&registration, format!("{}\n", answer.registration_token).as_bytes())?;
    let ca = file("ca.pem");
    fs::write(&ca, server.ca_pem()).map_err(|e| fault(&ca, e))?;
    let text =
        format!("{}\n", serde_json::to_string_pretty(&description).expect("a JSON value can be written"));
    // Last: with it the folder is an identity.
    fs::write(file("device.json"), text).map_err(|e| fault(&file("device.json"), e))?;
    let folder = folder.to_string_lossy().into_owned();
    let state = if answer.pending { "pending" } else { "active" };
    let told = json!({ "name": answer.device, "state": state, "identity": folder });
    done(common, &told, || {
        say!("{id} is registered with key {}", key.public_key().thumbprint());
        say!("its identity is in {folder} (key.pem, ca.pem, device.json, registration-token)");
        if answer.pending {
            say!("it waits for an operator: `drawbridge enrol approve {id}`");
        }
        output::next_with_identity(common, &["device", "run", id, "--as", &folder]);
    });
    Ok(())
}
