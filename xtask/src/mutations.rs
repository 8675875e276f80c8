//! Mistakes made on purpose: does a test fail when a rule of MQTT is broken?
//!
//! `xtask/mutations.toml` lists them. Each is made alone in a copy of the tree, which is then built and judged by
//! the tests of `mqtt`, of `broker` and by the conformance suite, up to the first that fails.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::thread::sleep;
use std::time::Duration;

use crate::house::House;

const LIST: &str = "xtask/mutations.toml";
const TABLE: &str = "docs/mqtt-conformance.md";
/// How many there are, and how many of them must be caught.
const WANTED: usize = 30;
const CAUGHT_MIN: usize = 27;

/// The tests that judge, the quick ones first: the crate whose tests they are, and the arguments of `cargo test`.
const JUDGES: [(&str, &[&str]); 3] = [
    ("mqtt", &["-p", "drawbridge-mqtt"]),
    ("broker", &["-p", "drawbridge-broker"]),
    ("conformance", &["-p", "drawbridge", "--test", "conformance"]),
];
/// A judge that takes longer hangs, which a rule that holds does not make it do.
const JUDGE_MAX: Duration = Duration::from_secs(15 * 60);
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// One mistake.
#[derive(Debug, Default)]
struct Mutation {
    /// In words, what the server does then.
    name: String,
    file: String,
    text: String,
    replacement: String,
    /// Version and statement.
    breaks: Vec<String>,
}

