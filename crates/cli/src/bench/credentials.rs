//! As whom the clients log in.

use std::fs;
use std::io;
use std::path::Path;

use drawbridge_device::{ConnectJwt, DeviceIdentity, now_s};
use zeroize::Zeroizing;

use super::args::Load;
use crate::{Failure, files};

/// What a client does: with `--keys` and `--as` together, receivers have another identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Sender,
    Receiver,
}

/// All identities of a run.
pub(super) struct Credentials {
    /// A device for each client (`--keys`).
    devices: Vec<DeviceIdentity>,
    /// One application for all (`--as`).
    application: Option<DeviceIdentity>,
    username: Option<String>,
    password: Option<Zeroizing<String>>,
    /// Before the number in client ids that are ours to choose.
    prefix: String,
}

/// What CONNECT of one client says.
pub(super) struct Login {
    pub(super) client_id: String,
    pub(super) username: Option<String>,
    pub(super) password: Option<Zeroizing<Vec<u8>>>,
    /// What `{id}` in topics stands for.
    pub(super) id: String,
}

impl Credentials {
    pub(super) fn read(load: &Load) -> Result<Self, Failure> {
        let devices = load.keys.as_deref().map_or(Ok(Vec::new()), folders)?;
        let application = load.identity.as_deref().map(DeviceIdentity::load).transpose()?;
        if load.plain && (application.is_some() || !devices.is_empty()) {
            return Err(Failure::Usage(
                "a JWT is not sent without TLS; leave --plain away, or log in with --username or as nobody"
                    .to_owned(),
            ));
        }
        let password = if load.password_stdin { Some(one_line()?) } else { None };
        let username = load.username.clone();
        // Runs that overlap must not take each other's sessions.
        let prefix = format!("b{}", std::process::id());
        Ok(Self { devices, application, username, password, prefix })
    }

    /// The root that the server's certificate must lead to: `--ca`, else that of an identity.
    pub(super) fn ca_pem(&self, ca: Option<&Path>, load: &Load) -> Result<Option<String>, Failure> {
        if load.plain {
            return Ok(None);
        }
        if let Some(path) = ca {
            let bytes = files::read(path, "wanted the broker's root certificate in PEM")?;
            let text = String::from_utf8(bytes)
                .map_err(|_| Failure::Usage(format!("{}: not text; wanted PEM", path.display())))?;
            return Ok(Some(text));
        }
        match self.application.as_ref().or(self.devices.first()) {
            Some(identity) => Ok(Some(identity.ca_pem.clone())),
            None => Err(Failure::Usage(
                "TLS needs the broker's root certificate: name it with --ca FILE, or speak without TLS with --plain"
                    .to_owned(),
            )),
        }
    }

    /// The CONNECT of client `number`, with a fresh JWT that lives a day at most.
    pub(super) fn login(&self, number: usize, role: Role) -> Result<Login, Failure> {
        let own_id = format!("{}-{number}", self.prefix);
        let identity = match (&self.application, role) {
            (Some(application), Role::Receiver) => Some((application, own_id.clone())),
            (Some(application), Role::Sender) if self.devices.is_empty() => {
                Some((application, own_id.clone()))
            }
            _ if self.devices.is_empty() => None,
            _ => {
                let device = self.devices.get(number).ok_or_else(|| {
                    Failure::Usage(format!(
                        "{} identities were found in --keys, and client {number} (counted from 0) needs one of its own; \
                         give --as DIR for those that receive, or ask for fewer clients",
                        self.devices.len()
                    ))
                })?;
                Some((device, device.device.clone()))
            }
        };
        let Some((identity, client_id)) = identity else {
            let password = self.password.as_ref().map(|text| Zeroizing::new(text.as_bytes().to_vec()));
            return Ok(Login {
                id: own_id.clone(),
                client_id: own_id,
                username: self.username.clone(),
                password,
            });
        };
        let jwt = ConnectJwt {
            device: &identity.device,
            bridge_audience: &identity.bridge_audience,
            now_s: now_s(),
            life_s: 3600,
        };
        let password = Some(Zeroizing::new(jwt.sign(&identity.key)?.into_bytes()));
        // 3.1.1 permits no password without a user name; beside a JWT the name is of no account.
        let username = Some("jwt".to_owned());
        Ok(Login { id: identity.device.clone(), client_id, username, password })
    }
}

/// Every folder in a folder, by name.
fn folders(path: &Path) -> Result<Vec<DeviceIdentity>, Failure> {
    let fault = |e: io::Error| {
        Failure::Usage(format!("{}: {e}; wanted a folder of identity folders", path.display()))
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(path).map_err(fault)? {
        let entry = entry.map_err(fault)?.path();
        if entry.is_dir() {
            found.push(entry);
        }
    }
    found.sort();
    if found.is_empty() {
        return Err(Failure::Usage(format!(
            "{}: no identity folder was found; `drawbridge device add ID --out {}/ID` makes one",
            path.display(),
            path.display()
        )));
    }
    found.iter().map(|folder| Ok(DeviceIdentity::load(folder)?)).collect()
}

fn one_line() -> Result<Zeroizing<String>, Failure> {
    let mut line = Zeroizing::new(String::new());
    io::stdin()
        .read_line(&mut line)
        .map_err(|e| Failure::Usage(format!("standard input: {e}; wanted the password, one line")))?;
    let bare = line.trim_end_matches(['\r', '\n']);
    if bare.is_empty() {
        return Err(Failure::Usage("standard input is empty; wanted the password, one line".to_owned()));
    }
    Ok(Zeroizing::new(bare.to_owned()))
}
