//! What an operator's request can be answered instead of being done.

use drawbridge_names::{KeyId, PolicyName, PrincipalKind, PrincipalName, RegistryName};
use drawbridge_policy::PolicyError;
use drawbridge_registry::StoreError;

/// A change or question of an operator that was not carried out.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AdmissionError {
    /// There is no such registry.
    #[error("there is no registry `{0}`; see `drawbridge registry list`")]
    NoRegistry(RegistryName),
    /// There is no such principal.
    #[error("there is no device or application `{0}` in this registry")]
    NoPrincipal(PrincipalName),
    /// A principal of this name exists already.
    #[error("the name `{name}` is taken by a {kind}; names are unique among all principals of a registry")]
    NameTaken {
        /// The name.
        name: PrincipalName,
        /// What has it.
        kind: PrincipalKind,
    },
    /// The key is registered already.
    #[error(
        "the key {0} is, or was, registered in this registry; each principal has keys of its own, make a new one"
    )]
    KeyInUse(KeyId),
    /// As many keys as allowed are active.
    #[error("{active} keys are active, at most {active_max} are allowed; remove one first")]
    TooManyKeys {
        /// How many would be, or are.
        active: usize,
        /// How many may be.
        active_max: usize,
    },
    /// The last key is not removed by accident.
    #[error("this is the last active key; block the device instead, or add its successor first")]
    LastKey,
    /// The principal has no such key.
    #[error("there is no key {0} that could be removed")]
    NoKey(KeyId),
    /// The record has changed since it was read.
    #[error("the record has revision {revision} by now; read it again, then repeat the change")]
    Stale {
        /// The current revision.
        revision: u64,
    },
    /// There is no such policy.
    #[error("there is no policy `{0}` in this registry; set it first")]
    NoPolicy(PolicyName),
    /// The policy text is faulty.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The label of a key cannot be one.
    #[error("the label of a key has 1 to 64 printable ASCII characters")]
    Label,
    /// The dates of a key cannot be these.
    #[error("the dates of the key are not accepted: {0}")]
    KeyDates(String),
    /// The issuer cannot be one.
    #[error(
        "`{found}` cannot be an issuer: {why}; wanted an https URL without query, fragment and final slash"
    )]
    Issuer {
        /// What was given.
        found: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// An audience or project would make tokens of one registry good for another, or for the issuer.
    #[error("`{found}` already stands for {taken_by}; tokens would be good for two things, choose another")]
    AudienceTaken {
        /// The value.
        found: String,
        /// What it stands for.
        taken_by: String,
    },
    /// A topic or filter asked about is none.
    #[error("not a topic or filter: {0}")]
    Topic(String),
    /// Only applications have roles.
    #[error("`{0}` is a device, and devices have no roles; give the role to an application")]
    DeviceRole(PrincipalName),
    /// A stored secret cannot be used.
    #[error("a stored secret cannot be used: {0}; restore it from a backup")]
    Secret(String),
    /// A stored secret was sealed by a key that the server was not started with.
    #[error(
        "the secret `{secret}` of the registry `{registry}` was sealed by another key; start with the key that \
         sealed it (`seal.key` of the data folder, unless set otherwise) or restore both from one backup; nothing was changed"
    )]
    OtherSealKey {
        /// The registry.
        registry: RegistryName,
        /// The name of the secret.
        secret: String,
    },
    /// There is no such enrolment.
    #[error("there is no enrolment `{0}` in this registry; see `drawbridge enrol list`")]
    NoEnrolment(String),
    /// An enrolment cannot be made like this.
    #[error("the enrolment cannot be made: {0}")]
    Enrolment(String),
    /// The device is not in the state of enrolment that this needs.
    #[error("`{name}` {why}")]
    NotEnrolled {
        /// The device.
        name: PrincipalName,
        /// What is the matter, and the mend.
        why: &'static str,
    },
    /// The two cannot be gateway and device of each other.
    #[error("`{name}` {why}")]
    Gateway {
        /// The one that does not fit.
        name: PrincipalName,
        /// What is the matter, and the mend.
        why: &'static str,
    },
    /// The certificate cannot be a CA of a registry.
    #[error("the certificate is not accepted as a CA: {0}")]
    Ca(String),
    /// The password is none that somebody should have. Holds why, never the password.
    #[error("the password cannot be set: {0}; choose another, of 8 to 1,024 bytes")]
    Password(&'static str),
    /// Too many password checks wait already.
    #[error("too many password checks at once; try again in a moment")]
    Busy,
    /// A setting of a registry is out of bounds.
    #[error("the registry cannot be set so: {0}")]
    Setting(String),
    /// The store could not do its work.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl AdmissionError {
    /// The stable code of `docs/errors.md`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoRegistry(_) => "DB-4001",
            Self::NoPrincipal(_) => "DB-4002",
            Self::NameTaken { .. } => "DB-4003",
            Self::KeyInUse(_) => "DB-4004",
            Self::TooManyKeys { .. } => "DB-4005",
            Self::LastKey => "DB-4006",
            Self::NoKey(_) => "DB-4007",
            Self::Stale { .. } => "DB-4008",
            Self::NoPolicy(_) => "DB-4009",
            Self::Policy(error) => error.code(),
            Self::Label => "DB-4010",
            Self::KeyDates(_) => "DB-4222",
            Self::Issuer { .. } => "DB-4011",
            Self::AudienceTaken { .. } => "DB-4012",
            Self::Topic(_) => "DB-4013",
            Self::Secret(_) => "DB-4014",
            Self::NoEnrolment(_) => "DB-4015",
            Self::Enrolment(_) => "DB-4016",
            Self::NotEnrolled { .. } => "DB-4017",
            Self::Gateway { .. } => "DB-4018",
            Self::Ca(_) => "DB-4019",
            Self::OtherSealKey { .. } => "DB-4025",
            Self::Setting(_) => "DB-4026",
            Self::DeviceRole(_) => "DB-4020",
            Self::Password(_) => "DB-4220",
            Self::Busy => "DB-1045",
            Self::Store(error) => error.code(),
        }
    }

    /// The stable word of `docs/errors.md`.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::NoRegistry(_) => "registry-not-found",
            Self::NoPrincipal(_) => "principal-not-found",
            Self::NameTaken { .. } => "name-taken",
            Self::KeyInUse(_) => "key-registered",
            Self::TooManyKeys { .. } => "keys-full",
            Self::LastKey => "last-key",
            Self::NoKey(_) => "key-not-found",
            Self::Stale { .. } => "stale",
            Self::NoPolicy(_) => "policy-not-found",
            Self::Policy(error) => error.word(),
            Self::Label => "key-label",
            Self::KeyDates(_) => "key-dates",
            Self::Issuer { .. } => "issuer-invalid",
            Self::AudienceTaken { .. } => "audience-taken",
            Self::Topic(_) => "topic-invalid",
            Self::Secret(_) => "secret-unusable",
            Self::NoEnrolment(_) => "enrolment-not-found",
            Self::Enrolment(_) => "enrolment-invalid",
            Self::NotEnrolled { .. } => "enrolment-state",
            Self::Gateway { .. } => "gateway-state",
            Self::Ca(_) => "ca-invalid",
            Self::OtherSealKey { .. } => "seal-key",
            Self::Setting(_) => "registry-setting",
            Self::DeviceRole(_) => "device-role",
            Self::Password(_) => "password-unfit",
            Self::Busy => "busy",
            Self::Store(error) => error.word(),
        }
    }
}
