//! The admin credential, the numbers of the server, the audit.

use std::path::PathBuf;

use clap::{Args, Subcommand, value_parser};

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
