//! What comes from elsewhere: licences, banned crates, sources. One list for this and for cargo-deny:
//! `deny.toml`.

use toml::{Table, Value};

use crate::house::{Follow, House, Package};
use crate::spdx;

const CRATES_IO: &str = "https://github.com/rust-lang/crates.io-index";

/// Every licence expression of what the product is made of can be satisfied from `licenses.allow`, or
/// for one crate from `licenses.exceptions`.
pub(crate) fn licences(house: &House) -> Vec<String> {
    let deny = match deny_toml(house) {
        Ok(deny) => deny,
        Err(fault) => return vec![fault],
    };
    let allow = strings(deny.get("licenses").and_then(|licenses| licenses.get("allow")));
    if allow.is_empty() {
        return vec!["deny.toml has no `licenses.allow`".to_owned()];
    }
    let none = Vec::new();
    let exceptions = deny.get("licenses").and_then(|licenses| licenses.get("exceptions"));
    let exceptions = exceptions.and_then(Value::as_array).unwrap_or(&none);
    let mut faults = Vec::new();
    for (package, way) in house.foreign(Follow::NormalAndBuild) {
        let of_this = exceptions.iter().filter(|entry| names(entry, package));
        let excepted: Vec<&str> = of_this.flat_map(|entry| strings(entry.get("allow"))).collect();
        let allowed = |licence: &str| allow.contains(&licence) || excepted.contains(&licence);
        let expression = package.license.as_deref().unwrap_or("");
        if spdx::is_satisfied(expression, &allowed) != Some(true) {
            faults.push(format!(
                "{} {}: licence `{expression}` is not allowed by deny.toml ({way})",
                package.name, package.version
            ));
        }
    }
    faults
}

/// Nothing of `bans.deny` is linked or run while building, except below the `wrappers` it names; and no
/// crate that is about JWT at all, by whatever name: `jose` is ours.
pub(crate) fn bans(house: &House) -> Vec<String> {
    let deny = match deny_toml(house) {
        Ok(deny) => deny,
        Err(fault) => return vec![fault],
    };
    let none = Vec::new();
    let banned =
        deny.get("bans").and_then(|bans| bans.get("deny")).and_then(Value::as_array).unwrap_or(&none);
    if banned.is_empty() {
        return vec!["deny.toml has no `bans.deny`".to_owned()];
    }
    let mut faults = Vec::new();
    for (package, way) in house.foreign(Follow::NormalAndBuild) {
        let about_jwt = package.name.contains("jwt")
            || package.name.contains("webtoken")
            || package.name.starts_with("jose")
            || package.name.starts_with("jws");
        let entry = banned.iter().find(|entry| names(entry, package));
        let wrapped = entry.is_some_and(|entry| {
            let parent = way.rsplit(" -> ").nth(1).unwrap_or_default();
            strings(entry.get("wrappers")).contains(&parent)
        });
        if about_jwt || (entry.is_some() && !wrapped) {
            let reason = entry.and_then(|entry| entry.get("reason")).and_then(Value::as_str);
            let reason = reason.unwrap_or("a crate about JWT; `jose` is our own");
            faults.push(format!("{} {} is banned: {reason} ({way})", package.name, package.version));
        }
    }
    faults
}

/// Everything that is not ours comes from crates.io: no git, no path outside, no other registry.
pub(crate) fn sources(house: &House) -> Vec<String> {
    let foreign = house.foreign(Follow::All);
    let elsewhere = foreign.iter().filter(|(package, _)| {
        let source = package.source.as_deref().unwrap_or("a path");
        source.strip_prefix("registry+") != Some(CRATES_IO)
    });
    let mut faults: Vec<String> = elsewhere
        .map(|(package, way)| {
            let source = package.source.as_deref().unwrap_or("a path outside the workspace");
            format!("{} {} comes from {source}, not from crates.io ({way})", package.name, package.version)
        })
        .collect();
    match deny_toml(house) {
        Ok(deny) => {
            let sources = deny.get("sources");
            let allowed = strings(sources.and_then(|sources| sources.get("allow-registry")));
            if allowed != [CRATES_IO]
                || !strings(sources.and_then(|sources| sources.get("allow-git"))).is_empty()
            {
                faults.push("deny.toml `sources` allows something else than crates.io".to_owned());
            }
        }
        Err(fault) => faults.push(fault),
    }
    faults
}

fn deny_toml(house: &House) -> Result<Table, String> {
    let text = house.text("deny.toml").ok_or("deny.toml is missing (or git does not track it)")?;
    text.parse().map_err(|error| format!("deny.toml: {error}"))
}

fn strings(list: Option<&Value>) -> Vec<&str> {
    list.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Whether an entry of deny.toml speaks of the package: `"name"` or `{ crate = "name", ... }`.
fn names(entry: &Value, package: &Package) -> bool {
    let name = entry.as_str().or_else(|| entry.get("crate").and_then(Value::as_str));
    name == Some(package.name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    const REGISTRY: Option<&str> = Some("registry+https://github.com/rust-lang/crates.io-index");
    const DENY: &str = r#"
        [licenses]
        allow = ["MIT"]
        exceptions = [{ crate = "special", allow = ["Zlib"] }]
        [bans]
        deny = [{ crate = "openssl", reason = "one TLS" }, { crate = "ring", wrappers = ["webpki"] }]
        [sources]
        allow-registry = ["https://github.com/rust-lang/crates.io-index"]
    "#;

    #[test]
    fn every_licence_is_in_the_allow_list_of_deny_toml() {
        assert_eq!(licences(&House::load().expect("cargo and git answer")), Vec::<String>::new());
    }

    #[test]
    fn no_banned_crate_and_no_jwt_crate_is_linked() {
        assert_eq!(bans(&House::load().expect("cargo and git answer")), Vec::<String>::new());
    }

    #[test]
    fn everything_foreign_comes_from_crates_io() {
        let house = House::load().expect("cargo and git answer");
        assert_eq!(sources(&house), Vec::<String>::new());
        assert!(house.foreign(Follow::All).len() > 20, "the graph was read");
    }

    #[test]
    fn a_wrong_licence_a_banned_crate_and_a_foreign_source_are_found() {
        let house = House::of_packages(
            &[
                (
                    "drawbridge-a",
                    "MIT",
                    None,
                    &["good", "gpl", "special", "openssl", "webpki", "from-git", "my-jwt"],
                ),
                ("good", "GPL-3.0 OR MIT", REGISTRY, &[]),
                ("gpl", "GPL-3.0", REGISTRY, &[]),
                ("special", "Zlib", REGISTRY, &[]),
                ("openssl", "MIT", REGISTRY, &[]),
                ("webpki", "MIT", REGISTRY, &["ring"]),
                ("ring", "MIT", REGISTRY, &[]),
                ("my-jwt", "MIT", REGISTRY, &[]),
                ("from-git", "MIT", Some("git+https://example.org/x"), &[]),
            ],
            &[("deny.toml", DENY)],
        );
        let found = licences(&house);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("gpl 1.0.0") && found[0].contains("`GPL-3.0`"), "{found:?}");
        let found = bans(&house);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(
            found[0].contains("my-jwt") && found[1].contains("openssl 1.0.0 is banned: one TLS"),
            "{found:?}"
        );
        let found = sources(&house);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("from-git"), "{found:?}");
    }
}
