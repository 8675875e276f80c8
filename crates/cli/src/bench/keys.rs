//! Makes the identities of many devices: folders for `--keys`, and the file that registers them all.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use drawbridge_device::DeviceIdentity;
use drawbridge_jose::{Algorithm, SigningKey};
use serde_json::{Value, json};

use super::args::KeysArgs;
use crate::args::Common;
use crate::{Failure, output};

/// The file for `device import`, beside the folders.
const LIST: &str = "devices.ndjson";

pub(super) fn keys(common: &Common, args: &KeysArgs) -> Result<(), Failure> {
    let model = DeviceIdentity::load(&args.like)?;
    let fault = |path: &Path, e: std::io::Error| Failure::Usage(format!("{}: {e}", path.display()));
    if args.dir.exists() {
        return Err(Failure::Conflict(format!(
            "{} exists and is not overwritten; choose another folder",
            args.dir.display()
        )));
    }
    fs::create_dir_all(&args.dir).map_err(|e| fault(&args.dir, e))?;
    let mut list = String::new();
    for number in 0..args.count {
        let key = SigningKey::generate(Algorithm::Es256).map_err(|e| Failure::Unavailable(e.to_string()))?;
        let device = format!("{}-{number:06}", args.prefix);
        let jwk: Value =
            serde_json::from_str(&key.public_key().to_jwk_json()).expect("a JWK of our own is JSON");
        let mut line = json!({ "id": device, "keys": [{ "jwk": jwk }] });
        if let Some(policy) = &args.policy {
            line["policy"] = json!(policy);
        }
        writeln!(list, "{line}").expect("a String takes all");
        let identity = DeviceIdentity {
            registry: model.registry.clone(),
            issuer: model.issuer.clone(),
            bridge_audience: model.bridge_audience.clone(),
            mqtts: model.mqtts.clone(),
            https: model.https.clone(),
            ca_pem: model.ca_pem.clone(),
            device: device.clone(),
            key,
        };
        identity.store(&args.dir.join(&device))?;
    }
    let file = args.dir.join(LIST);
    fs::write(&file, list).map_err(|e| fault(&file, e))?;
    if common.json {
        output::json(&json!({ "devices": args.count, "folder": args.dir, "import": file }));
        return Ok(());
    }
    say!("{} identities are in {}; the server does not know them yet", args.count, args.dir.display());
    output::next(common, &["device", "import", &file.to_string_lossy()]);
    Ok(())
}