/// What the judges said of it.
enum Verdict {
    /// The judge, and what failed there.
    Caught(&'static str, String),
    Survived,
    /// It does not compile: a fault of the list.
    NoMutation(String),
}

/// Each mistake of the list can be made, and breaks a statement that the table has.
pub(crate) fn mutations_can_be_made(house: &House) -> Vec<String> {
    let (Some(list), Some(table)) = (house.text(LIST), house.text(TABLE)) else {
        return vec![format!("{LIST} or {TABLE} is missing (or git does not track it)")];
    };
    let list = match parse(list) {
        Ok(list) => list,
        Err(fault) => return vec![fault],
    };
    let mut faults = Vec::new();
    if list.len() != WANTED {
        faults.push(format!("{LIST} has {} mutations, wanted {WANTED}", list.len()));
    }
    for mutation in &list {
        let Mutation { name, file, text, replacement, breaks } = mutation;
        let count = house.text(file).map_or(0, |source| source.matches(text.as_str()).count());
        if count != 1 || text.is_empty() || text == replacement {
            faults.push(format!(
                "{LIST}: {name}: its text is {count} times in {file}, wanted once; name the line as it is now"
            ));
        }
        if breaks.is_empty() {
            faults.push(format!("{LIST}: {name}: wanted the statements that it breaks"));
        }
        for statement in breaks.iter().filter(|statement| !has_row(table, statement)) {
            faults.push(format!("{LIST}: {name}: {TABLE} has no row for {statement}"));
        }
    }
    faults
}

fn has_row(table: &str, statement: &str) -> bool {
    let Some((version, number)) = statement.split_once(' ') else { return false };
    let (heading, row) = (format!("## MQTT {version}"), format!("| {number} |"));
    let section = table.lines().skip_while(|line| *line != heading).skip(1);
    section.take_while(|line| !line.starts_with("## ")).any(|line| line.starts_with(&row))
}

fn parse(list: &str) -> Result<Vec<Mutation>, String> {
    let table: toml::Table = list.parse().map_err(|error| format!("{LIST}: {error}"))?;
    let all = table.get("mutation").and_then(toml::Value::as_array);
    let all = all.ok_or_else(|| format!("{LIST}: wanted [[mutation]] tables"))?;
    let parsed = all.iter().map(|value| {
        let field = |key: &str| {
            let text = value.get(key).and_then(toml::Value::as_str);
            text.map(str::to_owned).ok_or_else(|| format!("{LIST}: `{key}` is missing in {value}"))
        };
        let breaks = value.get("breaks").and_then(toml::Value::as_array);
        let breaks = breaks.into_iter().flatten().filter_map(toml::Value::as_str);
        Ok(Mutation {
            name: field("name")?,
            file: field("file")?,
            text: field("text")?,
            replacement: field("replacement")?,
            breaks: breaks.map(str::to_owned).collect(),
        })
    });
    parsed.collect()
}

/// Makes and judges the mutations whose names have `part`, in a copy of the last commit, and prints the table. When all
/// are asked for, the tree as it is comes first.
pub(crate) fn run(house: &House, part: &str) -> Result<(), String> {
    let faults = mutations_can_be_made(house);
    if !faults.is_empty() {
        return Err(faults.join("; "));
    }
    let list = parse(house.text(LIST).unwrap_or_default())?;
    let chosen: Vec<&Mutation> = list.iter().filter(|mutation| mutation.name.contains(part)).collect();
    let copy = Copy::make()?;
    if part.is_empty() {
        println!("==> as it is: every judge must be content");
        for (judge, arguments) in JUDGES {
            if let Some(failed) = copy.judge(arguments)? {
                return Err(format!("{judge} is not content with the tree as it is: {failed}"));
            }
        }
    }
    let mut rows = Vec::new();
    let (mut caught, mut faults) = (0, 0);
    for (n, mutation) in chosen.iter().enumerate() {
        println!("==> {} of {}: {}", n + 1, chosen.len(), mutation.name);
        let verdict = match copy.try_out(mutation)? {
            Verdict::Caught(judge, failed) => {
                caught += 1;
                format!("{judge}: {failed}")
            }
            Verdict::Survived => "NOT CAUGHT".to_owned(),
            Verdict::NoMutation(why) => {
                faults += 1;
                format!("NO MUTATION, it does not compile: {why}")
            }
        };
        println!("    {verdict}");
        rows.push(format!("| {} | {} | {verdict} |", mutation.name, mutation.breaks.join(", ")));
    }
    println!("\n| mutation | breaks | caught by |\n|---|---|---|\n{}", rows.join("\n"));
    println!("\n{caught} of {} caught, at {}", chosen.len(), copy.commit);
    let missed_max = WANTED - CAUGHT_MIN;
    if faults > 0 || chosen.len() - caught > missed_max {
        return Err(format!("wanted {CAUGHT_MIN} of {WANTED} caught, and all to compile"));
    }
    Ok(())
}

/// A work tree of its own, with a target folder that is kept from run to run.
struct Copy {
    folder: PathBuf,
    tree: PathBuf,
    commit: String,
}

impl Copy {
    fn make() -> Result<Self, String> {
        let folder = House::root().join("target/mutations");
        let tree = folder.join("tree");
        fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        // What an interrupted run has left.
        let _ = git(&["worktree", "remove", "--force", &tree.display().to_string()]);
        git(&["worktree", "add", "--detach", &tree.display().to_string(), "HEAD"])?;
        let commit = git(&["rev-parse", "--short", "HEAD"])?.trim().to_owned();
        Ok(Self { folder, tree, commit })
    }

    fn try_out(&self, mutation: &Mutation) -> Result<Verdict, String> {
        let file = self.tree.join(&mutation.file);
        let told = |error| format!("{}: {error}", mutation.file);
        let source = fs::read_to_string(&file).map_err(told)?;
        if source.matches(mutation.text.as_str()).count() != 1 {
            return Err(format!(
                "{}: `{}` is not there once in the last commit",
                mutation.file, mutation.text
            ));
        }
        fs::write(&file, source.replacen(&mutation.text, &mutation.replacement, 1)).map_err(told)?;
        let verdict = self.judges_of(mutation);
        fs::write(&file, source).map_err(told)?;
        verdict
    }

    fn judges_of(&self, mutation: &Mutation) -> Result<Verdict, String> {
        let is_mqtt = mutation.file.starts_with("crates/mqtt/");
        for (judge, arguments) in JUDGES.into_iter().filter(|(judge, _)| is_mqtt || *judge != "mqtt") {
            let build: Vec<&str> = ["--no-run"].into_iter().chain(arguments.iter().copied()).collect();
            if let Some(why) = self.judge(&build)? {
                return Ok(Verdict::NoMutation(why));
            }
            if let Some(failed) = self.judge(arguments)? {
                return Ok(Verdict::Caught(judge, failed));
            }
        }
        Ok(Verdict::Survived)
    }

