//! Rules about texts: error codes, waivers, paths, decision notes, the test command.

use std::collections::{BTreeMap, BTreeSet};

use crate::house::House;

const TEST_COMMAND: &str = "./scripts/test";

/// Every `DB-nnnn` in the source of a crate has exactly one row in `docs/errors.md`, and every row is
/// used in the source.
pub(crate) fn error_codes(house: &House) -> Vec<String> {
    let Some(table) = house.text("docs/errors.md") else {
        return vec!["docs/errors.md is missing (or git does not track it)".to_owned()];
    };
    let mut rows: BTreeMap<&str, usize> = BTreeMap::new();
    for line in table.lines() {
        let cell = line.strip_prefix("| ").and_then(|line| line.split(" |").next()).unwrap_or_default();
        if codes(cell).next() == Some(cell) {
            *rows.entry(cell).or_default() += 1;
        }
    }
    let mut used: BTreeMap<&str, &str> = BTreeMap::new();
    for (path, content) in house.texts().filter(|(path, _)| is_crate_source(path)) {
        for code in codes(content) {
            used.entry(code).or_insert(path);
        }
    }
    let mut faults = Vec::new();
    for (code, path) in used.iter().filter(|(code, _)| !rows.contains_key(*code)) {
        faults.push(format!("{code} in {path} has no row in docs/errors.md"));
    }
    for (code, count) in rows {
        if count > 1 {
            faults.push(format!("{code} has {count} rows in docs/errors.md; one meaning each"));
        }
        if !used.contains_key(code) {
            faults.push(format!("{code} has a row in docs/errors.md and is used in no crates/*/src"));
        }
    }
    faults
}

/// Attributes that allow or expect a lint say why. Clippy holds the rest of the attributes; this also holds
/// code that is not compiled here.
pub(crate) fn waivers_have_reasons(house: &House) -> Vec<String> {
    let mut faults = Vec::new();
    for (path, content) in house.texts().filter(|(path, _)| path.ends_with(".rs")) {
        for opening in ["[allow(", "[expect("] {
            for (at, _) in content.match_indices(opening) {
                if !content[..at].ends_with(['#', '!']) {
                    continue;
                }
                let waiver = content[at..].split(")]").next().unwrap_or_default();
                if !waiver.contains("reason") {
                    faults.push(format!(
                        "{path}:{}: a waiver without `reason = \"...\"`",
                        line_of(content, at)
                    ));
                }
            }
        }
    }
    faults
}

/// No tracked text names a path of somebody's machine.
pub(crate) fn no_machine_paths(house: &House) -> Vec<String> {
    // In pieces, so that this file does not find itself.
    let paths = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("/fa", "rm/")];
    let mut faults = Vec::new();
    for (file, content) in house.texts() {
        for path in paths {
            for (at, _) in content.match_indices(path) {
                // In the middle of a longer path or topic (`plant/home/x`) it means something else.
                let before = content[..at].chars().next_back();
                if before
                    .is_none_or(|c| !c.is_alphanumeric() && !matches!(c, '/' | '}' | '+' | '.' | '_' | '-'))
                {
                    faults.push(format!("{file}:{}: names `{path}`", line_of(content, at)));
                }
            }
        }
    }
    faults
}

/// `docs/decisions/NNNN-title.md`: each number once, and the heading bears it.
pub(crate) fn decision_notes(house: &House) -> Vec<String> {
    let mut faults = Vec::new();
    let mut numbers = BTreeSet::new();
    for (path, content) in house.texts() {
        let Some(name) = path.strip_prefix("docs/decisions/") else { continue };
        let number = name.split('-').next().unwrap_or_default();
        if number.len() != 4 || !number.bytes().all(|b| b.is_ascii_digit()) || !name.ends_with(".md") {
            faults.push(format!("{path}: wanted a name like 0007-title.md"));
        } else if !numbers.insert(number.to_owned()) {
            faults.push(format!("{path}: the number {number} is taken"));
        } else if !content.starts_with(&format!("# {number} "))
            && !content.starts_with(&format!("# {number}:"))
        {
            faults.push(format!("{path}: wanted the heading `# {number} ...`"));
        }
    }
    if numbers.is_empty() {
        faults.push("docs/decisions has no note".to_owned());
    }
    faults
}

