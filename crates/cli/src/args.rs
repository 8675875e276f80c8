//! The command line. Names are stable: tests and users rely on them.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Arg, ArgAction, Args, Parser, Subcommand, ValueEnum, value_parser};

use crate::bench::args::BenchCommand;

/// What `--help` begins with; given by name, for clap would take the text of a flattened struct.
const ABOUT: &str = "Drawbridge, the self-hosted IoT core: identity for devices, an MQTT bridge that \
                     admits only what it can identify, and control.";

/// A word of the command line that may be a secret: `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Hidden(pub String);

impl From<String> for Hidden {
    fn from(word: String) -> Self {
        Self(word)
    }
}

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hidden")
    }
}

/// The command line.
#[derive(Debug, Parser)]
#[command(name = "drawbridge", version, about = ABOUT, long_about = None, max_term_width = 100)]
pub struct Cli {
    /// What every command takes.
    #[command(flatten)]
    pub common: Common,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// Where data is unless `--data` says otherwise.
pub const DEFAULT_DATA: &str = "./drawbridge-data";
/// The registry unless `--registry` says otherwise.
pub const DEFAULT_REGISTRY: &str = "default";

/// What every command takes.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// Folder of the server's data; also tells the other commands which server and admin credential to use
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        default_value = DEFAULT_DATA,
        env = "DRAWBRIDGE_DATA"
    )]
    pub data: PathBuf,
    /// A remote server, `https://host:port` (with --token-file and --ca)
    #[arg(long, global = true, value_name = "URL", requires = "token_file", requires = "ca")]
    pub server: Option<String>,
    /// File with the admin credential of the remote server; for a client, with the token it logs in with
    #[arg(long, global = true, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Root certificate of the remote server (PEM)
    #[arg(long, global = true, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// The registry to work in
    #[arg(long, global = true, value_name = "NAME", default_value = DEFAULT_REGISTRY)]
    pub registry: String,
    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the server
    Serve(ServeArgs),
    /// Add, list, show, block, revoke, delete devices; run a simulated one
    #[command(subcommand)]
    Device(DeviceCommand),
    /// Add, list, show, delete applications (backend services)
    #[command(subcommand)]
    App(AppCommand),
    /// Add and list registries
    #[command(subcommand)]
    Registry(RegistryCommand),
    /// Add, list, change, remove, revoke keys of a device or application
    #[command(subcommand)]
    Key(KeyCommand),
    /// Permit devices to register themselves, and approve, reject or undo those that have
    #[command(subcommand)]
    Enrol(EnrolCommand),
    /// Say which gateway may act for which device
    #[command(subcommand)]
    Gateway(GatewayCommand),
    /// Add, list, remove certificate authorities whose certificates log in
    #[command(subcommand)]
    Ca(CaCommand),
    /// Set, show, list, attach policies
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Ask whether a principal may do something; prints the deciding rule
    Can {
        /// Device or application
        principal: String,
        /// `publish`, `subscribe` or `receive`
        action: Action,
        /// Topic, or topic filter (subscribe)
        topic: String,
        /// What is known of the message and the connection
        #[command(flatten)]
        facts: CanFacts,
    },
    /// Mint, inspect, get tokens
    #[command(subcommand)]
    Token(TokenCommand),
    /// Send a command to a device
    #[command(subcommand)]
    Command(CommandCommand),
    /// Set and get the config of a device
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Read the states a device reported
    #[command(subcommand)]
    State(StateCommand),
    /// Publish, with the identity in --as DIR or another way to log in
    Pub(PubArgs),
    /// Subscribe, with the identity in --as DIR or another way to log in, and print what comes
    Sub(SubArgs),
    /// Replace the admin credential
    #[command(subcommand)]
    Admin(AdminCommand),
    /// Read, export and check the audit
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Show the numbers of the server on one screen, and what they do
    Top(TopArgs),
    /// Put load on an MQTT broker, this one or another, and say what it did and what it cost
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Say what an error code of a log, an answer or a reason string means, and the mend
    Explain {
        /// Such as `DB-1007`, or its word, such as `not-proven`
        code: String,
    },
    /// Judge a settings file; starts nothing
    CheckConfig {
        /// The TOML file
        file: PathBuf,
    },
}

