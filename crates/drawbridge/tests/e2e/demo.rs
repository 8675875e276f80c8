//! `serve --demo` shows the main job on a terminal.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::harness::{Background, DRAWBRIDGE, signal, wait_for};

#[test]
fn the_demo_shows_logins_messages_an_obeyed_command_and_two_refusals_with_their_reasons() {
    let place = tempfile::tempdir().expect("temporary folder");
    let (out, data) = (place.path().join("out"), place.path().join("data"));
    let file = fs::File::create(&out).expect("file");
    let child = Command::new(DRAWBRIDGE)
        .arg("--data")
        .arg(&data)
        .args(["serve", "--demo", "--mqtts-port", "0", "--https-port", "0"])
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .stdout(file.try_clone().expect("file"))
        .stderr(file)
        .spawn()
        .expect("starts");
    let mut demo = Background(child);
    let text = || fs::read_to_string(&out).unwrap_or_default();
    let wanted = [
        "[thermometer] proved itself with a signed JWT, got an access token",
        "[lamp] connected with a JWT signed by its own key",
        "[dashboard] devices/thermometer/events/temperature {\"celsius\":",
        "[lamp] obeys the command \"on\"",
        "[demo] the lamp has acknowledged",
        "[dashboard] devices/lamp/state on",
        "[demo] a forged JWT (right name, wrong key): refused",
        "[demo] an expired JWT (right key, from yesterday): refused",
    ];
    for line in wanted {
        let what = format!("{line:?}");
        wait_for(&what, Duration::from_secs(30), || {
            if demo.0.try_wait().expect("child").is_some() {
                panic!("the demo ended:\n{}", text());
            }
            text().contains(line).then_some(())
        });
    }
    // The prober is told nothing, the owner of a good signature why, the log both.
    let all = text();
    let forged = all.lines().find(|line| line.contains("a forged JWT")).expect("seen above");
    assert!(!forged.to_lowercase().contains("signature"), "{forged}");
    let expired = all.lines().find(|line| line.contains("an expired JWT")).expect("seen above");
    assert!(expired.contains("exp"), "the owner is told why: {expired}");
    for reason in ["sig", "time"] {
        let said = format!("reason=\"{reason}\"");
        assert!(
            all.lines().any(|line| line.contains("refused:")
                && line.contains("code=\"DB-1")
                && line.contains(&said)),
            "no log line with {said}:\n{all}"
        );
    }
    assert!(!all.contains("must never happen"), "{all}");
    signal(demo.0.id(), "TERM");
    let status = wait_for("end of the demo", Duration::from_secs(15), || demo.0.try_wait().expect("child"));
    assert!(status.success(), "{status}\n{}", text());
}
