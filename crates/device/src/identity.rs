//! The folder that makes a device: its private key, the server's root, and where the server is.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use drawbridge_jose::{PublicKey, SigningKey};
use drawbridge_mqtt::codec::ProtocolVersion;
use serde::{Deserialize, Serialize};

use crate::{ConnectJwt, DeviceError, MqttOptions, now_s};

/// `device.json`: all that a stranger needs to write a client, beside `key.pem` and `ca.pem`.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Description {
    registry: String,
    device: String,
    issuer: String,
    bridge_audience: String,
    mqtts: String,
    https: String,
}

/// A device as it knows itself.
#[derive(Debug)]
pub struct DeviceIdentity {
    /// The registry it belongs to.
    pub registry: String,
    /// Its name.
    pub device: String,
    /// The issuer of its registry: the `aud` of its client assertions.
    pub issuer: String,
    /// The `aud` of its CONNECT JWTs.
    pub bridge_audience: String,
    /// Where MQTT over TLS is, `host:port`.
    pub mqtts: String,
    /// Where HTTPS is, `host:port`.
    pub https: String,
    /// The server's root certificate, PEM.
    pub ca_pem: String,
    /// Its private key.
    pub key: SigningKey,
}

impl DeviceIdentity {
    /// Reads `device.json`, `key.pem` and `ca.pem` of a folder.
    ///
    /// # Errors
    /// [`DeviceError::File`] naming the file that is missing or broken.
    pub fn load(folder: &Path) -> Result<Self, DeviceError> {
        let description: Description = {
            let (path, text) = read(folder, "device.json")?;
            serde_json::from_str(&text).map_err(|e| DeviceError::File {
                path,
                why: format!("not a device description: {e}; wanted registry, device, issuer, bridge_audience, mqtts, https"),
            })?
        };
        let (_, ca_pem) = read(folder, "ca.pem")?;
        let (path, key) = read(folder, "key.pem")?;
        let key =
            SigningKey::from_pkcs8_pem(&key).map_err(|e| DeviceError::File { path, why: e.to_string() })?;
        let Description { registry, device, issuer, bridge_audience, mqtts, https } = description;
        Ok(Self { registry, device, issuer, bridge_audience, mqtts, https, ca_pem, key })
    }

    /// Writes the three files into a folder, made if missing; nothing that exists is overwritten.
    ///
    /// # Errors
    /// [`DeviceError::File`] when one of them exists or cannot be written.
    pub fn store(&self, folder: &Path) -> Result<(), DeviceError> {
        let names = ["key.pem", "ca.pem", "device.json"];
        if let Some(path) = names.map(|name| folder.join(name)).into_iter().find(|path| path.exists()) {
            let why = "exists already and is not overwritten; choose another folder with --out".to_owned();
            return Err(DeviceError::File { path, why });
        }
        fs::create_dir_all(folder)
            .map_err(|e| DeviceError::File { path: folder.to_owned(), why: e.to_string() })?;
        let description = Description {
            registry: self.registry.clone(),
            device: self.device.clone(),
            issuer: self.issuer.clone(),
            bridge_audience: self.bridge_audience.clone(),
            mqtts: self.mqtts.clone(),
            https: self.https.clone(),
        };
        let mut text = serde_json::to_string_pretty(&description)
            .map_err(|e| DeviceError::File { path: folder.join("device.json"), why: e.to_string() })?;
        text.push('\n');
        write_private(&folder.join("key.pem"), self.key.to_pkcs8_pem().as_bytes())?;
        write_new(&folder.join("ca.pem"), self.ca_pem.as_bytes(), 0o644)?;
        write_new(&folder.join("device.json"), text.as_bytes(), 0o644)
    }

    /// Its public key.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        self.key.public_key()
    }

    /// What it takes to connect with a fresh JWT of its own, good for an hour.
    ///
    /// # Errors
    /// [`DeviceError::Key`] when the key cannot sign.
    pub fn mqtt_options(&self) -> Result<MqttOptions, DeviceError> {
        let jwt = ConnectJwt {
            device: &self.device,
            bridge_audience: &self.bridge_audience,
            now_s: now_s(),
            life_s: 3600,
        };
        Ok(MqttOptions {
            server: self.mqtts.clone(),
            ca_pem: self.ca_pem.clone(),
            version: ProtocolVersion::V5,
            client_id: self.device.clone(),
            username: None,
            password: jwt.sign(&self.key)?.into_bytes(),
            keep_alive_s: 60,
        })
    }
}

fn read(folder: &Path, name: &str) -> Result<(PathBuf, String), DeviceError> {
    let path = folder.join(name);
    match fs::read_to_string(&path) {
        Ok(text) => Ok((path, text)),
        Err(e) => Err(DeviceError::File {
            path,
            why: format!(
                "{e}; wanted a folder with key.pem, ca.pem and device.json, as `drawbridge device add ID --out DIR` makes"
            ),
        }),
    }
}

/// Writes a new file that only its owner can read.
///
/// # Errors
/// [`DeviceError::File`] when it exists already or cannot be written.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), DeviceError> {
    write_new(path, bytes, 0o600)
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), DeviceError> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    #[cfg(not(unix))]
    let _ = mode;
    options
        .open(path)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .map_err(|e| DeviceError::File { path: path.to_owned(), why: e.to_string() })
}