/// The flags of [`Common`] that say which server to talk to, and how: `serve` talks to none. A flag
/// that a command declares itself is not replaced by the global one, so here they are hidden.
fn flags_of_clients() -> [Arg; 5] {
    let hidden = |name: &'static str| Arg::new(name).long(name).hide(true);
    let file = || value_parser!(PathBuf);
    [
        hidden("server"),
        hidden("token-file").id("token_file").value_parser(file()),
        hidden("ca").value_parser(file()),
        hidden("registry"),
        hidden("json").action(ArgAction::SetTrue),
    ]
}

/// `drawbridge serve`.
#[derive(Debug, Clone, Args, Default)]
#[command(args = flags_of_clients())]
pub struct ServeArgs {
    /// The issuer of the default registry, fixed when it is first made [default: https://localhost and the https port]
    #[arg(long, value_name = "URL")]
    pub issuer: Option<String>,
    /// A further DNS name or address for the server's certificate; may be repeated
    #[arg(long = "name", value_name = "NAME")]
    pub names: Vec<String>,
    /// Address to listen on [default: 127.0.0.1]
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<IpAddr>,
    /// Port of MQTT over TLS, 0 for any [default: 8883]
    #[arg(long, value_name = "PORT")]
    pub mqtts_port: Option<u16>,
    /// Port of HTTPS, 0 for any [default: 8443]
    #[arg(long, value_name = "PORT")]
    pub https_port: Option<u16>,
    /// Also serve MQTT without TLS on this port, on loopback only; no token is accepted there
    #[arg(long, value_name = "PORT")]
    pub insecure_mqtt_port: Option<u16>,
    /// Let clients without any credential in on the insecure port, with the rights of this application
    #[arg(long, value_name = "APP", requires = "insecure_mqtt_port")]
    pub insecure_anonymous: Option<String>,
    /// Where the records are kept: `sqlite:PATH` or `postgres://USER@HOST/DATABASE` [default: a file in --data];
    /// one with a password belongs in the environment, where `ps` does not show it
    #[arg(long, value_name = "URL", env = "DRAWBRIDGE_STORE_URL", hide_env_values = true)]
    pub store: Option<Hidden>,
    /// Settings file (TOML); flags win over it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Show the main job: a thermometer and a lamp, simulated in this process, over real TLS
    #[arg(long)]
    pub demo: bool,
}

/// `drawbridge device ...`.
#[derive(Debug, Subcommand)]
pub enum DeviceCommand {
    /// Register a device; without --key a key is made and written with all it needs to ./ID/ or --out DIR
    Add(DeviceAdd),
    /// List devices
    List,
    /// Show a device
    Show {
        /// The device
        id: String,
    },
    /// Admit it no more and close its sessions
    Block {
        /// The device
        id: String,
    },
    /// Admit it again
    Unblock {
        /// The device
        id: String,
    },
    /// Kill every token and session it has now (whoever holds its key can sign anew: then block it or remove the key)
    Revoke {
        /// The device
        id: String,
        /// Why, for the audit
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
    },
    /// Change what it is beyond its policy
    Set {
        /// The device
        id: String,
        /// It may act for the devices that it is linked to (`true`), or may not (`false`)
        #[arg(long, value_name = "BOOL")]
        gateway: Option<bool>,
        /// Trust in its clock: `none`, `coarse`, `good`, or `registry` for what its registry says
        #[arg(long, value_name = "TRUST", value_parser = ["none", "coarse", "good", "registry"])]
        clock: Option<String>,
        /// Accept its IoT IdP style JWTs (`true`, a weakness), or not (`false`)
        #[arg(long, value_name = "BOOL")]
        legacy_assertions: Option<bool>,
        /// What both kinds of principals have.
        #[command(flatten)]
        both: PrincipalSet,
    },
    /// Make a new secret for it and print it, this once; the password or secret before it is dead
    Secret {
        /// The device
        id: String,
    },
    /// Set its password, read from standard input, one line; the password or secret before it is dead
    Password {
        /// The device
        id: String,
        /// Take the password away instead
        #[arg(long)]
        remove: bool,
    },
    /// Delete it with its keys
    Delete {
        /// The device
        id: String,
    },
    /// Register this device by itself, with the enrolment token in --token-file; its key is made here
    Enrol {
        /// The name it asks for
        id: String,
        /// Folder for key.pem, ca.pem, device.json [default: ./ID/]
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// Where MQTT over TLS is [default: as the data folder says, else port 8883 of the server]
        #[arg(long, value_name = "HOST:PORT")]
        mqtts: Option<String>,
    },
    /// Register many devices, a JSON object a line: id, keys, policy, attributes, clock, gateway
    Import {
        /// The file
        file: PathBuf,
        /// Where lines go that were refused, with the reason [default: FILE.errors]
        #[arg(long, value_name = "FILE")]
        errors: Option<PathBuf>,
        /// Go on where an earlier run of this file was cut off
        #[arg(long)]
        resume: bool,
    },
    /// Run a device with the identity in --as DIR (default ./ID): stays connected, reports, prints commands and configs
    Run(RunArgs),
}

