//! What the rules look at: the graph of packages as cargo tells it, and the texts of the repository.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The workspace: its packages and its texts.
pub(crate) struct House {
    packages: BTreeMap<String, Package>,
    /// Ids of the members of the workspace.
    members: Vec<String>,
    /// Path from the root, and content, of every text file that git tracks.
    texts: Vec<(String, String)>,
}

/// One package of the graph.
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) license: Option<String>,
    /// `None` for the workspace's own.
    pub(crate) source: Option<String>,
    /// Folder from the root; empty for packages from elsewhere.
    pub(crate) folder: String,
    benches: Vec<String>,
    edges: Vec<Edge>,
}

struct Edge {
    to: String,
    normal: bool,
    build: bool,
}

/// Which edges of the graph are followed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Follow {
    /// What is linked into the product.
    Normal,
    /// That and what runs while it is built.
    NormalAndBuild,
    /// Tests too.
    All,
}

impl House {
    /// The folder of the workspace.
    pub(crate) fn root() -> PathBuf {
        let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
        xtask.parent().expect("xtask lies in the workspace").to_owned()
    }

    /// Asks cargo and git, and reads what they name.
    pub(crate) fn load() -> Result<Self, String> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let json = output(Command::new(cargo).args(["metadata", "--format-version", "1"]))?;
        let metadata = serde_json::from_str(&json).map_err(|error| format!("cargo metadata: {error}"))?;
        let mut house = Self::from_metadata(&metadata)?;
        house.texts = tracked_texts()?;
        Ok(house)
    }

    fn from_metadata(metadata: &Value) -> Result<Self, String> {
        let root = text(&metadata["workspace_root"])?;
        let mut packages = BTreeMap::new();
        let mut declared = BTreeMap::new();
        for package in array(&metadata["packages"])? {
            let id = text(&package["id"])?;
            let folder = Path::new(text(&package["manifest_path"])?).parent();
            let folder = folder.and_then(|folder| folder.strip_prefix(root).ok());
            let benches = array(&package["targets"])?.iter().filter(|t| t["kind"][0] == "bench");
            packages.insert(
                id.to_owned(),
                Package {
                    name: text(&package["name"])?.to_owned(),
                    version: text(&package["version"])?.to_owned(),
                    license: package["license"].as_str().map(str::to_owned),
                    source: package["source"].as_str().map(str::to_owned),
                    folder: folder.map(|folder| folder.display().to_string()).unwrap_or_default(),
                    benches: benches.filter_map(|t| t["name"].as_str().map(str::to_owned)).collect(),
                    edges: Vec::new(),
                },
            );
            declared.insert(id.to_owned(), package);
        }
        for node in array(&metadata["resolve"]["nodes"])? {
            let id = text(&node["id"])?;
            let mut edges = Vec::new();
            for dependency in array(&node["deps"])? {
                let to = text(&dependency["pkg"])?.to_owned();
                let name = &packages.get(&to).ok_or_else(|| format!("unknown package {to}"))?.name;
                if !is_switched_on(declared[id], node, name) {
                    continue;
                }
                let kinds = array(&dependency["dep_kinds"])?;
                let has = |wanted: Value| kinds.iter().any(|kind| kind["kind"] == wanted);
                edges.push(Edge { to, normal: has(Value::Null), build: has("build".into()) });
            }
            packages.get_mut(id).ok_or_else(|| format!("unknown package {id}"))?.edges = edges;
        }
        let members = array(&metadata["workspace_members"])?;
        let members = members.iter().map(|id| text(id).map(str::to_owned)).collect::<Result<_, _>>()?;
        Ok(Self { packages, members, texts: Vec::new() })
    }

    pub(crate) fn members(&self) -> impl Iterator<Item = &Package> {
        self.members.iter().map(|id| &self.packages[id])
    }

    /// The member in the folder `crates/NAME`.
    pub(crate) fn krate(&self, folder: &str) -> Option<&Package> {
        let folder = format!("crates/{folder}");
        self.members().find(|package| package.folder == folder)
    }

    /// All packages that `start` reaches, each with the way to it, without `start` itself.
    pub(crate) fn reaches<'h>(&'h self, start: &'h Package, follow: Follow) -> Vec<(&'h Package, String)> {
        let mut seen = BTreeSet::new();
        let mut reached = Vec::new();
        let mut open = vec![(start, start.name.clone())];
        while let Some((package, way)) = open.pop() {
            for edge in &package.edges {
                // A dependency that is only for tests is followed from the start, not further on.
                let taken = match follow {
                    Follow::Normal => edge.normal,
                    Follow::NormalAndBuild => edge.normal || edge.build,
                    Follow::All => edge.normal || edge.build || std::ptr::eq(package, start),
                };
                if taken && seen.insert(&edge.to) {
                    let next = &self.packages[&edge.to];
                    let way = format!("{way} -> {}", next.name);
                    reached.push((next, way.clone()));
                    open.push((next, way));
                }
            }
        }
        reached
    }

    /// All packages from elsewhere that the product is made of, with one way to each.
    pub(crate) fn foreign(&self, follow: Follow) -> Vec<(&Package, String)> {
        let mut by_name = BTreeMap::new();
        for member in self.members() {
            for (package, way) in self.reaches(member, follow) {
                if !self.members().any(|member| std::ptr::eq(member, package)) {
                    by_name.entry((package.name.clone(), package.version.clone())).or_insert((package, way));
                }
            }
        }
        by_name.into_values().collect()
    }

    /// (package, bench) of every benchmark.
    pub(crate) fn benches(&self) -> Vec<(String, String)> {
        self.members()
            .flat_map(|package| package.benches.iter().map(|bench| (package.name.clone(), bench.clone())))
            .collect()
    }

    /// Path from the root, and content, of every text file that git tracks.
    pub(crate) fn texts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.texts.iter().map(|(path, content)| (path.as_str(), content.as_str()))
    }

    /// The content of one of them.
    pub(crate) fn text(&self, path: &str) -> Option<&str> {
        self.texts().find(|(found, _)| *found == path).map(|(_, content)| content)
    }

    /// A house of texts alone, to try the rules on.
    #[cfg(test)]
    pub(crate) fn of_texts(texts: &[(&str, &str)]) -> Self {
        let texts = texts.iter().map(|(path, content)| ((*path).to_owned(), (*content).to_owned())).collect();
        Self { packages: BTreeMap::new(), members: Vec::new(), texts }
    }

    /// A house of packages, to try the rules on: (name, licence, source, what it needs). The ones
    /// without a source are members, in `crates/NAME` without the `drawbridge-` of their name.
    #[cfg(test)]
    pub(crate) fn of_packages(
        packages: &[(&str, &str, Option<&str>, &[&str])],
        texts: &[(&str, &str)],
    ) -> Self {
        let mut house = Self::of_texts(texts);
        for (name, license, source, needs) in packages {
            if source.is_none() {
                house.members.push((*name).to_owned());
            }
            house.packages.insert(
                (*name).to_owned(),
                Package {
                    name: (*name).to_owned(),
                    version: "1.0.0".to_owned(),
                    license: Some((*license).to_owned()),
                    source: source.map(str::to_owned),
                    folder: format!("crates/{}", name.strip_prefix("drawbridge-").unwrap_or(name)),
                    benches: Vec::new(),
                    edges: needs
                        .iter()
                        .map(|to| Edge { to: (*to).to_owned(), normal: true, build: false })
                        .collect(),
                },
            );
        }
        house
    }
}

