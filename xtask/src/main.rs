//! Checks that need a program: `cargo xtask check` before you push.
//!
//! The rules of the house (`rules`) are tests too, so that `cargo test` alone finds a fault in them.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool prints")]

mod conformance;
mod directions;
mod house;
mod map;
mod mutations;
mod spdx;
mod steps;
mod supply;
mod texts;

use std::process::ExitCode;

use house::House;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  check   formatting, clippy, documentation, `jose` and `device` without std, and the rules of the house
  rules   the rules of the house alone: crate map, directions, licences, error codes, texts
  soak    the long tests: cargo test --workspace --release -- --ignored soak
  mutations [TEXT]
          makes the mistakes of xtask/mutations.toml, those whose names have TEXT, one at a time in a copy of the last
          commit: do the tests of MQTT notice?
  bench   every benchmark of the workspace in turn
";

/// A rule looks at the house and tells every fault it finds.
type Rule = fn(&House) -> Vec<String>;

const RULES: &[(&str, Rule)] = &[
    ("crate map of ARCHITECTURE.md names every member", map::crate_map),
    ("cores know no socket, database or runtime", directions::cores_stay_pure),
    ("nothing depends on the binary", directions::nothing_depends_on_the_binary),
    ("the device library needs no server crate", directions::device_needs_no_server),
    ("licences are those of deny.toml", supply::licences),
    ("banned crates of deny.toml are absent", supply::bans),
    ("every dependency comes from crates.io", supply::sources),
    ("docs/errors.md and the source name the same codes", texts::error_codes),
    ("every waiver of a lint has a reason", texts::waivers_have_reasons),
    ("no text names a machine's own paths", texts::no_machine_paths),
    ("decision notes are numbered once", texts::decision_notes),
    ("every dependency has its reason", texts::dependencies_have_reasons),
    ("every threat names tests that are there", texts::threats_have_tests),
    ("every row of rights by RFC 9431 names tests that are there", texts::rights_have_tests),
    ("every statement of MQTT names tests that are there", conformance::statements_have_tests),
    ("every mutation of MQTT can be made", mutations::mutations_can_be_made),
    ("every link between documents leads somewhere", texts::links_lead_somewhere),
    ("CI and README call one test command", texts::one_test_command),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["check"] => steps::check().and_then(|()| rules()),
        ["rules"] => rules(),
        ["soak"] => steps::soak(),
        ["mutations"] => House::load().and_then(|house| mutations::run(&house, "")),
        ["mutations", part] => House::load().and_then(|house| mutations::run(&house, part)),
        ["bench"] => House::load().and_then(|house| steps::bench(&house)),
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("xtask: {text}");
            ExitCode::FAILURE
        }
    }
}

fn rules() -> Result<(), String> {
    let house = House::load()?;
    let mut faults = 0;
    for (promise, rule) in RULES {
        let found = rule(&house);
        println!("{} {promise}", if found.is_empty() { "ok    " } else { "FAULT " });
        for fault in &found {
            println!("         {fault}");
        }
        faults += found.len();
    }
    if faults == 0 { Ok(()) } else { Err(format!("{faults} fault(s) in the rules of the house")) }
}
