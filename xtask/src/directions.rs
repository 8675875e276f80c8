//! Who may need whom. See DESIGN and ARCHITECTURE.md: bytes go in one direction, decisions are pure.

use crate::house::{Follow, House};

/// Crates that decide. Those that do not exist yet are held from their first day.
const CORES: &[&str] = &[
    "names",
    "jose",
    "identity",
    "policy",
    "mqtt",
    "broker",
    "control",
    "registry",
    "admission",
    "envelope",
];

/// Sockets, databases, runtimes.
const EDGE_ONLY: &[&str] = &["tokio", "mio", "axum", "hyper", "rusqlite", "tokio-postgres", "rustls"];

/// What the library for devices may share with the server.
const SHARED_WITH_DEVICES: &[&str] = &["names", "jose", "mqtt", "envelope"];

/// No core reaches a socket, a database or a runtime, by however long a way.
pub(crate) fn cores_stay_pure(house: &House) -> Vec<String> {
    let cores = CORES.iter().filter_map(|core| house.krate(core));
    cores
        .flat_map(|core| house.reaches(core, Follow::Normal))
        .filter(|(package, _)| EDGE_ONLY.contains(&package.name.as_str()))
        .map(|(package, way)| {
            format!("a core needs `{}`: {way}; move what needs it to an edge", package.name)
        })
        .collect()
}

/// The binary wires; who needs something of it takes that out of it.
pub(crate) fn nothing_depends_on_the_binary(house: &House) -> Vec<String> {
    let members = house.members().filter(|member| member.folder != "crates/drawbridge");
    members
        .flat_map(|member| house.reaches(member, Follow::All))
        .filter(|(package, _)| package.folder == "crates/drawbridge")
        .map(|(_, way)| format!("the binary is needed: {way}"))
        .collect()
}

/// A device must be able to carry the library, and nobody should need the server to write a client.
pub(crate) fn device_needs_no_server(house: &House) -> Vec<String> {
    let Some(device) = house.krate("device") else {
        return vec!["there is no crate `device`".to_owned()];
    };
    let own =
        house.reaches(device, Follow::Normal).into_iter().filter(|(package, _)| package.source.is_none());
    own.filter(|(package, _)| {
        let folder = package.folder.strip_prefix("crates/").unwrap_or(&package.folder);
        !SHARED_WITH_DEVICES.contains(&folder)
    })
    .map(|(_, way)| format!("the device library needs a server crate: {way}"))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CRATES_IO: Option<&str> = Some("registry+https://github.com/rust-lang/crates.io-index");

    #[test]
    fn cores_know_no_socket_database_or_runtime() {
        assert_eq!(cores_stay_pure(&House::load().expect("cargo and git answer")), Vec::<String>::new());
    }

    #[test]
    fn nothing_needs_the_binary() {
        let house = House::load().expect("cargo and git answer");
        assert_eq!(nothing_depends_on_the_binary(&house), Vec::<String>::new());
    }

    #[test]
    fn the_device_library_needs_no_server_crate() {
        assert_eq!(
            device_needs_no_server(&House::load().expect("cargo and git answer")),
            Vec::<String>::new()
        );
    }

    #[test]
    fn a_wrong_direction_is_found_with_its_way() {
        let house = House::of_packages(
            &[
                ("drawbridge-policy", "MIT", None, &["helper"]),
                ("drawbridge-device", "MIT", None, &["drawbridge-broker", "drawbridge-jose"]),
                ("drawbridge-broker", "MIT", None, &[]),
                ("drawbridge-jose", "MIT", None, &[]),
                ("drawbridge-http", "MIT", None, &["drawbridge", "tokio"]),
                ("drawbridge", "MIT", None, &[]),
                ("helper", "MIT", CRATES_IO, &["tokio"]),
                ("tokio", "MIT", CRATES_IO, &[]),
            ],
            &[],
        );
        let faults = cores_stay_pure(&house);
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].contains("drawbridge-policy -> helper -> tokio"), "{faults:?}");
        let faults = device_needs_no_server(&house);
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].contains("drawbridge-device -> drawbridge-broker"), "{faults:?}");
        assert_eq!(
            nothing_depends_on_the_binary(&house),
            ["the binary is needed: drawbridge-http -> drawbridge"]
        );
    }
}
