//! The server on a PostgreSQL database: a real one, made for this test.

use std::process::{Command, Stdio};
use std::time::Duration;

use drawbridge_device::{DeviceError, DeviceIdentity, MqttClient};

use crate::cluster::{Cluster, PASSWORD};
use crate::harness::{Core, DRAWBRIDGE, connect, wait_for};

#[test]
fn a_server_on_postgresql_keeps_a_second_one_away_and_survives_kills_and_a_restart_of_the_database() {
    let cluster = Cluster::new(&[]);
    let url = cluster.database();
    let mut core = Core::start_with(&["--issuer", "https://core.example", "--store", &url]);
    let mut lamp = core.device("lamp");
    connect(&lamp);

    // It tries for 10 s, as long as a server that ends may take, then names the one that has the place.
    let folder = tempfile::tempdir().expect("a folder");
    let second = Command::new(DRAWBRIDGE)
        .arg("--data")
        .arg(folder.path().join("data"))
        .args(["serve", "--mqtts-port", "0", "--https-port", "0", "--issuer", "https://core.example"])
        .args(["--store", &url])
        .stdin(Stdio::null())
        .output()
        .expect("the second server runs");
    let said =
        format!("{}{}", String::from_utf8_lossy(&second.stdout), String::from_utf8_lossy(&second.stderr));
    assert!(!second.status.success(), "{said}");
    assert!(said.contains("DB-5005") && said.contains("drawbridge server-"), "{said}");
    assert!(!said.contains(PASSWORD), "{said}");
    connect(&lamp);

    // The database forgets a killed server at once.
    core.kill();
    core.run_again();
    lamp.mqtts.clone_from(&core.endpoints.mqtts);
    connect(&lamp);
    let pump = core.device("pump");

    // A restart of the database ends neither the server nor its place.
    cluster.stop();
    cluster.start();
    crate::harness::wait_for("login", std::time::Duration::from_secs(20), || {
        let options = pump.mqtt_options().expect("signs");
        drawbridge_device::MqttClient::connect(&options).ok()
    });
    core.cli_ok(&["audit", "verify"]);
    assert!(!core.log().contains(PASSWORD), "the password of the database stands in the log");
}

#[test]
fn i7_no_jti_is_forgotten_and_no_device_lost_in_3_kills_of_a_server_on_postgresql() {
    kills(3);
}

/// `cargo xtask soak`; the last result stands in `docs/reliability.md`.
#[test]
#[ignore = "long: 100 kills"]
fn soak_i7_no_jti_is_forgotten_and_no_device_lost_in_100_kills_of_a_server_on_postgresql() {
    kills(100);
}

fn kills(rounds: u32) {
    let cluster = Cluster::new(&[]);
    let url = cluster.database();
    let core = Core::start_with(&["--issuer", "https://core.example", "--store", &url]);
    crate::durability::kills_of(core, rounds);
}

/// Fails closed: what the server remembers counts for nothing while it cannot know whether another one works
/// on the database.
#[test]
fn without_its_database_a_server_admits_nobody_says_503_and_recovers_by_itself() {
    let cluster = Cluster::new(&[]);
    let url = cluster.database();
    let mut core = Core::start_with(&["--issuer", "https://core.example", "--store", &url]);
    let (lamp, pump) = (core.device("lamp"), core.device("pump"));
    let token = core.api().token("lamp", &lamp.issuer, None, &lamp.key).expect("logged in").access_token;
    let read_self = || core.api().send("GET", "/v1/self", Some(&token), None).expect("an answer").status;
    let enters = |identity: &DeviceIdentity| {
        let options = identity.mqtt_options().expect("signs");
        MqttClient::connect(&options).is_ok()
    };
    core.cli_ok(&["device", "block", "pump"]);
    assert!(!enters(&pump), "blocked");
    assert!(enters(&lamp));
    assert_eq!(read_self(), 200);

    cluster.kill();
    // Until its next look, 2 s, it does not know that the database is gone.
    wait_for("nobody is admitted", Duration::from_secs(10), || (!enters(&lamp)).then_some(()));
    wait_for("503 for a token", Duration::from_secs(10), || (read_self() == 503).then_some(()));
    assert!(!enters(&lamp) && !enters(&pump));
    let refused = core.api().token("lamp", &lamp.issuer, None, &lamp.key).expect_err("nothing can be kept");
    assert!(matches!(refused, DeviceError::Unavailable { .. }), "{refused}");
    let listed = core.cli(&["device", "list"]);
    assert_eq!(listed.status.code(), Some(5), "{listed:?}");

    cluster.start();
    wait_for("it recovers", Duration::from_secs(30), || enters(&lamp).then_some(()));
    assert_eq!(read_self(), 200);
    assert!(!enters(&pump), "still blocked");
    core.cli_ok(&["device", "unblock", "pump"]);
    core.cli_ok(&["audit", "verify"]);

    // Another server had the database while this one had no connection to it.
    let database = crate::cluster::database_of(&url);
    cluster.sql(database, "UPDATE sole_server SET generation = generation + 1");
    let end = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted";
    cluster.sql(database, end);
    let (code, log) = core.wait_for_end(Duration::from_secs(20));
    assert_ne!(code, Some(0));
    assert!(log.contains("DB-5005"), "{log}");
    assert!(!log.contains(PASSWORD), "the password of the database stands in the log");
}

#[test]
fn a_server_stops_when_it_is_told_to_though_its_database_is_away() {
    let cluster = Cluster::new(&[]);
    let url = cluster.database();
    let mut core = Core::start_with(&["--issuer", "https://core.example", "--store", &url]);
    let mut lamp = core.device("lamp");
    connect(&lamp);
    cluster.kill();
    core.stop();
    cluster.start();
    core.run_again();
    lamp.mqtts.clone_from(&core.endpoints.mqtts);
    connect(&lamp);
    core.cli_ok(&["audit", "verify"]);
}
