//! The table of MQTT conformance and the tests that it names hold each other.

use std::collections::{BTreeMap, BTreeSet};

use crate::house::House;
use crate::texts::tests_of;

const TABLE: &str = "docs/mqtt-conformance.md";
const SUITE: &str = "crates/drawbridge/tests/conformance/";
/// Heading of a version, how many statements its standard numbers, and the sections whose first number is
/// not 1.
type Version = (&'static str, usize, &'static [(&'static str, u32)]);
const VERSIONS: [Version; 2] = [("## MQTT 3.1.1", 141, &[]), ("## MQTT 5.0", 251, &[("2.2.1", 2)])];
const WHO: [&str; 3] = ["server", "client", "both"];
const KINDS: [&str; 4] = ["MUST", "MUST NOT", "SHOULD", "MAY, then MUST"];
const REASON: &str = "Not ours: ";

/// Each number of both standards has one row, each row names tests that are there or a reason, and the
/// table leaves no test of the suite out.
pub(crate) fn statements_have_tests(house: &House) -> Vec<String> {
    let Some(table) = house.text(TABLE) else {
        return vec![format!("{TABLE} is missing (or git does not track it)")];
    };
    let mut faults = Vec::new();
    for (heading, wanted, starts) in VERSIONS {
        judge_version(table, heading, wanted, starts, &mut faults);
    }
    let named: BTreeSet<(&str, &str)> =
        table.split('`').skip(1).step_by(2).filter_map(|name| name.split_once("::")).collect();
    for (file, function) in &named {
        let is_there = house
            .text(&format!("crates/{file}"))
            .is_some_and(|text| tests_of(text).any(|found| found == *function));
        if !is_there {
            faults.push(format!("{TABLE}: there is no test `{file}::{function}`"));
        }
    }
    faults.extend(left_out(house, &named));
    faults
}

fn judge_version(
    table: &str,
    heading: &str,
    wanted: usize,
    starts: &[(&str, u32)],
    faults: &mut Vec<String>,
) {
    let mut numbers: BTreeMap<String, BTreeSet<u32>> = BTreeMap::new();
    let mut count = 0;
    let section = table.lines().skip_while(|line| *line != heading).skip(1);
    for row in section.take_while(|line| !line.starts_with("## ")).filter(|line| line.starts_with("| MQTT-"))
    {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let id = cells[0];
        let mut fault = |why: String| faults.push(format!("{TABLE}: {heading}: {id}: {why}"));
        let [_, who, kind, says, held] = cells[..] else {
            fault(format!("has {} cells, wanted 5", cells.len()));
            continue;
        };
        // 3.1.1 spells one number `MQTT-3-8.3-4`.
        let number = id.strip_prefix("MQTT-").and_then(|id| id.rsplit_once('-'));
        let parsed = number.and_then(|(section, n)| Some((section.replace('-', "."), n.parse().ok()?)));
        let Some((section, n)) = parsed else {
            fault("is no number of a statement".to_owned());
            continue;
        };
        if !numbers.entry(section).or_default().insert(n) {
            fault("has two rows".to_owned());
        }
        count += 1;
        if !WHO.contains(&who) || !KINDS.contains(&kind) || says.is_empty() {
            fault(format!("wanted who ({WHO:?}), kind ({KINDS:?}) and a sentence"));
        }
        let has_reason = held.strip_prefix(REASON).is_some_and(|reason| reason.len() > 8);
        if !has_reason && !held.split('`').skip(1).step_by(2).any(|name| name.contains("::")) {
            fault(format!("names neither a test nor, after {REASON:?}, a reason"));
        }
    }
    if count != wanted {
        faults.push(format!("{TABLE}: {heading} has {count} rows, its standard {wanted} statements"));
    }
    for (section, found) in numbers {
        let first = starts.iter().find(|(name, _)| *name == section).map_or(1, |(_, first)| *first);
        let last = found.last().copied().unwrap_or(first);
        for n in (first..=last).filter(|n| !found.contains(n)) {
            faults.push(format!("{TABLE}: {heading}: MQTT-{section}-{n} has no row"));
        }
    }
}

/// Tests of the suite that the document does not name, and files of it that are not run.
fn left_out(house: &House, named: &BTreeSet<(&str, &str)>) -> Vec<String> {
    let mut faults = Vec::new();
    let main = house.text(&format!("{SUITE}main.rs")).unwrap_or_default();
    for (path, text) in house.texts() {
        let Some(file) = path.strip_prefix(SUITE) else { continue };
        let short = path.strip_prefix("crates/").expect("the suite lies in a crate");
        for function in tests_of(text).filter(|function| !named.contains(&(short, function))) {
            faults.push(format!("{TABLE} does not name `{short}::{function}`"));
        }
        let module = format!("mod {};", file.trim_end_matches(".rs"));
        let is_run = main.lines().any(|line| line == module)
            || main.lines().any(|line| line.starts_with("// Waits for ") && line.ends_with(&module));
        if file != "main.rs" && !is_run {
            faults.push(format!("{path} is not run: main.rs has no `{module}`"));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_statement_of_mqtt_names_tests_that_are_there() {
        let house = House::load().expect("cargo and git answer");
        assert_eq!(statements_have_tests(&house), [""; 0]);
    }

    #[test]
    fn a_row_twice_a_gap_a_test_that_is_gone_and_one_left_out_are_found() {
        let table = "## MQTT 3.1.1\n\n\
            | MQTT-1.5.3-1 | both | MUST | Says. | `drawbridge/tests/conformance/a.rs::good` |\n\
            | MQTT-1.5.3-1 | both | MUST | Says. | Not ours: what a client has to do |\n\
            | MQTT-1.5.3-3 | both | MUST | Says. | `drawbridge/tests/conformance/a.rs::gone` |\n\
            | MQTT-1.5.3-4 | nobody | MUST | Says. | Not ours: what a client has to do |\n\
            | MQTT-1.5.3-5 | both | MUST | Says. | by hand |\n\
            ## MQTT 5.0\n\
            | MQTT-2.2.1-2 | both | MUST | Says. | Not ours: what a client has to do |\n";
        let house = House::of_texts(&[
            (TABLE, table),
            ("crates/drawbridge/tests/conformance/main.rs", "mod a;\n// Waits for QoS 2: mod b;\n"),
            (
                "crates/drawbridge/tests/conformance/a.rs",
                "#[test]\nfn good() {}\n#[test]\nfn forgotten() {}\nfn helper() {}\n",
            ),
            ("crates/drawbridge/tests/conformance/b.rs", ""),
            ("crates/drawbridge/tests/conformance/c.rs", ""),
        ]);
        let found = statements_have_tests(&house);
        for wanted in [
            "MQTT-1.5.3-1: has two rows",
            "MQTT-1.5.3-2 has no row",
            "MQTT-1.5.3-4: wanted who",
            "MQTT-1.5.3-5: names neither",
            "3.1.1 has 5 rows, its standard 141",
            "5.0 has 1 rows, its standard 251",
            "no test `drawbridge/tests/conformance/a.rs::gone`",
            "does not name `drawbridge/tests/conformance/a.rs::forgotten`",
            "c.rs is not run",
        ] {
            assert!(found.iter().any(|fault| fault.contains(wanted)), "{wanted}: {found:#?}");
        }
        assert_eq!(found.len(), 9, "{found:#?}");
    }
}
