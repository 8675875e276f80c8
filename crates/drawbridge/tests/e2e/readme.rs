//! The README's own session, word for word. Only ports are put in place of the standard ones.

use std::fs;
use std::process::{Command, Stdio};

use crate::harness::{DRAWBRIDGE, python, repository, version_of};

#[test]
fn the_session_of_the_readme_works_as_it_is_written() {
    version_of("mosquitto_pub", "--version");
    let readme = fs::read_to_string(repository().join("README.md")).expect("README.md");
    let mut script = String::from("set -eu\n");
    let mut inside = false;
    let mut blocks = 0;
    for line in readme.lines() {
        match line.trim_end() {
            "```sh session" => {
                inside = true;
                blocks += 1;
            }
            "```" if inside => inside = false,
            line if inside => {
                script.push_str(line);
                script.push('\n');
            }
            _ => {}
        }
    }
    assert!(blocks >= 7, "the README lost its session: {blocks} blocks");
    script.push_str("wait %3 2>/dev/null || true\n");

    let place = tempfile::tempdir().expect("temporary folder");
    let bin = place.path().join("bin");
    fs::create_dir(&bin).expect("bin");
    // Bash sees our binary as `drawbridge` and the tests' Python as `python3`.
    let [mqtts, https] = free_ports();
    let wrapper = format!("#!/bin/sh\nexec {} \"$@\"\n", python().display());
    write_script(&bin.join("python3"), &wrapper);
    write_script(&bin.join("drawbridge"), &format!("#!/bin/sh\nexec {DRAWBRIDGE} \"$@\"\n"));
    std::os::unix::fs::symlink(repository().join("examples"), place.path().join("examples"))
        .expect("symlink");
    let script = script
        .replace("-p 8883", &format!("-p {mqtts}"))
        .replace("./core serve", &format!("./core serve --mqtts-port {mqtts} --https-port {https}"));

    let path = format!("{}:{}", bin.display(), std::env::var("PATH").expect("PATH"));
    let output = Command::new("setsid")
        .args([
            "--wait",
            "timeout",
            "180",
            "bash",
            "-c",
            &format!("trap 'kill $(jobs -p) 2>/dev/null' EXIT\n{script}"),
        ])
        .current_dir(place.path())
        .env("PATH", path)
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .output()
        .expect("bash runs");
    let read = |name: &str| fs::read_to_string(place.path().join(name)).unwrap_or_default();
    let all = format!(
        "{}\n{}\n--- server ---\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
        read("serve.log")
    );
    assert!(output.status.success(), "the session failed: {}\n{all}", output.status);
    assert!(
        read("seen.log").contains("devices/lamp/events/light {\"lux\": 120}"),
        "seen: {}\n{all}",
        read("seen.log")
    );
    assert_eq!(read("command.log").trim(), "devices/lamp/commands on", "{all}");
    assert!(read("access.token").trim().split('.').count() == 3, "{all}");
    assert!(all.contains("yes: ") && all.contains("no: "), "{all}");
}

fn write_script(path: &std::path::Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, text).expect("write");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("chmod");
}

/// Two ports that were free a moment ago; the README's session wants fixed ones.
fn free_ports() -> [u16; 2] {
    let sockets = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").expect("a port"));
    sockets.map(|socket| socket.local_addr().expect("bound").port())
}