    /// Runs `cargo test` in the copy; what failed, if something did.
    fn judge(&self, arguments: &[&str]) -> Result<Option<String>, String> {
        let said = self.folder.join("output.txt");
        let told = |error: std::io::Error| format!("{}: {error}", said.display());
        let out = File::create(&said).map_err(told)?;
        let errors = out.try_clone().map_err(told)?;
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.arg("test").args(arguments).current_dir(&self.tree).stdout(out).stderr(errors);
        command.env("CARGO_TARGET_DIR", self.folder.join("target")).env("CARGO_PROFILE_DEV_DEBUG", "0");
        let status = wait(&mut command)?;
        if status.is_some_and(|status| status.success()) {
            return Ok(None);
        }
        let said = fs::read_to_string(&said).map_err(told)?;
        let first = said.lines().find_map(|line| {
            let failed = line.strip_prefix("test ").and_then(|line| line.strip_suffix(" ... FAILED"));
            failed.map(|test| format!("`{}`", test.trim_end_matches(" - should panic")))
        });
        let fault = || said.lines().find(|line| line.starts_with("error")).map(str::to_owned);
        let hangs = || status.is_none().then(|| "hangs".to_owned());
        Ok(Some(first.or_else(hangs).or_else(fault).unwrap_or_else(|| "fails without a word".to_owned())))
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        let _ = git(&["worktree", "remove", "--force", &self.tree.display().to_string()]);
    }
}

/// `None` when it did not end in time; then it and all that it started are killed.
fn wait(command: &mut Command) -> Result<Option<ExitStatus>, String> {
    let told = |error| format!("cargo: {error}");
    let mut child = command.process_group(0).spawn().map_err(told)?;
    for _ in 0..JUDGE_MAX.as_millis() / LOOK_EVERY.as_millis() {
        if let Some(status) = child.try_wait().map_err(told)? {
            return Ok(Some(status));
        }
        sleep(LOOK_EVERY);
    }
    let group = format!("-{}", child.id());
    let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
    child.wait().map_err(told)?;
    Ok(None)
}

fn git(arguments: &[&str]) -> Result<String, String> {
    let shown = format!("git {}", arguments.join(" "));
    let output = Command::new("git").args(arguments).current_dir(House::root()).output();
    let output = output.map_err(|error| format!("`{shown}` did not start: {error}"))?;
    if !output.status.success() {
        return Err(format!("`{shown}`: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mutation_can_be_made_and_breaks_a_statement_of_the_table() {
        let house = House::load().expect("cargo and git answer");
        assert_eq!(mutations_can_be_made(&house), [""; 0]);
    }

    #[test]
    fn a_text_that_is_gone_or_there_twice_and_a_statement_without_a_row_are_found() {
        let one = |name: &str, text: &str, breaks: &str| {
            format!(
                "[[mutation]]\nname = '{name}'\nfile = 'crates/mqtt/src/a.rs'\ntext = '{text}'\n\
                 replacement = 'c'\nbreaks = ['{breaks}']\n"
            )
        };
        let good = "5.0 MQTT-1.5.4-1";
        let list = [
            one("good", "a", good),
            one("gone", "x", good),
            one("twice", "b", good),
            one("itself", "c", good),
            one("unknown", "a", "3.1.1 MQTT-1.5.4-1"),
        ]
        .concat();
        let house = House::of_texts(&[
            (LIST, &list),
            (TABLE, "## MQTT 3.1.1\n\n## MQTT 5.0\n\n| MQTT-1.5.4-1 | both |\n"),
            ("crates/mqtt/src/a.rs", "a b b c"),
        ]);
        let found = mutations_can_be_made(&house);
        for wanted in ["has 5 mutations", "gone: its", "twice: its", "itself: its", "unknown: docs"] {
            assert!(found.iter().any(|fault| fault.contains(wanted)), "{wanted}: {found:#?}");
        }
        assert_eq!(found.len(), 5, "{found:#?}");
    }
}
