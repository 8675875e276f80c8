//! Where the log goes: stderr, as text or JSON.

use tracing_subscriber::EnvFilter;

use crate::settings::LogSettings;

/// Starts logging; `RUST_LOG` wins over the settings.
pub(crate) fn start(settings: &LogSettings) {
    let filter = EnvFilter::try_from_default_env()
        .or_else(|_| EnvFilter::try_new(&settings.filter))
        .unwrap_or_else(|_| EnvFilter::new("info"));
    // Below that it writes every parameter of every statement, verifiers and sealed secrets among them (I10).
    let quiet = "tokio_postgres=info".parse().expect("a directive");
    let filter = filter.add_directive(quiet);
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(ansi)
        .with_target(false);
    let started = if settings.json { builder.json().try_init() } else { builder.compact().try_init() };
    drop(started); // a second start in one process keeps the first
}
