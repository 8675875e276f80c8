//! Tokens, and what is sent to a device and read of it.

use std::path::PathBuf;

use clap::Subcommand;

use super::Hidden;

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