/// `drawbridge device add`.
#[derive(Debug, Args)]
pub struct DeviceAdd {
    /// Its name
    pub id: String,
    /// Public key: PEM, JWK or DER, recognised by content; repeat for several
    #[arg(long = "key", value_name = "FILE")]
    pub keys: Vec<PathBuf>,
    /// Certificate whose key is registered
    #[arg(long, value_name = "FILE")]
    pub certificate: Option<PathBuf>,
    /// Policy [default: device]
    #[arg(long, value_name = "NAME")]
    pub policy: Option<String>,
    /// Read its password from standard input, one line; without --key it gets no key then
    #[arg(long)]
    pub password_stdin: bool,
    /// Accept its IoT IdP style JWTs without `aud` and `exp` on the alias paths (a weakness)
    #[arg(long)]
    pub legacy_assertions: bool,
    /// Operator-set attribute for `${attr.NAME}` in policies; may be repeated
    #[arg(long = "attr", value_name = "NAME=VALUE")]
    pub attributes: Vec<String>,
    /// Folder for key.pem, ca.pem, device.json
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// What `drawbridge device set` and `drawbridge app set` have in common.
#[derive(Debug, Args)]
pub struct PrincipalSet {
    /// Its access tokens must be bound to a key or certificate (`true`), or need not be (`false`)
    #[arg(long, value_name = "BOOL")]
    pub bound_tokens: Option<bool>,
    /// Its MQTT connections must be opened by a proof for that very connection (`true`), need not be (`false`), or as its
    /// registry says (`registry`)
    #[arg(long, value_name = "WORD", value_parser = ["true", "false", "registry"])]
    pub bound_connections: Option<String>,
    /// The field by which a certificate of a CA names it: subject_dn, san_dns, san_uri, san_ip or san_email,
    /// such as `san_dns=pump-1.plant`; `none` for no field
    #[arg(long, value_name = "FIELD=VALUE")]
    pub certificate_subject: Option<String>,
    /// The ways into MQTT that are open to it, such as `certificate,device-jwt`; `all` for what listener and registry
    /// allow
    #[arg(long, value_name = "WAYS")]
    pub ways: Option<String>,
}

/// `drawbridge app ...`.
#[derive(Debug, Subcommand)]
pub enum AppCommand {
    /// Register an application; without --key a key is made and written to ./NAME/ or --out DIR
    Add {
        /// Its name
        name: String,
        /// Public key: PEM, JWK or DER
        #[arg(long = "key", value_name = "FILE")]
        keys: Vec<PathBuf>,
        /// Read its password from standard input, one line; without --key it gets no key then
        #[arg(long)]
        password_stdin: bool,
        /// What it may do beyond its policy: viewer, operator, admin, introspect, manufacturer; repeat for several
        #[arg(long = "role", value_name = "ROLE")]
        roles: Vec<String>,
        /// Policy; without one it may do nothing
        #[arg(long, value_name = "NAME")]
        policy: Option<String>,
        /// Folder for key.pem, ca.pem, device.json
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
    /// List applications
    List,
    /// Show an application
    Show {
        /// The application
        name: String,
    },
    /// Change what it may do beyond its policy
    Set {
        /// The application
        name: String,
        /// A role it has from now on: viewer, operator, admin, introspect, manufacturer; repeat for several
        #[arg(long = "role", value_name = "ROLE", conflicts_with = "no_roles")]
        roles: Vec<String>,
        /// Take all its roles away
        #[arg(long)]
        no_roles: bool,
        /// What both kinds of principals have.
        #[command(flatten)]
        both: PrincipalSet,
    },
    /// Make a new secret for it and print it, this once; the password or secret before it is dead
    Secret {
        /// The application
        name: String,
    },
    /// Set its password, read from standard input, one line; the password or secret before it is dead
    Password {
        /// The application
        name: String,
        /// Take the password away instead
        #[arg(long)]
        remove: bool,
    },
    /// Delete an application
    Delete {
        /// The application
        name: String,
    },
}

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

/// `drawbridge key ...`.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Register a further key, or one in the place of another
    Add(KeyAdd),
    /// List keys: state, label, end, last use
    List {
        /// Device or application
        id: String,
    },
    /// Change label or validity of a key
    Set(KeySet),
    /// Retire a key and close what it opened
    Remove {
        /// Device or application
        id: String,
        /// Key id (thumbprint)
        #[arg(allow_hyphen_values = true)]
        kid: String,
    },
    /// A key is in wrong hands: retire it, also the last one, and end all that its owner has opened
    Revoke {
        /// Device or application
        id: String,
        /// Key id (thumbprint)
        #[arg(allow_hyphen_values = true)]
        kid: String,
        /// Why, for the audit
        #[arg(long, value_name = "TEXT", default_value = "compromised")]
        reason: String,
    },
}

/// `drawbridge key add`.
#[derive(Debug, Args)]
pub struct KeyAdd {
    /// Device or application
    pub id: String,
    /// Public key: PEM, JWK, DER, or a certificate (in PEM its end becomes the end of the key)
    pub file: PathBuf,
    /// A label; may stand as `kid` in its JWTs
    #[arg(long)]
    pub label: Option<String>,
    /// Not accepted before this time, such as 2030-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    pub not_before: Option<String>,
    /// Not accepted from this time on, or `never`
    #[arg(long, value_name = "TIME")]
    pub expires: Option<String>,
    /// The key whose place it takes
    #[arg(long, value_name = "KID", allow_hyphen_values = true)]
    pub replaces: Option<String>,
    /// How long that one may still be used: `0` retires it at once [default: as the server's settings say]
    #[arg(long, value_name = "TIME", requires = "replaces")]
    pub grace: Option<String>,
}

/// `drawbridge key set`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("change").required(true).multiple(true).args(["label", "not_before", "expires"]))]
pub struct KeySet {
    /// Device or application
    pub id: String,
    /// Key id (thumbprint)
    #[arg(allow_hyphen_values = true)]
    pub kid: String,
    /// A label; an empty one takes it away
    #[arg(long)]
    pub label: Option<String>,
    /// Not accepted before this time, such as 2030-01-31T12:00:00Z, or `never` for no such bound
    #[arg(long, value_name = "TIME")]
    pub not_before: Option<String>,
    /// Not accepted from this time on, or `never`
    #[arg(long, value_name = "TIME")]
    pub expires: Option<String>,
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
        id: String,
    },
    /// End an enrolment: its token is good no more, what came by it stays
    Revoke {
        /// The enrolment
        id: String,
    },
    /// Admit a device that has registered itself, or all of an enrolment
    Approve {
        /// The device
        #[arg(required_unless_present = "all")]
        device: Option<String>,
        /// All that wait of this enrolment
        #[arg(long, value_name = "ENROLMENT", conflicts_with = "device")]
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

/// `drawbridge policy ...`.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Set a policy from a TOML file
    Set {
        /// Its name
        name: String,
        /// The file
        file: PathBuf,
    },
    /// Judge a TOML file and run its tests; contacts no server
    Check {
        /// The file
        file: PathBuf,
    },
    /// Take over the rights of another broker as a TOML file, to be read and then set; contacts no server
    Import {
        /// Where they come from
        #[arg(long)]
        from: ImportFrom,
        /// The file
        file: PathBuf,
        /// Of a Mosquitto ACL file: only this user
        #[arg(long, value_name = "NAME")]
        user: Option<String>,
        /// Of a Mosquitto ACL file: write USER.toml for each user, and everybody.toml, into this folder
        #[arg(long, value_name = "DIR", conflicts_with = "user")]
        out: Option<PathBuf>,
    },
    /// Print a policy
    Show {
        /// Its name
        name: String,
    },
    /// List policies
    List,
    /// Give a principal this policy
    Attach {
        /// The policy
        name: String,
        /// Device or application
        principal: String,
    },
}

/// What `can` asks.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Action {
    /// To publish to a topic
    Publish,
    /// To subscribe to a filter
    Subscribe,
    /// To be handed a message on a topic
    Receive,
}