/// Whether a dependency is really built. `cargo metadata` also lists an optional one that only a weak
/// feature (`name?/feature`) speaks of; nobody builds that.
fn is_switched_on(package: &Value, node: &Value, name: &str) -> bool {
    let none = Vec::new();
    let declared = package["dependencies"].as_array().unwrap_or(&none);
    let mut declared = declared.iter().filter(|dependency| dependency["name"] == name).peekable();
    if declared.peek().is_none() {
        return true;
    }
    let enabled = node["features"].as_array().unwrap_or(&none);
    declared.any(|dependency| {
        let key = dependency["rename"].as_str().unwrap_or(name);
        let (whole, inside) = (format!("dep:{key}"), format!("{key}/"));
        dependency["optional"] != true
            || enabled.iter().filter_map(Value::as_str).any(|feature| {
                let listed = package["features"][feature].as_array().unwrap_or(&none);
                listed.iter().filter_map(Value::as_str).any(|item| item == whole || item.starts_with(&inside))
            })
    })
}

/// The text files that git tracks; in an unpacked archive without git, all but the built ones.
fn tracked_texts() -> Result<Vec<(String, String)>, String> {
    let root = House::root();
    let mut paths = Vec::new();
    if root.join(".git").exists() {
        let listed = output(Command::new("git").args(["ls-files", "-z"]))?;
        paths.extend(listed.split('\0').filter(|path| !path.is_empty()).map(str::to_owned));
    } else {
        walk(&root, "", &mut paths)?;
    }
    paths.sort();
    // What is no UTF-8 is no text; what was deleted and not yet committed is not there.
    let read = |path: String| std::fs::read_to_string(root.join(&path)).ok().map(|content| (path, content));
    Ok(paths.into_iter().filter_map(read).collect())
}

