//! Why an order was not carried out.

use drawbridge_names::{PrincipalName, RegistryName};
use drawbridge_registry::StoreError;

/// An order was refused or could not be carried out. Nothing was sent then.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ControlError {
    /// No device of this name.
    #[error("registry `{registry}` has no device `{device}`; check the name with `drawbridge device list`")]
    NoSuchDevice {
        /// Where it was looked for.
        registry: RegistryName,
        /// What was looked for.
        device: PrincipalName,
    },
    /// The sender may not publish to the topic of the order.
    #[error("`{sender}` may not publish to `{topic}`: {rule}; allow it in the sender's policy")]
    Denied {
        /// The sender's name.
        sender: PrincipalName,
        /// The topic.
        topic: String,
        /// The rule that decided, for people.
        rule: String,
        /// The code of the decision.
        code: &'static str,
        /// The word of the decision.
        word: &'static str,
    },
    /// The payload is too long.
    #[error(
        "the payload has {found_bytes} bytes, at most {bytes_max} are allowed; send less, or a reference to it"
    )]
    PayloadTooLong {
        /// Length found.
        found_bytes: usize,
        /// Longest allowed.
        bytes_max: usize,
    },
    /// The subfolder of a command is no sequence of topic levels.
    #[error("the subfolder is not usable: {fault}")]
    BadSubfolder {
        /// What is wrong, and the mend.
        fault: String,
    },
    /// The config is not at the version that was to be replaced.
    #[error("the config is at version {current}, the request replaces version {expected}; read it again")]
    StaleVersion {
        /// The version the caller had seen.
        expected: u64,
        /// The version it is at; 0: none yet.
        current: u64,
    },
    /// The bridge cannot take messages at the moment.
    #[error("the bridge takes no messages at the moment; try again")]
    BridgeUnavailable,
    /// A topic that is no control topic was handed in: a fault of the caller.
    #[error("`{topic}` is no control topic; wanted devices/ID/commands, /config or /state")]
    NoControlTopic {
        /// The topic.
        topic: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ControlError {
    /// The stable code of `docs/errors.md`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoSuchDevice { .. } => "DB-4101",
            Self::Denied { code, .. } => code,
            Self::PayloadTooLong { .. } => "DB-4102",
            Self::BadSubfolder { .. } => "DB-4103",
            Self::StaleVersion { .. } => "DB-4104",
            Self::BridgeUnavailable => "DB-4105",
            Self::NoControlTopic { .. } => "DB-4106",
            Self::Store(error) => error.code(),
        }
    }

    /// The stable word of `docs/errors.md`.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::NoSuchDevice { .. } => "no-such-device",
            Self::Denied { word, .. } => word,
            Self::PayloadTooLong { .. } => "payload-too-long",
            Self::BadSubfolder { .. } => "bad-subfolder",
            Self::StaleVersion { .. } => "stale-version",
            Self::BridgeUnavailable => "bridge-unavailable",
            Self::NoControlTopic { .. } => "no-control-topic",
            Self::Store(error) => error.word(),
        }
    }
}
