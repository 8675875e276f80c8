//! Drawbridge, the self-hosted IoT core: read the settings, wire the crates, serve.

/// Says a line on the terminal. Whoever has closed it misses the line, and the server goes on.
macro_rules! say {
    ($($words:tt)*) => {
        drop(std::io::Write::write_fmt(&mut std::io::stdout(), format_args!("{}\n", format_args!($($words)*))))
    };
}

mod certificates;
mod data;
mod demo;
mod edge;
mod journal;
mod listeners;
mod messages;
mod metrics;
mod pki;
mod serve;
mod settings;
mod store;

use std::process::ExitCode;

use clap::Parser;
use drawbridge_cli::{Cli, Command};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match &cli.command {
        Command::Serve(args) => serve::main(&cli.common, args),
        Command::CheckConfig { file } => settings::check(file),
        _ => drawbridge_cli::run(&cli),
    }
}
