//! What survives a kill, and how fast the server is there.

use std::time::{Duration, Instant};

use drawbridge_device::{ClientAssertion, random_id};

use crate::harness::{Core, connect, now_s};
use crate::invariants::present;

#[test]
fn a_first_start_is_done_within_a_second() {
    let begun = Instant::now();
    let core = Core::start();
    let took = begun.elapsed();
    // Three times the promise: the machine of the tests may be busy.
    assert!(took < Duration::from_secs(3), "the first start took {took:?}");
    assert!(!core.endpoints.https.ends_with(":0"), "{:?}", core.endpoints);
}

#[test]
fn i7_no_jti_is_forgotten_and_no_device_lost_in_kills() {
    kills(5);
}

/// `cargo xtask soak`; the last result stands in `docs/reliability.md`.
#[test]
#[ignore = "long: 200 kills"]
fn soak_i7_no_jti_is_forgotten_and_no_device_lost_in_200_kills() {
    kills(200);
}

/// Kills the server while logins are under way. Every assertion that was answered 200 is refused for
/// good, and every device that was registered can log in.
fn kills(rounds: u32) {
    let mut core = Core::start_with(&["--issuer", "https://core.example"]);
    let mut accepted = 0;
    for round in 0..rounds {
        let device = core.device(&format!("device-{round}"));
        let pid = core.pid();
        // The kill falls at another place in each round.
        let delay = Duration::from_millis(u64::from(round * 37 % 120));
        let killer = std::thread::spawn(move || {
            std::thread::sleep(delay);
            crate::harness::signal(pid, "KILL");
        });
        let mut used = Vec::new();
        loop {
            let assertion = ClientAssertion {
                device: &device.device,
                issuer: &device.issuer,
                now_s: now_s(),
                jti: &random_id(),
            }
            .sign(&device.key)
            .expect("signs");
            match present(&core, &device, &assertion) {
                Ok(200) => used.push(assertion),
                Ok(status) => panic!("a good assertion was answered {status}"),
                Err(_) => break, // the server is gone
            }
        }
        killer.join().expect("the killer");
        core.kill();
        core.run_again();
        accepted += used.len();
        for assertion in &used {
            assert_eq!(
                present(&core, &device, assertion).expect("an answer"),
                401,
                "round {round}: a jti was forgotten"
            );
        }
        let mut back = device;
        back.mqtts.clone_from(&core.endpoints.mqtts);
        drop(connect(&back));
    }
    println!("{rounds} kills, {accepted} accepted assertions, none accepted twice");
    assert!(accepted > 0, "no login was under way in any round");
}
