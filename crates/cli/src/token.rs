//! `drawbridge token`.

use std::io::Read;

use drawbridge_device::{ConnectJwt, now_s};
use drawbridge_jose::base64url_decode;
use serde_json::Value;

use crate::args::{Common, TokenCommand};
use crate::{Failure, Server, files};

pub(crate) fn token(common: &Common, command: &TokenCommand) -> Result<(), Failure> {
    match command {
        TokenCommand::Mint { key, device, aud, life } => {
            let key = files::private_key(key)?;
            let life_s = files::duration(life)?.as_secs();
            if !(1..=86_400).contains(&life_s) {
                return Err(Failure::Usage(format!(
                    "--life {life} is {life_s} s; the bridge takes JWTs of 1 s to 24 h, wanted 1s..24h"
                )));
            }
            let jwt = ConnectJwt { device, bridge_audience: aud, now_s: now_s(), life_s };
            println!("{}", jwt.sign(&key)?);
            Ok(())
        }
        TokenCommand::Inspect { token } => inspect(token),
        TokenCommand::Get { id, key, resource } => {
            let key = files::private_key(key)?;
            let server = Server::find(common)?;
            let discovery =
                server.client().send("GET", "/.well-known/oauth-authorization-server", None, None)?.json();
            let issuer = discovery["issuer"].as_str().unwrap_or_default();
            let answer = server.client().token(id, issuer, resource.as_deref(), &key)?;
            println!("{}", answer.access_token);
            Ok(())
        }
    }
}

/// Prints header and claims of a JWT. Nothing is verified, and the output says so.
fn inspect(token: &str) -> Result<(), Failure> {
    let mut text = token.to_owned();
    if token == "-" {
        text.clear();
        std::io::stdin().read_to_string(&mut text).map_err(|e| Failure::Usage(format!("stdin: {e}")))?;
    }
    let text = text.trim();
    let segments: Vec<&str> = text.split('.').collect();
    let [header, claims, signature] = segments[..] else {
        return Err(Failure::Usage(format!(
            "this has {} segments, a JWT has 3 (header.claims.signature)",
            segments.len()
        )));
    };
    println!("not verified: anyone can write such a text; only the signature proves it");
    for (what, segment) in [("header", header), ("claims", claims)] {
        let bytes = base64url_decode(segment.trim_end_matches('='))
            .map_err(|e| Failure::Usage(format!("the {what} is no base64url: {e}")))?;
        let value: Value = serde_json::from_slice(&bytes)
            .map_err(|e| Failure::Usage(format!("the {what} is no JSON: {e}")))?;
        println!("{what} {}", serde_json::to_string_pretty(&value).expect("a JSON value can be written"));
        if what == "claims"
            && let Some(exp) = value["exp"].as_u64()
        {
            let now = now_s();
            match exp.checked_sub(now) {
                Some(left) if left > 0 => println!("expires in {left} s"),
                _ => println!("expired {} s ago", now.saturating_sub(exp)),
            }
        }
    }
    println!("signature {} bytes", base64url_decode(signature.trim_end_matches('=')).map_or(0, |s| s.len()));
    Ok(())
}
