//! The sessions of the README and the other documents, word for word. Only ports are put in place of the
//! standard ones, and a database of the tests in place of the one that is named.
//!
//! In a document a fenced block is a session (`sh session`), what the session before it prints (`... answer`;
//! `...` stands for anything, white space does not count), or a command that is not run, with the
//! reason (`sh not-run: REASON`). There is no other way to show a command. All sessions of a document
//! are one bash.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::cluster::Cluster;
use crate::harness::{DRAWBRIDGE, python, repository, version_of};

/// Documents with sessions.
const DOCUMENTS: [&str; 7] = [
    "README.md",
    "docs/api.md",
    "docs/device-library.md",
    "docs/identity.md",
    "docs/mqtt.md",
    "docs/operations.md",
    "docs/policy.md",
];
/// What the documents call the database of their readers.
const DATABASE: &str = "postgres://drawbridge:secret@localhost/drawbridge";

/// One fenced block.
struct Block {
    /// Of its first fence, from 1.
    line: usize,
    info: String,
    text: String,
}

/// What was printed by a document's sessions.
struct Ran {
    place: tempfile::TempDir,
    all: String,
}

impl Ran {
    fn file(&self, name: &str) -> String {
        fs::read_to_string(self.place.path().join(name)).unwrap_or_default()
    }
}

#[test]
fn the_session_of_the_readme_works_as_it_is_written() {
    version_of("mosquitto_pub", "--version");
    let ran = run("README.md", "");
    let seen = ran.file("seen.log");
    assert!(seen.contains("devices/lamp/events/light {\"lux\": 120}"), "seen: {seen}\n{}", ran.all);
    assert_eq!(ran.file("command.log").trim(), "devices/lamp/commands on", "{}", ran.all);
    assert!(ran.file("access.token").trim().split('.').count() == 3, "{}", ran.all);
    assert!(ran.all.contains("yes: ") && ran.all.contains("no: "), "{}", ran.all);
}

#[test]
fn every_flow_of_the_identity_document_works_as_it_is_written() {
    run("docs/identity.md", "");
}

#[test]
fn every_command_of_the_api_document_works_as_it_is_written() {
    run("docs/api.md", "");
}

#[test]
fn a_kept_session_a_shared_subscription_and_a_web_client_work_as_the_mqtt_document_says() {
    version_of("mosquitto_sub", "--version");
    let ran = run("docs/mqtt.md", "");
    assert!(!ran.file("one.log").is_empty() && !ran.file("two.log").is_empty(), "{}", ran.all);
}

#[test]
fn the_ten_minutes_and_the_ways_in_of_the_device_library_work_as_they_are_written() {
    run("docs/device-library.md", "");
}

#[test]
fn a_policy_its_tests_its_reasons_and_the_imports_are_as_the_policy_document_says() {
    let ran = run("docs/policy.md", "");
    assert!(
        ran.file("fleet.toml").contains("left out") && ran.file("alice.toml").contains("secret"),
        "{}",
        ran.all
    );
}

#[test]
fn every_command_of_the_operations_document_works_as_it_is_written() {
    let cluster = Cluster::new(&["fsync=off"]);
    run("docs/operations.md", &cluster.tcp_url(&cluster.database()));
}

