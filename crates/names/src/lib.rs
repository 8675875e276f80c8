//! Names parsed once and used by all: principals, registries, keys, topics, filters.
//!
//! A value that exists is valid: every type here can only be made by its `parse`. Names are
//! byte-exact; nothing is case-folded, trimmed or percent-decoded.

mod filter;
mod principal;
mod topic;

pub use filter::{TopicFilter, TopicFilterError};
pub use principal::{
    Epoch, KeyId, MqttClientId, NameError, PolicyName, PrincipalKind, PrincipalName, RegistryName, Uid,
};
pub use topic::{TopicName, TopicNameError};
