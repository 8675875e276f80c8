//! The records of a registry. Times are integer seconds or milliseconds since 1970-01-01 UTC, the
//! unit stands in the name.

use std::collections::{BTreeMap, BTreeSet};

use drawbridge_names::{Epoch, KeyId, PolicyName, PrincipalKind, PrincipalName, RegistryName, Uid};
use serde::{Deserialize, Serialize};

use crate::StoreError;

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
    /// What else may be chosen, and changed later.
    pub settings: RegistrySettings,
    /// When it was made.
    pub created_s: u64,
}

/// The form of the access tokens that a registry issues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum TokenFormat {
    /// A signed JWT (RFC 9068): whoever has the issuer's public key reads it.
    #[default]
    #[serde(rename = "at+jwt")]
    Jwt,
    /// Random text that means something to this server only.
    #[serde(rename = "opaque")]
    Opaque,
}

impl TokenFormat {
    /// The word in settings, policies and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Jwt => "at+jwt",
            Self::Opaque => "opaque",
        }
    }

    /// The format of a word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Jwt, Self::Opaque].into_iter().find(|format| format.as_str() == word)
    }
}

/// The algorithm of a registry's issuer keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum IssuerAlgorithm {
    /// ECDSA with P-256 and SHA-256.
    #[default]
    #[serde(rename = "ES256")]
    Es256,
    /// RSA PKCS#1 v1.5 with SHA-256, which every verifier of RFC 9068 has.
    #[serde(rename = "RS256")]
    Rs256,
    /// Ed25519.
    #[serde(rename = "EdDSA")]
    EdDsa,
}

impl IssuerAlgorithm {
    /// The word in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::Rs256 => "RS256",
            Self::EdDsa => "EdDSA",
        }
    }

    /// The algorithm of a word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Es256, Self::Rs256, Self::EdDsa].into_iter().find(|algorithm| algorithm.as_str() == word)
    }
}

/// What an operator may change of a registry. Stores keep it as one JSON text.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RegistrySettings {
    /// The form of access tokens, unless a policy says otherwise.
    pub token_format: TokenFormat,
    /// The trust in a device's clock, unless its record says otherwise.
    pub clock: ClockTrust,
    /// The algorithm of the issuer keys to come.
    pub issuer_algorithm: IssuerAlgorithm,
    /// MQTT connections are opened by a proof for that very connection, unless a principal's record says otherwise.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub bound_connections: bool,
    /// The ways into MQTT that are open to its principals, by their words; `None`: all that the listener allows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ways: Option<BTreeSet<String>>,
    /// Whether devices register themselves by a certificate of a CA of the registry; `None`: they do not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_registration: Option<CertificateRegistration>,
}

/// Which devices register themselves by connecting with a certificate of a CA of the registry. The common name of
/// the certificate becomes the name of the device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CertificateRegistration {
    /// Which common names may: `*` stands for any characters, everything else for itself.
    pub names: String,
    /// The CAs whose certificates may, each by its SHA-256 as 64 hex digits; empty: every CA of the registry.
    pub cas: BTreeSet<String>,
    /// They are admitted at once; else they wait for an operator.
    pub auto: bool,
    /// The policy they get; `None`: `device`.
    pub policy: Option<String>,
    /// How many devices of the registry may wait at a time.
    pub pending_max: u32,
    /// How many may register in an hour.
    pub hourly_max: u32,
}

impl Default for CertificateRegistration {
    fn default() -> Self {
        Self {
            names: "*".to_owned(),
            cas: BTreeSet::new(),
            auto: false,
            policy: None,
            pending_max: 1_000,
            hourly_max: 1_000,
        }
    }
}

/// How far a device's clock is to be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClockTrust {
    /// It has none: `iat` and `exp` prove nothing, a server nonce or a channel binding is required.
    None,
    /// It is within a day: a server nonce or a channel binding is required as well.
    Coarse,
    /// It is within the registry's skew.
    #[default]
    Good,
}

impl ClockTrust {
    /// The word in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Coarse => "coarse",
            Self::Good => "good",
        }
    }

    /// The trust of a word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::None, Self::Coarse, Self::Good].into_iter().find(|trust| trust.as_str() == word)
    }
}

/// What an application may do beyond its policy. A device has no roles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Read every record, key, policy and the audit of its registry.
    Viewer,
    /// As viewer; and register, change, block, revoke and delete devices, keys, enrolments and links.
    Operator,
    /// As operator; and policies, applications, roles, CAs, the registry's settings and issuer keys.
    Admin,
    /// Ask about any token of its registry at the introspection endpoint.
    Introspect,
    /// Its keys sign software statements (RFC 7591 section 2.3) that register devices.
    Manufacturer,
}