/// Every dependency of the workspace has its reason in a row of the note about them, and every row a
/// dependency.
pub(crate) fn dependencies_have_reasons(house: &House) -> Vec<String> {
    const NOTE: &str = "docs/decisions/0002-dependencies.md";
    let (Some(manifest), Some(note)) = (house.text("Cargo.toml"), house.text(NOTE)) else {
        return vec![format!("Cargo.toml or {NOTE} is missing (or git does not track it)")];
    };
    let manifest: toml::Table = match manifest.parse() {
        Ok(manifest) => manifest,
        Err(error) => return vec![format!("Cargo.toml: {error}")],
    };
    let table = manifest.get("workspace").and_then(|workspace| workspace.get("dependencies"));
    let declared: BTreeSet<&str> = table
        .and_then(toml::Value::as_table)
        .into_iter()
        .flatten()
        .filter(|(_, value)| value.get("path").is_none())
        .map(|(name, _)| name.as_str())
        .collect();
    let cells = note.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let rows: BTreeSet<&str> = cells.map(|(name, _)| name).collect();
    let lacking =
        declared.difference(&rows).map(|name| format!("{NOTE} has no row for `{name}`; say why we need it"));
    let left = rows
        .difference(&declared)
        .map(|name| format!("{NOTE} speaks of `{name}`, which is not in Cargo.toml"));
    lacking.chain(left).collect()
}

/// Every threat of the threat model names tests, and every test that it names is one.
pub(crate) fn threats_have_tests(house: &House) -> Vec<String> {
    rows_have_tests(house, "docs/threat-model.md", "## Threats")
}

/// Each row of the profile's table of rights, RFC 9431.
pub(crate) fn rights_have_tests(house: &House) -> Vec<String> {
    rows_have_tests(house, "docs/decisions/0031-ace.md", "## Rights during the session")
}

/// Each row of the table below a heading has 3 cells, the last of which names tests.
fn rows_have_tests(house: &House, document: &str, heading: &str) -> Vec<String> {
    let Some(model) = house.text(document) else {
        return vec![format!("{document} is missing (or git does not track it)")];
    };
    let tests: BTreeSet<&str> = house
        .texts()
        .filter(|(path, _)| path.ends_with(".rs"))
        .flat_map(|(_, text)| tests_of(text))
        .collect();
    let lines = model.lines().skip_while(|line| *line != heading).skip(1);
    let lines = lines.take_while(|line| !line.starts_with("## "));
    // Behind the heading of the table and the line below it.
    let rows: Vec<&str> = lines.filter(|line| line.starts_with('|')).skip(2).collect();
    let mut faults = Vec::new();
    for row in &rows {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").collect();
        let named: Vec<&str> = cells
            .get(2)
            .unwrap_or(&"")
            .split('`')
            .skip(1)
            .step_by(2)
            .filter(|name| !name.is_empty())
            .collect();
        if cells.len() != 3 || named.is_empty() {
            faults.push(format!("{document}: {:?} names no test", cells[0].trim()));
        }
        for name in named.into_iter().filter(|name| !tests.contains(name)) {
            faults.push(format!("{document}: there is no test `{name}`"));
        }
    }
    if rows.is_empty() {
        faults.push(format!("{document} has no table under `{heading}`"));
    }
    faults
}

/// The names of the functions that are tests: behind an attribute `test`, with other attributes between.
pub(crate) fn tests_of(source: &str) -> impl Iterator<Item = &str> {
    let mut is_test = false;
    source.lines().filter_map(move |line| {
        let line = line.trim();
        if line.starts_with("#[") {
            is_test |= line.starts_with("#[test") || line.starts_with("#[tokio::test");
            return None;
        }
        let name = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ")?.split_once('(')?.0;
        std::mem::take(&mut is_test).then_some(name)
    })
}

/// A link from one document to another, or to a heading, leads somewhere.
pub(crate) fn links_lead_somewhere(house: &House) -> Vec<String> {
    let mut faults = Vec::new();
    for (path, text) in house.texts().filter(|(path, _)| path.ends_with(".md")) {
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        for (at, _) in text.match_indices("](") {
            let target = text[at + 2..].split(')').next().unwrap_or_default();
            if target.contains("://") || target.contains(char::is_whitespace) {
                continue;
            }
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let file = if file.is_empty() { path.to_owned() } else { joined(folder, file) };
            let is_there =
                house.texts().any(|(found, _)| found == file || found.starts_with(&format!("{file}/")));
            let has_heading = || {
                heading.is_empty()
                    || house.text(&file).is_some_and(|text| headings(text).any(|found| found == heading))
            };
            if !is_there || !has_heading() {
                faults.push(format!("{path}:{}: the link to `{target}` leads nowhere", line_of(text, at)));
            }
        }
    }
    faults
}

