//! `drawbridge token`.

use std::io::Read;
use std::path::Path;

use drawbridge_device::{ConnectJwt, now_s};
use drawbridge_jose::base64url_decode;
use drawbridge_names::PrincipalName;
use serde_json::{Value, json};

use crate::args::{Common, TokenCommand};
use crate::{Failure, Server, files, output};

pub(crate) fn token(common: &Common, command: &TokenCommand) -> Result<(), Failure> {
    match command {
        TokenCommand::Mint { key, device, aud, life } => mint(common, key, device, aud, life),
        TokenCommand::Inspect { token } => inspect(common, &token.0),
        TokenCommand::Get { id, key, resource } => get(common, id, key, resource.as_deref()),
    }
}

/// What follows a command that prints a token: the token itself is in no hint.
const INTO_INSPECT: &str = " | drawbridge token inspect -";

fn mint(common: &Common, key_file: &Path, device: &str, aud: &str, life: &str) -> Result<(), Failure> {
    PrincipalName::parse(device).map_err(|e| Failure::Usage(format!("--device: {e}")))?;
    let key = files::private_key(key_file)?;
    let life_s = files::duration(life)?.as_secs();
    if !(1..=86_400).contains(&life_s) {
        return Err(Failure::Usage(format!(
            "--life {life} is {life_s} s; the bridge takes JWTs of 1 s to 24 h, wanted 1s..24h"
        )));
    }
    let jwt = ConnectJwt { device, bridge_audience: aud, now_s: now_s(), life_s }.sign(&key)?;
    if common.json {
        output::json(&json!({ "jwt": jwt, "expires_in": life_s }));
        return Ok(());
    }
    say!("{jwt}");
    let key = key_file.to_string_lossy();
    let words = ["token", "mint", "--key", &key, "--device", device, "--aud", aud, "--life", life];
    output::next_beside_product(common, false, &words, INTO_INSPECT);
    Ok(())
}

fn get(common: &Common, id: &str, key_file: &Path, resource: Option<&str>) -> Result<(), Failure> {
    PrincipalName::parse(id).map_err(|e| Failure::Usage(e.to_string()))?;
    let key = files::private_key(key_file)?;
    let server = Server::find(common)?;
    let discovery = server.discovery()?;
    let issuer = discovery["issuer"].as_str().unwrap_or_default();
    let answer = server.client().token(id, issuer, resource, &key)?;
    if common.json {
        output::json(&json!({ "access_token": answer.access_token, "expires_in": answer.expires_in_s }));
        return Ok(());
    }
    say!("{}", answer.access_token);
    let key = key_file.to_string_lossy();
    let mut words = vec!["token", "get", id, "--key", &key];
    if let Some(resource) = resource {
        words.extend(["--resource", resource]);
    }
    output::next_beside_product(common, true, &words, INTO_INSPECT);
    Ok(())
}

/// Prints header and claims of a JWT. Nothing is verified, and the output says so.
fn inspect(common: &Common, token: &str) -> Result<(), Failure> {
    let mut text = token.to_owned();
    if token == "-" {
        text.clear();
        std::io::stdin().read_to_string(&mut text).map_err(|e| Failure::Usage(format!("stdin: {e}")))?;
    }
    let segments: Vec<&str> = text.trim().split('.').collect();
    let [header, claims, signature] = segments[..] else {
        return Err(Failure::Usage(format!(
            "this has {} segment(s), a JWT has 3 (header.claims.signature)",
            segments.len()
        )));
    };
    let decoded = |what: &str, segment: &str| {
        let bytes = base64url_decode(segment.trim_end_matches('='))
            .map_err(|e| Failure::Usage(format!("the {what} is no base64url: {e}")))?;
        serde_json::from_slice::<Value>(&bytes)
            .map_err(|e| Failure::Usage(format!("the {what} is no JSON: {e}")))
    };
    let (header, claims) = (decoded("header", header)?, decoded("claims", claims)?);
    if common.json {
        output::json(&json!({ "header": header, "claims": claims, "verified": false }));
        return Ok(());
    }
    say!("not verified: anyone can write such a text; only the signature proves it");
    for (what, value) in [("header", &header), ("claims", &claims)] {
        say!("{what} {}", serde_json::to_string_pretty(value).expect("a JSON value can be written"));
    }
    if let Some(exp) = claims["exp"].as_u64() {
        let now = now_s();
        match exp.checked_sub(now) {
            Some(left) if left > 0 => say!("expires in {left} s"),
            _ => say!("expired {} s ago", now.saturating_sub(exp)),
        };
    }
    say!("signature {} bytes", base64url_decode(signature.trim_end_matches('=')).map_or(0, |s| s.len()));
    // The name is as unproven as the rest, but a name it must be to stand in a command line.
    match claims["sub"].as_str().filter(|sub| PrincipalName::parse(sub).is_ok()) {
        Some(sub) => output::next(common, &["key", "list", sub]),
        None => output::next(common, &["device", "list"]),
    }
    Ok(())
}