/// What `can` is told. Without any of it: any message, over any connection.
#[derive(Debug, clap::Args)]
pub struct CanFacts {
    /// QoS of the message, or asked for by the subscription
    #[arg(long, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub qos: Option<u8>,
    /// The message is to be retained
    #[arg(long)]
    pub retain: bool,
    /// The message is a will
    #[arg(long)]
    pub will: bool,
    /// Length of its payload
    #[arg(long, value_name = "BYTES")]
    pub payload_bytes: Option<u32>,
    /// What is spoken: mqtt3, mqtt5 or http
    #[arg(long, value_name = "WORD")]
    pub protocol: Option<String>,
    /// MQTT over WebSocket
    #[arg(long)]
    pub websocket: bool,
    /// The local port
    #[arg(long)]
    pub port: Option<u16>,
    /// The remote address
    #[arg(long)]
    pub address: Option<std::net::IpAddr>,
    /// How the connection is protected: 1.3, 1.2 or none
    #[arg(long, value_name = "VERSION")]
    pub tls: Option<String>,
    /// How the principal proves who it is: password, jwt, token, certificate, raw-key, ace or anonymous
    #[arg(long, value_name = "WORD")]
    pub method: Option<String>,
    /// The MQTT client id
    #[arg(long, value_name = "ID")]
    pub client_id: Option<String>,
}

