//! Operator commands; they use only the API that everyone can use.
//!
//! Exit codes: 0 done, 2 usage, 3 denied, 4 not found, 5 unavailable, 6 conflict. The last line of
//! each command names the next useful one.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line talks to its terminal")]

pub mod args;
mod control;
mod device;
mod failure;
mod files;
mod output;
mod policy;
mod server;
mod session;
mod token;

use std::process::ExitCode;

pub use args::{Cli, Command, ServeArgs};
pub use failure::Failure;
pub use server::{Endpoints, Server};

/// Runs one command to its end and says on stderr what went wrong.
#[must_use]
pub fn run(cli: &Cli) -> ExitCode {
    match execute(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            failure.exit_code()
        }
    }
}

/// Runs one command to its end.
///
/// # Errors
/// [`Failure`], which knows its exit code.
pub fn execute(cli: &Cli) -> Result<(), Failure> {
    let common = &cli.common;
    match &cli.command {
        Command::Device(command) => device::device(common, command),
        Command::App(command) => device::app(common, command),
        Command::Registry(command) => policy::registry(common, command),
        Command::Key(command) => device::key(common, command),
        Command::Policy(command) => policy::policy(common, command),
        Command::Can { principal, action, topic } => policy::can(common, principal, *action, topic),
        Command::Token(command) => token::token(common, command),
        Command::Command(command) => control::command(common, command),
        Command::Config(command) => control::config(common, command),
        Command::State(command) => control::state(common, command),
        Command::Pub(command) => session::publish(common, command),
        Command::Sub(command) => session::subscribe(common, command),
        Command::Audit(command) => policy::audit(common, command),
        Command::Explain { code } => explain(code),
        Command::Serve(_) | Command::CheckConfig { .. } => {
            Err(Failure::Usage("this command is served by the `drawbridge` binary itself".to_owned()))
        }
    }
}

/// The table of all codes; a test holds it against the source.
const ERRORS: &str = include_str!("../../../docs/errors.md");

fn explain(code: &str) -> Result<(), Failure> {
    let wanted = code.to_ascii_uppercase();
    let mut rows = ERRORS.lines().map(|line| line.split('|').map(str::trim).collect::<Vec<_>>());
    let Some(row) = rows.find(|row| row.len() >= 5 && row[1] == wanted) else {
        return Err(Failure::NotFound(format!(
            "there is no code `{code}`; codes look like DB-1007, see docs/errors.md"
        )));
    };
    println!("{} {} (from {})", row[1], row[2], row[3]);
    println!("{}", row[4..row.len() - 1].join("|"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_of_the_table_is_explained_and_no_other() {
        let codes: Vec<&str> = ERRORS
            .lines()
            .filter_map(|line| line.strip_prefix("| DB-").and_then(|rest| rest.get(..4)))
            .collect();
        assert!(codes.len() > 100, "only {} codes", codes.len());
        for code in codes {
            assert!(explain(&format!("db-{code}")).is_ok(), "DB-{code}");
        }
        assert!(matches!(explain("DB-"), Err(Failure::NotFound(_))));
        assert!(matches!(explain("code"), Err(Failure::NotFound(_))));
    }
}
