//! `drawbridge admin`: the admin credential itself.

use std::fs::{self, OpenOptions};
use std::io::Write as _;

use crate::args::{AdminCommand, Common};
use crate::output;
use crate::{Failure, Server};

pub(crate) fn admin(common: &Common, command: &AdminCommand) -> Result<(), Failure> {
    let AdminCommand::Rotate = command;
    let server = Server::find(common)?;
    let file = match &common.token_file {
        Some(file) => file.clone(),
        None => common.data.join("admin-token"),
    };
    // The place for the new one is made first: once the server has answered, the old one is dead.
    let draft = file.with_extension("new");
    let unusable =
        |e: std::io::Error| Failure::Usage(format!("{}: {e}; nothing was changed", draft.display()));
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut out = options.open(&draft).map_err(unusable)?;
    let answer =
        server.call("POST", "/v1/admin-token:rotate", None).inspect_err(|_| drop(fs::remove_file(&draft)))?;
    let answer = answer.json();
    let token = answer["admin_token"].as_str().unwrap_or_default();
    let kept =
        writeln!(out, "{token}").and_then(|()| out.sync_all()).and_then(|()| fs::rename(&draft, &file));
    kept.map_err(|e| {
        Failure::Unavailable(format!(
            "{}: {e}; the credential was replaced and could not be kept: remove {} in the data folder and restart the server, which makes a new one",
            draft.display(),
            file.display()
        ))
    })?;
    if common.json {
        output::json(&serde_json::json!({ "file": file.to_string_lossy() }));
    } else {
        say!(
            "the admin credential is replaced, the one before is dead; the new one is in {}",
            file.display()
        );
        output::next(common, &["audit", "tail"]);
    }
    Ok(())
}
