//! `drawbridge serve`.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Arg, ArgAction, Args, value_parser};

use super::Hidden;

/// The flags of [`super::Common`] that say which server to talk to, and how: `serve` talks to none. A flag
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
