//! Policies, and what may be asked of them.

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};

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