/// A relative path, from a folder, without `..` and a slash at its end.
fn joined(folder: &str, file: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in file.split('/').filter(|part| !part.is_empty() && *part != ".") {
        if part == ".." {
            parts.pop();
        } else {
            parts.push(part);
        }
    }
    parts.join("/")
}

/// The names under which the headings of a document can be linked to.
fn headings(text: &str) -> impl Iterator<Item = String> {
    let mut in_block = false;
    text.lines().filter_map(move |line| {
        in_block ^= line.starts_with("```");
        let heading =
            line.strip_prefix('#').filter(|_| !in_block)?.trim_start_matches('#').trim().to_lowercase();
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        Some(kept.map(|c| if c == ' ' { '-' } else { c }).collect())
    })
}

/// What CI runs is what the README tells everybody to run.
pub(crate) fn one_test_command(house: &House) -> Vec<String> {
    let mut faults = Vec::new();
    for path in [".ci/run", "README.md"] {
        match house.text(path) {
            None => faults.push(format!("{path} is missing (or git does not track it)")),
            Some(text) if !text.lines().any(|line| line.trim() == TEST_COMMAND) => {
                faults.push(format!("{path} has no line `{TEST_COMMAND}`"));
            }
            Some(_) => {}
        }
    }
    if house.text("scripts/test").is_none() {
        faults.push("scripts/test is missing (or git does not track it)".to_owned());
    }
    faults
}

fn is_crate_source(path: &str) -> bool {
    let mut parts = path.split('/');
    parts.next() == Some("crates") && parts.nth(1) == Some("src") && path.ends_with(".rs")
}

/// All `DB-` with exactly four digits behind it.
fn codes(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices("DB-").filter_map(|(at, _)| {
        let digits = text[at + 3..].bytes().take_while(u8::is_ascii_digit).count();
        (digits == 4).then(|| &text[at..at + 7])
    })
}

