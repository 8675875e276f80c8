//! The server on a PostgreSQL database: a real one, made for this test.

use std::process::{Command, Stdio};

use crate::cluster::{Cluster, PASSWORD};
use crate::harness::{Core, DRAWBRIDGE, connect};

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
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&second.stdout),
        String::from_utf8_lossy(&second.stderr)
    );
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
