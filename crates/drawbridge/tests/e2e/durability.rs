//! What survives a kill, and how fast the server is there.

use std::time::{Duration, Instant};

use drawbridge_device::{ApiClient, ClientAssertion, DeviceError, DeviceIdentity, KeyUpdate, random_id};
use drawbridge_jose::{Algorithm, SigningKey};
use serde_json::json;

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
fn i7_no_jti_is_forgotten_and_no_device_lost_in_10_kills() {
    kills(10);
}

/// `cargo xtask soak`; the last result stands in `docs/reliability.md`.
#[test]
#[ignore = "long: 200 kills"]
fn soak_i7_no_jti_is_forgotten_and_no_device_lost_in_200_kills() {
    kills(200);
}

/// What one round's clients saw before the server was gone.
struct Seen {
    /// Answered 200.
    used: Vec<String>,
    /// Sent, but the answer never came.
    unanswered: Option<String>,
    /// Key updates that were answered with success.
    updates: u32,
    /// The key before, the key after and the body of the update whose answer never came.
    unanswered_update: Option<(SigningKey, String)>,
    /// The key that must log in, unless the unanswered update counts.
    key: SigningKey,
}

/// Kills the server while logins and key updates are under way. Every assertion that was answered 200 is
/// refused for good, one whose answer was lost is accepted once at most, every device logs in with the
/// last key that it knows to be registered or with the one after, a repeated update succeeds, and the
/// chain of the audit is whole.
fn kills(rounds: u32) {
    kills_of(Core::start_with(&["--issuer", "https://core.example"]), rounds);
}

/// The same for a server that was started, whatever its store.
pub(crate) fn kills_of(mut core: Core, rounds: u32) {
    let (mut accepted, mut updated, mut lost) = (0, 0, 0);
    for round in 0..rounds {
        let device = core.device(&format!("device-{round}"));
        let rotating = core.device(&format!("rotating-{round}"));
        let pid = core.pid();
        // The kill falls at another place in each round.
        let delay = Duration::from_millis(u64::from(round * 37 % 120));
        let killer = std::thread::spawn(move || {
            std::thread::sleep(delay);
            crate::harness::signal(pid, "KILL");
        });
        let seen = std::thread::scope(|scope| {
            let updates = scope.spawn(|| rotate_until_gone(&rotating));
            let (used, unanswered) = log_in_until_gone(&core, &device);
            let (updates, unanswered_update, key) = updates.join().expect("the rotating device");
            Seen { used, unanswered, updates, unanswered_update, key }
        });
        killer.join().expect("the killer");
        core.kill();
        core.run_again();
        accepted += seen.used.len();
        updated += seen.updates;
        lost += u32::from(seen.unanswered_update.is_some());
        judge(&core, round, &device, &rotating, seen);
    }
    core.stop();
    core.run_again();
    println!("{}", core.cli_ok(&["audit", "verify"]));
    println!(
        "{rounds} kills: {accepted} accepted assertions, none accepted twice; {updated} key updates, {lost} more \
         without an answer, no device lost; the audit is whole"
    );
    assert!(accepted > 0 && updated > 0, "nothing was under way in any round");
}

fn log_in_until_gone(core: &Core, device: &DeviceIdentity) -> (Vec<String>, Option<String>) {
    let mut used = Vec::new();
    loop {
        let assertion = assertion(device, &device.key);
        match present(core, device, &assertion) {
            Ok(200) => used.push(assertion),
            Ok(status) => panic!("a good assertion was answered {status}"),
            Err(_) => return (used, Some(assertion)), // the server is gone
        }
    }
}

/// Replaces the device's key again and again; answers how often that succeeded, the update without an
/// answer with its new key, and the key before it.
fn rotate_until_gone(device: &DeviceIdentity) -> (u32, Option<(SigningKey, String)>, SigningKey) {
    let api = ApiClient::new(&format!("https://{}", device.https), &device.ca_pem).expect("a client");
    let mut key = SigningKey::from_pkcs8_der(&device.key.to_pkcs8_der()).expect("a key");
    let mut updates = 0;
    loop {
        let new = SigningKey::generate(Algorithm::Es256).expect("a key");
        let (update, pop) = KeyUpdate {
            device: &device.device,
            issuer: &device.issuer,
            now_s: now_s(),
            update_jti: &random_id(),
            pop_jti: &random_id(),
        }
        .sign(&key, &new, new.public_key())
        .expect("signs");
        let body = json!({ "update": update, "pop": pop, "retire": "old" }).to_string();
        match send_update(&api, &body) {
            Ok(201) => {
                updates += 1;
                key = new;
                // The first login by the new key ends the grace of the one before.
                let assertion = assertion(device, &key);
                if send_login(&api, &assertion).is_err() {
                    return (updates, None, key);
                }
            }
            Ok(status) => panic!("a good update was answered {status}"),
            Err(_) => return (updates, Some((new, body)), key),
        }
    }
}

fn judge(core: &Core, round: u32, device: &DeviceIdentity, rotating: &DeviceIdentity, seen: Seen) {
    let again = |assertion: &String| present(core, device, assertion).expect("an answer");
    for assertion in &seen.used {
        assert_eq!(again(assertion), 401, "round {round}: a jti was forgotten");
    }
    if let Some(assertion) = &seen.unanswered {
        let first = again(assertion);
        assert!(matches!(first, 200 | 401), "round {round}: {first}");
        assert_eq!(again(assertion), 401, "round {round}: accepted twice");
    }
    let api = ApiClient::new(&format!("https://{}", core.endpoints.https), &device.ca_pem).expect("a client");
    if let Some((new, body)) = seen.unanswered_update {
        let repeated = send_update(&api, &body).expect("an answer");
        assert!(matches!(repeated, 200 | 201), "round {round}: a repeated update was answered {repeated}");
        let status = send_login(&api, &assertion(rotating, &new)).expect("an answer");
        assert_eq!(status, 200, "round {round}: the new key of a repeated update");
    } else {
        let status = send_login(&api, &assertion(rotating, &seen.key)).expect("an answer");
        assert_eq!(status, 200, "round {round}: the key of the last update that was answered");
    }
    let mut back = DeviceIdentity::load(&core.identity_folder(&device.device)).expect("the identity");
    back.mqtts.clone_from(&core.endpoints.mqtts);
    drop(connect(&back));
}

fn assertion(device: &DeviceIdentity, key: &SigningKey) -> String {
    ClientAssertion { device: &device.device, issuer: &device.issuer, now_s: now_s(), jti: &random_id() }
        .sign(key)
        .expect("signs")
}

fn send_update(api: &ApiClient, body: &str) -> Result<u16, DeviceError> {
    let body = Some(("application/json", body.as_bytes()));
    api.send("POST", "/v1/self/keys", None, body).map(|answer| answer.status)
}

fn send_login(api: &ApiClient, assertion: &str) -> Result<u16, DeviceError> {
    let form = format!(
        "grant_type=client_credentials&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer&client_assertion={assertion}"
    );
    let body = Some(("application/x-www-form-urlencoded", form.as_bytes()));
    api.send("POST", "/oauth/token", None, body).map(|answer| answer.status)
}
