//! Drawbridge, the self-hosted IoT core: read the settings, wire the crates, serve.
fn main() {}
