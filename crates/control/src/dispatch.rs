//! What control asks of the bridge, and what the bridge asks of control.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use drawbridge_names::{PrincipalKind, PrincipalName, RegistryName, Uid};

use crate::ControlError;

/// Brings a message to a device. The bridge implements it.
#[async_trait]
pub trait Dispatch: Send + Sync {
    /// Publishes `order.payload` to `order.topic` as the server does it: to every session of the
    /// registry that subscribed and `may_deliver`, and with [`DeviceOrder::retain`] as the topic's
    /// retained message, whatever the answer is. Control has asked `may_publish` already; it is asked
    /// once more, as the publisher stands by then.
    ///
    /// With [`DeviceOrder::to_device`] the answer speaks of this one device: it comes with its PUBACK,
    /// or at once when it has no live session, no matching subscription of QoS 1, or may not receive
    /// it, or after [`DeviceOrder::wait`]. Where it comes at once nobody gets the message, unless it is
    /// retained. Without, it comes as soon as the message is with the broker.
    async fn send(&self, order: DeviceOrder) -> DeliveryOutcome;
}

/// A message for a device.
#[derive(Clone, PartialEq, Eq)]
pub struct DeviceOrder {
    /// The registry of the device.
    pub registry: RegistryName,
    /// The device.
    pub device: Uid,
    /// A valid topic name without wildcards, in the native form (no leading slash).
    pub topic: String,
    /// At most [`crate::PAYLOAD_BYTES_MAX`] bytes.
    pub payload: Arc<[u8]>,
    /// 0 or 1; with [`DeviceOrder::to_device`] it is 1. For others a subscription may lower it.
    pub qos: u8,
    /// Keep it as the topic's retained message; an empty payload removes that one.
    pub retain: bool,
    /// Wait for this device's PUBACK.
    pub to_device: bool,
    /// Who sent it, for the message record.
    pub publisher: Publisher,
    /// How long to wait for the PUBACK.
    pub wait: Duration,
}

impl fmt::Debug for DeviceOrder {
    /// The payload may be a secret: only its length is shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceOrder")
            .field("registry", &self.registry)
            .field("device", &self.device)
            .field("topic", &self.topic)
            .field("payload_bytes", &self.payload.len())
            .field("retain", &self.retain)
            .field("to_device", &self.to_device)
            .field("publisher", &self.publisher)
            .finish_non_exhaustive()
    }
}

/// Who is behind a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Publisher {
    /// The server: an operator's order, or a stored config.
    Server,
    /// A principal of the same registry.
    Principal(Uid),
}

/// What became of a [`DeviceOrder`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryOutcome {
    /// The device sent its PUBACK.
    Acknowledged,
    /// The message is with the broker; no device was waited for.
    Stored,
    /// The device has no live session.
    NotConnected,
    /// The device has a live session, and none of its subscriptions of QoS 1 matches the topic.
    NotSubscribed,
    /// The device is connected and subscribed, and may not receive the message: its rights do not let
    /// it through, or those of the publisher ended meanwhile.
    Withheld,
    /// The device answered with a PUBACK that refuses (MQTT 5 only).
    Rejected {
        /// Its reason code, 0x80 or above (MQTT 5.0 section 3.4.2.1).
        reason: u8,
    },
    /// The publisher may not publish to the topic (any more). Nothing was sent.
    Denied,
    /// The wait is over without a PUBACK. The message may still arrive.
    TimedOut,
    /// The bridge is shutting down or overloaded. Nothing was sent.
    Unavailable,
}

/// Takes what clients publish to the control topics of devices. The bridge calls it, with the
/// publisher's right already asked by the one `may_publish`; [`crate::Control`] implements it.
#[async_trait]
pub trait ControlPublishes: Send + Sync {
    /// Records the publish as the operation that it is, and hands the message on by
    /// [`Dispatch::send`] with [`DeviceOrder::to_device`] off: the caller must not route it itself.
    /// The caller holds the publisher's PUBACK until the answer.
    ///
    /// # Errors
    /// [`ControlError`] when nothing was recorded or sent: the publish is to be refused.
    async fn client_publish(&self, publish: ClientControlPublish) -> Result<(), ControlError>;
}

/// A publish by a client to a topic for which [`crate::ControlTopic::parse`] answers.
#[derive(Clone)]
pub struct ClientControlPublish {
    /// The registry of the connection.
    pub registry: RegistryName,
    /// The topic, in the native form (no leading slash).
    pub topic: String,
    /// The message.
    pub payload: Arc<[u8]>,
    /// Who published.
    pub publisher: Uid,
    /// Its name, for the audit.
    pub publisher_name: PrincipalName,
    /// Its kind, for the audit.
    pub publisher_kind: PrincipalKind,
}
