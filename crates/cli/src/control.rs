//! `drawbridge command`, `config`, `state`.

use drawbridge_jose::base64url_decode;
use serde_json::{Value, json};

use crate::args::{CommandCommand, Common, ConfigCommand, StateCommand};
use crate::output;
use crate::server::escape;
use crate::{Failure, Server, files};

pub(crate) fn command(common: &Common, command: &CommandCommand) -> Result<(), Failure> {
    let CommandCommand::Send { id, payload, subfolder, wait } = command;
    let wait_s = files::duration(wait)?.as_secs();
    let mut body = json!({ "text": payload, "wait_s": wait_s });
    if let Some(subfolder) = subfolder {
        body["subfolder"] = subfolder.clone().into();
    }
    let answer =
        Server::find(common)?.call("POST", &format!("/v1/devices/{}/commands", escape(id)), Some(&body))?;
    if common.json {
        output::json(&answer.json());
    } else {
        say!("{id} acknowledged the command");
        output::next(common, &["state", "list", id]);
    }
    Ok(())
}

pub(crate) fn config(common: &Common, command: &ConfigCommand) -> Result<(), Failure> {
    let server = Server::find(common)?;
    match command {
        ConfigCommand::Set { id, payload } => {
            let body = json!({ "text": payload });
            let answer =
                server.call("PUT", &format!("/v1/devices/{}/config", escape(id)), Some(&body))?.json();
            if common.json {
                output::json(&answer);
            } else {
                say!("config of {id} is version {} now", answer["version"]);
                output::next(common, &["config", "get", id]);
            }
        }
        ConfigCommand::Get { id } => {
            let answer = server.call("GET", &format!("/v1/devices/{}/config", escape(id)), None)?.json();
            if common.json {
                output::json(&answer);
            } else {
                say!("version {}", answer["version"]);
                say!("{}", payload_text(&answer));
                output::next(common, &["state", "list", id]);
            }
        }
    }
    Ok(())
}

pub(crate) fn state(common: &Common, command: &StateCommand) -> Result<(), Failure> {
    let StateCommand::List { id } = command;
    let answer =
        Server::find(common)?.call("GET", &format!("/v1/devices/{}/state", escape(id)), None)?.json();
    if common.json {
        output::json(&answer["items"]);
        return Ok(());
    }
    let empty = Vec::new();
    let rows: Vec<Vec<String>> = answer["items"]
        .as_array()
        .unwrap_or(&empty)
        .iter()
        .map(|item| vec![output::cell(&item["received"]), payload_text(item)])
        .collect();
    output::table(&["received", "state"], &rows);
    output::next(common, &["device", "show", id]);
    Ok(())
}

/// The payload of an answer as text; bytes that are no text are shown with replacement characters.
fn payload_text(item: &Value) -> String {
    let encoded = item["payload"].as_str().unwrap_or_default();
    let url_safe: String = encoded
        .trim_end_matches('=')
        .chars()
        .map(|c| match c {
            '+' => '-',
            '/' => '_',
            c => c,
        })
        .collect();
    base64url_decode(&url_safe).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}
