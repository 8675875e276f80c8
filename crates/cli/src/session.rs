//! `drawbridge pub` and `drawbridge sub`: a client with the identity in a folder.

use std::time::Duration;

use drawbridge_device::{DeviceIdentity, MqttClient, Qos};

use crate::Failure;
use crate::args::{Common, PubArgs, SubArgs};

pub(crate) fn publish(_common: &Common, args: &PubArgs) -> Result<(), Failure> {
    let identity = DeviceIdentity::load(&args.identity)?;
    let mut client = connect(&identity, "pub")?;
    client.publish(&args.topic, args.payload.as_bytes(), Qos::AtLeastOnce, args.retain)?;
    client.disconnect()?;
    println!("published {} as {}", args.topic, identity.device);
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
            if common.json {
                let line =
                    serde_json::json!({ "topic": message.topic, "payload": text, "retain": message.retain });
                println!("{line}");
            } else {
                println!("{} {text}", message.topic);
            }
        }
    }
    client.disconnect()?;
    Ok(())
}

/// A device may use `<its id>:<anything>` as client id, so that these tools do not look like the
/// device itself; it still has one live session, and the newer wins.
fn connect(identity: &DeviceIdentity, what: &str) -> Result<MqttClient, Failure> {
    let mut options = identity.mqtt_options()?;
    options.client_id = format!("{}:{what}", identity.device);
    Ok(MqttClient::connect(&options)?)
}
