//! Registries, and how devices get into them: enrolments, gateways, certificate authorities.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `drawbridge registry ...`.
#[derive(Debug, Subcommand)]
pub enum RegistryCommand {
    /// Make a registry
    Add {
        /// Its name, lower case
        name: String,
        /// Google Cloud IoT Core project and location it stands for
        #[arg(long, value_name = "PROJECT/LOCATION")]
        google: Option<String>,
    },
    /// List registries
    List,
    /// Show a registry
    Show {
        /// Its name
        name: String,
    },
    /// Change settings of a registry; what is left out stays
    Set(RegistrySet),
    /// List the keys of its issuer: which one signs, which comes next, which are still believed
    Keys {
        /// Its name
        name: String,
    },
    /// Publish the next key of its issuer, which signs from tomorrow on
    RotateKey {
        /// Its name
        name: String,
        /// The key was stolen: a new one signs at once, and all that the old ones signed is dead
        #[arg(long)]
        now: bool,
    },
}

/// `drawbridge registry set`.
#[derive(Debug, Args)]
pub struct RegistrySet {
    /// Its name
    pub name: String,
    /// Form of access tokens: `at+jwt` or `opaque`
    #[arg(long, value_name = "FORMAT", value_parser = ["at+jwt", "opaque"])]
    pub token_format: Option<String>,
    /// Life of an access token, in seconds
    #[arg(long, value_name = "SECONDS")]
    pub token_life_s: Option<u32>,
    /// How far a device's clock may be off, in seconds
    #[arg(long, value_name = "SECONDS")]
    pub clock_skew_s: Option<u32>,
    /// MQTT connections must be opened by a proof for that very connection (`true`), or need not be (`false`)
    #[arg(long, value_name = "BOOL")]
    pub bound_connections: Option<bool>,
    /// Trust in devices' clocks: `none`, `coarse` or `good`
    #[arg(long, value_name = "TRUST", value_parser = ["none", "coarse", "good"])]
    pub clock: Option<String>,
    /// Algorithm of the issuer's next key: `ES256`, `RS256` or `EdDSA`
    #[arg(long, value_name = "ALG", value_parser = ["ES256", "RS256", "EdDSA"])]
    pub issuer_algorithm: Option<String>,
    /// The ways into MQTT that are open to its principals, such as `certificate,device-jwt`; `all` for what the
    /// listener allows
    #[arg(long, value_name = "WAYS")]
    pub ways: Option<String>,
    /// Devices whose certificate by a CA of the registry has a common name like this (`*`: any characters) register
    /// themselves when they connect, and wait for `enrol approve`; `none` for no device
    #[arg(long, value_name = "PATTERN")]
    pub register_certificates: Option<String>,
    /// Only by certificates of this CA (its fingerprint); may be repeated
    #[arg(long = "register-ca", value_name = "FINGERPRINT", requires = "register_certificates")]
    pub register_cas: Vec<String>,
    /// They are admitted at once
    #[arg(long, requires = "register_certificates")]
    pub register_at_once: bool,
    /// The policy they get [default: device]
    #[arg(long, value_name = "NAME", requires = "register_certificates")]
    pub register_policy: Option<String>,
    /// How many of them may wait at a time [default: 1000]
    #[arg(long, value_name = "COUNT", requires = "register_certificates")]
    pub register_pending_max: Option<u32>,
    /// How many of them may register in an hour [default: 1000]
    #[arg(long, value_name = "COUNT", requires = "register_certificates")]
    pub register_hourly_max: Option<u32>,
}

/// `drawbridge enrol ...`.
#[derive(Debug, Subcommand)]
pub enum EnrolCommand {
    /// Make an enrolment; its token goes to a file, once
    Create(EnrolCreate),
    /// List enrolments, newest first
    List,
    /// Show an enrolment and the devices that came by it
    Show {
        /// The enrolment
        #[arg(allow_hyphen_values = true)]
        id: String,
    },
    /// End an enrolment: its token is good no more, what came by it stays
    Revoke {
        /// The enrolment
        #[arg(allow_hyphen_values = true)]
        id: String,
    },
    /// Admit a device that has registered itself, or all of an enrolment
    Approve {
        /// The device
        #[arg(required_unless_present = "all")]
        device: Option<String>,
        /// All that wait of this enrolment
        #[arg(long, value_name = "ENROLMENT", conflicts_with = "device", allow_hyphen_values = true)]
        all: Option<String>,
    },
    /// Send a device that waits away: its name is free again, its key barred for ever, its claim used
    Reject {
        /// The device
        device: String,
    },
    /// Take back a claim: the device is deleted, its sessions and tokens end, another may come
    Undo {
        /// The device
        device: String,
    },
}

/// `drawbridge enrol create`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("names").required(true).args(["pattern", "ids", "keys"]))]
pub struct EnrolCreate {
    /// For names that fit, `*` for any characters: `pump-*`; they wait for approval
    #[arg(long, value_name = "PATTERN")]
    pub pattern: Option<String>,
    /// For this name; repeat for several
    #[arg(long = "id", value_name = "ID")]
    pub ids: Vec<String>,
    /// For any name with this key (RFC 7638 thumbprint); repeat for several
    #[arg(long = "key-thumbprint", value_name = "KID")]
    pub keys: Vec<String>,
    /// A pattern that fits every name is meant
    #[arg(long)]
    pub any: bool,
    /// How many devices [default: 1, or as many as are named]
    #[arg(long)]
    pub count: Option<u32>,
    /// How long: `30m`, `24h`
    #[arg(long = "for", value_name = "TIME", default_value = "24h")]
    pub life: String,
    /// The policy they get [default: device]
    #[arg(long, value_name = "NAME")]
    pub policy: Option<String>,
    /// Admit those of a pattern at once
    #[arg(long)]
    pub auto: bool,
    /// A word for the listing
    #[arg(long)]
    pub label: Option<String>,
    /// File for the token, `-` for stdout [default: ./enrolment-ID.token]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// `drawbridge gateway ...`.
#[derive(Debug, Subcommand)]
pub enum GatewayCommand {
    /// Let a gateway act for a device
    Link {
        /// The gateway
        gateway: String,
        /// The device
        device: String,
    },
    /// No more; what it opened for it ends
    Unlink {
        /// The gateway
        gateway: String,
        /// The device
        device: String,
    },
    /// List the devices of a gateway, or the gateways of a device
    List {
        /// The gateway
        #[arg(required_unless_present = "device")]
        gateway: Option<String>,
        /// The gateways of this device instead
        #[arg(long = "of", value_name = "DEVICE", conflicts_with = "gateway")]
        device: Option<String>,
    },
}

/// `drawbridge ca ...`.
#[derive(Debug, Subcommand)]
pub enum CaCommand {
    /// Register a CA from its certificate
    Add {
        /// The certificate, PEM
        file: PathBuf,
        /// A word for the listing
        #[arg(long)]
        label: Option<String>,
    },
    /// List the CAs
    List,
    /// Remove a CA: no certificate of it logs in any more
    Remove {
        /// SHA-256 of its certificate, hex
        fingerprint: String,
    },
}