fn walk(root: &Path, folder: &str, paths: &mut Vec<String>) -> Result<(), String> {
    let full = root.join(folder);
    let entries = std::fs::read_dir(&full).map_err(|error| format!("{}: {error}", full.display()))?;
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
        if entry.path().is_dir() {
            if !["target", "node_modules", ".venv", "__pycache__"].contains(&name.as_str()) {
                walk(root, &path, paths)?;
            }
        } else {
            paths.push(path);
        }
    }
    Ok(())
}

fn output(command: &mut Command) -> Result<String, String> {
    let done = command.current_dir(House::root()).output();
    let done = done.map_err(|error| format!("{} did not start: {error}", command.get_program().display()))?;
    if !done.status.success() {
        return Err(String::from_utf8_lossy(&done.stderr).into_owned());
    }
    String::from_utf8(done.stdout).map_err(|error| error.to_string())
}

fn text(value: &Value) -> Result<&str, String> {
    value.as_str().ok_or_else(|| format!("cargo metadata: a string was expected, found {value}"))
}

fn array(value: &Value) -> Result<&Vec<Value>, String> {
    value.as_array().ok_or_else(|| "cargo metadata: a list was expected".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_optional_dependency_that_only_a_weak_feature_names_is_not_built() {
        let package = json!({
            "dependencies": [{"name": "ring", "optional": true}, {"name": "log", "optional": false}],
            "features": {"std": ["ring?/std"], "ring": ["dep:ring"], "own": ["ring/std"]},
        });
        let with = |features: &[&str]| json!({ "features": features });
        assert!(!is_switched_on(&package, &with(&["std"]), "ring"));
        assert!(is_switched_on(&package, &with(&["std", "ring"]), "ring"));
        assert!(is_switched_on(&package, &with(&["own"]), "ring"));
        assert!(is_switched_on(&package, &with(&[]), "log"));
    }

    #[test]
    fn the_real_house_has_its_founding_crates_and_their_texts() {
        let house = House::load().expect("cargo and git answer");
        for folder in ["names", "jose", "identity", "policy", "mqtt", "broker", "bridge", "drawbridge"] {
            assert!(house.krate(folder).is_some(), "{folder}");
        }
        assert!(house.text("Cargo.toml").is_some_and(|text| text.contains("[workspace]")));
    }
}
