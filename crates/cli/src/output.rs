//! How answers look on a terminal.

use std::fmt::Arguments;
use std::io::{self, Write};
use std::path::Path;
use std::sync::OnceLock;

use serde_json::Value;

use crate::Failure;
use crate::args::{Common, DEFAULT_DATA, DEFAULT_REGISTRY};

/// The first fault of stdout, other than that nobody reads it any more.
static FAULT: OnceLock<String> = OnceLock::new();

/// Prints a line; false when it was not written. A reader that has left (`| head -1`) is no fault.
pub(crate) fn say(line: Arguments<'_>) -> bool {
    let written = writeln!(io::stdout().lock(), "{line}");
    if let Err(error) = &written
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        FAULT.get_or_init(|| error.to_string());
    }
    written.is_ok()
}

/// Whether all that was to be printed was.
pub(crate) fn fault() -> Result<(), Failure> {
    FAULT.get().map_or(Ok(()), |fault| {
        Err(Failure::Unavailable(format!("the answer could not be written to stdout: {fault}")))
    })
}

/// Prints JSON as it came, pretty.
pub(crate) fn json(value: &Value) {
    say!("{}", serde_json::to_string_pretty(value).expect("a JSON value can be written"));
}

/// Prints rows under headings, each column as wide as its widest cell.
pub(crate) fn table(headings: &[&str], rows: &[Vec<String>]) {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([headings[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let line = |cells: &[String]| {
        let padded: Vec<String> =
            cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        say!("{}", padded.join("  ").trim_end());
    };
    line(&headings.iter().map(|heading| (*heading).to_owned()).collect::<Vec<_>>());
    for row in rows {
        line(row);
    }
}

/// A member as text for a table: strings bare, nothing as `-`.
pub(crate) fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        other => other.to_string(),
    }
}

/// The last line of a command: what to do next, runnable as printed. `words` follow `drawbridge` and
/// what says which server and registry, as far as it was given. With `--json` nothing is printed.
pub(crate) fn next(common: &Common, words: &[&str]) {
    if !common.json {
        say!("next: {}", command_line(&places(common), words));
    }
}

/// The same for a command that asks no server, only an identity folder.
pub(crate) fn next_with_identity(common: &Common, words: &[&str]) {
    if !common.json {
        say!("next: {}", command_line(&[], words));
    }
}

/// The same where stdout is the product itself and must stay clean; `tail` is shell text that follows.
pub(crate) fn next_beside_product(common: &Common, needs_server: bool, words: &[&str], tail: &str) {
    if !common.json {
        let places = if needs_server { places(common) } else { Vec::new() };
        eprintln!("next: {}{tail}", command_line(&places, words));
    }
}

/// The flags that name the server and registry, unless they have their defaults.
fn places(common: &Common) -> Vec<String> {
    let mut words = Vec::new();
    let mut flag = |name: &str, value: &str| words.extend([name.to_owned(), value.to_owned()]);
    if let Some(server) = &common.server {
        flag("--server", server);
        for (name, file) in [("--token-file", &common.token_file), ("--ca", &common.ca)] {
            if let Some(file) = file {
                flag(name, &file.to_string_lossy());
            }
        }
    } else if common.data != Path::new(DEFAULT_DATA) {
        flag("--data", &common.data.to_string_lossy());
    }
    if common.registry != DEFAULT_REGISTRY {
        flag("--registry", &common.registry);
    }
    words
}

fn command_line(places: &[String], words: &[&str]) -> String {
    let places = places.iter().map(String::as_str);
    let line: Vec<String> =
        ["drawbridge"].into_iter().chain(places).chain(words.iter().copied()).map(quoted).collect();
    line.join(" ")
}

/// A word as a POSIX shell reads it back.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+=,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::Cli;

    #[test]
    fn a_next_line_repeats_what_was_given_and_survives_the_shell() {
        let line = |flags: &[&str], words: &[&str]| {
            let all = ["drawbridge"].iter().chain(flags).chain(&["device", "list"]);
            let common = Cli::try_parse_from(all).expect("parses").common;
            command_line(&places(&common), words)
        };
        assert_eq!(line(&[], &["device", "show", "lamp"]), "drawbridge device show lamp");
        assert_eq!(
            line(&["--data", "./my core", "--registry", "plant"], &["sub", "devices/#"]),
            "drawbridge --data './my core' --registry plant sub 'devices/#'"
        );
        let remote = ["--server", "https://h:1", "--token-file", "t", "--ca", "c.pem"];
        assert_eq!(
            line(&remote, &["pub", "a", "it's"]),
            "drawbridge --server https://h:1 --token-file t --ca c.pem pub a 'it'\\''s'"
        );
    }
}