/// Whose rights `policy import` takes over.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum ImportFrom {
    /// An AWS IoT policy document (JSON)
    Aws,
    /// An ACL file of Mosquitto
    Mosquitto,
}

/// `drawbridge token ...`.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Sign a JWT for the MQTT password with a private key; contacts no server
    Mint {
        /// Private key, PKCS#8 PEM
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// The device
        #[arg(long, value_name = "ID")]
        device: String,
        /// The bridge's audience (`bridge_audience` of device.json)
        #[arg(long, value_name = "AUD")]
        aud: String,
        /// Life: `30s`, `10m`, `1h`
        #[arg(long, default_value = "1h")]
        life: String,
    },
    /// Print what a JWT says; it is not verified
    Inspect {
        /// The token, or `-` for stdin
        token: Hidden,
    },
    /// Log in with a private key and print the access token
    Get {
        /// The device or application
        id: String,
        /// Private key, PKCS#8 PEM
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// What the token is for [default: the MQTT bridge]
        #[arg(long, value_name = "URL")]
        resource: Option<String>,
    },
}

/// `drawbridge command ...`.
#[derive(Debug, Subcommand)]
pub enum CommandCommand {
    /// Send; answers after the device has acknowledged
    Send {
        /// The device
        id: String,
        /// The payload, as text
        payload: String,
        /// Below `devices/ID/commands/`
        #[arg(long)]
        subfolder: Option<String>,
        /// How long to wait for the acknowledgement
        #[arg(long, default_value = "10s")]
        wait: String,
    },
}

/// `drawbridge config ...`.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Set the config of a device; it gets it at once, or when it next subscribes
    Set {
        /// The device
        id: String,
        /// The payload, as text
        payload: String,
    },
    /// Print the config of a device
    Get {
        /// The device
        id: String,
    },
}

/// `drawbridge state ...`.
#[derive(Debug, Subcommand)]
pub enum StateCommand {
    /// List the last 10 states, newest first
    List {
        /// The device
        id: String,
    },
}

/// How `pub`, `sub` and `device run` log in: by a JWT signed with the identity's key, unless told otherwise.
#[derive(Debug, Clone, Args)]
pub struct ClientArgs {
    /// Identity folder (key.pem, ca.pem, device.json)
    #[arg(long = "as", alias = "identity", value_name = "DIR")]
    pub identity: Option<PathBuf>,
    /// Where MQTT over TLS is [default: as the identity or the data folder says]
    #[arg(long, value_name = "HOST:PORT")]
    pub mqtts: Option<String>,
    /// MQTT client id [default: the name, and what the command does]
    #[arg(short = 'i', long = "id", value_name = "ID")]
    pub client_id: Option<String>,
    /// MQTT version
    #[arg(short = 'V', long, value_name = "VERSION", default_value = "5")]
    pub mqtt_version: MqttVersion,
    /// What is presented instead; a token comes from --token-file FILE, else the identity's key makes or gets it
    #[arg(long, value_name = "METHOD")]
    pub method: Option<LoginMethod>,
    /// User name of a login by password [default: the client id]
    #[arg(short = 'u', long, value_name = "NAME", requires = "password_file")]
    pub username: Option<String>,
    /// File with the password, one line
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// Client certificate (PEM), with those that lead to its root
    #[arg(long, value_name = "FILE", requires = "key")]
    pub cert: Option<PathBuf>,
    /// Private key of --cert (PEM)
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
    /// Show a self-signed certificate of the identity's key
    #[arg(long, conflicts_with = "cert")]
    pub self_signed: bool,
    /// Over WebSocket
    #[arg(long)]
    pub ws: bool,
    /// Life of the JWTs that it signs, in seconds; a new one renews the session before
    #[arg(long = "life-s", value_name = "SECONDS", default_value_t = 3600, value_parser = value_parser!(u64).range(1..=86_400))]
    pub life_s: u64,
    /// Keep alive, in seconds; 0 for none
    #[arg(short = 'k', long = "keepalive", value_name = "SECONDS", default_value_t = 60)]
    pub keep_alive_s: u16,
    /// TLS 1.2 and no other
    #[arg(long = "tls-1-2")]
    pub tls_1_2: bool,
}

