//! Operator commands; they use only the API that everyone can use.
//!
//! Exit codes: 0 done, 2 usage, 3 denied, 4 not found, 5 unavailable, 6 conflict. The last line of
//! each command names the next useful one.
#![expect(clippy::print_stderr, reason = "a command line talks to its terminal")]

/// Prints a line on stdout; false when nobody reads it any more.
macro_rules! say {
    ($($words:tt)*) => {
        crate::output::say(format_args!($($words)*))
    };
}

mod admin;
pub mod args;
mod audit;
mod bench;
mod control;
mod device;
mod enrol;
mod failure;
mod files;
mod fleet;
mod import;
mod output;
mod policy;
mod server;
mod session;
mod token;
mod top;

use std::process::ExitCode;

pub use args::{Cli, Command, ServeArgs};
pub use failure::Failure;
pub use server::{Endpoints, Server};

/// Runs one command to its end and says on stderr what went wrong.
#[must_use]
pub fn run(cli: &Cli) -> ExitCode {
    match execute(cli).and_then(|()| output::fault()) {
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
        Command::Enrol(command) => enrol::enrol(common, command),
        Command::Gateway(command) => fleet::gateway(common, command),
        Command::Ca(command) => fleet::ca(common, command),
        Command::Policy(command) => policy::policy(common, command),
        Command::Can { principal, action, topic, facts } => {
            policy::can(common, principal, *action, topic, facts)
        }
        Command::Token(command) => token::token(common, command),
        Command::Command(command) => control::command(common, command),
        Command::Config(command) => control::config(common, command),
        Command::State(command) => control::state(common, command),
        Command::Pub(command) => session::publish(common, command),
        Command::Sub(command) => session::subscribe(common, command),
        Command::Admin(command) => admin::admin(common, command),
        Command::Audit(command) => audit::audit(common, command),
        Command::Top(args) => top::top(common, args),
        Command::Bench(command) => bench::bench(common, command),
        Command::Explain { code } => explain(common, code),
        Command::Serve(_) | Command::CheckConfig { .. } => {
            Err(Failure::Usage("this command is served by the `drawbridge` binary itself".to_owned()))
        }
    }
}

/// The table of all codes; a test holds it against the source.
const ERRORS: &str = include_str!("../../../docs/errors.md");

/// What the table says of a code or word.
fn explained(asked: &str) -> Result<(String, String, String, String), Failure> {
    let (code, word) = (asked.to_ascii_uppercase(), asked.to_ascii_lowercase());
    let rows = ERRORS.lines().filter(|line| line.starts_with("| DB-"));
    let mut rows = rows.map(|line| line.split('|').map(str::trim).collect::<Vec<_>>());
    let row = rows.find(|row| row.len() >= 6 && (row[1] == code || row[2] == word)).ok_or_else(|| {
        Failure::NotFound(format!(
            "there is no code or word `{asked}`; codes look like DB-1007, words like not-proven, see docs/errors.md"
        ))
    })?;
    let text = |cell: &str| cell.to_owned();
    Ok((text(row[1]), text(row[2]), text(row[3]), row[4..row.len() - 1].join("|")))
}

fn explain(common: &args::Common, asked: &str) -> Result<(), Failure> {
    let (code, word, from, meaning) = explained(asked)?;
    if common.json {
        output::json(&serde_json::json!({ "code": code, "word": word, "crate": from, "meaning": meaning }));
        return Ok(());
    }
    say!("{code} {word} (from {from})");
    say!("{meaning}");
    output::next(common, &["audit", "tail"]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_of_the_table_is_explained_and_no_other() {
        let codes: Vec<(&str, &str)> = ERRORS
            .lines()
            .filter_map(|line| line.strip_prefix("| DB-"))
            .map(|rest| (&rest[..4], rest.split('|').nth(1).expect("a word").trim()))
            .collect();
        assert!(codes.len() > 100, "only {} codes", codes.len());
        for (code, word) in codes {
            let by_code = explained(&format!("db-{code}")).expect(code);
            assert_eq!((by_code.0, by_code.1.as_str()), (format!("DB-{code}"), word));
            assert_eq!(explained(word).expect(word).1, word);
        }
        for none in ["DB-", "code", "word", ""] {
            assert!(matches!(explained(none), Err(Failure::NotFound(_))), "{none}");
        }
    }
}
