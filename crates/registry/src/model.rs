//! The records of a registry. Times are integer seconds or milliseconds since 1970-01-01 UTC, the
//! unit stands in the name.

use std::collections::BTreeMap;

use drawbridge_names::{Epoch, KeyId, PolicyName, PrincipalKind, PrincipalName, RegistryName, Uid};

/// A namespace of devices with its own issuer and settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryRecord {
    /// Its name; also in its URLs unless it is `default`.
    pub name: RegistryName,
    /// The issuer identifier, fixed at creation: an https URL without query, fragment or final slash.
    pub issuer: String,
    /// The `aud` of tokens for the bridge; `<issuer>/mqtt` unless set otherwise. Never an issuer.
    pub bridge_audience: String,
    /// How far a device's clock may be off, in seconds.
    pub clock_skew_s: u32,
    /// Life of an access token, in seconds.
    pub token_life_s: u32,
    /// The Google Cloud IoT Core project and location that this registry stands for, if any.
    pub google: Option<GoogleNames>,
    /// When it was made.
    pub created_s: u64,
}

/// `projects/P/locations/L` of a registry that serves Google-style devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GoogleNames {
    /// The project, which is also the `aud` of its devices' JWTs.
    pub project: String,
    /// The location.
    pub location: String,
}

/// A device or an application.
#[derive(Clone, PartialEq, Eq)]
pub struct Principal {
    /// The registry it belongs to.
    pub registry: RegistryName,
    /// Its number, random and never reused.
    pub uid: Uid,
    /// Its name, unique among all principals of the registry.
    pub name: PrincipalName,
    /// What it is.
    pub kind: PrincipalKind,
    /// A blocked principal is admitted nowhere.
    pub blocked: bool,
    /// Counts its revocations.
    pub epoch: Epoch,
    /// Device JWTs with `iat` up to this second are dead. 0: none.
    pub not_before_s: u64,
    /// Accepts the IoT IdP JWTs without `aud` and `exp`, on their alias paths only: a weakness.
    pub legacy_assertions: bool,
    /// The policy that gives it rights; without one it has none.
    pub policy: Option<PolicyName>,
    /// Operator-set values for `${attr.x}`.
    pub attributes: BTreeMap<String, String>,
    /// A password verifier, never a password; the first byte is its format version.
    pub password: Option<Vec<u8>>,
    /// When it was registered.
    pub created_s: u64,
    /// Counts the changes of this record, keys included: the ETag.
    pub revision: u64,
}

impl std::fmt::Debug for Principal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Principal")
            .field("registry", &self.registry)
            .field("uid", &self.uid)
            .field("name", &self.name)
            .field("kind", &self.kind)
            .field("blocked", &self.blocked)
            .field("epoch", &self.epoch)
            .field("policy", &self.policy)
            .field("has_password", &self.password.is_some())
            .field("revision", &self.revision)
            .finish_non_exhaustive()
    }
}

/// Whether a key may still be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyState {
    /// In use.
    Active,
    /// Replaced by its device: it may log in and repeat the update that replaced it, until `expires_s`.
    Grace,
    /// No longer accepted; kept so that it can never be registered again.
    Retired,
}

impl KeyState {
    /// The word used in stores and in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Grace => "grace",
            Self::Retired => "retired",
        }
    }

    /// The state of a stored word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        match word {
            "active" => Some(Self::Active),
            "grace" => Some(Self::Grace),
            "retired" => Some(Self::Retired),
            _ => None,
        }
    }
}

/// A public key of a principal. It belongs to at most one principal of a registry, retired included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// RFC 7638 thumbprint.
    pub kid: KeyId,
    /// SubjectPublicKeyInfo, DER.
    pub spki_der: Vec<u8>,
    /// The one JOSE algorithm it may be used with, such as `ES256`.
    pub algorithm: String,
    /// A word of the operator or device; may be used as `kid` in a JWT.
    pub label: Option<String>,
    /// Whether it may still be used.
    pub state: KeyState,
    /// Not accepted before this second.
    pub not_before_s: Option<u64>,
    /// Not accepted from this second on.
    pub expires_s: Option<u64>,
    /// When it was registered.
    pub added_s: u64,
}

/// A principal with all its keys: what a login needs, in one read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// The record.
    pub principal: Principal,
    /// Its keys in the order they were added, retired ones included.
    pub keys: Vec<Key>,
}

/// One change of a principal's record.
#[derive(Clone, PartialEq, Eq)]
pub enum PrincipalChange {
    /// Admit it nowhere any more.
    Block,
    /// Admit it again.
    Unblock,
    /// Epoch + 1 and `not_before_s`: every older token and session is dead.
    Revoke {
        /// Device JWTs with `iat` up to this second are dead.
        not_before_s: u64,
    },
    /// Attach a policy, or none.
    Policy(Option<PolicyName>),
    /// Accept legacy assertions, or not.
    LegacyAssertions(bool),
    /// Replace all attributes.
    Attributes(BTreeMap<String, String>),
    /// Set or remove the password verifier.
    Password(Option<Vec<u8>>),
}

impl PrincipalChange {
    /// Changes a record as every store does, its revision included.
    pub fn apply_to(self, principal: &mut Principal) {
        match self {
            Self::Block => principal.blocked = true,
            Self::Unblock => principal.blocked = false,
            Self::Revoke { not_before_s } => {
                principal.epoch = Epoch(principal.epoch.0 + 1);
                principal.not_before_s = principal.not_before_s.max(not_before_s);
            }
            Self::Policy(policy) => principal.policy = policy,
            Self::LegacyAssertions(accepted) => principal.legacy_assertions = accepted,
            Self::Attributes(attributes) => principal.attributes = attributes,
            Self::Password(verifier) => principal.password = verifier,
        }
        principal.revision += 1;
    }
}

/// A policy as its operator wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyRecord {
    /// Its name within the registry.
    pub name: PolicyName,
    /// The TOML text, byte for byte.
    pub source: String,
    /// When it was last set.
    pub updated_s: u64,
    /// Counts its changes.
    pub revision: u64,
}

/// What goes into the audit with a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEntry {
    /// When.
    pub at_ms: u64,
    /// Who: `admin`, `device:lamp`, `app:backend`, `server`.
    pub actor: String,
    /// What, such as `device.add`.
    pub action: String,
    /// To whom, a name.
    pub subject: String,
    /// More, as JSON text; never a secret.
    pub detail: String,
}

/// A row of the audit: an entry in its chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRow {
    /// The registry the entry belongs to.
    pub registry: RegistryName,
    /// The writer whose chain this is.
    pub writer: String,
    /// Its place in the chain, from 1.
    pub seq: u64,
    /// The hash of the row before; 32 zero bytes in the first.
    pub prev: [u8; 32],
    /// See [`crate::audit::chain_hash`].
    pub hash: [u8; 32],
    /// The entry.
    pub entry: AuditEntry,
}

/// A version of a device's config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigVersion {
    /// From 1; the newest is the largest.
    pub version: u64,
    /// The bytes the device gets.
    pub payload: Vec<u8>,
    /// When it was set.
    pub set_ms: u64,
    /// When the device acknowledged it.
    pub acked_ms: Option<u64>,
}

/// A state that a device reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateReport {
    /// The bytes the device sent.
    pub payload: Vec<u8>,
    /// When it was received.
    pub received_ms: u64,
}