impl Role {
    /// All roles, in the order of their words in JSON.
    pub const ALL: [Self; 5] =
        [Self::Viewer, Self::Operator, Self::Admin, Self::Introspect, Self::Manufacturer];

    /// The word in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
            Self::Introspect => "introspect",
            Self::Manufacturer => "manufacturer",
        }
    }

    /// The role of a word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == word)
    }
}

/// The one field by which a CA-signed certificate names its principal.
///
/// Source: RFC 8705 section 2.1.2.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CertificateSubject {
    /// The subject's distinguished name, in the string form of RFC 4514.
    SubjectDn(String),
    /// A dNSName of the subject alternative names.
    SanDns(String),
    /// A uniformResourceIdentifier of the subject alternative names.
    SanUri(String),
    /// An iPAddress of the subject alternative names, as text.
    SanIp(String),
    /// An rfc822Name of the subject alternative names.
    SanEmail(String),
}

/// What an operator may set of a principal besides its policy. Stores keep it as one JSON text.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PrincipalSettings {
    /// The trust in its clock; `None`: as the registry says.
    pub clock: Option<ClockTrust>,
    /// May act for the devices that are linked to it.
    pub gateway: bool,
    /// What an application may do beyond its policy.
    pub roles: BTreeSet<Role>,
    /// How a certificate of a CA of the registry names it.
    pub certificate_subject: Option<CertificateSubject>,
    /// Its access tokens are bound to a key or certificate, or it gets none.
    pub bound_tokens: bool,
    /// Its MQTT connections are opened by a proof for that very connection, or not at all: a certificate, a raw
    /// key, the method `ace`, a JWT with `cb`. `None`: as the registry says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bound_connections: Option<bool>,
    /// The ways into MQTT that are open to it, by their words; `None`: all that listener and registry allow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ways: Option<BTreeSet<String>>,
}

macro_rules! json_text {
    ($($settings:ty),+) => {$(
        impl $settings {
            /// The JSON text that stores keep; `{}` if nothing was chosen.
            #[must_use]
            pub fn to_json(&self) -> String {
                if *self == Self::default() {
                    return "{}".to_owned();
                }
                serde_json::to_string(self).expect("settings are texts, flags and lists")
            }

            /// Reads what [`Self::to_json`] wrote.
            ///
            /// # Errors
            /// [`StoreError::Corrupt`] when it is something else.
            pub fn from_json(text: &str) -> Result<Self, StoreError> {
                if text == "{}" {
                    return Ok(Self::default()); // nearly always
                }
                serde_json::from_str(text)
                    .map_err(|error| StoreError::Corrupt(format!(concat!(stringify!($settings), ": {}"), error)))
            }
        }
    )+};
}
json_text!(RegistrySettings, PrincipalSettings);

impl EnrolmentNames {
    /// The JSON text that stores keep.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("names are texts and lists")
    }

    /// Reads what [`Self::to_json`] wrote.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when it is something else.
    pub fn from_json(text: &str) -> Result<Self, StoreError> {
        serde_json::from_str(text).map_err(|error| StoreError::Corrupt(format!("EnrolmentNames: {error}")))
    }
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
    /// Enrolled itself and waits for an operator: until approved it is admitted nowhere either.
    pub pending: bool,
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
    /// What else its operator has set.
    pub settings: PrincipalSettings,
    /// The enrolment by which it came, if it registered itself.
    pub enrolment: Option<String>,
    /// SHA-256 of its registration access token (RFC 7592), if it registered itself.
    pub registration: Option<[u8; 32]>,
    /// When it was registered.
    pub created_s: u64,
    /// Counts the changes of this record, keys included: the ETag.
    pub revision: u64,
}

impl Principal {
    /// A principal without rights, settings and history: revision 1.
    #[must_use]
    pub fn new(
        registry: RegistryName,
        uid: Uid,
        name: PrincipalName,
        kind: PrincipalKind,
        created_s: u64,
    ) -> Self {
        Self {
            registry,
            uid,
            name,
            kind,
            blocked: false,
            pending: false,
            epoch: Epoch(0),
            not_before_s: 0,
            legacy_assertions: false,
            policy: None,
            attributes: BTreeMap::new(),
            password: None,
            settings: PrincipalSettings::default(),
            enrolment: None,
            registration: None,
            created_s,
            revision: 1,
        }
    }
}

impl std::fmt::Debug for Principal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Principal")
            .field("registry", &self.registry)
            .field("uid", &self.uid)
            .field("name", &self.name)
            .field("kind", &self.kind)
            .field("blocked", &self.blocked)
            .field("pending", &self.pending)
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
    /// When it was last used to log in, to the minute; `None`: never.
    pub last_used_s: Option<u64>,
    /// The certificate it was registered by, DER; `None`: a bare public key.
    pub certificate_der: Option<Vec<u8>>,
}