#[test]
fn no_document_shows_a_command_that_is_neither_run_nor_says_why_not() {
    let mut documents: Vec<_> =
        ["README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "SECURITY.md", "CHANGELOG.md"]
            .map(|name| repository().join(name))
            .into();
    let docs = fs::read_dir(repository().join("docs")).expect("docs");
    documents.extend(docs.map(|entry| entry.expect("an entry").path()).filter(|path| path.is_file()));
    let mut faults = Vec::new();
    for path in documents {
        let name = path.strip_prefix(repository()).expect("inside").display().to_string();
        let has_sessions = DOCUMENTS.contains(&name.as_str());
        for block in blocks(&fs::read_to_string(&path).expect("text")) {
            let mut words = block.info.split(' ');
            let at = format!("{name}:{}", block.line);
            match (words.next().unwrap_or_default(), words.next()) {
                ("sh", Some("session")) if has_sessions => {}
                ("sh", Some("not-run:")) if words.next().is_some() => println!("{at}: {}", block.info),
                ("sh" | "bash" | "shell" | "console", _) => faults.push(at),
                _ => {
                    let is_command = |line: &str| {
                        ["drawbridge ", "curl ", "openssl ", "python3 ", "$ "]
                            .iter()
                            .any(|word| line.starts_with(word))
                    };
                    if block.text.lines().any(|line| is_command(line.trim_start())) {
                        faults.push(at);
                    }
                }
            }
        }
    }
    assert_eq!(faults, [""; 0], "wanted `sh session` or `sh not-run: REASON`");
}

/// The fenced blocks of a document, in order.
fn blocks(document: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (at, line) in document.lines().enumerate() {
        let fence = line.trim_end().strip_prefix("```");
        match (&mut open, fence) {
            (None, Some(info)) => {
                open = Some(Block { line: at + 1, info: info.trim().to_owned(), text: String::new() });
            }
            (Some(_), Some("")) => blocks.extend(open.take()),
            (Some(block), _) => {
                block.text.push_str(line);
                block.text.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block is not closed");
    blocks
}

/// Runs the sessions of a document and compares what they print with what it shows.
fn run(document: &str, database: &str) -> Ran {
    let begun = Instant::now();
    let text = fs::read_to_string(repository().join(document)).expect("the document");
    let [mqtts, https] = free_ports();
    let text = text
        .replace("-p 8883", &format!("-p {mqtts}"))
        .replace("localhost:8883", &format!("localhost:{mqtts}"))
        .replace("localhost:8443", &format!("localhost:{https}"))
        .replace(DATABASE, database);
    let place = tempfile::tempdir().expect("temporary folder");
    let bin = place.path().join("bin");
    fs::create_dir(&bin).expect("bin");
    fs::create_dir(place.path().join("out")).expect("out");
    // Bash sees our binary as `drawbridge` and the tests' Python as `python3`.
    write_script(&bin.join("python3"), &format!("exec {} \"$@\"\n", python().display()));
    let ports = format!("--mqtts-port {mqtts} --https-port {https}");
    write_script(
        &bin.join("drawbridge"),
        &format!("case \" $* \" in *\" serve \"*) set -- \"$@\" {ports} ;; esac\nexec {DRAWBRIDGE} \"$@\"\n"),
    );
    std::os::unix::fs::symlink(repository().join("examples"), place.path().join("examples"))
        .expect("symlink");

    let mut script = String::from(BEGIN);
    let mut sessions = Vec::new();
    let mut answers = Vec::new();
    for block in blocks(&text) {
        let Block { line, info, text } = block;
        if info == "sh session" {
            sessions.push(line);
            // With a plain `!` bash would go on when the command succeeds.
            let text: String = text
                .lines()
                .map(|line| match line.strip_prefix("! ") {
                    Some(refused) => format!("refused {refused}\n"),
                    None => format!("{line}\n"),
                })
                .collect();
            script.push_str(&format!("exec >out/{line} 2>&1\n{text}"));
        } else if info.ends_with(" answer") {
            let session = *sessions.last().expect("an answer stands behind a session");
            assert!(answers.iter().all(|(of, _)| *of != session), "{document}:{line}: a second answer");
            answers.push((session, text));
        }
    }
    assert!(sessions.len() >= 4, "{document} lost its session: {} blocks", sessions.len());
    script.push_str("exec >out/end 2>&1\nwait %3 2>/dev/null || true\n");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").expect("PATH"));
    let output = Command::new("setsid")
        .args(["--wait", "timeout", "180", "bash", "-c", &script])
        .current_dir(place.path())
        .env("PATH", path)
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .output()
        .expect("bash runs");

    let read = |name: &str| fs::read_to_string(place.path().join(name)).unwrap_or_default();
    let mut all = String::from_utf8_lossy(&output.stderr).into_owned();
    let mut last = 0;
    for line in sessions {
        if place.path().join(format!("out/{line}")).exists() {
            last = line;
            all.push_str(&format!("--- {document}:{line} ---\n{}", read(&format!("out/{line}"))));
        }
    }
    all.push_str(&format!("--- server ---\n{}", read("serve.log")));
    assert!(
        output.status.success(),
        "{document}: the session at line {last} failed: {}\n{all}",
        output.status
    );
    for (line, wanted) in answers {
        let found = read(&format!("out/{line}"));
        assert!(
            is_shown(&wanted, &found),
            "{document}: the session at line {line} prints something else.\n--- shown ---\n{wanted}--- printed ---\n{found}"
        );
    }
    println!("{document}: {:.1?}", begun.elapsed());
    Ran { place, all }
}

const BEGIN: &str = r#"set -eu -o pipefail
refused() { if "$@"; then echo "this was to be refused: $*"; exit 1; fi; }
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
"#;

/// Whether a text is the one that is shown, in which `...` stands for anything. White space does not count:
/// documents wrap their lines.
fn is_shown(shown: &str, text: &str) -> bool {
    let dense = |text: &str| text.split_whitespace().collect::<String>();
    let (shown, text) = (dense(shown), dense(text));
    let mut parts = shown.split("...");
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, between)) = parts.split_last() else { return rest.is_empty() };
    for part in between {
        let Some((_, behind)) = rest.split_once(part) else { return false };
        rest = behind;
    }
    rest.ends_with(last)
}

#[test]
fn what_is_shown_is_compared_from_the_first_character_to_the_last() {
    for (shown, text, same) in [
        ("{\"a\": ...,\n \"b\": 1} 200\n", "{\"a\":7,\"b\":1} 200", true),
        ("{\"a\": ...,\n \"b\": 1} 200\n", "{\"a\":7,\"b\":2} 200", false),
        ("...end", "the end", true),
        ("...end", "the end.", false),
        ("begin", "begin more", false),
        ("a...b...c", "a b c", true),
        ("a...b...c", "a c b", false),
        ("...", "", true),
    ] {
        assert_eq!(is_shown(shown, text), same, "{shown} {text}");
    }
}

fn write_script(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, format!("#!/bin/sh\n{text}")).expect("write");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("chmod");
}

/// Two ports that were free a moment ago; the sessions want fixed ones.
fn free_ports() -> [u16; 2] {
    let sockets = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").expect("a port"));
    sockets.map(|socket| socket.local_addr().expect("bound").port())
}
