//! Client library for devices: keys, tokens, MQTT.
//!
//! A device keeps a private key, tells the server who it is with short JWTs signed by it, and speaks
//! MQTT over TLS to a server whose root certificate it was given. Nothing here needs a server crate.
//! The calls block; one [`MqttClient`] belongs to one thread.
//!
//! ```no_run
//! use drawbridge_device::{DeviceIdentity, MqttClient, Qos};
//! # fn main() -> Result<(), drawbridge_device::DeviceError> {
//! let identity = DeviceIdentity::load("./lamp".as_ref())?;
//! let mut client = MqttClient::connect(&identity.mqtt_options()?)?;
//! client.publish("devices/lamp/events/light", b"on", Qos::AtLeastOnce, false)?;
//! # Ok(()) }
//! ```

mod edge;
mod error;
mod https;
mod identity;
mod mint;
mod mqtt;

pub use drawbridge_mqtt::codec::{ProtocolVersion, Qos};
pub use edge::{now_s, random_id};
pub use error::DeviceError;
pub use https::{ApiAnswer, ApiClient, EnrolmentAnswer, TokenAnswer};
pub use identity::{DeviceIdentity, write_private};
pub use mint::{ClientAssertion, ConnectJwt, EnrolmentProof, KeyUpdate};
pub use mqtt::{Message, MqttClient, MqttOptions};