/// The versions of MQTT, as mosquitto's clients name them and shorter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MqttVersion {
    /// MQTT 3.1.1
    #[value(name = "3.1.1", alias = "311", alias = "mqttv311")]
    V311,
    /// MQTT 5
    #[value(name = "5", alias = "mqttv5")]
    V5,
}

/// What a client presents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LoginMethod {
    /// A token as the password: the one of --token-file, or a JWT that the identity's key signs
    Token,
    /// An access token as the password, fetched over HTTPS: needs no clock
    AccessToken,
    /// RFC 9431 with a bound access token, proven by what TLS exports
    Ace,
    /// RFC 9431 with a bound access token, proven by a challenge
    AceChallenge,
    /// The token as data of the Authentication Method OAUTH2-JWT
    #[value(name = "OAUTH2-JWT", alias = "oauth2-jwt")]
    Oauth2Jwt,
    /// The token as data of the Authentication Method CUSTOM-JWT
    #[value(name = "CUSTOM-JWT", alias = "custom-jwt")]
    CustomJwt,
    /// Nothing but the certificate of --cert or --self-signed
    Certificate,
}

/// `drawbridge pub`.
#[derive(Debug, Args)]
pub struct PubArgs {
    /// Topic
    pub topic: Option<String>,
    /// Payload, as text
    pub payload: Option<String>,
    /// Topic, as mosquitto_pub takes it
    #[arg(short = 't', long = "topic", value_name = "TOPIC")]
    pub topic_flag: Option<String>,
    /// Payload, as text
    #[arg(short = 'm', long, value_name = "TEXT", allow_hyphen_values = true)]
    pub message: Option<String>,
    /// Payload: all of a file
    #[arg(short = 'f', long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// A message for each line of standard input
    #[arg(short = 'l', long)]
    pub stdin_line: bool,
    /// Payload: all of standard input
    #[arg(short = 's', long)]
    pub stdin_file: bool,
    /// No payload; with -r it clears the retained message
    #[arg(short = 'n', long)]
    pub null_message: bool,
    /// QoS
    #[arg(short = 'q', long, default_value_t = 1, value_parser = value_parser!(u8).range(0..=2))]
    pub qos: u8,
    /// Keep it as the retained message of the topic
    #[arg(short = 'r', long)]
    pub retain: bool,
    /// How it logs in.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// `drawbridge sub`.
#[derive(Debug, Args)]
pub struct SubArgs {
    /// Topic filter
    pub filter: Option<String>,
    /// A further topic filter; may be repeated
    #[arg(short = 't', long = "topic", value_name = "FILTER")]
    pub topics: Vec<String>,
    /// Highest QoS
    #[arg(short = 'q', long, default_value_t = 1, value_parser = value_parser!(u8).range(0..=2))]
    pub qos: u8,
    /// Stop after so many messages; 0 runs until stopped
    #[arg(short = 'C', long, default_value_t = 0)]
    pub count: u64,
    /// Stop when nothing came for so many seconds
    #[arg(short = 'W', long = "wait-s", value_name = "SECONDS")]
    pub wait_s: Option<u64>,
    /// Let the server keep the session for so long, and take up the one that is kept
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub session_expiry_s: u32,
    /// How it logs in.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// `drawbridge device run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The device
    pub id: String,
    /// Stop after so many reports; 0 runs until stopped
    #[arg(long, default_value_t = 0)]
    pub count: u64,
    /// Seconds between reports
    #[arg(long, default_value_t = 5)]
    pub every: u64,
    /// Report the lines of standard input instead, to their end; `/state TEXT` reports a state
    #[arg(short = 'l', long)]
    pub stdin_line: bool,
    /// How it logs in.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// `drawbridge admin ...`.
#[derive(Debug, Subcommand)]
pub enum AdminCommand {
    /// Make a new admin credential and keep it where the old one is, which is dead then
    Rotate,
}

/// `drawbridge top`
#[derive(Debug, Args)]
pub struct TopArgs {
    /// Seconds from one look to the next
    #[arg(long = "interval", value_name = "SECONDS", default_value_t = 2, value_parser = value_parser!(u64).range(1..=3600))]
    pub interval_s: u64,
    /// End after so many screens; a terminal is refreshed until Ctrl-C, anything else gets one
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
}

/// `drawbridge audit ...`.
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// The newest entries
    Tail {
        /// How many
        #[arg(long, default_value_t = 20)]
        count: usize,
        /// Go on with those that come
        #[arg(short, long)]
        follow: bool,
    },
    /// Check every chain, every signed checkpoint, and that nothing was cut off since a head kept earlier
    Verify {
        /// A file of `audit export` instead of the server
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// The head that an earlier check printed
        #[arg(long, value_name = "HEAD")]
        since: Option<String>,
    },
    /// Write all of it to a file, one JSON object a line
    Export {
        /// The file; it must not exist
        file: PathBuf,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn every_flag_is_declared_soundly_and_help_begins_with_what_drawbridge_is() {
        Cli::command().debug_assert();
        let help = Cli::command().render_long_help().to_string();
        assert!(help.starts_with("Drawbridge, the self-hosted IoT core: "), "{help}");
    }

    #[test]
    fn serve_shows_no_flag_of_a_client_and_every_other_command_does() {
        let help_of = |verb: &str| {
            let error = Cli::try_parse_from(["drawbridge", verb, "--help"]).expect_err("help ends the parse");
            error.to_string()
        };
        for flag in ["--server", "--token-file", "--ca", "--registry", "--json"] {
            assert!(!help_of("serve").contains(flag), "{flag}");
            assert!(help_of("can").contains(flag), "{flag}");
        }
        assert!(help_of("serve").contains("--data"));
    }

    #[test]
    fn one_thumbprint_in_64_begins_with_a_dash_and_is_no_flag() {
        let kid = "-104RJeFsrxHivbLrD6W-3RCJjq06Tfr8urixQ9rgN4";
        let lines: [&[&str]; 6] = [
            &["remove", "lamp", kid],
            &["revoke", "lamp", kid],
            &["revoke", "lamp", kid, "--reason", "stolen", "--json"],
            &["set", "lamp", kid, "--label", "x"],
            &["set", "--label", "x", "lamp", kid],
            &["add", "lamp", "new.pem", "--replaces", kid, "--grace", "1h"],
        ];
        for line in lines {
            let parsed = Cli::try_parse_from(["drawbridge", "key"].iter().chain(line));
            let Command::Key(command) = parsed.expect("parses").command else { unreachable!("a key verb") };
            let found = match command {
                KeyCommand::Remove { kid, .. } | KeyCommand::Revoke { kid, .. } => kid,
                KeyCommand::Set(set) => set.kid,
                KeyCommand::Add(add) => add.replaces.expect("given"),
                KeyCommand::List { .. } => unreachable!("not in the table"),
            };
            assert_eq!(found, kid, "{line:?}");
        }
    }

    #[test]
    fn data_and_registry_stand_before_or_after_any_verb() {
        let lines: [&[&str]; 4] = [
            &["--data", "core", "--registry", "plant", "serve"],
            &["serve", "--data", "core", "--registry", "plant"],
            &["--data", "core", "device", "--registry", "plant", "list"],
            &["device", "list", "--registry", "plant", "--data", "core"],
        ];
        for line in lines {
            let words = ["drawbridge"].iter().chain(line);
            let common = Cli::try_parse_from(words).expect("parses").common;
            assert_eq!(
                (common.data.as_path(), common.registry.as_str()),
                ("core".as_ref(), "plant"),
                "{line:?}"
            );
            assert!(!common.json && common.server.is_none());
        }
        let json = Cli::try_parse_from(["drawbridge", "serve", "--json"]).expect("parses").common;
        assert!(json.json);
    }
}
