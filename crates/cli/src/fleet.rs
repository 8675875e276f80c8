//! `drawbridge gateway` and `ca`.

use std::path::Path;

use serde_json::{Value, json};

use crate::args::{CaCommand, Common, GatewayCommand};
use crate::output::{self, cell};
use crate::server::escape;
use crate::{Failure, Server, files};

pub(crate) fn gateway(common: &Common, command: &GatewayCommand) -> Result<(), Failure> {
    let link =
        |gateway: &str, device: &str| format!("/v1/gateways/{}/devices/{}", escape(gateway), escape(device));
    match command {
        GatewayCommand::Link { gateway, device } => {
            let answer = Server::find(common)?.call("PUT", &link(gateway, device), None)?.json();
            if common.json {
                output::json(&answer);
            } else {
                say!("{gateway} may act for {device}");
                output::next(common, &["gateway", "list", gateway]);
            }
        }
        GatewayCommand::Unlink { gateway, device } => {
            Server::find(common)?.call("DELETE", &link(gateway, device), None)?;
            if common.json {
                output::json(&json!({ "gateway": gateway, "device": device, "unlinked": true }));
            } else {
                say!("{gateway} may act for {device} no more; what it opened for it is ended");
                output::next(common, &["gateway", "list", gateway]);
            }
        }
        GatewayCommand::List { gateway: Some(gateway), .. } => {
            let path = format!("/v1/gateways/{}/devices", escape(gateway));
            let items = all(&Server::find(common)?, &path)?;
            listed(common, items, "device", &["device", "show", gateway]);
        }
        GatewayCommand::List { device, .. } => {
            let device = device.as_deref().unwrap_or_default();
            let path = format!("/v1/devices/{}/gateways", escape(device));
            let answer = Server::find(common)?.call("GET", &path, None)?.json();
            let items = answer["items"].as_array().cloned().unwrap_or_default();
            listed(common, items, "gateway", &["device", "show", device]);
        }
    }
    Ok(())
}

/// All pages of a listing.
fn all(server: &Server, path: &str) -> Result<Vec<Value>, Failure> {
    let mut items = Vec::new();
    let mut page = format!("{path}?limit=500");
    loop {
        let found = server.call("GET", &page, None)?.json();
        items.extend(found["items"].as_array().cloned().unwrap_or_default());
        match found["next_cursor"].as_str() {
            Some(cursor) => page = format!("{path}?limit=500&cursor={cursor}"),
            None => return Ok(items),
        }
    }
}

fn listed(common: &Common, items: Vec<Value>, heading: &str, next: &[&str]) {
    if common.json {
        return output::json(&Value::Array(items));
    }
    let rows: Vec<Vec<String>> = items.iter().map(|item| vec![cell(&item["name"])]).collect();
    output::table(&[heading], &rows);
    output::next(common, next);
}

pub(crate) fn ca(common: &Common, command: &CaCommand) -> Result<(), Failure> {
    match command {
        CaCommand::Add { file, label } => {
            let body = json!({ "certificate": certificate(file)?, "label": label });
            let answer = Server::find(common)?.call("POST", "/v1/cas", Some(&body))?.json();
            if common.json {
                output::json(&answer);
            } else {
                say!(
                    "the CA {} is registered, good until {}",
                    cell(&answer["subject"]),
                    cell(&answer["not_after"])
                );
                output::next(common, &["ca", "list"]);
            }
        }
        CaCommand::List => {
            let answer = Server::find(common)?.call("GET", "/v1/cas", None)?.json();
            let items = answer["items"].as_array().cloned().unwrap_or_default();
            if common.json {
                output::json(&answer["items"]);
            } else {
                let columns = ["fingerprint", "subject", "not_after", "label"];
                let row = |item: &Value| columns.map(|column| cell(&item[column])).to_vec();
                output::table(&columns, &items.iter().map(row).collect::<Vec<_>>());
                output::next(common, &["device", "list"]);
            }
        }
        CaCommand::Remove { fingerprint } => {
            Server::find(common)?.call("DELETE", &format!("/v1/cas/{}", escape(fingerprint)), None)?;
            if common.json {
                output::json(&json!({ "fingerprint": fingerprint, "removed": true }));
            } else {
                say!("the CA is removed: no certificate of it logs in any more");
                output::next(common, &["ca", "list"]);
            }
        }
    }
    Ok(())
}

fn certificate(file: &Path) -> Result<String, Failure> {
    const WANTED: &str = "wanted the certificate of a CA in PEM (`openssl x509 -inform der` makes it of DER)";
    let text = String::from_utf8(files::read(file, WANTED)?).unwrap_or_default();
    if text.contains("-----BEGIN CERTIFICATE-----") {
        return Ok(text);
    }
    Err(Failure::Usage(format!("{}: no certificate was found; {WANTED}", file.display())))
}