fn line_of(content: &str, at: usize) -> usize {
    1 + content[..at].matches('\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [String; 0] = [];

    fn house() -> House {
        House::load().expect("cargo and git answer")
    }

    #[test]
    fn docs_errors_and_the_source_name_the_same_codes() {
        assert_eq!(error_codes(&house()), NONE);
    }

    #[test]
    fn every_waiver_has_a_reason() {
        assert_eq!(waivers_have_reasons(&house()), NONE);
    }

    #[test]
    fn no_tracked_text_names_a_machine_path() {
        assert_eq!(no_machine_paths(&house()), NONE);
    }

    #[test]
    fn decision_notes_are_numbered_uniquely() {
        assert_eq!(decision_notes(&house()), NONE);
    }

    #[test]
    fn every_dependency_has_its_reason() {
        assert_eq!(dependencies_have_reasons(&house()), NONE);
    }

    #[test]
    fn a_dependency_without_reason_and_a_reason_without_dependency_are_found() {
        let found = dependencies_have_reasons(&House::of_texts(&[
            (
                "Cargo.toml",
                "[workspace.dependencies]\na = \"1\"\nb = { version = \"1\" }\nown = { path = \"x\" }\n",
            ),
            (
                "docs/decisions/0002-dependencies.md",
                "# 0002 D\n| crate | why |\n|---|---|\n| `a` | x |\n| `c` | x |\n",
            ),
        ]));
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("no row for `b`") && found[1].contains("speaks of `c`"), "{found:?}");
    }

    #[test]
    fn readme_and_ci_call_the_same_test_command() {
        assert_eq!(one_test_command(&house()), NONE);
    }

    #[test]
    fn every_threat_names_tests_that_are_there() {
        assert_eq!(threats_have_tests(&house()), NONE);
        assert_eq!(rights_have_tests(&house()), NONE);
    }

    #[test]
    fn a_threat_without_test_and_a_test_that_is_gone_are_found() {
        let model = "# T\n| x | y | none |\n## Threats\n\n| threat | measure | shown by |\n|---|---|---|\n\
                     | a | `b` | `good`, `old` |\n| c | d | by hand |\n\n## What is left\n| e | f | g |\n";
        let source = "#[tokio::test]\n#[ignore = \"long\"]\nasync fn good() {\n}\nfn old() {}\n";
        let found =
            threats_have_tests(&House::of_texts(&[("docs/threat-model.md", model), ("a.rs", source)]));
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("no test `old`") && found[1].contains("\"c\" names no test"), "{found:?}");
    }

    #[test]
    fn every_link_leads_somewhere() {
        assert_eq!(links_lead_somewhere(&house()), NONE);
    }

    #[test]
    fn a_link_to_a_missing_file_or_heading_is_found() {
        let text = "# A\n## It's `b` (c)\n```sh\n# no heading\n```\n[x](b.md) [x](#its-b-c) [x](../a.md#a) [x](d/) [x](https://e)\n\
                    [x](c.md) [x](#no-heading) [x](b.md#z)\n";
        let found = links_lead_somewhere(&House::of_texts(&[
            ("docs/a.md", text),
            ("docs/b.md", "# B\n"),
            ("a.md", "# A\n"),
            ("docs/d/e.rs", ""),
        ]));
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found.iter().all(|fault| fault.starts_with("docs/a.md:7:")), "{found:?}");
    }

    #[test]
    fn codes_without_row_rows_without_use_and_double_rows_are_found() {
        let table = "| code | word |\n|---|---|\n| DB-3001 | a |\n| DB-3002 | b |\n| DB-3002 | c |\n| DB-3009 | d |\nsee DB-9999\n";
        let house = House::of_texts(&[
            ("docs/errors.md", table),
            ("crates/policy/src/a.rs", "\"DB-3001\" DB-3002 \"DB-3003\" DB-30049 DB-nnnn"),
            ("crates/policy/tests/a.rs", "\"DB-3004\""),
        ]);
        let faults = error_codes(&house);
        assert_eq!(faults.len(), 3, "{faults:?}");
        assert!(faults[0].contains("DB-3003 in crates/policy/src/a.rs"), "{faults:?}");
        assert!(faults[1].contains("DB-3002 has 2 rows") && faults[2].contains("DB-3009"), "{faults:?}");
    }

    #[test]
    fn a_waiver_without_reason_is_found_also_over_several_lines() {
        let bare = concat!("#[al", "low(dead_code)]\nfn a() {}\n#![al", "low(\n  unused,\n)]\n");
        let reasoned =
            concat!("#[al", "low(dead_code, reason = \"x\")] #[ex", "pect(unused,\n reason = \"y\"\n)]");
        let found = waivers_have_reasons(&House::of_texts(&[("a.rs", bare), ("b.rs", reasoned)]));
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("a.rs:1:") && found[1].starts_with("a.rs:3:"), "{found:?}");
    }

    #[test]
    fn a_machine_path_is_found_and_a_topic_is_not() {
        let bad = format!("see {}x\n\"{}me\"", concat!("/wo", "rk/"), concat!("/ho", "me/"));
        let good = format!("plant{}x ${{d}}{}y", concat!("/wo", "rk/"), concat!("/ho", "me/"));
        let found = no_machine_paths(&House::of_texts(&[("a.md", &bad), ("b.md", &good)]));
        assert_eq!(found.len(), 2, "{found:?}");
    }

    #[test]
    fn decision_notes_with_one_number_or_a_wrong_name_are_found() {
        let found = decision_notes(&House::of_texts(&[
            ("docs/decisions/0001-a.md", "# 0001 A\n"),
            ("docs/decisions/0001-b.md", "# 0001 B\n"),
            ("docs/decisions/0002-c.md", "# C\n"),
            ("docs/decisions/notes.md", "# N\n"),
        ]));
        assert_eq!(found.len(), 3, "{found:?}");
    }

    #[test]
    fn a_readme_with_another_command_is_found() {
        let found = one_test_command(&House::of_texts(&[
            (".ci/run", "set -eu\n./scripts/test\n"),
            ("README.md", "Run `cargo test`."),
            ("scripts/test", "x"),
        ]));
        assert_eq!(found, ["README.md has no line `./scripts/test`"]);
    }
}
