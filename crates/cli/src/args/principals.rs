//! Devices and applications, and their keys.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::RunArgs;

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
    /// Give the open MQTT sessions of a device a new right over HTTPS, with the identity in --as DIR (default ./ID)
    Refresh {
        /// The device, or application
        id: String,
        /// Identity folder (key.pem, ca.pem, device.json)
        #[arg(long = "as", alias = "identity", value_name = "DIR")]
        identity: Option<PathBuf>,
        /// Only the session with this MQTT client id
        #[arg(short = 'i', long = "id", value_name = "ID")]
        client_id: Option<String>,
    },
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
