//! The commands that run other commands.

use std::process::Command;

use crate::house::House;

/// Arguments of cargo, and variables set for it.
type Step = (&'static [&'static str], &'static [(&'static str, &'static str)]);

/// What `check` runs before the rules. Each line can be typed as it stands.
const CHECK: &[Step] = &[
    (&["fmt", "--all", "--", "--check"], &[]),
    (&["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"], &[]),
    (&["doc", "--quiet", "--workspace", "--no-deps"], &[("RUSTDOCFLAGS", "-D warnings")]),
    (&["check", "--quiet", "-p", "drawbridge-jose", "--no-default-features"], &[]),
    (&["check", "--quiet", "-p", "drawbridge-device", "--no-default-features"], &[]),
];

/// Runs every step, also after one failed, and tells all that did.
pub(crate) fn check() -> Result<(), String> {
    let failed: Vec<String> = CHECK.iter().filter_map(|(args, env)| cargo(args, env).err()).collect();
    if failed.is_empty() { Ok(()) } else { Err(failed.join("; ")) }
}

/// The long forms of tests are `#[ignore]`d and have `soak` in their name.
pub(crate) fn soak() -> Result<(), String> {
    cargo(&["test", "--workspace", "--release", "--no-fail-fast", "--", "--ignored", "soak"], &[])
}

/// One after the other: two benchmarks at once measure each other.
pub(crate) fn bench(house: &House) -> Result<(), String> {
    let mut benches = house.benches();
    benches.sort();
    if benches.is_empty() {
        return Err("no member has a [[bench]]".to_owned());
    }
    for (package, bench) in benches {
        cargo(&["bench", "--quiet", "-p", &package, "--bench", &bench], &[])?;
    }
    Ok(())
}

fn cargo(args: &[&str], env: &[(&str, &str)]) -> Result<(), String> {
    let shown: String = env.iter().map(|(key, value)| format!("{key}='{value}' ")).collect();
    let shown = format!("{shown}cargo {}", args.join(" "));
    println!("==> {shown}");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(args)
        .envs(env.iter().copied())
        .current_dir(House::root())
        .status()
        .map_err(|error| format!("`{shown}` did not start: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("`{shown}` failed")) }
}
