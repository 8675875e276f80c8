//! `drawbridge pub` and `drawbridge sub`: a client with the identity in a folder.

use std::time::Duration;

use drawbridge_device::{DeviceIdentity, MqttClient, Qos};

use serde_json::json;

use crate::args::{Common, PubArgs, SubArgs};
use crate::{Failure, output};

pub(crate) fn publish(common: &Common, args: &PubArgs) -> Result<(), Failure> {
    let identity = DeviceIdentity::load(&args.identity)?;
    let mut client = connect(&identity, "pub")?;
    client.publish(&args.topic, args.payload.as_bytes(), Qos::AtLeastOnce, args.retain)?;
    client.disconnect()?;
    let PubArgs { topic, retain, .. } = args;
    if common.json {
        let device = &identity.device;
        output::json(&json!({ "published": true, "topic": topic, "as": device, "retain": retain }));
        return Ok(());
    }
    say!("published {topic} as {}", identity.device);
    let filter = format!("devices/{}/commands/#", identity.device);
    output::next_with_identity(common, &["sub", &filter, "--as", &args.identity.to_string_lossy()]);
    Ok(())
}

pub(crate) fn subscribe(common: &Common, args: &SubArgs) -> Result<(), Failure> {
    let identity = DeviceIdentity::load(&args.identity)?;
    let mut client = connect(&identity, "sub")?;
    client.subscribe(&args.filter)?;
    let mut received = 0;
    while args.count == 0 || received < args.count {
        if let Some(message) = client.receive(Duration::from_secs(30))? {
            received += 1;
            let text = String::from_utf8_lossy(&message.payload);
            let written = if common.json {
                let line = json!({ "topic": message.topic, "payload": text, "retain": message.retain });
                say!("{line}")
            } else {
                say!("{} {text}", message.topic)
            };
            if !written {
                break; // nobody reads on
            }
        }
    }
    client.disconnect()?;
    let (topic, folder) =
        (format!("devices/{}/events/test", identity.device), args.identity.to_string_lossy());
    output::next_beside_product(common, false, &["pub", &topic, "hello", "--as", &folder], "");
    Ok(())
}

/// A device may use `<its id>:<anything>` as client id, so that these tools do not look like the
/// device itself; it still has one live session, and the newer wins.
fn connect(identity: &DeviceIdentity, what: &str) -> Result<MqttClient, Failure> {
    Ok(MqttClient::connect_as(identity, &format!("{}:{what}", identity.device))?)
}
