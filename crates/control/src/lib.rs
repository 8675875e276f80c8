//! Commands, config and state of devices: versions, deadlines, delivery states.
//!
//! To command is to publish: whether an order comes by HTTP, by the command line or as an MQTT
//! publish to `devices/{id}/commands`, the same right is asked, the same record is written, and the
//! same message goes out. This crate knows no socket and no runtime: [`Dispatch`] is how a message
//! leaves, [`ControlPublishes`] is how a client's publish comes in.

mod dispatch;
mod error;
mod orders;
mod topic;

pub use dispatch::{
    ClientControlPublish, ControlPublishes, DeliveryOutcome, DeviceOrder, Dispatch, Publisher,
};
pub use error::ControlError;
pub use orders::{CommandDelivery, ConfigDelivery, ConfigSet, Control, Sender};
pub use topic::{ControlTopic, SUBFOLDER_BYTES_MAX, command_topic, config_topic};

/// Longest payload of a command, a config or a state, in bytes.
///
/// Source: Google Cloud IoT Core quotas, 64 KiB for config and state.
pub const PAYLOAD_BYTES_MAX: usize = 64 * 1024;