impl Key {
    /// Puts a key that is replaced into grace, as every store does: until this second, or earlier if it
    /// would end anyway.
    pub fn enter_grace(&mut self, until_s: u64) {
        self.state = KeyState::Grace;
        self.expires_s = Some(self.expires_s.map_or(until_s, |end_s| end_s.min(until_s)));
    }
}

/// Changes of a key that leave it the same key. `None`: as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyChange {
    /// Its label.
    pub label: Option<Option<String>>,
    /// Not accepted before this second.
    pub not_before_s: Option<Option<u64>>,
    /// Not accepted from this second on.
    pub expires_s: Option<Option<u64>>,
}

impl KeyChange {
    /// Changes a key as every store does.
    pub fn apply_to(self, key: &mut Key) {
        if let Some(label) = self.label {
            key.label = label;
        }
        if let Some(not_before_s) = self.not_before_s {
            key.not_before_s = not_before_s;
        }
        if let Some(expires_s) = self.expires_s {
            key.expires_s = expires_s;
        }
    }
}

/// Who may register itself by an enrolment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EnrolmentNames {
    /// Devices of these names.
    Ids(Vec<String>),
    /// Devices whose name matches: `*` stands for any characters, everything else for itself.
    Pattern(String),
    /// Devices of any name with one of these keys (RFC 7638 thumbprints).
    Keys(Vec<String>),
}

/// Permission for a batch of devices to register themselves with one bearer token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolment {
    /// Its id, 22 characters of base64url.
    pub id: String,
    /// SHA-256 of the token; the token is shown once and not kept.
    pub token_digest: [u8; 32],
    /// A word of the operator.
    pub label: Option<String>,
    /// Who may use it.
    pub names: EnrolmentNames,
    /// How many devices may register.
    pub claims_max: u32,
    /// How many have.
    pub claims: u32,
    /// The policy they get.
    pub policy: Option<PolicyName>,
    /// They are admitted at once; else they wait for an operator.
    pub auto: bool,
    /// Not accepted from this second on.
    pub expires_s: u64,
    /// Ended by its operator.
    pub ended: bool,
    /// When it was made.
    pub created_s: u64,
}

/// A certificate authority of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ca {
    /// SHA-256 of the certificate.
    pub fingerprint: [u8; 32],
    /// The certificate, DER.
    pub der: Vec<u8>,
    /// A word of the operator.
    pub label: Option<String>,
    /// When it was registered.
    pub added_s: u64,
}

/// An opaque access token, kept by its digest.
#[derive(Clone, PartialEq, Eq)]
pub struct KeptToken {
    /// SHA-256 of the token.
    pub digest: [u8; 32],
    /// Whose it is.
    pub uid: Uid,
    /// The chain of renewals it belongs to, random.
    pub family: [u8; 16],
    /// How many renewals lie before it.
    pub generation: u32,
    /// What it says: JSON text.
    pub claims: String,
    /// Good until this second.
    pub expires_s: u64,
    /// It was presented once at least.
    pub used: bool,
    /// A successor was issued.
    pub renewed: bool,
}

impl std::fmt::Debug for KeptToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeptToken")
            .field("uid", &self.uid)
            .field("generation", &self.generation)
            .field("expires_s", &self.expires_s)
            .field("used", &self.used)
            .field("renewed", &self.renewed)
            .finish_non_exhaustive()
    }
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
    /// Set or remove the password verifier. Epoch + 1: what the one before has opened is dead.
    Password(Option<Vec<u8>>),
    /// Admit a principal that enrolled itself.
    Approve,
    /// Replace the settings. Epoch + 1 when another certificate counts from now on: what the one before has
    /// opened is dead.
    Settings(PrincipalSettings),
    /// Replace the digest of the registration access token.
    Registration(Option<[u8; 32]>),
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
            Self::Password(verifier) => {
                principal.password = verifier;
                principal.epoch = Epoch(principal.epoch.0 + 1);
            }
            Self::Approve => principal.pending = false,
            Self::Settings(settings) => {
                let before = &principal.settings.certificate_subject;
                if before.is_some() && *before != settings.certificate_subject {
                    principal.epoch = Epoch(principal.epoch.0 + 1);
                }
                principal.settings = settings;
            }
            Self::Registration(digest) => principal.registration = digest,
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

/// The newest row of a writer's chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditHead {
    /// The writer.
    pub writer: String,
    /// Its newest row.
    pub seq: u64,
    /// The hash of that row.
    pub hash: [u8; 32],
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

impl AuditRow {
    /// This row as the head of its chain.
    #[must_use]
    pub fn head(&self) -> AuditHead {
        AuditHead { writer: self.writer.clone(), seq: self.seq, hash: self.hash }
    }
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
