//! Client library for devices: keys, tokens, MQTT.
//!
//! A device keeps a private key, tells the server who it is with short JWTs signed by it, and speaks
//! MQTT over TLS to a server whose root certificate it was given. Nothing here needs a server crate.
//! [`DeviceClient`] stays connected by a thread of its own; [`MqttClient`] is one connection whose calls block.
//!
//! ```no_run
//! # #[cfg(feature = "std")] {
//! use drawbridge_device::{ClientOptions, DeviceClient, DeviceIdentity, Qos};
//! # fn main() -> Result<(), drawbridge_device::DeviceError> {
//! let identity = DeviceIdentity::load("./lamp".as_ref())?;
//! let device = DeviceClient::start(ClientOptions::of(identity)?)?;
//! device.publish("devices/lamp/events/light", b"on", Qos::AtLeastOnce)?;
//! for command in device.commands()? {
//!     println!("{} {:?}", command.topic, command.payload);
//! }
//! # Ok(()) }
//! # }
//! ```
//!
//! Without the default feature `std` the crate is `no_std` + `alloc`: JWTs, proofs and back-off, with a key
//! behind [`Sign`]. The guide is `docs/device-library.md`.

#![cfg_attr(not(feature = "std"), no_std)]

extern crate alloc;

/// The guide, so that what it shows is compiled.
#[cfg(all(doctest, feature = "std"))]
#[doc = include_str!("../../../docs/device-library.md")]
struct Guide;

mod backoff;
#[cfg(feature = "std")]
mod certificate;
#[cfg(feature = "std")]
mod client;
#[cfg(feature = "std")]
mod connect;
#[cfg(feature = "std")]
mod edge;
mod error;
#[cfg(feature = "std")]
mod https;
#[cfg(feature = "std")]
mod identity;
#[cfg(feature = "std")]
mod key;
#[cfg(feature = "std")]
mod link;
#[cfg(feature = "std")]
mod login;
mod mint;
#[cfg(feature = "std")]
mod mqtt;
#[cfg(feature = "std")]
mod padding;
mod proof;
#[cfg(feature = "std")]
mod server_key;
#[cfg(feature = "std")]
mod tls;
#[cfg(feature = "std")]
mod websocket;

pub use backoff::{Advice, Backoff, BackoffOptions};
#[cfg(feature = "std")]
pub use certificate::ClientCertificate;
#[cfg(feature = "std")]
pub use client::{
    ClientOptions, Delivery, DeviceClient, Event, Incoming, Overflow, Queue, Subscription, Testament,
};
#[cfg(feature = "std")]
pub use drawbridge_jose::SigningKey;
pub use drawbridge_jose::{Algorithm, PublicKey, Sign, SignError};
#[cfg(feature = "std")]
pub use drawbridge_mqtt::codec::{ProtocolVersion, Qos};
#[cfg(feature = "std")]
pub use edge::{Environment, Host, now_s, random_id};
pub use error::DeviceError;
#[cfg(feature = "std")]
pub use https::{ApiAnswer, ApiClient, Binding, EnrolmentAnswer, TokenAnswer, TokenRequest};
#[cfg(feature = "std")]
pub use identity::{DeviceIdentity, write_private};
#[cfg(feature = "std")]
pub use key::{DeviceKey, create_key, load_key, store_key};
#[cfg(feature = "std")]
pub use link::Endpoint;
#[cfg(feature = "std")]
pub use login::{AceProof, KeyLogin, Token, TokenSource, Way};
pub use mint::{ClientAssertion, ConnectJwt, DpopProof, EnrolmentProof, KeyUpdate};
#[cfg(feature = "std")]
pub use mqtt::{Message, MqttClient, MqttOptions};
pub use proof::{
    ACE_EXPORTER_LABEL, ACE_METHOD, ACE_NONCE_BYTES, CHANNEL_BINDING_LABEL, Prove, REFRESH_EXPORTER_LABEL,
    SymmetricKey, TokenTooLong, ace_answer, ace_prove, ace_token, ace_user_name, refresh_context, renewal,
};
#[cfg(feature = "std")]
pub use server_key::ServerKey;
#[cfg(feature = "std")]
pub use tls::{Tls, Trust, sha256_of_public_key};
