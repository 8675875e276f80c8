//! Storage traits, the memory store, and one conformance suite for every store.
//!
//! A [`Store`] holds every registry of a server. Each method that changes something is one atomic
//! unit: it happens whole and durably, with its audit row, or not at all; an answer that is `Ok` is
//! on disk. "Not found" and "somebody was first" are answers, not errors. Time comes in as an
//! argument, and so do ids: a store reads no clock and draws no random number.

pub mod audit;
pub mod conformance;
mod error;
pub mod memory;
mod model;
mod store;

/// How many config versions, and how many reported states, are kept of a device.
pub const KEPT_MAX: usize = 10;

pub use error::StoreError;
pub use model::{
    AuditEntry, AuditHead, AuditRow, Ca, CertificateRegistration, CertificateSubject, ClockTrust,
    ConfigVersion, Enrolment, EnrolmentNames, GoogleNames, IssuerAlgorithm, KeptToken, Key, KeyChange,
    KeyState, Known, PolicyRecord, Principal, PrincipalChange, PrincipalSettings, RegistryRecord,
    RegistrySettings, Role, StateReport, TokenFormat,
};
pub use store::{
    AddKey, AddPrincipal, AddRegistry, AddToken, ChangeKey, Changed, Enrol, JtiMark, JtiOutcome, KeyRotation,
    Link, RemoveKey, RotateKey, SetConfig, Store, TokenUse,
};
