//! The command line. Names are stable: tests and users rely on them.

mod clients;
mod operations;
mod orders;
mod policies;
mod principals;
mod registries;
mod serve;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::bench::args::BenchCommand;
pub use clients::{ClientArgs, LoginMethod, MqttVersion, PubArgs, RunArgs, SubArgs};
pub use operations::{AdminCommand, AuditCommand, TopArgs};
pub use orders::{CommandCommand, ConfigCommand, StateCommand, TokenCommand};
pub use policies::{Action, CanFacts, ImportFrom, PolicyCommand};
pub use principals::{AppCommand, DeviceAdd, DeviceCommand, KeyAdd, KeyCommand, KeySet, PrincipalSet};
pub use registries::{CaCommand, EnrolCommand, EnrolCreate, GatewayCommand, RegistryCommand, RegistrySet};
pub use serve::ServeArgs;

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
    fn one_enrolment_in_64_begins_with_a_dash_and_is_no_flag() {
        let id = "-hRJeFsrxHivbLrD6W-3RC";
        for line in [&["show", id][..], &["revoke", id], &["revoke", id, "--json"], &["approve", "--all", id]]
        {
            let parsed = Cli::try_parse_from(["drawbridge", "enrol"].iter().chain(line));
            let Command::Enrol(command) = parsed.expect("parses").command else {
                unreachable!("an enrol verb")
            };
            let found = match command {
                EnrolCommand::Show { id }
                | EnrolCommand::Revoke { id }
                | EnrolCommand::Approve { all: Some(id), .. } => id,
                _ => unreachable!("not in the table"),
            };
            assert_eq!(found, id, "{line:?}");
        }
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
