//! The build for microcontrollers: without default features, neither this crate nor anything below it asks for `std`,
//! and what it offers is enough to log in.

use std::process::Command;

const CRATE: [&str; 4] = ["-p", "drawbridge-device", "--no-default-features", "--offline"];

#[test]
fn the_crate_builds_without_default_features() {
    let output = cargo("check").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn nothing_below_the_crate_asks_for_std_without_default_features() {
    let output = cargo("tree").args(["-e", "normal,features", "--prefix", "none"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout).unwrap();
    let asked = |line: &&str| {
        line.ends_with("feature \"std\"") && !BUILD_ONLY.iter().any(|name| line.starts_with(name))
    };
    assert!(tree.contains("serde_json feature \"alloc\""), "the tree shows features:\n{tree}");
    assert_eq!(tree.lines().find(asked), None, "{tree}");
    for absent in ["aws-lc", "x509-parser", "rustls", "mio", "ureq"] {
        assert!(!tree.contains(absent), "{absent} in:\n{tree}");
    }
}

/// Procedural macros and what they stand on run on the machine that builds.
const BUILD_ONLY: [&str; 4] = ["proc-macro2 ", "quote ", "syn ", "unicode-ident "];

fn cargo(verb: &str) -> Command {
    let mut command = Command::new(env!("CARGO"));
    command.arg(verb).args(CRATE).current_dir(env!("CARGO_MANIFEST_DIR"));
    command
}
